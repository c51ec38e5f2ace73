package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/wire/mqtt"
	"github.com/signet-iot/signet/wire/websocket"
)

// The bounds of one connection.
const (
	// maxConnect bounds the CONNECT, remaining length in bytes: names, a token of
	// 2 KiB and a will of some KiB. A stranger gets no more.
	maxConnect = 16 << 10

	// maxPacket bounds what follows: the largest message, the longest topic, its
	// length and a packet identifier.
	maxPacket = signet.MaxMessageSize + 65535 + 2 + 2

	// maxUnstored and maxUnstoredBytes bound the messages of a device that are
	// taken and not yet stored. Beyond them nothing is read, and TCP slows the
	// device: some SDKs send tens of thousands before they look for an answer.
	maxUnstored      = 256
	maxUnstoredBytes = 1 << 20

	// maxOut bounds what waits to be written before nothing more is read.
	maxOut = 64 << 10

	// writeTime is how long a peer may take to read what was written.
	writeTime = 10 * time.Second

	// writeSlack is how much longer it may have: so the time is not set anew for
	// every packet.
	writeSlack = time.Second

	// maxSilence is Azure's ceiling for one and a half times the keep alive, and
	// what a keep alive of zero stands for.
	maxSilence = 1767 * time.Second

	// lingerTime and lingerBytes are what a refused peer gets to read its CONNACK
	// while it still sends: closing at once would reset the connection, and the
	// answer could be lost.
	lingerTime  = time.Second
	lingerBytes = 64 << 10

	// farewellTime is for storing what was published before a shutdown.
	farewellTime = 5 * time.Second
)

// A conn is one connection. What stands above mu belongs to the goroutine of its
// life.
type conn struct {
	peer
	reader   *mqtt.Reader
	username username
	topics   identity
	silence  time.Duration // after which the device counts as lost
	will     *mqtt.Will    // as it came: its properties take many times the room of their text
	listens  subscriptions
	surely   subscriptions // those of them with QoS 1
	clean    bool          // nothing of the session is stored for the next connection
	onDisk   uint32        // otherwise what is, see kept
	keeps    int           // how often it was stored
	counted  struct{ publishes, twins uint64 }
	talk     *conversation // of a device that asks a provisioning service for its place; otherwise nil

	// Under peer.mu:
	session  Session   // nil until the device is let in
	mute     bool      // nothing more is written
	out      []byte    // to be written
	box      *[]byte   // what out is from, and goes back to
	writing  bool      // a goroutine is at it; the next is its own
	writesTo time.Time // how long the socket tries to write
	woken    bool      // the session has something for us
	lostAt   time.Time // when the device counts as lost, unless a packet comes
	waitsTo  time.Time // how long the socket waits for one: so long or less
	unread   bool      // deliveries wait until there is room for them
	told     int64     // the latest version of its desired properties that the device was told of

	outbound *outbound // commands on their way; nil until the device subscribes

	// PUBACKs go out in the order of the PUBLISHes [MQTT-4.6.0-2]. The hub keeps
	// that order for messages, which are numbered here; what is acknowledged
	// without being stored waits for the messages before it.
	taken, stored uint64
	unstoredBytes int
	later         []laterAck
	acked         uint64
}

type laterAck struct {
	after    uint64 // to be sent once that many are stored
	packetID uint16
}

func newConn(m *MQTT, nc net.Conn) *conn {
	c := &conn{}
	c.peer.init(m, &m.metrics.door, signet.DoorMQTT, nc)
	return c
}

// life is the life of a connection.
func (c *conn) life() {
	c.trace = c.door.traces.Start(string(c.via), c.remote.String())
	c.farewell(c.live())
}

