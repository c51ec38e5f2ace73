package mqtt

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

const enough = 256 << 10 // the limit of a Reader under test, where it does not matter

// text is a string as it stands on the wire.
func text(s string) string { return string(appendString(nil, s)) }

// body puts a fixed header before a body.
func body(first byte, b string) string { return string(appendHeader(nil, first, len(b))) + b }

// good are packets in their shortest form: each is read as packet, and packet is
// written as bytes.
var good = []struct {
	name   string
	bytes  string
	packet Packet
}{
	{"CONNECT of an SDK with a certificate",
		body(0x10, text("MQTT")+"\x04\x80\x00\xf0"+text("d1")+text("h/d1/?api-version=2021-04-12")),
		&Connect{ProtocolName: "MQTT", Level: 4, KeepAlive: 240, ClientID: "d1",
			HasUsername: true, Username: "h/d1/?api-version=2021-04-12"}},
	{"CONNECT with everything",
		body(0x10, text("MQTT")+"\x04\xee\x00\x0a"+text("d1")+text("w")+text("\x00\xff")+text("ü")+text("\x00p")),
		&Connect{ProtocolName: "MQTT", Level: 4, CleanSession: true, KeepAlive: 10, ClientID: "d1",
			Will:        &Will{Topic: "w", Payload: []byte("\x00\xff"), QoS: 1, Retain: true},
			HasUsername: true, Username: "ü", HasPassword: true, Password: []byte("\x00p")}},
	{"CONNECT with empty will message, user name and password",
		body(0x10, text("MQTT")+"\x04\xc4\x00\x00"+text("d1")+text("w")+text("")+text("")+text("")),
		&Connect{ProtocolName: "MQTT", Level: 4, ClientID: "d1", Will: &Will{Topic: "w", Payload: []byte{}},
			HasUsername: true, HasPassword: true, Password: []byte{}}},
	{"CONNECT with an empty client ID that need not be remembered",
		body(0x10, text("MQTT")+"\x04\x02\x00\x00"+text("")),
		&Connect{ProtocolName: "MQTT", Level: 4, CleanSession: true}},
	{"CONNECT with a byte order mark in the client ID [MQTT-1.5.3-3]",
		body(0x10, text("MQTT")+"\x04\x02\x00\x00"+text("\uFEFFd")),
		&Connect{ProtocolName: "MQTT", Level: 4, CleanSession: true, ClientID: "\uFEFFd"}},

	{"PUBLISH of QoS 0", body(0x30, text("a/b")+"xy"), &Publish{Topic: "a/b", Payload: []byte("xy")}},
	{"PUBLISH of QoS 0, retained", body(0x31, text("a")+"x"), &Publish{Retain: true, Topic: "a", Payload: []byte("x")}},
	{"PUBLISH of QoS 1", body(0x32, text("a")+"\x12\x34x"), &Publish{QoS: 1, Topic: "a", PacketID: 0x1234, Payload: []byte("x")}},
	{"PUBLISH of QoS 1, again", body(0x3a, text("a")+"\x00\x01x"), &Publish{Dup: true, QoS: 1, Topic: "a", PacketID: 1, Payload: []byte("x")}},
	{"PUBLISH of QoS 2", body(0x34, text("a")+"\x00\x01x"), &Publish{QoS: 2, Topic: "a", PacketID: 1, Payload: []byte("x")}},
	{"PUBLISH without a payload", body(0x30, text("a")), &Publish{Topic: "a", Payload: []byte{}}},
	{"PUBLISH of 127 bytes, the most in one byte of length", body(0x30, text("a")+strings.Repeat("x", 124)),
		&Publish{Topic: "a", Payload: bytes.Repeat([]byte("x"), 124)}},
	{"PUBLISH of 128 bytes", body(0x30, text("a")+strings.Repeat("x", 125)),
		&Publish{Topic: "a", Payload: bytes.Repeat([]byte("x"), 125)}},
	{"PUBLISH of 100,000 bytes", body(0x30, text("a")+strings.Repeat("x", 100_000)),
		&Publish{Topic: "a", Payload: bytes.Repeat([]byte("x"), 100_000)}},
	{"PUBACK", "\x40\x02\xff\xfe", &Puback{0xfffe}},

	{"SUBSCRIBE as the C SDK does", body(0x82, "\x00\x02"+text("devices/d1/messages/devicebound/#")+"\x01"+text("$iothub/twin/res/#")+"\x00"),
		&Subscribe{2, []Subscription{{"devices/d1/messages/devicebound/#", 1}, {"$iothub/twin/res/#", 0}}}},
	{"SUBSCRIBE with wildcards in every place they may have", body(0x82, "\x00\x02"+text("#")+"\x00"+text("+")+"\x01"+text("+/a/+/#")+"\x02"+text("/")+"\x00"),
		&Subscribe{2, []Subscription{{"#", 0}, {"+", 1}, {"+/a/+/#", 2}, {"/", 0}}}},
	{"UNSUBSCRIBE", body(0xa2, "\x00\x03"+text("a/#")+text("b")), &Unsubscribe{3, []string{"a/#", "b"}}},
	{"PINGREQ", "\xc0\x00", &Pingreq{}},
	{"DISCONNECT", "\xe0\x00", &Disconnect{}},

	{"CONNACK", "\x20\x02\x01\x00", &Connack{SessionPresent: true}},
	{"CONNACK of a refusal", "\x20\x02\x00\x05", &Connack{Code: ConnRefusedNotAuthorized}},
	{"SUBACK", "\x90\x05\x00\x02\x01\x00\x80", &Suback{2, []byte{1, 0, SubackFailure}}},
	{"UNSUBACK", "\xb0\x02\x00\x03", &Unsuback{3}},
	{"PINGRESP", "\xd0\x00", &Pingresp{}},
}

