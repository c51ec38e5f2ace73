package amqp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestValues: every type is read from each of its forms, and written in the shortest.
func TestValues(t *testing.T) {
	at := time.UnixMilli(1311704463521).UTC()
	for _, c := range []struct {
		wire  string // as a peer may write it
		value any
		ours  string // as we do; "" when alike
	}{
		{"40", nil, ""},
		{"41", true, ""}, {"5601", true, "41"}, {"42", false, ""}, {"5600", false, "42"},
		{"5007", uint8(7), ""},
		{"600102", uint16(0x102), ""},
		{"43", uint32(0), ""}, {"5207", uint32(7), ""}, {"7000000007", uint32(7), "5207"}, {"7000000100", uint32(256), ""},
		{"44", uint64(0), ""}, {"5307", uint64(7), ""}, {"800000000000000007", uint64(7), "5307"}, {"800000000100000000", uint64(1 << 32), ""},
		{"51ff", int8(-1), ""},
		{"61fffe", int16(-2), ""},
		{"54ff", int32(-1), ""}, {"71ffffffff", int32(-1), "54ff"}, {"7100000100", int32(256), ""},
		{"55ff", int64(-1), ""}, {"81ffffffffffffffff", int64(-1), "55ff"}, {"810000000100000000", int64(1 << 32), ""},
		{"723fc00000", float32(1.5), ""},
		{"823ff8000000000000", 1.5, ""},
		{"7300000041", Char('A'), ""},
		{"7401020304", Decimal32{1, 2, 3, 4}, ""},
		{"840102030405060708", Decimal64{1, 2, 3, 4, 5, 6, 7, 8}, ""},
		{"9400000000000000000000000000000001", Decimal128{15: 1}, ""},
		{"830000013167adb8a1", at, ""},
		{"98000102030405060708090a0b0c0d0e0f", UUID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, ""},
		{"a003010203", []byte{1, 2, 3}, ""}, {"b000000003010203", []byte{1, 2, 3}, "a003010203"},
		{"a1026869", "hi", ""}, {"b1000000026869", "hi", "a1026869"},
		{"a3026869", Symbol("hi"), ""}, {"b3000000026869", Symbol("hi"), "a3026869"},
		{"45", List{}, "d00000000400000000"}, {"c0050241a10161", List{true, "a"}, "d00000000800000002" + "41a10161"},
		{"c106025207a10161", Map{{uint32(7), "a"}}, "d10000000900000002" + "5207a10161"},
		{"e00803a301610162" + "0163", Array{Symbol("a"), Symbol("b"), Symbol("c")}, "f00000001400000003b3" + "0000000161" + "0000000162" + "0000000163"},
		{"e0020241", Array{true, true}, "f000000007000000025601" + "01"},
		{"e0060100535070" + "00", nil, "!"},
		{"e009010053507000000007", Array{Described{uint64(0x50), uint32(7)}}, "f00000000c000000010053507000000007"},
		{"00a30178a10161", Described{Symbol("x"), "a"}, ""},
		{"00800000468c00000004a10161", Described{uint64(0x468C00000004), "a"}, ""},
		{"00a00161717fffffff", Described{[]byte("a"), int32(1<<31 - 1)}, ""}, {"00a1016140", Described{"a", nil}, ""},
		// What is malformed.
		{"", nil, "!"}, {"5602", nil, "!"}, {"a1", nil, "!"}, {"a10261", nil, "!"}, {"b1ffffffff61", nil, "!"}, {"b17fffffff61", nil, "!"},
		{"a101ff", nil, "!"}, {"00a10161", nil, "!"}, {"0040", nil, "!"}, {"ff", nil, "!"}, {"c0010241", nil, "!"}, {"c003014141", nil, "!"},
		{"c1020140", nil, "!"}, {"d0ffffffff00000000", nil, "!"}, {"d000000004ffffffff", nil, "!"}, {"f000000005ffffffff40", nil, "!"},
		{"e006010000535040", nil, "!"},
	} {
		b, err := hex.DecodeString(c.wire)
		if err != nil {
			t.Fatal(c.wire, err)
		}
		d := decoder{b: b}
		v := d.value()
		if c.ours == "!" {
			if malformed, ok := errors.AsType[*Malformed](d.err); !ok || malformed.Clause == "" {
				t.Errorf("%s: %v, %v", c.wire, v, d.err)
			}
			continue
		}
		if d.err != nil || len(d.b) > 0 || !reflect.DeepEqual(v, c.value) {
			t.Errorf("%s: %#v, %v, %d left", c.wire, v, d.err, len(d.b))
		}
		if c.ours == "" {
			c.ours = c.wire
		}
		if got := hex.EncodeToString(appendValue(nil, c.value)); got != c.ours {
			t.Errorf("%#v is written %s, not %s", c.value, got, c.ours)
		}
	}
	if got := hex.EncodeToString(appendValue(nil, []string{"a", "b"})); got != "f00000000f00000002b1"+"0000000161"+"0000000162" {
		t.Error(got)
	}
	if got := hex.EncodeToString(appendValue(nil, []Symbol{"a"})); got != "f00000000a00000001b3"+"0000000161" {
		t.Error(got)
	}
}

