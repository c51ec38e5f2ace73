package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/query"
	"github.com/signet-iot/signet/registry"
)

const (
	// defaultPage is how many twins a page has when it is not said: as in Azure.
	defaultPage = 100
	// maxToken bounds a continuation token: two IDs, a count and a hash.
	maxToken = 1024
	// maxPages is how many pages of twins of a hub are in memory at a time, from the
	// query until the caller has read it: each of 8 MiB at most, and twice that as JSON.
	maxPages = 16
	// maxAnswered is the JSON of a page, in bytes: with the item that goes beyond it, it
	// is within what a client reads. maxItem is that of one item with all that is
	// selected of a twin, which can be told sixty times.
	maxAnswered, maxItem = 8 << 20, 4 << 20
	// maxQueryBody is for a query of the longest, with escapes.
	maxQueryBody = 256 << 10
)

// continuation is what a token holds: where a page begins. It is no secret, and
// worth nothing beyond what its bearer may ask.
type continuation struct {
	DeviceID string `json:"d"`
	ModuleID string `json:"m,omitempty"`
	Left     int    `json:"n,omitempty"` // of SELECT TOP
	Query    string `json:"q"`           // fingerprint of the query
}

func fingerprint(query string) string {
	sum := sha256.Sum256([]byte(query))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// page takes one of the hub's places for a page in memory; leave must be called.
func (c *call) page() (leave func(), err error) {
	leave, ok := c.place(&c.pages, maxPages)
	if !ok {
		return nil, signet.Refuse(signet.Unavailable, "%d queries and exports of the hub are under way.", maxPages).
			FixBy("Read their answers, then try again.")
	}
	return leave, nil
}

// place takes one of so many places that each hub has, if one is free; leave must then
// be called.
func (c *call) place(hubs *sync.Map, most int) (leave func(), ok bool) {
	of, _ := hubs.LoadOrStore(c.hub.Name, make(chan struct{}, most))
	places := of.(chan struct{})
	select {
	case places <- struct{}{}:
		return func() { <-places }, true
	default:
		return nil, false
	}
}

// POST /devices/query finds twins, a page at a time: x-ms-max-item-count says how
// many, x-ms-continuation goes on behind a page. A page can be shorter than that,
// and empty, while there is a token for the next.
func (c *call) queryDevices() error {
	var body struct {
		Query string `json:"query"`
	}
	if err := c.read(maxQueryBody, &body); err != nil {
		return err
	}
	q, err := query.Parse(body.Query)
	if err != nil {
		return err
	}
	if q.Aggregates() {
		return c.answerGroups(q)
	}
	limit, err := c.pageSize()
	if err != nil {
		return err
	}
	leave, err := c.page()
	if err != nil {
		return err
	}
	defer leave()
	from := continuation{Left: q.Top, Query: fingerprint(body.Query)}
	if token := c.r.Header.Get("X-Ms-Continuation"); token != "" {
		if from, err = readContinuation(token, body.Query); err != nil {
			return err
		}
		if q.Top > 0 {
			from.Left = max(1, min(from.Left, q.Top))
		}
	}
	if q.Top > 0 {
		limit = min(limit, from.Left)
	}
	page, err := c.Registry.Find(c.r.Context(), c.hub.Name, q, registry.Key{DeviceID: from.DeviceID, ModuleID: from.ModuleID}, limit)
	if err != nil {
		return err
	}
	items := make([]json.RawMessage, 0, len(page.Records))
	for bytes, n := 0, 0; n < len(page.Records); n++ {
		r := &page.Records[n]
		if bytes > maxAnswered {
			last := &page.Records[n-1].Identity
			page.More, page.Next = true, registry.Key{DeviceID: last.DeviceID, ModuleID: last.ModuleID}
			break
		}
		one, err := item(q, r)
		if err != nil {
			return err
		}
		items, bytes = append(items, one), bytes+len(one)
	}
	left := from.Left - len(items)
	if page.More && (q.Top == 0 || left > 0) {
		next := continuation{page.Next.DeviceID, page.Next.ModuleID, max(0, left), from.Query}
		text, err := json.Marshal(next)
		if err != nil {
			return err
		}
		c.w.Header()["x-ms-continuation"] = []string{base64.RawURLEncoding.EncodeToString(text)}
	}
	kind := "Twin"
	if len(q.Columns) > 0 {
		kind = "Raw"
	}
	c.w.Header()["x-ms-item-type"] = []string{kind}
	return c.answer(http.StatusOK, items)
}

func (c *call) pageSize() (int, error) {
	text := c.r.Header.Get("X-Ms-Max-Item-Count")
	if text == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, signet.Refuse(signet.RequestMalformed, "x-ms-max-item-count should be a whole number from 1, not %q.", signet.Clip(text)).At("x-ms-max-item-count", "1 or more", text)
	}
	return min(n, registry.MaxPage), nil
}

