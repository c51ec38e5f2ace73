package issuance_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/issuance"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/registry"
)

// house has a provisioning service "dps" with the policies "operational" (90 days)
// and "grace" (an hour, renewed for another), and the hubs first and second.
type house struct {
	t         *testing.T
	store     *memstore.Store
	authority *authority.Authority
	registry  *registry.Registry
	issuance  *issuance.Issuance
	now       time.Time
	root, ca  *pki.CA
	list      []issuance.Policy
}

func (h *house) Policies() []issuance.Policy { return h.list }

func newHouse(t *testing.T) *house {
	h := &house{t: t, store: memstore.New(), now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	clock := func() time.Time { return h.now }
	h.authority = authority.New(h.store, authority.Options{Now: clock})
	h.registry = registry.New(h.store, registry.Options{Now: clock})
	h.issuance = issuance.New(h.store, issuance.Options{Policies: h, Authority: h.authority, Hubs: h.registry, Now: clock,
		Logger: slog.New(slog.DiscardHandler)})
	h.no(h.authority.Load(t.Context()))
	h.no(h.registry.Load(t.Context()))
	for _, name := range []string{"first", "second"} {
		_, err := h.registry.CreateHub(t.Context(), name, name+".test")
		h.no(err)
	}
	_, err := h.registry.CreateService(t.Context(), "dps", "dps.test")
	h.no(err)
	h.root, err = pki.NewRoot("Acme Root", newKey(t), h.now, 3650)
	h.no(err)
	key := newKey(t)
	chain, err := h.root.Intermediate("Acme Issuing", key.Public(), 0, h.now, 365)
	h.no(err)
	h.ca, err = pki.OpenCA(chain[0], nil, key)
	h.no(err)
	h.list = []issuance.Policy{h.policy("operational", 90*24*time.Hour, 0), h.policy("grace", time.Hour, time.Hour)}
	return h
}

func (h *house) policy(name string, validity, renewExpired time.Duration) issuance.Policy {
	ca := h.ca.Certificate
	return issuance.Policy{IssuancePolicy: signet.IssuancePolicy{Service: "dps", Name: name, Subject: ca.Subject.String(),
		Thumbprint: pki.ThumbprintSHA256(ca.Raw), NotAfter: ca.NotAfter, Validity: validity, RenewExpired: renewExpired,
		Keys: []string{"p256", "ed25519", "rsa"}}, CA: h.ca, Above: []*x509.Certificate{ca, h.root.Certificate}}
}

func (h *house) no(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// refused expects a refusal.
func (h *house) refused(err error, code signet.Code) {
	h.t.Helper()
	if signet.CodeOf(err) != code {
		h.t.Errorf("%v, and not %s", err, code)
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

func csr(t testing.TB, key crypto.Signer, cn string, wishes ...pkix.Extension) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}, ExtraExtensions: wishes}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func order(device, operation string, csr []byte) signet.CertificateOrder {
	return signet.CertificateOrder{Service: "dps", Policy: "operational", HostName: "first.test", DeviceID: device, CSR: csr, Operation: operation}
}

func (h *house) issue(o signet.CertificateOrder) []*x509.Certificate {
	h.t.Helper()
	chain, err := h.issuance.Issue(h.t.Context(), o)
	h.no(err)
	return chain
}

func (h *house) records() int {
	h.t.Helper()
	list, err := h.issuance.Issued(h.t.Context(), issuance.Query{Service: "dps", Limit: 1000})
	h.no(err)
	return len(list)
}

// TestIssue: a certificate that the hub takes, of the policy's making and nobody
// else's, on record.
func TestIssue(t *testing.T) {
	h := newHouse(t)
	key := newKey(t)
	request := csr(t, key, "press-17",
		pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 0}},                                  // CA:FALSE
		pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: []byte{3, 2, 7, 0x80}},                            // digitalSignature
		pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 6, 0x82, 4, 'e', 'v', 'i', 'l'}},     // a name
		pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte("whatever")}) // whatever
	chain := h.issue(order("press-17", "1", request))
	if len(chain) != 3 || !chain[1].Equal(h.ca.Certificate) || !chain[2].Equal(h.root.Certificate) {
		t.Fatalf("a chain of %d", len(chain))
	}
	leaf := chain[0]
	if !key.Public().(*ecdsa.PublicKey).Equal(leaf.PublicKey) || leaf.Subject.String() != "CN=press-17" || leaf.IsCA || len(leaf.DNSNames) > 0 ||
		len(leaf.URIs) != 1 || leaf.URIs[0].String() != "urn:signet:hub:first.test" || len(leaf.Extensions) != 6 || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth ||
		string(leaf.AuthorityKeyId) != string(h.ca.Certificate.SubjectKeyId) || len(leaf.SubjectKeyId) != 20 ||
		!leaf.NotBefore.Equal(h.now.Add(-5*time.Minute)) || !leaf.NotAfter.Equal(h.now.Add(90*24*time.Hour)) {
		t.Errorf("%s: extensions %v, from %s to %s", leaf.Subject, leaf.Extensions, leaf.NotBefore, leaf.NotAfter)
	}
	if _, err := h.authority.Judge("first", chain, h.now); err != nil {
		t.Errorf("the hub does not take it: %v", err)
	}
	if _, err := h.authority.Judge("second", chain, h.now); signet.CodeOf(err) != signet.ChainUntrusted {
		t.Errorf("another hub: %v", err)
	}
	cas, err := h.authority.List(t.Context(), "first")
	if err != nil || len(cas) != 1 || !cas[0].Verified || !strings.HasPrefix(cas[0].Name, "issuing-operational-") {
		t.Errorf("%+v %v", cas, err)
	}
	list, err := h.issuance.Issued(t.Context(), issuance.Query{Hub: "first", DeviceID: "press-17", Limit: 9})
	h.no(err)
	if len(list) != 1 || list[0].Serial != fmt.Sprintf("%x", leaf.SerialNumber) || list[0].Policy != "operational" || list[0].HostName != "first.test" ||
		list[0].Thumbprint != pki.ThumbprintSHA256(leaf.Raw) || list[0].Issuer != pki.ThumbprintSHA256(h.ca.Certificate.Raw) ||
		!list[0].NotAfter.Equal(leaf.NotAfter) || !list[0].Time.Equal(h.now) || list[0].Chain != nil {
		t.Errorf("%+v", list)
	}
}

