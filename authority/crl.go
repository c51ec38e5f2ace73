package authority

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

const (
	// maxCRLs and maxCRLBytes bound what a hub keeps, on disk and, by half as much,
	// in memory. One CRL of a million entries has 40 MB, most have some kilobytes.
	maxCRLs     = 100
	maxCRLBytes = 256 << 20
)

// uploaded is the source of a CRL that was not fetched.
const uploaded = "upload"

// The states of a CRL.
const (
	stateCurrent = "current"
	stateAgeing  = "ageing"
	stateStale   = "stale"
)

// A crlSet is the CRLs in force at a hub by the SHA-256 of the issuer's key: one,
// or several where a key bears several names. It never changes.
type crlSet map[[32]byte][]*crl

type crl struct {
	*pki.CRL
	record signet.CRL
}

func (l *crl) state(now time.Time) string {
	switch {
	case now.After(l.NextUpdate):
		return stateStale
	case now.After(l.NextUpdate.Add(-l.NextUpdate.Sub(l.ThisUpdate) / 4)):
		return stateAgeing
	}
	return stateCurrent
}

// with gives the set with l in the place of what has its ID; without gives it
// without that ID.
func (s crlSet) with(l *crl) crlSet {
	s = s.without(l.record.ID)
	s[l.Key] = append(slices.Clip(s[l.Key]), l)
	return s
}

func (s crlSet) without(id string) crlSet {
	other := make(crlSet, len(s)+1)
	for key, of := range s {
		if of = slices.DeleteFunc(slices.Clone(of), func(l *crl) bool { return l.record.ID == id }); len(of) > 0 {
			other[key] = of
		}
	}
	return other
}

func (s crlSet) find(id string) *crl {
	for _, of := range s {
		for _, l := range of {
			if l.record.ID == id {
				return l
			}
		}
	}
	return nil
}

// AddCRL stores an uploaded CRL (DER, or PEM with certificates of issuers beside
// it), brings it into force and ends the sessions of what it lists. It is one of
// an issuer whose certificate is beside it, registered at the hub, or was met on
// an accepted path. A CRL that is in force already is no error.
//
// It refuses with a crl.* code, [signet.UploadPrivateKey], [signet.LimitCRLs] or
// [signet.HubUnknown]. One CRL at a time is read.
func (a *Authority) AddCRL(ctx context.Context, hub string, upload []byte) (signet.CRL, error) {
	der, issuers, err := pki.ParseCRLUpload(upload)
	if err != nil {
		return signet.CRL{}, err
	}
	c, news, err := a.revocation.add(ctx, hub, der, issuers, uploaded, "")
	if news {
		a.changed(ctx, signet.Change{Hub: hub, Trust: true})
	}
	return c, err
}

// add judges a CRL, stores it and brings it into force. news says that it did.
func (r *revocation) add(ctx context.Context, hub string, der []byte, beside []*x509.Certificate, source, ca string) (c signet.CRL, news bool, err error) {
	r.adding.Lock()
	defer r.adding.Unlock()
	set, now := r.of(hub), r.a.stamp()
	l, err := r.judge(hub, set, der, beside)
	if err != nil {
		return c, false, err
	}
	if old := set.find(l.record.ID); old == l {
		return old.shown(now), false, nil
	}
	l.record.Source, l.record.CA, l.record.Added = source, ca, now
	l.record.DER, l.record.IssuerDER = der, l.Issuer.Raw
	err = r.a.store.SaveCRL(ctx, l.record)
	l.record.DER, l.record.IssuerDER = nil, nil
	switch {
	case errors.Is(err, signet.ErrNotFound):
		return c, false, signet.Refuse(signet.HubUnknown, "There is no hub called %q.", signet.Clip(hub))
	case errors.Is(err, signet.ErrStale):
		return c, false, signet.Refuse(signet.CRLOlder, "A newer CRL of %q is stored already.", l.record.Issuer)
	}
	// Also when it is not known whether it was stored: it is the issuer's word, and
	// nobody is told that it is kept.
	r.swap(hub, func(s crlSet) crlSet { return s.with(l) })
	return l.shown(now), true, err
}

// judge reads a CRL that is to join those in force; it gives the one that is there,
// if it is the same.
func (r *revocation) judge(hub string, set crlSet, der []byte, beside []*x509.Certificate) (*crl, error) {
	l, err := newCRL(der, r.candidates(hub, beside))
	if err != nil {
		return nil, err
	}
	if err := l.Current(r.a.stamp()); err != nil {
		return nil, err
	}
	l.record.Hub = hub
	if old := set.find(l.record.ID); old != nil {
		switch newer := l.Number.Cmp(old.Number); {
		case l.record.SHA256 == old.record.SHA256:
			return old, nil
		case newer <= 0 || l.ThisUpdate.Before(old.ThisUpdate): // RFC 5280 §5.2.3
			return nil, older(&l.record, &old.record)
		}
	}
	return l, set.room(l)
}

