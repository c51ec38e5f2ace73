package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	reference "github.com/coder/websocket"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/wire/mqtt"
	"github.com/signet-iot/signet/wire/websocket"
)

// webSocketPipe is pipe with WebSocket between the two.
func webSocketPipe(m *MQTT) net.Conn {
	device, server := net.Pipe()
	c := newConn(m, server)
	c.via, c.stream = signet.DoorMQTTWS, websocket.NewConn(server, writeTime)
	m.serve(c)
	return &webSocketClient{Conn: device, in: bufio.NewReader(device)}
}

// A webSocketClient frames as awkwardly as RFC 6455 allows: a packet comes in
// several frames, and a ping and an empty one among them.
type webSocketClient struct {
	net.Conn
	in   *bufio.Reader
	left uint64
}

func (c *webSocketClient) Write(p []byte) (int, error) {
	frames := clientFrame(nil, 0x02, p[:1])
	frames = clientFrame(frames, 0x89, []byte("ping"))
	frames = clientFrame(frames, 0x00, nil)
	frames = clientFrame(frames, 0x80, p[1:])
	if _, err := c.Conn.Write(frames); err != nil {
		return 0, err
	}
	return len(p), nil
}

func clientFrame(dst []byte, first byte, payload []byte) []byte {
	if first&0x08 != 0 { // control
		dst = append(dst, first, 0x80|byte(len(payload)))
	} else {
		dst = append(dst, first, 0x80|127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(len(payload)))
	}
	mask := []byte{7, 0, 200, 9}
	dst = append(dst, mask...)
	for i, b := range payload {
		dst = append(dst, b^mask[i%4])
	}
	return dst
}

// Read gives what binary messages hold. A close frame is passed over: the end is
// the end of the connection.
func (c *webSocketClient) Read(p []byte) (int, error) {
	for c.left == 0 {
		first, err := c.in.ReadByte()
		if err != nil {
			return 0, err
		}
		length, err := c.in.ReadByte()
		c.left = uint64(length)
		var long [8]byte
		switch {
		case err != nil:
		case length == 126:
			_, err = io.ReadFull(c.in, long[6:])
			c.left = binary.BigEndian.Uint64(long[:])
		case length == 127:
			_, err = io.ReadFull(c.in, long[:])
			c.left = binary.BigEndian.Uint64(long[:])
		}
		if err == nil && first != 0x82 {
			_, err = c.in.Discard(int(c.left))
			c.left = 0
		}
		if err != nil {
			return 0, err
		}
	}
	n, err := c.in.Read(p[:min(uint64(len(p)), c.left)])
	c.left -= uint64(n)
	return n, err
}

// A webDoor is the HTTPS door behind a real server with TLS.
type webDoor struct {
	*tlsDoor
	server *httptest.Server
	https  *HTTPS
}

func openWebDoor(t testing.TB, change ...func(*httptest.Server)) *webDoor {
	t.Helper()
	d := openDoor(t)
	d.MQTT.log = d.MQTT.log.With("test", t.Name())
	h := NewHTTPS(d.MQTT, d.metrics)
	s := httptest.NewUnstartedServer(h)
	s.Config.TLSConfig = &tls.Config{Certificates: d.MQTT.tls.Certificates, NextProtos: []string{"h2", "http/1.1"}}
	for _, f := range change {
		f(s)
	}
	s.Listener = h.Listen(s.Listener, s.Config)
	s.Start()
	s.URL = "https://" + s.Listener.Addr().String()
	t.Cleanup(s.Close)
	return &webDoor{d, s, h}
}

func (d *webDoor) http(certs ...tls.Certificate) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: d.client(certs...), ForceAttemptHTTP2: true}}
}

func (d *webDoor) dial(t testing.TB, client *http.Client, header http.Header, protocols ...string) (*reference.Conn, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return reference.Dial(ctx, d.server.URL+"/$iothub/websocket?iothub-no-client-cert=true",
		&reference.DialOptions{HTTPClient: client, HTTPHeader: header, Subprotocols: protocols})
}

