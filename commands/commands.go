// Package commands keeps the queues of cloud-to-device messages: what a back end
// sends to one device, and what the device has not settled yet.
//
// A command is enqueued, locked while it is given out, and settled: completed,
// rejected, or abandoned, and then it is enqueued again. Acknowledged to its
// sender means on disk; it leaves the disk with its end, and the feedback of that
// end comes in the same transaction. So a command is delivered at least once, or
// ends as a dead letter.
//
// # Locks
//
// Locks are held in memory, on purpose: giving out a command writes nothing, and
// a crash voids every lock, so that what was under way is given out again at once.
//
// A lock is for a minute, and then lapses: the command is as if it had not been
// given out. What a connected device has been given stays its own beyond that as
// long as nobody else asks for it: it is not given the same command twice on one
// connection, and settles it whenever it does. The end of its session abandons
// what it has not settled, and so does its next session.
//
// # Order
//
// The operations of one queue take turns, holding its mutex while the store is
// asked: they wait for that device alone. Sending does not: the store itself
// bounds a queue. There is no timer for a command: its expiry is seen whenever its
// queue is looked at, and by Sweep.
package commands

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/signet-iot/signet"
)

// The rules of a queue; they are Azure's defaults.
const (
	MaxQueue      = 50             // commands that wait for one identity
	DefaultLife   = time.Hour      // of a command without an expiry of its own
	MaxLife       = 48 * time.Hour // of any
	LockTime      = time.Minute
	MaxDeliveries = 10 // after which a command that comes back is a dead letter

	// maxProperties bounds the properties of a command, in bytes of names and
	// values and propertyCost for each: as HTTP headers they fit the 16 KiB that
	// Node.js reads, and percent-encoded the 64 KiB of an MQTT topic.
	maxProperties = 8 << 10
	propertyCost  = 16
)

// Commands is the keeper of the queues. Safe for concurrent use.
type Commands struct {
	store   Store
	now     func() time.Time
	waiting func(signet.CommandQueue)
	log     *slog.Logger

	mu       sync.Mutex // may be taken by who holds a queue's; held while nothing is asked
	queues   map[signet.CommandQueue]*queue
	feedback map[string]map[string]batch // by hub and lock token
}

// Options of Commands. The zero value works.
type Options struct {
	Now func() time.Time // the clock; time.Now when nil
	// Waiting is told when a command waits that may be given out. It must not
	// block.
	Waiting func(signet.CommandQueue)
	Logger  *slog.Logger // slog.Default() when nil
}

// New makes a keeper.
func New(store Store, o Options) *Commands {
	k := &Commands{store: store, now: o.Now, waiting: o.Waiting, log: o.Logger,
		queues: map[signet.CommandQueue]*queue{}, feedback: map[string]map[string]batch{}}
	if k.now == nil {
		k.now = time.Now
	}
	if k.waiting == nil {
		k.waiting = func(signet.CommandQueue) {}
	}
	if k.log == nil {
		k.log = slog.Default()
	}
	return k
}

// A queue is what is known in memory of one: it exists while a command of it is
// given out, or someone is at it.
type queue struct {
	signet.CommandQueue
	users int // under Commands.mu

	mu      sync.Mutex
	session uint64         // the latest that has been given a command
	locks   map[int64]lock // by sequence
}

// A lock is a command that is given out.
type lock struct {
	signet.Command // without body and properties
	until          time.Time
	session        uint64 // 0 for a single request
}

// enter takes the turn at a queue; leave gives it back.
func (k *Commands) enter(q signet.CommandQueue) *queue {
	k.mu.Lock()
	of := k.queues[q]
	if of == nil {
		of = &queue{CommandQueue: q, locks: map[int64]lock{}}
		k.queues[q] = of
	}
	of.users++
	k.mu.Unlock()
	of.mu.Lock()
	return of
}

func (k *Commands) leave(of *queue) {
	of.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if of.users--; of.users == 0 && len(of.locks) == 0 {
		delete(k.queues, of.CommandQueue)
	}
}

// Send puts a command into the queue that it names. Message ID, acknowledgement
// and expiry are filled in where they are missing. It refuses with
// [signet.MessageMalformed], [signet.MessageExpiry], [signet.LimitMessageSize],
// [signet.LimitQueue] and [signet.IdentityUnknown].
func (k *Commands) Send(ctx context.Context, c signet.Command) (signet.Command, error) {
	c.EnqueuedTime = k.now().UTC().Truncate(time.Millisecond)
	c.DeliveryCount, c.LockToken = 0, ""
	if err := complete(&c); err != nil {
		return c, err
	}
	c.Sequence = c.EnqueuedTime.UnixMicro()
	sequence, err := k.store.AddCommand(ctx, c, MaxQueue)
	if errors.Is(err, signet.ErrFull) {
		// Of those that wait, some may be past their time.
		if _, err = k.expire(ctx, c.CommandQueue); err == nil {
			sequence, err = k.store.AddCommand(ctx, c, MaxQueue)
		}
	}
	switch {
	case errors.Is(err, signet.ErrFull):
		return c, signet.Refuse(signet.LimitQueue, "%d messages wait for %q already.", MaxQueue, signet.IdentityName(c.DeviceID, c.ModuleID))
	case errors.Is(err, signet.ErrNotFound):
		return c, signet.Refuse(signet.IdentityUnknown, "There is no identity %q any more.", signet.IdentityName(c.DeviceID, c.ModuleID))
	case err != nil:
		return c, err
	}
	c.Sequence = sequence
	k.waiting(c.CommandQueue)
	return c, nil
}

