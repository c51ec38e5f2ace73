package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
)

// noon is when the stories of this file play; what they make is valid from the
// day before to the day after.
var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// A party is somebody with a certificate and its key.
type party struct {
	*x509.Certificate
	key crypto.Signer
}

// newParty makes a certificate for name, signed by issuer or, without one, by
// its own key. change has the last word on what it says.
func newParty(t testing.TB, issuer *party, name string, isCA bool, change func(*x509.Certificate)) *party {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newPartyWithKey(t, issuer, name, isCA, key.Public(), key, change)
}

func newPartyWithKey(t testing.TB, issuer *party, name string, isCA bool, public crypto.PublicKey, key crypto.Signer, change func(*x509.Certificate)) *party {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: name},
		NotBefore: noon.AddDate(0, 0, -1), NotAfter: noon.AddDate(0, 0, 1),
		BasicConstraintsValid: true, IsCA: isCA, MaxPathLen: -1,
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if isCA {
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if change != nil {
		change(template)
	}
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.Certificate, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &party{cert, key}
}

// A supplyChain is what the stories begin with: root signs factory, factory signs
// line, line signs device.
type supplyChain struct{ root, factory, line, device *party }

// changes to the certificates of a supply chain; nil for none.
type changes struct {
	root, factory, line, device func(*x509.Certificate)
}

func newSupplyChain(t testing.TB, c changes) *supplyChain {
	t.Helper()
	s := &supplyChain{}
	s.root = newParty(t, nil, "Root", true, c.root)
	s.factory = newParty(t, s.root, "Factory", true, c.factory)
	s.line = newParty(t, s.factory, "Line", true, c.line)
	s.device = newParty(t, s.line, "device-1", false, c.device)
	return s
}

// request is what the device presents: itself, line and factory.
func (s *supplyChain) request() PathRequest {
	return PathRequest{Chain: certificates(s.device, s.line, s.factory), Time: noon, Usage: UsageClient, MaxDepth: -1}
}

func certificates(parties ...*party) []*x509.Certificate {
	var certs []*x509.Certificate
	for _, p := range parties {
		certs = append(certs, p.Certificate)
	}
	return certs
}

func extensionOf(critical bool, value []byte, id ...int) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: value})
	}
}

func TestAccepted(t *testing.T) {
	expiresNow := func(c *x509.Certificate) { c.NotAfter = noon }
	for _, test := range []struct {
		name    string
		changes changes
		request func(*supplyChain, *PathRequest)
		anchor  func(*supplyChain) *party // the root if nil
		length  int                       // of the path
	}{
		{name: "leaf and intermediates", length: 4},
		{name: "in the wrong order", length: 4, request: func(_ *supplyChain, r *PathRequest) { slices.Reverse(r.Chain[1:]) }},
		{name: "with the root", length: 4, request: func(s *supplyChain, r *PathRequest) { r.Chain = append(r.Chain, s.root.Certificate) }},
		{name: "an intermediate is the anchor, its root unknown", length: 2, anchor: func(s *supplyChain) *party { return s.line }},
		{name: "an expired root above an anchor", length: 3, anchor: func(s *supplyChain) *party { return s.factory },
			changes: changes{root: func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Hour) }}},
		{name: "all expire in this second", length: 4, changes: changes{root: expiresNow, line: expiresNow, device: expiresNow},
			request: func(_ *supplyChain, r *PathRequest) { r.Time = noon.Add(999 * time.Millisecond) }},
		{name: "all valid since this second", length: 4, changes: changes{line: func(c *x509.Certificate) { c.NotBefore = noon }, device: func(c *x509.Certificate) { c.NotBefore = noon }}},
		{name: "no key usage anywhere", length: 4, changes: changes{
			root: func(c *x509.Certificate) { c.KeyUsage = 0 }, line: func(c *x509.Certificate) { c.KeyUsage = 0 }, device: func(c *x509.Certificate) { c.KeyUsage = 0 }}},
		{name: "clientAuth among others", length: 4, changes: changes{device: func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection, x509.ExtKeyUsageClientAuth}
		}}},
		{name: "the names differ in case, blanks and string type", length: 4, request: func(s *supplyChain, r *PathRequest) {
			renamed := *s.line.Certificate
			renamed.RawSubject = utf8Name(t, "  lINE ")
			r.Chain[0] = newParty(t, &party{&renamed, s.line.key}, "device-1", false, nil).Certificate
		}},
		{name: "path length used up", length: 4, changes: changes{
			root: func(c *x509.Certificate) { c.MaxPathLen = 2 }, factory: func(c *x509.Certificate) { c.MaxPathLen = 1 },
			line: func(c *x509.Certificate) { c.MaxPathLenZero, c.MaxPathLen = true, 0 }}},
		{name: "a self-issued intermediate does not count", length: 5,
			changes: changes{line: func(c *x509.Certificate) { c.MaxPathLenZero, c.MaxPathLen = true, 0 }},
			request: func(s *supplyChain, r *PathRequest) {
				rekeyed := newParty(t, s.line, "Line", true, nil)
				r.Chain = certificates(newParty(t, rekeyed, "device-1", false, nil), rekeyed, s.line, s.factory)
				r.MaxDepth = 2
			}},
		{name: "permitted names", length: 4, changes: changes{
			factory: func(c *x509.Certificate) {
				c.PermittedDNSDomains = []string{"plant.example"}
				c.PermittedEmailAddresses = []string{"plant.example"}
				c.ExcludedURIDomains = []string{"plant.example"}
			},
			device: func(c *x509.Certificate) {
				c.DNSNames, c.EmailAddresses = []string{"D1.Plant.Example"}, []string{"d1@PLANT.example"}
				c.URIs = []*url.URL{{Scheme: "https", Host: "d1.plant.example"}}
			}}},
		{name: "a URI without a host, where hosts alone are constrained", length: 4, changes: changes{
			factory: func(c *x509.Certificate) {
				c.PermittedDNSDomains = []string{"plant.example"}
				c.ExcludedEmailAddresses = []string{"other.example"}
			},
			device: func(c *x509.Certificate) { c.URIs = uris(t, "urn:signet:hub:plant.example", "https://192.0.2.1/") }}},
		{name: "policies with an explicit policy required", length: 4, changes: changes{
			factory: func(c *x509.Certificate) {
				c.Policies = oids(t, 1, 2, 3)
				extensionOf(true, []byte{0x30, 3, 0x80, 1, 0}, 2, 5, 29, 36)(c)
			},
			line:   func(c *x509.Certificate) { c.Policies = oids(t, 1, 2, 3) },
			device: func(c *x509.Certificate) { c.Policies = oids(t, 1, 2, 3) }}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSupplyChain(t, test.changes)
			r := s.request()
			if test.request != nil {
				test.request(s, &r)
			}
			anchor := s.root
			if test.anchor != nil {
				anchor = test.anchor(s)
			}
			anchors := NewAnchors(certificates(anchor))
			for _, round := range []string{"cold", "warm"} {
				path, err := anchors.Validate(r)
				if err != nil {
					t.Fatalf("%s: %v", round, err)
				}
				if len(path) != test.length || !path[0].Equal(r.Chain[0]) || !path[len(path)-1].Equal(anchor.Certificate) {
					t.Errorf("%s: path of %d certificates, want %d from device to anchor", round, len(path), test.length)
				}
			}
		})
	}
}

