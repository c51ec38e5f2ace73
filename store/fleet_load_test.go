package store_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/signet-iot/signet/bench"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/query"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/server"
	"github.com/signet-iot/signet/store"
	"github.com/signet-iot/signet/wire/mqtt"
)

// TestFleetLoad measures what a hub of as many devices as SIGNET_FLEET_DEVICES says
// (1000000) costs beside one of 10,000: pages of the list and of queries, an
// identity looked up, counts, the start of a server, and a connect. The two take
// turns, so that what else the machine does falls on both, and the figures are
// medians. All of it is read once before, so that it is in the memory of the
// operating system, or of PostgreSQL: no figure is about a disk.
//
// Every device has a twin, an activity, and a sighting of a certificate that has
// expired; site is one of a hundred, batch is of 500 devices whatever the size of
// the hub, and fw is reported by the devices.
//
//	SIGNET_FLEET_DEVICES=1000000 go test ./store -run FleetLoad -v -timeout 60m
func TestFleetLoad(t *testing.T) {
	many, err := strconv.Atoi(os.Getenv("SIGNET_FLEET_DEVICES"))
	if err != nil {
		t.Skip("set SIGNET_FLEET_DEVICES to a number of devices: 1000000")
	}
	const few, rounds = 10_000, 240
	each(t, func(t *testing.T, db database, dsn string) {
		fleet, err := bench.OpenFleet(t.TempDir(), pki.P256, 0, 1)
		ok(t, err)
		small, large := loadHub(t, db, dsn, few, fleet), loadHub(t, db, db.dsn(t), many, fleet)
		compare := func(name, unit string, took [2][]float64) {
			t.Helper()
			slices.Sort(took[0])
			slices.Sort(took[1])
			a, b := took[0][len(took[0])/2], took[1][len(took[1])/2]
			t.Logf("%-62s %8.2f %8.2f %s  %.2f", name, a, b, unit, b/a)
		}
		inTurn := func(name string, rounds int, page func(h *loaded)) {
			t.Helper()
			var took [2][]float64
			for round := range rounds {
				for n, h := range []*loaded{small, large} {
					begun := time.Now()
					page(h)
					if round >= rounds/3 { // the first warm up
						took[n] = append(took[n], time.Since(begun).Seconds()*1e3)
					}
				}
			}
			compare(name, "ms", took)
		}
		// Pages begin anywhere before the last that is full.
		find := func(text string, oneIn int) func(h *loaded) {
			q, err := query.Parse(text)
			ok(t, err)
			return func(h *loaded) {
				var after registry.Key
				if last := h.devices - 101*oneIn; last > 0 {
					after.DeviceID = fleetID(rand.IntN(last))
				}
				page, err := h.store.Find(t.Context(), "east", q, after, 100)
				ok(t, err)
				if h.devices >= few*oneIn/100 {
					same(t, len(page.Records), 100)
				}
			}
		}
		findOne := func(text func(h *loaded) string) func(h *loaded) {
			return func(h *loaded) {
				q, err := query.Parse(text(h))
				ok(t, err)
				page, err := h.store.Find(t.Context(), "east", q, registry.Key{}, 100)
				ok(t, err)
				same(t, len(page.Records), 100)
			}
		}
		small.warm(t)
		large.warm(t)
		store.Forgetful(small.store) // what is measured is the database
		store.Forgetful(large.store)
		for _, c := range []struct {
			name string
			page func(h *loaded)
		}{
			{"100 identities looked up, one by one", func(h *loaded) {
				for range 100 {
					_, err := h.store.Identity(t.Context(), "east", fleetID(rand.IntN(h.devices)), "")
					ok(t, err)
				}
			}},
			{"list, 1000 devices", func(h *loaded) {
				page, err := h.store.Identities(t.Context(), "east", fleetID(rand.IntN(h.devices*8/10)), 1000)
				ok(t, err)
				same(t, len(page), 1000)
			}},
			{"SELECT *, 100 twins, as all below", find(`SELECT * FROM devices`, 1)},
			{"by a tag of 500 devices", findOne(func(h *loaded) string {
				return fmt.Sprintf(`SELECT * FROM devices WHERE tags.line.batch = %d`, rand.IntN(h.devices/500))
			})},
			{"by a tag of one device in 2", find(`SELECT * FROM devices WHERE tags.half = true`, 2)},
			{"by a tag of one in 100", find(`SELECT * FROM devices WHERE tags.site = 'site-42'`, 100)},
			{"by two tags, of one in 2 and of one in 100", find(`SELECT * FROM devices WHERE tags.half = true AND tags.site = 'site-42'`, 100)},
			{"by a tag of one in 20 and what is reported", find(`SELECT * FROM devices WHERE tags.hall = 4 AND properties.reported.fw = '1.1'`, 40)},
			{"status = 'disabled', one in 100", find(`SELECT * FROM devices WHERE status = 'disabled'`, 100)},
			{"STARTSWITH(deviceId, …) of 100", findOne(func(h *loaded) string {
				return fmt.Sprintf(`SELECT * FROM devices WHERE STARTSWITH(deviceId, '%s')`, fleetID(rand.IntN(h.devices))[:len("device-")+4])
			})},
			{"by what is reported, one in 2", find(`SELECT * FROM devices WHERE properties.reported.fw = '1.1'`, 2)},
		} {
			inTurn(c.name, rounds, c.page)
		}
		inTurn("statistics: all devices counted", 12, func(h *loaded) {
			total, _, err := h.store.CountDevices(t.Context(), "east")
			ok(t, err)
			same(t, total, int64(h.devices))
		})
		for _, text := range []string{`SELECT COUNT() FROM devices`, `SELECT COUNT() FROM devices WHERE tags.site = 'site-42'`,
			`SELECT COUNT() FROM devices GROUP BY tags.site`, `SELECT COUNT() FROM devices WHERE properties.reported.fw = '1.1'`} {
			q, err := query.Parse(text)
			ok(t, err)
			begun := time.Now()
			groups, err := large.store.Aggregate(t.Context(), "east", q)
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
					large.store.Aggregate(ctx, "east", q)
				}
				ended <- nil
			}()
		}
		time.Sleep(100 * time.Millisecond)
		var reads, writes []time.Duration
		for n := range 200 {
			begun := time.Now()
			_, err := large.store.Identity(t.Context(), "east", fleetID(rand.IntN(many)), "")
			ok(t, err)
			reads = append(reads, time.Since(begun))
			begun = time.Now()
			ok(t, large.store.CreateIdentity(t.Context(), device("west", fmt.Sprint(n))))
			writes = append(writes, time.Since(begun))
		}
		cancel()
		for range 4 {
			<-ended
		}
		slices.Sort(reads)
		slices.Sort(writes)
		t.Logf("beside four scans without end: a look-up of an identity %v (p99 %v), a write %v (p99 %v)", reads[100], reads[198], writes[100], writes[198])

		for _, h := range []*loaded{small, large} {
			ok(t, h.store.Close())
			h.warm(t)
		}
		inTurn("start of the store", 12, func(h *loaded) {
			s, err := db.open(t.Context(), h.dsn, quiet)
			ok(t, err)
			ok(t, s.Close())
		})
		var started, waited, processor [2][]float64
		for range 25 {
			for n, h := range []*loaded{small, large} {
				begun := time.Now()
				server := hubtest.Start(t, h.config)
				started[n] = append(started[n], time.Since(begun).Seconds()*1e3)
				server.Stop()
			}
		}
		compare("start of the server, until its doors are open", "ms", started)

		// The devices are a process of their own, so that the processor time of this one
		// is the servers'.
		child := helper(t, "devices", fleet.Dir)
		in, err := child.StdinPipe()
		ok(t, err)
		out, err := child.StdoutPipe()
		ok(t, err)
		ok(t, child.Start())
		orders, answers := json.NewEncoder(in), json.NewDecoder(out)
		servers := [2]*hubtest.Hub{hubtest.Start(t, small.config), hubtest.Start(t, large.config)}
		const connects = 400
		for round := range 7 {
			for n, h := range []*loaded{small, large} {
				o := visits{Address: servers[n].MQTTAddr(), CAFile: servers[n].CAFile}
				for len(o.Devices) < connects {
					if d := rand.IntN(h.devices); d%100 != disabled {
						o.Devices = append(o.Devices, fleetID(d))
					}
				}
				before := processorTime()
				ok(t, orders.Encode(o))
				var took []float64
				ok(t, answers.Decode(&took))
				same(t, len(took), connects)
				time.Sleep(writtenBehind)
				if round > 0 { // the first warms up
					waited[n] = append(waited[n], took...)
					processor[n] = append(processor[n], (processorTime()-before).Seconds()*1e6/connects)
				}
			}
		}
		compare("connect of a device, as it waits for it", "ms", waited)
		compare("connect of a device, processor time of Signet", "µs", processor)
		ok(t, in.Close())
		ok(t, child.Wait())
	})
}

