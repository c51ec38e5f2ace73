package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/audit"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/store"
)

// database is a kind of database at which the promises of the store are tried.
type database struct {
	name, driver string
	dsn          func(testing.TB) string // of a new one
	open         func(ctx context.Context, dsn string, o store.Options) (*store.Store, error)
}

var kinds = []database{
	{"SQLite", "sqlite", func(t testing.TB) string { return filepath.Join(t.TempDir(), "signet #1?.db") }, store.OpenSQLite},
	{"PostgreSQL", "pgx", postgresURL, store.OpenPostgres},
}

var quiet = store.Options{Logger: slog.New(slog.DiscardHandler)}

// each runs f with an empty database of each kind.
func each(t *testing.T, f func(t *testing.T, db database, dsn string)) {
	for _, db := range kinds {
		t.Run(db.name, func(t *testing.T) { f(t, db, db.dsn(t)) })
	}
}

func (db database) mustOpen(t testing.TB, dsn string) *store.Store {
	t.Helper()
	s, err := db.open(t.Context(), dsn, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// The promises of registry.Store, authority.Store and authority.VerdictStore.
// Each begins with the empty hubs "east" and "west".
var promises = []struct {
	name string
	keep func(t *testing.T, s *store.Store)
}{
	{"a hub comes back as it went in, hubs by name", func(t *testing.T, s *store.Store) {
		want := signet.Hub{Name: "centre", HostName: "centre.example.com", Created: at(5), AtExpiry: signet.KeepAtExpiry, Policies: []signet.Policy{
			{Name: "service", PrimaryKey: "cA==", SecondaryKey: "cQ==", Rights: signet.ServiceConnect},
			{Name: "iothubowner", PrimaryKey: "cg==", Rights: signet.RegistryRead | signet.RegistryWrite},
		}}
		ok(t, s.CreateHub(t.Context(), want))
		hubs, err := s.Hubs(t.Context())
		ok(t, err)
		same(t, hubs, []signet.Hub{want, hub("east"), hub("west")})
	}},
	{"what becomes of sessions at expiry is changed hub by hub", func(t *testing.T, s *store.Store) {
		ok(t, s.SetAtExpiry(t.Context(), "east", signet.EndAtExpiry))
		fails(t, s.SetAtExpiry(t.Context(), "north", signet.EndAtExpiry), signet.ErrNotFound)
		fails(t, s.SetAtExpiry(t.Context(), "ea\x00st", signet.EndAtExpiry), signet.ErrNotFound)
		east := hub("east")
		east.AtExpiry = signet.EndAtExpiry
		hubs, err := s.Hubs(t.Context())
		ok(t, err)
		same(t, hubs, []signet.Hub{east, hub("west")})
	}},
	{"what a hub tells is changed hub by hub", func(t *testing.T, s *store.Store) {
		ok(t, s.SetEvents(t.Context(), "west", signet.TwinEvents|signet.ConnectionEvents))
		fails(t, s.SetEvents(t.Context(), "north", 0), signet.ErrNotFound)
		west := hub("west")
		west.Events = signet.TwinEvents | signet.ConnectionEvents
		hubs, err := s.Hubs(t.Context())
		ok(t, err)
		same(t, hubs, []signet.Hub{hub("east"), west})
	}},
	{"the limits of a hub are changed hub by hub", func(t *testing.T, s *store.Store) {
		limits := signet.Limits{Messages: signet.Rate{PerHub: 5000, PerDevice: 0.25}, Registry: signet.Rate{PerHub: 1.67}}
		ok(t, s.SetLimits(t.Context(), "west", limits))
		fails(t, s.SetLimits(t.Context(), "north", limits), signet.ErrNotFound)
		west, centre := hub("west"), hub("centre")
		west.Limits, centre.Limits = limits, limits
		ok(t, s.CreateHub(t.Context(), centre))
		hubs, err := s.Hubs(t.Context())
		ok(t, err)
		same(t, hubs, []signet.Hub{centre, hub("east"), west})
	}},
	{"an event is there if what it tells of is, in the order of that, until it is removed", func(t *testing.T, s *store.Store) {
		var want []signet.Event
		tell := func(id, module, operation string) signet.Event {
			return signet.Event{Hub: "east", DeviceID: id, ModuleID: module, Source: "source", Operation: operation, Schema: "schema", Time: at(len(want)), Body: []byte(`{"é":1}`)}
		}
		happens := func(err error, events ...signet.Event) { t.Helper(); ok(t, err); want = append(want, events...) }
		first, second := tell("d", "", "create"), tell("d", "m", "create too")
		happens(s.CreateIdentity(t.Context(), device("east", "d"), first, second), first, second)
		fails(t, s.CreateIdentity(t.Context(), device("east", "d"), tell("d", "", "not")), signet.ErrExists)
		fails(t, s.CreateIdentity(t.Context(), device("north", "d"), tell("d", "", "not")), signet.ErrNotFound)
		e := tell("d", "", "twin")
		happens(s.WriteTwin(t.Context(), twin("east", "d", "", 3), 0, e), e)
		fails(t, s.WriteTwin(t.Context(), twin("east", "d", "", 3), 0, tell("d", "", "not")), signet.ErrStale)
		fails(t, s.DeleteIdentity(t.Context(), "east", "d", "", "e9", tell("d", "", "not")), signet.ErrStale)
		e = tell("d", "", "delete")
		happens(s.DeleteIdentity(t.Context(), "east", "d", "", "*", e), e)
		ok(t, s.CreateIdentity(t.Context(), device("west", "d"), signet.Event{Hub: "west", DeviceID: "d", Body: []byte(`{}`)}))

		got, err := s.Events(t.Context(), "east", 9)
		ok(t, err)
		var sequences []int64
		for n := range got {
			if sequences = append(sequences, got[n].Sequence); n > 0 && sequences[n] <= sequences[n-1] {
				t.Errorf("sequences %v", sequences)
			}
			got[n].Sequence = 0
		}
		same(t, got, want)
		some, err := s.Events(t.Context(), "east", 2)
		ok(t, err)
		same(t, len(some), 2)
		ok(t, s.RemoveEvents(t.Context(), "east", append(sequences[:2], 1)))
		ok(t, s.RemoveEvents(t.Context(), "west", sequences))
		counted := func(want map[string]int) {
			t.Helper()
			for hub, n := range want {
				count, err := s.CountEvents(t.Context(), hub)
				ok(t, err)
				same(t, count, n)
			}
		}
		counted(map[string]int{"east": 2, "west": 1, "north": 0})
		// It outlives its identity, and not its hub.
		ok(t, s.DeleteHub(t.Context(), "east"))
		ok(t, s.CreateHub(t.Context(), hub("east")))
		counted(map[string]int{"east": 0, "west": 1})
	}},
	{"neither name nor host name of a hub is given twice", func(t *testing.T, s *store.Store) {
		fails(t, s.CreateHub(t.Context(), signet.Hub{Name: "east", HostName: "other"}), signet.ErrExists)
		fails(t, s.CreateHub(t.Context(), signet.Hub{Name: "other", HostName: "east.example.com",
			Policies: []signet.Policy{{Name: "service"}}}), signet.ErrExists)
		hubs, err := s.Hubs(t.Context())
		ok(t, err)
		same(t, hubs, []signet.Hub{hub("east"), hub("west")})
	}},
	{"an identity comes back as it went in", func(t *testing.T, s *store.Store) {
		want := signet.Identity{Hub: "east", DeviceID: "a-:.%_*?!(),=@;$'Z", GenerationID: "638", ETag: "e1",
			Status: signet.Disabled, StatusReason: "zurück; ‘DROP TABLE’ \" 漢", StatusUpdatedTime: at(2),
			CreatedTime: at(1), EdgeDevice: true,
			Auth: signet.Authentication{Type: signet.AuthSelfSigned, PrimaryThumbprint: "AA", SecondaryThumbprint: "bb"}}
		module := signet.Identity{Hub: "east", DeviceID: want.DeviceID, ModuleID: "m", ETag: "e2", Status: signet.Enabled,
			Auth: signet.Authentication{Type: signet.AuthSAS, PrimaryKey: "cA==", SecondaryKey: "cQ=="}} // both times are zero
		for _, i := range []signet.Identity{want, module} {
			ok(t, s.CreateIdentity(t.Context(), i))
			got, err := s.Identity(t.Context(), i.Hub, i.DeviceID, i.ModuleID)
			ok(t, err)
			same(t, got, i)
			i.StatusReason, i.ETag, i.EdgeDevice, i.Auth = "", "e3", !i.EdgeDevice, signet.Authentication{Type: signet.AuthCA}
			i.GenerationID, i.Status, i.CreatedTime, i.StatusUpdatedTime = "639", signet.Enabled, at(3), at(4)
			ok(t, s.ReplaceIdentity(t.Context(), i, "*"))
			got, err = s.Identity(t.Context(), i.Hub, i.DeviceID, i.ModuleID)
			ok(t, err)
			same(t, got, i)
		}
	}},
	{"an identity is created once, and per hub; IDs differ by case", func(t *testing.T, s *store.Store) {
		ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
		fails(t, s.CreateIdentity(t.Context(), device("east", "d")), signet.ErrExists)
		_, err := s.Identity(t.Context(), "west", "d", "")
		fails(t, err, signet.ErrNotFound)
		ok(t, s.CreateIdentity(t.Context(), device("west", "d")))
		ok(t, s.CreateIdentity(t.Context(), device("east", "D")))
		_, err = s.Identity(t.Context(), "east", "d", "m")
		fails(t, err, signet.ErrNotFound)
	}},
	{"an identity needs its hub, a module its device", func(t *testing.T, s *store.Store) {
		fails(t, s.CreateIdentity(t.Context(), device("north", "d")), signet.ErrNotFound)
		fails(t, s.CreateIdentity(t.Context(), module("east", "d", "m")), signet.ErrNotFound)
		ok(t, s.CreateIdentity(t.Context(), device("west", "d")))
		fails(t, s.CreateIdentity(t.Context(), module("east", "d", "m")), signet.ErrNotFound)
	}},
	{"an identity is replaced if its ETag is the one given", func(t *testing.T, s *store.Store) {
		old := device("east", "d")
		fails(t, s.ReplaceIdentity(t.Context(), old, old.ETag), signet.ErrNotFound)
		fails(t, s.ReplaceIdentity(t.Context(), old, "*"), signet.ErrNotFound)
		ok(t, s.CreateIdentity(t.Context(), old))
		newer := old
		newer.ETag, newer.StatusReason = "e2", "newer"
		for _, etag := range []string{"e2", "", "E1", "%", "e1\x00", "\xff"} {
			fails(t, s.ReplaceIdentity(t.Context(), newer, etag), signet.ErrStale)
		}
		ok(t, s.ReplaceIdentity(t.Context(), newer, old.ETag))
		fails(t, s.ReplaceIdentity(t.Context(), old, old.ETag), signet.ErrStale)
		got, err := s.Identity(t.Context(), "east", "d", "")
		ok(t, err)
		same(t, got, newer)
	}},
	{"what an identity listens to is its own, stays when it is replaced, and goes with it", func(t *testing.T, s *store.Store) {
		d, m := device("east", "d"), module("east", "d", "m")
		fails(t, s.SetSubscriptions(t.Context(), "east", "d", "", d.GenerationID, 1), signet.ErrNotFound)
		for _, i := range []signet.Identity{d, m, device("west", "d")} {
			ok(t, s.CreateIdentity(t.Context(), i))
		}
		stands := func(want signet.Identity) {
			t.Helper()
			got, err := s.Identity(t.Context(), want.Hub, want.DeviceID, want.ModuleID)
			ok(t, err)
			same(t, got, want)
		}
		stands(d) // and is remembered
		d.Subscriptions, m.Subscriptions = 1<<32-1, 2
		for _, i := range []signet.Identity{d, m} {
			ok(t, s.SetSubscriptions(t.Context(), i.Hub, i.DeviceID, i.ModuleID, i.GenerationID, i.Subscriptions))
		}
		for _, generation := range []string{"another", "", "\x00", "\xff"} {
			fails(t, s.SetSubscriptions(t.Context(), "east", "d", "", generation, 3), signet.ErrNotFound)
		}
		stands(d)
		stands(m)
		stands(device("west", "d"))
		newer := d
		newer.ETag, newer.Subscriptions = "e2", 0
		ok(t, s.ReplaceIdentity(t.Context(), newer, d.ETag))
		newer.Subscriptions = d.Subscriptions
		stands(newer)
		ok(t, s.DeleteIdentity(t.Context(), "east", "d", "", "*"))
		ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
		stands(device("east", "d"))
	}},
	{"an identity is deleted if its ETag is the one given, a device with its modules", func(t *testing.T, s *store.Store) {
		for _, h := range []string{"east", "west"} {
			ok(t, s.CreateIdentity(t.Context(), device(h, "d")))
			ok(t, s.CreateIdentity(t.Context(), module(h, "d", "m1")))
			ok(t, s.CreateIdentity(t.Context(), module(h, "d", "m2")))
		}
		fails(t, s.DeleteIdentity(t.Context(), "east", "other", "", "*"), signet.ErrNotFound)
		fails(t, s.DeleteIdentity(t.Context(), "east", "d", "", "e9"), signet.ErrStale)
		fails(t, s.DeleteIdentity(t.Context(), "east", "d", "", ""), signet.ErrStale)
		ok(t, s.DeleteIdentity(t.Context(), "east", "d", "m1", "e1"))
		_, err := s.Identity(t.Context(), "east", "d", "m2")
		ok(t, err)
		ok(t, s.DeleteIdentity(t.Context(), "east", "d", "", "*"))
		_, err = s.Identity(t.Context(), "east", "d", "m2")
		fails(t, err, signet.ErrNotFound)
		_, err = s.Identity(t.Context(), "west", "d", "m2")
		ok(t, err)
		ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
		_, err = s.Identity(t.Context(), "east", "d", "m2")
		fails(t, err, signet.ErrNotFound)
	}},
	{"the modules of a device are listed in byte order", func(t *testing.T, s *store.Store) {
		for _, d := range []string{"d", "e"} {
			ok(t, s.CreateIdentity(t.Context(), device("east", d)))
			for _, m := range []string{"b", "a", "B"} {
				ok(t, s.CreateIdentity(t.Context(), module("east", d, m)))
			}
		}
		for limit, want := range []string{"", "B", "B a", "B a b", "B a b"} {
			page, err := s.Modules(t.Context(), "east", "d", limit)
			ok(t, err)
			ids := []string{}
			for _, i := range page {
				same(t, i.DeviceID, "d")
				ids = append(ids, i.ModuleID)
			}
			same(t, strings.Join(ids, " "), want)
		}
		page, err := s.Modules(t.Context(), "west", "d", 9)
		ok(t, err)
		same(t, len(page), 0)
	}},
	{"a twin comes back as it went in, and belongs to its identity", func(t *testing.T, s *store.Store) {
		_, err := s.Twin(t.Context(), "east", "d", "")
		fails(t, err, signet.ErrNotFound)
		fails(t, s.WriteTwin(t.Context(), twin("east", "d", "", 3), 0), signet.ErrNotFound)
		ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
		ok(t, s.CreateIdentity(t.Context(), module("east", "d", "m")))
		ok(t, s.CreateIdentity(t.Context(), device("west", "d")))
		got, err := s.Twin(t.Context(), "east", "d", "")
		ok(t, err)
		same(t, got, signet.Twin{Hub: "east", DeviceID: "d", GenerationID: device("east", "d").GenerationID})

		for _, want := range []signet.Twin{twin("east", "d", "", 3), twin("east", "d", "m", 4), twin("west", "d", "", 5)} {
			ok(t, s.WriteTwin(t.Context(), want, 0))
			got, err := s.Twin(t.Context(), want.Hub, want.DeviceID, want.ModuleID)
			ok(t, err)
			same(t, got, want)
		}
		// With the identity it goes, and a later one of the name begins anew; what was
		// decided for the earlier does not reach it.
		ok(t, s.DeleteIdentity(t.Context(), "east", "d", "", "*"))
		_, err = s.Twin(t.Context(), "east", "d", "m")
		fails(t, err, signet.ErrNotFound)
		anew := device("east", "d")
		anew.GenerationID = "another"
		ok(t, s.CreateIdentity(t.Context(), anew))
		for _, version := range []int64{0, 3, 4} {
			fails(t, s.WriteTwin(t.Context(), twin("east", "d", "", 4), version), signet.ErrNotFound)
		}
		got, err = s.Twin(t.Context(), "east", "d", "")
		ok(t, err)
		same(t, got, signet.Twin{Hub: "east", DeviceID: "d", GenerationID: "another"})
		_, err = s.Twin(t.Context(), "west", "d", "")
		ok(t, err)
	}},
	{"of two who change a twin together, one is told to look again", func(t *testing.T, s *store.Store) {
		ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
		for _, version := range []int64{0, 3} {
			next := twin("east", "d", "", 3+version)
			fails(t, s.WriteTwin(t.Context(), next, version+1), signet.ErrStale)
			won := 0
			for _, err := range together(8, func(int) error { return s.WriteTwin(t.Context(), next, version) }) {
				if err == nil {
					won++
				} else {
					fails(t, err, signet.ErrStale)
				}
			}
			same(t, won, 1)
		}
	}},
	{"devices are listed in byte order, page by page", func(t *testing.T, s *store.Store) {
		ids := []string{"b", "a", "B", "a.b", "a-b", "ab", "A", "10", "2", "_", "é"}
		for _, id := range ids {
			ok(t, s.CreateIdentity(t.Context(), device("east", id)))
			ok(t, s.CreateIdentity(t.Context(), module("east", id, "m")))
			ok(t, s.CreateIdentity(t.Context(), device("west", id+"-west")))
		}
		slices.Sort(ids)
		var got []string
		for after := ""; ; {
			page, err := s.Identities(t.Context(), "east", after, 3)
			ok(t, err)
			if len(page) == 0 {
				break
			}
			for _, i := range page {
				got = append(got, i.Name())
				after = i.DeviceID
			}
		}
		same(t, got, ids)
		page, err := s.Identities(t.Context(), "east", "", 0)
		ok(t, err)
		same(t, len(page), 0)
	}},
	{"devices are counted, modules are not", func(t *testing.T, s *store.Store) {
		for _, id := range []string{"1", "2", "3"} {
			i := device("east", id)
			if id == "2" {
				i.Status = signet.Disabled
			}
			ok(t, s.CreateIdentity(t.Context(), i))
			ok(t, s.CreateIdentity(t.Context(), module("east", id, "m")))
		}
		for h, want := range map[string][2]int64{"east": {3, 2}, "west": {0, 0}, "north": {0, 0}} {
			total, enabled, err := s.CountDevices(t.Context(), h)
			ok(t, err)
			same(t, [2]int64{total, enabled}, want)
		}
	}},
	{"a CA certificate comes back as it went in, found in any case", func(t *testing.T, s *store.Store) {
		want := ca("east", "Root.1")
		ok(t, s.CreateCA(t.Context(), want))
		fails(t, s.CreateCA(t.Context(), ca("east", "ROOT.1")), signet.ErrExists)
		fails(t, s.CreateCA(t.Context(), ca("north", "root.1")), signet.ErrNotFound)
		got, err := s.CA(t.Context(), "east", "rOOT.1")
		ok(t, err)
		same(t, got, want)
		_, err = s.CA(t.Context(), "west", "Root.1")
		fails(t, err, signet.ErrNotFound)

		newer := want
		newer.Name, newer.ETag, newer.Verified, newer.VerificationCode = "root.1", "e2", false, ""
		newer.DER, newer.Subject, newer.Thumbprint = []byte{0x30, 9}, "CN=newer", "CC"
		newer.NotBefore, newer.NotAfter, newer.Updated = at(20), at(21), at(22)
		fails(t, s.ReplaceCA(t.Context(), newer, "e2"), signet.ErrStale)
		ok(t, s.ReplaceCA(t.Context(), newer, "e1"))
		got, err = s.CA(t.Context(), "east", "Root.1")
		ok(t, err)
		newer.Name = "Root.1" // as first given
		same(t, got, newer)
	}},
	{"a CA certificate is deleted if its ETag is the one given", func(t *testing.T, s *store.Store) {
		c := ca("east", "Root")
		fails(t, s.DeleteCA(t.Context(), "east", "Root", "e1"), signet.ErrNotFound)
		fails(t, s.ReplaceCA(t.Context(), c, "e1"), signet.ErrNotFound)
		ok(t, s.CreateCA(t.Context(), c))
		fails(t, s.DeleteCA(t.Context(), "east", "Root", "e2"), signet.ErrStale)
		fails(t, s.DeleteCA(t.Context(), "west", "Root", "e1"), signet.ErrNotFound)
		ok(t, s.DeleteCA(t.Context(), "east", "ROOT", "e1"))
		fails(t, s.DeleteCA(t.Context(), "east", "Root", "e1"), signet.ErrNotFound)
	}},
	{"CA certificates are listed by name, of one hub or of all", func(t *testing.T, s *store.Store) {
		for _, c := range []signet.CACertificate{ca("west", "b"), ca("east", "b"), ca("west", "A"), ca("east", "C")} {
			ok(t, s.CreateCA(t.Context(), c))
		}
		for h, want := range map[string]string{"": "east/b east/C west/A west/b", "west": "west/A west/b", "north": ""} {
			all, err := s.CAs(t.Context(), h)
			ok(t, err)
			var got []string
			for _, c := range all {
				got = append(got, c.Hub+"/"+c.Name)
			}
			same(t, strings.Join(got, " "), want)
		}
	}},
	{"what is distrusted comes back as it went in, once, the latest first, until it is lifted", func(t *testing.T, s *store.Store) {
		older, newer, elsewhere := distrust("east", "b", 1), distrust("east", "a", 2), distrust("west", "b", 3)
		older.Serial, newer.Subject, newer.Reason = "00ff", "CN=Zoë", "\"stolen\"; --"
		for _, d := range []signet.Distrust{older, newer, elsewhere} {
			ok(t, s.CreateDistrust(t.Context(), d))
		}
		again := newer
		again.Reason = "another"
		fails(t, s.CreateDistrust(t.Context(), again), signet.ErrExists)
		fails(t, s.CreateDistrust(t.Context(), distrust("north", "a", 1)), signet.ErrNotFound)
		for h, want := range map[string][]signet.Distrust{"east": {newer, older}, "west": {elsewhere}, "": {elsewhere, newer, older}, "north": nil, "a\x00": nil} {
			got, err := s.Distrusts(t.Context(), h)
			ok(t, err)
			same(t, got, want)
		}
		ok(t, s.DeleteDistrust(t.Context(), "east", "b"))
		for _, id := range []string{"b", "a\x00b", ""} {
			fails(t, s.DeleteDistrust(t.Context(), "east", id), signet.ErrNotFound)
		}
		got, err := s.Distrusts(t.Context(), "")
		ok(t, err)
		same(t, got, []signet.Distrust{elsewhere, newer})
	}},
	{"verdicts are listed newest first, and found by hub, device, time and tracking ID", func(t *testing.T, s *store.Store) {
		all := []signet.Verdict{verdict("east", "d1", "T1", 1), verdict("east", "d2", "T2", 2), verdict("east", "d1", "T3", 3),
			verdict("east", "d1", "T4", 3), verdict("west", "d1", "T5", 4), verdict("", "d1", "T6", 5)}
		ok(t, s.SaveVerdicts(t.Context(), all, 100))
		ok(t, s.SaveVerdicts(t.Context(), nil, 100))
		for _, c := range []struct {
			query authority.VerdictQuery
			want  string
		}{
			{authority.VerdictQuery{Hub: "east", Limit: 9}, "T4 T3 T2 T1"},
			{authority.VerdictQuery{Hub: "east", Limit: 2}, "T4 T3"},
			{authority.VerdictQuery{Hub: "east"}, ""},
			{authority.VerdictQuery{Hub: "", Limit: 9}, "T6"},
			{authority.VerdictQuery{Hub: "east", DeviceID: "d1", Limit: 9}, "T4 T3 T1"},
			{authority.VerdictQuery{Hub: "east", DeviceID: "d1", Since: at(2), Limit: 9}, "T4 T3"},
			{authority.VerdictQuery{Hub: "east", Since: at(2), Limit: 9}, "T4 T3 T2"},
			{authority.VerdictQuery{Hub: "east", TrackingID: "T2", Limit: 9}, "T2"},
			{authority.VerdictQuery{Hub: "east", DeviceID: "d1", TrackingID: "T2", Limit: 9}, ""},
			{authority.VerdictQuery{Hub: "west", TrackingID: "T2", Limit: 9}, ""},
		} {
			same(t, fmt.Sprint(c.query, trackingIDs(t, s, c.query)), fmt.Sprint(c.query, c.want))
		}
	}},
	{"a verdict comes back as it went in, and is replaced by one of the same tracking ID", func(t *testing.T, s *store.Store) {
		v := verdict("east", "d", "T1", 1)
		v.Error = *signet.Refuse(signet.CertExpired, "It is over.").At("notAfter", "later", "\"<&>\"").
			Of(&signet.CertificateRef{Index: 1, Subject: "CN=x", Serial: "01", NotAfter: at(0)})
		v.TrackingID, v.Step, v.Door, v.Remote, v.ModuleID = "T1", signet.StepPath, signet.DoorMQTT, "192.0.2.1", "m"
		v.Chain = []string{"aa", "bb"}
		for range 2 {
			v.Count++
			v.LastTime = v.LastTime.Add(time.Millisecond)
			ok(t, s.SaveVerdicts(t.Context(), []signet.Verdict{v}, 100))
			got, err := s.Verdicts(t.Context(), authority.VerdictQuery{Hub: "east", Limit: 9})
			ok(t, err)
			same(t, got, []signet.Verdict{v})
		}
	}},
	{"of each hub only the newest verdicts are kept", func(t *testing.T, s *store.Store) {
		for n := range 20 {
			ok(t, s.SaveVerdicts(t.Context(), []signet.Verdict{
				verdict("east", "d", fmt.Sprintf("E%02d", n), n), verdict("", "d", fmt.Sprintf("N%02d", n), 100-n)}, 3))
		}
		ok(t, s.SaveVerdicts(t.Context(), []signet.Verdict{verdict("west", "d", "W", 0)}, 3))
		same(t, trackingIDs(t, s, authority.VerdictQuery{Hub: "east", Limit: 9}), "E19 E18 E17")
		same(t, trackingIDs(t, s, authority.VerdictQuery{Hub: "", Limit: 9}), "N00 N01 N02")
		same(t, trackingIDs(t, s, authority.VerdictQuery{Hub: "west", Limit: 9}), "W")
	}},
	{"a revocation policy comes back as it went in, replaces the one before, and goes with its CA", func(t *testing.T, s *store.Store) {
		p := signet.RevocationPolicy{Hub: "east", CA: "Root", Mode: signet.RevocationHard, CRLs: []string{"http://h/ü", "http://h/2"},
			OCSP: "https://o", RequireNonce: true, Follow: true, AllowPrivate: true, Updated: at(3)}
		fails(t, s.SaveRevocationPolicy(t.Context(), p), signet.ErrNotFound)
		ok(t, s.CreateCA(t.Context(), ca("east", "root")))
		ok(t, s.CreateCA(t.Context(), ca("west", "root")))
		ok(t, s.SaveRevocationPolicy(t.Context(), p))
		west := signet.RevocationPolicy{Hub: "west", CA: "root", Mode: signet.RevocationOff}
		ok(t, s.SaveRevocationPolicy(t.Context(), west))
		p.Mode, p.CRLs = signet.RevocationSoft, nil
		ok(t, s.SaveRevocationPolicy(t.Context(), p))
		for h, want := range map[string][]signet.RevocationPolicy{"east": {p}, "": {p, west}, "north": nil, "a\x00": nil} {
			got, err := s.RevocationPolicies(t.Context(), h)
			ok(t, err)
			same(t, got, want)
		}
		newer := ca("east", "root")
		newer.ETag = "e2"
		ok(t, s.ReplaceCA(t.Context(), newer, "e1"))
		ok(t, s.DeleteCA(t.Context(), "west", "root", "e1"))
		got, err := s.RevocationPolicies(t.Context(), "")
		ok(t, err)
		same(t, got, []signet.RevocationPolicy{p})
	}},
	{"a CRL comes back as it went in, and is replaced by none of an earlier time", func(t *testing.T, s *store.Store) {
		first, elsewhere := crl("east", "a", 1), crl("west", "a", 2)
		first.State = "current" // of the moment, so not kept
		ok(t, s.SaveCRL(t.Context(), first))
		ok(t, s.SaveCRL(t.Context(), elsewhere))
		fails(t, s.SaveCRL(t.Context(), crl("north", "a", 1)), signet.ErrNotFound)
		first.State = ""
		got, err := s.CRL(t.Context(), "east", "a")
		ok(t, err)
		same(t, got, first)
		second := crl("east", "a", 3)
		second.DER = []byte(strings.Repeat("\x00\xff", 1<<20))
		ok(t, s.SaveCRL(t.Context(), second))
		fails(t, s.SaveCRL(t.Context(), first), signet.ErrStale)
		got, err = s.CRL(t.Context(), "east", "a")
		ok(t, err)
		same(t, got, second)
		listed := func(c signet.CRL) signet.CRL { c.DER, c.IssuerDER = nil, nil; return c }
		for h, want := range map[string][]signet.CRL{"east": {listed(second)}, "": {listed(second), listed(elsewhere)}, "north": nil, "a\x00": nil} {
			list, err := s.CRLs(t.Context(), h)
			ok(t, err)
			same(t, list, want)
		}
		ok(t, s.DeleteCRL(t.Context(), "east", "a"))
		for _, id := range []string{"a", "a\x00b", ""} {
			fails(t, s.DeleteCRL(t.Context(), "east", id), signet.ErrNotFound)
			_, err = s.CRL(t.Context(), "east", id)
			fails(t, err, signet.ErrNotFound)
		}
		ok(t, s.SaveCRL(t.Context(), first)) // on purpose
		ok(t, s.DeleteHub(t.Context(), "east"))
		ok(t, s.CreateHub(t.Context(), hub("east")))
		list, err := s.CRLs(t.Context(), "")
		ok(t, err)
		same(t, list, []signet.CRL{listed(elsewhere)})
	}},
	{"answers of responders come back as they went in, replace those before, and go with their hub", func(t *testing.T, s *store.Store) {
		answer := func(hub, serial string, status signet.OCSPStatus) signet.OCSPAnswer {
			return signet.OCSPAnswer{Hub: hub, IssuerKey: "aa", Serial: serial, CA: "Zoë", URL: "http://o", Status: status, Revoked: at(1), Reason: 1,
				Issued: at(2), Until: at(3), NotAfter: at(4)}
		}
		answers := func(hub string) []signet.OCSPAnswer {
			list, err := s.OCSPAnswers(t.Context(), hub)
			ok(t, err)
			slices.SortFunc(list, func(a, b signet.OCSPAnswer) int { return strings.Compare(a.Hub+a.Serial, b.Hub+b.Serial) })
			return list
		}
		one, two, elsewhere := answer("east", "01", signet.OCSPGood), answer("east", "02", signet.OCSPUnknown), answer("west", "01", signet.OCSPGood)
		ok(t, s.SaveOCSPAnswers(t.Context(), []signet.OCSPAnswer{one, two, elsewhere, answer("north", "01", signet.OCSPGood)}, nil))
		same(t, answers(""), []signet.OCSPAnswer{one, two, elsewhere})
		one.Status = signet.OCSPRevoked
		ok(t, s.SaveOCSPAnswers(t.Context(), []signet.OCSPAnswer{one}, []signet.OCSPAnswer{{Hub: "east", IssuerKey: "aa", Serial: "02"}, {Hub: "north"}}))
		same(t, answers("east"), []signet.OCSPAnswer{one})
		same(t, len(answers("a\x00")), 0)
		ok(t, s.DeleteHub(t.Context(), "east"))
		ok(t, s.CreateHub(t.Context(), hub("east")))
		same(t, answers(""), []signet.OCSPAnswer{elsewhere})
	}},
	{"the audit log grows at its end alone, and outlives hubs", func(t *testing.T, s *store.Store) {
		record := func(n int64, hub string) audit.Record {
			return audit.Record{Index: n, Hub: hub, Text: fmt.Appendf(nil, "{\"n\":%d,\"of\":\"ü\"}", n)}
		}
		tile := func(level int, number int64, width int) audit.Tile {
			return audit.Tile{Level: level, Number: number, Hashes: bytes.Repeat([]byte{byte(level), 0xff}, 16*width)}
		}
		edge, err := s.AuditTiles(t.Context())
		ok(t, err)
		same(t, len(edge), 0)
		ok(t, s.AppendAudit(t.Context(), 0, []audit.Record{record(0, ""), record(1, "east")}, []audit.Tile{tile(0, 0, 2)}))
		fails(t, s.AppendAudit(t.Context(), 1, []audit.Record{record(1, "west")}, []audit.Tile{tile(0, 0, 9)}), signet.ErrExists)
		same(t, signet.CodeOf(s.AppendAudit(t.Context(), 2, []audit.Record{record(2, "west"), {Hub: "a\x00"}}, nil)), signet.RequestMalformed)
		ok(t, s.AppendAudit(t.Context(), 2, []audit.Record{record(2, "west"), record(3, "east")}, []audit.Tile{tile(0, 0, 4), tile(1, 0, 1), tile(0, 1, 1)}))
		edge, err = s.AuditTiles(t.Context())
		ok(t, err)
		same(t, edge, []audit.Tile{tile(0, 1, 1), tile(1, 0, 1)})
		one, err := s.AuditTile(t.Context(), 0, 0)
		ok(t, err)
		same(t, one, tile(0, 0, 4))
		_, err = s.AuditTile(t.Context(), 0, 2)
		fails(t, err, signet.ErrNotFound)
		some, err := s.AuditRecords(t.Context(), 1, 2)
		ok(t, err)
		same(t, some, []audit.Record{record(1, "east"), record(2, "west")})
		ok(t, s.DeleteHub(t.Context(), "east"))
		of, err := s.HubAuditRecords(t.Context(), "east", false, 1<<62, 9)
		ok(t, err)
		same(t, of, []audit.Record{record(3, "east"), record(1, "east")})
		of, err = s.HubAuditRecords(t.Context(), "", true, 2, 1)
		ok(t, err)
		same(t, of, []audit.Record{record(1, "east")})
	}},
	{"with a hub goes all that bears its name, and nothing comes after", func(t *testing.T, s *store.Store) {
		for _, h := range []string{"east", "west"} {
			ok(t, s.CreateIdentity(t.Context(), device(h, "d")))
			ok(t, s.CreateIdentity(t.Context(), module(h, "d", "m")))
			ok(t, s.CreateCA(t.Context(), ca(h, "Root")))
			ok(t, s.CreateDistrust(t.Context(), distrust(h, "a", 1)))
			ok(t, s.SaveVerdicts(t.Context(), []signet.Verdict{verdict(h, "d", "T", 1)}, 9))
		}
		ok(t, s.DeleteHub(t.Context(), "east"))
		fails(t, s.DeleteHub(t.Context(), "east"), signet.ErrNotFound)
		ok(t, s.SaveVerdicts(t.Context(), []signet.Verdict{verdict("east", "d", "Late", 2), verdict("west", "d", "T2", 2)}, 9))
		ok(t, s.CreateHub(t.Context(), hub("east")))
		for h, want := range map[string]string{"east": "0 0 0 0 ", "west": "1 1 1 1 T2 T"} {
			total, _, err := s.CountDevices(t.Context(), h)
			ok(t, err)
			modules := 0
			if _, err := s.Identity(t.Context(), h, "d", "m"); err == nil {
				modules = 1
			}
			cas, err := s.CAs(t.Context(), h)
			ok(t, err)
			ds, err := s.Distrusts(t.Context(), h)
			ok(t, err)
			same(t, fmt.Sprint(total, modules, len(cas), len(ds), " ", trackingIDs(t, s, authority.VerdictQuery{Hub: h, Limit: 9})), want)
		}
	}},
	{"text that not every database holds is refused, and is nobody's key", func(t *testing.T, s *store.Store) {
		for _, bad := range []string{"a\x00b", "a\xffb"} {
			i, c := device("east", "d"), ca("east", "Root")
			d := distrust("east", "a", 1)
			i.StatusReason, c.Subject, d.Subject = bad, bad, bad
			for _, err := range []error{
				s.CreateIdentity(t.Context(), i), s.ReplaceIdentity(t.Context(), i, "*"), s.CreateIdentity(t.Context(), device("east", bad)),
				s.CreateCA(t.Context(), c), s.ReplaceCA(t.Context(), c, "e1"), s.CreateDistrust(t.Context(), d), s.CreateHub(t.Context(), signet.Hub{Name: "n", HostName: bad}),
			} {
				same(t, signet.CodeOf(err), signet.RequestMalformed)
			}
			_, err := s.Identity(t.Context(), "east", bad, "")
			fails(t, err, signet.ErrNotFound)
			_, err = s.CA(t.Context(), "east", bad)
			fails(t, err, signet.ErrNotFound)
			fails(t, s.DeleteIdentity(t.Context(), "east", "d", bad, "*"), signet.ErrNotFound)
			fails(t, s.DeleteCA(t.Context(), "east", bad, "e1"), signet.ErrNotFound)
			fails(t, s.DeleteHub(t.Context(), bad), signet.ErrNotFound)
			_, err = s.CAs(t.Context(), bad)
			ok(t, err)
			_, _, err = s.CountDevices(t.Context(), bad)
			ok(t, err)
			// A verdict tells of strangers, and must not be lost by what they wrote.
			v := verdict("", bad, "T-"+bad, 1)
			v.Actual = bad
			ok(t, s.SaveVerdicts(t.Context(), []signet.Verdict{v}, 9))
			got, err := s.Verdicts(t.Context(), authority.VerdictQuery{DeviceID: bad, TrackingID: "T-" + bad, Limit: 1})
			ok(t, err)
			same(t, len(got), 1)
		}
	}},
	{"of many that create one identity, one does", func(t *testing.T, s *store.Store) {
		var errs []error
		for _, err := range together(16, func(int) error { return s.CreateIdentity(t.Context(), device("east", "d")) }) {
			if err != nil {
				errs = append(errs, err)
				fails(t, err, signet.ErrExists)
			}
		}
		same(t, len(errs), 15)
	}},
	{"of many that replace by one ETag, one does", func(t *testing.T, s *store.Store) {
		ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
		ok(t, s.CreateCA(t.Context(), ca("east", "Root")))
		for name, replace := range map[string]func(etag string) error{
			"identity": func(etag string) error {
				i := device("east", "d")
				i.ETag = etag
				return s.ReplaceIdentity(t.Context(), i, "e1")
			},
			"certificate": func(etag string) error {
				c := ca("east", "root")
				c.ETag = etag
				return s.ReplaceCA(t.Context(), c, "e1")
			},
		} {
			won := 0
			for _, err := range together(16, func(n int) error { return replace(fmt.Sprintf("n%d", n)) }) {
				if err == nil {
					won++
				} else {
					fails(t, err, signet.ErrStale)
				}
			}
			same(t, fmt.Sprint(name, won), fmt.Sprint(name, 1))
		}
	}},
	{"a device that goes while modules come leaves none behind", func(t *testing.T, s *store.Store) {
		for round := range 10 {
			id := fmt.Sprintf("d%d", round)
			ok(t, s.CreateIdentity(t.Context(), device("east", id)))
			for n, err := range together(8, func(n int) error {
				if n == 4 {
					return s.DeleteIdentity(t.Context(), "east", id, "", "*")
				}
				return s.CreateIdentity(t.Context(), module("east", id, fmt.Sprintf("m%d", n)))
			}) {
				if n == 4 || !errors.Is(err, signet.ErrNotFound) {
					ok(t, err)
				}
				_, err = s.Identity(t.Context(), "east", id, fmt.Sprintf("m%d", n))
				fails(t, err, signet.ErrNotFound)
			}
		}
	}},
	{"a hub that goes while all kinds of things come leaves nothing behind", func(t *testing.T, s *store.Store) {
		for range 10 {
			errs := together(12, func(n int) error {
				id := fmt.Sprintf("d%d", n)
				switch n % 6 {
				case 0:
					return s.CreateIdentity(t.Context(), device("east", id))
				case 1:
					return s.CreateCA(t.Context(), ca("east", id))
				case 2:
					return s.SaveVerdicts(t.Context(), []signet.Verdict{verdict("east", id, id, 1), verdict("west", id, id, 1)}, 9)
				case 3:
					return s.CreateIdentity(t.Context(), module("east", fmt.Sprintf("d%d", n-3), "m"))
				case 4:
					return s.CreateDistrust(t.Context(), distrust("east", id, 1))
				}
				return s.DeleteHub(t.Context(), "east")
			})
			for _, err := range errs {
				if !errors.Is(err, signet.ErrNotFound) {
					ok(t, err)
				}
			}
			ok(t, s.CreateHub(t.Context(), hub("east")))
			total, _, err := s.CountDevices(t.Context(), "east")
			ok(t, err)
			cas, err := s.CAs(t.Context(), "east")
			ok(t, err)
			ds, err := s.Distrusts(t.Context(), "east")
			ok(t, err)
			same(t, fmt.Sprint(total, len(cas), len(ds), trackingIDs(t, s, authority.VerdictQuery{Hub: "east", Limit: 9})), "0 0 0")
		}
	}},
	{"a caller who has given up changes nothing", func(t *testing.T, s *store.Store) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		fails(t, s.CreateIdentity(ctx, device("east", "d")), context.Canceled)
		_, err := s.Identity(ctx, "east", "d", "")
		fails(t, err, context.Canceled)
		_, err = s.Identity(t.Context(), "east", "d", "")
		fails(t, err, signet.ErrNotFound)
	}},
}

func TestPromises(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		s := db.mustOpen(t, dsn)
		for _, p := range promises {
			t.Run(p.name, func(t *testing.T) {
				empty(t, s)
				for _, h := range []string{"west", "east"} {
					ok(t, s.CreateHub(t.Context(), hub(h)))
				}
				p.keep(t, s)
				ok(t, s.Ping(t.Context()))
			})
		}
	})
}

