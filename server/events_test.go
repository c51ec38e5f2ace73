package server_test

import (
	"context"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// TestConnectionEvents: a device that connects and goes is told of on the message
// log, beside what it sends.
func TestConnectionEvents(t *testing.T) {
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	h.Trust(t, "hub", root)
	if _, err := h.Registry().SetEvents(t.Context(), "hub", signet.ConnectionEvents|signet.LifeCycleEvents); err != nil {
		t.Fatal(err)
	}
	h.CADevice(t, "hub", "press-17")
	d := h.Dial(t, h.ClientTLS(root.Device(t, "press-17")))
	if code := d.Connect(t, "localhost", "press-17"); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	d.Publish(t, "press-17", "hello")

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	seen := map[string]bool{}
	err := h.Hub().Read(ctx, "hub", hub.Start{}, true, func(_ signet.Position, m *signet.Message) bool {
		if m.DeviceID != "press-17" {
			t.Errorf("told of %q", m.DeviceID)
		}
		operation := string(m.Body)
		for _, p := range m.Properties {
			if p.Name == "opType" {
				operation = p.Value
			}
		}
		seen[operation] = true
		if operation == "deviceConnected" {
			d.Close()
		}
		return operation != "deviceDisconnected"
	})
	if err != nil || len(seen) != 4 || !seen["createDeviceIdentity"] || !seen["hello"] {
		t.Errorf("told %v, %v", seen, err)
	}
}
