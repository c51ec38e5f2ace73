package pki_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

func TestNewVerificationCode(t *testing.T) {
	code := pki.NewVerificationCode()
	if !regexp.MustCompile(`^[0-9A-F]{48}$`).MatchString(code) || code == pki.NewVerificationCode() {
		t.Errorf("%q is not 48 random digits of upper-case hex", code)
	}
}

// What proves possession of a CA's key and what does not, and that each refusal
// says what went wrong.
func TestCheckProof(t *testing.T) {
	above := root(t, "Acme Root")
	factory := below(t, above, "Acme Factory", key(t, pki.P256), pki.NoPathLength)
	stranger := root(t, "Somebody else")
	impostor := root(t, "Acme Root") // the same name, another key
	rsaCA, err := pki.NewRoot("RSA Root", key(t, pki.RSA2048), today, 30)
	if err != nil {
		t.Fatal(err)
	}
	code := pki.NewVerificationCode()
	named := func(cn string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: cn}}
	}
	bare := func(ca *pki.CA, template *x509.Certificate) *x509.Certificate {
		return forge(t, template, ca.Certificate, ca.Key, key(t, pki.P256)).Certificate
	}
	made, err := above.Proof(code, today)
	if err != nil {
		t.Fatal(err)
	}
	asCA := template()
	asCA.Subject.CommonName = code
	sha1 := named(code)
	sha1.SignatureAlgorithm = x509.SHA1WithRSA
	expired := named(code)
	expired.NotBefore, expired.NotAfter = today.AddDate(0, 0, -3), today.Add(-time.Second)
	early := named(code)
	early.NotBefore, early.NotAfter = today.Add(time.Minute), today.AddDate(0, 0, 3)
	two := &x509.Certificate{Subject: pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
		{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "d"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: code}}}}
	withMore := &x509.Certificate{Subject: pkix.Name{CommonName: code, Organization: []string{"Acme"}, Country: []string{"DE"}}}

	for _, test := range []struct {
		name  string
		proof *x509.Certificate
		ca    *pki.CA
		code  string // given out by the hub
		want  signet.Code
		says  string
	}{
		{"made by signet ca prove", made, above, code, "", ""},
		{"bare: no extensions at all", bare(above, named(code)), above, code, "", ""},
		{"for an intermediate", bare(factory, named(code)), factory, code, "", ""},
		{"CA:TRUE, as scripts reuse templates", bare(above, asCA), above, code, "", ""},
		{"more in the subject", bare(above, withMore), above, code, "", ""},
		{"code in lower case", bare(above, named(strings.ToLower(code))), above, code, "", ""},
		{"blanks from the clipboard", bare(above, named(" "+code+"\n")), above, code, "", ""},

		{"the CA itself", above.Certificate, above, code, signet.ProofWrongSigner, "the CA itself"},
		{"the code of another CA", bare(above, named(pki.NewVerificationCode())), above, code, signet.ProofCodeMismatch, "not the verification code"},
		{"half the code", bare(above, named(code[:24])), above, code, signet.ProofCodeMismatch, "not the verification code"},
		{"no common name", bare(above, &x509.Certificate{Subject: pkix.Name{Organization: []string{code}}}), above, code, signet.ProofCodeMismatch, "0 common names"},
		{"two common names", bare(above, two), above, code, signet.ProofCodeMismatch, "2 common names"},
		{"no code given out, none named", bare(above, &x509.Certificate{Subject: pkix.Name{Organization: []string{"x"}}}), above, "", signet.ProofCodeMismatch, ""},
		{"no code given out, an empty one named", bare(above, named(" ")), above, "", signet.ProofCodeMismatch, ""},
		{"signed by a stranger", bare(stranger, named(code)), above, code, signet.ProofWrongSigner, `"CN=Somebody else", not by`},
		{"signed by the root of the intermediate", bare(above, named(code)), factory, code, signet.ProofWrongSigner, "the issuer of the registered CA"},
		{"signed by the intermediate of the root", bare(factory, named(code)), above, code, signet.ProofWrongSigner, `"CN=Acme Factory", not by`},
		{"self-signed", forge(t, named(code), nil, nil, key(t, pki.P256)).Certificate, above, code, signet.ProofWrongSigner, "self-signed"},
		{"signed by another key under the CA's name", bare(impostor, named(code)), above, code, signet.ProofWrongSigner, "another key has signed"},
		{"signed with SHA-1", bare(rsaCA, sha1), rsaCA, code, signet.CertWeakSignature, "SHA1"},
		{"expired", bare(above, expired), above, code, signet.ProofExpired, "expired on"},
		{"not valid yet", bare(above, early), above, code, signet.ProofExpired, "not valid before"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := pki.CheckProof(test.proof, test.ca.Certificate, test.code, today)
			wantCode(t, err, test.want)
			if err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v: want it to say %q", err, test.says)
			}
		})
	}
	long := named(code)
	long.NotBefore, long.NotAfter = today.Add(-time.Hour), today.AddDate(1, 0, 0)
	wantCode(t, pki.CheckProof(bare(above, long), above.Certificate, code, above.Certificate.NotAfter.Add(time.Second)), signet.UploadExpired)
}

// A flipped bit anywhere in the signed part or the signature is noticed.
func TestCheckProofFlippedBits(t *testing.T) {
	ca := root(t, "Root")
	code := pki.NewVerificationCode()
	proof, err := ca.Proof(code, today)
	if err != nil {
		t.Fatal(err)
	}
	judged := 0
	for i := range proof.Raw {
		der := append([]byte(nil), proof.Raw...)
		der[i] ^= 1
		changed, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		judged++
		if pki.CheckProof(changed, ca.Certificate, code, today) == nil {
			t.Errorf("a proof with byte %d changed passes", i)
		}
	}
	if judged < 100 {
		t.Errorf("only %d changed proofs could be parsed", judged)
	}
}

// The commands that Azure's tutorial gives, with plain openssl.
func TestProofByOpenSSL(t *testing.T) {
	for _, kind := range []pki.KeyType{pki.P256, pki.P384, pki.Ed25519, pki.RSA2048} {
		t.Run(string(kind), func(t *testing.T) {
			ca, err := pki.NewRoot("Acme Root", key(t, kind), today, 30)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			text, err := pki.MarshalKey(ca.Key, nil)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, "ca.key", text)
			write(t, dir, "ca.pem", pemOf(ca.Certificate))
			code := pki.NewVerificationCode()
			openssl(t, dir, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "proof.key", "-out", "proof.csr", "-subj", "/CN="+code)
			openssl(t, dir, "x509", "-req", "-in", "proof.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3", "-out", "proof.pem")
			if err := pki.CheckProof(readPEM(t, dir, "proof.pem"), ca.Certificate, code, time.Now()); err != nil {
				t.Error(err)
			}
		})
	}
}
