// Command bench measures Signet beside its peers: the same load (signet bench),
// the same chains, in the same run, the server on one processor and the load on
// the other. It prints the table of docs/performance.md and, with -write, writes
// it there.
//
// With -cut it measures Signet alone: how soon the sessions below a distrusted
// intermediate are gone, and what their coming back does to others. With -desired,
// how soon connected devices hear of desired changes that a back end makes by REST.
// With -scale, whether its memory stays while thousands of devices send, and
// whether somebody who reads a backlog slows them.
//
// Every load is bounded in count and time; all together take some eight minutes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/signet-iot/signet/bench"
	"github.com/signet-iot/signet/pki"
)

var (
	binary  = flag.String("signet", "bin/signet", "the signet binary")
	devices = flag.Int("devices", 5000, "devices to hold and to storm, at most 20000")
	count   = flag.Int("connects", 2000, "connects to measure, at most 100000")
	publish = flag.Duration("publish", 5*time.Second, "how long to publish, at most 1m")
	runs    = flag.Int("runs", 3, "runs of which the median counts")
	only    = flag.String("only", "", "measure these peers alone, by the beginning of their names, with commas")
	loads   = flag.String("loads", "", "put these loads alone, with commas: connect, unseen, rsa, resume, hold, publish, storm, established")
	write   = flag.String("write", "", "write the table into this file, between its marks")
)

