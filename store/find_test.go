package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/query"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/store"
)

// zoo are identities with all that a twin can hold; every question below is put to
// each database and to the reference.
func zoo(t testing.TB, s registry.Store) {
	ctx := t.Context()
	write := func(i signet.Identity, version int64, tags, desired, reported string) {
		ok(t, s.CreateIdentity(ctx, i))
		if version > 0 {
			ok(t, s.WriteTwin(ctx, signet.Twin{Hub: i.Hub, DeviceID: i.DeviceID, ModuleID: i.ModuleID, GenerationID: i.GenerationID,
				Version: version, ETag: fmt.Sprint("t", version), Tags: []byte(tags),
				Desired:  signet.Properties{Version: version - 2, Values: []byte(desired), Metadata: []byte(`{"$lastUpdated":"2026-01-01T00:00:00.0000000Z","a":{"$lastUpdatedVersion":5}}`)},
				Reported: signet.Properties{Version: version - 1, Values: []byte(reported), Metadata: []byte(`{"$lastUpdated":"2026-02-01T00:00:00.0000000Z"}`)}}, 0))
		}
	}
	values := []string{`null`, `true`, `false`, `0`, `-0.0`, `1`, `1.0`, `1.5`, `-7`, `4503599627370495`, `0.1`, `0.30000000000000004`, `1e300`, `-1e-300`, `2.2250738585072014e-308`, `1E+2`, `1e-310`,
		`""`, `"a"`, `"A"`, `"b"`, `"ä"`, `"Z"`, `"z"`, `"_"`, `"1"`, `"true"`, `"null"`, `"a%"`, `"a_"`, `"a'b"`, `"\ud83d\ude00"`, `"\u2028"`, `"\u0001"`, `"\"\\"`,
		`"ＡＢ"`, `{}`, `{"x":1}`, `[]`, `[1,2]`, `[null]`, `"` + strings.Repeat("long", 200) + `"`}
	for n, v := range values {
		i := device("east", fmt.Sprintf("v%02d", n))
		if n%5 == 0 {
			i.Status, i.StatusReason, i.StatusUpdatedTime = signet.Disabled, []string{"", "lost"}[n%2], at(n)
		}
		if n%7 == 0 {
			i.Auth = signet.Authentication{Type: signet.AuthSelfSigned, PrimaryThumbprint: fmt.Sprint("AA", n%3)}
			i.EdgeDevice = true
		}
		write(i, int64(n+3), `{"v":`+v+`,"w":`+values[(n*11+5)%len(values)]+`,"n":{"é":`+v+`,"a\"b\\c":`+v+`,"0":`+v+`,"\u2028":`+v+`,"\ud83d\ude00":`+v+`,"'":`+v+`,"[0]":`+v+`},"group":`+fmt.Sprint(n%3)+`}`,
			`{"v":`+v+`}`, `{"deep":{"deeper":{"v":`+v+`}}}`)
	}
	write(device("east", "never-written"), 0, "", "", "")
	write(device("east", "Never"), 0, "", "", "")
	write(module("east", "v01", "m2"), 9, `{"v":"a"}`, `{}`, `{}`)
	write(module("east", "v01", "m1"), 0, "", "", "")
	write(module("east", "v01", "M"), 3, `{"v":1}`, `{}`, `{}`)
	write(device("west", "elsewhere"), 3, `{"v":"a","group":1}`, `{}`, `{}`)
	var active []signet.Activity
	for _, n := range []int{1, 3, 5, 6, 11} {
		active = append(active, signet.Activity{Hub: "east", DeviceID: fmt.Sprintf("v%02d", n), GenerationID: device("east", "v").GenerationID,
			Connected: n%2 == 1, ConnectionUpdated: at(n), LastActive: at(100 + n)})
	}
	active = append(active, signet.Activity{Hub: "east", DeviceID: "v01", ModuleID: "m2", GenerationID: device("east", "v").GenerationID, Connected: true, ConnectionUpdated: at(1), LastActive: at(2)})
	ok(t, s.SaveActivity(ctx, active))
}

