package backend

import (
	"bytes"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/wire/amqp"
)

var plant = signet.Hub{Name: "plant", HostName: "plant.example.test"}

// TestSelectors: what the SDKs of Event Hubs write, and what nobody should.
func TestSelectors(t *testing.T) {
	const last = 3*512 + 7
	after := func(sequence uint64, index uint32) hub.Start {
		return hub.Start{After: signet.Position{Sequence: sequence, Index: index}}
	}
	ms := func(n int64) hub.Start { return hub.Start{Time: time.UnixMilli(n).UTC()} }
	const a = "amqp.annotation.x-opt-"
	for text, want := range map[string]any{
		"":                                         after(0, 0),
		a + "offset > '-1'":                        after(0, 0),
		a + "offset >= '-1'":                       after(0, 0),
		a + "offset > '@latest'":                   after(3, 7),
		a + "offset >= '@latest'":                  after(3, 7),
		a + "offset > '1025'":                      after(2, 1),
		a + "offset >= '1025'":                     after(2, 0),
		a + "sequence-number > '1025'":             after(2, 1),
		a + "sequence-number >= '1024'":            after(1, 511),
		a + "sequence-number > '1543'":             after(3, 7),
		a + "sequence-number >= '1544'":            after(3, 7),
		a + "sequence-number > '1544'":             signet.ReaderPosition,
		a + "offset > 1025":                        after(2, 1),
		a + "enqueued-time > '1000'":               ms(1001),
		a + "enqueued-time >= '1000'":              ms(1000),
		a + "enqueuedtimeutc > 1000":               ms(1001),
		a + "enqueued-time >= '-1'":                ms(0),
		a + "sequence-number > '@latest'":          signet.ReaderFilter,
		a + "offset > '-2'":                        signet.ReaderFilter,
		a + "offset > ''":                          signet.ReaderFilter,
		a + "offset > '9007199254740992'":          signet.ReaderFilter,
		a + "offset < '1'":                         signet.ReaderFilter,
		a + "offset > '1' AND a > '2'":             signet.ReaderFilter,
		a + "partition-key = 'x'":                  signet.ReaderFilter,
		"offset > '1'":                             signet.ReaderFilter,
		a + "offset > " + strings.Repeat("1", 300): signet.ReaderFilter,
	} {
		b, err := parseSelector(text)
		var got any
		if err == nil {
			got, err = b.start(signet.PositionOf(last))
		}
		if err != nil {
			got = signet.CodeOf(err)
		}
		if got != want {
			t.Errorf("%q begins at %v, want %v", text, got, want)
		}
	}
}

// TestNothingThere: whatever number a reader remembers, when the log holds nothing all that
// comes is ahead of it, also in a log that was begun anew.
func TestNothingThere(t *testing.T) {
	for _, text := range []string{"", "amqp.annotation.x-opt-offset > '@latest'", "amqp.annotation.x-opt-offset > '1025'", "amqp.annotation.x-opt-sequence-number >= '1025'"} {
		b, err := parseSelector(text)
		if err != nil {
			t.Fatal(err)
		}
		if from, err := b.start(signet.Position{}); err != nil || from != (hub.Start{}) {
			t.Errorf("%q begins at %v: %v", text, from, err)
		}
	}
}

// TestSelectorForms: a filter by name or by code, described or bare, and others.
func TestSelectorForms(t *testing.T) {
	entry := func(key, value any) amqp.Map { return amqp.Map{{Key: key, Value: value}} }
	for _, c := range []struct {
		filters amqp.Map
		want    string
	}{
		{nil, ""},
		{entry(selectorFilter, amqp.Described{Descriptor: selectorCode, Value: "x"}), "x"},
		{entry(selectorFilter, amqp.Described{Descriptor: selectorFilter, Value: "x"}), "x"},
		{entry(selectorFilter, "x"), "x"},
		{entry(selectorFilter, amqp.Described{Descriptor: uint64(7), Value: "x"}), "reader.filter"},
		{entry(selectorFilter, int32(7)), "reader.filter"},
		{entry(amqp.Symbol("selector"), amqp.Described{Descriptor: selectorFilter, Value: "x"}), "x"},   // Qpid Proton
		{entry(amqp.Symbol("jms-selector"), amqp.Described{Descriptor: selectorCode, Value: "x"}), "x"}, // rhea
		{entry("selector", amqp.Described{Descriptor: selectorCode, Value: "x"}), "x"},                  // as a string
		{entry(selectorFilter, nil), ""},                                                                // AMQP §3.5.8: none of that name
		{entry(amqp.Symbol("other"), "x"), "reader.filter"},
		{append(entry(selectorFilter, "x"), entry(amqp.Symbol("other"), amqp.Described{Descriptor: selectorCode, Value: "y"})...), "reader.filter"},
		{entry(amqp.List{}, "x"), "reader.filter"},
	} {
		got, err := selectorOf(c.filters)
		if err != nil {
			got = string(signet.CodeOf(err))
		}
		if got != c.want {
			t.Errorf("%v: %q, want %q", c.filters, got, c.want)
		}
	}
}

