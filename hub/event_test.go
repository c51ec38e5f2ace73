package hub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/internal/memstore"
)

func (h *house) tell(events signet.EventSources) {
	h.t.Helper()
	if _, err := h.registry.SetEvents(h.t.Context(), "first", events); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) relay() *hub.Relay {
	return hub.NewRelay(h.hub, h.store, slog.New(slog.DiscardHandler))
}

// told gives the operations on the message log, each with the identity.
func (h *house) told() string {
	h.messages.mu.Lock()
	defer h.messages.mu.Unlock()
	var all []string
	for _, m := range h.messages.kept {
		for _, p := range m.Properties {
			if p.Name == "opType" {
				all = append(all, signet.IdentityName(m.DeviceID, m.ModuleID)+" "+p.Value)
			}
		}
	}
	h.messages.kept = nil
	return strings.Join(all, ", ")
}

// TestRelay: what waits in the outbox comes to the log in its form and order,
// once when nothing fails, and again when it is not known to have come.
func TestRelay(t *testing.T) {
	h := newHouse(t)
	h.tell(signet.LifeCycleEvents)
	made := h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	h.device(signet.Identity{DeviceID: "d", ModuleID: "m", Auth: byCA})
	r := h.relay() // begins with what waits
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := h.messages.kept[0]
	form := fmt.Sprint(m.Hub, " ", m.DeviceID, " ", m.Source, " ", m.AuthMethod, m.GenerationID)
	for _, p := range append(m.System[:3:3], m.Properties...) {
		form += fmt.Sprintf(" %s=%s", p.Name, p.Value)
	}
	if want := "first d deviceLifecycleEvents  content-type=application/json content-encoding=utf-8 user-id=first hubName=first deviceId=d opType=createDeviceIdentity operationTimestamp=" +
		signet.AzureTime(made.CreatedTime) + " iothub-message-schema=deviceLifecycleNotification"; form != want {
		t.Errorf("got  %s\nwant %s", form, want)
	}
	if id := m.System[3]; id.Name != "correlation-id" || id.Value == "" || id == h.messages.kept[1].System[3] {
		t.Errorf("no ID of its own: %v", id)
	}
	if got := h.told(); got != "d createDeviceIdentity, d/m createModuleIdentity" {
		t.Error(got)
	}
	if err := r.Flush(t.Context()); err != nil || h.told() != "" {
		t.Errorf("told again, %v", err)
	}

	// The log takes none: they wait, in their order.
	h.messages.err = signet.Refuse(signet.Unavailable, "no log")
	h.device(signet.Identity{DeviceID: "e", Auth: byCA})
	h.device(signet.Identity{DeviceID: "f", Auth: byCA})
	r.Nudge("first")
	if err := r.Flush(t.Context()); signet.CodeOf(err) != signet.Unavailable || r.Held("first") {
		t.Errorf("%v, held: %t", err, r.Held("first"))
	}
	h.messages.err = nil
	if err := r.Flush(t.Context()); err != nil { // it has not forgotten
		t.Fatal(err)
	}
	if got := h.told(); got != "e createDeviceIdentity, f createDeviceIdentity" {
		t.Error(got)
	}

	// On the log, and not known to be removed: told again under the same ID.
	h.device(signet.Identity{DeviceID: "g", Auth: byCA})
	h.store.Before = func(operation string) error {
		if operation == "RemoveEvents" {
			return memstore.ErrFault
		}
		return nil
	}
	r.Nudge("first")
	if err := r.Flush(t.Context()); !errors.Is(err, memstore.ErrFault) {
		t.Error(err)
	}
	h.store.Before = nil
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept := h.messages.kept
	if len(kept) != 2 || kept[0].DeviceID != "g" || kept[1].DeviceID != "g" || kept[0].System[3] != kept[1].System[3] {
		t.Errorf("told %s", h.told())
	}
}

// TestOutboxIsBounded: a log that takes nothing for long has the hub refuse what
// it would have to tell of, and no longer once the log takes it.
func TestOutboxIsBounded(t *testing.T) {
	h := newHouse(t)
	h.tell(signet.LifeCycleEvents)
	h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	full := &crowdedOutbox{Outbox: h.store}
	r := hub.NewRelay(h.hub, full, slog.New(slog.DiscardHandler))
	h.messages.err = signet.Refuse(signet.Unavailable, "no log")
	if err := r.Flush(t.Context()); err == nil || !r.Held("first") || r.Held("second") {
		t.Errorf("%v, held: %t", err, r.Held("first"))
	}
	h.messages.err = nil
	if err := r.Flush(t.Context()); err != nil || r.Held("first") {
		t.Errorf("%v, held: %t", err, r.Held("first"))
	}
}

type crowdedOutbox struct{ hub.Outbox }

func (crowdedOutbox) CountEvents(context.Context, string) (int, error) { return hub.MaxOutbox, nil }

// TestOutboxesTakeTurns: a hub that changes faster than the log takes its events
// has the others' told between its own, and is held when too many wait.
func TestOutboxesTakeTurns(t *testing.T) {
	h := newHouse(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	busy := &busyOutbox{quietTold: cancel}
	r := hub.NewRelay(h.hub, busy, slog.New(slog.DiscardHandler))
	r.Run(ctx)
	if !busy.told {
		t.Error("the quiet hub's event waits as long as the busy one has any")
	}
	if !r.Held("first") || r.Held("second") {
		t.Errorf("held: %t, %t", r.Held("first"), r.Held("second"))
	}
}

// busyOutbox has always more events of the first hub, and one of the second.
type busyOutbox struct {
	turns     int
	told      bool
	quietTold func()
}

func (o *busyOutbox) Events(ctx context.Context, name string, limit int) ([]signet.Event, error) {
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case name == "first":
		return make([]signet.Event, limit), nil
	case o.told:
		return nil, nil
	}
	return make([]signet.Event, 1), nil
}

