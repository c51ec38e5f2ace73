package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
)

// openWriter gives a store whose writer stands still, in a transaction of its own,
// until release.
func openWriter(t *testing.T) (s *Store, e *sqliteEngine, release func()) {
	t.Helper()
	s, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "signet.db"), Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CreateHub(t.Context(), signet.Hub{Name: "east", HostName: "east"}); err != nil {
		t.Fatal(err)
	}
	e = s.engine.(*sqliteEngine)
	return s, e, occupy(e)
}

// occupy has the writer at work until release.
func occupy(e *sqliteEngine) (release func()) {
	entered, leave := make(chan struct{}), make(chan struct{})
	go e.write(context.Background(), func(context.Context, queryer) error {
		close(entered)
		<-leave
		return nil
	})
	<-entered
	return func() { close(leave) }
}

// until waits for what other goroutines are about to do.
func until(t *testing.T, there func() bool) {
	t.Helper()
	for !there() {
		if t.Context().Err() != nil {
			t.Fatal("never")
		}
		runtime.Gosched()
	}
}

func TestGivingUp(t *testing.T) {
	s, e, release := openWriter(t)
	defer s.Close()

	// In the queue: nothing has happened, and nothing will.
	ctx, cancel := context.WithCancel(t.Context())
	queued := make(chan error, 1)
	go func() { queued <- s.CreateIdentity(ctx, signet.Identity{Hub: "east", DeviceID: "queued"}) }()
	until(t, func() bool { return len(e.queue) == 1 })
	cancel()
	if err := <-queued; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "not made") {
		t.Errorf("in the queue: %v", err)
	}
	release()

	// Under way: it is waited for.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	leave := make(chan struct{})
	underWay := make(chan error, 1)
	go func() {
		underWay <- e.write(ctx, func(context.Context, queryer) error {
			cancel()
			<-leave
			return nil
		})
	}()
	<-ctx.Done()
	select {
	case err := <-underWay:
		t.Errorf("under way: left with %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	if err := <-underWay; err != nil {
		t.Errorf("under way: %v", err)
	}

	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Identity(t.Context(), "east", "queued", ""); !errors.Is(err, signet.ErrNotFound) {
		t.Errorf("the change that was given up: %v", err)
	}
}

// Who has made a device anew is told so before who has deleted it, where both were
// written at once; and is not given the one of before.
func TestMadeAnewInOneBatch(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // who is told last goes first
	s, e, release := openWriter(t)
	release()
	defer s.Close()
	if err := s.CreateIdentity(t.Context(), signet.Identity{Hub: "east", DeviceID: "d", GenerationID: "1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Identity(t.Context(), "east", "d", ""); err != nil {
		t.Fatal(err)
	}
	release = occupy(e)
	answers := make(chan error, 2)
	go func() { answers <- s.DeleteIdentity(t.Context(), "east", "d", "", "*") }()
	until(t, func() bool { return len(e.queue) == 1 })
	go func() {
		err := s.CreateIdentity(t.Context(), signet.Identity{Hub: "east", DeviceID: "d", GenerationID: "2"})
		i, failed := s.Identity(t.Context(), "east", "d", "")
		if i.GenerationID != "2" {
			t.Errorf("the device is of generation %q", i.GenerationID)
		}
		answers <- errors.Join(err, failed)
	}()
	until(t, func() bool { return len(e.queue) == 2 })
	release()
	if err := errors.Join(<-answers, <-answers); err != nil {
		t.Fatal(err)
	}
}

func TestQueueIsBounded(t *testing.T) {
	s, e, release := openWriter(t)
	defer s.Close()
	answers := make(chan error, maxWaiting)
	for range maxWaiting {
		go func() { answers <- s.Ping(t.Context()) }()
	}
	until(t, func() bool { return len(e.queue) == maxWaiting })
	ctx, cancel := context.WithCancel(t.Context())
	refused := make(chan error, 1)
	go func() { refused <- e.write(ctx, func(context.Context, queryer) error { panic("made") }) }()
	cancel()
	if err := <-refused; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "not made") {
		t.Errorf("beyond the bound: %v", err)
	}
	release()
	for range maxWaiting {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
}

// When SQLite gives up a transaction half way, nobody in it is told of success,
// nothing of it is there, and the next one succeeds.
func TestTransactionGivenUp(t *testing.T) {
	for name, fault := range map[string]change{
		"rolled back by a change": func(ctx context.Context, q queryer) error {
			_, err := q.ExecContext(ctx, "ROLLBACK")
			return errors.Join(err, errors.New("fault"))
		},
		"rolled back by a change that claims success": func(ctx context.Context, q queryer) error {
			_, err := q.ExecContext(ctx, "ROLLBACK")
			return err
		},
		"left open": func(ctx context.Context, q queryer) error {
			_, err := q.ExecContext(ctx, "RELEASE change")
			return errors.Join(err, errors.New("fault"))
		},
		"no page left": func(ctx context.Context, q queryer) error {
			for _, s := range []string{"PRAGMA max_page_count = 1", "CREATE TABLE filler (x BLOB)"} {
				if err := each(ctx, q, func(*sql.Rows) error { return nil }, s); err != nil {
					return err
				}
			}
			_, err := q.ExecContext(ctx, "INSERT INTO filler VALUES (zeroblob(10000000))")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, e, release := openWriter(t)
			defer s.Close()
			create := func(id string) <-chan error {
				n, answer := len(e.queue), make(chan error, 1)
				go func() { answer <- s.CreateIdentity(t.Context(), signet.Identity{Hub: "east", DeviceID: id}) }()
				until(t, func() bool { return len(e.queue) > n })
				return answer
			}
			answers := map[string]<-chan error{"before": create("before")}
			failed := make(chan error, 1)
			go func() { failed <- e.write(t.Context(), fault) }()
			until(t, func() bool { return len(e.queue) == 2 })
			answers["after"] = create("after")
			release()
			if err := <-failed; err == nil {
				t.Error("the fault was told as success")
			}
			for id, answer := range answers {
				told := <-answer
				_, there := s.Identity(t.Context(), "east", id, "")
				if (told == nil) != (there == nil) {
					t.Errorf("%s: told %v, there %v", id, told, there)
				}
			}
			if err := s.CreateIdentity(t.Context(), signet.Identity{Hub: "east", DeviceID: "next"}); err != nil {
				t.Errorf("the next change: %v", err)
			}
		})
	}
}