func readContinuation(token, query string) (continuation, error) {
	var from continuation
	text, err := base64.RawURLEncoding.DecodeString(token)
	if len(token) > maxToken || err != nil || json.Unmarshal(text, &from) != nil || from.Query != fingerprint(query) {
		return from, signet.Refuse(signet.RequestMalformed, "The token in x-ms-continuation is not one that this query was answered with.").
			FixBy("Send the token back as it came, with the same query; without one, the answer begins anew.")
	}
	return from, nil
}

// item writes what a query selects of one twin.
func item(q *query.Query, r *registry.Record) (json.RawMessage, error) {
	state := disconnected
	if r.Activity.Connected {
		state = connected
	}
	whole := newTwinJSON(r, state)
	if len(q.Columns) == 0 {
		return encode(whole)
	}
	whole.ConnectionStateUpdatedTime = azureTime(r.Activity.ConnectionUpdated)
	twin, err := encode(whole)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(twin))
	d.UseNumber()
	var document map[string]any
	if err := d.Decode(&document); err != nil {
		return nil, err
	}
	selected, bytes := map[string]json.RawMessage{}, 0
	for _, column := range q.Columns {
		var v any = document
		there := true
		for _, name := range column.Path.Names() {
			o, _ := v.(map[string]any)
			if v, there = o[name]; !there {
				break
			}
		}
		if !there { // what is undefined is left out
			continue
		}
		text, err := encode(v)
		if err != nil {
			return nil, err
		}
		if bytes += len(text); bytes > maxItem {
			return nil, signet.Refuse(signet.LimitQuery, "More than %d bytes are selected of %q.", maxItem, r.Identity.Name()).FixBy("Select each part of a twin once.")
		}
		selected[column.Name] = text
	}
	return encode(selected)
}

// answerGroups answers a query with aggregates: all of it at once.
func (c *call) answerGroups(q *query.Query) error {
	groups, err := c.Registry.Aggregate(c.r.Context(), c.hub.Name, q)
	if err != nil {
		return err
	}
	if q.Top > 0 {
		groups = groups[:min(q.Top, len(groups))]
	}
	items := make([]map[string]any, len(groups))
	for n, g := range groups {
		items[n] = map[string]any{}
		values := g.Values
		for _, column := range q.Columns {
			v := g.Value
			if column.Aggregate != "" {
				v, values = values[0], values[1:]
			}
			if v != query.Undefined {
				items[n][column.Name] = v
			}
		}
	}
	c.w.Header()["x-ms-item-type"] = []string{"Raw"}
	return c.answer(http.StatusOK, items)
}

// connectionState of an identity, now.
func (c *call) connectionState(i *signet.Identity) string {
	if c.Hub.Connected(i.Hub, i.DeviceID, i.ModuleID) {
		return connected
	}
	return disconnected
}

const (
	connected    = "Connected"
	disconnected = "Disconnected"
)
