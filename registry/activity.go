package registry

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/signet-iot/signet"
)

const (
	// activityEvery is how often what identities did is written: as late may a
	// query see that one has connected, and later while there is a rush.
	activityEvery = 2 * time.Second
	// activityPutOff is how often in a row, at most, that is put off in a rush: who makes
	// one for ever shall not hide that others have come.
	activityPutOff = 4
	// activityBatch bounds one transaction, so that others come in between.
	activityBatch = 500
	// maxSeen bounds what waits to be written while the store hangs. Beyond it, it
	// is forgotten that an identity has sent; that it has connected never is.
	maxSeen = 100_000
)

// activity is what is not written yet of who connects and sends. Telling of it
// never waits: a connect costs an entry in a map.
type activity struct {
	connected func(hub, device, module string) bool
	rush      func() bool

	mu      sync.Mutex                      // held with no other lock, never over I/O
	pending map[[2]string][]signet.Activity // by hub and device: of it and its modules
}

// Seen tells that an identity has sent something. It does not wait.
func (r *Registry) Seen(p *signet.Principal, at time.Time) {
	r.note(p, signet.Activity{LastActive: at})
}

// ConnectionChanged tells that an identity has connected, or is gone; which it is
// is asked when it is written, so that the order of the calls does not matter. It
// does not wait.
func (r *Registry) ConnectionChanged(p *signet.Principal, at time.Time) {
	r.note(p, signet.Activity{ConnectionUpdated: at})
}

func (r *Registry) note(p *signet.Principal, a signet.Activity) {
	l := &r.activity
	a.Hub, a.DeviceID, a.ModuleID, a.GenerationID = p.Hub, p.DeviceID, p.ModuleID, p.GenerationID
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(a)
}

// add puts what is new beside what waits, under l.mu.
func (l *activity) add(a signet.Activity) {
	key := [2]string{a.Hub, a.DeviceID}
	of := l.pending[key]
	if n := slices.IndexFunc(of, func(was signet.Activity) bool { return was.ModuleID == a.ModuleID }); n >= 0 {
		of[n] = later(of[n], a)
	} else if len(l.pending) < maxSeen || !a.ConnectionUpdated.IsZero() {
		l.pending[key] = append(of, a)
	}
}

// putBack has what could not be written wait again, behind what has come since, under
// l.mu.
func (l *activity) putBack(a signet.Activity) {
	of := l.pending[[2]string{a.Hub, a.DeviceID}]
	if n := slices.IndexFunc(of, func(since signet.Activity) bool { return since.ModuleID == a.ModuleID }); n >= 0 {
		of[n] = later(a, of[n])
		return
	}
	l.add(a)
}

// later joins two things that are known of one identity; what is of an earlier
// identity of the name does not count.
func later(was, now signet.Activity) signet.Activity {
	if was.GenerationID == now.GenerationID {
		if was.ConnectionUpdated.After(now.ConnectionUpdated) {
			now.ConnectionUpdated = was.ConnectionUpdated
		}
		if was.LastActive.After(now.LastActive) {
			now.LastActive = was.LastActive
		}
	}
	return now
}

// BeginActivity says of every identity that the store calls connected that it is
// not, since now: sessions do not outlive a process. It is called before the
// doors open.
func (r *Registry) BeginActivity(ctx context.Context) error {
	return r.store.NobodyConnected(ctx, r.stamp())
}

// RunActivity writes what identities do, behind them, until ctx ends; then once
// more.
func (r *Registry) RunActivity(ctx context.Context) {
	tick := time.NewTicker(activityEvery)
	defer tick.Stop()
	for over, put := false, 0; !over; {
		select {
		case <-tick.C:
			if put < activityPutOff && r.activity.rush() {
				put++
				continue
			}
			put = 0
		case <-ctx.Done():
			over = true
		}
		r.WriteActivity(context.WithoutCancel(ctx))
	}
}

// WriteActivity writes what has not been written yet. What cannot be is kept for
// the next time.
func (r *Registry) WriteActivity(ctx context.Context) {
	l := &r.activity
	l.mu.Lock()
	pending := l.pending
	l.pending = map[[2]string][]signet.Activity{}
	l.mu.Unlock()
	all := make([]signet.Activity, 0, len(pending))
	for _, of := range pending {
		for _, a := range of {
			a.Connected = l.connected(a.Hub, a.DeviceID, a.ModuleID)
			all = append(all, a)
		}
	}
	// In the order of keys, so that two who write do not wait for each other.
	slices.SortFunc(all, func(a, b signet.Activity) int {
		return cmp.Or(cmp.Compare(a.Hub, b.Hub), cmp.Compare(a.DeviceID, b.DeviceID), cmp.Compare(a.ModuleID, b.ModuleID))
	})
	for batch := range slices.Chunk(all, activityBatch) {
		store, cancel := context.WithTimeout(ctx, twinTime)
		err := r.store.SaveActivity(store, batch)
		cancel()
		if err == nil {
			continue
		}
		l.mu.Lock()
		for _, a := range batch {
			l.putBack(a)
		}
		l.mu.Unlock()
	}
}

// Activity gives what is known of devices, which are named in byte order, and of
// their modules, by [signet.IdentityName]; of what was never active, nothing.
func (r *Registry) Activity(ctx context.Context, hub string, devices ...string) (map[string]signet.Activity, error) {
	of := map[string]signet.Activity{}
	if len(devices) == 0 {
		return of, nil
	}
	list, err := r.store.Activity(ctx, hub, devices[0], devices[len(devices)-1])
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		of[signet.IdentityName(a.DeviceID, a.ModuleID)] = a
	}
	l := &r.activity
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, device := range devices {
		for _, a := range l.pending[[2]string{hub, device}] {
			name := signet.IdentityName(a.DeviceID, a.ModuleID)
			of[name] = later(of[name], a)
		}
	}
	return of, nil
}
