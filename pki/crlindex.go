package pki

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	// MaxCRLBytes bounds a CRL in DER. A million entries with serial numbers of 16
	// octets and a reason have 53 MB.
	MaxCRLBytes = 64 << 20
	// MaxCRLUpload bounds the same as PEM, with certificates beside it.
	MaxCRLUpload = MaxCRLBytes/3*4 + MaxCRLBytes/48 + 128<<10
	// maxCRLSerial bounds the serial numbers in it; RFC 5280 §4.1.2.2 allows 20
	// octets. The one octet more is a sign.
	maxCRLSerial = 64 + 1
	// maxCRLNumber: "CRL verifiers MUST be able to handle CRLNumber values up to
	// 20 octets" (§5.2.3), and one that is signed may have a sign octet more.
	maxCRLNumber = 20 * 8
)

// A CRL is a complete certificate revocation list (RFC 5280 §5), read to be
// asked: of each entry it keeps the serial number, the time and the reason, and
// nothing of what it was read from. A million entries with serial numbers of 16
// octets take 22 MB, and an answer takes a microsecond. It never changes.
type CRL struct {
	// Issuer is the certificate whose key has signed the CRL.
	Issuer *x509.Certificate
	// Key is the SHA-256 of the SubjectPublicKeyInfo of that key: a serial number
	// means something only together with the key that gave it out.
	Key                    [sha256.Size]byte
	Number                 *big.Int
	ThisUpdate, NextUpdate time.Time
	Entries                int

	name   string // of the issuer, canonical
	tables []crlTable
}

// A crlTable has the entries whose serial numbers have one width: records of
// the serial number's octets, the seconds since 1970 in four, and the reason.
type crlTable struct {
	width   int
	records []byte
}

const crlRecordTail = 4 + 1

// A Revocation is what a CA says of a certificate that it has revoked.
type Revocation struct {
	Time time.Time // to the second, until the year 2106
	// Reason is the CRLReason of RFC 5280 §5.3.1: 1 is keyCompromise; 0 when none
	// is given.
	Reason int
}

// String is the time and, if there is one, the reason.
func (r Revocation) String() string {
	text := r.Time.UTC().Format(time.RFC3339)
	names := [...]string{1: "keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation", "certificateHold", 8: "removeFromCRL", "privilegeWithdrawn", "aACompromise"}
	if r.Reason > 0 && r.Reason < len(names) && names[r.Reason] != "" {
		text += " (" + names[r.Reason] + ")"
	}
	return text
}

// Covers says whether the CRL is the one that tells of certificates which bear
// the issuer's name, next to its key.
func (l *CRL) Covers(rawIssuer []byte) bool { return canonicalName(rawIssuer) == l.name }

// ID names the issuer of the CRL by key and name: 32 hex digits. A later CRL of
// the same issuer has the same.
func (l *CRL) ID() string {
	sum := sha256.Sum256(append(l.Key[:], l.name...))
	return hex.EncodeToString(sum[:16])
}

// Current refuses, with [signet.CRLStale], a CRL outside its time (§6.3.3(a)).
func (l *CRL) Current(at time.Time) error {
	switch {
	case at.Before(l.ThisUpdate.Add(-clockSkew)):
		return signet.Refuse(signet.CRLStale, "The CRL of %s is not valid before %s.", subjectText(l.Issuer), l.ThisUpdate.UTC().Format(time.RFC3339)).
			At("thisUpdate", "before "+at.UTC().Format(time.RFC3339), l.ThisUpdate.UTC().Format(time.RFC3339))
	case at.After(l.NextUpdate):
		return signet.Refuse(signet.CRLStale, "The CRL of %s is out of date since %s.", subjectText(l.Issuer), l.NextUpdate.UTC().Format(time.RFC3339)).
			At("nextUpdate", "after "+at.UTC().Format(time.RFC3339), l.NextUpdate.UTC().Format(time.RFC3339))
	}
	return nil
}

