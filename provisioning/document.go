package provisioning

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// A Document is an enrollment as Azure's service API writes it, of an individual
// (IndividualEnrollment) and of a group (EnrollmentGroup): what a back end sends,
// what it gets back, and what the webhook of a custom allocation is sent.
//
// What is secret is left out of a document that is given out: symmetric keys are
// empty, and the query of a webhook's URL is masked. A document that comes back
// so, changed elsewhere, means what is there.
type Document struct {
	RegistrationID    string `json:"registrationId,omitempty"`
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"`
	DeviceID          string `json:"deviceId,omitempty"`
	// RegistrationState is told of an individual enrollment, and not read.
	RegistrationState any                 `json:"registrationState,omitempty"`
	Attestation       AttestationDocument `json:"attestation"`
	Capabilities      *capabilities       `json:"capabilities,omitempty"`
	// IoTHubHostName is what clients sent before there were IoTHubs.
	IoTHubHostName    string            `json:"iotHubHostName,omitempty"`
	IoTHubs           []string          `json:"iotHubs,omitempty"`
	AllocationPolicy  string            `json:"allocationPolicy,omitempty"`
	CustomAllocation  *customAllocation `json:"customAllocationDefinition,omitempty"`
	ReprovisionPolicy *reprovision      `json:"reprovisionPolicy,omitempty"`
	InitialTwin       *initialTwin      `json:"initialTwin,omitempty"`
	Information       json.RawMessage   `json:"optionalDeviceInformation,omitempty"`
	ProvisioningState string            `json:"provisioningStatus,omitempty"`
	// These two are not known to most clients, which leave them out when they change
	// something else: then they stay. null or "" takes them away.
	CredentialPolicyName json.RawMessage `json:"credentialPolicyName,omitempty"`
	HubAuthentication    json.RawMessage `json:"hubAuthentication,omitempty"` // Signet's own: see [signet.Enrollment.HubAuth]

	ETag        string `json:"etag,omitempty"` // with quotes, as SDKs send it back in If-Match
	Created     string `json:"createdDateTimeUtc,omitempty"`
	LastUpdated string `json:"lastUpdatedDateTimeUtc,omitempty"`
}

type capabilities struct {
	IoTEdge bool `json:"iotEdge"`
}

type customAllocation struct {
	WebhookURL string `json:"webhookUrl"`
	APIVersion string `json:"apiVersion"`
}

type reprovision struct {
	UpdateHubAssignment bool `json:"updateHubAssignment"`
	MigrateDeviceData   bool `json:"migrateDeviceData"`
}

type initialTwin struct {
	Tags       json.RawMessage `json:"tags,omitempty"`
	Properties struct {
		Desired json.RawMessage `json:"desired,omitempty"`
	} `json:"properties"`
}

// An AttestationDocument is an AttestationMechanism of Azure's.
type AttestationDocument struct {
	Type         string           `json:"type"`
	X509         *x509Document    `json:"x509,omitempty"`
	SymmetricKey *symmetricKey    `json:"symmetricKey,omitempty"`
	TPM          *json.RawMessage `json:"tpm,omitempty"` // understood, and refused
}

type symmetricKey struct {
	PrimaryKey   string `json:"primaryKey"`
	SecondaryKey string `json:"secondaryKey"`
}

type x509Document struct {
	ClientCertificates  *certificatePair `json:"clientCertificates,omitempty"`
	SigningCertificates *certificatePair `json:"signingCertificates,omitempty"`
	CAReferences        *caReferences    `json:"caReferences,omitempty"`
}

type certificatePair struct {
	Primary   *certificateDocument `json:"primary,omitempty"`
	Secondary *certificateDocument `json:"secondary,omitempty"`
}

type caReferences struct {
	Primary   string `json:"primary,omitempty"`
	Secondary string `json:"secondary,omitempty"`
}

// A certificateDocument is an X509CertificateWithInfo: the certificate on its way
// in, PEM or base64; what it says on its way out.
type certificateDocument struct {
	Certificate string           `json:"certificate,omitempty"`
	Info        *CertificateInfo `json:"info,omitempty"`
}

// A CertificateInfo is an X509CertificateInfo of Azure's.
type CertificateInfo struct {
	SubjectName      string `json:"subjectName"`
	SHA1Thumbprint   string `json:"sha1Thumbprint"` // upper case, both
	SHA256Thumbprint string `json:"sha256Thumbprint"`
	IssuerName       string `json:"issuerName"`
	NotBefore        string `json:"notBeforeUtc"`
	NotAfter         string `json:"notAfterUtc"`
	SerialNumber     string `json:"serialNumber"` // upper-case hex
	Version          int    `json:"version"`
}

