package gateway

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/wire/mqtt"
)

// doors gives how to begin a TLS connection to each door of a web door.
func (d *webDoor) doors() map[signet.Door]string {
	return map[signet.Door]string{signet.DoorMQTT: d.addr, signet.DoorHTTPS: d.server.Listener.Addr().String()}
}

// narrow makes the lobby smaller, and the places past the line fewer.
func (d *webDoor) narrow(lobby, within int) {
	d.https.lobby.mu.Lock()
	d.https.lobby.max = lobby
	d.https.lobby.mu.Unlock()
	d.MQTT.gate.mu.Lock()
	d.MQTT.gate.maxWithin = within
	d.MQTT.gate.mu.Unlock()
}

// eventually waits for what the door does on its own time.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

// padded is a certificate of so many bytes, and some hundred.
func padded(t testing.TB, size int) tls.Certificate {
	t.Helper()
	issuer := issue(t, "CA", nil)
	made := issue(t, "d1", &issuer, pkix.Extension{Id: []int{1, 2, 3, 4}, Value: make([]byte, size)})
	made.Certificate = made.Certificate[:1]
	return made
}

// A countedConn counts what a peer has sent.
type countedConn struct {
	net.Conn
	read int
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read += n
	return n, err
}

// A chain of almost as much as is judged comes through the handshake, and so does its
// ticket, of the same size; one that is larger does not, and why is recorded. Both
// doors do so.
func TestLongChains(t *testing.T) {
	d := openWebDoor(t)
	largest, larger := padded(t, 60_000), padded(t, 76_000)
	for door, addr := range d.doors() {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprint(door, " ", tls.VersionName(version)), func(t *testing.T) {
				config := d.client(largest)
				config.MaxVersion = version
				config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
				for range 2 {
					c, err := tls.Dial("tcp", addr, config)
					if err != nil {
						t.Fatal(err)
					}
					c.SetDeadline(time.Now().Add(time.Minute))
					if door == signet.DoorMQTT {
						c.Write(connectPacket("d1"))
					} else {
						fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", events)
					}
					if _, err := c.Read(make([]byte, 1)); err != nil {
						t.Error("the largest:", err)
					}
					c.Close()
					if seen, _ := d.waist.lastSeen(); len(seen.Chain) != 1 || len(seen.Chain[0].Raw) < 60_000 {
						t.Error("the hub saw another chain")
					}
				}
				d.waist.refusals()
				config = d.client(larger)
				config.MaxVersion = version
				c, err := tls.Dial("tcp", addr, config)
				if err == nil {
					c.SetDeadline(time.Now().Add(time.Minute))
					if _, err = c.Read(make([]byte, 1)); err == nil {
						t.Error("a larger one is answered")
					}
					c.Close()
				}
				var codes []signet.Code
				eventually(t, "a verdict", func() bool { codes = append(codes, d.waist.refusals()...); return len(codes) > 0 })
				if len(codes) != 1 || codes[0] != signet.LimitChainBytes {
					t.Errorf("recorded is %v", codes)
				}
			})
		}
	}
	if n := d.numbers(t)["signet_https_handshakes_total certificate"]; n != 2 {
		t.Errorf("%v are counted", n)
	}
}

// What is read of a peer that never lets the other speak is bounded, and an answer
// begins anew.
func TestFlight(t *testing.T) {
	wire := &countedConn{Conn: &scripted{}}
	p := &pacedConn{Conn: wire, turns: newPacer()}
	if n, err := io.Copy(io.Discard, p); n != maxFlight || !errors.Is(err, errFlight) || wire.read != maxFlight {
		t.Errorf("%d bytes and %v; %d were read", n, err, wire.read)
	}
	p.Write([]byte("go on"))
	if n, err := io.Copy(io.Discard, p); n != maxFlight || !errors.Is(err, errFlight) {
		t.Errorf("then %d bytes and %v", n, err)
	}
	p.over()
	if n, _ := io.CopyN(io.Discard, p, 2*maxFlight); n != 2*maxFlight {
		t.Errorf("when it is over, %d bytes", n)
	}
}

// scripted is a peer that sends without end.
type scripted struct{ net.Conn }

func (*scripted) Read(b []byte) (int, error)  { return len(b), nil }
func (*scripted) Write(b []byte) (int, error) { return len(b), nil }

