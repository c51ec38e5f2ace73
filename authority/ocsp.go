package authority

import (
	"container/heap"
	"context"
	"crypto/x509"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/egress"
	"github.com/signet-iot/signet/pki"
)

const (
	// maxInquiries bounds the certificates that responders are asked after, of all
	// hubs together: some 400 bytes each. When there are more, those of the hub that has
	// most go first, and of them those that were longest not met.
	maxInquiries = 100_000
	// maxAsking bounds the questions on their way; maxAskingFor those of one hub and
	// maxAskingOne those to one responder, so that slow ones do not take the place of
	// the others.
	maxAsking    = 32
	maxAskingFor = 8
	maxAskingOne = 4

	// openLife is how long an answer holds that does not say (RFC 6960 §2.4: newer
	// information is always available).
	openLife       = 10 * time.Minute
	leastReask     = 15 * time.Second
	mostReask      = time.Hour
	responderRetry = 5 * time.Second
	responderPause = time.Minute
)

// inquiryKey is a certificate as its issuer knows it, at a hub.
type inquiryKey struct {
	hub       string
	issuerKey [32]byte
	serial    string
}

// An inquiry is a certificate that a responder is asked after, now and again
// before the answer runs out, until the certificate does: so that a session that
// lasts ends when its certificate is revoked.
type inquiry struct {
	key       inquiryKey
	issuer    *x509.Certificate // shared by all that it has issued
	responder *responder
	notAfter  time.Time
	met       atomic.Int64 // seconds since 1970
	answer    atomic.Pointer[ocspAnswer]

	next     time.Time // guarded by revocation.mu, as are the rest
	place    int       // in responder.due; -1 while it is being asked
	failures int
}

type ocspAnswer struct {
	pki.OCSPAnswer
	until time.Time // and not later does it count as good
}

// A responder is asked at one address for one CA. Guarded by revocation.mu.
type responder struct {
	key          sourceKey
	private      bool
	nonce        bool // is required
	followed     bool
	gone         bool // no policy names it any more
	certificates int
	asking       int
	due          inquiries
	paused       time.Time // until then, it is left alone
	answered     time.Time
	failures     int
	fault        *signet.Error
}

// inquiries is a heap by the time of the next question.
type inquiries []*inquiry

func (q inquiries) Len() int           { return len(q) }
func (q inquiries) Less(i, j int) bool { return q[i].next.Before(q[j].next) }
func (q inquiries) Swap(i, j int)      { q[i], q[j] = q[j], q[i]; q[i].place, q[j].place = i, j }
func (q *inquiries) Push(x any)        { i := x.(*inquiry); i.place = len(*q); *q = append(*q, i) }
func (q *inquiries) Pop() any {
	last := len(*q) - 1
	i := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	i.place = -1
	return i
}

// answer gives what a responder said last of a certificate; nil when nothing is
// known.
func (r *revocation) answer(key inquiryKey) *ocspAnswer {
	r.mu.RLock()
	q, known := r.inquiries[key], r.kept.restored[key]
	r.mu.RUnlock()
	if q == nil {
		return known.ocspAnswer
	}
	return q.answer.Load()
}

// inquire has a responder asked after a certificate, if that is not done already.
// It comes of paths whose signatures are good, so strangers cannot fill the room.
func (r *revocation) inquire(key inquiryKey, policy *signet.RevocationPolicy, address string, followed bool, issuer *x509.Certificate, notAfter time.Time) {
	now := r.a.now()
	r.mu.RLock()
	q := r.inquiries[key]
	r.mu.RUnlock()
	if q != nil {
		q.met.Store(now.Unix())
		return
	}
	if _, err := sourceURL(address); err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.inForce(key.hub, policy) {
		return
	}
	d := r.responder(sourceKey{key.hub, policy.CA, address}, policy, followed)
	if d == nil || r.inquiries[key] != nil || !r.makeRoom(key.hub) {
		return
	}
	q = &inquiry{key: key, issuer: issuer, responder: d, notAfter: notAfter}
	q.met.Store(now.Unix())
	r.resume(q)
	r.inquiries[key] = q
	d.certificates++
	heap.Push(&d.due, q)
	r.nudge()
}

func (r *revocation) responder(key sourceKey, policy *signet.RevocationPolicy, followed bool) *responder {
	if d := r.responders[key]; d != nil {
		return d
	}
	n := 0
	for other := range r.responders {
		if other.hub == key.hub {
			n++
		}
	}
	if n >= maxSources {
		return nil
	}
	d := &responder{key: key, private: policy.AllowPrivate, nonce: policy.RequireNonce, followed: followed}
	r.responders[key] = d
	return d
}

