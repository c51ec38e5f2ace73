package amqp

import "time"

// Descriptors (AMQP §2.7, §2.8, §3.4, §3.5, §5.3.3).
const (
	codeOpen        = 0x10
	codeBegin       = 0x11
	codeAttach      = 0x12
	codeFlow        = 0x13
	codeTransfer    = 0x14
	codeDisposition = 0x15
	codeDetach      = 0x16
	codeEnd         = 0x17
	codeClose       = 0x18
	codeError       = 0x1D
	codeReceived    = 0x23
	codeAccepted    = 0x24
	codeRejected    = 0x25
	codeReleased    = 0x26
	codeModified    = 0x27
	codeSource      = 0x28
	codeTarget      = 0x29
	codeCoordinator = 0x30
	codeMechanisms  = 0x40
	codeInit        = 0x41
	codeOutcome     = 0x44
)

// symbolic gives the descriptors that peers may write as symbols instead.
var symbolic = map[Symbol]uint64{
	"amqp:open:list": codeOpen, "amqp:begin:list": codeBegin, "amqp:attach:list": codeAttach, "amqp:flow:list": codeFlow,
	"amqp:transfer:list": codeTransfer, "amqp:disposition:list": codeDisposition, "amqp:detach:list": codeDetach,
	"amqp:end:list": codeEnd, "amqp:close:list": codeClose, "amqp:error:list": codeError,
	"amqp:received:list": codeReceived, "amqp:accepted:list": codeAccepted, "amqp:rejected:list": codeRejected,
	"amqp:released:list": codeReleased, "amqp:modified:list": codeModified,
	"amqp:source:list": codeSource, "amqp:target:list": codeTarget, "amqp:coordinator:list": codeCoordinator,
	"amqp:sasl-init:list": codeInit,
	"amqp:header:list":    codeHeader, "amqp:delivery-annotations:map": codeDeliveryAnnotations,
	"amqp:message-annotations:map": codeAnnotations, "amqp:properties:list": codeProperties,
	"amqp:application-properties:map": codeApplication, "amqp:data:binary": codeData,
	"amqp:amqp-sequence:list": codeSequence, "amqp:amqp-value:*": codeValue, "amqp:footer:map": codeFooter,
}

// descriptor reads the beginning of a described value.
func (d *decoder) descriptor() uint64 {
	if d.byte() != 0 {
		d.fail("§1.3", "a descriptor is missing")
		return 0
	}
	return d.code()
}

func (d *decoder) code() uint64 {
	switch v := d.value().(type) {
	case uint64:
		return v
	case Symbol:
		return symbolic[v]
	}
	d.fail("§1.3", "a descriptor is neither an ulong nor a symbol")
	return 0
}

// optional begins to read a field that is a composite of one of several types; code
// is 0 when it is null.
func (f *fields) optional() (code uint64) {
	switch f.next() {
	case 0x40:
		return 0
	case 0:
		if code = f.code(); code != 0 {
			return code
		}
	}
	f.wrong()
	return 0
}

// What peers say and are told (AMQP §2.7). What is left out is of no use to a server.
type (
	open struct {
		Open
		maxFrame   uint32
		channelMax uint16
		idle       time.Duration // zero is none
	}
	beginning struct {
		remote         uint16 // the peer's channel, of an answer
		answer         bool
		nextOutgoing   uint32
		incomingWindow uint32
		outgoingWindow uint32
		handleMax      uint32
	}
	attaching struct {
		name           string
		handle         uint32
		receiver       bool // the role of who says it
		sndMode        uint8
		rcvMode        uint8
		source, target *Terminus
		initialCount   uint32
		maxSize        uint64
		offered        []Symbol
		desired        []Symbol
		properties     Map
	}
	flowing struct {
		nextIncoming   uint32
		hasIncoming    bool
		incomingWindow uint32
		nextOutgoing   uint32
		outgoingWindow uint32
		handle         uint32
		hasHandle      bool
		deliveryCount  uint32
		hasCount       bool
		credit         uint32
		hasCredit      bool
		drain, echo    bool
	}
	transfer struct {
		handle  uint32
		id      uint32
		hasID   bool
		tag     []byte // lies in the frame
		format  uint32
		settled bool
		more    bool
		aborted bool
	}
	disposition struct {
		receiver    bool // the role of who says it
		first, last uint32
		settled     bool
		state       State // nil when there is none
	}
	saslInit struct {
		mechanism Symbol
		response  []byte // lies in the frame
		hostname  string
	}
)

func (d *decoder) open() (o open) {
	f := d.composite()
	o.ContainerID, o.Hostname = f.string(), f.string()
	o.maxFrame, o.channelMax = f.uint(1<<32-1), f.ushort(1<<16-1)
	o.idle = time.Duration(f.uint(0)) * time.Millisecond
	f.any() // outgoing-locales
	f.any() // incoming-locales
	f.any() // offered-capabilities
	f.any() // desired-capabilities
	o.Properties = f.mapping()
	d.over(&f)
	return o
}

