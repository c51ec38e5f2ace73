package mqtt

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// MaxFilters bounds the filters of one SUBSCRIBE or UNSUBSCRIBE: the SDKs send
// five at most, and 65,000 would fit into a packet.
const MaxFilters = 128

// shapes says of each packet type what its fixed header must hold and who may
// send it. A length of -1 is free.
var shapes = [16]struct {
	name           string
	flags          byte
	flagsTag       string
	client, server bool
	length         int
}{
	typeConnect:     {"CONNECT", 0, "[MQTT-2.2.2-2]", true, false, -1},
	typeConnack:     {"CONNACK", 0, "[MQTT-2.2.2-2]", false, true, 2},
	typePublish:     {"PUBLISH", 0, "", true, true, -1}, // its flags have a meaning
	typePuback:      {"PUBACK", 0, "[MQTT-2.2.2-2]", true, true, 2},
	typePubrec:      {"PUBREC", 0, "[MQTT-2.2.2-2]", false, false, 2},
	typePubrel:      {"PUBREL", 2, "[MQTT-3.6.1-1]", false, false, 2},
	typePubcomp:     {"PUBCOMP", 0, "[MQTT-2.2.2-2]", false, false, 2},
	typeSubscribe:   {"SUBSCRIBE", 2, "[MQTT-3.8.1-1]", true, false, -1},
	typeSuback:      {"SUBACK", 0, "[MQTT-2.2.2-2]", false, true, -1},
	typeUnsubscribe: {"UNSUBSCRIBE", 2, "[MQTT-3.10.1-1]", true, false, -1},
	typeUnsuback:    {"UNSUBACK", 0, "[MQTT-2.2.2-2]", false, true, 2},
	typePingreq:     {"PINGREQ", 0, "[MQTT-2.2.2-2]", true, false, 0},
	typePingresp:    {"PINGRESP", 0, "[MQTT-2.2.2-2]", false, true, 0},
	typeDisconnect:  {"DISCONNECT", 0, "[MQTT-3.14.1-1]", true, false, 0},
}

// checkFirst judges the first byte, before anything of the packet is waited for.
func checkFirst(first byte, server bool) *Malformed {
	s := &shapes[first>>4]
	switch flags := first & 0x0F; {
	case s.name == "":
		return &Malformed{Tag: violation, Reason: fmt.Sprintf("packet type %d is reserved", first>>4)}
	case first>>4 == typePublish:
		if flags&0x06 == 0x06 {
			return &Malformed{Tag: "[MQTT-3.3.1-4]", Reason: "PUBLISH of QoS 3"}
		}
		if flags&0x0E == 0x08 {
			return &Malformed{Tag: "[MQTT-3.3.1-2]", Reason: "PUBLISH with DUP at QoS 0"}
		}
	case flags != s.flags:
		return &Malformed{Tag: s.flagsTag, Reason: fmt.Sprintf("%s with flags %04b", s.name, flags)}
	case !s.client && !s.server:
		return &Malformed{Tag: violation, Reason: s.name + " where no QoS 2 is under way"}
	}
	if server && !s.server || !server && !s.client {
		return &Malformed{Tag: violation, Reason: s.name + " from the wrong side"}
	}
	return nil
}

// checkLength judges the remaining length, before the body is waited for.
func checkLength(first byte, length int) *Malformed {
	if s := &shapes[first>>4]; s.length >= 0 && s.length != length {
		return &Malformed{Tag: violation, Reason: fmt.Sprintf("%s of %d bytes, not %d", s.name, length, s.length)}
	}
	return nil
}

