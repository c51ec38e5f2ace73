package hub_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// phone is a device whose door does nothing by itself; rings counts its wakes.
type phone struct {
	*hub.Session
	rings chan bool
}

func (h *house) phone(id string, chain hub.Credentials) *phone {
	h.t.Helper()
	p := &phone{rings: make(chan bool, 100)}
	chain.Host, chain.Door, chain.DeviceID = "first.test", signet.DoorMQTT, id
	s, err := h.hub.Connect(h.t.Context(), chain, func() { p.rings <- true })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(s.Close)
	p.Session = s
	return p
}

// call waits for the next method call.
func (p *phone) call(t *testing.T) hub.MethodCall {
	t.Helper()
	for {
		if d, ok := p.Receive(); ok {
			return d.(hub.MethodCall)
		}
		select {
		case <-p.rings:
		case <-time.After(2 * time.Minute):
			t.Fatal("nobody calls")
		}
	}
}

// calls is a house with the device "d" and its credentials.
func calls(t *testing.T) (*house, hub.Credentials) {
	h := newHouse(t)
	root := hubtest.NewCA(t, "Acme Root")
	h.trust("first", root)
	h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	return h, hub.Credentials{Chain: presented(t, root.Device(t, "d"))}
}

func (h *house) invoke(ctx context.Context, i hub.Invocation) (hub.MethodResult, error) {
	if i.ResponseTimeout == 0 {
		i.ResponseTimeout = 30 * time.Second
	}
	return h.hub.Invoke(ctx, "first", "d", "", i)
}

func wants(t *testing.T, err error, want signet.Code) {
	t.Helper()
	if got := signet.CodeOf(err); got != want {
		t.Errorf("%v, want %q", err, want)
	}
}

// TestInvoke: what a call brings to the device, and its answer to the caller.
func TestInvoke(t *testing.T) {
	h, chain := calls(t)
	d := h.phone("d", chain)
	d.Listen(hub.MethodCalls)
	for _, c := range []struct {
		payload, brings string
		status          int
		answer, gives   string
		want            signet.Code
	}{
		{"", "null", 200, `{"a":1}`, `{"a":1}`, ""},
		{`[1]`, `[1]`, -4, ``, ``, ""},
		{`null`, `null`, 0, `"x"`, `"x"`, ""},
		{`"text"`, `"text"`, 1, `no JSON`, ``, signet.MethodBadAnswer},
		{`1`, `1`, 1, "\"\xff\"", ``, signet.MethodBadAnswer},
		{`1`, `1`, 1, `"` + strings.Repeat("x", hub.MaxMethodPayload-2) + `"`, `"` + strings.Repeat("x", hub.MaxMethodPayload-2) + `"`, ""},
		{`1`, `1`, 1, `"` + strings.Repeat("x", hub.MaxMethodPayload-1) + `"`, ``, signet.MethodBadAnswer},
	} {
		var wg sync.WaitGroup
		wg.Go(func() {
			var payload []byte
			if c.payload != "" {
				payload = []byte(c.payload)
			}
			r, err := h.invoke(t.Context(), hub.Invocation{Method: "m", Payload: payload})
			wants(t, err, c.want)
			if err == nil && (r.Status != c.status || string(r.Payload) != c.gives) {
				t.Errorf("%d %.80s", r.Status, r.Payload)
			}
		})
		call := d.call(t)
		if call.Method != "m" || string(call.Payload) != c.brings {
			t.Errorf("%s %s", call.Method, call.Payload)
		}
		d.AnswerMethod("f"+call.RequestID, 9, nil) // answers nothing
		d.AnswerMethod(call.RequestID, c.status, []byte(c.answer))
		d.AnswerMethod(call.RequestID, 9, []byte(`"again"`)) // nor does a second
		wg.Wait()
	}
	_, err := h.hub.Invoke(t.Context(), "first", "nobody", "", hub.Invocation{Method: "m"})
	wants(t, err, signet.IdentityUnknown)
	_, err = h.hub.Invoke(t.Context(), "second", "d", "", hub.Invocation{Method: "m"})
	wants(t, err, signet.IdentityUnknown)
}

