package inventory_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/inventory"
)

// TestClones is the table of what is a finding, and what is not.
func TestClones(t *testing.T) {
	line := []int{2, 1}
	for _, c := range []struct {
		name  string
		shown []leaf
		apart bool // each is written by itself
		want  string
	}{
		{"a key in the certificates of two devices", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "b", key: 1, serial: 2, cas: line}}, true, "same-key b a"},
		{"of two that come within a second", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "b", key: 1, serial: 2, cas: line}}, false, "same-key"},
		{"by different issuers", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "b", key: 1, serial: 2, cas: []int{9}}}, true, "same-key b a"},
		{"known by thumbprint", []leaf{{name: "a", key: 1, serial: 1}, {name: "b", key: 1, serial: 1}}, true, "same-key b a"},
		{"of a module, and another device", []leaf{{name: "a/m", key: 1, serial: 1, cas: line}, {name: "b", key: 1, serial: 2, cas: line}}, true, "same-key b a/m"},
		{"a module has the key of its device", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "a/m", key: 1, serial: 2, cas: line}}, true, ""},
		{"renewed with the same key", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "a", key: 1, serial: 2, cas: line}, {name: "a", key: 1, serial: 3, cas: line}}, true, ""},
		{"renewed with another key", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "a", key: 2, serial: 2, cas: line}}, true, ""},
		{"moved to another line with the same certificate number", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "a", key: 1, serial: 1, cas: []int{3, 1}}}, true, ""},
		{"a number given out twice by one issuer", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "b", key: 2, serial: 1, cas: line}}, true, "same-serial b a"},
		{"one issuer under two roots", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "b", key: 2, serial: 1, cas: []int{2, 9}}}, true, "same-serial b a"},
		{"one number by two issuers", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "b", key: 2, serial: 1, cas: []int{3, 1}}}, true, ""},
		{"one number of two that are known by thumbprint", []leaf{{name: "a", key: 1, serial: 1}, {name: "b", key: 2, serial: 1}}, true, ""},
		{"both", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "b", key: 1, serial: 1, cas: line}}, true, "same-key b a, same-serial b a"},
		{"rolled back once", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "a", key: 2, serial: 2, cas: line}, {name: "a", key: 1, serial: 1, cas: line}}, true, ""},
		{"two certificates by turns", []leaf{{name: "a", key: 1, serial: 1, cas: line}, {name: "a", key: 2, serial: 2, cas: line}, {name: "a", key: 1, serial: 1, cas: line},
			{name: "a", key: 2, serial: 2, cas: line}, {name: "a", key: 1, serial: 1, cas: line}}, true, "two-certificates a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := newYard(t)
			y.identity("a", "a/m", "b")
			for _, l := range c.shown {
				y.saw(l)
				if c.apart {
					y.now = y.now.Add(time.Second)
					y.write()
				}
			}
			y.write()
			var got []string
			for _, f := range y.found {
				text := string(f.Kind)
				if c.apart {
					text += " " + strings.Join(f.Devices, " ")
				}
				got = append(got, text)
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			_, list, err := y.Clones(t.Context(), "hub", 10)
			if err != nil || len(list) != len(got) {
				t.Errorf("%v: %d kept", err, len(list))
			}
		})
	}
}