// appendPacket writes any packet.
func appendPacket(p Packet) []byte {
	switch p := p.(type) {
	case *Connect:
		return AppendConnect(nil, p)
	case *Connack:
		return AppendConnack(nil, p.SessionPresent, p.Code)
	case *Publish:
		return AppendPublish(nil, p)
	case *Puback:
		return AppendPuback(nil, p.PacketID)
	case *Subscribe:
		return AppendSubscribe(nil, p)
	case *Suback:
		return AppendSuback(nil, p.PacketID, p.Codes)
	case *Unsubscribe:
		return AppendUnsubscribe(nil, p)
	case *Unsuback:
		return AppendUnsuback(nil, p.PacketID)
	case *Pingreq:
		return AppendPingreq(nil)
	case *Pingresp:
		return AppendPingresp(nil)
	case *Disconnect:
		return AppendDisconnect(nil)
	}
	panic("a packet of no type")
}

func fromServer(p Packet) bool {
	switch p.(type) {
	case *Connack, *Suback, *Unsuback, *Pingresp:
		return true
	}
	return false
}

func newReaderOf(p Packet, r io.Reader) *Reader {
	if fromServer(p) {
		return NewClientReader(r, enough)
	}
	return NewReader(r, enough)
}

func TestGoodPackets(t *testing.T) {
	for _, c := range good {
		t.Run(c.name, func(t *testing.T) {
			if got := appendPacket(c.packet); string(got) != c.bytes {
				t.Errorf("written as %x, not %x", got, c.bytes)
			}
			// However the bytes come, the packet is the same.
			for how, source := range map[string]io.Reader{
				"at once":              strings.NewReader(c.bytes),
				"a byte at a time":     iotest.OneByteReader(strings.NewReader(c.bytes)),
				"with the end at once": iotest.DataErrReader(strings.NewReader(c.bytes)),
			} {
				r := newReaderOf(c.packet, source)
				got, err := r.Next()
				if err != nil || !reflect.DeepEqual(got, c.packet) {
					t.Errorf("%s: read as %+v, %v, not %+v", how, got, err, c.packet)
				}
				if _, err := r.Next(); err != io.EOF {
					t.Errorf("%s: then %v, not EOF", how, err)
				}
			}
		})
	}
}

func TestPacketCutShort(t *testing.T) {
	for _, c := range good {
		for cut := 1; cut < min(len(c.bytes), 300); cut++ {
			r := newReaderOf(c.packet, strings.NewReader(c.bytes[:cut]))
			if p, err := r.Next(); err != io.ErrUnexpectedEOF {
				t.Fatalf("%s, %d of %d bytes: %+v, %v", c.name, cut, len(c.bytes), p, err)
			}
		}
	}
}

