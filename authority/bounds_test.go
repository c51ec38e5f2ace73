package authority

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// TestPrivate: what is no public host's, in every guise.
func TestPrivate(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1": true, "10.1.2.3": true, "172.31.0.1": true, "192.168.1.1": true, "169.254.169.254": true, "0.0.0.0": true,
		"100.64.0.1": true, "192.0.0.170": true, "198.18.0.1": true, "224.0.0.1": true, "240.0.0.1": true, "255.255.255.255": true,
		"::1": true, "::": true, "fe80::1%eth0": true, "fc00::1": true, "fd12::1": true, "fec0::1": true, "ff02::1": true,
		"::ffff:10.0.0.1": true, "::ffff:127.0.0.1": true, "::7f00:1": true, "64:ff9b::7f00:1": true, "2002:7f00:1::": true,
		"2001:0:7f00:1::": true, "2001:db8::1": true,
		"1.1.1.1": false, "93.184.216.34": false, "172.32.0.1": false, "::ffff:1.1.1.1": false, "2606:4700::1111": false, "2a00:1450::1": false,
	} {
		if got := private(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

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
