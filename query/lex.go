package query

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/signet-iot/signet"
)

// A tokenKind tells tokens apart.
type tokenKind int

const (
	end     tokenKind = iota
	word              // a name or keyword
	escaped           // a name in [[ ]]
	text              // a text in quotes
	number
	symbol // an operator or bracket
)

// A token is one word of the query.
type token struct {
	kind   tokenKind
	text   string // what it says, without quotes and escapes
	number float64
	at     int // its first byte
	past   int // the first byte after it
}

// mistake refuses a query for what stands at a byte of it.
func mistake(query string, at int, format string, args ...any) error {
	found := "the end"
	if rest := query[at:]; rest != "" {
		runes := []rune(signet.Clip(rest))
		found = strconv.Quote(string(runes[:min(20, len(runes))]))
	}
	place := utf8.RuneCountInString(query[:at]) + 1
	e := signet.Refuse(signet.QueryMalformed, "At character %d of the query, %s: %s.", place, found, fmt.Sprintf(format, args...))
	return e.At(fmt.Sprintf("query, character %d", place), fmt.Sprintf(format, args...), found)
}

// lexer cuts a query into tokens.
type lexer struct {
	query string
	at    int
}

// symbols, the longer ones first.
var symbols = []string{"!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", "[", "]", ",", ".", "*", "/", "%", "+", "-"}

func (l *lexer) next() (token, error) {
	for l.at < len(l.query) && strings.ContainsRune(" \t\r\n", rune(l.query[l.at])) {
		l.at++
	}
	t := token{at: l.at, past: l.at}
	rest := l.query[l.at:]
	if rest == "" {
		return t, nil
	}
	var err error
	first, _ := utf8.DecodeRuneInString(rest)
	switch {
	case strings.HasPrefix(rest, "[["):
		name, _, ok := strings.Cut(rest[2:], "]]")
		if !ok || name == "" {
			return t, mistake(l.query, l.at, "a name in [[ ]] is wanted")
		}
		t.kind, t.text, t.past = escaped, name, l.at+len(name)+4
	case first == '\'' || first == '"':
		err = l.quoted(&t)
	case first >= '0' && first <= '9':
		err = l.number(&t)
	case isName(first):
		n := strings.IndexFunc(rest, func(r rune) bool { return !isName(r) && !unicode.IsDigit(r) })
		if n < 0 {
			n = len(rest)
		}
		t.kind, t.text, t.past = word, rest[:n], l.at+n
	default:
		for _, s := range symbols {
			if strings.HasPrefix(rest, s) {
				t.kind, t.text, t.past = symbol, s, l.at+len(s)
				break
			}
		}
		if t.kind != symbol {
			return t, mistake(l.query, l.at, "this sign means nothing here")
		}
	}
	l.at = t.past
	return t, err
}

func isName(r rune) bool { return r == '_' || r == '$' || unicode.IsLetter(r) }

// quoted reads a text with Azure's escapes: \' \" \\ and \uXXXX.
func (l *lexer) quoted(t *token) error {
	quote := l.query[l.at]
	var b strings.Builder
	for i := l.at + 1; i < len(l.query); i++ {
		switch c := l.query[i]; {
		case c == quote:
			t.kind, t.text, t.past = text, b.String(), i+1
			return nil
		case c == 0:
			return mistake(l.query, i, "a text cannot hold NUL")
		case c != '\\':
			b.WriteByte(c)
		case i+1 < len(l.query) && strings.IndexByte(`'"\`, l.query[i+1]) >= 0:
			i++
			b.WriteByte(l.query[i])
		default:
			r, n := unicodeEscape(l.query[i:])
			if n == 0 || r == 0 {
				return mistake(l.query, i, `in a text, \ is followed by ', ", \ or by u and four hex digits of a character`)
			}
			b.WriteRune(r)
			i += n - 1
		}
	}
	return mistake(l.query, l.at, "this text has no end")
}

// unicodeEscape reads \uXXXX, or two of them for a character beyond the first
// plane; n is 0 when there is none.
func unicodeEscape(s string) (r rune, n int) {
	unit := func(s string) (rune, bool) {
		if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
			return 0, false
		}
		v, err := strconv.ParseUint(s[2:6], 16, 16)
		return rune(v), err == nil
	}
	r, ok := unit(s)
	if !ok || !utf16.IsSurrogate(r) {
		return r, map[bool]int{true: 6}[ok]
	}
	low, ok := unit(s[6:])
	if r = utf16.DecodeRune(r, low); !ok || r == unicode.ReplacementChar {
		return 0, 0
	}
	return r, 12
}

// number reads a decimal number or, after 0x, a hexadecimal one.
func (l *lexer) number(t *token) error {
	rest := l.query[l.at:]
	n := strings.IndexFunc(rest, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '.' || r == '_')
	})
	if n < 0 {
		n = len(rest)
	}
	// The sign of an exponent belongs to it.
	if n < len(rest) && (rest[n] == '+' || rest[n] == '-') && (rest[n-1] == 'e' || rest[n-1] == 'E') && !isHex(rest) {
		for n++; n < len(rest) && rest[n] >= '0' && rest[n] <= '9'; n++ {
		}
	}
	digits := rest[:n]
	var err error
	if isHex(digits) {
		var v uint64
		v, err = strconv.ParseUint(digits[2:], 16, 53)
		t.number = float64(v)
	} else if strings.Contains(digits, "_") {
		err = strconv.ErrSyntax
	} else {
		t.number, err = strconv.ParseFloat(digits, 64)
	}
	if err != nil || math.IsInf(t.number, 0) {
		return mistake(l.query, l.at, "this is not a number that can be compared with")
	}
	t.kind, t.text, t.past = number, digits, l.at+n
	return nil
}

func isHex(s string) bool { return len(s) > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X') }
