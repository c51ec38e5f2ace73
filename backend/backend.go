// Package backend is the back end's door by AMQP 1.0, as Azure's SDKs use it:
//
//   - the Event Hubs-compatible endpoint of a hub, by which its message log is read:
//     partition 0 of a consumer group, and $management, which describes it;
//   - the redirect by which an IoT Hub tells where that endpoint is: here;
//   - cloud-to-device messages, and the feedback of their ends.
//
// It is beside package api, over the same hub, with the same rights: a link takes a
// token of a shared access policy that may ServiceConnect, given to $cbs before, for
// the hub whose host name the client opened. Sockets, TLS, SASL and $cbs are the
// door's that stands before it, which gives it connections and links.
//
// # Who reads
//
// Nothing is kept of a reader: no cursor, no acknowledgement. A reader says where to
// begin, as Event Hubs has it, and remembers for itself how far it came. Events are
// sent settled, as far as the client gives credit; one that gives none holds no place
// in the log after a while. So a reader costs what is ahead of it, and nothing once
// it is gone; their number is bounded.
//
// # Goroutines and locks
//
// A reader, a link of feedback and one of messages to devices have one goroutine
// each, besides that of the connection. Backend.mu and Conn.mu are held for a
// moment, with nothing asked.
package backend

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/wire/amqp"
)

// Log is the message log of the hubs. Its server is [hub.Hub].
type Log interface {
	// Read is [hub.Hub.Read].
	Read(ctx context.Context, hub string, from hub.Start, follow bool, each func(signet.Position, *signet.Message) bool) error
	// Ends is [hub.Hub.Ends].
	Ends(ctx context.Context, hub string) (first, last signet.Position, enqueued time.Time, err error)
}

// Registry knows hubs and their identities. Its server is package registry.
type Registry interface {
	HubByHost(host string) (signet.Hub, error)
	Get(ctx context.Context, hub, device, module string) (signet.Identity, error)
}

// Commands keeps the queues of cloud-to-device messages. Its server is package
// commands.
type Commands interface {
	// Send acknowledges on disk.
	Send(ctx context.Context, c signet.Command) (signet.Command, error)
	// Feedback gives out a batch, locked by a token until it is completed or
	// abandoned, or for a minute; none when there is none.
	Feedback(ctx context.Context, hub string) (records []signet.Feedback, token string, err error)
	CompleteFeedback(ctx context.Context, hub, token string) error
	AbandonFeedback(hub, token string) error
}

// Verdicts keeps refusals. Its server is authority.VerdictLog.
type Verdicts interface {
	Record(signet.Verdict) (trackingID string)
}

// Deps are what a Backend stands on. Log, Registry, Commands and Verdicts are
// required.
type Deps struct {
	Log        Log
	Registry   Registry
	Commands   Commands
	Verdicts   Verdicts
	Port       int                   // where AMQP is accepted: a redirect names it; 5671 when 0
	Now        func() time.Time      // the clock; time.Now when nil
	Logger     *slog.Logger          // slog.Default() when nil
	Registerer prometheus.Registerer // no metrics when nil
}

// Backend is the door. Safe for concurrent use.
type Backend struct {
	Deps
	sent prometheus.Counter

	mu      sync.Mutex
	conns   map[*Conn]struct{}
	readers map[string]map[*reader]struct{} // by hub
}

// amqpPort is the one of AMQP over TLS (AMQP §5.2.1), which SDKs use.
const amqpPort = 5671

// New makes a door.
func New(d Deps) *Backend {
	b := &Backend{Deps: d, conns: map[*Conn]struct{}{}, readers: map[string]map[*reader]struct{}{},
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "signet_amqp_events_total", Help: "Messages of the log sent to readers by AMQP.",
		})}
	if b.Now == nil {
		b.Now = time.Now
	}
	if b.Logger == nil {
		b.Logger = slog.Default()
	}
	if b.Port == 0 {
		b.Port = amqpPort
	}
	if d.Registerer != nil {
		d.Registerer.MustRegister(b.sent, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "signet_amqp_readers", Help: "Links on which the log is read by AMQP.",
		}, func() float64 { return float64(b.countReaders()) }))
	}
	return b
}

// Conn is the connection of one back end. Its methods are called by the goroutine
// that reads the connection.
type Conn struct {
	*Backend
	door    signet.Door
	remote  netip.AddrPort
	host    string // as the client wrote it
	hub     signet.Hub
	unknown error // why there is no hub
	ctx     context.Context
	over    context.CancelCauseFunc
	replies amqp.Replies // of $management

	mu     sync.Mutex
	grants []grant
}

// Connect begins a connection on which a token or a link came that is no device's.
// host is the name by which the client called.
func (b *Backend) Connect(door signet.Door, remote netip.AddrPort, host string) *Conn {
	conn := &Conn{Backend: b, door: door, remote: remote, host: host}
	conn.hub, conn.unknown = b.Registry.HubByHost(host)
	conn.ctx, conn.over = context.WithCancelCause(context.Background())
	b.mu.Lock()
	b.conns[conn] = struct{}{}
	b.mu.Unlock()
	return conn
}