func main() {
	serve := map[string]func([]string) error{"bare": serveBare, "nats": serveNATS}
	var err error
	if len(os.Args) > 1 && serve[os.Args[1]] != nil {
		err = serve[os.Args[1]](os.Args[2:])
	} else {
		flag.Parse()
		err = run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	if *count > 100_000 || *devices > 20_000 || *publish > time.Minute || *runs < 1 || *runs > 9 {
		return errors.New("the load is beyond its bounds; see -help")
	}
	if *binary, err = filepath.Abs(*binary); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "signet-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bench.AllowFiles()
	if *cut > 0 {
		return cutLine(dir)
	}
	if *desired > 0 {
		return desiredChanges(dir)
	}
	if *scale > 0 {
		return scaleUp(dir)
	}
	pkis := map[string]string{"": filepath.Join(dir, "p256"), "rsa": filepath.Join(dir, "rsa2048")}
	for load, kind := range map[string]pki.KeyType{"": pki.P256, "rsa": pki.RSA2048} {
		if _, err := bench.OpenFleet(pkis[load], kind, 0, 1); err != nil {
			return err
		}
	}
	var rows []*row
	for _, p := range peers {
		if *only != "" && !slices.ContainsFunc(strings.Split(*only, ","), func(name string) bool { return strings.HasPrefix(p.name, name) }) {
			continue
		}
		rows = append(rows, &row{peer: p})
	}
	// Run by run, not peer by peer: what else the machine does falls on all.
	for n := range *runs {
		for _, r := range rows {
			if r.missing {
				continue
			}
			began := time.Now()
			switch err := r.measure(filepath.Join(dir, fmt.Sprint(n, strings.ReplaceAll(r.peer.name, " ", "-"))), pkis); {
			case errors.Is(err, exec.ErrNotFound):
				r.missing = true
				fmt.Fprintf(os.Stderr, "%s is not installed\n", r.peer.name)
			case err != nil:
				return fmt.Errorf("%s: %w", r.peer.name, err)
			default:
				fmt.Fprintf(os.Stderr, "run %d of %d, %s: %v\n", n+1, *runs, r.peer.name, time.Since(began).Round(time.Second))
			}
		}
	}
	text := table(rows)
	fmt.Print(text)
	if *write != "" {
		return writeTable(*write, text)
	}
	return nil
}

// A row is what was measured of a peer.
type row struct {
	peer    *peer
	missing bool
	figures map[string][]float64
}

func (r *row) add(name string, figure float64) {
	if r.figures == nil {
		r.figures = map[string][]float64{}
	}
	r.figures[name] = append(r.figures[name], figure)
}

// median of a figure; 0 when it was not measured.
func (r *row) median(name string) float64 {
	v := slices.Sorted(slices.Values(r.figures[name]))
	if len(v) == 0 {
		return 0
	}
	return v[len(v)/2]
}

// established is how many are there, and send ten times a second each, when the others
// come.
const established = 100

// measure starts the peer anew for each kind of load.
func (r *row) measure(dir string, pkis map[string]string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(dir) // a log of millions of messages
	with := func(kind string, f func(s *running) error) error {
		sub, err := os.MkdirTemp(dir, "")
		if err != nil {
			return err
		}
		s, err := r.peer.start(r.peer, sub, pkis[kind])
		if err != nil {
			return err
		}
		defer s.stop()
		if err := f(s); err != nil {
			return fmt.Errorf("%w %s", err, &s.stderr)
		}
		return nil
	}
	load := func(s *running, kind string, args ...string) (bench.Result, error) {
		return s.load(r.peer, pkis[kind], args...)
	}
	does := func(name string) bool {
		return slices.Contains(strings.Fields(r.peer.loads), name) && (*loads == "" || slices.Contains(strings.Split(*loads, ","), name))
	}
	connect := []string{"connect", "--count", fmt.Sprint(*count), "--devices", "1000"}

	if does("rsa") {
		err := with("rsa", func(s *running) error {
			result, err := load(s, "rsa", "connect", "--count", fmt.Sprint(*count/4), "--devices", "100")
			r.add("rsa", result.CPU)
			return err
		})
		if err != nil {
			return err
		}
	}
	if does("unseen") {
		err := with("", func(s *running) error {
			result, err := load(s, "", "connect", "--unseen", "--devices", fmt.Sprint(min(*count, *devices)))
			r.add("unseen", result.CPU)
			return err
		})
		if err != nil {
			return err
		}
	}
	if does("storm") && (r.peer.name != "mosquitto" || len(r.figures["storm"]) == 0) { // it takes half a minute
		err := with("", func(s *running) error {
			result, err := load(s, "", "storm", "--devices", fmt.Sprint(*devices), "--limit", "60s")
			if err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", r.peer.name, err)
				return nil // it is told in the table
			}
			r.add("storm", result.Seconds)
			r.add("retries", float64(result.Retries))
			return nil
		})
		if err != nil {
			return err
		}
	}
	if does("established") {
		err := with("", func(s *running) error {
			chat := []string{"hold", "--devices", fmt.Sprint(established), "--every", "100ms", "--for", "8s"}
			calm, err := load(s, "", chat...)
			if err != nil {
				return err
			}
			storm := make(chan error)
			go func() {
				time.Sleep(time.Second) // hold does not measure its first two
				_, err := s.loadBelow(r.peer, pkis[""], "storm", "--first", fmt.Sprint(established), "--devices", fmt.Sprint(*devices), "--limit", "60s")
				storm <- err
			}()
			stormy, err := load(s, "", chat...)
			r.add("calm", calm.P99)
			r.add("stormy", stormy.P99)
			return errors.Join(err, <-storm)
		})
		if err != nil {
			return err
		}
	}
	return with("", func(s *running) error {
		if does("hold") { // first, on memory that nothing has used
			result, err := load(s, "", "hold", "--devices", fmt.Sprint(*devices))
			if err != nil {
				return err
			}
			r.add("hold", result.RSS)
		}
		if does("connect") {
			result, err := load(s, "", connect...)
			if err != nil {
				return err
			}
			r.add("connect", result.CPU)
			r.add("connect p50", result.P50)
		}
		if does("resume") {
			for name, extra := range map[string][]string{"resumed": {"--resume"}, "hybrid": {"--key-exchange", "hybrid"}} {
				result, err := load(s, "", append(connect, extra...)...)
				if err != nil {
					return err
				}
				r.add(name, result.CPU)
			}
		}
		if does("publish") {
			result, err := load(s, "", "publish", "--for", publish.String(), "--devices", "100")
			if err != nil {
				return err
			}
			r.add("message", result.CPU)
			r.add("rate", result.PerSecond)
			r.add("p50", result.P50)
			r.add("p99", result.P99)
		}
		return nil
	})
}