// A reader that could write would pass by the writer.
func TestReadersOnlyRead(t *testing.T) {
	s, e, release := openWriter(t)
	release()
	defer s.Close()
	if _, err := e.readers.Exec("DELETE FROM hub"); err == nil {
		t.Error("a reader has written")
	}
}

// The -wal file stays within its bound although somebody always reads in it; and grows,
// rather than stop the writer, while one reads for long.
func TestLogIsBounded(t *testing.T) {
	const bound, piece = 8 << 20, 256 << 10
	s, e, release := openWriter(t)
	release()
	defer s.Close()
	if err := e.write(t.Context(), func(ctx context.Context, q queryer) error {
		e.bound, e.full = bound, bound // by the writer, whose they are
		_, err := q.ExecContext(ctx, "CREATE TABLE filler (x BLOB)")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	fill := func(to int64) (most int64) {
		t.Helper()
		for written := int64(0); written < to; written += piece {
			if err := e.write(t.Context(), func(ctx context.Context, q queryer) error {
				_, err := q.ExecContext(ctx, fmt.Sprintf("REPLACE INTO filler (rowid, x) VALUES (1, zeroblob(%d))", piece))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			file, err := os.Stat(e.wal)
			if err != nil {
				t.Fatal(err)
			}
			most = max(most, file.Size())
		}
		return most
	}
	read := func(over <-chan struct{}) {
		if err := e.view(context.Background(), func(ctx context.Context, q queryer) error {
			err := each(ctx, q, func(*sql.Rows) error { return nil }, "SELECT name FROM hub")
			<-over
			return err
		}); err != nil {
			t.Error(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	chain := make(chan struct{}) // each reads until the next does
	readers.Go(func() {
		for last := chain; ; {
			next := make(chan struct{})
			readers.Go(func() { read(next) })
			time.Sleep(5 * time.Millisecond)
			close(last)
			if last = next; ctx.Err() != nil {
				close(last)
				return
			}
		}
	})
	if most := fill(2 * bound); most > bound+bound/2 {
		t.Errorf("a -wal file of %d MiB", most>>20)
	}
	stop()
	readers.Wait()

	over := make(chan struct{})
	readers.Go(func() { read(over) })
	begun := time.Now()
	fill(bound + bound/4)
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("with a reader in its way the writer took %v", took)
	}
	close(over)
	readers.Wait()
}

// TestSync: a transaction ends with a sync when anybody waits for one of its changes,
// and not when all of them are written behind; also after the connection was lost.
func TestSync(t *testing.T) {
	const normal, full = 1, 2 // of PRAGMA synchronous
	s, e, release := openWriter(t)
	defer s.Close()
	level := func(to *int) change {
		return func(ctx context.Context, q queryer) error {
			return each(ctx, q, func(rows *sql.Rows) error { return rows.Scan(to) }, "PRAGMA synchronous")
		}
	}
	var behind, waited, together [2]int
	var all sync.WaitGroup
	for n := range together { // in one batch, as the writer stands still
		write := []func(context.Context, change) error{e.writeBehind, e.write}[n]
		all.Go(func() {
			if err := write(context.Background(), level(&together[n])); err != nil {
				t.Error(err)
			}
		})
	}
	until(t, func() bool { return len(e.queue) == 2 })
	release()
	all.Wait()
	lost := errors.New("lost")
	for n := range behind {
		if err := errors.Join(e.writeBehind(t.Context(), level(&behind[n])), e.write(t.Context(), level(&waited[n]))); err != nil {
			t.Fatal(err)
		}
		e.writeBehind(t.Context(), func(ctx context.Context, q queryer) error {
			_, err := q.ExecContext(ctx, "ROLLBACK") // and so the writer's COMMIT fails
			return errors.Join(err, lost)
		})
	}
	if together != [2]int{full, full} || behind != [2]int{normal, normal} || waited != [2]int{full, full} {
		t.Errorf("together %v, behind %v, waited for %v", together, behind, waited)
	}
}
