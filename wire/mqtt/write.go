package mqtt

import "encoding/binary"

// Each Append adds one packet to dst and gives the longer slice. Texts are at
// most 65,535 bytes and packets at most 268,435,455: the caller sees to it.

// AppendConnack adds a CONNACK.
func AppendConnack(dst []byte, sessionPresent bool, code byte) []byte {
	present := byte(0)
	if sessionPresent && code == ConnAccepted { // [MQTT-3.2.2-4]
		present = 1
	}
	return append(dst, typeConnack<<4, 2, present, code)
}

// AppendConnackV5 adds a CONNACK in the form of MQTT 5 with the reason 0x84,
// Unsupported Protocol Version, and no properties: what a client of that version
// understands.
func AppendConnackV5(dst []byte) []byte { return append(dst, typeConnack<<4, 3, 0, 0x84, 0) }

// AppendPublish adds a PUBLISH.
func AppendPublish(dst []byte, p *Publish) []byte {
	flags := p.QoS << 1
	if p.Dup {
		flags |= 8
	}
	if p.Retain {
		flags |= 1
	}
	size := 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > 0 {
		size += 2
	}
	dst = appendHeader(dst, typePublish<<4|flags, size)
	dst = appendString(dst, p.Topic)
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	}
	return append(dst, p.Payload...)
}

// AppendPuback adds a PUBACK.
func AppendPuback(dst []byte, id uint16) []byte {
	return append(dst, typePuback<<4, 2, byte(id>>8), byte(id))
}

// AppendSuback adds a SUBACK, a code for each filter in the order asked.
func AppendSuback(dst []byte, id uint16, codes []byte) []byte {
	dst = appendHeader(dst, typeSuback<<4, 2+len(codes))
	dst = binary.BigEndian.AppendUint16(dst, id)
	return append(dst, codes...)
}

// AppendUnsuback adds an UNSUBACK.
func AppendUnsuback(dst []byte, id uint16) []byte {
	return append(dst, typeUnsuback<<4, 2, byte(id>>8), byte(id))
}

// AppendPingresp adds a PINGRESP.
func AppendPingresp(dst []byte) []byte { return append(dst, typePingresp<<4, 0) }

// AppendConnect adds a CONNECT, for clients.
func AppendConnect(dst []byte, c *Connect) []byte {
	flags, size := byte(0), 10+2+len(c.ClientID)
	if c.CleanSession {
		flags |= 2
	}
	if w := c.Will; w != nil {
		flags |= 4 | w.QoS<<3
		if w.Retain {
			flags |= 0x20
		}
		size += 4 + len(w.Topic) + len(w.Payload)
	}
	if c.HasUsername {
		flags |= 0x80
		size += 2 + len(c.Username)
	}
	if c.HasPassword {
		flags |= 0x40
		size += 2 + len(c.Password)
	}
	dst = appendHeader(dst, typeConnect<<4, size)
	dst = appendString(dst, "MQTT")
	dst = append(dst, 4, flags)
	dst = binary.BigEndian.AppendUint16(dst, c.KeepAlive)
	dst = appendString(dst, c.ClientID)
	if w := c.Will; w != nil {
		dst = appendString(dst, w.Topic)
		dst = appendString(dst, string(w.Payload))
	}
	if c.HasUsername {
		dst = appendString(dst, c.Username)
	}
	if c.HasPassword {
		dst = appendString(dst, string(c.Password))
	}
	return dst
}

// AppendSubscribe adds a SUBSCRIBE, for clients.
func AppendSubscribe(dst []byte, s *Subscribe) []byte {
	size := 2
	for _, f := range s.Filters {
		size += 3 + len(f.Filter)
	}
	dst = appendHeader(dst, typeSubscribe<<4|2, size)
	dst = binary.BigEndian.AppendUint16(dst, s.PacketID)
	for _, f := range s.Filters {
		dst = append(appendString(dst, f.Filter), f.QoS)
	}
	return dst
}

// AppendUnsubscribe adds an UNSUBSCRIBE, for clients.
func AppendUnsubscribe(dst []byte, u *Unsubscribe) []byte {
	size := 2
	for _, f := range u.Filters {
		size += 2 + len(f)
	}
	dst = appendHeader(dst, typeUnsubscribe<<4|2, size)
	dst = binary.BigEndian.AppendUint16(dst, u.PacketID)
	for _, f := range u.Filters {
		dst = appendString(dst, f)
	}
	return dst
}

// AppendPingreq adds a PINGREQ, for clients.
func AppendPingreq(dst []byte) []byte { return append(dst, typePingreq<<4, 0) }

// AppendDisconnect adds a DISCONNECT, for clients.
func AppendDisconnect(dst []byte) []byte { return append(dst, typeDisconnect<<4, 0) }

func appendHeader(dst []byte, first byte, size int) []byte {
	dst = append(dst, first)
	for size >= 0x80 {
		dst = append(dst, byte(size)|0x80)
		size >>= 7
	}
	return append(dst, byte(size))
}

func appendString(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}
