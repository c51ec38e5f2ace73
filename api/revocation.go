package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// maxCRLUploads is how many CRLs are taken in at a time, each of up to 86 MiB.
const maxCRLUploads = 2

// GET /signet/revocation/{ca} gives the policy by which the hub asks after
// certificates below a CA, a [signet.RevocationPolicy].
func (c *call) getRevocation() error {
	p, err := c.Authority.RevocationPolicy(c.r.Context(), c.hub.Name, c.args["ca"])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, p)
}

// revocationAnswer is the policy now in force and what it did to live sessions.
type revocationAnswer struct {
	signet.RevocationPolicy
	Receipts []signet.Receipt `json:"receipts"`
}

// PUT /signet/revocation/{ca} {"policy":"soft"…} sets that policy, whole.
//
// To send the server to private addresses takes its admin: a hub's owner need not
// be at home in the network that the server stands in.
func (c *call) putRevocation() error {
	var p signet.RevocationPolicy
	if err := c.read(maxBody, &p); err != nil {
		return err
	}
	if p.AllowPrivate && c.showsSAS() {
		return signet.Refuse(signet.TokenRights, "Only the admin may have the server go to private addresses.").
			FixBy("Set the policy with the admin token, or without private addresses.")
	}
	p.Hub, p.CA = c.hub.Name, c.args["ca"]
	p, err := c.Authority.SetRevocationPolicy(c.r.Context(), p)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, revocationAnswer{p, c.w.receipts.List()})
}

// GET /signet/crls gives the CRLs in force, and the places that CRLs are fetched
// from and responders asked at.
func (c *call) listCRLs() error {
	return c.answer(http.StatusOK, map[string]any{"crls": c.Authority.CRLs(c.hub.Name), "sources": c.Authority.RevocationSources(c.hub.Name)})
}

// crlAnswer is a CRL that is now in force and what it did to live sessions.
type crlAnswer struct {
	CRL      signet.CRL       `json:"crl"`
	Receipts []signet.Receipt `json:"receipts"`
}

// POST /signet/crls takes a CRL: the body is its DER, or PEM with the certificates
// of its issuers beside it if the hub does not know them. When it is answered, the
// CRL is on disk and in force, and the sessions of what it lists are over.
func (c *call) postCRL() error {
	select {
	case c.uploads <- struct{}{}:
		defer func() { <-c.uploads }()
	default:
		return signet.Refuse(signet.Unavailable, "The hub is taking in other CRLs just now.").FixBy("Try again in a moment.")
	}
	upload, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, pki.MaxCRLUpload))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return signet.Refuse(signet.LimitRequestSize, "The body is larger than %d bytes, the most that a CRL may have.", tooLarge.Limit)
	}
	if err != nil {
		return signet.Refuse(signet.RequestMalformed, "The body ends before it should.")
	}
	if err := c.still(); err != nil {
		return err
	}
	l, err := c.Authority.AddCRL(c.r.Context(), c.hub.Name, upload)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, crlAnswer{l, c.w.receipts.List()})
}

// POST /signet/crls/fetch fetches the CRLs now, from as many sources as half a
// minute lets it, and gives what GET gives.
func (c *call) fetchCRLs() error {
	// A fetch takes up to half a minute, and a request has one.
	ctx, cancel := context.WithTimeout(c.r.Context(), 25*time.Second)
	defer cancel()
	if err := c.Authority.FetchCRLs(ctx, c.hub.Name); err != nil && c.r.Context().Err() != nil {
		return err
	}
	return c.listCRLs()
}

// DELETE /signet/crls/{id} has a CRL count no longer.
func (c *call) deleteCRL() error {
	if err := c.Authority.DeleteCRL(c.r.Context(), c.hub.Name, c.args["crl"]); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}
