package signet_test

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/signet-iot/signet"

// walls says which package must never import which, and why. "…" at the end of a
// name takes in what is below it.
var walls = []struct{ from, to, because string }{
	{"", "…", "the ground carries, it does not lean"},
	{"pki", "…", "the ground carries, it does not lean"},
	{"wire/…", "…", "the ground carries, it does not lean"},
	{"trace", "…", "the ground carries, it does not lean"},
	{"pki", "token", "pki is pure: whoever holds a key gives it a signer"},
	{"query", "…", "the ground carries, it does not lean"},
	{"egress", "…", "the ground carries, it does not lean"},
	{"gateway", "authority", "a protocol speaks to the waist, to nothing behind it"},
	{"gateway", "registry", "a protocol speaks to the waist, to nothing behind it"},
	{"gateway", "api", "the service side and the device side meet only in hub"},
	{"api", "gateway", "the service side and the device side meet only in hub"},
	{"api", "wire/…", "its wire is net/http's; that of back ends by AMQP is backend's"},
	{"gateway", "backend", "the service side and the device side meet only in hub"},
	{"backend", "gateway", "the service side and the device side meet only in hub"},
	{"backend", "api", "two doors share the rules behind them, not each other"},
	{"api", "backend", "two doors share the rules behind them, not each other"},
	{"backend", "authority", "a door states what it needs; it does not know who serves it"},
	{"backend", "registry", "a door states what it needs; it does not know who serves it"},
	{"backend", "commands", "a door states what it needs; it does not know who serves it"},
	{"backend", "limits", "a door states what it needs; it does not know who serves it"},
	{"backend", "routes", "a door states what it needs; it does not know who serves it"},
	{"hub", "backend", "the waist knows no door"},
	{"authority", "registry", "keepers are joined from above, not by each other"},
	{"registry", "authority", "keepers are joined from above, not by each other"},
	{"commands", "authority", "keepers are joined from above, not by each other"},
	{"commands", "registry", "keepers are joined from above, not by each other"},
	{"registry", "commands", "keepers are joined from above, not by each other"},
	{"authority", "commands", "keepers are joined from above, not by each other"},
	{"inventory", "authority", "keepers are joined from above, not by each other"},
	{"inventory", "registry", "keepers are joined from above, not by each other"},
	{"inventory", "commands", "keepers are joined from above, not by each other"},
	{"authority", "inventory", "keepers are joined from above, not by each other"},
	{"registry", "inventory", "keepers are joined from above, not by each other"},
	{"commands", "inventory", "keepers are joined from above, not by each other"},
	{"gateway", "inventory", "a protocol speaks to the waist, to nothing behind it"},
	{"hub", "inventory", "the waist states what it needs; it does not know who serves it"},
	{"issuance", "authority", "issuing states what it needs; it does not know who serves it"},
	{"issuance", "registry", "issuing states what it needs; it does not know who serves it"},
	{"issuance", "commands", "issuing states what it needs; it does not know who serves it"},
	{"issuance", "hub", "keepers are joined from above, not by each other"},
	{"issuance", "provisioning", "keepers are joined from above, not by each other"},
	{"authority", "issuance", "keepers are joined from above, not by each other"},
	{"registry", "issuance", "keepers are joined from above, not by each other"},
	{"hub", "issuance", "the waist states what it needs; it does not know who serves it"},
	{"provisioning", "issuance", "a journey states what it needs; it does not know who serves it"},
	{"gateway", "issuance", "a protocol speaks to the waist, to nothing behind it"},
	{"gateway", "commands", "a protocol speaks to the waist, to nothing behind it"},
	{"limits", "hub", "what is counted knows nothing of who counts"},
	{"limits", "registry", "what is counted knows nothing of who counts"},
	{"hub", "limits", "the waist states what it needs; it does not know who serves it"},
	{"api", "limits", "a door states what it needs; it does not know who serves it"},
	{"gateway", "limits", "a protocol speaks to the waist, to nothing behind it"},
	{"routes", "authority", "keepers are joined from above, not by each other"},
	{"routes", "registry", "keepers are joined from above, not by each other"},
	{"routes", "commands", "keepers are joined from above, not by each other"},
	{"routes", "api", "a route reads the log as the waist shows it, and knows no door"},
	{"routes", "gateway", "a route reads the log as the waist shows it, and knows no door"},
	{"registry", "routes", "keepers are joined from above, not by each other"},
	{"authority", "routes", "keepers are joined from above, not by each other"},
	{"commands", "routes", "keepers are joined from above, not by each other"},
	{"gateway", "routes", "a protocol speaks to the waist, to nothing behind it"},
	{"hub", "routes", "what is on the log is sent on by who reads it; the waist does not know them"},
	{"hub", "commands", "the waist states what it needs; it does not know who serves it"},
	{"registry", "pki", "identities are not certificates"},
	{"hub", "authority", "the waist states what it needs; it does not know who serves it"},
	{"hub", "registry", "the waist states what it needs; it does not know who serves it"},
	{"provisioning", "authority", "a journey states what it needs; it does not know who serves it"},
	{"provisioning", "registry", "a journey states what it needs; it does not know who serves it"},
	{"provisioning", "client", "a journey states what it needs; it does not know who serves it"},
	{"provisioning", "gateway", "a journey knows no door"},
	{"provisioning", "api", "a journey knows no door"},
	{"provisioning", "wire/…", "a journey knows no door"},
	{"provisioning", "hub", "journeys are joined from above, not by each other"},
	{"hub", "provisioning", "journeys are joined from above, not by each other"},
	{"authority", "provisioning", "keepers carry the journeys, and know none"},
	{"registry", "provisioning", "keepers carry the journeys, and know none"},
	{"client", "provisioning", "a client knows the wire, not the server behind it"},
	{"authority", "audit", "the rules do not know that they are recorded"},
	{"registry", "audit", "the rules do not know that they are recorded"},
	{"inventory", "audit", "the rules do not know that they are recorded"},
	{"issuance", "audit", "the rules do not know that they are recorded"},
	{"hub", "audit", "the rules do not know that they are recorded"},
	{"gateway", "audit", "a protocol speaks to the waist, to nothing behind it"},
	{"client", "api", "a client knows the wire, not the server behind it"},
	{"client", "hub", "a client knows the wire, not the server behind it"},
	{"bench", "client", "a load is the device's side of the wire"},
	{"bench", "server", "a load knows the wire, not the server behind it"},
	{"bench", "hub", "a load knows the wire, not the server behind it"},
	{"server", "bench", "what serves carries no load"},
}

