package hostile_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/Azure/go-amqp"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
)

// amqp connects by AMQP; the connection is closed when the test ends.
func (a *arena) amqp(t *testing.T, conf *tls.Config, sasl client.SASLType) (*client.Conn, *client.Session, error) {
	t.Helper()
	return a.amqpTo(t, host, conf, sasl)
}

func (a *arena) amqpTo(t *testing.T, host string, conf *tls.Config, sasl client.SASLType) (*client.Conn, *client.Session, error) {
	t.Helper()
	nc, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", a.AMQPAddr(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := client.NewConn(ctx, nc, &client.ConnOptions{HostName: host, SASLType: sasl})
	if err != nil {
		return nil, nil, err
	}
	s, err := c.NewSession(ctx, nil)
	return c, s, err
}

// attach attaches a link on which the client sends.
func attach(t *testing.T, s *client.Session, address string) (*client.Sender, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return s.NewSender(ctx, address, nil)
}

// token makes one of a device's key, or of a policy's.
func token(t *testing.T, resource, policy, key string) string {
	t.Helper()
	text, err := signet.SignSAS(resource, policy, key, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// unkeyed makes one with the MAC of an empty key.
func unkeyed(resource, policy string) string {
	expiry := strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)
	mac := hmac.New(sha256.New, nil)
	mac.Write([]byte(resource + "\n" + expiry))
	return "SharedAccessSignature sr=" + resource + "&sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))) + "&se=" + expiry + "&skn=" + policy
}

// put puts a token to $cbs and gives the status.
func put(t *testing.T, s *client.Session, name, token string) int32 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	in, err := s.NewReceiver(ctx, "$cbs", &client.ReceiverOptions{TargetAddress: "answers"})
	if err != nil {
		return 0
	}
	defer in.Close(ctx)
	out, err := s.NewSender(ctx, "$cbs", nil)
	if err != nil {
		return 0
	}
	defer out.Close(ctx)
	to := "answers"
	if err := out.Send(ctx, &client.Message{Value: token, Properties: &client.MessageProperties{MessageID: "1", ReplyTo: &to},
		ApplicationProperties: map[string]any{"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": name}}, nil); err != nil {
		return 0
	}
	m, err := in.Receive(ctx, nil)
	if err != nil {
		return 0
	}
	status, _ := m.ApplicationProperties["status-code"].(int32)
	return status
}

func events(id string) string { return "/devices/" + id + "/messages/events" }

