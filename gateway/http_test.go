package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
)

const events = "/devices/d1/messages/events?api-version=2021-04-12"

// ask asks the door without a network: for what is not about connections.
func ask(h *HTTPS, r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// header gives a header as it is spelled.
func header(response *http.Response, name string) string {
	return strings.Join(response.Header[name], ", ")
}

func post(path, body string, headers ...string) *http.Request {
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func plainHTTPS(t testing.TB) (*HTTPS, *fakeWaist) {
	w := &fakeWaist{}
	return NewHTTPS(plainDoor(t, w), nil), w
}

// TestTakes: which paths are a device's own, and which the back end's.
func TestTakes(t *testing.T) {
	h, _ := plainHTTPS(t)
	for path, want := range map[string]bool{
		"/devices/d1/messages/events":                true,
		"/Devices/d1/Messages/deviceBound/token":     true,
		"/devices/a%2Fb/messages/events":             true,
		"/devices/d1/files":                          true,
		"/devices/d1/files/":                         true,
		"/devices/d1/files/notifications/1":          true,
		"/devices/d1/modules/m1/messages/events":     true,
		"/devices/modules/modules/modules/messages/": true,
		"/$iothub/websocket":                         true,
		"/%24IotHub/anything":                        true,
		"/devices":                                   false,
		"/devices/d1":                                false,
		"/devices/messages":                          false,
		"/devices/messages/":                         false,
		"/devices/query":                             false,
		"/devices/d1/modules":                        false,
		"/devices/d1/modules/messages":               false,
		"/devices/d1/commands":                       false,
		"/devices/d1%2Fmessages/events":              false,
		"/twins/d1/messages/events":                  false,
		"/signet/messages":                           false,
		"/messages/events":                           false,
		"/":                                          false,
		"//devices/d1/messages":                      true,
	} {
		u, err := url.Parse("https://h" + path)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.Takes(u); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

// TestSend: a message with what its headers say of it.
func TestSend(t *testing.T) {
	h, w := plainHTTPS(t)
	for request, want := range map[*http.Request]string{
		post(events, "hello"): `| | hello`,
		post(events, "{}", "IoTHub-MessageId", "m-1", "iothub-contenttype", "application/json", "iothub-contentencoding", "utf-8",
			"iothub-to", "/devices/d1", "IoTHub-Expiry", "2030-01-01T00:00:00Z", "iothub-app-Alarm", "a&b %20+c", "dt-subject", "pump"): `dt-subject="pump" content-encoding="utf-8" content-type="application/json" message-id="m-1" | alarm="a&b %20+c" | {}`,
		post(events, "x", "iothub-app-iothub-connection-device-id", "other", "iothub-app-", "nameless"):                    `| | x`,
		post("/devices/d%251/Messages/EVENTS/?api-version=2016-11-14", "x", "Content-Type", "application/octet-stream"):    `| | x`,
		post("/devices/d1/modules/m1/messages/events?api-version=2021-04-12", "", "iothub-app-a", "1", "iothub-app-a", ""): `| a="1" a="" |`,
	} {
		response := ask(h, request)
		if response.StatusCode != 204 || response.ContentLength > 0 || header(response, "x-ms-request-id") == "" {
			t.Errorf("%s: %s %v", request.URL, response.Status, response.Header)
			continue
		}
		if got := describeMessage(w.messages[len(w.messages)-1]); got != want {
			t.Errorf("%s: the hub got %s, want %s", request.URL, got, want)
		}
	}
	seen := func() hub.Credentials { c, _ := w.lastSeen(); return c }
	ask(h, post("/devices/d%251/messages/events?api-version=2021-04-12", "", "Authorization", "SharedAccessSignature sr=x", "User-Agent", "sdk/1"))
	if c := seen(); c.DeviceID != "d%1" || c.Token != "SharedAccessSignature sr=x" || c.Door != signet.DoorHTTPS || c.Host != "example.com" || c.Client != "sdk/1" {
		t.Errorf("the hub saw %+v", c)
	}
	ask(h, post("/devices/d1/modules/m1/messages/events?api-version=2021-04-12", ""))
	if c := seen(); c.DeviceID != "d1" || c.ModuleID != "m1" || c.Token != "" || c.Chain != nil {
		t.Errorf("the hub saw %+v", c)
	}
}

// TestBatch: all of a batch, in its order, or none of it.
func TestBatch(t *testing.T) {
	h, w := plainHTTPS(t)
	b64 := base64.StdEncoding.EncodeToString
	batch := func(text string) *http.Response {
		return ask(h, post(events, text, "Content-Type", "Application/vnd.microsoft.iothub.json; charset=utf-8"))
	}
	response := batch(`[{"body":"` + b64([]byte("one")) + `"},
		{"body":"two","base64Encoded":false,"unknown":[1],"properties":{"iothub-app-Line":"4","IoTHub-CorrelationId":"c","other":"x"}},
		{"body":"","base64Encoded":true}]`)
	if response.StatusCode != 204 {
		t.Fatal(response.Status)
	}
	want := []string{`| | one`, `correlation-id="c" | Line="4" | two`, `| |`}
	for i, m := range w.messages {
		if got := describeMessage(m); i >= len(want) || got != want[i] {
			t.Errorf("message %d is %s", i, got)
		}
	}
	if len(w.messages) != len(want) {
		t.Errorf("%d messages", len(w.messages))
	}
	big := `{"body":"` + b64(make([]byte, 100<<10)) + `"}`
	for text, status := range map[string]int{
		``:                             400,
		`{}`:                           400,
		`[]`:                           400,
		`[{"body":"YQ=="}`:             400,
		`[{"body":"YQ=="}] x`:          400,
		`[{"body":"YQ=="},{}]`:         400,
		`[{"body":"YQ=="},{"body":1}]`: 400,
		`[{"body":"YQ=="},null]`:       400,
		`[{"body":"a"}]`:               400,
		`[{"body":"\ud800","base64Encoded":false,"properties":{"iothub-app-a":1}}]`: 400,
		"[{\"body\":\"\xff\",\"base64Encoded\":false}]":                             400,
		"[" + strings.Repeat(`{"body":""},`, maxBatch) + `{"body":""}]`:             400,
		strings.Repeat("[", 20000):                                                  400,
		"[" + big + "," + big + "]":                                                 204,
		"[" + big + "," + big + "," + big + "]":                                     413,
		"[" + strings.Repeat(" ", maxBatchBody) + big + "]":                         413,
	} {
		w.messages, w.refused = nil, nil
		response := batch(text)
		if response.StatusCode != status {
			t.Errorf("%.60q: %s", text, response.Status)
		}
		if status != 204 && (len(w.messages) > 0 || len(w.refused) != 1) {
			t.Errorf("%.60q: %d messages are taken, %d refusals recorded", text, len(w.messages), len(w.refused))
		}
	}
}

// TestSendSizes: 256 KiB, of body and properties together.
func TestSendSizes(t *testing.T) {
	h, w := plainHTTPS(t)
	for _, c := range []struct {
		body     int
		property string
		status   int
	}{{signet.MaxMessageSize, "", 204}, {signet.MaxMessageSize - 2, "1", 204}, {signet.MaxMessageSize - 1, "1", 413}, {signet.MaxMessageSize + 1, "", 413}} {
		w.messages = nil
		headers := []string{"iothub-app-a", c.property}
		if c.property == "" {
			headers = nil
		}
		response := ask(h, post(events, strings.Repeat("x", c.body), headers...))
		if response.StatusCode != c.status || (c.status == 204) != (len(w.messages) == 1) {
			t.Errorf("%d and %q: %s, %d messages", c.body, c.property, response.Status, len(w.messages))
		}
		if c.status == 413 {
			if name := header(response, "iothub-errorcode"); name != "MessageTooLarge" {
				t.Error(name)
			}
			if codes := w.refusals(); !slices.Equal(codes, []signet.Code{signet.LimitMessageSize}) {
				t.Errorf("recorded is %v", codes)
			}
		}
	}
}

// TestSendTooOften: a request is not held back, but told when to come again; a batch
// as a whole.
func TestSendTooOften(t *testing.T) {
	h, w := plainHTTPS(t)
	w.pace = 1500 * time.Millisecond
	for _, r := range []*http.Request{post(events, "x"), post(events, `[{"body":"YQ=="},{"body":"Yg=="}]`, "Content-Type", batchType)} {
		response := ask(h, r)
		if response.StatusCode != 429 || response.Header.Get("Retry-After") != "2" || header(response, "iothub-errorcode") != "ThrottlingException" || len(w.messages) > 0 {
			t.Errorf("%s %v, %d messages", response.Status, response.Header, len(w.messages))
		}
		if codes := w.refusals(); !slices.Equal(codes, []signet.Code{signet.LimitRate}) {
			t.Errorf("recorded is %v", codes)
		}
	}
}

// TestAcknowledged: nothing is answered before all is on disk.
func TestAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, w := plainHTTPS(t)
		w.hold = true
		batch := `[{"body":"YQ=="},{"body":"Yg=="}]`
		for _, fault := range []error{nil, signet.Refuse(signet.Unavailable, "The disk is full."), errors.New("worse")} {
			answered := make(chan int, 1)
			go func() { answered <- ask(h, post(events, batch, "Content-Type", batchType)).StatusCode }()
			synctest.Wait()
			w.settle(nil)
			synctest.Wait()
			select {
			case status := <-answered:
				t.Errorf("answered %d before the second message was stored", status)
			default:
			}
			w.settle(fault)
			want := map[signet.Code]int{"": 204, signet.Unavailable: 503, signet.Internal: 500}[signet.CodeOf(fault)]
			if got := <-answered; got != want {
				t.Errorf("%v: %d, want %d", fault, got, want)
			}
		}
	})
}

// TestAnswers: each refusal in the form that the SDKs read. Whoever is not let in
// hears the same whatever the reason; the tracking ID leads to it.
func TestAnswers(t *testing.T) {
	h, w := plainHTTPS(t)
	form := regexp.MustCompile(`^Tracking ID:([0-9A-Z]+)-G:0-TimeStamp:\d\d/\d\d/\d{4} \d\d:\d\d:\d\d$`)
	check := func(what string, response *http.Response, status int, name, message string) {
		t.Helper()
		var body struct{ Message, ExceptionMessage string }
		text, _ := io.ReadAll(response.Body)
		if err := json.Unmarshal(text, &body); err != nil {
			t.Fatalf("%s: %q", what, text)
		}
		id := form.FindStringSubmatch(body.ExceptionMessage)
		if response.StatusCode != status || header(response, "iothub-errorcode") != name || id == nil || header(response, "x-ms-request-id") != id[1] ||
			!strings.HasPrefix(body.Message, "ErrorCode:"+name+";"+message) || strings.Count(body.Message, ";") != 1 {
			t.Errorf("%s: %d %v %s", what, response.StatusCode, response.Header, text)
		}
	}
	for _, c := range signet.Codes {
		e := signet.Refuse(c.Code, "a secret; reason")
		e.TrackingID = "ABC123"
		w.refusal = e
		response := ask(h, post(events, "x"))
		if header(response, "x-ms-request-id") != "ABC123" {
			t.Errorf("%s: the tracking ID is lost", c.Code)
		}
		switch a, known := answers[c.Code]; {
		case known:
			check(string(c.Code), response, a.status, a.name, "")
		default:
			check(string(c.Code), response, 401, "IotHubUnauthorizedAccess", "Unauthorized")
		}
		switch c.Step {
		case signet.StepChain, signet.StepPath, signet.StepIdentity, signet.StepToken, signet.StepHub:
			if response.StatusCode != 401 {
				t.Errorf("%s is told as %d", c.Code, response.StatusCode)
			}
		}
	}
	get := func(method, path string) *http.Request { return httptest.NewRequest(method, path, nil) }
	check("no api-version", ask(h, post("/devices/d1/messages/events", "")), 400, "InvalidProtocolVersion", "")
	check("no such path", ask(h, get("GET", "/devices/d1/messages/devicebound/x/y?api-version=2021-04-12")), 404, "GenericNotFound", "")
	check("no such path", ask(h, get("GET", "/$iothub/x")), 404, "GenericNotFound", "")
	check("no such method", ask(h, get("PUT", events)), 405, "GenericMethodNotAllowed", "")
	check("a file", ask(h, post("/devices/d1/files/?api-version=2016-11-14", `{"blobName":"a"}`)), 400, "DefaultStorageEndpointNotConfigured", "")
	check("a file", ask(h, post("/devices/d1/files/notifications/7?api-version=2016-11-14", `{`)), 400, "DefaultStorageEndpointNotConfigured", "")
	check("not text", ask(h, post(events, "", "iothub-app-a", "\xff")), 400, "ArgumentInvalid", "")
	if codes := w.refusals(); !slices.Equal(codes, []signet.Code{signet.RequestMalformed}) { // the last alone is one of a device
		t.Errorf("recorded are %v", codes)
	}
	w.judge = func(hub.Credentials) error { panic("oops") }
	check("a panic", ask(h, post(events, "")), 500, "ServerError", "")
}

// TestStrangersSendNothing: nothing of a body is read before the device is known.
func TestStrangersSendNothing(t *testing.T) {
	h, w := plainHTTPS(t)
	w.refusal = signet.Refuse(signet.IdentityUnknown, "no")
	r := httptest.NewRequest("POST", events, forbidden{t})
	if status := ask(h, r).StatusCode; status != 401 {
		t.Error(status)
	}
}

type forbidden struct{ t *testing.T }

func (f forbidden) Read([]byte) (int, error) {
	f.t.Error("the body of a stranger is read")
	return 0, io.EOF
}

// TestTurns: a device has so many requests under way and no more; the next waits,
// and goes when its client does.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, w := plainHTTPS(t)
		w.hold = true
		answered := make(chan int, maxRequests+1)
		for range maxRequests + 1 {
			go func() { answered <- ask(h, post(events, "x")).StatusCode }()
		}
		synctest.Wait()
		if len(w.pending) != maxRequests {
			t.Errorf("%d are under way", len(w.pending))
		}
		ctx, gone := context.WithCancel(t.Context())
		go func() { answered <- ask(h, post(events, "x").WithContext(ctx)).StatusCode }()
		synctest.Wait()
		gone()
		if status := <-answered; status != 503 {
			t.Errorf("the one that went: %d", status)
		}
		go ask(h, post("/devices/d2/messages/events?api-version=2021-04-12", "other"))
		synctest.Wait()
		if len(w.pending) != maxRequests+1 {
			t.Error("another device waits for this one")
		}
		for range maxRequests + 2 {
			w.settle(nil)
			synctest.Wait()
		}
		for range maxRequests + 1 {
			if status := <-answered; status != 204 {
				t.Error(status)
			}
		}
		if len(h.busy) != 0 {
			t.Errorf("%d identities are still busy", len(h.busy))
		}
	})
}

