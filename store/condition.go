package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signet-iot/signet/query"
)

// A condition becomes SQL whose every text and number is a parameter; nothing
// that a query says is ever part of the statement. SQL's NULL is what the
// language calls undefined, and goes through NOT, AND and OR in the same way.
//
// A value of JSON has a type that only the row knows. So an expression is
// compiled into one piece of SQL for each type: the piece is NULL where the
// value is of another. Two values are compared piece by piece, and at most one
// pair is of one type.
type value struct {
	number string // DOUBLE PRECISION; "" where a value can never be one
	text   string // TEXT, ordered by bytes
	truth  string // a boolean
	time   string // microseconds
	is     func(kind string) string
}

// never is a value that is always undefined.
var never = value{is: func(string) string { return "FALSE" }}

// nothing is SQL for an undefined condition.
const nothing = "CAST(NULL AS BOOLEAN)"

// static is a value whose type is known.
func static(kinds ...string) func(string) string {
	return func(kind string) string {
		if slices.Contains(kinds, kind) || kind == "defined" {
			return "TRUE"
		}
		return "FALSE"
	}
}

// compiler makes one statement.
type compiler struct {
	engine engine
	tongue tongue
	args   []any
	used   map[string]bool // documents that the statement needs
	// Whether it needs the twin or the activity at all: a million twins are counted
	// without looking each up.
	twin, activity bool
	module         bool   // it is about modules
	source         string // FROM: the identities i
}

// A tongue is how a database reads JSON.
type tongue struct {
	twin     string // joins the twin t of each identity i
	activity string // joins its activity a
	// listed gives the FROM and the WHERE of the identities i of some devices.
	listed   func(c *compiler, hub string, ids []string) (from, where string)
	bytewise string // after a text: order by bytes
	instr    string // the function that finds one text in another
	// documents joins the documents that are used to the rows; name is then
	// "doc." and the name, or column.
	documents func(used []string) string
	document  func(name string) string
	// member gives the pieces of what lies below a document.
	member func(c *compiler, document string, keys []string) value
}

// columns are the documents, each with what it is for a twin that was never
// written.
var documents = map[string]string{
	"tags":              `COALESCE(t.tags, '{}')`,
	"desired":           `COALESCE(t.desired, '{}')`,
	"desired_metadata":  `COALESCE(t.desired_metadata, '{"$lastUpdated":"0001-01-01T00:00:00Z"}')`,
	"reported":          `COALESCE(t.reported, '{}')`,
	"reported_metadata": `COALESCE(t.reported_metadata, '{"$lastUpdated":"0001-01-01T00:00:00Z"}')`,
}

// quoted is for what stands between quotation marks in a path or an array.
var quoted = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

var sqliteTongue = tongue{
	twin:     ` LEFT JOIN twin t ON t.hub = i.hub AND t.device_id = i.device_id AND t.module_id = i.module_id`,
	activity: ` LEFT JOIN activity a ON a.hub = i.hub AND a.device_id = i.device_id AND a.module_id = i.module_id`,
	listed: func(c *compiler, hub string, ids []string) (from, where string) {
		places := make([]string, len(ids))
		for n, id := range ids {
			places[n] = c.textArg(id)
		}
		return ` FROM identity i`, ` WHERE i.hub = ` + c.textArg(hub) + ` AND i.device_id IN (` + strings.Join(places, ", ") + `)`
	},
	instr:     "instr",
	documents: func([]string) string { return "" },
	document:  func(name string) string { return documents[name] },
	member: func(c *compiler, document string, keys []string) value {
		var path strings.Builder
		path.WriteByte('$')
		for _, key := range keys {
			path.WriteString(`."` + quoted.Replace(key) + `"`)
		}
		at := c.arg(path.String())
		kind, v := `json_type(`+document+`, `+at+`)`, `json_extract(`+document+`, `+at+`)`
		kinds := map[string]string{"null": `('null')`, "bool": `('true', 'false')`, "number": `('integer', 'real')`, "string": `('text')`,
			"object": `('object')`, "array": `('array')`}
		is := func(k string) string {
			if k == "defined" {
				return `(` + kind + ` IS NOT NULL)`
			}
			return `COALESCE(` + kind + ` IN ` + kinds[k] + `, FALSE)`
		}
		return value{
			number: `CASE WHEN ` + kind + ` IN ` + kinds["number"] + ` THEN CAST(` + v + ` AS DOUBLE PRECISION) END`,
			text:   `CASE WHEN ` + kind + ` = 'text' THEN ` + v + ` END`,
			truth:  `CASE ` + kind + ` WHEN 'true' THEN TRUE WHEN 'false' THEN FALSE END`,
			is:     is,
		}
	},
}

