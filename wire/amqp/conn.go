package amqp

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Options of a Conn.
type Options struct {
	ContainerID string   // our name; required
	Mechanisms  []Symbol // of SASL, in the order they are offered in; required

	Wrote func(n int) // if not nil, told how many bytes have been written
}

// What else Serve may give.
var (
	// ErrSASL: the Handler has refused the client, who has been told.
	ErrSASL = errors.New("amqp: refused by SASL")
	// ErrProtocol: the client speaks something else, and has been told what is spoken.
	ErrProtocol = errors.New("amqp: the peer does not speak AMQP 1.0")
	// ErrSilent: the client has said nothing for too long.
	ErrSilent = errors.New("amqp: the peer was silent")
	// ErrUnread: the client has read nothing for too long.
	ErrUnread = errors.New("amqp: the peer reads nothing")
	// ErrDetached is what Wait gives when the link is over.
	ErrDetached = errors.New("amqp: the link is detached")
)

// A Conn is the server's side of one connection. Its methods are safe for
// concurrent use, but for Serve, which is called once.
type Conn struct {
	nc net.Conn
	h  Handler
	o  Options
	r  reader

	// Of the goroutine that reads.
	frames int // of a stranger

	mu      sync.Mutex
	changed sync.Cond
	out     []byte // to be written
	writing bool   // a goroutine is at it
	woken   bool   // there may be something to fetch
	starved bool   // a sender was not ready for want of room
	mute    bool   // nothing more is written
	failed  error  // why a write failed
	saidAt  time.Time

	deadline  time.Time     // of the Handler
	late      *Error        // what is said then
	lostAt    time.Time     // when the peer counts as lost
	heartbeat time.Duration // after which we say something
	pulse     *time.Timer   // sees to that; nil is never

	letIn    bool
	greeted  bool // AMQP is spoken
	opened   bool // open is said
	closed   bool // close is said
	ended    *Error
	patience time.Duration
	over     bool // nothing more is read, sent or taken

	peerFrame uint32 // the largest that the peer takes
	sessions  map[uint16]*session
	links     int
	partial   int // bytes of messages that have come in part
	taken     int // deliveries that are not settled
	draining  int // senders whose credit shall be used up
	accepting []*session
}

// NewConn makes the server's side of a connection.
func NewConn(nc net.Conn, h Handler, o Options) *Conn {
	c := &Conn{nc: nc, h: h, o: o, r: reader{source: nc}, peerFrame: minFrame, sessions: map[uint16]*session{}}
	c.changed.L = &c.mu
	return c
}

// LetIn ends the bounds of a stranger: the peer has proven who it is.
func (c *Conn) LetIn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.letIn = true
	c.lostAt = time.Now().Add(silence)
}

// SetDeadline sets when the connection ends, whatever happens; zero is never. Serve
// gives e then, having said it in a close, or os.ErrDeadlineExceeded when e is nil.
func (c *Conn) SetDeadline(t time.Time, e *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline, c.late = t, e
	c.setReadDeadline()
}

// Wake has what there is to send fetched, soon. It does not wait.
func (c *Conn) Wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.woken = true
	c.startWriting()
}

// End has Serve end soon, and give e, which is said in a close. What was taken until
// then is waited for as long as patience says, so that the client hears of it. Only
// the first call counts. It does not wait.
func (c *Conn) End(e *Error, patience time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil && !c.over {
		c.ended, c.patience = e, patience
		c.setReadDeadline()
		c.changed.Broadcast()
	}
}

// Serve serves the connection until it ends: nil when the client has closed it; an
// *[Error] that has been said to it, for what it did or by End; else why it was lost.
// Whatever was there is over when it returns. The connection itself is for the
// caller to close.
func (c *Conn) Serve() error {
	defer func() {
		if p := recover(); p != nil { // of the Handler: who waits for links is told that they are over
			c.finish(io.ErrUnexpectedEOF)
			panic(p)
		}
	}()
	c.mu.Lock()
	c.setReadDeadline()
	c.mu.Unlock()
	err := c.greet()
	for err == nil {
		if err = c.room(); err != nil {
			break
		}
		var f frame
		if f, err = c.next(); err == nil {
			err = c.take(f)
		}
	}
	if malformed, ok := errors.AsType[*Malformed](err); ok {
		condition := DecodeError
		if malformed.Clause == "§2.3.1" {
			condition = FramingError
		}
		err = &Error{Condition: condition, Description: malformed.Error()}
	}
	c.finish(err)
	if err == errClosed {
		return nil
	}
	return err
}

