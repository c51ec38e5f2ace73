package authority_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/pki"
	"golang.org/x/crypto/ocsp"
)

// A keeper is an authority under test, with a clock that the test moves.
type keeper struct {
	*authority.Authority
	store   *memstore.Store
	clock   atomic.Int64 // added to the time, in nanoseconds
	changes atomic.Int64 // of trust, as told to the hub
	log     *strings.Builder
	logMu   sync.Mutex
}

func (k *keeper) now() time.Time          { return time.Now().Add(time.Duration(k.clock.Load())) }
func (k *keeper) forward(d time.Duration) { k.clock.Add(int64(d)) }

func (k *keeper) Write(p []byte) (int, error) {
	k.logMu.Lock()
	defer k.logMu.Unlock()
	return k.log.Write(p)
}

func (k *keeper) logged() string {
	k.logMu.Lock()
	defer k.logMu.Unlock()
	return k.log.String()
}

// newKeeper makes one that trusts ca, under a policy, and watches until the test
// ends.
func newKeeper(t *testing.T, ca *hubtest.CA, p signet.RevocationPolicy) *keeper {
	t.Helper()
	k, watch := keeperOf(t, memstore.New())
	if _, _, err := k.Register(t.Context(), tenant, "Acme", hubtest.PEM(ca.Cert.Raw), true, ""); err != nil {
		t.Fatal(err)
	}
	k.policy(t, p)
	t.Cleanup(watch())
	return k
}

// keeperOf makes one on a store; watch has it watch until stop is called.
func keeperOf(t *testing.T, store *memstore.Store) (k *keeper, watch func() (stop func())) {
	k = &keeper{store: store, log: &strings.Builder{}}
	k.Authority = authority.New(k.store, authority.Options{Now: k.now, Logger: slog.New(slog.NewTextHandler(k, nil)),
		Stale: func(_ context.Context, c signet.StaleCRL) { fmt.Fprintf(k, "event of %s: %s\n", c.Hub, c.State) },
		Changed: func(_ context.Context, c signet.Change) {
			if c.Hub != tenant || !c.Trust {
				t.Errorf("a change of %+v", c)
			}
			k.changes.Add(1)
		}})
	return k, func() func() {
		ctx, stop := context.WithCancel(context.Background())
		over := make(chan struct{})
		go func() { defer close(over); k.Watch(ctx) }()
		return func() { stop(); <-over }
	}
}

func (k *keeper) policy(t *testing.T, p signet.RevocationPolicy) {
	t.Helper()
	p.Hub, p.CA = tenant, "acme"
	if _, err := k.SetRevocationPolicy(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// judge says what becomes of a device, at connect and while it is connected.
func (k *keeper) judge(t *testing.T, device tls.Certificate, want signet.Code) {
	t.Helper()
	_, err := k.Judge(tenant, chain(t, device), k.now())
	code(t, err, want)
}

// eventually waits for what is done behind.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func (k *keeper) eventually(t *testing.T, device tls.Certificate, want signet.Code) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q", want), func() bool {
		_, err := k.Judge(tenant, chain(t, device), k.now())
		return signet.CodeOf(err) == want
	})
}

