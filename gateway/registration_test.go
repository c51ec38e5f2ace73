package gateway

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/wire/mqtt"
)

// A fakeRegistrar lets everybody in but those whose registration ID says
// otherwise. What the doors refuse themselves, its waist records.
type fakeRegistrar struct{ waist *fakeWaist }

func (r *fakeRegistrar) Admit(_ context.Context, c provisioning.Credentials) (Applicant, error) {
	why := map[string]signet.Code{"stranger": signet.ChainUntrusted, "off": signet.EnrollmentDisabled, "away": signet.Unavailable}
	if code, ok := why[c.RegistrationID]; ok {
		e := signet.Refuse(code, "refused by the fake")
		e.TrackingID = "T"
		return nil, e
	}
	return &fakeApplicant{c.RegistrationID}, nil
}

func (r *fakeRegistrar) Refuse(_ provisioning.Credentials, err error) *signet.Error {
	e := *signet.AsError(err)
	e.TrackingID = r.waist.Refuse("", signet.Verdict{Error: e})
	return &e
}

// A fakeApplicant gets operation 1, and has its place when it asks after it.
type fakeApplicant struct{ id string }

func (a *fakeApplicant) registration(status signet.RegistrationStatus) signet.Registration {
	return signet.Registration{RegistrationID: a.id, OperationID: "1", Status: status, Hub: "hub.example", DeviceID: a.id, Substatus: "initialAssignment"}
}

func (a *fakeApplicant) Register(_ context.Context, q provisioning.Request) (provisioning.Operation, error) {
	switch {
	case a.id == "often":
		return provisioning.Operation{}, signet.Refuse(signet.LimitRegistrations, "too soon")
	case q.TPM:
		return provisioning.Operation{}, signet.Refuse(signet.AttestationUnsupported, "no TPM")
	}
	return provisioning.Operation{ID: "1", Registration: a.registration(signet.Assigning), RetryAfter: 3 * time.Second}, nil
}

func (a *fakeApplicant) Operation(_ context.Context, id string) (provisioning.Operation, error) {
	if id != "1" {
		return provisioning.Operation{}, signet.Refuse(signet.OperationUnknown, "none")
	}
	return provisioning.Operation{ID: "1", Registration: a.registration(signet.Assigned)}, nil
}

func (a *fakeApplicant) Lookup(context.Context) (signet.Registration, error) {
	if a.id == "new" {
		return signet.Registration{}, signet.Refuse(signet.RegistrationUnknown, "none")
	}
	return a.registration(signet.Assigned), nil
}

// TestRegistrationHTTPS: each request and its answer, as the SDKs read them.
func TestRegistrationHTTPS(t *testing.T) {
	const base = "/0ne00111111/registrations/"
	h, w := plainHTTPS(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		answer             string            // a part of it
		headers            map[string]string // some of them
		recorded           signet.Code
	}{
		{"PUT", "press/register?api-version=2019-03-31", `{"registrationId":"press"}`, 202, `{"operationId":"1","status":"assigning"}`,
			map[string]string{"Retry-After": "3", "Location": "https://example.com" + base + "press/register?api-version=2019-03-31"}, ""},
		{"PUT", "press/register/?api-version=2019-03-31", ``, 202, `"assigning"`, nil, ""},
		{"GET", "press/operations/1?api-version=2019-03-31", ``, 200, `"assignedHub":"hub.example"`, map[string]string{"Retry-After": ""}, ""},
		{"GET", "press/operations/2?api-version=2019-03-31", ``, 404, `"errorCode":404202`, nil, ""},
		{"POST", "press?api-version=2019-03-31", `{"registrationId":"press"}`, 200, `"deviceId":"press"`, nil, ""},
		{"POST", "new?api-version=2019-03-31", ``, 404, `"errorCode":404202`, nil, ""},
		{"POST", "press?api-version=2025-07-01-preview", `{"csr":"AAAA"}`, 400, `lookup`, nil, signet.RequestMalformed},
		{"PUT", "stranger/register?api-version=2019-03-31", `{`, 401, `{"errorCode":401002,"trackingId":"T","message":"Unauthorized",`, map[string]string{"x-ms-request-id": "T"}, ""},
		{"PUT", "off/register?api-version=2019-03-31", ``, 200, `{"operationId":"","status":"disabled","registrationState":{"registrationId":"off","status":"disabled"`, nil, ""},
		{"PUT", "away/register?api-version=2019-03-31", ``, 503, `"errorCode":503000`, map[string]string{"Retry-After": "2"}, ""},
		{"PUT", "often/register?api-version=2019-03-31", ``, 429, `"errorCode":429001`, map[string]string{"Retry-After": "2"}, ""},
		{"PUT", "press/register?api-version=2019-03-31", `{"tpm":{"endorsementKey":""}}`, 400, `no TPM`, nil, ""},
		{"PUT", "press/register?api-version=2019-03-31", `[]`, 400, `"errorCode":400000`, nil, signet.RequestMalformed},
		{"PUT", "press/register?api-version=2019-03-31", `{"payload":"` + strings.Repeat("x", 96<<10) + `"}`, 413, `"errorCode":413000`, nil, signet.LimitRequestSize},
		{"PUT", "press/register", ``, 400, `api-version`, nil, ""},
		{"DELETE", "press/register?api-version=2019-03-31", ``, 405, `"errorCode":405000`, map[string]string{"Allow": "PUT"}, ""},
		{"GET", "press/certificate?api-version=2019-03-31", ``, 404, `"errorCode":404000`, nil, ""},
	} {
		r := httptest.NewRequest(c.method, base+c.path, strings.NewReader(c.body))
		r.Header.Set("Content-Encoding", "utf-8") // as Node and C have it
		if !h.Takes(r.URL) {
			t.Fatalf("%s is not taken", c.path)
		}
		response := ask(h, r)
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != c.status || !strings.Contains(string(body), c.answer) || !json.Valid(body) {
			t.Errorf("%s %s: %d %s", c.method, c.path, response.StatusCode, body)
		}
		for name, want := range c.headers {
			if got := header(response, name); got != want {
				t.Errorf("%s %s: %s is %q", c.method, c.path, name, got)
			}
		}
		if header(response, "x-ms-request-id") == "" || response.StatusCode >= 400 && header(response, "x-ms-error-code") == "" {
			t.Errorf("%s %s: %v", c.method, c.path, response.Header)
		}
		codes := w.refusals()
		if len(codes) > 1 || len(codes) == 1 != (c.recorded != "") || len(codes) == 1 && codes[0] != c.recorded {
			t.Errorf("%s %s: recorded is %v", c.method, c.path, codes)
		}
	}
}

