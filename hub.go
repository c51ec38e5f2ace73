package signet

import (
	"strings"
	"time"
)

// A Hub is one tenant of the server: a host name with anchors, identities, keys
// and messages of its own. Nothing of one hub is visible to, or worth anything
// at, another.
type Hub struct {
	Name     string // 3 to 50 letters, digits and hyphens; lower case; the key
	HostName string // how clients address it; lower case
	Policies []Policy
	Created  time.Time
	// AtExpiry is what becomes of a session whose certificates expire while it
	// lasts; "" is [KeepAtExpiry].
	AtExpiry ExpiryPolicy
	// Events are what the hub tells on its message log besides what devices send;
	// none unless told, as at Azure without a route for them.
	Events EventSources
	// Limits are what it lets itself and its devices do in a second.
	Limits Limits
	// IDScope is set for a provisioning service, and names it to devices: "0ne" and
	// 8 digits. Such a tenant has CA certificates, keys and verdicts as a hub has,
	// and enrollments where a hub has identities; see [Hub.Provisions].
	IDScope string
}

// Provisions says whether the tenant is a provisioning service and no hub.
func (h *Hub) Provisions() bool { return h.IDScope != "" }

// An ExpiryPolicy says what becomes of a session when the first certificate of
// its path expires. A device that connects anew is refused in either case.
type ExpiryPolicy string

// The two policies.
const (
	KeepAtExpiry ExpiryPolicy = "keep" // it stays until the device goes: as Azure does
	EndAtExpiry  ExpiryPolicy = "end"
)

// Check refuses, with [HubMalformed], what is no policy.
func (p ExpiryPolicy) Check() error {
	if p == KeepAtExpiry || p == EndAtExpiry {
		return nil
	}
	return Refuse(HubMalformed, "Sessions are kept at expiry, or ended; not %q.", Clip(string(p))).
		At("atExpiry", "keep or end", string(p)).FixBy("Set atExpiry to keep or to end.")
}

// A Policy is a shared access policy: two keys that sign tokens, and the rights
// that such a token has.
type Policy struct {
	Name         string
	PrimaryKey   string // base64
	SecondaryKey string
	Rights       Rights
}

// Gives refuses with [TokenRights] unless the policy has the right.
func (p *Policy) Gives(right Rights) error {
	if p.Rights.Has(right) {
		return nil
	}
	return Refuse(TokenRights, "The policy %q does not have the right %s.", p.Name, right).At("rights", right.String(), p.Rights.String())
}

// Policy is the policy of that name, in any case of letters; the zero Policy, whose
// keys sign nothing, if there is none.
func (h *Hub) Policy(name string) (of Policy) {
	for _, p := range h.Policies {
		if strings.EqualFold(p.Name, name) {
			of = p
		}
	}
	return of
}

// Rights is a set of what a back end may do.
type Rights uint16

// The rights of Azure IoT Hub, and of its provisioning service.
const (
	RegistryRead Rights = 1 << iota
	RegistryWrite
	ServiceConnect
	DeviceConnect
	// Those of a provisioning service.
	ServiceConfig
	EnrollmentRead
	EnrollmentWrite
	RegistrationStatusRead
	RegistrationStatusWrite
)

// Has says whether all of want are in r.
func (r Rights) Has(want Rights) bool { return r&want == want }

// String names the rights as Azure does, joined by ", ".
func (r Rights) String() string {
	s := ""
	for i, name := range [...]string{"RegistryRead", "RegistryWrite", "ServiceConnect", "DeviceConnect",
		"ServiceConfig", "EnrollmentRead", "EnrollmentWrite", "RegistrationStatusRead", "RegistrationStatusWrite"} {
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
	// Trust is set when less is trusted than before: an anchor is gone, a
	// certificate is distrusted or revoked, or an expired one counts no longer.
	Trust bool
	// Scopes is set when the scopes of CAs have changed.
	Scopes bool
	// HubCreated and HubDeleted are set when the hub is new, or gone.
	HubCreated, HubDeleted bool
}
