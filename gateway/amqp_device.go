package gateway

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/wire/amqp"
)

// deviceLinks are the links of a device, and what goes on on them. All but model is
// under peer.mu.
type deviceLinks struct {
	model string // the device's Plug and Play model, as its links say

	listens  hub.Kinds
	twins    *amqp.Sender // answers and changes; nil when it is not attached
	methods  *amqp.Sender // calls
	commands *amqp.Sender

	asking   bool         // a request about the twin is served: nothing is told before its answer
	answers  []twinAnswer // that wait for credit
	unsaid   hub.Delivery // what was taken from the session and could not be sent yet
	due      bool         // there may be a command to fetch
	inFlight int          // commands that are not settled
}

// A twinAnswer settles its request once it is sent: so no more can wait than there
// may be requests on a link, and on all links together no more than maxAsked.
type twinAnswer struct {
	payload []byte
	request *amqp.Delivery
}

func noNode(n amqpNode) *signet.Error {
	return signet.Refuse(signet.RequestNotFound, "There is no node %q of a device.", signet.Clip(n.name))
}

// takeFrom takes a link on which the device sends.
func (c *amqpConn) takeFrom(n amqpNode, r *amqp.Receiver) *signet.Error {
	switch n.name {
	case "messages/events":
		r.Credit, r.MaxSize, r.Take = maxUnstored, maxAMQPMessage, c.telemetry
	case "twin":
		r.Credit, r.MaxSize, r.Take = maxAsked, maxAMQPMessage, c.twinRequest
	case "methods/devicebound":
		r.Credit, r.MaxSize, r.Take = maxAsked, maxAMQPMessage, c.methodAnswer
	default:
		return c.refuse(noNode(n))
	}
	return nil
}

// sendTo takes a link on which the device receives. Of each kind, the latest counts.
func (c *amqpConn) sendTo(n amqpNode, s *amqp.Sender) *signet.Error {
	d := &c.device
	var place **amqp.Sender
	kind := hub.Kinds(0)
	switch n.name {
	case "messages/devicebound":
		place = &d.commands
	case "messages/events": // what is routed to a module's input; nothing ever is
		return nil
	case "twin":
		place = &d.twins
	case "methods/devicebound":
		place, kind = &d.methods, hub.MethodCalls
	default:
		return c.refuse(noNode(n))
	}
	s.Detached = func(*amqp.Error) {
		c.mu.Lock()
		mine := *place == s
		if mine {
			*place = nil
			if d.ignore(kind); place == &d.twins {
				d.ignore(hub.DesiredChanges)
			}
		}
		listens := d.listens
		c.mu.Unlock()
		if mine {
			c.session.Listen(listens)
		}
	}
	c.mu.Lock()
	*place = s
	d.listens |= kind
	d.due = d.due || place == &d.commands
	listens := d.listens
	c.mu.Unlock()
	if kind != 0 {
		c.session.Listen(listens)
	}
	return nil
}

// ignore has the device listen to a kind no more, and be told nothing of it that waits.
// It is called with mu held.
func (d *deviceLinks) ignore(kind hub.Kinds) {
	d.listens &^= kind
	if d.unsaid != nil && d.unsaid.Kind()&kind != 0 {
		d.unsaid = nil
	}
}

// fetchDevice sends what the session has, as far as links have credit.
func (c *amqpConn) fetchDevice(s Session) {
	c.fetchAnswers()
	c.fetchMail(s)
	c.fetchCommands(s)
}

// rejected is the outcome of what is refused.
func rejected(e *signet.Error) amqp.State { return amqp.Rejected{Error: told(e)} }

// batchFormat is the message-format of a batch: each of its sections of data holds a
// message (Azure: the SDKs for C and .NET send so).
const batchFormat = 0x80013700

