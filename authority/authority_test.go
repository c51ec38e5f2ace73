package authority_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/internal/memstore"
)

const tenant = "hub"

func chain(t *testing.T, pair tls.Certificate) []*x509.Certificate {
	t.Helper()
	var certs []*x509.Certificate
	for _, der := range pair.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, c)
	}
	return certs
}

func code(t *testing.T, err error, want signet.Code) {
	t.Helper()
	if got := signet.CodeOf(err); got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

// TestRegistration is the life of a registered CA, etag by etag.
func TestRegistration(t *testing.T) {
	ctx := context.Background()
	a := authority.New(memstore.New(), authority.Options{})
	root, other := hubtest.NewCA(t, "Acme Root"), hubtest.NewCA(t, "Other Root")
	device := chain(t, root.Intermediate(t, "Factory").Device(t, "press-17"))
	pem := hubtest.PEM(root.Cert.Raw)

	_, err := a.Judge(tenant, device, time.Now())
	code(t, err, signet.ChainIssuerMissing)

	c, created, err := a.Register(ctx, tenant, "acme", pem, false, "")
	if err != nil || !created || c.Verified {
		t.Fatalf("%+v %v %v", c, created, err)
	}
	e1 := c.ETag
	_, err = a.Judge(tenant, device, time.Now())
	code(t, err, signet.AnchorUnverified)

	// The same again is no error and no change; something else needs the etag.
	if c, created, err := a.Register(ctx, tenant, "ACME", pem, false, ""); err != nil || created || c.ETag != e1 {
		t.Errorf("%+v %v %v", c, created, err)
	}
	_, _, err = a.Register(ctx, tenant, "acme", hubtest.PEM(other.Cert.Raw), false, "")
	code(t, err, signet.ETagMissing)
	_, _, err = a.Register(ctx, tenant, "second", pem, false, "")
	code(t, err, signet.UploadDuplicate)

	// Proof of possession.
	_, err = a.Verify(ctx, tenant, "acme", root.Prove(t, "ABCD"), e1)
	code(t, err, signet.ProofCodeMismatch)
	_, err = a.GenerateCode(ctx, tenant, "acme", "")
	code(t, err, signet.ETagMissing)
	c, err = a.GenerateCode(ctx, tenant, "acme", e1)
	if err != nil || c.ETag == e1 || len(c.VerificationCode) != 48 {
		t.Fatalf("%+v %v", c, err)
	}
	first, e2 := c.VerificationCode, c.ETag
	_, err = a.Verify(ctx, tenant, "acme", root.Prove(t, first), e1)
	code(t, err, signet.ETagStale)
	c, err = a.GenerateCode(ctx, tenant, "acme", e2)
	if err != nil || c.VerificationCode == first {
		t.Fatalf("%+v %v", c, err)
	}
	e3 := c.ETag
	for name, proof := range map[string]struct {
		pem  string
		want signet.Code
	}{
		"an old code":            {root.Prove(t, first), signet.ProofCodeMismatch},
		"another CA":             {other.Prove(t, c.VerificationCode), signet.ProofWrongSigner},
		"an intermediate":        {root.Intermediate(t, "X").Prove(t, c.VerificationCode), signet.ProofWrongSigner},
		"the CA itself":          {pem, signet.ProofWrongSigner},
		"rubbish":                {"rubbish", signet.ProofMalformed},
		"a key beside the proof": {root.Prove(t, c.VerificationCode) + hubtest.KeyPEM(t, root.Key), signet.UploadPrivateKey},
	} {
		_, err = a.Verify(ctx, tenant, "acme", proof.pem, e3)
		if signet.CodeOf(err) != proof.want {
			t.Errorf("%s: %v, want %s", name, err, proof.want)
		}
	}
	_, err = a.Judge(tenant, device, time.Now())
	code(t, err, signet.AnchorUnverified)

	c, err = a.Verify(ctx, tenant, "acme", root.Prove(t, c.VerificationCode), e3)
	if err != nil || !c.Verified || c.VerificationCode != "" || c.ETag == e3 {
		t.Fatalf("%+v %v", c, err)
	}
	path, err := a.Judge(tenant, device, time.Now())
	if err != nil || len(path) != 3 {
		t.Fatalf("%d certificates, %v", len(path), err)
	}

	// It is worth nothing at another hub.
	_, err = a.Judge("elsewhere", device, time.Now())
	code(t, err, signet.ChainIssuerMissing)

	// Gone.
	code(t, a.Delete(ctx, tenant, "acme", e3), signet.ETagStale)
	if err := a.Delete(ctx, tenant, "acme", c.ETag); err != nil {
		t.Fatal(err)
	}
	code(t, a.Delete(ctx, tenant, "acme", c.ETag), signet.CertificateUnknown)
	_, err = a.Judge(tenant, device, time.Now())
	code(t, err, signet.ChainIssuerMissing)
}

// TestReplaceUnverifies: another certificate under a verified name must be
// proven anew; the same certificate need not.
func TestReplaceUnverifies(t *testing.T) {
	ctx := context.Background()
	var changes []signet.Change
	a := authority.New(memstore.New(), authority.Options{Changed: func(_ context.Context, c signet.Change) { changes = append(changes, c) }})
	root, other := hubtest.NewCA(t, "Root"), hubtest.NewCA(t, "Root")
	c, _, err := a.Register(ctx, tenant, "acme", hubtest.PEM(root.Cert.Raw), true, "")
	if err != nil || !c.Verified {
		t.Fatal(err)
	}
	c, _, err = a.Register(ctx, tenant, "acme", hubtest.PEM(root.Cert.Raw), false, c.ETag)
	if err != nil || !c.Verified || len(changes) != 0 {
		t.Fatalf("%+v %v %v", c, changes, err)
	}
	c, _, err = a.Register(ctx, tenant, "acme", hubtest.PEM(other.Cert.Raw), false, c.ETag)
	if err != nil || c.Verified || len(changes) != 1 || !changes[0].Trust {
		t.Fatalf("%+v %v %v", c, changes, err)
	}
	_, err = a.Judge(tenant, chain(t, root.Device(t, "d")), time.Now())
	if err == nil {
		t.Error("the replaced CA is still trusted")
	}
}

// TestRace: two verifications of one CA at once: one wins, the other is stale.
func TestRace(t *testing.T) {
	ctx := context.Background()
	a := authority.New(memstore.New(), authority.Options{})
	root := hubtest.NewCA(t, "Root")
	c, _, _ := a.Register(ctx, tenant, "acme", hubtest.PEM(root.Cert.Raw), false, "")
	c, _ = a.GenerateCode(ctx, tenant, "acme", c.ETag)
	proof := root.Prove(t, c.VerificationCode)
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for n := range errs {
		wg.Go(func() { _, errs[n] = a.Verify(ctx, tenant, "acme", proof, c.ETag) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			code(t, err, signet.ETagStale)
		}
	}
	if won != 1 {
		t.Errorf("%d verifications won", won)
	}
}

// TestOrder breaks each operation at its write, before and after it is kept, and
// sees what a restart finds and what is in force. Trust is never more than what
// is stored; what the caller was told had failed may be stored, not the reverse.
func TestOrder(t *testing.T) {
	ctx := context.Background()
	root := hubtest.NewCA(t, "Root")
	device := chain(t, root.Device(t, "d"))
	trusts := func(a *authority.Authority) bool {
		_, err := a.Judge(tenant, device, time.Now())
		return err == nil
	}
	for _, c := range []struct {
		operation, write string
		verifiedBefore   bool
		do               func(*authority.Authority, signet.CACertificate) error
		// what is trusted when the write was not kept, and when it was
		without, with bool
	}{
		{"verify", "ReplaceCA", false, func(a *authority.Authority, c signet.CACertificate) error {
			_, err := a.Verify(ctx, tenant, c.Name, root.Prove(t, c.VerificationCode), c.ETag)
			return err
		}, false, true},
		{"delete", "DeleteCA", true, func(a *authority.Authority, c signet.CACertificate) error {
			return a.Delete(ctx, tenant, c.Name, c.ETag)
		}, true, false},
		{"distrust", "CreateDistrust", true, func(a *authority.Authority, _ signet.CACertificate) error {
			_, err := a.Distrust(ctx, tenant, signet.Distrust{}, []*x509.Certificate{root.Cert})
			return err
		}, true, false},
		{"lift", "DeleteDistrust", true, func(a *authority.Authority, _ signet.CACertificate) error {
			d, err := a.Distrust(ctx, tenant, signet.Distrust{}, []*x509.Certificate{root.Cert})
			if err != nil {
				return err
			}
			return a.LiftDistrust(ctx, tenant, d.ID)
		}, false, true},
		{"verify, and the anchors cannot be read", "CAs", false, func(a *authority.Authority, c signet.CACertificate) error {
			_, err := a.Verify(ctx, tenant, c.Name, root.Prove(t, c.VerificationCode), c.ETag)
			return err
		}, true, true},
		{"delete, and the anchors cannot be read", "CAs", true, func(a *authority.Authority, c signet.CACertificate) error {
			return a.Delete(ctx, tenant, c.Name, c.ETag)
		}, false, false},
		{"distrust, and the anchors cannot be read", "CAs", true, func(a *authority.Authority, _ signet.CACertificate) error {
			_, err := a.Distrust(ctx, tenant, signet.Distrust{}, []*x509.Certificate{root.Cert})
			return err
		}, false, false},
	} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%v", c.operation, after), func(t *testing.T) {
				store := memstore.New()
				a := authority.New(store, authority.Options{})
				ca, _, err := a.Register(ctx, tenant, "acme", hubtest.PEM(root.Cert.Raw), c.verifiedBefore, "")
				if err != nil {
					t.Fatal(err)
				}
				if !c.verifiedBefore {
					if ca, err = a.GenerateCode(ctx, tenant, "acme", ca.ETag); err != nil {
						t.Fatal(err)
					}
				}
				fault := func(operation string) error {
					if operation == c.write {
						return memstore.ErrFault
					}
					return nil
				}
				if after {
					store.After = fault
				} else {
					store.Before = fault
				}
				if err := c.do(a, ca); signet.CodeOf(err) != signet.Internal {
					t.Fatalf("the fault was answered with %v", err)
				}
				inForce := trusts(a)
				store.Before, store.After = nil, nil
				restarted := authority.New(store, authority.Options{})
				if err := restarted.Load(ctx); err != nil {
					t.Fatal(err)
				}
				want := c.without
				if after {
					want = c.with
				}
				if got := trusts(restarted); got != want {
					t.Errorf("after a restart: trusted %v, want %v", got, want)
				}
				if inForce && !want {
					t.Error("in force and not stored")
				}
			})
		}
	}
}

