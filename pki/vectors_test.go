package pki

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
)

// vectorDir holds the public test sets; see its README for what they mean.
const vectorDir = "../../shared/testdata"

// A vector is one case of a public test set.
type vector struct {
	id, class, expect    string
	trusted, presented   []*x509.Certificate // presented: the leaf first
	crls                 []*x509.RevocationList
	time                 time.Time
	usage                Usage
	depth                int
	limit                time.Duration
	unreadable           error // a certificate that crypto/x509 does not parse: a refusal
	needsInitialPolicies bool  // asks for policy inputs that Validate does not have
}

func (v *vector) validate(a *Anchors) ([]*x509.Certificate, error) {
	if v.unreadable != nil {
		return nil, v.unreadable
	}
	return a.Validate(PathRequest{
		Chain: v.presented, Time: v.time, Usage: v.usage, MaxDepth: v.depth, CRLs: v.crls,
		MaxPresented: 1 + len(v.presented),
	})
}

// TestVectors holds Validate to the public test sets: every case that counts has
// its answer, no case of any class is wrongly accepted except in class strict,
// and the cache of issuers changes no answer.
func TestVectors(t *testing.T) {
	type tally struct{ right, refused, accepted int }
	for _, set := range []string{"limbo-dev.json", "bettertls-pathbuilding-dev.json", "bettertls-nameconstraints-dev.json", "pkits"} {
		t.Run(strings.TrimSuffix(set, ".json"), func(t *testing.T) {
			classes := map[string]*tally{}
			for _, v := range readVectors(t, set) {
				if v.needsInitialPolicies {
					continue
				}
				c := classes[v.class]
				if c == nil {
					c = &tally{}
					classes[v.class] = c
				}
				anchors := NewAnchors(v.trusted)
				start := time.Now()
				path, err := v.validate(anchors)
				took := time.Since(start)
				checkAnswer(t, v, path, err)
				if _, again := v.validate(anchors); signet.CodeOf(again) != signet.CodeOf(err) {
					t.Errorf("%s: cold %v, warm %v", v.id, err, again)
				}
				if v.limit > 0 && took > v.limit {
					t.Errorf("%s: took %v, limit %v", v.id, took, v.limit)
				}
				ok := err == nil
				counts := v.class != "strict" && v.class != "feature" && v.class != "crlx"
				switch {
				case ok == (v.expect == "ok"):
					c.right++
				case ok:
					c.accepted++
					if v.class != "strict" {
						t.Errorf("%s (%s): wrongly accepted", v.id, v.class)
					}
				default:
					c.refused++
					if counts {
						t.Errorf("%s (%s): wrongly refused: %v", v.id, v.class, err)
					}
				}
			}
			for class, c := range classes {
				t.Logf("%-8s right %3d, wrongly accepted %d, wrongly refused %d", class, c.right, c.accepted, c.refused)
			}
		})
	}
}

// checkAnswer holds whatever the answer is to what every answer must be.
func checkAnswer(t *testing.T, v *vector, path []*x509.Certificate, err error) {
	t.Helper()
	if err == nil {
		if len(path) < 2 || !path[0].Equal(v.presented[0]) {
			t.Errorf("%s: path of %d certificates, not from the leaf", v.id, len(path))
		}
		return
	}
	if v.unreadable != nil {
		return
	}
	e, ok := errors.AsType[*signet.Error](err)
	if !ok || e.Code == signet.Internal || e.Message == "" || e.Fix == "" {
		t.Errorf("%s: refusal without code, sentence or fix: %#v", v.id, err)
		return
	}
	if e.Certificate == nil && e.Code != signet.LimitChainBytes && e.Code != signet.ChainTooLong {
		t.Errorf("%s: %v names no certificate", v.id, e)
	}
}

func readVectors(t testing.TB, set string) []*vector {
	t.Helper()
	if _, err := os.Stat(vectorDir); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("no public test sets at %s", vectorDir)
	}
	if set == "pkits" {
		return readPKITS(t)
	}
	var file struct {
		Cases []struct {
			ID, Class, Leaf, Expect      string
			Trusted, Intermediates, CRLs []string
			Time                         time.Time
			Usage                        Usage
			MaxDepth                     *int `json:"max_depth"`
			LimitMS                      int  `json:"limit_ms"`
		}
	}
	readJSON(t, set, &file)
	var all []*vector
	for _, c := range file.Cases {
		v := &vector{id: c.ID, class: c.Class, expect: c.Expect, time: c.Time, usage: c.Usage, depth: -1,
			limit: time.Duration(c.LimitMS) * time.Millisecond}
		if c.MaxDepth != nil {
			v.depth = *c.MaxDepth
		}
		for _, text := range c.Trusted {
			v.trusted = v.parse(v.trusted, fromPEM(text))
		}
		for _, text := range append([]string{c.Leaf}, c.Intermediates...) {
			v.presented = v.parse(v.presented, fromPEM(text))
		}
		for _, text := range c.CRLs {
			v.parseCRL(fromPEM(text))
		}
		all = append(all, v)
	}
	return all
}

func readPKITS(t testing.TB) []*vector {
	t.Helper()
	var cases []struct {
		Name, Class, Expect string
		Chain, CRLs         []string
		Time                time.Time
		Policy              map[string]any
	}
	readJSON(t, "pkits/index.json", &cases)
	read := func(name string) []byte {
		der, err := os.ReadFile(filepath.Join(vectorDir, "pkits", name))
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	var all []*vector
	for _, c := range cases {
		v := &vector{id: c.Name, class: c.Class, expect: c.Expect, time: c.Time, usage: UsageAny, depth: -1,
			needsInitialPolicies: len(c.Policy) > 0, crls: []*x509.RevocationList{}}
		v.trusted = v.parse(nil, read("certs/"+c.Chain[0]))
		for i := len(c.Chain) - 1; i > 0; i-- {
			v.presented = v.parse(v.presented, read("certs/"+c.Chain[i]))
		}
		for _, name := range c.CRLs {
			v.parseCRL(read("crls/" + name))
		}
		all = append(all, v)
	}
	return all
}

func (v *vector) parse(to []*x509.Certificate, der []byte) []*x509.Certificate {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		v.unreadable = signet.Refuse(signet.ChainMalformed, "%v", err)
		return to
	}
	return append(to, c)
}

// parseCRL keeps a CRL that can be read; one that cannot covers nothing.
func (v *vector) parseCRL(der []byte) {
	if v.crls == nil {
		v.crls = []*x509.RevocationList{}
	}
	if crl, err := x509.ParseRevocationList(der); err == nil {
		v.crls = append(v.crls, crl)
	}
}

func fromPEM(text string) []byte {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil
	}
	return block.Bytes
}

func readJSON(t testing.TB, name string, to any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(vectorDir, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, to); err != nil {
		t.Fatal(fmt.Errorf("%s: %w", name, err))
	}
}
