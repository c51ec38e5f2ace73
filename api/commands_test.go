package api_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/commands"
)

// TestQueueIsFull: fifty messages wait for a device and no more, by Azure's number;
// nor may one be larger than 64 KiB.
func TestQueueIsFull(t *testing.T) {
	s := newServer(t)
	always := http.Header{"Host": {"hub.example.test"}, "Authorization": {s.names["owner"]}}
	send := func(body string) (status int, answer string) {
		w := s.ask(t, always, "POST /signet/commands\n\n"+`{"deviceId":"d","body":"`+base64.StdEncoding.EncodeToString([]byte(body))+`"}`)
		return w.Code, w.Body.String()
	}
	if w := s.ask(t, always, "PUT /devices/d?api-version=2021-04-12\n\n{}"); w.Code != 200 {
		t.Fatal(w.Body)
	}
	if status, answer := send(strings.Repeat("x", signet.MaxCommandSize)); status != 413 || !strings.Contains(answer, string(signet.LimitMessageSize)) {
		t.Errorf("too large: %d %s", status, answer)
	}
	if status, answer := send(strings.Repeat("x", 65_000)); status != 200 {
		t.Errorf("large: %d %s", status, answer)
	}
	for range commands.MaxQueue - 1 {
		if status, answer := send(""); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
	}
	if status, answer := send(""); status != 403 || !strings.Contains(answer, string(signet.LimitQueue)) {
		t.Errorf("the 51st: %d %s", status, answer)
	}
}
