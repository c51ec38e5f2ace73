package signet

import "time"

// A Fate is what a change of trust would do to a device.
type Fate string

// The fates that are told of; of every other device nothing changes.
const (
	FateLoses     Fate = "loses"      // it is let in now, and would be refused
	FateOtherPath Fate = "other path" // it would be let in still, by another path
	FateGains     Fate = "gains"      // it is refused now, and would be let in
	// FateOtherEnrollment is of a change of enrollments: it would be let in still, by
	// another one. FateUnknown is told there besides.
	FateOtherEnrollment Fate = "other enrollment"
	FateUnknown         Fate = "unknown" // too little of it is on record
)

// A DeviceFate is the fate of one identity.
type DeviceFate struct {
	DeviceID  string    `json:"deviceId"`
	ModuleID  string    `json:"moduleId,omitempty"`
	Fate      Fate      `json:"fate"`
	Connected bool      `json:"connected,omitempty"` // on this node, by a certificate or otherwise
	LastSeen  time.Time `json:"lastSeen"`
	// Code and Why are of the refusal that it would meet, or, if it gains, meets now.
	Code Code   `json:"code,omitempty"`
	Why  string `json:"why,omitempty"`
	// Anchor is the subject of the CA at the top of the path that it would be let in
	// by.
	Anchor string `json:"anchor,omitempty"`
}

// A Radius is what a change of trust would do to all devices that have been seen.
type Radius struct {
	Devices   int64     `json:"devices"` // looked at
	Loses     FateCount `json:"loses"`
	OtherPath FateCount `json:"otherPath"`
	Gains     FateCount `json:"gains"`
	// Refused counts devices that are refused now and would be still.
	Refused int64 `json:"refused"`
	// Unknown counts devices of which too little is remembered to judge: the trust
	// tree had no room for a CA on their path.
	Unknown int64 `json:"unknown"`
	// Unseen counts identities that authenticate by a CA and have never done so: what
	// becomes of them nobody knows.
	Unseen int64 `json:"unseen"`
	// Codes counts the refusals that those who lose access would meet.
	Codes map[Code]int64 `json:"codes,omitempty"`
	// Anchors counts devices that are let in now by the CA at the top of their path, by
	// its SHA-256 thumbprint in hex.
	Anchors map[string]int64 `json:"anchors,omitempty"`
	// Notes are what else goes with the change.
	Notes []string      `json:"notes,omitempty"`
	Took  time.Duration `json:"tookNanos"`
}

// A FateCount is how many devices have a fate, and how many of them are connected
// now.
type FateCount struct {
	Devices   int64 `json:"devices"`
	Connected int64 `json:"connected"`
}
