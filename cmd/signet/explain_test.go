package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
)

// oneCase is a good case, as a line of explain --stdin holds it. It is the same
// in every process, since those that fuzz share their inputs.
func oneCase(t testing.TB) map[string]any {
	t.Helper()
	at := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	sign := func(seed byte, change func(*x509.Certificate), parent *x509.Certificate, by ed25519.PrivateKey) (*x509.Certificate, ed25519.PrivateKey) {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(seed)), NotBefore: at, NotAfter: at.AddDate(0, 0, 30), BasicConstraintsValid: true}
		change(template)
		if parent == nil {
			parent, by = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	root, key := sign(1, func(c *x509.Certificate) { c.Subject.CommonName, c.IsCA = "Root", true }, nil, nil)
	device, _ := sign(2, func(c *x509.Certificate) {
		c.Subject.CommonName, c.ExtKeyUsage = "device-1", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}, root, key)
	return map[string]any{
		"id": "case", "time": at, "usage": "client",
		"trusted": []string{string(certificatesPEM(root))},
		"leaf":    string(certificatesPEM(device)),
	}
}

func line(t testing.TB, c map[string]any) string {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

// answers runs explain --stdin over the lines.
func answers(t testing.TB, lines string) []explainAnswer {
	t.Helper()
	var out bytes.Buffer
	if err := explainLines(strings.NewReader(lines), &out); err != nil {
		t.Fatal(err)
	}
	var all []explainAnswer
	for d := json.NewDecoder(&out); d.More(); {
		var a explainAnswer
		if err := d.Decode(&a); err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

func TestExplainLines(t *testing.T) {
	with := func(field string, value any) string {
		c := oneCase(t)
		c[field] = value
		return line(t, c)
	}
	const junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
	tests := []struct {
		name, line, id string
		code           signet.Code // empty: accepted
	}{
		{"a good case", with("ignored", 1), `"case"`, ""},
		{"an ID that is a number", with("id", 7), "7", ""},
		{"no usage", with("usage", ""), `"case"`, ""},
		{"no limit of depth", with("max_depth", nil), `"case"`, ""},
		{"depth 0", with("max_depth", 0), `"case"`, ""},
		{"an unknown usage", with("usage", "code"), `"case"`, signet.RequestMalformed},
		{"for servers", with("usage", "server"), `"case"`, signet.CertExtKeyUsage},
		{"for anything", with("usage", "any"), `"case"`, ""},
		{"long ago", with("time", "2001-01-01T00:00:00Z"), `"case"`, signet.CertNotYetValid},
		{"nothing trusted", with("trusted", []string{}), `"case"`, signet.ChainIssuerMissing},
		{"no leaf", with("leaf", ""), `"case"`, signet.ChainMalformed},
		{"an unreadable leaf", with("leaf", junk), `"case"`, signet.ChainMalformed},
		{"an unreadable anchor alone", with("trusted", []string{junk}), `"case"`, signet.ChainMalformed},
		{"an unreadable intermediate that is not needed", with("intermediates", []string{junk}), `"case"`, ""},
		{"an unreadable CRL", with("crls", []string{"junk"}), `"case"`, signet.CertRevocationUnknown},
		{"initial policies", with("policy", map[string]any{"explicit": true}), `"case"`, signet.RequestMalformed},
		{"too many intermediates", with("intermediates", make([]string, 300)), `"case"`, signet.LimitPathWork},
		{"no JSON", "explain this\n", "null", signet.RequestMalformed},
		{"an array", "[]\n", "null", signet.RequestMalformed},
		{"a wrong type", with("trusted", "all"), `"case"`, signet.RequestMalformed},
		{"more than 8 MiB", strings.Repeat(" ", maxExplainLine+2) + "\n", "null", signet.RequestMalformed},
		{"just 8 MiB", strings.Repeat(" ", maxExplainLine-1) + "1\n", "null", signet.RequestMalformed},
	}
	var lines strings.Builder
	for _, test := range tests {
		lines.WriteString("\n" + test.line) // blank lines are passed over
	}
	got := answers(t, strings.TrimSuffix(lines.String(), "\n")) // the last line may lack its end
	if len(got) != len(tests) {
		t.Fatalf("%d answers to %d lines", len(got), len(tests))
	}
	for i, test := range tests {
		a := got[i]
		id := string(a.ID)
		if a.Code != test.code || a.OK != (test.code == "") || a.Reason == "" || id != test.id {
			t.Errorf("%s: %s ok %t, code %q, reason %q; want %s, code %q", test.name, id, a.OK, a.Code, a.Reason, test.id, test.code)
		}
	}
}

// TestExplainVectors runs a public test set through the lines as it stands: the
// classes that count have their answers.
func TestExplainVectors(t *testing.T) {
	text, err := os.ReadFile("../../../shared/testdata/limbo-dev.json")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("no public test sets at ../shared/testdata")
	}
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Cases []map[string]any }
	if err := json.Unmarshal(text, &set); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, c := range set.Cases {
		lines.WriteString(line(t, c))
	}
	got := answers(t, lines.String())
	if len(got) != len(set.Cases) {
		t.Fatalf("%d answers to %d cases", len(got), len(set.Cases))
	}
	for i, c := range set.Cases {
		if class := c["class"]; class == "strict" || class == "feature" {
			continue
		}
		if got[i].OK != (c["expect"] == "ok") {
			t.Errorf("%s: want %s, got %+v", c["id"], c["expect"], got[i])
		}
	}
}

// FuzzExplainLine: whatever the line, it is answered, and only a case that holds
// the trusted CA and its device is accepted.
func FuzzExplainLine(f *testing.F) {
	good := oneCase(f)
	block := fromPEM(f, good["leaf"].(string))
	f.Add([]byte(line(f, good)))
	f.Add([]byte(`{"id":1,"trusted":["-----BEGIN CERTIFICATE-----"],"max_depth":-1,"crls":[""]}`))
	f.Add([]byte(`{"leaf":null,"time":"2026-13-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		a := explainLine(text)
		if a.Reason == "" || a.OK != (a.Code == "") {
			t.Fatalf("no verdict: %+v", a)
		}
		if a.Code == signet.Internal {
			t.Fatalf("failed: %+v", a)
		}
		if _, err := json.Marshal(a); err != nil {
			t.Fatal(err)
		}
		if a.OK {
			var c explainCase
			if json.Unmarshal(text, &c) != nil || !bytes.Equal(fromPEM(t, c.Leaf), block) {
				t.Fatal("accepted what nobody signed")
			}
		}
	})
}

func fromPEM(t testing.TB, text string) []byte {
	t.Helper()
	cert, err := parseCertificate("the text", text)
	if err != nil {
		t.Fatal(err)
	}
	return cert.Raw
}
