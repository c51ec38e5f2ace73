package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// openAdmin opens the operator's window: metrics, health and traces.
func (s *Server) openAdmin() (err error) {
	if s.cfg.Admin == "off" {
		return nil
	}
	s.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "signet_sessions", Help: "Identities that are connected now.",
	}, func() float64 { return float64(s.hub.Sessions("")) }))

	s.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "signet_connection_events_lost_total", Help: "Events of devices that came or went that are not on the message log.",
	}, func() float64 { return float64(s.hub.ConnectionEventsLost()) }))

	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := s.db.Ping(ctx); err != nil {
			http.Error(w, "database: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("GET /debug/traces", s.traces)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<title>signet</title><h1>signet</h1><p>hub %s, mqtt %s, https %s</p>
<ul><li><a href="/metrics">metrics</a><li><a href="/healthz">healthz</a><li><a href="/readyz">readyz</a>
<li><a href="/debug/traces">connection traces</a><li><a href="/debug/pprof/">profiles</a></ul>`,
			s.cfg.HostName, s.MQTTAddr(), s.HTTPSAddr())
	})
	if s.adminL, err = net.Listen("tcp", s.cfg.Admin); err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	admin := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { s.fail(admin.Serve(s.adminL)) }()
	s.onClose(func(context.Context) error { return admin.Close() })
	return nil
}
