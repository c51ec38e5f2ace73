package pki_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// noSecretIn checks that an error repeats no piece of what was given, in any
// form in which it may leave the process.
func noSecretIn(t testing.TB, err error, file []byte) {
	t.Helper()
	if err == nil {
		return
	}
	e := signet.AsError(err)
	shown, _ := json.Marshal(e)
	all := string(shown) + err.Error()
	for line := range strings.Lines(string(file)) {
		line = strings.TrimSpace(line)
		if len(line) >= 16 && !strings.HasPrefix(line, "-----") && strings.Contains(all, line[:16]) {
			t.Errorf("the error repeats the file: %s", all)
		}
	}
}

// The three encodings that the clients of Azure send, and what their users'
// files look like, all give the certificate.
func TestParseUpload(t *testing.T) {
	ca := root(t, "Root").Certificate
	text := string(pemOf(ca))
	b64 := base64.StdEncoding.EncodeToString
	for name, upload := range map[string]string{
		"PEM":                            text,
		"PEM with CRLF":                  strings.ReplaceAll(text, "\n", "\r\n"),
		"PEM after the text of openssl":  "Certificate:\n    Data:\n        Version: 3 (0x2)\n" + text,
		"PEM after a byte order mark":    "\ufeff" + text,
		"PEM without a last newline":     strings.TrimSpace(text),
		"a chain: its first":             text + string(pemOf(root(t, "Another").Certificate)),
		"PEM of the older name":          strings.ReplaceAll(text, " CERTIFICATE", " X509 CERTIFICATE"),
		"base64 of PEM":                  b64([]byte(text)),
		"base64 of PEM with a mark":      b64([]byte("\ufeff" + text)),
		"base64 of PEM with CRLF":        b64([]byte(strings.ReplaceAll(text, "\n", "\r\n"))),
		"base64 of DER":                  b64(ca.Raw),
		"base64 of DER, in lines":        strings.Join(strings.SplitAfter(b64(ca.Raw), "A"), "\r\n"),
		"base64 of DER, without padding": base64.RawStdEncoding.EncodeToString(ca.Raw),
		"base64 between blanks":          " \n" + b64(ca.Raw) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pki.ParseUpload(upload)
			if err != nil {
				t.Fatal(err)
			}
			if !got.Equal(ca) {
				t.Errorf("another certificate came back: %s", got.Subject)
			}
		})
	}
}

// DER is not text: a certificate whose last byte looks like a blank is whole.
func TestUploadThatEndsInABlank(t *testing.T) {
	for {
		ca := root(t, "Root").Certificate // with another signature each time
		if last := ca.Raw[len(ca.Raw)-1:]; len(bytes.TrimSpace(last)) > 0 {
			continue
		}
		got, err := pki.ParseUpload(base64.StdEncoding.EncodeToString(ca.Raw))
		if err != nil || !got.Equal(ca) {
			t.Errorf("not read back: %v", err)
		}
		return
	}
}

