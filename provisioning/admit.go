package provisioning

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// An Applicant is a device that an enrollment lets in: it may ask for its place.
// It is good for a conversation, not for a day: what decides at last is judged
// again before anything is written. Safe for concurrent use.
type Applicant struct {
	p       *Provisioning
	service signet.Hub
	id      string // as the device writes it
	admission
	credentials Credentials
}

// An admission is by what a device is let in.
type admission struct {
	enrollment signet.Enrollment
	chain      []*x509.Certificate // as presented; empty for keys
	signer     *x509.Certificate   // of the group, when a certificate is what it is known by
}

func (a *admission) leaf() []byte {
	if len(a.chain) == 0 {
		return nil
	}
	return a.chain[0].Raw
}

// group is the name of the enrollment group; empty for an individual enrollment.
func (a *admission) group() string {
	if a.enrollment.Group {
		return a.enrollment.ID
	}
	return ""
}

// ID is the registration ID, as the device writes it; Service the name of the
// provisioning service.
func (a *Applicant) ID() string      { return a.id }
func (a *Applicant) Service() string { return a.service.Name }

// Admit finds the enrollment that credentials answer to. The device's own
// enrollment decides, if there is one; of groups, the one whose signer is nearest
// to the device; a disabled one denies.
//
// A refusal is recorded already, and bears the tracking ID of its verdict.
func (p *Provisioning) Admit(ctx context.Context, c Credentials) (*Applicant, error) {
	a, err := p.admit(ctx, c)
	if err != nil {
		return nil, p.refused(c, err)
	}
	return a, nil
}

// Refuse records a refusal that a door made itself. It gives the refusal with its
// tracking ID.
func (p *Provisioning) Refuse(c Credentials, err error) *signet.Error { return p.refused(c, err) }

func (p *Provisioning) refused(c Credentials, err error) *signet.Error {
	e := signet.AsError(err)
	v := signet.Verdict{Error: *e, Door: c.Door, DeviceID: c.RegistrationID}
	if !signet.ValidRegistrationID(v.DeviceID) {
		v.DeviceID = signet.Clip(v.DeviceID)
	}
	if c.Remote.IsValid() {
		v.Remote = c.Remote.Addr().Unmap().String()
	}
	if service, err := p.deps.Tenants.ServiceByScope(c.IDScope); err == nil {
		v.Hub = service.Name
	}
	for _, cert := range c.Chain[:min(len(c.Chain), 10)] {
		v.Chain = append(v.Chain, pki.ThumbprintSHA256(cert.Raw))
	}
	refusal := *e // the original may be shared
	refusal.TrackingID = p.deps.Verdicts.Record(v)
	return &refusal
}

