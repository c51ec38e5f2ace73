package mqtt

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync"
	"unicode/utf8"
)

// A Reader reads packets from a connection. While it waits for the first byte of
// a packet it holds no buffer. It is not safe for concurrent use.
type Reader struct {
	r      io.Reader
	max    int
	server bool // takes what servers send, not what clients send
	first  [1]byte
	buf    *[]byte // of the packet that was given out last
}

// NewReader reads what a client sends. max bounds a packet's remaining length in
// bytes; a larger one is refused before it is read.
func NewReader(r io.Reader, max int) *Reader { return &Reader{r: r, max: max} }

// NewClientReader reads what a server sends.
func NewClientReader(r io.Reader, max int) *Reader { return &Reader{r: r, max: max, server: true} }

// SetMax changes the bound for the packets to come.
func (r *Reader) SetMax(max int) { r.max = max }

// Next reads one packet. The error is that of the connection (io.EOF between
// packets, io.ErrUnexpectedEOF within one), a *[Malformed], a *[TooLarge] or an
// *[UnsupportedVersion]; after any of them nothing more can be read.
func (r *Reader) Next() (Packet, error) {
	r.release()
	if _, err := io.ReadFull(r.r, r.first[:]); err != nil {
		return nil, err
	}
	kind, flags := r.first[0]>>4, r.first[0]&0x0f
	// Type and flags are judged before anything more is read.
	if err := r.checkHeader(kind, flags); err != nil {
		return nil, err
	}
	size, err := r.remainingLength()
	if err != nil {
		return nil, err
	}
	if size > r.max {
		return nil, &TooLarge{size, r.max}
	}
	body, err := r.read(size)
	if err != nil {
		return nil, err
	}
	d := decoder{rest: body}
	p := d.packet(kind, flags)
	if d.err == nil && len(d.rest) > 0 {
		d.err = malformed("", "%d bytes follow the end of the packet", len(d.rest))
	}
	if d.err != nil {
		return nil, d.err
	}
	return p, nil
}

func (r *Reader) checkHeader(kind, flags byte) error {
	var allowed bool
	switch kind {
	case typeConnect, typeSubscribe, typeUnsubscribe, typePingreq, typeDisconnect:
		allowed = !r.server
	case typeConnack, typeSuback, typeUnsuback, typePingresp:
		allowed = r.server
	case typePublish, typePuback:
		allowed = true
	}
	switch {
	case !allowed:
		// The reserved types 0 and 15, what only the other side may send, and the
		// rest of the QoS 2 flow, which nobody has begun.
		return malformed("[MQTT-4.8.0-1]", "a packet of type %d is not expected here", kind)
	case kind == typePublish:
		switch {
		case flags>>1&3 == 3:
			return malformed("[MQTT-3.3.1-4]", "QoS 3")
		case flags>>1&3 == 0 && flags&8 != 0:
			return malformed("[MQTT-3.3.1-2]", "DUP with QoS 0")
		}
	case kind == typeSubscribe && flags != 2:
		return malformed("[MQTT-3.8.1-1]", "flags %#x", flags)
	case kind == typeUnsubscribe && flags != 2:
		return malformed("[MQTT-3.10.1-1]", "flags %#x", flags)
	case kind != typeSubscribe && kind != typeUnsubscribe && flags != 0:
		return malformed("[MQTT-2.2.2-2]", "flags %#x", flags)
	}
	return nil
}

// remainingLength reads 1 to 4 bytes of 7 bits each (§2.2.3).
func (r *Reader) remainingLength() (int, error) {
	n := 0
	for shift := 0; shift < 28; shift += 7 {
		if _, err := io.ReadFull(r.r, r.first[:]); err != nil {
			return 0, unexpected(err)
		}
		n |= int(r.first[0]&0x7f) << shift
		if r.first[0]&0x80 == 0 {
			return n, nil
		}
	}
	return 0, malformed("", "the remaining length has more than four bytes")
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Buffers of packets under way, in two sizes: most packets are small.
var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<10); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}
)