// telemetry hands a message, or a batch, to the session. It is accepted when all of it
// is stored.
func (c *amqpConn) telemetry(d *amqp.Delivery) {
	messages, err := c.parseTelemetry(d)
	if err != nil {
		d.Settle(rejected(c.refuse(err)))
		return
	}
	wait, e := c.session.Meter(signet.MeterMessages, len(messages), maxPace)
	if e == nil && wait > 0 {
		e = c.hold(wait)
	}
	if e != nil {
		d.Settle(rejected(signet.AsError(e)))
		return
	}
	cost := len(d.Payload) // bodies lie in it, and so does what is no part of a message here
	for _, m := range messages {
		cost += messageCost + m.Size() - len(m.Body) + propertyCost*(len(m.System)+len(m.Properties))
		c.amqp.messages.Inc()
		c.metrics.received.Add(float64(len(m.Body)))
	}
	c.mu.Lock()
	c.unstored += cost
	c.mu.Unlock()
	left, failed := len(messages), error(nil)
	done := func(err error) {
		c.mu.Lock()
		if left--; failed == nil {
			failed = err
		}
		over, why := left == 0, failed
		if over {
			c.unstored -= cost
			c.changed.Broadcast()
		}
		c.mu.Unlock()
		switch {
		case !over:
		case why != nil:
			if !isGone(why) {
				c.door.log.Debug("a message is not stored", "device", c.subject.deviceID, "error", why)
			}
			d.Settle(rejected(signet.AsError(why)))
		default:
			d.Settle(amqp.Accepted{})
		}
	}
	for _, m := range messages {
		c.session.Send(c.door.ctx, m, done)
	}
	// TCP slows a device that sends faster than the disk takes it.
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.unstored >= maxUnstoredBytes && c.ended == nil {
		c.changed.Wait()
	}
}

// parseTelemetry reads a delivery of telemetry: at least one message.
func (c *amqpConn) parseTelemetry(d *amqp.Delivery) ([]*signet.Message, *signet.Error) {
	tooLarge := func(size int) *signet.Error {
		return signet.Refuse(signet.LimitMessageSize, "The device sent %d bytes, and may send %d.", size, signet.MaxMessageSize)
	}
	if d.TooLarge {
		return nil, tooLarge(maxAMQPMessage)
	}
	outer, err := amqp.ParseMessage(d.Payload)
	if err != nil {
		return nil, malformedMessage(err)
	}
	all := []*amqp.Message{outer}
	if d.Format == batchFormat {
		if outer.Body != amqp.DataBody || len(outer.Data) > maxBatch {
			return nil, signet.Refuse(signet.RequestMalformed, "A batch has 1 to %d sections of data, each of them a message.", maxBatch)
		}
		all = nil
		for _, text := range outer.Data {
			m, err := amqp.ParseMessage(text)
			if err != nil {
				return nil, malformedMessage(err)
			}
			all = append(all, m)
		}
	} else if d.Format != 0 {
		return nil, signet.Refuse(signet.RequestMalformed, "The message-format %#x is not known.", d.Format)
	}
	size := 0
	messages := make([]*signet.Message, len(all))
	for i, m := range all {
		if messages[i], err = telemetryOf(m); err != nil {
			return nil, signet.AsError(err)
		}
		if c.device.model != "" {
			messages[i].System = append(messages[i].System, signet.Property{Name: "dt-dataschema", Value: c.device.model})
		}
		size += messages[i].Size()
	}
	if size > signet.MaxMessageSize {
		return nil, tooLarge(size)
	}
	return messages, nil
}

func malformedMessage(err error) *signet.Error {
	return signet.Refuse(signet.RequestMalformed, "The message cannot be read: %v.", err)
}

// applicationSystem are the application properties that are system properties here,
// and annotationSystem the annotations.
var (
	applicationSystem = map[string]bool{"iothub-message-schema": true, "iothub-creation-time-utc": true, "iothub-operation": true, "iothub-outputname": true, "iothub-ack": true}
	annotationSystem  = []string{"iothub-interface-id", "dt-subject", "Diagnostic-Id", "Correlation-Context"}
)

// bodyOf gives the body of a message, which may have none.
func bodyOf(m *amqp.Message) ([]byte, error) {
	switch v := m.Value.(type) {
	case nil:
		switch {
		case m.Body == amqp.SequenceBody:
		case len(m.Data) == 1:
			return m.Data[0], nil
		default:
			return slices.Concat(m.Data...), nil
		}
	case string:
		return []byte(v), nil
	case []byte:
		return v, nil
	}
	return nil, signet.Refuse(signet.RequestMalformed, "The body of the message is neither data, text nor binary.")
}

