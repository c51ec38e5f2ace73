// Package server puts the house together: configuration in, a running hub out.
// It is the one place that names the machines (database, message log, sockets)
// behind the contracts that the rules state; cmd/signet and the tests start the
// very same.
package server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/api"
	"github.com/signet-iot/signet/audit"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/commands"
	"github.com/signet-iot/signet/egress"
	"github.com/signet-iot/signet/gateway"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/issuance"
	"github.com/signet-iot/signet/limits"
	"github.com/signet-iot/signet/messaging"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/routes"
	"github.com/signet-iot/signet/store"
	"github.com/signet-iot/signet/trace"
)

// Server is a running hub.
type Server struct {
	cfg Config
	log *slog.Logger

	registry     *registry.Registry
	authority    *authority.Authority
	commands     *commands.Commands
	issuance     *issuance.Issuance
	verdicts     *authority.VerdictLog
	inventory    *inventory.Inventory
	audit        *audit.Log
	provisioning *provisioning.Provisioning
	hub          *hub.Hub
	relay        *hub.Relay
	routes       *routes.Routes
	limits       *limits.Limits
	certs        *certificates // nil until the doors are set up

	mqtt          *gateway.MQTT
	https         *http.Server
	mqttL, httpsL net.Listener
	adminL        net.Listener                  // nil when there is none
	ballast       []byte                        // see ballastSize
	failed        chan error                    // takes the first fault that ends the server
	closers       []func(context.Context) error // in order of opening; run backwards
}

// ballastSize is memory that the garbage collector counts and that takes none, as
// nothing is ever written to it. A small hub lives in 4 MiB, and would be collected
// every 4 MiB, which is 60 connects: a tenth of what they cost. So it is every 20,
// and with ten thousand devices this is no matter any more. A limit of the machine
// is told by GOMEMLIMIT.
const ballastSize = 16 << 20

