package amqp

import "context"

// A Handler serves what comes on a connection. Its methods are called by the
// goroutine of [Conn.Serve], one after the other, and may wait: nothing more is
// read meanwhile. Fetch alone is called by whoever writes, also one call at a time.
type Handler interface {
	// SASL judges the initial response of one of the mechanisms that were offered
	// (AMQP §5.3.3.2), for the host that the client names, if it does. A client that
	// does not speak SASL is not asked for it.
	SASL(mechanism Symbol, response []byte, hostname string) bool

	// Open is told how the client opens the connection, once. An error is said to it
	// in a close, and ends the connection.
	Open(o *Open) *Error

	// AttachReceiver is asked to take a link on which the client sends, and
	// AttachSender one on which it receives. Who takes one sets what is set in it
	// before returning. An error refuses the link, and says why.
	AttachReceiver(r *Receiver) *Error
	AttachSender(s *Sender) *Error

	// Fetch sends what there is to send, on what links are ready for it. It is called
	// after [Conn.Wake], and when a sender has become ready. When a client drains a
	// link, what Fetch leaves of its credit is used up when it returns.
	Fetch()
}

// Open is how a client opens a connection (AMQP §2.7.1).
type Open struct {
	ContainerID string
	Hostname    string // as written: with a port, perhaps; "" when there is none
	Properties  Map
}

// Link is what both kinds of links have. It is safe for concurrent use once taken.
type Link struct {
	// As the client attached it. Source, Target, Properties and Desired are there for
	// the call of Attach alone.
	Name       string
	Address    string    // of the node: the target's of a Receiver, the source's of a Sender
	Source     *Terminus // nil when there is none
	Target     *Terminus // nil when there is none
	Properties Map       // keys are symbols
	Desired    []Symbol  // capabilities

	// Set by who takes it.
	Offered []Symbol // capabilities
	// Detached, if not nil, is told once that the link is over, by the goroutine that
	// reads: with the error of the client's detach, if it came with one.
	Detached func(err *Error)

	session *session
	handle  uint32
	sndMode uint8
	rcvMode uint8
	state   linkState // guarded by Conn.mu
	refused bool
	given   bool   // it was given up before it was attached
	why     *Error // for what
}

// SenderMode and ReceiverMode are the settle modes that were agreed.
func (l *Link) SenderMode() uint8   { return l.sndMode }
func (l *Link) ReceiverMode() uint8 { return l.rcvMode }

// A Receiver is our end of a link on which the client sends.
type Receiver struct {
	Link

	// Set by who takes it.
	Credit  uint32          // how many deliveries may be there that are not settled; at most maxCredit
	MaxSize uint64          // bytes a message, told to the client; required
	Take    func(*Delivery) // takes one; it may wait, and nothing more is read of the connection meanwhile

	received
}

// A Delivery is a message that has come whole.
type Delivery struct {
	Format   uint32 // AMQP §2.7.5: message-format; 0 is a message of part 3
	Tag      []byte
	Settled  bool   // the client wants to hear nothing of it
	Payload  []byte // the encoded message, which belongs to the delivery; nil when TooLarge
	TooLarge bool   // the message was larger than MaxSize, and has been skipped

	receiver *Receiver
	id       uint32
	done     bool // it is settled
}

// A Sender is our end of a link on which the client receives.
type Sender struct {
	Link
	sending
}

// Outgoing is a message to send.
type Outgoing struct {
	Payload []byte // the encoded message; it must not be changed any more
	Format  uint32
	Tag     []byte // at most 32 bytes; 16 random ones when empty
	Settled bool   // to hear nothing of it; what the link's mode says goes before

	// Done is called once with what the client makes of it, by the goroutine that
	// reads: it may wait. What it gives is said to a client that waits for us to settle
	// (AMQP §2.6.12, second); nil is the state itself. When link or connection end
	// before, state is nil and nothing is said. Not called when Settled.
	Done func(state State) State
}

// Wait waits until the sender is ready: for who sends from a goroutine of his own. It
// gives ErrDetached when the link is over, or the error of ctx.
func (o *Sender) Wait(ctx context.Context) error {
	c := o.session.c
	defer context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changed.Broadcast()
	})()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case o.state == detaching || o.state == detached || c.over || c.mute || c.ended != nil:
			return ErrDetached
		case ctx.Err() != nil:
			return ctx.Err()
		case o.ready():
			return nil
		}
		c.changed.Wait()
	}
}
