package query

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
)

// The bounds of a query: each keeps the statement that is made of it small, and
// is far beyond what people write.
const (
	maxText       = 64 << 10 // bytes: a thousand device IDs in a list
	maxNodes      = 256      // of the condition, without the elements of lists
	maxElements   = 1000     // of all lists
	maxDepth      = 32       // of brackets, NOT and minus
	maxColumns    = 64
	maxKeys       = 12 // of a path: a twin nests ten deep
	maxKey        = 1024
	maxArithmetic = 4 // operators: databases are told each operand several times
	maxTop        = 1_000_000
)

// Parse reads a query. What it cannot read it refuses with
// [signet.QueryMalformed], at the place of the first mistake.
func Parse(query string) (*Query, error) {
	if len(query) > maxText {
		return nil, signet.Refuse(signet.QueryMalformed, "The query has %d bytes; %d are the most.", len(query), maxText)
	}
	if !utf8.ValidString(query) || strings.ContainsRune(query, 0) {
		return nil, signet.Refuse(signet.QueryMalformed, "The query is not text in UTF-8.")
	}
	p := &parser{lexer: lexer{query: query}}
	q, err := p.query()
	if p.err != nil { // of the first token that could not be read
		return nil, p.err
	}
	return q, err
}

type parser struct {
	lexer lexer
	token token // the next one
	err   error // the first

	nodes, elements, arithmetic, depth int
}

// advance reads the next token; after a mistake there is only the end.
func (p *parser) advance() {
	if p.err != nil {
		return
	}
	if p.token, p.err = p.lexer.next(); p.err != nil {
		p.token = token{at: len(p.lexer.query), past: len(p.lexer.query)}
	}
}

func (p *parser) mistake(at token, format string, args ...any) error {
	if p.err == nil {
		p.err = mistake(p.lexer.query, at.at, format, args...)
		p.token = token{at: len(p.lexer.query), past: len(p.lexer.query)}
	}
	return p.err
}

// is says whether the next token is a keyword.
func (p *parser) is(keyword string) bool {
	return p.token.kind == word && strings.EqualFold(p.token.text, keyword)
}

// keyword takes a keyword if it is next.
func (p *parser) keyword(keyword string) bool {
	if !p.is(keyword) {
		return false
	}
	p.advance()
	return true
}

func (p *parser) isSymbol(s string) bool { return p.token.kind == symbol && p.token.text == s }

func (p *parser) symbol(s string) bool {
	if !p.isSymbol(s) {
		return false
	}
	p.advance()
	return true
}

func (p *parser) query() (*Query, error) {
	p.advance()
	q := &Query{}
	if !p.keyword("SELECT") {
		return nil, p.mistake(p.token, "a query begins with SELECT")
	}
	if p.keyword("TOP") {
		n := p.token
		if n.kind != number || n.number != math.Trunc(n.number) || n.number < 1 || n.number > maxTop {
			return nil, p.mistake(n, "TOP is followed by a whole number from 1 to %d", maxTop)
		}
		q.Top = int(n.number)
		p.advance()
	}
	// What is selected is checked when all of the query is known.
	columns, err := p.columns()
	if err != nil {
		return nil, err
	}
	if !p.keyword("FROM") {
		return nil, p.mistake(p.token, "FROM is wanted, or a comma and another name")
	}
	if err := p.from(q); err != nil {
		return nil, err
	}
	if p.keyword("WHERE") {
		at := p.token
		if q.Where, err = p.condition(); err != nil {
			return nil, err
		}
		if err := p.truth(at, q.Where); err != nil {
			return nil, err
		}
	}
	var group token
	if p.keyword("GROUP") {
		if !p.keyword("BY") {
			return nil, p.mistake(p.token, "GROUP is followed by BY")
		}
		group = p.token
		if q.GroupBy, err = p.path(); err != nil {
			return nil, err
		}
		if k := q.GroupBy.Field.Kind; k == Time {
			return nil, p.mistake(group, "times are not grouped by")
		}
	}
	if p.is("ORDER") {
		return nil, p.mistake(p.token, "ORDER BY is not part of the language; twins come in order of their IDs")
	}
	if p.token.kind != end {
		return nil, p.mistake(p.token, "the end of the query is wanted, or an operator")
	}
	return q, p.selected(q, columns)
}

