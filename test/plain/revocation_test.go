package plain_test

import (
	"bytes"
	"crypto/tls"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
)

// A caDir is a CA as openssl keeps one, with a database of what it has issued.
type caDir struct{ dir string }

const caConfig = `
[ca]
default_ca = line
[line]
database = index.txt
serial = serial
crlnumber = crlnumber
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_days = 30
default_crl_days = 2
crl_extensions = crl_ext
policy = any
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = dn
[dn]
[ca_ext]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[crl_ext]
authorityKeyIdentifier = keyid
[device_ext]
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
[ocsp_ext]
keyUsage = critical,digitalSignature
extendedKeyUsage = OCSPSigning
`

func newCADir(t *testing.T) caDir {
	need(t, "openssl")
	ca := caDir{t.TempDir()}
	write(t, ca.dir, "ca.cnf", caConfig)
	write(t, ca.dir, "index.txt", "")
	write(t, ca.dir, "serial", "01\n")
	write(t, ca.dir, "crlnumber", "01\n")
	openssl(t, ca.dir, "req", "-x509", "-config", "ca.cnf", "-extensions", "ca_ext", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
		"-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Line", "-days", "30")
	return ca
}

// issue makes NAME.key and NAME.pem.
func (ca caDir) issue(t *testing.T, name, extensions string) {
	t.Helper()
	openssl(t, ca.dir, "req", "-new", "-config", "ca.cnf", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-keyout", name+".key", "-out", name+".csr", "-subj", "/CN="+name)
	openssl(t, ca.dir, "ca", "-batch", "-notext", "-config", "ca.cnf", "-extensions", extensions, "-in", name+".csr", "-out", name+".pem")
}

func (ca caDir) revoke(t *testing.T, name string) {
	t.Helper()
	openssl(t, ca.dir, "ca", "-config", "ca.cnf", "-revoke", name+".pem", "-crl_reason", "keyCompromise")
}

// crl makes crl.pem and crl.der.
func (ca caDir) crl(t *testing.T) {
	t.Helper()
	openssl(t, ca.dir, "ca", "-config", "ca.cnf", "-gencrl", "-out", "crl.pem")
	openssl(t, ca.dir, "crl", "-in", "crl.pem", "-outform", "DER", "-out", "crl.der")
}

func (ca caDir) device(t *testing.T, name string) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(ca.dir, name+".pem"), filepath.Join(ca.dir, name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// trusting registers the CA at a hub, and its devices.
func (ca caDir) trusting(t *testing.T, h *hubtest.Hub, devices ...string) *client.Client {
	t.Helper()
	if _, _, err := h.Authority().Register(t.Context(), tenant, "line", read(t, ca.dir, "ca.pem"), true, ""); err != nil {
		t.Fatal(err)
	}
	for _, id := range devices {
		ca.issue(t, id, "device_ext")
		h.CADevice(t, tenant, id)
	}
	c, err := client.New(client.Options{ConnectionString: h.Owner.String(), Token: h.Token, CAFile: h.CAFile})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCRL: openssl revokes; the session of the device ends with the upload, and
// nobody else's.
func TestCRL(t *testing.T) {
	ca, h := newCADir(t), hubtest.Start(t)
	c := ca.trusting(t, h, "press-17", "press-18")
	if _, _, err := c.SetRevocationPolicy(t.Context(), signet.RevocationPolicy{CA: "line", Mode: signet.RevocationHard}); err != nil {
		t.Fatal(err)
	}
	if code := h.Dial(t, h.ClientTLS(ca.device(t, "press-17"))).Connect(t, "localhost", "press-17"); code != 5 {
		t.Fatalf("CONNACK %d before there is a CRL", code)
	}
	if code := verdict(t, h, "press-17"); code != signet.CertRevocationUnknown {
		t.Errorf("the verdict is %q", code)
	}
	ca.crl(t)
	l, _, err := c.AddCRL(t.Context(), []byte(read(t, ca.dir, "crl.der")))
	if err != nil || l.Entries != 0 || l.Number != "1" || l.Source != "upload" {
		t.Fatalf("%+v %v", l, err)
	}
	revoked, other := h.Dial(t, h.ClientTLS(ca.device(t, "press-17"))), h.Dial(t, h.ClientTLS(ca.device(t, "press-18")))
	if a, b := revoked.Connect(t, "localhost", "press-17"), other.Connect(t, "localhost", "press-18"); a != 0 || b != 0 {
		t.Fatalf("CONNACK %d and %d", a, b)
	}

	ca.revoke(t, "press-17")
	ca.crl(t)
	l, receipts, err := c.AddCRL(t.Context(), []byte(read(t, ca.dir, "crl.pem")))
	if err != nil || l.Entries != 1 || l.Number != "2" {
		t.Fatalf("%+v %v", l, err)
	}
	if len(receipts) != 1 {
		t.Fatalf("%+v", receipts)
	}
	h.Cut(t, receipts[0], 1)
	revoked.WaitClosed(t)
	other.Publish(t, "press-18", "still here")
	if code := h.Dial(t, h.ClientTLS(ca.device(t, "press-17"))).Connect(t, "localhost", "press-17"); code != 5 {
		t.Errorf("CONNACK %d for who is revoked", code)
	}
	if code := verdict(t, h, "press-17"); code != signet.CertRevoked {
		t.Errorf("the verdict is %q", code)
	}

	// It is on disk.
	h.Stop()
	again := hubtest.Start(t, func(c *server.Config) { c.Data = h.Config.Data })
	if code := again.Dial(t, again.ClientTLS(ca.device(t, "press-17"))).Connect(t, "localhost", "press-17"); code != 5 {
		t.Errorf("CONNACK %d after a restart", code)
	}
	if code := again.Dial(t, again.ClientTLS(ca.device(t, "press-18"))).Connect(t, "localhost", "press-18"); code != 0 {
		t.Errorf("CONNACK %d after a restart for who is not revoked", code)
	}
}

// A responder is openssl ocsp, which signs with a certificate that the CA has
// appointed, behind an address that stays the same when it starts anew: each time
// it takes a port that is free, as one it had before may be somebody else's by now.
type responder struct {
	ca   caDir
	door *httptest.Server
	port atomic.Value
	stop func()
}

func (ca caDir) responder(t *testing.T) *responder {
	t.Helper()
	r := &responder{ca: ca, stop: func() {}}
	r.door = httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: "localhost:" + r.port.Load().(string)})
	}})
	t.Cleanup(r.door.Close)
	r.start(t)
	return r
}

