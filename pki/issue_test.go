package pki_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

// today is when the certificates of these tests are issued: openssl verify goes
// by the real clock.
var today = time.Now()

// key makes a key; a test that does not say otherwise takes P-256.
func key(t testing.TB, kind pki.KeyType) crypto.Signer {
	t.Helper()
	k, err := pki.GenerateKey(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func root(t testing.TB, name string) *pki.CA {
	t.Helper()
	ca, err := pki.NewRoot(name, key(t, pki.P256), today, 30)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// below makes an intermediate and opens it, as its folder would be.
func below(t testing.TB, ca *pki.CA, name string, k crypto.Signer, pathLength int) *pki.CA {
	t.Helper()
	chain, err := ca.Intermediate(name, k.Public(), pathLength, today, 20)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := pki.OpenCA(chain[0], chain, k)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// wantCode checks the code of a refusal, and that it tells people what to do.
func wantCode(t testing.TB, err error, want signet.Code) {
	t.Helper()
	if got := signet.CodeOf(err); got != want {
		t.Fatalf("got %q (%v), want %q", got, err, want)
	}
	if e, ok := errors.AsType[*signet.Error](err); ok && (e.Fix == "" || !strings.HasSuffix(e.Message, ".")) {
		t.Errorf("%s: sentence %q, fix %q: people need both", want, e.Message, e.Fix)
	}
}

// openssl runs the real thing in a folder.
func openssl(t testing.TB, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func pemOf(certs ...*x509.Certificate) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

func write(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every certificate of a three-step hierarchy, in every type of key, pleases the
// strict checks of openssl, the RFC 5280 lints of zlint, and our own validation.
func TestIssueEveryKeyType(t *testing.T) {
	for _, kind := range pki.KeyTypes {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			other := kind
			if kind == pki.RSA3072 || kind == pki.RSA4096 {
				other = pki.RSA2048 // making three large keys takes too long for a test
			}
			rootCA, err := pki.NewRoot("Acme Root", key(t, other), today, 3650)
			if err != nil {
				t.Fatal(err)
			}
			factory := below(t, rootCA, "Acme Factory Augsburg", key(t, kind), 1)
			line := below(t, factory, "Linie 4 “Süd”", key(t, other), pki.NoPathLength)
			chain, err := line.Device("press-17_*?!(),=@;$'", key(t, other).Public(), today, 10)
			if err != nil {
				t.Fatal(err)
			}
			proof, err := factory.Proof(pki.NewVerificationCode(), today)
			if err != nil {
				t.Fatal(err)
			}

			if got, want := len(chain), 3; got != want {
				t.Fatalf("the chain of the device has %d certificates, want %d: itself and two intermediates", got, want)
			}
			dir := t.TempDir()
			write(t, dir, "root.pem", pemOf(rootCA.Certificate))
			write(t, dir, "chain.pem", pemOf(chain...))
			write(t, dir, "device.pem", pemOf(chain[0]))
			write(t, dir, "proof.pem", pemOf(proof))
			for _, leaf := range []string{"device.pem", "proof.pem"} {
				openssl(t, dir, "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "root.pem", "-untrusted", "chain.pem", leaf)
			}
			openssl(t, dir, "verify", "-x509_strict", "-CAfile", "root.pem", "root.pem")

			for _, c := range append([]*x509.Certificate{rootCA.Certificate, proof}, chain...) {
				lintRFC5280(t, c)
				if n := len(c.SerialNumber.Bytes()); n != 20 || c.SerialNumber.Sign() <= 0 {
					t.Errorf("%s: serial of %d octets, sign %d", c.Subject, n, c.SerialNumber.Sign())
				}
			}
			anchors := pki.NewAnchors([]*x509.Certificate{rootCA.Certificate})
			if _, err := anchors.Validate(pki.PathRequest{Chain: chain, Time: today, Usage: pki.UsageClient, MaxDepth: -1}); err != nil {
				t.Errorf("our own validation refuses the device: %v", err)
			}
			leaf := chain[0]
			if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
				t.Errorf("device certificate: CA %v, key usage %b, extended %v", leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
			}
			if err := pki.CheckCA(chain[1], today); err != nil {
				t.Errorf("our own hub would not register the intermediate: %v", err)
			}
			if err := pki.CheckProof(proof, factory.Certificate, proof.Subject.CommonName, today); err != nil {
				t.Errorf("our own hub would not take the proof: %v", err)
			}
		})
	}
}

var rfcLints = func() lint.Registry {
	r, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280, lint.RFC5480, lint.RFC8813}})
	if err != nil {
		panic(err)
	}
	return r
}()

func lintRFC5280(t *testing.T, c *x509.Certificate) {
	t.Helper()
	parsed, err := zx509.ParseCertificate(c.Raw)
	if err != nil {
		t.Fatalf("zlint cannot read %s: %v", c.Subject, err)
	}
	results := zlint.LintCertificateEx(parsed, rfcLints)
	if len(results.Results) < 50 {
		t.Fatalf("only %d lints ran", len(results.Results))
	}
	for name, result := range results.Results {
		if result.Status >= lint.Error {
			t.Errorf("%s: %s: %s %s", c.Subject, name, result.Status, result.Details)
		}
	}
}

func TestPathLength(t *testing.T) {
	unlimited := root(t, "Root")
	limited := below(t, unlimited, "Two below", key(t, pki.P256), 2)
	inherited := below(t, limited, "Inherits one", key(t, pki.P256), pki.NoPathLength)
	last := below(t, inherited, "Last", key(t, pki.P256), 0)

	for _, test := range []struct {
		name  string
		ca    *pki.CA
		asked int
		want  int // path length of the new CA
		code  signet.Code
	}{
		{"no limit above, none asked", unlimited, pki.NoPathLength, -1, ""},
		{"no limit above, some asked", unlimited, 5, 5, ""},
		{"no limit above, zero asked", unlimited, 0, 0, ""},
		{"less than is left", limited, 0, 0, ""},
		{"as much as is left", limited, 1, 1, ""},
		{"more than is left", limited, 2, 0, signet.CertPathLength},
		{"what is left is inherited", limited, pki.NoPathLength, 1, ""},
		{"inherited once more", inherited, pki.NoPathLength, 0, ""},
		{"more than was inherited", inherited, 1, 0, signet.CertPathLength},
		{"nothing left", last, pki.NoPathLength, 0, signet.CertPathLength},
	} {
		t.Run(test.name, func(t *testing.T) {
			chain, err := test.ca.Intermediate("Below", key(t, pki.P256).Public(), test.asked, today, 10)
			wantCode(t, err, test.code)
			if err == nil && chain[0].MaxPathLen != test.want {
				t.Errorf("path length %d, want %d", chain[0].MaxPathLen, test.want)
			}
		})
	}

	// A CA made elsewhere may have no path length where one above it has.
	elsewhere := forge(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Elsewhere"}, BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1}, last.Certificate, last.Key, key(t, pki.P256))
	ca, err := pki.OpenCA(elsewhere.Certificate, append([]*x509.Certificate{elsewhere.Certificate}, last.Chain...), elsewhere.Key)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ca.Intermediate("Below", key(t, pki.P256).Public(), pki.NoPathLength, today, 10)
	wantCode(t, err, signet.CertPathLength)
	// Nor can it sign devices that any hub would take.
	_, err = ca.Device("d", key(t, pki.P256).Public(), today, 10)
	wantCode(t, err, signet.CertPathLength)
}

// forge signs whatever a CA elsewhere might sign. What the template leaves out
// is filled in; without a parent the result is self-signed.
func forge(t testing.TB, template, parent *x509.Certificate, parentKey, k crypto.Signer) *pki.CA {
	t.Helper()
	if template.SerialNumber == nil {
		template.SerialNumber = big.NewInt(1) // as certGen.sh counts
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = today.Add(-time.Hour), today.AddDate(0, 0, 30)
	}
	if parent == nil {
		parent, parentKey = template, k
	}
	der, err := x509.CreateCertificate(nil, template, parent, k.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &pki.CA{Certificate: c, Key: k}
}

func TestValidity(t *testing.T) {
	at := time.Date(2030, 5, 1, 12, 0, 0, 123, time.FixedZone("", 7200))
	ca, err := pki.NewRoot("Root", key(t, pki.P256), at, 100)
	if err != nil {
		t.Fatal(err)
	}
	start, end := ca.Certificate.NotBefore, ca.Certificate.NotAfter
	if !start.Equal(at.Truncate(time.Second).Add(-5*time.Minute)) || !end.Equal(at.Truncate(time.Second).AddDate(0, 0, 100)) {
		t.Errorf("root of %s for 100 days is valid from %s to %s", at, start, end)
	}
	issue := func(at time.Time, days int) (*x509.Certificate, error) {
		chain, err := ca.Device("d", key(t, pki.P256).Public(), at, days)
		if err != nil {
			return nil, err
		}
		return chain[0], nil
	}

	t.Run("never longer than the issuer", func(t *testing.T) {
		c, err := issue(at, 101)
		if err != nil {
			t.Fatal(err)
		}
		if !c.NotAfter.Equal(end) || !c.NotBefore.Equal(start) {
			t.Errorf("device is valid from %s to %s, its CA from %s to %s", c.NotBefore, c.NotAfter, start, end)
		}
	})
	t.Run("on the last second", func(t *testing.T) {
		if _, err := issue(end, 1); err != nil {
			t.Error(err)
		}
	})
	t.Run("a second later", func(t *testing.T) {
		_, err := issue(end.Add(time.Second), 1)
		wantCode(t, err, signet.CertExpired)
	})
	t.Run("before the CA's time", func(t *testing.T) {
		_, err := issue(start.Add(-time.Second), 1)
		wantCode(t, err, signet.CertNotYetValid)
	})
	for _, days := range []int{-1, 0, 36501} {
		_, err := issue(at, days)
		wantCode(t, err, signet.RequestMalformed)
	}
}

func TestNames(t *testing.T) {
	ca := root(t, "Root")
	public := key(t, pki.P256).Public()
	for name, fine := range map[string]bool{
		"x":                             true,
		strings.Repeat("ü", 64):         true,
		`O=Acme, CN="quoted" \ / <b>`:   true,
		"":                              false,
		strings.Repeat("x", 65):         false,
		" leading":                      false,
		"trailing ":                     false,
		"two\nlines":                    false,
		"nul\x00inside":                 false,
		"right to left \u202e override": false,
		"zero\u200bwidth":               false,
		"\xff\xfe":                      false,
	} {
		_, err := ca.Intermediate(name, public, pki.NoPathLength, today, 10)
		if fine != (err == nil) {
			t.Errorf("CA %q: %v", name, err)
		}
		if !fine {
			wantCode(t, err, signet.RequestMalformed)
		}
	}
	for id, fine := range map[string]bool{
		"press-17":              true,
		"edge/camera":           true,
		strings.Repeat("d", 64): true,
		"":                      false,
		strings.Repeat("d", 65): false,
		"two words":             false,
		"a/b/c":                 false,
		"edge/":                 false,
		"ünicode":               false,
		"press-17\n":            false,
		"../../etc/passwd":      false,
		"wild+card":             false,
	} {
		chain, err := ca.Device(id, public, today, 10)
		if fine != (err == nil) {
			t.Errorf("device %q: %v", id, err)
		}
		if !fine {
			wantCode(t, err, signet.IdentityMalformed)
		} else if err == nil && chain[0].Subject.CommonName != id {
			t.Errorf("device %q has the common name %q", id, chain[0].Subject.CommonName)
		}
	}
	for _, issue := range []func() error{
		func() error { _, err := ca.Intermediate("Root", public, pki.NoPathLength, today, 10); return err },
		func() error { _, err := ca.Device("Root", public, today, 10); return err },
	} {
		wantCode(t, issue(), signet.RequestMalformed) // self-issued
	}
	for _, code := range []string{"", " ", strings.Repeat("A", 65), "A\nB"} {
		_, err := ca.Proof(code, today)
		wantCode(t, err, signet.RequestMalformed)
	}
}

func TestOpenCA(t *testing.T) {
	ca := root(t, "Root")
	middle := below(t, ca, "Middle", key(t, pki.P256), pki.NoPathLength)
	line := below(t, middle, "Line", key(t, pki.P256), pki.NoPathLength)
	stranger := root(t, "Stranger")
	device, err := line.Device("d", key(t, pki.P256).Public(), today, 5)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := forge(t, template(), nil, nil, small)
	noSign := forge(t, &x509.Certificate{Subject: pkix.Name{CommonName: "CRLs only"}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCRLSign}, nil, nil, key(t, pki.P256))

	for _, test := range []struct {
		name  string
		cert  *x509.Certificate
		chain []*x509.Certificate
		key   crypto.Signer
		want  int // length of the CA's chain
		code  signet.Code
	}{
		{"a root", ca.Certificate, nil, ca.Key, 0, ""},
		{"a root with itself as chain", ca.Certificate, []*x509.Certificate{ca.Certificate}, ca.Key, 0, ""},
		{"an intermediate", line.Certificate, line.Chain, line.Key, 2, ""},
		{"the root in the chain is left out", line.Certificate, append(slices.Clone(line.Chain), ca.Certificate), line.Key, 2, ""},
		{"an intermediate whose chain is not known", line.Certificate, nil, line.Key, 1, ""},
		{"a chain without the CA itself", line.Certificate, line.Chain[1:], line.Key, 2, ""},
		{"a chain with a gap", line.Certificate, []*x509.Certificate{line.Certificate, device[0]}, line.Key, 0, signet.ChainMalformed},
		{"another's key", line.Certificate, line.Chain, middle.Key, 0, signet.KeyMismatch},
		{"a key of another kind", ca.Certificate, nil, key(t, pki.Ed25519), 0, signet.KeyMismatch},
		{"a device", device[0], device, stranger.Key, 0, signet.CertNotACA},
		{"a CA that any hub would refuse", weak.Certificate, nil, small, 0, signet.CertWeakKey},
		{"a CA that may not sign", noSign.Certificate, nil, noSign.Key, 0, signet.CertKeyUsage},
	} {
		t.Run(test.name, func(t *testing.T) {
			opened, err := pki.OpenCA(test.cert, test.chain, test.key)
			wantCode(t, err, test.code)
			if err == nil && len(opened.Chain) != test.want {
				t.Errorf("chain of %d, want %d", len(opened.Chain), test.want)
			}
		})
	}
}

// An owner whose CA cannot vouch for devices learns it when signing, not from
// the field.
func TestCAThatCannotVouchForDevices(t *testing.T) {
	template := func() *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, BasicConstraintsValid: true, IsCA: true}
	}
	servers := template()
	servers.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	above := root(t, "Root")
	k := key(t, pki.P256)
	made := forge(t, servers, above.Certificate, above.Key, k)
	ca, err := pki.OpenCA(made.Certificate, []*x509.Certificate{made.Certificate}, k)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ca.Device("d", key(t, pki.P256).Public(), today, 5)
	wantCode(t, err, signet.CertExtKeyUsage)
}

// A CA made without a subject key identifier still gives its devices the one
// that it should have.
func TestAuthorityKeyIdentifier(t *testing.T) {
	ca := root(t, "Root")
	chain, err := ca.Device("d", key(t, pki.P256).Public(), today, 5)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(chain[0].AuthorityKeyId, ca.Certificate.SubjectKeyId) {
		t.Errorf("AKI %x, the CA's SKI %x", chain[0].AuthorityKeyId, ca.Certificate.SubjectKeyId)
	}
	bare := *ca.Certificate
	bare.SubjectKeyId = nil
	chain, err = (&pki.CA{Certificate: &bare, Key: ca.Key}).Device("d", key(t, pki.P256).Public(), today, 5)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(chain[0].AuthorityKeyId, ca.Certificate.SubjectKeyId) {
		t.Errorf("AKI %x, the key's identifier %x", chain[0].AuthorityKeyId, ca.Certificate.SubjectKeyId)
	}
}
