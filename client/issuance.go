package client

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/signet-iot/signet"
)

// An IssuancePolicy is one that is in force at the server.
type IssuancePolicy struct {
	signet.IssuancePolicy
	ValiditySeconds     int64 `json:"validitySeconds"`
	RenewExpiredSeconds int64 `json:"renewExpiredSeconds"`
}

// IssuancePolicies lists the issuance policies: all of the server's for the admin
// token, else those of the provisioning service that the connection string is of.
func (c *Client) IssuancePolicies(ctx context.Context) ([]IssuancePolicy, error) {
	var answer struct {
		Policies []IssuancePolicy `json:"policies"`
	}
	err := c.do(ctx, request{method: http.MethodGet, path: "/signet/issuance/policies", as: asAdmin, out: &answer})
	return answer.Policies, err
}

// An IssuedQuery selects certificates that were issued.
type IssuedQuery struct {
	DeviceID string    // of any device when empty
	Since    time.Time // issued then or later
	Limit    int       // the latest so many; 0 is the server's choice
}

// Issued lists the certificates that were issued to devices of the hub, or by the
// provisioning service, that the connection string is of, the latest first.
func (c *Client) Issued(ctx context.Context, q IssuedQuery) ([]signet.Issued, error) {
	query, err := c.ofHub(ctx)
	if err != nil {
		return nil, err
	}
	if q.DeviceID != "" {
		query.Set("device", q.DeviceID)
	}
	if !q.Since.IsZero() {
		query.Set("since", q.Since.UTC().Format(time.RFC3339))
	}
	if q.Limit > 0 {
		query.Set("limit", strconv.Itoa(q.Limit))
	}
	var answer struct {
		Issued []signet.Issued `json:"issued"`
	}
	err = c.do(ctx, request{method: http.MethodGet, path: "/signet/issued", query: query, out: &answer})
	return answer.Issued, err
}
