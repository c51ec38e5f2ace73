package hostile_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	client "github.com/Azure/go-amqp"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/mqtt"
)

// TestAMQPBytes: what is no AMQP, or breaks its rules, ends the connection, at no more
// cost than a close.
func TestAMQPBytes(t *testing.T) {
	a := open(t)
	conf := a.device(t, "evil", a.factory.Device(t, "evil"))
	long := func(n int) string { return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) }
	frame := func(body string) string { return long(len(body)+8) + "\x02\x00\x00\x00" + body }
	list := func(count byte, fields string) string {
		return "\xc0" + string([]byte{byte(len(fields) + 1), count}) + fields
	}
	deep := "\x40"
	for range 1500 {
		deep = "\xd0" + long(len(deep)+4) + long(1) + deep
	}
	withLocales := "\xa1\x04evil\x40\x40\x40\x40" // an open, up to a field of any type
	const header, sasl = "AMQP\x00\x01\x00\x00", "AMQP\x03\x01\x00\x00"
	opened := header + frame("\x00\x53\x10"+list(1, "\xa1\x04evil"))
	begun := opened + frame("\x00\x53\x11"+list(4, "\x40\x43\x43\x43"))
	for _, line := range []struct{ name, send, answer string }{
		{"HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", sasl},
		{"MQTT", string(connectAs("evil")), sasl},
		{"AMQP 0-9-1", "AMQP\x00\x00\x09\x01", sasl},
		{"TLS within AMQP", "AMQP\x02\x01\x00\x00", sasl},
		{"random bytes", "\x8f\x01\xfe\x13\x00\x00\x00\x07\x55\xaa", sasl},
		{"a frame of 4 GB", header + "\xff\xff\xff\xff\x02\x00\x00\x00", "framing-error"},
		{"a frame of 7 bytes", header + "\x00\x00\x00\x07\x02\x00\x00\x00", "framing-error"},
		{"a frame of another type", opened + "\x00\x00\x00\x08\x02\x07\x00\x00", "framing-error"},
		{"a begin before the open", header + begun[len(opened):], "framing-error"},
		{"an open whose name has no end", header + frame("\x00\x53\x10"+list(1, "\xb1\xff\xff\xff\xff")), "decode-error"},
		{"two opens", opened + opened[8:], "framing-error"},
		{"lists in each other, 1500 deep", header + frame("\x00\x53\x10\xd0"+long(4+len(withLocales+deep))+long(6)+withLocales+deep), "too deep"},
		{"an array of two billion nulls", header + frame("\x00\x53\x10"+list(6, withLocales+"\xf0\x00\x00\x00\x05\x7f\xff\xff\xff\x40")), "too many values"},
		{"a transfer on no link", begun + frame("\x00\x53\x14"+list(2, "\x43\x43")+"x"), "unattached-handle"},
		{"a flow that counts what was not sent", begun + frame("\x00\x53\x13"+list(4, "\x52\x09\x43\x43\x43")), "window-violation"},
		{"heartbeats without end", opened + strings.Repeat("\x00\x00\x00\x08\x02\x00\x00\x00", 1000), "resource-limit-exceeded"},
		{"a mechanism that is none", sasl + "\x00\x00\x00\x18\x02\x01\x00\x00\x00\x53\x41" + list(1, "\xa3\x08NONESUCH"), "\x00\x53\x44\xc0\x03\x01\x50\x01"},
		{"a password that is none", sasl + "\x00\x00\x00\x1a\x02\x01\x00\x00\x00\x53\x41" + list(2, "\xa3\x05PLAIN\xa0\x03abc"), "\x00\x53\x44\xc0\x03\x01\x50\x01"},
	} {
		a.line(t, line.name, func(t *testing.T) {
			before := len(a.kept(t, "evil"))
			c, err := tls.Dial("tcp", a.AMQPAddr(), conf)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			io.WriteString(c, line.send) // may fail: the server need not wait for all of it
			said, err := io.ReadAll(c)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the server does not hang up; it said %q", said)
			}
			if len(said) > 1<<10 || !strings.Contains(string(said), line.answer) {
				t.Errorf("it said %q", said)
			}
			if n := len(a.kept(t, "evil")); n != before {
				t.Errorf("%d messages are stored", n-before)
			}
		})
	}
	a.line(t, "no TLS", func(t *testing.T) {
		c, err := net.Dial("tcp", a.AMQPAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, header)
		if said, err := io.ReadAll(c); len(said) > 16 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q %v", said, err)
		}
	})
}

