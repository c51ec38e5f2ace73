package store_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/store"
)

// TestMain stops the PostgreSQL that the tests have started.
func TestMain(m *testing.M) {
	if helper := os.Getenv("SIGNET_STORE_HELPER"); helper != "" {
		helpers[helper]()
		return
	}
	code := m.Run()
	if stopPostgres != nil {
		stopPostgres()
	}
	os.Exit(code)
}

var (
	stopPostgres  func()
	startedServer = sync.OnceValues(func() (string, error) {
		server, stop, err := startPostgres()
		stopPostgres = stop
		return server, err
	})
	databases atomic.Int64
)

// postgresURL gives the URL of a new, empty database, at the server of
// SIGNET_TEST_POSTGRES or else one made from the binaries on this machine.
func postgresURL(t testing.TB) string {
	t.Helper()
	server := os.Getenv("SIGNET_TEST_POSTGRES")
	if server == "" {
		if postgresBinary("initdb") == "" {
			t.Skip("no PostgreSQL: install the package postgresql, or set SIGNET_TEST_POSTGRES to the URL of a server")
		}
		var err error
		if server, err = startedServer(); err != nil {
			t.Fatalf("start PostgreSQL: %v", err)
		}
	}
	admin, err := sql.Open("pgx", server)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	name := fmt.Sprintf("signet_test_%d_%d", os.Getpid(), databases.Add(1))
	// An order other than that of bytes, as databases of the field have it.
	_, err = admin.Exec(`CREATE DATABASE ` + name + ` TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C'`)
	if err != nil {
		if _, err = admin.Exec(`CREATE DATABASE ` + name); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		admin, err := sql.Open("pgx", server)
		if err != nil {
			return
		}
		defer admin.Close()
		if _, err := admin.Exec(`DROP DATABASE ` + name + ` WITH (FORCE)`); err != nil {
			t.Errorf("drop the database of the test: %v", err)
		}
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func postgresBinary(name string) string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) > 0 {
		return found[len(found)-1]
	}
	path, _ := exec.LookPath(name)
	return path
}

// startPostgres makes a server in a temporary folder, reached by a Unix socket
// there. It ends with this process, however that ends.
func startPostgres() (server string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "signet-pg")
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() == 0 { // PostgreSQL does not run as root
		account, err := user.Lookup("postgres")
		if err != nil {
			if account, err = user.Lookup("nobody"); err != nil {
				return "", nil, err
			}
		}
		uid, _ := strconv.Atoi(account.Uid)
		gid, _ := strconv.Atoi(account.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return "", nil, err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(postgresBinary("initdb"), "-D", data, "-U", "signet", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, attr
	if out, err := initdb.CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}

	arguments := []string{"-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "lc_messages=C", "-c", "deadlock_timeout=50ms", "-F"}
	if os.Getenv("SIGNET_FLEET_DEVICES") != "" {
		arguments = append(arguments, "-c", "shared_buffers=4GB") // what docs/operating.md says for a million devices
	}
	postgres := exec.Command(postgresBinary("postgres"), arguments...)
	postgres.Dir, postgres.SysProcAttr = dir, attr
	stderr, err := postgres.StderrPipe()
	if err != nil {
		return "", nil, err
	}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		// Pdeathsig follows the thread that started the process.
		runtime.LockOSThread()
		defer close(ended)
		if err := postgres.Start(); err != nil {
			started <- err
			return
		}
		ready, said := false, ""
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if said += lines.Text() + "\n"; !ready && strings.Contains(lines.Text(), "ready to accept connections") {
				ready = true
				started <- nil
			}
			said = said[max(0, len(said)-4096):]
		}
		if err := postgres.Wait(); !ready {
			started <- fmt.Errorf("postgres: %w\n%s", err, said)
		}
	}()
	if err := <-started; err != nil {
		return "", nil, err
	}
	return "postgres://signet@/postgres?host=" + url.QueryEscape(dir), func() {
		_ = postgres.Process.Signal(syscall.SIGQUIT)
		<-ended
		_ = os.RemoveAll(dir)
	}, nil
}