func fleetID(n int) string { return fmt.Sprintf("device-%06d", n) }

// disabled is, of a hundred devices, the one that is.
const disabled = 7

// writtenBehind is when all is on disk that a connect leaves to be written.
const writtenBehind = 2500 * time.Millisecond

// loaded is a hub "east" with devices, in a database of its own.
type loaded struct {
	devices int
	dsn     string
	file    string // the same, of SQLite
	store   *store.Store
	config  func(*server.Config) // of a server on that database
}

// loadHub has a server make the hub and trust the fleet's CA, and adds the devices.
func loadHub(t *testing.T, db database, dsn string, devices int, fleet *bench.Fleet) *loaded {
	t.Helper()
	begun, data := time.Now(), t.TempDir()
	h := &loaded{devices: devices, dsn: dsn}
	if db.name == "SQLite" {
		h.file = filepath.Join(data, "signet.db")
		h.dsn = h.file
	}
	h.config = func(c *server.Config) {
		c.Data, c.Hub, c.Admin, c.Logger = data, "east", "off", quiet.Logger
		if db.name != "SQLite" {
			c.Database = dsn
		}
	}
	root, err := os.ReadFile(fleet.RootFile())
	ok(t, err)
	first := hubtest.Start(t, h.config)
	_, _, err = first.Authority().Register(t.Context(), "east", "fleet", string(root), true, "")
	ok(t, err)
	first.Stop()

	s := db.mustOpen(t, h.dsn)
	ok(t, s.CreateHub(t.Context(), hub("west")))
	ok(t, s.Close())
	if db.name == "PostgreSQL" {
		raw := openSQL(t, db.driver, dsn)
		fillFleet(t, raw, devices)
		_, err := raw.Exec(`VACUUM ANALYZE`) // as autovacuum does within the minute
		ok(t, err)
	} else {
		raw := openSQL(t, db.driver, sqliteURL(h.file)+"?_pragma=synchronous(OFF)&_pragma=cache_size(-262144)")
		fillFleet(t, raw, devices)
		ok(t, raw.Close())
	}
	h.store = db.mustOpen(t, h.dsn)
	t.Logf("%d devices made in %v", devices, time.Since(begun).Round(time.Second))
	return h
}

