package backend

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
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

	goamqp "github.com/Azure/go-amqp"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/commands"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/wire/amqp"
)

// memlog is a message log in memory.
type memlog struct {
	mu      sync.Mutex
	kept    []*signet.Message // message n has the sequence n+1
	changed chan struct{}
	reads   int // how often Read was called
	reading int // how many read now
	err     error
}

func (l *memlog) append(device, body string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, &signet.Message{Hub: "plant", DeviceID: device, Source: signet.SourceTelemetry,
		EnqueuedTime: start.Add(time.Duration(len(l.kept)) * time.Second), Body: []byte(body)})
	close(l.changed)
	l.changed = make(chan struct{})
}

// readers says how many read now, and how often it was begun to.
func (l *memlog) readers() (now, ever int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reading, l.reads
}

func (l *memlog) Ends(context.Context, string) (first, last signet.Position, enqueued time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.kept); n > 0 {
		first, last, enqueued = signet.Position{Sequence: 1}, signet.Position{Sequence: uint64(n)}, l.kept[n-1].EnqueuedTime
	}
	return first, last, enqueued, l.err
}

func (l *memlog) Read(ctx context.Context, _ string, from hub.Start, follow bool, each func(signet.Position, *signet.Message) bool) error {
	l.mu.Lock()
	l.reads++
	l.reading++
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.reading--
		l.mu.Unlock()
	}()
	for n := int(from.After.Sequence); ; n++ {
		l.mu.Lock()
		for n >= len(l.kept) {
			changed := l.changed
			l.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
			l.mu.Lock()
		}
		m, err := l.kept[n], l.err
		l.mu.Unlock()
		if err != nil {
			return err
		}
		if !m.EnqueuedTime.Before(from.Time) && !each(signet.Position{Sequence: uint64(n + 1)}, m) {
			return nil
		}
	}
}

type verdicts struct {
	mu   sync.Mutex
	kept []signet.Verdict
}

func (v *verdicts) Record(one signet.Verdict) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.kept = append(v.kept, one)
	return one.TrackingID
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// house is the door over a log, a registry and queues in memory.
type house struct {
	t        *testing.T
	log      *memlog
	registry *registry.Registry
	commands *commands.Commands
	verdicts *verdicts
	door     *Backend
	hub      signet.Hub

	mu  sync.Mutex
	now time.Time
}

func newHouse(t *testing.T) *house {
	h := &house{t: t, log: &memlog{changed: make(chan struct{})}, verdicts: &verdicts{}, now: start}
	store := memstore.New()
	h.registry = registry.New(store, registry.Options{Now: h.clock})
	h.commands = commands.New(store, commands.Options{Now: h.clock})
	var err error
	if h.hub, err = h.registry.CreateHub(t.Context(), "plant", "plant.example.test"); err != nil {
		t.Fatal(err)
	}
	h.door = New(Deps{Log: h.log, Registry: h.registry, Commands: h.commands, Verdicts: h.verdicts, Now: h.clock, Logger: slog.New(slog.DiscardHandler)})
	return h
}

func (h *house) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

// handler is the door that stands before this one, with $cbs and no devices.
type handler struct {
	h    *house
	amqp *amqp.Conn
	conn *Conn
	cbs  amqp.Replies
}

func (d *handler) SASL(amqp.Symbol, []byte, string) bool { return true }
func (d *handler) Open(o *amqp.Open) *amqp.Error {
	d.conn = d.h.door.Connect("amqp", netip.MustParseAddrPort("192.0.2.1:5000"), o.Hostname)
	return nil
}
func (d *handler) AttachReceiver(r *amqp.Receiver) *amqp.Error {
	if r.Address != "$cbs" {
		return d.conn.AttachReceiver(r)
	}
	r.Credit, r.MaxSize = 4, 8<<10
	r.Take = func(delivery *amqp.Delivery) {
		m, err := amqp.ParseMessage(delivery.Payload)
		if err != nil {
			d.h.t.Error(err)
		}
		delivery.Settle(amqp.Accepted{})
		status, text := int32(200), "OK"
		if err := d.conn.PutToken("", m.Value.(string)); err != nil {
			status, text = 401, err.Error()
		} else {
			d.amqp.LetIn()
		}
		answer := amqp.Message{Body: amqp.ValueBody, Application: amqp.Map{{Key: "status-code", Value: status}, {Key: "status-description", Value: text}}}
		d.cbs.Answer(r, m.Properties.ReplyTo, answer.Append(nil))
	}
	return nil
}
func (d *handler) AttachSender(s *amqp.Sender) *amqp.Error {
	if s.Address != "$cbs" {
		return d.conn.AttachSender(s)
	}
	d.cbs.Add(s)
	return nil
}
func (d *handler) Fetch() {
	d.cbs.Fetch()
	if d.conn != nil {
		d.conn.Fetch()
	}
}

