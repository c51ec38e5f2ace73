package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/query"
	"github.com/signet-iot/signet/registry"
)

// A query is carried out in slices: short statements, each over the next few
// hundred or thousand identities in the order of keys. A slice holds one of a few
// places, and who waits for one is served in turn; so a query of a million
// identities keeps neither writers, nor the readers of a connect, nor another
// query waiting for longer than a slice takes.
const (
	firstSlice = 128
	maxSlice   = 8192
	// sliceTime is what a slice should take: the next one is larger or smaller.
	sliceTime = 50 * time.Millisecond
	// maxSliceTime bounds the one whose twins are all as large as they may be.
	maxSliceTime = 10 * time.Second
	// pagePatience bounds a page: it ends with what there is.
	pagePatience = 2 * time.Second
	// pageBytes bounds the twins of a page: forty of the largest.
	pageBytes = 8 << 20
	// aggregatePatience bounds an aggregate, within the minute that a request has.
	aggregatePatience = 45 * time.Second
	// probe is how much of each way is looked at to find the shortest: two slices.
	probe = 256
	// maxWays is how many ways are counted.
	maxWays = 8
	// maxKeys is how many identities a slice looks up one by one.
	maxKeys = 256
)

// scanPlaces is how many slices run at a time: half of the processors, so that the
// other half is for devices.
func scanPlaces() int { return min(4, max(1, runtime.GOMAXPROCS(0)/2)) }

const recordColumns = `i.hub, i.device_id, i.module_id, i.generation_id, i.etag, i.status, i.status_reason, i.status_updated, i.created,
	i.auth_type, i.primary_key, i.secondary_key, i.primary_thumbprint, i.secondary_thumbprint, i.edge_device,
	COALESCE(t.version, 0), COALESCE(t.etag, ''), t.tags, t.desired_version, t.desired, t.desired_metadata,
	t.reported_version, t.reported, t.reported_metadata, a.connected, a.connection_updated, a.last_active, ` + waitingColumn

func scanFound(rows *sql.Rows, r *registry.Record) error {
	var statusUpdated, created, edge int64
	var desired, reported, connected, updated, active sql.NullInt64
	i, t, a := &r.Identity, &r.Twin, &r.Activity
	err := rows.Scan(&i.Hub, &i.DeviceID, &i.ModuleID, &i.GenerationID, &i.ETag, (*string)(&i.Status), &i.StatusReason,
		&statusUpdated, &created, (*string)(&i.Auth.Type), &i.Auth.PrimaryKey, &i.Auth.SecondaryKey,
		&i.Auth.PrimaryThumbprint, &i.Auth.SecondaryThumbprint, &edge,
		&t.Version, &t.ETag, (*[]byte)(&t.Tags), &desired, (*[]byte)(&t.Desired.Values), (*[]byte)(&t.Desired.Metadata),
		&reported, (*[]byte)(&t.Reported.Values), (*[]byte)(&t.Reported.Metadata), &connected, &updated, &active, &r.Waiting)
	i.StatusUpdatedTime, i.CreatedTime, i.EdgeDevice = moment(statusUpdated), moment(created), edge != 0
	t.Hub, t.DeviceID, t.ModuleID, t.GenerationID = i.Hub, i.DeviceID, i.ModuleID, i.GenerationID
	t.Desired.Version, t.Reported.Version = desired.Int64, reported.Int64
	a.Hub, a.DeviceID, a.ModuleID, a.GenerationID = i.Hub, i.DeviceID, i.ModuleID, i.GenerationID
	if a.Connected = connected.Int64 == 1; connected.Valid {
		a.ConnectionUpdated, a.LastActive = moment(updated.Int64), moment(active.Int64)
	}
	return err
}

// errFull ends the reading of a page that is full.
var errFull = errors.New("store: the page is full")