// live tells it up to the reason why it ends; nil is a DISCONNECT.
func (c *conn) live() (why error) {
	defer c.survive(&why)
	visitor, err := c.guest.give(c.end), error(nil) // a WebSocket has had its turn
	if visitor == nil {
		visitor, err = c.door.gate.enter(c.remote.Addr(), c.end, c.door.shutdown)
	}
	if signet.CodeOf(err) == signet.LimitConnections {
		return c.refuse(signet.AsError(err))
	}
	if err != nil {
		return err // the server is shutting down
	}
	defer c.door.gate.leave(visitor)
	c.trace.Event("has its turn")

	err = c.apart(func() error {
		if err := c.handshake(); err != nil {
			return err
		}
		connect, err := c.firstPacket()
		if err != nil {
			return err
		}
		if err := c.converse(connect); c.talk != nil {
			return err
		}
		return c.authenticate(connect)
	})
	if err != nil {
		return err
	}
	if c.talk != nil {
		return c.talk.hold(visitor)
	}
	c.door.gate.leave(visitor)
	letGo(c.stream)
	c.guest.letIn()
	c.metrics.connected.Inc()
	defer c.metrics.connected.Dec()
	c.reader.SetMax(maxPacket)
	for {
		if err := c.ready(); err != nil {
			return err
		}
		packet, err := c.next()
		if err != nil {
			c.leave(c.session) // before anything is made of it: thousands are lost at once
			return c.lost(err)
		}
		switch p := packet.(type) {
		case *mqtt.Publish:
			err = c.publish(p)
		case *mqtt.Puback:
			c.acknowledged(p.PacketID)
		case *mqtt.Subscribe:
			err = c.subscribe(p)
		case *mqtt.Unsubscribe:
			err = c.unsubscribe(p)
		case *mqtt.Pingreq:
			c.say(mqtt.AppendPingresp) // [MQTT-3.12.4-1]
		case *mqtt.Disconnect:
			return nil
		default:
			err = c.refuse(violation("[MQTT-3.1.0-2]", "a second CONNECT"))
		}
		if err != nil {
			return err
		}
	}
}

// handshake is that of the peer; what it refuses is put on record.
func (c *conn) handshake() error {
	refusal, err := c.peer.handshake()
	if refusal != nil {
		return c.refuse(refusal)
	}
	return err
}

// firstPacket reads the CONNECT [MQTT-3.1.0-1]. Until then nothing is answered.
func (c *conn) firstPacket() (*mqtt.Connect, error) {
	if err := c.within(handshakeTime); err != nil {
		return nil, err
	}
	c.reader = mqtt.NewReader(c.stream, maxConnect)
	packet, err := c.reader.Next()
	if other, ok := errors.AsType[*mqtt.UnsupportedVersion](err); ok {
		// Told in the form that the client understands [MQTT-3.1.2-2].
		answer := mqtt.AppendConnack(nil, false, mqtt.ConnRefusedVersion)
		if other.Level >= 5 {
			answer = mqtt.AppendConnackV5(nil)
		}
		err := c.refuse(signet.Refuse(signet.RequestMalformed, "The client speaks version %d of %s.", other.Level, signet.Clip(other.Name)).
			FixBy("Configure the client for MQTT 3.1.1."))
		c.lastWord(answer)
		return nil, err
	}
	if err != nil {
		why := c.lost(err)
		if bad, ok := errors.AsType[*mqtt.Malformed](err); ok && bad.ReturnCode != mqtt.ConnAccepted {
			c.lastWord(mqtt.AppendConnack(nil, false, bad.ReturnCode)) // [MQTT-3.1.3-8]
		}
		return nil, why
	}
	connect, ok := packet.(*mqtt.Connect)
	if !ok {
		return nil, c.refuse(violation("[MQTT-3.1.0-1]", "the first packet is not a CONNECT"))
	}
	return connect, nil
}

