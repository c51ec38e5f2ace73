package routes_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/routes"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// world is a store, a log and the routes over both, on a clock that the pauses of
// routes move.
type world struct {
	t       *testing.T
	store   *memstore.Store
	log     *memlog
	routes  *routes.Routes
	metrics *prometheus.Registry
	stop    func()

	mu     sync.Mutex
	now    time.Time
	pauses []time.Duration
	faults map[string]int // operations of the store that are yet to fail, by name
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, store: memstore.New(), log: &memlog{changed: make(chan struct{})}, now: noon}
	if err := w.store.CreateHub(t.Context(), signet.Hub{Name: "hub", HostName: "hub.test"}); err != nil {
		t.Fatal(err)
	}
	w.store.Before = func(operation string) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.faults[operation] > 0 {
			w.faults[operation]--
			return memstore.ErrFault
		}
		return nil
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start starts the routes, as a new process would.
func (w *world) start() {
	w.metrics = prometheus.NewRegistry()
	w.routes = routes.New(routes.Options{Store: w.store, Log: w.log, Logger: slog.New(slog.DiscardHandler), Registerer: w.metrics,
		Now: w.clock}.WithPause(func(_ context.Context, d time.Duration) {
		w.mu.Lock()
		w.pauses = append(w.pauses, d)
		w.now = w.now.Add(d)
		w.mu.Unlock()
	}))
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); w.routes.Run(ctx) }()
	w.stop = sync.OnceFunc(func() { cancel(); <-over })
	w.until("the routes run", func() bool { return w.routes.Workers() >= 0 })
}

func (w *world) clock() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *world) fail(operation string, times int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = map[string]int{operation: times}
}

func (w *world) put(r signet.Route) signet.Route {
	w.t.Helper()
	r.Hub = "hub"
	r, _, err := w.routes.Put(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// says puts messages of a device on the log, enqueued now.
func (w *world) says(device string, bodies ...string) {
	for _, body := range bodies {
		w.log.append(&signet.Message{Hub: "hub", DeviceID: device, Source: signet.SourceTelemetry, EnqueuedTime: w.clock(), Body: []byte(body)})
	}
}

func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("not in time: ", what)
		}
	}
}

func (w *world) show(name string) (routes.State, []signet.DeadLetter) {
	w.t.Helper()
	s, dead, err := w.routes.Show(w.t.Context(), "hub", name)
	if err != nil {
		w.t.Fatal(err)
	}
	return s, dead
}

func (w *world) cursor(name string) signet.Position { s, _ := w.show(name); return s.Cursor }

// memlog is a message log in memory: one record a batch.
type memlog struct {
	mu      sync.Mutex
	kept    []*signet.Message
	dropped int // of the oldest, by retention
	changed chan struct{}
}

func (l *memlog) append(m *signet.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, m)
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *memlog) Ends(context.Context, string) (first, last signet.Position, enqueued time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.kept); n > l.dropped {
		first, last, enqueued = signet.Position{Sequence: uint64(l.dropped + 1)}, signet.Position{Sequence: uint64(n)}, l.kept[n-1].EnqueuedTime
	}
	return first, last, enqueued, nil
}

func (l *memlog) Read(ctx context.Context, _ string, from hub.Start, follow bool, each func(signet.Position, *signet.Message) bool) error {
	for n := int(from.After.Sequence); ; n++ { // message n has the sequence n+1
		l.mu.Lock()
		n = max(n, l.dropped)
		for n == len(l.kept) && follow {
			changed := l.changed
			l.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
			l.mu.Lock()
		}
		if n >= len(l.kept) {
			l.mu.Unlock()
			return nil
		}
		m := l.kept[n]
		l.mu.Unlock()
		if !m.EnqueuedTime.Before(from.Time) && !each(signet.Position{Sequence: uint64(n + 1)}, m) {
			return ctx.Err()
		}
	}
}

// sink is a webhook. It keeps what it has taken.
type sink struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string // of requests
	taken    []string // bodies of messages, of requests answered 200
	answer   func(n int) int
}