// Receive gives out the oldest command that is free, locked; nil when none is.
// session is the number of the session that asks, which grows from one to the
// next, or 0 for a single request. An identity has one session at a time: to
// another than the latest nothing is given.
func (k *Commands) Receive(ctx context.Context, q signet.CommandQueue, session uint64) (*signet.Command, error) {
	of := k.enter(q)
	defer k.leave(of)
	if session != 0 && session < of.session {
		return nil, nil
	}
	if session > of.session {
		if err := k.release(ctx, of, of.session); err != nil {
			return nil, err
		}
		of.session = session
	}
	waiting, err := k.store.Commands(ctx, q)
	if err != nil {
		return nil, err
	}
	now := k.now()
	var oldest *signet.Command
	var expired []signet.Command
	for i := range waiting {
		c := &waiting[i]
		l, locked := of.locks[c.Sequence]
		switch {
		case locked && now.Before(l.until):
		case !now.Before(c.ExpiryTime):
			expired = append(expired, *c)
		case locked && session != 0 && l.session == session:
		case oldest == nil:
			oldest = c
		}
	}
	if err := k.end(ctx, of, expired, signet.Expired); err != nil {
		return nil, err
	}
	if oldest == nil {
		return nil, nil
	}
	c, err := k.store.Command(ctx, q, oldest.Sequence)
	if errors.Is(err, signet.ErrNotFound) {
		return nil, nil // its identity is gone
	}
	if err != nil {
		return nil, err
	}
	c.LockToken = newID()
	l := lock{Command: c, until: now.Add(LockTime), session: session}
	l.System, l.Properties, l.Body = nil, nil, nil
	of.locks[c.Sequence] = l
	return &c, nil
}

// Settle disposes of the command that the token locks. It refuses with
// [signet.MessageLockLost] when the lock has lapsed, or the command has ended.
func (k *Commands) Settle(ctx context.Context, q signet.CommandQueue, token string, d signet.Disposition) error {
	of := k.enter(q)
	defer k.leave(of)
	for sequence, l := range of.locks {
		if l.LockToken != token {
			continue
		}
		if l.session == 0 && !k.now().Before(l.until) {
			break
		}
		var err error
		switch d {
		case signet.Complete:
			err = k.end(ctx, of, []signet.Command{l.Command}, signet.Success)
		case signet.Reject:
			err = k.end(ctx, of, []signet.Command{l.Command}, signet.Rejected)
		default:
			err = k.abandon(ctx, of, []signet.Command{l.Command})
		}
		if err == nil || signet.CodeOf(err) == signet.MessageLockLost {
			delete(of.locks, sequence)
		}
		return err
	}
	return lockLost()
}

func lockLost() error {
	return signet.Refuse(signet.MessageLockLost, "No message is locked by that token.")
}

// Release abandons what a session was given and has not settled.
func (k *Commands) Release(ctx context.Context, q signet.CommandQueue, session uint64) error {
	of := k.enter(q)
	defer k.leave(of)
	return k.release(ctx, of, session)
}

// release drops the locks whatever comes of it: when the count cannot be raised,
// the command is given out once more than it should be.
func (k *Commands) release(ctx context.Context, of *queue, session uint64) error {
	var held []signet.Command
	for sequence, l := range of.locks {
		if session != 0 && l.session == session {
			held = append(held, l.Command)
			delete(of.locks, sequence)
		}
	}
	err := k.abandon(ctx, of, held)
	if signet.CodeOf(err) == signet.MessageLockLost {
		err = nil // the queue has gone with its identity
	}
	return err
}

// abandon puts commands back into their queue, or ends them when they have come
// back too often.
func (k *Commands) abandon(ctx context.Context, of *queue, given []signet.Command) error {
	var exceeded []signet.Command
	var again []int64
	for _, c := range given {
		if c.DeliveryCount+1 >= MaxDeliveries {
			exceeded = append(exceeded, c)
		} else {
			again = append(again, c.Sequence)
		}
	}
	if err := k.end(ctx, of, exceeded, signet.DeliveryCountExceeded); err != nil {
		return err
	}
	if len(again) == 0 {
		return nil
	}
	if err := k.store.RaiseDeliveries(ctx, of.CommandQueue, again); err != nil {
		return err
	}
	k.waiting(of.CommandQueue)
	return nil
}

