package signet

import "time"

// A Principal is who a session belongs to, as proven: the outcome of
// authentication that is not a refusal.
type Principal struct {
	Hub          string
	DeviceID     string
	ModuleID     string // empty for a device
	GenerationID string
	Auth         AuthType
	// Scope is "device", "module" or, for a token of a hub policy, "hub".
	Scope string
	// Expires ends the session: the expiry of a SAS token or, as the hub's
	// [ExpiryPolicy] was then, of the first of its certificates; or zero.
	Expires time.Time
	// RenewOnly is set when the device's own certificate has expired and the session
	// is for its renewal, and for nothing else.
	RenewOnly bool
	// Path is the certification path, leaf first and anchor last; only the leaf
	// for a self-signed certificate, empty for a token. Entries above the leaf
	// are shared between the sessions that have them in common.
	Path []*PathCertificate
	// Issued is the notBefore and KeyType the type of key of the device's certificate,
	// as a [Scope] writes it; zero for a token.
	Issued  time.Time
	KeyType string
	// Sent has bit n set when the device sent Path[n] itself. What it left out is the
	// anchor, or was completed from the hub's registered certificates.
	Sent uint16
}

// Completed counts the certificates under the anchor that the device left out.
func (p *Principal) Completed() int {
	n := 0
	for i := range len(p.Path) - 1 {
		if p.Sent&(1<<i) == 0 {
			n++
		}
	}
	return n
}

// AuthMethod is the text that the hub stamps on a message as
// iothub-connection-auth-method.
func (p *Principal) AuthMethod() string {
	kind, issuer := "sas", "iothub"
	if p.Auth != AuthSAS {
		kind, issuer = "x509Certificate", "external"
	}
	return `{"scope":"` + p.Scope + `","type":"` + kind + `","issuer":"` + issuer + `","acceptingIpFilterRule":null}`
}
