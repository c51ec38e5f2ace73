package gateway

import (
	"net/netip"
	"testing"

	"github.com/signet-iot/signet"
)

// come has n guests of one address enter a lobby, and gives those that are in and
// those that had to go for them.
func come(l *lobby, who netip.Addr, n int) (in, gone []*guest) {
	for range n {
		g := &guest{remote: who}
		instead, err := l.enter(g)
		if err == nil {
			in = append(in, g)
		}
		if instead != nil {
			gone = append(gone, instead)
		}
	}
	return in, gone
}

func network(n byte) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, n}) }

// However many a few addresses open, another gets in, in the place of one of those
// that have most.
func TestLobbyFull(t *testing.T) {
	l := newLobby(100)
	for n := range byte(6) {
		come(l, network(n), 150)
	}
	if l.count() != 100 {
		t.Fatalf("%d are there", l.count())
	}
	for source, p := range l.parties {
		if p.here < 16 || p.here > 18 {
			t.Errorf("%v has %d of 100 places, and there are six such addresses", source, p.here)
		}
	}
	in, gone := come(l, carol, 14)
	if len(in) != 14 || len(gone) != 14 || l.count() != 100 {
		t.Errorf("%d of another are in, %d had to go, %d are there", len(in), len(gone), l.count())
	}
	// An IPv6 source is a /64: its neighbour's are its own.
	if p := l.parties[sourceOf(netip.MustParseAddr("2001:db8:1:2:ffff::1"))]; p == nil || p.here != 14 {
		t.Error("a neighbour in the same /64 is another source")
	}
	for _, g := range gone {
		if g.remote == carol || g.standing != absent {
			t.Errorf("%v had to go, and is %v", g.remote, g.standing)
		}
	}
	// Who has as many as the others gets no more.
	if _, err := l.enter(&guest{remote: carol}); signet.CodeOf(err) != signet.LimitConnections {
		t.Errorf("one more than the others have: %v", err)
	}
	for _, p := range l.parties {
		for e := p.busy.Front(); e != nil; e = p.busy.Front() {
			l.move(e.Value.(*guest), absent)
		}
	}
	if len(l.parties) != 0 || len(l.most) != 0 || l.here != 0 {
		t.Errorf("something stays: %+v", l)
	}
}

// Of the address that has most, what is idle goes first, the longest idle of it; then
// what is in a request, the longest of it.
func TestLobbyOrder(t *testing.T) {
	l := newLobby(5)
	all, _ := come(l, alice, 5)
	for _, n := range []int{3, 1} {
		l.move(all[n], idle)
	}
	var order []*guest
	for n := range byte(3) {
		_, gone := come(l, network(n), 1)
		order = append(order, gone...)
	}
	if len(order) != 3 || order[0] != all[3] || order[1] != all[1] || order[2] != all[0] {
		t.Errorf("%v had to go of %v", order, all)
	}
	// Alice has two, the others one: nobody has more than who comes would have.
	if _, gone := come(l, network(0), 1); len(gone) != 0 {
		t.Errorf("%v had to go for one who has one", gone)
	}
}

// A fleet of more than there are places, one connection a device, goes on: an idle
// connection makes room.
func TestLobbyFleet(t *testing.T) {
	l := newLobby(3)
	var fleet []*guest
	for n := range byte(5) {
		in, gone := come(l, network(n), 1)
		if len(in) != 1 {
			t.Fatalf("device %d is kept out", n)
		}
		if n >= 3 && (len(gone) != 1 || gone[0] != fleet[n-3]) {
			t.Errorf("for device %d, %v had to go", n, gone)
		}
		l.move(in[0], busy)
		l.move(in[0], idle)
		fleet = append(fleet, in...)
	}
	// One of them opens another: its own makes room, not its neighbour's.
	if in, gone := come(l, network(4), 1); len(in) != 1 || len(gone) != 1 || gone[0] != fleet[4] {
		t.Errorf("%v had to go", gone)
	}
	// When all are in requests, nobody is turned out for one who has as much.
	for _, g := range fleet {
		l.move(g, busy) // those that had to go stay gone
	}
	if in, gone := come(l, alice, 1); len(in) != 0 || len(gone) != 0 || l.count() != 3 {
		t.Errorf("%v in, %v had to go", in, gone)
	}
}

// Who is known in a request keeps its place, as many of one address as others leave.
func TestLobbyKnown(t *testing.T) {
	l := newLobby(8)
	site, _ := come(l, alice, 8)
	for _, g := range site {
		l.know(g)
	}
	if p := l.parties[sourceOf(alice)]; p.known != 4 || p.here != 4 {
		t.Fatalf("%d of 8 are safe, %d are not", p.known, p.here)
	}
	var gone []*guest
	for n := range byte(7) {
		_, g := come(l, network(n), 1)
		gone = append(gone, g...)
	}
	if len(gone) != 3 || l.parties[sourceOf(alice)].known != 4 {
		t.Errorf("%d had to go", len(gone))
	}
	// Its request is over: it is as anybody's.
	l.move(site[0], idle)
	if in, gone := come(l, network(9), 1); len(in) != 1 || len(gone) != 1 || gone[0] != site[0] {
		t.Errorf("%v had to go", gone)
	}
	l.know(site[0]) // comes too late
	l.move(site[1], absent)
	if l.known != 2 || l.count() != 7 {
		t.Errorf("%d of %d are safe", l.known, l.count())
	}
}