// read reads the body of a packet. A body beyond the pooled sizes gets memory as
// its bytes arrive, so that an announcement alone costs its sender's peer
// little.
func (r *Reader) read(size int) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	pool := &smallBuffers
	if size > 1<<10 {
		pool = &largeBuffers
	}
	r.buf = pool.Get().(*[]byte)
	b := (*r.buf)[:0]
	for len(b) < size {
		if cap(b) == len(b) {
			grown := make([]byte, len(b), min(size, 4*cap(b)))
			copy(grown, b)
			b = grown
		}
		next := b[len(b):min(size, cap(b))]
		if _, err := io.ReadFull(r.r, next); err != nil {
			return nil, unexpected(err)
		}
		b = b[:len(b)+len(next)]
	}
	return b, nil
}

// release gives the buffer of the last packet back.
func (r *Reader) release() {
	if r.buf == nil {
		return
	}
	if cap(*r.buf) <= 1<<10 {
		smallBuffers.Put(r.buf)
	} else {
		largeBuffers.Put(r.buf)
	}
	r.buf = nil
}

// A decoder takes a packet's body apart; the first mistake stays.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
		d.rest = nil
	}
}

func (d *decoder) packet(kind, flags byte) Packet {
	switch kind {
	case typeConnect:
		return d.connect()
	case typePublish:
		return d.publish(flags)
	case typePuback:
		return &Puback{d.packetID("[MQTT-2.3.1-1]")}
	case typeSubscribe:
		return d.subscribe()
	case typeUnsubscribe:
		return d.unsubscribe()
	case typePingreq:
		return &Pingreq{}
	case typeDisconnect:
		return &Disconnect{}
	case typeConnack:
		present := d.byte()
		if present > 1 {
			d.fail(malformed("[MQTT-3.2.2-1]", "acknowledge flags %#x", present))
		}
		return &Connack{present == 1, d.byte()}
	case typeSuback:
		p := &Suback{PacketID: d.packetID("[MQTT-2.3.1-1]")}
		p.Codes = append(p.Codes, d.rest...)
		d.rest = nil
		return p
	case typeUnsuback:
		return &Unsuback{d.packetID("[MQTT-2.3.1-1]")}
	default: // typePingresp: checkHeader lets nothing else through
		return &Pingresp{}
	}
}

func (d *decoder) connect() Packet {
	name := d.string()
	level := d.byte()
	if d.err != nil {
		return nil
	}
	// Level 3 is "MQIsdp"; level 5 shares the name.
	if name != "MQTT" || level != 4 {
		if name == "MQTT" || name == "MQIsdp" {
			d.fail(&UnsupportedVersion{name, level})
		} else {
			d.fail(malformed("[MQTT-3.1.2-1]", "the protocol name is not MQTT"))
		}
		return nil
	}
	flags := d.byte()
	c := &Connect{CleanSession: flags&2 != 0, HasUsername: flags&0x80 != 0, HasPassword: flags&0x40 != 0}
	hasWill, willQoS, willRetain := flags&4 != 0, flags>>3&3, flags&0x20 != 0
	switch {
	case flags&1 != 0:
		d.fail(malformed("[MQTT-3.1.2-3]", "the reserved connect flag is set"))
	case !hasWill && willQoS != 0:
		d.fail(malformed("[MQTT-3.1.2-13]", "a will QoS without a will"))
	case willQoS == 3:
		d.fail(malformed("[MQTT-3.1.2-14]", "will QoS 3"))
	case !hasWill && willRetain:
		d.fail(malformed("[MQTT-3.1.2-15]", "will retain without a will"))
	case c.HasPassword && !c.HasUsername:
		d.fail(malformed("[MQTT-3.1.2-22]", "a password without a user name"))
	}
	c.KeepAlive = d.uint16()
	c.ClientID = d.string()
	if c.ClientID == "" && !c.CleanSession {
		d.fail(malformed("[MQTT-3.1.3-7]", "an empty client ID without clean session"))
	}
	if hasWill {
		c.Will = &Will{Topic: d.topic(), QoS: willQoS, Retain: willRetain}
		c.Will.Payload = append([]byte(nil), d.bytes()...)
	}
	if c.HasUsername {
		c.Username = d.string()
	}
	if c.HasPassword {
		c.Password = d.bytes()
	}
	return c
}