// TestRefused has one story for each kind of refusal: the code, the certificate
// at fault by its place in the chain, and the field.
func TestRefused(t *testing.T) {
	const notPresented = NotPresented
	expired := func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }
	early := func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Second) }
	critical := extensionOf(true, []byte{5, 0}, 1, 3, 6, 1, 4, 1, 55738, 1)
	serverOnly := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	emptyUsage := extensionOf(false, []byte{0x30, 0}, 2, 5, 29, 37)
	sha1 := func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }
	for _, test := range []struct {
		name    string
		changes changes
		request func(*testing.T, *supplyChain, *PathRequest)
		code    signet.Code
		at      int // index of the certificate at fault
		field   string
	}{
		{name: "nothing presented", code: signet.ChainNone, at: notPresented,
			request: func(_ *testing.T, _ *supplyChain, r *PathRequest) { r.Chain = nil }},
		{name: "something that is no certificate", code: signet.ChainMalformed, at: notPresented,
			request: func(_ *testing.T, _ *supplyChain, r *PathRequest) { r.Chain[1] = &x509.Certificate{} }},
		{name: "12 certificates", code: signet.ChainTooLong, at: notPresented, field: "chain",
			request: func(_ *testing.T, s *supplyChain, r *PathRequest) {
				for len(r.Chain) < 12 {
					r.Chain = append(r.Chain, s.line.Certificate)
				}
			}},
		{name: "more intermediates than asked for", code: signet.ChainTooLong, field: "path",
			request: func(_ *testing.T, _ *supplyChain, r *PathRequest) { r.MaxDepth = 1 }},
		{name: "a certificate of 70 kB", code: signet.LimitChainBytes, at: notPresented, field: "chain",
			changes: changes{device: extensionOf(false, make([]byte, 70_000), 1, 2, 3, 4)}},
		{name: "300 names", code: signet.LimitPathWork, field: "subjectAltName", changes: changes{device: manyNames(300)}},
		{name: "300 constraints", code: signet.LimitPathWork, at: 2, field: "nameConstraints",
			changes: changes{factory: func(c *x509.Certificate) { c.PermittedDNSDomains = names(300) }}},
		{name: "300 constraints in the anchor", code: signet.LimitPathWork, at: notPresented, field: "nameConstraints",
			changes: changes{root: func(c *x509.Certificate) { c.PermittedDNSDomains = names(300) }}},
		{name: "ten CAs that sign each other every way", code: signet.LimitPathWork, field: "chain", request: tangle},

		{name: "the line's certificate is not sent", code: signet.ChainIssuerMissing, field: "issuer",
			request: func(_ *testing.T, s *supplyChain, r *PathRequest) { r.Chain = certificates(s.device, s.factory) }},
		{name: "the factory's certificate is not sent", code: signet.ChainIssuerMissing, at: 1, field: "issuer",
			request: func(_ *testing.T, s *supplyChain, r *PathRequest) { r.Chain = certificates(s.device, s.line) }},
		{name: "a stranger's complete chain", code: signet.ChainUntrusted, at: 2, field: "issuer",
			request: func(t *testing.T, _ *supplyChain, r *PathRequest) {
				root := newParty(t, nil, "Another Root", true, nil)
				line := newParty(t, root, "Line", true, nil)
				r.Chain = certificates(newParty(t, line, "device-1", false, nil), line, root)
			}},
		{name: "a self-signed device", code: signet.ChainUntrusted, field: "issuer",
			request: func(t *testing.T, _ *supplyChain, r *PathRequest) {
				r.Chain = certificates(newParty(t, nil, "device-1", false, nil))
			}},
		{name: "a root of the anchor's name and key identifier, sent along", code: signet.ChainUntrusted, at: 1, field: "issuer",
			request: func(t *testing.T, s *supplyChain, r *PathRequest) {
				fake := newParty(t, nil, "Root", true, func(c *x509.Certificate) { c.SubjectKeyId = s.root.SubjectKeyId })
				r.Chain = certificates(newParty(t, fake, "device-1", false, nil), fake)
			}},
		{name: "two CAs that certify each other", code: signet.ChainUntrusted, at: 2, field: "issuer",
			request: func(t *testing.T, _ *supplyChain, r *PathRequest) {
				a, b := newParty(t, nil, "A", true, nil), newParty(t, nil, "B", true, nil)
				r.Chain = certificates(newParty(t, a, "device-1", false, nil), signedBy(t, a, b), signedBy(t, b, a))
			}},

		{name: "expired anchor", code: signet.AnchorExpired, at: notPresented, field: "notAfter", changes: changes{root: expired}},
		{name: "expired anchor, sent along", code: signet.AnchorExpired, at: 3, field: "notAfter", changes: changes{root: expired},
			request: func(_ *testing.T, s *supplyChain, r *PathRequest) { r.Chain = append(r.Chain, s.root.Certificate) }},
		{name: "expired intermediate", code: signet.CertExpired, at: 1, field: "notAfter", changes: changes{line: expired}},
		{name: "expired device, one second ago", code: signet.CertExpired, field: "notAfter", changes: changes{device: expired}},
		{name: "device of the future", code: signet.CertNotYetValid, field: "notBefore", changes: changes{device: early}},
		{name: "intermediate of the future", code: signet.CertNotYetValid, at: 2, field: "notBefore", changes: changes{factory: early}},

		{name: "an intermediate with CA:FALSE", code: signet.CertNotACA, at: 1, field: "basicConstraints", changes: changes{line: func(c *x509.Certificate) { c.IsCA, c.MaxPathLen = false, 0 }}},
		{name: "an intermediate without basic constraints", code: signet.CertNotACA, at: 1, field: "basicConstraints",
			changes: changes{line: func(c *x509.Certificate) { c.BasicConstraintsValid = false }}},
		{name: "a device signs a device", code: signet.CertNotACA, at: 1, field: "basicConstraints",
			request: func(t *testing.T, s *supplyChain, r *PathRequest) {
				r.Chain = slices.Concat(certificates(newParty(t, s.device, "device-2", false, nil)), r.Chain)
			}},
		{name: "path length 0 above an intermediate", code: signet.CertPathLength, at: 2, field: "basicConstraints pathLenConstraint",
			changes: changes{factory: func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }}},
		{name: "path length of the anchor", code: signet.CertPathLength, at: notPresented, field: "basicConstraints pathLenConstraint",
			changes: changes{root: func(c *x509.Certificate) { c.MaxPathLen = 1 }}},

		{name: "an intermediate without keyCertSign", code: signet.CertKeyUsage, at: 1, field: "keyUsage",
			changes: changes{line: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }}},
		{name: "an anchor without keyCertSign", code: signet.CertKeyUsage, at: notPresented, field: "keyUsage",
			changes: changes{root: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }}},
		{name: "a device that may not sign", code: signet.CertKeyUsage, field: "keyUsage",
			changes: changes{device: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }}},
		{name: "a device for servers", code: signet.CertExtKeyUsage, field: "extKeyUsage", changes: changes{device: serverOnly}},
		{name: "an intermediate for servers", code: signet.CertExtKeyUsage, at: 1, field: "extKeyUsage", changes: changes{line: serverOnly}},
		{name: "an anchor for servers", code: signet.CertExtKeyUsage, at: notPresented, field: "extKeyUsage", changes: changes{root: serverOnly}},
		{name: "an empty list of usages", code: signet.CertExtKeyUsage, field: "extKeyUsage", changes: changes{device: emptyUsage}},
		{name: "an empty list of usages in a CA, any usage asked for", code: signet.CertExtKeyUsage, at: 2, field: "extKeyUsage", changes: changes{factory: emptyUsage},
			request: func(_ *testing.T, _ *supplyChain, r *PathRequest) { r.Usage = UsageAny }},

		{name: "an excluded DNS name, in another case", code: signet.CertNameConstraints, field: "nameConstraints", changes: changes{
			factory: func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"plant.example"} },
			device:  func(c *x509.Certificate) { c.DNSNames = []string{"D1.PLANT.Example"} }}},
		{name: "an intermediate's name that is not permitted", code: signet.CertNameConstraints, at: 1, field: "nameConstraints", changes: changes{
			factory: func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"plant.example"} },
			line:    func(c *x509.Certificate) { c.DNSNames = []string{"other.example"} }}},
		{name: "an address outside the anchor's range", code: signet.CertNameConstraints, field: "nameConstraints", changes: changes{
			root: func(c *x509.Certificate) {
				_, n, _ := net.ParseCIDR("10.0.0.0/8")
				c.PermittedIPRanges = []*net.IPNet{n}
			},
			device: func(c *x509.Certificate) { c.IPAddresses = []net.IP{{192, 0, 2, 1}} }}},
		{name: "a mailbox below the permitted host", code: signet.CertNameConstraints, field: "nameConstraints", changes: changes{
			factory: func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{"plant.example"} },
			device:  func(c *x509.Certificate) { c.EmailAddresses = []string{"d1@mail.plant.example"} }}},
		{name: "an excluded mailbox in quotes", code: signet.CertNameConstraints, field: "nameConstraints", changes: changes{
			factory: func(c *x509.Certificate) { c.ExcludedEmailAddresses = []string{"d1@plant.example"} },
			device:  func(c *x509.Certificate) { c.EmailAddresses = []string{`"d1"@plant.example`} }}},
		{name: "a URI below the permitted host", code: signet.CertNameConstraints, field: "nameConstraints", changes: changes{
			factory: func(c *x509.Certificate) { c.PermittedURIDomains = []string{"plant.example"} },
			device:  func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "d1.plant.example:8443"}} }}},
		{name: "a URI without a host, which no exclusion can be compared with", code: signet.CertNameConstraints, field: "nameConstraints", changes: changes{
			factory: func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"plant.example"} },
			device:  func(c *x509.Certificate) { c.URIs = uris(t, "urn:signet:hub:plant.example") }}},
		{name: "a URI with an address, likewise", code: signet.CertNameConstraints, field: "nameConstraints", changes: changes{
			factory: func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"plant.example"} },
			device:  func(c *x509.Certificate) { c.URIs = uris(t, "https://192.0.2.1/") }}},
		{name: "a URI with an address of IPv6, likewise", code: signet.CertNameConstraints, field: "nameConstraints", changes: changes{
			factory: func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"plant.example"} },
			device:  func(c *x509.Certificate) { c.URIs = uris(t, "https://[2001:db8::1]:8443/") }}},
		{name: "an excluded host with a full stop", code: signet.CertNameConstraints, field: "nameConstraints", changes: changes{
			factory: func(c *x509.Certificate) { c.ExcludedEmailAddresses = []string{"plant.example"} },
			device: func(c *x509.Certificate) {
				c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: attributeEmailAddress, Value: "d1@plant.example."}}
			}}},
		{name: "what is no address", code: signet.CertNameConstraints, field: "nameConstraints", changes: changes{
			factory: func(c *x509.Certificate) { c.ExcludedEmailAddresses = []string{"plant.example"} },
			device: func(c *x509.Certificate) {
				c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: attributeEmailAddress, Value: "<d1@plant.example>"}}
			}}},
		{name: "an excluded address in the subject", code: signet.CertNameConstraints, field: "nameConstraints", changes: changes{
			factory: func(c *x509.Certificate) { c.ExcludedEmailAddresses = []string{".plant.example"} },
			device: func(c *x509.Certificate) {
				c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: attributeEmailAddress, Value: "d1@Mail.Plant.example"}}
			}}},
		{name: "more names times constraints than are compared", code: signet.LimitPathWork, field: "nameConstraints", changes: changes{
			factory: func(c *x509.Certificate) { c.ExcludedEmailAddresses = names(200) },
			line:    func(c *x509.Certificate) { c.ExcludedEmailAddresses = names(200) },
			device: func(c *x509.Certificate) {
				for _, host := range names(256) {
					c.EmailAddresses = append(c.EmailAddresses, "a@other-"+host)
				}
			}}},
		{name: "constraints on directory names", code: signet.CertUnknownCritical, at: 1, field: "extensions", changes: changes{line: extensionOf(true, directoryConstraint, 2, 5, 29, 30)}},
		{name: "constraints on directory names, not critical", code: signet.CertUnknownCritical, at: 1, field: "nameConstraints", changes: changes{line: extensionOf(false, directoryConstraint, 2, 5, 29, 30)}},
		{name: "an unknown critical extension of the device", code: signet.CertUnknownCritical, field: "extensions", changes: changes{device: critical}},
		{name: "an unknown critical extension of the anchor", code: signet.CertUnknownCritical, at: notPresented, field: "extensions", changes: changes{root: critical}},
		{name: "a required policy that is missing below", code: signet.CertPolicy, field: "certificatePolicies",
			changes: changes{factory: extensionOf(true, []byte{0x30, 3, 0x80, 1, 0}, 2, 5, 29, 36)}},

		{name: "RSA of 1024 bits", code: signet.CertWeakKey, field: "subjectPublicKeyInfo", request: deviceWithKey(weakRSA)},
		{name: "RSA of 8200 bits", code: signet.CertWeakKey, field: "subjectPublicKeyInfo", request: deviceWithKey(hugeRSA)},
		{name: "EC P-224", code: signet.CertWeakKey, field: "subjectPublicKeyInfo", request: deviceWithKey(p224)},
		{name: "a SHA-1 signature on the device", code: signet.CertWeakSignature, field: "signatureAlgorithm", changes: changes{device: sha1}},
		{name: "a SHA-1 signature on an intermediate", code: signet.CertWeakSignature, at: 2, field: "signatureAlgorithm", changes: changes{factory: sha1}},
		{name: "a re-keyed line", code: signet.CertBadSignature, field: "signature",
			request: func(t *testing.T, s *supplyChain, r *PathRequest) {
				r.Chain[1] = newParty(t, s.factory, "Line", true, nil).Certificate
			}},
		{name: "a device signed by another key of the anchor's name", code: signet.CertBadSignature, field: "signature",
			request: func(t *testing.T, _ *supplyChain, r *PathRequest) {
				r.Chain = certificates(newParty(t, newParty(t, nil, "Root", true, nil), "device-1", false, nil))
			}},
		{name: "the anchor itself", code: signet.CertIsCAAnchor, field: "certificate",
			request: func(_ *testing.T, s *supplyChain, r *PathRequest) { r.Chain = certificates(s.root) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSupplyChain(t, test.changes)
			r := s.request()
			if test.request != nil {
				test.request(t, s, &r)
			}
			path, err := NewAnchors(certificates(s.root)).Validate(r)
			if err == nil {
				t.Fatalf("accepted by a path of %d certificates", len(path))
			}
			e := signet.AsError(err)
			if e.Code != test.code {
				t.Fatalf("code %s, want %s: %v", e.Code, test.code, e)
			}
			at := notPresented
			if e.Certificate != nil {
				at = e.Certificate.Index
			}
			if at != test.at || e.Field != test.field {
				t.Errorf("certificate %d, field %q; want %d, %q: %v", at, e.Field, test.at, test.field, e)
			}
			if e.Field != "" && (e.Expected == "" || e.Actual == "" || e.Fix == "") {
				t.Errorf("expected %q, actual %q, fix %q: none may be empty", e.Expected, e.Actual, e.Fix)
			}
		})
	}
}

