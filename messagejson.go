package signet

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"mime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// JSON adds a message and its place to dst as one line of JSON, which ends in a line
// feed: a line of GET /signet/messages, and one of what a webhook gets. It is for
// programs and terminals, not for web pages: < and & stay readable.
//
// The members are position, enqueuedTime, deviceId, moduleId (of a module alone),
// systemProperties (those that the device set, such as message-id and content-type,
// and those that the hub stamped, iothub-connection-…), properties (null for one that
// came without a value), body and bodyEncoding: "json" when the content type is
// application/json and the body is, in 9,997 levels at most, then the body is the value
// itself; "utf-8", text; or "base64". What is written is what encoding/json would
// write, and a dozen allocations less: a backlog of millions is read beside devices
// that send.
func (m *Message) JSON(dst []byte, at Position) []byte {
	enqueued := AzureTime(m.EnqueuedTime)
	var room [12]Property
	system := append(room[:0], m.System...)
	for _, p := range [...]Property{
		{Name: "iothub-connection-device-id", Value: m.DeviceID},
		{Name: "iothub-connection-module-id", Value: m.ModuleID},
		{Name: "iothub-connection-auth-method", Value: m.AuthMethod},
		{Name: "iothub-connection-auth-generation-id", Value: m.GenerationID},
		{Name: "iothub-enqueuedtime", Value: enqueued},
		{Name: "iothub-message-source", Value: m.Source},
	} {
		if p.Value != "" { // the hub's own messages are of no device
			system = append(system, p)
		}
	}
	dst = appendText(append(dst, `{"position":`...), at.String())
	dst = m.EnqueuedTime.UTC().AppendFormat(append(dst, `,"enqueuedTime":"`...), time.RFC3339Nano)
	dst = appendText(append(dst, `","deviceId":`...), m.DeviceID)
	if m.ModuleID != "" {
		dst = appendText(append(dst, `,"moduleId":`...), m.ModuleID)
	}
	dst = appendObject(append(dst, `,"systemProperties":`...), system)
	dst = appendObject(append(dst, `,"properties":`...), slices.Clone(m.Properties))
	dst = append(dst, `,"body":`...)
	dst, encoding := m.appendBody(dst, system)
	return append(append(append(dst, `,"bodyEncoding":"`...), encoding...), "\"}\n"...)
}

// maxNested is how deep a body of JSON is nested at most. encoding/json reads 10,000
// levels; the line is one more, and what a webhook gets two: one message that a
// reader cannot read would be in the way of all behind it.
const maxNested = 10_000 - 3

// readable says whether a body is JSON that can be read within a line.
func readable(body []byte) bool {
	if !json.Valid(body) {
		return false
	}
	deep := bytes.Count(body, []byte("["))+bytes.Count(body, []byte("{")) > maxNested // or wide
	return !deep || json.Valid(slices.Concat([]byte("[[["), body, []byte("]]]")))
}

func (m *Message) appendBody(dst []byte, system []Property) ([]byte, string) {
	kind, encoding := "", ""
	for _, p := range system {
		switch p.Name {
		case "content-type":
			kind = p.Value
		case "content-encoding":
			encoding = p.Value
		}
	}
	if kind != "" && kind != "application/json" {
		kind, _, _ = mime.ParseMediaType(kind)
	}
	switch text := utf8.Valid(m.Body) && (encoding == "" || strings.EqualFold(encoding, "utf-8")); {
	case text && kind == "application/json" && readable(m.Body):
		b := bytes.NewBuffer(dst)
		json.Compact(b, m.Body) // it is valid
		return b.Bytes(), "json"
	case text:
		return appendText(dst, m.Body), "utf-8"
	}
	return append(base64.StdEncoding.AppendEncode(append(dst, '"'), m.Body), '"'), "base64"
}

// appendObject adds properties in the order of their names, which it puts them in; of
// those with the same name the last counts.
func appendObject(dst []byte, list []Property) []byte {
	slices.SortStableFunc(list, func(a, b Property) int { return strings.Compare(a.Name, b.Name) })
	dst = append(dst, '{')
	first := true
	for i, p := range list {
		if i+1 < len(list) && list[i+1].Name == p.Name {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(appendText(dst, p.Name), ':')
		if p.Null {
			dst = append(dst, "null"...)
		} else {
			dst = appendText(dst, p.Value)
		}
	}
	return append(dst, '}')
}

// appendText adds a string. Most are plain, some hold JSON themselves; encoding/json
// knows the others.
func appendText[T string | []byte](dst []byte, s T) []byte {
	start := len(dst)
	dst = append(dst, '"')
	from := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c > '~':
			b := bytes.NewBuffer(dst[:start])
			e := json.NewEncoder(b)
			e.SetEscapeHTML(false)
			e.Encode(string(s)) // a string cannot fail
			return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
		case c == '"' || c == '\\':
			dst = append(append(dst, s[from:i]...), '\\')
			from = i
		}
	}
	return append(append(dst, s[from:]...), '"')
}

// feedbackJSON is one record of feedback, as Azure's service SDKs read it.
type feedbackJSON struct {
	OriginalMessageID  string  `json:"originalMessageId"`
	DeviceID           string  `json:"deviceId"`
	ModuleID           string  `json:"moduleId,omitempty"`
	DeviceGenerationID string  `json:"deviceGenerationId"`
	Description        Outcome `json:"description"`
	StatusCode         Outcome `json:"statusCode"`
	EnqueuedTimeUTC    string  `json:"enqueuedTimeUtc"`
}

// FeedbackJSON writes a batch of feedback as back ends read it: an array of records.
func FeedbackJSON(records []Feedback) (json.RawMessage, error) {
	list := make([]feedbackJSON, len(records))
	for i, f := range records {
		list[i] = feedbackJSON{f.MessageID, f.DeviceID, f.ModuleID, f.GenerationID, f.Outcome, f.Outcome, AzureTime(f.Time)}
	}
	return json.Marshal(list)
}
