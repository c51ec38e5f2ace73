package client

import (
	"context"
	"net/http"
	"time"

	"github.com/signet-iot/signet"
)

// A RouteRequest says what a route shall be.
type RouteRequest struct {
	// Sources are telemetry, lifecycle, twin, connection and other, joined by
	// commas; telemetry when empty.
	Sources      string            `json:"sources,omitempty"`
	DeviceID     string            `json:"deviceId,omitempty"`   // in which * is any run of characters
	Properties   map[string]string `json:"properties,omitempty"` // application properties that a message must have
	URL          string            `json:"url"`
	Secret       string            `json:"secret,omitempty"` // one is made when empty
	AllowPrivate bool              `json:"allowPrivate,omitempty"`
	RetrySeconds int               `json:"retrySeconds,omitempty"`
	From         string            `json:"from,omitempty"` // now when empty, beginning, or a time in RFC 3339
}

// A Route is a route and how it fares.
type Route struct {
	Name         string            `json:"name"`
	Sources      string            `json:"sources"`
	DeviceID     string            `json:"deviceId,omitempty"`
	Properties   map[string]string `json:"properties,omitempty"`
	URL          string            `json:"url"`
	Secret       string            `json:"secret,omitempty"` // of one that has just been made
	AllowPrivate bool              `json:"allowPrivate,omitempty"`
	RetrySeconds int               `json:"retrySeconds"`
	Created      time.Time         `json:"created"`

	Cursor      string              `json:"cursor"` // the position that it is done with; 0.0 before the first
	Waiting     time.Time           `json:"waiting,omitzero"`
	Failures    int                 `json:"failures"` // since the last success
	Fault       string              `json:"fault,omitempty"`
	Next        time.Time           `json:"next,omitzero"`
	DeadLetters int                 `json:"deadLetters"`
	Dead        []signet.DeadLetter `json:"dead,omitempty"`
}

// Routes lists the routes of the hub, by name.
func (c *Client) Routes(ctx context.Context) ([]Route, error) {
	var answer struct {
		Routes []Route `json:"routes"`
	}
	err := c.route(ctx, request{method: http.MethodGet, path: "/signet/routes", out: &answer})
	return answer.Routes, err
}

// Route gives one with its dead letters.
func (c *Client) Route(ctx context.Context, name string) (r Route, err error) {
	return r, c.route(ctx, request{method: http.MethodGet, path: "/signet/routes/" + segment(name), out: &r})
}

// PutRoute makes a route, or changes one, which goes on where it was.
func (c *Client) PutRoute(ctx context.Context, name string, q RouteRequest) (r Route, err error) {
	as := asPolicy
	if q.AllowPrivate {
		as = asAdmin
	}
	return r, c.route(ctx, request{method: http.MethodPut, path: "/signet/routes/" + segment(name), as: as, in: q, out: &r})
}

// DeleteRoute removes a route with its dead letters.
func (c *Client) DeleteRoute(ctx context.Context, name string) error {
	return c.route(ctx, request{method: http.MethodDelete, path: "/signet/routes/" + segment(name)})
}

// ReplayRoute has a dead letter be sent again, or all for "", and says how many.
func (c *Client) ReplayRoute(ctx context.Context, name, id string) (int, error) {
	var answer struct {
		DeadLetters int `json:"deadLetters"`
	}
	err := c.route(ctx, request{method: http.MethodPost, path: "/signet/routes/" + segment(name) + "/replay", in: map[string]string{"id": id}, out: &answer})
	return answer.DeadLetters, err
}

func (c *Client) route(ctx context.Context, r request) (err error) {
	if r.query, err = c.ofHub(ctx); err != nil {
		return err
	}
	return c.do(ctx, r)
}
