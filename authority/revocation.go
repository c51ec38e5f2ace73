package authority

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/egress"
	"github.com/signet-iot/signet/pki"
)

const (
	// maxPolicyURLs bounds the addresses of one policy; a CA and its intermediates
	// have one each.
	maxPolicyURLs = 8
	maxURL        = 1024 // octets
	// maxSources bounds the sources of CRLs and the responders of a hub, each. A
	// fleet has a handful; more would come of following certificates that name one
	// each, and those get nothing.
	maxSources = 64
	// maxIssuers bounds the certificates of issuers that a hub remembers from
	// accepted paths, to judge CRLs and OCSP responses by: 8 MiB.
	maxIssuers = 1000
)

// revocation is what is known of certificates that their issuers have revoked.
//
// A device's connect only looks at it. What is not known is asked behind: Watch
// fetches CRLs and asks responders, and whatever it learns is in force before the
// sessions that it concerns end.
type revocation struct {
	a    *Authority
	log  *slog.Logger
	wake chan struct{} // to Watch: there is something to do

	lists  atomic.Pointer[map[string]crlSet] // by hub; replaced whole, readers take no lock
	adding sync.Mutex                        // held while one CRL is read, stored and put in force
	slots  chan struct{}                     // taken by who fetches a CRL
	near   *fetcher                          // to any address
	far    *fetcher                          // not to private ones

	mu         sync.RWMutex // guards what follows; never held while anything waits
	issuers    map[string]map[[32]byte]*x509.Certificate
	sources    map[sourceKey]*source
	responders map[sourceKey]*responder
	inquiries  map[inquiryKey]*inquiry
	kept       keptAnswers
	attempted  chan struct{}   // closed, and made anew, when a source has been gone to
	asking     int             // questions on their way
	askingFor  map[string]int  // of them, those of each hub
	dropped    int             // inquiries that there was no room for
	concerned  map[string]bool // hubs whose sessions are to be looked at
	looking    map[string]bool // hubs whose sessions are being looked at
	warned     map[string]string
}

func newRevocation(a *Authority, log *slog.Logger) *revocation {
	r := &revocation{
		a: a, log: log, wake: make(chan struct{}, 1), slots: make(chan struct{}, maxFetches), near: newFetcher(true), far: newFetcher(false),
		issuers: map[string]map[[32]byte]*x509.Certificate{}, sources: map[sourceKey]*source{},
		responders: map[sourceKey]*responder{}, inquiries: map[inquiryKey]*inquiry{},
		kept:      keptAnswers{restored: map[inquiryKey]restoredAnswer{}, unsaved: map[inquiryKey]signet.OCSPAnswer{}, dropped: map[inquiryKey]bool{}},
		attempted: make(chan struct{}), askingFor: map[string]int{}, concerned: map[string]bool{}, looking: map[string]bool{}, warned: map[string]string{},
	}
	r.lists.Store(&map[string]crlSet{})
	return r
}

func (r *revocation) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// RevocationPolicy gives the policy of a CA. When none was set, it is that of a
// registered CA above it, if there is one, and else [signet.RevocationOff]. It refuses
// with [signet.CertificateUnknown].
func (a *Authority) RevocationPolicy(ctx context.Context, hub, ca string) (signet.RevocationPolicy, error) {
	c, err := a.Get(ctx, hub, ca)
	if err != nil {
		return signet.RevocationPolicy{}, err
	}
	all, err := a.store.RevocationPolicies(ctx, hub)
	if err != nil {
		return signet.RevocationPolicy{}, err
	}
	for _, p := range all {
		if sameName(p.CA, c.Name) {
			return p, nil
		}
	}
	cert, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return signet.RevocationPolicy{}, fmt.Errorf("stored CA certificate %s of hub %s: %w", c.Name, c.Hub, err)
	}
	if above := a.trustOf(hub).inherited[pki.PathCertificate(cert).Key]; above != nil && c.Verified {
		p := *above.policy
		p.CA, p.From = c.Name, p.CA
		return p, nil
	}
	return signet.RevocationPolicy{Hub: hub, CA: c.Name, Mode: signet.RevocationOff}, nil
}

