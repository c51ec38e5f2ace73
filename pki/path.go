package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/signet-iot/signet"
	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Usage is the extended key usage that a path is asked for.
type Usage string

// The usages. Devices are asked for [UsageClient].
const (
	UsageClient Usage = "client"
	UsageServer Usage = "server"
	UsageAny    Usage = "any"
)

func (u Usage) extKeyUsages() []x509.ExtKeyUsage {
	switch u {
	case UsageServer:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case UsageAny:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

// What a stranger can make us spend on one chain.
const (
	// maxPath is the most certificates of a path, and of what a device may
	// present: five times what fleets use.
	maxPath = 10
	// maxChainBytes bounds what is presented, in DER: ten certificates with RSA
	// keys of 8192 bits have half of it.
	maxChainBytes = 64 << 10
	// maxNames bounds the alternative names, the name constraints and the
	// policies of one certificate, each: the work on a path is their product. A
	// device needs one name or two.
	maxNames = 256
	// maxSignatures bounds the signatures checked. One chain needs a handful, the
	// worst honest case of the public test sets 29.
	maxSignatures = 64
	// maxWork bounds what they cost, in verifications with a key of P-256: see
	// workOf. It is 12 ms. A stranger who knows a CA's name could ask for 64 with
	// P-521, which are 180. An honest chain has the signatures of one path, and one
	// more for each other anchor of the name that it leads to.
	maxWork = 180
	// maxProven bounds likewise what is spent on signatures that hold, from an
	// anchor down: no stranger can make one. The longest path of P-521 needs half of
	// it for a look at each, and half for the engine.
	maxProven = 2 * (maxPath - 1) * workOfP521
	// maxUnproven is how dear a path may be for the engine, which begins at the
	// leaf, to be asked at once: two signatures with P-521, which is what the usual
	// chain of that curve needs. Of one that is dearer the signatures are looked at
	// before, from the anchor down, as a stranger's chain breaks at the first.
	maxUnproven = 90
	// maxSteps bounds the places that path building looks at and the paths that
	// it judges; those test sets need 20, of some microseconds each.
	maxSteps = 500
)

// PathRequest asks for a certification path.
type PathRequest struct {
	// Chain is what was presented: the certificate to judge first, then, in any
	// order, those to build a path from. Copies of anchors are harmless.
	Chain []*x509.Certificate
	// Time to judge at, to the second as certificates have it; now when zero.
	Time time.Time
	// Usage to judge for; [UsageClient] when empty.
	Usage Usage
	// MaxDepth is how many intermediates that are not self-issued a path may
	// have; negative for no limit but that of the package, 8.
	MaxDepth int
	// MaxPresented is how long Chain may be; 10 when zero, which is what a device
	// gets. Tools that offer a pool to choose from, and not a chain, may have it
	// longer.
	MaxPresented int
	// CRLs to judge by: when not nil, each certificate under the anchor has to be
	// covered by one that is valid, and not be on it.
	CRLs []*x509.RevocationList
	// Reject is asked for every path that is acceptable otherwise, leaf first and
	// anchor last, whether it was validated now or is remembered. When it gives a
	// refusal, the search goes on to another path. It must not keep the slice.
	Reject func(path []*x509.Certificate) *signet.Error
}

// Validate judges a chain (RFC 5280 §6) and gives the certification path: the
// certificate judged first, the anchor last, self-issued certificates included.
// What no path is found of is tried once more with what is known besides, see
// [NewAnchors].
//
// A refusal is a [signet.Error] of one of the codes chain.*, cert.*,
// anchor.expired or limit.*, with the certificate at fault. The work is bounded
// whatever the chain: see the limits above.
func (a *Anchors) Validate(r PathRequest) ([]*x509.Certificate, error) {
	if err := checkPresented(&r); err != nil {
		return nil, err
	}
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	r.Time = r.Time.Truncate(time.Second)
	if r.Usage == "" {
		r.Usage = UsageClient
	}
	leaf := r.Chain[0]
	if a.byDER[sha256.Sum256(leaf.Raw)] != nil {
		return nil, signet.Refuse(signet.CertIsCAAnchor, "The device presented %s, which is registered here as a CA, as its own certificate.", subjectText(leaf)).
			At("certificate", "one of the device, issued by the CA", "the CA's").Of(Reference(leaf, 0))
	}
	if path := a.recall(&r, leaf); path != nil {
		return path, nil
	}
	s := newSearch(a, &r)
	path := s.climb([]*link{s.presented[0]})
	if path == nil {
		first := *s
		if !s.complete() {
			return nil, s.explain()
		}
		if path = s.climb([]*link{s.presented[0]}); path == nil {
			if s.exhausted { // what was presented had an answer of its own
				s = &first
			}
			return nil, s.explain()
		}
	}
	if r.CRLs == nil {
		a.remember(path, r.Usage)
	}
	return certificatesOf(path), nil
}

func certificatesOf(path []*link) []*x509.Certificate {
	certs := make([]*x509.Certificate, len(path))
	for i, c := range path {
		certs[i] = c.Certificate
	}
	return certs
}

// checkPresented holds what was presented against the limits that need no look
// into it.
func checkPresented(r *PathRequest) error {
	most := r.MaxPresented
	if most == 0 {
		most = maxPath
	}
	switch n := len(r.Chain); {
	case n == 0:
		return signet.Refuse(signet.ChainNone, "The device presented no certificate.")
	case n > most:
		return signet.Refuse(signet.ChainTooLong, "The device presented %d certificates; at most %d are taken.", n, most).
			At("chain", fmt.Sprintf("at most %d certificates", most), fmt.Sprint(n))
	}
	size := 0
	for i, c := range r.Chain {
		if c == nil || len(c.Raw) == 0 {
			return signet.Refuse(signet.ChainMalformed, "Certificate %d of the chain cannot be read.", i)
		}
		size += len(c.Raw)
	}
	if size > maxChainBytes {
		return signet.Refuse(signet.LimitChainBytes, "The presented certificates have %d bytes; at most %d are taken.", size, maxChainBytes).
			At("chain", "at most 64 KiB", fmt.Sprintf("%d bytes", size))
	}
	for i, c := range r.Chain {
		if Loose(c) {
			return looseForm(c, i)
		}
		if err := checkNames(c, i); err != nil {
			return err
		}
	}
	return nil
}

// Loose says whether a certificate, or the key in it, is written in another way than
// the one that DER has for it. The parser passes over what follows a signature, a key
// or its parameters, and shifts a key or a signature that ends within an octet into
// place, which none that is taken does (RFC 3279 §2.2 and §2.3, RFC 8410 §4 and §6).
// So one certificate, or one key, would have many thumbprints, and who is distrusted by
// one could take another. None that is loose is on a path, or known by its thumbprint.
func Loose(c *x509.Certificate) bool {
	certificate, info := cryptobyte.String(c.Raw), cryptobyte.String(c.RawSubjectPublicKeyInfo)
	var signature, algorithm, key cryptobyte.String
	var tag cryptobyte_asn1.Tag
	switch {
	case !certificate.ReadASN1(&certificate, cryptobyte_asn1.SEQUENCE),
		!certificate.SkipASN1(cryptobyte_asn1.SEQUENCE), !certificate.SkipASN1(cryptobyte_asn1.SEQUENCE),
		!certificate.ReadASN1(&signature, cryptobyte_asn1.BIT_STRING), !certificate.Empty(),
		len(signature) == 0, signature[0] != 0,

		!info.ReadASN1(&info, cryptobyte_asn1.SEQUENCE),
		!info.ReadASN1(&algorithm, cryptobyte_asn1.SEQUENCE),
		!info.ReadASN1(&key, cryptobyte_asn1.BIT_STRING), !info.Empty(),
		len(key) == 0, key[0] != 0,

		!algorithm.SkipASN1(cryptobyte_asn1.OBJECT_IDENTIFIER),
		!algorithm.Empty() && !algorithm.ReadAnyASN1(&info, &tag), !algorithm.Empty():
		return true
	}
	if _, ok := c.PublicKey.(*rsa.PublicKey); ok { // others have one length
		numbers := key[1:]
		return !numbers.ReadASN1(&info, cryptobyte_asn1.SEQUENCE) || !numbers.Empty() ||
			!info.SkipASN1(cryptobyte_asn1.INTEGER) || !info.SkipASN1(cryptobyte_asn1.INTEGER) || !info.Empty()
	}
	return false
}

func looseForm(c *x509.Certificate, index int) *signet.Error {
	return signet.Refuse(signet.ChainMalformed, "The key or the signature of certificate %d of the chain is not a whole number of octets, or is followed by what does not belong to it.", index).
		At("signatureValue, subjectPublicKeyInfo", "no unused bits, and nothing behind", "some").Of(Reference(c, index))
}

// checkNames bounds the lists of a certificate whose lengths multiply.
func checkNames(c *x509.Certificate, index int) *signet.Error {
	for _, list := range []struct {
		field string
		n     int
	}{
		{"subjectAltName", len(c.DNSNames) + len(c.EmailAddresses) + len(c.IPAddresses) + len(c.URIs)},
		{"nameConstraints", len(c.PermittedDNSDomains) + len(c.ExcludedDNSDomains) +
			len(c.PermittedEmailAddresses) + len(c.ExcludedEmailAddresses) +
			len(c.PermittedIPRanges) + len(c.ExcludedIPRanges) +
			len(c.PermittedURIDomains) + len(c.ExcludedURIDomains)},
		{"certificatePolicies", len(c.Policies)},
		{"policyMappings", len(c.PolicyMappings)},
	} {
		if list.n > maxNames {
			return signet.Refuse(signet.LimitPathWork, "%s lists %d entries in %s; at most %d are looked at.", subjectText(c), list.n, list.field, maxNames).
				At(list.field, fmt.Sprintf("at most %d entries", maxNames), fmt.Sprint(list.n)).Of(Reference(c, index)).
				FixBy("Issue the certificate with fewer names and constraints.")
		}
	}
	return nil
}

// A search looks for an acceptable path, depth first from the leaf, and keeps
// what it needs to say why there is none.
type search struct {
	anchors   *Anchors
	request   *PathRequest
	presented []*link         // the leaf, then each certificate once, without copies of anchors
	copies    map[*link]*link // of anchors that were presented, with their place

	edges      map[edge]bool // signatures checked: does the issuer's key fit?
	signatures int
	work       int // on signatures that may be a stranger's
	proven     int // on those that are not
	steps      int
	exhausted  bool // a limit was reached: what follows says nothing

	refusals []refusal // of paths that reach an anchor
	deadEnd  []*link   // the longest way that reaches none
	tooLong  bool      // a way was given up for its length
	tried    bool      // the engine has refused a path
}

// edge is a certificate and one that may have signed it.
type edge struct{ child, issuer *link }

// refusal is why a path that reaches an anchor was not accepted.
type refusal struct {
	path []*link
	err  *signet.Error
}

func newSearch(a *Anchors, r *PathRequest) *search {
	s := &search{anchors: a, request: r}
	seen := make(map[[sha256.Size]byte]bool, len(r.Chain))
	for i, cert := range r.Chain {
		sum := sha256.Sum256(cert.Raw)
		anchor := a.byDER[sum]
		switch {
		case seen[sum]:
		case anchor == nil:
			s.presented = append(s.presented, newLink(cert, i))
		default:
			// It is reached as the anchor; a longer path through it would only be
			// held to more rules.
			placed := *anchor
			placed.index = i
			if s.copies == nil {
				s.copies = map[*link]*link{}
			}
			s.copies[anchor] = &placed
		}
		seen[sum] = true
	}
	return s
}

// complete adds what is known to what was presented, for another search within
// what is left of the limits, and says whether that can lead anywhere. It comes
// second, so that what is known changes nothing for a chain that is good alone.
func (s *search) complete() bool {
	if s.exhausted || len(s.anchors.known) == 0 {
		return false
	}
	var known []*link
	leads := false
	for _, k := range s.anchors.known {
		if slices.ContainsFunc(s.presented, func(c *link) bool { return bytes.Equal(c.Raw, k.Raw) }) {
			continue
		}
		known = append(known, k)
		leads = leads || slices.ContainsFunc(s.presented, func(c *link) bool { return c.issuer == k.subject })
	}
	if !leads {
		return false
	}
	slices.SortFunc(known, func(a, b *link) int { return bytes.Compare(a.Raw, b.Raw) }) // one order each time
	s.presented = append(slices.Clip(s.presented), known...)
	s.refusals, s.deadEnd, s.tooLong = nil, nil, false
	return true
}

// climb tries every way up from the last certificate of way, and gives the first
// path that is acceptable.
func (s *search) climb(way []*link) []*link {
	if !s.step() {
		return nil
	}
	below := way[len(way)-1]
	for _, anchor := range byKeyID(s.anchors.bySubject[below.issuer], below) {
		if placed := s.copies[anchor]; placed != nil {
			anchor = placed
		}
		if !s.step() {
			return nil
		}
		path := append(slices.Clip(way), anchor)
		err := s.judge(path)
		if err == nil {
			return path
		}
		if s.exhausted {
			return nil
		}
		s.refusals = append(s.refusals, refusal{path, err})
	}
	var above []*link
	for _, c := range s.presented[1:] {
		if c.subject == below.issuer && !slices.ContainsFunc(way, c.sameEntity) {
			above = append(above, c)
		}
	}
	if len(above) > 0 && len(way) == maxPath-1 {
		s.tooLong = true
		return nil
	}
	if len(above) == 0 && len(way) > len(s.deadEnd) {
		s.deadEnd = slices.Clone(way)
	}
	for _, c := range byKeyID(above, below) {
		if fits, checked := s.edges[edge{below, c}]; checked && !fits {
			continue
		}
		if path := s.climb(append(slices.Clip(way), c)); path != nil || s.exhausted {
			return path
		}
	}
	return nil
}

// step takes one from the places that the search may look at.
func (s *search) step() bool {
	if s.steps++; s.steps > maxSteps {
		s.exhausted = true
	}
	return !s.exhausted
}

// byKeyID puts first the issuers whose key identifier is the one that below asks
// for (RFC 5280 §4.2.1.1), and last those that have another. It is a hint to
// save work; the signature decides.
func byKeyID(issuers []*link, below *link) []*link {
	if len(issuers) < 2 {
		return issuers
	}
	issuers = slices.Clone(issuers)
	rank := func(issuer *link) int {
		switch {
		case len(issuer.SubjectKeyId) == 0 || len(below.AuthorityKeyId) == 0:
			return 1
		case bytes.Equal(issuer.SubjectKeyId, below.AuthorityKeyId):
			return 0
		}
		return 2
	}
	slices.SortStableFunc(issuers, func(a, b *link) int { return rank(a) - rank(b) })
	return issuers
}

// judge holds a path to the rules, then asks the engine, then holds it to what is
// worth the work only when the signatures are known to be good.
func (s *search) judge(path []*link) *signet.Error {
	if err := pathFault(path, s.request); err != nil {
		return err
	}
	work, signatures := engineWork(path)
	proven := false
	// One bad signature is likely to be met again: those already checked are known,
	// and a new one costs less alone than by the engine.
	if s.tried || work > maxUnproven || signatures >= len(path) {
		if broken := s.unproven(path); broken >= 0 {
			return badSignature(path, broken)
		}
		proven = true
	}
	if !s.spend(proven, work, signatures) {
		return signet.Refuse(signet.LimitPathWork, "Too many signatures.")
	}
	if err := s.engine(path); err != nil {
		s.tried = true
		return err
	}
	if err := hostFault(path); err != nil {
		return err
	}
	if s.request.CRLs != nil {
		if err := s.revocation(path); err != nil {
			return err
		}
	}
	if s.request.Reject != nil {
		return s.request.Reject(certificatesOf(path))
	}
	return nil
}

// fits says whether the key of a certificate fits the signature of another. A
// key or algorithm that is not taken is not tried: it is refused as such.
func (s *search) fits(child, issuer *link) bool {
	e := edge{child, issuer}
	fits, checked := s.edges[e]
	if checked {
		return fits
	}
	if keyFault(issuer.PublicKey) != "" || !signatureTaken[child.SignatureAlgorithm] {
		return true
	}
	if !s.spend(false, workOf(issuer.PublicKey), 1) {
		return false
	}
	fits = issuer.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature) == nil
	if s.edges == nil {
		s.edges = map[edge]bool{}
	}
	s.edges[e] = fits
	return fits
}

// spend takes signature checks from what the chain may cost.
func (s *search) spend(proven bool, work, signatures int) bool {
	s.signatures += signatures
	if proven {
		s.proven += work
	} else {
		s.work += work
	}
	if s.signatures > maxSignatures || s.work > maxWork || s.proven > maxProven {
		s.exhausted = true
	}
	return !s.exhausted
}

// unproven gives the first certificate of the path, from the anchor down, whose
// signature does not fit the next one's key, or -1.
func (s *search) unproven(path []*link) int {
	for i := len(path) - 2; i >= 0; i-- {
		before := s.work
		if !s.fits(path[i], path[i+1]) {
			return i
		}
		s.proven += s.work - before
		s.work = before
	}
	return -1
}

// engineWork gives what the engine may do on a path: it tries each certificate
// that bears the issuer's name. There are more of them than the path has links
// only when a name comes twice.
func engineWork(path []*link) (work, signatures int) {
	for i, child := range path[:len(path)-1] {
		for _, issuer := range path[i+1:] {
			if issuer.subject == child.issuer {
				work += workOf(issuer.PublicKey)
				signatures++
			}
		}
	}
	return work, signatures
}

const workOfP521 = 42

// workOf is what a verification with a key costs, as a multiple of one with P-256,
// which takes 66 µs where one with P-384 takes 0.53 ms, P-521 2.7, Ed25519 0.05, and
// RSA of 2048 bits 0.03, of 4096 0.23 and of 8192 1.05.
func workOf(key any) int {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch {
		case k.Params().BitSize > 384:
			return workOfP521
		case k.Params().BitSize > 256:
			return 8
		}
	case *rsa.PublicKey:
		switch bits := k.N.BitLen(); {
		case bits > 4096:
			return 16
		case bits > 2048:
			return 4
		}
	}
	return 1
}

