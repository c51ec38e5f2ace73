package signet

import "time"

// A Rollover is how far the devices of a hub have moved from one CA to another. The
// two are told apart by certificate and key, never by name.
type Rollover struct {
	Old RolloverCA `json:"old"`
	New RolloverCA `json:"new"`
	// SameKey is set when both certificates are of one key: a device gets in by either,
	// whatever certificate of its own it has.
	SameKey bool `json:"sameKey,omitempty"`

	// Left counts the devices that would lose access without the old CA.
	Left FateCount `json:"left"`
	// Unknown and Unseen are as in [Radius].
	Unknown int64 `json:"unknown"`
	Unseen  int64 `json:"unseen"`

	// Policy is what the revocation policy of the new CA would have to be, as that of the
	// old one goes with it; empty when it is no laxer.
	Policy RevocationMode `json:"policy,omitempty"`

	// Safe says whether the old CA can be removed without harm to any device that
	// may connect, and with no less asked after; Because says what is in the way.
	Safe    bool     `json:"safe"`
	Because []string `json:"because,omitempty"`
	// Notes are what may have been forgotten about the new CA.
	Notes []string `json:"notes,omitempty"`
}

// A RolloverCA is one of the two.
type RolloverCA struct {
	Name       string    `json:"name"`
	Subject    string    `json:"subject"`
	Thumbprint string    `json:"thumbprint"` // SHA-256 of the DER, lower-case hex
	Key        string    `json:"key"`        // SHA-256 of the SubjectPublicKeyInfo, lower-case hex
	NotAfter   time.Time `json:"notAfter"`
	Verified   bool      `json:"verified"`
	// Devices counts those that are let in by it now, by what they presented last.
	Devices int64 `json:"devices"`
	// Refused counts refusals of chains that lead to it, since the trust tree knows it.
	Refused int64 `json:"refused"`
}
