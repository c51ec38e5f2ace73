package amqp

import (
	"crypto/rand"
	"slices"
)

// A session is one of a connection (AMQP §2.5). Its channel is the peer's and ours
// alike, and so are the handles of its links: each side may number as it likes.
// What it holds is guarded by Conn.mu.
type session struct {
	c       *Conn
	channel uint16
	over    bool

	nextIncoming uint32 // transfer-id of the next transfer frame
	window       uint32 // how many more the peer may send
	nextOutgoing uint32
	peerWindow   uint32 // how many more we may send
	handleMax    uint32

	links map[uint32]endpoint // by handle

	nextDelivery uint32           // delivery-id of the next that we send
	unsettled    map[uint32]*sent // what we have sent and the peer has not settled
	pending      *pending         // what is being sent; nil when nothing is

	accepted    bool // deliveries from first to last are, and it has not been said
	first, last uint32
}

// An endpoint is a *Receiver or a *Sender.
type endpoint interface{ base() *Link }

func (l *Link) base() *Link { return l }

// A sent is a delivery that the peer has not settled.
type sent struct {
	sender *Sender
	done   func(State) State
}

// A pending delivery is under way to the peer.
type pending struct {
	sender  *Sender
	head    transfer
	payload []byte // the rest
}

func (c *Conn) begin(s *session, channel uint16, d *decoder) error {
	b := d.begin()
	if d.err != nil {
		return d.err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := strangerSessions
	if c.letIn {
		limit = guestSessions
	}
	switch {
	case s != nil:
		return notAllowed("A session has begun on a channel that has one (AMQP §2.5.1).")
	case b.answer:
		return notAllowed("A begin answers one that was not sent (AMQP §2.7.2).")
	case len(c.sessions) >= limit:
		return &Error{Condition: ResourceLimitExceeded, Description: "There are too many sessions on the connection."}
	}
	s = &session{c: c, channel: channel, nextIncoming: b.nextOutgoing, window: incomingWindow, peerWindow: b.incomingWindow, handleMax: b.handleMax}
	c.sessions[channel] = s
	answer := beginning{remote: channel, nextOutgoing: s.nextOutgoing, incomingWindow: s.window, outgoingWindow: incomingWindow, handleMax: maxHandle}
	c.frame(channel, answer.append)
	return nil
}

// end takes the end of a session.
func (s *session) end(d *decoder) error {
	if d.ending(); d.err != nil {
		return d.err
	}
	c := s.c
	c.mu.Lock()
	s.sayAccepted()
	s.over = true
	delete(c.sessions, s.channel)
	c.frame(s.channel, func(dst []byte) []byte { return appendEnding(dst, codeEnd, nil) })
	c.mu.Unlock()
	s.lost()
	return nil
}

// lost ends what a session holds: its links are over.
func (s *session) lost() {
	c := s.c
	c.mu.Lock()
	s.over = true
	links := s.links
	s.links, s.pending = nil, nil
	c.mu.Unlock()
	for _, l := range links {
		s.detached(l, nil)
	}
}

func (s *session) isOver() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.over
}

// A linkState says how far a link is.
type linkState uint8

const (
	unattached linkState = iota // it is being decided on
	attached
	detaching // we have said so, and wait for the answer
	detached
)

func (s *session) attach(d *decoder) error {
	a := d.attach()
	if d.err != nil {
		return d.err
	}
	c := s.c
	limit := strangerLinks
	if c.isLetIn() {
		limit = guestLinks
	}
	c.mu.Lock()
	_, inUse := s.links[a.handle]
	links := c.links
	c.mu.Unlock()
	switch {
	case a.handle > maxHandle || a.handle > s.handleMax:
		return &Malformed{"§2.3.1", "the handle of a link is beyond the handle-max"}
	case inUse:
		return &Error{Condition: HandleInUse, Description: "A link was attached with a handle that is in use (AMQP §2.7.3)."}
	case links >= limit:
		return &Error{Condition: ResourceLimitExceeded, Description: "There are too many links on the connection."}
	case len(a.name) > maxName:
		return &Error{Condition: InvalidField, Description: "The name of a link is too long."}
	}
	l := Link{Name: a.name, Source: a.source, Target: a.target, Properties: a.properties, Desired: a.desired,
		session: s, handle: a.handle, sndMode: a.sndMode, rcvMode: a.rcvMode}
	if a.receiver {
		return s.attachSender(&a, l)
	}
	return s.attachReceiver(&a, l)
}

