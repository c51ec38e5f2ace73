package server_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
)

// TestAuditOutlives: acts are on record with who did them, also after a restart;
// a database that was put back to an earlier state is noticed at the start.
func TestAuditOutlives(t *testing.T) {
	h := hubtest.Start(t)
	dir := h.Config.Data
	again := func(c *server.Config) { c.Data = dir }
	act := func(h *hubtest.Hub, id string) {
		t.Helper()
		c, err := client.New(client.Options{ConnectionString: h.Owner.String(), CAFile: h.CAFile})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.CreateDevice(t.Context(), client.Device{DeviceID: id}); err != nil {
			t.Fatal(err)
		}
		entries, err := c.Audit(t.Context(), false, -1, 1)
		if err != nil || len(entries) != 1 || entries[0].Act != "identity.create" || entries[0].Of != id ||
			entries[0].By != "iothubowner" || entries[0].Remote != "127.0.0.1" {
			t.Errorf("%+v %v", entries, err)
		}
		if _, err := c.Audit(t.Context(), true, -1, 1); signet.CodeOf(err) == "" {
			t.Error("the owner of a hub reads of all")
		}
	}
	act(h, "press-17")
	h.Stop()
	db := filepath.Join(dir, "signet.db")
	backup, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	h = hubtest.Start(t, again)
	act(h, "press-18")
	h.Stop()

	if err := os.WriteFile(db, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := h.Config
	cfg.Logger = slog.New(slog.DiscardHandler)
	_, err = server.Start(context.Background(), cfg)
	if signet.CodeOf(err) != signet.AuditChanged || !strings.Contains(signet.AsError(err).Fix, "audit.checkpoint") {
		t.Fatalf("%v", err)
	}
	// On purpose: as the fix says.
	if err := os.Rename(filepath.Join(dir, "audit.checkpoint"), filepath.Join(t.TempDir(), "kept")); err != nil {
		t.Fatal(err)
	}
	act(hubtest.Start(t, again), "press-19")
}

// TestAuditKeyAway: without the key of the log that it has signed of the server does not
// start, and makes no other; with it again, it does. What a crash left half written goes.
func TestAuditKeyAway(t *testing.T) {
	h := hubtest.Start(t)
	h.Stop()
	cfg := h.Config
	cfg.Logger = slog.New(slog.DiscardHandler)
	key, half := filepath.Join(cfg.Data, "audit.key"), filepath.Join(cfg.Data, ".new-1234")
	away := filepath.Join(t.TempDir(), "audit.key")
	if err := errors.Join(os.Rename(key, away), os.WriteFile(half, []byte("half a k"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Start(t.Context(), cfg); signet.CodeOf(err) != signet.AuditChanged || !strings.Contains(err.Error(), "audit.key") {
		t.Errorf("without the key: %v", err)
	}
	if err := os.Rename(away, key); err != nil {
		t.Fatal(err)
	}
	s, err := server.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was half written: %v", err)
	}
}
