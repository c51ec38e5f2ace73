package provisioning

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// A Change is one of an enrollment that is there: it is deleted, or gets a status.
type Change struct {
	Group  bool
	ID     string
	Status signet.Status // empty when it is deleted
}

func (c *Change) String() string {
	switch c.Status {
	case signet.Enabled:
		return "enable"
	case signet.Disabled:
		return "disable"
	}
	return "delete"
}

const (
	// maxForeseen is how many registrations are looked at: a certificate is read and a
	// signature verified for each, so some seconds.
	maxForeseen = 10_000
	// longestWork is how long before the end of its registration a device has been let
	// in, at most: more than any takes.
	longestWork = 24 * time.Hour
	// maxForeseenNamed is how many are named.
	maxForeseenNamed = 100
)

// Foresee says what a change of an enrollment would do, and makes none: whom it
// would shut out, and whom it would let in. Deciding is left to what decides live.
// One is worked out at a time; the others wait, as long as ctx lets them.
//
// Looked at are registrations by the group, and by those above it, with which its
// devices may have come before; not those by a group that is gone.
//
// Of a device that has registered, its own certificate is on record and not those
// it sent with it; they are completed from what the service knows. It is asked which
// enrollment decides and whether what is known of the path is revoked, not whether
// a certificate is expired or in scope by then. A device with a second certificate,
// or a signer with one from another CA, may have another way.
//
// It refuses with [signet.EnrollmentUnknown].
func (p *Provisioning) Foresee(ctx context.Context, service string, change Change) (signet.Foreseen, error) {
	out := signet.Foreseen{Group: change.Group, Change: change.String(), Proofs: []signet.ForeseenProof{}, Devices: []signet.RegistrationFate{}}
	select {
	case p.ahead <- struct{}{}:
		defer func() { <-p.ahead }()
	case <-ctx.Done():
		return out, ctx.Err()
	}
	was, err := p.Enrollment(ctx, service, change.Group, change.ID)
	if err != nil {
		return out, err
	}
	out.Enrollment = was.ID
	f := &foresight{p: p, service: service, same: change.Status == was.Status, verified: map[[32]byte]bool{}, above: map[[32]byte][]*x509.Certificate{},
		below: map[junction][]rival{}, replaced: map[[32]byte]time.Time{}}
	cas, err := p.deps.Authority.List(ctx, service)
	if err != nil {
		return out, err
	}
	all, err := p.allGroups(ctx, service)
	if err != nil {
		return out, err
	}
	becomes := was
	becomes.Status = change.Status
	after := slices.Clone(all)
	if n := slices.IndexFunc(after, func(e signet.Enrollment) bool { return change.Group && e.ID == was.ID }); n >= 0 {
		if change.Status == "" {
			after = slices.Delete(after, n, n+1)
		} else {
			after[n] = becomes
		}
	}
	if err := errors.Join(f.suppose(&f.now, all, cas), f.suppose(&f.then, after, cas)); err != nil {
		return out, err
	}
	f.known = slices.Clone(f.now.groups.known)
	for _, ca := range cas {
		c, err := x509.ParseCertificate(ca.DER)
		if err != nil {
			return out, fmt.Errorf("stored CA certificate %s of %s: %w", ca.Name, service, err)
		}
		f.replaced[pki.PathCertificate(c).Thumbprint] = ca.Updated
		if ca.Verified {
			f.verified[pki.PathCertificate(c).Key] = true
		}
	}
	if !change.Group {
		f.now.own = &was
		if change.Status != "" {
			f.then.own = &becomes
		}
		err = f.individual(ctx, &was, &out)
	} else {
		err = f.group(ctx, &was, cas, &out)
	}
	return out, err
}

// A foresight decides twice: by what is, and by what would be.
type foresight struct {
	p         *Provisioning
	service   string
	now, then state
	same      bool                             // it is a change of nothing
	known     []*x509.Certificate              // CAs, from which a path is completed
	verified  map[[32]byte]bool                // keys of the anchors
	replaced  map[[32]byte]time.Time           // when a registered CA got its certificate, at the latest; by thumbprint
	above     map[[32]byte][]*x509.Certificate // paths from a CA upward, by its thumbprint
	below     map[junction][]rival
}

// A state is what decides.
type state struct {
	groups *groups
	own    *signet.Enrollment // that of the device itself
	open   []rival            // signers of groups that let in, by the names of the groups
}

