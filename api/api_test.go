package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
)

// do sends a request with the given authorization to hub.example.test.
func (s *server) do(authorization, method, target string, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "https://hub.example.test"+target, body)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

func codeOf(t *testing.T, w *httptest.ResponseRecorder) signet.Code {
	t.Helper()
	var body struct {
		Signet *signet.Error `json:"signet"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Signet == nil {
		t.Fatalf("%d %s is no error of the promised form", w.Code, w.Body)
	}
	return body.Signet.Code
}

// failing is a body that breaks off, as when a client goes away.
type failing struct{ io.Reader }

func (f failing) Read(b []byte) (int, error) {
	if n, err := f.Reader.Read(b); err == nil {
		return n, nil
	}
	return 0, io.ErrUnexpectedEOF
}

// TestBodies: what is too large, too deep, cut short or no text is refused, with
// one clear error.
func TestBodies(t *testing.T) {
	s := newServer(t)
	const device, bulk = "/devices/a?api-version=2021-04-12", "/devices?api-version=2021-04-12"
	nested := func(n int) string {
		return `{"tags":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	}
	for name, c := range map[string]struct {
		method, target string
		body           io.Reader
		status         int
		code           signet.Code
	}{
		"300 kB":             {"PUT", device, strings.NewReader(`{"x":"` + strings.Repeat("x", 300<<10) + `"}`), 413, signet.LimitRequestSize},
		"5 MB in bulk":       {"POST", bulk, strings.NewReader(strings.Repeat("[", 5<<20)), 413, signet.LimitRequestSize},
		"101 items":          {"POST", bulk, strings.NewReader("[{}" + strings.Repeat(",{}", 100) + "]"), 413, signet.LimitRequestSize},
		"cut short":          {"PUT", device, failing{strings.NewReader(`{"deviceId":"a"`)}, 400, signet.RequestMalformed},
		"no body":            {"PUT", device, http.NoBody, 400, signet.RequestMalformed},
		"10,000 deep":        {"PUT", device, strings.NewReader(nested(10_000)), 400, signet.RequestMalformed},
		"33 deep":            {"PUT", device, strings.NewReader(nested(32)), 400, signet.RequestMalformed},
		"32 deep":            {"PUT", device, strings.NewReader(nested(31)), 200, ""},
		"deep inside a text": {"PUT", "/devices/b?api-version=2021-04-12", strings.NewReader(`{"x":"\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}`), 200, ""},
		"not UTF-8":          {"PUT", device, strings.NewReader("{\"statusReason\":\"\xff\"}"), 400, signet.RequestMalformed},
		"null":               {"POST", bulk, strings.NewReader("null"), 200, ""},
	} {
		w := s.do(s.names["owner"], c.method, c.target, c.body)
		if w.Code != c.status {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		} else if c.code != "" && codeOf(t, w) != c.code {
			t.Errorf("%s: %s", name, w.Body)
		}
	}
}

// unread fails the test when a body is read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body of a stranger was read")
	return 0, io.EOF
}

// TestStrangerCostsNothing: nothing is read of the body of who may not ask.
func TestStrangerCostsNothing(t *testing.T) {
	s := newServer(t)
	for _, target := range []string{
		"/devices?api-version=2021-04-12", "/signet/explain",
		"/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/hub/certificates/a/verify?api-version=2023-06-30",
	} {
		for _, authorization := range []string{"", "Bearer no", s.names["forged"], s.names["device"]} {
			if w := s.do(authorization, "POST", target, unread{t}); w.Code != 401 {
				t.Errorf("%s: %d %s", target, w.Code, w.Body)
			}
		}
	}
}

