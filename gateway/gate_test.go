package gateway

import (
	"fmt"
	"net/netip"
	"sync/atomic"
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
			v, err := g.enter(who, nil, nil)
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
			v, err := g.enter(who, nil, nil)
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

// However many a few addresses send, another one gets in: in line it takes a place
// of who has most, past it one that somebody has had for long.
func TestGateFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		g := newGate(100, 10)
		var lost, cut atomic.Int64
		enter := func(who netip.Addr) {
			own := make(chan *visitor, 1)
			v, err := g.enter(who, func(err error) {
				cut.Add(1)
				if signet.CodeOf(err) != signet.LimitHandshake {
					t.Errorf("asked to go by %v", err)
				}
				g.leave(<-own)
			}, stop)
			if own <- v; err != nil {
				lost.Add(1)
			}
		}
		for n := range 6 { // six addresses, each with more than there is room for
			for range 150 {
				go enter(netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}))
			}
			synctest.Wait()
		}
		waiting, within := g.counts()
		if waiting+within != 100 || within != 10 || lost.Load() != 6*150-100 {
			t.Fatalf("%d wait, %d are within, %d are refused", waiting, within, lost.Load())
		}
		for prefix, s := range g.sources {
			if s.here < 16 || s.here > 18 {
				t.Errorf("%v has %d of 100 places, and there are six such addresses", prefix, s.here)
			}
		}

		// The next one is let into the house, waits no longer than the turns of others
		// last, and is not asked to go himself.
		entered := time.Now()
		v, err := g.enter(carol, func(error) { t.Error("he who has one place is asked to go") }, stop)
		if took := time.Since(entered); err != nil || took > longTurn {
			t.Errorf("the other: %v after %v", err, took)
		}
		if cut.Load() == 0 {
			t.Error("nobody was asked to go")
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
		time.Sleep(lineTime)
	})
}

// When nobody else waits, no turn is too long for this: a slow link has its ten
// seconds.
func TestGateLongTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(100, 8)
		var all []*visitor
		for range 4 {
			v, err := g.enter(alice, func(error) { t.Error("asked to go") }, nil)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, v)
		}
		go g.enter(alice, nil, nil) // waits behind its own
		time.Sleep(3 * longTurn)
		for _, v := range all {
			g.leave(v)
		}
		synctest.Wait()
	})
}