func newSink(t *testing.T, answer func(n int) int) *sink {
	s := &sink{answer: answer}
	s.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests, s.bodies = append(s.requests, r), append(s.bodies, string(body))
		status := 200
		if s.answer != nil {
			status = s.answer(len(s.requests))
		}
		if status == 200 {
			var batch struct {
				Messages []struct{ Body string }
			}
			if err := json.Unmarshal(body, &batch); err != nil {
				t.Error(err)
			}
			for _, m := range batch.Messages {
				s.taken = append(s.taken, m.Body)
			}
		}
		if status == 429 {
			rw.Header().Set("Retry-After", "77")
		}
		if status == 302 {
			rw.Header().Set("Location", "/elsewhere")
		}
		rw.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) got() string { s.mu.Lock(); defer s.mu.Unlock(); return strings.Join(s.taken, " ") }
func (s *sink) asked() int  { s.mu.Lock(); defer s.mu.Unlock(); return len(s.requests) }
func (s *sink) answers(f func(n int) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

func always(status int) func(int) int { return func(int) int { return status } }

// TestDelivery: what a route takes comes to its sink, in order, signed, in the
// documented form; the rest does not; and after a restart it goes on.
func TestDelivery(t *testing.T) {
	w, s := newWorld(t), newSink(t, nil)
	w.says("press-17", "before") // the route begins at the end
	r := w.put(signet.Route{Name: "alarms", URL: s.URL + "/hook?key=1", AllowPrivate: true, DeviceID: "press-*", From: noon.Add(time.Second),
		Properties: map[string]string{"Level": "red"}})
	w.mu.Lock()
	w.now = noon.Add(2 * time.Second)
	w.mu.Unlock()
	say := func(device, source, level, body string) {
		w.log.append(&signet.Message{Hub: "hub", DeviceID: device, Source: source, EnqueuedTime: w.clock(), GenerationID: "1", AuthMethod: "{}",
			Properties: []signet.Property{{Name: "level", Value: level}}, Body: []byte(body)})
	}
	say("press-17", signet.SourceTelemetry, "green", "not red")
	say("lathe-1", signet.SourceTelemetry, "red", "no press")
	say("press-17", signet.SourceTwin, "red", "no telemetry")
	say("press-17", signet.SourceTelemetry, "red", "one")
	w.until("the first comes", func() bool { return s.got() == "one" })
	w.until("the cursor moves", func() bool { return w.cursor("alarms") == signet.Position{Sequence: 5} })

	q, body := s.requests[0], s.bodies[0]
	if want := `{"hub":"hub","route":"alarms","messages":[{"position":"5.0","enqueuedTime":"2026-11-23T12:00:02Z","deviceId":"press-17",` +
		`"systemProperties":{"iothub-connection-auth-generation-id":"1","iothub-connection-auth-method":"{}","iothub-connection-device-id":"press-17",` +
		`"iothub-enqueuedtime":"2026-11-23T12:00:02.0000000Z","iothub-message-source":"Telemetry"},"properties":{"level":"red"},"body":"one","bodyEncoding":"utf-8"}]}`; body != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
	// As a receiver checks it, by the specification of Standard Webhooks.
	secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.Secret, "whsec_"))
	if err != nil || len(secret) != 32 {
		t.Fatal(r.Secret)
	}
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s.%s", q.Header.Get("webhook-id"), q.Header.Get("webhook-timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); q.Header.Get("webhook-signature") != want ||
		q.Header.Get("webhook-id") != "5.0-5.0" || q.Header.Get("webhook-timestamp") != fmt.Sprint(w.clock().Unix()) ||
		q.Header.Get("Content-Type") != "application/json; charset=utf-8" || q.Header.Get("Signet-Attempt") != "1" || q.RequestURI != "/hook?key=1" {
		t.Errorf("%s %v, wanted %s", q.RequestURI, q.Header, want)
	}

	w.stop()
	for n := range 250 { // more than a batch
		say("press-17", signet.SourceTelemetry, "red", fmt.Sprint(n))
	}
	w.start()
	w.until("the rest comes", func() bool { return strings.HasSuffix(s.got(), " 249") })
	w.until("the cursor moves", func() bool { return w.cursor("alarms") == signet.Position{Sequence: 255} })
	if got := strings.Fields(s.got()); len(got) != 251 || !slices.IsSortedFunc(got[1:], func(a, b string) int { return len(a) - len(b) }) {
		t.Errorf("%d messages: %v", len(got), got)
	}
	if n := s.asked(); n < 4 || n > 60 {
		t.Errorf("%d requests for 251 messages", n)
	}
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "signet_route_messages_total" && f.GetMetric()[0].GetCounter().GetValue() != 250 {
			t.Errorf("counted: %v", f)
		}
	}
	if len(families) != 3 {
		t.Errorf("%d metrics", len(families))
	}
}

