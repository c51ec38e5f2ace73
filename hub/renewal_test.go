package hub_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// An issuer says that the certificates which it knows may be renewed until a time,
// and renews whatever it is asked to.
type issuer struct {
	known map[[32]byte]time.Time
	asked []signet.Renewal
	while func() // a renewal is under way
}

func (i *issuer) Lane(_ context.Context, _, _ string, certificate [32]byte) (time.Time, error) {
	until, ok := i.known[certificate]
	if !ok {
		return until, signet.Refuse(signet.IssuanceNotHere, "Not issued here.")
	}
	return until, nil
}

func (i *issuer) Renew(_ context.Context, r signet.Renewal, accepted func(signet.RenewalReceipt)) (signet.Renewed, error) {
	i.asked = append(i.asked, r)
	accepted(signet.RenewalReceipt{})
	if i.while != nil {
		i.while()
	}
	return signet.Renewed{RequestID: r.RequestID, Chain: []*x509.Certificate{{}}}, nil
}

func (i *issuer) Renewed(context.Context, string, string, [32]byte) (signet.Renewed, bool, error) {
	return signet.Renewed{RequestID: "r-0"}, true, nil
}

// issuing gives a house an issuer.
func issuing(t *testing.T) (*house, *issuer) {
	h, i := newHouse(t), &issuer{known: map[[32]byte]time.Time{}}
	h.hub = hub.New(hub.Options{Authority: h.authority, Registry: h.registry, Verdicts: h.verdicts, Messages: h.messages, Commands: h.commands,
		Issuer: i, Now: func() time.Time { return h.now }})
	return h, i
}

// TestLane is the table of whose expired certificate still lets them in, to renew it.
func TestLane(t *testing.T) {
	h, i := issuing(t)
	root := hubtest.NewCA(t, "Acme Root")
	h.trust("first", root)
	past := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = h.now.Add(-48*time.Hour), h.now.Add(-time.Hour) }
	line, old := root.Intermediate(t, "Line"), root.Intermediate(t, "Old line", past)
	stranger := hubtest.NewCA(t, "Stranger")
	for _, id := range []string{"press-17", "busy"} {
		h.device(signet.Identity{DeviceID: id, Auth: byCA})
	}
	h.device(signet.Identity{DeviceID: "press-17", ModuleID: "arm", Auth: byCA})
	h.device(signet.Identity{DeviceID: "off", Auth: byCA, Status: signet.Disabled})
	thumb := presented(t, line.Device(t, "thumb", past))
	sum := sha256.Sum256(thumb[0].Raw)
	h.device(signet.Identity{DeviceID: "thumb", Auth: signet.Authentication{Type: signet.AuthSelfSigned, PrimaryThumbprint: hex.EncodeToString(sum[:])}})
	if _, err := h.connect(hub.Credentials{DeviceID: "busy", Chain: presented(t, line.Device(t, "busy"))}); err != nil {
		t.Fatal(err)
	}
	distrusted := presented(t, line.Device(t, "press-17", past))
	sum = sha256.Sum256(distrusted[0].Raw)
	if _, err := h.authority.Distrust(t.Context(), "first", signet.Distrust{Kind: signet.DistrustCertificate, Thumbprint: hex.EncodeToString(sum[:])}, nil); err != nil {
		t.Fatal(err)
	}
	early := func(c *x509.Certificate) { past(c); c.NotBefore = h.now.Add(-12 * time.Hour) }
	for name, c := range map[string]struct {
		id, module string
		chain      []*x509.Certificate
		known      bool
		want       signet.Code
	}{
		"one that was issued here":        {"press-17", "", presented(t, line.Device(t, "press-17", past)), true, ""},
		"another time of issue":           {"press-17", "", presented(t, line.Device(t, "press-17", early)), true, ""},
		"one that was not":                {"press-17", "", presented(t, line.Device(t, "press-17", past)), false, signet.CertExpired},
		"below a CA that has expired too": {"press-17", "", presented(t, old.Device(t, "press-17", past)), true, signet.CertExpired},
		"below a stranger":                {"press-17", "", presented(t, stranger.Device(t, "press-17", past)), true, signet.ChainIssuerMissing},
		"of another device":               {"press-17", "", presented(t, line.Device(t, "press-18", past)), true, signet.IdentityCNMismatch},
		"of a module":                     {"press-17", "arm", presented(t, line.Device(t, "press-17/arm", past)), true, signet.CertExpired},
		"known by thumbprint":             {"thumb", "", thumb, true, signet.CertExpired},
		"of a disabled device":            {"off", "", presented(t, line.Device(t, "off", past)), true, signet.IdentityDisabled},
		"distrusted":                      {"press-17", "", distrusted, true, signet.CertRevoked},
		"beside a session that is good":   {"busy", "", presented(t, line.Device(t, "busy", past)), true, signet.CertExpired},
		"not yet valid":                   {"press-17", "", presented(t, line.Device(t, "press-17", func(c *x509.Certificate) { c.NotBefore = h.now.Add(time.Hour) })), true, signet.CertNotYetValid},
	} {
		if clear(i.known); c.known {
			i.known[sha256.Sum256(c.chain[0].Raw)] = h.now.Add(time.Minute)
		}
		s, err := h.connect(hub.Credentials{DeviceID: c.id, ModuleID: c.module, Chain: c.chain})
		if signet.CodeOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		if !s.Principal().RenewOnly || !s.Expires().Equal(h.now.Add(time.Minute)) || h.hub.Connected("first", c.id, "") {
			t.Errorf("%s: %+v until %s", name, s.Principal(), s.Expires())
		}
		// By a single request nothing can be renewed, so it is not let in at all.
		if _, err := h.hub.Authenticate(t.Context(), hub.Credentials{Host: "first.test", DeviceID: c.id, Chain: c.chain}); signet.CodeOf(err) != signet.CertExpired {
			t.Errorf("%s, by a request: %v", name, err)
		}
	}
}

