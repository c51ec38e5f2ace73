package server_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/internal/hubtest"
)

// owner is the back end of the hub's owner.
func owner(t *testing.T, h *hubtest.Hub) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{ConnectionString: h.Owner.String(), Token: h.Token, CAFile: h.CAFile, Address: h.HTTPSAddr()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDistrustedLine: of two lines below one root, one is distrusted. All that it
// signed is gone when the call returns, says the receipt and say the sockets; it
// stays out, and who asks is told why. The other works on.
func TestDistrustedLine(t *testing.T) {
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	h.Trust(t, tenant, root)
	factory := root.Intermediate(t, "Factory")
	stolen, honest := factory.Intermediate(t, "Line 4"), factory.Intermediate(t, "Line 5")
	var lost []*hubtest.Device
	for n := range 5 {
		id := fmt.Sprint("press-", n)
		h.CADevice(t, tenant, id)
		d := h.Dial(t, h.ClientTLS(stolen.Device(t, id)))
		if code := d.Connect(t, "localhost", id); code != 0 {
			t.Fatal(code)
		}
		lost = append(lost, d)
	}
	h.CADevice(t, tenant, "lathe")
	kept := h.Dial(t, h.ClientTLS(honest.Device(t, "lathe")))
	if code := kept.Connect(t, "localhost", "lathe"); code != 0 {
		t.Fatal(code)
	}

	back := owner(t, h)
	d, receipts, err := back.Distrust(t.Context(), client.DistrustRequest{Certificate: hubtest.PEM(stolen.Cert.Raw), Reason: "stolen"})
	if err != nil {
		t.Fatal(err)
	}
	if len(receipts) != 1 || len(receipts[0].Devices) != 5 || receipts[0].Node == "" {
		t.Fatalf("receipts %+v", receipts)
	}
	h.Cut(t, receipts[0], 5)
	if d.Kind != signet.DistrustKey || d.By != "iothubowner" || d.Subject != "CN=Line 4" || d.Reason != "stolen" {
		t.Errorf("%+v", d)
	}
	for _, d := range lost {
		d.WaitClosed(t)
	}
	kept.Publish(t, "lathe", "still here")

	if code := h.Dial(t, h.ClientTLS(stolen.Device(t, "press-0"))).Connect(t, "localhost", "press-0"); code != 5 {
		t.Errorf("CONNACK %d", code)
	}
	vs, err := h.Verdicts().List(t.Context(), authority.VerdictQuery{Hub: tenant, DeviceID: "press-0", Limit: 5})
	if err != nil || len(vs) != 1 || vs[0].Code != signet.CertRevoked || !strings.Contains(vs[0].Message, "iothubowner: stolen") || vs[0].Certificate.Index != 1 {
		t.Errorf("%+v %v", vs, err)
	}
	if list, err := back.Distrusts(t.Context()); err != nil || len(list) != 1 || list[0] != d {
		t.Errorf("%+v %v", list, err)
	}
	if err := back.LiftDistrust(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if code := h.Dial(t, h.ClientTLS(stolen.Device(t, "press-0"))).Connect(t, "localhost", "press-0"); code != 0 {
		t.Errorf("lifted: CONNACK %d", code)
	}
}

// TestResumptionOfTheDistrusted: a resumed TLS session shows the certificate of
// the first, and is judged by what is distrusted now; so is a handshake that came
// before the distrust, and a CONNECT after.
func TestResumptionOfTheDistrusted(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.2 ticket": tls.VersionTLS12, "TLS 1.3 PSK": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			h := hubtest.Start(t)
			root := hubtest.NewCA(t, "Root")
			h.Trust(t, tenant, root)
			h.CADevice(t, tenant, "d")
			pair := root.Intermediate(t, "Line").Device(t, "d")
			conf := h.ClientTLS(pair)
			conf.MinVersion, conf.MaxVersion = version, version
			conf.ClientSessionCache = tls.NewLRUClientSessionCache(8)
			visit := func() (code byte, resumed bool) {
				d := h.Dial(t, conf)
				defer d.Close()
				return d.Connect(t, "localhost", "d"), d.ConnectionState().DidResume
			}
			visit()
			if code, resumed := visit(); code != 0 || !resumed {
				t.Fatalf("the session is not resumed (CONNACK %d): what follows would prove nothing", code)
			}
			early := h.Dial(t, conf)
			if err := early.Handshake(); err != nil {
				t.Fatal(err)
			}
			if _, _, err := owner(t, h).Distrust(t.Context(), client.DistrustRequest{Certificate: hubtest.PEM(pair.Certificate[0])}); err != nil {
				t.Fatal(err)
			}
			if code := early.Connect(t, "localhost", "d"); code != 5 {
				t.Errorf("distrusted between handshake and CONNECT: CONNACK %d", code)
			}
			if code, resumed := visit(); code != 5 || !resumed {
				t.Errorf("distrusted: CONNACK %d, resumed %v", code, resumed)
			}
		})
	}
}

