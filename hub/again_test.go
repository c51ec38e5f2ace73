package hub_test

import (
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// countingAuthority counts the chains that are judged.
type countingAuthority struct {
	*authority.Authority
	judged int
}

func (c *countingAuthority) Judge(hub string, chain []*x509.Certificate, at time.Time) ([]*x509.Certificate, error) {
	c.judged++
	return c.Authority.Judge(hub, chain, at)
}

// A revoked device that hammers is judged once in five seconds, and told the same
// each time; it fills neither the memory nor the store. Others at its address,
// another key under its name and its own name at another hub are judged as ever.
func TestHammering(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Acme Root")
	line := root.Intermediate(t, "Line")
	h.trust("first", root)
	h.trust("second", root)
	for _, id := range []string{"press-17", "press-18"} {
		h.device(signet.Identity{DeviceID: id, Auth: byCA})
		h.device(signet.Identity{DeviceID: id, Hub: "second", Auth: byCA})
	}
	pair := line.Device(t, "press-17")
	credentials := hub.Credentials{DeviceID: "press-17", Chain: presented(t, pair)}
	if _, err := h.connect(credentials); err != nil {
		t.Fatal(err)
	}
	distrusted, err := h.authority.Distrust(t.Context(), "first", signet.Distrust{Kind: signet.DistrustKey}, credentials.Chain)
	if err != nil {
		t.Fatal(err)
	}

	counting := &countingAuthority{Authority: h.authority}
	h.hub = hub.New(hub.Options{Authority: counting, Registry: h.registry, Verdicts: h.verdicts, Messages: h.messages,
		Commands: h.commands, Now: func() time.Time { return h.now }})
	for range 600 { // ten times a second, for a minute
		h.now = h.now.Add(100 * time.Millisecond)
		if _, err := h.connect(credentials); signet.CodeOf(err) != signet.CertRevoked {
			t.Fatalf("told %v", err)
		}
	}
	if counting.judged < 12 || counting.judged > 3+4+12 {
		t.Errorf("judged %d times in a minute", counting.judged)
	}
	if list, err := h.verdicts.List(t.Context(), authority.VerdictQuery{Hub: "first"}); err != nil || len(list) > 2 {
		t.Errorf("%d verdicts are stored, %v", len(list), err)
	}

	for name, c := range map[string]hub.Credentials{
		"a device at the same address": {DeviceID: "press-18", Chain: presented(t, line.Device(t, "press-18"))},
		"its name with another key":    {DeviceID: "press-17", Chain: presented(t, line.Device(t, "press-17"))},
		"at another hub":               {DeviceID: "press-17", Host: "second.test", Chain: credentials.Chain},
	} {
		if _, err := h.connect(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Once it is trusted again, it waits for what it was told last, and no longer.
	if err := h.authority.LiftDistrust(t.Context(), "first", distrusted.ID); err != nil {
		t.Fatal(err)
	}
	h.now = h.now.Add(5 * time.Second)
	if _, err := h.connect(credentials); err != nil {
		t.Errorf("after it was mended: %v", err)
	}
}

// An anchor that goes between two connects that need not validate the path above
// the leaf takes with it what was known.
func TestKnownPathGoesWithItsAnchor(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Acme Root")
	line := root.Intermediate(t, "Factory").Intermediate(t, "Line")
	anchor := h.trust("first", root)
	for n, want := range []signet.Code{"", "", signet.ChainIssuerMissing, ""} {
		id := fmt.Sprint("press-", n)
		h.device(signet.Identity{DeviceID: id, Auth: byCA})
		switch n {
		case 2:
			if err := h.authority.Delete(t.Context(), "first", anchor.Name, "*"); err != nil {
				t.Fatal(err)
			}
		case 3:
			h.trust("first", root)
		}
		if _, err := h.connect(hub.Credentials{DeviceID: id, Chain: presented(t, line.Device(t, id))}); signet.CodeOf(err) != want {
			t.Errorf("connect %d: %v, want %q", n, err, want)
		}
	}
}

// BenchmarkConnect is what the hub and its keepers do for a connect, on a fake
// store: the identity, the path of a leaf below two known intermediates, the
// session and its end.
func BenchmarkConnect(b *testing.B) {
	h := newHouse(b)
	root := hubtest.NewCA(b, "Acme Root")
	h.trust("first", root)
	h.device(signet.Identity{DeviceID: "press-17", Auth: byCA})
	c := hub.Credentials{Door: signet.DoorMQTT, Host: "first.test", DeviceID: "press-17",
		Chain: presented(b, root.Intermediate(b, "Factory").Intermediate(b, "Line").Device(b, "press-17"))}
	b.ReportAllocs()
	for b.Loop() {
		s, err := h.hub.Connect(b.Context(), c, func() {})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
