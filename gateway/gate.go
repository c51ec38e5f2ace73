package gateway

import (
	"container/heap"
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
	// some 6 KiB, so this is 150 MiB at worst; and it lets 20,000 devices that come
	// at once in, also from behind one address, without refusing one.
	defaultMaxStrangers = 24_576

	// defaultMaxHandshakes bounds those that are past the line, from the first
	// byte of the handshake to the decision: some 60 KiB each, 160 KiB with the
	// largest chain (maxFlight). It is far more than keeps the processors busy, so
	// that peers far away cost no throughput.
	defaultMaxHandshakes = 256

	// lineTime is how long one waits in line: SDKs give up after 30 to 60 seconds,
	// and a turn that comes later is work for nobody.
	lineTime = 30 * time.Second

	// longTurn is how long a turn past the line is anybody's. After that it ends when
	// others wait in vain, whose source has less: round trips of a link by satellite
	// are done in it, and who sends nothing holds nobody up for longer.
	longTurn = 3 * time.Second

	// handshakeTime is given for the TLS handshake, and again for the CONNECT
	// after it and our judgement: several round trips on the worst mobile link.
	handshakeTime = 10 * time.Second
)

// A gate keeps strangers in line, in the order of their arrival and in turn
// between their addresses.
//
// The house is full to who has more than others. A source may fill what is free;
// when nothing is, who comes takes the place of the last in line of the source
// that has most, if that has more than his. So it takes as many addresses as there
// are places to keep one out.
//
// Of the places past the line a source may have as many as are still free: one
// gets half, the next half of the rest. So it takes eight addresses to fill them;
// then whoever has had his for long is asked for it, unless he is the only one of
// his source.
type gate struct {
	mu      sync.Mutex
	sources map[netip.Prefix]*source
	most    throng[*source] // the sources, the one with the most strangers first
	turns   list.List       // of *source: those with somebody in line, the next to be served first
	inside  list.List       // of *visitor: those past the line, the longest there first
	pressed bool            // a timer looks at them again

	here, maxHere     int // strangers
	within, maxWithin int // of them past the line
}

// A source is one IPv4 address or one IPv6 /64, which is what one customer gets.
type source struct {
	size
	prefix netip.Prefix
	line   list.List // of *visitor
	turn   *list.Element
	within int
}

// A visitor is one stranger at the gate.
type visitor struct {
	source *source
	place  *list.Element // in the line, or among those past it
	cut    func(error)   // asks him to go; nil when that cannot be
	turn   chan struct{} // closed when it is his, or he has lost his place
	since  time.Time     // when he got his turn; zero in line
	asked  bool
	gone   bool
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

// enter waits for the turn of a stranger. Whoever got in must leave. cut, if not
// nil, is called at most once, on a goroutine of its own, when he shall leave soon.
func (g *gate) enter(addr netip.Addr, cut func(error), stop <-chan struct{}) (*visitor, error) {
	v := &visitor{cut: cut, turn: make(chan struct{})}
	prefix := sourceOf(addr)
	g.mu.Lock()
	s := g.sources[prefix]
	if s == nil {
		s = &source{prefix: prefix}
	}
	if g.here >= g.maxHere && !g.displace(s) {
		refusal := signet.Refuse(signet.LimitConnections, "%d connections from this address are waiting already.", s.here)
		g.mu.Unlock()
		return nil, refusal
	}
	if s.here == 0 {
		g.sources[prefix] = s
		heap.Push(&g.most, s)
	}
	g.count(s, 1)
	v.source, v.place = s, s.line.PushBack(v)
	if s.turn == nil {
		s.turn = g.turns.PushBack(s)
	}
	g.admit()
	g.mu.Unlock()

	select {
	case <-v.turn:
	default:
		patience := time.NewTimer(lineTime)
		defer patience.Stop()
		select {
		case <-v.turn:
		case <-patience.C:
			g.leave(v)
			return nil, signet.Refuse(signet.LimitConnections, "The connection waited %v in line without a turn.", lineTime)
		case <-stop:
			g.leave(v)
			return nil, errShutdown()
		}
	}
	if v.since.IsZero() {
		return nil, signet.Refuse(signet.LimitConnections, "Too many connections from this address are waiting.")
	}
	return v, nil
}

// count adds to the strangers of a source.
func (g *gate) count(s *source, n int) {
	s.here += n
	g.here += n
	heap.Fix(&g.most, s.at)
}

// displace makes room for one of a source where another has more.
func (g *gate) displace(s *source) bool {
	greedy := g.most[0]
	if greedy.here <= s.here+1 || greedy.line.Len() == 0 {
		return false
	}
	last := greedy.line.Back().Value.(*visitor)
	g.remove(last)
	close(last.turn)
	return true
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
		v.place, v.since = g.inside.PushBack(v), time.Now()
		s.within++
		g.within++
		close(v.turn)
		g.turns.Remove(e)
		s.turn = nil
		if s.line.Len() > 0 {
			s.turn = g.turns.PushBack(s)
		}
		e = g.turns.Front()
	}
	g.press()
}

