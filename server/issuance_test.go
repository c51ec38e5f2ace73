package server_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/issuance"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/server"
	"github.com/signet-iot/signet/token"
	"github.com/signet-iot/signet/wire/mqtt"
)

// issuing writes a CA into a folder as signet ca does, with its key encrypted, and
// the policy file that names it.
func issuing(t testing.TB, folder, more string) *pki.CA {
	t.Helper()
	root := newCA(t, "Acme Root")
	sub := newKey(t)
	chain, err := root.Intermediate("Acme Issuing", sub.Public(), 0, time.Now(), 365)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.OpenCA(chain[0], nil, sub)
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.MarshalKey(sub, []byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"issuing/ca.pem":     []byte(hubtest.PEM(ca.Certificate.Raw, root.Certificate.Raw)),
		"issuing/ca.key":     text,
		"issuing/passphrase": []byte("correct horse\n"),
		"issuance.toml": []byte(`[[policy]]
name = "operational"
certificate = "issuing/ca.pem"
key = "issuing/ca.key"
passphrase_file = "issuing/passphrase"
validity = "48h"
` + more),
	} {
		writeFile(t, filepath.Join(folder, name), text)
	}
	return ca
}

func writeFile(t testing.TB, name string, text []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCA(t testing.TB, name string) *pki.CA {
	t.Helper()
	ca, err := pki.NewRoot(name, newKey(t), time.Now(), 3650)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newCSR(t testing.TB, key crypto.Signer, cn string) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// operational is the certificate of a device as it holds it.
func operational(chain []*x509.Certificate, key crypto.Signer) tls.Certificate {
	c := tls.Certificate{PrivateKey: key}
	for _, cert := range chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}

// A renewer is a device that talks of certificates with its hub.
type renewer struct {
	*hubtest.Device
	t  *testing.T
	id string
}

// listen subscribes to the answers.
func (d *renewer) listen() {
	d.t.Helper()
	d.Send(d.t, mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "$iothub/credentials/res/#"}}}))
	if p, err := d.In.Next(); err != nil {
		d.t.Fatal(err)
	} else if _, ok := p.(*mqtt.Suback); !ok {
		d.t.Fatalf("%T", p)
	}
}

type credentialAnswer struct {
	status, rid      string
	ErrorCode        int               `json:"errorCode"`
	Message          string            `json:"message"`
	TrackingID       string            `json:"trackingId"`
	Info             map[string]string `json:"info"`
	CorrelationID    string            `json:"correlationId"`
	OperationExpires string            `json:"operationExpires"`
	Certificates     [][]byte          `json:"certificates"`
}

func (d *renewer) ask(rid string, csr []byte) {
	d.t.Helper()
	body := fmt.Sprintf(`{"id":%q,"csr":%q}`, d.id, base64.StdEncoding.EncodeToString(csr))
	d.Send(d.t, mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 0, Topic: "$iothub/credentials/POST/issueCertificate/?$rid=" + rid, Payload: []byte(body)}))
}

func (d *renewer) answer() (a credentialAnswer) {
	d.t.Helper()
	p, err := d.In.Next()
	if err != nil {
		d.t.Fatal(err)
	}
	publish, ok := p.(*mqtt.Publish)
	if !ok {
		d.t.Fatalf("%T", p)
	}
	rest, ok := strings.CutPrefix(publish.Topic, "$iothub/credentials/res/")
	a.status, a.rid, _ = strings.Cut(rest, "/?$rid=")
	if err := json.Unmarshal(publish.Payload, &a); err != nil || !ok {
		d.t.Fatalf("%s %s: %v", publish.Topic, publish.Payload, err)
	}
	return a
}

