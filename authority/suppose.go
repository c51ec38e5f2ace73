package authority

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// A Hypothesis is changes of what a hub trusts that nobody has made.
type Hypothesis struct {
	Register []CARequest               // as for Register, each in the place of what has its name
	Without  []string                  // registered CA certificates that are removed, by name
	Verified []string                  // registered CA certificates that are verified
	Distrust []DistrustRequest         // as for Distrust
	Lift     []string                  // IDs of distrusts, as for LiftDistrust
	Policies []signet.RevocationPolicy // as for SetRevocationPolicy, of the CAs that they name
	CRLs     [][]byte                  // uploads, as for AddCRL
	DropCRLs []string                  // IDs of CRLs, as for DeleteCRL
	Scopes   []ScopeRequest            // as for SetScope
	Unscoped []string                  // keys, as for RemoveScope
}

// maxChanges bounds the changes of a hypothesis, each of which may look through what the
// others have left.
const maxChanges = 1000

func (h *Hypothesis) changes() int {
	return len(h.Register) + len(h.Without) + len(h.Verified) + len(h.Distrust) + len(h.Lift) + len(h.Policies) + len(h.CRLs) + len(h.DropCRLs) +
		len(h.Scopes) + len(h.Unscoped)
}

// A CARequest is what Register takes.
type CARequest struct {
	Name     string
	Upload   string
	Verified bool
}

// A DistrustRequest is what Distrust takes.
type DistrustRequest struct {
	signet.Distrust
	Chain []*x509.Certificate
}

// A ScopeRequest is what SetScope takes.
type ScopeRequest struct {
	Of ScopeOf
	signet.Scope
}

// A Supposition judges as the Authority would if a hypothesis were true. It is what
// was stored when it was made: later changes are not seen, apart from places taken
// and from what responders say. It teaches the Authority nothing: no source is gone
// to for it, no place is taken. Safe for concurrent use.
type Supposition struct {
	a     *Authority
	hub   string
	trust *trust
	crls  crlSet
	begun map[string]cutoff // scopes that begin to count devices by it, by key
}

// A cutoff is the last device that gets in under a scope that begins to count.
type cutoff struct {
	fewer  bool // all that are seen get in, and one more
	device string
	first  time.Time
}

// Suppose makes a supposition about a hub; without any change in it, it judges as
// the Authority does. It refuses as the change itself would be, with
// [signet.CertificateUnknown], [signet.DistrustUnknown], [signet.ScopeUnknown] and
// what Distrust, AddCRL and SetScope refuse with; and more than a thousand changes with
// [signet.LimitRequestSize].
func (a *Authority) Suppose(ctx context.Context, hub string, h Hypothesis) (*Supposition, error) {
	if n := h.changes(); n > maxChanges {
		return nil, signet.Refuse(signet.LimitRequestSize, "%d changes are more than the %d that can be supposed at once.", n, maxChanges)
	}
	k, err := a.read(ctx, hub)
	if err != nil {
		return nil, err
	}
	s := &Supposition{a: a, hub: hub, crls: a.revocation.of(hub), begun: map[string]cutoff{}}
	for _, r := range h.Register {
		if err := a.supposeCA(&k, hub, r); err != nil {
			return nil, err
		}
	}
	for _, name := range h.Without {
		at := slices.IndexFunc(k.cas, func(c signet.CACertificate) bool { return sameName(c.Name, name) })
		if at < 0 {
			return nil, unknown(name)
		}
		k.cas = slices.Delete(slices.Clone(k.cas), at, at+1)
	}
	for _, name := range h.Verified {
		at := slices.IndexFunc(k.cas, func(c signet.CACertificate) bool { return sameName(c.Name, name) })
		if at < 0 {
			return nil, unknown(name)
		}
		k.cas = slices.Clone(k.cas)
		k.cas[at].Verified = true
	}
	for _, r := range h.Distrust {
		d, err := a.distrust(ctx, hub, r.Distrust, r.Chain)
		if err != nil {
			return nil, err
		}
		k.distrusts = append(slices.Clip(k.distrusts), d)
	}
	for _, id := range h.Lift {
		at := slices.IndexFunc(k.distrusts, func(d signet.Distrust) bool { return d.ID == id })
		if at < 0 {
			return nil, distrustUnknown(id)
		}
		k.distrusts = slices.Delete(slices.Clone(k.distrusts), at, at+1)
	}
	for _, r := range h.Scopes {
		if err := s.scope(ctx, &k, r); err != nil {
			return nil, err
		}
	}
	for _, key := range h.Unscoped {
		if findScope(k.scopes, key) == nil {
			return nil, scopeUnknown(key)
		}
		k.scopes = slices.DeleteFunc(slices.Clone(k.scopes), func(s signet.Scope) bool { return s.Key == key })
	}
	for _, p := range h.Policies {
		at := slices.IndexFunc(k.cas, func(c signet.CACertificate) bool { return sameName(c.Name, p.CA) })
		if at < 0 {
			return nil, unknown(p.CA)
		}
		p.Hub, p.CA = hub, k.cas[at].Name
		if err := checkPolicy(&p); err != nil {
			return nil, err
		}
		k.policies = append(slices.DeleteFunc(slices.Clone(k.policies), func(q signet.RevocationPolicy) bool { return sameName(q.CA, p.CA) }), p)
	}
	for _, id := range h.DropCRLs {
		if s.crls.find(id) == nil {
			return nil, signet.Refuse(signet.CRLUnknown, "The hub keeps no CRL under the ID %q.", signet.Clip(id))
		}
		s.crls = s.crls.without(id)
	}
	for _, upload := range h.CRLs {
		der, issuers, err := pki.ParseCRLUpload(upload)
		if err != nil {
			return nil, err
		}
		l, err := a.revocation.judge(hub, s.crls, der, issuers)
		if err != nil {
			return nil, err
		}
		s.crls = s.crls.with(l)
	}
	s.trust, err = newTrust(k)
	return s, err
}

