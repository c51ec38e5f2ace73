package api

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/signet-iot/signet"
)

// commandJSON is a cloud-to-device message as POST /signet/commands takes it.
type commandJSON struct {
	DeviceID        string            `json:"deviceId"`
	ModuleID        string            `json:"moduleId"`
	Body            []byte            `json:"body"` // base64
	Properties      map[string]string `json:"properties"`
	MessageID       string            `json:"messageId"` // one is made when empty
	CorrelationID   string            `json:"correlationId"`
	UserID          string            `json:"userId"`
	ContentType     string            `json:"contentType"`
	ContentEncoding string            `json:"contentEncoding"`
	Ack             signet.Ack        `json:"ack"`           // none when empty
	ExpiryTimeUTC   time.Time         `json:"expiryTimeUtc"` // in an hour when empty
}

// sentJSON is its answer: the message is on disk, in the device's queue.
type sentJSON struct {
	MessageID       string    `json:"messageId"`
	SequenceNumber  int64     `json:"sequenceNumber"`
	EnqueuedTimeUTC time.Time `json:"enqueuedTimeUtc"`
	ExpiryTimeUTC   time.Time `json:"expiryTimeUtc"`
}

// POST /signet/commands sends a message to a device, connected or not. Azure has no
// REST for it: its service SDKs send by AMQP alone.
func (c *call) sendCommand() error {
	var body commandJSON
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	queue, err := c.commandQueue(body.DeviceID, body.ModuleID)
	if err != nil {
		return err
	}
	command := signet.Command{CommandQueue: queue, MessageID: body.MessageID, Ack: body.Ack, ExpiryTime: body.ExpiryTimeUTC, Body: body.Body}
	for _, p := range [...]signet.Property{
		{Name: "correlation-id", Value: body.CorrelationID}, {Name: "user-id", Value: body.UserID},
		{Name: "content-type", Value: body.ContentType}, {Name: "content-encoding", Value: body.ContentEncoding},
	} {
		if p.Value != "" {
			command.System = append(command.System, p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(body.Properties)) {
		command.Properties = append(command.Properties, signet.Property{Name: name, Value: body.Properties[name]})
	}
	command, err = c.Commands.Send(c.r.Context(), command)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, sentJSON{command.MessageID, command.Sequence, command.EnqueuedTime, command.ExpiryTime})
}

// commandQueue is that of an identity as it is now.
func (c *call) commandQueue(device, module string) (signet.CommandQueue, error) {
	i, err := c.Registry.Get(c.r.Context(), c.hub.Name, device, module)
	return signet.CommandQueue{Hub: i.Hub, DeviceID: i.DeviceID, ModuleID: i.ModuleID, GenerationID: i.GenerationID}, err
}

// DELETE /devices/{id}/commands empties the queue of a device.
func (c *call) purgeCommands() error {
	queue, err := c.commandQueue(c.args["device"], "")
	if err != nil {
		return err
	}
	n, err := c.Commands.Purge(c.r.Context(), queue)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, struct {
		DeviceID            string  `json:"deviceId"`
		ModuleID            *string `json:"moduleId"`
		TotalMessagesPurged int     `json:"totalMessagesPurged"`
	}{queue.DeviceID, nil, n})
}

// GET /messages/serviceBound/feedback gives out the oldest feedback of the hub, at
// most 100 records in one batch: an array, locked for a minute by the token in the
// ETag; 204 when there is none.
func (c *call) receiveFeedback() error {
	records, token, err := c.Commands.Feedback(c.r.Context(), c.hub.Name)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return c.done(http.StatusNoContent)
	}
	list, err := signet.FeedbackJSON(records)
	if err != nil {
		return err
	}
	c.w.Header()["ETag"] = []string{`"` + token + `"`}
	return c.answer(http.StatusOK, list)
}

// DELETE /messages/serviceBound/feedback/{token} completes a batch: it is read.
func (c *call) completeFeedback() error {
	if err := c.Commands.CompleteFeedback(c.r.Context(), c.hub.Name, c.args["token"]); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

// POST /messages/serviceBound/feedback/{token}/abandon gives a batch back.
func (c *call) abandonFeedback() error {
	if err := c.Commands.AbandonFeedback(c.hub.Name, c.args["token"]); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}
