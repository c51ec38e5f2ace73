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

	// maxConversations bounds those of one device at a time, by MQTT: several that
	// have one registration ID, by mistake, do not shut each other out.
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

// A conversation is a connection whose device asks for its place. It has the
// handshake, the gate and the first packet in common with all others, and then a
// small loop of its own, in which each request is answered before the next is
// read.
//
// A device that is refused is let connect all the same, and told so in answer to
// its request, as the SDKs want it; until then it is a stranger, in a stranger's
// time.
type conversation struct {
	*conn
	credentials provisioning.Credentials
	applicant   Applicant     // nil when it is refused
	refusal     *signet.Error // why
	ends        time.Time
	heard       bool         // the device listens to answers
	last        atomic.Int64 // when it said something, in nanoseconds since 1970
}

// converse judges the device that a CONNECT is of, and answers it. Then c.talk is
// set, unless the CONNECT was not meant for a provisioning service.
func (c *conn) converse(p *mqtt.Connect) error {
	scope, id, query, ok := parseRegistrationName(p.Username)
	if !ok || c.door.registrar == nil {
		return nil
	}
	v := &conversation{conn: c, ends: time.Now().Add(handshakeTime), credentials: provisioning.Credentials{
		Door: c.via, Remote: c.remote, IDScope: scope, RegistrationID: id, Chain: c.chain, Token: string(p.Password)}}
	c.talk = v
	c.trace.Event("CONNECT", slog.String("registration", signet.Clip(id)), slog.String("scope", signet.Clip(scope)), slog.String("client", signet.Clip(query)))
	var err error
	switch version, _ := queryValue(query, "api-version"); {
	case version == "":
		err = v.refuse(signet.Refuse(signet.RequestAPIVersion, "The user name names no api-version."))
	case signet.FoldRegistrationID(p.ClientID) != signet.FoldRegistrationID(id):
		err = v.refuse(signet.Refuse(signet.RequestMalformed, "The MQTT user name and the client ID name different registrations.").
			At("client ID", id, p.ClientID).FixBy("Use the registration ID in both."))
	case p.Will != nil:
		err = v.refuse(signet.Refuse(signet.RequestMalformed, "A device that registers has a will, and nobody to leave it to.").FixBy("Connect without a will."))
	default:
		ctx, cancel := context.WithTimeout(c.door.ctx, handshakeTime)
		v.applicant, err = c.door.registrar.Admit(ctx, v.credentials)
		cancel()
		if err != nil {
			if v.refusal = signet.AsError(err); v.refusal.Code != signet.Unavailable && v.refusal.Code != signet.Internal {
				err = nil // it is told so when it asks
			}
		} else if !c.door.conversing(v, true) {
			err = v.refuse(signet.Refuse(signet.LimitConnections, "%d connections register %q already.", maxConversations, id))
		}
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
		c.door.conversing(v, false) // there will be no conversation
	}
	return err
}

// hold is the conversation, after its CONNACK.
func (v *conversation) hold(visitor *visitor) error {
	outcome := "refused"
	if v.applicant != nil {
		outcome = "ok"
		defer v.door.conversing(v, false)
		v.door.gate.leave(visitor)
		v.guest.letIn()
		v.ends = time.Now().Add(conversationTime)
	}
	v.door.metrics.conversations.WithLabelValues(outcome).Inc()
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
			err = v.refuse(violation("[MQTT-3.1.0-2]", "a second CONNECT"))
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
		return signet.Refuse(signet.SessionClosed, "The device was silent, or its time to register is over.")
	}
	return v.conn.lost(err)
}

// subscribe grants the one filter that there is.
func (v *conversation) subscribe(p *mqtt.Subscribe) error {
	codes := make([]byte, len(p.Filters))
	for i, f := range p.Filters {
		if f.Filter != resultTopic+"#" {
			return v.refuse(signet.Refuse(signet.RequestMalformed, "The device subscribed to %q while it registers.", signet.Clip(f.Filter)).
				FixBy("Subscribe to %s#.", resultTopic))
		}
		codes[i] = min(f.QoS, 1)
	}
	v.heard = true
	return v.write(mqtt.AppendSuback(nil, p.PacketID, codes))
}

// request answers a PUBLISH: acknowledged is what is on disk.
func (v *conversation) request(p *mqtt.Publish) error {
	if p.QoS > 1 {
		return v.refuse(violation("", "QoS 2, which the hub does not do"))
	}
	query, registers := strings.CutPrefix(p.Topic, registerTopic)
	asks := false
	if !registers {
		query, asks = strings.CutPrefix(p.Topic, operationTopic)
	}
	rid, ok := queryValue(query, "$rid")
	if !registers && !asks || !ok || rid == "" || len(rid) > maxRequestID {
		return v.refuse(signet.Refuse(signet.RequestMalformed, "The device published on %q while it registers.", signet.Clip(p.Topic)).
			FixBy("Publish on %s$rid={any ID}, or %s$rid={any ID}&operationId={ID}.", registerTopic, operationTopic))
	}
	ctx, cancel := context.WithTimeout(v.door.ctx, storeTime)
	defer cancel()
	var operation provisioning.Operation
	var err error
	switch {
	case v.applicant == nil:
		err = v.refusal
	case registers:
		var body provisioning.Request
		if body, err = provisioning.ParseRequest(p.Payload); err != nil {
			err = v.refuse(signet.AsError(err))
		} else {
			operation, err = v.applicant.Register(ctx, body)
		}
	default:
		id, _ := queryValue(query, "operationId")
		operation, err = v.applicant.Operation(ctx, id)
	}
	status, answer, wait := answerOf(&operation, v.credentials.RegistrationID, err, v.door.now())
	v.trace.Event("answered", slog.Bool("registers", registers), slog.Int("status", status), slog.String("code", string(signet.CodeOf(err))))
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

// refuse records a refusal that the door makes itself.
func (v *conversation) refuse(e *signet.Error) *signet.Error {
	return v.door.registrar.Refuse(v.credentials, e)
}

// conversing counts a conversation in, if its device may have another, or out. One that
// may be lost ends to make room.
func (m *MQTT) conversing(v *conversation, in bool) bool {
	key := strings.ToLower(v.credentials.IDScope + "\n" + v.credentials.RegistrationID)
	m.mu.Lock()
	are, lost := m.conversations[key], (*conversation)(nil)
	v.last.Store(time.Now().UnixNano())
	if in && len(are) >= maxConversations {
		lost = slices.MinFunc(are, func(a, b *conversation) int { return cmp.Compare(a.last.Load(), b.last.Load()) })
		if v.last.Load()-lost.last.Load() < int64(lostTime) {
			m.mu.Unlock()
			return false
		}
	}
	are = slices.DeleteFunc(are, func(other *conversation) bool { return other == v || other == lost })
	if in {
		are = append(are, v)
	}
	if m.conversations[key] = are; len(are) == 0 {
		delete(m.conversations, key)
	}
	m.mu.Unlock()
	if lost != nil {
		lost.end(signet.Refuse(signet.SessionClosed, "The device was silent, and registers anew."))
	}
	return true
}