func (p *Provisioning) admit(ctx context.Context, c Credentials) (*Applicant, error) {
	service, err := p.deps.Tenants.ServiceByScope(c.IDScope)
	if err != nil {
		return nil, err
	}
	if !signet.ValidRegistrationID(c.RegistrationID) {
		return nil, signet.Refuse(signet.RequestMalformed, "%q cannot be a registration ID.", signet.Clip(c.RegistrationID)).
			At("registrationId", "1 to 128 letters, digits and - . _ : that end in a letter, a digit or a dash", c.RegistrationID)
	}
	a := &Applicant{p: p, service: service, id: c.RegistrationID, credentials: c}
	switch {
	case c.Token != "":
		a.admission, err = p.admitByToken(ctx, service, c.RegistrationID, c.Token)
	case len(c.Chain) > 0:
		a.admission, err = p.admitByChain(ctx, service.Name, c.RegistrationID, c.Chain)
	default:
		err = signet.Refuse(signet.ChainNone, "The device presented neither a certificate nor a token.")
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// admitByChain judges a certificate. The cheap questions come first: no signature
// is verified for a device that no enrollment can answer to.
func (p *Provisioning) admitByChain(ctx context.Context, service, id string, chain []*x509.Certificate) (admission, error) {
	cn, err := pki.CommonName(chain[0])
	if err != nil {
		return admission{}, err
	}
	if signet.FoldRegistrationID(cn) != signet.FoldRegistrationID(id) {
		return admission{}, signet.Refuse(signet.IdentityCNMismatch, "The device registers as %q, and its certificate is for %q.", id, signet.Clip(cn)).
			At("subject CN", id, cn).Of(pki.Reference(chain[0], 0)).
			FixBy("Register with the CN of the certificate as registration ID; upper and lower case do not matter.")
	}
	own, err := p.deps.Enrollments.Enrollment(ctx, service, false, id)
	if err == nil {
		return admission{enrollment: own, chain: chain}, p.judgeOwn(ctx, service, &own, chain, cn)
	}
	if !errors.Is(err, signet.ErrNotFound) {
		return admission{}, err
	}
	// What was issued for a hub says where a device is, not what it may become: else
	// one of any hub below a common root would be one of every service that has it.
	if e := signet.AsError(pki.CheckHub(chain[0], "")); e != nil {
		return admission{}, e.At("subjectAltName", "none that names a hub", e.Actual).
			FixBy("Register by the device's onboarding credential, or enrol this very certificate for the device alone.")
	}
	groups, err := p.groupsOf(ctx, service)
	if err != nil {
		return admission{}, err
	}
	if len(groups.signers) == 0 {
		return admission{}, signet.Refuse(signet.EnrollmentNone, "There is no enrollment %q, and no group for devices with certificates.", id)
	}
	path, err := p.deps.Authority.Judge(service, chain, p.deps.Now())
	if err != nil {
		return admission{}, err
	}
	g, path, err := p.nearest(service, groups, path)
	if err != nil {
		return admission{}, err
	}
	if g == nil {
		return admission{}, signet.Refuse(signet.EnrollmentNone, "There is no enrollment %q, and no group has one of the CAs above the device, up to %q.", id, signet.Clip(path[len(path)-1].Subject.String())).
			Of(pki.Reference(chain[0], 0))
	}
	if err := g.refusal(); err != nil {
		return admission{}, err
	}
	if err := p.inScope(ctx, service, cn, path); err != nil {
		return admission{}, err
	}
	return admission{enrollment: g.enrollment, chain: chain, signer: g.certificate}, nil
}

// inScope holds a device that is let in otherwise to the scopes of the CAs on its
// path, and counts it where they say how many devices there may be.
func (p *Provisioning) inScope(ctx context.Context, service, cn string, path []*x509.Certificate) error {
	return p.deps.Authority.Admit(ctx, &signet.Principal{Hub: service, DeviceID: cn, Auth: signet.AuthCA,
		Path: pki.Path(path), Issued: path[0].NotBefore, KeyType: pki.KeyTypeOf(path[0])})
}

// judgeOwn judges the certificate of a device that has an enrollment of its own:
// it has to be the one that is enrolled. One that comes with its signers is held
// to a path besides, as Azure does (concepts-x509-attestation).
func (p *Provisioning) judgeOwn(ctx context.Context, service string, e *signet.Enrollment, chain []*x509.Certificate, cn string) error {
	leaf := chain[0]
	switch {
	case e.Status != signet.Enabled:
		return disabled(e)
	case e.Attestation.Type != signet.AttestX509:
		return mismatch(e, "a certificate")
	case !slices.ContainsFunc(certificates(&e.Attestation), func(der []byte) bool { return bytes.Equal(der, leaf.Raw) }):
		var enrolled []string
		for _, der := range certificates(&e.Attestation) {
			enrolled = append(enrolled, pki.ThumbprintSHA256(der))
		}
		return signet.Refuse(signet.EnrollmentMismatch, "The presented certificate is not one that is enrolled for %q.", e.ID).
			Of(pki.Reference(leaf, 0)).At("thumbprint", strings.Join(enrolled, " or "), pki.ThumbprintSHA256(leaf.Raw)).
			FixBy("Enrol the certificate that the device holds, as the primary or the secondary one.")
	case p.deps.Authority.Trusts(service, pki.PathCertificate(leaf).Thumbprint):
		return signet.Refuse(signet.CertIsCAAnchor, "The certificate that is enrolled for %q is registered here as a CA too.", e.ID).
			At("certificate", "one of the device", "the CA's").Of(pki.Reference(leaf, 0))
	}
	if len(chain) > 1 {
		path, err := p.deps.Authority.Judge(service, chain, p.deps.Now())
		if err != nil {
			return err
		}
		return p.inScope(ctx, service, cn, path)
	}
	if err := pki.CheckSelfStanding(leaf, p.deps.Now()); err != nil {
		return err
	}
	return p.deps.Authority.Revoked(service, pki.Path(chain))
}

// nearest goes up a certification path, and beyond its anchor as far as the
// service knows what is above, and gives the first group that has the key of a
// signer, with the path up to there; nil when none has.
//
// A group has a key, not a certificate: so none below a group that shuts it out
// gets round it by another certificate of the same signer.
func (p *Provisioning) nearest(service string, g *groups, path []*x509.Certificate) (*group, []*x509.Certificate, error) {
	for n, c := range path[1:] {
		if found := g.signers[pki.PathCertificate(c).Key]; found != nil {
			if n > 0 && g.blind != nil && found.enrollment.Status == signet.Enabled {
				return nil, path, blind(g.blind) // it may be one of those in between
			}
			return found, path, nil
		}
	}
	if g.blind != nil {
		return nil, path, blind(g.blind)
	}
	above := path[len(path)-1:]
	for range maxAbove {
		issuer := g.issuer(above[len(above)-1], p.deps.Now())
		if issuer == nil {
			return nil, path, nil
		}
		above = append(above[:len(above):len(above)], issuer)
		if found := g.signers[pki.PathCertificate(issuer).Key]; found != nil {
			return found, slices.Concat(path, above[1:]), p.deps.Authority.Revoked(service, pki.Path(above))
		}
	}
	return nil, path, nil
}

// maxAbove bounds how far it is looked above an anchor: as far as a path may
// reach.
const maxAbove = 10

// admitByToken judges a SAS token: by the device's own key, or by one that derives
// from that of a group.
func (p *Provisioning) admitByToken(ctx context.Context, service signet.Hub, id, text string) (admission, error) {
	t, err := signet.ParseSASToken(text)
	if err != nil {
		return admission{}, err
	}
	own, err := p.deps.Enrollments.Enrollment(ctx, service.Name, false, id)
	switch {
	case err == nil && own.Status != signet.Enabled:
		return admission{}, disabled(&own)
	case err == nil && own.Attestation.Type != signet.AttestSymmetricKey:
		return admission{}, mismatch(&own, "a SAS token")
	case err == nil && !t.SignedBy(own.Attestation.PrimaryKey, own.Attestation.SecondaryKey):
		return admission{}, signet.Refuse(signet.TokenSignature, "The SAS token is not signed with a key of the enrollment %q.", own.ID)
	case err == nil:
		return admission{enrollment: own}, p.judgeToken(service, id, t)
	case !errors.Is(err, signet.ErrNotFound):
		return admission{}, err
	}
	groups, err := p.groupsOf(ctx, service.Name)
	if err != nil {
		return admission{}, err
	}
	if g := groups.signedBy(id, t); g != nil {
		if g.Status != signet.Enabled {
			return admission{}, disabled(g)
		}
		return admission{enrollment: *g}, p.judgeToken(service, id, t)
	}
	return admission{}, signet.Refuse(signet.TokenSignature, "There is no enrollment %q, and the SAS token is not signed with a key that derives from that of a group.", id).
		FixBy("Derive the device's key from the group's: base64(HMAC-SHA256(base64decode(group key), registration ID in lower case)).")
}

// derived gives the keys of a device in a group; what a group has not is empty,
// and signs nothing.
func derived(a *signet.Attestation, id string) (primary, secondary string) {
	primary, _ = signet.DeriveKey(a.PrimaryKey, id)
	secondary, _ = signet.DeriveKey(a.SecondaryKey, id)
	return primary, secondary
}

// judgeToken judges what a token says, once its MAC is known to be good.
func (p *Provisioning) judgeToken(service signet.Hub, id string, t *signet.SASToken) error {
	if resource := service.IDScope + "/registrations/" + id; !strings.EqualFold(t.Resource, resource) {
		return signet.Refuse(signet.TokenAudience, "The SAS token is for %q.", signet.Clip(t.Resource)).At("sr", resource, t.Resource)
	}
	if !p.deps.Now().Before(t.Expiry.Add(signet.SASClockSkew)) {
		expiry := t.Expiry.Format("2006-01-02T15:04:05Z")
		return signet.Refuse(signet.TokenExpired, "The SAS token expired at %s.", expiry).At("se", "a time to come", expiry)
	}
	return nil
}

func disabled(e *signet.Enrollment) error {
	return signet.Refuse(signet.EnrollmentDisabled, "The %s %q is disabled.", kind(e.Group), e.ID).
		At("provisioningStatus", string(signet.Enabled), string(e.Status))
}

func blind(e *signet.Enrollment) error {
	return signet.Refuse(signet.EnrollmentDisabled, "The enrollment group %q shuts out devices by a CA certificate that is registered no more, and may mean this one.", e.ID).
		FixBy("Give the group the certificate itself, register the CA again under its name, or delete the group.")
}

func mismatch(e *signet.Enrollment, presented string) error {
	return signet.Refuse(signet.EnrollmentMismatch, "The enrollment %q is for attestation by %s, and the device presented %s.", e.ID, e.Attestation.Type, presented).
		At("attestation.type", string(e.Attestation.Type), presented)
}
