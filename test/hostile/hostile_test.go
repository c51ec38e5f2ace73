// Package hostile_test gives a running hub what a hub on the open network is
// given, by mistake and by malice. Each line has its stated answer, and after
// each an honest device connects, publishes and is acknowledged in time.
// docs/tests.md says where the lines are that are not here.
package hostile_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
	"github.com/signet-iot/signet/wire/mqtt"
)

const (
	tenant = "hub"
	host   = "localhost"

	// patience is how long the honest device has for all of it, and how long a
	// session may outlive its right, on a machine that is busy with other tests. It is
	// less than the ten seconds after which whoever is silent, or reads nothing, has
	// to go anyway.
	patience = 9 * time.Second
)

// An arena is a hub that an honest device lives on.
type arena struct {
	*hubtest.Hub
	root, factory *hubtest.CA // the root is trusted
	honest        *tls.Config
}

func open(t *testing.T, options ...func(*server.Config)) *arena {
	t.Helper()
	a := &arena{Hub: hubtest.Start(t, options...), root: hubtest.NewCA(t, "Root")}
	a.factory = a.root.Intermediate(t, "Factory")
	a.Trust(t, tenant, a.root)
	a.CADevice(t, tenant, "honest")
	a.honest = a.ClientTLS(a.factory.Device(t, "honest"))
	a.serves(t)
	return a
}

// line is one line of a table: it is done, and then the honest device is served.
func (a *arena) line(t *testing.T, name string, do func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		do(t)
		a.serves(t)
	})
}

// serves has the honest device connect, publish and be acknowledged.
func (a *arena) serves(t *testing.T) {
	t.Helper()
	start := time.Now()
	d := a.Dial(t, a.honest)
	defer d.Close()
	d.SetDeadline(start.Add(patience))
	if code := d.Connect(t, host, "honest"); code != mqtt.ConnAccepted {
		t.Fatalf("the honest device: CONNACK %d", code)
	}
	d.Publish(t, "honest", "good")
	if took := time.Since(start); took > patience {
		t.Fatalf("the honest device is served after %v", took)
	}
}

// device makes an identity by CA and gives the TLS of a device that presents a
// chain whatever the server asks for.
func (a *arena) device(t *testing.T, id string, chain tls.Certificate) *tls.Config {
	t.Helper()
	a.CADevice(t, tenant, id)
	return a.presenting(chain)
}

func (a *arena) presenting(chain tls.Certificate) *tls.Config {
	conf := a.ClientTLS()
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &chain, nil }
	return conf
}

// closed is the answer of a server that hangs up without a CONNACK.
const closed = 255

// connect gives the code of the CONNACK, or closed.
func (a *arena) connect(t *testing.T, conf *tls.Config, id string) byte {
	t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", a.MQTTAddr(), conf)
	if err != nil {
		return closed
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	c.Write(connectAs(id)) // a server that has hung up is found out by the read
	p, err := mqtt.NewClientReader(c, 1<<10).Next()
	if ne := (net.Error)(nil); errors.As(err, &ne) && ne.Timeout() {
		t.Fatal("no answer to the CONNECT")
	}
	if ack, ok := p.(*mqtt.Connack); ok {
		return ack.Code
	}
	return closed
}

func connectAs(id string) []byte {
	return mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, KeepAlive: 60, ClientID: id,
		HasUsername: true, Username: host + "/" + id + "/?api-version=2021-04-12"})
}

// verdict gives the last refusal of a device.
func (a *arena) verdict(t *testing.T, id string) signet.Verdict {
	t.Helper()
	vs, err := a.Verdicts().List(t.Context(), authority.VerdictQuery{Hub: tenant, DeviceID: id, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(vs) == 0 {
		return signet.Verdict{}
	}
	return vs[0]
}

// strangers counts the refusals of a kind that could be put to no hub.
func (a *arena) strangers(t *testing.T, code signet.Code) (n int64) {
	t.Helper()
	vs, err := a.Verdicts().List(t.Context(), authority.VerdictQuery{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vs {
		if v.Code == code {
			n += v.Count
		}
	}
	return n
}

// soon waits for what the server does after it has closed a connection.
func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

// unharmed checks that of an evil device no more is stored than before, and that the
// victim is still served and has said nothing.
func (a *arena) unharmed(t *testing.T, victim *hubtest.Device, before int) {
	t.Helper()
	if n := len(a.kept(t, "evil")); n != before {
		t.Errorf("%d messages are stored", n-before)
	}
	victim.SetDeadline(time.Now().Add(patience))
	victim.Send(t, mqtt.AppendPingreq(nil))
	if p, err := victim.In.Next(); err != nil {
		t.Fatalf("the other device: %v", err)
	} else if _, ok := p.(*mqtt.Pingresp); !ok {
		t.Errorf("the other device gets a %T", p)
	}
	if n := len(a.kept(t, "victim")); n != 0 {
		t.Fatalf("%d messages in the name of another", n)
	}
}

// kept gives the messages that the hub has of a device.
func (a *arena) kept(t *testing.T, id string) (list []*signet.Message) {
	t.Helper()
	err := a.Hub.Hub().Read(t.Context(), tenant, hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
		if m.DeviceID == id {
			list = append(list, m)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// request makes one request of the HTTPS API, with the admin token unless the
// path is of the service API.
func (a *arena) request(t *testing.T, method, path, ifMatch string, body any) (status int, answer map[string]any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+a.HTTPSAddr()+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+a.Token)
	if len(path) > 8 && path[:8] == "/devices" {
		token, err := signet.SignSAS(host, a.Owner.SharedAccessKeyName, a.Owner.SharedAccessKey, time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", token)
	}
	if ifMatch != "" {
		r.Header.Set("If-Match", ifMatch)
	}
	transport := &http.Transport{TLSClientConfig: a.ClientTLS(), DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport, Timeout: 2 * time.Minute}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(said) > 0 && json.Unmarshal(said, &answer) != nil {
		t.Fatalf("%s %s: %d, and no JSON object: %s", method, path, resp.StatusCode, said)
	}
	return resp.StatusCode, answer
}

// refusalOf gives the code in the answer of a refused request.
func refusalOf(answer map[string]any) signet.Code {
	e, _ := answer["signet"].(map[string]any)
	code, _ := e["code"].(string)
	return signet.Code(code)
}
