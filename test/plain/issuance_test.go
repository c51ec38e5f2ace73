package plain_test

import (
	"encoding/base64"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
)

// TestIssuanceOfPlainClients: an issuing CA made by openssl; a device that registers
// by curl with a request made by openssl, for a key of each kind, and publishes by
// mosquitto_pub.
func TestIssuanceOfPlainClients(t *testing.T) {
	need(t, "openssl", "curl", "mosquitto_pub")
	h := hubtest.Start(t, func(c *server.Config) {
		openssl(t, c.Data, "req", "-x509", "-newkey", "rsa:3072", "-keyout", "issuing.key", "-passout", "pass:1234", "-out", "issuing.pem", "-days", "30",
			"-subj", "/O=Acme/CN=Acme Issuing", "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
		write(t, c.Data, "pass", "1234\n")
		write(t, c.Data, "issuance.toml", "[[policy]]\nname = \"operational\"\ncertificate = \"issuing.pem\"\nkey = \"issuing.key\"\npassphrase_file = \"pass\"\nvalidity = \"24h\"\n")
	})
	factory := hubtest.NewCA(t, "Factory")
	registered := h.Trust(t, "dps", factory)
	if _, _, err := h.Provisioning().PutEnrollment(t.Context(), signet.Enrollment{Service: "dps", Group: true, ID: "presses", IssuancePolicy: "operational",
		Attestation: signet.Attestation{Type: signet.AttestX509, PrimaryCA: registered.Name}}, ""); err != nil {
		t.Fatal(err)
	}
	service, err := h.Registry().HubByName("dps")
	if err != nil {
		t.Fatal(err)
	}
	for id, key := range map[string][]string{"p384": {"EC", "-pkeyopt", "ec_paramgen_curve:P-384"}, "p256": {"EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
		"rsa": {"RSA", "-pkeyopt", "rsa_keygen_bits:2048"}, "ed25519": {"ED25519"}} {
		dir := device(t, factory.Device(t, id))
		openssl(t, dir, append([]string{"genpkey", "-out", "operational.key", "-algorithm"}, key...)...)
		openssl(t, dir, "req", "-new", "-key", "operational.key", "-subj", "/CN="+id, "-outform", "DER", "-out", "csr")
		var state struct {
			OperationID string `json:"operationId"`
			Status      string `json:"status"`
			State       struct {
				Issued [][]byte `json:"issuedCertificateChain"`
			} `json:"registrationState"`
		}
		curl := func(method, path, body string) {
			t.Helper()
			out, status := run(t, dir, "", "curl", "-sS", "--cacert", h.CAFile, "--cert", "chain.pem", "--key", "device.key", "-X", method, "-H", "Content-Type: application/json",
				"-d", body, "https://localhost:"+port(h.HTTPSAddr())+"/"+service.IDScope+"/registrations/"+id+"/"+path+"?api-version=2025-07-01-preview")
			if status != 0 || json.Unmarshal([]byte(out), &state) != nil {
				t.Fatalf("curl: exit %d\n%s", status, out)
			}
		}
		curl("PUT", "register", `{"registrationId":"`+id+`","csr":"`+base64.StdEncoding.EncodeToString([]byte(read(t, dir, "csr")))+`"}`)
		for range 2000 {
			if state.Status != "assigning" {
				break
			}
			time.Sleep(50 * time.Millisecond)
			curl("GET", "operations/"+state.OperationID, "")
		}
		if state.Status != "assigned" || len(state.State.Issued) != 2 {
			t.Fatalf("%s: %+v", id, state)
		}
		write(t, dir, "operational.pem", hubtest.PEM(state.State.Issued...))
		if out := openssl(t, dir, "verify", "-purpose", "sslclient", "-CAfile", filepath.Join(h.Config.Data, "issuing.pem"), "operational.pem"); !strings.Contains(out, ": OK") {
			t.Error(out)
		}
		out, status := run(t, dir, "", "mosquitto_pub", mosquitto(h, id, "--cert", "operational.pem", "--key", "operational.key", "-q", "1",
			"-t", "devices/"+id+"/messages/events/", "-m", "hello")...)
		if status != 0 || len(stored(t, h, id)) != 1 {
			t.Errorf("%s: exit %d\n%s", id, status, out)
		}
	}
}
