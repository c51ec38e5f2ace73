package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	client "github.com/Azure/go-amqp"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/wire/amqp"
)

const scopeAddress = "0ne00111111/registrations/"

var apiVersion = map[string]any{"com.microsoft:api-version": "2019-03-31"}

// An asker is a device that registers, and has both its links.
type asker struct {
	in  *client.Receiver
	out *client.Sender
}

// asks attaches the links of a device that registers.
func asks(t *testing.T, s *client.Session, address string) (*asker, error) {
	t.Helper()
	in, err := s.NewReceiver(t.Context(), address, &client.ReceiverOptions{Properties: apiVersion})
	if err != nil {
		return nil, err
	}
	out, err := s.NewSender(t.Context(), address, &client.SenderOptions{Properties: apiVersion})
	return &asker{in, out}, err
}

// ask gives the body of the answer with its properties, or the error by which the question is
// rejected.
func (a *asker) ask(t *testing.T, m *client.Message) (string, *client.Message, *client.Error) {
	t.Helper()
	if err := a.out.Send(t.Context(), m, nil); err != nil {
		e, ok := errors.AsType[*client.Error](err)
		if !ok {
			t.Fatal(err)
		}
		return e.Description, nil, e
	}
	answer, err := a.in.Receive(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	a.in.AcceptMessage(t.Context(), answer)
	return string(answer.GetData()), answer, nil
}

func asking(operation, id, body string) *client.Message {
	m := &client.Message{Properties: &client.MessageProperties{CorrelationID: "c-1"}, ApplicationProperties: map[string]any{"iotdps-operation-type": operation}}
	if id != "" {
		m.ApplicationProperties["iotdps-operation-id"] = id
	}
	if body != "" {
		m.Data = [][]byte{[]byte(body)}
	}
	return m
}

// TestRegistrationAMQP: each question and its answer, as the SDKs read them.
func TestRegistrationAMQP(t *testing.T) {
	register := func(body string) *client.Message { return asking("iotdps-register", "", body) }
	status := func(id string) *client.Message { return asking("iotdps-get-operationstatus", id, "") }
	long := register("")
	long.Properties.CorrelationID = strings.Repeat("x", maxRequestID+1)
	batch := register("")
	batch.Format = batchFormat
	list := register("")
	list.Sequence = [][]any{{int32(1)}}
	for _, c := range []struct {
		name, id  string
		m         *client.Message
		condition string // of a rejection; "" when it is answered
		status    int32
		answer    string // a part of it
		wait      any
		recorded  signet.Code
	}{
		{"C", "press", register(`{"registrationId":"press"}`), "", 202, `{"operationId":"1","status":"assigning"}`, int32(3), ""},
		{"C#", "press", register(``), "", 202, `"assigning"`, int32(3), ""},
		{"the old Node", "press", &client.Message{Value: "", ApplicationProperties: map[string]any{"iotdps-operation-type": "iotdps-register", "iotdps-forceRegistration": true}}, "", 202, `"assigning"`, int32(3), ""},
		{"the state", "press", status("1"), "", 200, `"assignedHub":"hub.example"`, nil, ""},
		{"of another", "press", status("2"), "amqp:not-found", 0, `"errorCode":404202`, nil, ""},
		{"of none", "press", status(""), "amqp:not-found", 0, `"errorCode":404202`, nil, ""},
		{"a stranger", "stranger", register(`{`), "amqp:unauthorized-access", 0, `{"errorCode":401002,"trackingId":"T","message":"Unauthorized",`, nil, ""},
		{"a stranger's rubbish", "stranger", asking("dance", "", ""), "amqp:unauthorized-access", 0, `"errorCode":401002`, nil, ""},
		{"disabled", "off", register(``), "", 200, `{"operationId":"","status":"disabled","registrationState":{"registrationId":"off","status":"disabled"`, nil, ""},
		{"too often", "often", register(``), "com.microsoft:device-container-throttled", 0, `"errorCode":429001`, int32(2), ""},
		{"a TPM", "press", register(`{"tpm":{"endorsementKey":""}}`), "com.microsoft:argument-error", 0, `no TPM`, nil, ""},
		{"no object", "press", register(`[]`), "com.microsoft:argument-error", 0, `"errorCode":400000`, nil, signet.RequestMalformed},
		{"much", "press", register(`{"payload":"` + strings.Repeat("x", provisioning.MaxRequest-14) + `"}`), "", 202, `"assigning"`, int32(3), ""},
		{"too much", "press", register(`{"payload":"` + strings.Repeat("x", provisioning.MaxRequest) + `"}`), "com.microsoft:argument-error", 0, `"errorCode":413000`, nil, signet.LimitRequestSize},
		{"no operation", "press", asking("dance", "", ""), "com.microsoft:argument-error", 0, `dance`, nil, signet.RequestMalformed},
		{"a batch", "press", batch, "com.microsoft:argument-error", 0, ``, nil, signet.RequestMalformed},
		{"a list", "press", list, "com.microsoft:argument-error", 0, `neither data`, nil, signet.RequestMalformed},
		{"a long correlation-id", "press", long, "com.microsoft:argument-error", 0, `correlation-id`, nil, signet.RequestMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &fakeWaist{}
			conn, err := connectAMQP(t, anAMQPDoor(t, w, nil), byPassword(scopeAddress+c.id))
			if err != nil {
				t.Fatal(err)
			}
			a, err := asks(t, aSession(t, conn), "amqps://hub.example.test/"+scopeAddress+c.id)
			if err != nil {
				t.Fatal(err)
			}
			body, answer, refusal := a.ask(t, c.m)
			if !strings.Contains(body, c.answer) || !json.Valid([]byte(body)) {
				t.Errorf("answered %s", body)
			}
			switch {
			case refusal != nil:
				if string(refusal.Condition) != c.condition || refusal.Info["retry-after"] != c.wait || refusal.Info["Retry-After"] != c.wait || refusal.Info["x-ms-error-code"] == "" {
					t.Errorf("rejected: %+v", refusal)
				}
			case c.condition != "":
				t.Errorf("answered, and not rejected: %s", body)
			default:
				p := answer.ApplicationProperties
				if p["iotdps-status"] != c.status || p["retry-after"] != c.wait || p["Retry-After"] != c.wait {
					t.Errorf("properties %v", p)
				}
				var want any
				if c.m.Properties != nil {
					want = c.m.Properties.CorrelationID
				}
				if got := answer.Properties.CorrelationID; got != want {
					t.Errorf("the correlation-id is %v", got)
				}
			}
			codes := w.refusals()
			if want := slices.DeleteFunc([]signet.Code{c.recorded}, func(c signet.Code) bool { return c == "" }); !slices.Equal(codes, want) {
				t.Errorf("recorded is %v", codes)
			}
			if len(w.seen) > 0 {
				t.Errorf("the hub was asked: %+v", w.seen)
			}
		})
	}
}

