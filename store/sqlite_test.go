package store_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/store"
)

// helpers are what this binary does instead of tests when a test starts it with
// SIGNET_STORE_HELPER, in the folder SIGNET_STORE_DIR.
var helpers = map[string]func(){"create": createUntilKilled, "full": fillTheDisk, "lock": holdTheLock, "devices": connectDevices}

func helper(t *testing.T, name, dir string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0])
	c.Env = append(os.Environ(), "SIGNET_STORE_HELPER="+name, "SIGNET_STORE_DIR="+dir)
	c.Stderr = os.Stderr
	return c
}

func helperStore() *store.Store {
	s, err := store.OpenSQLite(background, filepath.Join(os.Getenv("SIGNET_STORE_DIR"), "signet.db"), quiet)
	check(err)
	return s
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func sqliteURL(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }

// A thousand that create at the same time share the fsyncs: counted, not timed.
func TestGroupCommit(t *testing.T) {
	var transactions, changes atomic.Int64
	o := quiet
	o.Committed = func(n int) { transactions.Add(1); changes.Add(int64(n)) }
	s, err := store.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "signet.db"), o)
	ok(t, err)
	defer s.Close()
	ok(t, s.CreateHub(t.Context(), hub("east")))
	ok(t, s.CreateIdentity(t.Context(), device("east", "d500")))
	transactions.Store(0)
	changes.Store(0)
	for n, err := range together(1000, func(n int) error { return s.CreateIdentity(t.Context(), device("east", fmt.Sprintf("d%03d", n))) }) {
		if n == 500 { // this one fails, those around it do not
			fails(t, err, signet.ErrExists)
		} else {
			ok(t, err)
		}
	}
	total, _, err := s.CountDevices(t.Context(), "east")
	ok(t, err)
	same(t, total, int64(1000))
	same(t, changes.Load(), int64(1000))
	if n := transactions.Load(); n > 250 {
		t.Errorf("1000 changes took %d transactions", n)
	} else {
		t.Logf("1000 changes took %d transactions", n)
	}
}

// What was acknowledged is there after kill -9, whatever the moment.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[string]bool{}
	for round := range 5 {
		c := helper(t, "create", dir)
		out, err := c.StdoutPipe()
		ok(t, err)
		ok(t, c.Start())
		lines := bufio.NewReader(out)
		for n := 0; ; n++ {
			line, err := lines.ReadString('\n')
			if err != nil {
				break // the pipe is empty and its writer dead
			}
			acknowledged[strings.TrimSpace(line)] = true
			if n == 20+67*round { // while others are on their way
				ok(t, c.Process.Kill())
			}
		}
		_ = c.Wait()

		s, err := store.OpenSQLite(t.Context(), filepath.Join(dir, "signet.db"), quiet)
		ok(t, err)
		for id := range acknowledged {
			if _, err := s.Identity(t.Context(), "east", id, ""); err != nil {
				t.Fatalf("round %d: %s was acknowledged: %v", round, id, err)
			}
		}
		ok(t, s.Close())
	}
	if len(acknowledged) < 100 {
		t.Errorf("only %d were acknowledged", len(acknowledged))
	}
}

func createUntilKilled() {
	s := helperStore()
	if err := s.CreateHub(background, hub("east")); !errors.Is(err, signet.ErrExists) {
		check(err)
	}
	acknowledged := make(chan string)
	for worker := range 8 {
		go func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("d-%d-%d-%d", os.Getpid(), worker, n)
				check(s.CreateIdentity(background, device("east", id)))
				acknowledged <- id
			}
		}()
	}
	for id := range acknowledged {
		fmt.Println(id)
	}
}

// A disk that is full is an error, loses nothing that was acknowledged, and is
// over when there is room again. RLIMIT_FSIZE stands in for the disk.
func TestFullDisk(t *testing.T) {
	out, err := helper(t, "full", t.TempDir()).Output()
	ok(t, err)
	t.Logf("%s", out)
}

