// Package server puts the house together: configuration in, a running hub out.
// It is the one place that names the machines (database, message log, sockets)
// behind the contracts that the rules state; cmd/signet and the tests start the
// very same.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/audit"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/backend"
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

	db       *store.Store
	messages *messaging.Messaging
	metrics  *prometheus.Registry
	traces   *trace.Traces

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
	policies     *policies     // of issuance
	certs        *certificates // nil until the doors are set up

	mqtt          *gateway.MQTT
	amqp          *gateway.AMQP
	backEnd       *backend.Backend // nil until the doors are set up
	devices       *gateway.HTTPS
	https         *http.Server
	mqttL, httpsL net.Listener
	amqpL         net.Listener                  // nil when there is none
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
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, log: cfg.logger(), failed: make(chan error, 1), ballast: make([]byte, ballastSize),
		metrics: prometheus.NewRegistry(), traces: trace.New()}
	for _, step := range []func(context.Context) error{
		s.takeFolder,   // it is ours alone
		s.openMachines, // the database and the message log
		s.openAudit,    // what is changed from here on is put on record first
		s.callKeepers,  // who keep hubs, identities and trust, and what they know
		s.setOut,       // the journeys: provisioning, and the waist that devices come through
		s.firstTenants, // a hub and a provisioning service, and the keys to them
		s.goOn,         // with what runs beside the doors, and what a crash has left
		s.openDoors,
	} {
		if err := step(ctx); err != nil {
			s.Close(context.WithoutCancel(ctx))
			return nil, err
		}
	}
	return s, nil
}

