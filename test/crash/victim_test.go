package crash_test

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// A victim is a server in a process of its own, which is killed.
type victim struct {
	cmd         *exec.Cmd
	mqtt, https string // addresses
	roots       *x509.CertPool
	log         bytes.Buffer
}

var ready = regexp.MustCompile(`^ready (\S+) (\S+)\n$`)

// begin starts a victim on a data folder and waits until it serves.
func begin(t *testing.T, data string, env ...string) *victim {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{cmd: exec.Command(self), roots: x509.NewCertPool()}
	v.cmd.Env = append(append(os.Environ(), "SIGNET_CRASH_DATA="+data), env...)
	v.cmd.Stderr = &v.log
	stdout, err := v.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	found := ready.FindStringSubmatch(line)
	if found == nil {
		v.kill()
		v.cmd.Wait()
		t.Fatalf("the server does not start: %q\n%s", line, &v.log)
	}
	v.mqtt, v.https = found[1], found[2]
	pem, err := os.ReadFile(filepath.Join(data, "server-ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	v.roots.AppendCertsFromPEM(pem)
	return v
}

func (v *victim) kill() { v.cmd.Process.Kill() } // SIGKILL
