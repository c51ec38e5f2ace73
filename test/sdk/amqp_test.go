package sdk_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/commands"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
)

func withAMQP(c *server.Config) { c.AMQP = address + ":5671" }

// TestAMQPSDK: all that a device can do, by AMQP over TLS and over WebSocket, with a
// certificate and with a key.
func TestAMQPSDK(t *testing.T) {
	h := startHub(t, withAMQP)
	root := hubtest.NewCA(t, "Acme Root")
	line := root.Intermediate(t, "Factory").Intermediate(t, "Line 4")
	trust(t, h, root)
	c := backEnd(t, h)
	for _, door := range []string{"tcp", "ws"} {
		for _, auth := range []signet.AuthType{signet.AuthCA, signet.AuthSAS} {
			id := fmt.Sprintf("press:17.%%_@$'(x)!*,%s-%s", door, auth)
			t.Run(door+" "+string(auth), func(t *testing.T) {
				created := createDevice(t, h, signet.Identity{DeviceID: id, Auth: signet.Authentication{Type: auth}})
				args := []string{"amqp.js", door, "HostName=" + host + ";DeviceId=" + id + ";x509=true", h.CAFile, folder(t, line.Device(t, id))}
				if auth == signet.AuthSAS {
					args = []string{"amqp.js", door, signet.ConnectionString{HostName: host, DeviceID: id, SharedAccessKey: created.Auth.PrimaryKey}.String(), h.CAFile}
				}
				expiry := time.Now().Add(30 * time.Minute).UTC().Truncate(time.Millisecond)
				send := func(command client.Command) {
					t.Helper()
					command.DeviceID, command.Ack = id, signet.AckFull
					if _, err := c.SendCommand(t.Context(), command); err != nil {
						t.Error(err)
					}
				}
				send(client.Command{MessageID: "m-1", Body: []byte("hello"), CorrelationID: "c/1", UserID: "u 1", ContentType: "application/json",
					ContentEncoding: "utf-8", Expiry: expiry, Properties: map[string]string{"level": "3", "note": "a&b/c=d e+f%20"}})
				send(client.Command{MessageID: "m-2", Body: []byte("reject")})
				send(client.Command{MessageID: "m-3", Body: []byte("abandon")})
				served := make(chan bool)
				go func() {
					defer close(served)
					r, err := c.InvokeMethod(t.Context(), id, "", client.MethodCall{Method: "start", Payload: json.RawMessage(`{"speed":7}`), ConnectTimeout: 2 * time.Minute})
					if err != nil || r.Status != 210 || string(r.Payload) != `{"started":true}` {
						t.Errorf("method: %+v %v", r, err)
					}
					for n, deadline := 0, time.Now().Add(2*time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
						if i, err := c.Device(t.Context(), id); err == nil && i.MessageCount == 0 {
							if n++; n == 1 { // when what waited is through, its properties change
								if _, err := c.PatchTwin(t.Context(), id, "", client.TwinPatch{Desired: json.RawMessage(`{"interval":5}`)}, ""); err != nil {
									t.Error(err)
								}
							} else if n == 10 {
								send(client.Command{MessageID: "last", Body: []byte("bye")})
								return
							}
						}
					}
					t.Error("the messages are not through")
				}()
				out, err := node(t, h, args...)
				<-served
				if err != nil {
					t.Fatal(out)
				}
				for _, line := range []string{"sent: acknowledged, hence on disk\n", "sent 200 more\n", "reported\n", "refused: Error\n",
					`method start {"speed":7}` + "\n", `twin desired {"$version":1}` + "\n", `desired {"interval":5,"$version":2}` + "\n", "listens\n"} {
					if strings.Count(out, line) != 1 {
						t.Errorf("%q is not there once", line)
					}
				}
				var seen []string
				var first map[string]any
				for line := range strings.Lines(out) {
					var m map[string]any
					if json.Unmarshal([]byte(line), &m) == nil {
						if seen = append(seen, m["id"].(string)); m["id"] == "m-1" {
							first = m
						}
					}
				}
				want := map[string]any{"id": "m-1", "to": "/devices/" + id + "/messages/deviceBound", "correlation": "c/1", "type": "application/json", "encoding": "utf-8",
					"expiry": expiry.Format("2006-01-02T15:04:05.000Z"), "body": "hello", "ack": "full", "properties": map[string]any{"level": "3", "note": "a&b/c=d e+f%20"}}
				if !reflect.DeepEqual(first, want) {
					t.Errorf("the SDK read %v, want %v", first, want)
				}
				slices.Sort(seen)
				if got, want := strings.Join(seen, " "), "last m-1 m-2"+strings.Repeat(" m-3", commands.MaxDeliveries); got != want {
					t.Errorf("the device saw %s", got)
				}
				if got := feedback(t, c, 4); got != "last Success, m-1 Success, m-2 Rejected, m-3 DeliveryCountExceeded" {
					t.Errorf("the sender is told %s", got)
				}
				if twin, err := c.Twin(t.Context(), id, ""); err != nil || !strings.Contains(string(twin.Properties.Reported), `"firmware":"1.2.3"`) {
					t.Errorf("%s %v", twin.Properties.Reported, err)
				}
				var got []*signet.Message
				err = h.Hub().Read(t.Context(), h.Config.Hub, hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
					if m.DeviceID == id && m.Source == signet.SourceTelemetry {
						got = append(got, m)
					}
					return true
				})
				if err != nil || len(got) != 201 {
					t.Fatalf("%d messages, %v", len(got), err)
				}
				m := got[0]
				if string(m.Body) != `{"temperature":21.5}` || m.GenerationID != created.GenerationID || string(got[200].Body) != "more 199" ||
					!slices.Contains(m.Properties, signet.Property{Name: "alarm", Value: "a&b/c=d e+f"}) {
					t.Errorf("read back %+v", m)
				}
				for _, want := range []signet.Property{{Name: "message-id", Value: "m-1"}, {Name: "content-type", Value: "application/json"}, {Name: "content-encoding", Value: "utf-8"}} {
					if !slices.Contains(m.System, want) {
						t.Errorf("no %v in %v", want, m.System)
					}
				}
			})
		}
	}
}