// newCRL reads a CRL for its index and its record.
func newCRL(der []byte, issuers []*x509.Certificate) (*crl, error) {
	l, err := pki.ParseCRL(der, issuers)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	issuer := strings.ReplaceAll(strings.ToValidUTF8(l.Issuer.Subject.String(), "\uFFFD"), "\x00", "\uFFFD")
	return &crl{CRL: l, record: signet.CRL{
		ID: l.ID(), Issuer: signet.Clip(issuer), Key: hex.EncodeToString(l.Key[:]), Number: l.Number.String(),
		ThisUpdate: l.ThisUpdate.UTC(), NextUpdate: l.NextUpdate.UTC(), Entries: l.Entries, Bytes: len(der), SHA256: hex.EncodeToString(sum[:]),
	}}, nil
}

func (l *crl) shown(now time.Time) signet.CRL {
	c := l.record
	c.State = l.state(now)
	return c
}

// room says whether a hub may keep one more.
func (s crlSet) room(l *crl) error {
	n, bytes := 1, l.record.Bytes
	for _, of := range s {
		for _, other := range of {
			if other.record.ID != l.record.ID {
				n, bytes = n+1, bytes+other.record.Bytes
			}
		}
	}
	if n > maxCRLs || bytes > maxCRLBytes {
		return signet.Refuse(signet.LimitCRLs, "With this one the hub would keep %d CRLs of %d MiB.", n, bytes>>20).
			At("CRLs", fmt.Sprintf("at most %d, of %d MiB together", maxCRLs, maxCRLBytes>>20), fmt.Sprintf("%d of %d MiB", n, bytes>>20))
	}
	return nil
}

func older(c, than *signet.CRL) error {
	return signet.Refuse(signet.CRLOlder, "CRL %s of %q, of %s, is not newer than CRL %s of %s, which is in force.", c.Number, c.Issuer,
		c.ThisUpdate.Format(time.RFC3339), than.Number, than.ThisUpdate.Format(time.RFC3339)).
		At("crlNumber", "above "+than.Number, c.Number)
}

// of gives the CRLs in force at a hub.
func (r *revocation) of(hub string) crlSet { return (*r.lists.Load())[hub] }

func (r *revocation) swap(hub string, change func(crlSet) crlSet) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := maps.Clone(*r.lists.Load())
	if all[hub] = change(all[hub]); len(all[hub]) == 0 {
		delete(all, hub)
	}
	r.lists.Store(&all)
}

// CRLs lists the CRLs in force at a hub by issuer.
func (a *Authority) CRLs(hub string) []signet.CRL {
	now, list := a.now(), []signet.CRL{}
	for _, of := range (*a.revocation.lists.Load())[hub] {
		for _, l := range of {
			list = append(list, l.shown(now))
		}
	}
	slices.SortFunc(list, func(a, b signet.CRL) int {
		return strings.Compare(a.Issuer+"\x00"+a.ID, b.Issuer+"\x00"+b.ID)
	})
	return list
}

// DeleteCRL has a CRL count no longer. One that a policy names comes back when it
// is fetched next. It refuses with [signet.CRLUnknown].
func (a *Authority) DeleteCRL(ctx context.Context, hub, id string) error {
	r := a.revocation
	r.adding.Lock()
	defer r.adding.Unlock()
	err := a.store.DeleteCRL(ctx, hub, id)
	if errors.Is(err, signet.ErrNotFound) {
		return signet.Refuse(signet.CRLUnknown, "The hub keeps no CRL under the ID %q.", signet.Clip(id))
	}
	if err == nil { // otherwise it may be there still, and then it counts
		r.swap(hub, func(s crlSet) crlSet { return s.without(id) })
	}
	return err
}

// load reads what is revoked at a hub from the store; at all hubs for "".
func (r *revocation) load(ctx context.Context, hub string) error {
	return errors.Join(r.readCRLs(ctx, hub), r.readAnswers(ctx, hub))
}

// readCRLs reads CRLs one after the other: together they may be large.
func (r *revocation) readCRLs(ctx context.Context, hub string) error {
	r.adding.Lock()
	defer r.adding.Unlock()
	records, err := r.a.store.CRLs(ctx, hub)
	if err != nil {
		return fmt.Errorf("read CRLs: %w", err)
	}
	sets := map[string]crlSet{hub: nil}
	for _, record := range records {
		c, err := r.a.store.CRL(ctx, record.Hub, record.ID)
		if err != nil {
			return fmt.Errorf("read CRL %s of hub %s: %w", record.ID, record.Hub, err)
		}
		issuer, err := x509.ParseCertificate(c.IssuerDER)
		if err != nil {
			return fmt.Errorf("stored CRL %s of hub %s: %w", c.ID, c.Hub, err)
		}
		l, err := newCRL(c.DER, []*x509.Certificate{issuer})
		if err != nil {
			return fmt.Errorf("stored CRL %s of hub %s: %w", c.ID, c.Hub, err)
		}
		c.DER, c.IssuerDER = nil, nil
		l.record = c
		sets[c.Hub] = sets[c.Hub].with(l)
	}
	for hub, set := range sets {
		r.swap(hub, func(crlSet) crlSet { return set })
	}
	return nil
}