func empty(t *testing.T, s *store.Store) {
	t.Helper()
	hubs, err := s.Hubs(t.Context())
	ok(t, err)
	for _, h := range hubs {
		ok(t, s.DeleteHub(t.Context(), h.Name))
	}
	ok(t, s.SaveVerdicts(t.Context(), []signet.Verdict{verdict("", "d", "T", 0)}, 0))
	same(t, trackingIDs(t, s, authority.VerdictQuery{Limit: 1}), "")
}

func TestReopen(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		s := db.mustOpen(t, dsn)
		ok(t, s.CreateHub(t.Context(), hub("east")))
		ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
		ok(t, s.Close())
		ok(t, s.Close())
		for _, err := range []error{s.Ping(t.Context()), s.CreateIdentity(t.Context(), device("east", "late"))} {
			if err == nil {
				t.Error("a closed store answers")
			}
		}
		s = db.mustOpen(t, dsn)
		got, err := s.Identity(t.Context(), "east", "d", "")
		ok(t, err)
		same(t, got, device("east", "d"))
		_, err = s.Identity(t.Context(), "east", "late", "")
		fails(t, err, signet.ErrNotFound)
	})
}

// Close answers everyone who has asked, with success only for what is on disk.
func TestCloseUnderLoad(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		s := db.mustOpen(t, dsn)
		ok(t, s.CreateHub(t.Context(), hub("east")))
		errs := together(50, func(n int) error {
			if n == 25 {
				return s.Close()
			}
			return s.CreateIdentity(t.Context(), device("east", fmt.Sprintf("d%02d", n)))
		})
		ok(t, errs[25])
		s = db.mustOpen(t, dsn)
		for n, err := range errs {
			if _, lost := s.Identity(t.Context(), "east", fmt.Sprintf("d%02d", n), ""); n != 25 && err == nil {
				ok(t, lost)
			}
		}
	})
}

