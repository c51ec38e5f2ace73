package signet_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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

// The rows of docs/compatibility.md that name operations: in the first column, each
// as `GET, PUT /path`. There {…} is any one segment, [] is round what may be left
// out, and … at the beginning stands for a subscription, with or without a group.
var (
	tableRow     = regexp.MustCompile(`(?m)^\| ([^|]*)\|.*\| ?([^|]*)\|$`)
	rowOperation = regexp.MustCompile("`([A-Z]+(?:, [A-Z]+)*) ([/…][^` ?]*)[^`]*`")
	anySegment   = regexp.MustCompile(`\\\{[^/]+?\\\}`)
)

// TestCompatibilityPage: whatever the doors serve has a row in the page, and the
// page names no operation that is gone.
func TestCompatibilityPage(t *testing.T) {
	text, err := os.ReadFile("docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	operations, topics := served(t)
	told := map[string]bool{}
	for _, row := range tableRow.FindAllStringSubmatch(page, -1) {
		for _, o := range rowOperation.FindAllStringSubmatch(row[1], -1) {
			pattern := anySegment.ReplaceAllString(regexp.QuoteMeta(strings.TrimSuffix(o[2], "[")), `[^/]+`)
			pattern = strings.NewReplacer(`\[`, `(`, `\]`, `)?`, `…`, `/subscriptions/[^/]+(/resourceGroups/[^/]+)?/providers/Microsoft\.Devices`).Replace(pattern)
			fits := regexp.MustCompile("^" + pattern + "$")
			for method := range strings.SplitSeq(o[1], ", ") {
				found := false
				for _, operation := range operations {
					if path, ok := strings.CutPrefix(operation, method+" "); ok && fits.MatchString(path) {
						told[operation], found = true, true
					}
				}
				if !found && !strings.HasPrefix(row[2], "not served") {
					t.Errorf("the page has %s %s, which no door serves", method, o[2])
				}
			}
		}
	}
	for _, operation := range operations {
		if !told[operation] {
			t.Errorf("no row of the page is about %s", operation)
		}
	}
	for _, topic := range topics {
		if !strings.Contains(page, strings.TrimRight(topic, "?#")) {
			t.Errorf("the page does not name the topic %s", topic)
		}
	}
}

// served reads what the doors serve from their source: METHOD and path of each
// entry in their tables, and the topics that are the same for every device.
func served(t *testing.T) (operations, topics []string) {
	for dir, below := range map[string]map[string]string{
		"api":     {"operations": ""},
		"gateway": {"operations": "/devices/{device}/", "applications": "/{scope}/registrations/{registration}/"},
	} {
		names, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		var files []*ast.File
		fset := token.NewFileSet()
		for _, name := range names {
			f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(name, "_test.go") {
				files = append(files, f)
			}
		}
		known := types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
		// Of what is imported nothing is known, and nothing is wanted: constants are.
		(&types.Config{Error: func(error) {}}).Check(dir, fset, files, &known)
		text := func(e ast.Expr) string {
			if v := known.Types[e].Value; v != nil && v.Kind() == constant.String {
				return constant.StringVal(v)
			}
			return ""
		}
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BasicLit:
					if topic := text(n); strings.HasPrefix(topic, "$iothub/") || strings.HasPrefix(topic, "$dps/") {
						topics = append(topics, topic)
					}
				case *ast.ValueSpec:
					prefix, ok := below[n.Names[0].Name]
					if !ok || len(n.Values) != 1 {
						break
					}
					for _, entry := range n.Values[0].(*ast.CompositeLit).Elts {
						o := entry.(*ast.CompositeLit).Elts
						operations = append(operations, text(o[0])+" "+strings.TrimSuffix(prefix+text(o[1]), "/"))
					}
				}
				return true
			})
		}
	}
	if len(operations) < 100 || len(topics) < 10 {
		t.Fatalf("the doors serve %d operations and %d topics: they are not written as this reads them", len(operations), len(topics))
	}
	slices.Sort(operations)
	return slices.Compact(operations), topics
}

var (
	pageLink  = regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]+)?\)`)
	heading   = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInSlug = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	testName  = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w+`)
)

// TestPages: every link of the pages leads somewhere, and the tests that they name
// are there.
func TestPages(t *testing.T) {
	out, err := exec.Command("git", "ls-files", "*.md", "*_test.go").Output()
	if err != nil {
		t.Skipf("the pages cannot be listed: %v", err)
	}
	pages, slugs, tests := map[string]string{}, map[string]bool{}, ""
	for name := range strings.Lines(string(out)) {
		name = strings.TrimSpace(name)
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it is about to go
		}
		if strings.HasSuffix(name, ".go") {
			tests += string(text)
			continue
		}
		pages[name] = string(text)
		for _, h := range heading.FindAllStringSubmatch(string(text), -1) { // as GitHub makes anchors of them
			slugs[name+"#"+strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")] = true
		}
	}
	for name, text := range pages {
		for _, link := range pageLink.FindAllStringSubmatch(text, -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			to := name
			if link[1] != "" {
				to = filepath.Join(filepath.Dir(name), link[1])
			}
			if _, err := os.Stat(to); err != nil || link[2] != "" && !slugs[to+link[2]] {
				t.Errorf("%s: %s leads nowhere", name, link[0])
			}
		}
		for _, test := range testName.FindAllString(text, -1) {
			if !strings.Contains(tests, "func "+test+"(") {
				t.Errorf("%s names %s, which is not there", name, test)
			}
		}
	}
}
