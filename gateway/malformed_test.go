package gateway

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/mqtt"
)

// connectD1 is the CONNECT of a device that has nothing to fear.
var connectD1 = mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d1", HasUsername: true, Username: "localhost/d1/?api-version=2021-04-12"})

// connectV5 is a CONNECT of MQTT 5 with nothing wrong.
var connectV5 = []byte("\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02d1")

// TestMalformedCorpus sits the exam of Eclipse Mosquitto's packet tests at the
// door itself, TLS and all: whatever comes, the server hangs up, and says no more
// than a refusing CONNACK.
func TestMalformedCorpus(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "shared", "testdata", "mqtt-malformed-dev.json"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("../shared/testdata/mqtt-malformed-dev.json is not there")
	}
	if err != nil {
		t.Fatal(err)
	}
	var corpus struct {
		Cases []struct {
			Name    string
			Level   int
			Connect bool
			Send    []string
		}
	}
	if err := json.Unmarshal(text, &corpus); err != nil {
		t.Fatal(err)
	}
	if len(corpus.Cases) < 500 {
		t.Fatalf("only %d cases in the corpus", len(corpus.Cases))
	}
	x := startExam(t)
	for _, c := range corpus.Cases {
		packets, err := hex.DecodeString(strings.Join(c.Send, ""))
		if err != nil {
			t.Fatal(err)
		}
		var opening []byte
		switch {
		case c.Connect && c.Level == 5:
			opening = connectV5
		case c.Connect:
			opening = connectD1
		}
		t.Run(c.Name, func(t *testing.T) {
			answer := x.hangsUp(t, opening, packets)
			accepted, refused := "20020000", "2002000" // and the code
			switch {
			case c.Level == 5 && c.Connect:
				// Told in the form of MQTT 5: Unsupported Protocol Version.
				if answer != "2003008400" {
					t.Errorf("the CONNECT of MQTT 5 is answered by %q", answer)
				}
			case c.Connect:
				if answer != accepted {
					t.Errorf("answered by %q, of which only %q is for the CONNECT", answer, accepted)
				}
			case answer != "" && answer != "2003008400" && (!strings.HasPrefix(answer, refused) || answer == accepted || len(answer) != len(accepted)):
				t.Errorf("answered by %q, which is not a refusal", answer)
			}
		})
	}
}

// TestOutOfPlace has packets that are well formed, and wrong only where they
// stand or at this server.
func TestOutOfPlace(t *testing.T) {
	publish := func(qos byte, topic string, size int) []byte {
		return mqtt.AppendPublish(nil, &mqtt.Publish{QoS: qos, Topic: topic, PacketID: uint16(min(qos, 1)), Payload: make([]byte, size)})
	}
	const own = "devices/d1/messages/events/"
	x := startExam(t)
	for _, c := range []struct {
		name          string
		opening, send []byte
		answer        string
	}{
		{"PUBLISH first [MQTT-3.1.0-1]", nil, publish(0, own, 1), ""},
		{"SUBSCRIBE first [MQTT-3.1.0-1]", nil, mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "#"}}}), ""},
		{"PINGREQ first [MQTT-3.1.0-1]", nil, mqtt.AppendPingreq(nil), ""},
		{"DISCONNECT first [MQTT-3.1.0-1]", nil, mqtt.AppendDisconnect(nil), ""},
		{"a second CONNECT [MQTT-3.1.0-2]", connectD1, connectD1, "20020000"},
		{"another protocol [MQTT-3.1.2-1]", nil, []byte("\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00"), "20020001"},
		{"a level to come [MQTT-3.1.2-2]", nil, []byte("\x10\x0c\x00\x04MQTT\x06\x02\x00\x3c\x00\x00"), "2003008400"},
		{"a CONNECT larger than a stranger may send", nil, mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d1", HasPassword: true, HasUsername: true, Password: make([]byte, maxConnect)}), ""},
		{"PUBLISH of QoS 2", connectD1, publish(2, own, 1), "20020000"},
		{"PUBLISH on another device's topic, QoS 0", connectD1, publish(0, "devices/d2/messages/events/", 1), "20020000"},
		{"PUBLISH on another device's topic, QoS 1", connectD1, publish(1, "devices/d2/messages/events/", 1), "20020000"},
		{"a packet larger than any message", connectD1, publish(1, own, maxPacket), "20020000"},
		{"HTTP", nil, []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if answer := x.hangsUp(t, c.opening, c.send); answer != c.answer {
				t.Errorf("answered by %q, not %q", answer, c.answer)
			}
			x.waist.mu.Lock()
			defer x.waist.mu.Unlock()
			if n := len(x.waist.messages); n != 0 {
				t.Errorf("%d messages came through", n)
			}
		})
	}
}