// SetRevocationPolicy sets the policy of a CA, which replaces the one before, and
// ends the sessions that rest on a certificate which is known to be revoked. It
// refuses with [signet.CertificateUnknown], [signet.RequestMalformed] or
// [signet.SourceForbidden].
func (a *Authority) SetRevocationPolicy(ctx context.Context, p signet.RevocationPolicy) (signet.RevocationPolicy, error) {
	c, err := a.Get(ctx, p.Hub, p.CA)
	if err != nil {
		return p, err
	}
	p.CA, p.From, p.Updated = c.Name, "", a.stamp()
	if err := checkPolicy(&p); err != nil {
		return p, err
	}
	err = a.store.SaveRevocationPolicy(ctx, p)
	if errors.Is(err, signet.ErrNotFound) {
		return p, unknown(p.CA)
	}
	return p, a.enforce(ctx, p.Hub, err, signet.Change{Trust: p.Mode != signet.RevocationOff})
}

func checkPolicy(p *signet.RevocationPolicy) error {
	switch p.Mode {
	case signet.RevocationOff, signet.RevocationSoft, signet.RevocationHard:
	default:
		return signet.Refuse(signet.RequestMalformed, "%q is not a revocation policy.", signet.Clip(string(p.Mode))).At("policy", "off, soft or hard", string(p.Mode))
	}
	if len(p.CRLs) > maxPolicyURLs {
		return signet.Refuse(signet.RequestMalformed, "The policy has %d URLs of CRLs; at most %d are taken.", len(p.CRLs), maxPolicyURLs)
	}
	p.CRLs = slices.Compact(slices.Sorted(slices.Values(p.CRLs)))
	addresses := slices.Clone(p.CRLs)
	if p.OCSP != "" {
		addresses = append(addresses, p.OCSP)
	}
	for _, address := range addresses {
		u, err := sourceURL(address)
		if err != nil {
			return err
		}
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !p.AllowPrivate && egress.Private(ip) {
			return forbidden()
		}
	}
	return nil
}

// sourceURL reads an address that the hub may be sent to.
func sourceURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || len(address) > maxURL || u.Hostname() == "" || u.Opaque != "":
		return nil, signet.Refuse(signet.RequestMalformed, "%q is not a URL.", signet.Clip(address)).At("url", "http://HOST/PATH, of at most 1024 octets", address)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, signet.Refuse(signet.SourceForbidden, "%q is not an address of http or https.", signet.Clip(address)).At("url", "http or https", u.Scheme)
	case u.User != nil: // it would be shown and logged
		return nil, signet.Refuse(signet.RequestMalformed, "The URL holds a user name or password.")
	}
	return u, nil
}

// check gives the refusal of a path under a policy that is not off: nothing on it
// may be revoked, and in mode hard that has to be known. refs is the path as
// [pki.Path] keeps it; path is nil for a session that is established, of which
// nothing need be known anew. Everything is answered from memory: a few look-ups
// a certificate.
func (r *revocation) check(hub string, lists crlSet, policy *signet.RevocationPolicy, refs []*signet.PathCertificate, path []*x509.Certificate) (at int, _ *signet.Error) {
	now := r.a.now()
	for i, c := range refs[:len(refs)-1] {
		issuer := refs[i+1]
		known, why := false, "there is no CRL of its issuer, and no responder has answered yet"
		for _, l := range lists[issuer.Key] {
			if revoked, listed := l.Revoked(c.Serial); listed {
				return i, revokedBy(c, "the CRL of "+signet.Clip(l.Issuer.Subject.String()), revoked)
			}
			if path == nil {
				continue
			}
			if err := l.Current(now); err != nil {
				why = "the CRL of its issuer is out of date since " + l.NextUpdate.UTC().Format(time.RFC3339)
			} else if l.Covers(path[i].RawIssuer) {
				known = true
			}
		}
		if answer := r.answer(inquiryKey{hub, issuer.Key, c.Serial}); answer != nil {
			switch answer.Status {
			case signet.OCSPRevoked:
				return i, revokedBy(c, "the OCSP responder", answer.Revocation)
			case signet.OCSPGood:
				known = known || !now.After(answer.until)
			case signet.OCSPUnknown:
				why = "the OCSP responder does not know it"
			}
		}
		if !known && path != nil && policy.Mode == signet.RevocationHard {
			return i, signet.Refuse(signet.CertRevocationUnknown, "Whether %q is revoked is not known: %s.", c.Subject, why).
				At("revocation", "a CRL in its time, or an answer of a responder", why).
				FixBy("If a responder is set or followed, the hub is asking it now: connect again. Otherwise give the hub a CRL of the issuer: signet crl upload, or signet revocation set --url")
		}
	}
	return 0, nil
}

