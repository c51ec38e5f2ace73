package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"slices"
	"time"

	"github.com/signet-iot/signet"
	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// MaxOCSPBytes bounds an OCSP response. One of one certificate, with the
// responder's certificate, has 2 to 4 KiB.
const MaxOCSPBytes = 64 << 10

// maxOCSPResponses bounds the certificates that one response may tell of; we ask
// for one.
const maxOCSPResponses = 32

var (
	oidOCSPBasic = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}
	oidOCSPNonce = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}
	oidSHA1      = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
)

// ocspSignatures are the signatures that are taken of a response; the names of
// algorithms inside crypto/x509 cannot be reached from outside.
var ocspSignatures = []struct {
	oid       asn1.ObjectIdentifier
	algorithm x509.SignatureAlgorithm
}{
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, x509.SHA256WithRSA},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, x509.SHA384WithRSA},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, x509.SHA512WithRSA},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, x509.ECDSAWithSHA256},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, x509.ECDSAWithSHA384},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, x509.ECDSAWithSHA512},
	{asn1.ObjectIdentifier{1, 3, 101, 112}, x509.PureEd25519},
}

// An OCSPRequest asks after one certificate (RFC 6960 §4.1).
type OCSPRequest struct {
	DER   []byte
	Nonce []byte // 32 random octets (RFC 9654 §2.1)

	issuer *x509.Certificate
	id     ocspID
}

// An ocspID is a CertID: which certificate is meant (§4.1.1).
type ocspID struct {
	name, key [sha1.Size]byte // of the issuer
	serial    string          // content octets of the INTEGER
}

// NewOCSPRequest asks whether issuer has revoked the certificate with that serial
// number, in hex as in [signet.PathCertificate]. The hashes are SHA-1, which
// every responder knows (RFC 5019 §2.1.1); nothing is proven by them.
func NewOCSPRequest(issuer *x509.Certificate, serial string) (*OCSPRequest, error) {
	octets, err := hex.DecodeString(serial)
	if err != nil || len(octets) == 0 || len(octets) >= maxCRLSerial {
		return nil, signet.Refuse(signet.OCSPMalformed, "No responder can be asked after the serial number %q.", signet.Clip(serial))
	}
	if octets[0] >= 0x80 {
		octets = append([]byte{0}, octets...)
	}
	q := &OCSPRequest{Nonce: make([]byte, 32), issuer: issuer}
	rand.Read(q.Nonce)
	q.id = ocspID{sha1.Sum(issuer.RawSubject), sha1.Sum(keyOctets(issuer)), string(octets)}

	var b cryptobyte.Builder
	sequence := func(b *cryptobyte.Builder, f func(b *cryptobyte.Builder)) { b.AddASN1(cryptobyte_asn1.SEQUENCE, f) }
	sequence(&b, func(b *cryptobyte.Builder) { // OCSPRequest
		sequence(b, func(b *cryptobyte.Builder) { // TBSRequest
			sequence(b, func(b *cryptobyte.Builder) { // requestList
				sequence(b, func(b *cryptobyte.Builder) { // Request
					sequence(b, func(b *cryptobyte.Builder) { // CertID
						sequence(b, func(b *cryptobyte.Builder) {
							b.AddASN1ObjectIdentifier(oidSHA1)
							b.AddASN1NULL()
						})
						b.AddASN1OctetString(q.id.name[:])
						b.AddASN1OctetString(q.id.key[:])
						b.AddASN1(cryptobyte_asn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(octets) })
					})
				})
			})
			b.AddASN1(cryptobyte_asn1.Tag(2).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { // requestExtensions
				sequence(b, func(b *cryptobyte.Builder) {
					sequence(b, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(oidOCSPNonce)
						b.AddASN1(cryptobyte_asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(q.Nonce) })
					})
				})
			})
		})
	})
	q.DER, err = b.Bytes()
	return q, err
}

// keyOctets gives the key itself, without the octet of unused bits: what CertID
// and ResponderID hash.
func keyOctets(c *x509.Certificate) []byte {
	info := cryptobyte.String(c.RawSubjectPublicKeyInfo)
	var key cryptobyte.String
	if !info.ReadASN1(&info, cryptobyte_asn1.SEQUENCE) || !info.SkipASN1(cryptobyte_asn1.SEQUENCE) ||
		!info.ReadASN1(&key, cryptobyte_asn1.BIT_STRING) || len(key) == 0 {
		return nil
	}
	return key[1:]
}

// An OCSPAnswer is what an OCSP response says of the certificate that was asked
// after.
type OCSPAnswer struct {
	Status                 signet.OCSPStatus
	Revocation             Revocation // when revoked
	ThisUpdate, NextUpdate time.Time  // NextUpdate is zero when the responder sets none
	Nonced                 bool       // the nonce came back
}

