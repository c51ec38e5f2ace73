package signet

// A Decision is what a provisioning service would say to a device.
type Decision struct {
	Ruling Ruling `json:"ruling"`
	// Enrollment is the one that decides: the name of a group, or with Group false the
	// registration ID. Empty when none does.
	Enrollment string `json:"enrollment,omitempty"`
	Group      bool   `json:"group,omitempty"`
	Why        string `json:"why,omitempty"` // a sentence, unless it is let in
}

// A Ruling is how a provisioning service decides.
type Ruling string

// The rulings.
const (
	RulingAdmitted Ruling = "admitted"
	RulingDenied   Ruling = "denied"
	RulingNobody   Ruling = "nobody" // no enrollment answers to the device, which is denied
	// RulingUnknown is that of a device of whose chain too little is on record.
	RulingUnknown Ruling = "unknown"
)

// A ForeseenProof is what devices prove themselves with, and what would be said to
// those that do: now, and after the change.
type ForeseenProof struct {
	// Proof is the subject of a signer or of a device's certificate, or "primary key"
	// or "secondary key".
	Proof string   `json:"proof"`
	Now   Decision `json:"now"`
	Then  Decision `json:"then"`
}

// A RegistrationFate is what a change of an enrollment would do to a device that
// has registered.
type RegistrationFate struct {
	RegistrationID string   `json:"registrationId"`
	Fate           Fate     `json:"fate"`
	Now            Decision `json:"now"`
	Then           Decision `json:"then"`
}

// A Foreseen is what a change of an enrollment would do: who would register no
// longer, and who would newly be let in.
type Foreseen struct {
	Enrollment string          `json:"enrollment"`
	Group      bool            `json:"group"`
	Change     string          `json:"change"` // enable, disable or delete
	Proofs     []ForeseenProof `json:"proofs"`
	// Registrations is how many were looked at, of the groups that the change touches;
	// More says that there are others.
	Registrations   int64 `json:"registrations"`
	More            bool  `json:"more,omitempty"`
	Loses           int64 `json:"loses"`
	Gains           int64 `json:"gains"`
	OtherEnrollment int64 `json:"otherEnrollment"`
	// Unknown counts those of which too little is on record.
	Unknown int64 `json:"unknown"`
	// Devices are those to which it makes a difference, the first 100 of them.
	Devices []RegistrationFate `json:"devices"`
}
