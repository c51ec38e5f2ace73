// Package sdk_test runs the official Azure SDKs, unmodified, against a hub.
//
// They know no other ports than 8883, 5671 and 443, and want a host name with a dot. So
// the hub listens on a loopback address of its own, 127.83.x.y, and the SDKs run
// in a mount namespace in which /etc/hosts knows that address by name: the
// system's hosts file is never touched. Both need root (or rights to match);
// without them the tests are skipped.
package sdk_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
)

const host = "hub.signet.test"

// address is of this process alone, so that several can run at once.
var address = fmt.Sprintf("127.83.%d.%d", os.Getpid()>>8&0xff, os.Getpid()&0xff|1)

// startHub runs a hub on the ports and with the name that SDKs need.
func startHub(t *testing.T, options ...func(*server.Config)) *hubtest.Hub {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("no node: the SDK tests need Node.js 18 or newer")
	}
	for _, sdk := range []string{"azure-iot-device", "azure-iot-device-amqp", "azure-iot-provisioning-device-amqp", "@azure/event-hubs"} {
		if _, err := os.Stat("node_modules/" + sdk); err != nil {
			t.Skip("the SDKs are not all installed: run test/prepare (make test does)")
		}
	}
	if err := exec.Command("unshare", "-m", "true").Run(); err != nil {
		t.Skip("no mount namespaces here (unshare -m): the SDK tests need root")
	}
	l, err := net.Listen("tcp", address+":443")
	if err != nil {
		t.Skipf("cannot listen on %s:443: %v", address, err)
	}
	l.Close()
	return hubtest.Start(t, append(options, func(c *server.Config) {
		c.HostName, c.MQTT, c.HTTPS = host, address+":8883", address+":443"
	})...)
}

// node runs a script in a namespace where the hub's name resolves.
func node(t *testing.T, h *hubtest.Hub, args ...string) (string, error) {
	t.Helper()
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"+address+" "+host+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"-m", "sh", "-c",
		`mount --bind "$0" /etc/hosts && exec node "$@"`, hosts}, args...)...)
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+h.CAFile)
	out, err := cmd.CombinedOutput()
	t.Logf("node %s\n%s", args[0], out)
	return string(out), err
}

// api calls the service API as the owner would, for what the test needs first.
func createDevice(t *testing.T, h *hubtest.Hub, i signet.Identity) signet.Identity {
	t.Helper()
	i.Hub = h.Config.Hub
	created, err := h.Registry().Create(context.Background(), i)
	if err != nil {
		t.Fatal(err)
	}
	return created
}

func trust(t *testing.T, h *hubtest.Hub, ca *hubtest.CA) {
	t.Helper()
	if _, _, err := h.Authority().Register(context.Background(), h.Config.Hub, "acme", hubtest.PEM(ca.Cert.Raw), true, ""); err != nil {
		t.Fatal(err)
	}
}

// folder writes what the device holds, as signet ca device does.
func folder(t *testing.T, pair tls.Certificate) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"chain.pem": hubtest.PEM(pair.Certificate...), "device.key": hubtest.KeyPEM(t, pair.PrivateKey)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestDeviceSDK: a device signed two intermediates below the registered root
// connects on its first try, and what it sends is read back with what the hub
// stamped on it.
func TestDeviceSDK(t *testing.T) {
	h := startHub(t)
	root := hubtest.NewCA(t, "Acme Root")
	line := root.Intermediate(t, "Factory").Intermediate(t, "Line 4")
	trust(t, h, root)
	created := createDevice(t, h, signet.Identity{DeviceID: "press-17", Auth: signet.Authentication{Type: signet.AuthCA}})

	out, err := node(t, h, "device.js", host, "press-17", folder(t, line.Device(t, "press-17")), h.CAFile)
	if err != nil || !strings.Contains(out, "acknowledged") {
		t.Fatalf("%v: %s", err, out)
	}
	var got []*signet.Message
	err = h.Hub().Read(context.Background(), h.Config.Hub, hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
		got = append(got, m)
		return true
	})
	if err != nil || len(got) != 1 {
		t.Fatalf("%d messages, %v", len(got), err)
	}
	m := got[0]
	if string(m.Body) != `{"temperature":21.5}` || m.DeviceID != "press-17" || m.GenerationID != created.GenerationID ||
		!strings.Contains(m.AuthMethod, "x509Certificate") || time.Since(m.EnqueuedTime) > 4*time.Minute {
		t.Errorf("read back %+v", m)
	}
	has := func(ps []signet.Property, name, value string) {
		t.Helper()
		for _, p := range ps {
			if p.Name == name && p.Value == value {
				return
			}
		}
		t.Errorf("no %s=%s in %+v", name, value, ps)
	}
	has(m.System, "content-type", "application/json")
	has(m.System, "content-encoding", "utf-8")
	has(m.System, "message-id", "m-1")
	has(m.Properties, "alarm", "a&b/c=d e+f")
}