// TestInvokeTimes: a device that is away, that does not listen, that does not
// answer, that goes.
func TestInvokeTimes(t *testing.T) {
	h, chain := calls(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		after := func(want time.Duration) {
			t.Helper()
			if got := time.Since(began); got != want {
				t.Errorf("after %v, want %v", got, want)
			}
			began = time.Now()
		}
		invoke := func(connect, response time.Duration) error {
			_, err := h.invoke(t.Context(), hub.Invocation{Method: "m", ConnectTimeout: connect, ResponseTimeout: response})
			return err
		}
		wants(t, invoke(0, 5*time.Second), signet.MethodOffline)
		after(0)
		wants(t, invoke(7*time.Second, 5*time.Second), signet.MethodOffline)
		after(7 * time.Second)

		// Connected is not enough.
		d := &phone{rings: make(chan bool, 100)}
		chain.Host, chain.DeviceID = "first.test", "d"
		s, err := h.hub.Connect(t.Context(), chain, func() { d.rings <- true })
		if err != nil {
			t.Fatal(err)
		}
		d.Session = s
		d.Listen(hub.DesiredChanges)
		wants(t, invoke(0, 5*time.Second), signet.MethodOffline)
		wants(t, invoke(2*time.Second, 5*time.Second), signet.MethodOffline)
		after(2 * time.Second)

		// It listens within the time, and answers within the other.
		var wg sync.WaitGroup
		wg.Go(func() { wants(t, invoke(10*time.Second, 5*time.Second), "") })
		time.Sleep(9 * time.Second)
		d.Listen(hub.MethodCalls)
		call := d.call(t)
		time.Sleep(4 * time.Second)
		d.AnswerMethod(call.RequestID, 200, nil)
		wg.Wait()
		after(13 * time.Second)

		// Not answered, and answered too late: the answer is nobody's.
		wants(t, invoke(0, 5*time.Second), signet.MethodTimeout)
		after(5 * time.Second)
		late := d.call(t)
		wg.Go(func() { wants(t, invoke(0, 5*time.Second), signet.MethodTimeout) })
		d.call(t)
		d.AnswerMethod(late.RequestID, 200, nil)
		wg.Wait()
		after(5 * time.Second)

		// It goes before it answers: the caller knows at once.
		wg.Go(func() { wants(t, invoke(0, 5*time.Second), signet.MethodTimeout) })
		d.call(t)
		time.Sleep(time.Second)
		d.Close()
		wg.Wait()
		after(time.Second)
		wants(t, invoke(0, 5*time.Second), signet.MethodOffline)

		// The caller goes.
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := h.invoke(ctx, hub.Invocation{Method: "m", ConnectTimeout: time.Hour}); err != context.Canceled {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
		after(0)
	})
}

// TestInvokeOfALater: a call that waits for a device does not reach a later one of its
// name, of the same hub or of one made anew.
func TestInvokeOfALater(t *testing.T) {
	h, chain := calls(t)
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := h.invoke(t.Context(), hub.Invocation{Method: "m", ConnectTimeout: time.Minute})
			wants(t, err, signet.IdentityUnknown)
		})
		synctest.Wait()
		if err := h.registry.Delete(t.Context(), "first", "d", "", "*"); err != nil {
			t.Fatal(err)
		}
		h.now = h.now.Add(time.Millisecond)
		h.device(signet.Identity{DeviceID: "d", Auth: byCA})
		d := h.phone("d", chain)
		defer d.Close()
		d.Listen(hub.MethodCalls)
		wg.Wait()
		if got, ok := d.Receive(); ok {
			t.Errorf("it was called: %v", got)
		}
	})
}

