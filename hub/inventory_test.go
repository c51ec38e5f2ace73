package hub_test

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// witness writes down what an inventory is told.
type witness struct{ told []string }

func (w *witness) Saw(p *signet.Principal, path []*x509.Certificate, tls string, remote netip.Addr) {
	w.told = append(w.told, fmt.Sprintf("saw %s by %d certificates, %s, from %v", signet.IdentityName(p.DeviceID, p.ModuleID), len(path), tls, remote))
}

func (w *witness) Moved(p *signet.Principal, from, to netip.Addr) {
	w.told = append(w.told, fmt.Sprintf("moved %s from %v to %v", p.DeviceID, from, to))
}

func (w *witness) Left(p *signet.Principal) {
	if len(p.Path) > 0 {
		w.told = append(w.told, "left "+p.DeviceID)
	}
}

func (w *witness) Refused(v *signet.Verdict) {
	w.told = append(w.told, fmt.Sprintf("refused %s with %d certificates: %s", v.DeviceID, len(v.Chain), v.Code))
}

// TestInventory: what the inventory is told, and what not.
func TestInventory(t *testing.T) {
	h := newHouse(t)
	w := &witness{}
	h.hub = hub.New(hub.Options{Authority: h.authority, Registry: h.registry, Verdicts: h.verdicts, Messages: h.messages, Commands: h.commands,
		Activity: h.registry, Inventory: w, Now: func() time.Time { return h.now }})
	root := hubtest.NewCA(t, "Acme Root")
	line := root.Intermediate(t, "Line 4")
	h.trust("first", root)
	h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	h.device(signet.Identity{DeviceID: "s", Auth: signet.Authentication{Type: signet.AuthSAS, PrimaryKey: "c2VjcmV0IHNlY3JldCBzZWNyZXQ=", SecondaryKey: "c2VjcmV0IHNlY3JldCBzZWNyZXQ="}})
	one, other := presented(t, line.Device(t, "d")), presented(t, line.Device(t, "d"))
	from := func(address string, chain []*x509.Certificate) hub.Credentials {
		return hub.Credentials{DeviceID: "d", Chain: chain, TLS: "TLS 1.3", Remote: netip.MustParseAddrPort(address)}
	}
	h.connect(from("192.0.2.1:1", one))
	h.connect(from("192.0.2.1:2", one)) // again, from the same address
	h.connect(from("192.0.2.7:1", one)) // from another
	s, err := h.connect(from("192.0.2.8:1", other))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	token, err := signet.SignSAS("first.test/devices/s", "", "c2VjcmV0IHNlY3JldCBzZWNyZXQ=", h.now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := h.connect(hub.Credentials{DeviceID: "s", Token: token}); err != nil {
		t.Fatal(err)
	} else {
		s.Close()
	}
	h.connect(hub.Credentials{DeviceID: "x", Chain: one})
	single := from("192.0.2.9:1", one)
	single.Host = "first.test"
	if _, err := h.hub.Authenticate(t.Context(), single); err != nil {
		t.Fatal(err)
	}
	want := `saw d by 3 certificates, TLS 1.3, from 192.0.2.1
left d
saw d by 3 certificates, TLS 1.3, from 192.0.2.1
moved d from 192.0.2.1 to 192.0.2.7
left d
saw d by 3 certificates, TLS 1.3, from 192.0.2.7
left d
saw d by 3 certificates, TLS 1.3, from 192.0.2.8
left d
refused x with 2 certificates: identity.unknown
saw d by 3 certificates, TLS 1.3, from 192.0.2.9`
	if got := strings.Join(w.told, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