var background = context.Background()

func openSQL(t testing.TB, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	ok(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

// deaf stands before a server and, once it is armed, keeps the answer to the next that
// says a word, and all behind it, to itself. It then closes the connection, or is silent.
type deaf struct {
	armed, silent atomic.Bool
	word, url     string
}

func newDeaf(t *testing.T, server, word string) *deaf {
	t.Helper()
	u, err := url.Parse(server)
	ok(t, err)
	const socket = ".s.PGSQL.5432"
	there := filepath.Join(u.Query().Get("host"), socket)
	if _, err := os.Stat(there); err != nil {
		t.Skip("the server is not reached by a socket of a file")
	}
	dir, err := os.MkdirTemp("", "signet-deaf") // shorter than t.TempDir, as a socket's name must be
	ok(t, err)
	l, err := net.Listen("unix", filepath.Join(dir, socket))
	ok(t, err)
	over := make(chan struct{})
	t.Cleanup(func() { close(over); l.Close(); os.RemoveAll(dir) })
	d := &deaf{word: word}
	u.RawQuery = "host=" + url.QueryEscape(dir)
	d.url = u.String()
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", there)
			if err != nil {
				client.Close()
				return
			}
			var keeps atomic.Bool
			go func() {
				pump(server, client, func(said []byte) bool {
					if bytes.Contains(said, []byte(d.word)) && d.armed.CompareAndSwap(true, false) {
						keeps.Store(true)
					}
					return true
				})
				server.Close()
			}()
			go func() {
				pump(client, server, func([]byte) bool {
					if keeps.Load() && d.silent.Load() {
						<-over
					}
					return !keeps.Load()
				})
				client.Close()
			}()
		}
	}()
	return d
}

// pump copies for as long as pass lets it.
func pump(to io.Writer, from io.Reader, pass func([]byte) bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil || !pass(buffer[:n]) {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// A change whose COMMIT was not answered may have been made, and its caller is told so:
// not that it was not.
func TestConnectionLostAtCommit(t *testing.T) {
	d := newDeaf(t, postgresURL(t), "commit")
	s := kinds[1].mustOpen(t, d.url)
	ok(t, s.CreateHub(t.Context(), hub("east")))
	d.armed.Store(true)
	err := s.CreateIdentity(t.Context(), device("east", "d"))
	if signet.CodeOf(err) != signet.Unavailable || !strings.Contains(signet.AsError(err).Message, "not known") {
		t.Errorf("told %v", err)
	}
	_, err = s.Identity(t.Context(), "east", "d", "") // as it happens
	ok(t, err)
	ok(t, s.CreateIdentity(t.Context(), device("east", "next")))
}

// What is read in the background ends, too, when the server is there and says nothing: one
// statement, several of one view, and where the connection is not made.
func TestReadsOfASilentServer(t *testing.T) {
	for word, read := range map[string]func(s *store.Store) error{
		"FROM event": func(s *store.Store) error { _, err := s.Events(background, "east", 1); return err },
		"FROM hub":   func(s *store.Store) error { _, err := s.Hubs(background); return err },
		"begin":      func(s *store.Store) error { _, err := s.Hubs(background); return err },
	} {
		t.Run(word, func(t *testing.T) {
			d := newDeaf(t, postgresURL(t), word)
			s := kinds[1].mustOpen(t, d.url)
			ok(t, s.CreateHub(t.Context(), hub("east")))
			store.SetReadPatience(s, 100*time.Millisecond)
			d.silent.Store(true)
			d.armed.Store(true)
			ended := make(chan error, 1)
			go func() { ended <- read(s) }()
			select {
			case err := <-ended:
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("it ends with %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it waits")
			}
			store.SetReadPatience(s, time.Minute)
			ok(t, read(s))
		})
	}
}
