package backend

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/amqp"
)

const (
	// requestCredit is how many requests of $management may be under way on a link.
	requestCredit = 8
	// maxRequest bounds one, in bytes: a name, and a token of two kilobytes.
	maxRequest = 16 << 10
	// requestTime bounds what one may take.
	requestTime = 10 * time.Second
)

// takeRequests takes a link on which requests for $management come.
func (c *Conn) takeRequests(r *amqp.Receiver) {
	r.Credit, r.MaxSize = requestCredit, maxRequest
	r.Take = func(d *amqp.Delivery) {
		m, err := whole(d)
		if err != nil {
			d.Settle(amqp.Rejected{Error: c.refuse(err)})
			return
		}
		d.Settle(amqp.Accepted{})
		c.replies.Answer(r, m.Properties.ReplyTo, c.answer(m).Append(nil))
	}
}

// whole gives the message of a delivery.
func whole(d *amqp.Delivery) (*amqp.Message, error) {
	if d.TooLarge {
		return nil, signet.Refuse(signet.LimitMessageSize, "The message is larger than this link takes.")
	}
	if d.Format != 0 {
		return nil, signet.Refuse(signet.MessageMalformed, "Batches are not taken here.").FixBy("Send each message alone.")
	}
	m, err := amqp.ParseMessage(d.Payload)
	if err != nil {
		return nil, signet.Refuse(signet.MessageMalformed, "The message cannot be decoded: %s.", err)
	}
	return m, nil
}

// answer answers a request of $management: READ of the event hub, or of its
// partition.
func (c *Conn) answer(request *amqp.Message) *amqp.Message {
	answer := &amqp.Message{Body: amqp.ValueBody}
	answer.Properties.CorrelationID = request.Properties.MessageID
	ctx, cancel := context.WithTimeout(c.ctx, requestTime)
	defer cancel()
	value, err := c.describe(ctx, request.Application)
	status, description := int32(200), "OK"
	if err != nil {
		e := c.refuse(err)
		status, description = statusOf(e.Condition), e.Description
		answer.Application = append(answer.Application, amqp.Entry{Key: "error-condition", Value: e.Condition})
	} else {
		answer.Value = value
	}
	answer.Application = append(answer.Application, amqp.Entry{Key: "status-code", Value: status}, amqp.Entry{Key: "status-description", Value: description})
	return answer
}

// statusOf is the status of HTTP that goes with a condition, by which SDKs find the
// error if they do not know the condition.
func statusOf(condition amqp.Symbol) int32 {
	switch condition {
	case amqp.NotFound:
		return 404
	case amqp.UnauthorizedAccess:
		return 401
	case amqp.NotImplemented:
		return 501
	case amqp.InternalError:
		return 500
	}
	return 400
}

// describe gives what is asked about. Types and names are those that the SDKs insist
// on: an array of strings, ints and longs as they are.
func (c *Conn) describe(ctx context.Context, request amqp.Map) (any, error) {
	tenant, err := c.tenant()
	if err != nil {
		return nil, err
	}
	operation, _ := request.Text("operation")
	if !strings.EqualFold(operation, "READ") {
		return nil, signet.Refuse(signet.RequestMethod, "%q is no operation here.", signet.Clip(operation)).At("operation", "READ", operation)
	}
	name, _ := request.Text("name")
	if path, ok := resourcePath(name, tenant); !ok || path != eventsPath {
		return nil, signet.Refuse(signet.RequestNotFound, "There is no event hub %q here.", signet.Clip(name)).
			At("name", tenant.Name, name).FixBy("Set EntityPath=%s.", tenant.Name)
	}
	kind, _ := request.Text("type")
	switch kind {
	case "com.microsoft:eventhub":
		return amqp.Map{
			{Key: "name", Value: tenant.Name},
			{Key: "type", Value: kind},
			{Key: "created_at", Value: tenant.Created},
			{Key: "partition_count", Value: int32(1)},
			{Key: "partition_ids", Value: []string{partitionID}},
			{Key: "georeplication_factor", Value: int32(1)},
		}, nil
	case "com.microsoft:partition":
		if id, _ := request.Text("partition"); id != partitionID {
			return nil, signet.Refuse(signet.ReaderPartition, "There is no partition %q.", signet.Clip(id)).At("partition", partitionID, id)
		}
		return c.describePartition(ctx, tenant, kind)
	}
	return nil, signet.Refuse(signet.RequestNotFound, "%q is no type here.", signet.Clip(kind)).At("type", "com.microsoft:eventhub, com.microsoft:partition", kind)
}

func (c *Conn) describePartition(ctx context.Context, tenant signet.Hub, kind string) (any, error) {
	first, last, enqueued, err := c.Log.Ends(ctx, tenant.Name)
	if err != nil {
		return nil, err
	}
	empty := last == signet.Position{}
	number, offset := last.Number(), strconv.FormatInt(last.Number(), 10)
	if empty {
		number, offset, enqueued = -1, "-1", time.Unix(0, 0)
	}
	return amqp.Map{
		{Key: "name", Value: tenant.Name},
		{Key: "type", Value: kind},
		{Key: "partition", Value: partitionID},
		{Key: "begin_sequence_number", Value: first.Number()},
		{Key: "last_enqueued_sequence_number", Value: number},
		{Key: "last_enqueued_offset", Value: offset},
		{Key: "last_enqueued_time_utc", Value: enqueued},
		{Key: "is_partition_empty", Value: empty},
	}, nil
}
