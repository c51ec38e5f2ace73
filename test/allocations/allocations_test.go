// Package allocations holds the parts that every device goes through to what they
// allocate. Time is the machine's; allocations are the program's own, and one that
// comes is seen here before it is felt.
package allocations

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "record what is measured")

const recorded = "recorded.txt"

// parts are the benchmarks that are held, by package.
var parts = []struct{ pkg, bench string }{
	{"pki", "Validate/(cold|warm)"},
	{"hub", "Connect"},
	{"gateway", "Parts"},
	{"messaging", "Encode|Decode"},
	{"registry", "TwinPatch"},
	{"wire/mqtt", "Publish/signet"},
}

var result = regexp.MustCompile(`^Benchmark(\S+?)(-\d+)?\s+\d+\s.*\s(\d+) allocs/op$`)

// TestAllocations fails when an operation allocates more than was recorded. With
// -update it records: after a change that is worth it, or that saves some.
func TestAllocations(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs benchmarks")
	}
	before := read(t)
	var now []string
	for _, p := range parts {
		// Often enough that what is allocated once, or grows now and then, is no
		// more than a fraction.
		out, err := exec.Command("go", "test", "../../"+p.pkg, "-run", "^$", "-bench", p.bench, "-benchmem", "-benchtime", "2000x", "-cpu", "1").CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", p.pkg, err, out)
		}
		found := false
		for line := range strings.Lines(string(out)) {
			m := result.FindStringSubmatch(strings.TrimSpace(line))
			if m == nil {
				continue
			}
			found = true
			name := p.pkg + "." + m[1]
			n, _ := strconv.Atoi(m[3])
			now = append(now, fmt.Sprintf("%s %d", name, n))
			most, known := before[name]
			switch slack := most/50 + 1; { // a goroutine or a buffer of a pool, more or less
			case *update:
			case !known:
				t.Errorf("%s is not recorded: go test ./test/allocations -update", name)
			case n > most+slack:
				t.Errorf("%s allocates %d times, and did %d times. If that is worth it: go test ./test/allocations -update", name, n, most)
			case n < most-slack:
				t.Logf("%s allocates %d times, and did %d times: go test ./test/allocations -update", name, n, most)
			}
		}
		if !found {
			t.Errorf("%s has no benchmark %s", p.pkg, p.bench)
		}
	}
	if *update {
		slices.Sort(now)
		if err := os.WriteFile(recorded, []byte(strings.Join(now, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile(recorded)
	if err != nil && !*update {
		t.Fatal(err)
	}
	all := map[string]int{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, n, _ := strings.Cut(lines.Text(), " ")
		all[name], _ = strconv.Atoi(n)
	}
	return all
}