func TestNewerSchema(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		ok(t, db.mustOpen(t, dsn).Close())
		target := dsn
		if db.driver == "sqlite" {
			target = sqliteURL(dsn)
		}
		behind := openSQL(t, db.driver, target)
		for _, statement := range []string{`UPDATE schema_version SET version = 99`, `DROP TABLE verdict`} {
			_, err := behind.Exec(statement)
			ok(t, err)
		}
		_, err := db.open(t.Context(), dsn, quiet)
		same(t, signet.CodeOf(err), signet.Unavailable)
		if err == nil || !strings.Contains(err.Error(), "version 99;") || !strings.Contains(err.Error(), fmt.Sprintf("up to version %d.", store.SchemaVersion())) || strings.Contains(err.Error(), "\n") {
			t.Errorf("not one line with both versions: %v", err)
		}
		_, err = behind.Exec(`CREATE TABLE verdict (x TEXT)`) // it was not made again
		ok(t, err)
	})
}

// Servers that start together on a new database make its tables once.
func TestOpenTogether(t *testing.T) {
	dsn := postgresURL(t)
	for _, err := range together(4, func(int) error {
		s, err := store.OpenPostgres(t.Context(), dsn, quiet)
		if err != nil {
			return err
		}
		return errors.Join(s.Ping(t.Context()), s.Close())
	}) {
		ok(t, err)
	}
}