// authenticate asks the waist who the device is, and answers the CONNECT.
func (c *conn) authenticate(p *mqtt.Connect) error {
	session, err := c.connect(p)
	if err != nil {
		c.tellChain()
	}
	c.chain = nil
	if err != nil {
		code := byte(mqtt.ConnRefusedNotAuthorized)
		switch err.Code {
		case signet.Unavailable, signet.Internal, signet.LimitRate:
			// The one code that every SDK retries politely.
			code = mqtt.ConnRefusedUnavailable
		}
		c.trace.Event("refused", slog.String("code", string(err.Code)), slog.String("message", err.Message),
			slog.String("trackingId", err.TrackingID), slog.Int("connack", int(code)))
		c.lastWord(mqtt.AppendConnack(nil, false, code))
		return err
	}
	c.silence = maxSilence
	if p.KeepAlive > 0 {
		c.silence = min(time.Duration(p.KeepAlive)*time.Second*3/2, maxSilence) // [MQTT-3.1.2-24]
	}
	c.metrics.connects.WithLabelValues("ok").Inc()
	c.metrics.seconds.Observe(time.Since(c.accepted).Seconds())
	c.trace.Event("let in", slog.String("hub", session.Principal().Hub), slog.String("auth", string(session.Principal().Auth)),
		slog.Int("completed from registry", session.Principal().Completed()))
	c.trace.Answered()
	c.door.log.Debug("connected", "door", c.via, "remote", c.remote, "hub", session.Principal().Hub,
		"device", c.topics.prefix, "auth", session.Principal().Auth, "client", signet.Clip(c.username.client))

	c.username = username{deviceID: c.username.deviceID, moduleID: c.username.moduleID} // let go of the rest

	// The CONNACK comes first, whatever the session has for us already.
	present := c.recall(session)
	c.mu.Lock()
	c.session = session
	c.out = mqtt.AppendConnack(c.buffer(), present, mqtt.ConnAccepted)
	c.writing = true
	c.mu.Unlock()
	c.write() // here, where the stack is large already
	if present {
		c.listen(c.listens, c.listens)
	}
	return nil
}

// connect makes credentials of a CONNECT and has them judged.
func (c *conn) connect(p *mqtt.Connect) (Session, *signet.Error) {
	c.trace.About(strconv.QuoteToASCII(signet.Clip(p.ClientID)))
	c.trace.Event("CONNECT", slog.String("client", signet.Clip(p.ClientID)), slog.String("username", signet.Clip(p.Username)),
		slog.Bool("password", len(p.Password) > 0), slog.Int("keepalive", int(p.KeepAlive)),
		slog.Bool("clean", p.CleanSession), slog.Bool("will", p.Will != nil))
	var err error
	if c.username, err = parseUsername(p.Username, p.ClientID); err != nil {
		return nil, c.refuse(signet.AsError(err))
	}
	u := &c.username
	c.topics = identityTopics(u.deviceID, u.moduleID)
	if p.Will != nil {
		if err := c.checkWill(p.Will); err != nil {
			return nil, c.refuse(err)
		}
		c.will = p.Will
	}
	ctx, cancel := context.WithTimeout(c.door.ctx, handshakeTime)
	defer cancel()
	session, err := c.door.waist.Connect(ctx, hub.Credentials{
		Door: c.via, Remote: c.remote, Host: u.host, DeviceID: u.deviceID, ModuleID: u.moduleID,
		Chain: c.chain, TLS: c.version, Token: string(p.Password),
		APIVersion: signet.Clip(u.apiVersion), ModelID: signet.Clip(u.modelID), Client: signet.Clip(u.client),
	}, c.wake)
	if c.clean = p.CleanSession; err == nil && c.clean && session.Kept() != 0 {
		if err = session.Keep(ctx, 0); err != nil { // discarded [MQTT-3.1.2-6]
			session.Close()
			return nil, c.refuse(signet.AsError(err))
		}
	}
	return session, signet.AsError(err)
}

// checkWill takes a will on the device's own telemetry topic, and none else
// (Azure: iot-mqtt-connect-to-iot-hub).
func (c *conn) checkWill(w *mqtt.Will) *signet.Error {
	if _, ok := c.topics.telemetry(w.Topic); !ok {
		return signet.Refuse(signet.RequestMalformed, "The topic of the will, %q, is not the device's own telemetry topic.", signet.Clip(w.Topic)).
			FixBy("Set the will's topic to %s/messages/events/.", c.topics.prefix)
	}
	if w.QoS > 1 {
		return signet.Refuse(signet.RequestMalformed, "The will has QoS %d.", w.QoS).FixBy("Use QoS 0 or 1.")
	}
	return nil
}

// willMessage is what a will is published as.
func (c *conn) willMessage() *signet.Message {
	m := new(signet.Message)
	bag, _ := c.topics.telemetry(c.will.Topic)
	compose(m, bag, c.will.Payload, c.will.Retain)
	m.Properties = append(m.Properties, signet.Property{Name: "iothub-MessageType", Value: "Will"})
	return m
}

