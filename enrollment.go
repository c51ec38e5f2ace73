package signet

import (
	"encoding/json"
	"time"
)

// An Enrollment is what a provisioning service is told of devices before they
// come: of one device, or, as a group, of all whose certificates a CA has signed
// or whose keys derive from one. Service, Group and ID together are its key.
type Enrollment struct {
	Service string // name of the provisioning service, see [Hub.IDScope]
	Group   bool
	// ID is the registration ID of the device, or the name of the group: see
	// [ValidRegistrationID]. Compared without case; kept as first given.
	ID          string
	DeviceID    string // of the identity to make; the registration ID when empty. Not of a group
	ETag        string
	Status      Status
	Attestation Attestation

	Reprovision Reprovision
	Allocation  Allocation
	Hubs        []string // host names that may be given; all linked hubs when empty
	Webhook     Webhook  // of AllocateCustom
	InitialTwin InitialTwin
	EdgeDevice  bool
	Information json.RawMessage // optionalDeviceInformation: a JSON object or nothing
	Created     time.Time
	Updated     time.Time

	// IssuancePolicy names the policy by which certificates are issued to devices
	// that send a CSR; empty for none. Azure's credentialPolicyName.
	IssuancePolicy string
	// HubAuth is the type of the identities that X.509 devices get: [AuthSelfSigned]
	// with the leaf's thumbprint, as Azure does and when empty, or [AuthCA], with
	// which a renewed leaf goes on working. Devices with an IssuancePolicy that send
	// a CSR get AuthCA in any case.
	HubAuth AuthType
}

// An AttestationType is how devices prove themselves to a provisioning service.
type AttestationType string

// The types, spelled as Azure spells them.
const (
	AttestX509         AttestationType = "x509"
	AttestSymmetricKey AttestationType = "symmetricKey"
	AttestTPM          AttestationType = "tpm" // understood, and refused
)

// An Attestation is what a device has to prove. Only the members that its type
// uses are set.
type Attestation struct {
	Type AttestationType
	// Certificates are DER. Of an individual enrollment, the device's own; of a
	// group, signers, each a root or an intermediate. At least one, unless
	// CAReferences has.
	Primary, Secondary []byte
	// PrimaryCA and SecondaryCA, of a group, name registered CA certificates of the
	// service instead.
	PrimaryCA, SecondaryCA string
	// Keys of AttestSymmetricKey: base64 of 16 to 64 bytes. Those of a group's
	// devices derive from them; see [DeriveKey].
	PrimaryKey, SecondaryKey string
}

// A Reprovision policy says what becomes of a device that registers again.
type Reprovision struct {
	// UpdateHub lets allocation give it another hub. Without it, a device stays
	// where it is.
	UpdateHub bool
	// MigrateData carries its twin along; without it the twin begins anew.
	MigrateData bool
}

// An Allocation says by which rule a hub is chosen.
type Allocation string

// The allocation policies, spelled as Azure spells them.
const (
	AllocateHashed     Allocation = "hashed"     // evenly, by the hubs' weights; the same device always to the same hub
	AllocateGeoLatency Allocation = "geoLatency" // the nearest hub that answers
	AllocateStatic     Allocation = "static"     // the first of the enrollment's hubs
	AllocateCustom     Allocation = "custom"     // a webhook says
)

// A Webhook is an address of the operator's that chooses hubs.
type Webhook struct {
	URL        string // its query may hold a code: it is masked wherever it is shown
	APIVersion string
}

// An InitialTwin is what the twin of a new identity begins with; both are JSON
// objects, or nothing.
type InitialTwin struct {
	Tags    json.RawMessage
	Desired json.RawMessage
}

// A RegistrationStatus says how far a registration has come.
type RegistrationStatus string

// The statuses, spelled as Azure spells them.
const (
	Unassigned  RegistrationStatus = "unassigned"
	Assigning   RegistrationStatus = "assigning"
	Assigned    RegistrationStatus = "assigned"
	RegFailed   RegistrationStatus = "failed"
	RegDisabled RegistrationStatus = "disabled"
)

// A Registration is the record of a device that has asked for its place. Service
// and RegistrationID, without case, are its key.
type Registration struct {
	Service        string
	RegistrationID string // as the device first wrote it
	OperationID    string // of the latest request
	Status         RegistrationStatus
	Substatus      string // initialAssignment, deviceDataMigrated, deviceDataReset or reprovisionedToInitialAssignment
	// Group is the enrollment group that let it in; empty for an individual
	// enrollment.
	Group       string
	Attestation AttestationType
	Hub         string // host name of the assigned hub
	FirstHub    string // of the one that was assigned first
	DeviceID    string
	Created     time.Time
	Updated     time.Time
	ETag        string

	// Of a failed registration.
	ErrorCode    Code
	ErrorMessage string
	TrackingID   string

	// Leaf and Signer are the certificates, DER, by which it was let in; Signer is
	// that of the group. Empty for keys.
	Leaf, Signer []byte
	// Payload is what the custom allocation webhook returned for the device.
	Payload json.RawMessage
	// Issued is the chain that was issued in the latest operation: DER, leaf first.
	Issued [][]byte
	// Left are the places that the device has moved from and where its identity may
	// still be: their hubs have not answered. The next operation removes it there.
	Left []Place
}

// A Place is where a device is: an ID at the hub of that host name.
type Place struct{ Hub, DeviceID string }

// A LinkedHub is one that a provisioning service may give to devices. While a
// service has none, all hubs of its server are linked, each with weight 1.
type LinkedHub struct {
	Service  string
	HostName string
	// ConnectionString, of a hub on another server, has registry rights there. It
	// holds a key: it is never shown or logged. Empty for a hub of this server.
	ConnectionString string
	Location         string
	Weight           int  // 1 to 1000, of AllocateHashed
	Allocates        bool // applyAllocationPolicy: it is chosen although no enrollment names it
}
