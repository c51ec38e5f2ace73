package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// process is the server's, as /proc shows it: nothing of 0, nor of one that is
// not there.
type process int

// cpu is the processor time that it has taken, in µs, by ticks of 10 ms.
func (p process) cpu() float64 {
	text := p.read("stat")
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) * 10_000
}

// rss is its resident memory in KiB.
func (p process) rss() float64 {
	for line := range strings.Lines(p.read("status")) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return kib
		}
	}
	return 0
}

func (p process) read(name string) string {
	if p == 0 {
		return ""
	}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p, name))
	return string(b)
}