func appendOpen(dst []byte, container string) []byte {
	w := begin(dst, codeOpen)
	w.text(container)
	w.null() // hostname
	w.uint(maxFrame)
	w.ushort(maxChannel)
	w.uint(uint32((silence / 2).Milliseconds()))
	return w.all(10)
}

func (d *decoder) begin() (b beginning) {
	f := d.composite()
	switch code := f.next(); code {
	case 0x40:
	case 0x60:
		b.remote, b.answer = f.decoder.uint16(), true
	default:
		f.wrong()
	}
	b.nextOutgoing, b.incomingWindow, b.outgoingWindow = f.uint(0), f.uint(0), f.uint(0)
	b.handleMax = f.uint(1<<32 - 1)
	d.over(&f)
	return b
}

func (b *beginning) append(dst []byte) []byte {
	w := begin(dst, codeBegin)
	w.ushort(b.remote)
	w.uint(b.nextOutgoing)
	w.uint(b.incomingWindow)
	w.uint(b.outgoingWindow)
	w.uint(b.handleMax)
	return w.all(8)
}

func (d *decoder) attach() (a attaching) {
	f := d.composite()
	a.name, a.handle, a.receiver = f.string(), f.uint(0), f.bool()
	a.sndMode, a.rcvMode = f.ubyte(SenderMixed), f.ubyte(ReceiverFirst)
	if a.sndMode > SenderMixed || a.rcvMode > ReceiverSecond {
		f.wrong()
	}
	a.source, a.target = f.terminus(), f.terminus()
	f.any() // unsettled: links are not resumed
	f.bool()
	a.initialCount, a.maxSize = f.uint(0), f.ulong()
	a.offered, a.desired, a.properties = f.symbols(), f.symbols(), f.mapping()
	d.over(&f)
	return a
}

func (a *attaching) append(dst []byte) []byte {
	w := begin(dst, codeAttach)
	w.text(a.name)
	w.uint(a.handle)
	w.bool(a.receiver)
	w.ubyte(a.sndMode)
	w.ubyte(a.rcvMode)
	w.terminus(codeSource, a.source)
	w.terminus(codeTarget, a.target)
	w.null() // unsettled
	w.null() // incomplete-unsettled
	if a.receiver {
		w.null()
	} else {
		w.uint(a.initialCount)
	}
	if a.maxSize == 0 {
		w.null()
	} else {
		w.ulong(a.maxSize)
	}
	w.maybeSymbols(a.offered)
	w.null()       // desired-capabilities
	w.value(Map{}) // Azure gives some, and azure-eventhub for Python 5.11 adds them to its own: null ends it
	return w.all(14)
}

// terminus reads a source, a target or a coordinator.
func (f *fields) terminus() *Terminus {
	code := f.optional()
	switch code {
	case 0:
		return nil
	case codeSource, codeTarget, codeCoordinator:
	default:
		f.wrong()
		return nil
	}
	t := &Terminus{coordinator: code == codeCoordinator}
	i := f.composite()
	if code != codeCoordinator {
		switch address := i.any().(type) {
		case nil:
		case string:
			t.Address = address
		default:
			i.wrong()
		}
		t.Durable, t.Expiry, t.Timeout = i.uint(0), i.symbol(), i.uint(0)
		t.Dynamic, t.dynamic = i.bool(), i.mapping()
	}
	if code == codeSource {
		t.distribution, t.Filter = i.any(), i.mapping()
		t.outcome, t.outcomes = i.any(), i.any()
	}
	t.capabilities = i.any()
	f.over(&i)
	return t
}

// terminus writes back what a peer has written.
func (w *fieldsWriter) terminus(code byte, t *Terminus) {
	if t == nil {
		w.null()
		return
	}
	i := begin(w.next(), code)
	i.maybeText(t.Address)
	i.uint(t.Durable)
	i.maybeSymbol(t.Expiry)
	i.uint(t.Timeout)
	i.bool(t.Dynamic)
	i.maybeMap(t.dynamic)
	if code == codeSource {
		i.value(t.distribution)
		i.maybeMap(t.Filter)
		i.value(t.outcome)
		i.value(t.outcomes)
	}
	i.value(t.capabilities)
	w.dst = i.end()
}

func (d *decoder) flow() (v flowing) {
	f := d.composite()
	v.nextIncoming, v.hasIncoming = f.maybeUint()
	v.incomingWindow, v.nextOutgoing, v.outgoingWindow = f.uint(0), f.uint(0), f.uint(0)
	v.handle, v.hasHandle = f.maybeUint()
	v.deliveryCount, v.hasCount = f.maybeUint()
	v.credit, v.hasCredit = f.maybeUint()
	f.any() // available
	v.drain, v.echo = f.bool(), f.bool()
	d.over(&f)
	return v
}

