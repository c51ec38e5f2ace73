package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet/bench"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/wire/mqtt"
)

var (
	cut   = flag.Int("cut", 0, "instead: live sessions below one line that is then distrusted, at most 18000")
	storm = flag.Duration("storm", 15*time.Second, "how long those cut try again, at most 1m")
)

const (
	// sources is how many addresses the fleet comes from, as from as many sites. The
	// two honest devices come from an address of their own and from one of these.
	sources = 16
	// pressing is how many of those cut press at a time: four times what the server
	// has past its line, so that the line is never empty, and few enough that this
	// process, which is all the devices, answers the server in time.
	pressing = 1024
	// patience is how long an honest device may wait during the storm.
	patience = 5 * time.Second
)

// cutLine holds a fleet below one intermediate, distrusts that through the API,
// and sees how soon the connections are closed, by the receipt and by the
// clients; then all that were cut come back at once, and again after one to five
// seconds, while honest devices go on connecting and sending.
func cutLine(dir string) error {
	if *cut > 18_000 || *storm > time.Minute {
		return errors.New("the load is beyond its bounds; see -help")
	}
	exec.Command("taskset", "-apc", "1", strconv.Itoa(os.Getpid())).Run() // the load is this process
	folder := filepath.Join(dir, "pki")
	fleet, err := bench.OpenFleet(folder, pki.P256, 0, *cut)
	if err != nil {
		return err
	}
	f := make([]tls.Certificate, *cut)
	for n := range f {
		f[n] = fleet.Pair(n)
	}
	// The honest ones are signed by the factory itself, so that what is distrusted
	// is not above them.
	factory, err := fleet.Issuer("factory")
	if err != nil {
		return err
	}
	for n := range 2 {
		chain, err := factory.Device(bench.DeviceID(*cut+n), f[0].Leaf.PublicKey, time.Now(), 8)
		if err != nil {
			return err
		}
		pair := tls.Certificate{PrivateKey: f[0].PrivateKey, Leaf: chain[0]}
		for _, c := range chain {
			pair.Certificate = append(pair.Certificate, c.Raw)
		}
		f = append(f, pair)
	}
	r, err := startSignet(nil, dir, folder)
	if err != nil {
		return err
	}
	defer r.stop()
	p, err := newSite(r)
	if err != nil {
		return err
	}

	// The fleet, each connection with a reader that notes its end.
	conns := make([]net.Conn, *cut)
	closed := make([]time.Time, *cut)
	for n := range conns {
		if conns[n], _, err = p.dialFrom(f, n, source(n)); err != nil {
			return err
		}
	}
	var gone sync.WaitGroup
	for n, c := range conns {
		gone.Go(func() {
			c.SetDeadline(time.Now().Add(time.Minute))
			c.Read(make([]byte, 1))
			closed[n] = time.Now()
			c.Close()
		})
	}

	began, before := time.Now(), cpu(r.pid())
	line, err := x509.ParseCertificate(f[0].Certificate[1])
	if err != nil {
		return err
	}
	_, receipts, err := p.back.Distrust(context.Background(), client.DistrustRequest{Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: line.Raw})), Reason: "bench"})
	if err != nil {
		return err
	}
	answered := time.Since(began)
	gone.Wait()
	spent := time.Duration(cpu(r.pid())-before) * time.Microsecond
	took := make([]time.Duration, *cut)
	for n := range closed {
		took[n] = closed[n].Sub(began)
	}
	slices.Sort(took)
	fmt.Printf("%d sessions below one intermediate, distrusted by its key\n", *cut)
	for _, r := range receipts {
		fmt.Printf("  by the receipt   %d cut, %d closed: p50 %v, p99 %v, last %v\n", r.Sessions, r.Closed, ms(r.P50), ms(r.P99), ms(r.Last))
	}
	fmt.Printf("  by the clients   p50 %v, p99 %v, last %v after the request; the answer after %v\n",
		ms(at(took, 50)), ms(at(took, 99)), ms(took[len(took)-1]), ms(answered))
	fmt.Printf("  server CPU       %v\n", spent)
	return p.withstand(f)
}

// A site is Signet as the fleet and its operator see it.
type site struct {
	address string
	conf    *tls.Config
	back    *client.Client
}

