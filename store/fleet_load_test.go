package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/signet-iot/signet/query"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/store"
)

// TestFleetLoad measures a page of the list, and of queries, in a hub of as many
// devices as SIGNET_FLEET_DEVICES says (1000000), beside one of 10,000: in turn, so
// that what else the machine does falls on both. Every device has a twin; site is
// one of a hundred, batch is of 500 devices whatever the size of the hub, and fw is
// reported by the devices.
//
//	SIGNET_FLEET_DEVICES=1000000 go test ./store -run FleetLoad -v -timeout 30m
func TestFleetLoad(t *testing.T) {
	many, err := strconv.Atoi(os.Getenv("SIGNET_FLEET_DEVICES"))
	if err != nil {
		t.Skip("set SIGNET_FLEET_DEVICES to a number of devices: 1000000")
	}
	const few, rounds = 10_000, 30
	each(t, func(t *testing.T, db database, dsn string) {
		dsns := []string{dsn, db.dsn(t)}
		small, large := twoHubs(t, db, dsns[0]), twoHubs(t, db, dsns[1])
		begun := time.Now()
		fillFleet(t, small, few)
		fillFleet(t, large, many)
		for _, dsn := range dsns {
			if db.name == "PostgreSQL" { // as autovacuum does within the minute
				_, err := openSQL(t, db.driver, dsn).Exec(`VACUUM ANALYZE`)
				ok(t, err)
			}
		}
		t.Logf("%d devices made in %v", few+many, time.Since(begun).Round(time.Second))
		// Pages begin anywhere before the last that is full.
		find := func(text string, oneIn int) func(s *store.Store, devices int) int {
			q, err := query.Parse(text)
			ok(t, err)
			return func(s *store.Store, devices int) int {
				var after registry.Key
				if last := devices - 101*oneIn; last > 0 {
					after.DeviceID = fleetID(rand.IntN(last))
				}
				page, err := s.Find(t.Context(), "east", q, after, 100)
				ok(t, err)
				return len(page.Records)
			}
		}
		for _, c := range []struct {
			name string
			page func(s *store.Store, devices int) int
		}{
			{"list, 1000 a page", func(s *store.Store, devices int) int {
				page, err := s.Identities(t.Context(), "east", fleetID(rand.IntN(devices*8/10)), 1000)
				ok(t, err)
				return len(page)
			}},
			{"SELECT *", find(`SELECT * FROM devices`, 1)},
			{"by a tag of 1 in 100", find(`SELECT * FROM devices WHERE tags.site = 'site-42'`, 100)},
			{"by a tag of 1 in 20 and what is reported", find(`SELECT * FROM devices WHERE tags.hall = 4 AND properties.reported.fw = '1.1'`, 40)},
			{"by a tag of 1 in 2", find(`SELECT * FROM devices WHERE tags.half = true`, 2)},
			{"by two tags", find(`SELECT * FROM devices WHERE tags.half = true AND tags.site = 'site-42'`, 100)},
			{"by a tag of 500 devices", func(s *store.Store, devices int) int {
				q, err := query.Parse(fmt.Sprintf(`SELECT * FROM devices WHERE tags.line.batch = %d`, rand.IntN(devices/500)))
				ok(t, err)
				page, err := s.Find(t.Context(), "east", q, registry.Key{}, 100)
				ok(t, err)
				return len(page.Records)
			}},
			{"disabled, 1 in 100", find(`SELECT * FROM devices WHERE status = 'disabled'`, 100)},
			{"STARTSWITH of 100 IDs", func(s *store.Store, devices int) int {
				q, err := query.Parse(fmt.Sprintf(`SELECT * FROM devices WHERE STARTSWITH(deviceId, '%s')`, fleetID(rand.IntN(devices))[:9]))
				ok(t, err)
				page, err := s.Find(t.Context(), "east", q, registry.Key{}, 100)
				ok(t, err)
				return len(page.Records)
			}},
			{"by what is reported, 1 in 2", find(`SELECT * FROM devices WHERE properties.reported.fw = '1.1'`, 2)},
		} {
			var took [2][]time.Duration
			var found [2]int
			for round := range rounds {
				for n, s := range []*store.Store{small, large} {
					begun := time.Now()
					found[n] += c.page(s, []int{few, many}[n])
					if round >= rounds/6 { // the first warm up
						took[n] = append(took[n], time.Since(begun))
					}
				}
			}
			for n := range took {
				slices.Sort(took[n])
			}
			a, b := took[0][len(took[0])/2], took[1][len(took[1])/2]
			t.Logf("%-45s %8.2f ms %8.2f ms  %.2f   (%d and %d a page)", c.name, a.Seconds()*1e3, b.Seconds()*1e3, b.Seconds()/a.Seconds(), found[0]/rounds, found[1]/rounds)
		}
		for _, text := range []string{`SELECT COUNT() FROM devices`, `SELECT COUNT() FROM devices WHERE tags.site = 'site-42'`,
			`SELECT COUNT() FROM devices GROUP BY tags.site`, `SELECT COUNT() FROM devices WHERE properties.reported.fw = '1.1'`} {
			q, err := query.Parse(text)
			ok(t, err)
			begun := time.Now()
			groups, err := large.Aggregate(t.Context(), "east", q)
			ok(t, err)
			t.Logf("%-70s %8.2f s  (%d groups)", text, time.Since(begun).Seconds(), len(groups))
		}
		// What a connect asks, while scans of the whole hub go on.
		ctx, cancel := context.WithCancel(t.Context())
		q, err := query.Parse(`SELECT COUNT() FROM devices WHERE properties.reported.fw = 'none'`)
		ok(t, err)
		ended := make(chan error, 4)
		for range 4 {
			go func() {
				for ctx.Err() == nil {
					large.Aggregate(ctx, "east", q)
				}
				ended <- nil
			}()
		}
		time.Sleep(100 * time.Millisecond)
		var reads, writes []time.Duration
		for n := range 200 {
			begun := time.Now()
			_, err := large.Identity(t.Context(), "east", fleetID(rand.IntN(many)), "")
			ok(t, err)
			reads = append(reads, time.Since(begun))
			begun = time.Now()
			ok(t, large.CreateIdentity(t.Context(), device("west", fmt.Sprint(n))))
			writes = append(writes, time.Since(begun))
		}
		cancel()
		for range 4 {
			<-ended
		}
		slices.Sort(reads)
		slices.Sort(writes)
		t.Logf("beside four scans without end: a look-up of an identity %v (p99 %v), a write %v (p99 %v)", reads[100], reads[198], writes[100], writes[198])
	})
}