// FuzzSelector: whatever is asked for is a place in the log, or refused.
func FuzzSelector(f *testing.F) {
	for _, seed := range []string{"", "amqp.annotation.x-opt-offset > '-1'", "amqp.annotation.x-opt-enqueued-time >= '1767225600000'",
		"amqp.annotation.x-opt-sequence-number > '9007199254740991'", "amqp.annotation.x-opt-offset > '@latest'", "' > '"} {
		f.Add(seed, int64(1024))
	}
	f.Fuzz(func(t *testing.T, text string, end int64) {
		last := signet.PositionOf(end)
		b, err := parseSelector(text)
		if err == nil {
			var from hub.Start
			from, err = b.start(last)
			if err == nil && last != (signet.Position{}) && last.Before(from.After) {
				t.Errorf("%q begins at %v, and the log ends at %v", text, from.After, last)
			}
		}
		if err != nil && signet.CodeOf(err) != signet.ReaderFilter && signet.CodeOf(err) != signet.ReaderPosition {
			t.Errorf("%q: %v", text, err)
		}
	})
}

// TestAddresses: as IoT Hub has them, as Event Hubs has them, and what a back end has
// no business at.
func TestAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"$management":       "1 messages/events/$management",
		"plant/$management": "1 messages/events/$management",
		"amqps://plant.example.test:5671/Plant/$management":                 "1 messages/events/$management",
		"/messages/events/$management":                                      "2 messages/events/$management",
		"amqps://plant.example.test/messages/events/$management":            "2 messages/events/$management",
		"plant/ConsumerGroups/$Default/Partitions/0":                        "3 messages/events/consumergroups/$default/partitions/0 $default",
		"/messages/events/ConsumerGroups/line-4/Partitions/0":               "3 messages/events/consumergroups/line-4/partitions/0 line-4",
		"plant/ConsumerGroups/$Default/Partitions/1":                        "reader.partition",
		"plant/ConsumerGroups/$Default/Partitions/":                         "request.not-found",
		"plant/ConsumerGroups/" + strings.Repeat("g", 51) + "/Partitions/0": "request.not-found",
		"plant/ConsumerGroups/a%2Fb/Partitions/0":                           "request.not-found",
		"plant/ConsumerGroups//Partitions/0":                                "request.not-found",
		"other/ConsumerGroups/$Default/Partitions/0":                        "request.not-found",
		"plant":                                    "4 messages/events",
		"plant/Partitions/0":                       "4 messages/events/partitions/0",
		"/messages/devicebound":                    "5 messages/devicebound",
		"amqps://h:5671/messages/deviceBound":      "5 messages/devicebound",
		"/messages/serviceBound/feedback":          "6 messages/servicebound/feedback",
		"/messages/serviceBound/filenotifications": "7 messages/servicebound/filenotifications",
		"":                           "request.not-found",
		"/devices/x/messages/events": "request.not-found",
		"%zz":                        "request.not-found",
		strings.Repeat("/", 600):     "request.not-found",
	} {
		n, err := parseAddress(address, plant)
		got := strings.TrimSpace(fmt.Sprint(int(n.kind), " ", n.path, " ", n.group))
		if err != nil {
			got = string(signet.CodeOf(err))
		}
		if got != want {
			t.Errorf("%q is %q, want %q", address, got, want)
		}
	}
}

// FuzzAddress: an address is a node whose path a token has to cover, or nothing.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"$management", "plant/ConsumerGroups/$Default/Partitions/0", "sb://h/messages/events", "%2f", "a://b//c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		n, err := parseAddress(address, plant)
		if err == nil && (n.kind == 0 || !strings.HasPrefix(n.path, "messages/")) {
			t.Errorf("%q is %v", address, n)
		}
		if path, ok := audience(address, plant); ok && err == nil && path != strings.ToLower(path) {
			t.Errorf("%q covers %q", address, path)
		}
	})
}