// broken gives the first certificate of the path whose signature does not fit
// the next one's key, or -1.
func (s *search) broken(path []*link) int {
	for i := range len(path) - 1 {
		if !s.fits(path[i], path[i+1]) {
			return i
		}
	}
	return -1
}

// explain says why no path was accepted. It can pick the wrong one of several
// reasons, and never turn a refusal into an acceptance.
func (s *search) explain() *signet.Error {
	// The path to explain is one whose signatures hold: others merely happen to
	// have the same names.
	var nearest refusal
	highest := -1
	for _, r := range s.refusals {
		broken := s.broken(r.path)
		if s.exhausted {
			break
		}
		if broken < 0 {
			return r.err
		}
		if broken > highest {
			nearest, highest = r, broken
		}
	}
	switch {
	case s.exhausted:
		return signet.Refuse(signet.LimitPathWork, "No path to a registered CA was found before the work on this chain reached its limit: %d signatures, or %d places to look at.", maxSignatures, maxSteps).
			At("chain", "one path to a registered CA", fmt.Sprintf("%d certificates with many ways up", len(s.request.Chain))).Of(Reference(s.request.Chain[0], 0))
	case highest >= 0:
		if top := nearest.path[highest]; highest > 0 && top.selfIssued() && s.fits(top, top) {
			return s.untrusted(top, "A CA of that name is registered, but its key is another.")
		}
		return badSignature(nearest.path, highest)
	case s.tooLong:
		return signet.Refuse(signet.ChainTooLong, "The path from the device has more than %d certificates.", maxPath).
			At("path", fmt.Sprintf("at most %d certificates", maxPath), "more").Of(Reference(s.request.Chain[0], 0))
	}
	top := s.deadEnd[len(s.deadEnd)-1]
	switch {
	case top.selfIssued():
		return s.untrusted(top, "")
	case slices.ContainsFunc(s.presented, func(c *link) bool { return c.subject == top.issuer }):
		return s.untrusted(top, "The certificates sign each other in a circle.")
	}
	ref := Reference(top.Certificate, top.index)
	return signet.Refuse(signet.ChainIssuerMissing, "The certificate of %q, which issued %s, is missing: the device did not send it, and no such CA is registered here.", ref.Issuer, subjectText(top.Certificate)).
		At("issuer", "a certificate with the subject "+ref.Issuer, fmt.Sprintf("%d certificates presented, none of it", len(s.request.Chain))).Of(ref).
		FixBy("Send the leaf together with every intermediate up to the registered CA; or, if that issuer is the CA itself, register and verify it at this hub.")
}