func (f *foresight) suppose(s *state, all []signet.Enrollment, cas []signet.CACertificate) (err error) {
	if s.groups, err = newGroups(all, cas); err != nil {
		return err
	}
	for key, g := range s.groups.signers {
		if g.refusal() == nil {
			s.open = append(s.open, rival{key: key, group: g.enrollment.ID})
		}
	}
	slices.SortFunc(s.open, func(a, b rival) int { return strings.Compare(a.group, b.group) })
	return nil
}

// A junction is a CA among the groups of a state.
type junction struct {
	groups *groups
	key    [32]byte
}

// A trail is as much of a certification path as is known, the device's certificate
// first; of the devices of a signer, the signer in its place.
type trail struct {
	path  []*x509.Certificate
	whole bool // it goes up to an anchor, or to a root
	// gap, unless it is 0, is the first before which there may be CAs that are not on
	// record.
	gap    int
	came   time.Time // when the device was let in by the group above the gap, at the earliest
	device bool
	alone  bool // its enrollment has this very certificate, which is judged as that does
}

// up completes a path from a CA, as a device's chain is, up to the first anchor.
func (f *foresight) up(ca *x509.Certificate) []*x509.Certificate {
	at := pki.PathCertificate(ca).Thumbprint
	if path := f.above[at]; path != nil {
		return path
	}
	path := []*x509.Certificate{ca}
	from := groups{known: f.known}
	for len(path) < maxAbove && !f.ends(path) {
		issuer := from.issuer(path[len(path)-1], f.p.deps.Now())
		if issuer == nil {
			break
		}
		path = append(path, issuer)
	}
	f.above[at] = path
	return path
}

// ends says whether nothing is needed above a path.
func (f *foresight) ends(path []*x509.Certificate) bool {
	top := path[len(path)-1]
	return bytes.Equal(top.RawSubject, top.RawIssuer) || f.anchored(path[len(path)-1:])
}

func (f *foresight) anchored(path []*x509.Certificate) bool {
	return slices.ContainsFunc(path, func(c *x509.Certificate) bool { return f.verified[pki.PathCertificate(c).Key] })
}

func (f *foresight) ofSigner(c *x509.Certificate) trail {
	path := f.up(c)
	return trail{path: append([]*x509.Certificate{c}, path...), whole: f.ends(path)}
}

// ofLeaf is the trail of a device; signer is that of the group that let it in, nil
// when there is none on record.
func (f *foresight) ofLeaf(leaf, signer *x509.Certificate) trail {
	t := trail{path: []*x509.Certificate{leaf}, device: true}
	from := groups{known: f.known}
	issuer := from.issuer(leaf, f.p.deps.Now())
	if issuer == nil && signer != nil && bytes.Equal(signer.RawSubject, leaf.RawIssuer) && signer.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil {
		issuer = signer
	}
	if issuer != nil {
		t.path = append(t.path, f.up(issuer)...)
	}
	t.whole = issuer != nil && f.ends(t.path) || bytes.Equal(leaf.RawSubject, leaf.RawIssuer)
	if !t.whole && signer != nil && !slices.ContainsFunc(t.path, signer.Equal) {
		t.gap = len(t.path)
		t.path = append(t.path, f.up(signer)...)
		t.whole = f.ends(t.path)
	}
	return t
}

// byCertificate decides for who has a certificate.
func (f *foresight) byCertificate(ctx context.Context, s *state, t trail) signet.Decision {
	leaf := t.path[0]
	if s.own != nil {
		return decided(s.own, f.p.judgeOwn(ctx, f.service, s.own, []*x509.Certificate{leaf}, s.own.ID))
	}
	if err := f.sound(t); err != nil {
		return denied(err)
	}
	g, _, err := f.p.nearest(f.service, s.groups, t.path)
	switch {
	case t.gap > 0 && f.between(s.groups, g, &t):
		return signet.Decision{Ruling: signet.RulingUnknown, Why: fmt.Sprintf("The CAs between %q and %q are not on record, and a group may have one of them.", name(t.path[t.gap-1]), name(t.path[t.gap]))}
	case err != nil:
		return denied(err)
	case g == nil && !t.whole:
		// A device sends what we do not know: it may lead up to any other group.
		if others := f.elsewhere(s, t.path); others != "" {
			return signet.Decision{Ruling: signet.RulingUnknown, Why: fmt.Sprintf("The CA that has signed %q is not known here; if %s is above it, that one lets them in.", name(t.path[len(t.path)-1]), others)}
		}
		fallthrough
	case g == nil:
		return signet.Decision{Ruling: signet.RulingNobody, Why: "No group has a CA above."}
	}
	if err := g.refusal(); err != nil {
		return decided(&g.enrollment, err)
	}
	if t.whole && !f.anchored(t.path[1:]) {
		return decided(&g.enrollment, signet.Refuse(signet.ChainUntrusted, "No CA above is registered here and verified."))
	}
	return decided(&g.enrollment, nil)
}

