// Package gateway holds the doors that devices come through: MQTT 3.1.1 and AMQP
// 1.0, over TLS and over WebSocket, and HTTPS. A door speaks its protocol to the waist of the
// house and knows nothing of what is behind that.
//
// # A connection
//
// It is told by one function, conn.live: wait at the gate, handshake, CONNECT,
// judgement, loop; conn.life adds the farewell. A device that asks a provisioning
// service for its place has a small loop of its own, conversation.hold, after the
// same beginning, and AMQP has amqpConn.live, which hands on to package wire/amqp.
// What they have in common is a peer; what devices that register have, a candidate. The device's certificate is
// requested in the handshake and judged at CONNECT, resumed or not: only then is
// it known which device, and so which hub and which rules, it is meant for; and a
// CONNACK tells a device that it is refused where a TLS alert would have it try
// for ever.
//
// By HTTPS and WebSocket a connection comes through the same gate and handshake
// (arrivals.receive) before an HTTP server has it. It keeps its turn until its first
// request is judged, or its device is let in.
//
// # Goroutines
//
// One goroutine reads each connection. A second exists only while there is
// something to write, so that an idle connection has one goroutine with a small
// stack and no buffer: the handshake and the judgement, which need a large stack,
// run on another that then serves the next (crew), and what crypto/tls keeps of the
// handshake is let go. There is no timer: keep alive and token
// expiry are read deadlines.
//
// What a connection shares between goroutines is under peer.mu. While it is held
// nothing is called that waits or takes a lock of the house; the locks of the gate
// and of the door are never held together with it.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/trace"
)

// A Waist is what the doors need of the hub. Safe for concurrent use.
type Waist interface {
	// Connect judges credentials and begins a session, which takes over from an
	// older one of the same identity. A refusal is a *signet.Error, is recorded
	// already and bears a tracking ID. wake is called, from any goroutine and
	// possibly before Connect returns, whenever the session has something for the
	// door: that it has ended, for now. It never blocks.
	Connect(ctx context.Context, c hub.Credentials, wake func()) (Session, error)

	// Authenticate judges credentials for a single request: no session begins, and
	// none ends. What it gives is good for that request, at once. Refusals as for
	// Connect.
	Authenticate(ctx context.Context, c hub.Credentials) (Session, error)

	// Refuse records a refusal that the door made itself, and gives its tracking
	// ID. host is the hub's host name as the client wrote it, if it came that far.
	// It never blocks, and bounds by itself what a flood of them costs.
	Refuse(host string, v signet.Verdict) (trackingID string)
}

