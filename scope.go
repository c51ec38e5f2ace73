package signet

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Scope bounds what a CA may vouch for at a hub, beyond what its certificate
// says. It is of a key: it holds on every path on which the key stands above the
// device, whether as a trust anchor or an intermediate, sent or registered, and
// under whatever certificate. A path is within the scopes of all its CAs, or
// refused as [CertOutOfScope].
type Scope struct {
	Hub string `json:"-"`
	Key string `json:"key"` // SHA-256 of the SubjectPublicKeyInfo, lower-case hex

	// What is bounded; what is empty is not. One at least is set.

	// Devices are patterns, see [MatchID]; the device ID fits one of them. Of a
	// module, that of its device does.
	Devices []string `json:"devices,omitempty"`
	// IssuedFrom and IssuedUntil bound the notBefore of the device's certificate,
	// themselves included. Whoever holds the CA's key can write any date there: this
	// holds an honest issuer to its order, and stops no thief.
	IssuedFrom  time.Time `json:"issuedFrom,omitzero"`
	IssuedUntil time.Time `json:"issuedUntil,omitzero"`
	// KeyTypes are those that the device's key may be of: p256, p384, p521, ed25519,
	// or rsa followed by the least number of bits, as rsa3072.
	KeyTypes []string `json:"keyTypes,omitempty"`
	// MaxDevices is how many devices may authenticate under the key, by their IDs and
	// counted from the first; their modules are counted with them. A device that was
	// deleted has been counted.
	MaxDevices int64 `json:"maxDevices,omitempty"`

	// Seen is how many devices have come under the key so far, those beyond
	// MaxDevices too, which were refused; counted while MaxDevices is set.
	Seen int64 `json:"seen"`

	// For people.
	Subject string    `json:"subject,omitempty"` // of the CA's certificate, when it was at hand
	By      string    `json:"by"`                // the access policy that was used, or "admin"
	Updated time.Time `json:"updated"`
}

// Bounds of a [Scope].
const (
	maxScopePatterns = 16
	maxScopeDevices  = 10_000_000
)

// Check says whether the scope is well formed; it refuses with [ScopeMalformed].
func (s *Scope) Check() error {
	if len(s.Devices)+len(s.KeyTypes) == 0 && s.IssuedFrom.IsZero() && s.IssuedUntil.IsZero() && s.MaxDevices == 0 {
		return Refuse(ScopeMalformed, "The scope bounds nothing.").FixBy("Give it a pattern of device IDs, a time of issue, key types or a number of devices; or remove it.")
	}
	if len(s.Devices) > maxScopePatterns {
		return Refuse(ScopeMalformed, "The scope has %d patterns; at most %d are taken.", len(s.Devices), maxScopePatterns)
	}
	for _, p := range s.Devices {
		if !ValidID(p) { // the wildcard is a character that an ID may have
			return Refuse(ScopeMalformed, "%q is not a pattern of device IDs.", Clip(p)).At("devices", "an ID, in which * stands for any characters", p)
		}
	}
	if !s.IssuedFrom.IsZero() && !s.IssuedUntil.IsZero() && s.IssuedUntil.Before(s.IssuedFrom) {
		return Refuse(ScopeMalformed, "The time of issue ends before it begins.").
			At("issuedUntil", "not before "+s.IssuedFrom.UTC().Format(time.RFC3339), s.IssuedUntil.UTC().Format(time.RFC3339))
	}
	for _, k := range s.KeyTypes {
		if !slices.Contains([]string{"p256", "p384", "p521", "ed25519"}, k) && leastBits(k) == 0 {
			return Refuse(ScopeMalformed, "%q is not a type of key.", Clip(k)).At("keyTypes", "p256, p384, p521, ed25519, or rsa and the least number of bits, as rsa3072", k)
		}
	}
	if s.MaxDevices < 0 || s.MaxDevices > maxScopeDevices {
		return Refuse(ScopeMalformed, "%d is not a number of devices.", s.MaxDevices).At("maxDevices", "1 to 10000000, or 0 for no bound", strconv.FormatInt(s.MaxDevices, 10))
	}
	return nil
}

// Refusal says why a device's certificate is outside of the scope, but for the
// number of devices; nil when it is within.
func (s *Scope) Refusal(deviceID string, notBefore time.Time, keyType string) *Error {
	outside := func(what, field, expected, actual string) *Error {
		return Refuse(CertOutOfScope, "%s of the certificate for %q is outside of what the hub lets %q vouch for.", what, Clip(deviceID), s.whose()).At(field, expected, actual)
	}
	switch {
	case len(s.Devices) > 0 && !slices.ContainsFunc(s.Devices, func(p string) bool { return MatchID(p, deviceID) }):
		return outside("The device ID", "deviceId", strings.Join(s.Devices, " or "), deviceID)
	case !s.IssuedFrom.IsZero() && notBefore.Before(s.IssuedFrom):
		return outside("The time of issue", "notBefore", "not before "+s.IssuedFrom.UTC().Format(time.RFC3339), notBefore.UTC().Format(time.RFC3339))
	case !s.IssuedUntil.IsZero() && notBefore.After(s.IssuedUntil):
		return outside("The time of issue", "notBefore", "not after "+s.IssuedUntil.UTC().Format(time.RFC3339), notBefore.UTC().Format(time.RFC3339))
	case len(s.KeyTypes) > 0 && !slices.ContainsFunc(s.KeyTypes, func(k string) bool { return k == keyType || leastBits(k) > 0 && leastBits(keyType) >= leastBits(k) }):
		return outside("The key", "subjectPublicKeyInfo", strings.Join(s.KeyTypes, " or "), keyType)
	}
	return nil
}

func (s *Scope) whose() string {
	if s.Subject == "" {
		return "the key " + s.Key
	}
	return s.Subject
}

// Surplus is the refusal of a device that came after the last of MaxDevices.
func (s *Scope) Surplus(deviceID string) *Error {
	return Refuse(CertOutOfScope, "The %d devices that the hub lets %q vouch for came before %q.", s.MaxDevices, s.whose(), Clip(deviceID)).
		At("devices", "at most "+strconv.FormatInt(s.MaxDevices, 10), "one more").
		FixBy("Find out who issued more than was ordered: signet certificate scope shows seen and allowed. Or raise the number.")
}

// leastBits reads rsa3072; 0 for what is not of that form.
func leastBits(keyType string) int {
	digits, ok := strings.CutPrefix(keyType, "rsa")
	n, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil || len(digits) != 4 {
		return 0
	}
	return int(n)
}

// MatchID says whether a device ID fits a pattern: in it, * stands for any
// characters, or none, and everything else for itself. It takes time in
// proportion to both, whatever the pattern.
func MatchID(pattern, id string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == id
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(id) < len(first)+len(last) || !strings.HasPrefix(id, first) || !strings.HasSuffix(id, last) {
		return false
	}
	id = id[len(first) : len(id)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(id, part) // the first place is as good as any later one
		if at < 0 {
			return false
		}
		id = id[at+len(part):]
	}
	return true
}
