package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/signet-iot/signet"
	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxCSR bounds a certificate signing request: one with an RSA key of 8192 bits
// has 3 KiB.
const maxCSR = 64 << 10

// ParseCSR reads a certificate signing request (RFC 2986), PEM or DER, of at
// most 64 KiB, and checks that whoever made it holds the key in it. Of its
// wishes only the key counts, and the common name where the caller gives no
// other: what a certificate says is the issuer's decision.
//
// It refuses with [signet.CSRMalformed] or, for a key that no hub would take,
// [signet.CertWeakKey].
func ParseCSR(file []byte) (*x509.CertificateRequest, error) {
	if len(file) > maxCSR {
		return nil, signet.Refuse(signet.CSRMalformed, "The file is larger than a certificate signing request can be.").
			At("size", "at most 64 KiB", "more")
	}
	der := file
	if strings.Contains(string(file), "-----BEGIN") {
		der = nil
		for block, rest := pem.Decode(file); block != nil && der == nil; block, rest = pem.Decode(rest) {
			if strings.HasSuffix(block.Type, "CERTIFICATE REQUEST") { // or NEW CERTIFICATE REQUEST, of old
				der = block.Bytes
			}
		}
		if der == nil {
			return nil, signet.Refuse(signet.CSRMalformed, "The file is no certificate signing request; it seems to be %s.", describe(file))
		}
	}
	return parseCSR(der)
}

func parseCSR(der []byte) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, signet.Refuse(signet.CSRMalformed, "This is no certificate signing request that can be read.")
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if csr.CheckSignature() != nil {
		return nil, signet.Refuse(signet.CSRMalformed, "The signature of the certificate signing request does not fit the key in it, so that nothing shows who holds that key.")
	}
	return csr, nil
}

// MaxDeviceCSR bounds, in bytes of DER, what a device may send to be signed: one
// with an RSA key of 8192 bits has 3 KiB.
const MaxDeviceCSR = 6 << 10

// DeviceCSR reads a certificate signing request that a device has sent, in DER,
// for a certificate of its own. Its subject's one common name has to be one of
// names, byte for byte. It may not ask for the powers of a CA; whatever else it
// asks for is passed over.
//
// It refuses with [signet.CSRMalformed], [signet.CertWeakKey],
// [signet.CSRName] and [signet.CSRForbidden].
func DeviceCSR(der []byte, names ...string) (*x509.CertificateRequest, error) {
	if len(der) > MaxDeviceCSR {
		return nil, signet.Refuse(signet.CSRMalformed, "The certificate signing request has %d bytes; at most %d are taken.", len(der), MaxDeviceCSR).
			At("size", fmt.Sprintf("at most %d bytes", MaxDeviceCSR), fmt.Sprint(len(der)))
	}
	csr, err := parseCSR(der)
	if err != nil {
		return nil, err
	}
	if rsa, ok := csr.PublicKey.(*rsa.PublicKey); ok && rsa.N.BitLen() < minIssuedRSABits {
		return nil, signet.Refuse(signet.CertWeakKey, "The key of the certificate signing request is RSA of %d bits.", rsa.N.BitLen()).
			At("subjectPublicKeyInfo", takenKeys, fmt.Sprintf("RSA of %d bits", rsa.N.BitLen()))
	}
	if !signatureTaken[csr.SignatureAlgorithm] {
		return nil, signet.Refuse(signet.CSRMalformed, "The certificate signing request is signed with %s.", csr.SignatureAlgorithm).
			At("signatureAlgorithm", "SHA-256 or better", csr.SignatureAlgorithm.String())
	}
	if found := commonNamesOf(&csr.Subject); len(found) != 1 || !slices.Contains(names, found[0]) {
		return nil, signet.Refuse(signet.CSRName, "The common name of the certificate signing request is %q, and the device is %q.", signet.Clip(strings.Join(found, ", ")), names[0]).
			At("subject CN", names[0], strings.Join(found, ", "))
	}
	return csr, checkWishes(csr)
}

// minIssuedRSABits is for new certificates: the slack of minRSABits is for old
// ones.
const minIssuedRSABits = 2048

// checkWishes refuses a request for the powers of a CA. Whoever sends one means
// mischief, or has mistaken us for somebody else: to pass it over would hide it.
func checkWishes(csr *x509.CertificateRequest) error {
	forbidden := func(field, asked string) error {
		return signet.Refuse(signet.CSRForbidden, "The certificate signing request asks for the powers of a CA.").At(field, "none, or those of a device", asked)
	}
	for _, e := range csr.Extensions {
		value := cryptobyte.String(e.Value)
		switch {
		case e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 19}):
			var constraints cryptobyte.String
			isCA := false
			if !value.ReadASN1(&constraints, cryptobyte_asn1.SEQUENCE) || !value.Empty() ||
				constraints.PeekASN1Tag(cryptobyte_asn1.BOOLEAN) && !constraints.ReadASN1Boolean(&isCA) || isCA || !constraints.Empty() {
				return forbidden("basicConstraints", "CA:TRUE, or what cannot be read")
			}
		case e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 15}):
			var usage asn1.BitString
			if rest, err := asn1.Unmarshal(e.Value, &usage); err != nil || len(rest) > 0 || usage.At(5) == 1 || usage.At(6) == 1 {
				return forbidden("keyUsage", "keyCertSign or cRLSign, or what cannot be read")
			}
		case e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30}):
			return forbidden("nameConstraints", "nameConstraints, which only a CA has")
		}
	}
	return nil
}

// KindOfKey names the kind of a public key as issuance policies do: p256, p384,
// p521, ed25519, or rsa; "" for one that is not taken.
func KindOfKey(key crypto.PublicKey) string {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return "p256"
		case elliptic.P384():
			return "p384"
		case elliptic.P521():
			return "p521"
		}
	case ed25519.PublicKey:
		return "ed25519"
	case *rsa.PublicKey:
		return "rsa"
	}
	return ""
}
