package pki

import (
	"crypto/x509"
	"encoding/pem"
	"strings"

	"github.com/signet-iot/signet"
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
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, signet.Refuse(signet.CSRMalformed, "The file is no certificate signing request that can be read.")
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if csr.CheckSignature() != nil {
		return nil, signet.Refuse(signet.CSRMalformed, "The signature of the certificate signing request does not fit the key in it, so that nothing shows who holds that key.")
	}
	return csr, nil
}
