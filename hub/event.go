package hub

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/signet-iot/signet"
)

// An Event is something that the hub itself has to say on its message log.
type Event struct {
	Source, Operation, Schema string
	DeviceID, ModuleID        string // of the identity that it is about, if it is about one
	ID                        string // tells an event that comes twice; one is made when empty
	Time                      time.Time
	Body                      any // of the JSON body
	Properties                []signet.Property
}

// Event puts an event on the message log of a hub, in the form of Azure's events
// that are no telemetry (iot-hub-non-telemetry-event-schema). done as for
// [Messages.Append].
func (h *Hub) Event(ctx context.Context, hub string, e Event, done func(error)) {
	body, err := json.Marshal(e.Body)
	if err != nil {
		done(err)
		return
	}
	tenant, _ := h.registry.HubByName(hub) // zero when it has gone meanwhile
	if e.Time.IsZero() {
		e.Time = h.now().UTC()
	}
	if e.ID == "" {
		e.ID = signet.NewETag()
	}
	properties := []signet.Property{{Name: "hubName", Value: hub}}
	if e.DeviceID != "" {
		properties = append(properties, signet.Property{Name: "deviceId", Value: e.DeviceID})
	}
	if e.ModuleID != "" {
		properties = append(properties, signet.Property{Name: "moduleId", Value: e.ModuleID})
	}
	h.messages.Append(ctx, &signet.Message{
		Hub: hub, DeviceID: e.DeviceID, ModuleID: e.ModuleID, Source: e.Source, EnqueuedTime: h.enqueued(tenant.Created), Body: body,
		System: []signet.Property{{Name: "content-type", Value: "application/json"}, {Name: "content-encoding", Value: "utf-8"},
			{Name: "user-id", Value: hub}, {Name: "correlation-id", Value: e.ID}},
		Properties: slices.Concat(properties, []signet.Property{{Name: "opType", Value: e.Operation}}, e.Properties, []signet.Property{
			{Name: "operationTimestamp", Value: signet.AzureTime(e.Time)},
			{Name: "iothub-message-schema", Value: e.Schema},
		}),
	}, done)
}

// Outbox holds the events that are on disk, with the changes that they tell of,
// and not on the message log yet. Its server is package store. Safe for concurrent
// use.
type Outbox interface {
	// Events lists up to limit events of a hub, in the order of their sequences;
	// those of one identity are in the order in which they happened.
	Events(ctx context.Context, hub string, limit int) ([]signet.Event, error)
	CountEvents(ctx context.Context, hub string) (int, error)
	// RemoveEvents removes events, durably; those that are gone do not matter.
	RemoveEvents(ctx context.Context, hub string, sequences []int64) error
}

const (
	// relayBatch is how many events are put on the log together: of 256 KiB at
	// most, of one usually.
	relayBatch = 128
	// relayTurn is how many batches of a hub are put on the log before it is the
	// turn of another: one that changes without a rest delays the others' by less
	// than a second.
	relayTurn = 8
	// relayPause lies between tries while the log or the store fails.
	relayPause = time.Second
	// MaxOutbox is how many events of a hub may wait, because the log takes none or
	// they come faster than it does, before what would add to them is refused: some
	// hundred megabytes of usual ones.
	MaxOutbox = 100_000
)

// A Relay puts events from the outbox on the message log. An event is removed
// once the log has it on disk: a crash in between tells it twice, with one
// correlation-id, and never not at all.
type Relay struct {
	hub    *Hub
	outbox Outbox
	log    *slog.Logger
	wake   chan struct{} // has room for one

	mu      sync.Mutex
	waiting map[string]bool // hubs that may have events
	held    map[string]bool // hubs that have too many
}

// NewRelay makes a relay; Run starts it.
func NewRelay(h *Hub, o Outbox, log *slog.Logger) *Relay {
	r := &Relay{hub: h, outbox: o, log: log, wake: make(chan struct{}, 1), waiting: map[string]bool{}, held: map[string]bool{}}
	for _, tenant := range h.registry.Hubs() {
		r.waiting[tenant.Name] = true // what a crash has left
	}
	return r
}

// Nudge says that a hub has events that wait. It does not block.
func (r *Relay) Nudge(hub string) {
	r.mu.Lock()
	r.waiting[hub] = true
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Held says whether so many events of a hub wait that no more may come.
func (r *Relay) Held(hub string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held[hub]
}

// Run relays until ctx ends. What is under way then is told again at the next
// start.
func (r *Relay) Run(ctx context.Context) {
	failing := false
	for {
		err := r.Flush(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			r.log.Error("events wait to be put on the message log", "error", err)
		} else if err == nil && failing {
			r.log.Info("events are put on the message log again")
		}
		failing = err != nil
		var again <-chan time.Time
		if failing {
			again = time.After(relayPause)
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-r.wake:
		}
	}
}

// Flush puts what waits on the log, hub by hub, and gives the last failure. A hub
// that has more than a turn's events comes again after the others, as after a
// [Relay.Nudge]. It is not safe for concurrent use.
func (r *Relay) Flush(ctx context.Context) (failed error) {
	r.mu.Lock()
	waiting := r.waiting
	r.waiting = map[string]bool{}
	r.mu.Unlock()
	for hub := range waiting {
		more, err := r.flush(ctx, hub)
		held := false
		if err != nil {
			failed = err
		}
		if err != nil || more {
			n, countErr := r.outbox.CountEvents(ctx, hub)
			held = n >= MaxOutbox || countErr != nil && r.Held(hub)
		}
		r.mu.Lock()
		if r.held[hub] = held; !held {
			delete(r.held, hub)
		}
		if err != nil {
			r.waiting[hub] = true
		}
		r.mu.Unlock()
		if more {
			r.Nudge(hub)
		}
	}
	return failed
}

// flush puts a turn's events of a hub on the log, and says whether there may be
// more. After a failure it and all behind it wait, those too that the log has
// taken: they come again, in their order.
func (r *Relay) flush(ctx context.Context, hub string) (more bool, err error) {
	for range relayTurn {
		events, err := r.outbox.Events(ctx, hub, relayBatch)
		if err != nil || len(events) == 0 {
			return false, err
		}
		results := make([]chan error, len(events))
		for n, e := range events {
			result := make(chan error, 1)
			results[n] = result
			r.hub.Event(ctx, hub, Event{Source: e.Source, Operation: e.Operation, Schema: e.Schema, DeviceID: e.DeviceID, ModuleID: e.ModuleID,
				ID: strconv.FormatInt(e.Sequence, 16), Time: e.Time, Body: e.Body}, func(err error) { result <- err })
		}
		var told []int64
		var failed error
		for n, result := range results {
			err := <-result                                    // Append calls done, whatever comes
			if signet.CodeOf(err) == signet.LimitMessageSize { // no log will ever take it
				r.log.Error("an event is too large for the message log", "hub", hub, "device", events[n].DeviceID, "operation", events[n].Operation)
				err = nil
			}
			if failed == nil {
				failed = err
			}
			if failed == nil {
				told = append(told, events[n].Sequence)
			}
		}
		if err := r.outbox.RemoveEvents(ctx, hub, told); err != nil {
			return false, err
		}
		if failed != nil {
			return false, failed
		}
	}
	return true, nil
}
