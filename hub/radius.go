package hub

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// Sightings remember how devices have authenticated. Their server is package
// inventory. Safe for concurrent use.
type Sightings interface {
	// Everyone gives the identities of a hub that have been seen, with their
	// certificates, page by page, those of one branch one after the other, until each
	// fails.
	Everyone(ctx context.Context, hub string, each func(page []signet.Sighting) error) error
	// Path gives the CAs of a branch, issuer of the devices first and anchor last, with
	// their certificates.
	Path(ctx context.Context, hub, branch string) ([]signet.Branch, error)
	// Unseen counts the identities of a hub that authenticate by a CA and never have.
	Unseen(ctx context.Context, hub string) (int64, error)
}

// maxRadii is how many may ask for a radius at a time; all but one wait.
const maxRadii = 8

// Radius judges every device that has been seen twice, as a connect with what it
// presented last would be judged now: by what is trusted, and by what would be.
// each is told of every device to which that makes a difference, and of nil after
// every page; when it fails, the search ends.
//
// One radius at a time is worked out, by one goroutine, so that devices have the
// other processors; others wait their turn, and beyond eight are refused with
// [signet.Unavailable]. In memory is a page of devices, and the certificates above
// one branch. A device costs two reads of the registry and two signatures: what is
// above an issuer is verified once.
//
// What a device sends besides its path is not remembered: one that could be let in
// by a certificate which was not needed so far counts as losing.
func (h *Hub) Radius(ctx context.Context, hub string, seen Sightings, now, then Trust, each func(fate *signet.DeviceFate, devices int64) error) (signet.Radius, error) {
	r := signet.Radius{Codes: map[signet.Code]int64{}, Anchors: map[string]int64{}}
	tenant, err := h.registry.HubByName(hub)
	if err != nil {
		return r, err
	}
	leave, err := h.takeTurn(ctx)
	if err != nil {
		return r, err
	}
	defer leave()
	begun := time.Now()
	above := issuers{}
	err = seen.Everyone(ctx, tenant.Name, func(page []signet.Sighting) error {
		for i := range page {
			s := &page[i]
			r.Devices++
			if err := above.read(ctx, seen, tenant.Name, s.Branch); err != nil {
				return err
			}
			c, known := above.presented(s)
			if !known {
				r.Unknown++
				continue
			}
			c.Host = tenant.HostName
			fate, err := h.fate(ctx, &tenant, c, now, then, &r)
			if err != nil {
				return err
			}
			if fate.Fate == "" {
				continue
			}
			fate.LastSeen = s.LastSeen
			if err := each(&fate, r.Devices); err != nil {
				return err
			}
		}
		return each(nil, r.Devices)
	})
	if err == nil {
		r.Unseen, err = seen.Unseen(ctx, tenant.Name)
	}
	r.Took = time.Since(begun)
	return r, err
}

// takeTurn waits until no other radius is worked out.
func (h *Hub) takeTurn(ctx context.Context) (leave func(), _ error) {
	select {
	case h.radii <- struct{}{}:
	default:
		return nil, signet.Refuse(signet.Unavailable, "%d are waiting already to be told what a change of trust would do.", maxRadii).FixBy("Try again in some minutes.")
	}
	select {
	case h.assessing <- struct{}{}:
		return func() { <-h.assessing; <-h.radii }, nil
	case <-ctx.Done():
		<-h.radii
		return nil, ctx.Err()
	}
}

// issuers are the CAs of the branch that was met last.
type issuers struct {
	branch string
	path   []*x509.Certificate // nearest to the device first
	key    [32]byte            // hash of the first one's
}

func (s *issuers) read(ctx context.Context, seen Sightings, hub, branch string) error {
	if branch == s.branch {
		return nil
	}
	*s = issuers{branch: branch}
	if branch == "" {
		return nil
	}
	path, err := seen.Path(ctx, hub, branch)
	if signet.CodeOf(err) == signet.BranchUnknown {
		return nil // gone since the page was read: its devices are not known
	}
	for _, b := range path {
		c, err := x509.ParseCertificate(b.DER)
		if err != nil {
			return fmt.Errorf("stored certificate of branch %s of hub %s: %w", b.ID, hub, err)
		}
		s.path = append(s.path, c)
	}
	if len(s.path) > 0 {
		s.key = pki.PathCertificate(s.path[0]).Key
	}
	return err
}

// presented is what a device showed when it was last let in, as far as it is
// known: its own certificate, and those of its path that it sent.
func (s *issuers) presented(w *signet.Sighting) (c Credentials, known bool) {
	c.DeviceID, c.ModuleID = w.DeviceID, w.ModuleID
	leaf, err := x509.ParseCertificate(w.DER)
	if err != nil || w.Sent == 0 {
		return c, false
	}
	c.Chain = []*x509.Certificate{leaf}
	if w.Branch == "" {
		return c, true
	}
	for i, ca := range s.path {
		if w.Sent&(1<<(i+1)) != 0 {
			c.Chain = append(c.Chain, ca)
		}
	}
	// In a tree that is full a device is at the nearest CA that is kept.
	return c, len(s.path) > 0 && w.Issued == signet.IssuedID(s.key, w.Serial)
}

// fate judges a device twice and counts it.
func (h *Hub) fate(ctx context.Context, tenant *signet.Hub, c Credentials, now, then Trust, r *signet.Radius) (f signet.DeviceFate, _ error) {
	at := h.now()
	before, refused := h.Explain(ctx, c, at, now)
	after, would := h.Explain(ctx, c, at, then)
	for _, err := range []error{refused, would} {
		if code := signet.CodeOf(err); code == signet.Internal || code == signet.Unavailable {
			return f, err
		}
	}
	f = signet.DeviceFate{DeviceID: c.DeviceID, ModuleID: c.ModuleID}
	if len(before) > 1 {
		r.Anchors[pki.ThumbprintSHA256(before[len(before)-1].Raw)]++
	}
	var count *signet.FateCount
	switch {
	case refused == nil && would != nil:
		f.Fate, count = signet.FateLoses, &r.Loses
		f.Code, f.Why = signet.CodeOf(would), signet.AsError(would).Message
		r.Codes[f.Code]++
	case refused != nil && would == nil:
		f.Fate, count = signet.FateGains, &r.Gains
		f.Code, f.Why = signet.CodeOf(refused), signet.AsError(refused).Message
	case refused != nil:
		r.Refused++
		return f, nil
	case slices.EqualFunc(before, after, (*x509.Certificate).Equal):
		return f, nil
	default:
		f.Fate, count = signet.FateOtherPath, &r.OtherPath
	}
	if len(after) > 1 {
		f.Anchor = signet.Clip(after[len(after)-1].Subject.String())
	}
	count.Devices++
	if f.Connected = h.Connected(tenant.Name, c.DeviceID, c.ModuleID); f.Connected {
		count.Connected++
	}
	return f, nil
}
