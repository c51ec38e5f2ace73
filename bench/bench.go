// Package bench is the load that a hub, or any broker that speaks MQTT 3.1.1
// over TLS, is measured by: devices with certificates of a PKI of their own that
// connect, stay, publish, come all at once, and register themselves.
//
// It is the device's side of the wire alone. Of the server it knows the address
// and, where it runs on this machine, the process: what an operation costs the
// server is read from /proc. Every load is bounded in count and time; a load
// that fails says so, and what it has measured until then is not given; who is
// refused a place, of those that register, is counted.
package bench

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/signet-iot/signet/wire/mqtt"
)

// The bounds of a load: what one process can hold, and a time after which
// something is wrong.
const (
	MaxDevices  = 50_000
	MaxConnects = 1_000_000
	MaxTime     = 2 * time.Hour

	// patience is how long a device waits for an answer. The slowest that was seen
	// to come all the same, in a storm, was 27 s.
	patience = 2 * time.Minute
)

// Names is how devices call themselves in CONNECT.
type Names string

const (
	// Azure is {host}/{device}/?api-version=…, and telemetry on
	// devices/{device}/messages/events/.
	Azure Names = "azure"
	// Plain is the device ID as the user name, and telemetry on
	// devices/{device}, as any broker takes it.
	Plain Names = "plain"
)

// Target is a server under load.
type Target struct {
	Address string      // HOST:PORT of MQTT over TLS
	TLS     *tls.Config // the roots and the name of the server's certificate
	Names   Names
	Host    string // the hub's host name, of Azure's user names
	PID     int    // the server's process on this machine; 0 when it is elsewhere
	Resume  bool   // TLS sessions are resumed where the server allows it
	// Sources is how many addresses of the loopback network the devices come from,
	// as from as many sites; 0 leaves the address to the system.
	Sources int

	seen     sync.Map // certificates of the server that were verified, by their DER
	sessions sync.Map // of devices, when TLS sessions are resumed
}

// Result is what a load has measured. Fields that it does not measure are zero.
type Result struct {
	Load       string  `json:"load"`
	Operations int     `json:"operations"`
	Seconds    float64 `json:"seconds"`
	PerSecond  float64 `json:"perSecond"`
	Retries    int     `json:"retries,omitempty"` // of devices that were not let in, or not heard, at once
	Resumed    int     `json:"resumed,omitempty"` // of the TLS sessions
	TLS        string  `json:"tls,omitempty"`     // version and key exchange

	// Of devices that register: how many have no place, by what they were told.
	Failures map[string]int `json:"failures,omitempty"`

	// What a device waits: from the first packet to the CONNACK, to the PUBACK, or to
	// the answer that has its place.
	P50 float64 `json:"p50Ms"`
	P99 float64 `json:"p99Ms"`
	Max float64 `json:"maxMs"`

	// What it costs the server, where its process is known.
	CPU float64 `json:"serverCpuMicros,omitempty"` // for an operation
	RSS float64 `json:"serverRssKiB,omitempty"`    // for a connection

	// Of devices that are held: the server's resident memory when all had connected,
	// or had sent for a quarter of the time, and at the end, in MiB.
	RSSBegin float64 `json:"serverRssBeginMiB,omitempty"`
	RSSEnd   float64 `json:"serverRssEndMiB,omitempty"`
}

// device is one that is connected.
type device struct {
	conn *tls.Conn
	in   *mqtt.Reader
	id   string
}

// dial connects device n as far as its CONNACK.
func (t *Target) dial(ctx context.Context, f *Fleet, n int) (*device, error) {
	username := f.id(n)
	if t.Names == Azure {
		username = t.Host + "/" + username + "/?api-version=2021-04-12"
	}
	return t.dialAs(ctx, f, n, username)
}

