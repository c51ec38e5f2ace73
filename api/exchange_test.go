package api_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
)

// TestExchanges plays the HTTP exchanges of testdata/*.txt, one file an operation
// or a rule, each against a server of its own. A file is
//
//	what it shows; then headers that every request of the file has
//	=== one step
//	PUT /devices/a?api-version=2021-04-12
//	If-Match: *
//
//	{"the":"body"}
//	<-- 200
//	ETag: "{{etag}}"
//
//	{"deviceId":"a","etag":"{{etag}}","…":0}
//
// In a request, {{name}} is replaced by what the name stands for: something of
// the server's (see newServer), or what an earlier answer held in that place. In
// an expected text, a name that stands for nothing yet takes what is there, and
// {{_}} takes anything. Members must be those expected, unless "…" is among them.
// Headers are looked for as they are spelled.
//
// CONNECT and a device ID has the device connect with the certificates leaf and
// line, at the hub: 200, or 401 when it is refused.
func TestExchanges(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no exchanges", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			play(t, newServer(t), string(text))
		})
	}
}

func play(t *testing.T, s *server, text string) {
	t.Helper()
	steps := strings.Split("\n"+text, "\n=== ")
	always := http.Header{"Host": {"hub.example.test"}}
	for line := range strings.Lines(steps[0]) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && !strings.Contains(name, " ") {
			always.Set(name, s.fill(t, value))
		}
	}
	for _, step := range steps[1:] {
		title, rest, _ := strings.Cut(step, "\n")
		request, expected, ok := strings.Cut(rest, "\n<-- ")
		if !ok {
			t.Fatalf("%s: no answer is expected", title)
		}
		answer := s.ask(t, always, request)
		if problem := s.compare(answer, expected); problem != "" {
			body := answer.Body.String()
			t.Errorf("%s: %s\n--- request\n%s\n--- answer\n%d\n%v\n%s", title, problem, request, answer.Code, answer.Header(), body)
			return // later steps stand on this one
		}
	}
}

var name = regexp.MustCompile(`\{\{(.*?)\}\}`)

// fill replaces names by what they stand for.
func (s *server) fill(t *testing.T, text string) string {
	t.Helper()
	return name.ReplaceAllStringFunc(text, func(n string) string { return s.value(t, n[2:len(n)-2]) })
}

// ask sends a request written as text.
func (s *server) ask(t *testing.T, always http.Header, text string) *httptest.ResponseRecorder {
	t.Helper()
	text = s.fill(t, text)
	head, body, _ := strings.Cut(text, "\n\n")
	first, headers, _ := strings.Cut(head, "\n")
	method, target, ok := strings.Cut(first, " ")
	if !ok {
		t.Fatalf("%q is no request", first)
	}
	if method == "CONNECT" {
		return s.connect(t, target)
	}
	r := httptest.NewRequest(method, "https://"+always.Get("Host")+target, strings.NewReader(strings.TrimSpace(body)))
	r.Header = maps.Clone(always)
	for line := range strings.Lines(headers) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		r.Header.Set(name, value)
	}
	r.Host = r.Header.Get("Host")
	r.Header.Del("Host")
	if r.Header.Get("Authorization") == "none" {
		r.Header.Del("Authorization")
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

// connect has a device connect with the certificates leaf and line.
func (s *server) connect(t *testing.T, device string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	_, err := s.waist.Hub.Connect(t.Context(), hub.Credentials{Door: signet.DoorMQTT, Host: "hub.example.test", DeviceID: device, TLS: "TLS 1.3",
		Remote: netip.MustParseAddrPort("192.0.2.1:5000"), Chain: []*x509.Certificate{s.cas["leaf"].cert, s.cas["line"].cert}}, func() {})
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
	}
	s.inventory.Write(t.Context())
	return w
}

// compare says what of an answer is not as expected.
func (s *server) compare(answer *httptest.ResponseRecorder, expected string) string {
	head, body, _ := strings.Cut(expected, "\n\n")
	status, headers, _ := strings.Cut(head, "\n")
	if fmt.Sprint(answer.Code) != strings.TrimSpace(status) {
		return "status is not " + status
	}
	for line := range strings.Lines(headers) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if name == "" {
			continue
		}
		if problem := s.text(value, strings.Join(answer.Header()[name], ", ")); problem != "" {
			return name + ": " + problem
		}
	}
	body = strings.TrimSpace(body)
	if body == "" {
		if answer.Body.Len() > 0 {
			return "no body was expected"
		}
		return ""
	}
	if got := answer.Header().Get("Content-Type"); !strings.HasPrefix(got, "application/json") && got != "application/x-ndjson" {
		return "content type " + got
	}
	want, got := json.NewDecoder(strings.NewReader(body)), json.NewDecoder(bytes.NewReader(answer.Body.Bytes()))
	for n := 0; ; n++ { // one document, or one a line
		var w, g any
		if err := want.Decode(&w); err == io.EOF {
			if got.Decode(&g) != io.EOF {
				return "more was answered"
			}
			return ""
		} else if err != nil {
			return "the expectation is no JSON: " + err.Error()
		}
		if err := got.Decode(&g); err != nil {
			return "the answer is no JSON, or ends: " + err.Error()
		}
		if problem := s.json(fmt.Sprintf("[%d]", n), w, g); problem != "" {
			return problem
		}
	}
}

func (s *server) json(at string, want, got any) string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s: %v is no object", at, got)
		}
		_, more := w["…"]
		for _, member := range slices.Sorted(maps.Keys(g)) {
			if _, ok := w[member]; !ok && !more {
				return fmt.Sprintf("%s has a member %q", at, member)
			}
		}
		for _, member := range slices.Sorted(maps.Keys(w)) {
			value, ok := g[member]
			if !ok && member != "…" {
				return fmt.Sprintf("%s has no member %q", at, member)
			}
			if member == "…" {
				continue
			}
			if problem := s.json(at+"."+member, w[member], value); problem != "" {
				return problem
			}
		}
		return ""
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return fmt.Sprintf("%s: %d elements wanted, not %v", at, len(w), got)
		}
		for n := range w {
			if problem := s.json(fmt.Sprintf("%s[%d]", at, n), w[n], g[n]); problem != "" {
				return problem
			}
		}
		return ""
	case string:
		if g, ok := got.(string); ok {
			if problem := s.text(w, g); problem != "" {
				return at + ": " + problem
			}
			return ""
		}
	}
	if want != got {
		return fmt.Sprintf("%s: %v is not %v", at, got, want)
	}
	return ""
}

// text compares a text with one that may have {{names}}.
func (s *server) text(want, got string) string {
	var free []string // names that stand for nothing yet
	pattern, last := "(?s)^", 0
	for _, at := range name.FindAllStringIndex(want, -1) {
		n := want[at[0]+2 : at[1]-2]
		pattern += regexp.QuoteMeta(want[last:at[0]])
		if value, ok := s.names[n]; ok && n != "_" {
			pattern += regexp.QuoteMeta(value)
		} else {
			pattern += "(.+)"
			free = append(free, n)
		}
		last = at[1]
	}
	found := regexp.MustCompile(pattern + regexp.QuoteMeta(want[last:]) + "$").FindStringSubmatch(got)
	if found == nil {
		return fmt.Sprintf("%q is not %q", got, want)
	}
	for n, name := range free {
		s.names[name] = found[n+1]
	}
	return ""
}