// TestAMQPWrong: nobody is let in as somebody else.
func TestAMQPWrong(t *testing.T) {
	a := open(t)
	mine := a.device(t, "mine", a.factory.Device(t, "mine"))
	a.CADevice(t, tenant, "other")
	keyed, err := a.Registry().Create(t.Context(), signet.Identity{Hub: tenant, DeviceID: "keyed", Auth: signet.Authentication{Type: signet.AuthSAS}})
	if err != nil {
		t.Fatal(err)
	}
	module, err := a.Registry().Create(t.Context(), signet.Identity{Hub: tenant, DeviceID: "keyed", ModuleID: "m", Auth: signet.Authentication{Type: signet.AuthSAS}})
	if err != nil {
		t.Fatal(err)
	}
	stranger := a.presenting(hubtest.NewCA(t, "Stranger Root").Device(t, "mine"))
	bare := a.ClientTLS()
	byKey := func(id, moduleID string, of signet.Identity) string {
		resource := host + "/devices/" + id
		if moduleID != "" {
			resource += "/modules/" + moduleID
		}
		return token(t, resource, "", of.Auth.PrimaryKey)
	}
	anonymous, external := client.SASLTypeAnonymous(), client.SASLTypeExternal("")
	for name, c := range map[string]struct {
		conf    *tls.Config
		sasl    client.SASLType
		name    string // of the token that is put first; "" for none
		token   string
		address string
		let     bool
	}{
		"its own":                                {conf: mine, address: events("mine"), let: true},
		"its own, by EXTERNAL":                   {conf: mine, sasl: external, address: events("mine"), let: true},
		"its own, by ANONYMOUS":                  {conf: mine, sasl: anonymous, address: events("mine"), let: true},
		"the address of another":                 {conf: mine, address: events("other")},
		"the address of another, by EXTERNAL":    {conf: mine, sasl: external, address: events("other")},
		"in another case":                        {conf: mine, address: events("Mine")},
		"a module that there is not":             {conf: mine, address: "/devices/mine/modules/m/messages/events"},
		"a stranger's certificate":               {conf: stranger, address: events("mine")},
		"a stranger's certificate, EXTERNAL":     {conf: stranger, sasl: external, address: events("mine")},
		"nothing":                                {conf: bare, address: events("mine")},
		"EXTERNAL with nothing":                  {conf: bare, sasl: external, address: events("mine")},
		"ANONYMOUS":                              {conf: bare, sasl: anonymous, address: events("keyed")},
		"a device of keys, by certificate":       {conf: a.presenting(a.factory.Device(t, "keyed")), address: events("keyed")},
		"a key":                                  {conf: bare, token: byKey("keyed", "", keyed), name: "x", address: events("keyed"), let: true},
		"a key of a device, for its module":      {conf: bare, token: byKey("keyed", "m", keyed), name: "x", address: "/devices/keyed/modules/m/messages/events"},
		"a key of a module, for its device":      {conf: bare, token: byKey("keyed", "", module), name: "x", address: events("keyed")},
		"a module":                               {conf: bare, token: byKey("keyed", "m", module), name: "x", address: "/devices/keyed/modules/m/messages/events", let: true},
		"a module, at the address of its device": {conf: bare, token: byKey("keyed", "m", module), name: "x", address: events("keyed")},
		"a token, at the address of another":     {conf: bare, token: byKey("keyed", "", keyed), name: host + "/devices/other", address: events("other")},
		"a token for a name that is another's":   {conf: mine, token: byKey("keyed", "", keyed), name: host + "/devices/mine", address: events("mine")},
		"a token of a key for one of a CA":       {conf: bare, token: byKey("mine", "", keyed), name: "x", address: events("mine")},
		"a device's token, at a back end's node": {conf: bare, token: byKey("keyed", "", keyed), name: "x", address: "/messages/devicebound"},
		"a certificate, at a back end's node":    {conf: mine, address: "/messages/devicebound"},
		"nothing, at a back end's node":          {conf: bare, address: "/messages/devicebound"},
		"a device's key for a policy's token":    {conf: bare, token: token(t, host, "iothubowner", keyed.Auth.PrimaryKey), name: "x", address: "/messages/devicebound"},
		"no key for a policy that is not there":  {conf: bare, token: unkeyed(host, "nobody"), name: "x", address: "/messages/devicebound"},
		"a policy of another hub":                {conf: bare, token: token(t, "elsewhere", a.Owner.SharedAccessKeyName, a.Owner.SharedAccessKey), name: "x", address: "/messages/devicebound"},
		"the owner's token as a device of a CA":  {conf: bare, token: token(t, host, a.Owner.SharedAccessKeyName, a.Owner.SharedAccessKey), name: host + "/devices/mine", address: events("mine")},
	} {
		a.line(t, name, func(t *testing.T) {
			conn, s, err := a.amqp(t, c.conf, c.sasl)
			if err == nil && c.token != "" {
				put(t, s, c.name, c.token)
			}
			var l *client.Sender
			if err == nil {
				l, err = attach(t, s, c.address)
			}
			if let := err == nil; let != c.let {
				t.Fatalf("let in: %v (%v)", let, err)
			}
			if !c.let {
				return
			}
			if err := l.Send(t.Context(), client.NewMessage([]byte("x")), nil); err != nil {
				t.Error(err)
			}
			if _, err := attach(t, s, events("other")); err == nil {
				t.Error("it has a link of another device too")
			}
			if _, err := attach(t, s, "/messages/devicebound"); err == nil {
				t.Error("it has a link of a back end too")
			}
			conn.Close()
		})
	}
	if n := len(a.kept(t, "other")); n > 0 {
		t.Errorf("%d messages of the other", n)
	}
}