// TestWarm shows that the cache of issuers changes no verdict: whatever is
// presented is judged alike by a fresh set and by one that has accepted a sister
// of the device before.
func TestWarm(t *testing.T) {
	s := newSupplyChain(t, changes{})
	good := s.request()
	sibling := func(change func(*x509.Certificate)) *party { return newParty(t, s.line, "device-2", false, change) }
	stranger := newParty(t, newParty(t, nil, "Line", true, nil), "device-2", false, nil)
	requests := map[string]PathRequest{}
	add := func(name string, change func(*PathRequest), chain ...*party) {
		r := good
		r.Chain = certificates(chain...)
		if change != nil {
			change(&r)
		}
		requests[name] = r
	}
	add("good", nil, sibling(nil), s.line, s.factory)
	add("with the root", nil, sibling(nil), s.line, s.factory, s.root)
	add("in another order", nil, sibling(nil), s.factory, s.line)
	add("with a stranger's certificate", nil, sibling(nil), s.line, s.factory, stranger)
	add("twice", nil, sibling(nil), s.line, s.line, s.factory)
	add("without the factory", nil, sibling(nil), s.line)
	add("without the line", nil, sibling(nil), s.factory)
	add("alone", nil, sibling(nil))
	add("signed by another key", nil, stranger, s.line, s.factory)
	add("expired", nil, sibling(func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Hour) }), s.line, s.factory)
	add("later than the path", func(r *PathRequest) { r.Time = noon.AddDate(0, 0, 2) },
		sibling(func(c *x509.Certificate) { c.NotAfter = noon.AddDate(1, 0, 0) }), s.line, s.factory)
	add("before the path", func(r *PathRequest) { r.Time = noon.AddDate(0, 0, -2) },
		sibling(func(c *x509.Certificate) { c.NotBefore = noon.AddDate(-1, 0, 0) }), s.line, s.factory)
	add("for servers", nil, sibling(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), s.line, s.factory)
	add("asked as a server", func(r *PathRequest) { r.Usage = UsageServer },
		sibling(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), s.line, s.factory)
	add("may not sign", nil, sibling(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), s.line, s.factory)
	add("demands a policy", nil, sibling(extensionOf(true, []byte{0x30, 3, 0x80, 1, 0}, 2, 5, 29, 36)), s.line, s.factory)
	add("has the name of the factory", nil, newParty(t, s.line, "Factory", false, nil), s.line, s.factory)
	add("has the name and key of the factory", nil,
		newPartyWithKey(t, s.line, "Factory", false, s.factory.PublicKey, s.factory.key, nil), s.line, s.factory)
	add("depth 1", func(r *PathRequest) { r.MaxDepth = 1 }, sibling(nil), s.line, s.factory)
	add("depth 2", func(r *PathRequest) { r.MaxDepth = 2 }, sibling(nil), s.line, s.factory)
	add("CRLs asked for", func(r *PathRequest) { r.CRLs = []*x509.RevocationList{} }, sibling(nil), s.line, s.factory)

	for name, r := range requests {
		warm := NewAnchors(certificates(s.root))
		for _, usage := range []Usage{UsageClient, UsageServer, UsageAny} {
			first := good
			first.Usage = usage
			if _, err := warm.Validate(first); err != nil {
				t.Fatal(err)
			}
		}
		if len(warm.issuers.byID) != 3 {
			t.Fatalf("%d issuers remembered, want one for each usage", len(warm.issuers.byID))
		}
		coldPath, cold := NewAnchors(certificates(s.root)).Validate(r)
		warmPath, err := warm.Validate(r)
		if signet.CodeOf(cold) != signet.CodeOf(err) || cold != nil && cold.Error() != err.Error() {
			t.Errorf("%s: cold %v, warm %v", name, cold, err)
		}
		if !slices.EqualFunc(coldPath, warmPath, (*x509.Certificate).Equal) {
			t.Errorf("%s: cold and warm differ in the path", name)
		}
	}
	if _, err := NewAnchors(nil).Validate(good); signet.CodeOf(err) != signet.ChainIssuerMissing {
		t.Errorf("a new set without the root: %v, want %s", err, signet.ChainIssuerMissing)
	}
}