func revokedBy(c *signet.PathCertificate, whose string, revoked pki.Revocation) *signet.Error {
	return signet.Refuse(signet.CertRevoked, "%q was revoked by its issuer at %s, says %s.", c.Subject, revoked, whose).
		At("serialNumber", "not revoked", c.Serial).FixBy("Issue a new certificate with a new key.")
}

// A judgement is what was said of one path while a chain was judged.
type judgement struct {
	policy  *signet.RevocationPolicy
	refs    []*signet.PathCertificate
	whole   []*x509.Certificate // up to the CA whose policy it is
	path    []*x509.Certificate // up to the anchor
	refusal *signet.Error
}

// learn takes notice of the path that a chain was accepted by, or would have been
// if more were known: its issuers, the addresses that it names, and what a
// responder has to be asked. Its signatures are good, whereas a judgement may be
// of a path whose signatures are yet to be checked.
func (r *revocation) learn(hub string, judged []judgement, path []*x509.Certificate, err error) {
	for _, j := range judged {
		if err == nil && j.refusal == nil && slices.Equal(j.path, path) ||
			j.refusal != nil && err == error(j.refusal) && j.refusal.Code == signet.CertRevocationUnknown {
			r.met(hub, j.policy, j.refs, j.whole)
			return
		}
	}
}

func (r *revocation) met(hub string, policy *signet.RevocationPolicy, refs []*signet.PathCertificate, path []*x509.Certificate) {
	for i, c := range path[:len(path)-1] {
		issuer := r.intern(hub, refs[i+1].Thumbprint, path[i+1])
		if issuer == nil {
			continue
		}
		if policy.Follow {
			for _, address := range c.CRLDistributionPoints[:min(len(c.CRLDistributionPoints), maxPolicyURLs)] {
				r.follow(hub, policy, address)
			}
		}
		address, followed := policy.OCSP, false
		if address == "" && policy.Follow && len(c.OCSPServer) > 0 {
			address, followed = c.OCSPServer[0], true
		}
		if address != "" {
			r.inquire(inquiryKey{hub, refs[i+1].Key, refs[i].Serial}, policy, address, followed, issuer, c.NotAfter)
		}
	}
}

