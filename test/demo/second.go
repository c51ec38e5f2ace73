package main

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/signet-iot/signet/pki"
)

const policy = `[[policy]]
name        = "operational"
certificate = "issuing/ca.pem"
chain       = "issuing/chain.pem"
key         = "issuing/ca.key"
`

// issuing sets up a CA beside the running hub.
func (d *demo) issuing() error {
	if err := d.cli("ca", "intermediate", "--parent", "root", "--name", "Acme Issuing", "--path-length", "0", "--out", "data/issuing"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "data", "issuance.toml"), []byte(policy), 0o600); err != nil {
		return err
	}
	fmt.Println("         data/issuance.toml:")
	for line := range strings.Lines(policy) {
		fmt.Printf("           %s", line)
	}
	time.Sleep(1100 * time.Millisecond) // the hub looks once a second
	out, err := d.output("issuance", "policies")
	if err == nil && !strings.Contains(out, "CN=Acme Issuing") {
		err = errors.New("the policy is not in force")
	}
	return err
}

// enroll has the provisioning service trust the root, and let in what is below it.
func (d *demo) enroll() error {
	if err := d.cli("certificate", "upload", "acme", "root/ca.pem", "--service", "dps"); err != nil {
		return err
	}
	out, err := d.output("certificate", "code", "acme", "--service", "dps")
	if err != nil {
		return err
	}
	return errors.Join(
		d.cli("ca", "prove", "--ca", "root", "--code", codeLine.FindString(out), "--out", "dps-proof.pem"),
		d.cli("certificate", "verify", "acme", "dps-proof.pem", "--service", "dps"),
		d.cli("enrollment", "create", "presses", "--group", "--ca", "acme", "--issuance-policy", "operational", "--service", "dps"),
	)
}

// provision is what the firmware of a new device does: it makes a key, and sends a
// request for a certificate with its registration.
func (d *demo) provision() error {
	err := errors.Join(
		d.cli("ca", "intermediate", "--parent", "factory", "--name", "Line 5", "--out", "line-5", "--path-length", "0"),
		d.cli("ca", "device", "--parent", "line-5", "--id", "press-42", "--out", "press-42"),
	)
	if err != nil {
		return err
	}
	scope, err := os.ReadFile(filepath.Join(d.dir, "data", "id-scope"))
	if err != nil {
		return err
	}
	client, _, err := d.connect("press-42", strings.TrimSpace(string(scope))+"/registrations/press-42/api-version=2025-07-01-preview", "press-42")
	if err != nil {
		return err
	}
	defer client.Disconnect(100)
	answers, err := listen(client, "$dps/registrations/res/#")
	if err != nil {
		return err
	}
	key, request, err := d.csr()
	if err != nil {
		return err
	}
	var state struct {
		OperationID string `json:"operationId"`
		Status      string `json:"status"`
		State       struct {
			AssignedHub string   `json:"assignedHub"`
			DeviceID    string   `json:"deviceId"`
			Issued      [][]byte `json:"issuedCertificateChain"`
		} `json:"registrationState"`
	}
	answer, err := ask(client, answers, "$dps/registrations/PUT/iotdps-register/?$rid=1", map[string]any{"registrationId": "press-42", "csr": request})
	for polls := 0; err == nil; polls++ {
		if err = json.Unmarshal(answer, &state); err != nil || state.Status != "assigning" || polls == 20 {
			break
		}
		time.Sleep(200 * time.Millisecond)
		answer, err = ask(client, answers, "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1&operationId="+state.OperationID, map[string]any{})
	}
	if err != nil || state.Status != "assigned" {
		return fmt.Errorf("the device was not assigned: %s %w", answer, err)
	}
	fmt.Printf("           assigned: hub %s, device %s, and a chain of %d certificates\n", state.State.AssignedHub, state.State.DeviceID, len(state.State.Issued))
	return errors.Join(d.keep("press-42-operational", key, state.State.Issued), d.cli("issuance", "list"), d.cli("device", "show", "press-42"))
}

func (d *demo) operate() error {
	client, _, err := d.device("press-42", "press-42-operational")
	if err != nil {
		return err
	}
	defer client.Disconnect(100)
	if err := wait(client.Publish("devices/press-42/messages/events/", 1, false, `{"temperature":22.0}`)); err != nil {
		return err
	}
	fmt.Println("           PUBACK: the message is on disk")
	return nil
}

// renew has the device ask for another certificate, while it works on, and come
// back with that.
func (d *demo) renew() error {
	client, _, err := d.device("press-42", "press-42-operational")
	if err != nil {
		return err
	}
	defer client.Disconnect(100)
	answers, err := listen(client, "$iothub/credentials/res/#")
	if err != nil {
		return err
	}
	key, request, err := d.csr()
	if err != nil {
		return err
	}
	if _, err := ask(client, answers, "$iothub/credentials/POST/issueCertificate/?$rid=r-1", map[string]any{"id": "press-42", "csr": request}); err != nil {
		return err
	}
	answer, err := next(answers)
	if err != nil {
		return err
	}
	var renewed struct {
		Certificates [][]byte `json:"certificates"`
	}
	if err := json.Unmarshal(answer, &renewed); err != nil || len(renewed.Certificates) == 0 {
		return fmt.Errorf("no certificate: %s %w", answer, err)
	}
	if err := d.keep("press-42-renewed", key, renewed.Certificates); err != nil {
		return err
	}
	again, _, err := d.device("press-42", "press-42-renewed")
	if err != nil {
		return err
	}
	again.Disconnect(100)
	fmt.Println("           connected with the new certificate; the old one is good until its end")
	return d.cli("issuance", "list", "--device", "press-42")
}

// csr makes the key of a device and its request.
func (d *demo) csr() (crypto.Signer, []byte, error) {
	key, err := pki.GenerateKey(pki.P256)
	if err != nil {
		return nil, nil, err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "press-42"}}, key)
	return key, request, err
}

// keep writes what a device keeps: its key and the chain that it got.
func (d *demo) keep(folder string, key crypto.Signer, chain [][]byte) error {
	var text []byte
	for _, der := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	secret, err := pki.MarshalKey(key, nil)
	if err != nil {
		return err
	}
	folder = filepath.Join(d.dir, folder)
	return errors.Join(os.Mkdir(folder, 0o700), os.WriteFile(filepath.Join(folder, "chain.pem"), text, 0o600),
		os.WriteFile(filepath.Join(folder, "device.key"), secret, 0o600))
}

func listen(client mqtt.Client, filter string) (<-chan []byte, error) {
	answers := make(chan []byte, 8)
	return answers, wait(client.Subscribe(filter, 0, func(_ mqtt.Client, m mqtt.Message) {
		fmt.Printf("           ← %s\n", m.Topic())
		answers <- m.Payload()
	}))
}

func ask(client mqtt.Client, answers <-chan []byte, topic string, body any) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	fmt.Printf("           → %s\n", topic)
	if err := wait(client.Publish(topic, 1, false, text)); err != nil {
		return nil, err
	}
	return next(answers)
}

func next(answers <-chan []byte) ([]byte, error) {
	select {
	case answer := <-answers:
		return answer, nil
	case <-time.After(10 * time.Second):
		return nil, errors.New("no answer in 10 s")
	}
}
