package pki_test

import (
	"bytes"
	"crypto"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

func passphrase(text string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(text), nil }
}

func neverAsked() ([]byte, error) {
	return nil, errors.New("asked for a passphrase of a key that is not encrypted")
}

func same(a, b crypto.Signer) bool {
	return a.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(b.Public())
}

// What MarshalKey writes, openssl and ParseKey read.
func TestKeyRoundTrip(t *testing.T) {
	for _, kind := range []pki.KeyType{pki.P256, pki.P384, pki.P521, pki.Ed25519, pki.RSA2048} {
		t.Run(string(kind), func(t *testing.T) {
			k := key(t, kind)
			dir := t.TempDir()
			plain, err := pki.MarshalKey(k, nil)
			if err != nil {
				t.Fatal(err)
			}
			back, err := pki.ParseKey(plain, neverAsked)
			if err != nil || !same(back, k) {
				t.Errorf("another key came back: %v", err)
			}
			write(t, dir, "plain.key", plain)
			openssl(t, dir, "pkey", "-check", "-noout", "-in", "plain.key")
		})
	}
}

// Nobody without the passphrase reads an encrypted key; openssl reads it with.
func TestEncryptedKey(t *testing.T) {
	k := key(t, pki.RSA2048)
	dir := t.TempDir()
	plain, err := pki.MarshalKey(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := pki.MarshalKey(k, []byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	back, err := pki.ParseKey(encrypted, passphrase("correct horse"))
	if err != nil || !same(back, k) {
		t.Errorf("another key came back: %v", err)
	}
	_, err = pki.ParseKey(encrypted, passphrase("wrong horse"))
	wantCode(t, err, signet.KeyPassphrase)
	_, err = pki.ParseKey(encrypted, passphrase(""))
	wantCode(t, err, signet.KeyPassphrase)

	write(t, dir, "plain.key", plain)
	write(t, dir, "encrypted.key", encrypted)
	a := openssl(t, dir, "pkey", "-in", "plain.key", "-pubout")
	b := openssl(t, dir, "pkey", "-in", "encrypted.key", "-passin", "pass:correct horse", "-pubout")
	if a != b {
		t.Error("openssl reads two keys")
	}
}

// ParseKey takes the keys of CAs that were made with openssl.
func TestKeysOfOpenSSL(t *testing.T) {
	for _, test := range []struct {
		name string
		args string // of openssl; the key goes to standard output
		code signet.Code
	}{
		{"PKCS#8", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", ""},
		{"SEC 1, after its parameters", "ecparam -name prime256v1 -genkey", ""},
		{"PKCS#1", "genrsa -traditional 2048", ""},
		{"encrypted, PBKDF2", "genpkey -algorithm ED25519 -aes-256-cbc -pass pass:1234", ""},
		{"encrypted in the old way", "genrsa -traditional -aes256 -passout pass:1234 2048", signet.KeyMalformed},
		{"of a kind not taken", "genpkey -algorithm X25519", signet.KeyMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			command := strings.Fields(test.args)
			openssl(t, dir, slices.Insert(command, 1, "-out", "ca.key")...)
			text, err := os.ReadFile(filepath.Join(dir, "ca.key"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = pki.ParseKey(text, passphrase("1234"))
			wantCode(t, err, test.code)
			noSecretIn(t, err, text)
		})
	}
	t.Run("encrypted, scrypt", func(t *testing.T) {
		dir := t.TempDir()
		openssl(t, dir, "genpkey", "-algorithm", "ED25519", "-out", "plain.key")
		openssl(t, dir, "pkcs8", "-topk8", "-in", "plain.key", "-scrypt", "-passout", "pass:1234", "-out", "ca.key")
		text, err := os.ReadFile(filepath.Join(dir, "ca.key"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pki.ParseKey(text, passphrase("1234")); err != nil {
			t.Error(err)
		}
	})
}

// A damaged key is an error, not a crash, and shows nothing of itself.
func TestDamagedKeys(t *testing.T) {
	encrypted, err := pki.MarshalKey(key(t, pki.P256), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(encrypted)
	relabel := func(label string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der})
	}
	// The ciphertext is the last element: a byte less, and its blocks are not whole.
	short := bytes.Clone(block.Bytes[:len(block.Bytes)-1])
	short[2]--
	at := bytes.LastIndex(short, []byte{0x04, 0x81, 0x90})
	if at < 0 {
		t.Fatal("the ciphertext is not where this test looks for it")
	}
	short[at+2]--
	for name, text := range map[string][]byte{
		"nothing":                   nil,
		"text":                      []byte("no key"),
		"a certificate":             pemOf(root(t, "Root").Certificate),
		"cut off":                   encrypted[:len(encrypted)/2],
		"blocks that are not whole": relabel("ENCRYPTED PRIVATE KEY", short),
		"encrypted, called plain":   relabel("PRIVATE KEY", block.Bytes),
		"rubbish":                   relabel("ENCRYPTED PRIVATE KEY", []byte("rubbish")),
		"an OpenSSH key":            relabel("OPENSSH PRIVATE KEY", []byte("openssh-key-v1")),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pki.ParseKey(text, passphrase("secret"))
			wantCode(t, err, signet.KeyMalformed)
			noSecretIn(t, err, text)
		})
	}
	refused := signet.Refuse(signet.KeyPassphrase, "Nobody is there to ask.")
	if _, err := pki.ParseKey(encrypted, func() ([]byte, error) { return nil, refused }); err != refused {
		t.Errorf("the error of asking for the passphrase came back as %v", err)
	}
}