// TestDeviceSDKRefused: every refusal is Unauthorized to the SDK, which stops
// trying, and has a verdict with the right code.
func TestDeviceSDKRefused(t *testing.T) {
	h := startHub(t)
	root, stranger := hubtest.NewCA(t, "Acme Root"), hubtest.NewCA(t, "Stranger Root")
	factory := root.Intermediate(t, "Factory")
	trust(t, h, root)
	for _, id := range []string{"press-17", "off"} {
		i := signet.Identity{DeviceID: id, Auth: signet.Authentication{Type: signet.AuthCA}}
		if id == "off" {
			i.Status = signet.Disabled
		}
		createDevice(t, h, i)
	}
	createDevice(t, h, signet.Identity{DeviceID: "keyed"})
	leafOnly := factory.Device(t, "press-17")
	leafOnly.Certificate = leafOnly.Certificate[:1]
	for _, c := range []struct {
		id   string
		pair tls.Certificate
		code signet.Code
	}{
		{"press-17", stranger.Device(t, "press-17"), signet.ChainIssuerMissing},
		{"press-17", leafOnly, signet.ChainIssuerMissing},
		{"press-17", factory.Device(t, "press-18"), signet.IdentityCNMismatch},
		{"press-99", factory.Device(t, "press-99"), signet.IdentityUnknown},
		{"off", factory.Device(t, "off"), signet.IdentityDisabled},
		{"keyed", factory.Device(t, "keyed"), signet.IdentityAuthType},
	} {
		out, err := node(t, h, "device.js", host, c.id, folder(t, c.pair), h.CAFile)
		if err == nil || !strings.Contains(out, "UnauthorizedError") {
			t.Errorf("%s %s: %v %s", c.id, c.code, err, out)
		}
		if got := lastVerdict(t, h, c.id); got != c.code {
			t.Errorf("%s: verdict %s, want %s", c.id, got, c.code)
		}
	}
}

func TestSASDeviceSDK(t *testing.T) {
	h := startHub(t)
	d := createDevice(t, h, signet.Identity{DeviceID: "keyed"})
	good := signet.ConnectionString{HostName: host, DeviceID: "keyed", SharedAccessKey: d.Auth.PrimaryKey}
	if out, err := node(t, h, "sas.js", good.String(), h.CAFile); err != nil {
		t.Error(out)
	}
	bad := good
	bad.SharedAccessKey = h.Owner.SharedAccessKey
	if out, err := node(t, h, "sas.js", bad.String(), h.CAFile); err == nil || !strings.Contains(out, "UnauthorizedError") {
		t.Errorf("%v %s", err, out)
	}
	if got := lastVerdict(t, h, "keyed"); got != signet.TokenSignature {
		t.Errorf("verdict %s", got)
	}
}

func TestServiceSDK(t *testing.T) {
	h := startHub(t)
	owner := h.Owner
	owner.HostName = host
	if out, err := node(t, h, "registry.js", owner.String()); err != nil {
		t.Error(out)
	}
}

func TestManagementSDK(t *testing.T) {
	h := startHub(t)
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("no openssl: the proof is made with it")
	}
	ca, prover := provable(t, hubtest.NewCA(t, "Acme Root"))
	if out, err := node(t, h, "arm.js", "https://"+host, h.Token, h.Config.Hub, ca, prover); err != nil {
		t.Error(out)
	}
}

