package hub_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

const day = 24 * time.Hour

func ends(at time.Time) hubtest.Option { return func(c *x509.Certificate) { c.NotAfter = at } }

// TestAtExpiry: a session ends with the first of its certificates when its hub
// says so, and at once when it should have ended already.
func TestAtExpiry(t *testing.T) {
	h := newHouse(t)
	start := h.now.Truncate(time.Second)
	root := hubtest.NewCA(t, "Root", ends(start.Add(100*day)))
	line := root.Intermediate(t, "Line", ends(start.Add(2*time.Hour)))
	h.trust("first", root)
	for _, id := range []string{"short", "long", "later"} {
		h.device(signet.Identity{DeviceID: id, Auth: byCA})
	}
	var woken atomic.Int32
	connect := func(id string, until time.Duration) *hub.Session {
		t.Helper()
		door := make(chan *hub.Session, 1)
		s, err := h.hub.Connect(t.Context(), hub.Credentials{Host: "first.test", DeviceID: id, Chain: presented(t, line.Device(t, id, ends(start.Add(until))))}, func() {
			woken.Add(1)
			go func() {
				if s := <-door; s.Ended() != nil {
					s.Close()
				} else {
					door <- s
				}
			}()
		})
		if err != nil {
			t.Fatal(err)
		}
		door <- s
		return s
	}
	short, long := connect("short", time.Hour), connect("long", 50*day)
	h.now = start.Add(90 * time.Minute)
	if !short.Expires().IsZero() || short.Ended() != nil {
		t.Fatalf("kept as Azure does, but until %v: %v", short.Expires(), short.Ended())
	}

	ctx, receipts := signet.WithReceipts(t.Context())
	tenant, err := h.registry.SetAtExpiry(ctx, "first", signet.EndAtExpiry)
	if err != nil || tenant.AtExpiry != signet.EndAtExpiry {
		t.Fatalf("%+v %v", tenant, err)
	}
	if code := signet.CodeOf(short.Ended()); code != signet.SessionCertificateExpired {
		t.Errorf("what is past ended with %q", code)
	}
	if n := woken.Load(); n != 2 {
		t.Errorf("%d doors are woken: of what ended, and of what ends sooner", n)
	}
	if total, _ := receipts.Total(); total.Sessions != 1 {
		t.Errorf("the receipt: %+v", total)
	}
	// The line ends before the device; its last second counts.
	if end := start.Add(2*time.Hour + time.Second); !long.Expires().Equal(end) || long.Ended() != nil {
		t.Errorf("what lives ends at %v, not %v: %v", long.Expires(), end, long.Ended())
	}
	later := connect("later", 100*time.Minute)
	if end := start.Add(100*time.Minute + time.Second); !later.Expires().Equal(end) {
		t.Errorf("what is new ends at %v, not %v", later.Expires(), end)
	}

	// Another hub is not concerned; a loosened policy lets go of nobody who began
	// under it, and ends nobody new.
	if other, _ := h.registry.HubByName("second"); other.AtExpiry != signet.KeepAtExpiry {
		t.Errorf("the other hub: %q", other.AtExpiry)
	}
	if _, err := h.registry.SetAtExpiry(t.Context(), "first", signet.KeepAtExpiry); err != nil {
		t.Fatal(err)
	}
	if later.Expires().IsZero() {
		t.Error("the end of a live session was taken back")
	}
	if s := connect("short", 2*time.Hour); !s.Expires().IsZero() {
		t.Errorf("after that a new session ends at %v", s.Expires())
	}
}

