package pki

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// pathFault holds a path that reaches an anchor, leaf first, to every rule that
// needs no signature, and gives the first one broken, nearest to the leaf.
func pathFault(path []*link, r *PathRequest) *signet.Error {
	if err := leafFault(path[0].Certificate, r); err != nil {
		return err
	}
	intermediates := 0 // below c, not self-issued
	for i, c := range path[1:] {
		isAnchor := i == len(path)-2
		if err := certFault(c.Certificate, c.index, isAnchor, r); err != nil {
			return err
		}
		if err := issuerFault(c, isAnchor, intermediates); err != nil {
			return err
		}
		if !isAnchor && !c.selfIssued() {
			intermediates++
		}
	}
	if r.MaxDepth >= 0 && intermediates > r.MaxDepth {
		return signet.Refuse(signet.ChainTooLong, "The path has %d intermediates, and at most %d are allowed here.", intermediates, r.MaxDepth).
			At("path", fmt.Sprintf("at most %d intermediates", r.MaxDepth), fmt.Sprint(intermediates)).Of(Reference(path[0].Certificate, 0))
	}
	return nil
}

// leafFault holds the certificate that is judged to the rules for it.
func leafFault(c *x509.Certificate, r *PathRequest) *signet.Error {
	if err := certFault(c, 0, false, r); err != nil {
		return err
	}
	// RFC 8446 §4.4.2.2: the handshake that proves possession is a signature.
	if r.Usage == UsageClient && hasKeyUsage(c) && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return signet.Refuse(signet.CertKeyUsage, "The key usage of %s does not let it sign, and a TLS client proves who it is by signing.", subjectText(c)).
			At("keyUsage", "digitalSignature", keyUsageText(c.KeyUsage)).Of(Reference(c, 0))
	}
	return nil
}

// certFault holds a certificate to the rules for all.
func certFault(c *x509.Certificate, index int, isAnchor bool, r *PathRequest) *signet.Error {
	switch {
	case r.Time.After(c.NotAfter):
		code := signet.CertExpired
		if isAnchor {
			code = signet.AnchorExpired
		}
		until, at := c.NotAfter.UTC().Format(time.RFC3339), r.Time.UTC().Format(time.RFC3339)
		return signet.Refuse(code, "%s expired at %s; it is %s.", subjectText(c), until, at).
			At("notAfter", "not before "+at, until).Of(Reference(c, index))
	case r.Time.Before(c.NotBefore):
		from, at := c.NotBefore.UTC().Format(time.RFC3339), r.Time.UTC().Format(time.RFC3339)
		return signet.Refuse(signet.CertNotYetValid, "%s is valid only from %s; it is %s.", subjectText(c), from, at).
			At("notBefore", "not after "+at, from).Of(Reference(c, index))
	case len(c.UnhandledCriticalExtensions) > 0:
		oid := c.UnhandledCriticalExtensions[0]
		e := signet.Refuse(signet.CertUnknownCritical, "%s has a critical extension that the hub does not understand: %s.", subjectText(c), oid)
		if oid.Equal(extNameConstraints) {
			e.Message = fmt.Sprintf("%s has critical name constraints of a form that the hub does not compare.", subjectText(c))
			e.FixBy("Constrain DNS names, e-mail addresses, IP addresses or URIs, which the hub compares.")
		}
		return e.At("extensions", "only known ones critical", oid.String()).Of(Reference(c, index))
	}
	if weak := keyFault(c.PublicKey); weak != "" {
		return signet.Refuse(signet.CertWeakKey, "The key of %s is %s, which is not taken.", subjectText(c), weak).
			At("subjectPublicKeyInfo", takenKeys, weak).Of(Reference(c, index))
	}
	// An anchor's signature proves nothing: trust in it comes from elsewhere.
	if !isAnchor && !signatureTaken[c.SignatureAlgorithm] {
		return signet.Refuse(signet.CertWeakSignature, "%s is signed with %s, which can be forged or is not known.", subjectText(c), c.SignatureAlgorithm).
			At("signatureAlgorithm", "RSA or ECDSA with SHA-256, SHA-384 or SHA-512, or Ed25519", c.SignatureAlgorithm.String()).Of(Reference(c, index))
	}
	return usageFault(c, index, r.Usage)
}

