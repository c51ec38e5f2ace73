package gateway

import (
	"crypto/tls"
	"runtime"
	"testing"
	"time"

	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/wire/mqtt"
)

// The chain of a device that is let in is garbage while it stays connected, and
// the connection works on. A release of Go in which this fails has other fields.
func TestLetGo(t *testing.T) {
	if !peerCertificates.there || !verifiedChains.there || !handBuffer.there || !rawInput.there || !input.there {
		t.Fatalf("crypto/tls of %s has other fields", runtime.Version())
	}
	root := issue(t, "root", nil)
	device := issue(t, "d1", &root)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			d := openDoor(t)
			gone := make(chan bool)
			d.waist.judge = func(c hub.Credentials) error {
				runtime.AddCleanup(c.Chain[0], func(bool) { close(gone) }, true)
				return nil
			}
			config := d.client(device)
			config.MaxVersion = version
			config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			c, _, err := d.connect("d1", config)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			d.waist.mu.Lock()
			d.waist.seen = nil
			d.waist.mu.Unlock()
			collected := func() bool {
				runtime.GC()
				select {
				case <-gone:
					return true
				case <-time.After(10 * time.Millisecond):
					return false
				}
			}
			for began := time.Now(); !collected(); {
				if time.Since(began) > 2*time.Minute {
					t.Fatal("the chain is held")
				}
			}
			in := mqtt.NewClientReader(c, maxPacket)
			for range 3 {
				c.Write(mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: 7, Topic: "devices/d1/messages/events/", Payload: make([]byte, 20_000)}))
				if p, err := in.Next(); err != nil {
					t.Fatal(err)
				} else if _, ok := p.(*mqtt.Puback); !ok {
					t.Fatalf("%T where a PUBACK was due", p)
				}
			}
		})
	}
}

// What is under way is not lost: here a record that came with the CONNECT.
func TestLetGoKeepsWhatIsUnread(t *testing.T) {
	d := openDoor(t)
	c, err := tls.Dial("tcp", d.addr, d.client())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	both := mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d1", HasUsername: true, Username: "hub.example.test/d1/?api-version=2021-04-12"})
	for id := range uint16(100) { // more than the reader takes at a time
		both = mqtt.AppendPublish(both, &mqtt.Publish{QoS: 1, PacketID: id + 1, Topic: "devices/d1/messages/events/", Payload: make([]byte, 100)})
	}
	if _, err := c.Write(both); err != nil {
		t.Fatal(err)
	}
	in := mqtt.NewClientReader(c, maxPacket)
	for n := range 101 {
		p, err := in.Next()
		if err != nil {
			t.Fatalf("packet %d: %v", n, err)
		}
		if ack, ok := p.(*mqtt.Puback); n > 0 && (!ok || ack.PacketID != uint16(n)) {
			t.Fatalf("packet %d is %T %+v", n, p, p)
		}
	}
}