// While as many compute as there are processors, no other handshake begins to, by
// whichever door it comes.
func TestHandshakesSharePacer(t *testing.T) {
	d := openWebDoor(t)
	all := d.MQTT.pacer.free
	for range all {
		d.MQTT.pacer.take()
	}
	done := make(chan error, 2)
	for _, addr := range d.doors() {
		go func() {
			c, err := tls.Dial("tcp", addr, d.client())
			if err == nil {
				c.Close()
			}
			done <- err
		}()
	}
	eventually(t, "both are past the line", func() bool { _, within := d.MQTT.gate.counts(); return within == 2 })
	select {
	case err := <-done:
		t.Errorf("a handshake is done with no turn to compute: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	for range all {
		d.MQTT.pacer.give()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A handshake that panics ends alone: it keeps no turn to compute from others.
func TestPanicKeepsNoTurn(t *testing.T) {
	m := plainDoor(t, &fakeWaist{})
	fault := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { panic("the disk is on fire") }
	all := m.pacer.free
	for range all + 1 {
		device, server := net.Pipe()
		go tls.Client(device, &tls.Config{InsecureSkipVerify: true}).Handshake()
		func() {
			defer func() { recover() }()
			m.greet(server, &tls.Config{GetCertificate: fault}, nil, NewHTTPS(m, nil).handshakes)
		}()
		device.Close()
	}
	if m.pacer.free != all {
		t.Errorf("%d of %d turns are kept", all-m.pacer.free, all)
	}
}

// A crowd that comes at once by WebSocket is let in to the last, past a gate that
// serves four at a time and a lobby with room for eight: each keeps the one turn that
// it has had.
func TestWebSocketCrowd(t *testing.T) {
	d := openWebDoor(t)
	d.narrow(8, 4)
	var devices sync.WaitGroup
	for i := range 100 {
		devices.Go(func() {
			c, code, err := d.connect(fmt.Sprint("d", i), d.client())
			if err != nil || code != mqtt.ConnAccepted {
				t.Errorf("device %d: CONNACK %d, %v", i, code, err)
				return
			}
			c.Close()
		})
	}
	devices.Wait()
	d.emptied(t)
	if waiting, within := d.MQTT.gate.counts(); waiting+within+d.https.lobby.count() != 0 {
		t.Errorf("%d and %d are at the gate, %d in the lobby", waiting, within, d.https.lobby.count())
	}
}

// from dials from another address of the loopback network.
func from(t testing.TB, n byte, addr string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, n)}, Timeout: time.Minute}).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	return c
}

