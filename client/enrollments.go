package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"

	"github.com/signet-iot/signet"
)

// provisioningVersion is that of Azure's API of the provisioning service.
const provisioningVersion = "2021-10-01"

// An Enrollment is what a provisioning service is told of a device, or with an
// EnrollmentGroupID of a group, as its API writes it. What is secret is not in
// one that was read; sent back so, it stays.
type Enrollment struct {
	RegistrationID    string `json:"registrationId,omitempty"`
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"`
	DeviceID          string `json:"deviceId,omitempty"`
	// State is that of the device's registration, where there is one. It is read only.
	State        *Registration   `json:"registrationState,omitempty"`
	Status       signet.Status   `json:"provisioningStatus,omitempty"`
	Attestation  Attestation     `json:"attestation"`
	Capabilities json.RawMessage `json:"capabilities,omitempty"`

	Allocation  signet.Allocation  `json:"allocationPolicy,omitempty"`
	IoTHubs     []string           `json:"iotHubs,omitempty"`
	Webhook     *Webhook           `json:"customAllocationDefinition,omitempty"`
	Reprovision *ReprovisionPolicy `json:"reprovisionPolicy,omitempty"`
	InitialTwin *InitialTwin       `json:"initialTwin,omitempty"`
	Information json.RawMessage    `json:"optionalDeviceInformation,omitempty"`
	// These two stay as they are when they are nil; "" takes them away.
	CredentialPolicyName *string          `json:"credentialPolicyName,omitempty"`
	HubAuthentication    *signet.AuthType `json:"hubAuthentication,omitempty"`

	ETag        string `json:"etag,omitempty"` // with quotes
	Created     string `json:"createdDateTimeUtc,omitempty"`
	LastUpdated string `json:"lastUpdatedDateTimeUtc,omitempty"`
}

// ID is the registration ID, or the name of the group.
func (e *Enrollment) ID() string { return e.RegistrationID + e.EnrollmentGroupID } // one of them

// Group says whether it is that of a group.
func (e *Enrollment) Group() bool { return e.EnrollmentGroupID != "" }

// An Attestation is what a device has to prove.
type Attestation struct {
	Type         signet.AttestationType `json:"type"`
	X509         *X509Attestation       `json:"x509,omitempty"`
	SymmetricKey *AttestationKeys       `json:"symmetricKey,omitempty"`
}

// X509Attestation has the certificates of a device, or the signers of a group:
// certificates, or names of CA certificates of the service.
type X509Attestation struct {
	ClientCertificates  *CertificatePair `json:"clientCertificates,omitempty"`
	SigningCertificates *CertificatePair `json:"signingCertificates,omitempty"`
	CAReferences        *CAReferences    `json:"caReferences,omitempty"`
}

// CertificatePair has one certificate or two.
type CertificatePair struct {
	Primary   *EnrolledCertificate `json:"primary,omitempty"`
	Secondary *EnrolledCertificate `json:"secondary,omitempty"`
}

// CAReferences are names of CA certificates of the service.
type CAReferences struct {
	Primary   string `json:"primary,omitempty"`
	Secondary string `json:"secondary,omitempty"`
}

// An EnrolledCertificate is sent as PEM or base64, and read as what is told of it.
type EnrolledCertificate struct {
	Certificate string           `json:"certificate,omitempty"`
	Info        *CertificateInfo `json:"info,omitempty"`
}

// CertificateInfo tells of a certificate.
type CertificateInfo struct {
	SubjectName      string `json:"subjectName"`
	SHA1Thumbprint   string `json:"sha1Thumbprint"`
	SHA256Thumbprint string `json:"sha256Thumbprint"`
	IssuerName       string `json:"issuerName"`
	NotBefore        string `json:"notBeforeUtc"`
	NotAfter         string `json:"notAfterUtc"`
	SerialNumber     string `json:"serialNumber"`
	Version          int    `json:"version"`
}

// AttestationKeys are base64; empty except in what [Client.Attestation] reads, and
// made when they are sent empty.
type AttestationKeys struct {
	PrimaryKey   string `json:"primaryKey"`
	SecondaryKey string `json:"secondaryKey"`
}

// A Webhook chooses hubs.
type Webhook struct {
	URL        string `json:"webhookUrl"`
	APIVersion string `json:"apiVersion"`
}

// A ReprovisionPolicy says what becomes of a device that registers again.
type ReprovisionPolicy struct {
	UpdateHub   bool `json:"updateHubAssignment"`
	MigrateData bool `json:"migrateDeviceData"`
}

// InitialTwin is what a device's twin begins with.
type InitialTwin struct {
	Tags       json.RawMessage `json:"tags,omitempty"`
	Properties struct {
		Desired json.RawMessage `json:"desired,omitempty"`
	} `json:"properties"`
}

// A Registration is the record of a device that has asked for its place.
type Registration struct {
	RegistrationID string                    `json:"registrationId"`
	Status         signet.RegistrationStatus `json:"status"`
	Substatus      string                    `json:"substatus,omitempty"`
	AssignedHub    string                    `json:"assignedHub,omitempty"`
	DeviceID       string                    `json:"deviceId,omitempty"`
	ErrorCode      int                       `json:"errorCode,omitempty"`
	ErrorMessage   string                    `json:"errorMessage,omitempty"`
	ETag           string                    `json:"etag,omitempty"`
	Payload        json.RawMessage           `json:"payload,omitempty"`
	Created        string                    `json:"createdDateTimeUtc,omitempty"`
	LastUpdated    string                    `json:"lastUpdatedDateTimeUtc,omitempty"`
}

