package registry_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/registry"
)

// TestActivity: what identities do is seen at once, written behind and together,
// written again when it could not be, and ends with the process.
func TestActivity(t *testing.T) {
	store := memstore.New()
	connected := map[string]bool{}
	writes := 0
	store.Before = func(operation string) error {
		if operation == "SaveActivity" {
			writes++
		}
		return nil
	}
	start := func() *registry.Registry {
		return registry.New(store, registry.Options{Now: func() time.Time { return noon },
			Connected: func(_, device, module string) bool { return connected[signet.IdentityName(device, module)] }})
	}
	r := start()
	if _, err := r.CreateHub(t.Context(), "hub", "hub.example.test"); err != nil {
		t.Fatal(err)
	}
	principal := func(id string) *signet.Principal {
		i, err := r.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: id})
		if err != nil {
			t.Fatal(err)
		}
		return &signet.Principal{Hub: "hub", DeviceID: id, GenerationID: i.GenerationID}
	}
	a, b := principal("a"), principal("b")
	known := func(id string) signet.Activity {
		t.Helper()
		of, err := r.Activity(t.Context(), "hub", id)
		if err != nil {
			t.Fatal(err)
		}
		known := of[id]
		return signet.Activity{Connected: known.Connected, ConnectionUpdated: known.ConnectionUpdated, LastActive: known.LastActive}
	}
	second := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Second) }

	// Nothing is on disk yet, and what is known is known; an earlier time changes
	// nothing.
	r.ConnectionChanged(a, second(1))
	r.Seen(a, second(3))
	r.Seen(a, second(2))
	r.Seen(b, second(4))
	equal(t, known("a"), signet.Activity{ConnectionUpdated: second(1), LastActive: second(3)})
	connected["a"] = true
	r.WriteActivity(t.Context())
	equal(t, writes, 1)
	equal(t, known("a"), signet.Activity{Connected: true, ConnectionUpdated: second(1), LastActive: second(3)})
	equal(t, known("b"), signet.Activity{LastActive: second(4)})
	r.WriteActivity(t.Context())
	equal(t, writes, 1)

	// A store that fails keeps it waiting, beside what comes meanwhile.
	store.Before = func(operation string) error {
		if operation == "SaveActivity" {
			r.Seen(a, second(6))
			return memstore.ErrFault
		}
		return nil
	}
	r.ConnectionChanged(a, second(5))
	connected["a"] = false
	r.WriteActivity(t.Context())
	store.Before = nil
	r.WriteActivity(t.Context())
	equal(t, known("a"), signet.Activity{ConnectionUpdated: second(5), LastActive: second(6)})

	// What an earlier identity of the name did is not the later one's.
	r.Seen(b, second(7))
	if err := r.Delete(t.Context(), "hub", "b", "", "*"); err != nil {
		t.Fatal(err)
	}
	later := registry.New(store, registry.Options{Now: func() time.Time { return second(8) }})
	if _, err := later.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "b"}); err != nil {
		t.Fatal(err)
	}
	r.WriteActivity(t.Context())
	equal(t, known("b"), signet.Activity{})

	// Nor when it could not be written at first, and the later one has come meanwhile.
	c := principal("c")
	store.Before = func(operation string) error {
		if operation != "SaveActivity" {
			return nil
		}
		store.Before = nil
		if err := r.Delete(t.Context(), "hub", "c", "", "*"); err != nil {
			t.Error(err)
		}
		i, err := later.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "c"})
		if err != nil {
			t.Error(err)
		}
		connected["c"] = true
		r.ConnectionChanged(&signet.Principal{Hub: "hub", DeviceID: "c", GenerationID: i.GenerationID}, second(9))
		return memstore.ErrFault
	}
	r.Seen(c, second(8))
	r.WriteActivity(t.Context())
	r.WriteActivity(t.Context())
	equal(t, known("c"), signet.Activity{Connected: true, ConnectionUpdated: second(9)})

	// kill -9: who was connected is not, after the start.
	r.ConnectionChanged(a, second(9))
	connected["a"] = true
	r.WriteActivity(t.Context())
	connected = map[string]bool{}
	r = start()
	if err := r.BeginActivity(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, known("a"), signet.Activity{ConnectionUpdated: noon, LastActive: second(6)})

	// The end of a server writes what is left.
	r.Seen(a, second(10))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.RunActivity(ctx)
	r = start()
	equal(t, known("a").LastActive, second(10))
}

// TestActivityInARush: nothing is written while many come, and all of it after; or after
// ten seconds.
func TestActivityInARush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		var writes atomic.Int64
		var rush atomic.Bool
		rush.Store(true)
		store.Before = func(operation string) error {
			if operation == "SaveActivity" {
				writes.Add(1)
			}
			return nil
		}
		r := registry.New(store, registry.Options{Rush: rush.Load})
		r.Seen(&signet.Principal{Hub: "hub", DeviceID: "a"}, noon)
		ctx, cancel := context.WithCancel(t.Context())
		go r.RunActivity(ctx)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		equal(t, int(writes.Load()), 0)
		rush.Store(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		equal(t, int(writes.Load()), 1)
		rush.Store(true)
		for want := range 3 {
			r.Seen(&signet.Principal{Hub: "hub", DeviceID: "a"}, noon)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			equal(t, int(writes.Load()), 2+want)
		}
		r.Seen(&signet.Principal{Hub: "hub", DeviceID: "a"}, noon)
		cancel() // a server that ends does not wait
		synctest.Wait()
		equal(t, int(writes.Load()), 5)
	})
}

// TestActivityIsBounded: while the store hangs, what is sent is forgotten beyond a
// bound; who connects is not.
func TestActivityIsBounded(t *testing.T) {
	r := registry.New(memstore.New(), registry.Options{})
	for n := range 100_001 {
		r.Seen(&signet.Principal{Hub: "hub", DeviceID: fmt.Sprint(n)}, noon)
	}
	r.ConnectionChanged(&signet.Principal{Hub: "hub", DeviceID: "late"}, noon)
	of, err := r.Activity(t.Context(), "hub", "99999", "100000", "late")
	if err != nil {
		t.Fatal(err)
	}
	_, first := of["99999"]
	_, beyond := of["100000"]
	_, late := of["late"]
	equal(t, []bool{first, beyond, late}, []bool{true, false, true})
}

// BenchmarkConnectionChanged is what a connect pays for being seen.
func BenchmarkConnectionChanged(b *testing.B) {
	r := registry.New(memstore.New(), registry.Options{})
	principals := make([]signet.Principal, 10_000)
	for n := range principals {
		principals[n] = signet.Principal{Hub: "hub", DeviceID: fmt.Sprintf("device-%06d", n), GenerationID: "638"}
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for n := 0; pb.Next(); n++ {
			r.ConnectionChanged(&principals[n%len(principals)], noon)
		}
	})
}
