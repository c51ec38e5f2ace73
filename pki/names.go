package pki

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/signet-iot/signet"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// canonicalName gives a text that is equal for two distinguished names exactly
// if RFC 5280 §7.1 calls them the same: without regard to the case, the blanks
// and the string type of attribute values. Unicode is not normalised: two
// spellings of one character differ, which at worst refuses.
//
// What is no DER name stands for itself.
func canonicalName(der []byte) string {
	var rdns, rdn, attribute, value cryptobyte.String
	input := cryptobyte.String(der)
	if !input.ReadASN1(&rdns, asn1.SEQUENCE) || !input.Empty() {
		return string(der)
	}
	canonical := make([]byte, 0, len(der)+16)
	for !rdns.Empty() {
		if !rdns.ReadASN1(&rdn, asn1.SET) {
			return string(der)
		}
		var attributes []string
		for !rdn.Empty() {
			var oid cryptobyte.String
			var tag asn1.Tag
			if !rdn.ReadASN1(&attribute, asn1.SEQUENCE) || !attribute.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) ||
				!attribute.ReadAnyASN1(&value, &tag) || !attribute.Empty() {
				return string(der)
			}
			text := string(value)
			switch tag {
			case asn1.UTF8String, asn1.PrintableString, asn1.IA5String:
				if utf8.ValidString(text) {
					tag, text = asn1.UTF8String, strings.ToLower(strings.Join(strings.Fields(text), " "))
				}
			}
			attributes = append(attributes, framed(string(oid))+string(rune(tag))+framed(text))
		}
		slices.Sort(attributes) // DER sorts a set by encodings, which may just have changed
		canonical = append(canonical, framed(strings.Join(attributes, ""))...)
	}
	return string(canonical)
}

// framed puts the length of a text before it, so that no two lists of texts
// become one.
func framed(text string) string { return strconv.Itoa(len(text)) + ":" + text }

// CommonName gives the common name of a device's certificate. There has to be
// exactly one: with several, who the device is would hang on which one software
// happens to look at. It refuses with [signet.IdentityCNMismatch].
func CommonName(leaf *x509.Certificate) (string, error) {
	names := commonNames(leaf)
	if len(names) != 1 {
		return "", signet.Refuse(signet.IdentityCNMismatch, "The subject of the device's certificate has %d common names; it must have one, the device ID.", len(names)).
			At("subject CN", "exactly one", fmt.Sprintf("%q", names)).Of(Reference(leaf, 0))
	}
	return names[0], nil
}

// hubURN begins, in the subjectAltName of a certificate that was issued for one hub,
// the URI that names the hub: urn:signet:hub:HOST.
const hubURN = "signet:hub:"

// CheckHub refuses, with [signet.CertOutOfScope], a certificate that was issued for
// another hub than the one with that host name. One CA may issue for many hubs,
// and a device of one is no device of the next that happens to have its ID.
func CheckHub(leaf *x509.Certificate, host string) error {
	for _, uri := range leaf.URIs {
		if of, ok := strings.CutPrefix(uri.Opaque, hubURN); ok && strings.EqualFold(uri.Scheme, "urn") && of != signet.HostOnly(host) {
			return signet.Refuse(signet.CertOutOfScope, "The certificate was issued for the hub %q.", signet.Clip(of)).
				At("subjectAltName", "urn:"+hubURN+signet.HostOnly(host), uri.String()).Of(Reference(leaf, 0)).
				FixBy("Connect to the hub that the device was assigned to, or register again.")
		}
	}
	return nil
}

// CheckCommonName refuses, with [signet.IdentityCNMismatch], a device's
// certificate whose common name is not name, byte for byte: neither case nor
// blanks are forgiven, as device IDs that differ in them are different devices.
func CheckCommonName(leaf *x509.Certificate, name string) error {
	cn, err := CommonName(leaf)
	if err != nil {
		return err
	}
	if cn == name {
		return nil
	}
	e := signet.Refuse(signet.IdentityCNMismatch, "The device says it is %q, and its certificate is for %q.", signet.Clip(name), signet.Clip(cn)).
		At("subject CN", name, cn).Of(Reference(leaf, 0))
	switch {
	case strings.EqualFold(cn, name):
		e.Message += " They differ in upper and lower case, which counts."
	case strings.TrimSpace(cn) == strings.TrimSpace(name):
		e.Message += " They differ in blanks at an end, which count."
	}
	return e
}
