package plain_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
)

// TestWebhook: a message that mosquitto_pub sends comes to a webhook, over TLS whose
// CA the system does not know not at all, and with a signature that openssl agrees
// with.
func TestWebhook(t *testing.T) {
	need(t, "mosquitto_pub", "openssl")
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	h.Trust(t, tenant, root)
	h.CADevice(t, tenant, "press-17")

	type posted struct {
		header http.Header
		body   string
	}
	came := make(chan posted, 10)
	hook := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		came <- posted{r.Header, string(body)}
	}
	plain, unknown := httptest.NewServer(http.HandlerFunc(hook)), httptest.NewTLSServer(http.HandlerFunc(hook))
	defer plain.Close()
	defer unknown.Close()
	secret := ""
	for name, url := range map[string]string{"plain": plain.URL, "unknown": unknown.URL} {
		r, _, err := h.Routes().Put(t.Context(), signet.Route{Hub: tenant, Name: name, URL: url, AllowPrivate: true})
		if err != nil {
			t.Fatal(err)
		}
		if name == "plain" {
			secret = r.Secret
		}
	}
	dir := device(t, root.Device(t, "press-17"))
	if out, status := run(t, dir, "", "mosquitto_pub", mosquitto(h, "press-17", "--cert", "chain.pem", "--key", "device.key", "-q", "1", "-t", "devices/press-17/messages/events/", "-m", "too hot")...); status != 0 {
		t.Fatal(out)
	}
	var p posted
	select {
	case p = <-came:
	case <-time.After(2 * time.Minute):
		t.Fatal("nothing has come")
	}
	var batch struct {
		Messages []struct{ DeviceID, Body string }
	}
	if err := json.Unmarshal([]byte(p.body), &batch); err != nil || len(batch.Messages) != 1 || batch.Messages[0].Body != "too hot" || batch.Messages[0].DeviceID != "press-17" {
		t.Errorf("%v in %s", err, p.body)
	}

	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "signed", p.header.Get("webhook-id")+"."+p.header.Get("webhook-timestamp")+"."+p.body)
	mac := openssl(t, dir, "dgst", "-sha256", "-mac", "HMAC", "-macopt", "hexkey:"+hex.EncodeToString(key), "-r", "signed")
	got, err := hex.DecodeString(strings.Fields(mac)[0])
	if err != nil || p.header.Get("webhook-signature") != "v1,"+base64.StdEncoding.EncodeToString(got) {
		t.Errorf("openssl says %s, the hub %s", mac, p.header.Get("webhook-signature"))
	}

	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		state, _, err := h.Routes().Show(t.Context(), tenant, "unknown")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(state.Fault, "certificate") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", state)
		}
	}
	if len(came) > 0 {
		t.Error("sent to who is not known")
	}
}
