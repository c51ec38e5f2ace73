package pki

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"runtime"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// newCRL is what a CA publishes, by the standard library; change has the last
// word.
func newCRL(t testing.TB, signer *party, change func(*x509.RevocationList), serials ...*big.Int) []byte {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: noon.Add(-time.Hour), NextUpdate: noon.Add(time.Hour)}
	for _, serial := range serials {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: serial, RevocationTime: noon.Add(-time.Minute), ReasonCode: 1})
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, signer.Certificate, signer.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// signedCRL makes a CRL of whatever TBSCertList, entries and all, that the
// standard library would not make.
func signedCRL(t testing.TB, signer *party, like []byte, entries []byte) []byte {
	t.Helper()
	list, err := x509.ParseRevocationList(like)
	if err != nil {
		t.Fatal(err)
	}
	tbs := cryptobyte.String(list.RawTBSRevocationList)
	var fields, element, algorithm cryptobyte.String
	var tag cryptobyte_asn1.Tag
	tbs.ReadASN1(&fields, cryptobyte_asn1.SEQUENCE)
	var signed cryptobyte.Builder
	signed.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for !fields.Empty() {
			fields.ReadAnyASN1Element(&element, &tag)
			if algorithm == nil && tag == cryptobyte_asn1.SEQUENCE {
				algorithm = element
			}
			if tag == cryptobyte_asn1.Tag(0).ContextSpecific().Constructed() {
				b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(entries) })
			}
			b.AddBytes(element)
		}
	})
	text := signed.BytesOrPanic()
	signature, err := crypto.SignMessage(signer.key, rand.Reader, text, hashOf(signer.key))
	if err != nil {
		t.Fatal(err)
	}
	var whole cryptobyte.Builder
	whole.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(text)
		b.AddBytes(algorithm)
		b.AddASN1BitString(signature)
	})
	return whole.BytesOrPanic()
}

// hashOf is what a key signs: Ed25519 signs the message itself.
func hashOf(key crypto.Signer) crypto.Hash {
	if _, ok := key.(ed25519.PrivateKey); ok {
		return 0
	}
	return crypto.SHA256
}

// entry is the DER of one, with the content octets of its serial number.
func entry(serial []byte, extensions ...byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cryptobyte_asn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(serial) })
		b.AddASN1UTCTime(noon.Add(-time.Minute))
		b.AddBytes(extensions)
	})
	return b.BytesOrPanic()
}