func TestStream(t *testing.T) {
	var stream strings.Builder
	var want []Packet
	for range 3 { // in an order that leaves packets at every place of a buffer
		for _, c := range good {
			if !fromServer(c.packet) {
				stream.WriteString(c.bytes)
				want = append(want, c.packet)
			}
		}
	}
	for how, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r },
		"bytes": iotest.OneByteReader,
		"half":  iotest.HalfReader,
	} {
		r := NewReader(wrap(strings.NewReader(stream.String())), enough)
		for i, p := range want {
			if got, err := r.Next(); err != nil || !reflect.DeepEqual(got, p) {
				t.Fatalf("%s, packet %d: %+v, %v, not %+v", how, i, got, err, p)
			}
		}
	}
}

func connect(flags byte, payload string) string {
	return body(0x10, text("MQTT")+"\x04"+string([]byte{flags})+"\x00\x0a"+payload)
}

// bad are packets that a client may not send, and the statement each breaks.
var bad = []struct{ name, bytes, tag string }{
	{"type 0", "\x00\x00", "[MQTT-4.8.0-1]"},
	{"type 15", "\xf0\x00", "[MQTT-4.8.0-1]"},
	{"type 15, of its first byte alone", "\xf0", "[MQTT-4.8.0-1]"},
	{"CONNACK", "\x20\x02\x00\x00", "[MQTT-4.8.0-1]"},
	{"SUBACK", "\x90\x03\x00\x01\x00", "[MQTT-4.8.0-1]"},
	{"UNSUBACK", "\xb0\x02\x00\x01", "[MQTT-4.8.0-1]"},
	{"PINGRESP", "\xd0\x00", "[MQTT-4.8.0-1]"},
	{"PUBREC", "\x50\x02\x00\x01", "[MQTT-4.8.0-1]"},
	{"PUBREL", "\x62\x02\x00\x01", "[MQTT-4.8.0-1]"},
	{"PUBREL with flags 0", "\x60\x02\x00\x01", "[MQTT-3.6.1-1]"},
	{"PUBCOMP", "\x70\x02\x00\x01", "[MQTT-4.8.0-1]"},
	{"remaining length of five bytes", "\xc0\x80\x80\x80\x80\x01", "[MQTT-4.8.0-1]"},
	{"remaining length of five bytes, refused at the fourth", "\x30\xff\xff\xff\xff", "[MQTT-4.8.0-1]"},

	{"CONNECT with flags", "\x11\x00", "[MQTT-2.2.2-2]"},
	{"CONNECT without anything", "\x10\x00", "[MQTT-4.8.0-1]"},
	{"CONNECT that ends after the name", body(0x10, text("MQTT")), "[MQTT-4.8.0-1]"},
	{"CONNECT that ends after the flags", body(0x10, text("MQTT")+"\x04\x02"), "[MQTT-4.8.0-1]"},
	{"CONNECT without a client ID", connect(0x02, ""), "[MQTT-3.1.3-3]"},
	{"CONNECT with a client ID longer than the packet", connect(0x02, "\x00\x02d"), "[MQTT-3.1.3-3]"},
	{"CONNECT with the reserved flag", connect(0x03, text("d")), "[MQTT-3.1.2-3]"},
	{"CONNECT with will QoS and no will", connect(0x0a, text("d")), "[MQTT-3.1.2-11]"},
	{"CONNECT with will retain and no will", connect(0x22, text("d")), "[MQTT-3.1.2-11]"},
	{"CONNECT with will QoS 3", connect(0x1e, text("d")+text("w")+text("m")), "[MQTT-3.1.2-14]"},
	{"CONNECT with a will and no topic", connect(0x06, text("d")), "[MQTT-3.1.2-9]"},
	{"CONNECT with a will and no message", connect(0x06, text("d")+text("w")), "[MQTT-3.1.2-9]"},
	{"CONNECT with a will on an empty topic", connect(0x06, text("d")+text("")+text("m")), "[MQTT-4.7.3-1]"},
	{"CONNECT with a will on a wildcard", connect(0x06, text("d")+text("a/+")+text("m")), "[MQTT-4.7.1-1]"},
	{"CONNECT with a password and no user name", connect(0x42, text("d")+text("p")), "[MQTT-3.1.2-22]"},
	{"CONNECT with a user name that no flag tells of", connect(0x02, text("d")+text("u")), "[MQTT-3.1.2-18]"},
	{"CONNECT with the flag and no user name", connect(0x82, text("d")), "[MQTT-3.1.2-19]"},
	{"CONNECT with a password that no flag tells of", connect(0x82, text("d")+text("u")+text("p")), "[MQTT-3.1.2-20]"},
	{"CONNECT with the flag and no password", connect(0xc2, text("d")+text("u")), "[MQTT-3.1.2-21]"},
	{"CONNECT with bytes left over", connect(0xc2, text("d")+text("u")+text("p")+"x"), "[MQTT-4.8.0-1]"},
	{"CONNECT that wants an empty client ID remembered", connect(0x00, text("")), "[MQTT-3.1.3-8]"},
	{"CONNECT with NUL in the client ID", connect(0x02, text("d\x00")), "[MQTT-1.5.3-2]"},
	{"CONNECT with a surrogate in the user name", connect(0x82, text("d")+text("\xed\xa0\x80")), "[MQTT-1.5.3-1]"},
	{"CONNECT with an overlong NUL in the user name", connect(0x82, text("d")+text("\xc0\x80")), "[MQTT-1.5.3-1]"},
	{"CONNECT with a control code in the user name", connect(0x82, text("d")+text("u\x1f")), ""},
	{"CONNECT with DEL in the user name", connect(0x82, text("d")+text("u\x7f")), ""},
	{"CONNECT with a C1 control in the user name", connect(0x82, text("d")+text("u\u009f")), ""},
	{"CONNECT with U+FDD0 in the user name", connect(0x82, text("d")+text("u\ufdd0")), ""},
	{"CONNECT with U+1FFFE in the user name", connect(0x82, text("d")+text("u\U0001fffe")), ""},

	{"PUBLISH of QoS 3", body(0x36, text("a")+"\x00\x01"), "[MQTT-3.3.1-4]"},
	{"PUBLISH of QoS 0 with DUP", body(0x38, text("a")), "[MQTT-3.3.1-2]"},
	{"PUBLISH without anything", "\x30\x00", "[MQTT-3.3.2-1]"},
	{"PUBLISH with a topic longer than the packet", body(0x30, "\x00\x02a"), "[MQTT-3.3.2-1]"},
	{"PUBLISH on an empty topic", body(0x30, text("")+"x"), "[MQTT-4.7.3-1]"},
	{"PUBLISH on #", body(0x30, text("a/#")), "[MQTT-3.3.2-2]"},
	{"PUBLISH on +", body(0x30, text("a/+/b")), "[MQTT-3.3.2-2]"},
	{"PUBLISH on a topic with NUL", body(0x30, text("a\x00")), "[MQTT-1.5.3-2]"},
	{"PUBLISH on a topic that is not UTF-8", body(0x30, text("a\xff")), "[MQTT-1.5.3-1]"},
	{"PUBLISH of QoS 1 without a packet ID", body(0x32, text("a")), "[MQTT-4.8.0-1]"},
	{"PUBLISH of QoS 1 with packet ID 0", body(0x32, text("a")+"\x00\x00x"), "[MQTT-2.3.1-1]"},
	{"PUBACK of packet ID 0", "\x40\x02\x00\x00", "[MQTT-2.3.1-6]"},
	{"PUBACK with flags", "\x42\x02\x00\x01", "[MQTT-2.2.2-2]"},
	{"PUBACK of one byte", "\x40\x01\x01", "[MQTT-4.8.0-1]"},
	{"PUBACK of three bytes, refused before they come", "\x40\x03", "[MQTT-4.8.0-1]"},

	{"SUBSCRIBE with flags 0", "\x80\x00", "[MQTT-3.8.1-1]"},
	{"SUBSCRIBE without anything", "\x82\x00", "[MQTT-4.8.0-1]"},
	{"SUBSCRIBE with packet ID 0", body(0x82, "\x00\x00"+text("a")+"\x00"), "[MQTT-2.3.1-1]"},
	{"SUBSCRIBE without a filter", body(0x82, "\x00\x01"), "[MQTT-3.8.3-3]"},
	{"SUBSCRIBE with a filter and no QoS", body(0x82, "\x00\x01"+text("a")), "[MQTT-3.8.3-3]"},
	{"SUBSCRIBE of QoS 3", body(0x82, "\x00\x01"+text("a")+"\x03"), "[MQTT-3-8.3-4]"},
	{"SUBSCRIBE with a reserved bit in the QoS", body(0x82, "\x00\x01"+text("a")+"\x81"), "[MQTT-3-8.3-4]"},
	{"SUBSCRIBE to nothing", body(0x82, "\x00\x01"+text("")+"\x00"), "[MQTT-4.7.3-1]"},
	{"SUBSCRIBE to #/a", body(0x82, "\x00\x01"+text("#/a")+"\x00"), "[MQTT-4.7.1-2]"},
	{"SUBSCRIBE to a#", body(0x82, "\x00\x01"+text("a#")+"\x00"), "[MQTT-4.7.1-2]"},
	{"SUBSCRIBE to ##", body(0x82, "\x00\x01"+text("##")+"\x00"), "[MQTT-4.7.1-2]"},
	{"SUBSCRIBE to a/+b", body(0x82, "\x00\x01"+text("a/+b")+"\x00"), "[MQTT-4.7.1-3]"},
	{"SUBSCRIBE to +#", body(0x82, "\x00\x01"+text("+#")+"\x00"), "[MQTT-4.7.1-3]"},
	{"SUBSCRIBE with more filters than we take", body(0x82, "\x00\x01"+strings.Repeat(text("a")+"\x00", MaxFilters+1)), ""},
	{"UNSUBSCRIBE with flags 3", "\xa3\x00", "[MQTT-3.10.1-1]"},
	{"UNSUBSCRIBE with packet ID 0", body(0xa2, "\x00\x00"+text("a")), "[MQTT-2.3.1-1]"},
	{"UNSUBSCRIBE without a filter", body(0xa2, "\x00\x01"), "[MQTT-3.10.3-2]"},
	{"UNSUBSCRIBE from nothing", body(0xa2, "\x00\x01"+text("")), "[MQTT-4.7.3-1]"},
	{"UNSUBSCRIBE with more filters than we take", body(0xa2, "\x00\x01"+strings.Repeat(text("a"), MaxFilters+1)), ""},
	{"PINGREQ with flags", "\xc1\x00", "[MQTT-2.2.2-2]"},
	{"PINGREQ with a body", "\xc0\x01x", "[MQTT-4.8.0-1]"},
	{"DISCONNECT with flags", "\xe2\x00", "[MQTT-3.14.1-1]"},
	{"DISCONNECT with a body", "\xe0\x01x", "[MQTT-4.8.0-1]"},
}