// telemetryOf makes a message of one in AMQP.
func telemetryOf(m *amqp.Message) (*signet.Message, error) {
	body, err := bodyOf(m)
	if err != nil {
		return nil, err
	}
	out := &signet.Message{Body: body}
	system := func(name, value string) {
		if value != "" {
			out.System = append(out.System, signet.Property{Name: name, Value: value})
		}
	}
	p := &m.Properties
	id, _ := textOf(p.MessageID)
	correlation, _ := textOf(p.CorrelationID)
	user, _ := textOf(p.UserID)
	system("message-id", id)
	system("correlation-id", correlation)
	system("user-id", user)
	system("content-type", string(p.ContentType))
	system("content-encoding", string(p.ContentEncoding))
	for _, name := range annotationSystem {
		if value, ok := m.Annotations.Text(name); ok {
			system(name, value)
		}
	}
	for _, e := range m.Application {
		name, ok := e.Key.(string)
		value, known := textOf(e.Value)
		switch {
		case !ok || name == "" || e.Value != nil && !known || reserved[strings.ToLower(name)]:
		case applicationSystem[name]:
			system(name, value)
		default:
			out.Properties = append(out.Properties, signet.Property{Name: name, Value: value, Null: e.Value == nil})
		}
	}
	return out, nil
}

// textOf writes a simple value as text; false when it is none.
func textOf(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case amqp.Symbol:
		return string(v), true
	case amqp.UUID:
		return fmt.Sprintf("%x-%x-%x-%x-%x", v[:4], v[4:6], v[6:8], v[8:10], v[10:]), true
	case bool, uint8, uint16, uint32, uint64, int8, int16, int32, int64:
		return fmt.Sprint(v), true
	case float32:
		return strconv.FormatFloat(float64(v), 'g', -1, 32), true
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), true
	case time.Time:
		return signet.AzureTime(v), true
	case []byte:
		s := strings.ToValidUTF8(string(v), "")
		return s, s == string(v)
	}
	return "", false
}

// twinRequest serves a request about the twin, which is answered on the other link of
// the twin. What changes while the twin is read is told after the answer: the device would
// take an answer of before that for what is so now.
func (c *amqpConn) twinRequest(d *amqp.Delivery) {
	asking := func(is bool) {
		c.mu.Lock()
		c.device.asking = is
		c.mu.Unlock()
	}
	asking(true)
	defer c.conn.Wake() // for what has waited
	answer, err := c.serveTwin(d)
	if err != nil {
		asking(false)
		d.Settle(rejected(c.refuse(err)))
		return
	}
	payload := answer.Append(nil)
	d.Payload = nil // up to 320 KiB, and the answer may wait for long
	c.mu.Lock()
	c.device.asking = false
	listening, full := c.device.twins != nil, len(c.device.answers) >= maxAsked
	if listening && !full {
		c.device.answers = append(c.device.answers, twinAnswer{payload, d})
	}
	c.mu.Unlock()
	switch {
	case !listening:
		d.Settle(amqp.Accepted{}) // an answer that there is no link for is not sent
	case full:
		d.Settle(rejected(c.refuse(signet.Refuse(signet.LimitRate, "%d answers about the twin wait already for the device to take them.", maxAsked).
			FixBy("Give credit on the link on which the answers come."))))
	}
}

const (
	twinReportedPath = "/properties/reported"
	twinDesiredPath  = "/notifications/twin/properties/desired"
)