// A private key is recognised in every form it comes in, and the refusal does
// not repeat it.
func TestUploadOfPrivateKey(t *testing.T) {
	ca := root(t, "Root")
	certificate := string(pemOf(ca.Certificate))
	ecKey := ca.Key.(*ecdsa.PrivateKey)
	rsaKey := key(t, pki.RSA2048).(*rsa.PrivateKey)
	pkcs8, _ := x509.MarshalPKCS8PrivateKey(ecKey)
	sec1, _ := x509.MarshalECPrivateKey(ecKey)
	pkcs1 := x509.MarshalPKCS1PrivateKey(rsaKey)
	encrypted, err := pki.MarshalKey(ecKey, []byte("1234"))
	if err != nil {
		t.Fatal(err)
	}
	armor := func(label string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
	}
	encryptedDER, _ := pem.Decode(encrypted)
	unknownCurve, err := asn1.Marshal(struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}{0, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 3}}, make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}

	files := map[string]string{
		"PKCS#8":                      armor("PRIVATE KEY", pkcs8),
		"SEC 1":                       armor("EC PRIVATE KEY", sec1),
		"PKCS#1":                      armor("RSA PRIVATE KEY", pkcs1),
		"PKCS#8, encrypted":           string(encrypted),
		"OpenSSH":                     armor("OPENSSH PRIVATE KEY", []byte("openssh-key-v1")),
		"after the certificate":       certificate + armor("PRIVATE KEY", pkcs8),
		"before the certificate":      armor("EC PRIVATE KEY", sec1) + certificate,
		"called a certificate":        armor("CERTIFICATE", pkcs8),
		"called something else":       certificate + armor("DATA", sec1),
		"cut off":                     certificate + armor("PRIVATE KEY", pkcs8)[:60],
		"in lower case":               certificate + strings.ToLower(armor("PRIVATE KEY", pkcs8)),
		"DER of PKCS#8":               string(pkcs8),
		"DER of PKCS#8, unknown kind": string(unknownCurve),
		"DER of encrypted PKCS#8":     string(encryptedDER.Bytes),
		"DER of SEC 1":                string(sec1),
		"DER of PKCS#1":               string(pkcs1),
		"DER after a certificate":     string(ca.Certificate.Raw) + string(pkcs8),
		"PFX in BER":                  "\x30\x80\x02\x01\x03\x30\x80\x06\x09",
		"PuTTY":                       "PuTTY-User-Key-File-3: ecdsa-sha2-nistp256\nPrivate-Lines: 1\nAAAAIQ\n",
	}
	dir := t.TempDir()
	write(t, dir, "ca.pem", []byte(certificate))
	write(t, dir, "ca.key", []byte(armor("PRIVATE KEY", pkcs8)))
	t.Run("PFX of openssl", func(t *testing.T) {
		openssl(t, dir, "pkcs12", "-export", "-in", "ca.pem", "-inkey", "ca.key", "-passout", "pass:1234", "-out", "ca.pfx")
		pfx, err := os.ReadFile(filepath.Join(dir, "ca.pfx"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = pki.ParseUpload(base64.StdEncoding.EncodeToString(pfx))
		wantCode(t, err, signet.UploadPrivateKey)
	})
	for name, file := range files {
		t.Run(name, func(t *testing.T) {
			uploads := []string{base64.StdEncoding.EncodeToString([]byte(file))}
			if !strings.HasPrefix(file, "\x30") {
				uploads = append(uploads, file) // as text
			}
			for _, upload := range uploads {
				_, err := pki.ParseUpload(upload)
				wantCode(t, err, signet.UploadPrivateKey)
				noSecretIn(t, err, []byte(upload))
			}
		})
	}
}

// What is no certificate is told what it seems to be.
func TestUploadOfSomethingElse(t *testing.T) {
	ca := root(t, "Root")
	csrDER, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "d"}}, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(ca.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: ca.Certificate.SerialNumber, ThisUpdate: today, NextUpdate: today.Add(time.Hour)}, ca.Certificate, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	armor := func(label string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
	}
	b64 := func(der []byte) string { return base64.StdEncoding.EncodeToString(der) }
	flipped := bytes.Clone(ca.Certificate.Raw)
	flipped[5] ^= 0x20 // in the header of the TBSCertificate

	for _, test := range []struct{ name, upload, seems string }{
		{"nothing", "", "empty"},
		{"blanks", " \r\n", "empty"},
		{"a CSR", armor("CERTIFICATE REQUEST", csrDER), "a certificate signing request"},
		{"a CSR in DER", b64(csrDER), "a certificate signing request"},
		{"a CSR called a certificate", armor("CERTIFICATE", csrDER), "a certificate signing request"},
		{"a public key", armor("PUBLIC KEY", public), "a public key"},
		{"a public key in DER", b64(public), "a public key"},
		{"a CRL", b64(crl), "a certificate revocation list"},
		{"a PKCS#7 bundle", armor("PKCS7", []byte{0x30, 0}), "a PKCS#7 bundle"},
		{"HTML", "<!DOCTYPE html><title>Sign in</title>", "HTML"},
		{"HTML in base64", b64([]byte("<html>")), "HTML"},
		{"JSON", `{"certificate": "…"}`, "JSON"},
		{"an SSH key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me@here", "SSH"},
		{"words", "here is my certificate!", "text without"},
		{"UTF-16", b64([]byte("\xff\xfe-\x00-\x00")), "UTF-16"},
		{"random bytes", b64([]byte{0x8e, 0xff, 0x00, 0x91}), "data of another kind"},
		{"damaged armour", "-----BEGIN CERTIFICATE-----\nMIIB\n", "damaged PEM"},
		{"half a certificate", b64(ca.Certificate.Raw[:100]), "cut off"},
		{"something after the certificate", b64(append(bytes.Clone(ca.Certificate.Raw), 5, 0)), "something after it"},
		{"a flipped bit", b64(flipped), "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := pki.ParseUpload(test.upload)
			wantCode(t, err, signet.UploadMalformed)
			if !strings.Contains(err.Error(), test.seems) {
				t.Errorf("%v: want it to say %q", err, test.seems)
			}
		})
	}
	for name, upload := range map[string]string{
		"too much text":   strings.Repeat("A", 1<<20),
		"too large a PEM": strings.Repeat("#\n", 40<<10) + string(pemOf(ca.Certificate)),
	} {
		_, err := pki.ParseUpload(upload)
		if signet.CodeOf(err) != signet.LimitRequestSize {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Which certificates may be registered.
func TestCheckCA(t *testing.T) {
	rsa2046, err := rsa.GenerateKey(rand.Reader, 2046)
	if err != nil {
		t.Fatal(err)
	}
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := root(t, "Root")
	azureCLI := template()
	azureCLI.Subject.CommonName, azureCLI.KeyUsage = "TESTCERT", 0
	rsaRoot := forge(t, azureCLI, nil, nil, rsa2046)
	with := func(change func(*x509.Certificate)) *x509.Certificate {
		c := template()
		change(c)
		return forge(t, c, good.Certificate, good.Key, key(t, pki.P256)).Certificate
	}
	device, err := good.Device("press-17", key(t, pki.P256).Public(), today, 5)
	if err != nil {
		t.Fatal(err)
	}
	sha1 := template()
	sha1.SignatureAlgorithm = x509.SHA1WithRSA

	for _, test := range []struct {
		name string
		cert *x509.Certificate
		code signet.Code
	}{
		{"a root", good.Certificate, ""},
		{"an intermediate", with(func(*x509.Certificate) {}), ""},
		{"no key usage at all, as azure-cli's test CA", with(func(c *x509.Certificate) { c.KeyUsage = 0 }), ""},
		{"RSA of 2046 bits, as azure-cli's test CA", rsaRoot.Certificate, ""},
		{"extended key usages, as the OpenSSL tutorial", with(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
		}), ""},
		{"a self-signature with SHA-1, which proves nothing", forge(t, sha1, nil, nil, rsa2046).Certificate, ""},
		{"not valid yet", with(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = today.AddDate(0, 0, 1), today.AddDate(1, 0, 0) }), ""},

		{"signed with SHA-1", forge(t, sha1, rsaRoot.Certificate, rsa2046, key(t, pki.P256)).Certificate, signet.CertWeakSignature},
		{"expired", with(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = today.AddDate(-1, 0, 0), today.Add(-time.Minute) }), signet.UploadExpired},
		{"a device", device[0], signet.UploadNotACA},
		{"CA:FALSE", with(func(c *x509.Certificate) { c.IsCA, c.MaxPathLen = false, 0 }), signet.UploadNotACA},
		{"no basicConstraints", with(func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA, c.MaxPathLen = false, false, 0 }), signet.UploadNotACA},
		{"key usage without keyCertSign", with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), signet.UploadNotACA},
		{"no name", with(func(c *x509.Certificate) { c.Subject = pkix.Name{} }), signet.UploadNotACA},
		{"RSA of 1024 bits", forge(t, template(), good.Certificate, good.Key, rsa1024).Certificate, signet.CertWeakKey},
		{"P-224", forge(t, template(), good.Certificate, good.Key, p224).Certificate, signet.CertWeakKey},
		{"a critical extension that nobody knows", with(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}), signet.CertUnknownCritical},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := pki.CheckCA(test.cert, today)
			wantCode(t, err, test.code)
			if err != nil && signet.AsError(err).Certificate == nil {
				t.Error("the refusal does not name the certificate")
			}
		})
	}
	// Both ends of the validity are inclusive.
	if err := pki.CheckCA(good.Certificate, good.Certificate.NotAfter); err != nil {
		t.Errorf("on its last second: %v", err)
	}
	wantCode(t, pki.CheckCA(good.Certificate, good.Certificate.NotAfter.Add(time.Second)), signet.UploadExpired)
}

