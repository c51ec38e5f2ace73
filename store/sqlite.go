package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/signet-iot/signet"
)

const (
	// maxWaiting bounds the changes that wait for the writer, and so one
	// transaction: more than this and callers wait to be queued. An HTTP request
	// holds at most one change, so it is rarely met.
	maxWaiting = 1024
	// busyTimeout is for others that look at the file, such as a backup, in ms.
	busyTimeout = 5000
	// maxReaders bounds the readers at a time, each with a connection and its page
	// cache. Reads are short and need a core.
	maxReaders = 8
	// readerCache holds the inner pages of a million identities, 365 of 4 KiB, beside
	// what is being read, so that finding one reads its own page only.
	readerCache = "&_pragma=cache_size(-4096)"
	// scanCache does the same for a million twins. Rows stand on inner pages too, so
	// that there are 11,400 of these, 45 MiB; a hub of 10,000 fills 9 MiB in all.
	scanCache = "&_pragma=cache_size(-65536)"
	// movePages is how many pages of the -wal file wait to be moved into the database,
	// each read from there until it is: what SQLite has by default.
	movePages = 1000
	// maxWAL is how large the -wal file grows before the writer waits for who reads in it,
	// for walPatience, to empty it. SQLite begins it anew only when nobody does, and among
	// many somebody always does. A query's slice takes 50 ms; who takes longer, such as a
	// backup, is waited for again when it is twice as large.
	maxWAL      = 64 << 20
	walPatience = 500 // ms
	// maxBehind is how many transactions in a row are not synced, and so keep what they
	// have written out of the database: some 6 MiB.
	maxBehind = 16
)

var sqliteWords = strings.NewReplacer("{text}", "TEXT", "{bytes}", "BLOB", "{integer}", "INTEGER", "{table}", "STRICT, WITHOUT ROWID")

// sqliteEngine is a SQLite file with one writer and several readers.
type sqliteEngine struct {
	log       *slog.Logger
	committed func(changes int)
	failed    func(error)

	readers *sql.DB
	read    *statements
	scans   *sql.DB // of queries: as many connections as there are places for slices

	queue   chan *waiting
	closing chan struct{} // closed: nothing more is queued
	drained chan struct{} // closed: the writer has ended
	once    sync.Once
	closed  error // of closing; read after once

	// The writer's own.
	writers *sql.DB   // at most one connection
	conn    *sql.Conn // nil: open one for the next transaction
	stmts   *statements
	lax     bool   // conn does not sync
	behind  int    // transactions that were not synced since one was
	wal     string // the -wal file
	bound   int64  // maxWAL
	full    int64  // how large it is emptied at: bound, or more while it is read for long
	doubt   bool   // a sync has failed: what of it is on disk is not known
	unmoved int    // pages in the -wal file that are not in the database
	partly  bool   // pages were moved into the database, and that was not synced yet
	lost    error  // they may not be there, and this process cannot move them again
}

// waiting is a change in the queue.
type waiting struct {
	change change
	behind bool        // need not be synced
	taken  atomic.Bool // by the writer, or by a caller who has given up
	done   chan error  // has room for the outcome
}

