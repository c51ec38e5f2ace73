package client

import (
	"context"
	"net/http"
)

// Events say what a hub tells on its message log besides telemetry.
type Events struct {
	LifeCycle  *bool `json:"lifeCycle,omitempty"` // identities that are made and deleted
	Twin       *bool `json:"twin,omitempty"`
	Connection *bool `json:"connection,omitempty"`
}

// Events says what the hub tells; no member is nil.
func (c *Client) Events(ctx context.Context) (Events, error) {
	return c.events(ctx, request{method: http.MethodGet})
}

// SetEvents changes what the hub tells; what is nil stays.
func (c *Client) SetEvents(ctx context.Context, e Events) (Events, error) {
	return c.events(ctx, request{method: http.MethodPatch, in: e})
}

func (c *Client) events(ctx context.Context, r request) (e Events, err error) {
	if r.query, err = c.ofHub(ctx); err != nil {
		return e, err
	}
	r.path, r.out = "/signet/events", &e
	return e, c.do(ctx, r)
}