// from reads what the query is about.
func (p *parser) from(q *Query) error {
	first := p.token
	if !p.keyword("devices") {
		return p.mistake(first, "twins are those of devices or of devices.modules")
	}
	if !p.symbol(".") {
		return nil
	}
	switch {
	case p.keyword("modules"):
		q.Modules = true
		return nil
	case p.is("jobs"):
		return p.mistake(p.token, "jobs are not served here")
	}
	return p.mistake(p.token, "twins are those of devices or of devices.modules")
}

// A column is what is selected, and where that is said.
type column struct {
	Column
	at token
}

// columns reads the list of what is selected; none is *.
func (p *parser) columns() ([]column, error) {
	if p.symbol("*") {
		return nil, nil
	}
	var all []column
	for {
		c := column{at: p.token}
		var err error
		if name := strings.ToUpper(p.token.text); p.token.kind == word && slices.Contains([]Aggregate{Count, Avg, Sum, Min, Max}, Aggregate(name)) && p.peek() == '(' {
			c.Aggregate = Aggregate(name)
			c.Path, err = p.aggregate(c.Aggregate)
		} else {
			c.Path, c.Name, err = p.pathAndName()
		}
		if err != nil {
			return nil, err
		}
		if p.keyword("AS") {
			if p.token.kind != word && p.token.kind != escaped {
				return nil, p.mistake(p.token, "AS is followed by a name")
			}
			c.Name = p.token.text
			p.advance()
		}
		if all = append(all, c); len(all) > maxColumns {
			return nil, p.mistake(c.at, "more than %d things are selected", maxColumns)
		}
		if !p.symbol(",") {
			return all, nil
		}
	}
}

// peek is the first byte after the next token, white space aside.
func (p *parser) peek() byte {
	if rest := strings.TrimLeft(p.lexer.query[p.lexer.at:], " \t\r\n"); rest != "" {
		return rest[0]
	}
	return 0
}

func (p *parser) aggregate(a Aggregate) (path *Path, err error) {
	p.advance()
	p.symbol("(")
	if a == Count {
		p.symbol("*")
	} else {
		at := p.token
		if path, err = p.path(); err != nil {
			return nil, err
		}
		if k := path.Field.Kind; k != JSON && k != Number {
			return nil, p.mistake(at, "%s is of numbers", a)
		}
	}
	if !p.symbol(")") {
		return nil, p.mistake(p.token, "a closing bracket is wanted")
	}
	return path, nil
}

// selected puts the list of what is selected into the query, once all of the
// query is known.
func (p *parser) selected(q *Query, columns []column) error {
	aggregates := slices.ContainsFunc(columns, func(c column) bool { return c.Aggregate != "" })
	if q.GroupBy != nil && !aggregates {
		return p.mistake(p.token, "GROUP BY goes with an aggregate in SELECT, such as COUNT()")
	}
	names := map[string]bool{}
	for n, c := range columns {
		if aggregates && c.Aggregate == "" && (q.GroupBy == nil || !slices.Equal(c.Path.Names(), q.GroupBy.Names())) {
			return p.mistake(c.at, "beside an aggregate, only what is grouped by can be selected")
		}
		if c.Name == "" { // an aggregate without AS
			c.Name = fmt.Sprintf("$%d", n+1)
		}
		if names[c.Name] {
			return p.mistake(c.at, "two members of the answer would be called %q; name one with AS", signet.Clip(c.Name))
		}
		names[c.Name] = true
		q.Columns = append(q.Columns, c.Column)
	}
	return nil
}

// node counts one more part of the condition.
func (p *parser) node(at token) error {
	if p.nodes++; p.nodes > maxNodes {
		return p.mistake(at, "the condition has more than %d parts; a list with IN counts as one", maxNodes)
	}
	return nil
}