// clockSkew is how far a CA's clock may be ahead of ours in what it has just
// signed.
const clockSkew = 5 * time.Minute

// Revoked says whether a serial number is listed; it is in hex, as in
// [signet.PathCertificate].
func (l *CRL) Revoked(serial string) (Revocation, bool) {
	var octets [maxCRLSerial]byte // DER has a zero first where the next bit is set
	if len(serial)%2 != 0 || len(serial)/2 > maxCRLSerial-1 {
		return Revocation{}, false // a text that no CRL taken here can list
	}
	n, err := hex.Decode(octets[1:], []byte(serial))
	if err != nil || n == 0 {
		return Revocation{}, false
	}
	wanted := octets[1 : n+1]
	if wanted[0] >= 0x80 {
		wanted = octets[:n+1]
	}
	i, ok := slices.BinarySearchFunc(l.tables, len(wanted), func(t crlTable, width int) int { return cmp.Compare(t.width, width) })
	if !ok {
		return Revocation{}, false
	}
	t := l.tables[i]
	at := sort.Search(t.Len(), func(i int) bool { return bytes.Compare(t.serial(i), wanted) >= 0 })
	if at == t.Len() || !bytes.Equal(t.serial(at), wanted) {
		return Revocation{}, false
	}
	tail := t.record(at)[t.width:]
	seconds := int64(tail[0])<<24 | int64(tail[1])<<16 | int64(tail[2])<<8 | int64(tail[3])
	return Revocation{Time: time.Unix(seconds, 0).UTC(), Reason: int(tail[4])}, true
}

func (t crlTable) size() int           { return t.width + crlRecordTail }
func (t crlTable) record(i int) []byte { return t.records[i*t.size() : (i+1)*t.size()] }
func (t crlTable) serial(i int) []byte { return t.record(i)[:t.width] }

// Len, Less and Swap are for sort.
func (t crlTable) Len() int           { return len(t.records) / t.size() }
func (t crlTable) Less(i, j int) bool { return bytes.Compare(t.serial(i), t.serial(j)) < 0 }
func (t crlTable) Swap(i, j int) {
	var kept [maxCRLSerial + crlRecordTail]byte
	n := copy(kept[:], t.record(i))
	copy(t.record(i), t.record(j))
	copy(t.record(j), kept[:n])
}

// ParseCRL reads a CRL in DER and checks that one of the issuers has signed it:
// by its key, in its name, and with the right to (RFC 5280 §6.3.3(b), (f), (g)).
// Only complete CRLs are taken: what is a delta, indirect or a part is refused,
// for it would be misread. Whether the CRL is in its time is not asked here.
//
// It refuses with [signet.CRLMalformed], [signet.CRLUnsupported] or
// [signet.CRLWrongSigner].
func ParseCRL(der []byte, issuers []*x509.Certificate) (*CRL, error) {
	if len(der) > MaxCRLBytes {
		return nil, signet.Refuse(signet.CRLMalformed, "The CRL has %d bytes; at most %d are taken.", len(der), MaxCRLBytes)
	}
	signed, entries, header, err := splitCRL(der)
	if err != nil {
		return nil, signet.Refuse(signet.CRLMalformed, "The CRL cannot be read: %v.", err)
	}
	if what := crlExtensionFault(header); what != "" {
		return nil, signet.Refuse(signet.CRLUnsupported, "The hub does not take this CRL: %s.", what).At("crlExtensions", "a complete CRL with a number", what)
	}
	switch {
	case header.Number.Sign() < 0 || header.Number.BitLen() > maxCRLNumber:
		return nil, signet.Refuse(signet.CRLMalformed, "The number of the CRL is out of bounds.")
	case header.NextUpdate.Before(header.ThisUpdate):
		return nil, signet.Refuse(signet.CRLMalformed, "The CRL is over before it begins.")
	}
	// The signature before the entries: only a CA that is known here has them read.
	issuer, err := crlSigner(header, signed, issuers)
	if err != nil {
		return nil, err
	}
	l := &CRL{
		Issuer: issuer, Key: sha256.Sum256(issuer.RawSubjectPublicKeyInfo), Number: header.Number,
		ThisUpdate: header.ThisUpdate, NextUpdate: header.NextUpdate, name: canonicalName(header.RawIssuer),
	}
	return l, l.index(entries)
}

