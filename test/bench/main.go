// Command bench measures Signet beside mosquitto: the same load, the same chain,
// in the same run, the server on one processor and the load on the other.
//
//	connect   server CPU for an authenticated connect and disconnect: TLS 1.3,
//	          P-256, leaf and two intermediates, full handshakes
//	hold      resident memory for an idle connection
//	publish   server CPU for an acknowledged QoS 1 message of 256 bytes, from 100
//	          devices that each wait for the PUBACK before the next
//
// With -cut it measures Signet alone: how soon the sessions below a distrusted
// intermediate are gone, and what their coming back does to others.
//
// mosquitto keeps messages in memory; Signet has them on disk (fsync) before it
// acknowledges. Every load is bounded in count and time.
package main

import (
	"bufio"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/wire/mqtt"
)

var (
	binary   = flag.String("signet", "bin/signet", "the signet binary")
	connects = flag.Int("connects", 2000, "connects to measure, at most 100000")
	hold     = flag.Int("hold", 10000, "idle connections to hold, at most 20000")
	publish  = flag.Duration("publish", 5*time.Second, "how long to publish, at most 1m")
	runs     = flag.Int("runs", 3, "runs of which the median counts")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	if *connects > 100_000 || *hold > 20_000 || *publish > time.Minute || *runs > 9 {
		return errors.New("the load is beyond its bounds; see -help")
	}
	dir, err := os.MkdirTemp("", "signet-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var limit syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	limit.Cur = limit.Max
	syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	pinSelf()
	if *cut > 0 {
		return cutLine(dir)
	}

	all, err := newFleet(dir, max(*hold, 100))
	if err != nil {
		return err
	}
	fmt.Printf("%-10s %14s %14s %16s %12s  %s\n", "server", "connect µs CPU", "hold KiB RSS", "publish µs CPU", "acks/s", "an acknowledged message is")
	for _, p := range []struct {
		name, durability string
		start            func(dir string, f *fleet) (*peer, error)
	}{
		{"signet", "on disk (fsync)", startSignet},
		{"mosquitto", "in memory", startMosquitto},
	} {
		var connect, rss, message, rate []float64
		for n := range *runs {
			sub := filepath.Join(dir, fmt.Sprint(p.name, n))
			if err := os.Mkdir(sub, 0o755); err != nil {
				return err
			}
			s, err := p.start(sub, all)
			if errors.Is(err, exec.ErrNotFound) {
				fmt.Printf("%-10s not installed\n", p.name)
				break
			}
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			err = errors.Join(
				add(&connect)(s.connect(all)),
				add(&rss)(s.hold(all)),
				s.publish(all, &message, &rate),
			)
			s.stop()
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
		if len(rate) > 0 {
			fmt.Printf("%-10s %14.0f %14.1f %16.1f %12.0f  %s\n", p.name, median(connect), median(rss), median(message), median(rate), p.durability)
		}
	}
	return nil
}

func add(to *[]float64) func(float64, error) error {
	return func(v float64, err error) error { *to = append(*to, v); return err }
}

func median(v []float64) float64 { slices.Sort(v); return v[len(v)/2] }

// fleet is the devices and what signs them.
type fleet struct {
	root    string // PEM file
	factory *pki.CA
	pairs   []tls.Certificate // signed by a line of the factory's
	// the server's certificate, for peers that do not make their own
	serverCert, serverKey string
	roots                 *x509.CertPool
}

func newFleet(dir string, size int) (*fleet, error) {
	now := time.Now()
	newKey := func() crypto.Signer {
		k, err := pki.GenerateKey(pki.P256)
		if err != nil {
			panic(err)
		}
		return k
	}
	root, err := pki.NewRoot("Bench Root", newKey(), now, 10)
	if err != nil {
		return nil, err
	}
	f := &fleet{root: filepath.Join(dir, "root.pem"), serverCert: filepath.Join(dir, "server.pem"), serverKey: filepath.Join(dir, "server.key"), roots: x509.NewCertPool()}
	ca := root
	for _, name := range []string{"Factory", "Line"} {
		f.factory = ca
		key := newKey()
		chain, err := ca.Intermediate(name, key.Public(), pki.NoPathLength, now, 9)
		if err != nil {
			return nil, err
		}
		if ca, err = pki.OpenCA(chain[0], chain, key); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(f.root, certPEM(root.Certificate), 0o644); err != nil {
		return nil, err
	}
	key := newKey() // one for all: what is measured is the server
	for n := range size {
		chain, err := ca.Device(deviceID(n), key.Public(), now, 8)
		if err != nil {
			return nil, err
		}
		pair := tls.Certificate{PrivateKey: key, Leaf: chain[0]}
		for _, c := range chain {
			pair.Certificate = append(pair.Certificate, c.Raw)
		}
		f.pairs = append(f.pairs, pair)
	}
	// mosquitto's own certificate: a P-256 leaf, as Signet makes for itself.
	own, err := pki.NewRoot("localhost", key, now, 10)
	if err != nil {
		return nil, err
	}
	f.roots.AddCert(own.Certificate)
	keyPEM, err := pki.MarshalKey(key, nil)
	if err != nil {
		return nil, err
	}
	return f, errors.Join(os.WriteFile(f.serverCert, certPEM(own.Certificate), 0o644), os.WriteFile(f.serverKey, keyPEM, 0o644))
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func deviceID(n int) string { return fmt.Sprintf("bench-%05d", n) }

// peer is one server under load.
type peer struct {
	cmd     *exec.Cmd
	address string
	conf    *tls.Config
	back    *client.Client // of signet
	stderr  strings.Builder
}

// start runs a server on the first processor.
func start(stdout bool, name string, args ...string) (*peer, *bufio.Reader, error) {
	if _, err := exec.LookPath(name); err != nil {
		return nil, nil, exec.ErrNotFound
	}
	p := &peer{cmd: exec.Command("taskset", append([]string{"-c", "0", name}, args...)...)}
	p.cmd.Stderr = &p.stderr
	var out io.Reader
	if stdout {
		var err error
		if out, err = p.cmd.StdoutPipe(); err != nil {
			return nil, nil, err
		}
	}
	if err := p.cmd.Start(); err != nil {
		return nil, nil, err
	}
	return p, bufio.NewReader(out), nil
}

var ready = regexp.MustCompile(`^signet: ready mqtt=(\S+) https=(\S+) `)

func startSignet(dir string, f *fleet) (*peer, error) {
	path, err := filepath.Abs(*binary)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	p, out, err := start(true, path, "serve", "--data", data, "--mqtt", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "off")
	if err != nil {
		return nil, err
	}
	line, _ := out.ReadString('\n')
	found := ready.FindStringSubmatch(line)
	if found == nil {
		p.stop()
		return nil, fmt.Errorf("not ready: %q %s", line, &p.stderr)
	}
	read := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(data, name))
		return strings.TrimSpace(string(b))
	}
	p.address = found[1]
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(read("server-ca.pem")))
	p.conf = &tls.Config{RootCAs: roots, ServerName: "localhost"}

	c, err := client.New(client.Options{
		ConnectionString: read("owner.connection-string"), Token: read("admin.token"),
		Address: found[2], CAFile: filepath.Join(data, "server-ca.pem"),
	})
	if err != nil {
		return nil, err
	}
	p.back = c
	ctx := context.Background()
	root, err := os.ReadFile(f.root)
	if err != nil {
		return nil, err
	}
	if _, err := c.RegisterCertificate(ctx, "bench", string(root), true, ""); err != nil {
		return nil, err
	}
	for n := 0; n < len(f.pairs); n += 100 {
		var some []client.Device
		for i := n; i < min(n+100, len(f.pairs)); i++ {
			some = append(some, client.Device{DeviceID: deviceID(i), Authentication: client.Authentication{Type: "certificateAuthority"}})
		}
		if err := c.CreateDevices(ctx, some); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func startMosquitto(dir string, f *fleet) (*peer, error) {
	name := "mosquitto"
	if _, err := exec.LookPath(name); err != nil {
		name = "/usr/sbin/mosquitto"
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	l.Close()
	conf := filepath.Join(dir, "mosquitto.conf")
	err = os.WriteFile(conf, fmt.Appendf(nil, `listener %s 127.0.0.1
cafile %s
certfile %s
keyfile %s
require_certificate true
use_identity_as_username true
persistence false
max_queued_messages 1000
log_type error
user root
`, address[strings.LastIndexByte(address, ':')+1:], f.root, f.serverCert, f.serverKey), 0o644)
	if err != nil {
		return nil, err
	}
	p, _, err := start(false, name, "-c", conf)
	if err != nil {
		return nil, err
	}
	p.address, p.conf = address, &tls.Config{RootCAs: f.roots, ServerName: "localhost", InsecureSkipVerify: true} // its leaf is its own CA
	for range 100 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return p, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.stop()
	return nil, fmt.Errorf("not ready: %s", &p.stderr)
}

func (p *peer) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	time.AfterFunc(10*time.Second, func() { p.cmd.Process.Kill() })
	p.cmd.Wait()
}

// pinSelf puts the load on the second processor, if there is one.
func pinSelf() { exec.Command("taskset", "-apc", "1", strconv.Itoa(os.Getpid())).Run() }

// cpu is the processor time that the server has taken, in µs. taskset has become
// the server itself, so the process is the one that was started.
func (p *peer) cpu() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) * 10_000 // ticks of 10 ms
}

func (p *peer) rss() float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return kib
		}
	}
	return 0
}