// deeper counts brackets within brackets.
func (p *parser) deeper(at token) error {
	if p.depth++; p.depth > maxDepth {
		return p.mistake(at, "the condition nests more than %d deep", maxDepth)
	}
	return nil
}

// condition: the lowest of the operators is OR.
func (p *parser) condition() (Expr, error) { return p.logic("OR", p.conjunction) }

func (p *parser) conjunction() (Expr, error) { return p.logic("AND", p.negation) }

func (p *parser) logic(keyword string, part func() (Expr, error)) (Expr, error) {
	var all []Expr
	for {
		at := p.token
		e, err := part()
		if err != nil {
			return nil, err
		}
		all = append(all, e)
		if len(all) > 1 || p.is(keyword) {
			if err := p.truth(at, e); err != nil {
				return nil, err
			}
		}
		if !p.keyword(keyword) {
			break
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return &Logic{Or: keyword == "OR", All: all}, nil
}

// truth refuses, as a condition, what can never be true or false.
func (p *parser) truth(at token, e Expr) error {
	switch e := e.(type) {
	case *Arithmetic:
		return p.mistake(at, "a condition is wanted, and this is a number")
	case *Literal:
		if _, ok := e.Value.(bool); !ok && e.Value != Undefined {
			return p.mistake(at, "a condition is wanted, and this is a value")
		}
	}
	return nil
}

func (p *parser) negation() (Expr, error) {
	at := p.token
	if !p.keyword("NOT") {
		return p.comparison()
	}
	if err := p.deeper(at); err != nil {
		return nil, err
	}
	if err := p.node(at); err != nil {
		return nil, err
	}
	e, err := p.negation()
	if err != nil {
		return nil, err
	}
	p.depth--
	return &Not{e}, p.truth(at, e)
}

func (p *parser) comparison() (Expr, error) {
	at := p.token
	l, err := p.sum()
	if err != nil {
		return nil, err
	}
	operator := p.token
	if p.is("IN") || p.is("NIN") || p.is("NOT") {
		return p.in(l)
	}
	if operator.kind != symbol || !slices.Contains([]string{"=", "!=", "<>", "<", "<=", ">", ">="}, operator.text) {
		return l, nil
	}
	p.advance()
	right := p.token
	r, err := p.sum()
	if err != nil {
		return nil, err
	}
	if operator.text == "<>" {
		operator.text = "!="
	}
	if l, r, err = p.times(at, l, right, r); err != nil {
		return nil, err
	}
	return &Comparison{operator.text, l, r}, p.node(operator)
}

// times has a text read as a time where it is compared with one.
func (p *parser) times(lAt token, l Expr, rAt token, r Expr) (Expr, Expr, error) {
	lTime, rTime := isTime(l), isTime(r)
	switch {
	case lTime == rTime:
		return l, r, nil
	case rTime:
		r, l, err := p.times(rAt, r, lAt, l)
		return l, r, err
	}
	t, err := p.time(rAt, r)
	return l, t, err
}

func isTime(e Expr) bool {
	p, ok := e.(*Path)
	return ok && p.Field.Kind == Time
}

// time reads a text as a time; what is no text stays as it is, and compares with
// no time.
func (p *parser) time(at token, e Expr) (*Literal, error) {
	l, ok := e.(*Literal)
	if !ok {
		return nil, p.mistake(at, "a time is compared with a time, or with a text such as '2026-01-31T12:00:00Z'")
	}
	s, ok := l.Value.(string)
	if !ok {
		return l, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return &Literal{t.UTC()}, nil
		}
	}
	return nil, p.mistake(at, "a time is written as '2026-01-31T12:00:00Z' or '2026-01-31'")
}

// in reads IN, NIN or NOT IN and a list, behind x.
func (p *parser) in(x Expr) (Expr, error) {
	in, operator := &In{X: x}, p.token
	if in.Not = p.keyword("NIN"); !in.Not {
		in.Not = p.keyword("NOT")
		if !p.keyword("IN") {
			return nil, p.mistake(p.token, "IN is wanted")
		}
	}
	if !p.symbol("[") {
		return nil, p.mistake(p.token, "a list is wanted, in square brackets")
	}
	for !p.symbol("]") {
		if len(in.List) > 0 && !p.symbol(",") {
			return nil, p.mistake(p.token, "a comma is wanted, or the end of the list")
		}
		element := p.token
		l, err := p.literal()
		if err != nil {
			return nil, err
		}
		if l == nil {
			return nil, p.mistake(element, "a list holds texts, numbers, true, false and null")
		}
		if isTime(x) {
			if l, err = p.time(element, l); err != nil {
				return nil, err
			}
		}
		in.List = append(in.List, l)
		if p.elements++; p.elements > maxElements {
			return nil, p.mistake(element, "the lists have more than %d elements", maxElements)
		}
	}
	return in, p.node(operator)
}

func (p *parser) sum() (Expr, error) { return p.chain([]string{"+", "-"}, p.product) }

func (p *parser) product() (Expr, error) { return p.chain([]string{"*", "/", "%"}, p.sign) }

// chain reads operators that bind from the left.
func (p *parser) chain(operators []string, part func() (Expr, error)) (Expr, error) {
	at := p.token
	l, err := part()
	for err == nil && p.token.kind == symbol && slices.Contains(operators, p.token.text) {
		operator := p.token
		p.advance()
		right := p.token
		var r Expr
		if r, err = part(); err != nil {
			return nil, err
		}
		if p.arithmetic++; p.arithmetic > maxArithmetic {
			return nil, p.mistake(operator, "more than %d signs of arithmetic", maxArithmetic)
		}
		if isTime(l) {
			return nil, p.mistake(at, "times are not reckoned with")
		}
		if isTime(r) {
			return nil, p.mistake(right, "times are not reckoned with")
		}
		if err = p.node(operator); err == nil {
			l = &Arithmetic{operator.text, l, r}
		}
	}
	return l, err
}

func (p *parser) sign() (Expr, error) {
	minus := p.token
	if !p.symbol("-") {
		return p.primary()
	}
	if err := p.deeper(minus); err != nil {
		return nil, err
	}
	e, err := p.sign()
	if err != nil {
		return nil, err
	}
	p.depth--
	if l, ok := e.(*Literal); ok {
		if n, ok := l.Value.(float64); ok {
			return &Literal{-n}, nil
		}
	}
	if isTime(e) {
		return nil, p.mistake(minus, "times are not reckoned with")
	}
	if p.arithmetic++; p.arithmetic > maxArithmetic {
		return nil, p.mistake(minus, "more than %d signs of arithmetic", maxArithmetic)
	}
	return &Arithmetic{"-", &Literal{0.0}, e}, p.node(minus)
}

func (p *parser) primary() (Expr, error) {
	at := p.token
	if err := p.node(at); err != nil {
		return nil, err
	}
	if p.symbol("(") {
		if err := p.deeper(at); err != nil {
			return nil, err
		}
		e, err := p.condition()
		if err != nil {
			return nil, err
		}
		if !p.symbol(")") {
			return nil, p.mistake(p.token, "a closing bracket is wanted")
		}
		p.depth--
		return e, nil
	}
	if p.token.kind == word && p.peek() == '(' {
		return p.call()
	}
	if l, err := p.literal(); l != nil || err != nil {
		return l, err
	}
	return p.path()
}

// literal reads a value that is written out; nil when none is next.
func (p *parser) literal() (*Literal, error) {
	t := p.token
	switch {
	case t.kind == text:
		p.advance()
		return &Literal{t.text}, nil
	case t.kind == number:
		p.advance()
		return &Literal{t.number}, nil
	case p.isSymbol("-") && p.peek() >= '0' && p.peek() <= '9':
		p.advance()
		n := p.token.number
		p.advance()
		return &Literal{-n}, nil
	case p.keyword("true"):
		return &Literal{true}, nil
	case p.keyword("false"):
		return &Literal{false}, nil
	case p.keyword("null"):
		return &Literal{nil}, nil
	case p.keyword("undefined"):
		return &Literal{Undefined}, nil
	}
	return nil, nil
}

// functions are those of one value; the others have a text besides.
var (
	typeFunctions = []string{"IS_DEFINED", "IS_NULL", "IS_BOOL", "IS_NUMBER", "IS_STRING", "IS_OBJECT", "IS_ARRAY", "IS_PRIMITIVE"}
	textFunctions = []string{"STARTSWITH", "ENDSWITH", "CONTAINS"}
)

func (p *parser) call() (Expr, error) {
	at := p.token
	name := strings.ToUpper(at.text)
	switch name { // as the language of message routes spells them
	case "STARTS_WITH", "ENDS_WITH":
		name = strings.Replace(name, "_", "", 1)
	case "IS_BOOLEAN":
		name = "IS_BOOL"
	}
	ofText := slices.Contains(textFunctions, name)
	if !ofText && !slices.Contains(typeFunctions, name) {
		return nil, p.mistake(at, "there is no function of that name; there are %s", strings.Join(append(slices.Clone(typeFunctions), textFunctions...), ", "))
	}
	p.advance()
	p.symbol("(")
	if err := p.deeper(at); err != nil {
		return nil, err
	}
	c := &Call{Function: name}
	first := p.token
	var err error
	if c.X, err = p.sum(); err != nil {
		return nil, err
	}
	if ofText {
		if isTime(c.X) {
			return nil, p.mistake(first, "a time is compared with = < > and the like")
		}
		if !p.symbol(",") {
			return nil, p.mistake(p.token, "%s takes two things: a comma is wanted", name)
		}
		if p.token.kind != text {
			return nil, p.mistake(p.token, "a text in quotes is wanted")
		}
		c.Text = p.token.text
		p.advance()
	}
	if !p.symbol(")") {
		return nil, p.mistake(p.token, "a closing bracket is wanted")
	}
	p.depth--
	return c, nil
}

// keywords cannot begin a path, so that what is missing before them is told.
var keywords = []string{"SELECT", "FROM", "WHERE", "GROUP", "BY", "AND", "OR", "NOT", "IN", "NIN", "AS", "ORDER"}

func (p *parser) path() (*Path, error) {
	path, _, err := p.pathAndName()
	return path, err
}

// pathAndName reads a path, and gives its last name as it is written.
func (p *parser) pathAndName() (*Path, string, error) {
	first := p.token
	names, err := p.names()
	if err != nil {
		return nil, "", err
	}
	last := names[len(names)-1]
	// The collection may be named before the rest.
	if len(names) > 1 && strings.EqualFold(names[0], "devices") {
		if names = names[1:]; len(names) > 1 && strings.EqualFold(names[0], "modules") {
			names = names[1:]
		}
	}
	// The longest fixed part is the field.
	for n := min(2, len(names)); n > 0; n-- {
		f := fieldOf(strings.Join(names[:n], "."))
		switch {
		case f == nil || n == 2 && strings.Contains(names[0], "."):
			continue
		case f.Kind == None:
			return &Path{Field: f}, last, nil
		case f.Kind == JSON || n == len(names):
			return &Path{f, names[n:]}, last, nil
		}
		return nil, "", p.mistake(first, "%s has no such part", f.Name)
	}
	return nil, "", p.mistake(first, "a twin has no member of that name; what is free to choose is below tags, properties.desired and properties.reported")
}

// names reads names joined by dots.
func (p *parser) names() ([]string, error) {
	var names []string
	for {
		t := p.token
		if t.kind != word && t.kind != escaped || t.kind == word && len(names) == 0 && slices.ContainsFunc(keywords, func(k string) bool { return strings.EqualFold(k, t.text) }) {
			if len(names) == 0 {
				return nil, p.mistake(t, "a name or a value is wanted")
			}
			return nil, p.mistake(t, "a name is wanted after the dot; one that is no plain word is written [[so]]")
		}
		if len(t.text) > maxKey {
			return nil, p.mistake(t, "a name has more than %d bytes", maxKey)
		}
		if names = append(names, t.text); len(names) > maxKeys+4 {
			return nil, p.mistake(t, "the path is more than %d deep", maxKeys)
		}
		p.advance()
		if !p.symbol(".") {
			return names, nil
		}
	}
}