// connect opens a connection and a session, by go-amqp.
func (h *house) connect(host string) *goamqp.Session {
	h.t.Helper()
	client, server := net.Pipe()
	d := &handler{h: h}
	d.amqp = amqp.NewConn(server, d, amqp.Options{ContainerID: "test", Mechanisms: []amqp.Symbol{"ANONYMOUS"}})
	over := make(chan struct{})
	go func() {
		defer close(over)
		d.amqp.Serve()
		if d.conn != nil {
			d.conn.Close()
		}
		server.Close()
	}()
	c, err := goamqp.NewConn(h.t.Context(), client, &goamqp.ConnOptions{HostName: host})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close(); <-over })
	s, err := c.NewSession(h.t.Context(), nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// put puts a token to $cbs, and says what is answered.
func (h *house) put(s *goamqp.Session, token string) (int32, string) {
	h.t.Helper()
	answers, err := s.NewReceiver(h.t.Context(), "$cbs", &goamqp.ReceiverOptions{TargetAddress: "me"})
	if err != nil {
		h.t.Fatal(err)
	}
	requests, err := s.NewSender(h.t.Context(), "$cbs", nil)
	if err != nil {
		h.t.Fatal(err)
	}
	me := "me"
	if err := requests.Send(h.t.Context(), &goamqp.Message{Properties: &goamqp.MessageProperties{ReplyTo: &me}, Value: token}, nil); err != nil {
		h.t.Fatal(err)
	}
	m, err := answers.Receive(h.t.Context(), nil)
	if err != nil {
		h.t.Fatal(err)
	}
	answers.Close(h.t.Context())
	requests.Close(h.t.Context())
	return m.ApplicationProperties["status-code"].(int32), m.ApplicationProperties["status-description"].(string)
}

func (h *house) token(policy, resource string, life time.Duration) string {
	h.t.Helper()
	of := h.hub.Policy(policy)
	token, err := signet.SignSAS(resource, policy, of.PrimaryKey, h.clock().Add(life))
	if err != nil {
		h.t.Fatal(err)
	}
	return token
}

// letIn opens a connection with a token for all of the hub.
func (h *house) letIn() *goamqp.Session {
	h.t.Helper()
	s := h.connect("plant.example.test")
	if status, text := h.put(s, h.token("service", "plant.example.test", time.Hour)); status != 200 {
		h.t.Fatal(text)
	}
	return s
}

// condition is that of a refusal.
func condition(err error) string {
	if e, ok := errors.AsType[*goamqp.LinkError](err); ok && e.RemoteErr != nil {
		return string(e.RemoteErr.Condition)
	}
	if e, ok := errors.AsType[*goamqp.Error](err); ok {
		return string(e.Condition)
	}
	return fmt.Sprint(err)
}

func (h *house) receiver(s *goamqp.Session, address, selector string, properties map[string]any) (*goamqp.Receiver, error) {
	o := &goamqp.ReceiverOptions{Credit: 10, Properties: properties}
	if selector != "" {
		o.Filters = []goamqp.LinkFilter{goamqp.NewLinkFilter(string(selectorFilter), selectorCode, selector)}
	}
	return s.NewReceiver(h.t.Context(), address, o)
}

const defaultGroup = "plant/ConsumerGroups/$Default/Partitions/0"

// bodies takes n messages.
func (h *house) bodies(r *goamqp.Receiver, n int) (all []string) {
	h.t.Helper()
	for range n {
		ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
		m, err := r.Receive(ctx, nil)
		cancel()
		if err != nil {
			h.t.Fatalf("after %v: %v", all, err)
		}
		all = append(all, string(m.GetData()))
	}
	return all
}

// TestTokens: who is let in, and to what.
func TestTokens(t *testing.T) {
	h := newHouse(t)
	for _, c := range []struct {
		what, host, token string
		want              signet.Code
	}{
		{"an owner", "plant.example.test", h.token("iothubowner", "plant.example.test", time.Hour), ""},
		{"by a name with a port", "Plant.example.test:5671", h.token("service", "plant.example.test", time.Hour), ""},
		{"a key that is not decoded", "plant.example.test", eventHubsToken(t, h.hub.Policy("service")), ""},
		{"no right", "plant.example.test", h.token("registryRead", "plant.example.test", time.Hour), signet.TokenRights},
		{"a device's right", "plant.example.test", h.token("device", "plant.example.test", time.Hour), signet.TokenRights},
		{"another hub's", "plant.example.test", h.token("service", "other.example.test", time.Hour), signet.TokenAudience},
		{"expired", "plant.example.test", h.token("service", "plant.example.test", -time.Hour), signet.TokenExpired},
		{"nobody's", "plant.example.test", h.token("service", "plant.example.test", time.Hour) + "x", signet.TokenSignature},
		{"no token", "plant.example.test", "Bearer x", signet.TokenMalformed},
		{"no hub", "nowhere.example.test", h.token("service", "plant.example.test", time.Hour), signet.HubUnknown},
	} {
		s := h.connect(c.host)
		status, text := h.put(s, c.token)
		want := "OK"
		if c.want != "" {
			want = string(c.want)
		}
		if status == 200 != (c.want == "") || !slices.Contains([]string{"OK", want}, text) && signet.Code(text[:min(len(text), len(want))]) != c.want {
			t.Errorf("%s: %d %s, want %s", c.what, status, text, want)
		}
		_, err := h.receiver(s, defaultGroup, "", nil)
		if (err == nil) != (c.want == "") {
			t.Errorf("%s: a reader gets %v", c.what, err)
		}
	}
	if n := len(h.verdicts.kept); n < 6 {
		t.Errorf("%d verdicts are on record", n)
	}
}

// eventHubsToken signs as the SDKs of Event Hubs do: with the text of the key.
func eventHubsToken(t *testing.T, p signet.Policy) string {
	t.Helper()
	key := base64.StdEncoding.EncodeToString([]byte(p.PrimaryKey))
	token, err := signet.SignSAS("sb://plant.example.test/plant/consumergroups/$default/partitions/0", p.Name, key, start.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestLinksNeedTokens: a token counts for what it is for, as long as it lasts.
func TestLinksNeedTokens(t *testing.T) {
	h := newHouse(t)
	s := h.connect("plant.example.test")
	if _, err := h.receiver(s, defaultGroup, "", nil); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("without a token: %v", err)
	}
	h.put(s, h.token("service", "plant.example.test/messages/events", time.Second-signet.SASClockSkew))
	if _, err := s.NewSender(t.Context(), "/messages/devicebound", nil); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("with a token for something else: %v", err)
	}
	r, err := h.receiver(s, defaultGroup, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	h.pass(time.Second)
	if _, err := r.Receive(t.Context(), nil); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("when the token has expired: %v", err)
	}
	if _, err := h.receiver(s, defaultGroup, "", nil); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("with an expired token: %v", err)
	}
	// Renewed, it goes on, and lasts as long as the newer token.
	h.put(s, h.token("service", "plant.example.test", time.Second-signet.SASClockSkew))
	if r, err = h.receiver(s, defaultGroup, "", nil); err != nil {
		t.Fatal(err)
	}
	h.put(s, h.token("service", "plant.example.test", time.Hour))
	h.pass(time.Second)
	h.log.append("press-17", "still there")
	if got := h.bodies(r, 1)[0]; got != "still there" {
		t.Error(got)
	}
}