// TestSameOrder: the same order has the same outcome, also when a crash or a fault
// came between the record and the answer; another CSR is not that order.
func TestSameOrder(t *testing.T) {
	h := newHouse(t)
	request := csr(t, newKey(t), "press-17")
	h.store.After = func(operation string) error { // the record is kept, and nobody hears of it
		if operation == "AddIssued" {
			return memstore.ErrFault
		}
		return nil
	}
	if _, err := h.issuance.Issue(t.Context(), order("press-17", "1", request)); !errors.Is(err, memstore.ErrFault) {
		t.Fatal(err)
	}
	h.store.After = nil
	first := h.issue(order("press-17", "1", request))
	h.now = h.now.Add(48 * time.Hour)
	h.list = nil // not even the policy is needed
	if again := h.issue(order("press-17", "1", request)); !again[0].Equal(first[0]) || len(again) != 3 {
		t.Error("another certificate")
	}
	_, err := h.issuance.Issue(t.Context(), order("press-17", "1", csr(t, newKey(t), "press-17")))
	h.refused(err, signet.CSRReplayed)
	if n := h.records(); n != 1 {
		t.Errorf("%d records", n)
	}
	// The same for another hub is of no use there, so it is made anew.
	h.list = []issuance.Policy{h.policy("operational", time.Hour, 0)}
	moved := order("press-17", "1", request)
	moved.HostName = "second.test"
	if leaf := h.issue(moved)[0]; leaf.URIs[0].String() != "urn:signet:hub:second.test" || !h.issue(moved)[0].Equal(leaf) {
		t.Error(leaf.URIs)
	}

	// Without a record there is no certificate.
	h = newHouse(t)
	h.store.Before = func(operation string) error {
		if operation == "AddIssued" {
			return memstore.ErrFault
		}
		return nil
	}
	if chain, err := h.issuance.Issue(t.Context(), order("press-17", "1", request)); !errors.Is(err, memstore.ErrFault) || chain != nil {
		t.Errorf("%v %v", chain, err)
	}
}

func TestSameOrderAtOnce(t *testing.T) {
	h := newHouse(t)
	request := csr(t, newKey(t), "press-17")
	leaves := make([]*x509.Certificate, 8)
	var wg sync.WaitGroup
	for n := range leaves {
		wg.Go(func() {
			if chain, err := h.issuance.Issue(context.Background(), order("press-17", "1", request)); err == nil {
				leaves[n] = chain[0]
			}
		})
	}
	wg.Wait()
	for _, leaf := range leaves {
		if leaf == nil || !leaf.Equal(leaves[0]) {
			t.Fatal("not one certificate for all")
		}
	}
	if n := h.records(); n != 1 {
		t.Errorf("%d records", n)
	}
}

