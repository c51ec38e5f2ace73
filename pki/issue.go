package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/signet-iot/signet"
)

// A CA is a certification authority in its owner's hands: its certificate, the
// intermediates above it, and its key. That key never comes near a hub; the one
// exception is a CA that its owner has set up beside the server to issue by itself
// (package issuance).
type CA struct {
	Certificate *x509.Certificate
	// Chain is the CA's part of what a device has to present: the CA itself
	// first, then up to below the root. A root's is empty.
	Chain []*x509.Certificate
	Key   crypto.Signer
}

// backdate lets a new certificate be valid for machines whose clocks are a
// little behind.
const backdate = 5 * time.Minute

// NewRoot makes a self-signed CA that is valid for days from at. It refuses an
// impossible name with [signet.RequestMalformed].
func NewRoot(name string, key crypto.Signer, at time.Time, days int) (*CA, error) {
	subject, err := caSubject(name)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(subject, key.Public(), at, days)
	if err != nil {
		return nil, err
	}
	asCA(template, NoPathLength)
	template.AuthorityKeyId = template.SubjectKeyId
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &CA{Certificate: cert, Key: key}, nil
}

// OpenCA joins a CA's certificate with its key and with the certificates that
// its folder holds of the way up: chain may begin with the CA itself and may go
// as far as the root, which is left out.
//
// It refuses what could not issue: a certificate that is not a CA
// ([signet.CertNotACA], [signet.CertKeyUsage]), a key that no hub would take
// ([signet.CertWeakKey]), another's key ([signet.KeyMismatch]), a chain that
// does not fit together ([signet.ChainMalformed]).
func OpenCA(cert *x509.Certificate, chain []*x509.Certificate, key crypto.Signer) (*CA, error) {
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return nil, signet.Refuse(signet.CertNotACA, "%s is not a CA: it cannot sign certificates.", subjectText(cert)).
			Of(Reference(cert, NotPresented)).At("basicConstraints", "CA:TRUE", "CA:FALSE")
	case hasKeyUsage(cert) && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, signet.Refuse(signet.CertKeyUsage, "The key of %s may not sign certificates.", subjectText(cert)).
			Of(Reference(cert, NotPresented)).At("keyUsage", "keyCertSign", keyUsageText(cert.KeyUsage))
	case !sameKey(cert.PublicKey, key.Public()):
		return nil, signet.Refuse(signet.KeyMismatch, "The key is not that of %s.", subjectText(cert)).Of(Reference(cert, NotPresented))
	}
	if err := checkKey(cert.PublicKey); err != nil {
		return nil, signet.AsError(err).Of(Reference(cert, NotPresented))
	}
	ca := &CA{Certificate: cert, Key: key}
	if selfIssued(cert) {
		return ca, nil
	}
	ca.Chain = []*x509.Certificate{cert}
	if len(chain) > 0 && chain[0].Equal(cert) {
		chain = chain[1:]
	}
	for below := cert; len(chain) > 0 && !selfIssued(chain[0]); chain = chain[1:] {
		if err := below.CheckSignatureFrom(chain[0]); err != nil || !bytes.Equal(below.RawIssuer, chain[0].RawSubject) {
			return nil, signet.Refuse(signet.ChainMalformed, "The chain breaks: %s is not signed by %s, which follows it.", subjectText(below), subjectText(chain[0])).
				Of(Reference(below, NotPresented)).FixBy("Restore chain.pem: the CA first, each certificate followed by the one that signed it, the root left out.")
		}
		ca.Chain = append(ca.Chain, chain[0])
		below = chain[0]
	}
	return ca, nil
}

// NoPathLength asks for a CA certificate without a path length of its own.
const NoPathLength = -1

// Intermediate signs a certificate for a CA below this one, valid for days from
// at though never longer than this one, and gives its [CA.Chain].
//
// pathLength is how many intermediates may follow below the new one. With
// [NoPathLength] that is as many as the CAs above leave, which is then written
// down, or no limit. More than they leave is [signet.CertPathLength].
func (ca *CA) Intermediate(name string, key crypto.PublicKey, pathLength int, at time.Time, days int) ([]*x509.Certificate, error) {
	subject, err := caSubject(name)
	if err != nil {
		return nil, err
	}
	if left := ca.pathLengthLeft(); left != NoPathLength {
		if left == 0 {
			return nil, signet.Refuse(signet.CertPathLength, "The path length of %s, or of a CA above it, allows no CA below it.", subjectText(ca.Certificate)).
				Of(Reference(ca.Certificate, NotPresented)).FixBy("Sign devices with it, or issue the intermediate from a CA further up.")
		}
		if pathLength > left-1 {
			return nil, signet.Refuse(signet.CertPathLength, "A path length of %d is more than %s, or a CA above it, leaves: at most %d.", pathLength, subjectText(ca.Certificate), left-1).
				Of(Reference(ca.Certificate, NotPresented)).FixBy("Ask for --path-length %d or less, or leave it out.", left-1)
		}
		if pathLength == NoPathLength {
			pathLength = left - 1
		}
	}
	template, err := newTemplate(subject, key, at, days)
	if err != nil {
		return nil, err
	}
	asCA(template, pathLength)
	return ca.issue(template, key)
}