// TestRegistrationPaths: an ID scope tells a registration from what is a hub's or
// the back end's.
func TestRegistrationPaths(t *testing.T) {
	h, _ := plainHTTPS(t)
	for path, want := range map[string]bool{
		"/0ne00111111/registrations/press/register":       true,
		"/0NE00111111/Registrations/press":                true,
		"/0ne00111111/registrations":                      false,
		"/registrations/registrations/query":              false,
		"/devices/registrations/modules/m":                false,
		"/enrollments/registrations/attestationmechanism": false,
		"/0ne.example/registrations/press/register":       false,
	} {
		if got := h.Takes(httptest.NewRequest(http.MethodPut, path, nil).URL); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

// FuzzRegistrationName: no user name is both a hub's and a registration's, and
// none panics.
func FuzzRegistrationName(f *testing.F) {
	f.Add("0ne00111111/registrations/press/api-version=2019-03-31&ClientVersion=x")
	f.Add("hub.example/registrations/?api-version=2021-04-12")
	f.Add("0ne/registrations//")
	f.Fuzz(func(t *testing.T, text string) {
		scope, id, query, ok := parseRegistrationName(text)
		if !ok {
			return
		}
		if strings.Contains(scope, ".") || strings.Contains(id, "/") || !strings.Contains(text, scope+"/registrations/"+id) || !strings.HasSuffix(text, query) {
			t.Errorf("%q: %q %q %q", text, scope, id, query)
		}
	})
}

// TestRegistrationLostBeforeAnswer: a device that goes before its CONNACK is counted as
// under way no longer. Four of them would have shut it out for good.
func TestRegistrationLostBeforeAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := plainDoor(t, &fakeWaist{})
		connect := mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "press", HasUsername: true, Username: "0ne00111111/registrations/press/api-version=2019-03-31"})
		for range maxConversations {
			device := pipe(m)
			device.Write(connect)
			device.Close() // nobody reads the answer
			synctest.Wait()
		}
		device := pipe(m)
		defer device.Close()
		device.Write(connect)
		p, err := mqtt.NewClientReader(device, maxPacket).Next()
		if connack, ok := p.(*mqtt.Connack); !ok || connack.Code != mqtt.ConnAccepted {
			t.Errorf("the device is told %+v, %v", p, err)
		}
	})
}

// TestRegistrationLostLinks: links of a device that have died without a word keep it
// out no longer than it would be told to wait. Those that are heard of stay.
func TestRegistrationLostLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWaist{}
		m := plainDoor(t, w)
		come := func() (net.Conn, byte) {
			device := pipe(m)
			device.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "press", HasUsername: true, Username: "0ne00111111/registrations/press/api-version=2019-03-31"}))
			p, err := mqtt.NewClientReader(device, maxPacket).Next()
			if connack, ok := p.(*mqtt.Connack); ok {
				return device, connack.Code
			}
			t.Fatalf("the device is told %+v, %v", p, err)
			return nil, 0
		}
		speaks := func(device net.Conn) {
			t.Helper()
			device.Write(mqtt.AppendPingreq(nil))
			if p, err := mqtt.NewClientReader(device, maxPacket).Next(); err != nil {
				t.Errorf("%+v %v", p, err)
			}
		}
		var links []net.Conn
		for range maxConversations {
			link, code := come()
			if links = append(links, link); code != mqtt.ConnAccepted {
				t.Fatal(code)
			}
			defer link.Close()
		}
		time.Sleep(30 * time.Second)
		speaks(links[0])
		if _, code := come(); code != mqtt.ConnRefusedUnavailable {
			t.Errorf("a fifth at once: %d", code)
		}
		time.Sleep(10 * time.Second)
		device, code := come()
		if code != mqtt.ConnAccepted {
			t.Fatal(code)
		}
		defer device.Close()
		speaks(links[0])
		speaks(device)
		if _, err := mqtt.NewClientReader(links[1], maxPacket).Next(); err == nil {
			t.Error("the link that was silent longest is not closed")
		}
		for _, link := range append(links, device) {
			link.Close()
		}
		synctest.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.conversations) > 0 {
			t.Errorf("%v are left", m.conversations)
		}
		w.refusals()
	})
}
