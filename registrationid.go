package signet

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// ValidRegistrationID says whether id can name a registration or an enrollment
// group: 1 to 128 ASCII letters, digits and - . _ : of which the last is a
// letter, a digit or a dash.
func ValidRegistrationID(id string) bool {
	if len(id) == 0 || len(id) > 128 || strings.IndexByte("._:", id[len(id)-1]) >= 0 {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._:", c) >= 0 {
			continue
		}
		return false
	}
	return true
}

// FoldRegistrationID gives the form by which registration IDs are compared: with
// the ASCII letters in lower case, and nothing else changed. What is compared with
// an ID may be of any letters, and the Kelvin sign is no k.
func FoldRegistrationID(id string) string {
	folded := []byte(id)
	for i, c := range folded {
		if c >= 'A' && c <= 'Z' {
			folded[i] = c + 'a' - 'A'
		}
	}
	return string(folded)
}

// DeriveKey gives the key of a device in a group with that base64 key, as base64:
// the HMAC-SHA256 of the folded registration ID. It refuses with
// [TokenMalformed].
func DeriveKey(groupKey, registrationID string) (string, error) {
	k, err := base64.StdEncoding.DecodeString(groupKey)
	if err != nil || len(k) == 0 {
		return "", Refuse(TokenMalformed, "The group key is not base64.")
	}
	m := hmac.New(sha256.New, k)
	m.Write([]byte(FoldRegistrationID(registrationID)))
	return base64.StdEncoding.EncodeToString(m.Sum(nil)), nil
}