// TestCRL: a CA's word on its certificates, and what must not be taken for it.
func TestCRL(t *testing.T) {
	line, other := newParty(t, nil, "Line", true, nil), newParty(t, nil, "Line", true, nil)
	device, high, spare := newParty(t, line, "device-1", false, nil), new(big.Int).SetBytes([]byte{0xff, 0, 1}), newParty(t, line, "device-2", false, nil)
	noSign := newPartyWithKey(t, nil, "Line", true, line.key.Public(), line.key, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })
	good := newCRL(t, line, nil, device.SerialNumber, high, big.NewInt(0))

	list, err := ParseCRL(good, certificates(other, line))
	if err != nil {
		t.Fatal(err)
	}
	if list.Issuer != line.Certificate || list.Entries != 3 || list.Number.Int64() != 7 || list.ID() == "" {
		t.Errorf("%+v", list)
	}
	for text, want := range map[string]bool{serial(device.Certificate): true, "ff0001": true, "00": true, serial(spare.Certificate): false,
		"": false, "zz": false, "-01": false, "0": false, hex.EncodeToString(make([]byte, 80)): false} {
		revoked, listed := list.Revoked(text)
		if listed != want || listed && (revoked.Reason != 1 || !revoked.Time.Equal(noon.Add(-time.Minute))) {
			t.Errorf("serial number %q: %v, %v", text, revoked, listed)
		}
	}
	if !list.Covers(device.RawIssuer) || list.Covers(newParty(t, nil, "Other", true, nil).RawSubject) {
		t.Error("it covers whom it should not, or not whom it should")
	}
	for at, want := range map[time.Duration]signet.Code{0: "", -2 * time.Hour: signet.CRLStale, -time.Hour - time.Minute: "", time.Hour: "", time.Hour + time.Second: signet.CRLStale} {
		if code := signet.CodeOf(list.Current(noon.Add(at))); code != want {
			t.Errorf("after %v: %q, want %q", at, code, want)
		}
	}

	extension := func(critical bool, value []byte, id ...int) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: id, Critical: critical, Value: value}}
		}
	}
	entryExtension := func(critical bool, value []byte, id ...int) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(1), RevocationTime: noon,
				ExtraExtensions: []pkix.Extension{{Id: id, Critical: critical, Value: value}}}}
		}
	}
	flipped := bytes.Clone(good)
	flipped[bytes.Index(flipped, device.SerialNumber.Bytes())] ^= 1
	for _, test := range []struct {
		name    string
		der     []byte
		issuers []*x509.Certificate
		code    signet.Code
	}{
		{"another key of the same name", good, certificates(other), signet.CRLWrongSigner},
		{"an issuer that is not known", good, nil, signet.CRLWrongSigner},
		{"a key that may not sign CRLs", good, certificates(noSign), signet.CRLWrongSigner},
		{"a serial number changed on the way", flipped, certificates(line), signet.CRLWrongSigner},
		{"a delta", newCRL(t, line, extension(true, []byte{2, 1, 1}, 2, 5, 29, 27)), certificates(line), signet.CRLUnsupported},
		{"a delta that does not insist", newCRL(t, line, extension(false, []byte{2, 1, 1}, 2, 5, 29, 27)), certificates(line), signet.CRLUnsupported},
		{"a part, or indirect", newCRL(t, line, extension(true, []byte{0x30, 3, 0x84, 1, 0xff}, 2, 5, 29, 28)), certificates(line), signet.CRLUnsupported},
		{"a critical extension of its own", newCRL(t, line, extension(true, []byte{5, 0}, 1, 2, 3)), certificates(line), signet.CRLUnsupported},
		{"an entry of another issuer", newCRL(t, line, entryExtension(true, []byte{0x30, 0}, 2, 5, 29, 29)), certificates(line), signet.CRLUnsupported},
		{"the same, not critical", newCRL(t, line, entryExtension(false, []byte{0x30, 0}, 2, 5, 29, 29)), certificates(line), signet.CRLUnsupported},
		{"an entry with what must be understood", newCRL(t, line, entryExtension(true, []byte{5, 0}, 1, 2, 3)), certificates(line), signet.CRLUnsupported},
		{"an entry with what need not be", newCRL(t, line, entryExtension(false, []byte{5, 0}, 1, 2, 3)), certificates(line), ""},
		{"no entries", newCRL(t, line, nil), certificates(line), ""},
		{"an empty list of them", signedCRL(t, line, newCRL(t, line, nil), nil), certificates(line), ""},
		{"a serial number with octets too many", signedCRL(t, line, newCRL(t, line, nil), entry([]byte{0, 1})), certificates(line), signet.CRLMalformed},
		{"a serial number without octets", signedCRL(t, line, newCRL(t, line, nil), entry(nil)), certificates(line), signet.CRLMalformed},
		{"a serial number of 66 octets", signedCRL(t, line, newCRL(t, line, nil), entry(bytes.Repeat([]byte{1}, 66))), certificates(line), signet.CRLMalformed},
		{"a negative serial number", signedCRL(t, line, newCRL(t, line, nil), entry([]byte{0xff})), certificates(line), ""},
		{"an entry with a tail", signedCRL(t, line, newCRL(t, line, nil), entry([]byte{1}, 5, 0)), certificates(line), signet.CRLMalformed},
		{"two lists of entries", signedCRL(t, line, newCRL(t, line, nil, big.NewInt(1)), entry([]byte{2})), certificates(line), signet.CRLMalformed},
		{"half of it", good[:len(good)/2], certificates(line), signet.CRLMalformed},
		{"a tail", append(bytes.Clone(good), 0), certificates(line), signet.CRLMalformed},
		{"nothing", nil, certificates(line), signet.CRLMalformed},
		{"a certificate", line.Raw, certificates(line), signet.CRLMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := ParseCRL(test.der, test.issuers); signet.CodeOf(err) != test.code {
				t.Errorf("%v, want %q", err, test.code)
			}
		})
	}
}

func TestCRLUpload(t *testing.T) {
	line := newParty(t, nil, "Line", true, nil)
	der := newCRL(t, line, nil)
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	crl, cert := block("X509 CRL", der), block("CERTIFICATE", line.Raw)
	for _, test := range []struct {
		name, upload string
		issuers      int
		code         signet.Code
	}{
		{"DER", string(der), 0, ""},
		{"PEM, with words around it", "Line\n" + crl + "bye\n", 0, ""},
		{"PEM with its issuer", cert + crl + cert, 2, ""},
		{"a private key beside it", crl + block("EC PRIVATE KEY", []byte{1}), 0, signet.UploadPrivateKey},
		{"two", crl + crl, 0, signet.CRLMalformed},
		{"none", cert, 0, signet.CRLMalformed},
		{"a certificate that is none", crl + block("CERTIFICATE", []byte{1}), 0, signet.CRLMalformed},
		{"eleven certificates", crl + cert + cert + cert + cert + cert + cert + cert + cert + cert + cert + cert, 0, signet.CRLMalformed},
		{"nothing", "", 0, signet.CRLMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, issuers, err := ParseCRLUpload([]byte(test.upload))
			if signet.CodeOf(err) != test.code || err == nil && (!bytes.Equal(got, der) || len(issuers) != test.issuers) {
				t.Errorf("%d octets, %d issuers, %v", len(got), len(issuers), err)
			}
		})
	}
}

