package provisioning_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/egress"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/registry"
)

// A hall is a provisioning service with all around it that is not its own: hubs
// that can fail, a webhook, and what was refused. It lives in a bubble of time.
type hall struct {
	*provisioning.Provisioning
	t         *testing.T
	store     *memstore.Store
	authority *authority.Authority
	service   signet.Hub
	deps      provisioning.Deps
	stop      func() // the workers

	mu       sync.Mutex
	verdicts []signet.Verdict
	hubs     map[string]map[string]placed // by host name and device
	fault    func(operation, host string) error
	webhook  func(*http.Request, []byte) (*http.Response, error)
	asked    int // times that the webhook was
	distance map[string]time.Duration
}

type placed struct {
	signet.Identity
	twin signet.Twin
}

// in runs a story in a bubble.
func in(t *testing.T, f func(t *testing.T, h *hall)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHall(t)
		f(t, h)
		h.stop()
	})
}

func newHall(t *testing.T) *hall {
	h := &hall{t: t, store: memstore.New(), hubs: map[string]map[string]placed{}}
	r := registry.New(h.store, registry.Options{})
	for _, hub := range []string{"east", "west"} {
		if _, err := r.CreateHub(t.Context(), hub, hub+".example"); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if h.service, err = r.CreateService(t.Context(), "dps", "dps.example"); err != nil {
		t.Fatal(err)
	}
	h.authority = authority.New(h.store, authority.Options{})
	h.deps = provisioning.Deps{Enrollments: h.store, Registrations: h.store, Authority: h.authority, Tenants: r, Hubs: h, Verdicts: h,
		Webhooks: h, Logger: slog.New(slog.DiscardHandler)}
	h.open()
	return h
}

// open starts the service, anew after a stop.
func (h *hall) open() {
	h.Provisioning = provisioning.New(h.deps)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); h.Run(ctx) }()
	h.stop = func() { cancel(); <-over }
	synctest.Wait()
}

func (h *hall) Record(v signet.Verdict) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.verdicts = append(h.verdicts, v)
	return fmt.Sprint("T", len(h.verdicts))
}

func (h *hall) do(operation, host string, f func(devices map[string]placed) error) error {
	h.mu.Lock()
	fault := h.fault
	h.mu.Unlock()
	if fault != nil {
		if err := fault(operation, host); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hubs[host] == nil {
		h.hubs[host] = map[string]placed{}
	}
	return f(h.hubs[host])
}

func (h *hall) Identity(_ context.Context, l signet.LinkedHub, device string) (i signet.Identity, t signet.Twin, err error) {
	err = h.do("Identity", l.HostName, func(devices map[string]placed) error {
		p, ok := devices[device]
		if !ok {
			return signet.Refuse(signet.IdentityUnknown, "none")
		}
		i, t = p.Identity, p.twin
		return nil
	})
	return i, t, err
}

func (h *hall) Put(_ context.Context, l signet.LinkedHub, i signet.Identity, twin *signet.Twin) error {
	return h.do("Put", l.HostName, func(devices map[string]placed) error {
		p := devices[i.DeviceID]
		if p.Status == signet.Disabled {
			i.Status = p.Status
		}
		p.Identity = i
		p.ETag = signet.NewETag()
		if twin != nil {
			p.twin = *twin
		}
		devices[i.DeviceID] = p
		return nil
	})
}

func (h *hall) Delete(_ context.Context, l signet.LinkedHub, device, etag string) error {
	return h.do("Delete", l.HostName, func(devices map[string]placed) error {
		if p, ok := devices[device]; ok && p.ETag != etag {
			return signet.Refuse(signet.ETagStale, "changed")
		}
		delete(devices, device)
		return nil
	})
}

func (h *hall) Distance(_ context.Context, l signet.LinkedHub) (time.Duration, error) {
	d, ok := h.distance[l.HostName]
	if !ok {
		return 0, errors.New("does not answer")
	}
	return d, nil
}

func (h *hall) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	h.asked++
	h.mu.Unlock()
	return h.webhook(r, body)
}

func answer(status int, body string) (*http.Response, error) {
	return &http.Response{StatusCode: status, Header: http.Header{"Location": {"https://elsewhere"}}, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// who gives the hosts that have a device.
func (h *hall) who(device string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var hosts []string
	for host, devices := range h.hubs {
		if _, ok := devices[device]; ok {
			hosts = append(hosts, host)
		}
	}
	slices.Sort(hosts)
	return strings.Join(hosts, " ")
}

func (h *hall) enroll(e signet.Enrollment) signet.Enrollment {
	h.t.Helper()
	e.Service = "dps"
	e, _, err := h.PutEnrollment(h.t.Context(), e, "")
	if err != nil {
		h.t.Fatal(err)
	}
	return e
}

func (h *hall) change(e signet.Enrollment) {
	h.t.Helper()
	if _, _, err := h.PutEnrollment(h.t.Context(), e, "*"); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hall) trust(name string, ca *hubtest.CA, verified bool) {
	h.t.Helper()
	if _, _, err := h.authority.Register(h.t.Context(), "dps", name, hubtest.PEM(ca.Cert.Raw), verified, ""); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hall) credentials(id string, pair tls.Certificate) provisioning.Credentials {
	h.t.Helper()
	c := provisioning.Credentials{Door: signet.DoorMQTT, IDScope: h.service.IDScope, RegistrationID: id}
	for _, der := range pair.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			h.t.Fatal(err)
		}
		c.Chain = append(c.Chain, cert)
	}
	return c
}

func (h *hall) token(id, key string) provisioning.Credentials {
	h.t.Helper()
	token, err := signet.SignSAS(h.service.IDScope+"/registrations/"+id, "registration", key, time.Now().Add(time.Hour))
	if err != nil {
		h.t.Fatal(err)
	}
	return provisioning.Credentials{IDScope: h.service.IDScope, RegistrationID: id, Token: token}
}

// registers has a device register, as its SDK does: it waits when it is told to,
// until it has its answer.
func (h *hall) registers(c provisioning.Credentials, q provisioning.Request) (signet.Registration, error) {
	for {
		a, err := h.Admit(h.t.Context(), c)
		if err != nil {
			return signet.Registration{}, err
		}
		o, err := a.Register(h.t.Context(), q)
		if signet.CodeOf(err) == signet.LimitRegistrations {
			time.Sleep(time.Second)
			continue
		}
		for err == nil && o.Registration.Status == signet.Assigning {
			time.Sleep(o.RetryAfter)
			o, err = a.Operation(h.t.Context(), o.ID)
		}
		return o.Registration, err
	}
}

// assigned has a device register that has to get a place.
func (h *hall) assigned(c provisioning.Credentials) signet.Registration {
	h.t.Helper()
	r, err := h.registers(c, provisioning.Request{})
	if err != nil || r.Status != signet.Assigned {
		h.t.Fatalf("%s: %s %s %s, %v", c.RegistrationID, r.Status, r.ErrorCode, r.ErrorMessage, err)
	}
	return r
}

