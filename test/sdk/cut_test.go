package sdk_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
)

// TestCutSDK: the line of a device that is connected with the official SDK is
// distrusted. The session ends at once; by MQTT the SDK tries to come back, hears that
// it may not, and tells its application. By AMQP it is told why, and does not try.
func TestCutSDK(t *testing.T) {
	h := startHub(t, withAMQP)
	root := hubtest.NewCA(t, "Acme Root")
	trust(t, h, root)
	for _, door := range []string{"mqtt", "ws", "amqp", "amqp-ws"} {
		id := "press-" + door
		line := root.Intermediate(t, "Line "+door)
		createDevice(t, h, signet.Identity{DeviceID: id, Auth: signet.Authentication{Type: signet.AuthCA}})
		out := make(chan string, 1)
		go func() {
			text, _ := node(t, h, "cut.js", door, host, id, folder(t, line.Device(t, id)), h.CAFile)
			out <- text
		}()
		for deadline := time.Now().Add(2 * time.Minute); !h.Hub().Connected(h.Config.Hub, id, ""); {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not connected: %s", door, <-out)
			}
			time.Sleep(20 * time.Millisecond)
		}
		begun := time.Now()
		ctx, receipts := signet.WithReceipts(t.Context())
		d := signet.Distrust{By: "test", Reason: "stolen"}
		if _, err := h.Authority().Distrust(ctx, h.Config.Hub, d, []*x509.Certificate{line.Cert}); err != nil {
			t.Fatal(err)
		}
		r := receipts.List()
		if len(r) != 1 {
			t.Fatalf("%s: receipts %+v", door, r)
		}
		h.Cut(t, r[0], 1)
		if text := <-out; !strings.Contains(text, "gone: UnauthorizedError") {
			t.Errorf("%s: %s", door, text)
		}
		took := time.Since(begun)
		switch got := lastVerdict(t, h, id); {
		case strings.HasPrefix(door, "amqp") && took > time.Minute:
			t.Errorf("%s: the SDK has noticed after %v", door, took)
		case !strings.HasPrefix(door, "amqp") && got != signet.CertRevoked:
			t.Errorf("%s: verdict %s", door, got)
		}
	}
}
