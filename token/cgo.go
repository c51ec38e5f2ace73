//go:build cgo

package token

import (
	"crypto"
	"crypto/elliptic"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// sessions is how many signatures of one key are under way at a time.
const sessions = 4

// reopenPause lies between two attempts to open a token anew: it may take a minute
// to restart, and nobody waits for it here.
const reopenPause = 5 * time.Second

// lost are the errors of a token that knows our sessions no longer: it has
// restarted, or was taken out and put in again.
var lost = []pkcs11.Error{pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
	pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED}

// A key finds itself again when its token has lost it.
type key struct {
	where  Reference
	pin    string
	public crypto.PublicKey
	held   atomic.Pointer[held]

	mu     sync.Mutex // held by who opens the token anew, or closes it
	closed bool       // for good: by Close, or as the PIN counts no longer
	gone   bool       // what is held was given up, and not found again yet
	tried  time.Time
}

// held is a key as it was found in a token.
type held struct {
	crypto.Signer
	context *crypto11.Context
}

func newKey(where Reference, pin string, found crypto.Signer, context *crypto11.Context) *key {
	k := &key{where: where, pin: pin, public: found.Public()}
	k.held.Store(&held{found, context})
	return k
}

func (k *key) Public() crypto.PublicKey { return k.public }

// Sign signs; a fault of the token says nothing of what was signed.
func (k *key) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	h := k.held.Load()
	signature, err := h.Sign(rand, digest, opts)
	if err != nil {
		fault, _ := errors.AsType[pkcs11.Error](err)
		if again := k.reopen(h, slices.Contains(lost, fault)); again != nil {
			signature, err = again.Sign(rand, digest, opts)
		}
	}
	if err != nil {
		return nil, refused("The token did not sign", err)
	}
	return signature, nil
}

// reopen finds the key again if its token has lost it and it is time to; nil when it
// is not found.
func (k *key) reopen(failed *held, lost bool) *held {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.held.Load(); now != failed {
		return now // someone was faster
	}
	if !lost && !k.gone || k.closed || time.Since(k.tried) < reopenPause {
		return nil
	}
	k.tried = time.Now()
	if !k.gone { // before others may have the numbers of its sessions
		failed.context.Close()
	}
	k.gone = true
	context, found, err := find(k.where, k.pin)
	if err != nil {
		k.closed = strings.Contains(err.Error(), "PIN") // a token locks itself after some wrong ones
		return nil
	}
	if same, ok := k.public.(interface{ Equal(crypto.PublicKey) bool }); !ok || len(found) != 1 || !same.Equal(found[0].Public()) {
		context.Close()
		return nil
	}
	k.gone = false
	again := &held{found[0], context}
	k.held.Store(again)
	return again
}

func (k *key) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed = true; k.gone {
		return nil
	}
	return k.held.Load().context.Close()
}

// find opens a token, and gives the keys in it that a reference names.
func find(r Reference, pin string) (*crypto11.Context, []crypto11.Signer, error) {
	context, err := crypto11.Configure(&crypto11.Config{Path: r.Module, TokenLabel: r.Token, TokenSerial: r.Serial, Pin: pin, MaxSessions: sessions})
	if err != nil {
		return nil, nil, refused("The token cannot be opened", err)
	}
	found, err := context.FindKeyPairs(r.ID, label(r))
	if err != nil {
		context.Close()
		return nil, nil, refused("The key cannot be looked for", err)
	}
	return context, found, nil
}

func label(r Reference) []byte {
	if r.Object == "" {
		return nil
	}
	return []byte(r.Object)
}

// open finds the key, or makes one when kind says of which type.
func open(r Reference, pin string, kind pki.KeyType) (Key, error) {
	context, found, err := find(r, pin)
	if err != nil {
		return nil, err
	}
	switch {
	case kind != "" && len(found) > 0:
		err = signet.Refuse(signet.KeyToken, "There is a key in the token already that %s names.", r).FixBy("Choose another label; keys are never overwritten.")
	case kind != "":
		var made crypto.Signer
		if made, err = generate(context, r.ID, label(r), kind); err == nil {
			return newKey(r, pin, made, context), nil
		}
	case len(found) == 0:
		err = signet.Refuse(signet.KeyToken, "There is no key in the token that %s names.", r)
	case len(found) > 1:
		err = signet.Refuse(signet.KeyToken, "There are %d keys in the token that %s names.", len(found), r).FixBy("Name it by its ID too: id=%%01 …")
	default:
		return newKey(r, pin, found[0], context), nil
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