// errClosed is a close of the client's.
var errClosed = errors.New("amqp: closed by the peer")

// greet exchanges protocol headers and speaks SASL if the client wants to
// (AMQP §2.2, §5.3).
func (c *Conn) greet() error {
	id, ok, err := c.protocol()
	if err == nil && ok && id == headerSASL {
		if err := c.sasl(); err != nil {
			return err
		}
		id, ok, err = c.protocol()
	}
	switch {
	case err != nil:
		return err
	case !ok || id != headerAMQP:
		c.say(func(dst []byte) []byte { return appendProtocol(dst, headerSASL) })
		return ErrProtocol
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.greeted = true
	c.append(func(dst []byte) []byte { return appendProtocol(dst, headerAMQP) })
	return nil
}

func (c *Conn) sasl() error {
	c.say(func(dst []byte) []byte {
		return appendFrame(appendProtocol(dst, headerSASL), frameSASL, 0, func(dst []byte) []byte { return appendMechanisms(dst, c.o.Mechanisms) })
	})
	f, err := c.next()
	if err != nil {
		return err
	}
	d := decoder{b: f.body}
	if f.kind != frameSASL || d.descriptor() != codeInit {
		return &Malformed{"§5.3.2", "what should be a sasl-init is none"}
	}
	init := d.saslInit()
	if d.err != nil {
		return d.err
	}
	offered := false
	for _, m := range c.o.Mechanisms {
		offered = offered || m == init.mechanism
	}
	code := uint8(1) // auth (AMQP §5.3.3.6)
	if offered && len(init.response) <= maxSASL && c.h.SASL(init.mechanism, init.response, init.hostname) {
		code = 0
	}
	c.say(func(dst []byte) []byte {
		return appendFrame(dst, frameSASL, 0, func(dst []byte) []byte { return appendOutcome(dst, code) })
	})
	if code != 0 {
		return ErrSASL
	}
	return nil
}

func (c *Conn) protocol() (id byte, ok bool, err error) {
	for {
		if id, ok, err = c.r.protocol(); err == nil {
			return id, ok, nil
		}
		if err = c.interrupted(err); err != nil {
			return 0, false, err
		}
	}
}

// next waits for a frame.
func (c *Conn) next() (frame, error) {
	for {
		f, err := c.r.next()
		if err == nil {
			return f, nil
		}
		if err = c.interrupted(err); err != nil {
			return frame{}, err
		}
	}
}

// interrupted looks why a read has ended: nil is a reason to go on.
func (c *Conn) interrupted(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch now := time.Now(); {
	case c.ended != nil:
		return c.ended
	case c.failed != nil:
		return c.failed
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case !c.deadline.IsZero() && !now.Before(c.deadline):
		if c.late != nil {
			return c.late
		}
		return os.ErrDeadlineExceeded
	case !c.lostAt.IsZero() && !now.Before(c.lostAt):
		return ErrSilent
	}
	c.setReadDeadline()
	return nil
}

// beat says something to a peer that wants to hear of us, if nothing else was said;
// also while a Handler is busy and nothing is read (AMQP §2.4.5).
func (c *Conn) beat() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.mute {
		return
	}
	now := time.Now()
	if !now.Before(c.saidAt.Add(c.heartbeat)) {
		c.append(appendEmpty)
		c.saidAt = now // it is as good as said
	}
	c.pulse.Reset(c.saidAt.Add(c.heartbeat).Sub(now))
}

// setReadDeadline sets when the reader looks up. It is called with mu held.
func (c *Conn) setReadDeadline() {
	if c.ended != nil || c.failed != nil {
		c.nc.SetReadDeadline(time.Unix(1, 0))
		return
	}
	until := c.deadline
	sooner := func(t time.Time) {
		if until.IsZero() || t.Before(until) {
			until = t
		}
	}
	if !c.lostAt.IsZero() {
		sooner(c.lostAt)
	}
	c.nc.SetReadDeadline(until)
}

