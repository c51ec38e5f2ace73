package api

import (
	"net/http"

	"github.com/signet-iot/signet"
)

// eventsJSON says what a hub tells on its message log; of a change, what is left
// out stays.
type eventsJSON struct {
	LifeCycle  *bool `json:"lifeCycle"`
	Twin       *bool `json:"twin"`
	Connection *bool `json:"connection"`
}

func (j *eventsJSON) members() map[signet.EventSources]**bool {
	return map[signet.EventSources]**bool{
		signet.LifeCycleEvents: &j.LifeCycle, signet.TwinEvents: &j.Twin, signet.ConnectionEvents: &j.Connection,
	}
}

func (c *call) answerEvents(h signet.Hub) error {
	var j eventsJSON
	for source, member := range j.members() {
		on := h.Events.Has(source)
		*member = &on
	}
	return c.answer(http.StatusOK, j)
}

// GET /signet/events says which events the hub tells.
func (c *call) getEvents() error { return c.answerEvents(c.hub) }

// PATCH /signet/events {"lifeCycle":true,"twin":false,…} changes it. It counts for
// every change that begins after the answer.
func (c *call) patchEvents() error {
	var body eventsJSON
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	events := c.hub.Events
	for source, member := range body.members() {
		if *member == nil {
			continue
		}
		events &^= source
		if **member {
			events |= source
		}
	}
	h, err := c.Registry.SetEvents(c.r.Context(), c.hub.Name, events)
	if err != nil {
		return err
	}
	return c.answerEvents(h)
}