// compose makes m of a bag of properties and a body, which it keeps.
func compose(m *signet.Message, bag string, body []byte, retain bool) {
	m.Body = body
	m.System, m.Properties = parseProperties(bag)
	if retain {
		// Nothing is retained; the message says that it asked for it, by the name of
		// today's documentation and by the older one.
		m.Properties = append(m.Properties, signet.Property{Name: "mqtt-retain", Value: "true"}, signet.Property{Name: "x-opt-retain", Value: "true"})
	}
}

// ready waits until there is room for another packet, and sets how long it may
// take to come. Whoever is slowed here is not asked to keep alive meanwhile.
func (c *conn) ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.ended == nil && (c.taken-c.stored+uint64(len(c.later)) >= maxUnstored || c.unstoredBytes >= maxUnstoredBytes || len(c.out) >= maxOut) {
		c.changed.Wait()
	}
	if c.ended != nil {
		return c.ended
	}
	c.lostAt = time.Now().Add(c.silence)
	if c.waitsTo.IsZero() {
		c.waitForPacket()
	}
	return nil
}

// next reads a packet. The socket may wait for less long than the device may take,
// by the packets that have come meanwhile: it is told anew when it has waited, not
// with every packet.
func (c *conn) next() (mqtt.Packet, error) {
	for {
		packet, err := c.reader.Next()
		if !errors.Is(err, os.ErrDeadlineExceeded) || !c.mayWait() {
			return packet, err
		}
	}
}

// mayWait has the socket wait on if the device does not count as lost yet.
func (c *conn) mayWait() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return false
	}
	c.waitForPacket()
	return time.Now().Before(c.waitsTo)
}

// waitForPacket sets how long a packet may still take to come. It is called with
// mu held.
func (c *conn) waitForPacket() {
	until := c.lostAt
	if expires := c.session.Expires(); !expires.IsZero() {
		if end := time.Now().Add(expires.Sub(c.door.now())); end.Before(until) {
			until = end
		}
	}
	c.waitsTo = until
	c.socket.SetReadDeadline(until)
}

// lost says why no packet came.
func (c *conn) lost(err error) error {
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if ended != nil {
		return ended
	}
	var bad *mqtt.Malformed
	var large *mqtt.TooLarge
	var frame *websocket.Violation
	switch {
	case errors.As(err, &bad):
		return c.refuse(violation(bad.Tag, bad.Reason))
	case errors.As(err, &frame):
		return c.refuse(signet.Refuse(signet.RequestMalformed, "The device broke the rules of WebSocket: %s.", frame.Reason).
			FixBy("Send MQTT in binary messages, as RFC 6455 has them."))
	case errors.As(err, &large):
		return c.refuse(signet.Refuse(signet.LimitMessageSize, "The device sent a packet of %d bytes.", large.Size))
	case errors.Is(err, os.ErrDeadlineExceeded):
		switch {
		case c.session == nil:
			return c.refuse(signet.Refuse(signet.LimitHandshake, "No CONNECT came within %v of the handshake.", handshakeTime))
		case !c.session.Expires().IsZero() && !c.door.now().Before(c.session.Expires()):
			if len(c.session.Principal().Path) > 0 {
				return signet.Refuse(signet.SessionCertificateExpired, "A certificate of the session has expired.")
			}
			return signet.Refuse(signet.SessionExpired, "The token of the session has expired.")
		}
		return signet.Refuse(signet.SessionClosed, "The device was silent for %v.", c.silence)
	}
	return signet.Refuse(signet.SessionClosed, "The connection was lost without a DISCONNECT: %v.", err)
}

// violation is a breach of the protocol, by its number in the standard.
func violation(tag, what string) *signet.Error {
	if tag != "" {
		what += " " + tag
	}
	return signet.Refuse(signet.RequestMalformed, "The device broke the rules of MQTT: %s.", what).
		FixBy("Compare what the client sends with MQTT 3.1.1 and the documented topics.")
}

