package authority_test

import (
	"bytes"
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
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/pki"
)

// signed is a certificate and who can sign with its key.
type signed struct {
	*x509.Certificate
	key crypto.Signer
}

// issue signs a certificate for a key, by itself when there is no issuer.
func issue(t testing.TB, issuer *signed, name string, key crypto.Signer, serial int64, isCA bool) *signed {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: isCA}
	if isCA {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	above := &signed{template, key}
	if issuer != nil {
		above = issuer
	}
	der, err := x509.CreateCertificate(rand.Reader, template, above.Certificate, key.Public(), above.key)
	if err != nil {
		t.Fatal(err)
	}
	return &signed{parse(t, der), key}
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func certs(of ...*signed) []*x509.Certificate {
	var list []*x509.Certificate
	for _, s := range of {
		list = append(list, s.Certificate)
	}
	return list
}

// trusting is an authority that trusts these roots.
func trusting(t testing.TB, store authority.Store, o authority.Options, roots ...*signed) *authority.Authority {
	t.Helper()
	a := authority.New(store, o)
	for n, root := range roots {
		if _, _, err := a.Register(t.Context(), tenant, fmt.Sprint("root-", n), hubtest.PEM(root.Raw), true, ""); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// TestDistrust: each kind of distrust, of each certificate on a path, and which
// ways in it closes; the others stay open, for a chain that is judged as for a
// session that lives.
func TestDistrust(t *testing.T) {
	const lineSerial, leafSerial = 7, 9
	root := issue(t, nil, "Root", newKey(t), 1, true)
	line := issue(t, root, "Line", newKey(t), lineSerial, true)
	leaf := issue(t, line, "d", newKey(t), leafSerial, false)
	// The same keys under other certificates.
	newLeaf := issue(t, line, "d", leaf.key, leafSerial+1, false)
	newLine := issue(t, root, "Line", line.key, lineSerial+1, true)
	other := issue(t, nil, "Other", newKey(t), 1, true)
	crossed := issue(t, other, "Line", line.key, lineSerial, true)
	// The same names and serial numbers under other keys.
	rootNamesake := issue(t, nil, "Root", newKey(t), 1, true)
	lineNamesake := issue(t, rootNamesake, "Line", newKey(t), lineSerial, true)
	leafNamesake := issue(t, lineNamesake, "d", newKey(t), leafSerial, false)

	ways := []struct {
		name  string
		chain []*x509.Certificate
	}{
		{"plain", certs(leaf, line)},
		{"leaf made anew", certs(newLeaf, line)},
		{"line made anew", certs(leaf, newLine)},
		{"line cross-signed", certs(leaf, crossed)},
		{"both lines sent", certs(leaf, line, crossed)},
		{"namesakes", certs(leafNamesake, lineNamesake)},
	}
	for _, c := range []struct {
		chain  []*x509.Certificate // the first is distrusted
		kind   signet.DistrustKind
		closed string
	}{
		{certs(leaf), signet.DistrustCertificate, "plain, line made anew, line cross-signed, both lines sent"},
		{certs(leaf), signet.DistrustKey, "plain, leaf made anew, line made anew, line cross-signed, both lines sent"},
		{certs(leaf, line), signet.DistrustSerial, "plain, line made anew, line cross-signed, both lines sent"},
		{certs(line), signet.DistrustCertificate, "plain, leaf made anew"},
		{certs(line), signet.DistrustKey, "plain, leaf made anew, line made anew, line cross-signed, both lines sent"},
		{certs(line), signet.DistrustSerial, "plain, leaf made anew"},
		{certs(root), signet.DistrustCertificate, "plain, leaf made anew, line made anew"},
		{certs(root), signet.DistrustKey, "plain, leaf made anew, line made anew"},
		{certs(root), signet.DistrustSerial, "plain, leaf made anew, line made anew"},
	} {
		t.Run(fmt.Sprint(c.chain[0].Subject.CommonName, " by ", c.kind), func(t *testing.T) {
			var changes []signet.Change
			store := memstore.New()
			a := trusting(t, store, authority.Options{Changed: func(_ context.Context, c signet.Change) { changes = append(changes, c) }}, root, other, rootNamesake)
			live := map[string][]*signet.PathCertificate{}
			for _, w := range ways {
				path, err := a.Judge(tenant, w.chain, time.Now())
				if err != nil {
					t.Fatalf("%s: %v", w.name, err)
				}
				live[w.name] = pki.Path(path)
			}
			d, err := a.Distrust(t.Context(), tenant, signet.Distrust{Kind: c.kind, Reason: "stolen", By: "owner"}, c.chain)
			if err != nil {
				t.Fatal(err)
			}
			if len(changes) != 1 || changes[0] != (signet.Change{Hub: tenant, Trust: true}) {
				t.Errorf("told of %+v", changes)
			}
			check := func(a *authority.Authority) {
				t.Helper()
				for n := range 2 * len(ways) { // the second time, what was verified is remembered
					w := ways[n%len(ways)]
					want := strings.Contains(c.closed, w.name)
					_, err := a.Judge(tenant, w.chain, time.Now())
					if got := err != nil; got != want {
						t.Errorf("%s: closed %v, want %v (%v)", w.name, got, want, err)
					}
					if e := signet.AsError(err); e != nil && (e.Code != signet.CertRevoked || e.Certificate.Thumbprint != pki.ThumbprintSHA256(c.chain[0].Raw) && c.kind == signet.DistrustCertificate ||
						!strings.Contains(e.Message, "owner: stolen.") || !strings.Contains(e.Fix, d.ID)) {
						t.Errorf("%s: %+v", w.name, e)
					}
					// The two lines that a device may send are two paths: which of them a session
					// was let in by is not known here.
					if err := a.Revoked(tenant, live[w.name]); (err != nil) != want && w.name != "both lines sent" {
						t.Errorf("a session by %s: %v", w.name, err)
					}
					if _, err := a.Judge("elsewhere", w.chain, time.Now()); signet.CodeOf(err) == signet.CertRevoked {
						t.Errorf("%s is revoked at another hub", w.name)
					}
				}
			}
			check(a)
			restarted := authority.New(store, authority.Options{})
			if err := restarted.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			check(restarted)

			// Said again it changes nothing; lifted, all is as before.
			again, err := a.Distrust(t.Context(), tenant, signet.Distrust{Kind: c.kind, Reason: "again", By: "other"}, c.chain)
			if err != nil || again != d {
				t.Errorf("%+v %v", again, err)
			}
			if list, err := a.Distrusts(t.Context(), tenant); err != nil || len(list) != 1 || list[0] != d {
				t.Errorf("%+v %v", list, err)
			}
			if err := a.LiftDistrust(t.Context(), tenant, d.ID); err != nil {
				t.Fatal(err)
			}
			code(t, a.LiftDistrust(t.Context(), tenant, d.ID), signet.DistrustUnknown)
			for _, w := range ways {
				if _, err := a.Judge(tenant, w.chain, time.Now()); err != nil {
					t.Errorf("%s, after it was lifted: %v", w.name, err)
				}
			}

			// The same without the certificate at hand.
			bare := signet.Distrust{Thumbprint: d.Thumbprint, Key: d.Key, IssuerKey: d.IssuerKey, Serial: d.Serial, Reason: "stolen", By: "owner"}
			if c.kind == signet.DistrustSerial {
				if c.chain[0] == root.Certificate {
					return // an anchor comes without its issuer
				}
				bare.Thumbprint = ""
			}
			if d, err = a.Distrust(t.Context(), tenant, bare, nil); err != nil || d.Kind != c.kind {
				t.Fatalf("%+v %v", d, err)
			}
			check(a)
		})
	}
}

// TestDistrustedTwin: who holds a certificate can give its ECDSA signature the
// other of its two forms, and with it the certificate another thumbprint; that
// opens no door, nor does any other way to write the same.
func TestDistrustedTwin(t *testing.T) {
	for name, key := range map[string]func() crypto.Signer{
		"P-256": func() crypto.Signer { return newKey(t) },
		"P-384": func() crypto.Signer { k, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader); return k },
		"RSA":   func() crypto.Signer { k, _ := rsa.GenerateKey(rand.Reader, 2048); return k },
	} {
		t.Run(name, func(t *testing.T) {
			root := issue(t, nil, "Root", key(), 1, true)
			leaf := issue(t, root, "d", newKey(t), 2, false)
			a := trusting(t, memstore.New(), authority.Options{}, root)
			forms := map[string]*x509.Certificate{"as issued": leaf.Certificate}
			if pub, ok := root.PublicKey.(*ecdsa.PublicKey); ok {
				forms["twin"] = parse(t, rewritten(t, leaf.Raw, 0, func(signature []byte) []byte {
					var s struct{ R, S *big.Int }
					if _, err := asn1.Unmarshal(signature, &s); err != nil {
						t.Fatal(err)
					}
					s.S.Sub(pub.Params().N, s.S)
					signature, err := asn1.Marshal(s)
					if err != nil {
						t.Fatal(err)
					}
					return signature
				}))
			}
			live := map[string][]*signet.PathCertificate{}
			for form, c := range forms {
				path, err := a.Judge(tenant, []*x509.Certificate{c}, time.Now())
				if err != nil {
					t.Fatalf("%s: %v: what follows would prove nothing", form, err)
				}
				live[form] = pki.Path(path)
			}
			if leaf.Signature[0] < 0x80 { // else a bit more makes it longer than the key
				// crypto/x509 shifts the bits into place; so it is held to whole octets.
				loose := parse(t, rewritten(t, leaf.Raw, 1, func(signature []byte) []byte {
					shifted := new(big.Int).SetBytes(signature)
					return shifted.Lsh(shifted, 1).FillBytes(make([]byte, len(signature)))
				}))
				if loose.CheckSignatureFrom(root.Certificate) != nil {
					t.Error("the signature with an unused bit does not fit: this proves nothing")
				}
				_, err := a.Judge(tenant, []*x509.Certificate{loose}, time.Now())
				code(t, err, signet.ChainMalformed)
			}
			// crypto/x509 passes over what follows the signature, too; however long that is,
			// it is seen.
			for more := 1; more <= len(leaf.Signature); more++ {
				_, err := a.Judge(tenant, []*x509.Certificate{parse(t, followed(t, leaf.Raw, make([]byte, more)))}, time.Now())
				code(t, err, signet.ChainMalformed)
			}
			for _, given := range forms {
				for _, d := range []signet.Distrust{{Kind: signet.DistrustCertificate}, {Thumbprint: strings.ToUpper(pki.ThumbprintSHA256(given.Raw))}} {
					var of []*x509.Certificate
					if d.Thumbprint == "" {
						of = append(of, given)
					}
					d, err := a.Distrust(t.Context(), tenant, d, of)
					if err != nil {
						t.Fatal(err)
					}
					for form, c := range forms {
						_, err := a.Judge(tenant, []*x509.Certificate{c}, time.Now())
						code(t, err, signet.CertRevoked)
						code(t, a.Revoked(tenant, live[form]), signet.CertRevoked)
					}
					if err := a.LiftDistrust(t.Context(), tenant, d.ID); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// rewritten writes a certificate with another signature, that leaves bits unused.
func rewritten(t testing.TB, der []byte, unused byte, change func([]byte) []byte) []byte {
	t.Helper()
	var c struct{ TBS, Algorithm, Signature asn1.RawValue }
	if _, err := asn1.Unmarshal(der, &c); err != nil {
		t.Fatal(err)
	}
	c.Signature = asn1.RawValue{Tag: asn1.TagBitString, Bytes: append([]byte{unused}, change(c.Signature.Bytes[1:])...)}
	der, err := asn1.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// followed writes a structure with something behind its last member.
func followed(t testing.TB, der, more []byte) []byte {
	t.Helper()
	var c asn1.RawValue
	if _, err := asn1.Unmarshal(der, &c); err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: append(bytes.Clone(c.Bytes), more...)})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestDistrustedKeyInAnotherForm: a key has one form. Who asks a CA for another
// certificate of a key that is distrusted, and has it written in another way, is
// refused.
func TestDistrustedKeyInAnotherForm(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	root := issue(t, nil, "Root", newKey(t), 1, true)
	for _, key := range []crypto.Signer{newKey(t), weak} {
		a := trusting(t, memstore.New(), authority.Options{}, root)
		leaf := issue(t, root, "d", key, 2, false)
		if _, err := a.Judge(tenant, certs(leaf), time.Now()); err != nil {
			t.Fatalf("%v: what follows would prove nothing", err)
		}
		if _, err := a.Distrust(t.Context(), tenant, signet.Distrust{Kind: signet.DistrustKey}, certs(leaf)); err != nil {
			t.Fatal(err)
		}
		var info struct {
			Algorithm asn1.RawValue
			Key       asn1.BitString
		}
		if _, err := asn1.Unmarshal(leaf.RawSubjectPublicKeyInfo, &info); err != nil {
			t.Fatal(err)
		}
		forms := map[string][]byte{"something behind the key": followed(t, leaf.RawSubjectPublicKeyInfo, []byte{5, 0})}
		marshal := func() []byte {
			der, err := asn1.Marshal(info)
			if err != nil {
				t.Fatal(err)
			}
			return der
		}
		if key == crypto.Signer(weak) {
			numbers := info.Key
			info.Key = asn1.BitString{Bytes: append(bytes.Clone(numbers.Bytes), 5, 0), BitLength: numbers.BitLength + 16}
			forms["something behind the numbers"] = marshal()
			three := followed(t, numbers.Bytes, []byte{2, 1, 1})
			info.Key = asn1.BitString{Bytes: three, BitLength: 8 * len(three)}
			forms["a third number"] = marshal()
			info.Key = numbers
		}
		info.Algorithm.FullBytes = followed(t, info.Algorithm.FullBytes, []byte{5, 0})
		forms["something behind the parameters"] = marshal()
		for form, der := range forms {
			other := withKey(t, root, leaf, der)
			_, err := a.Judge(tenant, []*x509.Certificate{other}, time.Now())
			code(t, err, signet.ChainMalformed)
			// Who gives this form to be distrusted, or bounded, would believe that the key is.
			_, err = a.Distrust(t.Context(), tenant, signet.Distrust{Kind: signet.DistrustKey}, []*x509.Certificate{other})
			code(t, err, signet.DistrustMalformed)
			_, err = a.Distrust(t.Context(), tenant, signet.Distrust{Kind: signet.DistrustSerial}, []*x509.Certificate{leaf.Certificate, other})
			code(t, err, signet.DistrustMalformed)
			_, err = a.SetScope(t.Context(), tenant, authority.ScopeOf{Certificate: other}, signet.Scope{Devices: []string{"d"}})
			code(t, err, signet.ScopeMalformed)
			// Nor does a new thumbprint help.
			if code(t, pki.CheckSelfStanding(other, time.Now()), signet.ChainMalformed); t.Failed() {
				t.Fatal(form)
			}
		}
	}
}

// TestCAKeyInAnotherForm: nor is a CA registered whose key is written in another way: it
// would stand beside its earlier certificate, and go on when that key is distrusted.
func TestCAKeyInAnotherForm(t *testing.T) {
	root := issue(t, nil, "Root", newKey(t), 1, true)
	line := issue(t, root, "Line", newKey(t), 2, true)
	a := trusting(t, memstore.New(), authority.Options{}, line)
	again := withKey(t, root, issue(t, root, "Line", line.key, 3, true), followed(t, line.RawSubjectPublicKeyInfo, []byte{5, 0}))
	for _, der := range [][]byte{again.Raw, followed(t, line.Raw, []byte{5, 0})} {
		_, _, err := a.Register(t.Context(), tenant, "again", hubtest.PEM(der), true, "")
		code(t, err, signet.UploadMalformed)
	}
}

// withKey has a CA sign a certificate like another, with its key as it is written.
func withKey(t testing.TB, ca, like *signed, key []byte) *x509.Certificate {
	t.Helper()
	tbs := bytes.Replace(like.RawTBSCertificate, like.RawSubjectPublicKeyInfo, key, 1)
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(like.RawTBSCertificate, &outer); err != nil {
		t.Fatal(err)
	}
	tbs = tbs[len(outer.FullBytes)-len(outer.Bytes):]
	tbs, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: tbs})
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(tbs)
	signature, err := ca.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var c struct{ TBS, Algorithm, Signature asn1.RawValue }
	if _, err := asn1.Unmarshal(like.Raw, &c); err != nil {
		t.Fatal(err)
	}
	c.TBS = asn1.RawValue{FullBytes: tbs}
	c.Signature = asn1.RawValue{Tag: asn1.TagBitString, Bytes: append([]byte{0}, signature...)}
	der, err := asn1.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cert := parse(t, der)
	if cert.CheckSignatureFrom(ca.Certificate) != nil {
		t.Fatal("the signature does not fit: this proves nothing")
	}
	return cert
}

// TestDistrustedDeviceWithoutPath: a certificate that is known by thumbprint is
// distrusted as one on a path is.
func TestDistrustedDeviceWithoutPath(t *testing.T) {
	root := issue(t, nil, "Root", newKey(t), 1, true)
	leaf := issue(t, root, "d", newKey(t), 2, false)
	path := pki.Path(certs(leaf))
	for _, kind := range []signet.DistrustKind{signet.DistrustCertificate, signet.DistrustKey, signet.DistrustSerial} {
		a := authority.New(memstore.New(), authority.Options{})
		if err := a.Revoked(tenant, path); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Distrust(t.Context(), tenant, signet.Distrust{Kind: kind}, certs(leaf, root)); err != nil {
			t.Fatal(err)
		}
		code(t, a.Revoked(tenant, path), signet.CertRevoked)
	}
}

// TestDistrustLimit: what an operator can fill is bounded.
func TestDistrustLimit(t *testing.T) {
	store := memstore.New()
	a := authority.New(store, authority.Options{})
	for n := range 10_000 {
		sum := sha256.Sum256(fmt.Append(nil, n))
		if err := store.CreateDistrust(t.Context(), signet.Distrust{Hub: tenant, ID: fmt.Sprint(n), Kind: signet.DistrustKey, Key: hex.EncodeToString(sum[:])}); err != nil {
			t.Fatal(err)
		}
	}
	key := strings.Repeat("ab", 32)
	_, err := a.Distrust(t.Context(), tenant, signet.Distrust{Key: key}, nil)
	code(t, err, signet.LimitDistrusts)
	_, err = a.Distrust(t.Context(), "elsewhere", signet.Distrust{Key: key}, nil)
	code(t, err, "")
}

// TestDistrustTogether: of many that distrust the same at once, each is answered
// only when it is in force, and it is listed once.
func TestDistrustTogether(t *testing.T) {
	root := issue(t, nil, "Root", newKey(t), 1, true)
	leaf := issue(t, root, "d", newKey(t), 2, false)
	a := trusting(t, memstore.New(), authority.Options{}, root)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := a.Distrust(t.Context(), tenant, signet.Distrust{}, certs(leaf)); err != nil {
				t.Error(err)
			}
			_, err := a.Judge(tenant, certs(leaf), time.Now())
			code(t, err, signet.CertRevoked)
		})
	}
	wg.Wait()
	if list, err := a.Distrusts(t.Context(), tenant); err != nil || len(list) != 1 {
		t.Errorf("%+v %v", list, err)
	}
}

// BenchmarkJudge is the authority's part of a connect, two intermediates below
// the root: when nothing is distrusted, and when the hub distrusts 10,000 others.
func BenchmarkJudge(b *testing.B) {
	root := issue(b, nil, "Root", newKey(b), 1, true)
	factory := issue(b, root, "Factory", newKey(b), 2, true)
	line := issue(b, factory, "Line", newKey(b), 3, true)
	leaf := issue(b, line, "d", newKey(b), 4, false)
	for _, others := range []int{0, 10_000} {
		b.Run(fmt.Sprint(others, " distrusted"), func(b *testing.B) {
			store := memstore.New()
			for n := range others {
				sum := sha256.Sum256(fmt.Append(nil, n))
				d := signet.Distrust{Hub: tenant, ID: fmt.Sprint(n), Kind: signet.DistrustKey, Key: hex.EncodeToString(sum[:])}
				if n%2 == 0 {
					d.Kind, d.Thumbprint, d.Key = signet.DistrustCertificate, d.Key, ""
				}
				if err := store.CreateDistrust(b.Context(), d); err != nil {
					b.Fatal(err)
				}
			}
			a := trusting(b, store, authority.Options{}, root)
			chain := certs(leaf, line, factory)
			for b.Loop() {
				if _, err := a.Judge(tenant, chain, time.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
