package issuance_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/signet-iot/signet"
)

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// renewal is the request of a device that is connected by a certificate.
func renewal(held *x509.Certificate, id string, csr []byte) signet.Renewal {
	return signet.Renewal{Hub: "first", DeviceID: held.Subject.CommonName, Certificate: sha256.Sum256(held.Raw), RequestID: id, CSR: csr}
}

func (h *house) renew(r signet.Renewal) (signet.Renewed, error) {
	taken := 0
	renewed, err := h.issuance.Renew(h.t.Context(), r, func(receipt signet.RenewalReceipt) {
		if taken++; receipt.CorrelationID == "" || !receipt.Expires.Equal(h.now.Add(signet.RenewalTime)) {
			h.t.Errorf("%+v", receipt)
		}
	})
	if err == nil && taken != 1 {
		h.t.Errorf("taken on %d times", taken)
	}
	return renewed, err
}

// TestRenew: the device gets another certificate of the same policy, for a key of
// its choice; the one before stays good until its end.
func TestRenew(t *testing.T) {
	h := newHouse(t)
	key := newKey(t)
	first := h.issue(order("press-17", "1", csr(t, key, "press-17")))
	h.now = h.now.Add(72 * 24 * time.Hour)
	request := csr(t, newKey(t), "press-17")
	renewed, err := h.renew(renewal(first[0], "r-1", request))
	h.no(err)
	if leaf := renewed.Chain[0]; len(renewed.Chain) != 3 || leaf.SerialNumber.Cmp(first[0].SerialNumber) == 0 ||
		!leaf.NotAfter.Equal(h.now.Add(90*24*time.Hour)) || renewed.RequestID != "r-1" {
		t.Errorf("%s to %s, %q", leaf.SerialNumber, leaf.NotAfter, renewed.RequestID)
	}
	for _, chain := range [][]*x509.Certificate{first, renewed.Chain} {
		if _, err := h.authority.Judge("first", chain, h.now); err != nil {
			t.Error(err)
		}
	}
	// The key of before may be used again, and what was renewed is renewed.
	last, err := h.renew(renewal(renewed.Chain[0], "r-2", csr(t, key, "press-17")))
	h.no(err)
	if _, err := h.authority.Judge("first", last.Chain, h.now.Add(89*24*time.Hour)); err != nil {
		t.Error(err)
	}
}

// TestRenewAgain: the same request has the same outcome, for twelve hours; then, or
// with another CSR, it is a new one.
func TestRenewAgain(t *testing.T) {
	h := newHouse(t)
	held := h.issue(order("press-17", "1", csr(t, newKey(t), "press-17")))[0]
	request := csr(t, newKey(t), "press-17")
	first, err := h.renew(renewal(held, "r-1", request))
	h.no(err)
	h.now = h.now.Add(signet.RenewalTime - time.Second)
	again, err := h.renew(renewal(held, "r-1", request))
	h.no(err)
	if !again.Chain[0].Equal(first.Chain[0]) || again.CorrelationID != first.CorrelationID {
		t.Error("another certificate")
	}
	other, err := h.renew(renewal(held, "r-1", csr(t, newKey(t), "press-17")))
	h.no(err)
	if other.Chain[0].Equal(first.Chain[0]) || other.CorrelationID == first.CorrelationID {
		t.Error("the certificate of another CSR")
	}
	h.now = h.now.Add(signet.RenewalTime + time.Second)
	later, err := h.renew(renewal(held, "r-1", request))
	h.no(err)
	if later.Chain[0].Equal(first.Chain[0]) {
		t.Error("the certificate of yesterday")
	}
}