// TestNodes: what is refused, with which condition.
func TestNodes(t *testing.T) {
	h := newHouse(t)
	s := h.letIn()
	for address, want := range map[string]string{
		"plant/ConsumerGroups/$Default/Partitions/1": "com.microsoft:argument-out-of-range",
		"other/ConsumerGroups/$Default/Partitions/0": "amqp:not-found",
		"/messages/serviceBound/filenotifications":   "amqp:not-implemented",
		"/messages/devicebound":                      "amqp:not-allowed",
		"nowhere":                                    "amqp:not-found",
	} {
		if _, err := h.receiver(s, address, "", nil); condition(err) != want {
			t.Errorf("a receiver at %s: %v, want %s", address, err, want)
		}
	}
	for address, want := range map[string]string{
		"plant":                           "amqp:not-allowed",
		"/messages/events":                "amqp:not-allowed",
		"/messages/serviceBound/feedback": "amqp:not-allowed",
		"/devices/x/messages/events":      "amqp:not-found",
	} {
		if _, err := s.NewSender(t.Context(), address, nil); condition(err) != want {
			t.Errorf("a sender at %s: %v, want %s", address, err, want)
		}
	}
	for selector, want := range map[string]string{
		"amqp.annotation.x-opt-offset = '1'":           "amqp:invalid-field",
		"amqp.annotation.x-opt-offset > '99999'":       "<nil>", // nothing is there to be behind
		"amqp.annotation.x-opt-sequence-number > '-1'": "<nil>",
	} {
		if _, err := h.receiver(s, defaultGroup, selector, nil); condition(err) != want {
			t.Errorf("a reader from %s: %v, want %s", selector, err, want)
		}
	}
	h.log.append("press-17", "one")
	if _, err := h.receiver(s, defaultGroup, "amqp.annotation.x-opt-offset > '99999'", nil); condition(err) != "com.microsoft:argument-out-of-range" {
		t.Errorf("a reader from behind the end: %v", err)
	}
	// The redirect, also of a client that gives no credit.
	r, err := s.NewReceiver(t.Context(), "amqps://plant.example.test/messages/events/$management", &goamqp.ReceiverOptions{Credit: -1})
	if err == nil {
		_, err = r.Receive(t.Context(), nil)
	}
	e, ok := errors.AsType[*goamqp.LinkError](err)
	if !ok || e.RemoteErr == nil || e.RemoteErr.Condition != "amqp:link:redirect" || e.RemoteErr.Info["address"] != "amqps://plant.example.test:5671/plant/$management" ||
		e.RemoteErr.Info["hostname"] != "plant.example.test" || e.RemoteErr.Info["port"] != uint32(5671) {
		t.Errorf("redirected by %v", err)
	}
}

