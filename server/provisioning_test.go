package server_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
)

// TestServiceApart: a CA that the provisioning service trusts proves nothing to a
// hub, nor the reverse; and neither is found under the other's name.
func TestServiceApart(t *testing.T) {
	h := hubtest.Start(t)
	const service = "dps"
	ofService, ofHub := hubtest.NewCA(t, "Service Root"), hubtest.NewCA(t, "Hub Root")
	h.Trust(t, service, ofService)
	h.Trust(t, tenant, ofHub)
	h.CADevice(t, tenant, "d")
	byService, byHub := ofService.Device(t, "d"), ofHub.Device(t, "d")

	connect := func(host string, pair tls.Certificate) byte {
		t.Helper()
		return h.Dial(t, h.ClientTLS(pair)).Connect(t, host, "d")
	}
	if got := connect(h.Config.HostName, byService); got != 5 {
		t.Errorf("the hub answers %d to a device of the service's CA", got)
	}
	if got := connect(h.Config.HostName, byHub); got != 0 {
		t.Errorf("the hub answers %d to a device of its own CA", got)
	}
	for _, pair := range []tls.Certificate{byService, byHub} {
		if got := connect(service+"."+h.Config.HostName, pair); got != 5 {
			t.Errorf("the host name of the service is answered %d, as if it were a hub's", got)
		}
	}
	leaf, err := x509.ParseCertificate(byHub.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Authority().Judge(service, []*x509.Certificate{leaf}, time.Now()); signet.CodeOf(err) != signet.ChainIssuerMissing {
		t.Errorf("the service judges a device of the hub's CA: %v", err)
	}
	if _, err := h.Registry().HubByHost(service + "." + h.Config.HostName); signet.CodeOf(err) != signet.HubUnknown {
		t.Errorf("the service is found as a hub: %v", err)
	}
}