// Close ends what the connection has under way.
func (c *Conn) Close() {
	c.over(nil)
	c.Backend.mu.Lock()
	defer c.Backend.mu.Unlock()
	delete(c.conns, c)
}

// Forget ends the links at a hub that is gone. The connections to it can do nothing
// more, and end with their tokens.
func (b *Backend) Forget(hub string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		if c.hub.Name == hub {
			c.over(signet.Refuse(signet.HubUnknown, "The hub has been deleted."))
		}
	}
}

// end ends a link to the client whose goroutine has nothing more to do: because of
// err, or of what has become of the hub.
func (c *Conn) end(s *amqp.Sender, err error) {
	if cause, ok := errors.AsType[*signet.Error](context.Cause(c.ctx)); ok {
		err = cause
	}
	if err != nil {
		s.Detach(c.refuse(err))
	}
}

// Fetch sends the answers of $management that wait for credit.
func (c *Conn) Fetch() { c.replies.Fetch() }

// tenant gives the hub of the connection, as it is now: not a later one of its name.
func (c *Conn) tenant() (signet.Hub, error) {
	if c.unknown != nil {
		return signet.Hub{}, c.unknown
	}
	now, err := c.Registry.HubByHost(c.host)
	if err == nil && !now.Created.Equal(c.hub.Created) {
		err = signet.Refuse(signet.HubUnknown, "The hub has been deleted, and made anew.").FixBy("Connect again.")
	}
	return now, err
}

// AttachReceiver takes a link on which the back end sends.
func (c *Conn) AttachReceiver(r *amqp.Receiver) *amqp.Error {
	err := c.attach(r.Address, &r.Link, func(n node) error {
		switch n.kind {
		case management:
			c.takeRequests(r)
		case devices:
			c.takeCommands(r)
		case partition, events, redirect:
			return signet.Refuse(signet.RequestMethod, "The endpoint is for reading: devices write to the log.").
				FixBy("Send to devices at /messages/devicebound; simulate a device by a device SDK.")
		default:
			return signet.Refuse(signet.RequestMethod, "Nothing can be sent to %q.", signet.Clip(r.Address))
		}
		return nil
	})
	return c.refusal(err)
}

// AttachSender takes a link on which the back end receives.
func (c *Conn) AttachSender(s *amqp.Sender) *amqp.Error {
	err := c.attach(s.Address, &s.Link, func(n node) error {
		switch n.kind {
		case management:
			c.replies.Add(s)
		case redirect:
			c.redirect(s)
		case partition:
			return c.read(s, n)
		case feedback:
			c.giveFeedback(s)
		case files:
			return signet.Refuse(signet.FilesNoStorage, "No files are uploaded here, so that there is nothing to notify of.")
		default:
			return signet.Refuse(signet.RequestMethod, "Nothing can be received from %q.", signet.Clip(s.Address))
		}
		return nil
	})
	return c.refusal(err)
}

// attach finds the node that a link asks for, and asks whether the back end may.
func (c *Conn) attach(address string, l *amqp.Link, take func(node) error) error {
	tenant, err := c.tenant()
	if err != nil {
		return err
	}
	if err := c.hasToken(); err != nil {
		return err // a stranger is told nothing of the hub
	}
	n, err := parseAddress(address, tenant)
	if err != nil {
		return err
	}
	until, err := c.allowed(n)
	if err != nil {
		return err
	}
	if err := take(n); err != nil {
		return err
	}
	c.expire(l, n, until)
	c.Logger.Debug("a back end has a link", "hub", tenant.Name, "address", signet.Clip(address), "door", c.door, "remote", c.remote.Addr())
	return nil
}

func (c *Conn) refusal(err error) *amqp.Error {
	if err == nil {
		return nil
	}
	return c.refuse(err)
}

// redirect tells a client where the Event Hubs-compatible endpoint is: here. It is
// told once the client has given credit, or a moment later: Microsoft's sample for
// JavaScript listens for errors only when the link stands.
func (c *Conn) redirect(s *amqp.Sender) {
	host := signet.HostOnly(c.hub.HostName)
	go func() {
		wait, cancel := context.WithTimeout(c.ctx, redirectDelay)
		defer cancel()
		s.Wait(wait)
		s.Detach(&amqp.Error{Condition: amqp.LinkRedirect, Description: "The Event Hubs-compatible endpoint is at this host.", Info: amqp.Map{
			{Key: amqp.Symbol("hostname"), Value: host},
			{Key: amqp.Symbol("network-host"), Value: host},
			{Key: amqp.Symbol("port"), Value: uint32(c.Port)},
			{Key: amqp.Symbol("address"), Value: endpointAddress(host, c.Port, c.hub.Name) + "/$management"},
		}})
	}()
}

const redirectDelay = 100 * time.Millisecond
