package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxUpload bounds an uploaded file, decoded: ten of the largest CA
// certificates seen, with the text that openssl puts before each.
const maxUpload = 64 << 10

// ParseUpload reads the certificate of an upload in each of the forms that the
// clients of Azure send: PEM text, base64 of a PEM file, and base64 of DER. Of
// several certificates it takes the first. Text around the PEM blocks does not
// matter; a private key anywhere does.
//
// It refuses with [signet.UploadPrivateKey], [signet.UploadMalformed] or, beyond
// 64 KiB, [signet.LimitRequestSize]. No error holds anything of a private key.
func ParseUpload(text string) (*x509.Certificate, error) {
	if base64.StdEncoding.DecodedLen(len(text)) > maxUpload+maxUpload/16 { // base64 may be broken into lines
		return nil, uploadTooLarge()
	}
	file := trim([]byte(text))
	if !isPEM(file) {
		if holdsPrivateKey(file) {
			return nil, uploadOfPrivateKey()
		}
		decoded, err := decodeBase64(file)
		if err != nil {
			return nil, malformedUpload("it seems to be " + describe(file))
		}
		if file = decoded; isPEM(file) { // DER may end in a byte that looks like a blank
			file = trim(file)
		}
	}
	if len(file) > maxUpload {
		return nil, uploadTooLarge()
	}
	if holdsPrivateKey(file) {
		return nil, uploadOfPrivateKey()
	}
	der := file
	if isPEM(file) {
		der = nil
		for block, rest := pem.Decode(file); block != nil && der == nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" || block.Type == "X509 CERTIFICATE" { // RFC 7468 §5.1
				der = block.Bytes
			}
		}
		if der == nil {
			return nil, malformedUpload("it seems to be " + describe(file))
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		if what := describeDER(der); what != "" {
			return nil, malformedUpload("it seems to be " + what)
		}
		if !bytes.HasPrefix(der, []byte{0x30}) {
			return nil, malformedUpload("it seems to be " + describe(der))
		}
		return nil, malformedUpload(signet.Clip(strings.TrimPrefix(err.Error(), "x509: ")))
	}
	return cert, nil
}

func malformedUpload(why string) *signet.Error {
	return signet.Refuse(signet.UploadMalformed, "The upload is not an X.509 certificate that can be read: %s.", why)
}

func uploadOfPrivateKey() *signet.Error {
	return signet.Refuse(signet.UploadPrivateKey, "The upload holds a private key. Nothing of it was kept.")
}

func uploadTooLarge() *signet.Error {
	return signet.Refuse(signet.LimitRequestSize, "The upload is larger than a certificate can be.").
		At("certificate", "at most 64 KiB", "more").FixBy("Upload the CA's certificate alone.")
}

