package provisioning_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/provisioning"
)

// ruled writes a decision down.
func ruled(d signet.Decision) string {
	return strings.TrimSpace(string(d.Ruling) + " " + d.Enrollment)
}

// TestForesee: what is foreseen of a change, and that it then comes so. R is a
// root that is registered; I1 and I2 are below it, one below the other; L has
// nothing above that is known.
func TestForesee(t *testing.T) {
	for _, c := range []struct {
		name   string
		groups string // "R I1-": of these CAs, those with a dash disabled
		from   string // the groups when the devices registered; as groups, when empty
		change provisioning.Change
		want   string // of the signer or the device: now, then
		fates  string // of devices that have registered under each CA: R, I1 and I2
	}{
		{"the trap: a shut out intermediate is deleted", "R I1-", "R", provisioning.Change{Group: true, ID: "I1"},
			"denied I1, admitted R", "dev-I1 gains R, dev-I2 unknown"},
		{"it is deleted, and the root is shut out too", "R- I1-", "R", provisioning.Change{Group: true, ID: "I1"}, "denied I1, denied R", ""},
		{"it is deleted, and there is no other", "I1-", "R", provisioning.Change{Group: true, ID: "I1"}, "denied I1, nobody", ""},
		{"it is enabled", "R I1-", "R", provisioning.Change{Group: true, ID: "I1", Status: signet.Enabled}, "denied I1, admitted I1", "dev-I1 gains I1, dev-I2 unknown"},
		{"it is disabled", "R I1", "", provisioning.Change{Group: true, ID: "I1", Status: signet.Disabled}, "admitted I1, denied I1", "dev-I1 loses I1, dev-I2 loses I1"},
		{"an enabled one is deleted", "R I1", "", provisioning.Change{Group: true, ID: "I1"}, "admitted I1, admitted R", "dev-I1 other enrollment R, dev-I2 other enrollment R"},
		{"the root's is disabled", "R I1", "", provisioning.Change{Group: true, ID: "R", Status: signet.Disabled}, "admitted R, denied R", "dev-R loses R"},
		{"the root's is deleted", "R I1", "", provisioning.Change{Group: true, ID: "R"}, "admitted R, nobody", "dev-R loses"},
		{"the root's is deleted, and the line's was made later", "R I1-", "R", provisioning.Change{Group: true, ID: "R"}, "admitted R, nobody", "dev-I2 unknown, dev-R loses"},
		{"disabled already", "R I1-", "R", provisioning.Change{Group: true, ID: "I1", Status: signet.Disabled}, "denied I1, denied I1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(t *testing.T, h *hall) {
				root := hubtest.NewCA(t, "R")
				i1 := root.Intermediate(t, "I1")
				cas := map[string]*hubtest.CA{"R": root, "I1": i1, "I2": i1.Intermediate(t, "I2")}
				h.trust("R", root, true)
				enrol := func(groups string) {
					for _, g := range strings.Fields(groups) {
						id, off := strings.CutSuffix(g, "-")
						e := signet.Enrollment{Group: true, ID: id, Attestation: bySigner(cas[id]), Status: signet.Enabled}
						if id == "R" {
							e.Attestation = byCA("R")
						}
						if off {
							e.Status = signet.Disabled
						}
						h.enroll(e)
					}
				}
				devices := map[string]tls.Certificate{}
				from := c.from
				if from == "" {
					from = c.groups
				}
				enrol(from)
				for name, ca := range cas {
					devices["dev-"+name] = ca.Device(t, "dev-"+name)
					h.assigned(h.credentials("dev-"+name, devices["dev-"+name]))
				}
				if from != c.groups {
					if err := h.DeleteEnrollment(t.Context(), "dps", true, from, ""); err != nil {
						t.Fatal(err)
					}
					enrol(c.groups)
				}
				f, err := h.Foresee(t.Context(), "dps", c.change)
				if err != nil {
					t.Fatal(err)
				}
				if len(f.Proofs) != 1 {
					t.Fatalf("%+v", f.Proofs)
				}
				if got := ruled(f.Proofs[0].Now) + ", " + ruled(f.Proofs[0].Then); got != c.want {
					t.Errorf("%s, want %s: %+v", got, c.want, f.Proofs)
				}
				var fates []string
				for _, d := range f.Devices {
					by := d.Then.Enrollment
					if d.Fate == signet.FateUnknown {
						by = ""
					}
					fates = append(fates, strings.TrimSpace(fmt.Sprintf("%s %s %s", d.RegistrationID, d.Fate, by)))
				}
				slices.Sort(fates)
				if got := strings.Join(fates, ", "); got != c.fates {
					t.Errorf("%s, want %s", got, c.fates)
				}
				// It comes so, for every device.
				admitted := func() map[string]bool {
					is := map[string]bool{}
					for id, pair := range devices {
						_, err := h.Admit(t.Context(), h.credentials(id, pair))
						is[id] = err == nil
					}
					return is
				}
				now := admitted()
				h.makes(c.change)
				then := admitted()
				for id := range devices {
					n := slices.IndexFunc(f.Devices, func(d signet.RegistrationFate) bool { return d.RegistrationID == id })
					switch {
					case n >= 0 && f.Devices[n].Fate == signet.FateUnknown:
					case n < 0 && now[id] != then[id]:
						t.Errorf("%s: %t, then %t; nothing was foreseen", id, now[id], then[id])
					case n >= 0 && (now[id] != (f.Devices[n].Now.Ruling == signet.RulingAdmitted) || then[id] != (f.Devices[n].Then.Ruling == signet.RulingAdmitted)):
						t.Errorf("%s: %t, then %t; foreseen %+v", id, now[id], then[id], f.Devices[n])
					}
				}
			})
		})
	}
}

