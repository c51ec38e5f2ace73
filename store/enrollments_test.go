package store_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/store"
)

// enrollment is one with something in every member.
func enrollment(service string, group bool, id string) signet.Enrollment {
	return signet.Enrollment{
		Service: service, Group: group, ID: id, DeviceID: "d", ETag: "e1", Status: signet.Disabled,
		Attestation: signet.Attestation{Type: signet.AttestX509, Primary: []byte{0x30, 0}, Secondary: []byte{0x30, 0xff},
			PrimaryCA: "a", SecondaryCA: "b", PrimaryKey: "cA==", SecondaryKey: "cQ=="},
		Reprovision: signet.Reprovision{UpdateHub: true, MigrateData: true}, Allocation: signet.AllocateCustom,
		Hubs: []string{"h1", "h2"}, Webhook: signet.Webhook{URL: "https://w/?code=ü", APIVersion: "2021-10-01"},
		InitialTwin: signet.InitialTwin{Tags: []byte(`{"t":"zurück"}`), Desired: []byte(`{"d":[1.50,"\u0000"]}`)},
		EdgeDevice:  true, Information: []byte(`{}`), Created: at(1), Updated: at(2), IssuancePolicy: "p", HubAuth: signet.AuthCA,
	}
}

// The promises of provisioning.EnrollmentStore.
func init() {
	type promise = struct {
		name string
		keep func(t *testing.T, s *store.Store)
	}
	ids := func(t *testing.T, s *store.Store, service string, group bool, after string, limit int) string {
		t.Helper()
		page, err := s.Enrollments(t.Context(), service, group, after, limit)
		ok(t, err)
		all := ""
		for _, e := range page {
			all += e.ID + " "
		}
		return all
	}
	promises = append(promises, []promise{
		{"an enrollment comes back as it went in, found in any case", func(t *testing.T, s *store.Store) {
			for _, want := range []signet.Enrollment{
				enrollment("east", false, "Dev-A"), enrollment("east", true, "Dev-A"), enrollment("west", false, "dev-a"),
				{Service: "east", ID: "bare"},
			} {
				_, err := s.Enrollment(t.Context(), want.Service, want.Group, want.ID)
				fails(t, err, signet.ErrNotFound)
				ok(t, s.CreateEnrollment(t.Context(), want, nil, 9))
				fails(t, s.CreateEnrollment(t.Context(), want, nil, 9), signet.ErrExists)
				got, err := s.Enrollment(t.Context(), want.Service, want.Group, want.ID)
				ok(t, err)
				same(t, got, want)
			}
			got, err := s.Enrollment(t.Context(), "east", false, "dEV-a")
			ok(t, err)
			same(t, got, enrollment("east", false, "Dev-A"))
			fails(t, s.CreateEnrollment(t.Context(), enrollment("east", false, "DEV-A"), nil, 9), signet.ErrExists)
			fails(t, s.CreateEnrollment(t.Context(), enrollment("north", false, "d"), nil, 9), signet.ErrNotFound)
		}},
		{"an enrollment is replaced and deleted if its ETag is the one given", func(t *testing.T, s *store.Store) {
			old, newer := enrollment("east", true, "G"), enrollment("east", true, "g")
			newer.ETag, newer.Status, newer.Hubs = "e2", signet.Enabled, nil
			fails(t, s.ReplaceEnrollment(t.Context(), newer, nil, "e1"), signet.ErrNotFound)
			fails(t, s.DeleteEnrollment(t.Context(), "east", true, "g", "*"), signet.ErrNotFound)
			ok(t, s.CreateEnrollment(t.Context(), old, nil, 9))
			for _, etag := range []string{"e2", "", "*", "e1\x00", "\xff"} {
				fails(t, s.ReplaceEnrollment(t.Context(), newer, nil, etag), signet.ErrStale)
			}
			ok(t, s.ReplaceEnrollment(t.Context(), newer, nil, "e1"))
			got, err := s.Enrollment(t.Context(), "east", true, "G")
			ok(t, err)
			same(t, got, newer)
			for _, etag := range []string{"e1", "", "\xff"} {
				fails(t, s.DeleteEnrollment(t.Context(), "east", true, "g", etag), signet.ErrStale)
			}
			for _, missing := range []error{s.DeleteEnrollment(t.Context(), "east", false, "g", "*"), s.DeleteEnrollment(t.Context(), "west", true, "g", "*")} {
				fails(t, missing, signet.ErrNotFound)
			}
			ok(t, s.DeleteEnrollment(t.Context(), "east", true, "G", "e2"))
			_, err = s.Enrollment(t.Context(), "east", true, "g")
			fails(t, err, signet.ErrNotFound)
		}},
		{"a signer is one group's, until that lets go of it", func(t *testing.T, s *store.Store) {
			a, b := enrollment("east", true, "a"), enrollment("east", true, "b")
			ok(t, s.CreateEnrollment(t.Context(), a, []string{"s1", "s2"}, 9))
			fails(t, s.CreateEnrollment(t.Context(), b, []string{"s3", "s2"}, 9), provisioning.ErrSigner)
			_, err := s.Enrollment(t.Context(), "east", true, "b")
			fails(t, err, signet.ErrNotFound)
			ok(t, s.CreateEnrollment(t.Context(), enrollment("west", true, "b"), []string{"s1"}, 9))
			ok(t, s.CreateEnrollment(t.Context(), b, []string{"s3"}, 9))
			fails(t, s.ReplaceEnrollment(t.Context(), b, []string{"s1"}, "e1"), provisioning.ErrSigner)
			ok(t, s.ReplaceEnrollment(t.Context(), a, []string{"s2"}, "e1"))
			ok(t, s.ReplaceEnrollment(t.Context(), a, nil, "e1")) // it still has it
			fails(t, s.ReplaceEnrollment(t.Context(), b, []string{"s2"}, "e1"), provisioning.ErrSigner)
			ok(t, s.ReplaceEnrollment(t.Context(), b, []string{"s1", "s3"}, "e1"))
			ok(t, s.ReplaceEnrollment(t.Context(), b, []string{}, "e1"))
			ok(t, s.ReplaceEnrollment(t.Context(), b, []string{"s1", "s3"}, "e1"))
			ok(t, s.DeleteEnrollment(t.Context(), "east", true, "a", "*"))
			ok(t, s.CreateEnrollment(t.Context(), a, []string{"s2"}, 9))
			won := 0
			for _, err := range together(8, func(n int) error {
				return s.CreateEnrollment(t.Context(), enrollment("east", true, fmt.Sprint("c", n)), []string{"s8", "s9"}, 9)
			}) {
				if err == nil {
					won++
				} else {
					fails(t, err, provisioning.ErrSigner)
				}
			}
			same(t, won, 1)
		}},
		{"of each kind a service holds no more than it may", func(t *testing.T, s *store.Store) {
			create := func(service string, group bool, id string) error {
				return s.CreateEnrollment(t.Context(), enrollment(service, group, id), nil, 3)
			}
			held := 0
			for _, err := range together(9, func(n int) error { return create("east", false, fmt.Sprint(n)) }) {
				if err == nil {
					held++
				} else {
					fails(t, err, signet.ErrFull)
				}
			}
			same(t, held, 3)
			ok(t, create("east", true, "g"))
			ok(t, create("west", false, "d"))
			page, err := s.Enrollments(t.Context(), "east", false, "", 9)
			ok(t, err)
			same(t, len(page), 3)
			fails(t, s.DeleteEnrollment(t.Context(), "east", false, page[0].ID, "no"), signet.ErrStale)
			fails(t, create("east", false, "d"), signet.ErrFull)
			ok(t, s.DeleteEnrollment(t.Context(), "east", false, page[0].ID, "*"))
			ok(t, create("east", false, "d"))
			fails(t, create("east", false, "d"), signet.ErrExists)
			fails(t, s.CreateEnrollment(t.Context(), enrollment("west", true, "g"), nil, 0), signet.ErrFull)
		}},
		{"enrollments are listed by their folded IDs, page by page", func(t *testing.T, s *store.Store) {
			for _, id := range []string{"b", "A", "c", "B2", "a-1", "_"} {
				ok(t, s.CreateEnrollment(t.Context(), enrollment("east", false, id), nil, 9))
			}
			ok(t, s.CreateEnrollment(t.Context(), enrollment("east", true, "aa"), nil, 9))
			ok(t, s.CreateEnrollment(t.Context(), enrollment("west", false, "aa"), nil, 9))
			same(t, ids(t, s, "east", false, "", 9), "_ A a-1 b B2 c ")
			same(t, ids(t, s, "east", false, "a", 2), "a-1 b ")
			same(t, ids(t, s, "east", false, "c", 2), "")
			same(t, ids(t, s, "east", true, "", 9), "aa ")
			same(t, ids(t, s, "east", true, "", 0), "")
			same(t, ids(t, s, "north", true, "", 9), "")
		}},
		{"linked hubs come back as they went in, changed together", func(t *testing.T, s *store.Store) {
			a := signet.LinkedHub{Service: "east", HostName: "a.example", ConnectionString: "HostName=a.example;x=ü", Location: "hall 3", Weight: 7, Allocates: true}
			b := signet.LinkedHub{Service: "east", HostName: "b.example", Weight: 1}
			linked := func(service string, want ...signet.LinkedHub) {
				t.Helper()
				got, err := s.LinkedHubs(t.Context(), service)
				ok(t, err)
				same(t, got, want)
			}
			ok(t, s.ChangeLinkedHubs(t.Context(), "east", []string{"none", "\xff"}, []signet.LinkedHub{b, a}))
			linked("east", a, b)
			linked("west")
			linked("\x00")
			a.Weight, a.ConnectionString = 9, ""
			c := signet.LinkedHub{Service: "east", HostName: "c.example", Weight: 2}
			ok(t, s.ChangeLinkedHubs(t.Context(), "east", []string{"b.example"}, []signet.LinkedHub{a, c}))
			linked("east", a, c)
			ok(t, s.ChangeLinkedHubs(t.Context(), "west", []string{"a.example"}, nil))
			linked("east", a, c)
			fails(t, s.ChangeLinkedHubs(t.Context(), "north", nil, []signet.LinkedHub{a}), signet.ErrNotFound)
			same(t, signet.CodeOf(s.ChangeLinkedHubs(t.Context(), "east", []string{"a.example"}, []signet.LinkedHub{{HostName: "\x00"}})), signet.RequestMalformed)
			linked("east", a, c)
		}},
		{"with a provisioning service go its enrollments and linked hubs", func(t *testing.T, s *store.Store) {
			for _, service := range []string{"east", "west"} {
				ok(t, s.CreateEnrollment(t.Context(), enrollment(service, true, "g"), []string{"s"}, 1))
				ok(t, s.ChangeLinkedHubs(t.Context(), service, nil, []signet.LinkedHub{{HostName: "a.example", Weight: 1}}))
			}
			ok(t, s.DeleteHub(t.Context(), "east"))
			ok(t, s.CreateHub(t.Context(), hub("east")))
			same(t, ids(t, s, "east", true, "", 9), "")
			same(t, ids(t, s, "west", true, "", 9), "g ")
			got, err := s.LinkedHubs(t.Context(), "east")
			ok(t, err)
			same(t, len(got), 0)
			ok(t, s.CreateEnrollment(t.Context(), enrollment("east", true, "g2"), []string{"s"}, 1)) // neither signer nor count is left
		}},
		{"a provisioning service that goes while enrollments come leaves none behind", func(t *testing.T, s *store.Store) {
			for range 10 {
				for _, err := range together(9, func(n int) error {
					switch n % 3 {
					case 0:
						return s.CreateEnrollment(t.Context(), enrollment("east", true, fmt.Sprint(n)), []string{fmt.Sprint(n)}, 9)
					case 1:
						return s.ChangeLinkedHubs(t.Context(), "east", nil, []signet.LinkedHub{{HostName: fmt.Sprint(n)}})
					}
					return s.DeleteHub(t.Context(), "east")
				}) {
					if !errors.Is(err, signet.ErrNotFound) {
						ok(t, err)
					}
				}
				ok(t, s.CreateHub(t.Context(), hub("east")))
				same(t, ids(t, s, "east", true, "", 9), "")
				got, err := s.LinkedHubs(t.Context(), "east")
				ok(t, err)
				same(t, len(got), 0)
			}
		}},
		{"text of an enrollment that not every database holds is refused, and is nobody's key", func(t *testing.T, s *store.Store) {
			for _, bad := range []string{"a\x00b", "a\xffb"} {
				e := enrollment("east", false, "d")
				e.ID = bad
				same(t, signet.CodeOf(s.CreateEnrollment(t.Context(), e, nil, 9)), signet.RequestMalformed)
				same(t, signet.CodeOf(s.ReplaceEnrollment(t.Context(), e, nil, "e1")), signet.RequestMalformed)
				_, err := s.Enrollment(t.Context(), "east", false, bad)
				fails(t, err, signet.ErrNotFound)
				fails(t, s.DeleteEnrollment(t.Context(), "east", false, bad, "*"), signet.ErrNotFound)
			}
		}},
	}...)
}

// TestEnrollmentsReopen: what was acknowledged to an operator is there after a
// restart.
func TestEnrollmentsReopen(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		s := db.mustOpen(t, dsn)
		ok(t, s.CreateHub(t.Context(), hub("east")))
		want := enrollment("east", true, "g")
		ok(t, s.CreateEnrollment(t.Context(), want, []string{"s"}, 9))
		ok(t, s.Close())
		s = db.mustOpen(t, dsn)
		got, err := s.Enrollment(t.Context(), "east", true, "g")
		ok(t, err)
		same(t, got, want)
		fails(t, s.CreateEnrollment(t.Context(), enrollment("east", true, "h"), []string{"s"}, 9), provisioning.ErrSigner)
	})
}