// TestAMQP: what a device that is who it says may not do all the same, as TestMQTT.
func TestAMQP(t *testing.T) {
	a := open(t)
	conf := a.device(t, "evil", a.factory.Device(t, "evil"))
	victimConf := a.device(t, "victim", a.factory.Device(t, "victim"))
	victim := a.Dial(t, victimConf)
	if code := victim.Connect(t, host, "victim"); code != mqtt.ConnAccepted {
		t.Fatalf("CONNACK %d", code)
	}
	const own, theirs = "/devices/evil/messages/events", "/devices/victim/messages/events"
	large := &client.Message{Data: [][]byte{make([]byte, signet.MaxMessageSize+1)}}
	for _, line := range []struct {
		name     string
		in       bool // the device is let in first
		receives bool // it attaches as receiver
		address  string
		send     *client.Message
		want     string // condition
	}{
		{"a link to another device's telemetry", false, false, theirs, nil, "amqp:unauthorized-access"},
		{"a link to another device's messages", false, true, "/devices/victim/messages/devicebound", nil, "amqp:unauthorized-access"},
		{"a link to a module of another device", false, true, "/devices/victim/modules/m/twin", nil, "amqp:unauthorized-access"},
		{"the same, once let in: telemetry", true, false, theirs, nil, "amqp:not-allowed"},
		{"the same: messages", true, true, "/devices/victim/messages/devicebound", nil, "amqp:not-allowed"},
		{"the same: the twin", true, true, "/devices/victim/twin", nil, "amqp:not-allowed"},
		{"the same: methods", true, true, "/devices/victim/methods/devicebound", nil, "amqp:not-allowed"},
		{"the ID of another in another way", true, false, "amqps://" + host + "/devices/vict%69m/messages/events", nil, "amqp:not-allowed"},
		{"a node of back ends", true, true, "/messages/serviceBound/feedback", nil, "amqp:not-found"},
		{"sending to devices", true, false, "/messages/devicebound", nil, "amqp:not-found"},
		{"a message of 262,145 bytes", true, false, own, large, "amqp:link:message-size-exceeded"},
		{"a message that is none", true, false, own, &client.Message{Format: 0x80013700, Data: [][]byte{bytes.Repeat([]byte{0xd0}, 1000)}}, "com.microsoft:argument-error"},
		{"an answer that nobody waits for", true, false, "/devices/evil/methods/devicebound", &client.Message{Properties: &client.MessageProperties{CorrelationID: client.UUID{}},
			ApplicationProperties: map[string]any{"IoThub-status": int32(200)}}, "<nil>"},
	} {
		a.line(t, line.name, func(t *testing.T) {
			before := len(a.kept(t, "evil"))
			nc, err := tls.Dial("tcp", a.AMQPAddr(), conf)
			if err != nil {
				t.Fatal(err)
			}
			c, err := client.NewConn(t.Context(), nc, &client.ConnOptions{HostName: host})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			s, err := c.NewSession(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if line.in {
				if _, err := s.NewReceiver(t.Context(), "/devices/evil/twin", nil); err != nil {
					t.Fatal(err)
				}
			}
			if line.receives {
				_, err = s.NewReceiver(t.Context(), line.address, nil)
			} else {
				var out *client.Sender
				if out, err = s.NewSender(t.Context(), line.address, nil); err == nil && line.send != nil {
					err = out.Send(t.Context(), line.send, nil)
				}
			}
			got := fmt.Sprint(err)
			if e, ok := errors.AsType[*client.Error](err); ok {
				got = string(e.Condition)
			}
			if got != line.want {
				t.Errorf("answered by %s: %v", got, err)
			}
			a.unharmed(t, victim, before)
		})
	}
}