// warm reads a SQLite file from its beginning to its end: making it takes minutes,
// after which the operating system may have let go of some. PostgreSQL has
// shared_buffers for all of it.
func (h *loaded) warm(t *testing.T) {
	t.Helper()
	if h.file == "" {
		return
	}
	f, err := os.Open(h.file)
	ok(t, err)
	defer f.Close()
	_, err = io.Copy(io.Discard, f)
	ok(t, err)
}

// visits is what the process with the devices is told: who connects to a server,
// one after the other.
type visits struct {
	Address, CAFile string
	Devices         []string
}

// connectDevices is that process. Each device has a key and a certificate of its
// own, two intermediates below the CA, and makes a full handshake; the answer is
// how long each waited from its first packet to the CONNACK, in milliseconds.
func connectDevices() {
	fleet, err := bench.OpenFleet(os.Getenv("SIGNET_STORE_DIR"), pki.P256, 0, 1)
	check(err)
	line, err := fleet.Issuer("line")
	check(err)
	orders, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o visits
		if orders.Decode(&o) != nil {
			return // no more
		}
		ca, err := os.ReadFile(o.CAFile)
		check(err)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		var took []float64
		for _, id := range o.Devices {
			key, err := pki.GenerateKey(pki.P256)
			check(err)
			chain, err := line.Device(id, key.Public(), time.Now(), 1)
			check(err)
			pair := tls.Certificate{PrivateKey: key}
			for _, c := range chain {
				pair.Certificate = append(pair.Certificate, c.Raw)
			}
			begun := time.Now()
			c, err := tls.Dial("tcp", o.Address, &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{pair},
				CurvePreferences: []tls.CurveID{tls.X25519}})
			check(err)
			_, err = c.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, KeepAlive: 60, ClientID: id,
				HasUsername: true, Username: "localhost/" + id + "/?api-version=2021-04-12"}))
			check(err)
			answer, err := mqtt.NewClientReader(c, 1<<16).Next()
			check(err)
			if ack, ok := answer.(*mqtt.Connack); !ok || ack.Code != mqtt.ConnAccepted {
				check(fmt.Errorf("%s is not let in: %+v", id, answer))
			}
			took = append(took, time.Since(begun).Seconds()*1e3)
			_, err = c.Write(mqtt.AppendDisconnect(nil))
			check(errors.Join(err, c.Close()))
		}
		check(answers.Encode(took))
	}
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fillFleet makes devices, their twins, and what connects have left, by SQL that goes
// past the store, as it would have them.
func fillFleet(t testing.TB, raw *sql.DB, devices int) {
	add := func(statement string, args ...any) {
		t.Helper()
		_, err := raw.Exec(statement, args...)
		ok(t, err)
	}
	// printf and lpad differ, so that the digits are cut out.
	series := func(from, many int) string {
		return fmt.Sprintf(`WITH RECURSIVE series (n) AS (SELECT %d UNION ALL SELECT n + 1 FROM series WHERE n < %d),
			devices AS (SELECT n, 'device-' || substr(CAST(1000000 + n AS TEXT), 2) AS id FROM series) `, from, min(from+many, devices)-1)
	}
	const batch = 50_000
	for from := 0; from < devices; from += batch {
		with := series(from, batch)
		add(`INSERT INTO identity (hub, device_id, module_id, generation_id, etag, status, status_reason, status_updated, created,
			auth_type, primary_key, secondary_key, primary_thumbprint, secondary_thumbprint, edge_device) ` + with + `SELECT 'east', id, '', '1', 'e1',
			CASE WHEN n % 100 = ` + strconv.Itoa(disabled) + ` THEN 'disabled' ELSE 'enabled' END, '', 0, 0, 'certificateAuthority', '', '', '', '', 0 FROM devices`)
		add(`INSERT INTO twin (hub, device_id, module_id, version, etag, tags, desired, desired_metadata, desired_version, reported,
			reported_metadata, reported_version) ` + with + `SELECT 'east', id, '', 4, 't1',
			'{"hall":' || CAST(n % 20 AS TEXT) || ',"half":' || CASE WHEN n % 2 = 0 THEN 'true' ELSE 'false' END || ',"line":{"batch":' || CAST(n / 500 AS TEXT) || '},"site":"site-' || CAST(n % 100 AS TEXT) || '"}',
			'{"rate":30}', '{"$lastUpdated":"2026-11-23T12:00:00.0000000Z","$lastUpdatedVersion":2,"rate":{"$lastUpdated":"2026-11-23T12:00:00.0000000Z","$lastUpdatedVersion":2}}', 2,
			'{"fw":"1.' || CAST(n / 20 % 2 AS TEXT) || '","battery":' || CAST(n % 101 AS TEXT) || '}',
			'{"$lastUpdated":"2026-11-23T12:00:00.0000000Z","battery":{"$lastUpdated":"2026-11-23T12:00:00.0000000Z"},"fw":{"$lastUpdated":"2026-11-23T12:00:00.0000000Z"}}', 3 FROM devices`)
		for _, tag := range []string{`'site', 'ssite-' || CAST(n % 100 AS TEXT)`, `'line.batch', 'n' || CAST(n / 500 AS TEXT)`, `'hall', 'n' || CAST(n % 20 AS TEXT)`, `'half', CASE WHEN n % 2 = 0 THEN 'btrue' ELSE 'bfalse' END`} {
			add(`INSERT INTO twin_tag (hub, path, value, device_id, module_id) ` + with + `SELECT 'east', ` + tag + `, id, '' FROM devices`)
		}
		add(`INSERT INTO activity (hub, device_id, module_id, connected, connection_updated, last_active) ` + with + `SELECT 'east', id, '', 0, 1, 1 FROM devices`)
	}
	// What is a hash is as spread as one.
	spread := func(prime string) string {
		return `'` + prime + `-' || CAST(n * CAST(` + prime + ` AS BIGINT) % 4294967296 AS TEXT) || '-0123456789abcdef0123456789abcdef'`
	}
	for from := 0; from < devices; from += batch {
		add(`INSERT INTO sighting (hub, device_id, module_id, branch, thumbprint, key, issued, serial, key_type, not_before, not_after, first_seen,
			last_seen, since, previous, early, subject, signature, tls, remote, der) `+series(from, batch)+`SELECT 'east', id, '', NULL, `+spread("2654435761")+`, `+
			spread("2246822519")+`, `+spread("3266489917")+`, '01', 'ECDSA P-256', 1, 2, 1, 1, 1, '', 0, '', '', '', '', $1 FROM devices`, make([]byte, 400))
	}
}
