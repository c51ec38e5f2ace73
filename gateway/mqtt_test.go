package gateway

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/trace"
	"github.com/signet-iot/signet/wire/mqtt"
)

// issue makes a certificate of subject cn for a fresh key, signed by issuer or,
// when that is nil, by itself.
func issue(t testing.TB, cn string, issuer *tls.Certificate, extensions ...pkix.Extension) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: cn}, SerialNumber: serial, DNSNames: []string{"hub.example.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtraExtensions: extensions,
	}
	parent, signer := template, crypto.Signer(key)
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey.(crypto.Signer)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	made := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	if issuer != nil {
		made.Certificate = append(made.Certificate, issuer.Certificate...)
	}
	return made
}

// A tlsDoor is a door that speaks TLS.
type tlsDoor struct {
	*MQTT
	waist   *fakeWaist
	addr    string // of its loopback socket
	dial    func() (net.Conn, error)
	roots   *x509.CertPool
	traces  *trace.Traces
	metrics *prometheus.Registry
	log     *bytes.Buffer
}

// openDoor opens one on a loopback socket.
func openDoor(t testing.TB, change ...func(*Config)) *tlsDoor {
	t.Helper()
	d := hangDoor(t, change...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = l.Addr().String()
	d.dial = func() (net.Conn, error) { return (&net.Dialer{Timeout: time.Minute}).Dial("tcp", d.addr) }
	served := make(chan error, 1)
	go func() { served <- d.Serve(l) }()
	t.Cleanup(func() {
		shutDown(t, d.MQTT)
		if err := <-served; err != nil {
			t.Errorf("Serve ended with %v", err)
		}
	})
	return d
}

// hangDoor makes one that is reached by pipes: the clock of a synctest bubble is
// enough for it, so that no deadline passes on a busy machine.
func hangDoor(t testing.TB, change ...func(*Config)) *tlsDoor {
	t.Helper()
	cert := issue(t, "hub.example.test", nil)
	d := &tlsDoor{waist: &fakeWaist{}, roots: x509.NewCertPool(), traces: trace.New(), metrics: prometheus.NewRegistry(), log: &bytes.Buffer{}}
	d.roots.AddCert(cert.Leaf)
	c := Config{
		TLS: &tls.Config{
			Certificates: []tls.Certificate{cert},
			CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256},
		},
		Logger: slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Traces: d.traces, Registerer: d.metrics,
	}
	for _, f := range change {
		f(&c)
	}
	d.MQTT = NewMQTT(d.waist, c)
	d.dial = func() (net.Conn, error) { return pipe(d.MQTT), nil }
	return d
}

// numbers gives the metrics, by name and labels.
func (d *tlsDoor) numbers(t testing.TB) map[string]float64 {
	t.Helper()
	families, err := d.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			numbers[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return numbers
}

// client is how a device speaks TLS to the door, with certificate or without.
func (d *tlsDoor) client(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: d.roots, ServerName: "hub.example.test", Certificates: certs}
}

// connect connects a device, and gives the code of its CONNACK.
func (d *tlsDoor) connect(id string, config *tls.Config) (*tls.Conn, byte, error) {
	nc, err := d.dial()
	if err != nil {
		return nil, 0, err
	}
	c := tls.Client(nc, config)
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	c.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: id, HasUsername: true, Username: "hub.example.test/" + id + "/?api-version=2021-04-12"}))
	p, err := mqtt.NewClientReader(c, maxPacket).Next()
	if err != nil {
		c.Close()
		return nil, 0, err
	}
	connack, ok := p.(*mqtt.Connack)
	if !ok {
		return nil, 0, fmt.Errorf("the server said %T", p)
	}
	return c, connack.Code, nil
}

func (w *fakeWaist) lastSeen() (hub.Credentials, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seen) == 0 {
		return hub.Credentials{}, false
	}
	return w.seen[len(w.seen)-1], true
}