var postgresTongue = tongue{
	// LIMIT 1 has the planner look each up by its whole key: without statistics, it
	// takes the hub for enough.
	twin:     ` LEFT JOIN LATERAL (SELECT * FROM twin WHERE twin.hub = i.hub AND twin.device_id = i.device_id AND twin.module_id = i.module_id LIMIT 1) t ON TRUE`,
	activity: ` LEFT JOIN LATERAL (SELECT * FROM activity WHERE activity.hub = i.hub AND activity.device_id = i.device_id AND activity.module_id = i.module_id LIMIT 1) a ON TRUE`,
	// OFFSET 0 does the same here: it would read the hub, and look at each whether it
	// is listed.
	listed: func(c *compiler, hub string, ids []string) (from, where string) {
		var list strings.Builder
		for _, id := range ids {
			list.WriteString(`,"` + quoted.Replace(id) + `"`)
		}
		return ` FROM unnest(CAST(` + c.textArg("{"+list.String()[1:]+"}") + ` AS TEXT[])) k (id) CROSS JOIN LATERAL
			(SELECT * FROM identity WHERE identity.hub = ` + c.textArg(hub) + ` AND identity.device_id = k.id COLLATE "C" OFFSET 0) i`, ` WHERE TRUE`
	},
	bytewise: ` COLLATE "C"`,
	instr:    "strpos",
	// OFFSET 0 keeps the planner from reading a document anew for each of its uses.
	documents: func(used []string) string {
		if len(used) == 0 {
			return ""
		}
		var casts []string
		for _, name := range used {
			casts = append(casts, `CAST(`+documents[name]+` AS JSONB) AS `+name)
		}
		return ` CROSS JOIN LATERAL (SELECT ` + strings.Join(casts, ", ") + ` OFFSET 0) doc`
	},
	document: func(name string) string { return "doc." + name },
	member: func(c *compiler, document string, keys []string) value {
		v := document
		for _, key := range keys { // a text as key, so that no array is indexed
			v += ` -> ` + c.textArg(key)
		}
		v = `(` + v + `)`
		kind := `jsonb_typeof` + v
		is := func(k string) string {
			switch k {
			case "defined":
				return `(` + v + ` IS NOT NULL)`
			case "bool":
				k = "boolean"
			}
			return `COALESCE(` + kind + ` = '` + k + `', FALSE)`
		}
		return value{
			number: `CASE WHEN ` + kind + ` = 'number' THEN CAST(` + v + ` AS DOUBLE PRECISION) END`,
			text:   `CASE WHEN ` + kind + ` = 'string' THEN ` + v + ` #>> '{}' END`,
			truth:  `CASE WHEN ` + kind + ` = 'boolean' THEN CAST(` + v + ` AS BOOLEAN) END`,
			is:     is,
		}
	},
}

// arg gives what stands for an argument until the statement is finished.
func (c *compiler) arg(v any) string {
	n := slices.Index(c.args, v)
	if n < 0 {
		n = len(c.args)
		c.args = append(c.args, v)
	}
	return mark + strconv.Itoa(n) + mark
}

