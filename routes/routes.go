// Package routes sends messages of a hub's log on to webhooks: each route takes
// those that it asks for, signs them, and delivers them at least once, in the order
// of the log.
//
// # A route
//
// A route has two goroutines and a connection pool of its own, so that a sink that
// is slow or away delays no other and nothing of the hub. One goroutine reads the
// log, from the route's cursor; it holds one message and waits. The other gathers
// what comes into a batch, posts it, and tries again with growing pauses. The cursor
// is on disk, and moves when a batch is delivered, or given up and on disk as a dead
// letter: a crash in between delivers the batch again.
//
//	log ── Read, filter ──> batch ── POST ──> 2xx: the cursor moves
//	                                   └──> else again, later; given up: a dead letter
//
// # What is given up
//
// A message is tried for the route's retry time. A sink that answers 400, 413, 415
// or 422 says that it will never take the batch, and is believed at the third time:
// then its messages are tried one by one, and those that are refused are given up.
// A sink that has been away for the retry time is spared what has grown as old
// meanwhile: that becomes dead letters untried, so that a route never falls behind
// the log by more than this.
//
// A dead letter is a place in the log, and no copy: it can be sent again as long as
// the log keeps its messages.
package routes

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/egress"
	"github.com/signet-iot/signet/hub"
)

// Store keeps routes, how far each has come, and its dead letters. Its server is
// package store.
//
// Safe for concurrent use. A write is durable (fsync) when it returns nil, and
// either wholly there or not at all. A route goes with its hub, and dead letters
// with their route. Outcomes are [signet.ErrNotFound] and [signet.ErrFull]; any
// other error means that the outcome is unknown.
type Store interface {
	// Routes lists the routes of a hub by name, of all hubs for "", each with its
	// cursor: the place of the last message that it is done with.
	Routes(ctx context.Context, hub string) ([]Progress, error)
	// SaveRoute adds a route, or replaces one and leaves its cursor and dead letters.
	// It fails with ErrFull when the hub has most others, and with ErrNotFound
	// without the hub.
	SaveRoute(ctx context.Context, r signet.Route, most int) error
	// DeleteRoute fails with ErrNotFound when there is no such route.
	DeleteRoute(ctx context.Context, hub, name string) error
	// Advance moves the cursor of a route.
	Advance(ctx context.Context, hub, name string, to signet.Position) error
	// Bury moves the cursor of a route, and adds a dead letter, or replaces that of
	// the same ID but for its Replay, in one transaction; the first beyond most go.
	Bury(ctx context.Context, hub, name string, to signet.Position, d signet.DeadLetter, most int) error
	// DeadLetters lists the dead letters of a route, by their places.
	DeadLetters(ctx context.Context, hub, name string) ([]signet.DeadLetter, error)
	// MarkDeadLetters sets Replay of the dead letter of an ID, or of all for "", and
	// gives their number.
	MarkDeadLetters(ctx context.Context, hub, name, id string) (int, error)
	// SaveDeadLetter replaces a dead letter that is there; RemoveDeadLetter removes
	// one. Neither minds one that is gone.
	SaveDeadLetter(ctx context.Context, hub, name string, d signet.DeadLetter) error
	RemoveDeadLetter(ctx context.Context, hub, name, id string) error
}

// Progress is a route and how far it has come.
type Progress struct {
	signet.Route
	Cursor signet.Position
}

// Log is the message log. Its server is [hub.Hub]; see [hub.Messages].
type Log interface {
	Ends(ctx context.Context, hub string) (first, last signet.Position, enqueued time.Time, err error)
	Read(ctx context.Context, hub string, from hub.Start, follow bool, each func(signet.Position, *signet.Message) bool) error
}

