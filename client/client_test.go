package client_test

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
)

const owner = "HostName=hub.example.test;SharedAccessKeyName=iothubowner;SharedAccessKey=bm90IGEgcmVhbCBrZXkgYXQgYWxs"

// newClient speaks to a server that answers as told, for the host name
// example.com, which is in the certificate of httptest.
func newClient(t *testing.T, answer http.HandlerFunc) *client.Client {
	t.Helper()
	server := httptest.NewTLSServer(answer)
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Options{
		ConnectionString: strings.Replace(owner, "hub.example.test", "example.com:8443", 1),
		Address:          server.Listener.Addr().String(), CAFile: ca,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRequest: who asks, for whom, in which form.
func TestRequest(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "DELETE" || r.RequestURI != "/devices/a%2Bb%25%3F?api-version=2021-04-12" || r.Header.Get("If-Match") != `"e1"` {
			t.Errorf("%s %s %s", r.Method, r.RequestURI, r.Header)
		}
		token, err := signet.ParseSASToken(r.Header.Get("Authorization"))
		if err != nil || !token.Covers("example.com", "devices") || !token.SignedBy("bm90IGEgcmVhbCBrZXkgYXQgYWxs") || token.Policy != "iothubowner" {
			t.Errorf("token %+v %v", token, err)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	if err := c.DeleteDevice(t.Context(), "a+b%?", "e1"); err != nil {
		t.Error(err)
	}
	if c.HostName() != "example.com" {
		t.Errorf("host name %q: the port is no part of it", c.HostName())
	}
}

// TestRefusal: what the hub says comes through whole.
func TestRefusal(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		io.WriteString(w, `{"Message":"x","signet":{"code":"identity.exists","message":"There.","fix":"Go on.","trackingId":"T"}}`)
	})
	_, err := c.CreateDevice(t.Context(), client.Device{DeviceID: "a"})
	if e := signet.AsError(err); e.Code != signet.IdentityExists || e.Message != "There." || e.Fix != "Go on." || e.TrackingID != "T" {
		t.Errorf("%+v", e)
	}
}

// TestNotAHub: what is no hub is said to be none, and gets no key to carry on.
func TestNotAHub(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"a proxy's page": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "<h1>Bad Gateway</h1>", http.StatusBadGateway)
		},
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				t.Error("the redirect was followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		},
		"a connection that breaks": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		_, err := newClient(t, answer).Device(t.Context(), "a")
		if signet.CodeOf(err) != signet.Unavailable || signet.AsError(err).Fix == "" || strings.Contains(err.Error(), "SharedAccess") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newClient(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }).Device(t.Context(), "a"); err == nil {
		t.Error("text was taken for a device")
	}
}

// TestExplainSendsCertificatesAlone: a bundle often has the key in it.
func TestExplainSendsCertificatesAlone(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), "PRIVATE") || strings.Count(string(body), "BEGIN CERTIFICATE") != 2 {
			t.Errorf("sent %s", body)
		}
		io.WriteString(w, `{"accepted":true}`)
	})
	block := func(kind string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte("x")}))
	}
	text := block("CERTIFICATE") + block("EC PRIVATE KEY") + block("CERTIFICATE")
	e, err := c.Explain(t.Context(), []byte(text), "press-17", time.Time{}, client.Hypothesis{})
	if err != nil || !e.Accepted {
		t.Error(e, err)
	}
}

// TestMessages: each line is a message, and its body comes back as it was sent.
func TestMessages(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "device=d&follow=true&from=1.2" {
			t.Error(r.URL.RawQuery)
		}
		io.WriteString(w, `{"position":"1.3","body":{"a":1},"bodyEncoding":"json"}
{"position":"1.4","body":"a\nb","bodyEncoding":"utf-8"}
{"position":"1.5","body":"/wA=","bodyEncoding":"base64"}
{"position":"1.6","body":"never asked for","bodyEncoding":"utf-8"}
`)
	})
	want := []string{`{"a":1}`, "a\nb", "\xff\x00"}
	var got []string
	err := c.Messages(t.Context(), client.MessageQuery{DeviceID: "d", From: "1.2", Follow: true}, func(m *client.Message, line []byte) bool {
		body, err := m.Bytes()
		if err != nil || !json.Valid(line) {
			t.Error(err, line)
		}
		got = append(got, string(body))
		return len(got) < len(want)
	})
	if err != nil || strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("%q %v", got, err)
	}
}

// TestOptions: what cannot work is said before anything is sent.
func TestOptions(t *testing.T) {
	for name, o := range map[string]client.Options{
		"nothing":              {},
		"a token alone":        {Token: "t"},
		"a device's":           {ConnectionString: "HostName=h;DeviceId=d;SharedAccessKey=YQ=="},
		"no connection string": {ConnectionString: "hello"},
		"no CA file":           {ConnectionString: owner, CAFile: "testdata/none.pem"},
		"a CA file of no use":  {ConnectionString: owner, CAFile: "client_test.go"},
	} {
		if _, err := client.New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	c, err := client.New(client.Options{ConnectionString: "HostName=example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Device(t.Context(), "a"); signet.CodeOf(err) != signet.TokenNone {
		t.Errorf("without a key: %v", err)
	}
}

// broken is a file that cannot be read or written.
type broken struct{}

var errBroken = errors.New("the disk is full")

func (broken) Write([]byte) (int, error) { return 0, errBroken }
func (broken) Read([]byte) (int, error)  { return 0, errBroken }

// TestCallersFile: a file of the caller's that fails is not told as a hub that does.
func TestCallersFile(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, `{"id":"d"}`)
	})
	if err := c.ExportDevices(t.Context(), broken{}, false); err != errBroken {
		t.Errorf("written: %v", err)
	}
	if _, err := c.ImportDevices(t.Context(), broken{}); err != errBroken {
		t.Errorf("read: %v", err)
	}
}
