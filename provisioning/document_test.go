package provisioning_test

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/provisioning"
)

// TestDocumentRoundTrip: what a back end reads, and sends back as it was, changes
// nothing, though the secrets were left out on the way.
func TestDocumentRoundTrip(t *testing.T) {
	o := newOffice(t)
	root := hubtest.NewCA(t, "Acme Root")
	o.register(t, "dps", "acme", root)
	twin := signet.InitialTwin{Tags: []byte(`{"hall":3}`), Desired: []byte(`{"rate":1.50}`)}
	for name, e := range map[string]signet.Enrollment{
		"keys": {ID: "d", DeviceID: "D*1", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}, EdgeDevice: true, InitialTwin: twin},
		"leaves": {ID: "press-17", Attestation: signet.Attestation{Type: signet.AttestX509, Primary: leaf(root.Device(t, "press-17")),
			Secondary: leaf(root.Device(t, "press-17"))}, IssuancePolicy: "line-3", HubAuth: signet.AuthCA, Status: signet.Disabled},
		"signers": {Group: true, ID: "g", Attestation: signet.Attestation{Type: signet.AttestX509, Primary: root.Intermediate(t, "Line 3").Cert.Raw},
			Allocation: signet.AllocateCustom, Webhook: signet.Webhook{URL: "https://w.example/a?code=s3cret", APIVersion: "2021-10-01"}},
		"CAs": {Group: true, ID: "h", Attestation: signet.Attestation{Type: signet.AttestX509, PrimaryCA: "acme"}, Information: []byte(`{"a":1}`),
			Allocation: signet.AllocateStatic, Hubs: []string{"west.example.com"}, Reprovision: signet.Reprovision{UpdateHub: true}},
	} {
		t.Run(name, func(t *testing.T) {
			e.Service = "dps"
			kept := o.put(t, e, "")
			text, err := json.Marshal(provisioning.NewDocument(&kept))
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range []string{kept.Attestation.PrimaryKey, kept.Attestation.SecondaryKey, "s3cret"} {
				if secret != "" && strings.Contains(string(text), secret) {
					t.Errorf("a secret is told: %s", text)
				}
			}
			var back provisioning.Document
			if err := json.Unmarshal(text, &back); err != nil {
				t.Fatal(err)
			}
			again, err := back.Enrollment("dps", e.Group, e.ID, &kept)
			if err != nil {
				t.Fatal(err)
			}
			again = o.put(t, again, kept.ETag)
			again.ETag, again.Updated = kept.ETag, kept.Updated
			if !reflect.DeepEqual(again, kept) {
				t.Errorf("got  %+v\nwant %+v", again, kept)
			}
		})
	}
}

