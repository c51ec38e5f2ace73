// Package crash_test kills a running server, really and again and again, in the
// middle of a load, and holds it to its word: what was acknowledged is there.
package crash_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
	"github.com/signet-iot/signet/wire/mqtt"
)

const (
	devices = 8
	rounds  = 5
	window  = 16 // publishes that a device has under way
)

// TestMain is also the server that is killed: the test runs itself again.
func TestMain(m *testing.M) {
	if data := os.Getenv("SIGNET_CRASH_DATA"); data != "" {
		if certificate := os.Getenv("SIGNET_CRASH_DISTRUST"); certificate != "" {
			fmt.Println("failed:", distrust(data, certificate))
			os.Exit(1)
		}
		serve(data)
	}
	os.Exit(m.Run())
}

func config(data string) server.Config {
	cfg := server.DefaultConfig()
	cfg.Data, cfg.MQTT, cfg.HTTPS, cfg.Admin = data, "127.0.0.1:0", "127.0.0.1:0", "off"
	return cfg
}

func serve(data string) {
	ctx := context.Background()
	s, err := server.Start(ctx, config(data))
	if ca := os.Getenv("SIGNET_CRASH_CA"); err == nil && ca != "" {
		err = settle(ctx, s, ca)
	}
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Printf("ready %s %s\n", s.MQTTAddr(), s.HTTPSAddr())
	select {}
}

// settle makes what the load needs, at the first start.
func settle(ctx context.Context, s *server.Server, caFile string) error {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	if _, _, err := s.Authority().Register(ctx, "hub", "acme", string(pem), true, ""); err != nil {
		return err
	}
	if err := settleService(ctx, s, string(pem)); err != nil {
		return err
	}
	for n := range devices + 2 { // the last two have the twin and the inbox
		_, err := s.Registry().Create(ctx, signet.Identity{Hub: "hub", DeviceID: name(n), Auth: signet.Authentication{Type: signet.AuthCA}})
		if err != nil && signet.CodeOf(err) != signet.IdentityExists {
			return err
		}
	}
	if _, err = s.Registry().SetEvents(ctx, "hub", signet.LifeCycleEvents|signet.TwinEvents); err != nil {
		return err
	}
	if sink := os.Getenv("SIGNET_CRASH_SINK"); sink != "" {
		_, _, err = s.Routes().Put(ctx, signet.Route{Hub: "hub", Name: "all", Sources: signet.FromAll, URL: sink, AllowPrivate: true})
	}
	return err
}

func name(n int) string { return fmt.Sprint("d", n) }

// acknowledged is what the server has given its word on.
type acknowledged struct {
	mu         sync.Mutex
	messages   map[string]bool
	identities map[string]bool
	reported   int             // the last number that the device with a twin has reported
	desired    int             // the last that the back end has set
	commands   map[string]bool // sent to the device with the inbox
	delivered  map[string]bool // and what that was given, whether its answer arrived or not
}

func (a *acknowledged) add(to map[string]bool, id string) { a.mu.Lock(); to[id] = true; a.mu.Unlock() }
func (a *acknowledged) message(id string)                 { a.add(a.messages, id) }
func (a *acknowledged) twin(which *int, n int)            { a.mu.Lock(); *which = n; a.mu.Unlock() }

// ofEveryKind says whether there is something of every kind, a command that was
// completed among them: no more than fifty wait.
func (a *acknowledged) ofEveryKind() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reported > 0 && a.desired > 0 && len(a.identities) > 0 && len(a.commands) > 50
}

func (a *acknowledged) identity(id string) { a.add(a.identities, id) }

