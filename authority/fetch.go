package authority

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/egress"
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
// and, unless it may, not to ours.
type fetcher struct{ client *http.Client }

func newFetcher(toPrivate bool) *fetcher {
	return &fetcher{&http.Client{
		Transport: egress.Transport(toPrivate),
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return signet.Refuse(signet.SourceUnreachable, "The source redirects more than %d times.", maxRedirects)
			}
			_, err := sourceURL(r.URL.String())
			return err
		},
	}}
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

// unreachable says why a source could not be reached.
func unreachable(err error) error {
	if refused, ok := errors.AsType[*signet.Error](err); ok {
		return refused // by our own rules
	}
	if errors.Is(err, egress.ErrPrivate) {
		return forbidden()
	}
	return signet.Refuse(signet.SourceUnreachable, "The source cannot be reached: %s.", signet.Clip(egress.Reason(err)))
}

func forbidden() error {
	return signet.Refuse(signet.SourceForbidden, "The source is at a private address.").At("address", "a public one", "a private one")
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
		s.next = now.Add(egress.Jitter(min(max(c.NextUpdate.Sub(now)/2, minRefresh), maxRefresh)))
	} else {
		s.failures++
		s.fault = signet.AsError(err)
		s.next = now.Add(egress.BackOff(s.failures, leastRetry, mostRetry))
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