// press asks one stranger to go who has had his turn for long, if others wait that
// have less. When he has gone, the next is looked for.
func (g *gate) press() {
	if g.turns.Len() == 0 || g.pressed {
		return
	}
	next := g.turns.Front().Value.(*source)
	for e := g.turns.Front(); e != nil && next.within > 0; e = e.Next() { // those with a place within are few
		if s := e.Value.(*source); s.within < next.within {
			next = s
		}
	}
	for e := g.inside.Front(); e != nil; e = e.Next() {
		v := e.Value.(*visitor)
		if rest := longTurn - time.Since(v.since); rest > 0 {
			g.pressed = true
			time.AfterFunc(rest, func() {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.pressed = false
				g.press()
			})
			return
		}
		if v.cut != nil && !v.asked && v.source != next && v.source.within > max(1, next.within) {
			v.asked = true
			go v.cut(signet.Refuse(signet.LimitHandshake, "The connection had its turn for %v while others waited.", longTurn))
			return
		}
	}
}

// leave makes room: the stranger is one no more, or has gone. It may be called
// again.
func (g *gate) leave(v *visitor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !v.gone {
		g.remove(v)
		g.admit()
	}
}

func (g *gate) remove(v *visitor) {
	v.gone = true
	s := v.source
	if !v.since.IsZero() {
		g.inside.Remove(v.place)
		s.within--
		g.within--
	} else if s.line.Remove(v.place); s.line.Len() == 0 {
		g.turns.Remove(s.turn)
		s.turn = nil
	}
	if g.count(s, -1); s.here == 0 {
		heap.Remove(&g.most, s.at)
		delete(g.sources, s.prefix)
	}
}

// A size is how many strangers a source has, and where that puts it in a throng.
type size struct{ here, at int }

func (s *size) sized() *size { return s }

// A throng is a heap of sources, the one with the most strangers on top.
type throng[T interface{ sized() *size }] []T

func (c throng[T]) Len() int           { return len(c) }
func (c throng[T]) Less(i, j int) bool { return c[i].sized().here > c[j].sized().here }
func (c throng[T]) Swap(i, j int) {
	c[i], c[j] = c[j], c[i]
	c[i].sized().at, c[j].sized().at = i, j
}
func (c *throng[T]) Push(s any) { s.(T).sized().at = len(*c); *c = append(*c, s.(T)) }
func (c *throng[T]) Pop() any {
	last := len(*c) - 1
	s := (*c)[last]
	clear((*c)[last:])
	*c = (*c)[:last]
	return s
}

// counts gives how many strangers wait in line and how many are past it.
func (g *gate) counts() (waiting, within int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.here - g.within, g.within
}
