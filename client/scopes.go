package client

import (
	"context"
	"net/http"
	"time"

	"github.com/signet-iot/signet"
)

// ScopeRequest says whose scope is meant, in one of three ways, and what it
// bounds: see [signet.Scope].
type ScopeRequest struct {
	CA          string `json:"ca,omitempty"`          // a registered CA certificate, by name
	Certificate string `json:"certificate,omitempty"` // of any CA, PEM
	Key         string `json:"key,omitempty"`         // SHA-256 of a SubjectPublicKeyInfo

	Devices     []string  `json:"devices,omitempty"`
	IssuedFrom  time.Time `json:"issuedFrom,omitzero"`
	IssuedUntil time.Time `json:"issuedUntil,omitzero"`
	KeyTypes    []string  `json:"keyTypes,omitempty"`
	MaxDevices  int64     `json:"maxDevices,omitempty"`
}

// SetScope sets the scope of a CA, whole, and says what that did to live sessions:
// those outside of it are over when it returns.
func (c *Client) SetScope(ctx context.Context, r ScopeRequest) (signet.Scope, []signet.Receipt, error) {
	var answer struct {
		Scope    signet.Scope     `json:"scope"`
		Receipts []signet.Receipt `json:"receipts"`
	}
	query, err := c.ofHub(ctx)
	if err == nil {
		err = c.do(ctx, request{method: http.MethodPut, path: "/signet/scopes", query: query, in: r, out: &answer})
	}
	return answer.Scope, answer.Receipts, err
}

// Scopes lists what the hub lets CAs vouch for, by key.
func (c *Client) Scopes(ctx context.Context) ([]signet.Scope, error) {
	var answer struct {
		Scopes []signet.Scope `json:"scopes"`
	}
	query, err := c.ofHub(ctx)
	if err == nil {
		err = c.do(ctx, request{method: http.MethodGet, path: "/signet/scopes", query: query, out: &answer})
	}
	return answer.Scopes, err
}

// RemoveScope removes the scope of a key, with the count of its devices.
func (c *Client) RemoveScope(ctx context.Context, key string) error {
	query, err := c.ofHub(ctx)
	if err != nil {
		return err
	}
	return c.do(ctx, request{method: http.MethodDelete, path: "/signet/scopes/" + segment(key), query: query})
}