// TestAtExpiryByThumbprint: a certificate that is known by thumbprint has a path
// of one.
func TestAtExpiryByThumbprint(t *testing.T) {
	h := newHouse(t)
	pair := hubtest.NewCA(t, "Nobody's").Device(t, "d", ends(h.now.Add(time.Hour)))
	h.device(signet.Identity{DeviceID: "d", Auth: signet.Authentication{Type: signet.AuthSelfSigned, PrimaryThumbprint: hex.EncodeToString(sha256Of(pair.Certificate[0]))}})
	if _, err := h.registry.SetAtExpiry(t.Context(), "first", signet.EndAtExpiry); err != nil {
		t.Fatal(err)
	}
	s, err := h.connect(hub.Credentials{DeviceID: "d", Chain: presented(t, pair)})
	if err != nil || !s.Expires().Equal(pair.Leaf.NotAfter.Add(time.Second)) {
		t.Errorf("%v %v", s, err)
	}
}

// TestExpiring: what ends within a time, by kind, the soonest first; and what is
// warned of, once a day.
func TestExpiring(t *testing.T) {
	h := newHouse(t)
	start := h.now.Truncate(time.Second)
	root, old := hubtest.NewCA(t, "Root", ends(start.Add(80*day))), hubtest.NewCA(t, "Old Root", ends(start.Add(20*day)))
	line := root.Intermediate(t, "Line", ends(start.Add(25*day)))
	h.trust("first", root)
	h.trust("first", old)
	for _, d := range []struct {
		id    string
		until time.Duration
	}{{"b", 6 * day}, {"a", 5 * day}, {"c", 60 * day}, {"d", 200 * day}} {
		h.device(signet.Identity{DeviceID: d.id, Auth: byCA})
		if _, err := h.connect(hub.Credentials{DeviceID: d.id, Chain: presented(t, line.Device(t, d.id, ends(start.Add(d.until))))}); err != nil {
			t.Fatal(err)
		}
	}
	list := func(within time.Duration) string {
		t.Helper()
		es, err := h.hub.Expiring(t.Context(), "FIRST", within)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, e := range es {
			if len(e.Thumbprint) != 64 {
				t.Errorf("%+v", e)
			}
			text, _ := json.Marshal([]any{e.Kind, e.Name, e.Subject, int(e.NotAfter.Sub(start) / day), e.Sessions, e.Devices})
			lines = append(lines, string(text))
		}
		return strings.Join(lines, "\n")
	}
	for within, want := range map[time.Duration]string{
		0:       ``,
		7 * day: `["devices","","CN=Line",5,2,["a","b"]]`,
		30 * day: `["devices","","CN=Line",5,2,["a","b"]]
["ca","Old-Root","CN=Old Root",20,0,null]
["intermediate","","CN=Line",25,4,null]`,
		90 * day: `["devices","","CN=Line",5,3,["a","b","c"]]
["ca","Old-Root","CN=Old Root",20,0,null]
["intermediate","","CN=Line",25,4,null]
["ca","Root","CN=Root",80,4,null]`,
	} {
		if got := list(within); got != want {
			t.Errorf("within %v:\n%s\nwant\n%s", within, got, want)
		}
	}
	if _, err := h.hub.Expiring(t.Context(), "third", day); signet.CodeOf(err) != signet.HubUnknown {
		t.Errorf("a hub that is not there: %v", err)
	}

	var log bytes.Buffer
	metrics := prometheus.NewRegistry()
	watch := hub.NewExpiryWatch(h.hub, hub.ExpiryWarnings{Logger: slog.New(slog.NewTextHandler(&log, nil)), Events: true, Registerer: metrics})
	look := func(want string) {
		t.Helper()
		log.Reset()
		h.messages.mu.Lock()
		h.messages.kept = nil
		h.messages.mu.Unlock()
		watch.Look(context.Background())
		var told []string
		for _, m := range h.messages.kept {
			var e signet.Expiring
			if err := json.Unmarshal(m.Body, &e); err != nil || m.Hub != "first" || m.Source != signet.SourceExpiry || m.DeviceID != "" {
				t.Errorf("the event %+v: %v", m, err)
			}
			told = append(told, string(e.Kind)+" "+m.Properties[2].Value)
		}
		if got := strings.Join(told, ", "); got != want || strings.Count(log.String(), "certificates expire") != len(told) {
			t.Errorf("told of %q, not %q; the log:\n%s", got, want, &log)
		}
	}
	look("devices 7d, ca 30d, intermediate 30d, ca 90d")
	h.now = h.now.Add(23 * time.Hour)
	look("")
	h.now = start.Add(day + time.Minute)
	look("devices 7d, ca 30d, intermediate 30d, ca 90d")
	h.now = start.Add(14 * day) // the old root comes within a week; the devices are past
	look("devices 7d, ca 7d, intermediate 30d, ca 90d")
	if got, want := gauges(t, metrics, "first"), "ca 30d 1, ca 7d 1, ca 90d 2, devices 30d 2, devices 7d 2, devices 90d 3, intermediate 30d 1, intermediate 7d 0, intermediate 90d 1"; got != want {
		t.Errorf("gauges: %s\nwant    %s", got, want)
	}
	if gauges(t, metrics, "second") == "" {
		t.Error("no gauges of the other hub")
	}
	if err := h.registry.DeleteHub(t.Context(), "second"); err != nil {
		t.Fatal(err)
	}
	watch.Look(context.Background())
	if got := gauges(t, metrics, "second"); got != "" {
		t.Errorf("gauges of a hub that is gone: %s", got)
	}

	// Switched off, it says nothing and does no harm.
	quiet := hub.NewExpiryWatch(h.hub, hub.ExpiryWarnings{})
	h.messages.kept = nil
	quiet.Look(context.Background())
	if len(h.messages.kept) != 0 {
		t.Errorf("%d events", len(h.messages.kept))
	}
}

