package signet

import "time"

// A Hub is one tenant of the server: a host name with anchors, identities, keys
// and messages of its own. Nothing of one hub is visible to, or worth anything
// at, another.
type Hub struct {
	Name     string // 3 to 50 letters, digits and hyphens; lower case; the key
	HostName string // how clients address it; lower case
	Policies []Policy
	Created  time.Time
}

// A Policy is a shared access policy: two keys that sign tokens, and the rights
// that such a token has.
type Policy struct {
	Name         string
	PrimaryKey   string // base64
	SecondaryKey string
	Rights       Rights
}

// Rights is a set of what a back end may do.
type Rights uint8

// The rights of Azure IoT Hub.
const (
	RegistryRead Rights = 1 << iota
	RegistryWrite
	ServiceConnect
	DeviceConnect
)

// Has says whether all of want are in r.
func (r Rights) Has(want Rights) bool { return r&want == want }

// String names the rights as Azure does, joined by ", ".
func (r Rights) String() string {
	s := ""
	for i, name := range [...]string{"RegistryRead", "RegistryWrite", "ServiceConnect", "DeviceConnect"} {
		if r&(1<<i) != 0 {
			if s != "" {
				s += ", "
			}
			s += name
		}
	}
	return s
}

// A Change says that something a live session may rest on is no longer as it
// was. A keeper announces it after it is durable and before its caller is
// answered; the hub then ends what it no longer allows.
type Change struct {
	Hub string
	// DeviceID (and ModuleID) is set when one identity changed. A device's
	// change concerns its modules too.
	DeviceID, ModuleID string
	// Trust is set when less is trusted than before: an anchor is gone, or a
	// certificate is distrusted or revoked.
	Trust bool
	// HubCreated and HubDeleted are set when the hub is new, or gone.
	HubCreated, HubDeleted bool
}
