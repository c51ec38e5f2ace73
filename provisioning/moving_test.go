package provisioning_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
)

// between has f happen once, before an operation of the store or at a hub.
func (h *hall) between(operation string, f func()) {
	var once sync.Once
	at := func(o string) error {
		if o == operation {
			once.Do(f)
		}
		return nil
	}
	h.store.Before = at
	h.mu.Lock()
	h.fault = func(o, host string) error { return at(o + " " + host) }
	h.mu.Unlock()
}

// disable has an operator disable a device at a hub.
func (h *hall) disable(host, device string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.hubs[host][device]
	if !ok {
		h.t.Errorf("there is no %s at %s", device, host)
		return
	}
	p.Status, p.ETag = signet.Disabled, signet.NewETag()
	h.hubs[host][device] = p
}

// wished has a webhook give the hub that the device wishes for.
func (h *hall) wished() signet.Enrollment {
	h.webhook = func(_ *http.Request, body []byte) (*http.Response, error) {
		var q struct {
			Device struct{ Payload string } `json:"deviceRuntimeContext"`
		}
		if err := json.Unmarshal(body, &q); err != nil {
			h.t.Error(err)
		}
		return answer(200, `{"iotHubHostName":"`+q.Device.Payload+`.example"}`)
	}
	return h.enroll(signet.Enrollment{ID: "d", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey},
		Reprovision: signet.Reprovision{UpdateHub: true, MigrateData: true},
		Allocation:  signet.AllocateCustom, Webhook: signet.Webhook{URL: "https://choose.example", APIVersion: "2021-10-01"}})
}

func payload(text string) provisioning.Request {
	return provisioning.Request{Payload: json.RawMessage(`"` + text + `"`)}
}

// TestTakenOver: a request takes the place of one whose device is at its new hub
// already, which is not on record yet. There is one identity all the same, with the
// twin that it had, and what was disabled stays so.
func TestTakenOver(t *testing.T) {
	for _, c := range []struct{ is, first, then string }{
		{"", "east", "west"},
		{"east", "west", "east"},
		{"east", "west", "west"},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			in(t, func(t *testing.T, h *hall) {
				credentials := h.token("d", h.wished().Attestation.PrimaryKey)
				if c.is != "" {
					if _, err := h.registers(credentials, payload(c.is)); err != nil {
						t.Fatal(err)
					}
					at := h.hubs[c.is+".example"]["d"]
					at.twin.Tags = json.RawMessage(`{"at":"work"}`)
					h.hubs[c.is+".example"]["d"] = at
					h.disable(c.is+".example", "d")
					time.Sleep(2 * time.Second)
				}
				again := func() {
					time.Sleep(2 * time.Second)
					a, err := h.Admit(t.Context(), credentials)
					if err == nil {
						_, err = a.Register(t.Context(), payload(c.then))
					}
					if err != nil {
						t.Error(err)
					}
				}
				// The first write has the placement, the second would have the end.
				replaced := 0
				h.store.Before = func(operation string) error {
					if operation == "ReplaceRegistration" && h.who("d") == c.first+".example" {
						if replaced++; replaced == 1 {
							again()
						}
					}
					return nil
				}
				a, err := h.Admit(t.Context(), credentials)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := a.Register(t.Context(), payload(c.first)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				r, err := h.Registration(t.Context(), "dps", "d")
				if err != nil || r.Status != signet.Assigned || r.Hub != c.then+".example" || h.who("d") != r.Hub {
					t.Errorf("%s at %s, and identities at %q, %v", r.Status, r.Hub, h.who("d"), err)
				}
				if d := h.hubs[r.Hub]["d"]; c.is != "" && (d.Status != signet.Disabled || string(d.twin.Tags) != `{"at":"work"}`) {
					t.Errorf("at %s it is %s, with the tags %s", r.Hub, d.Status, d.twin.Tags)
				}
			})
		})
	}
}

