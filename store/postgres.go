package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/signet-iot/signet"
)

const (
	// maxConnections bounds what one server takes of the 100 connections that
	// PostgreSQL has by default.
	maxConnections = 16
	// maxAttempts bounds how often a change that lost a deadlock is made again.
	maxAttempts = 5
	// deadlockPause, times the attempt, is the most that it waits before.
	deadlockPause = 20 * time.Millisecond
	// writePatience bounds a change: ten times what a busy server takes.
	writePatience = 30 * time.Second
	// readPatience bounds a read, and the making of a connection, where the caller has no
	// bound of its own that is less: a network that is cut tells nobody, and TCP waits a
	// quarter of an hour for an answer.
	readPatience = 30 * time.Second
	// schemaLock is the advisory lock that servers take to bring up the schema one
	// after the other; the number is "signet" in ASCII.
	schemaLock = 0x7369676e6574
)

// Collation "C" is the order of bytes, whatever that of the database.
var postgresWords = strings.NewReplacer("{text}", `TEXT COLLATE "C"`, "{bytes}", "BYTEA", "{integer}", "BIGINT", "{table}", "")

// postgresEngine is a PostgreSQL database; many servers may share it.
type postgresEngine struct {
	db        *sql.DB
	scans     *sql.DB // of queries: as many connections as there are places for slices
	committed func(changes int)
	patience  time.Duration // readPatience; less in tests
}

// OpenPostgres opens the database at a URL (postgres://user:password@host/database)
// or key=value string, and makes its tables when they are not there. A schema
// newer than this binary is refused with [signet.Unavailable]. No error holds the
// password.
func OpenPostgres(ctx context.Context, url string, o Options) (*Store, error) {
	o = o.withDefaults()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = readPatience
	}
	e := &postgresEngine{db: stdlib.OpenDB(*cfg), committed: o.Committed, patience: readPatience, scans: stdlib.OpenDB(*cfg, stdlib.OptionAfterConnect(forScans))}
	e.scans.SetMaxOpenConns(scanPlaces())
	e.scans.SetMaxIdleConns(scanPlaces())
	e.scans.SetConnMaxIdleTime(5 * time.Minute)
	e.db.SetMaxOpenConns(maxConnections)
	e.db.SetMaxIdleConns(maxConnections)
	e.db.SetConnMaxIdleTime(5 * time.Minute)
	err = e.transact(ctx, nil, func(ctx context.Context, q queryer) error {
		if _, err := q.ExecContext(ctx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", schemaLock)); err != nil {
			return err
		}
		return migrate(ctx, q, postgresWords, o.Logger)
	})
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	return newStore(ctx, e)
}

// forScans has the planner go from one identity to the next by the indexes, which
// is what slices are made for. Where it has no statistics yet, or the cost of the
// whole table in mind, it would rather read all of that, or compile the statement
// first, for each slice anew.
func forScans(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, `SET jit = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; SET enable_bitmapscan = off`, pgx.QueryExecModeSimpleProtocol)
	return err
}

func (e *postgresEngine) reader() queryer { return pool{e.db, e.patience} }
func (e *postgresEngine) tongue() tongue  { return postgresTongue }

func (e *postgresEngine) scan(ctx context.Context, statement string, args []any) (*sql.Rows, error) {
	return e.scans.QueryContext(ctx, statement, append([]any{pgx.QueryExecModeExec}, args...)...)
}

func (e *postgresEngine) view(ctx context.Context, f change) error {
	ctx, cancel := context.WithTimeout(ctx, e.patience)
	defer cancel()
	return e.transact(ctx, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead}, f)
}

// A pool runs single statements, each within a time.
type pool struct {
	*sql.DB
	patience time.Duration
}

func (p pool) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, p.patience)
}

func (e *postgresEngine) shared() string    { return " FOR KEY SHARE" }
func (e *postgresEngine) exclusive() string { return " FOR NO KEY UPDATE" }

// rows is many: the server may be across a network.
func (e *postgresEngine) rows() int { return maxPiece }

func (e *postgresEngine) by(string) string { return "" }

// writeBehind leaves it to the database's WAL writer, which syncs some five times a second;
// the end of its processes takes back what the loss of power would.
func (e *postgresEngine) writeBehind(ctx context.Context, c change) error {
	return e.write(ctx, func(ctx context.Context, q queryer) error {
		if _, err := q.ExecContext(ctx, "SET LOCAL synchronous_commit = off"); err != nil {
			return err
		}
		return c(ctx, q)
	})
}

func (e *postgresEngine) write(ctx context.Context, c change) (err error) {
	defer func() { err = unavailable(err) }()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("store: the change was not made: %w", err)
	}
	// A caller that goes does not interrupt the change: it would look at what is
	// stored while the server is still about to commit. A server that does not
	// answer leaves the outcome unknown.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writePatience)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err := e.transact(ctx, nil, c)
		failed, ok := errors.AsType[*pgconn.PgError](err)
		switch {
		case err == nil:
			e.committed(1)
			return nil
		case ok && failed.Code == "23503": // foreign_key_violation
			return signet.ErrNotFound
		case ok && failed.Code == "40P01" && attempt < maxAttempts: // deadlock_detected
			time.Sleep(rand.N(time.Duration(attempt) * deadlockPause)) // else the two meet again
			continue
		}
		return err
	}
}

func (e *postgresEngine) transact(ctx context.Context, o *sql.TxOptions, c change) error {
	tx, err := e.db.BeginTx(ctx, o)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := c(ctx, tx); err != nil {
		_ = tx.Rollback() // when this fails the connection is lost, and the change with it
		return err
	}
	err = tx.Commit()
	// By an ERROR the server says that it has not; by a FATAL, that it ends.
	if failed, ok := errors.AsType[*pgconn.PgError](err); ok && failed.SeverityUnlocalized == "ERROR" || errors.Is(err, pgx.ErrTxCommitRollback) {
		return fmt.Errorf("store: %w", err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	return nil
}

func (e *postgresEngine) close() error { return errors.Join(e.scans.Close(), e.db.Close()) }
