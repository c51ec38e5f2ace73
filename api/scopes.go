package api

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/pki"
)

// scopeBody says whose scope is meant, in one of three ways, and what it bounds.
type scopeBody struct {
	CA          string `json:"ca"`          // a registered CA certificate, by name
	Certificate string `json:"certificate"` // of any CA, PEM
	Key         string `json:"key"`         // SHA-256 of a SubjectPublicKeyInfo

	Devices     []string  `json:"devices"`
	IssuedFrom  time.Time `json:"issuedFrom"`
	IssuedUntil time.Time `json:"issuedUntil"`
	KeyTypes    []string  `json:"keyTypes"`
	MaxDevices  int64     `json:"maxDevices"`
}

func (b *scopeBody) request(by string) (authority.ScopeRequest, error) {
	r := authority.ScopeRequest{Of: authority.ScopeOf{CA: b.CA, Key: b.Key}, Scope: signet.Scope{
		Devices: b.Devices, IssuedFrom: b.IssuedFrom, IssuedUntil: b.IssuedUntil, KeyTypes: b.KeyTypes, MaxDevices: b.MaxDevices, By: by}}
	if b.Certificate != "" {
		chain, err := parseChain([]byte(b.Certificate))
		if err != nil {
			return r, err
		}
		r.Of.Certificate = chain[0]
	}
	return r, nil
}

// scopeAnswer is the scope now in force and what it did to live sessions.
type scopeAnswer struct {
	Scope    signet.Scope     `json:"scope"`
	Receipts []signet.Receipt `json:"receipts"`
}

// GET /signet/scopes gives what the hub lets CAs vouch for, by key, with how many
// devices were seen where they are counted.
func (c *call) listScopes() error {
	list, err := c.Authority.Scopes(c.r.Context(), c.hub.Name)
	if err != nil {
		return err
	}
	if list == nil {
		list = []signet.Scope{}
	}
	return c.answer(http.StatusOK, map[string]any{"scopes": list})
}

// PUT /signet/scopes (scopeBody) sets the scope of a CA, whole. When it is
// answered, it is on disk and in force, and the sessions outside of it are over.
func (c *call) putScope() error {
	var body scopeBody
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	if c.hub.Provisions() && body.MaxDevices > 0 {
		return signet.Refuse(signet.ScopeMalformed, "%q is a provisioning service, and devices are counted where they connect.", c.hub.Name).
			At("maxDevices", "none", fmt.Sprint(body.MaxDevices)).FixBy("Set the number at the hubs that the devices are put to.")
	}
	r, err := body.request(c.by)
	if err != nil {
		return err
	}
	s, err := c.Authority.SetScope(c.r.Context(), c.hub.Name, r.Of, r.Scope)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, scopeAnswer{s, c.w.receipts.List()})
}

// DELETE /signet/scopes/{key} removes the scope of a key, with the count of its
// devices.
func (c *call) deleteScope() error {
	if err := c.Authority.RemoveScope(c.r.Context(), c.hub.Name, c.args["key"]); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

// maxSupposed bounds the body of a hypothesis: a CRL in it may have some 300,000
// entries.
const maxSupposed = 16 << 20

// readSupposed reads a body that may hold CRLs: large ones no more at a time than
// CRLs are taken in.
func (c *call) readSupposed(v any) error {
	if c.r.ContentLength >= 0 && c.r.ContentLength <= maxBody {
		return c.read(maxBody, v)
	}
	select {
	case c.uploads <- struct{}{}:
		defer func() { <-c.uploads }()
	default:
		return signet.Refuse(signet.Unavailable, "The hub is taking in CRLs just now.").FixBy("Try again in a moment.")
	}
	return c.read(maxSupposed, v)
}

// seesDevices refuses, at a provisioning service, what is about devices: none connect
// there.
func (c *call) seesDevices() error {
	if !c.hub.Provisions() {
		return nil
	}
	return signet.Refuse(signet.RequestNotFound, "%q is a provisioning service, and devices are known at hubs.", c.hub.Name)
}

// hypothesisBody is changes of what the hub trusts that are not made. What is
// empty stays as it is.
type hypothesisBody struct {
	// Register would register CA certificates, each in the place of what has its name.
	Register []struct {
		Name        string `json:"name"`
		Certificate string `json:"certificate"` // as the management API takes it
		Verified    bool   `json:"verified"`
	} `json:"register"`
	Without  []string                  `json:"without"`  // registered CA certificates that would be removed, by name
	Verified []string                  `json:"verified"` // registered CA certificates that would be verified
	Distrust []distrustBody            `json:"distrust"`
	Lift     []string                  `json:"lift"`     // IDs of distrusts
	Policies []signet.RevocationPolicy `json:"policies"` // as PUT /signet/revocation/{ca} takes them, with "ca"
	CRLs     [][]byte                  `json:"crls"`     // as POST /signet/crls takes them
	DropCRLs []string                  `json:"dropCrls"` // IDs of CRLs that would be deleted
	Scopes   []scopeBody               `json:"scopes"`
	Unscoped []string                  `json:"unscoped"` // keys whose scope would be removed
}

// empty says whether nothing would be changed.
func (b *hypothesisBody) empty() bool {
	return len(b.Register)+len(b.Policies)+len(b.DropCRLs)+len(b.Without)+len(b.Verified)+len(b.Distrust)+len(b.Lift)+len(b.CRLs)+len(b.Scopes)+len(b.Unscoped) == 0
}

// suppose gives what judges by it.
func (c *call) suppose(b *hypothesisBody) (*authority.Supposition, error) {
	h := authority.Hypothesis{Without: b.Without, Verified: b.Verified, Lift: b.Lift, CRLs: b.CRLs, DropCRLs: b.DropCRLs, Unscoped: b.Unscoped, Policies: b.Policies}
	for _, r := range b.Register {
		h.Register = append(h.Register, authority.CARequest{Name: r.Name, Upload: r.Certificate, Verified: r.Verified})
	}
	for i := range b.Distrust {
		r, err := b.Distrust[i].request(c.by)
		if err != nil {
			return nil, err
		}
		h.Distrust = append(h.Distrust, r)
	}
	for i := range b.Scopes {
		r, err := b.Scopes[i].request(c.by)
		if err != nil {
			return nil, err
		}
		h.Scopes = append(h.Scopes, r)
	}
	return c.Authority.Suppose(c.r.Context(), c.hub.Name, h)
}

func (b *distrustBody) request(by string) (authority.DistrustRequest, error) {
	r := authority.DistrustRequest{Distrust: signet.Distrust{Kind: b.Kind, Thumbprint: b.Thumbprint, Key: b.Key, IssuerKey: b.IssuerKey, Serial: b.Serial,
		Reason: b.Reason, By: by}}
	if b.Certificate == "" {
		return r, nil
	}
	chain, err := parseChain([]byte(b.Certificate))
	r.Chain = chain[:min(len(chain), maxDistrustChain)]
	return r, err
}

// references shows a path, and what of it the device did not send.
func references(path, presented []*x509.Certificate) []*signet.CertificateRef {
	refs := make([]*signet.CertificateRef, len(path))
	sent := pki.Sent(path, presented)
	for n, cert := range path {
		refs[n] = pki.Reference(cert, n)
		refs[n].Completed = n < len(path)-1 && sent&(1<<n) == 0
	}
	return refs
}
