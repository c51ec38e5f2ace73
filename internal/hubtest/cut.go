package hubtest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-iot/signet"
)

// Cut checks what a receipt says of the sessions that a change ended: all of them,
// and their connections closed within a second. The second is asserted where the
// machine lets this process run: one that held it up just now has held up the doors,
// too, and some connections may still be closing.
func (h *Hub) Cut(t testing.TB, r signet.Receipt, sessions int) {
	t.Helper()
	prompt := r.Closed == sessions && r.Last > 0 && r.Last <= time.Second
	switch {
	case r.Sessions != sessions || r.Closed > sessions:
		t.Errorf("the receipt of %d sessions says %+v", sessions, r)
	case prompt:
	case h.pulse.missed():
		t.Logf("the machine was held up, and the receipt of %d sessions says %+v", sessions, r)
	default:
		t.Errorf("the receipt of %d sessions says %+v", sessions, r)
	}
}

// A pulse tells whether the machine lets this process run.
type pulse struct {
	beat atomic.Int64 // when it last beat
	late atomic.Int64 // when it last did so too late; since 1970, in ns
	stop func()
}

const (
	pulseTime = 10 * time.Millisecond
	pulseLate = 100 * time.Millisecond // a tenth of what doors have
	pulseSpan = 5 * time.Second        // for how long one that was late counts
)

func newPulse() *pulse {
	over := make(chan struct{})
	p := &pulse{stop: sync.OnceFunc(func() { close(over) })}
	p.beat.Store(time.Now().UnixNano())
	go func() {
		tick := time.NewTicker(pulseTime)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
				now := time.Now().UnixNano()
				if last := p.beat.Swap(now); now-last > int64(pulseTime+pulseLate) {
					p.late.Store(now)
				}
			}
		}
	}()
	return p
}

func (p *pulse) missed() bool {
	now := time.Now().UnixNano()
	return now-p.late.Load() < int64(pulseSpan) || now-p.beat.Load() > int64(pulseTime+pulseLate)
}
