// Package authority keeps the CA certificates that the owners of hubs have
// registered, and judges the chains that devices present against them: chain
// in, certification path or refusal out.
//
// A CA counts from the moment that it is verified: its owner has proven, by a
// certificate signed over a random code, to hold the key, or has vouched for it
// at upload. The hub never sees that key.
//
// Durable before effective: a change is stored first, then the immutable set of
// anchors of its hub is swapped, then sessions that rest on it are told, then
// the caller is answered. A crash can leave a CA verified and not yet trusted,
// never trusted and not yet verified.
package authority

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// DefaultMaxCAs is how many CA certificates a hub may hold: Azure's limit.
const DefaultMaxCAs = 25

// Authority is the keeper of trust anchors. Safe for concurrent use.
type Authority struct {
	store   Store
	now     func() time.Time
	changed func(context.Context, signet.Change)
	stale   func(context.Context, signet.StaleCRL)
	maxCAs  int

	trust   atomic.Pointer[map[string]*trust] // by hub; replaced whole, readers take no lock
	trustMu sync.Mutex                        // held while a hub's set is read from the store and swapped

	adopting sync.Mutex // held, before trustMu, while an issuing CA is registered

	revocation *revocation
}

// Options of an Authority. The zero value works.
type Options struct {
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// Changed is told when the anchors of a hub have changed, after the change is
	// durable and in force, before the caller is answered.
	Changed func(context.Context, signet.Change)
	// Stale is told, besides the log, of a CRL that is in the last quarter of its
	// time or past it, once each; nil when nobody needs to know.
	Stale func(context.Context, signet.StaleCRL)
	// MaxCAs bounds the CA certificates of a hub; DefaultMaxCAs when 0.
	MaxCAs int
	Logger *slog.Logger // slog.Default() when nil
}

// trust is what one hub trusts: immutable once in force.
type trust struct {
	anchors *pki.Anchors
	// keys of the certificates in anchors, by SHA-256 thumbprint.
	thumbprints map[[32]byte]bool
	// unverified anchors decide nothing; they make a refusal more helpful. nil
	// when there are none.
	unverified *pki.Anchors
	distrusts  distrusts
	scopes     map[[32]byte]*signet.Scope // by key
	// policies say how to ask after what is below an anchor, by its thumbprint; those
	// that are off are left out. strictest has one of them by the anchor's key.
	policies, strictest map[[32]byte]*signet.RevocationPolicy
	inherited           map[[32]byte]*inheritance // by the key of a CA for which none is set
	cas                 []*x509.Certificate       // in anchors
	// unreadable is set when what is stored could not be read: nothing counts.
	unreadable bool
	tried      atomic.Int64 // of an unreadable one: when it was last tried to read, Unix ns
}

// rereadAfter is how often it is tried again to read what could not be read.
const rereadAfter = time.Second

