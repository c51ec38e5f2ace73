package gateway

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
)

// A fakeWaist lets everybody in, or refuses, and stores at once, when told, or
// never.
type fakeWaist struct {
	mu       sync.Mutex
	refusal  *signet.Error // of the next Connect
	judge    func(hub.Credentials) error
	lifetime time.Duration // of a session; 0 is for ever
	hold     bool          // messages wait for store or fail
	forget   bool          // messages are not kept
	pace     time.Duration // limits have every device wait for that long
	seen     []hub.Credentials
	refused  []signet.Verdict
	sessions []*fakeSession
	messages []*signet.Message // taken by Send and Will, in order
	pending  []func(error)
	commands []*signet.Command // that wait
	fetching time.Duration     // what it takes to give out a command
	locks    int
	settled  []string // disposition and message ID
	renewals []signet.Renewal
	missed   string // request ID of a renewal that the device has not heard of
	mail     func() (hub.Delivery, bool)
	kept     map[string]uint32 // by identity, what sessions are to go on with
	keeping  error             // what becomes of who would have it stored
	unsettle error             // what becomes of who would settle a command
}

func (w *fakeWaist) Connect(_ context.Context, c hub.Credentials, wake func()) (Session, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, c)
	if e := w.refusal; e != nil {
		w.refusal = nil
		return nil, e
	}
	if w.judge != nil {
		if err := w.judge(c); err != nil {
			return nil, err
		}
	}
	s := &fakeSession{waist: w, wake: wake, kept: w.kept[signet.IdentityName(c.DeviceID, c.ModuleID)], principal: signet.Principal{Hub: "hub", DeviceID: c.DeviceID, ModuleID: c.ModuleID}}
	if w.lifetime > 0 {
		s.principal.Expires = time.Now().Add(w.lifetime)
	}
	w.sessions = append(w.sessions, s)
	return s, nil
}

func (w *fakeWaist) Authenticate(ctx context.Context, c hub.Credentials) (Session, error) {
	return w.Connect(ctx, c, func() {})
}

func (w *fakeWaist) Refuse(_ string, v signet.Verdict) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused = append(w.refused, v)
	return "T"
}

// refusals gives the codes of what the door itself refused, and forgets them.
func (w *fakeWaist) refusals() []signet.Code {
	w.mu.Lock()
	defer w.mu.Unlock()
	var codes []signet.Code
	for _, v := range w.refused {
		codes = append(codes, v.Code)
	}
	w.refused = nil
	return codes
}

// settle ends the oldest message that is held.
func (w *fakeWaist) settle(err error) bool {
	w.mu.Lock()
	if len(w.pending) == 0 {
		w.mu.Unlock()
		return false
	}
	done := w.pending[0]
	w.pending = w.pending[1:]
	w.mu.Unlock()
	done(err)
	return true
}

func (w *fakeWaist) last() *fakeSession {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sessions) == 0 {
		return nil
	}
	return w.sessions[len(w.sessions)-1]
}

type fakeSession struct {
	waist     *fakeWaist
	wake      func()
	principal signet.Principal
	kept      uint32
	mu        sync.Mutex
	ended     error
}

func (s *fakeSession) Kept() uint32 { return s.kept }

func (s *fakeSession) Keep(_ context.Context, subscriptions uint32) error {
	s.waist.mu.Lock()
	defer s.waist.mu.Unlock()
	if s.waist.kept == nil {
		s.waist.kept = map[string]uint32{}
	}
	s.waist.kept[signet.IdentityName(s.principal.DeviceID, s.principal.ModuleID)] = subscriptions
	return s.waist.keeping
}

func (s *fakeSession) Principal() *signet.Principal { return &s.principal }
func (s *fakeSession) Expires() time.Time           { return s.principal.Expires }

// Prolong judges as Connect does.
func (s *fakeSession) Prolong(_ context.Context, c hub.Credentials) error {
	w := s.waist
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, c)
	if w.judge != nil {
		return w.judge(c)
	}
	return nil
}

func (s *fakeSession) Meter(_ signet.Meter, _ int, mayWait time.Duration) (time.Duration, error) {
	s.waist.mu.Lock()
	defer s.waist.mu.Unlock()
	if wait := s.waist.pace; wait > mayWait {
		e := signet.Refuse(signet.LimitRate, "Too often.")
		e.RetryAfter = wait
		return 0, e
	}
	return s.waist.pace, nil
}

func (s *fakeSession) Send(ctx context.Context, m *signet.Message, done func(error)) {
	if err := s.Ended(); err != nil {
		done(err)
		return
	}
	s.Will(ctx, m, done)
}

func (s *fakeSession) Will(_ context.Context, m *signet.Message, done func(error)) {
	if m.Size() > signet.MaxMessageSize {
		done(signet.Refuse(signet.LimitMessageSize, "The message has %d bytes.", m.Size()))
		return
	}
	w := s.waist
	if w.forget {
		done(nil)
		return
	}
	w.mu.Lock()
	kept := *m
	kept.DeviceID, kept.Body = s.principal.DeviceID, bytes.Clone(m.Body)
	w.messages = append(w.messages, &kept)
	if w.hold {
		w.pending = append(w.pending, done)
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	done(nil)
}

func (s *fakeSession) Ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *fakeSession) end(err error) {
	s.mu.Lock()
	if s.ended == nil {
		s.ended = err
	}
	s.mu.Unlock()
	s.wake()
}

func (s *fakeSession) Listen(hub.Kinds) {}
func (s *fakeSession) Receive() (hub.Delivery, bool) {
	if s.waist.mail == nil {
		return nil, false
	}
	return s.waist.mail()
}
func (s *fakeSession) AnswerMethod(string, int, []byte) {}

