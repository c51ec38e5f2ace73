package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
	"github.com/signet-iot/signet/wire/mqtt"
)

const tenant = "hub"

// TestHouse is one thin path through the whole house: a device two intermediates
// below a registered root, telemetry on disk, a restart, and it is still there.
func TestHouse(t *testing.T) {
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	pair := root.Intermediate(t, "Factory").Intermediate(t, "Line").Device(t, "press-17")
	h.Trust(t, tenant, root)
	h.CADevice(t, tenant, "press-17")

	d := h.Dial(t, h.ClientTLS(pair))
	if code := d.Connect(t, "localhost", "press-17"); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	d.Publish(t, "press-17", "hello")
	h.Stop()
	d.WaitClosed(t)

	again := hubtest.Start(t, func(c *server.Config) { c.Data = h.Config.Data })
	var bodies []string
	err := again.Hub().Read(t.Context(), tenant, hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
		bodies = append(bodies, string(m.Body))
		return true
	})
	if err != nil || len(bodies) != 1 || bodies[0] != "hello" {
		t.Errorf("%q %v", bodies, err)
	}
	if code := again.Dial(t, again.ClientTLS(pair)).Connect(t, "localhost", "press-17"); code != 0 {
		t.Errorf("CONNACK %d after the restart", code)
	}
}

// TestRefusedStarts: a start that cannot be says why, in a line, and changes
// nothing.
func TestRefusedStarts(t *testing.T) {
	h := hubtest.Start(t)
	for name, c := range map[string]struct {
		change func(*server.Config)
		says   string
	}{
		"the folder is in use":    {func(*server.Config) {}, "in use"},
		"another host name":       {func(c *server.Config) { h.Stop(); c.HostName = "other.test" }, "has the host name localhost"},
		"a key without its cert":  {func(c *server.Config) { c.TLSKey = "x" }, "given together"},
		"an unbounded retention":  {func(c *server.Config) { c.RetentionBytes = 0 }, "bounded"},
		"a certificate not there": {func(c *server.Config) { c.Data, c.TLSKey, c.TLSCert = t.TempDir(), "x", "y" }, "server certificate"},
		"a port that is taken": {func(c *server.Config) {
			c.Data, c.MQTT = t.TempDir(), "127.0.0.1:1"
			other := hubtest.Start(t)
			c.MQTT = other.MQTTAddr()
		}, "address already in use"},
	} {
		if name == "another host name" {
			continue // last: it stops the server that the others need
		}
		refusedStart(t, name, h.Config, c.change, c.says)
	}
	// What no hub can be called spoils no folder: the right name is good for it.
	folder := t.TempDir()
	for name, change := range map[string]func(*server.Config){
		"no DNS name":            func(c *server.Config) { c.HostName = "my hub" },
		"no name of the audit's": func(c *server.Config) { c.HostName = "my+hub" },
		"no name of a hub":       func(c *server.Config) { c.Hub = "my hub" },
		"no name of a service":   func(c *server.Config) { c.Provisioning = "d" },
	} {
		refusedStart(t, name, h.Config, func(c *server.Config) { c.Data = folder; change(c) }, "hub.malformed")
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	refusedStart(t, "another host name", h.Config, func(c *server.Config) { h.Stop(); c.HostName = "other.test" }, "has the host name localhost")
}

func refusedStart(t *testing.T, name string, cfg server.Config, change func(*server.Config), says string) {
	t.Helper()
	cfg.MQTT, cfg.HTTPS, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0", "off"
	change(&cfg)
	s, err := server.Start(t.Context(), cfg)
	if err == nil {
		s.Close(context.Background())
		t.Errorf("%s: started", name)
	} else if !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %q does not say %q", name, err, says)
	}
}