// TestLeftBehind: the hub that a device moves from goes away once it is at the new
// one. It is not forgotten there, by whichever request comes next.
func TestLeftBehind(t *testing.T) {
	for _, stops := range []bool{false, true} {
		t.Run(fmt.Sprint(stops), func(t *testing.T) {
			in(t, func(t *testing.T, h *hall) {
				credentials := h.token("d", h.wished().Attestation.PrimaryKey)
				if err := h.SetLinks(t.Context(), "dps", []signet.LinkedHub{elsewhere("east"), elsewhere("west"), elsewhere("north")}); err != nil {
					t.Fatal(err)
				}
				if _, err := h.registers(credentials, payload("east")); err != nil {
					t.Fatal(err)
				}
				h.fault = func(operation, host string) error {
					if operation == "Delete" && host == "east.example" {
						return signet.Refuse(signet.Unavailable, "away")
					}
					return nil
				}
				time.Sleep(2 * time.Second)
				a, err := h.Admit(t.Context(), credentials)
				if err == nil {
					_, err = a.Register(t.Context(), payload("west"))
				}
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Second) // it is tried again, or has given up
				if stops {
					h.stop()
					h.open()
				} else {
					time.Sleep(5 * time.Minute)
				}
				h.mu.Lock()
				h.fault = nil
				h.mu.Unlock()
				r, err := h.registers(credentials, payload("north"))
				if err != nil || r.Hub != "north.example" || h.who("d") != "north.example" {
					t.Errorf("%s at %s, and identities at %q, %v", r.Status, r.Hub, h.who("d"), err)
				}
			})
		})
	}
}

func elsewhere(name string) signet.LinkedHub {
	return signet.LinkedHub{HostName: name + ".example", Weight: 1, Allocates: true,
		ConnectionString: "HostName=" + name + ".example;SharedAccessKeyName=p;SharedAccessKey=cA=="}
}

// TestDisabledWhileMoved: an operator disables a device at the hub that it is just
// leaving. It is disabled where it goes.
func TestDisabledWhileMoved(t *testing.T) {
	for _, when := range []string{"Put west.example", "Delete east.example"} {
		t.Run(when, func(t *testing.T) {
			in(t, func(t *testing.T, h *hall) {
				credentials := h.token("d", h.wished().Attestation.PrimaryKey)
				if _, err := h.registers(credentials, payload("east")); err != nil {
					t.Fatal(err)
				}
				h.between(when, func() { h.disable("east.example", "d") })
				r, err := h.registers(credentials, payload("west"))
				if d := h.hubs["west.example"]["d"]; err != nil || r.Hub != "west.example" || h.who("d") != r.Hub || d.Status != signet.Disabled {
					t.Errorf("%s at %s, and identities at %q, %q, %v", r.Status, r.Hub, h.who("d"), d.Status, err)
				}
			})
		})
	}
}

// TestChangesAllTheTime: a hub elsewhere that says of an identity, each time that it is to
// be deleted, that it has changed. It is asked now and then, and given up.
func TestChangesAllTheTime(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		credentials := h.token("d", h.wished().Attestation.PrimaryKey)
		if err := h.SetLinks(t.Context(), "dps", []signet.LinkedHub{elsewhere("east"), elsewhere("west")}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.registers(credentials, payload("east")); err != nil {
			t.Fatal(err)
		}
		var asked atomic.Int64
		h.fault = func(operation, _ string) error {
			time.Sleep(time.Millisecond)
			if asked.Add(1); operation == "Delete" {
				return signet.Refuse(signet.ETagStale, "changed")
			}
			return nil
		}
		time.Sleep(2 * time.Second)
		a, err := h.Admit(t.Context(), credentials)
		if err == nil {
			_, err = a.Register(t.Context(), payload("west"))
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		r, err := h.Registration(t.Context(), "dps", "d")
		if err != nil || r.Status != signet.RegFailed || r.Hub != "west.example" || asked.Load() > 500 {
			t.Errorf("%s at %s after %d questions, %v", r.Status, r.Hub, asked.Load(), err)
		}
	})
}

