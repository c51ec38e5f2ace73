package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/wire/mqtt"
)

// TestHubScript plays the stories in testdata/hub, each against a hub of its own,
// with the environment that an operator sets once.
func TestHubScript(t *testing.T) {
	p := hubScripts(t)
	p.Dir = "testdata/hub"
	testscript.Run(t, p)
}

// hubScripts are the words of scripts that have a hub each.
func hubScripts(t *testing.T) testscript.Params {
	return testscript.Params{
		Setup: func(env *testscript.Env) error {
			h := hubtest.Start(t)
			env.Values["hub"] = h
			env.Setenv("SIGNET_CONNECTION_STRING", h.Owner.String())
			env.Setenv("SIGNET_TOKEN", h.Token)
			env.Setenv("SIGNET_CA_FILE", h.CAFile)
			env.Setenv("SIGNET_ADDRESS", "")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command of a -race build waits a second to end
			env.Setenv("HTTPS", h.HTTPSAddr())
			env.Setenv("MQTT", h.MQTTAddr())
			env.Setenv("HOST", signet.HostOnly(h.Owner.HostName))
			env.Setenv("PID", strconv.Itoa(os.Getpid())) // of the server, which is this process
			env.Setenv("DATA", h.Config.Data)
			env.Defer(h.Stop)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// answer DEVICE STATUS PAYLOAD: the device answers every method call so, until
			// the end of the story.
			"answer": func(ts *testscript.TestScript, _ bool, args []string) {
				stop, err := answer(ts.Value("hub").(*hubtest.Hub), args[0], args[1], args[2])
				ts.Check(err)
				ts.Defer(stop)
			},
			// receive DEVICE DISPOSITION BODY: the device is given this message, and settles it.
			"receive": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(receive(ts.Value("hub").(*hubtest.Hub), args[0], signet.Disposition(args[1]), args[2]))
			},
			// present DEVICE FOLDER: the device connects by MQTT with the chain and key in a
			// folder, and stays until the end of the story, or until the hub lets it go.
			"present": func(ts *testscript.TestScript, neg bool, args []string) {
				stop, err := present(ts.Value("hub").(*hubtest.Hub), args[0], ts.MkAbs(args[1]))
				if neg != (err != nil) {
					ts.Fatalf("the device is answered: %v", err)
				}
				if err == nil {
					ts.Defer(stop)
				}
			},
			// issue DEVICE CSR OUT: the provisioning service issues the device a certificate by
			// its policy "operational", as if the device had registered.
			"issue": func(ts *testscript.TestScript, neg bool, args []string) {
				chain, err := issue(ts.Value("hub").(*hubtest.Hub), args[0], ts.ReadFile(args[1]))
				if neg != (err != nil) {
					ts.Fatalf("%v", err)
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(chain), 0o600))
			},
			// register DEVICE FOLDER: the device asks the provisioning service for its place,
			// with the chain and key in a folder, and has it.
			"register": func(ts *testscript.TestScript, neg bool, args []string) {
				if err := register(ts.Value("hub").(*hubtest.Hub), args[0], ts.MkAbs(args[1])); neg != (err != nil) {
					ts.Fatalf("the device is answered: %v", err)
				}
			},
			// sink: a webhook at $SINK, which answers with the status in the file status, and
			// writes what it takes into the file sunk, a batch a line.
			"sink": func(ts *testscript.TestScript, _ bool, _ []string) {
				s := httptest.NewServer(sink(ts.MkAbs("status"), ts.MkAbs("sunk")))
				ts.Setenv("SINK", s.URL)
				ts.Defer(s.Close)
			},
			// send DEVICE BODY [NAME=VALUE…]: telemetry of a device, acknowledged.
			"send": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(send(ts.Value("hub").(*hubtest.Hub), args[0], args[1], args[2:]))
			},
		},
	}
}

func sink(status, sunk string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if text, err := os.ReadFile(status); err == nil {
			if n, _ := strconv.Atoi(strings.TrimSpace(string(text))); n != 200 {
				w.WriteHeader(n)
				return
			}
		}
		f, err := os.OpenFile(sunk, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		defer f.Close()
		fmt.Fprintf(f, "%s\n", body)
	}
}

// connectDevice begins a session of a device that has symmetric keys.
func connectDevice(h *hubtest.Hub, device string, wake func()) (*hub.Session, error) {
	name := signet.HostOnly(h.Owner.HostName)
	token, err := signet.SignSAS(name+"/devices/"+device, h.Owner.SharedAccessKeyName, h.Owner.SharedAccessKey, time.Now().Add(time.Hour))
	if err != nil {
		return nil, err
	}
	return h.Hub().Connect(context.Background(), hub.Credentials{Door: signet.DoorMQTT, Host: name, DeviceID: device, Token: token}, wake)
}

