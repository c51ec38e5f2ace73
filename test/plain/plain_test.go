// Package plain_test runs the clients that every machine has against a hub:
// mosquitto's, openssl and curl, with certificates that openssl made. A test
// whose tool is not installed says so in one line and is skipped.
package plain_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

const tenant = "hub"

func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s: install it (test/prepare does, as root on Debian)", tool)
		}
	}
}

// run runs a tool in a folder and gives all that it says and its exit status.
func run(t *testing.T, dir, stdin, tool string, args ...string) (said string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%s: %v\n%s", tool, err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func openssl(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, status := run(t, dir, "", "openssl", args...)
	if status != 0 {
		t.Fatalf("openssl %s: exit %d\n%s", strings.Join(args, " "), status, out)
	}
	return out
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// device writes what a device holds, as signet ca device does.
func device(t *testing.T, pair tls.Certificate) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir, "chain.pem", hubtest.PEM(pair.Certificate...))
	write(t, dir, "device.key", hubtest.KeyPEM(t, pair.PrivateKey))
	return dir
}

func port(address string) string {
	_, p, _ := net.SplitHostPort(address)
	return p
}

// mosquitto gives the arguments of the README's recipe, up to what proves the
// device.
func mosquitto(h *hubtest.Hub, id string, more ...string) []string {
	return append([]string{"-h", "localhost", "-p", port(h.MQTTAddr()), "-V", "mqttv311", "--cafile", h.CAFile,
		"-i", id, "-u", "localhost/" + id + "/?api-version=2021-04-12"}, more...)
}