// Find reads up to limit of the records that a query finds, behind a key.
func (s *Store) Find(ctx context.Context, hub string, q *query.Query, after registry.Key, limit int) (registry.Page, error) {
	var page registry.Page
	if !findable(hub, after.DeviceID, after.ModuleID) || limit < 1 {
		return page, nil
	}
	w, err := s.walk(ctx, hub, q, after)
	if err != nil {
		return page, err
	}
	bytes := 0
	for begun := time.Now(); ; {
		last, err := w.slice(ctx, func(ctx context.Context, c *compiler, where string) error {
			c.twin, c.activity = true, true
			// The limit is no argument: bound to one, among so many, SQLite would prepare
			// the statement a second time.
			return c.each(ctx, func(rows *sql.Rows) error {
				if len(page.Records) == limit || bytes >= s.pageBytes {
					return errFull // there is one more
				}
				var r registry.Record
				err := scanFound(rows, &r)
				t := &r.Twin
				bytes += len(t.Tags) + len(t.Desired.Values) + len(t.Desired.Metadata) + len(t.Reported.Values) + len(t.Reported.Metadata)
				page.Records = append(page.Records, r)
				return err
			}, `SELECT `+recordColumns+w.from(c)+where+` ORDER BY i.device_id, i.module_id LIMIT `+strconv.Itoa(limit+1-len(page.Records)))
		})
		switch {
		case errors.Is(err, errFull):
			final := &page.Records[len(page.Records)-1].Identity
			page.More, page.Next = true, registry.Key{DeviceID: final.DeviceID, ModuleID: final.ModuleID}
			return page, nil
		case err != nil || last:
			return page, err
		case time.Since(begun) > s.pagePatience:
			page.More, page.Next = true, w.after
			return page, nil
		}
	}
}

// A walk goes through the identities that can be what a query looks for.
type walk struct {
	store *Store
	hub   string
	query *query.Query
	way   way
	ids   []string // where the way is a list: those of it that are still to be looked at

	after     registry.Key // what has been looked at
	including bool         // the key after is still to be looked at itself
	least     string       // device IDs from here
	most      string       // and up to here, when bounded
	bounded   bool
	size      int // of the next slice
}

// A way is a table that leads to identities in the order of their keys; no table
// is all identities, one after the other, or those of a list.
type way struct {
	table       string
	path, value string // of tags
	flag        string // a condition of a partial index
}

// walk finds the shortest way to what a query looks for. Whatever the way, the
// whole condition is asked of what lies on it.
func (s *Store) walk(ctx context.Context, hub string, q *query.Query, after registry.Key) (*walk, error) {
	w := &walk{store: s, hub: hub, query: q, after: after, size: firstSlice}
	var ways []way
	for _, e := range conjuncts(q.Where) {
		ways = append(ways, w.narrow(e)...)
	}
	if w.least > w.after.DeviceID {
		w.after, w.including = registry.Key{DeviceID: w.least}, true
	}
	switch {
	case w.ids != nil:
		slices.Sort(w.ids)
		w.ids = slices.Compact(w.ids)
		n, _ := slices.BinarySearch(w.ids, w.after.DeviceID)
		w.ids = w.ids[n:]
	case len(ways) == 1:
		w.way = ways[0]
	case len(ways) > 1:
		fewest, furthest := probe+1, ""
		for _, candidate := range ways[:min(maxWays, len(ways))] {
			n, at, err := w.probe(ctx, candidate)
			if err != nil {
				return nil, err
			}
			if n < fewest || n == fewest && at > furthest {
				fewest, furthest, w.way = n, at, candidate
			}
		}
	}
	return w, nil
}

// conjuncts are the conditions that all must hold.
func conjuncts(e query.Expr) []query.Expr {
	switch e := e.(type) {
	case nil:
		return nil
	case *query.Logic:
		if !e.Or {
			var all []query.Expr
			for _, part := range e.All {
				all = append(all, conjuncts(part)...)
			}
			return all
		}
	}
	return []query.Expr{e}
}

// narrow takes from one condition what it says of device IDs, or a way.
func (w *walk) narrow(e query.Expr) []way {
	switch e := e.(type) {
	case *query.Call:
		if p, ok := e.X.(*query.Path); ok && e.Function == "STARTSWITH" && p.Field.Name == "deviceId" {
			w.notBefore(e.Text)
			w.upTo(e.Text + "\x7f") // behind every character of an ID
		}
	case *query.In:
		if p, ok := e.X.(*query.Path); ok && !e.Not && p.Field.Name == "deviceId" {
			ids := []string{}
			for _, l := range e.List {
				if id, ok := l.Value.(string); ok && (w.ids == nil || slices.Contains(w.ids, id)) {
					ids = append(ids, id)
				}
			}
			w.ids = ids
		}
	case *query.Comparison:
		p, ok := e.L.(*query.Path)
		l, literal := e.R.(*query.Literal)
		op := e.Op
		if !ok {
			p, ok = e.R.(*query.Path)
			l, literal = e.L.(*query.Literal)
			if turned := map[string]string{"<": ">", "<=": ">=", ">": "<", ">=": "<="}[op]; turned != "" {
				op = turned
			}
		}
		if !ok || !literal {
			return nil
		}
		return w.compared(p, op, l.Value)
	}
	return nil
}