// usageFault: extended key usages nest, so that a CA which lists some vouches
// for no others (CA/Browser Forum practice, as in crypto/x509).
func usageFault(c *x509.Certificate, index int, usage Usage) *signet.Error {
	listed := len(c.ExtKeyUsage) + len(c.UnknownExtKeyUsage)
	switch {
	case listed == 0 && extension(c, extExtKeyUsage) == nil:
		return nil
	case listed == 0: // RFC 5280 §4.2.1.12: SIZE (1..MAX)
		return signet.Refuse(signet.CertExtKeyUsage, "The extended key usage of %s is an empty list, which allows nothing.", subjectText(c)).
			At("extKeyUsage", "at least one usage, or no such extension", "an empty list").Of(Reference(c, index))
	case usage == UsageAny:
		return nil
	}
	wanted := usage.extKeyUsages()[0]
	for _, u := range c.ExtKeyUsage {
		if u == wanted || u == x509.ExtKeyUsageAny {
			return nil
		}
	}
	return signet.Refuse(signet.CertExtKeyUsage, "The extended key usage of %s leaves out %sAuth.", subjectText(c), usage).
		At("extKeyUsage", string(usage)+"Auth", extKeyUsageText(c)).Of(Reference(c, index))
}

// issuerFault holds a certificate to the rules for those that sign others.
func issuerFault(c *link, isAnchor bool, intermediatesBelow int) *signet.Error {
	// RFC 5280 §6.1.4(k). Before version 3 a certificate cannot say that it is a
	// CA; as an anchor its owner says so.
	if !c.IsCA && !(isAnchor && c.Version < 3) {
		actual := "CA:FALSE"
		if !c.BasicConstraintsValid {
			actual = "absent"
		}
		return signet.Refuse(signet.CertNotACA, "%s signed another certificate and is not a CA.", subjectText(c.Certificate)).
			At("basicConstraints", "CA:TRUE", actual).Of(Reference(c.Certificate, c.index))
	}
	if hasKeyUsage(c.Certificate) && c.KeyUsage&x509.KeyUsageCertSign == 0 { // §6.1.4(n)
		return signet.Refuse(signet.CertKeyUsage, "The key usage of %s does not let it sign certificates.", subjectText(c.Certificate)).
			At("keyUsage", "keyCertSign", keyUsageText(c.KeyUsage)).Of(Reference(c.Certificate, c.index))
	}
	if most, limited := pathLength(c.Certificate); limited && c.BasicConstraintsValid && intermediatesBelow > most { // §6.1.4(l), (m)
		return signet.Refuse(signet.CertPathLength, "%s allows %d intermediates below itself, and the path has %d.", subjectText(c.Certificate), most, intermediatesBelow).
			At("basicConstraints pathLenConstraint", fmt.Sprintf("at most %d intermediates below", most), fmt.Sprint(intermediatesBelow)).Of(Reference(c.Certificate, c.index))
	}
	if form := uncomparedConstraint(c.Certificate); form != "" {
		return signet.Refuse(signet.CertUnknownCritical, "%s has name constraints with %s, which the hub does not compare.", subjectText(c.Certificate), form).
			At("nameConstraints", "DNS names, e-mail addresses, IP addresses, URIs", form).Of(Reference(c.Certificate, c.index)).
			FixBy("Constrain DNS names, e-mail addresses, IP addresses or URIs, which the hub compares.")
	}
	if isAnchor { // what was presented is bounded before the search
		if err := checkNames(c.Certificate, c.index); err != nil {
			return err
		}
	}
	return nil
}

// uncomparedConstraint describes a name constraint that neither the engine nor
// this package compares. RFC 5280 §4.2.1.10 has them critical, and the engine
// refuses a critical one; one that is not critical it passes over.
func uncomparedConstraint(c *x509.Certificate) string {
	value := extension(c, extNameConstraints)
	if value == nil {
		return ""
	}
	var outer, subtrees, subtree, base cryptobyte.String
	var tag asn1.Tag
	input := cryptobyte.String(value)
	if !input.ReadASN1(&outer, asn1.SEQUENCE) {
		return "a damaged list"
	}
	for !outer.Empty() {
		if !outer.ReadAnyASN1(&subtrees, &tag) {
			return "a damaged list"
		}
		for !subtrees.Empty() {
			if !subtrees.ReadASN1(&subtree, asn1.SEQUENCE) || !subtree.ReadAnyASN1(&base, &tag) {
				return "a damaged list"
			}
			switch tag {
			case asn1.Tag(1).ContextSpecific(), asn1.Tag(2).ContextSpecific(), asn1.Tag(6).ContextSpecific(), asn1.Tag(7).ContextSpecific():
			case asn1.Tag(4).ContextSpecific().Constructed():
				return "directory names"
			default:
				return "names of a kind of their own"
			}
			if !subtree.Empty() { // §4.2.1.10: minimum is 0 and maximum absent
				return "a distance"
			}
		}
	}
	return ""
}

