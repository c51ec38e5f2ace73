package api

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet"
)

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

// lines writes a stream that a person may be watching: a line is sent within a
// moment, and many lines that come at once are sent together.
type lines struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	control *http.ResponseController
	waiting bool   // something is written and not yet sent
	buf     []byte // of that, what is not even given to w
	stop    chan struct{}
	stopped chan struct{}
}

const (
	lineDelay    = 50 * time.Millisecond
	writeTimeout = 30 * time.Second // for a reader that has stopped reading
	lineBuffer   = 16 << 10         // a frame of HTTP/2 holds no more
)

// lines begins the answer: what fails from here on can only be told in it, or cut
// it short.
func (c *call) lines() *lines {
	c.w.Header().Set("Content-Type", "application/x-ndjson")
	l := &lines{w: c.w, control: http.NewResponseController(c.w), stop: make(chan struct{}), stopped: make(chan struct{})}
	// The server's time limits are for requests, not for streams.
	l.control.SetReadDeadline(time.Time{})
	l.extend()
	c.w.WriteHeader(http.StatusOK)
	l.control.Flush() // the caller sees that it is being served
	c.trace.Answered()
	go func() {
		defer close(l.stopped)
		tick := time.NewTicker(lineDelay)
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
				l.flush()
			}
		}
	}()
	return l
}

func (l *lines) extend() { l.control.SetWriteDeadline(time.Now().Add(writeTimeout)) }

func (l *lines) write(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.waiting {
		l.extend()
	}
	l.waiting = true
	if l.buf = append(l.buf, line...); len(l.buf) < lineBuffer {
		return nil
	}
	return l.pass()
}

// pass gives w what waits. It is called with mu held.
func (l *lines) pass() error {
	_, err := l.w.Write(l.buf)
	l.buf = l.buf[:0]
	return err
}

func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting {
		l.extend()
		l.pass() // who reads no more is noticed when the next is written
		l.control.Flush()
		l.waiting = false
	}
}

func (l *lines) close() {
	close(l.stop)
	<-l.stopped
	l.extend() // for what net/http still has to send
	l.pass()
}

// A fateLine is one line of an answer that tells what becomes of devices: of each
// to which it makes a difference, then of all. It has one of its members; Receipts
// go with Removed.
type fateLine struct {
	Device *signet.DeviceFate `json:"device,omitempty"`
	// Devices is how many have been looked at so far: a sign of life.
	Devices  *int64           `json:"devices,omitempty"`
	Radius   *signet.Radius   `json:"radius,omitempty"`
	Rollover *signet.Rollover `json:"rollover,omitempty"`
	// Removed is the CA that is gone, with what that did.
	Removed  string           `json:"removed,omitempty"`
	Receipts []signet.Receipt `json:"receipts,omitempty"`
	Error    *signet.Error    `json:"error,omitempty"` // the last line, if it failed
}

// fateBeat is how often it is said how many devices have been looked at: well
// within what a caller or a proxy takes for a dead connection.
const fateBeat = 5 * time.Second

// eachFate is told of what becomes of a device, or of none, and how many have been
// looked at.
type eachFate = func(fate *signet.DeviceFate, devices int64) error

// tellFates answers with fateLines: of the devices that look gives to each, unless
// the request has list=false, and now and then how many it has looked at, also
// while others have their turn; then what outcome tells.
func (c *call) tellFates(look func(ctx context.Context, each eachFate) error, outcome func(ctx context.Context, tell func(fateLine)) error) error {
	ctx, cancel := c.streaming()
	defer cancel()
	out := c.lines()
	defer out.close()
	tell := func(l fateLine) error {
		line, err := encode(l)
		if err != nil {
			return err
		}
		return out.write(line)
	}
	list := c.r.URL.Query().Get("list") != "false"
	err := beating(ctx, func(devices int64) error { return tell(fateLine{Devices: &devices}) }, func(ctx context.Context, looked func(devices int64)) error {
		return look(ctx, func(f *signet.DeviceFate, devices int64) error {
			looked(devices)
			if err := c.still(); err != nil {
				return err
			}
			if f == nil || !list {
				return ctx.Err()
			}
			return tell(fateLine{Device: f})
		})
	})
	if err == nil {
		err = outcome(ctx, func(l fateLine) { _ = tell(l) }) // to a caller that has gone there is nothing to say
	}
	if err != nil {
		if ctx.Err() == nil && signet.CodeOf(err) == signet.Internal {
			c.Logger.Error("what becomes of devices could not be worked out", "path", c.r.URL.Path, "hub", c.hub.Name, "error", err)
		}
		_ = tell(fateLine{Error: signet.AsError(err)})
	}
	return nil
}

// beating has something worked out, and meanwhile says now and then how many
// devices have been looked at, also while others have their turn.
func beating(ctx context.Context, beat func(devices int64) error, work func(ctx context.Context, looked func(devices int64)) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var devices atomic.Int64
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(fateBeat)
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
