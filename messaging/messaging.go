// Package messaging keeps the message log of the hubs on NATS JetStream, in a
// server inside this process or in a cluster by URL.
//
// Telemetry is one stream. A JetStream message in it is a record batch, as
// Kafka's: messages of many devices of one hub and one partition, gathered while
// the batch before was being synced, so that one fsync acknowledges many and
// none waits for a timer. A position is the sequence of a batch and the index of
// a record in it. ENCODING.md tells the bytes.
//
//	Append  ── room ──> lane (hub, partition) ── one batch in flight ──> JetStream, fsync
//	                      └ done, in order  <────────────── ack ───────────┘
//	Read    <── decode <── pull consumer, from a sequence or a time
//
// Goroutines: a lane has one while it has something to store; one mends the
// embedded server after a write error (embedded.go); a Read has its caller's.
// No lock is held while done is called or NATS is waited for.
package messaging

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"golang.org/x/sync/semaphore"
)

// Options say where the log is kept, and for how long.
type Options struct {
	// Dir holds the log of the embedded server, which listens on no network and
	// syncs every batch to disk before it is acknowledged. Nobody else may use it.
	Dir string

	// URL, when set, is a NATS cluster to use in place of the embedded server: one
	// or more nats:// or tls:// URLs, joined by commas. An acknowledgement then
	// means what the cluster makes of it: set "jetstream { sync_interval: always }"
	// there for on disk.
	URL string
	// Replicas of the stream in the cluster; default: as it is, 1 when new.
	Replicas int

	// MaxAge and MaxBytes bound the log, of all hubs together; the oldest batches
	// go first. Without a bound the disk would fill. Defaults 7 days, 8 GiB.
	MaxAge   time.Duration
	MaxBytes int64

	// Partitions is how many batches of one hub may be under way at a time, 1 to
	// 256; a device always falls into the same. They share one stream, whose syncs
	// come one after the other, so more partitions make batches smaller and syncs
	// more: 4 were measured to store a fraction of what 1 does. A cluster that is
	// far away may gain by a few. Default 1.
	Partitions int

	// Logger takes the server's log too. Default slog.Default().
	Logger *slog.Logger
}

const (
	// maxUnderWay bounds the memory of what waits to be stored. At 70 MB/s, a
	// modest disk, it is half a second of waiting at most.
	maxUnderWay = 32 << 20
	// recordOverhead is what a record under way costs beside its bytes.
	recordOverhead = 256

	// ackTimeout is how long a batch may take to be acknowledged. A disk that
	// stalls longer makes devices send again, and so duplicates.
	ackTimeout = 10 * time.Second
	// ackPatience is how long before the embedded server is asked whether it is
	// well: after a write error it does not answer at all.
	ackPatience = time.Second
	// closePatience is how long Close waits for what is under way.
	closePatience = 15 * time.Second
)

// Messaging is the message log. It serves [hub.Messages].
type Messaging struct {
	log        *slog.Logger
	partitions uint32
	room       *semaphore.Weighted // bytes, of maxUnderWay

	embedded *embedded // nil when the log is in a cluster
	nc       *nats.Conn
	js       jetstream.JetStream
	reading  *nats.Conn
	readJS   jetstream.JetStream
	stream   jetstream.Stream

	failing atomic.Bool  // the last batch was not acknowledged: said once
	stored  atomic.Int64 // when the last batch was, in Unix nanoseconds

	mu     sync.RWMutex
	lanes  map[lane]*queue // mu
	closed bool            // mu

	storing sync.WaitGroup // lanes that run; added to under mu while not closed
	drained chan struct{}  // closed when nothing is under way any more and nothing will be
	giveUp  chan struct{}  // closed when Close waits no longer
	ctx     context.Context
	cancel  context.CancelFunc // ends Reads and mending
	ended   chan struct{}      // closed when Close is through
}

var _ hub.Messages = (*Messaging)(nil)