// TestRecovery: a hub whose trust could not be read after a change trusts nobody,
// and recovers by itself when it can be read again; also when the clock is set back.
func TestRecovery(t *testing.T) {
	for _, later := range []time.Duration{2 * time.Second, -time.Hour} {
		t.Run(later.String(), func(t *testing.T) { recovers(t, later) })
	}
}

func recovers(t *testing.T, later time.Duration) {
	ctx, store, now := context.Background(), memstore.New(), time.Now()
	a := authority.New(store, authority.Options{Now: func() time.Time { return now }})
	root, other := hubtest.NewCA(t, "Root"), hubtest.NewCA(t, "Other")
	device := chain(t, root.Device(t, "d"))
	if _, _, err := a.Register(ctx, tenant, "acme", hubtest.PEM(root.Cert.Raw), true, ""); err != nil {
		t.Fatal(err)
	}
	calls := 0
	store.Before = func(operation string) error {
		if operation != "CAs" {
			return nil
		}
		if calls++; calls == 1 {
			return nil // to count them; what follows is the reading back
		}
		return memstore.ErrFault
	}
	if _, _, err := a.Register(ctx, tenant, "other", hubtest.PEM(other.Cert.Raw), true, ""); err == nil {
		t.Fatal("the fault was not told")
	}
	_, err := a.Judge(tenant, device, now)
	code(t, err, signet.Unavailable)
	now = now.Add(time.Minute)
	_, err = a.Judge(tenant, device, now)
	code(t, err, signet.Unavailable) // it still cannot be read
	store.Before = nil
	_, err = a.Judge(tenant, device, now)
	code(t, err, signet.Unavailable) // and is not tried at every connect
	at := now
	now = now.Add(later)
	if _, err := a.Judge(tenant, device, at); err != nil {
		t.Errorf("it has not recovered: %v", err)
	}
}