// connect connects a device by WebSocket, and gives the code of its CONNACK.
func (d *webDoor) connect(id string, config *tls.Config) (*tls.Conn, byte, error) {
	c, err := tls.Dial("tcp", d.server.Listener.Addr().String(), config)
	if err != nil {
		return nil, 0, err
	}
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	io.WriteString(c, opening)
	stream := &webSocketClient{Conn: c, in: bufio.NewReader(c)}
	if _, err := http.ReadResponse(stream.in, nil); err != nil {
		return nil, 0, err
	}
	stream.Write(connectPacket(id))
	p, err := mqtt.NewClientReader(stream, maxPacket).Next()
	if err != nil {
		return nil, 0, err
	}
	return c, p.(*mqtt.Connack).Code, nil
}

// opening is a request that opens a WebSocket.
const opening = "GET /$iothub/websocket HTTP/1.1\r\nHost: hub.example.test\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"

func connectPacket(id string) []byte {
	return mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: id, KeepAlive: 60, HasUsername: true, Username: "hub.example.test/" + id + "/?api-version=2021-04-12"})
}

// TestWebSocket: a device by WebSocket is the same device: its certificate is
// judged, the door has its own name, and the protocol is echoed as it was spelled.
func TestWebSocket(t *testing.T) {
	d := openWebDoor(t)
	device := issue(t, "d1", nil)
	for _, protocol := range []string{"mqtt", "MQTT"} {
		c, response, err := d.dial(t, d.http(device), nil, "AMQPWSB10", protocol)
		if err != nil {
			t.Fatal(err)
		}
		if got := response.Header.Get("Sec-WebSocket-Protocol"); got != protocol {
			t.Errorf("%q is answered with %q", protocol, got)
		}
		stream := reference.NetConn(t.Context(), c, reference.MessageBinary)
		// One frame, two packets.
		stream.Write(mqtt.AppendPublish(connectPacket("d1"), &mqtt.Publish{QoS: 1, PacketID: 7, Topic: "devices/d1/messages/events/", Payload: []byte("hello")}))
		in := mqtt.NewClientReader(stream, maxPacket)
		if p, err := in.Next(); err != nil || p.(*mqtt.Connack).Code != 0 {
			t.Fatalf("%v %v", p, err)
		}
		if p, err := in.Next(); err != nil || p.(*mqtt.Puback).PacketID != 7 {
			t.Fatalf("%v %v", p, err)
		}
		seen, _ := d.waist.lastSeen()
		if seen.Door != signet.DoorMQTTWS || len(seen.Chain) != 1 || !seen.Chain[0].Equal(device.Leaf) || !seen.Remote.IsValid() {
			t.Errorf("the hub saw %+v", seen)
		}
		stream.Write(mqtt.AppendDisconnect(nil))
		if _, err := in.Next(); err != io.EOF {
			t.Errorf("after DISCONNECT: %v, where a close frame was due", err)
		}
	}
}

// TestWebSocketRefused: a refused device hears CONNACK 5, then a close frame.
func TestWebSocketRefused(t *testing.T) {
	d := openWebDoor(t)
	d.waist.refusal = signet.Refuse(signet.CertRevoked, "no")
	c, _, err := d.dial(t, d.http(), nil, "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	stream := reference.NetConn(t.Context(), c, reference.MessageBinary)
	stream.Write(connectPacket("d1"))
	in := mqtt.NewClientReader(stream, maxPacket)
	if p, err := in.Next(); err != nil || p.(*mqtt.Connack).Code != mqtt.ConnRefusedNotAuthorized {
		t.Errorf("%v %v", p, err)
	}
	if _, err := in.Next(); err != io.EOF {
		t.Errorf("then %v", err)
	}
}

// TestWebSocketCut: a session that ends has no socket a moment later, also when
// its device pings and reads nothing.
func TestWebSocketCut(t *testing.T) {
	d := openWebDoor(t)
	c, _, err := d.dial(t, d.http(), nil, "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	stream := reference.NetConn(t.Context(), c, reference.MessageBinary)
	stream.Write(connectPacket("d1"))
	in := mqtt.NewClientReader(stream, maxPacket)
	if _, err := in.Next(); err != nil {
		t.Fatal(err)
	}
	pinging, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		for pinging.Err() == nil {
			ctx, cancel := context.WithTimeout(pinging, time.Millisecond)
			c.Ping(ctx) // nobody reads, so no pong is ever seen
			cancel()
		}
	}()
	time.Sleep(20 * time.Millisecond)
	began := time.Now()
	d.waist.last().end(signet.Refuse(signet.IdentityDisabled, "disabled"))
	d.emptied(t)
	if took := time.Since(began); took > 9*time.Second { // of a busy machine; one that waits for the device takes ten
		t.Errorf("cut after %v", took)
	}
}

// emptied waits until the door has no connection.
func (d *webDoor) emptied(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		d.MQTT.mu.Lock()
		n := len(d.MQTT.conns)
		d.MQTT.mu.Unlock()
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections live on", n)
		}
	}
}