// enrollments gives the path of enrollments, or below it.
func enrollments(group bool, below ...string) string {
	path := "/enrollments"
	if group {
		path = "/enrollmentGroups"
	}
	return path + steps(below)
}

func steps(below []string) (path string) {
	for _, step := range below {
		path += "/" + segment(step)
	}
	return path
}

// provision asks a provisioning service.
func (c *Client) provision(ctx context.Context, r request) error {
	r.query = url.Values{"api-version": {provisioningVersion}}
	return c.do(ctx, r)
}

// PutEnrollment adds an enrollment, or with an etag, as it was read or "*",
// replaces it.
func (c *Client) PutEnrollment(ctx context.Context, e Enrollment, etag string) (Enrollment, error) {
	var answer Enrollment
	e.State = nil
	err := c.provision(ctx, request{method: http.MethodPut, path: enrollments(e.Group(), e.ID()), etag: etag, in: e, out: &answer})
	if answer.Attestation.SymmetricKey != nil {
		answer.Attestation.SymmetricKey = &AttestationKeys{} // told, but a change is no reason to show them
	}
	return answer, err
}

// Enrollment reads one.
func (c *Client) Enrollment(ctx context.Context, group bool, id string) (Enrollment, error) {
	var answer Enrollment
	err := c.provision(ctx, request{method: http.MethodGet, path: enrollments(group, id), out: &answer})
	return answer, err
}

// DeleteEnrollment removes one; etag may be empty.
func (c *Client) DeleteEnrollment(ctx context.Context, group bool, id, etag string) error {
	return c.provision(ctx, request{method: http.MethodDelete, path: enrollments(group, id), etag: etag})
}

// Foresee says what a change of an enrollment would do, "enable", "disable" or
// "delete", and makes none.
func (c *Client) Foresee(ctx context.Context, group bool, id, change string) (signet.Foreseen, error) {
	var answer signet.Foreseen
	query, err := c.ofHub(ctx)
	if err != nil {
		return answer, err
	}
	err = c.do(ctx, request{method: http.MethodPost, path: "/signet/enrollments/foresee", query: query, out: &answer,
		in: map[string]any{"enrollment": id, "group": group, "change": change}})
	return answer, err
}

// Attestation reads what a device has to prove, with its keys.
func (c *Client) Attestation(ctx context.Context, group bool, id string) (Attestation, error) {
	var answer Attestation
	err := c.provision(ctx, request{method: http.MethodPost, path: enrollments(group, id, "attestationmechanism"), out: &answer})
	return answer, err
}

// Enrollments lists all individual enrollments, or groups, by ID, page by page.
func (c *Client) Enrollments(ctx context.Context, group bool) ([]Enrollment, error) {
	return query[Enrollment](ctx, c, enrollments(group, "query"))
}

// query reads all pages of a query.
func query[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	all, next := []T{}, ""
	for {
		response, err := c.open(ctx, request{method: http.MethodPost, path: path, query: url.Values{"api-version": {provisioningVersion}},
			in: map[string]string{"query": "SELECT *"}, header: http.Header{"X-Ms-Continuation": {next}}})
		if err != nil {
			return nil, err
		}
		var page []T
		err = json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&page)
		response.Body.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if next = response.Header.Get("X-Ms-Continuation"); next == "" {
			return all, nil
		}
	}
}

// A LinkedHub is one that a provisioning service may give to devices.
type LinkedHub struct {
	HostName string `json:"name,omitempty"`
	// ConnectionString is read with its key masked; sent back so, it stays.
	ConnectionString string `json:"connectionString"`
	Location         string `json:"location"`
	Weight           int    `json:"allocationWeight,omitempty"`
	Allocates        bool   `json:"applyAllocationPolicy"`
}

type linkedHubs struct {
	Properties struct {
		IDScope string      `json:"idScope,omitempty"`
		IoTHubs []LinkedHub `json:"iotHubs"`
	} `json:"properties"`
}

// LinkedHubs lists the hubs that the provisioning service may give to devices.
func (c *Client) LinkedHubs(ctx context.Context) ([]LinkedHub, error) {
	return c.links(ctx, request{method: http.MethodGet})
}

// SetLinkedHubs has exactly these hubs linked; with none, all hubs of the server
// are.
func (c *Client) SetLinkedHubs(ctx context.Context, hubs []LinkedHub) ([]LinkedHub, error) {
	var body linkedHubs
	if body.Properties.IoTHubs = hubs; hubs == nil {
		body.Properties.IoTHubs = []LinkedHub{}
	}
	return c.links(ctx, request{method: http.MethodPut, in: body})
}

func (c *Client) links(ctx context.Context, r request) ([]LinkedHub, error) {
	path, err := c.resource(ctx)
	if err != nil {
		return nil, err
	}
	var answer linkedHubs
	r.path, r.query, r.as, r.out = path, url.Values{"api-version": {managementVersion}}, asAdmin, &answer
	err = c.do(ctx, r)
	return answer.Properties.IoTHubs, err
}
