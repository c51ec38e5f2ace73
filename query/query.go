// Package query is the query language of IoT Hub for twins: text in, a tree out,
// and what each tree means. It knows no database and no JSON of any API.
//
//	SELECT * | [TOP n] path [AS name], COUNT() | AVG(path) | SUM(path) | MIN(path) | MAX(path) …
//	FROM devices | devices.modules
//	[WHERE condition] [GROUP BY path]
//
// A path is a member of the twin as the service API writes it. It has a value
// of one of JSON's types, or none: it is then undefined. A comparison of what
// is undefined, or of two types, is neither true nor false but undefined, and a
// twin is found where the condition is true. Undefined goes through NOT, AND and
// OR as unknown does in SQL. Texts compare by their bytes, numbers as doubles,
// false before true; null, objects and arrays have no order, and only null equals
// anything, another null.
//
// [Parse] refuses what it cannot carry out, with the place of the mistake; [Eval]
// says what a tree means, one twin at a time. The database of package store runs
// the same trees by the thousand, and is held to Eval by its tests.
package query

import (
	"slices"
	"strings"
)

// A Query is what [Parse] reads. It must not be changed.
type Query struct {
	Modules bool     // FROM devices.modules: the modules, and not the devices
	Top     int      // at most so many in all; 0 is all
	Columns []Column // what is selected; none is *, the whole twin
	Where   Expr     // nil selects all
	GroupBy *Path    // nil with aggregates: all that is found is one group
}

// Aggregates says whether the answer is of groups rather than of twins.
func (q *Query) Aggregates() bool {
	return slices.ContainsFunc(q.Columns, func(c Column) bool { return c.Aggregate != "" })
}

// A Column is one thing that is selected.
type Column struct {
	Name      string // of the member of the answer
	Aggregate Aggregate
	Path      *Path // nil for Count
}

// An Aggregate makes one value of a group. All but Count pass over what is no
// number; of no number at all, they have no value.
type Aggregate string

// The aggregates.
const (
	Count Aggregate = "COUNT"
	Avg   Aggregate = "AVG"
	Sum   Aggregate = "SUM"
	Min   Aggregate = "MIN"
	Max   Aggregate = "MAX"
)

// An Expr is a node of a condition: a *Path, *Literal, *Not, *Logic, *Comparison,
// *In, *Arithmetic or *Call.
type Expr interface{ expr() }

// A Path names a member of the twin.
type Path struct {
	Field *Field
	Keys  []string // below a field of kind JSON: names of members, case-sensitive
}

// Names are the names from the top of the twin's document down.
func (p *Path) Names() []string { return append(strings.Split(p.Field.Name, "."), p.Keys...) }

// A Literal is a value that is written out: nil, bool, float64, string,
// [Undefined], or a time.Time where a text is compared with a time.
type Literal struct{ Value any }

// Not is true where X is false.
type Not struct{ X Expr }

// Logic joins two or more conditions by AND or OR.
type Logic struct {
	Or  bool
	All []Expr
}

// A Comparison has the operator = != < <= > or >=.
type Comparison struct {
	Op   string
	L, R Expr
}

// In is true where X equals one of List; Not turns that round.
type In struct {
	X    Expr
	List []*Literal
	Not  bool
}

// Arithmetic has the operator + - * / or %. It takes numbers; of zero and of
// magnitudes from 1e-150 to 1e150, so that no result leaves the doubles, and % of
// whole numbers below 2^53. All else is undefined, as is a division by zero.
type Arithmetic struct {
	Op   string
	L, R Expr
}

// A Call is a function of a value: IS_DEFINED, IS_NULL, IS_BOOL, IS_NUMBER,
// IS_STRING, IS_OBJECT, IS_ARRAY and IS_PRIMITIVE say of what type it is;
// STARTSWITH, ENDSWITH and CONTAINS look for Text in a text.
type Call struct {
	Function string
	X        Expr
	Text     string
}

func (*Path) expr()       {}
func (*Literal) expr()    {}
func (*Not) expr()        {}
func (*Logic) expr()      {}
func (*Comparison) expr() {}
func (*In) expr()         {}
func (*Arithmetic) expr() {}
func (*Call) expr()       {}

// A Kind is what type a field has.
type Kind int

// The kinds. Time is a text to whoever reads it, and compares as a time.
const (
	JSON       Kind = iota // an object that may hold anything
	Text                   // a text
	TextOrNull             // a text, or null
	TextOrNone             // a text, or undefined
	Number
	Bool
	Time
	Object // made of other fields
	None   // never defined here: what Azure's twins have and these do not
)

// A Field is a fixed part of the twin's document.
type Field struct {
	Name string // as the document spells it, levels joined by dots
	Kind Kind
}

// Fields are the fixed parts of a twin. Their names are found in any case, as
// Azure finds them.
var Fields = []*Field{
	{"deviceId", Text}, {"moduleId", TextOrNone}, {"etag", Text}, {"deviceEtag", Text},
	{"status", Text}, {"statusReason", TextOrNull}, {"statusUpdateTime", Time},
	{"connectionState", Text}, {"connectionStateUpdatedTime", Time}, {"lastActivityTime", Time},
	{"cloudToDeviceMessageCount", Number}, {"authenticationType", Text},
	{"x509Thumbprint", Object}, {"x509Thumbprint.primaryThumbprint", TextOrNull}, {"x509Thumbprint.secondaryThumbprint", TextOrNull},
	{"modelId", Text}, {"version", Number},
	{"capabilities", Object}, {"capabilities.iotEdge", Bool},
	{"tags", JSON}, {"properties", Object}, {"properties.desired", JSON}, {"properties.reported", JSON},
	{"deviceScope", None}, {"parentScopes", None}, {"configurations", None},
}

func fieldOf(name string) *Field {
	if strings.EqualFold(name, "id") {
		name = "deviceId" // as the samples of the C# SDK have it
	}
	for _, f := range Fields {
		if strings.EqualFold(f.Name, name) {
			return f
		}
	}
	return nil
}