func TestKill(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	root := hubtest.NewCA(t, "Root")
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, []byte(hubtest.PEM(root.Cert.Raw)), 0o600); err != nil {
		t.Fatal(err)
	}
	var pairs [devices + 2]tls.Certificate
	for n := range pairs {
		pairs[n] = root.Device(t, name(n))
	}

	hook := newSink(t)
	word := &acknowledged{messages: map[string]bool{}, identities: map[string]bool{}, commands: map[string]bool{}, delivered: map[string]bool{}}
	for round := range rounds {
		v := begin(t, data, "SIGNET_CRASH_CA="+caFile, "SIGNET_CRASH_SINK="+hook.URL)
		conf := &tls.Config{RootCAs: v.roots, ServerName: "localhost"}

		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var enough atomic.Int64
		for n := range devices {
			own := conf.Clone()
			own.Certificates = []tls.Certificate{pairs[n]}
			wg.Go(func() { publish(ctx, v.mqtt, own, name(n), round, word, &enough) })
		}
		wg.Go(func() { create(ctx, v.https, conf, data, round, word, &enough) })
		twin := conf.Clone()
		twin.Certificates = pairs[devices : devices+1]
		wg.Go(func() { report(ctx, v.mqtt, twin, name(devices), word, &enough) })
		wg.Go(func() { desire(ctx, v.https, conf, data, name(devices), word, &enough) })

		inbox := conf.Clone()
		inbox.Certificates = pairs[devices+1:]
		wg.Go(func() { receive(ctx, v.mqtt, inbox, name(devices+1), word) })
		wg.Go(func() { command(ctx, v.https, conf, data, name(devices+1), round, word, &enough) })

		// At a random moment once the load is under way.
		deadline := time.After(3 * time.Minute)
		for enough.Load() < 200 || round == rounds-1 && !word.ofEveryKind() {
			select {
			case <-deadline:
				t.Fatalf("round %d: only %d acknowledgements in time\n%s", round, enough.Load(), &v.log)
			case <-time.After(10 * time.Millisecond):
			}
		}
		<-time.After(time.Duration(rand.IntN(300)) * time.Millisecond)
		v.kill()
		stop()
		wg.Wait()
		v.cmd.Wait()
	}

	// Now read everything back.
	s, err := server.Start(t.Context(), config(data))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	kept := map[string]bool{}
	order := map[string]string{}
	err = s.Hub().Read(t.Context(), "hub", hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
		id := string(m.Body)
		if !kept[id] && strings.HasPrefix(id, m.DeviceID+"/") {
			if last := order[m.DeviceID]; last > id {
				t.Errorf("%s was stored after %s", id, last)
			}
			order[m.DeviceID] = id
		}
		kept[id] = true
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for id := range word.messages {
		if !kept[id] {
			lost++
		}
	}
	for id := range word.identities {
		if _, err := s.Registry().Get(t.Context(), "hub", id, ""); err != nil {
			t.Errorf("the identity %s was acknowledged: %v", id, err)
		}
	}
	var reported, desired struct{ N int }
	twin, err := s.Registry().Twin(t.Context(), "hub", name(devices), "")
	if err := errors.Join(err, json.Unmarshal(twin.Reported.Values, &reported), json.Unmarshal(twin.Desired.Values, &desired)); err != nil {
		t.Fatal(err)
	}
	// Each number was one version; one more than was acknowledged may have been kept, at each kill.
	if reported.N < word.reported || desired.N < word.desired || reported.N > word.reported+1 || desired.N > word.desired+1 ||
		word.reported == 0 || word.desired == 0 {
		t.Errorf("the twin has %d reported and %d desired; %d and %d were acknowledged", reported.N, desired.N, word.reported, word.desired)
	}
	checkCommands(t, s, word)
	checkEvents(t, s, word)
	hook.check(t, word)
	t.Logf("%d kills: %d commands acknowledged, %d delivered", rounds, len(word.commands), len(word.delivered))
	t.Logf("%d kills: %d messages, %d identities, %d reported and %d desired properties acknowledged, %d messages kept, %d lost",
		rounds, len(word.messages), len(word.identities), word.reported, word.desired, len(kept), lost)
	if lost > 0 {
		t.Errorf("%d acknowledged messages are lost", lost)
	}
}

// publish sends QoS 1 messages with a window until the connection breaks.
func publish(ctx context.Context, address string, conf *tls.Config, id string, round int, word *acknowledged, enough *atomic.Int64) {
	conn, in := connect(ctx, address, conf, id)
	if conn == nil {
		return
	}
	defer conn.Close()
	body := func(n int) string { return fmt.Sprintf("%s/%d/%08d", id, round, n) }
	send := func(n int) {
		conn.Write(mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: uint16(n%65535 + 1),
			Topic: "devices/" + id + "/messages/events/", Payload: []byte(body(n))}))
	}
	for n := range window {
		send(n)
	}
	for acked := 0; ; acked++ {
		p, err := in.Next()
		ack, ok := p.(*mqtt.Puback)
		if err != nil || !ok {
			return
		}
		// Acknowledgements come in the order of the messages.
		if ack.PacketID != uint16(acked%65535+1) {
			panic(fmt.Sprintf("PUBACK %d where %d was due", ack.PacketID, acked%65535+1))
		}
		word.message(body(acked))
		enough.Add(1)
		send(acked + window)
	}
}

// create makes identities over the registry API until the connection breaks.
func create(ctx context.Context, address string, conf *tls.Config, data string, round int, word *acknowledged, enough *atomic.Int64) {
	ask := owner(address, conf, data)
	for n := 0; ask != nil && ctx.Err() == nil; n++ {
		id := fmt.Sprintf("made-%d-%d", round, n)
		status, err := ask(ctx, "PUT", "/devices/"+id, `{"deviceId":"`+id+`"}`)
		if err != nil {
			return
		}
		if status == 200 {
			word.identity(id)
			enough.Add(1)
		}
	}
}

