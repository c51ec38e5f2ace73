// Package token signs with keys that live in PKCS#11 tokens: hardware security
// modules, smart cards, SoftHSM. A key never leaves its token; what is had of it
// is a [crypto.Signer].
//
// Where a key would stand as PEM, a PKCS#11 URI (RFC 7512) stands instead, and
// names it. It holds no PIN: that is in a file of its own, or is asked for.
//
// Tokens are reached through a library of their maker, in C: a binary that was
// built without cgo refuses them.
package token

import (
	"crypto"
	"encoding/hex"
	"net/url"
	"os"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// Scheme begins a reference to a key in a token.
const Scheme = "pkcs11:"

// maxURI bounds a reference, and maxPIN what is read of a file with a PIN.
const (
	maxURI = 2048
	maxPIN = 256
)

// A Reference says where a key is.
type Reference struct {
	Token, Serial string // label or serial number of the token; one of them
	Object        string // label of the key
	ID            []byte // CKA_ID of the key; it or Object, or both
	Module        string // path of the token's library
	PINFile       string // path of the file with the user PIN; empty when it is asked for
}

// IsReference says whether what was read from a key file is a reference, and no
// PEM.
func IsReference(text []byte) bool {
	return strings.HasPrefix(strings.TrimSpace(string(text)), Scheme)
}

// Parse reads a URI such as
//
//	pkcs11:token=Acme;object=line-4?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/signet/pin
//
// Attributes other than token, serial, object, id and type=private, module-path
// and pin-source are refused: what is not understood might have chosen another key.
// It refuses with [signet.KeyToken].
func Parse(uri string) (r Reference, err error) {
	uri = strings.TrimSpace(uri)
	rest, ok := strings.CutPrefix(uri, Scheme)
	if !ok || len(uri) > maxURI || strings.ContainsFunc(uri, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return r, malformed("a PKCS#11 URI of at most 2048 characters: pkcs11:token=…;object=…?module-path=…")
	}
	path, query, _ := strings.Cut(rest, "?")
	seen := map[string]bool{}
	attribute := func(text string, to map[string]*string) error {
		name, value, ok := strings.Cut(text, "=")
		place, known := to[name]
		switch {
		case name == "pin-value":
			return malformed("one without pin-value: the PIN belongs in a file, named by pin-source=file:PATH")
		case !ok || !known:
			return malformed("one with token or serial, object or id, type, module-path and pin-source alone, not " + signet.Clip(name))
		case seen[name]: // RFC 7512 §2.3: an attribute stands once
			return malformed("one with each attribute once")
		}
		seen[name] = true
		decoded, err := url.PathUnescape(value)
		if err != nil || decoded == "" || strings.ContainsRune(decoded, 0) {
			return malformed("one whose " + name + " is percent-encoded and not empty")
		}
		*place = decoded
		return nil
	}
	var id, kind, pin string
	for text := range strings.SplitSeq(path, ";") {
		if err := attribute(text, map[string]*string{"token": &r.Token, "serial": &r.Serial, "object": &r.Object, "id": &id, "type": &kind}); err != nil {
			return Reference{}, err
		}
	}
	for text := range strings.SplitSeq(query, "&") {
		if query == "" {
			break
		}
		if err := attribute(text, map[string]*string{"module-path": &r.Module, "pin-source": &pin}); err != nil {
			return Reference{}, err
		}
	}
	if id != "" {
		r.ID = []byte(id)
	}
	r.PINFile = strings.TrimPrefix(strings.TrimPrefix(pin, "file:"), "//")
	switch {
	case (r.Token == "") == (r.Serial == ""):
		return Reference{}, malformed("one with the token's label or its serial number: token=… or serial=…")
	case r.Object == "" && r.ID == nil:
		return Reference{}, malformed("one with the key's label or ID: object=… or id=…")
	case r.Module == "" || r.Module[0] != '/':
		return Reference{}, malformed("one with the whole path of the token's library: ?module-path=/…")
	case kind != "" && kind != "private":
		return Reference{}, malformed("one of a private key")
	case pin != "" && (strings.HasPrefix(pin, "|") || r.PINFile == "" || r.PINFile[0] != '/'):
		return Reference{}, malformed("one whose pin-source is a file with its whole path")
	}
	return r, nil
}

func malformed(expected string) error {
	return signet.Refuse(signet.KeyToken, "The reference to a key in a token should be %s.", expected)
}

// String is the URI, without a PIN.
func (r Reference) String() string {
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	var path []string
	for _, a := range [][2]string{{"token", r.Token}, {"serial", r.Serial}, {"object", r.Object}} {
		if a[1] != "" {
			path = append(path, a[0]+"="+escape(a[1]))
		}
	}
	if r.ID != nil {
		var id strings.Builder
		for n, digits := 0, hex.EncodeToString(r.ID); n < len(digits); n += 2 {
			id.WriteString("%" + digits[n:n+2])
		}
		path = append(path, "id="+id.String())
	}
	uri := Scheme + strings.Join(path, ";") + "?module-path=" + strings.ReplaceAll(escape(r.Module), "%2F", "/")
	if r.PINFile != "" {
		uri += "&pin-source=file:" + strings.ReplaceAll(escape(r.PINFile), "%2F", "/")
	}
	return uri
}

// A Key is a key in a token. Safe for concurrent use; signing takes turns at the
// token.
type Key interface {
	crypto.Signer
	// Close ends the session with the token.
	Close() error
}

// Open finds a key; ask is called for the PIN when the reference names no file
// with it. It refuses with [signet.KeyToken].
func Open(uri string, ask func() ([]byte, error)) (Key, error) {
	where, pin, err := resolve(uri, ask)
	if err != nil {
		return nil, err
	}
	return open(where, pin, "")
}

// Make makes a key of a type in a token, where there must be none of that label or
// ID yet. What can be made depends on the token; it cannot be taken out. It refuses
// with [signet.KeyToken].
func Make(uri string, kind pki.KeyType, ask func() ([]byte, error)) (Key, error) {
	where, pin, err := resolve(uri, ask)
	if err != nil {
		return nil, err
	}
	return open(where, pin, kind)
}

// resolve reads a reference, and the PIN.
func resolve(uri string, ask func() ([]byte, error)) (r Reference, pin string, err error) {
	if r, err = Parse(uri); err != nil {
		return r, "", err
	}
	var text []byte
	if r.PINFile != "" {
		if text, err = os.ReadFile(r.PINFile); err != nil {
			return r, "", signet.Refuse(signet.KeyToken, "The file with the token's PIN cannot be read: %v.", err)
		}
	} else if text, err = ask(); err != nil {
		return r, "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" || len(line) > maxPIN {
		return r, "", signet.Refuse(signet.KeyToken, "The PIN of the token is empty or longer than %d characters.", maxPIN)
	}
	return r, line, nil
}
