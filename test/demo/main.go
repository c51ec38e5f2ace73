// Command demo tells the article with the signet binary, as its user would: a CA
// is made and registered, a device signed two intermediates below it connects on
// its first try and sends telemetry, a stranger is refused and told why, and
// once the line is distrusted the device is gone, and stays so under a new
// certificate of the line's old key. In the second act a device that nobody has
// told the hub of registers itself, gets its place and its operational certificate
// in one call, and renews that on its own connection.
//
// It works in a temporary folder, on free ports of the loopback interface.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/signet-iot/signet/pki"
)

func main() {
	binary := flag.String("signet", "bin/signet", "the signet binary")
	flag.Parse()
	path, err := filepath.Abs(*binary)
	if err == nil {
		err = run(path)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	fmt.Println("demo: ok")
}

// demo is one telling of the story.
type demo struct {
	signet string
	dir    string
	start  time.Time
	server *exec.Cmd
	mqtt   string // address
	log    bytes.Buffer
	env    []string
}

func run(signet string) (err error) {
	dir, err := os.MkdirTemp("", "signet-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{signet: signet, dir: dir, start: time.Now()}
	defer func() {
		if d.server != nil {
			d.server.Process.Kill()
			d.server.Wait()
		}
		if err != nil && d.log.Len() > 0 {
			fmt.Fprintf(os.Stderr, "--- server log\n%s", &d.log)
		}
	}()

	for _, step := range []struct {
		title string
		do    func() error
	}{
		{"a company makes its root CA, and delegates: factory, line", d.makeCAs},
		{"the line signs a device", func() error {
			return d.cli("ca", "device", "--parent", "line", "--id", "press-17", "--out", "press-17")
		}},
		{"a hub starts on an empty folder", d.serve},
		{"the root is uploaded, and possession of its key proven", d.register},
		{"the device gets an identity", func() error {
			return d.cli("device", "create", "press-17", "--auth", "ca")
		}},
		{"the device connects with its chain, for the first time, and sends telemetry", d.telemetry},
		{"a stranger's chain is refused, and explained", d.stranger},
		{"the line's intermediate is distrusted, and the device is gone", d.distrust},
		{"a new certificate with the line's old key does not slip back", d.reissue},
		{"second act: a CA of the company's issues certificates, beside the hub", d.issuing},
		{"the root is registered with the provisioning service too, and a group enrolled", d.enroll},
		{"a device that nobody has told the hub of registers itself, with a CSR", d.provision},
		{"it connects with its operational certificate, and sends telemetry", d.operate},
		{"it renews the certificate on its own connection", d.renew},
		{"the hub drains and stops", d.stop},
	} {
		fmt.Printf("%6.2fs  %s\n", time.Since(d.start).Seconds(), step.title)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	return nil
}

// cli runs the signet command in the demo's folder and shows it.
func (d *demo) cli(args ...string) error {
	_, err := d.output(args...)
	return err
}

func (d *demo) output(args ...string) (string, error) {
	fmt.Printf("         $ signet %s\n", strings.Join(args, " "))
	cmd := exec.Command(d.signet, args...)
	cmd.Dir, cmd.Env = d.dir, append(os.Environ(), d.env...)
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		fmt.Printf("           %s", line)
	}
	if err != nil {
		return string(out), fmt.Errorf("signet %s: %w", args[0], err)
	}
	return string(out), nil
}

func (d *demo) makeCAs() error {
	return errors.Join(
		d.cli("ca", "root", "--name", "Acme Root", "--out", "root"),
		d.cli("ca", "intermediate", "--parent", "root", "--name", "Acme Factory Augsburg", "--out", "factory"),
		d.cli("ca", "intermediate", "--parent", "factory", "--name", "Line 4", "--out", "line", "--path-length", "0"),
	)
}

var ready = regexp.MustCompile(`^signet: ready mqtt=(\S+) https=(\S+) `)

func (d *demo) serve() error {
	args := []string{"serve", "--data", "data", "--hostname", "localhost",
		"--mqtt", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "off"}
	fmt.Printf("         $ signet %s\n", strings.Join(args, " "))
	d.server = exec.Command(d.signet, args...)
	d.server.Dir, d.server.Stderr = d.dir, &d.log
	stdout, err := d.server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := d.server.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	found := ready.FindStringSubmatch(line)
	if found == nil {
		return fmt.Errorf("the server did not get ready: %q %v", line, err)
	}
	go io.Copy(io.Discard, stdout)
	fmt.Printf("           %s", line)
	d.mqtt = found[1]

	// What an operator would put into the environment once.
	owner, err := os.ReadFile(filepath.Join(d.dir, "data", "owner.connection-string"))
	if err != nil {
		return err
	}
	service, err := os.ReadFile(filepath.Join(d.dir, "data", "provisioning.connection-string"))
	if err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(d.dir, "data", "admin.token"))
	if err != nil {
		return err
	}
	port := found[2][strings.LastIndexByte(found[2], ':'):]
	withPort := func(connection []byte) string {
		return strings.Replace(strings.TrimSpace(string(connection)), "HostName=localhost", "HostName=localhost"+port, 1)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "dps"), []byte(withPort(service)), 0o600); err != nil {
		return err
	}
	d.env = []string{
		"SIGNET_CONNECTION_STRING=" + withPort(owner),
		"SIGNET_TOKEN=" + strings.TrimSpace(string(token)),
		"SIGNET_CA_FILE=" + filepath.Join(d.dir, "data", "server-ca.pem"),
	}
	return nil
}

var codeLine = regexp.MustCompile(`[0-9A-F]{48}`)