// TestRenewShort: a device whose requests all look alike (a request ID that counts
// from 1 after each start, and a key for life whose CSR is always the same) gets
// another certificate each time that it has used the one before, however short its
// certificates are, and none that has ended.
func TestRenewShort(t *testing.T) {
	h := newHouse(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	h.no(err)
	request := csr(t, key, "press-17")
	o := order("press-17", "1", request)
	o.Policy = "grace" // an hour, and an hour after its end
	first := h.issue(o)[0]
	held := first
	for range 5 {
		h.now = h.now.Add(50 * time.Minute)
		renewed, err := h.renew(renewal(held, "1", request))
		h.no(err)
		if next := renewed.Chain[0]; next.Equal(held) || !next.NotAfter.Equal(h.now.Add(time.Hour)) {
			t.Errorf("at %s it gets what ends at %s", h.now, next.NotAfter)
		}
		held = renewed.Chain[0]
	}
	// The answer was lost, and comes again only as long as it is of use.
	h.now = h.now.Add(50 * time.Minute)
	lost, err := h.renew(renewal(held, "1", request))
	h.no(err)
	h.now = lost.Chain[0].NotAfter.Add(time.Minute)
	if missed, some, err := h.issuance.Renewed(t.Context(), "first", "press-17", sha256.Sum256(held.Raw)); err != nil || some {
		t.Errorf("it is told of what ended at %s, %v", missed.Chain[0].NotAfter, err)
	}
	renewed, err := h.renew(renewal(held, "1", request))
	h.no(err)
	if renewed.Chain[0].Equal(lost.Chain[0]) {
		t.Error("it gets what has ended")
	}
}

// TestRenewRefused: who may not renew, and what.
func TestRenewRefused(t *testing.T) {
	h := newHouse(t)
	held := h.issue(order("press-17", "1", csr(t, newKey(t), "press-17")))[0]
	request := csr(t, newKey(t), "press-17")
	try := func(r signet.Renewal, code signet.Code) {
		t.Helper()
		_, err := h.renew(r)
		h.refused(err, code)
	}
	r := renewal(held, "r-1", request)
	r.Certificate[0] ^= 1
	try(r, signet.IssuanceNotHere) // a certificate of the factory
	r = renewal(held, "r-1", request)
	r.DeviceID = "press-18"
	try(r, signet.IssuanceNotHere)
	r = renewal(held, "r-1", request)
	r.Hub = "second"
	try(r, signet.IssuanceNotHere)
	try(renewal(held, "r-1", csr(t, newKey(t), "press-18")), signet.CSRName)
	try(renewal(held, "r-1", []byte("x")), signet.CSRMalformed)
	r = renewal(held, "r-1", request)
	r.Replace = "*"
	try(r, signet.IssuanceNothingPending)

	h.now = held.NotAfter.Add(time.Second)
	try(renewal(held, "r-1", request), signet.CertExpired)
	h.now = held.NotAfter
	_, err := h.renew(renewal(held, "r-1", request))
	h.no(err)

	policies := h.list
	h.list = policies[1:]
	try(renewal(held, "r-2", request), signet.IssuanceNotHere)
	h.list = policies

	// A hub that is made anew under the name knows nothing of it.
	h.no(h.registry.DeleteHub(t.Context(), "first"))
	h.now = h.now.Add(time.Minute)
	_, err = h.registry.CreateHub(t.Context(), "first", "first.test")
	h.no(err)
	h.now = held.NotAfter
	try(renewal(held, "r-3", request), signet.IssuanceNotHere)
}

// TestRenewExpired: where the policy allows it, for as long as it says.
func TestRenewExpired(t *testing.T) {
	h := newHouse(t)
	o := order("press-17", "1", csr(t, newKey(t), "press-17"))
	o.Policy = "grace"
	held := h.issue(o)[0]
	h.now = held.NotAfter.Add(time.Hour)
	until, err := h.issuance.Lane(t.Context(), "first", "press-17", sha256.Sum256(held.Raw))
	if err != nil || !until.Equal(h.now) {
		t.Errorf("%v %v", until, err)
	}
	_, err = h.renew(renewal(held, "r-1", csr(t, newKey(t), "press-17")))
	h.no(err)
	h.now = h.now.Add(time.Second)
	_, err = h.issuance.Lane(t.Context(), "first", "press-17", sha256.Sum256(held.Raw))
	h.refused(err, signet.CertExpired)
	_, err = h.renew(renewal(held, "r-2", csr(t, newKey(t), "press-17")))
	h.refused(err, signet.CertExpired)
}

// TestOneAtATime: while a renewal is under way, the same one joins it, another is
// refused, and one that says so comes after it.
func TestOneAtATime(t *testing.T) {
	h := newHouse(t)
	held := h.issue(order("press-17", "1", csr(t, newKey(t), "press-17")))[0]
	hold, held2 := make(chan struct{}), make(chan struct{}, 9)
	h.store.Before = func(operation string) error {
		if operation == "AddIssued" {
			held2 <- struct{}{}
			<-hold
		}
		return nil
	}
	type outcome struct {
		renewed signet.Renewed
		err     error
	}
	begin := func(r signet.Renewal) (taken chan struct{}, over chan outcome) {
		taken, over = make(chan struct{}), make(chan outcome, 1)
		go func() {
			renewed, err := h.issuance.Renew(context.Background(), r, func(signet.RenewalReceipt) { close(taken) })
			over <- outcome{renewed, err}
		}()
		return taken, over
	}
	request := csr(t, newKey(t), "press-17")
	_, first := begin(renewal(held, "first", request))
	<-held2
	taken, same := begin(renewal(held, "first", request))
	<-taken
	_, err := h.renew(renewal(held, "second", csr(t, newKey(t), "press-17")))
	h.refused(err, signet.IssuancePending)
	if e := signet.AsError(err); e.Expected != "first" {
		t.Errorf("the one under way is %q", e.Expected)
	}
	other := renewal(held, "third", csr(t, newKey(t), "press-17"))
	other.Replace = "none"
	_, err = h.renew(other)
	h.refused(err, signet.IssuancePending)
	other.Replace = "first"
	taken, third := begin(other)
	<-taken
	close(hold)
	a, b, c := <-first, <-same, <-third
	h.no(a.err)
	h.no(b.err)
	h.no(c.err)
	if !a.renewed.Chain[0].Equal(b.renewed.Chain[0]) || a.renewed.Chain[0].Equal(c.renewed.Chain[0]) {
		t.Error("not one certificate for the same request, and another for another")
	}
	h.store.Before = nil
	_, err = h.renew(renewal(held, "fourth", csr(t, newKey(t), "press-17"))) // nothing is left of them
	h.no(err)
}

// TestMissed: a device that comes back with the certificate of before hears of the
// renewal; with the new one, or when it is long ago, there is nothing to hear.
func TestMissed(t *testing.T) {
	h := newHouse(t)
	held := h.issue(order("press-17", "1", csr(t, newKey(t), "press-17")))[0]
	missed := func(c *x509.Certificate) (signet.Renewed, bool) {
		t.Helper()
		renewed, some, err := h.issuance.Renewed(t.Context(), "first", "press-17", sha256.Sum256(c.Raw))
		h.no(err)
		return renewed, some
	}
	if _, some := missed(held); some {
		t.Error("a renewal that there was not")
	}
	renewed, err := h.renew(renewal(held, "r-1", csr(t, newKey(t), "press-17")))
	h.no(err)
	if again, some := missed(held); !some || again.RequestID != "r-1" || !again.Chain[0].Equal(renewed.Chain[0]) || again.CorrelationID != renewed.CorrelationID {
		t.Errorf("%+v %v", again, some)
	}
	if _, some := missed(renewed.Chain[0]); some {
		t.Error("the device has it")
	}
	if _, some := missed(h.ca.Certificate); some {
		t.Error("who has nothing from here gets nothing")
	}
	h.now = h.now.Add(signet.RenewalTime)
	if _, some := missed(held); some {
		t.Error("after its time")
	}
	if _, _, err := h.issuance.Renewed(t.Context(), "first", "nobody", [32]byte{}); err != nil {
		t.Error(err)
	}
	if list := h.issuance.List("dps"); len(list) != 2 || list[0].Name != "grace" || len(h.issuance.List("other")) != 0 {
		t.Errorf("%+v", list)
	}
}
