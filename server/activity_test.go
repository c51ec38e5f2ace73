package server_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/query"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/server"
	"github.com/signet-iot/signet/store"
)

// TestConnectedIsFound: a device that connects is found as connected, one that
// leaves as disconnected, and after a crash nobody is connected who is not.
func TestConnectedIsFound(t *testing.T) {
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	h.Trust(t, tenant, root)
	i := h.CADevice(t, tenant, "press-17")
	h.CADevice(t, tenant, "press-18")
	q, err := query.Parse(`SELECT * FROM devices WHERE connectionState = 'Connected' AND lastActivityTime > '2020-01-01'`)
	if err != nil {
		t.Fatal(err)
	}
	found := func(h *hubtest.Hub) int {
		t.Helper()
		h.Registry().WriteActivity(t.Context())
		page, err := h.Registry().Find(t.Context(), tenant, q, registry.Key{}, 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Records)
	}
	d := h.Dial(t, h.ClientTLS(root.Device(t, "press-17")))
	if code := d.Connect(t, "localhost", "press-17"); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	if n := found(h); n != 1 {
		t.Errorf("%d are connected", n)
	}
	h.Stop()
	d.WaitClosed(t)

	// What a process leaves that had no time to say so.
	db, err := store.OpenSQLite(t.Context(), filepath.Join(h.Config.Data, "signet.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	left, err := db.Activity(t.Context(), tenant, "press-17", "press-17")
	if err != nil || len(left) != 1 || left[0].Connected {
		t.Errorf("a server that was stopped leaves %+v %v", left, err)
	}
	now := time.Now()
	if err := db.SaveActivity(t.Context(), []signet.Activity{{Hub: tenant, DeviceID: i.DeviceID, GenerationID: i.GenerationID, Connected: true, ConnectionUpdated: now, LastActive: now}}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if n := found(hubtest.Start(t, func(c *server.Config) { c.Data = h.Config.Data })); n != 0 {
		t.Errorf("after the start %d are connected", n)
	}
}
