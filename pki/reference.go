package pki

import (
	"crypto/ecdsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	"strings"

	"github.com/signet-iot/signet"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
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

// Path keeps of a certification path, leaf first, what revocation has to find it
// by.
func Path(path []*x509.Certificate) []*signet.PathCertificate {
	kept := make([]*signet.PathCertificate, len(path))
	for i, c := range path {
		kept[i] = PathCertificate(c)
		kept[i].Alias = alias(c, path[min(i+1, len(path)-1)])
	}
	return kept
}

// alias gives the thumbprint of the certificate with the other form of its ECDSA
// signature: with (r, s), (r, n-s) fits too (SEC 1 §4.1.4). No other signature
// that is taken has a second form, and no other part of a certificate is outside
// of what is signed.
func alias(c, issuer *x509.Certificate) (thumbprint [32]byte) {
	key, ok := issuer.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return
	}
	r, s := new(big.Int), new(big.Int)
	signature := cryptobyte.String(c.Signature)
	if !signature.ReadASN1(&signature, asn1.SEQUENCE) || !signature.ReadASN1Integer(r) || !signature.ReadASN1Integer(s) {
		return
	}
	var algorithm cryptobyte.String
	der := cryptobyte.String(c.Raw)
	if !der.ReadASN1(&der, asn1.SEQUENCE) || !der.SkipASN1(asn1.SEQUENCE) || !der.ReadASN1Element(&algorithm, asn1.SEQUENCE) {
		return
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(c.Raw)+4))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(c.RawTBSCertificate)
		b.AddBytes(algorithm)
		b.AddASN1(asn1.BIT_STRING, func(b *cryptobyte.Builder) {
			b.AddUint8(0)
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1BigInt(r)
				b.AddASN1BigInt(s.Sub(key.Params().N, s))
			})
		})
	})
	if made, err := b.Bytes(); err == nil {
		thumbprint = sha256.Sum256(made)
	}
	return thumbprint
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
	if c.SerialNumber == nil {
		return ""
	}
	return serialText(c.SerialNumber)
}

// ParseSerial reads a serial number as people have it, from openssl or from a
// verdict: hex, in either case, with or without 0x, colons and leading zeros. It
// gives the text that a [signet.PathCertificate] has.
func ParseSerial(text string) (serial string, ok bool) {
	const most = 3 * 64 // 64 octets with colons
	if len(text) > most {
		return "", false
	}
	digits, negative := strings.CutPrefix(strings.ToLower(strings.ReplaceAll(text, ":", "")), "-")
	digits = strings.TrimPrefix(digits, "0x")
	if len(digits)%2 == 1 {
		digits = "0" + digits
	}
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) == 0 {
		return "", false
	}
	n := new(big.Int).SetBytes(b)
	if negative {
		n.Neg(n)
	}
	return serialText(n), true
}

func serialText(n *big.Int) string {
	const most = 64 // octets; RFC 5280 §4.1.2.2 allows 20
	b := n.Bytes()
	text := hex.EncodeToString(b)
	switch {
	case len(b) == 0:
		text = "00"
	case len(b) > most:
		// Cut in the middle of nowhere two serials could become one; their hash
		// cannot.
		text = "sha256:" + ThumbprintSHA256(b)
	}
	if n.Sign() < 0 {
		text = "-" + text
	}
	return text
}