func newSite(r *running) (*site, error) {
	ca, err := os.ReadFile(r.caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	owner, err := os.ReadFile(filepath.Join(r.data, "owner.connection-string"))
	if err != nil {
		return nil, err
	}
	back, err := client.New(client.Options{ConnectionString: strings.TrimSpace(string(owner)), Address: r.https, CAFile: r.caFile})
	return &site{r.address, &tls.Config{RootCAs: roots, ServerName: "localhost"}, back}, err
}

// cpu is the processor time that a process has taken, in µs.
func cpu(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) * 10_000 // ticks of 10 ms
}

// withstand has all that were cut come back for a while.
func (p *site) withstand(f []tls.Certificate) error {
	ctx, stop := context.WithTimeout(context.Background(), *storm)
	defer stop()
	var refused, unanswered, accepted atomic.Int64
	var fleet sync.WaitGroup
	press := make(chan struct{}, pressing)
	for n := range *cut {
		fleet.Go(func() {
			for ctx.Err() == nil {
				press <- struct{}{}
				if ctx.Err() != nil {
					<-press
					return
				}
				c, code, err := p.dialFrom(f, n, source(n))
				<-press
				switch {
				case c != nil:
					accepted.Add(1)
					c.Close()
				case code == mqtt.ConnRefusedNotAuthorized:
					refused.Add(1)
				case err != nil:
					unanswered.Add(1)
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Second + rand.N(4*time.Second)):
				}
			}
		})
	}
	var honest [2][]time.Duration
	var errs [2]error
	var others sync.WaitGroup
	for n, from := range []net.IP{net.IPv4(127, 0, 0, 1), source(0)} {
		others.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				if errs[n] = p.send(f, *cut+n, from); errs[n] != nil {
					return
				}
				honest[n] = append(honest[n], time.Since(began))
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	others.Wait()
	fleet.Wait()
	fmt.Printf("%d come back for %v: %d refused, %d without an answer, %d let in\n", *cut, *storm, refused.Load(), unanswered.Load(), accepted.Load())
	for n, name := range []string{"from an address of its own", "from an address of the refused"} {
		if errs[n] != nil {
			return fmt.Errorf("an honest device %s: %w", name, errs[n])
		}
		slices.Sort(honest[n])
		slowest := honest[n][len(honest[n])-1]
		fmt.Printf("  an honest device %s: connected, sent and acknowledged %d times: p50 %v, slowest %v\n", name, len(honest[n]), ms(at(honest[n], 50)), ms(slowest))
		if slowest > patience {
			errs[n] = fmt.Errorf("an honest device waited for %v", slowest)
		}
	}
	if n := accepted.Load(); n > 0 {
		return fmt.Errorf("%d devices were let in that are distrusted", n)
	}
	return errors.Join(errs[:]...)
}

// source gives a device one of the addresses of the loopback network.
func source(n int) net.IP { return net.IPv4(127, 0, 1, byte(1+n%sources)) }

// dialFrom connects device n from an address, as far as its CONNACK; a refusal
// gives its return code.
func (p *site) dialFrom(f []tls.Certificate, n int, from net.IP) (c net.Conn, code byte, err error) {
	conf := p.conf.Clone()
	conf.Certificates = []tls.Certificate{f[n]}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute, LocalAddr: &net.TCPAddr{IP: from}}, "tcp", p.address, conf)
	if err != nil {
		return nil, 0, err
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	_, err = conn.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, CleanSession: true, KeepAlive: 1100,
		ClientID: bench.DeviceID(n), HasUsername: true, Username: "localhost/" + bench.DeviceID(n) + "/?api-version=2021-04-12"}))
	if err == nil {
		var answer any
		if answer, err = mqtt.NewClientReader(conn, 1<<10).Next(); err == nil {
			if ack, ok := answer.(*mqtt.Connack); ok && ack.Code == 0 {
				return conn, 0, nil
			} else if ok {
				code = ack.Code
			}
			err = fmt.Errorf("device %d was not let in: %+v", n, answer)
		}
	}
	conn.Close()
	return nil, code, err
}

// send connects device n and sends a message that is acknowledged.
func (p *site) send(f []tls.Certificate, n int, from net.IP) error {
	c, _, err := p.dialFrom(f, n, from)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: 1, Topic: "devices/" + bench.DeviceID(n) + "/messages/events/", Payload: []byte("here")})); err != nil {
		return err
	}
	answer, err := mqtt.NewClientReader(c, 1<<10).Next()
	if _, ok := answer.(*mqtt.Puback); err == nil && !ok {
		err = fmt.Errorf("%T where a PUBACK was due", answer)
	}
	c.Write(mqtt.AppendDisconnect(nil))
	return err
}

func at(sorted []time.Duration, percent int) time.Duration {
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}

func ms(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
