package query

import (
	"cmp"
	"math"
	"strings"
	"time"
)

type undefined struct{}

// Undefined is the value of a path that leads nowhere, and of what is made of it.
var Undefined any = undefined{}

// Eval gives the value of an expression for one twin: nil, bool, float64, string,
// time.Time, []any, map[string]any or [Undefined]. of gives that of a path, in the
// same types.
func Eval(e Expr, of func(*Path) any) any {
	switch e := e.(type) {
	case *Literal:
		return e.Value
	case *Path:
		return of(e)
	case *Not:
		if b, ok := Eval(e.X, of).(bool); ok {
			return !b
		}
	case *Logic:
		return logic(e, of)
	case *Comparison:
		return compare(e.Op, Eval(e.L, of), Eval(e.R, of))
	case *In:
		return in(e, Eval(e.X, of))
	case *Arithmetic:
		l, lOK := Eval(e.L, of).(float64)
		r, rOK := Eval(e.R, of).(float64)
		if lOK && rOK {
			return arithmetic(e.Op, l, r)
		}
	case *Call:
		return call(e, Eval(e.X, of))
	}
	return Undefined
}

// logic: OR is true where one is, AND false where one is, and otherwise what is
// undefined stays so.
func logic(e *Logic, of func(*Path) any) any {
	var result any = !e.Or
	for _, part := range e.All {
		b, ok := Eval(part, of).(bool)
		if ok && b == e.Or {
			return b
		}
		if !ok {
			result = Undefined
		}
	}
	return result
}

// compare compares two values of one type.
func compare(op string, l, r any) any {
	if l == nil && r == nil {
		switch op {
		case "=", "!=":
			return op == "="
		}
		return Undefined
	}
	var order int
	switch l := l.(type) {
	case bool:
		r, ok := r.(bool)
		if !ok {
			return Undefined
		}
		order = cmp.Compare(map[bool]int{true: 1}[l], map[bool]int{true: 1}[r])
	case float64:
		r, ok := r.(float64)
		if !ok {
			return Undefined
		}
		order = cmp.Compare(l, r)
	case string:
		r, ok := r.(string)
		if !ok {
			return Undefined
		}
		order = strings.Compare(l, r)
	case time.Time:
		r, ok := r.(time.Time)
		if !ok {
			return Undefined
		}
		order = cmp.Compare(l.UnixMicro(), r.UnixMicro())
	default:
		return Undefined
	}
	switch op {
	case "=":
		return order == 0
	case "!=":
		return order != 0
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	}
	return order >= 0
}

// in: true where one element is equal, otherwise false where one could be
// compared, so that IN and NIN of another type are both undefined.
func in(e *In, x any) any {
	var result = Undefined
	for _, l := range e.List {
		if equal, ok := compare("=", x, l.Value).(bool); ok && equal {
			return !e.Not
		} else if ok {
			result = e.Not
		}
	}
	return result
}

func arithmetic(op string, l, r float64) any {
	fits := func(x float64) bool { return x == 0 || math.Abs(x) >= 1e-150 && math.Abs(x) <= 1e150 }
	whole := func(x float64) bool { return math.Abs(x) < 1<<53 && x == math.Floor(x) }
	switch {
	case op == "%" && (!whole(l) || !whole(r)), !fits(l), !fits(r), (op == "/" || op == "%") && r == 0:
		return Undefined
	case op == "+":
		return l + r
	case op == "-":
		return l - r
	case op == "*":
		return l * r
	case op == "/":
		return l / r
	}
	return float64(int64(l) % int64(r))
}

func call(e *Call, x any) any {
	s, isText := x.(string)
	_, isTime := x.(time.Time)
	switch e.Function {
	case "STARTSWITH", "ENDSWITH", "CONTAINS":
		if !isText {
			return Undefined
		}
		return map[string]func(s, part string) bool{
			"STARTSWITH": strings.HasPrefix, "ENDSWITH": strings.HasSuffix, "CONTAINS": strings.Contains,
		}[e.Function](s, e.Text)
	case "IS_DEFINED":
		return x != Undefined
	case "IS_STRING":
		return isText || isTime
	}
	var function string
	switch x.(type) {
	case nil:
		function = "IS_NULL"
	case bool:
		function = "IS_BOOL"
	case float64:
		function = "IS_NUMBER"
	case map[string]any:
		function = "IS_OBJECT"
	case []any:
		function = "IS_ARRAY"
	case undefined:
		return false
	}
	if e.Function == "IS_PRIMITIVE" {
		return function != "IS_OBJECT" && function != "IS_ARRAY"
	}
	return e.Function == function
}