// dialAs connects device n with a user name.
func (t *Target) dialAs(ctx context.Context, f *Fleet, n int, username string) (*device, error) {
	conf := t.TLS.Clone()
	conf.Certificates = []tls.Certificate{f.pairs[n]}
	conf.InsecureSkipVerify, conf.VerifyConnection = true, t.verify
	if t.Resume {
		sessions, _ := t.sessions.LoadOrStore(n, tls.NewLRUClientSessionCache(1))
		conf.ClientSessionCache = sessions.(tls.ClientSessionCache)
	}
	dialer := &net.Dialer{Timeout: patience}
	if t.Sources > 0 {
		dialer.LocalAddr = &net.TCPAddr{IP: source(n % t.Sources)}
	}
	raw, err := dialer.DialContext(ctx, "tcp", t.Address)
	if err != nil {
		return nil, err
	}
	d := &device{conn: tls.Client(raw, conf), id: f.id(n)}
	d.conn.SetDeadline(time.Now().Add(patience))
	defer context.AfterFunc(ctx, func() { raw.Close() })() // the handshake ends with the load
	if err := d.greet(username); err != nil {
		raw.Close()
		return nil, fmt.Errorf("device %s: %w", d.id, err)
	}
	return d, nil
}

// greet sends CONNECT and waits for the CONNACK.
func (d *device) greet(username string) error {
	_, err := d.conn.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, CleanSession: true, KeepAlive: 1100,
		ClientID: d.id, HasUsername: true, Username: username}))
	if err != nil {
		return err
	}
	d.in = mqtt.NewClientReader(d.conn, 1<<16)
	answer, err := d.in.Next()
	if err != nil {
		return err
	}
	if ack, ok := answer.(*mqtt.Connack); !ok || ack.Code != mqtt.ConnAccepted {
		return fmt.Errorf("not let in: %T %+v", answer, answer)
	}
	return nil
}

// verify checks the server's certificate, each once: the devices share one
// processor, and what is measured is the server. That the server holds its key is
// proven in every handshake.
func (t *Target) verify(state tls.ConnectionState) error {
	leaf := state.PeerCertificates[0]
	if _, seen := t.seen.Load(string(leaf.Raw)); seen {
		return nil
	}
	if err := verifyServer(t.TLS, state); err != nil {
		return err
	}
	t.seen.Store(string(leaf.Raw), true)
	return nil
}

// source is one of the addresses of the loopback network.
func source(n int) net.IP { return net.IPv4(127, 0, 1+byte(n/250), byte(1+n%250)) }

// packet is a PUBLISH of telemetry, QoS 1.
func (t *Target) packet(id string, size int) []byte {
	topic := "devices/" + id
	if t.Names == Azure {
		topic += "/messages/events/"
	}
	return mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: 1, Topic: topic, Payload: make([]byte, size)})
}

// acknowledged waits for a PUBACK.
func (d *device) acknowledged() error {
	answer, err := d.in.Next()
	if err != nil {
		return fmt.Errorf("device %s waits for a PUBACK: %w", d.id, err)
	}
	if _, ok := answer.(*mqtt.Puback); !ok {
		return fmt.Errorf("device %s got %T where a PUBACK was due", d.id, answer)
	}
	return nil
}

func (d *device) leave() {
	d.conn.Write(mqtt.AppendDisconnect(nil))
	d.conn.Close()
}

// AllowFiles lifts the limit of open files as far as it goes: a device is one.
func AllowFiles() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}

// parallel does f for 0 to n-1, so many at a time, until one fails.
func parallel(ctx context.Context, at, n int, f func(int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, at)
	for range at {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && len(errs) == 0; i = next.Add(1) - 1 {
				if err := cmp.Or(ctx.Err(), f(int(i))); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return errors.Join(<-errs)
}

// waits are what devices have waited, of many at a time.
type waits struct {
	mu  sync.Mutex
	all []time.Duration
}

func (w *waits) add(d ...time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, d...)
}

// tell fills in what was waited.
func (w *waits) tell(r *Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.all)
	r.P50, r.P99, r.Max = w.at(50), w.at(99), w.at(100)
}

// at gives a percentile in milliseconds, of what is sorted.
func (w *waits) at(percent int) float64 {
	if len(w.all) == 0 {
		return 0
	}
	return float64(w.all[min(len(w.all)*percent/100, len(w.all)-1)].Microseconds()) / 1e3
}