func fillTheDisk() {
	signal.Ignore(syscall.SIGXFSZ)
	s := helperStore()
	check(s.CreateHub(background, hub("east")))
	limit := syscall.Rlimit{}
	check(syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
	room := func(bytes uint64) {
		limit.Cur = min(bytes, limit.Max)
		check(syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	}
	var acknowledged []string
	create := func(round, n int) (failed int) {
		ids := make([]string, n)
		for i, err := range together(n, func(i int) error {
			ids[i] = fmt.Sprintf("d-%d-%d", round, i)
			return s.CreateIdentity(background, device("east", ids[i]))
		}) {
			if err != nil {
				failed++
			} else {
				acknowledged = append(acknowledged, ids[i])
			}
		}
		return failed
	}
	for round := range 3 {
		room(256 << 10)
		failed := 0
		for n := 0; failed == 0; n++ {
			if n == 1000 {
				check(errors.New("the disk is never full"))
			}
			failed = create(1000*round+n, 50)
		}
		for _, id := range acknowledged {
			_, err := s.Identity(background, "east", id, "")
			check(err)
		}
		room(limit.Max)
		if failed := create(1000*round+999, 50); failed != 0 {
			check(fmt.Errorf("%d of 50 failed with room on the disk", failed))
		}
	}
	check(s.Close())
	s = helperStore()
	for _, id := range acknowledged {
		_, err := s.Identity(background, "east", id, "")
		check(err)
	}
	fmt.Println(len(acknowledged), "acknowledged and there")
	check(s.Close())
}

func TestLockFolder(t *testing.T) {
	dir := t.TempDir()
	c := helper(t, "lock", dir)
	in, err := c.StdinPipe()
	ok(t, err)
	out, err := c.StdoutPipe()
	ok(t, err)
	ok(t, c.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	ok(t, err)

	_, err = store.LockFolder(dir)
	same(t, signet.CodeOf(err), signet.Unavailable)
	if want := fmt.Sprintf("The data folder %s is in use by process %d.", dir, c.Process.Pid); signet.AsError(err).Message != want {
		t.Errorf("got %q, want %q", signet.AsError(err).Message, want)
	}

	ok(t, in.Close())
	ok(t, c.Wait())
	release, err := store.LockFolder(dir)
	ok(t, err)
	_, err = store.LockFolder(dir)
	same(t, signet.CodeOf(err), signet.Unavailable)
	release()
	release, err = store.LockFolder(dir)
	ok(t, err)
	release()
	_, err = store.LockFolder(filepath.Join(dir, "none"))
	fails(t, err, os.ErrNotExist)
}

func holdTheLock() {
	_, err := store.LockFolder(os.Getenv("SIGNET_STORE_DIR"))
	check(err)
	fmt.Println("locked")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the test closes it
}

// Keys of devices are in these files.
func TestFilesAreTheirOwners(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := t.TempDir()
	s, err := store.OpenSQLite(t.Context(), filepath.Join(dir, "signet.db"), quiet)
	ok(t, err)
	defer s.Close()
	ok(t, s.CreateHub(t.Context(), hub("east")))
	files, err := os.ReadDir(dir)
	ok(t, err)
	for _, f := range files {
		info, err := f.Info()
		ok(t, err)
		same(t, fmt.Sprint(f.Name(), " ", info.Mode()), fmt.Sprint(f.Name(), " -rw-------"))
	}
	same(t, len(files), 3) // -wal and -shm too

	ok(t, s.Close())
	files, err = os.ReadDir(dir)
	ok(t, err)
	same(t, len(files), 1) // what was in -wal is in the database
}

func TestOpenRefusesWhatIsNoDatabase(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "signet.db")
	ok(t, os.WriteFile(file, []byte(strings.Repeat("This is not a database. ", 1000)), 0o600))
	for _, path := range []string{file, dir, filepath.Join(dir, "none", "signet.db")} {
		if _, err := store.OpenSQLite(t.Context(), path, quiet); err == nil {
			t.Errorf("%s was opened", path)
		}
	}
}

// A schema file that has been released is never changed: databases have been
// made with it. Add the next one, and its sum here.
func TestSchemaIsFrozen(t *testing.T) {
	frozen := []string{
		"978f8434e99b661a77fbd03e84167d0ee5d754c0eeef46180df8e22e60784a21",
		"6b92bb7e384b72ac5b1b75a3767470e92fc9347155f1a7b97149b03c7124ad3d",
		"c702152e902374c7a98d32b19f21df42df1128d434fb29f979f092d0ce047e6d",
		"82a9c571cf4b84a19d7d745d10fe5641bf00fb5d41422035c4c4a0941b3f1e4f",
		"9123448e80f5d3a466ae20c09609e0c34b5577c1485ff155c82d4c82e220abed",
		"b64cb1299214f34bf2b77e31b2b4b0a84038a5461d577681d92d6e1245cd6b15",
		"d3f732c648e4d89f501c651ba447d341e93369e6b5a3cc280de0b6fa8c0192c1",
		"92abd39cf2f1f0a81777f4764bab40f2c543e49a12d09d1793eeb684edb686a8",
		"3968e55a5fc0e5fc8313b589376ab36c8cf5368da4dafc259afa3e345b3b6241",
		"21e282dbc9c7bf8ea060152b7d86a56654e3272117715b91d343a5b15430949b",
		"8aaa0b7a024d1fe7b065e314ca13f5b16acd89a6f80aaaaf6424a35cdf833a8b",
		"971b537f11ff6f522e17d6f12732dc190fd8dfce046a7aa8143ca728cb133f4f",
		"3b99613a9fb962fc5b64b14da9f22f6d6e284faa0a828a069f4cf56bd8978a07",
		"0b480c4e851627c46668535b50c0cc3be42564856afaf9d0df294321290c62e1",
		"abbf536868e896d25ee8c1da77780156aca2221d8b4fd86e993b650ced54b49b",
		"38efdec63add2005a4356f4707e3c5b27828105b4e8dc9635efe34d7227cd0ab",
		"54303614c47faaef8e6c5ecfa5bbf5e6f5d2c73ca0b82a831b90588957630ab8",
		"56c88e6fb89598b409bf3fb67efb33193e937da9b8061a8c79b31ff056ac9630",
		"435b8f4c7dc5956d06016af5beffe62ae9921cf7a7ecd0f8d61dc931cac64545",
	}
	for n, want := range frozen {
		text, err := os.ReadFile(fmt.Sprintf("schema/%d.sql", n+1))
		ok(t, err)
		sum := sha256.Sum256(text)
		same(t, hex.EncodeToString(sum[:]), want)
	}
	files, err := os.ReadDir("schema")
	ok(t, err)
	same(t, len(files), len(frozen))
}

// A process that looks at the file for a while, as a backup does, delays a change
// and does not fail it.
func TestVisitor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signet.db")
	s, err := store.OpenSQLite(t.Context(), path, quiet)
	ok(t, err)
	defer s.Close()
	visitor := openSQL(t, "sqlite", sqliteURL(path))
	conn, err := visitor.Conn(t.Context())
	ok(t, err)
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	ok(t, err)
	time.AfterFunc(50*time.Millisecond, func() { _, _ = conn.ExecContext(background, "COMMIT") })
	ok(t, s.CreateHub(t.Context(), hub("east")))
}

func TestNameless(t *testing.T) {
	for query, want := range map[string]string{
		"SELECT 1": "SELECT 1",
		"INSERT INTO t VALUES ($1, CAST($2 AS TEXT)), ($3, $4)": "INSERT INTO t VALUES (?, CAST(? AS TEXT)), (?, ?)",
		"SELECT $1 WHERE a = $1":                                "SELECT $1 WHERE a = $1",
		"SELECT $2, $1":                                         "SELECT $2, $1",
		"SELECT a WHERE b = $2":                                 "SELECT a WHERE b = $2",
	} {
		if got := store.Nameless(query); got != want {
			t.Errorf("%q is %q", query, got)
		}
	}
}