// TestLaneVerbs: a session that is for renewal can do nothing else. Every verb that
// a session has is in the table, so that a new one is not forgotten.
func TestLaneVerbs(t *testing.T) {
	h, i := issuing(t)
	root := hubtest.NewCA(t, "Acme Root")
	h.trust("first", root)
	h.device(signet.Identity{DeviceID: "press-17", Auth: byCA})
	chain := presented(t, root.Device(t, "press-17", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = h.now.Add(-48*time.Hour), h.now.Add(-time.Hour) }))
	i.known[sha256.Sum256(chain[0].Raw)] = h.now.Add(time.Hour)
	s, err := h.connect(hub.Credentials{DeviceID: "press-17", Chain: chain})
	if err != nil {
		t.Fatal(err)
	}
	if !s.Expires().Equal(h.now.Add(10 * time.Minute)) {
		t.Errorf("it may stay until %s", s.Expires())
	}
	ctx := t.Context()
	refused := func(err error) {
		t.Helper()
		if signet.CodeOf(err) != signet.SessionRenewOnly {
			t.Errorf("%v", err)
		}
	}
	verbs := map[string]func(){
		"Send": func() { s.Send(ctx, &signet.Message{}, refused) },
		"Will": func() { s.Will(ctx, &signet.Message{}, refused) },
		"Twin": func() { _, err := s.Twin(ctx); refused(err) },
		"Report": func() {
			_, err := s.Report(ctx, []byte("{}"), 0)
			refused(err)
		},
		"Prolong":       func() { refused(s.Prolong(ctx, hub.Credentials{DeviceID: "press-17", Chain: chain})) },
		"NextCommand":   func() { _, err := s.NextCommand(ctx); refused(err) },
		"SettleCommand": func() { refused(s.SettleCommand(ctx, "t", signet.Complete)) },
		"Listen": func() {
			s.Listen(hub.DesiredChanges | hub.MethodCalls)
			h.hub.DesiredChanged(signet.Twin{Hub: "first", DeviceID: "press-17", GenerationID: s.Principal().GenerationID}, []byte("{}"))
			if _, err := h.hub.Invoke(ctx, "first", "press-17", "", hub.Invocation{Method: "m", ResponseTimeout: time.Second}); signet.CodeOf(err) != signet.MethodOffline {
				t.Errorf("a method: %v", err)
			}
		},
		"Receive": func() {
			if d, some := s.Receive(); some {
				t.Errorf("it is given %v", d)
			}
		},
		"AnswerMethod": func() { s.AnswerMethod("1", 200, nil) }, // nothing was asked
		"Kept": func() {
			if s.Kept() != 0 {
				t.Errorf("it goes on with %d", s.Kept())
			}
		},
		"Keep": func() { // nothing; what there is stays
			p := s.Principal()
			if err := errors.Join(h.registry.Subscribe(ctx, "first", "press-17", "", p.GenerationID, 5), s.Keep(ctx, 6)); err != nil {
				t.Error(err)
			}
			if i, err := h.registry.Get(ctx, "first", "press-17", ""); err != nil || i.Subscriptions != 5 {
				t.Errorf("%d is kept: %v", i.Subscriptions, err)
			}
		},
		"Renew": func() {
			renewed, err := s.Renew(ctx, signet.Renewal{RequestID: "r-1", CSR: []byte("x")}, func(signet.RenewalReceipt) {})
			if err != nil || renewed.RequestID != "r-1" {
				t.Errorf("%+v %v", renewed, err)
			}
			want := signet.Renewal{Hub: "first", DeviceID: "press-17", Certificate: sha256.Sum256(chain[0].Raw), RequestID: "r-1", CSR: []byte("x")}
			if len(i.asked) != 1 || !reflect.DeepEqual(i.asked[0], want) {
				t.Errorf("%+v", i.asked)
			}
		},
		"Renewed": func() {
			if r, some, err := s.Renewed(ctx); err != nil || !some || r.RequestID != "r-0" {
				t.Errorf("%+v %v %v", r, some, err)
			}
		},
	}
	for _, harmless := range []string{"Principal", "Expires", "Ended", "Close", "CommandWaiting", "Meter"} {
		verbs[harmless] = func() {}
	}
	of := reflect.TypeOf(s)
	for n := range of.NumMethod() {
		verb := verbs[of.Method(n).Name]
		if verb == nil {
			t.Errorf("nothing says whether a session that is for renewal may %s", of.Method(n).Name)
			continue
		}
		verb()
	}
	h.tell(signet.ConnectionEvents)
	h.hub.FlushConnections(ctx)
	if len(h.messages.kept) > 0 {
		t.Errorf("kept: %+v", h.messages.kept)
	}
	// A session that is good takes over.
	if _, err := h.connect(hub.Credentials{DeviceID: "press-17", Chain: presented(t, root.Device(t, "press-17"))}); err != nil {
		t.Fatal(err)
	}
	if signet.CodeOf(s.Ended()) != signet.SessionTakenOver {
		t.Errorf("%v", s.Ended())
	}
}