// NewCertificateInfo tells of a certificate; nil of what is none.
func NewCertificateInfo(der []byte) *CertificateInfo {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	ref := pki.Reference(c, pki.NotPresented)
	return &CertificateInfo{
		SubjectName: c.Subject.String(), IssuerName: c.Issuer.String(),
		SHA1Thumbprint: pki.ThumbprintSHA1(der), SHA256Thumbprint: strings.ToUpper(ref.Thumbprint),
		NotBefore: c.NotBefore.UTC().Format(time.RFC3339), NotAfter: c.NotAfter.UTC().Format(time.RFC3339),
		SerialNumber: strings.ToUpper(ref.Serial), Version: c.Version,
	}
}

// NewDocument writes an enrollment without its secrets.
func NewDocument(e *signet.Enrollment) *Document {
	d := &Document{
		DeviceID: e.DeviceID, Attestation: NewAttestationDocument(e, false), Capabilities: &capabilities{e.EdgeDevice},
		IoTHubs: e.Hubs, AllocationPolicy: string(e.Allocation), ReprovisionPolicy: &reprovision{e.Reprovision.UpdateHub, e.Reprovision.MigrateData},
		Information: e.Information, ProvisioningState: string(e.Status), ETag: `"` + e.ETag + `"`,
		Created: signet.AzureTime(e.Created), LastUpdated: signet.AzureTime(e.Updated),
	}
	if d.RegistrationID = e.ID; e.Group {
		d.RegistrationID, d.EnrollmentGroupID = "", e.ID
	}
	if e.Webhook.URL != "" {
		d.CustomAllocation = &customAllocation{maskURL(e.Webhook.URL), e.Webhook.APIVersion}
	}
	if e.InitialTwin.Tags != nil || e.InitialTwin.Desired != nil {
		d.InitialTwin = &initialTwin{Tags: e.InitialTwin.Tags}
		d.InitialTwin.Properties.Desired = e.InitialTwin.Desired
	}
	d.CredentialPolicyName, d.HubAuthentication = quoted(e.IssuancePolicy), quoted(string(e.HubAuth))
	return d
}

// NewAttestationDocument writes the attestation of an enrollment; with secrets,
// with its keys, and its certificates whole.
func NewAttestationDocument(e *signet.Enrollment, secrets bool) AttestationDocument {
	a, d := &e.Attestation, AttestationDocument{Type: string(e.Attestation.Type)}
	if a.Type == signet.AttestSymmetricKey {
		d.SymmetricKey = &symmetricKey{}
		if secrets {
			d.SymmetricKey = &symmetricKey{a.PrimaryKey, a.SecondaryKey}
		}
		return d
	}
	one := func(der []byte) *certificateDocument {
		if len(der) == 0 {
			return nil
		}
		c := &certificateDocument{Info: NewCertificateInfo(der)}
		if secrets {
			c.Certificate = base64.StdEncoding.EncodeToString(der)
		}
		return c
	}
	d.X509 = &x509Document{}
	switch pair := (&certificatePair{one(a.Primary), one(a.Secondary)}); {
	case a.PrimaryCA != "" || a.SecondaryCA != "":
		d.X509.CAReferences = &caReferences{a.PrimaryCA, a.SecondaryCA}
	case e.Group:
		d.X509.SigningCertificates = pair
	default:
		d.X509.ClientCertificates = pair
	}
	return d
}

