package authority

import (
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// TestRoomForInquiries: when more certificates come than are asked after, those
// that were longest not met go, and none that is revoked.
func TestRoomForInquiries(t *testing.T) {
	now := time.Now()
	policy := &signet.RevocationPolicy{Hub: "hub", CA: "acme", Mode: signet.RevocationSoft, OCSP: "http://responder.test"}
	a := New(nil, Options{Now: func() time.Time { return now }})
	a.trust.Store(&map[string]*trust{"hub": {policies: map[[32]byte]*signet.RevocationPolicy{{}: policy}}})
	r := a.revocation
	issuer := &x509.Certificate{}
	key := func(n int) inquiryKey { return inquiryKey{"hub", [32]byte{}, fmt.Sprintf("%08x", n)} }
	inquire := func(n int) {
		r.inquire(key(n), policy, policy.OCSP, false, issuer, now.Add(time.Hour))
	}
	const revoked = 1000
	for n := range maxInquiries {
		inquire(n)
		if n < revoked {
			r.inquiries[key(n)].answer.Store(&ocspAnswer{OCSPAnswer: pki.OCSPAnswer{Status: signet.OCSPRevoked}})
		}
	}
	now = now.Add(time.Minute)
	for n := range 1000 {
		inquire(maxInquiries + n)
	}
	d := r.responders[sourceKey{"hub", "acme", policy.OCSP}]
	if len(r.inquiries) != maxInquiries || d.certificates != maxInquiries || len(d.due) != maxInquiries {
		t.Errorf("%d are asked after, %d of the responder, %d due", len(r.inquiries), d.certificates, len(d.due))
	}
	for n := range revoked {
		if a := r.answer(key(n)); a == nil || a.Status != signet.OCSPRevoked {
			t.Fatalf("the revoked certificate %d is forgotten", n)
		}
	}
	kept := 0
	for n := range 1000 {
		if r.inquiries[key(maxInquiries+n)] != nil {
			kept++
		}
	}
	if kept < 900 {
		t.Errorf("of 1000 that have just been met %d are kept", kept)
	}

	// A policy that is no longer in force has nobody asked.
	other := *policy
	r.inquire(key(maxInquiries+5000), &other, policy.OCSP, false, issuer, now.Add(time.Hour))
	if r.inquiries[key(maxInquiries+5000)] != nil {
		t.Error("a policy that is gone asks")
	}

	// However many are due, few questions are on their way.
	if due := r.dueInquiries(); len(due) != maxAskingOne {
		t.Errorf("%d questions at once to one responder", len(due))
	}
	for i := range 5 {
		address := fmt.Sprint("http://other.test/", i)
		for n := range 10 {
			r.inquire(inquiryKey{"hub", [32]byte{byte(i + 1)}, fmt.Sprint(n)}, policy, address, true, issuer, now.Add(time.Hour))
		}
	}
	r.dueInquiries()
	if r.asking != maxAskingFor {
		t.Errorf("%d questions at once for one hub", r.asking)
	}
	if r.askingFor["hub"] != r.asking {
		t.Errorf("%v", r.askingFor)
	}

	// With the policy all of it goes.
	a.trust.Store(&map[string]*trust{"hub": {}})
	r.retune("hub")
	if len(r.responders) != 0 || len(r.inquiries) > maxAskingFor {
		t.Errorf("%d responders, %d certificates are left", len(r.responders), len(r.inquiries))
	}
}

// TestRoomForInquiriesOfMany: where no hub has most of the room, none that is revoked goes,
// though half of those of each hub are.
func TestRoomForInquiriesOfMany(t *testing.T) {
	now := time.Now()
	a := New(nil, Options{Now: func() time.Time { return now }})
	r := a.revocation
	const hubs = 32
	var policies [hubs]*signet.RevocationPolicy
	all := map[string]*trust{}
	for h := range policies {
		policies[h] = &signet.RevocationPolicy{Hub: fmt.Sprint("hub", h), CA: "acme", Mode: signet.RevocationSoft, OCSP: "http://responder.test"}
		all[policies[h].Hub] = &trust{policies: map[[32]byte]*signet.RevocationPolicy{{}: policies[h]}}
	}
	a.trust.Store(&all)
	inquire := func(n int) *inquiry {
		p := policies[n%hubs]
		k := inquiryKey{p.Hub, [32]byte{}, fmt.Sprintf("%08x", n)}
		r.inquire(k, p, p.OCSP, false, &x509.Certificate{}, now.Add(time.Hour))
		return r.inquiries[k]
	}
	var revoked []*inquiry
	for n := range maxInquiries {
		if q := inquire(n); n/hubs%2 == 0 {
			q.answer.Store(&ocspAnswer{OCSPAnswer: pki.OCSPAnswer{Status: signet.OCSPRevoked}})
			revoked = append(revoked, q)
		}
	}
	for n := range 1000 {
		inquire(maxInquiries + n)
	}
	for _, q := range revoked {
		if r.inquiries[q.key] != q {
			t.Fatal("a certificate that is revoked is forgotten")
		}
	}
}

// TestRoomForInquiriesOfOthers: a hub whose certificates take all the room, each of them
// revoked by a responder of its own, keeps those of no other from being asked after.
func TestRoomForInquiriesOfOthers(t *testing.T) {
	now := time.Now()
	a := New(nil, Options{Now: func() time.Time { return now }})
	r := a.revocation
	policies := map[string]*signet.RevocationPolicy{}
	all := map[string]*trust{}
	for _, hub := range []string{"greedy", "other"} {
		policies[hub] = &signet.RevocationPolicy{Hub: hub, CA: "acme", Mode: signet.RevocationSoft, OCSP: "http://responder.test"}
		all[hub] = &trust{policies: map[[32]byte]*signet.RevocationPolicy{{}: policies[hub]}}
	}
	a.trust.Store(&all)
	key := func(hub string, n int) inquiryKey { return inquiryKey{hub, [32]byte{}, fmt.Sprintf("%08x", n)} }
	revoked := &ocspAnswer{OCSPAnswer: pki.OCSPAnswer{Status: signet.OCSPRevoked}}
	inquire := func(hub string, n int) bool {
		r.inquire(key(hub, n), policies[hub], policies[hub].OCSP, false, &x509.Certificate{}, now.Add(time.Hour))
		return r.inquiries[key(hub, n)] != nil
	}
	const few = 100
	for n := range few {
		inquire("other", n)
		r.inquiries[key("other", n)].answer.Store(revoked)
	}
	for n := range maxInquiries {
		if now = now.Add(time.Microsecond); inquire("greedy", n) {
			r.inquiries[key("greedy", n)].answer.Store(revoked)
		}
	}
	asked := 0
	for n := range few {
		if inquire("other", few+n) {
			asked++
		}
	}
	if asked != few {
		t.Errorf("of %d of another hub %d are asked after", few, asked)
	}
	for n := range few {
		if r.answer(key("other", n)) == nil {
			t.Fatal("a certificate that is revoked at another hub is forgotten")
		}
	}
	if len(r.inquiries) != maxInquiries {
		t.Errorf("%d are asked after", len(r.inquiries))
	}
}
