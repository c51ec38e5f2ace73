package gateway

import (
	"net"
	"runtime"
)

// A pacer lets no more handshakes compute at a time than there are processors.
// Hundreds that are ready at once would stand before everybody in the line of the
// scheduler, and a message goes through that line half a dozen times on its way to
// the disk and back: 5,000 devices that came at once made those that were there
// wait for 0.8 s.
type pacer chan struct{}

func newPacer() pacer { return make(pacer, runtime.GOMAXPROCS(0)) }

// A pacedConn is a connection on which a handshake is under way: whoever reads it
// gives up his turn while he waits for the peer. It is for one goroutine until
// the handshake is over.
type pacedConn struct {
	net.Conn
	turns pacer // nil when it is over
	mine  bool
}

func (p *pacedConn) Read(b []byte) (int, error) {
	if p.turns == nil {
		return p.Conn.Read(b)
	}
	p.rest()
	n, err := p.Conn.Read(b)
	p.turns <- struct{}{}
	p.mine = true
	runtime.Gosched() // behind who is ready: the turn is handed on at once
	return n, err
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
