// Package limits holds hubs and devices to the rates that an operator has set:
// token buckets, one for each hub and each device that does something limited.
//
// A bucket holds what may be done in a second, at least one, and fills at the
// rate. Who takes from it says how long it may wait: a door that can hold a device
// back waits for its turn, one that answers requests refuses. Nothing is kept on
// disk: after a restart all buckets are full.
package limits

import (
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
)

// Describe is for prometheus.
func (l *Limits) Describe(to chan<- *prometheus.Desc) { l.throttled.Describe(to) }

// Collect is for prometheus.
func (l *Limits) Collect(to chan<- prometheus.Metric) { l.throttled.Collect(to) }

// maxBuckets bounds the memory, at some 150 bytes each. A bucket that is full again
// is let go when there are many; should there be more that are not, all begin anew,
// full: limits of single devices are then laxer than set, those of hubs hold again
// within a second.
const maxBuckets = 200_000

// Limits are the buckets. Safe for concurrent use.
type Limits struct {
	now       func() time.Time
	throttled *prometheus.CounterVec // outcome: delayed, refused

	most    int        // maxBuckets
	mu      sync.Mutex // held while nothing is asked
	buckets map[key]*bucket
}

type key struct {
	hub, device string // "" for the hub's own
	meter       signet.Meter
}

// A bucket has so many left as of a time, fewer than none when some wait.
type bucket struct {
	left, rate float64
	at         time.Time
}

// New makes the buckets; now is the clock, time.Now when nil. What it gives is also
// a prometheus.Collector of what was held back.
func New(now func() time.Time) *Limits {
	if now == nil {
		now = time.Now
	}
	return &Limits{now: now, most: maxBuckets, buckets: map[key]*bucket{}, throttled: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signet_throttled_total", Help: "What limits have held back, by hub, limit, whose it is (hub, device) and outcome (delayed, refused).",
	}, []string{"hub", "limit", "scope", "outcome"})}
}

// Take takes n of a meter for a device of a hub, by the limits that the hub has
// now, and says how long to wait before they are used. When that would be longer
// than mayWait, nothing is taken, and it refuses with [signet.LimitRate] and the
// time after which to try again. More than a bucket holds is taken when it is full.
func (l *Limits) Take(of signet.Hub, device string, m signet.Meter, n int, mayWait time.Duration) (wait time.Duration, err error) {
	rate := of.Limits.Rate(m)
	if rate.PerHub == 0 && rate.PerDevice == 0 || n <= 0 {
		return 0, nil
	}
	l.mu.Lock()
	now := l.now()
	whole, waitWhole := l.look(key{of.Name, "", m}, rate.PerHub, n, now)
	var own *bucket
	var waitOwn time.Duration
	if device != "" {
		own, waitOwn = l.look(key{of.Name, device, m}, rate.PerDevice, n, now)
	}
	wait = max(waitWhole, waitOwn)
	if wait <= mayWait {
		for _, b := range [...]*bucket{whole, own} {
			if b != nil {
				b.left -= float64(n)
			}
		}
	}
	l.mu.Unlock()

	if wait == 0 {
		return 0, nil
	}
	scope, limit, who := "hub", rate.PerHub, "The hub"
	if waitOwn >= waitWhole {
		scope, limit, who = "device", rate.PerDevice, "The device"
	}
	if wait <= mayWait {
		l.throttled.WithLabelValues(of.Name, m.String(), scope, "delayed").Inc()
		return wait, nil
	}
	l.throttled.WithLabelValues(of.Name, m.String(), scope, "refused").Inc()
	e := signet.Refuse(signet.LimitRate, "%s may do %g a second (%s).", who, limit, m)
	e.RetryAfter = wait
	return 0, e
}

// look gives a bucket as it is now, nil without a limit, and how long it takes to
// hold n, or to be full. It is called with mu held.
func (l *Limits) look(k key, rate float64, n int, now time.Time) (*bucket, time.Duration) {
	if rate == 0 {
		return nil, 0
	}
	holds := math.Max(1, rate)
	b := l.buckets[k]
	if b == nil {
		if len(l.buckets) >= l.most {
			l.sweep(now)
		}
		b = &bucket{left: holds, at: now}
		l.buckets[k] = b
	}
	b.fill(rate, now)
	missing := math.Min(float64(n), holds) - b.left
	if missing <= 0 {
		return b, 0
	}
	return b, time.Duration(missing / rate * float64(time.Second))
}

// fill brings a bucket to a time. What was gathered at another rate counts, as far
// as the bucket now holds it.
func (b *bucket) fill(rate float64, now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.left += d.Seconds() * rate
	}
	b.left = math.Min(b.left, math.Max(1, rate))
	b.rate, b.at = rate, now
}

// sweep lets go of the buckets that are full again.
func (l *Limits) sweep(now time.Time) {
	for k, b := range l.buckets {
		if b.fill(b.rate, now); b.left == math.Max(1, b.rate) {
			delete(l.buckets, k)
		}
	}
	if len(l.buckets) >= l.most/2 { // or the next would sweep again
		clear(l.buckets)
	}
}

// Forget lets go of a hub that has been deleted.
func (l *Limits) Forget(hub string) {
	l.throttled.DeletePartialMatch(prometheus.Labels{"hub": hub})
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range l.buckets {
		if k.hub == hub {
			delete(l.buckets, k)
		}
	}
}
