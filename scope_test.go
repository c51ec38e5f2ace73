package signet

import (
	"path"
	"strings"
	"testing"
	"time"
)

func TestMatchID(t *testing.T) {
	for _, test := range []struct {
		pattern, id string
		fits        bool
	}{
		{"press-17", "press-17", true}, {"press-17", "press-170", false}, {"press-17", "Press-17", false},
		{"press-*", "press-17", true}, {"press-*", "press-", true}, {"press-*", "lathe-1", false},
		{"*-17", "press-17", true}, {"*", "anything", true}, {"**", "x", true},
		{"a*a", "a", false}, {"a*a", "aa", true}, {"a*b*c", "a-b-c", true}, {"a*b*c", "acb", false},
		{"line-?-*", "line-?-1", true}, {"line-?-*", "line-4-1", false}, // only * is special
		{"a*b*b", "ab", false}, {"a*b*b", "abb", true}, {"*b*", "aab", true},
	} {
		if got := MatchID(test.pattern, test.id); got != test.fits {
			t.Errorf("%q %q: %v", test.pattern, test.id, got)
		}
	}
}

// FuzzMatchID holds the pattern to another matcher, for the letters that both
// read alike.
func FuzzMatchID(f *testing.F) {
	f.Add("a*b*c", "aabbcc")
	f.Add("***", "")
	f.Fuzz(func(t *testing.T, pattern, id string) {
		if strings.ContainsAny(pattern+id, `?[]\/`) || len(pattern)+len(id) > 60 || strings.Count(pattern, "*") > 5 {
			return
		}
		want, err := path.Match(pattern, id)
		if err == nil && MatchID(pattern, id) != want {
			t.Errorf("%q %q: want %v", pattern, id, want)
		}
	})
}

func TestScope(t *testing.T) {
	july := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	s := Scope{Key: "ab", Devices: []string{"press-*", "lathe-*"}, IssuedFrom: july, IssuedUntil: july.AddDate(0, 1, 0), KeyTypes: []string{"p256", "rsa3072"}}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		id, keyType string
		at          time.Time
		field       string
	}{
		{"press-1", "p256", july, ""}, {"lathe-1", "rsa4096", july.AddDate(0, 1, 0), ""},
		{"drill-1", "p256", july, "deviceId"},
		{"press-1", "p256", july.Add(-time.Second), "notBefore"}, {"press-1", "p256", july.AddDate(0, 1, 0).Add(time.Second), "notBefore"},
		{"press-1", "p384", july, "subjectPublicKeyInfo"}, {"press-1", "rsa2048", july, "subjectPublicKeyInfo"}, {"press-1", "", july, "subjectPublicKeyInfo"},
	} {
		field := ""
		if e := s.Refusal(test.id, test.at, test.keyType); e != nil {
			field = e.Field
			if e.Code != CertOutOfScope || e.Expected == "" || e.Actual == "" && test.keyType != "" {
				t.Errorf("%+v: %+v", test, e)
			}
		}
		if field != test.field {
			t.Errorf("%+v: refused for %q", test, field)
		}
	}
	for _, bad := range []Scope{
		{}, {Devices: []string{""}}, {Devices: []string{"a/b"}}, {Devices: make([]string, 17)}, {KeyTypes: []string{"rsa"}}, {KeyTypes: []string{"rsa99999"}},
		{KeyTypes: []string{"dsa"}}, {MaxDevices: -1}, {MaxDevices: 1e9}, {IssuedFrom: july, IssuedUntil: july.Add(-1)},
	} {
		if CodeOf(bad.Check()) != ScopeMalformed {
			t.Errorf("%+v is taken", bad)
		}
	}
}
