package gateway

import (
	"crypto/tls"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/websocket"
)

// upgrade takes over an HTTP connection for MQTT or AMQP over WebSocket (RFC 6455 §4.2).
// From then on the connection lives as one with TLS alone does, with the same
// bounds; it has been through the gate, and keeps its place there. The client certificate is that of the TLS under
// it. What is refused here is still a request, and has not been answered.
func (m *MQTT) upgrade(w http.ResponseWriter, r *http.Request) error {
	accept, protocol, err := m.agree(r)
	if err != nil {
		return err
	}
	nc, buffered, err := http.NewResponseController(w).Hijack() // takes the server's deadlines off
	if err != nil {
		return signet.Fail(err)
	}
	if buffered.Reader.Buffered() > 0 {
		nc.Close() // it speaks before it is answered; so no request can hide in another
		return nil
	}
	nc.SetWriteDeadline(time.Now().Add(writeTime))
	if _, err := nc.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + accept + "\r\nSec-WebSocket-Protocol: " + protocol + "\r\n\r\n")); err != nil {
		nc.Close()
		return nil
	}
	var c connection
	var p *peer
	if strings.EqualFold(protocol, "mqtt") {
		conn := newConn(m, nc)
		conn.via, c, p = signet.DoorMQTTWS, conn, &conn.peer
	} else {
		conn := newAMQPConn(m.amqp, nc)
		conn.via, c, p = signet.DoorAMQPWS, conn, &conn.peer
	}
	p.stream = websocket.NewConn(nc, writeTime)
	if g := guestOf(r.Context()); g != nil {
		p.socket, p.guest = g, g
	}
	if r.TLS != nil {
		p.chain, p.version, p.sni = r.TLS.PeerCertificates, tls.VersionName(r.TLS.Version), r.TLS.ServerName
	}
	p.speaksOn(nc)
	letGo(nc)
	m.serve(c)
	return nil
}

// agree judges the request and gives what it is answered with.
func (m *MQTT) agree(r *http.Request) (accept, protocol string, err error) {
	refuse := func(what, fix string) (string, string, error) {
		return "", "", signet.Refuse(signet.RequestMalformed, "The request does not open a WebSocket: %s.", what).FixBy("%s", fix)
	}
	accept, ok := websocket.AcceptKey(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case r.Method != http.MethodGet || r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return refuse("it is "+r.Method+" by "+r.Proto, "Open it with GET by HTTP/1.1: offer no other protocol in ALPN.")
	case !has(r.Header, "Connection", "upgrade") || !has(r.Header, "Upgrade", "websocket") || !ok ||
		r.Header.Get("Sec-WebSocket-Version") != "13":
		return refuse("a header of RFC 6455 is missing or malformed", "Use a WebSocket client that speaks RFC 6455, version 13.")
	case foreign(r):
		// A browser lends its user's certificate to every page (RFC 6455 §10.2).
		return refuse("a page of another host would speak with the browser's certificate", "Load the page from the hub's host name, or connect without a client certificate.")
	}
	for _, offered := range elements(r.Header, "Sec-WebSocket-Protocol") {
		isAMQP := strings.EqualFold(offered, "AMQPWSB10") || strings.EqualFold(offered, "amqp")
		if strings.EqualFold(offered, "mqtt") || isAMQP && m.amqp != nil {
			return accept, offered, nil // as it was spelled: the C SDK writes capitals and looks for them
		}
	}
	return refuse("it offers no protocol that is served", "Offer the subprotocol mqtt or AMQPWSB10.")
}

// foreign says whether a browser sends the request for a page of another host,
// and with a client certificate.
func foreign(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || signet.HostOnly(u.Host) != signet.HostOnly(r.Host)
}

// elements gives what a header that holds a list holds.
func elements(h http.Header, name string) (all []string) {
	for _, line := range h.Values(name) {
		for e := range strings.SplitSeq(line, ",") {
			all = append(all, strings.TrimSpace(e))
		}
	}
	return all
}

func has(h http.Header, name, element string) bool {
	return slices.ContainsFunc(elements(h, name), func(e string) bool { return strings.EqualFold(e, element) })
}
