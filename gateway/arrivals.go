package gateway

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/trace"
)

// Listen gives the listener that an HTTP server, which has nothing to serve yet, is
// to serve, without TLS of its own: connections come from it with the handshake
// done, by the server's TLSConfig. They wait for their turn at the gate as those of
// MQTT do, and hold it until their first request is judged; then they keep a place
// in the lobby.
func (h *HTTPS) Listen(l net.Listener, s *http.Server) net.Listener {
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, guestKey{}, guestBelow(c))
	}
	s.ConnState = func(c net.Conn, state http.ConnState) {
		switch g := guestBelow(c); {
		case g == nil:
		case state == http.StateActive:
			h.lobby.move(g, busy)
		case state == http.StateIdle:
			g.leaveGate() // one of HTTP/2 before its first request
			h.lobby.move(g, idle)
		}
	}
	a := &arrivals{Listener: l, door: h, tls: judgingNone(s.TLSConfig), ready: make(chan net.Conn), over: make(chan struct{}), coming: map[*guest]struct{}{}}
	go func() {
		h.mqtt.accept(l, signet.DoorHTTPS, func(nc net.Conn) { go a.receive(nc) })
		a.Close()
	}()
	return a
}

// Known says that the request of ctx is of somebody who is known: until it is over,
// its connection is no stranger's, and is not closed to make room for one.
func (h *HTTPS) Known(ctx context.Context) {
	if g := guestOf(ctx); g != nil {
		h.lobby.know(g)
	}
}

// Pass says that the request of ctx is not for this door: the turn that its
// connection has had at the gate is over.
func (h *HTTPS) Pass(ctx context.Context) { guestOf(ctx).leaveGate() }

// arrivals are a listener that gives connections once their handshake is done.
type arrivals struct {
	net.Listener
	door  *HTTPS
	tls   *tls.Config
	ready chan net.Conn
	over  chan struct{} // closed by Close

	mu     sync.Mutex
	closed bool
	coming map[*guest]struct{} // whose handshake is not done
}

func (a *arrivals) Accept() (net.Conn, error) {
	select {
	case c := <-a.ready:
		return c, nil
	case <-a.over:
		return nil, net.ErrClosed
	}
}

// Close ends what is still arriving. It may be called again.
func (a *arrivals) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	close(a.over)
	for g := range a.coming {
		g.Conn.Close()
	}
	return a.Listener.Close()
}

// expect says whether one more may come.
func (a *arrivals) expect(g *guest) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.coming[g] = struct{}{}
	}
	return !a.closed
}

func (a *arrivals) arrived(g *guest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.coming, g)
}

// receive tells how a connection arrives.
func (a *arrivals) receive(nc net.Conn) {
	g := newGuest(a.door, nc)
	tr := a.door.mqtt.traces.Start("https connection", nc.RemoteAddr().String())
	c, err := a.greet(g, tr)
	if err == nil {
		select {
		case a.ready <- c:
		case <-a.over:
			err = errShutdown()
		}
	}
	if err != nil {
		g.Close()
		a.door.mqtt.log.Debug("disconnected", "door", signet.DoorHTTPS, "remote", g.remote, "reason", err)
	}
	tr.Finish(err)
}

func (a *arrivals) greet(g *guest, tr *trace.Trace) (c *tls.Conn, err error) {
	m := a.door.mqtt
	defer func() {
		if p := recover(); p != nil {
			m.log.Error("a connection has failed", "door", signet.DoorHTTPS, "remote", g.remote, "panic", p, "stack", string(debug.Stack()))
			err = signet.Fail(fmt.Errorf("panic: %v", p))
		}
	}()
	if !a.expect(g) {
		return nil, errShutdown()
	}
	defer a.arrived(g)
	if err := g.enter(a.over); err != nil {
		return nil, g.refuse(err)
	}
	tr.Event("has its turn")
	g.SetDeadline(time.Now().Add(handshakeTime))
	if c, err = m.greet(g, a.tls, tr, a.door.handshakes); err != nil {
		g.answerHTTP(err)
		return nil, g.refuse(err)
	}
	g.SetDeadline(time.Time{}) // the HTTP server has its own
	if err := g.open(c); err != nil {
		return nil, g.refuse(err)
	}
	return c, nil
}