// TestWebSocketViolations: what is not MQTT in binary messages ends the
// connection with the status that says why, and is recorded.
func TestWebSocketViolations(t *testing.T) {
	d := openWebDoor(t)
	for name, c := range map[string]struct {
		say    func(context.Context, *reference.Conn) error
		status reference.StatusCode
		code   signet.Code
	}{
		"text": {func(ctx context.Context, c *reference.Conn) error {
			return c.Write(ctx, reference.MessageText, connectPacket("d1"))
		}, reference.StatusUnsupportedData, signet.RequestMalformed},
		"no CONNECT": {func(ctx context.Context, c *reference.Conn) error {
			return c.Write(ctx, reference.MessageBinary, mqtt.AppendPingreq(nil))
		}, reference.StatusNormalClosure, signet.RequestMalformed},
		"a CONNECT too large": {func(ctx context.Context, c *reference.Conn) error {
			return c.Write(ctx, reference.MessageBinary, []byte{0x10, 0xFF, 0xFF, 0x7F, 0, 4, 'M', 'Q', 'T', 'T'})
		}, reference.StatusNormalClosure, signet.LimitMessageSize},
	} {
		conn, _, err := d.dial(t, d.http(), nil, "mqtt")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.say(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.Read(t.Context()); reference.CloseStatus(err) != c.status {
			t.Errorf("%s: %v, want status %d", name, err, c.status)
		}
		d.emptied(t)
		if codes := d.waist.refusals(); len(codes) != 1 || codes[0] != c.code {
			t.Errorf("%s: recorded is %v", name, codes)
		}
	}
}

// TestWebSocketNotOpened: what does not open a WebSocket is answered as a request.
func TestWebSocketNotOpened(t *testing.T) {
	d := openWebDoor(t)
	device := issue(t, "d1", nil)
	with := func(old, new string) string {
		if !strings.Contains(opening, old) {
			t.Fatalf("%q is not in the request", old)
		}
		return strings.Replace(opening, old, new, 1)
	}
	for name, c := range map[string]struct {
		request string
		certs   []tls.Certificate
		status  int // 0: the connection is closed without an answer
	}{
		"as it should be":               {opening, nil, 101},
		"path words in capitals":        {with("/$iothub/websocket", "/%24IOTHUB/WebSocket"), nil, 101},
		"a page of the hub's own":       {with("Upgrade:", "Origin: https://hub.example.test:8443\r\nUpgrade:"), []tls.Certificate{device}, 101},
		"a foreign page with a token":   {with("Upgrade:", "Origin: https://evil.example\r\nUpgrade:"), nil, 101},
		"a foreign page with a cert":    {with("Upgrade:", "Origin: https://evil.example\r\nUpgrade:"), []tls.Certificate{device}, 400},
		"a page of nowhere with a cert": {with("Upgrade:", "Origin: null\r\nUpgrade:"), []tls.Certificate{device}, 400},
		"AMQP":                          {with(": mqtt", ": AMQPWSB10"), nil, 400},
		"no protocol":                   {with("Sec-WebSocket-Protocol: mqtt\r\n", ""), nil, 400},
		"a POST":                        {with("GET", "POST"), nil, 400},
		"HTTP/1.0":                      {with("HTTP/1.1", "HTTP/1.0"), nil, 400},
		"no upgrade":                    {with("Connection: keep-alive, Upgrade\r\n", ""), nil, 400},
		"an older version":              {with("13", "8"), nil, 400},
		"a key that is none":            {with("dGhlIHNhbXBsZSBub25jZQ==", "x"), nil, 400},
		"impatient":                     {opening + "\x82\x80....", nil, 0},
	} {
		nc, err := tls.Dial("tcp", d.server.Listener.Addr().String(), d.client(c.certs...))
		if err != nil {
			t.Fatal(err)
		}
		nc.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(nc, c.request)
		response, err := http.ReadResponse(bufio.NewReader(nc), nil)
		switch {
		case c.status == 0 && err == nil:
			t.Errorf("%s: answered %s", name, response.Status)
		case c.status == 0:
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case response.StatusCode != c.status:
			t.Errorf("%s: %s", name, response.Status)
		case c.status == 400 && response.Header.Get("Iothub-Errorcode") != "ArgumentInvalid":
			t.Errorf("%s: %v", name, response.Header)
		}
		nc.Close()
	}

	// A client that agreed on HTTP/2 cannot upgrade; one that offers both for a
	// WebSocket agrees on HTTP/1.1 (TestWebSocket).
	response, err := d.http().Get(d.server.URL + "/$iothub/websocket")
	if err != nil || response.ProtoMajor != 2 || response.StatusCode != 400 {
		t.Errorf("%v %v", response, err)
	}
}

// TestWebSocketOutlivesTheRequest: the server's time for a request is not the
// connection's; its silence is.
func TestWebSocketOutlivesTheRequest(t *testing.T) {
	d := openWebDoor(t, func(s *httptest.Server) {
		s.Config.ReadTimeout, s.Config.WriteTimeout, s.Config.IdleTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	})
	c, _, err := d.dial(t, d.http(), nil, "mqtt")
	for tries := 0; err != nil; tries++ { // a handshake may take longer than that, too
		if tries == 50 {
			t.Fatal(err)
		}
		c, _, err = d.dial(t, d.http(), nil, "mqtt")
	}
	stream := reference.NetConn(t.Context(), c, reference.MessageBinary)
	stream.Write(connectPacket("d1"))
	in := mqtt.NewClientReader(stream, maxPacket)
	if _, err := in.Next(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	stream.Write(mqtt.AppendPingreq(nil))
	if p, err := in.Next(); err != nil {
		t.Errorf("%v %v", p, err)
	}
}

// TestWebSocketPlace: a WebSocket keeps its place among the HTTPS connections
// until its device is let in, and for good when it is not.
func TestWebSocketPlace(t *testing.T) {
	d := openWebDoor(t)
	d.waist.refusal = signet.Refuse(signet.CertRevoked, "no")
	for i, want := range []byte{mqtt.ConnRefusedNotAuthorized, mqtt.ConnAccepted, mqtt.ConnAccepted} {
		places := 0
		d.waist.judge = func(hub.Credentials) error { places = d.https.lobby.count(); return nil }
		c, code, err := d.connect(fmt.Sprint("d", i), d.client())
		if err != nil || code != want {
			t.Fatalf("%d %v", code, err)
		}
		for deadline := time.Now().Add(time.Minute); d.https.lobby.count() != 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("a place is kept")
			}
		}
		if want == mqtt.ConnAccepted && places != 1 {
			t.Errorf("%d places while it is judged", places)
		}
		c.Close()
	}
	d.emptied(t)
}

// TestSpeaksOn: what TLS is spoken on knows the device, by both ways: see TestWriteInTime.
func TestSpeaksOn(t *testing.T) {
	d := openWebDoor(t)
	for name, connect := range map[string]func(string, *tls.Config) (*tls.Conn, byte, error){"TLS": d.tlsDoor.connect, "WebSocket": d.connect} {
		client, _, err := connect("d", d.client())
		if err != nil {
			t.Fatal(err)
		}
		d.mu.Lock()
		for held := range d.conns {
			c := held.(*conn)
			below := c.stream
			if ws, ok := below.(*websocket.Conn); ok {
				below = ws.Conn
			}
			if p, ok := below.(*tls.Conn).NetConn().(*pacedConn); !ok || p.peer != &c.peer {
				t.Errorf("by %s it does not", name)
			}
		}
		d.mu.Unlock()
		client.Close()
		d.emptied(t)
	}
}