// Judge reads a response: it has to be signed, at that time, by the issuer, or by
// a responder whose certificate the issuer's very key has signed for that purpose
// (RFC 6960 §4.2.2.2), and tell of that issuer's certificate. A nonce that came
// back must be the one sent (RFC 9654 §2); where it is required it must come.
//
// It refuses with an ocsp.* code.
func (q *OCSPRequest) Judge(response []byte, at time.Time, nonceRequired bool) (OCSPAnswer, error) {
	r, err := parseOCSP(response)
	if err != nil {
		return OCSPAnswer{}, err
	}
	if err := q.signed(r, at); err != nil {
		return OCSPAnswer{}, err
	}
	var a OCSPAnswer
	if r.nonce != nil {
		if !bytes.Equal(r.nonce, q.Nonce) {
			return a, signet.Refuse(signet.OCSPNonce, "The nonce of the OCSP response is not the one that was sent.")
		}
		a.Nonced = true
	} else if nonceRequired {
		return a, signet.Refuse(signet.OCSPNonce, "The OCSP response has no nonce, and one is required.")
	}
	i := slices.IndexFunc(r.singles, func(s ocspSingle) bool { return s.id == q.id })
	if i < 0 {
		return a, signet.Refuse(signet.OCSPMalformed, "The OCSP response does not tell of the certificate that was asked after.")
	}
	s := r.singles[i]
	a.Status, a.Revocation, a.ThisUpdate, a.NextUpdate = s.status, s.revocation, s.thisUpdate, s.nextUpdate
	switch { // §4.2.2.1
	case s.thisUpdate.After(at.Add(clockSkew)):
		return a, signet.Refuse(signet.OCSPStale, "The OCSP response is not valid before %s.", s.thisUpdate.UTC().Format(time.RFC3339))
	case !s.nextUpdate.IsZero() && s.nextUpdate.Before(at):
		return a, signet.Refuse(signet.OCSPStale, "The OCSP response is out of date since %s.", s.nextUpdate.UTC().Format(time.RFC3339))
	case s.nextUpdate.IsZero() && s.thisUpdate.Before(at.Add(-maxOCSPAge)):
		// Newer information is there all the time (§2.4), so old one is a replay.
		return a, signet.Refuse(signet.OCSPStale, "The OCSP response is of %s and says nothing of its end.", s.thisUpdate.UTC().Format(time.RFC3339))
	}
	return a, nil
}

// maxOCSPAge is how old a response may be that does not say until when it holds.
const maxOCSPAge = time.Hour