// TestDepthAndCount: what lies deep or is many costs nothing.
func TestDepthAndCount(t *testing.T) {
	deep := bytes.Repeat([]byte{0x00}, 1<<20) // descriptors of descriptors
	lists := bytes.Repeat([]byte{0xD0, 0, 1, 0, 0, 0, 0, 0, 1}, 20_000)
	many := append([]byte{0xF0, 0, 0, 0, 5, 0x7F, 0xFF, 0xFF, 0xFF}, 0x40) // nulls of no size
	nulls := append([]byte{0xD0, 0, 0, 0x20, 0x04, 0, 0, 0x20, 0}, bytes.Repeat([]byte{0x40}, 0x2000)...)
	for name, b := range map[string][]byte{"deep": deep, "lists": lists, "many": many, "nulls": nulls} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		d := decoder{b: b}
		d.value()
		runtime.ReadMemStats(&after)
		if d.err == nil {
			t.Errorf("%s is read", name)
		}
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 512<<10 {
			t.Errorf("%s takes %d bytes", name, spent)
		}
	}
}

func full() *Message {
	at := time.UnixMilli(1_700_000_000_123).UTC()
	return &Message{
		Header:              &Header{Durable: true, Priority: 7, TTL: 3 * time.Second, DeliveryCount: 2},
		DeliveryAnnotations: Map{{Symbol("last_enqueued_offset"), "12"}},
		Annotations:         Map{{Symbol("x-opt-sequence-number"), uint64(7)}, {Symbol("iothub-deliverycount"), uint8(0)}},
		Properties: Properties{MessageID: UUID{1}, UserID: []byte("me"), To: "/devices/a", Subject: "s", ReplyTo: "r", CorrelationID: uint64(9),
			ContentType: "application/json", ContentEncoding: "utf-8", AbsoluteExpiryTime: at, CreationTime: at, GroupID: "g", GroupSequence: 3, ReplyToGroupID: "rg"},
		Application: Map{{"a", "b"}, {"n", int32(300)}},
		Body:        DataBody, Data: [][]byte{[]byte("one"), []byte("two")},
	}
}

