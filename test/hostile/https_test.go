package hostile_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/wire/mqtt"
)

// from dials from one of the addresses that strangers have here; the honest device
// and the back end have another.
func from(t *testing.T, n int, address string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(n))}, Timeout: 2 * time.Minute}).Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	return c
}

// servesHTTPS has the honest device send by HTTPS and by WebSocket, and the back end
// be answered.
func (a *arena) servesHTTPS(t *testing.T) {
	t.Helper()
	start := time.Now()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: a.honest}}
	defer client.CloseIdleConnections()
	url := "https://" + host + a.HTTPSAddr()[strings.LastIndexByte(a.HTTPSAddr(), ':'):]
	response, err := client.Post(url+"/devices/honest/messages/events?api-version=2021-04-12", "", strings.NewReader("good"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		t.Fatalf("the honest device by HTTPS: %s", response.Status)
	}
	ws, _, err := websocket.Dial(t.Context(), url+"/$iothub/websocket", &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	stream := websocket.NetConn(t.Context(), ws, websocket.MessageBinary)
	stream.SetDeadline(start.Add(patience))
	stream.Write(connectAs("honest"))
	if p, err := mqtt.NewClientReader(stream, 1<<10).Next(); err != nil || p.(*mqtt.Connack).Code != mqtt.ConnAccepted {
		t.Fatalf("the honest device by WebSocket: %v %v", p, err)
	}
	if status, answer := a.request(t, "GET", "/devices/honest?api-version=2021-04-12", "", nil); status != http.StatusOK {
		t.Fatalf("the back end: %d %v", status, answer)
	}
	if took := time.Since(start); took > patience {
		t.Fatalf("served after %v", took)
	}
}

// TestHTTPS: what strangers do to the port of HTTPS. The honest device is served by
// it during each, and by MQTT.
func TestHTTPS(t *testing.T) {
	a := open(t)
	a.servesHTTPS(t)

	a.line(t, "a chain of 75 kB", func(t *testing.T) {
		pair := a.factory.Device(t, "d", extension(false, make([]byte, 75_000), 1, 2, 3, 4))
		c := tls.Client(from(t, 1, a.HTTPSAddr()), a.presenting(pair))
		defer c.Close()
		io.WriteString(c, "GET /devices/d/messages/deviceBound?api-version=2021-04-12 HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		if said, err := io.ReadAll(c); len(said) > 0 {
			t.Errorf("it is told %q, %v", said, err)
		}
		soon(t, "a verdict", func() bool {
			vs, err := a.Verdicts().List(t.Context(), authority.VerdictQuery{Limit: 10})
			return err == nil && len(vs) == 1 && vs[0].Code == signet.LimitChainBytes && vs[0].Door == signet.DoorHTTPS && vs[0].Remote == "127.0.1.1"
		})
		a.servesHTTPS(t)
	})

	a.line(t, "twelve addresses of silent sockets, at both ports", func(t *testing.T) {
		for n := range 12 {
			for range 60 {
				defer from(t, n+1, a.MQTTAddr()).Close()
				defer from(t, n+1, a.HTTPSAddr()).Close()
			}
		}
		a.servesHTTPS(t)
		a.serves(t)
	})

	a.line(t, "a storm of handshakes", func(t *testing.T) {
		device := a.Dial(t, a.honest)
		defer device.Close()
		if code := device.Connect(t, host, "honest"); code != mqtt.ConnAccepted {
			t.Fatalf("CONNACK %d", code)
		}
		worthless := a.presenting(a.factory.Device(t, "nobody"))
		var storm sync.WaitGroup
		for n := range 400 {
			c := from(t, n%20+1, a.HTTPSAddr())
			storm.Go(func() {
				defer c.Close()
				stream := tls.Client(c, worthless)
				io.WriteString(stream, "GET /$iothub/websocket HTTP/1.1\r\nHost: "+host+"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
					"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n")
				io.Copy(io.Discard, io.LimitReader(stream, 100))
			})
		}
		var slowest time.Duration
		for n := range 50 {
			began := time.Now()
			device.Publish(t, "honest", fmt.Sprint(n))
			slowest = max(slowest, time.Since(began))
		}
		if slowest > patience {
			t.Errorf("a message is acknowledged after %v", slowest)
		}
		t.Log("the slowest PUBACK:", slowest)
		storm.Wait()
	})

	a.line(t, "thirteen addresses that fill it", func(t *testing.T) {
		if testing.Short() {
			t.Skip("it takes thousands of connections")
		}
		conf := a.ClientTLS()
		conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		var held []net.Conn
		defer func() {
			for _, c := range held {
				c.Close()
			}
		}()
		for n := range 13 * 340 { // more than there are places
			c := tls.Client(from(t, n%13+1, a.HTTPSAddr()), conf)
			held = append(held, c)
			if _, err := io.WriteString(c, "GET /devices?api-version=2021-04-12 HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); err != nil {
				continue // turned away
			}
			if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil && answer.StatusCode != http.StatusUnauthorized {
				t.Fatal(answer.Status)
			}
		}
		a.servesHTTPS(t)
		a.serves(t)
	})
}