// New makes an Authority; call Load before using it.
func New(store Store, o Options) *Authority {
	a := &Authority{store: store, now: o.Now, changed: o.Changed, stale: o.Stale, maxCAs: o.MaxCAs}
	if a.now == nil {
		a.now = time.Now
	}
	if a.changed == nil {
		a.changed = func(context.Context, signet.Change) {}
	}
	if a.maxCAs == 0 {
		a.maxCAs = DefaultMaxCAs
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	a.trust.Store(&map[string]*trust{})
	a.revocation = newRevocation(a, o.Logger)
	return a
}

// Load reads what every hub trusts, and what is revoked, from the store.
func (a *Authority) Load(ctx context.Context) error {
	if err := a.loadTrust(ctx); err != nil {
		return err
	}
	if err := a.revocation.load(ctx, ""); err != nil {
		return err
	}
	for hub := range *a.trust.Load() {
		a.revocation.retune(hub)
	}
	return nil
}

func (a *Authority) loadTrust(ctx context.Context) error {
	a.trustMu.Lock()
	defer a.trustMu.Unlock()
	cas, err := a.store.CAs(ctx, "")
	if err != nil {
		return fmt.Errorf("read CA certificates: %w", err)
	}
	ds, err := a.store.Distrusts(ctx, "")
	if err != nil {
		return fmt.Errorf("read what is distrusted: %w", err)
	}
	ps, err := a.store.RevocationPolicies(ctx, "")
	if err != nil {
		return fmt.Errorf("read revocation policies: %w", err)
	}
	ss, err := a.store.Scopes(ctx, "")
	if err != nil {
		return fmt.Errorf("read scopes: %w", err)
	}
	byHub, distrusted := map[string][]signet.CACertificate{}, map[string][]signet.Distrust{}
	policies := map[string][]signet.RevocationPolicy{}
	for _, p := range ps {
		policies[p.Hub] = append(policies[p.Hub], p)
	}
	scopes := map[string][]signet.Scope{}
	for _, s := range ss {
		scopes[s.Hub] = append(scopes[s.Hub], s)
	}
	for _, c := range cas {
		byHub[c.Hub] = append(byHub[c.Hub], c)
	}
	for _, d := range ds {
		distrusted[d.Hub] = append(distrusted[d.Hub], d)
		if _, known := byHub[d.Hub]; !known {
			byHub[d.Hub] = nil // a hub that has no CAs yet
		}
	}
	all := make(map[string]*trust, len(byHub))
	for hub, cas := range byHub {
		if all[hub], err = newTrust(kept{cas, distrusted[hub], policies[hub], scopes[hub]}); err != nil {
			return err
		}
	}
	a.trust.Store(&all)
	return nil
}

// reload brings a durable change of what one hub trusts into force.
func (a *Authority) reload(ctx context.Context, hub string) error {
	a.trustMu.Lock()
	defer a.trustMu.Unlock()
	// The set is read anew rather than patched: whatever order two changes come
	// here in, the last to read sees both.
	k, err := a.read(context.WithoutCancel(ctx), hub)
	if err != nil {
		return err
	}
	t, err := newTrust(k)
	if err != nil {
		return err
	}
	all := maps.Clone(*a.trust.Load())
	all[hub] = t
	a.trust.Store(&all)
	return nil
}

// kept is what the store keeps of what a hub trusts.
type kept struct {
	cas       []signet.CACertificate
	distrusts []signet.Distrust
	policies  []signet.RevocationPolicy
	scopes    []signet.Scope
}

func (a *Authority) read(ctx context.Context, hub string) (k kept, err error) {
	if k.cas, err = a.store.CAs(ctx, hub); err != nil {
		return k, fmt.Errorf("read CA certificates of %s: %w", hub, err)
	}
	if k.distrusts, err = a.store.Distrusts(ctx, hub); err != nil {
		return k, fmt.Errorf("read what %s distrusts: %w", hub, err)
	}
	if k.policies, err = a.store.RevocationPolicies(ctx, hub); err != nil {
		return k, fmt.Errorf("read revocation policies of %s: %w", hub, err)
	}
	if k.scopes, err = a.store.Scopes(ctx, hub); err != nil {
		return k, fmt.Errorf("read scopes of %s: %w", hub, err)
	}
	return k, nil
}

func newTrust(k kept) (_ *trust, err error) {
	t := &trust{thumbprints: map[[32]byte]bool{}, policies: map[[32]byte]*signet.RevocationPolicy{}, strictest: map[[32]byte]*signet.RevocationPolicy{},
		inherited: map[[32]byte]*inheritance{}}
	if t.distrusts, err = newDistrusts(k.distrusts); err != nil {
		return nil, err
	}
	if t.scopes, err = newScopes(k.scopes); err != nil {
		return nil, err
	}
	var unverified []*x509.Certificate
	decided := map[[32]byte]bool{}
	for _, c := range k.cas {
		cert, err := x509.ParseCertificate(c.DER)
		if err != nil {
			return nil, fmt.Errorf("stored CA certificate %s of hub %s: %w", c.Name, c.Hub, err)
		}
		if !c.Verified {
			unverified = append(unverified, cert)
			continue
		}
		t.cas = append(t.cas, cert)
		anchor := pki.PathCertificate(cert)
		t.thumbprints[anchor.Thumbprint] = true
		for i := range k.policies {
			p := &k.policies[i]
			if !sameName(p.CA, c.Name) {
				continue
			}
			if decided[anchor.Key] = true; p.Mode != signet.RevocationOff {
				t.policies[anchor.Thumbprint] = p
				if t.strictest[anchor.Key] == nil || p.Mode == signet.RevocationHard {
					t.strictest[anchor.Key] = p
				}
			}
		}
	}
	t.inherit(unverified, decided)
	// What is registered and not trusted completes the path of a device that sends
	// its certificate alone; it is trusted no more for that.
	t.anchors = pki.NewAnchors(t.cas, unverified...)
	if len(unverified) > 0 {
		t.unverified = pki.NewAnchors(unverified)
	}
	return t, nil
}

// policyOf gives the policy that is set for what is below an anchor; nil when none is, or
// off. A CA that
// has been renewed with its key has two certificates, and what it has revoked must not
// get in by the one whose policy is the laxer.
func (t *trust) policyOf(anchor *signet.PathCertificate) *signet.RevocationPolicy {
	own, strictest := t.policies[anchor.Thumbprint], t.strictest[anchor.Key]
	if own == nil || own.Mode != signet.RevocationHard && strictest.Mode == signet.RevocationHard {
		return strictest
	}
	return own
}

var noTrust, _ = newTrust(kept{})

func (a *Authority) trustOf(hub string) *trust {
	t, ok := (*a.trust.Load())[hub]
	if !ok {
		return noTrust
	}
	if t.unreadable {
		// Whoever asks first tries again: a fault of the database must not outlast
		// itself.
		now, tried := a.now().UnixNano(), t.tried.Load()
		if (now < tried || now-tried >= int64(rereadAfter)) && t.tried.CompareAndSwap(tried, now) && a.reload(context.Background(), hub) == nil {
			return a.trustOf(hub)
		}
	}
	return t
}

// Judge validates what a device presented, leaf first, up to a verified anchor
// of the hub, and gives the certification path, leaf first and anchor last. What
// the device leaves out is completed from the registered certificates. It
// does not look at whom the leaf names. It refuses with a chain.*, cert.*,
// anchor.* or limit.* code.
func (a *Authority) Judge(hub string, chain []*x509.Certificate, at time.Time) ([]*x509.Certificate, error) {
	path, judged, err := a.judge(hub, a.trustOf(hub), a.revocation.of(hub), chain, at)
	a.revocation.learn(hub, judged, path, err)
	return path, err
}

// judge does so by what is trusted and by the CRLs that are in force, or that
// might be.
func (a *Authority) judge(hub string, t *trust, lists crlSet, chain []*x509.Certificate, at time.Time) (_ []*x509.Certificate, judged []judgement, _ error) {
	if t.unreadable {
		return nil, nil, unreadable()
	}
	request := pki.PathRequest{Chain: chain, Time: at, Usage: pki.UsageClient, MaxDepth: -1}
	if !t.distrusts.empty() || len(t.policies) > 0 || len(t.scopes) > 0 {
		request.Reject = func(path []*x509.Certificate) *signet.Error {
			refs := pki.Path(path)
			i, refusal := t.distrusts.refusal(refs)
			if refusal == nil && len(t.scopes) > 0 {
				i, refusal = t.outOfScope(refs, path[0])
			}
			if policy, refs, whole := t.asked(refs, path); policy != nil && refusal == nil {
				i, refusal = a.revocation.check(hub, lists, policy, refs, whole)
				judged = append(judged, judgement{policy, refs, slices.Clone(whole), slices.Clone(path), refusal})
				path = whole
			}
			if refusal == nil {
				return nil
			}
			return refusal.Of(pki.Reference(path[i], slices.IndexFunc(chain, path[i].Equal)))
		}
	}
	path, err := t.anchors.Validate(request)
	if err == nil {
		return path, judged, nil
	}
	if code := signet.CodeOf(err); t.unverified != nil && (code == signet.ChainUntrusted || code == signet.ChainIssuerMissing) {
		if path, e := t.unverified.Validate(request); e == nil {
			ca := path[len(path)-1]
			return nil, judged, signet.Refuse(signet.AnchorUnverified, "The chain is good up to %q, which is registered here but not verified.", ca.Subject).
				Of(pki.Reference(ca, -1)).At("isVerified", "true", "false")
		}
	}
	return nil, judged, err
}

// Trusts says whether the certificate with that SHA-256 thumbprint is a verified
// anchor of the hub now.
func (a *Authority) Trusts(hub string, thumbprint [32]byte) bool {
	return a.trustOf(hub).thumbprints[thumbprint]
}

// Revoked gives the refusal when a certificate of a path is distrusted or
// revoked by what is known now.
func (a *Authority) Revoked(hub string, path []*signet.PathCertificate) error {
	return a.revoked(hub, a.trustOf(hub), a.revocation.of(hub), path)
}

func (a *Authority) revoked(hub string, t *trust, lists crlSet, path []*signet.PathCertificate) error {
	if t.unreadable {
		return unreadable()
	}
	at, refusal := t.distrusts.refusal(path)
	if len(path) > 1 && refusal == nil { // one alone has no issuer that could revoke it
		if policy, whole, _ := t.asked(path, nil); policy != nil {
			at, refusal = a.revocation.check(hub, lists, policy, whole, nil)
			path = whole
		}
	}
	if refusal != nil {
		return refusal.Of(reference(path, at))
	}
	return nil
}

// reference points at a certificate of a path of which no more is kept.
func reference(path []*signet.PathCertificate, at int) *signet.CertificateRef {
	c := path[at]
	return &signet.CertificateRef{Index: at, Subject: c.Subject, Serial: c.Serial,
		Thumbprint: hex.EncodeToString(c.Thumbprint[:]), NotAfter: c.NotAfter}
}

// Reload reads what a hub trusts from the store again: after the hub has been
// made, or has gone with all that was its own. Until that can be read, it trusts
// nobody.
func (a *Authority) Reload(ctx context.Context, hub string) error {
	return errors.Join(a.revocation.load(ctx, hub), a.enforce(ctx, hub, nil, signet.Change{}))
}

// List gives the CA certificates of a hub by name.
func (a *Authority) List(ctx context.Context, hub string) ([]signet.CACertificate, error) {
	return a.store.CAs(ctx, hub)
}

// Get reads one CA certificate. It refuses with [signet.CertificateUnknown].
func (a *Authority) Get(ctx context.Context, hub, name string) (signet.CACertificate, error) {
	c, err := a.store.CA(ctx, hub, name)
	if errors.Is(err, signet.ErrNotFound) {
		return c, unknown(name)
	}
	return c, err
}

var caName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Register stores an uploaded CA certificate (PEM, base64 of PEM, or base64 of
// DER) under a name. With verified, the caller vouches that the hub's owner
// means to trust it, and no proof of possession is asked for.
//
// A name that is taken is replaced if ifMatch is its ETag or "*". Without
// ifMatch the same certificate again is no error and changes nothing, unless it
// is now vouched for; another certificate is refused with [signet.ETagMissing].
// What replaces a verified certificate is unverified, except when it is the same
// certificate: possession of its key has been proven.
//
// It refuses with an upload.* or cert.* code, [signet.ETagStale] or
// [signet.LimitCertificates].
func (a *Authority) Register(ctx context.Context, hub, name, upload string, verified bool, ifMatch string) (c signet.CACertificate, created bool, err error) {
	if !caName.MatchString(name) {
		return c, false, signet.Refuse(signet.RequestMalformed, "%q cannot name a certificate.", signet.Clip(name)).
			At("name", "1 to 64 letters, digits and - . _", name)
	}
	cert, err := pki.ParseUpload(upload)
	if err != nil {
		return c, false, err
	}
	now := a.stamp()
	if err := pki.CheckCA(cert, now); err != nil {
		return c, false, err
	}
	registered, err := a.store.CAs(ctx, hub)
	if err != nil {
		return c, false, err
	}
	for _, other := range registered {
		if string(other.DER) == string(cert.Raw) && !sameName(other.Name, name) {
			return c, false, signet.Refuse(signet.UploadDuplicate, "This certificate is registered already, as %q.", other.Name).
				Of(pki.Reference(cert, -1))
		}
	}

	old, err := a.store.CA(ctx, hub, name)
	if created = errors.Is(err, signet.ErrNotFound); created {
		// Counted before the write: two at once may exceed the limit by one, which
		// harms nobody.
		if len(registered) >= a.maxCAs {
			return c, false, signet.Refuse(signet.LimitCertificates, "The hub holds %d CA certificates, as many as it may.", len(registered))
		}
		old = signet.CACertificate{Hub: hub, Name: name, Created: now}
	} else if err != nil {
		return c, false, err
	}
	same := !created && string(old.DER) == string(cert.Raw)
	if !created {
		switch {
		case ifMatch == "" && !same:
			return c, false, signet.Refuse(signet.ETagMissing, "A certificate named %q exists; replacing it needs If-Match.", old.Name)
		case ifMatch == "" && (old.Verified || !verified):
			return old, false, nil
		case ifMatch != "" && ifMatch != "*" && ifMatch != old.ETag:
			return c, false, stale(name)
		}
	}

	c = old
	c.DER = cert.Raw
	c.Subject = cert.Subject.String()
	c.Thumbprint = pki.ThumbprintSHA1(cert.Raw)
	c.NotBefore, c.NotAfter = cert.NotBefore.UTC(), cert.NotAfter.UTC()
	c.Verified = verified || same && old.Verified
	c.VerificationCode = ""
	c.Updated, c.ETag = now, signet.NewETag()
	if created {
		err = a.store.CreateCA(ctx, c)
	} else {
		err = a.store.ReplaceCA(ctx, c, old.ETag)
	}
	return c, created, a.effect(ctx, hub, name, err, old.Verified && !same)
}

// Adopt makes a CA by which this server itself issues certificates a verified
// anchor of a hub, unless it is one: the server holds its key, so that nothing is
// left to be proven. It is registered under name, if it is not there already. On
// disk and in force on return. It refuses as Register does.
func (a *Authority) Adopt(ctx context.Context, hub, name string, ca *x509.Certificate) error {
	thumbprint := pki.PathCertificate(ca).Thumbprint
	if a.Trusts(hub, thumbprint) {
		return nil
	}
	// One at a time: all the first devices of a new policy come here together.
	a.adopting.Lock()
	defer a.adopting.Unlock()
	if a.Trusts(hub, thumbprint) {
		return nil
	}
	registered, err := a.store.CAs(ctx, hub)
	if err != nil {
		return err
	}
	for _, c := range registered {
		if bytes.Equal(c.DER, ca.Raw) {
			name = c.Name
		}
	}
	_, _, err = a.Register(ctx, hub, name, base64.StdEncoding.EncodeToString(ca.Raw), true, "")
	if err != nil && a.Trusts(hub, thumbprint) {
		return nil // its owner was faster
	}
	return err
}

// GenerateCode gives out a new random verification code; an earlier one counts
// no longer. It refuses with [signet.ETagMissing] and [signet.ETagStale].
func (a *Authority) GenerateCode(ctx context.Context, hub, name, ifMatch string) (signet.CACertificate, error) {
	return a.amend(ctx, hub, name, ifMatch, func(c *signet.CACertificate) error {
		c.VerificationCode = pki.NewVerificationCode()
		return nil
	})
}

// Verify checks a proof of possession (a certificate whose CN is the code last
// given out, signed by the CA's key) and makes the CA an anchor of the hub. It
// refuses with a proof.* or upload.* code, [signet.ETagMissing] or
// [signet.ETagStale].
func (a *Authority) Verify(ctx context.Context, hub, name, proof, ifMatch string) (signet.CACertificate, error) {
	return a.amend(ctx, hub, name, ifMatch, func(c *signet.CACertificate) error {
		if c.VerificationCode == "" {
			return signet.Refuse(signet.ProofCodeMismatch, "No verification code has been generated for %q since it was last changed.", c.Name)
		}
		cert, err := pki.ParseUpload(proof)
		if e := signet.AsError(err); e != nil {
			if e.Code == signet.UploadMalformed {
				e.Code, e.Fix = signet.ProofMalformed, signet.ProofMalformed.Info().Fix
			}
			return e
		}
		ca, err := x509.ParseCertificate(c.DER)
		if err != nil {
			return err
		}
		if err := pki.CheckProof(cert, ca, c.VerificationCode, a.now()); err != nil {
			return err
		}
		c.Verified, c.VerificationCode = true, ""
		return nil
	})
}

// Delete removes a CA certificate and ends the sessions that rest on it. It
// refuses with [signet.CertificateUnknown], [signet.ETagMissing] and
// [signet.ETagStale].
func (a *Authority) Delete(ctx context.Context, hub, name, ifMatch string) error {
	old, err := a.current(ctx, hub, name, ifMatch)
	if err != nil {
		return err
	}
	return a.effect(ctx, hub, name, a.store.DeleteCA(ctx, hub, name, old.ETag), old.Verified)
}

// amend reads a record, lets change alter it, stores it if it is still the same
// and brings it into force.
func (a *Authority) amend(ctx context.Context, hub, name, ifMatch string, change func(*signet.CACertificate) error) (signet.CACertificate, error) {
	c, err := a.current(ctx, hub, name, ifMatch)
	if err != nil {
		return c, err
	}
	etag := c.ETag
	if err := change(&c); err != nil {
		return c, err
	}
	c.Updated, c.ETag = a.stamp(), signet.NewETag()
	return c, a.effect(ctx, hub, name, a.store.ReplaceCA(ctx, c, etag), false)
}

// current reads a record that the caller means to change.
func (a *Authority) current(ctx context.Context, hub, name, ifMatch string) (signet.CACertificate, error) {
	c, err := a.Get(ctx, hub, name)
	switch {
	case err != nil:
		return c, err
	case ifMatch == "":
		return c, signet.Refuse(signet.ETagMissing, "Changing the certificate %q needs If-Match.", name)
	case ifMatch != "*" && ifMatch != c.ETag:
		return c, stale(name)
	}
	return c, nil
}

// effect brings the outcome of a write into force, then, if an anchor went, has
// the sessions ended that rested on it. A write that failed for a reason of the
// machine may have been kept all the same: then too, what is in force is read
// from the store.
func (a *Authority) effect(ctx context.Context, hub, name string, written error, anchorGone bool) error {
	switch {
	case errors.Is(written, signet.ErrStale), errors.Is(written, signet.ErrExists):
		return stale(name)
	case errors.Is(written, signet.ErrNotFound):
		return unknown(name)
	}
	return a.enforce(ctx, hub, written, signet.Change{Trust: anchorGone})
}

// enforce brings what is stored of a hub into force after a write, whatever came
// of it, then, if less is trusted than before, has the sessions ended that it
// concerns: less says in what way.
func (a *Authority) enforce(ctx context.Context, hub string, written error, less signet.Change) error {
	if err := a.reload(ctx, hub); err != nil {
		// Trust may only shrink by mistake: until the store can be read again, the
		// hub trusts nobody.
		a.distrustAll(hub)
		written, less.Trust = errors.Join(written, err), true
	}
	a.revocation.retune(hub)
	if less.Hub = hub; less.Trust || less.Scopes {
		a.changed(ctx, less)
	}
	return written
}

func (a *Authority) distrustAll(hub string) {
	a.trustMu.Lock()
	defer a.trustMu.Unlock()
	all := maps.Clone(*a.trust.Load())
	shut := &trust{unreadable: true}
	shut.tried.Store(a.now().UnixNano())
	all[hub] = shut
	a.trust.Store(&all)
}

func unreadable() error {
	return signet.Refuse(signet.Unavailable, "What the hub trusts could not be read after a change; until it can, it trusts nobody.").
		FixBy("The log has the cause. The hub recovers by itself once the database answers.")
}

// stamp is now as the store keeps it: UTC, to the millisecond.
func (a *Authority) stamp() time.Time { return a.now().UTC().Truncate(time.Millisecond) }

func unknown(name string) error {
	return signet.Refuse(signet.CertificateUnknown, "No certificate is registered as %q.", signet.Clip(name))
}

func stale(name string) error {
	return signet.Refuse(signet.ETagStale, "The certificate %q has changed since its etag was read.", name)
}