// renew asks for a certificate and gives its chain.
func (d *renewer) renew(rid string, csr []byte) []*x509.Certificate {
	d.t.Helper()
	d.ask(rid, csr)
	if a := d.answer(); a.status != "202" || a.rid != rid || a.CorrelationID == "" || len(a.OperationExpires) != len("2026-01-31T12:52:20.565000000Z") {
		d.t.Fatalf("%+v", a)
	}
	a := d.answer()
	if a.status != "200" || a.rid != rid || len(a.Certificates) != 3 {
		d.t.Fatalf("%+v", a)
	}
	return parseChain(d.t, a.Certificates)
}

func parseChain(t testing.TB, ders [][]byte) (chain []*x509.Certificate) {
	t.Helper()
	certs, err := x509.ParseCertificates(bytes.Join(ders, nil))
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

// aClock is moved by hand; it begins at the true time, by which crypto/tls judges.
type aClock struct {
	mu sync.Mutex
	by time.Duration
}

func (c *aClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.by)
}

func (c *aClock) forward(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by += by
}

// TestCertificateRenewal: a device connects with the certificate that was issued to it, renews
// it on its own connection, and comes back with the new one; the old one stays good
// until its end, and is then of no use but to renew itself, if the policy says so.
func TestCertificateRenewal(t *testing.T) {
	clock := &aClock{}
	h := hubtest.Start(t, func(c *server.Config) {
		c.Now = clock.now
		issuing(t, c.Data, "renew_expired = \"24h\"\n")
	})
	h.CADevice(t, tenant, "press-17")
	key := newKey(t)
	chain, err := h.Issuance().Issue(t.Context(), signet.CertificateOrder{Service: "dps", Policy: "operational", HostName: "localhost",
		DeviceID: "press-17", CSR: newCSR(t, key, "press-17"), Operation: "o1"})
	if err != nil {
		t.Fatal(err)
	}
	connect := func(c tls.Certificate) (*renewer, byte) {
		d := &renewer{h.Dial(t, h.ClientTLS(c)), t, "press-17"}
		return d, d.Connect(t, "localhost", "press-17")
	}
	first := operational(chain, key)
	d, code := connect(first)
	if code != 0 {
		t.Fatalf("CONNACK %d for what was just issued", code)
	}
	d.Publish(t, "press-17", "hello")
	d.listen()
	newer := newKey(t)
	request := newCSR(t, newer, "press-17")
	second := d.renew("r-1", request)
	d.Publish(t, "press-17", "still here") // the session goes on
	if again := d.renew("r-1", request); !again[0].Equal(second[0]) {
		t.Error("the same request has another outcome")
	}
	d.ask("r-2", newCSR(t, newKey(t), "press-18"))
	if a := d.answer(); a.status != "202" {
		t.Errorf("%+v", a)
	}
	if a := d.answer(); a.status != "400" || a.ErrorCode != 400037 || !strings.Contains(a.Info["credentialMessage"], "press-18") || a.TrackingID == "" {
		t.Errorf("%+v", a)
	}
	vs, err := h.Verdicts().List(t.Context(), authority.VerdictQuery{Hub: tenant, DeviceID: "press-17", Limit: 5})
	if err != nil || len(vs) != 1 || vs[0].Code != signet.CSRName {
		t.Errorf("%+v %v", vs, err)
	}

	// Back with the old certificate, it hears of the renewal that it seems to have
	// missed; with the new one, there is nothing to hear.
	d, code = connect(first)
	if code != 0 {
		t.Fatalf("CONNACK %d for the certificate of before", code)
	}
	d.listen()
	if a := d.answer(); a.status != "200" || a.rid != "r-1" || !bytes.Equal(a.Certificates[0], second[0].Raw) {
		t.Errorf("%+v", a)
	}
	d, code = connect(operational(second, newer))
	if code != 0 {
		t.Fatalf("CONNACK %d for the renewed certificate", code)
	}
	d.listen()
	d.Publish(t, "press-17", "nothing came in between")

	// Past its end, the certificate lets the device in to renew it, not beside a
	// session that is good, and for nothing else.
	clock.forward(48*time.Hour + time.Minute)
	if _, code := connect(first); code != 5 {
		t.Errorf("CONNACK %d for an expired certificate beside a session", code)
	}
	d.Close()
	waitFor(t, func() bool { return !h.Hub().Connected(tenant, "press-17", "") })
	d, code = connect(first)
	if code != 0 {
		t.Fatalf("CONNACK %d, to renew", code)
	}
	if h.Hub().Connected(tenant, "press-17", "") {
		t.Error("it counts as connected")
	}
	d.listen()
	third := d.renew("r-3", request)
	d.Send(t, mqtt.AppendPublish(nil, &mqtt.Publish{Topic: "devices/press-17/messages/events/", Payload: []byte("and this")}))
	d.WaitClosed(t)
	d, code = connect(operational(third, newer))
	if code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	d.Publish(t, "press-17", "back")
	d.Close()
	waitFor(t, func() bool { return !h.Hub().Connected(tenant, "press-17", "") })

	// Never for a device that is disabled, whose CA is distrusted, or too late.
	i, err := h.Registry().Get(t.Context(), tenant, "press-17", "")
	if err != nil {
		t.Fatal(err)
	}
	i.Status = signet.Disabled
	if i, err = h.Registry().Replace(t.Context(), i, "*"); err != nil {
		t.Fatal(err)
	}
	if _, code := connect(first); code != 5 {
		t.Errorf("CONNACK %d, disabled", code)
	}
	i.Status = signet.Enabled
	if _, err = h.Registry().Replace(t.Context(), i, "*"); err != nil {
		t.Fatal(err)
	}
	if d, code := connect(first); code != 0 {
		t.Errorf("CONNACK %d, enabled", code)
	} else {
		d.Close()
	}
	distrusted, err := h.Authority().Distrust(t.Context(), tenant, signet.Distrust{By: "admin"}, chain[1:2])
	if err != nil {
		t.Fatal(err)
	}
	if _, code := connect(first); code != 5 {
		t.Errorf("CONNACK %d, distrusted", code)
	}
	if err := h.Authority().LiftDistrust(t.Context(), tenant, distrusted.ID); err != nil {
		t.Fatal(err)
	}
	clock.forward(24 * time.Hour)
	if _, code := connect(first); code != 5 {
		t.Errorf("CONNACK %d, too late", code)
	}
}

