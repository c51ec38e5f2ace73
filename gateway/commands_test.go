package gateway

import (
	"io"
	"net"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/mqtt"
)

// TestCommandsByHTTPS: a device that polls is given its messages one by one, and
// settles each by the token in the ETag.
func TestCommandsByHTTPS(t *testing.T) {
	const inbox = "/devices/d1/messages/deviceBound"
	h, w := plainHTTPS(t)
	do := func(method, path string) (int, string, map[string][]string) {
		t.Helper()
		response := ask(h, httptest.NewRequest(method, path, nil))
		body, _ := io.ReadAll(response.Body)
		return response.StatusCode, string(body), response.Header
	}
	if status, body, _ := do("GET", inbox+"?api-version=2021-04-12"); status != 204 || body != "" {
		t.Errorf("an empty queue: %d %q", status, body)
	}
	enqueued := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	for _, id := range []string{"m-1", "m-2", "m-3"} {
		w.commands = append(w.commands, &signet.Command{MessageID: id, Sequence: 17, EnqueuedTime: enqueued, DeliveryCount: 2, Ack: signet.AckFull,
			System:     []signet.Property{{Name: "correlation-id", Value: "c"}, {Name: "content-type", Value: "text/plain"}, {Name: "content-encoding", Value: "utf-8"}, {Name: "absolute-expiry-time", Value: "2026-01-03T00:00:00.0000000Z"}},
			Properties: []signet.Property{{Name: "Level", Value: "3"}, {Name: "note", Value: "ü = x"}}, Body: []byte("body of " + id)})
	}
	status, body, header := do("GET", inbox+"?api-version=2016-11-14")
	if status != 200 || body != "body of m-1" {
		t.Fatalf("%d %q", status, body)
	}
	for name, want := range map[string]string{ // as they are spelled: Azure's SDK for C finds them by that
		"ETag": `"lock-1"`, "Content-Type": "application/octet-stream",
		"iothub-messageid": "m-1", "iothub-to": "/devices/d1/messages/deviceBound", "iothub-sequencenumber": "17",
		"iothub-enqueuedtime": "2026-01-02T03:04:05.6780000Z", "iothub-deliverycount": "2", "iothub-ack": "full",
		"iothub-correlationid": "c", "iothub-contenttype": "text/plain", "ContentType": "text/plain", "iothub-contentencoding": "utf-8", "ContentEncoding": "utf-8",
		"iothub-expiry": "2026-01-03T00:00:00.0000000Z", "iothub-app-Level": "3", "iothub-app-note": "ü = x",
	} {
		if got := strings.Join(header[name], "|"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	do("GET", inbox+"?api-version=2021-04-12")
	do("GET", inbox+"?api-version=2021-04-12")
	for _, c := range []struct{ method, path string }{
		{"DELETE", "/lock-1?api-version=2021-04-12"},
		{"DELETE", "/lock-2?api-version=2021-04-12&reject"},
		{"POST", "/lock-3/abandon?api-version=2021-04-12"},
	} {
		if status, body, _ := do(c.method, inbox+c.path); status != 204 || body != "" {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
		}
		if status, body, header := do(c.method, inbox+c.path); status != 412 || header["iothub-errorcode"][0] != "DeviceMessageLockLost" {
			t.Errorf("again: %d %s", status, body)
		}
	}
	if want := []string{"complete m-1", "reject m-2", "abandon m-3"}; !reflect.DeepEqual(w.settled, want) {
		t.Errorf("settled are %v", w.settled)
	}
}

// TestPanicOfAFetch: what goes wrong while a command is fetched ends one connection,
// and nothing else.
func TestPanicOfAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWaist{}
		m := plainDoor(t, w)
		connect := func() net.Conn {
			device := pipe(m)
			device.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d", HasUsername: true, Username: "h.test/d"}))
			if _, err := mqtt.NewClientReader(device, maxPacket).Next(); err != nil {
				t.Fatal(err)
			}
			return device
		}
		device := connect()
		w.commands = []*signet.Command{nil}
		device.Write(mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "devices/d/messages/devicebound/#", QoS: 1}}}))
		for r := mqtt.NewClientReader(device, maxPacket); ; {
			if _, err := r.Next(); err != nil {
				break
			}
		}
		w.mu.Lock()
		w.commands = nil
		w.mu.Unlock()
		connect().Close()
	})
}

// FuzzCommandTopic: whatever the sender wrote, the topic is one that MQTT can say,
// keeps the rules of the SDKs' parsers, and gives back what was written.
func FuzzCommandTopic(f *testing.F) {
	f.Add("m-1", "c/1", "a", "b")
	f.Add("%24.mid", "&=%2F/+ ü漢", "$", "")
	f.Fuzz(func(t *testing.T, id, correlation, name, value string) {
		for _, s := range []string{id, correlation, name, value} {
			if !utf8.ValidString(s) || len(s) > 4<<10 {
				return // refused to the sender
			}
		}
		if _, ours := systemProperties[name]; ours || reserved[strings.ToLower(name)] || name == "" || id == "" {
			return
		}
		who := identityTopics("d1", "")
		topic := who.commandTopic(&signet.Command{MessageID: id, Ack: signet.AckNone,
			System: []signet.Property{{Name: "correlation-id", Value: correlation}}, Properties: []signet.Property{{Name: name, Value: value}}})
		if len(topic) > mqtt.MaxString {
			t.Fatalf("a topic of %d bytes", len(topic))
		}
		bag, ok := strings.CutPrefix(topic, "devices/d1/messages/devicebound/")
		if !ok || !strings.HasPrefix(bag, "%24.mid=") || strings.ContainsAny(bag, "/$+# ") {
			t.Errorf("%q", topic)
		}
		for pair := range strings.SplitSeq(bag, "&") {
			if strings.Count(pair, "=") != 1 {
				t.Errorf("the pair %q", pair)
			}
		}
		system, application := parseProperties(bag)
		if want := []signet.Property{{Name: "message-id", Value: id}, {Name: "correlation-id", Value: correlation}}; !reflect.DeepEqual(system, want) {
			t.Errorf("%q gives %v", topic, system)
		}
		if want := []signet.Property{{Name: name, Value: value}}; !reflect.DeepEqual(application, want) {
			t.Errorf("%q gives %v", topic, application)
		}
	})
}