// A Session is what a door needs of an identity that is connected. Safe for
// concurrent use.
type Session interface {
	// Principal is who the session belongs to.
	Principal() *signet.Principal

	// Meter counts n of what the device does against the limits of its hub, and says
	// how long to wait before it is done; when that would be longer than mayWait, it
	// refuses with signet.LimitRate, and it is not to be done. The door calls it before
	// Send, Twin and Report. It does not wait itself.
	Meter(m signet.Meter, n int, mayWait time.Duration) (wait time.Duration, err error)

	// Send takes a telemetry message, with System, Properties and Body filled in;
	// the rest is stamped. done is called exactly once, from any goroutine, in the
	// order of the calls: with nil when the message is on disk, with an error when
	// it may not be. Send may wait, until ctx ends, while the hub has no room; m and
	// what it refers to are the caller's again when it returns.
	Send(ctx context.Context, m *signet.Message, done func(error))

	// Will takes the will of a device that is lost, as Send does, also after the
	// session was taken over or has expired; not when the identity has lost its
	// right to connect.
	Will(ctx context.Context, m *signet.Message, done func(error))

	// Ended is nil while the session lives, then the *signet.Error why not.
	Ended() error

	// Expires is when the session will end by itself; zero is never. When it moves,
	// the door is woken.
	Expires() time.Time

	// Prolong has another token of the same identity judged, and moves the end of the
	// session to that of the token. Refusals as for Connect; the session goes on as it
	// was.
	Prolong(ctx context.Context, c hub.Credentials) error

	// Listen says which deliveries the device wants from now on; at first it is none.
	// Receive gives the next, false when there is none; the door is woken when one
	// comes.
	Listen(to hub.Kinds)
	Receive() (hub.Delivery, bool)

	// Keep stores what the next session of the identity is to go on with, in the door's
	// own form; nil means on disk. Kept is what was stored when this one began; 0 when
	// nothing was.
	Kept() uint32
	Keep(ctx context.Context, subscriptions uint32) error

	// Twin reads the twin of the identity. Report merges a JSON patch into its
	// reported properties, if their version is ifVersion or that is 0, and gives the
	// new version; nil means on disk. Both wait for the store.
	Twin(ctx context.Context) (signet.Twin, error)
	Report(ctx context.Context, patch []byte, ifVersion int64) (version int64, err error)

	// AnswerMethod takes the answer to a method call; payload is not kept. One that
	// nobody waits for is dropped. It does not wait.
	AnswerMethod(requestID string, status int, payload []byte)

	// Renew issues the device another certificate; of the request, its own members are
	// filled in: RequestID, CSR, Replace. accepted is called at most once, before
	// Renew returns, when the request is taken on. What is returned is on record.
	// Renewed gives the outcome of a renewal that the device seems to have missed;
	// false when there is none. Both wait for the store.
	Renew(ctx context.Context, r signet.Renewal, accepted func(signet.RenewalReceipt)) (signet.Renewed, error)
	Renewed(ctx context.Context) (signet.Renewed, bool, error)

	// CommandWaiting says whether a cloud-to-device message may have come since it
	// was last asked. The door is woken when one comes.
	CommandWaiting() bool

	// NextCommand gives the oldest cloud-to-device message that is free, locked;
	// nil when none is. It is not given again to the same connected device. It
	// waits for the store.
	NextCommand(ctx context.Context) (*signet.Command, error)

	// SettleCommand disposes of a message by its lock token. It refuses with
	// signet.MessageLockLost; otherwise, nil means on disk.
	SettleCommand(ctx context.Context, token string, d signet.Disposition) error

	// Close ends the session: the device has gone. It may be called again. What
	// the device was given and has not settled waits for it again.
	Close()
}

// Config configures an MQTT door.
type Config struct {
	// TLS has the server's certificate and, for TLS 1.2, the cipher suites.
	// GetCertificate is asked at every handshake, so that a new certificate counts
	// at once; GetConfigForClient is not. What the door's judgement rests on is set
	// by the door: at least TLS 1.2, a client certificate requested and not
	// verified, no list of acceptable CAs. Required.
	TLS *tls.Config

	// Registrar takes devices that ask for their place, by this door and by those
	// beside it; nil for none.
	Registrar Registrar

	// BackEnd takes the connections of back ends by AMQP; nil for none.
	BackEnd BackEnd

	// MaxStrangers bounds the connections that have not yet proven who they are;
	// MaxHandshakes those of them that are past the line. Zero is the default:
	// 24576 and 256.
	MaxStrangers, MaxHandshakes int

	Now        func() time.Time      // the clock that token expiry is read on; time.Now when nil
	Logger     *slog.Logger          // slog.Default when nil
	Traces     *trace.Traces         // none when nil
	Registerer prometheus.Registerer // metrics are registered nowhere when nil
}

// doorMetrics count what the connections of a door come to.
type doorMetrics struct {
	connected  prometheus.Gauge
	handshakes *prometheus.CounterVec // outcome: full, resumed, not-tls, timeout, certificate, failed
	connects   *prometheus.CounterVec // code: ok, or why the device was not let in
	ends       *prometheus.CounterVec // code: why sessions ended; disconnect when the device said so
	seconds    prometheus.Histogram
	received   prometheus.Counter
	sent       prometheus.Counter
}

