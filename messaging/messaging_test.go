package messaging_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/messaging"
)

// onEach runs a story with the embedded server, and with one that is reached by
// TCP as a cluster is.
func onEach(t *testing.T, story func(t *testing.T, o messaging.Options)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		story(t, messaging.Options{Dir: t.TempDir(), Logger: quiet(t)})
	})
	t.Run("external", func(t *testing.T) {
		t.Parallel()
		story(t, messaging.Options{URL: natsServer(t).ClientURL(), Logger: quiet(t)})
	})
}

func natsServer(t testing.TB) *server.Server {
	t.Helper()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), SyncAlways: true,
		JetStreamMaxStore: 1 << 40, NoLog: true, NoSigs: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(2 * time.Minute) {
		t.Fatal("the NATS server did not start")
	}
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	return srv
}

func quiet(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func open(t testing.TB, o messaging.Options) *messaging.Messaging {
	t.Helper()
	m, err := messaging.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// message is the n-th of a device, taken n milliseconds after the start.
func message(hubName, device string, n int) *signet.Message {
	return &signet.Message{
		Hub: hubName, DeviceID: device, GenerationID: "638000000000000000", Source: signet.SourceTelemetry,
		AuthMethod:   `{"scope":"device","type":"x509Certificate","issuer":"external","acceptingIpFilterRule":null}`,
		EnqueuedTime: start.Add(time.Duration(n) * time.Millisecond),
		System:       []signet.Property{{Name: "message-id", Value: fmt.Sprint(device, "-", n)}},
		Properties:   []signet.Property{{Name: "n", Value: fmt.Sprint(n)}, {Name: "bare", Null: true}, {Name: "empty"}},
		Body:         fmt.Appendf(nil, "%s says %d", device, n),
	}
}

// store appends messages and waits until each is on disk.
func store(t testing.TB, m *messaging.Messaging, messages ...*signet.Message) {
	t.Helper()
	done := make(chan error, len(messages))
	for _, msg := range messages {
		m.Append(t.Context(), msg, func(err error) { done <- err })
	}
	for range messages {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

type read struct {
	at  signet.Position
	msg *signet.Message
}

func backlog(t testing.TB, m *messaging.Messaging, hubName string, from hub.Start) []read {
	t.Helper()
	var all []read
	if err := m.Read(t.Context(), hubName, from, false, func(at signet.Position, msg *signet.Message) bool {
		all = append(all, read{at, msg})
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// said is the bodies, in order.
func said(all []read) string {
	var s []string
	for _, r := range all {
		s = append(s, string(r.msg.Body))
	}
	return strings.Join(s, ", ")
}

func TestWhatIsAppendedIsReadBack(t *testing.T) {
	onEach(t, func(t *testing.T, o messaging.Options) {
		m := open(t, o)
		if got := backlog(t, m, "plant", hub.Start{}); len(got) != 0 {
			t.Fatalf("a new log holds %v", got)
		}
		press := message("plant", "press", 1)
		press.ModuleID = "camera"
		bare := &signet.Message{Hub: "plant", DeviceID: "press", EnqueuedTime: start}
		store(t, m, press)
		store(t, m, bare)
		got := backlog(t, m, "plant", hub.Start{})
		if len(got) != 2 {
			t.Fatalf("read %d messages", len(got))
		}
		for i, want := range []*signet.Message{press, bare} {
			if got, want := fmt.Sprintf("%+v", got[i].msg), fmt.Sprintf("%+v", want); got != want {
				t.Errorf("read\n%s\nwant\n%s", got, want)
			}
		}
	})
}

func TestReadingBeginsWhereAsked(t *testing.T) {
	onEach(t, func(t *testing.T, o messaging.Options) {
		o.Partitions = 1
		m := open(t, o)
		var many []*signet.Message
		for n := range 1500 { // in batches of several sizes
			many = append(many, message("plant", fmt.Sprint("d", n%7), n))
		}
		store(t, m, many[:1]...)
		store(t, m, many[1:]...)
		all := backlog(t, m, "plant", hub.Start{})
		if len(all) != len(many) {
			t.Fatalf("read %d of %d", len(all), len(many))
		}
		for i := 1; i < len(all); i++ {
			a, b := all[i-1].at, all[i].at
			if b.Sequence < a.Sequence || b.Sequence == a.Sequence && b.Index != a.Index+1 || b.Sequence > a.Sequence && b.Index != 0 {
				t.Fatalf("%v after %v", b, a)
			}
		}
		for _, i := range []int{0, 1, 2, 700, 1023, 1498, 1499} {
			if got, want := said(backlog(t, m, "plant", hub.Start{After: all[i].at})), said(all[i+1:]); got != want {
				t.Errorf("after %v: %d bytes, want %d", all[i].at, len(got), len(want))
			}
		}
		for n, want := range map[int]int{-1000: 1500, 0: 1500, 1: 1499, 800: 700, 1499: 1, 1500: 0} {
			got := backlog(t, m, "plant", hub.Start{Time: start.Add(time.Duration(n) * time.Millisecond)})
			if len(got) != want {
				t.Errorf("from %d ms on: %d messages, want %d", n, len(got), want)
			}
		}
		if got := backlog(t, m, "plant", hub.Start{After: signet.Position{Sequence: 1 << 40}}); len(got) != 0 {
			t.Errorf("after a place that is not yet: %s", said(got))
		}
		var one int
		if err := m.Read(t.Context(), "plant", hub.Start{}, true, func(signet.Position, *signet.Message) bool { one++; return false }); err != nil || one != 1 {
			t.Errorf("a reader that wants one got %d, %v", one, err)
		}
	})
}

func TestEnds(t *testing.T) {
	onEach(t, func(t *testing.T, o messaging.Options) {
		m := open(t, o)
		ends := func() string {
			first, last, enqueued, err := m.Ends(t.Context(), "plant")
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(first, last, enqueued.UnixMilli())
		}
		if got, want := ends(), fmt.Sprint(signet.Position{}, signet.Position{}, (time.Time{}).UnixMilli()); got != want {
			t.Errorf("of an empty log: %s", got)
		}
		store(t, m, message("other", "d", 7), message("plant", "d", 0), message("plant", "d", 1), message("plant", "d", 2))
		store(t, m, message("other", "d", 8))
		all := backlog(t, m, "plant", hub.Start{})
		if got, want := ends(), fmt.Sprint(all[0].at, all[2].at, start.Add(2*time.Millisecond).UnixMilli()); got != want {
			t.Errorf("the ends are %s, want %s", got, want)
		}
		// By number, the places of a log are in the same order, and found again.
		for i, r := range all {
			if signet.PositionOf(r.at.Number()) != r.at || i > 0 && r.at.Number() <= all[i-1].at.Number() {
				t.Errorf("%v is number %d", r.at, r.at.Number())
			}
			if got := backlog(t, m, "plant", hub.Start{After: signet.PositionOf(r.at.Number() - 1)}); len(got) != len(all)-i {
				t.Errorf("from number %d on: %d messages", r.at.Number(), len(got))
			}
		}
	})
}

func TestAFollowerSeesWhatComes(t *testing.T) {
	onEach(t, func(t *testing.T, o messaging.Options) {
		m := open(t, o)
		store(t, m, message("plant", "press", 0))
		ctx, cancel := context.WithCancel(t.Context())
		got, ended := make(chan string), make(chan error)
		go func() {
			ended <- m.Read(ctx, "plant", hub.Start{}, true, func(_ signet.Position, msg *signet.Message) bool {
				got <- string(msg.Body)
				return true
			})
		}()
		for n := range 5 {
			if n > 0 {
				store(t, m, message("plant", "press", n), message("other", "press", 100))
			}
			if want := fmt.Sprint("press says ", n); want != <-got {
				t.Fatalf("want %q", want)
			}
		}
		cancel()
		if err := <-ended; err != context.Canceled {
			t.Errorf("ended with %v", err)
		}

		// Close ends a follower who is at the end and waits.
		waits := make(chan struct{})
		go func() {
			n := 0
			ended <- m.Read(t.Context(), "plant", hub.Start{}, true, func(signet.Position, *signet.Message) bool {
				if n++; n == 5 {
					close(waits)
				}
				return true
			})
		}()
		<-waits
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; signet.CodeOf(err) != signet.Unavailable {
			t.Errorf("closed with %v", err)
		}
	})
}

func TestHubsAreApart(t *testing.T) {
	onEach(t, func(t *testing.T, o messaging.Options) {
		m := open(t, o)
		store(t, m, message("north", "press", 1), message("south", "press", 2), message("north", "press", 3))
		if got := said(backlog(t, m, "north", hub.Start{})); got != "press says 1, press says 3" {
			t.Errorf("north reads %q", got)
		}
		if got := said(backlog(t, m, "south", hub.Start{})); got != "press says 2" {
			t.Errorf("south reads %q", got)
		}
		if err := m.Forget(t.Context(), "north"); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil { // forgotten for good
			t.Fatal(err)
		}
		m = open(t, o)
		if got := said(backlog(t, m, "north", hub.Start{})); got != "" {
			t.Errorf("forgotten, north reads %q", got)
		}
		if got := said(backlog(t, m, "south", hub.Start{})); got != "press says 2" {
			t.Errorf("south reads %q", got)
		}
		store(t, m, message("north", "press", 4))
		if got := said(backlog(t, m, "north", hub.Start{})); got != "press says 4" {
			t.Errorf("made anew, north reads %q", got)
		}
		// A name that NATS would take for more than one hub opens none.
		for _, name := range []string{"", "*", ">", "north.signet", "nor*", "a b", strings.Repeat("x", 65)} {
			err := m.Read(t.Context(), name, hub.Start{}, false, func(signet.Position, *signet.Message) bool { t.Error("read"); return true })
			if signet.CodeOf(err) != signet.HubMalformed {
				t.Errorf("reading %q: %v", name, err)
			}
			if err := m.Forget(t.Context(), name); signet.CodeOf(err) != signet.HubMalformed {
				t.Errorf("forgetting %q: %v", name, err)
			}
			m.Append(t.Context(), message(name, "press", 5), func(err error) {
				if signet.CodeOf(err) != signet.HubMalformed {
					t.Errorf("appending to %q: %v", name, err)
				}
			})
		}
	})
}

func TestOneDeviceIsInOrder(t *testing.T) {
	onEach(t, func(t *testing.T, o messaging.Options) {
		m := open(t, o)
		const devices, each = 100, 60
		var all sync.WaitGroup
		for d := range devices {
			all.Go(func() {
				var mu sync.Mutex
				var acknowledged []int
				var under sync.WaitGroup
				for n := range each {
					under.Add(1)
					m.Append(t.Context(), message("plant", fmt.Sprint("d", d), n), func(err error) {
						defer under.Done()
						if err != nil {
							t.Error(err)
						}
						mu.Lock()
						acknowledged = append(acknowledged, n)
						mu.Unlock()
					})
				}
				under.Wait()
				if len(acknowledged) != each || !slices.IsSorted(acknowledged) {
					t.Errorf("device %d: acknowledged in the order %v", d, acknowledged)
				}
			})
		}
		all.Wait()
		stored := map[string]int{}
		for _, r := range backlog(t, m, "plant", hub.Start{}) {
			if want := fmt.Sprintf("%s says %d", r.msg.DeviceID, stored[r.msg.DeviceID]); string(r.msg.Body) != want {
				t.Fatalf("stored %q where %q was due", r.msg.Body, want)
			}
			stored[r.msg.DeviceID]++
		}
		for d := range devices {
			if n := stored[fmt.Sprint("d", d)]; n != each {
				t.Errorf("device %d: %d messages stored", d, n)
			}
		}
	})
}

func TestARestartKeepsAll(t *testing.T) {
	onEach(t, func(t *testing.T, o messaging.Options) {
		var want []string
		for round := range 3 {
			m := open(t, o)
			store(t, m, message("plant", "press", round))
			want = append(want, fmt.Sprint("press says ", round))
			if got := said(backlog(t, m, "plant", hub.Start{})); got != strings.Join(want, ", ") {
				t.Fatalf("round %d: %q", round, got)
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Close in the middle of a load: every Append is answered once, and what was
// answered with nil is there.
func TestCloseUnderLoad(t *testing.T) {
	onEach(t, func(t *testing.T, o messaging.Options) {
		m := open(t, o)
		var mu sync.Mutex
		acknowledged, refused := map[string]bool{}, 0
		enough := make(chan struct{})
		var all sync.WaitGroup
		for d := range 20 {
			all.Go(func() {
				for n, stop := 0, false; !stop; n++ {
					msg := message("plant", fmt.Sprint("d", d), n)
					m.Append(t.Context(), msg, func(err error) {
						mu.Lock()
						defer mu.Unlock()
						switch {
						case acknowledged[string(msg.Body)]:
							t.Errorf("%s: answered twice", msg.Body)
						case err == nil:
							if acknowledged[string(msg.Body)] = true; len(acknowledged) == 2000 {
								close(enough)
							}
						case signet.CodeOf(err) != signet.Unavailable:
							t.Error(err)
						default:
							refused++
						}
					})
					mu.Lock()
					stop = refused > 0
					mu.Unlock()
				}
			})
		}
		<-enough
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
		if err := m.Read(t.Context(), "plant", hub.Start{}, false, nil); signet.CodeOf(err) != signet.Unavailable {
			t.Errorf("reading a closed log: %v", err)
		}
		m = open(t, o)
		for _, r := range backlog(t, m, "plant", hub.Start{}) {
			delete(acknowledged, string(r.msg.Body))
		}
		if len(acknowledged) != 0 {
			t.Errorf("%d acknowledged messages are lost", len(acknowledged))
		}
	})
}

// A flood waits at its source. The gate that keeps the log from going on is a
// done that does not return.
func TestAppendWaitsWhileThereIsNoRoom(t *testing.T) {
	m := open(t, messaging.Options{Dir: t.TempDir(), Logger: quiet(t), Partitions: 1})
	gate, closed := make(chan struct{}), make(chan struct{})
	m.Append(t.Context(), message("plant", "press", 0), func(error) { close(closed); <-gate })
	<-closed // alone in its batch
	big := message("plant", "press", 1)
	big.Body = make([]byte, 256<<10)
	const flood, fits = 200, 120 // of 256 KiB, where there is room for 32 MiB
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	results, taken := make(chan error, flood), make(chan bool, flood)
	go func() {
		for range flood {
			m.Append(ctx, big, func(err error) { results <- err })
			taken <- true
		}
	}()
	for range fits {
		<-taken
	}
	cancel() // whoever waits gives up
	for range flood - fits {
		<-taken
	}
	close(gate)
	stored, failed := 0, 0
	for n := range flood {
		switch err := <-results; {
		case err == nil && failed == 0: // in order: those that came too late are last
			stored++
		case signet.CodeOf(err) == signet.Unavailable:
			failed++
		default:
			t.Fatalf("message %d: %v", n, err)
		}
	}
	if stored < fits || stored > 32<<20/len(big.Body) {
		t.Errorf("%d messages were under way at a time", stored)
	}
	store(t, m, message("plant", "press", 2)) // and there is room again
}

func TestAMessageThatFitsNoBatchIsRefused(t *testing.T) {
	m := open(t, messaging.Options{Dir: t.TempDir(), Logger: quiet(t)})
	largest := message("plant", "press", 1)
	largest.Body = make([]byte, signet.MaxMessageSize)
	store(t, m, largest)
	largest.Body = make([]byte, 2<<20)
	done := make(chan error, 1)
	m.Append(t.Context(), largest, func(err error) { done <- err })
	if err := <-done; signet.CodeOf(err) != signet.LimitMessageSize {
		t.Error(err)
	}
	if got := backlog(t, m, "plant", hub.Start{}); len(got) != 1 || len(got[0].msg.Body) != signet.MaxMessageSize {
		t.Errorf("%d messages are stored", len(got))
	}
}

// The log is bounded; the oldest goes first, and a reader who was there is
// taken to the oldest that is kept.
func TestTheOldestGoesFirst(t *testing.T) {
	m := open(t, messaging.Options{Dir: t.TempDir(), Logger: quiet(t), MaxBytes: 8 << 20, Partitions: 1})
	const n = 100
	for i := range n {
		msg := message("plant", "press", i)
		msg.Body = make([]byte, 200<<10)
		store(t, m, msg)
	}
	all := backlog(t, m, "plant", hub.Start{After: signet.Position{Sequence: 1}})
	if size := len(all) * 200 << 10; size > 8<<20 || size < 4<<20 {
		t.Fatalf("%d of %d messages are kept", len(all), n)
	}
	if newest := all[len(all)-1].msg.Properties[0].Value; newest != fmt.Sprint(n-1) {
		t.Errorf("the newest is %s", newest)
	}
}

// Bytes that are not what was written are reported and not shown; what follows is.
func TestADamagedBatchIsLeftOut(t *testing.T) {
	srv := natsServer(t)
	m := open(t, messaging.Options{URL: srv.ClientURL(), Logger: quiet(t)})
	store(t, m, message("plant", "press", 1))
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := js.GetMsg("SIGNET_TELEMETRY", 1)
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(stored.Data)
	flipped[len(flipped)-1] ^= 1
	for _, data := range [][]byte{flipped, stored.Data[:len(stored.Data)-1], []byte("rubbish"), nil} {
		if _, err := js.Publish(stored.Subject, data); err != nil {
			t.Fatal(err)
		}
	}
	// A sound batch of plant among those of another hub stays plant's.
	if _, err := js.Publish(strings.Replace(stored.Subject, "plant", "other", 1), stored.Data); err != nil {
		t.Fatal(err)
	}
	store(t, m, message("plant", "press", 2))
	for name, want := range map[string]string{"plant": "press says 1, press says 2", "other": ""} {
		var all []read
		err = m.Read(t.Context(), name, hub.Start{}, false, func(at signet.Position, msg *signet.Message) bool {
			all = append(all, read{at, msg})
			return true
		})
		if got := said(all); got != want {
			t.Errorf("%s reads %q", name, got)
		}
		if signet.CodeOf(err) != signet.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	folder := t.TempDir()
	for name, o := range map[string]messaging.Options{
		"no place":       {},
		"two places":     {Dir: folder, URL: "nats://127.0.0.1:1"},
		"nobody there":   {URL: "nats://user:hunter2@127.0.0.1:1"},
		"no URL":         {URL: "nats://user:hunter2@127.0.0.1:port"},
		"not a URL":      {URL: "nats://user:hunter2@%zz"},
		"a file":         {Dir: "messaging_test.go"},
		"below a file":   {Dir: filepath.Join("messaging_test.go", "log")},
		"no room at all": {Dir: folder, MaxBytes: 1},
	} {
		m, err := messaging.Open(t.Context(), o)
		if err == nil {
			m.Close()
			t.Errorf("%s: opened", name)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
}

// What an operator has set on the stream of a cluster stays; retention follows
// the configuration.
func TestRetentionFollowsTheConfiguration(t *testing.T) {
	srv := natsServer(t)
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, _ := nc.JetStream()
	config := func() nats.StreamConfig {
		info, err := js.StreamInfo("SIGNET_TELEMETRY")
		if err != nil {
			t.Fatal(err)
		}
		return info.Config
	}
	open(t, messaging.Options{URL: srv.ClientURL(), Logger: quiet(t)}).Close()
	if c := config(); c.MaxAge != 7*24*time.Hour || c.MaxBytes != 8<<30 {
		t.Errorf("the defaults are %v, %d", c.MaxAge, c.MaxBytes)
	}
	changed := config()
	changed.Description = "ours"
	if _, err := js.UpdateStream(&changed); err != nil {
		t.Fatal(err)
	}
	open(t, messaging.Options{URL: srv.ClientURL(), MaxAge: time.Hour, MaxBytes: 1 << 30, Logger: quiet(t)}).Close()
	if c := config(); c.MaxAge != time.Hour || c.MaxBytes != 1<<30 || c.Description != "ours" {
		t.Errorf("now %v, %d, %q", c.MaxAge, c.MaxBytes, c.Description)
	}
}
