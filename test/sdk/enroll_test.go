package sdk_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
)

// provisioningString reads the connection string that the server wrote for the
// owner of its provisioning service.
func provisioningString(t *testing.T, h *hubtest.Hub) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(h.Config.Data, "provisioning.connection-string"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// TestProvisioningServiceSDK: every operation of azure-iot-provisioning-service on
// enrollments and registrations, with its refusals.
func TestProvisioningServiceSDK(t *testing.T) {
	h := startHub(t)
	root := hubtest.NewCA(t, "Acme Root")
	line := root.Intermediate(t, "Line 4")
	if _, _, err := h.Authority().Register(context.Background(), service, "acme", hubtest.PEM(root.Cert.Raw), true, ""); err != nil {
		t.Fatal(err)
	}
	fleet := hubtest.NewCA(t, "Fleet Root")
	enroll(t, h, signet.Enrollment{Group: true, ID: "fleet", Attestation: signet.Attestation{Type: signet.AttestX509, PrimaryCA: h.Trust(t, service, fleet).Name}})
	if got, out := provision(t, h, "http", "press-20", "x509", folder(t, fleet.Device(t, "press-20"))); got == nil {
		t.Fatal(out)
	}
	dir := t.TempDir()
	for name, der := range map[string][]byte{"leaf.pem": line.Device(t, "press-17").Certificate[0], "line.pem": line.Cert.Raw} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(hubtest.PEM(der)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	owner := h.Owner
	owner.HostName = host
	if out, err := node(t, h, "enroll.js", provisioningString(t, h), filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "line.pem"), "acme", owner.String()); err != nil {
		t.Error(out)
	}
}

// TestProvisioningManagementSDK: @azure/arm-deviceprovisioningservices on the
// resource, its linked hubs, keys and CA certificates.
func TestProvisioningManagementSDK(t *testing.T) {
	h := startHub(t)
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("no openssl: the proof is made with it")
	}
	ca, prover := provable(t, hubtest.NewCA(t, "Acme Root"))
	if out, err := node(t, h, "armdps.js", "https://"+host, h.Token, service, scope(t, h), ca, prover); err != nil {
		t.Error(out)
	}
}