// decode takes a whole packet apart, whose fixed header has been judged.
func (r *Reader) decode(packet []byte, header int) (Packet, error) {
	first, f := packet[0], fields{rest: packet[header:]}
	var p Packet
	switch first >> 4 {
	case typeConnect:
		c, err := decodeConnect(&f)
		clear(packet) // a password does not stay in a buffer that others get
		if err != nil {
			return nil, err
		}
		p = c
	case typePublish:
		decodePublish(&f, first, &r.publish, r.topic)
		if r.topic = r.publish.Topic; len(r.topic) > maxRemembered {
			r.topic = ""
		}
		p = &r.publish
	case typePuback:
		p = &Puback{f.packetID("[MQTT-2.3.1-6]")}
	case typeSubscribe:
		s := &Subscribe{PacketID: f.packetID("[MQTT-2.3.1-1]")}
		for f.more(len(s.Filters), "[MQTT-3.8.3-3]") {
			filter := f.filter("[MQTT-3.8.3-1]")
			qos := f.byte("[MQTT-3.8.3-3]", "the QoS of a filter")
			if qos > 2 {
				f.fail("[MQTT-3-8.3-4]", "a filter with a QoS that is none")
			}
			s.Filters = append(s.Filters, Subscription{filter, qos})
		}
		p = s
	case typeUnsubscribe:
		u := &Unsubscribe{PacketID: f.packetID("[MQTT-2.3.1-1]")}
		for f.more(len(u.Filters), "[MQTT-3.10.3-2]") {
			u.Filters = append(u.Filters, f.filter("[MQTT-3.10.3-1]"))
		}
		p = u
	case typePingreq:
		p = &Pingreq{}
	case typeDisconnect:
		p = &Disconnect{}
	case typeConnack:
		flags, code := f.byte(violation, "the flags"), f.byte(violation, "the return code")
		if flags > 1 || code > ConnRefusedNotAuthorized {
			f.fail("[MQTT-2.2.2-1]", "CONNACK with a reserved flag or return code")
		}
		if flags == 1 && code != ConnAccepted {
			f.fail("[MQTT-3.2.2-4]", "CONNACK of a refusal with a session present")
		}
		p = &Connack{flags == 1, code}
	case typeSuback:
		s := &Suback{PacketID: f.packetID("[MQTT-2.3.1-7]")}
		for f.more(len(s.Codes), violation) {
			code := f.byte(violation, "a return code")
			if code > 2 && code != SubackFailure {
				f.fail("[MQTT-3.9.3-2]", "SUBACK with a reserved return code")
			}
			s.Codes = append(s.Codes, code)
		}
		p = s
	case typeUnsuback:
		p = &Unsuback{f.packetID("[MQTT-2.3.1-7]")}
	case typePingresp:
		p = &Pingresp{}
	}
	if f.bad != nil {
		return nil, f.bad
	}
	return p, nil
}

// decodePublish looks at a topic only if it is not that of the PUBLISH before.
func decodePublish(f *fields, first byte, p *Publish, before string) {
	p.Dup, p.QoS, p.Retain = first&0x08 != 0, first>>1&0x03, first&0x01 != 0
	if n := 2 + len(before); before != "" && len(f.rest) >= n && int(binary.BigEndian.Uint16(f.rest)) == len(before) && string(f.rest[2:n]) == before {
		p.Topic, f.rest = before, f.rest[n:]
	} else {
		p.Topic = f.topic("[MQTT-3.3.2-1]", "[MQTT-3.3.2-2]")
	}
	if p.QoS > 0 {
		p.PacketID = f.packetID("[MQTT-2.3.1-1]")
	}
	p.Payload = f.rest[:len(f.rest):len(f.rest)]
}

func decodeConnect(f *fields) (*Connect, error) {
	name := f.text(violation, "the protocol name")
	c := &Connect{Level: f.byte(violation, "the protocol level")}
	if f.bad == nil && (string(name) != "MQTT" || c.Level != 4) {
		return nil, &UnsupportedVersion{Name: string(name[:min(len(name), 16)]), Level: c.Level}
	}
	c.ProtocolName = "MQTT"
	flags := f.byte(violation, "the connect flags")
	c.CleanSession = flags&0x02 != 0
	will, willQoS, willRetain := flags&0x04 != 0, flags>>3&0x03, flags&0x20 != 0
	c.HasPassword, c.HasUsername = flags&0x40 != 0, flags&0x80 != 0
	switch {
	case flags&0x01 != 0:
		f.fail("[MQTT-3.1.2-3]", "CONNECT with the reserved flag")
	case !will && (willQoS != 0 || willRetain):
		f.fail("[MQTT-3.1.2-11]", "CONNECT with will QoS or retain and no will")
	case willQoS == 3:
		f.fail("[MQTT-3.1.2-14]", "CONNECT with will QoS 3")
	case c.HasPassword && !c.HasUsername:
		f.fail("[MQTT-3.1.2-22]", "CONNECT with a password and no user name")
	}
	c.KeepAlive = f.uint16(violation, "the keep alive")
	c.ClientID = string(f.text("[MQTT-3.1.3-3]", "the client ID"))
	if c.ClientID == "" && !c.CleanSession && f.bad == nil {
		f.fail("[MQTT-3.1.3-8]", "CONNECT that wants an empty client ID remembered")
		f.bad.ReturnCode = ConnRefusedIdentifier
	}
	// What a missing flag says is not there shows as bytes left over.
	leftover := "[MQTT-3.1.2-18]"
	if will {
		c.Will = &Will{QoS: willQoS, Retain: willRetain}
		c.Will.Topic = f.topic("[MQTT-3.1.2-9]", "[MQTT-4.7.1-1]")
		c.Will.Payload = append([]byte{}, f.bytes("[MQTT-3.1.2-9]", "the will message")...)
	}
	if c.HasUsername {
		c.Username = string(f.text("[MQTT-3.1.2-19]", "the user name"))
		leftover = "[MQTT-3.1.2-20]"
	}
	if c.HasPassword {
		c.Password = append([]byte{}, f.bytes("[MQTT-3.1.2-21]", "the password")...)
		leftover = violation
	}
	if len(f.rest) > 0 {
		f.fail(leftover, "CONNECT with bytes left over")
	}
	if f.bad != nil {
		return nil, f.bad
	}
	return c, nil
}