// TestRetry: a sink that fails is tried again, with growing pauses, and longer when
// it asks for that; nothing overtakes.
func TestRetry(t *testing.T) {
	w := newWorld(t)
	s := newSink(t, func(n int) int { return map[int]int{1: 500, 2: 302, 3: 429, 4: 400, 5: 401}[n] })
	s.answers(func(n int) int {
		if n <= 5 {
			return []int{500, 302, 429, 400, 401}[n-1]
		}
		return 200
	})
	w.put(signet.Route{Name: "r", URL: s.URL, AllowPrivate: true})
	w.says("d", "one")
	w.until("it comes", func() bool { return s.got() == "one" })
	w.says("d", "two")
	w.until("the second comes", func() bool { return s.got() == "one two" })
	w.mu.Lock()
	pauses := slices.Clone(w.pauses)
	w.mu.Unlock()
	if len(pauses) != 5 {
		t.Fatalf("pauses %v", pauses)
	}
	for n, about := range []time.Duration{1, 2, 77, 8, 16} {
		if about *= time.Second; pauses[n] < about*9/10 || pauses[n] > about*11/10 {
			t.Errorf("pause %d is %v, not about %v", n, pauses[n], about)
		}
	}
	ids := map[string]bool{}
	for _, q := range s.requests[:6] {
		ids[q.Header.Get("webhook-id")] = true
	}
	if len(ids) != 1 || s.requests[5].Header.Get("Signet-Attempt") != "6" || s.requests[1].URL.Path != "/" || s.requests[2].URL.Path != "/" {
		t.Errorf("IDs %v", ids)
	}
	state, _ := w.show("r")
	if state.Failures != 0 || state.Fault != "" || state.DeadLetters != 0 || state.Secret != "" {
		t.Errorf("%+v", state)
	}
}

// TestRefused: what a sink says it will never take is a dead letter at the third
// time; the next message goes on; sent again, it is taken, or stays with the reason.
func TestRefused(t *testing.T) {
	w, s := newWorld(t), newSink(t, always(422))
	w.put(signet.Route{Name: "r", URL: s.URL, AllowPrivate: true})
	w.says("d", "poison")
	w.until("it is a dead letter", func() bool { _, dead := w.show("r"); return len(dead) == 1 })
	s.answers(nil)
	w.says("d", "good")
	w.until("the next comes", func() bool { return s.got() == "good" })
	if s.asked() != 4 {
		t.Errorf("%d attempts", s.asked())
	}
	_, dead := w.show("r")
	if d := dead[0]; d.First != (signet.Position{Sequence: 1}) || d.Last != d.First || d.Messages != 1 || d.Reason != "it answers with the status 422" ||
		!d.FirstTime.Equal(noon) || d.Replay {
		t.Errorf("%+v", d)
	}
	if _, err := w.routes.Replay(t.Context(), "hub", "r", "other"); signet.CodeOf(err) != signet.RouteUnknown {
		t.Error(err)
	}
	s.answers(always(503))
	if n, err := w.routes.Replay(t.Context(), "hub", "r", dead[0].ID); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	w.until("it has failed again", func() bool {
		_, dead := w.show("r")
		return dead[0].Reason == "it answers with the status 503" && !dead[0].Replay
	})
	s.answers(nil)
	if n, err := w.routes.Replay(t.Context(), "hub", "r", ""); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	w.until("it is gone", func() bool { _, dead := w.show("r"); return len(dead) == 0 })
	if s.got() != "good poison" {
		t.Error(s.got())
	}
}

