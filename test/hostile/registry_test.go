package hostile_test

import (
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/mqtt"
)

func devicePath(id string) string { return "/devices/" + id + "?api-version=2021-04-12" }

// TestRegistry: identities that two want at once, that cannot be, and that go
// while they are connected.
func TestRegistry(t *testing.T) {
	a := open(t)
	a.line(t, "the same device created eight times at once", func(t *testing.T) {
		var mu sync.Mutex
		got := map[int]int{}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				status, _ := a.request(t, "PUT", devicePath("one"), "", map[string]any{"deviceId": "one"})
				mu.Lock()
				got[status]++
				mu.Unlock()
			})
		}
		all.Wait()
		if got[200] != 1 || got[409] != 7 {
			t.Errorf("answers: %v", got)
		}
	})
	for name, id := range map[string]string{
		"129 characters": strings.Repeat("a", 129), "a slash": "a/b", "a hash": "a#b", "a plus": "a+b", "NUL": "a\x00b", "bad UTF-8": "a\xffb", "another script": "прибор",
	} {
		a.line(t, "an ID with "+name, func(t *testing.T) {
			status, answer := a.request(t, "PUT", devicePath(url.PathEscape(id)), "", map[string]any{"status": "enabled"})
			if status != 400 || refusalOf(answer) != signet.IdentityMalformed {
				t.Errorf("PUT: %d %v", status, answer)
			}
		})
	}
	a.line(t, "an empty ID", func(t *testing.T) {
		status, answer := a.request(t, "POST", "/devices?api-version=2021-04-12", "", []map[string]any{{"id": "", "importMode": "create"}})
		if status != 400 || answer["isSuccessful"] != false {
			t.Errorf("%d %v", status, answer)
		}
	})
	a.line(t, "a device is deleted while connected, and made anew", func(t *testing.T) {
		old := a.CADevice(t, tenant, "phoenix")
		conf := a.ClientTLS(a.factory.Device(t, "phoenix"))
		d := a.Dial(t, conf)
		if code := d.Connect(t, host, "phoenix"); code != mqtt.ConnAccepted {
			t.Fatalf("CONNACK %d", code)
		}
		d.Publish(t, "phoenix", "of the old")
		d.SetDeadline(time.Now().Add(patience))
		if status, answer := a.request(t, "DELETE", devicePath("phoenix"), "*", nil); status != 204 {
			t.Fatalf("DELETE: %d %v", status, answer)
		}
		d.WaitClosed(t)
		if code := a.connect(t, conf, "phoenix"); code != mqtt.ConnRefusedNotAuthorized {
			t.Errorf("CONNACK %d while there is no such device", code)
		}
		if i := a.CADevice(t, tenant, "phoenix"); i.GenerationID == old.GenerationID {
			t.Error("the new device has the old generation")
		}
		d = a.Dial(t, conf)
		if code := d.Connect(t, host, "phoenix"); code != mqtt.ConnAccepted {
			t.Fatalf("CONNACK %d once it is made anew", code)
		}
		d.Publish(t, "phoenix", "of the new")
		kept := a.kept(t, "phoenix")
		if len(kept) != 2 || kept[0].GenerationID != old.GenerationID || kept[1].GenerationID == old.GenerationID {
			t.Errorf("the messages of the two cannot be told apart: %+v", kept)
		}
	})
}
