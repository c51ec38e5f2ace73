package registry_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/registry"
)

// told gives what waits in the outbox of the hub, and empties it.
func (w *twins) told(t *testing.T) string {
	t.Helper()
	events, err := w.store.Events(t.Context(), "hub", 100)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	var sequences []int64
	for _, e := range events {
		if !e.Time.Equal(noon) {
			t.Errorf("told as of %v", e.Time)
		}
		body := strings.ReplaceAll(string(e.Body), `"$lastUpdated":"2026-11-23T12:00:00.0000000Z"`, `"$lastUpdated":"noon"`)
		body = strings.ReplaceAll(body, `"$lastUpdated":"0001-01-01T00:00:00Z"`, `"$lastUpdated":"never"`)
		lines = append(lines, fmt.Sprintf("%s %s %s %s %s", signet.IdentityName(e.DeviceID, e.ModuleID), e.Source, e.Operation, e.Schema, body))
		sequences = append(sequences, e.Sequence)
	}
	if err := w.store.RemoveEvents(t.Context(), "hub", sequences); err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// TestEvents: what a hub tells of each change, in Azure's shapes, and nothing of
// what it was not told to.
func TestEvents(t *testing.T) {
	w := newTwins(t)
	change := func(c registry.TwinChange) string {
		t.Helper()
		twin, err := w.ChangeTwin(t.Context(), "hub", "d", "", c, "")
		if err != nil {
			t.Fatal(err)
		}
		return twin.ETag
	}
	tell := func(events signet.EventSources) {
		t.Helper()
		if h, err := w.SetEvents(t.Context(), "hub", events); err != nil || h.Events != events {
			t.Fatalf("%+v %v", h, err)
		}
	}
	change(registry.TwinChange{Desired: []byte(`{"a":1}`)})
	equal(t, w.told(t), "")

	tell(signet.TwinEvents)
	if _, err := w.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "quiet"}); err != nil {
		t.Fatal(err)
	}
	change(registry.TwinChange{Desired: []byte(`{"a":null,"b":{"c":"x<y"}}`)})
	equal(t, w.told(t), `d twinChangeEvents updateTwin twinChangeNotification {"version":4,"properties":{"desired":{"a":null,"b":{"c":"x\u003cy"},`+
		`"$metadata":{"$lastUpdated":"noon","$lastUpdatedVersion":3,"b":{"$lastUpdated":"noon","$lastUpdatedVersion":3,"c":{"$lastUpdated":"noon","$lastUpdatedVersion":3}}},"$version":3}}}`)
	change(registry.TwinChange{Tags: []byte(`{"site":"north"}`)})
	equal(t, w.told(t), `d twinChangeEvents updateTwin twinChangeNotification {"version":5,"tags":{"site":"north"}}`)
	if _, err := w.report(`{"t":21}`, 0); err != nil {
		t.Fatal(err)
	}
	equal(t, w.told(t), `d twinChangeEvents updateTwin twinChangeNotification {"version":6,"properties":{"reported":{"t":21,`+
		`"$metadata":{"$lastUpdated":"noon","$lastUpdatedVersion":2,"t":{"$lastUpdated":"noon","$lastUpdatedVersion":2}},"$version":2}}}`)
	etag := change(registry.TwinChange{Desired: []byte(`{"z":[1]}`), Replace: true})
	equal(t, w.told(t), `d twinChangeEvents replaceTwin twinChangeNotification {"version":7,"tags":{},"properties":{"desired":{"z":[1],`+
		`"$metadata":{"$lastUpdated":"noon","$lastUpdatedVersion":4,"z":{"$lastUpdated":"noon","$lastUpdatedVersion":4}},"$version":4}}}`)
	// What is refused is not told of.
	if _, err := w.report(`{"t":22}`, 9); signet.CodeOf(err) != signet.ETagStale {
		t.Error(err)
	}
	equal(t, w.told(t), "")

	tell(signet.LifeCycleEvents)
	change(registry.TwinChange{Tags: []byte(`{"site":"west"}`)})
	twin, err := w.Twin(t.Context(), "hub", "d", "")
	if err != nil || twin.ETag == etag {
		t.Fatal(err)
	}
	module, err := w.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "d", ModuleID: "m"})
	if err != nil {
		t.Fatal(err)
	}
	empty := `"properties":{"desired":{"$metadata":{"$lastUpdated":"never"},"$version":1},"reported":{"$metadata":{"$lastUpdated":"never"},"$version":1}}`
	equal(t, w.told(t), `d/m deviceLifecycleEvents createModuleIdentity moduleLifecycleNotification {"deviceId":"d","moduleId":"m","etag":"`+
		module.GenerationID+`","version":2,`+empty+`}`)
	if err := w.Delete(t.Context(), "hub", "d", "", "other"); signet.CodeOf(err) != signet.ETagStale {
		t.Error(err)
	}
	equal(t, w.told(t), "")
	if err := w.Delete(t.Context(), "hub", "d", "", "*"); err != nil {
		t.Fatal(err)
	}
	equal(t, w.told(t), `d/m deviceLifecycleEvents deleteModuleIdentity moduleLifecycleNotification {"deviceId":"d","moduleId":"m","etag":"`+module.GenerationID+`","version":2,`+empty+`}
d deviceLifecycleEvents deleteDeviceIdentity deviceLifecycleNotification {"deviceId":"d","etag":"`+twin.ETag+`","version":8,"tags":{"site":"west"},"properties":{`+
		`"desired":{"z":[1],"$metadata":{"$lastUpdated":"noon","$lastUpdatedVersion":4,"z":{"$lastUpdated":"noon","$lastUpdatedVersion":4}},"$version":4},`+
		`"reported":{"t":21,"$metadata":{"$lastUpdated":"noon","$lastUpdatedVersion":2,"t":{"$lastUpdated":"noon","$lastUpdatedVersion":2}},"$version":2}}}`)
}

