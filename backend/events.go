package backend

import (
	"slices"
	"strconv"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/amqp"
)

// partitionID is the one partition that a hub's log is shown as: a log is in one
// order, and one reader of it keeps up with what one hub takes.
const partitionID = "0"

// appendEvent writes a message of the log as Event Hubs gives it to a reader. What
// the hub has stamped is in annotations, so that no device can write it.
func appendEvent(dst []byte, at signet.Position, m *signet.Message, now amqp.Map) []byte {
	event := amqp.Message{DeliveryAnnotations: now, Body: amqp.DataBody, Data: [][]byte{m.Body},
		Annotations: make(amqp.Map, 0, 10)}
	annotate := func(name amqp.Symbol, value any) {
		event.Annotations = append(event.Annotations, amqp.Entry{Key: name, Value: value})
	}
	number := at.Number()
	annotate("x-opt-sequence-number", number)
	annotate("x-opt-offset", strconv.FormatInt(number, 10))
	annotate("x-opt-enqueued-time", m.EnqueuedTime)
	annotate("iothub-enqueuedtime", m.EnqueuedTime)
	annotate("iothub-message-source", m.Source)
	for _, stamp := range [...]struct {
		name  amqp.Symbol
		value string
	}{
		{"iothub-connection-device-id", m.DeviceID},
		{"iothub-connection-module-id", m.ModuleID},
		{"iothub-connection-auth-method", m.AuthMethod},
		{"iothub-connection-auth-generation-id", m.GenerationID},
	} {
		if stamp.value != "" {
			annotate(stamp.name, stamp.value)
		}
	}
	for _, p := range m.System {
		switch {
		case p.Null:
		case p.Name == "message-id":
			event.Properties.MessageID = p.Value
		case p.Name == "correlation-id":
			event.Properties.CorrelationID = p.Value
		case p.Name == "user-id":
			event.Properties.UserID = []byte(p.Value)
		case p.Name == "content-type":
			event.Properties.ContentType = amqp.Symbol(p.Value)
		case p.Name == "content-encoding":
			event.Properties.ContentEncoding = amqp.Symbol(p.Value)
		case event.Annotations.Get(p.Name) == nil:
			annotate(amqp.Symbol(p.Name), p.Value)
		}
	}
	last := lastOfName(m.Properties)
	for i, p := range m.Properties {
		// No two keys of a map are one (AMQP §1.6.23): the last counts, as in JSON.
		if last != nil && last[p.Name] != i ||
			last == nil && slices.ContainsFunc(m.Properties[i+1:], func(later signet.Property) bool { return later.Name == p.Name }) {
			continue
		}
		e := amqp.Entry{Key: p.Name, Value: p.Value}
		if p.Null {
			e.Value = nil
		}
		event.Application = append(event.Application, e)
	}
	return event.Append(dst)
}

// fewProperties are compared with each other. Of more, as a device may send by the ten
// thousand, that would take seconds for each reader.
const fewProperties = 16

// lastOfName gives where the last property of each name is; nil when there are few.
func lastOfName(properties []signet.Property) map[string]int {
	if len(properties) <= fewProperties {
		return nil
	}
	last := make(map[string]int, len(properties))
	for i := range properties {
		last[properties[i].Name] = i
	}
	return last
}

// latestEvery is how old what a reader is told of the end of the log may be.
const latestEvery = time.Second

// latest is what a reader that asks for runtime metrics is told with each event.
func latest(last signet.Position, enqueued, now time.Time) amqp.Map {
	return amqp.Map{
		{Key: amqp.Symbol("last_enqueued_sequence_number"), Value: last.Number()},
		{Key: amqp.Symbol("last_enqueued_offset"), Value: strconv.FormatInt(last.Number(), 10)},
		{Key: amqp.Symbol("last_enqueued_time_utc"), Value: enqueued},
		{Key: amqp.Symbol("runtime_info_retrieval_time_utc"), Value: now},
	}
}