// TestReading: from where it was asked, in order, and on as messages come; a second
// reader has all of it too.
func TestReading(t *testing.T) {
	h := newHouse(t)
	for n := range 30 {
		h.log.append("press-17", fmt.Sprint(n))
	}
	s := h.letIn()
	for selector, want := range map[string]string{
		"": "0",
		"amqp.annotation.x-opt-sequence-number > '5120'":                                                     "10", // its sequence is 10
		"amqp.annotation.x-opt-sequence-number >= '5120'":                                                    "9",
		"amqp.annotation.x-opt-enqueued-time >= '" + fmt.Sprint(start.Add(20*time.Second).UnixMilli()) + "'": "20",
	} {
		r, err := h.receiver(s, "plant/ConsumerGroups/of-"+want+"/Partitions/0", selector, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.bodies(r, 1)[0]; got != want {
			t.Errorf("from %q the first is %s, want %s", selector, got, want)
		}
	}
	first, err := h.receiver(s, defaultGroup, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	now, err := h.receiver(h.letIn(), defaultGroup, "amqp.annotation.x-opt-offset > '@latest'", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]string, 32)
	for n := range want {
		want[n] = fmt.Sprint(n)
	}
	h.log.append("press-17", "30")
	h.log.append("press-17", "31")
	if got := h.bodies(first, 32); !slices.Equal(got, want) {
		t.Errorf("the reader got %v", got)
	}
	if got := h.bodies(now, 2); !slices.Equal(got, want[30:]) {
		t.Errorf("the later reader got %v", got)
	}
}

// TestReadingRests: without credit a reader leaves the log, and takes up where it was.
func TestReadingRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.now = time.Now()
		for n := range 10 {
			h.log.append("press-17", fmt.Sprint(n))
		}
		s := h.letIn()
		r, err := s.NewReceiver(t.Context(), defaultGroup, &goamqp.ReceiverOptions{Credit: -1})
		if err != nil {
			t.Fatal(err)
		}
		r.IssueCredit(3)
		got := h.bodies(r, 3)
		synctest.Wait()
		if n, _ := h.log.readers(); n != 1 {
			t.Errorf("%d read while there might be credit soon", n)
		}
		time.Sleep(restAfter + time.Second)
		if n, _ := h.log.readers(); n != 0 {
			t.Errorf("%d read without credit", n)
		}
		r.IssueCredit(7)
		got = append(got, h.bodies(r, 7)...)
		if _, reads := h.log.readers(); reads != 2 || !slices.Equal(got, []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}) {
			t.Errorf("in %d reads it got %v", reads, got)
		}
		// A drain ends the credit, and nothing is lost by it.
		r.IssueCredit(5)
		if err := r.DrainCredit(t.Context(), nil); err != nil {
			t.Error(err)
		}
		h.log.append("press-17", "10")
		synctest.Wait()
		if r.Prefetched() != nil {
			t.Error("sent without credit")
		}
		r.IssueCredit(1)
		if got := h.bodies(r, 1)[0]; got != "10" {
			t.Errorf("after a drain: %s", got)
		}
		r.Close(t.Context())
		synctest.Wait()
		if n, _ := h.log.readers(); n != 0 || h.door.countReaders() != 0 {
			t.Errorf("%d readers are left", n)
		}
		s.Close(t.Context())
	})
}