// desire sets desired properties of a twin until the connection breaks.
func desire(ctx context.Context, address string, conf *tls.Config, data, id string, word *acknowledged, enough *atomic.Int64) {
	ask := owner(address, conf, data)
	for n := word.desired + 1; ask != nil && ctx.Err() == nil; n++ {
		status, err := ask(ctx, "PATCH", "/twins/"+id, fmt.Sprintf(`{"properties":{"desired":{"n":%d}}}`, n))
		if err != nil || status != 200 {
			return
		}
		word.twin(&word.desired, n)
		enough.Add(1)
	}
}

// owner asks the service API as the hub's owner; nil when that cannot be.
func owner(address string, conf *tls.Config, data string) (ask func(ctx context.Context, method, path, body string) (status int, err error)) {
	text, err := os.ReadFile(filepath.Join(data, "owner.connection-string"))
	if err != nil {
		return nil
	}
	owner, err := signet.ParseConnectionString(string(text))
	if err != nil {
		return nil
	}
	token, err := signet.SignSAS(owner.HostName, owner.SharedAccessKeyName, owner.SharedAccessKey, time.Now().Add(time.Hour))
	if err != nil {
		return nil
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}, Timeout: 2 * time.Minute}
	return func(ctx context.Context, method, path, body string) (int, error) {
		r, err := http.NewRequestWithContext(ctx, method, "https://"+address+path+"?api-version=2021-04-12", strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		r.Host = owner.HostName
		r.Header.Set("Authorization", token)
		r.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(r)
		if err != nil {
			return 0, err
		}
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, resp.Body.Close()
	}
}

// report reports properties, one request after the other, until the connection
// breaks.
func report(ctx context.Context, address string, conf *tls.Config, id string, word *acknowledged, enough *atomic.Int64) {
	conn, in := connect(ctx, address, conf, id)
	if conn == nil {
		return
	}
	defer conn.Close()
	conn.Write(mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "$iothub/twin/res/#"}}}))
	if _, err := in.Next(); err != nil {
		return
	}
	for n := word.reported + 1; ; n++ {
		conn.Write(mqtt.AppendPublish(nil, &mqtt.Publish{Topic: fmt.Sprintf("$iothub/twin/PATCH/properties/reported/?$rid=%d", n), Payload: fmt.Appendf(nil, `{"n":%d}`, n)}))
		p, err := in.Next()
		answer, ok := p.(*mqtt.Publish)
		if err != nil || !ok || !strings.HasPrefix(answer.Topic, fmt.Sprintf("$iothub/twin/res/204/?$rid=%d&", n)) {
			return
		}
		word.twin(&word.reported, n)
		enough.Add(1)
	}
}

// connect connects a device until ctx ends; nil when that fails.
func connect(ctx context.Context, address string, conf *tls.Config, id string) (*tls.Conn, *mqtt.Reader) {
	conn, err := tls.Dial("tcp", address, conf)
	if err != nil {
		return nil, nil
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	conn.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, ClientID: id, HasUsername: true,
		Username: "localhost/" + id + "/?api-version=2021-04-12", KeepAlive: 60}))
	in := mqtt.NewClientReader(conn, 1<<16)
	if p, err := in.Next(); err != nil || p.(*mqtt.Connack).Code != 0 {
		conn.Close()
		return nil, nil
	}
	return conn, in
}

// command sends commands, one after the other, until the connection breaks.
func command(ctx context.Context, address string, conf *tls.Config, data, id string, round int, word *acknowledged, enough *atomic.Int64) {
	ask := owner(address, conf, data)
	for n := 0; ask != nil && ctx.Err() == nil; n++ {
		message := fmt.Sprintf("c-%d-%d", round, n)
		status, err := ask(ctx, "POST", "/signet/commands", `{"deviceId":"`+id+`","messageId":"`+message+`","ack":"full"}`)
		switch {
		case err != nil:
			return
		case status == 200:
			word.add(word.commands, message)
			enough.Add(1)
		case status == 403: // fifty wait
			time.Sleep(time.Millisecond)
		}
	}
}

var messageID = regexp.MustCompile(`/devicebound/%24\.mid=([^&]+)&`)

// receive acknowledges the commands that come, until the connection breaks.
func receive(ctx context.Context, address string, conf *tls.Config, id string, word *acknowledged) {
	conn, in := connect(ctx, address, conf, id)
	if conn == nil {
		return
	}
	defer conn.Close()
	conn.Write(mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "devices/" + id + "/messages/devicebound/#", QoS: 1}}}))
	for {
		p, err := in.Next()
		if err != nil {
			return
		}
		if p, ok := p.(*mqtt.Publish); ok {
			word.add(word.delivered, messageID.FindStringSubmatch(p.Topic)[1])
			conn.Write(mqtt.AppendPuback(nil, p.PacketID))
		}
	}
}

