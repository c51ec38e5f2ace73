package pki

import (
	"crypto/ecdsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"sync"
	"weak"

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
// by. Paths through the same certificates above the leaf share what is kept of
// them: it must not be changed.
func Path(path []*x509.Certificate) []*signet.PathCertificate {
	kept := make([]*signet.PathCertificate, len(path))
	for i, c := range path {
		issuer := path[min(i+1, len(path)-1)]
		if i == 0 {
			kept[i] = pathCertificate(c, issuer)
			continue
		}
		above := placed{weak.Make(c), weak.Make(issuer)}
		shared, ok := keptOf.Load(above)
		if !ok {
			shared, _ = keptOf.LoadOrStore(above, pathCertificate(c, issuer))
			runtime.AddCleanup(c, func(gone placed) { keptOf.Delete(gone) }, above)
		}
		kept[i] = shared.(*signet.PathCertificate)
	}
	return kept
}

// Sent gives a bit for each certificate of a path, leaf first, that is one of
// those presented. A path has at most ten.
func Sent(path, presented []*x509.Certificate) (sent uint16) {
	for i, c := range path {
		if slices.ContainsFunc(presented, c.Equal) {
			sent |= 1 << i
		}
	}
	return sent
}

func pathCertificate(c, issuer *x509.Certificate) *signet.PathCertificate {
	kept := PathCertificate(c)
	kept.Alias = alias(c, issuer)
	return kept
}

// keptOf has what is kept of issuers, from placed to *signet.PathCertificate, as
// long as they are: those of known paths are few, and every device below them
// would hash them anew and hold 700 bytes of its own.
var keptOf sync.Map

// placed is a certificate in memory and the one that has signed it.
type placed struct {
	certificate, issuer weak.Pointer[x509.Certificate]
}

// alias gives the thumbprint of the certificate with the other form of its ECDSA
// signature: with (r, s), (r, n-s) fits too (SEC 1 §4.1.4). No other signature
// that is taken has a second form, and no other part of a certificate is outside
// of what is signed.
//
// It is done at every connect, so it writes by hand what it hashes: 0.5 µs.
func alias(c, issuer *x509.Certificate) (thumbprint [32]byte) {
	key, ok := issuer.PublicKey.(*ecdsa.PublicKey)
	signature, certificate := cryptobyte.String(c.Signature), cryptobyte.String(c.Raw)
	var r cryptobyte.String
	var s []byte
	if !ok || !signature.ReadASN1(&signature, asn1.SEQUENCE) ||
		!signature.ReadASN1Element(&r, asn1.INTEGER) || !signature.ReadASN1Integer(&s) ||
		!certificate.ReadASN1(&certificate, asn1.SEQUENCE) {
		return
	}
	rest := certificate
	for range 2 { // what is signed, and the algorithm
		if !rest.SkipASN1(asn1.SEQUENCE) {
			return
		}
	}
	upToSignature := certificate[:len(certificate)-len(rest)]

	n := new(big.Int).SetBytes(s)
	s = n.Sub(key.Params().N, n).Bytes()
	zero := 0 // before a number that would be negative without
	if len(s) == 0 || s[0] >= 0x80 {
		zero = 1
	}
	inSequence := len(r) + 2 + zero + len(s) // an integer of P-521 has a length of one octet
	var headers [8]byte
	inBits := 1 + len(derHeader(headers[:0], asn1.SEQUENCE, inSequence)) + inSequence
	der := make([]byte, 0, 192)
	der = derHeader(der, asn1.BIT_STRING, inBits)
	der = append(der, 0)
	der = derHeader(der, asn1.SEQUENCE, inSequence)
	der = append(der, r...)
	der = append(der, byte(asn1.INTEGER), byte(zero+len(s)))
	der = append(append(der, make([]byte, zero)...), s...)

	h := sha256.New()
	h.Write(derHeader(headers[:0], asn1.SEQUENCE, len(upToSignature)+len(der)))
	h.Write(upToSignature)
	h.Write(der)
	h.Sum(thumbprint[:0])
	return thumbprint
}

// derHeader writes tag and length (X.690 §8.1.3).
func derHeader(to []byte, tag asn1.Tag, length int) []byte {
	to = append(to, byte(tag))
	if length < 0x80 {
		return append(to, byte(length))
	}
	octets := 1
	for l := length >> 8; l > 0; l >>= 8 {
		octets++
	}
	to = append(to, 0x80|byte(octets))
	for octets--; octets >= 0; octets-- {
		to = append(to, byte(length>>(8*octets)))
	}
	return to
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
