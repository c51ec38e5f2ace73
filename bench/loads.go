package bench

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// ConnectOptions of [Connect].
type ConnectOptions struct {
	Count    int // connects to measure
	Parallel int // at a time
	// Unseen has each device connect once, below CAs of its own, and measures that: no
	// part of a path has been seen before. Count is the devices of the fleet.
	Unseen bool
}

// settle is what a server gets to write behind what it has learnt.
const settle = 1500 * time.Millisecond

// Connect has devices connect and disconnect, one full handshake each or, when
// the target resumes, one that is resumed. Each device of the fleet has connected
// once before, which is not measured, unless none shall have been seen.
func Connect(ctx context.Context, t *Target, f *Fleet, o ConnectOptions) (r Result, err error) {
	if o.Count < 1 || o.Count > MaxConnects || o.Parallel < 1 || o.Parallel > 256 {
		return r, errors.New("1 to 1000000 connects can be, and 1 to 256 at a time")
	}
	var took waits
	var resumed atomic.Int64
	var described sync.Once
	visit := func(n int) error {
		began := time.Now()
		d, err := t.dial(ctx, f, n%len(f.pairs))
		if err != nil {
			return err
		}
		took.add(time.Since(began))
		state := d.conn.ConnectionState()
		if state.DidResume {
			resumed.Add(1)
		}
		described.Do(func() { r.TLS = tls.VersionName(state.Version) + " " + state.CurveID.String() })
		d.leave()
		return nil
	}
	if o.Unseen {
		if o.Count = len(f.pairs); t.Resume {
			return r, errors.New("who has not been seen has no TLS session to resume")
		}
		if err := f.Scatter(); err != nil {
			return r, err
		}
	} else if err := cmp.Or(parallel(ctx, o.Parallel, len(f.pairs), visit), pause(ctx, settle)); err != nil {
		return r, err
	}
	took.all = nil
	resumed.Store(0)
	process := process(t.PID)
	before, began := process.cpu(), time.Now()
	if err := parallel(ctx, o.Parallel, o.Count, visit); err != nil {
		return r, err
	}
	r.measured("connect", o.Count, time.Since(began))
	r.CPU = (process.cpu() - before) / float64(o.Count)
	r.Resumed = int(resumed.Load())
	took.tell(&r)
	return r, nil
}

func (r *Result) measured(load string, operations int, took time.Duration) {
	r.Load, r.Operations, r.Seconds = load, operations, took.Seconds()
	if operations > 0 {
		r.PerSecond = float64(operations) / took.Seconds()
	}
}

// HoldOptions of [Hold].
type HoldOptions struct {
	Time  time.Duration // how long, once all have connected
	Every time.Duration // each device sends a message so often; 0 for never
	Size  int           // of a message's body, in bytes
}

// maxSilent is what the keep alive of the devices allows.
const maxSilent = 15 * time.Minute

// Hold has every device of the fleet connect and stay: silent, or with a message
// now and then. An operation is a connection; what is waited for is a PUBACK, or
// the CONNACK when nothing is sent.
func Hold(ctx context.Context, t *Target, f *Fleet, o HoldOptions) (r Result, err error) {
	if o.Time > MaxTime {
		return r, fmt.Errorf("a load may last %v", MaxTime)
	}
	if o.Every == 0 && o.Time > maxSilent {
		return r, fmt.Errorf("devices that say nothing are held for %v at most", maxSilent)
	}
	process := process(t.PID)
	before, began := process.rss(), time.Now()
	var took waits
	devices, err := t.dialAll(ctx, f, len(f.pairs), &took)
	defer func() {
		for _, d := range devices {
			if d != nil {
				d.conn.Close()
			}
		}
	}()
	if err != nil {
		return r, err
	}
	r.measured("hold", len(devices), time.Since(began))
	r.RSSBegin = process.rss() / 1024
	used, sent := process.cpu(), 0
	if o.Every == 0 {
		if err := pause(ctx, o.Time); err != nil {
			return r, err
		}
	} else {
		// The first quarter is not measured: each device has its buffers then.
		for _, part := range []time.Duration{o.Time / 4, o.Time - o.Time/4} {
			took.all = nil
			r.RSSBegin, used = process.rss()/1024, process.cpu()
			o.Time = part
			if sent, err = t.chat(ctx, devices, o, &took); err != nil {
				return r, err
			}
		}
		r.measured("hold", sent, o.Time)
		r.CPU = (process.cpu() - used) / float64(max(sent, 1))
	}
	now := process.rss()
	r.RSSEnd = now / 1024
	r.RSS = (now - before) / float64(len(devices))
	took.tell(&r)
	return r, nil
}

// dialAll connects the first n devices of the fleet.
func (t *Target) dialAll(ctx context.Context, f *Fleet, n int, took *waits) ([]*device, error) {
	devices := make([]*device, n)
	err := parallel(ctx, 8, n, func(n int) (err error) {
		began := time.Now()
		devices[n], err = t.dial(ctx, f, n)
		took.add(time.Since(began))
		return err
	})
	return devices, err
}