// TestMessages: a message is read as it is written, or as Azure's SDK for C writes it.
func TestMessages(t *testing.T) {
	for _, m := range []*Message{{}, full(), {Body: ValueBody, Value: Map{{"name", "x"}, {"partition_ids", List{"0"}}}}, {Body: ValueBody},
		{Properties: Properties{CorrelationID: "x"}}, {Body: DataBody, Data: [][]byte{{}}}} {
		got, err := ParseMessage(m.Append(nil))
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v: %+v, %v", m, got, err)
		}
	}
	section := func(code byte, v any) []byte { return appendValue([]byte{0, 0x53, code}, v) }
	join := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	for name, b := range map[string][]byte{
		"properties twice":       join(section(codeProperties, List{}), section(codeProperties, List{})),
		"properties after data":  join(section(codeData, []byte{1}), section(codeProperties, List{})),
		"two kinds of body":      join(section(codeData, []byte{1}), section(codeValue, "x")),
		"two values":             join(section(codeValue, "x"), section(codeValue, "x")),
		"annotations after data": join(section(codeData, []byte{1}), section(codeAnnotations, Map{})),
		"data in two places":     join(section(codeData, []byte{1}), section(codeFooter, Map{}), section(codeData, []byte{1})),
		"two footers":            join(section(codeData, []byte{1}), section(codeFooter, Map{}), section(codeFooter, Map{})),
		"annotations twice":      join(section(codeAnnotations, Map{}), section(codeProperties, List{}), section(codeAnnotations, Map{})),
		"an unknown section":     section(0x79, "x"),
		"data that is text":      section(codeData, "x"),
		"annotations, no map":    section(codeAnnotations, List{}),
		"an ID that is a float":  section(codeProperties, List{1.5}),
		"not described":          appendValue(nil, "x"),
		"cut short":              full().Append(nil)[:60],
		"rubbish after the body": join(section(codeData, []byte{1}), []byte{7}),
	} {
		if m, err := ParseMessage(b); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
	symbolic := append(appendValue([]byte{0}, Symbol("amqp:data:binary")), appendValue(nil, []byte("x"))...)
	if m, err := ParseMessage(symbolic); err != nil || string(m.Data[0]) != "x" {
		t.Errorf("a symbol for a descriptor: %+v, %v", m, err)
	}
	late := join(section(codeProperties, List{"m-1"}), section(codeApplication, Map{{"a", "b"}}), section(codeAnnotations, Map{{Symbol("dt-subject"), "t"}}), section(codeData, []byte("x")))
	if m, err := ParseMessage(late); err != nil || m.Properties.MessageID != "m-1" || len(m.Application) != 1 || len(m.Annotations) != 1 || string(m.Data[0]) != "x" {
		t.Errorf("annotations behind the properties: %+v, %v", m, err)
	}
	footer := join(section(codeSequence, List{1.5}), section(codeSequence, List{}), section(codeFooter, Map{}))
	if m, err := ParseMessage(footer); err != nil || m.Body != SequenceBody {
		t.Errorf("sequences: %+v, %v", m, err)
	}
}

// A peer speaks with a Conn over a pipe, frame by frame.
type peer struct {
	t    *testing.T
	nc   net.Conn
	r    reader
	over chan error
}

// A handler of tests takes every link, and answers with errors of its choice.
type handler struct {
	conn     *Conn
	stranger bool
	take     func(*Delivery)
	credit   uint32
	size     uint64
	sender   *Sender
	fetch    func()
	attach   func(*Link) // is told of each link
}

func (h *handler) SASL(Symbol, []byte, string) bool { return true }
func (h *handler) Open(*Open) *Error {
	if !h.stranger {
		h.conn.LetIn()
	}
	return nil
}
func (h *handler) AttachReceiver(r *Receiver) *Error {
	if h.attach != nil {
		h.attach(&r.Link)
	}
	r.Credit, r.MaxSize, r.Take = h.credit, max(h.size, 100), h.take
	if r.Take == nil {
		r.Take = func(d *Delivery) {
			if d.TooLarge {
				d.Settle(Rejected{&Error{Condition: MessageSizeExceeded}})
			} else {
				d.Settle(Accepted{})
			}
		}
	}
	return nil
}
func (h *handler) AttachSender(s *Sender) *Error {
	if h.attach != nil {
		h.attach(&s.Link)
	}
	h.sender = s
	return nil
}
func (h *handler) Fetch() {
	if h.fetch != nil {
		h.fetch()
	}
}

func meet(t *testing.T, h *handler) *peer {
	ours, theirs := net.Pipe()
	h.conn = NewConn(ours, h, Options{ContainerID: "hub", Mechanisms: []Symbol{"ANONYMOUS"}})
	if h.credit == 0 {
		h.credit = 4
	}
	p := &peer{t: t, nc: theirs, r: reader{source: theirs}, over: make(chan error, 1)}
	go func() {
		err := h.conn.Serve()
		ours.Close()
		p.over <- err
	}()
	return p
}

// say sends, also to a peer that may be gone.
func (p *peer) say(b []byte) { p.nc.Write(b) }

func (p *peer) frame(channel uint16, performative func([]byte) []byte) {
	p.say(appendFrame(nil, frameAMQP, channel, performative))
}

// hear gives the next performative that is no heartbeat.
func (p *peer) hear() (code uint64, d *decoder) {
	p.t.Helper()
	for {
		f, err := p.r.next()
		if err != nil {
			p.t.Fatalf("hearing: %v", err)
		}
		if len(f.body) == 0 {
			continue
		}
		d = &decoder{b: bytes.Clone(f.body)}
		return d.descriptor(), d
	}
}

