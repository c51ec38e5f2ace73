package gateway

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	client "github.com/Azure/go-amqp"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/wire/mqtt"
)

// inBubble runs a test with a door and a device that is let in, in a bubble whose
// connections are pipes.
func inBubble(t *testing.T, w *fakeWaist, do func(*testing.T, *amqpConn, *client.Session)) {
	synctest.Test(t, func(t *testing.T) {
		m := newMQTT(w, Config{Logger: discard})
		device, server := net.Pipe()
		conn := newAMQPConn(NewAMQP(m, nil), server)
		conn.sni = "hub.example.test"
		m.serve(conn)
		c, err := dialAMQP(t, device, byPassword("press-17@sas.hub"))
		if err != nil {
			t.Fatal(err)
		}
		s := aSession(t, c)
		do(t, conn, s)
		w.settle(nil)
		c.Close()
		shutDown(t, m)
	})
}

// TestAMQPBallast: what a delivery carries that is no part of a message counts all the
// same against what may lie here and is not stored.
func TestAMQPBallast(t *testing.T) {
	w := &fakeWaist{hold: true}
	inBubble(t, w, func(t *testing.T, _ *amqpConn, s *client.Session) {
		out := aSender(t, s, "/devices/press-17/messages/events")
		ballast := strings.Repeat("x", 300<<10)
		ctx, over := context.WithCancel(t.Context())
		go func() {
			for range 20 {
				out.SendWithReceipt(ctx, &client.Message{Data: [][]byte{{1}}, Annotations: client.Annotations{"ballast": ballast}}, nil)
			}
		}()
		synctest.Wait()
		w.mu.Lock()
		n := len(w.pending)
		w.mu.Unlock()
		if n != 4 {
			t.Errorf("%d messages of 300 KiB lie here", n)
		}
		over()
	})
}

// TestAMQPTwinAnswers: the answers that a device takes no more are as few on many
// links as on one.
func TestAMQPTwinAnswers(t *testing.T) {
	inBubble(t, &fakeWaist{}, func(t *testing.T, conn *amqpConn, s *client.Session) {
		if _, err := s.NewReceiver(t.Context(), "/devices/press-17/twin", &client.ReceiverOptions{Credit: -1}); err != nil {
			t.Fatal(err)
		}
		const links = 4
		ctx, over := context.WithCancel(t.Context())
		refused := make(chan error, links*maxAsked)
		for i := range links {
			out := aSender(t, s, "/devices/press-17/twin")
			for range maxAsked {
				go func() {
					refused <- out.Send(ctx, &client.Message{Data: [][]byte{{' '}}, Properties: &client.MessageProperties{CorrelationID: fmt.Sprint(i)},
						Annotations: client.Annotations{"operation": "GET"}}, nil)
				}()
			}
		}
		for range (links - 1) * maxAsked {
			if got := condition(<-refused); got != "com.microsoft:device-container-throttled" {
				t.Error(got)
			}
		}
		conn.mu.Lock()
		n, beside := len(conn.device.answers), len(conn.device.answers[0].request.Payload)
		conn.mu.Unlock()
		if n != maxAsked || beside > 0 {
			t.Errorf("%d answers wait, with %d bytes of what was asked beside the first", n, beside)
		}
		over()
	})
}

