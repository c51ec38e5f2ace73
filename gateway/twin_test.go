package gateway_test

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/server"
	"github.com/signet-iot/signet/wire/mqtt"
)

// These dialogues run against a whole hub; testdata/dialogues has those that need
// only the door.

// device connects a device of a hub's own.
func device(t testing.TB, h *hubtest.Hub, root *hubtest.CA, id string) *hubtest.Device {
	t.Helper()
	d := h.Dial(t, h.ClientTLS(root.Device(t, id)))
	if code := d.Connect(t, h.Config.HostName, id); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	return d
}

func startWith(t *testing.T, id string) (*hubtest.Hub, *hubtest.CA) {
	t.Helper()
	h, root := hubtest.Start(t), hubtest.NewCA(t, "Root")
	h.Trust(t, h.Config.Hub, root)
	h.CADevice(t, h.Config.Hub, id)
	return h, root
}

// next gives the next packet from the server in short.
func next(t *testing.T, d *hubtest.Device) string {
	t.Helper()
	p, err := d.In.Next()
	if err != nil {
		t.Fatal(err)
	}
	switch p := p.(type) {
	case *mqtt.Publish:
		return fmt.Sprintf("%d %s %s", p.QoS, p.Topic, p.Payload)
	case *mqtt.Puback:
		return fmt.Sprintf("PUBACK %d", p.PacketID)
	case *mqtt.Suback:
		return fmt.Sprintf("SUBACK %d %v", p.PacketID, p.Codes)
	case *mqtt.Unsuback:
		return fmt.Sprintf("UNSUBACK %d", p.PacketID)
	}
	return fmt.Sprintf("%T", p)
}

func says(t *testing.T, d *hubtest.Device, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := next(t, d); got != w {
			t.Fatalf("the hub said %s\n           want %s", got, w)
		}
	}
}

func publish(t *testing.T, d *hubtest.Device, qos byte, id uint16, topic, body string) {
	t.Helper()
	d.Send(t, mqtt.AppendPublish(nil, &mqtt.Publish{QoS: qos, PacketID: id, Topic: topic, Payload: []byte(body)}))
}

// TestTwinDialogue: a device as Java, Python and C are, all filters in one
// SUBSCRIBE, twin requests with QoS 1, and its twin as it comes to be.
func TestTwinDialogue(t *testing.T) {
	h, root := startWith(t, "d")
	d := device(t, h, root, "d")
	d.Send(t, mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{
		{Filter: "$iothub/twin/res/#", QoS: 1}, {Filter: "$iothub/twin/PATCH/properties/desired/#", QoS: 1}, {Filter: "$iothub/methods/POST/#", QoS: 1}}}))
	says(t, d, "SUBACK 1 [1 1 1]")

	publish(t, d, 1, 2, "$iothub/twin/GET/?$rid=2af", "")
	says(t, d, "PUBACK 2", `0 $iothub/twin/res/200/?$rid=2af {"desired":{"$version":1},"reported":{"$version":1}}`)
	publish(t, d, 1, 3, "$iothub/twin/PATCH/properties/reported/?$rid=00017", `{"a":{"b":[1,null]},"c":"d"}`)
	says(t, d, "PUBACK 3", `0 $iothub/twin/res/204/?$rid=00017&$version=2 `)
	publish(t, d, 0, 0, "$iothub/twin/PATCH/properties/reported/?$rid=F81D4FAE-7dec-11d0-a765-00a0c91e6bf6&$version=2", `{"a":null}`)
	says(t, d, `0 $iothub/twin/res/204/?$rid=F81D4FAE-7dec-11d0-a765-00a0c91e6bf6&$version=3 `)
	publish(t, d, 0, 0, "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=2", `{"a":1}`)
	if got := next(t, d); !strings.HasPrefix(got, `0 $iothub/twin/res/412/?$rid=1 {"errorCode":412001,`) {
		t.Error(got)
	}

	// The back end changes tags, which are none of the device's business, and
	// desired properties.
	for _, c := range []registry.TwinChange{{Tags: []byte(`{"site":1}`)}, {Desired: []byte(`{"x":{"y":1},"z":null}`)}, {Desired: []byte(`{}`), Replace: true}} {
		if _, err := h.Registry().ChangeTwin(t.Context(), "hub", "d", "", c, ""); err != nil {
			t.Fatal(err)
		}
	}
	says(t, d, `0 $iothub/twin/PATCH/properties/desired/?$version=2 {"x":{"y":1},"z":null,"$version":2}`,
		`0 $iothub/twin/PATCH/properties/desired/?$version=3 {"$version":3}`)

	// Away, and back: nothing was stored for it, and it reads.
	d.Close()
	d.WaitClosed(t)
	if _, err := h.Registry().ChangeTwin(t.Context(), "hub", "d", "", registry.TwinChange{Desired: []byte(`{"x":2}`)}, ""); err != nil {
		t.Fatal(err)
	}
	d = device(t, h, root, "d")
	d.Send(t, mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 4, Filters: []mqtt.Subscription{{Filter: "$iothub/twin/res/#"}}}))
	publish(t, d, 0, 0, "$iothub/twin/GET/?$rid=5", " ")
	says(t, d, "SUBACK 4 [0]", `0 $iothub/twin/res/200/?$rid=5 {"desired":{"x":2,"$version":4},"reported":{"c":"d","$version":3}}`)
}

