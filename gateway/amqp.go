package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/wire/amqp"
)

// The bounds of an AMQP connection, besides those of package amqp.
const (
	// quietTime is how long a device may stay a stranger that has shown a certificate
	// in the handshake and opened its connection: SDKs attach a link, and so say which
	// device it is, with the first thing that the application does. Azure gives a
	// minute.
	quietTime = time.Minute

	// maxQuiet bounds those strangers: some 20 KiB each, 160 KiB with the largest
	// chain, and they are not at the gate any more. A source may have as many as are
	// still free, so that it takes many to fill it. Beyond them there is no more time
	// than for others.
	maxQuiet = 1024

	// maxAsked bounds the requests of one kind that are not answered: an SDK asks one
	// thing at a time.
	maxAsked = 16

	// maxHost bounds the host name that is kept of a client (RFC 1035 §2.3.4), with a
	// port.
	maxHost = 255 + 6

	// messageCost is what a message takes in memory until it is stored, besides its
	// text and properties: an empty one is not free.
	messageCost = 512

	// maxAMQPMessage bounds a message with its envelope: names, types and annotations
	// do not count against MaxMessageSize.
	maxAMQPMessage = signet.MaxMessageSize + 64<<10
)

// mechanisms of SASL, in the order in which clients choose among them. The first two
// prove nothing: a token follows on $cbs.
var mechanisms = []amqp.Symbol{"MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL"}

// A BackEnd takes the connections of back ends, which come through the same door. Safe
// for concurrent use.
type BackEnd interface {
	// Connect is told of a connection whose first token or link is no device's, and of
	// the host name as the client wrote it. The door has already asked for a
	// certificate; a back end proves itself by a token.
	Connect(c *amqp.Conn, door signet.Door, remote netip.AddrPort, host string) BackEndConn
}

// A BackEndConn is a connection of a back end. Its methods are called as those of an
// [amqp.Handler] are; what has not proven itself by a token is for it to refuse.
type BackEndConn interface {
	// PutToken judges a token, for the name that came with it. A refusal is a
	// *signet.Error that is recorded already.
	PutToken(name, token string) error
	AttachReceiver(*amqp.Receiver) *amqp.Error
	AttachSender(*amqp.Sender) *amqp.Error
	Fetch()
	// Expires is when the connection ends unless another token comes; zero is never.
	Expires() time.Time
	// Close is told that the connection is over.
	Close()
}

// AMQP is the door for AMQP 1.0, over TLS and over WebSocket. A connection is one
// device's, which is at its hub or registers, or a back end's.
type AMQP struct {
	mqtt          *MQTT // whose waist, gate and clock are ours too
	metrics       doorMetrics
	messages      prometheus.Counter
	commands      prometheus.Counter
	registrations *prometheus.CounterVec // of devices that register; outcome: ok, refused
	quiet         quietRoom
}

