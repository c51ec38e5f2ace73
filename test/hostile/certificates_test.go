package hostile_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/wire/mqtt"
)

// issue makes a leaf with a key of any kind, as hubtest makes them otherwise.
func issue(t *testing.T, by *hubtest.CA, id string, key crypto.Signer, options ...hubtest.Option) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: id},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	for _, o := range options {
		o(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.Cert, key.Public(), by.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// largeKey is the dearest to verify with.
func largeKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// with gives a pair that presents more behind the leaf.
func with(key crypto.Signer, chain ...*x509.Certificate) tls.Certificate {
	pair := tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}

// reserial writes another serial number of the same length into a certificate
// and signs it again: x509 makes none such.
func reserial(t *testing.T, cert *x509.Certificate, by crypto.Signer, serial ...byte) []byte {
	t.Helper()
	old := cert.SerialNumber.Bytes()
	tbs := replaced(t, cert.RawTBSCertificate, append([]byte{2, byte(len(serial))}, old...), append([]byte{2, byte(len(serial))}, serial...))
	sum := sha256.Sum256(tbs)
	return assemble(t, tbs, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2}, by, sum[:], crypto.SHA256)
}

// withMD5 signs a certificate that RSA with SHA-256 signed with MD5 instead,
// which x509 does not.
func withMD5(t *testing.T, cert *x509.Certificate, by crypto.Signer) []byte {
	t.Helper()
	const rsaEncryption = "\x2a\x86\x48\x86\xf7\x0d\x01\x01"
	tbs := replaced(t, cert.RawTBSCertificate, []byte(rsaEncryption+"\x0b"), []byte(rsaEncryption+"\x04"))
	sum := md5.Sum(tbs)
	return assemble(t, tbs, []byte(rsaEncryption+"\x04"), by, sum[:], crypto.MD5)
}

func replaced(t *testing.T, in, old, by []byte) []byte {
	t.Helper()
	if len(old) != len(by) || !bytes.Contains(in, old) {
		t.Fatalf("%x is not there to be replaced by %x", old, by)
	}
	return bytes.Replace(in, old, by, 1)
}

// assemble makes a certificate of its parts (RFC 5280 §4.1).
func assemble(t *testing.T, tbs, algorithm []byte, by crypto.Signer, digest []byte, hash crypto.Hash) []byte {
	t.Helper()
	signature, err := by.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Fatal(err)
	}
	identifier := append([]byte{0x30, byte(2 + len(algorithm)), 6, byte(len(algorithm))}, algorithm...)
	if hash == crypto.MD5 { // RSA's has NULL for its parameters
		identifier = append(identifier, 5, 0)
		identifier[1] += 2
	}
	der, err := asn1.Marshal(struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, asn1.RawValue{FullBytes: identifier}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func extension(critical bool, value []byte, id ...int) hubtest.Option {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: value})
	}
}

