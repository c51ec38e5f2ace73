package commands

import (
	"context"
	"time"

	"github.com/signet-iot/signet"
)

// Store keeps commands and feedback. Its server is package store.
//
// Safe for concurrent use. A write is durable (fsync) when it returns nil, and
// either wholly there or not at all. Reads see every write that has returned. A
// queue goes with its identity, and everything with its hub, in the transaction
// that deletes them. Outcomes are [signet.ErrNotFound] and [signet.ErrFull]; any
// other error means that the outcome is unknown.
type Store interface {
	// AddCommand puts a command at the end of its queue and gives its sequence:
	// that of the command, or, when that is not beyond what waits already, the
	// next. It fails with ErrFull when the queue holds most commands or more, and
	// with ErrNotFound when there is no identity of that generation.
	AddCommand(ctx context.Context, c signet.Command, most int) (sequence int64, err error)
	// Commands lists a queue, oldest first, without bodies and properties.
	Commands(ctx context.Context, q signet.CommandQueue) ([]signet.Command, error)
	// Command reads one.
	Command(ctx context.Context, q signet.CommandQueue, sequence int64) (signet.Command, error)
	// EndCommands removes commands, and adds the feedback of those that it
	// removed, all in one transaction. It gives their number: others had ended
	// before.
	EndCommands(ctx context.Context, q signet.CommandQueue, endings []Ending) (ended int, err error)
	// RaiseDeliveries adds one to the delivery counts of commands.
	RaiseDeliveries(ctx context.Context, q signet.CommandQueue, sequences []int64) error
	// ExpiredCommands lists up to limit commands of all hubs whose expiry is not
	// after a time, the earliest first, without bodies and properties.
	ExpiredCommands(ctx context.Context, at time.Time, limit int) ([]signet.Command, error)
	// CountCommands counts what waits for each device of a hub from one ID to
	// another, in byte order; those with none, and modules, are left out.
	CountCommands(ctx context.Context, hub, first, last string) (map[string]int, error)

	// Feedback lists up to limit records of a hub, oldest first.
	Feedback(ctx context.Context, hub string, limit int) ([]signet.Feedback, error)
	// RemoveFeedback removes records; those that are gone already do not matter.
	RemoveFeedback(ctx context.Context, hub string, ids []string) error
	// TrimFeedback removes, of every hub, the records of before a time, and the
	// oldest of those beyond keep.
	TrimFeedback(ctx context.Context, before time.Time, keep int) error
}

// An Ending is the end of a command, with what its sender is told of it; nil when
// the sender did not want to know.
type Ending struct {
	Sequence int64
	Feedback *signet.Feedback
}