func (s *Server) takeFolder(context.Context) error {
	if err := os.MkdirAll(s.cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	unlock, err := store.LockFolder(s.cfg.Data)
	if err != nil {
		return err
	}
	s.onClose(func(context.Context) error { unlock(); return nil })
	return removeHalf(s.cfg.Data)
}

func (s *Server) openMachines(ctx context.Context) (err error) {
	if s.cfg.Database != "" {
		s.db, err = store.OpenPostgres(ctx, s.cfg.Database, store.Options{Logger: s.log})
	} else {
		s.db, err = store.OpenSQLite(ctx, filepath.Join(s.cfg.Data, "signet.db"), store.Options{Logger: s.log, Failed: s.fail})
	}
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	s.onClose(func(context.Context) error { return s.db.Close() })
	s.messages, err = messaging.Open(ctx, messaging.Options{
		Dir: filepath.Join(s.cfg.Data, "messages"), URL: s.cfg.NATS,
		MaxAge: s.cfg.RetentionAge, MaxBytes: s.cfg.RetentionBytes, Logger: s.log,
	})
	if err != nil {
		return fmt.Errorf("message log: %w", err)
	}
	s.onClose(func(context.Context) error { return s.messages.Close() })
	return nil
}

func (s *Server) callKeepers(ctx context.Context) error {
	now := s.cfg.Now
	s.registry = registry.New(audit.Registry(s.audit, s.db), registry.Options{Now: now, Changed: s.changed,
		Desired:   func(t signet.Twin, patch []byte) { s.hub.DesiredChanged(t, patch) },
		Connected: func(hub, device, module string) bool { return s.hub.Connected(hub, device, module) }, Rush: s.rush,
		Event: func(hub string) { s.relay.Nudge(hub) }, EventsHeld: func(hub string) bool { return s.relay.Held(hub) }})
	s.authority = authority.New(audit.Authority(s.audit, s.db), authority.Options{Now: now, Changed: s.changed, Stale: s.stale, Logger: s.log})
	s.commands = commands.New(s.db, commands.Options{Now: now, Logger: s.log,
		Waiting: func(q signet.CommandQueue) { s.hub.CommandWaiting(q) }})
	s.inventory = inventory.New(audit.Inventory(s.audit, s.db), inventory.Options{Now: now, Logger: s.log,
		Live: func() []*signet.Principal { return s.hub.Live() }, Rush: s.rush, Told: s.treeEvent, Found: s.cloneEvent, Disable: s.disable})
	s.limits = limits.New(now)
	s.verdicts = authority.NewVerdictLog(s.db, authority.VerdictOptions{Now: now, Logger: s.log})
	s.onClose(func(context.Context) error { s.verdicts.Close(); return nil })
	return errors.Join(s.registry.Load(ctx), s.authority.Load(ctx), s.registry.BeginActivity(ctx))
}

func (s *Server) setOut(context.Context) (err error) {
	now := s.cfg.Now
	// By keys of the operator's, which stay in their files and tokens.
	if s.policies, err = loadPolicies(s.cfg, s.registry.Services, s.log); err != nil {
		return err
	}
	s.onClose(func(context.Context) error { s.policies.close(); return nil })
	s.issuance = issuance.New(audit.Issuance(s.audit, s.db), issuance.Options{Policies: s.policies, Authority: s.authority, Hubs: s.registry, Now: now, Logger: s.log})
	s.provisioning = provisioning.New(provisioning.Deps{Enrollments: audit.Enrollments(s.audit, s.db), Registrations: s.db,
		Authority: s.authority, Tenants: s.registry, Hubs: newPlacement(s.registry, s.cfg.LinkedHubCA), Issuer: s.issuance,
		Verdicts: s.verdicts, Webhooks: egress.Transport(s.cfg.PrivateWebhooks), Now: now, Logger: s.log})
	node, _ := os.Hostname() // for people: receipts say where sessions were
	s.hub = hub.New(hub.Options{Authority: s.authority, Registry: s.registry, Verdicts: s.verdicts, Messages: s.messages,
		Commands: s.commands, Inventory: s.inventory, Issuer: s.issuance, Activity: s.registry, Limiter: s.limits, Now: now, Node: node})
	s.relay = hub.NewRelay(s.hub, s.db, s.log)
	s.routes = routes.New(routes.Options{Store: audit.Routes(s.audit, s.db), Log: s.hub, Now: now, Logger: s.log, Registerer: s.metrics})
	return nil
}

func (s *Server) goOn(context.Context) error {
	s.policies.warn()
	for _, run := range []func(context.Context){
		s.authority.Watch, // keeps what is known of revoked certificates up to date
		s.commands.Run,
		s.relay.Run,
		s.hub.TellConnections,
		s.issuance.Run,
		s.provisioning.Run,
		s.routes.Run,
		s.watchExpiry(),
	} {
		s.background(run)
	}
	return nil
}

// watchExpiry gives what warns of what expires, as configured.
func (s *Server) watchExpiry() (run func(context.Context)) {
	warnings := hub.ExpiryWarnings{Events: s.cfg.ExpiryEvents}
	if s.cfg.ExpiryLog {
		warnings.Logger = s.log
	}
	if s.cfg.ExpiryMetrics {
		warnings.Registerer = s.metrics
	}
	return hub.NewExpiryWatch(s.hub, warnings).Run
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
		if s.backEnd != nil {
			s.backEnd.Forget(c.Hub)
		}
	}
	if c.HubCreated && s.certs != nil {
		if err := s.loadCertificate(); err != nil {
			s.log.Error("no server certificate for the new hub", "hub", c.Hub, "error", err)
		}
	}
}

// disable disables a device for the inventory. A module is let in when its device
// is, so that its device is meant.
func (s *Server) disable(ctx context.Context, hub, name, reason string) (bool, error) {
	device, _, _ := strings.Cut(name, "/")
	_, done, err := s.registry.SetStatus(signet.WithActor(ctx, signet.Actor{Name: "clones"}), hub, device, signet.Disabled, reason)
	if signet.CodeOf(err) == signet.IdentityUnknown {
		return false, nil
	}
	return done, err
}

// MQTTAddr is where MQTT is accepted.
func (s *Server) MQTTAddr() string { return s.mqttL.Addr().String() }

// HTTPSAddr is where HTTPS is accepted.
func (s *Server) HTTPSAddr() string { return s.httpsL.Addr().String() }

// AMQPAddr is where AMQP is accepted, or "off".
func (s *Server) AMQPAddr() string {
	if s.amqpL == nil {
		return "off"
	}
	return s.amqpL.Addr().String()
}

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
