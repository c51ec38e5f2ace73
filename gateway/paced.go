package gateway

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/trace"
)

// maxFlight bounds what a peer may send in a handshake before it is answered: of the
// at most three times that it has to speak, each alone. The largest is the one with
// its chain. The hub judges none of more than 64 KiB, twice that of ten certificates
// with RSA keys of 8192 bits; the rest is for a signature with such a key and for
// the headers of records, also of clients that make them of 512 bytes. crypto/tls
// alone would read, keep and parse 256 KiB of who is a stranger.
const maxFlight = 72 << 10

// errFlight ends the handshake of a peer that sends more.
var errFlight = errors.New("the peer sends more than a handshake needs")

// A pacer lets no more handshakes compute at a time than there are processors.
// Hundreds that are ready at once would stand before everybody in the line of the
// scheduler, and a message goes through that line half a dozen times on its way to
// the disk and back: 5,000 devices that came at once made those that were there
// wait for 0.8 s.
//
// Nor do those that follow each other keep the scheduler from looking whether anything
// has come by the network: it does so when nobody is ready to run, and otherwise
// every 10 ms only. So after a few turns the next is given in a lull, or after lullTime.
type pacer struct {
	mu    sync.Mutex
	free  int
	line  []chan struct{} // of those who wait, the longest first
	row   int             // turns handed on since the line was empty, or the last lull
	owed  int             // turns that are given in the next lulls
	due   time.Time       // when the first of them is given without one
	asked int             // lulls that are waited for
	late  *time.Timer     // calls overdue, where set; nobody stops it
	set   bool
	lulls *lulls // nil: turns are handed on at once
}

// maxRow is how many turns follow each other without a lull: a millisecond. A lull costs
// some 8 µs.
const maxRow = 4

// lullTime is how long a lull is waited for: where messages alone keep the processors
// busy, a quarter of them is still theirs who come.
const lullTime = time.Millisecond

func newPacer() *pacer { return &pacer{free: runtime.GOMAXPROCS(0)} }

// waitForLulls has turns be given in lulls, until hurry. It may be called again.
func (p *pacer) waitForLulls() (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lulls == nil {
		p.late, p.set = time.AfterFunc(lullTime, p.overdue), true
		p.lulls, err = newLulls(p.lull)
	}
	return err
}

func (p *pacer) hurry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lulls != nil {
		p.lulls.close()
	}
}

// take waits for a turn, and then for all who are ready: those who want to compute too
// come to stand in line here, where they keep nobody else waiting.
func (p *pacer) take() {
	p.mu.Lock()
	var turn chan struct{}
	if p.free > 0 {
		p.free--
	} else {
		turn = make(chan struct{})
		p.line = append(p.line, turn)
	}
	p.mu.Unlock()
	if turn != nil {
		<-turn
	}
	runtime.Gosched()
}

// waiting is how many wait for a turn.
func (p *pacer) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.line)
}

// give hands a turn on.
func (p *pacer) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.line) == 0 || p.row < maxRow || !p.ask() {
		p.next()
		return
	}
	p.row = 0
	if p.owed++; p.owed == 1 {
		p.within(lullTime)
	}
}

// ask says whether there will be a lull for one turn more, under mu. One that has come too
// late for its own will do: so the pipe holds no more than there are turns, and who writes
// to it never waits for the reader, who may wait for mu.
func (p *pacer) ask() bool {
	if p.asked > p.owed {
		return true
	}
	if !p.lulls.await() {
		return false
	}
	p.asked++
	return true
}

func (p *pacer) lull() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked--
	p.pay()
}

// within has a turn that is owed be given so soon, lull or not, under mu. The timer is left
// to run out: to stop one that is set, or to set it to an earlier time, has Go look through
// those of all connections, once a millisecond.
func (p *pacer) within(d time.Duration) {
	p.due = time.Now().Add(d)
	if !p.set {
		p.set = true
		p.late.Reset(d)
	}
}

func (p *pacer) overdue() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set = false
	if p.owed == 0 {
		return
	}
	if early := time.Until(p.due); early > 0 { // it was set for one that a lull has given
		p.set = true
		p.late.Reset(early)
		return
	}
	p.pay()
}

// pay gives a turn that is owed, under mu.
func (p *pacer) pay() {
	if p.owed == 0 {
		return // it came late, and so does the lull
	}
	p.next()
	if p.owed--; p.owed > 0 {
		p.within(lullTime / time.Duration(p.owed)) // with many processors, many are
	}
}

// next gives a turn to who has waited longest, under mu.
func (p *pacer) next() {
	if len(p.line) == 0 {
		p.free++
		p.row = 0
		return
	}
	p.row++
	close(p.line[0])
	p.line[0] = nil
	p.line = p.line[1:]
}

// breathe waits for a turn and keeps it no longer: it is for who is about to compute, and
// may have to wait for somebody meanwhile.
func (p *pacer) breathe() {
	p.take()
	p.give()
}

// A lull is when a processor has nothing to do: all who were ready have run, and the
// scheduler has just looked at the network, where it finds the pipe that lulls are
// waited for by.
type lulls struct{ in *os.File }

// newLulls has f called in the lull after each await.
func newLulls(f func()) (*lulls, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer out.Close()
		var b [1]byte
		for {
			if _, err := out.Read(b[:]); err != nil {
				return
			}
			f()
		}
	}()
	return &lulls{in}, nil
}

func (l *lulls) close() { l.in.Close() }