// Start opens the data folder, loads what is trusted, and opens the doors. When
// it returns nil, connections are accepted. ctx bounds the start alone.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, log: cfg.logger(), failed: make(chan error, 1), ballast: make([]byte, ballastSize)}
	defer func() {
		if err != nil {
			s.Close(context.WithoutCancel(ctx))
		}
	}()

	// The folder is ours alone.
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	unlock, err := store.LockFolder(cfg.Data)
	if err != nil {
		return nil, err
	}
	s.onClose(func(context.Context) error { unlock(); return nil })

	// The machines.
	db, err := s.openStore(ctx)
	if err != nil {
		return nil, err
	}
	s.onClose(func(context.Context) error { return db.Close() })
	messages, err := messaging.Open(ctx, messaging.Options{
		Dir: filepath.Join(cfg.Data, "messages"), URL: cfg.NATS,
		MaxAge: cfg.RetentionAge, MaxBytes: cfg.RetentionBytes, Logger: s.log,
	})
	if err != nil {
		return nil, fmt.Errorf("message log: %w", err)
	}
	s.onClose(func(context.Context) error { return messages.Close() })

	// The keepers, and what they know. What they change is put on record first.
	if err := s.openAudit(ctx, db); err != nil {
		return nil, err
	}
	s.registry = registry.New(audit.Registry(s.audit, db), registry.Options{Now: cfg.Now, Changed: s.changed,
		Desired:   func(t signet.Twin, patch []byte) { s.hub.DesiredChanged(t, patch) },
		Connected: func(hub, device, module string) bool { return s.hub.Connected(hub, device, module) },
		Event:     func(hub string) { s.relay.Nudge(hub) }, EventsHeld: func(hub string) bool { return s.relay.Held(hub) }})
	s.authority = authority.New(audit.Authority(s.audit, db), authority.Options{Now: cfg.Now, Changed: s.changed, Stale: s.stale, Logger: s.log})
	if err := errors.Join(s.registry.Load(ctx), s.authority.Load(ctx), s.registry.BeginActivity(ctx)); err != nil {
		return nil, err
	}
	s.commands = commands.New(db, commands.Options{Now: cfg.Now, Logger: s.log,
		Waiting: func(q signet.CommandQueue) { s.hub.CommandWaiting(q) }})
	s.verdicts = authority.NewVerdictLog(db, authority.VerdictOptions{Now: cfg.Now, Logger: s.log})
	s.onClose(func(context.Context) error { s.verdicts.Close(); return nil })

	s.inventory = inventory.New(audit.Inventory(s.audit, db), inventory.Options{Now: cfg.Now, Logger: s.log,
		Live: func() []*signet.Principal { return s.hub.Live() }, Told: s.treeEvent, Found: s.cloneEvent, Disable: s.disable})
	// What issues certificates to devices, by keys of the operator's.
	policies, err := loadPolicies(cfg, s.registry.Services, s.log)
	if err != nil {
		return nil, err
	}
	s.onClose(func(context.Context) error { policies.close(); return nil })
	s.issuance = issuance.New(audit.Issuance(s.audit, db), issuance.Options{Policies: policies, Authority: s.authority, Hubs: s.registry, Now: cfg.Now, Logger: s.log})
	s.provisioning = provisioning.New(provisioning.Deps{Enrollments: audit.Enrollments(s.audit, db), Registrations: db, Authority: s.authority, Tenants: s.registry,
		Hubs: newPlacement(s.registry, cfg.LinkedHubCA), Issuer: s.issuance, Verdicts: s.verdicts, Webhooks: egress.Transport(cfg.PrivateWebhooks), Now: cfg.Now, Logger: s.log})

	// The waist.
	s.limits = limits.New(cfg.Now)
	node, _ := os.Hostname() // for people: receipts say where sessions were
	s.hub = hub.New(hub.Options{Authority: s.authority, Registry: s.registry, Verdicts: s.verdicts, Messages: messages,
		Commands: s.commands, Inventory: s.inventory, Issuer: s.issuance, Activity: s.registry, Limiter: s.limits, Now: cfg.Now, Node: node})
	s.relay = hub.NewRelay(s.hub, db, s.log)
	if err := errors.Join(s.firstHub(ctx), s.firstService(ctx)); err != nil {
		return nil, err
	}
	policies.warn()
	s.background(s.authority.Watch) // keeps what is known of revoked certificates up to date
	s.background(s.commands.Run)
	s.background(s.inventory.Run)
	s.background(s.relay.Run) // begins with what a crash has left
	s.background(s.hub.TellConnections)
	s.background(s.issuance.Run)
	s.background(s.provisioning.Run)
	s.background(s.registry.RunActivity)

	// The doors.
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics.MustRegister(s.authority, s.inventory, s.provisioning, s.limits)
	s.routes = routes.New(routes.Options{Store: audit.Routes(s.audit, db), Log: s.hub, Now: cfg.Now, Logger: s.log, Registerer: metrics})
	s.background(s.routes.Run)
	traces := trace.New()
	if err := s.loadCertificate(); err != nil {
		return nil, err
	}
	// Whether a device is there is told by the keep alive of MQTT. That of TCP would
	// wake it every 15 seconds.
	if s.mqttL, err = (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", cfg.MQTT); err != nil {
		return nil, err
	}
	if s.httpsL, err = net.Listen("tcp", cfg.HTTPS); err != nil {
		return nil, err
	}
	s.mqtt = gateway.NewMQTT(waist{s.hub}, gateway.Config{
		TLS: s.tlsConfig(), Registrar: registrar{s.provisioning}, Logger: s.log, Traces: traces, Registerer: metrics, Now: cfg.Now,
	})
	draining, drain := context.WithCancel(context.Background())
	s.https = &http.Server{
		Handler: split(gateway.NewHTTPS(s.mqtt, metrics), api.New(api.Deps{
			Authority: s.authority, Registry: s.registry, Provisioning: s.provisioning, Hub: s.hub, Verdicts: s.verdicts, Audit: s.audit,
			Commands: s.commands, Issuance: s.issuance, Routes: s.routes, Limiter: s.limits, Inventory: s.inventory, AdminToken: s.adminToken, Draining: draining, Now: cfg.Now, Logger: s.log, Traces: traces, Registerer: metrics,
		})),
		TLSConfig: s.tlsConfig("h2", "http/1.1"),
		ErrorLog:  slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// A stranger gets ten seconds for headers of 16 KiB, anyone a minute for a
		// request; streams extend their own deadline.
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
	}
	s.https.RegisterOnShutdown(drain)
	if err := s.openAdmin(db, metrics, traces); err != nil {
		return nil, err
	}
	s.watchExpiry(metrics)
	s.serve()
	return s, nil
}

// watchExpiry warns of what expires, as configured, until Close.
func (s *Server) watchExpiry(metrics prometheus.Registerer) {
	warnings := hub.ExpiryWarnings{Events: s.cfg.ExpiryEvents}
	if s.cfg.ExpiryLog {
		warnings.Logger = s.log
	}
	if s.cfg.ExpiryMetrics {
		warnings.Registerer = metrics
	}
	s.background(hub.NewExpiryWatch(s.hub, warnings).Run)
}

