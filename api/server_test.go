package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/api"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/commands"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/issuance"
	"github.com/signet-iot/signet/limits"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/routes"
	"github.com/signet-iot/signet/store"
	"github.com/signet-iot/signet/trace"
)

// server is an API over real keepers and a real database; only the devices and
// their messages are made up.
type server struct {
	handler   http.Handler
	registry  *registry.Registry
	waist     *waist
	inventory *inventory.Inventory
	issuance  *issuance.Issuance
	names     map[string]string // for exchanges: {{name}}
	cas       map[string]*testCA
	log       *logText
	drain     context.CancelFunc
}

// logText keeps a log for a test to look at.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

const adminToken = "the-admin-token-of-this-test"

// newServer runs two hubs, "hub" at hub.example.test and "other" at
// other.example.test. The names that exchanges may use:
//
//	admin                   the bearer token
//	owner, service, device, registryRead, registryReadWrite
//	                        SAS tokens of the policies of hub
//	other owner             the same of other
//	expired, forged, stranger
//	                        an owner's token that has expired, that another key
//	                        signed, and of a policy that is not there
//	elsewhere               an owner's token for another host
//	dps, dps2               tokens of the owners of two provisioning services, dps at
//	                        dps.example.test and dps2 at dps2.example.test
//	dps expired, dps enrollments
//	                        one that has expired, and one for /enrollments alone
//	dps scope               its ID scope; there, Press-17 has registered by itself, and
//	                        d-1, D-2 and d-3 by the group acme
//	pem CERT, base64 pem CERT, base64 der CERT, thumbprint CERT
//	                        of the certificates root, line (a CA below root),
//	                        leaf (a device "press-17" below line), expired
//	key CERT                the private key in PEM
//	chain                   leaf and line
//	proof by CA of NAME     a proof of possession, NAME standing for the code
func newServer(t testing.TB) *server {
	t.Helper()
	ctx := context.Background()
	s := &server{waist: &waist{left: make(chan struct{})}, names: map[string]string{}, log: &logText{}}
	log := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	db, err := store.OpenSQLite(ctx, filepath.Join(t.TempDir(), "signet.db"), store.Options{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s.registry = registry.New(db, registry.Options{})
	trust := authority.New(db, authority.Options{})
	verdicts := authority.NewVerdictLog(db, authority.VerdictOptions{Logger: log})
	t.Cleanup(verdicts.Close)
	for _, name := range []string{"hub", "other"} {
		h, err := s.registry.CreateHub(ctx, name, name+".example.test")
		if err != nil {
			t.Fatal(err)
		}
		prefix := ""
		if name != "hub" {
			prefix = name + " "
		}
		for _, p := range h.Policies {
			s.names[prefix+p.Name] = sign(t, h.HostName, p.Name, p.PrimaryKey, time.Hour)
		}
		s.names[prefix+"owner"] = s.names[prefix+"iothubowner"]
		if name == "hub" {
			owner := h.Policies[0]
			s.names["expired"] = sign(t, h.HostName, owner.Name, owner.PrimaryKey, -time.Hour)
			s.names["forged"] = sign(t, h.HostName, owner.Name, h.Policies[1].PrimaryKey, time.Hour)
			s.names["stranger"] = sign(t, h.HostName, "nobody", owner.PrimaryKey, time.Hour)
			s.names["elsewhere"] = sign(t, "other.example.test", owner.Name, owner.PrimaryKey, time.Hour)
			s.names["secondary owner"] = sign(t, h.HostName, owner.Name, owner.SecondaryKey, time.Hour)
		}
	}
	s.names["admin"] = "Bearer " + adminToken
	for _, name := range []string{"dps", "dps2"} {
		h, err := s.registry.CreateService(ctx, name, name+".example.test")
		if err != nil {
			t.Fatal(err)
		}
		owner := h.Policies[0]
		s.names[name] = sign(t, h.HostName, owner.Name, owner.PrimaryKey, time.Hour)
		s.names[name+" expired"] = sign(t, h.HostName, owner.Name, owner.PrimaryKey, -time.Hour)
		s.names[name+" enrollments"] = sign(t, h.HostName+"/enrollments", owner.Name, owner.PrimaryKey, time.Hour)
		s.names[name+" scope"] = h.IDScope
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, r := range []signet.Registration{
		{RegistrationID: "Press-17", Status: signet.Assigned, Substatus: "initialAssignment", Attestation: signet.AttestSymmetricKey, Hub: "hub.example.test",
			DeviceID: "press-17", Payload: []byte(`{"a":1}`)},
		{RegistrationID: "d-1", Group: "acme", Status: signet.Assigned, Attestation: signet.AttestX509, Hub: "hub.example.test", DeviceID: "d-1"},
		{RegistrationID: "D-2", Group: "Acme", Status: signet.RegFailed, Attestation: signet.AttestX509, ErrorCode: signet.AllocationNoHub, ErrorMessage: "No hub.", TrackingID: "T1"},
		{RegistrationID: "d-3", Group: "acme", Status: signet.Assigning, Attestation: signet.AttestX509},
	} {
		r.Service, r.Created, r.Updated, r.ETag = "dps", at, at, "e1"
		if err := db.CreateRegistration(ctx, r, nil); err != nil {
			t.Fatal(err)
		}
	}

	now := time.Now()
	root := newCA(t, "Acme Root", nil, nil)
	line := newCA(t, "Line 4", root, nil)
	s.cas = map[string]*testCA{
		"root": root, "line": line, "stranger": newCA(t, "Nobody Root", nil, nil),
		"leaf":    newCA(t, "press-17", line, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }),
		"expired": newCA(t, "Old Root", nil, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }),
	}
	draining, drain := context.WithCancel(context.Background())
	t.Cleanup(drain)
	s.drain = drain
	s.inventory = inventory.New(db, inventory.Options{Logger: log})
	s.issue(t, db, trust, root, log)
	s.waist.Hub = hub.New(hub.Options{Authority: trust, Registry: s.registry, Verdicts: verdicts, Inventory: s.inventory})
	s.handler = api.New(api.Deps{
		Draining:  draining,
		Authority: trust, Registry: s.registry,
		Provisioning: provisioning.New(provisioning.Deps{Enrollments: db, Registrations: db, Authority: trust, Tenants: s.registry}), Commands: commands.New(db, commands.Options{}), Hub: s.waist, Verdicts: verdicts, Inventory: s.inventory, Issuance: s.issuance,
		AdminToken: func() string { return adminToken },
		Limiter:    limits.New(nil),
		Routes:     routes.New(routes.Options{Store: db, Log: s.waist.Hub}),
		Logger:     log, Traces: trace.New(), Registerer: prometheus.NewRegistry(),
	})
	return s
}

// onePolicy is the issuance policy of dps.
type onePolicy struct{ issuance.Policy }

func (p onePolicy) Policies() []issuance.Policy { return []issuance.Policy{p.Policy} }

// issue sets up the issuance policy "operational" of dps, by root, and has it issue
// a certificate to press-17 of hub.
func (s *server) issue(t testing.TB, db *store.Store, trust *authority.Authority, root *testCA, log *slog.Logger) {
	t.Helper()
	ca, err := pki.OpenCA(root.cert, nil, root.key)
	if err != nil {
		t.Fatal(err)
	}
	policy := issuance.Policy{CA: ca, Above: []*x509.Certificate{root.cert}, IssuancePolicy: signet.IssuancePolicy{Service: "dps", Name: "operational",
		Subject: root.cert.Subject.String(), Thumbprint: pki.ThumbprintSHA256(root.cert.Raw), NotAfter: root.cert.NotAfter, Validity: time.Hour, Keys: []string{"p256"}}}
	s.issuance = issuance.New(db, issuance.Options{Policies: onePolicy{policy}, Authority: noAnchors{trust}, Hubs: s.registry, Logger: log})
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "press-17"}}, newCA(t, "a key", nil, nil).key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.issuance.Issue(t.Context(), signet.CertificateOrder{Service: "dps", Policy: "operational", HostName: "hub.example.test",
		DeviceID: "press-17", CSR: csr, Operation: "o1"}); err != nil {
		t.Fatal(err)
	}
}