func (p *peer) expect(want uint64) *decoder {
	p.t.Helper()
	code, d := p.hear()
	if code != want {
		if code == codeClose {
			p.t.Fatalf("heard a close: %v", d.ending())
		}
		p.t.Fatalf("heard %#x, not %#x", code, want)
	}
	return d
}

// outcome gives the next disposition, whatever flows before it.
func (p *peer) outcome() disposition {
	p.t.Helper()
	for {
		if code, d := p.hear(); code == codeDisposition {
			return d.disposition()
		} else if code != codeFlow {
			p.t.Fatalf("heard %#x", code)
		}
	}
}

func composite(code byte, values ...any) func([]byte) []byte {
	return func(dst []byte) []byte {
		w := begin(dst, code)
		for _, v := range values {
			w.value(v)
		}
		return w.end()
	}
}

var (
	sayOpen   = composite(codeOpen, "peer", nil, nil, nil, nil)
	sayBegin  = composite(codeBegin, nil, uint32(0), uint32(100), uint32(100))
	sayAttach = func(name string, handle uint32, receiver bool) func([]byte) []byte {
		return func(dst []byte) []byte {
			a := attaching{name: name, handle: handle, receiver: receiver, sndMode: SenderMixed,
				source: &Terminus{Address: "node"}, target: &Terminus{Address: "node"}}
			return a.append(dst)
		}
	}
)

func sayTransfer(handle, id uint32, more bool, payload string) func([]byte) []byte {
	return func(dst []byte) []byte {
		v := transfer{handle: handle, id: id, hasID: true, tag: []byte("t"), more: more}
		return append(v.append(dst), payload...)
	}
}

// settled comes with a session and a link on which the peer sends.
func (p *peer) settle(receiver bool) {
	p.t.Helper()
	p.say(appendProtocol(nil, headerAMQP))
	if id, ok, err := p.r.protocol(); id != headerAMQP || !ok || err != nil {
		p.t.Fatal(id, ok, err)
	}
	p.frame(0, sayOpen)
	p.expect(codeOpen)
	p.frame(0, sayBegin)
	p.expect(codeBegin)
	p.frame(0, sayAttach("link", 0, receiver))
	if a := p.expect(codeAttach).attach(); a.maxSize == 0 {
		p.t.Error("an attach says no max-message-size")
	}
	if !receiver {
		p.expect(codeFlow)
	}
}