// What comes in the handshake reaches the waist as it was presented; what the
// handshake itself cannot accept is told, where it is the device's fault.
func TestTLS(t *testing.T) {
	root := issue(t, "root", nil)
	line := issue(t, "line", &root)
	device := issue(t, "d1", &line)
	long := root
	for i := range 11 {
		long = issue(t, fmt.Sprint("ca", i), &long)
	}
	swapped := device
	swapped.PrivateKey = issue(t, "d1", nil).PrivateKey
	rubbish := device
	rubbish.Certificate = [][]byte{[]byte("not a certificate")}
	half := device
	half.Certificate = [][]byte{device.Certificate[0][:200]}
	flipped := device
	flipped.Certificate = [][]byte{bytes.Clone(device.Certificate[0])}
	flipped.Certificate[0][4] ^= 0x40

	always := func(c tls.Certificate) func(*tls.Config) {
		return func(o *tls.Config) {
			o.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
		}
	}
	tls12 := func(o *tls.Config) { o.MinVersion, o.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }
	for _, c := range []struct {
		name    string
		change  []func(*tls.Config)
		chain   int         // certificates that the waist sees; -1: it sees nobody
		refused signet.Code // recorded by the door
	}{
		{"TLS 1.3", []func(*tls.Config){always(device)}, 3, ""},
		{"TLS 1.2", []func(*tls.Config){always(device), tls12}, 3, ""},
		{"TLS 1.2 with CBC alone", []func(*tls.Config){always(device), tls12, func(o *tls.Config) {
			o.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256}
		}}, 3, ""},
		{"TLS 1.1", []func(*tls.Config){always(device), func(o *tls.Config) { o.MinVersion, o.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }}, -1, ""},
		{"TLS 1.2 with 3DES alone", []func(*tls.Config){tls12, func(o *tls.Config) {
			o.CipherSuites = []uint16{tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA}
		}}, -1, ""},
		{"no certificate", nil, 0, ""},
		{"no SNI", []func(*tls.Config){always(device), func(o *tls.Config) { o.ServerName, o.InsecureSkipVerify = "", true }}, 3, ""},
		{"SNI of another", []func(*tls.Config){always(device), func(o *tls.Config) { o.ServerName, o.InsecureSkipVerify = "other.example", true }}, 3, ""},
		{"ALPN of another broker", []func(*tls.Config){always(device), func(o *tls.Config) { o.NextProtos = []string{"x-amzn-mqtt-ca"} }}, 3, ""},
		{"a chain of 12", []func(*tls.Config){always(long)}, 12, ""},
		{"the key of another", []func(*tls.Config){always(swapped)}, -1, signet.ChainPossession},
		{"the key of another, TLS 1.2", []func(*tls.Config){always(swapped), tls12}, -1, signet.ChainPossession},
		{"rubbish", []func(*tls.Config){always(rubbish)}, -1, signet.ChainMalformed},
		{"half a certificate", []func(*tls.Config){always(half), tls12}, -1, signet.ChainMalformed},
		{"a bit flipped", []func(*tls.Config){always(flipped)}, -1, signet.ChainMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := openDoor(t)
			config := d.client()
			for _, f := range c.change {
				f(config)
			}
			device, code, err := d.connect("d1", config)
			if seen, any := d.waist.lastSeen(); any != (c.chain >= 0) || any && len(seen.Chain) != c.chain {
				t.Errorf("the waist saw %v, a chain of %d", any, len(seen.Chain))
			}
			if c.chain >= 0 {
				if err != nil || code != mqtt.ConnAccepted {
					t.Fatalf("CONNACK %d, %v", code, err)
				}
				device.Close()
				return
			}
			if err == nil {
				t.Fatalf("CONNACK %d", code)
			}
			shutDown(t, d.MQTT) // the life is over, and told
			var want []signet.Code
			if c.refused != "" {
				want = append(want, c.refused)
			}
			if got := d.waist.refusals(); !slices.Equal(got, want) {
				t.Errorf("recorded: %v, want %v", got, want)
			}
		})
	}
}

