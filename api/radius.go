package api

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
)

// radiusLine is one line of POST /signet/radius: one of the three.
type radiusLine struct {
	Device *signet.DeviceFate `json:"device,omitempty"`
	// Devices is how many have been looked at so far: a sign of life.
	Devices *int64         `json:"devices,omitempty"`
	Radius  *signet.Radius `json:"radius,omitempty"` // the last line
	Error   *signet.Error  `json:"error,omitempty"`  // the last line, if it failed
}

// radiusBeat is how often it is said how far a radius has come: well within
// what a caller or a proxy takes for a dead connection.
const radiusBeat = 5 * time.Second

// POST /signet/radius (hypothesisBody) says what changes of trust would do, and
// makes none: a radiusLine a line, of each device to which it makes a difference,
// then the counts. With list=false the devices are left out.
func (c *call) radius() error {
	var body hypothesisBody
	if err := c.seesDevices(); err != nil {
		return err
	}
	if err := c.readSupposed(&body); err != nil {
		return err
	}
	if body.empty() {
		return signet.Refuse(signet.RequestMalformed, "No change of trust is named.").At("body", "without, verified, distrust, lift, crls, scopes or unscoped", "none")
	}
	now, then, err := c.suppositions(&body)
	if err != nil {
		return err
	}
	ctx, cancel := c.streaming()
	defer cancel()
	c.w.Header().Set("Content-Type", "application/x-ndjson")
	out := newLines(c.w)
	c.trace.Answered()
	defer out.close()
	write := func(l radiusLine) error {
		line, err := encode(l)
		if err != nil {
			return err
		}
		return out.write(line)
	}
	var r signet.Radius
	err = c.beating(ctx, func(devices int64) error { return write(radiusLine{Devices: &devices}) }, func(ctx context.Context, looked func(int64)) (err error) {
		r, err = c.Hub.Radius(ctx, c.hub.Name, c.Inventory, now, then, func(f *signet.DeviceFate, devices int64) error {
			looked(devices)
			switch {
			case f == nil:
				return ctx.Err()
			case c.r.URL.Query().Get("list") == "false":
				return nil
			}
			return write(radiusLine{Device: f})
		})
		return err
	})
	last := radiusLine{Radius: &r}
	if err != nil {
		if ctx.Err() == nil {
			c.Logger.Error("what a change of trust would do could not be worked out", "hub", c.hub.Name, "error", err)
		}
		last = radiusLine{Error: signet.AsError(err)}
	}
	_ = write(last) // to a caller that has gone there is nothing to say
	return nil
}

// suppositions gives what judges by what is trusted, and by what would be.
func (c *call) suppositions(b *hypothesisBody) (now, then *authority.Supposition, err error) {
	if now, err = c.Authority.Suppose(c.r.Context(), c.hub.Name, authority.Hypothesis{}); err != nil {
		return nil, nil, err
	}
	then, err = c.suppose(b)
	return now, then, err
}

// streaming gives a context for an answer that goes on until the caller leaves,
// the caller's token ends or the server drains.
func (c *call) streaming() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(c.r.Context())
	stop := context.AfterFunc(c.Draining, cancel)
	end := func() { stop(); cancel() }
	if c.expires.IsZero() {
		return ctx, end
	}
	ctx, expire := context.WithTimeout(ctx, c.expires.Sub(c.Now()))
	return ctx, func() { expire(); end() }
}

// beating has something worked out, and meanwhile says now and then how many
// devices have been looked at, also while others have their turn.
func (c *call) beating(ctx context.Context, beat func(devices int64) error, work func(ctx context.Context, looked func(devices int64)) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var devices atomic.Int64
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(radiusBeat)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if beat(devices.Load()) != nil {
					cancel()
					return
				}
			}
		}
	}()
	defer func() { cancel(); <-stopped }()
	return work(ctx, devices.Store)
}