// questions are conditions; each is asked as it is and turned round.
var questions = []string{
	`tags.v = 'a'`, `tags.v = 'A'`, `tags.v != 'a'`, `tags.v < 'a'`, `tags.v >= 'Z'`, `tags.v > '_'`, `tags.v = 'ä'`, `tags.v = '\uD83D\uDE00'`, `tags.v = '\u2028'`,
	`tags.v = 'a\'b'`, `tags.v = '\"\\'`, `tags.v = ''`, `tags.v = "' OR 1=1 --"`, `tags.v = '` + strings.Repeat("long", 200) + `'`,
	`tags.v = 1`, `tags.v = 1.0`, `tags.v = 0`, `tags.v = -0.0`, `tags.v < 1`, `tags.v >= 1.5`, `tags.v = 4503599627370495`, `tags.v = 0.1`, `tags.v = 0.3`, `tags.v = 0.30000000000000004`, `tags.v = 1e300`,
	`tags.v = -1e-300`, `tags.v = 2.2250738585072014e-308`, `tags.v = 100`, `tags.v > 0 AND tags.v < 1e-300`, `tags.v = 1e-310`,
	`tags.v = true`, `tags.v = false`, `tags.v > false`, `tags.v = null`, `tags.v != null`, `tags.v < null`, `tags.v = undefined`, `tags.v`, `NOT tags.v`,
	`tags.v = tags.w`, `tags.v != tags.w`, `tags.v < tags.w`, `tags.w <= tags.v`, `tags.v = properties.desired.v`, `tags.v = tags.nothing`,
	`tags.v IN ['a', 'b', 1, null]`, `tags.v NIN ['a', 'b', 1, null]`, `tags.v IN [true]`, `tags.v IN []`, `tags.v NIN [undefined]`, `tags.v IN [1.0, -7, 'z']`,
	`tags.n.é = 1`, `tags.n.[[a"b\c]] = 'a'`, `tags.n.[[0]] = 1.5`, "tags.n.[[\u2028]] = 'a'", "tags.n.[[\U0001F600]] = 'a'", `tags.n.[[']] = 'b'`, `tags.[[n.é]] = 1`, `tags.[[$]] = 1`, `tags.v.[[0]] = 1`, `tags.v.x = 1`, `tags.v.x.y = 1`, `tags.N.é = 1`,
	`tags = null`, `tags = tags`, `properties.reported.deep.deeper.v = 'b'`, `properties.reported.deep = null`,
	`STARTSWITH(tags.v, 'a')`, `STARTSWITH(tags.v, '')`, `STARTSWITH(tags.v, 'ä')`, `STARTSWITH(tags.v, 'a%')`, `ENDSWITH(tags.v, 'b')`, `ENDSWITH(tags.v, '')`, `ENDSWITH(tags.v, 'ng')`, `CONTAINS(tags.v, '\'')`, `CONTAINS(tags.v, '')`,
	`CONTAINS(tags.v, '_')`, `CONTAINS(tags.v, 'A')`, `CONTAINS(tags.v, '\uD83D\uDE00')`, `STARTSWITH(status, 'dis')`, `ENDSWITH(statusReason, 'st')`,
	`IS_DEFINED(tags.v)`, `IS_DEFINED(tags.v.x)`, `IS_DEFINED(tags.nothing)`, `IS_NULL(tags.v)`, `IS_BOOL(tags.v)`, `IS_NUMBER(tags.v)`, `IS_STRING(tags.v)`, `IS_OBJECT(tags.v)`, `IS_ARRAY(tags.v)`, `IS_PRIMITIVE(tags.v)`,
	`IS_DEFINED(statusReason)`, `IS_NULL(statusReason)`, `IS_STRING(statusReason)`, `IS_DEFINED(moduleId)`, `IS_DEFINED(deviceScope)`, `IS_OBJECT(tags)`, `IS_OBJECT(properties)`, `IS_NUMBER(version)`, `IS_BOOL((tags.v = 1))`, `IS_NUMBER(tags.v + 1)`, `IS_DEFINED(tags.v / 0)`, `IS_STRING(lastActivityTime)`, `IS_NULL(null)`, `IS_DEFINED(undefined)`,
	`tags.v + 1 = 2`, `tags.v - 1 > 0`, `tags.v * 2 = 3`, `tags.v / 2 = 0.5`, `1 / tags.v = 1`, `tags.v / tags.w = 1`, `tags.v % 2 = 1`, `tags.v % 2 = -1`, `tags.v % 0 = 0`, `-tags.v = 7`, `tags.v * tags.v > 1`, `tags.v + tags.w = tags.v + tags.w`, `0.1 + 0.2 = 0.30000000000000004`, `1e300 * tags.v > 0`,
	`tags.v = 1 OR tags.w = 1`, `tags.v = 'a' OR NOT tags.w = 1`, `tags.v = 1 AND tags.w = 1 OR true`, `NOT (tags.v = 1 OR tags.w = 'a') AND tags.group = 1`, `(tags.v = 1) = (tags.w = 1)`, `false`, `true`, `undefined`, `NOT undefined`,
	`tags.group = 1 AND tags.v = 'a'`, `tags.v = 'a' AND tags.group = 0 AND status = 'enabled'`,
	`deviceId = 'v05'`, `deviceId = 'V05'`, `'v05' = id`, `deviceId > 'v05'`, `deviceId >= 'v05' AND deviceId < 'v09'`, `'v05' > deviceId`, `deviceId IN ['v01', 'v05', 'nobody', 'never-written', 5]`, `deviceId IN ['v01', 'v02'] AND deviceId IN ['v02', 'v03']`, `deviceId NIN ['v01']`, `STARTSWITH(deviceId, 'v0')`, `STARTSWITH(deviceId, 'never')`, `STARTSWITH(id, '') AND deviceId <= 'v02'`, `deviceId = 'v05' AND deviceId = 'v06'`,
	`moduleId = 'm1'`, `moduleId > 'M'`, `moduleId = null`,
	`etag = 't5'`, `etag = '1'`, `deviceEtag = 'e1'`, `status = 'disabled'`, `status = 'disabled' AND tags.group = 0`, `status != 'enabled'`, `statusReason = 'lost'`, `statusReason = null`, `statusReason != 'lost'`, `statusReason IN ['lost', null]`,
	`statusUpdateTime > '2026-01-01'`, `statusUpdateTime = '0001-01-01T00:00:00'`, `lastActivityTime > '0001-01-01'`, `lastActivityTime = statusUpdateTime`, `lastActivityTime IN ['0001-01-01']`, `lastActivityTime != null`, `connectionStateUpdatedTime < lastActivityTime`,
	`connectionState = 'Connected'`, `connectionState = 'Connected' AND tags.group = 1`, `connectionState != 'Connected'`, `connectionState = 'connected'`, `cloudToDeviceMessageCount = 0`, `authenticationType = 'selfSigned'`, `x509Thumbprint.primaryThumbprint = 'AA1'`, `x509Thumbprint.secondaryThumbprint = null`,
	`version = 2`, `version > 10`, `version = 2.0`, `capabilities.iotEdge`, `capabilities.iotEdge = false`, `capabilities.iotEdge < true`, `modelId = ''`,
	`properties.desired.$version = 1`, `properties.reported.$version >= 10`, `properties.reported.$metadata.$lastUpdated < '2026'`, `properties.desired.$metadata.a.$lastUpdatedVersion = 5`, `IS_DEFINED(properties.desired.$metadata)`, `properties.desired.$version.x = 1`, `tags.$version = 1`,
}