// TestAMQPTenants: a back end sees and reaches its own hub, whatever it writes; and
// when that hub is gone, nothing within a second.
func TestAMQPTenants(t *testing.T) {
	a := open(t) // where the honest device has published
	other, err := a.Registry().CreateHub(t.Context(), "other", "other.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Registry().Create(t.Context(), signet.Identity{Hub: "other", DeviceID: "theirs", Auth: signet.Authentication{Type: signet.AuthSAS}}); err != nil {
		t.Fatal(err)
	}
	owner := other.Policies[0]
	theirs := func(resource string) string { return token(t, resource, owner.Name, owner.PrimaryKey) }
	ours := token(t, host, a.Owner.SharedAccessKeyName, a.Owner.SharedAccessKey)
	bare := a.ClientTLS()
	for name, c := range map[string]struct {
		host, token string
		want        int32
	}{
		"its token at its hub":                       {"other.test", theirs("other.test"), 200},
		"its token at ours":                          {host, theirs("other.test"), 401},
		"its key for our name at ours":               {host, theirs(host), 401},
		"its key for our name at its hub":            {"other.test", theirs(host), 401},
		"our token at its hub":                       {"other.test", ours, 401},
		"its token where there is no hub":            {"nowhere.test", theirs("nowhere.test"), 401},
		"its token for another's name below its own": {"other.test", theirs("other.test.localhost"), 401},
	} {
		a.line(t, name, func(t *testing.T) {
			_, s, err := a.amqpTo(t, c.host, bare, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := put(t, s, "x", c.token); got != c.want {
				t.Errorf("%d", got)
			}
		})
	}
	conn, s, err := a.amqpTo(t, "other.test", bare, nil)
	if err != nil || put(t, s, "x", theirs("other.test")) != 200 {
		t.Fatal(err)
	}
	for _, address := range []string{"hub/ConsumerGroups/$Default/Partitions/0", "amqps://localhost/hub/ConsumerGroups/$Default/Partitions/0", "hub/$management", "other/../hub/ConsumerGroups/$Default/Partitions/0", "other%2F..%2Fhub/ConsumerGroups/$Default/Partitions/0"} {
		if _, err := s.NewReceiver(t.Context(), address, nil); err == nil {
			t.Errorf("it has a link to %s", address)
		}
	}
	log, err := s.NewReceiver(t.Context(), "amqps://localhost/messages/events/ConsumerGroups/$Default/Partitions/0", &client.ReceiverOptions{Credit: 100})
	if err != nil {
		t.Fatal(err)
	}
	short, over := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer over()
	if m, err := log.Receive(short, nil); err == nil {
		t.Errorf("it reads %v %s", m.Annotations, m.GetData())
	}
	feedback, err := s.NewReceiver(t.Context(), "/messages/serviceBound/feedback", nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := attach(t, s, "/messages/devicebound")
	if err != nil {
		t.Fatal(err)
	}
	send := func(to string) error {
		return out.Send(t.Context(), &client.Message{Data: [][]byte{{1}}, Properties: &client.MessageProperties{To: &to}}, nil)
	}
	if err := send("amqps://localhost/devices/honest/messages/devicebound"); err == nil {
		t.Error("it sends to our device")
	}
	if err := send("/devices/theirs/messages/devicebound"); err != nil {
		t.Error(err)
	}
	began := time.Now()
	if err := a.Registry().DeleteHub(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	for _, l := range []*client.Receiver{log, feedback} {
		if m, err := l.Receive(t.Context(), nil); err == nil {
			t.Errorf("it reads %v", m.Annotations)
		}
	}
	if took := time.Since(began); took > patience {
		t.Errorf("cut after %v", took)
	}
	if err := send("/devices/theirs/messages/devicebound"); err == nil {
		t.Error("it sends to a device of a hub that is gone")
	}
	if _, err := a.Registry().CreateHub(t.Context(), "other", "other.test"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewReceiver(t.Context(), "other/ConsumerGroups/$Default/Partitions/0", nil); err == nil {
		t.Error("it has a link at a later hub of the name")
	}
	if got := put(t, s, "x", theirs("other.test")); got == 200 {
		t.Error("its token counts at a later hub of the name")
	}
	conn.Close()
}

// TestAMQPRightIsLost: as TestRightIsLost.
func TestAMQPRightIsLost(t *testing.T) {
	a := open(t)
	for name, lose := range map[string]func(*testing.T, signet.CACertificate, signet.Identity) error{
		"the CA is removed": func(t *testing.T, ca signet.CACertificate, _ signet.Identity) error {
			return a.Authority().Delete(t.Context(), tenant, ca.Name, ca.ETag)
		},
		"the device is disabled": func(t *testing.T, _ signet.CACertificate, i signet.Identity) error {
			i.Status = signet.Disabled
			_, err := a.Registry().Replace(t.Context(), i, i.ETag)
			return err
		},
		"the device is deleted": func(t *testing.T, _ signet.CACertificate, i signet.Identity) error {
			return a.Registry().Delete(t.Context(), tenant, i.DeviceID, "", i.ETag)
		},
	} {
		a.line(t, name, func(t *testing.T) {
			root := hubtest.NewCA(t, "Doomed Root")
			ca := a.Trust(t, tenant, root)
			id := "doomed-" + ca.ETag
			i := a.CADevice(t, tenant, id)
			conf := a.ClientTLS(root.Device(t, id))
			c, s, err := a.amqp(t, conf, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := attach(t, s, events(id)); err != nil {
				t.Fatal(err)
			}
			if err := lose(t, ca, i); err != nil {
				t.Fatal(err)
			}
			select {
			case <-c.Done():
			case <-time.After(patience):
				t.Fatal("the connection is not closed")
			}
			if _, s, err := a.amqp(t, conf, nil); err == nil {
				if _, err := attach(t, s, events(id)); err == nil {
					t.Error("let in afterwards")
				}
			}
		})
	}
}

// TestAMQPSecrets: no token, good or bad, and wherever it was written, is in the log,
// the traces or the verdicts.
func TestAMQPSecrets(t *testing.T) {
	log := &syncBuffer{}
	a := open(t, func(c *server.Config) {
		c.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	keyed, err := a.Registry().Create(t.Context(), signet.Identity{Hub: tenant, DeviceID: "keyed", Auth: signet.Authentication{Type: signet.AuthSAS}})
	if err != nil {
		t.Fatal(err)
	}
	good := token(t, host+"/devices/keyed", "", keyed.Auth.PrimaryKey)
	bad := token(t, host+"/devices/keyed", "", a.Owner.SharedAccessKey)
	owner := token(t, host, a.Owner.SharedAccessKeyName, a.Owner.SharedAccessKey)
	for _, text := range []string{good, bad, owner, good + "&x=y", strings.TrimPrefix(bad, "SharedAccessSignature ")} {
		for _, sasl := range []client.SASLType{client.SASLTypePlain("keyed@sas."+host, text), client.SASLTypePlain(text, "keyed@sas."+host), client.SASLTypePlain(text+"@sas."+host, text)} {
			if _, s, err := a.amqp(t, a.ClientTLS(), sasl); err == nil {
				attach(t, s, events("keyed"))
			}
		}
		for _, name := range []string{"x", host + "/devices/keyed", text} {
			if _, s, err := a.amqp(t, a.ClientTLS(), nil); err == nil {
				put(t, s, name, text)
				attach(t, s, events("keyed"))
			}
		}
	}
	r, err := http.Get("http://" + a.AdminAddr() + "/debug/traces")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	traces, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	soon(t, "the verdicts are on record", func() bool { return a.verdict(t, "keyed").Code != "" })
	vs, err := a.Verdicts().List(t.Context(), authority.VerdictQuery{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	of, err := a.Verdicts().List(t.Context(), authority.VerdictQuery{Hub: tenant, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	vs = append(vs, of...)
	verdicts, err := json.Marshal(vs)
	if err != nil {
		t.Fatal(err)
	}
	if len(vs) == 0 || !bytes.Contains(traces, []byte("AMQP")) && !bytes.Contains(traces, []byte("amqp")) {
		t.Fatalf("nothing is told: %d verdicts", len(vs))
	}
	for _, text := range []string{good, bad, owner} {
		_, sig, _ := strings.Cut(text, "sig=")
		sig, _, _ = strings.Cut(sig, "&")
		for where, told := range map[string]string{"the log": log.String(), "the traces": string(traces), "the verdicts": string(verdicts)} {
			if at := strings.Index(told, sig[:12]); at >= 0 {
				t.Errorf("%s: …%s…", where, told[max(0, at-200):min(len(told), at+60)])
			}
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestAMQPRegisters: nobody gets the place of somebody else, and who registers has nothing else.
func TestAMQPRegisters(t *testing.T) {
	const service = "dps"
	a := open(t)
	enroll := func(e signet.Enrollment) signet.Enrollment {
		e.Service = service
		e, _, err := a.Provisioning().PutEnrollment(t.Context(), e, "")
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	trusted := a.Trust(t, service, a.root)
	enroll(signet.Enrollment{Group: true, ID: "factory", Attestation: signet.Attestation{Type: signet.AttestX509, PrimaryCA: trusted.Name}})
	group := enroll(signet.Enrollment{Group: true, ID: "meters", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
	enroll(signet.Enrollment{ID: "off", Status: signet.Disabled, Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}})
	named, err := a.Registry().HubByName(service)
	if err != nil {
		t.Fatal(err)
	}
	at := func(id string) string { return named.IDScope + "/registrations/" + id }
	plain := func(id, of, resource string) client.SASLType {
		key, err := signet.DeriveKey(group.Attestation.PrimaryKey, of)
		if err != nil {
			t.Fatal(err)
		}
		return client.SASLTypePlain(at(id), token(t, resource, "registration", key))
	}
	bare, mine := a.ClientTLS(), a.presenting(a.factory.Device(t, "mine"))
	stranger := a.presenting(hubtest.NewCA(t, "Stranger Root").Device(t, "victim"))
	version := map[string]any{"com.microsoft:api-version": "2019-03-31"}
	const assigned, unauthorized, elsewhere = `"status":"assign`, "amqp:unauthorized-access", "amqp:not-allowed"
	for name, c := range map[string]struct {
		conf    *tls.Config
		sasl    client.SASLType
		address string
		want    string // a part of the answer, or the condition of its refusal
	}{
		"its own":                             {mine, nil, at("mine"), assigned},
		"its own, by EXTERNAL":                {mine, client.SASLTypeExternal(""), at("mine"), assigned},
		"its own, in another case":            {mine, client.SASLTypeAnonymous(), at("MINE"), assigned},
		"another's":                           {mine, nil, at("victim"), unauthorized},
		"another's, written in another way":   {mine, nil, "amqps://" + host + "/" + named.IDScope + "/registrations/vict%69m", unauthorized},
		"one beside its own":                  {mine, nil, at("mine%2F..%2Fvictim"), "com.microsoft:argument-error"},
		"a stranger's certificate":            {stranger, nil, at("victim"), unauthorized},
		"nothing":                             {bare, nil, at("victim"), unauthorized},
		"no service":                          {mine, nil, "0ne00000000/registrations/mine", unauthorized},
		"a key":                               {bare, plain("meter", "meter", at("meter")), at("meter"), assigned},
		"a key of another":                    {bare, plain("victim", "meter", at("victim")), at("victim"), unauthorized},
		"a token for another":                 {bare, plain("victim", "victim", at("meter")), at("victim"), unauthorized},
		"a token for the hub":                 {bare, plain("victim", "victim", host), at("victim"), unauthorized},
		"a key, at the place of another":      {bare, plain("meter", "meter", at("meter")), at("victim"), elsewhere},
		"another's certificate, with no key":  {mine, client.SASLTypePlain(at("mine"), "x"), at("mine"), unauthorized},
		"disabled":                            {bare, plain("off", "off", at("off")), at("off"), `"status":"disabled"`},
		"a refused one, at its hub":           {mine, plain("victim", "meter", at("victim")), events("mine"), elsewhere},
		"one that registers, at a hub":        {bare, plain("meter", "meter", at("meter")), events("honest"), elsewhere},
		"one that registers, as a back end":   {bare, plain("meter", "meter", at("meter")), "/messages/devicebound", elsewhere},
		"one at a hub, that registers beside": {a.device(t, "both", a.factory.Device(t, "both")), nil, at("both"), elsewhere},
	} {
		a.line(t, name, func(t *testing.T) {
			conn, s, err := a.amqp(t, c.conf, c.sasl)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if c.address == at("both") {
				if _, err := attach(t, s, events("both")); err != nil {
					t.Fatal(err)
				}
			}
			got := func() string {
				in, err := s.NewReceiver(t.Context(), c.address, &client.ReceiverOptions{Properties: version})
				if err == nil {
					var out *client.Sender
					if out, err = s.NewSender(t.Context(), c.address, &client.SenderOptions{Properties: version}); err == nil {
						err = out.Send(t.Context(), &client.Message{Data: [][]byte{[]byte("{}")}, ApplicationProperties: map[string]any{"iotdps-operation-type": "iotdps-register"}}, nil)
					}
				}
				if e, ok := errors.AsType[*client.Error](err); ok {
					return string(e.Condition)
				} else if err != nil {
					return err.Error()
				}
				answer, err := in.Receive(t.Context(), nil)
				if err != nil {
					return err.Error()
				}
				return string(answer.GetData())
			}()
			if !strings.Contains(got, c.want) {
				t.Errorf("told %s", got)
			}
		})
	}
	if _, err := a.Registry().Get(t.Context(), tenant, "victim", ""); err == nil {
		t.Error("the victim has an identity")
	}
	if n := len(a.kept(t, "honest")); n == 0 {
		t.Error("the honest device was not served")
	}
}
