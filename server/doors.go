package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/signet-iot/signet/api"
	"github.com/signet-iot/signet/backend"
	"github.com/signet-iot/signet/gateway"
)

// maxStreams bounds the requests under way on one connection of HTTP/2: some 30 KiB
// each with the longest headers, for a minute if the peer takes no answer. On all the
// connections that there may be they are 1.5 GiB at worst; with 100 it would be 13.
const maxStreams = 8

// openDoors opens the doors of devices and back ends, and the operator's window.
func (s *Server) openDoors(ctx context.Context) (err error) {
	s.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		s.authority, s.inventory, s.provisioning, s.limits)
	if err := s.loadCertificate(); err != nil {
		return err
	}
	// Whether a device is there is told by the keep alive of MQTT. That of TCP would
	// wake it every 15 seconds.
	if s.mqttL, err = (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", s.cfg.MQTT); err != nil {
		return fmt.Errorf("mqtt: %w", err)
	}
	if err := s.listenAMQP(ctx); err != nil {
		return err
	}
	if s.httpsL, err = net.Listen("tcp", s.cfg.HTTPS); err != nil {
		return fmt.Errorf("https: %w", err)
	}
	s.backEnd = backend.New(backend.Deps{Log: s.hub, Registry: s.registry, Commands: s.commands, Verdicts: s.verdicts,
		Port: portOf(s.amqpL), Now: s.cfg.Now, Logger: s.log, Registerer: s.metrics})
	s.mqtt = gateway.NewMQTT(waist{s.hub}, gateway.Config{
		TLS: s.tlsConfig(), Registrar: registrar{s.provisioning}, BackEnd: backEnds{s.backEnd}, Logger: s.log, Traces: s.traces, Registerer: s.metrics, Now: s.cfg.Now,
	})
	// Behind the devices: when no others stand before the doors.
	s.background(s.inventory.Run)
	s.background(s.registry.RunActivity)
	s.amqp = gateway.NewAMQP(s.mqtt, s.metrics)
	draining, drain := context.WithCancel(context.Background())
	s.devices = gateway.NewHTTPS(s.mqtt, s.metrics)
	backEnd := api.New(api.Deps{
		Authority: s.authority, Registry: s.registry, Provisioning: s.provisioning, Issuance: s.issuance, Commands: s.commands,
		Hub: s.hub, Inventory: s.inventory, Routes: s.routes, Limiter: s.limits, Verdicts: s.verdicts, Audit: s.audit, Known: s.devices.Known,
		AdminToken: s.adminToken, Draining: draining, Now: s.cfg.Now, Logger: s.log, Traces: s.traces, Registerer: s.metrics,
	})
	s.https = &http.Server{
		Handler:   split(s.devices, backEnd),
		TLSConfig: s.tlsConfig("h2", "http/1.1"),
		ErrorLog:  slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// A stranger gets ten seconds for headers of 16 KiB, anyone a minute for a
		// request; streams extend their own deadline.
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
	}
	s.https.RegisterOnShutdown(drain)
	if err := s.openAdmin(); err != nil {
		return err
	}
	s.serve()
	return nil
}

// rush says whether what can be written later shall be: the processors and the disk are
// theirs who come, and theirs who are there and send.
func (s *Server) rush() bool { return s.mqtt.Rush() }

// amqpPort is the one that SDKs know.
const amqpPort = "5671"

// listenAMQP opens the address for AMQP. Who has not asked for one starts also where
// another has the port that it would have by default.
func (s *Server) listenAMQP(ctx context.Context) (err error) {
	address := s.cfg.AMQP
	switch address {
	case "off":
		return nil
	case "":
		host, _, err := net.SplitHostPort(s.cfg.MQTT)
		if err != nil {
			return err
		}
		address = net.JoinHostPort(host, amqpPort)
	}
	s.amqpL, err = (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", address)
	if err != nil && s.cfg.AMQP == "" {
		s.log.Warn("AMQP is served over WebSocket alone: its port cannot be had", "address", address, "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("amqp: %w", err)
	}
	return nil
}

// portOf is the port of a listener, 0 when there is none.
func portOf(l net.Listener) int {
	if l == nil {
		return 0
	}
	return l.Addr().(*net.TCPAddr).Port
}

// split puts two doors behind one address: what is a device's own path goes to
// the devices' door, everything else to the back end's.
func split(devices *gateway.HTTPS, backEnd http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if devices.Takes(r.URL) {
			devices.ServeHTTP(w, r)
		} else {
			devices.Pass(r.Context())
			backEnd.ServeHTTP(w, r)
		}
	})
}

// serve opens the doors and has Close shut them first.
func (s *Server) serve() {
	go func() { s.fail(s.mqtt.Serve(s.mqttL)) }()
	if s.amqpL != nil {
		go func() { s.fail(s.amqp.Serve(s.amqpL)) }()
	}
	go func() { s.fail(s.https.Serve(s.devices.Listen(s.httpsL, s.https))) }()
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

// loadCertificate loads the operator's certificate, or one of our own for the
// host names of all hubs.
func (s *Server) loadCertificate() (err error) {
	certFile, keyFile := s.cfg.TLSCert, s.cfg.TLSKey
	own := certFile == ""
	if own && s.certs == nil {
		if err := beginCA(s.cfg.Data, s.cfg.Now()); err != nil {
			return err
		}
	}
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