func newDoorMetrics(f promauto.Factory, protocol string) doorMetrics {
	name := func(s string) string { return "signet_" + strings.ToLower(protocol) + "_" + s }
	return doorMetrics{
		connected: f.NewGauge(prometheus.GaugeOpts{
			Name: name("connected"), Help: protocol + " connections of authenticated devices."}),
		handshakes: f.NewCounterVec(prometheus.CounterOpts{
			Name: name("handshakes_total"), Help: "TLS handshakes by outcome."}, []string{"outcome"}),
		connects: f.NewCounterVec(prometheus.CounterOpts{
			Name: name("connects_total"), Help: "Accepted " + protocol + " connections by outcome: ok, or why the device was not let in."}, []string{"code"}),
		ends: f.NewCounterVec(prometheus.CounterOpts{
			Name: name("ends_total"), Help: "Ends of " + protocol + " sessions by reason."}, []string{"code"}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: name("connect_seconds"), Help: "From accept to being let in, of devices.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20}}),
		received: f.NewCounter(prometheus.CounterOpts{
			Name: name("received_bytes_total"), Help: "Payload bytes of messages from devices."}),
		sent: f.NewCounter(prometheus.CounterOpts{
			Name: name("sent_bytes_total"), Help: "Bytes of " + protocol + " to devices."}),
	}
}

// metrics count what the door does.
type metrics struct {
	door      doorMetrics
	publishes [2]prometheus.Counter // by QoS
	pubacks   prometheus.Counter
	commands  prometheus.Counter

	conversations *prometheus.CounterVec // of devices that register; outcome: ok, refused
}

func newMetrics(r prometheus.Registerer, g *gate) metrics {
	f := promauto.With(r)
	for state, count := range map[string]func() int{
		"waiting":    func() int { waiting, _ := g.counts(); return waiting },
		"connecting": func() int { _, within := g.counts(); return within },
	} {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "signet_mqtt_strangers", Help: "Connections, by MQTT, AMQP and HTTPS, that have not yet proven who they are.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count()) })
	}
	publishes := f.NewCounterVec(prometheus.CounterOpts{
		Name: "signet_mqtt_publishes_total", Help: "PUBLISH packets from devices."}, []string{"qos"})
	return metrics{
		door: newDoorMetrics(f, "MQTT"),
		publishes: [2]prometheus.Counter{
			publishes.WithLabelValues("0"), publishes.WithLabelValues("1")},
		pubacks: f.NewCounter(prometheus.CounterOpts{
			Name: "signet_mqtt_pubacks_total", Help: "PUBACK packets to devices."}),
		commands: f.NewCounter(prometheus.CounterOpts{
			Name: "signet_mqtt_commands_total", Help: "Cloud-to-device messages sent to devices."}),
		conversations: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_mqtt_registrations_total", Help: "MQTT connections of devices that ask a provisioning service for their place, by outcome."}, []string{"outcome"}),
	}
}

// MQTT is the door for MQTT 3.1.1.
type MQTT struct {
	waist   Waist
	tls     *tls.Config
	now     func() time.Time
	log     *slog.Logger
	traces  *trace.Traces
	metrics metrics
	gate    *gate
	pacer   *pacer
	crew    crew

	ctx      context.Context // of what sessions are asked to do; ends with the last patience of Shutdown
	cancel   context.CancelFunc
	shutdown chan struct{}  // closed when Shutdown begins
	lives    sync.WaitGroup // of connections

	registrar Registrar // nil when there is none
	backEnd   BackEnd   // nil when there is none
	amqp      *AMQP     // beside it; nil when there is none

	mu            sync.Mutex
	closed        bool
	listeners     map[net.Listener]struct{}
	conns         map[connection]struct{}
	conversations map[string][]*candidate // by ID scope and registration ID
}

// NewMQTT makes a door. It panics when there is no TLS: a device proves itself in
// the handshake.
func NewMQTT(w Waist, c Config) *MQTT {
	if c.TLS == nil {
		panic("gateway: no TLS configuration")
	}
	m := newMQTT(w, c)
	m.tls = judgingNone(c.TLS)
	m.tls.NextProtos = nil // devices that offer ALPN of another broker are let through
	return m
}

// judgingNone gives the configuration by which a door speaks TLS: a certificate is
// asked for, and judged when it is known which device it is for.
func judgingNone(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	c.ClientAuth = tls.RequestClientCert
	c.ClientCAs = nil // a list of CAs makes some clients withhold their certificate
	c.GetConfigForClient, c.VerifyPeerCertificate, c.VerifyConnection = nil, nil, nil
	return c
}

// newMQTT makes a door that takes what comes as it is, without TLS.
func newMQTT(w Waist, c Config) *MQTT {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.MaxStrangers == 0 {
		c.MaxStrangers = defaultMaxStrangers
	}
	if c.MaxHandshakes == 0 {
		c.MaxHandshakes = defaultMaxHandshakes
	}
	m := &MQTT{
		waist: w, registrar: c.Registrar, backEnd: c.BackEnd, now: c.Now, log: c.Logger, traces: c.Traces,
		gate: newGate(c.MaxStrangers, c.MaxHandshakes), pacer: newPacer(),
		shutdown: make(chan struct{}), listeners: map[net.Listener]struct{}{}, conns: map[connection]struct{}{}, conversations: map[string][]*candidate{},
	}
	m.crew = crew{make(chan func()), m.shutdown}
	m.metrics = newMetrics(c.Registerer, m.gate)
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// maxLeaving is how many wait for a turn before it is a rush: as many as those may be who
// come, and are past the gate. More, and a crowd leaves.
const maxLeaving = 256

// Rush says whether devices, or others, stand in line to come in, or a crowd to leave, by
// any door.
func (m *MQTT) Rush() bool {
	waiting, _ := m.gate.counts()
	return waiting > 0 || m.pacer.waiting() > maxLeaving
}

// maxAcceptPause is how long the door waits at most before it accepts again
// after a failure, such as no descriptors left. What is connected is served
// meanwhile, and whoever waits, waits in the kernel's queue.
const maxAcceptPause = time.Second

// Serve accepts connections until Shutdown, and then gives nil, or until the
// listener is closed by someone else. A failure to accept is waited out.
func (m *MQTT) Serve(l net.Listener) error {
	if !m.opened(l) {
		l.Close()
		return nil
	}
	return m.accept(l, signet.DoorMQTT, func(nc net.Conn) { m.serve(newConn(m, nc)) })
}

// accept has every connection that comes served, as Serve says.
func (m *MQTT) accept(l net.Listener, door signet.Door, serve func(net.Conn)) error {
	var pause time.Duration
	var told time.Time
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			serve(nc)
		case m.isClosed():
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			pause = min(max(2*pause, 5*time.Millisecond), maxAcceptPause)
			if now := time.Now(); now.Sub(told) >= time.Minute {
				told = now
				m.log.Error("connections cannot be accepted", "door", door, "error", err)
			}
			select {
			case <-time.After(pause):
			case <-m.shutdown:
			}
		}
	}
}

