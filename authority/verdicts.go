package authority

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/signet-iot/signet"
)

func sameName(a, b string) bool { return strings.EqualFold(a, b) }

// VerdictLog keeps refusals for people: each is logged and stored once, and one
// that repeats is counted. Refusals come from strangers, so everything here is
// bounded: what is held in memory, what is stored, and how much of either a
// second can add. Safe for concurrent use.
type VerdictLog struct {
	store  VerdictStore
	now    func() time.Time
	log    *slog.Logger
	keep   int
	window time.Duration

	mu      sync.Mutex
	open    map[verdictKey]*openVerdict // verdicts whose window has not passed
	dropped int64                       // refusals beyond the bounds since the last flush
	forgets int                         // counts the calls of Forget

	flush chan chan struct{} // asks the writer to store what is open now
	done  chan struct{}
}

// VerdictOptions of a VerdictLog. The zero value works.
type VerdictOptions struct {
	Now    func() time.Time // the clock; time.Now when nil
	Logger *slog.Logger     // slog.Default() when nil
	// Keep is how many verdicts of a hub are stored; the oldest go first.
	// 10,000 when 0: some 10 MiB, and weeks of an honest fleet.
	Keep int
}

const (
	// maxOpenVerdicts bounds the distinct refusals in a window, hence the memory
	// (about 1 KiB each) and the rows written a second: beyond it they are only
	// counted.
	maxOpenVerdicts = 2000
	// verdictWindow is how long repeats of one refusal are counted together.
	verdictWindow = time.Minute
	// verdictFlush is how often what is new is stored. Verdicts acknowledge
	// nothing, so they may lag.
	verdictFlush = 250 * time.Millisecond
	// maxVerdictText bounds each text of a verdict, in bytes: no sentence of ours
	// is as long, so it is what strangers wrote that is cut.
	maxVerdictText = 1024
	// repeatFlush is how often at most the count of one that repeats is stored
	// again: a flood must not keep the store's writer busy.
	repeatFlush = 5 * time.Second
)

// verdictKey says which refusals are the same one repeated.
type verdictKey struct {
	code                    signet.Code
	door                    signet.Door
	remote, hub, device, id string
}

type openVerdict struct {
	verdict signet.Verdict
	unsaved bool
	saved   time.Time // when it last was
}

// NewVerdictLog makes a VerdictLog and starts its writer, which ends with Close.
func NewVerdictLog(store VerdictStore, o VerdictOptions) *VerdictLog {
	l := &VerdictLog{store: store, now: o.Now, log: o.Logger, keep: o.Keep, window: verdictWindow,
		open: map[verdictKey]*openVerdict{}, flush: make(chan chan struct{}), done: make(chan struct{})}
	if l.now == nil {
		l.now = time.Now
	}
	if l.log == nil {
		l.log = slog.Default()
	}
	if l.keep == 0 {
		l.keep = 10_000
	}
	go l.write()
	return l
}

// Record takes a refusal; it fills in time, step and tracking ID, and returns
// the tracking ID: that of the first when the refusal is a repeat. It never
// waits and never fails.
func (l *VerdictLog) Record(v signet.Verdict) string {
	now := l.now().UTC().Truncate(time.Millisecond)
	key := verdictKey{v.Code, v.Door, v.Remote, v.Hub, v.DeviceID, v.ModuleID}
	if len(v.Chain) > 0 {
		key.id = v.Chain[0]
	}

	l.mu.Lock()
	if o, ok := l.open[key]; ok {
		o.verdict.Count++
		o.verdict.LastTime, o.unsaved = now, true
		l.mu.Unlock()
		return o.verdict.TrackingID
	}
	for _, text := range [...]*string{&v.Message, &v.Fix, &v.Expected, &v.Actual} {
		*text = cut(*text)
	}
	v.Step, v.Time, v.LastTime, v.Count = v.Code.Info().Step, now, now, 1
	if v.TrackingID == "" {
		v.TrackingID = signet.NewTrackingID()
	}
	full := len(l.open) >= maxOpenVerdicts
	if full {
		l.dropped++
	} else {
		l.open[key] = &openVerdict{verdict: v, unsaved: true}
	}
	l.mu.Unlock()

	if !full {
		l.log.Warn("refused", "code", v.Code, "message", v.Message, "trackingId", v.TrackingID,
			"door", v.Door, "remote", v.Remote, "hub", v.Hub, "device", signet.IdentityName(v.DeviceID, v.ModuleID),
			"certificate", subject(v.Certificate), "cause", cause(v.Cause))
	}
	return v.TrackingID
}

