// Package mqtt is the wire of MQTT 3.1.1 as a server needs it: a strict
// [Reader] for what clients send, and Append functions for what is sent to
// them; the other direction too, for tests and load. It knows packets and
// their shape, and neither connections, topics nor devices.
//
// Square brackets cite the numbered statements of the OASIS standard "MQTT
// Version 3.1.1". Control packets of QoS 2 after the PUBLISH are refused:
// nothing in the house speaks QoS 2, so none of them can be due.
//
// It is our own, where a kept library would do, because an idle connection
// must hold no buffer, a stranger's announcement must cost nothing before its
// bytes arrive, and a read that timed out must be able to go on. BenchmarkPublish
// sets it beside mochi-mqtt/server/v2/packets as mochi's server uses that: a
// PUBLISH of QoS 1 with 256 bytes in and its PUBACK out take 0.2 µs and one
// allocation of 48 bytes, against 0.4 µs and two of 384.
package mqtt

import "fmt"

// MaxString is the length in bytes that a string on the wire can have at most
// [MQTT-4.7.3-3].
const MaxString = 65535

// The return codes of a CONNACK, MQTT 3.1.1 table 3.1.
const (
	ConnAccepted             = 0
	ConnRefusedVersion       = 1
	ConnRefusedIdentifier    = 2
	ConnRefusedUnavailable   = 3
	ConnRefusedCredentials   = 4
	ConnRefusedNotAuthorized = 5
)

// SubackFailure answers a filter that is not granted; the other codes of a
// SUBACK are the granted QoS.
const SubackFailure = 0x80

// A Packet is a pointer to one of the packet types below.
type Packet interface{ packet() }

// What a client sends.
type (
	Connect struct {
		ProtocolName string // "MQTT"
		Level        byte   // 4
		CleanSession bool
		KeepAlive    uint16 // seconds; 0 is off
		ClientID     string
		Will         *Will // nil when there is none
		HasUsername  bool
		Username     string
		HasPassword  bool
		Password     []byte
	}
	Subscribe struct {
		PacketID uint16
		Filters  []Subscription // at least one
	}
	Unsubscribe struct {
		PacketID uint16
		Filters  []string // at least one
	}
	Pingreq    struct{}
	Disconnect struct{}
)

// A Will is what to publish when the connection ends without a DISCONNECT.
type Will struct {
	Topic   string
	Payload []byte
	QoS     byte // 0, 1 or 2
	Retain  bool
}

// A Subscription is one filter of a SUBSCRIBE and the QoS that is asked for.
type Subscription struct {
	Filter string
	QoS    byte // 0, 1 or 2
}

// What both sides send.
type (
	// A Publish that a [Reader] gives belongs to the Reader, with its Payload:
	// see [Reader.Next].
	Publish struct {
		Dup      bool
		QoS      byte // 0, 1 or 2
		Retain   bool
		Topic    string
		PacketID uint16 // 0 with QoS 0
		Payload  []byte
	}
	Puback struct{ PacketID uint16 }
)

// What a server sends.
type (
	Connack struct {
		SessionPresent bool
		Code           byte
	}
	Suback struct {
		PacketID uint16
		Codes    []byte // one for each filter: the granted QoS, or [SubackFailure]
	}
	Unsuback struct{ PacketID uint16 }
	Pingresp struct{}
)

func (*Connect) packet()     {}
func (*Connack) packet()     {}
func (*Publish) packet()     {}
func (*Puback) packet()      {}
func (*Subscribe) packet()   {}
func (*Suback) packet()      {}
func (*Unsubscribe) packet() {}
func (*Unsuback) packet()    {}
func (*Pingreq) packet()     {}
func (*Pingresp) packet()    {}
func (*Disconnect) packet()  {}

// Malformed is a packet that the standard forbids, or that this side may not
// send. The connection must be closed [MQTT-4.8.0-1].
type Malformed struct {
	Tag    string // the statement broken, such as "[MQTT-3.1.2-3]"; empty when the bound is ours
	Reason string // holds nothing of what was sent

	// ReturnCode is that of the CONNACK which the standard wants before the
	// close; 0 when it wants none.
	ReturnCode byte
}

func (m *Malformed) Error() string {
	if m.Tag == "" {
		return "malformed MQTT packet: " + m.Reason
	}
	return "malformed MQTT packet: " + m.Reason + " " + m.Tag
}

// UnsupportedVersion is a CONNECT of another protocol or level than MQTT 3.1.1;
// the rest of it was not looked at. It may be answered before the close: by
// [AppendConnackV5] for "MQTT" level 5, else by [ConnRefusedVersion]
// [MQTT-3.1.2-2].
type UnsupportedVersion struct {
	Name  string // at most 16 bytes of it
	Level byte
}

func (v *UnsupportedVersion) Error() string {
	return fmt.Sprintf("protocol %q level %d is not served, only MQTT 3.1.1", v.Name, v.Level)
}

// TooLarge is a packet whose remaining length is beyond what the Reader takes.
// Its body was not read.
type TooLarge struct{ Size, Max int }

func (t *TooLarge) Error() string {
	return fmt.Sprintf("an MQTT packet of %d bytes is larger than %d", t.Size, t.Max)
}

// The types of the control packets, MQTT 3.1.1 table 2.1.
const (
	typeConnect = iota + 1
	typeConnack
	typePublish
	typePuback
	typePubrec
	typePubrel
	typePubcomp
	typeSubscribe
	typeSuback
	typeUnsubscribe
	typeUnsuback
	typePingreq
	typePingresp
	typeDisconnect
)

// violation is the catch-all of the standard, for what no other statement
// numbers: a field cut short, bytes left over, a packet out of place.
const violation = "[MQTT-4.8.0-1]"
