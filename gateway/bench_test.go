package gateway

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	client "github.com/Azure/go-amqp"
	"github.com/signet-iot/signet/wire/mqtt"
)

// BenchmarkConnect is a whole life: TLS 1.3, P-256, leaf and two intermediates,
// no resumption, CONNECT, CONNACK, close. Both ends are in the time, the
// judgement of the chain is not.
func BenchmarkConnect(b *testing.B) {
	d := openDoor(b)
	root := issue(b, "root", nil)
	factory := issue(b, "factory", &root)
	line := issue(b, "line", &factory)
	device := issue(b, "d1", &line)
	device.Certificate = device.Certificate[:3]
	b.ReportAllocs()
	for b.Loop() {
		c, _, err := d.connect("d1", d.client(device))
		if err != nil {
			b.Fatal(err)
		}
		c.NetConn().Close()
	}
}

// BenchmarkParts is what the door does itself, without TLS and without the hub:
// a connection from CONNECT to CONNACK and its end, and a message from PUBLISH to
// PUBACK.
func BenchmarkParts(b *testing.B) {
	connect := mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d1", KeepAlive: 60, HasUsername: true, Username: "hub.example.test/d1/?api-version=2021-04-12"})
	read := func(b *testing.B, c net.Conn, n int) {
		if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("connect", func(b *testing.B) {
		w := &fakeWaist{forget: true}
		m := plainDoor(b, w)
		b.ReportAllocs()
		for b.Loop() {
			c := pipe(m)
			c.Write(connect)
			read(b, c, 4)
			c.Write(mqtt.AppendDisconnect(nil))
			io.Copy(io.Discard, c)
		}
	})
	b.Run("publish", func(b *testing.B) {
		c := pipe(plainDoor(b, &fakeWaist{forget: true}))
		defer c.Close()
		c.Write(connect)
		read(b, c, 4)
		packet := mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: 1, Topic: "devices/d1/messages/events/", Payload: make([]byte, 256)})
		b.ReportAllocs()
		for b.Loop() {
			c.Write(packet)
			read(b, c, 4)
		}
	})
}

// BenchmarkPublish is one device with 100 messages of 256 bytes under way, QoS 1,
// over TLS, to a hub that stores at once. Both ends are in the time.
func BenchmarkPublish(b *testing.B) {
	d := openDoor(b)
	d.waist.forget = true
	c, _, err := d.connect("d1", d.client())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Time{})
	const window = 100
	credit := make(chan struct{}, window)
	go func() {
		r := mqtt.NewClientReader(c, maxPacket)
		for {
			if _, err := r.Next(); err != nil {
				return
			}
			<-credit
		}
	}()
	packet := mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: 1, Topic: "devices/d1/messages/events/%24.ct=application%2Fjson&line=7", Payload: make([]byte, 256)})
	b.SetBytes(int64(len(packet)))
	b.ReportAllocs()
	for b.Loop() {
		credit <- struct{}{}
		if _, err := c.Write(packet); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIdle reports what an idle connection holds, heap and stacks of both
// ends: the server's is less than this. By WebSocket its own share is what it has
// more than the other.
func BenchmarkIdle(b *testing.B) {
	b.Run("TLS", func(b *testing.B) {
		d := openDoor(b)
		benchmarkIdle(b, d, d.connect)
	})
	b.Run("WebSocket", func(b *testing.B) {
		d := openWebDoor(b)
		benchmarkIdle(b, d.tlsDoor, d.connect)
	})
	b.Run("AMQP", func(b *testing.B) {
		d := openDoor(b)
		a := NewAMQP(d.MQTT, nil)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		go a.Serve(l)
		said := recorded(b, func(c *client.Conn) {
			s, err := c.NewSession(b.Context(), nil)
			if err != nil {
				b.Fatal(err)
			}
			aSender(b, s, "/devices/d1/messages/events")
		})
		benchmarkIdle(b, d, func(_ string, config *tls.Config) (*tls.Conn, byte, error) {
			nc, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return nil, 0, err
			}
			c := tls.Client(nc, config)
			if _, err := c.Write(said); err != nil {
				return nil, 0, err
			}
			// Its header, open, begin, attach and flow: the flow ends with the credit.
			for got := []byte{}; !bytes.Contains(got, []byte{0x70, 0, 0, 1, 0}); {
				b := make([]byte, 512)
				n, err := c.Read(b)
				if err != nil {
					return nil, 0, err
				}
				got = append(got, b[:n]...)
			}
			return c, 0, nil
		})
	})
}

func benchmarkIdle(b *testing.B, d *tlsDoor, connect func(id string, config *tls.Config) (*tls.Conn, byte, error)) {
	const n = 1000
	root := issue(b, "root", nil)
	line := issue(b, "line", &root)
	device := issue(b, "d1", &line)
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		var conns []*tls.Conn
		for i := range n {
			c, _, err := connect(fmt.Sprint(i), d.client(device))
			if err != nil {
				b.Fatal(err)
			}
			conns = append(conns, c)
		}
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/n, "B/connection")
		b.ReportMetric(float64(after.StackInuse-before.StackInuse)/n, "stackB/connection")
		for _, c := range conns {
			c.Close()
		}
	}
}