func TestVerdictLog(t *testing.T) {
	ctx := context.Background()
	store := memstore.New()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	l := authority.NewVerdictLog(store, authority.VerdictOptions{Keep: 3, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	refusal := func(device string) signet.Verdict {
		return signet.Verdict{Error: *signet.Refuse(signet.CertExpired, "It has expired."), Hub: tenant, DeviceID: device, Remote: "192.0.2.1"}
	}
	first := l.Record(refusal("a"))
	for range 99 {
		if again := l.Record(refusal("a")); again != first {
			t.Fatal("a repeat has a tracking ID of its own")
		}
	}
	vs, err := l.List(ctx, authority.VerdictQuery{Hub: tenant, Limit: 10})
	if err != nil || len(vs) != 1 || vs[0].Count != 100 || vs[0].TrackingID != first || vs[0].Step != signet.StepPath {
		t.Fatalf("%+v %v", vs, err)
	}
	// A flood of different refusals is bounded in the store.
	for n := range 5000 {
		l.Record(refusal(fmt.Sprint(n)))
	}
	l.Close()
	vs, err = l.List(ctx, authority.VerdictQuery{Hub: tenant, Limit: 10})
	if err != nil || len(vs) != 3 {
		t.Errorf("%d verdicts, %v", len(vs), err)
	}
	if vs, _ := l.List(ctx, authority.VerdictQuery{Hub: "elsewhere", Limit: 10}); len(vs) != 0 {
		t.Error("a verdict of one hub is seen at another")
	}
	l.Close() // again, and Record after it, are harmless
	l.Record(refusal("late"))
}

// TestVerdictsThatCouldNotBeStored: a refusal that the store could not take is there when it can again,
// if its hub still is.
func TestVerdictsThatCouldNotBeStored(t *testing.T) {
	store := memstore.New()
	l := authority.NewVerdictLog(store, authority.VerdictOptions{Logger: slog.New(slog.DiscardHandler)})
	defer l.Close()
	count := func(hub string) int64 {
		t.Helper()
		vs, err := l.List(t.Context(), authority.VerdictQuery{Hub: hub, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		var n int64
		for _, v := range vs {
			n += v.Count
		}
		return n
	}
	refusal := func(hub string) signet.Verdict {
		return signet.Verdict{Error: *signet.Refuse(signet.CertExpired, "It has expired."), Hub: hub, DeviceID: "a"}
	}
	var faulty atomic.Bool
	faulty.Store(true)
	store.Before = func(operation string) error {
		if operation != "SaveVerdicts" || !faulty.Load() {
			return nil
		}
		return memstore.ErrFault
	}
	l.Record(refusal(tenant))
	l.Record(refusal("gone"))
	if n := count(tenant); n != 0 {
		t.Fatalf("%d stored by a store that fails", n)
	}
	l.Record(refusal(tenant))
	l.Forget("gone")
	count(tenant)
	faulty.Store(false)
	if n := count(tenant); n != 2 {
		t.Errorf("%d of 2 refusals are there", n)
	}
	if n := count("gone"); n != 0 {
		t.Errorf("%d refusals of a hub that has gone", n)
	}
}

// TestVerdictsOfStrangers: what strangers write fills neither the store nor the
// log, and goes with the hub that it was said to.
func TestVerdictsOfStrangers(t *testing.T) {
	var written bytes.Buffer
	l := authority.NewVerdictLog(memstore.New(), authority.VerdictOptions{Logger: slog.New(slog.NewTextHandler(&written, nil))})
	defer l.Close()
	long := strings.Repeat("\x01", 100_000)
	e := signet.Refuse(signet.ChainMalformed, "No %s.", long).At("field", long, long)
	e.Cause = errors.New(long)
	l.Record(signet.Verdict{Error: *e, Hub: tenant, DeviceID: "a"})
	if written.Len() > 16<<10 {
		t.Errorf("%d bytes are logged", written.Len())
	}
	list := func() []signet.Verdict {
		vs, err := l.List(t.Context(), authority.VerdictQuery{Hub: tenant, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		return vs
	}
	if vs := list(); len(vs) != 1 || len(vs[0].Message)+len(vs[0].Expected) > 4<<10 {
		t.Errorf("%d verdicts are stored, or one that is too long", len(vs))
	}
	l.Record(signet.Verdict{Error: *e, Hub: tenant, DeviceID: "b"})
	l.Forget(tenant)
	if vs := list(); len(vs) != 1 {
		t.Errorf("of a hub that is gone, %d verdicts are stored", len(vs))
	}
}