// OpenSQLite opens the database in the file at path, and makes it when it is not
// there, readable to its owner only. One process at a time may have it open: see
// [LockFolder]. A schema newer than this binary is refused with
// [signet.Unavailable].
func OpenSQLite(ctx context.Context, path string, o Options) (*Store, error) {
	o = o.withDefaults()
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// The files beside it (-wal, -shm) get the mode of the database.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	// The size of a file reaches the disk with fdatasync; its times need not. This
	// is what SQLite does wherever it is built with its own configure.
	if _, err := sqlite.Fdatasync(true); err != nil && !errors.Is(err, sqlite.ErrFdatasyncUnavailable) {
		return nil, err
	}

	file := (&url.URL{Scheme: "file", Path: path}).String()
	e := &sqliteEngine{
		log: o.Logger, committed: o.Committed, failed: o.Failed, wal: path + "-wal", bound: maxWAL, full: maxWAL,
		queue: make(chan *waiting, maxWaiting), closing: make(chan struct{}), drained: make(chan struct{}),
	}
	// The cache of 32 MiB holds the pages that one transaction of a busy hub changes: those that
	// do not fit are written twice.
	// What is moved into the database is moved by us: SQLite would not tell when it fails.
	if e.writers, err = sql.Open("sqlite", fmt.Sprintf("%s?_pragma=busy_timeout(%d)&_pragma=journal_mode(WAL)&_pragma=wal_autocheckpoint(0)"+
		"&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=journal_size_limit(%d)&_pragma=cache_size(-32768)",
		file, busyTimeout, maxWAL)); err != nil {
		return nil, err
	}
	e.writers.SetMaxOpenConns(1)
	if err := e.prepare(ctx, o.Logger); err != nil {
		return nil, errors.Join(err, e.writers.Close())
	}
	if e.readers, err = sql.Open("sqlite", file+"?mode=ro&_pragma=busy_timeout(5000)"+readerCache); err != nil {
		return nil, errors.Join(err, e.writers.Close())
	}
	e.readers.SetMaxOpenConns(maxReaders)
	e.readers.SetMaxIdleConns(maxReaders)
	e.read = &statements{on: e.readers}
	if e.scans, err = sql.Open("sqlite", file+"?mode=ro&_pragma=busy_timeout(5000)"+scanCache); err != nil {
		return nil, errors.Join(err, e.readers.Close(), e.writers.Close())
	}
	e.scans.SetMaxOpenConns(scanPlaces())
	e.scans.SetMaxIdleConns(scanPlaces())
	go e.run()
	s, err := newStore(ctx, e)
	if err == nil {
		s.known = &known{}
	}
	return s, err
}

// prepare makes the connection of the writer and brings the schema up to date.
func (e *sqliteEngine) prepare(ctx context.Context, log *slog.Logger) (err error) {
	if err := e.connect(ctx); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			e.disconnect()
		}
	}()
	if _, err := e.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := migrate(ctx, e.conn, sqliteWords, log); err != nil {
		return err
	}
	_, err = e.conn.ExecContext(ctx, "COMMIT")
	return err
}

func (e *sqliteEngine) connect(ctx context.Context) (err error) {
	if e.conn == nil {
		if e.conn, err = e.writers.Conn(ctx); err == nil {
			e.stmts, e.lax = &statements{on: e.conn}, false
		}
	}
	return err
}

// disconnect closes the connection of the writer, which rolls back what it was
// about.
func (e *sqliteEngine) disconnect() {
	if e.conn != nil {
		e.stmts.close()
		_ = e.conn.Raw(func(any) error { return driver.ErrBadConn }) // database/sql then closes it
		e.conn = nil
	}
}

func (e *sqliteEngine) reader() queryer { return e.read }
func (e *sqliteEngine) tongue() tongue  { return sqliteTongue }

func (e *sqliteEngine) scan(ctx context.Context, statement string, args []any) (*sql.Rows, error) {
	return e.scans.QueryContext(ctx, statement, args...)
}

func (e *sqliteEngine) view(ctx context.Context, f change) error {
	tx, err := e.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	return errors.Join(f(ctx, tx), tx.Rollback())
}

// shared and exclusive need no words: nobody else writes.
func (e *sqliteEngine) shared() string    { return "" }
func (e *sqliteEngine) exclusive() string { return "" }

// rows is one: of a statement with more SQLite keeps what it changes in a file, to be
// able to take it back alone.
func (e *sqliteEngine) rows() int { return 1 }

func (e *sqliteEngine) by(index string) string { return " INDEXED BY " + index }

func (e *sqliteEngine) write(ctx context.Context, c change) error {
	return e.enqueue(ctx, &waiting{change: c})
}

func (e *sqliteEngine) writeBehind(ctx context.Context, c change) error {
	return e.enqueue(ctx, &waiting{change: c, behind: true})
}