// TestManyDesired: changes that come faster than a device reads are all told, in
// order, or the device is sent back to read its twin; it never goes on with a gap.
func TestManyDesired(t *testing.T) {
	h, root := startWith(t, "d")
	d := device(t, h, root, "d")
	d.Send(t, mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "$iothub/twin/PATCH/properties/desired/#"}}}))
	says(t, d, "SUBACK 1 [0]")
	large := strings.Repeat("x", 4000)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for n := range 100 {
				if _, err := h.Registry().ChangeTwin(t.Context(), "hub", "d", "", registry.TwinChange{Desired: fmt.Appendf(nil, `{"k%d":"%s%d"}`, w, large, n)}, ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	last := int64(1)
	for last < 401 {
		p, err := d.In.Next()
		if err != nil {
			break // told to read anew
		}
		var version int64
		if _, err := fmt.Sscanf(p.(*mqtt.Publish).Topic, "$iothub/twin/PATCH/properties/desired/?$version=%d", &version); err != nil || version != last+1 {
			t.Fatalf("%s after version %d", p.(*mqtt.Publish).Topic, last)
		}
		last = version
	}
	wg.Wait()
	t.Logf("%d versions were told", last-1)
}

// TestMethodDialogue: the topics of a call as the SDKs' parsers want them, and an
// answer with QoS 1.
func TestMethodDialogue(t *testing.T) {
	h, root := startWith(t, "d")
	invoke := func(method, payload string) (r hub.MethodResult, err error) {
		return h.Hub().Invoke(t.Context(), "hub", "d", "", hub.Invocation{Method: method, Payload: []byte(payload),
			ConnectTimeout: time.Minute, ResponseTimeout: time.Minute})
	}
	type outcome struct {
		hub.MethodResult
		error
	}
	outcomes := make(chan outcome, 1)
	call := func(method, payload string) {
		r, err := invoke(method, payload)
		outcomes <- outcome{r, err}
	}

	// The call waits for the device to connect and to subscribe.
	go call("re+boot/now #1", `{"in":[5]}`)
	d := device(t, h, root, "d")
	d.Send(t, mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "$iothub/methods/POST/#"}}}))
	says(t, d, "SUBACK 1 [0]")
	got := next(t, d)
	const topic = "0 $iothub/methods/POST/re%2Bboot%2Fnow%20%231/?$rid="
	rest, ok := strings.CutPrefix(got, topic)
	rid, payload, _ := strings.Cut(rest, " ")
	if !ok || payload != `{"in":[5]}` || strings.Trim(rid, "0123456789abcdef") != "" || rid == "" {
		t.Fatal(got)
	}
	publish(t, d, 1, 7, "$iothub/methods/res/-12/?$rid="+rid, `{"done":true}`)
	says(t, d, "PUBACK 7")
	if o := <-outcomes; o.error != nil || o.Status != -12 || string(o.Payload) != `{"done":true}` {
		t.Errorf("%+v", o)
	}
	// An answer to what nobody asked, or not any more, is dropped.
	publish(t, d, 1, 8, "$iothub/methods/res/200/?$rid="+rid, `{}`)
	publish(t, d, 1, 9, "$iothub/methods/res/200/?$rid=nobody", `{}`)
	says(t, d, "PUBACK 8", "PUBACK 9")

	// A large payload there and back.
	large := `"` + strings.Repeat("x", hub.MaxMethodPayload-2) + `"`
	go call("echo", large)
	got = next(t, d)
	rid, payload, _ = strings.Cut(strings.TrimPrefix(got, "0 $iothub/methods/POST/echo/?$rid="), " ")
	if payload != large {
		t.Fatalf("%.100s", got)
	}
	publish(t, d, 0, 0, "$iothub/methods/res/200/?$rid="+rid, payload)
	if o := <-outcomes; o.error != nil || string(o.Payload) != large {
		t.Errorf("%v", o.error)
	}

	// Taken over: the caller of the older session hears that it will not answer.
	go call("slow", `null`)
	next(t, d)
	device(t, h, root, "d")
	if o := <-outcomes; signet.CodeOf(o.error) != signet.MethodTimeout {
		t.Errorf("%+v", o)
	}
}

// BenchmarkDesired: each of 5,000 connected devices is told of a desired change of
// its own, each change on disk before. One operation is all of them.
func BenchmarkDesired(b *testing.B) {
	const devices, writers = 5_000, 64 // each takes two descriptors here
	h, root := hubtest.Start(b, func(c *server.Config) { c.Logger = slog.New(slog.DiscardHandler) }), hubtest.NewCA(b, "Root")
	h.Trust(b, h.Config.Hub, root)
	names := make(chan int)
	heard := make(chan int64, devices)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for n := range names {
				id := fmt.Sprint("d", n)
				h.CADevice(b, h.Config.Hub, id)
				d := device(b, h, root, id)
				d.SetDeadline(time.Time{})
				d.Send(b, mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "$iothub/twin/PATCH/properties/desired/#"}}}))
				go func() {
					for {
						p, err := d.In.Next()
						if err != nil {
							return
						}
						if _, ok := p.(*mqtt.Publish); ok {
							heard <- 1
						}
					}
				}()
			}
		})
	}
	for n := range devices {
		names <- n
	}
	close(names)
	wg.Wait()
	time.Sleep(time.Second) // the last SUBACKs
	for b.Loop() {
		todo := make(chan int)
		for range writers {
			go func() {
				for n := range todo {
					if _, err := h.Registry().ChangeTwin(b.Context(), h.Config.Hub, fmt.Sprint("d", n), "", registry.TwinChange{Desired: []byte(`{"interval":30}`)}, ""); err != nil {
						b.Error(err)
					}
				}
			}()
		}
		for n := range devices {
			todo <- n
		}
		close(todo)
		for range devices {
			<-heard
		}
	}
	b.ReportMetric(float64(devices)*float64(b.N)/b.Elapsed().Seconds(), "changes/s")
}