func (v *flowing) append(dst []byte) []byte {
	w := begin(dst, codeFlow)
	w.uint(v.nextIncoming) // always: clients count with it
	w.uint(v.incomingWindow)
	w.uint(v.nextOutgoing)
	w.uint(v.outgoingWindow)
	if v.hasHandle {
		w.uint(v.handle)
		w.uint(v.deliveryCount)
		w.uint(v.credit)
		w.null() // available
		w.bool(v.drain)
	}
	return w.all(11)
}

func (d *decoder) transfer() (t transfer) {
	f := d.composite()
	t.handle = f.uint(0)
	t.id, t.hasID = f.maybeUint()
	t.tag = f.binary()
	t.format, t.settled, t.more = f.uint(0), f.bool(), f.bool()
	f.ubyte(0) // rcv-settle-mode
	f.any()    // state
	f.bool()   // resume
	t.aborted = f.bool()
	d.over(&f)
	return t
}

func (t *transfer) append(dst []byte) []byte {
	w := begin(dst, codeTransfer)
	w.uint(t.handle)
	if t.hasID {
		w.uint(t.id)
		w.binary(t.tag)
		w.uint(t.format)
		w.bool(t.settled)
	} else {
		w.nulls += 4
	}
	if t.more {
		w.bool(true)
	}
	return w.all(11)
}

func (d *decoder) disposition() (v disposition) {
	f := d.composite()
	v.receiver, v.first = f.bool(), f.uint(0)
	v.last = f.uint(v.first)
	v.settled, v.state = f.bool(), f.state()
	d.over(&f)
	return v
}

func (v *disposition) append(dst []byte) []byte {
	w := begin(dst, codeDisposition)
	w.bool(v.receiver)
	w.uint(v.first)
	if v.last == v.first {
		w.null()
	} else {
		w.uint(v.last)
	}
	w.bool(v.settled)
	w.state(v.state)
	return w.all(6)
}

func (f *fields) state() State {
	code := f.optional()
	if code == 0 {
		return nil
	}
	i := f.composite()
	defer f.over(&i)
	switch code {
	case codeAccepted:
		return Accepted{}
	case codeRejected:
		return Rejected{i.error()}
	case codeReleased:
		return Released{}
	case codeModified:
		return Modified{i.bool(), i.bool()}
	case codeReceived:
		return Received{}
	}
	f.wrong()
	return nil
}

func (w *fieldsWriter) state(s State) {
	if s == nil {
		w.null()
		return
	}
	var i fieldsWriter
	switch s := s.(type) {
	case Accepted:
		i = begin(w.next(), codeAccepted)
	case Rejected:
		i = begin(w.next(), codeRejected)
		i.error(s.Error)
	case Released:
		i = begin(w.next(), codeReleased)
	case Modified:
		i = begin(w.next(), codeModified)
		i.bool(s.DeliveryFailed)
		i.bool(s.UndeliverableHere)
	case Received:
		i = begin(w.next(), codeReceived)
		i.uint(0)
		i.ulong(0)
	}
	w.dst = i.end()
}

func (f *fields) error() *Error {
	switch f.optional() {
	case 0:
		return nil
	case codeError:
	default:
		f.wrong()
		return nil
	}
	i := f.composite()
	e := &Error{i.symbol(), i.string(), i.mapping()}
	f.over(&i)
	return e
}

func (w *fieldsWriter) error(e *Error) {
	if e == nil {
		w.null()
		return
	}
	i := begin(w.next(), codeError)
	i.symbol(e.Condition)
	i.maybeText(e.Description)
	i.maybeMap(e.Info)
	w.dst = i.all(3)
}

// detach reads a detach.
func (d *decoder) detach() (handle uint32, e *Error) {
	f := d.composite()
	handle = f.uint(0)
	f.bool() // closed: links are not resumed, so every detach closes
	e = f.error()
	d.over(&f)
	return handle, e
}

func appendDetach(dst []byte, handle uint32, e *Error) []byte {
	w := begin(dst, codeDetach)
	w.uint(handle)
	w.bool(true)
	w.error(e)
	return w.all(3)
}

// ending reads an end or a close.
func (d *decoder) ending() *Error {
	f := d.composite()
	e := f.error()
	d.over(&f)
	return e
}

func appendEnding(dst []byte, code byte, e *Error) []byte {
	w := begin(dst, code)
	w.error(e)
	return w.all(1)
}

func (d *decoder) saslInit() (v saslInit) {
	f := d.composite()
	v.mechanism, v.response, v.hostname = f.symbol(), f.binary(), f.string()
	d.over(&f)
	return v
}

func appendMechanisms(dst []byte, mechanisms []Symbol) []byte {
	w := begin(dst, codeMechanisms)
	w.value(mechanisms)
	return w.end()
}

func appendOutcome(dst []byte, code uint8) []byte {
	w := begin(dst, codeOutcome)
	w.ubyte(code)
	return w.end()
}