func (d *decoder) publish(flags byte) Packet {
	p := &Publish{Dup: flags&8 != 0, QoS: flags >> 1 & 3, Retain: flags&1 != 0, Topic: d.topic()}
	if p.QoS > 0 {
		p.PacketID = d.packetID("[MQTT-2.3.1-1]")
	}
	p.Payload, d.rest = d.rest, nil
	return p
}

func (d *decoder) subscribe() Packet {
	s := &Subscribe{PacketID: d.packetID("[MQTT-2.3.1-1]")}
	for len(d.rest) > 0 {
		f := Subscription{Filter: d.filter(), QoS: d.byte()}
		if f.QoS > 2 {
			d.fail(malformed("[MQTT-3-8.3-4]", "a requested QoS of %#x", f.QoS))
		}
		s.Filters = append(s.Filters, f)
	}
	if len(s.Filters) == 0 {
		d.fail(malformed("[MQTT-3.8.3-3]", "a SUBSCRIBE without a filter"))
	}
	return s
}

func (d *decoder) unsubscribe() Packet {
	u := &Unsubscribe{PacketID: d.packetID("[MQTT-2.3.1-1]")}
	for len(d.rest) > 0 {
		u.Filters = append(u.Filters, d.filter())
	}
	if len(u.Filters) == 0 {
		d.fail(malformed("[MQTT-3.10.3-2]", "an UNSUBSCRIBE without a filter"))
	}
	return u
}

func (d *decoder) byte() byte {
	if len(d.rest) < 1 {
		d.fail(malformed("", "the packet is cut short"))
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) uint16() uint16 {
	if len(d.rest) < 2 {
		d.fail(malformed("", "the packet is cut short"))
		return 0
	}
	n := binary.BigEndian.Uint16(d.rest)
	d.rest = d.rest[2:]
	return n
}

func (d *decoder) packetID(tag string) uint16 {
	id := d.uint16()
	if id == 0 {
		d.fail(malformed(tag, "packet identifier 0"))
	}
	return id
}

func (d *decoder) bytes() []byte {
	n := int(d.uint16())
	if len(d.rest) < n {
		d.fail(malformed("", "the packet is cut short"))
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

// string reads UTF-8 text: well formed, without U+0000, without surrogates
// (which utf8.Valid refuses) and without the other control characters and
// non-characters that a receiver may refuse (§1.5.3).
func (d *decoder) string() string {
	b := d.bytes()
	if !utf8.Valid(b) {
		d.fail(malformed("[MQTT-1.5.3-1]", "text is not well-formed UTF-8"))
		return ""
	}
	s := string(b)
	for _, c := range s {
		switch {
		case c == 0:
			d.fail(malformed("[MQTT-1.5.3-2]", "text holds U+0000"))
		case c < 0x20, c >= 0x7f && c < 0xa0, c >= 0xfdd0 && c <= 0xfdef, c&0xfffe == 0xfffe:
			d.fail(malformed("", "text holds the control or non-character U+%04X", c))
		default:
			continue
		}
		return ""
	}
	return s
}

// topic reads the name of a topic.
func (d *decoder) topic() string {
	t := d.string()
	switch {
	case d.err != nil:
	case t == "":
		d.fail(malformed("[MQTT-4.7.3-1]", "an empty topic"))
	case strings.ContainsAny(t, "+#"):
		d.fail(malformed("[MQTT-3.3.2-2]", "a topic with wildcards"))
	}
	return t
}

// filter reads a topic filter, wildcards in their places.
func (d *decoder) filter() string {
	f := d.string()
	if d.err == nil && f == "" {
		d.fail(malformed("[MQTT-4.7.3-1]", "an empty filter"))
	}
	for level, rest, more := "", f, true; more; {
		level, rest, more = strings.Cut(rest, "/")
		if level != "#" && strings.Contains(level, "#") || level == "#" && more {
			d.fail(malformed("[MQTT-4.7.1-2]", "# is not a whole last level of the filter"))
		}
		if level != "+" && strings.Contains(level, "+") {
			d.fail(malformed("[MQTT-4.7.1-3]", "+ is not a whole level of the filter"))
		}
	}
	return f
}