func twoHubs(t testing.TB, db database, dsn string) *store.Store {
	s := db.mustOpen(t, dsn)
	for _, h := range []string{"east", "west"} {
		ok(t, s.CreateHub(t.Context(), hub(h)))
	}
	return s
}

func reference(t testing.TB) *memstore.Store {
	s := memstore.New()
	for _, h := range []string{"east", "west"} {
		ok(t, s.CreateHub(t.Context(), hub(h)))
	}
	zoo(t, s)
	return s
}

// TestFind: every question has the same answer of SQLite, of PostgreSQL and of the
// reference, page by page, of devices and of modules.
func TestFind(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		s, want := twoHubs(t, db, dsn), reference(t)
		zoo(t, s)
		answers := map[string]bool{}
		for _, from := range []string{"devices", "devices.modules"} {
			ask := func(text string) {
				q, err := query.Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				expected, err := want.Find(t.Context(), "east", q, registry.Key{}, 1000)
				ok(t, err)
				for _, limit := range []int{3, 1000} {
					var got []registry.Record
					for after := (registry.Key{}); ; {
						page, err := s.Find(t.Context(), "east", q, after, limit)
						if err != nil {
							t.Fatalf("%s: %v", text, err)
						}
						got, after = append(got, page.Records...), page.Next
						if !page.More {
							break
						}
					}
					if a, b := keysOf(got), keysOf(expected.Records); a != b {
						t.Fatalf("%s:\n%s\nwant\n%s", text, a, b)
					}
					same(t, got, expected.Records)
				}
				answers[keysOf(expected.Records)] = true
			}
			ask("SELECT * FROM " + from)
			for _, question := range questions {
				ask("SELECT * FROM " + from + " WHERE " + question)
				ask("SELECT * FROM " + from + " WHERE NOT (" + question + ")")
			}
		}
		if len(answers) < 80 {
			t.Errorf("the questions have only %d different answers", len(answers))
		}
	})
}

