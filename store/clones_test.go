package store_test

import (
	"fmt"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/store"
)

func init() {
	type promise = struct {
		name string
		keep func(t *testing.T, s *store.Store)
	}
	promises = append(promises, []promise{
		{"a finding comes back as it went in, and is replaced by one of its ID", func(t *testing.T, s *store.Store) {
			want := clone("east", "c1", 5)
			want.Devices, want.More, want.Places, want.Quarantined = []string{"ü", "d/m"}, true, []string{"192.0.2.0/24"}, []string{"d/m"}
			other := clone("west", "c1", 5)
			ok(t, s.Save(t.Context(), inventory.News{Clones: []signet.Clone{want, other, clone("north", "c1", 5)}}))
			got, err := s.Clone(t.Context(), "east", "c1")
			ok(t, err)
			same(t, got, want)
			want.Last, want.Told, want.Count = at(7), at(7), 2
			ok(t, s.Save(t.Context(), inventory.News{Clones: []signet.Clone{want, clone("east", "c2", 6)}}))
			list, err := s.Clones(t.Context(), "east", 10)
			ok(t, err)
			same(t, list, []signet.Clone{want, clone("east", "c2", 6)})
			list, err = s.Clones(t.Context(), "east", 1)
			ok(t, err)
			same(t, list, []signet.Clone{want})
			for _, hub := range []string{"north", "we\x00st"} {
				list, err = s.Clones(t.Context(), hub, 10)
				ok(t, err)
				same(t, len(list), 0)
				_, err = s.Clone(t.Context(), hub, "c1")
				fails(t, err, signet.ErrNotFound)
			}
			want.Dismissed = &signet.CloneDismissal{By: "admin", Reason: "a lab", Time: at(9)}
			ok(t, s.DismissClone(t.Context(), want))
			got, err = s.Clone(t.Context(), "east", "c1")
			ok(t, err)
			same(t, got, want)
			fails(t, s.DismissClone(t.Context(), clone("east", "c9", 1)), signet.ErrNotFound)
			got, err = s.Clone(t.Context(), "west", "c1")
			ok(t, err)
			same(t, got, other)
		}},
		{"of a hub the latest findings are kept", func(t *testing.T, s *store.Store) {
			var many []signet.Clone
			for n := range inventory.MaxClones + 3 {
				many = append(many, clone("east", fmt.Sprintf("c%05d", n), n))
			}
			ok(t, s.Save(t.Context(), inventory.News{Clones: many}))
			ok(t, s.Save(t.Context(), inventory.News{Clones: []signet.Clone{clone("west", "c", 0)}}))
			list, err := s.Clones(t.Context(), "east", inventory.MaxClones+10)
			ok(t, err)
			same(t, len(list), inventory.MaxClones)
			same(t, list[len(list)-1].ID, "c00003")
			list, err = s.Clones(t.Context(), "west", 10)
			ok(t, err)
			same(t, len(list), 1)
		}},
		{"what is done about clones is flagging unless said, hub by hub, and goes with the hub", func(t *testing.T, s *store.Store) {
			policy := func(hub string, want signet.ClonePolicy) {
				t.Helper()
				got, err := s.ClonePolicy(t.Context(), hub)
				ok(t, err)
				same(t, got, want)
			}
			policy("east", signet.ClonesFlag)
			policy("ea\x00st", signet.ClonesFlag)
			ok(t, s.SetClonePolicy(t.Context(), "east", signet.ClonesOff))
			ok(t, s.SetClonePolicy(t.Context(), "east", signet.ClonesQuarantine))
			fails(t, s.SetClonePolicy(t.Context(), "north", signet.ClonesOff), signet.ErrNotFound)
			fails(t, s.SetClonePolicy(t.Context(), "ea\x00st", signet.ClonesOff), signet.ErrNotFound)
			policy("east", signet.ClonesQuarantine)
			policy("west", signet.ClonesFlag)
			ok(t, s.Save(t.Context(), inventory.News{Clones: []signet.Clone{clone("east", "c", 0)}}))
			ok(t, s.DeleteHub(t.Context(), "east"))
			ok(t, s.CreateHub(t.Context(), hub("east")))
			policy("east", signet.ClonesFlag)
			list, err := s.Clones(t.Context(), "east", 10)
			ok(t, err)
			same(t, len(list), 0)
		}},
	}...)
}

func clone(hub, id string, second int) signet.Clone {
	return signet.Clone{Hub: hub, ID: id, Kind: signet.CloneSameKey, Devices: []string{"a"}, Key: "key", First: at(0), Last: at(second), Count: 1, Told: at(1)}
}