// millionCRL is a CRL of that many random serial numbers of 16 octets, each with
// a reason, in no order.
func millionCRL(t testing.TB, line *party, n int) (der []byte, some []byte) {
	entries := make([]byte, 0, n*53)
	reason := []byte{0x30, 0x0c, 0x30, 0x0a, 6, 3, 0x55, 0x1d, 21, 4, 3, 0x0a, 1, 1}
	for i := range n {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
		sum[0] = sum[0]&0x7f | 1
		entries = append(entries, entry(sum[:16], reason...)...)
		some = sum[:16]
	}
	return signedCRL(t, line, newCRL(t, line, nil), entries), some
}

// TestMillionEntries: the memory that the package promises.
func TestMillionEntries(t *testing.T) {
	if testing.Short() {
		t.Skip("a million entries take seconds to make")
	}
	line := newParty(t, nil, "Line", true, nil)
	der, some := millionCRL(t, line, 1_000_000)
	if len(der) > MaxCRLBytes {
		t.Fatalf("it has %d octets", len(der))
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	start := time.Now()
	list, err := ParseCRL(der, certificates(line))
	took := time.Since(start)
	if err != nil {
		t.Fatal(err)
	}
	kept := int64(heap() - before)
	t.Logf("%d octets read in %v, kept in %d", len(der), took, kept)
	if kept > 22<<20 {
		t.Errorf("a million entries are kept in %d octets", kept)
	}
	if revoked, listed := list.Revoked(hex.EncodeToString(some)); !listed || revoked.Reason != 1 || list.Entries != 1_000_000 {
		t.Errorf("%v, %v, %d entries", revoked, listed, list.Entries)
	}
	if _, listed := list.Revoked("0102"); listed {
		t.Error("what is not listed is revoked")
	}
	runtime.KeepAlive(der)
}

func BenchmarkMillionEntries(b *testing.B) {
	line := newParty(b, nil, "Line", true, nil)
	der, some := millionCRL(b, line, 1_000_000)
	list, err := ParseCRL(der, certificates(line))
	if err != nil {
		b.Fatal(err)
	}
	text := hex.EncodeToString(some)
	b.Run("listed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, listed := list.Revoked(text); !listed {
				b.Fatal("not listed")
			}
		}
	})
	b.Run("not listed, each another", func(b *testing.B) {
		serials := make([]string, 4096)
		for i := range serials {
			sum := sha256.Sum256([]byte(fmt.Sprint("good", i)))
			serials[i] = hex.EncodeToString(sum[:16])
		}
		for i := 0; b.Loop(); i++ {
			list.Revoked(serials[i%len(serials)])
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, err := ParseCRL(der, certificates(line)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// FuzzCRL: entries are a stranger's bytes once a CA's key has signed them, and
// what stands around them before. Whatever is taken, the standard library takes
// and reads alike.
func FuzzCRL(f *testing.F) {
	line := sameSupplyChain(f).line
	f.Add(newCRL(f, line, nil, big.NewInt(1), big.NewInt(1<<40)), []byte{})
	f.Add([]byte{}, entry([]byte{1}, 0x30, 0x0c, 0x30, 0x0a, 6, 3, 0x55, 0x1d, 21, 4, 3, 0x0a, 1, 1))
	f.Add([]byte{}, entry([]byte{0, 0x80}))
	like := newCRL(f, line, nil)
	f.Fuzz(func(t *testing.T, der, entries []byte) {
		_, _, _, _ = splitCRL(der)
		if len(entries) > 0 {
			der = signedCRL(t, line, like, entries)
		}
		list, err := ParseCRL(der, certificates(line))
		if err != nil {
			if signet.CodeOf(err) == signet.Internal {
				t.Fatal(err)
			}
			return
		}
		reference, err := x509.ParseRevocationList(der)
		if err != nil {
			t.Fatalf("taken, and the standard library says %v", err)
		}
		if list.Entries != len(reference.RevokedCertificateEntries) {
			t.Fatalf("%d entries, the standard library reads %d", list.Entries, len(reference.RevokedCertificateEntries))
		}
		for _, e := range reference.RevokedCertificateEntries {
			if e.SerialNumber.Sign() < 0 {
				continue // no certificate has it
			}
			if _, listed := list.Revoked(serial(&x509.Certificate{SerialNumber: e.SerialNumber})); !listed {
				t.Fatalf("%x is listed and not found", e.SerialNumber)
			}
		}
	})
}