// Device signs a certificate for client authentication, valid for days from at
// though never longer than the CA's, and gives the chain that the device
// presents: itself first, up to below the root.
//
// id becomes the common name: a device ID, or deviceId/moduleId, of at most 64
// characters.
func (ca *CA) Device(id string, key crypto.PublicKey, at time.Time, days int) ([]*x509.Certificate, error) {
	device, module, isModule := strings.Cut(id, "/")
	if !signet.ValidID(device) || isModule && !signet.ValidID(module) {
		return nil, signet.Refuse(signet.IdentityMalformed, "%q is not a device ID.", signet.Clip(id)).
			At("id", "letters, digits and - : . % _ * ? ! ( ) , = @ ; $ '", id).
			FixBy("Choose a device ID of letters, digits and - : . %% _ * ? ! ( ) , = @ ; $ '")
	}
	if len(id) > maxCommonName {
		return nil, signet.Refuse(signet.IdentityMalformed, "A device ID of %d characters does not fit into a certificate.", len(id)).
			At("id", "at most 64 characters", id).FixBy("Choose a device ID of at most 64 characters: a common name holds no more (RFC 5280, ub-common-name).")
	}
	template, err := newTemplate(pkix.Name{CommonName: id}, key, at, days)
	if err != nil {
		return nil, err
	}
	return ca.leaf(template, key, at)
}

// Operational signs a certificate for a device as [CA.Device] does, for a time
// that need not be of whole days, and for the hub of that host name alone: see
// [CheckHub].
func (ca *CA) Operational(deviceID, host string, key crypto.PublicKey, at time.Time, validity time.Duration) ([]*x509.Certificate, error) {
	if !signet.ValidID(deviceID) || len(deviceID) > maxCommonName {
		return nil, signet.Refuse(signet.IdentityMalformed, "%q cannot be the common name of a certificate.", signet.Clip(deviceID)).
			At("id", "a device ID of at most 64 characters", deviceID).
			FixBy("Choose a device ID of at most 64 characters: a common name holds no more (RFC 5280, ub-common-name).")
	}
	template, err := newTemplate(pkix.Name{CommonName: deviceID}, key, at, maxDays)
	if err != nil {
		return nil, err
	}
	template.NotAfter = at.UTC().Truncate(time.Second).Add(validity)
	template.URIs = []*url.URL{{Scheme: "urn", Opaque: hubURN + signet.HostOnly(host)}}
	return ca.leaf(template, key, at)
}

// leaf signs the template as a device's.
func (ca *CA) leaf(template *x509.Certificate, key crypto.PublicKey, at time.Time) ([]*x509.Certificate, error) {
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	chain, err := ca.issue(template, key)
	if err != nil {
		return nil, err
	}
	// A hub would judge the chain so: better the factory learns of a CA that
	// cannot vouch for devices than the field.
	anchor := ca.Certificate
	if len(ca.Chain) > 0 {
		anchor = ca.Chain[len(ca.Chain)-1]
	}
	if _, err := NewAnchors([]*x509.Certificate{anchor}).Validate(PathRequest{Chain: chain, Time: at, Usage: UsageClient, MaxDepth: -1}); err != nil {
		return nil, err
	}
	return chain, nil
}

// Proof signs the certificate that proves to a hub that one holds the CA's key:
// its common name is the hub's verification code. It is valid for three days,
// and of no other use: nobody holds the key in it.
func (ca *CA) Proof(code string, at time.Time) (*x509.Certificate, error) {
	if code = strings.TrimSpace(code); code == "" || len(code) > maxCommonName || !printable(code) {
		return nil, signet.Refuse(signet.RequestMalformed, "That is not a verification code.").
			At("code", "1 to 64 characters", code).FixBy("Generate a code at the hub and copy it whole: signet certificate code")
	}
	key, err := GenerateKey(P256)
	if err != nil {
		return nil, signet.Fail(err)
	}
	template, err := newTemplate(pkix.Name{CommonName: code}, key.Public(), at, 3)
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	chain, err := ca.issue(template, key.Public())
	if err != nil {
		return nil, err
	}
	return chain[0], nil
}