// serveTwin gives the answer to a request: of what is refused as such, an error that
// is not yet recorded.
func (c *amqpConn) serveTwin(d *amqp.Delivery) (*amqp.Message, *signet.Error) {
	if d.TooLarge {
		return nil, signet.Refuse(signet.LimitMessageSize, "The request is larger than %d bytes.", maxAMQPMessage)
	}
	m, err := amqp.ParseMessage(d.Payload)
	if err != nil {
		return nil, malformedMessage(err)
	}
	if m.Properties.CorrelationID == nil {
		return nil, signet.Refuse(signet.RequestMalformed, "A twin request has no correlation-id.")
	}
	var body []byte
	for _, b := range m.Data {
		body = append(body, b...)
	}
	operation, _ := m.Annotations.Text("operation")
	resource, _ := m.Annotations.Text("resource")
	answer := &amqp.Message{Properties: amqp.Properties{CorrelationID: m.Properties.CorrelationID}, Body: amqp.DataBody}
	status, version := int32(200), int64(0)
	refused := func(e error) {
		failure := *signet.AsError(e) // the original may be shared
		failure.TrackingID = signet.NewTrackingID()
		if failure.Code == signet.Internal || failure.Code == signet.Unavailable {
			c.door.log.Error("a twin request failed", "device", c.subject.deviceID, "hub", c.session.Principal().Hub, "trackingId", failure.TrackingID, "cause", failure.Cause)
		}
		c.trace.Event("twin request refused", slog.String("code", string(failure.Code)), slog.String("trackingId", failure.TrackingID))
		text, body := c.twinError(&failure)
		n, _ := strconv.ParseInt(text, 10, 32)
		status, answer.Data = int32(n), [][]byte{body}
	}
	_, e := c.session.Meter(signet.MeterTwins, 1, 0)
	switch {
	case e != nil:
		refused(e)
	case operation == "GET" && resource == "":
		t, err := c.session.Twin(c.door.ctx)
		if err != nil {
			refused(err)
			break
		}
		answer.Data = [][]byte{twinDocument(&t)}
	case operation == "PATCH" && strings.EqualFold(resource, twinReportedPath):
		ifVersion, ok := versionOf(m.Annotations.Get("version"))
		if !ok {
			refused(signet.Refuse(signet.RequestMalformed, "The version of the request is not a whole number from 1."))
			break
		}
		if version, e = c.session.Report(c.door.ctx, body, ifVersion); e != nil {
			refused(e)
		}
	case operation == "PUT" && strings.EqualFold(resource, twinDesiredPath):
		c.listenTwin(true)
	case operation == "DELETE" && strings.EqualFold(resource, twinDesiredPath):
		c.listenTwin(false)
	default:
		refused(signet.Refuse(signet.RequestMalformed, "There is no twin operation %q of %q.", signet.Clip(operation), signet.Clip(resource)))
	}
	answer.Annotations = amqp.Map{{Key: amqp.Symbol("status"), Value: status}}
	if version > 0 {
		answer.Annotations = append(answer.Annotations, amqp.Entry{Key: amqp.Symbol("version"), Value: version})
	}
	if answer.Data == nil {
		answer.Data = [][]byte{{}}
	}
	return answer, nil
}

// versionOf reads the version that a patch is meant for: 0 when there is none.
func versionOf(v any) (int64, bool) {
	if v == nil {
		return 0, true
	}
	text, ok := textOf(v)
	n, err := strconv.ParseInt(text, 10, 64)
	return n, ok && err == nil && n >= 1
}

// listenTwin begins or ends to tell the device of desired properties.
func (c *amqpConn) listenTwin(to bool) {
	c.mu.Lock()
	switch {
	case !to:
		c.device.ignore(hub.DesiredChanges)
	case c.device.twins != nil:
		c.device.listens |= hub.DesiredChanges
	}
	listens := c.device.listens
	c.mu.Unlock()
	c.session.Listen(listens)
}

// fetchAnswers sends the answers of the twin that wait, in their order.
func (c *amqpConn) fetchAnswers() {
	for {
		c.mu.Lock()
		s := c.device.twins
		var next *twinAnswer
		if len(c.device.answers) > 0 {
			next = &c.device.answers[0]
		}
		c.mu.Unlock()
		if next == nil || s != nil && !s.Send(amqp.Outgoing{Payload: next.payload, Settled: true}) {
			return
		}
		next.request.Settle(amqp.Accepted{})
		c.mu.Lock()
		if c.device.answers = c.device.answers[1:]; len(c.device.answers) == 0 {
			c.device.answers = nil
		}
		c.mu.Unlock()
	}
}