func byCA(names ...string) signet.Attestation {
	return signet.Attestation{Type: signet.AttestX509, PrimaryCA: names[0]}
}

func bySigner(ca *hubtest.CA) signet.Attestation {
	return signet.Attestation{Type: signet.AttestX509, Primary: ca.Cert.Raw}
}

// TestPrecedence: the table of Azure's documentation, and what could get round it.
func TestPrecedence(t *testing.T) {
	type group struct {
		name string // of a registered CA, or of a signer
		off  bool
	}
	for _, c := range []struct {
		name   string
		groups []group
		own    string // an enrollment of the device's own: enabled, disabled, key
		under  string // the CA that has signed it
		want   string // the group that lets it in, or a code
	}{
		{"the root's", []group{{"R", false}}, "", "I2", "R"},
		{"an intermediate that is shut out, above", []group{{"R", false}, {"I1", true}}, "", "I2", "enrollment.disabled"},
		{"an intermediate that is shut out", []group{{"R", false}, {"I1", true}}, "", "I1", "enrollment.disabled"},
		{"the nearest decides", []group{{"R", false}, {"I1", true}, {"I2", false}}, "", "I2", "I2"},
		{"the nearer is let in", []group{{"R", true}, {"I1", false}}, "", "I1", "I1"},
		{"the root is shut out", []group{{"R", true}, {"I1", false}}, "", "R", "enrollment.disabled"},
		{"a device that is shut out", []group{{"R", false}}, "disabled", "I1", "enrollment.disabled"},
		{"a device of its own, below what is shut out", []group{{"R", true}}, "enabled", "I1", ""},
		{"a device with a key of its own", []group{{"R", false}}, "key", "I1", "enrollment.mismatch"},
		{"nothing is enrolled", nil, "", "I1", "enrollment.none"},
		{"another is enrolled", []group{{"I2", false}}, "", "I1", "enrollment.none"},
		{"a root that is not registered", []group{{"S", false}}, "", "S", "chain.issuer-missing"},
		{"a root that is not verified", []group{{"U", false}}, "", "U", "anchor.unverified"},
		{"an intermediate registered, not verified", []group{{"R", false}, {"J", false}}, "", "J", "anchor.unverified"},
		{"renewed with its key, and shut out", []group{{"R", false}, {"I1", true}}, "", "I1 renewed", "enrollment.disabled"},
		{"above the anchor", []group{{"R", false}}, "", "A", "R"},
		{"shut out above the anchor", []group{{"R", true}}, "", "A", "enrollment.disabled"},
		{"the anchor is nearer than what is above", []group{{"R", false}, {"A", true}}, "", "A", "enrollment.disabled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(t *testing.T, h *hall) {
				root := hubtest.NewCA(t, "R")
				i1 := root.Intermediate(t, "I1")
				renewed := *i1
				renewed.Cert = again(t, root, i1)
				cas := map[string]*hubtest.CA{"R": root, "I1": i1, "I2": i1.Intermediate(t, "I2"), "I1 renewed": &renewed,
					"S": hubtest.NewCA(t, "S"), "U": hubtest.NewCA(t, "U"), "J": root.Intermediate(t, "J"), "A": root.Intermediate(t, "A")}
				h.trust("R", root, true)
				h.trust("A", cas["A"], true) // an anchor below another
				h.trust("U", cas["U"], false)
				h.trust("J", cas["J"], false)
				named := map[string]bool{"R": true, "U": true, "J": true, "A": true}
				for _, g := range c.groups {
					e := signet.Enrollment{Group: true, ID: g.name, Attestation: bySigner(cas[g.name]), Status: signet.Enabled}
					if named[g.name] {
						e.Attestation = byCA(g.name)
					}
					if g.off {
						e.Status = signet.Disabled
					}
					h.enroll(e)
				}
				pair := cas[c.under].Device(t, "press")
				switch own := (signet.Enrollment{ID: "press", Attestation: signet.Attestation{Type: signet.AttestX509, Primary: pair.Certificate[0]}}); c.own {
				case "enabled":
					h.enroll(own)
				case "disabled":
					own.Status = signet.Disabled
					h.enroll(own)
				case "key":
					own.Attestation = signet.Attestation{Type: signet.AttestSymmetricKey}
					h.enroll(own)
				}
				r, err := h.registers(h.credentials("press", pair), provisioning.Request{})
				got := r.Group
				if err != nil {
					got = string(signet.CodeOf(err))
				}
				if got != c.want || err == nil && r.Status != signet.Assigned {
					t.Errorf("%q %s %v, want %q", got, r.Status, err, c.want)
				}
				if err != nil && h.who("press") != "" {
					t.Error("it has an identity")
				}
			})
		})
	}
}

// again makes another certificate of a CA: of the same name and key.
func again(t *testing.T, issuer, ca *hubtest.CA) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(reissued(t, issuer, ca))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestCAIsDeletedOrDistrusted: what a service does not trust any more lets nobody
// in, at once, also above an anchor.
func TestCAIsDeletedOrDistrusted(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		root := hubtest.NewCA(t, "R")
		line := root.Intermediate(t, "L")
		h.trust("R", root, true)
		h.trust("L", line, true)
		h.enroll(signet.Enrollment{Group: true, ID: "g", Attestation: byCA("R")})
		h.assigned(h.credentials("a", line.Device(t, "a")))
		if _, err := h.authority.Distrust(t.Context(), "dps", signet.Distrust{By: "test", Kind: signet.DistrustKey}, []*x509.Certificate{root.Cert}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.registers(h.credentials("b", line.Device(t, "b")), provisioning.Request{}); signet.CodeOf(err) != signet.CertRevoked {
			t.Errorf("distrusted above the anchor: %v", err)
		}
		// Whom a group shuts out by a CA that is gone cannot be told: nobody below comes
		// round it.
		m := line.Intermediate(t, "M")
		h.trust("M", m, true)
		h.enroll(signet.Enrollment{Group: true, ID: "line", Attestation: bySigner(line)})
		h.enroll(signet.Enrollment{Group: true, ID: "m", Attestation: byCA("M"), Status: signet.Disabled})
		for _, want := range []signet.Code{signet.EnrollmentDisabled, signet.EnrollmentDisabled} {
			if _, err := h.registers(h.credentials("e", m.Device(t, "e")), provisioning.Request{}); signet.CodeOf(err) != want {
				t.Errorf("below a group that shuts out: %v", err)
			}
			h.assigned(h.credentials("f", line.Device(t, "f"))) // nothing is in between
			if err := h.authority.Delete(t.Context(), "dps", "M", "*"); err != nil && signet.CodeOf(err) != signet.CertificateUnknown {
				t.Fatal(err)
			}
		}
		for _, id := range []string{"line", "m"} {
			if err := h.DeleteEnrollment(t.Context(), "dps", true, id, "*"); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.authority.Delete(t.Context(), "dps", "R", "*"); err != nil {
			t.Fatal(err)
		}
		if _, err := h.registers(h.credentials("c", line.Device(t, "c")), provisioning.Request{}); signet.CodeOf(err) != signet.EnrollmentNone {
			t.Errorf("a group of a CA that is gone: %v", err)
		}
	})
}