// splitCRL gives what is signed, the entries, and the rest as crypto/x509 reads
// it: that makes some 300 bytes of each entry, and here there may be a million.
func splitCRL(der []byte) (signed, entries []byte, header *x509.RevocationList, err error) {
	input := cryptobyte.String(der)
	var list, tbs, element, revoked cryptobyte.String
	if !input.ReadASN1(&list, cryptobyte_asn1.SEQUENCE) || !input.Empty() || !list.ReadASN1Element(&tbs, cryptobyte_asn1.SEQUENCE) {
		return nil, nil, nil, errNotDER
	}
	signed = tbs
	var inner cryptobyte.String
	tbs.ReadASN1(&inner, cryptobyte_asn1.SEQUENCE)
	var short cryptobyte.Builder
	short.AddASN1(cryptobyte_asn1.SEQUENCE, func(outer *cryptobyte.Builder) {
		outer.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			var tag cryptobyte_asn1.Tag
			// TBSCertList: of the sequences at its top, the third are the entries,
			// after the algorithm and the issuer (§5.1).
			for sequences := 0; !inner.Empty(); {
				if !inner.ReadAnyASN1Element(&element, &tag) {
					err = errNotDER
					return
				}
				if tag == cryptobyte_asn1.SEQUENCE {
					if sequences++; sequences == 3 {
						element.ReadASN1(&revoked, tag)
						entries = revoked
						continue
					}
				}
				b.AddBytes(element)
			}
		})
		outer.AddBytes(list)
	})
	if err != nil {
		return nil, nil, nil, err
	}
	text, err := short.Bytes()
	if err == nil {
		header, err = x509.ParseRevocationList(text)
	}
	if err == nil && len(header.RevokedCertificateEntries) > 0 { // two lists of entries
		err = errNotDER
	}
	return signed, entries, header, err
}

type derError string

func (e derError) Error() string { return string(e) }

const (
	errNotDER   = derError("it is not DER of a CertificateList")
	errBadEntry = derError("an entry is damaged")
)

// crlExtensionFault says why a CRL is not one that counts here, by what stands
// beside its entries; "" when it is.
func crlExtensionFault(crl *x509.RevocationList) string {
	switch {
	case crl.NextUpdate.IsZero(): // §5.1.2.5 requires it
		return "the CRL does not say until when it holds"
	case crl.Number == nil: // §5.2.3
		return "the CRL has no number"
	}
	for _, e := range crl.Extensions {
		switch {
		case e.Id.Equal(extDeltaCRL):
			return "the CRL is a delta, and only complete ones count"
		case e.Id.Equal(extIssuingDistPoint):
			return "the CRL covers a part of the certificates, and only complete ones count"
		case e.Critical: // §5.2
			return "the CRL has a critical extension that the hub does not understand, " + e.Id.String()
		}
	}
	return ""
}

