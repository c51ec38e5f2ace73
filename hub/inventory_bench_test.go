package hub_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/registry"
)

// BenchmarkInventory measures what a connect costs behind the door, for a device
// with a leaf and one intermediate that is known, and what of that is the
// inventory's: without one; with one, of devices that come again and again; and of
// devices that come for the first time, with what is written behind.
func BenchmarkInventory(b *testing.B) {
	for _, c := range []struct {
		name      string
		inventory bool
		devices   int
	}{{"without inventory", false, 100}, {"known devices", true, 100}, {"new devices", true, 5000}} {
		b.Run(c.name, func(b *testing.B) {
			store := memstore.New()
			trust, devices := authority.New(store, authority.Options{}), registry.New(store, registry.Options{})
			verdicts := authority.NewVerdictLog(store, authority.VerdictOptions{Logger: slog.New(slog.DiscardHandler)})
			b.Cleanup(verdicts.Close)
			o := hub.Options{Authority: trust, Registry: devices, Verdicts: verdicts, Messages: &messages{}, Activity: devices}
			seen := inventory.New(store, inventory.Options{})
			if c.inventory {
				o.Inventory = seen
			}
			h := hub.New(o)
			if _, err := devices.CreateHub(b.Context(), "first", "first.test"); err != nil {
				b.Fatal(err)
			}
			root := hubtest.NewCA(b, "Acme Root")
			line := root.Intermediate(b, "Line 4")
			if _, _, err := trust.Register(b.Context(), "first", "acme", hubtest.PEM(root.Cert.Raw), true, ""); err != nil {
				b.Fatal(err)
			}
			credentials := make([]hub.Credentials, c.devices)
			for n := range credentials {
				id := fmt.Sprint("d", n)
				if _, err := devices.Create(b.Context(), signet.Identity{Hub: "first", DeviceID: id, Auth: byCA}); err != nil {
					b.Fatal(err)
				}
				credentials[n] = hub.Credentials{Host: "first.test", DeviceID: id, TLS: "TLS 1.3", Remote: netip.MustParseAddrPort("192.0.2.1:5000"),
					Chain: presented(b, line.Device(b, id))}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for n := range b.N {
				s, err := h.Connect(context.Background(), credentials[n%c.devices], func() {})
				if err != nil {
					b.Fatal(err)
				}
				s.Close()
			}
		})
	}
}