// Twin and Report know the twin of a new device, and what may be wrong with a
// patch: that it is not for version 1, or not {}.
func (s *fakeSession) Twin(context.Context) (signet.Twin, error) {
	if err := s.Ended(); err != nil {
		return signet.Twin{}, err
	}
	return signet.EmptyTwin("hub", s.principal.DeviceID, s.principal.ModuleID, "1"), nil
}

func (s *fakeSession) Report(_ context.Context, patch []byte, ifVersion int64) (int64, error) {
	switch {
	case string(patch) == "fault":
		return 0, signet.Fail(errors.New("the disk is on fire"))
	case string(patch) != "{}":
		return 0, signet.Refuse(signet.TwinMalformed, "The patch is not taken.")
	case ifVersion > 1:
		return 0, signet.Refuse(signet.ETagStale, "The version is 1.")
	}
	return 2, nil
}

// Renew issues what is no certificate, or finds fault with what the request says.
func (s *fakeSession) Renew(_ context.Context, r signet.Renewal, accepted func(signet.RenewalReceipt)) (signet.Renewed, error) {
	s.waist.mu.Lock()
	s.waist.renewals = append(s.waist.renewals, r)
	s.waist.mu.Unlock()
	receipt := signet.RenewalReceipt{CorrelationID: "c1", Expires: time.Date(2026, 1, 31, 12, 52, 20, 565e6, time.UTC)}
	switch string(r.CSR) {
	case "before":
		return signet.Renewed{}, signet.Refuse(signet.IssuanceNotHere, "Not issued here.")
	case "pending":
		return signet.Renewed{}, signet.Refuse(signet.IssuancePending, "Another is under way.").At("replace", "r-41", r.Replace)
	case "nothing":
		return signet.Renewed{}, signet.Refuse(signet.IssuanceNothingPending, "None is under way.")
	}
	accepted(receipt)
	switch string(r.CSR) {
	case "after":
		return signet.Renewed{}, signet.Refuse(signet.CSRName, "Another name.")
	case "often":
		return signet.Renewed{}, signet.Refuse(signet.LimitIssuance, "Too often.")
	case "fault":
		return signet.Renewed{}, signet.Fail(errors.New("the disk is on fire"))
	case "gone":
		why := signet.Refuse(signet.IdentityDisabled, "Disabled meanwhile.")
		time.AfterFunc(time.Millisecond, func() { s.end(why) }) // what was said before is heard, or else nobody knows
		return signet.Renewed{}, why
	}
	return s.renewed(r.RequestID, receipt), nil
}

func (s *fakeSession) renewed(id string, receipt signet.RenewalReceipt) signet.Renewed {
	return signet.Renewed{RequestID: id, RenewalReceipt: receipt, Chain: []*x509.Certificate{{Raw: []byte("leaf")}, {Raw: []byte("root")}}}
}

func (s *fakeSession) Renewed(context.Context) (signet.Renewed, bool, error) {
	s.waist.mu.Lock()
	defer s.waist.mu.Unlock()
	if s.waist.missed == "" {
		return signet.Renewed{}, false, nil
	}
	return s.renewed(s.waist.missed, signet.RenewalReceipt{CorrelationID: "c0"}), true, nil
}

func (s *fakeSession) CommandWaiting() bool { return true }

// NextCommand gives the oldest of the waist's commands that is not given out.
func (s *fakeSession) NextCommand(context.Context) (*signet.Command, error) {
	w := s.waist
	w.mu.Lock()
	fetching := w.fetching
	w.mu.Unlock()
	time.Sleep(fetching)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.commands {
		if c.LockToken == "" {
			w.locks++
			c.LockToken = fmt.Sprint("lock-", w.locks)
			given := *c
			return &given, nil
		}
	}
	return nil, nil
}

func (s *fakeSession) SettleCommand(_ context.Context, token string, d signet.Disposition) error {
	w := s.waist
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unsettle != nil {
		return w.unsettle
	}
	n := slices.IndexFunc(w.commands, func(c *signet.Command) bool { return c.LockToken == token })
	if n < 0 {
		return signet.Refuse(signet.MessageLockLost, "No message is locked by that token.")
	}
	w.settled = append(w.settled, string(d)+" "+w.commands[n].MessageID)
	if d == signet.Abandon {
		w.commands[n].LockToken = ""
		w.commands[n].DeliveryCount++
		return nil
	}
	w.commands = slices.Delete(w.commands, n, n+1)
	return nil
}

// Close gives back what the device has not settled.
func (s *fakeSession) Close() {
	s.waist.mu.Lock()
	for _, c := range s.waist.commands {
		if c != nil && c.LockToken != "" {
			c.LockToken = ""
			c.DeliveryCount++
		}
	}
	s.waist.mu.Unlock()
	s.end(signet.Refuse(signet.SessionClosed, "closed"))
}

// plainDoor is a door without TLS, for what is said after the handshake.
func plainDoor(t testing.TB, w Waist) *MQTT {
	t.Helper()
	f, _ := w.(*fakeWaist)
	m := newMQTT(w, Config{Registrar: &fakeRegistrar{f}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	t.Cleanup(func() { shutDown(t, m) })
	return m
}

func shutDown(t testing.TB, m *MQTT) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := m.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// pipe begins a connection to a door, and gives the device's end.
func pipe(m *MQTT) net.Conn {
	device, server := net.Pipe()
	m.serve(newConn(m, server))
	return device
}