// makes makes a change.
func (h *hall) makes(c provisioning.Change) {
	h.t.Helper()
	if c.Status == "" {
		if err := h.DeleteEnrollment(h.t.Context(), "dps", c.Group, c.ID, ""); err != nil {
			h.t.Fatal(err)
		}
		return
	}
	e, err := h.Enrollment(h.t.Context(), "dps", c.Group, c.ID)
	if err != nil {
		h.t.Fatal(err)
	}
	e.Status = c.Status
	h.change(e)
}

// foreseen gives what is foreseen of the first proof, and the counts.
func (h *hall) foreseen(c provisioning.Change) string {
	h.t.Helper()
	f, err := h.Foresee(h.t.Context(), "dps", c)
	if err != nil {
		h.t.Fatal(err)
	}
	var s []string
	for _, p := range f.Proofs {
		s = append(s, ruled(p.Now)+", "+ruled(p.Then))
	}
	return fmt.Sprintf("%s; %d loses %d gains %d other %d unknown", strings.Join(s, "; "), f.Loses, f.Gains, f.OtherEnrollment, f.Unknown)
}

// TestForeseeOne: a device of its own, after whose enrollment the groups decide.
func TestForeseeOne(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		root := hubtest.NewCA(t, "R")
		h.trust("R", root, true)
		h.enroll(signet.Enrollment{Group: true, ID: "R", Attestation: byCA("R")})
		line := root.Intermediate(t, "line")
		for id, pair := range map[string]tls.Certificate{"near": root.Device(t, "near"), "far": line.Device(t, "far"), "alone": hubtest.NewCA(t, "S").Device(t, "alone")} {
			h.enroll(signet.Enrollment{ID: id, Attestation: signet.Attestation{Type: signet.AttestX509, Primary: pair.Certificate[0]}})
		}
		key := h.enroll(signet.Enrollment{Group: true, ID: "keys", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}}).Attestation.PrimaryKey
		own, err := signet.DeriveKey(key, "sensor")
		if err != nil {
			t.Fatal(err)
		}
		h.enroll(signet.Enrollment{ID: "sensor", Status: signet.Disabled, Attestation: signet.Attestation{Type: signet.AttestSymmetricKey, PrimaryKey: own, SecondaryKey: own}})
		for _, c := range []struct {
			change provisioning.Change
			want   string
		}{
			{provisioning.Change{ID: "near", Status: signet.Disabled}, "admitted near, denied near; 0 loses 0 gains 0 other 0 unknown"},
			{provisioning.Change{ID: "near"}, "admitted near, admitted R; 0 loses 0 gains 0 other 0 unknown"},
			{provisioning.Change{ID: "far"}, "admitted far, unknown; 0 loses 0 gains 0 other 0 unknown"},
			{provisioning.Change{ID: "sensor"}, "denied sensor, admitted keys; denied sensor, admitted keys; 0 loses 0 gains 0 other 0 unknown"},
		} {
			if got := h.foreseen(c.change); got != c.want {
				t.Errorf("%+v: %s, want %s", c.change, got, c.want)
			}
		}
		// Its group has let it in before it was shut out alone: that is on record.
		pair := line.Device(t, "press")
		h.assigned(h.credentials("press", pair))
		h.enroll(signet.Enrollment{ID: "press", Status: signet.Disabled, Attestation: signet.Attestation{Type: signet.AttestX509, Primary: pair.Certificate[0]}})
		if got, want := h.foreseen(provisioning.Change{ID: "press"}), "denied press, admitted R; 0 loses 1 gains 0 other 0 unknown"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if got, want := h.foreseen(provisioning.Change{Group: true, ID: "R"}), "admitted R, nobody; 0 loses 0 gains 0 other 0 unknown"; got != want {
			t.Errorf("a device of its own is not touched by a group: %s, want %s", got, want)
		}
		if _, err := h.Foresee(t.Context(), "dps", provisioning.Change{Group: true, ID: "none"}); signet.CodeOf(err) != signet.EnrollmentUnknown {
			t.Error(err)
		}
	})
}