// enqueue waits until the change is made.
func (e *sqliteEngine) enqueue(ctx context.Context, w *waiting) (err error) {
	w.done = make(chan error, 1)
	defer func() { err = unavailable(err) }()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("store: the change was not made: %w", err)
	}
	select {
	case <-e.closing:
		return errClosed
	default:
	}
	select {
	case e.queue <- w:
	case <-e.closing:
		return errClosed
	case <-ctx.Done():
		return fmt.Errorf("store: the change was not made: %w", ctx.Err())
	}
	select {
	case err := <-w.done:
		return err
	case <-e.drained:
		select {
		case err := <-w.done:
			return err
		default: // queued behind the writer's back
			return errClosed
		}
	case <-ctx.Done():
		if w.taken.CompareAndSwap(false, true) {
			return fmt.Errorf("store: the change was not made: %w", ctx.Err())
		}
		// It is being made. A caller that left now would look at what is stored
		// before that is so, and hold to it.
		return <-w.done
	}
}

// run is the writer: it commits what waits, again and again, until nothing waits
// and the store is closing.
func (e *sqliteEngine) run() {
	defer close(e.drained)
	batch := make([]*waiting, 0, maxWaiting)
	for {
		batch = batch[:0]
		select {
		case w := <-e.queue:
			batch = append(batch, w)
		case <-e.closing:
			select {
			case w := <-e.queue:
				batch = append(batch, w)
			default:
				return
			}
		}
		for more := true; more && len(batch) < maxWaiting; {
			select {
			case w := <-e.queue:
				batch = append(batch, w)
			default:
				more = false
			}
		}
		e.commit(batch)
		clear(batch)
	}
}

// commit makes the changes of batch in one transaction, and answers.
func (e *sqliteEngine) commit(batch []*waiting) {
	outcomes, err := e.transact(batch)
	if err != nil {
		lost := unsynced(err)
		e.doubt = e.doubt || lost
		if e.lost == nil { // see close
			e.disconnect()
		}
		e.log.Error("changes could not be written", "changes", len(outcomes), "error", err)
		err = fmt.Errorf("store: write: %w", err)
		if lost { // they stand in the log, and the end of the process now would have them made
			err = fmt.Errorf("%w: %w", errUnknown, err)
		}
	} else {
		e.committed(len(outcomes))
	}
	for _, o := range outcomes {
		if err != nil {
			o.err = err
		}
		o.done <- o.err
	}
	if err == nil && len(outcomes) > 0 {
		e.tidy()
	}
}

type outcome struct {
	*waiting
	err error
}

// transact gives the outcome of each change that its caller still waits for; with
// an error, that of all of them is unknown.
func (e *sqliteEngine) transact(batch []*waiting) ([]outcome, error) {
	outcomes := make([]outcome, 0, len(batch))
	for _, w := range batch {
		if w.taken.CompareAndSwap(false, true) {
			outcomes = append(outcomes, outcome{waiting: w})
		}
	}
	if len(outcomes) == 0 {
		return nil, nil
	}
	// Not the context of a caller: a change that is interrupted would take the
	// others with it.
	ctx := context.Background()
	if e.lost != nil {
		return outcomes, e.lost
	}
	if err := e.connect(ctx); err != nil {
		return outcomes, err
	}
	if e.doubt {
		if err := e.empty(ctx); err != nil {
			return outcomes, fmt.Errorf("after a sync that failed: %w", err)
		}
		e.doubt = false
	}
	if err := e.sync(ctx, e.behind == maxBehind || slices.ContainsFunc(outcomes, func(o outcome) bool { return !o.behind })); err != nil {
		return outcomes, err
	}
	if err := e.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return outcomes, err
	}
	others := false // the transaction has changes of others
	for i := range outcomes {
		o := &outcomes[i]
		// What changes after a savepoint is written to a file of its own first, page by
		// page. The first has nobody to save: it does without.
		if others {
			if err := e.exec(ctx, "SAVEPOINT change"); err != nil {
				return outcomes, err
			}
		}
		if o.err = o.change(ctx, e.stmts); o.err != nil {
			if err := e.undo(ctx, others); err != nil {
				return outcomes, errors.Join(o.err, err)
			}
			if failed, ok := errors.AsType[*sqlite.Error](o.err); ok && failed.Code() == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY {
				o.err = signet.ErrNotFound
			}
			continue
		}
		if others {
			if err := e.exec(ctx, "RELEASE change"); err != nil {
				return outcomes, err
			}
		}
		others = true
	}
	return outcomes, e.exec(ctx, "COMMIT")
}

