package hub_test

import (
	"crypto/x509"
	"runtime"
	"testing"
	"weak"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// A session keeps nothing of the chain that it was judged by: of five thousand idle
// devices that was a sixth of all memory.
func TestSessionLetsGoOfTheChain(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Acme Root")
	h.trust("first", root)
	h.device(signet.Identity{DeviceID: "press-17", Auth: byCA})
	connect := func() (*hub.Session, weak.Pointer[x509.Certificate]) {
		chain := presented(t, root.Intermediate(t, "Line").Device(t, "press-17"))
		session, err := h.connect(hub.Credentials{DeviceID: "press-17", Chain: chain})
		if err != nil {
			t.Fatal(err)
		}
		return session, weak.Make(chain[0])
	}
	session, leaf := connect()
	for range 3 { // what a pool holds outlives one collection
		runtime.GC()
	}
	if leaf.Value() != nil {
		t.Error("the leaf is still there")
	}
	runtime.KeepAlive(session)
}
