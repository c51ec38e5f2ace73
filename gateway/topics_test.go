package gateway

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/signet-iot/signet"
)

func TestTelemetryTopics(t *testing.T) {
	device, module := identityTopics("d1", ""), identityTopics("d1", "m1")
	for _, c := range []struct {
		who   identity
		topic string
		bag   string
		ok    bool
	}{
		{device, "devices/d1/messages/events", "", true},
		{device, "devices/d1/messages/events/", "", true},
		{device, "devices/d1/messages/events/a=b", "a=b", true},
		{device, "devices/d1/messages/events/a=b/", "a=b", true},
		{device, "devices/d1/messages/events/a=b//", "a=b/", true},
		{device, "devices/d1/messages/events/?a=b", "a=b", true},
		{module, "devices/d1/modules/m1/messages/events/a=b/", "a=b", true},
		{module, "devices/d1/modules/m1/messages/events", "", true},
		{device, "devices/d1/messages/events2", "", false},
		{device, "devices/D1/messages/events", "", false},
		{device, "devices/d12/messages/events", "", false},
		{device, "/devices/d1/messages/events", "", false},
		{device, "devices/d1/modules/m1/messages/events", "", false},
		{module, "devices/d1/messages/events", "", false},
		{device, "", "", false},
	} {
		if bag, ok := c.who.telemetry(c.topic); bag != c.bag || ok != c.ok {
			t.Errorf("%s of %s: %q, %v", c.topic, c.who.prefix, bag, ok)
		}
	}
}

// One bag of everything that the table of system properties knows.
func TestProperties(t *testing.T) {
	system, application := parseProperties("%24.mid=m&$.cid=c&%24.uid=u&%24.ct=t&%24.ce=e&%24.ctime=2026-01-02T03%3A04%3A05Z" +
		"&%24.sub=component&%24.ifid=urn%3Ax&%24.schema=s&%24.on=out&%24.diagid=1&%24.diagctx=creationtimeutc%3D5&iothub-ack=full&iothub-operation=d2c" +
		"&&twice=1&twice=2&%24.unknown=x&=nameless")
	want := []signet.Property{
		{Name: "message-id", Value: "m"}, {Name: "correlation-id", Value: "c"}, {Name: "user-id", Value: "u"},
		{Name: "content-type", Value: "t"}, {Name: "content-encoding", Value: "e"},
		{Name: "iothub-creation-time-utc", Value: "2026-01-02T03:04:05Z"}, {Name: "dt-subject", Value: "component"},
		{Name: "iothub-interface-id", Value: "urn:x"}, {Name: "iothub-message-schema", Value: "s"},
		{Name: "iothub-outputname", Value: "out"}, {Name: "Diagnostic-Id", Value: "1"},
		{Name: "Correlation-Context", Value: "creationtimeutc=5"}, {Name: "iothub-ack", Value: "full"}, {Name: "iothub-operation", Value: "d2c"},
	}
	if !reflect.DeepEqual(system, want) {
		t.Errorf("system:\n got %v\nwant %v", system, want)
	}
	if want := []signet.Property{{Name: "twice", Value: "1"}, {Name: "twice", Value: "2"}, {Name: "$.unknown", Value: "x"}}; !reflect.DeepEqual(application, want) {
		t.Errorf("application: %v", application)
	}
}

// Whatever the bag: what comes out is text, is no more than what went in, never
// bears a name that the hub stamps; and a bag that is well encoded says what the
// standard decoder says.
func FuzzPropertyBag(f *testing.F) {
	f.Add("%24.mid=1&a=b&c&d=")
	f.Add("iothub-connection-device-id=x&IOTHUB-ENQUEUEDTIME=y&%69othub-message-source=z&$.cdid=w")
	f.Add("5%=%zz&%ff=%00&%e2%82%ac=%E2%82%AC&a=b=c")
	f.Fuzz(func(t *testing.T, bag string) {
		if !utf8.ValidString(bag) {
			return // the codec lets no such topic through
		}
		system, application := parseProperties(bag)
		size := 0
		for _, p := range application {
			size += len(p.Name) + len(p.Value)
			if reserved[strings.ToLower(p.Name)] || systemProperties[p.Name] != "" || p.Name == "$.cdid" || p.Name == "$.cmid" {
				t.Errorf("%q is let through", p.Name)
			}
			if p.Null && p.Value != "" {
				t.Errorf("%+v", p)
			}
		}
		for _, p := range system {
			size += len(p.Value)
			if reserved[strings.ToLower(p.Name)] {
				t.Errorf("%q is let through", p.Name)
			}
		}
		if size > len(bag) || len(system)+len(application) > strings.Count(bag, "&")+1 {
			t.Errorf("%d bytes became %d in %d properties", len(bag), size, len(system)+len(application))
		}
		for _, p := range append(system, application...) {
			if !utf8.ValidString(p.Name) || !utf8.ValidString(p.Value) {
				t.Errorf("not text: %+v", p)
			}
		}
		if decoded, err := url.PathUnescape(bag); err == nil && utf8.ValidString(decoded) && unescape(bag) != decoded {
			t.Errorf("%q became %q, not %q", bag, unescape(bag), decoded)
		}
	})
}
