package gateway

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/wire/mqtt"
)

// A Registrar is what the doors need of the provisioning service. Safe for
// concurrent use.
type Registrar interface {
	// Admit judges credentials. A refusal is a *signet.Error, is recorded already and
	// bears a tracking ID.
	Admit(ctx context.Context, c provisioning.Credentials) (Applicant, error)

	// Refuse records a refusal that the door made itself, and gives it with its
	// tracking ID. It never blocks.
	Refuse(c provisioning.Credentials, err error) *signet.Error
}

// An Applicant is a device that may ask for its place. Safe for concurrent use;
// refusals as for Admit.
type Applicant interface {
	// Register begins an operation; it is on disk when it is given.
	Register(ctx context.Context, q provisioning.Request) (provisioning.Operation, error)
	// Operation tells how far one has come.
	Operation(ctx context.Context, id string) (provisioning.Operation, error)
	// Lookup gives the record of the device.
	Lookup(ctx context.Context) (signet.Registration, error)
}

// The bounds of a conversation about a registration.
const (
	// conversationTime is how long one may last: many times what a registration
	// takes. What the device was admitted by is judged again with the next.
	conversationTime = 10 * time.Minute

	// maxConversations bounds those of one device at a time, by MQTT and AMQP: several
	// that have one registration ID, by mistake, do not shut each other out.
	maxConversations = 4

	// lostTime is how long one of these is silent before it may be a link that has died
	// without a word, and gives its place to who comes: longer than any device is told
	// to wait (30 s).
	lostTime = 35 * time.Second
)

// Topics of registrations.
const (
	registerTopic  = "$dps/registrations/PUT/iotdps-register/?"
	operationTopic = "$dps/registrations/GET/iotdps-get-operationstatus/?"
	resultTopic    = "$dps/registrations/res/"
)

// isScope says whether a text has the form of an ID scope, by which registrations
// are told from what is for a hub: no host name is of it.
func isScope(text string) bool {
	return len(text) > 3 && strings.EqualFold(text[:3], "0ne") && !strings.Contains(text, ".")
}

// parseRegistrationName reads the user name of a device that registers:
//
//	{ID scope}/registrations/{registration ID}/api-version={date}[&ClientVersion={text}]
func parseRegistrationName(text string) (scope, id, query string, ok bool) {
	scope, rest, _ := strings.Cut(text, "/")
	rest, ok = strings.CutPrefix(rest, "registrations/")
	if !ok || !isScope(scope) {
		return "", "", "", false
	}
	id, query, _ = strings.Cut(rest, "/")
	return scope, id, strings.TrimPrefix(query, "?"), true
}

// A candidate is a device that asks for its place on a connection, by MQTT or by AMQP.
// Each request is answered before the next is read.
//
// One that is refused is let connect all the same, and told so in answer to its
// request, as the SDKs want it; until then it is a stranger, in a stranger's time.
type candidate struct {
	of          *peer
	dismiss     func(error) // ends the connection
	credentials provisioning.Credentials
	applicant   Applicant     // nil when it is refused
	refusal     *signet.Error // why
	last        atomic.Int64  // when it said something, in nanoseconds since 1970
}

// admit has the candidate judged. What is given is told at once: that it cannot be
// judged, or has too many conversations. Any other refusal is told in answer to requests.
func (k *candidate) admit() error {
	door := k.of.door
	ctx, cancel := context.WithTimeout(door.ctx, handshakeTime)
	defer cancel()
	applicant, err := door.registrar.Admit(ctx, k.credentials)
	if err == nil && !door.conversing(k, true) {
		err = k.record(signet.Refuse(signet.LimitConnections, "%d connections register %q already.", maxConversations, k.credentials.RegistrationID))
	}
	if err == nil {
		k.applicant = applicant
		return nil
	}
	switch k.refusal = signet.AsError(err); k.refusal.Code {
	case signet.Unavailable, signet.Internal, signet.LimitConnections:
		return k.refusal
	}
	return nil
}

// outcome is what conversations are counted by.
func (k *candidate) outcome() string {
	if k.applicant == nil {
		return "refused"
	}
	return "ok"
}

// A question is what a candidate asks.
type question struct {
	registers bool   // for its place; otherwise after an operation
	body      []byte // of a registration
	operation string
}

// answer answers a question, or what unread says why it cannot be read. The error is
// what the answer tells, if it is one: acknowledged is what is on disk.
func (k *candidate) answer(q question, unread error) (status int, body []byte, wait int, err error) {
	ctx, cancel := context.WithTimeout(k.of.door.ctx, storeTime)
	defer cancel()
	var operation provisioning.Operation
	switch {
	case k.applicant == nil:
		err = k.refusal
	case unread != nil:
		err = k.record(unread)
	case q.registers:
		var body provisioning.Request
		if body, err = provisioning.ParseRequest(q.body); err != nil {
			err = k.record(err)
		} else {
			operation, err = k.applicant.Register(ctx, body)
		}
	default:
		operation, err = k.applicant.Operation(ctx, q.operation)
	}
	status, body, wait = answerOf(&operation, k.credentials.RegistrationID, err, k.of.door.now())
	k.of.trace.Event("answered", slog.Bool("registers", q.registers), slog.Int("status", status), slog.String("code", string(signet.CodeOf(err))))
	return status, body, wait, err
}