func (m *MQTT) opened(l net.Listener) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.listeners[l] = struct{}{}
	if m.tls != nil {
		if err := m.pacer.waitForLulls(); err != nil {
			m.log.Warn("messages may wait while many devices come", "error", err)
		}
	}
	return true
}

func (m *MQTT) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

// A connection is one that a door has accepted, whatever is spoken on it.
type connection interface {
	life()     // until its end
	end(error) // asks it to end, for the first reason given
	cut()      // ends it without regard to what is under way
}

// serve begins the life of a connection.
func (m *MQTT) serve(c connection) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		c.cut()
		return
	}
	m.conns[c] = struct{}{}
	m.lives.Add(1)
	go func() {
		defer m.lives.Done()
		c.life()
		m.mu.Lock()
		delete(m.conns, c)
		m.mu.Unlock()
	}()
}

func errShutdown() *signet.Error {
	return signet.Refuse(signet.SessionClosed, "The server is shutting down.")
}

// Shutdown closes the listeners and tells every connection to end: what was
// published is still acknowledged once it is stored, nothing new is read. When
// ctx ends first, what is left is cut off, and its error is given.
func (m *MQTT) Shutdown(ctx context.Context) error {
	m.mu.Lock()
	first := !m.closed
	m.closed = true
	for l := range m.listeners {
		l.Close()
	}
	conns := make([]connection, 0, len(m.conns))
	for c := range m.conns {
		conns = append(conns, c)
	}
	m.mu.Unlock()
	if first {
		close(m.shutdown)
	}
	for _, c := range conns {
		c.end(errShutdown())
	}
	over := make(chan struct{})
	go func() { m.lives.Wait(); close(over) }()
	defer m.pacer.hurry()
	select {
	case <-over:
		m.cancel()
		return nil
	case <-ctx.Done():
	}
	m.cancel()
	for _, c := range conns {
		c.cut()
	}
	<-over
	return ctx.Err()
}
