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
	// Completed is set on an accepted path where the device left the certificate out
	// and the hub had it registered.
	Completed bool `json:"completed,omitempty"`
}

// PathCertificate is what stays of a certificate once it has been judged: what
// revocation has to find it by.
type PathCertificate struct {
	Thumbprint [32]byte // SHA-256 of the DER
	// Alias is the thumbprint of the one other certificate that whoever has this one
	// can make of it without any key: an ECDSA signature has two forms. Zero when
	// it is not signed with ECDSA.
	Alias    [32]byte
	Key      [32]byte // SHA-256 of the SubjectPublicKeyInfo
	Serial   string   // hex
	Subject  string
	NotAfter time.Time
}

// A Distrust is the word of a hub's operator that a certificate, or a key,
// counts no longer, whoever issued it and whatever stands above it.
type Distrust struct {
	Hub string `json:"-"`
	// ID names it within the hub. It is made of what is distrusted, so that the same
	// has the same ID.
	ID   string       `json:"id"`
	Kind DistrustKind `json:"kind"`

	// What is distrusted, by its kind; of the other kinds the fields are empty, but
	// for the Thumbprint of a certificate that was at hand. Lower-case hex.
	Thumbprint string `json:"thumbprint,omitempty"` // SHA-256 of the DER
	Key        string `json:"key,omitempty"`        // SHA-256 of the SubjectPublicKeyInfo
	IssuerKey  string `json:"issuerKey,omitempty"`  // the same, of the issuer
	Serial     string `json:"serial,omitempty"`     // as many digits as it has octets

	// For people.
	Subject string    `json:"subject,omitempty"` // of the certificate, when it was at hand
	Reason  string    `json:"reason,omitempty"`  // at most 128 characters
	By      string    `json:"by"`                // the access policy that was used, or "admin"
	Created time.Time `json:"created"`
}

// A DistrustKind says what a [Distrust] is of.
type DistrustKind string

// The kinds.
const (
	// DistrustCertificate is of one certificate. Its key under another certificate
	// still counts.
	DistrustCertificate DistrustKind = "certificate"
	// DistrustKey is of a key, under every certificate that it has or will have: a
	// CA made anew with the same key does not slip back.
	DistrustKey DistrustKind = "key"
	// DistrustSerial is of one certificate, by its serial number and the key of its
	// issuer. The same number under another key is another certificate, whatever
	// the issuer's name.
	DistrustSerial DistrustKind = "serial"
)