// TestRefusals: what is not signed, and leaves nothing behind.
func TestRefusals(t *testing.T) {
	h := newHouse(t)
	mine := newKey(t)
	h.issue(order("press-17", "0", csr(t, mine, "press-17")))
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	h.no(err)
	nearly, err := rsa.GenerateKey(rand.Reader, 2040)
	h.no(err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	h.no(err)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	h.no(err)
	forged := csr(t, newKey(t), "press-18")
	forged[len(forged)-1] ^= 1
	wish := func(last int, value ...byte) pkix.Extension {
		return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, last}, Value: value}
	}
	two, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
		{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "press-18"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "press-18"}}}}, newKey(t))
	h.no(err)
	for _, test := range []struct {
		name string
		csr  []byte
		code signet.Code
	}{
		{"no CSR", nil, signet.CSRMalformed},
		{"no CSR at all", []byte("MIIBIjANBgkq"), signet.CSRMalformed},
		{"too large", make([]byte, pki.MaxDeviceCSR+1), signet.CSRMalformed},
		{"more after it", append(csr(t, newKey(t), "press-18"), 0), signet.CSRMalformed},
		{"the signature does not fit", forged, signet.CSRMalformed},
		{"another device's name", csr(t, newKey(t), "press-17"), signet.CSRName},
		{"the name in another case", csr(t, newKey(t), "Press-18"), signet.CSRName},
		{"a blank after the name", csr(t, newKey(t), "press-18 "), signet.CSRName},
		{"no name", csr(t, newKey(t), ""), signet.CSRName},
		{"the name twice", two, signet.CSRName},
		{"CA:TRUE", csr(t, newKey(t), "press-18", wish(19, 0x30, 3, 1, 1, 0xff)), signet.CSRForbidden},
		{"a path length", csr(t, newKey(t), "press-18", wish(19, 0x30, 3, 2, 1, 0)), signet.CSRForbidden},
		{"basicConstraints that are none", csr(t, newKey(t), "press-18", wish(19, 0x31)), signet.CSRForbidden},
		{"keyCertSign", csr(t, newKey(t), "press-18", wish(15, 3, 2, 2, 0x04)), signet.CSRForbidden},
		{"cRLSign", csr(t, newKey(t), "press-18", wish(15, 3, 2, 1, 0x02)), signet.CSRForbidden},
		{"nameConstraints", csr(t, newKey(t), "press-18", wish(30, 0x30, 0)), signet.CSRForbidden},
		{"RSA of 1024 bits", csr(t, small, "press-18"), signet.CertWeakKey},
		{"RSA of a little under 2048 bits", csr(t, nearly, "press-18"), signet.CertWeakKey},
		{"a curve that is not taken", csr(t, p224, "press-18"), signet.CertWeakKey},
		{"a kind of key that the policy does not take", csr(t, p384, "press-18"), signet.CSRKeyType},
		{"another device's key", csr(t, mine, "press-18"), signet.CSRKeyUsed},
		{"the issuing CA's own key", csr(t, h.ca.Key, "press-18"), signet.CSRKeyUsed},
	} {
		t.Run(test.name, func(t *testing.T) {
			chain, err := h.issuance.Issue(t.Context(), order("press-18", test.name, test.csr))
			if e := signet.AsError(err); e == nil || e.Code != test.code || e.Fix == "" || chain != nil {
				t.Errorf("%v, and not %s", err, test.code)
			}
		})
	}
	o := order("press-18", "1", csr(t, newKey(t), "press-18"))
	o.Policy = "none"
	_, err = h.issuance.Issue(t.Context(), o)
	h.refused(err, signet.IssuancePolicyUnknown)
	o.Policy, o.Service = "operational", "other"
	_, err = h.issuance.Issue(t.Context(), o)
	h.refused(err, signet.IssuancePolicyUnknown)
	_, err = h.issuance.Issue(t.Context(), order("a/b", "1", csr(t, newKey(t), "a/b")))
	h.refused(err, signet.IdentityMalformed)
	if n := h.records(); n != 1 {
		t.Errorf("%d records", n)
	}
}

