package client

import (
	"context"
	"net/http"
)

// Registration reads the record of a device.
func (c *Client) Registration(ctx context.Context, id string) (Registration, error) {
	var answer Registration
	err := c.provision(ctx, request{method: http.MethodGet, path: "/registrations" + steps([]string{id}), out: &answer})
	return answer, err
}

// Registrations lists the devices that a group has let in, by ID.
func (c *Client) Registrations(ctx context.Context, group string) ([]Registration, error) {
	return query[Registration](ctx, c, "/registrations"+steps([]string{group, "query"}))
}

// DeleteRegistration removes the record of a device; etag may be empty.
func (c *Client) DeleteRegistration(ctx context.Context, id, etag string) error {
	return c.provision(ctx, request{method: http.MethodDelete, path: "/registrations" + steps([]string{id}), etag: etag})
}
