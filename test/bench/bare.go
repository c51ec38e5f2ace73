package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/signet-iot/signet/wire/mqtt"
	"golang.org/x/sys/unix"
)

// serveBare is the least that a server in Go can do: crypto/tls, the path
// verified and the name compared, PUBACK for PUBLISH. With cache an intermediate
// is verified once; with sync a message is in a file, and fdatasync has returned,
// before its PUBACK.
func serveBare(args []string) error {
	flags := flag.NewFlagSet("bare", flag.ContinueOnError)
	pki := flags.String("pki", "", "folder of the fleet")
	cache := flags.Bool("cache", false, "verify an intermediate once")
	file := flags.String("sync", "", "file for messages, synced before their PUBACK")
	if err := flags.Parse(args); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(*pki, "server.pem"), filepath.Join(*pki, "server.key"))
	if err != nil {
		return err
	}
	root, err := os.ReadFile(filepath.Join(*pki, "root.pem"))
	if err != nil {
		return err
	}
	b := &bare{roots: x509.NewCertPool(), cached: map[[32]byte]*x509.CertPool{}, cache: *cache}
	b.roots.AppendCertsFromPEM(root)
	if *file != "" {
		f, err := os.Create(*file)
		if err != nil {
			return err
		}
		b.log = &journal{file: f, kick: make(chan struct{}, 1), next: make(chan struct{})}
		go b.log.run()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("ready", l.Addr())
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go b.serve(tls.Server(c, conf))
	}
}

type bare struct {
	roots *x509.CertPool
	cache bool
	log   *journal // nil when nothing is stored

	mu     sync.RWMutex
	cached map[[32]byte]*x509.CertPool // by the intermediates of a path, that were verified: the issuer alone
}

func (b *bare) serve(c *tls.Conn) error {
	defer c.Close()
	if err := c.Handshake(); err != nil {
		return err
	}
	in := mqtt.NewReader(c, 1<<20)
	packet, err := in.Next()
	connect, ok := packet.(*mqtt.Connect)
	if err != nil || !ok {
		return errors.Join(err, errors.New("no CONNECT"))
	}
	chain := c.ConnectionState().PeerCertificates
	if err := b.verify(chain); err != nil || chain[0].Subject.CommonName != connect.ClientID {
		c.Write(mqtt.AppendConnack(nil, false, mqtt.ConnRefusedNotAuthorized))
		return err
	}
	if _, err := c.Write(mqtt.AppendConnack(nil, false, mqtt.ConnAccepted)); err != nil {
		return err
	}
	var out [4]byte
	for {
		packet, err := in.Next()
		if err != nil {
			return err
		}
		switch p := packet.(type) {
		case *mqtt.Publish:
			if b.log != nil {
				if err := b.log.append(p.Payload); err != nil {
					return err
				}
			}
			if _, err := c.Write(mqtt.AppendPuback(out[:0], p.PacketID)); err != nil {
				return err
			}
		case *mqtt.Disconnect:
			return nil
		}
	}
}

func (b *bare) verify(chain []*x509.Certificate) error {
	options := x509.VerifyOptions{Roots: b.roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	var above [32]byte
	if b.cache {
		h := sha256.New()
		for _, c := range chain[1:] {
			h.Write(c.Raw)
		}
		h.Sum(above[:0])
		b.mu.RLock()
		issuer := b.cached[above]
		b.mu.RUnlock()
		if issuer != nil {
			options.Roots = issuer
			_, err := chain[0].Verify(options)
			return err
		}
	}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(options); err != nil || !b.cache {
		return err
	}
	issuer := x509.NewCertPool()
	issuer.AddCert(chain[1])
	b.mu.Lock()
	b.cached[above] = issuer
	b.mu.Unlock()
	return nil
}

// A journal is a file that many append to; each sync is for all that came while
// the one before was under way.
type journal struct {
	file *os.File
	kick chan struct{}

	mu   sync.Mutex
	buf  []byte
	next chan struct{} // closed when what is in buf is on disk
	err  error
}

func (j *journal) append(message []byte) error {
	j.mu.Lock()
	j.buf = append(j.buf, message...)
	synced := j.next
	j.mu.Unlock()
	select {
	case j.kick <- struct{}{}:
	default:
	}
	<-synced
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

func (j *journal) run() {
	var spare []byte
	for range j.kick {
		runtime.Gosched() // on one processor: whoever has a message adds it first, or each would have a sync of its own
		j.mu.Lock()
		batch, synced := j.buf, j.next
		j.buf, j.next = spare[:0], make(chan struct{})
		j.mu.Unlock()
		_, err := j.file.Write(batch)
		if err == nil {
			err = unix.Fdatasync(int(j.file.Fd()))
		}
		if err != nil {
			j.mu.Lock()
			j.err = err
			j.mu.Unlock()
		}
		spare = batch
		close(synced)
	}
}

// serveNATS is nats-server with its MQTT, from the module that Signet embeds.
func serveNATS(args []string) error {
	flags := flag.NewFlagSet("nats", flag.ContinueOnError)
	pki := flags.String("pki", "", "folder of the fleet")
	dir := flags.String("dir", "", "folder for messages")
	always := flags.Bool("always", false, "sync every message")
	if err := flags.Parse(args); err != nil {
		return err
	}
	conf, err := server.GenTLSConfig(&server.TLSConfigOpts{
		CertFile: filepath.Join(*pki, "server.pem"), KeyFile: filepath.Join(*pki, "server.key"), CaFile: filepath.Join(*pki, "root.pem"),
		Verify: true,
	})
	if err != nil {
		return err
	}
	conf.CipherSuites = nil // they order those of TLS 1.2
	o := &server.Options{ServerName: "bench", DontListen: true, JetStream: true, StoreDir: *dir, SyncAlways: *always, NoSigs: true}
	port, err := freePort()
	if err != nil {
		return err
	}
	o.MQTT = server.MQTTOpts{Host: "127.0.0.1", Port: port, TLSConfig: conf, TLSTimeout: 60, MaxAckPending: 1024}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.SetLoggerV2(natsLog{}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("not ready")
	}
	fmt.Printf("ready 127.0.0.1:%d\n", port)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
	s.Shutdown()
	return nil
}

// natsLog passes on what a run would fail by.
type natsLog struct{}

func (natsLog) Noticef(string, ...any)            {}
func (natsLog) Debugf(string, ...any)             {}
func (natsLog) Tracef(string, ...any)             {}
func (natsLog) Warnf(format string, args ...any)  {}
func (natsLog) Errorf(format string, args ...any) {}
func (natsLog) Fatalf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// freePort gives a port of the loopback network that nobody has just now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
