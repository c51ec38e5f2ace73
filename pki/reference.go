package pki

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"strings"

	"github.com/signet-iot/signet"
)

// NotPresented is the index of a certificate that no chain presented: an anchor,
// or one that stands alone.
const NotPresented = -1

// Reference describes a certificate for people and machines. index is its place
// in what was presented, 0 for the leaf, or [NotPresented].
func Reference(c *x509.Certificate, index int) *signet.CertificateRef {
	return &signet.CertificateRef{
		Index:      index,
		Subject:    signet.Clip(c.Subject.String()),
		Issuer:     signet.Clip(c.Issuer.String()),
		Serial:     serial(c),
		Thumbprint: ThumbprintSHA256(c.Raw),
		NotBefore:  c.NotBefore,
		NotAfter:   c.NotAfter,
	}
}

// PathCertificate keeps of a certificate what revocation has to find it by.
func PathCertificate(c *x509.Certificate) *signet.PathCertificate {
	return &signet.PathCertificate{
		Thumbprint: sha256.Sum256(c.Raw),
		Key:        sha256.Sum256(c.RawSubjectPublicKeyInfo),
		Serial:     serial(c),
		Subject:    signet.Clip(c.Subject.String()),
		NotAfter:   c.NotAfter,
	}
}

// ThumbprintSHA1 gives the SHA-1 of the DER as 40 upper-case hex digits, as
// Azure's management API and device identities write it. It names a certificate;
// nothing is proven by it.
func ThumbprintSHA1(der []byte) string {
	sum := sha1.Sum(der)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// ThumbprintSHA256 gives the SHA-256 of the DER as 64 lower-case hex digits.
func ThumbprintSHA256(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// serial writes a serial number in hex, as many digits as it has octets. Its
// sign stays, so that no two certificates of a CA share one text.
func serial(c *x509.Certificate) string {
	const most = 64 // octets; RFC 5280 §4.1.2.2 allows 20
	if c.SerialNumber == nil {
		return ""
	}
	b := c.SerialNumber.Bytes()
	text := hex.EncodeToString(b)
	switch {
	case len(b) == 0:
		text = "00"
	case len(b) > most:
		// Cut in the middle of nowhere two serials could become one; their hash
		// cannot.
		text = "sha256:" + ThumbprintSHA256(b)
	}
	if c.SerialNumber.Sign() < 0 {
		text = "-" + text
	}
	return text
}
