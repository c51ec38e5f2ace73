package store_test

import (
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/routes"
	"github.com/signet-iot/signet/store"
)

// The promises of routes.Store.
func init() {
	type promise = struct {
		name string
		keep func(t *testing.T, s *store.Store)
	}
	route := func(hub, name string) signet.Route {
		return signet.Route{Hub: hub, Name: name, Sources: signet.FromTelemetry | signet.FromTwin, DeviceID: "ü*", Properties: map[string]string{"a": "b"},
			URL: "https://sink.test/?a=\"", Secret: "whsec_x", AllowPrivate: true, RetrySeconds: 60, From: at(1), Created: at(2)}
	}
	dead := func(id string, first uint64) signet.DeadLetter {
		return signet.DeadLetter{ID: id, First: signet.Position{Sequence: first, Index: 1}, Last: signet.Position{Sequence: first, Index: 511}, Messages: 3,
			FirstTime: at(1), LastTime: at(2), Failed: at(3), Reason: "500"}
	}
	promises = append(promises, []promise{
		{"a route comes back as it went in, by name, and goes with its hub", func(t *testing.T, s *store.Store) {
			b, a, west := route("east", "b"), route("east", "a"), route("west", "a")
			for _, r := range []signet.Route{b, a, west} {
				ok(t, s.SaveRoute(t.Context(), r, 9))
			}
			fails(t, s.SaveRoute(t.Context(), route("north", "a"), 9), signet.ErrNotFound)
			for hub, want := range map[string][]routes.Progress{"east": {{Route: a}, {Route: b}}, "": {{Route: a}, {Route: b}, {Route: west}}, "north": nil, "a\x00": nil} {
				got, err := s.Routes(t.Context(), hub)
				ok(t, err)
				same(t, got, want)
			}
			ok(t, s.DeleteRoute(t.Context(), "east", "a"))
			fails(t, s.DeleteRoute(t.Context(), "east", "a"), signet.ErrNotFound)
			ok(t, s.DeleteHub(t.Context(), "east"))
			got, err := s.Routes(t.Context(), "")
			ok(t, err)
			same(t, got, []routes.Progress{{Route: west}})
		}},
		{"routes are bounded, also among those who add at once; one that is replaced is no more", func(t *testing.T, s *store.Store) {
			added := 0
			for _, err := range together(8, func(n int) error { return s.SaveRoute(t.Context(), route("east", string(rune('a'+n))), 3) }) {
				if err == nil {
					added++
				} else {
					fails(t, err, signet.ErrFull)
				}
			}
			same(t, added, 3)
			all, err := s.Routes(t.Context(), "east")
			ok(t, err)
			ok(t, s.SaveRoute(t.Context(), all[0].Route, 3))
			ok(t, s.SaveRoute(t.Context(), route("west", "a"), 3))
		}},
		{"a route that is replaced has come as far as before", func(t *testing.T, s *store.Store) {
			r, to := route("east", "a"), signet.Position{Sequence: 7, Index: 511}
			ok(t, s.SaveRoute(t.Context(), r, 9))
			ok(t, s.Advance(t.Context(), "east", "a", to))
			fails(t, s.Advance(t.Context(), "east", "b", to), signet.ErrNotFound)
			r.URL = "https://other.test"
			ok(t, s.SaveRoute(t.Context(), r, 9))
			got, err := s.Routes(t.Context(), "east")
			ok(t, err)
			same(t, got, []routes.Progress{{Route: r, Cursor: to}})
			// One made anew begins anew.
			ok(t, s.DeleteRoute(t.Context(), "east", "a"))
			ok(t, s.SaveRoute(t.Context(), r, 9))
			got, err = s.Routes(t.Context(), "east")
			ok(t, err)
			same(t, got, []routes.Progress{{Route: r}})
		}},
		{"a dead letter comes with the cursor, in order of place, bounded, until it is removed", func(t *testing.T, s *store.Store) {
			ok(t, s.SaveRoute(t.Context(), route("east", "a"), 9))
			ok(t, s.SaveRoute(t.Context(), route("west", "a"), 9))
			end := signet.Position{Sequence: 9}
			second, third := dead("y", 10), dead("x", 11)
			for _, d := range []signet.DeadLetter{third, dead("z", 9), second} {
				ok(t, s.Bury(t.Context(), "east", "a", end, d, 2))
			}
			fails(t, s.Bury(t.Context(), "east", "b", end, second, 2), signet.ErrNotFound)
			expect := func(want ...signet.DeadLetter) {
				t.Helper()
				got, err := s.DeadLetters(t.Context(), "east", "a")
				ok(t, err)
				same(t, got, want)
			}
			expect(second, third)
			all, err := s.Routes(t.Context(), "east")
			ok(t, err)
			same(t, all[0].Cursor, end)

			// One that grows is marked still; one that is saved is as it says.
			n, err := s.MarkDeadLetters(t.Context(), "east", "a", "x")
			ok(t, err)
			same(t, n, 1)
			n, err = s.MarkDeadLetters(t.Context(), "east", "a", "other")
			ok(t, err)
			same(t, n, 0)
			third.Messages = 9
			ok(t, s.Bury(t.Context(), "east", "a", end, third, 2))
			third.Replay = true
			expect(second, third)
			third.Replay, third.First = false, signet.Position{Sequence: 12}
			ok(t, s.SaveDeadLetter(t.Context(), "east", "a", third))
			ok(t, s.SaveDeadLetter(t.Context(), "east", "a", dead("gone", 1)))
			expect(second, third)
			n, err = s.MarkDeadLetters(t.Context(), "east", "a", "")
			ok(t, err)
			same(t, n, 2)
			second.Replay, third.Replay = true, true
			expect(second, third)
			ok(t, s.RemoveDeadLetter(t.Context(), "east", "a", "y"))
			ok(t, s.RemoveDeadLetter(t.Context(), "east", "a", "y"))
			expect(third)
			other, err := s.DeadLetters(t.Context(), "west", "a")
			ok(t, err)
			same(t, len(other), 0)
			ok(t, s.DeleteRoute(t.Context(), "east", "a"))
			ok(t, s.SaveRoute(t.Context(), route("east", "a"), 9))
			expect()
		}},
	}...)
}
