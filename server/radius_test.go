package server_test

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/pki"
)

// BenchmarkRadius is what the deletion of a root costs to foresee, a device, on
// SQLite, with 20,000 devices under 20 lines: of the processor, and of memory at most.
//
//	go test ./server -run '^$' -bench Radius -benchtime 3x
func BenchmarkRadius(b *testing.B) {
	const devices, lines = 20_000, 20
	h := hubtest.Start(b)
	root := hubtest.NewCA(b, "Root")
	h.Trust(b, "hub", root)
	var cas []*hubtest.CA
	for n := range lines {
		cas = append(cas, root.Intermediate(b, fmt.Sprint("Line ", n)))
	}
	var all sync.WaitGroup
	turns := make(chan struct{}, 200)
	var mu sync.Mutex
	for n := range devices {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			id := fmt.Sprint("device-", n)
			i := h.CADevice(b, "hub", id)
			leaf, err := x509.ParseCertificate(cas[n%lines].Device(b, id).Certificate[0])
			if err != nil {
				b.Error(err)
				return
			}
			path := []*x509.Certificate{leaf, cas[n%lines].Cert, root.Cert}
			mu.Lock()
			defer mu.Unlock()
			h.Inventory().Saw(&signet.Principal{Hub: "hub", DeviceID: id, GenerationID: i.GenerationID, Auth: signet.AuthCA, Path: pki.Path(path), Sent: 0b11}, path, "TLS 1.3", netip.Addr{})
			if n%5000 == 0 {
				h.Inventory().Write(b.Context())
			}
		})
	}
	all.Wait()
	h.Inventory().Write(b.Context())
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	most := before.HeapInuse
	for b.Loop() {
		now, err := h.Authority().Suppose(b.Context(), "hub", authority.Hypothesis{})
		if err != nil {
			b.Fatal(err)
		}
		then, err := h.Authority().Suppose(b.Context(), "hub", authority.Hypothesis{Distrust: []authority.DistrustRequest{{Chain: []*x509.Certificate{cas[0].Cert}}}})
		if err != nil {
			b.Fatal(err)
		}
		begun := processorTime()
		r, err := h.Hub().Radius(b.Context(), "hub", h.Inventory(), now, then, func(f *signet.DeviceFate, n int64) error {
			if f == nil && n%1000 == 0 {
				var m runtime.MemStats
				if runtime.ReadMemStats(&m); m.HeapInuse > most {
					most = m.HeapInuse
				}
			}
			return nil
		})
		if err != nil || r.Devices != devices || r.Loses.Devices != devices/lines {
			b.Fatalf("%+v %v", r, err)
		}
		b.ReportMetric(float64((processorTime()-begun).Microseconds())/devices, "cpu-µs/device")
		b.ReportMetric(float64(most-before.HeapInuse)/(1<<20), "MiB-more")
	}
}
