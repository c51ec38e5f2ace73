package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	client "github.com/Azure/go-amqp"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/amqp"
)

var discard = slog.New(slog.NewTextHandler(io.Discard, nil))

// anAMQPDoor is a door without TLS, with a back end's side behind it if there is one.
func anAMQPDoor(t testing.TB, w *fakeWaist, b BackEnd) *AMQP {
	t.Helper()
	m := plainDoor(t, w)
	m.backEnd = b
	return NewAMQP(m, nil)
}

// connectAMQP connects a client to a door.
func connectAMQP(t testing.TB, a *AMQP, o *client.ConnOptions) (*client.Conn, error) {
	t.Helper()
	device, server := net.Pipe()
	c := newAMQPConn(a, server)
	c.sni = "hub.example.test" // go-amqp names no host in SASL
	a.mqtt.serve(c)
	return dialAMQP(t, device, o)
}

func dialAMQP(t testing.TB, nc net.Conn, o *client.ConnOptions) (*client.Conn, error) {
	t.Helper()
	if o == nil {
		o = &client.ConnOptions{}
	}
	o.HostName = "hub.example.test"
	c, err := client.NewConn(t.Context(), nc, o)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func byPassword(user string) *client.ConnOptions {
	return &client.ConnOptions{SASLType: client.SASLTypePlain(user, "SharedAccessSignature sr=x")}
}

// aDevice connects press-17.
func aDevice(t testing.TB, a *AMQP) (*client.Conn, *client.Session) {
	t.Helper()
	c, err := connectAMQP(t, a, byPassword("press-17@sas.hub"))
	if err != nil {
		t.Fatal(err)
	}
	return c, aSession(t, c)
}

func aSession(t testing.TB, c *client.Conn) *client.Session {
	t.Helper()
	s, err := c.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func aSender(t testing.TB, s *client.Session, address string) *client.Sender {
	t.Helper()
	l, err := s.NewSender(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func condition(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return string(e.Condition)
	}
	return fmt.Sprint(err)
}

// TestAMQPHost: the hub is the one that SASL names, else the connection, else SNI. azure-eventhub for Python names it with
// the path of its WebSocket.
func TestAMQPHost(t *testing.T) {
	a := anAMQPDoor(t, &fakeWaist{}, nil)
	for _, c := range []struct{ sasl, open, want string }{
		{"hub.example.test", "other.example.test", "hub.example.test"},
		{"", "hub.example.test:5671", "hub.example.test:5671"},
		{"", "", "sni.example.test"},
		{"hub.example.test/$servicebus/websocket", "", "hub.example.test"},
		{"", "hub.example.test:443/$iothub/websocket", "hub.example.test:443"},
		{strings.Repeat("x", maxHost+1), "", "sni.example.test"},
		{"", strings.Repeat("x", maxHost+1), "sni.example.test"},
		{"/", "/", "sni.example.test"},
	} {
		client, server := net.Pipe()
		defer client.Close()
		conn := newAMQPConn(a, server)
		conn.sni = "sni.example.test"
		if c.sasl != "" {
			conn.SASL("ANONYMOUS", nil, c.sasl)
		}
		if err := conn.Open(&amqp.Open{Hostname: c.open}); err != nil || conn.host != c.want {
			t.Errorf("%q, then %q: %q, want %q, %v", c.sasl, c.open, conn.host, c.want, err)
		}
	}
}

// TestAMQPTelemetry: a message is accepted when it is on disk, and not before; what
// could not be stored is told to be so.
func TestAMQPTelemetry(t *testing.T) {
	w := &fakeWaist{hold: true}
	_, s := aDevice(t, anAMQPDoor(t, w, nil))
	events := aSender(t, s, "amqps://hub.example.test:5671/devices/press-17/messages/events")
	if events.MaxMessageSize() != maxAMQPMessage {
		t.Errorf("told %d", events.MaxMessageSize())
	}
	kind := "application/json"
	m := &client.Message{Data: [][]byte{[]byte("one "), []byte("two")},
		Properties:  &client.MessageProperties{MessageID: client.UUID{1}, CorrelationID: uint64(7), UserID: []byte("me"), ContentType: &kind},
		Annotations: client.Annotations{"dt-subject": "thermostat", "iothub-connection-device-id": "another"},
		ApplicationProperties: map[string]any{"n": int64(-3), "f": 1.5, "yes": true, "text": "a&b", "nothing": nil,
			"iothub-message-schema": "s1", "iothub-connection-device-id": "another"}}
	sent := make(chan error, 1)
	go func() { sent <- events.Send(t.Context(), m, nil) }()
	settle := func(err error) {
		for !w.settle(err) {
			time.Sleep(time.Millisecond)
		}
	}
	for range 20 {
		select {
		case err := <-sent:
			t.Fatalf("it is acknowledged before it is stored: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	settle(nil)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	got := w.messages[0]
	slices.SortFunc(got.Properties, func(a, b signet.Property) int { return strings.Compare(a.Name, b.Name) })
	if want := []signet.Property{{Name: "message-id", Value: "01000000-0000-0000-0000-000000000000"}, {Name: "correlation-id", Value: "7"}, {Name: "user-id", Value: "me"},
		{Name: "content-type", Value: "application/json"}, {Name: "dt-subject", Value: "thermostat"}, {Name: "iothub-message-schema", Value: "s1"}}; !reflect.DeepEqual(got.System, want) {
		t.Errorf("system properties: %v", got.System)
	}
	if want := []signet.Property{{Name: "f", Value: "1.5"}, {Name: "n", Value: "-3"}, {Name: "nothing", Null: true}, {Name: "text", Value: "a&b"}, {Name: "yes", Value: "true"}}; !reflect.DeepEqual(got.Properties, want) {
		t.Errorf("properties: %v", got.Properties)
	}
	if string(got.Body) != "one two" {
		t.Errorf("%s", got.Body)
	}
	go func() { sent <- events.Send(t.Context(), client.NewMessage([]byte("x")), nil) }()
	settle(signet.Refuse(signet.Unavailable, "The disk is full."))
	if got := condition(<-sent); got != "amqp:link:detach-forced" {
		t.Errorf("what is not stored: %s", got)
	}
}

// TestAMQPMessages: what is a message, and what is none.
func TestAMQPMessages(t *testing.T) {
	w := &fakeWaist{}
	_, s := aDevice(t, anAMQPDoor(t, w, nil))
	events := aSender(t, s, "/devices/press-17/messages/events")
	encoded := func(m *client.Message) []byte {
		b, err := m.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	batch := func(n, size int) *client.Message {
		m := &client.Message{Format: batchFormat}
		for i := range n {
			m.Data = append(m.Data, encoded(client.NewMessage(append(make([]byte, size), fmt.Sprint(i)...))))
		}
		return m
	}
	for _, c := range []struct {
		name string
		m    *client.Message
		want string // condition
		n    int    // messages taken
	}{
		{"text", &client.Message{Value: "hello"}, "", 1},
		{"nothing", &client.Message{Data: [][]byte{{}}}, "", 1},
		{"a number", &client.Message{Value: int32(7)}, "com.microsoft:argument-error", 0},
		{"a list", &client.Message{Sequence: [][]any{{int32(7)}}}, "com.microsoft:argument-error", 0},
		{"a batch", batch(3, 10), "", 3},
		{"a batch of 501", batch(501, 1), "com.microsoft:argument-error", 0},
		{"a batch of rubbish", &client.Message{Format: batchFormat, Data: [][]byte{encoded(client.NewMessage([]byte("x"))), {1, 2, 3}}}, "com.microsoft:argument-error", 0},
		{"a batch that is too large", batch(3, 100<<10), "amqp:link:message-size-exceeded", 0},
		{"another format", &client.Message{Format: 7, Data: [][]byte{{1}}}, "com.microsoft:argument-error", 0},
		{"the largest", client.NewMessage(make([]byte, signet.MaxMessageSize)), "", 1},
		{"one byte more", client.NewMessage(make([]byte, signet.MaxMessageSize+1)), "amqp:link:message-size-exceeded", 0},
	} {
		w.mu.Lock()
		w.messages = nil
		w.mu.Unlock()
		err := events.Send(t.Context(), c.m, nil)
		if c.want == "" && err != nil || c.want != "" && condition(err) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(w.messages) != c.n {
			t.Errorf("%s: %d messages", c.name, len(w.messages))
		}
	}
}

// TestAMQPRefused: who is refused is told in one way, with the way to the verdict; a
// second try is no use.
func TestAMQPRefused(t *testing.T) {
	for code, want := range map[signet.Code]string{
		signet.IdentityUnknown: "amqp:unauthorized-access", signet.CertRevoked: "amqp:unauthorized-access", signet.HubUnknown: "amqp:unauthorized-access",
		signet.LimitRate: "com.microsoft:device-container-throttled", signet.Unavailable: "amqp:link:detach-forced", signet.Internal: "amqp:internal-error",
	} {
		w := &fakeWaist{}
		w.refusal = signet.Refuse(code, "Not you.")
		w.refusal.TrackingID = "T-1"
		c, err := connectAMQP(t, anAMQPDoor(t, w, nil), nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.NewSession(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.NewSender(t.Context(), "devices/press-17/messages/events", nil)
		e, ok := errors.AsType[*client.Error](err)
		if !ok || string(e.Condition) != want || e.Info["com.microsoft:tracking-id"] != "T-1" || strings.Contains(e.Description, "Not you") != (want != "amqp:unauthorized-access") {
			t.Errorf("%s: %v", code, err)
		}
		s.NewSender(t.Context(), "devices/press-17/messages/events", nil)
		<-c.Done()
		if len(w.sessions) != 0 {
			t.Errorf("%s: a second try has made a session", code)
		}
	}
}

// TestAMQPPassword: who a user name is for, and who may not have it.
func TestAMQPPassword(t *testing.T) {
	w := &fakeWaist{}
	b := &fakeBackEnd{}
	a := anAMQPDoor(t, w, b)
	for user, want := range map[string]string{
		"press-17@sas.hub":             "press-17/",
		"press%3A17/modules/m@sas.hub": "press:17/m",
		"a@sas.b@sas.HUB":              "a@sas.b/",
		"owner@sas.root.hub":           "back end",
		"press-17@sas.other":           "refused",
		"press-17@hub":                 "refused",
		"press-17/x@sas.hub":           "refused",
		"@sas.hub":                     "refused",
		"bad@sas.root.hub":             "refused",
	} {
		w.seen, b.tokens, b.refuse = nil, nil, strings.HasPrefix(user, "bad")
		_, err := connectAMQP(t, a, byPassword(user))
		got := "refused"
		switch {
		case err == nil && len(w.seen) == 1:
			got = w.seen[0].DeviceID + "/" + w.seen[0].ModuleID
			if w.seen[0].Token != "SharedAccessSignature sr=x" || w.seen[0].Door != signet.DoorAMQP {
				t.Errorf("%s: %+v", user, w.seen[0])
			}
		case err == nil && len(b.tokens) == 1:
			got = "back end"
		}
		if got != want {
			t.Errorf("%s: %s, %v", user, got, err)
		}
	}
}

// A fakeBackEnd takes tokens, if it is not to refuse them, and links to "feedback".
type fakeBackEnd struct {
	mu     sync.Mutex
	tokens []string
	closed int
	refuse bool
}

func (b *fakeBackEnd) Connect(*amqp.Conn, signet.Door, netip.AddrPort, string) BackEndConn { return b }
func (b *fakeBackEnd) Close()                                                              { b.mu.Lock(); b.closed++; b.mu.Unlock() }
func (b *fakeBackEnd) Expires() time.Time                                                  { return time.Time{} }
func (b *fakeBackEnd) Fetch()                                                              {}
func (b *fakeBackEnd) AttachReceiver(*amqp.Receiver) *amqp.Error {
	return &amqp.Error{Condition: amqp.NotFound}
}
func (b *fakeBackEnd) AttachSender(s *amqp.Sender) *amqp.Error {
	if s.Address != "/messages/serviceBound/feedback" {
		return &amqp.Error{Condition: amqp.NotFound}
	}
	return nil
}
func (b *fakeBackEnd) PutToken(name, token string) error {
	if b.refuse {
		return signet.Refuse(signet.TokenSignature, "No.")
	}
	b.tokens = append(b.tokens, name+" "+token)
	return nil
}

// A tokenLink puts tokens on $cbs.
type tokenLink struct {
	t   *testing.T
	in  *client.Receiver
	out *client.Sender
}

func putTokens(t *testing.T, s *client.Session) *tokenLink {
	t.Helper()
	out := aSender(t, s, "$cbs")
	in, err := s.NewReceiver(t.Context(), "$cbs", &client.ReceiverOptions{TargetAddress: "me"})
	if err != nil {
		t.Fatal(err)
	}
	return &tokenLink{t, in, out}
}

func (l *tokenLink) put(id any, name, token string) string {
	l.t.Helper()
	replyTo := "me"
	m := &client.Message{Value: token, Properties: &client.MessageProperties{MessageID: id, ReplyTo: &replyTo},
		ApplicationProperties: map[string]any{"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": name}}
	if err := l.out.Send(l.t.Context(), m, nil); err != nil {
		l.t.Fatal(err)
	}
	answer, err := l.in.Receive(l.t.Context(), nil)
	if err != nil {
		l.t.Fatal(err)
	}
	l.in.AcceptMessage(l.t.Context(), answer)
	status, ok := answer.ApplicationProperties["status-code"].(int32)
	if !ok || answer.Properties.CorrelationID != id {
		l.t.Errorf("answered %+v %+v", answer.Properties, answer.ApplicationProperties)
	}
	return fmt.Sprint(status, " ", answer.ApplicationProperties["status-description"])
}

// TestAMQPToken: tokens on $cbs, for devices and for back ends.
func TestAMQPToken(t *testing.T) {
	const deviceToken = "SharedAccessSignature sr=hub.example.test%2Fdevices%2Fpress-17&sig=eA==&se=1"
	w := &fakeWaist{}
	b := &fakeBackEnd{}
	a := anAMQPDoor(t, w, b)
	begin := func() (*client.Conn, *client.Session) {
		c, err := connectAMQP(t, a, &client.ConnOptions{SASLType: client.SASLTypeAnonymous()})
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.NewSession(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return c, s
	}
	_, s := begin()
	l := putTokens(t, s)
	if got := l.put(uint64(9), "x", deviceToken); got != "200 OK" {
		t.Error(got)
	}
	if len(w.seen) != 1 || w.seen[0].DeviceID != "press-17" || w.seen[0].Token != deviceToken || len(w.sessions) != 1 {
		t.Errorf("%+v", w.seen)
	}
	aSender(t, s, "/devices/press-17/messages/events")
	// Another token of the same device goes on with the same session.
	if got := l.put("again", "x", deviceToken); got != "200 OK" || len(w.seen) != 2 || len(w.sessions) != 1 {
		t.Errorf("%s, %d sessions", got, len(w.sessions))
	}
	w.judge = nil
	for name, token := range map[string]string{"another device": strings.Replace(deviceToken, "17", "18", 1), "a back end": "SharedAccessSignature sr=hub.example.test&sig=eA==&se=1&skn=owner"} {
		if got := l.put("x", "y", token); !strings.HasPrefix(got, "40") {
			t.Errorf("%s: %s", name, got)
		}
	}
	if _, err := s.NewSender(t.Context(), "/devices/press-18/messages/events", nil); condition(err) != "amqp:not-allowed" {
		t.Errorf("a link of another device: %v", err)
	}
	if _, err := s.NewReceiver(t.Context(), "/devices/press-17/messages/feedback", nil); condition(err) != "amqp:not-found" {
		t.Errorf("a node that is none: %v", err)
	}
	if _, err := s.NewReceiver(t.Context(), "/messages/serviceBound/feedback", nil); condition(err) != "amqp:not-found" {
		t.Errorf("a node of a back end: %v", err)
	}

	// The name says that it is a device's where the token is for all of them.
	_, s = begin()
	if got := putTokens(t, s).put("x", "amqps://hub.example.test/devices/press-19/modules/m/", "SharedAccessSignature sr=hub.example.test&sig=eA==&se=1&skn=device"); got != "200 OK" {
		t.Error(got)
	}
	if last, _ := w.lastSeen(); last.DeviceID != "press-19" || last.ModuleID != "m" {
		t.Errorf("%+v", last)
	}

	// A refusal, and what is none of the kind.
	c, s := begin()
	w.refusal = signet.Refuse(signet.TokenSignature, "Forged.")
	w.refusal.TrackingID = "T-1"
	l = putTokens(t, s)
	if got := l.put("x", "x", deviceToken); got != "401 Unauthorized. Tracking ID: T-1" {
		t.Error(got)
	}
	l.out.Send(t.Context(), &client.Message{Value: deviceToken, ApplicationProperties: map[string]any{"operation": "put-token"}}, nil)
	<-c.Done()

	_, s = begin()
	l = putTokens(t, s)
	if got := l.put("x", "sb://hub.example.test/", "SharedAccessSignature sr=hub.example.test&sig=eA==&se=1&skn=owner"); got != "200 OK" || len(b.tokens) != 1 {
		t.Error(got, b.tokens)
	}
	if _, err := s.NewReceiver(t.Context(), "/messages/serviceBound/feedback", nil); err != nil {
		t.Error(err)
	}
	if _, err := s.NewSender(t.Context(), "/devices/press-17/messages/events", nil); condition(err) != "amqp:not-allowed" {
		t.Errorf("a link of a device: %v", err)
	}
	if got := l.put("x", "x", deviceToken); !strings.HasPrefix(got, "400") {
		t.Error(got)
	}
}

// TestAMQPCommands: as many are sent as may be in flight; each outcome is that of the
// device, and said again to one that waits for it.
func TestAMQPCommands(t *testing.T) {
	for _, mode := range []client.ReceiverSettleMode{client.ReceiverSettleModeFirst, client.ReceiverSettleModeSecond} {
		w := &fakeWaist{}
		for i := range 14 {
			w.commands = append(w.commands, &signet.Command{MessageID: fmt.Sprint("m", i), Sequence: int64(i), EnqueuedTime: time.UnixMilli(5), DeliveryCount: 2, Body: []byte("hi"), Ack: signet.AckFull,
				ExpiryTime: time.UnixMilli(9), Properties: []signet.Property{{Name: "a", Value: "b"}},
				System: []signet.Property{{Name: "correlation-id", Value: "c"}, {Name: "user-id", Value: "u"}, {Name: "absolute-expiry-time", Value: "x"}}})
		}
		_, s := aDevice(t, anAMQPDoor(t, w, nil))
		in, err := s.NewReceiver(t.Context(), "/devices/press-17/messages/devicebound", &client.ReceiverOptions{Credit: 50, SettlementMode: mode.Ptr()})
		if err != nil {
			t.Fatal(err)
		}
		var held []*client.Message
		take := func() {
			m, err := in.Receive(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, m)
		}
		for range maxInFlight {
			take()
		}
		w.mu.Lock()
		locks := w.locks
		w.mu.Unlock()
		if locks != maxInFlight {
			t.Errorf("%d are given out", locks)
		}
		m := held[0]
		if *m.Properties.To != "/devices/press-17/messages/deviceBound" || m.Properties.MessageID != "m0" || m.Properties.CorrelationID != "c" || string(m.Properties.UserID) != "u" ||
			!m.Properties.AbsoluteExpiryTime.Equal(time.UnixMilli(9)) || !reflect.DeepEqual(m.ApplicationProperties, map[string]any{"a": "b", "iothub-ack": "full"}) ||
			len(m.DeliveryTag) != 16 || string(m.GetData()) != "hi" {
			t.Errorf("%+v %+v", m.Properties, m)
		}
		for key, want := range map[string]any{"x-opt-sequence-number": uint64(0), "iothub-enqueuedtime": time.UnixMilli(5).UTC(), "iothub-deliverycount": uint8(2), "x-opt-lock-token": "lock-1"} {
			if got := m.Annotations[key]; fmt.Sprintf("%T %v", got, got) != fmt.Sprintf("%T %v", want, want) {
				t.Errorf("%s is %T %v", key, got, got)
			}
		}
		for i, settle := range []func(*client.Message) error{
			func(m *client.Message) error { return in.AcceptMessage(t.Context(), m) },
			func(m *client.Message) error { return in.RejectMessage(t.Context(), m, nil) },
			func(m *client.Message) error { return in.ReleaseMessage(t.Context(), m) },
			func(m *client.Message) error {
				return in.ModifyMessage(t.Context(), m, &client.ModifyMessageOptions{UndeliverableHere: true})
			},
		} {
			if err := settle(held[i]); err != nil {
				t.Error(err)
			}
			take() // there is room for another
		}
		w.mu.Lock()
		settled := strings.Join(w.settled, ", ")
		w.mu.Unlock()
		if want := "complete m0, reject m1, abandon m2, reject m3"; settled != want {
			t.Error(settled)
		}
		// What the link has left unsettled goes back into the queue when it is detached.
		if err := in.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		if n := len(w.settled); n != 14 {
			t.Errorf("%d are settled: %v", n, w.settled)
		}
		w.mu.Unlock()
	}

	// A device that settles nothing has it completed before.
	w := &fakeWaist{commands: []*signet.Command{{MessageID: "m0"}}}
	_, s := aDevice(t, anAMQPDoor(t, w, nil))
	in, err := s.NewReceiver(t.Context(), "/devices/press-17/messages/devicebound", &client.ReceiverOptions{RequestedSenderSettleMode: client.SenderSettleModeSettled.Ptr()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Receive(t.Context(), nil); err != nil || len(w.settled) != 1 || w.settled[0] != "complete m0" {
		t.Errorf("%v %v", w.settled, err)
	}
}

// TestAMQPTwin: requests and their answers, by types that clients insist on.
func TestAMQPTwin(t *testing.T) {
	w := &fakeWaist{}
	_, s := aDevice(t, anAMQPDoor(t, w, nil))
	in, err := s.NewReceiver(t.Context(), "/devices/press-17/twin", &client.ReceiverOptions{Credit: 20})
	if err != nil {
		t.Fatal(err)
	}
	out := aSender(t, s, "/devices/press-17/twin")
	for i, c := range []struct {
		operation, resource, body string
		version                   any
		status                    int32
		want                      string // of the body, in part
		newVersion                any
	}{
		{"GET", "", " ", nil, 200, `{"desired":{"$version":1},"reported":{"$version":1}}`, nil},
		{"PATCH", "/properties/reported", "{}", nil, 200, "", int64(2)},
		{"PATCH", "/properties/reported", "{}", int64(1), 200, "", int64(2)},
		{"PATCH", "/properties/reported", "{}", int64(7), 412, `"errorCode":412001`, nil},
		{"PATCH", "/properties/reported", "{}", "x", 400, `"errorCode":400004`, nil},
		{"PATCH", "/properties/reported", "bad", nil, 400, `"errorCode":400004`, nil},
		{"PATCH", "/properties/reported", "fault", nil, 500, `"errorCode":500001`, nil},
		{"PATCH", "/properties/desired", "{}", nil, 400, `"errorCode":400004`, nil},
		{"PUT", "/notifications/twin/properties/desired", " ", nil, 200, "", nil},
		{"DELETE", "/notifications/twin/properties/desired", "", nil, 200, "", nil},
		{"DROP", "", "", nil, 400, `"errorCode":400004`, nil},
	} {
		id := fmt.Sprint("Get", i)
		m := &client.Message{Data: [][]byte{[]byte(c.body)}, Properties: &client.MessageProperties{CorrelationID: id}, Annotations: client.Annotations{"operation": c.operation}}
		if c.resource != "" {
			m.Annotations["resource"] = c.resource
		}
		if c.version != nil {
			m.Annotations["version"] = c.version
		}
		if err := out.Send(t.Context(), m, nil); err != nil {
			t.Fatal(err)
		}
		answer, err := in.Receive(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		body := string(answer.GetData())
		if answer.Properties.CorrelationID != id || answer.Annotations["status"] != c.status || answer.Annotations["version"] != c.newVersion ||
			c.want == "" && body != "" || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %v %v %s", c.operation, c.resource, answer.Properties.CorrelationID, answer.Annotations, body)
		}
	}
	if err := out.Send(t.Context(), &client.Message{Data: [][]byte{{}}, Annotations: client.Annotations{"operation": "GET"}}, nil); condition(err) != "com.microsoft:argument-error" {
		t.Errorf("without a correlation-id: %v", err)
	}
}

// TestAMQPTwinAnswersFirst: a change that comes while the twin is read is told after the
// answer, which may be of before it: see TestTwinIsNoOlderThanWhatWasTold.
func TestAMQPTwinAnswersFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := aDevice(t, NewAMQP(plainDoor(t, changingWaist{&fakeWaist{}, 1}), nil))
		in, err := s.NewReceiver(t.Context(), "/devices/press-17/twin", &client.ReceiverOptions{Credit: 20})
		if err != nil {
			t.Fatal(err)
		}
		out := aSender(t, s, "/devices/press-17/twin")
		var heard []string
		for _, annotations := range []client.Annotations{
			{"operation": "PUT", "resource": "/notifications/twin/properties/desired"}, {"operation": "GET"}, nil} {
			if annotations != nil {
				if err := out.Send(t.Context(), &client.Message{Data: [][]byte{{}}, Properties: &client.MessageProperties{CorrelationID: "1"}, Annotations: annotations}, nil); err != nil {
					t.Fatal(err)
				}
			}
			m, err := in.Receive(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			heard = append(heard, string(m.GetData()))
		}
		if want := []string{"", `{"desired":{"$version":5},"reported":{"$version":1}}`, `{"x":1,"$version":6}`}; !slices.Equal(heard, want) {
			t.Errorf("the device hears %q", heard)
		}
	})
}

// TestAMQPShutdown: what was sent before a shutdown is acknowledged once it is stored.
func TestAMQPShutdown(t *testing.T) {
	w := &fakeWaist{hold: true}
	a := anAMQPDoor(t, w, nil)
	c, s := aDevice(t, a)
	events := aSender(t, s, "/devices/press-17/messages/events")
	sent := make(chan error, 1)
	go func() { sent <- events.Send(t.Context(), client.NewMessage([]byte("x")), nil) }()
	for {
		w.mu.Lock()
		n := len(w.pending)
		w.mu.Unlock()
		if n > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	down := make(chan error, 1)
	go func() { down <- a.mqtt.Shutdown(context.Background()) }()
	<-a.mqtt.shutdown
	w.settle(nil)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	<-c.Done()
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// TestAMQPCut: when the session ends, the connection does, and the device hears why.
func TestAMQPCut(t *testing.T) {
	w := &fakeWaist{}
	a := anAMQPDoor(t, w, nil)
	c, _ := aDevice(t, a)
	w.last().end(signet.Refuse(signet.CertRevoked, "Revoked."))
	<-c.Done()
	if err := c.Err(); !strings.Contains(err.Error(), "amqp:unauthorized-access") || strings.Contains(err.Error(), "Revoked") {
		t.Error(err)
	}
}

// TestAMQPTime: how long a stranger may be quiet, and a session may last.
func TestAMQPTime(t *testing.T) {
	// quiet gives how long a connection lasts on which nothing is said but what is
	// written first, and what it was refused for.
	quiet := func(d *tlsDoor, conf *tls.Config, first []byte) (time.Duration, []signet.Code) {
		device, server := net.Pipe()
		began := time.Now()
		d.MQTT.serve(newAMQPConn(d.MQTT.amqp, server))
		c := tls.Client(device, conf)
		if err := c.Handshake(); err != nil {
			t.Error(err)
		}
		c.Write(first)
		io.Copy(io.Discard, c)
		c.Close()
		synctest.Wait()
		return time.Since(began), d.waist.refusals()
	}
	cert := issue(t, "press-17", nil)
	synctest.Test(t, func(t *testing.T) {
		d := &tlsDoor{waist: &fakeWaist{}}
		server := issue(t, "hub.example.test", nil)
		d.MQTT = NewMQTT(d.waist, Config{TLS: &tls.Config{Certificates: []tls.Certificate{server}}, Logger: discard})
		a := NewAMQP(d.MQTT, nil)
		conf := &tls.Config{InsecureSkipVerify: true}
		opening := recorded(t, nil)
		if took, codes := quiet(d, conf, opening); took != handshakeTime || !slices.Equal(codes, []signet.Code{signet.LimitHandshake}) {
			t.Errorf("without a certificate: %v %v", took, codes)
		}
		conf.Certificates = []tls.Certificate{cert}
		if took, codes := quiet(d, conf, opening); took != quietTime || !slices.Equal(codes, []signet.Code{signet.LimitHandshake}) {
			t.Errorf("with a certificate: %v %v", took, codes)
		}
		for a.quiet.enter(netip.Addr{}) { // others of the same address: it may have half
		}
		if n := a.quiet.here; n != maxQuiet/2 {
			t.Errorf("%d of one address are quiet", n)
		}
		if !a.quiet.enter(netip.MustParseAddr("192.0.2.1")) {
			t.Error("there is no room for another address")
		}
		if took, _ := quiet(d, conf, opening); took != handshakeTime {
			t.Errorf("with a certificate, in a crowd: %v", took)
		}
		if took, codes := quiet(d, conf, []byte("GET / HTTP/1.1\r\n\r\n")); took > lingerTime || !slices.Equal(codes, []signet.Code{signet.RequestMalformed}) {
			t.Errorf("what is no AMQP: %v %v", took, codes)
		}
		if n := a.quiet.here; n != maxQuiet/2+1 {
			t.Errorf("%d are quiet", n)
		}
		shutDown(t, d.MQTT)
	})
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWaist{lifetime: time.Hour}
		m := newMQTT(w, Config{Logger: discard})
		a := NewAMQP(m, nil)
		device, server := net.Pipe()
		began := time.Now()
		conn := newAMQPConn(a, server)
		conn.sni = "hub.example.test"
		m.serve(conn)
		c, err := dialAMQP(t, device, byPassword("press-17@sas.hub"))
		if err != nil {
			t.Fatal(err)
		}
		<-c.Done()
		if lasted := time.Since(began); lasted != time.Hour || !strings.Contains(c.Err().Error(), "has expired") {
			t.Errorf("after %v: %v", lasted, c.Err())
		}
		shutDown(t, m)
	})
}

// recorded gives what a client says that opens a connection, and then does more.
func recorded(t testing.TB, more func(*client.Conn)) []byte {
	device, server := net.Pipe()
	tape := &tapedConn{Conn: device}
	n := amqp.NewConn(server, tapeHandler{}, amqp.Options{ContainerID: "tape", Mechanisms: mechanisms})
	over := make(chan error, 1)
	go func() { over <- n.Serve() }()
	c, err := client.NewConn(t.Context(), tape, &client.ConnOptions{HostName: "hub.example.test"})
	if err != nil {
		t.Fatal(err)
	}
	if more != nil {
		more(c)
	}
	tape.mu.Lock()
	said := bytes.Clone(tape.said)
	tape.mu.Unlock()
	server.Close()
	<-over
	<-c.Done()
	return said
}

type tapedConn struct {
	net.Conn
	mu   sync.Mutex
	said []byte
}

func (c *tapedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.said = append(c.said, b...)
	c.mu.Unlock()
	return c.Conn.Write(b)
}

type tapeHandler struct{}

func (tapeHandler) SASL(amqp.Symbol, []byte, string) bool { return true }
func (tapeHandler) Open(*amqp.Open) *amqp.Error           { return nil }
func (tapeHandler) AttachReceiver(r *amqp.Receiver) *amqp.Error {
	r.Credit, r.MaxSize, r.Take = 10, 1<<20, func(d *amqp.Delivery) { d.Settle(amqp.Accepted{}) }
	return nil
}
func (tapeHandler) AttachSender(*amqp.Sender) *amqp.Error { return nil }
func (tapeHandler) Fetch()                                {}

// TestAMQPAddresses: however an SDK writes the address of a node, it is that node.
func TestAMQPAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"amqps://hub.example.test:5671/devices/a%20b/messages/deviceBound": "a b//messages/devicebound",
		"/devices/a/modules/m/twin":                                        "a/m/twin",
		"devices/A/messages/events":                                        "A//messages/events",
		"$CBS":                                                             "//$cbs",
		"amqps://h/$cbs":                                                   "//$cbs",
		"/messages/events":                                                 "//",
		"hub/ConsumerGroups/$Default/Partitions/0":                         "//",
		"/devices/a":                                                       "//",
		"/devices//messages/events":                                        "//",
		"":                                                                 "//",
		"://":                                                              "//",
	} {
		n := parseNode(address)
		if got := n.deviceID + "/" + n.moduleID + "/" + n.name; got != want {
			t.Errorf("%q is %s", address, got)
		}
	}
	for audience, want := range map[string]string{
		"h/devices/a": "a/", "amqps://h:5671/devices/a/modules/m/": "a/m", "h": "", "h/devices": "", "h/devices/": "", "h/devices/a/messages": "", "h/messages/events": "", "": "",
	} {
		s, ok := deviceOf(audience)
		if got := s.deviceID + "/" + s.moduleID; ok != (want != "") || ok && got != want {
			t.Errorf("%q is for %q, %v", audience, got, ok)
		}
	}
	for _, id := range []string{"1", "1a2b3c", "ffffffffffff"} {
		u := callUUID(id)
		text, _ := textOf(u)
		for _, form := range []any{u, text} {
			if got, ok := callOf(form); got != id || !ok {
				t.Errorf("%s is %v and then %s", id, form, got)
			}
		}
	}
	for _, bad := range []any{nil, "", "x", uint64(1), "00000000-0000-8000-8000-00000000000g"} {
		if id, ok := callOf(bad); ok {
			t.Errorf("%v is the call %s", bad, id)
		}
	}
}

// FuzzAMQP: whatever a client sends, the door comes to its end, and nothing is left.
func FuzzAMQP(f *testing.F) {
	device := func(do func(*client.Session)) []byte {
		return recorded(f, func(c *client.Conn) {
			s, err := c.NewSession(f.Context(), nil)
			if err != nil {
				f.Fatal(err)
			}
			do(s)
		})
	}
	f.Add(device(func(s *client.Session) {
		aSender(f, s, "/devices/a/messages/events").Send(f.Context(), client.NewMessage([]byte("x")), nil)
	}))
	f.Add(device(func(s *client.Session) {
		s.NewReceiver(f.Context(), "/devices/a/twin", nil)
		aSender(f, s, "/devices/a/twin").Send(f.Context(), &client.Message{Data: [][]byte{{}}, Properties: &client.MessageProperties{CorrelationID: "x"},
			Annotations: client.Annotations{"operation": "PATCH", "resource": "/properties/reported"}}, nil)
	}))
	f.Add(device(func(s *client.Session) {
		s.NewReceiver(f.Context(), "$cbs", nil)
		aSender(f, s, "$cbs").Send(f.Context(), &client.Message{Value: "SharedAccessSignature sr=h%2Fdevices%2Fa&sig=eA==&se=1",
			ApplicationProperties: map[string]any{"operation": "put-token", "name": "h"}}, nil)
		s.NewReceiver(f.Context(), "/devices/a/messages/devicebound", nil)
	}))
	f.Add(device(func(s *client.Session) {
		aSender(f, s, "/devices/a/methods/devicebound").Send(f.Context(), &client.Message{Properties: &client.MessageProperties{CorrelationID: client.UUID{}},
			ApplicationProperties: map[string]any{"IoThub-status": int32(200)}, Data: [][]byte{[]byte("{}")}}, nil)
	}))
	f.Fuzz(func(t *testing.T, said []byte) {
		w := &fakeWaist{commands: []*signet.Command{{MessageID: "m"}}}
		m := newMQTT(w, Config{Logger: discard})
		a := NewAMQP(m, nil)
		c := newAMQPConn(a, &saidConn{in: bytes.NewReader(said)})
		m.serve(c)
		m.lives.Wait()
		if waiting, within := m.gate.counts(); waiting+within != 0 || a.quiet.here+len(a.quiet.of) != 0 {
			t.Error("the stranger is still there")
		}
		for _, s := range w.sessions {
			if s.Ended() == nil {
				t.Error("a session goes on")
			}
		}
	})
}

// A saidConn gives what a client has said, and takes all.
type saidConn struct {
	net.Conn
	in io.Reader
}

func (c *saidConn) Read(b []byte) (int, error)       { return c.in.Read(b) }
func (c *saidConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c *saidConn) SetDeadline(time.Time) error      { return nil }
func (c *saidConn) SetReadDeadline(time.Time) error  { return nil }
func (c *saidConn) SetWriteDeadline(time.Time) error { return nil }
func (c *saidConn) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)} }
func (c *saidConn) Close() error                     { return nil }