// TestScope: a service holds a CA to its scope, the number of its devices included,
// also where the CA stands above the anchor; who has a place keeps it.
func TestScope(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		root := hubtest.NewCA(t, "R")
		line := root.Intermediate(t, "L")
		h.trust("R", root, true)
		h.trust("L", line, true)
		h.enroll(signet.Enrollment{Group: true, ID: "g", Attestation: byCA("R")})
		scope := func(s signet.Scope) {
			t.Helper()
			if _, err := h.authority.SetScope(t.Context(), "dps", authority.ScopeOf{CA: "R"}, s); err != nil {
				t.Fatal(err)
			}
		}
		outside := func(id string, pair tls.Certificate) {
			t.Helper()
			if _, err := h.registers(h.credentials(id, pair), provisioning.Request{}); signet.CodeOf(err) != signet.CertOutOfScope || h.who(id) != "" {
				t.Errorf("%s: %v, at %s", id, err, h.who(id))
			}
		}
		scope(signet.Scope{MaxDevices: 3})
		a, b, c := root.Device(t, "a"), line.Device(t, "b"), line.Device(t, "c")
		h.assigned(h.credentials("a", a))
		h.assigned(h.credentials("b", b))
		h.enroll(signet.Enrollment{ID: "c", Attestation: signet.Attestation{Type: signet.AttestX509, Primary: c.Certificate[0]}})
		c.Certificate = append(c.Certificate, line.Cert.Raw, root.Cert.Raw)
		h.assigned(h.credentials("c", c)) // counted as far as its anchor, which is the line
		h.assigned(h.credentials("d", root.Device(t, "d")))
		outside("e", root.Device(t, "e"))
		outside("f", line.Device(t, "f"))
		h.assigned(h.credentials("a", root.Device(t, "a"))) // by another certificate
		scope(signet.Scope{Devices: []string{"press-*"}})
		outside("lathe-1", line.Device(t, "lathe-1"))
		h.assigned(h.credentials("press-1", line.Device(t, "press-1")))
	})
}

// TestCertificateOfAHub: a certificate that was issued for a hub makes no device of
// a group, though its root is the group's; enrolled by itself it counts.
func TestCertificateOfAHub(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		root := hubtest.NewCA(t, "R")
		h.trust("R", root, true)
		h.enroll(signet.Enrollment{Group: true, ID: "g", Attestation: byCA("R")})
		operational := root.Intermediate(t, "Issuing").Device(t, "press", func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "urn", Opaque: "signet:hub:elsewhere.example"}}
		})
		_, err := h.registers(h.credentials("press", operational), provisioning.Request{})
		if e := signet.AsError(err); signet.CodeOf(err) != signet.CertOutOfScope || !strings.Contains(e.Message, "elsewhere.example") || h.who("press") != "" {
			t.Errorf("%v, at %s", err, h.who("press"))
		}
		h.enroll(signet.Enrollment{ID: "press", Attestation: signet.Attestation{Type: signet.AttestX509, Primary: operational.Certificate[0]}})
		h.assigned(h.credentials("press", operational))
	})
}

