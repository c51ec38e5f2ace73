package mqtt

import (
	"encoding/binary"
	"fmt"
)

// The Append functions append one packet to dst and return it, as append does.
// They trust their caller: a string or a payload that MQTT cannot hold (see
// [MaxString]) is a mistake of the house and panics.

// AppendConnack answers a CONNECT. With a refusal there is no session present
// [MQTT-3.2.2-4].
func AppendConnack(dst []byte, sessionPresent bool, code byte) []byte {
	var flags byte
	if sessionPresent && code == ConnAccepted {
		flags = 1
	}
	return append(dst, typeConnack<<4, 2, flags, code)
}

// AppendConnackV5 refuses a client of MQTT 5 in the form it can read: reason
// 0x84, Unsupported Protocol Version, and no properties.
func AppendConnackV5(dst []byte) []byte { return append(dst, typeConnack<<4, 3, 0, 0x84, 0) }

// AppendPublish writes p; PacketID is left out at QoS 0 [MQTT-2.3.1-5].
func AppendPublish(dst []byte, p *Publish) []byte {
	length := 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > 0 {
		length += 2
	}
	dst = appendHeader(dst, typePublish<<4|bit(p.Dup, 0x08)|p.QoS<<1|bit(p.Retain, 0x01), length)
	dst = appendString(dst, p.Topic)
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	}
	return append(dst, p.Payload...)
}

func AppendPuback(dst []byte, packetID uint16) []byte {
	return append(dst, typePuback<<4, 2, byte(packetID>>8), byte(packetID))
}

// AppendSuback grants, or refuses with [SubackFailure], each filter of a
// SUBSCRIBE in its order [MQTT-3.9.3-1].
func AppendSuback(dst []byte, packetID uint16, codes []byte) []byte {
	dst = appendHeader(dst, typeSuback<<4, 2+len(codes))
	dst = binary.BigEndian.AppendUint16(dst, packetID)
	return append(dst, codes...)
}

func AppendUnsuback(dst []byte, packetID uint16) []byte {
	return append(dst, typeUnsuback<<4, 2, byte(packetID>>8), byte(packetID))
}

func AppendPingresp(dst []byte) []byte { return append(dst, typePingresp<<4, 0) }

// AppendConnect writes c; an empty ProtocolName is MQTT 3.1.1.
func AppendConnect(dst []byte, c *Connect) []byte {
	name, level := c.ProtocolName, c.Level
	if name == "" {
		name, level = "MQTT", 4
	}
	flags := bit(c.CleanSession, 0x02) | bit(c.HasPassword, 0x40) | bit(c.HasUsername, 0x80)
	length := 2 + len(name) + 4 + 2 + len(c.ClientID)
	if c.Will != nil {
		flags |= 0x04 | c.Will.QoS<<3 | bit(c.Will.Retain, 0x20)
		length += 4 + len(c.Will.Topic) + len(c.Will.Payload)
	}
	if c.HasUsername {
		length += 2 + len(c.Username)
	}
	if c.HasPassword {
		length += 2 + len(c.Password)
	}
	dst = appendHeader(dst, typeConnect<<4, length)
	dst = appendString(dst, name)
	dst = append(dst, level, flags)
	dst = binary.BigEndian.AppendUint16(dst, c.KeepAlive)
	dst = appendString(dst, c.ClientID)
	if c.Will != nil {
		dst = appendString(dst, c.Will.Topic)
		dst = appendString(dst, c.Will.Payload)
	}
	if c.HasUsername {
		dst = appendString(dst, c.Username)
	}
	if c.HasPassword {
		dst = appendString(dst, c.Password)
	}
	return dst
}

func AppendSubscribe(dst []byte, s *Subscribe) []byte {
	length := 2
	for _, f := range s.Filters {
		length += 2 + len(f.Filter) + 1
	}
	dst = appendHeader(dst, typeSubscribe<<4|0x02, length)
	dst = binary.BigEndian.AppendUint16(dst, s.PacketID)
	for _, f := range s.Filters {
		dst = append(appendString(dst, f.Filter), f.QoS)
	}
	return dst
}

func AppendUnsubscribe(dst []byte, u *Unsubscribe) []byte {
	length := 2
	for _, f := range u.Filters {
		length += 2 + len(f)
	}
	dst = appendHeader(dst, typeUnsubscribe<<4|0x02, length)
	dst = binary.BigEndian.AppendUint16(dst, u.PacketID)
	for _, f := range u.Filters {
		dst = appendString(dst, f)
	}
	return dst
}

func AppendPingreq(dst []byte) []byte { return append(dst, typePingreq<<4, 0) }

func AppendDisconnect(dst []byte) []byte { return append(dst, typeDisconnect<<4, 0) }

// appendHeader writes the fixed header; the length in as few bytes as it takes,
// MQTT 3.1.1 §2.2.3.
func appendHeader(dst []byte, first byte, length int) []byte {
	if length > maxRemaining {
		panic(fmt.Sprintf("mqtt: a packet of %d bytes", length))
	}
	dst = append(dst, first)
	for ; length >= 0x80; length >>= 7 {
		dst = append(dst, byte(length)|0x80)
	}
	return append(dst, byte(length))
}

// maxRemaining is the most that four bytes of seven bits can say.
const maxRemaining = 1<<28 - 1

func appendString[S string | []byte](dst []byte, s S) []byte {
	if len(s) > MaxString {
		panic(fmt.Sprintf("mqtt: a string of %d bytes", len(s)))
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}

func bit(set bool, mask byte) byte {
	if set {
		return mask
	}
	return 0
}