// TestAMQPSDKRefused: the SDK understands a refusal, which leads to its verdict and
// says no more than that.
func TestAMQPSDKRefused(t *testing.T) {
	h := startHub(t, withAMQP)
	root, stranger := hubtest.NewCA(t, "Acme Root"), hubtest.NewCA(t, "Stranger Root")
	trust(t, h, root)
	createDevice(t, h, signet.Identity{DeviceID: "press-17", Auth: signet.Authentication{Type: signet.AuthCA}})
	createDevice(t, h, signet.Identity{DeviceID: "keyed"})
	for _, door := range []string{"tcp", "ws"} {
		for id, code := range map[string]signet.Code{"press-17": signet.ChainIssuerMissing, "press-99": signet.IdentityUnknown, "keyed": signet.TokenSignature} {
			args := []string{"amqp.js", door, "HostName=" + host + ";DeviceId=" + id + ";x509=true", h.CAFile, folder(t, stranger.Device(t, id))}
			if id == "keyed" {
				args = []string{"amqp.js", door, signet.ConnectionString{HostName: host, DeviceID: id, SharedAccessKey: h.Owner.SharedAccessKey}.String(), h.CAFile}
			}
			out, err := node(t, h, args...)
			if err == nil || !strings.Contains(out, "UnauthorizedError") || !strings.Contains(out, "Tracking ID: ") || strings.Contains(out, string(code)) {
				t.Errorf("%s %s: %v %s", door, id, err, out)
			}
			if got := lastVerdict(t, h, id); got != code {
				t.Errorf("%s %s: verdict %s, want %s", door, id, got, code)
			}
		}
	}
}