// TestNoSecretsAreLogged: nothing that a client proves itself with, or should
// not have sent, is in the log or in an answer.
func TestNoSecretsAreLogged(t *testing.T) {
	s := newServer(t)
	secrets := []string{"qT3zR0sVnU8wYy1xX2bB4c==", "not-the-admin-token"}
	said := ""
	tell := func(w *httptest.ResponseRecorder) { said += w.Body.String() }
	tell(s.do("Bearer "+secrets[1], "GET", "/signet/hubs", nil))
	tell(s.do(s.names["owner"], "PUT", "/devices/a?api-version=2021-04-12",
		strings.NewReader(`{"authentication":{"type":"sas","symmetricKey":{"primaryKey":"`+secrets[0]+`","secondaryKey":"x"}}}`)))
	for _, kind := range []string{"owner", "forged", "expired", "elsewhere"} {
		_, signature, _ := strings.Cut(s.names[kind], "&sig=")
		signature, _, _ = strings.Cut(signature, "&")
		secrets = append(secrets, signature)
		tell(s.do(s.names[kind], "GET", "/devices?api-version=2021-04-12", nil))
	}
	key := s.value(t, "key root")
	secrets = append(secrets, strings.Split(key, `\n`)[1])
	for _, body := range []string{`{"certificate":"` + key + `"}`, `{"certificate":"` + s.value(t, "pem root") + key + `"}`} {
		tell(s.do("Bearer "+adminToken, "PUT",
			"/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/hub/certificates/a?api-version=2023-06-30", strings.NewReader(body)))
	}
	if !strings.Contains(s.log.String(), "upload.private-key") {
		t.Error("the refusal of a private key is not in the log")
	}
	for _, secret := range secrets {
		if strings.Contains(s.log.String(), secret) || strings.Contains(said, secret) {
			t.Errorf("%q is told", secret)
		}
	}
}

// TestPanic: a fault in one request is that request's.
func TestPanic(t *testing.T) {
	s := newServer(t)
	s.waist.fault = true
	w := s.do(s.names["owner"], "GET", "/statistics/service?api-version=2021-04-12", nil)
	if w.Code != 500 || codeOf(t, w) != signet.Internal || strings.Contains(w.Body.String(), "fault injected") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(s.log.String(), "fault injected") || !strings.Contains(s.log.String(), "server_test.go") {
		t.Error("the log has no cause or no stack")
	}
	s.waist.fault = false
	if w := s.do(s.names["owner"], "GET", "/statistics/service?api-version=2021-04-12", nil); w.Code != 200 {
		t.Errorf("the next request: %d", w.Code)
	}
}

// TestOneWins: of two that do the same thing at once, one has done it.
func TestOneWins(t *testing.T) {
	s := newServer(t)
	both := func(method, target, etag string, body func(n int) string) (codes [2]int) {
		var done sync.WaitGroup
		for n := range codes {
			done.Go(func() {
				r := httptest.NewRequest(method, "https://hub.example.test"+target, strings.NewReader(body(n)))
				r.Header.Set("Authorization", s.names["owner"])
				if etag != "" {
					r.Header.Set("If-Match", etag)
				}
				w := httptest.NewRecorder()
				s.handler.ServeHTTP(w, r)
				codes[n] = w.Code
			})
		}
		done.Wait()
		return codes
	}
	for n := range 20 {
		if c := both("PUT", fmt.Sprintf("/devices/d%d?api-version=2021-04-12", n), "", func(int) string { return "{}" }); c[0]+c[1] != 200+409 {
			t.Fatalf("two creations: %v", c)
		}
	}
	const ca = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/hub/certificates/acme"
	s.do(s.names["owner"], "PUT", ca+"?api-version=2023-06-30", strings.NewReader(`{"certificate":"`+s.value(t, "pem root")+`"}`))
	r := httptest.NewRequest("POST", "https://hub.example.test"+ca+"/generateVerificationCode?api-version=2023-06-30", nil)
	r.Header.Set("Authorization", s.names["owner"])
	r.Header.Set("If-Match", "*")
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	var answer struct {
		ETag       string
		Properties struct{ VerificationCode string }
	}
	json.Unmarshal(w.Body.Bytes(), &answer)
	s.names["code"] = answer.Properties.VerificationCode
	proof := s.value(t, "proof by root of code")
	if c := both("POST", ca+"/verify?api-version=2023-06-30", answer.ETag, func(int) string { return `{"certificate":"` + proof + `"}` }); c[0]+c[1] != 200+412 {
		t.Fatalf("two verifications with one etag: %v", c)
	}
}