// noAnchors keeps the hubs without CA certificates, as the exchanges begin.
type noAnchors struct{ *authority.Authority }

func (noAnchors) Adopt(context.Context, string, string, *x509.Certificate) error { return nil }

func sign(t testing.TB, host, policy, key string, life time.Duration) string {
	token, err := signet.SignSAS(host, policy, key, time.Now().Add(life))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// value gives what a name stands for, escaped for a JSON string where it has
// more than one line.
func (s *server) value(t testing.TB, name string) string {
	t.Helper()
	if v, ok := s.names[name]; ok {
		return v
	}
	quote := func(s string) string {
		b, _ := json.Marshal(s)
		return string(b[1 : len(b)-1])
	}
	words := strings.Fields(name)
	ca := s.cas[words[len(words)-1]]
	switch {
	case name == "chain":
		return quote(s.cas["leaf"].pem() + s.cas["line"].pem())
	case len(words) == 5 && words[0] == "proof":
		by, code := s.cas[words[2]], s.names[words[4]]
		return quote(newCA(t, code, by, func(c *x509.Certificate) { *c = bare(c) }).pem())
	case ca == nil:
	case strings.HasPrefix(name, "pem "):
		return quote(ca.pem())
	case strings.HasPrefix(name, "base64 pem "):
		return base64.StdEncoding.EncodeToString([]byte(ca.pem()))
	case strings.HasPrefix(name, "base64 der "):
		return base64.StdEncoding.EncodeToString(ca.cert.Raw)
	case strings.HasPrefix(name, "thumbprint "):
		return pki.ThumbprintSHA1(ca.cert.Raw)
	case strings.HasPrefix(name, "key "):
		der, err := x509.MarshalPKCS8PrivateKey(ca.key)
		if err != nil {
			t.Fatal(err)
		}
		return quote(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	}
	t.Fatalf("{{%s}} stands for nothing", name)
	return ""
}

// bare is a proof as a plain tool makes it: no extensions at all.
func bare(c *x509.Certificate) x509.Certificate {
	return x509.Certificate{Subject: c.Subject, SerialNumber: c.SerialNumber, NotBefore: c.NotBefore, NotAfter: c.NotAfter}
}

type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t testing.TB, cn string, issuer *testCA, alter func(*x509.Certificate)) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: cn}, SerialNumber: serial,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if alter != nil {
		alter(template)
	}
	parent, parentKey := template, key
	if issuer != nil {
		parent, parentKey = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{cert, key}
}