// crlSigner finds the issuer whose key has signed a CRL in its own name.
func crlSigner(header *x509.RevocationList, signed []byte, issuers []*x509.Certificate) (*x509.Certificate, error) {
	if !signatureTaken[header.SignatureAlgorithm] {
		return nil, signet.Refuse(signet.CRLUnsupported, "The CRL is signed with %s.", header.SignatureAlgorithm).
			At("signatureAlgorithm", "SHA-256 or better", header.SignatureAlgorithm.String())
	}
	name := canonicalName(header.RawIssuer)
	why := "no issuer of that name is known here"
	// Of hostile look-alikes with one name each would cost a signature over 64
	// MiB: half a second.
	const most = 16
	tried := 0
	for _, issuer := range issuers {
		switch {
		case canonicalName(issuer.RawSubject) != name:
		case len(header.AuthorityKeyId) > 0 && len(issuer.SubjectKeyId) > 0 && !bytes.Equal(header.AuthorityKeyId, issuer.SubjectKeyId):
			why = "the issuer of that name that is known here has another key"
		case hasKeyUsage(issuer) && issuer.KeyUsage&x509.KeyUsageCRLSign == 0: // §6.3.3(f)
			why = "the key usage of the issuer does not let it sign CRLs"
		case keyFault(issuer.PublicKey) != "":
			why = "the issuer's key is " + keyFault(issuer.PublicKey)
		case tried == most:
			why = "too many issuers bear that name"
		default:
			tried++
			if issuer.CheckSignature(header.SignatureAlgorithm, signed, header.Signature) == nil {
				return issuer, nil
			}
			why = "the signature does not fit the issuer's key"
		}
	}
	return nil, signet.Refuse(signet.CRLWrongSigner, "Nobody vouches for the CRL of %q: %s.", signet.Clip(header.Issuer.String()), why).
		At("issuer", "a CA whose certificate is known here, and whose key has signed the CRL", header.Issuer.String())
}

// index reads the entries (§5.1.2.6, §5.3), each without an allocation of its own.
func (l *CRL) index(entries []byte) error {
	var tables [maxCRLSerial + 1][]byte
	for rest := cryptobyte.String(entries); !rest.Empty(); l.Entries++ {
		var entry, serial cryptobyte.String
		if !rest.ReadASN1(&entry, cryptobyte_asn1.SEQUENCE) || !entry.ReadASN1(&serial, cryptobyte_asn1.INTEGER) || !minimal(serial) {
			return signet.Refuse(signet.CRLMalformed, "The CRL cannot be read: %v.", errBadEntry)
		}
		if len(serial) > maxCRLSerial {
			return signet.Refuse(signet.CRLMalformed, "The CRL lists a serial number of %d octets.", len(serial))
		}
		at, ok := readTime(&entry)
		if !ok {
			return signet.Refuse(signet.CRLMalformed, "The CRL cannot be read: %v.", errBadEntry)
		}
		reason, unknown, ok := entryExtensions(entry)
		if !ok {
			return signet.Refuse(signet.CRLMalformed, "The CRL cannot be read: %v.", errBadEntry)
		}
		if unknown != nil {
			return signet.Refuse(signet.CRLUnsupported, "An entry of the CRL has an extension that the hub does not understand, %s.", unknown).
				At("crlEntryExtensions", "reasonCode, invalidityDate", unknown.String())
		}
		seconds := uint32(min(max(at.Unix(), 0), 1<<32-1))
		t := append(tables[len(serial)], serial...)
		tables[len(serial)] = append(t, byte(seconds>>24), byte(seconds>>16), byte(seconds>>8), byte(seconds), reason)
	}
	for width, records := range tables {
		if records == nil {
			continue
		}
		t := crlTable{width, slices.Clip(bytes.Clone(records))} // without the room that appending leaves
		tables[width] = nil
		if !sort.IsSorted(t) { // many are
			sort.Sort(t)
		}
		l.tables = append(l.tables, t)
	}
	return nil
}

// minimal says whether the content of an INTEGER is as short as DER wants it
// (X.690 §8.3.2), so that one number has one form.
func minimal(integer []byte) bool {
	switch n := len(integer); {
	case n == 0:
		return false
	case n == 1:
		return true
	}
	return !(integer[0] == 0 && integer[1] < 0x80 || integer[0] == 0xff && integer[1] >= 0x80)
}

// readTime reads a Time (§5.1.2.4).
func readTime(s *cryptobyte.String) (t time.Time, ok bool) {
	if s.PeekASN1Tag(cryptobyte_asn1.UTCTime) {
		return t, s.ReadASN1UTCTime(&t)
	}
	return t, s.ReadASN1GeneralizedTime(&t)
}