// Thirteen addresses fill the lobby with connections of every kind that costs a
// stranger little; a device is served all the same, by its first request, its next,
// and a WebSocket, and one in the middle of a request keeps its connection.
func TestLobbyOfStrangers(t *testing.T) {
	d := openWebDoor(t)
	d.narrow(64, defaultMaxHandshakes)
	addr := d.server.Listener.Addr().String()

	// A device whose request is judged, and whose body is slow.
	slow := tls.Client(from(t, 200, addr), d.client())
	fmt.Fprintf(slow, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n1", events)
	eventually(t, "the device is judged", func() bool {
		d.https.lobby.mu.Lock()
		defer d.https.lobby.mu.Unlock()
		return d.https.lobby.known == 1
	})

	// On a busy machine the first have had their time before the last come: so others do.
	for n := 0; n < 13*12 || d.https.lobby.count() < 64; n++ {
		if n > 13*120 {
			t.Fatalf("%d are in the lobby", d.https.lobby.count())
		}
		c := tls.Client(from(t, byte(n%13+1), addr), d.client())
		switch n / 13 % 3 {
		case 0, 1: // idle after a request that is refused
			io.WriteString(c, "GET /$iothub/nothing HTTP/1.1\r\nHost: h\r\n\r\n")
			bufio.NewReader(c).ReadString('\n')
		case 2: // slow with its headers
			io.WriteString(c, "GET /$iothub/nothing HTTP/1.1\r\nHost:")
		}
	}

	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: d.client()}}
	for i := range 3 {
		response, err := client.Post(d.server.URL+events, "", strings.NewReader(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != 204 {
			t.Errorf("request %d: %s", i, response.Status)
		}
	}
	if _, code, err := d.connect("d2", d.client()); err != nil || code != mqtt.ConnAccepted {
		t.Errorf("by WebSocket: CONNACK %d, %v", code, err)
	}
	io.WriteString(slow, "2")
	if response, err := http.ReadResponse(bufio.NewReader(slow), nil); err != nil || response.StatusCode != 204 {
		t.Errorf("the device in the middle of its request: %v, %v", response, err)
	}
}

// A turn at the gate ends with the first request, whatever it was, and with the
// connection.
func TestTurnEnds(t *testing.T) {
	d := openWebDoor(t)
	judging, judged := make(chan bool), make(chan bool)
	d.waist.judge = func(hub.Credentials) error { judging <- true; <-judged; return nil }
	counts := func() [2]int { waiting, within := d.MQTT.gate.counts(); return [2]int{waiting, within} }
	for name, request := range map[string]string{
		"refused":                    "GET /$iothub/nothing HTTP/1.1\r\nHost: h\r\n\r\n",
		"refused, and still sending": "POST /$iothub/nothing HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n",
		"no request":                 "nothing\r\n\r\n",
		"none at all":                "",
		"judged":                     "POST " + events + " HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
	} {
		c, err := tls.Dial("tcp", d.server.Listener.Addr().String(), d.client())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		eventually(t, name+": it has its turn", func() bool { return counts() == [2]int{0, 1} })
		io.WriteString(c, request)
		switch name {
		case "none at all":
			c.Close()
		case "judged":
			<-judging
			if got := counts(); got != [2]int{0, 1} {
				t.Errorf("while it is judged, %v are at the gate", got)
			}
			judged <- true
		}
		eventually(t, name+": it has left", func() bool { return counts() == [2]int{} })
		c.Close()
	}
}

// Who comes to the wrong door without TLS is told so; when the server closes, who is
// still arriving is cut off.
func TestArrivalsEnd(t *testing.T) {
	d := openWebDoor(t)
	addr := d.server.Listener.Addr().String()
	plain := from(t, 1, addr)
	io.WriteString(plain, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if said, _ := io.ReadAll(plain); !bytes.Contains(said, []byte("HTTP request to an HTTPS server")) {
		t.Errorf("told is %q", said)
	}
	silent := from(t, 2, addr)
	eventually(t, "one is arriving", func() bool { _, within := d.MQTT.gate.counts(); return within == 1 })
	d.server.Listener.Close()
	if _, err := silent.Read(make([]byte, 1)); err == nil || errors.Is(err, errTimeout(err)) {
		t.Errorf("the silent one: %v", err)
	}
	eventually(t, "nobody is arriving", func() bool { _, within := d.MQTT.gate.counts(); return within+d.https.lobby.count() == 0 })
}

func errTimeout(err error) error {
	if ne := (net.Error)(nil); errors.As(err, &ne) && ne.Timeout() {
		return err
	}
	return nil
}

// A guest that the gate asks to go goes, but not while its request is judged; a
// WebSocket is asked in its own way.
func TestGuestCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := signet.Refuse(signet.LimitHandshake, "long")
		closed := func(g *guest, peer net.Conn) bool {
			peer.SetReadDeadline(time.Now().Add(time.Second))
			_, err := peer.Read(make([]byte, 1))
			return err == io.EOF
		}
		h := NewHTTPS(plainDoor(t, &fakeWaist{}), nil)
		for name, c := range map[string]struct {
			prepare func(*guest)
			closed  bool
		}{
			"in its handshake":         {func(*guest) {}, true},
			"before its first request": {func(g *guest) { g.open(&tls.Conn{}) }, true},
			"while it is judged":       {func(g *guest) { g.open(&tls.Conn{}); g.give(nil) }, false},
			"a WebSocket":              {func(g *guest) { g.open(&tls.Conn{}); g.give(func(err error) { g.asked = err.(*signet.Error) }) }, false},
		} {
			peer, ours := net.Pipe()
			g := newGuest(h, ours)
			if err := g.enter(nil); err != nil {
				t.Fatal(err)
			}
			c.prepare(g)
			g.cut(why)
			if got := closed(g, peer); got != c.closed {
				t.Errorf("%s: closed is %v", name, got)
			}
			if asked := g.asked == error(why); asked != (name != "while it is judged") {
				t.Errorf("%s: asked is %v", name, g.asked)
			}
			g.Close()
			peer.Close()
		}
	})
}
