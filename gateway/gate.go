package gateway

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"github.com/signet-iot/signet"
)

// What strangers may cost, in one place. A stranger is a connection that has not
// yet proven which device it is.
const (
	// defaultMaxStrangers bounds them all. One that waits costs a descriptor and
	// some 6 KiB, so this is 100 MiB at worst; and it lets 5000 devices behind one
	// address in after a power cut without refusing one.
	defaultMaxStrangers = 16384

	// defaultMaxHandshakes bounds those that are past the line, from the first
	// byte of the handshake to the decision: some 60 KiB each, 400 KiB with the
	// largest chain that crypto/tls reads (256 KiB). It is far more than keeps the
	// processors busy, so that peers far away cost no throughput.
	defaultMaxHandshakes = 256

	// lineTime is how long one waits in line: SDKs give up after 30 to 60 seconds,
	// and a turn that comes later is work for nobody.
	lineTime = 30 * time.Second

	// handshakeTime is given for the TLS handshake, and again for the CONNECT
	// after it and our judgement: several round trips on the worst mobile link.
	handshakeTime = 10 * time.Second
)

// A gate keeps strangers in line, in the order of their arrival and in turn
// between their addresses.
//
// One rule shares both bounds, the strangers in all and those past the line: a
// source may have as many as are still free. So one address gets half, the next
// half of the rest; two that come at once get a third each. It takes 15 addresses
// to fill the house, and then the next is refused. A crowd behind one address
// waits in line; it is not refused.
type gate struct {
	mu      sync.Mutex
	sources map[netip.Prefix]*source
	turns   list.List // of *source: those with somebody in line, the next to be served first

	here, maxHere     int // strangers
	within, maxWithin int // of them past the line
}

// A source is one IPv4 address or one IPv6 /64, which is what one customer gets.
type source struct {
	prefix       netip.Prefix
	line         list.List // of *visitor
	turn         *list.Element
	here, within int
}

// A visitor is one stranger at the gate.
type visitor struct {
	source   *source
	place    *list.Element // in the line; nil past it
	admitted chan struct{}
	gone     bool
}

func newGate(maxHere, maxWithin int) *gate {
	return &gate{sources: map[netip.Prefix]*source{}, maxHere: maxHere, maxWithin: maxWithin}
}

func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // an invalid address, of a pipe, is a source too
	return p
}

// enter waits for the turn of a stranger. Whoever got in must leave.
func (g *gate) enter(addr netip.Addr, stop <-chan struct{}) (*visitor, error) {
	v := &visitor{admitted: make(chan struct{})}
	prefix := sourceOf(addr)
	g.mu.Lock()
	s := g.sources[prefix]
	if s == nil {
		s = &source{prefix: prefix}
	}
	if s.here >= g.maxHere-g.here {
		g.mu.Unlock()
		return nil, signet.Refuse(signet.LimitConnections, "%d connections from this address are waiting already.", s.here)
	}
	g.sources[prefix] = s
	s.here++
	g.here++
	v.source, v.place = s, s.line.PushBack(v)
	if s.turn == nil {
		s.turn = g.turns.PushBack(s)
	}
	g.admit()
	g.mu.Unlock()

	select {
	case <-v.admitted:
		return v, nil
	default:
	}
	patience := time.NewTimer(lineTime)
	defer patience.Stop()
	select {
	case <-v.admitted:
		return v, nil
	case <-patience.C:
		g.leave(v)
		return nil, signet.Refuse(signet.LimitConnections, "The connection waited %v in line without a turn.", lineTime)
	case <-stop:
		g.leave(v)
		return nil, errShutdown()
	}
}

// admit lets strangers in while there is room for them, source by source. The
// sources it passes over each hold a place within, so they are few.
func (g *gate) admit() {
	for e := g.turns.Front(); e != nil && g.within < g.maxWithin; {
		s := e.Value.(*source)
		if s.within >= g.maxWithin-g.within {
			e = e.Next()
			continue
		}
		v := s.line.Remove(s.line.Front()).(*visitor)
		v.place = nil
		s.within++
		g.within++
		close(v.admitted)
		g.turns.Remove(e)
		s.turn = nil
		if s.line.Len() > 0 {
			s.turn = g.turns.PushBack(s)
		}
		e = g.turns.Front()
	}
}

// leave makes room: the stranger is one no more, or has gone. It may be called
// again.
func (g *gate) leave(v *visitor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v.gone {
		return
	}
	v.gone = true
	s := v.source
	s.here--
	g.here--
	if v.place == nil {
		s.within--
		g.within--
	} else if s.line.Remove(v.place); s.line.Len() == 0 {
		g.turns.Remove(s.turn)
		s.turn = nil
	}
	if s.here == 0 {
		delete(g.sources, s.prefix)
	}
	g.admit()
}

// counts gives how many strangers wait in line and how many are past it.
func (g *gate) counts() (waiting, within int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.here - g.within, g.within
}
