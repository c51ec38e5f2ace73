package routes

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/egress"
	"github.com/signet-iot/signet/hub"
)

const (
	// maxBatch and maxBody bound what is posted: a sink is not asked for more than
	// this at once. One message may be larger alone: text of 256 KiB can be six
	// times that in JSON.
	maxBatch = 100
	maxBody  = 512 << 10
	// linger is how long a batch waits for more once it has one.
	linger = 50 * time.Millisecond
	// postTime bounds one attempt, from the connection to the end of the answer.
	postTime = 15 * time.Second
	// maxAnswer is read of an answer, so that its connection can be used again.
	maxAnswer = 4 << 10

	leastPause = time.Second
	mostPause  = 5 * time.Minute // also when a sink asks for longer
	// maxRefusals is how often a sink has to say that it will never take a batch.
	maxRefusals = 3
	// skipped is how many messages are passed over before the cursor is moved.
	skipped = 1000
)

// A worker is a route at work. What stands above mu belongs to the goroutine of
// run.
type worker struct {
	r      *Routes
	route  signet.Route
	secret []byte
	client *http.Client

	cursor  signet.Position
	failing time.Time          // since when the sink takes nothing; zero while it does
	buried  *signet.DeadLetter // the last one, while what follows may join it
	ahead   *item              // what did not fit in the last batch

	wake    chan struct{} // has room for one
	replays atomic.Bool   // there may be dead letters to be sent again
	stop    context.CancelFunc
	over    chan struct{}

	mu       sync.Mutex
	waiting  time.Time
	failures int
	fault    string
	next     time.Time
}

