package backend

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/wire/amqp"
)

// The bounds of readers.
const (
	// maxReaders is how many a hub may have: each has up to 4 MiB of the log ahead of
	// it. Azure has 5 in each of 20 consumer groups.
	maxReaders = 40
	// maxGroupReaders bounds those of one consumer group, as Azure does.
	maxGroupReaders = 5
	// restAfter is how long a reader that is given no credit keeps its place in the
	// log, and what is ahead of it there; then it takes a new one when it goes on.
	restAfter = 5 * time.Second
	// eventRoom is what an event usually takes besides what counts of its message:
	// names, stamps and types.
	eventRoom = 640
)

// A reader is a link on which the log is read.
type reader struct {
	conn  *Conn
	link  *amqp.Sender
	group string
	name  string // as the client calls it, for the others
	epoch *int64 // its owner level; nil when it has none

	lost error // who has taken its place; guarded by Backend.mu

	tenant  signet.Hub
	from    hub.Start // where it goes on
	metrics bool      // whether it wants to know of the end of the log
	told    amqp.Map  // of that
	toldAt  time.Time
}

// Of a link's properties and capabilities.
const (
	epochProperty  = "com.microsoft:epoch"
	nameProperty   = "com.microsoft:receiver-name"
	runtimeMetrics = amqp.Symbol("com.microsoft:enable-receiver-runtime-metric")
)

// read takes a link that reads a partition.
func (c *Conn) read(s *amqp.Sender, n node) error {
	r := &reader{conn: c, link: s, group: n.group, name: s.Name, tenant: c.hub}
	if name, ok := s.Properties.Text(nameProperty); ok {
		r.name = name
	}
	if err := r.own(s.Properties.Get(epochProperty)); err != nil {
		return err
	}
	text, err := selectorOf(s.Source.Filter)
	if err != nil {
		return err
	}
	begin, err := parseSelector(text)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx, requestTime)
	defer cancel()
	_, last, _, err := c.Log.Ends(ctx, c.hub.Name)
	if err != nil {
		return err
	}
	if r.from, err = begin.start(last); err != nil {
		return err
	}
	if slices.Contains(s.Desired, runtimeMetrics) {
		r.metrics = true
		s.Offered = append(s.Offered, runtimeMetrics)
	}
	if err := c.enter(r); err != nil {
		return err
	}
	running, over := context.WithCancel(c.ctx)
	s.Detached = func(*amqp.Error) {
		over()
		c.leave(r)
	}
	go func() {
		defer over()
		c.end(s, r.run(running))
	}()
	return nil
}

// own reads the owner level, which SDKs write as a long.
func (r *reader) own(value any) error {
	var level int64
	switch v := value.(type) {
	case nil:
		return nil
	case int64:
		level = v
	case int32:
		level = int64(v)
	case uint64:
		level = int64(min(v, 1<<63-1))
	default:
		return signet.Refuse(signet.ReaderFilter, "The owner level (%s) of the reader is no long.", epochProperty)
	}
	r.epoch = &level
	return nil
}

// enter finds a place for a reader. One with an owner level takes the partition, in
// its consumer group, from those with a lower one, with the same, or with none.
func (b *Backend) enter(r *reader) error {
	b.mu.Lock()
	others := b.readers[r.tenant.Name]
	var beside []*reader
	for other := range others {
		if other.group == r.group {
			beside = append(beside, other)
		}
	}
	var err error
	for _, other := range beside {
		if other.epoch != nil && (r.epoch == nil || *r.epoch < *other.epoch) {
			err = signet.Refuse(signet.ReaderTakenOver, "The reader %q, of owner level %d, has the consumer group %q.",
				signet.Clip(other.name), *other.epoch, r.group)
		}
	}
	switch {
	case err != nil:
	case r.epoch == nil && len(beside) >= maxGroupReaders:
		err = signet.Refuse(signet.LimitReaders, "The consumer group %q has %d readers already.", r.group, maxGroupReaders)
	case len(others) >= maxReaders && (r.epoch == nil || len(beside) == 0):
		err = signet.Refuse(signet.LimitReaders, "The hub has %d readers already.", maxReaders)
	default:
		if others == nil {
			others = map[*reader]struct{}{}
			b.readers[r.tenant.Name] = others
		}
		others[r] = struct{}{}
		if r.epoch != nil {
			for _, other := range beside {
				delete(others, other)
				other.lost = signet.Refuse(signet.ReaderTakenOver, "The reader %q, of owner level %d, has taken the consumer group %q from %q.",
					signet.Clip(r.name), *r.epoch, r.group, signet.Clip(other.name))
			}
		}
	}
	b.mu.Unlock()
	if err == nil && r.epoch != nil {
		for _, other := range beside {
			other.link.Detach(other.conn.refuse(other.lost))
		}
	}
	return err
}

// taken says who has taken the reader's place, if someone has: also before its link
// was there to be told.
func (b *Backend) taken(r *reader) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return r.lost
}

func (b *Backend) leave(r *reader) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.readers[r.tenant.Name], r)
	if len(b.readers[r.tenant.Name]) == 0 {
		delete(b.readers, r.tenant.Name)
	}
}

func (b *Backend) countReaders() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, of := range b.readers {
		n += len(of)
	}
	return n
}

// run reads while the client gives credit, until there is no link any more, and
// gives what went wrong if it was something else.
func (r *reader) run(ctx context.Context) error {
	for r.link.Wait(ctx) == nil {
		if err := r.conn.taken(r); err != nil {
			return err
		}
		err := r.conn.Log.Read(ctx, r.tenant.Name, r.from, true, func(at signet.Position, m *signet.Message) bool {
			return r.each(ctx, at, m)
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the log for a back end: %w", err)
		}
		if _, err := r.conn.tenant(); err != nil {
			return err
		}
	}
	return nil
}

// each sends one message, when the client has credit for it; false ends the read,
// and it goes on behind the last that was sent. What the hub tells of itself alone
// is no event that Azure has, and is passed over.
func (r *reader) each(ctx context.Context, at signet.Position, m *signet.Message) bool {
	if now, err := r.conn.tenant(); err != nil || now.Name != r.tenant.Name {
		return false
	}
	if signet.SourceOf(m) != signet.FromOthers {
		out := amqp.Outgoing{Payload: appendEvent(make([]byte, 0, eventRoom+m.Size()), at, m, r.end(ctx)), Settled: true}
		for !r.link.Send(out) {
			wait, cancel := context.WithTimeout(ctx, restAfter)
			err := r.link.Wait(wait)
			cancel()
			if err != nil {
				return false
			}
		}
		r.conn.sent.Inc()
	}
	r.from = hub.Start{After: at}
	return true
}

// end is what the reader is told of the end of the log, if it asked for it.
func (r *reader) end(ctx context.Context) amqp.Map {
	if !r.metrics {
		return nil
	}
	if now := r.conn.Now(); now.Sub(r.toldAt) >= latestEvery {
		if _, last, enqueued, err := r.conn.Log.Ends(ctx, r.tenant.Name); err == nil {
			r.told, r.toldAt = latest(last, enqueued, now), now
		}
	}
	return r.told
}