// fields takes a body apart from its front. The first mistake stays; after it
// every field is empty.
type fields struct {
	rest []byte
	bad  *Malformed
}

func (f *fields) fail(tag, reason string) {
	if f.bad == nil {
		f.bad = &Malformed{Tag: tag, Reason: reason}
	}
	f.rest = nil
}

func (f *fields) take(n int, tag, what string) []byte {
	if len(f.rest) < n {
		f.fail(tag, "the packet ends before or within "+what)
		return nil
	}
	b := f.rest[:n]
	f.rest = f.rest[n:]
	return b
}

func (f *fields) byte(tag, what string) byte {
	if b := f.take(1, tag, what); b != nil {
		return b[0]
	}
	return 0
}

func (f *fields) uint16(tag, what string) uint16 {
	if b := f.take(2, tag, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (f *fields) bytes(tag, what string) []byte {
	return f.take(int(f.uint16(tag, what)), tag, what)
}

// packetID is never 0 [MQTT-2.3.1-1].
func (f *fields) packetID(tag string) uint16 {
	id := f.uint16(violation, "the packet ID")
	if id == 0 {
		f.fail(tag, "a packet ID of 0")
	}
	return id
}

// text is a UTF-8 string, MQTT 3.1.1 §1.5.3. Control codes and non-characters,
// which a receiver may refuse, are refused: no client of the field has a use for
// them, and they are trouble in logs and topics.
func (f *fields) text(tag, what string) []byte {
	b := f.bytes(tag, what)
	for _, c := range b {
		if c < 0x20 || c > 0x7E {
			f.checkUTF8(b, what)
			break
		}
	}
	return b
}

func (f *fields) checkUTF8(b []byte, what string) {
	if !utf8.Valid(b) { // finds surrogates too
		f.fail("[MQTT-1.5.3-1]", what+" is not UTF-8")
		return
	}
	for _, c := range string(b) {
		switch {
		case c == 0:
			f.fail("[MQTT-1.5.3-2]", what+" holds U+0000")
		case c < 0x20 || 0x7F <= c && c <= 0x9F:
			f.fail("", what+" holds a control code")
		case 0xFDD0 <= c && c <= 0xFDEF || c&0xFFFE == 0xFFFE:
			f.fail("", what+" holds a non-character")
		}
	}
}

// topic is a topic name: not empty, and without wildcards.
func (f *fields) topic(tag, wildcardTag string) string {
	b := f.text(tag, "the topic")
	if len(b) == 0 {
		f.fail("[MQTT-4.7.3-1]", "an empty topic")
	}
	for _, c := range b {
		if c == '#' || c == '+' {
			f.fail(wildcardTag, "a topic with a wildcard")
		}
	}
	return string(b)
}

// filter is a topic filter: not empty, "#" alone on the last level, "+" alone on
// its own.
func (f *fields) filter(tag string) string {
	b := f.text(tag, "a filter")
	if len(b) == 0 {
		f.fail("[MQTT-4.7.3-1]", "an empty filter")
	}
	for i, c := range b {
		alone := (i == 0 || b[i-1] == '/') && (i == len(b)-1 || b[i+1] == '/')
		switch {
		case c == '#' && (!alone || i != len(b)-1):
			f.fail("[MQTT-4.7.1-2]", "a filter where # is not the last level")
		case c == '+' && !alone:
			f.fail("[MQTT-4.7.1-3]", "a filter where + is not a whole level")
		}
	}
	return string(b)
}

// more tells whether a list goes on: it has one entry at least and
// [MaxFilters] at most.
func (f *fields) more(have int, emptyTag string) bool {
	switch {
	case f.bad != nil:
		return false
	case have == 0 && len(f.rest) == 0:
		f.fail(emptyTag, "a list with nothing in it")
		return false
	case have == MaxFilters && len(f.rest) > 0:
		f.fail("", fmt.Sprintf("more than %d filters", MaxFilters))
		return false
	}
	return len(f.rest) > 0
}
