package amqp_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/Azure/go-amqp"
	"github.com/signet-iot/signet/wire/amqp"
)

// A node serves a connection with a few addresses: what is sent to "in" comes out at
// "out", "refused" refuses, "big" takes messages of 100 bytes, "ask" answers at "ask".
type node struct {
	conn *amqp.Conn

	mu       sync.Mutex
	waiting  [][]byte // for "out"
	outs     []*amqp.Sender
	replies  amqp.Replies
	told     []string
	settled  bool // send settled
	fetches  int
	keep     bool // deliveries at "in" are kept, not settled
	kept     []*amqp.Delivery
	password string
}

func (n *node) tell(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, fmt.Sprintf(format, args...))
}

func (n *node) heard() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.told, "; ")
}

func (n *node) SASL(mechanism amqp.Symbol, response []byte, hostname string) bool {
	n.tell("SASL %s %q", mechanism, response)
	return n.password == "" || strings.HasSuffix(string(response), "\x00"+n.password)
}

func (n *node) Open(o *amqp.Open) *amqp.Error {
	if o.Hostname == "refused" {
		return &amqp.Error{Condition: amqp.UnauthorizedAccess, Description: "not this one"}
	}
	n.conn.LetIn()
	return nil
}

func (n *node) AttachReceiver(r *amqp.Receiver) *amqp.Error {
	r.Credit, r.MaxSize = 10, 1<<20
	r.Detached = func(e *amqp.Error) { n.tell("receiver %s over: %v", r.Address, e) }
	switch r.Address {
	case "in":
		r.Take = func(d *amqp.Delivery) {
			n.mu.Lock()
			if n.keep {
				n.kept = append(n.kept, d)
				n.mu.Unlock()
				return
			}
			n.waiting = append(n.waiting, d.Payload)
			n.mu.Unlock()
			d.Settle(amqp.Accepted{})
			n.conn.Wake()
		}
	case "big":
		r.MaxSize = 100
		r.Take = func(d *amqp.Delivery) {
			if d.TooLarge {
				d.Settle(amqp.Rejected{Error: &amqp.Error{Condition: amqp.MessageSizeExceeded, Description: "too large",
					Info: amqp.Map{{Key: amqp.Symbol("com.microsoft:tracking-id"), Value: "T1"}}}})
				return
			}
			d.Settle(amqp.Accepted{})
		}
	case "ask":
		r.Take = func(d *amqp.Delivery) {
			m, err := amqp.ParseMessage(d.Payload)
			if err != nil {
				d.Settle(amqp.Rejected{Error: &amqp.Error{Condition: amqp.DecodeError}})
				return
			}
			d.Settle(amqp.Accepted{})
			answer := amqp.Message{Properties: amqp.Properties{CorrelationID: m.Properties.MessageID}, Body: amqp.ValueBody, Value: int32(42)}
			n.replies.Answer(r, m.Properties.ReplyTo, answer.Append(nil))
		}
	default:
		return &amqp.Error{Condition: amqp.NotFound, Description: "no node " + r.Address}
	}
	return nil
}

func (n *node) AttachSender(s *amqp.Sender) *amqp.Error {
	switch s.Address {
	case "out":
		if f := s.Source.Filter.Get("some:filter"); f != nil {
			n.tell("filter %v", f)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.outs = append(n.outs, s)
		s.Detached = func(e *amqp.Error) {
			n.tell("sender over: %v", e)
			n.mu.Lock()
			defer n.mu.Unlock()
			n.outs = slices.DeleteFunc(n.outs, func(o *amqp.Sender) bool { return o == s })
		}
	case "ask":
		n.replies.Add(s)
	default:
		return &amqp.Error{Condition: amqp.UnauthorizedAccess, Description: "not " + s.Address}
	}
	return nil
}

func (n *node) Fetch() {
	n.replies.Fetch()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fetches++
	for len(n.waiting) > 0 && len(n.outs) > 0 {
		payload := n.waiting[0]
		if !n.outs[0].Send(amqp.Outgoing{Payload: payload, Settled: n.settled, Done: func(s amqp.State) amqp.State {
			n.tell("%T", s)
			return amqp.Accepted{} // to a client that waits for us to settle
		}}) {
			return
		}
		n.waiting = n.waiting[1:]
	}
}

// serve serves connections on a listener until the test is over.
func serve(t *testing.T, change func(*node)) (addr string, nodes func() *node) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan *node, 10)
	var lives sync.WaitGroup
	t.Cleanup(func() { l.Close(); lives.Wait() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			n := &node{}
			if change != nil {
				change(n)
			}
			n.conn = amqp.NewConn(nc, n, amqp.Options{ContainerID: "test", Mechanisms: []amqp.Symbol{"MSSBCBS", "ANONYMOUS", "PLAIN"}})
			lives.Go(func() {
				err := n.conn.Serve()
				nc.Close()
				n.tell("served: %v", err)
				served <- n
			})
			served <- n
		}
	}()
	return "amqp://" + l.Addr().String(), func() *node { return <-served }
}

