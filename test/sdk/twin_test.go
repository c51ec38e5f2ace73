package sdk_test

import (
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
)

// TestTwinSDK: twins and direct methods between the device SDK and the service
// SDK.
func TestTwinSDK(t *testing.T) {
	h := startHub(t)
	root := hubtest.NewCA(t, "Acme Root")
	trust(t, h, root)
	createDevice(t, h, signet.Identity{DeviceID: "press-17", Auth: signet.Authentication{Type: signet.AuthCA}})
	owner := h.Owner
	owner.HostName = host
	if out, err := node(t, h, "twin.js", host, "press-17", folder(t, root.Device(t, "press-17")), h.CAFile, owner.String()); err != nil {
		t.Error(out)
	}
}
