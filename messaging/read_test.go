package messaging

import (
	"testing"
	"testing/synctest"
	"time"
)

// Who reads rests after work, and only while others write; what he waited for who takes
// the records is no work.
func TestStepBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{m: &Messaging{}}
		for _, c := range []struct {
			stored, worked, rests time.Duration // stored so long ago
		}{
			{0, readStretch / 2, 0},
			{0, readStretch, readRest * readStretch},
			{0, 10 * time.Second, readRest * readLongest},
			{readBeside, 10 * time.Second, 0},
		} {
			now := time.Now()
			r.m.stored.Store(now.Add(-c.stored).UnixNano())
			next := r.stepBack(t.Context(), now.Add(-c.worked))
			if rested := time.Since(now); rested != c.rests {
				t.Errorf("after %v: rests %v, want %v", c.worked, rested, c.rests)
			}
			if kept := next.Before(now); kept != (c.worked < readStretch) {
				t.Errorf("after %v: its work goes on to count: %v", c.worked, kept)
			}
		}
	})
}
