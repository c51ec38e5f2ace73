package hub

import (
	"slices"
	"sync"
	"time"

	"github.com/signet-iot/signet"
)

// cutPatience is how long a change waits for the doors to close what it ended: a
// door that takes longer is told of in the receipt, and closes all the same.
const cutPatience = time.Second

// A cut is one change on its way through the sessions that it ends.
type cut struct {
	began time.Time

	mu      sync.Mutex
	devices []string // the first hundred
	ended   int
	took    []time.Duration // of the connections that are closed
	waiting int
	all     chan struct{} // closed when nobody is waited for any more
	sealed  bool          // no more sessions are added
}

func newCut() *cut { return &cut{began: time.Now(), all: make(chan struct{})} }

// end ends a session for this cut, unless it has ended already.
func (c *cut) end(s *Session, why error) {
	c.mu.Lock()
	c.waiting++
	c.mu.Unlock()
	s.cut.Store(c)
	if s.end(why) {
		p := s.principal
		c.mu.Lock()
		c.ended++
		if len(c.devices) < 100 {
			c.devices = append(c.devices, signet.IdentityName(p.DeviceID, p.ModuleID))
		}
		c.mu.Unlock()
	} else if s.cut.CompareAndSwap(c, nil) {
		c.mu.Lock()
		c.waiting--
		c.mu.Unlock()
	}
}

// closed is told when the connection of a session of this cut is closed.
func (c *cut) closed(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took = append(c.took, at.Sub(c.began))
	c.waiting--
	c.finish()
}

func (c *cut) finish() {
	if c.sealed && c.waiting == 0 {
		select {
		case <-c.all:
		default:
			close(c.all)
		}
	}
}

// receipt waits for the connections to be closed, and tells.
func (c *cut) receipt(node string) signet.Receipt {
	c.mu.Lock()
	c.sealed = true
	c.finish()
	c.mu.Unlock()
	patience := time.NewTimer(cutPatience)
	defer patience.Stop()
	select {
	case <-c.all:
	case <-patience.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := signet.Receipt{Node: node, Sessions: c.ended, Closed: min(len(c.took), c.ended), Devices: c.devices}
	if n := len(c.took); n > 0 {
		slices.Sort(c.took)
		r.P50, r.P99, r.Last = c.took[n/2], c.took[n*99/100], c.took[n-1]
	}
	return r
}