// intern gives the one copy of an issuer's certificate that is kept; nil when
// there are too many.
func (r *revocation) intern(hub string, thumbprint [32]byte, issuer *x509.Certificate) *x509.Certificate {
	r.mu.RLock()
	known := r.issuers[hub][thumbprint]
	r.mu.RUnlock()
	if known != nil {
		return known
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.issuers[hub]
	if of == nil {
		of = map[[32]byte]*x509.Certificate{}
		r.issuers[hub] = of
	}
	if known = of[thumbprint]; known != nil {
		return known
	}
	if len(of) >= maxIssuers {
		r.dropped++
		return nil
	}
	of[thumbprint] = issuer
	// A CRL that nobody here vouched for may be this issuer's.
	for key, s := range r.sources {
		if key.hub == hub && s.fault != nil && s.fault.Code == signet.CRLWrongSigner {
			s.next = time.Time{}
		}
	}
	r.nudge()
	return issuer
}

// candidates are the certificates whose keys may sign a CRL of a hub: its CAs,
// those met on paths, and those beside the CRL.
func (r *revocation) candidates(hub string, beside []*x509.Certificate) []*x509.Certificate {
	all := slices.Clone(beside)
	all = append(all, r.a.trustOf(hub).cas...)
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.AppendSeq(all, maps.Values(r.issuers[hub]))
}

// retune makes sources and responders those that the policies in force name, and
// the CRLs those of hubs that are there.
func (r *revocation) retune(hub string) {
	t := r.a.trustOf(hub)
	byCA := map[string]*signet.RevocationPolicy{}
	for _, p := range t.policies {
		byCA[p.CA] = p
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(t.cas) == 0 {
		delete(r.issuers, hub)
	}
	r.kept.outlive(hub, byCA)
	for key, s := range r.sources {
		p := byCA[key.ca]
		if key.hub == hub && (p == nil || p.Mode == signet.RevocationOff || s.private != p.AllowPrivate ||
			!slices.Contains(p.CRLs, key.url) && !(s.followed && p.Follow)) {
			delete(r.sources, key)
		}
	}
	for key, d := range r.responders {
		p := byCA[key.ca]
		if key.hub != hub {
			continue
		}
		if p == nil || p.Mode == signet.RevocationOff || d.private != p.AllowPrivate || key.url != p.OCSP && !(d.followed && p.Follow && p.OCSP == "") {
			for _, q := range d.due {
				delete(r.inquiries, q.key)
				r.kept.drop(q.key)
			}
			d.gone = true
			delete(r.responders, key)
			continue
		}
		d.nonce = p.RequireNonce
	}
	for _, p := range byCA {
		if p.Mode == signet.RevocationOff {
			continue
		}
		for _, address := range p.CRLs {
			r.addSource(sourceKey{hub, p.CA, address}, p.AllowPrivate, false)
		}
		// What was followed is so again after a restart, before any device comes.
		for _, of := range (*r.lists.Load())[hub] {
			for _, l := range of {
				if p.Follow && l.record.CA == p.CA && l.record.Source != uploaded {
					r.addSource(sourceKey{hub, p.CA, l.record.Source}, p.AllowPrivate, true)
				}
			}
		}
	}
	r.nudge()
}

// inForce says whether a policy that a device was judged by is one still.
func (r *revocation) inForce(hub string, policy *signet.RevocationPolicy) bool {
	for _, p := range r.a.trustOf(hub).policies {
		if p == policy {
			return true
		}
	}
	return false
}

// Watch fetches CRLs and asks OCSP responders as the policies say, and warns of
// CRLs that grow old, until ctx ends. What it learns ends the sessions that it
// concerns.
func (a *Authority) Watch(ctx context.Context) {
	r := a.revocation
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var work sync.WaitGroup
	defer func() {
		work.Wait()
		r.mu.Lock()
		said, dropped, some := r.kept.toSave()
		r.mu.Unlock()
		if some {
			r.save(ctx, said, dropped)
		}
	}()
	for ctx.Err() == nil {
		r.mu.Lock()
		sources, inquiries, hubs := r.dueSources(), r.dueInquiries(), r.dueHubs()
		said, dropped, some := r.kept.toSave()
		r.mu.Unlock()
		if some {
			work.Go(func() { r.save(ctx, said, dropped) })
		}
		for _, s := range sources {
			work.Go(func() { r.fetch(ctx, s) })
		}
		for _, q := range inquiries {
			work.Go(func() { r.ask(ctx, q) })
		}
		for _, hub := range hubs {
			work.Go(func() { r.look(ctx, hub) })
		}
		r.warn(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-r.wake:
		}
	}
}

// dueHubs takes the hubs whose sessions are to be looked at. One look is for all
// that responders have said until then.
func (r *revocation) dueHubs() (due []string) {
	for hub := range r.concerned {
		if !r.looking[hub] {
			delete(r.concerned, hub)
			r.looking[hub] = true
			due = append(due, hub)
		}
	}
	return due
}

func (r *revocation) look(ctx context.Context, hub string) {
	r.a.changed(ctx, signet.Change{Hub: hub, Trust: true})
	r.mu.Lock()
	delete(r.looking, hub)
	r.mu.Unlock()
	r.nudge()
}

// warn tells, once each, of CRLs that are in the last quarter of their time or
// past it, and of certificates that there is no room to ask after.
func (r *revocation) warn(ctx context.Context) {
	for _, old := range r.growOld() {
		if r.a.stale != nil {
			r.a.stale(ctx, old)
		}
	}
}

func (r *revocation) growOld() (old []signet.StaleCRL) {
	now, warned := r.a.now(), map[string]string{}
	r.mu.Lock()
	defer r.mu.Unlock()
	for hub, set := range *r.lists.Load() {
		for _, of := range set {
			for _, l := range of {
				state, key := l.state(now), hub+"/"+l.record.ID
				if state != r.warned[key] && state != stateCurrent {
					r.log.Warn("a CRL grows old and no newer one has come", "hub", hub, "issuer", l.record.Issuer, "state", state,
						"nextUpdate", l.NextUpdate.UTC().Format(time.RFC3339), "source", shown(l.record.Source))
					old = append(old, signet.StaleCRL{Hub: hub, Issuer: l.record.Issuer, State: state, NextUpdate: l.NextUpdate.UTC(), Source: shown(l.record.Source)})
				}
				warned[key] = state
			}
		}
	}
	r.warned = warned
	if r.dropped > 0 {
		r.log.Warn("certificates are not asked after: too many are", "count", r.dropped, "bound", maxInquiries)
		r.dropped = 0
	}
	return old
}

// RevocationSources gives the sources and responders of a hub by CA and URL, with
// how they fare.
func (a *Authority) RevocationSources(hub string) []signet.RevocationSource {
	r := a.revocation
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := []signet.RevocationSource{}
	for key, s := range r.sources {
		if key.hub == hub {
			list = append(list, signet.RevocationSource{CA: key.ca, Kind: "crl", URL: key.url, Followed: s.followed, Answered: s.answered, Next: s.next, Fault: s.fault})
		}
	}
	for key, d := range r.responders {
		if key.hub == hub {
			list = append(list, signet.RevocationSource{CA: key.ca, Kind: "ocsp", URL: key.url, Followed: d.followed, Answered: d.answered, Certificates: d.certificates, Fault: d.fault})
		}
	}
	slices.SortFunc(list, func(a, b signet.RevocationSource) int {
		return cmp.Or(strings.Compare(a.CA, b.CA), strings.Compare(a.Kind, b.Kind), strings.Compare(a.URL, b.URL))
	})
	return list
}

var (
	untilNextUpdate = prometheus.NewDesc("signet_crl_next_update_seconds",
		"Seconds until the nextUpdate of a CRL; below zero it is out of date.", []string{"hub", "crl", "issuer"}, nil)
	sourceFailures = prometheus.NewDesc("signet_revocation_source_failures",
		"Attempts at a source of CRLs or a responder that failed since the last that did not.", []string{"hub", "ca", "kind", "url"}, nil)
	inquiriesKept = prometheus.NewDesc("signet_ocsp_certificates", "Certificates that OCSP responders are asked after.", nil, nil)
)

// Describe is for prometheus.
func (a *Authority) Describe(ch chan<- *prometheus.Desc) {
	ch <- untilNextUpdate
	ch <- sourceFailures
	ch <- inquiriesKept
}

// Collect is for prometheus: how old CRLs are, and how their sources fare.
func (a *Authority) Collect(ch chan<- prometheus.Metric) {
	r := a.revocation
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for hub, set := range *r.lists.Load() {
		for _, of := range set {
			for _, l := range of {
				gauge(untilNextUpdate, l.NextUpdate.Sub(a.now()).Seconds(), hub, l.record.ID, strings.ToValidUTF8(l.record.Issuer, "\uFFFD"))
			}
		}
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	failures := map[[4]string]int{} // two that differ in what is not shown are one
	count := func(key sourceKey, kind string, n int) {
		labels := [4]string{key.hub, key.ca, kind, strings.ToValidUTF8(shown(key.url), "\uFFFD")}
		failures[labels] = max(failures[labels], n)
	}
	for key, s := range r.sources {
		count(key, "crl", s.failures)
	}
	for key, d := range r.responders {
		count(key, "ocsp", d.failures)
	}
	for labels, n := range failures {
		gauge(sourceFailures, float64(n), labels[:]...)
	}
	gauge(inquiriesKept, float64(len(r.inquiries)))
}

// shown is an address as it is logged: without the query, which may hold a secret.
func shown(address string) string {
	before, _, cut := strings.Cut(address, "?")
	if cut {
		return before + "?…"
	}
	return before
}