func keysOf(records []registry.Record) string {
	var all []string
	for _, r := range records {
		all = append(all, r.Identity.Name())
	}
	return strings.Join(all, " ")
}

// TestAggregate: groups, sums and the rest, in the order of types and values.
func TestAggregate(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		s, want := twoHubs(t, db, dsn), reference(t)
		zoo(t, s)
		for _, text := range []string{
			`SELECT COUNT() FROM devices`, `SELECT COUNT() FROM devices.modules`, `SELECT COUNT() FROM devices WHERE tags.nothing = 1`,
			`SELECT AVG(tags.v), SUM(tags.v), MIN(tags.v), MAX(tags.v) FROM devices WHERE tags.v < 1000`,
			`SELECT SUM(tags.v) FROM devices WHERE tags.v > 1e299`, `SELECT AVG(tags.nothing), COUNT() FROM devices`,
			`SELECT MIN(version), MAX(properties.desired.$version), SUM(cloudToDeviceMessageCount) FROM devices`,
			`SELECT COUNT() FROM devices GROUP BY tags.v`, `SELECT COUNT(), MIN(version) FROM devices GROUP BY tags.w`,
			`SELECT COUNT() FROM devices GROUP BY tags`, `SELECT COUNT() FROM devices GROUP BY tags.nothing`,
			`SELECT COUNT(), SUM(tags.v) AS s FROM devices WHERE STARTSWITH(deviceId, 'v') GROUP BY tags.group`,
			`SELECT COUNT() FROM devices GROUP BY status`, `SELECT COUNT() FROM devices GROUP BY statusReason`, `SELECT COUNT() FROM devices GROUP BY connectionState`,
			`SELECT COUNT() FROM devices GROUP BY capabilities.iotEdge`, `SELECT COUNT() FROM devices GROUP BY x509Thumbprint.primaryThumbprint`,
			`SELECT COUNT() FROM devices.modules GROUP BY moduleId`, `SELECT COUNT() FROM devices GROUP BY moduleId`, `SELECT COUNT() FROM devices GROUP BY properties.reported.$metadata.$lastUpdated`,
			`SELECT COUNT() FROM devices WHERE status = 'disabled' GROUP BY tags.group`, `SELECT COUNT() FROM devices WHERE deviceId IN ['v01', 'v02']`,
		} {
			q, err := query.Parse(text)
			ok(t, err)
			expected, err := want.Aggregate(t.Context(), "east", q)
			ok(t, err)
			got, err := s.Aggregate(t.Context(), "east", q)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if a, b := fmt.Sprint(got), fmt.Sprint(expected); a != b {
				t.Errorf("%s:\n%s\nwant\n%s", text, a, b)
			}
		}
	})
}