// issue signs the template, cut to the CA's own validity, and puts the result
// before the CA's chain.
func (ca *CA) issue(template *x509.Certificate, key crypto.PublicKey) ([]*x509.Certificate, error) {
	issuer := ca.Certificate
	at := template.NotBefore.Add(backdate)
	if at.After(issuer.NotAfter) {
		return nil, signet.Refuse(signet.CertExpired, "%s has expired: what it signs now could never be valid.", subjectText(issuer)).
			Of(Reference(issuer, NotPresented)).At("notAfter", "after "+at.UTC().Format(time.RFC3339), issuer.NotAfter.UTC().Format(time.RFC3339)).
			FixBy("Renew the CA.")
	}
	if at.Before(issuer.NotBefore) {
		return nil, signet.Refuse(signet.CertNotYetValid, "%s is not valid yet.", subjectText(issuer)).
			Of(Reference(issuer, NotPresented)).At("notBefore", "before "+at.UTC().Format(time.RFC3339), issuer.NotBefore.UTC().Format(time.RFC3339))
	}
	if template.NotBefore.Before(issuer.NotBefore) {
		template.NotBefore = issuer.NotBefore
	}
	if template.NotAfter.After(issuer.NotAfter) {
		template.NotAfter = issuer.NotAfter
	}
	// RFC 5280 §4.2.1.1: the issuer's own identifier; one without gets what it
	// should have had.
	template.AuthorityKeyId = issuer.SubjectKeyId
	if len(template.AuthorityKeyId) == 0 {
		id, err := keyIdentifier(issuer.PublicKey)
		if err != nil {
			return nil, err
		}
		template.AuthorityKeyId = id
	}
	cert, err := sign(template, issuer, key, ca.Key)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(cert.RawSubject, cert.RawIssuer) {
		// Legal (RFC 5280 §3.2, self-issued) and a trap: half of the world's
		// software takes it for self-signed.
		return nil, signet.Refuse(signet.RequestMalformed, "The name is that of the CA itself.").
			At("name", "a name of its own", template.Subject.CommonName).FixBy("Choose another name.")
	}
	return append([]*x509.Certificate{cert}, ca.Chain...), nil
}

// pathLengthLeft is how many CAs may follow below this one, as far as it and the
// intermediates above it say (RFC 5280 §6.1.4(l), (m)). A root's word is known
// here by what its intermediates inherited.
func (ca *CA) pathLengthLeft() int {
	path := ca.Chain
	if len(path) == 0 {
		path = []*x509.Certificate{ca.Certificate}
	}
	left := NoPathLength
	for above, c := range path {
		if n, limited := pathLength(c); limited && (left == NoPathLength || n-above < left) {
			left = max(n-above, 0)
		}
	}
	return left
}

// pathLength gives the path length constraint of a CA certificate.
func pathLength(c *x509.Certificate) (n int, limited bool) {
	return c.MaxPathLen, c.MaxPathLen > 0 || c.MaxPathLen == 0 && c.MaxPathLenZero
}

// maxCommonName is ub-common-name (RFC 5280 appendix A.1).
const maxCommonName = 64

// caSubject makes the distinguished name of a CA.
func caSubject(name string) (pkix.Name, error) {
	if n := utf8.RuneCountInString(name); n == 0 || n > maxCommonName || !printable(name) {
		return pkix.Name{}, signet.Refuse(signet.RequestMalformed, "%q cannot be the name of a CA.", signet.Clip(name)).
			At("name", "1 to 64 printable characters", name).
			FixBy("Choose a name of 1 to 64 printable characters, without blanks at its ends.")
	}
	return pkix.Name{CommonName: name}, nil
}

// printable says whether a name shows as what it is: no control or invisible
// characters, no blanks at the ends, which comparison of names ignores
// (RFC 5280 §7.1).
func printable(name string) bool {
	return utf8.ValidString(name) && strings.TrimSpace(name) == name &&
		strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// maxDays is a hundred years, for things that are built into walls.
const maxDays = 36500

// newTemplate holds what all certificates have in common.
func newTemplate(subject pkix.Name, key crypto.PublicKey, at time.Time, days int) (*x509.Certificate, error) {
	if days < 1 || days > maxDays {
		return nil, signet.Refuse(signet.RequestMalformed, "A certificate cannot be valid for %d days.", days).
			FixBy("Give 1 to %d days.", maxDays)
	}
	at = at.UTC().Truncate(time.Second)
	id, err := keyIdentifier(key)
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               subject,
		NotBefore:             at.Add(-backdate),
		NotAfter:              at.AddDate(0, 0, days),
		SubjectKeyId:          id,
		BasicConstraintsValid: true,
	}, nil
}

// asCA makes the template one of a CA (RFC 5280 §4.2.1.3, §4.2.1.9).
func asCA(template *x509.Certificate, pathLength int) {
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	template.MaxPathLen = pathLength
	template.MaxPathLenZero = pathLength == 0
}

// sign makes the certificate and parses it, as everybody else will.
func sign(template, issuer *x509.Certificate, key crypto.PublicKey, issuerKey crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key, issuerKey)
	if err != nil {
		return nil, signet.Fail(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, signet.Fail(err)
	}
	return cert, nil
}

// newSerial makes a serial number of 20 octets, the most that RFC 5280
// §4.1.2.2 allows, positive and of full length: 158 bits are random.
func newSerial() *big.Int {
	var b [20]byte
	rand.Read(b[:])
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

// keyIdentifier gives 160 bits of the SHA-256 of the key (RFC 7093 §2 method 1).
func keyIdentifier(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, signet.Fail(err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, signet.Fail(err)
	}
	sum := sha256.Sum256(info.Key.RightAlign())
	return sum[:20], nil
}

// selfIssued says whether subject and issuer are the same name.
func selfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

// hasKeyUsage says whether the certificate limits the use of its key at all.
// One without is not limited (RFC 5280 §4.2.1.3).
func hasKeyUsage(c *x509.Certificate) bool {
	for _, e := range c.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 15}) {
			return true
		}
	}
	return false
}