// The bounds of routes.
const (
	// MaxRoutes is how many a hub may have: each has a reader of its own, with up to
	// 4 MiB ahead of it. Azure has ten endpoints.
	MaxRoutes = 10
	// MaxDeadLetters is how many are kept of a route; adjoining ones are one, up to
	// maxBuried messages.
	MaxDeadLetters = 1000
	maxBuried      = 10_000

	maxURL        = 1024
	maxPattern    = 256
	maxConditions = 8
	maxCondition  = 1024 // bytes of a name with its value

	defaultRetry = 24 * time.Hour
	minRetry     = time.Minute
	// maxRetry is well below a week, the log's usual retention: what the log has
	// dropped cannot be sent again.
	maxRetry = 72 * time.Hour
)

// Options of Routes. Store and Log are required.
type Options struct {
	Store      Store
	Log        Log
	Now        func() time.Time      // the clock; time.Now when nil
	Logger     *slog.Logger          // slog.Default when nil
	Registerer prometheus.Registerer // no metrics when nil

	pause func(context.Context, time.Duration, <-chan struct{}) // of tests; waits when nil
}

// Routes is the keeper of routes, and runs them. Safe for concurrent use.
type Routes struct {
	Options
	metrics metrics

	changing sync.Mutex // held by who changes routes, over what it asks of the store

	mu      sync.Mutex // held while nothing is asked
	running context.Context
	workers map[key]*worker
}

type key struct{ hub, name string }

// New makes a keeper; Run starts the routes.
func New(o Options) *Routes {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.pause == nil {
		o.pause = pause
	}
	r := &Routes{Options: o, workers: map[key]*worker{}}
	r.metrics = newMetrics(r, o.Registerer)
	return r
}

// pause waits for a time, unless ctx ends or someone wakes it.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-t.C:
	}
}

// Run runs the routes until ctx ends, and waits for them.
func (r *Routes) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.start(ctx)
		if err == nil {
			break
		}
		r.Logger.Error("the routes could not be read", "error", err)
		r.pause(ctx, leastPause, nil)
	}
	<-ctx.Done()
	r.mu.Lock()
	workers := slices.Collect(maps.Values(r.workers))
	r.mu.Unlock()
	for _, w := range workers {
		<-w.over
	}
}

func (r *Routes) start(ctx context.Context) error {
	r.changing.Lock()
	defer r.changing.Unlock()
	all, err := r.Store.Routes(ctx, "")
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = ctx
	for _, p := range all {
		r.employ(p)
	}
	return nil
}

// employ starts the worker of a route. It is called with mu held.
func (r *Routes) employ(p Progress) {
	if r.running == nil || r.running.Err() != nil {
		return
	}
	w := newWorker(r, p)
	r.workers[key{p.Hub, p.Name}] = w
	ctx, stop := context.WithCancel(r.running)
	w.stop = stop
	go w.run(ctx)
}

// dismiss stops the worker of a route, and waits for it.
func (r *Routes) dismiss(k key) {
	r.mu.Lock()
	w := r.workers[k]
	delete(r.workers, k)
	r.mu.Unlock()
	if w != nil {
		w.stop()
		<-w.over
		r.metrics.forget(k)
	}
}

// Forget ends the routes of a hub that has been deleted.
func (r *Routes) Forget(hub string) {
	r.changing.Lock()
	defer r.changing.Unlock()
	r.mu.Lock()
	names := slices.Collect(maps.Keys(r.workers))
	r.mu.Unlock()
	for _, k := range names {
		if k.hub == hub {
			r.dismiss(k)
		}
	}
}

