package backend

import (
	"context"
	"encoding/hex"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/amqp"
)

const (
	// commandCredit is how many messages to devices may be under way on a link; they
	// are put on disk one after the other.
	commandCredit = 16
	// maxCommandFrame bounds one with its envelope: 64 KiB, and properties that count
	// less than 8.
	maxCommandFrame = 128 << 10
	// sendTime bounds what one may take.
	sendTime = 10 * time.Second
	// feedbackPause is how long after it has come feedback may wait for a link.
	feedbackPause = time.Second
)

// takeCommands takes a link on which messages to devices come. They are taken in the
// order in which they were sent, by one goroutine that is there while they are.
func (c *Conn) takeCommands(r *amqp.Receiver) {
	r.Credit, r.MaxSize = commandCredit, maxCommandFrame
	waiting := make(chan *amqp.Delivery, commandCredit) // as many as there is credit for: nobody waits
	over := make(chan struct{})
	r.Take = func(d *amqp.Delivery) { waiting <- d }
	r.Detached = func(*amqp.Error) { close(over) }
	go func() {
		for {
			select {
			case d := <-waiting:
				c.settle(d)
			case <-over: // of what has come before, nothing is lost
				for len(waiting) > 0 {
					c.settle(<-waiting)
				}
				return
			}
		}
	}()
}

func (c *Conn) settle(d *amqp.Delivery) {
	if err := c.send(d); err != nil {
		d.Settle(amqp.Rejected{Error: c.refuse(err)})
		return
	}
	d.Settle(amqp.Accepted{})
}

// send puts a message into the queue of the device that it names.
func (c *Conn) send(d *amqp.Delivery) error {
	m, err := whole(d)
	if err != nil {
		return err
	}
	tenant, err := c.tenant()
	if err != nil {
		return err
	}
	device, module, err := recipient(m.Properties.To)
	if err != nil {
		return err
	}
	command, err := readCommand(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), sendTime)
	defer cancel()
	i, err := c.Registry.Get(ctx, tenant.Name, device, module)
	if err != nil {
		return err
	}
	command.CommandQueue = signet.CommandQueue{Hub: i.Hub, DeviceID: i.DeviceID, ModuleID: i.ModuleID, GenerationID: i.GenerationID}
	_, err = c.Commands.Send(ctx, command)
	return err
}

// recipient reads the address of a message: /devices/{id}/messages/devicebound, or
// …/modules/{id}/messages/devicebound, IDs percent-encoded, perhaps as an URL.
func recipient(to string) (device, module string, err error) {
	path := to
	if _, rest, isURL := strings.Cut(to, "://"); isURL {
		_, path, _ = strings.Cut(rest, "/")
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i := range parts {
		var bad error
		if parts[i], bad = url.PathUnescape(parts[i]); bad != nil {
			parts = nil
			break
		}
	}
	n := len(parts)
	if n != 4 && n != 6 || !strings.EqualFold(parts[0], "devices") ||
		!strings.EqualFold(parts[n-2], "messages") || !strings.EqualFold(parts[n-1], "devicebound") || n == 6 && !strings.EqualFold(parts[2], "modules") {
		return "", "", signet.Refuse(signet.MessageMalformed, "The message is to %q, which is no device.", signet.Clip(to)).
			At("to", "/devices/{id}/messages/devicebound", to)
	}
	if n == 6 {
		module = parts[3]
	}
	return parts[1], module, nil
}

// readCommand reads what a message says besides to whom it goes.
func readCommand(m *amqp.Message) (c signet.Command, err error) {
	if c.Body, err = bodyOf(m); err != nil {
		return c, err
	}
	if c.MessageID, err = idText("message-id", m.Properties.MessageID); err != nil {
		return c, err
	}
	correlation, err := idText("correlation-id", m.Properties.CorrelationID)
	if err != nil {
		return c, err
	}
	c.ExpiryTime = m.Properties.AbsoluteExpiryTime
	for _, p := range [...]signet.Property{
		{Name: "correlation-id", Value: correlation}, {Name: "user-id", Value: string(m.Properties.UserID)},
		{Name: "content-type", Value: string(m.Properties.ContentType)}, {Name: "content-encoding", Value: string(m.Properties.ContentEncoding)},
	} {
		if p.Value != "" {
			c.System = append(c.System, p)
		}
	}
	for _, e := range m.Application {
		name, ok := e.Key.(string)
		value, simple := propertyText(e.Value)
		switch {
		case !ok || !simple:
			return c, signet.Refuse(signet.MessageMalformed, "The property %q of the message is no text.", signet.Clip(name)).
				At(signet.Clip(name), "text, a number or a boolean", "another type")
		case name == "iothub-ack":
			c.Ack = signet.Ack(strings.ToLower(value))
		default:
			c.Properties = append(c.Properties, signet.Property{Name: name, Value: value})
		}
	}
	return c, nil
}

// bodyOf gives the bytes of a message: its data, or the text or binary that is its
// value.
func bodyOf(m *amqp.Message) ([]byte, error) {
	switch m.Body {
	case amqp.NoBody:
		return nil, nil
	case amqp.DataBody:
		if len(m.Data) == 1 {
			return m.Data[0], nil
		}
		var all []byte
		for _, part := range m.Data {
			all = append(all, part...)
		}
		return all, nil
	case amqp.ValueBody:
		switch v := m.Value.(type) {
		case nil:
			return nil, nil
		case string:
			return []byte(v), nil
		case []byte:
			return v, nil
		}
	}
	return nil, signet.Refuse(signet.MessageMalformed, "The body of the message is neither binary nor text.").
		At("body", "data sections, or a value that is binary or a string", "another type")
}

// idText gives a message or correlation ID as text, which may be of four types.
func idText(field string, id any) (string, error) {
	switch v := id.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case uint64:
		return strconv.FormatUint(v, 10), nil
	case amqp.UUID:
		h := hex.EncodeToString(v[:])
		return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], nil
	case []byte:
		if utf8.Valid(v) {
			return string(v), nil
		}
	}
	return "", signet.Refuse(signet.MessageMalformed, "The %s of the message is no text.", field).At(field, "a string, a UUID or a number", "another type")
}