func (o *busyOutbox) CountEvents(_ context.Context, name string) (int, error) {
	if o.turns++; o.told && o.turns > 2 {
		defer o.quietTold()
	}
	return map[string]int{"first": hub.MaxOutbox, "second": 1}[name], nil
}

func (o *busyOutbox) RemoveEvents(_ context.Context, name string, _ []int64) error {
	o.told = o.told || name == "second"
	return nil
}

// TestConnectionEvents: comings and goings are told where the hub does, as they
// end within a moment, under numbers that rise.
func TestConnectionEvents(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Root")
	h.trust("first", root)
	h.trust("second", root)
	for _, id := range []string{"d", "e"} {
		h.device(signet.Identity{DeviceID: id, Auth: byCA})
	}
	h.device(signet.Identity{DeviceID: "d", ModuleID: "m", Auth: byCA})
	h.device(signet.Identity{Hub: "second", DeviceID: "d", Auth: byCA})
	connect := func(host, device, module string) *hub.Session {
		t.Helper()
		s, err := h.hub.Connect(t.Context(), hub.Credentials{Host: host, DeviceID: device, ModuleID: module,
			Chain: presented(t, root.Device(t, signet.IdentityName(device, module)))}, func() {})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var last string
	expect := func(want string) {
		t.Helper()
		h.hub.FlushConnections(t.Context())
		for _, m := range h.messages.kept {
			var body struct{ SequenceNumber string }
			if err := json.Unmarshal(m.Body, &body); err != nil || len(body.SequenceNumber) != 64 || body.SequenceNumber <= last {
				t.Errorf("number %q after %q, %v", body.SequenceNumber, last, err)
			}
			last = body.SequenceNumber
		}
		if got := h.told(); got != want {
			t.Errorf("told %q, not %q", got, want)
		}
	}

	d := connect("first.test", "d", "")
	expect("")
	h.tell(signet.ConnectionEvents)
	expect("d deviceConnected") // it was there already
	m := connect("first.test", "d", "m")
	other := connect("second.test", "d", "")
	expect("d/m moduleConnected")
	other.Close()
	m.Close()
	expect("d/m moduleDisconnected")
	expect("")

	// Taken over, and gone and back: it is connected, and was.
	d2 := connect("first.test", "d", "")
	d.Close()
	expect("")
	d2.Close()
	d3 := connect("first.test", "d", "")
	expect("")
	// Come and gone: nobody saw it.
	connect("first.test", "e", "").Close()
	expect("")
	// Requests of HTTPS are no connections.
	if _, err := h.hub.Authenticate(t.Context(), hub.Credentials{Host: "first.test", DeviceID: "e", Chain: presented(t, root.Device(t, "e"))}); err != nil {
		t.Fatal(err)
	}
	expect("")

	// What the log does not take is lost, and counted.
	h.messages.err = signet.Refuse(signet.Unavailable, "no log")
	d3.Close()
	h.hub.FlushConnections(t.Context())
	h.messages.err = nil
	if lost := h.hub.ConnectionEventsLost(); lost != 1 {
		t.Errorf("%d lost", lost)
	}
	h.tell(0)
	connect("first.test", "d", "")
	expect("")
	h.tell(signet.ConnectionEvents)
	expect("d deviceConnected")
}

// TestConnectionStorm: however often a fleet comes and goes within a moment, each
// device makes one event.
func TestConnectionStorm(t *testing.T) {
	h := newHouse(t)
	h.tell(signet.ConnectionEvents)
	h.hub.FlushConnections(t.Context())
	root := hubtest.NewCA(t, "Root")
	h.trust("first", root)
	var last []*hub.Session
	for n := range 20 {
		id := fmt.Sprint("d", n)
		h.device(signet.Identity{DeviceID: id, Auth: byCA})
		chain := presented(t, root.Device(t, id))
		for round := range 10 {
			s, err := h.hub.Connect(t.Context(), hub.Credentials{Host: "first.test", DeviceID: id, Chain: chain}, func() {})
			if err != nil {
				t.Fatal(err)
			}
			if round%2 == 0 {
				s.Close()
			} else if round == 9 {
				last = append(last, s)
			}
		}
	}
	h.hub.FlushConnections(t.Context())
	if n := strings.Count(h.told(), "deviceConnected"); n != len(last) || h.hub.ConnectionEventsLost() != 0 {
		t.Errorf("%d events of %d devices", n, len(last))
	}
}

// TestConnectionsWhileTold: devices come and go while others are told of.
func TestConnectionsWhileTold(t *testing.T) {
	h := newHouse(t)
	h.tell(signet.ConnectionEvents)
	root := hubtest.NewCA(t, "Root")
	h.trust("first", root)
	h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	chain := presented(t, root.Device(t, "d"))
	ctx, stop := context.WithCancel(t.Context())
	var telling sync.WaitGroup
	telling.Go(func() {
		for ctx.Err() == nil {
			h.hub.FlushConnections(t.Context())
		}
	})
	for range 50 {
		s, err := h.hub.Connect(t.Context(), hub.Credentials{Host: "first.test", DeviceID: "d", Chain: chain}, func() {})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	stop()
	telling.Wait()
	h.hub.FlushConnections(t.Context())
	if told := h.told(); strings.Count(told, "deviceConnected") != strings.Count(told, "deviceDisconnected") {
		t.Errorf("told %q of a device that has gone", told)
	}
}