// makeRoom drops, of a few certificates at random, one of the hub that most of them are
// of: the one that was longest not met. One that is revoked stays, unless a hub has more
// than half of the room, all that is looked at of it are revoked, and it is for another:
// who owns a hub must not be able to fill the room of all with what his own responder
// says.
func (r *revocation) makeRoom(hub string) bool {
	if len(r.inquiries) < maxInquiries {
		return true
	}
	const look = 16
	var few []*inquiry
	most, of := "", map[string]int{}
	for _, q := range r.inquiries {
		if of[q.key.hub]++; of[q.key.hub] > of[most] {
			most = q.key.hub
		}
		if few = append(few, q); len(few) == look {
			break
		}
	}
	oldest := func(may func(q *inquiry) bool) (found *inquiry) {
		for _, q := range few {
			if q.place >= 0 && may(q) && (found == nil || q.met.Load() < found.met.Load()) {
				found = q
			}
		}
		return found
	}
	goes := oldest(func(q *inquiry) bool { return q.key.hub == most && !q.revoked() })
	switch {
	case goes != nil || hub == most:
	case of[most] > look/2:
		goes = oldest(func(q *inquiry) bool { return q.key.hub == most })
	default:
		goes = oldest(func(q *inquiry) bool { return !q.revoked() })
	}
	r.dropped++
	if goes == nil {
		return false
	}
	heap.Remove(&goes.responder.due, goes.place)
	r.forget(goes)
	return true
}

func (q *inquiry) revoked() bool {
	a := q.answer.Load()
	return a != nil && a.Status == signet.OCSPRevoked
}

func (r *revocation) forget(q *inquiry) {
	q.responder.certificates--
	delete(r.inquiries, q.key)
	r.kept.drop(q.key)
}

// dueInquiries takes the certificates whose turn it is.
func (r *revocation) dueInquiries() (due []*inquiry) {
	now := r.a.now()
	for _, d := range r.responders { // in no order, so that none is always last
		for len(d.due) > 0 && d.asking < maxAskingOne && r.askingFor[d.key.hub] < maxAskingFor && r.asking < maxAsking && !now.Before(d.paused) && !now.Before(d.due[0].next) {
			q := heap.Pop(&d.due).(*inquiry)
			if now.After(q.notAfter) {
				r.forget(q)
				continue
			}
			d.asking++
			r.asking++
			r.askingFor[d.key.hub]++
			due = append(due, q)
		}
	}
	return due
}

// ask puts one question to a responder, and takes in the answer.
func (r *revocation) ask(ctx context.Context, q *inquiry) {
	d := q.responder
	r.mu.RLock()
	private, nonce := d.private, d.nonce
	r.mu.RUnlock()
	f := r.far
	if private {
		f = r.near
	}
	a, err := r.asked(ctx, f, q, nonce)
	now := r.a.now()

	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.nudge()
	d.asking--
	r.asking--
	if r.askingFor[d.key.hub]--; r.askingFor[d.key.hub] == 0 {
		delete(r.askingFor, d.key.hub)
	}
	if d.gone {
		delete(r.inquiries, q.key)
		r.kept.drop(q.key)
		return
	}
	before := q.answer.Load()
	if err == nil && before != nil && a.ThisUpdate.Before(before.ThisUpdate) {
		err = signet.Refuse(signet.OCSPStale, "The OCSP response is older than the one before.") // a replay
	}
	if err == nil {
		d.answered, d.failures, d.fault, q.failures = now, 0, nil, 0
		known := &ocspAnswer{a, a.NextUpdate}
		if a.NextUpdate.IsZero() {
			known.until = now.Add(openLife)
		}
		q.answer.Store(known)
		r.kept.said(q, known)
		q.next = now.Add(egress.Jitter(min(max(known.until.Sub(now)/2, leastReask), mostReask)))
		if a.Status == signet.OCSPRevoked && (before == nil || before.Status != signet.OCSPRevoked) {
			r.concerned[q.key.hub] = true
		}
	} else {
		q.failures++
		q.next = now.Add(egress.BackOff(q.failures, responderRetry, mostReask))
		d.fault = signet.AsError(err)
		d.failures++
		// One that answers, if wrongly, may answer better after another certificate.
		if d.fault.Code == signet.SourceUnreachable || d.fault.Code == signet.SourceForbidden {
			d.paused = now.Add(egress.BackOff(d.failures, responderRetry, responderPause))
		}
		if ctx.Err() == nil && d.failures&(d.failures-1) == 0 { // the 1st, 2nd, 4th, 8th …
			r.log.Warn("an OCSP responder does not answer as it should", "hub", d.key.hub, "ca", d.key.ca, "responder", shown(d.key.url),
				"failures", d.failures, "code", d.fault.Code, "message", d.fault.Message)
		}
	}
	heap.Push(&d.due, q)
}

func (r *revocation) asked(ctx context.Context, f *fetcher, q *inquiry, nonce bool) (pki.OCSPAnswer, error) {
	question, err := pki.NewOCSPRequest(q.issuer, q.key.serial)
	if err != nil {
		return pki.OCSPAnswer{}, err
	}
	response, err := f.post(ctx, q.responder.key.url, question.DER)
	if err != nil {
		return pki.OCSPAnswer{}, err
	}
	return question.Judge(response, r.a.now(), nonce)
}