// TestInvokeBound: calls under way to one device are bounded, those that wait for
// it too; other devices have their own.
func TestInvokeBound(t *testing.T) {
	h, chain := calls(t)
	h.device(signet.Identity{DeviceID: "e", Auth: byCA})
	var wg sync.WaitGroup
	results := make(chan error, 40)
	for n := range 40 {
		wg.Go(func() {
			r, err := h.invoke(t.Context(), hub.Invocation{Method: fmt.Sprint(n), ConnectTimeout: 2 * time.Minute})
			if err == nil && string(r.Payload) != fmt.Sprint(n) {
				err = fmt.Errorf("%d was answered %s", n, r.Payload)
			}
			results <- err
		})
	}
	for range 8 {
		wants(t, <-results, signet.LimitMethods)
	}
	_, err := h.hub.Invoke(t.Context(), "first", "e", "", hub.Invocation{Method: "m"})
	wants(t, err, signet.MethodOffline)
	d := h.phone("d", chain)
	d.Listen(hub.MethodCalls)
	waiting := []hub.MethodCall{}
	for range 32 {
		waiting = append(waiting, d.call(t))
	}
	for n := range waiting { // in another order than they came
		call := waiting[(n*7)%32]
		d.AnswerMethod(call.RequestID, 200, []byte(call.Method))
	}
	wg.Wait()
	for range 32 {
		wants(t, <-results, "")
	}
}

// TestDesired: a connected device that listens hears of every change in order; one
// that does not listen, or another, of none; one that is too slow is sent back to
// read.
func TestDesired(t *testing.T) {
	h, chain := calls(t)
	desire := func(n int) {
		t.Helper()
		twin, err := h.registry.Twin(t.Context(), "first", "d", "")
		if err != nil {
			t.Fatal(err)
		}
		twin.Desired.Version = int64(n)
		h.hub.DesiredChanged(twin, []byte(fmt.Sprintf(`{"n":%d}`, n)))
	}
	desire(1) // nobody is there
	d := h.phone("d", chain)
	desire(2) // nobody listens
	d.Listen(hub.DesiredChanges)
	desire(3)
	desire(4)
	for n := int64(3); n < 5; n++ {
		if got, ok := d.Receive(); !ok || got.(hub.DesiredChange).Version != n || string(got.(hub.DesiredChange).Patch) != fmt.Sprintf(`{"n":%d}`, n) {
			t.Errorf("%+v", got)
		}
	}
	desire(5)
	d.Listen(0)
	if got, ok := d.Receive(); ok {
		t.Errorf("%+v, unasked for", got)
	}
	// A twin of another generation is another device's.
	d.Listen(hub.DesiredChanges)
	h.hub.DesiredChanged(signet.EmptyTwin("first", "d", "", "another"), []byte("{}"))
	if got, ok := d.Receive(); ok {
		t.Errorf("%+v, of another", got)
	}

	for n := range 64 {
		desire(10 + n)
	}
	if err := d.Ended(); err != nil {
		t.Fatal(err)
	}
	desire(99)
	wants(t, d.Ended(), signet.SessionClosed)

	d = h.phone("d", chain)
	d.Listen(hub.DesiredChanges)
	twin, _ := h.registry.Twin(t.Context(), "first", "d", "")
	h.hub.DesiredChanged(twin, nil) // it is not known whether
	wants(t, d.Ended(), signet.SessionClosed)
}

// TestTwinOfASession: a session reads and reports what is its own, while it lives.
func TestTwinOfASession(t *testing.T) {
	h, chain := calls(t)
	d := h.phone("d", chain)
	if v, err := d.Report(t.Context(), []byte(`{"a":1}`), 0); err != nil || v != 2 {
		t.Fatal(v, err)
	}
	_, err := d.Report(t.Context(), []byte(`{"a":1}`), 1)
	wants(t, err, signet.ETagStale)
	if twin, err := d.Twin(t.Context()); err != nil || string(twin.Reported.Values) != `{"a":1}` {
		t.Errorf("%+v %v", twin, err)
	}
	if err := h.registry.Delete(t.Context(), "first", "d", "", "*"); err != nil {
		t.Fatal(err)
	}
	h.device(signet.Identity{DeviceID: "d", Auth: byCA})
	if _, err := d.Twin(t.Context()); err == nil {
		t.Error("an ended session read a twin")
	}
	if _, err := d.Report(t.Context(), []byte(`{"a":2}`), 0); err == nil {
		t.Error("an ended session reported")
	}
	if twin, err := h.registry.Twin(t.Context(), "first", "d", ""); err != nil || twin.Version != 2 {
		t.Errorf("%+v %v", twin, err)
	}
}
