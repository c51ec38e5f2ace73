package inventory_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/pki"
)

// yard is an Inventory on a fake store, with a fake clock, of the hub "hub".
type yard struct {
	*inventory.Inventory
	t        *testing.T
	store    *memstore.Store
	now      time.Time
	events   []inventory.Event
	found    []signet.Clone
	disabled []string
	live     []*signet.Principal
	rush     atomic.Bool
}

func newYard(t *testing.T) *yard {
	y := &yard{t: t, store: memstore.New(), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	if err := y.store.CreateHub(t.Context(), signet.Hub{Name: "hub"}); err != nil {
		t.Fatal(err)
	}
	y.Inventory = inventory.New(y.store, inventory.Options{
		Now: func() time.Time { return y.now }, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Live:  func() []*signet.Principal { return y.live },
		Rush:  y.rush.Load,
		Told:  func(_ context.Context, e inventory.Event) { y.events = append(y.events, e) },
		Found: func(_ context.Context, c signet.Clone) { y.found = append(y.found, c) },
		Disable: func(_ context.Context, _, name, reason string) (bool, error) {
			if len(reason) > 128 {
				t.Errorf("a reason of %d characters: %s", len(reason), reason)
			}
			for _, d := range y.disabled {
				if strings.HasPrefix(d, name+": ") {
					return false, nil
				}
			}
			y.disabled = append(y.disabled, name+": "+reason)
			return true, nil
		},
	})
	return y
}

func (y *yard) identity(names ...string) {
	y.t.Helper()
	for _, name := range names {
		device, module, _ := strings.Cut(name, "/")
		if err := y.store.CreateIdentity(y.t.Context(), signet.Identity{Hub: "hub", DeviceID: device, ModuleID: module, GenerationID: "1"}); err != nil {
			y.t.Fatal(err)
		}
	}
}

// certificate is one that nobody signed: the inventory believes what it is told.
func certificate(subject string, key, serial int) (*x509.Certificate, *signet.PathCertificate) {
	c := &x509.Certificate{Raw: []byte(fmt.Sprint(subject, key, serial)), SignatureAlgorithm: x509.ECDSAWithSHA256,
		NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}
	p := &signet.PathCertificate{Thumbprint: sha256.Sum256(c.Raw), Subject: "CN=" + subject, Serial: fmt.Sprintf("%08x", serial), NotAfter: c.NotAfter}
	binary.BigEndian.PutUint64(p.Key[:], uint64(key))
	return c, p
}

// a leaf is what a device shows: under CAs, its issuer first, each named by a number.
type leaf struct {
	name        string
	key, serial int
	cas         []int
	from        string
}

func (y *yard) saw(l leaf) *signet.Principal {
	device, module, _ := strings.Cut(l.name, "/")
	p := &signet.Principal{Hub: "hub", DeviceID: device, ModuleID: module, GenerationID: "1", Auth: signet.AuthCA}
	var path []*x509.Certificate
	add := func(c *x509.Certificate, of *signet.PathCertificate) {
		path, p.Path = append(path, c), append(p.Path, of)
	}
	add(certificate(l.name, l.key, l.serial))
	for _, ca := range l.cas {
		add(certificate(fmt.Sprint("CA ", ca), 1_000_000+ca, ca))
	}
	if l.from == "" {
		l.from = "192.0.2.1"
	}
	y.Saw(p, path, "TLS 1.3", netip.MustParseAddr(l.from))
	return p
}

func (y *yard) write() { y.Write(y.t.Context()) }

func (y *yard) tree() []signet.Branch {
	y.t.Helper()
	tree, err := y.Tree(y.t.Context(), "hub", y.now.Add(30*24*time.Hour), nil)
	if err != nil {
		y.t.Fatal(err)
	}
	return tree
}

func (y *yard) sighting(device string) signet.Sighting {
	y.t.Helper()
	s, err := y.Device(y.t.Context(), "hub", device, "")
	if err != nil {
		y.t.Fatal(err)
	}
	return s
}

// TestPath: a real chain, and what is kept of it.
func TestPath(t *testing.T) {
	y := newYard(t)
	y.identity("press-17")
	root := hubtest.NewCA(t, "Acme Root")
	line := root.Intermediate(t, "Line 4")
	leaf, err := x509.ParseCertificate(line.Device(t, "press-17").Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	path := []*x509.Certificate{leaf, line.Cert, root.Cert}
	y.Saw(&signet.Principal{Hub: "hub", DeviceID: "press-17", GenerationID: "1", Path: pki.Path(path)}, path, "TLS 1.2", netip.MustParseAddr("::ffff:192.0.2.7"))
	if _, err := y.Device(t.Context(), "hub", "press-17", ""); signet.CodeOf(err) != signet.SightingUnknown {
		t.Errorf("before it is written: %v", err)
	}
	y.write()
	s := y.sighting("press-17")
	if s.Subject != "CN=press-17" || s.KeyType != "ECDSA P-256" || s.Signature != "ECDSA-SHA256" || s.TLS != "TLS 1.2" || s.Remote != "192.0.2.7" || !s.FirstSeen.Equal(y.now) {
		t.Errorf("%+v", s)
	}
	above, err := y.Path(t.Context(), "hub", s.Branch)
	if err != nil || len(above) != 2 || string(above[0].DER) != string(line.Cert.Raw) || above[1].Subject != "CN=Acme Root" || above[1].Parent != "" {
		t.Errorf("%v %+v", err, above)
	}
}

// TestComesAndGoes: a device that comes and goes is written once in ten minutes,
// unless something about it is new; when it leaves, that is when it was last seen.
func TestComesAndGoes(t *testing.T) {
	y := newYard(t)
	y.identity("d")
	writes := 0
	y.store.Before = func(operation string) error {
		if operation == "Save" {
			writes++
		}
		return nil
	}
	same := leaf{name: "d", key: 1, serial: 1, cas: []int{2, 1}}
	p := y.saw(same)
	y.write()
	begun := y.now
	for _, step := range []struct {
		after  time.Duration
		shows  leaf
		writes int
	}{
		{time.Minute, same, 0},
		{8 * time.Minute, same, 0},
		{time.Minute, same, 1},
		{time.Second, leaf{name: "d", key: 1, serial: 2, cas: []int{2, 1}}, 1}, // another certificate
		{time.Second, leaf{name: "d", key: 1, serial: 2, cas: []int{3, 1}}, 1}, // by another path
		{time.Second, leaf{name: "d", key: 1, serial: 2, cas: []int{3, 9}}, 1}, // to another anchor
		{time.Second, leaf{name: "d", key: 1, serial: 2, cas: []int{3, 5, 6, 9}}, 1},
		{time.Second, leaf{name: "d", key: 1, serial: 2, cas: []int{3, 7, 6, 9}}, 1}, // by another CA in between
		{time.Second, leaf{name: "d", key: 1, serial: 2, cas: []int{3, 7, 6, 9}}, 0},
	} {
		before := writes
		y.now = y.now.Add(step.after)
		y.saw(step.shows)
		y.write()
		if writes-before != step.writes {
			t.Errorf("%+v after %v: %d writes", step.shows, step.after, writes-before)
		}
	}
	y.now = y.now.Add(time.Hour)
	y.live = []*signet.Principal{p, {Hub: "hub", DeviceID: "by-token"}}
	y.Stay(t.Context())
	if s := y.sighting("d"); !s.LastSeen.Equal(y.now) {
		t.Errorf("while it is connected: %+v", s)
	}
	y.now = y.now.Add(time.Hour)
	y.Left(p)
	y.write()
	if s := y.sighting("d"); !s.LastSeen.Equal(y.now) || !s.FirstSeen.Equal(begun) || s.Since.Sub(begun) != 10*time.Minute+time.Second {
		t.Errorf("%+v", s)
	}
}

// TestCounts: each branch counts what is below it.
func TestCounts(t *testing.T) {
	y := newYard(t)
	for n := range 7 {
		name := fmt.Sprint("d", n)
		y.identity(name)
		y.saw(leaf{name: name, key: n, serial: n, cas: [][]int{{3, 1}, {4, 1}, {4, 1}, {2}, {4, 1}, {}, {3, 1}}[n]})
	}
	y.write()
	var cas [3]*signet.PathCertificate
	for n, ca := range []int{4, 1, 77} {
		_, cas[n] = certificate(fmt.Sprint("CA ", ca), 1_000_000+ca, ca)
	}
	y.Refused(&signet.Verdict{Hub: "hub", Chain: []string{"leaf", fmt.Sprintf("%x", cas[0].Thumbprint)}})
	y.Refused(&signet.Verdict{Hub: "hub", Chain: []string{"leaf", "unknown", fmt.Sprintf("%x", cas[1].Thumbprint)}})
	y.Refused(&signet.Verdict{Hub: "hub", Chain: []string{"leaf", "unknown"}})
	y.write()
	tree, err := y.Tree(t.Context(), "hub", y.now.Add(365*24*time.Hour), []signet.PathCount{
		{CAs: cas[:2], Sessions: 2},
		{CAs: []*signet.PathCertificate{cas[2], cas[1]}, Sessions: 3}, // of a CA that is not kept: counted to the one above
		{CAs: []*signet.PathCertificate{cas[2]}, Sessions: 5},         // and of one of which nothing is
		{Sessions: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, b := range tree {
		lines = append(lines, fmt.Sprintf("%s devices %d total %d connected %d expiring %d refused %d", b.Subject, b.Devices, b.Total, b.Connected, b.Expiring, b.Refused))
	}
	want := `CN=CA 1 devices 0 total 5 connected 5 expiring 5 refused 2
CN=CA 4 devices 3 total 3 connected 2 expiring 3 refused 1
CN=CA 3 devices 2 total 2 connected 0 expiring 2 refused 0
CN=CA 2 devices 1 total 1 connected 0 expiring 1 refused 0
 devices 1 total 1 connected 1 expiring 1 refused 0`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if tree[4].ID != inventory.Thumbprinted {
		t.Errorf("%+v", tree[4])
	}
}

// TestFreshLeaves: who has a valid intermediate makes a hundred thousand leaves
// for the one device that is his: a row is kept, and it is told of.
func TestFreshLeaves(t *testing.T) {
	y := newYard(t)
	y.identity("his", "honest")
	y.saw(leaf{name: "honest", key: 1, serial: 1, cas: []int{2, 1}})
	for n := range 100_000 {
		y.saw(leaf{name: "his", key: n, serial: n, cas: []int{2, 1}})
		if n%1000 == 0 {
			y.now = y.now.Add(time.Second)
			y.write()
		}
	}
	list, next, err := y.Devices(t.Context(), "hub", group(t, y, inventory.Everything), "", 100)
	if err != nil || next != "" || len(list) != 2 {
		t.Errorf("%v: %d rows", err, len(list))
	}
	y.write()
	if len(y.events) != 10 || y.events[0].Kind != "churning" || y.events[0].DeviceID != "his" || y.events[0].Count != 10 {
		t.Errorf("%d events, the first %+v", len(y.events), y.events[0])
	}
	if len(y.found) > 0 {
		t.Errorf("clones: %+v", y.found)
	}
	// Renewed in time, it is not told of, whatever their number.
	y.events = nil
	for n := range 30 {
		y.now = y.now.Add(200 * 24 * time.Hour)
		y.saw(leaf{name: "honest", key: 1, serial: 100 + n, cas: []int{2, 1}})
		y.write()
	}
	if len(y.events) > 0 {
		t.Errorf("%+v", y.events[0])
	}
}

// TestFreshIntermediates: who has a valid intermediate without a path length makes
// new ones below it, on and on, wide and deep. The tree keeps MaxBelow of them, tells
// it once an hour at most, has room for others, and for him again when nobody is under his any more.
func TestFreshIntermediates(t *testing.T) {
	y := newYard(t)
	y.identity("his", "honest")
	const his = 2
	for n := range 2*inventory.MaxBelow + 500 { // once he makes room for himself: nobody is under what he leaves
		cas := []int{1000 + n, his, 1}
		if n%3 == 0 {
			cas = []int{1000 + n, 1000 + n - n%7, his, 1}
		}
		y.saw(leaf{name: "his", key: 1, serial: 1, cas: cas})
		y.write()
	}
	if n := len(y.tree()); n != inventory.MaxBelow+2 {
		t.Errorf("%d branches", n)
	}
	if len(y.events) != 2 || y.events[0].Kind != "overgrown" || y.events[0].Subject != "CN=CA 2" || y.events[0].Count != inventory.MaxBelow {
		t.Errorf("%d events: %+v", len(y.events), y.events)
	}
	// The device is counted to the nearest CA that is kept.
	if path, err := y.Path(t.Context(), "hub", y.sighting("his").Branch); err != nil || path[len(path)-1].Subject != "CN=CA 1" || path[0].Subject == "CN=CA 1" {
		t.Errorf("%v %+v", err, path)
	}
	// Others are not kept out.
	y.saw(leaf{name: "honest", key: 2, serial: 2, cas: []int{500, 3, 1}})
	y.write()
	if path, err := y.Path(t.Context(), "hub", y.sighting("honest").Branch); err != nil || len(path) != 3 {
		t.Errorf("%v %+v", err, path)
	}
	// An hour later those make room under which nobody was seen last.
	y.now = y.now.Add(2 * time.Hour)
	y.write()
	if n := len(y.tree()); n > 8 {
		t.Errorf("%d branches", n)
	}
	y.saw(leaf{name: "his", key: 1, serial: 1, cas: []int{9999, his, 1}})
	y.write()
	if path, err := y.Path(t.Context(), "hub", y.sighting("his").Branch); err != nil || path[0].Subject != "CN=CA 9999" {
		t.Errorf("%v %+v", err, path)
	}
	if len(y.events) != 2 {
		t.Errorf("%+v", y.events)
	}
}

// TestGoneWhilePruned: a hub that is deleted while its full tree is made room in
// takes nothing else with it.
func TestGoneWhilePruned(t *testing.T) {
	y := newYard(t)
	y.identity("d")
	pruned := false
	y.store.Before = func(operation string) error {
		if operation == "Prune" {
			pruned = true
			y.Forget("hub")
		}
		return nil
	}
	for n := 0; n < 2*inventory.MaxBelow && !pruned; n++ {
		y.saw(leaf{name: "d", key: 1, serial: 1, cas: []int{1000 + n, 2, 1}})
		y.write()
	}
	if !pruned {
		t.Error("the tree was never full")
	}
}

// TestPrunedElsewhere: what another server has removed comes anew, with what is seen
// below it.
func TestPrunedElsewhere(t *testing.T) {
	y := newYard(t)
	y.identity("d", "below", "there")
	y.saw(leaf{name: "d", key: 1, serial: 1, cas: []int{3, 2, 1}})
	y.write()
	y.saw(leaf{name: "d", key: 2, serial: 2, cas: []int{1}})
	y.write()
	if n, err := y.store.Prune(t.Context(), "hub"); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	y.saw(leaf{name: "below", key: 3, serial: 3, cas: []int{4, 3, 2, 1}})
	y.saw(leaf{name: "there", key: 4, serial: 4, cas: []int{3, 2, 1}})
	y.write() // it is found out
	y.write()
	for name, want := range map[string]int{"d": 1, "below": 4, "there": 3} {
		if path, err := y.Path(t.Context(), "hub", y.sighting(name).Branch); err != nil || len(path) != want {
			t.Errorf("%s: %v, %d CAs", name, err, len(path))
		}
	}
	if tree := y.tree(); len(tree) != 4 || tree[0].Total != 3 {
		t.Errorf("%+v", tree)
	}
}

// TestStorm: what cannot be written is written later; what comes beyond the bound
// is counted.
func TestStorm(t *testing.T) {
	y := newYard(t)
	y.identity("d1", "d2")
	y.saw(leaf{name: "d1", key: 1, serial: 1, cas: []int{2, 1}})
	for _, fails := range []string{"Branches", "Alike", "Save"} {
		y.store.Before = func(operation string) error {
			if operation == fails {
				return memstore.ErrFault
			}
			return nil
		}
		y.write()
		if _, err := y.Device(t.Context(), "hub", "d1", ""); err == nil {
			t.Fatal("it is written")
		}
	}
	y.store.Before = nil
	y.saw(leaf{name: "d2", key: 2, serial: 2, cas: []int{2, 1}})
	y.store.After = func(operation string) error { // kept, and it is not known
		if operation == "Save" {
			y.store.After = nil
			return memstore.ErrFault
		}
		return nil
	}
	y.write()
	y.write()
	y.sighting("d1")
	y.sighting("d2")
	if n := len(y.tree()); n != 2 {
		t.Errorf("%d branches", n)
	}
	for n := range 20_000 {
		y.saw(leaf{name: fmt.Sprint("x", n), key: n, serial: n, cas: []int{2, 1}})
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(y.Inventory)
	families, err := metrics.Gather()
	if err != nil || families[0].Metric[0].Counter.GetValue() != 20_000-16_384 {
		t.Errorf("%v %v", err, families)
	}
}

// TestRush: sightings wait while many come, for ten seconds, and are written before there
// is no room for more.
func TestRush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		y.identity("d1", "d2")
		y.rush.Store(true)
		go y.Run(t.Context())
		y.saw(leaf{name: "d1", key: 1, serial: 1, cas: []int{2, 1}})
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if _, err := y.Device(t.Context(), "hub", "d1", ""); err == nil {
			t.Error("it is written in the rush")
		}
		y.rush.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		y.sighting("d1")

		y.rush.Store(true)
		y.saw(leaf{name: "d2", key: 2, serial: 2, cas: []int{2, 1}})
		for n := range 16_384/2 - 1 {
			y.saw(leaf{name: fmt.Sprint("x", n), key: n, serial: n, cas: []int{2, 1}})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		y.sighting("d2")

		y.identity("d3")
		y.saw(leaf{name: "d3", key: 3, serial: 3, cas: []int{2, 1}})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		y.sighting("d3")
	})
}

// TestRushHidesNothing: what may be a clone, and what there would be no more room for, is
// written in a rush as it is without.
func TestRushHidesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		y.identity("d1", "d2")
		own, other := leaf{name: "d1", key: 1, serial: 1, cas: []int{2, 1}}, leaf{name: "d1", key: 9, serial: 9, cas: []int{2, 1}}
		y.rush.Store(true)
		go y.Run(t.Context())
		y.saw(own)
		wait := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		wait(10 * time.Second)

		// Whoever has another certificate of a device, and makes the rush himself, must
		// not be gone before it is seen.
		y.saw(other)
		wait(time.Second)
		if s := y.sighting("d1"); s.Serial != "00000009" {
			t.Errorf("what the device shows now is not seen: %+v", s)
		}
		y.saw(leaf{name: "d2", key: 2, serial: 2, cas: []int{2, 1}})
		wait(time.Second)
		if _, err := y.Device(t.Context(), "hub", "d2", ""); err == nil {
			t.Error("what is not pressing is written in the rush")
		}
		y.saw(leaf{name: "d2", key: 3, serial: 3, cas: []int{2, 1}}) // before the first is written
		wait(time.Second)
		y.sighting("d2")

		y.store.Before = func(operation string) error {
			if operation == "Save" {
				y.store.Before = nil
				return memstore.ErrFault
			}
			return nil
		}
		y.saw(own)
		wait(time.Second)
		wait(time.Second)
		if s := y.sighting("d1"); s.Serial != "00000001" {
			t.Errorf("what could not be written waits for the end of the rush: %+v", s)
		}

		p := y.saw(own)
		home, lab := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("203.0.113.3")
		for range 4 {
			y.Moved(p, home, lab)
			y.Moved(p, lab, home)
		}
		wait(time.Second)
		if len(y.found) != 1 {
			t.Errorf("found: %+v", y.found)
		}

		y.now = y.now.Add(time.Hour)
		y.Left(p)
		for n := range 16_384/2 - 1 {
			left := *p
			left.DeviceID = fmt.Sprint("x", n)
			y.Left(&left)
		}
		wait(time.Second)
		if s := y.sighting("d1"); !s.LastSeen.Equal(y.now) {
			t.Errorf("when it left is not seen: %+v", s)
		}
	})
}

// TestGone: what is written of what has gone is nothing, and a hub made anew
// under the name begins with nothing.
func TestGone(t *testing.T) {
	y := newYard(t)
	y.identity("d", "e")
	y.saw(leaf{name: "d", key: 1, serial: 1, cas: []int{2, 1}})
	y.write()
	y.saw(leaf{name: "e", key: 2, serial: 2, cas: []int{2, 1}})
	if err := y.store.DeleteHub(t.Context(), "hub"); err != nil {
		t.Fatal(err)
	}
	y.Forget("hub")
	if err := y.store.CreateHub(t.Context(), signet.Hub{Name: "hub"}); err != nil {
		t.Fatal(err)
	}
	y.write()
	list, _, err := y.Devices(t.Context(), "hub", group(t, y, inventory.Everything), "", 10)
	if err != nil || len(list) > 0 {
		t.Errorf("%v %+v", err, list)
	}
	y.identity("d")
	y.saw(leaf{name: "d", key: 1, serial: 1, cas: []int{2, 1}})
	y.write()
	if path, err := y.Path(t.Context(), "hub", y.sighting("d").Branch); err != nil || len(path) != 2 {
		t.Errorf("%v %+v", err, path)
	}
}

func group(t *testing.T, y *yard, reference string) inventory.Group {
	t.Helper()
	g, err := y.Group(t.Context(), "hub", reference, inventory.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestFind: by which references a branch is found, and when one is not enough.
func TestFind(t *testing.T) {
	y := newYard(t)
	y.identity("a", "b", "c", "d")
	y.saw(leaf{name: "a", key: 1, serial: 1, cas: []int{7, 1}})
	y.saw(leaf{name: "b", key: 2, serial: 2, cas: []int{7, 2}}) // cross-signed: one key under two roots
	y.saw(leaf{name: "c", key: 3, serial: 3, cas: []int{8, 7, 1}})
	y.write()
	odd, oddPath := certificate(`x\,CN=CA 7`, 5, 5) // a name made to look like another's
	twin, twinPath := certificate("CA 8", 6, 6)     // a namesake with another key
	leafOf, leafPath := certificate("d", 4, 4)
	y.Saw(&signet.Principal{Hub: "hub", DeviceID: "d", GenerationID: "1", Path: []*signet.PathCertificate{leafPath, oddPath, twinPath}},
		[]*x509.Certificate{leafOf, odd, twin}, "", netip.Addr{})
	y.write()
	_, seven := certificate("CA 7", 1_000_007, 7)
	for reference, want := range map[string]string{
		"CA 7": "CN=CA 7 CN=CA 7", "CN=CA 7": "CN=CA 7 CN=CA 7", fmt.Sprintf("%x", seven.Key): "CN=CA 7 CN=CA 7", fmt.Sprintf("%X", seven.Thumbprint[:4]): "CN=CA 7 CN=CA 7",
		signet.BranchID([]*signet.PathCertificate{seven, oneCA(1)}): "CN=CA 7",
		"CA 1": "CN=CA 1", `x,CN=CA 7`: `CN=x\,CN=CA 7`,
		"CA 8": "branch.ambiguous", "CA": "branch.unknown", "": "branch.unknown", fmt.Sprintf("%x", seven.Thumbprint[:3]): "branch.unknown", "CA 99": "branch.unknown",
	} {
		found, err := y.Find(t.Context(), "hub", reference)
		got := string(signet.CodeOf(err))
		if err == nil {
			var subjects []string
			for _, b := range found {
				subjects = append(subjects, b.Subject)
			}
			got = strings.Join(subjects, " ")
		}
		if got != want {
			t.Errorf("%q: %s, want %s", reference, got, want)
		}
	}
	list, _, err := y.Devices(t.Context(), "hub", group(t, y, "CA 7"), "", 10)
	if err != nil || len(list) != 3 {
		t.Errorf("%v %+v", err, list)
	}
}

func oneCA(n int) *signet.PathCertificate {
	_, p := certificate(fmt.Sprint("CA ", n), 1_000_000+n, n)
	return p
}