// chat has each device send a message every so often, spread over that time.
func (t *Target) chat(ctx context.Context, devices []*device, o HoldOptions, took *waits) (int, error) {
	end := time.Now().Add(o.Time)
	var sent atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, len(devices))
	for _, d := range devices {
		wg.Go(func() {
			packet := t.packet(d.id, o.Size)
			for next := time.Now().Add(rand.N(o.Every)); next.Before(end); next = next.Add(o.Every) {
				if pause(ctx, time.Until(next)) != nil {
					return
				}
				began := time.Now()
				if err := d.send(packet); err != nil {
					errs <- err
					return
				}
				took.add(time.Since(began))
				sent.Add(1)
			}
		})
	}
	wg.Wait()
	close(errs)
	return int(sent.Load()), errors.Join(<-errs, ctx.Err())
}

// send sends a message and waits for its PUBACK.
func (d *device) send(packet []byte) error {
	d.conn.SetDeadline(time.Now().Add(patience))
	if _, err := d.conn.Write(packet); err != nil {
		return err
	}
	return d.acknowledged()
}

// PublishOptions of [Publish].
type PublishOptions struct {
	Time   time.Duration
	Size   int // of a message's body, in bytes
	Window int // messages of a device that may wait for their PUBACK
}

// Publish has every device of the fleet send messages of QoS 1, as many at a time
// as its window has.
func Publish(ctx context.Context, t *Target, f *Fleet, o PublishOptions) (r Result, err error) {
	if o.Time > MaxTime || o.Window < 1 || o.Window > 1024 || o.Size < 0 || o.Size > 256<<10 {
		return r, fmt.Errorf("a load may last %v, with a window of 1 to 1024 messages of 256 KiB at most", MaxTime)
	}
	var took waits
	devices, err := t.dialAll(ctx, f, len(f.pairs), &took)
	defer func() {
		for _, d := range devices {
			if d != nil {
				d.leave()
			}
		}
	}()
	if err != nil {
		return r, err
	}
	took.all = nil
	process := process(t.PID)
	before, began := process.cpu(), time.Now()
	end := began.Add(o.Time)
	var wg sync.WaitGroup
	errs := make(chan error, len(devices))
	for _, d := range devices {
		wg.Go(func() {
			packet := t.packet(d.id, o.Size)
			d.conn.SetDeadline(end.Add(patience))
			under := make([]time.Time, 0, o.Window) // when each was sent that is under way
			var mine []time.Duration
			for ctx.Err() == nil {
				now := time.Now()
				for ; len(under) < o.Window && now.Before(end); under = append(under, now) {
					if _, err := d.conn.Write(packet); err != nil {
						errs <- err
						return
					}
				}
				if len(under) == 0 {
					break
				}
				if err := d.acknowledged(); err != nil {
					errs <- err
					return
				}
				mine = append(mine, time.Since(under[0]))
				under = under[:copy(under, under[1:])]
			}
			took.add(mine...)
		})
	}
	wg.Wait()
	close(errs)
	if err := errors.Join(<-errs, ctx.Err()); err != nil {
		return r, err
	}
	r.measured("publish", len(took.all), time.Since(began))
	r.CPU = (process.cpu() - before) / float64(max(len(took.all), 1))
	took.tell(&r)
	return r, nil
}

// StormOptions of [Storm].
type StormOptions struct {
	// Limit is when the storm is given up.
	Limit time.Duration
}

// Storm has all devices of the fleet come at once, and each try again, after up
// to a second, until it is let in.
func Storm(ctx context.Context, t *Target, f *Fleet, o StormOptions) (r Result, err error) {
	if o.Limit > MaxTime {
		return r, fmt.Errorf("a load may last %v", MaxTime)
	}
	storm, give := context.WithTimeout(ctx, o.Limit)
	defer give()
	var took waits
	process := process(t.PID)
	used, began := process.cpu(), time.Now()
	devices := make([]*device, len(f.pairs))
	failed := make(chan error, len(f.pairs))
	var retries atomic.Int64
	var all sync.WaitGroup
	for n := range devices {
		all.Go(func() {
			for {
				d, err := t.dial(storm, f, n)
				if err == nil {
					devices[n] = d
					took.add(time.Since(began))
					return
				}
				retries.Add(1)
				if pause(storm, rand.N(time.Second)) != nil {
					failed <- fmt.Errorf("not in after %v: %w", o.Limit, err)
					return
				}
			}
		})
	}
	all.Wait()
	r.measured("storm", len(devices), time.Since(began))
	r.CPU = (process.cpu() - used) / float64(len(devices))
	for _, d := range devices {
		if d != nil {
			d.conn.Close()
		}
	}
	close(failed)
	if err := errors.Join(<-failed); err != nil {
		return r, err
	}
	r.Retries = int(retries.Load())
	took.tell(&r)
	return r, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
