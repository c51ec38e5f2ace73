package signet

import "time"

// Expiring is something that will expire, or has: a registered CA, an
// intermediate that live sessions rest on, or the certificates of live devices
// that one issuer signed.
type Expiring struct {
	Kind ExpiringKind `json:"kind"`
	// Name is that of a registered CA.
	Name string `json:"name,omitempty"`
	// Subject of the certificate; for devices, of their issuer, "" when they are
	// known by thumbprint.
	Subject string `json:"subject"`
	// Thumbprint (SHA-256, hex) of the certificate; for devices, of their issuer's.
	Thumbprint string `json:"thumbprint,omitempty"`
	// NotAfter is the end; for devices, the first of theirs.
	NotAfter time.Time `json:"notAfter"`
	// Sessions is how many live sessions rest on it on this node; for devices, how
	// many have a certificate that ends within the time asked for.
	Sessions int `json:"sessions"`
	// Devices names the first ten whose own certificates end, the soonest first.
	Devices []string `json:"devices,omitempty"`
}

// An ExpiringKind says what expires.
type ExpiringKind string

// The kinds.
const (
	ExpiringCA           ExpiringKind = "ca"
	ExpiringIntermediate ExpiringKind = "intermediate"
	ExpiringDevices      ExpiringKind = "devices"
)

// ExpiryWarnings are the times before the end at which is warned, the shortest
// first: 7, 30 and 90 days.
var ExpiryWarnings = [...]time.Duration{7 * 24 * time.Hour, 30 * 24 * time.Hour, 90 * 24 * time.Hour}

// SourceExpiry is the Source of the hub's messages that something expires.
const SourceExpiry = "certificateExpiry"

// SourceStale is the Source of the hub's messages that a CRL grows old.
const SourceStale = "revocationStale"

// A StaleCRL is a CRL in the last quarter of its time, or past it.
type StaleCRL struct {
	Hub        string    `json:"-"`
	Issuer     string    `json:"issuer"`
	State      string    `json:"state"`
	NextUpdate time.Time `json:"nextUpdate"`
	Source     string    `json:"source,omitempty"` // where it was fetched; empty for an upload
}