// await says whether f will be called: not when there are no lulls, or no more.
func (l *lulls) await() bool {
	if l == nil {
		return false
	}
	_, err := l.in.Write([]byte{0})
	return err == nil
}

// A pacedConn is a connection on which a handshake is under way: whoever reads it or
// writes to it gives up his turn while he waits for the peer, and gets no more than
// maxFlight of the peer between two writes. It is for one goroutine until the handshake is over.
type pacedConn struct {
	net.Conn
	turns *pacer // nil when it is over
	mine  bool
	heard int   // bytes since the peer was last answered
	peer  *peer // who speaks on it, once that is known; nil for HTTP
}

func (p *pacedConn) Read(b []byte) (int, error) {
	if p.turns == nil {
		return p.Conn.Read(b)
	}
	if p.heard == maxFlight {
		return 0, errFlight
	}
	p.rest()
	n, err := p.Conn.Read(b[:min(len(b), maxFlight-p.heard)])
	p.heard += n
	p.turns.take()
	p.mine = true
	return n, err
}

// Write waits for a peer that reads nothing: a ticket holds the chain that he has
// presented, more than the socket takes. What is left to compute after a flight is little.
func (p *pacedConn) Write(b []byte) (int, error) {
	if p.turns == nil {
		return p.writeInTime(b)
	}
	p.heard = 0
	p.rest()
	return p.Conn.Write(b)
}

// writeInTime writes what crypto/tls writes of its own, too, in answer to a client that
// has renewed its keys (RFC 8446 §4.6.3): nobody has given that a time, and what is set is
// that of an earlier write, long over. Without it the client could read nothing more.
func (p *pacedConn) writeInTime(b []byte) (int, error) {
	began := time.Now()
	n, err := p.Conn.Write(b)
	if n == 0 && p.peer != nil && errors.Is(err, os.ErrDeadlineExceeded) && time.Since(began) < writeSlack && p.peer.mayWrite() {
		return p.Conn.Write(b)
	}
	return n, err
}

func (p *pacedConn) rest() {
	if p.mine {
		p.turns.give()
		p.mine = false
	}
}

// over ends the pacing.
func (p *pacedConn) over() {
	p.rest()
	p.turns = nil
}

// greet speaks the handshake of TLS, in the time that the socket's deadline leaves.
// Possession of the key of the leaf that the device presents is proven by it;
// everything else is judged later. A failure is a refusal; of one that is nobody's
// to mend, which is not to be recorded, the code is signet.SessionClosed.
func (m *MQTT) greet(socket net.Conn, config *tls.Config, tr *trace.Trace, count *prometheus.CounterVec) (*tls.Conn, error) {
	paced := &pacedConn{Conn: socket, turns: m.pacer}
	t := tls.Server(paced, config)
	err := func() error {
		defer paced.over() // also when it panics
		return t.Handshake()
	}()
	if err != nil {
		outcome, refusal := judgeHandshake(err)
		count.WithLabelValues(outcome).Inc()
		tr.Event("handshake failed", slog.String("outcome", outcome), slog.String("error", err.Error()))
		if refusal == nil {
			refusal = signet.Refuse(signet.SessionClosed, "The TLS handshake was not finished.")
			refusal.Cause = err
		}
		return nil, refusal
	}
	state := t.ConnectionState()
	outcome := "full"
	if state.DidResume {
		outcome = "resumed"
	}
	count.WithLabelValues(outcome).Inc()
	tr.Event("handshake "+outcome, slog.String("version", tls.VersionName(state.Version)),
		slog.String("suite", tls.CipherSuiteName(state.CipherSuite)), slog.String("sni", state.ServerName),
		slog.Int("certificates", len(state.PeerCertificates)))
	return t, nil
}

// judgeHandshake tells what went wrong, and the refusal when it was for the
// device's owner to mend. crypto/tls gives most of it as text only.
func judgeHandshake(err error) (outcome string, refusal *signet.Error) {
	text := err.Error()
	var notTLS tls.RecordHeaderError
	switch {
	case errors.As(err, &notTLS):
		return "not-tls", nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout", signet.Refuse(signet.LimitHandshake, "The TLS handshake was not finished within %v.", handshakeTime)
	case strings.Contains(text, "invalid signature by the client certificate"):
		return "certificate", signet.Refuse(signet.ChainPossession, "The signature in the TLS handshake is not by the key of the presented certificate.")
	case strings.Contains(text, "certificate containing RSA key larger"):
		return "certificate", signet.Refuse(signet.CertWeakKey, "The presented chain has an RSA key of more than 8192 bits.")
	case strings.Contains(text, "client certificate contains an unsupported public key"):
		return "certificate", signet.Refuse(signet.CertWeakKey, "The presented certificate has a key of a kind that is not taken.")
	case strings.Contains(text, "failed to parse client certificate"):
		refusal = signet.Refuse(signet.ChainMalformed, "What the device presented in the TLS handshake is not a chain of X.509 certificates.")
		refusal.Cause = err
		return "certificate", refusal
	case errors.Is(err, errFlight):
		return "certificate", signet.Refuse(signet.LimitChainBytes, "The device sends more in the TLS handshake than the %d KiB that a chain may take.", maxFlight>>10)
	case strings.Contains(text, "handshake message of length"):
		return "certificate", signet.Refuse(signet.LimitChainBytes, "A message of the TLS handshake is larger than the hub reads.")
	}
	return "failed", nil
}