// dial connects device n as far as its CONNACK.
func (p *peer) dial(f *fleet, n int) (*tls.Conn, *mqtt.Reader, error) {
	conf := p.conf.Clone()
	conf.Certificates = []tls.Certificate{f.pairs[n]}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 30 * time.Second}, "tcp", p.address, conf)
	if err != nil {
		return nil, nil, err
	}
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	_, err = c.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, CleanSession: true, KeepAlive: 1100,
		ClientID: deviceID(n), HasUsername: true, Username: "localhost/" + deviceID(n) + "/?api-version=2021-04-12"}))
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	in := mqtt.NewClientReader(c, 1<<16)
	answer, err := in.Next()
	if ack, ok := answer.(*mqtt.Connack); err != nil || !ok || ack.Code != 0 {
		c.Close()
		return nil, nil, fmt.Errorf("device %d was not let in: %+v %w", n, answer, err)
	}
	return c, in, nil
}

// connect measures the server's CPU for a connect and disconnect, in µs.
func (p *peer) connect(f *fleet) (float64, error) {
	if err := parallel(4, 200, func(n int) error { return p.visit(f, n) }); err != nil { // warm up
		return 0, err
	}
	before := p.cpu()
	if err := parallel(4, *connects, func(n int) error { return p.visit(f, n%len(f.pairs)) }); err != nil {
		return 0, err
	}
	return (p.cpu() - before) / float64(*connects), nil
}