// TestAudiences: what a token is for, however its SDK writes it, and what it covers.
func TestAudiences(t *testing.T) {
	for _, c := range []struct {
		resource, address string
		want              bool
	}{
		{"plant.example.test", "plant/ConsumerGroups/$Default/Partitions/0", true},
		{"plant.example.test", "/messages/devicebound", true},
		{"amqps://plant.example.test:5671/", "/messages/devicebound", true},
		{"https://plant.example.test", "/messages/serviceBound/feedback", true},
		{"plant.example.test/messages/events", "/messages/events/$management", true},
		{"plant.example.test/messages/events", "plant/ConsumerGroups/a/Partitions/0", true},
		{"plant.example.test/messages/events", "/messages/devicebound", false},
		{"sb://plant.example.test/plant/ConsumerGroups/$default/Partitions/0", "plant/ConsumerGroups/$Default/Partitions/0", true},
		{"sb://plant.example.test/plant/consumergroups/$default/partitions/0", "plant/ConsumerGroups/other/Partitions/0", false},
		{"sb://plant.example.test/plant/$management", "$management", true},
		{"sb://plant.example.test/plant/$management", "plant/ConsumerGroups/$Default/Partitions/0", false},
		{"amqps://plant.example.test/plant", "plant/$management", true},
		{"amqps://plant.example.test/plan", "plant/$management", false},
		{"plant.example.test/devices/d", "/messages/devicebound", false},
		{"other.example.test", "/messages/devicebound", false},
		{"sb://plant.example.test.evil.test/plant", "$management", false},
		{"", "$management", false},
	} {
		n, err := parseAddress(c.address, plant)
		if err != nil {
			t.Fatal(err)
		}
		path, ok := audience(c.resource, plant)
		if got := ok && (grant{path: path}).covers(n.path); got != c.want {
			t.Errorf("a token for %q is good for %q: %v", c.resource, c.address, got)
		}
	}
}

// TestEvent: a message of the log as a reader gets it, with the types that SDKs
// insist on.
func TestEvent(t *testing.T) {
	taken := time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.UTC)
	m := &signet.Message{Hub: "plant", DeviceID: "press-17", ModuleID: "camera", GenerationID: "638", AuthMethod: `{"scope":"module"}`,
		Source: signet.SourceTelemetry, EnqueuedTime: taken, Body: []byte(`{"t":99}`),
		System: []signet.Property{{Name: "message-id", Value: "m-1"}, {Name: "correlation-id", Value: "c"}, {Name: "user-id", Value: "u"},
			{Name: "content-type", Value: "application/json"}, {Name: "content-encoding", Value: "utf-8"}, {Name: "dt-subject", Value: "thermostat"},
			{Name: "iothub-connection-device-id", Value: "another"}, {Name: "iothub-creation-time-utc", Null: true}},
		Properties: []signet.Property{{Name: "level", Value: "low"}, {Name: "bare", Null: true}, {Name: "level", Value: "high"}}}
	got, err := amqp.ParseMessage(appendEvent(nil, signet.Position{Sequence: 3, Index: 7}, m, latest(signet.Position{Sequence: 4}, taken, taken)))
	if err != nil {
		t.Fatal(err)
	}
	symbol := func(name string, value any) amqp.Entry { return amqp.Entry{Key: amqp.Symbol(name), Value: value} }
	want := &amqp.Message{
		DeliveryAnnotations: amqp.Map{symbol("last_enqueued_sequence_number", int64(2048)), symbol("last_enqueued_offset", "2048"),
			symbol("last_enqueued_time_utc", taken), symbol("runtime_info_retrieval_time_utc", taken)},
		Annotations: amqp.Map{symbol("x-opt-sequence-number", int64(1543)), symbol("x-opt-offset", "1543"), symbol("x-opt-enqueued-time", taken),
			symbol("iothub-enqueuedtime", taken), symbol("iothub-message-source", "Telemetry"), symbol("iothub-connection-device-id", "press-17"),
			symbol("iothub-connection-module-id", "camera"), symbol("iothub-connection-auth-method", `{"scope":"module"}`),
			symbol("iothub-connection-auth-generation-id", "638"), symbol("dt-subject", "thermostat")},
		Properties:  amqp.Properties{MessageID: "m-1", CorrelationID: "c", UserID: []byte("u"), ContentType: "application/json", ContentEncoding: "utf-8"},
		Application: amqp.Map{{Key: "bare"}, {Key: "level", Value: "high"}},
		Body:        amqp.DataBody, Data: [][]byte{[]byte(`{"t":99}`)},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the reader gets\n%+v, want\n%+v", got, want)
	}
}

// TestManyProperties: as many properties as a message can have hold no reader up, and
// of those of one name the last counts here too.
func TestManyProperties(t *testing.T) {
	m := &signet.Message{Properties: []signet.Property{{Name: "0", Value: "first"}}}
	for i := range 60_000 {
		m.Properties = append(m.Properties, signet.Property{Name: strconv.FormatInt(int64(i), 36)})
	}
	if m.Size() > signet.MaxMessageSize {
		t.Fatal(m.Size())
	}
	began := time.Now()
	event := appendEvent(nil, signet.Position{}, m, nil)
	if took := time.Since(began); took > 2*time.Second { // comparing them all takes five seconds
		t.Errorf("it takes %v to write the event", took)
	}
	if bytes.Contains(event, []byte("first")) {
		t.Error("a property that was written again is there")
	}
}