// TestForeseeKeys: groups of keys, one of which has the key of another.
func TestForeseeKeys(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		keys := signet.Attestation{Type: signet.AttestSymmetricKey, PrimaryKey: "QUFBQUFBQUFBQUFBQUFBQQ==", SecondaryKey: "QkJCQkJCQkJCQkJCQkJCQg=="}
		h.enroll(signet.Enrollment{Group: true, ID: "a", Attestation: keys})
		own, err := signet.DeriveKey(keys.PrimaryKey, "s-1")
		if err != nil {
			t.Fatal(err)
		}
		h.assigned(h.token("s-1", own))
		if got, want := h.foreseen(provisioning.Change{Group: true, ID: "a"}), "admitted a, nobody; admitted a, nobody; 1 loses 0 gains 0 other 0 unknown"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if got, want := h.foreseen(provisioning.Change{Group: true, ID: "a", Status: signet.Disabled}), "admitted a, denied a; admitted a, denied a; 1 loses 0 gains 0 other 0 unknown"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		keys.SecondaryKey = "Q0NDQ0NDQ0NDQ0NDQ0NDQw=="
		h.enroll(signet.Enrollment{Group: true, ID: "b", Attestation: keys})
		h.makes(provisioning.Change{Group: true, ID: "a", Status: signet.Disabled})
		if got, want := h.foreseen(provisioning.Change{Group: true, ID: "a"}), "denied a, admitted b; denied a, nobody; 0 loses 0 gains 0 other 1 unknown"; got != want {
			t.Errorf("which key it has is not on record: %s, want %s", got, want)
		}
	})
}

// TestForeseeWhoCameLater: of a device below a CA that is not known here, the group
// that let it in tells that no other, which was there by then, is nearer.
func TestForeseeWhoCameLater(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		long := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(72 * time.Hour) }
		root := hubtest.NewCA(t, "R", long)
		h.trust("R", root, true)
		h.enroll(signet.Enrollment{Group: true, ID: "R", Attestation: byCA("R")})
		one, two := root.Intermediate(t, "one", long), root.Intermediate(t, "two", long)
		h.assigned(h.credentials("early", one.Device(t, "early")))
		h.enroll(signet.Enrollment{Group: true, ID: "shut", Attestation: bySigner(root.Intermediate(t, "three", long)), Status: signet.Disabled})
		time.Sleep(25 * time.Hour)
		h.assigned(h.credentials("late", two.Device(t, "late")))
		disable := provisioning.Change{Group: true, ID: "R", Status: signet.Disabled}
		if got, want := h.foreseen(disable), "admitted R, denied R; 1 loses 0 gains 0 other 1 unknown"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		e, err := h.Enrollment(t.Context(), "dps", true, "shut")
		if err != nil {
			t.Fatal(err)
		}
		e.Attestation = bySigner(two)
		h.change(e)
		if got, want := h.foreseen(disable), "admitted R, denied R; 0 loses 0 gains 0 other 1 unknown"; got != want {
			t.Errorf("the group has a signer since then: %s, want %s", got, want)
		}
	})
}

// TestForeseeBounds: what is not known is said, and what is distrusted stays out.
func TestForeseeBounds(t *testing.T) {
	in(t, func(t *testing.T, h *hall) {
		root := hubtest.NewCA(t, "R")
		h.trust("R", root, true)
		i1 := root.Intermediate(t, "I0").Intermediate(t, "I1") // I0 is known to devices alone
		h.enroll(signet.Enrollment{Group: true, ID: "R", Attestation: byCA("R")})
		pair := i1.Device(t, "press")
		h.assigned(h.credentials("press", pair))
		h.enroll(signet.Enrollment{Group: true, ID: "I1", Attestation: bySigner(i1), Status: signet.Disabled})
		deletion := provisioning.Change{Group: true, ID: "I1"}
		// The device has come by R before: so R is above.
		if got, want := h.foreseen(deletion), "denied I1, unknown; 0 loses 1 gains 0 other 0 unknown"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if _, err := h.authority.Distrust(t.Context(), "dps", signet.Distrust{By: "test", Kind: signet.DistrustKey}, []*x509.Certificate{i1.Cert}); err != nil {
			t.Fatal(err)
		}
		if got, want := h.foreseen(deletion), "denied, denied; 0 loses 0 gains 0 other 0 unknown"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}