// fetchMail sends the deliveries that wait. What is taken from the session is to be sent,
// so each link that might be meant has to be ready. If that is so no more by then, or the
// twin is being read, it is sent once there is room for it, and behind the answer.
func (c *amqpConn) fetchMail(session Session) {
	d := &c.device
	for {
		c.mu.Lock()
		twins, methods, listens, behind, delivery := d.twins, d.methods, d.listens, d.asking || len(d.answers) > 0, d.unsaid
		c.mu.Unlock()
		if listens == 0 || behind ||
			listens&hub.DesiredChanges != 0 && (twins == nil || !twins.Ready()) ||
			listens&hub.MethodCalls != 0 && (methods == nil || !methods.Ready()) {
			return
		}
		if delivery == nil {
			var ok bool
			if delivery, ok = session.Receive(); !ok {
				return
			}
		}
		m, link, place := amqp.Message{Body: amqp.DataBody}, twins, &d.twins
		switch v := delivery.(type) {
		case hub.DesiredChange:
			m.Data = [][]byte{appendVersioned(nil, v.Patch, v.Version)}
			m.Annotations = amqp.Map{{Key: amqp.Symbol("resource"), Value: "/properties/desired"}, {Key: amqp.Symbol("version"), Value: v.Version}}
		case hub.MethodCall:
			link, place = methods, &d.methods
			m.Data, m.Properties.CorrelationID = [][]byte{v.Payload}, callUUID(v.RequestID)
			m.Application = amqp.Map{{Key: "IoThub-methodname", Value: v.Method}}
		}
		c.mu.Lock()
		behind = d.asking || len(d.answers) > 0 // since we looked
		c.mu.Unlock()
		// The link is nil when it was attached, and listened to, since we looked.
		sent := !behind && link != nil && link.Send(amqp.Outgoing{Payload: m.Append(nil), Settled: true})
		c.mu.Lock()
		d.unsaid = nil
		if !sent && d.listens&delivery.Kind() != 0 && (link == nil || link == *place) {
			d.unsaid = delivery
		}
		c.mu.Unlock()
		if !sent && link != nil {
			return
		}
	}
}

// callUUID writes the ID of a call, which is a number in hex, as a UUID: clients take
// nothing else as correlation-id. It has the form of RFC 9562 §5.8, and the number in
// its last 62 bits.
func callUUID(requestID string) (u amqp.UUID) {
	n, _ := strconv.ParseUint(requestID, 16, 64)
	binary.BigEndian.PutUint64(u[8:], n&(1<<62-1)|1<<63)
	u[6] = 0x80
	return u
}

// callOf reads that again, also from a text.
func callOf(correlation any) (requestID string, ok bool) {
	u, ok := correlation.(amqp.UUID)
	if !ok {
		text, _ := correlation.(string)
		b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
		if err != nil || len(b) != len(u) {
			return "", false
		}
		u = amqp.UUID(b)
	}
	return strconv.FormatUint(binary.BigEndian.Uint64(u[8:])&(1<<62-1), 16), true
}

// methodAnswer takes the answer to a method call.
func (c *amqpConn) methodAnswer(d *amqp.Delivery) {
	malformed := func(what string) {
		d.Settle(rejected(c.refuse(signet.Refuse(signet.RequestMalformed, "The device's answer to a method call %s.", what))))
	}
	if d.TooLarge {
		malformed("is too large")
		return
	}
	m, err := amqp.ParseMessage(d.Payload)
	if err != nil {
		malformed("cannot be read: " + err.Error())
		return
	}
	id, ok := callOf(m.Properties.CorrelationID)
	text, _ := textOf(m.Application.Get("IoThub-status"))
	status, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || status < math.MinInt32 || status > math.MaxInt32 {
		malformed("has no correlation-id of a call, or no status")
		return
	}
	var body []byte
	for _, b := range m.Data {
		body = append(body, b...)
	}
	c.session.AnswerMethod(id, int(status), body)
	d.Settle(amqp.Accepted{})
}

// fetchCommands sends the commands that wait, as many as may be in flight.
func (c *amqpConn) fetchCommands(session Session) {
	if session.CommandWaiting() {
		c.mu.Lock()
		c.device.due = true
		c.mu.Unlock()
	}
	for {
		c.mu.Lock()
		d := &c.device
		s := d.commands
		ask := s != nil && d.due && d.inFlight < maxInFlight
		c.mu.Unlock()
		if !ask || !s.Ready() {
			return
		}
		c.mu.Lock()
		d.due = false // one that comes while it is being asked for makes it due again
		c.mu.Unlock()
		command, err := session.NextCommand(c.door.ctx)
		if err != nil {
			c.end(err) // the device comes back, and is given what waits
			return
		}
		if command == nil {
			return
		}
		c.mu.Lock()
		d.due = true // there may be another
		c.mu.Unlock()
		if !c.sayCommand(session, s, command) {
			return
		}
	}
}

