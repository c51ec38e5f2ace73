package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"sync"
	"time"
)

// Anchors is a set of trust anchors: certificates, self-signed or not, that are
// trusted because somebody said so. It never changes; a change of trust is a new
// set. Safe for concurrent use.
type Anchors struct {
	bySubject map[string][]*link // by canonical subject
	byDER     map[[sha256.Size]byte]*link
	known     map[[sha256.Size]byte]*link // by DER: what completes a path
	issuers   issuerCache
}

// NewAnchors makes the set of these certificates.
//
// known are certificates that are trusted for nothing. They complete the path of
// who leaves out an intermediate: they are built with as if they had been
// presented, after what was. That is safe because every link of a path is checked
// by its signature, up to an anchor: with a known certificate no path is accepted
// that would not be if the device had sent it, which anyone can.
func NewAnchors(certs []*x509.Certificate, known ...*x509.Certificate) *Anchors {
	a := &Anchors{bySubject: map[string][]*link{}, byDER: map[[sha256.Size]byte]*link{}, known: map[[sha256.Size]byte]*link{}}
	for _, cert := range certs {
		sum := sha256.Sum256(cert.Raw)
		if a.byDER[sum] != nil {
			continue
		}
		anchor := newLink(cert, NotPresented)
		anchor.pool = x509.NewCertPool()
		anchor.pool.AddCert(cert)
		a.byDER[sum] = anchor
		a.bySubject[anchor.subject] = append(a.bySubject[anchor.subject], anchor)
	}
	for _, cert := range known {
		if sum := sha256.Sum256(cert.Raw); a.byDER[sum] == nil && checkNames(cert, NotPresented) == nil && !Loose(cert) {
			a.known[sum] = newLink(cert, NotPresented)
		}
	}
	return a
}

// A link is a certificate as path building sees it.
type link struct {
	*x509.Certificate
	index           int            // place in what was presented, or NotPresented
	subject, issuer string         // canonical
	pool            *x509.CertPool // of an anchor: itself alone
}

func newLink(cert *x509.Certificate, index int) *link {
	return &link{Certificate: cert, index: index, subject: canonicalName(cert.RawSubject), issuer: canonicalName(cert.RawIssuer)}
}

func (l *link) selfIssued() bool { return l.subject == l.issuer }

// sameEntity says whether two certificates are of one CA: the same name and key.
func (l *link) sameEntity(other *link) bool {
	return l.subject == other.subject && bytes.Equal(l.RawSubjectPublicKeyInfo, other.RawSubjectPublicKeyInfo)
}

// Bounds of the cache of verified issuers, together 32 MiB of certificates. A
// factory has a handful of issuers, with 1 to 2 KiB above each.
const (
	maxIssuers     = 4096
	maxIssuerBytes = 8 << 10 // of the DER of an issuer and what is above it
)

// An issuerCache remembers the intermediates that have been verified up to an
// anchor of the set it belongs to, so that of the next device below them only
// its own certificate has to be verified. It holds nothing that a stranger could
// put there: an entry comes of an accepted chain.
type issuerCache struct {
	mu   sync.RWMutex
	byID map[issuerID]*verifiedIssuer
}

type issuerID struct {
	issuer [sha256.Size]byte // of the DER
	usage  Usage
}

// A verifiedIssuer is what has been proven of an issuer. All of it depends on
// its path alone, not on what it signs: paths for which that is not so are not
// remembered.
type verifiedIssuer struct {
	path                []*x509.Certificate // from the issuer up, anchor last
	pool                *x509.CertPool      // of the issuer alone
	notBefore, notAfter time.Time           // in which all of path is valid
	depth               int                 // intermediates that are not self-issued
}

