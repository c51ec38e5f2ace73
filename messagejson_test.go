package signet

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"mime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

type messageJSON struct {
	Position     string    `json:"position"`
	EnqueuedTime time.Time `json:"enqueuedTime"`
	DeviceID     string    `json:"deviceId"`
	ModuleID     string    `json:"moduleId,omitempty"`
	// SystemProperties are those that the device set (message-id, content-type …)
	// and those that the hub stamped (iothub-connection-…).
	SystemProperties map[string]*string `json:"systemProperties"`
	// Properties has null for a property that came without a value.
	Properties map[string]*string `json:"properties"`
	// Body is as BodyEncoding says: "json", the value itself, when the content
	// type is application/json and the body is; "utf-8", text; or "base64".
	Body         any    `json:"body"`
	BodyEncoding string `json:"bodyEncoding"`
}

// byEncoder is what [Message.JSON] writes, by encoding/json.
func byEncoder(m *Message, at Position) ([]byte, error) {
	j := messageJSON{
		Position: at.String(), EnqueuedTime: m.EnqueuedTime.UTC(), DeviceID: m.DeviceID, ModuleID: m.ModuleID,
		SystemProperties: propertyMap(m.System), Properties: propertyMap(m.Properties),
	}
	enqueued := AzureTime(m.EnqueuedTime)
	for name, value := range map[string]*string{
		"iothub-connection-device-id":          &m.DeviceID,
		"iothub-connection-module-id":          &m.ModuleID,
		"iothub-connection-auth-method":        &m.AuthMethod,
		"iothub-connection-auth-generation-id": &m.GenerationID,
		"iothub-enqueuedtime":                  &enqueued,
		"iothub-message-source":                &m.Source,
	} {
		if *value != "" { // the hub's own messages are of no device
			j.SystemProperties[name] = value
		}
	}

	kind, _, _ := mime.ParseMediaType(orEmpty(j.SystemProperties["content-type"]))
	encoding := orEmpty(j.SystemProperties["content-encoding"])
	switch text := utf8.Valid(m.Body) && (encoding == "" || strings.EqualFold(encoding, "utf-8")); {
	case text && kind == "application/json" && readable(m.Body):
		j.Body, j.BodyEncoding = json.RawMessage(m.Body), "json"
	case text:
		j.Body, j.BodyEncoding = string(m.Body), "utf-8"
	default:
		j.Body, j.BodyEncoding = base64.StdEncoding.EncodeToString(m.Body), "base64"
	}
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	err := e.Encode(j)
	return line.Bytes(), err
}

func propertyMap(list []Property) map[string]*string {
	m := make(map[string]*string, len(list)+6)
	for _, p := range list {
		if p.Null {
			m[p.Name] = nil
		} else {
			m[p.Name] = &p.Value
		}
	}
	return m
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// FuzzMessageJSON: what is written is what encoding/json writes.
func FuzzMessageJSON(f *testing.F) {
	f.Add("press-17", "", "message-id", "1", "content-type", "application/json", []byte(` {"°C" : 81, "a":"<b>"} `), false)
	f.Add("press-17", "camera", "content-type", "application/json; charset=utf-8", "a", "\u2028\"\\\x00\x7f<&", []byte("[1,"), true)
	f.Add("", "", "iothub-message-source", "mine", "same", "é", []byte{0xff}, false)
	f.Add("d", "m", "content-encoding", "UTF-8", "content-encoding", "gzip", []byte("text\n"), false)
	f.Fuzz(func(t *testing.T, device, module, name1, value1, name2, value2 string, body []byte, null bool) {
		m := &Message{
			DeviceID: device, ModuleID: module, GenerationID: "638763", AuthMethod: `{"scope":"device"}`, Source: "Telemetry",
			EnqueuedTime: time.Date(2026, 3, 1, 12, 0, 0, 250e6, time.UTC), Body: body,
		}
		all := []Property{{Name: name1, Value: value1}, {Name: name2, Value: value2}, {Name: "null", Null: null}}
		m.System, m.Properties = all[:2:2], all[:3:3]
		at := Position{Sequence: 7, Index: 3}
		want, err := byEncoder(m, at)
		if err != nil {
			t.Fatal(err) // a body that it does not write is told as text
		}
		before := append([]Property(nil), all...)
		if got := m.JSON([]byte("before "), at); string(got) != "before "+string(want) {
			t.Errorf("written\n%swant\n%s", got[len("before "):], want)
		}
		for i := range all {
			if all[i] != before[i] {
				t.Error("the message has changed")
			}
		}
	})
}

func BenchmarkMessageJSON(b *testing.B) {
	m := &Message{
		Hub: "plant", DeviceID: "press-17", GenerationID: "638763", AuthMethod: `{"scope":"device","type":"x509","issuer":"external"}`, Source: "Telemetry",
		EnqueuedTime: time.Date(2026, 3, 1, 12, 0, 0, 250e6, time.UTC), Body: bytes.Repeat([]byte("x"), 256),
	}
	b.Run("signet", func(b *testing.B) {
		b.ReportAllocs()
		var line []byte
		for b.Loop() {
			line = m.JSON(line[:0], Position{Sequence: 7, Index: 3})
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			byEncoder(m, Position{Sequence: 7, Index: 3})
		}
	})
}

// A body may be nested as deeply as encoding/json reads. The line holds it, and
// what a webhook gets holds the line; who reads them can, too.
func TestNestedBodyCanBeRead(t *testing.T) {
	for _, depth := range []int{1, 9_996, 9_997, 9_998, 9_999, 10_000, 10_001} {
		for open, end := range map[string]string{"[": "]", `{"a":`: "}"} {
			value := map[string]string{"[": "", `{"a":`: "1"}[open]
			m := &Message{System: []Property{{Name: "content-type", Value: "application/json"}}, Body: []byte(strings.Repeat(open, depth) + value + strings.Repeat(end, depth))}
			var sent struct {
				Messages []struct{ BodyEncoding string }
			}
			if err := json.Unmarshal(slices.Concat([]byte(`{"messages":[`), m.JSON(nil, Position{}), []byte("]}")), &sent); err != nil {
				t.Errorf("%d of %s: %v", depth, open, err)
			} else if want := map[bool]string{true: "json", false: "utf-8"}[depth <= 9_997]; sent.Messages[0].BodyEncoding != want {
				t.Errorf("%d of %s: as %s", depth, open, sent.Messages[0].BodyEncoding)
			}
		}
	}
	several := &Message{System: []Property{{Name: "content-type", Value: "application/json"}}, Body: []byte(strings.Repeat("[],", 50_000) + "[]")}
	if line := several.JSON(nil, Position{}); !json.Valid(line) || !bytes.Contains(line, []byte(`"bodyEncoding":"utf-8"`)) {
		t.Error("several values are none")
	}
	wide := &Message{System: []Property{{Name: "content-type", Value: "application/json"}}, Body: []byte("[" + strings.Repeat("[],", 50_000) + "[]]")}
	if !bytes.Contains(wide.JSON(nil, Position{}), []byte(`"bodyEncoding":"json"`)) {
		t.Error("many lists beside each other are no depth")
	}
}
