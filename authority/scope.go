package authority

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// maxScopes bounds the scopes of a hub, hence what each change reads anew. A
// factory has one for each of its lines.
const maxScopes = 1000

// A ScopeOf says whose scope is meant: one of the three.
type ScopeOf struct {
	CA          string            // a CA certificate registered at the hub, verified or not
	Certificate *x509.Certificate // of any CA
	Key         string            // SHA-256 of a SubjectPublicKeyInfo, in hex
}

// SetScope bounds what a CA may vouch for, in the place of what bounded it before,
// and ends the sessions that are outside of it. It refuses with
// [signet.ScopeMalformed], [signet.CertificateUnknown], [signet.LimitScopes] or
// [signet.HubUnknown].
func (a *Authority) SetScope(ctx context.Context, hub string, of ScopeOf, s signet.Scope) (signet.Scope, error) {
	s.Hub, s.Updated = hub, a.stamp()
	if err := a.describeScope(ctx, of, &s); err != nil {
		return s, err
	}
	known, err := a.store.Scopes(ctx, hub)
	if err != nil {
		return s, err
	}
	if len(known) >= maxScopes && findScope(known, s.Key) == nil {
		// Counted before the write: two at once may exceed the limit by one, which
		// harms nobody.
		return s, signet.Refuse(signet.LimitScopes, "The hub has %d scopes, as many as it may.", len(known))
	}
	err = a.store.SaveScope(ctx, s)
	if errors.Is(err, signet.ErrNotFound) {
		return s, signet.Refuse(signet.HubUnknown, "There is no hub called %q.", signet.Clip(hub))
	}
	if err := a.enforce(ctx, hub, err, signet.Change{Scopes: true}); err != nil {
		return s, err
	}
	return a.scope(ctx, hub, s.Key)
}

// describeScope says whose a scope is, and checks what it says.
func (a *Authority) describeScope(ctx context.Context, of ScopeOf, s *signet.Scope) error {
	cert := of.Certificate
	switch {
	case of.CA != "" && cert == nil && of.Key == "":
		c, err := a.Get(ctx, s.Hub, of.CA)
		if err != nil {
			return err
		}
		if cert, err = x509.ParseCertificate(c.DER); err != nil {
			return fmt.Errorf("stored CA certificate %s of hub %s: %w", c.Name, c.Hub, err)
		}
	case of.CA == "" && cert == nil && of.Key != "":
		s.Key = strings.ToLower(strings.ReplaceAll(of.Key, ":", ""))
		if _, ok := hash(s.Key); !ok {
			return signet.Refuse(signet.ScopeMalformed, "The key is not a SHA-256 in hex.").At("key", "64 hex digits", of.Key)
		}
	case of.CA != "" || cert == nil || of.Key != "":
		return signet.Refuse(signet.ScopeMalformed, "Give one of these: the name of a registered CA, a certificate, a key's hash.")
	}
	if cert != nil {
		if pki.Loose(cert) {
			return signet.Refuse(signet.ScopeMalformed, "%s", looseForm).Of(pki.Reference(cert, 0))
		}
		c := pki.PathCertificate(cert)
		s.Key = hex.EncodeToString(c.Key[:])
		// A name that a store cannot hold must not keep us from bounding who bears it.
		s.Subject = strings.ReplaceAll(strings.ToValidUTF8(c.Subject, "\uFFFD"), "\x00", "\uFFFD")
	}
	s.IssuedFrom, s.IssuedUntil = s.IssuedFrom.UTC(), s.IssuedUntil.UTC()
	return s.Check()
}

// Scopes gives the scopes of a hub by key.
func (a *Authority) Scopes(ctx context.Context, hub string) ([]signet.Scope, error) {
	return a.store.Scopes(ctx, hub)
}

// RemoveScope has a CA vouch for all again that its certificate lets it. It
// refuses with [signet.ScopeUnknown].
func (a *Authority) RemoveScope(ctx context.Context, hub, key string) error {
	err := a.store.DeleteScope(ctx, hub, strings.ToLower(key))
	if errors.Is(err, signet.ErrNotFound) {
		return scopeUnknown(key)
	}
	return a.enforce(ctx, hub, err, signet.Change{})
}

