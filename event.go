package signet

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// EventSources is a set of what a hub tells on its message log besides what
// devices send.
type EventSources uint8

// The kinds of events that a hub tells when it is told to, as Azure does when
// there is a route for them.
const (
	LifeCycleEvents  EventSources = 1 << iota // an identity is made, or goes
	TwinEvents                                // tags, desired or reported properties change
	ConnectionEvents                          // a device comes, or goes
)

// Has says whether all of want are in s.
func (s EventSources) Has(want EventSources) bool { return s&want == want }

// MessageSources is a set of what messages of a log can come from, as people name
// them.
type MessageSources uint8

// The sources of messages.
const (
	FromTelemetry MessageSources = 1 << iota
	FromLifeCycle
	FromTwin
	FromConnection
	FromOthers // what the hub says of itself: certificates that expire, CRLs that grow old
	FromAll    = FromTelemetry | FromLifeCycle | FromTwin | FromConnection | FromOthers
)

var sourceNames = [...]string{"telemetry", "lifecycle", "twin", "connection", "other"}

// Has says whether all of want are in s.
func (s MessageSources) Has(want MessageSources) bool { return s&want == want }

// String names the sources, joined by commas.
func (s MessageSources) String() string {
	var names []string
	for n, name := range sourceNames {
		if s.Has(1 << n) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// MarshalText is for encoding/json.
func (s MessageSources) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is for encoding/json.
func (s *MessageSources) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSources(string(text))
	return err
}

// ParseSources reads what [MessageSources.String] writes; no text is all of them.
// It refuses with [RequestMalformed].
func ParseSources(text string) (s MessageSources, err error) {
	if text == "" {
		return FromAll, nil
	}
	for name := range strings.SplitSeq(text, ",") {
		n := slices.Index(sourceNames[:], strings.ToLower(strings.TrimSpace(name)))
		if n < 0 {
			return 0, Refuse(RequestMalformed, "%q is no source of messages.", Clip(name)).
				At("source", strings.Join(sourceNames[:], ", "), name).FixBy("Name one or more of: %s.", strings.Join(sourceNames[:], ", "))
		}
		s |= 1 << n
	}
	return s, nil
}

// SourceOf says which of the sources a message is from.
func SourceOf(m *Message) MessageSources {
	switch m.Source {
	case SourceTelemetry:
		return FromTelemetry
	case SourceLifeCycle:
		return FromLifeCycle
	case SourceTwin:
		return FromTwin
	case SourceConnection:
		return FromConnection
	}
	return FromOthers
}

// The Source of events, as Azure writes iothub-message-source.
const (
	SourceLifeCycle  = "deviceLifecycleEvents"
	SourceTwin       = "twinChangeEvents"
	SourceConnection = "deviceConnectionStateEvents"
)

// An Event is something that has happened at a hub, in the form of Azure's events
// that are no telemetry (iot-hub-non-telemetry-event-schema).
type Event struct {
	Hub, DeviceID, ModuleID string // the last is empty for a device
	Source                  string
	Operation, Schema       string // opType and iothub-message-schema
	Time                    time.Time
	Body                    json.RawMessage
	// Sequence is the place of the event among those of its hub, while it waits to
	// be told.
	Sequence int64
}

// lifeCycleJSON is the body of a life cycle event: the twin of the identity.
type lifeCycleJSON struct {
	DeviceID   string               `json:"deviceId"`
	ModuleID   string               `json:"moduleId,omitempty"`
	ETag       string               `json:"etag"`
	Version    int64                `json:"version"`
	Tags       json.RawMessage      `json:"tags,omitempty"`
	Properties *eventPropertiesJSON `json:"properties,omitempty"`
}

// twinEventJSON is the body of a twin change event.
type twinEventJSON struct {
	Version    int64                `json:"version"`
	Tags       json.RawMessage      `json:"tags,omitempty"`
	Properties *eventPropertiesJSON `json:"properties,omitempty"`
}

type eventPropertiesJSON struct {
	Desired  json.RawMessage `json:"desired,omitempty"`
	Reported json.RawMessage `json:"reported,omitempty"`
}

// NewLifeCycleEvent tells that an identity was made, or deleted, with its twin as
// it was then.
func NewLifeCycleEvent(t *Twin, deleted bool, at time.Time) Event {
	e := Event{Hub: t.Hub, DeviceID: t.DeviceID, ModuleID: t.ModuleID, Source: SourceLifeCycle, Time: at,
		Operation: "createDeviceIdentity", Schema: "deviceLifecycleNotification"}
	if t.ModuleID != "" {
		e.Operation, e.Schema = "createModuleIdentity", "moduleLifecycleNotification"
	}
	if deleted {
		e.Operation = "delete" + strings.TrimPrefix(e.Operation, "create")
	}
	body := lifeCycleJSON{DeviceID: t.DeviceID, ModuleID: t.ModuleID, ETag: t.ETag, Version: t.Version}
	if len(t.Tags) > len("{}") {
		body.Tags = t.Tags
	}
	bare := body
	body.Properties = &eventPropertiesJSON{t.Desired.Document(), t.Reported.Document()}
	desired, reported := t.Desired, t.Reported
	desired.Metadata, reported.Metadata = nil, nil
	short := body
	short.Properties = &eventPropertiesJSON{desired.Document(), reported.Document()}
	bare.Tags = nil
	e.Body = largest(body, short, bare)
	return e
}

// A TwinPatch is what a change did to a twin: the parts that it touched, nil or
// without Values where it did not. Values are what came, with its nulls; Metadata
// is of what came alone.
type TwinPatch struct {
	Tags              json.RawMessage
	Desired, Reported Properties
}

// NewTwinEvent tells of a change that led to t.
func NewTwinEvent(t *Twin, p TwinPatch, replaced bool, at time.Time) Event {
	e := Event{Hub: t.Hub, DeviceID: t.DeviceID, ModuleID: t.ModuleID, Source: SourceTwin, Time: at,
		Operation: "updateTwin", Schema: "twinChangeNotification"}
	if replaced {
		e.Operation = "replaceTwin"
	}
	body := twinEventJSON{Version: t.Version, Tags: p.Tags}
	bare := twinEventJSON{Version: t.Version}
	short := body
	properties := func(desired, reported Properties) *eventPropertiesJSON {
		j := &eventPropertiesJSON{}
		if desired.Values != nil {
			j.Desired = desired.Document()
		}
		if reported.Values != nil {
			j.Reported = reported.Document()
		}
		if j.Desired == nil && j.Reported == nil {
			return nil
		}
		return j
	}
	body.Properties = properties(p.Desired, p.Reported)
	p.Desired.Metadata, p.Reported.Metadata = nil, nil
	short.Properties = properties(p.Desired, p.Reported)
	e.Body = largest(body, short, bare)
	return e
}

// largest writes the first of the bodies that a message can hold: metadata may be
// ten times what it is about, and whoever reads the event can read the twin.
func largest(bodies ...any) json.RawMessage {
	var text []byte
	for _, b := range bodies {
		var err error
		if text, err = json.Marshal(b); err == nil && len(text) <= MaxMessageSize-maxEventProperties {
			break
		}
	}
	return text
}

// maxEventProperties is more than the properties of an event take, of a message.
const maxEventProperties = 4 << 10