// TestWarmForgetsConstraints: an issuer below name constraints is never
// remembered, since what it may sign hangs on them.
func TestWarmForgetsConstraints(t *testing.T) {
	s := newSupplyChain(t, changes{factory: func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"plant.example"} }})
	anchors := NewAnchors(certificates(s.root))
	r := s.request()
	if _, err := anchors.Validate(r); err != nil {
		t.Fatal(err)
	}
	if n := len(anchors.issuers.byID); n != 0 {
		t.Errorf("%d issuers remembered", n)
	}
	r.Chain[0] = newParty(t, s.line, "device-2", false, func(c *x509.Certificate) { c.DNSNames = []string{"other.example"} }).Certificate
	if _, err := anchors.Validate(r); signet.CodeOf(err) != signet.CertNameConstraints {
		t.Errorf("%v, want %s", err, signet.CertNameConstraints)
	}
}

// TestAnchorsOfOneName: all anchors of a name are tried, and the right one is
// found whatever the key identifiers say.
func TestAnchorsOfOneName(t *testing.T) {
	var roots []*party
	for range 25 {
		roots = append(roots, newParty(t, nil, "Root", true, func(c *x509.Certificate) { c.SubjectKeyId = []byte{1} }))
	}
	anchors := NewAnchors(certificates(roots...))
	for i, root := range roots {
		line := newParty(t, root, "Line", true, nil)
		r := PathRequest{Chain: certificates(newParty(t, line, "device-1", false, nil), line), Time: noon, MaxDepth: -1}
		path, err := anchors.Validate(r)
		if err != nil {
			t.Fatalf("root %d: %v", i, err)
		}
		if !path[2].Equal(root.Certificate) {
			t.Errorf("root %d: another anchor was taken", i)
		}
	}
}