// TestReload: a new server certificate counts without a restart, and rubbish in
// its place does not.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(ca *hubtest.CA) {
		os.WriteFile(key, []byte(hubtest.KeyPEM(t, ca.Key)), 0o600)
		os.WriteFile(cert, []byte(hubtest.PEM(ca.Cert.Raw)), 0o600)
	}
	first, second := hubtest.NewCA(t, "first"), hubtest.NewCA(t, "second")
	write(first)
	var ahead atomic.Int64
	data := t.TempDir()
	os.WriteFile(filepath.Join(data, "server-ca.pem"), nil, 0o600) // for hubtest; not used here
	h := hubtest.Start(t, func(c *server.Config) {
		c.Data, c.TLSCert, c.TLSKey = data, cert, key
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	served := func() string {
		d := h.Dial(t, &tls.Config{InsecureSkipVerify: true}) // what is served is what is asked
		defer d.Close()
		return d.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	live := h.Dial(t, &tls.Config{InsecureSkipVerify: true})
	if got := served(); got != "first" {
		t.Fatal(got)
	}
	write(second)
	ahead.Add(int64(5 * time.Second))
	if got := served(); got != "second" {
		t.Errorf("the new certificate is not served, but %q", got)
	}
	os.WriteFile(cert, []byte("rubbish"), 0o600)
	ahead.Add(int64(5 * time.Second))
	if got := served(); got != "second" {
		t.Errorf("rubbish put %q in its place", got)
	}
	if code := live.Connect(t, "localhost", "nobody"); code != mqtt.ConnRefusedNotAuthorized {
		t.Errorf("a connection from before the reload: CONNACK %d", code)
	}
}

// TestRenewal: a certificate of the server's own is renewed in use, before its
// end, by the CA that devices trust already.
func TestRenewal(t *testing.T) {
	var ahead atomic.Int64
	h := hubtest.Start(t, func(c *server.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	served := func() time.Time {
		conf := h.ClientTLS()
		conf.Time = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		d := h.Dial(t, conf)
		defer d.Close()
		return d.ConnectionState().PeerCertificates[0].NotAfter
	}
	first := served()
	ahead.Store(int64(340 * 24 * time.Hour))
	if renewed := served(); renewed.Sub(first) < 300*24*time.Hour {
		t.Errorf("340 days later the certificate ends at %v, and the first at %v", renewed, first)
	}
}

// TestServerCAAway: without a file of the CA that devices trust the server does not start,
// and makes no other; one that runs keeps the certificate that it has, and says why; with
// the file again all is as it was. What lost the power before it had a CA begins anew.
func TestServerCAAway(t *testing.T) {
	var ahead atomic.Int64
	var log bytes.Buffer
	h := hubtest.Start(t, func(c *server.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	elsewhere := t.TempDir()
	move := func(from, to, name string) {
		t.Helper()
		if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := os.ReadFile(h.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	served := func() time.Time {
		t.Helper()
		conf := h.ClientTLS()
		conf.Time = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		d := h.Dial(t, conf)
		defer d.Close()
		return d.ConnectionState().PeerCertificates[0].NotAfter
	}
	first := served()
	move(h.Config.Data, elsewhere, "server-ca.key")
	ahead.Store(int64(340 * 24 * time.Hour))
	if end := served(); !end.Equal(first) {
		t.Errorf("without the CA's key, a certificate that ends at %v in place of %v", end, first)
	}
	h.Stop()
	if !strings.Contains(log.String(), "could not be renewed") || !strings.Contains(log.String(), "server-ca.key, is not there") {
		t.Errorf("the log says %q", log.String())
	}
	move(elsewhere, h.Config.Data, "server-ca.key")
	cfg := h.Config
	for name, days := range map[string]int64{"server-ca.key": 0, "server-ca.pem": 340} { // before it is needed, and when
		ahead.Store(days * int64(24*time.Hour))
		move(cfg.Data, elsewhere, name)
		refusedStart(t, name+" is away", cfg, func(*server.Config) {}, name+", is not there")
		move(elsewhere, cfg.Data, name)
	}
	again := hubtest.Start(t, func(c *server.Config) { c.Data, c.Now = cfg.Data, cfg.Now })
	if now, err := os.ReadFile(again.CAFile); err != nil || !bytes.Equal(now, ca) {
		t.Errorf("the CA is another, %v", err)
	}

	hubtest.Start(t, func(c *server.Config) {
		if err := os.WriteFile(filepath.Join(c.Data, "server-ca.key"), []byte("of no certificate"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
}

// TestHubsApart: two hubs on one server; what one trusts and knows is worth
// nothing at the other, whatever name the client says.
func TestHubsApart(t *testing.T) {
	h := hubtest.Start(t)
	if _, err := h.Registry().CreateHub(t.Context(), "other", "other.test"); err != nil {
		t.Fatal(err)
	}
	ours, theirs := hubtest.NewCA(t, "Ours"), hubtest.NewCA(t, "Theirs")
	h.Trust(t, tenant, ours)
	h.Trust(t, "other", theirs)
	h.CADevice(t, tenant, "d")
	h.CADevice(t, "other", "d")
	for _, c := range []struct {
		ca   *hubtest.CA
		host string
		want byte
	}{
		{ours, "localhost", 0}, {theirs, "other.test", 0},
		{theirs, "localhost", 5}, {ours, "other.test", 5}, {ours, "nowhere.test", 5},
	} {
		conf := h.ClientTLS(c.ca.Device(t, "d"))
		d := h.Dial(t, conf)
		if code := d.Connect(t, c.host, "d"); code != c.want {
			t.Errorf("%s at %s: CONNACK %d, want %d", c.ca.Cert.Subject, c.host, code, c.want)
		}
		if c.want == 0 {
			d.Publish(t, "d", c.host)
		}
	}
	for name, want := range map[string]string{tenant: "localhost", "other": "other.test"} {
		h.Hub().Read(t.Context(), name, hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
			if string(m.Body) != want || m.Hub != name {
				t.Errorf("%s reads %q of %s", name, m.Body, m.Hub)
			}
			return true
		})
	}
	// The server's own certificate learns the new name.
	conf := h.ClientTLS()
	conf.ServerName = "other.test"
	deadline := time.Now().Add(2 * time.Minute)
	for {
		c, err := tls.Dial("tcp", h.HTTPSAddr(), conf)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(100 * time.Millisecond)
	}

	// Its data goes with a hub, and a hub made anew under the name sees none of it.
	if err := h.Registry().DeleteHub(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Registry().CreateHub(t.Context(), "other", "other.test"); err != nil {
		t.Fatal(err)
	}
	if is, err := h.Registry().List(t.Context(), "other", "", 10); err != nil || len(is) != 0 {
		t.Errorf("%v %v", is, err)
	}
	if cs, err := h.Authority().List(t.Context(), "other"); err != nil || len(cs) != 0 {
		t.Errorf("%v %v", cs, err)
	}
	h.Hub().Read(t.Context(), "other", hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
		t.Errorf("a message of the deleted hub: %q", m.Body)
		return true
	})
	if vs, err := h.Verdicts().List(t.Context(), authority.VerdictQuery{Hub: "other", Limit: 10}); err != nil || len(vs) != 0 {
		t.Errorf("%v %v", vs, err)
	}
	for _, known := range []bool{false, true} {
		if known {
			h.CADevice(t, "other", "d")
		}
		if code := h.Dial(t, h.ClientTLS(theirs.Device(t, "d"))).Connect(t, "other.test", "d"); code != 5 {
			t.Errorf("the deleted hub's device, known here too %v: CONNACK %d", known, code)
		}
	}
}

// TestFirstHubAnew: the owner's connection string is that of the hub there is.
func TestFirstHubAnew(t *testing.T) {
	h := hubtest.Start(t)
	if err := h.Registry().DeleteHub(t.Context(), tenant); err != nil {
		t.Fatal(err)
	}
	h.Stop()
	again := hubtest.Start(t, func(c *server.Config) { c.Data = h.Config.Data })
	made, err := again.Registry().HubByName(tenant)
	if err != nil || made.Policies[0].PrimaryKey != again.Owner.SharedAccessKey {
		t.Errorf("the owner's connection string has another key (%v)", err)
	}
	if again.Token != h.Token {
		t.Error("the admin has another token")
	}
}

// TestResumption: a resumed TLS session is judged as a new one, so that it never
// outlives what it once rested on.
func TestResumption(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.2 ticket": tls.VersionTLS12, "TLS 1.3 PSK": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			h := hubtest.Start(t)
			root := hubtest.NewCA(t, "Root")
			ca := h.Trust(t, tenant, root)
			h.CADevice(t, tenant, "d")
			h.CADevice(t, tenant, "e")
			conf := h.ClientTLS(root.Device(t, "d"))
			conf.MinVersion, conf.MaxVersion = version, version
			conf.ClientSessionCache = tls.NewLRUClientSessionCache(8)
			visit := func(id string) (code byte, resumed bool) {
				d := h.Dial(t, conf)
				defer d.Close()
				return d.Connect(t, "localhost", id), d.ConnectionState().DidResume
			}
			if code, resumed := visit("d"); code != 0 || resumed {
				t.Fatal(code, resumed)
			}
			if code, resumed := visit("d"); code != 0 || !resumed {
				t.Fatalf("the session is not resumed (CONNACK %d): what follows would prove nothing", code)
			}
			if code, resumed := visit("e"); code != 5 || !resumed {
				t.Errorf("another device with this one's ticket: CONNACK %d, resumed %v", code, resumed)
			}
			if err := h.Authority().Delete(t.Context(), tenant, ca.Name, ca.ETag); err != nil {
				t.Fatal(err)
			}
			if code, resumed := visit("d"); code != 5 || !resumed {
				t.Errorf("after the CA is gone: CONNACK %d, resumed %v", code, resumed)
			}
		})
	}
}

// TestTrustGoesBetweenHandshakeAndConnect: what counts is what is trusted when
// the device says who it is.
func TestTrustGoesBetweenHandshakeAndConnect(t *testing.T) {
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	ca := h.Trust(t, tenant, root)
	h.CADevice(t, tenant, "d")
	d := h.Dial(t, h.ClientTLS(root.Device(t, "d")))
	if err := d.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := h.Authority().Delete(t.Context(), tenant, ca.Name, ca.ETag); err != nil {
		t.Fatal(err)
	}
	if code := d.Connect(t, "localhost", "d"); code != 5 {
		t.Errorf("CONNACK %d", code)
	}
}

// TestCut: the socket of a device that lost its right is closed, and the
// refusal that follows is on record.
func TestCut(t *testing.T) {
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	h.Trust(t, tenant, root)
	i := h.CADevice(t, tenant, "d")
	conf := h.ClientTLS(root.Device(t, "d"))
	d := h.Dial(t, conf)
	if code := d.Connect(t, "localhost", "d"); code != 0 {
		t.Fatal(code)
	}
	i.Status = signet.Disabled
	if _, err := h.Registry().Replace(t.Context(), i, i.ETag); err != nil {
		t.Fatal(err)
	}
	d.WaitClosed(t)
	if code := h.Dial(t, conf).Connect(t, "localhost", "d"); code != 5 {
		t.Errorf("CONNACK %d", code)
	}
	vs, err := h.Verdicts().List(t.Context(), authority.VerdictQuery{Hub: tenant, DeviceID: "d", Limit: 5})
	if err != nil || len(vs) != 1 || vs[0].Code != signet.IdentityDisabled || vs[0].Remote != "127.0.0.1" || len(vs[0].Chain) != 1 {
		t.Errorf("%+v %v", vs, err)
	}
}

// TestCallerGoes: whoever asked for a change may go at any moment; what is in
// force afterwards is what is stored.
func TestCallerGoes(t *testing.T) {
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	conf := h.ClientTLS(root.Device(t, "d"))
	i := h.CADevice(t, tenant, "d")
	goes := func(n int) context.Context {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Duration(n)*50*time.Microsecond, cancel)
		return ctx
	}
	for n := range 20 {
		ca := h.Trust(t, tenant, root)
		d := h.Dial(t, conf)
		if code := d.Connect(t, "localhost", "d"); code != 0 {
			t.Fatal(code)
		}
		i.Status = signet.Disabled
		if _, err := h.Registry().Replace(goes(n), i, "*"); err == nil {
			d.WaitClosed(t)
		}
		if now, err := h.Registry().Get(t.Context(), tenant, "d", ""); err != nil || now.Status == signet.Disabled && h.Hub().Connected(tenant, "d", "") {
			t.Fatalf("round %d: disabled, and connected (%v)", n, err)
		}
		i.Status = signet.Enabled
		if _, err := h.Registry().Replace(t.Context(), i, "*"); err != nil {
			t.Fatal(err)
		}
		h.Authority().Delete(goes(n), tenant, ca.Name, ca.ETag)
		left, err := h.Authority().List(t.Context(), tenant)
		if err != nil {
			t.Fatal(err)
		}
		if code := h.Dial(t, conf).Connect(t, "localhost", "d"); (code == 0) != (len(left) == 1) {
			t.Fatalf("round %d: %d CAs are registered, and CONNACK %d", n, len(left), code)
		}
		if len(left) == 1 {
			if err := h.Authority().Delete(t.Context(), tenant, ca.Name, "*"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestExpiry: over real sockets, a device whose certificate runs out is kept or
// parted with, as its hub says; and whoever is let in under one rule learns of
// the other without a word.
func TestExpiry(t *testing.T) {
	// Lives are short, and on a busy machine too short to be seen: then they are longer.
	for life := 3 * time.Second; !expires(t, life); life *= 3 {
		if life > time.Minute {
			t.Fatal("nobody has connected before the end of a certificate")
		}
	}
}

// expires tells the story of certificates that last for so long. It gives false when
// that was over too early.
func expires(t *testing.T, life time.Duration) bool {
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	h.Trust(t, tenant, root)
	connect := func(id string, notAfter time.Time) (d *hubtest.Device, in bool) {
		t.Helper()
		h.CADevice(t, tenant, id)
		d = h.Dial(t, h.ClientTLS(root.Device(t, id, func(c *x509.Certificate) { c.NotAfter = notAfter })))
		code := d.Connect(t, "localhost", id)
		if code != 0 && time.Now().Before(notAfter) {
			t.Fatalf("CONNACK %d", code)
		}
		return d, code == 0
	}
	end := time.Now().Truncate(time.Second).Add(life)
	idle, in := connect("idle", end)
	long, _ := connect("long", end.Add(time.Hour))
	if !in || !time.Now().Before(end) {
		return false
	}
	if _, err := h.Registry().SetAtExpiry(t.Context(), tenant, signet.EndAtExpiry); err != nil {
		t.Fatal(err)
	}
	busy, in := connect("busy", end)
	if !in || !time.Now().Before(end) {
		return false
	}
	for time.Now().Before(end) { // still good
		busy.Write(mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: 1, Topic: "devices/busy/messages/events/", Payload: []byte("hello")}))
		p, err := busy.In.Next()
		if _, ok := p.(*mqtt.Puback); !ok && time.Now().Before(end.Add(time.Second)) {
			t.Fatalf("%T %v where a PUBACK was due", p, err)
		}
		<-time.After(50 * time.Millisecond)
	}
	for name, d := range map[string]*hubtest.Device{"idle": idle, "busy": busy} {
		d.SetDeadline(end.Add(time.Minute)) // that they are silent would be found out later
		d.WaitClosed(t)
		if now := time.Now(); now.Before(end.Add(time.Second)) {
			t.Errorf("%s: closed before %v", name, end)
		}
	}
	long.Publish(t, "long", "still here")
	waitFor(t, func() bool { // it is counted when the socket is closed
		r, err := http.Get("http://" + h.AdminAddr() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		return strings.Contains(string(body), `signet_mqtt_ends_total{code="session.certificate-expired"} 2`)
	})

	// Kept: as Azure does, until it goes; then it is refused.
	if _, err := h.Registry().SetAtExpiry(t.Context(), tenant, signet.KeepAtExpiry); err != nil {
		t.Fatal(err)
	}
	end = time.Now().Truncate(time.Second).Add(life / 3)
	kept, in := connect("kept", end)
	if !in {
		return false
	}
	<-time.After(time.Until(end.Add(1100 * time.Millisecond)))
	kept.Publish(t, "kept", "past its end")
	// And changed its mind: over by the time of the answer.
	ctx, receipts := signet.WithReceipts(t.Context())
	if _, err := h.Registry().SetAtExpiry(ctx, tenant, signet.EndAtExpiry); err != nil {
		t.Fatal(err)
	}
	total, _ := receipts.Total()
	h.Cut(t, total, 1)
	kept.WaitClosed(t)
	return true
}

// TestAdmin: the operator's window.
func TestAdmin(t *testing.T) {
	h := hubtest.Start(t)
	h.Dial(t, h.ClientTLS()).Connect(t, "localhost", "nobody")
	for path, want := range map[string]string{
		"/": "connection traces", "/healthz": "alive", "/readyz": "ready",
		"/metrics": "signet_sessions 0", "/debug/traces": "identity.unknown",
	} {
		r, err := http.Get("http://" + h.AdminAddr() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d, without %q: %.300s", path, r.StatusCode, want, body)
		}
	}
}

// TestFiles: what holds a secret is readable to its owner only.
func TestFiles(t *testing.T) {
	h := hubtest.Start(t)
	for _, name := range []string{"owner.connection-string", "admin.token", "server.key", "server-ca.key", "signet.db"} {
		info, err := os.Stat(filepath.Join(h.Config.Data, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
}

// TestStreams: a connection of HTTP/2 is told how many requests it may have under
// way; what each holds is paid by the server before it knows who asks.
func TestStreams(t *testing.T) {
	h := hubtest.Start(t)
	conf := h.ClientTLS()
	conf.NextProtos = []string{"h2"}
	c, err := tls.Dial("tcp", h.HTTPSAddr(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00") // and empty SETTINGS
	frame := make([]byte, 9)
	if _, err := io.ReadFull(c, frame); err != nil || frame[3] != 4 {
		t.Fatalf("% x %v where SETTINGS were due", frame, err)
	}
	settings := make([]byte, int(frame[1])<<8|int(frame[2]))
	io.ReadFull(c, settings)
	for ; len(settings) >= 6; settings = settings[6:] {
		if settings[1] == 3 { // SETTINGS_MAX_CONCURRENT_STREAMS, RFC 9113 §6.5.2
			if n := binary.BigEndian.Uint32(settings[2:]); n > 8 {
				t.Errorf("%d requests at a time", n)
			}
			return
		}
	}
	t.Error("as many as it likes")
}
