package limits

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/signet-iot/signet"
)

// TestTake: what is let through, held back and refused, as time goes by and as the
// limits are changed.
func TestTake(t *testing.T) {
	now := time.Now()
	l := New(func() time.Time { return now })
	of := signet.Hub{Name: "hub"}
	limit := func(perHub, perDevice float64) {
		of.Limits = signet.Limits{Messages: signet.Rate{PerHub: perHub, PerDevice: perDevice}}
	}
	take := func(device string, n int, mayWait time.Duration) string {
		wait, err := l.Take(of, device, signet.MeterMessages, n, mayWait)
		if e, refused := errors.AsType[*signet.Error](err); refused {
			return fmt.Sprint("no, in ", e.RetryAfter.Round(time.Millisecond), e.Code)
		}
		return wait.Round(time.Millisecond).String()
	}
	for n, c := range []struct {
		after             time.Duration
		perHub, perDevice float64
		device            string
		n                 int
		mayWait           time.Duration
		want              string
	}{
		{0, 0, 0, "a", 1000, 0, "0s"}, // no limit
		{0, 0, 2, "a", 1, 0, "0s"},
		{0, 0, 2, "a", 1, 0, "0s"}, // a second's worth at once
		{0, 0, 2, "a", 1, 0, "no, in 500mslimit.rate"},
		{0, 0, 2, "b", 1, 0, "0s"}, // each for itself
		{0, 0, 2, "a", 1, time.Minute, "500ms"},
		{0, 0, 2, "a", 1, time.Minute, "1s"}, // in line
		{0, 0, 2, "a", 1, time.Second, "no, in 1.5slimit.rate"},
		{2 * time.Second, 0, 2, "a", 1, 0, "0s"},
		{time.Hour, 0, 2, "a", 1, 0, "0s"},
		{0, 0, 2, "a", 1, 0, "0s"},
		{0, 0, 2, "a", 1, 0, "no, in 500mslimit.rate"},  // an hour fills no more than a second's
		{0, 0, 100, "a", 1, 0, "no, in 10mslimit.rate"}, // changed: it fills faster at once
		{time.Second, 0, 100, "a", 250, 0, "0s"},        // more than it holds, when it is full
		{time.Second, 0, 100, "a", 1, 0, "no, in 510mslimit.rate"},
		{0, 0, 0, "a", 1, 0, "0s"}, // lifted
		{0, 3, 0, "a", 1, 0, "0s"},
		{0, 3, 0, "b", 1, 0, "0s"}, // of the hub in all
		{0, 3, 0, "", 1, 0, "0s"},
		{0, 3, 0, "c", 1, 0, "no, in 333mslimit.rate"},
		{time.Hour, 1, 0.1, "slow", 1, 0, "0s"}, // less than one a second is one at a time
		{time.Second, 1, 0.1, "slow", 1, 0, "no, in 9slimit.rate"},
		{0, 1, 0.1, "other", 1, 0, "0s"}, // what a device is refused counts nothing of the hub's
		{0, 1, 0.1, "third", 1, 0, "no, in 1slimit.rate"},
	} {
		now = now.Add(c.after)
		limit(c.perHub, c.perDevice)
		if got := take(c.device, c.n, c.mayWait); got != c.want {
			t.Errorf("%d: %s takes %d of %v/%v: %s, not %s", n, c.device, c.n, c.perHub, c.perDevice, got, c.want)
		}
	}

	// Other meters and hubs have buckets of their own.
	of.Limits = signet.Limits{Messages: signet.Rate{PerHub: 1}, Twins: signet.Rate{PerHub: 1}}
	if _, err := l.Take(of, "a", signet.MeterTwins, 1, 0); err != nil {
		t.Error(err)
	}
	of.Name = "another"
	if got := take("a", 1, 0); got != "0s" {
		t.Error(got)
	}
	l.Forget("another")
	if got := take("a", 1, 0); got != "0s" {
		t.Error("a hub made anew has the buckets of the old:", got)
	}
}

// TestBounded: more devices than there is room for cost no more memory, and those
// that are held back stay so while there is.
func TestBounded(t *testing.T) {
	now := time.Now()
	l := New(func() time.Time { return now })
	l.most = 1000
	of := signet.Hub{Name: "hub", Limits: signet.Limits{Messages: signet.Rate{PerDevice: 1}}}
	take := func(device string) error {
		_, err := l.Take(of, device, signet.MeterMessages, 1, 0)
		return err
	}
	for n := range 5000 {
		now = now.Add(4 * time.Millisecond) // each is full again after 250 others
		if err := take(fmt.Sprint("d", n)); err != nil {
			t.Fatal(err)
		}
		if take(fmt.Sprint("d", max(0, n-200))) == nil && n > 200 {
			t.Fatal("one that has had its turn has another")
		}
		if len(l.buckets) > l.most {
			t.Fatalf("%d buckets", len(l.buckets))
		}
	}
	for n := range 5000 { // and when none is full again
		if err := take(fmt.Sprint("e", n)); err != nil || len(l.buckets) > l.most {
			t.Fatal(err, len(l.buckets))
		}
	}
}

func BenchmarkTake(b *testing.B) {
	l := New(nil)
	of := signet.Hub{Name: "hub", Limits: signet.Limits{Messages: signet.Rate{PerHub: 1e6, PerDevice: 1e6}}}
	b.ReportAllocs()
	for b.Loop() {
		l.Take(of, "press-17", signet.MeterMessages, 1, time.Minute)
	}
}
