package gateway

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
)

var (
	alice = netip.MustParseAddr("192.0.2.1")
	bob   = netip.MustParseAddr("192.0.2.2")
	carol = netip.MustParseAddr("2001:db8:1:2::3")
)

// crowd sends n strangers to a gate, and gives what became of each.
func crowd(g *gate, who netip.Addr, n int) (in []*visitor, refused int) {
	type result struct {
		v   *visitor
		err error
	}
	results := make(chan result, n)
	for range n {
		go func() {
			v, err := g.enter(who, nil)
			results <- result{v, err}
		}()
		synctest.Wait() // so that they come one after the other
	}
	for {
		select {
		case r := <-results:
			if r.err != nil {
				refused++
			} else {
				in = append(in, r.v)
			}
		default:
			return in, refused
		}
	}
}

// One address gets half of the places, a second one its share at once, and there
// is room for a third.
func TestGateShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1000, 16)
		a, _ := crowd(g, alice, 100)
		b, _ := crowd(g, bob, 100)
		c, _ := crowd(g, carol, 1)
		if len(a) != 8 || len(b) != 4 || len(c) != 1 {
			t.Errorf("within are %d, %d and %d", len(a), len(b), len(c))
		}
		if waiting, within := g.counts(); waiting != 188 || within != 13 {
			t.Errorf("%d wait, %d are within", waiting, within)
		}
		time.Sleep(lineTime + time.Second) // those in line give up
		if waiting, within := g.counts(); waiting != 0 || within != 13 {
			t.Errorf("later %d wait, %d are within", waiting, within)
		}
		for _, v := range append(append(a, b...), c...) {
			g.leave(v)
			g.leave(v) // harmless
		}
		if len(g.sources) != 0 || g.turns.Len() != 0 || g.here != 0 || g.within != 0 {
			t.Errorf("something stays: %+v", g)
		}
	})
}

// A crowd behind one address is served to the last, in the order it came, and a
// stranger who comes in the middle is served in his turn, not after it.
func TestGateCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5000 // a site after a power cut
		g := newGate(defaultMaxStrangers, defaultMaxHandshakes)
		served := make(chan string, n+1)
		enter := func(name string, who netip.Addr) {
			v, err := g.enter(who, nil)
			if err != nil {
				t.Error(name, err)
				return
			}
			time.Sleep(100 * time.Millisecond) // a handshake far away
			served <- name
			g.leave(v)
		}
		start := time.Now()
		for i := range n {
			go enter(fmt.Sprint(i), alice)
		}
		synctest.Wait()
		go enter("bob", bob)
		for i := range n + 1 {
			if name := <-served; name == "bob" && i > defaultMaxHandshakes {
				t.Errorf("bob came as number %d", i)
			}
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the crowd took %v", took)
		}
	})
}

// However many a few addresses send, another one gets in.
func TestGateFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		g := newGate(100, 10)
		for _, who := range []netip.Addr{alice, bob} {
			for range 1000 {
				go g.enter(who, stop)
			}
			synctest.Wait()
		}
		waiting, within := g.counts()
		if waiting+within >= 100 || within >= 10 {
			t.Fatalf("%d and %d: two addresses fill the house", waiting, within)
		}
		if _, err := g.enter(alice, stop); signet.CodeOf(err) != signet.LimitConnections {
			t.Errorf("the greedy one is told %v", err)
		}
		entered := time.Now()
		v, err := g.enter(carol, stop)
		if err != nil || time.Since(entered) != 0 {
			t.Errorf("the other: %v after %v", err, time.Since(entered))
		}
		// An IPv6 source is a /64: the neighbour's addresses are not another share.
		if s := g.sources[sourceOf(netip.MustParseAddr("2001:db8:1:2:ffff::1"))]; s == nil || s.within != 1 {
			t.Error("a neighbour in the same /64 is another source")
		}
		g.leave(v)
		close(stop)
		synctest.Wait()
		if waiting, _ := g.counts(); waiting != 0 {
			t.Errorf("%d wait after the end", waiting)
		}
	})
}