// TestFindAsTwinsChange: the index of tags follows the twins; what it leads to is
// looked at itself.
func TestFindAsTwinsChange(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		s, want := twoHubs(t, db, dsn), memstore.New()
		ok(t, want.CreateHub(t.Context(), hub("east")))
		random := rand.New(rand.NewPCG(1, 2))
		versions := map[string]int64{}
		for range 300 {
			id := fmt.Sprintf("d%d", random.IntN(12))
			i := device("east", id)
			for n, s := range []registry.Store{s, want} {
				if versions[id] == 0 {
					ok(t, s.CreateIdentity(t.Context(), i))
				}
				twin := signet.EmptyTwin("east", id, "", i.GenerationID)
				twin.Version = versions[id] + 1
				twin.Tags = fmt.Appendf(nil, `{"a":%d,"b":{"c":"%d"},"d":%v}`, versions[id]%3, versions[id]%4, versions[id]%2 == 0)
				if versions[id] == 20 {
					ok(t, s.DeleteIdentity(t.Context(), "east", id, "", "*"))
				} else {
					ok(t, s.WriteTwin(t.Context(), twin, versions[id]))
				}
				if n == 1 {
					if versions[id]++; versions[id] == 21 {
						versions[id] = 0
					}
				}
			}
		}
		for _, condition := range []string{`tags.a = 1`, `tags.a = 1 AND tags.b.c = '2'`, `tags.d = true AND tags.a = 2`, `tags.b = 'c'`} {
			q, err := query.Parse(`SELECT * FROM devices WHERE ` + condition)
			ok(t, err)
			expected, err := want.Find(t.Context(), "east", q, registry.Key{}, 100)
			ok(t, err)
			got, err := s.Find(t.Context(), "east", q, registry.Key{}, 100)
			ok(t, err)
			same(t, keysOf(got.Records), keysOf(expected.Records))
		}
	})
}