// mark is in no SQL and no name of ours.
const mark = "\x00"

// finish numbers the arguments that have come to be used: PostgreSQL cannot tell
// the type of one that is not.
func (c *compiler) finish(sql string) (string, []any) {
	var b strings.Builder
	var used []int
	for n, part := range strings.Split(sql, mark) {
		if n%2 == 0 {
			b.WriteString(part)
			continue
		}
		arg, _ := strconv.Atoi(part)
		place := slices.Index(used, arg)
		if place < 0 {
			place, used = len(used), append(used, arg)
		}
		b.WriteString("$" + strconv.Itoa(place+1))
	}
	args := make([]any, len(used))
	for n, arg := range used {
		args[n] = c.args[arg]
	}
	return b.String(), args
}

// each finishes a statement, runs it, and calls f for every row of the answer.
func (c *compiler) each(ctx context.Context, f func(*sql.Rows) error, statement string) error {
	text, args := c.finish(statement)
	rows, err := c.engine.scan(ctx, text, args)
	if err != nil {
		return err
	}
	return eachOf(rows, f)
}

// An argument is cast, so that PostgreSQL need not guess its type.
func (c *compiler) textArg(s string) string { return `CAST(` + c.arg(s) + ` AS TEXT)` }

// columns of the fields that are no documents.
var fieldColumns = map[string]string{
	"deviceId": `i.device_id`, "moduleId": `i.module_id`, "etag": `COALESCE(t.etag, i.generation_id)`, "deviceEtag": `i.etag`,
	"status": `i.status`, "statusReason": `NULLIF(i.status_reason, '')`, "statusUpdateTime": `i.status_updated`,
	"connectionState":                    `CASE WHEN a.connected = 1 THEN 'Connected' ELSE 'Disconnected' END`,
	"connectionStateUpdatedTime":         `COALESCE(a.connection_updated, -62135596800000000)`,
	"lastActivityTime":                   `COALESCE(a.last_active, -62135596800000000)`,
	"cloudToDeviceMessageCount":          waitingColumn,
	"authenticationType":                 `i.auth_type`,
	"x509Thumbprint.primaryThumbprint":   `NULLIF(i.primary_thumbprint, '')`,
	"x509Thumbprint.secondaryThumbprint": `NULLIF(i.secondary_thumbprint, '')`,
	"modelId":                            `''`,
	"version":                            `COALESCE(t.version, 2)`,
	"capabilities.iotEdge":               `(i.edge_device = 1)`,
}

// waitingColumn counts what waits for a device, as CountCommands does.
const waitingColumn = `(SELECT count(*) FROM command WHERE command.hub = i.hub AND command.device_id = i.device_id AND command.module_id = '' AND i.module_id = '')`

// path compiles a member of the twin.
func (c *compiler) path(p *query.Path) value {
	column := fieldColumns[p.Field.Name]
	c.twin = c.twin || p.Field.Kind == query.JSON || strings.Contains(column, "t.")
	c.activity = c.activity || strings.Contains(column, "a.")
	switch p.Field.Kind {
	case query.Text:
		return value{text: column, is: static("string")}
	case query.TextOrNone:
		if !c.module {
			return never
		}
		return value{text: column, is: static("string")}
	case query.TextOrNull:
		return value{text: column, is: func(kind string) string {
			switch kind {
			case "string":
				return `(` + column + ` IS NOT NULL)`
			case "null":
				return `(` + column + ` IS NULL)`
			}
			return static()(kind)
		}}
	case query.Number:
		return value{number: `CAST(` + column + ` AS DOUBLE PRECISION)`, is: static("number")}
	case query.Bool:
		return value{truth: column, is: static("bool")}
	case query.Time:
		return value{time: column, is: static("string")}
	case query.Object:
		return value{is: static("object")}
	case query.JSON:
		return c.document(p)
	}
	return never
}

