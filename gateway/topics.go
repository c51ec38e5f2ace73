package gateway

import (
	"strconv"
	"strings"

	"github.com/signet-iot/signet"
)

// An identity knows the topics that are its own: everything under devices/{id}
// or devices/{id}/modules/{module}, written as it is, never percent-encoded.
type identity struct{ prefix string }

func identityTopics(deviceID, moduleID string) identity {
	if moduleID == "" {
		return identity{"devices/" + deviceID}
	}
	return identity{"devices/" + deviceID + "/modules/" + moduleID}
}

// Topics that are the same for every identity.
const (
	twinGet       = "$iothub/twin/GET/?"
	twinPatch     = "$iothub/twin/PATCH/properties/reported/?"
	twinResult    = "$iothub/twin/res/"
	twinDesired   = "$iothub/twin/PATCH/properties/desired/"
	methodCalls   = "$iothub/methods/POST/"
	methodResults = "$iothub/methods/res/"

	credentialRequest = "$iothub/credentials/POST/issueCertificate/?"
	credentialResult  = "$iothub/credentials/res/"
)

// telemetry gives the property bag of a topic that takes this identity's
// telemetry. All of these are written by one SDK or another:
//
//	{prefix}/messages/events
//	{prefix}/messages/events/
//	{prefix}/messages/events/[?]{bag}[/]
func (i identity) telemetry(topic string) (bag string, ok bool) {
	rest, ok := strings.CutPrefix(topic, i.prefix)
	if ok {
		rest, ok = strings.CutPrefix(rest, "/messages/events")
	}
	if !ok || rest == "" {
		return "", ok
	}
	bag, ok = strings.CutPrefix(rest, "/")
	if !ok {
		return "", false
	}
	bag = strings.TrimSuffix(bag, "/") // one only: a value may end in a slash
	return strings.TrimPrefix(bag, "?"), true
}

// Subscriptions is a set of what a device listens to. They are stored by their places, see
// conn.kept, and none may take another.
type subscriptions uint8

const (
	toCommands      subscriptions = 1 << iota // cloud-to-device messages
	toInputs                                  // messages routed to a module
	toEverything                              // all of a module: older C and C# SDKs
	toTwinResults                             // answers to twin requests
	toTwinChanges                             // new desired properties
	toMethods                                 // direct method calls
	toCredentials                             // answers to requests for a certificate
	noSubscriptions subscriptions = 0
)

// maxSubscriptions is Azure's bound on the subscriptions of a device.
const maxSubscriptions = 5

// subscription gives what a filter asks for; none for a filter that is not one of
// the documented, or of another identity.
func (i identity) subscription(filter string) subscriptions {
	switch filter {
	case "$iothub/twin/res/#":
		return toTwinResults
	case "$iothub/twin/PATCH/properties/desired/#":
		return toTwinChanges
	case "$iothub/methods/POST/#":
		return toMethods
	case "$iothub/credentials/res/#":
		return toCredentials
	case i.prefix + "/messages/devicebound/#":
		return toCommands
	}
	// Azure's SDK for embedded C says + for the device's own ID. It stands for no other:
	// a session is given the messages of its own identity alone.
	module := strings.Contains(i.prefix, "/modules/")
	if filter == "devices/+/messages/devicebound/#" && !module {
		return toCommands
	}
	if module {
		switch filter {
		case i.prefix + "/inputs/#":
			return toInputs
		case i.prefix + "/#":
			return toEverything
		}
	}
	return noSubscriptions
}

// A twinRequest is what the topic of a request about the twin says.
type twinRequest struct {
	patch      bool   // of the reported properties; otherwise a GET
	id         string // $rid, to be echoed byte for byte; "" when there is none
	version    int64  // $version, the one that a patch is meant for; 0 when there is none
	badVersion bool
}

func parseTwinRequest(topic string) (r twinRequest, ok bool) {
	query, ok := strings.CutPrefix(topic, twinGet)
	if !ok {
		query, ok = strings.CutPrefix(topic, twinPatch)
		r.patch = ok
	}
	if !ok {
		return r, false
	}
	r.id, _ = queryValue(query, "$rid")
	if version, ok := queryValue(query, "$version"); ok {
		var err error
		r.version, err = strconv.ParseInt(version, 10, 64)
		r.badVersion = err != nil || r.version < 1
	}
	return r, true
}

// queryValue finds the value of a name in what follows the "?" of a topic. Nothing
// there is encoded.
func queryValue(query, name string) (value string, ok bool) {
	for pair := range strings.SplitSeq(query, "&") {
		if k, v, ok := strings.Cut(pair, "="); ok && k == name {
			return v, true
		}
	}
	return "", false
}

// systemProperties maps the keys that the SDKs write to the names of the system
// properties. An empty name is a property that a device may write and the hub
// does not take: it knows better, or it has no meaning from device to cloud.
var systemProperties = map[string]string{
	"$.mid":            "message-id",
	"$.cid":            "correlation-id",
	"$.uid":            "user-id",
	"$.ct":             "content-type",
	"$.ce":             "content-encoding",
	"$.ctime":          "iothub-creation-time-utc",
	"$.sub":            "dt-subject",
	"$.ifid":           "iothub-interface-id",
	"$.schema":         "iothub-message-schema",
	"$.on":             "iothub-outputname",
	"$.diagid":         "Diagnostic-Id",
	"$.diagctx":        "Correlation-Context",
	"iothub-operation": "iothub-operation",
	"iothub-ack":       "iothub-ack",
	"$.to":             "",
	"$.exp":            "",
	"$.cdid":           "", // who is connected is stamped by the hub, never
	"$.cmid":           "", // believed
}

// reserved are the names of what the hub stamps on a message, in lower case.
var reserved = map[string]bool{
	"iothub-connection-device-id":          true,
	"iothub-connection-module-id":          true,
	"iothub-connection-auth-method":        true,
	"iothub-connection-auth-generation-id": true,
	"iothub-enqueuedtime":                  true,
	"iothub-message-source":                true,
}

// parseProperties reads a property bag: pairs name=value joined by "&", both
// percent-encoded. A name without "=" is a property without a value. Names that
// the hub stamps are dropped; a name that repeats is kept as often as it came.
// Nothing is malformed: see [unescape].
func parseProperties(bag string) (system, application []signet.Property) {
	if bag == "" {
		return nil, nil
	}
	application = make([]signet.Property, 0, strings.Count(bag, "&")+1)
	for pair := range strings.SplitSeq(bag, "&") {
		if pair == "" {
			continue
		}
		name, value, hasValue := strings.Cut(pair, "=")
		p := signet.Property{Name: unescape(name), Value: unescape(value), Null: !hasValue}
		known, isSystem := systemProperties[p.Name]
		switch {
		case isSystem && known == "" || p.Name == "":
		case isSystem:
			p.Name = known
			system = append(system, p)
		case reserved[strings.ToLower(p.Name)]:
		default:
			application = append(application, p)
		}
	}
	return system, application
}
