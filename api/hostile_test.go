package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/signet-iot/signet"
)

// first does something before the first byte of a body comes.
type first struct {
	do func()
	io.Reader
}

func (f *first) Read(b []byte) (int, error) {
	if f.do != nil {
		f.do()
		f.do = nil
	}
	return f.Reader.Read(b)
}

// TestHubMadeAnew: who was let in to a hub, and is slow, does nothing to the one that
// has taken its name meanwhile: deleting a hub is how its keys are made worthless.
func TestHubMadeAnew(t *testing.T) {
	const version = "?api-version=2021-04-12"
	for _, c := range []struct{ method, path, body string }{
		{"PUT", "/devices/mine" + version, `{"deviceId":"mine"}`},
		{"POST", "/devices" + version, `[{"id":"mine","importMode":"create"}]`},
		{"POST", "/signet/devices/import", `{"id":"mine"}`},
		{"POST", "/devices/query" + version, `{"query":"SELECT * FROM devices"}`},
		{"PATCH", "/twins/theirs" + version, `{"tags":{"mine":true}}`},
		{"PUT", "/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/hub/certificates/mine?api-version=2021-03-31", `{"properties":{"certificate":"x","isVerified":true}}`},
		{"POST", "/signet/crls", `x`},
	} {
		s := newServer(t)
		w := s.at("hub.example.test", c.method, c.path, s.names["owner"], &first{func() {
			if err := s.registry.DeleteHub(t.Context(), "hub"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.registry.CreateHub(t.Context(), "hub", "hub.example.test"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.registry.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "theirs"}); err != nil {
				t.Fatal(err)
			}
		}, strings.NewReader(c.body)})
		if w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), `"hub.unknown"`) {
			t.Errorf("%s: %d %s", c.path, w.Code, w.Body)
		}
		if list, err := s.registry.List(context.Background(), "hub", "", 9); err != nil || len(list) != 1 {
			t.Errorf("%s: %d devices, %v", c.path, len(list), err)
		}
	}
}

// TestAnsweredTooLate: nor is he told, in a header, what he would have been answered.
func TestAnsweredTooLate(t *testing.T) {
	s := newServer(t)
	if _, err := s.registry.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "d"}); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "https://hub.example.test/devices/d?api-version=2021-04-12", nil)
	r.Header.Set("Authorization", s.names["owner"])
	w := &letIn{ResponseRecorder: httptest.NewRecorder(), do: func() {
		if err := s.registry.DeleteHub(t.Context(), "hub"); err != nil {
			t.Fatal(err)
		}
	}}
	s.handler.ServeHTTP(w, r)
	if w.do != nil || w.Code != http.StatusNotFound || spelled(w.Result().Header, "ETag") != nil {
		t.Errorf("%d %v %s", w.Code, w.Result().Header, w.Body)
	}
}

// letIn does something when the first header of an answer is set, after the caller was
// let in.
type letIn struct {
	*httptest.ResponseRecorder
	asked bool // for a token
	do    func()
}

func (l *letIn) Header() http.Header {
	h := l.ResponseRecorder.Header()
	asks := h.Get("WWW-Authenticate") != ""
	if l.asked && !asks && l.do != nil {
		do := l.do
		l.do = nil
		do()
	}
	l.asked = l.asked || asks
	return h
}

// TestWhatABodyCosts: a body is bounded in bytes, and so is what becomes of it.
func TestWhatABodyCosts(t *testing.T) {
	s := newServer(t)
	const version = "?api-version=2021-04-12"
	many := func(bytes int) string { return strings.Repeat("{},", bytes/3) + "{}" }
	for _, c := range []struct{ host, path, token, body string }{
		{"hub.example.test", "/devices" + version, "owner", "[" + many(4<<20-10) + "]"},
		{"dps.example.test", "/enrollments" + version, "dps", `{"mode":"create","enrollments":[` + many(4<<20-50) + "]}"},
		{"hub.example.test", "/signet/radius", "registryRead", `{"distrust":[` + many(16<<20-50) + "]}"},
	} {
		var w *httptest.ResponseRecorder
		cost := allocated(func() { w = s.at(c.host, "POST", c.path, s.names[c.token], strings.NewReader(c.body)) })
		if most := uint64(8 * len(c.body)); w.Code != http.StatusRequestEntityTooLarge || cost > most {
			t.Errorf("%s: %d, and %d MiB", c.path, w.Code, cost>>20)
		}
	}
	// As many as the payload of a method can hold are taken.
	w := s.at("hub.example.test", "POST", "/twins/x/methods"+version, s.names["owner"],
		strings.NewReader(`{"methodName":"m","payload":[`+strings.Repeat("1,", 64<<10-2)+`1]}`))
	if w.Code != http.StatusNotFound {
		t.Errorf("%d %.200s", w.Code, w.Body)
	}
}

