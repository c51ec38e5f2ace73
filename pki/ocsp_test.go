package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// answered is what a responder answers, by another implementation than ours; that
// one has no nonce, so responses with one are of openssl, in package authority.
func answered(t testing.TB, issuer, responder *party, key crypto.Signer, r ocsp.Response) []byte {
	t.Helper()
	if r.ThisUpdate.IsZero() {
		r.ThisUpdate = noon.Add(-time.Minute)
	}
	der, err := ocsp.CreateResponse(issuer.Certificate, responder.Certificate, r, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestOCSP: what a responder says, and who may say it.
func TestOCSP(t *testing.T) {
	line, namesake, stranger := newParty(t, nil, "Line", true, nil), newParty(t, nil, "Line", true, nil), newParty(t, nil, "Stranger", true, nil)
	device := newParty(t, line, "device-1", false, nil)
	forOCSP := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} }
	delegate := newParty(t, line, "Responder", false, forOCSP)
	expired := newParty(t, line, "Responder", false, func(c *x509.Certificate) { forOCSP(c); c.NotAfter = noon.Add(-time.Minute) })
	plain := newParty(t, line, "Responder", false, nil)
	ofNamesake := newPartyWithKey(t, namesake, "Responder", false, delegate.key.Public(), delegate.key, forOCSP)
	ofDelegate := newParty(t, delegate, "Responder", false, forOCSP)

	question, err := NewOCSPRequest(line.Certificate, serial(device.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	read, err := ocsp.ParseRequest(question.DER)
	if err != nil || read.SerialNumber.Cmp(device.SerialNumber) != 0 {
		t.Fatalf("another reads our question as %+v, %v", read, err)
	}
	own, err := ocsp.CreateRequest(device.Certificate, line.Certificate, nil)
	if err != nil {
		t.Fatal(err)
	}
	theirs, _ := ocsp.ParseRequest(own)
	if !bytes.Equal(read.IssuerNameHash, theirs.IssuerNameHash) || !bytes.Equal(read.IssuerKeyHash, theirs.IssuerKeyHash) {
		t.Error("another asks after another issuer")
	}

	good := ocsp.Response{Status: ocsp.Good, SerialNumber: device.SerialNumber, NextUpdate: noon.Add(time.Hour)}
	with := func(change func(*ocsp.Response)) ocsp.Response {
		r := good
		change(&r)
		return r
	}
	by := func(responder *party) ocsp.Response {
		return with(func(r *ocsp.Response) { r.Certificate = responder.Certificate })
	}
	flipped := answered(t, line, line, line.key, good)
	flipped[bytes.Index(flipped, device.SerialNumber.Bytes())+4] ^= 1
	for _, test := range []struct {
		name     string
		response []byte
		nonce    bool // required
		status   signet.OCSPStatus
		code     signet.Code
	}{
		{"good", answered(t, line, line, line.key, good), false, signet.OCSPGood, ""},
		{"revoked", answered(t, line, line, line.key, with(func(r *ocsp.Response) {
			r.Status, r.RevokedAt, r.RevocationReason = ocsp.Revoked, noon.Add(-time.Hour), ocsp.KeyCompromise
		})), false, signet.OCSPRevoked, ""},
		{"unknown", answered(t, line, line, line.key, with(func(r *ocsp.Response) { r.Status = ocsp.Unknown })), false, signet.OCSPUnknown, ""},
		{"by a responder that the issuer appointed", answered(t, line, delegate, delegate.key, by(delegate)), false, signet.OCSPGood, ""},
		{"by the issuer, with its own certificate", answered(t, line, line, line.key, by(line)), false, signet.OCSPGood, ""},
		{"without an end, and new", answered(t, line, line, line.key, with(func(r *ocsp.Response) { r.NextUpdate = time.Time{} })), false, signet.OCSPGood, ""},

		{"by a key of the issuer's name", answered(t, line, namesake, namesake.key, good), false, "", signet.OCSPWrongSigner},
		{"by a stranger", answered(t, line, stranger, stranger.key, by(stranger)), false, "", signet.OCSPWrongSigner},
		{"by a certificate of the issuer that is not for it", answered(t, line, plain, plain.key, by(plain)), false, "", signet.OCSPWrongSigner},
		{"by a responder whose time is over", answered(t, line, expired, expired.key, by(expired)), false, "", signet.OCSPWrongSigner},
		{"by a responder that a namesake appointed", answered(t, line, ofNamesake, delegate.key, by(ofNamesake)), false, "", signet.OCSPWrongSigner},
		{"by a responder that a responder appointed", answered(t, line, ofDelegate, ofDelegate.key, by(ofDelegate)), false, "", signet.OCSPWrongSigner},
		{"by one who names another", answered(t, line, stranger, delegate.key, by(delegate)), false, "", signet.OCSPWrongSigner},
		{"changed on the way", flipped, false, "", signet.OCSPWrongSigner},

		{"of another certificate", answered(t, line, line, line.key, with(func(r *ocsp.Response) { r.SerialNumber = big.NewInt(1) })), false, "", signet.OCSPMalformed},
		{"of the same serial number under a namesake", answered(t, namesake, delegate, delegate.key, by(delegate)), false, "", signet.OCSPMalformed},
		{"by another hash", answered(t, line, line, line.key, with(func(r *ocsp.Response) { r.IssuerHash = crypto.SHA256 })), false, "", signet.OCSPMalformed},
		{"with a critical extension", answered(t, line, line, line.key, with(func(r *ocsp.Response) {
			r.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		})), false, "", signet.OCSPMalformed},
		{"out of date", answered(t, line, line, line.key, with(func(r *ocsp.Response) { r.NextUpdate = noon.Add(-time.Second) })), false, "", signet.OCSPStale},
		{"not yet valid", answered(t, line, line, line.key, with(func(r *ocsp.Response) { r.ThisUpdate = noon.Add(time.Hour) })), false, "", signet.OCSPStale},
		{"without an end, and old", answered(t, line, line, line.key, with(func(r *ocsp.Response) {
			r.ThisUpdate, r.NextUpdate = noon.Add(-2*time.Hour), time.Time{}
		})), false, "", signet.OCSPStale},
		{"without the nonce that is required", answered(t, line, line, line.key, good), true, "", signet.OCSPNonce},
		{"an error", ocsp.UnauthorizedErrorResponse, false, "", signet.OCSPMalformed},
		{"half of it", answered(t, line, line, line.key, good)[:60], false, "", signet.OCSPMalformed},
		{"a page", []byte("<html>404</html>"), false, "", signet.OCSPMalformed},
		{"nothing", nil, false, "", signet.OCSPMalformed},
		{"too much", make([]byte, MaxOCSPBytes+1), false, "", signet.OCSPMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer, err := question.Judge(test.response, noon, test.nonce)
			if signet.CodeOf(err) != test.code || err == nil && answer.Status != test.status {
				t.Fatalf("%+v, %v; want status %q, %q", answer, err, test.status, test.code)
			}
			if answer.Status == signet.OCSPRevoked && (answer.Revocation.Reason != 1 || !answer.Revocation.Time.Equal(noon.Add(-time.Hour))) {
				t.Errorf("%+v", answer.Revocation)
			}
		})
	}
	for _, text := range []string{"", "zz", "0", "sha256:00"} {
		if _, err := NewOCSPRequest(line.Certificate, text); signet.CodeOf(err) != signet.OCSPMalformed {
			t.Errorf("asked after %q: %v", text, err)
		}
	}
}

// TestOCSPNonce: an answer to another question is no answer.
func TestOCSPNonce(t *testing.T) {
	line := newParty(t, nil, "Line", true, nil)
	device := newParty(t, line, "device-1", false, nil)
	mine, err := NewOCSPRequest(line.Certificate, serial(device.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	other, _ := NewOCSPRequest(line.Certificate, serial(device.Certificate))
	plain := answered(t, line, line, line.key, ocsp.Response{Status: ocsp.Good, SerialNumber: device.SerialNumber, NextUpdate: noon.Add(time.Hour)})
	for _, test := range []struct {
		name  string
		value []byte
		code  signet.Code
	}{
		{"mine", append([]byte{4, 32}, mine.Nonce...), ""},
		{"mine, without its wrapping", mine.Nonce, ""},
		{"another's", append([]byte{4, 32}, other.Nonce...), signet.OCSPNonce},
		{"none in it", nil, signet.OCSPNonce},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer, err := mine.Judge(withNonce(t, line, plain, test.value), noon, true)
			if signet.CodeOf(err) != test.code || err == nil && !answer.Nonced {
				t.Errorf("%+v, %v", answer, err)
			}
		})
	}
}

// withNonce adds the extension to a response, and signs it anew.
func withNonce(t testing.TB, signer *party, response, nonce []byte) []byte {
	t.Helper()
	r, err := parseOCSP(response)
	if err != nil {
		t.Fatal(err)
	}
	sequence := func(f func(b *cryptobyte.Builder)) func(b *cryptobyte.Builder) {
		return func(b *cryptobyte.Builder) { b.AddASN1(cryptobyte_asn1.SEQUENCE, f) }
	}
	context := func(n uint8) cryptobyte_asn1.Tag { return cryptobyte_asn1.Tag(n).ContextSpecific().Constructed() }
	data := cryptobyte.String(r.signed)
	data.ReadASN1(&data, cryptobyte_asn1.SEQUENCE)
	var signed cryptobyte.Builder
	sequence(func(b *cryptobyte.Builder) {
		b.AddBytes(data)
		b.AddASN1(context(1), sequence(sequence(func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidOCSPNonce)
			b.AddASN1OctetString(nonce)
		})))
	})(&signed)
	text := signed.BytesOrPanic()
	signature, err := crypto.SignMessage(signer.key, rand.Reader, text, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var basic, whole cryptobyte.Builder
	sequence(func(b *cryptobyte.Builder) {
		b.AddBytes(text)
		sequence(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(r.algorithm) })(b)
		b.AddASN1BitString(signature)
	})(&basic)
	sequence(func(b *cryptobyte.Builder) {
		b.AddASN1Enum(0)
		b.AddASN1(context(0), sequence(func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidOCSPBasic)
			b.AddASN1OctetString(basic.BytesOrPanic())
		}))
	})(&whole)
	return whole.BytesOrPanic()
}

// FuzzOCSP: a responder's bytes are anybody's: it is reached over plain HTTP.
func FuzzOCSP(f *testing.F) {
	s := sameSupplyChain(f)
	question, err := NewOCSPRequest(s.line.Certificate, serial(s.device.Certificate))
	if err != nil {
		f.Fatal(err)
	}
	line := newParty(f, nil, "Line", true, nil)
	f.Add(answered(f, line, line, line.key, ocsp.Response{Status: ocsp.Revoked, RevokedAt: noon, SerialNumber: s.device.SerialNumber, NextUpdate: noon.Add(time.Hour), Certificate: line.Certificate}))
	f.Add(ocsp.UnauthorizedErrorResponse)
	f.Fuzz(func(t *testing.T, response []byte) {
		answer, err := question.Judge(response, noon, false)
		if err == nil {
			t.Fatalf("nobody has signed this: %+v", answer)
		}
		if signet.CodeOf(err) == signet.Internal {
			t.Fatal(err)
		}
	})
}
