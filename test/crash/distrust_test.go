package crash_test

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/server"
	"github.com/signet-iot/signet/store"
)

// distrust distrusts a certificate in the stopped server's data, and is killed
// when the sessions were to be ended: what it wrote is all that there is.
func distrust(data, certificate string) error {
	ctx := context.Background()
	db, err := store.OpenSQLite(ctx, filepath.Join(data, "signet.db"), store.Options{})
	if err != nil {
		return err
	}
	a := authority.New(db, authority.Options{Changed: func(context.Context, signet.Change) {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}})
	if err := a.Load(ctx); err != nil {
		return err
	}
	text, err := os.ReadFile(certificate)
	if err != nil {
		return err
	}
	cert, err := pki.ParseUpload(string(text))
	if err != nil {
		return err
	}
	_, err = a.Distrust(ctx, "hub", signet.Distrust{Reason: "stolen", By: "admin"}, []*x509.Certificate{cert})
	return errors.Join(err, errors.New("it was not killed"))
}

// TestKillBeforeTheCut: kill -9 between a distrust being on disk and the sessions
// being ended. After the restart what was distrusted is refused, and nothing else.
func TestKillBeforeTheCut(t *testing.T) {
	folder := t.TempDir()
	root := hubtest.NewCA(t, "Root")
	stolen, honest := root.Intermediate(t, "Line 4").Device(t, "d0"), root.Intermediate(t, "Line 5").Device(t, "d1")
	line := filepath.Join(folder, "line.pem")
	if err := os.WriteFile(line, []byte(hubtest.PEM(stolen.Certificate[1])), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func(t *testing.T) *hubtest.Hub {
		return hubtest.Start(t, func(c *server.Config) { c.Data = filepath.Join(folder, "data") })
	}
	connect := func(h *hubtest.Hub, want0, want1 byte) {
		t.Helper()
		code0, code1 := h.Dial(t, h.ClientTLS(stolen)).Connect(t, "localhost", "d0"), h.Dial(t, h.ClientTLS(honest)).Connect(t, "localhost", "d1")
		if code0 != want0 || code1 != want1 {
			t.Errorf("CONNACK %d and %d, want %d and %d", code0, code1, want0, want1)
		}
	}
	h := start(t)
	h.Trust(t, "hub", root)
	h.CADevice(t, "hub", "d0")
	h.CADevice(t, "hub", "d1")
	connect(h, 0, 0)
	h.Stop()

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "SIGNET_CRASH_DATA="+h.Config.Data, "SIGNET_CRASH_DISTRUST="+line)
	out, err := cmd.CombinedOutput()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("it was not killed: %v\n%s", err, out)
	}

	h = start(t)
	connect(h, 5, 0)
	vs, err := h.Verdicts().List(t.Context(), authority.VerdictQuery{Hub: "hub", DeviceID: "d0", Limit: 1})
	if err != nil || len(vs) != 1 || vs[0].Code != signet.CertRevoked || !strings.Contains(vs[0].Message, "stolen") {
		t.Errorf("%+v %v", vs, err)
	}
}