// machines are named by the wiring alone.
var (
	machines      = []string{"store", "messaging"}
	mayNameThem   = []string{"server", "store", "messaging"}
	groundMayUse  = []string{""} // the words of the house
	foreignTongue = []struct{ path, home, because string }{
		{"database/sql", "store", "SQL has one home"},
		{"github.com/nats-io", "messaging", "NATS has one home"},
		{"github.com/spf13/cobra", "cmd/signet", "the command line has one home"},
		{"github.com/Azure/go-amqp", "test/…", "it is a client, for tests; what serves is wire/amqp"},
	}
)

type goPackage struct {
	ImportPath string
	Dir        string
	Imports    []string
	GoFiles    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func within(name, pattern string) bool {
	if below, ok := strings.CutSuffix(pattern, "…"); ok {
		return strings.HasPrefix(name, below)
	}
	return name == pattern
}

// TestWalls holds the imports to the plan of the house (ARCHITECTURE.md).
func TestWalls(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.Trim(strings.TrimPrefix(p.ImportPath, module), "/")
		for _, imported := range p.Imports {
			for _, f := range foreignTongue {
				if strings.HasPrefix(imported, f.path) && !within(from, f.home) && !strings.HasPrefix(from, "test/") && !strings.HasPrefix(from, "internal/") {
					t.Errorf("%s imports %s: %s, %s", from, imported, f.because, f.home)
				}
			}
			to, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			to = strings.Trim(to, "/")
			for _, w := range walls {
				if within(from, w.from) && within(to, w.to) && !(w.to == "…" && slices.Contains(groundMayUse, to)) {
					t.Errorf("%q imports %q: %s", from, to, w.because)
				}
			}
			if slices.Contains(machines, to) && !slices.Contains(mayNameThem, from) && !strings.HasPrefix(from, "test/") && !strings.HasPrefix(from, "internal/") {
				t.Errorf("%q imports %q: the rules must not know their machines", from, to)
			}
		}
	}
}

// TestPackageSentence: every package says once what it is for.
func TestPackageSentence(t *testing.T) {
	for _, p := range packages(t) {
		var said []string
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				said = append(said, file)
			}
		}
		if len(said) != 1 && len(p.GoFiles) > 0 {
			t.Errorf("%s: one package comment is wanted, these files have one: %v", p.ImportPath, said)
		}
	}
}
