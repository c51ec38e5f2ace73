// Package hubtest runs a whole hub in one process for tests: real sockets on the
// loopback interface, SQLite in a temporary folder, embedded JetStream.
package hubtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/server"
)

// Hub is a running server with one hub.
type Hub struct {
	*server.Server
	Config server.Config
	// Owner is the connection string of the hub's owner, with the port that the
	// server got.
	Owner signet.ConnectionString
	// Token is the admin token.
	Token string
	// CAFile holds the CA of the server's certificate; Roots the same, parsed.
	CAFile string
	Roots  *x509.CertPool

	pulse *pulse
}

// Start runs a hub on free ports until the test ends. Options alter the
// configuration first.
func Start(t testing.TB, options ...func(*server.Config)) *Hub {
	t.Helper()
	cfg := server.DefaultConfig()
	cfg.Data = t.TempDir()
	cfg.HostName = "localhost"
	cfg.MQTT, cfg.AMQP, cfg.HTTPS, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, o := range options {
		o(&cfg)
	}
	s, err := server.Start(context.Background(), cfg)
	if err != nil {
		t.Fatalf("start the hub: %v", err)
	}
	h := &Hub{Server: s, Config: cfg, pulse: newPulse()}
	t.Cleanup(h.Stop)

	h.Owner, err = signet.ParseConnectionString(h.read(t, "owner.connection-string"))
	if err != nil {
		t.Fatal(err)
	}
	h.Owner.HostName = cfg.HostName + h.HTTPSAddr()[strings.LastIndexByte(h.HTTPSAddr(), ':'):]
	h.Token = h.read(t, "admin.token")
	h.CAFile = filepath.Join(cfg.Data, "server-ca.pem")
	h.Roots = x509.NewCertPool()
	h.Roots.AppendCertsFromPEM([]byte(h.read(t, "server-ca.pem")))
	return h
}

// Stop shuts the hub down; the data stays until the test ends. It may be called
// again.
func (h *Hub) Stop() {
	h.pulse.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	h.Close(ctx)
}

// ClientTLS is how a device connects: trusting the server's CA, with a chain of
// its own if it has one.
func (h *Hub) ClientTLS(certificates ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: h.Roots, ServerName: h.Config.HostName, Certificates: certificates}
}

func (h *Hub) read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.Config.Data, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// testWriter sends the server's log to the test's.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	defer func() { recover() }() // a line after the test's end is nobody's
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}
