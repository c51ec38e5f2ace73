package hostile_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/wire/mqtt"
)

func publish(topic string, qos byte, id uint16, body string) []byte {
	return mqtt.AppendPublish(nil, &mqtt.Publish{QoS: qos, PacketID: id, Topic: topic, Payload: []byte(body)})
}

func subscribe(filter string, qos byte) []byte {
	return mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: filter, QoS: qos}}})
}

// patched gives a packet with one byte changed, counted from the end if negative.
func patched(packet []byte, at int, to byte) []byte {
	if at < 0 {
		at += len(packet)
	}
	packet[at] = to
	return packet
}

// TestMQTT: what a device that is who it says may not do all the same. Another
// device is connected all the while: nothing of this reaches it, or is stored in
// its name.
func TestMQTT(t *testing.T) {
	a := open(t)
	conf := a.device(t, "evil", a.factory.Device(t, "evil"))
	victimConf := a.device(t, "victim", a.factory.Device(t, "victim"))
	victim := a.Dial(t, victimConf)
	if code := victim.Connect(t, host, "victim"); code != mqtt.ConnAccepted {
		t.Fatalf("CONNACK %d", code)
	}
	const own, theirs = "devices/evil/messages/events/", "devices/victim/messages/events/"
	as := func(client, username string, will *mqtt.Will) []byte {
		return mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, KeepAlive: 60, ClientID: client, HasUsername: true, Username: username, Will: will})
	}
	refused := string(mqtt.AppendConnack(nil, false, mqtt.ConnRefusedNotAuthorized))
	in := connectAs("evil")
	for _, line := range []struct {
		name   string
		in     bool // the device is let in first
		send   []byte
		answer string // all of it, before the server hangs up
	}{
		{"PUBLISH before CONNECT", false, publish(own, 1, 1, "x"), ""},
		{"SUBSCRIBE before CONNECT", false, subscribe("#", 1), ""},
		{"PINGREQ before CONNECT", false, mqtt.AppendPingreq(nil), ""},
		{"CONNECT twice", true, in, ""},
		{"a remaining length of five bytes", false, []byte("\x10\xff\xff\xff\xff\x7f"), ""},
		{"a remaining length of five bytes, once let in", true, []byte("\x30\xff\xff\xff\xff\x7f"), ""},
		{"the client ID of another device", false, as("victim", host+"/victim/?api-version=2021-04-12", nil), refused},
		{"the client ID of another, the user name one's own", false, as("victim", host+"/evil/?api-version=2021-04-12", nil), refused},
		{"the user name of another device", false, as("evil", host+"/victim/?api-version=2021-04-12", nil), refused},
		{"the user name of another hub", false, as("evil", "other.test/evil/?api-version=2021-04-12", nil), refused},
		{"a module of another device", false, as("victim/m", host+"/victim/m/?api-version=2021-04-12", nil), refused},
		{"a will on another device's topic", false, as("evil", host+"/evil", &mqtt.Will{Topic: theirs, Payload: []byte("x")}), refused},
		{"PUBLISH on another device's topic, QoS 0", true, publish(theirs, 0, 0, "x"), ""},
		{"PUBLISH on another device's topic, QoS 1", true, publish(theirs, 1, 1, "x"), ""},
		{"PUBLISH as the hub", true, publish("$iothub/methods/POST/reboot/?$rid=1", 1, 1, "x"), ""},
		{"SUBSCRIBE to #", true, subscribe("#", 0), ""},
		{"SUBSCRIBE with + for the device", true, subscribe("devices/+/messages/events/#", 0), ""},
		{"SUBSCRIBE with + for device and module", true, subscribe("devices/+/modules/+/messages/devicebound/#", 0), ""},
		{"SUBSCRIBE to another device's commands", true, subscribe("devices/victim/messages/devicebound/#", 1), ""},
		{"SUBSCRIBE to another device's telemetry", true, subscribe(theirs+"#", 1), ""},
		{"PUBLISH of QoS 2", true, publish(own, 2, 1, "x"), ""},
		{"QoS 3", true, patched(publish(own, 1, 1, ""), 0, 0x36), ""},
		{"packet ID 0", true, patched(publish(own, 1, 1, ""), -1, 0), ""},
		{"DUP with QoS 0", true, patched(publish(own, 0, 0, ""), 0, 0x38), ""},
		{"an empty topic", true, []byte("\x30\x02\x00\x00"), ""},
		{"NUL in the topic", true, []byte("\x30\x04\x00\x02a\x00"), ""},
		{"a message of 262,145 bytes", true, publish(own, 1, 1, strings.Repeat("x", signet.MaxMessageSize+1)), ""},
	} {
		a.line(t, line.name, func(t *testing.T) {
			before := len(a.kept(t, "evil"))
			d := a.Dial(t, conf)
			d.SetDeadline(time.Now().Add(patience))
			if line.in {
				d.Send(t, in)
				if ack, err := d.In.Next(); err != nil || ack.(*mqtt.Connack).Code != mqtt.ConnAccepted {
					t.Fatal(ack, err)
				}
			}
			d.Write(line.send)               // may fail: the server need not wait for all of it
			d.Write(mqtt.AppendPingreq(nil)) // is answered by a server that goes on
			said, err := io.ReadAll(d)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the server does not hang up; it said %x", said)
			}
			if string(said) != line.answer {
				t.Errorf("answered by %x, not %x", said, line.answer)
			}
			a.unharmed(t, victim, before)
		})
	}

	// begin has a device let in that has leave to do what follows.
	begin := func(t *testing.T, connect []byte) *hubtest.Device {
		t.Helper()
		d := a.Dial(t, conf)
		d.Send(t, connect)
		if ack, err := d.In.Next(); err != nil || ack.(*mqtt.Connack).Code != 0 {
			t.Fatal(ack, err)
		}
		return d
	}
	last := func(t *testing.T) *signet.Message {
		t.Helper()
		all := a.kept(t, "evil")
		if len(all) == 0 {
			return &signet.Message{}
		}
		return all[len(all)-1]
	}
	a.line(t, "SUBSCRIBE of QoS 2", func(t *testing.T) {
		d := begin(t, in)
		d.Send(t, subscribe("devices/evil/messages/devicebound/#", 2))
		if p, err := d.In.Next(); err != nil || !bytes.Equal(p.(*mqtt.Suback).Codes, []byte{1}) {
			t.Errorf("%v %v", p, err)
		}
	})
	a.line(t, "a message of 262,144 bytes", func(t *testing.T) {
		begin(t, in).Publish(t, "evil", strings.Repeat("x", signet.MaxMessageSize))
	})
	a.line(t, "PUBLISH with RETAIN", func(t *testing.T) {
		d := begin(t, in)
		d.Send(t, mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: 1, Retain: true, Topic: own, Payload: []byte("kept?")}))
		if p, err := d.In.Next(); err != nil {
			t.Fatal(p, err)
		}
		if m := last(t); string(m.Body) != "kept?" || !slices.Contains(m.Properties, signet.Property{Name: "mqtt-retain", Value: "true"}) {
			t.Errorf("%+v", m)
		}
		d.Send(t, slices.Concat(subscribe("devices/evil/messages/devicebound/#", 1), mqtt.AppendPingreq(nil)))
		for _, want := range []byte{0x90, 0xd0} { // SUBACK, PINGRESP and nothing that was retained
			p, err := d.In.Next()
			if _, retained := p.(*mqtt.Publish); err != nil || retained {
				t.Errorf("%T %v where %x was due", p, err, want)
			}
		}
	})
	lost := as("evil", host+"/evil", &mqtt.Will{Topic: own, Payload: []byte("lost"), QoS: 1})
	a.line(t, "a second connection", func(t *testing.T) {
		first := begin(t, lost)
		second := begin(t, in)
		first.SetDeadline(time.Now().Add(patience))
		first.WaitClosed(t)
		soon(t, "the will", func() bool { return string(last(t).Body) == "lost" })
		second.Publish(t, "evil", "the second is served")
	})
	a.line(t, "silence", func(t *testing.T) {
		d := begin(t, mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, KeepAlive: 1, ClientID: "evil", HasUsername: true, Username: host + "/evil",
			Will: &mqtt.Will{Topic: own, Payload: []byte("fell silent"), QoS: 1}}))
		start := time.Now()
		d.SetDeadline(start.Add(patience))
		d.WaitClosed(t)
		if took := time.Since(start); took < 1400*time.Millisecond {
			t.Errorf("closed after %v", took)
		}
		soon(t, "the will", func() bool { return string(last(t).Body) == "fell silent" })
	})
}
