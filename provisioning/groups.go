package provisioning

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// groups are the enrollment groups of a service as devices are looked up in them:
// immutable once made.
type groups struct {
	cas     string // the registered CAs that they were made with
	signers map[[32]byte]*group
	keyed   []signet.Enrollment // those of symmetric keys, by ID
	known   []*x509.Certificate // verified CAs and signers: what may be above an anchor
	// blind is a group that shuts out by a CA certificate which is registered no
	// more: whom it means cannot be told. nil when there is none.
	blind *signet.Enrollment
}

// A group is one that has signers.
type group struct {
	enrollment  signet.Enrollment
	certificate *x509.Certificate // of this signer
	unverified  string            // its name, when it is registered and not verified
}

// groupCache holds the groups of each service until one of them has changed.
type groupCache struct {
	mu      sync.Mutex // held while nothing is asked
	of      map[string]*groups
	changes uint64 // a set that was read before a change is not kept after it
}

func (p *Provisioning) enrollmentChanged(service string, group bool) {
	if !group {
		return
	}
	p.groups.mu.Lock()
	defer p.groups.mu.Unlock()
	p.groups.changes++
	delete(p.groups.of, service)
}

// groupsOf gives the groups of a service as they are now. Registered CAs may have
// changed without our being told, so they are asked for each time; there are few.
func (p *Provisioning) groupsOf(ctx context.Context, service string) (*groups, error) {
	p.groups.mu.Lock()
	g, changes := p.groups.of[service], p.groups.changes
	p.groups.mu.Unlock()
	cas, err := p.deps.Authority.List(ctx, service)
	if err != nil {
		return nil, err
	}
	var version strings.Builder
	for _, ca := range cas {
		version.WriteString(ca.Name + "\n" + ca.ETag + "\n")
	}
	if g != nil && g.cas == version.String() {
		return g, nil
	}
	all, err := p.allGroups(ctx, service)
	if err != nil {
		return nil, err
	}
	if g, err = newGroups(all, cas); err != nil {
		return nil, err
	}
	g.cas = version.String()
	p.groups.mu.Lock()
	defer p.groups.mu.Unlock()
	if p.groups.changes == changes {
		p.groups.of[service] = g
	}
	return g, nil
}

// allGroups reads the groups of a service, by ID.
func (p *Provisioning) allGroups(ctx context.Context, service string) (all []signet.Enrollment, err error) {
	const page = 100
	for after := ""; ; {
		some, err := p.deps.Enrollments.Enrollments(ctx, service, true, after, page)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if len(some) < page {
			return all, nil
		}
		after = signet.FoldRegistrationID(some[len(some)-1].ID)
	}
}

func newGroups(all []signet.Enrollment, cas []signet.CACertificate) (*groups, error) {
	g := &groups{signers: map[[32]byte]*group{}}
	registered := map[string]*group{} // by name
	for _, ca := range cas {
		c, err := x509.ParseCertificate(ca.DER)
		if err != nil {
			return nil, fmt.Errorf("stored CA certificate %s of %s: %w", ca.Name, ca.Hub, err)
		}
		named := &group{certificate: c}
		if ca.Verified {
			g.known = append(g.known, c)
		} else {
			named.unverified = ca.Name
		}
		registered[strings.ToLower(ca.Name)] = named
	}
	for _, e := range all {
		switch e.Attestation.Type {
		case signet.AttestSymmetricKey:
			g.keyed = append(g.keyed, e)
		case signet.AttestX509:
			for _, name := range present(e.Attestation.PrimaryCA, e.Attestation.SecondaryCA) {
				if ca := registered[strings.ToLower(name)]; ca != nil {
					g.add(group{e, ca.certificate, ca.unverified})
				} else if e.Status != signet.Enabled {
					g.blind = &e
				}
			}
			for _, der := range certificates(&e.Attestation) {
				c, err := x509.ParseCertificate(der)
				if err != nil {
					return nil, fmt.Errorf("stored signer of the enrollment group %s of %s: %w", e.ID, e.Service, err)
				}
				g.add(group{e, c, ""})
				g.known = append(g.known, c)
			}
		}
	}
	return g, nil
}

// add adds a signer. That two groups have its key is refused when they are made;
// it can come about when a registered CA is replaced: then a group that shuts out
// is heard, else the first by its ID.
func (g *groups) add(one group) {
	key := pki.PathCertificate(one.certificate).Key
	if other := g.signers[key]; other == nil || other.enrollment.Status == signet.Enabled && one.enrollment.Status != signet.Enabled {
		g.signers[key] = &one
	}
}

// refusal is that of a device whose nearest group this is; nil when it is let in.
func (g *group) refusal() error {
	switch {
	case g.enrollment.Status != signet.Enabled:
		return disabled(&g.enrollment)
	case g.unverified != "":
		return signet.Refuse(signet.AnchorUnverified, "The enrollment group %q has devices known by the CA certificate %q, which is not verified.", g.enrollment.ID, g.unverified).
			At("isVerified", "true", "false")
	}
	return nil
}

// signedBy gives the first group from whose keys the one derives that has signed
// the token of a device; nil when there is none.
func (g *groups) signedBy(id string, t *signet.SASToken) *signet.Enrollment {
	for i := range g.keyed {
		if primary, secondary := derived(&g.keyed[i].Attestation, id); t.SignedBy(primary, secondary) {
			return &g.keyed[i]
		}
	}
	return nil
}

// issuer finds, among what the service knows, the certificate whose key has signed
// another, valid at that time.
func (g *groups) issuer(of *x509.Certificate, at time.Time) *x509.Certificate {
	for _, c := range g.known {
		if bytes.Equal(c.RawSubject, of.RawIssuer) && !bytes.Equal(c.RawSubjectPublicKeyInfo, of.RawSubjectPublicKeyInfo) &&
			!at.Before(c.NotBefore) && !at.After(c.NotAfter) &&
			c.CheckSignature(of.SignatureAlgorithm, of.RawTBSCertificate, of.Signature) == nil {
			return c
		}
	}
	return nil
}