func (d *demo) register() error {
	if err := d.cli("certificate", "upload", "acme", "root/ca.pem"); err != nil {
		return err
	}
	out, err := d.output("certificate", "code", "acme")
	if err != nil {
		return err
	}
	return errors.Join(
		d.cli("ca", "prove", "--ca", "root", "--code", codeLine.FindString(out), "--out", "proof.pem"),
		d.cli("certificate", "verify", "acme", "proof.pem"),
	)
}

// device connects over MQTT as firmware would: host, certificate, chain, key.
// lost is closed when the connection ends.
func (d *demo) device(id, folder string) (client mqtt.Client, lost chan struct{}, err error) {
	return d.connect(id, "localhost/"+id+"/?api-version=2025-08-01-preview", folder)
}

func (d *demo) connect(id, username, folder string) (client mqtt.Client, lost chan struct{}, err error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(d.dir, folder, "chain.pem"), filepath.Join(d.dir, folder, "device.key"))
	if err != nil {
		return nil, nil, err
	}
	pem, err := os.ReadFile(filepath.Join(d.dir, "data", "server-ca.pem"))
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	lost = make(chan struct{})
	o := mqtt.NewClientOptions().AddBroker("ssl://" + d.mqtt).
		SetProtocolVersion(4).SetClientID(id).SetUsername(username).
		SetCleanSession(false).SetAutoReconnect(false).SetConnectTimeout(10 * time.Second).
		SetTLSConfig(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: "localhost"}).
		SetConnectionLostHandler(func(mqtt.Client, error) { close(lost) })
	client = mqtt.NewClient(o)
	return client, lost, wait(client.Connect())
}

func wait(t mqtt.Token) error {
	if !t.WaitTimeout(10 * time.Second) {
		return errors.New("no answer in 10 s")
	}
	return t.Error()
}

func (d *demo) telemetry() error {
	client, _, err := d.device("press-17", "press-17")
	if err != nil {
		return err
	}
	defer client.Disconnect(100)
	topic := "devices/press-17/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8&alarm=none"
	if err := wait(client.Publish(topic, 1, false, `{"temperature":21.5}`)); err != nil {
		return err
	}
	fmt.Println("           PUBACK: the message is on disk")
	out, err := d.output("monitor", "--device", "press-17", "--follow=false", "--output", "json")
	if err == nil && !strings.Contains(out, `"temperature":21.5`) {
		err = errors.New("the message was not read back")
	}
	return err
}

func (d *demo) stranger() error {
	err := errors.Join(
		d.cli("ca", "root", "--name", "Nobody Root", "--out", "nobody"),
		d.cli("ca", "device", "--parent", "nobody", "--id", "press-17", "--out", "stranger"),
	)
	if err != nil {
		return err
	}
	if client, _, err := d.device("press-17", "stranger"); err == nil {
		client.Disconnect(100)
		return errors.New("the stranger was let in")
	} else {
		fmt.Printf("           CONNACK: %v\n", err)
	}
	out, err := d.output("verdicts", "--device", "press-17")
	if err == nil && !strings.Contains(out, "chain.") {
		err = errors.New("the refusal is not told")
	}
	return err
}

func (d *demo) distrust() error {
	client, lost, err := d.device("press-17", "press-17")
	if err != nil {
		return err
	}
	defer client.Disconnect(0)
	began := time.Now()
	if err := d.cli("distrust", "add", "--certificate", "line/ca.pem", "--reason", "the line's laptop is stolen"); err != nil {
		return err
	}
	select {
	case <-lost:
		fmt.Printf("           the live session ended %d ms after the command began\n", time.Since(began).Milliseconds())
	case <-time.After(time.Second):
		return errors.New("the session lives on")
	}
	return d.refused("press-17")
}

// refused connects a device that must not get in.
func (d *demo) refused(folder string) error {
	client, _, err := d.device("press-17", folder)
	if err == nil {
		client.Disconnect(0)
		return errors.New("the device got in again")
	}
	fmt.Printf("           CONNACK: %v\n", err)
	return nil
}

// reissue has the factory sign the line's key once more, under another name, and
// that the device's.
func (d *demo) reissue() error {
	line, err := d.ca("line")
	if err != nil {
		return err
	}
	factory, err := d.ca("factory")
	if err != nil {
		return err
	}
	chain, err := factory.Intermediate("Line 4 again", line.Key.Public(), 0, time.Now(), 365)
	if err != nil {
		return err
	}
	folder := filepath.Join(d.dir, "line-again")
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	var text []byte
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(folder, "ca.pem"), text, 0o600),
		os.WriteFile(filepath.Join(folder, "chain.pem"), text, 0o600),
		os.Link(filepath.Join(d.dir, "line", "ca.key"), filepath.Join(folder, "ca.key")),
		d.cli("ca", "device", "--parent", "line-again", "--id", "press-17", "--out", "press-17-again"),
	)
	if err != nil {
		return err
	}
	if err := d.refused("press-17-again"); err != nil {
		return err
	}
	out, err := d.output("explain", "--chain", "press-17-again/chain.pem", "--device", "press-17")
	if err == nil || !strings.Contains(out, "cert.revoked") || !strings.Contains(out, "the line's laptop is stolen") {
		return errors.New("the refusal is not told")
	}
	return nil
}

// ca opens the folder of a CA.
func (d *demo) ca(folder string) (*pki.CA, error) {
	key, err := os.ReadFile(filepath.Join(d.dir, folder, "ca.key"))
	if err != nil {
		return nil, err
	}
	signer, err := pki.ParseKey(key, nil)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(d.dir, folder, "chain.pem"))
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	return pki.OpenCA(chain[0], chain, signer)
}

func (d *demo) stop() error {
	if err := d.server.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := d.server.Wait()
	d.server = nil
	return err
}