var routeName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Put adds a route, or changes one: its cursor and dead letters stay, and its
// secret unless another is given. What is left open is filled in. made says whether
// it is new; the route is given back with its secret. It refuses with
// [signet.RouteMalformed], [signet.RouteForbidden] and [signet.LimitRoutes].
func (r *Routes) Put(ctx context.Context, route signet.Route) (_ signet.Route, made bool, err error) {
	if err := settle(&route); err != nil {
		return route, false, err
	}
	r.changing.Lock()
	defer r.changing.Unlock()
	old, err := r.one(ctx, route.Hub, route.Name)
	switch {
	case err == nil:
		route.Created, route.From = old.Created, old.From
		if route.Secret == "" {
			route.Secret = old.Secret
		}
	case signet.CodeOf(err) != signet.RouteUnknown:
		return route, false, err
	default:
		made = true
		route.Created = r.Now().UTC().Truncate(time.Millisecond)
		if route.Secret == "" {
			route.Secret = newSecret()
		}
	}
	k := key{route.Hub, route.Name}
	r.dismiss(k)
	saved := r.Store.SaveRoute(ctx, route, MaxRoutes)
	// A write that failed for a reason of the machine may have been kept: what runs
	// is what is stored.
	now, err := r.one(context.WithoutCancel(ctx), route.Hub, route.Name)
	if err == nil {
		r.mu.Lock()
		r.employ(now)
		r.mu.Unlock()
	}
	switch {
	case errors.Is(saved, signet.ErrFull):
		return route, false, signet.Refuse(signet.LimitRoutes, "The hub has %d routes.", MaxRoutes)
	case errors.Is(saved, signet.ErrNotFound):
		return route, false, signet.Refuse(signet.HubUnknown, "There is no hub %q any more.", route.Hub)
	case saved != nil:
		return route, false, saved
	}
	return route, made, err
}

// Delete removes a route with its dead letters. What is under way to its sink may
// still arrive. It refuses with [signet.RouteUnknown].
func (r *Routes) Delete(ctx context.Context, hub, name string) error {
	r.changing.Lock()
	defer r.changing.Unlock()
	if _, err := r.one(ctx, hub, name); err != nil {
		return err
	}
	k := key{hub, name}
	r.dismiss(k)
	deleted := r.Store.DeleteRoute(ctx, hub, name)
	if now, err := r.one(context.WithoutCancel(ctx), hub, name); err == nil { // it is still there
		r.mu.Lock()
		r.employ(now)
		r.mu.Unlock()
	}
	if errors.Is(deleted, signet.ErrNotFound) {
		return unknown(name)
	}
	return deleted
}

// one reads a route.
func (r *Routes) one(ctx context.Context, hub, name string) (Progress, error) {
	all, err := r.Store.Routes(ctx, hub)
	if err != nil {
		return Progress{}, err
	}
	for _, p := range all {
		if p.Name == name {
			return p, nil
		}
	}
	return Progress{}, unknown(name)
}

func unknown(name string) error {
	return signet.Refuse(signet.RouteUnknown, "There is no route %q.", signet.Clip(name))
}

// A State is a route, without its secret, and how it fares.
type State struct {
	signet.Route
	// Cursor is the place of the last message that it is done with.
	Cursor signet.Position `json:"cursor"`
	// Waiting is when the oldest message came that is being tried; zero when none is.
	Waiting time.Time `json:"waiting,omitzero"`
	// Failures are the attempts that failed since the last that did not; Fault is
	// why the last did, Next when it is tried again.
	Failures int       `json:"failures"`
	Fault    string    `json:"fault,omitempty"`
	Next     time.Time `json:"next,omitzero"`
	// DeadLetters is how many there are.
	DeadLetters int `json:"deadLetters"`
}

// List gives the routes of a hub, by name.
func (r *Routes) List(ctx context.Context, hub string) ([]State, error) {
	all, err := r.Store.Routes(ctx, hub)
	if err != nil {
		return nil, err
	}
	states := make([]State, 0, len(all))
	for _, p := range all {
		dead, err := r.Store.DeadLetters(ctx, hub, p.Name)
		if err != nil {
			return nil, err
		}
		states = append(states, r.state(p, len(dead)))
	}
	return states, nil
}

// Show gives one route with its dead letters. It refuses with
// [signet.RouteUnknown].
func (r *Routes) Show(ctx context.Context, hub, name string) (State, []signet.DeadLetter, error) {
	p, err := r.one(ctx, hub, name)
	if err != nil {
		return State{}, nil, err
	}
	dead, err := r.Store.DeadLetters(ctx, hub, name)
	return r.state(p, len(dead)), dead, err
}