// TestWhatAHypothesisCosts: a look ahead at so many changes that each would be compared
// with all the others is none.
func TestWhatAHypothesisCosts(t *testing.T) {
	s := newServer(t)
	for n, want := range map[int]int{1000: http.StatusOK, 1001: http.StatusRequestEntityTooLarge} {
		var scopes []string
		for i := range n {
			scopes = append(scopes, fmt.Sprintf(`{"key":"%064x","devices":["a*"]}`, i))
		}
		body := `{"scopes":[` + strings.Join(scopes, ",") + `]}`
		if w := s.at("hub.example.test", "POST", "/signet/radius", s.names["registryRead"], strings.NewReader(body)); w.Code != want {
			t.Errorf("%d: %d %.300s", n, w.Code, w.Body)
		}
	}
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestWhatAPageCosts: however often a query selects the same, a page is bounded, and
// the next goes on where it ended.
func TestWhatAPageCosts(t *testing.T) {
	s := newServer(t)
	ask := func(path, body, from string) (*httptest.ResponseRecorder, []map[string]any) {
		t.Helper()
		r := httptest.NewRequest("POST", "https://hub.example.test"+path+"?api-version=2021-04-12", strings.NewReader(body))
		r.Header.Set("Authorization", s.names["owner"])
		r.Header.Set("X-Ms-Continuation", from)
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		var items []map[string]any
		if w.Code == http.StatusOK && path == "/devices/query" {
			if err := json.Unmarshal(w.Body.Bytes(), &items); err != nil {
				t.Fatal(err)
			}
		}
		return w, items
	}
	var desired, devices []string
	for n := range 8 {
		desired = append(desired, fmt.Sprintf(`"k%d":%q`, n, strings.Repeat("x", 4090)))
	}
	for n := range 60 {
		devices = append(devices, fmt.Sprintf(`{"id":"d%02d","importMode":"create","properties":{"desired":{%s}}}`, n, strings.Join(desired, ",")))
	}
	if w, _ := ask("/devices", "["+strings.Join(devices, ",")+"]", ""); w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	query := func(columns int) string {
		var names []string
		for n := range columns {
			names = append(names, fmt.Sprintf("properties.desired AS c%d", n))
		}
		return fmt.Sprintf(`{"query":"SELECT deviceId, %s FROM devices"}`, strings.Join(names, ", "))
	}
	found, pages := 0, 0
	for from := ""; pages == 0 || from != ""; pages++ {
		w, items := ask("/devices/query", query(30), from)
		for _, item := range items {
			if item["deviceId"] != fmt.Sprintf("d%02d", found) || len(item) != 31 {
				t.Fatalf("item %d is %v with %d members", found, item["deviceId"], len(item))
			}
			found++
		}
		if w.Code != http.StatusOK || len(items) == 0 || w.Body.Len() > 12<<20 {
			t.Fatalf("%d: %d items, %d bytes", w.Code, len(items), w.Body.Len())
		}
		from = strings.Join(spelled(w.Header(), "x-ms-continuation"), "")
	}
	if found != 60 || pages < 7 {
		t.Errorf("%d devices in %d pages", found, pages)
	}

	// One of which more is selected than an item may have is told so.
	s.at("hub.example.test", "PATCH", "/twins/d00?api-version=2021-04-12", s.names["owner"],
		strings.NewReader(fmt.Sprintf(`{"properties":{"desired":{"k0":"%s","k1":"%[1]s"}}}`, strings.Repeat(`\u0001`, 4096))))
	if w, _ := ask("/devices/query", query(63), ""); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), string(signet.LimitQuery)) {
		t.Errorf("%d %.300s", w.Code, w.Body)
	}
}

// TestReadersAreBounded: each reader of the log has some of it in memory, also one
// that does not read; those of one hub take no place of another's.
func TestReadersAreBounded(t *testing.T) {
	s := newServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	begun := make(chan struct{}, 100)
	read := func(host, token string) int {
		r := httptest.NewRequestWithContext(ctx, "GET", "https://"+host+"/signet/messages?follow=true", nil)
		r.Header.Set("Authorization", s.names[token])
		w := &beginning{httptest.NewRecorder(), begun}
		s.handler.ServeHTTP(w, r)
		return w.Code
	}
	for range 40 {
		wait.Go(func() {
			if code := read("hub.example.test", "service"); code != http.StatusOK {
				t.Error(code)
			}
		})
		<-begun
	}
	if code := read("hub.example.test", "owner"); code != http.StatusTooManyRequests {
		t.Errorf("one more: %d", code)
	}
	<-begun
	wait.Go(func() { read("other.example.test", "other service") })
	<-begun
	cancel()
	wait.Wait()
	if code := read("hub.example.test", "service"); code != http.StatusOK { // and is over, as ctx is
		t.Errorf("when all have left: %d", code)
	}
}

// beginning tells when an answer begins.
type beginning struct {
	*httptest.ResponseRecorder
	begun chan struct{}
}

func (b *beginning) WriteHeader(status int) {
	b.ResponseRecorder.WriteHeader(status)
	b.begun <- struct{}{}
}

// spelled gives a header by its name as it is written, which is Azure's and not Go's.
func spelled(h http.Header, name string) []string { return h[name] }