// room waits until there is room for what another frame may make us say. Whoever is
// slowed here is not asked to keep alive meanwhile.
func (c *Conn) room() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.ended == nil && c.failed == nil && len(c.out) >= maxOut {
		c.changed.Wait()
	}
	if c.ended != nil {
		return c.ended
	}
	if c.failed != nil {
		return c.failed
	}
	if c.letIn {
		c.lostAt = time.Now().Add(silence)
	}
	c.setReadDeadline()
	return nil
}

// take takes a frame.
func (c *Conn) take(f frame) error {
	if c.frames++; c.frames > strangerFrames && !c.isLetIn() {
		return &Error{Condition: ResourceLimitExceeded, Description: "Too many frames came before the client has said who it is."}
	}
	switch {
	case f.kind != frameAMQP:
		return &Malformed{"§2.3.1", "a frame is of another type than AMQP"}
	case len(f.body) == 0:
		return nil // a heartbeat
	}
	d := decoder{b: f.body}
	code := d.descriptor()
	if d.err != nil {
		return d.err
	}
	if code == codeOpen || !c.opened {
		return c.open(f, code, &d)
	}
	if code == codeClose {
		d.ending()
		return errClosed // whatever it says of why
	}
	if f.channel > maxChannel {
		return &Malformed{"§2.3.1", "the channel of a frame is beyond the channel-max"}
	}
	c.mu.Lock()
	s := c.sessions[f.channel]
	c.mu.Unlock()
	if code == codeBegin {
		return c.begin(s, f.channel, &d)
	}
	if s == nil {
		return notAllowed("A frame came on a channel on which no session has begun (AMQP §2.5.1).")
	}
	switch code {
	case codeAttach:
		return s.attach(&d)
	case codeFlow:
		return s.flow(&d)
	case codeTransfer:
		return s.transfer(&d)
	case codeDisposition:
		return s.disposition(&d)
	case codeDetach:
		return s.detach(&d)
	case codeEnd:
		return s.end(&d)
	}
	return notAllowed("A frame holds no performative of AMQP (§2.7).")
}

func notAllowed(what string) *Error { return &Error{Condition: NotAllowed, Description: what} }

func (c *Conn) isLetIn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.letIn
}

// open takes the open of the client, which is its first frame (AMQP §2.4.1).
func (c *Conn) open(f frame, code uint64, d *decoder) error {
	if code != codeOpen || c.opened || f.channel != 0 {
		return &Malformed{"§2.3.1", "the first frame, and no other, is an open on channel 0"}
	}
	o := d.open()
	if d.err != nil {
		return d.err
	}
	c.mu.Lock()
	c.peerFrame = min(max(o.maxFrame, minFrame), maxSentFrame)
	c.opened, c.saidAt = true, time.Now()
	c.frame(0, func(dst []byte) []byte { return appendOpen(dst, c.o.ContainerID) })
	c.mu.Unlock()
	switch {
	case o.maxFrame < minFrame:
		return notAllowed("The max-frame-size is less than 512 (AMQP §2.7.1).")
	case len(o.ContainerID) > maxName || len(o.Hostname) > maxName:
		return &Error{Condition: InvalidField, Description: "The container-id or the hostname of the open is too long."}
	case o.idle > 0 && o.idle < minHeartbeat:
		return notAllowed("The idle-time-out is shorter than one second.")
	}
	if o.idle > 0 {
		c.mu.Lock()
		c.heartbeat = o.idle / 2
		c.pulse = time.AfterFunc(c.heartbeat, c.beat)
		c.mu.Unlock()
	}
	if e := c.h.Open(&o.Open); e != nil {
		return e
	}
	return nil
}

// say adds to what is written.
func (c *Conn) say(what func([]byte) []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.append(what)
}

// append adds to what is written; frame, a performative. They are called with mu
// held.
func (c *Conn) append(what func([]byte) []byte) {
	if c.mute || c.closed {
		return
	}
	if c.out == nil {
		c.out = takeOut()
	}
	c.out = what(c.out)
	c.startWriting()
}

func (c *Conn) frame(channel uint16, performative func([]byte) []byte) {
	c.append(func(dst []byte) []byte { return appendFrame(dst, frameAMQP, channel, performative) })
}

var outs = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

func takeOut() []byte { return (*outs.Get().(*[]byte))[:0] }

