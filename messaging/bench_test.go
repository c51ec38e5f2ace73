//go:build unix

package messaging

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
)

func telemetry(device string) *signet.Message {
	return &signet.Message{
		Hub: "plant", DeviceID: device, GenerationID: "638000000000000000", Source: signet.SourceTelemetry,
		AuthMethod:   `{"scope":"device","type":"x509Certificate","issuer":"external","acceptingIpFilterRule":null}`,
		EnqueuedTime: time.Now().UTC().Truncate(time.Millisecond), Body: make([]byte, 256),
	}
}

// cpu is what the process has used, user and system.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// 100 devices, each with so many messages under way; sync always.
func BenchmarkAppend(b *testing.B) {
	for _, partitions := range []int{1, 2, 4, 8} {
		for _, window := range []int{1, 16} {
			b.Run(fmt.Sprintf("partitions=%d/window=%d", partitions, window), func(b *testing.B) {
				m, err := Open(b.Context(), Options{Dir: b.TempDir(), Partitions: partitions, Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					b.Fatal(err)
				}
				defer m.Close()
				const devices = 100
				took := make([][]time.Duration, devices)
				b.ReportAllocs()
				used := cpu()
				b.ResetTimer()
				var all sync.WaitGroup
				for d := range devices {
					all.Go(func() {
						slots := make(chan struct{}, window)
						name := fmt.Sprint("device-", d)
						for range b.N/devices + 1 {
							slots <- struct{}{}
							begin := time.Now()
							m.Append(context.Background(), telemetry(name), func(err error) {
								if err != nil {
									b.Error(err)
								}
								took[d] = append(took[d], time.Since(begin))
								<-slots
							})
						}
						for range window {
							slots <- struct{}{}
						}
					})
				}
				all.Wait()
				b.StopTimer()
				every := slices.Concat(took...)
				slices.Sort(every)
				b.ReportMetric(float64(len(every))/b.Elapsed().Seconds(), "msg/s")
				b.ReportMetric(float64((cpu()-used).Nanoseconds())/1e3/float64(len(every)), "cpu-µs/msg")
				b.ReportMetric(float64(every[len(every)/2].Microseconds())/1e3, "p50-ms")
				b.ReportMetric(float64(every[len(every)*99/100].Microseconds())/1e3, "p99-ms")
				if stream, err := m.stream.Info(b.Context()); err == nil {
					b.ReportMetric(float64(len(every))/float64(stream.State.LastSeq), "msg/batch")
				}
			})
		}
	}
}

func BenchmarkRead(b *testing.B) {
	m, err := Open(b.Context(), Options{Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	var all sync.WaitGroup
	for n := range b.N {
		all.Add(1)
		m.Append(b.Context(), telemetry(fmt.Sprint("device-", n%100)), func(error) { all.Done() })
	}
	all.Wait()
	b.ReportAllocs()
	b.ResetTimer()
	n := 0
	if err := m.Read(b.Context(), "plant", hub.Start{}, false, func(signet.Position, *signet.Message) bool { n++; return true }); err != nil || n != b.N {
		b.Fatalf("read %d of %d: %v", n, b.N, err)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
}

// A device that sends a message every millisecond, while somebody reads a backlog
// as fast as it is given out. On one processor (-cpu 1), as a small hub has it.
func BenchmarkAppendBesideRead(b *testing.B) {
	m, err := Open(b.Context(), Options{Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	var all sync.WaitGroup
	for n := range 300_000 {
		all.Add(1)
		m.Append(b.Context(), telemetry(fmt.Sprint("device-", n%100)), func(error) { all.Done() })
	}
	all.Wait()
	for _, readers := range []int{0, 1} {
		b.Run(fmt.Sprint("readers=", readers), func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			var reading sync.WaitGroup
			var read atomic.Int64
			for range readers {
				reading.Go(func() {
					var line []byte
					for ctx.Err() == nil {
						m.Read(ctx, "plant", hub.Start{}, false, func(at signet.Position, msg *signet.Message) bool {
							read.Add(1)
							line = msg.JSON(line[:0], at) // as the API does
							return true
						})
					}
				})
			}
			var took []time.Duration
			for b.Loop() {
				time.Sleep(time.Millisecond)
				begin, done := time.Now(), make(chan error)
				m.Append(ctx, telemetry("press"), func(err error) { done <- err })
				if err := <-done; err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begin))
			}
			b.ReportMetric(float64(read.Load())/b.Elapsed().Seconds(), "read/s")
			cancel()
			reading.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1e3, "p99-ms")
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	msg := telemetry("device-17")
	data := appendHeader(nil, "plant", msg.EnqueuedTime)
	empty := len(data)
	var last origin
	var before *origin
	b.ReportAllocs()
	for range b.N {
		if len(data)+recordSize(msg) > maxBatchBytes {
			seal(data)
			data, before = data[:empty], nil
		}
		data = appendRecord(data, msg, before, msg.EnqueuedTime)
		last, before = origin{msg.AuthMethod, msg.Source}, &last
	}
}

func BenchmarkDecode(b *testing.B) {
	messages := make([]*signet.Message, 100)
	for i := range messages {
		messages[i] = telemetry(fmt.Sprint("device-", i))
	}
	data := encodeBatch("plant", messages)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += len(messages) {
		if err := decodeBatch(data, "plant", func(uint32, *signet.Message) bool { return true }); err != nil {
			b.Fatal(err)
		}
	}
}