// verdict gives the code of the last refusal of a device.
func verdict(t *testing.T, h *hubtest.Hub, id string) signet.Code {
	t.Helper()
	vs, err := h.Verdicts().List(t.Context(), authority.VerdictQuery{Hub: tenant, DeviceID: id, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(vs) == 0 {
		return ""
	}
	return vs[0].Code
}

// stored gives the bodies that the hub keeps of a device, with their content
// types.
func stored(t *testing.T, h *hubtest.Hub, id string) (list []string) {
	t.Helper()
	err := h.Hub().Read(t.Context(), tenant, hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
		if m.DeviceID == id {
			text := string(m.Body)
			for _, p := range m.System {
				text += " " + p.Name + "=" + p.Value
			}
			list = append(list, text)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestMosquitto: the README's recipe, the same with a SAS token, and what is
// refused.
func TestMosquitto(t *testing.T) {
	need(t, "mosquitto_pub", "mosquitto_sub")
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Acme Root")
	line := root.Intermediate(t, "Acme Factory").Intermediate(t, "Line 4")
	h.Trust(t, tenant, root)
	h.CADevice(t, tenant, "press-17")
	mine := device(t, line.Device(t, "press-17"))
	certificate := []string{"--cert", "chain.pem", "--key", "device.key"}
	const topic = "devices/press-17/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8"

	out, status := run(t, mine, "", "mosquitto_pub", append(mosquitto(h, "press-17", certificate...), "-q", "1", "-t", topic, "-m", `{"temperature":21.5}`)...)
	if status != 0 {
		t.Fatalf("exit %d: %s", status, out)
	}
	if got := stored(t, h, "press-17"); len(got) != 1 || got[0] != `{"temperature":21.5} content-type=application/json content-encoding=utf-8` {
		t.Errorf("stored: %q", got)
	}

	t.Run("a SAS token", func(t *testing.T) {
		i, err := h.Registry().Create(t.Context(), signet.Identity{Hub: tenant, DeviceID: "keyed"})
		if err != nil {
			t.Fatal(err)
		}
		token := sas(t, "localhost/devices/keyed", "", i.Auth.SecondaryKey)
		args := mosquitto(h, "keyed", "-P", token, "-q", "1", "-t", "devices/keyed/messages/events/", "-m", "by key")
		if out, status := run(t, mine, "", "mosquitto_pub", args...); status != 0 {
			t.Fatalf("exit %d: %s", status, out)
		}
		if got := stored(t, h, "keyed"); len(got) != 1 || got[0] != "by key" {
			t.Errorf("stored: %q", got)
		}
	})
	t.Run("a stranger's chain", func(t *testing.T) {
		h.CADevice(t, tenant, "press-18")
		theirs := device(t, hubtest.NewCA(t, "Another Root").Intermediate(t, "Line 4").Device(t, "press-18"))
		args := append(mosquitto(h, "press-18", certificate...), "-q", "1", "-t", "devices/press-18/messages/events/", "-m", "x")
		out, status := run(t, theirs, "", "mosquitto_pub", args...)
		if status != mosquittoRefused || !strings.Contains(out, "not authorised") {
			t.Errorf("exit %d: %s", status, out)
		}
		if code := verdict(t, h, "press-18"); code != signet.ChainIssuerMissing {
			t.Errorf("the verdict is %q", code)
		}
	})
	t.Run("its own commands", func(t *testing.T) {
		args := append(mosquitto(h, "press-17", certificate...), "-q", "1", "-E", "-W", "120", "-t", "devices/press-17/messages/devicebound/#")
		if out, status := run(t, mine, "", "mosquitto_sub", args...); status != 0 {
			t.Errorf("exit %d: %s", status, out)
		}
		const topic = "devices/press-17/messages/devicebound/%24.mid=m-1&%24.to=%2Fdevices%2Fpress-17%2Fmessages%2FdeviceBound&iothub-ack=full&note=a%2Fb%20%26c"
		message(t, h, "press-17", "m-1", "hello")
		args = append(mosquitto(h, "press-17", certificate...), "-q", "1", "-v", "-C", "1", "-W", "120", "-t", "devices/press-17/messages/devicebound/#")
		if out, status := run(t, mine, "", "mosquitto_sub", args...); status != 0 || strings.TrimSpace(out) != topic+" hello" {
			t.Errorf("exit %d: %s", status, out)
		}
	})
	t.Run("its own commands, polled", func(t *testing.T) {
		need(t, "curl")
		message(t, h, "press-17", "m-2", "by curl")
		inbox := "https://localhost:" + port(h.HTTPSAddr()) + "/devices/press-17/messages/devicebound"
		curl := func(args ...string) string {
			out, status := run(t, mine, "", "curl", append([]string{"-sS", "--cacert", h.CAFile, "--cert", "chain.pem", "--key", "device.key"}, args...)...)
			if status != 0 {
				t.Fatalf("exit %d: %s", status, out)
			}
			return out
		}
		out := curl("-i", inbox+"?api-version=2021-04-12")
		token := regexp.MustCompile(`(?im)^etag: "([0-9a-f-]{36})"\r?$`).FindStringSubmatch(out)
		if token == nil || !strings.HasSuffix(out, "\r\nby curl") || !strings.Contains(strings.ToLower(out), "iothub-app-note: a/b &c") {
			t.Fatal(out)
		}
		for _, want := range []string{"204", "412"} {
			if status := curl("-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE", inbox+"/"+token[1]+"?api-version=2021-04-12"); status != want {
				t.Errorf("completed: %s, not %s", status, want)
			}
		}
	})
	for id, filter := range map[string]string{
		"for-everything": "#", "for-every-device": "devices/+/messages/events/#", "for-another": "devices/press-17/messages/devicebound/#",
	} {
		t.Run(id, func(t *testing.T) {
			h.CADevice(t, tenant, id)
			dir := device(t, line.Device(t, id))
			// It tries again for as long as it is told to: two seconds are enough, unless it
			// is not heard within them.
			out, status := "", 0
			for _, seconds := range []string{"2", "10", "60"} {
				args := append(mosquitto(h, id, certificate...), "-d", "-E", "-W", seconds, "-t", filter)
				if out, status = run(t, dir, "", "mosquitto_sub", args...); verdict(t, h, id) != "" {
					break
				}
			}
			if status == 0 || !strings.Contains(out, "CONNACK (0)") || strings.Contains(out, "SUBACK") || strings.Contains(out, "Subscribed") {
				t.Errorf("exit %d: %s", status, out)
			}
			if code := verdict(t, h, id); code != signet.RequestMalformed {
				t.Errorf("the verdict is %q", code)
			}
		})
	}
}

// message sends a message to a device.
func message(t *testing.T, h *hubtest.Hub, id, messageID, body string) {
	t.Helper()
	i, err := h.Registry().Get(t.Context(), tenant, id, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Commands().Send(t.Context(), signet.Command{
		CommandQueue: signet.CommandQueue{Hub: tenant, DeviceID: id, GenerationID: i.GenerationID}, MessageID: messageID, Ack: signet.AckFull,
		Properties: []signet.Property{{Name: "note", Value: "a/b &c"}}, Body: []byte(body),
	}); err != nil {
		t.Fatal(err)
	}
}

// mosquittoRefused is the exit status of mosquitto's clients after a CONNACK 5.
const mosquittoRefused = 5

// TestOpenSSL: what openssl s_client sees of the hub, and the hub of it.
func TestOpenSSL(t *testing.T) {
	need(t, "openssl")
	h := hubtest.Start(t)
	mine := device(t, hubtest.NewCA(t, "Acme Root").Intermediate(t, "Line 4").Device(t, "press-17"))
	client := func(stdin string, more ...string) (string, int) {
		args := append([]string{"s_client", "-connect", "localhost:" + port(h.MQTTAddr()), "-servername", "localhost",
			"-CAfile", h.CAFile, "-verify_hostname", "localhost", "-verify_return_error",
			"-cert", "chain.pem", "-cert_chain", "chain.pem", "-key", "device.key"}, more...)
		return run(t, mine, stdin, "openssl", args...)
	}
	for _, version := range []string{"TLSv1.2", "TLSv1.3"} {
		t.Run(version, func(t *testing.T) {
			out, status := client("", "-"+strings.ToLower(strings.NewReplacer("v", "", ".", "_").Replace(version)))
			for _, want := range []string{"Verify return code: 0 (ok)", "Verification: OK", version, "No client certificate CA names sent",
				"i:CN = Signet server CA"} {
				if !strings.Contains(out, want) {
					t.Errorf("exit %d, %q is not in:\n%s", status, want, out)
				}
			}
		})
	}
	for name, flags := range map[string][]string{
		"TLS 1.0":                   {"-tls1", "-cipher", "DEFAULT@SECLEVEL=0"},
		"TLS 1.1":                   {"-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"},
		"TLS 1.2, RSA key exchange": {"-tls1_2", "-cipher", "AES128-GCM-SHA256:AES128-SHA@SECLEVEL=0"},
	} {
		t.Run(name, func(t *testing.T) {
			out, status := client("", flags...)
			if status == 0 || !strings.Contains(out, "alert") || !strings.Contains(out, "Cipher is (NONE)") {
				t.Errorf("exit %d:\n%s", status, out)
			}
		})
	}
	t.Run("renegotiation", func(t *testing.T) {
		// s_client takes a line "R" for the wish to renegotiate.
		out, status := client("R\n", "-tls1_2")
		if !strings.Contains(out, "RENEGOTIATING") || !strings.Contains(out, "alert unexpected message") || status == 0 {
			t.Errorf("exit %d:\n%s", status, out)
		}
	})
	t.Run("no early data", func(t *testing.T) {
		session := filepath.Join(mine, "session.pem")
		// The tickets of TLS 1.3 come after the handshake: with the CONNACK at the
		// latest, which refuses a stranger.
		client(string(connect("nobody")), "-tls1_3", "-sess_out", session, "-ign_eof", "-quiet")
		out := openssl(t, mine, "sess_id", "-in", session, "-noout", "-text")
		if !strings.Contains(out, "TLS session ticket:") || !strings.Contains(out, "Max Early Data: 0") {
			t.Errorf("the ticket allows packets that may be taken twice:\n%s", out)
		}
	})
	t.Run("the chain is seen", func(t *testing.T) {
		r, err := http.Get("http://" + h.AdminAddr() + "/debug/traces?n=1000")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		page, err := io.ReadAll(r.Body)
		if err != nil || !strings.Contains(string(page), "CN=press-17") || !strings.Contains(string(page), "CN=Line 4") {
			t.Errorf("the traces show no chain: %v\n%s", err, page)
		}
	})
}

// connect is the CONNECT of MQTT 3.1.1, byte by byte.
func connect(id string) []byte {
	text := func(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }
	body := text("MQTT") + "\x04\x82\x00\x3c" + text(id) + text("localhost/"+id)
	return append([]byte{0x10, byte(len(body))}, body...)
}

// sas makes a token by the recipe of Azure's documentation, with none of the
// product's code.
func sas(t *testing.T, resource, policy, key string) string {
	t.Helper()
	secret, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	resource = url.QueryEscape(resource)
	expiry := fmt.Sprint(time.Now().Add(time.Hour).Unix())
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(resource + "\n" + expiry))
	token := "SharedAccessSignature sr=" + resource + "&sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))) + "&se=" + expiry
	if policy != "" {
		token += "&skn=" + policy
	}
	return token
}

// TestCurl: a device is made with curl and a SAS token; a CA is registered with
// curl and the admin token, and proven with openssl alone.
func TestCurl(t *testing.T) {
	need(t, "curl", "openssl")
	h := hubtest.Start(t)
	dir := t.TempDir()
	base := "https://localhost:" + port(h.HTTPSAddr())
	curl := func(want int, authorization, method, path, body string, more ...string) (answer map[string]any) {
		t.Helper()
		args := append([]string{"-sS", "--cacert", h.CAFile, "-X", method, "-H", "Authorization: " + authorization,
			"-H", "Content-Type: application/json", "-d", body, "-w", "\n%{http_code}", base + path}, more...)
		out, status := run(t, dir, "", "curl", args...)
		text, code, _ := cutLast(strings.TrimSpace(out), "\n")
		if status != 0 || code != fmt.Sprint(want) {
			t.Fatalf("%s %s: exit %d, not %d: %s", method, path, status, want, out)
		}
		if text != "" {
			if err := json.Unmarshal([]byte(text), &answer); err != nil {
				t.Fatalf("%s %s: %v in %s", method, path, err, text)
			}
		}
		return answer
	}

	owner := sas(t, "localhost", h.Owner.SharedAccessKeyName, h.Owner.SharedAccessKey)
	const press = "/devices/press-17?api-version=2021-04-12"
	made := curl(200, owner, "PUT", press, `{"deviceId":"press-17","authentication":{"type":"certificateAuthority"}}`)
	if made["deviceId"] != "press-17" || made["status"] != "enabled" {
		t.Errorf("%v", made)
	}
	curl(409, owner, "PUT", press, `{"deviceId":"press-17"}`)
	if got := curl(200, owner, "GET", press, ""); got["etag"] != made["etag"] || got["connectionState"] != "Disconnected" {
		t.Errorf("%v", got)
	}
	curl(404, owner, "GET", "/devices/press-18?api-version=2021-04-12", "")
	curl(401, sas(t, "localhost", "iothubowner", "AAAA"), "GET", press, "")
	curl(401, "", "GET", press, "")

	bearer := "Bearer " + h.Token
	const acme = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/hub/certificates/acme"
	const version = "?api-version=2023-06-30"
	openssl(t, dir, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=Plain Root")
	body := func(file string) string {
		text, _ := json.Marshal(read(t, dir, file))
		return `{"certificate":` + string(text) + `}`
	}
	ca := curl(201, bearer, "PUT", acme+version, `{"properties":`+body("ca.pem")+`}`)
	curl(401, "Bearer nonsense", "GET", acme+version, "")
	curl(412, bearer, "POST", acme+"/generateVerificationCode"+version, "", "-H", "If-Match: stale")
	ca = curl(200, bearer, "POST", acme+"/generateVerificationCode"+version, "", "-H", "If-Match: "+ca["etag"].(string))
	code := ca["properties"].(map[string]any)["verificationCode"].(string)
	openssl(t, dir, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "proof.key", "-out", "proof.csr", "-subj", "/CN="+code)
	openssl(t, dir, "x509", "-req", "-in", "proof.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", "7", "-days", "1", "-out", "proof.pem")
	ca = curl(200, bearer, "POST", acme+"/verify"+version, body("proof.pem"), "-H", "If-Match: "+ca["etag"].(string))
	if ca["properties"].(map[string]any)["isVerified"] != true {
		t.Errorf("%v", ca)
	}
	curl(200, bearer, "DELETE", acme+version, "", "-H", "If-Match: "+ca["etag"].(string))
	curl(204, owner, "DELETE", press, "", "-H", `If-Match: "*"`)
}

// TestCurlDevice: a device is a shell script: curl with a client certificate, by
// HTTP/1.1 and by what curl likes best.
func TestCurlDevice(t *testing.T) {
	need(t, "curl")
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	h.Trust(t, tenant, root)
	h.CADevice(t, tenant, "press-17")
	dir := t.TempDir()
	pair := root.Intermediate(t, "Line").Device(t, "press-17")
	write(t, dir, "chain.pem", hubtest.PEM(pair.Certificate...))
	write(t, dir, "device.key", hubtest.KeyPEM(t, pair.PrivateKey))
	base := "https://localhost:" + port(h.HTTPSAddr()) + "/devices/press-17/"
	curl := func(path string, args ...string) string {
		t.Helper()
		out, status := run(t, dir, "", "curl", append([]string{"-sS", "--cacert", h.CAFile, "-w", "%{http_code}", base + path + "?api-version=2021-04-12"}, args...)...)
		if status != 0 {
			t.Fatalf("curl: exit %d: %s", status, out)
		}
		return out
	}
	as := []string{"--cert", "chain.pem", "--key", "device.key", "-H", "iothub-app-alarm: yes", "-H", "Content-Type: application/octet-stream", "--data-binary"}
	for _, version := range []string{"--http1.1", "--compressed"} {
		if out := curl("messages/events", append(slices.Clone(as), version, version)...); out != "204" {
			t.Errorf("%s: %s", version, out)
		}
	}
	if out := curl("messages/events", "-d", "x"); !strings.HasSuffix(out, "401") || !strings.Contains(out, "ErrorCode:IotHubUnauthorizedAccess;Unauthorized") {
		t.Errorf("without a certificate: %s", out)
	}
	if out := curl("messages/events", append(slices.Clone(as), strings.Repeat("x", 70<<10), "--data-binary", strings.Repeat("x", 70<<10), "--data-binary", strings.Repeat("x", 70<<10), "--data-binary", strings.Repeat("x", 70<<10))...); !strings.HasSuffix(out, "413") {
		t.Errorf("280 KB: %s", out)
	}
	var got []string
	err := h.Hub().Read(t.Context(), tenant, hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
		got = append(got, fmt.Sprint(m.DeviceID, m.Properties, string(m.Body)))
		return true
	})
	if want := []string{"press-17[{alarm yes false}]--http1.1", "press-17[{alarm yes false}]--compressed"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q %v", got, err)
	}
}

func cutLast(s, separator string) (before, after string, found bool) {
	if n := strings.LastIndex(s, separator); n >= 0 {
		return s[:n], s[n+len(separator):], true
	}
	return "", s, false
}

// extensions are those of the makers of test certificates: certGen.sh of the C
// SDK, the test CA of azure-cli, and what openssl req and x509 need besides.
const extensions = `
[v3_ca]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always,issuer
basicConstraints = critical, CA:true
keyUsage = critical, digitalSignature, cRLSign, keyCertSign
[usr_cert]
basicConstraints = CA:FALSE
nsCertType = client, email
nsComment = "OpenSSL Generated Client Certificate"
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid,issuer
keyUsage = critical, nonRepudiation, digitalSignature, keyEncipherment
extendedKeyUsage = clientAuth, emailProtection
[azure_cli]
basicConstraints = critical, CA:TRUE, pathlen:1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[bare]
`

// TestCertificatesOfOpenSSL: the certificates that people have, made by openssl
// as they make them, let their devices in by mosquitto; weak ones do not.
func TestCertificatesOfOpenSSL(t *testing.T) {
	need(t, "openssl", "mosquitto_pub")
	h := hubtest.Start(t)
	ec, p384, ed25519 := []string{"ec", "-pkeyopt", "ec_paramgen_curve:P-256"}, []string{"ec", "-pkeyopt", "ec_paramgen_curve:P-384"}, []string{"ed25519"}
	rsa := func(bits int) []string { return []string{fmt.Sprintf("rsa:%d", bits)} }
	type made struct {
		key        []string
		extensions string
	}
	for _, c := range []struct {
		id           string
		root         made
		intermediate *made
		leaf         made
		refused      signet.Code
	}{
		{id: "by-req-and-x509", root: made{ec, "v3_ca"}, leaf: made{ec, "bare"}},
		{id: "by-certgen", root: made{rsa(4096), "v3_ca"}, intermediate: &made{rsa(4096), "v3_ca"}, leaf: made{rsa(4096), "usr_cert"}},
		{id: "by-azure-cli", root: made{rsa(2046), "azure_cli"}, leaf: made{rsa(2048), "bare"}},
		{id: "with-p384", root: made{p384, "v3_ca"}, leaf: made{p384, "usr_cert"}},
		{id: "with-ed25519", root: made{ec, "v3_ca"}, leaf: made{ed25519, "usr_cert"}},
		{id: "with-rsa-1024", root: made{ec, "v3_ca"}, leaf: made{rsa(1024), "usr_cert"}, refused: signet.CertWeakKey},
		{id: "below-rsa-1024", root: made{ec, "v3_ca"}, intermediate: &made{rsa(1024), "v3_ca"}, leaf: made{ec, "usr_cert"}, refused: signet.CertWeakKey},
	} {
		t.Run(c.id, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, "openssl.cnf", "[req]\ndistinguished_name = dn\n[dn]\n"+extensions)
			openssl(t, dir, append([]string{"req", "-x509", "-config", "openssl.cnf", "-extensions", c.root.extensions, "-nodes", "-keyout", "root.key", "-out", "root.pem",
				"-days", "30", "-sha256", "-set_serial", "1", "-subj", "/CN=Root " + c.id, "-newkey"}, c.root.key...)...)
			sign := func(name, subject, by string, m made) {
				openssl(t, dir, append([]string{"req", "-new", "-config", "openssl.cnf", "-nodes", "-keyout", name + ".key", "-out", name + ".csr", "-subj", subject, "-newkey"}, m.key...)...)
				openssl(t, dir, "x509", "-req", "-in", name+".csr", "-CA", by+".pem", "-CAkey", by+".key", "-set_serial", "1", "-days", "30", "-sha256",
					"-extfile", "openssl.cnf", "-extensions", m.extensions, "-out", name+".pem")
			}
			issuer, above := "root", ""
			if c.intermediate != nil {
				sign("intermediate", "/CN=Intermediate "+c.id, "root", *c.intermediate)
				issuer, above = "intermediate", read(t, dir, "intermediate.pem")
			}
			sign("device", "/CN="+c.id, issuer, c.leaf)
			write(t, dir, "chain.pem", read(t, dir, "device.pem")+above)

			block, _ := pem.Decode([]byte(read(t, dir, "root.pem")))
			root, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			h.Trust(t, tenant, &hubtest.CA{Cert: root})
			h.CADevice(t, tenant, c.id)
			if c.refused != "" {
				// openssl's own default refuses to send such a key; other stacks do.
				pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "chain.pem"), filepath.Join(dir, "device.key"))
				if err != nil {
					t.Fatal(err)
				}
				conf := h.ClientTLS()
				conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
				if code := h.Dial(t, conf).Connect(t, "localhost", c.id); code != 5 {
					t.Errorf("CONNACK %d", code)
				}
				if code := verdict(t, h, c.id); code != c.refused {
					t.Errorf("the verdict is %q, not %q", code, c.refused)
				}
				return
			}
			args := mosquitto(h, c.id, "--cert", "chain.pem", "--key", "device.key", "-q", "1", "-t", "devices/"+c.id+"/messages/events/", "-m", "hello")
			if out, status := run(t, dir, "", "mosquitto_pub", args...); status != 0 {
				t.Fatalf("exit %d: %s; verdict %s", status, out, verdict(t, h, c.id))
			}
			if got := stored(t, h, c.id); len(got) != 1 {
				t.Errorf("stored: %q", got)
			}
		})
	}
}
