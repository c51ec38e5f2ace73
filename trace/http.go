package trace

import (
	"encoding/json"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// What is shown. The JSON tags are the form of ?format=json.
type (
	familyView struct {
		Family string      `json:"family"`
		Recent []traceView `json:"recent"`
		Slow   []traceView `json:"slow"`
		Failed []traceView `json:"failed"`
	}
	traceView struct {
		Title   string      `json:"title"`
		Start   time.Time   `json:"start"`
		Seconds float64     `json:"seconds"` // until it was answered, or until now
		Living  bool        `json:"living"`
		Error   string      `json:"error,omitempty"`
		Events  []eventView `json:"events"`
		LeftOut int         `json:"leftOut,omitempty"` // events beyond the bound
	}
	eventView struct {
		Seconds float64 `json:"seconds"` // after the start
		What    string  `json:"what"`
	}
)

// ServeHTTP shows the traces: a page, or JSON with ?format=json; of one family
// with ?family=NAME.
func (t *Traces) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	views := t.view(r.FormValue("family"))
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.FormValue("format") == "json" {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		json.NewEncoder(w).Encode(map[string]any{"families": views})
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	page.Execute(w, views)
}

func (t *Traces) view(only string) []familyView {
	views := []familyView{}
	if t == nil {
		return views
	}
	// The rings are copied under the lock, the texts are made without it.
	var held [][3][]*Trace
	t.mu.Lock()
	for _, name := range t.names {
		if only != "" && name != only {
			continue
		}
		f := t.families[name]
		views = append(views, familyView{Family: name})
		held = append(held, [3][]*Trace{f.recent.newestFirst(), f.slow.newestFirst(), f.failed.newestFirst()})
	}
	t.mu.Unlock()
	for i := range views {
		v := &views[i]
		for j, list := range []*[]traceView{&v.Recent, &v.Slow, &v.Failed} {
			*list = make([]traceView, len(held[i][j]))
			for k, tr := range held[i][j] {
				(*list)[k] = tr.view()
			}
		}
	}
	return views
}

func (tr *Trace) view() traceView {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	v := traceView{
		Title: tr.title, Start: tr.start.UTC(), Seconds: tr.answered.Seconds(),
		Living: tr.finished == 0, Error: tr.err, Events: []eventView{},
	}
	if tr.answered == 0 {
		v.Seconds = time.Since(tr.start).Seconds()
	}
	for line := range strings.Lines(string(tr.text)) {
		at, what, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		µs, _ := strconv.ParseInt(at, 10, 64)
		v.Events = append(v.Events, eventView{float64(µs) / 1e6, what})
	}
	v.LeftOut = tr.events - len(v.Events)
	return v
}

var page = template.Must(template.New("traces").Funcs(template.FuncMap{
	"ms": func(seconds float64) string { return strconv.FormatFloat(seconds*1000, 'f', 3, 64) + " ms" },
}).Parse(`<!doctype html>
<meta charset="utf-8"><title>traces</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em }
summary { cursor: pointer } summary.failed { color: #a00 }
td { padding: 0 1em 0 0; vertical-align: top; font-family: monospace; white-space: pre-wrap }
td:first-child { text-align: right; white-space: nowrap; color: #666 }
</style>
<h1>Traces</h1>
{{- define "list"}}
{{- range .}}
<details><summary{{if .Error}} class="failed"{{end}}>{{.Start.Format "2006-01-02 15:04:05.000Z07:00"}} · {{.Title}} · {{ms .Seconds}}{{if .Living}} · living{{end}}{{with .Error}} · {{.}}{{end}}</summary>
<table>{{range .Events}}<tr><td>{{ms .Seconds}}<td>{{.What}}{{end}}{{with .LeftOut}}<tr><td><td>{{.}} more events{{end}}</table></details>
{{- else}}<p>none{{end}}
{{- end}}
{{range .}}<h2>{{.Family}}</h2>
<h3>failed</h3>{{template "list" .Failed}}
<h3>slow</h3>{{template "list" .Slow}}
<h3>recent</h3>{{template "list" .Recent}}
{{else}}<p>Nothing yet.{{end}}
`))