func TestRevocation(t *testing.T) {
	s := newSupplyChain(t, changes{})
	crl := func(signer *party, change func(*x509.RevocationList), serials ...*big.Int) *x509.RevocationList {
		template := &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: noon.Add(-time.Hour), NextUpdate: noon.Add(time.Hour)}
		for _, serial := range serials {
			template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: noon.Add(-time.Minute)})
		}
		if change != nil {
			change(template)
		}
		der, err := x509.CreateRevocationList(rand.Reader, template, signer.Certificate, signer.key)
		if err != nil {
			t.Fatal(err)
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	all := []*x509.RevocationList{crl(s.root, nil), crl(s.factory, nil), crl(s.line, nil)}
	without := func(i int, instead ...*x509.RevocationList) []*x509.RevocationList {
		return append(slices.Delete(slices.Clone(all), i, i+1), instead...)
	}
	sameName := newParty(t, nil, "Line", true, nil)
	for _, test := range []struct {
		name string
		crls []*x509.RevocationList
		code signet.Code
		at   int
	}{
		{"none asked for", nil, "", 0},
		{"all covered, none revoked", all, "", 0},
		{"none given", []*x509.RevocationList{}, signet.CertRevocationUnknown, 0},
		{"the factory's is missing", without(1), signet.CertRevocationUnknown, 1},
		{"the root's is missing", without(0), signet.CertRevocationUnknown, 2},
		{"the device is revoked", without(2, crl(s.line, nil, s.device.SerialNumber)), signet.CertRevoked, 0},
		{"the device is revoked on one of two lists", append(slices.Clone(all), crl(s.line, nil, s.device.SerialNumber)), signet.CertRevoked, 0},
		{"the line is revoked", without(1, crl(s.factory, nil, s.line.SerialNumber)), signet.CertRevoked, 1},
		{"its serial number is on another CA's list", without(1, crl(s.factory, nil, s.device.SerialNumber)), "", 0},
		{"by another key of the same name", without(2, crl(sameName, nil, s.device.SerialNumber)), signet.CertRevocationUnknown, 0},
		{"out of date", without(2, crl(s.line, func(c *x509.RevocationList) { c.NextUpdate = noon.Add(-time.Second) })), signet.CertRevocationUnknown, 0},
		{"not yet valid", without(2, crl(s.line, func(c *x509.RevocationList) { c.ThisUpdate = noon.Add(time.Second) })), signet.CertRevocationUnknown, 0},
		{"a delta", without(2, crl(s.line, func(c *x509.RevocationList) {
			c.ExtraExtensions = []pkix.Extension{{Id: extDeltaCRL, Critical: true, Value: []byte{2, 1, 1}}}
		})), signet.CertRevocationUnknown, 0},
		{"a part", without(2, crl(s.line, func(c *x509.RevocationList) {
			c.ExtraExtensions = []pkix.Extension{{Id: extIssuingDistPoint, Value: []byte{0x30, 0}}}
		})), signet.CertRevocationUnknown, 0},
		{"an unknown critical entry extension", without(2, crl(s.line, func(c *x509.RevocationList) {
			c.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(1), RevocationTime: noon,
				ExtraExtensions: []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}}}
		})), signet.CertRevocationUnknown, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := s.request()
			r.CRLs = test.crls
			_, err := NewAnchors(certificates(s.root)).Validate(r)
			if signet.CodeOf(err) != test.code {
				t.Fatalf("%v, want %q", err, test.code)
			}
			if err != nil && signet.AsError(err).Certificate.Index != test.at {
				t.Errorf("certificate %d, want %d", signet.AsError(err).Certificate.Index, test.at)
			}
		})
	}
}

