package server

import (
	"net"
	"net/netip"
	"sync"
)

// maxHTTPS bounds the HTTPS connections at a time, some 50 KiB each. A client
// keeps a few; an SDK one.
//
// maxStreams bounds the requests under way on one of HTTP/2: some 30 KiB each
// with the longest headers, for a minute if the peer takes no answer. All
// together are 1.5 GiB at worst; with 100 a connection they would be 13.
const (
	maxHTTPS   = 4096
	maxStreams = 8
)

// A sharedListener bounds the connections that are open at a time, by the rule
// of the MQTT door's gate: a source (an IPv4 address or an IPv6 /64) may have as
// many as are still free. So however many strangers one address opens, there is
// room for the next; it takes 13 addresses to fill it. What is beyond is closed at
// once.
type sharedListener struct {
	net.Listener

	mu      sync.Mutex
	max     int
	open    int
	sources map[netip.Prefix]int
}

func shareListener(l net.Listener, max int) *sharedListener {
	return &sharedListener{Listener: l, max: max, sources: map[netip.Prefix]int{}}
}

// Accept gives the next connection that has its share.
func (l *sharedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := sourceOf(c.RemoteAddr())
		if l.enter(source) {
			return &sharedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(source) })}, nil
		}
		c.Close()
	}
}

func (l *sharedListener) enter(source netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sources[source] >= l.max-l.open {
		return false
	}
	l.sources[source]++
	l.open++
	return true
}

func (l *sharedListener) leave(source netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.sources[source]--; l.sources[source] == 0 {
		delete(l.sources, source)
	}
}

func sourceOf(a net.Addr) netip.Prefix {
	var addr netip.Addr
	if tcp, ok := a.(*net.TCPAddr); ok {
		addr = tcp.AddrPort().Addr().Unmap()
	}
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits) // no address at all is a source too
	return prefix
}

// A sharedConn gives its place back when it is closed, or before.
type sharedConn struct {
	net.Conn
	leave func()
}

func (c *sharedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// CloseWrite is that of TCP.
func (c *sharedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// LetIn gives back the place of a WebSocket whose device is let in: it lives long,
// and there is one for each identity at most. It is a [gateway.Stranger].
func (c *sharedConn) LetIn() { c.leave() }
