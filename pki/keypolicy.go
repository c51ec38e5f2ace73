package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	"github.com/signet-iot/signet"
)

// Keys that are taken. Below the least RSA can be broken; above the most, one
// signature costs the hub more than a stranger should be able to ask for, and
// crypto/tls refuses it anyway. The least is not 2048: a widely used test CA
// makes moduli of 2046 bits, and 8 bits of slack cost no security.
const (
	minRSABits = 2040
	maxRSABits = 8192
)

const takenKeys = "EC P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 8192 bits"

// checkKey refuses, with [signet.CertWeakKey], a public key that is too weak,
// too large, or of a kind that is not taken.
func checkKey(key crypto.PublicKey) error {
	if weak := keyFault(key); weak != "" {
		return signet.Refuse(signet.CertWeakKey, "The public key is %s, which is not taken.", weak).
			At("subjectPublicKeyInfo", takenKeys, weak)
	}
	return nil
}

// keyFault describes a key that is not taken; "" for one that is.
func keyFault(key crypto.PublicKey) string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Sprintf("RSA of %d bits", bits)
		}
		return ""
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return ""
		}
		return "EC " + key.Curve.Params().Name
	case ed25519.PublicKey:
		return ""
	case nil:
		return "of a kind that is not known"
	}
	return fmt.Sprintf("of the kind %T", key)
}

// KeyTypeOf names the type of a certificate's key, with its size, as a
// [signet.Scope] writes it: p256, rsa2048, ed25519; "" for a key that is not taken.
func KeyTypeOf(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa%d", key.N.BitLen())
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return string(P256)
		case elliptic.P384():
			return string(P384)
		case elliptic.P521():
			return string(P521)
		}
	case ed25519.PublicKey:
		return string(Ed25519)
	}
	return ""
}

// signatureTaken lists the signature algorithms that are taken: SHA-1 and MD5
// let somebody forge certificates.
var signatureTaken = map[x509.SignatureAlgorithm]bool{
	x509.SHA256WithRSA: true, x509.SHA384WithRSA: true, x509.SHA512WithRSA: true,
	x509.SHA256WithRSAPSS: true, x509.SHA384WithRSAPSS: true, x509.SHA512WithRSAPSS: true,
	x509.ECDSAWithSHA256: true, x509.ECDSAWithSHA384: true, x509.ECDSAWithSHA512: true,
	x509.PureEd25519: true,
}
