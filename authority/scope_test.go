package authority_test

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/pki"
)

func keyOf(c *x509.Certificate) string {
	key := pki.PathCertificate(c).Key
	return hex.EncodeToString(key[:])
}

// principal is who has come by that path.
func principal(id string, path []*x509.Certificate) *signet.Principal {
	return &signet.Principal{Hub: tenant, DeviceID: id, Path: pki.Path(path), Issued: path[0].NotBefore, KeyType: pki.KeyTypeOf(path[0])}
}

// TestScope: what a CA may vouch for is bounded by its key, wherever it stands.
func TestScope(t *testing.T) {
	yesterday := time.Now().Add(-24 * time.Hour).Truncate(time.Second)
	root, other := hubtest.NewCA(t, "Acme Root"), hubtest.NewCA(t, "Other Root")
	factory := root.Intermediate(t, "Factory")
	line := factory.Intermediate(t, "Line 4")
	press := line.Device(t, "press-17", func(c *x509.Certificate) { c.NotBefore = yesterday })
	arm := line.Device(t, "press-17/arm")
	for _, test := range []struct {
		name    string
		of      authority.ScopeOf
		scope   signet.Scope
		chain   []*x509.Certificate
		refused string // the field; "" when let in
	}{
		{"the anchor's, within", authority.ScopeOf{CA: "acme"}, signet.Scope{Devices: []string{"press-*"}}, chain(t, press), ""},
		{"the anchor's, another ID", authority.ScopeOf{CA: "acme"}, signet.Scope{Devices: []string{"lathe-*"}}, chain(t, press), "deviceId"},
		{"a module by its device", authority.ScopeOf{CA: "acme"}, signet.Scope{Devices: []string{"press-17"}}, chain(t, arm), ""},
		{"an intermediate that nobody has registered", authority.ScopeOf{Certificate: line.Cert}, signet.Scope{Devices: []string{"lathe-*"}}, chain(t, press), "deviceId"},
		{"one above it, by its key", authority.ScopeOf{Key: keyOf(factory.Cert)}, signet.Scope{IssuedUntil: yesterday.Add(-time.Second)}, chain(t, press), "notBefore"},
		{"issued at the last second", authority.ScopeOf{Key: keyOf(factory.Cert)}, signet.Scope{IssuedFrom: yesterday, IssuedUntil: yesterday}, chain(t, press), ""},
		{"one that is registered and not verified", authority.ScopeOf{CA: "line4"}, signet.Scope{KeyTypes: []string{"ed25519", "rsa3072"}}, chain(t, press), "subjectPublicKeyInfo"},
		{"that completes the path", authority.ScopeOf{CA: "line4"}, signet.Scope{KeyTypes: []string{"p384"}}, append(chain(t, press)[:1:1], factory.Cert), "subjectPublicKeyInfo"},
		{"of its kind", authority.ScopeOf{CA: "line4"}, signet.Scope{KeyTypes: []string{"p256"}}, chain(t, press), ""},
		{"another CA's", authority.ScopeOf{CA: "other"}, signet.Scope{Devices: []string{"x"}}, chain(t, press), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := authority.New(newStore(t), authority.Options{})
			for name, ca := range map[string]*hubtest.CA{"acme": root, "other": other, "line4": line} {
				if _, _, err := a.Register(t.Context(), tenant, name, hubtest.PEM(ca.Cert.Raw), name != "line4", ""); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := a.Judge(tenant, test.chain, time.Now()); err != nil {
				t.Fatal(err)
			}
			check := func(a *authority.Authority) {
				t.Helper()
				path, err := a.Judge(tenant, test.chain, time.Now())
				if test.refused == "" {
					if err != nil || a.Admit(t.Context(), principal("press-17", path)) != nil {
						t.Fatal(err)
					}
					return
				}
				e := signet.AsError(err)
				if err == nil || e.Code != signet.CertOutOfScope || e.Field != test.refused || e.Certificate == nil || e.Certificate.Index != 0 {
					t.Fatalf("%+v", e)
				}
			}
			s, err := a.SetScope(t.Context(), tenant, test.of, test.scope)
			if err != nil {
				t.Fatal(err)
			}
			check(a)
			if err := a.RemoveScope(t.Context(), tenant, s.Key); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Judge(tenant, test.chain, time.Now()); err != nil {
				t.Fatal("removed:", err)
			}
		})
	}
}