// TestNames: the device ID may be another than the registration ID, which the CSR
// then may have; the certificate is the device's in either case.
func TestNames(t *testing.T) {
	h := newHouse(t)
	o := order("Press-17", "1", csr(t, newKey(t), "serial-0815"))
	_, err := h.issuance.Issue(t.Context(), o)
	h.refused(err, signet.CSRName)
	o.RegistrationID, o.Policy = "serial-0815", "OPERATIONAL"
	if cn := h.issue(o)[0].Subject.CommonName; cn != "Press-17" {
		t.Error(cn)
	}
}

// TestLimit: a device that asks again and again is slowed, and no other is.
func TestLimit(t *testing.T) {
	h := newHouse(t)
	request := csr(t, newKey(t), "press-17")
	for n := range issuance.MaxHourly {
		h.issue(order("press-17", fmt.Sprint(n), request))
	}
	_, err := h.issuance.Issue(t.Context(), order("press-17", "x", request))
	h.refused(err, signet.LimitIssuance)
	h.issue(order("press-17", "0", request)) // what was answered is answered again
	h.issue(order("press-18", "0", csr(t, newKey(t), "press-18")))
	h.now = h.now.Add(time.Hour + time.Second)
	h.issue(order("press-17", "x", request))

	h.now = h.now.Add(90*24*time.Hour + issuance.KeepEnded)
	h.no(h.issuance.Trim(t.Context()))
	if n := h.records(); n != 1 {
		t.Errorf("%d records are kept", n)
	}
}

// TestDistrusted: nothing is issued by a CA, or for a key, that the hub's operator
// has distrusted; nothing that is on record is handed out.
func TestDistrusted(t *testing.T) {
	h := newHouse(t)
	lost, request := newKey(t), csr(t, newKey(t), "press-18")
	h.issue(order("press-18", "1", request))
	spki, err := x509.MarshalPKIXPublicKey(lost.Public())
	h.no(err)
	hash := sha256.Sum256(spki)
	_, err = h.authority.Distrust(t.Context(), "first", signet.Distrust{Kind: signet.DistrustKey, Key: hex.EncodeToString(hash[:]), By: "admin"}, nil)
	h.no(err)
	_, err = h.issuance.Issue(t.Context(), order("press-17", "1", csr(t, lost, "press-17")))
	h.refused(err, signet.CertRevoked)
	o := order("press-17", "1", csr(t, lost, "press-17"))
	o.HostName = "second.test" // whose operator has not said so
	h.issue(o)

	hash = sha256.Sum256(h.ca.Certificate.RawSubjectPublicKeyInfo)
	_, err = h.authority.Distrust(t.Context(), "first", signet.Distrust{Kind: signet.DistrustKey, Key: hex.EncodeToString(hash[:]), By: "admin"}, nil)
	h.no(err)
	_, err = h.issuance.Issue(t.Context(), order("press-19", "1", csr(t, newKey(t), "press-19")))
	h.refused(err, signet.CertRevoked)
	_, err = h.issuance.Issue(t.Context(), order("press-18", "1", request))
	h.refused(err, signet.CertRevoked)
}

// TestAnchor: the issuing CA is an anchor before the certificate is handed out, and
// becomes one under whatever name it is known; where it cannot, nothing is issued.
func TestAnchor(t *testing.T) {
	h := newHouse(t)
	_, _, err := h.authority.Register(t.Context(), "first", "known", string(pemOf(h.ca.Certificate)), false, "")
	h.no(err)
	h.issue(order("press-17", "1", csr(t, newKey(t), "press-17")))
	cas, err := h.authority.List(t.Context(), "first")
	if err != nil || len(cas) != 1 || cas[0].Name != "known" || !cas[0].Verified {
		t.Errorf("%+v %v", cas, err)
	}

	for n := range authority.DefaultMaxCAs {
		ca, err := pki.NewRoot(fmt.Sprint("Root ", n), newKey(t), h.now, 10)
		h.no(err)
		_, _, err = h.authority.Register(t.Context(), "second", fmt.Sprint("root-", n), string(pemOf(ca.Certificate)), true, "")
		h.no(err)
	}
	o := order("press-18", "1", csr(t, newKey(t), "press-18"))
	o.HostName = "second.test"
	_, err = h.issuance.Issue(t.Context(), o)
	h.refused(err, signet.LimitCertificates)
	if n := h.records(); n != 1 {
		t.Errorf("%d records", n)
	}

	// A hub elsewhere has anchors of its own.
	o.HostName = "hub.elsewhere.test"
	h.issue(o)
	list, err := h.issuance.Issued(t.Context(), issuance.Query{Service: "dps", DeviceID: "press-18", Limit: 9})
	if err != nil || len(list) != 1 || list[0].Hub != "" || list[0].HostName != "hub.elsewhere.test" {
		t.Errorf("%+v %v", list, err)
	}

	h.now = h.ca.Certificate.NotAfter.Add(time.Second)
	_, err = h.issuance.Issue(t.Context(), order("press-19", "1", csr(t, newKey(t), "press-19")))
	h.refused(err, signet.CertExpired)
}

