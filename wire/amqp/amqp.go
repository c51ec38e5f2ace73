// Package amqp is AMQP 1.0 as a server needs it: a codec, and the server's side
// of a connection with its sessions and links. It knows frames, flow and
// settlement, and neither nodes nor devices: whoever serves a connection is a
// [Handler].
//
// Citations such as "AMQP §2.6.7" are of the OASIS standard "Advanced Message
// Queuing Protocol Version 1.0": part 1 the types, 2 the transport, 3 the
// messages, 5 the security layer.
//
// It is our own because none that is kept serves the server's side in Go:
// github.com/Azure/go-amqp dials and never accepts (a server was asked for in
// 2019 and has not come), has its codec under internal, and decodes 22,000 lists
// in each other if a peer sends them; qpid-proton's is C. What is left out is what
// no client of an IoT hub uses: transactions, resumed links, dynamic nodes,
// messages of sequences to send. go-amqp and rhea are what it is tested against.
//
// # Bounds
//
// A stranger, until [Conn.LetIn], gets the little that is in the constants of
// limits.go. Nothing is allocated by what a peer announces, only by what has
// arrived; an idle connection holds no buffer.
//
// # Goroutines
//
// The goroutine that calls [Conn.Serve] reads. A second exists only while there is
// something to write or to fetch. [Conn.mu] guards what they share, and is never
// held while a Handler is called.
package amqp

import "time"

// The types of AMQP values (AMQP §1.6) in Go. A value is an any that holds one of
//
//	nil, bool, uint8, uint16, uint32, uint64, int8, int16, int32, int64, float32,
//	float64, Char, Decimal32, Decimal64, Decimal128, time.Time, UUID, []byte,
//	string, Symbol, List, Map, Array, Described
//
// and, to be written alone, []Symbol and []string, which are arrays. Any other type
// is a mistake of ours, and encoding it panics.
type (
	Symbol string
	UUID   [16]byte
	Char   rune
	// Decimals are carried, and not understood.
	Decimal32  [4]byte
	Decimal64  [8]byte
	Decimal128 [16]byte

	List []any
	// Array holds values of one type. An empty one cannot be written.
	Array []any
	// Map keeps the order of its entries. It is no Go map because the keys that a
	// stranger sends may be lists.
	Map []Entry
	// Described is a value with a descriptor: a uint64 or a Symbol, unless a stranger writes something else.
	Described struct{ Descriptor, Value any }
)

// An Entry of a Map.
type Entry struct{ Key, Value any }

// Get gives the value of a key that is a symbol or a string; nil when there is none.
func (m Map) Get(key string) any {
	for _, e := range m {
		switch k := e.Key.(type) {
		case Symbol:
			if string(k) == key {
				return e.Value
			}
		case string:
			if k == key {
				return e.Value
			}
		}
	}
	return nil
}

// Text gives the value of a key as text, if it is a string or a symbol.
func (m Map) Text(key string) (string, bool) {
	switch v := m.Get(key).(type) {
	case string:
		return v, true
	case Symbol:
		return string(v), true
	}
	return "", false
}

// An Error is how AMQP says why something is refused or over (AMQP §2.8.14). As a
// State of a delivery it is the error of [Rejected].
type Error struct {
	Condition   Symbol
	Description string
	Info        Map // keys are symbols
}

func (e *Error) Error() string {
	if e.Description == "" {
		return string(e.Condition)
	}
	return string(e.Condition) + ": " + e.Description
}

// Conditions of the standard (AMQP §2.8.15 to §2.8.18).
const (
	InternalError         Symbol = "amqp:internal-error"
	NotFound              Symbol = "amqp:not-found"
	UnauthorizedAccess    Symbol = "amqp:unauthorized-access"
	DecodeError           Symbol = "amqp:decode-error"
	ResourceLimitExceeded Symbol = "amqp:resource-limit-exceeded"
	NotAllowed            Symbol = "amqp:not-allowed"
	InvalidField          Symbol = "amqp:invalid-field"
	NotImplemented        Symbol = "amqp:not-implemented"
	PreconditionFailed    Symbol = "amqp:precondition-failed"

	ConnectionForced Symbol = "amqp:connection:forced"
	FramingError     Symbol = "amqp:connection:framing-error"

	WindowViolation  Symbol = "amqp:session:window-violation"
	UnattachedHandle Symbol = "amqp:session:unattached-handle"
	HandleInUse      Symbol = "amqp:session:handle-in-use"

	DetachForced          Symbol = "amqp:link:detach-forced"
	TransferLimitExceeded Symbol = "amqp:link:transfer-limit-exceeded"
	MessageSizeExceeded   Symbol = "amqp:link:message-size-exceeded"
	LinkRedirect          Symbol = "amqp:link:redirect"
	LinkStolen            Symbol = "amqp:link:stolen"
)

// A State is the outcome of a delivery (AMQP §3.4).
type State interface{ state() }

// The states.
type (
	Accepted struct{}
	Rejected struct{ Error *Error }
	Released struct{}
	Modified struct{ DeliveryFailed, UndeliverableHere bool }
	// Received is how far a delivery has come: no outcome yet.
	Received struct{}
)

func (Accepted) state() {}
func (Rejected) state() {}
func (Released) state() {}
func (Modified) state() {}
func (Received) state() {}

// Settle modes (AMQP §2.8.2, §2.8.3).
const (
	SenderUnsettled uint8 = 0
	SenderSettled   uint8 = 1
	SenderMixed     uint8 = 2
	ReceiverFirst   uint8 = 0
	ReceiverSecond  uint8 = 1
)

// A Terminus is the source or target of a link as the peer asks for it (AMQP §3.5.3,
// §3.5.4). Of a target, what only sources have is zero.
type Terminus struct {
	Address string // "" when it has none
	Dynamic bool
	Filter  Map // of a source: names to described values
	Durable uint32
	Expiry  Symbol
	Timeout uint32 // seconds

	distribution any
	dynamic      Map
	outcome      any
	outcomes     any
	capabilities any
	coordinator  bool // of transactions
}

// A Message is one in sections (AMQP §3.2). Its footer is not kept.
type Message struct {
	Header              *Header // nil when there is none
	DeliveryAnnotations Map     // keys are symbols
	Annotations         Map     // keys are symbols
	Properties          Properties
	Application         Map // keys are strings

	Body  Body
	Data  [][]byte // of a body of Data: its sections
	Value any      // of a body of Value
}

// Body says what kind of body a message has (AMQP §3.2.6 to §3.2.8).
type Body uint8

// The kinds.
const (
	NoBody Body = iota
	DataBody
	ValueBody
	SequenceBody // it is skipped, and cannot be written
)

// A Header is the header of a message (AMQP §3.2.1).
type Header struct {
	Durable       bool
	Priority      uint8
	TTL           time.Duration // zero is none
	DeliveryCount uint32
}

// Properties are the properties of a message (AMQP §3.2.4); what is zero is absent.
type Properties struct {
	MessageID          any // string, uint64, UUID or []byte
	UserID             []byte
	To                 string
	Subject            string
	ReplyTo            string
	CorrelationID      any // as MessageID
	ContentType        Symbol
	ContentEncoding    Symbol
	AbsoluteExpiryTime time.Time
	CreationTime       time.Time
	GroupID            string
	GroupSequence      uint32
	ReplyToGroupID     string
}

// A Malformed is what cannot be decoded.
type Malformed struct {
	Clause string // of the standard, such as "§1.6.22"
	Reason string // holds nothing of what was sent
}

func (m *Malformed) Error() string { return "malformed AMQP: " + m.Reason + " (AMQP " + m.Clause + ")" }
