package hubtest

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/mqtt"
)

// patience is how long a device waits for anything: no test waits for it to be over, and
// a busy machine takes its time.
const patience = 2 * time.Minute

// A Device is a plain MQTT client: what the SDKs do, packet by packet.
type Device struct {
	*tls.Conn
	In *mqtt.Reader
}

// Dial makes the TLS connection of a device, and no more.
func (h *Hub) Dial(t testing.TB, conf *tls.Config) *Device {
	t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", h.MQTTAddr(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return &Device{c, mqtt.NewClientReader(c, 1<<19)}
}

// Connect sends CONNECT to a hub as a device, for a clean session, and gives the return
// code of the CONNACK.
func (d *Device) Connect(t testing.TB, host, id string) byte {
	t.Helper()
	d.Send(t, mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, KeepAlive: 60, ClientID: id, CleanSession: true,
		HasUsername: true, Username: host + "/" + id + "/?api-version=2021-04-12"}))
	p, err := d.In.Next()
	ack, ok := p.(*mqtt.Connack)
	if err != nil || !ok {
		t.Fatalf("%T %v where a CONNACK was due", p, err)
	}
	return ack.Code
}

// Publish sends telemetry with QoS 1 and waits for the PUBACK.
func (d *Device) Publish(t testing.TB, id, body string) {
	t.Helper()
	d.Send(t, mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: 1, Topic: "devices/" + id + "/messages/events/", Payload: []byte(body)}))
	if p, err := d.In.Next(); err != nil {
		t.Fatal(err)
	} else if _, ok := p.(*mqtt.Puback); !ok {
		t.Fatalf("%T where a PUBACK was due", p)
	}
}

// Send writes packets.
func (d *Device) Send(t testing.TB, packets []byte) {
	t.Helper()
	if _, err := d.Write(packets); err != nil {
		t.Fatal(err)
	}
}

// WaitClosed waits until the server has closed the connection.
func (d *Device) WaitClosed(t testing.TB) {
	t.Helper()
	for {
		_, err := d.In.Next()
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Fatal("the connection lives on")
		}
		if err != nil {
			return
		}
	}
}

// CADevice makes an identity that authenticates by CA.
func (h *Hub) CADevice(t testing.TB, hub, id string) signet.Identity {
	t.Helper()
	i, err := h.Registry().Create(t.Context(), signet.Identity{Hub: hub, DeviceID: id, Auth: signet.Authentication{Type: signet.AuthCA}})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// Trust registers a CA at a hub, verified.
func (h *Hub) Trust(t testing.TB, hub string, ca *CA) signet.CACertificate {
	t.Helper()
	c, _, err := h.Authority().Register(t.Context(), hub, "ca-"+signet.NewETag(), PEM(ca.Cert.Raw), true, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}