// sayCommand sends a command. A device that settles nothing has it completed before it
// is sent: nothing would tell that it came twice.
func (c *amqpConn) sayCommand(session Session, s *amqp.Sender, command *signet.Command) bool {
	settled := s.SenderMode() == amqp.SenderSettled
	if settled {
		if err := session.SettleCommand(c.door.ctx, command.LockToken, signet.Complete); err != nil {
			if signet.CodeOf(err) != signet.MessageLockLost { // purged meanwhile
				c.end(err)
			}
			return signet.CodeOf(err) == signet.MessageLockLost
		}
	}
	c.mu.Lock()
	c.device.inFlight++
	c.mu.Unlock()
	done := func(state amqp.State) amqp.State { return c.commandSettled(session, command.LockToken, state) }
	m := commandMessage(command, c.subject)
	sent := s.Send(amqp.Outgoing{Payload: m.Append(nil), Settled: settled, Done: done})
	switch {
	case !sent && !settled:
		done(nil) // detached meanwhile
	case settled:
		c.mu.Lock()
		c.device.inFlight--
		c.mu.Unlock()
	}
	if sent {
		c.amqp.commands.Inc()
	}
	return sent
}

// commandSettled disposes of a command as the device says; nil is that its link is
// over. What it gives is said to a device that waits for it: SDKs take anything but
// accepted for a failure.
func (c *amqpConn) commandSettled(session Session, token string, state amqp.State) amqp.State {
	disposition := signet.Abandon
	switch s := state.(type) {
	case amqp.Accepted:
		disposition = signet.Complete
	case amqp.Rejected:
		disposition = signet.Reject
	case amqp.Modified:
		if s.UndeliverableHere {
			disposition = signet.Reject
		}
	}
	err := session.SettleCommand(c.door.ctx, token, disposition)
	c.mu.Lock()
	c.device.inFlight--
	c.mu.Unlock()
	c.conn.Wake() // there is room for another
	if err != nil {
		c.door.log.Debug("a command is not settled", "device", c.subject.deviceID, "disposition", disposition, "error", err)
		if disposition == signet.Abandon && signet.CodeOf(err) != signet.MessageLockLost {
			c.end(err) // it stays locked for this session: the device comes back, and is given it again
		}
		return rejected(signet.AsError(err))
	}
	return amqp.Accepted{}
}

// commandMessage is a command as clients read it: the types are those that .NET casts
// to, and there is one section of data.
func commandMessage(command *signet.Command, s subject) *amqp.Message {
	m := &amqp.Message{Body: amqp.DataBody, Data: [][]byte{command.Body},
		Properties: amqp.Properties{MessageID: command.MessageID, To: "/" + identityTopics(s.deviceID, s.moduleID).prefix + "/messages/deviceBound"},
		Annotations: amqp.Map{
			{Key: amqp.Symbol("x-opt-sequence-number"), Value: uint64(command.Sequence)},
			{Key: amqp.Symbol("iothub-enqueuedtime"), Value: command.EnqueuedTime},
			{Key: amqp.Symbol("iothub-deliverycount"), Value: uint8(min(command.DeliveryCount, math.MaxUint8))},
			{Key: amqp.Symbol("x-opt-lock-token"), Value: command.LockToken},
		}}
	for _, p := range command.System {
		switch p.Name {
		case "correlation-id":
			m.Properties.CorrelationID = p.Value
		case "user-id":
			m.Properties.UserID = []byte(p.Value)
		case "content-type":
			m.Properties.ContentType = amqp.Symbol(p.Value)
		case "content-encoding":
			m.Properties.ContentEncoding = amqp.Symbol(p.Value)
		case "absolute-expiry-time":
			m.Properties.AbsoluteExpiryTime = command.ExpiryTime
		}
	}
	for _, p := range command.Properties {
		m.Application = append(m.Application, amqp.Entry{Key: p.Name, Value: p.Value})
	}
	if command.Ack != signet.AckNone {
		m.Application = append(m.Application, amqp.Entry{Key: "iothub-ack", Value: string(command.Ack)})
	}
	return m
}