// split puts two doors behind one address: what is a device's own path goes to
// the devices' door, everything else to the back end's.
func split(devices *gateway.HTTPS, backEnd http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if devices.Takes(r.URL) {
			devices.ServeHTTP(w, r)
		} else {
			backEnd.ServeHTTP(w, r)
		}
	})
}

// background runs f until Close.
func (s *Server) background(f func(context.Context)) {
	ctx, stop := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		f(ctx)
	}()
	s.onClose(func(context.Context) error { stop(); <-over; return nil })
}

// serve opens the doors and has Close shut them first.
func (s *Server) serve() {
	go func() { s.fail(s.mqtt.Serve(s.mqttL)) }()
	go func() { s.fail(s.https.ServeTLS(shareListener(s.httpsL, maxHTTPS), "", "")) }()
	s.onClose(func(ctx context.Context) error {
		mqtt := make(chan error, 1)
		go func() { mqtt <- s.mqtt.Shutdown(ctx) }()
		err := s.https.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = s.https.Close() // streams that follow never end by themselves
		}
		return errors.Join(err, <-mqtt)
	})
}

func (s *Server) openStore(ctx context.Context) (*store.Store, error) {
	if s.cfg.Database != "" {
		db, err := store.OpenPostgres(ctx, s.cfg.Database, store.Options{Logger: s.log})
		if err != nil {
			return nil, fmt.Errorf("database: %w", err)
		}
		return db, nil
	}
	db, err := store.OpenSQLite(ctx, filepath.Join(s.cfg.Data, "signet.db"), store.Options{Logger: s.log})
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return db, nil
}

// changed is told by the keepers what is durable and in force, before they
// answer their caller.
func (s *Server) changed(ctx context.Context, c signet.Change) {
	// Nothing of a hub that is gone may count at one made anew under its name.
	if c.HubDeleted || c.HubCreated {
		if err := s.authority.Reload(ctx, c.Hub); err != nil {
			s.log.Error("what a hub trusts could not be read", "hub", c.Hub, "error", err)
		}
	}
	signet.AddReceipt(ctx, s.hub.Apply(ctx, c))
	if c.HubDeleted {
		s.inventory.Forget(c.Hub)
		if err := s.hub.Forget(context.Background(), c.Hub); err != nil {
			s.log.Error("messages of a deleted hub could not be removed", "hub", c.Hub, "error", err)
		}
		s.verdicts.Forget(c.Hub)
		s.routes.Forget(c.Hub)
		s.limits.Forget(c.Hub)
	}
	if c.HubCreated && s.certs != nil {
		if err := s.loadCertificate(); err != nil {
			s.log.Error("no server certificate for the new hub", "hub", c.Hub, "error", err)
		}
	}
}

// stale puts it on the hub's message log that a CRL grows old.
func (s *Server) stale(ctx context.Context, c signet.StaleCRL) {
	if !s.cfg.ExpiryEvents {
		return
	}
	s.hub.Event(ctx, c.Hub, hub.Event{Source: signet.SourceStale, Operation: "stale", Schema: "revocationStaleNotification", Body: c}, func(err error) {
		if err != nil && ctx.Err() == nil {
			s.log.Error("an event of a CRL that grows old is not stored", "hub", c.Hub, "error", err)
		}
	})
}

// firstHub makes the hub, its owner's connection string and the admin token
// where they are missing. A connection string of an earlier hub of the name is
// good for nothing, and replaced.
func (s *Server) firstHub(ctx context.Context) error {
	h, err := s.registry.HubByName(s.cfg.Hub)
	if signet.CodeOf(err) == signet.HubUnknown {
		h, err = s.registry.CreateHub(ctx, s.cfg.Hub, s.cfg.HostName)
	}
	if err != nil {
		return err
	}
	if h.HostName != s.cfg.HostName {
		return fmt.Errorf("the hub %s in %s has the host name %s, not %s: start with that name, or use another data folder",
			h.Name, s.cfg.Data, h.HostName, s.cfg.HostName)
	}
	owner := h.Policies[0]
	return s.leave(map[string]string{
		"owner.connection-string": signet.ConnectionString{HostName: h.HostName, SharedAccessKeyName: owner.Name, SharedAccessKey: owner.PrimaryKey}.String(),
		adminTokenFile:            newToken(),
	})
}

