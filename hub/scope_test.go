package hub_test

import (
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// TestScopeCutsSessions: a new scope ends the sessions outside of it, with a
// receipt, and no door lets them in again.
func TestScopeCutsSessions(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Acme Root")
	line := root.Intermediate(t, "Line 4")
	h.trust("first", root)
	sessions := map[string]*hub.Session{}
	for _, id := range []string{"press-1", "press-2", "lathe-1"} {
		h.device(signet.Identity{DeviceID: id, Auth: byCA})
		s, err := h.connect(hub.Credentials{DeviceID: id, Chain: presented(t, line.Device(t, id))})
		if err != nil {
			t.Fatal(err)
		}
		sessions[id] = s
	}
	set := func(s signet.Scope) signet.Receipt {
		t.Helper()
		ctx, receipts := signet.WithReceipts(t.Context())
		if _, err := h.authority.SetScope(ctx, "first", authority.ScopeOf{Certificate: line.Cert}, s); err != nil {
			t.Fatal(err)
		}
		total, _ := receipts.Total()
		return total
	}

	if r := set(signet.Scope{Devices: []string{"press-*"}}); r.Sessions != 1 || r.Closed != 1 {
		t.Fatalf("%+v", r)
	}
	wantCode(t, sessions["lathe-1"].Ended(), signet.CertOutOfScope)
	for _, connect := range []func(hub.Credentials) error{
		func(c hub.Credentials) error { _, err := h.connect(c); return err },
		func(c hub.Credentials) error {
			c.Host = "first.test"
			_, err := h.hub.Authenticate(t.Context(), c)
			return err
		},
		func(c hub.Credentials) error {
			c.Host = "first.test"
			_, err := h.hub.Explain(t.Context(), c, h.now, nil)
			return err
		},
	} {
		wantCode(t, connect(hub.Credentials{DeviceID: "lathe-1", Chain: presented(t, line.Device(t, "lathe-1"))}), signet.CertOutOfScope)
	}

	// Two are connected and one may be: one stays, and who left comes back.
	if r := set(signet.Scope{MaxDevices: 1}); r.Sessions != 1 {
		t.Fatalf("%+v", r)
	}
	stays := "press-1"
	if sessions[stays].Ended() != nil {
		stays = "press-2"
	}
	if sessions[stays].Ended() != nil {
		t.Fatal("both are cut")
	}
	for _, id := range []string{"press-1", "press-2"} {
		_, err := h.connect(hub.Credentials{DeviceID: id, Chain: presented(t, line.Device(t, id))})
		if (err == nil) != (id == stays) {
			t.Fatalf("%s: %v, %s has the place", id, err, stays)
		}
	}
}

// TestScopeCountsWhoIsLetIn: who is refused for another reason takes no place, and
// explaining takes none.
func TestScopeCountsWhoIsLetIn(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Acme Root")
	c := h.trust("first", root)
	if _, err := h.authority.SetScope(t.Context(), "first", authority.ScopeOf{CA: c.Name}, signet.Scope{MaxDevices: 1}); err != nil {
		t.Fatal(err)
	}
	h.device(signet.Identity{DeviceID: "off", Auth: byCA, Status: signet.Disabled})
	for _, id := range []string{"other", "press-1"} {
		h.device(signet.Identity{DeviceID: id, Auth: byCA})
	}
	own := func(id string) hub.Credentials {
		return hub.Credentials{Host: "first.test", DeviceID: id, Chain: presented(t, root.Device(t, id))}
	}
	_, err := h.connect(own("off"))
	wantCode(t, err, signet.IdentityDisabled)
	_, err = h.connect(own("stranger"))
	wantCode(t, err, signet.IdentityUnknown)
	_, err = h.connect(hub.Credentials{DeviceID: "other", Chain: presented(t, root.Device(t, "press-1"))})
	wantCode(t, err, signet.IdentityCNMismatch)
	if _, err := h.hub.Explain(t.Context(), own("other"), time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := h.connect(own("press-1")); err != nil {
		t.Fatal(err)
	}
	_, err = h.hub.Explain(t.Context(), own("other"), time.Now(), nil)
	wantCode(t, err, signet.CertOutOfScope)
	_, err = h.connect(own("other"))
	wantCode(t, err, signet.CertOutOfScope)
}

func wantCode(t *testing.T, err error, want signet.Code) {
	t.Helper()
	if got := signet.CodeOf(err); got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}
