package server

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestSharedListener: one address gets no more than its share, and gives it back.
func TestSharedListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := shareListener(inner, 8)
	defer l.Close()
	accepted := make(chan net.Conn, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var held []net.Conn
	for range 4 { // half of the eight: then as many are free as it has
		dial()
		held = append(held, <-accepted)
	}
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("the fifth was let in")
	}
	held[0].Close()
	held[0].Close() // gives one place back, not two
	dial()
	<-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("a place was given back twice")
	}
}

// TestHijackedLeaves: a WebSocket gives its place among the HTTPS connections back
// when it becomes one, and only once.
func TestHijackedLeaves(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := shareListener(inner, 2) // one for each address
	hijacked := make(chan net.Conn, 8)
	s := &http.Server{ConnState: leaveHijacked, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		nc, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
		}
		hijacked <- nc
	})}
	go s.Serve(l)
	defer s.Close()
	for range 3 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		select {
		case nc := <-hijacked:
			defer nc.Close()
		case <-time.After(10 * time.Second):
			t.Fatal("there is no place for another")
		}
	}
	if l.open != 0 || len(l.sources) != 0 {
		t.Errorf("%d places are held", l.open)
	}
}
