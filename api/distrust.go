package api

import (
	"encoding/json"
	"net/http"

	"github.com/signet-iot/signet"
)

// maxDistrustChain is how many certificates count of those sent with one to
// distrust: a chain's, so that a search for its issuer ends soon.
const maxDistrustChain = 10

// distrustBody says what to distrust, in one of four ways.
type distrustBody struct {
	// Certificate is PEM: the certificate, then, if need be, its issuer's. Kind says
	// what of it is distrusted: of a CA its key unless told, of any other the
	// certificate.
	Certificate string              `json:"certificate"`
	Kind        signet.DistrustKind `json:"kind"`

	Thumbprint string `json:"thumbprint"` // SHA-256 of the DER
	Key        string `json:"key"`        // SHA-256 of the SubjectPublicKeyInfo
	IssuerKey  string `json:"issuerKey"`  // the same of the issuer, with Serial
	Serial     string `json:"serial"`

	Reason string `json:"reason"`
}

// distrustAnswer is what was asked for and what it did to live sessions.
type distrustAnswer struct {
	Distrust signet.Distrust  `json:"distrust"`
	Receipts []signet.Receipt `json:"receipts"`
}

// GET /signet/distrust gives what the hub distrusts, the latest first.
func (c *call) listDistrusts() error {
	list, err := c.Authority.Distrusts(c.r.Context(), c.hub.Name)
	if err != nil {
		return err
	}
	if list == nil {
		list = []signet.Distrust{}
	}
	return c.answer(http.StatusOK, map[string]any{"distrusts": list})
}

// POST /signet/distrust (distrustBody) distrusts; what is distrusted already is
// answered alike. When it is answered, it is on disk and in force, and the
// sessions that rested on it are over.
func (c *call) postDistrust() error {
	var body distrustBody
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	r, err := body.request(c.by)
	if err != nil {
		return err
	}
	d, err := c.Authority.Distrust(c.r.Context(), c.hub.Name, r.Distrust, r.Chain)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, distrustAnswer{d, c.w.receipts.List()})
}

// DELETE /signet/distrust/{id} lifts a distrust: devices may connect again, as
// far as the rest of the hub's trust lets them.
func (c *call) deleteDistrust() error {
	if err := c.Authority.LiftDistrust(c.r.Context(), c.hub.Name, c.args["distrust"]); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

// receiptHeader says in every answer to a change, whatever its body, what the
// change did to live sessions: a [signet.Receipt] as JSON, without names.
const receiptHeader = "Signet-Receipt"

// tellReceipt writes the header, if anything was changed.
func tellReceipt(h http.Header, receipts *signet.Receipts) {
	total, some := receipts.Total()
	if !some {
		return
	}
	if text, err := json.Marshal(total); err == nil {
		h.Set(receiptHeader, string(text))
	}
}
