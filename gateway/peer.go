package gateway

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/trace"
)

// A peer is what is at the other end of a connection, whatever it speaks. What
// stands above mu belongs to the goroutine of its life.
type peer struct {
	door     *MQTT // whose gate, pacer, clock and listeners serve all connections
	metrics  *doorMetrics
	via      signet.Door
	socket   net.Conn // as accepted
	guest    *guest   // what it is to the HTTPS door; nil when it came by TLS alone
	stream   net.Conn // what the protocol is spoken on: TLS over socket, WebSocket over TLS
	remote   netip.AddrPort
	accepted time.Time
	trace    *trace.Trace
	chain    []*x509.Certificate // as presented; let go once judged
	version  string              // of TLS
	sni      string              // the host name that it asked for in TLS
	leaving  bool                // it has had a turn to leave

	mu      sync.Mutex
	changed sync.Cond
	ended   error // why it shall end, once that is known; then nothing more is read
}

func (p *peer) init(m *MQTT, metrics *doorMetrics, via signet.Door, nc net.Conn) {
	p.door, p.metrics, p.via, p.socket, p.stream, p.accepted = m, metrics, via, nc, nc, time.Now()
	p.changed.L = &p.mu
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		p.remote = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
	}
}

// apart runs f where there is a large stack. The caller's stays small for the rest of
// the connection.
func (p *peer) apart(f func() error) error {
	done := make(chan error, 1)
	p.door.crew.do(func() {
		var err error
		defer func() { done <- err }()
		defer p.survive(&err)
		err = f()
	})
	return <-done
}

// A crew is goroutines whose stacks have grown: to grow one takes a connect 12 µs, for it
// doubles, and is copied, again and again. There are no more of them than have been at
// work at a time, and those are bounded by the gate, but for tokens that connections renew,
// each one at a time. They take turns: all of them stay while each has a turn in crewTime.
type crew struct {
	next chan func()
	over <-chan struct{} // closed: nobody waits any more
}

// crewTime is how long one of a crew waits for more to do.
const crewTime = time.Second

// do has f run by one of the crew.
func (c crew) do(f func()) {
	select {
	case c.next <- f:
	default:
		go c.work(f)
	}
}

func (c crew) work(f func()) {
	idle := time.NewTimer(crewTime)
	defer idle.Stop()
	for {
		f()
		f = nil // it holds a connection
		idle.Reset(crewTime)
		select {
		case f = <-c.next:
		case <-idle.C:
			return
		case <-c.over:
			return
		}
	}
}

// survive makes a panic the end of this connection, not of the process.
func (p *peer) survive(why *error) {
	if v := recover(); v != nil {
		p.door.log.Error("a connection has failed", "door", p.via, "remote", p.remote, "panic", v, "stack", string(debug.Stack()))
		*why = signet.Fail(fmt.Errorf("panic: %v", v))
	}
}

// handshake begins to speak TLS, and keeps the chain that the device presents. A
// refusal is not yet on record.
func (p *peer) handshake() (refusal *signet.Error, err error) {
	if err := p.within(handshakeTime); err != nil || p.door.tls == nil || p.stream != p.socket {
		return nil, err // of a WebSocket it was done before
	}
	t, err := p.door.greet(p.socket, p.door.tls, p.trace, p.metrics.handshakes)
	if err != nil {
		p.mu.Lock()
		if ended, ok := errors.AsType[*signet.Error](p.ended); ok && ended.Code == signet.LimitHandshake {
			err = ended // asked to go
		}
		p.mu.Unlock()
		if signet.CodeOf(err) == signet.SessionClosed {
			return nil, err
		}
		return signet.AsError(err), err
	}
	p.stream = t
	p.speaksOn(t)
	state := t.ConnectionState()
	p.chain, p.version, p.sni = state.PeerCertificates, tls.VersionName(state.Version), state.ServerName
	return nil, nil
}

// speaksOn tells a connection, on which the handshake is done, who speaks on it.
func (p *peer) speaksOn(nc net.Conn) {
	if t, ok := nc.(*tls.Conn); ok {
		if paced, ok := t.NetConn().(*pacedConn); ok {
			paced.peer = p
		}
	}
}

// mayWrite gives what is written now a time of its own, unless the connection shall end.
func (p *peer) mayWrite() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil {
		return false
	}
	p.socket.SetWriteDeadline(time.Now().Add(writeTime))
	return true
}

// tellChain tells the trace what was presented, of who is refused: it takes 15 µs.
func (p *peer) tellChain() {
	for i, cert := range p.chain[:min(len(p.chain), maxShownChain)] {
		p.trace.Event("presented", slog.Int("certificate", i), slog.String("subject", signet.Clip(cert.Subject.String())),
			slog.String("thumbprint", thumbprint(cert)))
	}
}

// maxShownChain is how much of a chain is told in traces and verdicts: as much as
// a path may have.
const maxShownChain = 10

func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// within gives the peer a time for what comes next, unless the connection shall
// end.
func (p *peer) within(d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		p.socket.SetDeadline(time.Now().Add(d))
	}
	return p.ended
}

// hold has the peer wait, unless the connection shall end.
func (p *peer) hold(wait time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	over := false
	t := time.AfterFunc(wait, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		over = true
		p.changed.Broadcast()
	})
	defer t.Stop()
	for !over && p.ended == nil {
		p.changed.Wait()
	}
	return p.ended
}

// leave has a device that leaves wait for a turn, as thousands may at once. Who has lost
// his session goes at once. So does a stranger: for whom there is no room at the gate there
// is none in the pacer's line either.
func (p *peer) leave(s Session) {
	if s != nil && s.Ended() == nil && !p.leaving {
		p.leaving = true
		p.door.pacer.breathe()
	}
}