// TestTwoPlaces: when one certificate is in two places, and when it has moved.
func TestTwoPlaces(t *testing.T) {
	const home, mobile, lab = "192.0.2.9", "198.51.100.20", "203.0.113.3"
	move := func(pause time.Duration, places ...string) (moves []struct {
		after time.Duration
		to    string
	}) {
		for _, to := range places {
			moves = append(moves, struct {
				after time.Duration
				to    string
			}{pause, to})
		}
		return moves
	}
	repeat := func(n int, places ...string) (all []string) {
		for range n {
			all = append(all, places...)
		}
		return all
	}
	for _, c := range []struct {
		name  string
		moves []struct {
			after time.Duration
			to    string
		}
		found int
	}{
		{"two that take the session from each other", move(3*time.Second, repeat(4, mobile, home)...), 1},
		{"they go on: it is told once", move(3*time.Second, repeat(40, mobile, home)...), 1},
		{"a device between house and road, twice in a quarter of an hour", move(4*time.Minute, repeat(10, mobile, home)...), 0},
		{"a link that flaps a few times", move(20*time.Second, repeat(3, mobile, home)...), 0},
		{"on the road, always elsewhere", move(3*time.Second, repeat(20, mobile, home, lab)...), 0},
		{"addresses of one carrier's gateway", move(3*time.Second, repeat(20, "192.0.2.77", "192.0.2.5")...), 0},
		{"addresses of one site", move(3*time.Second, repeat(20, "2001:db8:7:1::2", "2001:db8:7:ffff::9")...), 0},
		{"two sites", move(3*time.Second, repeat(20, "2001:db8:7::2", "2001:db8:8::9")...), 1},
		{"now and then all day", move(100*time.Second, repeat(3, mobile, home)...), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := newYard(t)
			y.identity("d")
			p := y.saw(leaf{name: "d", key: 1, serial: 1, cas: []int{2, 1}})
			at := netip.MustParseAddr(home)
			if strings.Contains(c.moves[0].to, ":") {
				at = netip.MustParseAddr(c.moves[1].to)
			}
			for _, m := range c.moves {
				y.now = y.now.Add(m.after)
				to := netip.MustParseAddr(m.to)
				y.Moved(p, at, to)
				at = to
				y.write()
			}
			if len(y.found) != c.found {
				t.Errorf("found %d times: %+v", len(y.found), y.found)
			}
			if c.found > 0 && (y.found[0].Kind != signet.CloneTwoPlaces || len(y.found[0].Places) != 2) {
				t.Errorf("%+v", y.found[0])
			}
		})
	}
}

// TestQuarantine: by policy, all that a finding names are disabled, and again when
// it is found again, until it is dismissed; a day has its bound.
func TestQuarantine(t *testing.T) {
	y := newYard(t)
	y.identity("a", "b", "c")
	line := []int{2, 1}
	shown := func(name string, key, serial int) {
		y.now = y.now.Add(11 * time.Minute)
		y.saw(leaf{name: name, key: key, serial: serial, cas: line})
		y.write()
	}
	set := func(p signet.ClonePolicy) {
		t.Helper()
		if err := y.SetClonePolicy(t.Context(), "hub", p); err != nil {
			t.Fatal(err)
		}
	}
	set(signet.ClonesOff)
	shown("a", 1, 1)
	shown("b", 1, 2)
	if len(y.found)+len(y.disabled) > 0 {
		t.Fatalf("%+v %v", y.found, y.disabled)
	}
	set(signet.ClonesFlag)
	shown("b", 1, 2) // found also when it was there before
	if len(y.found) != 1 || len(y.disabled) > 0 {
		t.Fatalf("%+v %v", y.found, y.disabled)
	}
	set(signet.ClonesQuarantine)
	shown("b", 1, 2)
	id := y.found[0].ID
	if got := strings.Join(y.disabled, "\n"); got != "b: quarantined: its key is another device's too (a); clone "+id+"\na: quarantined: its key is another device's too (b); clone "+id {
		t.Fatal(got)
	}
	if len(y.found) != 1 {
		t.Errorf("told twice in a day: %+v", y.found)
	}
	y.now = y.now.Add(24 * time.Hour)
	shown("b", 1, 2)
	if len(y.found) != 2 || y.found[1].Count != 3 {
		t.Errorf("a day later: %+v", y.found)
	}
	shown("c", 1, 3)
	if len(y.found) != 3 || len(y.disabled) != 3 {
		t.Errorf("who is new is told of at once: %+v %v", y.found, y.disabled)
	}

	ctx := signet.WithActor(t.Context(), signet.Actor{Name: "admin"})
	if c, err := y.DismissClone(ctx, "hub", id, "a lab"); err != nil || c.Dismissed.By != "admin" {
		t.Fatalf("%v %+v", err, c)
	}
	y.disabled = nil
	shown("b", 1, 2)
	if len(y.disabled) > 0 || len(y.found) != 3 {
		t.Errorf("dismissed, and found: %v", y.disabled)
	}
	_, list, err := y.Clones(t.Context(), "hub", 10)
	if err != nil || len(list) != 1 || list[0].Dismissed == nil || list[0].Dismissed.Reason != "a lab" {
		t.Errorf("%v %+v", err, list)
	}
	if _, err := y.DismissClone(ctx, "hub", "0123", ""); signet.CodeOf(err) != signet.CloneUnknown {
		t.Error(err)
	}
	if err := y.SetClonePolicy(ctx, "hub", "shoot"); signet.CodeOf(err) != signet.RequestMalformed {
		t.Error(err)
	}
	if err := y.SetClonePolicy(ctx, "none", signet.ClonesOff); signet.CodeOf(err) != signet.HubUnknown {
		t.Error(err)
	}
}