// cause gives the text of a cause, which may quote all that a stranger sent.
func cause(err error) string {
	if err == nil {
		return ""
	}
	return cut(err.Error())
}

func cut(text string) string {
	if len(text) <= maxVerdictText {
		return text
	}
	return strings.ToValidUTF8(text[:maxVerdictText], "") + "…"
}

func subject(c *signet.CertificateRef) string {
	if c == nil {
		return ""
	}
	return c.Subject + " serial " + c.Serial
}

// List gives stored verdicts, newest first, with what has been recorded until
// now.
func (l *VerdictLog) List(ctx context.Context, q VerdictQuery) ([]signet.Verdict, error) {
	l.settle(ctx)
	return l.store.Verdicts(ctx, q)
}

// Forget drops what is not stored yet of a hub that has been deleted: it is
// nothing to a hub made anew under the name.
func (l *VerdictLog) Forget(hub string) {
	l.mu.Lock()
	l.forgets++
	maps.DeleteFunc(l.open, func(_ verdictKey, o *openVerdict) bool { return o.verdict.Hub == hub })
	l.mu.Unlock()
	l.settle(context.Background()) // what the writer has in its hands
}

// settle waits until what has been recorded is stored, or ctx ends.
func (l *VerdictLog) settle(ctx context.Context) {
	stored := make(chan struct{})
	select {
	case l.flush <- stored:
	case <-l.done:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-stored:
	case <-ctx.Done():
	}
}

// Close stores what is open and ends the writer. Record may still be called; it
// then only logs.
func (l *VerdictLog) Close() {
	select {
	case l.flush <- nil:
		<-l.done
	case <-l.done:
	}
}

// write stores what is new, now and then, until Close.
func (l *VerdictLog) write() {
	defer close(l.done)
	tick := time.NewTicker(verdictFlush)
	defer tick.Stop()
	for rest := 0; ; {
		select {
		case <-tick.C:
			if rest > 0 {
				rest--
			} else if !l.save(repeatFlush) {
				rest = int(repeatFlush / verdictFlush)
			}
		case stored := <-l.flush:
			l.save(0)
			if stored == nil {
				return
			}
			close(stored)
		}
	}
}

// save stores what is new, and the counts of repeats that were last stored that
// long ago. It says whether the store took them.
func (l *VerdictLog) save(repeats time.Duration) bool {
	now := l.now()
	var vs []signet.Verdict
	taken := map[verdictKey]*openVerdict{}
	l.mu.Lock()
	forgets := l.forgets
	for key, o := range l.open {
		over := now.Sub(o.verdict.Time) >= l.window
		if o.unsaved && (over || now.Sub(o.saved) >= repeats) {
			vs, taken[key] = append(vs, o.verdict), o
			o.unsaved, o.saved = false, now
		}
		if over {
			delete(l.open, key)
		}
	}
	dropped := l.dropped
	l.dropped = 0
	l.mu.Unlock()

	if dropped > 0 {
		l.log.Warn("refusals beyond the bound are counted, not stored", "count", dropped)
	}
	if len(vs) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := l.store.SaveVerdicts(ctx, vs, l.keep)
	if err != nil {
		l.log.Error("verdicts could not be stored", "count", len(vs), "error", err)
		l.putBack(taken, forgets)
	}
	return err == nil
}

// putBack has verdicts that could not be stored wait again, as far as there is room: the
// first of a fault are those that tell of it. Those of a hub that has been forgotten
// meanwhile must not come back, so that then none does.
func (l *VerdictLog) putBack(taken map[verdictKey]*openVerdict, forgets int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgets != forgets {
		return
	}
	for key, o := range taken {
		switch there := l.open[key]; {
		case there == o:
			o.unsaved = true
		case there == nil && len(l.open) < maxOpenVerdicts:
			o.unsaved, l.open[key] = true, o
		default:
			l.dropped++
		}
	}
}