func TestMalformed(t *testing.T) {
	for _, c := range bad {
		t.Run(c.name, func(t *testing.T) {
			r := NewReader(strings.NewReader(c.bytes), enough)
			p, err := r.Next()
			m, ok := errors.AsType[*Malformed](err)
			if !ok || m.Tag != c.tag {
				t.Fatalf("%+v, %v: want tag %q", p, err, c.tag)
			}
			if want := (c.tag == "[MQTT-3.1.3-8]"); (m.ReturnCode == ConnRefusedIdentifier) != want {
				t.Errorf("return code %d", m.ReturnCode)
			}
			if r.buffer != nil {
				t.Error("a stream that is over holds a buffer")
			}
			if _, again := r.Next(); again != err {
				t.Errorf("then %v: a stream that is over goes on", again)
			}
		})
	}
}

func TestMalformedOfServer(t *testing.T) {
	for name, c := range map[string]struct{ bytes, tag string }{
		"CONNECT":                          {connect(0x02, text("d")), "[MQTT-4.8.0-1]"},
		"PINGREQ":                          {"\xc0\x00", "[MQTT-4.8.0-1]"},
		"CONNACK with reserved flags":      {"\x20\x02\x02\x00", "[MQTT-2.2.2-1]"},
		"CONNACK with reserved code":       {"\x20\x02\x00\x06", "[MQTT-2.2.2-1]"},
		"CONNACK of a refusal, with state": {"\x20\x02\x01\x05", "[MQTT-3.2.2-4]"},
		"SUBACK with reserved code":        {"\x90\x03\x00\x01\x03", "[MQTT-3.9.3-2]"},
		"SUBACK without codes":             {"\x90\x02\x00\x01", "[MQTT-4.8.0-1]"},
		"SUBACK of packet ID 0":            {"\x90\x03\x00\x00\x00", "[MQTT-2.3.1-7]"},
	} {
		_, err := NewClientReader(strings.NewReader(c.bytes), enough).Next()
		if m, ok := errors.AsType[*Malformed](err); !ok || m.Tag != c.tag {
			t.Errorf("%s: %v, want tag %q", name, err, c.tag)
		}
	}
}

