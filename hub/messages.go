package hub

import (
	"context"
	"time"

	"github.com/signet-iot/signet"
)

// Messages is the log that the hub writes telemetry to and reads it back from.
// Its server is package messaging.
//
// Safe for concurrent use. What was appended survives a crash of the process and
// of the machine from the moment that done is called with nil.
type Messages interface {
	// Append adds m to the log of m.Hub. It returns at once; done is called
	// exactly once, from any goroutine: with nil after the message is on disk
	// (fsync), with an error when it is known that it may not be. Messages of one
	// device are stored, and their done called, in the order of their Append. done
	// must not block. m and what it refers to are the caller's again when Append
	// returns.
	//
	// Append waits while more is under way than the log has room for, so that a
	// flood is slowed at its source; it then gives up with ctx.
	Append(ctx context.Context, m *signet.Message, done func(error))

	// Read calls each for the messages of one hub after a position, oldest
	// first, until each returns false, ctx ends, or, unless follow is set, the
	// end that the log had when Read began is reached. A position that is no
	// longer kept reads from the oldest that is. Reading slows no Append.
	Read(ctx context.Context, hub string, from Start, follow bool, each func(signet.Position, *signet.Message) bool) error

	// Ends gives the first and the last message that are kept of a hub: their
	// positions, and when the last was enqueued. All are zero when there is none.
	Ends(ctx context.Context, hub string) (first, last signet.Position, enqueued time.Time, err error)

	// Forget removes everything of a hub, durably.
	Forget(ctx context.Context, hub string) error
}

// Start is where reading begins: after a position, or, if the time is set, at
// the first message enqueued at that time or later.
type Start struct {
	After signet.Position
	Time  time.Time
}