func (c *testCA) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
}

// waist is the hub that the API sees: who is connected and what was sent is what
// a test says.
type waist struct {
	*hub.Hub  // explains; the rest is as a test says
	connected []string
	messages  []*signet.Message
	live      chan *signet.Message // what comes while someone follows
	left      chan struct{}        // closed when who followed has left
	leave     sync.Once            // closes it
	err       error                // of Read, after the messages
	fault     bool                 // panics when asked
}

func (w *waist) Connected(_, device, _ string) bool { return slices.Contains(w.connected, device) }

func (w *waist) Sessions(string) int {
	if w.fault {
		panic("fault injected")
	}
	return len(w.connected)
}

func (w *waist) Read(ctx context.Context, hub string, from hub.Start, follow bool, each func(signet.Position, *signet.Message) bool) error {
	for n, m := range w.messages {
		at := signet.Position{Sequence: uint64(n + 1)}
		if m.Hub == hub && at.Sequence > from.After.Sequence && !m.EnqueuedTime.Before(from.Time) && !each(at, m) {
			return nil
		}
	}
	for n := len(w.messages) + 1; follow; n++ {
		select {
		case <-ctx.Done():
			w.leave.Do(func() { close(w.left) })
			return ctx.Err()
		case m := <-w.live:
			if !each(signet.Position{Sequence: uint64(n)}, m) {
				return nil
			}
		}
	}
	return w.err
}