// TestAMQPAbandonFails: a command that could not be given back stays locked for its session:
// that ends, so that the device is given it again by the next.
func TestAMQPAbandonFails(t *testing.T) {
	w := &fakeWaist{commands: []*signet.Command{{MessageID: "m0"}}}
	inBubble(t, w, func(t *testing.T, conn *amqpConn, s *client.Session) {
		in, err := s.NewReceiver(t.Context(), "/devices/press-17/messages/devicebound", &client.ReceiverOptions{Credit: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Receive(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.unsettle = signet.Refuse(signet.Unavailable, "Injected.")
		w.mu.Unlock()
		in.Close(t.Context())
		time.Sleep(time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.commands[0].LockToken != "" {
			t.Error("the command is locked for a device that has given it back")
		}
	})
}

// TestAMQPMailNotLost: what was taken from the session is said later when the device has
// no room for it by then, whatever it detaches meanwhile that has nothing to do with it.
func TestAMQPMailNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var device frames
		var begun atomic.Bool
		taken := 0
		w := &fakeWaist{mail: func() (hub.Delivery, bool) {
			if !begun.Load() || taken == 2 {
				return nil, false
			}
			taken++
			device.flow(0) // says that it has no room, and is heard while this is on its way
			time.Sleep(time.Millisecond)
			return hub.DesiredChange{Version: int64(taken), Patch: []byte("{}")}, true
		}}
		m := newMQTT(w, Config{Logger: discard})
		ours, server := net.Pipe()
		device.Conn = ours
		conn := newAMQPConn(NewAMQP(m, nil), server)
		conn.sni = "hub.example.test"
		m.serve(conn)
		c, err := dialAMQP(t, &device, byPassword("press-17@sas.hub"))
		if err != nil {
			t.Fatal(err)
		}
		s := aSession(t, c)
		in, err := s.NewReceiver(t.Context(), "/devices/press-17/twin", &client.ReceiverOptions{Credit: 20})
		if err != nil {
			t.Fatal(err)
		}
		calls, err := s.NewReceiver(t.Context(), "/devices/press-17/methods/devicebound", &client.ReceiverOptions{Credit: 20})
		if err != nil {
			t.Fatal(err)
		}
		out := aSender(t, s, "/devices/press-17/twin")
		synctest.Wait()
		begun.Store(true)
		if err := out.Send(t.Context(), &client.Message{Data: [][]byte{{' '}}, Properties: &client.MessageProperties{CorrelationID: "Put"},
			Annotations: client.Annotations{"operation": "PUT", "resource": "/notifications/twin/properties/desired"}}, nil); err != nil {
			t.Fatal(err)
		}
		for _, want := range []any{nil, int64(1), int64(2)} { // the answer, and the changes
			time.Sleep(time.Second)
			if want == nil { // the first change is taken, and not said
				calls.Close(t.Context())
			}
			device.flow(100)
			ctx, over := context.WithTimeout(t.Context(), time.Minute)
			got, err := in.Receive(ctx, nil)
			over()
			if err != nil {
				t.Fatalf("waiting for version %v: %v", want, err)
			}
			if got.Annotations["version"] != want {
				t.Errorf("version %v, want %v", got.Annotations["version"], want)
			}
		}
		c.Close()
		shutDown(t, m)
	})
}

// frames is a connection on which a device says more than its library does, between the
// frames of that.
type frames struct {
	net.Conn
	mu sync.Mutex
}

func (f *frames) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Conn.Write(b)
}

// flow says how many frames the device has room for, counted from the first.
func (f *frames) flow(room byte) {
	f.Write([]byte{0, 0, 0, 21, 2, 0, 0, 0, 0, 0x53, 0x13, 0xC0, 8, 4, 0x43, 0x52, room, 0x52, 0, 0x52, 0xFF})
}

