package signet

import "time"

// MaxCommandSize bounds a command: body, values of system properties, names and
// values of application properties, in bytes. It is Azure's.
const MaxCommandSize = 64 << 10

// A CommandQueue is where the commands for one identity wait. That of a later
// identity of the same name is another.
type CommandQueue struct {
	Hub, DeviceID string
	ModuleID      string // empty for a device
	GenerationID  string // of the identity
}

// A Command is a cloud-to-device message: what a back end sends to one device,
// and what waits for it until it is settled.
type Command struct {
	CommandQueue
	Sequence  int64  // grows along the queue
	MessageID string // the sender's, or one made for it
	Ack       Ack
	// EnqueuedTime is when it was taken; it is given up at ExpiryTime. Both are in
	// UTC, kept to the millisecond.
	EnqueuedTime, ExpiryTime time.Time
	DeliveryCount            int // how often it was given out and came back
	// System holds what else the sender said of it, by the names of telemetry
	// (correlation-id, content-type …), and absolute-expiry-time where the sender
	// set one.
	System     []Property
	Properties []Property // the application's, in their order
	Body       []byte
	// LockToken is set while the command is given out: whoever has it settles.
	LockToken string
}

// Size is the size of c as the limit counts it, in bytes.
func (c *Command) Size() int {
	m := Message{System: c.System, Properties: c.Properties, Body: c.Body}
	return m.Size() + len(c.MessageID)
}

// An Ack says of which outcomes the sender of a command is told.
type Ack string

// The acknowledgements, spelled as Azure spells them.
const (
	AckNone     Ack = "none"
	AckPositive Ack = "positive" // that it was completed
	AckNegative Ack = "negative" // that it was not
	AckFull     Ack = "full"
)

// Wants says whether the sender is told of an outcome.
func (a Ack) Wants(o Outcome) bool {
	return a == AckFull || a == AckPositive && o == Success || a == AckNegative && o != Success
}

// An Outcome is how a command ended.
type Outcome string

// The outcomes, spelled as Azure spells them. All but Success are dead letters.
const (
	Success               Outcome = "Success"
	Expired               Outcome = "Expired"
	DeliveryCountExceeded Outcome = "DeliveryCountExceeded"
	Rejected              Outcome = "Rejected"
	Purged                Outcome = "Purged"
)

// A Disposition is what a device does with a command that it was given.
type Disposition string

// The dispositions.
const (
	Complete Disposition = "complete" // done with: it leaves the queue
	Reject   Disposition = "reject"   // not to be given out again
	Abandon  Disposition = "abandon"  // back into the queue; its delivery count rises
)

// Feedback tells the sender of a command how it ended.
type Feedback struct {
	CommandQueue
	ID        string // among those of a hub
	MessageID string // of the command
	Outcome   Outcome
	Time      time.Time // of the outcome; UTC, to the millisecond
}
