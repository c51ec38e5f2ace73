package client

import (
	"context"
	"net/http"

	"github.com/signet-iot/signet"
)

// Limits gives what a hub lets itself and its devices do in a second.
func (c *Client) Limits(ctx context.Context, hub string) (l signet.Limits, err error) {
	return l, c.do(ctx, request{method: http.MethodGet, path: "/signet/hubs/" + segment(hub) + "/limits", as: asAdmin, out: &l})
}

// SetLimits sets all limits of a hub.
func (c *Client) SetLimits(ctx context.Context, hub string, want signet.Limits) (l signet.Limits, err error) {
	return l, c.do(ctx, request{method: http.MethodPut, path: "/signet/hubs/" + segment(hub) + "/limits", as: asAdmin, in: want, out: &l})
}
