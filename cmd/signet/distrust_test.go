package main

import (
	"testing"
	"time"

	"github.com/signet-iot/signet"
)

// TestTold: what a change cut, in words.
func TestTold(t *testing.T) {
	for _, c := range []struct {
		receipt signet.Receipt
		want    string
	}{
		{signet.Receipt{}, "no session rested on it"},
		{signet.Receipt{Sessions: 1, Closed: 1, Last: 412_300 * time.Nanosecond}, "cut 1 session, after 410µs"},
		{signet.Receipt{Sessions: 3, Closed: 3, Last: 2 * time.Millisecond}, "cut 3 sessions, the last after 2ms"},
		{signet.Receipt{Sessions: 10_000, Closed: 10_000, Last: 582_345 * time.Microsecond}, "cut 10000 sessions, the last after 582ms"},
		{signet.Receipt{Sessions: 3, Closed: 2, Last: time.Millisecond}, "cut 3 sessions; 2 of the connections were closed within a second, the rest are closing"},
		{signet.Receipt{Sessions: 1}, "cut 1 session; 0 of the connections were closed within a second, the rest are closing"},
	} {
		if got := told(c.receipt); got != c.want {
			t.Errorf("%+v: %q, not %q", c.receipt, got, c.want)
		}
	}
}
