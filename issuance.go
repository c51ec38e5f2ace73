package signet

import (
	"crypto/x509"
	"time"
)

// An IssuancePolicy is a rule by which a provisioning service issues certificates
// to devices: with which CA, and what they are. It is written by the operator of
// the server, into a file beside the key; nothing of it comes over the network.
type IssuancePolicy struct {
	Service string `json:"service"` // the provisioning service that it is of
	Name    string `json:"name"`    // see [ValidPolicyName]; compared without case

	// Of the issuing CA.
	Subject    string    `json:"subject"`
	Thumbprint string    `json:"thumbprint"` // SHA-256, lower-case hex
	NotAfter   time.Time `json:"notAfter"`

	// Of the certificates: how long each is valid, unless the CA's end is nearer, and
	// the kinds of keys that they are issued for: p256, p384, p521, ed25519, or rsa
	// for RSA of 2048 bits and more.
	Validity time.Duration `json:"-"`
	Keys     []string      `json:"keys"`
	// RenewExpired is how long after its end a certificate may still be renewed, by
	// a session that may do nothing else; 0 is never.
	RenewExpired time.Duration `json:"-"`
}

// ValidPolicyName says whether name can name an issuance policy: 1 to 63 letters,
// digits and hyphens, of which the first is no hyphen.
func ValidPolicyName(name string) bool {
	if len(name) == 0 || len(name) > 63 || name[0] == '-' {
		return false
	}
	for i := range len(name) {
		if c := name[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// A CertificateOrder is what a provisioning service orders for a device that it
// has let in.
type CertificateOrder struct {
	Service, Policy string
	HostName        string // of the hub that the certificate is for, and that has to trust the issuer
	DeviceID        string // the certificate's common name
	RegistrationID  string // that of the CSR, where it is not the device ID
	CSR             []byte // PKCS#10, DER
	Operation       string // the request that it is for: repeated, it is the same order
}

// A Renewal is what a connected device orders for itself.
type Renewal struct {
	Hub, DeviceID string
	Certificate   [32]byte // SHA-256 thumbprint of the one that its session rests on
	RequestID     string   // of the device's own; with the same CSR, the same order
	CSR           []byte   // PKCS#10, DER
	// Replace names the request under way that this one takes the place of: its
	// request ID, or "*" for any; "" for none.
	Replace string
}

// RenewalTime is how long the outcome of a renewal is kept for its device: the same
// request gives the same certificate.
const RenewalTime = 12 * time.Hour

// A RenewalReceipt is given to a device whose renewal is taken on.
type RenewalReceipt struct {
	CorrelationID string
	Expires       time.Time // until then the same request has the same outcome
}

// A Renewed is the outcome of a renewal.
type Renewed struct {
	RenewalReceipt
	RequestID string
	Chain     []*x509.Certificate // leaf first, root last
}

// An Issued is the record of a certificate that was issued here. Service and Serial
// are its key.
type Issued struct {
	Service    string    `json:"service"`
	Serial     string    `json:"serial"` // hex, as in the certificate
	Policy     string    `json:"policy"`
	Hub        string    `json:"hub,omitempty"` // the name of a hub of this server; empty for one elsewhere
	HostName   string    `json:"hostName"`      // of the hub
	DeviceID   string    `json:"deviceId"`
	Operation  string    `json:"operation"`  // what it was issued for
	Thumbprint string    `json:"thumbprint"` // SHA-256 of the certificate, in lower-case hex as the rest
	Key        string    `json:"key"`        // SHA-256 of the SubjectPublicKeyInfo
	CSR        string    `json:"csr"`        // SHA-256 of the CSR
	Issuer     string    `json:"issuer"`     // SHA-256 thumbprint of the issuing CA
	NotBefore  time.Time `json:"notBefore"`
	NotAfter   time.Time `json:"notAfter"`
	Time       time.Time `json:"time"` // when it was issued
	Chain      [][]byte  `json:"-"`    // DER, leaf first, root last; not in lists
}
