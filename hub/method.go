package hub

import (
	"context"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
)

const (
	// MaxMethodPayload bounds the payload of a method call, and of its answer:
	// Azure's limit.
	MaxMethodPayload = 128 << 10

	// maxCalls bounds the calls under way to one device, those that wait for it to
	// connect among them; each holds its payload. It leaves room in the mailbox.
	maxCalls = maxMail / 2
)

// An Invocation is what a back end asks of a device.
type Invocation struct {
	Method  string
	Payload []byte // JSON; nil is null
	// ConnectTimeout is how long to wait for the device to be connected and to
	// listen to methods; ResponseTimeout how long, from then, for its answer.
	ConnectTimeout, ResponseTimeout time.Duration
}

// A MethodResult is what the device answered.
type MethodResult struct {
	Status  int    // the device's own, whatever it means
	Payload []byte // JSON; nil is null
}

// A MethodCall is an invocation on its way to a device. Its answer names the
// request ID: lower-case hex, and never the same again.
type MethodCall struct {
	RequestID, Method string
	Payload           []byte // JSON
}

func (MethodCall) Kind() Kinds { return MethodCalls }

// callee is an identity that calls are under way to.
type callee struct {
	calls     int
	listening chan struct{} // closed when the device begins to listen
}

// answer is what becomes of a call.
type answer struct {
	MethodResult
	err error
}

// Invoke calls a direct method of a device or module and waits for its answer. It
// refuses with [signet.IdentityUnknown]; with [signet.MethodOffline] when the
// device was never told; with [signet.MethodTimeout] when it was and has not
// answered, by the end of the time or of its session; with
// [signet.MethodBadAnswer], [signet.LimitMethods] and [signet.LimitRate].
func (h *Hub) Invoke(ctx context.Context, hub, device, module string, i Invocation) (MethodResult, error) {
	identity, err := h.registry.Get(ctx, hub, device, module)
	if err != nil {
		return MethodResult{}, err
	}
	if _, err := h.meter(hub, device, signet.MeterMethods, 1, 0); err != nil {
		return MethodResult{}, err
	}
	key := [3]string{hub, device, module}
	to, err := h.beginCall(key)
	if err != nil {
		return MethodResult{}, err
	}
	defer h.endCall(key)
	s, err := h.listener(ctx, key, to, i.ConnectTimeout)
	if err != nil {
		return MethodResult{}, err
	}

	name := signet.IdentityName(device, module)
	if s.principal.GenerationID != identity.GenerationID { // meanwhile it became another's
		return MethodResult{}, signet.Refuse(signet.IdentityUnknown, "The identity %q that was called is gone.", name)
	}
	id := strconv.FormatUint(h.callNumber.Add(1), 16)
	answers := s.expect(id)
	defer s.forget(id)
	call := MethodCall{RequestID: id, Method: i.Method, Payload: i.Payload}
	if call.Payload == nil {
		call.Payload = []byte("null") // some SDKs parse nothing else as nothing
	}
	if !s.post(call) {
		if s.Ended() != nil {
			return MethodResult{}, offline(name)
		}
		return MethodResult{}, signet.Refuse(signet.LimitMethods, "The device %q is too slow for more.", name)
	}
	patience := time.NewTimer(i.ResponseTimeout)
	defer patience.Stop()
	select {
	case a, ok := <-answers:
		if !ok {
			return MethodResult{}, signet.Refuse(signet.MethodTimeout, "The session of %q ended before it answered.", name)
		}
		return a.MethodResult, a.err
	case <-patience.C:
		return MethodResult{}, signet.Refuse(signet.MethodTimeout, "The device %q did not answer within %v.", name, i.ResponseTimeout)
	case <-ctx.Done():
		return MethodResult{}, ctx.Err()
	}
}

func offline(name string) error {
	return signet.Refuse(signet.MethodOffline, "The device %q isn't online.", name)
}

// beginCall counts a call as under way.
func (h *Hub) beginCall(key [3]string) (*callee, error) {
	h.callMu.Lock()
	defer h.callMu.Unlock()
	to := h.callees[key]
	if to == nil {
		to = &callee{listening: make(chan struct{})}
		h.callees[key] = to
	}
	if to.calls == maxCalls {
		return nil, signet.Refuse(signet.LimitMethods, "%d method calls to %q are under way.", maxCalls, signet.IdentityName(key[1], key[2]))
	}
	to.calls++
	return to, nil
}

func (h *Hub) endCall(key [3]string) {
	h.callMu.Lock()
	defer h.callMu.Unlock()
	to := h.callees[key]
	if to.calls--; to.calls == 0 {
		delete(h.callees, key)
	}
}

// listener waits for a session that listens to methods.
func (h *Hub) listener(ctx context.Context, key [3]string, to *callee, wait time.Duration) (*Session, error) {
	name := signet.IdentityName(key[1], key[2])
	var late <-chan time.Time
	for {
		// The channel first: a device that begins to listen after it was looked for
		// closes this very one.
		h.callMu.Lock()
		listening := to.listening
		h.callMu.Unlock()
		if s := h.session(key[0], key[1], key[2]); s != nil && s.listensTo(MethodCalls) {
			return s, nil
		}
		if wait <= 0 {
			return nil, offline(name)
		}
		if late == nil {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-listening:
		case <-late:
			return nil, signet.Refuse(signet.MethodOffline, "The device %q isn't online: timed out waiting for device to subscribe.", name)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// listening lets the calls go on that wait for the session's device.
func (h *Hub) listening(s *Session) {
	p := s.principal
	h.callMu.Lock()
	defer h.callMu.Unlock()
	if to := h.callees[[3]string{p.Hub, p.DeviceID, p.ModuleID}]; to != nil {
		close(to.listening)
		to.listening = make(chan struct{})
	}
}

// expect makes room for the answer to a call. The channel is closed without one
// when the session ends.
func (s *Session) expect(id string) <-chan answer {
	answers := make(chan answer, 1)
	s.mailMu.Lock()
	defer s.mailMu.Unlock()
	if s.Ended() != nil {
		close(answers)
		return answers
	}
	if s.calls == nil {
		s.calls = map[string]chan<- answer{}
	}
	s.calls[id] = answers
	return answers
}

func (s *Session) forget(id string) {
	s.mailMu.Lock()
	defer s.mailMu.Unlock()
	if delete(s.calls, id); len(s.calls) == 0 {
		s.calls = nil
	}
}

// giveUpCalls tells all who wait for an answer that there will be none. It is
// called once the session has ended.
func (s *Session) giveUpCalls() {
	s.mailMu.Lock()
	defer s.mailMu.Unlock()
	for _, answers := range s.calls {
		close(answers)
	}
	s.calls = nil
}

// AnswerMethod takes the device's answer to a call; payload is JSON, or empty. An
// answer that nobody waits for any more is dropped.
func (s *Session) AnswerMethod(id string, status int, payload []byte) {
	a := answer{MethodResult: MethodResult{Status: status}}
	switch {
	case len(payload) > MaxMethodPayload:
		a.err = signet.Refuse(signet.MethodBadAnswer, "The device answered with %d bytes.", len(payload))
	case len(payload) > 0 && !(json.Valid(payload) && utf8.Valid(payload)):
		a.err = signet.Refuse(signet.MethodBadAnswer, "The device's answer is not JSON.")
	case len(payload) > 0:
		a.Payload = append([]byte(nil), payload...)
	}
	s.mailMu.Lock()
	defer s.mailMu.Unlock()
	if answers := s.calls[id]; answers != nil {
		delete(s.calls, id)
		answers <- a // has room for the only one
	}
}
