package gateway

import (
	"log/slog"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/wire/amqp"
)

// maxQuestion bounds a question with its envelope: names, types and properties.
const maxQuestion = provisioning.MaxRequest + 8<<10

// What a device that registers writes into the properties of its questions.
const (
	operationType = "iotdps-operation-type"
	operationID   = "iotdps-operation-id"

	registerOperation = "iotdps-register"
	statusOperation   = "iotdps-get-operationstatus"
)

var errOverdue = &amqp.Error{Condition: amqp.ConnectionForced, Description: "The time to register is over."}

// registrationOf reads the address of a device that registers, and the user name by
// which it comes:
//
//	{ID scope}/registrations/{registration ID}
func registrationOf(address string) (scope, id string, ok bool) {
	path := addressPath(address)
	if len(path) != 3 || !registers(path) {
		return "", "", false
	}
	return path[0], path[2], true
}

// register has a device that registers judged, once: by a token, or by the certificate
// that it has presented.
func (c *amqpConn) register(scope, id, token string) *signet.Error {
	if err := c.tried(); err != nil {
		return err
	}
	k := &candidate{of: &c.peer, dismiss: c.end, credentials: provisioning.Credentials{
		Door: c.via, Remote: c.remote, IDScope: scope, RegistrationID: id, Chain: c.chain, Token: token}}
	switch {
	case c.talk != nil && c.talk.key() == k.key():
		return nil
	case c.talk != nil || c.session != nil || c.backEnd != nil:
		return c.refuse(signet.Refuse(signet.RequestMethod, "The connection is another's, and cannot be that of a device that registers as %q too.", signet.Clip(id)).
			FixBy("Open a connection for each device, and another to register it."))
	}
	c.talk = k
	c.trace.Event("registers", slog.String("registration", signet.Clip(id)), slog.String("scope", signet.Clip(scope)))
	err := c.apart(k.admit)
	if err != nil {
		c.tries++
		return signet.AsError(err)
	}
	c.chain = nil
	c.amqp.registrations.WithLabelValues(k.outcome()).Inc()
	if k.applicant != nil {
		c.letIn(time.Time{})
		c.conn.SetDeadline(time.Now().Add(conversationTime), errOverdue)
	}
	return nil
}

// registersOnly refuses what is for who does not register.
func (c *amqpConn) registersOnly() *signet.Error {
	return c.refuse(signet.Refuse(signet.RequestMethod, "The connection is that of a device that registers, and good for nothing else.").
		FixBy("Open another connection to the hub that the device is assigned to."))
}

// attachRegistration takes a link of a device that registers, which is judged by its
// certificate if it is not yet.
func (c *amqpConn) attachRegistration(scope, id string, l *amqp.Link, attach func()) *amqp.Error {
	err := c.register(scope, id, "")
	if version, _ := l.Properties.Text("com.microsoft:api-version"); err == nil && version == "" {
		err = c.refuse(signet.Refuse(signet.RequestAPIVersion, "The properties of the link name no com.microsoft:api-version."))
	}
	if err != nil {
		return c.deny(err)
	}
	attach()
	return nil
}

// takeQuestions takes a link on which a device that registers asks. Of one that is
// refused it is not read what it asks: it may send no more than any stranger.
func (c *amqpConn) takeQuestions(r *amqp.Receiver) {
	r.Credit, r.MaxSize = maxAsked, maxQuestion
	if c.talk.applicant == nil {
		r.MaxSize = maxConnect
	}
	r.Take = func(d *amqp.Delivery) { c.asked(r, d) }
}

// asked answers a question: on the other link, or, when it is refused, by rejecting it.
// SDKs read what the others get as a body in the description, and C#'s spells the
// time to wait as HTTP does.
func (c *amqpConn) asked(r *amqp.Receiver, d *amqp.Delivery) {
	c.talk.last.Store(time.Now().UnixNano())
	q, correlation, unread := questionOf(d)
	d.Payload = nil
	status, body, wait, err := c.talk.answer(q, unread)
	var retry amqp.Map
	for _, name := range []string{"retry-after", "Retry-After"} {
		if wait > 0 {
			retry = append(retry, amqp.Entry{Key: name, Value: int32(wait)})
		}
	}
	if status >= 300 {
		e := signet.AsError(err)
		info := amqp.Map{{Key: amqp.Symbol("com.microsoft:tracking-id"), Value: e.TrackingID}, {Key: amqp.Symbol("x-ms-error-code"), Value: string(e.Code)}}
		for _, entry := range retry {
			info = append(info, amqp.Entry{Key: amqp.Symbol(entry.Key.(string)), Value: entry.Value})
		}
		d.Settle(amqp.Rejected{Error: &amqp.Error{Condition: conditionOf(status), Description: string(body), Info: info}})
		return
	}
	answer := amqp.Message{Properties: amqp.Properties{CorrelationID: correlation, ContentType: "application/json"}, Body: amqp.DataBody, Data: [][]byte{body},
		Application: append(amqp.Map{{Key: "iotdps-status", Value: int32(status)}}, retry...)}
	d.Settle(amqp.Accepted{})
	if !c.replies.Answer(r, "", answer.Append(nil)) {
		c.end(c.refuse(signet.Refuse(signet.RequestMalformed, "The device asks, and takes no answers.")))
	}
}

// conditionOf gives the condition for a status. By it, Node's SDK knows whether to ask
// again.
func conditionOf(status int) amqp.Symbol {
	switch {
	case status >= 500:
		return amqp.InternalError
	case status == 429:
		return conditions[signet.LimitRate]
	case status == 404:
		return amqp.NotFound
	case status == 401:
		return amqp.UnauthorizedAccess
	}
	return conditions[signet.RequestMalformed]
}

// questionOf reads a question, and what its answer is to be known by: SDKs write a
// UUID, and C's nothing.
func questionOf(d *amqp.Delivery) (q question, correlation any, err error) {
	if d.TooLarge {
		return q, nil, signet.Refuse(signet.LimitRequestSize, "The request has more than %d bytes.", maxQuestion)
	}
	m, err := amqp.ParseMessage(d.Payload)
	if err != nil {
		return q, nil, malformedMessage(err)
	}
	if text, ok := textOf(m.Properties.CorrelationID); m.Properties.CorrelationID != nil && (!ok || len(text) > maxRequestID) {
		return q, nil, signet.Refuse(signet.RequestMalformed, "The correlation-id of the request is no text of up to %d bytes.", maxRequestID)
	}
	operation, _ := m.Application.Text(operationType)
	q.operation, _ = m.Application.Text(operationID)
	q.registers = operation == registerOperation
	if !q.registers && operation != statusOperation || d.Format != 0 {
		return q, nil, signet.Refuse(signet.RequestMalformed, "The device asks for %q while it registers.", signet.Clip(operation)).
			FixBy("Send %s=%s, or %s=%s with the %s.", operationType, registerOperation, operationType, statusOperation, operationID)
	}
	if q.registers {
		q.body, err = bodyOf(m)
	}
	return q, m.Properties.CorrelationID, err
}
