package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/store"
)

// The promises of inventory.Store.
func init() {
	type promise = struct {
		name string
		keep func(t *testing.T, s *store.Store)
	}
	promises = append(promises, []promise{
		{"branches and sightings come back as they went in", func(t *testing.T, s *store.Store) {
			root, line := branch("east", "root", ""), branch("east", "line", "root")
			want := sighting("east", "d", "line")
			ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
			ok(t, s.Save(t.Context(), inventory.News{Branches: []signet.Branch{root, line}, Sightings: []signet.Sighting{want}}))
			path, err := s.Path(t.Context(), "east", "line")
			ok(t, err)
			same(t, path, []signet.Branch{line, root})
			got, err := s.Sighting(t.Context(), "east", "d", "")
			ok(t, err)
			want.GenerationID = ""
			same(t, got, want)
			root.DER, line.DER = nil, nil
			list, err := s.Branches(t.Context(), "east")
			ok(t, err)
			same(t, list, []signet.Branch{line, root})
			for _, other := range []string{"west", "ea\x00st"} {
				list, err := s.Branches(t.Context(), other)
				ok(t, err)
				same(t, len(list), 0)
				_, err = s.Path(t.Context(), other, "line")
				fails(t, err, signet.ErrNotFound)
				_, err = s.Sighting(t.Context(), other, "d", "")
				fails(t, err, signet.ErrNotFound)
				populations, err := s.Populations(t.Context(), other, at(0))
				ok(t, err)
				same(t, len(populations), 0)
			}
		}},
		{"who authenticates by a CA and never has is counted", func(t *testing.T, s *store.Store) {
			plant(t, s)
			unseen := device("east", "d5")
			unseen.Auth = signet.Authentication{Type: signet.AuthCA}
			ok(t, s.CreateIdentity(t.Context(), unseen))
			other := device("east", "d6")
			other.Auth = signet.Authentication{Type: signet.AuthSAS}
			ok(t, s.CreateIdentity(t.Context(), other))
			for hub, want := range map[string]int64{"east": 1, "west": 0, "ea\x00st": 0} {
				n, err := s.CountUnseen(t.Context(), hub)
				ok(t, err)
				same(t, n, want)
			}
		}},
		{"a sighting replaces the one before, and the identity was first seen when it was", func(t *testing.T, s *store.Store) {
			plant(t, s)
			first := sighting("east", "d1", "line")
			later := sighting("east", "d1", "other")
			later.Thumbprint, later.Previous, later.Early, later.Since, later.FirstSeen, later.LastSeen = "new", first.Thumbprint, 3, at(50), at(50), at(51)
			ok(t, s.Save(t.Context(), inventory.News{Sightings: []signet.Sighting{later}}))
			got, err := s.Sighting(t.Context(), "east", "d1", "")
			ok(t, err)
			later.FirstSeen, later.GenerationID = at(-10), ""
			same(t, got, later)
			// Who left was there until then, and no earlier than it is known already.
			ok(t, s.Save(t.Context(), inventory.News{Left: []inventory.Left{{Hub: "east", DeviceID: "d1", At: at(60)}, {Hub: "east", DeviceID: "d2", At: at(1)}, {Hub: "west", DeviceID: "d1", At: at(61)}, {Hub: "east", DeviceID: "gone", At: at(60)}}}))
			got, err = s.Sighting(t.Context(), "east", "d1", "")
			ok(t, err)
			same(t, got.LastSeen, at(60))
			got, err = s.Sighting(t.Context(), "east", "d2", "")
			ok(t, err)
			same(t, got.LastSeen, first.LastSeen)
		}},
		{"what is gone is passed over: a hub, an identity, a generation", func(t *testing.T, s *store.Store) {
			plant(t, s)
			anew := sighting("east", "d1", "line")
			anew.GenerationID, anew.Thumbprint = "another", "another"
			ok(t, s.Save(t.Context(), inventory.News{
				Branches:  []signet.Branch{branch("north", "root", "")},
				Sightings: []signet.Sighting{sighting("east", "nobody", "line"), sighting("north", "d", "root"), anew},
				Refusals:  []inventory.Refusals{{Hub: "east", Branch: "nowhere", Count: 3}, {Hub: "north", Branch: "root", Count: 3}},
			}))
			same(t, names(t, s, "east", inventory.Filter{}), "d1 d2 d3 d4 d4/m")
			got, err := s.Sighting(t.Context(), "east", "d1", "")
			ok(t, err)
			same(t, got.Thumbprint, sighting("east", "d1", "").Thumbprint)
			list, err := s.Branches(t.Context(), "north")
			ok(t, err)
			same(t, len(list), 0)
		}},
		{"a sighting at a branch that is not there is not kept, nor what came with it", func(t *testing.T, s *store.Store) {
			plant(t, s)
			ok(t, s.CreateIdentity(t.Context(), device("east", "d9")))
			err := s.Save(t.Context(), inventory.News{Branches: []signet.Branch{branch("east", "fresh", "root")},
				Sightings: []signet.Sighting{sighting("east", "d9", "nowhere")}})
			fails(t, err, signet.ErrNotFound)
			_, err = s.Path(t.Context(), "east", "fresh")
			fails(t, err, signet.ErrNotFound)
		}},
		{"a branch below one that is not there is not kept, nor what came with it; its hub may be gone", func(t *testing.T, s *store.Store) {
			plant(t, s)
			err := s.Save(t.Context(), inventory.News{Branches: []signet.Branch{branch("east", "fresh", "root"), branch("east", "lost", "nowhere")}})
			fails(t, err, signet.ErrNotFound)
			_, err = s.Path(t.Context(), "east", "fresh")
			fails(t, err, signet.ErrNotFound)
			ok(t, s.Save(t.Context(), inventory.News{Branches: []signet.Branch{branch("north", "lost", "nowhere"), branch("east", "fresh", "root"), branch("north", "root", "")}}))
			_, err = s.Path(t.Context(), "east", "fresh")
			ok(t, err)
		}},
		{"a branch that has lost what was above it stands there again once that is seen", func(t *testing.T, s *store.Store) {
			root, factory, line, hall := show("Root"), show("Factory"), show("Line"), show("Hall")
			for _, d := range []string{"d1", "d2"} {
				ok(t, s.CreateIdentity(t.Context(), device("east", d)))
			}
			i := inventory.New(s, inventory.Options{})
			saw(i, "d1", show("d1"), line, factory, root)
			i.Write(t.Context())
			lost := signet.BranchID([]*signet.PathCertificate{factory.of, root.of})
			ok(t, store.Change(t.Context(), s, func(exec func(query string, args ...any) error) error {
				return errors.Join(exec(`DELETE FROM branch WHERE id = $1`, lost), exec(`DELETE FROM branch_path WHERE id = $1`, lost))
			}))
			saw(i, "d2", show("d2"), hall, line, factory, root)
			i.Write(t.Context()) // it is found out
			i.Write(t.Context())
			w, err := s.Sighting(t.Context(), "east", "d2", "")
			ok(t, err)
			path, err := s.Path(t.Context(), "east", w.Branch)
			ok(t, err)
			same(t, len(path), 4)
			for _, b := range path[1:] {
				same(t, names(t, s, "east", inventory.Filter{Branch: b.ID}), "d1 d2")
			}
		}},
		{"what several see at once is there once, with what each has seen below it", func(t *testing.T, s *store.Store) {
			const many = 8
			for _, err := range together(many, func(n int) error {
				return s.Save(t.Context(), inventory.News{Branches: []signet.Branch{branch("east", "root", ""), branch("east", "line", "root"), branch("east", fmt.Sprint("hall ", n), "line")}})
			}) {
				ok(t, err)
			}
			list, err := s.Branches(t.Context(), "east")
			ok(t, err)
			same(t, len(list), 2+many)
			var sightings []signet.Sighting
			for n := range many {
				id := fmt.Sprint("hall ", n)
				path, err := s.Path(t.Context(), "east", id)
				ok(t, err)
				same(t, len(path), 3)
				ok(t, s.CreateIdentity(t.Context(), device("east", id)))
				sightings = append(sightings, sighting("east", id, id))
			}
			ok(t, s.Save(t.Context(), inventory.News{Sightings: sightings}))
			n, err := s.CountSightings(t.Context(), "east", inventory.Filter{Branch: "line"})
			ok(t, err)
			same(t, n, int64(many))
		}},
		{"what is below a branch is what it stands above, whatever it is called", func(t *testing.T, s *store.Store) {
			var news inventory.News
			for _, b := range []string{"a ", "ab ", "aa a", "aaa aa", "ab2 ab", "b a", "a0 a", "z aaa"} {
				id, parent, _ := strings.Cut(b, " ")
				ok(t, s.CreateIdentity(t.Context(), device("east", "at "+id)))
				news.Branches = append(news.Branches, branch("east", id, parent))
				news.Sightings = append(news.Sightings, sighting("east", "at "+id, id))
			}
			ok(t, s.Save(t.Context(), news))
			for below, want := range map[string]string{"a": "at a, at a0, at aa, at aaa, at z, at b", "aa": "at aa, at aaa, at z", "ab": "at ab, at ab2", "a0": "at a0"} {
				var got []string
				var after inventory.Place
				for {
					page, err := s.Sightings(t.Context(), "east", inventory.Filter{Branch: below}, after, 1)
					ok(t, err)
					if len(page) == 0 {
						break
					}
					got = append(got, page[0].DeviceID)
					after = inventory.Place{Branch: page[0].Branch, DeviceID: page[0].DeviceID}
				}
				same(t, strings.Join(got, ", "), want)
				n, err := s.CountSightings(t.Context(), "east", inventory.Filter{Branch: below})
				ok(t, err)
				same(t, int(n), len(got))
			}
			for _, nowhere := range []string{"ab", "nowhere"} { // not below aa; not there
				_, err := s.Sightings(t.Context(), "east", inventory.Filter{Branch: "aa"}, inventory.Place{Branch: nowhere}, 1)
				fails(t, err, signet.ErrNotFound)
			}
		}},
		{"sightings go with their identity, branches with their hub", func(t *testing.T, s *store.Store) {
			plant(t, s)
			ok(t, s.DeleteIdentity(t.Context(), "east", "d4", "", "*"))
			same(t, names(t, s, "east", inventory.Filter{}), "d1 d2 d3")
			ok(t, s.DeleteHub(t.Context(), "east"))
			ok(t, s.CreateHub(t.Context(), hub("east")))
			list, err := s.Branches(t.Context(), "east")
			ok(t, err)
			same(t, len(list), 0)
			same(t, names(t, s, "east", inventory.Filter{}), "")
		}},
		{"branches are counted, each for itself; a fresh one that is there stays as it was", func(t *testing.T, s *store.Store) {
			plant(t, s)
			all, err := s.Populations(t.Context(), "east", at(1000))
			ok(t, err)
			same(t, all, map[string]inventory.Population{"line": {Devices: 2}, "other": {Devices: 2, Expiring: 1}, "": {Devices: 1}})
			ok(t, s.Save(t.Context(), inventory.News{Branches: []signet.Branch{branch("east", "line", "")},
				Refusals: []inventory.Refusals{{Hub: "east", Branch: "line", Count: 3}, {Hub: "east", Branch: "line", Count: 4}}}))
			path, err := s.Path(t.Context(), "east", "line")
			ok(t, err)
			same(t, len(path), 2)
			same(t, path[0].Refused, int64(7))
		}},
		{"devices are listed by branch, and each filter holds", func(t *testing.T, s *store.Store) {
			plant(t, s)
			for want, f := range map[string]inventory.Filter{
				"d1 d2 d3 d4 d4/m": {},
				"d1 d2 d4 d4/m":    {Branch: "root"}, // line comes before other
				"d1 d2":            {Branch: "line"},
				"d4 d4/m":          {Branch: "other", IssuedAfter: at(-100)},
				"d3":               {Branch: inventory.Thumbprinted},
				"":                 {Branch: "nowhere"},
				"d4":               {KeyType: "RSA 2048"},
				"d4/m":             {ExpiresBefore: at(1000), Branch: "root"},
				"d1 d2 d4":         {ExpiresAfter: at(1000), Branch: "root"},
				"d2":               {IssuedAfter: at(-50), IssuedBefore: at(-49)},
				"d1":               {FirstSeenAfter: at(-10), FirstSeenBefore: at(0)},
				"d1 d4/m":          {LastSeenAfter: at(70)},
				"d2 d3 d4":         {LastSeenBefore: at(70)},
			} {
				same(t, names(t, s, "east", f), want)
				n, err := s.CountSightings(t.Context(), "east", f)
				ok(t, err)
				same(t, n, int64(len(strings.Fields(want))))
			}
			same(t, names(t, s, "west", inventory.Filter{Branch: "root"}), "")
			list, err := s.Sightings(t.Context(), "east", inventory.Filter{Branch: "line", DER: true, Status: true}, inventory.Place{}, 1)
			ok(t, err)
			same(t, string(list[0].DER), "der of d1")
			same(t, list[0].Status, signet.Enabled)
		}},
		{"a list of devices has pages, whatever their size", func(t *testing.T, s *store.Store) {
			plant(t, s)
			for branch, want := range map[string]string{"": "d1 d2 d3 d4 d4/m", "root": "d1 d2 d4 d4/m", "line": "d1 d2", inventory.Thumbprinted: "d3"} {
				for size := 1; size < 6; size++ {
					var got []string
					var after inventory.Place
					for {
						page, err := s.Sightings(t.Context(), "east", inventory.Filter{Branch: branch}, after, size)
						ok(t, err)
						for _, w := range page {
							got = append(got, signet.IdentityName(w.DeviceID, w.ModuleID))
							after = inventory.Place{Branch: w.Branch, DeviceID: w.DeviceID, ModuleID: w.ModuleID}
						}
						if len(page) < size {
							break
						}
					}
					same(t, strings.Join(got, " "), want)
				}
			}
		}},
		{"a sighting is compared with its own before, with its key elsewhere, and with its serial number", func(t *testing.T, s *store.Store) {
			plant(t, s)
			stored := sighting("east", "d1", "line")
			own, key, serial, none := stored, sighting("east", "x", "line"), sighting("east", "y", "line"), sighting("west", "d1", "line")
			key.Key = stored.Key
			serial.Issued = stored.Issued
			none.Key, none.Issued = stored.Key, stored.Issued
			unnamed := serial
			unnamed.Issued = ""
			module := key // of the device that has the key already
			module.DeviceID, module.ModuleID = "d1", "m"
			all, err := s.Alike(t.Context(), []signet.Sighting{own, key, serial, none, unnamed, module})
			ok(t, err)
			text := make([]string, len(all))
			for n, a := range all {
				if a.Before != nil {
					text[n] = "before " + a.Before.DeviceID + " " + a.Before.Thumbprint
				}
				for _, o := range a.SameKey {
					text[n] += "key " + o.DeviceID
				}
				for _, o := range a.SameIssued {
					text[n] += "serial " + o.DeviceID
				}
			}
			same(t, text, []string{"before d1 thumbprint of d1", "key d1", "serial d1", "", "", ""})
			same(t, all[0].Before.Since, stored.Since)
			same(t, all[0].Before.NotAfter, stored.NotAfter)
			same(t, all[0].Before.Key+all[0].Before.Issued, stored.Key+stored.Issued)
			same(t, all[0].Before.Previous, stored.Previous)
		}},
		{"of many with one key some are compared", func(t *testing.T, s *store.Store) {
			plant(t, s)
			var many []signet.Sighting
			for n := range 2 * inventory.MaxAlike {
				w := sighting("east", fmt.Sprintf("same-%02d", n), "line")
				w.Key, w.Issued = "the same", "the same"
				ok(t, s.CreateIdentity(t.Context(), device("east", w.DeviceID)))
				many = append(many, w)
			}
			ok(t, s.Save(t.Context(), inventory.News{Sightings: many}))
			all, err := s.Alike(t.Context(), many[:1])
			ok(t, err)
			same(t, len(all[0].SameKey), inventory.MaxAlike)
			same(t, len(all[0].SameIssued), inventory.MaxAlike)
		}},
		{"branches with nobody under them make room", func(t *testing.T, s *store.Store) {
			plant(t, s)
			ok(t, s.Save(t.Context(), inventory.News{Branches: []signet.Branch{branch("east", "empty", "root"), branch("east", "below", "empty"), branch("west", "empty", "")}}))
			n, err := s.Prune(t.Context(), "east")
			ok(t, err)
			same(t, n, int64(2))
			list, err := s.Branches(t.Context(), "east")
			ok(t, err)
			same(t, len(list), 3)
			list, err = s.Branches(t.Context(), "west")
			ok(t, err)
			same(t, len(list), 1)
		}},
	}...)
}