// entryExtensions reads what follows serial number and time: the reason, and the
// first extension that must not be passed over (§5.3).
func entryExtensions(s cryptobyte.String) (reason byte, unknown asn1.ObjectIdentifier, ok bool) {
	if s.Empty() {
		return 0, nil, true
	}
	var all, extension, oid, value cryptobyte.String
	if !s.ReadASN1(&all, cryptobyte_asn1.SEQUENCE) || !s.Empty() {
		return 0, nil, false
	}
	for !all.Empty() {
		var critical bool
		if !all.ReadASN1(&extension, cryptobyte_asn1.SEQUENCE) || !extension.ReadASN1(&oid, cryptobyte_asn1.OBJECT_IDENTIFIER) ||
			extension.PeekASN1Tag(cryptobyte_asn1.BOOLEAN) && !extension.ReadASN1Boolean(&critical) ||
			!extension.ReadASN1(&value, cryptobyte_asn1.OCTET_STRING) || !extension.Empty() {
			return 0, nil, false
		}
		switch {
		case bytes.Equal(oid, oidReasonCode):
			var code cryptobyte.String
			if !value.ReadASN1(&code, cryptobyte_asn1.ENUM) || !value.Empty() || len(code) != 1 {
				return 0, nil, false
			}
			reason = code[0]
		case bytes.Equal(oid, oidInvalidityDate):
		case critical || bytes.Equal(oid, oidCertificateIssuer):
			unknown = objectIdentifier(oid)
		}
	}
	return reason, unknown, true
}

// The content octets of extCertificateIssuer, extReasonCode and extInvalidityDate.
var (
	oidCertificateIssuer = []byte{0x55, 0x1d, 29}
	oidReasonCode        = []byte{0x55, 0x1d, 21}
	oidInvalidityDate    = []byte{0x55, 0x1d, 24}
)

// objectIdentifier reads the content octets of an OBJECT IDENTIFIER.
func objectIdentifier(content []byte) asn1.ObjectIdentifier {
	var b cryptobyte.Builder
	b.AddASN1(cryptobyte_asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(content) })
	element, _ := b.Bytes()
	var id asn1.ObjectIdentifier
	if s := cryptobyte.String(element); !s.ReadASN1ObjectIdentifier(&id) {
		return asn1.ObjectIdentifier{0, 0}
	}
	return id
}

// ParseCRLUpload takes an upload of a CRL apart: DER of the CRL alone, or PEM
// with one CRL and up to ten certificates of issuers beside it. It refuses with
// [signet.CRLMalformed] or [signet.UploadPrivateKey].
func ParseCRLUpload(upload []byte) (der []byte, issuers []*x509.Certificate, err error) {
	if len(upload) > 0 && upload[0] == 0x30 { // SEQUENCE; text begins otherwise
		return upload, nil, nil
	}
	if bytes.Contains(upload, []byte("PRIVATE KEY-----")) {
		return nil, nil, signet.Refuse(signet.UploadPrivateKey, "The upload holds a private key.").
			FixBy("Upload the CRL alone, and consider the key exposed: it has left its owner's hands.")
	}
	for rest := upload; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch strings.TrimSpace(block.Type) {
		case "X509 CRL":
			if der != nil {
				return nil, nil, signet.Refuse(signet.CRLMalformed, "The upload holds more than one CRL.").FixBy("Upload each CRL by itself.")
			}
			der = block.Bytes
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, signet.Refuse(signet.CRLMalformed, "A certificate beside the CRL cannot be read.")
			}
			if issuers = append(issuers, cert); len(issuers) > maxPath {
				return nil, nil, signet.Refuse(signet.CRLMalformed, "There are more than %d certificates beside the CRL.", maxPath)
			}
		}
	}
	if der == nil {
		return nil, nil, signet.Refuse(signet.CRLMalformed, "The upload holds no CRL, in DER or PEM.")
	}
	return der, issuers, nil
}