// document compiles what lies in the tags or properties.
func (c *compiler) document(p *query.Path) value {
	name, keys := strings.TrimPrefix(p.Field.Name, "properties."), p.Keys
	if name != "tags" && len(keys) > 0 {
		switch keys[0] {
		case "$version":
			if len(keys) > 1 {
				return never
			}
			return value{number: `CAST(COALESCE(t.` + name + `_version, 1) AS DOUBLE PRECISION)`, is: static("number")}
		case "$metadata":
			name, keys = name+"_metadata", keys[1:]
		}
	}
	if len(keys) == 0 {
		return value{is: static("object")}
	}
	if !findable(keys...) { // no twin has such a name, and PostgreSQL cannot be asked
		return never
	}
	c.used[name] = true
	return c.tongue.member(c, c.tongue.document(name), keys)
}

// condition compiles what is true, false or undefined.
func (c *compiler) condition(e query.Expr) string {
	if truth := c.expr(e).truth; truth != "" {
		return truth
	}
	return nothing
}

func truth(sql string) value {
	return value{truth: sql, is: func(kind string) string {
		if kind == "bool" || kind == "defined" {
			return `((` + sql + `) IS NOT NULL)`
		}
		return "FALSE"
	}}
}

func (c *compiler) expr(e query.Expr) value {
	switch e := e.(type) {
	case *query.Literal:
		return c.literal(e.Value)
	case *query.Path:
		return c.path(e)
	case *query.Not:
		return truth(`(NOT ` + c.condition(e.X) + `)`)
	case *query.Logic:
		parts := make([]string, len(e.All))
		for n, part := range e.All {
			parts[n] = c.condition(part)
		}
		return truth(`(` + strings.Join(parts, map[bool]string{false: " AND ", true: " OR "}[e.Or]) + `)`)
	case *query.Comparison:
		return truth(c.compare(e.Op, c.expr(e.L), c.expr(e.R)))
	case *query.In:
		return truth(c.in(e))
	case *query.Arithmetic:
		return c.arithmetic(e)
	case *query.Call:
		return truth(c.call(e))
	}
	return never
}

func (c *compiler) literal(v any) value {
	switch v := v.(type) {
	case nil:
		return value{is: static("null")}
	case bool:
		return value{truth: strings.ToUpper(fmt.Sprint(v)), is: static("bool")}
	case float64:
		return value{number: `CAST(` + c.arg(v+0) + ` AS DOUBLE PRECISION)`, is: static("number")}
	case string:
		return value{text: c.textArg(v), is: static("string")}
	case time.Time:
		return value{time: `CAST(` + c.arg(micros(v)) + ` AS BIGINT)`, is: static("string")}
	}
	return never
}

// first gives the one of the pieces that is not NULL.
func first(pieces []string) string {
	switch len(pieces) {
	case 0:
		return nothing
	case 1:
		return pieces[0]
	}
	return `COALESCE(` + strings.Join(pieces, ", ") + `)`
}

func (c *compiler) compare(op string, l, r value) string {
	var pieces []string
	add := func(l, r, after string) {
		if l != "" && r != "" {
			pieces = append(pieces, `(`+l+after+` `+op+` `+r+after+`)`)
		}
	}
	add(l.number, r.number, "")
	add(collated(l.text), collated(r.text), c.tongue.bytewise)
	add(l.truth, r.truth, "")
	add(l.time, r.time, "")
	if lNull, rNull := l.is("null"), r.is("null"); (op == "=" || op == "!=") && lNull != "FALSE" && rNull != "FALSE" {
		pieces = append(pieces, `CASE WHEN `+lNull+` AND `+rNull+` THEN `+map[string]string{"=": "TRUE", "!=": "FALSE"}[op]+` END`)
	}
	return first(pieces)
}

// collated puts brackets around a text, so that what follows is about all of it.
func collated(text string) string {
	if text == "" {
		return ""
	}
	return `(` + text + `)`
}

