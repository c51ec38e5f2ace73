package sdk_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/hubtest"
)

const service = "dps"

// enroll writes an enrollment as an operator would.
func enroll(t *testing.T, h *hubtest.Hub, e signet.Enrollment) signet.Enrollment {
	t.Helper()
	e.Service = service
	e, _, err := h.Provisioning().PutEnrollment(context.Background(), e, "")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func scope(t *testing.T, h *hubtest.Hub) string {
	t.Helper()
	s, err := h.Registry().HubByName(service)
	if err != nil {
		t.Fatal(err)
	}
	return s.IDScope
}

// provision has the SDK register a device, and gives what the device gets.
func provision(t *testing.T, h *hubtest.Hub, door, id, kind, secret string, payload ...string) (map[string]any, string) {
	t.Helper()
	out, _ := node(t, h, append([]string{"provision.js", door, host, scope(t, h), id, h.CAFile, kind, secret}, payload...)...)
	for line := range strings.Lines(out) {
		if text, ok := strings.CutPrefix(line, "result: "); ok {
			var result map[string]any
			if err := json.Unmarshal([]byte(text), &result); err != nil {
				t.Fatal(err)
			}
			return result, out
		}
	}
	return nil, out
}

var doors = []string{"mqtt", "ws", "amqp", "amqpws", "http"}

// TestProvisioningSDK: a device that has never been seen, two intermediates below
// a registered root, registers by each door, and connects to the hub that it got.
func TestProvisioningSDK(t *testing.T) {
	h := startHub(t, withAMQP)
	root := hubtest.NewCA(t, "Acme Root")
	line := root.Intermediate(t, "Factory").Intermediate(t, "Line 4")
	trusted := h.Trust(t, service, root)
	enroll(t, h, signet.Enrollment{Group: true, ID: "acme",
		Attestation: signet.Attestation{Type: signet.AttestX509, PrimaryCA: trusted.Name},
		InitialTwin: signet.InitialTwin{Tags: json.RawMessage(`{"plant":4}`), Desired: json.RawMessage(`{"interval":30}`)}})
	for _, door := range doors {
		id := "Press-" + door
		certificate := folder(t, line.Device(t, id))
		got, out := provision(t, h, door, id, "x509", certificate)
		if got["status"] != "assigned" || got["assignedHub"] != host || got["deviceId"] != id || got["substatus"] != "initialAssignment" {
			t.Fatalf("%s: %s", door, out)
		}
		if twin, err := h.Registry().Twin(context.Background(), h.Config.Hub, id, ""); err != nil || string(twin.Tags) != `{"plant":4}` || string(twin.Desired.Values) != `{"interval":30}` {
			t.Errorf("%s: %s %s %v", door, twin.Tags, twin.Desired.Values, err)
		}
		if out, err := node(t, h, "device.js", host, id, certificate, h.CAFile); err != nil || !strings.Contains(out, "acknowledged") {
			t.Errorf("%s: %v %s", door, err, out)
		}
	}
}

// TestProvisioningSDKByKey: with a key of its own, and with one that derives from
// its group's.
func TestProvisioningSDKByKey(t *testing.T) {
	h := startHub(t, withAMQP)
	own := enroll(t, h, signet.Enrollment{ID: "keyed", DeviceID: "meter-1", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
	group := enroll(t, h, signet.Enrollment{Group: true, ID: "meters", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
	for _, door := range doors {
		id := "Meter-" + door
		derived, err := signet.DeriveKey(group.Attestation.SecondaryKey, id)
		if err != nil {
			t.Fatal(err)
		}
		got, out := provision(t, h, door, id, "key", derived)
		if got["status"] != "assigned" || got["deviceId"] != id {
			t.Errorf("%s: %s", door, out)
		}
		device := signet.ConnectionString{HostName: host, DeviceID: id, SharedAccessKey: derived}
		if out, err := node(t, h, "sas.js", device.String(), h.CAFile); err != nil {
			t.Error(out)
		}
	}
	got, out := provision(t, h, "mqtt", "keyed", "key", own.Attestation.PrimaryKey)
	if got["status"] != "assigned" || got["deviceId"] != "meter-1" {
		t.Error(out)
	}
}

// TestProvisioningSDKRefused: each refusal reaches the SDK as Unauthorized with a
// tracking ID, or as what it is, and has a verdict that says why.
func TestProvisioningSDKRefused(t *testing.T) {
	h := startHub(t, withAMQP)
	root, stranger, unverified := hubtest.NewCA(t, "Acme Root"), hubtest.NewCA(t, "Stranger Root"), hubtest.NewCA(t, "Unverified Root")
	factory, stolen := root.Intermediate(t, "Factory"), root.Intermediate(t, "Stolen")
	trusted := h.Trust(t, service, root)
	if _, _, err := h.Authority().Register(context.Background(), service, "unverified", hubtest.PEM(unverified.Cert.Raw), false, ""); err != nil {
		t.Fatal(err)
	}
	by := func(der ...[]byte) signet.Attestation {
		return signet.Attestation{Type: signet.AttestX509, Primary: der[0]}
	}
	enroll(t, h, signet.Enrollment{Group: true, ID: "acme", Attestation: signet.Attestation{Type: signet.AttestX509, PrimaryCA: trusted.Name}})
	enroll(t, h, signet.Enrollment{Group: true, ID: "stolen", Status: signet.Disabled, Attestation: by(stolen.Cert.Raw)})
	off := factory.Device(t, "off")
	enroll(t, h, signet.Enrollment{ID: "off", Status: signet.Disabled, Attestation: by(off.Certificate[0])})
	enroll(t, h, signet.Enrollment{ID: "keyed", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
	leafOnly := factory.Device(t, "press-17")
	leafOnly.Certificate = leafOnly.Certificate[:1]

	for _, c := range []struct {
		name, id string
		pair     tls.Certificate
		told     string
		code     signet.Code
	}{
		{"an unknown chain", "press-17", stranger.Device(t, "press-17"), "Unauthorized", signet.ChainIssuerMissing},
		{"no intermediates", "press-17", leafOnly, "Unauthorized", signet.ChainIssuerMissing},
		{"an unverified CA", "press-17", unverified.Device(t, "press-17"), "Unauthorized", signet.AnchorUnverified},
		{"the CN of another", "press-17", factory.Device(t, "press-18"), "Unauthorized", signet.IdentityCNMismatch},
		{"an expired certificate", "press-17", factory.Device(t, "press-17", expired), "Unauthorized", signet.CertExpired},
		{"a key is enrolled", "keyed", factory.Device(t, "keyed"), "Unauthorized", signet.EnrollmentMismatch},
		{"a disabled enrollment", "off", off, "disabled", signet.EnrollmentDisabled},
		{"a disabled group below an enabled one", "press-17", stolen.Device(t, "press-17"), "disabled", signet.EnrollmentDisabled},
	} {
		for _, door := range doors {
			got, out := provision(t, h, door, c.id, "x509", folder(t, c.pair))
			if got != nil || !strings.Contains(out, c.told) {
				t.Errorf("%s, %s: %s", c.name, door, out)
			}
			v := verdict(t, h, c.id)
			if v.Code != c.code || !strings.Contains(out, v.TrackingID) && door != "http" {
				t.Errorf("%s, %s: verdict %s %s, told %s", c.name, door, v.Code, v.TrackingID, out)
			}
		}
	}
	for _, door := range doors {
		_, out := provision(t, h, door, "keyed", "key", "d3JvbmcgYXMgYSBrZXkgY2FuIGJl")
		if v := verdict(t, h, "keyed"); v.Code != signet.TokenSignature || !strings.Contains(out, "Unauthorized") {
			t.Errorf("%s: %s %s", door, v.Code, out)
		}
	}
}

func verdict(t *testing.T, h *hubtest.Hub, id string) signet.Verdict {
	t.Helper()
	vs, err := h.Verdicts().List(context.Background(), authority.VerdictQuery{Hub: service, DeviceID: id, Limit: 1})
	if err != nil || len(vs) != 1 {
		t.Fatalf("%d verdicts, %v", len(vs), err)
	}
	return vs[0]
}

func expired(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
}