// TestCertificates: who gets in with which chain, and what the owner is told.
func TestCertificates(t *testing.T) {
	a := open(t)
	regional := hubtest.NewCA(t, "Unknown Root").Intermediate(t, "Regional CA")
	a.Trust(t, tenant, regional)
	rsaRoot := &hubtest.CA{Key: rsaKey(t, 2046)}
	rsaRoot.Cert = selfSigned(t, "RSA Root", rsaRoot.Key)
	a.Trust(t, tenant, rsaRoot)

	leaf := func(options ...hubtest.Option) func(*testing.T, string) tls.Certificate {
		return func(t *testing.T, id string) tls.Certificate { return a.factory.Device(t, id, options...) }
	}
	below := func(options ...hubtest.Option) func(*testing.T, string) tls.Certificate {
		return func(t *testing.T, id string) tls.Certificate {
			return a.factory.Intermediate(t, "Line", options...).Device(t, id)
		}
	}
	named := func(cn func(id string) string) func(*testing.T, string) tls.Certificate {
		return func(t *testing.T, id string) tls.Certificate { return a.factory.Device(t, cn(id)) }
	}
	cut := func(change func(der []byte) []byte) func(*testing.T, string) tls.Certificate {
		return func(t *testing.T, id string) tls.Certificate {
			pair := a.factory.Device(t, id)
			pair.Certificate[0] = change(bytes.Clone(pair.Certificate[0]))
			return pair
		}
	}
	depth := func(intermediates int) func(*testing.T, string) tls.Certificate {
		return func(t *testing.T, id string) tls.Certificate {
			ca := a.root
			for n := range intermediates {
				ca = ca.Intermediate(t, fmt.Sprint("CA ", n))
			}
			return ca.Device(t, id)
		}
	}
	emptyUsage := extension(false, []byte{0x30, 0}, 2, 5, 29, 37)
	noUsage := func(c *x509.Certificate) { c.ExtKeyUsage = nil }

	for n, line := range []struct {
		name   string
		chain  func(t *testing.T, id string) tls.Certificate
		code   signet.Code // "" is let in
		closed bool        // already in the handshake
	}{
		{name: "expired one second ago", chain: leaf(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), code: signet.CertExpired},
		{name: "not valid yet", chain: leaf(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), code: signet.CertNotYetValid},
		{name: "extended key usage without clientAuth", chain: leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), code: signet.CertExtKeyUsage},
		{name: "extended key usage any", chain: leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })},
		{name: "no extended key usage", chain: leaf(noUsage)},
		{name: "extended key usage empty", chain: leaf(noUsage, emptyUsage), code: signet.CertExtKeyUsage},
		{name: "an intermediate without clientAuth", chain: below(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), code: signet.CertExtKeyUsage},
		{name: "an intermediate with CA false", chain: below(func(c *x509.Certificate) { c.IsCA = false }), code: signet.CertNotACA},
		{name: "an intermediate without basic constraints", chain: below(func(c *x509.Certificate) { c.BasicConstraintsValid = false }), code: signet.CertNotACA},
		{name: "a device issues a device", code: signet.CertNotACA, chain: func(t *testing.T, id string) tls.Certificate {
			other := a.factory.Device(t, "other-device")
			key := ecKey(t)
			by := &hubtest.CA{Cert: other.Leaf, Key: other.PrivateKey.(crypto.Signer)}
			return with(key, issue(t, by, id, key), other.Leaf, a.factory.Cert)
		}},
		{name: "path length 0 above an intermediate", code: signet.CertPathLength, chain: func(t *testing.T, id string) tls.Certificate {
			return a.root.Intermediate(t, "Closed", func(c *x509.Certificate) { c.MaxPathLenZero = true }).Intermediate(t, "Line").Device(t, id)
		}},
		{name: "a self-issued intermediate does not count", chain: func(t *testing.T, id string) tls.Certificate {
			return a.root.Intermediate(t, "Closed", func(c *x509.Certificate) { c.MaxPathLenZero = true }).Intermediate(t, "Closed").Device(t, id)
		}},
		{name: "an excluded DNS name, in upper case", code: signet.CertNameConstraints, chain: func(t *testing.T, id string) tls.Certificate {
			line := a.root.Intermediate(t, "Line", func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"plant.example"} })
			return line.Device(t, id, func(c *x509.Certificate) { c.DNSNames = []string{"D1.PLANT.Example"} })
		}},
		{name: "a DNS name that is not permitted", code: signet.CertNameConstraints, chain: func(t *testing.T, id string) tls.Certificate {
			line := a.root.Intermediate(t, "Line", func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"plant.example"} })
			return line.Device(t, id, func(c *x509.Certificate) { c.DNSNames = []string{"d1.other.example"} })
		}},
		{name: "an unknown critical extension", chain: leaf(extension(true, []byte{5, 0}, 1, 3, 6, 1, 4, 1, 55738, 1)), code: signet.CertUnknownCritical},
		{name: "a root of the same name and key identifier", code: signet.ChainUntrusted, chain: func(t *testing.T, id string) tls.Certificate {
			fake := hubtest.NewCA(t, "Root", func(c *x509.Certificate) { c.SubjectKeyId = a.root.Cert.SubjectKeyId })
			pair := fake.Device(t, id)
			pair.Certificate = append(pair.Certificate, fake.Cert.Raw)
			return pair
		}},
		{name: "the intermediate is not sent", code: signet.ChainIssuerMissing, chain: func(t *testing.T, id string) tls.Certificate {
			pair := a.factory.Device(t, id)
			pair.Certificate = pair.Certificate[:1]
			return pair
		}},
		{name: "an intermediate is the anchor, its root unknown", chain: func(t *testing.T, id string) tls.Certificate { return regional.Device(t, id) }},

		{name: "a device with RSA of 1024 bits", code: signet.CertWeakKey, chain: func(t *testing.T, id string) tls.Certificate {
			key := rsaKey(t, 1024)
			return with(key, issue(t, a.root, id, key))
		}},
		{name: "RSA of 1024 bits above it", code: signet.CertWeakKey, chain: func(t *testing.T, id string) tls.Certificate {
			weak, key := &hubtest.CA{Key: rsaKey(t, 1024)}, ecKey(t)
			weak.Cert = issue(t, a.root, "Weak CA", weak.Key, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })
			return with(key, issue(t, weak, id, key), weak.Cert)
		}},
		{name: "RSA of 2046 bits in all of it", chain: func(t *testing.T, id string) tls.Certificate {
			key := rsaKey(t, 2046)
			return with(key, issue(t, rsaRoot, id, key))
		}},
		{name: "an MD5 signature", code: signet.CertWeakSignature, chain: func(t *testing.T, id string) tls.Certificate {
			key := ecKey(t)
			return tls.Certificate{Certificate: [][]byte{withMD5(t, issue(t, rsaRoot, id, key), rsaRoot.Key)}, PrivateKey: key}
		}},
		{name: "a SHA-1 signature", chain: leaf(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }), code: signet.CertWeakSignature},

		{name: "the name of another device", chain: named(func(string) string { return "honest" }), code: signet.IdentityCNMismatch},
		{name: "the name of no device", chain: named(func(string) string { return "nobody" }), code: signet.IdentityCNMismatch},
		{name: "a blank at the end", chain: named(func(id string) string { return id + " " }), code: signet.IdentityCNMismatch},
		{name: "another case", chain: named(func(id string) string { return "E" + id[1:] }), code: signet.IdentityCNMismatch},
		{name: "no certificate and no password", chain: func(*testing.T, string) tls.Certificate { return tls.Certificate{} }, code: signet.ChainNone},
		{name: "the key of another", closed: true, code: signet.ChainPossession, chain: func(t *testing.T, id string) tls.Certificate {
			pair := a.factory.Device(t, id)
			pair.PrivateKey = ecKey(t)
			return pair
		}},

		{name: "9 certificates", chain: depth(8)},
		{name: "12 certificates", chain: depth(11), code: signet.ChainTooLong},
		{name: "a certificate of 60 kB", chain: leaf(extension(false, make([]byte, 60_000), 1, 2, 3, 4))},
		{name: "a certificate of 66 kB", chain: leaf(extension(false, make([]byte, 66_000), 1, 2, 3, 4)), code: signet.LimitChainBytes},
		{name: "a certificate of 75 kB", chain: leaf(extension(false, make([]byte, 75_000), 1, 2, 3, 4)), closed: true, code: signet.LimitChainBytes},
		{name: "a certificate of 300 kB", chain: leaf(extension(false, make([]byte, 300_000), 1, 2, 3, 4)), closed: true, code: signet.LimitChainBytes},
		{name: "eight P-521 CAs of one name, under the name of a trusted one", code: signet.LimitPathWork, chain: func(t *testing.T, id string) tls.Certificate {
			ca := hubtest.NewCA(t, "Root") // another's
			var above []*x509.Certificate
			for range 8 {
				key := largeKey(t)
				cert := issue(t, ca, "Line", key, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })
				ca, above = &hubtest.CA{Cert: cert, Key: key}, append([]*x509.Certificate{cert}, above...)
			}
			key := ecKey(t)
			return with(key, append([]*x509.Certificate{issue(t, ca, id, key)}, above...)...)
		}},
		{name: "2000 alternative names", code: signet.LimitPathWork, chain: leaf(func(c *x509.Certificate) {
			for n := range 2000 {
				c.DNSNames = append(c.DNSNames, fmt.Sprint("d", n, ".example"))
			}
		})},
		{name: "rubbish", chain: cut(func([]byte) []byte { return []byte("rubbish") }), closed: true, code: signet.ChainMalformed},
		{name: "half a certificate", chain: cut(func(der []byte) []byte { return der[:len(der)/2] }), closed: true, code: signet.ChainMalformed},
		{name: "a flipped bit in the structure", chain: cut(func(der []byte) []byte { der[4] ^= 0x40; return der }), closed: true, code: signet.ChainMalformed},
		{name: "a flipped bit in the signature", chain: cut(func(der []byte) []byte { der[len(der)-1] ^= 1; return der }), code: signet.CertBadSignature},
		{name: "something behind the signature", code: signet.ChainMalformed, chain: cut(func(der []byte) []byte {
			const more = 200
			binary.BigEndian.PutUint16(der[2:], binary.BigEndian.Uint16(der[2:])+more) // the length of the whole
			return append(der, make([]byte, more)...)
		})},

		{name: "a negative serial number", closed: true, code: signet.ChainMalformed, chain: func(t *testing.T, id string) tls.Certificate {
			key := ecKey(t)
			cert := issue(t, a.root, id, key, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0x71727374) })
			return tls.Certificate{Certificate: [][]byte{reserial(t, cert, a.root.Key, 0xf1, 0x72, 0x73, 0x74)}, PrivateKey: key}
		}},
		{name: "serial number zero", chain: func(t *testing.T, id string) tls.Certificate {
			key := ecKey(t)
			cert := issue(t, a.root, id, key, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0x71) })
			return tls.Certificate{Certificate: [][]byte{reserial(t, cert, a.root.Key, 0)}, PrivateKey: key}
		}},
		{name: "a serial number of 21 bytes", chain: func(t *testing.T, id string) tls.Certificate {
			key := ecKey(t)
			return with(key, issue(t, a.root, id, key, func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(0x71), 160) }))
		}},
	} {
		a.line(t, line.name, func(t *testing.T) {
			id := fmt.Sprintf("evil-%d", n)
			conf := a.device(t, id, line.chain(t, id))
			if line.closed { // who it would have been is not known
				before := a.strangers(t, line.code)
				if code := a.connect(t, conf, id); code != closed {
					t.Errorf("CONNACK %d", code)
				}
				soon(t, "a verdict "+string(line.code), func() bool { return a.strangers(t, line.code) > before })
				return
			}
			want := byte(mqtt.ConnAccepted)
			if line.code != "" {
				want = mqtt.ConnRefusedNotAuthorized
			}
			code, v := a.connect(t, conf, id), a.verdict(t, id)
			if code != want || v.Code != line.code {
				t.Errorf("CONNACK %d, not %d; the verdict is %q, not %q: %s", code, want, v.Code, line.code, v.Message)
			}
			if line.code == signet.CertNotYetValid && (v.Certificate == nil || v.Certificate.Serial == "" || v.Expected == "" || v.Actual == "") {
				t.Errorf("the verdict does not tell serial number and times: %+v", v)
			}
		})
	}
}