// end removes commands, with the feedback that their senders want. It fails with
// [signet.MessageLockLost] when the only one has ended before.
func (k *Commands) end(ctx context.Context, of *queue, ended []signet.Command, outcome signet.Outcome) error {
	if len(ended) == 0 {
		return nil
	}
	n, err := k.store.EndCommands(ctx, of.CommandQueue, k.endings(ended, outcome))
	if errors.Is(err, signet.ErrNotFound) {
		n, err = 0, nil // the hub has been deleted
	}
	if err != nil {
		return err
	}
	if n == 0 && outcome != signet.Expired {
		return lockLost()
	}
	for _, c := range ended {
		delete(of.locks, c.Sequence)
	}
	return nil
}

func (k *Commands) endings(ended []signet.Command, outcome signet.Outcome) []Ending {
	endings := make([]Ending, len(ended))
	for i, c := range ended {
		endings[i].Sequence = c.Sequence
		if c.Ack.Wants(outcome) {
			endings[i].Feedback = &signet.Feedback{CommandQueue: c.CommandQueue, ID: newID(), MessageID: c.MessageID,
				Outcome: outcome, Time: k.now().UTC().Truncate(time.Millisecond)}
		}
	}
	return endings
}

// expire ends the commands of a queue that are past their time and not given out,
// and says how many there were.
func (k *Commands) expire(ctx context.Context, q signet.CommandQueue) (int, error) {
	of := k.enter(q)
	defer k.leave(of)
	waiting, err := k.store.Commands(ctx, q)
	if err != nil {
		return 0, err
	}
	now := k.now()
	expired := slices.DeleteFunc(waiting, func(c signet.Command) bool {
		return now.Before(c.ExpiryTime) || now.Before(of.locks[c.Sequence].until)
	})
	return len(expired), k.end(ctx, of, expired, signet.Expired)
}

// Purge ends all commands of a queue, also those given out, and says how many.
func (k *Commands) Purge(ctx context.Context, q signet.CommandQueue) (int, error) {
	of := k.enter(q)
	defer k.leave(of)
	waiting, err := k.store.Commands(ctx, q)
	if err != nil || len(waiting) == 0 {
		return 0, err
	}
	n, err := k.store.EndCommands(ctx, q, k.endings(waiting, signet.Purged))
	if err == nil {
		clear(of.locks)
	}
	return n, err
}

// Count counts what waits for each device of a hub, from one ID to another in
// byte order, given out or not. Devices with nothing are left out.
func (k *Commands) Count(ctx context.Context, hub, first, last string) (map[string]int, error) {
	return k.store.CountCommands(ctx, hub, first, last)
}

// sweepEvery is how late an expiry, or the lapse of a lock, may be noticed in a
// queue that nobody asks for.
const sweepEvery = 10 * time.Second

// Run sweeps again and again until ctx ends.
func (k *Commands) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := k.Sweep(ctx); err != nil && ctx.Err() == nil {
				k.log.Error("commands could not be swept", "error", err)
			}
		}
	}
}

// maxSweep bounds the commands that are looked at together when a sweep expires
// them.
const maxSweep = 1000

// Sweep ends what is past its time, and offers again what was given to a single
// request that has not settled it.
func (k *Commands) Sweep(ctx context.Context) error {
	for _, q := range k.given() {
		k.unlock(q)
	}
	for more := true; more; {
		expired, err := k.store.ExpiredCommands(ctx, k.now(), maxSweep)
		if err != nil {
			return err
		}
		// What is given out stays, and is met again: so only as long as some go.
		gone, seen := 0, map[signet.CommandQueue]bool{}
		for _, c := range expired {
			if !seen[c.CommandQueue] {
				seen[c.CommandQueue] = true
				n, err := k.expire(ctx, c.CommandQueue)
				if err != nil {
					return err
				}
				gone += n
			}
		}
		more = gone > 0 && len(expired) == maxSweep
	}
	return k.sweepFeedback(ctx)
}

// given lists the queues that have commands given out.
func (k *Commands) given() []signet.CommandQueue {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := make([]signet.CommandQueue, 0, len(k.queues))
	for q := range k.queues {
		list = append(list, q)
	}
	return list
}

// unlock forgets the locks of single requests that have lapsed.
func (k *Commands) unlock(q signet.CommandQueue) {
	of := k.enter(q)
	defer k.leave(of)
	lapsed := false
	for sequence, l := range of.locks {
		if l.session == 0 && !k.now().Before(l.until) {
			delete(of.locks, sequence)
			lapsed = true
		}
	}
	if lapsed {
		k.waiting(q)
	}
}

// newID gives a random GUID, the form in which Azure's clients hold lock tokens
// (RFC 9562 §5.4).
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