// record records a refusal that the door makes itself.
func (k *candidate) record(err error) *signet.Error {
	return k.of.door.registrar.Refuse(k.credentials, err)
}

// A conversation is a connection by MQTT whose device asks for its place. It has the
// handshake, the gate and the first packet in common with all others, and then a
// small loop of its own.
type conversation struct {
	*conn
	candidate
	ends  time.Time
	heard bool // the device listens to answers
}

// converse judges the device that a CONNECT is of, and answers it. Then c.talk is
// set, unless the CONNECT was not meant for a provisioning service.
func (c *conn) converse(p *mqtt.Connect) error {
	scope, id, query, ok := parseRegistrationName(p.Username)
	if !ok || c.door.registrar == nil {
		return nil
	}
	v := &conversation{conn: c, ends: time.Now().Add(handshakeTime), candidate: candidate{of: &c.peer, dismiss: c.end, credentials: provisioning.Credentials{
		Door: c.via, Remote: c.remote, IDScope: scope, RegistrationID: id, Chain: c.chain, Token: string(p.Password)}}}
	c.talk = v
	c.trace.Event("CONNECT", slog.String("registration", signet.Clip(id)), slog.String("scope", signet.Clip(scope)), slog.String("client", signet.Clip(query)))
	var err error
	switch version, _ := queryValue(query, "api-version"); {
	case version == "":
		err = v.record(signet.Refuse(signet.RequestAPIVersion, "The user name names no api-version."))
	case signet.FoldRegistrationID(p.ClientID) != signet.FoldRegistrationID(id):
		err = v.record(signet.Refuse(signet.RequestMalformed, "The MQTT user name and the client ID name different registrations.").
			At("client ID", id, p.ClientID).FixBy("Use the registration ID in both."))
	case p.Will != nil:
		err = v.record(signet.Refuse(signet.RequestMalformed, "A device that registers has a will, and nobody to leave it to.").FixBy("Connect without a will."))
	default:
		err = v.admit()
	}
	c.chain = nil
	if err != nil {
		code := byte(mqtt.ConnRefusedNotAuthorized)
		switch signet.CodeOf(err) {
		case signet.Unavailable, signet.Internal, signet.LimitConnections:
			code = mqtt.ConnRefusedUnavailable // which every SDK retries politely
		}
		c.lastWord(mqtt.AppendConnack(nil, false, code))
		return err
	}
	c.silence = maxSilence
	if p.KeepAlive > 0 {
		c.silence = min(time.Duration(p.KeepAlive)*time.Second*3/2, maxSilence) // [MQTT-3.1.2-24]
	}
	if err = v.write(mqtt.AppendConnack(nil, false, mqtt.ConnAccepted)); err != nil && v.applicant != nil {
		c.door.conversing(&v.candidate, false) // there will be no conversation
	}
	return err
}

// hold is the conversation, after its CONNACK.
func (v *conversation) hold(visitor *visitor) error {
	v.door.metrics.conversations.WithLabelValues(v.outcome()).Inc()
	if v.applicant != nil {
		defer v.door.conversing(&v.candidate, false)
		v.door.gate.leave(visitor)
		v.guest.letIn()
		v.ends = time.Now().Add(conversationTime)
	}
	v.reader.SetMax(provisioning.MaxRequest + 2 + len(registerTopic) + len("$rid=") + maxRequestID + 2)
	for {
		if err := v.within(min(v.silence, time.Until(v.ends))); err != nil {
			return err
		}
		packet, err := v.reader.Next()
		if err != nil {
			return v.lost(err)
		}
		v.last.Store(time.Now().UnixNano())
		switch p := packet.(type) {
		case *mqtt.Publish:
			err = v.request(p)
		case *mqtt.Subscribe:
			err = v.subscribe(p)
		case *mqtt.Unsubscribe:
			v.heard = false
			err = v.write(mqtt.AppendUnsuback(nil, p.PacketID)) // [MQTT-3.10.4-5]
		case *mqtt.Puback: // of an answer that asked for none
		case *mqtt.Pingreq:
			err = v.write(mqtt.AppendPingresp(nil)) // [MQTT-3.12.4-1]
		case *mqtt.Disconnect:
			return nil
		default:
			err = v.record(violation("[MQTT-3.1.0-2]", "a second CONNECT"))
		}
		if err != nil {
			return err
		}
	}
}