func TestUnsupportedVersion(t *testing.T) {
	for _, c := range []struct {
		name  string
		level byte
	}{{"MQIsdp", 3}, {"MQTT", 3}, {"MQTT", 5}, {"MQTT", 0x84}, {"MQTU", 4}, {"", 4}, {strings.Repeat("x", 100), 4}} {
		r := NewReader(strings.NewReader(body(0x10, text(c.name)+string([]byte{c.level})+"rest")), enough)
		_, err := r.Next()
		v, ok := errors.AsType[*UnsupportedVersion](err)
		if !ok || v.Level != c.level || v.Name != c.name[:min(len(c.name), 16)] {
			t.Errorf("%s level %d: %v", c.name, c.level, err)
		}
	}
	if got := hex.EncodeToString(AppendConnackV5(nil)); got != "2003008400" {
		t.Errorf("the refusal for MQTT 5 is %s", got)
	}
}

// The length may be written with more bytes than it needs: MQTT 3.1.1 does not
// forbid it, MQTT 5 does [MQTT-1.5.5-1], and small clients that reserve the room
// beforehand do it.
func TestPaddedLength(t *testing.T) {
	r := NewReader(strings.NewReader("\x30\x84\x80\x00\x00\x01ax\xc0\x80\x80\x00\xc0\x00"), enough)
	if p, err := r.Next(); err != nil || !reflect.DeepEqual(p, &Publish{Topic: "a", Payload: []byte("x")}) {
		t.Errorf("%+v, %v", p, err)
	}
	for range 2 {
		if p, err := r.Next(); err != nil || !reflect.DeepEqual(p, &Pingreq{}) {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

func TestTooLarge(t *testing.T) {
	r := NewReader(io.MultiReader(
		strings.NewReader(body(0x30, text("a")+strings.Repeat("x", 97))), // 100, as many as are taken
		strings.NewReader("\x30\x65"),                                    // 101, and no body yet
		iotest.ErrReader(errors.New("the body was waited for"))), 1000)
	r.SetMax(100)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	_, err := r.Next()
	if e, ok := errors.AsType[*TooLarge](err); !ok || e.Size != 101 || e.Max != 100 {
		t.Error(err)
	}
}

// pauses gives what it has in pieces, and a time-out after each.
type pauses struct {
	pieces []string
	paused bool
}

func (p *pauses) Read(b []byte) (int, error) {
	if p.paused = !p.paused; !p.paused {
		return 0, os.ErrDeadlineExceeded
	}
	if len(p.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.pieces[0])
	if p.pieces[0] = p.pieces[0][n:]; p.pieces[0] == "" {
		p.pieces = p.pieces[1:]
	}
	return n, nil
}

// A time-out is how a keep alive and a wake-up show: it costs no byte.
func TestNextAfterTimeout(t *testing.T) {
	want := &Publish{QoS: 1, Topic: "a", PacketID: 1, Payload: bytes.Repeat([]byte("x"), 10_000)}
	whole := string(AppendPublish(nil, want))
	r := NewReader(&pauses{pieces: []string{whole[:1], whole[1:2], whole[2:3], whole[3:5000], whole[5000:], "\xc0", "\x00"}}, enough)
	var got []Packet
	for timeouts := 0; ; {
		p, err := r.Next()
		if err == os.ErrDeadlineExceeded {
			if timeouts++; timeouts > 10_000 {
				t.Fatal("no packet comes")
			}
			continue
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if publish, ok := p.(*Publish); ok {
			p = &Publish{QoS: publish.QoS, Topic: publish.Topic, PacketID: publish.PacketID, Payload: bytes.Clone(publish.Payload)}
		}
		got = append(got, p)
	}
	if !reflect.DeepEqual(got, []Packet{want, &Pingreq{}}) {
		t.Errorf("%d packets, %+v", len(got), got)
	}
}

func TestReaderHoldsNoMoreThanItMust(t *testing.T) {
	held := func(r *Reader) int {
		if r.buffer == nil {
			return 0
		}
		return len(r.buffer.bytes)
	}
	timeout := iotest.ErrReader(os.ErrDeadlineExceeded)
	publish := AppendPublish(nil, &Publish{Topic: "a", Payload: make([]byte, 200_000)})

	// A stranger announces 200,000 bytes and sends n.
	for _, n := range []int{4, 1000, 5000, 50_000, 150_000} {
		r := NewReader(io.MultiReader(bytes.NewReader(publish[:n]), timeout), enough)
		if _, err := r.Next(); err != os.ErrDeadlineExceeded {
			t.Fatal(err)
		}
		if most := max(smallest, 4*n); held(r) > most {
			t.Errorf("with %d bytes arrived %d are held, at most %d are due", n, held(r), most)
		}
	}

	// Packets of every size come, and then silence.
	idle := func(what string, packets []byte) {
		r := NewReader(io.MultiReader(bytes.NewReader(packets), timeout), enough)
		for err := error(nil); err != os.ErrDeadlineExceeded; _, err = r.Next() {
			if err != nil {
				t.Fatal(err)
			}
		}
		if held(r) != 0 {
			t.Errorf("%s: an idle connection holds %d bytes", what, held(r))
		}
	}
	small := AppendPublish(nil, &Publish{Topic: "a", Payload: make([]byte, 256)})
	idle("nothing", nil)
	idle("a ping", AppendPingreq(nil))
	idle("one byte of a ping", AppendPingreq(nil)[:1])
	idle("a small packet", small)
	idle("many small packets", bytes.Repeat(small, 50))
	idle("a big packet", publish)
	idle("a big packet, then a ping", AppendPingreq(publish))

	// A packet that is done with needs no next one to let go.
	r := NewReader(bytes.NewReader(small), enough)
	if _, err := r.Next(); err != nil || held(r) == 0 {
		t.Fatal(err, held(r))
	}
	if r.Release(); held(r) != 0 || r.publish.Payload != nil {
		t.Errorf("after Release %d bytes are held", held(r))
	}
}

func TestPasswordLeavesTheBuffer(t *testing.T) {
	const secret = "SharedAccessSignature"
	c := &Connect{ClientID: "d", HasUsername: true, Username: "u", HasPassword: true, Password: []byte(secret)}
	for name, packet := range map[string][]byte{
		"good": AppendConnect(nil, c),
		"bad":  append([]byte{0x10, 0x80 | 47, 0x00}, append(AppendConnect(nil, c)[2:], "leftover"...)...),
	} {
		r := NewReader(bytes.NewReader(packet), enough)
		b := borrow(0)
		clear(b.bytes)
		r.move(b)
		_, err := r.Next()
		if (err == nil) != (name == "good") {
			t.Fatalf("%s: %v", name, err)
		}
		if bytes.Contains(b.bytes, []byte("Signature")) {
			t.Errorf("%s: the password is left in a buffer that others get", name)
		}
	}
	if string(c.Password) != secret {
		t.Error("the caller's own password was cleared")
	}
}

func TestAppendPanicsBeyondTheWire(t *testing.T) {
	for name, f := range map[string]func(){
		"a long topic":     func() { AppendPublish(nil, &Publish{Topic: strings.Repeat("x", MaxString+1)}) },
		"a long password":  func() { AppendConnect(nil, &Connect{HasPassword: true, Password: make([]byte, MaxString+1)}) },
		"a huge remainder": func() { appendHeader(nil, 0x30, maxRemaining+1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was written", name)
				}
			}()
			f()
		}()
	}
	AppendPublish(nil, &Publish{Topic: strings.Repeat("x", MaxString)})
}

// TestCorpus takes the packets of others that must end in a hang-up. What is
// well formed, and wrong only where it stands in the conversation, passes here
// and is the gateway's to refuse; which those are is stated.
func TestCorpus(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "testdata", "mqtt-malformed-dev.json"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("../shared/testdata/mqtt-malformed-dev.json is not there")
	}
	if err != nil {
		t.Fatal(err)
	}
	var corpus struct {
		Cases []struct {
			Name    string
			Level   int
			Connect bool
			Send    []string
		}
	}
	if err := json.Unmarshal(text, &corpus); err != nil {
		t.Fatal(err)
	}
	judged := 0
	for _, c := range corpus.Cases {
		if c.Level != 4 {
			continue
		}
		judged++
		stream, err := hex.DecodeString(strings.Join(c.Send, ""))
		if err != nil {
			t.Fatal(err)
		}
		r := NewReader(bytes.NewReader(stream), enough)
		var got []Packet
		for err == nil {
			var p Packet
			if p, err = r.Next(); err == nil {
				got = append(got, p)
			}
		}
		_, malformed := errors.AsType[*Malformed](err)
		_, unsupported := errors.AsType[*UnsupportedVersion](err)
		if malformed || unsupported {
			continue
		}
		// Well formed: then it must be something other than CONNECT sent first.
		if c.Connect || err != io.EOF || len(got) == 0 {
			t.Errorf("%s: %+v, %v", c.Name, got, err)
		} else if _, ok := got[0].(*Connect); ok {
			t.Errorf("%s: taken as %+v", c.Name, got[0])
		}
	}
	if judged < 100 {
		t.Errorf("only %d cases of level 4 in the corpus", judged)
	}
}

// FuzzReader reads any bytes, and what was read is written and read again. The
// same bytes in pieces give the same packets.
func FuzzReader(f *testing.F) {
	for _, c := range good {
		f.Add([]byte(c.bytes), fromServer(c.packet))
	}
	for _, c := range bad {
		f.Add([]byte(c.bytes), false)
	}
	f.Fuzz(func(t *testing.T, stream []byte, server bool) {
		reader := func(r io.Reader) *Reader { return &Reader{source: r, max: 64 << 10, server: server} }
		whole, pieces := reader(bytes.NewReader(stream)), reader(iotest.OneByteReader(bytes.NewReader(stream)))
		for {
			p, err := whole.Next()
			q, err2 := pieces.Next()
			if !reflect.DeepEqual(err, err2) || !reflect.DeepEqual(p, q) {
				t.Fatalf("whole: %+v, %v; in pieces: %+v, %v", p, err, q, err2)
			}
			if err != nil {
				_, again := whole.Next()
				if !reflect.DeepEqual(again, err) && err != io.ErrUnexpectedEOF {
					t.Fatalf("%v, then %v", err, again)
				}
				return
			}
			written := appendPacket(p)
			back, err := reader(bytes.NewReader(written)).Next()
			if err != nil || !reflect.DeepEqual(p, back) {
				t.Fatalf("%+v was written as %x and read as %+v, %v", p, written, back, err)
			}
		}
	})
}

// A topic is that which was sent, whatever the one before it was, and costs nothing
// when it is the same.
func TestTopicRemembered(t *testing.T) {
	long := strings.Repeat("t", maxRemembered+1)
	topics := []string{"a", "a", "ab", "a", "a/b", "a/b", "b", long, long, "a/b", "é", "é"}
	var stream []byte
	for i, topic := range topics {
		stream = AppendPublish(stream, &Publish{QoS: 1, PacketID: uint16(i + 1), Topic: topic, Payload: []byte("ab")})
	}
	r := NewReader(bytes.NewReader(stream), 1<<10)
	for i, topic := range topics {
		p, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got := p.(*Publish); got.Topic != topic || got.PacketID != uint16(i+1) || string(got.Payload) != "ab" {
			t.Errorf("PUBLISH %d is %+v", i, got)
		}
		if len(r.topic) > maxRemembered {
			t.Errorf("a topic of %d bytes is remembered", len(r.topic))
		}
	}
	same := bytes.Repeat(AppendPublish(nil, &Publish{Topic: "devices/press-17/messages/events/"}), 200)
	r = NewReader(bytes.NewReader(same), 1<<10)
	if n := testing.AllocsPerRun(100, func() { r.Next() }); n > 0 {
		t.Errorf("%v allocations for a topic that is the same", n)
	}
	// What cannot be that topic is judged as ever: no letter of the one before is taken for it.
	for _, bad := range []string{"\x30\x02\x00\x05", "\x30\x04\x00\x03a/", "\x30\x05\x00\x03a/#"} {
		r := NewReader(strings.NewReader("\x30\x05\x00\x03a/b"+bad), 1<<10)
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		if p, err := r.Next(); err == nil {
			t.Errorf("%q is %+v", bad, p)
		}
	}
}
