package pki

import (
	"crypto/x509"
	"slices"
	"testing"

	"github.com/signet-iot/signet"
)

// TestKnownCompletes: what is known stands in for what a device leaves out, and
// for nothing else.
func TestKnownCompletes(t *testing.T) {
	s := newSupplyChain(t, changes{})
	stranger := newSupplyChain(t, changes{}) // the same names, other keys
	expired := newParty(t, s.factory, "Line", true, func(c *x509.Certificate) { c.NotAfter = noon.AddDate(0, 0, -1).Add(1) })
	ofExpired := newParty(t, expired, "device-1", false, nil)
	for _, test := range []struct {
		name    string
		known   []*party
		chain   []*party
		refused signet.Code
	}{
		{"the leaf alone", []*party{s.line, s.factory}, []*party{s.device}, ""},
		{"known in any order", []*party{s.factory, s.line}, []*party{s.device}, ""},
		{"the middle left out", []*party{s.line}, []*party{s.device, s.factory}, ""},
		{"the top left out", []*party{s.factory}, []*party{s.device, s.line}, ""},
		{"not enough is known", []*party{s.line}, []*party{s.device}, signet.ChainIssuerMissing},
		{"nothing is known", nil, []*party{s.device}, signet.ChainIssuerMissing},
		{"known beside one of the same name", []*party{stranger.line, s.line, stranger.factory, s.factory}, []*party{s.device}, ""},
		{"one of the same name alone", []*party{stranger.line, s.factory}, []*party{s.device}, signet.CertBadSignature},
		{"what is known is no anchor", []*party{stranger.line, stranger.factory, stranger.root}, []*party{stranger.device}, signet.ChainUntrusted},
		{"what is known has to be valid", []*party{expired, s.factory}, []*party{ofExpired}, signet.CertExpired},
		{"whole without", []*party{s.line, s.factory}, []*party{s.device, s.line, s.factory}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := NewAnchors(certificates(s.root), certificates(test.known...)...)
			for _, turn := range []string{"first", "again"} { // from the cache
				path, err := a.Validate(PathRequest{Chain: certificates(test.chain...), Time: noon, Usage: UsageClient, MaxDepth: -1})
				if code := signet.CodeOf(err); code != test.refused {
					t.Fatalf("%s: %q (%v), want %q", turn, code, err, test.refused)
				}
				if err != nil {
					continue
				}
				if want := certificates(s.device, s.line, s.factory, s.root); !slices.EqualFunc(path, want, (*x509.Certificate).Equal) {
					t.Fatalf("%s: another path: %v", turn, path)
				}
			}
		})
	}
}

// TestKnownIsNotRemembered: what one device has sent completes no other's path.
func TestKnownIsNotRemembered(t *testing.T) {
	s := newSupplyChain(t, changes{})
	other := newParty(t, s.line, "device-2", false, nil)
	a := NewAnchors(certificates(s.root), s.line.Certificate)
	if _, err := a.Validate(s.request()); err != nil {
		t.Fatal(err)
	}
	r := s.request()
	r.Chain = certificates(other)
	if _, err := a.Validate(r); signet.CodeOf(err) != signet.ChainIssuerMissing {
		t.Fatalf("factory was sent by another device alone: %v", err)
	}
	r.Chain = certificates(other, s.factory)
	if _, err := a.Validate(r); err != nil {
		t.Fatal(err)
	}
}

// TestKnownIsRejected: whoever may refuse a path sees what completed it.
func TestKnownIsRejected(t *testing.T) {
	s := newSupplyChain(t, changes{})
	a := NewAnchors(certificates(s.root), certificates(s.line, s.factory)...)
	r := s.request()
	r.Chain = r.Chain[:1]
	for range 2 {
		if _, err := a.Validate(r); err != nil { // remembered from the second time on
			t.Fatal(err)
		}
	}
	r.Reject = func(path []*x509.Certificate) *signet.Error {
		if slices.ContainsFunc(path, s.line.Equal) {
			return signet.Refuse(signet.CertRevoked, "No.")
		}
		return nil
	}
	if _, err := a.Validate(r); signet.CodeOf(err) != signet.CertRevoked {
		t.Fatalf("%v", err)
	}
}