func (w *walk) compared(p *query.Path, op string, v any) []way {
	s, isText := v.(string)
	switch {
	case p.Field.Name == "deviceId" && isText:
		if op == "=" || op == ">" || op == ">=" {
			w.notBefore(s)
		}
		if op == "=" || op == "<" || op == "<=" {
			w.upTo(s)
		}
	case op != "=":
	case p.Field.Name == "tags" && len(p.Keys) > 0:
		if path, value := tagKey(p.Keys, v); path != "" {
			return []way{{table: "twin_tag", path: path, value: value}}
		}
	case p.Field.Name == "connectionState" && s == "Connected":
		return []way{{table: "activity", flag: "connected = 1"}}
	case p.Field.Name == "status" && s == "disabled":
		return []way{{table: "identity", flag: "status = 'disabled'"}}
	}
	return nil
}

func (w *walk) notBefore(id string) { w.least = max(w.least, id) }

func (w *walk) upTo(id string) {
	if !w.bounded || id < w.most {
		w.most, w.bounded = id, true
	}
}

// on is the condition of a way, with its table as k.
func (w *walk) on(c *compiler, way way) string {
	where := ` WHERE k.hub = ` + c.textArg(w.hub)
	if way.flag != "" {
		where += ` AND k.` + way.flag
	}
	if way.path != "" {
		where += ` AND k.path = ` + c.textArg(way.path) + ` AND k.value = ` + c.textArg(way.value)
	}
	return where
}

// probe counts what lies next on a way, and says how far that leads: the way is the
// shorter, the fewer there are or the further they lead.
func (w *walk) probe(ctx context.Context, on way) (n int, at string, err error) {
	c := w.compiler()
	err = c.each(ctx, func(rows *sql.Rows) error { return rows.Scan(&n, &at) },
		`SELECT count(*), COALESCE(max(device_id), '') FROM (SELECT device_id FROM `+on.table+` k`+w.on(c, on)+w.behind(c, "k")+
			` ORDER BY k.device_id, k.module_id LIMIT `+c.arg(int64(probe))+`) AS few`)
	return n, at, err
}

func (w *walk) compiler() *compiler {
	return &compiler{engine: w.store.engine, tongue: w.store.engine.tongue(), used: map[string]bool{}, module: w.query.Modules, source: ` FROM identity i`}
}

// from is the FROM of a slice; what needs it has been compiled before.
func (w *walk) from(c *compiler) string {
	from := c.source
	if c.twin {
		from += c.tongue.twin
	}
	if c.activity {
		from += c.tongue.activity
	}
	return from + c.tongue.documents(slices.Sorted(maps.Keys(c.used)))
}

// slice has f read the part of the walk that is next, by the WHERE that it is
// given, and says whether it was the last.
func (w *walk) slice(ctx context.Context, f func(ctx context.Context, c *compiler, where string) error) (last bool, err error) {
	select {
	case w.store.scans <- struct{}{}:
		defer func() { <-w.store.scans }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, maxSliceTime)
	defer cancel()
	begun := time.Now()
	c := w.compiler()
	var where string
	if w.ids == nil && w.way.table == "" {
		where, last, err = w.along(ctx, c)
	} else {
		where, last, err = w.oneByOne(ctx, c)
	}
	if err != nil || where == "" {
		return last, err
	}
	where += ` AND ` + w.kind("i")
	if w.query.Where != nil {
		where += ` AND ` + c.condition(w.query.Where)
	}
	err = f(ctx, c, where)
	switch took := time.Since(begun); {
	case took > 2*sliceTime:
		w.size = max(firstSlice, w.size/2)
	case took < sliceTime/2:
		w.size = min(maxSlice, w.size*4)
	}
	return last, err
}

// kind tells devices from modules.
func (w *walk) kind(alias string) string {
	return alias + `.module_id ` + map[bool]string{false: "=", true: "<>"}[w.query.Modules] + ` ''`
}

// behind is the condition of what is still to be looked at. Of device IDs alone it
// says so twice: a planner understands no more.
func (w *walk) behind(c *compiler, alias string) string {
	id, module := c.textArg(w.after.DeviceID), c.textArg(w.after.ModuleID)
	var where string
	switch {
	case w.including:
		where = ` AND ` + alias + `.device_id >= ` + id
	case w.query.Modules:
		where = ` AND ` + alias + `.device_id >= ` + id + ` AND (` + alias + `.device_id, ` + alias + `.module_id) > (` + id + `, ` + module + `)`
	default:
		where = ` AND ` + alias + `.device_id > ` + id
	}
	if w.bounded {
		where += ` AND ` + alias + `.device_id <= ` + c.textArg(w.most)
	}
	return where
}