// A change that PostgreSQL gave up to end a deadlock is made again.
func TestDeadlock(t *testing.T) {
	s := kinds[1].mustOpen(t, postgresURL(t))
	names := []string{"east", "west"}
	for _, h := range names {
		ok(t, s.CreateHub(t.Context(), hub(h)))
	}
	var attempts atomic.Int64
	var both sync.WaitGroup
	both.Add(2)
	over := []chan struct{}{make(chan struct{}), make(chan struct{})}
	for _, err := range together(2, func(n int) error {
		defer close(over[n])
		first := sync.OnceFunc(func() { both.Done(); both.Wait() })
		mine := 0
		return store.Change(t.Context(), s, func(exec func(string, ...any) error) error {
			attempts.Add(1)
			if mine++; mine > 1 {
				// On a busy server the two would meet again and again: who has its turn may
				// wake later than who gave way has paused.
				<-over[1-n]
			}
			touch := `UPDATE hub SET created = created + 1 WHERE name = $1`
			if err := exec(touch, names[n]); err != nil {
				return err
			}
			first() // each holds one, and then wants the other's
			return exec(touch, names[1-n])
		})
	}) {
		ok(t, err)
	}
	if attempts.Load() < 3 {
		t.Errorf("%d attempts: there was no deadlock", attempts.Load())
	}
	hubs, err := s.Hubs(t.Context())
	ok(t, err)
	for _, h := range hubs {
		same(t, h.Created, hub("").Created.Add(2*time.Microsecond))
	}
}

