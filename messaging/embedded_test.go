package messaging

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
)

// A log that is mended, or opened, goes on in a file of its own making: in the one of before
// there may be a hole that no sync fills, which the loss of power would show.
func TestMendedLogIsWrittenAnew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "[a-z]*")
	var m *Messaging
	open := func() {
		t.Helper()
		var err error
		if m, err = Open(t.Context(), Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)}); err != nil {
			t.Fatal(err)
		}
	}
	open()
	defer func() { m.Close() }()
	store := func(body string) {
		t.Helper()
		done := make(chan error, 1)
		m.Append(t.Context(), &signet.Message{Hub: "plant", DeviceID: "press", Body: []byte(body)}, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	block := filepath.Join(dir, "jetstream", "$G", "streams", telemetryStream, "msgs", "1.blk")
	stat := func() os.FileInfo {
		t.Helper()
		file, err := os.Stat(block)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	anew := func(how string, before os.FileInfo) {
		t.Helper()
		after := stat()
		if os.SameFile(before, after) {
			t.Errorf("%s, the block is the one of before", how)
		}
		if after.Mode() != before.Mode() {
			t.Errorf("%s, its mode was %v, and is %v", how, before.Mode(), after.Mode())
		}
	}
	store("first")
	before := stat()
	m.embedded.mu.Lock()
	m.embedded.ill = errors.New("a sync has failed")
	m.embedded.mu.Unlock()
	m.embedded.mend(t.Context(), m.nc)
	anew("mended", before)
	store("second")
	before = stat()
	m.Close()
	open()
	anew("opened", before)
	store("third")
	var said []string
	if err := m.Read(t.Context(), "plant", hub.Start{}, false, func(_ signet.Position, msg *signet.Message) bool {
		said = append(said, string(msg.Body))
		return true
	}); err != nil || !slices.Equal(said, []string{"first", "second", "third"}) {
		t.Errorf("%q, %v", said, err)
	}
}
