package plain_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// python runs a script with the Python of the system, which Debian's packages of AMQP
// are for.
func python(t *testing.T, module, script string, args ...string) (string, int) {
	t.Helper()
	const interpreter = "/usr/bin/python3"
	if err := exec.Command(interpreter, "-c", "import "+module).Run(); err != nil {
		t.Skipf("no module %s for %s: test/prepare installs it, as root on Debian", module, interpreter)
	}
	path, err := filepath.Abs(filepath.Join("testdata", script))
	if err != nil {
		t.Fatal(err)
	}
	return run(t, t.TempDir(), "", interpreter, append([]string{path}, args...)...)
}

// telemetry gives what a device has sent.
func telemetry(t *testing.T, h *hubtest.Hub, id string) (bodies []string) {
	t.Helper()
	err := h.Hub().Read(t.Context(), tenant, hub.Start{}, false, func(_ signet.Position, m *signet.Message) bool {
		if m.DeviceID == id {
			bodies = append(bodies, fmt.Sprintf("%.5s(%d)", m.Body, len(m.Body)))
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return bodies
}

func command(t *testing.T, h *hubtest.Hub, i signet.Identity, id, body string) {
	t.Helper()
	q := signet.CommandQueue{Hub: tenant, DeviceID: i.DeviceID, GenerationID: i.GenerationID}
	if _, err := h.Commands().Send(t.Context(), signet.Command{CommandQueue: q, MessageID: id, Body: []byte(body), Ack: signet.AckFull}); err != nil {
		t.Fatal(err)
	}
}

// TestProton: a device by the stack of the SDK for Java.
func TestProton(t *testing.T) {
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Acme Root")
	if _, _, err := h.Authority().Register(t.Context(), tenant, "acme", hubtest.PEM(root.Cert.Raw), true, ""); err != nil {
		t.Fatal(err)
	}
	i, err := h.Registry().Create(t.Context(), signet.Identity{Hub: tenant, DeviceID: "press-17", Auth: signet.Authentication{Type: signet.AuthCA}})
	if err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("y", 60000)
	command(t, h, i, "m-1", "hello")
	command(t, h, i, "m-2", large)
	command(t, h, i, "m-3", "again")
	out, status := python(t, "proton", "device_proton.py", port(h.AMQPAddr()), "press-17", device(t, root.Intermediate(t, "Line").Device(t, "press-17")), h.CAFile)
	if status != 0 || !strings.Contains(out, "refused: ") || !strings.Contains(out, "amqp:unauthorized-access") || !strings.Contains(out, "stored\n") {
		t.Fatalf("exit %d: %s", status, out)
	}
	for _, line := range []string{"received m-1 5 ", "received m-2 60000 ", "received m-3 5 "} {
		if !strings.Contains(out, line) {
			t.Errorf("no %q in %s", line, out)
		}
	}
	if got := strings.Join(telemetry(t, h, "press-17"), " "); got != "x(1) xxxxx(5000) xxxxx(100000)" {
		t.Errorf("stored: %s", got)
	}
	if got := verdict(t, h, "another"); got != signet.IdentityUnknown {
		t.Errorf("verdict %s", got)
	}
}

// TestUAMQP: a device by the stack of the SDK for C.
func TestUAMQP(t *testing.T) {
	h := hubtest.Start(t)
	i, err := h.Registry().Create(t.Context(), signet.Identity{Hub: tenant, DeviceID: "press-17"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := signet.SignSAS("localhost/devices/press-17", "", i.Auth.PrimaryKey, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	command(t, h, i, "m-1", "hello")
	command(t, h, i, "m-2", "bye")
	out, status := python(t, "uamqp", "device_uamqp.py", port(h.AMQPAddr()), "press-17", token, h.CAFile)
	if status != 0 || !strings.Contains(out, "refused: ") || strings.Contains(out, "forged") || !strings.Contains(out, "received m-1 hello\nreceived m-2 bye\n") {
		t.Fatalf("exit %d: %s", status, out)
	}
	if got := strings.Join(telemetry(t, h, "press-17"), " "); got != "one(3) two(3) three(5) xxxxx(100000)" {
		t.Errorf("stored: %s", got)
	}
	if got := verdict(t, h, "press-17"); got != signet.TokenSignature {
		t.Errorf("verdict %s", got)
	}
}

// hasSent gives the identity of a device that has sent three messages.
func hasSent(t *testing.T, h *hubtest.Hub) signet.Identity {
	t.Helper()
	i, err := h.Registry().Create(t.Context(), signet.Identity{Hub: tenant, DeviceID: "press-17"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := signet.SignSAS("localhost/devices/press-17", "", i.Auth.PrimaryKey, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.Hub().Connect(t.Context(), hub.Credentials{Door: signet.DoorMQTT, Host: "localhost", DeviceID: "press-17", Token: token}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"one", "two", "three"} {
		done := make(chan error, 1)
		s.Send(t.Context(), &signet.Message{Body: []byte(body)}, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	return i
}

// TestProtonBackEnd: a back end by Qpid Proton, whose selector has a name of its own:
// reading from an offset, sending to a device, and being told of the end.
func TestProtonBackEnd(t *testing.T) {
	h := hubtest.Start(t)
	i := hasSent(t, h)
	queue := signet.CommandQueue{Hub: tenant, DeviceID: "press-17", GenerationID: i.GenerationID}
	go func() { // the device
		for t.Context().Err() == nil {
			if c, err := h.Commands().Receive(t.Context(), queue, 0); err == nil && c != nil {
				h.Commands().Settle(t.Context(), queue, c.LockToken, signet.Reject)
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	token, err := signet.SignSAS("localhost", h.Owner.SharedAccessKeyName, h.Owner.SharedAccessKey, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	out, status := python(t, "proton", "backend_proton.py", port(h.AMQPAddr()), h.Owner.SharedAccessKeyName, token, "512", "2", "press-17", h.CAFile)
	if status != 0 || !strings.HasPrefix(out, "read two 1024\nread three 1536\nsent\n") ||
		strings.Count(out, `feedback [{"originalMessageId":"m-1"`) != 2 || !strings.Contains(out, `"statusCode":"Rejected"`) {
		t.Fatalf("exit %d: %s", status, out)
	}
	if records, _, err := h.Commands().Feedback(t.Context(), tenant); err != nil || len(records) > 0 {
		t.Errorf("left: %v %v", records, err)
	}
}

// TestUAMQPBackEnd: a back end by the stack under Azure's command line and its SDK for
// Python: redirected, reading, and sending to a device.
func TestUAMQPBackEnd(t *testing.T) {
	h := hubtest.Start(t)
	i := hasSent(t, h)
	token, err := signet.SignSAS("localhost", h.Owner.SharedAccessKeyName, h.Owner.SharedAccessKey, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	out, status := python(t, "uamqp", "backend_uamqp.py", port(h.AMQPAddr()), token, "3", "press-17", h.CAFile)
	want := "redirected to localhost " + port(h.AMQPAddr()) + " amqps://localhost:" + port(h.AMQPAddr()) + "/hub/$management\npartitions 1 ['0']\n" +
		"read one 512 512 press-17\nread two 1024 1024 press-17\nread three 1536 1536 press-17\nsent "
	if status != 0 || !strings.Contains(out, want) {
		t.Fatalf("exit %d: %s, want %s", status, out, want)
	}
	queue := signet.CommandQueue{Hub: tenant, DeviceID: "press-17", GenerationID: i.GenerationID}
	c, err := h.Commands().Receive(t.Context(), queue, 0)
	if err != nil || c == nil || c.MessageID != "m-1" || string(c.Body) != "hello" || c.Ack != signet.AckFull || c.Properties[0] != (signet.Property{Name: "level", Value: "3"}) {
		t.Errorf("the device gets %+v, %v", c, err)
	}
}