// A tree of before is there after, as it was.
func TestTreeOfBefore(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		raw := openSQL(t, db.driver, dsn)
		if db.driver == "sqlite" {
			raw = openSQL(t, db.driver, sqliteURL(dsn))
		}
		do := func(statement string, args ...any) {
			t.Helper()
			_, err := raw.Exec(statement, args...)
			ok(t, err)
		}
		for _, statement := range store.SchemaOf(db.driver, 17) {
			do(statement)
		}
		trees := map[string][]string{"east": {"f root", "root", "x", "a x", "0 f root"}, "west": {"root x", "x"}} // each, and what is above it
		for hub, branches := range trees {
			do(`INSERT INTO hub (name, host_name, created) VALUES ($1, $1, 0)`, hub)
			for _, way := range branches {
				ids := strings.Fields(way)
				do(`INSERT INTO branch (hub, id, parent, thumbprint, first_seen, refused, document, der) VALUES ($1, $2, $3, 't', 0, 0, '{}', $4)`,
					hub, ids[0], append(ids, "")[1], []byte{})
				for _, above := range ids {
					do(`INSERT INTO branch_above (hub, above, id) VALUES ($1, $2, $3)`, hub, above, ids[0])
				}
			}
		}
		s := db.mustOpen(t, dsn)
		below := map[string]map[string]int64{"east": {}, "west": {}}
		for hub, branches := range trees {
			for _, way := range branches {
				ids := strings.Fields(way)
				path, err := s.Path(t.Context(), hub, ids[0])
				ok(t, err)
				same(t, len(path), len(ids))
				d := device(hub, "at "+ids[0])
				ok(t, s.CreateIdentity(t.Context(), d))
				ok(t, s.Save(t.Context(), inventory.News{Branches: []signet.Branch{branch(hub, "new "+ids[0], ids[0])}, Sightings: []signet.Sighting{sighting(hub, d.DeviceID, "new "+ids[0])}}))
				for _, above := range ids {
					below[hub][above]++
				}
			}
		}
		for hub, all := range below {
			for id, want := range all {
				n, err := s.CountSightings(t.Context(), hub, inventory.Filter{Branch: id})
				ok(t, err)
				same(t, n, want)
			}
		}
	})
}

