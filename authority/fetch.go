package authority

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// What a server that we are sent to can cost us.
const (
	fetchTime    = 30 * time.Second // for a whole CRL of 64 MiB
	askTime      = 10 * time.Second // for an OCSP response
	maxRedirects = 3
	// maxFetches bounds the CRLs that are being fetched, of all hubs together, and
	// one of each: each takes up to 86 MiB while it comes, and twice that when it
	// has come.
	maxFetches = 3

	minRefresh = time.Minute
	maxRefresh = 12 * time.Hour
	leastRetry = 10 * time.Second
	mostRetry  = 15 * time.Minute
)

// A fetcher goes to addresses that others have chosen: bounded in what it takes,
// and, unless it may, not to ours. What decides is the address that is connected
// to, when it is: a name that leads elsewhere than a moment ago gains nothing.
// Proxies of the environment are not used, as they would hide that address.
type fetcher struct{ client *http.Client }

func newFetcher(toPrivate bool) *fetcher {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	if !toPrivate {
		dialer.Control = PublicOnly
	}
	return &fetcher{&http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 32 << 10,
			DisableCompression: true, // what is unpacked has no bound on the wire
			MaxConnsPerHost:    16, MaxIdleConns: 32, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return signet.Refuse(signet.SourceUnreachable, "The source redirects more than %d times.", maxRedirects)
			}
			_, err := sourceURL(r.URL.String())
			return err
		},
	}}
}

// PublicOnly is the Control of a dialer that goes to no private address, whatever
// name leads there. It refuses with [signet.SourceForbidden].
func PublicOnly(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if private(at.Addr()) {
		return forbidden()
	}
	return nil
}

// get fetches what is at an address.
func (f *fetcher) get(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, unreachable(err)
	}
	return f.do(r, pki.MaxCRLUpload)
}

// post puts a question to a responder (RFC 6960 §A.1).
func (f *fetcher) post(ctx context.Context, address string, question []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(question))
	if err != nil {
		return nil, unreachable(err)
	}
	r.Header.Set("Content-Type", "application/ocsp-request")
	return f.do(r, pki.MaxOCSPBytes)
}