func (r *Routes) state(p Progress, dead int) State {
	s := State{Route: p.Route, Cursor: p.Cursor, DeadLetters: dead}
	s.Secret = ""
	r.mu.Lock()
	w := r.workers[key{p.Hub, p.Name}]
	r.mu.Unlock()
	if w != nil {
		w.mu.Lock()
		s.Waiting, s.Failures, s.Fault, s.Next = w.waiting, w.failures, w.fault, w.next
		w.mu.Unlock()
	}
	return s
}

// Replay has dead letters of a route sent again, that of an ID or all for "", and
// says how many. It does not wait for that: what is delivered is gone from the
// list, what fails again is there with the reason. It refuses with
// [signet.RouteUnknown].
func (r *Routes) Replay(ctx context.Context, hub, name, id string) (n int, err error) {
	if _, err := r.one(ctx, hub, name); err != nil {
		return 0, err
	}
	if n, err = r.Store.MarkDeadLetters(ctx, hub, name, id); err != nil {
		return 0, err
	}
	if id != "" && n == 0 {
		return 0, signet.Refuse(signet.RouteUnknown, "The route %q has no dead letter %q.", name, signet.Clip(id)).
			FixBy("List them: signet route show %s", name)
	}
	r.mu.Lock()
	w := r.workers[key{hub, name}]
	r.mu.Unlock()
	if w != nil {
		w.nudge()
	}
	return n, nil
}

// settle fills in what is left open, and refuses what cannot be.
func settle(r *signet.Route) error {
	malformed := func(field, expected, actual string) error {
		return signet.Refuse(signet.RouteMalformed, "The %s of the route will not do.", field).At(field, expected, actual)
	}
	if !routeName.MatchString(r.Name) || r.Name == "." || r.Name == ".." {
		return malformed("name", "1 to 64 letters, digits and . _ -", r.Name)
	}
	if r.Sources == 0 {
		r.Sources = signet.FromTelemetry
	}
	if len(r.DeviceID) > maxPattern || strings.ContainsAny(r.DeviceID, "\x00\n") {
		return malformed("deviceId", "a device ID, in which * stands for any characters", r.DeviceID)
	}
	if len(r.Properties) > maxConditions {
		return malformed("properties", "8 at most", "more")
	}
	for name, value := range r.Properties {
		if name == "" || len(name)+len(value) > maxCondition || strings.ContainsRune(name+value, 0) {
			return malformed("properties", "names with their values, of at most 1024 bytes", name)
		}
	}
	if r.RetrySeconds == 0 {
		r.RetrySeconds = int(defaultRetry / time.Second)
	}
	if d := time.Duration(r.RetrySeconds) * time.Second; d < minRetry || d > maxRetry {
		return malformed("retrySeconds", "60 to 259200, three days", (time.Duration(r.RetrySeconds) * time.Second).String())
	}
	if _, err := secretKey(r.Secret); r.Secret != "" && err != nil {
		return malformed("secret", "whsec_ and base64 of 24 to 64 bytes", "") // never repeated
	}
	u, err := url.Parse(r.URL)
	switch {
	case err != nil || len(r.URL) > maxURL || u.Hostname() == "" || u.Opaque != "" || u.Scheme != "https" && u.Scheme != "http":
		return malformed("url", "https://HOST/PATH, of at most 1024 bytes", r.URL)
	case u.User != nil: // it would be shown and logged
		return malformed("url", "no user name and no password: the signature says who sends", "")
	case r.AllowPrivate:
		return nil
	case u.Scheme == "http":
		return signet.Refuse(signet.RouteForbidden, "Messages are not sent in clear over public networks.").At("url", "https", "http")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && egress.Private(ip) {
		return forbidden()
	}
	return nil
}

func forbidden() *signet.Error {
	return signet.Refuse(signet.RouteForbidden, "The webhook is at a private address.").At("address", "a public one", "a private one")
}

const secretPrefix = "whsec_"

func newSecret() string {
	var b [32]byte
	rand.Read(b[:])
	return secretPrefix + base64.StdEncoding.EncodeToString(b[:])
}

// secretKey reads the key in a secret.
func secretKey(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, secretPrefix)
	k, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(k) < 24 || len(k) > 64 {
		return nil, errors.New("not a secret")
	}
	return k, nil
}
