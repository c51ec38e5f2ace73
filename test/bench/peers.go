package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/signet-iot/signet/bench"
)

// A peer is a server that the same load is put on.
type peer struct {
	name, durability string
	names            bench.Names
	loads            string // which of: connect unseen rsa resume hold publish storm established
	start            func(p *peer, dir, pki string) (*running, error)
}

// peers are in the order of the table.
var peers = []*peer{
	{name: "signet", durability: "on disk (fdatasync)", names: bench.Azure, loads: "connect unseen rsa resume hold publish storm established", start: startSignet},
	{name: "mosquitto", durability: "in memory", names: bench.Plain, loads: "connect unseen rsa hold publish storm", start: startMosquitto},
	{name: "nats-server", durability: "in a file, not synced", names: bench.Plain, loads: "connect unseen rsa hold publish storm", start: self("nats")},
	{name: "nats-server, sync always", durability: "on disk (fsync)", names: bench.Plain, loads: "publish", start: self("nats", "-always")},
	{name: "bare", durability: "nowhere", names: bench.Plain, loads: "connect unseen rsa hold publish storm established", start: self("bare")},
	{name: "bare with cached intermediates", durability: "nowhere", names: bench.Plain, loads: "connect rsa storm", start: self("bare", "-cache")},
	{name: "bare with a journal", durability: "on disk (fdatasync)", names: bench.Plain, loads: "publish", start: self("bare", "-sync")},
}

// running is a server that runs, on the first processor.
type running struct {
	cmd     *exec.Cmd
	address string // of MQTT over TLS
	https   string // of signet
	caFile  string
	data    string // folder of signet
	stderr  strings.Builder
}

// launch starts a program on the first processor and gives its standard output.
func launch(name string, args ...string) (*running, *bufio.Reader, error) {
	if _, err := exec.LookPath(name); err != nil {
		return nil, nil, exec.ErrNotFound
	}
	r := &running{cmd: exec.Command("taskset", append([]string{"-c", "0", name}, args...)...)}
	r.cmd.Stderr = &r.stderr
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	return r, bufio.NewReader(out), r.cmd.Start()
}

func (r *running) stop() {
	r.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(10*time.Second, func() { r.cmd.Process.Kill() })
	r.cmd.Wait()
	kill.Stop()
}

// pid is the server's: taskset has become the server itself.
func (r *running) pid() int { return r.cmd.Process.Pid }

// load runs "signet bench" on the second processor.
func (r *running) load(p *peer, pki string, args ...string) (bench.Result, error) {
	return r.loadAt(0, p, pki, args...)
}

// loadBelow does so when nothing else wants that processor.
func (r *running) loadBelow(p *peer, pki string, args ...string) (bench.Result, error) {
	return r.loadAt(19, p, pki, args...)
}

func (r *running) loadAt(nice int, p *peer, pki string, args ...string) (result bench.Result, err error) {
	args = append([]string{"-c", "1", "nice", "-n", strconv.Itoa(nice), *binary, "bench"}, args...)
	args = append(args, "--output", "json", "--pki", pki, "--address", r.address, "--names", string(p.names),
		"--server-pid", strconv.Itoa(r.pid()))
	if r.caFile != "" {
		args = append(args, "--ca-file", r.caFile)
	}
	cmd := exec.Command("taskset", args...)
	out, err := cmd.Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return result, fmt.Errorf("signet bench %s: %s", args[7], strings.TrimSpace(string(failed.Stderr)))
	}
	if err != nil {
		return result, err
	}
	return result, json.Unmarshal(out, &result)
}

var ready = regexp.MustCompile(`^signet: ready mqtt=(\S+) https=(\S+) `)

func startSignet(_ *peer, dir, pki string) (*running, error) {
	data := filepath.Join(dir, "data")
	r, out, err := launch(*binary, "serve", "--data", data, "--mqtt", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "off")
	if err != nil {
		return nil, err
	}
	line, _ := out.ReadString('\n')
	found := ready.FindStringSubmatch(line)
	if found == nil {
		r.stop()
		return nil, fmt.Errorf("not ready: %q %s", line, &r.stderr)
	}
	go io.Copy(io.Discard, out)
	r.address, r.https, r.data = found[1], found[2], data
	r.caFile = filepath.Join(data, "server-ca.pem")
	fleet := max(1000, *devices+established, *cut+2, *desired)
	if filepath.Base(pki) == "rsa2048" {
		fleet = 100 // those of the one load with RSA
	}
	prepare := exec.Command(*binary, "bench", "prepare", "--pki", pki, "--devices", strconv.Itoa(fleet),
		"--hub", filepath.Join(data, "owner.connection-string"), "--token-file", filepath.Join(data, "admin.token"),
		"--ca-file", r.caFile, "--address", r.https)
	if text, err := prepare.CombinedOutput(); err != nil {
		r.stop()
		return nil, fmt.Errorf("signet bench prepare: %s", text)
	}
	return r, nil
}

func startMosquitto(_ *peer, dir, pki string) (*running, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "mosquitto.conf")
	err = os.WriteFile(conf, fmt.Appendf(nil, `listener %d 127.0.0.1
cafile %[2]s/root.pem
certfile %[2]s/server.pem
keyfile %[2]s/server.key
require_certificate true
use_identity_as_username true
persistence false
max_queued_messages 1000
log_type error
user root
`, port, pki), 0o644)
	if err != nil {
		return nil, err
	}
	r, _, err := launch(mosquitto(), "-c", conf)
	if err != nil {
		return nil, err
	}
	r.address = fmt.Sprintf("127.0.0.1:%d", port)
	for range 100 {
		if c, err := net.Dial("tcp", r.address); err == nil {
			c.Close()
			return r, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.stop()
	return nil, fmt.Errorf("not ready: %s", &r.stderr)
}

// mosquitto is where the program is: Debian has it where only root looks.
func mosquitto() string {
	if path, err := exec.LookPath("mosquitto"); err == nil {
		return path
	}
	return "/usr/sbin/mosquitto"
}

// self starts a server that this program is itself.
func self(what string, flags ...string) func(*peer, string, string) (*running, error) {
	return func(_ *peer, dir, pki string) (*running, error) {
		program, err := os.Executable()
		if err != nil {
			return nil, err
		}
		args := append([]string{what, "-pki", pki}, flags...)
		switch {
		case what == "nats":
			args = append(args, "-dir", dir)
		case len(flags) > 0 && flags[0] == "-sync":
			args = append(args, filepath.Join(dir, "journal"))
		}
		r, out, err := launch(program, args...)
		if err != nil {
			return nil, err
		}
		line, _ := out.ReadString('\n')
		address, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
		if !ok {
			r.stop()
			return nil, fmt.Errorf("not ready: %q %s", line, &r.stderr)
		}
		go io.Copy(io.Discard, out)
		r.address = address
		return r, nil
	}
}

// version asks a program for its version, in its own words.
func version(program string, args ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	text, _ := exec.CommandContext(ctx, program, args...).CombinedOutput()
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}