// in compiles a list piece by piece: all texts of it in one, and so on.
func (c *compiler) in(e *query.In) string {
	x := c.expr(e.X)
	var numbers, texts, truths, times []string
	null := false
	for _, l := range e.List {
		v := c.literal(l.Value)
		switch {
		case v.number != "":
			numbers = append(numbers, v.number)
		case v.text != "":
			texts = append(texts, v.text)
		case v.truth != "":
			truths = append(truths, v.truth)
		case v.time != "":
			times = append(times, v.time)
		case l.Value == nil:
			null = true
		}
	}
	var pieces []string
	add := func(x, after string, list []string) {
		if x != "" && len(list) > 0 {
			pieces = append(pieces, `(`+x+after+` `+map[bool]string{false: "IN", true: "NOT IN"}[e.Not]+` (`+strings.Join(list, ", ")+`))`)
		}
	}
	add(x.number, "", numbers)
	add(collated(x.text), c.tongue.bytewise, texts)
	add(x.truth, "", truths)
	add(x.time, "", times)
	if isNull := x.is("null"); null && isNull != "FALSE" {
		pieces = append(pieces, `CASE WHEN `+isNull+` THEN `+map[bool]string{false: "TRUE", true: "FALSE"}[e.Not]+` END`)
	}
	return first(pieces)
}

// arithmetic keeps operands within bounds, in the same order as [query.Eval]:
// PostgreSQL fails where a result is no double, and SQLite does not.
func (c *compiler) arithmetic(e *query.Arithmetic) value {
	l, r := c.expr(e.L).number, c.expr(e.R).number
	if l == "" || r == "" {
		return never
	}
	fits := func(x string) string { return `((` + x + `) = 0 OR abs(` + x + `) BETWEEN 1e-150 AND 1e150)` }
	guard, result := fits(l)+` AND `+fits(r), `(`+l+`) `+e.Op+` (`+r+`)`
	switch e.Op {
	case "/":
		guard += ` AND (` + r + `) <> 0`
	case "%":
		whole := func(x string) string { return `abs(` + x + `) < 9007199254740992 AND floor(` + x + `) = (` + x + `)` }
		guard += ` AND ` + whole(l) + ` AND ` + whole(r) + ` AND (` + r + `) <> 0`
		result = `CAST(CAST(` + l + ` AS BIGINT) % CAST(` + r + ` AS BIGINT) AS DOUBLE PRECISION)`
	}
	number := `CASE WHEN ` + guard + ` THEN ` + result + ` END`
	return value{number: number, is: func(kind string) string {
		if kind == "number" || kind == "defined" {
			return `((` + number + `) IS NOT NULL)`
		}
		return "FALSE"
	}}
}

func (c *compiler) call(e *query.Call) string {
	x := c.expr(e.X)
	switch e.Function {
	case "STARTSWITH", "ENDSWITH", "CONTAINS":
		if x.text == "" {
			return nothing
		}
		text, part := `(`+x.text+`)`, c.textArg(e.Text)
		switch e.Function {
		case "STARTSWITH":
			return `(substr(` + text + `, 1, length(` + part + `))` + c.tongue.bytewise + ` = ` + part + `)`
		case "ENDSWITH":
			return `(length(` + text + `) >= length(` + part + `) AND substr(` + text + `, length(` + text + `) - length(` + part + `) + 1, length(` + part + `))` + c.tongue.bytewise + ` = ` + part + `)`
		}
		return `(` + c.tongue.instr + `(` + text + c.tongue.bytewise + `, ` + part + `) > 0)`
	case "IS_DEFINED":
		return x.is("defined")
	case "IS_PRIMITIVE":
		return `(` + x.is("defined") + ` AND NOT ` + x.is("object") + ` AND NOT ` + x.is("array") + `)`
	}
	return x.is(strings.ToLower(strings.TrimPrefix(e.Function, "IS_")))
}
