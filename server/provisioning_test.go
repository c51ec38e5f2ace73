package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/server"
)

// TestServiceApart: a CA that the provisioning service trusts proves nothing to a
// hub, nor the reverse; and neither is found under the other's name.
func TestServiceApart(t *testing.T) {
	h := hubtest.Start(t)
	const service = "dps"
	ofService, ofHub := hubtest.NewCA(t, "Service Root"), hubtest.NewCA(t, "Hub Root")
	h.Trust(t, service, ofService)
	h.Trust(t, tenant, ofHub)
	h.CADevice(t, tenant, "d")
	byService, byHub := ofService.Device(t, "d"), ofHub.Device(t, "d")

	connect := func(host string, pair tls.Certificate) byte {
		t.Helper()
		return h.Dial(t, h.ClientTLS(pair)).Connect(t, host, "d")
	}
	if got := connect(h.Config.HostName, byService); got != 5 {
		t.Errorf("the hub answers %d to a device of the service's CA", got)
	}
	if got := connect(h.Config.HostName, byHub); got != 0 {
		t.Errorf("the hub answers %d to a device of its own CA", got)
	}
	for _, pair := range []tls.Certificate{byService, byHub} {
		if got := connect(service+"."+h.Config.HostName, pair); got != 5 {
			t.Errorf("the host name of the service is answered %d, as if it were a hub's", got)
		}
	}
	leaf, err := x509.ParseCertificate(byHub.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Authority().Judge(service, []*x509.Certificate{leaf}, time.Now()); signet.CodeOf(err) != signet.ChainIssuerMissing {
		t.Errorf("the service judges a device of the hub's CA: %v", err)
	}
	if _, err := h.Registry().HubByHost(service + "." + h.Config.HostName); signet.CodeOf(err) != signet.HubUnknown {
		t.Errorf("the service is found as a hub: %v", err)
	}
}

// fleet is a service that devices below a CA may come to, and the devices.
func fleet(t testing.TB, h *hubtest.Hub, devices int) (scope string, pairs map[string]tls.Certificate) {
	t.Helper()
	service, err := h.Registry().HubByName(h.Config.Provisioning)
	if err != nil {
		t.Fatal(err)
	}
	root := hubtest.NewCA(t, "Root")
	line := root.Intermediate(t, "Line")
	ca := h.Trust(t, service.Name, root)
	_, _, err = h.Provisioning().PutEnrollment(t.Context(), signet.Enrollment{Service: service.Name, Group: true, ID: "fleet",
		Attestation: signet.Attestation{Type: signet.AttestX509, PrimaryCA: ca.Name}}, "")
	if err != nil {
		t.Fatal(err)
	}
	pairs = map[string]tls.Certificate{}
	for n := range devices {
		id := fmt.Sprintf("d%04d", n)
		pairs[id] = line.Device(t, id)
	}
	return service.IDScope, pairs
}

// rush has all devices register at once, and gives how long it takes until the
// last has its place.
func rush(t testing.TB, h *hubtest.Hub, scope string, pairs map[string]tls.Certificate) time.Duration {
	var all sync.WaitGroup
	begun := time.Now()
	for id, pair := range pairs {
		all.Go(func() {
			place, err := h.Register(scope, id, h.ClientTLS(pair), "")
			if err != nil || place.Status != "assigned" || place.State.DeviceID != id {
				t.Errorf("%s: %+v %v", id, place, err)
			}
		})
	}
	all.Wait()
	took := time.Since(begun)
	for id := range pairs {
		if i, err := h.Registry().Get(context.Background(), h.Config.Hub, id, ""); err != nil || i.Auth.Type != signet.AuthSelfSigned {
			t.Errorf("%s: %+v %v", id, i, err)
		}
	}
	return took
}

func quietly(c *server.Config) { c.Logger = slog.New(slog.DiscardHandler) }

// TestRush: a fleet registers at once, and everyone gets a place.
func TestRush(t *testing.T) {
	h := hubtest.Start(t, quietly)
	scope, pairs := fleet(t, h, 200)
	rush(t, h, scope, pairs)
}

func processorTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRush: a thousand devices register at once by MQTT over TLS, each with a
// chain; they run in the same process. The figure is of devices with a place, a
// second, from the first connection to the last answer; and the processor time for
// each, that of the devices' handshakes included.
func BenchmarkRush(b *testing.B) {
	const devices = 1000
	for b.Loop() {
		b.StopTimer()
		h := hubtest.Start(b, quietly)
		scope, pairs := fleet(b, h, devices)
		b.StartTimer()
		before := processorTime()
		took := rush(b, h, scope, pairs)
		b.ReportMetric(devices/took.Seconds(), "devices/s")
		b.ReportMetric(float64((processorTime()-before).Microseconds())/1000/devices, "cpu-ms/device")
		b.StopTimer()
		h.Stop()
		b.StartTimer()
	}
}

// TestLinkedElsewhere: a hub of another server gets the devices of this one's
// service, by its connection string; a device that moves takes its twin along.
func TestLinkedElsewhere(t *testing.T) {
	far := hubtest.Start(t, quietly)
	near := hubtest.Start(t, quietly, func(c *server.Config) { c.HostName, c.LinkedHubCA = "near.localhost", far.CAFile })
	scope, pairs := fleet(t, near, 1)
	const service, id = "dps", "d0000"
	ctx, p := t.Context(), near.Provisioning()
	link := func(owner signet.ConnectionString) error {
		return p.SetLinks(ctx, service, []signet.LinkedHub{{HostName: "near.localhost", Allocates: true}, {ConnectionString: owner.String(), Allocates: true}})
	}
	if err := link(far.Owner); err != nil {
		t.Fatal(err)
	}
	e, err := p.Enrollment(ctx, service, true, "fleet")
	if err != nil {
		t.Fatal(err)
	}
	place := func(host, substatus string) {
		t.Helper()
		e.Hubs, e.Allocation, e.Reprovision = []string{host}, signet.AllocateStatic, signet.Reprovision{UpdateHub: true, MigrateData: true}
		e.InitialTwin.Desired = json.RawMessage(`{"interval":30}`)
		if e, _, err = p.PutEnrollment(ctx, e, "*"); err != nil {
			t.Fatal(err)
		}
		got, err := near.Register(scope, id, near.ClientTLS(pairs[id]), "")
		if err != nil || got.State.AssignedHub != host || got.State.Substatus != substatus {
			t.Fatalf("%+v %v", got, err)
		}
	}
	twin := func(h *hubtest.Hub) string {
		t.Helper()
		twin, err := h.Registry().Twin(ctx, h.Config.Hub, id, "")
		if err != nil {
			t.Fatal(err)
		}
		return string(twin.Tags) + string(twin.Desired.Values) + string(twin.Reported.Values)
	}
	gone := func(h *hubtest.Hub) {
		t.Helper()
		if _, err := h.Registry().Get(ctx, h.Config.Hub, id, ""); signet.CodeOf(err) != signet.IdentityUnknown {
			t.Errorf("it is still at %s: %v", h.Config.HostName, err)
		}
	}

	place("localhost", "initialAssignment")
	gone(near)
	if got := twin(far); got != `{}{"interval":30}{}` {
		t.Error(got)
	}
	d := far.Dial(t, far.ClientTLS(pairs[id]))
	if code := d.Connect(t, "localhost", id); code != 0 {
		t.Errorf("it connects there with %d", code)
	}

	far.Registry().ChangeTwin(ctx, "hub", id, "", registry.TwinChange{Tags: json.RawMessage(`{"at":"far"}`)}, "*")
	place("near.localhost", "deviceDataMigrated")
	gone(far)
	d.WaitClosed(t)
	i, err := near.Registry().Get(ctx, "hub", id, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := near.Registry().Report(ctx, "hub", id, "", i.GenerationID, []byte(`{"n":1}`), 0); err != nil {
		t.Fatal(err)
	}
	if got := twin(near); got != `{"at":"far"}{"interval":30}{"n":1}` {
		t.Error(got)
	}

	// Disabled at its hub, it does not get round that by registering.
	i.Status = signet.Disabled
	if _, err := near.Registry().Replace(ctx, i, "*"); err != nil {
		t.Fatal(err)
	}
	place("near.localhost", "deviceDataMigrated")
	if i, err = near.Registry().Get(ctx, "hub", id, ""); err != nil || i.Status != signet.Disabled {
		t.Errorf("%+v %v", i, err)
	}
	place("localhost", "reprovisionedToInitialAssignment") // nor by being moved
	gone(near)
	if i, err = far.Registry().Get(ctx, "hub", id, ""); err != nil || i.Status != signet.Disabled {
		t.Errorf("%+v %v", i, err)
	}

	// A key that counts no longer is the hub's refusal, and told as that.
	owner := far.Owner
	owner.SharedAccessKey = "d3JvbmcgYXMgYSBrZXkgY2FuIGJl"
	if err := link(owner); err != nil {
		t.Fatal(err)
	}
	got, err := near.Register(scope, id, near.ClientTLS(pairs[id]), "")
	if err != nil || got.Status != "failed" || got.State.ErrorCode != 400209 {
		t.Errorf("%+v %v", got, err)
	}
}

// TestRegisterRefused: what a device hears leads to the verdict, and says no more.
func TestRegisterRefused(t *testing.T) {
	h := hubtest.Start(t, quietly)
	scope, pairs := fleet(t, h, 1)
	for id, c := range map[string]struct {
		scope string
		conf  *tls.Config
		code  signet.Code
	}{
		"d0000":    {scope, h.ClientTLS(), signet.ChainNone},
		"stranger": {scope, h.ClientTLS(hubtest.NewCA(t, "Unknown Root").Device(t, "stranger")), signet.ChainIssuerMissing},
		"nowhere":  {"0neFFFFFFFF", h.ClientTLS(pairs["d0000"]), signet.HubUnknown},
	} {
		got, err := h.Register(c.scope, id, c.conf, "")
		if err != nil || got.ErrorCode != 401002 || got.TrackingID == "" {
			t.Errorf("%s: %+v %v", id, got, err)
		}
		hub := "dps"
		if c.code == signet.HubUnknown {
			hub = ""
		}
		vs, err := h.Verdicts().List(t.Context(), authority.VerdictQuery{Hub: hub, DeviceID: id, Limit: 1})
		if err != nil || len(vs) != 1 || vs[0].Code != c.code || vs[0].TrackingID != got.TrackingID || vs[0].Door != signet.DoorMQTT {
			t.Errorf("%s: %+v %v", id, vs, err)
		}
	}
}
