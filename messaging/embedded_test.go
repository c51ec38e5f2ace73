package messaging

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
)

// A log that is mended goes on in a file of its own making: in the one of before there
// may be a hole that no sync fills, which the loss of power would show.
func TestMendedLogIsWrittenAnew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "[a-z]*")
	m, err := Open(t.Context(), Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	store := func(body string) {
		t.Helper()
		done := make(chan error, 1)
		m.Append(t.Context(), &signet.Message{Hub: "plant", DeviceID: "press", Body: []byte(body)}, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	store("before")
	block := filepath.Join(dir, "jetstream", "$G", "streams", telemetryStream, "msgs", "1.blk")
	before, err := os.Stat(block)
	if err != nil {
		t.Fatal(err)
	}
	m.embedded.mu.Lock()
	m.embedded.ill = errors.New("a sync has failed")
	m.embedded.mu.Unlock()
	m.embedded.mend(t.Context(), m.nc)
	after, err := os.Stat(block)
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(before, after) {
		t.Error("the block is the one of before")
	}
	if after.Mode() != before.Mode() {
		t.Errorf("its mode was %v, and is %v", before.Mode(), after.Mode())
	}
	store("after")
	var said []string
	if err := m.Read(t.Context(), "plant", hub.Start{}, false, func(_ signet.Position, msg *signet.Message) bool {
		said = append(said, string(msg.Body))
		return true
	}); err != nil || len(said) != 2 || said[0] != "before" || said[1] != "after" {
		t.Errorf("%q, %v", said, err)
	}
}
