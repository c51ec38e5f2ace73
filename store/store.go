// Package store keeps hubs, identities, CA certificates, verdicts, commands,
// events that wait, routes, enrollments, registrations, what was issued and the
// audit log in SQLite or PostgreSQL. It serves [registry.Store], [authority.Store],
// [authority.VerdictStore], [commands.Store], [hub.Outbox], [routes.Store],
// [provisioning.EnrollmentStore], [provisioning.RegistrationStore],
// [issuance.Store] and [audit.Store]; it keeps their promises and knows none of
// their rules. All SQL of the house is here.
//
// There is one body of SQL, a file for each kind of record, and one schema, in
// schema/. What SQLite and PostgreSQL do not share is small: three
// words for column types, the texts of row locks, and how a change is made
// durable.
//
// # Reading
//
// Each read is one statement, or a few, except Hubs, which reads in one
// transaction. It sees every change that has returned.
// SQLite readers have read-only connections of their own, and in WAL mode wait
// for nobody; their statements stay prepared. One identity is read at each connect
// of a device; with SQLite those that come back are remembered. See known.go. With
// PostgreSQL each statement ends within half a minute, whoever asks: what runs in the
// background would else wait for a network that was cut until TCP gives up.
//
// A query is carried out in slices, a statement or two over some hundred
// identities each, on connections of its own; its text is made for it, with all
// that it says as arguments, and not kept. See find.go and condition.go.
//
// # Writing
//
// A change is a function that runs statements; it is there wholly or not at all,
// and on disk before its caller is answered, but for what is written behind.
//
// With PostgreSQL each change is a transaction of its own. Conditions stand in
// the statement itself (UPDATE … WHERE etag = …), so that READ COMMITTED
// suffices: the second of two writers waits for the first, looks again, and finds
// the condition false. A change that lost a deadlock is made again.
//
// With SQLite one goroutine, the writer, owns the one connection that writes:
//
//	callers ──► queue ──► writer: BEGIN
//	 wait                          change                       of the first that waits
//	  │                            SAVEPOINT, change, RELEASE   of each other
//	  ▲                            COMMIT                       one fsync
//	  └────── outcomes ◄───────────┘
//
// While a COMMIT syncs the disk, changes gather in the queue; the next
// transaction takes all of them, and none waits for a timer. So an idle store
// answers after one fsync, and a busy one shares each fsync between many. A
// change that fails (ErrExists, ErrStale) is undone to its savepoint and the
// others stay. Callers hear their outcome only after COMMIT has returned; when it
// fails, or SQLite has given up the whole transaction on the way, all of them
// hear of the failure. The writer then drops its connection and opens a new one
// for the next transaction, so that a full disk that has room again needs no
// restart. When it was a sync that failed, all that is in the -wal file is moved into
// the database first: some of it may never reach the disk, and what is written behind
// such a hole would be lost with it. The file is emptied too when it has grown because
// somebody always reads.
//
// Between transactions the writer moves pages from the -wal file into the database, as
// SQLite would by itself and say nothing when it fails. If the database cannot be synced,
// what was moved before beside a reader, and for no sync yet, may be in the -wal file
// alone, where SQLite does not look again: no more changes are taken, the file stays, and
// the next process moves all of it.
//
// What is written behind, of who came and was seen, acknowledges nothing. Changes that
// are all of that kind end with a COMMIT that is not synced: the end of the process
// loses none of them, the loss of power those since the last sync.
//
// The queue is a channel: no locks are held while a change runs. A caller may give up
// while its change waits, and nothing has then happened; once the writer has
// taken it, the caller waits for the outcome: what it does next, such as to bring
// into force what is stored, must not overtake the change.
//
// # What keeps records consistent
//
// Foreign keys say that an identity or a CA certificate has a hub and a module
// has a device: a change that loses the race against DeleteHub fails with
// ErrNotFound, and cannot leave an identity behind for the next hub of that name.
package store

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/audit"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/commands"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/issuance"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/routes"
)