func fleetID(n int) string { return fmt.Sprintf("device-%06d", n) }

// fillFleet makes devices and their twins by SQL, as the store would have them.
func fillFleet(t testing.TB, s *store.Store, devices int) {
	const batch = 50_000
	for from := 0; from < devices; from += batch {
		ok(t, store.Change(t.Context(), s, func(exec func(query string, args ...any) error) error {
			// n runs from $1 to $2; printf and lpad differ, so that the digits are cut out.
			with := fmt.Sprintf(`WITH RECURSIVE series (n) AS (SELECT %d UNION ALL SELECT n + 1 FROM series WHERE n < %d),
				devices AS (SELECT n, 'device-' || substr(CAST(1000000 + n AS TEXT), 2) AS id FROM series) `, from, min(from+batch, devices)-1)
			if err := exec(`INSERT INTO identity (hub, device_id, module_id, generation_id, etag, status, status_reason, status_updated, created,
				auth_type, primary_key, secondary_key, primary_thumbprint, secondary_thumbprint, edge_device) ` + with + `SELECT 'east', id, '', '1', 'e1',
				CASE WHEN n % 100 = 7 THEN 'disabled' ELSE 'enabled' END, '', 0, 0, 'certificateAuthority', '', '', '', '', 0 FROM devices`); err != nil {
				return err
			}
			if err := exec(`INSERT INTO twin (hub, device_id, module_id, version, etag, tags, desired, desired_metadata, desired_version, reported,
				reported_metadata, reported_version) ` + with + `SELECT 'east', id, '', 4, 't1',
				'{"hall":' || CAST(n % 20 AS TEXT) || ',"half":' || CASE WHEN n % 2 = 0 THEN 'true' ELSE 'false' END || ',"line":{"batch":' || CAST(n / 500 AS TEXT) || '},"site":"site-' || CAST(n % 100 AS TEXT) || '"}',
				'{"rate":30}', '{"$lastUpdated":"2026-11-23T12:00:00.0000000Z","$lastUpdatedVersion":2,"rate":{"$lastUpdated":"2026-11-23T12:00:00.0000000Z","$lastUpdatedVersion":2}}', 2,
				'{"fw":"1.' || CAST(n / 20 % 2 AS TEXT) || '","battery":' || CAST(n % 101 AS TEXT) || '}',
				'{"$lastUpdated":"2026-11-23T12:00:00.0000000Z","battery":{"$lastUpdated":"2026-11-23T12:00:00.0000000Z"},"fw":{"$lastUpdated":"2026-11-23T12:00:00.0000000Z"}}', 3 FROM devices`); err != nil {
				return err
			}
			for _, tag := range []string{`'site', 'ssite-' || CAST(n % 100 AS TEXT)`, `'line.batch', 'n' || CAST(n / 500 AS TEXT)`, `'hall', 'n' || CAST(n % 20 AS TEXT)`, `'half', CASE WHEN n % 2 = 0 THEN 'btrue' ELSE 'bfalse' END`} {
				if err := exec(`INSERT INTO twin_tag (hub, path, value, device_id, module_id) ` + with + `SELECT 'east', ` + tag + `, id, '' FROM devices`); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}
