package messaging

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
)

// TestReadsCutOff: readers that are cut off, at whatever moment, leave nothing behind in
// the server; by itself it would keep what is left for a minute.
func TestReadsCutOff(t *testing.T) {
	m, err := Open(t.Context(), Options{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	done := make(chan error, 1)
	m.Append(t.Context(), &signet.Message{Hub: "plant", DeviceID: "press-17", EnqueuedTime: time.Now()}, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for n := range 150 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*10*time.Microsecond)
		m.Read(ctx, "plant", hub.Start{}, true, func(signet.Position, *signet.Message) bool { return true })
		cancel()
	}
	info, err := m.stream.Info(t.Context())
	if err != nil || info.State.Consumers > 0 {
		t.Errorf("%d consumers are left: %v", info.State.Consumers, err)
	}
}

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
