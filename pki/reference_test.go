package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"
)

// TestAlias: of two certificates that differ in the form of their signature
// alone, each has the other's thumbprint as its alias, whatever the numbers.
func TestAlias(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 60 {
			template := &x509.Certificate{SerialNumber: big.NewInt(int64(n + 1)), Subject: pkix.Name{CommonName: strings.Repeat("d", n+1)},
				NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
			der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			var parts struct {
				TBS, Algorithm asn1.RawValue
				Signature      asn1.BitString
			}
			var signature struct{ R, S *big.Int }
			if _, err := asn1.Unmarshal(der, &parts); err != nil {
				t.Fatal(err)
			}
			if _, err := asn1.Unmarshal(parts.Signature.Bytes, &signature); err != nil {
				t.Fatal(err)
			}
			signature.S.Sub(curve.Params().N, signature.S)
			other, _ := asn1.Marshal(signature)
			parts.Signature = asn1.BitString{Bytes: other, BitLength: 8 * len(other)}
			twin, err := asn1.Marshal(parts)
			if err != nil {
				t.Fatal(err)
			}
			a, errA := x509.ParseCertificate(der)
			b, errB := x509.ParseCertificate(twin)
			if errA != nil || errB != nil || b.CheckSignature(b.SignatureAlgorithm, b.RawTBSCertificate, b.Signature) != nil {
				t.Fatal("the other form is no good: this proves nothing", errA, errB)
			}
			if alias(a, a) != sha256.Sum256(twin) || alias(b, b) != sha256.Sum256(der) {
				t.Errorf("%s, %d: not the other's thumbprint", curve.Params().Name, n)
			}
		}
	}
}

// TestParseSerial: a serial number is one text, however people write it.
func TestParseSerial(t *testing.T) {
	long := strings.Repeat("ab", 65)
	for text, want := range map[string]string{
		"0A": "0a", "a": "0a", "00:0a": "0a", "0x0A": "0a", "0": "00", "-0a": "-0a", "-0": "00",
		"4C:D5:fd": "4cd5fd", strings.Repeat("ab", 64): strings.Repeat("ab", 64),
		"": "!", ":": "!", "0x": "!", "-": "!", "xyz": "!", "--1": "!", "1 2": "!", long + long: "!",
	} {
		got, ok := ParseSerial(text)
		if !ok {
			got = "!"
		}
		if got != want {
			t.Errorf("%q is %q, not %q", text, got, want)
		}
		if n, fine := new(big.Int).SetString(strings.ReplaceAll(want, "!", "x"), 16); fine {
			if c := serial(&x509.Certificate{SerialNumber: n}); c != want {
				t.Errorf("a certificate has %q for %q", c, want)
			}
		}
	}
}