// TestPoison: a message that the sink refuses takes none with it that happens to be
// beside it: else one device could shut out all others.
func TestPoison(t *testing.T) {
	w, s := newWorld(t), newSink(t, always(503))
	s.answers(func(n int) int {
		switch {
		case n == 1:
			return 503 // while the rest comes
		case strings.Contains(s.bodies[n-1], "poison"):
			return 400
		}
		return 200
	})
	w.put(signet.Route{Name: "r", URL: s.URL, AllowPrivate: true})
	var good []string
	for n := range 500 {
		if n%50 == 7 {
			w.says("evil", fmt.Sprint("poison-", n))
			continue
		}
		good = append(good, fmt.Sprint("good-", n))
		w.says("d", good[len(good)-1])
	}
	w.until("all are dealt with", func() bool { return w.cursor("r").Sequence == 500 })
	if got := s.got(); got != strings.Join(good, " ") {
		t.Errorf("of %d messages that are good %d have come", len(good), len(strings.Fields(got)))
	}
	_, dead := w.show("r")
	for _, d := range dead {
		if d.Messages != 1 || d.First.Sequence%50 != 8 {
			t.Errorf("%+v", d)
		}
	}
	if len(dead) != 10 {
		t.Errorf("%d dead letters", len(dead))
	}
}

// TestPoisonReplayed: nor does such a message keep those behind it in a dead letter
// that is sent again. It is left as one of its own.
func TestPoisonReplayed(t *testing.T) {
	w, s := newWorld(t), newSink(t, always(500))
	w.put(signet.Route{Name: "r", URL: s.URL, AllowPrivate: true, RetrySeconds: 60})
	var good []string
	for n := range 350 {
		text := fmt.Sprint("good-", n)
		if n%100 == 7 || n == 349 {
			text = fmt.Sprint("poison-", n)
		} else {
			good = append(good, text)
		}
		w.says("d", text)
	}
	w.until("they are one dead letter", func() bool { _, dead := w.show("r"); return len(dead) == 1 && dead[0].Messages == 350 })
	s.answers(func(n int) int {
		if strings.Contains(s.bodies[n-1], "poison") {
			return 422
		}
		return 200
	})
	for range 2 { // what is poison stays so
		if _, err := w.routes.Replay(t.Context(), "hub", "r", ""); err != nil {
			t.Fatal(err)
		}
		w.until("it is done", func() bool {
			_, dead := w.show("r")
			return !slices.ContainsFunc(dead, func(d signet.DeadLetter) bool { return d.Replay })
		})
		if got := s.got(); got != strings.Join(good, " ") {
			t.Errorf("of %d messages that are good %d have come", len(good), len(strings.Fields(got)))
		}
		_, dead := w.show("r")
		var left []uint64
		for _, d := range dead {
			if left = append(left, d.First.Sequence); d.Messages != 1 || d.Last != d.First || d.Reason != "it answers with the status 422" {
				t.Errorf("%+v", d)
			}
		}
		if !slices.Equal(left, []uint64{8, 108, 208, 308, 350}) {
			t.Errorf("left are %v", left)
		}
	}
}

