package signet

import (
	"encoding/json"
	"strconv"
	"time"
)

// A Twin is the document that a back end and a device keep about the device:
// tags for the back end alone, desired properties that it sets for the device,
// reported properties that the device sets. Every identity has one, from its
// creation to its end.
type Twin struct {
	Hub, DeviceID, ModuleID string
	// GenerationID is that of the identity: what is decided about one twin is
	// never written to that of a later identity of the same name.
	GenerationID string
	// Version steps with every change of any part. 0 is a twin that was never
	// written; see [EmptyTwin].
	Version           int64
	ETag              string // changes when the back end changes the twin, not when the device reports
	Tags              json.RawMessage
	Desired, Reported Properties
}

// Properties are one side of a twin.
type Properties struct {
	Version  int64           // steps with every change of this side
	Values   json.RawMessage // a JSON object
	Metadata json.RawMessage // $lastUpdated and $lastUpdatedVersion of each property, nested as they are
}

// EmptyTwin is the twin of an identity of which nothing was written yet, with
// the versions that Azure gives it.
func EmptyTwin(hub, device, module, generation string) Twin {
	none := Properties{Version: 1, Values: json.RawMessage("{}"), Metadata: json.RawMessage(`{"$lastUpdated":"0001-01-01T00:00:00Z"}`)}
	return Twin{
		Hub: hub, DeviceID: device, ModuleID: module, GenerationID: generation,
		Version: 2, ETag: generation, Tags: json.RawMessage("{}"), Desired: none, Reported: none,
	}
}

// Document writes the properties as Azure does: the values with the members
// $metadata, where there is any, and $version.
func (p *Properties) Document() json.RawMessage {
	text := append(make([]byte, 0, len(p.Values)+len(p.Metadata)+50), p.Values[:len(p.Values)-1]...)
	if len(p.Values) > len("{}") {
		text = append(text, ',')
	}
	if p.Metadata != nil {
		text = append(append(append(text, `"$metadata":`...), p.Metadata...), ',')
	}
	text = append(text, `"$version":`...)
	return append(strconv.AppendInt(text, p.Version, 10), '}')
}

// AzureTime writes a time as IoT Hub does, in UTC with seven digits of a second;
// the zero time is its "never".
func AzureTime(t time.Time) string {
	if t.IsZero() {
		return "0001-01-01T00:00:00Z"
	}
	return t.UTC().Format("2006-01-02T15:04:05.0000000Z")
}
