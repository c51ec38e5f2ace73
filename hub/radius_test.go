package hub_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/pki"
)

// remember has the hub remember how devices authenticate.
func (h *house) remember() *inventory.Inventory {
	seen := inventory.New(h.store, inventory.Options{Now: func() time.Time { return h.now }, Logger: slog.New(slog.DiscardHandler)})
	h.hub = hub.New(hub.Options{Authority: h.authority, Registry: h.registry, Verdicts: h.verdicts, Messages: h.messages, Commands: h.commands,
		Inventory: seen, Now: func() time.Time { return h.now }})
	return seen
}

// fates works out a radius and writes it as text.
func (h *house) fates(seen hub.Sightings, then authority.Hypothesis) (map[string]string, signet.Radius) {
	h.t.Helper()
	before, err := h.authority.Suppose(h.t.Context(), "first", authority.Hypothesis{})
	if err != nil {
		h.t.Fatal(err)
	}
	after, err := h.authority.Suppose(h.t.Context(), "first", then)
	if err != nil {
		h.t.Fatal(err)
	}
	fates := map[string]string{}
	r, err := h.hub.Radius(h.t.Context(), "first", seen, before, after, func(f *signet.DeviceFate, _ int64) error {
		if f != nil {
			fates[signet.IdentityName(f.DeviceID, f.ModuleID)] = fmt.Sprintf("%s %s%s", f.Fate, f.Code, f.Anchor)
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return fates, r
}

// TestRadius: what a change would do to each device is what it then does.
func TestRadius(t *testing.T) {
	h := newHouse(t)
	seen := h.remember()
	root, other := hubtest.NewCA(t, "Root"), hubtest.NewCA(t, "Other")
	line := root.Intermediate(t, "Line")
	crossed := hubtest.Cross(t, other, line)
	h.trust("first", root)
	h.trust("first", other)
	chains := map[string]hub.Credentials{}
	for _, id := range []string{"plain", "crossed", "off", "again"} {
		h.device(signet.Identity{DeviceID: id, Auth: byCA})
		chains[id] = hub.Credentials{DeviceID: id, Chain: presented(t, line.Device(t, id))}
	}
	h.device(signet.Identity{DeviceID: "plain", ModuleID: "arm", Auth: byCA})
	chains["plain/arm"] = hub.Credentials{DeviceID: "plain", ModuleID: "arm", Chain: presented(t, line.Device(t, "plain/arm"))}
	c := chains["crossed"]
	c.Chain = append(c.Chain, crossed)
	chains["crossed"] = c
	sessions := map[string]*hub.Session{}
	for name, c := range chains {
		s, err := h.connect(c)
		if err != nil {
			t.Fatal(name, err)
		}
		sessions[name] = s
	}
	seen.Write(t.Context())
	off, err := h.registry.Get(t.Context(), "first", "off", "")
	if err != nil {
		t.Fatal(err)
	}
	off.Status = signet.Disabled
	if _, err := h.registry.Replace(t.Context(), off, "*"); err != nil {
		t.Fatal(err)
	}

	fates, r := h.fates(seen, authority.Hypothesis{Without: []string{"Root"}})
	// The cross-signed path was not needed when it was seen, so it is not remembered.
	if got, want := fmt.Sprint(fates), "map[again:loses chain.issuer-missing crossed:loses chain.issuer-missing plain:loses chain.issuer-missing plain/arm:loses chain.issuer-missing]"; got != want {
		t.Errorf("%s", got)
	}
	if r.Devices != 5 || r.Loses != (signet.FateCount{Devices: 4, Connected: 4}) || r.Refused != 1 || r.Unseen != 0 {
		t.Errorf("%+v", r)
	}
	// What it says of whom is what comes of it.
	fates, _ = h.fates(seen, authority.Hypothesis{Distrust: []authority.DistrustRequest{{Chain: chains["again"].Chain[:1]}}})
	if got := fmt.Sprint(fates); got != "map[again:loses cert.revoked]" {
		t.Errorf("%s", got)
	}
	if _, err := h.authority.Distrust(t.Context(), "first", signet.Distrust{}, chains["again"].Chain[:1]); err != nil {
		t.Fatal(err)
	}
	for name, s := range sessions {
		if ended := s.Ended() != nil; ended != (name == "again" || name == "off") {
			t.Errorf("%s: %v", name, s.Ended())
		}
	}

	// By the other path, once it was needed.
	h.authority.Delete(t.Context(), "first", "Root", "*")
	if _, err := h.connect(chains["crossed"]); err != nil {
		t.Fatal(err)
	}
	seen.Write(t.Context())
	h.trust("first", root)
	fates, r = h.fates(seen, authority.Hypothesis{Without: []string{"Other"}})
	if got := fmt.Sprint(fates); got != "map[crossed:loses chain.issuer-missing]" {
		t.Errorf("%s %+v", got, r)
	}
}

// TestRadiusOfWhatIsNotKnown: a device of whose path too little is remembered is
// said to be that.
func TestRadiusOfWhatIsNotKnown(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Root")
	line := root.Intermediate(t, "Line")
	h.trust("first", root)
	leaf := presented(t, line.Device(t, "d"))[0]
	h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	h.device(signet.Identity{DeviceID: "never", Auth: byCA})
	full := signet.Sighting{Hub: "first", DeviceID: "d", DER: leaf.Raw, Branch: "line", Issued: signet.IssuedID(pki.PathCertificate(line.Cert).Key, "01"), Sent: 0b11}
	full.Serial = "01"
	for name, change := range map[string]func(*sightings){
		"what it sent":         func(s *sightings) { s.all[0].Sent = 0 },
		"its issuer":           func(s *sightings) { s.path = s.path[1:] },
		"a branch that went":   func(s *sightings) { s.path = nil },
		"a damaged one":        func(s *sightings) { s.all[0].DER = []byte("x") },
		"nothing: it is known": func(*sightings) {},
	} {
		t.Run(name, func(t *testing.T) {
			s := &sightings{all: []signet.Sighting{full}, path: []signet.Branch{
				{ID: "line", DER: line.Cert.Raw}, {ID: "root", DER: root.Cert.Raw}}}
			change(s)
			_, r := h.fates(s, authority.Hypothesis{Without: []string{"Root"}})
			want := int64(1)
			if name == "nothing: it is known" {
				want = 0
			}
			if r.Unknown != want || r.Loses.Devices != 1-want || r.Unseen != 7 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// sightings are what a test says.
type sightings struct {
	all  []signet.Sighting
	path []signet.Branch
	wait chan struct{}
}

func (s *sightings) Everyone(ctx context.Context, _ string, each func([]signet.Sighting) error) error {
	if s.wait != nil {
		<-s.wait
	}
	return each(s.all)
}

func (s *sightings) Path(context.Context, string, string) ([]signet.Branch, error) {
	if s.path == nil {
		return nil, signet.Refuse(signet.BranchUnknown, "Gone.")
	}
	return s.path, nil
}

func (s *sightings) Unseen(context.Context, string) (int64, error) { return 7, nil }

// TestRadiusTurns: one radius at a time is worked out, some wait, more are refused,
// and who leaves makes room.
func TestRadiusTurns(t *testing.T) {
	h := newHouse(t)
	trust, err := h.authority.Suppose(t.Context(), "first", authority.Hypothesis{})
	if err != nil {
		t.Fatal(err)
	}
	s := &sightings{wait: make(chan struct{})}
	ctx, leave := context.WithCancel(t.Context())
	outcomes := make(chan error, 20)
	for range 9 {
		go func() {
			_, err := h.hub.Radius(ctx, "first", s, trust, trust, func(*signet.DeviceFate, int64) error { return nil })
			outcomes <- err
		}()
	}
	if err := <-outcomes; signet.CodeOf(err) != signet.Unavailable {
		t.Fatal(err)
	}
	leave()
	for range 7 {
		if err := <-outcomes; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	close(s.wait)
	if err := <-outcomes; err != nil {
		t.Fatal(err)
	}
	stop := errors.New("enough")
	if _, err := h.hub.Radius(t.Context(), "first", s, trust, trust, func(*signet.DeviceFate, int64) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
}
