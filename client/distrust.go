package client

import (
	"context"
	"net/http"

	"github.com/signet-iot/signet"
)

// DistrustRequest says what to distrust, in one of four ways.
type DistrustRequest struct {
	// Certificate is PEM: the certificate, then, if need be, its issuer's. Kind says
	// what of it is distrusted: of a CA its key when empty, of any other the
	// certificate.
	Certificate string              `json:"certificate,omitempty"`
	Kind        signet.DistrustKind `json:"kind,omitempty"`

	Thumbprint string `json:"thumbprint,omitempty"` // SHA-256 of the DER, in hex
	Key        string `json:"key,omitempty"`        // SHA-256 of the SubjectPublicKeyInfo
	IssuerKey  string `json:"issuerKey,omitempty"`  // the same of the issuer, with Serial
	Serial     string `json:"serial,omitempty"`

	Reason string `json:"reason,omitempty"`
}

// Distrust has a certificate or a key count no longer, and says what that did to
// live sessions: they are over when it returns. To distrust the same again is no
// error.
func (c *Client) Distrust(ctx context.Context, d DistrustRequest) (signet.Distrust, []signet.Receipt, error) {
	var answer struct {
		Distrust signet.Distrust  `json:"distrust"`
		Receipts []signet.Receipt `json:"receipts"`
	}
	query, err := c.ofHub(ctx)
	if err == nil {
		err = c.do(ctx, request{method: http.MethodPost, path: "/signet/distrust", query: query, in: d, out: &answer})
	}
	return answer.Distrust, answer.Receipts, err
}

// Distrusts lists what the hub distrusts, the latest first.
func (c *Client) Distrusts(ctx context.Context) ([]signet.Distrust, error) {
	var answer struct {
		Distrusts []signet.Distrust `json:"distrusts"`
	}
	query, err := c.ofHub(ctx)
	if err == nil {
		err = c.do(ctx, request{method: http.MethodGet, path: "/signet/distrust", query: query, out: &answer})
	}
	return answer.Distrusts, err
}

// LiftDistrust has what was distrusted under that ID count again.
func (c *Client) LiftDistrust(ctx context.Context, id string) error {
	query, err := c.ofHub(ctx)
	if err != nil {
		return err
	}
	return c.do(ctx, request{method: http.MethodDelete, path: "/signet/distrust/" + segment(id), query: query})
}