// An exam is a door on a loopback address.
type exam struct {
	waist  *fakeWaist
	addr   string
	client *tls.Config
}

func startExam(t *testing.T) *exam {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	x := &exam{waist: &fakeWaist{}, client: &tls.Config{RootCAs: roots, ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(1)}}
	m := NewMQTT(x.waist, Config{
		TLS:    &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		Logger: slog.New(slog.DiscardHandler),
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x.addr = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- m.Serve(listener) }()
	t.Cleanup(func() {
		shutDown(t, m)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return x
}

// hangsUp sends an opening and then packets, and gives in hex what came back
// before the server hung up, as it must. A PINGREQ follows: a server that still
// serves answers it, and is found out without a wait. The refusal must be on
// record.
func (x *exam) hangsUp(t *testing.T, opening, packets []byte) string {
	t.Helper()
	x.waist.refusals()
	dialer := &net.Dialer{Timeout: time.Minute}
	c, err := tls.DialWithDialer(dialer, "tcp", x.addr, x.client)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	var answer bytes.Buffer
	if len(opening) > 0 {
		if _, err := c.Write(opening); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(&answer, c, 4); err != nil {
			t.Fatalf("the opening is answered by %x, %v", answer.Bytes(), err)
		}
	}
	c.Write(packets) // may fail: the server need not wait for all of it
	c.Write(mqtt.AppendPingreq(nil))
	for err, some := error(nil), make([]byte, 64); err == nil; {
		var n int
		n, err = c.Read(some)
		answer.Write(some[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) || answer.Len() > 64 || bytes.HasSuffix(answer.Bytes(), mqtt.AppendPingresp(nil)) {
			t.Fatalf("the server does not hang up; it answered %x", answer.Bytes())
		}
	}
	if len(x.waist.refusals()) == 0 {
		t.Error("the refusal is not on record")
	}
	return hex.EncodeToString(answer.Bytes())
}

// FuzzConversation holds a whole conversation, of any bytes, with a door whose
// waist stores some messages and not others. Whatever is said, the connection and
// its session end, and nothing is acknowledged that is not stored.
func FuzzConversation(f *testing.F) {
	publish := func(dup bool, qos byte, topic string, id uint16) []byte {
		return mqtt.AppendPublish(nil, &mqtt.Publish{Dup: dup, QoS: qos, Topic: topic, PacketID: id, Payload: []byte("x")})
	}
	const own = "devices/d1/messages/events/"
	one, again := publish(false, 1, own, 7), publish(true, 1, own+"a=b&%24.mid=1", 7)
	sub := mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 3, Filters: []mqtt.Subscription{{Filter: "$iothub/twin/res/#"}}})
	twin := publish(false, 1, "$iothub/twin/GET/?$rid=1", 8)
	for _, s := range [][]byte{
		nil, one, slices.Concat(one, again, twin, one), slices.Concat(sub, twin, publish(false, 0, own, 0), mqtt.AppendPingreq(nil)),
		slices.Concat(one, mqtt.AppendDisconnect(nil)), bytes.Repeat(one, 300), publish(false, 1, "devices/d2/messages/events/", 9),
		slices.Concat(mqtt.AppendPuback(nil, 1), mqtt.AppendUnsubscribe(nil, &mqtt.Unsubscribe{PacketID: 4, Filters: []string{"a"}})),
		publish(false, 2, own, 5), one[:5], connectD1,
	} {
		for _, hangUp := range []bool{true, false} {
			f.Add(true, s, uint8(0), uint8(0), hangUp)
			f.Add(true, s, uint8(1), uint8(0), hangUp)
			f.Add(true, s, uint8(0), uint8(2), hangUp)
		}
	}
	f.Add(false, slices.Concat(connectD1, one), uint8(0), uint8(0), true)
	f.Add(false, mqtt.AppendConnect(nil, &mqtt.Connect{ClientID: "d1", KeepAlive: 10, HasUsername: true, Username: "h/d1",
		Will: &mqtt.Will{Topic: own, Payload: []byte("gone"), QoS: 1}}), uint8(0), uint8(0), false)
	f.Add(false, connectV5, uint8(0), uint8(0), true)

	f.Fuzz(func(t *testing.T, connected bool, said []byte, failAt, endAt uint8, hangUp bool) {
		if connected {
			said = slices.Concat(connectD1, said)
		}
		synctest.Test(t, func(t *testing.T) { converse(t, said, int(failAt), int(endAt), hangUp) })
	})
}

func converse(t *testing.T, said []byte, failAt, endAt int, hangUp bool) {
	w := &fakeWaist{hold: true}
	m := plainDoor(t, w)
	device := pipe(m)
	go device.Write(said) // ends with the pipe at the latest

	// One message after the other is stored, a millisecond each, until the disk is
	// full at message failAt; after message endAt the session is taken over.
	var stored atomic.Int64
	over, storing := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(storing)
		wait := time.Millisecond
		for n := 1; ; {
			select {
			case <-over:
				return
			case <-time.After(wait):
			}
			w.mu.Lock()
			waiting := len(w.pending) > 0
			w.mu.Unlock()
			if !waiting {
				wait *= 2 // so that half an hour of silence is a few looks
				continue
			}
			wait = time.Millisecond
			if failAt > 0 && n >= failAt {
				w.settle(signet.Refuse(signet.Unavailable, "The disk is full."))
			} else {
				stored.Add(1)
				w.settle(nil)
			}
			if n == endAt {
				w.last().end(signet.Refuse(signet.SessionClosed, "Taken over."))
			}
			n++
		}
	}()

	due := duePubacks(said)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		r := mqtt.NewClientReader(device, maxPacket)
		first := true
		for ; ; first = false {
			p, err := r.Next()
			if err != nil {
				// MQTT 5 has its own CONNACK; all else that is said to a device is MQTT 3.1.1.
				var bad *mqtt.Malformed
				if errors.As(err, &bad) && !first {
					t.Errorf("the door said what no server may: %v", err)
				}
				return
			}
			if _, ok := p.(*mqtt.Connack); ok != first {
				t.Errorf("the door said %T, with CONNACK due first and once", p)
			}
			ack, ok := p.(*mqtt.Puback)
			if !ok {
				continue
			}
			if len(due) == 0 || due[0].id != ack.PacketID {
				t.Errorf("PUBACK of %d where %v are due", ack.PacketID, due)
				return
			}
			if n := stored.Load(); n < due[0].messages {
				t.Errorf("PUBACK of %d, message %d, with %d stored", ack.PacketID, due[0].messages, n)
			}
			due = due[1:]
		}
	}()

	// Time enough for all that is stored; then the device goes, or stays silent
	// until the door has waited long enough.
	time.Sleep(time.Minute)
	if hangUp {
		device.Close()
	} else {
		time.Sleep(maxSilence)
	}
	synctest.Wait()
	m.mu.Lock()
	if len(m.conns) != 0 {
		t.Error("the connection does not end")
	}
	m.mu.Unlock()
	device.Close()
	<-heard
	close(over)
	<-storing
	if s := w.last(); s != nil && s.Ended() == nil {
		t.Error("the session is not closed")
	}
}

// A duePuback is a PUBACK that may come, and the count of messages that must be
// stored before.
type duePuback struct {
	id       uint16
	messages int64
}

// duePubacks lists, in order, the PUBACKs that what a device says asks for.
func duePubacks(said []byte) (due []duePuback) {
	messages := int64(0)
	r := mqtt.NewReader(bytes.NewReader(said), maxPacket)
	for {
		p, err := r.Next()
		if err != nil {
			return due
		}
		if p, ok := p.(*mqtt.Publish); ok {
			if !strings.HasPrefix(p.Topic, "$iothub/") { // else it is answered, and not stored
				messages++
			}
			if p.QoS == 1 {
				due = append(due, duePuback{p.PacketID, messages})
			}
		}
	}
}
