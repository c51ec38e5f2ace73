package main

import (
	"cmp"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// table writes what was measured, as docs/performance.md has it.
func table(rows []*row) string {
	var b strings.Builder
	x25519, sign, verify := limit()
	fmt.Fprintf(&b, "`make bench`, %s, median of %d runs: %s. The server on one core, the load (`signet bench`) on the other.\n\n",
		time.Now().UTC().Format(time.DateOnly), *runs, machine())
	columns := []struct{ title, figure, format string }{
		{"connect, µs of server CPU", "connect", "%.0f"},
		{"a path never seen", "unseen", "%.0f"},
		{"known, RSA-2048", "rsa", "%.0f"},
		{"idle connection, KiB of RSS", "hold", "%.1f"},
		{"acknowledged message, µs of server CPU", "message", "%.1f"},
		{"messages a second", "rate", "%.0f"},
		{"PUBACK p50, ms", "p50", "%.2f"},
		{fmt.Sprintf("until %d are in, s", *devices), "storm", "%.1f"},
	}
	b.WriteString("| server |")
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", c.title)
	}
	b.WriteString(" an acknowledged message is |\n|" + strings.Repeat(" --- |", len(columns)+2) + "\n")
	byName := map[string]*row{}
	line := func(name string, cell func(figure, format string) string, last string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, c := range columns {
			fmt.Fprintf(&b, " %s |", cmp.Or(cell(c.figure, c.format), "–"))
		}
		fmt.Fprintf(&b, " %s |\n", last)
	}
	for _, r := range rows {
		byName[r.peer.name] = r
		if !r.missing {
			line(r.peer.name, func(figure, format string) string {
				if len(r.figures[figure]) == 0 {
					return ""
				}
				return fmt.Sprintf(format, r.median(figure))
			}, r.peer.durability)
		}
	}
	signet := byName["signet"]
	for _, other := range []string{"mosquitto", "bare", "bare with cached intermediates", "bare with a journal"} {
		o := byName[other]
		if signet == nil || o == nil || o.missing {
			continue
		}
		line("signet ÷ "+other, func(figure, _ string) string {
			if signet.median(figure) == 0 || o.median(figure) == 0 {
				return ""
			}
			return fmt.Sprintf("**%.2f**", signet.median(figure)/o.median(figure))
		}, "")
	}
	if signet != nil && signet.median("resumed") > 0 {
		fmt.Fprintf(&b, "\nSignet besides: a connect that resumes its TLS session %.0f µs; one with the hybrid key exchange (X25519 and ML-KEM-768) %.0f µs.\n",
			signet.median("resumed"), signet.median("hybrid"))
	}
	for _, r := range rows {
		if r.median("stormy") > 0 {
			fmt.Fprintf(&b, "While %d come, %d that were there and send ten times a second wait %.0f ms (p99) for a PUBACK of %s; in the calm before %.0f.\n",
				*devices, established, r.median("stormy"), r.peer.name, r.median("calm"))
		}
		if n := r.median("retries"); n > 0 {
			fmt.Fprintf(&b, "In the storm on %s, devices had to try again %.0f times.\n", r.peer.name, n)
		}
	}
	fmt.Fprintf(&b, "\nThe limit, with Go's primitives on this machine in this run: a key exchange by X25519 takes %.0f µs, a P-256 signature %.0f, a\n"+
		"verification %.0f. A connect below intermediates that are known needs one, one and two: %.0f µs; a path never seen, two\nverifications more: %.0f µs.\n",
		x25519, sign, verify, x25519+sign+2*verify, x25519+sign+4*verify)
	return b.String()
}

// limit measures what the cryptography of a handshake must cost the server, in µs
// of processor time: the machine may do other work.
func limit() (x25519, sign, verify float64) {
	micros := func(f func()) float64 {
		const times = 5000
		before := cpu(os.Getpid())
		for range times {
			f()
		}
		return (cpu(os.Getpid()) - before) / times
	}
	peer, _ := ecdh.X25519().GenerateKey(rand.Reader)
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	digest := sha256.Sum256(nil)
	signature, _ := ecdsa.SignASN1(rand.Reader, key, digest[:])
	return micros(func() {
			own, _ := ecdh.X25519().GenerateKey(rand.Reader)
			own.ECDH(peer.PublicKey())
		}), micros(func() { ecdsa.SignASN1(rand.Reader, key, digest[:]) }),
		micros(func() { ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) })
}

// machine tells where it was measured, and with what.
func machine() string {
	read := func(name string) string { b, _ := os.ReadFile(name); return string(b) }
	cpu := "unknown processor"
	for line := range strings.Lines(read("/proc/cpuinfo")) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			cpu = strings.TrimSpace(strings.TrimLeft(name, "\t :"))
			break
		}
	}
	nats := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/nats-io/nats-server/v2" {
				nats = "nats-server " + d.Version
			}
		}
	}
	kernel := strings.TrimSpace(read("/proc/sys/kernel/osrelease"))
	load, _, _ := strings.Cut(read("/proc/loadavg"), " ")
	told := []string{fmt.Sprintf("%d cores of %s", runtime.NumCPU(), cpu), "Linux " + kernel, runtime.Version(), nats}
	if _, err := exec.LookPath(mosquitto()); err == nil {
		told = append(told, version(mosquitto(), "-h"))
	}
	return strings.Join(told, ", ") + "; load " + load + " at the end"
}

const beginMark, endMark = "<!-- make bench writes from here -->\n", "<!-- to here -->\n"

// writeTable puts the table between the marks of a file.
func writeTable(file, text string) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), beginMark)
	_, after, end := strings.Cut(rest, endMark)
	if !ok || !end {
		return errors.New(file + " has no marks for the table")
	}
	return os.WriteFile(file, []byte(before+beginMark+"\n"+text+"\n"+endMark+after), 0o644)
}
