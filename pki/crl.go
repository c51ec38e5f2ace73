package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"time"

	"github.com/signet-iot/signet"
)

// Extensions of CRLs and their entries (RFC 5280 §5.2, §5.3).
var (
	extDeltaCRL          = asn1.ObjectIdentifier{2, 5, 29, 27}
	extIssuingDistPoint  = asn1.ObjectIdentifier{2, 5, 29, 28}
	extCertificateIssuer = asn1.ObjectIdentifier{2, 5, 29, 29}
	extReasonCode        = asn1.ObjectIdentifier{2, 5, 29, 21}
	extInvalidityDate    = asn1.ObjectIdentifier{2, 5, 29, 24}
)

// revocation holds every certificate under the anchor to the CRLs (RFC 5280
// §6.3, complete CRLs only): each must be covered by a valid one of its issuer,
// and be on none.
//
// A serial number means something only together with who gave it out, so a CRL
// has to be signed by the key that signed the certificate, or by another key of
// the same CA that the path itself vouches for by a self-issued certificate.
func (s *search) revocation(path []*link) *signet.Error {
	for i, c := range path[:len(path)-1] {
		issuer := path[i+1]
		covered, why := false, "there is none of that issuer"
		for _, crl := range s.request.CRLs {
			if crl == nil || canonicalName(crl.RawIssuer) != issuer.subject {
				continue
			}
			fault := ""
			for _, signer := range path[i+1:] {
				if signer.subject != issuer.subject {
					break
				}
				if fault = s.crlFault(crl, signer); fault == "" {
					break
				}
			}
			if fault != "" {
				why = fault
				continue
			}
			for _, entry := range crl.RevokedCertificateEntries {
				if entry.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return signet.Refuse(signet.CertRevoked, "%s was revoked by its issuer at %s.", subjectText(c.Certificate), entry.RevocationTime.UTC().Format(time.RFC3339)).
						At("serialNumber", "not on the CRL of "+issuer.Subject.String(), serial(c.Certificate)).Of(Reference(c.Certificate, c.index))
				}
			}
			covered = true
		}
		if s.exhausted {
			return signet.Refuse(signet.LimitPathWork, "The signatures of the CRLs are too many to check.")
		}
		if !covered {
			return signet.Refuse(signet.CertRevocationUnknown, "No valid CRL of %s says whether %s is revoked: %s.", subjectText(issuer.Certificate), subjectText(c.Certificate), why).
				At("CRL", "a valid one of "+issuer.Subject.String(), why).Of(Reference(c.Certificate, c.index))
		}
	}
	return nil
}

// crlFault says why a CRL does not count; "" when it does.
func (s *search) crlFault(crl *x509.RevocationList, signer *link) string {
	switch {
	case crl.ThisUpdate.After(s.request.Time):
		return "the CRL is not valid yet"
	case !crl.NextUpdate.IsZero() && crl.NextUpdate.Before(s.request.Time):
		return "the CRL is out of date since " + crl.NextUpdate.UTC().Format(time.RFC3339)
	case hasKeyUsage(signer.Certificate) && signer.KeyUsage&x509.KeyUsageCRLSign == 0: // §6.3.3(f)
		return "the key usage of the issuer does not let it sign CRLs"
	case len(crl.AuthorityKeyId) > 0 && len(signer.SubjectKeyId) > 0 && !bytes.Equal(crl.AuthorityKeyId, signer.SubjectKeyId):
		return "the CRL is of another key of the issuer"
	}
	if fault := crlExtensionFault(crl); fault != "" {
		return fault
	}
	for _, entry := range crl.RevokedCertificateEntries {
		for _, e := range entry.Extensions {
			known := e.Id.Equal(extReasonCode) || e.Id.Equal(extInvalidityDate)
			if e.Id.Equal(extCertificateIssuer) || e.Critical && !known { // §5.3
				return "an entry of the CRL has an extension that the hub does not understand, " + e.Id.String()
			}
		}
	}
	if !signatureTaken[crl.SignatureAlgorithm] {
		return "the CRL is signed with " + crl.SignatureAlgorithm.String()
	}
	if !s.spend(true, workOf(signer.PublicKey), 1) || signer.CheckSignature(crl.SignatureAlgorithm, crl.RawTBSRevocationList, crl.Signature) != nil {
		return "the signature of the CRL does not fit the issuer's key"
	}
	return ""
}