// TestConditions: every code that can come here has a condition, and none is told as
// our own failure that is not.
func TestConditions(t *testing.T) {
	for _, c := range signet.Codes {
		family, _, _ := strings.Cut(string(c.Code), ".")
		switch family {
		case "token", "hub", "reader", "message", "request", "limit", "files":
			if conditionOf(c.Code) == amqp.InternalError {
				t.Errorf("%s has no condition", c.Code)
			}
		}
	}
}

// TestRecipients: to whom a message goes, and what a message can be.
func TestRecipients(t *testing.T) {
	for to, want := range map[string]string{
		"/devices/press-17/messages/devicebound":            "press-17/",
		"devices/press-17/messages/deviceBound":             "press-17/",
		"amqps://h:5671/devices/a%20b/messages/devicebound": "a b/",
		"/devices/a%2Fb/messages/devicebound":               "a/b/",
		"/devices/d/modules/m/messages/deviceBound":         "d/m",
		"":                                      "message.malformed",
		"/devices/d":                            "message.malformed",
		"/devices/d/messages/events":            "message.malformed",
		"/devices/%zz/messages/devicebound":     "message.malformed",
		"/devices/d/mod/m/messages/devicebound": "message.malformed",
	} {
		device, module, err := recipient(to)
		got := device + "/" + module
		if err != nil {
			got = string(signet.CodeOf(err))
		}
		if got != want {
			t.Errorf("%q is to %q, want %q", to, got, want)
		}
	}
}

func TestReadCommand(t *testing.T) {
	m := &amqp.Message{Body: amqp.DataBody, Data: [][]byte{[]byte("he"), []byte("llo")},
		Properties:  amqp.Properties{MessageID: amqp.UUID{0x0a, 0x6f, 15: 0x10}, CorrelationID: uint64(7), UserID: []byte("u"), AbsoluteExpiryTime: time.Unix(9, 0)},
		Application: amqp.Map{{Key: "iothub-ack", Value: "Full"}, {Key: "n", Value: int32(-3)}, {Key: "x", Value: 1.5}, {Key: "b", Value: true}, {Key: "s", Value: "text"}}}
	got, err := readCommand(m)
	want := signet.Command{MessageID: "0a6f0000-0000-0000-0000-000000000010", Ack: signet.AckFull, ExpiryTime: time.Unix(9, 0), Body: []byte("hello"),
		System:     []signet.Property{{Name: "correlation-id", Value: "7"}, {Name: "user-id", Value: "u"}},
		Properties: []signet.Property{{Name: "n", Value: "-3"}, {Name: "x", Value: "1.5"}, {Name: "b", Value: "true"}, {Name: "s", Value: "text"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %+v, want %+v", err, got, want)
	}
	for what, m := range map[string]*amqp.Message{
		"a list as body":     {Body: amqp.SequenceBody},
		"a map as value":     {Body: amqp.ValueBody, Value: amqp.Map{}},
		"a map as property":  {Application: amqp.Map{{Key: "m", Value: amqp.Map{}}}},
		"a property of null": {Application: amqp.Map{{Key: "m"}}},
		"a key of a list":    {Application: amqp.Map{{Key: amqp.List{}, Value: "x"}}},
		"an ID of bytes":     {Properties: amqp.Properties{MessageID: []byte{0xff}}},
	} {
		if _, err := readCommand(m); signet.CodeOf(err) != signet.MessageMalformed {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzMessage: what a back end sends is a message to a device, or refused.
func FuzzMessage(f *testing.F) {
	m := amqp.Message{Body: amqp.DataBody, Data: [][]byte{[]byte("hello")}, Application: amqp.Map{{Key: "iothub-ack", Value: "full"}, {Key: "n", Value: int32(3)}},
		Properties: amqp.Properties{To: "/devices/d/messages/devicebound", MessageID: amqp.UUID{1}, CorrelationID: uint64(7), AbsoluteExpiryTime: start}}
	f.Add(m.Append(nil))
	m.Body, m.Value = amqp.ValueBody, "hello"
	f.Add(m.Append(nil))
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := whole(&amqp.Delivery{Payload: payload})
		if err == nil {
			_, _, err = recipient(m.Properties.To)
		}
		if err == nil {
			_, err = readCommand(m)
		}
		if err != nil && signet.CodeOf(err) != signet.MessageMalformed {
			t.Error(err)
		}
	})
}