func (p *peer) visit(f *fleet, n int) error {
	c, _, err := p.dial(f, n%len(f.pairs))
	if err != nil {
		return err
	}
	c.Write(mqtt.AppendDisconnect(nil))
	return c.Close()
}

// hold measures the server's memory for an idle connection, in KiB.
func (p *peer) hold(f *fleet) (float64, error) {
	if *hold == 0 {
		return 0, nil
	}
	before := p.rss()
	conns := make([]*tls.Conn, *hold)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	err := parallel(8, *hold, func(n int) (err error) {
		conns[n], _, err = p.dial(f, n)
		return err
	})
	time.Sleep(2 * time.Second) // idle
	return (p.rss() - before) / float64(*hold), err
}

// publish measures the server's CPU for an acknowledged message, in µs, and how
// many there are a second.
func (p *peer) publish(f *fleet, message, rate *[]float64) error {
	const devices = 100
	var acked atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, devices)
	begin := make(chan struct{})
	var end time.Time
	for n := range devices {
		c, in, err := p.dial(f, n)
		if err != nil {
			return err
		}
		defer c.Close()
		packet := mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: 1, Topic: "devices/" + deviceID(n) + "/messages/events/", Payload: make([]byte, 256)})
		wg.Go(func() {
			<-begin
			for time.Now().Before(end) {
				if _, err := c.Write(packet); err != nil {
					errs <- err
					return
				}
				if answer, err := in.Next(); err != nil {
					errs <- err
					return
				} else if _, ok := answer.(*mqtt.Puback); !ok {
					errs <- fmt.Errorf("%T where a PUBACK was due", answer)
					return
				}
				acked.Add(1)
			}
		})
	}
	began, before := time.Now(), p.cpu()
	end = began.Add(*publish)
	close(begin)
	wg.Wait()
	n := float64(acked.Load())
	*message = append(*message, (p.cpu()-before)/n)
	*rate = append(*rate, n/time.Since(began).Seconds())
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// parallel does f for 0 to n-1, so many at a time.
func parallel(at, n int, f func(int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, at)
	for range at {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := f(int(i)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}