// Two servers may number an event alike, and so may one whose clock was set back: a
// change does not fail by it, and what comes after a restart is told after what waits.
func TestEventNumbers(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		s := db.mustOpen(t, dsn)
		ok(t, s.CreateHub(t.Context(), hub("east")))
		ahead := time.Now().Add(time.Hour).UnixMicro()
		var want []string
		tell := func(s *store.Store, ids ...string) {
			t.Helper()
			for _, id := range ids {
				ok(t, s.CreateIdentity(t.Context(), device("east", id), signet.Event{Hub: "east", DeviceID: id, Body: []byte(`{}`)},
					signet.Event{Hub: "east", DeviceID: id, ModuleID: "m", Body: []byte(`{}`)}))
				want = append(want, id, id+"/m")
			}
		}
		store.SetEventClock(s, ahead)
		tell(s, "a", "b")
		if db.name == "PostgreSQL" {
			other := db.mustOpen(t, dsn)
			store.SetEventClock(other, ahead)
			tell(other, "c")
			ok(t, other.Close())
		}
		store.SetEventClock(s, ahead)
		tell(s, "d")
		ok(t, s.Close())
		s = db.mustOpen(t, dsn)
		tell(s, "e")
		events, err := s.Events(t.Context(), "east", 99)
		ok(t, err)
		var got []string
		for _, e := range events {
			got = append(got, signet.IdentityName(e.DeviceID, e.ModuleID))
		}
		same(t, got, want)
	})
}