var (
	_ registry.Store         = (*Store)(nil)
	_ authority.Store        = (*Store)(nil)
	_ authority.VerdictStore = (*Store)(nil)
	_ commands.Store         = (*Store)(nil)
	_ inventory.Store        = (*Store)(nil)
	_ audit.Store            = (*Store)(nil)
	_ hub.Outbox             = (*Store)(nil)
	_ routes.Store           = (*Store)(nil)

	_ provisioning.EnrollmentStore   = (*Store)(nil)
	_ issuance.Store                 = (*Store)(nil)
	_ provisioning.RegistrationStore = (*Store)(nil)
)

// Store is an open database. Safe for concurrent use.
type Store struct {
	engine engine
	events eventClock
	known  *known // nil with PostgreSQL

	scans                           chan struct{} // taken by each slice of a query
	pageBytes                       int
	pagePatience, aggregatePatience time.Duration
}

func newStore(ctx context.Context, e engine) (*Store, error) {
	s := &Store{engine: e, scans: make(chan struct{}, scanPlaces()),
		pageBytes: pageBytes, pagePatience: pagePatience, aggregatePatience: aggregatePatience}
	if err := s.numberEvents(ctx); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return s, nil
}

// Options of a Store. The zero value works.
type Options struct {
	Logger *slog.Logger // slog.Default() when nil
	// Committed is told of each transaction that has been committed and how many
	// changes it holds. It must not block.
	Committed func(changes int)
	// Failed is told when no more changes are taken until the store is opened by another
	// process: after a sync that failed, what this one has moved into the database may not
	// be there, and is not moved again. It must not block.
	Failed func(error)
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Committed == nil {
		o.Committed = func(int) {}
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	return o
}

// unavailable has a change that the machine failed at (a full disk, a lost
// connection) told from a fault of ours: the caller may try again.
func unavailable(err error) error {
	if err == nil || errors.Is(err, signet.ErrNotFound) || errors.Is(err, signet.ErrExists) || errors.Is(err, signet.ErrStale) {
		return err
	}
	if _, ok := errors.AsType[*signet.Error](err); ok {
		return err
	}
	e := signet.Refuse(signet.Unavailable, "The database cannot keep this change just now.")
	if errors.Is(err, errUnknown) {
		e = signet.Refuse(signet.Unavailable, "It is not known whether the database has kept this change.").
			FixBy("Look at what is stored before you make it again; the operator finds the cause in the log.")
	}
	e.Cause = err
	return e
}

// engine is what SQLite and PostgreSQL each do in their own way.
type engine interface {
	// reader runs single statements outside of a transaction.
	reader() queryer
	// scan runs a statement that is made for one query: it ends with its context,
	// and is not kept.
	scan(ctx context.Context, statement string, args []any) (*sql.Rows, error)
	tongue() tongue
	// view runs f in a transaction that reads and sees one state of the database.
	view(ctx context.Context, f change) error
	// write makes c durable, or nothing of it when it returns an error.
	write(ctx context.Context, c change) error
	// writeBehind is for what nobody waits for: the loss of power may take c back, the
	// end of the process may not. It is durable once a later write that changes something
	// is, or soon by itself; so no write may find done what was written behind and rest on it.
	writeBehind(ctx context.Context, c change) error
	// shared ends a SELECT whose rows must not be deleted before the transaction
	// ends.
	shared() string
	// exclusive ends a SELECT whose rows other such SELECTs wait for until the
	// transaction ends.
	exclusive() string
	// by follows the name of a table in a SELECT that shall go by an index. SQLite,
	// which keeps no statistics, takes the primary key's first column, the hub, for
	// telling more than it does, and would read the whole hub.
	by(index string) string
	// rows is how many rows an INSERT shall have at most.
	rows() int
	close() error
}

// A change runs statements in a transaction. It may run more than once, and
// keeps nothing from a run that failed.
type change func(ctx context.Context, q queryer) error

// queryer is what [sql.DB], [sql.Conn], [sql.Tx] and statements have in common.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

var (
	errClosed = errors.New("store: closed")
	// errUnknown is of a change that was about to be made when the connection was lost, or
	// that could not be synced.
	errUnknown = errors.New("store: the outcome of the change is unknown")
)

// Ping says whether the database answers and can be written to.
func (s *Store) Ping(ctx context.Context) error {
	if err := each(ctx, s.engine.reader(), func(*sql.Rows) error { return nil }, "SELECT 1"); err != nil {
		return err
	}
	answered := make(chan error, 1)
	go func() {
		answered <- s.engine.write(ctx, func(context.Context, queryer) error { return nil })
	}()
	select { // a disk that hangs is no answer
	case err := <-answered:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close finishes the changes that wait, and closes the database. A change that
// comes later fails.
func (s *Store) Close() error { return s.engine.close() }

// each calls f for every row of the answer to query.
func each(ctx context.Context, q queryer, f func(*sql.Rows) error, query string, args ...any) error {
	if p, ok := q.(interface {
		bound(context.Context) (context.Context, context.CancelFunc)
	}); ok {
		var cancel context.CancelFunc
		ctx, cancel = p.bound(ctx)
		defer cancel() // when the last row is read
	}
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	return eachOf(rows, f)
}

func eachOf(rows *sql.Rows, f func(*sql.Rows) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// list reads all rows of the answer to query.
func list[T any](ctx context.Context, q queryer, scan func(*sql.Rows, *T) error, query string, args ...any) ([]T, error) {
	var all []T
	err := each(ctx, q, func(rows *sql.Rows) error {
		var one T
		err := scan(rows, &one)
		all = append(all, one)
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return all, nil
}

// one reads the only row of the answer to query; without one it fails with
// [signet.ErrNotFound].
func one[T any](ctx context.Context, q queryer, scan func(*sql.Rows, *T) error, query string, args ...any) (T, error) {
	var it T
	err := signet.ErrNotFound
	if failed := each(ctx, q, func(rows *sql.Rows) error {
		err = nil
		return scan(rows, &it)
	}, query, args...); failed != nil {
		err = failed
	}
	return it, err
}

// affected runs a statement and gives the number of rows that it wrote.
func affected(ctx context.Context, q queryer, query string, args ...any) (int64, error) {
	r, err := q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// create runs an INSERT … ON CONFLICT DO NOTHING.
func create(ctx context.Context, q queryer, query string, args ...any) error {
	n, err := affected(ctx, q, query, args...)
	if err == nil && n == 0 {
		err = signet.ErrExists
	}
	return err
}

// keyed runs an UPDATE or DELETE that depends on an ETag. When it met no record,
// exists, a SELECT by keys, tells why.
func keyed(ctx context.Context, q queryer, query string, args []any, exists string, keys ...any) error {
	n, err := affected(ctx, q, query, args...)
	if err != nil || n > 0 {
		return err
	}
	err = signet.ErrNotFound
	if failed := each(ctx, q, func(*sql.Rows) error { err = signet.ErrStale; return nil }, exists, keys...); failed != nil {
		return failed
	}
	return err
}

// micros is t as it is stored. Unlike nanoseconds, microseconds reach the year
// 9999 of certificates without an end and the zero time.
func micros(t time.Time) int64 { return t.UnixMicro() }

func moment(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// flag is b as it is stored: SQLite has no type for it.
func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// writable refuses text that PostgreSQL cannot hold, with both databases, so that
// they do not differ in what they take.
func writable(texts ...string) error {
	for _, t := range texts {
		if !findable(t) {
			return signet.Refuse(signet.RequestMalformed, "Text with a NUL, or that is not UTF-8, cannot be stored.")
		}
	}
	return nil
}

// findable says whether a record can have text in its key; asking PostgreSQL with
// one that cannot is an error rather than no record.
func findable(texts ...string) bool {
	for _, t := range texts {
		if strings.IndexByte(t, 0) >= 0 || !utf8.ValidString(t) {
			return false
		}
	}
	return true
}
