package authority

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/egress"
	"github.com/signet-iot/signet/pki"
)

// What responders have said is written behind, and read at the start: so that
// what is revoked stays refused after a restart, also where the policy is soft,
// and a fleet under a hard one need not wait until each of its certificates has
// been asked after anew.

// keptAnswers is what is on disk, and what is yet to be. Guarded by
// revocation.mu.
type keptAnswers struct {
	// restored are answers of an earlier run for certificates that have not been met
	// in this one: at most maxInquiries.
	restored map[inquiryKey]restoredAnswer
	unsaved  map[inquiryKey]signet.OCSPAnswer
	dropped  map[inquiryKey]bool
	saving   bool
}

type restoredAnswer struct {
	*ocspAnswer
	ca, url string // whose policy, and which responder
}

// said has an answer kept.
func (k *keptAnswers) said(q *inquiry, a *ocspAnswer) {
	delete(k.dropped, q.key)
	k.unsaved[q.key] = signet.OCSPAnswer{CA: q.responder.key.ca, URL: q.responder.key.url, Status: a.Status, Revoked: a.Revocation.Time,
		Reason: a.Revocation.Reason, Issued: a.ThisUpdate.UTC(), Until: a.until.UTC(), NotAfter: q.notAfter.UTC()}
}

// drop has what was said of a certificate kept no longer.
func (k *keptAnswers) drop(key inquiryKey) {
	delete(k.unsaved, key)
	k.dropped[key] = true
}

// readAnswers reads the answers of a hub from the store; of all hubs for "".
func (r *revocation) readAnswers(ctx context.Context, hub string) error {
	records, err := r.a.store.OCSPAnswers(ctx, hub)
	if err != nil {
		return fmt.Errorf("read answers of OCSP responders: %w", err)
	}
	now := r.a.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.kept.restored, func(key inquiryKey, _ restoredAnswer) bool { return hub == "" || key.hub == hub })
	for _, a := range records {
		key := inquiryKey{hub: a.Hub, serial: a.Serial}
		if n, err := hex.Decode(key.issuerKey[:], []byte(a.IssuerKey)); err != nil || n != len(key.issuerKey) {
			return fmt.Errorf("stored answer of an OCSP responder: issuer key %q", signet.Clip(a.IssuerKey))
		}
		if now.After(a.NotAfter) || len(r.kept.restored) >= maxInquiries {
			r.kept.drop(key)
			continue
		}
		r.kept.restored[key] = restoredAnswer{&ocspAnswer{pki.OCSPAnswer{Status: a.Status, ThisUpdate: a.Issued,
			Revocation: pki.Revocation{Time: a.Revoked, Reason: a.Reason}}, a.Until}, a.CA, a.URL}
	}
	return nil
}

// outlive forgets the restored answers of a hub that its policies would not ask
// for now.
func (k *keptAnswers) outlive(hub string, byCA map[string]*signet.RevocationPolicy) {
	for key, a := range k.restored {
		p := byCA[a.ca]
		if key.hub == hub && (p == nil || p.Mode == signet.RevocationOff || a.url != p.OCSP && (p.OCSP != "" || !p.Follow)) {
			delete(k.restored, key)
			k.drop(key)
		}
	}
}

// resume gives an inquiry that is new in this run what an earlier one has heard.
func (r *revocation) resume(q *inquiry) {
	known, ok := r.kept.restored[q.key]
	if !ok {
		return
	}
	delete(r.kept.restored, q.key)
	if known.ca != q.responder.key.ca || known.url != q.responder.key.url {
		r.kept.drop(q.key)
		return
	}
	q.answer.Store(known.ocspAnswer)
	if left := known.until.Sub(r.a.now()); left > 0 {
		q.next = r.a.now().Add(egress.Jitter(min(left/2, mostReask)))
	}
}

// toSave takes the answers that are to be written and says whether there are
// any; one taker at a time.
func (k *keptAnswers) toSave() (said, dropped []signet.OCSPAnswer, some bool) {
	if k.saving || len(k.unsaved)+len(k.dropped) == 0 {
		return nil, nil, false
	}
	k.saving = true
	for key, a := range k.unsaved {
		a.Hub, a.IssuerKey, a.Serial = key.hub, hex.EncodeToString(key.issuerKey[:]), key.serial
		said = append(said, a)
	}
	for key := range k.dropped {
		dropped = append(dropped, signet.OCSPAnswer{Hub: key.hub, IssuerKey: hex.EncodeToString(key.issuerKey[:]), Serial: key.serial})
	}
	clear(k.unsaved)
	clear(k.dropped)
	return said, dropped, true
}

// save writes answers. Those that could not be written are so again a moment
// later, unless others have come.
func (r *revocation) save(ctx context.Context, said, dropped []signet.OCSPAnswer) {
	err := r.a.store.SaveOCSPAnswers(context.WithoutCancel(ctx), said, dropped)
	if err != nil {
		r.log.Warn("answers of OCSP responders could not be kept; it is tried again", "answers", len(said), "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(rereadAfter):
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept.saving = false
	if err == nil {
		r.nudge() // for what has come meanwhile
		return
	}
	key := func(a signet.OCSPAnswer) inquiryKey {
		k := inquiryKey{hub: a.Hub, serial: a.Serial}
		hex.Decode(k.issuerKey[:], []byte(a.IssuerKey)) // made by us
		return k
	}
	for _, a := range said {
		if k := key(a); !r.kept.dropped[k] {
			if _, newer := r.kept.unsaved[k]; !newer {
				r.kept.unsaved[k] = a
			}
		}
	}
	for _, a := range dropped {
		if _, newer := r.kept.unsaved[key(a)]; !newer {
			r.kept.dropped[key(a)] = true
		}
	}
}