// TestViolations: who breaks the rules hears which, and is rid of.
func TestViolations(t *testing.T) {
	raw := func(hexed string) func(*peer) {
		return func(p *peer) {
			b, err := hex.DecodeString(hexed)
			if err != nil {
				p.t.Fatal(err)
			}
			p.say(b)
		}
	}
	frame := func(channel uint16, f func([]byte) []byte) func(*peer) {
		return func(p *peer) { p.frame(channel, f) }
	}
	for name, c := range map[string]struct {
		do   func(*peer)
		want Symbol
	}{
		"a frame of 16 MB":                   {raw("0100000002000000"), FramingError},
		"a frame of 7 bytes":                 {raw("0000000702000000"), FramingError},
		"a data offset of 1":                 {raw("0000000801000000"), FramingError},
		"a data offset beyond":               {raw("0000000803000000"), FramingError},
		"a frame of SASL":                    {raw("0000000802010000"), FramingError},
		"a frame of no performative":         {frame(0, composite(0x19)), NotAllowed},
		"a frame that is no list":            {frame(0, func(dst []byte) []byte { return append(dst, 0, 0x53, codeFlow, 0x40) }), DecodeError},
		"rubbish":                            {frame(0, func(dst []byte) []byte { return append(dst, 1, 2, 3) }), DecodeError},
		"a second open":                      {frame(0, sayOpen), FramingError},
		"a second begin":                     {frame(0, sayBegin), NotAllowed},
		"a begin as an answer":               {frame(1, composite(codeBegin, uint16(1), uint32(0), uint32(1), uint32(1))), NotAllowed},
		"a channel beyond":                   {frame(256, sayBegin), FramingError},
		"a channel without a session":        {frame(1, composite(codeFlow)), NotAllowed},
		"a handle in use":                    {frame(0, sayAttach("other", 0, true)), HandleInUse},
		"a handle beyond":                    {frame(0, sayAttach("other", 256, true)), FramingError},
		"a name too long":                    {frame(0, sayAttach(strings.Repeat("x", maxName+1), 1, true)), InvalidField},
		"a detach of nothing":                {frame(0, composite(codeDetach, uint32(9), true)), UnattachedHandle},
		"a flow that counts too much":        {frame(0, composite(codeFlow, uint32(5), uint32(1), uint32(0), uint32(1))), WindowViolation},
		"a transfer of nothing":              {frame(0, sayTransfer(9, 0, false, "x")), UnattachedHandle},
		"a transfer without an ID":           {frame(0, composite(codeTransfer, uint32(0))), InvalidField},
		"a tag of 33 bytes":                  {frame(0, composite(codeTransfer, uint32(0), uint32(0), make([]byte, 33))), InvalidField},
		"a delivery in the midst of another": {func(p *peer) { p.frame(0, sayTransfer(0, 0, true, "x")); p.frame(0, sayTransfer(0, 1, true, "x")) }, NotAllowed},
		"transfers beyond the credit": {func(p *peer) {
			for i := range uint32(40) {
				p.frame(0, sayTransfer(0, i, false, "x"))
			}
		}, TransferLimitExceeded},
		"too many links": {func(p *peer) {
			for i := range uint32(maxHandle) {
				p.frame(0, sayAttach(fmt.Sprint(i), i+1, true))
			}
			p.frame(1, sayBegin)
			p.frame(1, sayAttach("one more", 0, true))
		}, ResourceLimitExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			h := &handler{}
			if strings.HasPrefix(name, "transfers") {
				h.take = func(*Delivery) {} // never settled
			}
			p := meet(t, h)
			p.settle(false)
			go c.do(p)
			for {
				code, d := p.hear()
				if code != codeClose {
					continue
				}
				if e := d.ending(); e == nil || e.Condition != c.want {
					t.Errorf("closed with %v", e)
				}
				break
			}
			p.nc.Close()
			if e, ok := errors.AsType[*Error](<-p.over); !ok || e.Condition != c.want {
				t.Errorf("Serve gives %v", e)
			}
		})
	}
}

// TestStranger: before it is let in a peer gets little.
func TestStranger(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*peer)
		want Symbol
	}{
		"sessions": {func(p *peer) {
			for i := range uint16(strangerSessions) {
				p.frame(i+1, sayBegin)
			}
		}, ResourceLimitExceeded},
		"links": {func(p *peer) {
			for i := range uint32(strangerLinks) {
				p.frame(0, sayAttach(fmt.Sprint(i), i+1, true))
			}
		}, ResourceLimitExceeded},
		"frames": {func(p *peer) {
			for range strangerFrames {
				p.frame(0, composite(codeFlow))
			}
		}, ResourceLimitExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			p := meet(t, &handler{stranger: true})
			p.settle(true)
			go c.do(p)
			for {
				if code, d := p.hear(); code == codeClose {
					if e := d.ending(); e == nil || e.Condition != c.want {
						t.Errorf("closed with %v", e)
					}
					break
				}
			}
			p.nc.Close()
			<-p.over
		})
	}
}

// TestNotAMQP: who speaks something else is told what is spoken (AMQP §2.2).
func TestNotAMQP(t *testing.T) {
	for _, first := range []string{"GET / HT", "AMQP\x00\x00\x09\x01", "AMQP\x02\x01\x00\x00", "\x16\x03\x01\x00\x00\x00\x00\x00"} {
		p := meet(t, &handler{})
		go p.say([]byte(first))
		if id, ok, err := p.r.protocol(); id != headerSASL || !ok || err != nil {
			t.Error(first, id, ok, err)
		}
		p.nc.Close()
		if err := <-p.over; err != ErrProtocol {
			t.Error(first, err)
		}
	}
}

