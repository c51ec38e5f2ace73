package trace

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func get(t *testing.T, traces *Traces, query string) string {
	t.Helper()
	w := httptest.NewRecorder()
	traces.ServeHTTP(w, httptest.NewRequest("GET", "/debug/traces"+query, nil))
	if w.Code != 200 {
		t.Fatalf("status %d", w.Code)
	}
	return w.Body.String()
}

func decode(t *testing.T, traces *Traces, query string) []familyView {
	t.Helper()
	var body struct{ Families []familyView }
	if err := json.Unmarshal([]byte(get(t, traces, query)), &body); err != nil {
		t.Fatal(err)
	}
	return body.Families
}

// A life is told with its times; slow is what was waited for, not how long the
// connection lasted.
func TestStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traces := New()
		tr := traces.Start("mqtt", "192.0.2.7:4711")
		time.Sleep(250 * time.Millisecond)
		tr.Event("handshake", slog.String("version", "TLS 1.3"), slog.Int("certificates", 3), slog.String("sni", "a\nb"))
		if v := decode(t, traces, "?format=json")[0].Recent[0]; !v.Living || v.Seconds != 0.25 {
			t.Errorf("a living trace is shown as %+v", v)
		}
		tr.Answered()
		time.Sleep(time.Hour)
		tr.Finish(errors.New("session.closed: gone"))
		tr.Finish(errors.New("again"))

		slow := traces.Start("mqtt", "192.0.2.8:1")
		slow.About("device-1")
		time.Sleep(2 * time.Second)
		slow.Finish(nil)
		traces.Start("service", "GET /devices").Finish(nil)

		families := decode(t, traces, "?format=json")
		if len(families) != 2 || families[0].Family != "mqtt" || families[1].Family != "service" {
			t.Fatalf("families: %+v", families)
		}
		f := families[0]
		if len(f.Recent) != 2 || len(f.Slow) != 1 || len(f.Failed) != 1 {
			t.Fatalf("recent, slow, failed: %d, %d, %d", len(f.Recent), len(f.Slow), len(f.Failed))
		}
		if f.Slow[0].Title != "192.0.2.8:1 device-1" || f.Slow[0].Seconds != 2 {
			t.Errorf("slow is %+v", f.Slow[0])
		}
		failed := f.Failed[0]
		want := []eventView{
			{0.25, `handshake version=TLS 1.3 certificates=3 sni="a\nb"`},
			{3600.25, "session.closed: gone"},
		}
		if fmt.Sprint(failed.Events) != fmt.Sprint(want) || failed.Living || failed.Error != "session.closed: gone" {
			t.Errorf("failed is %+v", failed)
		}
		if only := decode(t, traces, "?format=json&family=service"); len(only) != 1 || only[0].Family != "service" {
			t.Errorf("one family: %+v", only)
		}
	})
}

// What lives on unseen holds no text; what was slow keeps it, and all may fail.
func TestUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traces := New()
		fast, slow := traces.Start("mqtt", "fast"), traces.Start("mqtt", "slow")
		fast.Event("handshake")
		slow.Event("handshake")
		fast.Answered()
		for range recentTraces {
			traces.Start("mqtt", "another")
		}
		time.Sleep(slowAfter)
		slow.Answered()
		if fast.text != nil || slow.text == nil {
			t.Errorf("%q and %q are held", fast.text, slow.text)
		}
		fast.Finish(errors.New("lost"))
		if v := decode(t, traces, "?format=json")[0].Failed[0]; len(v.Events) != 1 || v.Events[0].What != "lost" || v.LeftOut != 1 {
			t.Errorf("what has failed is shown as %+v", v)
		}
	})
}

func TestBounds(t *testing.T) {
	traces := New()
	for i := range 10 * recentTraces {
		tr := traces.Start("mqtt", fmt.Sprint(i))
		for range 2 * maxEvents {
			tr.Event(strings.Repeat("x", i))
		}
		tr.Event("", slog.String("long", strings.Repeat("é", 1<<14)))
		if len(tr.text) > maxText {
			t.Fatalf("a trace of %d bytes", len(tr.text))
		}
		tr.Finish(errors.New(strings.Repeat("y", 1<<14)))
	}
	f := decode(t, traces, "?format=json")[0]
	if len(f.Recent) != recentTraces || len(f.Failed) != failedTraces {
		t.Errorf("kept %d recent and %d failed", len(f.Recent), len(f.Failed))
	}
	if first, last := f.Recent[0].Title, f.Recent[recentTraces-1].Title; first != "639" || last != "576" {
		t.Errorf("the recent are %s to %s", first, last)
	}
	for _, v := range f.Recent {
		if len(v.Events) > maxEvents || v.LeftOut == 0 {
			t.Fatalf("%d events, %d left out", len(v.Events), v.LeftOut)
		}
	}
	for i := range 2 * maxFamilies {
		traces.Start(fmt.Sprint("family", i), "").Finish(nil)
	}
	if n := len(traces.families); n != maxFamilies {
		t.Errorf("%d families", n)
	}
}

// What a client sent cannot become markup.
func TestPageEscapes(t *testing.T) {
	traces := New()
	tr := traces.Start("mqtt", `<script>alert("title")</script>`)
	tr.Event(`<img src=x onerror=alert(1)>`)
	tr.Finish(errors.New(`<b>`))
	body := get(t, traces, "")
	for _, bad := range []string{"<script", "<img", "<b>"} {
		if strings.Contains(body, bad) {
			t.Errorf("the page holds %s", bad)
		}
	}
	if !strings.Contains(body, "&lt;script&gt;") {
		t.Error("the title is not shown")
	}
}

// Nothing is kept by nil, and nothing breaks.
func TestNil(t *testing.T) {
	var traces *Traces
	tr := traces.Start("mqtt", "x")
	tr.About("z")
	tr.Event("y")
	tr.Answered()
	tr.Finish(nil)
	if !strings.Contains(get(t, traces, ""), "Nothing yet") {
		t.Error("a page of nothing does not say so")
	}
}

func TestConcurrent(t *testing.T) {
	traces := New()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				tr := traces.Start("mqtt", fmt.Sprint(i, j))
				wg.Go(func() { tr.Event("aside") })
				tr.Event("event")
				tr.Finish(nil)
				if j%50 == 0 {
					get(t, traces, "")
				}
			}
		})
	}
	wg.Wait()
	if n := len(decode(t, traces, "?format=json")[0].Recent); n != recentTraces {
		t.Errorf("%d recent", n)
	}
}

func BenchmarkTrace(b *testing.B) {
	traces := New()
	b.ReportAllocs()
	for b.Loop() {
		tr := traces.Start("mqtt", "192.0.2.7:4711")
		for range 6 {
			tr.Event("handshake", slog.String("version", "TLS 1.3"), slog.Int("certificates", 3))
		}
		tr.Finish(nil)
	}
}