// provable writes a CA's certificate to a file, and gives a command that prints a
// proof of possession for the code it is given: by plain openssl, without a single
// extension.
func provable(t *testing.T, root *hubtest.CA) (ca, prover string) {
	t.Helper()
	dir := t.TempDir()
	ca = filepath.Join(dir, "ca.pem")
	for file, text := range map[string]string{ca: hubtest.PEM(root.Cert.Raw), filepath.Join(dir, "ca.key"): hubtest.KeyPEM(t, root.Key)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return ca, `cd ` + dir + ` && openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout proof.key -subj "/CN=$1" -out proof.csr 2>/dev/null &&
		openssl x509 -req -in proof.csr -CA ca.pem -CAkey ca.key -set_serial 1 -days 3 -out proof.pem 2>/dev/null && cat proof.pem`
}

// lastVerdict is the code of the newest refusal of a device.
func lastVerdict(t *testing.T, h *hubtest.Hub, device string) signet.Code {
	t.Helper()
	vs, err := h.Verdicts().List(context.Background(), authority.VerdictQuery{Hub: h.Config.Hub, DeviceID: device, Limit: 1})
	if err != nil || len(vs) != 1 {
		t.Fatalf("%d verdicts, %v", len(vs), err)
	}
	return vs[0].Code
}

// TestOtherDoors: the same device by MQTT over WebSocket and by HTTPS, with a
// certificate and with a key.
func TestOtherDoors(t *testing.T) {
	h := startHub(t)
	root := hubtest.NewCA(t, "Acme Root")
	line := root.Intermediate(t, "Factory").Intermediate(t, "Line 4")
	trust(t, h, root)
	createDevice(t, h, signet.Identity{DeviceID: "press-17", Auth: signet.Authentication{Type: signet.AuthCA}})
	keyed := createDevice(t, h, signet.Identity{DeviceID: "keyed"})
	certificate := folder(t, line.Device(t, "press-17"))
	x509 := "HostName=" + host + ";DeviceId=press-17;x509=true"
	sas := signet.ConnectionString{HostName: host, DeviceID: "keyed", SharedAccessKey: keyed.Auth.PrimaryKey}.String()
	for _, args := range [][]string{{"ws", x509, h.CAFile, certificate}, {"ws", sas, h.CAFile}, {"http", x509, h.CAFile, certificate}, {"http", sas, h.CAFile}} {
		out, err := node(t, h, append([]string{"doors.js"}, args...)...)
		if err != nil || !strings.Contains(out, "acknowledged") {
			t.Errorf("%s: %v %s", args[0], err, out)
		}
		if args[0] == "http" && !strings.Contains(out, "DefaultStorageEndpointNotConfigured") {
			t.Errorf("the upload of a file is not refused as it should be: %s", out)
		}
	}
	got := map[string][]*signet.Message{}
	err := h.Hub().Read(context.Background(), h.Config.Hub, hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
		got[m.DeviceID] = append(got[m.DeviceID], m)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for device, messages := range got {
		var bodies []string
		for _, m := range messages {
			bodies = append(bodies, string(m.Body))
		}
		if all := strings.Join(bodies, " "); all != `{"temperature":21.5} {"temperature":21.5} second third` {
			t.Errorf("%s sent %s", device, all)
			continue
		}
		single, batched := messages[1], messages[2]
		for _, want := range []signet.Property{{Name: "message-id", Value: "m-1"}, {Name: "content-type", Value: "application/json"}, {Name: "content-encoding", Value: "utf-8"}} {
			if !slices.Contains(single.System, want) {
				t.Errorf("no %v in %v", want, single.System)
			}
		}
		if !slices.Contains(single.Properties, signet.Property{Name: "alarm", Value: "a&b/c=d e+f"}) ||
			!slices.Contains(batched.Properties, signet.Property{Name: "Line", Value: "4"}) {
			t.Errorf("%v %v", single.Properties, batched.Properties)
		}
	}
	if len(got) != 2 {
		t.Errorf("%d devices have sent", len(got))
	}
}

// TestOtherDoorsRefused: the SDK understands a refusal at every door, and is told
// no more than that.
func TestOtherDoorsRefused(t *testing.T) {
	h := startHub(t)
	root, stranger := hubtest.NewCA(t, "Acme Root"), hubtest.NewCA(t, "Stranger Root")
	trust(t, h, root)
	createDevice(t, h, signet.Identity{DeviceID: "press-17", Auth: signet.Authentication{Type: signet.AuthCA}})
	for _, door := range []string{"ws", "http"} {
		for id, code := range map[string]signet.Code{"press-17": signet.ChainIssuerMissing, "press-99": signet.IdentityUnknown} {
			out, err := node(t, h, "doors.js", door, "HostName="+host+";DeviceId="+id+";x509=true", h.CAFile, folder(t, stranger.Device(t, id)))
			if err == nil || !strings.Contains(out, "UnauthorizedError") || strings.Contains(out, string(code)) {
				t.Errorf("%s %s: %v %s", door, id, err, out)
			}
			if got := lastVerdict(t, h, id); got != code {
				t.Errorf("%s %s: verdict %s, want %s", door, id, got, code)
			}
		}
	}
}
