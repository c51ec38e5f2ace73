package commands_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/commands"
	"github.com/signet-iot/signet/internal/memstore"
)

// A house is the queues of the device "d" of one hub, on a fake store and a clock
// that is set by hand.
type house struct {
	*testing.T
	store  *memstore.Store
	keeper *commands.Commands
	queue  signet.CommandQueue
	now    time.Time
	told   atomic.Int32 // how often a command was said to wait
}

func newHouse(t *testing.T) *house {
	h := &house{T: t, store: memstore.New(), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	h.restart()
	if err := errors.Join(h.store.CreateHub(t.Context(), signet.Hub{Name: "hub"}),
		h.store.CreateIdentity(t.Context(), signet.Identity{Hub: "hub", DeviceID: "d", GenerationID: "1"})); err != nil {
		t.Fatal(err)
	}
	h.queue = signet.CommandQueue{Hub: "hub", DeviceID: "d", GenerationID: "1"}
	return h
}

// restart loses what is in memory.
func (h *house) restart() {
	h.keeper = commands.New(h.store, commands.Options{
		Now: func() time.Time { return h.now }, Waiting: func(signet.CommandQueue) { h.told.Add(1) },
	})
}

func (h *house) ok(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *house) refused(err error, code signet.Code) {
	h.Helper()
	if signet.CodeOf(err) != code {
		h.Fatalf("%v where %s was due", err, code)
	}
}

// send sends commands that want full feedback, by their IDs.
func (h *house) send(ids ...string) {
	h.Helper()
	for _, id := range ids {
		_, err := h.keeper.Send(h.Context(), signet.Command{CommandQueue: h.queue, MessageID: id, Ack: signet.AckFull, Body: []byte(id)})
		h.ok(err)
	}
}

// receive asks for the next command, of which the ID must be as given; "" is none,
// "*" any.
func (h *house) receive(session uint64, id string) *signet.Command {
	h.Helper()
	c, err := h.keeper.Receive(h.Context(), h.queue, session)
	h.ok(err)
	got := ""
	if c != nil {
		got = c.MessageID
	}
	if got != id && (id != "*" || c == nil) {
		h.Fatalf("received %q where %q was due", got, id)
	}
	return c
}

func (h *house) settle(c *signet.Command, d signet.Disposition) error {
	return h.keeper.Settle(h.Context(), h.queue, c.LockToken, d)
}

// feedback takes all feedback, as "id outcome".
func (h *house) feedback() string {
	h.Helper()
	var all []string
	for {
		records, token, err := h.keeper.Feedback(h.Context(), "hub")
		h.ok(err)
		if len(records) == 0 {
			return strings.Join(all, ", ")
		}
		for _, f := range records {
			if f.CommandQueue != h.queue || f.Time.After(h.now) {
				h.Errorf("feedback %+v", f)
			}
			all = append(all, f.MessageID+" "+string(f.Outcome))
		}
		h.ok(h.keeper.CompleteFeedback(h.Context(), "hub", token))
	}
}

func TestLifeOfACommand(t *testing.T) {
	h := newHouse(t)
	h.receive(0, "")
	sent, err := h.keeper.Send(t.Context(), signet.Command{CommandQueue: h.queue, Body: []byte("hello"),
		System:     []signet.Property{{Name: "correlation-id", Value: "c/1"}},
		Properties: []signet.Property{{Name: "Level", Value: "ü & co"}}})
	h.ok(err)
	if sent.MessageID == "" || sent.Ack != signet.AckNone || !sent.ExpiryTime.Equal(h.now.Add(time.Hour)) || h.told.Load() != 1 {
		t.Errorf("sent %+v, told %d", sent, h.told.Load())
	}
	got := h.receive(0, sent.MessageID)
	if string(got.Body) != "hello" || got.DeliveryCount != 0 || got.LockToken == "" ||
		!slices.Equal(got.System, sent.System) || !slices.Equal(got.Properties, sent.Properties) {
		t.Errorf("received %+v", got)
	}
	h.receive(0, "") // locked
	h.ok(h.settle(got, signet.Complete))
	h.refused(h.settle(got, signet.Complete), signet.MessageLockLost)
	h.receive(0, "")
	if f := h.feedback(); f != "" {
		t.Errorf("nobody wanted to know of %s", f)
	}
}

func TestFirstInFirstOut(t *testing.T) {
	h := newHouse(t)
	h.send("1", "2", "3") // within one millisecond
	one := h.receive(0, "1")
	two := h.receive(0, "2")
	h.ok(h.settle(two, signet.Complete))
	h.ok(h.settle(one, signet.Abandon))
	if h.receive(0, "1").DeliveryCount != 1 {
		t.Error("an abandoned command was not counted")
	}
	h.receive(0, "3")
}

// TestFeedback: each outcome is told to who wants it, once, and nobody else.
func TestFeedback(t *testing.T) {
	for ack, want := range map[signet.Ack]string{
		signet.AckNone: "", signet.AckPositive: "done Success", signet.AckNegative: "no Rejected, late Expired, purged Purged",
		signet.AckFull: "done Success, no Rejected, late Expired, purged Purged",
	} {
		h := newHouse(t)
		for _, id := range []string{"done", "no", "late", "purged"} {
			c := signet.Command{CommandQueue: h.queue, MessageID: id, Ack: ack}
			if id == "late" {
				c.ExpiryTime = h.now.Add(time.Minute)
			}
			_, err := h.keeper.Send(t.Context(), c)
			h.ok(err)
		}
		h.ok(h.settle(h.receive(0, "done"), signet.Complete))
		h.now = h.now.Add(time.Second) // feedback is in the order of the outcomes
		h.ok(h.settle(h.receive(0, "no"), signet.Reject))
		h.now = h.now.Add(time.Minute)
		h.receive(0, "purged")
		h.now = h.now.Add(time.Second)
		if n, err := h.keeper.Purge(t.Context(), h.queue); n != 1 || err != nil {
			t.Errorf("purged %d, %v", n, err)
		}
		if got := h.feedback(); got != want {
			t.Errorf("%s: told %q, want %q", ack, got, want)
		}
	}
}

func TestLockLapses(t *testing.T) {
	h := newHouse(t)
	h.send("1")
	one := h.receive(0, "1")
	h.now = h.now.Add(commands.LockTime - time.Second)
	h.ok(h.keeper.Sweep(t.Context()))
	h.receive(0, "")
	told := h.told.Load()
	h.now = h.now.Add(time.Second)
	h.refused(h.settle(one, signet.Complete), signet.MessageLockLost)
	h.ok(h.keeper.Sweep(t.Context()))
	if h.told.Load() != told+1 {
		t.Error("who listens was not told that the command is free again")
	}
	if again := h.receive(0, "1"); again.DeliveryCount != 0 {
		t.Error("a lock that lapses is no delivery that failed")
	}
	h.refused(h.settle(one, signet.Complete), signet.MessageLockLost) // the lock is another's now
}

// TestSession: a connected device has what it was given until it goes.
func TestSession(t *testing.T) {
	h := newHouse(t)
	h.send("1", "2")
	one := h.receive(7, "1")
	h.now = h.now.Add(10 * commands.LockTime)
	h.ok(h.keeper.Sweep(t.Context()))
	two := h.receive(7, "2") // not the first again
	h.receive(7, "")
	h.ok(h.settle(one, signet.Complete)) // late, and nobody else has asked
	h.ok(h.keeper.Release(t.Context(), h.queue, 7))
	h.refused(h.settle(two, signet.Complete), signet.MessageLockLost)
	if again := h.receive(8, "2"); again.DeliveryCount != 1 {
		t.Error("a connection that ends abandons what it was given")
	}
	if f := h.feedback(); f != "1 Success" {
		t.Error(f)
	}
}

// TestTakeOver: the next session of a device has what the one before it was given,
// though that may not have gone yet; and that gets no more.
func TestTakeOver(t *testing.T) {
	h := newHouse(t)
	h.send("1", "2")
	before := h.receive(7, "1")
	now := h.receive(8, "1")
	if now.DeliveryCount != 1 {
		t.Error("what the older session was given was not abandoned")
	}
	h.receive(7, "")
	h.refused(h.settle(before, signet.Complete), signet.MessageLockLost)
	h.ok(h.keeper.Release(t.Context(), h.queue, 7))
	h.ok(h.settle(now, signet.Complete))
	h.receive(8, "2")
}

// TestLapsedLockOfASession: a device that listens by MQTT and does not acknowledge
// keeps nothing from one that polls.
func TestLapsedLockOfASession(t *testing.T) {
	h := newHouse(t)
	h.send("1")
	slow := h.receive(7, "1")
	h.receive(0, "")
	h.now = h.now.Add(commands.LockTime)
	polled := h.receive(0, "1")
	h.refused(h.settle(slow, signet.Complete), signet.MessageLockLost)
	h.ok(h.settle(polled, signet.Complete))
}

func TestDeadLetter(t *testing.T) {
	h := newHouse(t)
	h.send("1")
	for n := range commands.MaxDeliveries {
		c := h.receive(uint64(n+1), "1")
		if c.DeliveryCount != n {
			t.Fatalf("delivery %d has the count %d", n, c.DeliveryCount)
		}
		h.ok(h.keeper.Release(t.Context(), h.queue, uint64(n+1)))
	}
	h.receive(99, "")
	if f := h.feedback(); f != "1 DeliveryCountExceeded" {
		t.Error(f)
	}
}

func TestExpiry(t *testing.T) {
	h := newHouse(t)
	for _, life := range []time.Duration{0, -time.Second, commands.MaxLife + time.Hour} {
		_, err := h.keeper.Send(t.Context(), signet.Command{CommandQueue: h.queue, ExpiryTime: h.now.Add(life)})
		h.refused(err, signet.MessageExpiry)
	}
	sent, err := h.keeper.Send(t.Context(), signet.Command{CommandQueue: h.queue, MessageID: "short", Ack: signet.AckFull, ExpiryTime: h.now.Add(2 * time.Minute)})
	h.ok(err)
	if !slices.Equal(sent.System, []signet.Property{{Name: "absolute-expiry-time", Value: "2026-01-02T03:06:05.0000000Z"}}) {
		t.Error(sent.System)
	}
	h.send("long")

	// One that is given out is its device's until the lock lapses.
	c := h.receive(0, "short")
	h.now = h.now.Add(commands.LockTime - time.Second)
	h.ok(h.settle(c, signet.Abandon))
	h.now = h.now.Add(58 * time.Second)
	c = h.receive(0, "short")
	h.now = h.now.Add(5 * time.Second)
	h.ok(h.keeper.Sweep(t.Context()))
	if f := h.feedback(); f != "" {
		t.Errorf("%s, and it is given out", f)
	}
	h.now = h.now.Add(commands.LockTime)
	h.ok(h.keeper.Sweep(t.Context()))
	if f := h.feedback(); f != "short Expired" {
		t.Error(f)
	}
	h.refused(h.settle(c, signet.Complete), signet.MessageLockLost)

	h.now = h.now.Add(time.Hour)
	h.receive(0, "") // seen without a sweep
	if f := h.feedback(); f != "long Expired" {
		t.Error(f)
	}
}

// TestSweepOfMany: one sweep is enough, however many devices were sent to in vain.
func TestSweepOfMany(t *testing.T) {
	h := newHouse(t)
	const devices = 25
	for n := range devices {
		h.queue.DeviceID = fmt.Sprint("many-", n)
		h.ok(h.store.CreateIdentity(t.Context(), signet.Identity{Hub: "hub", DeviceID: h.queue.DeviceID, GenerationID: "1"}))
		h.send(make([]string, commands.MaxQueue)...)
	}
	kept := h.receive(0, "*")
	h.now = kept.ExpiryTime.Add(-time.Second)
	kept = h.receive(0, "*") // locked beyond its expiry
	h.now = h.now.Add(time.Second)
	h.ok(h.keeper.Sweep(t.Context()))
	counts, err := h.keeper.Count(t.Context(), "hub", "", "z")
	h.ok(err)
	if len(counts) != 1 || counts[h.queue.DeviceID] != 1 {
		t.Errorf("left are %v", counts)
	}
	h.ok(h.settle(kept, signet.Complete))
}

func TestQueueIsBounded(t *testing.T) {
	h := newHouse(t)
	brief := signet.Command{CommandQueue: h.queue, ExpiryTime: h.now.Add(time.Minute)}
	for range commands.MaxQueue {
		_, err := h.keeper.Send(t.Context(), brief)
		h.ok(err)
	}
	_, err := h.keeper.Send(t.Context(), brief)
	h.refused(err, signet.LimitQueue)
	h.now = h.now.Add(time.Minute)
	h.send("next") // there is room: the others have expired
	h.receive(0, "next")
	if n, err := h.keeper.Count(t.Context(), "hub", "", "z"); n["d"] != 1 || err != nil {
		t.Error(n, err) // given out, and not settled
	}
}

func TestWhatIsRefusedToTheSender(t *testing.T) {
	h := newHouse(t)
	property := func(name, value string) signet.Command {
		return signet.Command{Properties: []signet.Property{{Name: name, Value: value}}}
	}
	for name, c := range map[string]signet.Command{
		"a message ID with a blank":         {MessageID: "a b"},
		"a message ID of 129 characters":    {MessageID: strings.Repeat("x", 129)},
		"an acknowledgement of no kind":     {Ack: "some"},
		"a system property of the hub":      {System: []signet.Property{{Name: "iothub-enqueuedtime", Value: "now"}}},
		"a system property with a line end": {System: []signet.Property{{Name: "correlation-id", Value: "a\r\nb"}}},
		"a property without a name":         property("", "x"),
		"a property that is no header":      property("a b", "x"),
		"a property that looks like ours":   property("$.to", "x"),
		"a property that is ours":           property("IoTHub-Ack", "full"),
		"a property with a line end":        property("a", "b\nc"),
		"a property that is no text":        property("a", "\xff"),
		"a property without a value":        {Properties: []signet.Property{{Name: "a", Null: true}}},
	} {
		c.CommandQueue = h.queue
		if _, err := h.keeper.Send(t.Context(), c); signet.CodeOf(err) != signet.MessageMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]signet.Command{
		"a body of 64 KiB and a message ID": {Body: make([]byte, signet.MaxCommandSize)},
		"properties that no door could say": property("a", strings.Repeat("x", 8<<10)),
	} {
		c.CommandQueue = h.queue
		if _, err := h.keeper.Send(t.Context(), c); signet.CodeOf(err) != signet.LimitMessageSize {
			t.Errorf("%s: %v", name, err)
		}
	}
	largest := signet.Command{CommandQueue: h.queue, MessageID: "m", Body: bytes.Repeat([]byte("x"), signet.MaxCommandSize-1)}
	_, err := h.keeper.Send(t.Context(), largest)
	h.ok(err)
	if got := h.receive(0, "m"); len(got.Body) != len(largest.Body) {
		t.Errorf("%d bytes came", len(got.Body))
	}
}

// TestNextOfTheName: a device made anew has nothing of the one before it, and what
// was begun for that does not reach it.
func TestNextOfTheName(t *testing.T) {
	h := newHouse(t)
	h.send("1", "2")
	old, held := h.queue, h.receive(7, "1")
	h.ok(h.store.DeleteIdentity(t.Context(), "hub", "d", "", "*"))
	h.receive(7, "")
	_, err := h.keeper.Send(t.Context(), signet.Command{CommandQueue: old})
	h.refused(err, signet.IdentityUnknown)
	h.ok(h.store.CreateIdentity(t.Context(), signet.Identity{Hub: "hub", DeviceID: "d", GenerationID: "2"}))
	_, err = h.keeper.Send(t.Context(), signet.Command{CommandQueue: old})
	h.refused(err, signet.IdentityUnknown)

	h.queue.GenerationID = "2"
	h.receive(8, "")
	h.send("new")
	h.queue = old
	h.receive(9, "")
	h.refused(h.settle(held, signet.Complete), signet.MessageLockLost)
	h.ok(h.keeper.Release(t.Context(), old, 7))
	h.queue.GenerationID = "2"
	h.receive(8, "new")
	if f := h.feedback(); f != "" {
		t.Error(f)
	}
}

// TestRestart: what was acknowledged is there, and nothing is locked.
func TestRestart(t *testing.T) {
	h := newHouse(t)
	h.send("1", "2")
	h.ok(h.settle(h.receive(7, "1"), signet.Complete))
	two := h.receive(7, "2")
	h.restart()
	h.refused(h.settle(two, signet.Complete), signet.MessageLockLost)
	h.receive(1, "2") // the numbers of sessions begin anew
	if f := h.feedback(); f != "1 Success" {
		t.Error(f)
	}
}

// TestDiskFails: what could not be stored has not happened, or may have; it is
// never acknowledged, and nothing is lost for good.
func TestDiskFails(t *testing.T) {
	for _, after := range []bool{false, true} {
		h := newHouse(t)
		fault := ""
		fail := func(operation string) error {
			if operation == fault {
				return memstore.ErrFault
			}
			return nil
		}
		if after {
			h.store.After = fail
		} else {
			h.store.Before = fail
		}
		h.send("1")
		one := h.receive(7, "1")
		fault = "EndCommands"
		if err := h.settle(one, signet.Complete); !errors.Is(err, memstore.ErrFault) {
			t.Fatal(err)
		}
		h.receive(7, "") // not twice on one connection
		fault = "RaiseDeliveries"
		if err := h.keeper.Release(t.Context(), h.queue, 7); !errors.Is(err, memstore.ErrFault) {
			t.Fatal(err)
		}
		fault = ""
		if after { // it had been completed
			h.receive(8, "")
		} else {
			h.ok(h.settle(h.receive(8, "1"), signet.Complete))
		}
		if f := h.feedback(); f != "1 Success" {
			t.Error(f)
		}
		fault = "AddCommand"
		if _, err := h.keeper.Send(t.Context(), signet.Command{CommandQueue: h.queue}); !errors.Is(err, memstore.ErrFault) {
			t.Fatal(err)
		}
	}
}

func TestFeedbackIsLocked(t *testing.T) {
	h := newHouse(t)
	for n := range 2 * 50 { // a batch and a half, later
		h.send(fmt.Sprint(n))
		h.ok(h.settle(h.receive(0, fmt.Sprint(n)), signet.Complete))
	}
	for n := range 50 {
		h.send(fmt.Sprint("x", n))
	}
	h.now = h.now.Add(time.Hour)
	h.receive(0, "")
	first, token, err := h.keeper.Feedback(t.Context(), "hub")
	h.ok(err)
	second, other, err := h.keeper.Feedback(t.Context(), "hub")
	h.ok(err)
	if len(first) != 100 || len(second) != 50 || token == other {
		t.Fatal(len(first), len(second))
	}
	if none, _, _ := h.keeper.Feedback(t.Context(), "hub"); none != nil {
		t.Error("given out twice")
	}
	h.refused(h.keeper.CompleteFeedback(t.Context(), "other", token), signet.MessageLockLost)
	h.ok(h.keeper.AbandonFeedback("hub", token))
	h.refused(h.keeper.AbandonFeedback("hub", token), signet.MessageLockLost)
	again, token, err := h.keeper.Feedback(t.Context(), "hub")
	h.ok(err)
	if len(again) != 100 {
		t.Error(len(again))
	}
	h.now = h.now.Add(commands.LockTime)
	h.refused(h.keeper.CompleteFeedback(t.Context(), "hub", token), signet.MessageLockLost)
	h.ok(h.keeper.Sweep(t.Context()))
	if n := strings.Count(h.feedback(), ", ") + 1; n != 150 {
		t.Errorf("%d records", n)
	}
	// Nobody reads, and after two days it is gone.
	h.send("unread")
	h.ok(h.settle(h.receive(0, "unread"), signet.Complete))
	h.now = h.now.Add(commands.MaxLife + time.Second)
	h.ok(h.keeper.Sweep(t.Context()))
	if f := h.feedback(); f != "" {
		t.Error(f)
	}
}

// TestManyAtOnce: senders, a session and pollers at one queue; each command comes to
// one end.
func TestManyAtOnce(t *testing.T) {
	h := newHouse(t)
	const each, senders = 40, 4
	var wg sync.WaitGroup
	for n := range senders {
		wg.Go(func() {
			for i := range each {
				for {
					_, err := h.keeper.Send(t.Context(), signet.Command{CommandQueue: h.queue, MessageID: fmt.Sprintf("%d-%d", n, i), Ack: signet.AckFull})
					if err == nil {
						break
					}
					if signet.CodeOf(err) != signet.LimitQueue || t.Failed() {
						t.Error(err)
						return
					}
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	var mu sync.Mutex
	done := map[string]int{}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(done) }
	for n := range 3 {
		wg.Go(func() {
			for count() < each*senders && !t.Failed() {
				c, err := h.keeper.Receive(t.Context(), h.queue, uint64(n/2)) // two poll, one is connected
				if err != nil {
					t.Error(err)
					return
				}
				if c == nil {
					time.Sleep(time.Millisecond)
					continue
				}
				if err := h.settle(c, signet.Complete); err != nil {
					t.Error(err)
				}
				mu.Lock()
				done[c.MessageID]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for id, n := range done {
		if n != 1 {
			t.Errorf("%s was completed %d times", id, n)
		}
	}
	if n := strings.Count(h.feedback(), " Success"); n != each*senders {
		t.Errorf("%d are told of", n)
	}
}