// signed checks who has signed a response.
func (q *OCSPRequest) signed(r *ocspResponse, at time.Time) error {
	algorithm, taken := x509.UnknownSignatureAlgorithm, false
	for _, s := range ocspSignatures {
		if s.oid.Equal(r.algorithm) {
			algorithm, taken = s.algorithm, true
		}
	}
	if !taken {
		return signet.Refuse(signet.OCSPWrongSigner, "The OCSP response is signed with %s, which is not taken.", r.algorithm).
			At("signatureAlgorithm", "RSA (PKCS #1), ECDSA with SHA-256 or better, Ed25519", r.algorithm.String())
	}
	signers := []*x509.Certificate{q.issuer}
	why := "neither the issuer nor a responder of its has signed it"
	// The responder's certificate comes first, if any comes; the rest is a chain
	// that is not needed.
	for _, der := range r.certificates[:min(len(r.certificates), 2)] {
		responder, err := x509.ParseCertificate(der)
		switch {
		case err != nil || bytes.Equal(responder.RawSubjectPublicKeyInfo, q.issuer.RawSubjectPublicKeyInfo):
		case !slices.Contains(responder.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
			why = "the responder's certificate is not one for OCSPSigning"
		case hasKeyUsage(responder) && responder.KeyUsage&x509.KeyUsageDigitalSignature == 0:
			why = "the key usage of the responder does not let it sign"
		case at.Before(responder.NotBefore) || at.After(responder.NotAfter):
			why = "the responder's certificate is not valid now"
		case keyFault(responder.PublicKey) != "" || !signatureTaken[responder.SignatureAlgorithm]:
			why = "the responder's certificate is too weak"
		case !bytes.Equal(responder.RawIssuer, q.issuer.RawSubject) ||
			q.issuer.CheckSignature(responder.SignatureAlgorithm, responder.RawTBSCertificate, responder.Signature) != nil:
			why = "the responder's certificate is not of the issuer"
		default:
			signers = append(signers, responder)
		}
	}
	for _, signer := range signers {
		if r.namedBy(signer) && signer.CheckSignature(algorithm, r.signed, r.signature) == nil {
			return nil
		}
	}
	return signet.Refuse(signet.OCSPWrongSigner, "Nobody vouches for the OCSP response: %s.", why).
		At("signature", "of "+subjectText(q.issuer)+", or of a responder that it has appointed", why)
}

// An ocspResponse is a BasicOCSPResponse, taken apart and not believed.
type ocspResponse struct {
	signed       []byte // ResponseData
	responder    []byte // content of the ResponderID
	byKey        bool
	singles      []ocspSingle
	nonce        []byte // nil when there is none
	algorithm    asn1.ObjectIdentifier
	signature    []byte
	certificates [][]byte
}

type ocspSingle struct {
	id                     ocspID
	status                 signet.OCSPStatus
	revocation             Revocation
	thisUpdate, nextUpdate time.Time
}

// namedBy says whether the ResponderID names the owner of a certificate.
func (r *ocspResponse) namedBy(c *x509.Certificate) bool {
	if r.byKey {
		sum := sha1.Sum(keyOctets(c))
		return bytes.Equal(r.responder, sum[:])
	}
	return bytes.Equal(r.responder, c.RawSubject)
}

var ocspErrors = map[byte]string{1: "the request is malformed", 2: "an internal error", 3: "try later", 5: "the request must be signed", 6: "it is not authorized to answer"}

// parseOCSP reads an OCSPResponse (§4.2.1).
func parseOCSP(der []byte) (*ocspResponse, error) {
	damaged := signet.Refuse(signet.OCSPMalformed, "The answer is not an OCSP response.")
	const context0, context1, context2 = cryptobyte_asn1.Tag(0x80), cryptobyte_asn1.Tag(0x81), cryptobyte_asn1.Tag(0x82)
	if len(der) > MaxOCSPBytes {
		return nil, damaged
	}
	input := cryptobyte.String(der)
	var outer, status, wrapped, basic, tbs, element cryptobyte.String
	var kind asn1.ObjectIdentifier
	if !input.ReadASN1(&outer, cryptobyte_asn1.SEQUENCE) || !input.Empty() || !outer.ReadASN1(&status, cryptobyte_asn1.ENUM) || len(status) != 1 {
		return nil, damaged
	}
	if status[0] != 0 {
		text := ocspErrors[status[0]]
		if text == "" {
			text = "an unknown error"
		}
		return nil, signet.Refuse(signet.OCSPMalformed, "The OCSP responder answers: %s.", text)
	}
	if !outer.ReadASN1(&wrapped, context0.Constructed()) || !outer.Empty() || !wrapped.ReadASN1(&outer, cryptobyte_asn1.SEQUENCE) || !wrapped.Empty() ||
		!outer.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidOCSPBasic) ||
		!outer.ReadASN1(&wrapped, cryptobyte_asn1.OCTET_STRING) || !outer.Empty() ||
		!wrapped.ReadASN1(&basic, cryptobyte_asn1.SEQUENCE) || !wrapped.Empty() ||
		!basic.ReadASN1Element(&element, cryptobyte_asn1.SEQUENCE) {
		return nil, damaged
	}
	r := &ocspResponse{signed: element}
	var algorithm, certificates, certificate cryptobyte.String
	var hasCertificates bool
	if !basic.ReadASN1(&algorithm, cryptobyte_asn1.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&r.algorithm) ||
		!basic.ReadASN1BitStringAsBytes(&r.signature) ||
		!basic.ReadOptionalASN1(&certificates, &hasCertificates, context0.Constructed()) || !basic.Empty() {
		return nil, damaged
	}
	if hasCertificates {
		if !certificates.ReadASN1(&wrapped, cryptobyte_asn1.SEQUENCE) || !certificates.Empty() {
			return nil, damaged
		}
		for !wrapped.Empty() {
			if !wrapped.ReadASN1Element(&certificate, cryptobyte_asn1.SEQUENCE) {
				return nil, damaged
			}
			r.certificates = append(r.certificates, certificate)
		}
	}

	// ResponseData
	var produced time.Time
	var responder, responses, extensions cryptobyte.String
	var tag cryptobyte_asn1.Tag
	var hasExtensions bool
	if !element.ReadASN1(&tbs, cryptobyte_asn1.SEQUENCE) || !tbs.SkipOptionalASN1(context0.Constructed()) ||
		!tbs.ReadAnyASN1(&responder, &tag) {
		return nil, damaged
	}
	switch tag {
	case context1.Constructed():
		r.responder = responder
	case context2.Constructed():
		var key cryptobyte.String
		if !responder.ReadASN1(&key, cryptobyte_asn1.OCTET_STRING) || !responder.Empty() {
			return nil, damaged
		}
		r.responder, r.byKey = key, true
	default:
		return nil, damaged
	}
	if !tbs.ReadASN1GeneralizedTime(&produced) || !tbs.ReadASN1(&responses, cryptobyte_asn1.SEQUENCE) ||
		!tbs.ReadOptionalASN1(&extensions, &hasExtensions, context1.Constructed()) || !tbs.Empty() {
		return nil, damaged
	}
	for !responses.Empty() {
		s, ok := readSingle(&responses)
		if !ok || len(r.singles) == maxOCSPResponses {
			return nil, damaged
		}
		r.singles = append(r.singles, s)
	}
	if hasExtensions {
		if !eachExtension(extensions, func(id asn1.ObjectIdentifier, critical bool, value cryptobyte.String) bool {
			if id.Equal(oidOCSPNonce) {
				var nonce cryptobyte.String
				// Some echo the octets without the OCTET STRING around them.
				if inner := value; inner.ReadASN1(&nonce, cryptobyte_asn1.OCTET_STRING) && inner.Empty() {
					value = nonce
				}
				r.nonce = append([]byte{}, value...)
				return true
			}
			return !critical
		}) {
			return nil, damaged
		}
	}
	return r, nil
}