// start has it read its database anew.
func (r *responder) start(t *testing.T) {
	t.Helper()
	r.stop()
	// To connect and say nothing, in order to see whether it is up, stops it for good:
	// it says itself when it is.
	said := &saying{}
	cmd := exec.Command("openssl", "ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "ocsp.pem", "-rkey", "ocsp.key",
		"-port", "0", "-nmin", "5")
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.ca.dir, said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.stop = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Cleanup(r.stop)
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		up := listening.FindStringSubmatch(said.String())
		if up != nil {
			r.port.Store(up[1])
			return
		}
		if time.Now().After(end) {
			r.stop()
			t.Fatalf("openssl ocsp does not start: %s", said)
		}
	}
}

var listening = regexp.MustCompile(`ACCEPT .*:(\d+) PID=\d+\n(?s:.*)waiting for OCSP client connections`)

// saying is what a process that runs has said.
type saying struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *saying) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *saying) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestOCSP: a real responder, with nonces, asked behind the devices' backs; what
// it says ends sessions.
func TestOCSP(t *testing.T) {
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	ca, h := newCADir(t), hubtest.Start(t, func(c *server.Config) { c.Now = now })
	c := ca.trusting(t, h, "press-17", "press-18")
	ca.issue(t, "ocsp", "ocsp_ext")
	ocsp := ca.responder(t)

	policy := signet.RevocationPolicy{CA: "line", Mode: signet.RevocationHard, OCSP: ocsp.door.URL, RequireNonce: true, AllowPrivate: true}
	if _, _, err := c.SetRevocationPolicy(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	connected := func(id string) *hubtest.Device {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
			d := h.Dial(t, h.ClientTLS(ca.device(t, id)))
			if d.Connect(t, "localhost", id) == 0 {
				return d
			}
			if code := verdict(t, h, id); code != signet.CertRevocationUnknown || time.Now().After(end) {
				t.Fatalf("%s is refused for %q: %+v", id, code, h.Authority().RevocationSources(tenant))
			}
		}
	}
	revoked, other := connected("press-17"), connected("press-18")

	// Between two questions the CA revokes; the responder reads its database anew.
	ca.revoke(t, "press-17")
	ocsp.start(t)
	ahead.Store(int64(4 * time.Minute))
	revoked.WaitClosed(t)
	other.Publish(t, "press-18", "still here")
	if code := h.Dial(t, h.ClientTLS(ca.device(t, "press-17"))).Connect(t, "localhost", "press-17"); code != 5 {
		t.Errorf("CONNACK %d for who is revoked", code)
	}
	if code := verdict(t, h, "press-17"); code != signet.CertRevoked {
		t.Errorf("the verdict is %q", code)
	}
	s, err := c.CRLs(t.Context())
	if err != nil || len(s.Sources) != 1 || s.Sources[0].Kind != "ocsp" || s.Sources[0].Certificates != 2 || !strings.HasPrefix(s.Sources[0].URL, ocsp.door.URL) {
		t.Errorf("%+v %v", s, err)
	}

	// The admin alone sends the server to private addresses.
	byOwner, err := client.New(client.Options{ConnectionString: h.Owner.String(), CAFile: h.CAFile})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := byOwner.SetRevocationPolicy(t.Context(), policy); signet.CodeOf(err) != signet.TokenRights {
		t.Errorf("the owner: %v", err)
	}
}