// TestRefusedReplayed: a dead letter of which the sink still refuses every message stays
// one, and is not sent again to its end: there is room for so many only, and what is new
// waits.
func TestRefusedReplayed(t *testing.T) {
	w, s := newWorld(t), newSink(t, always(500))
	w.put(signet.Route{Name: "r", URL: s.URL, AllowPrivate: true, RetrySeconds: 60})
	for n := range 2500 {
		w.says("d", fmt.Sprint(n))
	}
	w.until("they are one dead letter", func() bool { _, dead := w.show("r"); return len(dead) == 1 && dead[0].Messages == 2500 })
	s.answers(always(422))
	for round, want := range [][]int{{1000, 1500}, {1000, 1000, 500}, {1000, 1000, 500}, nil} {
		before := s.asked()
		if want == nil {
			s.answers(nil)
		}
		if _, err := w.routes.Replay(t.Context(), "hub", "r", ""); err != nil {
			t.Fatal(err)
		}
		w.until("it is done", func() bool {
			_, dead := w.show("r")
			return !slices.ContainsFunc(dead, func(d signet.DeadLetter) bool { return d.Replay })
		})
		_, dead := w.show("r")
		var left []int
		for _, d := range dead {
			if left = append(left, d.Messages); d.Reason != "it answers with the status 422" {
				t.Errorf("%+v", d)
			}
		}
		if !slices.Equal(left, want) {
			t.Errorf("round %d: left are %v", round, left)
		}
		if asked := s.asked() - before; asked > 1100*max(round+1, 1) {
			t.Errorf("round %d: %d attempts", round, asked)
		}
	}
	if got := strings.Fields(s.got()); len(got) != 2500 {
		t.Errorf("%d have come", len(got))
	}
}

// TestRefusesAll: a sink that refuses whatever comes has taken nothing, as one that
// is away has not: the route does not fall behind by more than the retry time.
func TestRefusesAll(t *testing.T) {
	w, s := newWorld(t), newSink(t, always(422))
	w.put(signet.Route{Name: "r", URL: s.URL, AllowPrivate: true, RetrySeconds: 60})
	for n := range 10_000 {
		w.says("d", fmt.Sprint(n))
	}
	w.until("they are given up", func() bool { return w.cursor("r").Sequence == 10_000 })
	if late := w.clock().Sub(noon); late > 75*time.Second {
		t.Errorf("the last of them after %v, and %d attempts", late, s.asked())
	}
	s.answers(nil)
	w.says("d", "good")
	w.until("the next comes", func() bool { return s.got() == "good" })
}

// TestAway: a sink that is away for long gets what is young when it is back; what
// grew old is one dead letter, and can be sent again as far as the log has it.
func TestAway(t *testing.T) {
	w, s := newWorld(t), newSink(t, always(500))
	w.put(signet.Route{Name: "r", URL: s.URL, AllowPrivate: true, RetrySeconds: 60})
	for n := range 350 {
		w.says("d", fmt.Sprint("old-", n))
	}
	w.until("they are one dead letter", func() bool { _, dead := w.show("r"); return len(dead) == 1 && dead[0].Messages == 350 })
	if n := s.asked(); n > 12 { // the rest was given up untried
		t.Errorf("%d attempts", n)
	}
	_, dead := w.show("r")
	if d := dead[0]; !strings.HasPrefix(d.Reason, "the sink has taken nothing since 2026-11-23T12:00:00Z: it answers with the status 500") ||
		d.First.Sequence != 1 || d.Last.Sequence != 350 {
		t.Errorf("%+v", d)
	}
	s.answers(nil)
	w.says("d", "young")
	w.until("it comes", func() bool { return s.got() == "young" })

	w.log.mu.Lock()
	w.log.dropped = 100 // by the log's retention
	w.log.mu.Unlock()
	if _, err := w.routes.Replay(t.Context(), "hub", "r", ""); err != nil {
		t.Fatal(err)
	}
	w.until("it is gone", func() bool { _, dead := w.show("r"); return len(dead) == 0 })
	if got := strings.Fields(s.got()); len(got) != 251 || got[1] != "old-100" || got[250] != "old-349" {
		t.Errorf("%d messages", len(got))
	}
}

// TestAtLeastOnce: what the store forgets is sent again, and nothing is passed by.
func TestAtLeastOnce(t *testing.T) {
	w, s := newWorld(t), newSink(t, nil)
	w.put(signet.Route{Name: "r", URL: s.URL, AllowPrivate: true})
	w.fail("Advance", 1)
	w.says("d", "one")
	w.until("it comes", func() bool { return s.got() == "one" })
	w.stop()
	w.start()
	w.until("it comes again", func() bool { return s.got() == "one one" })

	// A dead letter that is not kept is no dead letter: the cursor stays until it is.
	s.answers(always(400))
	w.fail("Bury", 3)
	w.says("d", "two")
	w.until("it is a dead letter", func() bool { _, dead := w.show("r"); return len(dead) == 1 })
	w.mu.Lock()
	left := w.faults["Bury"]
	w.mu.Unlock()
	if left != 0 || w.cursor("r") != (signet.Position{Sequence: 2}) {
		t.Errorf("%d faults left, %v", left, w.cursor("r"))
	}
}