func (f *fetcher) do(r *http.Request, most int64) ([]byte, error) {
	r.Header.Set("User-Agent", "signet")
	response, err := f.client.Do(r)
	if err != nil {
		return nil, unreachable(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, signet.Refuse(signet.SourceUnreachable, "The source answers with the status %d.", response.StatusCode)
	}
	if response.ContentLength > most {
		return nil, signet.Refuse(signet.SourceUnreachable, "The source answers with %d bytes; at most %d are taken.", response.ContentLength, most)
	}
	// Piece by piece: one buffer that grows would hold what came thrice.
	const size = 1 << 20
	var pieces [][]byte
	for n := int64(0); ; {
		piece, err := io.ReadAll(io.LimitReader(response.Body, size))
		if err != nil {
			return nil, unreachable(err)
		}
		if n += int64(len(piece)); n > most {
			return nil, signet.Refuse(signet.SourceUnreachable, "The source answers with more than %d bytes.", most)
		}
		pieces = append(pieces, piece)
		if len(piece) < size {
			return slices.Concat(pieces...), nil
		}
	}
}

// unreachable says why a source could not be reached, without its address, which
// may hold a secret, and without ours: a hub's owner reads it, who need not know
// the network of the server.
func unreachable(err error) error {
	if refused, ok := errors.AsType[*signet.Error](err); ok {
		return refused // by our own rules
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return signet.Refuse(signet.SourceUnreachable, "The source does not answer in time.")
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if wrapped, ok := errors.AsType[*net.OpError](err); ok { // has our addresses
		err = wrapped.Err
	}
	if lookup, ok := errors.AsType[*net.DNSError](err); ok { // has our resolver's
		err = errors.New(lookup.Err)
	}
	return signet.Refuse(signet.SourceUnreachable, "The source cannot be reached: %s.", signet.Clip(err.Error()))
}

func forbidden() error {
	return signet.Refuse(signet.SourceForbidden, "The source is at a private address.").At("address", "a public one", "a private one")
}

// special are the networks that are no public host's, besides those that
// [netip.Addr] tells (RFC 6890 and its successors); and those by which an IPv4
// address is reached in the guise of another.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}

// private says whether an address is anything but a public host's.
func private(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return true
	}
	for _, p := range special {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// A sourceKey is an address that the policy of a CA sends us to.
type sourceKey struct{ hub, ca, url string }

// A source is where CRLs are fetched from. Guarded by revocation.mu.
type source struct {
	key      sourceKey
	private  bool // it may be at a private address
	followed bool
	busy     bool
	wanted   bool // at once
	next     time.Time
	answered time.Time
	failures int
	fault    *signet.Error
}

// addSource adds a source that is to be fetched at once, unless it is there.
func (r *revocation) addSource(key sourceKey, private, followed bool) {
	if s := r.sources[key]; s != nil {
		s.followed = s.followed && followed
		return
	}
	n := 0
	for other := range r.sources {
		if other.hub == key.hub {
			n++
		}
	}
	if n < maxSources {
		r.sources[key] = &source{key: key, private: private, followed: followed}
		r.nudge()
	}
}

// follow adds a distribution point that a certificate names.
func (r *revocation) follow(hub string, policy *signet.RevocationPolicy, address string) {
	key := sourceKey{hub, policy.CA, address}
	r.mu.RLock()
	known := r.sources[key] != nil
	r.mu.RUnlock()
	if known {
		return
	}
	if _, err := sourceURL(address); err != nil { // of LDAP, say
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inForce(hub, policy) {
		r.addSource(key, policy.AllowPrivate, true)
	}
}

// dueSources takes the sources whose turn it is, one of each hub: so that those
// of one which are slow do not keep the others waiting.
func (r *revocation) dueSources() (due []*source) {
	now, busy := r.a.now(), map[string]bool{}
	for _, s := range r.sources {
		if s.busy {
			busy[s.key.hub] = true
		}
	}
	for _, s := range r.sources {
		if !busy[s.key.hub] && (s.wanted || !now.Before(s.next)) {
			s.busy, s.wanted, busy[s.key.hub] = true, false, true
			due = append(due, s)
		}
	}
	return due
}

// fetch gets a CRL and brings it into force. The next time is halfway to its end:
// a CA that is late has the other half.
func (r *revocation) fetch(ctx context.Context, s *source) {
	f := r.far
	if s.private {
		f = r.near
	}
	r.slots <- struct{}{}
	c, news, err := r.fetched(ctx, f, s.key)
	<-r.slots
	if news {
		r.a.changed(ctx, signet.Change{Hub: s.key.hub, Trust: true})
	}
	now := r.a.now()
	r.mu.Lock()
	s.busy = false
	close(r.attempted)
	r.attempted = make(chan struct{})
	if err == nil {
		s.answered, s.failures, s.fault = now, 0, nil
		s.next = now.Add(jitter(min(max(c.NextUpdate.Sub(now)/2, minRefresh), maxRefresh)))
	} else {
		s.failures++
		s.fault = signet.AsError(err)
		s.next = now.Add(backOff(s.failures, leastRetry, mostRetry))
		if ctx.Err() == nil {
			r.log.Warn("a CRL could not be fetched", "hub", s.key.hub, "ca", s.key.ca, "source", shown(s.key.url),
				"failures", s.failures, "code", s.fault.Code, "message", s.fault.Message, "cause", s.fault.Cause)
		}
	}
	r.mu.Unlock()
	r.nudge()
	if news {
		r.log.Info("a new CRL is in force", "hub", s.key.hub, "issuer", c.Issuer, "number", c.Number, "entries", c.Entries, "source", shown(s.key.url))
	}
}

func (r *revocation) fetched(ctx context.Context, f *fetcher, key sourceKey) (c signet.CRL, news bool, err error) {
	body, err := f.get(ctx, key.url)
	if err != nil {
		return c, false, err
	}
	der, _, err := pki.ParseCRLUpload(body) // PEM is not standard here, and common
	if err != nil {
		return c, false, err
	}
	return r.add(ctx, key.hub, der, nil, key.url, key.ca)
}

// FetchCRLs has Watch fetch the CRLs of a hub now, before their turn, and waits
// until every source has been gone to, or ctx ends. How each fared,
// [Authority.RevocationSources] tells.
func (a *Authority) FetchCRLs(ctx context.Context, hub string) error {
	r := a.revocation
	r.mu.Lock()
	for key, s := range r.sources {
		s.wanted = s.wanted || key.hub == hub
	}
	r.mu.Unlock()
	r.nudge()
	for {
		waiting := false
		r.mu.RLock()
		for key, s := range r.sources {
			waiting = waiting || key.hub == hub && (s.wanted || s.busy)
		}
		attempted := r.attempted
		r.mu.RUnlock()
		if !waiting {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-attempted:
		}
	}
}
