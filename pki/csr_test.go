package pki_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// request makes what a device would send.
func request(t testing.TB, cn string) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}, key(t, pki.P256))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestParseCSR(t *testing.T) {
	der := request(t, "press-17")
	armor := func(label string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der})
	}
	text := armor("CERTIFICATE REQUEST", der)
	forged := append([]byte(nil), der...)
	forged[len(forged)-1] ^= 1
	renamed := []byte(strings.Replace(string(der), "press-17", "press-18", 1))
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, small)
	if err != nil {
		t.Fatal(err)
	}
	ca := root(t, "Root")
	private, err := pki.MarshalKey(ca.Key, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		file []byte
		code signet.Code
	}{
		{"DER", der, ""},
		{"PEM", text, ""},
		{"PEM of the older name", armor("NEW CERTIFICATE REQUEST", der), ""},
		{"PEM after the key, as some tools write", append(append([]byte(nil), private...), text...), ""},
		{"the signature changed", forged, signet.CSRMalformed},
		{"the name changed after signing", renamed, signet.CSRMalformed},
		{"a weak key", weak, signet.CertWeakKey},
		{"a certificate", pemOf(ca.Certificate), signet.CSRMalformed},
		{"a private key", private, signet.CSRMalformed},
		{"nothing", nil, signet.CSRMalformed},
		{"rubbish", []byte("rubbish"), signet.CSRMalformed},
		{"too large", append(text, make([]byte, 64<<10)...), signet.CSRMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			csr, err := pki.ParseCSR(test.file)
			wantCode(t, err, test.code)
			noSecretIn(t, err, test.file)
			if err == nil && csr.Subject.CommonName != "press-17" {
				t.Errorf("common name %q", csr.Subject.CommonName)
			}
		})
	}
}

// A request by the real openssl that asks for more than it should: only its key
// gets into the certificate.
func TestCSRWishesAreNotHeard(t *testing.T) {
	dir := t.TempDir()
	openssl(t, dir, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "device.key", "-out", "device.csr",
		"-subj", "/O=Evil/CN=press-17", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "subjectAltName=DNS:hub.example.com", "-addext", "keyUsage=keyCertSign")
	text, err := os.ReadFile(filepath.Join(dir, "device.csr"))
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := root(t, "Root").Device("press-17", csr.PublicKey, today, 5)
	if err != nil {
		t.Fatal(err)
	}
	c := chain[0]
	if c.IsCA || len(c.DNSNames) > 0 || c.KeyUsage != x509.KeyUsageDigitalSignature || c.Subject.String() != "CN=press-17" {
		t.Errorf("CA %v, names %v, key usage %b, subject %s", c.IsCA, c.DNSNames, c.KeyUsage, c.Subject)
	}
}

// Whatever comes, ParseCSR gives a request whose key a hub would take, or a
// refusal.
func FuzzCSR(f *testing.F) {
	der := request(f, "press-17")
	f.Add(der)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----"))
	ca := root(f, "Root")
	f.Fuzz(func(t *testing.T, file []byte) {
		csr, err := pki.ParseCSR(file)
		switch signet.CodeOf(err) {
		case "":
			if _, err := ca.Device("d", csr.PublicKey, today, 1); err != nil {
				t.Fatalf("a request that was taken cannot be signed: %v", err)
			}
		case signet.CSRMalformed, signet.CertWeakKey:
		default:
			t.Fatalf("%v", err)
		}
	})
}

// TestCheckHub: a certificate that was issued for one hub is for no other; one that
// names none is for any.
func TestCheckHub(t *testing.T) {
	ca := root(t, "Issuing")
	chain, err := ca.Operational("press-17", "Hub.example.test:8883", key(t, pki.P256).Public(), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := ca.Device("press-17", key(t, pki.P256).Public(), time.Now(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		leaf *x509.Certificate
		host string
		code signet.Code
	}{
		{chain[0], "hub.example.test", ""},
		{chain[0], "HUB.example.test:443", ""},
		{chain[0], "hub2.example.test", signet.CertOutOfScope},
		{chain[0], "", signet.CertOutOfScope},
		{plain[0], "hub2.example.test", ""},
	} {
		if err := pki.CheckHub(test.leaf, test.host); signet.CodeOf(err) != test.code {
			t.Errorf("%q: %v", test.host, err)
		}
	}
}