// checkCommands: each command that was acknowledged to its sender waits still, or was
// given to the device, and the sender is told so; never both, never neither.
func checkCommands(t *testing.T, s *server.Server, word *acknowledged) {
	ended := map[string]bool{}
	for {
		records, token, err := s.Commands().Feedback(t.Context(), "hub")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range records {
			if f.Outcome != signet.Success || !word.delivered[f.MessageID] || ended[f.MessageID] {
				t.Errorf("told of %s: %s", f.MessageID, f.Outcome)
			}
			ended[f.MessageID] = true
		}
		if len(records) == 0 {
			break
		}
		if err := s.Commands().CompleteFeedback(t.Context(), "hub", token); err != nil {
			t.Fatal(err)
		}
	}
	i, err := s.Registry().Get(t.Context(), "hub", name(devices+1), "")
	if err != nil {
		t.Fatal(err)
	}
	queue := signet.CommandQueue{Hub: "hub", DeviceID: i.DeviceID, GenerationID: i.GenerationID}
	waiting := map[string]bool{}
	for {
		c, err := s.Commands().Receive(t.Context(), queue, 0)
		if err != nil {
			t.Fatal(err)
		}
		if c == nil {
			break
		}
		waiting[c.MessageID] = true
	}
	for id := range word.commands {
		if waiting[id] == ended[id] {
			t.Errorf("the command %s was acknowledged: waiting %v, ended %v", id, waiting[id], ended[id])
		}
	}
	if len(ended) == 0 {
		t.Error("no command was completed")
	}
}

// checkEvents: whatever was acknowledged is told of on the message log, at least
// once, as soon as the server runs again.
func checkEvents(t *testing.T, s *server.Server, word *acknowledged) {
	owed := map[string]bool{}
	for id := range word.identities {
		owed["createDeviceIdentity "+id] = true
	}
	for n := range word.desired {
		owed[fmt.Sprint("desired ", n+1)] = true
	}
	for n := range word.reported {
		owed[fmt.Sprint("reported ", n+1)] = true
	}
	all, events, again, seen := len(owed), 0, 0, map[string]bool{}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	err := s.Hub().Read(ctx, "hub", hub.Start{}, true, func(_ signet.Position, m *signet.Message) bool {
		if m.Source == signet.SourceTelemetry {
			return true
		}
		events++
		for _, p := range m.System {
			if p.Name == "correlation-id" {
				if seen[p.Value] {
					again++
				}
				seen[p.Value] = true
			}
		}
		for _, p := range m.Properties {
			if p.Name == "opType" {
				delete(owed, p.Value+" "+m.DeviceID)
			}
		}
		var body struct {
			Properties struct{ Desired, Reported struct{ N int } }
		}
		if err := json.Unmarshal(m.Body, &body); err != nil {
			t.Error(err)
		}
		if m.DeviceID == name(devices) {
			delete(owed, fmt.Sprint("desired ", body.Properties.Desired.N))
			delete(owed, fmt.Sprint("reported ", body.Properties.Reported.N))
		}
		return len(owed) > 0
	})
	t.Logf("%d kills: %d changes that are told of, by %d events, %d of them again", rounds, all, events, again)
	if err != nil || len(owed) > 0 || all == 0 {
		t.Errorf("%d of %d changes that were acknowledged are not told of: %v", len(owed), all, err)
	}
}

// A sink is a webhook that keeps what it has taken, while servers come and go.
type sink struct {
	*httptest.Server
	mu       sync.Mutex
	messages map[string]int // by body, how often
	events   map[string]bool
	again    int
}

func newSink(t *testing.T) *sink {
	k := &sink{messages: map[string]int{}, events: map[string]bool{}}
	k.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var batch struct {
			Messages []struct {
				DeviceID   string
				Properties map[string]*string
				Body       any
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
			return // the server was killed on the way, and will not believe that we took it
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, m := range batch.Messages {
			if operation := m.Properties["opType"]; operation != nil {
				k.events[*operation+" "+m.DeviceID] = true
			} else if body, ok := m.Body.(string); ok {
				if k.messages[body]++; k.messages[body] > 1 {
					k.again++
				}
			}
		}
	}))
	t.Cleanup(k.Close)
	return k
}

// check waits until the webhook has had everything that was acknowledged.
func (k *sink) check(t *testing.T, word *acknowledged) {
	missing := func() (n int) {
		k.mu.Lock()
		defer k.mu.Unlock()
		for id := range word.messages {
			if k.messages[id] == 0 {
				n++
			}
		}
		for id := range word.identities {
			if !k.events["createDeviceIdentity "+id] {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(3 * time.Minute); missing() > 0 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("%d kills: the webhook has had %d messages, %d of them again", rounds, len(k.messages), k.again)
	if n := missing(); n > 0 {
		t.Errorf("%d of what was acknowledged never came to the webhook", n)
	}
}