// NewAMQP makes the door beside m: strangers count together, and Shutdown is m's.
// WebSockets for AMQP come through the HTTPS door that is beside m too.
func NewAMQP(m *MQTT, r prometheus.Registerer) *AMQP {
	f := promauto.With(r)
	m.amqp = &AMQP{mqtt: m, metrics: newDoorMetrics(f, "AMQP"),
		messages: f.NewCounter(prometheus.CounterOpts{
			Name: "signet_amqp_messages_total", Help: "Messages of telemetry from devices by AMQP."}),
		commands: f.NewCounter(prometheus.CounterOpts{
			Name: "signet_amqp_commands_total", Help: "Cloud-to-device messages sent to devices by AMQP."}),
		registrations: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_amqp_registrations_total", Help: "AMQP connections of devices that ask a provisioning service for their place, by outcome."}, []string{"outcome"})}
	return m.amqp
}

// A quietRoom counts strangers with a certificate that have not said who they are.
type quietRoom struct {
	mu   sync.Mutex
	here int
	of   map[netip.Prefix]int // by source
}

// enter says whether there is room for one more of an address; who got in must leave.
func (q *quietRoom) enter(addr netip.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	of := sourceOf(addr)
	if q.of[of] >= maxQuiet-q.here {
		return false
	}
	if q.of == nil {
		q.of = map[netip.Prefix]int{}
	}
	q.of[of]++
	q.here++
	return true
}

func (q *quietRoom) leave(addr netip.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	of := sourceOf(addr)
	q.here--
	if q.of[of]--; q.of[of] == 0 {
		delete(q.of, of)
	}
}

// Serve accepts connections until Shutdown of the MQTT door, and then gives nil, or
// until the listener is closed by someone else.
func (a *AMQP) Serve(l net.Listener) error {
	if !a.mqtt.opened(l) {
		l.Close()
		return nil
	}
	return a.mqtt.accept(l, signet.DoorAMQP, func(nc net.Conn) { a.mqtt.serve(newAMQPConn(a, nc)) })
}

// An amqpConn is one connection by AMQP. What stands above the rest belongs to the
// goroutine of its life; so do the methods of amqp.Handler, but for Fetch.
type amqpConn struct {
	peer
	amqp    *AMQP
	visitor *visitor // at the gate; nil once it has left
	quiet   bool     // it counts among the quiet
	host    string   // of the hub, as the client wrote it
	subject subject
	refused refusal // the last
	tries   int     // judgements that were refused

	backEnd BackEndConn // nil unless it is a back end's
	talk    *candidate  // of a device that asks a provisioning service for its place; otherwise nil
	replies amqp.Replies

	// Under peer.mu:
	conn     *amqp.Conn // nil until AMQP is spoken
	session  Session    // nil until a device is let in
	device   deviceLinks
	unstored int // bytes of telemetry that are taken and not stored
}

// A subject is which identity a connection is for.
type subject struct{ deviceID, moduleID string }

// A refusal is how one was told, and what it was.
type refusal struct {
	said  *amqp.Error
	cause *signet.Error
}

func newAMQPConn(a *AMQP, nc net.Conn) *amqpConn {
	c := &amqpConn{amqp: a}
	c.peer.init(a.mqtt, &a.metrics, signet.DoorAMQP, nc)
	return c
}

// life is the life of a connection.
func (c *amqpConn) life() {
	c.trace = c.door.traces.Start(string(c.via), c.remote.String())
	c.farewell(c.live())
}

// live tells it up to the reason why it ends; nil is a close.
func (c *amqpConn) live() (why error) {
	defer c.survive(&why)
	v, err := c.guest.give(c.end), error(nil) // a WebSocket has had its turn
	if v == nil {
		v, err = c.door.gate.enter(c.remote.Addr(), c.end, c.door.shutdown)
	}
	if signet.CodeOf(err) == signet.LimitConnections {
		return c.refuse(signet.AsError(err))
	}
	if err != nil {
		return err // the server is shutting down
	}
	c.visitor = v
	defer c.leaveGate()
	c.trace.Event("has its turn")

	err = c.apart(func() error {
		refusal, err := c.handshake()
		if refusal != nil {
			return c.refuse(refusal)
		}
		return err
	})
	if err != nil {
		return err
	}
	letGo(c.stream)
	conn := amqp.NewConn(c.stream, c, amqp.Options{ContainerID: "signet", Mechanisms: mechanisms,
		Wrote: func(n int) { c.metrics.sent.Add(float64(n)) }})
	conn.SetDeadline(time.Now().Add(handshakeTime), errTooLate)
	c.mu.Lock()
	c.conn = conn
	ended := c.ended
	c.mu.Unlock()
	if ended != nil {
		c.endConn(conn, ended) // meanwhile
	}
	return c.over(conn.Serve())
}

// What is said of time that has run out.
var (
	errTooLate = &amqp.Error{Condition: amqp.ConnectionForced, Description: "The client has not said in time who it is."}
	errExpired = &amqp.Error{Condition: amqp.UnauthorizedAccess, Description: "The token, or a certificate, of the connection has expired."}
)

// over says why a connection is over, of which amqp has told what it knows.
func (c *amqpConn) over(err error) error {
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	broken := func(what string) error {
		return c.refuse(signet.Refuse(signet.RequestMalformed, "The client broke the rules of AMQP: %s.", strings.TrimSuffix(what, ".")).
			FixBy("Compare what the client sends with AMQP 1.0."))
	}
	said, _ := err.(*amqp.Error)
	switch {
	case err == nil:
		return nil
	case ended != nil:
		return ended
	case said != nil && said == c.refused.said, err == amqp.ErrSASL && c.refused.cause != nil:
		return c.refused.cause
	case said == errOverdue, said == errTooLate && c.talk != nil:
		return errRegistered()
	case said == errTooLate:
		return c.refuse(signet.Refuse(signet.LimitHandshake, "The client has not said in time who it is."))
	case said == errExpired && c.session != nil && len(c.session.Principal().Path) > 0:
		return signet.Refuse(signet.SessionCertificateExpired, "A certificate of the session has expired.")
	case said == errExpired:
		return signet.Refuse(signet.SessionExpired, "The token of the session has expired.")
	case said != nil:
		return broken(said.Error())
	case err == amqp.ErrProtocol, err == amqp.ErrSASL:
		return broken(err.Error())
	}
	return signet.Refuse(signet.SessionClosed, "The connection was lost without a close: %v.", err)
}

// end asks the connection to end. It does not wait.
func (c *amqpConn) end(why error) {
	c.mu.Lock()
	first, conn := c.ended == nil, c.conn
	if first {
		c.ended = why
		c.changed.Broadcast()
		if conn == nil {
			c.socket.SetDeadline(time.Unix(1, 0))
		}
	}
	c.mu.Unlock()
	if first && conn != nil {
		c.endConn(conn, why)
	}
}

// endConn has what was taken acknowledged first when the server shuts down.
func (c *amqpConn) endConn(conn *amqp.Conn, why error) {
	patience := time.Duration(0)
	select {
	case <-c.door.shutdown:
		patience = farewellTime
	default:
	}
	conn.End(told(signet.AsError(why)), patience)
}

func (c *amqpConn) cut() {
	c.mu.Lock()
	if c.ended == nil {
		c.ended = errShutdown()
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	c.socket.Close()
}

// farewell ends session and connection.
func (c *amqpConn) farewell(why error) {
	c.leave(c.session)
	c.stream.Close()
	if c.session != nil {
		c.session.Close() // now that the connection is closed: the hub may be waiting to tell
	}
	if c.backEnd != nil {
		c.backEnd.Close()
	}
	if c.talk != nil && c.talk.applicant != nil {
		c.door.conversing(c.talk, false)
	}
	if c.quiet {
		c.amqp.quiet.leave(c.remote.Addr())
	}
	code := "close"
	if why != nil {
		code = string(signet.CodeOf(why))
	}
	c.trace.Finish(why)
	if c.session != nil {
		c.metrics.connected.Dec()
		c.metrics.ends.WithLabelValues(code).Inc()
	} else if c.backEnd == nil && c.talk == nil {
		c.metrics.connects.WithLabelValues(code).Inc()
	}
	c.door.log.Debug("disconnected", "door", c.via, "remote", c.remote, "device", signet.Clip(signet.IdentityName(c.subject.deviceID, c.subject.moduleID)), "reason", why)
}

func (c *amqpConn) leaveGate() {
	if c.visitor != nil {
		c.door.gate.leave(c.visitor)
		c.visitor = nil
	}
}

// refuse records a refusal that the door makes itself.
func (c *amqpConn) refuse(e *signet.Error) *signet.Error {
	if c.talk != nil {
		return c.talk.record(e)
	}
	v := signet.Verdict{Error: *e, Door: c.via, DeviceID: c.subject.deviceID, ModuleID: c.subject.moduleID}
	if c.remote.IsValid() {
		v.Remote = c.remote.Addr().String()
	}
	if c.session != nil {
		v.Hub = c.session.Principal().Hub
	}
	for _, cert := range c.chain[:min(len(c.chain), maxShownChain)] {
		v.Chain = append(v.Chain, thumbprint(cert))
	}
	e.TrackingID = c.door.waist.Refuse(c.host, v)
	return e
}

// conditions translate codes. One that is not here is a device not let in, and told
// in one way whatever the reason: only the verdict knows it.
var conditions = map[signet.Code]amqp.Symbol{
	signet.RequestMalformed:  "com.microsoft:argument-error",
	signet.RequestAPIVersion: "com.microsoft:argument-error",
	signet.RequestNotFound:   amqp.NotFound,
	signet.RequestMethod:     amqp.NotAllowed,
	signet.MessageLockLost:   "com.microsoft:message-lock-lost",
	signet.LimitMessageSize:  amqp.MessageSizeExceeded,
	signet.LimitRate:         "com.microsoft:device-container-throttled",
	signet.LimitConnections:  amqp.ResourceLimitExceeded,
	signet.LimitHandshake:    amqp.ConnectionForced,
	signet.SessionTakenOver:  amqp.LinkStolen,
	signet.SessionClosed:     amqp.DetachForced, // the server shuts down: SDKs come back
	signet.Unavailable:       amqp.DetachForced,
	signet.Internal:          amqp.InternalError,
}

// told is an error as it is told to a client.
func told(e *signet.Error) *amqp.Error {
	condition, ok := conditions[e.Code]
	message := e.Message
	if !ok {
		condition, message = amqp.UnauthorizedAccess, "Unauthorized."
	}
	said := &amqp.Error{Condition: condition, Description: message}
	if e.TrackingID != "" {
		said.Description += " Tracking ID: " + e.TrackingID
		said.Info = amqp.Map{{Key: amqp.Symbol("com.microsoft:tracking-id"), Value: e.TrackingID}}
	}
	return said
}

// deny tells a refusal, and remembers it.
func (c *amqpConn) deny(e *signet.Error) *amqp.Error {
	c.refused = refusal{told(e), e}
	c.trace.Event("refused", slog.String("code", string(e.Code)), slog.String("message", e.Message), slog.String("trackingId", e.TrackingID))
	return c.refused.said
}

// named gives the host that a client means by what it says. azure-eventhub for Python puts the path of the WebSocket
// behind it.
func (c *amqpConn) named(hostname string) string {
	host, _, _ := strings.Cut(hostname, "/")
	if host == "" || len(host) > maxHost {
		return c.sni
	}
	return host
}

// SASL judges an initial response. The mechanisms of Azure's SDKs prove nothing.
func (c *amqpConn) SASL(mechanism amqp.Symbol, response []byte, hostname string) bool {
	c.trace.Event("SASL", slog.String("mechanism", string(mechanism)), slog.String("host", signet.Clip(hostname)))
	c.host = c.named(hostname)
	switch mechanism {
	case "MSSBCBS", "ANONYMOUS":
		return true
	case "EXTERNAL": // it is judged once the client says who it is
		if len(c.chain) == 0 {
			c.deny(c.refuse(signet.Refuse(signet.ChainNone, "The client means to prove itself by a certificate, and has presented none.")))
		}
		return len(c.chain) > 0
	}
	if err := c.plain(string(response)); err != nil {
		c.deny(err)
		return false
	}
	return true
}

// plain judges a user name and a token as password:
//
//	{device ID}[/modules/{module ID}]@sas.{first label of the host name}
//	{policy}@sas.root.{first label of the host name}
//	{ID scope}/registrations/{registration ID}
func (c *amqpConn) plain(response string) *signet.Error {
	parts := strings.Split(response, "\x00")
	if len(parts) != 3 || parts[2] == "" {
		return c.refuse(signet.Refuse(signet.RequestMalformed, "What came for SASL PLAIN is not a user name and a password."))
	}
	if scope, id, ok := registrationOf(parts[1]); ok && c.door.registrar != nil {
		return c.register(scope, id, parts[2])
	}
	at := strings.LastIndex(parts[1], "@sas.")
	label, _, _ := strings.Cut(signet.HostOnly(c.host), ".")
	if at < 0 {
		return c.refuse(signet.Refuse(signet.RequestMalformed, "The user name %q has not the form of a device's or a policy's.", signet.Clip(parts[1])).
			FixBy("Use {device ID}@sas.{hub}, or {policy}@sas.root.{hub}."))
	}
	name, of := parts[1][:at], parts[1][at+len("@sas."):]
	root, isPolicy := strings.CutPrefix(of, "root.")
	if isPolicy {
		of = root
	}
	if !strings.EqualFold(of, label) {
		return c.refuse(signet.Refuse(signet.HubUnknown, "The user name is for %q, and the connection for %q.", signet.Clip(of), signet.Clip(c.host)))
	}
	if isPolicy {
		return c.putToken(c.host, parts[2])
	}
	path := strings.Split("devices/"+name, "/")
	for i := range path {
		if decoded, err := url.PathUnescape(path[i]); err == nil {
			path[i] = decoded
		}
	}
	deviceID, moduleID, rest := cutIdentity(path)
	if deviceID == "" || len(rest) > 0 {
		return c.refuse(signet.Refuse(signet.RequestMalformed, "The user name %q names no device.", signet.Clip(parts[1])))
	}
	return c.letInDevice(subject{deviceID, moduleID}, parts[2], "")
}

// Open is told how the client opens the connection. A device with a certificate may
// be quiet from here on for a while.
func (c *amqpConn) Open(o *amqp.Open) *amqp.Error {
	c.trace.Event("open", slog.String("container", signet.Clip(o.ContainerID)), slog.String("host", signet.Clip(o.Hostname)))
	if c.host == "" {
		c.host = c.named(o.Hostname)
	}
	if len(c.chain) > 0 && c.session == nil && c.backEnd == nil {
		if c.quiet = c.amqp.quiet.enter(c.remote.Addr()); c.quiet {
			c.conn.SetDeadline(time.Now().Add(quietTime), errTooLate)
			c.leaveGate()
		}
	}
	return nil
}

// An amqpNode is what an address names.
type amqpNode struct {
	subject        // of a device's own node
	name    string // in lower case: "$cbs", "messages/events" …; "" for one of a back end
}

// addressPath splits an address. SDKs write it with and without a scheme and host, and
// with and without a slash at its beginning.
func addressPath(address string) []string {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		_, address, _ = strings.Cut(rest, "/")
	}
	path := strings.Split(strings.Trim(address, "/"), "/")
	for i := range path {
		if decoded, err := url.PathUnescape(path[i]); err == nil {
			path[i] = decoded
		}
	}
	return path
}

// parseNode reads an address.
func parseNode(address string) amqpNode {
	path := addressPath(address)
	if len(path) == 1 && strings.EqualFold(path[0], "$cbs") {
		return amqpNode{name: "$cbs"}
	}
	deviceID, moduleID, rest := cutIdentity(path)
	if deviceID == "" || len(rest) == 0 {
		return amqpNode{}
	}
	return amqpNode{subject{deviceID, moduleID}, strings.ToLower(strings.Join(rest, "/"))}
}

// AttachReceiver takes a link on which the client sends.
func (c *amqpConn) AttachReceiver(r *amqp.Receiver) *amqp.Error {
	node := parseNode(r.Address)
	c.trace.Event("attach", slog.String("sends to", signet.Clip(r.Address)))
	if scope, id, ok := registrationOf(r.Address); ok && c.door.registrar != nil {
		return c.attachRegistration(scope, id, &r.Link, func() { c.takeQuestions(r) })
	}
	switch {
	case node.name == "$cbs":
		r.Credit, r.MaxSize = maxAsked, maxConnect
		r.Take = func(d *amqp.Delivery) { c.tokenCame(r, d) }
		return nil
	case node.name != "":
		return c.attachDevice(node, &r.Link, func() *signet.Error { return c.takeFrom(node, r) })
	}
	return c.attachBackEnd(func() *amqp.Error { return c.backEnd.AttachReceiver(r) })
}

// AttachSender takes a link on which the client receives.
func (c *amqpConn) AttachSender(s *amqp.Sender) *amqp.Error {
	node := parseNode(s.Address)
	c.trace.Event("attach", slog.String("receives from", signet.Clip(s.Address)))
	if scope, id, ok := registrationOf(s.Address); ok && c.door.registrar != nil {
		return c.attachRegistration(scope, id, &s.Link, func() { c.replies.Add(s) })
	}
	switch {
	case node.name == "$cbs":
		c.replies.Add(s)
		return nil
	case node.name != "":
		return c.attachDevice(node, &s.Link, func() *signet.Error { return c.sendTo(node, s) })
	}
	return c.attachBackEnd(func() *amqp.Error { return c.backEnd.AttachSender(s) })
}

// attachDevice takes a link to a node of a device, which is let in by its certificate
// if it is not yet.
func (c *amqpConn) attachDevice(node amqpNode, l *amqp.Link, attach func() *signet.Error) *amqp.Error {
	err := c.isFor(node.subject)
	if err == nil && c.session == nil {
		client, _ := l.Properties.Text("com.microsoft:client-version")
		err = c.letInDevice(node.subject, "", client)
	}
	if err == nil {
		if model, ok := l.Properties.Text("com.microsoft:model-id"); ok {
			c.device.model = signet.Clip(model)
		}
		err = attach()
	}
	if err != nil {
		return c.deny(err)
	}
	return nil
}

// isFor refuses what is for another identity than the connection's.
func (c *amqpConn) isFor(s subject) *signet.Error {
	switch {
	case c.talk != nil:
		return c.registersOnly()
	case c.backEnd != nil:
		return c.refuse(signet.Refuse(signet.RequestMethod, "The connection is a back end's, and cannot be a device's too."))
	case c.session != nil && s != c.subject:
		return c.refuse(signet.Refuse(signet.RequestMethod, "The connection is that of %q, and cannot be another identity's too.", signet.IdentityName(c.subject.deviceID, c.subject.moduleID)).
			FixBy("Open a connection for each device: several on one are not served."))
	}
	return nil
}

// letInDevice has a device judged: by a token, or by the certificate that it has
// presented. Who is refused may read that, and gets no second try.
func (c *amqpConn) letInDevice(s subject, token, client string) *signet.Error {
	if err := c.tried(); err != nil {
		return err
	}
	c.subject = s
	c.trace.About(fmt.Sprintf("%+q", signet.Clip(signet.IdentityName(s.deviceID, s.moduleID))))
	var session Session
	err := c.apart(func() (err error) {
		ctx, cancel := context.WithTimeout(c.door.ctx, handshakeTime)
		defer cancel()
		session, err = c.door.waist.Connect(ctx, c.credentials(token, client), c.wake)
		return err
	})
	if err == nil && session.Principal().RenewOnly {
		session.Close()
		err = c.refuse(signet.Refuse(signet.CertExpired, "The certificate of %q has expired; it cannot be renewed by AMQP.", s.deviceID).FixBy("Renew it by MQTT."))
	}
	if err != nil {
		if len(c.chain) > 0 {
			c.tellChain()
		}
		e := signet.AsError(err)
		c.tries++
		c.refused = refusal{told(e), e}
		return e
	}
	c.chain = nil
	p := session.Principal()
	c.mu.Lock()
	c.session = session
	c.mu.Unlock()
	c.letIn(session.Expires())
	c.metrics.connected.Inc()
	c.metrics.connects.WithLabelValues("ok").Inc()
	c.metrics.seconds.Observe(time.Since(c.accepted).Seconds())
	c.trace.Event("let in", slog.String("hub", p.Hub), slog.String("auth", string(p.Auth)), slog.Int("completed from registry", p.Completed()))
	c.trace.Answered()
	c.door.log.Debug("connected", "door", c.via, "remote", c.remote, "hub", p.Hub, "device", signet.IdentityName(s.deviceID, s.moduleID), "auth", p.Auth)
	c.conn.Wake() // what it woke us for meanwhile
	return nil
}

// tried ends the connection of who was refused before.
func (c *amqpConn) tried() *signet.Error {
	if c.tries == 0 {
		return nil
	}
	c.end(c.refused.cause)
	return c.refused.cause
}

// wake is called when the session has something for us. That it is over is not left
// to whoever writes, and may be waiting for a device that reads nothing.
func (c *amqpConn) wake() {
	c.mu.Lock()
	session := c.session
	c.mu.Unlock()
	if session != nil {
		if err := session.Ended(); err != nil {
			c.end(err)
			return
		}
	}
	c.conn.Wake()
}

func (c *amqpConn) credentials(token, client string) hub.Credentials {
	return hub.Credentials{Door: c.via, Remote: c.remote, Host: c.host, DeviceID: c.subject.deviceID, ModuleID: c.subject.moduleID,
		Chain: c.chain, TLS: c.version, Token: token, Client: signet.Clip(client)}
}

// letIn ends the bounds of a stranger.
func (c *amqpConn) letIn(expires time.Time) {
	c.conn.LetIn()
	c.expireAt(expires)
	c.leaveGate()
	if c.quiet {
		c.quiet = false
		c.amqp.quiet.leave(c.remote.Addr())
	}
	c.guest.letIn()
}

// expireAt sets when the connection ends by itself.
func (c *amqpConn) expireAt(expires time.Time) {
	if !expires.IsZero() {
		expires = time.Now().Add(expires.Sub(c.door.now()))
	}
	c.conn.SetDeadline(expires, errExpired)
}

// attachBackEnd hands a link to the back ends' side.
func (c *amqpConn) attachBackEnd(attach func() *amqp.Error) *amqp.Error {
	if err := c.isBackEnd(); err != nil {
		return c.deny(err)
	}
	return attach()
}

// isBackEnd makes the connection one of a back end, if it can be.
func (c *amqpConn) isBackEnd() *signet.Error {
	switch {
	case c.talk != nil:
		return c.registersOnly()
	case c.session != nil:
		return c.refuse(signet.Refuse(signet.RequestNotFound, "There is no such node for a device."))
	case c.door.backEnd == nil:
		return c.refuse(signet.Refuse(signet.RequestNotFound, "Back ends are not served by AMQP here."))
	case c.backEnd == nil:
		b := c.door.backEnd.Connect(c.conn, c.via, c.remote, c.host)
		c.mu.Lock()
		c.backEnd = b
		c.mu.Unlock()
	}
	return nil
}

// tokenCame takes what came on $cbs, and answers it there.
func (c *amqpConn) tokenCame(r *amqp.Receiver, d *amqp.Delivery) {
	m, err := amqp.ParseMessage(d.Payload)
	if err != nil || d.TooLarge {
		d.Settle(amqp.Rejected{Error: &amqp.Error{Condition: amqp.DecodeError, Description: "The message cannot be read."}})
		return
	}
	status, description := int32(200), "OK"
	if e := c.judgePutToken(m); e != nil {
		c.deny(e)
		said := told(e)
		if description = said.Description; c.backEnd != nil { // which is told as much as by HTTPS
			description = fmt.Sprintf("%s %s (%s) Tracking ID: %s", e.Message, e.Fix, e.Code, e.TrackingID)
		}
		switch said.Condition {
		case amqp.UnauthorizedAccess:
			status = 401
		case amqp.DetachForced:
			status = 503
		case amqp.InternalError:
			status = 500
		case amqp.NotFound:
			status = 404
		case "com.microsoft:device-container-throttled":
			status = 429
		default:
			status = 400
		}
	}
	answer := amqp.Message{Properties: amqp.Properties{CorrelationID: m.Properties.MessageID}, Body: amqp.ValueBody,
		Application: amqp.Map{{Key: "status-code", Value: status}, {Key: "status-description", Value: description}}}
	d.Settle(amqp.Accepted{})
	if !c.replies.Answer(r, m.Properties.ReplyTo, answer.Append(nil)) {
		c.end(c.refuse(signet.Refuse(signet.RequestMalformed, "The client puts tokens, and takes no answers.")))
	}
}

// judgePutToken judges a request on $cbs.
func (c *amqpConn) judgePutToken(m *amqp.Message) *signet.Error {
	operation, _ := m.Application.Text("operation")
	name, _ := m.Application.Text("name")
	token, ok := m.Value.(string)
	if !ok && len(m.Data) == 1 {
		token, ok = string(m.Data[0]), true
	}
	if operation != "put-token" || !ok || token == "" {
		return c.refuse(signet.Refuse(signet.RequestMalformed, "What came on $cbs does not put a token.").
			FixBy("Send operation=put-token, the audience as name, and the token as an amqp-value."))
	}
	return c.putToken(name, token)
}

// putToken has a token judged. It is a device's if what it is for is one.
func (c *amqpConn) putToken(name, token string) *signet.Error {
	resource := ""
	if t, err := signet.ParseSASToken(token); err == nil {
		resource = t.Resource
	}
	for _, text := range []string{resource, name} {
		if s, ok := deviceOf(text); ok {
			return c.putDeviceToken(s, token)
		}
	}
	if err := c.isBackEnd(); err != nil {
		return err
	}
	if err := c.tried(); err != nil {
		return err
	}
	if err := c.backEnd.PutToken(name, token); err != nil {
		e := signet.AsError(err)
		c.tries++
		c.refused = refusal{told(e), e}
		return e
	}
	c.letIn(c.backEnd.Expires())
	return nil
}

func (c *amqpConn) putDeviceToken(s subject, token string) *signet.Error {
	if err := c.isFor(s); err != nil {
		return err
	}
	if c.session == nil {
		return c.letInDevice(s, token, "")
	}
	err := c.apart(func() error {
		ctx, cancel := context.WithTimeout(c.door.ctx, handshakeTime)
		defer cancel()
		return c.session.Prolong(ctx, c.credentials(token, ""))
	})
	if err != nil {
		return signet.AsError(err)
	}
	c.trace.Event("token renewed", slog.Time("expires", c.session.Expires()))
	return nil
}

// deviceOf gives the identity that an audience is for:
// [scheme://]{host}/devices/{id}[/modules/{id}].
func deviceOf(audience string) (s subject, ok bool) {
	if _, rest, ok := strings.Cut(audience, "://"); ok {
		audience = rest
	}
	_, path, _ := strings.Cut(audience, "/")
	var rest []string
	s.deviceID, s.moduleID, rest = cutIdentity(strings.Split(strings.TrimRight(path, "/"), "/"))
	return s, s.deviceID != "" && len(rest) == 0 && signet.ValidID(s.deviceID)
}

// Fetch sends what there is for the client: that its session is over, or will be
// sooner; answers, twin changes, method calls and commands.
func (c *amqpConn) Fetch() {
	var failed error
	defer func() {
		if failed != nil {
			c.end(failed)
		}
	}()
	defer c.survive(&failed)
	c.replies.Fetch()
	c.mu.Lock()
	session, backEnd := c.session, c.backEnd
	c.mu.Unlock()
	switch {
	case session != nil:
		if err := session.Ended(); err != nil {
			c.end(err)
			return
		}
		c.expireAt(session.Expires())
		c.fetchDevice(session)
	case backEnd != nil:
		backEnd.Fetch()
	}
}

// isGone says whether an error means no more than that the connection is over.
func isGone(err error) bool {
	return slices.Contains([]signet.Code{signet.SessionClosed, signet.SessionTakenOver}, signet.CodeOf(err)) || errors.Is(err, context.Canceled)
}
