// Package provisioning gives devices that no hub knows yet their place: it finds
// the enrollment that a device's proof answers to, chooses a hub, and writes the
// identity there.
//
// A registration is on disk before it is answered, and is worked on after: a
// server that stops in between goes on with it at its next start.
package provisioning

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
)

// Provisioning is the keeper of enrollments and of registrations, and gives
// devices their place. Safe for concurrent use.
type Provisioning struct {
	deps    Deps
	log     *slog.Logger
	groups  groupCache
	desk    *desk
	outside turnstile
	tally   tally
	ahead   chan struct{} // taken by who works out what a change would do

	ended      *prometheus.CounterVec // registrations, by status
	unfinished prometheus.GaugeFunc
}

// Deps are what a Provisioning stands on; all but Issuer and what comes after it
// are required.
type Deps struct {
	Enrollments   EnrollmentStore
	Registrations RegistrationStore
	Authority     Authority
	Tenants       Tenants
	Hubs          Hubs
	Verdicts      Verdicts
	Issuer        Issuer // nil when nothing issues certificates
	// Webhooks goes to the webhooks of custom allocation. It decides where to it may
	// go; it follows no redirect, whatever it says itself. http.DefaultTransport
	// when nil.
	Webhooks http.RoundTripper
	Now      func() time.Time // the clock; time.Now when nil
	Logger   *slog.Logger     // slog.Default when nil
	// MaxRegistrations bounds those of a service; [MaxRegistrations] when 0.
	MaxRegistrations int
}

// New makes a Provisioning. Nobody gets a place before Run.
func New(d Deps) *Provisioning {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Webhooks == nil {
		d.Webhooks = http.DefaultTransport
	}
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	if d.MaxRegistrations == 0 {
		d.MaxRegistrations = MaxRegistrations
	}
	p := &Provisioning{deps: d, log: d.Logger, groups: groupCache{of: map[string]*groups{}}, desk: newDesk(),
		outside: turnstile{here: map[string]int{}}, tally: tally{of: map[string]int{}},
		ahead: make(chan struct{}, 1)}
	p.ended = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signet_registrations_total", Help: "Registrations of devices that have ended, by status: assigned, failed, disabled."}, []string{"status"})
	p.unfinished = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "signet_registrations_unfinished", Help: "Registrations of devices that are being worked on."}, func() float64 { return float64(p.desk.load()) })
	return p
}

// Describe and Collect make it a prometheus.Collector.
func (p *Provisioning) Describe(ch chan<- *prometheus.Desc) {
	p.ended.Describe(ch)
	p.unfinished.Describe(ch)
}

// Collect gives the metrics of now.
func (p *Provisioning) Collect(ch chan<- prometheus.Metric) {
	p.ended.Collect(ch)
	p.unfinished.Collect(ch)
}

// Credentials are what a device shows at a door, of one request.
type Credentials struct {
	Door           signet.Door
	Remote         netip.AddrPort
	IDScope        string
	RegistrationID string // of the path or user name
	// Chain is what the device presented in the TLS handshake, leaf first; the
	// handshake has proven that it holds the leaf's key.
	Chain []*x509.Certificate
	Token string // SAS token; where there is one, the chain does not count
}

// A Request is the body of a registration.
type Request struct {
	RegistrationID string          // repeats that of the credentials; may be empty
	Payload        json.RawMessage // for the webhook of a custom allocation
	CSR            []byte          // PKCS#10, DER; none when empty
	TPM            bool            // there was a member "tpm"
}

// Authority judges chains against the registered CA certificates of a service.
// Its server is package authority. Safe for concurrent use; it answers from
// memory, but for List, and for Admit where devices are counted: their places are
// on disk. The methods are those of [hub.Authority].
type Authority interface {
	Judge(service string, chain []*x509.Certificate, at time.Time) (path []*x509.Certificate, err error)
	Trusts(service string, thumbprint [32]byte) bool
	Revoked(service string, path []*signet.PathCertificate) error
	Admit(ctx context.Context, p *signet.Principal) error
	List(ctx context.Context, service string) ([]signet.CACertificate, error)
}

// Tenants knows the provisioning services and the hubs of this server, and what
// their twins may hold. Its server is package registry.
type Tenants interface {
	ServiceByScope(scope string) (signet.Hub, error)
	HubByName(name string) (signet.Hub, error) // a hub, or a service
	HubByHost(host string) (signet.Hub, error)
	Hubs() []signet.Hub
	// CheckTwin refuses what no twin can begin with, with [signet.TwinMalformed] or
	// [signet.LimitTwinSize].
	CheckTwin(tags, desired json.RawMessage) error
}

// Hubs are where identities are written: hubs of this server, and linked ones
// elsewhere. Each call is bounded by its context.
type Hubs interface {
	// Identity reads an identity, of which the status and the ETag count, with its
	// twin. It refuses with [signet.IdentityUnknown].
	Identity(ctx context.Context, hub signet.LinkedHub, device string) (signet.Identity, signet.Twin, error)
	// Put creates the identity, or changes the authentication and capabilities of the
	// one that is there, which stays disabled if it is, and becomes so with i; with twin, tags and desired properties are then replaced by
	// these (and, of an identity that moves, reported ones are carried). It is
	// durable when it returns nil, and may be repeated.
	Put(ctx context.Context, hub signet.LinkedHub, i signet.Identity, twin *signet.Twin) error
	// Delete removes an identity if its ETag is etag; one that is not there is no
	// error. It refuses with [signet.ETagStale].
	Delete(ctx context.Context, hub signet.LinkedHub, device, etag string) error
	// Distance is how far away a hub is, as the time that a connection takes: 0 for
	// one of this server. It may be a minute old.
	Distance(ctx context.Context, hub signet.LinkedHub) (time.Duration, error)
}

// Issuer issues certificates by a policy of the service. Its server is package
// issuance. Safe for concurrent use.
type Issuer interface {
	// Issue checks the CSR (its key, its signature, and its CN, which is the device
	// ID or the registration ID) and signs by the policy. What was issued is on disk
	// before it is returned: the chain, leaf first, root last; its CN is the device
	// ID. A hub of this server trusts the issuing CA from then on. The same CSR for
	// the same operation gives the same chain, also after a crash in between; so it
	// may be called before the identity is written or after. It refuses with csr.*,
	// issuance.*, cert.* and limit.* codes.
	Issue(ctx context.Context, order signet.CertificateOrder) (chain []*x509.Certificate, err error)
}

// Verdicts takes refusals for people to read; see [hub.Verdicts].
type Verdicts interface {
	Record(signet.Verdict) (trackingID string)
}