// What does not speak TLS is closed, with an alert at most, and is nobody's
// refusal.
func TestNotTLS(t *testing.T) {
	d := openDoor(t)
	for name, hello := range map[string]string{
		"a plain CONNECT":        "\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04anon",
		"HTTP":                   "GET / HTTP/1.1\r\nHost: hub.example.test\r\n\r\n",
		"zeros":                  strings.Repeat("\x00", 64),
		"a ClientHello of 16 MB": "\x16\x03\x01\x40\x00\x01\xff\xff\xff" + strings.Repeat("x", 16380),
		"a record of 64 KiB":     "\x16\x03\x01\xff\xff" + strings.Repeat("x", 65535),
	} {
		t.Run(name, func(t *testing.T) {
			nc, err := net.Dial("tcp", d.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			nc.SetDeadline(time.Now().Add(2 * time.Minute))
			nc.Write([]byte(hello))
			answer, err := io.ReadAll(nc)
			if errors.Is(err, syscall.ECONNRESET) {
				err = nil // it left while we still spoke
			}
			if err != nil || len(answer) > 7 {
				t.Errorf("%d bytes and %v", len(answer), err)
			}
		})
	}
	c, code, err := d.connect("honest", d.client())
	if err != nil || code != mqtt.ConnAccepted {
		t.Fatal("afterwards an honest device is not served", err)
	}
	c.Close()
	for _, code := range d.waist.refusals() {
		if code != signet.LimitChainBytes {
			t.Errorf("recorded: %v", code)
		}
	}
}

// A resumed handshake proves what the first one proved, and no more: the chain
// that the waist judges is that of the ticket, whoever the CONNECT names.
func TestResumption(t *testing.T) {
	d := openDoor(t)
	device := issue(t, "d1", nil)
	config := d.client(device)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	for i, id := range []string{"d1", "d1", "d2"} {
		c, _, err := d.connect(id, config)
		if err != nil {
			t.Fatal(err)
		}
		if resumed := c.ConnectionState().DidResume; resumed != (i > 0) {
			t.Errorf("connection %d: resumed is %v", i, resumed)
		}
		seen, _ := d.waist.lastSeen()
		if seen.DeviceID != id || len(seen.Chain) != 1 || !seen.Chain[0].Equal(device.Leaf) {
			t.Errorf("connection %d as %s showed another chain", i, id)
		}
		c.Close()
	}
}

// Silence in the handshake, or half of one, ends after ten seconds.
func TestHandshakeTime(t *testing.T) {
	cert := issue(t, "hub.example.test", nil)
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWaist{}
		m := NewMQTT(w, Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Logger: slog.New(slog.DiscardHandler)})
		device := pipe(m)
		start := time.Now()
		io.ReadAll(device)
		if took := time.Since(start); took != handshakeTime {
			t.Errorf("closed after %v", took)
		}
		shutDown(t, m)
		if codes := w.refusals(); !slices.Equal(codes, []signet.Code{signet.LimitHandshake}) {
			t.Errorf("recorded: %v", codes)
		}
	})
}

// Who is asked to go in the handshake goes at once, also when he reads nothing of it.
func TestHandshakeAskedToGo(t *testing.T) {
	for name, begin := range map[string]func(*MQTT, net.Conn) connection{
		"MQTT": func(m *MQTT, server net.Conn) connection { return newConn(m, server) },
		"AMQP": func(m *MQTT, server net.Conn) connection { return newAMQPConn(NewAMQP(m, nil), server) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := hangDoor(t)
				device, server := net.Pipe()
				deaf := &deafConn{Conn: device, deaf: make(chan struct{}), over: make(chan struct{})}
				close(deaf.deaf)
				c := begin(d.MQTT, server)
				d.MQTT.serve(c)
				go tls.Client(deaf, d.client()).Handshake()
				synctest.Wait() // the door writes
				began := time.Now()
				c.end(signet.Refuse(signet.LimitHandshake, "Others wait."))
				d.MQTT.lives.Wait()
				if took := time.Since(began); took > 0 {
					t.Errorf("gone after %v", took)
				}
				close(deaf.over)
				shutDown(t, d.MQTT)
			})
		})
	}
}

// Without TLS there is no door to be had.
func TestNoTLS(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a door without TLS")
		}
	}()
	NewMQTT(&fakeWaist{}, Config{})
}

