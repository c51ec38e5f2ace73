//go:build cgo

package token

import (
	"crypto"
	"crypto/elliptic"
	"io"
	"strings"

	"github.com/ThalesGroup/crypto11"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// sessions is how many signatures of one key are under way at a time.
const sessions = 4

type key struct {
	crypto.Signer
	context *crypto11.Context
}

// Sign signs; a fault of the token says nothing of what was signed.
func (k *key) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := k.Signer.Sign(rand, digest, opts)
	if err != nil {
		return nil, refused("The token did not sign", err)
	}
	return signature, nil
}

func (k *key) Close() error { return k.context.Close() }

// open finds the key, or makes one when kind says of which type.
func open(r Reference, pin string, kind pki.KeyType) (Key, error) {
	context, err := crypto11.Configure(&crypto11.Config{Path: r.Module, TokenLabel: r.Token, TokenSerial: r.Serial, Pin: pin, MaxSessions: sessions})
	if err != nil {
		return nil, refused("The token cannot be opened", err)
	}
	var label []byte
	if r.Object != "" {
		label = []byte(r.Object)
	}
	found, err := context.FindKeyPairs(r.ID, label)
	switch {
	case err != nil:
		err = refused("The key cannot be looked for", err)
	case kind != "" && len(found) > 0:
		err = signet.Refuse(signet.KeyToken, "There is a key in the token already that %s names.", r).FixBy("Choose another label; keys are never overwritten.")
	case kind != "":
		var made crypto.Signer
		if made, err = generate(context, r.ID, label, kind); err == nil {
			return &key{made, context}, nil
		}
	case len(found) == 0:
		err = signet.Refuse(signet.KeyToken, "There is no key in the token that %s names.", r)
	case len(found) > 1:
		err = signet.Refuse(signet.KeyToken, "There are %d keys in the token that %s names.", len(found), r).FixBy("Name it by its ID too: id=%%01 …")
	default:
		return &key{found[0], context}, nil
	}
	context.Close()
	return nil, err
}

func generate(context *crypto11.Context, id, label []byte, kind pki.KeyType) (made crypto.Signer, err error) {
	if id == nil {
		id = label
	}
	if label == nil {
		label = id
	}
	switch kind {
	case pki.P256:
		made, err = context.GenerateECDSAKeyPairWithLabel(id, label, elliptic.P256())
	case pki.P384:
		made, err = context.GenerateECDSAKeyPairWithLabel(id, label, elliptic.P384())
	case pki.P521:
		made, err = context.GenerateECDSAKeyPairWithLabel(id, label, elliptic.P521())
	case pki.RSA2048:
		made, err = context.GenerateRSAKeyPairWithLabel(id, label, 2048)
	case pki.RSA3072:
		made, err = context.GenerateRSAKeyPairWithLabel(id, label, 3072)
	case pki.RSA4096:
		made, err = context.GenerateRSAKeyPairWithLabel(id, label, 4096)
	default:
		return nil, signet.Refuse(signet.KeyToken, "Keys of type %s are not made in tokens.", kind).FixBy("Use p256, p384, p521 or rsa2048 to rsa4096.")
	}
	if err != nil {
		return nil, refused("The token did not make a key", err)
	}
	return made, nil
}

func refused(what string, cause error) error {
	text := cause.Error()
	e := signet.Refuse(signet.KeyToken, "%s: %s.", what, text)
	if strings.Contains(text, "PIN") {
		e = e.FixBy("Check the PIN; a token locks itself after some wrong ones.")
	}
	e.Cause = cause
	return e
}