// TestTooLarge: a message that is too large is skipped, and the next is taken.
func TestTooLarge(t *testing.T) {
	p := meet(t, &handler{})
	p.settle(false)
	for range 5 {
		p.frame(0, sayTransfer(0, 0, true, strings.Repeat("x", 30)))
	}
	p.frame(0, sayTransfer(0, 0, false, ""))
	if v := p.outcome(); !v.settled || !reflect.DeepEqual(v.state, Rejected{&Error{Condition: MessageSizeExceeded}}) {
		t.Errorf("%+v", v)
	}
	p.frame(0, sayTransfer(0, 1, false, "x"))
	if v := p.outcome(); !v.settled || v.first != 1 || v.state != (Accepted{}) {
		t.Errorf("%+v", v)
	}
	// One that is given up half way is as if it had not been.
	p.frame(0, sayTransfer(0, 2, true, "half"))
	p.frame(0, composite(codeTransfer, uint32(0), nil, nil, nil, nil, nil, nil, nil, nil, true))
	p.frame(0, sayTransfer(0, 3, false, "x"))
	if v := p.outcome(); v.first != 3 || v.state != (Accepted{}) {
		t.Errorf("%+v", v)
	}
	p.frame(0, composite(codeClose))
	for code := uint64(0); code != codeClose; {
		code, _ = p.hear()
	}
	if err := <-p.over; err != nil {
		t.Error(err)
	}
}

// TestTogether: what is accepted in a row is said in one disposition.
func TestTogether(t *testing.T) {
	var taken []*Delivery
	h := &handler{credit: 10, take: func(d *Delivery) {
		if taken = append(taken, d); len(taken) == 4 {
			taken[0].Settle(Accepted{})
			taken[1].Settle(Accepted{})
			taken[3].Settle(Accepted{})
			taken[3].Settle(Rejected{}) // once is enough
			taken[2].Settle(Released{})
		}
	}}
	p := meet(t, h)
	p.settle(false)
	for i := range uint32(4) {
		p.frame(0, sayTransfer(0, i, false, "x"))
	}
	said := ""
	for range 3 {
		v := p.expect(codeDisposition).disposition()
		said += fmt.Sprintf("%d-%d %T ", v.first, v.last, v.state)
	}
	if want := "0-1 amqp.Accepted 3-3 amqp.Accepted 2-2 amqp.Released "; said != want {
		t.Error(said)
	}
	p.nc.Close()
	if err := <-p.over; err != io.EOF {
		t.Error(err)
	}
}

// TestWindow: nothing is sent beyond what the peer has room for, frame by frame.
func TestWindow(t *testing.T) {
	h := &handler{}
	sent := false
	h.fetch = func() {
		for h.sender != nil && !sent && h.sender.Ready() {
			sent = h.sender.Send(Outgoing{Payload: bytes.Repeat([]byte("x"), 2000), Settled: true})
		}
	}
	p := meet(t, h)
	p.say(appendProtocol(nil, headerAMQP))
	p.r.protocol()
	p.frame(0, composite(codeOpen, "peer", nil, uint32(512)))
	p.expect(codeOpen)
	p.frame(0, composite(codeBegin, nil, uint32(0), uint32(0), uint32(100)))
	p.expect(codeBegin)
	p.frame(0, sayAttach("link", 0, true))
	p.expect(codeAttach)
	got := 0
	for i := uint32(0); got < 2000; i++ {
		// Room for one frame more, and each time an answer that says how it stands.
		p.frame(0, composite(codeFlow, i, uint32(1), uint32(0), uint32(1), uint32(0), uint32(0), uint32(1), nil, false, true))
		code, d := p.hear()
		for code == codeFlow {
			code, d = p.hear()
		}
		if code != codeTransfer {
			t.Fatalf("heard %#x", code)
		}
		v := d.transfer()
		if len(d.b) == 0 || v.hasID != (got == 0) || i > 10 {
			t.Fatalf("%+v %d", v, len(d.b))
		}
		if got += len(d.b); v.more != (got < 2000) {
			t.Fatalf("%+v with %d", v, got)
		}
	}
	p.nc.Close()
	<-p.over
}