// publish takes a PUBLISH.
func (c *conn) publish(p *mqtt.Publish) error {
	if p.QoS > 1 {
		return c.refuse(violation("", "QoS 2, which the hub does not do"))
	}
	c.counted.publishes++
	c.door.metrics.publishes[p.QoS].Inc()
	c.metrics.received.Add(float64(len(p.Payload)))
	if bag, ok := c.topics.telemetry(p.Topic); ok {
		return c.telemetry(bag, p)
	}
	if r, ok := parseTwinRequest(p.Topic); ok {
		return c.twin(r, p)
	}
	if rest, ok := strings.CutPrefix(p.Topic, methodResults); ok {
		return c.methodResult(rest, p)
	}
	if query, ok := strings.CutPrefix(p.Topic, credentialRequest); ok {
		return c.credential(query, p)
	}
	return c.refuse(signet.Refuse(signet.RequestMalformed, "The device published on %q.", signet.Clip(p.Topic)).
		FixBy("Publish on the device's own topic, %s/messages/events/, or on another documented one.", c.topics.prefix))
}

// propertyCost is what a property takes in memory besides its text.
const propertyCost = 48

// messages are of telemetry, for as long as the hub takes one.
var messages = sync.Pool{New: func() any { return new(signet.Message) }}

// telemetry hands a message to the session. It is acknowledged when stored.
func (c *conn) telemetry(bag string, p *mqtt.Publish) error {
	m := messages.Get().(*signet.Message)
	defer func() {
		*m = signet.Message{}
		messages.Put(m)
	}()
	compose(m, bag, p.Payload, p.Retain)
	if size := m.Size(); size > signet.MaxMessageSize {
		return c.refuse(signet.Refuse(signet.LimitMessageSize, "The device sent a message of %d bytes.", size))
	}
	if err := c.pace(signet.MeterMessages); err != nil {
		return err
	}
	cost := len(m.Body) + len(bag) + propertyCost*(len(m.System)+len(m.Properties))
	qos, id := p.QoS, p.PacketID
	c.mu.Lock()
	c.taken++
	c.unstoredBytes += cost
	c.mu.Unlock()
	c.session.Send(c.door.ctx, m, func(err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stored++
		c.unstoredBytes -= cost
		c.changed.Broadcast()
		if err != nil {
			// There is no packet that says no. The device sends what is not
			// acknowledged again when it comes back [MQTT-4.4.0-1].
			c.endLocked(err)
			c.mute = true
			return
		}
		if qos == 1 {
			c.puback(id)
		}
		for len(c.later) > 0 && c.later[0].after <= c.stored {
			c.puback(c.later[0].packetID)
			c.later = c.later[1:]
		}
		if len(c.later) == 0 {
			c.later = nil
		}
	})
	return nil
}

// maxPace is how long a device is held back before it is let go: SDKs take a hub for
// dead that answers no ping for half a minute.
const maxPace = 20 * time.Second

// pace holds the device back as far as the limits of its hub ask for that: nothing
// more is read of it meanwhile. One that would have to wait for too long is let go;
// it sends what was not acknowledged again when it comes back.
func (c *conn) pace(m signet.Meter) error {
	wait, err := c.session.Meter(m, 1, maxPace)
	if err != nil {
		return c.refuse(signet.AsError(err))
	}
	if wait == 0 {
		return nil
	}
	return c.hold(wait)
}

// acknowledge answers a PUBLISH that is not stored, in its turn.
func (c *conn) acknowledge(p *mqtt.Publish) {
	if p.QoS == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stored == c.taken {
		c.puback(p.PacketID)
	} else {
		c.later = append(c.later, laterAck{c.taken, p.PacketID})
	}
}

// puback is called with mu held.
func (c *conn) puback(id uint16) {
	if c.mute {
		return
	}
	c.acked++
	c.door.metrics.pubacks.Inc()
	c.out = mqtt.AppendPuback(c.buffer(), id)
	c.startWriting()
}