// TestJudgedAgain: what is disabled or removed between the request and the work
// gives no place.
func TestJudgedAgain(t *testing.T) {
	for name, undo := range map[string]func(h *hall, e signet.Enrollment) signet.Code{
		"disabled": func(h *hall, e signet.Enrollment) signet.Code {
			e.Status = signet.Disabled
			h.change(e)
			return signet.EnrollmentDisabled
		},
		"deleted": func(h *hall, e signet.Enrollment) signet.Code {
			if err := h.DeleteEnrollment(h.t.Context(), "dps", true, e.ID, "*"); err != nil {
				h.t.Fatal(err)
			}
			return signet.EnrollmentNone
		},
	} {
		for _, kind := range []string{"x509", "key"} {
			t.Run(name+" "+kind, func(t *testing.T) {
				in(t, func(t *testing.T, h *hall) {
					root := hubtest.NewCA(t, "R")
					h.trust("R", root, true)
					e := h.enroll(signet.Enrollment{Group: true, ID: "x", Attestation: byCA("R")})
					c := h.credentials("d", root.Device(t, "d"))
					if kind == "key" {
						e = h.enroll(signet.Enrollment{Group: true, ID: "k", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
						key, _ := signet.DeriveKey(e.Attestation.PrimaryKey, "d")
						c = h.token("d", key)
					}
					a, err := h.Admit(t.Context(), c)
					if err != nil {
						t.Fatal(err)
					}
					h.stop()
					o, err := a.Register(t.Context(), provisioning.Request{})
					if err != nil {
						t.Fatal(err)
					}
					want := undo(h, e)
					h.open()
					synctest.Wait()
					r, err := h.Registration(t.Context(), "dps", "d")
					if err != nil || r.ErrorCode != want || r.TrackingID == "" || r.OperationID != o.ID || h.who("d") != "" {
						t.Errorf("%s %s %v, at %s", r.Status, r.ErrorCode, err, h.who("d"))
					}
					if (r.Status == signet.RegDisabled) != (want == signet.EnrollmentDisabled) {
						t.Error(r.Status)
					}
				})
			})
		}
	}
}

// TestIdentities: what a device's identity at its hub is made of.
func TestIdentities(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		root := hubtest.NewCA(t, "R")
		h.trust("R", root, true)
		g := h.enroll(signet.Enrollment{Group: true, ID: "g", Attestation: byCA("R"), EdgeDevice: true})
		thumbprint := func(pair tls.Certificate) string {
			return strings.ToUpper(pki.ThumbprintSHA256(pair.Certificate[0]))
		}
		identity := func(r signet.Registration) placed { return h.hubs[r.Hub][r.DeviceID] }
		selfSigned := func(primary, secondary tls.Certificate) signet.Authentication {
			return signet.Authentication{Type: signet.AuthSelfSigned, PrimaryThumbprint: thumbprint(primary), SecondaryThumbprint: thumbprint(secondary)}
		}

		// Registration IDs have no case; the device ID is as the first certificate had it.
		first := root.Device(t, "Dev-A")
		r := h.assigned(h.credentials("Dev-A", first))
		if i := identity(r); i.Auth != selfSigned(first, first) || i.DeviceID != "Dev-A" || !i.EdgeDevice || r.Substatus != "initialAssignment" {
			t.Errorf("%+v", i)
		}
		// A new certificate of the same name comes to count by registering again.
		renewed := root.Device(t, "dev-a")
		again := h.assigned(h.credentials("dev-a", renewed))
		if i := identity(again); again.DeviceID != "Dev-A" || again.Hub != r.Hub || i.Auth != selfSigned(renewed, renewed) || again.Substatus != "initialAssignment" || !again.Created.Equal(r.Created) {
			t.Errorf("%+v %+v", again, i)
		}

		// Of a device's own enrollment, both certificates count.
		one, two := hubtest.NewCA(t, "x").Device(t, "own"), root.Device(t, "own")
		h.enroll(signet.Enrollment{ID: "own", DeviceID: "Press", Attestation: signet.Attestation{Type: signet.AttestX509, Primary: one.Certificate[0], Secondary: two.Certificate[0]}})
		one.Certificate = one.Certificate[:1]
		r = h.assigned(h.credentials("own", one))
		if i := identity(r); i.Auth != selfSigned(one, two) || r.DeviceID != "Press" {
			t.Errorf("%+v", i)
		}
		// One that comes with signers is held to a path.
		signed := hubtest.NewCA(t, "S").Intermediate(t, "T").Device(t, "pinned")
		h.enroll(signet.Enrollment{ID: "pinned", Attestation: signet.Attestation{Type: signet.AttestX509, Primary: signed.Certificate[0]}})
		if _, err := h.registers(h.credentials("pinned", signed), provisioning.Request{}); signet.CodeOf(err) != signet.ChainIssuerMissing {
			t.Error(err)
		}
		signed.Certificate = signed.Certificate[:1]
		h.assigned(h.credentials("pinned", signed))

		// How it writes its ID gives a device no other's identity: it is called as its CA,
		// or its own enrollment, has it.
		h.enroll(signet.Enrollment{ID: "Lathe-1", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey, PrimaryKey: "a2V5IG9mIHRoZSBsYXRoZQ==", SecondaryKey: "a2V5IG9mIHRoZSBsYXRoZQ=="}})
		for want, c := range map[string]provisioning.Credentials{"press-1": h.credentials("PRESS-1", root.Device(t, "press-1")), "Lathe-1": h.token("LATHE-1", "a2V5IG9mIHRoZSBsYXRoZQ==")} {
			if r := h.assigned(c); r.DeviceID != want || h.who(c.RegistrationID) != "" {
				t.Errorf("%s is %s", c.RegistrationID, r.DeviceID)
			}
		}

		// By CA, when the enrollment says so; then the CN has to be the device ID.
		pair2 := root.Device(t, "by-ca-2")
		g.HubAuth = signet.AuthCA
		h.change(g)
		r = h.assigned(h.credentials("by-ca", root.Device(t, "by-ca")))
		if i := identity(r); i.Auth != (signet.Authentication{Type: signet.AuthCA}) {
			t.Errorf("%+v", i)
		}
		h.enroll(signet.Enrollment{ID: "by-ca-2", DeviceID: "By-CA-2", HubAuth: signet.AuthCA,
			Attestation: signet.Attestation{Type: signet.AttestX509, Primary: pair2.Certificate[0]}})
		r, err := h.registers(h.credentials("by-ca-2", pair2), provisioning.Request{})
		if err != nil || r.Status != signet.RegFailed || r.ErrorCode != signet.IdentityCNMismatch {
			t.Errorf("%s %s %v", r.Status, r.ErrorCode, err)
		}

		// The case of other letters than ASCII's is of other names: the Kelvin sign is no
		// K, nor is a dotted I an i.
		for _, cn := range []string{"\u212Ailn", "k\u0130ln"} {
			if _, err := h.registers(h.credentials("kiln", root.Device(t, cn)), provisioning.Request{}); signet.CodeOf(err) != signet.IdentityCNMismatch {
				t.Errorf("the certificate of %s for kiln: %v", cn, err)
			}
		}

		// Keys: those of the enrollment, or those that derive from the group's.
		k := h.enroll(signet.Enrollment{ID: "keyed", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
		r = h.assigned(h.token("keyed", k.Attestation.SecondaryKey))
		if i := identity(r); i.Auth != (signet.Authentication{Type: signet.AuthSAS, PrimaryKey: k.Attestation.PrimaryKey, SecondaryKey: k.Attestation.SecondaryKey}) {
			t.Errorf("%+v", i)
		}
		k = h.enroll(signet.Enrollment{Group: true, ID: "keys", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
		primary, _ := signet.DeriveKey(k.Attestation.PrimaryKey, "Meter")
		secondary, _ := signet.DeriveKey(k.Attestation.SecondaryKey, "meter")
		r = h.assigned(h.token("Meter", secondary))
		if i := identity(r); i.Auth != (signet.Authentication{Type: signet.AuthSAS, PrimaryKey: primary, SecondaryKey: secondary}) {
			t.Errorf("%+v", i)
		}
	})
}

// TestTokens: a token is good for one registration, for a time, by one key.
func TestTokens(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		k := h.enroll(signet.Enrollment{ID: "keyed", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
		g := h.enroll(signet.Enrollment{Group: true, ID: "keys", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
		off := h.enroll(signet.Enrollment{Group: true, ID: "off", Status: signet.Disabled, Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
		x := hubtest.NewCA(t, "x").Device(t, "cert")
		h.enroll(signet.Enrollment{ID: "cert", Attestation: signet.Attestation{Type: signet.AttestX509, Primary: x.Certificate[0]}})
		own := k.Attestation.PrimaryKey
		derived := func(e signet.Enrollment, id string) string {
			key, _ := signet.DeriveKey(e.Attestation.PrimaryKey, id)
			return key
		}
		sign := func(resource, key string, life time.Duration) string {
			token, _ := signet.SignSAS(resource, "registration", key, time.Now().Add(life))
			return token
		}
		scope := h.service.IDScope
		for name, c := range map[string]struct {
			id, token string
			want      signet.Code
		}{
			"good":                          {"keyed", sign(scope+"/registrations/keyed", own, time.Hour), ""},
			"of other case":                 {"keyed", sign(strings.ToLower(scope)+"/registrations/KEYED", own, time.Hour), ""},
			"by a group's key":              {"m", sign(scope+"/registrations/m", derived(g, "m"), time.Hour), ""},
			"by the group's key itself":     {"m", sign(scope+"/registrations/m", g.Attestation.PrimaryKey, time.Hour), signet.TokenSignature},
			"by the key of another device":  {"m", sign(scope+"/registrations/m", derived(g, "n"), time.Hour), signet.TokenSignature},
			"by a disabled group's key":     {"m", sign(scope+"/registrations/m", derived(off, "m"), time.Hour), signet.EnrollmentDisabled},
			"by a group's, with an own":     {"keyed", sign(scope+"/registrations/keyed", derived(g, "keyed"), time.Hour), signet.TokenSignature},
			"for another":                   {"keyed", sign(scope+"/registrations/other", own, time.Hour), signet.TokenAudience},
			"for all":                       {"keyed", sign(scope, own, time.Hour), signet.TokenAudience},
			"of another service":            {"keyed", sign("0ne00000000/registrations/keyed", own, time.Hour), signet.TokenAudience},
			"expired":                       {"keyed", sign(scope+"/registrations/keyed", own, -6*time.Minute), signet.TokenExpired},
			"none":                          {"keyed", "SharedAccessSignature x", signet.TokenMalformed},
			"where a certificate is wanted": {"cert", sign(scope+"/registrations/cert", own, time.Hour), signet.EnrollmentMismatch},
			"of nobody":                     {"nobody", sign(scope+"/registrations/nobody", own, time.Hour), signet.TokenSignature},
			"of no ID":                      {"a b", sign(scope+"/registrations/a b", own, time.Hour), signet.RequestMalformed},
		} {
			_, err := h.Admit(t.Context(), provisioning.Credentials{IDScope: scope, RegistrationID: c.id, Token: c.token})
			if signet.CodeOf(err) != c.want {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := h.Admit(t.Context(), provisioning.Credentials{IDScope: "0neFFFFFFFF", RegistrationID: "keyed", Token: sign(scope, own, time.Hour)}); signet.CodeOf(err) != signet.HubUnknown {
			t.Error(err)
		}
		if _, err := h.Admit(t.Context(), provisioning.Credentials{IDScope: scope, RegistrationID: "keyed"}); signet.CodeOf(err) != signet.ChainNone || signet.AsError(err).TrackingID == "" {
			t.Error(err)
		}
	})
}

// TestRequests: what a body may say.
func TestRequests(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		k := h.enroll(signet.Enrollment{ID: "keyed", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
		c := h.token("keyed", k.Attestation.PrimaryKey)
		for _, q := range []struct {
			provisioning.Request
			want signet.Code
		}{
			{provisioning.Request{RegistrationID: "other"}, signet.RequestMalformed},
			{provisioning.Request{TPM: true}, signet.AttestationUnsupported},
			{provisioning.Request{CSR: []byte{1}}, signet.EnrollmentNoPolicy},
			{provisioning.Request{RegistrationID: "KEYED"}, ""},
		} {
			if r, err := h.registers(c, q.Request); signet.CodeOf(err) != q.want || err == nil && r.Status != signet.Assigned {
				t.Errorf("%+v: %v", q, err)
			}
		}
		a, err := h.Admit(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		// Once more at once waits a moment, as an SDK may take "too many" for the end;
		// while it is under way, it is the same.
		for n := range 3 {
			begun := time.Now()
			if _, err := a.Register(t.Context(), provisioning.Request{}); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if took := time.Since(begun); n > 0 && (took < 900*time.Millisecond || took > 2*time.Second) {
				t.Errorf("the next after %v", took)
			}
		}
		gone, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, err := a.Register(gone, provisioning.Request{}); err == nil {
			t.Error("it registers after it has gone")
		}
		cancel()
		time.Sleep(2 * time.Second)
		h.stop()
		one, err := a.Register(t.Context(), provisioning.Request{})
		two, err2 := a.Register(t.Context(), provisioning.Request{})
		if err != nil || err2 != nil || one.ID != two.ID || one.RetryAfter <= 0 {
			t.Errorf("%+v %+v %v %v", one, two, err, err2)
		}
		// Another takes its place, and not more often than one a second: each costs a
		// write, an answer of the webhook and a certificate.
		other, err := a.Register(t.Context(), provisioning.Request{Payload: json.RawMessage(`1`)})
		if err != nil || other.ID == one.ID {
			t.Errorf("%+v %v", other, err)
		}
		// Many that have the ID of one wait for each other, and not for long.
		var all sync.WaitGroup
		var taken, refused atomic.Int64
		begun := time.Now()
		for n := range 20 {
			all.Go(func() {
				_, err := a.Register(t.Context(), provisioning.Request{Payload: json.RawMessage(fmt.Sprint(100 + n))})
				switch signet.CodeOf(err) {
				case "":
					taken.Add(1)
				case signet.LimitRegistrations:
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if took := time.Since(begun); taken.Load() < 2 || taken.Load() > 4 || taken.Load()+refused.Load() != 20 || took > 5*time.Second {
			t.Errorf("%d are taken on and %d refused in %v", taken.Load(), refused.Load(), took)
		}
		h.open()
		synctest.Wait()
		for _, id := range []string{one.ID, other.ID} {
			if o, err := a.Operation(t.Context(), id); err != nil || o.Registration.Status != signet.Assigned {
				t.Errorf("%+v %v", o, err)
			}
		}
		if r, err := a.Lookup(t.Context()); err != nil || r.DeviceID != "keyed" {
			t.Error(r, err)
		}
		if err := h.DeleteRegistration(t.Context(), "dps", "Keyed", ""); err != nil {
			t.Error(err)
		}
		if _, err := a.Lookup(t.Context()); signet.CodeOf(err) != signet.RegistrationUnknown {
			t.Error(err)
		}
	})
}

// TestFull: a service holds no more registrations than it may, also after a start;
// those that are there go on.
func TestFull(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		g := h.enroll(signet.Enrollment{Group: true, ID: "g", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
		come := func(id string) signet.Code {
			key, _ := signet.DeriveKey(g.Attestation.PrimaryKey, id)
			a, err := h.Admit(t.Context(), h.token(id, key))
			if err != nil {
				t.Fatal(err)
			}
			_, err = a.Register(t.Context(), provisioning.Request{})
			time.Sleep(2 * time.Second)
			return signet.CodeOf(err)
		}
		h.stop()
		h.deps.MaxRegistrations = 2
		h.open()
		for n, want := range []signet.Code{"", "", signet.LimitRegistrations} {
			if got := come(fmt.Sprint("d", n)); got != want {
				t.Errorf("%d: %s", n, got)
			}
		}
		h.stop()
		h.open()
		if got := come("d2"); got != signet.LimitRegistrations {
			t.Error(got)
		}
		if got := come("d1"); got != "" {
			t.Error(got)
		}
		if err := h.DeleteRegistration(t.Context(), "dps", "d0", ""); err != nil {
			t.Fatal(err)
		}
		if got := come("d2"); got != "" {
			t.Error(got)
		}
	})
}

// TestOneIdentity: many that have one registration ID, with two certificates, race
// for it.
func TestOneIdentity(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		root := hubtest.NewCA(t, "R")
		h.trust("R", root, true)
		h.enroll(signet.Enrollment{Group: true, ID: "g", Attestation: byCA("R")})
		pairs := []tls.Certificate{root.Device(t, "d"), root.Device(t, "d")}
		var all sync.WaitGroup
		var mu sync.Mutex
		ends := map[string]int{}
		for n := range 50 {
			all.Go(func() {
				r, err := h.registers(h.credentials("d", pairs[n%2]), provisioning.Request{})
				mu.Lock()
				defer mu.Unlock()
				ends[string(r.Status)+string(signet.CodeOf(err))]++
			})
		}
		all.Wait()
		h.mu.Lock()
		count := 0
		for _, devices := range h.hubs {
			count += len(devices)
		}
		h.mu.Unlock()
		if count != 1 || ends["assigned"] == 0 {
			t.Errorf("%d identities, %v", count, ends)
		}
		for end := range ends {
			if end != "assigned" && end != string(signet.OperationUnknown) { // another came after, with the other certificate
				t.Error(end)
			}
		}
		r, _ := h.Registration(t.Context(), "dps", "d")
		if i := h.hubs[r.Hub]["d"]; i.Auth.PrimaryThumbprint != strings.ToUpper(pki.ThumbprintSHA256(r.Leaf)) {
			t.Error("the identity is not that of the last registration")
		}
	})
}

// TestReprovision: what becomes of a device and its twin when it registers again.
func TestReprovision(t *testing.T) {
	for _, c := range []struct {
		policy    signet.Reprovision
		moves     bool
		substatus string
		tags      string
		back      string // substatus when it comes back
	}{
		{signet.Reprovision{UpdateHub: true, MigrateData: true}, true, "deviceDataMigrated", `{"at":"work"}`, "reprovisionedToInitialAssignment"},
		{signet.Reprovision{UpdateHub: true}, true, "deviceDataReset", `{"new":true}`, "reprovisionedToInitialAssignment"},
		{signet.Reprovision{MigrateData: true}, false, "initialAssignment", `{"at":"work"}`, "initialAssignment"},
	} {
		t.Run(c.substatus, func(t *testing.T) {
			in(t, func(t *testing.T, h *hall) {
				e := h.enroll(signet.Enrollment{ID: "d", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}, Reprovision: c.policy,
					Allocation: signet.AllocateStatic, Hubs: []string{"east.example"}, InitialTwin: signet.InitialTwin{Tags: json.RawMessage(`{"new":true}`)}})
				credentials := h.token("d", e.Attestation.PrimaryKey)
				r := h.assigned(credentials)
				if got := h.hubs["east.example"]["d"].twin.Tags; r.Hub != "east.example" || string(got) != `{"new":true}` {
					t.Fatalf("%s %s", r.Hub, got)
				}
				at := h.hubs["east.example"]["d"]
				at.twin.Tags = json.RawMessage(`{"at":"work"}`)
				h.hubs["east.example"]["d"] = at
				if r = h.assigned(credentials); string(h.hubs["east.example"]["d"].twin.Tags) != `{"at":"work"}` || r.Substatus != "initialAssignment" {
					t.Error("it stays, and its twin with it")
				}
				delete(h.hubs["east.example"], "d") // somebody deletes the identity
				if r = h.assigned(credentials); string(h.hubs["east.example"]["d"].twin.Tags) != `{"new":true}` || r.Substatus != "initialAssignment" {
					t.Error("it begins anew where it was")
				}
				h.hubs["east.example"]["d"] = at
				e.Hubs = []string{"west.example"}
				h.change(e)
				r = h.assigned(credentials)
				want := "east.example"
				if c.moves {
					want = "west.example"
				}
				if r.Hub != want || h.who("d") != want || r.Substatus != c.substatus || string(h.hubs[want]["d"].twin.Tags) != c.tags {
					t.Errorf("%s %q %s %s", r.Hub, h.who("d"), r.Substatus, h.hubs[want]["d"].twin.Tags)
				}
				e.Hubs = []string{"east.example"}
				h.change(e)
				if r = h.assigned(credentials); r.Hub != "east.example" || h.who("d") != "east.example" || r.Substatus != c.back {
					t.Errorf("back: %s %q %s", r.Hub, h.who("d"), r.Substatus)
				}
			})
		})
	}
}

// TestAllocation: shares by weight, and only those move that have to.
func TestAllocation(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		g := h.enroll(signet.Enrollment{Group: true, ID: "g", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}, Reprovision: signet.Reprovision{UpdateHub: true}})
		linked := func(name string, weight int) signet.LinkedHub {
			return signet.LinkedHub{HostName: name + ".example", Weight: weight, Allocates: true,
				ConnectionString: "HostName=" + name + ".example;SharedAccessKeyName=p;SharedAccessKey=cA=="}
		}
		if err := h.SetLinks(t.Context(), "dps", []signet.LinkedHub{linked("a", 1), linked("b", 3)}); err != nil {
			t.Fatal(err)
		}
		const devices = 400
		register := func() map[string]string {
			at := map[string]string{}
			for n := range devices {
				id := fmt.Sprint("d", n)
				key, _ := signet.DeriveKey(g.Attestation.PrimaryKey, id)
				at[id] = h.assigned(h.token(id, key)).Hub
			}
			return at
		}
		count := func(at map[string]string, host string) (n int) {
			for h := range maps.Values(at) {
				if h == host {
					n++
				}
			}
			return n
		}
		before := register()
		if n := count(before, "b.example"); n < devices*3/4-devices/10 || n > devices*3/4+devices/10 {
			t.Errorf("%d of %d are at the hub of three quarters", n, devices)
		}
		if err := h.SetLinks(t.Context(), "dps", []signet.LinkedHub{linked("a", 1), linked("b", 3), linked("c", 4)}); err != nil {
			t.Fatal(err)
		}
		after := register()
		if n := count(after, "c.example"); n < devices/2-devices/10 || n > devices/2+devices/10 {
			t.Errorf("%d of %d are at the hub of the half", n, devices)
		}
		for id, host := range after {
			if host != before[id] && host != "c.example" || h.who(id) != host {
				t.Fatalf("%s has gone from %s to %s, and is at %q", id, before[id], host, h.who(id))
			}
		}
		// The nearest that answers.
		h.distance = map[string]time.Duration{"a.example": 80 * time.Millisecond, "c.example": 20 * time.Millisecond}
		e := h.enroll(signet.Enrollment{ID: "near", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}, Allocation: signet.AllocateGeoLatency})
		if r := h.assigned(h.token("near", e.Attestation.PrimaryKey)); r.Hub != "c.example" {
			t.Error(r.Hub)
		}
		// None that may be given.
		e.Allocation, e.Hubs, e.Reprovision.UpdateHub = signet.AllocateStatic, []string{"b.example"}, true
		h.change(e)
		if err := h.SetLinks(t.Context(), "dps", []signet.LinkedHub{linked("a", 1), linked("c", 4)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if r, err := h.registers(h.token("near", e.Attestation.PrimaryKey), provisioning.Request{}); err != nil || r.Status != signet.RegFailed || r.ErrorCode != signet.AllocationNoHub {
			t.Errorf("%s %s %v", r.Status, r.ErrorCode, err)
		}
	})
}

// TestWebhook: a webhook chooses, in bounds; it knows who asks.
func TestWebhook(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		root := hubtest.NewCA(t, "R")
		h.trust("R", root, true)
		h.enroll(signet.Enrollment{Group: true, ID: "g", Attestation: byCA("R"), Reprovision: signet.Reprovision{UpdateHub: true},
			InitialTwin: signet.InitialTwin{Tags: json.RawMessage(`{"of":"enrollment"}`)},
			Allocation:  signet.AllocateCustom, Webhook: signet.Webhook{URL: "https://choose.example/hub?code=secret", APIVersion: "2021-10-01"}})
		var asked map[string]any
		var signed bool
		h.webhook = func(r *http.Request, body []byte) (*http.Response, error) {
			key, _ := signet.DeriveKey(h.service.Policies[0].PrimaryKey, "allocation-webhook")
			raw, _ := base64.StdEncoding.DecodeString(key)
			m := hmac.New(sha256.New, raw)
			m.Write([]byte(r.Header.Get("Webhook-Id") + "." + r.Header.Get("Webhook-Timestamp") + "." + string(body)))
			signed = r.Header.Get("Webhook-Signature") == "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)) && r.Header.Get("Webhook-Id") != "" && r.URL.RawQuery == "code=secret"
			if json.Unmarshal(body, &asked) != nil || strings.Contains(string(body), "secret") {
				t.Errorf("it is asked %s", body)
			}
			return answer(200, `{"iotHubHostName":"west.example","initialTwin":{"tags":{"of":"webhook"},"properties":{"desired":{"a":1}}},"payload":{"zone":7}}`)
		}
		r, err := h.registers(h.credentials("d", root.Device(t, "d")), provisioning.Request{Payload: json.RawMessage(`{"model":"x"}`)})
		if err != nil || r.Hub != "west.example" || string(r.Payload) != `{"zone":7}` || string(h.hubs[r.Hub]["d"].twin.Tags) != `{"of":"webhook"}` {
			t.Errorf("%+v %v", r, err)
		}
		device := asked["deviceRuntimeContext"].(map[string]any)
		if !signed || fmt.Sprint(asked["linkedHubs"]) != "[east.example west.example]" || device["registrationId"] != "d" ||
			fmt.Sprint(device["payload"]) != "map[model:x]" || device["currentIotHubHostName"] != nil ||
			asked["enrollmentGroup"].(map[string]any)["enrollmentGroupId"] != "g" || device["x509"].(map[string]any)["enrollmentGroupId"] != "g" {
			t.Errorf("signed %v, %v", signed, asked)
		}
		for name, c := range map[string]struct {
			answer  func(*http.Request, []byte) (*http.Response, error)
			code    signet.Code
			message string
		}{
			"400":        {func(*http.Request, []byte) (*http.Response, error) { return answer(400, "") }, signet.AllocationWebhook, "status code: 400"},
			"a redirect": {func(*http.Request, []byte) (*http.Response, error) { return answer(307, "") }, signet.AllocationWebhook, "status code: 307"},
			"no JSON":    {func(*http.Request, []byte) (*http.Response, error) { return answer(200, "<html>") }, signet.AllocationWebhook, "no JSON"},
			"no hub":     {func(*http.Request, []byte) (*http.Response, error) { return answer(200, "{}") }, signet.AllocationNoHub, ""},
			"another's hub": {func(*http.Request, []byte) (*http.Response, error) {
				return answer(200, `{"iotHubHostName":"evil.example"}`)
			}, signet.AllocationNoHub, "evil.example"},
			"too much": {func(*http.Request, []byte) (*http.Response, error) {
				return answer(200, `{"iotHubHostName":"west.example","payload":"`+strings.Repeat("x", 96<<10)+`"}`)
			}, signet.AllocationWebhook, "bytes"},
			"a bad twin": {func(*http.Request, []byte) (*http.Response, error) {
				return answer(200, `{"iotHubHostName":"west.example","initialTwin":{"tags":7}}`)
			}, signet.AllocationWebhook, "initial twin"},
			"unreachable": {func(*http.Request, []byte) (*http.Response, error) {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, Err: errors.New("refused")}
			}, signet.AllocationWebhook, "cannot be reached"},
			"private": {func(*http.Request, []byte) (*http.Response, error) {
				return nil, fmt.Errorf("dial: %w", egress.ErrPrivate)
			}, signet.AllocationWebhook, "private"},
			"slow": {func(r *http.Request, _ []byte) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}, signet.AllocationWebhook, "within 10s"},
		} {
			h.webhook = c.answer
			id := strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "'", "")
			r, err := h.registers(h.credentials(id, root.Device(t, id)), provisioning.Request{})
			if err != nil || r.Status != signet.RegFailed || r.ErrorCode != c.code || !strings.Contains(r.ErrorMessage, c.message) ||
				strings.Contains(r.ErrorMessage, "10.0.0.1") || r.TrackingID == "" || h.who(id) != "" {
				t.Errorf("%s: %s %s %s %v", name, r.Status, r.ErrorCode, r.ErrorMessage, err)
			}
		}
	})
}

// TestDisabledWhileAsked: what is disabled while a webhook thinks gives no place.
func TestDisabledWhileAsked(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		root := hubtest.NewCA(t, "R")
		h.trust("R", root, true)
		e := h.enroll(signet.Enrollment{Group: true, ID: "g", Attestation: byCA("R"),
			Allocation: signet.AllocateCustom, Webhook: signet.Webhook{URL: "https://choose.example/", APIVersion: "2021-10-01"}})
		h.webhook = func(*http.Request, []byte) (*http.Response, error) {
			e.Status = signet.Disabled
			h.change(e)
			return answer(200, `{"iotHubHostName":"west.example"}`)
		}
		a, err := h.Admit(t.Context(), h.credentials("d", root.Device(t, "d")))
		if err == nil {
			_, err = a.Register(t.Context(), provisioning.Request{})
		}
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if r, err := h.Registration(t.Context(), "dps", "d"); err != nil || r.Status != signet.RegDisabled || h.who("d") != "" {
			t.Errorf("%s %v, at %s", r.Status, err, h.who("d"))
		}
	})
}

// TestRestart: whatever a process was at when it ended, the next goes on with it;
// a webhook that has chosen is not asked again, and no identity is left behind.
func TestRestart(t *testing.T) {
	for _, at := range []string{"before", "Put east.example", "after Put east.example", "ReplaceRegistration 1", "ReplaceRegistration 2"} {
		t.Run(at, func(t *testing.T) {
			in(t, func(t *testing.T, h *hall) {
				e := h.enroll(signet.Enrollment{ID: "d", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey},
					Allocation: signet.AllocateCustom, Webhook: signet.Webhook{URL: "https://choose.example"}})
				hubs := []string{"east.example", "west.example"}
				h.webhook = func(*http.Request, []byte) (*http.Response, error) {
					return answer(200, `{"iotHubHostName":"`+hubs[(h.asked-1)%2]+`"}`)
				}
				// The process dies at that point: what it does from then on does not happen.
				dead, replaced := at == "before", 0
				died := errors.New("dead")
				h.store.Before = func(operation string) error {
					h.mu.Lock()
					defer h.mu.Unlock()
					if operation == "ReplaceRegistration" {
						replaced++
						dead = dead || at == fmt.Sprint(operation, " ", replaced)
					}
					if dead && !slices.Contains([]string{"CreateRegistration", "CountRegistrations", "Enrollment", "Registration"}, operation) {
						return died
					}
					return nil
				}
				h.fault = func(operation, host string) error {
					h.mu.Lock()
					defer h.mu.Unlock()
					dead = dead || at == operation+" "+host
					if dead {
						return died
					}
					dead = at == "after "+operation+" "+host
					return nil
				}
				a, err := h.Admit(t.Context(), h.token("d", e.Attestation.PrimaryKey))
				if err != nil {
					t.Fatal(err)
				}
				if at == "before" {
					h.stop()
				}
				o, err := a.Register(t.Context(), provisioning.Request{})
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				h.stop()
				h.store.Before, h.fault = nil, nil
				dead = false
				h.open()
				synctest.Wait()
				a, err = h.Admit(t.Context(), h.token("d", e.Attestation.PrimaryKey))
				if err != nil {
					t.Fatal(err)
				}
				o, err = a.Operation(t.Context(), o.ID)
				if err != nil || o.Registration.Status != signet.Assigned || h.who("d") != o.Registration.Hub {
					t.Errorf("%s at %q, %v", o.Registration.Status, h.who("d"), err)
				}
				if again := at == "before" || at == "ReplaceRegistration 1"; !again && h.asked != 1 {
					t.Errorf("the webhook was asked %d times", h.asked)
				}
			})
		})
	}
}

// TestSlowWebhook: whoever waits for a place at a webhook that is slow is judged
// again less and less often, so that thousands who do leave the workers to others.
func TestSlowWebhook(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		g := h.enroll(signet.Enrollment{Group: true, ID: "g", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey},
			Allocation: signet.AllocateCustom, Webhook: signet.Webhook{URL: "https://choose.example"}})
		h.webhook = func(*http.Request, []byte) (*http.Response, error) {
			time.Sleep(9 * time.Second)
			return answer(200, `{"iotHubHostName":"west.example"}`)
		}
		var judged atomic.Int64
		h.store.Before = func(operation string) error {
			if operation == "LinkedHubs" {
				judged.Add(1)
			}
			return nil
		}
		var all sync.WaitGroup
		for n := range 10 { // of which eight are asked about at a time
			id := fmt.Sprint("d", n)
			key, _ := signet.DeriveKey(g.Attestation.PrimaryKey, id)
			all.Go(func() { h.assigned(h.token(id, key)) })
		}
		all.Wait()
		if n := judged.Load(); n > 40 {
			t.Errorf("ten are judged %d times", n)
		}
	})
}