func TestPasswordStaysSecret(t *testing.T) {
	for _, url := range []string{
		"postgres://signet:s3cret@127.0.0.1:1/signet?connect_timeout=1", "postgres://signet:s3cret@127.0.0.1:port/signet",
		"host=127.0.0.1 port=1 password=s3cret sslmode=nonsense", "postgres://signet:s3cret@%zz/signet",
	} {
		_, err := store.OpenPostgres(t.Context(), url, quiet)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v", err)
		}
	}
}

// together runs f(0) … f(n-1) at the same time and gives what they return.
func together(n int, f func(int) error) []error {
	errs, start := make([]error, n), make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fails(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func same(t testing.TB, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// at is a moment, the finest that is stored: n seconds and a microsecond after
// one in 2026.
func at(n int) time.Time {
	return time.Date(2026, 3, 1, 12, 0, 0, 1000, time.UTC).Add(time.Duration(n) * time.Second)
}

func hub(name string) signet.Hub {
	return signet.Hub{Name: name, HostName: name + ".example.com", Created: at(0)}
}

func device(hub, id string) signet.Identity { return module(hub, id, "") }

func module(hub, device, id string) signet.Identity {
	return signet.Identity{Hub: hub, DeviceID: device, ModuleID: id, GenerationID: "1", ETag: "e1", Status: signet.Enabled,
		CreatedTime: at(0), Auth: signet.Authentication{Type: signet.AuthCA}}
}

// twin has a text of its own in each column.
func twin(hub, device, id string, version int64) signet.Twin {
	return signet.Twin{Hub: hub, DeviceID: device, ModuleID: id, GenerationID: module(hub, device, id).GenerationID,
		Version: version, ETag: "t1", Tags: []byte(`{"tags":"zurück"}`),
		Desired:  signet.Properties{Version: version + 10, Values: []byte(`{"d":1}`), Metadata: []byte(`{"dm":{}}`)},
		Reported: signet.Properties{Version: version + 20, Values: []byte(`{"r":[2]}`), Metadata: []byte(`{"rm":{}}`)}}
}

func ca(hub, name string) signet.CACertificate {
	return signet.CACertificate{Hub: hub, Name: name, DER: []byte{0x30, 0x00, 0xff}, Subject: "CN=" + name, Thumbprint: "AB",
		NotBefore: at(-9), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), Verified: true,
		VerificationCode: "C0DE", ETag: "e1", Created: at(1), Updated: at(2)}
}

func crl(hub, id string, second int) signet.CRL {
	return signet.CRL{Hub: hub, ID: id, Issuer: "CN=Zoë", Key: "aa", Number: "7", ThisUpdate: at(second), NextUpdate: at(second + 9),
		Entries: 2, Bytes: 3, SHA256: "bb", Source: "upload", Added: at(second), DER: []byte{0x30, 0, byte(second)}, IssuerDER: []byte{0x30, 0xff}}
}

func distrust(hub, id string, second int) signet.Distrust {
	return signet.Distrust{Hub: hub, ID: id, Kind: signet.DistrustSerial, Thumbprint: "aa", Key: "bb", IssuerKey: "cc", Serial: "dd",
		Subject: "CN=x", Reason: "stolen", By: "iothubowner", Created: at(second)}
}

func verdict(hub, device, id string, second int) signet.Verdict {
	return signet.Verdict{Error: signet.Error{Code: signet.IdentityUnknown, Message: "Who?", TrackingID: id},
		Time: at(second), LastTime: at(second), Hub: hub, DeviceID: device, Count: 1}
}

func trackingIDs(t testing.TB, s *store.Store, q authority.VerdictQuery) string {
	t.Helper()
	vs, err := s.Verdicts(t.Context(), q)
	ok(t, err)
	var ids []string
	for _, v := range vs {
		ids = append(ids, v.TrackingID)
	}
	return strings.Join(ids, " ")
}