// TestOwnerLevels: who has a consumer group to himself, and how many may share one.
func TestOwnerLevels(t *testing.T) {
	h := newHouse(t)
	s := h.letIn()
	owner := func(level int64, group string) (*goamqp.Receiver, error) {
		return h.receiver(s, "plant/ConsumerGroups/"+group+"/Partitions/0", "", map[string]any{epochProperty: level, nameProperty: fmt.Sprint("level ", level)})
	}
	stolen := func(what string, r *goamqp.Receiver) {
		t.Helper()
		if _, err := r.Receive(t.Context(), nil); condition(err) != "amqp:link:stolen" {
			t.Errorf("%s: %v", what, err)
		}
	}
	var shared []*goamqp.Receiver
	for range maxGroupReaders {
		r, err := h.receiver(s, defaultGroup, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		shared = append(shared, r)
	}
	if _, err := h.receiver(s, defaultGroup, "", nil); condition(err) != "amqp:resource-limit-exceeded" {
		t.Errorf("one too many: %v", err)
	}
	if _, err := h.receiver(s, "plant/ConsumerGroups/another/Partitions/0", "", nil); err != nil {
		t.Errorf("another group: %v", err)
	}
	five, err := owner(5, "$DEFAULT")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range shared {
		stolen("without a level", r)
	}
	if _, err := h.receiver(s, defaultGroup, "", nil); condition(err) != "amqp:link:stolen" {
		t.Errorf("without a level, beside an owner: %v", err)
	}
	if _, err := owner(4, "$Default"); condition(err) != "amqp:link:stolen" {
		t.Errorf("of a lower level: %v", err)
	}
	again, err := owner(5, "$Default")
	if err != nil {
		t.Fatal(err)
	}
	stolen("of the same level, before", five)
	if _, err = owner(6, "$Default"); err != nil {
		t.Fatal(err)
	}
	stolen("of a lower level", again)
	if n := h.door.countReaders(); n != 2 {
		t.Errorf("%d readers are there", n)
	}
	if _, err := h.receiver(s, defaultGroup, "", map[string]any{epochProperty: "5"}); condition(err) != "amqp:invalid-field" {
		t.Errorf("a level that is text: %v", err)
	}
	var last error
	for n := range maxReaders {
		if _, last = owner(1, fmt.Sprint("g", n)); last != nil {
			break
		}
	}
	if condition(last) != "amqp:resource-limit-exceeded" {
		t.Errorf("as many readers as there are groups: %v", last)
	}
}

// TestManagement: what is asked of the endpoint, with the types that SDKs insist on.
func TestManagement(t *testing.T) {
	h := newHouse(t)
	s := h.letIn()
	answers, err := s.NewReceiver(t.Context(), "plant/$management", &goamqp.ReceiverOptions{TargetAddress: "me", RequestedSenderSettleMode: goamqp.SenderSettleModeSettled.Ptr()})
	if err != nil {
		t.Fatal(err)
	}
	requests, err := s.NewSender(t.Context(), "plant/$management", nil)
	if err != nil {
		t.Fatal(err)
	}
	me := "me"
	ask := func(properties map[string]any) *goamqp.Message {
		t.Helper()
		if err := requests.Send(t.Context(), &goamqp.Message{Properties: &goamqp.MessageProperties{MessageID: uint64(7), ReplyTo: &me},
			ApplicationProperties: properties, Data: [][]byte{[]byte("[]")}}, nil); err != nil {
			t.Fatal(err)
		}
		m, err := answers.Receive(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		values, _ := m.Value.(map[string]any)
		for name, v := range values {
			if at, ok := v.(time.Time); ok {
				values[name] = at.UTC()
			}
		}
		if m.Properties.CorrelationID != uint64(7) {
			t.Errorf("the answer is to %v", m.Properties.CorrelationID)
		}
		return m
	}
	partition := map[string]any{"operation": "READ", "name": "plant", "type": "com.microsoft:partition", "partition": "0"}
	for _, c := range []struct {
		ask  map[string]any
		want map[string]any
	}{
		{map[string]any{"operation": "READ", "name": "plant", "type": "com.microsoft:eventhub"}, map[string]any{"name": "plant", "type": "com.microsoft:eventhub",
			"created_at": h.hub.Created, "partition_count": int32(1), "partition_ids": []string{"0"}, "georeplication_factor": int32(1)}},
		{partition, map[string]any{"name": "plant", "type": "com.microsoft:partition", "partition": "0", "begin_sequence_number": int64(0),
			"last_enqueued_sequence_number": int64(-1), "last_enqueued_offset": "-1", "last_enqueued_time_utc": time.Unix(0, 0).UTC(), "is_partition_empty": true}},
	} {
		m := ask(c.ask)
		if m.ApplicationProperties["status-code"] != int32(200) || !reflect.DeepEqual(m.Value, c.want) {
			t.Errorf("%v: %v %v, want %v", c.ask, m.ApplicationProperties, m.Value, c.want)
		}
	}
	h.log.append("press-17", "one")
	h.log.append("press-17", "two")
	want := map[string]any{"name": "plant", "type": "com.microsoft:partition", "partition": "0", "begin_sequence_number": int64(512),
		"last_enqueued_sequence_number": int64(1024), "last_enqueued_offset": "1024", "last_enqueued_time_utc": start.Add(time.Second), "is_partition_empty": false}
	if m := ask(partition); !reflect.DeepEqual(m.Value, want) {
		t.Errorf("of two messages: %v", m.Value)
	}
	for _, c := range []struct {
		status    int32
		condition string
		ask       map[string]any
	}{
		{404, "amqp:not-found", map[string]any{"operation": "READ", "name": "other", "type": "com.microsoft:eventhub"}},
		{404, "amqp:not-found", map[string]any{"operation": "READ", "name": "plant", "type": "com.microsoft:queue"}},
		{400, "com.microsoft:argument-out-of-range", map[string]any{"operation": "READ", "name": "plant", "type": "com.microsoft:partition", "partition": "1"}},
		{400, "amqp:not-allowed", map[string]any{"operation": "DELETE", "name": "plant"}},
		{400, "amqp:not-allowed", nil},
	} {
		m := ask(c.ask)
		if m.ApplicationProperties["status-code"] != c.status || m.ApplicationProperties["error-condition"] != c.condition {
			t.Errorf("%v: %v", c.ask, m.ApplicationProperties)
		}
	}
	h.log.err = errors.New("injected")
	if m := ask(partition); m.ApplicationProperties["status-code"] != int32(500) || strings.Contains(fmt.Sprint(m.ApplicationProperties), "injected") {
		t.Errorf("our own failure is told as %v", m.ApplicationProperties)
	}
}

// TestCommands: messages to devices, their refusals, and the feedback of their ends.
func TestCommands(t *testing.T) {
	h := newHouse(t)
	s := h.letIn()
	i, err := h.registry.Create(t.Context(), signet.Identity{Hub: "plant", DeviceID: "press%17"})
	if err != nil {
		t.Fatal(err)
	}
	queue := signet.CommandQueue{Hub: "plant", DeviceID: i.DeviceID, GenerationID: i.GenerationID}
	sender, err := s.NewSender(t.Context(), "amqps://plant.example.test:5671/messages/deviceBound", nil)
	if err != nil {
		t.Fatal(err)
	}
	to := "/devices/press%2517/messages/devicebound"
	message := func(id, body string) *goamqp.Message {
		return &goamqp.Message{Properties: &goamqp.MessageProperties{MessageID: id, To: &to}, Data: [][]byte{[]byte(body)},
			ApplicationProperties: map[string]any{"iothub-ack": "full", "level": int32(3)}}
	}
	for _, id := range []string{"m-1", "m-2"} {
		if err := sender.Send(t.Context(), message(id, "hello"), nil); err != nil {
			t.Fatal(err)
		}
	}
	past := start.Add(-time.Hour)
	nobody, nowhere := "/devices/nobody/messages/devicebound", "/press-17"
	for what, c := range map[string]struct {
		m         *goamqp.Message
		condition string
	}{
		"nobody":          {&goamqp.Message{Properties: &goamqp.MessageProperties{To: &nobody}}, "amqp:not-found"},
		"nowhere":         {&goamqp.Message{Properties: &goamqp.MessageProperties{To: &nowhere}}, "com.microsoft:argument-error"},
		"no address":      {&goamqp.Message{Data: [][]byte{nil}}, "com.microsoft:argument-error"},
		"too large":       {message("big", strings.Repeat("x", 64<<10)), "amqp:link:message-size-exceeded"},
		"far too large":   {message("huge", strings.Repeat("x", 127<<10)), "amqp:link:message-size-exceeded"},
		"long expired":    {&goamqp.Message{Properties: &goamqp.MessageProperties{To: &to, AbsoluteExpiryTime: &past}}, "com.microsoft:argument-error"},
		"a bad property":  {&goamqp.Message{Properties: &goamqp.MessageProperties{To: &to}, ApplicationProperties: map[string]any{"a b": "c"}}, "com.microsoft:argument-error"},
		"a bad ack":       {&goamqp.Message{Properties: &goamqp.MessageProperties{To: &to}, ApplicationProperties: map[string]any{"iothub-ack": "all"}}, "com.microsoft:argument-error"},
		"a property null": {&goamqp.Message{Properties: &goamqp.MessageProperties{To: &to}, ApplicationProperties: map[string]any{"n": nil}}, "com.microsoft:argument-error"},
	} {
		if err := sender.Send(t.Context(), c.m, nil); condition(err) != c.condition {
			t.Errorf("%s: %v, want %s", what, err, c.condition)
		}
	}
	for range commands.MaxQueue - 2 {
		if err := sender.Send(t.Context(), message("more", "x"), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := sender.Send(t.Context(), message("too-many", "x"), nil); condition(err) != "amqp:resource-limit-exceeded" {
		t.Errorf("into a full queue: %v", err)
	}

	// The device completes the first and rejects the second; the sender is told, and
	// told again what it gives back.
	for _, d := range []signet.Disposition{signet.Complete, signet.Reject} {
		c, err := h.commands.Receive(t.Context(), queue, 0)
		if err != nil || c == nil || c.Properties[0] != (signet.Property{Name: "level", Value: "3"}) {
			t.Fatal(err, c)
		}
		if err := h.commands.Settle(t.Context(), queue, c.LockToken, d); err != nil {
			t.Fatal(err)
		}
		h.pass(time.Second)
	}
	r, err := s.NewReceiver(t.Context(), "/messages/serviceBound/feedback", &goamqp.ReceiverOptions{Credit: 1, SettlementMode: goamqp.ReceiverSettleModeSecond.Ptr()})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`[{"originalMessageId":"m-1","deviceId":"press%%17","deviceGenerationId":"%[1]s","description":"Success","statusCode":"Success","enqueuedTimeUtc":"2026-03-01T12:00:00.0000000Z"},`+
		`{"originalMessageId":"m-2","deviceId":"press%%17","deviceGenerationId":"%[1]s","description":"Rejected","statusCode":"Rejected","enqueuedTimeUtc":"2026-03-01T12:00:01.0000000Z"}]`, i.GenerationID)
	for _, again := range []bool{true, false} {
		m, err := r.Receive(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if string(m.GetData()) != want || string(m.Properties.UserID) != "plant" || *m.Properties.ContentType != string(feedbackType) ||
			len(m.DeliveryTag) != 16 || !m.Annotations["iothub-enqueuedtime"].(time.Time).Equal(start.Add(time.Second)) {
			t.Errorf("feedback is %s %+v %v, want %s", m.GetData(), m.Properties, m.Annotations, want)
		}
		if again {
			err = r.ReleaseMessage(t.Context(), m)
		} else {
			err = r.AcceptMessage(t.Context(), m)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if records, _, err := h.commands.Feedback(t.Context(), "plant"); err != nil || len(records) > 0 {
		t.Errorf("feedback that is left: %v %v", records, err)
	}
}

// TestFeedbackSettled: on a link that settles nothing feedback is given out once.
func TestFeedbackSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.letIn()
		i, err := h.registry.Create(t.Context(), signet.Identity{Hub: "plant", DeviceID: "press-17"})
		if err != nil {
			t.Fatal(err)
		}
		queue := signet.CommandQueue{Hub: "plant", DeviceID: i.DeviceID, GenerationID: i.GenerationID}
		if _, err := h.commands.Send(t.Context(), signet.Command{CommandQueue: queue, Ack: signet.AckFull}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.commands.Purge(t.Context(), queue); err != nil {
			t.Fatal(err)
		}
		r, err := s.NewReceiver(t.Context(), "/messages/serviceBound/feedback", &goamqp.ReceiverOptions{Credit: 10, RequestedSenderSettleMode: goamqp.SenderSettleModeSettled.Ptr()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Receive(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.pass(2 * commands.LockTime)
		if records, _, err := h.commands.Feedback(t.Context(), "plant"); err != nil || len(records) > 0 {
			t.Errorf("given out again: %v %v", records, err)
		}
	})
}

// TestForget: who is connected to a hub that is deleted, is so no more; one made anew
// is another.
func TestForget(t *testing.T) {
	h := newHouse(t)
	s := h.letIn()
	r, err := h.receiver(s, defaultGroup, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	idle, err := h.receiver(h.letIn(), "plant/ConsumerGroups/idle/Partitions/0", "amqp.annotation.x-opt-offset > '@latest'", nil)
	if err != nil {
		t.Fatal(err)
	}
	told, err := h.receiver(h.letIn(), "/messages/serviceBound/feedback", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	late := h.letIn()
	if err := h.registry.DeleteHub(t.Context(), "plant"); err != nil {
		t.Fatal(err)
	}
	h.pass(time.Second)
	if _, err := h.registry.CreateHub(t.Context(), "plant", "plant.example.test"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.receiver(late, defaultGroup, "", nil); condition(err) != "amqp:not-found" {
		t.Errorf("a link to the hub of that name: %v", err)
	}
	h.log.append("press-17", "secret")
	if m, err := r.Receive(t.Context(), nil); condition(err) != "amqp:not-found" {
		t.Errorf("the reader gets %v, %v", m, err)
	}
	h.door.Forget("plant")
	for _, r := range []*goamqp.Receiver{idle, told} {
		if m, err := r.Receive(t.Context(), nil); condition(err) != "amqp:not-found" {
			t.Errorf("who has only waited gets %v, %v", m, err)
		}
	}
}

// TestLogFails: a reader hears that it was we, and not why.
func TestLogFails(t *testing.T) {
	h := newHouse(t)
	s := h.letIn()
	r, err := h.receiver(s, defaultGroup, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	h.log.mu.Lock()
	h.log.err = errors.New("injected")
	h.log.mu.Unlock()
	h.log.append("press-17", "one")
	if _, err := r.Receive(t.Context(), nil); condition(err) != "amqp:internal-error" || strings.Contains(err.Error(), "injected") {
		t.Errorf("the reader hears %v", err)
	}
}