// CheckCA says whether a certificate may be registered as a CA: a certificate
// of version 3 that says CA:TRUE, whose key usage, when it has one, allows it to
// sign certificates, with a key and a signature that no stranger can forge, in
// their one form, and not past its end at the time. One that is not valid yet may
// be registered ahead of its time; until then its devices are refused.
//
// The signature of a self-issued certificate is not looked at: it proves
// nothing, and old roots carry SHA-1.
//
// It refuses with [signet.UploadMalformed], [signet.UploadNotACA],
// [signet.UploadExpired], [signet.CertWeakKey], [signet.CertWeakSignature] or
// [signet.CertUnknownCritical].
func CheckCA(c *x509.Certificate, at time.Time) error {
	notACA := func(field, expected, actual, why string) error {
		return signet.Refuse(signet.UploadNotACA, "%s is not the certificate of a CA: %s.", subjectText(c), why).
			Of(Reference(c, NotPresented)).At(field, expected, actual)
	}
	switch {
	case Loose(c):
		return malformedUpload("its key or its signature is not a whole number of octets, or is followed by what does not belong to it").Of(Reference(c, NotPresented))
	case c.Version != 3:
		return notACA("version", "3", strconv.Itoa(c.Version), "certificates before version 3 cannot say what they are for")
	case !c.BasicConstraintsValid:
		return notACA("basicConstraints", "CA:TRUE", "absent", "it has no basicConstraints")
	case !c.IsCA:
		return notACA("basicConstraints", "CA:TRUE", "CA:FALSE", "its basicConstraints say CA:FALSE, as those of a device do")
	case hasKeyUsage(c) && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return notACA("keyUsage", "keyCertSign", keyUsageText(c.KeyUsage), "its key usage does not let it sign certificates")
	case len(c.Subject.Names) == 0:
		return notACA("subject", "a distinguished name", "empty", "it has no name for its certificates to refer to (RFC 5280 §4.1.2.6)")
	case at.After(c.NotAfter):
		return signet.Refuse(signet.UploadExpired, "%s expired on %s.", subjectText(c), c.NotAfter.UTC().Format(time.RFC1123)).
			Of(Reference(c, NotPresented)).At("notAfter", "after "+at.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
	case len(c.UnhandledCriticalExtensions) > 0:
		return signet.Refuse(signet.CertUnknownCritical, "%s has a critical extension that the hub does not understand: %s.", subjectText(c), c.UnhandledCriticalExtensions[0]).
			Of(Reference(c, NotPresented)).At("extensions", "known critical extensions", c.UnhandledCriticalExtensions[0].String())
	}
	if err := checkKey(c.PublicKey); err != nil {
		return signet.AsError(err).Of(Reference(c, NotPresented))
	}
	if !selfIssued(c) && !signatureTaken[c.SignatureAlgorithm] {
		return signet.Refuse(signet.CertWeakSignature, "%s is signed with %s.", subjectText(c), c.SignatureAlgorithm).
			Of(Reference(c, NotPresented)).At("signatureAlgorithm", "SHA-256 or better", c.SignatureAlgorithm.String())
	}
	return nil
}

// subjectText names a certificate in a sentence; what would not show as itself is
// quoted.
func subjectText(c *x509.Certificate) string {
	switch s := signet.Clip(c.Subject.String()); {
	case s == "":
		return "The certificate without a subject"
	case !printable(s):
		return strconv.Quote(s)
	default:
		return s
	}
}

// trim takes white space off, and the byte order mark that Windows editors add.
func trim(file []byte) []byte {
	return bytes.TrimSpace(bytes.TrimPrefix(file, []byte("\ufeff")))
}

func isPEM(file []byte) bool { return bytes.Contains(file, []byte("-----BEGIN ")) }

// decodeBase64 takes base64 as tools write it: broken into lines or not, padded
// or not.
func decodeBase64(text []byte) ([]byte, error) {
	compact := strings.TrimRight(strings.Join(strings.Fields(string(text)), ""), "=")
	if compact == "" {
		return nil, base64.CorruptInputError(0)
	}
	return base64.RawStdEncoding.DecodeString(compact)
}

// privateKeyText matches the armour of every private key format in text: PEM
// (RFC 7468 §10, §11, and the older forms), OpenSSH, PGP, SSH2 and PuTTY. It
// need not be whole: a damaged key is a key that has left its owner.
var privateKeyText = regexp.MustCompile(`(?i)-BEGIN [A-Z0-9 ]*PRIVATE KEY|-- BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File-`)

// holdsPrivateKey looks for a private key in a file: by its armour, and by the
// structure of each block of DER whatever its label.
func holdsPrivateKey(file []byte) bool {
	if privateKeyText.Match(file) || privateKeyDER(file) {
		return true
	}
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		if privateKeyDER(block.Bytes) {
			return true
		}
	}
	return false
}

// Of PKCS#12 (RFC 7292 §4) the beginning is enough to know it by, and its
// encoding may be BER: SEQUENCE { INTEGER 3, SEQUENCE { OID pkcs-7 …
var pfxVersion = []byte{2, 1, 3, 0x30}