func newWorker(r *Routes, p Progress) *worker {
	w := &worker{r: r, route: p.Route, cursor: p.Cursor, wake: make(chan struct{}, 1), over: make(chan struct{})}
	w.secret, _ = secretKey(p.Secret) // that is in the store is one
	w.client = &http.Client{
		Transport: egress.Transport(p.AllowPrivate),
		// A sink is where its owner said; elsewhere nothing is sent.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	w.replays.Store(true)
	return w
}

// nudge has the worker look for what is to be sent again, and try now what it
// waits to try.
func (w *worker) nudge() {
	w.replays.Store(true)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run works until ctx ends.
func (w *worker) run(ctx context.Context) {
	defer close(w.over)
	defer w.client.CloseIdleConnections()
	for ctx.Err() == nil {
		if err := w.follow(ctx); ctx.Err() == nil {
			w.r.Logger.Warn("a route cannot read the message log", "hub", w.route.Hub, "route", w.route.Name, "error", err)
			w.r.pause(ctx, leastPause, w.wake)
		}
	}
}

// item is a message of the route, or, without one, a place that it has passed.
type item struct {
	at      signet.Position
	message *signet.Message
}

// begin sees where to read on. A cursor ahead of the log is of another, which was here
// before: all that this one holds is new, and would be passed over until it has come as
// far. Of an empty log whatever comes is new, and its numbers may be small.
func (w *worker) begin(ctx context.Context) (hub.Start, error) {
	_, last, _, err := w.r.Log.Ends(ctx, w.route.Hub)
	switch {
	case err != nil:
		return hub.Start{}, err
	case w.cursor == (signet.Position{}):
		return hub.Start{Time: w.route.From}, nil
	case last.Sequence >= w.cursor.Sequence:
		return hub.Start{After: w.cursor}, nil
	case last != (signet.Position{}):
		w.r.Logger.Warn("a route is ahead of the message log, which is another than it has read; it begins where that begins",
			"hub", w.route.Hub, "route", w.route.Name, "cursor", w.cursor, "last", last)
	}
	w.advance(ctx, signet.Position{}) // before the log comes as far and the sink has taken nothing
	return hub.Start{}, nil
}

// follow delivers what comes for as long as the log can be read.
func (w *worker) follow(ctx context.Context) error {
	from, err := w.begin(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	items, ended := make(chan item), make(chan error, 1)
	go func() { ended <- w.read(ctx, from, items) }()
	w.ahead = nil
	for {
		if w.replays.Swap(false) {
			w.replay(ctx)
		}
		var first item
		switch {
		case w.ahead != nil:
			first, w.ahead = *w.ahead, nil
		default:
			select {
			case first = <-items:
			case <-w.wake:
				continue
			case err := <-ended:
				cancel()
				return err
			}
		}
		w.deliver(ctx, w.gather(first, items))
		if ctx.Err() != nil {
			cancel()
			return <-ended
		}
	}
}

// read reads the log.
func (w *worker) read(ctx context.Context, from hub.Start, items chan<- item) error {
	passed := 0
	return w.r.Log.Read(ctx, w.route.Hub, from, true, func(at signet.Position, m *signet.Message) bool {
		it := item{at: at}
		if w.route.Takes(m) {
			it.message, passed = m, 0
		} else if passed++; passed < skipped {
			return ctx.Err() == nil
		} else {
			passed = 0
		}
		select {
		case items <- it:
			return true
		case <-ctx.Done():
			return false
		}
	})
}

// A batch is what is posted together.
type batch struct {
	body        []byte // of messages, joined by commas
	count       int
	first, last signet.Position
	from, to    time.Time       // enqueued, the first and the last
	end         signet.Position // where the cursor is when it is done
	parts       []part
	apart       bool // it is one of a batch that was refused
}

// A part is a message in a batch: its end in the body, and what the log says of it.
// The message itself would keep more of the log in memory than it is of.
type part struct {
	end      int
	at       signet.Position
	enqueued time.Time
}

func (b *batch) add(w *worker, it item) {
	b.end = it.at
	if it.message == nil {
		return
	}
	if b.count == 0 {
		b.first, b.from = it.at, it.message.EnqueuedTime
	} else {
		b.body = append(b.body, ',')
	}
	b.body = bytes.TrimSuffix(it.message.JSON(b.body, it.at), []byte("\n"))
	b.last, b.to = it.at, it.message.EnqueuedTime
	b.parts = append(b.parts, part{len(b.body), b.last, b.to})
	b.count++
}

// room says whether another message fits.
func (b *batch) room(it item) bool {
	return b.count == 0 || it.message == nil || b.count < maxBatch && len(b.body)+len(it.message.Body) < maxBody
}

// gather makes a batch of what comes within a moment.
func (w *worker) gather(first item, items <-chan item) *batch {
	b := &batch{}
	b.add(w, first)
	if b.count == 0 {
		return b
	}
	enough := time.NewTimer(linger)
	defer enough.Stop()
	for {
		select {
		case it := <-items:
			if !b.room(it) {
				w.ahead = &it
				return b
			}
			b.add(w, it)
		case <-enough.C:
			return b
		}
	}
}

// deliver posts a batch until it is taken, or given up, or ctx ends. One that is
// refused is given up message by message.
func (w *worker) deliver(ctx context.Context, b *batch) {
	if b.count == 0 {
		w.advance(ctx, b.end)
		return
	}
	w.tell(func() { w.waiting = b.from })
	defer w.tell(func() { w.waiting, w.next = time.Time{}, time.Time{} })
	retry := time.Duration(w.route.RetrySeconds) * time.Second
	refusals := 0
	for attempt := 1; ; attempt++ {
		now := w.r.Now()
		if !w.failing.IsZero() && now.Sub(w.failing) >= retry && now.Sub(b.to) >= retry {
			w.bury(ctx, b, "the sink has taken nothing since "+w.failing.UTC().Format(time.RFC3339)+": "+w.fault, true)
			return
		}
		fault := w.post(ctx, b, attempt)
		if ctx.Err() != nil {
			return
		}
		if fault == nil {
			w.failing, w.buried = time.Time{}, nil
			w.tell(func() { w.failures, w.fault = 0, "" })
			w.advance(ctx, b.end)
			return
		}
		d := min(max(egress.BackOff(attempt, leastPause, mostPause), fault.after), mostPause)
		w.tell(func() { w.failures++; w.fault, w.next = fault.text, w.r.Now().Add(d) })
		if fault.refused {
			if refusals++; refusals == maxRefusals && b.count > 1 {
				w.takeApart(ctx, b)
				return
			}
			if refusals == maxRefusals || b.apart {
				w.bury(ctx, b, fault.text, b.apart)
				if w.failing.IsZero() {
					w.failing = now // if it takes nothing else either
				}
				return
			}
		} else if w.failing.IsZero() {
			w.failing = now
			w.r.Logger.Warn("a webhook cannot be reached", "hub", w.route.Hub, "route", w.route.Name, "reason", fault.text)
		}
		w.r.pause(ctx, d, w.wake)
	}
}

// takeApart delivers the messages of a batch that was refused one by one, so that one
// that the sink will not take has no other go with it: they may be of any device.
func (w *worker) takeApart(ctx context.Context, b *batch) {
	for _, one := range b.single() {
		if w.deliver(ctx, one); ctx.Err() != nil {
			return
		}
	}
}

// single gives the messages of a batch as batches of one.
func (b *batch) single() []*batch {
	var all []*batch
	begin := 0
	for _, p := range b.parts {
		all = append(all, &batch{apart: true, body: b.body[begin:p.end], count: 1, first: p.at, last: p.at, from: p.enqueued, to: p.enqueued, end: p.at})
		begin = p.end + 1 // behind the comma
	}
	all[len(all)-1].end = b.end
	return all
}

func (w *worker) tell(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// A fault is why a sink has not taken a batch.
type fault struct {
	text    string
	refused bool          // it will never take this one
	after   time.Duration // it asks to be left alone for that long
}

// post makes one attempt.
func (w *worker) post(ctx context.Context, b *batch, attempt int) *fault {
	f := w.try(ctx, b, attempt)
	if ctx.Err() != nil {
		return f
	}
	outcome := "delivered"
	if f != nil {
		outcome = "failed"
	} else {
		w.r.metrics.messages.WithLabelValues(w.route.Hub, w.route.Name, "delivered").Add(float64(b.count))
	}
	w.r.metrics.attempts.WithLabelValues(w.route.Hub, w.route.Name, outcome).Inc()
	return f
}

func (w *worker) try(ctx context.Context, b *batch, attempt int) *fault {
	ctx, cancel := context.WithTimeout(ctx, postTime)
	defer cancel()
	head, _ := json.Marshal(map[string]string{"hub": w.route.Hub, "route": w.route.Name}) // maps of text have a JSON
	body := make([]byte, 0, len(head)+len(b.body)+20)
	body = append(append(append(append(body, head[:len(head)-1]...), `,"messages":[`...), b.body...), "]}"...)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.route.URL, bytes.NewReader(body))
	if err != nil {
		return &fault{text: "the URL cannot be used"}
	}
	// Standard Webhooks: the signature is over the ID, the time and the body.
	id := b.first.String() + "-" + b.last.String()
	at := strconv.FormatInt(w.r.Now().Unix(), 10)
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("User-Agent", "signet")
	r.Header.Set("Webhook-Id", id)
	r.Header.Set("Webhook-Timestamp", at)
	r.Header.Set("Webhook-Signature", sign(w.secret, id, at, body))
	r.Header.Set("Signet-Attempt", strconv.Itoa(attempt))
	response, err := w.client.Do(r)
	if errors.Is(err, egress.ErrPrivate) {
		return &fault{text: forbidden().Message}
	}
	if err != nil {
		return &fault{text: "it cannot be reached: " + signet.Clip(egress.Reason(err))}
	}
	defer response.Body.Close()
	io.CopyN(io.Discard, response.Body, maxAnswer)
	switch status := response.StatusCode; {
	case status >= 200 && status < 300:
		return nil
	case status == http.StatusBadRequest, status == http.StatusRequestEntityTooLarge, status == http.StatusUnsupportedMediaType, status == http.StatusUnprocessableEntity:
		return &fault{text: fmt.Sprintf("it answers with the status %d", status), refused: true}
	case status >= 300 && status < 400:
		return &fault{text: fmt.Sprintf("it redirects, with the status %d; name the URL that it leads to", status)}
	default:
		f := &fault{text: fmt.Sprintf("it answers with the status %d", status)}
		if seconds, err := strconv.ParseUint(response.Header.Get("Retry-After"), 10, 16); err == nil {
			f.after = time.Duration(seconds) * time.Second
		}
		return f
	}
}

// sign gives a signature of version 1 of Standard Webhooks: HMAC-SHA256.
func sign(key []byte, id, at string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// advance moves the cursor. When that cannot be stored, what was delivered will be
// again after a restart.
func (w *worker) advance(ctx context.Context, to signet.Position) {
	w.cursor = to
	if err := w.r.Store.Advance(ctx, w.route.Hub, w.route.Name, to); err != nil && ctx.Err() == nil {
		w.r.Logger.Warn("how far a route has come could not be stored", "hub", w.route.Hub, "route", w.route.Name, "error", err)
	}
}

// bury gives a batch up: it is a dead letter before the cursor moves. joins says
// that it may be one with those beside it that were given up likewise.
func (w *worker) bury(ctx context.Context, b *batch, reason string, joins bool) {
	d := &signet.DeadLetter{ID: signet.NewETag(), First: b.first, FirstTime: b.from}
	if joins && w.buried != nil && w.buried.Messages+b.count <= maxBuried {
		copied := *w.buried
		d = &copied
	}
	d.Last, d.LastTime, d.Failed, d.Reason = b.last, b.to, w.r.Now().UTC().Truncate(time.Millisecond), reason
	d.Messages += b.count
	for {
		err := w.r.Store.Bury(ctx, w.route.Hub, w.route.Name, b.end, *d, MaxDeadLetters)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return // it will be tried again
		}
		w.r.Logger.Error("a dead letter could not be stored", "hub", w.route.Hub, "route", w.route.Name, "error", err)
		w.r.pause(ctx, leastPause, nil)
	}
	w.r.metrics.messages.WithLabelValues(w.route.Hub, w.route.Name, "dead").Add(float64(b.count))
	if w.buried == nil || w.buried.ID != d.ID {
		w.r.Logger.Warn("messages are dead letters", "hub", w.route.Hub, "route", w.route.Name, "first", d.First, "reason", reason)
	}
	w.cursor, w.buried = b.end, nil
	if joins {
		w.buried = d
	}
}

// replay sends the dead letters again that are asked for: once.
func (w *worker) replay(ctx context.Context) {
	dead, err := w.r.Store.DeadLetters(ctx, w.route.Hub, w.route.Name)
	if err != nil {
		if ctx.Err() == nil {
			w.r.Logger.Warn("dead letters could not be read", "hub", w.route.Hub, "route", w.route.Name, "error", err)
		}
		return
	}
	for _, d := range dead {
		if !d.Replay {
			continue
		}
		if w.buried != nil && w.buried.ID == d.ID {
			w.buried = nil // nothing joins it any more
		}
		if err := w.resend(ctx, &d); ctx.Err() != nil {
			return // it goes on at the next start
		} else if err != nil {
			w.r.Logger.Warn("a dead letter could not be sent again", "hub", w.route.Hub, "route", w.route.Name, "id", d.ID, "error", err)
		}
	}
}

// mostRefused is how many messages in a row a sink may refuse, each alone, before no more
// of a dead letter is sent again: it may refuse everything, and what is new waits.
const mostRefused = 1000

// resend sends one again: batch by batch, and what is refused so message by message. What
// is delivered is no part of it any more, and messages that are refused become one of their
// own once one behind them is not, so that those have their turn.
func (w *worker) resend(ctx context.Context, d *signet.DeadLetter) error {
	name := w.route.Name
	var reason string // why no more is sent
	var trouble error
	var refused signet.DeadLetter // of messages, since one was delivered

	// part makes what was refused a dead letter of its own.
	part := func() bool {
		if refused.Messages == 0 {
			return true
		}
		refused.Failed = w.r.Now().UTC().Truncate(time.Millisecond)
		if trouble = w.r.Store.Bury(ctx, w.route.Hub, name, w.cursor, refused, MaxDeadLetters); trouble != nil {
			reason = "what is refused could not be stored"
			return false
		}
		d.Messages -= refused.Messages
		d.First = after(refused.Last)
		refused = signet.DeadLetter{}
		return true
	}
	var send func(*batch) bool
	send = func(b *batch) bool {
		if refused.Messages >= mostRefused {
			reason = refused.Reason
			part()
			return false
		}
		switch failed := w.post(ctx, b, 1); {
		case failed == nil:
			if !part() {
				return false
			}
			d.Messages -= b.count
			d.First = after(b.last)
			return w.r.Store.SaveDeadLetter(ctx, w.route.Hub, name, *d) == nil || ctx.Err() == nil
		case !failed.refused:
			reason = failed.text
			return false
		case b.count > 1:
			for _, one := range b.single() {
				if !send(one) {
					return false
				}
			}
		default:
			if refused.Messages == 0 {
				refused = signet.DeadLetter{ID: signet.NewETag(), First: b.first, FirstTime: b.from}
			}
			refused.Last, refused.LastTime, refused.Reason = b.last, b.to, failed.text
			refused.Messages++
		}
		return true
	}

	b := &batch{}
	err := w.r.Log.Read(ctx, w.route.Hub, hub.Start{After: before(d.First)}, false, func(at signet.Position, m *signet.Message) bool {
		if d.Last.Before(at) {
			return false
		}
		it := item{at, m}
		if !w.route.Takes(m) {
			return true
		}
		if !b.room(it) {
			full := b
			if b = (&batch{}); !send(full) {
				return false
			}
		}
		b.add(w, it)
		return true
	})
	if err == nil && reason == "" && ctx.Err() == nil && b.count > 0 {
		send(b)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		reason = "the message log cannot be read"
	case reason != "":
	case refused.Messages > 0: // it is all that is left
		d.First, d.FirstTime, d.Last, d.LastTime, d.Messages, reason = refused.First, refused.FirstTime, refused.Last, refused.LastTime, refused.Messages, refused.Reason
	default:
		if d.Messages > 0 {
			w.r.Logger.Warn("the message log keeps some of a dead letter no longer", "hub", w.route.Hub, "route", name, "id", d.ID, "messages", d.Messages)
		}
		return w.r.Store.RemoveDeadLetter(ctx, w.route.Hub, name, d.ID)
	}
	d.Replay, d.Failed, d.Reason = false, w.r.Now().UTC().Truncate(time.Millisecond), reason
	return errors.Join(err, trouble, w.r.Store.SaveDeadLetter(ctx, w.route.Hub, name, *d))
}

// before and after are the places beside one.
func before(p signet.Position) signet.Position {
	switch {
	case p.Index > 0:
		return signet.Position{Sequence: p.Sequence, Index: p.Index - 1}
	case p.Sequence > 0:
		return signet.Position{Sequence: p.Sequence - 1, Index: math.MaxUint32}
	}
	return p
}

func after(p signet.Position) signet.Position {
	return signet.Position{Sequence: p.Sequence, Index: p.Index + 1}
}