// firstService makes the provisioning service, and the files for its owner and
// its devices, where they are missing.
func (s *Server) firstService(ctx context.Context) error {
	if s.cfg.Provisioning == "off" {
		return nil
	}
	h, err := s.registry.HubByName(s.cfg.Provisioning)
	if signet.CodeOf(err) == signet.HubUnknown {
		h, err = s.registry.CreateService(ctx, s.cfg.Provisioning, s.cfg.Provisioning+"."+s.cfg.HostName)
	}
	if err != nil {
		return err
	}
	if !h.Provisions() {
		return fmt.Errorf("%s in %s is a hub: name the provisioning service otherwise (provisioning), or have none (off)", h.Name, s.cfg.Data)
	}
	owner := h.Policies[0]
	return s.leave(map[string]string{
		// By the name of the first hub, which is known to lead here.
		"provisioning.connection-string": signet.ConnectionString{HostName: s.cfg.HostName, SharedAccessKeyName: owner.Name, SharedAccessKey: owner.PrimaryKey}.String(),
		"id-scope":                       h.IDScope,
	})
}

// leave writes files for the owner into the data folder, unless they are there
// with that text; the admin token stays whatever it is.
func (s *Server) leave(files map[string]string) error {
	for name, text := range files {
		file := filepath.Join(s.cfg.Data, name)
		there, err := os.ReadFile(file)
		switch {
		case err == nil && (name == adminTokenFile || strings.TrimSpace(string(there)) == text):
			continue
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := writeFile(file, []byte(text+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

const adminTokenFile = "admin.token"

func newToken() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// adminToken reads the token of the management API each time, so that a new one
// in the file counts at once. It is "" when there is none, which fits nobody.
func (s *Server) adminToken() string {
	text, err := os.ReadFile(filepath.Join(s.cfg.Data, adminTokenFile))
	if err != nil {
		s.log.Error("the admin token cannot be read", "error", err)
		return ""
	}
	return strings.TrimSpace(string(text))
}

// loadCertificate loads the operator's certificate, or one of our own for the
// host names of all hubs.
func (s *Server) loadCertificate() (err error) {
	certFile, keyFile := s.cfg.TLSCert, s.cfg.TLSKey
	own := certFile == ""
	if own {
		if certFile, keyFile, err = s.ownCertificate(); err != nil {
			return err
		}
	}
	if s.certs != nil {
		return nil // the change of the files is seen by certs itself
	}
	if s.certs, err = loadCertificates(certFile, keyFile, s.log, s.cfg.Now); err == nil && own {
		s.certs.renew = func() error { _, _, err := s.ownCertificate(); return err }
	}
	return err
}

func (s *Server) ownCertificate() (certFile, keyFile string, err error) {
	var names []string
	for _, h := range slices.Concat(s.registry.Hubs(), s.registry.Services()) {
		names = append(names, h.HostName)
	}
	names = append(names, "localhost", "127.0.0.1", "::1")
	if certFile, keyFile, err = ownCertificate(s.cfg.Data, names, s.cfg.Now()); err != nil {
		err = fmt.Errorf("server certificate: %w", err)
	}
	return certFile, keyFile, err
}

// tlsConfig is how every door speaks TLS: it asks for a client certificate and
// judges none. Which one is good depends on the device, and that is known only
// when it says who it is.
func (s *Server) tlsConfig(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: s.certs.get,
		ClientAuth:     tls.RequestClientCert,
		NextProtos:     protocols,
		// For TLS 1.2: what Azure offers, as far as crypto/tls has it. The CBC
		// suite is for older C and C# devices (iot-hub-tls-support).
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256,
		},
	}
}

// MQTTAddr is where MQTT is accepted.
func (s *Server) MQTTAddr() string { return s.mqttL.Addr().String() }

// HTTPSAddr is where HTTPS is accepted.
func (s *Server) HTTPSAddr() string { return s.httpsL.Addr().String() }

// AdminAddr is where metrics and traces are shown, or "off".
func (s *Server) AdminAddr() string {
	if s.adminL == nil {
		return "off"
	}
	return s.adminL.Addr().String()
}

// Failed gives the error when the server can no longer serve by its own fault.
func (s *Server) Failed() <-chan error { return s.failed }

func (s *Server) fail(err error) {
	if err == nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return // it was told to end
	}
	select {
	case s.failed <- err:
	default:
	}
}

// Close ends the sessions and shuts everything in the reverse order of Start:
// doors first, then what stands behind them, so that what was acknowledged is
// kept and what was not is not.
func (s *Server) Close(ctx context.Context) error {
	var errs []error
	for len(s.closers) > 0 {
		last := len(s.closers) - 1
		errs = append(errs, s.closers[last](ctx))
		s.closers = s.closers[:last]
	}
	return errors.Join(errs...)
}

func (s *Server) onClose(f func(context.Context) error) { s.closers = append(s.closers, f) }