// TestRenewEnded: a device that loses its right while its certificate is made does
// not get it.
func TestRenewEnded(t *testing.T) {
	h, i := issuing(t)
	root := hubtest.NewCA(t, "Acme Root")
	h.trust("first", root)
	h.device(signet.Identity{DeviceID: "press-17", Auth: byCA})
	s, err := h.connect(hub.Credentials{DeviceID: "press-17", Chain: presented(t, root.Device(t, "press-17"))})
	if err != nil {
		t.Fatal(err)
	}
	i.while = func() {
		d, err := h.registry.Get(t.Context(), "first", "press-17", "")
		if err != nil {
			t.Fatal(err)
		}
		d.Status = signet.Disabled
		if _, err := h.registry.Replace(t.Context(), d, "*"); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := s.Renew(t.Context(), signet.Renewal{}, func(signet.RenewalReceipt) {}); signet.CodeOf(err) != signet.IdentityDisabled || r.Chain != nil {
		t.Errorf("%+v %v", r, err)
	}
	if _, some, _ := s.Renewed(t.Context()); some {
		t.Error("it hears of another")
	}
	if _, err := s.Renew(t.Context(), signet.Renewal{}, nil); signet.CodeOf(err) != signet.IdentityDisabled || len(i.asked) != 1 {
		t.Errorf("%v", err)
	}
	// Where nothing is issued, nothing is renewed.
	h = newHouse(t)
	h.trust("first", root)
	h.device(signet.Identity{DeviceID: "press-17", Auth: byCA})
	s, err = h.connect(hub.Credentials{DeviceID: "press-17", Chain: presented(t, root.Device(t, "press-17"))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Renew(t.Context(), signet.Renewal{}, nil); signet.CodeOf(err) != signet.IssuanceNotHere {
		t.Errorf("%v", err)
	}
}
