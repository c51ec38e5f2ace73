package hubtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// A CA signs certificates for tests. It is made with the standard library alone,
// so that the product's own issuing is not what proves the product's checking.
type CA struct {
	Cert  *x509.Certificate
	Key   crypto.Signer
	above []*x509.Certificate // the CAs between this one and the root, nearest first
}

// An Option alters a certificate before it is signed.
type Option func(*x509.Certificate)

// NewCA makes a root.
func NewCA(t testing.TB, name string, options ...Option) *CA {
	t.Helper()
	ca := &CA{}
	ca.Cert, ca.Key = sign(t, caTemplate(name, options), nil, nil)
	return ca
}

// Intermediate makes a CA below this one.
func (ca *CA) Intermediate(t testing.TB, name string, options ...Option) *CA {
	t.Helper()
	sub := &CA{}
	sub.Cert, sub.Key = sign(t, caTemplate(name, options), ca.Cert, ca.Key)
	if ca.Cert.CheckSignatureFrom(ca.Cert) != nil { // not the root
		sub.above = append([]*x509.Certificate{ca.Cert}, ca.above...)
	}
	return sub
}

// Device makes a leaf with CN = id, and gives it with the intermediates above it.
func (ca *CA) Device(t testing.TB, id string, options ...Option) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: id}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	for _, o := range options {
		o(template)
	}
	cert, key := sign(t, template, ca.Cert, ca.Key)
	pair := tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	if ca.Cert.CheckSignatureFrom(ca.Cert) != nil {
		pair.Certificate = append(pair.Certificate, ca.Cert.Raw)
	}
	for _, c := range ca.above {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}

// Cross gives a certificate of another CA for the name and key of one.
func Cross(t testing.TB, by, of *CA) *x509.Certificate {
	t.Helper()
	template := caTemplate(of.Cert.Subject.CommonName, nil)
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	template.NotBefore, template.NotAfter = of.Cert.NotBefore, of.Cert.NotAfter
	der, err := x509.CreateCertificate(rand.Reader, template, by.Cert, of.Key.Public(), by.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Prove makes a proof of possession.
func (ca *CA) Prove(t testing.TB, code string) string {
	t.Helper()
	cert, _ := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: code}}, ca.Cert, ca.Key)
	return PEM(cert.Raw)
}

// PEM writes certificates as text.
func PEM(ders ...[]byte) string {
	s := ""
	for _, der := range ders {
		s += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return s
}

// KeyPEM writes a private key as text, for clients that read files.
func KeyPEM(t testing.TB, key crypto.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func caTemplate(name string, options []Option) *x509.Certificate {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true,
	}
	for _, o := range options {
		o(template)
	}
	return template
}

func sign(t testing.TB, template, issuer *x509.Certificate, issuerKey crypto.Signer) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if issuer == nil {
		issuer, issuerKey = template, key
	}
	if template.SerialNumber == nil {
		template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(24 * time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}
