package provisioning

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
)

// What devices send and get, in the JSON of Azure's device provisioning API. The
// doors share it: only the way it travels is theirs.

const (
	// MaxRequest bounds the body of a request in bytes: Azure's limit.
	MaxRequest = 96 << 10
	// maxCSR bounds a certificate signing request, in base64: Azure's limit.
	maxCSR = 8 << 10
)

// ParseRequest reads the body of a registration; there need not be one. It refuses
// with [signet.RequestMalformed], [signet.LimitRequestSize] and
// [signet.CSRMalformed].
func ParseRequest(body []byte) (Request, error) {
	var q Request
	bad := func(why string) (Request, error) {
		return q, signet.Refuse(signet.RequestMalformed, "The body of the registration is malformed: %s.", why).
			FixBy(`Send {"registrationId": "…"}, with "payload" and "csr" as wanted.`)
	}
	if len(body) > MaxRequest {
		return q, signet.Refuse(signet.LimitRequestSize, "The body has more than %d bytes.", MaxRequest)
	}
	if body = bytes.TrimSpace(body); len(body) == 0 {
		return q, nil
	}
	if !utf8.Valid(body) {
		return bad("it is not UTF-8")
	}
	var in struct {
		RegistrationID *string         `json:"registrationId"`
		TPM            json.RawMessage `json:"tpm"`
		Payload        json.RawMessage `json:"payload"`
		CSR            *string         `json:"csr"`
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if body[0] != '{' || d.Decode(&in) != nil {
		return bad("it is not a JSON object of that form")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad("something follows the object")
	}
	if in.RegistrationID != nil {
		q.RegistrationID = *in.RegistrationID
	}
	q.TPM = len(in.TPM) > 0 && string(in.TPM) != "null"
	if string(in.Payload) != "null" {
		q.Payload = in.Payload
	}
	if in.CSR == nil {
		return q, nil
	}
	if len(*in.CSR) > maxCSR {
		return q, signet.Refuse(signet.CSRMalformed, "The csr has more than %d characters.", maxCSR)
	}
	var err error
	if q.CSR, err = base64.StdEncoding.DecodeString(*in.CSR); err != nil || len(q.CSR) == 0 {
		return q, signet.Refuse(signet.CSRMalformed, "The csr is not the base64 of a PKCS#10 request in DER.")
	}
	return q, nil
}

// A RegistrationDocument is a registration as devices and back ends read it
// (DeviceRegistrationResult, DeviceRegistrationState).
type RegistrationDocument struct {
	X509           *deviceX509               `json:"x509,omitempty"`
	SymmetricKey   *deviceKey                `json:"symmetricKey,omitempty"`
	RegistrationID string                    `json:"registrationId"`
	Created        string                    `json:"createdDateTimeUtc,omitempty"`
	AssignedHub    string                    `json:"assignedHub,omitempty"`
	DeviceID       string                    `json:"deviceId,omitempty"`
	Status         signet.RegistrationStatus `json:"status"`
	Substatus      string                    `json:"substatus,omitempty"`
	ErrorCode      int                       `json:"errorCode,omitempty"`
	ErrorMessage   string                    `json:"errorMessage,omitempty"`
	Updated        string                    `json:"lastUpdatedDateTimeUtc,omitempty"`
	ETag           string                    `json:"etag,omitempty"`
	Payload        json.RawMessage           `json:"payload,omitempty"`
	Issued         [][]byte                  `json:"issuedCertificateChain,omitempty"` // base64 of DER each
}

type deviceX509 struct {
	Certificate *CertificateInfo `json:"certificateInfo,omitempty"`
	Group       string           `json:"enrollmentGroupId,omitempty"`
	Signer      *CertificateInfo `json:"signingCertificateInfo,omitempty"`
}

type deviceKey struct {
	Group string `json:"enrollmentGroupId,omitempty"`
}

// x509OfDevice tells of the certificates by which a device was let in: of one with
// an enrollment of its own nothing, as Azure does.
func x509OfDevice(r *signet.Registration) *deviceX509 {
	if r.Group == "" {
		return &deviceX509{}
	}
	return &deviceX509{Certificate: NewCertificateInfo(r.Leaf), Group: r.Group, Signer: NewCertificateInfo(r.Signer)}
}

// NewRegistrationDocument writes a registration.
func NewRegistrationDocument(r *signet.Registration) *RegistrationDocument {
	s := &RegistrationDocument{
		RegistrationID: r.RegistrationID, Status: r.Status, ETag: r.ETag,
		Created: signet.AzureTime(r.Created), Updated: signet.AzureTime(r.Updated),
	}
	switch r.Attestation {
	case signet.AttestX509:
		s.X509 = x509OfDevice(r)
	case signet.AttestSymmetricKey:
		s.SymmetricKey = &deviceKey{r.Group}
	}
	switch r.Status {
	case signet.Assigned:
		s.AssignedHub, s.DeviceID, s.Substatus, s.Payload, s.Issued = r.Hub, r.DeviceID, r.Substatus, r.Payload, r.Issued
	case signet.RegFailed, signet.RegDisabled:
		_, s.ErrorCode = statusOf(r.ErrorCode)
		s.ErrorMessage = r.ErrorMessage + " Tracking ID: " + r.TrackingID
	}
	return s
}

type operationJSON struct {
	OperationID string                    `json:"operationId"`
	Status      signet.RegistrationStatus `json:"status"`
	State       *RegistrationDocument     `json:"registrationState,omitempty"`
}

// Answer writes an operation as a device reads it, with the HTTP status that goes
// with it.
func (o *Operation) Answer() (status int, body []byte) {
	r := &o.Registration
	answer := operationJSON{OperationID: o.ID, Status: r.Status}
	if r.Status == signet.Assigning {
		return http.StatusAccepted, write(answer)
	}
	answer.State = NewRegistrationDocument(r)
	return http.StatusOK, write(answer)
}

// LookupAnswer writes a registration as the status lookup gives it.
func LookupAnswer(r *signet.Registration) []byte { return write(NewRegistrationDocument(r)) }

// RefusalAnswer writes a refusal as a device reads it, with the HTTP status that
// goes with it. Whoever is not let in is told so in one way whatever the reason,
// and given the tracking ID of the verdict; that the enrollment is disabled is a
// status and no error.
func RefusalAnswer(id string, e *signet.Error, at time.Time) (status int, body []byte) {
	if e.Code == signet.EnrollmentDisabled {
		return http.StatusOK, write(operationJSON{Status: signet.RegDisabled, State: &RegistrationDocument{
			RegistrationID: id, Status: signet.RegDisabled, ErrorMessage: "The enrollment is disabled. Tracking ID: " + e.TrackingID}})
	}
	status, code := statusOf(e.Code)
	message := e.Message
	if status == http.StatusUnauthorized {
		message = "Unauthorized"
	}
	return status, write(struct {
		ErrorCode  int    `json:"errorCode"`
		TrackingID string `json:"trackingId"`
		Message    string `json:"message"`
		Time       string `json:"timestampUtc"`
	}{code, e.TrackingID, message, signet.AzureTime(at)})
}

// statuses gives the HTTP status and Azure's number for a code. One that is not
// here is a device that is not let in.
var statuses = map[signet.Code]int{
	signet.RequestMalformed:       400000,
	signet.RequestAPIVersion:      400000,
	signet.AttestationUnsupported: 400000,
	signet.EnrollmentNoPolicy:     400000,
	signet.CSRMalformed:           400000,
	signet.AllocationWebhook:      400207,
	signet.AllocationNoHub:        400208,
	signet.AllocationHub:          400209,
	signet.RequestNotFound:        404000,
	signet.OperationUnknown:       404202,
	signet.RegistrationUnknown:    404202,
	signet.RequestMethod:          405000,
	signet.LimitRequestSize:       413000,
	signet.LimitConnections:       429001,
	signet.LimitRegistrations:     429001,
	signet.LimitIssuance:          429001,
	signet.Internal:               500000,
	signet.Unavailable:            503000,
	signet.SessionClosed:          503000, // the server shuts down
}

func statusOf(code signet.Code) (status, number int) {
	number, ok := statuses[code]
	switch {
	case ok:
	case code.Info().Step == signet.StepIssue:
		number = 400000
	default:
		number = 401002
	}
	return number / 1000, number
}

func write(v any) []byte {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("provisioning: " + err.Error()) // what is raw was read as JSON
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n"))
}