// TestMessages: telemetry as lines of JSON, from any point on, of one device or
// of all, and never of another hub.
func TestMessages(t *testing.T) {
	s := newServer(t)
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	message := func(hub, device string, body string, system ...signet.Property) *signet.Message {
		at = at.Add(time.Second)
		return &signet.Message{Hub: hub, DeviceID: device, GenerationID: "1", AuthMethod: "{}", Source: "Telemetry",
			EnqueuedTime: at, System: system, Body: []byte(body)}
	}
	asJSON := signet.Property{Name: "content-type", Value: "application/json"}
	s.waist.messages = []*signet.Message{
		message("hub", "press-17", "{\"a\":\n [1.50,\"<&>\"]}", asJSON, signet.Property{Name: "content-encoding", Value: "UTF-8"}),
		message("other", "press-17", "not yours"),
		message("hub", "press-18", "{not json", asJSON),
		message("hub", "press-17", "\xff\x00"),
		message("hub", "press-17", "{}", asJSON, signet.Property{Name: "content-encoding", Value: "utf-16"}),
	}
	s.waist.messages[0].Properties = []signet.Property{{Name: "alarm", Value: ""}, {Name: "bare", Null: true}}
	for _, step := range []string{
		`GET /signet/messages
<-- 200
Content-Type: application/x-ndjson

{"position":"1.0","enqueuedTime":"2026-01-31T12:00:01Z","deviceId":"press-17","body":{"a":[1.50,"<&>"]},"bodyEncoding":"json",
 "properties":{"alarm":"","bare":null},
 "systemProperties":{"content-type":"application/json","content-encoding":"UTF-8","iothub-connection-device-id":"press-17",
  "iothub-connection-auth-method":"{}","iothub-connection-auth-generation-id":"1",
  "iothub-enqueuedtime":"2026-01-31T12:00:01.0000000Z","iothub-message-source":"Telemetry"}}
{"position":"3.0","deviceId":"press-18","body":"{not json","bodyEncoding":"utf-8","…":0}
{"position":"4.0","deviceId":"press-17","body":"/wA=","bodyEncoding":"base64","…":0}
{"position":"5.0","deviceId":"press-17","body":"e30=","bodyEncoding":"base64","…":0}`,
		`GET /signet/messages?device=press-18
<-- 200

{"position":"3.0","…":0}`,
		`GET /signet/messages?from=3.0
<-- 200

{"position":"4.0","…":0}
{"position":"5.0","…":0}`,
		`GET /signet/messages?from=2026-01-31T12:00:04Z
<-- 200

{"position":"4.0","…":0}
{"position":"5.0","…":0}`,
		`GET /signet/messages?from=now
<-- 200`,
		`GET /signet/messages?hub=other
Authorization: {{admin}}
<-- 200

{"body":"not yours","…":0}`,
		`GET /signet/messages?hub=other
<-- 401

{"signet":{"code":"token.audience","field":"hub","…":0}}`,
		`GET /signet/messages?from=yesterday
<-- 400

{"signet":{"code":"request.malformed","field":"from","…":0}}`,
		`GET /signet/messages
Authorization: {{registryReadWrite}}
<-- 401

{"signet":{"code":"token.rights","…":0}}`,
	} {
		play(t, s, "Authorization: {{service}}\n=== messages\n"+step)
	}
}