// sound refuses what is known to be bad of a trail, whichever group decides.
func (f *foresight) sound(t trail) error {
	leaf, judged := t.path[0], t.path
	if !t.device {
		judged = judged[1:]
	} else if err := pki.CheckHub(leaf, ""); err != nil {
		return err
	}
	if t.alone {
		if err := pki.CheckSelfStanding(leaf, f.p.deps.Now()); err != nil {
			return err
		}
	}
	if t.gap > 0 {
		if err := f.p.deps.Authority.Revoked(f.service, pki.Path(judged[:t.gap])); err != nil {
			return err
		}
		judged = judged[t.gap:]
	}
	return f.p.deps.Authority.Revoked(f.service, pki.Path(judged))
}

// between says whether a group may have a CA that is not on record in a trail, and
// so decide before the nearest of which we know.
//
// Where the nearest of which we know lets nobody in, only one that does matters. One
// that was there when the device came, and was not nearer then, is not nearer now.
func (f *foresight) between(g *groups, nearest *group, t *trail) bool {
	letsIn := nearest != nil && nearest.refusal() == nil
	on := map[[32]byte]bool{}
	for i, c := range t.path[1:] {
		key := pki.PathCertificate(c).Key
		if i+1 < t.gap && nearest != nil && pki.PathCertificate(nearest.certificate).Key == key {
			return false // it is below the gap
		}
		on[key] = true
	}
	for _, other := range f.beneath(g, t.path[t.gap]) {
		if !on[other.key] && (letsIn || other.letsIn) && !other.since.Before(t.came) {
			return true
		}
	}
	return letsIn && g.blind != nil
}

// A rival is a signer of a group, beside the one that is looked at.
type rival struct {
	key    [32]byte
	group  string
	letsIn bool
	since  time.Time // when the group was changed last, or the CA that it names
}

// beneath gives the signers that are below a CA, or may be.
func (f *foresight) beneath(g *groups, ca *x509.Certificate) []rival {
	at := junction{g, pki.PathCertificate(ca).Key}
	found, known := f.below[at]
	if known {
		return found
	}
	for key, other := range g.signers {
		up := f.up(other.certificate)
		if !f.ends(up) || slices.ContainsFunc(up, func(c *x509.Certificate) bool { return pki.PathCertificate(c).Key == at.key }) {
			r := rival{key, other.enrollment.ID, other.refusal() == nil, other.enrollment.Updated}
			if named := f.replaced[pki.PathCertificate(other.certificate).Thumbprint]; named.After(r.since) {
				r.since = named
			}
			found = append(found, r)
		}
	}
	f.below[at] = found
	return found
}

// elsewhere names groups that let in, with a CA that is not on a path.
func (f *foresight) elsewhere(s *state, path []*x509.Certificate) string {
	on := map[[32]byte]bool{}
	for _, c := range path {
		on[pki.PathCertificate(c).Key] = true
	}
	var names []string
	for _, other := range s.open {
		name := fmt.Sprintf("the CA of the group %q", other.group)
		switch {
		case on[other.key] || slices.Contains(names, name):
		case len(names) == 3:
			return strings.Join(names, " or ") + " or that of another group"
		default:
			names = append(names, name)
		}
	}
	return strings.Join(names, " or ")
}

// byKey decides for who has a key of his own.
func (f *foresight) byKey(s *state, id, key string) signet.Decision {
	text, err := signet.SignSAS(f.service, "registration", key, f.p.deps.Now())
	if err != nil {
		return denied(err)
	}
	t, err := signet.ParseSASToken(text)
	if err != nil {
		return denied(err)
	}
	e := s.own
	if e == nil {
		e = s.groups.signedBy(id, t)
	}
	switch {
	case e == nil:
		return signet.Decision{Ruling: signet.RulingNobody, Why: "The key derives from that of no group."}
	case e.Status != signet.Enabled:
		return decided(e, disabled(e))
	}
	return decided(e, nil)
}