// propertyText gives an application property as text, as devices read it.
func propertyText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case amqp.Symbol:
		return string(v), true
	case bool:
		return strconv.FormatBool(v), true
	case int8:
		return strconv.FormatInt(int64(v), 10), true
	case int16:
		return strconv.FormatInt(int64(v), 10), true
	case int32:
		return strconv.FormatInt(int64(v), 10), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case uint8:
		return strconv.FormatUint(uint64(v), 10), true
	case uint16:
		return strconv.FormatUint(uint64(v), 10), true
	case uint32:
		return strconv.FormatUint(uint64(v), 10), true
	case uint64:
		return strconv.FormatUint(v, 10), true
	case float32:
		return strconv.FormatFloat(float64(v), 'g', -1, 32), true
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), true
	case time.Time:
		return signet.AzureTime(v), true
	}
	return "", false
}

// feedbackType is the content type of a batch of feedback.
const feedbackType amqp.Symbol = "application/vnd.microsoft.iothub.feedback.json"

// giveFeedback takes a link on which feedback is received: batch after batch, as
// the client gives credit, each locked until the client settles it.
func (c *Conn) giveFeedback(s *amqp.Sender) {
	ctx, over := context.WithCancel(c.ctx)
	s.Detached = func(*amqp.Error) { over() }
	go func() {
		defer over()
		c.end(s, c.runFeedback(ctx, s))
	}()
}

// runFeedback gives out feedback until there is no link any more, and gives what
// went wrong if it was something else.
func (c *Conn) runFeedback(ctx context.Context, s *amqp.Sender) error {
	for s.Wait(ctx) == nil {
		given, err := c.sendFeedback(ctx, s)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case given:
			continue
		}
		rest := time.NewTimer(feedbackPause)
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
		}
	}
	return nil
}

// sendFeedback gives out one batch, if there is one.
func (c *Conn) sendFeedback(ctx context.Context, s *amqp.Sender) (given bool, err error) {
	tenant, err := c.tenant()
	if err != nil {
		return false, err
	}
	records, token, err := c.Commands.Feedback(ctx, tenant.Name)
	if err != nil || len(records) == 0 {
		return false, err
	}
	body, err := signet.FeedbackJSON(records)
	if err != nil {
		return false, err
	}
	m := amqp.Message{Body: amqp.DataBody, Data: [][]byte{body}, Annotations: amqp.Map{
		{Key: amqp.Symbol("iothub-enqueuedtime"), Value: records[len(records)-1].Time},
		{Key: amqp.Symbol("x-opt-lock-token"), Value: token},
	}}
	m.Properties.MessageID, m.Properties.UserID, m.Properties.ContentType = token, []byte(tenant.Name), feedbackType
	if !s.Send(amqp.Outgoing{Payload: m.Append(nil), Done: func(state amqp.State) amqp.State { return c.settleFeedback(tenant.Name, token, state) }}) {
		return false, c.Commands.AbandonFeedback(tenant.Name, token)
	}
	if s.SenderMode() == amqp.SenderSettled { // nobody will say that it was read
		c.settleFeedback(tenant.Name, token, amqp.Accepted{})
	}
	return true, nil
}

// settleFeedback does with a batch what the client says. What is rejected has been
// read as well: it is not given out again.
func (c *Conn) settleFeedback(hub, token string, state amqp.State) amqp.State {
	var err error
	switch state.(type) {
	case amqp.Accepted, amqp.Rejected:
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), sendTime)
		defer cancel()
		err = c.Commands.CompleteFeedback(ctx, hub, token)
	default: // released, modified, or the link has gone
		err = c.Commands.AbandonFeedback(hub, token)
	}
	if state == nil || err == nil {
		return amqp.Accepted{}
	}
	return amqp.Rejected{Error: c.refuse(err)}
}
