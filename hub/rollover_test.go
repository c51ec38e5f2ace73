package hub_test

import (
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// TestRolloverTellsByKey: two roots of one name, cross-signed: who is under which,
// and what is left, goes by certificate and key.
func TestRolloverTellsByKey(t *testing.T) {
	h := newHouse(t)
	seen := h.remember()
	before, after := hubtest.NewCA(t, "Acme Root"), hubtest.NewCA(t, "Acme Root")
	crossed := hubtest.Cross(t, before, after) // the new root, by the old one
	register := func(name string, ca *hubtest.CA, verified bool) {
		t.Helper()
		if _, _, err := h.authority.Register(t.Context(), "first", name, hubtest.PEM(ca.Cert.Raw), verified, ""); err != nil {
			t.Fatal(err)
		}
	}
	register("old", before, true)
	register("new", after, false)
	connect := func(id string, by *hubtest.CA) {
		t.Helper()
		c := hub.Credentials{DeviceID: id, Chain: presented(t, by.Device(t, id))}
		if by == after {
			c.Chain = append(c.Chain, crossed)
		}
		if _, err := h.connect(c); err != nil {
			t.Fatal(id, err)
		}
		seen.Write(t.Context())
	}
	rollover := func(from, to string) signet.Rollover {
		t.Helper()
		now, err := h.authority.Suppose(t.Context(), "first", authority.Hypothesis{})
		if err != nil {
			t.Fatal(err)
		}
		then, err := h.authority.Suppose(t.Context(), "first", authority.Hypothesis{Without: []string{from}})
		if err != nil {
			t.Fatal(err)
		}
		old, err := h.authority.Get(t.Context(), "first", from)
		if err != nil {
			t.Fatal(err)
		}
		next, err := h.authority.Get(t.Context(), "first", to)
		if err != nil {
			t.Fatal(err)
		}
		r, err := h.hub.Rollover(t.Context(), "first", old, next, seen, now, then, func(*signet.DeviceFate, int64) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if r.Old.Key == r.New.Key || r.Old.Thumbprint == r.New.Thumbprint || r.SameKey {
			t.Fatalf("%+v", r)
		}
		return r
	}
	state := func(r signet.Rollover) [4]int64 {
		return [4]int64{r.Old.Devices, r.New.Devices, r.Left.Devices, r.Unseen}
	}

	for _, id := range []string{"press", "lathe", "shelf"} {
		h.device(signet.Identity{DeviceID: id, Auth: byCA})
	}
	connect("press", before)
	connect("lathe", after) // by the cross-signed certificate, up to the old root
	r := rollover("old", "new")
	if state(r) != [4]int64{2, 0, 2, 1} || r.Safe || len(r.Because) != 3 || !strings.Contains(r.Because[0], "not verified") {
		t.Errorf("%+v", r)
	}
	// Verified, the new one lets in who has a certificate under its key, whatever
	// stands beside it.
	register("new", after, true)
	if r = rollover("old", "new"); r.Left.Devices != 1 || r.New.Devices != 1 || r.Safe {
		t.Errorf("%+v", r)
	}
	connect("press", after)
	connect("shelf", after)
	if r = rollover("old", "new"); state(r) != [4]int64{0, 3, 0, 0} || !r.Safe || r.Because != nil {
		t.Errorf("%+v", r)
	}
	// The other way it is not: their certificates are of the new key. Of the lathe it
	// is known that it sends the cross-signed one, which was needed.
	if r = rollover("new", "old"); r.Safe || r.Left.Devices != 2 {
		t.Errorf("%+v", r)
	}
	h.now = after.Cert.NotAfter.Add(time.Hour)
	if r = rollover("old", "new"); r.Safe {
		t.Errorf("the new one has expired: %+v", r)
	}
}