func decided(e *signet.Enrollment, err error) signet.Decision {
	d := signet.Decision{Ruling: signet.RulingAdmitted, Enrollment: e.ID, Group: e.Group}
	if err != nil {
		d.Ruling, d.Why = signet.RulingDenied, signet.AsError(err).Message
	}
	return d
}

func denied(err error) signet.Decision {
	return signet.Decision{Ruling: signet.RulingDenied, Why: signet.AsError(err).Message}
}

func name(c *x509.Certificate) string { return signet.Clip(c.Subject.String()) }

func (f *foresight) certificateTwice(ctx context.Context, t trail) signet.ForeseenProof {
	return signet.ForeseenProof{Proof: name(t.path[0]), Now: f.byCertificate(ctx, &f.now, t), Then: f.byCertificate(ctx, &f.then, t)}
}

// keysTwice decides for the keys of an enrollment; those of a group stand for what
// derives from them for a device.
func (f *foresight) keysTwice(e *signet.Enrollment, id string) (proofs []signet.ForeseenProof) {
	primary, secondary := e.Attestation.PrimaryKey, e.Attestation.SecondaryKey
	if e.Group {
		primary, secondary = derived(&e.Attestation, id)
	}
	for _, k := range []struct{ name, key string }{{"primary key", primary}, {"secondary key", secondary}} {
		if k.key != "" {
			proofs = append(proofs, signet.ForeseenProof{Proof: k.name, Now: f.byKey(&f.now, id, k.key), Then: f.byKey(&f.then, id, k.key)})
		}
	}
	return proofs
}

// individual foresees for one device: by what is enrolled, and by the certificate
// that it has registered with.
func (f *foresight) individual(ctx context.Context, e *signet.Enrollment, out *signet.Foreseen) error {
	r, _, err := f.p.registration(ctx, f.service, e.ID)
	known := signet.CodeOf(err) != signet.RegistrationUnknown
	if err != nil && known {
		return err
	}
	signer, err := parseSigner(&r)
	if err != nil {
		return err
	}
	leaves := certificates(&e.Attestation)
	if len(r.Leaf) > 0 && !slices.ContainsFunc(leaves, func(der []byte) bool { return bytes.Equal(der, r.Leaf) }) {
		leaves = append(leaves, r.Leaf)
	}
	for _, der := range leaves {
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("stored certificate of %s of %s: %w", e.ID, f.service, err)
		}
		of := signer
		if !bytes.Equal(der, r.Leaf) {
			of = nil
		}
		t := f.ofLeaf(leaf, of)
		t.alone = true
		out.Proofs = append(out.Proofs, f.certificateTwice(ctx, t))
	}
	out.Proofs = append(out.Proofs, f.keysTwice(e, e.ID)...)
	if known {
		out.Registrations = 1
		count(out, r.RegistrationID, out.Proofs)
	}
	return nil
}

// group foresees for the devices of a group: by its signers or keys, and for those
// that have registered by it, or by a group that decides instead.
func (f *foresight) group(ctx context.Context, e *signet.Enrollment, cas []signet.CACertificate, out *signet.Foreseen) error {
	alone, err := newGroups([]signet.Enrollment{*e}, cas)
	if err != nil {
		return err
	}
	for _, g := range alone.signers {
		f.known = append(f.known, g.certificate) // a device sends it, verified here or not
	}
	touched := map[string]bool{e.ID: true}
	for _, g := range alone.signers {
		t := f.ofSigner(g.certificate)
		out.Proofs = append(out.Proofs, f.certificateTwice(ctx, t))
		// They may have come by any group above, before this one was made.
		for key, other := range f.now.groups.signers {
			if !t.whole || slices.ContainsFunc(t.path, func(c *x509.Certificate) bool { return pki.PathCertificate(c).Key == key }) {
				touched[other.enrollment.ID] = true
			}
		}
	}
	slices.SortFunc(out.Proofs, func(a, b signet.ForeseenProof) int { return strings.Compare(a.Proof, b.Proof) })
	out.Proofs = append(out.Proofs, f.keysTwice(e, "any")...)
	for _, proof := range out.Proofs {
		for _, d := range []signet.Decision{proof.Now, proof.Then} {
			if d.Group {
				touched[d.Enrollment] = true
			}
		}
	}
	if f.same {
		return nil
	}
	for _, group := range slices.Sorted(maps.Keys(touched)) {
		if err := f.registered(ctx, group, out); err != nil || out.More {
			return err
		}
	}
	return nil
}

