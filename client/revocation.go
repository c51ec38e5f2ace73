package client

import (
	"context"
	"net/http"

	"github.com/signet-iot/signet"
)

// revocation asks for something of the hub's revocation.
func (c *Client) revocation(ctx context.Context, r request) error {
	query, err := c.ofHub(ctx)
	if err != nil {
		return err
	}
	r.query = query
	return c.do(ctx, r)
}

// RevocationPolicy gives how the hub asks after certificates below a CA.
func (c *Client) RevocationPolicy(ctx context.Context, ca string) (p signet.RevocationPolicy, err error) {
	err = c.revocation(ctx, request{method: http.MethodGet, path: "/signet/revocation/" + segment(ca), out: &p})
	return p, err
}

// SetRevocationPolicy sets how the hub asks after certificates below p.CA, and
// says what that did to live sessions. To allow private addresses takes the admin
// token, which is then used if there is one.
func (c *Client) SetRevocationPolicy(ctx context.Context, p signet.RevocationPolicy) (signet.RevocationPolicy, []signet.Receipt, error) {
	var answer struct {
		signet.RevocationPolicy
		Receipts []signet.Receipt `json:"receipts"`
	}
	r := request{method: http.MethodPut, path: "/signet/revocation/" + segment(p.CA), in: p, out: &answer}
	var err error
	if p.AllowPrivate && c.token != "" {
		var name string
		if name, err = c.HubName(ctx); err != nil {
			return p, nil, err
		}
		r.as, r.query = asAdmin, map[string][]string{"hub": {name}}
		err = c.do(ctx, r)
	} else {
		err = c.revocation(ctx, r)
	}
	return answer.RevocationPolicy, answer.Receipts, err
}

// RevocationState is the CRLs in force at a hub, and where they come from and
// responders are asked.
type RevocationState struct {
	CRLs    []signet.CRL              `json:"crls"`
	Sources []signet.RevocationSource `json:"sources"`
}

// CRLs gives the CRLs in force, and the sources.
func (c *Client) CRLs(ctx context.Context) (s RevocationState, err error) {
	err = c.revocation(ctx, request{method: http.MethodGet, path: "/signet/crls", out: &s})
	return s, err
}

// FetchCRLs has the hub fetch its CRLs now, and gives what CRLs gives.
func (c *Client) FetchCRLs(ctx context.Context) (s RevocationState, err error) {
	err = c.revocation(ctx, request{method: http.MethodPost, path: "/signet/crls/fetch", out: &s})
	return s, err
}

// AddCRL uploads a CRL, DER or PEM, with certificates of issuers beside it that
// the hub does not know, and says what it did to live sessions: those of what it
// lists are over when it returns.
func (c *Client) AddCRL(ctx context.Context, upload []byte) (signet.CRL, []signet.Receipt, error) {
	var answer struct {
		CRL      signet.CRL       `json:"crl"`
		Receipts []signet.Receipt `json:"receipts"`
	}
	err := c.revocation(ctx, request{method: http.MethodPost, path: "/signet/crls", body: upload, out: &answer})
	return answer.CRL, answer.Receipts, err
}

// DeleteCRL has the CRL of that ID count no longer.
func (c *Client) DeleteCRL(ctx context.Context, id string) error {
	return c.revocation(ctx, request{method: http.MethodDelete, path: "/signet/crls/" + segment(id)})
}
