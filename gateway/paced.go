package gateway

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"

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
type pacer chan struct{}

func newPacer() pacer { return make(pacer, runtime.GOMAXPROCS(0)) }

// A pacedConn is a connection on which a handshake is under way: whoever reads it
// gives up his turn while he waits for the peer, and gets no more than maxFlight of
// the peer between two writes. It is for one goroutine until the handshake is over.
type pacedConn struct {
	net.Conn
	turns pacer // nil when it is over
	mine  bool
	heard int // bytes since the peer was last answered
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
	p.turns <- struct{}{}
	p.mine = true
	runtime.Gosched() // behind who is ready: the turn is handed on at once
	return n, err
}

func (p *pacedConn) Write(b []byte) (int, error) {
	p.heard = 0
	return p.Conn.Write(b)
}

func (p *pacedConn) rest() {
	if p.mine {
		<-p.turns
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