// registered foresees for the devices that a group has let in.
func (f *foresight) registered(ctx context.Context, group string, out *signet.Foreseen) error {
	const page = 100
	for after := ""; ; {
		some, err := f.p.deps.Registrations.Registrations(ctx, f.service, group, after, page)
		if err != nil {
			return err
		}
		for i := range some {
			if out.Registrations >= maxForeseen {
				out.More = true
				return nil
			}
			out.Registrations++
			if err := f.one(ctx, &some[i], out); err != nil {
				return err
			}
		}
		if len(some) < page {
			return nil
		}
		after = signet.FoldRegistrationID(some[len(some)-1].RegistrationID)
	}
}

func (f *foresight) one(ctx context.Context, r *signet.Registration, out *signet.Foreseen) error {
	_, err := f.p.deps.Enrollments.Enrollment(ctx, f.service, false, r.RegistrationID)
	if !errors.Is(err, signet.ErrNotFound) {
		return err // its own decides, whatever becomes of a group
	}
	if len(r.Leaf) == 0 {
		keyed := slices.IndexFunc(f.now.groups.keyed, func(g signet.Enrollment) bool { return strings.EqualFold(g.ID, r.Group) })
		if keyed < 0 {
			return nil // its group is gone, or is of certificates now
		}
		count(out, r.RegistrationID, f.keysTwice(&f.now.groups.keyed[keyed], r.RegistrationID))
		return nil
	}
	leaf, err := x509.ParseCertificate(r.Leaf)
	if err != nil {
		return fmt.Errorf("stored certificate of the registration %s of %s: %w", r.RegistrationID, f.service, err)
	}
	signer, err := parseSigner(r)
	if err != nil {
		return err
	}
	t := f.ofLeaf(leaf, signer)
	t.came = r.Updated.Add(-longestWork)
	count(out, r.RegistrationID, []signet.ForeseenProof{f.certificateTwice(ctx, t)})
	return nil
}

// count counts a device that has one of these proofs.
func count(out *signet.Foreseen, id string, proofs []signet.ForeseenProof) {
	var of signet.Fate
	var told signet.ForeseenProof
	for i, proof := range proofs {
		if one := fate(&proof); i == 0 {
			of, told = one, proof
		} else if one != of {
			of = signet.FateUnknown // which of them it has is not on record
		}
	}
	switch of {
	case "":
		return
	case signet.FateLoses:
		out.Loses++
	case signet.FateGains:
		out.Gains++
	case signet.FateOtherEnrollment:
		out.OtherEnrollment++
	case signet.FateUnknown:
		out.Unknown++
	}
	if len(out.Devices) < maxForeseenNamed {
		out.Devices = append(out.Devices, signet.RegistrationFate{RegistrationID: id, Fate: of, Now: told.Now, Then: told.Then})
	}
}

// fate is what a change does to who has a proof; empty when it does nothing.
func fate(proof *signet.ForeseenProof) signet.Fate {
	now, then := proof.Now, proof.Then
	in := func(d signet.Decision) bool { return d.Ruling == signet.RulingAdmitted }
	switch {
	case now.Ruling == signet.RulingUnknown || then.Ruling == signet.RulingUnknown:
		return signet.FateUnknown
	case in(now) && !in(then):
		return signet.FateLoses
	case !in(now) && in(then):
		return signet.FateGains
	case in(now) && (now.Enrollment != then.Enrollment || now.Group != then.Group):
		return signet.FateOtherEnrollment
	}
	return ""
}

func parseSigner(r *signet.Registration) (*x509.Certificate, error) {
	if len(r.Signer) == 0 {
		return nil, nil
	}
	c, err := x509.ParseCertificate(r.Signer)
	if err != nil {
		return nil, fmt.Errorf("stored signer of the registration %s of %s: %w", r.RegistrationID, r.Service, err)
	}
	return c, nil
}
