package hub_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/commands"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/registry"
)

// messages keeps what is appended, or fails.
type messages struct {
	mu   sync.Mutex
	kept []*signet.Message
	err  error
}

func (m *messages) Append(_ context.Context, msg *signet.Message, done func(error)) {
	m.mu.Lock()
	if m.err == nil {
		kept := *msg
		kept.Body = bytes.Clone(msg.Body)
		m.kept = append(m.kept, &kept)
	}
	m.mu.Unlock()
	done(m.err)
}

func (m *messages) Read(_ context.Context, name string, _ hub.Start, _ bool, each func(signet.Position, *signet.Message) bool) error {
	for n, msg := range m.kept {
		if msg.Hub == name && !each(signet.Position{Sequence: uint64(n + 1)}, msg) {
			break
		}
	}
	return m.err
}
func (m *messages) Ends(_ context.Context, name string) (first, last signet.Position, enqueued time.Time, err error) {
	err = m.Read(context.Background(), name, hub.Start{}, false, func(at signet.Position, msg *signet.Message) bool {
		if last, enqueued = at, msg.EnqueuedTime; first == (signet.Position{}) {
			first = at
		}
		return true
	})
	return first, last, enqueued, err
}
func (m *messages) Forget(context.Context, string) error { return nil }

// house is everything behind the doors, on a fake store and a fake clock.
type house struct {
	t         testing.TB
	store     *memstore.Store
	authority *authority.Authority
	registry  *registry.Registry
	verdicts  *authority.VerdictLog
	messages  *messages
	commands  *commands.Commands
	hub       *hub.Hub
	now       time.Time
}

