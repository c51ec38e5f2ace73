package gateway

import (
	"container/heap"
	"container/list"
	"net/netip"
	"sync"

	"github.com/signet-iot/signet"
)

// maxGuests bounds the HTTPS connections at a time, some 50 KiB each. A client keeps
// a few; an SDK one.
const maxGuests = 4096

// A lobby is where HTTPS connections are, from their turn at the gate on; WebSockets
// until their device is let in, for they live long, and there is one for each
// identity at most.
//
// It is full to who has more than others, as the gate is: when there is no place,
// who comes takes one of the source that has most, if that has more than his. There
// the connection goes that has been idle for longest; then, of those in a request
// or before their first, the one that has been so for longest. If nobody has more,
// he takes one of his own that is idle, and who has none takes that of anybody: a
// client whose connection was idle opens another.
//
// No place is taken of whom a request under way has made known. Of that, a source may
// have as many as others leave: one gets half of the lobby, the next half of the
// rest. What is beyond goes as if it were not known.
type lobby struct {
	mu      sync.Mutex
	parties map[netip.Prefix]*party
	most    throng[*party]
	idle    list.List // of *guest, of all sources: the longest idle first

	here, max int
	known     int // of them, whose place is not taken
}

// A party is the guests of one source.
type party struct {
	size   // without those whose place is not taken
	source netip.Prefix
	known  int
	busy   list.List // of *guest, in a request or before the first; the longest first
	idle   list.List // of *guest; the longest first
}

// A standing is what a guest is to the lobby.
type standing int

const (
	absent standing = iota
	busy
	idle
	known
)

func newLobby(max int) *lobby { return &lobby{parties: map[netip.Prefix]*party{}, max: max} }

func (l *lobby) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.here
}

// enter gives a guest a place, and says whose it was, if anybody's: that guest is to
// be closed.
func (l *lobby) enter(g *guest) (instead *guest, err error) {
	source := sourceOf(g.remote)
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.parties[source]
	if p == nil {
		p = &party{source: source}
	}
	if l.here >= l.max {
		if instead = l.displaced(p); instead == nil {
			return nil, signet.Refuse(signet.LimitConnections, "There is no place for another HTTPS connection, and this address has %d.", p.here+p.known)
		}
		l.put(instead, absent)
	}
	if l.parties[source] != p { // new, or its last guest has just gone
		l.parties[source] = p
		heap.Push(&l.most, p)
	}
	g.party = p
	l.here++
	l.put(g, busy)
	return instead, nil
}

// displaced gives the guest whose place one of p may have; nil when there is none.
func (l *lobby) displaced(p *party) *guest {
	var e *list.Element
	if greedy := l.most[0]; greedy.here > p.here+1 {
		if e = greedy.idle.Front(); e == nil {
			e = greedy.busy.Front()
		}
	} else if e = p.idle.Front(); e == nil && p.here == 0 {
		e = l.idle.Front()
	}
	if e == nil {
		return nil
	}
	return e.Value.(*guest)
}

// put gives a guest another standing; who is absent stays so.
func (l *lobby) put(g *guest, to standing) {
	p := g.party
	if g.standing == to || p == nil {
		return
	}
	switch g.standing {
	case busy:
		p.busy.Remove(g.place)
		p.here--
	case idle:
		p.idle.Remove(g.place)
		l.idle.Remove(g.among)
		p.here--
	case known:
		p.known--
		l.known--
	}
	switch g.standing = to; to {
	case busy:
		g.place = p.busy.PushBack(g)
		p.here++
	case idle:
		g.place, g.among = p.idle.PushBack(g), l.idle.PushBack(g)
		p.here++
	case known:
		p.known++
		l.known++
	case absent:
		g.party, g.place, g.among = nil, nil, nil
		l.here--
	}
	if p.here+p.known == 0 {
		heap.Remove(&l.most, p.at)
		delete(l.parties, p.source)
		return
	}
	heap.Fix(&l.most, p.at)
}

// move puts a guest where it is now: in a request, between two, or gone.
func (l *lobby) move(g *guest, to standing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.put(g, to)
}

// know takes the guest for one that is known until its request is over.
func (l *lobby) know(g *guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := g.party; p != nil && g.standing == busy && p.known < l.max-l.known {
		l.put(g, known)
	}
}
