package signet

import "time"

// A Clone is what looks as if a device's key, or its certificate, were in two
// hands: a finding, for people to judge.
type Clone struct {
	Hub  string    `json:"-"`
	ID   string    `json:"id"` // of the finding; the same when it is found again
	Kind CloneKind `json:"kind"`
	// Devices are the identities that it is about, as device or device/module, the
	// first [MaxCloneDevices]; More says that there are others.
	Devices []string `json:"devices"`
	More    bool     `json:"more,omitempty"`
	// What they have in common, as far as it is that: lower-case hex.
	Key        string `json:"key,omitempty"`        // SHA-256 of the SubjectPublicKeyInfo
	Serial     string `json:"serial,omitempty"`     // number, of one issuer
	Thumbprint string `json:"thumbprint,omitempty"` // SHA-256 of the certificate
	// Places are the networks that it came from in turn.
	Places []string `json:"places,omitempty"`

	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Count int64     `json:"count"` // how often it was found
	Told  time.Time `json:"-"`     // when its event was last put on the message log

	// Quarantined are those of Devices that were disabled for it, at one time.
	Quarantined []string `json:"quarantined,omitempty"`
	// Dismissed is set when it was judged to be harmless: it is found no more.
	Dismissed *CloneDismissal `json:"dismissed,omitempty"`
}

// A CloneDismissal is somebody's word that a finding is no clone.
type CloneDismissal struct {
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	Time   time.Time `json:"time"`
}

// MaxCloneDevices is how many devices a finding names.
const MaxCloneDevices = 10

// CloneKind says what was found.
type CloneKind string

// The kinds of findings.
const (
	// CloneSameKey: the certificates of different devices have one key.
	CloneSameKey CloneKind = "same-key"
	// CloneSameSerial: the certificates of different devices have one serial number,
	// under one key of an issuer: the issuer, or its key, works in two places.
	CloneSameSerial CloneKind = "same-serial"
	// CloneTwoPlaces: one certificate is in use from two networks, which take the
	// session from each other again and again.
	CloneTwoPlaces CloneKind = "two-places"
	// CloneTwoCertificates: a device shows two certificates by turns.
	CloneTwoCertificates CloneKind = "two-certificates"
)

// A ClonePolicy says what a hub does about findings.
type ClonePolicy string

// The policies.
const (
	ClonesOff        ClonePolicy = "off"        // nothing is looked for
	ClonesFlag       ClonePolicy = "flag"       // what is found is kept and told: the default
	ClonesQuarantine ClonePolicy = "quarantine" // besides, the devices are disabled
)

// Check refuses, with [RequestMalformed], what is no policy.
func (p ClonePolicy) Check() error {
	if p == ClonesOff || p == ClonesFlag || p == ClonesQuarantine {
		return nil
	}
	return Refuse(RequestMalformed, "%q is not what can be done about clones.", Clip(string(p))).
		At("policy", "off, flag or quarantine", string(p)).FixBy("Set the policy to off, flag or quarantine.")
}

// SourceClones is the Source of events about clones.
const SourceClones = "clones"