func newStore(t *testing.T) *memstore.Store {
	t.Helper()
	s := memstore.New()
	if err := s.CreateHub(t.Context(), signet.Hub{Name: tenant, HostName: tenant + ".test"}); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestScopeByAnotherPath: a device with a path outside of the scope and one inside
// is let in by that.
func TestScopeByAnotherPath(t *testing.T) {
	a := authority.New(newStore(t), authority.Options{})
	one, two := hubtest.NewCA(t, "One"), hubtest.NewCA(t, "Two")
	line := one.Intermediate(t, "Line")
	crossed := hubtest.Cross(t, two, line)
	for name, ca := range map[string]*hubtest.CA{"one": one, "two": two} {
		if _, _, err := a.Register(t.Context(), tenant, name, hubtest.PEM(ca.Cert.Raw), true, ""); err != nil {
			t.Fatal(err)
		}
	}
	both := append(chain(t, line.Device(t, "press-17")), crossed)
	if _, err := a.SetScope(t.Context(), tenant, authority.ScopeOf{CA: "one"}, signet.Scope{Devices: []string{"none"}}); err != nil {
		t.Fatal(err)
	}
	path, err := a.Judge(tenant, both, time.Now())
	if err != nil || !path[len(path)-1].Equal(two.Cert) {
		t.Fatalf("%v %v", path, err)
	}
	// The line's own scope binds both.
	if _, err := a.SetScope(t.Context(), tenant, authority.ScopeOf{Certificate: line.Cert}, signet.Scope{Devices: []string{"none"}}); err != nil {
		t.Fatal(err)
	}
	_, err = a.Judge(tenant, both, time.Now())
	code(t, err, signet.CertOutOfScope)
}

// TestScopeNumber: of those that come at once, as many are let in as may, each
// counted once, and the same again after a restart.
func TestScopeNumber(t *testing.T) {
	store := newStore(t)
	root := hubtest.NewCA(t, "Acme Root")
	start := func() *authority.Authority {
		a := authority.New(store, authority.Options{})
		if err := a.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := start()
	if _, _, err := a.Register(t.Context(), tenant, "acme", hubtest.PEM(root.Cert.Raw), true, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := a.SetScope(t.Context(), tenant, authority.ScopeOf{CA: "acme"}, signet.Scope{MaxDevices: 5}); err != nil {
		t.Fatal(err)
	}
	var ps []*signet.Principal
	for n := range 8 {
		id := fmt.Sprint("press-", n)
		ps = append(ps, principal(id, append(chain(t, root.Device(t, id)), root.Cert)))
	}
	admit := func(a *authority.Authority) (in map[string]bool) {
		var mu sync.Mutex
		var all sync.WaitGroup
		in = map[string]bool{}
		for _, p := range append(ps, ps...) {
			all.Go(func() {
				err := a.Admit(t.Context(), p)
				if err != nil && (signet.CodeOf(err) != signet.CertOutOfScope || signet.AsError(err).Field != "devices") {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if before, known := in[p.DeviceID]; known && before != (err == nil) {
					t.Error(p.DeviceID, "is answered in two ways")
				}
				in[p.DeviceID] = err == nil
			})
		}
		all.Wait()
		return in
	}
	count := func(in map[string]bool) (n int) {
		for _, ok := range in {
			if ok {
				n++
			}
		}
		return n
	}
	first := admit(a)
	if count(first) != 5 {
		t.Fatalf("%d are let in", count(first))
	}
	scopes, err := a.Scopes(t.Context(), tenant)
	if err != nil || len(scopes) != 1 || scopes[0].Seen != 8 {
		t.Fatalf("%+v %v", scopes, err)
	}
	if again := admit(start()); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Fatalf("after a restart: %v, before %v", again, first)
	}
	if err := a.InScope(t.Context(), principal("press-new", append(chain(t, root.Device(t, "press-new")), root.Cert))); signet.CodeOf(err) != signet.CertOutOfScope {
		t.Fatal(err)
	}

	// More, and fewer: by the order in which they came.
	for _, most := range []int64{7, 3} {
		if _, err := a.SetScope(t.Context(), tenant, authority.ScopeOf{CA: "acme"}, signet.Scope{MaxDevices: most}); err != nil {
			t.Fatal(err)
		}
		if n := count(admit(a)); n != int(most) {
			t.Fatalf("%d are let in of %d", n, most)
		}
	}

	// A place that cannot be stored, or of which it is not known whether it was, lets
	// nobody in.
	fresh := principal("press-fresh", append(chain(t, root.Device(t, "press-fresh")), root.Cert))
	if _, err := a.SetScope(t.Context(), tenant, authority.ScopeOf{CA: "acme"}, signet.Scope{MaxDevices: 100}); err != nil {
		t.Fatal(err)
	}
	fault := func(operation string) error {
		if operation == "TakePlace" {
			return memstore.ErrFault
		}
		return nil
	}
	store.Before = fault
	if err := a.Admit(t.Context(), fresh); err == nil {
		t.Fatal("let in")
	}
	store.Before, store.After = nil, fault
	if err := a.Admit(t.Context(), fresh); err == nil {
		t.Fatal("let in")
	}
	store.After = nil
	if err := a.Admit(t.Context(), fresh); err != nil {
		t.Fatal(err)
	}
}

// TestScopeMalformed: what cannot be meant is refused, and nothing is changed.
func TestScopeMalformed(t *testing.T) {
	a := authority.New(newStore(t), authority.Options{})
	root := hubtest.NewCA(t, "Acme Root")
	within := signet.Scope{Devices: []string{"*"}}
	for _, test := range []struct {
		of    authority.ScopeOf
		scope signet.Scope
		want  signet.Code
	}{
		{authority.ScopeOf{}, within, signet.ScopeMalformed},
		{authority.ScopeOf{CA: "none"}, within, signet.CertificateUnknown},
		{authority.ScopeOf{Key: "ab"}, within, signet.ScopeMalformed},
		{authority.ScopeOf{Key: keyOf(root.Cert), Certificate: root.Cert}, within, signet.ScopeMalformed},
		{authority.ScopeOf{Certificate: root.Cert}, signet.Scope{}, signet.ScopeMalformed},
	} {
		_, err := a.SetScope(t.Context(), tenant, test.of, test.scope)
		code(t, err, test.want)
	}
	_, err := a.SetScope(t.Context(), "elsewhere", authority.ScopeOf{Certificate: root.Cert}, within)
	code(t, err, signet.HubUnknown)
	code(t, a.RemoveScope(t.Context(), tenant, keyOf(root.Cert)), signet.ScopeUnknown)
	if all, err := a.Scopes(t.Context(), tenant); len(all) != 0 || err != nil {
		t.Fatalf("%v %v", all, err)
	}
}