// A refused device reads its CONNACK although it has gone on sending.
func TestLastWord(t *testing.T) {
	d := openDoor(t)
	d.waist.judge = func(hub.Credentials) error { return signet.Refuse(signet.ChainUntrusted, "unknown") }
	for range 20 {
		nc, err := tls.Dial("tcp", d.addr, d.client())
		if err != nil {
			t.Fatal(err)
		}
		packets := mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d1", HasUsername: true, Username: "h.test/d1"})
		for len(packets) < 30<<10 {
			packets = mqtt.AppendPublish(packets, &mqtt.Publish{Topic: "devices/d1/messages/events/", Payload: make([]byte, 1000)})
		}
		nc.Write(packets)
		p, err := mqtt.NewClientReader(nc, maxPacket).Next()
		if connack, ok := p.(*mqtt.Connack); !ok || connack.Code != mqtt.ConnRefusedNotAuthorized {
			t.Fatalf("the answer was %v, %v", p, err)
		}
		nc.Close()
	}
}

// A crowd that comes at once is let in to the last, past a door that serves four
// at a time; and while silent connections from one address fill what they may,
// an honest device from another is served.
func TestCrowd(t *testing.T) {
	d := openDoor(t, func(c *Config) { c.MaxHandshakes, c.MaxStrangers = 4, 400 })
	var in atomic.Int64
	var devices sync.WaitGroup
	for i := range 150 {
		devices.Go(func() {
			c, code, err := d.connect(fmt.Sprint("d", i), d.client())
			if err != nil || code != mqtt.ConnAccepted {
				t.Errorf("device %d: CONNACK %d, %v", i, code, err)
				return
			}
			in.Add(1)
			c.Close()
		})
	}
	devices.Wait()
	if in.Load() != 150 {
		t.Errorf("%d are in", in.Load())
	}

	for range 600 {
		nc, err := net.Dial("tcp", d.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
	}
	// What is beyond the house is refused at once; one address may fill it, but not
	// the places past the line.
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		waiting, within := d.gate.counts()
		if waiting+within >= 400 {
			if waiting+within > 400 || within > 2 {
				t.Errorf("%d and %d of one address are in the house", waiting, within)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d and %d came", waiting, within)
		}
	}
	other := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: time.Minute}
	nc, err := other.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	honest := tls.Client(nc, d.client())
	honest.SetDeadline(time.Now().Add(handshakeTime - time.Second)) // by then the silent ones have to go anyway
	honest.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "honest", HasUsername: true, Username: "h.test/honest"}))
	if p, err := mqtt.NewClientReader(honest, maxPacket).Next(); err != nil {
		t.Errorf("the honest device got %v, %v", p, err)
	}
}

// Whoever publishes faster than the hub stores is slowed, not refused; every
// message is acknowledged in the end, in order.
func TestBackPressure(t *testing.T) {
	for _, c := range []struct {
		name  string
		size  int
		taken int // messages under way at most
	}{
		{"by count", 10, maxUnstored},
		{"by bytes", 100_000, maxUnstoredBytes/100_000 + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 1000
				w := &fakeWaist{hold: true}
				m := plainDoor(t, w)
				device := pipe(m)
				go func() {
					device.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d", HasUsername: true, Username: "h.test/d", KeepAlive: 1}))
					for i := range n {
						device.Write(mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: uint16(i + 1), Topic: "devices/d/messages/events/", Payload: make([]byte, c.size)}))
					}
				}()
				r := mqtt.NewClientReader(device, maxPacket)
				if _, err := r.Next(); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				time.Sleep(time.Hour) // nobody is closed for being slowed
				if len(w.pending) != c.taken {
					t.Errorf("%d messages are under way", len(w.pending))
				}
				go func() {
					for stored := 0; stored < n; {
						if w.settle(nil) {
							stored++
						} else {
							synctest.Wait()
						}
					}
				}()
				for i := range n {
					p, err := r.Next()
					if ack, ok := p.(*mqtt.Puback); !ok || int(ack.PacketID) != i+1 {
						t.Fatalf("number %d is answered by %v, %v", i+1, p, err)
					}
				}
				device.Close()
			})
		})
	}
}