// TestHTTPSGate: requests of strangers stand in the line of the MQTT door, each
// until it is judged.
func TestHTTPSGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, w := plainHTTPS(t)
		h.mqtt.gate = newGate(2, 2)
		other, err := h.mqtt.gate.enter(netip.MustParseAddr("192.0.2.1"), nil, nil) // as httptest's requests
		if err != nil {
			t.Fatal(err)
		}
		if response := ask(h, post(events, "")); response.StatusCode != 429 {
			t.Errorf("beyond its share: %s", response.Status)
		}
		if codes := w.refusals(); !slices.Equal(codes, []signet.Code{signet.LimitConnections}) {
			t.Errorf("recorded is %v", codes)
		}
		h.mqtt.gate.leave(other)
		for range 3 {
			if response := ask(h, post(events, "")); response.StatusCode != 204 {
				t.Error(response.Status)
			}
		}
		if waiting, within := h.mqtt.gate.counts(); waiting+within != 0 {
			t.Errorf("%d and %d are still at the gate", waiting, within)
		}
	})
}

// TestKeepAlive: each request of a connection is judged for itself, by its own
// certificate; h2 and http/1.1 alike.
func TestKeepAlive(t *testing.T) {
	d := openWebDoor(t)
	device := issue(t, "d1", nil)
	for _, protocols := range [][]string{{"h2"}, {"http/1.1"}} {
		dials := 0
		conf := d.client(device)
		client := &http.Client{Transport: &http.Transport{
			TLSClientConfig: conf, ForceAttemptHTTP2: protocols[0] == "h2",
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				dials++
				return (&net.Dialer{}).DialContext(ctx, network, addr)
			},
		}}
		for i, refusal := range []*signet.Error{nil, signet.Refuse(signet.ChainUntrusted, "no"), nil} {
			d.waist.mu.Lock()
			d.waist.refusal = refusal
			d.waist.mu.Unlock()
			response, err := client.Post(d.server.URL+events, "", strings.NewReader(fmt.Sprint(i)))
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if want := map[bool]int{true: 204, false: 401}[refusal == nil]; response.StatusCode != want {
				t.Errorf("%s %d: %s", response.Proto, i, response.Status)
			}
			if seen, _ := d.waist.lastSeen(); len(seen.Chain) != 1 || !seen.Chain[0].Equal(device.Leaf) || seen.Remote.Addr().String() != "127.0.0.1" {
				t.Errorf("the hub saw %+v", seen)
			}
		}
		if dials != 1 {
			t.Errorf("%d connections", dials)
		}
	}
}

// FuzzBatch: a batch is taken whole or not at all, within its bounds.
func FuzzBatch(f *testing.F) {
	f.Add(`[{"body":"YQ==","properties":{"iothub-app-a":"b"}},{"body":"x","base64Encoded":false}]`)
	f.Add(`[{"body":"YQ=="}`)
	f.Fuzz(func(t *testing.T, text string) {
		messages, err := parseBatch([]byte(text))
		switch {
		case err != nil:
			if len(messages) > 0 || signet.CodeOf(err) != signet.RequestMalformed {
				t.Fatalf("%d messages with %v", len(messages), err)
			}
		case len(messages) == 0 || len(messages) > maxBatch || !json.Valid([]byte(text)):
			t.Fatalf("%d messages of %q", len(messages), text)
		}
		size := 0
		for _, m := range messages {
			size += m.Size()
			if slices.ContainsFunc(m.Properties, func(p signet.Property) bool { return p.Name == "" || reserved[strings.ToLower(p.Name)] }) {
				t.Fatalf("%v", m.Properties)
			}
		}
		if size > 3*len(text)+16 { // a byte that JSON cannot hold becomes three
			t.Fatalf("%d bytes of %d", size, len(text))
		}
	})
}
