package hub

import (
	"context"
	"encoding/hex"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet"
)

// A Session is an identity that is connected. Safe for concurrent use.
type Session struct {
	hub       *Hub
	principal *signet.Principal
	remote    netip.Addr
	method    string                 // the principal's auth method, made once
	model     string                 // the device's Plug and Play model, as it says itself; or ""
	made      time.Time              // its hub
	kept      uint32                 // see Kept
	witness   atomic.Pointer[string] // what else the session rests on: see [Hub.reviewIdentity]
	wake      func()
	ended     atomic.Pointer[signet.Error]
	expires   atomic.Pointer[time.Time] // nil is never
	cut       atomic.Pointer[cut]       // set while a change that ended it waits for the door to close

	single   bool   // of one request: no change finds it
	judgedAt uint64 // and the count of changes then

	active atomic.Int64 // when it was last told that it is, in Unix milliseconds

	number   uint64 // grows from one connection to the next; 0 for a single request
	commands struct {
		waiting  atomic.Bool // one may have come since the door last asked
		taken    atomic.Bool // the door has asked for some
		released atomic.Bool // what was taken and not settled was given back
	}

	mailMu sync.Mutex               // held with no other lock
	mail   []Delivery               // what waits for the door
	calls  map[string]chan<- answer // who waits for answers of the device, by request ID

	listens atomic.Uint32 // the [Kinds] of deliveries that the device wants
}

func (h *Hub) newSession(c Credentials, j *judgement, wake func()) *Session {
	p := new(j.principal) // a copy: the judgement holds the whole path
	s := &Session{hub: h, principal: p, remote: c.Remote.Addr(), method: p.AuthMethod(), model: signet.Clip(c.ModelID), made: j.made, wake: wake}
	if !p.RenewOnly {
		s.kept = j.kept
	}
	witness := j.witness // a copy, too
	s.witness.Store(&witness)
	if !p.Expires.IsZero() {
		s.expires.Store(&p.Expires)
	}
	return s
}

// Principal is who the session belongs to. It must not be changed.
func (s *Session) Principal() *signet.Principal { return s.principal }