// TestMoves: a device that keeps changing its mind, hubs that are away now and then,
// and an operator who disables it somewhere on the way. In the end it has one
// identity, disabled, with its twin.
func TestMoves(t *testing.T) {
	for seed := range uint64(50) {
		in(t, func(t *testing.T, h *hall) {
			chance := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex
			pick := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return chance.IntN(n)
			}
			names := []string{"a", "b", "c"}
			if err := h.SetLinks(t.Context(), "dps", []signet.LinkedHub{elsewhere("a"), elsewhere("b"), elsewhere("c")}); err != nil {
				t.Fatal(err)
			}
			credentials := h.token("d", h.wished().Attestation.PrimaryKey)
			var quiet atomic.Bool
			h.fault = func(string, string) error {
				time.Sleep(time.Duration(pick(2500)) * time.Millisecond)
				if !quiet.Load() && pick(10) < 3 {
					return signet.Refuse(signet.Unavailable, "away")
				}
				return nil
			}
			disabled := false
			for range 30 {
				time.Sleep(time.Duration(pick(4000)) * time.Millisecond)
				a, err := h.Admit(t.Context(), credentials)
				if err != nil {
					t.Fatal(err)
				}
				_, err = a.Register(t.Context(), payload(names[pick(3)]))
				if code := signet.CodeOf(err); err != nil && code != signet.LimitRegistrations {
					t.Error(err)
				}
				r, err := h.Registration(t.Context(), "dps", "d")
				if err != nil || r.Status != signet.Assigned || disabled || h.who("d") != r.Hub {
					continue
				}
				disabled = true
				h.mu.Lock()
				at := h.hubs[r.Hub]["d"]
				at.twin.Tags = json.RawMessage(`{"at":"work"}`)
				h.hubs[r.Hub]["d"] = at
				h.mu.Unlock()
				h.disable(r.Hub, "d")
			}
			quiet.Store(true)
			time.Sleep(10 * time.Minute)
			r, err := h.registers(credentials, payload("a"))
			if err != nil || r.Status != signet.Assigned || h.who("d") != r.Hub || len(r.Left) > 0 {
				t.Errorf("seed %d: %s at %s, and identities at %q, left %v, %v", seed, r.Status, r.Hub, h.who("d"), r.Left, err)
			}
			if d := h.hubs[r.Hub]["d"]; disabled && (d.Status != signet.Disabled || string(d.twin.Tags) != `{"at":"work"}`) {
				t.Errorf("seed %d: it is %s, with the tags %s", seed, d.Status, d.twin.Tags)
			}
		})
	}
}

// TestChangedWhileAsked: what an enrollment may give, and what is linked, is as it
// is when the webhook has thought, and not as it was before.
func TestChangedWhileAsked(t *testing.T) {
	for name, change := range map[string]func(h *hall, e signet.Enrollment){
		"the enrollment": func(h *hall, e signet.Enrollment) {
			e.Hubs = []string{"east.example"}
			h.change(e)
		},
		"the links": func(h *hall, _ signet.Enrollment) {
			if err := h.SetLinks(h.t.Context(), "dps", []signet.LinkedHub{{HostName: "east.example", Allocates: true}}); err != nil {
				h.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, h *hall) {
				e := h.wished()
				choose := h.webhook
				h.webhook = func(r *http.Request, body []byte) (*http.Response, error) {
					if strings.Contains(string(body), `"west.example"`) {
						change(h, e)
						return answer(200, `{"iotHubHostName":"west.example"}`)
					}
					return choose(r, body)
				}
				r, err := h.registers(h.token("d", e.Attestation.PrimaryKey), payload("east"))
				if err != nil || r.Status != signet.Assigned || h.who("d") != "east.example" {
					t.Errorf("%s %s, at %q, %v", r.Status, r.ErrorMessage, h.who("d"), err)
				}
			})
		})
	}
}

