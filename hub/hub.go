// Package hub is the waist between the doors that devices come through and the
// keepers behind them: Connect takes credentials and gives a Session, and a
// Session has the verbs that a device can do. A protocol knows nothing of what
// lies behind; what lies behind knows nothing of protocols.
//
// One Hub serves every hub of the server; whatever it keeps is kept by the
// hub's name, so that nothing of one is visible to, or worth anything at,
// another.
package hub

import (
	"context"
	"crypto/x509"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// Trust judges chains, by what a hub trusts or might trust. Safe for concurrent
// use; it answers from memory, except where devices are counted.
type Trust interface {
	// Judge validates a chain, leaf first, up to a verified anchor of the hub.
	Judge(hub string, chain []*x509.Certificate, at time.Time) (path []*x509.Certificate, err error)
	// Trusts says whether a certificate, by SHA-256 thumbprint, is such an anchor.
	Trusts(hub string, thumbprint [32]byte) bool
	// Revoked gives the refusal when a certificate of a path, leaf first, is
	// distrusted or revoked by what is known now; nil when none is.
	Revoked(hub string, path []*signet.PathCertificate) error
	// InScope says whether a principal is within the scopes of the CAs on its path, the
	// number of devices included; it counts nobody in.
	InScope(ctx context.Context, p *signet.Principal) error
}

// Authority judges chains by what is in force. Its server is package authority.
type Authority interface {
	Trust
	// Admit says what InScope does. Where the number of devices is bounded it counts
	// the device in, on disk before it returns: it is asked last.
	Admit(ctx context.Context, p *signet.Principal) error
	// List gives the registered CAs of the hub, verified or not.
	List(ctx context.Context, hub string) ([]signet.CACertificate, error)
}

// Registry knows the hubs and their identities. Its server is package registry.
// Safe for concurrent use; what it answers is what is on disk.
type Registry interface {
	Hubs() []signet.Hub
	Services() []signet.Hub // provisioning services
	HubByHost(host string) (signet.Hub, error)
	HubByName(name string) (signet.Hub, error)
	Get(ctx context.Context, hub, device, module string) (signet.Identity, error)
	// Subscribe replaces the Subscriptions of an identity of that generation; nil
	// means on disk.
	Subscribe(ctx context.Context, hub, device, module, generation string, subscriptions uint32) error

	// Twin reads the twin of an identity.
	Twin(ctx context.Context, hub, device, module string) (signet.Twin, error)
	// Report merges a patch into the reported properties of an identity of that
	// generation, if their version is ifVersion or that is 0; it gives the new
	// version once it is on disk.
	Report(ctx context.Context, hub, device, module, generation string, patch []byte, ifVersion int64) (version int64, err error)
}

// Verdicts takes refusals for people to read. Its server is package authority.
// It never waits and never fails.
type Verdicts interface {
	Record(signet.Verdict) (trackingID string)
}

// Inventory takes how devices have authenticated, for people to look at. Its
// server is package inventory. It never waits and never fails.
type Inventory interface {
	// Saw is told of a certification path, leaf first, that let an identity in.
	Saw(p *signet.Principal, path []*x509.Certificate, tls string, remote netip.Addr)
	// Moved is told that it has taken over a live session of its own, by the same
	// certificate, from another address.
	Moved(p *signet.Principal, from, to netip.Addr)
	// Left is told that the session of such an identity has ended.
	Left(p *signet.Principal)
	// Refused is told of a verdict.
	Refused(v *signet.Verdict)
}

// Activity is told of what identities do. Its server is package registry. It never
// waits.
type Activity interface {
	Seen(p *signet.Principal, at time.Time)
	// ConnectionChanged is told after [Hub.Connected] has changed its answer.
	ConnectionChanged(p *signet.Principal, at time.Time)
}

type noActivity struct{}

func (noActivity) Seen(*signet.Principal, time.Time)              {}
func (noActivity) ConnectionChanged(*signet.Principal, time.Time) {}

// Hub is the waist. Safe for concurrent use.
type Hub struct {
	node      string
	authority Authority
	registry  Registry
	verdicts  Verdicts
	inventory Inventory // nil is none
	messages  Messages
	commands  Commands
	issuer    Issuer // nil when nothing is issued here
	activity  Activity
	limiter   Limiter
	now       func() time.Time

	// changes counts the calls of Apply. A connect that sees it move between
	// judging and being findable judges again.
	changes atomic.Uint64

	radii     chan struct{} // taken by who asks for a radius
	assessing chan struct{} // and by the one that is worked out

	mu       sync.RWMutex
	connects uint64                           // numbers the sessions
	sessions map[string]map[string][]*Session // hub, device ID → sessions of the device and its modules

	callNumber atomic.Uint64         // of the last method call; begins anywhere, so that no late answer fits
	callMu     sync.Mutex            // held with no other lock
	callees    map[[3]string]*callee // hub, device ID, module ID → calls under way

	presence  presence
	hammering hammering
}

// Options of a Hub; all but Inventory, Issuer, Activity, Limiter, Now and Node are required.
type Options struct {
	Authority Authority
	Registry  Registry
	Verdicts  Verdicts
	Inventory Inventory
	Messages  Messages
	Commands  Commands
	Issuer    Issuer           // nothing is renewed when nil
	Activity  Activity         // nobody is told when nil
	Limiter   Limiter          // nothing is limited when nil
	Now       func() time.Time // the clock; time.Now when nil
	Node      string           // names this process in receipts
}

// New makes a Hub.
func New(o Options) *Hub {
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &Hub{node: o.Node, authority: o.Authority, registry: o.Registry, verdicts: o.Verdicts, inventory: o.Inventory, messages: o.Messages,
		commands: o.Commands, issuer: o.Issuer, activity: o.Activity, limiter: o.Limiter, now: o.Now, sessions: map[string]map[string][]*Session{}, callees: map[[3]string]*callee{}}
	h.radii, h.assessing = make(chan struct{}, maxRadii), make(chan struct{}, 1)
	if h.activity == nil {
		h.activity = noActivity{}
	}
	if h.limiter == nil {
		h.limiter = noLimits{}
	}
	h.callNumber.Store(rand.Uint64N(1 << 48))
	h.presence.init(o.Now())
	return h
}

// Credentials are what a device shows at a door.
type Credentials struct {
	Door     signet.Door
	Remote   netip.AddrPort
	Host     string // the hub's host name as the client wrote it
	DeviceID string
	ModuleID string // empty for a device
	// Chain is what the device presented in the TLS handshake, leaf first; the
	// handshake has proven that it holds the leaf's key. It is judged anew at
	// every connect, resumed handshake or not.
	Chain []*x509.Certificate
	TLS   string // version of TLS, as crypto/tls names it; "" when it was not spoken
	// Token is a SAS token; where there is one, the chain does not count.
	Token string

	// What the client says of itself, for people.
	APIVersion, ModelID, Client string
}

// Connect judges the credentials and begins a session. An older session of the
// same identity ends. wake is called, from any goroutine, whenever the session
// has something for the door to fetch; it must not block.
//
// A refusal is an [signet.Error] that is recorded already and bears the
// tracking ID of its verdict.
func (h *Hub) Connect(ctx context.Context, c Credentials, wake func()) (*Session, error) {
	s, err := h.connect(ctx, c, wake)
	if err == nil {
		return s, nil
	}
	return nil, h.refused(c, err)
}

// Authenticate judges the credentials of a single request, by a door whose
// connections are not sessions. The session that it gives takes over from none
// and is found by nothing; it is good for what the request does, and asks itself
// before it does that whether anything has changed since. Refusals as for Connect.
func (h *Hub) Authenticate(ctx context.Context, c Credentials) (*Session, error) {
	changes, now := h.changes.Load(), h.now()
	if told := h.hammering.again(c, changes, now); told != nil {
		return nil, h.refused(c, told)
	}
	j, err := h.judge(ctx, c, now, h.authority)
	if err == nil {
		// Counted only now: a stranger uses up nobody's rate.
		_, err = h.meter(j.principal.Hub, j.principal.DeviceID, signet.MeterConnections, 1, 0)
	}
	if err == nil {
		err = h.authority.Admit(ctx, &j.principal)
	}
	h.hammering.judged(c, err, changes, now)
	if err != nil {
		return nil, h.refused(c, err)
	}
	h.saw(c, j)
	s := h.newSession(c, j, func() {})
	s.single, s.judgedAt = true, changes
	return s, nil
}

// Explain judges credentials as a connect at that time would be, by what is
// trusted now or, if under is not nil, by what that trusts. It does nothing else:
// it gives the certification path, leaf first, or the refusal, which is not
// recorded.
func (h *Hub) Explain(ctx context.Context, c Credentials, at time.Time, under Trust) ([]*x509.Certificate, error) {
	if under == nil {
		under = h.authority
	}
	j, err := h.judge(ctx, c, at, under)
	if err == nil {
		err = under.InScope(ctx, &j.principal)
	}
	if err != nil {
		return nil, err
	}
	return j.path, nil
}

// Refuse records a refusal that a door made itself, before there were
// credentials to judge. host is the hub's host name as the client wrote it, if it
// came that far: a verdict that names no hub is put to the hub of that name.
func (h *Hub) Refuse(host string, v signet.Verdict) (trackingID string) {
	if tenant, err := h.registry.HubByHost(host); err == nil && v.Hub == "" {
		v.Hub = tenant.Name
	}
	v.DeviceID, v.ModuleID = clipID(v.DeviceID), clipID(v.ModuleID)
	return h.verdicts.Record(v)
}

// refused records a refusal and gives it its tracking ID.
func (h *Hub) refused(c Credentials, err error) *signet.Error {
	e := signet.AsError(err)
	v := signet.Verdict{Error: *e, Door: c.Door, Remote: c.Remote.Addr().Unmap().String(), DeviceID: clipID(c.DeviceID), ModuleID: clipID(c.ModuleID)}
	if tenant, err := h.registry.HubByHost(c.Host); err == nil {
		v.Hub = tenant.Name
	}
	for _, cert := range c.Chain[:min(len(c.Chain), 10)] {
		v.Chain = append(v.Chain, pki.ThumbprintSHA256(cert.Raw))
	}
	refusal := *e // the original may be shared
	refusal.TrackingID = h.verdicts.Record(v)
	if h.inventory != nil {
		h.inventory.Refused(&v)
	}
	return &refusal
}

// clipID keeps what a stranger wrote as an ID from filling the verdict log.
func clipID(id string) string {
	if signet.ValidID(id) {
		return id
	}
	return signet.Clip(id)
}

func (h *Hub) connect(ctx context.Context, c Credentials, wake func()) (*Session, error) {
	changes, now := h.changes.Load(), h.now()
	if told := h.hammering.again(c, changes, now); told != nil {
		return nil, told
	}
	j, err := h.judge(ctx, c, now, h.authority)
	if err != nil {
		j, err = h.lane(ctx, c, err)
	}
	if err == nil {
		// Counted only now: a stranger uses up nobody's rate.
		_, err = h.meter(j.principal.Hub, j.principal.DeviceID, signet.MeterConnections, 1, 0)
	}
	if err == nil {
		err = h.authority.Admit(ctx, &j.principal)
	}
	h.hammering.judged(c, err, changes, now)
	if err != nil {
		return nil, err
	}
	s := h.newSession(c, j, wake)
	if err := h.admit(s); err != nil {
		return nil, err
	}
	// From here Apply finds the session. Whatever changed between the judgement
	// and now is looked at again; whatever changes later will end it.
	if h.changes.Load() != changes {
		if err := h.review(ctx, s); err != nil {
			s.end(err)
			return nil, err
		}
	}
	h.saw(c, j)
	return s, nil
}

// saw tells the inventory of a path that has let a device in.
func (h *Hub) saw(c Credentials, j *judgement) {
	if h.inventory != nil && len(j.path) > 0 {
		h.inventory.Saw(&j.principal, j.path, c.TLS, c.Remote.Addr())
	}
}

// A judgement is whom credentials belong to.
type judgement struct {
	principal signet.Principal
	path      []*x509.Certificate // leaf first; empty for a token
	witness   string              // see [Hub.reviewIdentity]
	made      time.Time           // the hub
	kept      uint32              // see [Session.Kept]
}

// judge decides who the credentials belong to. The cheap questions come first:
// no chain is validated for a device that the hub does not know.
func (h *Hub) judge(ctx context.Context, c Credentials, at time.Time, trust Trust) (*judgement, error) {
	tenant, err := h.registry.HubByHost(c.Host)
	if err != nil {
		return nil, err
	}
	if !signet.ValidID(c.DeviceID) || c.ModuleID != "" && !signet.ValidID(c.ModuleID) {
		return nil, signet.Refuse(signet.RequestMalformed, "%q cannot be a device ID.", signet.Clip(signet.IdentityName(c.DeviceID, c.ModuleID)))
	}
	identity, err := h.registry.Get(ctx, tenant.Name, c.DeviceID, c.ModuleID)
	if err != nil {
		return nil, err
	}
	if err := h.enabled(ctx, &identity); err != nil {
		return nil, err
	}
	j := &judgement{made: tenant.Created, kept: identity.Subscriptions, principal: signet.Principal{
		Hub: tenant.Name, DeviceID: identity.DeviceID, ModuleID: identity.ModuleID,
		GenerationID: identity.GenerationID, Auth: identity.Auth.Type, Scope: "device",
	}}
	if identity.ModuleID != "" {
		j.principal.Scope = "module"
	}
	switch {
	case c.Token != "":
		err = j.byToken(&identity, tenant, c.Token, at)
	case len(c.Chain) == 0:
		err = signet.Refuse(signet.ChainNone, "The device presented neither a certificate nor a token.")
	case identity.Auth.Type == signet.AuthCA:
		err = judgeChain(trust, j, c.Chain, tenant.HostName, at)
	case identity.Auth.Type == signet.AuthSelfSigned:
		err = judgeThumbprint(trust, j, &identity, c.Chain[0], at)
	default:
		err = wrongType(&identity, "a certificate")
	}
	if err != nil {
		return nil, err
	}
	j.principal.Path, j.principal.Sent = pki.Path(j.path), pki.Sent(j.path, c.Chain)
	if len(j.path) > 0 {
		j.principal.Issued, j.principal.KeyType = j.path[0].NotBefore, pki.KeyTypeOf(j.path[0])
	}
	if tenant.AtExpiry == signet.EndAtExpiry && len(j.path) > 0 {
		j.principal.Expires = firstExpiry(j.principal.Path)
	}
	if identity.Auth.Type == signet.AuthSelfSigned {
		if err := trust.Revoked(tenant.Name, j.principal.Path); err != nil {
			return nil, err
		}
	}
	return j, nil
}

// enabled says whether the identity may connect: a module may when its device may.
func (h *Hub) enabled(ctx context.Context, i *signet.Identity) error {
	device := i
	if i.ModuleID != "" {
		d, err := h.registry.Get(ctx, i.Hub, i.DeviceID, "")
		if err != nil {
			return err
		}
		device = &d
	}
	if device.Status == signet.Enabled {
		return nil
	}
	e := signet.Refuse(signet.IdentityDisabled, "The device %q is disabled.", device.DeviceID).At("status", "enabled", string(device.Status))
	if device.StatusReason != "" {
		e.Message = "The device \"" + device.DeviceID + "\" is disabled: " + device.StatusReason + "."
	}
	return e
}

// judgeChain: a path to a verified CA, and the leaf names the identity, and no other
// hub.
func judgeChain(trust Trust, j *judgement, chain []*x509.Certificate, host string, at time.Time) (err error) {
	p := &j.principal
	if j.path, err = trust.Judge(p.Hub, chain, at); err != nil {
		return err
	}
	if err := pki.CheckCommonName(j.path[0], signet.IdentityName(p.DeviceID, p.ModuleID)); err != nil {
		return err
	}
	return pki.CheckHub(j.path[0], host)
}

// judgeThumbprint: the leaf itself is registered. No path is asked for, but a
// certificate counts only within its validity, and a registered CA is no device.
func judgeThumbprint(trust Trust, j *judgement, i *signet.Identity, leaf *x509.Certificate, at time.Time) error {
	sha1, sha256 := pki.ThumbprintSHA1(leaf.Raw), pki.ThumbprintSHA256(leaf.Raw)
	if !thumbprintMatches(i, sha256, sha1) {
		return signet.Refuse(signet.IdentityThumbprint, "The presented certificate is not one that is registered for %q.", i.Name()).
			Of(pki.Reference(leaf, 0)).
			At("thumbprint", "primary "+i.Auth.PrimaryThumbprint+" or secondary "+i.Auth.SecondaryThumbprint,
				"SHA-1 "+sha1+", SHA-256 "+sha256)
	}
	if trust.Trusts(i.Hub, pki.PathCertificate(leaf).Thumbprint) {
		return signet.Refuse(signet.CertIsCAAnchor, "The certificate that is registered for %q is registered here as a CA too.", i.Name()).
			At("certificate", "one of the device", "the CA's").Of(pki.Reference(leaf, 0))
	}
	j.path, j.witness = []*x509.Certificate{leaf}, sha1
	return pki.CheckSelfStanding(leaf, at)
}

func wrongType(i *signet.Identity, presented string) error {
	return signet.Refuse(signet.IdentityAuthType, "The identity %q authenticates by %s, and the device presented %s.", i.Name(), i.Auth.Type, presented).
		At("authentication.type", string(i.Auth.Type), presented)
}

// Read reads the messages of a hub; see [Messages.Read]. What was sent to an
// earlier hub of the name is not its own, should anything of that have stayed.
func (h *Hub) Read(ctx context.Context, hub string, from Start, follow bool, each func(signet.Position, *signet.Message) bool) error {
	tenant, err := h.registry.HubByName(hub)
	if err != nil {
		return err
	}
	return h.messages.Read(ctx, tenant.Name, from, follow, func(p signet.Position, m *signet.Message) bool {
		return m.EnqueuedTime.Before(tenant.Created) || each(p, m)
	})
}

// enqueued is the time of a message that is taken now: not before its hub was made, or
// Read would pass over it. A clock may be set back, and another server's be ahead.
func (h *Hub) enqueued(made time.Time) time.Time {
	now := h.now().UTC().Truncate(time.Millisecond)
	if now.Before(made) {
		return made
	}
	return now
}

// Ends gives the first and the last message of a hub; see [Messages.Ends].
func (h *Hub) Ends(ctx context.Context, hub string) (first, last signet.Position, enqueued time.Time, err error) {
	tenant, err := h.registry.HubByName(hub)
	if err == nil {
		first, last, enqueued, err = h.messages.Ends(ctx, tenant.Name)
	}
	if err != nil || enqueued.Before(tenant.Created) {
		return signet.Position{}, signet.Position{}, time.Time{}, err
	}
	return first, last, enqueued, nil
}

// Forget removes the messages of a hub that has been deleted.
func (h *Hub) Forget(ctx context.Context, hub string) error { return h.messages.Forget(ctx, hub) }