// TestQuestionTooLarge: what is too large is not read, and no rubbish.
func TestQuestionTooLarge(t *testing.T) {
	if _, _, err := questionOf(&amqp.Delivery{TooLarge: true}); signet.CodeOf(err) != signet.LimitRequestSize {
		t.Error(err)
	}
}

// TestRegistrationAMQPAlone: a connection is one device's that registers, or something else;
// and who was refused has no second try.
func TestRegistrationAMQPAlone(t *testing.T) {
	begin := func(w *fakeWaist, b BackEnd, user string) (*client.Conn, *client.Session, error) {
		c, err := connectAMQP(t, anAMQPDoor(t, w, b), byPassword(user))
		if err != nil {
			return nil, nil, err
		}
		return c, aSession(t, c), nil
	}
	attach := func(s *client.Session, address string) string {
		_, err := s.NewSender(t.Context(), address, &client.SenderOptions{Properties: apiVersion})
		if err == nil {
			return "taken"
		}
		return condition(err)
	}
	for _, id := range []string{"press", "stranger"} { // let in, and refused
		w := &fakeWaist{}
		_, s, err := begin(w, &fakeBackEnd{}, scopeAddress+id)
		if err != nil {
			t.Fatal(err)
		}
		for address, want := range map[string]string{
			"/" + scopeAddress + id: "taken",
			strings.ToUpper("0ne00111111") + "/Registrations/" + strings.ToUpper(id): "taken",
			scopeAddress + "other":                  "amqp:not-allowed",
			"0ne00222222/registrations/" + id:       "amqp:not-allowed",
			"/devices/" + id + "/messages/events":   "amqp:not-allowed",
			"/messages/devicebound":                 "amqp:not-allowed",
			"/" + scopeAddress + id + "/operations": "amqp:not-allowed",
		} {
			if got := attach(s, address); got != want {
				t.Errorf("%s, at %s: %s", id, address, got)
			}
		}
		if _, err := s.NewSender(t.Context(), scopeAddress+id, nil); condition(err) != "com.microsoft:argument-error" {
			t.Errorf("a link without an api-version: %v", err)
		}
		tokens := putTokens(t, s)
		for _, token := range []string{"SharedAccessSignature sr=hub.example.test%2Fdevices%2F" + id + "&sig=eA==&se=1", "SharedAccessSignature sr=hub.example.test&sig=eA==&se=1&skn=owner"} {
			if got := tokens.put("x", "y", token); !strings.HasPrefix(got, "400") {
				t.Errorf("%s, a token: %s", id, got)
			}
		}
		if len(w.seen) > 0 {
			t.Errorf("%s is judged by the hub: %+v", id, w.seen)
		}
	}

	_, s, err := begin(&fakeWaist{}, nil, "press@sas.hub")
	if err != nil {
		t.Fatal(err)
	}
	if got := attach(s, scopeAddress+"press"); got != "amqp:not-allowed" {
		t.Errorf("a device that is let in at its hub: %s", got)
	}
	_, s, err = begin(&fakeWaist{}, &fakeBackEnd{}, "owner@sas.root.hub")
	if err != nil {
		t.Fatal(err)
	}
	if got := attach(s, scopeAddress+"press"); got != "amqp:not-allowed" {
		t.Errorf("a back end: %s", got)
	}

	// A service that cannot judge is no refusal, and does not let SASL through.
	if _, _, err := begin(&fakeWaist{}, nil, scopeAddress+"away"); err == nil {
		t.Error("it is let in by a service that cannot judge")
	}
	c, err := connectAMQP(t, anAMQPDoor(t, &fakeWaist{}, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	s = aSession(t, c)
	if got := attach(s, scopeAddress+"away"); got != "amqp:link:detach-forced" {
		t.Errorf("a service that cannot judge: %s", got)
	}
	attach(s, scopeAddress+"press")
	<-c.Done() // no second try

	w := &fakeWaist{refusal: signet.Refuse(signet.TokenSignature, "No.")}
	if c, err = connectAMQP(t, anAMQPDoor(t, w, nil), nil); err != nil {
		t.Fatal(err)
	}
	s = aSession(t, c)
	attach(s, "/devices/press/messages/events")
	attach(s, scopeAddress+"press")
	<-c.Done() // nor after one at the hub
}

// TestRegistrationAMQPTime: a device that registers has its time, one that is refused a stranger's;
// links that have died make room, whatever they speak; and nothing is left behind.
func TestRegistrationAMQPTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWaist{}
		m := newMQTT(w, Config{Registrar: &fakeRegistrar{w}, Logger: discard})
		door := NewAMQP(m, nil)
		come := func(id string) (*client.Conn, error) {
			device, server := net.Pipe()
			c := newAMQPConn(door, server)
			c.sni = "hub.example.test"
			m.serve(c)
			return dialAMQP(t, device, byPassword(scopeAddress+id))
		}
		lasts := func(id string) time.Duration {
			began := time.Now()
			c, err := come(id)
			if err != nil {
				t.Fatal(err)
			}
			a, err := asks(t, aSession(t, c), scopeAddress+id)
			if err != nil {
				t.Fatal(err)
			}
			for {
				if err := a.out.Send(t.Context(), asking("iotdps-get-operationstatus", "1", ""), nil); err == nil {
					if answer, err := a.in.Receive(t.Context(), nil); err == nil {
						a.in.AcceptMessage(t.Context(), answer)
					}
				}
				select {
				case <-c.Done():
					return time.Since(began)
				case <-time.After(time.Second):
				}
			}
		}
		if got := lasts("press"); got < conversationTime || got > conversationTime+5*time.Second {
			t.Errorf("a conversation lasts %v", got)
		}
		if got := lasts("stranger"); got < handshakeTime-time.Second || got > handshakeTime+5*time.Second {
			t.Errorf("a refused one lasts %v", got)
		}
		if codes := w.refusals(); len(codes) > 0 {
			t.Errorf("recorded is %v", codes)
		}

		var all []*client.Conn
		for range maxConversations {
			c, err := come("press")
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
			time.Sleep(time.Second)
		}
		if _, err := come("PRESS"); err == nil {
			t.Error("a fifth at once is let in")
		}
		time.Sleep(lostTime)
		c, err := come("press")
		if err != nil {
			t.Error(err)
		}
		<-all[0].Done() // the link that was silent longest
		for _, c := range append(all, c) {
			c.Close()
		}
		synctest.Wait()
		m.mu.Lock()
		if len(m.conversations) > 0 {
			t.Errorf("%v are left", m.conversations)
		}
		m.mu.Unlock()
		if waiting, within := m.gate.counts(); waiting+within > 0 {
			t.Errorf("%d and %d are at the gate", waiting, within)
		}

		// The server shuts down: it is told so.
		if c, err = come("press"); err != nil {
			t.Fatal(err)
		}
		shutDown(t, m)
		<-c.Done()
		if err := c.Err(); !strings.Contains(fmt.Sprint(err), "detach-forced") {
			t.Errorf("told %v", err)
		}
	})
}

