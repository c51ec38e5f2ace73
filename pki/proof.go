package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
	"time"

	"github.com/signet-iot/signet"
)

// NewVerificationCode gives 24 random bytes in upper-case hex: 48 characters,
// as Azure's codes have, which fit into a common name.
func NewVerificationCode() string {
	var b [24]byte
	rand.Read(b[:])
	return fmt.Sprintf("%X", b[:])
}

// CheckProof says whether proof shows that its maker holds the key of ca: it
// names ca as its issuer, ca's own key has signed it, and its subject has one
// common name, which is the code. It has to be valid at the time, and so has ca.
//
// The case of the code's hex digits does not count, nor do blanks around it:
// both change on the way through clipboards. What else the proof says (CA:TRUE,
// usages, no extensions at all, the kind of its key) does not matter, since it
// is good for nothing but this.
//
// It refuses with a proof.* code, [signet.CertWeakSignature] or
// [signet.UploadExpired].
func CheckProof(proof, ca *x509.Certificate, code string, at time.Time) error {
	refuse := func(c signet.Code, format string, args ...any) *signet.Error {
		return signet.Refuse(c, format, args...).Of(Reference(proof, NotPresented))
	}
	if bytes.Equal(proof.Raw, ca.Raw) {
		return refuse(signet.ProofWrongSigner, "This is the certificate of the CA itself, not a proof that you hold its key.").
			FixBy("Sign a new certificate with the CA's key, whose CN is the verification code: signet ca prove")
	}

	names := commonNames(proof)
	if code == "" || len(names) != 1 || !strings.EqualFold(strings.TrimSpace(names[0]), code) {
		e := refuse(signet.ProofCodeMismatch, "The common name of the proof is not the verification code that was given out last.")
		if len(names) != 1 {
			e.Message = fmt.Sprintf("The subject of the proof has %d common names; it needs one, the verification code.", len(names))
		}
		return e.At("subject.commonName", code, strings.Join(names, ", "))
	}

	if canonicalName(proof.RawIssuer) != canonicalName(ca.RawSubject) {
		e := refuse(signet.ProofWrongSigner, "The proof is signed by %q, not by the registered CA %s.", signet.Clip(proof.Issuer.String()), subjectText(ca)).
			At("issuer", ca.Subject.String(), proof.Issuer.String())
		switch {
		case selfIssued(proof):
			e.Message = "The proof is self-signed; it has to be signed by the registered CA."
		case !selfIssued(ca) && canonicalName(proof.RawIssuer) == canonicalName(ca.RawIssuer):
			e.Message = fmt.Sprintf("The proof is signed by %q, the issuer of the registered CA, and not by the registered CA %s itself.", signet.Clip(proof.Issuer.String()), subjectText(ca))
		}
		return e
	}
	if !signatureTaken[proof.SignatureAlgorithm] {
		return refuse(signet.CertWeakSignature, "The proof is signed with %s.", proof.SignatureAlgorithm).
			At("signatureAlgorithm", "SHA-256 or better", proof.SignatureAlgorithm.String())
	}
	if err := ca.CheckSignature(proof.SignatureAlgorithm, proof.RawTBSCertificate, proof.Signature); err != nil {
		return refuse(signet.ProofWrongSigner, "The proof names the registered CA as its issuer, but another key has signed it.").
			At("authorityKeyIdentifier", fmt.Sprintf("%x", ca.SubjectKeyId), fmt.Sprintf("%x", proof.AuthorityKeyId)).
			FixBy("Sign the proof with the key that belongs to exactly the registered certificate; a renewed CA of the same name may have another.")
	}

	now := at.UTC().Format(time.RFC3339)
	switch {
	case at.After(proof.NotAfter):
		return refuse(signet.ProofExpired, "The proof expired on %s.", proof.NotAfter.UTC().Format(time.RFC1123)).
			At("notAfter", "after "+now, proof.NotAfter.UTC().Format(time.RFC3339))
	case at.Before(proof.NotBefore):
		return refuse(signet.ProofExpired, "The proof is not valid before %s.", proof.NotBefore.UTC().Format(time.RFC1123)).
			At("notBefore", "before "+now, proof.NotBefore.UTC().Format(time.RFC3339))
	case at.After(ca.NotAfter):
		return signet.Refuse(signet.UploadExpired, "The CA itself expired on %s.", ca.NotAfter.UTC().Format(time.RFC1123)).
			Of(Reference(ca, NotPresented)).At("notAfter", "after "+now, ca.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// commonNames gives every common name of the subject.
func commonNames(c *x509.Certificate) []string { return commonNamesOf(&c.Subject) }

func commonNamesOf(subject *pkix.Name) []string {
	var names []string
	for _, attribute := range subject.Names {
		if attribute.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 3}) {
			names = append(names, fmt.Sprint(attribute.Value))
		}
	}
	return names
}