// sync says whether the next transaction ends with an fdatasync. The log of one that does
// is on disk with all that is before it. After one that does not, nothing is moved into the
// database either: SQLite would sync the log for that.
func (e *sqliteEngine) sync(ctx context.Context, durable bool) error {
	if e.behind++; durable {
		e.behind = 0
	}
	if e.lax == !durable {
		return nil
	}
	pragma := "PRAGMA synchronous = FULL"
	if !durable {
		pragma = "PRAGMA synchronous = NORMAL"
	}
	// Not by a statement that stays prepared: it takes effect when it is prepared.
	_, err := e.conn.ExecContext(ctx, pragma)
	if err == nil {
		e.lax = !durable
	}
	return err
}

// unsynced says whether a sync has failed. The system then takes for written what it could
// not write, and no later sync writes it: in the log, what comes behind such a hole is lost
// with the power, although it was synced itself.
func unsynced(err error) bool {
	failed, ok := errors.AsType[*sqlite.Error](err)
	return ok && (failed.Code() == sqlite3.SQLITE_IOERR_FSYNC || failed.Code() == sqlite3.SQLITE_IOERR_DIR_FSYNC)
}

var errRead = errors.New("the -wal file is being read")

// empty moves all that is in the -wal file into the database, syncs that, and cuts the file
// to nothing. It fails with errRead when somebody reads in it for too long.
func (e *sqliteEngine) empty(ctx context.Context) error {
	if _, err := e.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", walPatience)); err != nil {
		return err
	}
	busy, err := e.move(ctx, "TRUNCATE")
	if err == nil && busy {
		err = errRead
	}
	_, failed := e.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", busyTimeout))
	return errors.Join(err, failed)
}

// move moves what it can of the -wal file into the database. SQLite syncs the database when
// it has moved all, and not when somebody still reads what is before the rest; it counts
// as moved what it has written before. What was written before a sync that fails is moved
// again if it was for that sync. Otherwise the -wal file alone has it, until it is begun
// anew; and nothing but the first look of a process has SQLite move it again.
func (e *sqliteEngine) move(ctx context.Context, mode string) (busy bool, err error) {
	var pages, moved int
	err = e.conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint("+mode+")").Scan(&busy, &pages, &moved)
	switch {
	case err == nil && moved >= 0: // -1 when another process is at it
		e.unmoved, e.partly = pages-moved, 0 < moved && moved < pages
	case unsynced(err) && e.partly && e.lost == nil:
		e.lost = fmt.Errorf("store: the database could not be synced: %v; until the next start, which brings it up to date from its -wal file, it takes no changes", err)
		e.log.Error("the database could not be synced; it takes no changes until the next start", "error", err)
		e.failed(e.lost)
	}
	return busy, err
}

// tidy moves what is in the -wal file into the database when it has become much, and
// empties the file when it has become large.
func (e *sqliteEngine) tidy() {
	ctx := context.Background()
	err := e.conn.Raw(func(conn any) error {
		written, _, err := conn.(sqlite.DBStatus).Status(sqlite.DBStatusCacheWrite, true) // since it was last asked
		e.unmoved += written
		return err
	})
	if err == nil && e.unmoved >= movePages && !e.lax {
		_, err = e.move(ctx, "PASSIVE")
	}
	if err == nil {
		err = e.trim(ctx)
	}
	if err != nil && e.lost == nil {
		e.log.Warn("the database's -wal file could not be moved into it", "error", err)
		e.doubt = unsynced(err)
		e.disconnect()
	}
}

