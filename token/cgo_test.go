//go:build cgo

package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/token"
)

// TestTokenRestarts: a token that has restarted knows no session of before. Its keys
// sign again all the same, but not behind the back of who has closed them.
func TestTokenRestarts(t *testing.T) {
	module, pin := softHSM(t)
	uri := "pkcs11:token=Acme%20CAs;object=line-4?module-path=" + module + "&pin-source=file:" + pin
	k, err := token.Make(uri, pki.P256, noPIN)
	if err != nil {
		t.Fatal(err)
	}
	restart := func() {
		t.Helper()
		p := pkcs11.New(module) // the library is one in a process, and so are its sessions
		slots, err := p.GetSlotList(true)
		for _, slot := range slots {
			err = errors.Join(err, p.CloseAllSessions(slot))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	digest := sha256.Sum256(nil)
	restart()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			signature, err := k.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil || !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], signature) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	restart()
	k.Close()
	if _, err := k.Sign(rand.Reader, digest[:], crypto.SHA256); signet.CodeOf(err) != signet.KeyToken {
		t.Errorf("signed by a closed token: %v", err)
	}
}
