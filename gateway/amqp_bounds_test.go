package gateway

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	client "github.com/Azure/go-amqp"
	"github.com/signet-iot/signet"
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
		n := len(conn.device.answers)
		conn.mu.Unlock()
		if n != maxAsked {
			t.Errorf("%d answers wait", n)
		}
		over()
	})
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