// TestSlowSink: one that hangs delays no other.
func TestSlowSink(t *testing.T) {
	w, fast := newWorld(t), newSink(t, nil)
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer hanging.Close()
	defer close(release)
	w.put(signet.Route{Name: "slow", URL: hanging.URL, AllowPrivate: true})
	w.put(signet.Route{Name: "fast", URL: fast.URL, AllowPrivate: true})
	for n := range 300 {
		w.says("d", fmt.Sprint(n))
	}
	w.until("the fast one has all", func() bool { return strings.HasSuffix(fast.got(), " 299") })
	state, _ := w.show("slow")
	if state.Cursor != (signet.Position{}) || !state.Waiting.Equal(noon) {
		t.Errorf("%+v", state)
	}
	// Nor does it delay that it is changed, or deleted.
	begun := time.Now()
	if err := w.routes.Delete(t.Context(), "hub", "slow"); err != nil || time.Since(begun) > 5*time.Second {
		t.Error(err, time.Since(begun))
	}
}

// TestPrivateSinks: without leave, nothing is sent to a private address, whatever
// its name.
func TestPrivateSinks(t *testing.T) {
	w, s := newWorld(t), newSink(t, nil)
	port := s.URL[strings.LastIndexByte(s.URL, ':'):]
	w.put(signet.Route{Name: "r", URL: "https://localhost" + port})
	w.says("d", "secret")
	w.until("it has failed", func() bool { s, _ := w.show("r"); return s.Failures > 2 })
	if state, _ := w.show("r"); state.Fault != "The webhook is at a private address." || s.asked() != 0 {
		t.Errorf("%+v", state)
	}
}

