// Package mqtt is the codec of MQTT 3.1.1 (protocol level 4) as a server speaks
// it: strict in what it takes, and holding no memory for a connection that is
// silent.
//
// It is a codec of our own because the kept ones are made for brokers and
// clients: they take what a strict server must refuse, and hold a buffer for
// each connection. The corpus of malformed packets in the tests, and the
// benchmark beside a kept codec, are its justification.
//
// The tags in brackets are the numbered statements of the OASIS standard.
package mqtt

import "fmt"

// A Packet is one control packet: a pointer to one of the types below.
type Packet interface{ packet() }

// Return codes of a CONNACK ([MQTT-3.2.2-3], table 3.1).
const (
	ConnAccepted             = 0
	ConnRefusedVersion       = 1
	ConnRefusedIdentifier    = 2
	ConnRefusedUnavailable   = 3
	ConnRefusedCredentials   = 4
	ConnRefusedNotAuthorized = 5
)

// SubackFailure in a SUBACK refuses a filter.
const SubackFailure = 0x80

// Connect opens a session.
type Connect struct {
	CleanSession bool
	KeepAlive    uint16 // seconds
	ClientID     string
	Will         *Will // nil when there is none
	HasUsername  bool
	Username     string
	HasPassword  bool
	Password     []byte // valid until the next call of Next
}

// Will is what the server publishes for a client that is lost.
type Will struct {
	Topic   string
	Payload []byte // a copy
	QoS     byte
	Retain  bool
}

// Connack answers a Connect.
type Connack struct {
	SessionPresent bool
	Code           byte
}

// Publish carries a message, either way.
type Publish struct {
	Dup      bool
	QoS      byte // 0, 1 or 2
	Retain   bool
	Topic    string
	PacketID uint16 // 0 with QoS 0
	Payload  []byte // valid until the next call of Next
}

// Puback acknowledges a Publish of QoS 1, either way.
type Puback struct{ PacketID uint16 }

// Subscribe asks for topics.
type Subscribe struct {
	PacketID uint16
	Filters  []Subscription // at least one
}

// Subscription is one filter and the highest QoS wanted.
type Subscription struct {
	Filter string
	QoS    byte
}

// Suback answers a Subscribe, a code for each filter: the QoS granted, or
// [SubackFailure].
type Suback struct {
	PacketID uint16
	Codes    []byte
}

// Unsubscribe gives topics up.
type Unsubscribe struct {
	PacketID uint16
	Filters  []string // at least one
}

// Unsuback answers an Unsubscribe.
type Unsuback struct{ PacketID uint16 }

// Pingreq keeps the connection alive; Pingresp answers it.
type (
	Pingreq  struct{}
	Pingresp struct{}
)

// Disconnect ends a session in peace: the will is not published.
type Disconnect struct{}

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

// Malformed says what of the standard a packet breaks. The connection it came on
// must be closed ([MQTT-4.8.0-1]).
type Malformed struct {
	Tag    string // "[MQTT-2.2.2-2]"; empty where the standard has no number for it
	Reason string
}

func (m *Malformed) Error() string {
	if m.Tag == "" {
		return "malformed packet: " + m.Reason
	}
	return "malformed packet: " + m.Reason + " " + m.Tag
}

func malformed(tag, format string, args ...any) error {
	return &Malformed{Tag: tag, Reason: fmt.Sprintf(format, args...)}
}

// UnsupportedVersion is a well-formed beginning of a CONNECT in another version
// of the protocol. It may be answered before the connection is closed
// ([MQTT-3.1.2-2]).
type UnsupportedVersion struct {
	Name  string
	Level byte
}

func (u *UnsupportedVersion) Error() string {
	return fmt.Sprintf("protocol %q level %d is not supported", u.Name, u.Level)
}

// TooLarge is a packet beyond the reader's limit.
type TooLarge struct{ Size, Max int }

func (t *TooLarge) Error() string {
	return fmt.Sprintf("a packet of %d bytes is larger than %d", t.Size, t.Max)
}

// Control packet types (table 2.1).
const (
	typeConnect     = 1
	typeConnack     = 2
	typePublish     = 3
	typePuback      = 4
	typeSubscribe   = 8
	typeSuback      = 9
	typeUnsubscribe = 10
	typeUnsuback    = 11
	typePingreq     = 12
	typePingresp    = 13
	typeDisconnect  = 14
)
