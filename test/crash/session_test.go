package crash_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/wire/mqtt"
)

// TestKillStoredSession: the server is killed as soon as a device has its SUBACK. Its
// session goes on with the next process: it is given what is sent to it, and has not
// subscribed again, as Azure's SDK for Python does not.
func TestKillStoredSession(t *testing.T) {
	folder := t.TempDir()
	data, caFile := filepath.Join(folder, "data"), filepath.Join(folder, "ca.pem")
	root := hubtest.NewCA(t, "Root")
	if err := os.WriteFile(caFile, []byte(hubtest.PEM(root.Cert.Raw)), 0o600); err != nil {
		t.Fatal(err)
	}
	id, pair := name(0), root.Device(t, name(0))
	for round, want := range []struct {
		subscribe *mqtt.Subscribe
		present   bool
	}{
		{&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "devices/" + id + "/messages/devicebound/#", QoS: 1}}}, false},
		{&mqtt.Subscribe{PacketID: 2, Filters: []mqtt.Subscription{{Filter: "$iothub/methods/POST/#"}}}, true},
		{nil, true},
	} {
		v := begin(t, data, "SIGNET_CRASH_CA="+caFile)
		conf := &tls.Config{RootCAs: v.roots, ServerName: "localhost"}
		own := conf.Clone()
		own.Certificates = []tls.Certificate{pair}
		conn, in := dial(t, v, own)
		conn.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, ClientID: id, HasUsername: true,
			Username: "localhost/" + id + "/?api-version=2021-04-12", KeepAlive: 60}))
		next := func() mqtt.Packet {
			t.Helper()
			p, err := in.Next()
			if err != nil {
				t.Fatalf("round %d: %v\n%s", round, err, &v.log)
			}
			return p
		}
		if ack, ok := next().(*mqtt.Connack); !ok || ack.Code != 0 || ack.SessionPresent != want.present {
			t.Fatalf("round %d: %+v", round, ack)
		}
		if want.subscribe != nil {
			conn.Write(mqtt.AppendSubscribe(nil, want.subscribe))
			if _, ok := next().(*mqtt.Suback); !ok {
				t.Fatalf("round %d: no SUBACK", round)
			}
		} else {
			ask := owner(v.https, conf, data)
			if status, err := ask(t.Context(), "POST", "/signet/commands", `{"deviceId":"`+id+`","messageId":"m-1"}`); err != nil || status != 200 {
				t.Fatal(status, err)
			}
			if p, ok := next().(*mqtt.Publish); !ok || p.QoS != 1 || !strings.Contains(p.Topic, "m-1") {
				t.Errorf("%+v", p)
			}
			go ask(t.Context(), "POST", "/twins/"+id+"/methods", `{"methodName":"blink","responseTimeoutInSeconds":30}`)
			if p, ok := next().(*mqtt.Publish); !ok || !strings.HasPrefix(p.Topic, "$iothub/methods/POST/blink/") {
				t.Errorf("%+v", p)
			}
		}
		v.kill()
		v.cmd.Wait()
		conn.Close()
	}
}

func dial(t *testing.T, v *victim, conf *tls.Config) (*tls.Conn, *mqtt.Reader) {
	t.Helper()
	conn, err := tls.Dial("tcp", v.mqtt, conf)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	return conn, mqtt.NewClientReader(conn, 1<<16)
}