// TestPut: what a route may be, and what becomes of one that is changed.
func TestPut(t *testing.T) {
	w, s := newWorld(t), newSink(t, nil)
	for name, c := range map[string]struct {
		r    signet.Route
		want signet.Code
	}{
		"a name with a slash":       {signet.Route{Name: "a/b", URL: "https://sink.test"}, signet.RouteMalformed},
		"no name":                   {signet.Route{URL: "https://sink.test"}, signet.RouteMalformed},
		"no URL":                    {signet.Route{Name: "a"}, signet.RouteMalformed},
		"another scheme":            {signet.Route{Name: "a", URL: "file:///etc/passwd", AllowPrivate: true}, signet.RouteMalformed},
		"a password":                {signet.Route{Name: "a", URL: "https://u:p@sink.test"}, signet.RouteMalformed},
		"in clear":                  {signet.Route{Name: "a", URL: "http://sink.test"}, signet.RouteForbidden},
		"a private address":         {signet.Route{Name: "a", URL: "https://169.254.169.254/"}, signet.RouteForbidden},
		"one in another guise":      {signet.Route{Name: "a", URL: "https://[::ffff:10.0.0.1]/"}, signet.RouteForbidden},
		"too short a time":          {signet.Route{Name: "a", URL: "https://sink.test", RetrySeconds: 59}, signet.RouteMalformed},
		"too long a time":           {signet.Route{Name: "a", URL: "https://sink.test", RetrySeconds: 300_000}, signet.RouteMalformed},
		"a time below nothing":      {signet.Route{Name: "a", URL: "https://sink.test", RetrySeconds: -9}, signet.RouteMalformed},
		"a secret that is a word":   {signet.Route{Name: "a", URL: "https://sink.test", Secret: "hunter2"}, signet.RouteMalformed},
		"a secret that is short":    {signet.Route{Name: "a", URL: "https://sink.test", Secret: "whsec_c2hvcnQ="}, signet.RouteMalformed},
		"a condition without name":  {signet.Route{Name: "a", URL: "https://sink.test", Properties: map[string]string{"": "x"}}, signet.RouteMalformed},
		"a pattern of two lines":    {signet.Route{Name: "a", URL: "https://sink.test", DeviceID: "a\nb"}, signet.RouteMalformed},
		"a hub that is not there":   {signet.Route{Hub: "other", Name: "a", URL: "https://sink.test"}, signet.HubUnknown},
		"what is left open is good": {signet.Route{Name: "a", URL: "https://sink.test"}, ""},
	} {
		if c.r.Hub == "" {
			c.r.Hub = "hub"
		}
		_, _, err := w.routes.Put(t.Context(), c.r)
		if code := signet.CodeOf(err); code != c.want || err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}

	first := w.put(signet.Route{Name: "r", URL: s.URL, AllowPrivate: true})
	w.says("d", "one")
	w.until("it comes", func() bool { return s.got() == "one" })
	w.until("the cursor moves", func() bool { return w.cursor("r").Sequence == 1 })
	elsewhere := newSink(t, nil)
	second, made, err := w.routes.Put(t.Context(), signet.Route{Hub: "hub", Name: "r", URL: elsewhere.URL, AllowPrivate: true, From: noon.Add(time.Hour), Sources: signet.FromAll})
	if err != nil || made || second.Secret != first.Secret || !second.From.IsZero() {
		t.Errorf("%+v %t %v", second, made, err)
	}
	w.says("d", "two")
	w.until("the other gets what follows", func() bool { return elsewhere.got() == "two" })
	if s.got() != "one" {
		t.Error(s.got())
	}

	for n := range routes.MaxRoutes - 2 {
		w.put(signet.Route{Name: fmt.Sprint("r", n), URL: "https://sink.test"})
	}
	if _, _, err := w.routes.Put(t.Context(), signet.Route{Hub: "hub", Name: "one-more", URL: "https://sink.test"}); signet.CodeOf(err) != signet.LimitRoutes {
		t.Error(err)
	}
	if err := w.routes.Delete(t.Context(), "hub", "r"); err != nil {
		t.Error(err)
	}
	if err := w.routes.Delete(t.Context(), "hub", "r"); signet.CodeOf(err) != signet.RouteUnknown {
		t.Error(err)
	}
	list, err := w.routes.List(t.Context(), "hub")
	if err != nil || len(list) != routes.MaxRoutes-1 {
		t.Errorf("%d routes, %v", len(list), err)
	}
	if err := w.store.DeleteHub(t.Context(), "hub"); err != nil {
		t.Fatal(err)
	}
	w.routes.Forget("hub")
	if n := w.routes.Workers(); n != 0 {
		t.Errorf("%d workers of a hub that is gone", n)
	}
}

// TestAnotherLog: where the log was removed and the cursor was not, the route begins where
// the new log does, be it empty at the start or not; and then goes on from its cursor.
func TestAnotherLog(t *testing.T) {
	w := newWorld(t)
	s := newSink(t, nil)
	w.put(signet.Route{Name: "r", URL: s.URL, AllowPrivate: true})
	w.says("d", "1", "2", "3", "4", "5")
	w.until("all are delivered", func() bool { return w.cursor("r").Sequence == 5 })
	another := func(before, after []string) {
		t.Helper()
		w.stop()
		w.log = &memlog{changed: make(chan struct{})}
		w.says("d", before...)
		w.start()
		w.says("d", after...)
		w.until("the new ones are", func() bool { return w.cursor("r").Sequence == uint64(len(before)+len(after)) })
	}
	another([]string{"a", "b", "c"}, nil)
	another(nil, []string{"x"})
	w.stop()
	w.start()
	w.says("d", "y")
	w.until("it goes on", func() bool { return w.cursor("r").Sequence == 2 })
	w.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := strings.Join(s.taken, " "); got != "1 2 3 4 5 a b c x y" {
		t.Errorf("delivered: %s", got)
	}
}