// subscribe grants the documented filters and closes on any other: the SDKs do
// not look for a failure in a SUBACK.
func (c *conn) subscribe(p *mqtt.Subscribe) error {
	codes := make([]byte, len(p.Filters))
	before, granted := c.listens, noSubscriptions
	for i, f := range p.Filters {
		kind := c.topics.subscription(f.Filter)
		if kind == noSubscriptions {
			return c.refuse(signet.Refuse(signet.RequestMalformed, "The device subscribed to %q.", signet.Clip(f.Filter)).
				FixBy("Subscribe only to the documented topics, under the device's own ID."))
		}
		granted |= kind
		c.listens |= kind
		c.surely &^= kind
		if codes[i] = min(f.QoS, 1); codes[i] == 1 {
			c.surely |= kind
		}
	}
	if n := bits.OnesCount8(uint8(c.listens)); n > maxSubscriptions {
		return c.refuse(signet.Refuse(signet.LimitSubscriptions, "The device holds %d subscriptions, and may hold %d.", n, maxSubscriptions))
	}
	if err := c.keep(); err != nil {
		return err
	}
	c.trace.Event("SUBSCRIBE", slog.Int("filters", len(codes)))
	c.say(func(dst []byte) []byte { return mqtt.AppendSuback(dst, p.PacketID, codes) })
	c.listen(granted, c.listens&^before) // whatever comes of it comes after the SUBACK
	return nil
}

func (c *conn) unsubscribe(p *mqtt.Unsubscribe) error {
	for _, f := range p.Filters {
		kind := c.topics.subscription(f)
		c.listens &^= kind
		c.surely &^= kind
		c.unsubscribeCommands(kind)
	}
	if err := c.keep(); err != nil {
		return err
	}
	c.session.Listen(c.listens.kinds())
	// Also when nothing matched [MQTT-3.10.4-5].
	c.say(func(dst []byte) []byte { return mqtt.AppendUnsuback(dst, p.PacketID) })
	return nil
}

// wake is called when the session has something for us. That it is over is not left
// to whoever writes, and may be waiting for a device that reads nothing.
func (c *conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing && c.session != nil {
		if err := c.session.Ended(); err != nil {
			c.endLocked(err)
		}
	}
	c.woken = true
	c.startWriting()
}

// fetch takes what the session has: that it is over, or will be sooner; twin
// changes, method calls and commands.
func (c *conn) fetch() {
	var failed error
	defer func() {
		if failed != nil {
			c.end(failed)
		}
	}()
	defer c.survive(&failed)
	if err := c.session.Ended(); err != nil {
		c.end(err)
		return
	}
	c.mu.Lock()
	if c.ended == nil && !c.lostAt.IsZero() {
		c.waitForPacket()
	}
	c.mu.Unlock()
	c.fetchMail()
	c.fetchCommands()
}

// say adds one packet to what is written.
func (c *conn) say(packet func([]byte) []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mute {
		return
	}
	c.out = packet(c.buffer())
	c.startWriting()
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// buffer gives what there is to write, or an empty buffer. It is called with mu
// held.
func (c *conn) buffer() []byte {
	if c.box == nil {
		c.box = buffers.Get().(*[]byte)
		c.out = (*c.box)[:0]
	}
	return c.out
}

// startWriting sees to it that someone writes. It is called with mu held. Before
// there is a session, its wake only waits for it.
func (c *conn) startWriting() {
	if !c.writing && c.session != nil {
		c.writing = true
		go c.write()
	}
}

// write writes until there is nothing left to write.
func (c *conn) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.woken:
			c.woken = false
			c.mu.Unlock()
			c.fetch()
			c.mu.Lock()
			continue
		case len(c.out) == 0:
			c.writing = false
			c.changed.Broadcast()
			return
		}
		out, box := c.out, c.box
		c.out, c.box = nil, nil
		c.mu.Unlock()
		if now := time.Now(); c.writesTo.Sub(now) < writeTime {
			c.writesTo = now.Add(writeTime + writeSlack)
			c.socket.SetWriteDeadline(c.writesTo)
		}
		n, err := c.stream.Write(out)
		c.metrics.sent.Add(float64(n))
		if cap(out) <= 4<<10 {
			*box = out
			buffers.Put(box)
		}
		c.mu.Lock()
		c.changed.Broadcast()
		if err != nil {
			why := "The connection was lost without a DISCONNECT: " + err.Error() + "."
			if errors.Is(err, os.ErrDeadlineExceeded) {
				why = fmt.Sprintf("The device read nothing for %v.", writeTime)
			}
			c.endLocked(signet.Refuse(signet.SessionClosed, "%s", why))
			c.mute, c.out = true, nil
		}
		if c.unread || c.outbound != nil && c.outbound.due {
			c.woken = true // there is room again
		}
	}
}