// Expires is when the session ends by itself: the expiry of its token, or, when
// the hub ends sessions then, of the first of its certificates. Zero is never.
func (s *Session) Expires() time.Time {
	if t := s.expires.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// Kept is what [Session.Keep] was last given by a session of the identity, before this
// one began; 0 when that is nothing. One that is for renewal only has nothing.
func (s *Session) Kept() uint32 { return s.kept }

// Keep stores what the identity's next session has to go on with, in the form of the
// door; nil means on disk. One that is for renewal only leaves it as it is.
func (s *Session) Keep(ctx context.Context, subscriptions uint32) error {
	p := s.principal
	if p.RenewOnly {
		return nil
	}
	if err := s.Ended(); err != nil {
		return err
	}
	return s.hub.registry.Subscribe(ctx, p.Hub, p.DeviceID, p.ModuleID, p.GenerationID, subscriptions)
}

// Ended is nil while the session lives, then why it ended.
func (s *Session) Ended() error {
	if e := s.ended.Load(); e != nil {
		return e
	}
	return nil
}

// Send takes a telemetry message: System, Properties and Body come from the
// door, the rest is stamped here. done is called as for [Messages.Append]: once,
// in order, with nil when the message is on disk. It must not block.
func (s *Session) Send(ctx context.Context, m *signet.Message, done func(error)) {
	if err := s.stillMay(ctx); err != nil {
		done(err)
		return
	}
	s.append(ctx, m, done)
}

// stillMay is what may says, and of a single request whether what it was let in by
// still holds: no change finds it, and it may have waited since for its turn or for a
// body.
func (s *Session) stillMay(ctx context.Context) error {
	err := s.may()
	if err == nil && s.single && s.hub.changes.Load() != s.judgedAt {
		err = s.hub.review(ctx, s)
	}
	return err
}

// Will takes the will of a device that is lost, as Send does. It is taken also
// after the session has expired or was taken over, but not when the device has
// lost its right to connect, and with it to speak.
func (s *Session) Will(ctx context.Context, m *signet.Message, done func(error)) {
	err := s.Ended()
	switch {
	case s.principal.RenewOnly:
		err = s.may()
	case err != nil && signet.CodeOf(err).Info().Step == signet.StepSession:
		err = nil
	}
	if err != nil {
		done(err)
		return
	}
	s.append(ctx, m, done)
}

func (s *Session) append(ctx context.Context, m *signet.Message, done func(error)) {
	if size := m.Size(); size > signet.MaxMessageSize {
		done(signet.Refuse(signet.LimitMessageSize, "The message has %d bytes.", size))
		return
	}
	p := s.principal
	m.Hub, m.DeviceID, m.ModuleID, m.GenerationID = p.Hub, p.DeviceID, p.ModuleID, p.GenerationID
	m.AuthMethod, m.Source = s.method, signet.SourceTelemetry
	if s.model != "" {
		m.System = append(m.System, signet.Property{Name: "dt-dataschema", Value: s.model})
	}
	m.EnqueuedTime = s.hub.enqueued(s.made)
	s.seen(m.EnqueuedTime)
	s.hub.messages.Append(ctx, m, done)
}

// seenEvery is how exactly the time of the last activity is known: a device that
// sends without pause costs one record in that time.
const seenEvery = 30 * time.Second

// seen tells that the identity is active, if that was not told of late.
func (s *Session) seen(at time.Time) {
	last, now := s.active.Load(), at.UnixMilli()
	if now-last >= seenEvery.Milliseconds() && s.active.CompareAndSwap(last, now) {
		s.hub.activity.Seen(s.principal, at)
	}
}

// Close tells that the connection is closed: the device has gone, or the door
// has shut after the session ended. It may be called again.
func (s *Session) Close() {
	s.end(signet.Refuse(signet.SessionClosed, "The device closed the session."))
	if c := s.cut.Swap(nil); c != nil {
		c.closed(time.Now())
	}
	s.release()
}

// end ends the session once, for the first reason that comes, and lets the door
// know. It says whether this was the reason.
func (s *Session) end(why error) bool {
	if !s.ended.CompareAndSwap(nil, signet.AsError(why)) {
		return false
	}
	s.hub.dismiss(s)
	if s.hub.inventory != nil {
		s.hub.inventory.Left(s.principal)
	}
	s.giveUpCalls()
	s.wake()
	return true
}

// admit makes a session findable, and ends the one that it takes over from. One
// that is for renewal only takes over from none that is not.
func (h *Hub) admit(s *Session) error {
	p := s.principal
	var older *Session
	h.mu.Lock()
	h.connects++
	s.number = h.connects
	devices := h.sessions[p.Hub]
	if devices == nil {
		devices = map[string][]*Session{}
		h.sessions[p.Hub] = devices
	}
	of := devices[p.DeviceID]
	if n := slices.IndexFunc(of, s.sameIdentity); n >= 0 {
		if p.RenewOnly && !of[n].principal.RenewOnly {
			h.mu.Unlock()
			return signet.Refuse(signet.CertExpired, "The certificate of %q has expired, and the device is connected by another one.", p.DeviceID)
		}
		older, of[n] = of[n], s
	} else {
		devices[p.DeviceID] = append(of, s)
	}
	h.mu.Unlock()
	h.noticed(p)
	at := h.now().UTC().Truncate(time.Millisecond)
	s.active.Store(at.UnixMilli())
	h.activity.ConnectionChanged(p, at)
	h.activity.Seen(p, at)
	if older != nil {
		h.moved(older, s)
		older.end(signet.Refuse(signet.SessionTakenOver, "%q has connected again.", signet.IdentityName(p.DeviceID, p.ModuleID)))
	}
	return nil
}

// moved tells the inventory of a certificate that is used from another address
// while its session lives.
func (h *Hub) moved(older, s *Session) {
	before, now := older.principal.Path, s.principal.Path
	if h.inventory != nil && len(before) > 0 && len(now) > 0 && before[0].Thumbprint == now[0].Thumbprint && older.remote != s.remote {
		h.inventory.Moved(s.principal, older.remote, s.remote)
	}
}

func (s *Session) sameIdentity(other *Session) bool {
	return s.principal.ModuleID == other.principal.ModuleID // of one device
}

// dismiss makes a session no longer findable, if it still is.
func (h *Hub) dismiss(s *Session) {
	if h.remove(s) {
		h.noticed(s.principal)
		h.activity.ConnectionChanged(s.principal, h.now().UTC().Truncate(time.Millisecond))
	}
}

// remove takes a session out of the index. It is not there when it was taken
// over, or never admitted.
func (h *Hub) remove(s *Session) bool {
	p := s.principal
	h.mu.Lock()
	defer h.mu.Unlock()
	devices := h.sessions[p.Hub]
	n := slices.Index(devices[p.DeviceID], s)
	switch {
	case n < 0:
		return false
	case len(devices[p.DeviceID]) > 1:
		devices[p.DeviceID] = slices.Delete(devices[p.DeviceID], n, n+1)
	case len(devices) > 1:
		delete(devices, p.DeviceID)
	default:
		delete(h.sessions, p.Hub)
	}
	return true
}

// session finds the live session of an identity, nil when it is not connected
// here.
func (h *Hub) session(hub, device, module string) *Session {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, s := range h.sessions[hub][device] {
		if s.principal.ModuleID == module {
			return s
		}
	}
	return nil
}

// Apply ends every session that a change no longer allows, waits up to a second
// for their connections to be closed, and says what it did.
func (h *Hub) Apply(ctx context.Context, c signet.Change) signet.Receipt {
	// Counted before the search: a session that the search is too early to find
	// sees the count move and looks again by itself.
	h.changes.Add(1)
	ctx = context.WithoutCancel(ctx) // whoever asked may go; the change stays
	cut := newCut()
	for _, s := range h.concerned(c) {
		var err error
		switch {
		case c.HubDeleted:
			err = signet.Refuse(signet.HubUnknown, "The hub has been deleted.")
		case c.Trust || c.Scopes:
			if err = h.reviewPath(s); err == nil && c.Scopes {
				err = h.authority.Admit(ctx, s.principal)
			}
		default:
			err = h.reviewIdentity(ctx, s)
		}
		if err != nil {
			cut.end(s, err)
		}
	}
	return cut.receipt(h.node)
}

// concerned gives the sessions that a change may touch.
func (h *Hub) concerned(c signet.Change) []*Session {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if !c.HubDeleted && !c.Trust && !c.Scopes {
		return slices.DeleteFunc(slices.Clone(h.sessions[c.Hub][c.DeviceID]), func(s *Session) bool {
			return c.ModuleID != "" && c.ModuleID != s.principal.ModuleID
		})
	}
	var found []*Session
	for _, of := range h.sessions[c.Hub] {
		for _, s := range of {
			if c.HubDeleted || len(s.principal.Path) > 0 {
				found = append(found, s)
			}
		}
	}
	return found
}

// review asks whether everything that a session was let in by still holds.
func (h *Hub) review(ctx context.Context, s *Session) error {
	if err := h.reviewPath(s); err != nil {
		return err
	}
	if err := h.authority.Admit(ctx, s.principal); err != nil {
		return err
	}
	return h.reviewIdentity(ctx, s)
}

// reviewPath asks after the certificates of the session's path. A device that
// has another path is cut too: it reconnects and is judged by that one.
func (h *Hub) reviewPath(s *Session) error {
	p := s.principal
	if len(p.Path) == 0 {
		return nil
	}
	if anchor := p.Path[len(p.Path)-1]; p.Auth == signet.AuthCA && !h.authority.Trusts(p.Hub, anchor.Thumbprint) {
		return signet.Refuse(signet.ChainUntrusted, "The CA %q is no longer an anchor of the hub.", anchor.Subject)
	}
	if err := h.authority.Revoked(p.Hub, p.Path); err != nil {
		return err
	}
	return h.reviewExpiry(s)
}

// reviewIdentity asks after the identity as it is now. When the answer cannot be
// had, it does not hold.
//
// The session's witness is, for a token that the identity's own keys signed, a
// fingerprint of those keys; for a certificate known by thumbprint, its SHA-1.
func (h *Hub) reviewIdentity(ctx context.Context, s *Session) error {
	p := s.principal
	i, err := h.registry.Get(ctx, p.Hub, p.DeviceID, p.ModuleID)
	if err != nil {
		return err
	}
	if err := h.enabled(ctx, &i); err != nil {
		return err
	}
	switch {
	case i.GenerationID != p.GenerationID:
		return madeAnew(p)
	case i.Auth.Type != p.Auth:
		return signet.Refuse(signet.IdentityAuthType, "The identity %q now authenticates by %s.", i.Name(), i.Auth.Type)
	case p.Auth == signet.AuthSelfSigned && !thumbprintMatches(&i, hex.EncodeToString(p.Path[0].Thumbprint[:]), *s.witness.Load()):
		return signet.Refuse(signet.IdentityThumbprint, "The certificate is no longer registered for %q.", i.Name())
	case p.Auth == signet.AuthSAS && p.Scope != "hub" && *s.witness.Load() != fingerprint(&i):
		return signet.Refuse(signet.TokenSignature, "The keys of %q have changed.", i.Name())
	}
	return nil
}

// Connected says whether an identity is connected. One that may only renew its
// certificate is not.
func (h *Hub) Connected(hub, device, module string) bool {
	s := h.session(hub, device, module)
	return s != nil && !s.principal.RenewOnly
}

// Sessions counts the sessions of a hub; of all hubs for "".
func (h *Hub) Sessions(hub string) int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	n := 0
	for name, devices := range h.sessions {
		if hub == "" || hub == name {
			for _, of := range devices {
				n += len(of)
			}
		}
	}
	return n
}

// Live gives whose sessions live on this node, of all hubs.
func (h *Hub) Live() []*signet.Principal {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var all []*signet.Principal
	for _, devices := range h.sessions {
		for _, of := range devices {
			for _, s := range of {
				all = append(all, s.principal)
			}
		}
	}
	return all
}

// Paths counts the live sessions of a hub by the CAs that they rest on; those of
// certificates known by thumbprint by none.
func (h *Hub) Paths(hub string) []signet.PathCount {
	at := map[string]int{}
	var counts []signet.PathCount
	for _, s := range h.concerned(signet.Change{Hub: hub, Trust: true}) {
		cas := s.principal.Path[1:]
		id := ""
		if len(cas) > 0 {
			id = signet.BranchID(cas)
		}
		n, known := at[id]
		if !known {
			n, at[id] = len(counts), len(counts)
			counts = append(counts, signet.PathCount{CAs: cas})
		}
		counts[n].Sessions++
	}
	return counts
}