// crlOf is what a CA publishes at some time; change has the last word.
func crlOf(t *testing.T, ca *hubtest.CA, number int64, at time.Time, change func(*x509.RevocationList), revoked ...tls.Certificate) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: at, NextUpdate: at.Add(time.Hour)}
	for _, r := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: r.Leaf.SerialNumber, RevocationTime: at, ReasonCode: 1})
	}
	if change != nil {
		change(l)
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, ca.Cert, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func asPEM(der []byte, beside ...*hubtest.CA) []byte {
	text := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
	for _, ca := range beside {
		text = append(text, hubtest.PEM(ca.Cert.Raw)...)
	}
	return text
}

func (k *keeper) add(t *testing.T, upload []byte, want signet.Code) signet.CRL {
	t.Helper()
	c, err := k.AddCRL(t.Context(), tenant, upload)
	if signet.CodeOf(err) != want {
		t.Fatalf("got %v, want %q", err, want)
	}
	return c
}

var (
	soft = signet.RevocationPolicy{Mode: signet.RevocationSoft}
	hard = signet.RevocationPolicy{Mode: signet.RevocationHard}
	off  = signet.RevocationPolicy{Mode: signet.RevocationOff}
)

// TestCRLPolicies: the whole path counts, and what is not known is as the policy
// says.
func TestCRLPolicies(t *testing.T) {
	root := hubtest.NewCA(t, "Root")
	line := root.Intermediate(t, "Line")
	good, bad := line.Device(t, "good"), line.Device(t, "bad")
	lineAsDevice := tls.Certificate{Leaf: line.Cert}
	k := newKeeper(t, root, off)

	k.add(t, asPEM(crlOf(t, line, 1, k.now(), nil, bad), line), "")
	k.judge(t, bad, "") // the policy is off

	k.policy(t, soft)
	k.judge(t, bad, signet.CertRevoked)
	k.judge(t, good, "") // of the line nothing is known
	_, err := k.Judge(tenant, chain(t, bad), k.now())
	if e := signet.AsError(err); e.Certificate == nil || e.Certificate.Index != 0 || !strings.Contains(e.Message, "keyCompromise") {
		t.Errorf("%+v", e)
	}

	k.policy(t, hard)
	k.judge(t, bad, signet.CertRevoked)
	k.judge(t, good, signet.CertRevocationUnknown)
	k.add(t, crlOf(t, root, 1, k.now(), nil), "")
	k.judge(t, good, "")
	k.judge(t, good, "") // as one remembered
	k.judge(t, bad, signet.CertRevoked)

	before := k.changes.Load()
	path := pki.Path(append(chain(t, good), root.Cert))
	if err := k.Revoked(tenant, path); err != nil {
		t.Fatal(err)
	}
	k.add(t, crlOf(t, root, 2, k.now(), nil, lineAsDevice), "")
	if k.changes.Load() == before {
		t.Error("the hub was not told")
	}
	code(t, k.Revoked(tenant, path), signet.CertRevoked)
	k.judge(t, good, signet.CertRevoked)
	_, err = k.Judge(tenant, chain(t, good), k.now())
	if e := signet.AsError(err); e.Certificate == nil || e.Certificate.Index != 1 {
		t.Errorf("%+v", e)
	}

	k.policy(t, off)
	k.judge(t, bad, "")
}

// TestCRLStale: an old CRL revokes as before; whether it lets in is the policy's
// word; sessions go on, and the operator has been warned.
func TestCRLStale(t *testing.T) {
	root := hubtest.NewCA(t, "Root")
	good, bad := root.Device(t, "good"), root.Device(t, "bad")
	k := newKeeper(t, root, hard)
	k.add(t, crlOf(t, root, 1, k.now(), nil, bad), "")
	k.judge(t, good, "")
	if list := k.CRLs(tenant); len(list) != 1 || list[0].State != "current" || list[0].Entries != 1 || list[0].Source != "upload" {
		t.Fatalf("%+v", list)
	}
	k.forward(50 * time.Minute)
	k.judge(t, good, "")
	if list := k.CRLs(tenant); list[0].State != "ageing" {
		t.Errorf("%+v", list)
	}
	eventually(t, "a warning", func() bool { return strings.Contains(k.logged(), "state=ageing") })
	if left := gauge(t, k.Authority, "signet_crl_next_update_seconds"); left < 500 || left > 600 {
		t.Errorf("%v seconds are left", left)
	}
	k.forward(time.Hour)
	k.judge(t, good, signet.CertRevocationUnknown)
	k.judge(t, bad, signet.CertRevoked)
	if err := k.Revoked(tenant, pki.Path(append(chain(t, good), root.Cert))); err != nil {
		t.Errorf("a session ends by surprise: %v", err)
	}
	eventually(t, "an alarm", func() bool { return strings.Contains(k.logged(), "state=stale") })
	eventually(t, "an event of each", func() bool {
		return strings.Contains(k.logged(), "event of hub: ageing") && strings.Contains(k.logged(), "event of hub: stale")
	})
	if left := gauge(t, k.Authority, "signet_crl_next_update_seconds"); left > 0 {
		t.Errorf("%v seconds are left", left)
	}
	k.policy(t, soft)
	k.judge(t, good, "")
	k.judge(t, bad, signet.CertRevoked)
	k.add(t, crlOf(t, root, 2, k.now().Add(-2*time.Hour), nil), signet.CRLStale)
	k.add(t, crlOf(t, root, 2, k.now().Add(time.Hour), nil), signet.CRLStale)
	k.add(t, crlOf(t, root, 2, k.now(), nil, bad), "")
	k.judge(t, good, "")
	if strings.Count(k.logged(), "state=stale") != 1 || strings.Count(k.logged(), "event of hub: stale") != 1 {
		t.Error("the alarm is given again and again:", k.logged())
	}
}

func gauge(t *testing.T, c prometheus.Collector, name string) float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// TestCRLOfNamesakes: equal issuer names and serial numbers under another key are
// another certificate.
func TestCRLOfNamesakes(t *testing.T) {
	one, other := hubtest.NewCA(t, "Root"), hubtest.NewCA(t, "Root")
	k := newKeeper(t, one, hard)
	if _, _, err := k.Register(t.Context(), tenant, "other", hubtest.PEM(other.Cert.Raw), true, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := k.SetRevocationPolicy(t.Context(), signet.RevocationPolicy{Hub: tenant, CA: "other", Mode: signet.RevocationHard}); err != nil {
		t.Fatal(err)
	}
	device := one.Device(t, "d")
	twin := other.Device(t, "d", func(c *x509.Certificate) { c.SerialNumber = device.Leaf.SerialNumber })

	k.add(t, crlOf(t, one, 1, k.now(), nil, device), "")
	k.judge(t, device, signet.CertRevoked)
	k.judge(t, twin, signet.CertRevocationUnknown) // not good by the other's word either
	k.add(t, crlOf(t, other, 1, k.now(), nil), "")
	k.judge(t, twin, "")
	k.judge(t, device, signet.CertRevoked)
	if n := len(k.CRLs(tenant)); n != 2 {
		t.Errorf("%d CRLs are in force", n)
	}
}

// TestCRLOfCARenewed: a CA that is renewed with its key stands beside its earlier
// certificate, and has no policy of its own yet. What it has revoked does not get in by
// the second certificate; the stricter policy counts for both, whichever is met first.
func TestCRLOfCARenewed(t *testing.T) {
	root := hubtest.NewCA(t, "Root")
	good, bad := root.Device(t, "good"), root.Device(t, "bad")
	renewed := *root
	renewed.Cert = hubtest.Cross(t, root, root)
	for name, first := range map[string]*hubtest.CA{"the earlier first": root, "the renewed first": &renewed} {
		t.Run(name, func(t *testing.T) {
			k := newKeeper(t, first, soft)
			k.add(t, crlOf(t, root, 1, k.now(), nil, bad), "")
			k.judge(t, bad, signet.CertRevoked)
			second := root
			if first == root {
				second = &renewed
			}
			if _, _, err := k.Register(t.Context(), tenant, "A-second", hubtest.PEM(second.Cert.Raw), true, ""); err != nil {
				t.Fatal(err)
			}
			k.judge(t, bad, signet.CertRevoked)
			k.judge(t, good, "")
			for _, anchor := range []*hubtest.CA{first, second} {
				code(t, k.Revoked(tenant, pki.Path(append(chain(t, bad)[:1:1], anchor.Cert))), signet.CertRevoked)
			}
			if _, err := k.SetRevocationPolicy(t.Context(), signet.RevocationPolicy{Hub: tenant, CA: "A-second", Mode: signet.RevocationHard}); err != nil {
				t.Fatal(err)
			}
			k.forward(2 * time.Hour) // the CRL is out of date
			k.judge(t, good, signet.CertRevocationUnknown)
		})
	}
}

// TestCRLOfCABelow: an intermediate is registered below a CA that has a policy. Paths end
// at it from then on, and are judged as before all the same, until it has a policy of
// its own.
func TestCRLOfCABelow(t *testing.T) {
	root := hubtest.NewCA(t, "Root")
	plant := root.Intermediate(t, "Plant")
	line := plant.Intermediate(t, "Line")
	good, bad := line.Device(t, "good"), line.Device(t, "bad")
	k := newKeeper(t, root, hard)
	for _, of := range []*hubtest.CA{root, plant} {
		k.add(t, asPEM(crlOf(t, of, 1, k.now(), nil), of), "")
	}
	register := func(name string, ca *hubtest.CA, verified bool) {
		t.Helper()
		if _, _, err := k.Register(t.Context(), tenant, name, hubtest.PEM(ca.Cert.Raw), verified, ""); err != nil {
			t.Fatal(err)
		}
	}
	set := func(mode signet.RevocationMode) {
		t.Helper()
		if _, err := k.SetRevocationPolicy(t.Context(), signet.RevocationPolicy{Hub: tenant, CA: "line", Mode: mode}); err != nil {
			t.Fatal(err)
		}
	}
	register("plant", plant, false) // a link
	register("line", line, true)
	k.judge(t, good, signet.CertRevocationUnknown)
	k.add(t, asPEM(crlOf(t, line, 1, k.now(), nil, bad), line), "")
	k.judge(t, bad, signet.CertRevoked)
	k.judge(t, good, "")
	path := pki.Path(append(chain(t, good)[:1:1], line.Cert))
	if err := k.Revoked(tenant, path); err != nil {
		t.Fatal(err)
	}
	p, err := k.RevocationPolicy(t.Context(), tenant, "line")
	if err != nil || p.From != "Acme" || p.CA != "line" || p.Mode != signet.RevocationHard {
		t.Errorf("%+v, %v", p, err)
	}
	now, err := k.Suppose(t.Context(), tenant, authority.Hypothesis{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = now.Judge(tenant, chain(t, bad), k.now())
	code(t, err, signet.CertRevoked)

	// What is above it counts too, and is asked after.
	k.policy(t, signet.RevocationPolicy{Mode: signet.RevocationHard, OCSP: "http://127.0.0.1:1", AllowPrivate: true})
	k.judge(t, good, "")
	if n := gauge(t, k.Authority, "signet_ocsp_certificates"); n != 3 {
		t.Errorf("%v certificates are asked after", n)
	}
	k.add(t, crlOf(t, plant, 2, k.now(), nil, tls.Certificate{Leaf: line.Cert}), "")
	k.judge(t, good, signet.CertRevoked)
	code(t, k.Revoked(tenant, path), signet.CertRevoked)

	// With a policy of its own it is judged by that, and nothing above it counts.
	set(signet.RevocationSoft)
	k.judge(t, good, "")
	k.judge(t, bad, signet.CertRevoked)
	set(signet.RevocationOff)
	k.judge(t, bad, "")
	if p, err = k.RevocationPolicy(t.Context(), tenant, "line"); err != nil || p.From != "" || p.Mode != signet.RevocationOff {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestCRLOfCAsCrossed: two that have signed each other, one of them below a CA with a
// policy: both have it, in whatever order they are registered.
func TestCRLOfCAsCrossed(t *testing.T) {
	root := hubtest.NewCA(t, "Root")
	one := root.Intermediate(t, "One")
	other := hubtest.NewCA(t, "Other")
	ones, others := &hubtest.CA{Cert: hubtest.Cross(t, other, one), Key: one.Key}, &hubtest.CA{Cert: hubtest.Cross(t, one, other), Key: other.Key}
	bad := other.Device(t, "bad")
	for _, order := range [][]*hubtest.CA{{ones, others, one, other}, {other, one, others, ones}, {others, other, ones, one}} {
		k := newKeeper(t, root, soft)
		k.add(t, asPEM(crlOf(t, other, 1, k.now(), nil, bad), other), "")
		for i, ca := range order {
			if _, _, err := k.Register(t.Context(), tenant, fmt.Sprint("ca", i), hubtest.PEM(ca.Cert.Raw), true, ""); err != nil {
				t.Fatal(err)
			}
		}
		k.judge(t, bad, signet.CertRevoked)
		for _, anchor := range []*hubtest.CA{other, others} {
			code(t, k.Revoked(tenant, pki.Path(append(chain(t, bad)[:1:1], anchor.Cert))), signet.CertRevoked)
		}
	}
}

// TestCRLOrder: a newer CRL replaces an older one, never the reverse.
func TestCRLOrder(t *testing.T) {
	root, stranger := hubtest.NewCA(t, "Root"), hubtest.NewCA(t, "Stranger")
	bad := root.Device(t, "bad")
	k := newKeeper(t, root, soft)
	now := k.now()
	second := crlOf(t, root, 2, now.Add(-10*time.Minute), nil, bad)
	c := k.add(t, second, "")
	k.add(t, second, "") // again is no error
	for name, der := range map[string][]byte{
		"a lower number":                     crlOf(t, root, 1, now, nil),
		"the same number, of other content":  crlOf(t, root, 2, now, nil),
		"a higher number of an earlier time": crlOf(t, root, 3, now.Add(-20*time.Minute), nil),
	} {
		t.Run(name, func(t *testing.T) { k.add(t, der, signet.CRLOlder) })
	}
	k.add(t, crlOf(t, stranger, 9, now, nil), signet.CRLWrongSigner)
	k.judge(t, bad, signet.CertRevoked)
	newer := k.add(t, crlOf(t, root, 3, now, nil), "")
	if newer.ID != c.ID {
		t.Errorf("%s and %s are of one issuer", newer.ID, c.ID)
	}
	k.judge(t, bad, "")

	code(t, k.DeleteCRL(t.Context(), tenant, "nothing"), signet.CRLUnknown)
	if err := k.DeleteCRL(t.Context(), tenant, c.ID); err != nil || len(k.CRLs(tenant)) != 0 {
		t.Fatal(err, k.CRLs(tenant))
	}
	k.add(t, second, "") // on purpose
	k.judge(t, bad, signet.CertRevoked)
}

// TestCRLDurable: in force after a restart, and not before it is stored; policies
// go with their CA.
func TestCRLDurable(t *testing.T) {
	root := hubtest.NewCA(t, "Root")
	bad := root.Device(t, "bad")
	k := newKeeper(t, root, soft)
	der := crlOf(t, root, 1, k.now(), nil, bad)

	k.store.Before = func(operation string) error {
		if operation == "SaveCRL" {
			k.judge(t, bad, "")
		}
		return nil
	}
	k.add(t, der, "")
	k.store.Before = nil
	k.judge(t, bad, signet.CertRevoked)

	again := authority.New(k.store, authority.Options{})
	if err := again.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := again.Judge(tenant, chain(t, bad), time.Now())
	code(t, err, signet.CertRevoked)
	if list := again.CRLs(tenant); len(list) != 1 || list[0].Bytes != len(der) {
		t.Errorf("%+v", list)
	}

	// Stored or not, it is the issuer's word; but nobody is told that it is kept.
	newer := crlOf(t, root, 2, k.now(), nil, bad, root.Device(t, "d"))
	k.store.After = func(operation string) error {
		if operation == "SaveCRL" {
			return memstore.ErrFault
		}
		return nil
	}
	k.add(t, newer, signet.Internal)
	k.store.After = nil
	k.judge(t, bad, signet.CertRevoked)
	if list := k.CRLs(tenant); list[0].Entries != 2 {
		t.Errorf("%+v", list)
	}

	c, err := k.Get(t.Context(), tenant, "acme")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Delete(t.Context(), tenant, "acme", c.ETag); err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.Register(t.Context(), tenant, "acme", hubtest.PEM(root.Cert.Raw), true, ""); err != nil {
		t.Fatal(err)
	}
	if p, err := k.RevocationPolicy(t.Context(), tenant, "ACME"); err != nil || p.Mode != signet.RevocationOff {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestPolicyRefused: what cannot be a policy.
func TestPolicyRefused(t *testing.T) {
	k := newKeeper(t, hubtest.NewCA(t, "Root"), off)
	for _, test := range []struct {
		name   string
		policy signet.RevocationPolicy
		code   signet.Code
	}{
		{"no mode", signet.RevocationPolicy{}, signet.RequestMalformed},
		{"a mode of its own", signet.RevocationPolicy{Mode: "medium"}, signet.RequestMalformed},
		{"a file", signet.RevocationPolicy{Mode: "soft", CRLs: []string{"file:///etc/passwd"}}, signet.RequestMalformed},
		{"LDAP", signet.RevocationPolicy{Mode: "soft", CRLs: []string{"ldap://h/cn=x"}}, signet.SourceForbidden},
		{"a password", signet.RevocationPolicy{Mode: "soft", CRLs: []string{"http://a:b@h/x"}}, signet.RequestMalformed},
		{"no host", signet.RevocationPolicy{Mode: "soft", OCSP: "http:///x"}, signet.RequestMalformed},
		{"loopback", signet.RevocationPolicy{Mode: "soft", OCSP: "http://127.0.0.1:8080"}, signet.SourceForbidden},
		{"loopback in IPv6's clothes", signet.RevocationPolicy{Mode: "soft", CRLs: []string{"http://[::ffff:127.0.0.1]/"}}, signet.SourceForbidden},
		{"the cloud's metadata", signet.RevocationPolicy{Mode: "soft", CRLs: []string{"http://169.254.169.254/x"}}, signet.SourceForbidden},
		{"nine URLs", signet.RevocationPolicy{Mode: "soft", CRLs: slices.Repeat([]string{"http://h"}, 9)}, signet.RequestMalformed},
		{"a long URL", signet.RevocationPolicy{Mode: "soft", OCSP: "http://h/" + strings.Repeat("x", 1100)}, signet.RequestMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.policy.Hub, test.policy.CA = tenant, "acme"
			_, err := k.SetRevocationPolicy(t.Context(), test.policy)
			code(t, err, test.code)
		})
	}
	_, err := k.SetRevocationPolicy(t.Context(), signet.RevocationPolicy{Hub: tenant, CA: "nobody", Mode: "soft"})
	code(t, err, signet.CertificateUnknown)
}

// serving runs a server on the loopback interface that answers as f says.
func serving(t *testing.T, f http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL
}

// TestFetch: CRLs are fetched ahead, and again before they are over; what is
// learned ends sessions.
func TestFetch(t *testing.T) {
	root := hubtest.NewCA(t, "Root")
	line := root.Intermediate(t, "Line")
	good, bad := line.Device(t, "good"), line.Device(t, "bad")
	var fetches atomic.Int64
	var published [2]atomic.Pointer[[]byte]
	publish := func(i int, der []byte) { published[i].Store(&der) }
	server := serving(t, func(w http.ResponseWriter, r *http.Request) {
		fetches.Add(1)
		i := 0
		if r.URL.Path == "/line" {
			i = 1
		}
		w.Write(*published[i].Load())
	})
	now := time.Now()
	publish(0, crlOf(t, root, 1, now, nil))
	publish(1, asPEM(crlOf(t, line, 1, now, nil)))
	k := newKeeper(t, root, signet.RevocationPolicy{Mode: signet.RevocationHard, CRLs: []string{server + "/root", server + "/line?key=secret"}, AllowPrivate: true})

	// The line is known once a device of it has come.
	k.judge(t, good, signet.CertRevocationUnknown)
	k.eventually(t, good, "")
	k.judge(t, bad, "")
	if n := fetches.Load(); n > 4 {
		t.Errorf("%d fetches", n)
	}
	for _, s := range k.RevocationSources(tenant) {
		if s.Fault != nil || s.Answered.IsZero() || s.Kind != "crl" || s.CA != "Acme" {
			t.Errorf("%+v", s)
		}
	}

	// A newer one comes before the older is over.
	publish(1, asPEM(crlOf(t, line, 2, now, nil, bad)))
	changes := k.changes.Load()
	k.forward(40 * time.Minute)
	k.eventually(t, bad, signet.CertRevoked)
	k.judge(t, good, "")
	eventually(t, "the hub is told", func() bool { return k.changes.Load() > changes })

	// By hand.
	publish(1, asPEM(crlOf(t, line, 3, now, nil, bad, good)))
	if err := k.FetchCRLs(t.Context(), tenant); err != nil {
		t.Fatal(err)
	}
	k.judge(t, good, signet.CertRevoked)

	// One that fails is tried again, less and less often.
	publish(1, []byte("<html>"))
	before := fetches.Load()
	k.FetchCRLs(t.Context(), tenant)
	sources := k.RevocationSources(tenant)
	if i := slices.IndexFunc(sources, func(s signet.RevocationSource) bool { return s.Fault != nil && s.Fault.Code == signet.CRLMalformed }); i < 0 {
		t.Errorf("%+v", sources)
	}
	k.judge(t, good, signet.CertRevoked)
	for range 5 {
		k.forward(time.Second)
		time.Sleep(20 * time.Millisecond)
	}
	if n := fetches.Load() - before; n > 2 {
		t.Errorf("%d fetches within seconds of a failure", n)
	}
	if strings.Contains(k.logged(), "secret") {
		t.Error("the log has the query of a URL")
	}
}

// TestFollow: addresses that certificates name are gone to when the policy says
// so, and not otherwise.
func TestFollow(t *testing.T) {
	root := hubtest.NewCA(t, "Root")
	var asked atomic.Int64
	var bad tls.Certificate
	server := serving(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Write(crlOf(t, root, 1, time.Now(), nil, bad))
	})
	naming := func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"ldap://h/cn=x", server + "/crl"} }
	bad = root.Device(t, "bad", naming)
	k := newKeeper(t, root, signet.RevocationPolicy{Mode: signet.RevocationSoft, AllowPrivate: true})
	k.judge(t, bad, "")
	k.policy(t, signet.RevocationPolicy{Mode: signet.RevocationSoft, Follow: true})
	k.judge(t, bad, "")
	eventually(t, "a refusal to go there", func() bool {
		s := k.RevocationSources(tenant)
		return len(s) == 1 && s[0].Followed && s[0].Fault != nil && s[0].Fault.Code == signet.SourceForbidden
	})
	if asked.Load() != 0 {
		t.Fatal("it was gone to")
	}
	k.policy(t, signet.RevocationPolicy{Mode: signet.RevocationSoft, Follow: true, AllowPrivate: true})
	k.eventually(t, bad, signet.CertRevoked)
}

// TestHostileSources: a server that we are sent to can neither hang nor fill us,
// and leads us nowhere else.
func TestHostileSources(t *testing.T) {
	root := hubtest.NewCA(t, "Root")
	der := crlOf(t, root, 1, time.Now(), nil)
	home := serving(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(der) })
	k := newKeeper(t, root, soft)
	for _, test := range []struct {
		name  string
		serve http.HandlerFunc
		code  signet.Code
		says  string
	}{
		{"a body without an end", func(w http.ResponseWriter, _ *http.Request) {
			chunk := make([]byte, 1<<20)
			for {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, signet.SourceUnreachable, "more than"},
		{"a length beyond the bound", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000000000")
			w.Write(der)
		}, signet.SourceUnreachable, "at most"},
		{"a redirect in a circle", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, signet.SourceUnreachable, "redirects"},
		{"a redirect to a file", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}, signet.RequestMalformed, ""},
		{"a redirect home", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, home, http.StatusFound) }, "", ""},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>welcome</html>") }, signet.CRLMalformed, ""},
		{"nothing", func(http.ResponseWriter, *http.Request) {}, signet.CRLMalformed, ""},
		{"an error", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }, signet.SourceUnreachable, "403"},
		{"half of it", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(der)))
			w.Write(der[:len(der)/2])
		}, signet.SourceUnreachable, ""},
		{"half of it, without a length", func(w http.ResponseWriter, _ *http.Request) { w.Write(der[:len(der)/2]) }, signet.CRLMalformed, ""},
		{"packed", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "" {
				t.Error("we ask for packed bodies")
			}
			w.Header().Set("Content-Encoding", "gzip")
			w.Write([]byte{0x1f, 0x8b, 8})
		}, signet.CRLMalformed, ""},
		{"headers without an end", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 3000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 100))
			}
		}, signet.SourceUnreachable, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			k.policy(t, signet.RevocationPolicy{Mode: signet.RevocationSoft, CRLs: []string{serving(t, test.serve)}, AllowPrivate: true})
			eventually(t, "an outcome", func() bool {
				s := k.RevocationSources(tenant)
				if len(s) != 1 || s[0].Fault == nil {
					return len(s) == 1 && !s[0].Answered.IsZero() && test.code == ""
				}
				if s[0].Fault.Code != test.code || !strings.Contains(s[0].Fault.Message, test.says) {
					t.Fatalf("%+v", s[0].Fault)
				}
				return true
			})
		})
	}

	// One that says nothing holds no device, and not the policy that lets it go.
	k.policy(t, signet.RevocationPolicy{Mode: signet.RevocationSoft, CRLs: []string{serving(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })}, AllowPrivate: true})
	start := time.Now()
	k.judge(t, root.Device(t, "d"), "")
	k.policy(t, soft)
	if took := time.Since(start); took > 20*time.Second { // it is given 30 s
		t.Errorf("it took %v", took)
	}
}

