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
	"github.com/signet-iot/signet/internal/hubtest"
)

// TestCommandsSDK: what waited for a device and what comes while it is there, by
// MQTT, by WebSocket and by polling; properties and dates as the SDK reads them; and
// what the sender is told.
func TestCommandsSDK(t *testing.T) {
	const id = "press:17.%_@$'(x)!*,"
	h := startHub(t)
	d := createDevice(t, h, signet.Identity{DeviceID: id})
	device := signet.ConnectionString{HostName: host, DeviceID: id, SharedAccessKey: d.Auth.PrimaryKey}
	c := backEnd(t, h)
	send := func(command client.Command) {
		t.Helper()
		command.DeviceID, command.Ack = id, signet.AckFull
		if _, err := c.SendCommand(t.Context(), command); err != nil {
			t.Fatal(err)
		}
	}
	expiry := time.Now().Add(30 * time.Minute).UTC().Truncate(time.Millisecond)
	for _, door := range []string{"mqtt", "ws", "http"} {
		t.Run(door, func(t *testing.T) {
			send(client.Command{MessageID: "m-1", Body: []byte("hello"), CorrelationID: "c/1", UserID: "u 1", ContentType: "application/json",
				ContentEncoding: "utf-8", Expiry: expiry, Properties: map[string]string{"level": "3", "note": "a&b/c=d e+f%20"}})
			send(client.Command{MessageID: "m-2", Body: []byte("reject")})
			live := make(chan bool)
			go func() { // when the device has what waited, more comes
				defer close(live)
				for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
					if i, err := c.Device(t.Context(), id); err == nil && i.MessageCount == 0 {
						send(client.Command{MessageID: "last", Body: []byte("bye")})
						return
					}
				}
			}()
			out, err := node(t, h, "commands.js", door, device.String(), h.CAFile)
			<-live
			if err != nil {
				t.Fatal(out)
			}
			var seen []map[string]any
			for line := range strings.Lines(out) {
				var m map[string]any
				if json.Unmarshal([]byte(line), &m) == nil {
					seen = append(seen, m)
				}
			}
			if len(seen) != 3 || seen[1]["id"] != "m-2" || seen[2]["id"] != "last" {
				t.Fatalf("the device saw %v", seen)
			}
			want := map[string]any{"id": "m-1", "to": "/devices/" + id + "/messages/deviceBound", "correlation": "c/1",
				"expiry": expiry.Format("2006-01-02T15:04:05.000Z"), "body": "hello"}
			if door == "http" { // the SDK reads no more of the headers, and leaves their names as they are
				want["properties"] = map[string]any{"iothub-app-level": "3", "iothub-app-note": "a&b/c=d e+f%20"}
			} else {
				want["user"], want["type"], want["encoding"] = "u 1", "application/json", "utf-8"
				want["properties"] = map[string]any{"level": "3", "note": "a&b/c=d e+f%20", "iothub-ack": "full"} // so it reads what is not $.
			}
			for name, value := range want {
				if got := seen[0][name]; !reflect.DeepEqual(got, value) {
					t.Errorf("%s: the SDK read %v, want %v", name, got, value)
				}
			}
			rejected := "Success" // by MQTT nothing can be rejected; the SDK says so
			if door == "http" {
				rejected = "Rejected"
			}
			if got := feedback(t, c, 3); got != fmt.Sprintf("last Success, m-1 Success, m-2 %s", rejected) {
				t.Errorf("the sender is told %s", got)
			}
		})
	}
}

// TestCommandsSDKAgain: a device that polls and abandons is given the message again,
// until it is a dead letter.
func TestCommandsSDKAgain(t *testing.T) {
	h := startHub(t)
	d := createDevice(t, h, signet.Identity{DeviceID: "press-17"})
	c := backEnd(t, h)
	send := func(id, body string) error {
		_, err := c.SendCommand(t.Context(), client.Command{DeviceID: "press-17", MessageID: id, Body: []byte(body), Ack: signet.AckFull})
		return err
	}
	if err := send("again", "abandon"); err != nil {
		t.Fatal(err)
	}
	told := make(chan string)
	go func() {
		outcome := feedback(t, c, 1)
		if err := send("last", "bye"); err != nil {
			outcome = err.Error()
		}
		told <- outcome
	}()
	device := signet.ConnectionString{HostName: host, DeviceID: "press-17", SharedAccessKey: d.Auth.PrimaryKey}
	out, err := node(t, h, "commands.js", "http", device.String(), h.CAFile)
	if err != nil || strings.Count(out, `"id":"again"`) != commands.MaxDeliveries {
		t.Error(err, out)
	}
	if outcome := <-told; outcome != "again DeliveryCountExceeded" {
		t.Error(outcome)
	}
}

func backEnd(t *testing.T, h *hubtest.Hub) *client.Client {
	t.Helper()
	owner := h.Owner
	owner.HostName = host
	c, err := client.New(client.Options{ConnectionString: owner.String(), CAFile: h.CAFile, Address: h.HTTPSAddr()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// feedback takes n records of feedback, by message ID.
func feedback(t *testing.T, c *client.Client, n int) string {
	t.Helper()
	told := map[string]string{}
	for deadline := time.Now().Add(2 * time.Minute); len(told) < n && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		records, token, err := c.Feedback(t.Context())
		if err != nil {
			t.Error(err)
			break
		}
		for _, f := range records {
			told[f.MessageID] = string(f.Outcome)
		}
		if len(records) > 0 {
			if err := c.CompleteFeedback(t.Context(), token); err != nil {
				t.Error(err)
			}
		}
	}
	var list []string
	for id, outcome := range told {
		list = append(list, id+" "+outcome)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