// follow reads a stream over a real connection, whose server has the time limits
// of the product.
func (s *server) follow(t *testing.T, ctx context.Context, authorization string) (lines chan string, status int) {
	t.Helper()
	server := httptest.NewUnstartedServer(s.handler)
	server.Config.ReadTimeout, server.Config.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
	server.StartTLS()
	t.Cleanup(server.Close)
	r, _ := http.NewRequestWithContext(ctx, "GET", server.URL+"/signet/messages?follow=true", nil)
	r.Host = "hub.example.test"
	r.Header.Set("Authorization", authorization)
	response, err := server.Client().Do(r)
	for tries := 0; err != nil; tries++ { // a handshake may take longer than the server has, too
		if tries == 50 {
			t.Fatal(err)
		}
		response, err = server.Client().Do(r)
	}
	lines = make(chan string)
	go func() {
		defer close(lines)
		defer response.Body.Close()
		for scanner := bufio.NewScanner(response.Body); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	return lines, response.StatusCode
}

// TestFollow: a stream outlives the limits of a request, brings a line at once,
// and ends when the caller leaves.
func TestFollow(t *testing.T) {
	s := newServer(t)
	s.waist.live = make(chan *signet.Message)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	lines, status := s.follow(t, ctx, s.names["service"])
	if status != 200 {
		t.Fatal(status)
	}
	begun := time.Now()
	for time.Since(begun) < 600*time.Millisecond { // three times the limits of the server
		s.waist.live <- &signet.Message{Hub: "hub", DeviceID: "press-17", Body: []byte("x")}
		if line := <-lines; !strings.Contains(line, `"body":"x"`) {
			t.Fatalf("after %v: %q", time.Since(begun), line)
		}
	}
	cancel()
	if line, more := <-lines; more {
		t.Errorf("%q after the end", line)
	}
	<-s.waist.left // or the test does not end
}

// TestFollowEnds: a stream ends with what let the caller in: its hub, or its
// token.
func TestFollowEnds(t *testing.T) {
	t.Run("hub", func(t *testing.T) {
		s := newServer(t)
		s.waist.live = make(chan *signet.Message, 1)
		lines, _ := s.follow(t, context.Background(), s.names["service"])
		if err := s.registry.DeleteHub(context.Background(), "hub"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.registry.CreateHub(context.Background(), "hub", "hub.example.test"); err != nil {
			t.Fatal(err)
		}
		s.waist.live <- &signet.Message{Hub: "hub", DeviceID: "d", Body: []byte("of the new hub")}
		if line, more := <-lines; more {
			t.Errorf("the reader of the old hub got %q", line)
		}
	})
	t.Run("token", func(t *testing.T) {
		s := newServer(t)
		s.waist.live = make(chan *signet.Message)
		key := s.registry.Hubs()[0].Policies[1].PrimaryKey
		var lines chan string
		// A token ends with a second: of its last one, some time is gone when it is made.
		for status, life := 0, time.Second; status != 200; life *= 2 {
			if lines, status = s.follow(t, context.Background(), sign(t, "hub.example.test", "service", key, -signet.SASClockSkew+life)); status != 401 && status != 200 || life > time.Minute {
				t.Fatal("the token was good when the stream began", status)
			}
		}
		if line, more := <-lines; more {
			t.Errorf("%q", line)
		}
	})
}

// TestFollowDrains: a server that shuts down does not wait for who follows.
func TestFollowDrains(t *testing.T) {
	s := newServer(t)
	s.waist.live = make(chan *signet.Message)
	lines, status := s.follow(t, context.Background(), s.names["service"])
	if status != 200 {
		t.Fatal(status)
	}
	s.drain()
	if line, more := <-lines; more {
		t.Errorf("%q", line)
	}
}

// TestReadFails: an answer that broke off does not look like a whole one.
func TestReadFails(t *testing.T) {
	s := newServer(t)
	s.waist.messages = []*signet.Message{{Hub: "hub", DeviceID: "d"}}
	s.waist.err = net.ErrClosed
	server := httptest.NewTLSServer(s.handler)
	defer server.Close()
	r, _ := http.NewRequest("GET", server.URL+"/signet/messages", nil)
	r.Host = "hub.example.test"
	r.Header.Set("Authorization", s.names["service"])
	response, err := server.Client().Do(r)
	if err == nil {
		_, err = io.ReadAll(response.Body)
		response.Body.Close()
	}
	if err == nil {
		t.Error("the failure cannot be seen")
	}
}

// FuzzBodies: whatever body comes, each operation answers, in its form, and never
// by its own failure.
func FuzzBodies(f *testing.F) {
	for n, body := range []string{
		`{"deviceId":"a","authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"00"}}}`,
		`[{"id":"a","importMode":"create","tags":{}},{"id":"b","importMode":"delete","eTag":"\"x\""}]`,
		`{"properties":{"certificate":"MII=","isVerified":true}}`, `{"certificate":"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"}`,
		`{"chain":"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----","deviceId":"a","at":"2026-01-31T12:00:00Z"}`, `{"hostName":"a.b"}`,
		`{"a":{"a":{"a":[1e400,-0,"\ud800"]}}}`, "\xef\xbb\xbf{}", `{"deviceId":null,"authentication":null,"status":null}`,
	} {
		f.Add(uint8(n), body)
	}
	s := newServer(f)
	const certificate = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/hub/certificates/fuzz"
	operations := []struct{ method, target, as string }{
		{"PUT", "/devices/fuzz?api-version=2021-04-12", s.names["owner"]},
		{"POST", "/devices?api-version=2021-04-12", s.names["owner"]},
		{"PUT", certificate + "?api-version=2023-06-30", s.names["owner"]},
		{"POST", certificate + "/verify?api-version=2023-06-30", s.names["owner"]},
		{"POST", "/signet/explain", s.names["owner"]},
		{"PUT", "/signet/hubs/fuzz", "Bearer " + adminToken},
	}
	f.Fuzz(func(t *testing.T, n uint8, body string) {
		o := operations[int(n)%len(operations)]
		w := s.do(o.as, o.method, o.target, strings.NewReader(body))
		if w.Code >= 500 {
			t.Fatalf("%d %s\n%s", w.Code, w.Body, s.log)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Fatalf("the answer is no JSON: %q", w.Body)
		}
		if w.Code >= 400 && !(o.method == "POST" && strings.Contains(w.Body.String(), "isSuccessful")) {
			codeOf(t, w)
		}
	})
}

// FuzzRequests: whatever method, path, query and headers come, from a stranger or
// from the owner, there is an answer; strangers get nothing, and nobody gets the
// other hub.
func FuzzRequests(f *testing.F) {
	f.Add(false, "GET", "/devices/a%2fb?api-version=2021-04-12", "SharedAccessSignature sr=a&sig=YQ==&se=1", "hub.example.test", "\"")
	f.Add(false, "PUT", "//subscriptions/../signet//", "Bearer ", "", "*")
	f.Add(false, "DELETE", "/signet/hubs/%ff?hub=a&hub=b", "bearer x", "[::1]:443", "\"\"")
	f.Add(true, "GET", "/devices/%00%ff?api-version=2021-04-12", "", "hub.example.test", "")
	f.Add(true, "GET", "/devices?top=1&after=%ff%00&api-version=2021-04-12", "", "HUB.example.test:1", "")
	f.Add(true, "GET", "/signet/verdicts?device=%00&trackingId=%ff&since=9999-12-31T23:59:59Z&limit=5", "", "hub.example.test", "")
	f.Add(true, "DELETE", "/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/hub/certificates/%00?api-version=2023-06-30", "", "hub.example.test", "\xff")
	s := newServer(f)
	if _, err := s.registry.Create(context.Background(), signet.Identity{Hub: "other", DeviceID: "not-yours"}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, owner bool, method, target, authorization, host, etag string) {
		r, err := http.NewRequest(method, "https://hub.example.test", nil)
		if err != nil || strings.Contains(target, "follow") {
			t.Skip()
		}
		if r.URL, err = r.URL.Parse(target); err != nil {
			t.Skip()
		}
		if owner {
			authorization = s.names["owner"]
		}
		r.Body = http.NoBody
		r.Host, r.RemoteAddr = host, "192.0.2.1:1"
		r.Header = http.Header{"Authorization": {authorization}, "If-Match": {etag}, "Request-Id": {target}}
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		switch {
		case w.Code >= 500, !owner && w.Code < 400:
			t.Fatalf("%s %s: %d %s\n%s", method, target, w.Code, w.Body, s.log)
		case strings.Contains(w.Body.String(), "not-yours") && !strings.Contains(target, "not-yours"):
			t.Fatalf("%s %s shows another hub: %s", method, target, w.Body)
		case w.Code >= 400:
			codeOf(t, w)
		}
	})
}
