package server

import (
	"net"
	"testing"

	"github.com/signet-iot/signet/gateway"
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
	held[0].(gateway.Stranger).LetIn()
	held[0].Close() // gives one place back, not two
	dial()
	<-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("a place was given back twice")
	}
}
