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

// CertificateRef points at one certificate of a chain for people and machines.
type CertificateRef struct {
	Index      int       `json:"index"` // 0 is the leaf; counts up towards the anchor; -1 when not in the chain
	Subject    string    `json:"subject"`
	Issuer     string    `json:"issuer"`
	Serial     string    `json:"serial"`     // hex, as in the certificate
	Thumbprint string    `json:"thumbprint"` // SHA-256, lower-case hex
	NotBefore  time.Time `json:"notBefore"`
	NotAfter   time.Time `json:"notAfter"`
}

// PathCertificate is what stays of a certificate once it has been judged: what
// revocation has to find it by.
type PathCertificate struct {
	Thumbprint [32]byte // SHA-256 of the DER
	// Twin is the thumbprint of the one other certificate that whoever has this one
	// can make of it without any key: an ECDSA signature has two forms. Zero when
	// it is not signed with ECDSA.
	Twin     [32]byte
	Key      [32]byte // SHA-256 of the SubjectPublicKeyInfo
	Serial   string   // hex
	Subject  string
	NotAfter time.Time
}
