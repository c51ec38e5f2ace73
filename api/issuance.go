package api

import (
	"net/http"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/issuance"
)

// issuer lets in the admin, for all provisioning services, and at one of them who
// holds a key of a policy with EnrollmentRead.
func issuer(c *call) error {
	if c.showsSAS() {
		return enroller(signet.EnrollmentRead)(c)
	}
	return c.checkBearer(", or a SAS token of a provisioning service with the right " + signet.EnrollmentRead.String())
}

// issuedTo lets in who may read the devices of a hub, and who may read the
// enrollments of a provisioning service; the admin names either by ?hub=.
func issuedTo(c *call) error {
	if !c.showsSAS() {
		return operator(signet.RegistryRead)(c)
	}
	err := policy(signet.RegistryRead)(c)
	if code := signet.CodeOf(err); code != signet.TokenSignature && code != signet.HubUnknown {
		return err
	}
	if e := enroller(signet.EnrollmentRead)(c); signet.CodeOf(e) != signet.HubUnknown {
		return e
	}
	return err
}

// issuancePolicyJSON is a [signet.IssuancePolicy] with its times. Of files and keys
// nothing is told.
type issuancePolicyJSON struct {
	signet.IssuancePolicy
	ValiditySeconds     int64 `json:"validitySeconds"`
	RenewExpiredSeconds int64 `json:"renewExpiredSeconds"`
}

// GET /signet/issuance/policies gives the issuance policies in force.
func (c *call) listIssuancePolicies() error {
	list := []issuancePolicyJSON{}
	for _, p := range c.Issuance.List(c.hub.Name) {
		list = append(list, issuancePolicyJSON{p, int64(p.Validity / time.Second), int64(p.RenewExpired / time.Second)})
	}
	return c.answer(http.StatusOK, map[string]any{"policies": list})
}

// GET /signet/issued?device=ID&since=TIME&limit=N gives the certificates that were
// issued, the latest first, as [signet.Issued]: 100 unless told, 1000 at most. Of a
// hub, to its devices; of a provisioning service, by it.
func (c *call) listIssued() error {
	q := c.r.URL.Query()
	limit, err := c.number("limit", 100, 1000)
	if err != nil {
		return err
	}
	query := issuance.Query{DeviceID: q.Get("device"), Limit: limit}
	if text := q.Get("since"); text != "" {
		if query.Since, err = time.Parse(time.RFC3339, text); err != nil {
			return signet.Refuse(signet.RequestMalformed, "%q is not a time.", signet.Clip(text)).At("since", "a time as in 2026-01-31T12:00:00Z", text)
		}
	}
	if c.hub.Provisions() {
		query.Service = c.hub.Name
	} else {
		query.Hub = c.hub.Name
	}
	// What was issued for an earlier hub of the name is nothing of this one's.
	if query.Since.Before(c.hub.Created) {
		query.Since = c.hub.Created
	}
	list, err := c.Issuance.Issued(c.r.Context(), query)
	if err != nil {
		return err
	}
	if list == nil {
		list = []signet.Issued{}
	}
	return c.answer(http.StatusOK, map[string]any{"issued": list})
}