// startWriting sees to it that someone writes. It is called with mu held.
func (c *Conn) startWriting() {
	if !c.writing && !c.mute {
		c.writing = true
		go c.write()
	}
}

// sayAccepted says what has been accepted. It is called with mu held.
func (c *Conn) sayAccepted() {
	for _, s := range c.accepting {
		s.sayAccepted()
	}
	c.accepting = c.accepting[:0]
}

// write fetches and writes until there is nothing left of either.
func (c *Conn) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if (c.woken || c.draining > 0) && !c.over {
			c.sayAccepted() // that a request is accepted, before its answer
			c.woken = false
			c.mu.Unlock()
			c.h.Fetch()
			c.mu.Lock()
			c.drain()
		}
		c.sayAccepted()
		if len(c.out) == 0 {
			if c.woken && !c.over {
				continue
			}
			c.writing = false
			c.changed.Broadcast()
			return
		}
		out := c.out
		c.out = nil
		c.mu.Unlock()
		c.nc.SetWriteDeadline(time.Now().Add(writeTime))
		n, err := c.nc.Write(out)
		if c.o.Wrote != nil {
			c.o.Wrote(n)
		}
		if cap(out) <= 4<<10 {
			out = out[:0]
			outs.Put(&out)
		}
		c.mu.Lock()
		c.saidAt = time.Now()
		if err != nil {
			if c.failed = err; errors.Is(err, os.ErrDeadlineExceeded) {
				c.failed = ErrUnread
			}
			c.mute, c.out = true, nil
			c.setReadDeadline()
		}
		for _, s := range c.sessions {
			s.pump()
		}
		if c.starved && len(c.out) < maxOut {
			c.starved, c.woken = false, true // there is room again
		}
		c.changed.Broadcast()
	}
}

// finish ends the connection: it says what there is to say, gives the peer time to
// read that, and ends what was there.
func (c *Conn) finish(err error) {
	e, ours := err.(*Error)
	c.mu.Lock()
	if c.ended != nil {
		c.await(c.patience, func() bool { return c.taken > 0 })
	}
	c.sayAccepted()
	c.over = true
	if c.pulse != nil {
		c.pulse.Stop()
	}
	answer := err == errClosed
	if c.greeted && (ours || answer) {
		if !c.opened {
			c.frame(0, func(dst []byte) []byte { return appendOpen(dst, c.o.ContainerID) }) // AMQP §2.4.3
		}
		// Sessions are over with the connection. rhea, and so the SDK for Node, waits for
		// 45 seconds for links to be detached unless their session has ended.
		for channel := range c.sessions {
			if ours {
				c.frame(channel, func(dst []byte) []byte { return appendEnding(dst, codeEnd, e) })
			}
		}
		c.frame(0, func(dst []byte) []byte { return appendEnding(dst, codeClose, e) })
	}
	c.closed = true
	told := ours || answer || err == ErrSASL || err == ErrProtocol
	patience := writeTime
	if ours && e == c.ended {
		patience = cutTime
	}
	if told {
		c.await(patience, func() bool { return c.writing })
	}
	c.mute, c.out = true, nil
	linger := told && !answer && c.failed == nil && !c.writing
	c.changed.Broadcast()
	sessions := c.sessions
	c.sessions = map[uint16]*session{}
	c.mu.Unlock()

	for _, s := range sessions {
		s.lost()
	}
	c.r.giveBack()
	if linger && e != nil && e == c.ended {
		c.linger(endTime)
	} else if linger {
		c.linger(lingerTime)
	}
}

// await waits while something is so, and no longer than patience. It is called with
// mu held.
func (c *Conn) await(patience time.Duration, so func() bool) {
	if !so() || patience <= 0 {
		return
	}
	late := false
	timer := time.AfterFunc(patience, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		late = true
		c.changed.Broadcast()
	})
	defer timer.Stop()
	for so() && !late && !c.mute {
		c.changed.Wait()
	}
}

// linger gives a peer time to read our last words while it still sends: closing at
// once would reset the connection, and they could be lost.
func (c *Conn) linger(patience time.Duration) {
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	c.nc.SetReadDeadline(time.Now().Add(patience))
	io.CopyN(io.Discard, c.nc, lingerBytes)
}