// TestExpiringService: a provisioning service is warned of its CAs.
func TestExpiringService(t *testing.T) {
	h := newHouse(t)
	if _, err := h.registry.CreateService(t.Context(), "dps", "dps.test"); err != nil {
		t.Fatal(err)
	}
	h.trust("dps", hubtest.NewCA(t, "Root", ends(h.now.Add(20*day))))
	var log bytes.Buffer
	hub.NewExpiryWatch(h.hub, hub.ExpiryWarnings{Logger: slog.New(slog.NewTextHandler(&log, nil))}).Look(context.Background())
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "hub=dps") || !strings.Contains(got, "CN=Root") {
		t.Errorf("the log: %s", got)
	}
}

// TestExpiryWarningsAreBounded: a fleet of many lines does not fill its own log,
// however often it is looked at.
func TestExpiryWarningsAreBounded(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Root", ends(h.now.Add(200*day)))
	h.trust("first", root)
	for n := range 103 {
		id := fmt.Sprint("d", n)
		h.device(signet.Identity{DeviceID: id, Auth: byCA})
		line := root.Intermediate(t, "Line of "+id, ends(h.now.Add(10*day+time.Duration(n)*time.Hour)))
		if _, err := h.connect(hub.Credentials{DeviceID: id, Chain: presented(t, line.Device(t, id, ends(h.now.Add(100*day))))}); err != nil {
			t.Fatal(err)
		}
	}
	watch := hub.NewExpiryWatch(h.hub, hub.ExpiryWarnings{Events: true})
	for range 3 {
		watch.Look(context.Background())
		h.now = h.now.Add(time.Hour)
	}
	if n := len(h.messages.kept); n != 100 {
		t.Errorf("%d warnings in a day", n)
	}
	for _, m := range h.messages.kept {
		if strings.Contains(string(m.Body), "Line of d102") {
			t.Error("what ends last was told, and not what ends first")
		}
	}
}

// gauges writes those of a hub, without the labels' names.
func gauges(t *testing.T, metrics *prometheus.Registry, hub string) string {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			of := map[string]string{}
			for _, l := range m.GetLabel() {
				of[l.GetName()] = l.GetValue()
			}
			if of["hub"] == hub {
				all = append(all, fmt.Sprint(of["kind"], " ", of["within"], " ", m.GetGauge().GetValue()))
			}
		}
	}
	return strings.Join(all, ", ")
}