func TestCommonName(t *testing.T) {
	root := newParty(t, nil, "Root", true, nil)
	for _, test := range []struct {
		subject []string // common names
		name    string
		ok      bool
	}{
		{[]string{"device-1"}, "device-1", true},
		{[]string{"device-1/module-1"}, "device-1/module-1", true},
		{[]string{"device-2"}, "device-1", false},
		{[]string{"Device-1"}, "device-1", false},
		{[]string{"device-1 "}, "device-1", false},
		{[]string{"device-1", "device-1"}, "device-1", false},
		{[]string{"device-2", "device-1"}, "device-1", false},
		{nil, "device-1", false},
		{nil, "", false},
	} {
		t.Run(fmt.Sprintf("%q for %q", test.subject, test.name), func(t *testing.T) {
			leaf := newParty(t, root, "", false, func(c *x509.Certificate) {
				for _, cn := range test.subject {
					c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: []int{2, 5, 4, 3}, Value: cn})
				}
			})
			switch err := CheckCommonName(leaf.Certificate, test.name); {
			case test.ok && err != nil:
				t.Error(err)
			case !test.ok && signet.CodeOf(err) != signet.IdentityCNMismatch:
				t.Errorf("%v, want %s", err, signet.IdentityCNMismatch)
			}
		})
	}
}