// Enrollment reads a document that was sent for the enrollment of that key. old is
// the one that is there, nil when there is none. It refuses with
// [signet.EnrollmentMalformed] and upload.* codes; what else cannot be kept,
// [Provisioning.PutEnrollment] refuses.
func (d *Document) Enrollment(service string, group bool, id string, old *signet.Enrollment) (e signet.Enrollment, err error) {
	if old == nil {
		old = &signet.Enrollment{}
	}
	e = signet.Enrollment{
		Service: service, Group: group, ID: id, DeviceID: d.DeviceID, Status: signet.Status(d.ProvisioningState),
		// What Azure's SDKs and its portal begin with.
		Reprovision: signet.Reprovision{UpdateHub: true, MigrateData: true},
		Allocation:  signet.Allocation(d.AllocationPolicy), Hubs: d.IoTHubs, Information: d.Information,
	}
	field, named := "registrationId", d.RegistrationID
	if group {
		field, named = "enrollmentGroupId", d.EnrollmentGroupID
	}
	if named != "" && signet.FoldRegistrationID(named) != signet.FoldRegistrationID(id) {
		return e, malformed(field, "that of the path, "+signet.Clip(id), named)
	}
	if e.Attestation, err = d.Attestation.attestation(group, &old.Attestation); err != nil {
		return e, err
	}
	if d.Capabilities != nil {
		e.EdgeDevice = d.Capabilities.IoTEdge
	}
	if len(e.Hubs) == 0 && d.IoTHubHostName != "" {
		e.Hubs = []string{d.IoTHubHostName}
		if e.Allocation == "" {
			e.Allocation = signet.AllocateStatic
		}
	}
	if c := d.CustomAllocation; c != nil {
		e.Webhook = signet.Webhook{URL: c.WebhookURL, APIVersion: c.APIVersion}
		if c.WebhookURL == maskURL(old.Webhook.URL) {
			e.Webhook.URL = old.Webhook.URL
		}
	}
	if r := d.ReprovisionPolicy; r != nil {
		e.Reprovision = signet.Reprovision{UpdateHub: r.UpdateHubAssignment, MigrateData: r.MigrateDeviceData}
	}
	if d.InitialTwin != nil {
		e.InitialTwin = signet.InitialTwin{Tags: unlessNull(d.InitialTwin.Tags), Desired: unlessNull(d.InitialTwin.Properties.Desired)}
	}
	if e.IssuancePolicy, err = unquoted("credentialPolicyName", d.CredentialPolicyName, old.IssuancePolicy); err != nil {
		return e, err
	}
	auth, err := unquoted("hubAuthentication", d.HubAuthentication, string(old.HubAuth))
	e.HubAuth = signet.AuthType(auth)
	return e, err
}

// attestation reads what is to be proven. What was left out on the way out is
// taken from the attestation that is there.
func (d *AttestationDocument) attestation(group bool, old *signet.Attestation) (a signet.Attestation, err error) {
	a.Type = signet.AttestationType(d.Type)
	switch {
	case a.Type == signet.AttestSymmetricKey:
		if d.SymmetricKey != nil {
			a.PrimaryKey, a.SecondaryKey = d.SymmetricKey.PrimaryKey, d.SymmetricKey.SecondaryKey
		}
		if a.PrimaryKey == "" && a.SecondaryKey == "" { // none when it was of another type
			a.PrimaryKey, a.SecondaryKey = old.PrimaryKey, old.SecondaryKey
		}
		return a, nil
	case a.Type != signet.AttestX509 || d.X509 == nil:
		return a, nil
	}
	pair, other, wrong := d.X509.ClientCertificates, d.X509.SigningCertificates, "signingCertificates"
	if group {
		pair, other, wrong = other, pair, "clientCertificates"
	}
	if other != nil && (other.Primary != nil || other.Secondary != nil) {
		return a, malformed("attestation.x509."+wrong, "nothing: devices have clientCertificates, groups have signingCertificates or caReferences", wrong)
	}
	if pair != nil {
		if a.Primary, err = pair.Primary.certificate(old); err != nil {
			return a, err
		}
		if a.Secondary, err = pair.Secondary.certificate(old); err != nil {
			return a, err
		}
	}
	if r := d.X509.CAReferences; r != nil {
		a.PrimaryCA, a.SecondaryCA = r.Primary, r.Secondary
	}
	return a, nil
}

func (d *certificateDocument) certificate(old *signet.Attestation) ([]byte, error) {
	switch {
	case d == nil || d.Certificate == "" && d.Info == nil:
		return nil, nil
	case d.Certificate != "":
		c, err := pki.ParseUpload(d.Certificate)
		if err != nil {
			return nil, err
		}
		return c.Raw, nil
	}
	for _, der := range certificates(old) {
		if strings.EqualFold(d.Info.SHA256Thumbprint, pki.ThumbprintSHA256(der)) {
			return der, nil
		}
	}
	return nil, malformed("attestation.x509 certificate", "PEM or base64, unless it is one that is there already", d.Info.SHA256Thumbprint)
}

// maskURL keeps of a URL all but its query, which may hold a code.
func maskURL(url string) string {
	if before, _, masked := strings.Cut(url, "?"); masked {
		return before + "?****"
	}
	return url
}

func unlessNull(text json.RawMessage) json.RawMessage {
	if string(text) == "null" {
		return nil
	}
	return text
}

// quoted gives text as JSON; nothing for none.
func quoted(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	quoted, _ := json.Marshal(text)
	return quoted
}

// unquoted reads text that is as it was when it is not there.
func unquoted(field string, text json.RawMessage, was string) (now string, err error) {
	if len(text) == 0 {
		return was, nil
	}
	if json.Unmarshal(text, &now) != nil {
		return "", malformed(field, "text", "something else")
	}
	return now, nil
}