// TestDocumentRead: what clients send, and what it means.
func TestDocumentRead(t *testing.T) {
	root := hubtest.NewCA(t, "Acme Root")
	device := root.Device(t, "d")
	pem := hubtest.PEM(leaf(device))
	escaped, _ := json.Marshal(pem)
	twice := base64.StdEncoding.EncodeToString([]byte(pem)) // as the C SDK sends it
	both, _ := json.Marshal(pem + hubtest.KeyPEM(t, device.PrivateKey))
	info, _ := json.Marshal(provisioning.NewCertificateInfo(leaf(device)))
	x509 := func(certificate string) string {
		return `{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":` + certificate + `}}}}`
	}
	old := &signet.Enrollment{IssuancePolicy: "p", HubAuth: signet.AuthCA, Attestation: signet.Attestation{PrimaryKey: "k1", SecondaryKey: "k2"}}
	for _, c := range []struct {
		name, body string
		group      bool
		old        *signet.Enrollment
		want       signet.Code
		is         func(e signet.Enrollment) bool
	}{
		{"next to nothing", `{"attestation":{"type":"symmetricKey"}}`, false, nil, "", func(e signet.Enrollment) bool {
			return e.ID == "d" && e.Reprovision == signet.Reprovision{UpdateHub: true, MigrateData: true} && e.Attestation.PrimaryKey == ""
		}},
		{"null for all", `{"registrationId":"D","deviceId":null,"attestation":{"type":"symmetricKey","x509":null,"symmetricKey":null,"tpm":null},"capabilities":null,
			"iotHubs":null,"customAllocationDefinition":null,"reprovisionPolicy":null,"initialTwin":{"tags":null,"properties":null},"optionalDeviceInformation":null,
			"credentialPolicyName":null,"registrationState":{"x":1},"etag":null}`, false, old, "", func(e signet.Enrollment) bool {
			return e.IssuancePolicy == "" && e.HubAuth == signet.AuthCA && e.InitialTwin.Tags == nil && e.Attestation.SecondaryKey == "k2"
		}},
		{"a hub as of old", `{"attestation":{"type":"symmetricKey"},"iotHubHostName":"h"}`, false, nil, "", func(e signet.Enrollment) bool {
			return e.Allocation == signet.AllocateStatic && len(e.Hubs) == 1
		}},
		{"PEM", x509(`{"certificate":` + string(escaped) + `}`), false, nil, "", func(e signet.Enrollment) bool { return string(e.Attestation.Primary) == string(leaf(device)) }},
		{"base64 of PEM", x509(`{"certificate":"` + twice + `","info":null}`), false, nil, "", func(e signet.Enrollment) bool { return string(e.Attestation.Primary) == string(leaf(device)) }},
		{"nothing instead of a certificate", x509(`{"certificate":null}`), false, nil, "", func(e signet.Enrollment) bool { return e.Attestation.Primary == nil }},
		{"a private key beside it", x509(`{"certificate":` + string(both) + `}`), false, nil, signet.UploadPrivateKey, nil},
		{"rubbish", x509(`{"certificate":"rubbish"}`), false, nil, signet.UploadMalformed, nil},
		{"a certificate that is not there", x509(`{"info":` + string(info) + `}`), false, old, signet.EnrollmentMalformed, nil},
		{"a device's certificate for a group", x509(`{"certificate":` + string(escaped) + `}`), true, nil, signet.EnrollmentMalformed, nil},
		{"another ID", `{"registrationId":"e","attestation":{"type":"symmetricKey"}}`, false, nil, signet.EnrollmentMalformed, nil},
		{"another group", `{"registrationId":"d","enrollmentGroupId":"e","attestation":{"type":"symmetricKey"}}`, true, nil, signet.EnrollmentMalformed, nil},
		{"a number as policy", `{"attestation":{"type":"symmetricKey"},"credentialPolicyName":7}`, false, nil, signet.EnrollmentMalformed, nil},
	} {
		var d provisioning.Document
		if err := json.Unmarshal([]byte(c.body), &d); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		e, err := d.Enrollment("dps", c.group, "d", c.old)
		if signet.CodeOf(err) != c.want || err == nil && !c.is(e) {
			t.Errorf("%s: %+v %v", c.name, e, err)
		}
	}
}

// FuzzDocument: whatever comes, it is read or refused, and what can be kept tells
// no secret.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{
		`{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"QUFBQUFBQUFBQUFBQUFBQQ==","secondaryKey":"QUFBQUFBQUFBQUFBQUFBQQ=="}}}`,
		`{"registrationId":"d","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":"MIIB","info":{"sha256Thumbprint":"aa"}}},"caReferences":{"primary":"a"}}}}`,
		`{"attestation":{"type":"tpm"},"initialTwin":{"tags":null,"properties":{"desired":{"a":{}}}},"credentialPolicyName":null,"hubAuthentication":"certificateAuthority"}`,
		`{"attestation":{"type":"symmetricKey"},"allocationPolicy":"custom","customAllocationDefinition":{"webhookUrl":"https://h/?a=QUFBQUFBQUFBQUFBQUFBQQ==","apiVersion":"v"}}`,
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, body string, group bool) {
		var d provisioning.Document
		if json.Unmarshal([]byte(body), &d) != nil {
			return
		}
		o := newOffice(t)
		e, err := d.Enrollment("dps", group, "d", nil)
		if err != nil {
			return
		}
		if e, _, err = o.PutEnrollment(t.Context(), e, ""); err != nil {
			return
		}
		text, err := json.Marshal(provisioning.NewDocument(&e))
		if err != nil {
			t.Fatalf("what was kept cannot be told: %v", err)
		}
		if e.Attestation.Type == signet.AttestSymmetricKey && !strings.Contains(string(text), `"symmetricKey":{"primaryKey":"","secondaryKey":""}`) {
			t.Errorf("keys are told: %s", text)
		}
	})
}