// along takes the next identities as they come.
func (w *walk) along(ctx context.Context, c *compiler) (where string, last bool, err error) {
	e, end := w.compiler(), registry.Key{}
	last = true
	err = e.each(ctx, func(rows *sql.Rows) error {
		last = false
		return rows.Scan(&end.DeviceID, &end.ModuleID)
	}, `SELECT k.device_id, k.module_id FROM identity k`+w.on(e, way{})+w.behind(e, "k")+
		` ORDER BY k.device_id, k.module_id LIMIT 1 OFFSET `+e.arg(int64(w.size-1)))
	if err != nil {
		return "", false, err
	}
	where = ` WHERE i.hub = ` + c.textArg(w.hub) + w.behind(c, "i")
	if !last {
		id, module := c.textArg(end.DeviceID), c.textArg(end.ModuleID)
		where += ` AND i.device_id <= ` + id
		if w.query.Modules {
			where += ` AND (i.device_id, i.module_id) <= (` + id + `, ` + module + `)`
		}
		w.after, w.including = end, false
	}
	return where, last, nil
}

// oneByOne takes the identities that a list names, or that the way leads to next;
// where is "" when it leads to none.
func (w *walk) oneByOne(ctx context.Context, c *compiler) (where string, last bool, err error) {
	after, including := w.after, w.including
	var ids []string
	if w.ids != nil {
		ids = w.ids[:min(maxKeys, len(w.ids))]
		w.ids = w.ids[len(ids):]
		last = len(w.ids) == 0
		if len(ids) > 0 {
			w.after, w.including = registry.Key{DeviceID: ids[len(ids)-1], ModuleID: "\x7f"}, false // behind its modules
		}
	} else {
		size, e := min(maxKeys, w.size), w.compiler()
		keys := 0
		err = e.each(ctx, func(rows *sql.Rows) error {
			err := rows.Scan(&w.after.DeviceID, &w.after.ModuleID)
			if keys++; len(ids) == 0 || ids[len(ids)-1] != w.after.DeviceID {
				ids = append(ids, w.after.DeviceID)
			}
			return err
		}, `SELECT k.device_id, k.module_id FROM `+w.way.table+` k`+w.on(e, w.way)+w.behind(e, "k")+` AND `+w.kind("k")+
			` ORDER BY k.device_id, k.module_id LIMIT `+strconv.Itoa(size))
		w.including, last = false, keys < size
	}
	if err != nil || len(ids) == 0 {
		return "", true, err
	}
	c.source, where = c.tongue.listed(c, w.hub, ids)
	if w.query.Modules {
		if ids[0] == after.DeviceID && !including {
			where += ` AND NOT (i.device_id = ` + c.textArg(ids[0]) + ` AND i.module_id <= ` + c.textArg(after.ModuleID) + `)`
		}
		where += ` AND NOT (i.device_id = ` + c.textArg(ids[len(ids)-1]) + ` AND i.module_id > ` + c.textArg(w.after.ModuleID) + `)`
	} else if ids[0] == after.DeviceID && !including {
		where += ` AND i.device_id <> ` + c.textArg(ids[0])
	}
	return where, last, nil
}

// Aggregate reads the groups of a query with aggregates: those of each slice, put
// together.
func (s *Store) Aggregate(ctx context.Context, hub string, q *query.Query) ([]registry.Group, error) {
	groups := map[groupKey][]sum{}
	if !findable(hub) {
		return nil, nil
	}
	w, err := s.walk(ctx, hub, q, registry.Key{})
	if err != nil {
		return nil, err
	}
	var aggregates []query.Column
	for _, column := range q.Columns {
		if column.Aggregate != "" {
			aggregates = append(aggregates, column)
		}
	}
	if q.GroupBy == nil {
		groups[groupKey{}] = make([]sum, len(aggregates))
	}
	for begun, last := time.Now(), false; !last; {
		if time.Since(begun) > s.aggregatePatience {
			return nil, signet.Refuse(signet.LimitQuery, "The query did not end within %v.", s.aggregatePatience)
		}
		last, err = w.slice(ctx, func(ctx context.Context, c *compiler, where string) error {
			selected := c.group(q.GroupBy)
			for _, column := range aggregates {
				selected += c.sums(column)
			}
			return c.each(ctx, func(rows *sql.Rows) error { return gather(rows, groups, len(aggregates)) },
				`SELECT `+selected+w.from(c)+where+` GROUP BY 1, 2, 3`)
		})
		if err != nil {
			return nil, err
		}
		if len(groups) > registry.MaxGroups {
			return nil, signet.Refuse(signet.LimitQuery, "The query has more than %d groups.", registry.MaxGroups)
		}
	}
	keys := make([]groupKey, 0, len(groups))
	for key := range groups {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b groupKey) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.number, b.number), cmp.Compare(a.text, b.text))
	})
	answer := make([]registry.Group, len(keys))
	for n, key := range keys {
		answer[n].Value = key.value()
		for m, column := range aggregates {
			answer[n].Values = append(answer[n].Values, groups[key][m].value(column.Aggregate))
		}
	}
	return answer, nil
}

