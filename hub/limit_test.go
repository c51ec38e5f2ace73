package hub_test

import (
	"context"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/limits"
)

// TestLimits: connects and method calls are counted against the limits of their
// hub as they are now, and a stranger uses up nobody's.
func TestLimits(t *testing.T) {
	h := newHouse(t)
	h.hub = hub.New(hub.Options{Authority: h.authority, Registry: h.registry, Verdicts: h.verdicts, Messages: h.messages, Commands: h.commands,
		Limiter: limits.New(func() time.Time { return h.now }), Now: func() time.Time { return h.now }})
	root := hubtest.NewCA(t, "Root")
	h.trust("first", root)
	for _, id := range []string{"d", "e"} {
		h.device(signet.Identity{DeviceID: id, Auth: byCA})
	}
	set := func(l signet.Limits) {
		t.Helper()
		if _, err := h.registry.SetLimits(t.Context(), "first", l); err != nil {
			t.Fatal(err)
		}
	}
	connect := func(id, as string) signet.Code {
		s, err := h.connect(hub.Credentials{DeviceID: id, Chain: presented(t, root.Device(t, as))})
		if err == nil {
			s.Close()
		}
		return signet.CodeOf(err)
	}
	set(signet.Limits{Connections: signet.Rate{PerDevice: 0.5}, Methods: signet.Rate{PerHub: 1}})
	for n := range 5 {
		if code := connect("d", "e"); code != signet.IdentityCNMismatch {
			t.Errorf("a stranger, %d: %s", n, code)
		}
	}
	for n, want := range []signet.Code{"", signet.LimitRate, signet.LimitRate} {
		if code := connect("d", "d"); code != want {
			t.Errorf("connect %d: %q", n, code)
		}
	}
	if code := connect("e", "e"); code != "" {
		t.Errorf("another device: %s", code)
	}
	// A request over HTTPS is judged as a connect is, and counts as one.
	request := hub.Credentials{Host: "first.test", DeviceID: "d", Chain: presented(t, root.Device(t, "d"))}
	if _, err := h.hub.Authenticate(t.Context(), request); signet.CodeOf(err) != signet.LimitRate {
		t.Errorf("a request: %v", err)
	}
	h.now = h.now.Add(2 * time.Second)
	if code := connect("d", "d"); code != "" {
		t.Errorf("two seconds later: %s", code)
	}
	for n, want := range []signet.Code{signet.MethodOffline, signet.LimitRate} {
		_, err := h.hub.Invoke(context.Background(), "first", "d", "", hub.Invocation{Method: "m", ResponseTimeout: time.Second})
		if signet.CodeOf(err) != want {
			t.Errorf("call %d: %v", n, err)
		}
	}

	// A session is counted where its door asks, and what is lifted is lifted at once.
	s, err := h.connect(hub.Credentials{DeviceID: "e", Chain: presented(t, root.Device(t, "e"))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	set(signet.Limits{Messages: signet.Rate{PerDevice: 1}})
	if wait, err := s.Meter(signet.MeterMessages, 1, 0); wait != 0 || err != nil {
		t.Error(wait, err)
	}
	if wait, err := s.Meter(signet.MeterMessages, 1, time.Minute); wait != time.Second || err != nil {
		t.Error(wait, err)
	}
	if _, err := s.Meter(signet.MeterMessages, 1, 0); signet.CodeOf(err) != signet.LimitRate {
		t.Error(err)
	}
	set(signet.Limits{})
	if wait, err := s.Meter(signet.MeterMessages, 1000, 0); wait != 0 || err != nil {
		t.Error(wait, err)
	}
	for _, l := range []signet.Limits{{Twins: signet.Rate{PerHub: -1}}, {Twins: signet.Rate{PerDevice: 1e9}}, {Twins: signet.Rate{PerDevice: 1e-9}}} {
		if _, err := h.registry.SetLimits(t.Context(), "first", l); signet.CodeOf(err) != signet.HubMalformed {
			t.Errorf("%+v: %v", l, err)
		}
	}
}