func waitFor(t testing.TB, condition func() bool) {
	t.Helper()
	for range 12_000 {
		if condition() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it does not come to pass")
}

// TestCertificateRenewalRefused: a certificate of the factory, one known by its
// thumbprint: neither was issued here.
func TestCertificateRenewalRefused(t *testing.T) {
	h := hubtest.Start(t, func(c *server.Config) { issuing(t, c.Data, "") })
	ca := hubtest.NewCA(t, "Factory")
	h.Trust(t, tenant, ca)
	h.CADevice(t, tenant, "press-17")
	lathe := ca.Device(t, "lathe")
	if _, err := h.Registry().Create(t.Context(), signet.Identity{Hub: tenant, DeviceID: "lathe",
		Auth: signet.Authentication{Type: signet.AuthSelfSigned, PrimaryThumbprint: pki.ThumbprintSHA256(lathe.Leaf.Raw)}}); err != nil {
		t.Fatal(err)
	}
	for id, c := range map[string]tls.Certificate{"press-17": ca.Device(t, "press-17"), "lathe": lathe} {
		d := &renewer{h.Dial(t, h.ClientTLS(c)), t, id}
		if code := d.Connect(t, "localhost", id); code != 0 {
			t.Fatal(code)
		}
		d.listen()
		d.ask("r-1", newCSR(t, newKey(t), id))
		if a := d.answer(); a.status != "403" || a.ErrorCode != 403010 || !strings.Contains(a.Message, "was issued here") {
			t.Errorf("%s: %+v", id, a)
		}
	}
	list, err := h.Issuance().Issued(t.Context(), issuance.Query{Service: "dps", Limit: 9})
	if err != nil || len(list) != 0 {
		t.Errorf("%+v %v", list, err)
	}
}

// TestIssuanceFile: the file is read again when it changes; what cannot be meant is
// refused with the reason, and what was in force stays.
func TestIssuanceFile(t *testing.T) {
	clock := &aClock{}
	var log bytes.Buffer
	var mu sync.Mutex
	h := hubtest.Start(t, func(c *server.Config) {
		c.Now = clock.now
		c.Logger = slog.New(slog.NewTextHandler(writer(func(b []byte) { mu.Lock(); defer mu.Unlock(); log.Write(b) }), nil))
	})
	file := filepath.Join(h.Config.Data, "issuance.toml")
	names := func() string {
		t.Helper()
		clock.forward(2 * time.Second)
		var names []string
		for _, p := range h.Issuance().List("") {
			names = append(names, p.Service+"/"+p.Name+" "+p.Validity.String()+" "+strings.Join(p.Keys, ","))
		}
		return strings.Join(names, "; ")
	}
	if got := names(); got != "" {
		t.Error(got)
	}
	issuing(t, h.Config.Data, "")
	const good = "dps/operational 48h0m0s p256,p384,ed25519,rsa"
	if got := names(); got != good {
		t.Error(got)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []struct{ text, said string }{
		{"[[policy]]\nname = \"-\"\n", "letters, digits and hyphens"},
		{string(text) + "valdity = \"1h\"\n", "no such setting"},
		{string(text) + string(text), "there twice"},
		{strings.Replace(string(text), "48h", "59m", 1), "validity is from"},
		{strings.Replace(string(text), "48h", "900000h", 1), "validity is from"},
		{string(text) + "renew_expired = \"-1h\"\n", "renew_expired"},
		{string(text) + "keys = [\"dsa\"]\n", "no kind of key"},
		{strings.Replace(string(text), "ca.key", "none.key", 1), "no such file"},
		{strings.Replace(string(text), "ca.pem\"", "passphrase\"", 1), "holds no certificate"},
		{strings.Replace(string(text), "passphrase_file", "#", 1), "names no file with it"},
		{strings.Replace(string(text), "issuing/passphrase", "issuing/ca.pem", 1), "passphrase"},
		{"not TOML", "issuance.toml"},
	} {
		mu.Lock()
		log.Reset()
		mu.Unlock()
		writeFile(t, file, []byte(bad.text))
		if got := names(); got != good {
			t.Errorf("%s: %q", bad.said, got)
		}
		mu.Lock()
		if said := log.String(); !strings.Contains(said, bad.said) || !strings.Contains(said, "the old ones stay") || strings.Contains(said, "correct horse") {
			t.Errorf("%q is not in %s", bad.said, said)
		}
		mu.Unlock()
	}
	writeFile(t, file, append(text, "service = \"dqs\"\n"...))
	if got := names(); got != strings.Replace(good, "dps", "dqs", 1) {
		t.Error(got)
	}
	mu.Lock()
	if said := log.String(); !strings.Contains(said, "a provisioning service that is not there") || !strings.Contains(said, "dqs") {
		t.Error(said)
	}
	mu.Unlock()
	writeFile(t, file, []byte(strings.Replace(string(text), "48h", "2h", 1)+"keys = [\"p384\"]\n"))
	if got := names(); got != "dps/operational 2h0m0s p384" {
		t.Error(got)
	}
	// A CA that takes the place of another counts at once.
	before := h.Issuance().List("dps")[0].Thumbprint
	issuing(t, h.Config.Data, "")
	names()
	if h.Issuance().List("dps")[0].Thumbprint == before {
		t.Error("the CA of before is in force")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := names(); got != "" {
		t.Error(got)
	}
	// A start with a bad file is none.
	cfg := h.Config
	h.Stop()
	writeFile(t, file, []byte("[[policy]]\n"))
	if s, err := server.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "issuance") {
		t.Errorf("%v %v", s, err)
	}
	os.Remove(file)
	cfg.Issuance = file
	if s, err := server.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v %v", s, err)
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

// TestKeyStaysInItsFile: nothing of the issuing key, nor its passphrase, is in the
// data folder besides its own file, nor in what is said.
func TestKeyStaysInItsFile(t *testing.T) {
	var said bytes.Buffer
	var mu sync.Mutex
	h := hubtest.Start(t, func(c *server.Config) {
		issuing(t, c.Data, "")
		c.Logger = slog.New(slog.NewTextHandler(writer(func(b []byte) { mu.Lock(); defer mu.Unlock(); said.Write(b) }), &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	text, err := os.ReadFile(filepath.Join(h.Config.Data, "issuing/ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParseKey(text, func() ([]byte, error) { return []byte("correct horse"), nil })
	if err != nil {
		t.Fatal(err)
	}
	secret, err := key.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Issuance().Issue(t.Context(), signet.CertificateOrder{Service: "dps", Policy: "operational", HostName: "localhost",
		DeviceID: "press-17", CSR: newCSR(t, newKey(t), "press-17"), Operation: "o1"}); err != nil {
		t.Fatal(err)
	}
	h.Stop()
	looked := 0
	err = filepath.WalkDir(h.Config.Data, func(name string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.Contains(name, "issuing/") {
			return err
		}
		b, err := os.ReadFile(name)
		for _, form := range [][]byte{secret, []byte(base64.StdEncoding.EncodeToString(secret)), []byte(fmt.Sprintf("%x", secret)), []byte("correct horse"), text[:200]} {
			if bytes.Contains(b, form) {
				t.Errorf("%s holds it", name)
			}
		}
		looked++
		return err
	})
	if err != nil || looked < 5 {
		t.Errorf("%d files, %v", looked, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if log := said.String(); strings.Contains(log, "correct horse") || strings.Contains(log, "PRIVATE KEY") || !strings.Contains(log, "certificate issued") {
		t.Error("the log tells too much, or too little")
	}
}

// TestOneHubsCertificate: one CA issues for two hubs, whose devices happen to have
// one ID; the certificate of the one is nothing at the other.
func TestOneHubsCertificate(t *testing.T) {
	h := hubtest.Start(t, func(c *server.Config) { issuing(t, c.Data, "") })
	if _, err := h.Registry().CreateHub(t.Context(), "other", "other.test"); err != nil {
		t.Fatal(err)
	}
	pairs := map[string]tls.Certificate{}
	for name, host := range map[string]string{tenant: "localhost", "other": "other.test"} {
		h.CADevice(t, name, "press-17")
		key := newKey(t)
		chain, err := h.Issuance().Issue(t.Context(), signet.CertificateOrder{Service: "dps", Policy: "operational", HostName: host,
			DeviceID: "press-17", CSR: newCSR(t, key, "press-17"), Operation: host})
		if err != nil {
			t.Fatal(err)
		}
		pairs[host] = operational(chain, key)
	}
	for _, at := range []string{"localhost", "other.test"} {
		for of, pair := range pairs {
			code := h.Dial(t, h.ClientTLS(pair)).Connect(t, at, "press-17")
			if (code == 0) != (of == at) {
				t.Errorf("the certificate of %s at %s: CONNACK %d", of, at, code)
			}
		}
	}
	vs, err := h.Verdicts().List(t.Context(), authority.VerdictQuery{Hub: tenant, DeviceID: "press-17", Limit: 5})
	if err != nil || len(vs) != 1 || vs[0].Code != signet.CertOutOfScope || !strings.Contains(vs[0].Message, "other.test") {
		t.Errorf("%+v %v", vs, err)
	}
}

// enroll writes an enrollment as an operator would.
func enroll(t testing.TB, h *hubtest.Hub, e signet.Enrollment) signet.Enrollment {
	t.Helper()
	e.Service = "dps"
	e, _, err := h.Provisioning().PutEnrollment(t.Context(), e, "")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// A registrant registers over HTTPS, by its certificate or by a token.
type registrant struct {
	t           testing.TB
	h           *hubtest.Hub
	id, scope   string
	certificate *tls.Certificate
	key         string
}

type registrationAnswer struct {
	status      int
	OperationID string `json:"operationId"`
	Status      string `json:"status"`
	ErrorCode   int    `json:"errorCode"`
	State       struct {
		AssignedHub  string   `json:"assignedHub"`
		DeviceID     string   `json:"deviceId"`
		ErrorCode    int      `json:"errorCode"`
		ErrorMessage string   `json:"errorMessage"`
		Issued       [][]byte `json:"issuedCertificateChain"`
	} `json:"registrationState"`
}

func (r *registrant) do(method, path string, body any) (a registrationAnswer, err error) {
	text, _ := json.Marshal(body)
	q, _ := http.NewRequest(method, "https://"+r.h.Owner.HostName+"/"+r.scope+"/registrations/"+r.id+path+"?api-version=2025-07-01-preview", bytes.NewReader(text))
	conf := r.h.ClientTLS()
	if r.certificate != nil {
		conf = r.h.ClientTLS(*r.certificate)
	} else {
		token, err := signet.SignSAS(r.scope+"/registrations/"+r.id, "registration", r.key, time.Now().Add(time.Hour))
		if err != nil {
			return a, err
		}
		q.Header.Set("Authorization", token)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}, Timeout: 2 * time.Minute}
	defer client.CloseIdleConnections()
	answer, err := client.Do(q)
	if err != nil {
		return a, err
	}
	defer answer.Body.Close()
	a.status = answer.StatusCode
	return a, json.NewDecoder(answer.Body).Decode(&a)
}

// poll waits for an operation to be over.
func (r *registrant) poll(operation string) (a registrationAnswer) {
	r.t.Helper()
	for range 5000 {
		var err error
		if a, err = r.do("GET", "/operations/"+operation, nil); err != nil {
			r.t.Fatal(err)
		}
		if a.status != http.StatusAccepted {
			return a
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.t.Fatalf("%+v", a)
	return a
}

// register registers with a CSR and waits for the outcome.
func (r *registrant) register(csr []byte) registrationAnswer {
	r.t.Helper()
	a, err := r.do("PUT", "/register", map[string]any{"registrationId": r.id, "csr": csr})
	if err != nil {
		r.t.Fatal(err)
	}
	if a.status == http.StatusAccepted {
		operation := a.OperationID
		if a = r.poll(operation); len(a.State.Issued) > 0 {
			// The same operation asked again is answered the same.
			if again := r.poll(operation); !bytes.Equal(again.State.Issued[0], a.State.Issued[0]) {
				r.t.Error("the operation has another outcome")
			}
		}
	}
	return a
}

// TestOperationalCertificate is the whole story: a device that nobody has told the
// hub of registers with what it left the factory with, gets its place and its
// operational certificate in one call, connects, and renews.
func TestOperationalCertificate(t *testing.T) {
	h := hubtest.Start(t, func(c *server.Config) { issuing(t, c.Data, "") })
	service, err := h.Registry().HubByName("dps")
	if err != nil {
		t.Fatal(err)
	}
	factory := hubtest.NewCA(t, "Factory")
	h.Trust(t, "dps", factory)
	cas, _ := h.Authority().List(t.Context(), "dps")
	enroll(t, h, signet.Enrollment{Group: true, ID: "presses", IssuancePolicy: "operational",
		Attestation: signet.Attestation{Type: signet.AttestX509, PrimaryCA: cas[0].Name}})
	meter := enroll(t, h, signet.Enrollment{ID: "serial-0815", DeviceID: "meter-1", IssuancePolicy: "operational",
		Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
	born := factory.Device(t, "press-17")
	for _, device := range []*registrant{
		{t: t, h: h, id: "press-17", scope: service.IDScope, certificate: &born},
		{t: t, h: h, id: "serial-0815", scope: service.IDScope, key: meter.Attestation.PrimaryKey},
	} {
		key := newKey(t)
		a := device.register(newCSR(t, key, device.id))
		if a.status != 200 || a.Status != "assigned" || a.State.AssignedHub != "localhost" || len(a.State.Issued) != 3 {
			t.Fatalf("%+v", a)
		}
		chain := parseChain(t, a.State.Issued)
		i, err := h.Registry().Get(t.Context(), tenant, a.State.DeviceID, "")
		if err != nil || i.Auth.Type != signet.AuthCA || chain[0].Subject.CommonName != a.State.DeviceID {
			t.Errorf("%+v %v, certificate for %s", i.Auth, err, chain[0].Subject)
		}
		d := &renewer{h.Dial(t, h.ClientTLS(operational(chain, key))), t, a.State.DeviceID}
		if code := d.Connect(t, "localhost", d.id); code != 0 {
			t.Fatalf("CONNACK %d", code)
		}
		d.Publish(t, d.id, "hello")
		d.listen()
		newer := newKey(t)
		renewed := d.renew("r-1", newCSR(t, newer, d.id))
		again := h.Dial(t, h.ClientTLS(operational(renewed, newer)))
		if code := again.Connect(t, "localhost", d.id); code != 0 {
			t.Fatalf("CONNACK %d", code)
		}
		again.Publish(t, d.id, "hello again")
	}
	// What it was born with is for registering, and not for the hub.
	if code := h.Dial(t, h.ClientTLS(born)).Connect(t, "localhost", "press-17"); code != 5 {
		t.Errorf("CONNACK %d for the certificate of the factory", code)
	}
	// Two certificates each, all on record, and in the audit log.
	list, err := h.Issuance().Issued(t.Context(), issuance.Query{Service: "dps", Limit: 9})
	if err != nil || len(list) != 4 {
		t.Errorf("%d records, %v", len(list), err)
	}
}

// TestOperationalCertificateRefused: what the device is told when it asks for a
// certificate that it cannot have. It gets no place either.
func TestOperationalCertificateRefused(t *testing.T) {
	h := hubtest.Start(t, func(c *server.Config) { issuing(t, c.Data, "keys = [\"p256\"]\n") })
	service, err := h.Registry().HubByName("dps")
	if err != nil {
		t.Fatal(err)
	}
	shared := newKey(t)
	if _, err := h.Issuance().Issue(t.Context(), signet.CertificateOrder{Service: "dps", Policy: "operational", HostName: "localhost",
		DeviceID: "other", CSR: newCSR(t, shared, "other"), Operation: "o1"}); err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := newCSR(t, newKey(t), "press-17")
	for n, c := range []struct {
		name, policy string
		csr          []byte
		told         string
	}{
		{"another's name", "operational", newCSR(t, newKey(t), "press-18"), "press-18"},
		{"another's key", "operational", newCSR(t, shared, "press-17"), "another device"},
		{"a key that the policy does not take", "operational", newCSR(t, p384, "press-17"), "p384"},
		{"no CSR at all", "operational", []byte("rubbish"), "certificate signing request"},
		{"a policy that is not there", "nothing", good, "nothing"},
		{"no policy", "", good, ""},
	} {
		const id = "press-17"
		e := enroll(t, h, signet.Enrollment{ID: id, IssuancePolicy: c.policy, Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
		device := &registrant{t: t, h: h, id: id, scope: service.IDScope, key: e.Attestation.PrimaryKey}
		a := device.register(c.csr)
		if c.policy == "" {
			if a.status != 400 || a.ErrorCode != 400000 {
				t.Errorf("%d %s: %+v", n, c.name, a)
			}
		} else if a.status != 200 || a.Status != "failed" || a.State.ErrorCode != 400000 || !strings.Contains(a.State.ErrorMessage, c.told) || a.State.Issued != nil {
			t.Errorf("%d %s: %+v", n, c.name, a)
		}
		if _, err := h.Registry().Get(t.Context(), tenant, id, ""); signet.CodeOf(err) != signet.IdentityUnknown {
			t.Errorf("%s: it got a place: %v", c.name, err)
		}
		if err := h.Provisioning().DeleteRegistration(t.Context(), "dps", id, ""); err != nil && c.policy != "" {
			t.Error(err)
		}
		if err := h.Provisioning().DeleteEnrollment(t.Context(), "dps", false, id, ""); err != nil {
			t.Fatal(err)
		}
	}
	list, err := h.Issuance().Issued(t.Context(), issuance.Query{Service: "dps", Limit: 9})
	if err != nil || len(list) != 1 {
		t.Errorf("%d records, %v", len(list), err)
	}
}

// TestIssuingKeyInAToken: the key is made in a token and signs there; the file has
// its name alone.
func TestIssuingKeyInAToken(t *testing.T) {
	if _, err := exec.LookPath("softhsm2-util"); err != nil {
		t.Skip("no softhsm2-util: install softhsm2 (test/prepare does, as root on Debian)")
	}
	modules, _ := filepath.Glob("/usr/lib/softhsm/libsofthsm2.so")
	if len(modules) == 0 {
		t.Skip("libsofthsm2.so is not where Debian has it")
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	writeFile(t, conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"))
	t.Setenv("SOFTHSM2_CONF", conf)
	if out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "Issuing", "--pin", "4711", "--so-pin", "0815").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	uri := "pkcs11:token=Issuing;object=devices?module-path=" + modules[0]
	key, err := token.Make(uri, pki.P384, func() ([]byte, error) { return []byte("4711"), nil })
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewRoot("Acme Issuing", key, time.Now(), 365)
	if err != nil {
		t.Fatal(err)
	}
	key.Close()
	h := hubtest.Start(t, func(c *server.Config) {
		for name, text := range map[string]string{
			"ca.pem": hubtest.PEM(ca.Certificate.Raw), "ca.key": uri + "\n", "pin": "4711\n",
			"issuance.toml": "[[policy]]\nname = \"operational\"\ncertificate = \"ca.pem\"\nkey = \"ca.key\"\npassphrase_file = \"pin\"\n",
		} {
			writeFile(t, filepath.Join(c.Data, name), []byte(text))
		}
	})
	h.CADevice(t, tenant, "press-17")
	own := newKey(t)
	chain, err := h.Issuance().Issue(t.Context(), signet.CertificateOrder{Service: "dps", Policy: "operational", HostName: "localhost",
		DeviceID: "press-17", CSR: newCSR(t, own, "press-17"), Operation: "o1"})
	if err != nil || len(chain) != 2 {
		t.Fatal(len(chain), err)
	}
	d := h.Dial(t, h.ClientTLS(operational(chain, own)))
	if code := d.Connect(t, "localhost", "press-17"); code != 0 {
		t.Errorf("CONNACK %d", code)
	}
}

// BenchmarkIssue is a fleet that asks for certificates at once: the check of the
// CSR, the signature, and the records on disk.
func BenchmarkIssue(b *testing.B) {
	h := hubtest.Start(b, func(c *server.Config) {
		c.Logger = slog.New(slog.DiscardHandler)
		issuing(b, c.Data, "")
	})
	requests := make([][]byte, b.N)
	for n := range requests {
		requests[n] = newCSR(b, newKey(b), fmt.Sprint("press-", n))
	}
	var next atomic.Int64
	b.SetParallelism(64)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := next.Add(1) - 1
			if _, err := h.Issuance().Issue(context.Background(), signet.CertificateOrder{Service: "dps", Policy: "operational", HostName: "localhost",
				DeviceID: fmt.Sprint("press-", n), CSR: requests[n], Operation: "o"}); err != nil {
				b.Error(err)
			}
		}
	})
}