// A guest is an HTTPS connection, below its TLS. A nil one is none of ours.
type guest struct {
	net.Conn
	door   *HTTPS
	remote netip.Addr

	// Under the lobby's mu.
	party        *party // nil when it has no place
	standing     standing
	place, among *list.Element

	mu      sync.Mutex
	visitor *visitor    // at the gate, until it is known who it is
	heir    func(error) // is asked to go, now that it has the turn
	asked   error       // to go
	stream  *tls.Conn   // nil until the handshake is done
}

func newGuest(h *HTTPS, nc net.Conn) *guest {
	g := &guest{Conn: nc, door: h}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		g.remote = a.AddrPort().Addr().Unmap()
	}
	return g
}

type guestKey struct{}

func guestOf(ctx context.Context) *guest {
	g, _ := ctx.Value(guestKey{}).(*guest)
	return g
}

// guestBelow gives the guest below a connection that an HTTP server got of Listen.
func guestBelow(c net.Conn) *guest {
	if t, ok := c.(*tls.Conn); ok {
		if p, ok := t.NetConn().(*pacedConn); ok {
			g, _ := p.Conn.(*guest)
			return g
		}
	}
	return nil
}

// enter waits for a turn at the gate, then takes a place in the lobby.
func (g *guest) enter(stop <-chan struct{}) error {
	v, err := g.door.mqtt.gate.enter(g.remote, g.cut, stop)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.visitor = v
	g.mu.Unlock()
	instead, err := g.door.lobby.enter(g)
	if instead != nil {
		go instead.displace()
	}
	return err
}

// open says that the handshake is done, unless the guest shall go.
func (g *guest) open(c *tls.Conn) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stream = c
	return g.asked
}

// displace closes it for another. Who has done his handshake is told so by TLS.
func (g *guest) displace() {
	g.mu.Lock()
	stream := g.stream
	if g.asked == nil {
		g.asked = signet.Refuse(signet.LimitConnections, "Another HTTPS connection has taken the place of this one: its address has most.")
	}
	g.mu.Unlock()
	if stream != nil {
		stream.Close() // waits for 5 s at most, when the peer reads nothing
	}
	g.Close()
}

// cut is the gate's: it has had its turn for long while others waited. While a
// request is judged, it is not to be.
func (g *guest) cut(why error) {
	g.mu.Lock()
	heir, mine := g.heir, g.visitor != nil || g.stream == nil
	if mine && g.asked == nil {
		g.asked = why
	}
	g.mu.Unlock()
	switch {
	case heir != nil:
		heir(why)
	case mine:
		g.Conn.Close()
	}
}

// give gives away its turn at the gate, if it still has one: whoever takes it leaves
// the gate. heir is asked to go from then on.
func (g *guest) give(heir func(error)) *visitor {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.visitor
	g.visitor, g.heir = nil, heir
	return v
}

// leaveGate gives its turn back, if it still has one.
func (g *guest) leaveGate() {
	if v := g.give(nil); v != nil {
		g.door.mqtt.gate.leave(v)
	}
}

// letIn gives its place back: it is a WebSocket, whose device is let in.
func (g *guest) letIn() {
	if g != nil {
		g.door.lobby.move(g, absent)
	}
}

// Close gives everything back. It may be called again.
func (g *guest) Close() error {
	g.door.lobby.move(g, absent)
	g.leaveGate()
	return g.Conn.Close()
}

// CloseWrite is that of TCP.
func (g *guest) CloseWrite() error {
	if half, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// refuse records why it is not let in, where that is for somebody to mend.
func (g *guest) refuse(err error) error {
	g.mu.Lock()
	if g.asked != nil {
		err = g.asked
	}
	g.mu.Unlock()
	e := *signet.AsError(err) // which may be shared
	if e.Code == signet.SessionClosed {
		return err
	}
	v := signet.Verdict{Error: e, Door: signet.DoorHTTPS}
	if g.remote.IsValid() {
		v.Remote = g.remote.String()
	}
	e.TrackingID = g.door.mqtt.waist.Refuse("", v)
	return &e
}

// answerHTTP tells who speaks HTTP without TLS that this is HTTPS, as net/http does.
func (g *guest) answerHTTP(err error) {
	beginnings := []string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO"}
	if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok && slices.Contains(beginnings, string(plain.RecordHeader[:])) {
		io.WriteString(g, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	}
}