// template is a CA like many.
func template() *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Some CA", Organization: []string{"Acme"}},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            -1,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
}

// CAs as the common tools make them, by the real openssl.
func TestCAsOfCommonTools(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "certgen.cnf", []byte(`
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
[tutorial]
basicConstraints = critical, CA:true, pathlen:0
extendedKeyUsage = clientAuth, serverAuth
keyUsage = critical, keyCertSign, cRLSign
authorityKeyIdentifier = keyid:always
subjectKeyIdentifier = hash
`))
	openssl(t, dir, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "root.key", "-out", "root.pem", "-days", "30", "-sha256", "-set_serial", "1",
		"-subj", "/CN=Azure IoT Hub CA Cert Test Only", "-config", "certgen.cnf", "-extensions", "v3_ca")
	signed := func(name, subject, extensions, ca string) *x509.Certificate {
		openssl(t, dir, "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", name+".key", "-out", name+".csr", "-subj", subject)
		openssl(t, dir, "x509", "-req", "-in", name+".csr", "-CA", ca+".pem", "-CAkey", ca+".key", "-set_serial", "1", "-days", "30", "-sha256",
			"-extfile", "certgen.cnf", "-extensions", extensions, "-out", name+".pem")
		return readPEM(t, dir, name+".pem")
	}
	rootCert := readPEM(t, dir, "root.pem")
	intermediate := signed("intermediate", "/CN=Azure IoT Hub Intermediate Cert Test Only", "v3_ca", "root")
	tutorial := signed("tutorial", "/C=US/O=Contoso/CN=subca", "tutorial", "intermediate")
	device := signed("device", "/CN=press-17", "usr_cert", "intermediate")

	for _, c := range []*x509.Certificate{rootCert, intermediate, tutorial} {
		if err := pki.CheckCA(c, time.Now()); err != nil {
			t.Errorf("%s: %v", c.Subject, err)
		}
	}
	wantCode(t, pki.CheckCA(device, time.Now()), signet.UploadNotACA)
	anchors := pki.NewAnchors([]*x509.Certificate{rootCert})
	if _, err := anchors.Validate(pki.PathRequest{Chain: []*x509.Certificate{device, intermediate}, Time: time.Now(), Usage: pki.UsageClient, MaxDepth: -1}); err != nil {
		t.Errorf("a device of certGen.sh: %v", err)
	}

	// Without extensions openssl makes version 1.
	openssl(t, dir, "x509", "-req", "-in", "device.csr", "-signkey", "device.key", "-out", "v1.pem")
	wantCode(t, pki.CheckCA(readPEM(t, dir, "v1.pem"), time.Now()), signet.UploadNotACA)
}

func readPEM(t testing.TB, dir, name string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.ParseUpload(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Whatever comes, ParseUpload gives a certificate or a refusal of an upload.
func FuzzParseUpload(f *testing.F) {
	ca := root(f, "Root")
	text := string(pemOf(ca.Certificate))
	private, err := pki.MarshalKey(ca.Key, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(base64.StdEncoding.EncodeToString([]byte(text)))
	f.Add(base64.StdEncoding.EncodeToString(ca.Certificate.Raw))
	f.Add(text + string(private))
	f.Add("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----")
	f.Add("MIA=")
	f.Add("<html>")
	f.Fuzz(func(t *testing.T, upload string) {
		cert, err := pki.ParseUpload(upload)
		switch signet.CodeOf(err) {
		case "":
			if cert == nil || len(cert.Raw) == 0 {
				t.Fatal("neither a certificate nor an error")
			}
			_ = pki.CheckCA(cert, today)
			_ = pki.CheckProof(cert, ca.Certificate, "CODE", today)
		case signet.UploadMalformed, signet.UploadPrivateKey, signet.LimitRequestSize:
		default:
			t.Fatalf("%v", err)
		}
	})
}