// TestDisposedOf: of what was sent, a range is disposed of whatever its width.
func TestDisposedOf(t *testing.T) {
	h := &handler{}
	n, said := 0, ""
	h.fetch = func() {
		for h.sender != nil && n < 5 && h.sender.Ready() {
			i := n
			n++
			h.sender.Send(Outgoing{Payload: []byte("x"), Done: func(s State) State {
				said += fmt.Sprintf("%d %T ", i, s)
				return nil
			}})
		}
	}
	p := meet(t, h)
	p.settle(true)
	p.frame(0, composite(codeFlow, uint32(0), uint32(100), uint32(0), uint32(1), uint32(0), uint32(0), uint32(50)))
	for range 5 {
		p.expect(codeTransfer)
	}
	p.frame(0, func(dst []byte) []byte {
		v := disposition{receiver: true, first: 1, last: 2, settled: true, state: Released{}}
		return v.append(dst)
	})
	p.frame(0, func(dst []byte) []byte {
		v := disposition{receiver: true, first: math.MaxUint32, last: 3, settled: false, state: Modified{DeliveryFailed: true}}
		return v.append(dst)
	})
	for _, id := range []uint32{0, 3} {
		if v := p.expect(codeDisposition).disposition(); v.receiver || v.first != id || !v.settled || v.state != (Modified{DeliveryFailed: true}) {
			t.Errorf("%+v", v)
		}
	}
	p.nc.Close()
	<-p.over
	if want := "1 amqp.Released 2 amqp.Released 0 amqp.Modified 3 amqp.Modified 4 <nil> "; said != want {
		t.Error(said)
	}
}

// TestWhole: what is said has each field that the standard knows, null at the end too. azure-eventhub for Python takes
// them by their places, as Azure leaves none out.
func TestWhole(t *testing.T) {
	e := &Error{Condition: NotFound}
	for name, c := range map[string]struct {
		said   []byte
		fields int
	}{
		"open":                     {appendOpen(nil, "hub"), 10},
		"begin":                    {new(beginning).append(nil), 8},
		"attach":                   {(&attaching{name: "link", source: &Terminus{}, target: &Terminus{}}).append(nil), 14},
		"attach that is refused":   {(&attaching{name: "link", receiver: true}).append(nil), 14},
		"flow of a session":        {new(flowing).append(nil), 11},
		"flow of a link":           {(&flowing{hasHandle: true}).append(nil), 11},
		"transfer":                 {(&transfer{hasID: true, tag: []byte("t")}).append(nil), 11},
		"transfer that goes on":    {new(transfer).append(nil), 11},
		"disposition":              {new(disposition).append(nil), 6},
		"disposition with a state": {(&disposition{state: Accepted{}}).append(nil), 6},
		"detach":                   {appendDetach(nil, 0, nil), 3},
		"detach with an error":     {appendDetach(nil, 0, e), 3},
		"end":                      {appendEnding(nil, codeEnd, nil), 1},
		"close":                    {appendEnding(nil, codeClose, e), 1},
	} {
		d := decoder{b: c.said}
		v, _ := d.value().(Described)
		fields, _ := v.Value.(List)
		if len(fields) != c.fields || len(d.b) > 0 || d.err != nil {
			t.Errorf("%s: %d fields, want %d: %v %v", name, len(fields), c.fields, fields, d.err)
		}
		if v.Descriptor == uint64(codeAttach) && fields[13] == nil {
			t.Errorf("%s: no properties, not even none", name)
		}
		for _, field := range fields {
			if v, ok := field.(Described); ok && v.Descriptor == uint64(codeError) && len(v.Value.(List)) != 3 {
				t.Errorf("%s: an error of %v", name, v.Value)
			}
		}
	}
}

// TestSilence: who says nothing is lost after four minutes, and who asks for signs of
// life is given them.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := meet(t, &handler{})
		go func() {
			p.say(appendProtocol(nil, headerAMQP))
			p.frame(0, composite(codeOpen, "peer", nil, nil, nil, uint32(50_000)))
		}()
		p.r.protocol()
		began := time.Now()
		beats := 0
		for {
			f, err := p.r.next()
			if err != nil {
				break
			}
			if len(f.body) == 0 {
				beats++
			}
		}
		if lived := time.Since(began); lived != silence || beats != 9 {
			t.Errorf("%d signs of life in %v", beats, lived)
		}
		if err := <-p.over; err != ErrSilent {
			t.Error(err)
		}
	})
}

// TestDeadline: a stranger has the time that the handler gives it.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{stranger: true}
		p := meet(t, h)
		h.conn.SetDeadline(time.Now().Add(10*time.Second), nil)
		began := time.Now()
		go p.say(appendProtocol(nil, headerAMQP))
		p.r.protocol()
		if err := <-p.over; err != os.ErrDeadlineExceeded || time.Since(began) != 10*time.Second {
			t.Error(err, time.Since(began))
		}
	})
}

