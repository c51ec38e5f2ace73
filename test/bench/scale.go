package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/signet-iot/signet/bench"
	"github.com/signet-iot/signet/pki"
)

var (
	scale   = flag.Int("scale", 0, "instead: so many connected devices with telemetry, at most 20000, and a backlog that is read")
	lasting = flag.Duration("lasting", 3*time.Minute, "how long they send, each every two seconds: 3m is a quarter of an hour of every ten seconds")
	backlog = flag.Int("backlog", 1_000_000, "messages that wait to be read, at most 5000000")
)

const (
	// flat is what resident memory may grow while devices send: the heap breathes.
	flat = 1.25
	// slowed is what acknowledgements may be slowed by somebody who reads.
	slowed = 1.2
)

// scaleUp holds a fleet that sends, and looks whether memory stays; then has a
// backlog read while devices send, and looks whether they wait longer.
func scaleUp(dir string) error {
	if *scale > 20_000 || *lasting > bench.MaxTime || *backlog > 5_000_000 {
		return errors.New("the load is beyond its bounds; see -help")
	}
	*devices = *scale
	folder := filepath.Join(dir, "pki")
	if _, err := bench.OpenFleet(folder, pki.P256, 0, 1); err != nil {
		return err
	}
	p := peers[0]
	s, err := startSignet(p, dir, folder)
	if err != nil {
		return err
	}
	defer s.stop()

	held, err := s.load(p, folder, "hold", "--devices", strconv.Itoa(*scale), "--every", "2s", "--for", lasting.String())
	if err != nil {
		return err
	}
	fmt.Printf("%d devices, each a message every 2 s for %v: %d acknowledged, p50 %.1f ms, p99 %.1f ms; %.1f µs of server CPU each\n",
		*scale, *lasting, held.Operations, held.P50, held.P99, held.CPU)
	fmt.Printf("  resident: %.0f MiB after a quarter of the time, %.0f at the end; %.1f KiB a connection\n", held.RSSBegin, held.RSSEnd, held.RSS)

	for sent := held.Operations; sent < *backlog; {
		r, err := s.load(p, folder, "publish", "--window", "64", "--for", "5s")
		if err != nil {
			return err
		}
		sent += r.Operations
	}
	alone, err := s.steady(p, folder)
	if err != nil {
		return err
	}
	// It shares its processor with the devices, and steps back for them.
	monitor := exec.Command("taskset", "-c", "1", "nice", "-n", "19", *binary, "monitor", "--follow=false", "--output", "json",
		"--hub", filepath.Join(s.data, "owner.connection-string"), "--ca-file", s.caFile, "--address", s.https)
	out, err := monitor.StdoutPipe()
	if err != nil {
		return err
	}
	if err := monitor.Start(); err != nil {
		return err
	}
	began := time.Now()
	read := make(chan int)
	go func() {
		var n int
		buf := make([]byte, 1<<16)
		for {
			m, err := out.Read(buf)
			n += bytes.Count(buf[:m], []byte("\n"))
			if err == io.EOF || err != nil {
				read <- n
				return
			}
		}
	}()
	beside, err := s.steady(p, folder)
	if err != nil {
		return err
	}
	n := <-read
	took := time.Since(began)
	if err := monitor.Wait(); err != nil {
		return err
	}
	fmt.Printf("%d messages read in %v, while 200 devices sent ten times a second: acknowledged after %.2f ms (p50), %.2f (p99); alone %.2f, %.2f\n",
		n, took.Round(100*time.Millisecond), beside.P50, beside.P99, alone.P50, alone.P99)
	switch {
	case held.RSSEnd > flat*held.RSSBegin:
		return fmt.Errorf("memory grew from %.0f to %.0f MiB", held.RSSBegin, held.RSSEnd)
	case beside.P50 > slowed*alone.P50:
		return fmt.Errorf("who reads slows acknowledgements from %.2f to %.2f ms", alone.P50, beside.P50)
	}
	return nil
}

// steady has 200 devices send ten times a second for ten seconds.
func (r *running) steady(p *peer, folder string) (bench.Result, error) {
	return r.load(p, folder, "hold", "--devices", "200", "--every", "100ms", "--for", "10s")
}
