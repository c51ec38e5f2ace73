package sdk_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// eventHub is the connection string of the endpoint where the hub's messages are read.
func eventHub(h *hubtest.Hub) string {
	return fmt.Sprintf("Endpoint=sb://%s/;SharedAccessKeyName=%s;SharedAccessKey=%s;EntityPath=%s",
		host, h.Owner.SharedAccessKeyName, h.Owner.SharedAccessKey, h.Config.Hub)
}

// put puts messages on the log of the hub, as a device sends them.
func put(t *testing.T, h *hubtest.Hub, device signet.ConnectionString, bodies ...string) {
	t.Helper()
	token, err := signet.SignSAS(host+"/devices/"+device.DeviceID, "", device.SharedAccessKey, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.Hub().Connect(t.Context(), hub.Credentials{Door: signet.DoorMQTT, Host: host, DeviceID: device.DeviceID, Token: token}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	done := make(chan error, len(bodies))
	for n, body := range bodies {
		m := &signet.Message{Body: []byte(body), Properties: []signet.Property{{Name: "level", Value: "high"}},
			System: []signet.Property{{Name: "message-id", Value: fmt.Sprint("m-", n)}, {Name: "correlation-id", Value: "c"},
				{Name: "content-type", Value: "application/json"}, {Name: "content-encoding", Value: "utf-8"}}}
		s.Send(t.Context(), m, func(err error) { done <- err })
	}
	for range bodies {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// objects gives the lines of JSON that a script has printed.
func objects(out string) (all []map[string]any) {
	for line := range strings.Lines(out) {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) == nil {
			all = append(all, m)
		}
	}
	return all
}

// TestEventHubsSDK: a back end that was written for Event Hubs reads what devices
// send, by TLS and by WebSocket, and is told of the hub and of the end of its log.
func TestEventHubsSDK(t *testing.T) {
	h := startHub(t, withAMQP)
	d := createDevice(t, h, signet.Identity{DeviceID: "press-17"})
	device := signet.ConnectionString{DeviceID: "press-17", SharedAccessKey: d.Auth.PrimaryKey}
	put(t, h, device, `{"t":1}`, `{"t":2}`, `{"t":3}`)
	for door, connectionString := range map[string]string{"tcp": eventHub(h), "ws": eventHub(h), "tcp, redirected": h.Owner.String()} {
		t.Run(door, func(t *testing.T) {
			door, _, redirected := strings.Cut(door, ",")
			if redirected {
				connectionString = strings.Replace(connectionString, "HostName="+h.Owner.HostName, "HostName="+host, 1)
			}
			out, err := node(t, h, "eventhub.js", door, connectionString, "$Default", "3")
			if err != nil {
				t.Fatal(out)
			}
			seen := objects(out)
			if redirected {
				if want := map[string]any{"redirect": "amqp:link:redirect", "hostname": host, "address": "amqps://" + host + ":5671/" + h.Config.Hub + "/$management"}; !maps.Equal(seen[0], want) {
					t.Errorf("redirected by %v", seen[0])
				}
				seen = seen[1:]
			}
			if len(seen) != 5 || seen[0]["name"] != h.Config.Hub || !reflect.DeepEqual(seen[0]["partitions"], []any{"0"}) ||
				seen[1]["isEmpty"] != false || seen[1]["lastEnqueuedSequenceNumber"] != seen[4]["number"] || seen[1]["beginningSequenceNumber"] != seen[2]["number"] {
				t.Fatalf("the SDK saw %v", seen)
			}
			for n, e := range seen[2:] {
				system := e["system"].(map[string]any)
				want := map[string]any{"body": map[string]any{"t": float64(n + 1)}, "properties": map[string]any{"level": "high"},
					"messageId": fmt.Sprint("m-", n), "correlationId": "c", "contentType": "application/json", "offset": fmt.Sprintf("%.0f", e["number"])}
				for name, value := range want {
					if !reflect.DeepEqual(e[name], value) {
						t.Errorf("%s is %v, want %v", name, e[name], value)
					}
				}
				if system["iothub-connection-device-id"] != "press-17" || system["iothub-message-source"] != "Telemetry" ||
					system["iothub-connection-auth-generation-id"] != d.GenerationID || system["contentEncoding"] != "utf-8" || system["iothub-enqueuedtime"] == nil {
					t.Errorf("system properties are %v", system)
				}
			}
		})
	}
}

// TestEventHubsSDKPositions: from a sequence number, an offset or a time on; what
// comes later comes too.
func TestEventHubsSDKPositions(t *testing.T) {
	h := startHub(t, withAMQP)
	d := createDevice(t, h, signet.Identity{DeviceID: "press-17"})
	device := signet.ConnectionString{DeviceID: "press-17", SharedAccessKey: d.Auth.PrimaryKey}
	put(t, h, device, `{"t":1}`)
	time.Sleep(3 * time.Millisecond)
	middle := time.Now().Add(-time.Millisecond) // the SDK asks for what came later
	put(t, h, device, `{"t":2}`)
	_, last, _, err := h.Hub().Ends(t.Context(), h.Config.Hub)
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]float64{
		fmt.Sprintf(`{"sequenceNumber":%d,"isInclusive":true}`, last.Number()): 2,
		fmt.Sprintf(`{"offset":"%d"}`, last.Number()-1):                        2,
		fmt.Sprintf(`{"enqueuedOn":%d}`, middle.UnixMilli()):                   2,
		"latest": 3,
	} {
		over, later := make(chan bool), make(chan bool)
		go func() {
			defer close(later)
			for from == "latest" { // nobody says when the script has its link: it takes the first that comes then
				select {
				case <-over:
					return
				case <-time.After(time.Second):
					put(t, h, device, `{"t":3}`)
				}
			}
		}()
		out, err := node(t, h, "eventhub.js", "tcp", eventHub(h), "a-group", "1", from)
		close(over)
		<-later
		seen := objects(out)
		if err != nil || len(seen) != 3 || !reflect.DeepEqual(seen[2]["body"], map[string]any{"t": want}) {
			t.Errorf("from %s: %v %s", from, err, out)
		}
	}
}

// TestEventHubsSDKRefused: what the SDK hears of a wrong key, a policy without the
// right, and a hub that is not there.
func TestEventHubsSDKRefused(t *testing.T) {
	h := startHub(t, withAMQP)
	of, err := h.Registry().HubByName(h.Config.Hub)
	if err != nil {
		t.Fatal(err)
	}
	weak := of.Policy("registryRead")
	for what, c := range map[string]struct{ from, to, want string }{
		"a wrong key":    {h.Owner.SharedAccessKey, weak.PrimaryKey, "token.signature"},
		"another policy": {"iothubowner;SharedAccessKey=" + h.Owner.SharedAccessKey, "registryRead;SharedAccessKey=" + weak.PrimaryKey, "token.rights"},
		"another hub's":  {"EntityPath=" + h.Config.Hub, "EntityPath=other", "token.audience"},
	} {
		out, err := node(t, h, "eventhub.js", "tcp", strings.Replace(eventHub(h), c.from, c.to, 1), "$Default", "1")
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v %s", what, err, out)
		}
	}
}

// TestServiceSDKByAMQP: a back end that was written for Azure sends to a device that is
// connected by MQTT, and is told of the ends; what cannot be sent is refused.
func TestServiceSDKByAMQP(t *testing.T) {
	for _, door := range []string{"amqp", "ws"} {
		t.Run(door, func(t *testing.T) {
			h := startHub(t, withAMQP)
			d := createDevice(t, h, signet.Identity{DeviceID: "press-17"})
			device := signet.ConnectionString{HostName: host, DeviceID: "press-17", SharedAccessKey: d.Auth.PrimaryKey}
			received := make(chan string)
			go func() {
				out, err := node(t, h, "commands.js", "mqtt", device.String(), h.CAFile)
				received <- fmt.Sprint(err, out)
			}()
			connectionString := h.Owner
			connectionString.HostName = host
			out, err := node(t, h, "service.js", door, connectionString.String(), "press-17")
			if err != nil {
				t.Fatal(out)
			}
			for _, want := range []string{"m-0 DeviceNotFoundError amqp:not-found", "identity.unknown", "m-big MessageTooLargeError amqp:link:message-size-exceeded",
				"limit.message-size", "m-1 sent", "last sent", "abandons", `"m-1":"press-17 Success"`, `"last":"press-17 Success"`,
				"amqp:not-implemented"} {
				if !strings.Contains(out, want) {
					t.Errorf("the back end does not say %s:\n%s", want, out)
				}
			}
			heard := <-received
			for _, want := range []string{`"id":"m-1"`, `"correlation":"c-1"`, `"type":"application/json"`, `"level":"3"`, `"note":"a&b=c"`,
				`"iothub-ack":"full"`, `"body":"{\"t\":99}"`, `"id":"last"`} {
				if !strings.Contains(heard, want) {
					t.Errorf("the device does not hear %s:\n%s", want, heard)
				}
			}
			c := backEnd(t, h)
			if records, _, err := c.Feedback(t.Context()); err != nil || len(records) > 0 {
				t.Errorf("feedback that is left: %v %v", records, err)
			}
		})
	}
}