func (a *Authority) scope(ctx context.Context, hub, key string) (signet.Scope, error) {
	all, err := a.store.Scopes(ctx, hub)
	if err != nil {
		return signet.Scope{}, err
	}
	if s := findScope(all, key); s != nil {
		return *s, nil
	}
	return signet.Scope{}, scopeUnknown(key)
}

func findScope(all []signet.Scope, key string) *signet.Scope {
	for i := range all {
		if all[i].Key == key {
			return &all[i]
		}
	}
	return nil
}

func scopeUnknown(key string) error {
	return signet.Refuse(signet.ScopeUnknown, "The hub has no scope for the key %q.", signet.Clip(key))
}

func newScopes(list []signet.Scope) (map[[32]byte]*signet.Scope, error) {
	m := make(map[[32]byte]*signet.Scope, len(list))
	for i := range list {
		key, ok := hash(list[i].Key)
		if !ok {
			return nil, fmt.Errorf("stored scope of hub %s has no key", list[i].Hub)
		}
		m[key] = &list[i]
	}
	return m, nil
}

// outOfScope gives the refusal of a path, leaf first, that is outside of the scope
// of a CA on it, but for the number of devices. The certificate at fault is the
// device's.
func (t *trust) outOfScope(refs []*signet.PathCertificate, leaf *x509.Certificate) (at int, _ *signet.Error) {
	name, _ := pki.CommonName(leaf) // without one it fits no pattern
	device, _, _ := strings.Cut(name, "/")
	return 0, t.outside(refs, device, leaf.NotBefore, pki.KeyTypeOf(leaf))
}

func (t *trust) outside(path []*signet.PathCertificate, device string, issued time.Time, keyType string) *signet.Error {
	for _, c := range path[1:] {
		if s := t.scopes[c.Key]; s != nil {
			if refusal := s.Refusal(device, issued, keyType); refusal != nil {
				return refusal
			}
		}
	}
	return nil
}

// Admit says whether who has authenticated is within the scopes of the CAs on its
// path, the number of devices included: where that is bounded, a device gets its
// place at the first time, and that is on disk before this returns. Only who is
// let in otherwise may be asked after, or strangers would take the places.
//
// It refuses with [signet.CertOutOfScope].
func (a *Authority) Admit(ctx context.Context, p *signet.Principal) error {
	return a.trustOf(p.Hub).inScope(ctx, p, func(ctx context.Context, s *signet.Scope) (int64, error) {
		place, err := a.store.Place(ctx, p.Hub, s.Key, p.DeviceID)
		if err == nil && place == 0 {
			place, err = a.store.TakePlace(ctx, p.Hub, s.Key, p.DeviceID)
		}
		if errors.Is(err, signet.ErrNotFound) { // removed just now: it bounds nobody
			return 0, nil
		}
		return place, err
	})
}

// InScope says whether Admit would let in now, and takes no place.
func (a *Authority) InScope(ctx context.Context, p *signet.Principal) error {
	return a.trustOf(p.Hub).inScope(ctx, p, func(ctx context.Context, s *signet.Scope) (int64, error) {
		return a.nextPlace(ctx, s, p.DeviceID)
	})
}

// nextPlace gives the place of a device under a scope that counts, or the one that
// it would get.
func (a *Authority) nextPlace(ctx context.Context, s *signet.Scope, device string) (int64, error) {
	place, err := a.store.Place(ctx, s.Hub, s.Key, device)
	if err != nil || place > 0 {
		return place, err
	}
	now, err := a.scope(ctx, s.Hub, s.Key)
	return now.Seen + 1, err
}

// inScope looks at every scope on the path of a device. place is asked where the
// number of devices is bounded.
func (t *trust) inScope(ctx context.Context, p *signet.Principal, place func(context.Context, *signet.Scope) (int64, error)) error {
	switch {
	case t.unreadable:
		return unreadable()
	case len(t.scopes) == 0 || len(p.Path) < 2:
		return nil
	}
	refusal := t.outside(p.Path, p.DeviceID, p.Issued, p.KeyType)
	for _, c := range p.Path[1:] {
		s := t.scopes[c.Key]
		if refusal != nil || s == nil || s.MaxDevices == 0 {
			continue
		}
		n, err := place(ctx, s)
		if err != nil {
			return err
		}
		if n > s.MaxDevices {
			refusal = s.Surplus(p.DeviceID)
		}
	}
	if refusal == nil {
		return nil
	}
	return refusal.Of(reference(p.Path, 0))
}