// privateKeyDER says whether one of the structures in der is a private key:
// PKCS#8, plain or encrypted, PKCS#1, SEC 1, DSA as openssl writes it, or
// PKCS#12. It goes by the outline, so that keys of unknown algorithms are found.
func privateKeyDER(der []byte) bool {
	if i := bytes.Index(der[:min(len(der), 16)], pfxVersion); i > 0 && der[0] == 0x30 {
		return true
	}
	for rest := cryptobyte.String(der); ; {
		var seq, first cryptobyte.String
		if !rest.ReadASN1(&seq, cryptobyte_asn1.SEQUENCE) {
			return false
		}
		var tags []cryptobyte_asn1.Tag // of the elements, as many as tell
		body := seq
		for len(tags) < 6 && !body.Empty() {
			var element cryptobyte.String
			var tag cryptobyte_asn1.Tag
			if !body.ReadAnyASN1(&element, &tag) {
				break
			}
			if len(tags) == 0 {
				first = element
			}
			tags = append(tags, tag)
		}
		const i, o, s = cryptobyte_asn1.INTEGER, cryptobyte_asn1.OCTET_STRING, cryptobyte_asn1.SEQUENCE
		switch {
		case outline(tags, i, s, o): // PrivateKeyInfo (RFC 5958 §2)
			return true
		case len(tags) == 2 && outline(tags, s, o) && startsWithOID(first): // EncryptedPrivateKeyInfo (RFC 5958 §3)
			return true
		case outline(tags, i, o): // ECPrivateKey (RFC 5915 §3)
			return true
		case outline(tags, i, i, i, i, i, i): // RSAPrivateKey (RFC 8017 appendix A.1.2), DSA
			return true
		}
	}
}

func outline(tags []cryptobyte_asn1.Tag, want ...cryptobyte_asn1.Tag) bool {
	if len(tags) < len(want) {
		return false
	}
	for i, tag := range want {
		if tags[i] != tag {
			return false
		}
	}
	return true
}

func startsWithOID(s cryptobyte.String) bool {
	return s.PeekASN1Tag(cryptobyte_asn1.OBJECT_IDENTIFIER)
}

// describe says what a file that is no certificate seems to be.
func describe(file []byte) string {
	text := strings.TrimSpace(string(file[:min(len(file), 256)]))
	switch {
	case text == "":
		return "empty"
	case strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff"):
		return "text in UTF-16; save it as UTF-8"
	case isPEM(file):
		block, _ := pem.Decode(file)
		if block == nil {
			return "a damaged PEM file"
		}
		if privateKeyText.Match(file) {
			return "a private key"
		}
		switch block.Type {
		case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
			return "a certificate signing request"
		case "PUBLIC KEY", "RSA PUBLIC KEY":
			return "a public key"
		case "X509 CRL":
			return "a certificate revocation list"
		case "PKCS7", "CMS":
			return "a PKCS#7 bundle; extract the certificate: openssl pkcs7 -print_certs"
		case "TRUSTED CERTIFICATE":
			return "a certificate in OpenSSL's own form; convert it: openssl x509 -in OLD -out NEW"
		case "CERTIFICATE":
			return "a certificate"
		}
		return "PEM of another kind, " + signet.Clip(block.Type)
	case text[0] == '<':
		return "HTML or XML"
	case text[0] == '{' || text[0] == '[':
		return "JSON"
	case strings.HasPrefix(text, "ssh-") || strings.HasPrefix(text, "ecdsa-sha2-"):
		return "a public key of SSH"
	}
	if what := describeDER(file); what != "" {
		return what
	}
	if !utf8.Valid(file) {
		return "data of another kind"
	}
	return "text without a certificate"
}

// describeDER says what a structure seems to be, "" when it cannot tell.
func describeDER(der []byte) string {
	if _, err := x509.ParseCertificateRequest(der); err == nil {
		return "a certificate signing request"
	}
	if _, err := x509.ParsePKIXPublicKey(der); err == nil {
		return "a public key"
	}
	if _, err := x509.ParsePKCS1PublicKey(der); err == nil {
		return "a public key"
	}
	if _, err := x509.ParseRevocationList(der); err == nil {
		return "a certificate revocation list"
	}
	var bundle struct {
		ContentType asn1.ObjectIdentifier
		Content     asn1.RawValue
	}
	if _, err := asn1.Unmarshal(der, &bundle); err == nil && bundle.ContentType.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}) {
		return "a PKCS#7 bundle; extract the certificate: openssl pkcs7 -inform DER -print_certs"
	}
	if bytes.HasPrefix(der, []byte{0x30}) {
		rest := cryptobyte.String(der)
		switch whole := rest.SkipASN1(cryptobyte_asn1.SEQUENCE); {
		case !whole:
			return "cut off: its outer structure is not complete"
		case !rest.Empty():
			return "a certificate with something after it"
		}
	}
	return ""
}