// TestRegistrationAMQPUnread: answers that a device takes no more are few, and then it is closed.
func TestRegistrationAMQPUnread(t *testing.T) {
	w := &fakeWaist{}
	conn, err := connectAMQP(t, anAMQPDoor(t, w, nil), byPassword(scopeAddress+"press"))
	if err != nil {
		t.Fatal(err)
	}
	s := aSession(t, conn)
	out, err := s.NewSender(t.Context(), scopeAddress+"press", &client.SenderOptions{Properties: apiVersion})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for out.Send(t.Context(), asking("iotdps-register", "", ""), nil) == nil {
		asked++
	}
	<-conn.Done()
	if codes := w.refusals(); asked > 17 || len(codes) != 1 || codes[0] != signet.RequestMalformed {
		t.Errorf("%d are taken, recorded is %v", asked, codes)
	}
}

// FuzzQuestion: no message panics, and what is echoed of it is small.
func FuzzQuestion(f *testing.F) {
	for _, m := range []*client.Message{asking("iotdps-register", "", "{}"), asking("iotdps-get-operationstatus", "1", ""), {Value: int32(1)}} {
		text, err := m.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		q, correlation, err := questionOf(&amqp.Delivery{Payload: payload})
		text, _ := textOf(correlation)
		if len(text) > maxRequestID || err != nil && signet.CodeOf(err) != signet.RequestMalformed || q.registers && q.operation == "" && len(q.body) > len(payload) {
			t.Errorf("%+v %v %v", q, correlation, err)
		}
	})
}
