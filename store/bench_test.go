package store_test

import (
	"context"
	crypto "crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/store"
)

const fleet = 100_000

// openFleet gives a store with a hub of 100,000 devices.
func openFleet(b *testing.B, db database) *store.Store {
	b.Helper()
	s := db.mustOpen(b, db.dsn(b))
	ok(b, s.CreateHub(b.Context(), hub("east")))
	const workers = 500
	for _, err := range together(workers, func(w int) error {
		for n := w; n < fleet; n += workers {
			if err := s.CreateIdentity(b.Context(), device("east", deviceID(n))); err != nil {
				return err
			}
		}
		return nil
	}) {
		ok(b, err)
	}
	return s
}

func deviceID(n int) string { return fmt.Sprintf("device-%06d", n) }

// What a connect of a device asks, a page of the list, and the count, in a hub of
// 100,000 devices.
func BenchmarkRead(b *testing.B) {
	for _, db := range kinds {
		b.Run(db.name, func(b *testing.B) {
			s := openFleet(b, db)
			if db.name == "SQLite" {
				b.Run("KnownIdentity", func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						_, err := s.Identity(b.Context(), "east", deviceID(rand.IntN(10_000)), "")
						ok(b, err)
					}
				})
			}
			store.Forgetful(s)
			b.Run("Identity", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					_, err := s.Identity(b.Context(), "east", deviceID(rand.IntN(fleet)), "")
					ok(b, err)
				}
			})
			b.Run("IdentityParallel", func(b *testing.B) {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						_, err := s.Identity(b.Context(), "east", deviceID(rand.IntN(fleet)), "")
						ok(b, err)
					}
				})
			})
			b.Run("Identities1000", func(b *testing.B) {
				for b.Loop() {
					page, err := s.Identities(b.Context(), "east", deviceID(rand.IntN(fleet-1001)), 1000)
					ok(b, err)
					same(b, len(page), 1000)
				}
			})
			b.Run("CountDevices", func(b *testing.B) {
				for b.Loop() {
					total, _, err := s.CountDevices(b.Context(), "east")
					ok(b, err)
					same(b, total, int64(fleet))
				}
			})
		})
	}
}

// Creates by n callers at a time, on the disk of the temporary folder, and the
// transactions of each. With SQLite a transaction is an fsync; a PostgreSQL that
// the tests have started does without.
func BenchmarkCreateIdentity(b *testing.B) {
	for _, db := range kinds {
		for _, callers := range []int{1, 16, 256} {
			b.Run(fmt.Sprintf("%s/callers=%d", db.name, callers), func(b *testing.B) {
				var transactions, id atomic.Int64
				o := quiet
				o.Committed = func(int) { transactions.Add(1) }
				s, err := db.open(b.Context(), db.dsn(b), o)
				ok(b, err)
				defer s.Close()
				ok(b, s.CreateHub(b.Context(), hub("east")))
				transactions.Store(0)
				b.ResetTimer()
				for _, err := range together(callers, func(int) error {
					for n := id.Add(1); n <= int64(b.N); n = id.Add(1) {
						if err := s.CreateIdentity(b.Context(), device("east", fmt.Sprintf("d%d", n))); err != nil {
							return err
						}
					}
					return nil
				}) {
					ok(b, err)
				}
				b.ReportMetric(float64(transactions.Load())/float64(b.N), "transactions/op")
			})
		}
	}
}

// As many verdicts as the log writes at once, into a hub that has all it may keep.
func BenchmarkSaveVerdicts(b *testing.B) {
	const batch, keep = 2000, 10_000
	for _, db := range kinds {
		b.Run(db.name, func(b *testing.B) {
			s := db.mustOpen(b, db.dsn(b))
			for n := 0; b.Loop(); n++ {
				vs := make([]signet.Verdict, batch)
				for i := range vs {
					vs[i] = verdict("", "d", signet.NewTrackingID(), n)
				}
				ok(b, s.SaveVerdicts(b.Context(), vs, keep))
			}
		})
	}
}

// What is written behind 500 devices that connect, in one transaction.
func BenchmarkSaveActivity(b *testing.B) {
	for _, db := range kinds {
		b.Run(db.name, func(b *testing.B) {
			s := openFleet(b, db)
			for n := 0; b.Loop(); n++ {
				as := make([]signet.Activity, 500)
				for i := range as {
					as[i] = signet.Activity{Hub: "east", DeviceID: deviceID((n*500 + i) * 7 % fleet), GenerationID: "1", Connected: n%2 == 0, ConnectionUpdated: at(n), LastActive: at(n)}
				}
				ok(b, s.SaveActivity(b.Context(), as))
			}
		})
	}
}

// shown is a certificate that nobody signed, as large as one of signet bench.
type shown struct {
	*x509.Certificate
	of *signet.PathCertificate
}

func show(subject string) shown {
	c := &x509.Certificate{Raw: make([]byte, 430), SignatureAlgorithm: x509.ECDSAWithSHA256, PublicKeyAlgorithm: x509.ECDSA, NotBefore: at(0), NotAfter: at(1_000_000)}
	crypto.Read(c.Raw)
	p := &signet.PathCertificate{Thumbprint: sha256.Sum256(c.Raw), Subject: "CN=" + subject, NotAfter: c.NotAfter}
	crypto.Read(p.Key[:])
	p.Serial = fmt.Sprintf("%x", p.Key[:20])
	return shown{c, p}
}

// saw tells an inventory of a device of the hub "east" and its path.
func saw(i *inventory.Inventory, device string, path ...shown) {
	p := &signet.Principal{Hub: "east", DeviceID: device, GenerationID: "1"}
	var certificates []*x509.Certificate
	for _, s := range path {
		certificates, p.Path = append(certificates, s.Certificate), append(p.Path, s.of)
	}
	i.Saw(p, certificates, "TLS 1.3", netip.MustParseAddr("192.0.2.1"))
}

// What is written behind devices that connect for the first time, each below two
// CAs that nobody has seen: from the notes of 1,000 to their rows, with the
// processor's time for each.
func BenchmarkUnseen(b *testing.B) {
	const connects = 1000
	root := show("Root")
	for _, db := range kinds {
		b.Run(db.name, func(b *testing.B) {
			var s *store.Store
			var i *inventory.Inventory
			var taken time.Duration
			for n := 0; b.Loop(); n++ {
				b.StopTimer()
				if n%5 == 0 { // the tree has room for no more
					if s != nil {
						ok(b, s.Close())
					}
					s = db.mustOpen(b, db.dsn(b))
					i = inventory.New(s, inventory.Options{})
					ok(b, s.CreateHub(b.Context(), hub("east")))
					for _, err := range together(50, func(w int) error {
						for n := w; n < 5*connects; n += 50 {
							if err := s.CreateIdentity(b.Context(), device("east", deviceID(n))); err != nil {
								return err
							}
						}
						return nil
					}) {
						ok(b, err)
					}
				}
				for d := n % 5 * connects; d < (n%5+1)*connects; d++ {
					saw(i, deviceID(d), show(deviceID(d)), show("Line "+deviceID(d)), show("Factory "+deviceID(d)), root)
				}
				before := processorTime()
				b.StartTimer()
				i.Write(context.Background())
				b.StopTimer()
				taken += processorTime() - before
				total, err := s.CountSightings(b.Context(), "east", inventory.Filter{})
				ok(b, err)
				same(b, total, int64(n%5+1)*connects)
				b.StartTimer()
			}
			b.ReportMetric(float64(taken.Microseconds())/float64(b.N*connects), "cpu-µs/device")
		})
	}
}