func TestCanonicalName(t *testing.T) {
	name := func(n pkix.Name) string {
		der, err := asn1.Marshal(n.ToRDNSequence())
		if err != nil {
			t.Fatal(err)
		}
		return canonicalName(der)
	}
	line := name(pkix.Name{CommonName: "Line 1", Organization: []string{"Plant"}})
	for _, same := range []string{
		name(pkix.Name{CommonName: " line  1 ", Organization: []string{"PLANT"}}),
		name(pkix.Name{CommonName: "LINE\t1", Organization: []string{"plant "}}),
	} {
		if same != line {
			t.Errorf("%q differs from %q", same, line)
		}
	}
	for _, other := range []string{
		name(pkix.Name{CommonName: "Line1", Organization: []string{"Plant"}}),
		name(pkix.Name{CommonName: "Plant", Organization: []string{"Line 1"}}),
		name(pkix.Name{CommonName: "Line 1"}),
		name(pkix.Name{CommonName: "Line 1", Organization: []string{"Plant"}, SerialNumber: "1"}),
		canonicalName(nil), canonicalName([]byte{0x30, 1}), canonicalName([]byte("line 1")),
	} {
		if other == line {
			t.Errorf("%q is taken for the same", other)
		}
	}
}

func TestKeyPolicy(t *testing.T) {
	modulus := func(bits uint) crypto.PublicKey {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		return &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}
	}
	for bits, taken := range map[uint]bool{1024: false, 2039: false, 2040: true, 2046: true, 2048: true, 8192: true, 8193: false} {
		if err := checkKey(modulus(bits)); (err == nil) != taken {
			t.Errorf("RSA of %d bits: %v", bits, err)
		}
	}
	for _, key := range []crypto.PublicKey{nil, "key", &ecdsa.PublicKey{Curve: elliptic.P224()}} {
		if signet.CodeOf(checkKey(key)) != signet.CertWeakKey {
			t.Errorf("%v is taken", key)
		}
	}
}

// largeParty is newParty with a key of P-521, the dearest to verify with.
func largeParty(t testing.TB, issuer *party, name string, ca bool) *party {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newPartyWithKey(t, issuer, name, ca, key.Public(), key, nil)
}

// ladder gives a device and the CAs above it, as many as a path may have.
func ladder(t testing.TB, root *party, name func(n int) string, make func(t testing.TB, issuer *party, name string, ca bool) *party) []*party {
	t.Helper()
	var chain []*party
	above := root
	for n := range maxPath - 2 {
		above = make(t, above, name(n), true)
		chain = append([]*party{above}, chain...)
	}
	return append([]*party{make(t, above, "device-1", false)}, chain...)
}

func numbered(n int) string { return fmt.Sprint("CA ", n) }
func ofOneName(int) string  { return "Line" }

// impostors are the chains that a stranger can make who knows the name of a CA, to
// cost the most.
func impostors(t testing.TB) map[string][]*party {
	lost := largeParty(t, nil, "Root", true)
	tangled := []*party{largeParty(t, lost, "device-1", false)}
	for range maxPath - 1 {
		tangled = append(tangled, largeParty(t, lost, "Root", true))
	}
	return map[string][]*party{
		"a ladder":             ladder(t, lost, numbered, largeParty),
		"a ladder of one name": ladder(t, lost, ofOneName, largeParty),
		"a tangle":             tangled,
	}
}

// Large keys are no way to have us work for longer, and the longest honest path of
// them is taken; so is the longest of one name, which the engine would look for in
// every order.
func TestWorkOfLargeKeys(t *testing.T) {
	root := largeParty(t, nil, "Root", true)
	anchors := NewAnchors(certificates(root))
	for name, chain := range impostors(t) {
		s := newSearch(anchors, &PathRequest{Chain: certificates(chain...), Time: noon, Usage: UsageClient, MaxDepth: -1})
		if path := s.climb([]*link{s.presented[0]}); path != nil || s.explain().Code != signet.LimitPathWork {
			t.Errorf("%s of large keys leads to %v, %v", name, path, s.explain())
		}
		if most := maxWork + workOfP521; s.work > most || s.proven > 0 { // the last is counted, and not checked
			t.Errorf("%s may cost %d verifications, and %d that hold", name, s.work, s.proven)
		}
		if s.tried && name != "a tangle" { // whose first path has one link
			t.Errorf("%s has the engine look at it", name)
		}
	}
	small := newParty(t, nil, "Root", true, nil)
	sameName := ladder(t, small, ofOneName, func(t testing.TB, issuer *party, name string, ca bool) *party {
		return newParty(t, issuer, name, ca, nil)
	})
	for _, longest := range []struct {
		root  *party
		chain []*party
	}{{root, ladder(t, root, numbered, largeParty)}, {small, sameName}} {
		r := PathRequest{Chain: certificates(longest.chain...), Time: noon, MaxDepth: -1}
		if path, err := NewAnchors(certificates(longest.root)).Validate(r); err != nil || len(path) != maxPath {
			t.Errorf("the longest path: %d, %v", len(path), err)
		}
	}
}

// A CA of large keys that is rolled over under one name, without key identifiers, so
// that only the signatures tell its anchors apart, lets in who is below either.
func TestLargeKeysRolledOver(t *testing.T) {
	var roots []*party
	for range 2 {
		root := largeParty(t, nil, "Root", true)
		root.SubjectKeyId = nil
		roots = append(roots, root)
	}
	anchors := NewAnchors(certificates(roots...))
	for n, root := range roots {
		above, chain := root, []*party(nil)
		for length := 1; length < maxPath; length++ {
			device := largeParty(t, above, "device-1", false)
			r := PathRequest{Chain: certificates(append([]*party{device}, chain...)...), Time: noon, MaxDepth: -1}
			if path, err := anchors.Validate(r); err != nil || !path[len(path)-1].Equal(root.Certificate) {
				t.Errorf("%d certificates below anchor %d: %v", length, n, err)
			}
			above = largeParty(t, above, numbered(length), true)
			chain = append([]*party{above}, chain...)
		}
	}
}

