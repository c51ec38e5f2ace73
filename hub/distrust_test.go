package hub_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"sync"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// TestConnectRacesDistrust: whatever the order in which a connect and the
// distrust of a certificate on its path run, no session is left when both have
// returned, and a bystander's stays.
func TestConnectRacesDistrust(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Root")
	h.trust("first", root)
	h.device(signet.Identity{DeviceID: "bystander", Auth: byCA})
	bystander, err := h.connect(hub.Credentials{DeviceID: "bystander", Chain: presented(t, root.Device(t, "bystander"))})
	if err != nil {
		t.Fatal(err)
	}
	kinds := []signet.DistrustKind{signet.DistrustCertificate, signet.DistrustKey, signet.DistrustSerial}
	for n := range 150 {
		line := root.Intermediate(t, "Line")
		i := h.device(signet.Identity{DeviceID: fmt.Sprint("d", n), Auth: byCA})
		chain := presented(t, line.Device(t, i.DeviceID))
		var s *hub.Session
		var wg sync.WaitGroup
		wg.Go(func() { s, _ = h.connect(hub.Credentials{DeviceID: i.DeviceID, Chain: chain}) })
		wg.Go(func() {
			of := []*x509.Certificate{chain[n%2], line.Cert, root.Cert} // the leaf or the line
			if n%2 == 1 {
				of = of[:1]
			}
			if _, err := h.authority.Distrust(context.Background(), "first", signet.Distrust{Kind: kinds[n/2%3]}, of); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if s != nil && s.Ended() == nil {
			t.Fatalf("round %d: a session survived", n)
		}
	}
	if bystander.Ended() != nil {
		t.Errorf("the bystander ended: %v", bystander.Ended())
	}
}

// TestDistrustedWithoutPath: a device that is known by thumbprint is cut, and
// kept out, as one with a path is.
func TestDistrustedWithoutPath(t *testing.T) {
	h := newHouse(t)
	pair := hubtest.NewCA(t, "Anybody").Device(t, "d")
	chain := presented(t, pair)
	h.device(signet.Identity{DeviceID: "d", Auth: signet.Authentication{Type: signet.AuthSelfSigned, PrimaryThumbprint: fmt.Sprintf("%x", sha256Of(chain[0].Raw))}})
	s, err := h.connect(hub.Credentials{DeviceID: "d", Chain: chain})
	if err != nil {
		t.Fatal(err)
	}
	ctx, receipts := signet.WithReceipts(t.Context())
	if _, err := h.authority.Distrust(ctx, "first", signet.Distrust{Reason: "lost"}, chain); err != nil {
		t.Fatal(err)
	}
	if total, _ := receipts.Total(); signet.CodeOf(s.Ended()) != signet.CertRevoked || total.Sessions != 1 || total.Closed != 1 {
		t.Errorf("%v %+v", s.Ended(), total)
	}
	if _, err := h.connect(hub.Credentials{DeviceID: "d", Chain: chain}); signet.CodeOf(err) != signet.CertRevoked {
		t.Error(err)
	}
}
