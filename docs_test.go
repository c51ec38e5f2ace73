package signet_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/signet-iot/signet"
)

var update = flag.Bool("update", false, "write docs/verdicts.md anew")

// TestVerdictsPage holds docs/verdicts.md to the table of codes that it is made
// of. Write it anew with: go test . -run VerdictsPage -update
func TestVerdictsPage(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Verdicts\n\nEvery refusal has one of these codes. They are stable: none is renamed, none gets another meaning.\nThis page is made of `signet.Codes`.\n")
	step := signet.Step("")
	for _, c := range signet.Codes {
		if c.Step != step {
			step = c.Step
			fmt.Fprintf(&b, "\n## %s\n\n| code | means | usual fix |\n| --- | --- | --- |\n", step)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c.Code, c.Meaning, strings.ReplaceAll(c.Fix, "|", `\|`))
	}
	const page = "docs/verdicts.md"
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil || string(got) != b.String() {
		t.Errorf("%s is not what signet.Codes says; go test . -run VerdictsPage -update writes it anew (%v)", page, err)
	}
}