// TestEventsAreDurable: an event is there when its change is, whether the store
// has said so or not, and its relay is told; nothing of either when it is not.
func TestEventsAreDurable(t *testing.T) {
	store := memstore.New()
	nudges, held := 0, false
	r := registry.New(store, registry.Options{Event: func(string) { nudges++ }, EventsHeld: func(string) bool { return held }})
	if _, err := r.CreateHub(t.Context(), "hub", "hub.test"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.SetEvents(t.Context(), "hub", signet.LifeCycleEvents|signet.TwinEvents); err != nil {
		t.Fatal(err)
	}
	create := func(id string) error {
		_, err := r.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: id})
		return err
	}
	fault := func(operation string) error {
		if operation == "CreateIdentity" {
			return memstore.ErrFault
		}
		return nil
	}
	waiting := func() int { n, _ := store.CountEvents(context.Background(), "hub"); return n }

	store.Before = fault
	if err := create("before"); err == nil || waiting() != 0 {
		t.Errorf("%v, %d events of what was not kept", err, waiting())
	}
	store.Before, store.After = nil, fault
	if err := create("after"); err == nil || waiting() != 1 || nudges != 2 {
		t.Errorf("%v, %d events and %d nudges of what was kept and not told", err, waiting(), nudges)
	}
	store.After = nil

	// More than the outbox holds: what would be told of is refused, and not done.
	held = true
	if err := create("held"); signet.CodeOf(err) != signet.Unavailable {
		t.Error(err)
	}
	if _, err := r.ChangeTwin(t.Context(), "hub", "after", "", registry.TwinChange{Tags: []byte(`{"a":1}`)}, ""); signet.CodeOf(err) != signet.Unavailable {
		t.Error(err)
	}
	if err := r.Delete(t.Context(), "hub", "after", "", "*"); signet.CodeOf(err) != signet.Unavailable {
		t.Error(err)
	}
	if _, err := r.Get(t.Context(), "hub", "after", ""); err != nil || waiting() != 1 {
		t.Errorf("%v, %d events", err, waiting())
	}
}

// TestLargeEvent: an event is never too large for a message, whatever a twin holds.
func TestLargeEvent(t *testing.T) {
	w := newTwins(t)
	if _, err := w.SetEvents(t.Context(), "hub", signet.LifeCycleEvents|signet.TwinEvents); err != nil {
		t.Fatal(err)
	}
	members := func(prefix string, value any) string {
		var b strings.Builder
		for n := range 2000 {
			fmt.Fprintf(&b, `,"%s%d":%v`, prefix, n, value)
		}
		return "{" + b.String()[1:] + "}"
	}
	if _, err := w.patch(members("a", 1)); err != nil {
		t.Fatal(err)
	}
	// Control characters count nothing in a twin, and six bytes in JSON.
	for _, prefix := range []string{"b", "c"} {
		if _, err := w.report(members(prefix, `"\u0001\u0001\u0001"`), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Delete(t.Context(), "hub", "d", "", "*"); err != nil {
		t.Fatal(err)
	}
	events, err := w.store.Events(t.Context(), "hub", 100)
	if err != nil || len(events) != 4 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	for n, e := range events {
		if metadata := strings.Contains(string(e.Body), `"$metadata"`); len(e.Body) > signet.MaxMessageSize || metadata != (n < 3) {
			t.Errorf("%s has %d bytes, metadata: %t", e.Operation, len(e.Body), metadata)
		}
	}
	if last := string(events[3].Body); !strings.Contains(last, `"a1999":1`) || !strings.Contains(last, `"c1999":`) {
		t.Error("the twin is not told of")
	}
}
