package websocket

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	reference "github.com/coder/websocket"
)

// frame makes a frame as a client does.
func frame(first byte, payload string) []byte {
	mask := [4]byte{0xA1, 0xB2, 0xC3, 0xD4}
	b := []byte{first, masked}
	switch n := len(payload); {
	case n <= 125:
		b[1] |= byte(n)
	case n <= 0xFFFF:
		b[1] |= 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] |= 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return b
}

// A script is a connection that says what is written down, and keeps what it is
// told.
type script struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) Close() error                     { return nil }

// TestRead: what a client may send, and what the stream makes of it.
func TestRead(t *testing.T) {
	long, longest := strings.Repeat("x", 126), strings.Repeat("y", 1<<16)
	for name, c := range map[string]struct {
		frames [][]byte
		want   string
		status uint16 // of the violation; 0 when it is the end of the stream
	}{
		"one message":                   {[][]byte{frame(0x82, "hello")}, "hello", 0},
		"two messages":                  {[][]byte{frame(0x82, "hel"), frame(0x82, "lo")}, "hello", 0},
		"a message in pieces":           {[][]byte{frame(0x02, "h"), frame(0x00, ""), frame(0x80, "ello")}, "hello", 0},
		"a ping within a message":       {[][]byte{frame(0x02, "hel"), frame(0x89, "?"), frame(0x80, "lo")}, "hello", 0},
		"empty messages":                {[][]byte{frame(0x82, ""), frame(0x82, "hello"), frame(0x82, "")}, "hello", 0},
		"a pong that nobody asked for":  {[][]byte{frame(0x8A, "!"), frame(0x82, "hello")}, "hello", 0},
		"every length":                  {[][]byte{frame(0x82, long), frame(0x82, longest)}, long + longest, 0},
		"nothing after a close":         {[][]byte{frame(0x88, "\x03\xe8bye"), frame(0x82, "hello")}, "", 0},
		"a text":                        {[][]byte{frame(0x82, "a"), frame(0x81, "hello")}, "a", StatusUnsupported},
		"a text within a message":       {[][]byte{frame(0x02, "a"), frame(0x81, "b")}, "a", StatusUnsupported},
		"a frame without a mask":        {[][]byte{{0x82, 0x01, 'x'}}, "", StatusProtocolError},
		"a reserved bit":                {[][]byte{frame(0xC2, "x")}, "", StatusProtocolError},
		"an opcode for data unknown":    {[][]byte{frame(0x83, "x")}, "", StatusProtocolError},
		"an opcode for control unknown": {[][]byte{frame(0x8B, "x")}, "", StatusProtocolError},
		"a ping in pieces":              {[][]byte{frame(0x09, "x")}, "", StatusProtocolError},
		"a ping too long":               {[][]byte{frame(0x89, long)}, "", StatusProtocolError},
		"a message within a message":    {[][]byte{frame(0x02, "a"), frame(0x82, "b")}, "a", StatusProtocolError},
		"the rest of no message":        {[][]byte{frame(0x80, "x")}, "", StatusProtocolError},
		"half a status":                 {[][]byte{frame(0x88, "x")}, "", StatusProtocolError},
		"more than a length can be":     {[][]byte{{0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}}, "", StatusProtocolError},
	} {
		for pace, in := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader,
			"with the end": iotest.DataErrReader,
		} {
			s := &script{in: in(bytes.NewReader(slices.Concat(c.frames...)))}
			conn := NewConn(s, time.Second)
			got, err := io.ReadAll(conn)
			if string(got) != c.want {
				t.Errorf("%s, %s: %d bytes %.20q", name, pace, len(got), got)
			}
			violation, _ := errors.AsType[*Violation](err)
			if (violation != nil) != (c.status != 0) || violation != nil && violation.Status != c.status {
				t.Errorf("%s, %s: ended with %v, want %d", name, pace, err, c.status)
			}
			for conn.pong.Load() != nil { // it is about to be written
				runtime.Gosched()
			}
			conn.turn <- struct{}{}
			conn.yield()
			s.out.Reset()
			conn.Close()
			want := uint16(StatusNormal)
			if c.status != 0 {
				want = c.status
			}
			if out := s.out.Bytes(); len(out) < 4 || binary.BigEndian.Uint16(out[len(out)-2:]) != want {
				t.Errorf("%s, %s: said %x when closed, want status %d", name, pace, out, want)
			}
		}
	}
}

