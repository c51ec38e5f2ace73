package signet

import (
	"strings"
	"time"
)

// AuthType is how an identity proves itself.
type AuthType string

// The authentication types, spelled as Azure spells them.
const (
	AuthSAS        AuthType = "sas"                  // a token signed with the device's symmetric key
	AuthSelfSigned AuthType = "selfSigned"           // a certificate known by its thumbprint
	AuthCA         AuthType = "certificateAuthority" // a certification path to a verified CA
)

// Status says whether an identity may connect.
type Status string

// The two states of an identity.
const (
	Enabled  Status = "enabled"
	Disabled Status = "disabled"
)

// An Identity is a device in the registry of a hub, or, with ModuleID, a module
// of a device. Hub, DeviceID and ModuleID together are its key.
type Identity struct {
	Hub               string
	DeviceID          string // see [ValidID]; case-sensitive
	ModuleID          string // empty for a device
	GenerationID      string // new at each creation, so that a re-created device is told apart
	ETag              string
	Status            Status
	StatusReason      string // at most 128 characters
	StatusUpdatedTime time.Time
	CreatedTime       time.Time
	Auth              Authentication
	EdgeDevice        bool // capabilities.iotEdge
	// Subscriptions are those of its session by MQTT that is stored, as the door writes
	// them; 0 when none is. The identity's own ETag does not change with them.
	Subscriptions uint32
}

// Authentication is how one identity proves itself. Only the members that its
// type uses are set.
type Authentication struct {
	Type AuthType
	// Primary and Secondary key of AuthSAS: base64 of 16 to 64 bytes.
	PrimaryKey, SecondaryKey string
	// Primary and secondary thumbprint of AuthSelfSigned: SHA-1 (40) or SHA-256
	// (64) in hex, stored as given, compared without case.
	PrimaryThumbprint, SecondaryThumbprint string
}

// idPunctuation are the characters besides ASCII letters and digits that a
// device or module ID may have. The + and # that older hubs took are left out:
// no MQTT client can use such an ID in a topic.
const idPunctuation = "-:.%_*?!(),=@;$'"

// ValidID says whether id can name a device or a module: 1 to 128 ASCII letters,
// digits and the characters - : . % _ * ? ! ( ) , = @ ; $ '
func ValidID(id string) bool {
	if len(id) == 0 || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			continue
		}
		if !strings.Contains(idPunctuation, string(rune(c))) {
			return false
		}
	}
	return true
}

// Name gives "device" or "device/module", as client IDs and CNs write it.
func (i *Identity) Name() string { return IdentityName(i.DeviceID, i.ModuleID) }

// IdentityName joins a device ID and a module ID, which may be empty.
func IdentityName(deviceID, moduleID string) string {
	if moduleID == "" {
		return deviceID
	}
	return deviceID + "/" + moduleID
}