// TestAMQPComesAndGoes: links and connections that come and go beside everything else;
// the race detector looks on.
func TestAMQPComesAndGoes(t *testing.T) {
	w := &fakeWaist{commands: []*signet.Command{{MessageID: "m0"}, {MessageID: "m1"}}}
	a := anAMQPDoor(t, w, nil)
	once := func(cut bool) {
		c, err := connectAMQP(t, a, byPassword("press-17@sas.hub"))
		if err != nil {
			return // taken over meanwhile
		}
		defer c.Close()
		ctx, over := context.WithTimeout(t.Context(), time.Second)
		defer over()
		s, err := c.NewSession(ctx, nil)
		if err != nil {
			return
		}
		var all sync.WaitGroup
		for k, node := range []string{"messages/devicebound", "twin", "methods/devicebound", "messages/devicebound"} {
			all.Go(func() {
				for range 3 {
					in, err := s.NewReceiver(ctx, "/devices/press-17/"+node, &client.ReceiverOptions{Credit: int32(1 + k)})
					if err != nil {
						return
					}
					out, err := s.NewSender(ctx, "/devices/press-17/messages/events", nil)
					if err != nil {
						return
					}
					all.Go(func() { out.Send(ctx, client.NewMessage([]byte("x")), nil) })
					if m := in.Prefetched(); m != nil && k == 0 {
						in.AcceptMessage(ctx, m)
					}
					out.Close(ctx)
					in.Close(ctx)
				}
			})
		}
		if cut {
			w.last().end(signet.Refuse(signet.CertRevoked, "Revoked."))
		}
		all.Wait()
	}
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			for range 10 {
				once(n%2 == 0)
			}
		})
	}
	all.Wait()
}

// TestCutUnread: who loses its session is gone within a second, also when it reads
// nothing of what is being written, and when others compute without end.
func TestCutUnread(t *testing.T) {
	begin := map[string]func(*testing.T, *MQTT, net.Conn) connection{
		"AMQP": func(t *testing.T, m *MQTT, server net.Conn) connection {
			c := newAMQPConn(NewAMQP(m, nil), server)
			c.sni = "hub.example.test"
			return c
		},
		"MQTT": func(t *testing.T, m *MQTT, server net.Conn) connection { return newConn(m, server) },
	}
	connect := map[string]func(*testing.T, net.Conn) func(){
		"AMQP": func(t *testing.T, device net.Conn) func() {
			c, err := dialAMQP(t, device, byPassword("press-17@sas.hub"))
			if err != nil {
				t.Fatal(err)
			}
			s := aSession(t, c)
			l := aSender(t, s, "/devices/press-17/messages/events")
			return func() { l.SendWithReceipt(t.Context(), client.NewMessage([]byte("x")), nil) }
		},
		"MQTT": func(t *testing.T, device net.Conn) func() {
			device.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, KeepAlive: 60, ClientID: "press-17",
				HasUsername: true, Username: "hub.example.test/press-17/?api-version=2021-04-12"}))
			if _, err := mqtt.NewClientReader(device, 1<<10).Next(); err != nil {
				t.Fatal(err)
			}
			return func() { device.Write(mqtt.AppendPingreq(nil)) }
		},
	}
	for name := range begin {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &fakeWaist{}
				m := newMQTT(w, Config{Logger: discard})
				device, server := net.Pipe()
				deaf := &deafConn{Conn: device, deaf: make(chan struct{}), over: make(chan struct{})}
				m.serve(begin[name](t, m, server))
				say := connect[name](t, deaf)
				synctest.Wait()
				close(deaf.deaf)
				synctest.Wait()
				say()
				synctest.Wait()
				for range m.pacer.free {
					m.pacer.take()
				}
				began := time.Now()
				w.last().end(signet.Refuse(signet.CertRevoked, "Revoked."))
				m.lives.Wait()
				if took := time.Since(began); took > time.Second {
					t.Errorf("gone after %v", took)
				}
				close(deaf.over)
				device.Close()
				shutDown(t, m)
			})
		})
	}
}

// A deafConn reads nothing any more once it is told to.
type deafConn struct {
	net.Conn
	deaf, over chan struct{}
}

func (c *deafConn) Read(p []byte) (int, error) {
	select {
	case <-c.deaf:
		<-c.over
		return 0, net.ErrClosed
	default:
	}
	c.Conn.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-c.deaf:
			c.Conn.SetReadDeadline(time.Now())
		case <-done:
		}
	}()
	n, err := c.Conn.Read(p)
	if n == 0 && err != nil {
		select {
		case <-c.deaf:
			<-c.over
			return 0, net.ErrClosed
		default:
		}
	}
	return n, err
}
