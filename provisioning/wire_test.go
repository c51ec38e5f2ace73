package provisioning_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/provisioning"
)

// TestParseRequest: what SDKs and hand-written clients send.
func TestParseRequest(t *testing.T) {
	for body, want := range map[string]struct {
		provisioning.Request
		code signet.Code
	}{
		"":                       {},
		" ":                      {},
		"{}":                     {},
		`{"registrationId":"d"}`: {Request: provisioning.Request{RegistrationID: "d"}},
		`{"payload":{"a":[1,null]},"tpm":null,"csr":null}`: {Request: provisioning.Request{Payload: json.RawMessage(`{"a":[1,null]}`)}},
		`{"payload":null,"future":1}`:                      {},
		`{"tpm":{"endorsementKey":"AA=="}}`:                {Request: provisioning.Request{TPM: true}},
		`{"csr":"AQI="}`:                                   {Request: provisioning.Request{CSR: []byte{1, 2}}},
		`{"csr":""}`:                                       {code: signet.CSRMalformed},
		`{"csr":"-----BEGIN"}`:                             {code: signet.CSRMalformed},
		`{"csr":"` + strings.Repeat("A", 8<<10+4) + `"}`:   {code: signet.CSRMalformed},
		`{"csr":1}`:                                        {code: signet.RequestMalformed},
		`{"registrationId":1}`:                             {code: signet.RequestMalformed},
		`[]`:                                               {code: signet.RequestMalformed},
		`null`:                                             {code: signet.RequestMalformed},
		`{} {}`:                                            {code: signet.RequestMalformed},
		`{`:                                                {code: signet.RequestMalformed},
		"{\"payload\":\"\xff\"}":                           {code: signet.RequestMalformed},
		`{"payload":"` + strings.Repeat("x", 96<<10) + `"}`: {code: signet.LimitRequestSize},
	} {
		got, err := provisioning.ParseRequest([]byte(body))
		if signet.CodeOf(err) != want.code {
			t.Errorf("%.40q: %v", body, err)
		}
		if err == nil && (got.RegistrationID != want.RegistrationID || got.TPM != want.TPM || string(got.Payload) != string(want.Payload) || string(got.CSR) != string(want.CSR)) {
			t.Errorf("%.40q: %+v", body, got)
		}
	}
}

// FuzzParseRequest: what is taken can be written again, and nothing panics.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"registrationId":"d","payload":{"a":1},"csr":"AQI=","tpm":{}}`))
	f.Add([]byte(`{"payload":1e999999999}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := provisioning.ParseRequest(body)
		if err == nil && len(q.Payload) > 0 && !json.Valid(q.Payload) {
			t.Errorf("%q", q.Payload)
		}
	})
}

// TestAnswers: the shapes of dps.md, member by member, as the SDKs look for them.
func TestAnswers(t *testing.T) {
	at := time.Date(2026, 11, 25, 12, 0, 0, 123e6, time.UTC)
	r := signet.Registration{RegistrationID: "d1", OperationID: "5.1", Status: signet.Assigned, Substatus: "initialAssignment", Attestation: signet.AttestX509,
		Hub: "h.example", DeviceID: "d1", Created: at, Updated: at, ETag: "e1"}
	const state = `"registrationId":"d1","createdDateTimeUtc":"2026-11-25T12:00:00.1230000Z","assignedHub":"h.example","deviceId":"d1","status":"assigned","substatus":"initialAssignment","lastUpdatedDateTimeUtc":"2026-11-25T12:00:00.1230000Z","etag":"e1"`
	issued, keyed, failed, grouped := r, r, r, r
	issued.Payload, issued.Issued = json.RawMessage(`{"<":1}`), [][]byte{{1, 2}, {3}}
	keyed.Attestation, keyed.Group = signet.AttestSymmetricKey, "meters"
	failed.Status, failed.ErrorCode, failed.ErrorMessage, failed.TrackingID = signet.RegFailed, signet.AllocationWebhook, "Custom allocation failed with status code: 400", "T1"
	failed.Created, failed.Updated = time.Time{}, time.Time{}
	grouped.Group, grouped.Leaf, grouped.Signer = "acme", hubtest.NewCA(t, "x").Cert.Raw, hubtest.NewCA(t, "y").Cert.Raw
	assigning := r
	assigning.Status = signet.Assigning
	for _, c := range []struct {
		name   string
		r      signet.Registration
		status int
		want   string // begins with
	}{
		{"assigning", assigning, 202, `{"operationId":"5.1","status":"assigning"}`},
		{"assigned", r, 200, `{"operationId":"5.1","status":"assigned","registrationState":{"x509":{},` + state + `}}`},
		{"with what was issued", issued, 200, `{"operationId":"5.1","status":"assigned","registrationState":{"x509":{},` + state + `,"payload":{"<":1},"issuedCertificateChain":["AQI=","Aw=="]}}`},
		{"by key", keyed, 200, `{"operationId":"5.1","status":"assigned","registrationState":{"symmetricKey":{"enrollmentGroupId":"meters"},` + state + `}}`},
		{"by group", grouped, 200, `{"operationId":"5.1","status":"assigned","registrationState":{"x509":{"certificateInfo":{"subjectName":"CN=x",`},
		{"failed", failed, 200, `{"operationId":"5.1","status":"failed","registrationState":{"x509":{},"registrationId":"d1","createdDateTimeUtc":"0001-01-01T00:00:00Z","status":"failed","errorCode":400207,"errorMessage":"Custom allocation failed with status code: 400 Tracking ID: T1",`},
	} {
		o := provisioning.Operation{ID: "5.1", Registration: c.r}
		if status, body := o.Answer(); status != c.status || !strings.HasPrefix(string(body), c.want) || !json.Valid(body) {
			t.Errorf("%s: %d %s", c.name, status, body)
		}
	}
}

// TestEveryCodeIsTold: each code of the house has a status and a number that fit
// each other, and none that is not ours is told as our failure.
func TestEveryCodeIsTold(t *testing.T) {
	for _, c := range signet.Codes {
		status, body := provisioning.RefusalAnswer("d", signet.Refuse(c.Code, "why"), time.Now())
		var told struct{ ErrorCode int }
		if err := json.Unmarshal(body, &told); err != nil {
			t.Fatal(err)
		}
		if c.Code == signet.EnrollmentDisabled {
			if status != 200 {
				t.Errorf("%s: %d", c.Code, status)
			}
			continue
		}
		if told.ErrorCode/1000 != status || status < 400 || strings.Contains(string(body), "why") == (status == 401) {
			t.Errorf("%s: %d %s", c.Code, status, body)
		}
	}
}