// TestChangedWhileAway: the hub that was chosen is away, and the operator takes it
// out of the enrollment: the device is not kept waiting for it.
func TestChangedWhileAway(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		if err := h.SetLinks(t.Context(), "dps", []signet.LinkedHub{elsewhere("a"), elsewhere("b")}); err != nil {
			t.Fatal(err)
		}
		e := h.enroll(signet.Enrollment{ID: "d", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey},
			Allocation: signet.AllocateStatic, Hubs: []string{"a.example", "b.example"}})
		h.fault = func(_, host string) error {
			if host == "a.example" {
				return signet.Refuse(signet.Unavailable, "away")
			}
			return nil
		}
		a, err := h.Admit(t.Context(), h.token("d", e.Attestation.PrimaryKey))
		if err == nil {
			_, err = a.Register(t.Context(), provisioning.Request{})
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		e.Hubs = []string{"b.example"}
		h.change(e)
		time.Sleep(time.Minute)
		if r, err := h.Registration(t.Context(), "dps", "d"); err != nil || r.Status != signet.Assigned || r.Hub != "b.example" {
			t.Errorf("%s at %s %v", r.Status, r.Hub, err)
		}
	})
}

// TestManyWebhooks: webhooks that hang hold up their own devices alone, however many
// there are.
func TestManyWebhooks(t *testing.T) {
	for _, url := range []string{"https://choose.example/hub?code=%d", "https://choose-%d.example/hub"} {
		t.Run(url, func(t *testing.T) {
			in(t, func(t *testing.T, h *hall) {
				h.webhook = func(r *http.Request, _ []byte) (*http.Response, error) {
					<-r.Context().Done()
					return nil, r.Context().Err()
				}
				for n := range 40 {
					g := h.enroll(signet.Enrollment{Group: true, ID: fmt.Sprint("g", n), Attestation: signet.Attestation{Type: signet.AttestSymmetricKey},
						Allocation: signet.AllocateCustom, Webhook: signet.Webhook{URL: fmt.Sprintf(url, n)}})
					id := fmt.Sprint("w", n)
					key, _ := signet.DeriveKey(g.Attestation.PrimaryKey, id)
					a, err := h.Admit(t.Context(), h.token(id, key))
					if err == nil {
						_, err = a.Register(t.Context(), provisioning.Request{})
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				e := h.enroll(signet.Enrollment{ID: "d", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
				begun := time.Now()
				h.assigned(h.token("d", e.Attestation.PrimaryKey))
				if took := time.Since(begun); took > 2*time.Second {
					t.Errorf("a device that asks no webhook has its place after %v", took)
				}
			})
		})
	}
}

// TestManyUnfinished: what was acknowledged is worked on after a start, however much
// there is of it.
func TestManyUnfinished(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		e := h.enroll(signet.Enrollment{Group: true, ID: "g", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
		h.stop()
		const many = 12_000 // those that ask at the same moment pass the bound together
		for n := range many {
			r := signet.Registration{Service: "dps", RegistrationID: fmt.Sprint("d", n), OperationID: "o", Status: signet.Assigning, Group: e.ID, ETag: "1"}
			if err := h.store.CreateRegistration(t.Context(), r, &provisioning.Work{Begun: time.Now()}); err != nil {
				t.Fatal(err)
			}
		}
		h.open()
		time.Sleep(time.Hour)
		if left, err := h.store.Unfinished(t.Context(), many); err != nil || len(left) > 0 {
			t.Errorf("%d are left, %v", len(left), err)
		}
	})
}

// TestWordsOfAHub: what a hub elsewhere says goes to the device and on record. It is
// short, and of our network it tells nothing.
func TestWordsOfAHub(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		if err := h.SetLinks(t.Context(), "dps", []signet.LinkedHub{elsewhere("a")}); err != nil {
			t.Fatal(err)
		}
		e := h.enroll(signet.Enrollment{ID: "d", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
		for _, fault := range []error{
			signet.Refuse(signet.LimitRate, "%s", strings.Repeat("x", 1<<20)),
			signet.Refuse(signet.Unavailable, "%s", strings.Repeat("x", 1<<20)),
			signet.Refuse(signet.IdentityUnknown, "%s", strings.Repeat("x", 1<<20)),
		} {
			h.fault = func(string, string) error { return fault }
			time.Sleep(2 * time.Second)
			r, err := h.registers(h.token("d", e.Attestation.PrimaryKey), provisioning.Request{})
			if err != nil || r.Status != signet.RegFailed || len(r.ErrorMessage) > 1024 {
				t.Errorf("%s %s, %d bytes, %v", r.Status, r.ErrorCode, len(r.ErrorMessage), err)
			}
		}
	})
}
