package signet

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MaxMessageSize bounds a device-to-cloud message: body, system property values,
// and names and values of application properties, in bytes.
const MaxMessageSize = 256 << 10

// A Message is what a device sent, with what the hub stamped on it.
type Message struct {
	Hub          string
	DeviceID     string
	ModuleID     string
	GenerationID string
	AuthMethod   string    // see [Principal.AuthMethod]
	Source       string    // "Telemetry" for what devices send
	EnqueuedTime time.Time // UTC, when the hub took it; kept to the millisecond
	// System holds system properties by their names (message-id, content-type …).
	System []Property
	// Properties holds application properties in the order they came.
	Properties []Property
	Body       []byte
}

// SourceTelemetry is the Source of what devices send.
const SourceTelemetry = "Telemetry"

// A Property is a name with a value, or with none at all.
type Property struct {
	Name  string
	Value string
	// Null tells a property that came as a bare name from one with an empty value.
	Null bool
}

// Size is the size of m as the limit counts it, in bytes.
func (m *Message) Size() int {
	n := len(m.Body)
	for _, p := range m.System {
		n += len(p.Value)
	}
	for _, p := range m.Properties {
		n += len(p.Name) + len(p.Value)
	}
	return n
}

// A Position is a place in the message log of a hub: the sequence of a record
// batch and the index of a record in it. Positions only grow; the zero Position
// is before everything.
type Position struct {
	Sequence uint64
	Index    uint32
}

// String writes a position as "sequence.index".
func (p Position) String() string { return fmt.Sprintf("%d.%d", p.Sequence, p.Index) }

// MarshalText is for encoding/json.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is for encoding/json.
func (p *Position) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePosition(string(text))
	return err
}

// Before says whether p comes before other.
func (p Position) Before(other Position) bool {
	return p.Sequence < other.Sequence || p.Sequence == other.Sequence && p.Index < other.Index
}

// MaxBatchRecords is how many records a record batch of the log holds at most.
const MaxBatchRecords = 512

// Number writes a position as one number, in the same order: what Event Hubs calls
// a sequence number. It counts nothing: there are gaps between batches. Numbers
// below 2^53 are all the batches that 50 years at 10,000 a second make.
func (p Position) Number() int64 {
	return int64(p.Sequence)*MaxBatchRecords + int64(min(p.Index, MaxBatchRecords-1))
}

// PositionOf is the position with that number; of a negative one, the zero Position.
func PositionOf(number int64) Position {
	number = max(number, 0)
	return Position{Sequence: uint64(number / MaxBatchRecords), Index: uint32(number % MaxBatchRecords)}
}

// ParsePosition reads what [Position.String] writes.
func ParsePosition(s string) (Position, error) {
	sequence, index, ok := strings.Cut(s, ".")
	seq, err1 := strconv.ParseUint(sequence, 10, 64)
	idx, err2 := strconv.ParseUint(index, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return Position{}, Refuse(RequestMalformed, "A position is written sequence.index, not %q.", Clip(s))
	}
	return Position{Sequence: seq, Index: uint32(idx)}, nil
}