// TestRebinding: a name that leads to a public address when it is looked at, and
// to ours when it is gone to, leads nowhere: what counts is the address of the
// connection.
func TestRebinding(t *testing.T) {
	var reached atomic.Bool
	server := serving(t, func(http.ResponseWriter, *http.Request) { reached.Store(true) })
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(server, "http://"))
	k := newKeeper(t, hubtest.NewCA(t, "Root"), signet.RevocationPolicy{Mode: signet.RevocationSoft, CRLs: []string{"http://localhost:" + port}})
	eventually(t, "a refusal", func() bool {
		s := k.RevocationSources(tenant)
		return len(s) == 1 && s[0].Fault != nil && s[0].Fault.Code == signet.SourceForbidden
	})
	if reached.Load() {
		t.Error("it was reached")
	}
}

// A teller is an OCSP responder of the standard kind, by another implementation.
type teller struct {
	ca      *hubtest.CA
	asked   atomic.Int64
	status  atomic.Int64 // ocsp.Good …
	life    time.Duration
	now     func() time.Time
	waiting chan struct{} // when not nil, it answers once this is closed
}

func (o *teller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.asked.Add(1)
	if o.waiting != nil {
		select {
		case <-o.waiting:
		case <-r.Context().Done():
			return
		}
	}
	body, _ := io.ReadAll(r.Body)
	q, err := ocsp.ParseRequest(body)
	if err != nil || r.Header.Get("Content-Type") != "application/ocsp-request" {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	now := o.now().Truncate(time.Second)
	der, err := ocsp.CreateResponse(o.ca.Cert, o.ca.Cert, ocsp.Response{Status: int(o.status.Load()), SerialNumber: q.SerialNumber,
		RevokedAt: now, ThisUpdate: now, NextUpdate: now.Add(o.life)}, o.ca.Key)
	if err != nil {
		panic(err)
	}
	w.Write(der)
}

// TestOCSP: asked behind, remembered, asked again before the answer is over, and
// heard by the sessions.
func TestOCSP(t *testing.T) {
	root := hubtest.NewCA(t, "Root")
	device, other := root.Device(t, "d"), root.Device(t, "e")
	k := newKeeper(t, root, off)
	o := &teller{ca: root, life: time.Hour, now: k.now}
	policy := signet.RevocationPolicy{Mode: signet.RevocationHard, OCSP: serving(t, o.ServeHTTP), AllowPrivate: true}
	k.policy(t, policy)

	k.judge(t, device, signet.CertRevocationUnknown) // the first time
	k.eventually(t, device, "")
	for range 10 {
		k.judge(t, device, "")
	}
	if n := o.asked.Load(); n != 1 {
		t.Errorf("the responder was asked %d times", n)
	}

	// Before the hour is over it has been asked again, though nobody has come.
	o.status.Store(ocsp.Revoked)
	changes := k.changes.Load()
	k.forward(40 * time.Minute)
	path := pki.Path(append(chain(t, device), root.Cert))
	eventually(t, "it is revoked, and the hub is told", func() bool {
		return signet.CodeOf(k.Revoked(tenant, path)) == signet.CertRevoked && k.changes.Load() > changes
	})
	k.judge(t, device, signet.CertRevoked)

	// Soft lets in what is not known yet, and asks.
	o.status.Store(ocsp.Revoked)
	policy.Mode = signet.RevocationSoft
	k.policy(t, policy)
	k.judge(t, device, signet.CertRevoked) // what was heard stays heard
	k.judge(t, other, "")
	k.eventually(t, other, signet.CertRevoked)

	// A responder that does not know a certificate does not make it good.
	o.status.Store(ocsp.Unknown)
	policy.Mode = signet.RevocationHard
	k.policy(t, policy)
	third := root.Device(t, "f")
	k.judge(t, third, signet.CertRevocationUnknown)
	eventually(t, "an answer", func() bool {
		_, err := k.Judge(tenant, chain(t, third), k.now())
		return strings.Contains(err.Error(), "does not know it")
	})

	// Without the policy nothing of it is left.
	k.policy(t, off)
	k.judge(t, device, "")
	if len(k.RevocationSources(tenant)) != 0 || gauge(t, k.Authority, "signet_ocsp_certificates") != 0 {
		t.Error("something is left")
	}
}

// TestOCSPOutlives: what a responder has said counts after a restart, before it
// has been asked again; a fault of the disk delays its keeping and no more.
func TestOCSPOutlives(t *testing.T) {
	root := hubtest.NewCA(t, "Root")
	good, revoked := root.Device(t, "d"), root.Device(t, "e")
	store := memstore.New()
	var faults atomic.Int64
	store.Before = func(operation string) error {
		if operation == "SaveOCSPAnswers" && faults.Add(1) == 1 {
			return memstore.ErrFault
		}
		return nil
	}
	k, watch := keeperOf(t, store)
	if _, _, err := k.Register(t.Context(), tenant, "Acme", hubtest.PEM(root.Cert.Raw), true, ""); err != nil {
		t.Fatal(err)
	}
	o := &teller{ca: root, life: time.Hour, now: k.now}
	policy := signet.RevocationPolicy{Mode: signet.RevocationSoft, OCSP: serving(t, o.ServeHTTP), AllowPrivate: true}
	k.policy(t, policy)
	stop := watch()
	kept := func() int {
		as, err := store.OCSPAnswers(t.Context(), tenant)
		if err != nil {
			t.Fatal(err)
		}
		return len(as)
	}
	k.judge(t, good, "")
	eventually(t, "the good one is on disk", func() bool { return kept() == 1 })
	o.status.Store(ocsp.Revoked)
	k.judge(t, revoked, "")
	eventually(t, "both are on disk", func() bool { return kept() == 2 })
	stop()
	if faults.Load() < 3 || !strings.Contains(k.logged(), "could not be kept") {
		t.Errorf("%d writes: %s", faults.Load(), k.logged())
	}

	// It starts anew and its responder is silent: nobody watches.
	again, watch := keeperOf(t, store)
	if err := again.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	again.judge(t, revoked, signet.CertRevoked)
	policy.Mode = signet.RevocationHard
	again.policy(t, policy)
	again.judge(t, good, "")
	again.judge(t, root.Device(t, "f"), signet.CertRevocationUnknown)

	// A good answer counts as long as the responder said, and no longer.
	again.forward(2 * time.Hour)
	again.judge(t, good, signet.CertRevocationUnknown)
	again.judge(t, revoked, signet.CertRevoked)

	// Another responder, and nothing of the first is left.
	policy.OCSP = serving(t, (&teller{ca: root, life: time.Hour, now: again.now}).ServeHTTP)
	again.policy(t, policy)
	again.judge(t, revoked, signet.CertRevocationUnknown)
	defer watch()()
	eventually(t, "what it said has gone, what the second says has come", func() bool {
		as, err := store.OCSPAnswers(t.Context(), tenant)
		return err == nil && len(as) > 0 && !slices.ContainsFunc(as, func(a signet.OCSPAnswer) bool { return a.URL != policy.OCSP })
	})
}

// TestSlowResponder: one that does not answer holds no device and few
// goroutines; the others are asked meanwhile.
func TestSlowResponder(t *testing.T) {
	root, other := hubtest.NewCA(t, "Root"), hubtest.NewCA(t, "Other")
	release := make(chan struct{})
	defer close(release)
	k := newKeeper(t, root, off)
	slow, quick := &teller{ca: root, life: time.Hour, now: k.now, waiting: release}, &teller{ca: other, life: time.Hour, now: k.now}
	k.policy(t, signet.RevocationPolicy{Mode: signet.RevocationSoft, OCSP: serving(t, slow.ServeHTTP), AllowPrivate: true})
	if _, _, err := k.Register(t.Context(), tenant, "other", hubtest.PEM(other.Cert.Raw), true, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := k.SetRevocationPolicy(t.Context(), signet.RevocationPolicy{Hub: tenant, CA: "other", Mode: signet.RevocationHard, OCSP: serving(t, quick.ServeHTTP), AllowPrivate: true}); err != nil {
		t.Fatal(err)
	}
	var devices []tls.Certificate
	for i := range 50 {
		devices = append(devices, root.Device(t, fmt.Sprint("d", i)))
	}
	device := other.Device(t, "e")
	start := time.Now()
	for _, d := range devices {
		k.judge(t, d, "")
	}
	k.judge(t, device, signet.CertRevocationUnknown)
	k.eventually(t, device, "")
	if took := time.Since(start); took > 9*time.Second { // the slow one is given 10 s
		t.Errorf("50 devices and one more took %v", took)
	}
	if n := slow.asked.Load(); n > 4 {
		t.Errorf("%d questions wait for one responder", n)
	}
	if n := gauge(t, k.Authority, "signet_ocsp_certificates"); n != 51 {
		t.Errorf("%v certificates are asked after", n)
	}
}

// BenchmarkJudgeRevocation: what asking after revocation costs a connect, two
// intermediates below the anchor.
func BenchmarkJudgeRevocation(b *testing.B) {
	root := hubtest.NewCA(b, "Root")
	factory := root.Intermediate(b, "Factory")
	line := factory.Intermediate(b, "Line")
	device := line.Device(b, "d")
	var certs []*x509.Certificate
	for _, der := range device.Certificate {
		c, _ := x509.ParseCertificate(der)
		certs = append(certs, c)
	}
	many := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for i := range 100_000 {
		many.RevokedCertificateEntries = append(many.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(int64(i+1) << 20), RevocationTime: time.Now()})
	}
	for _, mode := range []signet.RevocationMode{signet.RevocationOff, signet.RevocationHard} {
		b.Run(string(mode), func(b *testing.B) {
			a := authority.New(memstore.New(), authority.Options{})
			if _, _, err := a.Register(b.Context(), tenant, "root", hubtest.PEM(root.Cert.Raw), true, ""); err != nil {
				b.Fatal(err)
			}
			for _, ca := range []*hubtest.CA{root, factory, line} {
				der, err := x509.CreateRevocationList(rand.Reader, many, ca.Cert, ca.Key)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := a.AddCRL(b.Context(), tenant, asPEM(der, ca)); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := a.SetRevocationPolicy(b.Context(), signet.RevocationPolicy{Hub: tenant, CA: "root", Mode: mode}); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Judge(tenant, certs, time.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