// TestEnds: a connection that breaks off is no close.
func TestEnds(t *testing.T) {
	whole := slices.Concat(frame(0x02, "hello"), frame(0x89, "ping"), frame(0x80, strings.Repeat("z", 200)))
	broken := errors.New("broken")
	for n := range whole {
		conn := NewConn(&script{in: io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken))}, time.Second)
		if _, err := io.ReadAll(conn); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// TestDeadline: a read that ran into its deadline goes on where it stood, wherever
// that was: a door looks up now and then, and reads on.
func TestDeadline(t *testing.T) {
	whole := slices.Concat(frame(0x02, "hel"), frame(0x89, "ping"), frame(0x80, "lo"), frame(0x88, "\x03\xe8bye"))
	for n := range whole {
		conn := NewConn(&script{in: io.MultiReader(bytes.NewReader(whole[:n]), &late{}, bytes.NewReader(whole[n:]))}, time.Second)
		got, err := io.ReadAll(conn)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		rest, err := io.ReadAll(conn)
		if string(got)+string(rest) != "hello" || err != nil {
			t.Errorf("after %d bytes: %q, then %q, %v", n, got, rest, err)
		}
	}
}

// late is a deadline that passes once.
type late struct{ over bool }

func (l *late) Read([]byte) (int, error) {
	if l.over {
		return 0, io.EOF
	}
	l.over = true
	return 0, os.ErrDeadlineExceeded
}

// TestSlowPinger: a client that pings without end and reads nothing holds up
// neither the reader nor Close, and costs two goroutines at most.
func TestSlowPinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		conn := NewConn(server, time.Minute)
		go func() {
			for range 1000 {
				client.Write(frame(0x89, "ping"))
			}
			client.Write(frame(0x82, "hello"))
		}()
		began := time.Now()
		got := make([]byte, 5)
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
			t.Errorf("%q %v", got, err)
		}
		conn.Close()
		if took := time.Since(began); took > closeTime {
			t.Errorf("closed after %v", took)
		}
		client.Close()
	})
}

// TestReference: two implementations understand each other, in both directions.
func TestReference(t *testing.T) {
	served := make(chan error, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		accept, ok := AcceptKey(r.Header.Get("Sec-WebSocket-Key"))
		if !ok {
			t.Error("its key is none")
		}
		nc, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+accept+"\r\n\r\n")
		conn := NewConn(nc, time.Minute)
		_, err = io.Copy(struct{ io.Writer }{conn}, conn) // an echo
		conn.Close()
		served <- err
	}))
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, _, err := reference.Dial(ctx, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	stream := reference.NetConn(ctx, c, reference.MessageBinary)
	for _, size := range []int{1, 125, 126, 127, 1 << 16, 1<<16 + 1} {
		sent := bytes.Repeat([]byte("signet."), size/7+1)[:size]
		go stream.Write(sent)
		got := make([]byte, size)
		if _, err := io.ReadFull(stream, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes: %v", size, err)
		}
	}
	go io.Copy(io.Discard, stream) // who waits for a pong has to read
	if err := c.Ping(ctx); err != nil {
		t.Errorf("ping: %v", err)
	}
	c.Close(reference.StatusNormalClosure, "")
	if err := <-served; err != nil {
		t.Errorf("the server's stream ended with %v", err)
	}
}

func TestAcceptKey(t *testing.T) {
	if accept, ok := AcceptKey("dGhlIHNhbXBsZSBub25jZQ=="); !ok || accept != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" { // RFC 6455 §1.3
		t.Error(accept, ok)
	}
	for _, key := range []string{"", "x", "dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25jZQ==\r\n x"} {
		if _, ok := AcceptKey(key); ok {
			t.Errorf("%q is taken", key)
		}
	}
}

// FuzzRead: bytes of a stranger mean the same however they arrive, and never more
// than they are.
func FuzzRead(f *testing.F) {
	f.Add(slices.Concat(frame(0x02, "hello"), frame(0x89, "?"), frame(0x80, "")))
	f.Add(frame(0x81, "text"))
	f.Add([]byte{0x82, 0xFF, 0, 0, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, sent []byte) {
		whole, err1 := io.ReadAll(NewConn(&script{in: bytes.NewReader(sent)}, time.Second))
		bytewise, err2 := io.ReadAll(NewConn(&script{in: iotest.OneByteReader(bytes.NewReader(sent))}, time.Second))
		if !bytes.Equal(whole, bytewise) || (err1 == nil) != (err2 == nil) {
			t.Fatalf("%q %v, byte by byte %q %v", whole, err1, bytewise, err2)
		}
		if len(whole) > len(sent) {
			t.Fatalf("%d bytes of %d", len(whole), len(sent))
		}
	})
}