// TestFindIsBounded: by time, by size, by the caller's patience and by groups; and
// each page goes on where the last one ended.
func TestFindIsBounded(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		s := twoHubs(t, db, dsn)
		const many = 1200
		for _, err := range together(many, func(n int) error {
			i := device("east", fmt.Sprintf("d%04d", n))
			if err := s.CreateIdentity(t.Context(), i); err != nil {
				return err
			}
			twin := signet.EmptyTwin("east", i.DeviceID, "", i.GenerationID)
			twin.Tags = fmt.Appendf(nil, `{"n":%d,"last":%v}`, n, n == many-1)
			return s.WriteTwin(t.Context(), twin, 0)
		}) {
			ok(t, err)
		}
		walk := func(text string) (found, pages int) {
			q, err := query.Parse(text)
			ok(t, err)
			for after := (registry.Key{}); ; {
				page, err := s.Find(t.Context(), "east", q, after, 100)
				ok(t, err)
				found, pages = found+len(page.Records), pages+1
				if !page.More {
					return found, pages
				}
				after = page.Next
			}
		}
		found, pages := walk(`SELECT * FROM devices`)
		same(t, []int{found, pages}, []int{many, 12})

		// No time: a page ends after each slice, and nothing is left out.
		store.Impatient(s)
		found, pages = walk(`SELECT * FROM devices WHERE tags.n > 1198`)
		if found != 1 || pages < 2 {
			t.Errorf("%d found, on %d pages", found, pages)
		}
		q, err := query.Parse(`SELECT COUNT() FROM devices`)
		ok(t, err)
		_, err = s.Aggregate(t.Context(), "east", q)
		same(t, signet.CodeOf(err), signet.LimitQuery)
		store.Patient(s)
		groups, err := s.Aggregate(t.Context(), "east", q)
		ok(t, err)
		same(t, groups[0].Values, []any{float64(many)})
		q, err = query.Parse(`SELECT COUNT() FROM devices GROUP BY tags.n`)
		ok(t, err)
		_, err = s.Aggregate(t.Context(), "east", q)
		same(t, signet.CodeOf(err), signet.LimitQuery)

		// Twins that are large make pages that are short.
		store.PageBytes(s, 1000)
		found, pages = walk(`SELECT * FROM devices WHERE tags.n < 100`)
		if found != 100 || pages < 10 {
			t.Errorf("%d found, on %d pages", found, pages)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err = s.Aggregate(ctx, "east", q); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestActivity: written together, never set back, gone with the identity.
func TestActivity(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		s := twoHubs(t, db, dsn)
		ok(t, s.CreateIdentity(t.Context(), device("east", "a")))
		ok(t, s.CreateIdentity(t.Context(), device("east", "b")))
		ok(t, s.CreateIdentity(t.Context(), module("east", "b", "m")))
		of := func(device, module, generation string, connected bool, updated, active time.Time) signet.Activity {
			return signet.Activity{Hub: "east", DeviceID: device, ModuleID: module, GenerationID: generation, Connected: connected, ConnectionUpdated: updated, LastActive: active}
		}
		generation := device("east", "a").GenerationID
		a, m := of("a", "", generation, true, at(5), at(6)), of("b", "m", generation, true, at(1), time.Time{})
		ok(t, s.SaveActivity(t.Context(), []signet.Activity{a, m, of("b", "", "another", true, at(1), at(1)), of("nobody", "", generation, true, at(1), at(1)), of("a\x00", "", "", true, at(1), at(1))}))
		got, err := s.Activity(t.Context(), "east", "a", "b")
		ok(t, err)
		same(t, got, []signet.Activity{a, m})
		got, err = s.Activity(t.Context(), "west", "a", "b")
		ok(t, err)
		same(t, len(got), 0)

		ok(t, s.SaveActivity(t.Context(), []signet.Activity{of("a", "", generation, false, at(4), at(7))}))
		ok(t, s.NobodyConnected(t.Context(), at(9)))
		got, err = s.Activity(t.Context(), "east", "a", "c")
		ok(t, err)
		same(t, got, []signet.Activity{of("a", "", generation, false, at(5), at(7)), of("b", "m", generation, false, at(9), time.Time{})})
		ok(t, s.DeleteIdentity(t.Context(), "east", "b", "", "*"))
		got, err = s.Activity(t.Context(), "east", "b", "b")
		ok(t, err)
		same(t, len(got), 0)
	})
}

// FuzzFind: whatever can be asked, SQLite answers as the reference does.
func FuzzFind(f *testing.F) {
	for _, question := range questions {
		f.Add(question)
	}
	s, want := twoHubs(f, kinds[0], kinds[0].dsn(f)), reference(f)
	zoo(f, s)
	f.Fuzz(func(t *testing.T, condition string) {
		q, err := query.Parse(`SELECT * FROM devices WHERE ` + condition)
		if err != nil || q.Aggregates() || q.Top > 0 {
			return
		}
		expected, err := want.Find(t.Context(), "east", q, registry.Key{}, 1000)
		ok(t, err)
		got, err := s.Find(t.Context(), "east", q, registry.Key{}, 1000)
		if err != nil {
			t.Fatalf("%s: %v", condition, err)
		}
		if a, b := keysOf(got.Records), keysOf(expected.Records); a != b {
			t.Fatalf("%s:\n%s\nwant\n%s", condition, a, b)
		}
	})
}