// usable judges the terminus that names our node.
func usable(t *Terminus) *Error {
	switch {
	case t == nil:
		return &Error{Condition: InvalidField, Description: "The link has no address."}
	case t.coordinator:
		return &Error{Condition: NotImplemented, Description: "Transactions are not served."}
	case t.Dynamic:
		return &Error{Condition: NotImplemented, Description: "Dynamic nodes are not served."}
	case len(t.Address) > maxName:
		return &Error{Condition: InvalidField, Description: "The address of the link is too long."}
	}
	return nil
}

func (s *session) attachReceiver(a *attaching, l Link) error {
	r := &Receiver{Link: l}
	r.rcvMode = ReceiverFirst // we settle at once
	r.count = a.initialCount
	e := usable(r.Target)
	if e == nil {
		r.Address = r.Target.Address
		e = s.c.h.AttachReceiver(r)
	}
	answer := attaching{name: a.name, handle: a.handle, receiver: true, sndMode: r.sndMode, rcvMode: r.rcvMode,
		source: a.source, target: a.target, maxSize: r.MaxSize, offered: r.Offered}
	if e != nil {
		answer.target, answer.offered = nil, nil
	}
	r.Credit = min(r.Credit, maxCredit)
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.answer(r, &answer, e)
	r.topUp()
	return nil
}

