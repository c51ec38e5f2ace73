package store_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/store"
)

// The promises of provisioning.RegistrationStore.
func init() {
	type promise = struct {
		name string
		keep func(t *testing.T, s *store.Store)
	}
	promises = append(promises, []promise{
		{"a registration comes back as it went in, with what is to be done for it", func(t *testing.T, s *store.Store) {
			want := registration("east", "Press-17", "Acme")
			want.Hub, want.FirstHub, want.DeviceID, want.Substatus = "h.example", "g.example", "press-17", "deviceDataReset"
			want.Left = []signet.Place{{Hub: "f.example", DeviceID: "press-17"}}
			want.ErrorCode, want.ErrorMessage, want.TrackingID = signet.AllocationWebhook, "zurück 漢", "T"
			want.Leaf, want.Signer, want.Issued = []byte{0, 1}, []byte{2}, [][]byte{{3}, {4}}
			want.Payload = json.RawMessage(`{"a":"\u0000"}`)
			w := &provisioning.Work{Begun: at(3), Chain: [][]byte{{0, 1}, {5}}, Payload: json.RawMessage(`[1]`), CSR: []byte{6},
				Placement: &provisioning.Placement{Hub: "h.example", InitialTwin: signet.InitialTwin{Tags: json.RawMessage(`{}`)}}}
			ok(t, s.CreateRegistration(t.Context(), want, w))
			for _, id := range []string{"Press-17", "press-17"} {
				got, work, err := s.Registration(t.Context(), "east", id)
				ok(t, err)
				same(t, got, want)
				same(t, work, w)
			}
			next := registration("east", "Press-17", "")
			next.ETag = "e2"
			ok(t, s.ReplaceRegistration(t.Context(), next, nil, want.ETag))
			got, work, err := s.Registration(t.Context(), "east", "PRESS-17")
			ok(t, err)
			same(t, got, next)
			same(t, work, (*provisioning.Work)(nil))
		}},
		{"a registration is made once, in its service", func(t *testing.T, s *store.Store) {
			r := registration("east", "a", "")
			fails(t, s.CreateRegistration(t.Context(), registration("north", "a", ""), nil), signet.ErrNotFound)
			ok(t, s.CreateRegistration(t.Context(), r, nil))
			fails(t, s.CreateRegistration(t.Context(), registration("east", "A", ""), nil), signet.ErrExists)
			ok(t, s.CreateRegistration(t.Context(), registration("west", "a", ""), nil))
			for _, id := range []string{"b", "a\x00", "\xff"} {
				_, _, err := s.Registration(t.Context(), "east", id)
				fails(t, err, signet.ErrNotFound)
				fails(t, s.DeleteRegistration(t.Context(), "east", id, "*"), signet.ErrNotFound)
			}
			ok(t, s.DeleteHub(t.Context(), "east"))
			_, _, err := s.Registration(t.Context(), "east", "a")
			fails(t, err, signet.ErrNotFound)
			_, _, err = s.Registration(t.Context(), "west", "a")
			ok(t, err)
		}},
		{"a registration is replaced and deleted if its ETag is the one given", func(t *testing.T, s *store.Store) {
			r := registration("east", "a", "")
			fails(t, s.ReplaceRegistration(t.Context(), r, nil, r.ETag), signet.ErrNotFound)
			ok(t, s.CreateRegistration(t.Context(), r, nil))
			next := r
			next.ETag = "e2"
			for _, etag := range []string{"e2", "", "*", "e1\x00"} {
				fails(t, s.ReplaceRegistration(t.Context(), next, nil, etag), signet.ErrStale)
			}
			ok(t, s.ReplaceRegistration(t.Context(), next, nil, r.ETag))
			fails(t, s.DeleteRegistration(t.Context(), "east", "a", r.ETag), signet.ErrStale)
			ok(t, s.DeleteRegistration(t.Context(), "east", "A", "e2"))
			fails(t, s.DeleteRegistration(t.Context(), "east", "a", "*"), signet.ErrNotFound)
		}},
		{"registrations are listed by group, and those that are not done by their time", func(t *testing.T, s *store.Store) {
			for n, id := range []string{"C", "a", "B", "d"} {
				group := "Acme"
				if id == "d" {
					group = ""
				}
				r := registration("east", id, group)
				ok(t, s.CreateRegistration(t.Context(), r, &provisioning.Work{Begun: at(9 - n)}))
			}
			ok(t, s.CreateRegistration(t.Context(), registration("west", "w", "acme"), &provisioning.Work{Begun: at(1)}))
			ok(t, s.CreateRegistration(t.Context(), registration("west", "done", "acme"), nil))
			list := func(rs []signet.Registration, err error) string {
				ok(t, err)
				text := ""
				for _, r := range rs {
					text += r.RegistrationID + " "
				}
				return text
			}
			same(t, list(s.Registrations(t.Context(), "east", "ACME", "", 9)), "a B C ")
			same(t, list(s.Registrations(t.Context(), "east", "acme", "A", 1)), "B ")
			same(t, list(s.Registrations(t.Context(), "east", "", "", 9)), "d ")
			same(t, list(s.Registrations(t.Context(), "north", "acme", "", 9)), "")
			same(t, list(s.Registrations(t.Context(), "east", "a\x00", "", 9)), "")
			for service, want := range map[string]int{"east": 4, "west": 2, "north": 0, "ea\x00st": 0} {
				n, err := s.CountRegistrations(t.Context(), service)
				ok(t, err)
				same(t, n, want)
			}
			same(t, list(s.Unfinished(t.Context(), 9)), "w d B a C ")
			same(t, list(s.Unfinished(t.Context(), 2)), "w d ")
		}},
	}...)
}

func registration(service, id, group string) signet.Registration {
	return signet.Registration{Service: service, RegistrationID: id, Group: group, OperationID: fmt.Sprint("op-", id), Status: signet.Assigning,
		Attestation: signet.AttestX509, Created: at(1), Updated: at(2), ETag: "e1"}
}
