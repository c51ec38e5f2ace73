package hostile_test

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signet-iot/signet/wire/mqtt"
)

// hangsUp sends bytes without TLS and gives what came back before the server
// closed, as it must without waiting for more.
func hangsUp(t *testing.T, address, bytes string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	c.Write([]byte(bytes))
	said, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) { // it left while we still spoke
		t.Fatalf("the server does not hang up: %v", err)
	}
	return string(said)
}

// TestTLS: what is no TLS, or too old, or says it is somebody else's.
func TestTLS(t *testing.T) {
	a := open(t)
	pair := a.factory.Device(t, "d")
	good := a.device(t, "d", pair)
	a.CADevice(t, tenant, "e")

	for name, change := range map[string]func(*tls.Config){
		"TLS 1.0": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 },
		"TLS 1.1": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
		"static RSA": func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_128_CBC_SHA}
		},
		"3DES": func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA}
		},
	} {
		a.line(t, name, func(t *testing.T) {
			conf := good.Clone()
			change(conf)
			c, err := tls.Dial("tcp", a.MQTTAddr(), conf)
			if err == nil {
				c.Close()
				t.Fatal("a session")
			}
			if _, alert := errors.AsType[tls.AlertError](err); !alert && !strings.Contains(err.Error(), "remote error: tls:") {
				t.Errorf("no alert, but %v", err)
			}
		})
	}

	random := make([]byte, 4096)
	rand.Read(random)
	random[0] = 0x99 // no record of TLS begins so
	for name, bytes := range map[string]string{
		"a plain CONNECT":                   string(connectAs("d")),
		"HTTP":                              "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n",
		"random bytes":                      string(random),
		"a ClientHello of 16 MB":            "\x16\x03\x01\x40\x00\x01\xff\xff\xff" + strings.Repeat("x", 16380),
		"a record of 2^14+257":              "\x16\x03\x01\x41\x01" + strings.Repeat("x", 1<<14+257),
		"a record of 2^14+2049 announced":   "\x16\x03\x01\x48\x01", // TLS 1.2 takes 2048 more than 2^14
		"a ClientHello of 16 MB, half sent": "\x16\x03\x01\x40\x00\x01\xff\xff\xff" + strings.Repeat("x", 16380) + "\x16\x03\x01\x40\x00",
	} {
		a.line(t, name, func(t *testing.T) {
			for door, address := range map[string]string{"MQTT": a.MQTTAddr(), "HTTPS": a.HTTPSAddr()} {
				if door == "HTTPS" && name == "HTTP" {
					continue // told in plain HTTP that this is HTTPS
				}
				if said := hangsUp(t, address, bytes); len(said) > 7 {
					t.Errorf("%s says %q, more than an alert", door, said)
				}
			}
		})
	}

	a.line(t, "a hundred that announce 16 MB and wait", func(t *testing.T) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		const crowd = 100
		for range crowd {
			c, err := net.Dial("tcp", a.MQTTAddr())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			// One byte short of what is refused at sight: it is waited for.
			c.Write([]byte("\x16\x03\x01\x40\x00\x01\x00\xff\xff" + strings.Repeat("x", 16379)))
		}
		a.serves(t)
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > crowd<<20 {
			t.Errorf("%d bytes for %d connections", grown, crowd)
		}
	})

	a.line(t, "the ticket of another device", func(t *testing.T) {
		conf := good.Clone()
		conf.ClientSessionCache = tls.NewLRUClientSessionCache(8)
		d := a.Dial(t, conf)
		if code := d.Connect(t, host, "d"); code != mqtt.ConnAccepted {
			t.Fatalf("CONNACK %d", code)
		}
		d.Close()
		other := a.factory.Device(t, "e")
		for what, conf := range map[string]*tls.Config{"without": conf.Clone(), "with": func() *tls.Config {
			c := conf.Clone()
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &other, nil }
			return c
		}()} {
			d := a.Dial(t, conf)
			if code := d.Connect(t, host, "e"); !d.ConnectionState().DidResume || code != mqtt.ConnRefusedNotAuthorized {
				t.Errorf("%s the other's certificate at hand: resumed %v, CONNACK %d", what, d.ConnectionState().DidResume, code)
			}
			d.Close()
		}
	})

	if _, err := a.Registry().CreateHub(t.Context(), "other", "other.test"); err != nil {
		t.Fatal(err)
	}
	a.CADevice(t, "other", "d")
	for name, sni := range map[string]string{
		"none": "", "another tenant's": "other.test", "of nobody": "nobody.example", "255 bytes": strings.Repeat("a.", 127) + "a", "a trailing dot": host + ".",
	} {
		a.line(t, "SNI: "+name, func(t *testing.T) {
			conf := good.Clone()
			conf.ServerName, conf.InsecureSkipVerify = sni, true
			// Where one comes in counts for nothing: the hub is the one of the CONNECT.
			switch code := a.connect(t, conf, "d"); code {
			case mqtt.ConnAccepted, closed:
			default:
				t.Errorf("CONNACK %d", code)
			}
			c, err := tls.Dial("tcp", a.MQTTAddr(), conf)
			if err != nil {
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			c.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, ClientID: "d", HasUsername: true, Username: "other.test/d"}))
			p, err := mqtt.NewClientReader(c, 1<<10).Next()
			if ack, ok := p.(*mqtt.Connack); errors.Is(err, os.ErrDeadlineExceeded) || ok && ack.Code == mqtt.ConnAccepted {
				t.Errorf("the other tenant's device of that name: %v %v", p, err)
			}
		})
	}
}
