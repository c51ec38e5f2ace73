package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"

	"github.com/signet-iot/signet"
)

// Extensions of RFC 5280 §4.2.1.
var (
	extSubjectAltName    = asn1.ObjectIdentifier{2, 5, 29, 17}
	extNameConstraints   = asn1.ObjectIdentifier{2, 5, 29, 30}
	extPolicyMappings    = asn1.ObjectIdentifier{2, 5, 29, 33}
	extPolicyConstraints = asn1.ObjectIdentifier{2, 5, 29, 36}
	extExtKeyUsage       = asn1.ObjectIdentifier{2, 5, 29, 37}
	extInhibitAnyPolicy  = asn1.ObjectIdentifier{2, 5, 29, 54}
)

// attributeEmailAddress is where certificates of old have an address
// (RFC 5280 §4.1.2.6).
var attributeEmailAddress = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}

// extension gives the value of an extension, nil when it is not there.
func extension(c *x509.Certificate, id asn1.ObjectIdentifier) []byte {
	for i := range c.Extensions {
		if c.Extensions[i].Id.Equal(id) {
			return c.Extensions[i].Value
		}
	}
	return nil
}

// constrainsBelow says whether what a certificate may mean hangs on what stands
// below or above it on a path, beyond what is counted and intersected.
func constrainsBelow(c *x509.Certificate) bool {
	for i := range c.Extensions {
		id := c.Extensions[i].Id
		if id.Equal(extNameConstraints) || id.Equal(extPolicyConstraints) || id.Equal(extPolicyMappings) || id.Equal(extInhibitAnyPolicy) {
			return true
		}
	}
	return false
}

// engine has crypto/x509 verify exactly this path: signatures, validity, names,
// constraints and policies (with any policy as the initial set).
func (s *search) engine(path []*link) *signet.Error {
	err := s.verify(path)
	if err == nil {
		return nil
	}
	if broken := s.unproven(path); broken >= 0 {
		return badSignature(path, broken)
	}
	invalid, _ := errors.AsType[x509.CertificateInvalidError](err)
	leaf := path[0]
	switch {
	case invalid.Cert != nil && invalid.Reason == x509.CANotAuthorizedForThisName:
		at := s.constrained(path)
		return signet.Refuse(signet.CertNameConstraints, "A name in %s is outside what a CA above it may name: %s.", subjectText(at.Certificate), signet.Clip(invalid.Detail)).
			At("nameConstraints", "only names that every CA above permits", invalid.Detail).Of(Reference(at.Certificate, at.index))
	case invalid.Cert != nil && invalid.Reason == x509.NoValidChains:
		return signet.Refuse(signet.CertPolicy, "A CA on the path requires a certificate policy, and none is valid for the whole path.").
			At("certificatePolicies", "a policy that holds on the whole path", "none").Of(Reference(leaf.Certificate, leaf.index))
	}
	// The rules above the engine name every other reason before it is asked.
	return signet.Refuse(signet.ChainUntrusted, "The path is not acceptable: %s.", signet.Clip(err.Error())).Of(Reference(leaf.Certificate, leaf.index))
}

// constrained finds the certificate whose names are refused: the highest that
// the engine would not take as a leaf.
func (s *search) constrained(path []*link) *link {
	for i := len(path) - 2; i > 0; i-- {
		if work, signatures := engineWork(path[i:]); !s.spend(true, work, signatures) {
			break
		}
		if invalid, _ := errors.AsType[x509.CertificateInvalidError](s.verify(path[i:])); invalid.Reason == x509.CANotAuthorizedForThisName {
			return path[i]
		}
	}
	return path[0]
}

func (s *search) verify(path []*link) error {
	certs := forEngine(path)
	anchor := path[len(path)-1]
	roots, intermediates := anchor.pool, noCertificates
	if last := certs[len(certs)-1]; last != anchor.Certificate {
		roots = x509.NewCertPool()
		roots.AddCert(last)
	}
	if len(certs) > 2 {
		intermediates = x509.NewCertPool()
		for _, c := range certs[1 : len(certs)-1] {
			intermediates.AddCert(c)
		}
	}
	chains, err := certs[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates,
		CurrentTime: s.request.Time, KeyUsages: s.request.Usage.extKeyUsages(),
	})
	if err != nil {
		return err
	}
	// What the rules have seen is this path, not another that can be made of the
	// same certificates.
	same := func(a, b *x509.Certificate) bool { return bytes.Equal(a.Raw, b.Raw) }
	for _, chain := range chains {
		if slices.EqualFunc(chain, certs, same) {
			return nil
		}
	}
	return errors.New("the engine takes another path")
}

// forEngine gives the certificates of a path as the engine has to see them.
//
// RFC 5280 is wider than crypto/x509 at four points. At each, the engine gets a
// copy of the certificate with one parsed field changed, and the rules of this
// package judge that point themselves. What is signed (RawTBSCertificate), and
// so what the signature says, stays.
func forEngine(path []*link) []*x509.Certificate {
	certs := certificatesOf(path)
	change := func(i int) *x509.Certificate {
		if certs[i] == path[i].Certificate {
			copied := *path[i].Certificate
			certs[i] = &copied
		}
		return certs[i]
	}
	constrained := slices.ContainsFunc(path[1:], func(c *link) bool { return extension(c.Certificate, extNameConstraints) != nil })
	selfIssuedBelow := 0
	for i, c := range path {
		// §7.1: names are compared without regard to case, blanks and string type;
		// the engine compares bytes.
		if i+1 < len(path) && !bytes.Equal(c.RawIssuer, path[i+1].RawSubject) {
			change(i).RawIssuer = path[i+1].RawSubject
		}
		// §6.1.4(l): a self-issued intermediate does not count towards the path
		// length; the engine counts it.
		if selfIssuedBelow > 0 && c.BasicConstraintsValid && c.MaxPathLen >= 0 {
			change(i).MaxPathLen += selfIssuedBelow
		}
		if 0 < i && i < len(path)-1 && c.selfIssued() {
			selfIssuedBelow++
			// §6.1.3(b): name constraints do not bind a self-issued intermediate;
			// the engine binds it.
			if extension(c.Certificate, extSubjectAltName) != nil {
				bare := change(i)
				bare.DNSNames, bare.EmailAddresses, bare.IPAddresses, bare.URIs = nil, nil, nil, nil
				bare.Extensions = slices.Clone(bare.Extensions)
				for e := range bare.Extensions {
					if bare.Extensions[e].Id.Equal(extSubjectAltName) {
						bare.Extensions = slices.Delete(bare.Extensions, e, e+1)
						break
					}
				}
			}
		}
		// §4.2.1.10: "example.com" constrains e-mail addresses and URIs to that very
		// host; the engine takes it for the hosts below as well. And it refuses a URI
		// without a host also where nothing constrains URIs.
		if constrained && len(c.EmailAddresses)+len(c.URIs) > 0 {
			bare := change(i)
			bare.EmailAddresses, bare.URIs = nil, nil
		}
	}
	return certs
}
