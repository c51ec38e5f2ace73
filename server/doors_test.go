package server_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
	"github.com/signet-iot/signet/wire/mqtt"
)

// device is an HTTP client with a device's certificate, and counts its
// connections.
func device(h *hubtest.Hub, dials *int, certs ...tls.Certificate) *http.Client {
	return &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{
		TLSClientConfig: h.ClientTLS(certs...), ExpectContinueTimeout: 2 * time.Minute,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			*dials++
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}}
}

func eventsOf(h *hubtest.Hub, id string) string {
	return "https://localhost" + h.HTTPSAddr()[strings.LastIndexByte(h.HTTPSAddr(), ':'):] + "/devices/" + id + "/messages/events?api-version=2021-04-12"
}

func bodies(t *testing.T, h *hubtest.Hub) (all []string) {
	t.Helper()
	err := h.Hub().Read(t.Context(), tenant, hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
		all = append(all, string(m.Body))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func deleteCA(t *testing.T, h *hubtest.Hub, ca signet.CACertificate) signet.Receipt {
	t.Helper()
	ctx, receipts := signet.WithReceipts(t.Context())
	if err := h.Authority().Delete(ctx, tenant, ca.Name, ca.ETag); err != nil {
		t.Fatal(err)
	}
	var sum signet.Receipt
	for _, r := range receipts.List() {
		sum.Sessions += r.Sessions
		sum.Closed += r.Closed
		sum.Last = max(sum.Last, r.Last)
	}
	return sum
}

// TestHTTPSRevoked: a device on a connection that is kept alive is judged at each
// request, and once more when something changes while its body is under way.
func TestHTTPSRevoked(t *testing.T) {
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	pair := root.Intermediate(t, "Line").Device(t, "press-17")
	h.CADevice(t, tenant, "press-17")
	dials := 0
	c := device(h, &dials, pair)
	wanted := make(chan struct{}, 1) // the body, that is: the device has been judged
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { wanted <- struct{}{} }})
	send := func(body io.Reader) int {
		t.Helper()
		r, _ := http.NewRequestWithContext(ctx, "POST", eventsOf(h, "press-17"), body)
		if _, slow := body.(*io.PipeReader); slow {
			r.Header.Set("Expect", "100-continue")
		}
		response, err := c.Do(r)
		if err != nil {
			t.Error(err)
			return 0
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		return response.StatusCode
	}

	ca := h.Trust(t, tenant, root)
	if status := send(strings.NewReader("before")); status != 204 {
		t.Fatal(status)
	}
	body, more := io.Pipe()
	answered := make(chan int, 1)
	go func() { answered <- send(body) }()
	<-wanted
	io.WriteString(more, "half ")
	deleteCA(t, h, ca)
	io.WriteString(more, "a message")
	more.Close()
	if status := <-answered; status != 401 {
		t.Errorf("the CA went while the message was under way: %d", status)
	}
	if status := send(strings.NewReader("after")); status != 401 {
		t.Errorf("the CA has gone: %d", status)
	}
	h.Trust(t, tenant, root)
	if status := send(strings.NewReader("again")); status != 204 {
		t.Errorf("the CA is back: %d", status)
	}
	if got := strings.Join(bodies(t, h), ","); got != "before,again" {
		t.Errorf("stored is %s", got)
	}
	if dials != 1 {
		t.Errorf("%d connections", dials)
	}
}

// TestWebSocketRevoked: a device by WebSocket is cut as one by TLS alone.
func TestWebSocketRevoked(t *testing.T) {
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Root")
	ca := h.Trust(t, tenant, root)
	dials := 0
	var streams []net.Conn
	for _, id := range []string{"press-1", "press-2"} {
		h.CADevice(t, tenant, id)
		url := strings.Replace(eventsOf(h, id), "/devices/"+id+"/messages/events", "/$iothub/websocket", 1)
		ws, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{
			HTTPClient: device(h, &dials, root.Device(t, id)), Subprotocols: []string{"mqtt"}})
		if err != nil {
			t.Fatal(err)
		}
		stream := websocket.NetConn(t.Context(), ws, websocket.MessageBinary)
		stream.SetDeadline(time.Now().Add(2 * time.Minute))
		stream.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, KeepAlive: 60, ClientID: id, HasUsername: true, Username: "localhost/" + id + "/"}))
		if p, err := mqtt.NewClientReader(stream, 1<<10).Next(); err != nil || p.(*mqtt.Connack).Code != 0 {
			t.Fatalf("%v %v", p, err)
		}
		streams = append(streams, stream)
	}
	h.Cut(t, deleteCA(t, h, ca), 2)
	for _, stream := range streams {
		if n, err := stream.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%d %v, where a close frame was due", n, err)
		}
	}
}

// TestAMQPPort: where nobody has said so, AMQP is at the port of SDKs beside MQTT, or
// nowhere when that is taken; an address that was asked for is had, or there is no start.
func TestAMQPPort(t *testing.T) {
	const host = "127.56.71.1" // of this test alone
	taken, err := net.Listen("tcp", host+":5671")
	if err != nil {
		t.Skip("AMQP's port is not free here: ", err)
	}
	defer taken.Close()
	with := func(amqp string) func(*server.Config) {
		return func(c *server.Config) { c.MQTT, c.AMQP = host+":0", amqp }
	}
	for asked, want := range map[string]string{"": "off", "off": "off"} {
		h := hubtest.Start(t, with(asked))
		if got := h.AMQPAddr(); got != want {
			t.Errorf("asked for %q: %s", asked, got)
		}
		h.Stop()
	}
	cfg := server.DefaultConfig()
	cfg.Data, cfg.HTTPS, cfg.Admin = t.TempDir(), host+":0", "off"
	with(host + ":5671")(&cfg)
	if s, err := server.Start(t.Context(), cfg); err == nil {
		s.Close(t.Context())
		t.Error("it starts without the address that was asked for")
	}
	taken.Close()
	h := hubtest.Start(t, with(""))
	if got := h.AMQPAddr(); got != host+":5671" {
		t.Error(got)
	}
}