// trim empties the -wal file when it has become large, unless somebody reads in it.
func (e *sqliteEngine) trim(ctx context.Context) error {
	file, err := os.Stat(e.wal)
	if err == nil && file.Size() <= e.bound {
		e.full = e.bound
	}
	if err != nil || file.Size() <= e.full {
		return nil
	}
	if err = e.empty(ctx); err != nil {
		e.full = 2 * file.Size()
	}
	if errors.Is(err, errRead) {
		e.log.Warn("the database's -wal file could not be emptied", "bytes", file.Size(), "error", err)
		return nil
	}
	return err
}

// undo takes back a change that has failed, without those of others. After some
// errors (SQLITE_FULL, SQLITE_IOERR) SQLite may have rolled back all; there is no
// transaction and no savepoint then, and it fails.
func (e *sqliteEngine) undo(ctx context.Context, others bool) error {
	statements := []string{"ROLLBACK", "BEGIN IMMEDIATE"}
	if others {
		statements = []string{"ROLLBACK TO change", "RELEASE change"}
	}
	for _, s := range statements {
		if err := e.exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (e *sqliteEngine) exec(ctx context.Context, query string) error {
	_, err := e.stmts.ExecContext(ctx, query)
	return err
}

func (e *sqliteEngine) close() error {
	e.once.Do(func() {
		close(e.closing)
		<-e.drained
		// The writer's connection last: it moves what is in the -wal file into the
		// database, which the read-only ones cannot. Or first, beside one of these, if
		// that file has to stay.
		e.read.close()
		end := func() error { e.disconnect(); return e.writers.Close() }
		if e.lost != nil {
			e.closed = e.view(context.Background(), func(ctx context.Context, q queryer) error {
				if err := each(ctx, q, func(*sql.Rows) error { return nil }, "SELECT 1 FROM hub"); err != nil {
					return err
				}
				return end()
			})
			end = func() error { return nil }
		}
		e.closed = errors.Join(e.closed, e.scans.Close(), e.readers.Close(), end())
	})
	return e.closed
}

// statements runs queries by statements that stay prepared. It keeps every text:
// those of this package are few.
type statements struct {
	on interface { // a sql.DB or sql.Conn
		PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
	}
	prepared sync.Map // from string to *sql.Stmt
}

// close finalizes the statements. SQLite keeps a connection, its locks and its
// transaction until all of its statements are.
func (s *statements) close() {
	s.prepared.Range(func(_, stmt any) bool {
		_ = stmt.(*sql.Stmt).Close()
		return true
	})
}

var parameter = regexp.MustCompile(`\$[0-9]+`)

// nameless takes the names of a statement's parameters away if they come in their
// order, each once. SQLite's driver asks for the name of each that it binds, and
// SQLite looks through all of them for it: for the 1,408 of a write of 64 sightings
// that took as long as the write.
func nameless(query string) string {
	for n, name := range parameter.FindAllString(query, -1) {
		if name != "$"+strconv.Itoa(n+1) {
			return query
		}
	}
	return parameter.ReplaceAllString(query, "?")
}

func (s *statements) of(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt, ok := s.prepared.Load(query); ok {
		return stmt.(*sql.Stmt), nil
	}
	stmt, err := s.on.PrepareContext(ctx, nameless(query))
	if err != nil {
		return nil, err
	}
	if first, ok := s.prepared.LoadOrStore(query, stmt); ok {
		_ = stmt.Close()
		return first.(*sql.Stmt), nil
	}
	return stmt, nil
}

// QueryContext does not watch ctx once it has begun: that costs a goroutine for
// each query, and every query here is short.
func (s *statements) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	stmt, err := s.of(ctx, query)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(ctx, args...)
}

// ExecContext lets others go first. SQLite changes pages by thousands of system calls, each
// too short for the scheduler to take the processor away: those who had a message to
// acknowledge waited 30 ms for a piece of the trust tree.
func (s *statements) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	runtime.Gosched()
	stmt, err := s.of(ctx, query)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(ctx, args...)
}
