package signet

import "time"

// A CACertificate is a CA that a hub's owner has registered. It becomes a trust
// anchor of the hub when Verified; the hub never holds its key.
type CACertificate struct {
	Hub        string
	Name       string // 1 to 64 of A-Z a-z 0-9 - . _ ; compared without case
	DER        []byte
	Subject    string // RFC 2253 text
	Thumbprint string // SHA-1, upper-case hex: the form of Azure's management API
	NotBefore  time.Time
	NotAfter   time.Time
	Verified   bool
	// VerificationCode is the last code given out for the proof of possession;
	// empty when none is open.
	VerificationCode string
	ETag             string
	Created          time.Time
	Updated          time.Time
}