func present(h *hubtest.Hub, device, folder string) (stop func(), err error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "chain.pem"), filepath.Join(folder, "device.key"))
	if err != nil {
		return nil, err
	}
	conn, err := tls.Dial("tcp", h.MQTTAddr(), h.ClientTLS(pair))
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	if _, err := conn.Write(mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, ClientID: device,
		HasUsername: true, Username: h.Config.HostName + "/" + device + "/?api-version=2021-04-12"})); err != nil {
		return nil, err
	}
	p, err := mqtt.NewClientReader(conn, 1<<16).Next()
	h.Inventory().Write(context.Background()) // what it saw, at once
	if err != nil {
		return nil, err
	}
	if ack, ok := p.(*mqtt.Connack); !ok || ack.Code != 0 {
		return nil, fmt.Errorf("%+v", p)
	}
	return func() { conn.Close() }, nil
}

func issue(h *hubtest.Hub, device, csr string) (chain string, err error) {
	block, _ := pem.Decode([]byte(csr))
	if block == nil {
		return "", errors.New("no PEM")
	}
	certs, err := h.Issuance().Issue(context.Background(), signet.CertificateOrder{Service: "dps", Policy: "operational",
		HostName: h.Config.HostName, DeviceID: device, CSR: block.Bytes, Operation: signet.NewETag()})
	for _, c := range certs {
		chain += hubtest.PEM(c.Raw)
	}
	return chain, err
}

func register(h *hubtest.Hub, device, folder string) error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "chain.pem"), filepath.Join(folder, "device.key"))
	if err != nil {
		return err
	}
	scope, err := os.ReadFile(filepath.Join(h.Config.Data, "id-scope"))
	if err != nil {
		return err
	}
	c := &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{TLSClientConfig: h.ClientTLS(pair)}}
	defer c.CloseIdleConnections()
	path := "/" + strings.TrimSpace(string(scope)) + "/registrations/" + device
	method, step := http.MethodPut, "/register"
	for range 5000 {
		q, err := http.NewRequest(method, "https://"+h.HTTPSAddr()+path+step+"?api-version=2021-06-01", strings.NewReader("{}"))
		if err != nil {
			return err
		}
		r, err := c.Do(q)
		if err != nil {
			return err
		}
		var operation struct {
			OperationID string `json:"operationId"`
			Status      string `json:"status"`
		}
		err = json.NewDecoder(r.Body).Decode(&operation)
		r.Body.Close()
		if err != nil || r.StatusCode != http.StatusAccepted {
			if operation.Status != "assigned" {
				return fmt.Errorf("%s %s %v", r.Status, operation.Status, err)
			}
			return nil
		}
		method, step = http.MethodGet, "/operations/"+operation.OperationID
		<-time.After(20 * time.Millisecond)
	}
	return errors.New("it has no place")
}

func answer(h *hubtest.Hub, device, status, payload string) (stop func(), err error) {
	n, err := strconv.Atoi(status)
	if err != nil {
		return nil, err
	}
	woken := make(chan bool, 100)
	session, err := connectDevice(h, device, func() { woken <- true })
	if err != nil {
		return nil, err
	}
	session.Listen(hub.MethodCalls)
	go func() {
		for range woken {
			for d, ok := session.Receive(); ok; d, ok = session.Receive() {
				session.AnswerMethod(d.(hub.MethodCall).RequestID, n, []byte(payload))
			}
			if session.Ended() != nil {
				return
			}
		}
	}()
	return session.Close, nil
}

func receive(h *hubtest.Hub, device string, d signet.Disposition, body string) error {
	session, err := connectDevice(h, device, func() {})
	if err != nil {
		return err
	}
	defer session.Close()
	c, err := session.NextCommand(context.Background())
	if err != nil {
		return err
	}
	if c == nil || strings.TrimSpace(string(c.Body)) != body {
		return fmt.Errorf("the device is given %+v", c)
	}
	return session.SettleCommand(context.Background(), c.LockToken, d)
}

func send(h *hubtest.Hub, device, body string, properties []string) error {
	ctx := context.Background()
	session, err := connectDevice(h, device, func() {})
	if err != nil {
		return err
	}
	defer session.Close()
	m := &signet.Message{Body: []byte(body)}
	for _, p := range properties {
		name, value, _ := strings.Cut(p, "=")
		m.Properties = append(m.Properties, signet.Property{Name: name, Value: value})
	}
	done := make(chan error)
	session.Send(ctx, m, func(err error) { done <- err })
	return <-done
}