// lastWord writes to a peer that is refused, and gives it time to read.
func (c *conn) lastWord(packet []byte) {
	c.socket.SetWriteDeadline(time.Now().Add(writeTime))
	if _, err := c.stream.Write(packet); err != nil {
		return
	}
	type half interface{ CloseWrite() error }
	if t, ok := c.stream.(half); ok {
		t.CloseWrite()
	}
	if t, ok := c.socket.(half); ok {
		t.CloseWrite()
		c.socket.SetReadDeadline(time.Now().Add(lingerTime))
		io.CopyN(io.Discard, c.socket, lingerBytes)
	}
}

// end asks the connection to end, for the first reason given. It does not wait.
func (c *conn) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(why)
}

func (c *conn) endLocked(why error) {
	if c.ended != nil {
		return
	}
	c.ended = why
	c.changed.Broadcast()
	// Whoever reads stops, and no later deadline is set any more. A stranger is not
	// waited for to read either.
	c.socket.SetReadDeadline(time.Unix(1, 0))
	if c.session == nil {
		c.socket.SetWriteDeadline(time.Unix(1, 0))
	}
}

// cut ends the connection without regard to what is under way.
func (c *conn) cut() {
	c.mu.Lock()
	c.mute = true
	c.changed.Broadcast()
	c.mu.Unlock()
	c.socket.Close()
}

// refuse records a refusal that the door makes itself. Whoever comes to be
// refused here is told nothing but, at most, a CONNACK.
func (c *conn) refuse(e *signet.Error) *signet.Error {
	if c.talk != nil {
		return c.talk.record(e)
	}
	v := signet.Verdict{
		Error: *e, Door: c.via, Remote: c.remote.Addr().String(),
		DeviceID: c.username.deviceID, ModuleID: c.username.moduleID,
	}
	if !c.remote.IsValid() {
		v.Remote = ""
	}
	if c.session != nil {
		v.Hub = c.session.Principal().Hub
	}
	for _, cert := range c.chain[:min(len(c.chain), maxShownChain)] {
		v.Chain = append(v.Chain, thumbprint(cert))
	}
	e.TrackingID = c.door.waist.Refuse(c.username.host, v)
	return e
}

// farewell sends the will of a device that is lost, and ends session and
// connection.
func (c *conn) farewell(why error) {
	c.leave(c.session)
	if c.session != nil {
		c.part(why)
	}
	c.mu.Lock()
	c.mute, c.out = true, nil
	acked := c.acked
	c.mu.Unlock()
	c.stream.Close() // says close_notify, and does not wait for a peer that reads nothing
	if c.session != nil {
		c.session.Close() // now that the connection is closed: the hub may be waiting to tell
	}

	code := "disconnect"
	if why != nil {
		code = string(signet.CodeOf(why))
	}
	c.trace.Event("over", slog.Uint64("publishes", c.counted.publishes), slog.Uint64("pubacks", acked), slog.Uint64("twins", c.counted.twins))
	c.trace.Finish(why)
	switch {
	case c.session != nil:
		c.metrics.ends.WithLabelValues(code).Inc()
	case c.talk == nil:
		c.metrics.connects.WithLabelValues(code).Inc()
	}
	c.door.log.Debug("disconnected", "door", c.via, "remote", c.remote, "device", signet.Clip(c.topics.prefix), "reason", why)
}

// part parts with the device. A DISCONNECT discards the will [MQTT-3.14.4-3]; every
// other end of the connection publishes it [MQTT-3.1.2-8].
func (c *conn) part(why error) {
	if why != nil && c.will != nil {
		c.mu.Lock()
		c.taken++
		c.mu.Unlock()
		c.session.Will(c.door.ctx, c.willMessage(), func(err error) {
			if err != nil {
				c.door.log.Debug("a will is not published", "device", c.topics.prefix, "error", err)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.stored++
			c.changed.Broadcast()
		})
	}
	select {
	case <-c.door.shutdown:
		c.settle()
	default:
	}
}

// settle waits until what was published is stored and acknowledged.
func (c *conn) settle() {
	late := false
	timer := time.AfterFunc(farewellTime, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		late = true
		c.changed.Broadcast()
	})
	defer timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !late && !c.mute && (c.stored < c.taken || c.writing) {
		c.changed.Wait()
	}
}