// An idle connection has one goroutine, and keeps no certificate.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWaist{}
		m := plainDoor(t, w)
		var devices []net.Conn
		for i := range 100 {
			device := pipe(m)
			devices = append(devices, device)
			go device.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: fmt.Sprint(i), HasUsername: true, Username: fmt.Sprint("h.test/", i)}))
			if _, err := mqtt.NewClientReader(device, maxPacket).Next(); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * crewTime) // of the bubble's clock
		synctest.Wait()
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if n := bytes.Count(stacks, []byte("created by github.com/signet-iot/signet/gateway.(*")); n != len(devices) {
			t.Errorf("%d goroutines for %d idle connections", n, len(devices))
		}
		m.mu.Lock()
		for held := range m.conns {
			c := held.(*conn)
			if c.out != nil || c.chain != nil || c.username.host != "" {
				t.Error("an idle connection keeps what it does not need")
			}
		}
		m.mu.Unlock()
		for _, device := range devices {
			device.Close()
		}
	})
}

// A will takes no more memory than it has text, before who it is of is known and for
// as long as the connection lasts: 15 KiB of "&" were 600 KiB of properties.
func TestWillTakesItsText(t *testing.T) {
	m := plainDoor(t, &fakeWaist{})
	held := func() int64 {
		runtime.GC()
		runtime.GC() // what pools hold goes at the second
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	const n = 50
	will := mqtt.Will{Topic: "devices/d/messages/events/a" + strings.Repeat("&", 15<<10), Payload: []byte("lost")}
	before := held()
	for range n {
		device := pipe(m)
		defer device.Close()
		device.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d", Will: &will, HasUsername: true, Username: "h.test/d"}))
		if _, err := mqtt.NewClientReader(device, maxPacket).Next(); err != nil {
			t.Fatal(err)
		}
	}
	if each := (held() - before) / n; each > 64<<10 {
		t.Errorf("%d KiB for each connection", each>>10)
	}
}

// failingListener fails to accept, as without descriptors, until it is closed.
type failingListener struct {
	calls  atomic.Int64
	closed chan struct{}
}

func (l *failingListener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
		l.calls.Add(1)
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
}
func (l *failingListener) Close() error   { close(l.closed); return nil }
func (l *failingListener) Addr() net.Addr { return &net.TCPAddr{} }

// No descriptors left: the door waits and says so once a minute.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m := newMQTT(&fakeWaist{}, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		l := &failingListener{closed: make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- m.Serve(l) }()
		time.Sleep(150 * time.Second)
		shutDown(t, m)
		if err := <-served; err != nil {
			t.Error(err)
		}
		if n := l.calls.Load(); n < 140 || n > 170 {
			t.Errorf("tried %d times in 150 s", n)
		}
		if n := strings.Count(log.String(), "\n"); n != 3 {
			t.Errorf("%d lines in the log", n)
		}
		if err := m.Serve(&failingListener{closed: make(chan struct{})}); err != nil {
			t.Errorf("a closed door: %v", err)
		}
	})
}

