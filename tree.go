package signet

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// A Branch is a node of a hub's trust tree: a CA by which devices have
// authenticated, under the CAs above it. The same CA under two roots is two
// branches; two CAs of one name are two, since each is told by its certificate.
type Branch struct {
	Hub    string `json:"-"`
	ID     string `json:"id"`               // see [BranchID]
	Parent string `json:"parent,omitempty"` // of the CA above; empty for a trust anchor
	SeenCertificate
	DER       []byte    `json:"-"`
	FirstSeen time.Time `json:"firstSeen"`

	// Devices counts identities whose latest path went through this CA: those that it
	// has signed itself. Total counts those below with them.
	Devices int64 `json:"devices"`
	Total   int64 `json:"total"`
	// Connected, Expiring and Refused count, with all that is below: sessions on this
	// node; devices whose certificate ends within the time asked for, or has ended;
	// and refusals of chains from here since the branch is known.
	Connected int64 `json:"connected"`
	Expiring  int64 `json:"expiring"`
	Refused   int64 `json:"refused"`
}

// A SeenCertificate is what the trust tree tells of a certificate.
type SeenCertificate struct {
	Thumbprint string    `json:"thumbprint"` // SHA-256 of the DER, lower-case hex
	Key        string    `json:"key"`        // SHA-256 of the SubjectPublicKeyInfo, lower-case hex
	Serial     string    `json:"serial"`     // hex
	Subject    string    `json:"subject"`
	KeyType    string    `json:"keyType"`   // as "ECDSA P-256", "RSA 2048", "Ed25519"
	Signature  string    `json:"signature"` // by its issuer, as "ECDSA-SHA256"
	NotBefore  time.Time `json:"notBefore"`
	NotAfter   time.Time `json:"notAfter"`
}

// A Sighting is how an identity last authenticated by a certificate.
type Sighting struct {
	Hub          string `json:"-"`
	DeviceID     string `json:"deviceId"`
	ModuleID     string `json:"moduleId,omitempty"`
	GenerationID string `json:"-"`
	// Branch is that of the CA that has signed the certificate, or, where the tree
	// has no room for that CA, of the nearest above it. It is empty for a certificate
	// that is known by thumbprint.
	Branch string `json:"branch,omitempty"`
	Issued string `json:"-"` // [IssuedID] of the signing CA's key and the serial number; or ""
	SeenCertificate
	DER []byte `json:"-"`
	// Sent is [Principal.Sent]; 0 when it is not known.
	Sent uint16 `json:"-"`

	TLS       string    `json:"tls,omitempty"`    // as "TLS 1.3"
	Remote    string    `json:"remote,omitempty"` // address, without the port
	FirstSeen time.Time `json:"firstSeen"`        // the identity, by any certificate
	// LastSeen is when it last connected or left, to within ten minutes, or was
	// connected, to within an hour.
	LastSeen time.Time `json:"lastSeen"`

	Since    time.Time `json:"since"` // first seen with this certificate
	Previous string    `json:"-"`     // thumbprint of the certificate before, or ""
	// Early counts certificates in a row that were replaced before half of their time.
	Early int64 `json:"-"`

	// Status is the identity's, where it was asked for.
	Status Status `json:"status,omitempty"`
}

// A PathCount is how many live sessions rest on a path of CAs.
type PathCount struct {
	CAs      []*PathCertificate // issuer of the leaf first, anchor last; empty for none
	Sessions int
}

// IssuedID names a certificate as its issuer knows it: 32 hex digits made of the
// SHA-256 of the issuer's SubjectPublicKeyInfo and the serial number in hex.
func IssuedID(issuerKey [32]byte, serial string) string {
	sum := sha256.Sum256(append(issuerKey[:], serial...))
	return hex.EncodeToString(sum[:16])
}

// BranchID names the branch of the CAs of a path, issuer of the leaf first and
// anchor last: 32 hex digits made of all their thumbprints.
func BranchID(cas []*PathCertificate) string {
	all := make([]byte, 0, 4*sha256.Size)
	for _, c := range cas {
		all = append(all, c.Thumbprint[:]...)
	}
	sum := sha256.Sum256(all)
	return hex.EncodeToString(sum[:16])
}

// SourceTrustTree is the Source of events about a hub's trust tree.
const SourceTrustTree = "trustTree"
