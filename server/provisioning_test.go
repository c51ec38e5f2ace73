package server_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
)

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