// A connection leaves its story, its numbers, and no secret.
func TestStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := hangDoor(t)
		device := issue(t, "d1", nil)
		c, _, err := d.connect("d1", d.client(device))
		if err != nil {
			t.Fatal(err)
		}
		c.Write(mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: 1, Topic: "devices/d1/messages/events/", Payload: []byte("hello")}))
		if _, err := mqtt.NewClientReader(c, maxPacket).Next(); err != nil {
			t.Fatal(err)
		}
		c.Close()

		d.waist.judge = func(hub.Credentials) error {
			e := signet.Refuse(signet.TokenExpired, "The SAS token has expired.")
			e.TrackingID = "ABCDEF"
			return e
		}
		secret := "SharedAccessSignature sr=x&sig=SECRET"
		pipe, _ := d.dial()
		nc := tls.Client(pipe, d.client(device))
		nc.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d2", HasUsername: true, Username: "h.test/d2", HasPassword: true, Password: []byte(secret)}))
		io.ReadAll(nc)
		nc.Close()
		if seen, _ := d.waist.lastSeen(); seen.Token != secret {
			t.Errorf("the waist saw the token %q", seen.Token)
		}
		shutDown(t, d.MQTT)

		w := httptest.NewRecorder()
		d.traces.ServeHTTP(w, httptest.NewRequest("GET", "/debug/traces", nil))
		story := w.Body.String()
		for _, want := range []string{"handshake full", "TLS 1.3", "sni=hub.example.test", "subject=CN=d1", "let in", "publishes=1 pubacks=1", "code=token.expired", "trackingId=ABCDEF"} {
			if !strings.Contains(story, strings.ReplaceAll(want, "+", "&#43;")) {
				t.Errorf("the trace does not tell %q", want)
			}
		}
		numbers := d.numbers(t)
		for name, want := range map[string]float64{
			"signet_mqtt_handshakes_total full": 2, "signet_mqtt_connects_total ok": 1, "signet_mqtt_connects_total token.expired": 1,
			"signet_mqtt_connect_seconds": 1, "signet_mqtt_publishes_total 1": 1, "signet_mqtt_pubacks_total": 1, "signet_mqtt_received_bytes_total": 5,
			"signet_mqtt_connected": 0, "signet_mqtt_strangers waiting": 0, "signet_mqtt_strangers connecting": 0, "signet_mqtt_ends_total session.closed": 1,
		} {
			if got, found := numbers[name]; !found || got != want {
				t.Errorf("%s is %v", name, got)
			}
		}
		for where, text := range map[string]string{"log": d.log.String(), "trace": story} {
			if strings.Contains(text, "SECRET") {
				t.Errorf("the %s holds a token", where)
			}
		}
	})
}

// A panic ends one connection, in the log with where it came from, and no other.
func TestPanic(t *testing.T) {
	d := openDoor(t)
	d.waist.judge = func(c hub.Credentials) error {
		if c.DeviceID == "bad" {
			panic("out of luck")
		}
		return nil
	}
	bystander, _, err := d.connect("good", d.client())
	if err != nil {
		t.Fatal(err)
	}
	defer bystander.Close()
	if _, _, err := d.connect("bad", d.client()); err == nil {
		t.Error("the connection goes on")
	}
	bystander.Write(mqtt.AppendPingreq(nil))
	if p, err := mqtt.NewClientReader(bystander, maxPacket).Next(); err != nil {
		t.Error("the bystander got", p, err)
	}
	shutDown(t, d.MQTT)
	if log := d.log.String(); !strings.Contains(log, "out of luck") || !strings.Contains(log, "mqtt_test.go") {
		t.Error("the log does not tell where")
	}
}

// Shutdown cuts off what does not end in time.
func TestShutdownInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWaist{hold: true}
		m := newMQTT(w, Config{Logger: slog.New(slog.DiscardHandler)})
		device := pipe(m)
		go device.Write(mqtt.AppendPublish(
			mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d", HasUsername: true, Username: "h.test/d"}),
			&mqtt.Publish{QoS: 1, PacketID: 1, Topic: "devices/d/messages/events/"}))
		if _, err := mqtt.NewClientReader(device, maxPacket).Next(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		err := m.Shutdown(ctx)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
			t.Errorf("%v after %v", err, took)
		}
		if again := m.Shutdown(context.Background()); again != nil {
			t.Error(again)
		}
	})
}

// A halting connection has whatever is written come in two halves, some time apart.
type halting struct {
	net.Conn
	pause time.Duration
}

func (h *halting) Write(b []byte) (int, error) {
	n, err := h.Conn.Write(b[:len(b)/2])
	if err == nil {
		time.Sleep(h.pause)
		var more int
		more, err = h.Conn.Write(b[len(b)/2:])
		n += more
	}
	return n, err
}

