//go:build unix

package messaging_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/messaging"
)

// The tests here need a process of their own that can be killed or starved: the
// test binary again, in the role that this variable names.
const roleVariable = "SIGNET_MESSAGING_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "load":
		load(os.Args[1], os.Args[2])
	case "starved":
		starved(os.Args[1])
	default:
		os.Exit(m.Run())
	}
}

func child(t *testing.T, role string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, bufio.NewReader(out)
}

// load appends without end and prints the body of each message that was
// acknowledged.
func load(dir, name string) {
	m, err := messaging.Open(context.Background(), messaging.Options{Dir: dir})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	acknowledged := make(chan string, 1000)
	for d := range 20 {
		go func() {
			for n := 0; ; n++ {
				msg := message("plant", fmt.Sprint(name, "-", d), n)
				m.Append(context.Background(), msg, func(err error) {
					if err == nil {
						acknowledged <- string(msg.Body)
					}
				})
			}
		}()
	}
	for body := range acknowledged {
		fmt.Println(body)
	}
}

// kill -9 in the middle of a load, again and again: whatever was acknowledged
// is there, once at least.
func TestKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	acknowledged := map[string]bool{}
	const rounds = 6
	for round := range rounds {
		cmd, out := child(t, "load", dir, fmt.Sprint("round", round))
		fuse := time.Duration(-1)
		for {
			line, err := out.ReadString('\n')
			if err != nil { // a line without its end was not told
				break
			}
			if strings.HasPrefix(line, "error:") {
				t.Fatalf("round %d: %s", round, line)
			}
			acknowledged[strings.TrimSuffix(line, "\n")] = true
			if fuse < 0 {
				fuse = time.Duration(rand.IntN(200)) * time.Millisecond
				time.AfterFunc(fuse, func() { cmd.Process.Kill() })
			}
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	m := open(t, messaging.Options{Dir: dir, Logger: quiet(t)})
	total, stored := len(acknowledged), 0
	if err := m.Read(t.Context(), "plant", hub.Start{}, false, func(_ signet.Position, msg *signet.Message) bool {
		stored++
		delete(acknowledged, string(msg.Body))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d acknowledged over %d kills, %d stored", total, rounds, stored)
	if len(acknowledged) > 0 {
		t.Errorf("%d acknowledged messages are lost", len(acknowledged))
	}
	if total < rounds {
		t.Errorf("only %d messages were acknowledged", total)
	}
}

// starved tells the story of a disk that fills up: a file may not grow beyond a
// limit, which is then lifted.
func starved(dir string) {
	limit := func(bytes uint64) {
		var is syscall.Rlimit
		syscall.Getrlimit(syscall.RLIMIT_FSIZE, &is)
		is.Cur = min(bytes, is.Max)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &is); err != nil {
			fmt.Println("error:", err)
		}
	}
	signal.Ignore(syscall.SIGXFSZ) // so that a write fails, as on a full disk
	m, err := messaging.Open(context.Background(), messaging.Options{Dir: dir})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	n := 0
	put := func() error {
		msg := message("plant", "press", n)
		msg.Body = append(msg.Body, make([]byte, 100<<10)...)
		done := make(chan error)
		m.Append(context.Background(), msg, func(err error) { done <- err })
		err := <-done
		if err == nil {
			fmt.Println("stored", n)
		}
		n++
		return err
	}
	count := func() (n int) {
		if err := m.Read(context.Background(), "plant", hub.Start{}, false, func(signet.Position, *signet.Message) bool { n++; return true }); err != nil {
			fmt.Println("error: reading:", err)
		}
		return n
	}
	limit(1 << 20)
	for err = nil; err == nil; {
		err = put()
	}
	fmt.Println("refused:", signet.CodeOf(err))
	begin := time.Now()
	for range 100 {
		if err := put(); err == nil {
			fmt.Println("error: stored although there is no room")
		}
	}
	if d := time.Since(begin); d > 30*time.Second { // each by itself would wait a second or more
		fmt.Println("error: a log that is known to be full was waited for:", d)
	}
	fmt.Println("read", count())
	limit(1 << 62)
	for put() != nil {
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("recovered")
	for range 20 {
		if err := put(); err != nil {
			fmt.Println("error: after recovery:", err)
		}
	}
	fmt.Println("read", count())
	if err := m.Close(); err != nil {
		fmt.Println("error:", err)
	}
	fmt.Println("closed")
}

// A disk that is full fails what comes, lets read what is there, and is used
// again by itself when there is room.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, out := child(t, "starved", dir)
	text, err := io.ReadAll(out)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]bool{}
	var story []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if n, ok := strings.CutPrefix(line, "stored "); ok {
			stored[n] = true
			continue
		}
		if strings.HasPrefix(line, "error:") {
			t.Error(line)
		}
		story = append(story, line)
	}
	if len(story) != 5 || story[0] != "refused: internal.unavailable" || story[2] != "recovered" || story[4] != "closed" {
		t.Fatalf("the story is %q", story)
	}
	var full, after int
	fmt.Sscanf(story[1], "read %d", &full)
	fmt.Sscanf(story[3], "read %d", &after)
	if full < 5 || full > 11 || after < full+21 {
		t.Errorf("%d messages while full, %d after", full, after)
	}
	m := open(t, messaging.Options{Dir: dir, Logger: quiet(t)})
	for _, r := range backlog(t, m, "plant", hub.Start{}) {
		delete(stored, r.msg.Properties[0].Value)
	}
	if len(stored) > 0 {
		t.Errorf("acknowledged and lost: %v", stored)
	}
	if _, err := os.Stat(filepath.Join(dir, "probe")); err == nil {
		t.Error("the probe is still there")
	}
}
