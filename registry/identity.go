package registry

import (
	"encoding/base64"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/signet-iot/signet"
)

// settle fills in what a caller left open and refuses what cannot be kept.
func settle(i *signet.Identity) error {
	if !signet.ValidID(i.DeviceID) {
		return malformed("deviceId", "1 to 128 letters, digits and - : . % _ * ? ! ( ) , = @ ; $ '", i.DeviceID)
	}
	// Names with a leading $ belong to the edge runtime (iothub-devguide).
	if i.ModuleID != "" && (!signet.ValidID(i.ModuleID) || strings.HasPrefix(i.ModuleID, "$")) {
		return malformed("moduleId", "as a device ID, and not beginning with $", i.ModuleID)
	}
	switch i.Status {
	case "":
		i.Status = signet.Enabled
	case signet.Enabled, signet.Disabled:
	default:
		return malformed("status", "enabled or disabled", string(i.Status))
	}
	if utf8.RuneCountInString(i.StatusReason) > 128 || !utf8.ValidString(i.StatusReason) || strings.ContainsRune(i.StatusReason, 0) {
		return malformed("statusReason", "at most 128 characters of text", i.StatusReason)
	}
	return settleAuthentication(&i.Auth)
}

// settleAuthentication keeps of the authentication what its type uses, so that
// a record never holds a key or a thumbprint that does not count.
func settleAuthentication(a *signet.Authentication) error {
	switch a.Type {
	case signet.AuthSAS, "":
		a.Type = signet.AuthSAS
		a.PrimaryThumbprint, a.SecondaryThumbprint = "", ""
		if a.PrimaryKey == "" && a.SecondaryKey == "" {
			a.PrimaryKey, a.SecondaryKey = newKey(), newKey()
		}
		for field, key := range map[string]string{"primaryKey": a.PrimaryKey, "secondaryKey": a.SecondaryKey} {
			if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) < 16 || len(raw) > 64 {
				// The key itself is never repeated.
				return malformed("authentication.symmetricKey."+field, "base64 of 16 to 64 bytes, both keys or neither", "")
			}
		}
	case signet.AuthSelfSigned:
		a.PrimaryKey, a.SecondaryKey = "", ""
		p, s := a.PrimaryThumbprint, a.SecondaryThumbprint
		for field, t := range map[string]string{"primaryThumbprint": p, "secondaryThumbprint": s} {
			if t != "" && !thumbprint.MatchString(t) {
				return malformed("authentication.x509Thumbprint."+field, "40 (SHA-1) or 64 (SHA-256) hex digits without separators", t)
			}
		}
		if p != "" && s != "" && len(p) != len(s) {
			return malformed("authentication.x509Thumbprint", "two thumbprints of one kind", s)
		}
	case signet.AuthCA:
		*a = signet.Authentication{Type: signet.AuthCA}
	default:
		return malformed("authentication.type", "sas, selfSigned or certificateAuthority", string(a.Type))
	}
	return nil
}

var thumbprint = regexp.MustCompile(`^([0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})$`)

func malformed(field, expected, actual string) error {
	e := signet.Refuse(signet.IdentityMalformed, "The %s is not taken: it should be %s.", field, expected)
	return e.At(field, expected, actual)
}
