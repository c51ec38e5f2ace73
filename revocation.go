package signet

import (
	"slices"
	"time"
)

// A RevocationPolicy says how a hub asks whether the certificates below one of
// its CAs have been revoked by their issuers. The whole path counts: the device's
// certificate and every intermediate.
type RevocationPolicy struct {
	Hub string `json:"-"`
	CA  string `json:"ca"` // the name of the registered certificate
	// From is set when it is not its own: the name of a CA above it. It is told, and
	// never stored.
	From string         `json:"from,omitempty"`
	Mode RevocationMode `json:"policy"`
	// CRLs are URLs that CRLs are fetched from, at most 8; uploaded ones count
	// besides.
	CRLs []string `json:"crls,omitempty"`
	// OCSP is the URL of a responder that is asked for every certificate.
	OCSP string `json:"ocsp,omitempty"`
	// RequireNonce refuses OCSP responses that were not made for the question. One
	// that comes back is checked in any case.
	RequireNonce bool `json:"requireNonce,omitempty"`
	// Follow has the addresses count that certificates on accepted paths name: CRL
	// distribution points and, without an OCSP of the policy, responders.
	Follow bool `json:"follow,omitempty"`
	// AllowPrivate lets these addresses be loopback and private ones.
	AllowPrivate bool      `json:"allowPrivate,omitempty"`
	Updated      time.Time `json:"updated,omitzero"`
}

// A RevocationMode says what follows when it is not known whether a certificate
// has been revoked. One that is known to be is refused in every mode but off.
type RevocationMode string

// The modes.
const (
	// RevocationOff asks nothing: as Azure, and the default.
	RevocationOff RevocationMode = "off"
	// RevocationSoft lets a device in when the answer is missing or out of date.
	RevocationSoft RevocationMode = "soft"
	// RevocationHard refuses it then, with [CertRevocationUnknown]; sessions that
	// are established go on.
	RevocationHard RevocationMode = "hard"
)

// Laxer says whether a mode lets more in than another.
func (m RevocationMode) Laxer(than RevocationMode) bool { return m.strictness() < than.strictness() }

func (m RevocationMode) strictness() int {
	return slices.Index([]RevocationMode{RevocationSoft, RevocationHard}, m) // -1 is off
}

// A CRL is a certificate revocation list that a hub goes by: the latest complete
// one of an issuer.
type CRL struct {
	Hub        string    `json:"-"`
	ID         string    `json:"id"`     // made of the issuer's key and name, so the same for each of its CRLs
	Issuer     string    `json:"issuer"` // RFC 2253 text
	Key        string    `json:"key"`    // SHA-256 of the SubjectPublicKeyInfo of the key that signed it, hex
	Number     string    `json:"number"` // decimal
	ThisUpdate time.Time `json:"thisUpdate"`
	NextUpdate time.Time `json:"nextUpdate"`
	Entries    int       `json:"entries"`
	Bytes      int       `json:"bytes"`
	SHA256     string    `json:"sha256"`       // of the DER, hex
	Source     string    `json:"source"`       // the URL it came from, or "upload"
	CA         string    `json:"ca,omitempty"` // whose policy had it fetched
	Added      time.Time `json:"added"`
	// State is "current"; "ageing" in the last quarter of its time, when a newer
	// one is due; or "stale". It is not stored.
	State string `json:"state,omitempty"`

	DER       []byte `json:"-"`
	IssuerDER []byte `json:"-"` // the certificate whose key has signed it
}

// A RevocationSource is a place that a hub fetches CRLs from, or a responder that
// it asks.
type RevocationSource struct {
	CA       string    `json:"ca"`
	Kind     string    `json:"kind"` // "crl" or "ocsp"
	URL      string    `json:"url"`
	Followed bool      `json:"followed,omitempty"` // named by a certificate, not by the policy
	Answered time.Time `json:"answered,omitzero"`  // when it last gave something that counts
	Next     time.Time `json:"next,omitzero"`      // when a CRL is fetched again
	// Certificates is how many a responder is asked after.
	Certificates int `json:"certificates,omitempty"`
	// Fault says why the last attempt failed; nil when it did not.
	Fault *Error `json:"fault,omitempty"`
}

// An OCSPAnswer is what a responder said last of a certificate.
type OCSPAnswer struct {
	Hub       string `json:"-"`
	IssuerKey string `json:"-"` // SHA-256 of the SubjectPublicKeyInfo of its issuer, hex
	Serial    string `json:"-"` // hex, as in [PathCertificate]

	CA       string     `json:"ca"`  // under whose policy the responder was asked
	URL      string     `json:"url"` // of the responder
	Status   OCSPStatus `json:"status"`
	Revoked  time.Time  `json:"revoked,omitzero"` // when, to the second
	Reason   int        `json:"reason,omitempty"` // CRLReason of RFC 5280 §5.3.1
	Issued   time.Time  `json:"thisUpdate"`
	Until    time.Time  `json:"until"`    // and not later does it count as good
	NotAfter time.Time  `json:"notAfter"` // of the certificate
}

// OCSPStatus is what a responder says of a certificate (RFC 6960 §2.2).
type OCSPStatus string

// The statuses.
const (
	OCSPGood    OCSPStatus = "good"
	OCSPRevoked OCSPStatus = "revoked"
	OCSPUnknown OCSPStatus = "unknown" // the responder does not know the certificate
)