// FuzzCSR: whatever a device sends is signed as its own, or refused.
func FuzzCSR(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr(f, key, "d"))
	f.Add(csr(f, key, "d", pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}}))
	f.Add(csr(f, key, "d", pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: []byte{3, 2, 2, 4}}))
	f.Fuzz(func(t *testing.T, der []byte) {
		request, err := pki.DeviceCSR(der, "d")
		if err != nil {
			if code := signet.CodeOf(err); code.Info().Step != signet.StepIssue && code != signet.CertWeakKey {
				t.Error(err)
			}
			return
		}
		if request.Subject.CommonName != "d" || pki.KindOfKey(request.PublicKey) == "" || request.CheckSignature() != nil {
			t.Errorf("taken: %v", request.Subject)
		}
	})
}

// aHungKey is one in a token that answers when it is let.
type aHungKey struct {
	crypto.Signer
	let   chan struct{}
	asked *atomic.Int64
}

func (k aHungKey) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.asked.Add(1)
	<-k.let
	return k.Signer.Sign(r, digest, opts)
}

// hungHouse is a house where the CA of the policy "grace" is in a token that hangs, and
// how a device comes for a certificate.
func hungHouse(t *testing.T) (h *house, hung aHungKey, come func(ctx context.Context, device, policy string) (time.Duration, error)) {
	h = newHouse(t)
	ca := *h.ca
	hung = aHungKey{ca.Key, make(chan struct{}), new(atomic.Int64)}
	ca.Key = hung
	h.list[1].CA, h.list[1].Thumbprint = &ca, "another"
	return h, hung, func(ctx context.Context, device, policy string) (time.Duration, error) {
		o := order(device, "1", csr(t, newKey(t), device))
		o.Policy = policy
		begun := time.Now()
		_, err := h.issuance.Issue(ctx, o)
		return time.Since(begun), err
	}
}

// TestHungToken: a token that hangs holds nobody up for long, and who comes after
// that not at all; other policies go on, and so does this one when it answers again.
func TestHungToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, hung, come := hungHouse(t)
		var all sync.WaitGroup
		for n := range 20 {
			all.Go(func() {
				if took, err := come(t.Context(), fmt.Sprint("press-", n), "grace"); signet.CodeOf(err) != signet.Unavailable || took > 15*time.Second {
					t.Errorf("%v after %v", err, took)
				}
			})
		}
		all.Wait()
		asked := hung.asked.Load()
		if took, err := come(t.Context(), "press-20", "grace"); signet.CodeOf(err) != signet.Unavailable || took > 0 || hung.asked.Load() > asked {
			t.Errorf("%v after %v", err, took)
		}
		if took, err := come(t.Context(), "press-21", "operational"); err != nil || took > 0 {
			t.Errorf("%v after %v", err, took)
		}
		close(hung.let)
		synctest.Wait()
		if _, err := come(t.Context(), "press-20", "grace"); err != nil {
			t.Error(err)
		}
		if h.records() != 2 {
			t.Errorf("%d are on record", h.records())
		}
	})
}

// TestHungTokenLeft: who does not wait so long leaves a signature behind, and not one
// after the other for as long as the token hangs.
func TestHungTokenLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, hung, come := hungHouse(t)
		for n := range 60 {
			ctx, cancel := context.WithTimeout(t.Context(), 1100*time.Millisecond)
			if _, err := come(ctx, fmt.Sprint("press-", n), "grace"); err == nil {
				t.Error("a token that hangs has signed")
			}
			cancel()
		}
		if asked := hung.asked.Load(); asked > 10 {
			t.Errorf("%d signatures are under way", asked)
		}
		close(hung.let)
		synctest.Wait()
		if _, err := come(t.Context(), "press-60", "grace"); err != nil {
			t.Error(err)
		}
	})
}
