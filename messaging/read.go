package messaging

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
)

const (
	// readAhead bounds the bytes that a Read holds.
	readAhead = 4 * maxBatchBytes
	// readPatience is how long a Read tries to reach the log.
	readPatience = 15 * time.Second
	// readStall is how long a batch that is there may take to come before the Read
	// looks whether it still is, and begins anew.
	readStall = 2 * time.Second
	// readPause lies between tries to reach the log.
	readPause = 200 * time.Millisecond
	// readTurn is how many records are given out before others have their turn on the
	// processor, some 25 µs. An acknowledgement goes through half a dozen goroutines;
	// behind one that reads a backlog as fast as it can, each would wait 10 ms.
	readTurn = 8
	// readBeside is how long after a batch was stored a reader still steps back: it
	// rests readRest times as long as it has worked. That is still as fast as messages
	// come at most, so that it reaches the end.
	readBeside = 100 * time.Millisecond
	readRest   = 6
	// readStretch is how long it works before it rests. Go's scheduler looks at the network
	// when nobody is ready to run, and otherwise every 10 ms only: what comes meanwhile is
	// not even read.
	readStretch = 50 * time.Microsecond
	// readLongest is what counts as work, at most. The rest of a longer stretch was spent
	// waiting for who takes the records, on a slow link, and kept nobody from the processor.
	readLongest = time.Millisecond
	// clockSkew is how far the clock of a NATS server may be ahead of ours: by its
	// clock a start in time is found, by ours the records are then chosen.
	clockSkew = time.Minute
)

// Read implements [hub.Messages]. A start in time leaves out every message that
// was enqueued earlier. A batch whose bytes are damaged is logged and left out,
// and Read returns an error when it ends.
func (m *Messaging) Read(ctx context.Context, hubName string, from hub.Start, follow bool, each func(signet.Position, *signet.Message) bool) error {
	if err := checkHub(hubName); err != nil {
		return err
	}
	caller := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()

	r := &reader{m: m, hub: hubName, from: from, follow: follow, each: each}
	err := r.read(ctx)
	switch {
	case caller.Err() != nil:
		return caller.Err()
	case m.ctx.Err() != nil:
		return errClosing
	case err != nil:
		return unavailable(err)
	}
	return r.damage
}

// A reader is one Read. It holds a pull consumer that keeps no state but a
// place in the stream, and takes a new one from the last place when that is lost.
type reader struct {
	m      *Messaging
	hub    string
	from   hub.Start
	follow bool
	each   func(signet.Position, *signet.Message) bool

	reached time.Time // when the log last answered
	seen    uint64    // sequence of the last batch that was read, 0 before the first
	end     uint64    // unless follow, the sequence after which to end
	damage  error     // the first damaged batch
}

// errEnough ends a read: the end was reached, or each wants no more.
var errEnough = errors.New("enough")

func (r *reader) read(ctx context.Context) error {
	for r.reached = time.Now(); ; {
		err := r.consume(ctx)
		switch {
		case errors.Is(err, errEnough):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Since(r.reached) > readPatience:
			return err
		}
		r.m.log.Debug("reading the message log begins anew", "hub", r.hub, "after", r.seen, "error", err)
		pause(ctx, readPause)
	}
}

// consume reads by one consumer for as long as it lives.
func (r *reader) consume(ctx context.Context) (err error) {
	if !r.follow && r.end == 0 {
		if r.end, err = r.last(ctx); err != nil {
			return err
		}
		if r.end < max(1, r.from.After.Sequence) {
			return errEnough
		}
	}
	consumer, err := r.create(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		r.m.readJS.DeleteConsumer(ctx, telemetryStream, consumer.CachedInfo().Name) // or it goes by itself, idle
	}()
	messages, err := consumer.Messages(jetstream.PullMaxBytes(readAhead),
		jetstream.PullHeartbeat(readStall), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return err
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()

	for delivered := uint64(1); ; delivered++ {
		r.reached = time.Now()
		msg, err := r.next(ctx, messages)
		if err != nil {
			return err
		}
		at, err := msg.Metadata()
		if err != nil {
			return err
		}
		if at.Sequence.Consumer != delivered {
			return fmt.Errorf("delivery %d where %d was due", at.Sequence.Consumer, delivered)
		}
		if err := r.batch(ctx, at.Sequence.Stream, msg.Data()); err != nil {
			return err
		}
	}
}

// create makes a consumer, and waits to hear of it though the reader be cut off
// meanwhile: what nobody knows of nobody removes, and the server would keep it for a
// minute.
func (r *reader) create(ctx context.Context) (jetstream.Consumer, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readStall)
	defer cancel()
	return r.m.readJS.CreateConsumer(ctx, telemetryStream, r.consumerConfig())
}