// A groupKey is the type and value that a group has in common, in the order of
// types.
type groupKey struct {
	kind   int // 0 undefined, object or array; 1 null; 2 boolean; 3 number; 4 text
	number float64
	text   string
}

func (k groupKey) value() any {
	switch k.kind {
	case 1:
		return nil
	case 2:
		return k.number != 0
	case 3:
		return k.number
	case 4:
		return k.text
	}
	return query.Undefined
}

// A sum is what is kept of the numbers of a group.
type sum struct {
	rows, numbers   int64
	total, min, max float64
}

func (s sum) value(a query.Aggregate) any {
	switch {
	case a == query.Count:
		return float64(s.rows)
	case s.numbers == 0:
		return query.Undefined
	case a == query.Sum:
		return s.total
	case a == query.Avg:
		return s.total / float64(s.numbers)
	case a == query.Min:
		return s.min
	}
	return s.max
}

// group selects type and value of what is grouped by.
func (c *compiler) group(p *query.Path) string {
	v := never
	if p != nil {
		v = c.path(p)
	}
	number, text := v.number, v.text
	if v.truth != "" {
		truth := `CASE WHEN ` + v.truth + ` THEN 1 WHEN NOT ` + v.truth + ` THEN 0 END`
		if number != "" {
			number = `COALESCE(` + number + `, ` + truth + `)`
		} else {
			number = truth
		}
	}
	or := func(sql, otherwise string) string {
		if sql == "" {
			return otherwise
		}
		return sql
	}
	return `CASE WHEN ` + v.is("null") + ` THEN 1 WHEN ` + v.is("bool") + ` THEN 2 WHEN ` + v.is("number") + ` THEN 3 WHEN ` + v.is("string") + ` THEN 4 ELSE 0 END, ` +
		`CAST(` + or(number, "NULL") + ` AS DOUBLE PRECISION), CAST(` + or(text, "NULL") + ` AS TEXT)` + c.tongue.bytewise
}

// sums selects what is kept of one column.
func (c *compiler) sums(column query.Column) string {
	number := "CAST(NULL AS DOUBLE PRECISION)"
	if column.Path != nil {
		if v := c.path(column.Path); v.number != "" {
			number = v.number
		}
	}
	// A sum of a million of these is still a double.
	number = `CASE WHEN abs(` + number + `) <= 1e150 THEN ` + number + ` END`
	return `, count(*), count(` + number + `), sum(` + number + `), min(` + number + `), max(` + number + `)`
}

// gather adds one row of a slice to the groups.
func gather(rows *sql.Rows, groups map[groupKey][]sum, columns int) error {
	var key groupKey
	var number sql.NullFloat64
	var text sql.NullString
	sums := make([]sum, columns)
	into := []any{&key.kind, &number, &text}
	totals := make([][3]sql.NullFloat64, columns)
	for n := range sums {
		into = append(into, &sums[n].rows, &sums[n].numbers, &totals[n][0], &totals[n][1], &totals[n][2])
	}
	if err := rows.Scan(into...); err != nil {
		return err
	}
	key.number, key.text = number.Float64+0, text.String
	of := groups[key]
	if of == nil {
		of = make([]sum, columns)
		groups[key] = of
	}
	for n, part := range sums {
		s := &of[n]
		s.rows += part.rows
		if part.numbers == 0 {
			continue
		}
		part.total, part.min, part.max = totals[n][0].Float64, totals[n][1].Float64, totals[n][2].Float64
		if s.numbers == 0 {
			s.min, s.max = part.min, part.max
		}
		s.numbers, s.total, s.min, s.max = s.numbers+part.numbers, s.total+part.total, min(s.min, part.min), max(s.max, part.max)
	}
	return nil
}