// TestStop: a server that stops while a webhook is asked has not heard its answer:
// the registration goes on at the next start, and has not failed.
func TestStop(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		e := h.enroll(signet.Enrollment{ID: "d", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey},
			Allocation: signet.AllocateCustom, Webhook: signet.Webhook{URL: "https://choose.example"}})
		h.webhook = func(r *http.Request, _ []byte) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		a, err := h.Admit(t.Context(), h.token("d", e.Attestation.PrimaryKey))
		if err != nil {
			t.Fatal(err)
		}
		o, err := a.Register(t.Context(), provisioning.Request{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.stop()
		if r, err := a.Lookup(t.Context()); err != nil || r.Status != signet.Assigning {
			t.Errorf("after the stop: %s %s %v", r.Status, r.ErrorMessage, err)
		}
		h.webhook = func(*http.Request, []byte) (*http.Response, error) {
			return answer(200, `{"iotHubHostName":"west.example"}`)
		}
		h.open()
		synctest.Wait()
		if o, err = a.Operation(t.Context(), o.ID); err != nil || o.Registration.Status != signet.Assigned {
			t.Errorf("after the start: %s %s %v", o.Registration.Status, o.Registration.ErrorMessage, err)
		}
	})
}

// TestHubAway: a hub that does not answer is tried again, for a while; one that
// refuses is not.
func TestHubAway(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		e := h.enroll(signet.Enrollment{ID: "d", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
		tries, away := 0, true
		h.fault = func(string, string) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if tries++; away {
				return signet.Refuse(signet.Unavailable, "away")
			}
			return nil
		}
		time.AfterFunc(30*time.Second, func() { h.mu.Lock(); away = false; h.mu.Unlock() })
		h.assigned(h.token("d", e.Attestation.PrimaryKey))
		if tries < 4 || tries > 20 {
			t.Errorf("%d tries in half a minute", tries)
		}
		h.fault = func(string, string) error { return signet.Refuse(signet.Unavailable, "away") }
		begun := time.Now()
		r, err := h.registers(h.token("d", e.Attestation.PrimaryKey), provisioning.Request{})
		if took := time.Since(begun); err != nil || r.Status != signet.RegFailed || r.ErrorCode != signet.Unavailable || took < time.Minute || took > 4*time.Minute {
			t.Errorf("%s %s %v after %v", r.Status, r.ErrorCode, err, took)
		}
		h.fault = func(string, string) error { return signet.Refuse(signet.TokenSignature, "The key is another.") }
		r, err = h.registers(h.token("d", e.Attestation.PrimaryKey), provisioning.Request{})
		if err != nil || r.Status != signet.RegFailed || r.ErrorCode != signet.AllocationHub || !strings.Contains(r.ErrorMessage, "The key is another.") {
			t.Errorf("%s %s %v", r.Status, r.ErrorCode, err)
		}
	})
}

// TestStoreFaults: whatever write fails, kept or not, a registration that was
// acknowledged ends, and one that was not may.
func TestStoreFaults(t *testing.T) {
	for _, kept := range []bool{false, true} {
		for fails := range 8 {
			in(t, func(t *testing.T, h *hall) {
				e := h.enroll(signet.Enrollment{ID: "d", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
				var n atomic.Int64
				fault := func(string) error {
					if n.Add(1) == int64(fails)+1 {
						return memstore.ErrFault
					}
					return nil
				}
				h.stop()
				if kept {
					h.store.After = fault
				} else {
					h.store.Before = fault
				}
				h.open()
				c := h.token("d", e.Attestation.PrimaryKey)
				for range 3 {
					r, err := h.registers(c, provisioning.Request{})
					if err == nil && r.Status == signet.Assigned {
						if h.who("d") != r.Hub {
							t.Errorf("kept %v, fault %d: at %q", kept, fails, h.who("d"))
						}
						return
					}
				}
				t.Errorf("kept %v, fault %d: it gets no place", kept, fails)
			})
		}
	}
}