// hostFault holds the e-mail addresses and URIs on a path to the constraints above
// them (RFC 5280 §4.2.1.10, §6.1.3(b), (c)): the two forms in which a constraint
// without a leading period means one host. It comes after the engine, so that
// only the holder of a CA's key can ask for the work.
func hostFault(path []*link) *signet.Error {
	const most = 1 << 16 // comparisons on a path
	comparisons := 0
	for i := len(path) - 1; i > 0; i-- {
		ca := path[i]
		mail := len(ca.PermittedEmailAddresses) + len(ca.ExcludedEmailAddresses)
		web := len(ca.PermittedURIDomains) + len(ca.ExcludedURIDomains)
		if mail+web == 0 {
			continue
		}
		for j, c := range path[:i] {
			if j > 0 && c.selfIssued() {
				continue
			}
			addresses := emailAddresses(c.Certificate)
			if comparisons += len(addresses)*mail + len(c.URIs)*web; comparisons > most {
				return signet.Refuse(signet.LimitPathWork, "The names on the path times the constraints on them are too many to compare.").
					At("nameConstraints", fmt.Sprintf("at most %d comparisons", most), fmt.Sprint(comparisons)).Of(Reference(c.Certificate, c.index))
			}
			outside := ""
			for _, address := range addresses {
				if mail > 0 && !comparableAddress(address) ||
					!permitted(ca.PermittedEmailAddresses, ca.ExcludedEmailAddresses, func(constraint string) bool { return emailMatches(address, constraint) }) {
					outside = address
				}
			}
			for _, uri := range c.URIs {
				if web > 0 && !comparableHost(uri.Hostname()) ||
					!permitted(ca.PermittedURIDomains, ca.ExcludedURIDomains, func(constraint string) bool { return hostMatches(uri.Hostname(), constraint) }) {
					outside = uri.String()
				}
			}
			if outside != "" {
				return signet.Refuse(signet.CertNameConstraints, "The name %q in %s is outside what %s may name.", signet.Clip(outside), subjectText(c.Certificate), subjectText(ca.Certificate)).
					At("nameConstraints", "only names that every CA above permits", outside).Of(Reference(c.Certificate, c.index))
			}
		}
	}
	return nil
}

// permitted applies the constraints of one form to a name that matches some.
func permitted(permitted, excluded []string, matches func(constraint string) bool) bool {
	return !slices.ContainsFunc(excluded, matches) && (len(permitted) == 0 || slices.ContainsFunc(permitted, matches))
}

// emailAddresses gives the addresses that constraints bind: the rfc822Names, or
// without alternative names those of the subject (§4.2.1.10).
func emailAddresses(c *x509.Certificate) []string {
	if extension(c, extSubjectAltName) != nil {
		return c.EmailAddresses
	}
	var addresses []string
	for _, attribute := range c.Subject.Names {
		if attribute.Type.Equal(attributeEmailAddress) {
			addresses = append(addresses, fmt.Sprint(attribute.Value))
		}
	}
	return addresses
}

// comparableAddress says whether an address can be held against constraints: one that is
// quoted, or has a comment or blanks, has many spellings.
func comparableAddress(address string) bool {
	at := strings.LastIndexByte(address, '@')
	return at > 0 && comparableHost(address[at+1:]) &&
		!strings.ContainsFunc(address[:at], func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"\()<>[]:;,@`, r) })
}

// comparableHost says the same of a host: it has to be a name, written as constraints
// are (§4.2.1.10 has a URI refused otherwise).
func comparableHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || strings.ContainsFunc(label, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		}) {
			return false
		}
	}
	return true
}

// emailMatches compares an address with a constraint: a mailbox, or a host.
func emailMatches(address, constraint string) bool {
	at := strings.LastIndexByte(address, '@')
	local, host := address[:max(at, 0)], address[at+1:]
	if at := strings.LastIndexByte(constraint, '@'); at >= 0 {
		return local == constraint[:at] && strings.EqualFold(host, constraint[at+1:])
	}
	return hostMatches(host, constraint)
}

// hostMatches compares a host with a constraint: that host or, with a leading
// period, all hosts of the domain and not the domain itself. Case does not count.
func hostMatches(host, constraint string) bool {
	if strings.HasPrefix(constraint, ".") {
		below := len(host) - len(constraint)
		return below > 0 && strings.EqualFold(host[below:], constraint)
	}
	return constraint == "" || strings.EqualFold(host, constraint)
}

// keyUsageText writes a key usage as RFC 5280 §4.2.1.3 names its bits.
func keyUsageText(u x509.KeyUsage) string {
	var names []string
	for i, name := range []string{"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement", "keyCertSign", "cRLSign", "encipherOnly", "decipherOnly"} {
		if u&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}

func extKeyUsageText(c *x509.Certificate) string {
	var names []string
	for _, u := range c.ExtKeyUsage {
		names = append(names, u.String())
	}
	for _, oid := range c.UnknownExtKeyUsage {
		names = append(names, oid.String())
	}
	return strings.Join(names, ", ")
}
