package store_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/store"
)

// The promises of authority.Store for scopes.
func init() {
	type promise = struct {
		name string
		keep func(t *testing.T, s *store.Store)
	}
	of := func(key string) signet.Scope {
		return signet.Scope{Hub: "east", Key: key, Devices: []string{"press-*"}, IssuedFrom: at(1), IssuedUntil: at(2), KeyTypes: []string{"p256"},
			Subject: "CN=ü", By: "owner", Updated: at(3)}
	}
	place := func(t *testing.T, s *store.Store, key, device string, want int64) {
		t.Helper()
		got, err := s.Place(t.Context(), "east", key, device)
		ok(t, err)
		same(t, got, want)
	}
	take := func(t *testing.T, s *store.Store, key, device string, want int64) {
		t.Helper()
		got, err := s.TakePlace(t.Context(), "east", key, device)
		ok(t, err)
		same(t, got, want)
	}
	seenOf := func(t *testing.T, s *store.Store, want int64) {
		t.Helper()
		list, err := s.Scopes(t.Context(), "east")
		ok(t, err)
		same(t, list[0].Seen, want)
	}
	promises = append(promises, []promise{
		{"scopes come back as they went in, by key, and of a hub alone", func(t *testing.T, s *store.Store) {
			a, b, west := of("a"), of("b"), of("a")
			b.MaxDevices, west.Hub = 7, "west"
			for _, c := range []signet.Scope{b, a, west} {
				ok(t, s.SaveScope(t.Context(), c))
			}
			list, err := s.Scopes(t.Context(), "east")
			ok(t, err)
			same(t, list, []signet.Scope{a, b})
			list, err = s.Scopes(t.Context(), "")
			ok(t, err)
			same(t, list, []signet.Scope{a, b, west})
			a.Devices = nil
			ok(t, s.SaveScope(t.Context(), a))
			ok(t, s.DeleteScope(t.Context(), "east", "b"))
			fails(t, s.DeleteScope(t.Context(), "east", "b"), signet.ErrNotFound)
			list, err = s.Scopes(t.Context(), "east")
			ok(t, err)
			same(t, list, []signet.Scope{a})
			lost := of("a")
			lost.Hub = "north"
			fails(t, s.SaveScope(t.Context(), lost), signet.ErrNotFound)
			ok(t, s.DeleteHub(t.Context(), "west"))
			list, err = s.Scopes(t.Context(), "")
			ok(t, err)
			same(t, list, []signet.Scope{a})
		}},
		{"places are given out in turn, once to each device, and stay when identities go", func(t *testing.T, s *store.Store) {
			c := of("a")
			c.MaxDevices = 2
			ok(t, s.SaveScope(t.Context(), c))
			place(t, s, "a", "d1", 0)
			take(t, s, "a", "d1", 1)
			take(t, s, "a", "d2", 2)
			take(t, s, "a", "d1", 1)
			take(t, s, "a", "d3", 3)
			place(t, s, "a", "d3", 3)
			place(t, s, "b", "d3", 0)
			seenOf(t, s, 3)
			c.MaxDevices = 9
			ok(t, s.SaveScope(t.Context(), c))
			place(t, s, "a", "d2", 2)
			seenOf(t, s, 3)
			_, err := s.TakePlace(t.Context(), "east", "b", "d1")
			fails(t, err, signet.ErrNotFound)
			_, err = s.TakePlace(t.Context(), "west", "a", "d1")
			fails(t, err, signet.ErrNotFound)
			ok(t, s.DeleteScope(t.Context(), "east", "a"))
			place(t, s, "a", "d1", 0)
		}},
		{"of devices that come at once each gets a place of its own", func(t *testing.T, s *store.Store) {
			c := of("a")
			c.MaxDevices = 1
			ok(t, s.SaveScope(t.Context(), c))
			var mu sync.Mutex
			given := map[int64]string{}
			var all sync.WaitGroup
			for n := range 24 {
				all.Go(func() {
					id := fmt.Sprint("d", n%12)
					got, err := s.TakePlace(t.Context(), "east", "a", id)
					ok(t, err)
					mu.Lock()
					defer mu.Unlock()
					if other, taken := given[got]; taken && other != id {
						t.Errorf("place %d is given to %s and %s", got, other, id)
					}
					given[got] = id
				})
			}
			all.Wait()
			same(t, len(given), 12)
			seenOf(t, s, 12)
		}},
		{"a scope that begins to count begins with what was seen, the first first", func(t *testing.T, s *store.Store) {
			plant(t, s) // d1 before d2, under line; d4 and its module under other; all under root
			later := sighting("east", "d1", "line")
			ok(t, s.Save(t.Context(), inventory.News{Sightings: []signet.Sighting{later}}))
			root, line := of("key of root"), of("key of line")
			ok(t, s.SaveScope(t.Context(), root))
			seenOf(t, s, 0)
			root.MaxDevices, line.MaxDevices = 2, 2
			ok(t, s.SaveScope(t.Context(), root))
			seenOf(t, s, 3)
			place(t, s, root.Key, "d1", 1)
			place(t, s, root.Key, "d2", 2)
			place(t, s, root.Key, "d3", 0) // known by thumbprint
			place(t, s, root.Key, "d4", 3)
			ok(t, s.SaveScope(t.Context(), line))
			place(t, s, line.Key, "d2", 2)
			place(t, s, line.Key, "d4", 0)
			take(t, s, line.Key, "d4", 3)

			device, first, err := s.SeenUnder(t.Context(), "east", "key of root", 2)
			ok(t, err)
			same(t, device, "d2")
			same(t, first, at(1))
			_, _, err = s.SeenUnder(t.Context(), "east", "key of root", 4)
			fails(t, err, signet.ErrNotFound)
			_, _, err = s.SeenUnder(t.Context(), "east", "key of nobody", 1)
			fails(t, err, signet.ErrNotFound)
			first, err = s.FirstSeenUnder(t.Context(), "east", "key of line", "d1")
			ok(t, err)
			same(t, first, at(-10))
			_, err = s.FirstSeenUnder(t.Context(), "east", "key of line", "d4")
			fails(t, err, signet.ErrNotFound)
			_, err = s.FirstSeenUnder(t.Context(), "west", "key of line", "d1")
			fails(t, err, signet.ErrNotFound)
		}},
	}...)
}
