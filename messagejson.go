package signet

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"mime"
	"strings"
	"time"
	"unicode/utf8"
)

// messageJSON is a message as people and back ends read it: a line of GET
// /signet/messages, and one of what a webhook gets.
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

// JSON writes a message and its place as one line of JSON, which ends in a line
// feed. It is for programs and terminals, not for web pages: < and & stay
// readable.
func (m *Message) JSON(at Position) ([]byte, error) {
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
	case text && kind == "application/json" && json.Valid(m.Body):
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