// TestUnread: a peer that reads nothing is let go, and holds no more than a bounded
// buffer until then.
func TestUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{}
		p := meet(t, h)
		p.settle(false)
		go func() {
			for { // each asks for an answer, and none is read
				if _, err := p.nc.Write(appendFrame(nil, frameAMQP, 0, composite(codeFlow, uint32(0), uint32(1), uint32(0), uint32(1), nil, nil, nil, nil, nil, true))); err != nil {
					return
				}
			}
		}()
		if err := <-p.over; err != ErrUnread {
			t.Error(err)
		}
		p.nc.Close()
	})
}

// FuzzValue: whatever comes, nothing panics, and what is read is written and read
// again as the same.
func FuzzValue(f *testing.F) {
	for _, v := range []any{nil, "x", List{Map{{Symbol("a"), Array{int32(1), int32(2)}}}}, Described{uint64(1), UUID{}}, []Symbol{"a"}, Array{List{}, List{"x"}}} {
		f.Add(appendValue(nil, v))
	}
	f.Add(full().Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := decoder{b: b}
		if v := d.value(); d.err == nil {
			once := appendValue(nil, v)
			again := decoder{b: once}
			if twice := appendValue(nil, again.value()); again.err == nil && !bytes.Equal(once, twice) {
				t.Errorf("%x is written %x and then %x", b, once, twice)
			} else if again.err != nil && again.values <= maxValues && d.values < maxValues/2 {
				t.Errorf("%x is written %x: %v", b, once, again.err)
			}
		}
		if m, err := ParseMessage(b); err == nil && m.Body != SequenceBody {
			if _, err := ParseMessage(m.Append(nil)); err != nil {
				t.Errorf("%+v: %v", m, err)
			}
		}
	})
}

// FuzzConn: whatever a stranger or a guest sends, the connection ends in order.
func FuzzConn(f *testing.F) {
	script := func(frames ...func([]byte) []byte) []byte {
		b := appendProtocol(nil, headerAMQP)
		for _, p := range append([]func([]byte) []byte{sayOpen, sayBegin}, frames...) {
			b = appendFrame(b, frameAMQP, 0, p)
		}
		return b
	}
	f.Add(script(sayAttach("a", 0, false), sayTransfer(0, 0, true, "x"), sayTransfer(0, 0, false, "x"), composite(codeDetach, uint32(0), true)), true)
	f.Add(script(sayAttach("a", 0, true), composite(codeFlow, uint32(0), uint32(9), uint32(0), uint32(1), uint32(0), uint32(0), uint32(3), nil, true),
		composite(codeDisposition, true, uint32(0), uint32(2), false, Described{uint64(codeReleased), List{}}), composite(codeEnd)), true)
	f.Add(append(appendFrame(appendProtocol(nil, headerSASL), frameSASL, 0, composite(codeInit, Symbol("ANONYMOUS"), []byte("x"))), script()...), false)
	f.Fuzz(func(t *testing.T, b []byte, letIn bool) {
		h := &handler{stranger: !letIn}
		done, sent := 0, 0
		h.fetch = func() {
			for h.sender != nil && sent < 8 && h.sender.Send(Outgoing{Payload: make([]byte, 700), Done: func(State) State { done++; return nil }}) {
				sent++
			}
		}
		nc := &scripted{in: bytes.NewReader(b)}
		h.conn = NewConn(nc, h, Options{ContainerID: "hub", Mechanisms: []Symbol{"ANONYMOUS"}})
		h.conn.Serve()
		c := h.conn
		c.mu.Lock()
		defer c.mu.Unlock()
		for c.writing {
			c.changed.Wait()
		}
		if c.links != 0 || c.partial != 0 || c.draining != 0 || c.taken != 0 || len(c.sessions) != 0 {
			t.Errorf("left: %d links, %d bytes, %d draining, %d taken", c.links, c.partial, c.draining, c.taken)
		}
	})
}

// A scripted connection gives what a peer has sent, and takes all.
type scripted struct {
	net.Conn
	in io.Reader
}

func (s *scripted) Read(b []byte) (int, error)         { return s.in.Read(b) }
func (s *scripted) Write(b []byte) (int, error)        { return len(b), nil }
func (s *scripted) SetReadDeadline(time.Time) error    { return nil }
func (s *scripted) SetWriteDeadline(t time.Time) error { return nil }