func (s *search) untrusted(top *link, more string) *signet.Error {
	sentence := fmt.Sprintf("The chain ends in %s, which is not registered at this hub.", subjectText(top.Certificate))
	if top.index == 0 {
		sentence = fmt.Sprintf("The device's certificate %s is self-signed, and no CA that is registered at this hub vouches for it.", subjectText(top.Certificate))
	}
	if more != "" {
		sentence += " " + more
	}
	return signet.Refuse(signet.ChainUntrusted, "%s", sentence).
		At("issuer", "a registered and verified CA", top.Issuer.String()).Of(Reference(top.Certificate, top.index))
}

func badSignature(path []*link, at int) *signet.Error {
	c, issuer := path[at], path[at+1]
	whose := "sent along by the device"
	if at+1 == len(path)-1 || issuer.index == NotPresented {
		whose = "registered here"
	}
	return signet.Refuse(signet.CertBadSignature, "The signature of %s does not fit the key of its issuer %s, as %s: another key of the same name signed it, or it has been changed.",
		subjectText(c.Certificate), subjectText(issuer.Certificate), whose).
		At("signature", "by the key "+keyIDText(issuer.SubjectKeyId), "by the key "+keyIDText(c.AuthorityKeyId)).Of(Reference(c.Certificate, c.index))
}

// keyIDText names a key by its identifier, if it has one.
func keyIDText(id []byte) string {
	if len(id) == 0 {
		return "without identifier"
	}
	return fmt.Sprintf("%.40X", id)
}
