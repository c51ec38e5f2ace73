package store_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/issuance"
	"github.com/signet-iot/signet/store"
)

// issued is the record of a certificate: the n-th of a device, with a key of its
// own.
func issued(service, hub, device string, n int) signet.Issued {
	id := fmt.Sprintf("%s-%s-%d", service, device, n)
	return signet.Issued{Service: service, Serial: "s-" + id, Policy: "p", Hub: hub, HostName: hub + ".example.com", DeviceID: device,
		Operation: fmt.Sprint("o", n), Thumbprint: "t-" + id, Key: "k-" + id, CSR: "c-" + id, Issuer: "i",
		NotBefore: at(n), NotAfter: at(n + 1000), Time: at(n)}
}

func serials(t testing.TB, s *store.Store, q issuance.Query) (all []string) {
	t.Helper()
	list, err := s.ListIssued(t.Context(), q)
	ok(t, err)
	for _, i := range list {
		all = append(all, i.Serial)
	}
	return all
}

// The promises of issuance.Store. The services are "east" and "west" themselves.
func init() {
	add := func(t testing.TB, s *store.Store, is ...signet.Issued) {
		t.Helper()
		for _, i := range is {
			ok(t, s.AddIssued(t.Context(), i, 99, at(0), 99))
		}
	}
	type promise = struct {
		name string
		keep func(t *testing.T, s *store.Store)
	}
	promises = append(promises, []promise{
		{"the record of a certificate comes back as it went in", func(t *testing.T, s *store.Store) {
			ca := hubtest.NewCA(t, "Issuing")
			want := issued("east", "west", "a-:.%_*?!(),=@;$'Z", 1)
			want.Operation = "renew:zurück \"漢"
			want.Chain = [][]byte{ca.Device(t, "d").Certificate[0], ca.Cert.Raw}
			add(t, s, want)
			for _, read := range []func() (signet.Issued, error){
				func() (signet.Issued, error) {
					return s.IssuedFor(t.Context(), "east", want.DeviceID, want.Operation)
				},
				func() (signet.Issued, error) { return s.IssuedAt(t.Context(), "west", want.Thumbprint) },
				func() (signet.Issued, error) { return s.LatestIssued(t.Context(), "west", want.DeviceID) },
			} {
				got, err := read()
				ok(t, err)
				same(t, got, want)
				_, err = x509.ParseCertificate(got.Chain[1])
				ok(t, err)
			}
			listed := want
			listed.Chain = nil
			got, err := s.ListIssued(t.Context(), issuance.Query{Service: "east", Limit: 9})
			ok(t, err)
			same(t, got, []signet.Issued{listed})
			fails(t, s.AddIssued(t.Context(), issued("north", "", "d", 1), 9, at(0), 9), signet.ErrNotFound)
		}},
		{"records are found by the latest, and by nobody else's name", func(t *testing.T, s *store.Store) {
			first, second := issued("east", "west", "d", 1), issued("east", "west", "d", 2)
			second.Operation = first.Operation
			elsewhere := issued("east", "", "d", 3)
			add(t, s, first, second, elsewhere, issued("west", "west", "e", 4))
			got, err := s.IssuedFor(t.Context(), "east", "d", first.Operation)
			ok(t, err)
			same(t, got.Serial, second.Serial)
			got, err = s.LatestIssued(t.Context(), "west", "d")
			ok(t, err)
			same(t, got.Serial, second.Serial)
			for _, key := range [][3]string{{"west", "d", "o1"}, {"east", "D", "o1"}, {"east", "d", "o9"}, {"east", "d\x00", "o1"}} {
				_, err := s.IssuedFor(t.Context(), key[0], key[1], key[2])
				fails(t, err, signet.ErrNotFound)
			}
			for _, key := range [][2]string{{"east", first.Thumbprint}, {"", elsewhere.Thumbprint}, {"west", "t"}, {"west\xff", "t"}} {
				_, err := s.IssuedAt(t.Context(), key[0], key[1])
				fails(t, err, signet.ErrNotFound)
			}
			for _, key := range [][2]string{{"", "d"}, {"east", "d"}, {"west", "x"}, {"west", "d\x00"}} {
				_, err := s.LatestIssued(t.Context(), key[0], key[1])
				fails(t, err, signet.ErrNotFound)
			}
			same(t, serials(t, s, issuance.Query{Service: "east", Limit: 9}), []string{elsewhere.Serial, second.Serial, first.Serial})
			same(t, serials(t, s, issuance.Query{Service: "east", Limit: 1}), []string{elsewhere.Serial})
			same(t, serials(t, s, issuance.Query{Hub: "west", Limit: 9}), []string{"s-west-e-4", second.Serial, first.Serial})
			same(t, serials(t, s, issuance.Query{Hub: "west", DeviceID: "d", Since: at(2), Limit: 9}), []string{second.Serial})
			same(t, len(serials(t, s, issuance.Query{Limit: 9})), 0)
			same(t, len(serials(t, s, issuance.Query{Hub: "west", DeviceID: "d\x00", Limit: 9})), 0)
		}},
		{"no two devices of a service share a key", func(t *testing.T, s *store.Store) {
			mine := issued("east", "", "d", 1)
			add(t, s, mine)
			again := issued("east", "", "d", 2)
			again.Key = mine.Key
			add(t, s, again)
			other := issued("east", "", "e", 3)
			other.Key = mine.Key
			fails(t, s.AddIssued(t.Context(), other, 99, at(0), 99), signet.ErrExists)
			fails(t, s.CheckIssued(t.Context(), "east", "e", mine.Key, 99, at(0)), signet.ErrExists)
			ok(t, s.CheckIssued(t.Context(), "east", "d", mine.Key, 99, at(0)))
			ok(t, s.CheckIssued(t.Context(), "west", "e", mine.Key, 99, at(0)))
			other.Service = "west"
			add(t, s, other)
			same(t, len(serials(t, s, issuance.Query{Service: "east", Limit: 9})), 2)
		}},
		{"of two that bring one key at once, one gets a certificate", func(t *testing.T, s *store.Store) {
			errs := together(8, func(n int) error {
				i := issued("east", "", fmt.Sprint("d", n), 1)
				i.Key = "shared"
				return s.AddIssued(t.Context(), i, 99, at(0), 99)
			})
			won := 0
			for _, err := range errs {
				if err == nil {
					won++
				} else {
					fails(t, err, signet.ErrExists)
				}
			}
			same(t, won, 1)
			same(t, len(serials(t, s, issuance.Query{Service: "east", Limit: 9})), 1)
		}},
		{"a device is issued so many in a time, and so many are kept", func(t *testing.T, s *store.Store) {
			for n := range 3 {
				ok(t, s.AddIssued(t.Context(), issued("east", "", "d", n), 3, at(0), 2))
			}
			same(t, serials(t, s, issuance.Query{Service: "east", Limit: 9}), []string{"s-east-d-2", "s-east-d-1"})
			fails(t, s.AddIssued(t.Context(), issued("east", "", "d", 3), 2, at(1), 2), signet.ErrFull)
			fails(t, s.CheckIssued(t.Context(), "east", "d", "new", 2, at(1)), signet.ErrFull)
			ok(t, s.CheckIssued(t.Context(), "east", "d", "new", 2, at(2)))
			ok(t, s.AddIssued(t.Context(), issued("east", "", "e", 3), 2, at(1), 2))
			ok(t, s.AddIssued(t.Context(), issued("east", "", "d", 4), 2, at(2), 2))
			// The key of the first is nobody's any more; that of the last is the device's.
			free, held := issued("east", "", "f", 5), issued("east", "", "f", 6)
			free.Key, held.Key = "k-east-d-0", "k-east-d-4"
			ok(t, s.AddIssued(t.Context(), free, 9, at(0), 9))
			fails(t, s.AddIssued(t.Context(), held, 9, at(0), 9), signet.ErrExists)
		}},
		{"records of certificates that ended long ago go, and their service takes all", func(t *testing.T, s *store.Store) {
			first := issued("east", "west", "d", 1)
			add(t, s, first, issued("east", "west", "d", 2), issued("west", "west", "d", 3))
			n, err := s.TrimIssued(t.Context(), at(1002), 9)
			ok(t, err)
			same(t, n, 1)
			same(t, serials(t, s, issuance.Query{Hub: "west", Limit: 9}), []string{"s-west-d-3", "s-east-d-2"})
			other := issued("east", "", "e", 9)
			other.Key = first.Key
			add(t, s, other)
			n, err = s.TrimIssued(t.Context(), at(9999), 1)
			ok(t, err)
			same(t, n, 1)
			ok(t, s.DeleteHub(t.Context(), "east"))
			same(t, serials(t, s, issuance.Query{Hub: "west", Limit: 9}), []string{"s-west-d-3"})
			ok(t, s.CreateHub(t.Context(), hub("east")))
			same(t, signet.CodeOf(s.AddIssued(t.Context(), signet.Issued{Service: "east", DeviceID: "d\x00"}, 9, at(0), 9)), signet.RequestMalformed)
		}},
		{"an order whose caller has given up is not on record", func(t *testing.T, s *store.Store) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			fails(t, s.AddIssued(ctx, issued("east", "", "d", 1), 9, at(0), 9), context.Canceled)
			same(t, len(serials(t, s, issuance.Query{Service: "east", Limit: 9})), 0)
		}},
	}...)
}