// TestReceipts: whoever changes what sessions rest on is told what that did, in a
// header that no client of Azure minds.
func TestReceipts(t *testing.T) {
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	ca := h.Trust(t, tenant, root)
	if _, err := h.Registry().CreateHub(t.Context(), "other", "other.test"); err != nil {
		t.Fatal(err)
	}
	h.Trust(t, "other", root)
	live := func(tenant, host string, ids ...string) (ds []*hubtest.Device) {
		for _, id := range ids {
			if _, err := h.Registry().Get(t.Context(), tenant, id, ""); err != nil {
				h.CADevice(t, tenant, id)
			}
			d := h.Dial(t, h.ClientTLS(root.Device(t, id)))
			if code := d.Connect(t, host, id); code != 0 {
				t.Fatalf("%s at %s: CONNACK %d", id, host, code)
			}
			ds = append(ds, d)
		}
		return ds
	}
	token, err := signet.SignSAS("localhost", h.Owner.SharedAccessKeyName, h.Owner.SharedAccessKey, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: h.ClientTLS()}}
	management := "/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/hub/certificates/"
	for _, c := range []struct {
		name               string
		tenant, host       string
		devices            []string
		method, path, body string
		authorization      string
	}{
		{"a device is disabled", tenant, "localhost", []string{"d"}, "PUT", "/devices/d?api-version=2021-04-12",
			`{"deviceId":"d","status":"disabled","authentication":{"type":"certificateAuthority"}}`, token},
		{"a device is deleted", tenant, "localhost", []string{"e"}, "DELETE", "/devices/e?api-version=2021-04-12", "", token},
		{"many are, in bulk", tenant, "localhost", []string{"f", "g"}, "POST", "/devices?api-version=2021-04-12",
			`[{"id":"f","importMode":"delete"},{"id":"g","importMode":"delete"}]`, token},
		{"a CA is deleted", tenant, "localhost", []string{"i", "j", "k"}, "DELETE", management + ca.Name + "?api-version=2023-06-30", "", "Bearer " + h.Token},
		{"a hub is deleted", "other", "other.test", []string{"d", "e"}, "DELETE", "/signet/hubs/other", "", "Bearer " + h.Token},
	} {
		devices := live(c.tenant, c.host, c.devices...)
		r, err := http.NewRequestWithContext(t.Context(), c.method, "https://"+h.Owner.HostName+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", c.authorization)
		r.Header.Set("If-Match", "*")
		answer, err := web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		var receipt signet.Receipt
		header := answer.Header.Get("Signet-Receipt")
		if err := json.Unmarshal([]byte(header), &receipt); err != nil || answer.StatusCode > 299 || strings.Contains(header, `"devices"`) {
			t.Errorf("%s: %d, receipt %q", c.name, answer.StatusCode, header)
		}
		h.Cut(t, receipt, len(devices))
		for _, d := range devices {
			d.WaitClosed(t)
		}
	}
}

// TestHubMadeAnew: nothing that an earlier hub of the name trusted counts, nor
// what it distrusted.
func TestHubMadeAnew(t *testing.T) {
	h := hubtest.Start(t)
	old, again := hubtest.NewCA(t, "Old"), hubtest.NewCA(t, "Again")
	make := func() {
		t.Helper()
		if _, err := h.Registry().CreateHub(t.Context(), "other", "other.test"); err != nil {
			t.Fatal(err)
		}
		h.CADevice(t, "other", "d")
	}
	connect := func(ca *hubtest.CA, want byte) {
		t.Helper()
		if code := h.Dial(t, h.ClientTLS(ca.Device(t, "d"))).Connect(t, "other.test", "d"); code != want {
			t.Errorf("%s: CONNACK %d, want %d", ca.Cert.Subject, code, want)
		}
	}
	make()
	h.Trust(t, "other", old)
	h.Trust(t, "other", again)
	if _, err := h.Authority().Distrust(t.Context(), "other", signet.Distrust{}, []*x509.Certificate{again.Cert}); err != nil {
		t.Fatal(err)
	}
	connect(old, 0)
	connect(again, 5)
	if err := h.Registry().DeleteHub(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	make()
	connect(old, 5)
	h.Trust(t, "other", again)
	connect(again, 0)
}