func selfSigned(t *testing.T, name string, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestRightIsLost: who loses the right to connect while connected is cut off,
// and not let in again.
func TestRightIsLost(t *testing.T) {
	a := open(t)
	other := hubtest.NewCA(t, "Other Root")
	for name, lose := range map[string]func(*testing.T, signet.CACertificate, signet.Identity) error{
		"the CA is removed": func(t *testing.T, ca signet.CACertificate, _ signet.Identity) error {
			return a.Authority().Delete(t.Context(), tenant, ca.Name, ca.ETag)
		},
		"another CA takes its name, unverified": func(t *testing.T, ca signet.CACertificate, _ signet.Identity) error {
			_, _, err := a.Authority().Register(t.Context(), tenant, ca.Name, hubtest.PEM(other.Cert.Raw), false, ca.ETag)
			return err
		},
		"the device is disabled": func(t *testing.T, _ signet.CACertificate, i signet.Identity) error {
			i.Status = signet.Disabled
			_, err := a.Registry().Replace(t.Context(), i, i.ETag)
			return err
		},
	} {
		a.line(t, name, func(t *testing.T) {
			root := hubtest.NewCA(t, "Doomed Root")
			ca := a.Trust(t, tenant, root)
			id := "doomed-" + ca.ETag
			i := a.CADevice(t, tenant, id)
			conf := a.ClientTLS(root.Device(t, id))
			d := a.Dial(t, conf)
			if code := d.Connect(t, host, id); code != mqtt.ConnAccepted {
				t.Fatalf("CONNACK %d", code)
			}
			d.SetDeadline(time.Now().Add(patience))
			if err := lose(t, ca, i); err != nil {
				t.Fatal(err)
			}
			d.WaitClosed(t)
			if code := a.connect(t, conf, id); code != mqtt.ConnRefusedNotAuthorized {
				t.Errorf("CONNACK %d afterwards", code)
			}
			if name == "the device is disabled" {
				if _, err := a.Registry().Replace(t.Context(), i, "*"); err != nil {
					t.Fatal(err)
				}
				if code := a.connect(t, conf, id); code != mqtt.ConnAccepted {
					t.Errorf("CONNACK %d once it is enabled again", code)
				}
			}
		})
	}
}