// BenchmarkImpostor tells what a stranger can cost who knows the name of a CA.
func BenchmarkImpostor(b *testing.B) {
	anchors := NewAnchors(certificates(largeParty(b, nil, "Root", true)))
	for name, chain := range impostors(b) {
		request := PathRequest{Chain: certificates(chain...), Time: noon, MaxDepth: -1}
		b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
			for b.Loop() {
				if _, err := anchors.Validate(request); signet.CodeOf(err) != signet.LimitPathWork {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkValidate tells what a device costs: leaf, two intermediates and root,
// P-256. cold: nothing is remembered of the issuers; warm: the second device
// below them; stranger: a chain up to a root that is not known; impostor: one of
// the same names, by other keys.
func BenchmarkValidate(b *testing.B) {
	s := newSupplyChain(b, changes{})
	anchors := NewAnchors(certificates(s.root))
	unknown := newParty(b, newParty(b, nil, "Another Root", true, nil), "Line", true, nil)
	stranger := s.request()
	stranger.Chain = certificates(newParty(b, unknown, "device-1", false, nil), unknown)
	for _, bench := range []struct {
		name    string
		anchors func() *Anchors
		request PathRequest
		ok      bool
	}{
		{"cold", func() *Anchors { return NewAnchors(certificates(s.root)) }, s.request(), true},
		{"warm", func() *Anchors { return anchors }, s.request(), true},
		{"stranger", func() *Anchors { return anchors }, stranger, false},
		{"impostor", func() *Anchors { return anchors }, newSupplyChain(b, changes{}).request(), false},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bench.anchors().Validate(bench.request); (err == nil) != bench.ok {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzValidate: whatever bytes parse as certificates, there is an answer, and
// nothing but the chain below the anchor is accepted.
func FuzzValidate(f *testing.F) {
	s := sameSupplyChain(f)
	anchors := NewAnchors(certificates(s.root))
	f.Add(s.device.Raw, s.line.Raw, s.factory.Raw)
	f.Add(s.device.Raw, s.factory.Raw, s.root.Raw)
	f.Add(s.root.Raw, s.line.Raw, s.line.Raw)
	f.Fuzz(func(t *testing.T, leaf, second, third []byte) {
		r := PathRequest{Time: noon, MaxDepth: -1}
		for _, der := range [][]byte{leaf, second, third} {
			if c, err := x509.ParseCertificate(der); err == nil {
				r.Chain = append(r.Chain, c)
			}
		}
		path, err := anchors.Validate(r)
		if err == nil {
			signed := []*x509.Certificate{s.device.Certificate, s.line.Certificate, s.factory.Certificate}
			for _, c := range path[:len(path)-1] {
				if !slices.ContainsFunc(signed, c.Equal) {
					t.Fatal("accepted a certificate that nobody signed")
				}
			}
			return
		}
		if e := signet.AsError(err); e.Code == signet.Internal || e.Message == "" {
			t.Fatalf("no verdict: %v", err)
		}
	})
}

// sameSupplyChain makes the same certificates in every process, since those that
// fuzz share their inputs.
func sameSupplyChain(t testing.TB) *supplyChain {
	made := int64(0)
	make := func(issuer *party, name string, isCA bool) *party {
		made++
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(made)}, ed25519.SeedSize))
		return newPartyWithKey(t, issuer, name, isCA, key.Public(), key, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(made) })
	}
	s := &supplyChain{}
	s.root = make(nil, "Root", true)
	s.factory = make(s.root, "Factory", true)
	s.line = make(s.factory, "Line", true)
	s.device = make(s.line, "device-1", false)
	return s
}

// directoryConstraint permits the directory name CN=x.
var directoryConstraint = []byte{0x30, 0x14, 0xa0, 0x12, 0x30, 0x10, 0xa4, 0x0e, 0x30, 0x0c, 0x31, 0x0a, 0x30, 0x08, 0x06, 3, 0x55, 4, 3, 0x0c, 1, 'x'}

func utf8Name(t testing.TB, cn string) []byte {
	t.Helper()
	value, err := asn1.MarshalWithParams(cn, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(pkix.RDNSequence{{{Type: []int{2, 5, 4, 3}, Value: asn1.RawValue{FullBytes: value}}}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func names(n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("d%d.example", i))
	}
	return list
}

func manyNames(n int) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = names(n) }
}

func uris(t testing.TB, texts ...string) []*url.URL {
	t.Helper()
	var all []*url.URL
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, u)
	}
	return all
}

func oids(t testing.TB, arcs ...uint64) []x509.OID {
	oid, err := x509.OIDFromInts(arcs)
	if err != nil {
		t.Fatal(err)
	}
	return []x509.OID{oid}
}

// signedBy gives subject's name and key, signed by issuer.
func signedBy(t *testing.T, subject, issuer *party) *party {
	t.Helper()
	return newPartyWithKey(t, issuer, subject.Subject.CommonName, true, subject.PublicKey, subject.key, nil)
}

// tangle presents intermediates of one name, each with a key of its own, that all
// seem to lead to the anchor: more ways up than can be looked at.
func tangle(t *testing.T, _ *supplyChain, r *PathRequest) {
	lost := newParty(t, nil, "Root", true, nil)
	chain := []*party{newParty(t, lost, "device-1", false, nil)}
	for range 9 {
		chain = append(chain, newParty(t, lost, "Root", true, nil))
	}
	r.Chain = certificates(chain...)
}

func deviceWithKey(key func(*testing.T) crypto.PublicKey) func(*testing.T, *supplyChain, *PathRequest) {
	return func(t *testing.T, s *supplyChain, r *PathRequest) {
		r.Chain[0] = newPartyWithKey(t, s.line, "device-1", false, key(t), nil, nil).Certificate
	}
}

func weakRSA(t *testing.T) crypto.PublicKey {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

func hugeRSA(*testing.T) crypto.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), 8199)
	return &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}
}

func p224(t *testing.T) crypto.PublicKey {
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}