// TestOneKeyForAll: a factory has put one key into every device. That is one
// finding, told a few times, and no fleet is disabled by a machine.
func TestOneKeyForAll(t *testing.T) {
	y := newYard(t)
	if err := y.SetClonePolicy(t.Context(), "hub", signet.ClonesQuarantine); err != nil {
		t.Fatal(err)
	}
	for n := range 1000 {
		name := fmt.Sprintf("d%04d", n)
		y.identity(name)
		y.saw(leaf{name: name, key: 1, serial: n, cas: []int{2, 1}})
		if n%100 == 99 {
			y.now = y.now.Add(time.Second)
			y.write()
		}
	}
	_, list, err := y.Clones(t.Context(), "hub", 10)
	if err != nil || len(list) != 1 || !list[0].More || len(list[0].Devices) != signet.MaxCloneDevices {
		t.Fatalf("%v %+v", err, list)
	}
	if len(y.found) > 2 {
		t.Errorf("told %d times", len(y.found))
	}
	if len(y.disabled) != 100 {
		t.Errorf("%d devices disabled", len(y.disabled))
	}
}

// TestManyClones: a hundred findings are told in a day; all are kept.
func TestManyClones(t *testing.T) {
	y := newYard(t)
	for n := range 150 {
		a, b := fmt.Sprint("a", n), fmt.Sprint("b", n)
		y.identity(a, b)
		y.saw(leaf{name: a, key: n, serial: 2 * n, cas: []int{2, 1}})
		y.saw(leaf{name: b, key: n, serial: 2*n + 1, cas: []int{2, 1}})
	}
	y.write()
	_, list, err := y.Clones(t.Context(), "hub", 1000)
	if err != nil || len(list) != 150 || len(y.found) != 100 {
		t.Errorf("%v: %d kept, %d told", err, len(list), len(y.found))
	}
}

// TestFoundOutcomeUnknown: what was found is not lost when it cannot be written.
func TestFoundOutcomeUnknown(t *testing.T) {
	y := newYard(t)
	y.identity("d")
	p := y.saw(leaf{name: "d", key: 1, serial: 1, cas: []int{2, 1}})
	home, lab := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("203.0.113.3")
	for range 4 {
		y.Moved(p, home, lab)
		y.Moved(p, lab, home)
	}
	y.store.Before = func(operation string) error {
		if operation == "Save" {
			return memstore.ErrFault
		}
		return nil
	}
	y.write()
	if len(y.found) > 0 {
		t.Fatalf("%+v", y.found)
	}
	y.store.Before = nil
	y.write()
	if len(y.found) != 1 || y.found[0].Kind != signet.CloneTwoPlaces {
		t.Errorf("%+v", y.found)
	}
	var _ inventory.Store = y.store
}
