package crash_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/issuance"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/server"
	"github.com/signet-iot/signet/wire/mqtt"
)

// A holder is a device with the certificate that it was first issued.
type holder struct {
	id    string
	pair  tls.Certificate
	csr   map[string][]byte // by request ID, of what was sent
	heard map[string][]byte // certificates, by request ID
	twice bool              // it has heard of two for one request
}

// TestKillIssuance: kill -9 while devices renew their certificates. Every
// certificate that a device has got is on record; the same request, sent again to
// the next process, gets that certificate, and no request got two.
func TestKillIssuance(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	holders := settleIssuance(t, data)
	const kills, gangs = 4, 8
	for round := range kills {
		v := begin(t, data)
		waiting := make(chan *holder, len(holders))
		for _, o := range holders {
			waiting <- o
		}
		close(waiting)
		enough := make(chan struct{}, len(holders))
		var all sync.WaitGroup
		for range gangs {
			all.Go(func() {
				for o := range waiting { // each is one gang's
					if o.renew(v.mqtt, v.roots, fmt.Sprint("r-", round)) == nil {
						enough <- struct{}{}
					}
				}
			})
		}
		for range 10 + mathrand.IntN(len(holders)/2) {
			select {
			case <-enough:
			case <-time.After(3 * time.Minute):
				t.Fatalf("round %d: too few are answered\n%s", round, &v.log)
			}
		}
		v.kill()
		all.Wait()
		v.cmd.Wait()
	}

	s, err := server.Start(t.Context(), config(data))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	heard, made := 0, 0
	for _, o := range holders {
		for request, csr := range o.csr {
			renewed, err := s.Issuance().Renew(t.Context(), signet.Renewal{Hub: "hub", DeviceID: o.id, Certificate: sha256.Sum256(o.pair.Certificate[0]),
				RequestID: request, CSR: csr}, func(signet.RenewalReceipt) {})
			if err != nil {
				t.Fatal(err)
			}
			if got := o.heard[request]; got != nil {
				heard++
				if !bytes.Equal(got, renewed.Chain[0].Raw) {
					t.Errorf("%s, request %s: another certificate than before", o.id, request)
				}
			}
		}
		list, err := s.Issuance().Issued(t.Context(), issuance.Query{Hub: "hub", DeviceID: o.id, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		operations := map[string]bool{}
		for _, i := range list {
			if operations[i.Operation] {
				t.Errorf("%s: %s was answered with two certificates", o.id, i.Operation)
			}
			operations[i.Operation] = true
		}
		made += len(list)
		if o.twice {
			t.Errorf("%s has heard of two certificates for one request", o.id)
		}
	}
	t.Logf("%d kills: %d certificates heard of, %d on record", kills, heard, made)
}

// settleIssuance starts a server on a new folder with an issuing CA, and has it
// issue their first certificates to some devices.
func settleIssuance(t *testing.T, data string) (holders []*holder) {
	key, err := pki.GenerateKey(pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewRoot("Issuing", key, time.Now(), 100)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := pki.MarshalKey(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"ca.pem": hubtest.PEM(ca.Certificate.Raw), "ca.key": string(secret),
		"issuance.toml": "[[policy]]\nname = \"p\"\ncertificate = \"ca.pem\"\nkey = \"ca.key\"\n"} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := server.Start(t.Context(), config(data))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	for n := range 60 {
		o := &holder{id: name(n), csr: map[string][]byte{}, heard: map[string][]byte{}}
		key, csr := request(t, o.id)
		if _, err := s.Registry().Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: o.id, Auth: signet.Authentication{Type: signet.AuthCA}}); err != nil {
			t.Fatal(err)
		}
		chain, err := s.Issuance().Issue(t.Context(), signet.CertificateOrder{Service: "dps", Policy: "p", HostName: "localhost", DeviceID: o.id, CSR: csr, Operation: "first"})
		if err != nil {
			t.Fatal(err)
		}
		o.pair = tls.Certificate{PrivateKey: key, Certificate: [][]byte{chain[0].Raw}}
		for round := range 4 {
			_, o.csr[fmt.Sprint("r-", round)] = request(t, o.id)
		}
		holders = append(holders, o)
	}
	return holders
}

func request(t *testing.T, id string) (crypto.Signer, []byte) {
	t.Helper()
	key, err := pki.GenerateKey(pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: id}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

// renew asks for a certificate over the device's own connection, and keeps what it
// hears.
func (o *holder) renew(address string, roots *x509.CertPool, id string) error {
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{o.pair}})
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	body, err := json.Marshal(map[string]any{"id": o.id, "csr": o.csr[id]})
	if err != nil {
		return err
	}
	packets := mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, ClientID: o.id, HasUsername: true, Username: "localhost/" + o.id + "/?api-version=2025-08-01-preview"})
	packets = mqtt.AppendSubscribe(packets, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "$iothub/credentials/res/#"}}})
	packets = mqtt.AppendPublish(packets, &mqtt.Publish{Topic: "$iothub/credentials/POST/issueCertificate/?$rid=" + id, Payload: body})
	if _, err := conn.Write(packets); err != nil {
		return err
	}
	for in := mqtt.NewClientReader(conn, 1<<19); ; {
		p, err := in.Next()
		if err != nil {
			return err
		}
		answer, ok := p.(*mqtt.Publish)
		if !ok {
			continue
		}
		status, rid, _ := strings.Cut(strings.TrimPrefix(answer.Topic, "$iothub/credentials/res/"), "/?$rid=")
		var chain struct{ Certificates [][]byte }
		if status != "200" || json.Unmarshal(answer.Payload, &chain) != nil || len(chain.Certificates) == 0 {
			continue
		}
		if before := o.heard[rid]; before != nil && !bytes.Equal(before, chain.Certificates[0]) {
			o.twice = true
		}
		o.heard[rid] = chain.Certificates[0] // also one of a round before, that it had not heard of
		if rid == id {
			return nil
		}
	}
}
