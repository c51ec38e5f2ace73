package server

import (
	"net"
	"testing"

	"github.com/signet-iot/signet"
)

// TestDistance: how far away a hub is, is known by where it is: another service may
// have linked its name to somewhere else.
func TestDistance(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	p := newPlacement(nil, "")
	at := func(port string) error {
		_, err := p.Distance(t.Context(), signet.LinkedHub{HostName: "127.0.0.1",
			ConnectionString: "HostName=127.0.0.1:" + port + ";SharedAccessKeyName=p;SharedAccessKey=cA=="})
		return err
	}
	if err := at("1"); err == nil {
		t.Fatal("something listens on port 1")
	}
	if err := at(port); err != nil {
		t.Error(err)
	}
}
