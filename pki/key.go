package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/youmark/pkcs8"
)

// A KeyType is a kind and size of key that this package makes.
type KeyType string

// The key types. P256 is what every TLS stack on a device can do, at the least
// cost for device and hub.
const (
	P256    KeyType = "p256"
	P384    KeyType = "p384"
	P521    KeyType = "p521"
	Ed25519 KeyType = "ed25519"
	RSA2048 KeyType = "rsa2048"
	RSA3072 KeyType = "rsa3072"
	RSA4096 KeyType = "rsa4096"
)

// KeyTypes lists every [KeyType], the default first.
var KeyTypes = []KeyType{P256, P384, P521, Ed25519, RSA2048, RSA3072, RSA4096}

// GenerateKey makes a new random key. An unknown type is
// [signet.RequestMalformed].
func GenerateKey(t KeyType) (crypto.Signer, error) {
	switch t {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case P521:
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, signet.Refuse(signet.RequestMalformed, "%q is not a type of key.", signet.Clip(string(t))).
		At("key", fmt.Sprint(KeyTypes), string(t)).FixBy("Use one of %v.", KeyTypes)
}

// keyEncryption is PBES2 (RFC 8018 §6.2) with scrypt and AES-256. The cost is
// the one that OWASP equates with N=2^17, r=8, p=1; N itself stays at 2^14 (16
// MiB), because openssl refuses what takes more than 32 MiB.
var keyEncryption = &pkcs8.Opts{
	Cipher:  pkcs8.AES256CBC,
	KDFOpts: pkcs8.ScryptOpts{SaltSize: 16, CostParameter: 1 << 14, BlockSize: 8, ParallelizationParameter: 5},
}

// MarshalKey writes a private key as PEM: PKCS#8, encrypted when passphrase is
// not empty. openssl pkey reads both.
func MarshalKey(key crypto.Signer, passphrase []byte) ([]byte, error) {
	der, err := pkcs8.MarshalPrivateKey(key, passphrase, keyEncryption)
	if err != nil {
		return nil, signet.Fail(err)
	}
	label := "PRIVATE KEY"
	if len(passphrase) > 0 {
		label = "ENCRYPTED PRIVATE KEY"
	}
	return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}), nil
}

// ParseKey reads the first private key of a PEM text: PKCS#8, plain or
// encrypted by PBES2, SEC 1, or PKCS#1. It calls passphrase only for an
// encrypted key, once.
//
// It refuses with [signet.KeyMalformed], or [signet.KeyPassphrase] when the
// passphrase does not fit, and hands through an error of passphrase. No error
// holds anything of the key.
func ParseKey(text []byte, passphrase func() ([]byte, error)) (crypto.Signer, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue // openssl ecparam writes EC PARAMETERS before the key
		}
		if block.Headers["DEK-Info"] != "" {
			return nil, signet.Refuse(signet.KeyMalformed, "The key is encrypted in the old form of OpenSSL, which resists guessing poorly.").
				FixBy("Convert it: openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW")
		}
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			var secret []byte
			if secret, err = passphrase(); err != nil {
				return nil, err
			}
			if len(secret) == 0 {
				return nil, signet.Refuse(signet.KeyPassphrase, "The passphrase is empty.")
			}
			key, err = decryptKey(block.Bytes, secret)
		default:
			return nil, signet.Refuse(signet.KeyMalformed, "A key of the form %q is not taken.", signet.Clip(block.Type))
		}
		if _, refused := errors.AsType[*signet.Error](err); refused {
			return nil, err
		}
		if signer, ok := key.(crypto.Signer); err == nil && ok {
			return signer, nil
		}
		return nil, signet.Refuse(signet.KeyMalformed, "The private key is damaged, or of a kind that is not taken.")
	}
	return nil, signet.Refuse(signet.KeyMalformed, "There is no private key in PEM form.")
}

// decryptKey opens an encrypted PKCS#8 key.
func decryptKey(der, passphrase []byte) (key any, err error) {
	// The library panics on a ciphertext that is not of whole blocks.
	defer func() {
		if recover() != nil {
			key, err = nil, signet.Refuse(signet.KeyMalformed, "The encrypted private key is damaged.")
		}
	}()
	key, err = pkcs8.ParsePKCS8PrivateKey(der, passphrase)
	switch {
	case err == nil:
		return key, nil
	case strings.Contains(err.Error(), "incorrect password"):
		return nil, signet.Refuse(signet.KeyPassphrase, "The passphrase does not open the key.")
	}
	return nil, signet.Refuse(signet.KeyMalformed, "The private key is encrypted in a way that is not taken: %v.", err).
		FixBy("Convert it: openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW")
}

// sameKey says whether two public keys are one.
func sameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