// readSingle reads a SingleResponse.
func readSingle(responses *cryptobyte.String) (s ocspSingle, ok bool) {
	const context0, context1, context2 = cryptobyte_asn1.Tag(0x80), cryptobyte_asn1.Tag(0x81), cryptobyte_asn1.Tag(0x82)
	var single, id, algorithm, name, key, serial, status, next, extensions cryptobyte.String
	var hash asn1.ObjectIdentifier
	var tag cryptobyte_asn1.Tag
	var hasNext, hasExtensions bool
	if !responses.ReadASN1(&single, cryptobyte_asn1.SEQUENCE) || !single.ReadASN1(&id, cryptobyte_asn1.SEQUENCE) ||
		!id.ReadASN1(&algorithm, cryptobyte_asn1.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&hash) ||
		!id.ReadASN1(&name, cryptobyte_asn1.OCTET_STRING) || !id.ReadASN1(&key, cryptobyte_asn1.OCTET_STRING) ||
		!id.ReadASN1(&serial, cryptobyte_asn1.INTEGER) || !id.Empty() || !minimal(serial) {
		return s, false
	}
	if hash.Equal(oidSHA1) && copy(s.id.name[:], name) == len(name) && copy(s.id.key[:], key) == len(key) && len(name)+len(key) == 2*sha1.Size {
		s.id.serial = string(serial) // one by another hash, or of no length, answers nothing of ours
	}
	if !single.ReadAnyASN1(&status, &tag) {
		return s, false
	}
	switch tag {
	case context0:
		s.status = signet.OCSPGood
	case context1.Constructed():
		s.status = signet.OCSPRevoked
		var at time.Time
		var reason, code cryptobyte.String
		var hasReason bool
		if !status.ReadASN1GeneralizedTime(&at) || !status.ReadOptionalASN1(&reason, &hasReason, context0.Constructed()) || !status.Empty() {
			return s, false
		}
		if hasReason {
			if !reason.ReadASN1(&code, cryptobyte_asn1.ENUM) || !reason.Empty() || len(code) != 1 {
				return s, false
			}
			s.revocation.Reason = int(code[0])
		}
		s.revocation.Time = at
	case context2:
		s.status = signet.OCSPUnknown
	default:
		return s, false
	}
	if !single.ReadASN1GeneralizedTime(&s.thisUpdate) || !single.ReadOptionalASN1(&next, &hasNext, context0.Constructed()) ||
		hasNext && (!next.ReadASN1GeneralizedTime(&s.nextUpdate) || !next.Empty()) ||
		!single.ReadOptionalASN1(&extensions, &hasExtensions, context1.Constructed()) || !single.Empty() {
		return s, false
	}
	return s, !hasExtensions || eachExtension(extensions, func(_ asn1.ObjectIdentifier, critical bool, _ cryptobyte.String) bool { return !critical })
}

// eachExtension reads Extensions, until f says no.
func eachExtension(s cryptobyte.String, f func(id asn1.ObjectIdentifier, critical bool, value cryptobyte.String) bool) bool {
	var all, extension, value cryptobyte.String
	if !s.ReadASN1(&all, cryptobyte_asn1.SEQUENCE) || !s.Empty() {
		return false
	}
	for !all.Empty() {
		var id asn1.ObjectIdentifier
		var critical bool
		if !all.ReadASN1(&extension, cryptobyte_asn1.SEQUENCE) || !extension.ReadASN1ObjectIdentifier(&id) ||
			extension.PeekASN1Tag(cryptobyte_asn1.BOOLEAN) && !extension.ReadASN1Boolean(&critical) ||
			!extension.ReadASN1(&value, cryptobyte_asn1.OCTET_STRING) || !extension.Empty() || !f(id, critical, value) {
			return false
		}
	}
	return true
}