// remember keeps the issuer of an accepted path.
func (a *Anchors) remember(path []*link, usage Usage) {
	if len(path) < 3 {
		return // the issuer is an anchor: there is nothing to save
	}
	v := &verifiedIssuer{pool: x509.NewCertPool(), notAfter: path[1].NotAfter}
	size := 0
	for i, c := range path[1:] {
		if size += len(c.Raw); size > maxIssuerBytes || constrainsBelow(c.Certificate) {
			return
		}
		if c.NotBefore.After(v.notBefore) {
			v.notBefore = c.NotBefore
		}
		if c.NotAfter.Before(v.notAfter) {
			v.notAfter = c.NotAfter
		}
		if i+1 < len(path)-1 {
			if !bytes.Equal(path[i+1].RawIssuer, path[i+2].RawSubject) {
				return // the engine would need help with the names
			}
			if !c.selfIssued() {
				v.depth++
			}
		}
		v.path = append(v.path, c.Certificate)
	}
	v.pool.AddCert(path[1].Certificate)
	id := issuerID{sha256.Sum256(path[1].Raw), usage}
	a.issuers.mu.Lock()
	defer a.issuers.mu.Unlock()
	if a.issuers.byID == nil {
		a.issuers.byID = map[issuerID]*verifiedIssuer{}
	}
	if _, known := a.issuers.byID[id]; !known && len(a.issuers.byID) >= maxIssuers {
		for any := range a.issuers.byID {
			delete(a.issuers.byID, any)
			break
		}
	}
	a.issuers.byID[id] = v
}

// recall answers a request from the cache, or gives nil when the long way has to
// be gone: for any doubt, and for every refusal, which only the long way can
// explain. It takes nothing but a chain that presents exactly the path
// remembered, up to what is known, so that a device which leaves out an
// intermediate is refused whatever others have sent before it.
func (a *Anchors) recall(r *PathRequest, leaf *x509.Certificate) []*x509.Certificate {
	if r.CRLs != nil || constrainsBelow(leaf) {
		return nil
	}
	if len(r.Chain) > 1 {
		return a.recallBelow(sha256.Sum256(r.Chain[1].Raw), r, leaf, r.Chain[2:])
	}
	for sum, issuer := range a.known {
		if bytes.Equal(issuer.RawSubject, leaf.RawIssuer) {
			if path := a.recallBelow(sum, r, leaf, nil); path != nil {
				return path
			}
		}
	}
	return nil
}

// recallBelow does so below one issuer; rest is what was presented besides.
func (a *Anchors) recallBelow(issuer [sha256.Size]byte, r *PathRequest, leaf *x509.Certificate, rest []*x509.Certificate) []*x509.Certificate {
	a.issuers.mu.RLock()
	v := a.issuers.byID[issuerID{issuer, r.Usage}]
	a.issuers.mu.RUnlock()
	switch {
	case v == nil,
		r.Time.Before(v.notBefore), r.Time.After(v.notAfter),
		r.MaxDepth >= 0 && v.depth > r.MaxDepth,
		!bytes.Equal(leaf.RawIssuer, v.path[0].RawSubject):
		return nil
	}
	for i, c := range v.path[1:] {
		switch {
		case len(rest) > 0 && bytes.Equal(rest[0].Raw, c.Raw):
			rest = rest[1:]
		case i < len(v.path)-2 && a.known[sha256.Sum256(c.Raw)] == nil: // an intermediate; sending the anchor is up to the device
			return nil
		}
	}
	if len(rest) > 0 || slices.ContainsFunc(v.path, func(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, leaf.RawSubject) }) {
		return nil
	}
	if leafFault(leaf, r) != nil {
		return nil
	}
	path := append(append(make([]*x509.Certificate, 0, 1+len(v.path)), leaf), v.path...)
	if r.Reject != nil && r.Reject(path) != nil {
		return nil
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: v.pool, Intermediates: noCertificates, CurrentTime: r.Time, KeyUsages: r.Usage.extKeyUsages()})
	if err != nil || len(chains) != 1 || len(chains[0]) != 2 {
		return nil
	}
	return path
}

var noCertificates = x509.NewCertPool()