// lost says why no packet came.
func (v *conversation) lost(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.ended != nil {
			return v.ended
		}
		return errRegistered()
	}
	return v.conn.lost(err)
}

func errRegistered() *signet.Error {
	return signet.Refuse(signet.SessionClosed, "The device was silent, or its time to register is over.")
}

// subscribe grants the one filter that there is.
func (v *conversation) subscribe(p *mqtt.Subscribe) error {
	codes := make([]byte, len(p.Filters))
	for i, f := range p.Filters {
		if f.Filter != resultTopic+"#" {
			return v.record(signet.Refuse(signet.RequestMalformed, "The device subscribed to %q while it registers.", signet.Clip(f.Filter)).
				FixBy("Subscribe to %s#.", resultTopic))
		}
		codes[i] = min(f.QoS, 1)
	}
	v.heard = true
	return v.write(mqtt.AppendSuback(nil, p.PacketID, codes))
}

// request answers a PUBLISH.
func (v *conversation) request(p *mqtt.Publish) error {
	if p.QoS > 1 {
		return v.record(violation("", "QoS 2, which the hub does not do"))
	}
	query, registers := strings.CutPrefix(p.Topic, registerTopic)
	asks := false
	if !registers {
		query, asks = strings.CutPrefix(p.Topic, operationTopic)
	}
	rid, ok := queryValue(query, "$rid")
	if !registers && !asks || !ok || rid == "" || len(rid) > maxRequestID {
		return v.record(signet.Refuse(signet.RequestMalformed, "The device published on %q while it registers.", signet.Clip(p.Topic)).
			FixBy("Publish on %s$rid={any ID}, or %s$rid={any ID}&operationId={ID}.", registerTopic, operationTopic))
	}
	id, _ := queryValue(query, "operationId")
	status, answer, wait, _ := v.answer(question{registers, p.Payload, id}, nil)
	var out []byte
	if p.QoS == 1 {
		out = mqtt.AppendPuback(out, p.PacketID)
	}
	if v.heard {
		topic := resultTopic + strconv.Itoa(status) + "/?$rid=" + rid
		if wait > 0 {
			topic += "&retry-after=" + strconv.Itoa(wait)
		}
		out = mqtt.AppendPublish(out, &mqtt.Publish{Topic: topic, Payload: answer})
	}
	return v.write(out)
}

// answerOf writes an operation, or why there is none, as devices read it: with an
// HTTP status, and the seconds to wait before asking again, if it is to.
func answerOf(o *provisioning.Operation, id string, err error, at time.Time) (status int, body []byte, wait int) {
	if err == nil {
		status, body = o.Answer()
		return status, body, int(o.RetryAfter / time.Second)
	}
	e := signet.AsError(err)
	if e.Code == signet.Internal && errors.Is(e.Cause, context.DeadlineExceeded) {
		busy := signet.Refuse(signet.Unavailable, "%s", signet.Unavailable.Info().Meaning)
		busy.TrackingID = e.TrackingID
		e = busy
	}
	status, body = provisioning.RefusalAnswer(id, e, at)
	if status >= http.StatusTooManyRequests {
		wait = retryTime
	}
	return status, body, wait
}

// retryTime is how many seconds a device that could not be served waits: what the
// SDKs wait of their own.
const retryTime = 2

// write sends packets, in the goroutine of the connection.
func (v *conversation) write(packets []byte) error {
	if len(packets) == 0 {
		return nil
	}
	v.socket.SetWriteDeadline(time.Now().Add(writeTime))
	n, err := v.stream.Write(packets)
	v.metrics.sent.Add(float64(n))
	if err != nil {
		return signet.Refuse(signet.SessionClosed, "The connection was lost without a DISCONNECT: %v.", err)
	}
	return nil
}

// conversing counts a conversation in, if its device may have another, or out. One that
// may be lost ends to make room.
func (m *MQTT) conversing(k *candidate, in bool) bool {
	key := k.key()
	m.mu.Lock()
	are, lost := m.conversations[key], (*candidate)(nil)
	k.last.Store(time.Now().UnixNano())
	if in && len(are) >= maxConversations {
		lost = slices.MinFunc(are, func(a, b *candidate) int { return cmp.Compare(a.last.Load(), b.last.Load()) })
		if k.last.Load()-lost.last.Load() < int64(lostTime) {
			m.mu.Unlock()
			return false
		}
	}
	are = slices.DeleteFunc(are, func(other *candidate) bool { return other == k || other == lost })
	if in {
		are = append(are, k)
	}
	if m.conversations[key] = are; len(are) == 0 {
		delete(m.conversations, key)
	}
	m.mu.Unlock()
	if lost != nil {
		lost.dismiss(signet.Refuse(signet.SessionClosed, "The device was silent, and registers anew."))
	}
	return true
}

// key names the device, however it is written.
func (k *candidate) key() string {
	return strings.ToLower(k.credentials.IDScope + "\n" + k.credentials.RegistrationID)
}
