package hub_test

import (
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// TestActivity: a connect, a take-over, what is sent and the end of a session are
// known of the identity; a single request is no connection.
func TestActivity(t *testing.T) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Acme Root")
	h.trust("first", root)
	h.device(signet.Identity{DeviceID: "press", Auth: byCA})
	credentials := hub.Credentials{Host: "first.test", DeviceID: "press", Chain: presented(t, root.Device(t, "press"))}
	begin := h.now.Truncate(time.Millisecond)
	h.now = begin
	known := func(connected bool, updated, active int) {
		t.Helper()
		h.registry.WriteActivity(t.Context())
		of, err := h.registry.Activity(t.Context(), "first", "press")
		if err != nil {
			t.Fatal(err)
		}
		a := of["press"]
		second := func(n int) time.Time {
			if n < 0 {
				return time.Time{}
			}
			return begin.Add(time.Duration(n) * time.Second)
		}
		if a.Connected != connected || !a.ConnectionUpdated.Equal(second(updated)) || !a.LastActive.Equal(second(active)) {
			t.Errorf("%+v", a)
		}
	}
	send := func(s *hub.Session, second int) {
		h.now = begin.Add(time.Duration(second) * time.Second)
		s.Send(t.Context(), &signet.Message{}, func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}

	single, err := h.hub.Authenticate(t.Context(), credentials)
	if err != nil {
		t.Fatal(err)
	}
	known(false, -1, -1)
	send(single, 1)
	known(false, -1, 1)

	h.now = begin.Add(10 * time.Second)
	first, err := h.connect(credentials)
	if err != nil {
		t.Fatal(err)
	}
	known(true, 10, 10)
	send(first, 39)
	known(true, 10, 10) // half a minute is not over
	send(first, 41)
	known(true, 10, 41)

	h.now = begin.Add(50 * time.Second)
	second, err := h.connect(credentials)
	if err != nil {
		t.Fatal(err)
	}
	h.now = begin.Add(60 * time.Second)
	first.Close()
	known(true, 50, 50)
	second.Close()
	known(false, 60, 50)
}