func newHouse(t testing.TB) *house {
	h := &house{t: t, store: memstore.New(), messages: &messages{}, now: time.Now().UTC()}
	clock := func() time.Time { return h.now }
	changed := func(ctx context.Context, c signet.Change) {
		if h.hub != nil {
			signet.AddReceipt(ctx, h.hub.Apply(ctx, c))
		}
	}
	h.authority = authority.New(h.store, authority.Options{Now: clock, Changed: changed})
	h.registry = registry.New(h.store, registry.Options{Now: clock, Changed: changed,
		Connected: func(hub, device, module string) bool { return h.hub.Connected(hub, device, module) }})
	// By a clock of its own: its writer reads it whenever a second has passed.
	h.verdicts = authority.NewVerdictLog(h.store, authority.VerdictOptions{Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(h.verdicts.Close)
	h.commands = commands.New(h.store, commands.Options{Now: clock, Waiting: func(q signet.CommandQueue) { h.hub.CommandWaiting(q) }})
	h.hub = hub.New(hub.Options{Authority: h.authority, Registry: h.registry, Verdicts: h.verdicts, Messages: h.messages, Commands: h.commands,
		Activity: h.registry, Now: clock})
	for _, name := range []string{"first", "second"} {
		if _, err := h.registry.CreateHub(t.Context(), name, name+".test"); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *house) trust(tenant string, ca *hubtest.CA) signet.CACertificate {
	h.t.Helper()
	c, _, err := h.authority.Register(h.t.Context(), tenant, strings.ReplaceAll(ca.Cert.Subject.CommonName, " ", "-"), hubtest.PEM(ca.Cert.Raw), true, "")
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *house) device(i signet.Identity) signet.Identity {
	h.t.Helper()
	if i.Hub == "" {
		i.Hub = "first"
	}
	i, err := h.registry.Create(h.t.Context(), i)
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

func (h *house) connect(c hub.Credentials) (*hub.Session, error) {
	if c.Host == "" {
		c.Host = "first.test"
	}
	c.Door = signet.DoorMQTT
	door := make(chan *hub.Session, 1)
	s, err := h.hub.Connect(h.t.Context(), c, func() { // closes its connection when it is woken
		go func() {
			if s := <-door; s != nil {
				s.Close()
			}
		}()
	})
	door <- s
	return s, err
}

func presented(t testing.TB, pair tls.Certificate) []*x509.Certificate {
	t.Helper()
	var chain []*x509.Certificate
	for _, der := range pair.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	return chain
}

var byCA = signet.Authentication{Type: signet.AuthCA}

// TestConnect is the table of who gets in, and what everyone else is told.
func TestConnect(t *testing.T) {
	h := newHouse(t)
	root, stranger := hubtest.NewCA(t, "Acme Root"), hubtest.NewCA(t, "Stranger")
	line := root.Intermediate(t, "Factory").Intermediate(t, "Line")
	h.trust("first", root)
	self := root.Device(t, "thumb")
	sha1Sum := sha1.Sum(self.Certificate[0])

	h.device(signet.Identity{DeviceID: "press-17", Auth: byCA})
	h.device(signet.Identity{DeviceID: "press-17", ModuleID: "arm", Auth: byCA})
	h.device(signet.Identity{DeviceID: "off", Auth: byCA, Status: signet.Disabled, StatusReason: "stolen"})
	h.device(signet.Identity{DeviceID: "off", ModuleID: "arm", Auth: byCA})
	h.device(signet.Identity{DeviceID: "press-17", Hub: "second", Auth: byCA})
	h.device(signet.Identity{DeviceID: "thumb", Auth: signet.Authentication{Type: signet.AuthSelfSigned, SecondaryThumbprint: hex.EncodeToString(sha1Sum[:])}})
	rootSum := sha1.Sum(root.Cert.Raw)
	h.device(signet.Identity{DeviceID: "root", Auth: signet.Authentication{Type: signet.AuthSelfSigned, PrimaryThumbprint: hex.EncodeToString(rootSum[:])}})
	keyed := h.device(signet.Identity{DeviceID: "keyed"})
	tenant, _ := h.registry.HubByName("first")
	token := func(resource, policy, key string, expiry time.Duration) string {
		text, err := signet.SignSAS(resource, policy, key, h.now.Add(expiry))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	policy := func(name string) string {
		for _, p := range tenant.Policies {
			if p.Name == name {
				return p.SecondaryKey
			}
		}
		t.Fatal("no policy", name)
		return ""
	}
	leaf := func(id string) []*x509.Certificate { return presented(t, line.Device(t, id)) }
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = h.now.Add(-48*time.Hour), h.now.Add(-time.Second)
	}

	for name, c := range map[string]struct {
		hub.Credentials
		want signet.Code // "" gets in
	}{
		"a chain to a verified CA":          {hub.Credentials{DeviceID: "press-17", Chain: leaf("press-17")}, ""},
		"a module's chain":                  {hub.Credentials{DeviceID: "press-17", ModuleID: "arm", Chain: leaf("press-17/arm")}, ""},
		"the host in capitals, a port":      {hub.Credentials{Host: "FIRST.test:8883", DeviceID: "press-17", Chain: leaf("press-17")}, ""},
		"another hub's anchor":              {hub.Credentials{Host: "second.test", DeviceID: "press-17", Chain: leaf("press-17")}, signet.ChainIssuerMissing},
		"no such hub":                       {hub.Credentials{Host: "third.test", DeviceID: "press-17", Chain: leaf("press-17")}, signet.HubUnknown},
		"no such device":                    {hub.Credentials{DeviceID: "press-18", Chain: leaf("press-18")}, signet.IdentityUnknown},
		"the ID in another case":            {hub.Credentials{DeviceID: "PRESS-17", Chain: leaf("PRESS-17")}, signet.IdentityUnknown},
		"another device's certificate":      {hub.Credentials{DeviceID: "press-17", Chain: leaf("press-18")}, signet.IdentityCNMismatch},
		"the CN in another case":            {hub.Credentials{DeviceID: "press-17", Chain: leaf("Press-17")}, signet.IdentityCNMismatch},
		"the CN with a blank":               {hub.Credentials{DeviceID: "press-17", Chain: leaf("press-17 ")}, signet.IdentityCNMismatch},
		"the device's for its module":       {hub.Credentials{DeviceID: "press-17", ModuleID: "arm", Chain: leaf("press-17")}, signet.IdentityCNMismatch},
		"a disabled device":                 {hub.Credentials{DeviceID: "off", Chain: leaf("off")}, signet.IdentityDisabled},
		"a module of a disabled device":     {hub.Credentials{DeviceID: "off", ModuleID: "arm", Chain: leaf("off/arm")}, signet.IdentityDisabled},
		"nothing":                           {hub.Credentials{DeviceID: "press-17"}, signet.ChainNone},
		"a token for a CA device":           {hub.Credentials{DeviceID: "press-17", Token: token("first.test/devices/press-17", "", keyed.Auth.PrimaryKey, time.Hour)}, signet.IdentityAuthType},
		"a stranger's chain":                {hub.Credentials{DeviceID: "press-17", Chain: presented(t, stranger.Intermediate(t, "Factory").Device(t, "press-17"))}, signet.ChainIssuerMissing},
		"an expired leaf":                   {hub.Credentials{DeviceID: "press-17", Chain: presented(t, line.Device(t, "press-17", expired))}, signet.CertExpired},
		"the CA as the device":              {hub.Credentials{DeviceID: "press-17", Chain: []*x509.Certificate{root.Cert}}, signet.CertIsCAAnchor},
		"the CA by its thumbprint":          {hub.Credentials{DeviceID: "root", Chain: []*x509.Certificate{root.Cert}}, signet.CertIsCAAnchor},
		"an ID that cannot be":              {hub.Credentials{DeviceID: "a/b#", Chain: leaf("a")}, signet.RequestMalformed},
		"a known thumbprint":                {hub.Credentials{DeviceID: "thumb", Chain: presented(t, self)}, ""},
		"another thumbprint, a good chain":  {hub.Credentials{DeviceID: "thumb", Chain: leaf("thumb")}, signet.IdentityThumbprint},
		"a certificate for a keyed device":  {hub.Credentials{DeviceID: "keyed", Chain: leaf("keyed")}, signet.IdentityAuthType},
		"a device's token":                  {hub.Credentials{DeviceID: "keyed", Token: token("first.test/devices/keyed", "", keyed.Auth.SecondaryKey, time.Hour)}, ""},
		"a policy's token":                  {hub.Credentials{DeviceID: "keyed", Token: token("first.test", "device", policy("device"), time.Hour)}, ""},
		"a policy that may not connect":     {hub.Credentials{DeviceID: "keyed", Token: token("first.test", "service", policy("service"), time.Hour)}, signet.TokenSignature},
		"no such policy":                    {hub.Credentials{DeviceID: "keyed", Token: token("first.test", "nobody", policy("device"), time.Hour)}, signet.TokenSignature},
		"a token just expired, within skew": {hub.Credentials{DeviceID: "keyed", Token: token("first.test/devices/keyed", "", keyed.Auth.PrimaryKey, -time.Minute)}, ""},
		"an expired token":                  {hub.Credentials{DeviceID: "keyed", Token: token("first.test/devices/keyed", "", keyed.Auth.PrimaryKey, -time.Hour)}, signet.TokenExpired},
		"another device's token":            {hub.Credentials{DeviceID: "keyed", Token: token("first.test/devices/other", "", keyed.Auth.PrimaryKey, time.Hour)}, signet.TokenAudience},
		"another hub's token":               {hub.Credentials{DeviceID: "keyed", Token: token("second.test/devices/keyed", "", keyed.Auth.PrimaryKey, time.Hour)}, signet.TokenAudience},
		"a token by another key":            {hub.Credentials{DeviceID: "keyed", Token: token("first.test/devices/keyed", "", policy("device"), time.Hour)}, signet.TokenSignature},
		"rubbish for a token":               {hub.Credentials{DeviceID: "keyed", Token: "rubbish"}, signet.TokenMalformed},
	} {
		s, err := h.connect(c.Credentials)
		if got := signet.CodeOf(err); got != c.want {
			t.Errorf("%s: %v, want %q", name, err, c.want)
			continue
		}
		if err == nil {
			if p := s.Principal(); p.Hub != "first" || p.DeviceID != c.DeviceID || p.ModuleID != c.ModuleID {
				t.Errorf("%s: %+v", name, p)
			}
			s.Close()
			continue
		}
		// The refusal leads to its verdict.
		e := signet.AsError(err)
		tenant := "first"
		if c.Host == "second.test" {
			tenant = "second"
		} else if c.want == signet.HubUnknown {
			tenant = ""
		}
		vs, err := h.verdicts.List(t.Context(), authority.VerdictQuery{Hub: tenant, TrackingID: e.TrackingID, Limit: 1})
		if err != nil || len(vs) != 1 || vs[0].Code != c.want {
			t.Errorf("%s: verdicts %+v %v", name, vs, err)
		}
	}
	if n := h.hub.Sessions(""); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// TestCut: what a session rests on goes, and the session with it, before the
// caller of the change is answered.
func TestCut(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*house, signet.CACertificate, signet.Identity) error
		want   signet.Code
	}{
		"the CA is deleted": {func(h *house, ca signet.CACertificate, _ signet.Identity) error {
			return h.authority.Delete(h.t.Context(), "first", ca.Name, ca.ETag)
		}, signet.ChainUntrusted},
		"the device is disabled": {func(h *house, _ signet.CACertificate, i signet.Identity) error {
			i.Status = signet.Disabled
			_, err := h.registry.Replace(h.t.Context(), i, i.ETag)
			return err
		}, signet.IdentityDisabled},
		"the device is deleted": {func(h *house, _ signet.CACertificate, i signet.Identity) error {
			return h.registry.Delete(h.t.Context(), "first", i.DeviceID, "", "*")
		}, signet.IdentityUnknown},
		"the type is changed": {func(h *house, _ signet.CACertificate, i signet.Identity) error {
			i.Auth = signet.Authentication{Type: signet.AuthSAS}
			_, err := h.registry.Replace(h.t.Context(), i, "*")
			return err
		}, signet.IdentityAuthType},
		"the hub is deleted": {func(h *house, _ signet.CACertificate, _ signet.Identity) error {
			return h.registry.DeleteHub(h.t.Context(), "first")
		}, signet.HubUnknown},
		"nothing that matters": {func(h *house, _ signet.CACertificate, i signet.Identity) error {
			i.StatusReason = "inspected"
			_, err := h.registry.Replace(h.t.Context(), i, "*")
			return err
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			root := hubtest.NewCA(t, "Root")
			ca := h.trust("first", root)
			i := h.device(signet.Identity{DeviceID: "d", Auth: byCA})
			bystander := h.device(signet.Identity{DeviceID: "bystander"})
			var woken atomic.Int32
			door := make(chan *hub.Session, 1)
			s, err := h.hub.Connect(t.Context(), hub.Credentials{Host: "first.test", DeviceID: "d", Chain: presented(t, root.Device(t, "d"))},
				func() { woken.Add(1); go func() { (<-door).Close() }() })
			if err != nil {
				t.Fatal(err)
			}
			door <- s
			text, _ := signet.SignSAS("first.test/devices/bystander", "", bystander.Auth.PrimaryKey, h.now.Add(time.Hour))
			other, err := h.connect(hub.Credentials{DeviceID: "bystander", Token: text})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.change(h, ca, i); err != nil {
				t.Fatal(err)
			}
			if got := signet.CodeOf(s.Ended()); got != c.want || (woken.Load() == 1) != (c.want != "") {
				t.Errorf("ended with %v, woken %d times", s.Ended(), woken.Load())
			}
			if other.Ended() != nil && c.want != signet.HubUnknown {
				t.Errorf("the bystander ended: %v", other.Ended())
			}
			if c.want != "" {
				s.Will(t.Context(), &signet.Message{}, func(err error) {
					if err == nil {
						t.Error("a device that may not connect has left a will")
					}
				})
				s.Send(t.Context(), &signet.Message{}, func(err error) {
					if err == nil {
						t.Error("a session that has ended took a message")
					}
				})
			}
		})
	}
}

// TestNewKeys: a session by token ends with the keys that signed it; one by
// thumbprint with the thumbprint, of either kind.
func TestNewKeys(t *testing.T) {
	h := newHouse(t)
	keyed := h.device(signet.Identity{DeviceID: "keyed"})
	text, _ := signet.SignSAS("first.test/devices/keyed", "", keyed.Auth.PrimaryKey, h.now.Add(time.Hour))
	s, err := h.connect(hub.Credentials{DeviceID: "keyed", Token: text})
	if err != nil {
		t.Fatal(err)
	}
	if s.Expires().Before(h.now.Add(time.Hour)) {
		t.Errorf("expires %v", s.Expires())
	}
	keyed.StatusReason = "seen"
	if _, err := h.registry.Replace(t.Context(), keyed, "*"); err != nil || s.Ended() != nil {
		t.Fatal(err, s.Ended())
	}
	keyed.Auth.PrimaryKey, keyed.Auth.SecondaryKey = "", ""
	if _, err := h.registry.Replace(t.Context(), keyed, "*"); err != nil || signet.CodeOf(s.Ended()) != signet.TokenSignature {
		t.Fatal(err, s.Ended())
	}

	ca := hubtest.NewCA(t, "Self")
	for _, sha1Kind := range []bool{true, false} {
		pair := ca.Device(t, fmt.Sprint("thumb-", sha1Kind))
		thumbprint := fmt.Sprintf("%X", sha1.Sum(pair.Certificate[0]))
		if !sha1Kind {
			thumbprint = hex.EncodeToString(sha256Of(pair.Certificate[0]))
		}
		i := h.device(signet.Identity{DeviceID: fmt.Sprint("thumb-", sha1Kind), Auth: signet.Authentication{Type: signet.AuthSelfSigned, PrimaryThumbprint: thumbprint}})
		s, err := h.connect(hub.Credentials{DeviceID: i.DeviceID, Chain: presented(t, pair)})
		if err != nil {
			t.Fatal(err)
		}
		i.StatusReason = "seen"
		if _, err := h.registry.Replace(t.Context(), i, "*"); err != nil || s.Ended() != nil {
			t.Fatal(err, s.Ended())
		}
		i.Auth.PrimaryThumbprint = thumbprint[:len(thumbprint)-2] + "00"
		if _, err := h.registry.Replace(t.Context(), i, "*"); err != nil || signet.CodeOf(s.Ended()) != signet.IdentityThumbprint {
			t.Fatal(err, s.Ended())
		}
	}
}

// TestProlong: another token of the identity moves the end of its session; one that is
// not of it, or no good, moves nothing.
func TestProlong(t *testing.T) {
	h := newHouse(t)
	keyed := h.device(signet.Identity{DeviceID: "keyed"})
	other := h.device(signet.Identity{DeviceID: "other"})
	token := func(i signet.Identity, life time.Duration) string {
		text, _ := signet.SignSAS("first.test/devices/"+i.DeviceID, "", i.Auth.PrimaryKey, h.now.Add(life))
		return text
	}
	tenant, err := h.registry.HubByName("first")
	if err != nil {
		t.Fatal(err)
	}
	byPolicy, _ := signet.SignSAS("first.test", "device", tenant.Policies[slices.IndexFunc(tenant.Policies, func(p signet.Policy) bool { return p.Name == "device" })].PrimaryKey, h.now.Add(time.Hour))
	woken := 0
	s, err := h.hub.Connect(t.Context(), hub.Credentials{Host: "first.test", DeviceID: "keyed", Token: token(keyed, time.Hour)}, func() { woken++ })
	if err != nil {
		t.Fatal(err)
	}
	first := s.Expires()
	for name, c := range map[string]struct {
		hub.Credentials
		want signet.Code
	}{
		"expired":         {hub.Credentials{DeviceID: "keyed", Token: token(keyed, -time.Hour)}, signet.TokenExpired},
		"forged":          {hub.Credentials{DeviceID: "keyed", Token: token(signet.Identity{DeviceID: "keyed", Auth: other.Auth}, time.Hour)}, signet.TokenSignature},
		"another's":       {hub.Credentials{DeviceID: "other", Token: token(other, time.Hour)}, signet.TokenAudience},
		"of another kind": {hub.Credentials{DeviceID: "keyed", Token: byPolicy}, signet.TokenAudience},
		"none":            {hub.Credentials{DeviceID: "keyed"}, signet.ChainNone},
	} {
		c.Host = "first.test"
		err := s.Prolong(t.Context(), c.Credentials)
		if signet.CodeOf(err) != c.want || signet.AsError(err).TrackingID == "" || s.Ended() != nil || !s.Expires().Equal(first) || woken != 0 {
			t.Errorf("%s: %v, %v, expires %v", name, err, s.Ended(), s.Expires())
		}
	}
	if err := s.Prolong(t.Context(), hub.Credentials{Host: "first.test", DeviceID: "keyed", Token: token(keyed, 3*time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if moved := s.Expires().Sub(first); moved != 2*time.Hour || woken != 1 {
		t.Errorf("the end has moved by %v, and woken %d times", moved, woken)
	}
	// Whoever was made anew under the name has nothing of it.
	if err := h.registry.Delete(t.Context(), "first", "keyed", "", "*"); err != nil {
		t.Fatal(err)
	}
	keyed = h.device(signet.Identity{DeviceID: "keyed"})
	if err := s.Prolong(t.Context(), hub.Credentials{Host: "first.test", DeviceID: "keyed", Token: token(keyed, time.Hour)}); err == nil {
		t.Error("a session goes on for another identity of its name")
	}
}

func TestTakeOver(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Root")
	h.trust("first", root)
	h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	chain := presented(t, root.Device(t, "d"))
	first, err := h.connect(hub.Credentials{DeviceID: "d", Chain: chain})
	if err != nil {
		t.Fatal(err)
	}
	second, err := h.connect(hub.Credentials{DeviceID: "d", Chain: chain})
	if err != nil || signet.CodeOf(first.Ended()) != signet.SessionTakenOver || second.Ended() != nil {
		t.Fatal(err, first.Ended(), second.Ended())
	}
	first.Will(t.Context(), &signet.Message{Body: []byte("last words")}, func(e error) { err = e })
	if err != nil || len(h.messages.kept) != 1 {
		t.Error("the will of the one that was taken over is not taken", err)
	}
	first.Close() // too late, and no harm to the second
	if !h.hub.Connected("first", "d", "") || h.hub.Sessions("first") != 1 {
		t.Error("the second is not connected")
	}
	// A refused attempt does not oust it.
	if _, err := h.connect(hub.Credentials{DeviceID: "d", Chain: presented(t, root.Device(t, "e"))}); err == nil || second.Ended() != nil {
		t.Error(err, second.Ended())
	}
	second.Close()
	if h.hub.Connected("first", "d", "") {
		t.Error("still connected")
	}
}

func TestSend(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Root")
	h.trust("first", root)
	i := h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	s, err := h.connect(hub.Credentials{DeviceID: "d", Chain: presented(t, root.Device(t, "d"))})
	if err != nil {
		t.Fatal(err)
	}
	send := func(m *signet.Message) (err error) {
		s.Send(t.Context(), m, func(e error) { err = e })
		return err
	}
	// What a door hands over cannot claim to be from elsewhere.
	if err := send(&signet.Message{Hub: "second", DeviceID: "e", AuthMethod: "none", Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	m := h.messages.kept[0]
	if m.Hub != "first" || m.DeviceID != "d" || m.GenerationID != i.GenerationID || m.Source != signet.SourceTelemetry ||
		m.AuthMethod != `{"scope":"device","type":"x509Certificate","issuer":"external","acceptingIpFilterRule":null}` {
		t.Errorf("%+v", m)
	}
	if err := send(&signet.Message{Body: make([]byte, signet.MaxMessageSize)}); err != nil {
		t.Error(err)
	}
	if err := send(&signet.Message{Body: make([]byte, signet.MaxMessageSize+1)}); signet.CodeOf(err) != signet.LimitMessageSize {
		t.Error(err)
	}
	h.messages.err = errors.New("disk full")
	if err := send(&signet.Message{}); err == nil {
		t.Error("acknowledged, and not kept")
	}
}

// TestClockSetBack: what a device sends is read, also when the clock says that its hub is
// still to be made; what is left of an earlier hub of that name is not.
func TestClockSetBack(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Root")
	h.trust("first", root)
	h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	tenant, err := h.registry.HubByName("first")
	if err != nil {
		t.Fatal(err)
	}
	h.messages.Append(t.Context(), &signet.Message{Hub: "first", EnqueuedTime: tenant.Created.Add(-time.Millisecond), Body: []byte("of another")}, func(error) {})
	s, err := h.connect(hub.Credentials{DeviceID: "d", Chain: presented(t, root.Device(t, "d"))})
	if err != nil {
		t.Fatal(err)
	}
	h.now = h.now.Add(-time.Minute)
	s.Send(t.Context(), &signet.Message{Body: []byte("acknowledged")}, func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	h.hub.Event(t.Context(), "first", hub.Event{Body: "told"}, func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	read := ""
	err = h.hub.Read(t.Context(), "first", hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
		read += string(m.Body) + " "
		return true
	})
	if err != nil || read != `acknowledged "told" ` {
		t.Errorf("read: %s %v", read, err)
	}
	if _, last, _, err := h.hub.Ends(t.Context(), "first"); err != nil || last.Sequence != 3 {
		t.Errorf("the last is at %v: %v", last, err)
	}
}

// TestConnectRacesChange: whatever the order in which a connect and the removal
// of its CA or its identity run, no session survives that should not be.
func TestConnectRacesChange(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Root")
	for n := range 200 {
		ca := h.trust("first", root)
		i := h.device(signet.Identity{DeviceID: fmt.Sprint("d", n), Auth: byCA})
		chain := presented(t, root.Device(t, i.DeviceID))
		var s *hub.Session
		var wg sync.WaitGroup
		wg.Go(func() { s, _ = h.connect(hub.Credentials{DeviceID: i.DeviceID, Chain: chain}) })
		wg.Go(func() {
			if n%2 == 0 {
				h.authority.Delete(context.Background(), "first", ca.Name, "*")
			} else {
				h.registry.Delete(context.Background(), "first", i.DeviceID, "", "*")
			}
		})
		wg.Wait()
		if s != nil && s.Ended() == nil {
			t.Fatalf("round %d: a session survived", n)
		}
		h.authority.Delete(context.Background(), "first", ca.Name, "*")
	}
}

// TestStoreFault: a store that cannot be read lets nobody in, and does not keep
// anybody in whose identity has changed.
func TestStoreFault(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Root")
	h.trust("first", root)
	i := h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	s, err := h.connect(hub.Credentials{DeviceID: "d", Chain: presented(t, root.Device(t, "d"))})
	if err != nil {
		t.Fatal(err)
	}
	h.store.Before = func(operation string) error {
		if operation == "Identity" {
			return memstore.ErrFault
		}
		return nil
	}
	if _, err := h.connect(hub.Credentials{DeviceID: "d", Chain: presented(t, root.Device(t, "d"))}); signet.CodeOf(err) != signet.Internal {
		t.Error(err)
	}
	h.hub.Apply(t.Context(), signet.Change{Hub: "first", DeviceID: i.DeviceID})
	if s.Ended() == nil {
		t.Error("a session whose identity cannot be read lives on")
	}
}

func sha256Of(der []byte) []byte {
	sum := sha256.Sum256(der)
	return sum[:]
}

// TestReceipt: who asks for a change is told what it did to sessions, and how
// long their connections took to close.
func TestReceipt(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Root")
	ca := h.trust("first", root)
	const devices = 50
	var chains [devices][]*x509.Certificate // made out here, where it is today
	for n := range chains {
		chains[n] = presented(t, root.Device(t, fmt.Sprint("d", n)))
	}
	synctest.Test(t, func(t *testing.T) {
		for n := range devices {
			i := h.device(signet.Identity{DeviceID: fmt.Sprint("d", n), Auth: byCA})
			// A door that closes its connection n+1 milliseconds after it is woken.
			sessions := make(chan *hub.Session, 1)
			s, err := h.hub.Connect(t.Context(), hub.Credentials{Host: "first.test", DeviceID: i.DeviceID, Chain: chains[n]},
				func() { go func() { time.Sleep(time.Duration(n+1) * time.Millisecond); (<-sessions).Close() }() })
			if err != nil {
				t.Fatal(err)
			}
			sessions <- s
		}
		ctx, receipts := signet.WithReceipts(t.Context())
		if err := h.authority.Delete(ctx, "first", ca.Name, ca.ETag); err != nil {
			t.Fatal(err)
		}
		got := receipts.List()
		if len(got) != 1 || got[0].Sessions != devices || got[0].Closed != devices || len(got[0].Devices) != devices ||
			got[0].P50 != 26*time.Millisecond || got[0].P99 != 50*time.Millisecond || got[0].Last != 50*time.Millisecond {
			t.Errorf("%+v", got)
		}
	})
}

// TestReceiptOfAStuckDoor: a door that does not close holds the answer for no
// more than a second, and is told of.
func TestReceiptOfAStuckDoor(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Root")
	ca := h.trust("first", root)
	chain := presented(t, root.Device(t, "d"))
	synctest.Test(t, func(t *testing.T) {
		h.device(signet.Identity{DeviceID: "d", Auth: byCA})
		if _, err := h.hub.Connect(t.Context(), hub.Credentials{Host: "first.test", DeviceID: "d", Chain: chain}, func() {}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		ctx, receipts := signet.WithReceipts(t.Context())
		if err := h.authority.Delete(ctx, "first", ca.Name, ca.ETag); err != nil {
			t.Fatal(err)
		}
		if got := receipts.List(); len(got) != 1 || got[0].Sessions != 1 || got[0].Closed != 0 || time.Since(began) != time.Second {
			t.Errorf("%+v", got)
		}
	})
}

// TestKept: what one session has stored is there for the next of that identity, until it
// is another one.
func TestKept(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Root")
	h.trust("first", root)
	d := h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	c := hub.Credentials{DeviceID: "d", Chain: presented(t, root.Device(t, "d"))}
	begins := func(kept uint32) *hub.Session {
		t.Helper()
		s, err := h.connect(c)
		if err != nil {
			t.Fatal(err)
		}
		if s.Kept() != kept {
			t.Errorf("%d is kept where %d was", s.Kept(), kept)
		}
		return s
	}
	older := begins(0)
	if err := older.Keep(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	begins(7)
	if err := older.Keep(t.Context(), 8); signet.CodeOf(err) != signet.SessionTakenOver {
		t.Errorf("who was taken over stores: %v", err)
	}
	d.StatusReason = "seen to"
	if _, err := h.registry.Replace(t.Context(), d, "*"); err != nil {
		t.Fatal(err)
	}
	s := begins(7)
	if err := h.registry.Delete(t.Context(), "first", "d", "", "*"); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(t.Context(), 9); signet.CodeOf(err) != signet.IdentityUnknown {
		t.Errorf("of a device that is deleted: %v", err)
	}
	h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	begins(0)
}
