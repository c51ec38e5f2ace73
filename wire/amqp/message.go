package amqp

import "time"

// Descriptors of the sections of a message (AMQP §3.2).
const (
	codeHeader              = 0x70
	codeDeliveryAnnotations = 0x71
	codeAnnotations         = 0x72
	codeProperties          = 0x73
	codeApplication         = 0x74
	codeData                = 0x75
	codeSequence            = 0x76
	codeValue               = 0x77
	codeFooter              = 0x78
)

// ParseMessage reads a message of format 0. What it gives of bytes lies in payload.
// An error is a *[Malformed].
//
// The sections before the body may come in any order: Azure's SDK for C writes the
// annotations of a message in a batch behind its properties.
func ParseMessage(payload []byte) (*Message, error) {
	d := decoder{b: payload}
	m := new(Message)
	seen := [codeFooter + 1]bool{}
	for len(d.b) > 0 {
		if !d.count() {
			break
		}
		code := d.descriptor()
		if d.err != nil {
			break
		}
		// Each at most once, but for sections of one kind of body; behind the body a footer,
		// and behind that nothing.
		if code < codeHeader || code > codeFooter || seen[codeFooter] ||
			seen[code] && code != codeData && code != codeSequence ||
			m.Body != NoBody && !seen[code] && code != codeFooter {
			d.fail("§3.2", "the sections of a message are in no order that a message can have")
			break
		}
		seen[code] = true
		switch code {
		case codeHeader:
			m.Header = d.header()
		case codeDeliveryAnnotations:
			m.DeliveryAnnotations = d.section()
		case codeAnnotations:
			m.Annotations = d.section()
		case codeProperties:
			m.Properties = d.properties()
		case codeApplication:
			m.Application = d.section()
		case codeData:
			m.Body = DataBody
			switch v := d.value().(type) {
			case []byte:
				m.Data = append(m.Data, v)
			default:
				d.fail("§3.2.6", "a section of data is not binary")
			}
		case codeSequence:
			m.Body = SequenceBody
			d.value()
		case codeValue:
			m.Body, m.Value = ValueBody, d.value()
		case codeFooter:
			d.value()
		}
	}
	if d.err != nil {
		return nil, d.err
	}
	return m, nil
}

// section reads a section that is a map.
func (d *decoder) section() Map {
	v, ok := d.value().(Map)
	if !ok {
		d.fail("§3.2", "a section of a message is not a map")
	}
	return v
}

func (d *decoder) header() *Header {
	f := d.composite()
	h := &Header{Durable: f.bool(), Priority: f.ubyte(4), TTL: time.Duration(f.uint(0)) * time.Millisecond}
	f.bool() // first-acquirer
	h.DeliveryCount = f.uint(0)
	d.over(&f)
	return h
}

func (d *decoder) properties() (p Properties) {
	f := d.composite()
	p.MessageID, p.UserID, p.To, p.Subject, p.ReplyTo = f.id(), f.binary(), f.string(), f.string(), f.string()
	p.CorrelationID = f.id()
	p.ContentType, p.ContentEncoding = f.symbol(), f.symbol()
	p.AbsoluteExpiryTime, p.CreationTime = f.timestamp(), f.timestamp()
	p.GroupID, p.GroupSequence, p.ReplyToGroupID = f.string(), f.uint(0), f.string()
	d.over(&f)
	return p
}

// id reads a message ID (AMQP §3.2.11 to §3.2.14).
func (f *fields) id() any {
	switch v := f.any().(type) {
	case nil, string, uint64, UUID, []byte:
		return v
	}
	f.wrong()
	return nil
}

// Append writes the message. A body of sequences is not written.
func (m *Message) Append(dst []byte) []byte {
	if h := m.Header; h != nil {
		w := begin(dst, codeHeader)
		w.bool(h.Durable)
		w.ubyte(h.Priority)
		if h.TTL == 0 {
			w.null()
		} else {
			w.uint(uint32(h.TTL.Milliseconds()))
		}
		w.bool(false)
		w.uint(h.DeliveryCount)
		dst = w.end()
	}
	section := func(code byte, v Map) {
		if len(v) > 0 {
			dst = appendValue(append(dst, 0, 0x53, code), v)
		}
	}
	section(codeDeliveryAnnotations, m.DeliveryAnnotations)
	section(codeAnnotations, m.Annotations)
	dst = m.Properties.append(dst)
	section(codeApplication, m.Application)
	switch m.Body {
	case DataBody:
		for _, b := range m.Data {
			dst = appendBinary(append(dst, 0, 0x53, codeData), b)
		}
	case ValueBody:
		dst = appendValue(append(dst, 0, 0x53, codeValue), m.Value)
	}
	return dst
}

func (p *Properties) append(dst []byte) []byte {
	w := begin(dst, codeProperties)
	w.value(p.MessageID)
	if p.UserID == nil {
		w.null()
	} else {
		w.binary(p.UserID)
	}
	w.maybeText(p.To)
	w.maybeText(p.Subject)
	w.maybeText(p.ReplyTo)
	w.value(p.CorrelationID)
	w.maybeSymbol(p.ContentType)
	w.maybeSymbol(p.ContentEncoding)
	w.maybeTime(p.AbsoluteExpiryTime)
	w.maybeTime(p.CreationTime)
	w.maybeText(p.GroupID)
	if p.GroupSequence == 0 {
		w.null()
	} else {
		w.uint(p.GroupSequence)
	}
	w.maybeText(p.ReplyToGroupID)
	if w.n == 0 {
		return dst
	}
	return w.end()
}