// supposeCA registers a CA certificate, or replaces the one of its name.
func (a *Authority) supposeCA(k *kept, hub string, r CARequest) error {
	cert, err := pki.ParseUpload(r.Upload)
	if err != nil {
		return err
	}
	if err := pki.CheckCA(cert, a.now()); err != nil {
		return err
	}
	c := signet.CACertificate{Hub: hub, Name: r.Name, DER: cert.Raw, Verified: r.Verified}
	at := slices.IndexFunc(k.cas, func(c signet.CACertificate) bool { return sameName(c.Name, r.Name) })
	k.cas = slices.Clone(k.cas)
	if at < 0 {
		k.cas = append(k.cas, c)
		return nil
	}
	// What has been proven stays proven.
	c.Verified = c.Verified || k.cas[at].Verified && string(k.cas[at].DER) == string(c.DER)
	k.cas[at] = c
	return nil
}

// scope puts a scope in the place of what bounded the key before.
func (s *Supposition) scope(ctx context.Context, k *kept, r ScopeRequest) error {
	c := r.Scope
	c.Hub, c.Updated = s.hub, s.a.stamp()
	if err := s.a.describeScope(ctx, r.Of, &c); err != nil {
		return err
	}
	old := findScope(k.scopes, c.Key)
	if c.MaxDevices > 0 && (old == nil || old.MaxDevices == 0) {
		device, first, err := s.a.store.SeenUnder(ctx, s.hub, c.Key, c.MaxDevices)
		if err != nil && !errors.Is(err, signet.ErrNotFound) {
			return err
		}
		s.begun[c.Key] = cutoff{fewer: err != nil, device: device, first: first}
	}
	k.scopes = append(slices.DeleteFunc(slices.Clone(k.scopes), func(s signet.Scope) bool { return s.Key == c.Key }), c)
	return nil
}

// Judge is [Authority.Judge], by the supposition.
func (s *Supposition) Judge(_ string, chain []*x509.Certificate, at time.Time) ([]*x509.Certificate, error) {
	path, _, err := s.a.judge(s.hub, s.trust, s.crls, chain, at)
	return path, err
}

// Trusts is [Authority.Trusts], by the supposition.
func (s *Supposition) Trusts(_ string, thumbprint [32]byte) bool {
	return s.trust.thumbprints[thumbprint]
}

// Revocation gives the policy by which what is below a registered CA is asked after, by
// the supposition: not only its own counts.
func (s *Supposition) Revocation(c signet.CACertificate) (signet.RevocationPolicy, error) {
	cert, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return signet.RevocationPolicy{}, fmt.Errorf("stored CA certificate %s of hub %s: %w", c.Name, c.Hub, err)
	}
	if p, _, _ := s.trust.asked([]*signet.PathCertificate{pki.PathCertificate(cert)}, nil); p != nil {
		return *p, nil
	}
	return signet.RevocationPolicy{Hub: s.hub, CA: c.Name, Mode: signet.RevocationOff}, nil
}

// Revoked is [Authority.Revoked], by the supposition.
func (s *Supposition) Revoked(_ string, path []*signet.PathCertificate) error {
	return s.a.revoked(s.hub, s.trust, s.crls, path)
}

// InScope is [Authority.InScope], by the supposition.
func (s *Supposition) InScope(ctx context.Context, p *signet.Principal) error {
	return s.trust.inScope(ctx, p, func(ctx context.Context, c *signet.Scope) (int64, error) {
		last, begins := s.begun[c.Key]
		if !begins {
			return s.a.nextPlace(ctx, c, p.DeviceID)
		}
		if last.fewer {
			return 1, nil
		}
		first, err := s.a.store.FirstSeenUnder(ctx, s.hub, c.Key, p.DeviceID)
		switch {
		case errors.Is(err, signet.ErrNotFound):
			return c.MaxDevices + 1, nil
		case err != nil:
			return 0, err
		case first.Before(last.first) || first.Equal(last.first) && p.DeviceID <= last.device:
			return 1, nil
		}
		return c.MaxDevices + 1, nil
	})
}