// The socket is told how long to wait once, not with every packet. It has waited so
// long in the middle of a TLS record, when the device does not count as lost yet:
// there was a ping meanwhile. So nothing of the record is lost, and the device is
// lost when it has been silent for one and a half times its keep alive.
func TestSocketToldAnewWithinRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := plainDoor(t, &fakeWaist{})
		m.tls = &tls.Config{Certificates: []tls.Certificate{issue(t, "hub.example.test", nil)}}
		line := &halting{Conn: pipe(m)}
		defer line.Close()
		device := tls.Client(line, &tls.Config{InsecureSkipVerify: true})
		in := mqtt.NewClientReader(device, maxPacket)
		say := func(packet []byte) {
			if _, err := device.Write(packet); err != nil {
				t.Fatal(err)
			}
			if _, err := in.Next(); err != nil {
				t.Fatal(err)
			}
		}
		say(mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d1", KeepAlive: 60, HasUsername: true, Username: "hub.example.test/d1/?api-version=2021-04-12"}))
		time.Sleep(40 * time.Second)
		say(mqtt.AppendPingreq(nil)) // the socket waits until 90 s, and shall until 130 s
		time.Sleep(40 * time.Second)
		line.pause = 20 * time.Second
		say(mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: 1, Topic: "devices/d1/messages/events/", Payload: make([]byte, 1000)}))
		began := time.Now()
		if p, err := in.Next(); err == nil {
			t.Fatalf("%T where the end was due", p)
		}
		if silent := time.Since(began); silent != 90*time.Second {
			t.Errorf("the device was lost after %v", silent)
		}
	})
}

// A changingTwin is a session whose desired properties change while they are read: the
// device is told of the change before it has its answer, as often as there is one left.
type changingTwin struct {
	*fakeSession
	changes, version int64
	mail             chan hub.Delivery
}

func (s *changingTwin) Twin(context.Context) (signet.Twin, error) {
	t := signet.EmptyTwin("hub", "d", "", "1")
	t.Desired.Version = s.version
	if s.changes > 0 {
		s.changes--
		s.version++
		s.mail <- hub.DesiredChange{Version: s.version, Patch: []byte(`{"x":1}`)}
		s.wake()
		synctest.Wait() // until it is said
	}
	return t, nil
}

func (s *changingTwin) Receive() (hub.Delivery, bool) {
	select {
	case d := <-s.mail:
		return d, true
	default:
		return nil, false
	}
}

type changingWaist struct {
	*fakeWaist
	changes int64
}

func (w changingWaist) Connect(ctx context.Context, c hub.Credentials, wake func()) (Session, error) {
	s, err := w.fakeWaist.Connect(ctx, c, wake)
	return &changingTwin{s.(*fakeSession), w.changes, 5, make(chan hub.Delivery, 10)}, err
}

// TestTwinIsNoOlderThanWhatWasTold: SDKs put what they read in the place of what they
// have. If it came after a change and were of before it, the device would not know of
// that change until the next.
func TestTwinIsNoOlderThanWhatWasTold(t *testing.T) {
	for changes, want := range map[int64][]string{
		0: {`$iothub/twin/res/200/?$rid=1 {"desired":{"$version":5},"reported":{"$version":1}}`},
		2: {`$iothub/twin/PATCH/properties/desired/?$version=6 {"x":1,"$version":6}`, `$iothub/twin/PATCH/properties/desired/?$version=7 {"x":1,"$version":7}`,
			`$iothub/twin/res/200/?$rid=1 {"desired":{"$version":7},"reported":{"$version":1}}`},
		9: {`*version=6 *`, `*version=7 *`, `*version=8 *`, `*version=9 *`, `$iothub/twin/res/503/?$rid=1 {"errorCode":503001,*`},
	} {
		synctest.Test(t, func(t *testing.T) {
			device := pipe(plainDoor(t, changingWaist{&fakeWaist{}, changes}))
			defer device.Close()
			in := mqtt.NewClientReader(device, maxPacket)
			next := func() string {
				p, err := in.Next()
				if err != nil {
					t.Fatal(err)
				}
				if p, ok := p.(*mqtt.Publish); ok {
					return p.Topic + " " + string(p.Payload)
				}
				return ""
			}
			go device.Write(slices.Concat(
				mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d", HasUsername: true, Username: "h.test/d"}),
				mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "$iothub/twin/res/#"}, {Filter: "$iothub/twin/PATCH/properties/desired/#"}}}),
				mqtt.AppendPublish(nil, &mqtt.Publish{Topic: "$iothub/twin/GET/?$rid=1"})))
			next()
			next()
			for _, w := range want {
				if got := next(); !like(got, w) {
					t.Fatalf("of a twin that changes %d times, the device hears %s", changes, got)
				}
			}
		})
	}
}