func (s *session) attachSender(a *attaching, l Link) error {
	o := &Sender{Link: l}
	e := usable(o.Source)
	if e == nil {
		o.Address = o.Source.Address
		e = s.c.h.AttachSender(o)
	}
	answer := attaching{name: a.name, handle: a.handle, sndMode: o.sndMode, rcvMode: o.rcvMode,
		source: a.source, target: a.target, maxSize: saidSize, offered: o.Offered}
	if e != nil {
		answer.source, answer.offered = nil, nil
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.answer(o, &answer, e)
	return nil
}

// answer answers an attach, and refuses it if e says why (AMQP §2.6.3). It is called
// with mu held.
func (s *session) answer(l endpoint, a *attaching, e *Error) {
	b := l.base()
	b.Source, b.Target, b.Properties, b.Desired = nil, nil, nil, nil
	if s.links == nil {
		s.links = map[uint32]endpoint{}
	}
	s.links[b.handle] = l
	s.c.links++
	b.state = attached
	s.c.frame(s.channel, a.append)
	if e != nil {
		b.refused = true
	} else if b.given {
		e = b.why
	}
	if b.refused || b.given {
		b.state = detaching
		s.c.frame(s.channel, func(dst []byte) []byte { return appendDetach(dst, b.handle, e) })
		s.c.changed.Broadcast()
	}
}

// detach takes the detach of a link.
func (s *session) detach(d *decoder) error {
	handle, e := d.detach()
	if d.err != nil {
		return d.err
	}
	c := s.c
	c.mu.Lock()
	l := s.links[handle]
	if l == nil {
		c.mu.Unlock()
		return unattachedHandle()
	}
	delete(s.links, handle)
	if b := l.base(); b.state == attached {
		s.sayAccepted()
		c.frame(s.channel, func(dst []byte) []byte { return appendDetach(dst, handle, nil) })
	}
	if s.pending != nil && s.pending.sender.base() == l.base() {
		s.pending = nil // it is not waited for any more
	}
	c.mu.Unlock()
	s.detached(l, e)
	return nil
}

func unattachedHandle() *Error {
	return &Error{Condition: UnattachedHandle, Description: "A frame came for a link that is not attached (AMQP §2.8.17)."}
}

// detached tells those concerned that a link is over, once it is out of the session.
func (s *session) detached(l endpoint, e *Error) {
	c := s.c
	b := l.base()
	var dones []func(State) State
	c.mu.Lock()
	b.state = detached
	c.links--
	switch l := l.(type) {
	case *Receiver:
		c.partial -= len(l.partial)
		l.partial, l.current = nil, nil
	case *Sender:
		if l.draining {
			c.draining--
		}
		for id, d := range s.unsettled {
			if d.sender == l {
				delete(s.unsettled, id)
				dones = append(dones, d.done)
			}
		}
	}
	refused := b.refused
	c.changed.Broadcast()
	c.mu.Unlock()
	for _, done := range dones {
		done(nil)
	}
	if b.Detached != nil && !refused {
		b.Detached(e)
	}
}

// Detach detaches the link, and says why, if e is not nil. It does not wait: what is
// told of the end is told when the peer has answered. A link that is still being
// attached is detached once that is said.
func (l *Link) Detach(e *Error) {
	s := l.session
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.state == unattached && !l.given {
		l.given, l.why = true, e
	}
	if l.state != attached || s.over {
		return
	}
	l.state = detaching
	if s.pending != nil && s.pending.sender.base() == l {
		s.pending = nil // the part that is out goes with the link
	}
	s.sayAccepted()
	c.frame(s.channel, func(dst []byte) []byte { return appendDetach(dst, l.handle, e) })
	c.changed.Broadcast()
}

// flow takes what the peer says of the session and, perhaps, of a link
// (AMQP §2.5.6, §2.6.7).
func (s *session) flow(d *decoder) error {
	f := d.flow()
	if d.err != nil {
		return d.err
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	// What the peer has not counted yet is on its way. Before it has seen our begin, it
	// counts from where that begins.
	base := uint32(0)
	if f.hasIncoming {
		base = f.nextIncoming
	}
	onTheWay := s.nextOutgoing - base
	if onTheWay > 1<<31 {
		return &Error{Condition: WindowViolation, Description: "A flow counts transfers that were not sent (AMQP §2.5.6)."}
	}
	s.peerWindow = f.incomingWindow - min(f.incomingWindow, onTheWay)
	var l endpoint
	if f.hasHandle {
		// A client may say how a link stands that it has just detached.
		l = s.links[f.handle]
		if o, ok := l.(*Sender); ok {
			o.granted(&f)
		}
	}
	s.pump()
	if c.starved && s.pending == nil && s.peerWindow > 0 {
		c.starved, c.woken = false, true
		c.startWriting()
	}
	if f.echo {
		s.sayFlow(l)
	}
	c.changed.Broadcast()
	return nil
}

// granted takes credit. It is called with mu held.
func (o *Sender) granted(f *flowing) {
	if o.state != attached || !f.hasCredit {
		return
	}
	count := uint32(0) // initial-delivery-count, until the peer knows better
	if f.hasCount {
		count = f.deliveryCount
	}
	credit := f.credit
	if onTheWay := o.count - count; onTheWay < 1<<31 {
		credit -= min(credit, onTheWay)
	}
	c := o.session.c
	was := o.draining
	o.credit, o.draining = credit, f.drain
	if o.draining != was {
		if was {
			c.draining--
		} else {
			c.draining++
		}
	}
	if credit > 0 || f.drain {
		c.woken = true
		c.startWriting()
	}
	if f.drain && credit == 0 { // there is nothing to use up, but the peer waits
		o.draining = false
		c.draining--
		o.session.sayDrained(o)
	}
}

// sayFlow says how the session stands, and a link if it is not nil. It is called with
// mu held.
func (s *session) sayFlow(l endpoint) {
	s.window = incomingWindow
	f := flowing{nextIncoming: s.nextIncoming, incomingWindow: s.window, nextOutgoing: s.nextOutgoing, outgoingWindow: incomingWindow}
	if l != nil && l.base().state == attached {
		f.hasHandle, f.handle = true, l.base().handle
		switch l := l.(type) {
		case *Receiver:
			f.deliveryCount, f.credit = l.count, l.credit
		case *Sender:
			f.deliveryCount, f.credit = l.count, l.credit
		}
	}
	s.c.frame(s.channel, f.append)
}

func (s *session) sayDrained(o *Sender) {
	f := flowing{nextIncoming: s.nextIncoming, incomingWindow: s.window, nextOutgoing: s.nextOutgoing, outgoingWindow: incomingWindow,
		hasHandle: true, handle: o.handle, deliveryCount: o.count, drain: true}
	s.c.frame(s.channel, f.append)
}

// transfer takes a transfer frame (AMQP §2.7.5).
func (s *session) transfer(d *decoder) error {
	t := d.transfer()
	if d.err != nil {
		return d.err
	}
	c := s.c
	c.mu.Lock()
	r, delivery, err := s.assemble(&t, d.b)
	c.mu.Unlock()
	if err == nil && delivery != nil {
		r.Take(delivery)
	}
	return err
}

// assemble adds a frame to its delivery, and gives that when it is whole. It is
// called with mu held.
func (s *session) assemble(t *transfer, payload []byte) (*Receiver, *Delivery, error) {
	c := s.c
	if s.window == 0 {
		return nil, nil, &Error{Condition: WindowViolation, Description: "A transfer came beyond the incoming window (AMQP §2.5.6)."}
	}
	s.window--
	s.nextIncoming++
	if s.window <= incomingWindow/2 {
		s.sayFlow(nil)
	}
	l := s.links[t.handle]
	if l == nil {
		return nil, nil, unattachedHandle()
	}
	r, ok := l.(*Receiver)
	if !ok {
		return nil, nil, notAllowed("A transfer came on a link on which the client receives.")
	}
	if r.state != attached {
		return nil, nil, nil // it did not know yet
	}
	if r.current == nil {
		switch {
		case r.credit == 0:
			return nil, nil, &Error{Condition: TransferLimitExceeded, Description: "A transfer came without credit (AMQP §2.6.7)."}
		case !t.hasID || len(t.tag) > maxTag:
			return nil, nil, &Error{Condition: InvalidField, Description: "The first transfer of a delivery has no delivery-id, or too long a tag (AMQP §2.7.5)."}
		}
		r.credit--
		r.count++
		r.current = &Delivery{Format: t.format, Tag: slices.Clone(t.tag), receiver: r, id: t.id}
	} else if t.hasID && t.id != r.current.id {
		return nil, nil, notAllowed("A delivery began on a link before the one before was whole (AMQP §2.6.14).")
	}
	current := r.current
	current.Settled = current.Settled || t.settled
	switch {
	case t.aborted:
		c.partial -= len(r.partial)
		r.partial, r.current = nil, nil
		r.topUp()
		return nil, nil, nil
	case current.TooLarge:
	case uint64(len(r.partial)+len(payload)) > r.MaxSize:
		current.TooLarge = true
		c.partial -= len(r.partial)
		r.partial = nil
	default:
		limit := strangerPartial
		if c.letIn {
			limit = guestPartial
		}
		if c.partial+len(payload) > limit {
			return nil, nil, &Error{Condition: ResourceLimitExceeded, Description: "There are too many messages of which only a part has come."}
		}
		c.partial += len(payload)
		r.partial = append(r.partial, payload...)
	}
	if t.more {
		return nil, nil, nil
	}
	c.partial -= len(r.partial)
	current.Payload = r.partial
	r.partial, r.current = nil, nil
	r.unsettled++
	c.taken++
	return r, current, nil
}

// received is what a session knows of a Receiver, guarded by Conn.mu.
type received struct {
	credit    uint32 // what is left of it
	count     uint32 // delivery-count
	unsettled uint32
	current   *Delivery // of which not all has come
	partial   []byte
}

// topUp gives the peer more credit once half of it is used up. It is called with mu
// held.
func (r *Receiver) topUp() {
	s := r.session
	want := r.Credit - min(r.unsettled, r.Credit)
	if r.current != nil {
		want -= min(1, want)
	}
	if r.state != attached || s.over || want <= r.credit || want-r.credit < (r.Credit+1)/2 {
		return
	}
	r.credit = want
	s.sayFlow(r)
}

// Settle says what becomes of the delivery. It may be called from any goroutine, and
// does not wait. Every delivery must be settled, once, also one that the client has
// settled: the link has credit for so many.
func (d *Delivery) Settle(state State) {
	r := d.receiver
	s := r.session
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.done {
		return
	}
	d.done = true
	r.unsettled--
	c.taken--
	c.changed.Broadcast()
	if s.over {
		return
	}
	if _, ok := state.(Accepted); ok && !d.Settled {
		s.accept(d.id)
	} else if !d.Settled {
		s.sayAccepted()
		v := disposition{receiver: true, first: d.id, last: d.id, settled: true, state: state}
		c.frame(s.channel, v.append)
	}
	r.topUp()
}

// accept notes that a delivery is accepted: those that follow each other are said
// together, when they are written. sayAccepted says them. Both are called with mu
// held.
func (s *session) accept(id uint32) {
	if s.accepted && id == s.last+1 {
		s.last = id
		return
	}
	if !s.accepted {
		s.c.accepting = append(s.c.accepting, s)
	} else {
		s.sayAccepted()
	}
	s.accepted, s.first, s.last = true, id, id
	s.c.startWriting()
}

func (s *session) sayAccepted() {
	if s.accepted {
		s.accepted = false
		v := disposition{receiver: true, first: s.first, last: s.last, settled: true, state: Accepted{}}
		s.c.frame(s.channel, v.append)
	}
}

// disposition takes what the peer makes of what we have sent (AMQP §2.7.6).
func (s *session) disposition(d *decoder) error {
	v := d.disposition()
	if d.err != nil {
		return d.err
	}
	if !v.receiver {
		return nil // what it has sent itself is settled by us
	}
	if _, more := v.state.(Received); !v.settled && (v.state == nil || more) {
		return nil // no outcome yet
	}
	state := v.state
	if _, more := state.(Received); state == nil || more {
		state = Released{} // settled without an outcome: it may come again
	}
	c := s.c
	c.mu.Lock()
	ids := make([]uint32, 0, 1)
	if n := v.last - v.first; n < uint32(len(s.unsettled)) {
		for i := range n + 1 {
			if _, ok := s.unsettled[v.first+i]; ok {
				ids = append(ids, v.first+i)
			}
		}
	} else if n < 1<<31 { // the range is longer than what is there
		for id := range s.unsettled {
			if id-v.first <= n {
				ids = append(ids, id)
			}
		}
		slices.SortFunc(ids, func(a, b uint32) int { return int(int32(a - b)) })
	}
	done := make([]func(State) State, len(ids))
	for i, id := range ids {
		done[i] = s.unsettled[id].done
		delete(s.unsettled, id)
	}
	if len(ids) > 0 && c.starved {
		c.starved, c.woken = false, true
		c.startWriting()
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	for i, id := range ids {
		answer := state
		if said := done[i](state); said != nil {
			answer = said
		}
		if !v.settled {
			c.mu.Lock()
			w := disposition{first: id, last: id, settled: true, state: answer}
			c.frame(s.channel, w.append)
			c.mu.Unlock()
		}
	}
	return nil
}

// pump sends what is pending, as far as the peer's window and our buffer go. It is
// called with mu held.
func (s *session) pump() {
	p := s.pending
	if p == nil {
		return
	}
	c := s.c
	for s.peerWindow > 0 && len(c.out) < maxOut && !c.mute && !c.closed {
		c.frame(s.channel, func(dst []byte) []byte {
			at := len(dst)
			p.head.more = true
			dst = p.head.append(dst)
			room := int(c.peerFrame) - 8 - (len(dst) - at)
			if len(p.payload) <= room {
				p.head.more = false
				dst = p.head.append(dst[:at])
				room = len(p.payload)
			}
			dst = append(dst, p.payload[:room]...)
			p.payload = p.payload[room:]
			return dst
		})
		p.head.hasID = false // only the first has what names it
		s.nextOutgoing++
		s.peerWindow--
		if !p.head.more {
			s.pending = nil
			c.changed.Broadcast()
			return
		}
	}
}

// sending is what a session knows of a Sender, guarded by Conn.mu.
type sending struct {
	credit   uint32
	count    uint32 // delivery-count
	draining bool
}

// Ready says whether Send would send now. When it is not for want of credit or room,
// Fetch is called once that has come.
func (o *Sender) Ready() bool {
	c := o.session.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return o.ready()
}

func (o *Sender) ready() bool {
	s := o.session
	c := s.c
	if o.state != attached || o.credit == 0 || s.over || c.over || c.mute || c.ended != nil {
		return false
	}
	if s.pending != nil || s.peerWindow == 0 || len(s.unsettled) >= maxUnsettled || len(c.out) >= maxOut {
		c.starved = true
		return false
	}
	return true
}

// Send sends a message, if the sender is ready. It does not wait.
func (o *Sender) Send(m Outgoing) bool {
	s := o.session
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !o.ready() {
		return false
	}
	o.credit--
	o.count++
	settled := m.Settled && o.sndMode != SenderUnsettled || o.sndMode == SenderSettled
	tag := m.Tag
	if len(tag) == 0 {
		tag = make([]byte, 16)
		rand.Read(tag)
	}
	id := s.nextDelivery
	s.nextDelivery++
	s.pending = &pending{sender: o, payload: m.Payload,
		head: transfer{handle: o.handle, id: id, hasID: true, tag: tag, format: m.Format, settled: settled}}
	if !settled {
		if s.unsettled == nil {
			s.unsettled = map[uint32]*sent{}
		}
		done := m.Done
		if done == nil || m.Settled {
			done = func(State) State { return nil }
		}
		s.unsettled[id] = &sent{o, done}
	}
	s.pump()
	return true
}

// drain uses up the credit of those whose peer asks for it, now that what there was
// has been sent. It is called with mu held.
func (c *Conn) drain() {
	if c.draining == 0 {
		return
	}
	for _, s := range c.sessions {
		if s.pending != nil {
			c.starved = true
			continue
		}
		for _, l := range s.links {
			if o, ok := l.(*Sender); ok && o.draining {
				o.draining = false
				c.draining--
				if o.state != attached {
					continue // the peer does not know its handle any more
				}
				o.count += o.credit
				o.credit = 0
				s.sayDrained(o)
			}
		}
	}
}
