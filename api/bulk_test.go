package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/signet-iot/signet"
)

// at asks one of the hubs.
func (s *server) at(host, method, path, token string, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "https://"+host+path, body)
	r.Header.Set("Authorization", token)
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

// TestImportOfMany: more than a batch, in order, told of by line; what is exported
// makes another hub the same.
func TestImportOfMany(t *testing.T) {
	s := newServer(t)
	var file strings.Builder
	for n := range 1150 {
		if n < 1100 {
			fmt.Fprintf(&file, `{"id":"d%04d","authentication":{"type":"certificateAuthority"},"tags":{"n":%d}}`+"\n", n, n)
			continue
		}
		fmt.Fprintf(&file, `{"id":"d0007","tags":{"n":%d}}`+"\n", n) // again and again: the last counts
	}
	type answer struct {
		Lines, Succeeded, Failed int
		Errors                   []struct{ Line int }
		Signet                   *signet.Error
	}
	imports := func(hub, token string, body io.Reader) (a answer) {
		t.Helper()
		w := s.at(hub, "POST", "/signet/devices/import", token, body)
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatal(err, w.Body)
		}
		return a
	}
	a := imports("hub.example.test", s.names["owner"], strings.NewReader(file.String()))
	if a.Lines != 1150 || a.Succeeded != 1150 || a.Failed != 0 {
		t.Fatalf("%+v", a)
	}
	export := func(hub, token string) string {
		t.Helper()
		w := s.at(hub, "GET", "/signet/devices/export", token, http.NoBody)
		if w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
		return regexp.MustCompile(`"(eTag|twinETag)":"[^"]*",`).ReplaceAllString(w.Body.String(), "")
	}
	whole := export("hub.example.test", s.names["owner"])
	if strings.Count(whole, "\n") != 1100 || !strings.Contains(whole, `"tags":{"n":1149}`) {
		t.Error("not all is exported, or not the last of each")
	}
	if a := imports("other.example.test", s.names["other owner"], strings.NewReader(whole)); a.Succeeded != 1100 {
		t.Errorf("%+v", a)
	}
	// Devices that were named without authentication got keys of their own.
	if there := export("other.example.test", s.names["other owner"]); there != whole {
		t.Error("the other hub is not the same")
	}

	// Failures beyond a thousand are counted.
	a = imports("hub.example.test", s.names["owner"], strings.NewReader(strings.Repeat(`{"id":"gone","importMode":"delete"}`+"\n", 1001)+"x\n"))
	if a.Failed != 1002 || len(a.Errors) != 1000 || a.Errors[999].Line != 1000 {
		t.Errorf("%d failed, %d told", a.Failed, len(a.Errors))
	}
	// What came before a mistake of the whole is done, and that is said.
	for name, body := range map[string]io.Reader{
		"long line": strings.NewReader(`{"id":"e1"}` + "\n" + `{"id":"` + strings.Repeat("x", 600<<10) + `"}`),
		"cut short": failing{strings.NewReader(`{"id":"e2"}` + "\n" + `{"id":"e3"}` + "\n")},
	} {
		if a := imports("hub.example.test", s.names["owner"], body); a.Signet == nil || !strings.Contains(a.Signet.Message, "Of the lines before it ") {
			t.Errorf("%s: %+v", name, a)
		}
	}
	s.drain()
	if a := imports("hub.example.test", s.names["owner"], strings.NewReader(`{"id":"late"}`)); a.Signet == nil || a.Signet.Code != signet.Unavailable {
		t.Errorf("%+v", a)
	}
}

// TestOneImportOfAHub: an import that comes slowly keeps no other hub's waiting.
func TestOneImportOfAHub(t *testing.T) {
	s := newServer(t)
	var slow []*io.PipeWriter
	var ended sync.WaitGroup
	for range 2 {
		r, w := io.Pipe()
		slow = append(slow, w)
		ended.Go(func() {
			s.at("hub.example.test", "POST", "/signet/devices/import", s.names["owner"], r)
			r.Close() // one that is refused is not read
		})
		w.Write([]byte("\n")) // it is read, or refused
	}
	w := s.at("other.example.test", "POST", "/signet/devices/import", s.names["other owner"], strings.NewReader(`{"id":"d"}`))
	if w.Code != http.StatusOK {
		t.Errorf("another hub's import: %d %s", w.Code, w.Body)
	}
	for _, w := range slow {
		w.Close()
	}
	ended.Wait()
	w = s.at("hub.example.test", "POST", "/signet/devices/import", s.names["owner"], strings.NewReader(`{"id":"d"}`))
	if w.Code != http.StatusOK {
		t.Errorf("the next: %d %s", w.Code, w.Body)
	}
}

// TestPagesOfAHub: answers that nobody reads are held in memory up to a number, and
// keep no other hub waiting.
func TestPagesOfAHub(t *testing.T) {
	s := newServer(t)
	const most = 16
	export := func(w http.ResponseWriter) {
		r := httptest.NewRequest("GET", "https://hub.example.test/signet/devices/export", http.NoBody)
		r.Header.Set("Authorization", s.names["owner"])
		s.handler.ServeHTTP(w, r)
	}
	query := func(hub, token string) int {
		return s.at(hub, "POST", "/devices/query?api-version=2021-04-12", s.names[token], strings.NewReader(`{"query":"SELECT * FROM devices"}`)).Code
	}
	held := waitingAnswers{begun: make(chan struct{}), read: make(chan struct{})}
	var all sync.WaitGroup
	for range most {
		all.Go(func() { export(held.writer()) })
		<-held.begun
	}
	if code := query("hub.example.test", "owner"); code != http.StatusServiceUnavailable {
		t.Errorf("one more: %d", code)
	}
	if code := query("other.example.test", "other owner"); code != http.StatusOK {
		t.Errorf("of another hub: %d", code)
	}
	close(held.read)
	all.Wait()
	if code := query("hub.example.test", "owner"); code != http.StatusOK {
		t.Errorf("when they have been read: %d", code)
	}
}

// waitingAnswers are answers that nobody reads yet.
type waitingAnswers struct{ begun, read chan struct{} }

func (u waitingAnswers) writer() http.ResponseWriter { return waitingWriter{httptest.NewRecorder(), u} }

type waitingWriter struct {
	*httptest.ResponseRecorder
	of waitingAnswers
}

func (w waitingWriter) WriteHeader(status int) {
	w.of.begun <- struct{}{}
	<-w.of.read
	w.ResponseRecorder.WriteHeader(status)
}