// plant has a hub "east" with the anchor root, and below it line and other.
func plant(t *testing.T, s *store.Store) {
	t.Helper()
	for _, d := range []string{"d1", "d2", "d3", "d4"} {
		ok(t, s.CreateIdentity(t.Context(), device("east", d)))
	}
	ok(t, s.CreateIdentity(t.Context(), module("east", "d4", "m")))
	d1, d2, d3, d4, m := sighting("east", "d1", "line"), sighting("east", "d2", "line"), sighting("east", "d3", ""), sighting("east", "d4", "other"), sighting("east", "d4", "other")
	d1.FirstSeen, d1.LastSeen = at(-10), at(70)
	d2.NotBefore = at(-50)
	d4.KeyType = "RSA 2048"
	m.ModuleID, m.NotAfter, m.LastSeen, m.NotBefore = "m", at(999), at(71), at(-99)
	d4.NotBefore = at(-98)
	m.GenerationID = module("east", "d4", "m").GenerationID
	ok(t, s.Save(t.Context(), inventory.News{
		Branches:  []signet.Branch{branch("east", "root", ""), branch("east", "line", "root"), branch("east", "other", "root")},
		Sightings: []signet.Sighting{d1, d2, d3, d4, m},
	}))
}

func names(t *testing.T, s *store.Store, hub string, f inventory.Filter) string {
	t.Helper()
	list, err := s.Sightings(t.Context(), hub, f, inventory.Place{}, 100)
	ok(t, err)
	var all []string
	for _, w := range list {
		all = append(all, signet.IdentityName(w.DeviceID, w.ModuleID))
	}
	return strings.Join(all, " ")
}

func branch(hub, id, parent string) signet.Branch {
	return signet.Branch{Hub: hub, ID: id, Parent: parent, SeenCertificate: seen(id), DER: []byte("der of " + id), FirstSeen: at(0)}
}

func sighting(hub, id, branch string) signet.Sighting {
	return signet.Sighting{Hub: hub, DeviceID: id, GenerationID: device(hub, id).GenerationID, Branch: branch, Issued: "issued " + id,
		SeenCertificate: seen(id), DER: []byte("der of " + id), TLS: "TLS 1.3", Remote: "192.0.2.1", FirstSeen: at(1), LastSeen: at(2),
		Since: at(1), Previous: "thumbprint of another", Early: 1, Sent: 0b11}
}

func seen(name string) signet.SeenCertificate {
	subject, _ := json.Marshal("CN=ü\"漢 " + name)
	return signet.SeenCertificate{Thumbprint: "thumbprint of " + name, Key: "key of " + name, Serial: "serial of " + name, Subject: string(subject),
		KeyType: "ECDSA P-256", Signature: "ECDSA-SHA256", NotBefore: at(-1000), NotAfter: at(5000).Add(time.Hour)}
}