// last is the sequence of the last batch of the hub, 0 when there is none.
func (r *reader) last(ctx context.Context) (uint64, error) {
	msg, err := r.m.stream.GetLastMsgForSubject(ctx, telemetryOf(r.hub))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return msg.Sequence, nil
}

func (r *reader) consumerConfig() jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		FilterSubject: telemetryOf(r.hub), AckPolicy: jetstream.AckNonePolicy,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
	}
	switch now := time.Now(); {
	case r.seen > 0:
		c.OptStartSeq = r.seen + 1
	case r.from.Time.IsZero():
		c.OptStartSeq = max(1, r.from.After.Sequence) // its batch may hold more records
	default:
		start := r.from.Time
		if start.After(now) {
			start = now
		}
		start = start.Add(-clockSkew)
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &start
	}
	return c
}

// next waits for a batch. Unless the reader follows, one is still to come: if it
// does not, it may have been removed by now.
func (r *reader) next(ctx context.Context, messages jetstream.MessagesContext) (jetstream.Msg, error) {
	if r.follow {
		return messages.Next()
	}
	if r.seen >= r.end {
		return nil, errEnough
	}
	msg, err := messages.Next(jetstream.NextMaxWait(readStall))
	if !errors.Is(err, nats.ErrTimeout) {
		return msg, err
	}
	last, lastErr := r.last(ctx)
	if lastErr == nil && last <= r.seen {
		return nil, errEnough
	}
	return nil, errors.Join(err, lastErr)
}

// batch gives the records of one batch to the caller.
func (r *reader) batch(ctx context.Context, sequence uint64, data []byte) error {
	if !r.follow && sequence > r.end {
		return errEnough
	}
	enough, began := false, time.Now()
	err := decodeBatch(data, r.hub, func(index uint32, msg *signet.Message) bool {
		if !r.from.Time.IsZero() {
			if msg.EnqueuedTime.Before(r.from.Time) {
				return true
			}
		} else if sequence == r.from.After.Sequence && index <= r.from.After.Index {
			return true
		}
		if index%readTurn == 0 {
			began = r.stepBack(ctx, began)
		}
		enough = !r.each(signet.Position{Sequence: sequence, Index: index}, msg)
		return !enough
	})
	r.seen = sequence
	r.stepBack(ctx, began)
	if err != nil {
		r.m.log.Error("a record batch of the message log is damaged and left out", "hub", r.hub, "sequence", sequence, "error", err)
		if r.damage == nil {
			r.damage = signet.Fail(fmt.Errorf("record batch %d: %w", sequence, err))
		}
	}
	if enough {
		return errEnough
	}
	return nil
}

// stepBack lets others have the processor after some work since began, and gives when
// the next begins.
func (r *reader) stepBack(ctx context.Context, began time.Time) time.Time {
	now := time.Now()
	if now.UnixNano()-r.m.stored.Load() >= int64(readBeside) {
		runtime.Gosched()
		return now
	}
	worked := now.Sub(began)
	if worked < readStretch {
		runtime.Gosched()
		return began
	}
	pause(ctx, readRest*min(worked, readLongest))
	return time.Now()
}

// Ends implements [hub.Messages].
func (m *Messaging) Ends(ctx context.Context, hubName string) (first, last signet.Position, enqueued time.Time, err error) {
	if err := checkHub(hubName); err != nil {
		return first, last, enqueued, err
	}
	batch, err := m.stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(telemetryOf(hubName)))
	if err == nil {
		first = signet.Position{Sequence: batch.Sequence}
		batch, err = m.stream.GetLastMsgForSubject(ctx, telemetryOf(hubName))
	}
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return signet.Position{}, last, enqueued, nil
	case err != nil:
		return first, last, enqueued, unavailable(err)
	}
	// Of a damaged batch, as far as it can be read; a reader says so.
	last.Sequence = batch.Sequence
	decodeBatch(batch.Data, hubName, func(index uint32, msg *signet.Message) bool {
		last.Index, enqueued = index, msg.EnqueuedTime
		return true
	})
	return first, last, enqueued, nil
}

// Forget implements [hub.Messages]. What was appended before and is still under
// way is waited for, so that it cannot come after.
func (m *Messaging) Forget(ctx context.Context, hubName string) error {
	if err := checkHub(hubName); err != nil {
		return err
	}
	if err := m.settle(ctx, hubName); err != nil {
		return err
	}
	if err := m.stream.Purge(ctx, jetstream.WithPurgeSubject(everythingOf(hubName))); err != nil {
		return unavailable(err)
	}
	return nil
}
