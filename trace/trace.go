// Package trace lets an operator see what the server saw: one trace for each
// connection or request, with what happened in it and when, kept in bounded
// rings and shown as a page (or as JSON) at /debug/traces.
//
// A trace costs a few hundred bytes while it can be seen, and an event one append
// to its text. What is shown may hold names that clients sent; tokens,
// keys and bodies have no place in a trace.
package trace

import (
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"
)

// The bounds. A family holds at most recent+slow+failed traces of maxText bytes
// each, 512 KiB in all.
const (
	recentTraces = 64 // the newest, living or finished
	slowTraces   = 16 // the newest that took longer than slowAfter
	failedTraces = 48 // the newest that ended with an error
	maxEvents    = 64
	maxText      = 4 << 10 // bytes of text of one trace
	maxValue     = 512     // bytes of one text in it
	maxFamilies  = 32

	// slowAfter is where people begin to wait.
	slowAfter = time.Second
)

// Traces are the traces of a server. Safe for concurrent use. A nil *Traces
// keeps nothing.
type Traces struct {
	mu       sync.Mutex
	families map[string]*family
	names    []string // of the families, in order of appearance
}

// A family is what the traces of one kind are kept in.
type family struct{ recent, slow, failed ring }

// New makes an empty set of traces.
func New() *Traces { return &Traces{families: map[string]*family{}} }

// Start begins a trace. The family is a name from the program, never one from a
// client; the title says who it is about, such as an address.
func (t *Traces) Start(familyName, title string) *Trace {
	if t == nil {
		return nil
	}
	tr := &Trace{traces: t, title: cut(title), start: time.Now()}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.families[familyName]
	if f == nil {
		if len(t.families) == maxFamilies {
			return nil
		}
		f = &family{ring{max: recentTraces}, ring{max: slowTraces}, ring{max: failedTraces}}
		t.families[familyName] = f
		t.names = append(t.names, familyName)
	}
	tr.family = f
	if old := f.recent.add(tr); old != nil {
		old.unseen()
	}
	return tr
}

// A Trace tells of one connection or request. Safe for concurrent use; every
// method of a nil *Trace does nothing.
type Trace struct {
	traces *Traces
	family *family
	title  string
	start  time.Time

	mu       sync.Mutex
	text     []byte // a line for each event: microseconds, tab, what
	events   int
	answered time.Duration // until Answered; zero before
	finished time.Duration // until Finish; zero while it lives
	out      bool          // pushed out of the recent ones
	err      string
}

// About adds to the title whom the trace is about, once that is known.
func (tr *Trace) About(name string) {
	if tr == nil {
		return
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.title = cut(tr.title + " " + name)
}

// Event adds what happened just now. Values are quoted where that is needed.
func (tr *Trace) Event(what string, attrs ...slog.Attr) {
	if tr == nil {
		return
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.event(what, attrs)
}

func (tr *Trace) event(what string, attrs []slog.Attr) {
	tr.events++
	if tr.events > maxEvents || len(tr.text) >= maxText {
		return // counted; the page says how many are left out
	}
	line := strconv.AppendInt(tr.text, time.Since(tr.start).Microseconds(), 10)
	line = append(line, '\t')
	line = appendText(line, what)
	for _, a := range attrs {
		line = append(append(append(line, ' '), a.Key...), '=')
		switch a.Value.Kind() {
		case slog.KindInt64:
			line = strconv.AppendInt(line, a.Value.Int64(), 10)
		case slog.KindUint64:
			line = strconv.AppendUint(line, a.Value.Uint64(), 10)
		default:
			line = appendText(line, a.Value.String())
		}
	}
	if len(line) >= maxText {
		tr.text = append(line[:maxText-len("...\n")], "...\n"...)
		return
	}
	tr.text = append(line, '\n')
}

// appendText adds text on one line, cut: as it is if it is printable ASCII,
// quoted if not.
func appendText(dst []byte, s string) []byte {
	s = cut(s)
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return strconv.AppendQuoteToASCII(dst, s)
		}
	}
	return append(dst, s...)
}

func cut(s string) string {
	if len(s) <= maxValue {
		return s
	}
	return s[:maxValue] + "..."
}

// Answered says that what the other side waited for is done; only the time until
// then can be slow. Without it, that is the time until Finish.
func (tr *Trace) Answered() {
	if tr == nil {
		return
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.answered == 0 {
		tr.answered = max(time.Since(tr.start), 1)
	}
	tr.letGo()
}

// unseen is told when a trace is pushed out of the recent ones.
func (tr *Trace) unseen() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.out = true
	tr.letGo()
}

// letGo lets go of the text of a trace that lives on where nobody sees it: some
// hundred bytes for each idle connection. Should it fail, it is shown with what
// comes from now on, and says how many events are left out.
func (tr *Trace) letGo() {
	if tr.out && tr.finished == 0 && 0 < tr.answered && tr.answered < slowAfter {
		tr.text = nil
	}
}

// Finish ends the trace, with an error or nil. What comes later is not recorded.
func (tr *Trace) Finish(err error) {
	if tr == nil {
		return
	}
	tr.mu.Lock()
	if tr.finished != 0 {
		tr.mu.Unlock()
		return
	}
	tr.finished = max(time.Since(tr.start), 1)
	if tr.answered == 0 {
		tr.answered = tr.finished
	}
	if err != nil {
		tr.err = cut(err.Error())
		tr.event(tr.err, nil)
	}
	tr.text = slices.Clip(tr.text)
	slow, failed := tr.answered >= slowAfter, err != nil
	tr.mu.Unlock()

	tr.traces.mu.Lock()
	defer tr.traces.mu.Unlock()
	if slow {
		tr.family.slow.add(tr)
	}
	if failed {
		tr.family.failed.add(tr)
	}
}

// A ring holds the newest max traces.
type ring struct {
	max    int
	traces []*Trace
	next   int // where the oldest lies once the ring is full
}

// add gives the trace that had to go, if one had.
func (r *ring) add(tr *Trace) (old *Trace) {
	if len(r.traces) < r.max {
		r.traces = append(r.traces, tr)
		return nil
	}
	old, r.traces[r.next] = r.traces[r.next], tr
	r.next = (r.next + 1) % r.max
	return old
}

// newestFirst gives what the ring holds.
func (r *ring) newestFirst() []*Trace {
	all := slices.Concat(r.traces[r.next:], r.traces[:r.next])
	slices.Reverse(all)
	return all
}
