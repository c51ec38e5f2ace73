package messaging

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/signet-iot/signet"
)

// A lane is one partition of one hub: what is in it is stored in order.
type lane struct {
	hub       string
	partition uint32
}

// A queue holds what waits in a lane, in batches: the last one is being filled
// while an earlier one is being stored. A batch that never gets full is stored
// as soon as the one before it is.
type queue struct {
	m       *Messaging
	hub     string
	subject string

	mu      sync.Mutex
	batches []*batch
	running bool // a goroutine stores the batches
}

// A batch is a record batch that is being filled, and who waits for it.
type batch struct {
	data    []byte
	base    time.Time
	last    origin // of the last record
	records int
	cost    int64
	waiting []waiting
}

// waiting is one Append. One that has failed by itself waits too, for its turn.
type waiting struct {
	done func(error)
	err  error
}

// batches recycles batches with their buffers; an idle lane holds none.
var batches = sync.Pool{New: func() any { return new(batch) }}

// Append implements [hub.Messages]. m has to be as large as [signet.MaxMessageSize]
// allows at most, or done gets limit.message-size; it gets internal.unavailable
// when m may not have been stored.
func (m *Messaging) Append(ctx context.Context, msg *signet.Message, done func(error)) {
	if err := checkHub(msg.Hub); err != nil {
		done(err)
		return
	}
	var err error
	size := recordSize(msg)
	cost := int64(size + recordOverhead)
	if size > maxBatchBytes-headerSize-len(msg.Hub)-1 {
		err = signet.Refuse(signet.LimitMessageSize, "The message with its properties has %d bytes.", size)
	} else if e := m.room.Acquire(ctx, cost); e != nil {
		err = unavailable(e)
	}
	if err != nil {
		cost = 0
	}
	if m.enqueue(msg, size, cost, waiting{done, err}) {
		return
	}
	// Closed. This one's turn comes after those before it all the same.
	m.room.Release(cost)
	select {
	case <-m.drained:
	case <-ctx.Done():
	}
	done(errClosing)
}

// enqueue puts msg into its lane unless the log is closed.
func (m *Messaging) enqueue(msg *signet.Message, size int, cost int64, w waiting) bool {
	q := m.queue(lane{msg.Hub, partitionOf(msg.DeviceID) % m.partitions})
	m.mu.RLock() // so that Close sees either the lane run, or nothing of this
	defer m.mu.RUnlock()
	if m.closed {
		return false
	}
	q.add(msg, size, cost, w)
	return true
}

func (m *Messaging) queue(l lane) *queue {
	m.mu.RLock()
	q := m.lanes[l]
	m.mu.RUnlock()
	if q != nil {
		return q
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lanes[l] == nil {
		m.lanes[l] = &queue{m: m, hub: l.hub, subject: telemetrySubject(l.hub, int(l.partition))}
	}
	return m.lanes[l]
}

// partitionOf hashes a device ID: FNV-1a, 32 bits.
func partitionOf(device string) uint32 {
	h := uint32(2166136261)
	for i := range len(device) {
		h = (h ^ uint32(device[i])) * 16777619
	}
	return h
}

func (q *queue) add(msg *signet.Message, size int, cost int64, w waiting) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var b *batch
	if n := len(q.batches); n > 0 {
		b = q.batches[n-1]
	}
	if b == nil || w.err == nil && (b.records == maxBatchRecords || len(b.data)+size > maxBatchBytes) {
		b = batches.Get().(*batch)
		q.batches = append(q.batches, b)
	}
	if w.err == nil {
		if b.records == 0 {
			b.base = msg.EnqueuedTime
			b.data = appendHeader(b.data, q.hub, b.base)
		}
		var before *origin
		if b.records > 0 {
			before = &b.last
		}
		b.data = appendRecord(b.data, msg, before, b.base)
		b.last = origin{msg.AuthMethod, msg.Source}
		b.records++
		b.cost += cost
	}
	b.waiting = append(b.waiting, w)
	if !q.running {
		q.running = true
		q.m.storing.Add(1)
		go q.run()
	}
}

// run stores batch after batch until none is left.
func (q *queue) run() {
	defer q.m.storing.Done()
	for {
		// Who has a message and waits for the processor adds it first: a sync costs the
		// same for one record and for hundreds.
		runtime.Gosched()
		q.mu.Lock()
		if len(q.batches) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		b := q.batches[0]
		q.batches = slices.Delete(q.batches, 0, 1)
		q.mu.Unlock()

		var err error
		if b.records > 0 {
			seal(b.data)
			err = q.m.publish(q.subject, b.data)
			q.m.room.Release(b.cost)
		}
		for _, w := range b.waiting {
			if w.err == nil {
				w.err = err
			}
			w.done(w.err)
		}
		clear(b.waiting)
		*b = batch{data: b.data[:0], waiting: b.waiting[:0]}
		batches.Put(b)
	}
}

// settle waits until everything of a hub that is under way now is stored or
// refused.
func (m *Messaging) settle(ctx context.Context, hub string) error {
	passed := make(chan struct{}, m.partitions)
	var n int
	m.mu.RLock()
	for l, q := range m.lanes {
		if l.hub == hub && !m.closed {
			q.add(nil, 0, 0, waiting{func(error) { passed <- struct{}{} }, errSettled})
			n++
		}
	}
	m.mu.RUnlock()
	for range n {
		select {
		case <-passed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// errSettled marks what waits in a lane and is no message.
var errSettled = errors.New("settled")

var (
	errNoAck   = errors.New("no acknowledgement in time")
	errGivenUp = errors.New("given up at shutdown")
)

// publish stores one batch. An error says that it may not be stored: one whose
// acknowledgement came too late is there all the same, and will be there twice
// when its sender repeats it.
func (m *Messaging) publish(subject string, data []byte) error {
	if m.embedded != nil {
		if err := m.embedded.fault(); err != nil {
			return unavailable(err)
		}
	}
	// No retry by the client: it would send a buffer that is in use again.
	future, err := m.js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: data}, jetstream.WithRetryAttempts(0))
	if err != nil {
		return m.failed(err)
	}
	patience := time.NewTicker(ackPatience)
	defer patience.Stop()
	for {
		select {
		case <-future.Ok():
			m.stored.Store(time.Now().UnixNano())
			if m.failing.Load() && m.failing.CompareAndSwap(true, false) {
				m.log.Info("record batches are acknowledged again")
			}
			return nil
		case err := <-future.Err():
			if errors.Is(err, jetstream.ErrAsyncPublishTimeout) {
				err = errNoAck
			}
			return m.failed(err)
		case <-patience.C:
			if err := m.ailing(); err != nil {
				return unavailable(err)
			}
		case <-m.giveUp:
			return unavailable(errGivenUp)
		}
	}
}

// failed makes the error of a batch that was not acknowledged, and has the
// embedded server looked at.
func (m *Messaging) failed(err error) error {
	if m.failing.CompareAndSwap(false, true) {
		m.log.Warn("a record batch was not acknowledged", "error", err)
	}
	m.ailing()
	return unavailable(err)
}

// ailing gives the fault of the embedded server, if it has one, and has it mended.
func (m *Messaging) ailing() error {
	if m.embedded == nil || m.ctx.Err() != nil {
		return nil
	}
	return m.embedded.examine(m.ctx, m.nc)
}
