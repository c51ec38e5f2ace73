package plain_test

import (
	"context"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/internal/hubtest"
)

// A running tool, that a test talks to while it runs.
type running struct {
	tool  string
	stdin io.WriteCloser
	said  saying
	ended chan int // its exit status
}

func begin(t *testing.T, dir, tool string, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, tool, args...)
	r := &running{tool: tool, ended: make(chan int, 1)}
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &r.said, &r.said
	var err error
	if r.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait()
		r.ended <- cmd.ProcessState.ExitCode()
	}()
	return r
}

func (r *running) write(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(r.stdin, text); err != nil {
		t.Fatalf("%s: %v", r.tool, err)
	}
}

func (r *running) wait(t *testing.T) int {
	t.Helper()
	select {
	case status := <-r.ended:
		return status
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s goes on: %s", r.tool, r.said.String())
		return 0
	}
}

// eventually waits for what another process does.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// TestCutPlain: a line is distrusted while a device of mosquitto's listens, another
// sends, and curl is in the middle of a request: all three are over, their next
// try is refused, and the device beside them goes on.
func TestCutPlain(t *testing.T) {
	need(t, "mosquitto_sub", "mosquitto_pub", "curl")
	h := hubtest.Start(t)
	root := hubtest.NewCA(t, "Acme Root")
	line, other := root.Intermediate(t, "Line 4"), root.Intermediate(t, "Line 5")
	h.Trust(t, tenant, root)
	for _, id := range []string{"listener", "sender", "caller", "honest"} {
		h.CADevice(t, tenant, id)
	}
	honest := h.Dial(t, h.ClientTLS(other.Device(t, "honest")))
	if code := honest.Connect(t, "localhost", "honest"); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	proof := []string{"--cert", "chain.pem", "--key", "device.key"}

	listens := begin(t, device(t, line.Device(t, "listener")), "mosquitto_sub",
		mosquitto(h, "listener", append(proof, "-q", "1", "-t", "devices/listener/messages/devicebound/#")...)...)
	sends := begin(t, device(t, line.Device(t, "sender")), "mosquitto_pub",
		mosquitto(h, "sender", append(proof, "-q", "1", "-l", "-t", "devices/sender/messages/events/")...)...)
	sends.write(t, "before\n")
	calls := begin(t, device(t, line.Device(t, "caller")), "curl", append(proof, "-sSv", "--cacert", h.CAFile, "--http1.1", "-w", "\n%{http_code}",
		"-X", "POST", "-H", "Transfer-Encoding: chunked", "-H", "Expect:", "-T", "-",
		"https://localhost:"+port(h.HTTPSAddr())+"/devices/caller/messages/events?api-version=2021-04-12")...)
	calls.write(t, "half of it, ")
	eventually(t, "curl is in the middle", func() bool { return strings.Contains(calls.said.String(), "> POST") })
	eventually(t, "two sessions and the honest one", func() bool { return h.Hub().Sessions(tenant) == 3 })
	eventually(t, "the first message", func() bool { return len(stored(t, h, "sender")) == 1 })

	c, err := client.New(client.Options{ConnectionString: h.Owner.String(), CAFile: h.CAFile})
	if err != nil {
		t.Fatal(err)
	}
	_, receipts, err := c.Distrust(t.Context(), client.DistrustRequest{Certificate: hubtest.PEM(line.Cert.Raw), Reason: "the line is not ours any more"})
	if err != nil || len(receipts) != 1 {
		t.Fatalf("%+v %v", receipts, err)
	}
	h.Cut(t, receipts[0], 2)

	// mosquitto's clients come back by themselves, and hear that they may not. One of
	// them then gives up; the other tries for ever.
	if status := listens.wait(t); status == 0 || !strings.Contains(listens.said.String(), "not authorised") {
		t.Errorf("mosquitto_sub: exit %d: %s", status, listens.said.String())
	}
	io.WriteString(sends.stdin, "after\n")
	eventually(t, "mosquitto_pub is refused", func() bool { return strings.Contains(sends.said.String(), "not authorised") })
	io.WriteString(calls.stdin, "and the rest")
	calls.stdin.Close()
	calls.wait(t)
	if said := calls.said.String(); !strings.Contains(said, "\n401") {
		t.Errorf("curl: %s", said)
	}
	if a, b := stored(t, h, "sender"), stored(t, h, "caller"); len(a) != 1 || len(b) != 0 {
		t.Errorf("stored after the cut: %q %q", a, b)
	}
	honest.Publish(t, "honest", "still here")
	if n := h.Hub().Sessions(tenant); n != 1 {
		t.Errorf("%d sessions", n)
	}
}