func dial(t *testing.T, addr string, o *client.ConnOptions) (*client.Conn, *client.Session) {
	t.Helper()
	c, err := client.Dial(t.Context(), addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := c.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// TestThroughAndBack sends messages of all sizes there and back, with a client that
// checks what it is told: windows, credit, delivery IDs.
func TestThroughAndBack(t *testing.T) {
	for _, frame := range []uint32{512, 4096, 65536} {
		for _, settled := range []bool{false, true} {
			t.Run(fmt.Sprint(frame, settled), func(t *testing.T) {
				addr, next := serve(t, func(n *node) { n.settled = settled })
				c, s := dial(t, addr, &client.ConnOptions{MaxFrameSize: frame, SASLType: client.SASLTypeAnonymous()})
				n := next()
				out, err := s.NewReceiver(t.Context(), "out", &client.ReceiverOptions{Credit: 5})
				if err != nil {
					t.Fatal(err)
				}
				in, err := s.NewSender(t.Context(), "in", nil)
				if err != nil {
					t.Fatal(err)
				}
				sizes := []int{0, 1, 200, 255, 256, 400, 480, 500, 512, 4000, 4096, 16 << 10, 64 << 10, 200 << 10, 256 << 10}
				go func() {
					for _, size := range sizes {
						if err := in.Send(t.Context(), client.NewMessage(pattern(size)), nil); err != nil {
							t.Errorf("send %d: %v", size, err)
						}
					}
				}()
				for _, size := range sizes {
					m, err := out.Receive(t.Context(), nil)
					if err != nil {
						t.Fatal(err)
					}
					if string(m.GetData()) != string(pattern(size)) {
						t.Errorf("%d bytes came back as %d others", size, len(m.GetData()))
					}
					if err := out.AcceptMessage(t.Context(), m); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				next()
				heard := n.heard()
				if got := strings.Count(heard, "amqp.Accepted"); got != len(sizes) && !settled {
					t.Errorf("%d of %d are accepted: %s", got, len(sizes), heard)
				}
				if !strings.HasSuffix(heard, "served: <nil>") {
					t.Errorf("the end: %s", heard)
				}
			})
		}
	}
}

// TestMany sends more than any window or credit holds.
func TestMany(t *testing.T) {
	const many = 3000
	addr, next := serve(t, nil)
	_, s := dial(t, addr, &client.ConnOptions{MaxFrameSize: 512})
	next()
	out, err := s.NewReceiver(t.Context(), "out", &client.ReceiverOptions{Credit: 7})
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.NewSender(t.Context(), "in", nil)
	if err != nil {
		t.Fatal(err)
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		for i := range many {
			if err := in.Send(t.Context(), client.NewMessage(fmt.Appendf(nil, "%d %s", i, pattern(1000))), nil); err != nil {
				t.Errorf("send %d: %v", i, err)
				return
			}
		}
	})
	for i := range many {
		m, err := out.Receive(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(m.GetData()), fmt.Sprint(i, " ")) {
			t.Fatalf("message %d is %.10q", i, m.GetData())
		}
		if err := out.AcceptMessage(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOutcomes: what a client makes of a message is told as it is.
func TestOutcomes(t *testing.T) {
	for _, mode := range []client.ReceiverSettleMode{client.ReceiverSettleModeFirst, client.ReceiverSettleModeSecond} {
		addr, next := serve(t, nil)
		c, s := dial(t, addr, nil)
		n := next()
		out, err := s.NewReceiver(t.Context(), "out", &client.ReceiverOptions{SettlementMode: mode.Ptr()})
		if err != nil {
			t.Fatal(err)
		}
		in, err := s.NewSender(t.Context(), "in", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, settle := range []func(*client.Message) error{
			func(m *client.Message) error { return out.AcceptMessage(t.Context(), m) },
			func(m *client.Message) error {
				return out.RejectMessage(t.Context(), m, &client.Error{Condition: "x:y"})
			},
			func(m *client.Message) error { return out.ReleaseMessage(t.Context(), m) },
			func(m *client.Message) error {
				return out.ModifyMessage(t.Context(), m, &client.ModifyMessageOptions{UndeliverableHere: true})
			},
		} {
			if err := in.Send(t.Context(), client.NewMessage([]byte("x")), nil); err != nil {
				t.Fatal(err)
			}
			m, err := out.Receive(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := settle(m); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
		next()
		if want, got := "amqp.Accepted; amqp.Rejected; amqp.Released; amqp.Modified", n.heard(); !strings.Contains(got, want) {
			t.Errorf("mode %v: %s", mode, got)
		}
	}
}

// TestUnsettledAtTheEnd: what nobody has settled is told when the link is over.
func TestUnsettledAtTheEnd(t *testing.T) {
	addr, next := serve(t, nil)
	c, s := dial(t, addr, nil)
	n := next()
	out, err := s.NewReceiver(t.Context(), "out", &client.ReceiverOptions{Credit: 2})
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.NewSender(t.Context(), "in", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := in.Send(t.Context(), client.NewMessage([]byte("x")), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Receive(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := n.heard(), "<nil>; <nil>; sender over: <nil>"; !strings.Contains(got, want) {
		t.Errorf("%s", got)
	}
	c.Close()
	next()
	if got := n.heard(); !strings.Contains(got, "receiver in over") {
		t.Errorf("%s", got)
	}
}

// TestRefused: a link that is refused hears why, and so does a connection.
func TestRefused(t *testing.T) {
	addr, next := serve(t, nil)
	_, s := dial(t, addr, nil)
	next()
	_, err := s.NewSender(t.Context(), "nowhere", nil)
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Condition != client.ErrCondNotFound || e.Description != "no node nowhere" {
		t.Errorf("a sender: %v", err)
	}
	_, err = s.NewReceiver(t.Context(), "secret", nil)
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Condition != client.ErrCondUnauthorizedAccess {
		t.Errorf("a receiver: %v", err)
	}
	// The session lives.
	if _, err := s.NewSender(t.Context(), "in", nil); err != nil {
		t.Error(err)
	}

	c, err := client.Dial(t.Context(), addr, &client.ConnOptions{HostName: "refused"})
	if err == nil {
		<-c.Done()
		err = c.Err()
	}
	if err == nil || !strings.Contains(err.Error(), "not this one") {
		t.Errorf("a connection: %v", err)
	}
}

// TestAsk: a request is answered on the link that belongs to it.
func TestAsk(t *testing.T) {
	addr, next := serve(t, nil)
	_, s := dial(t, addr, nil)
	next()
	out, err := s.NewReceiver(t.Context(), "ask", &client.ReceiverOptions{TargetAddress: "here"})
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.NewSender(t.Context(), "ask", nil)
	if err != nil {
		t.Fatal(err)
	}
	replyTo := "here"
	if err := in.Send(t.Context(), &client.Message{Properties: &client.MessageProperties{MessageID: uint64(7), ReplyTo: &replyTo}, Value: "?"}, nil); err != nil {
		t.Fatal(err)
	}
	m, err := out.Receive(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.Properties.CorrelationID != uint64(7) || m.Value != int32(42) {
		t.Errorf("%v %v", m.Properties.CorrelationID, m.Value)
	}
}

// TestSASL: who is refused is told, and who is not goes on.
func TestSASL(t *testing.T) {
	addr, next := serve(t, func(n *node) { n.password = "secret" })
	dial(t, addr, &client.ConnOptions{SASLType: client.SASLTypePlain("me", "secret")})
	if n := next(); !strings.Contains(n.heard(), `SASL PLAIN "\x00me\x00secret"`) {
		t.Error(n.heard())
	}
	_, err := client.Dial(t.Context(), addr, &client.ConnOptions{SASLType: client.SASLTypePlain("me", "guess")})
	if err == nil || !strings.Contains(err.Error(), "SASL PLAIN auth failed") {
		t.Errorf("%v", err)
	}
}

// TestDrain: credit that a client takes back is used up, and it hears so.
func TestDrain(t *testing.T) {
	addr, next := serve(t, nil)
	_, s := dial(t, addr, nil)
	next()
	out, err := s.NewReceiver(t.Context(), "out", &client.ReceiverOptions{Credit: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := out.IssueCredit(5); err != nil {
		t.Fatal(err)
	}
	in, err := s.NewSender(t.Context(), "in", nil)
	if err != nil {
		t.Fatal(err)
	}
	receive := func(body string) {
		t.Helper()
		if err := in.Send(t.Context(), client.NewMessage([]byte(body)), nil); err != nil {
			t.Fatal(err)
		}
		m, err := out.Receive(t.Context(), nil)
		if err != nil || string(m.GetData()) != body {
			t.Fatalf("%v %v", m, err)
		}
		if err := out.AcceptMessage(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	receive("one")
	if err := out.DrainCredit(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := out.IssueCredit(1); err != nil {
		t.Fatal(err)
	}
	receive("two")
}

// TestEnd: a connection that is ended hears why, after what it had sent is settled.
func TestEnd(t *testing.T) {
	addr, next := serve(t, func(n *node) { n.keep = true })
	c, s := dial(t, addr, nil)
	n := next()
	in, err := s.NewSender(t.Context(), "in", nil)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error)
	go func() { sent <- in.Send(t.Context(), client.NewMessage([]byte("x")), nil) }()
	var d *amqp.Delivery
	for d == nil {
		n.mu.Lock()
		if len(n.kept) > 0 {
			d = n.kept[0]
		}
		n.mu.Unlock()
	}
	n.conn.End(&amqp.Error{Condition: amqp.ConnectionForced, Description: "shutting down"}, 10*time.Second)
	d.Settle(amqp.Accepted{})
	if err := <-sent; err != nil {
		t.Errorf("what was stored: %v", err)
	}
	<-c.Done()
	if err := c.Err(); err == nil || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("%v", err)
	}
	next()
	if got := n.heard(); !strings.Contains(got, "served: amqp:connection:forced: shutting down") {
		t.Error(got)
	}
}

// TestDetach: a link is detached by us while its client waits for a message, and by
// the wait of a goroutine of its own it is noticed.
func TestDetach(t *testing.T) {
	addr, next := serve(t, nil)
	_, s := dial(t, addr, nil)
	n := next()
	out, err := s.NewReceiver(t.Context(), "out", nil)
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	o := n.outs[0]
	n.mu.Unlock()
	if err := o.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	o.Detach(&amqp.Error{Condition: amqp.LinkStolen, Description: "another has come"})
	if err := o.Wait(gone); err != amqp.ErrDetached {
		t.Errorf("Wait: %v", err)
	}
	_, err = out.Receive(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "another has come") {
		t.Errorf("%v", err)
	}
	if o.Send(amqp.Outgoing{}) {
		t.Error("a link that is over sends")
	}
}

// TestFilter: a filter comes as it is described.
func TestFilter(t *testing.T) {
	addr, next := serve(t, nil)
	_, s := dial(t, addr, nil)
	n := next()
	_, err := s.NewReceiver(t.Context(), "out", &client.ReceiverOptions{Filters: []client.LinkFilter{
		client.NewLinkFilter("some:filter", 0x468C00000004, "amqp.annotation.x-opt-offset > '-1'")}})
	if err != nil {
		t.Fatal(err)
	}
	if got := n.heard(); !strings.Contains(got, "filter {77567109365764 amqp.annotation.x-opt-offset > '-1'}") {
		t.Error(got)
	}
}