// Open opens the log and makes it when it is new. ctx bounds the opening alone.
func Open(ctx context.Context, o Options) (_ *Messaging, err error) {
	if (o.Dir == "") == (o.URL == "") {
		return nil, errors.New("either a folder or a NATS URL is needed")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.MaxAge == 0 {
		o.MaxAge = 7 * 24 * time.Hour
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 8 << 30
	}
	if o.Partitions == 0 {
		o.Partitions = 1
	}
	if o.MaxAge < 0 || o.MaxBytes < 4*maxBatchBytes || o.Partitions < 0 || o.Partitions > 256 || o.Replicas < 0 {
		return nil, fmt.Errorf("retention of %v or %d bytes, or %d partitions: out of range", o.MaxAge, o.MaxBytes, o.Partitions)
	}
	m := &Messaging{
		log: o.Logger, partitions: uint32(o.Partitions), room: semaphore.NewWeighted(maxUnderWay),
		lanes: map[lane]*queue{}, drained: make(chan struct{}), giveUp: make(chan struct{}), ended: make(chan struct{}),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			m.shut()
		}
	}()

	options := connOptions(o.Logger)
	if o.URL == "" {
		if m.embedded, err = startEmbedded(o.Dir, o.Logger); err != nil {
			return nil, err
		}
		options = append(options, nats.InProcessServer(m.embedded), nats.ReconnectWait(20*time.Millisecond))
	}
	// What is read comes on a connection of its own: on one, an acknowledgement would
	// wait behind megabytes of a backlog.
	if m.nc, err = nats.Connect(o.URL, options...); err == nil {
		m.reading, err = nats.Connect(o.URL, options...)
	}
	if err != nil {
		if _, malformed := errors.AsType[*url.Error](err); malformed {
			err = errors.New("the NATS URL is malformed") // the text of the error would show its password
		}
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	if most := m.nc.MaxPayload(); most < 1<<20 {
		return nil, fmt.Errorf("NATS takes messages of %d bytes; max_payload must be 1MB or more", most)
	}
	if m.readJS, err = jetstream.New(m.reading); err != nil {
		return nil, err
	}
	if m.js, err = jetstream.New(m.nc, jetstream.WithPublishAsyncTimeout(ackTimeout)); err != nil {
		return nil, err
	}
	if err := m.openStream(ctx, o); err != nil {
		return nil, fmt.Errorf("stream %s: %w", telemetryStream, err)
	}
	return m, nil
}

// connOptions: nothing is buffered while there is no connection, because what
// waits there is neither stored nor known to have failed.
func connOptions(log *slog.Logger) []nats.Option {
	return []nats.Option{
		nats.Name("signet"), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("connection to NATS lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("connected to NATS again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("NATS", "error", err) }),
	}
}

// openStream makes the stream, or brings the one that is there to the retention
// asked for. What else an operator has set on it stays.
func (m *Messaging) openStream(ctx context.Context, o Options) error {
	stream, err := m.js.Stream(ctx, telemetryStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		m.stream, err = m.js.CreateStream(ctx, streamConfig(o.MaxAge, o.MaxBytes, max(1, o.Replicas)))
		return err
	}
	if err != nil {
		return err
	}
	m.stream = stream
	is := stream.CachedInfo().Config
	want := is
	want.MaxAge, want.MaxBytes = o.MaxAge, o.MaxBytes
	if o.Replicas != 0 {
		want.Replicas = o.Replicas
	}
	if want.MaxAge == is.MaxAge && want.MaxBytes == is.MaxBytes && want.Replicas == is.Replicas {
		return nil
	}
	m.stream, err = m.js.UpdateStream(ctx, want)
	return err
}

// Close takes no more, waits until what is under way is stored, and shuts. What
// was acknowledged stays. It may be called again.
func (m *Messaging) Close() error {
	m.mu.Lock()
	again := m.closed
	m.closed = true
	m.mu.Unlock()
	if again {
		<-m.ended
		return nil
	}
	patience := time.AfterFunc(closePatience, func() { close(m.giveUp) })
	m.storing.Wait()
	patience.Stop()
	close(m.drained)
	m.shut()
	close(m.ended)
	return nil
}

func (m *Messaging) shut() {
	m.cancel()
	if m.embedded != nil {
		m.embedded.mending.Wait()
	}
	for _, nc := range []*nats.Conn{m.reading, m.nc} {
		if nc != nil {
			nc.Close()
		}
	}
	if m.embedded != nil {
		m.embedded.stop()
	}
}

func unavailable(cause error) *signet.Error {
	e := signet.Refuse(signet.Unavailable, "The message log cannot be reached or written just now.")
	e.Cause = cause
	return e
}

var errClosing = signet.Refuse(signet.Unavailable, "The message log is closing.")
