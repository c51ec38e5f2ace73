package store

import (
	"context"
	"database/sql"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet"
)

// An eventClock numbers events: each greater than the one before, also than those that
// waited when the store was opened, and although the clock is set back.
type eventClock struct{ last atomic.Int64 }

func (c *eventClock) next() int64 {
	for {
		last := c.last.Load()
		next := max(last+1, time.Now().UnixMicro())
		if c.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

// addEvents puts events into the outbox, in the transaction of what they tell of.
// It comes after the statement that takes the row of the identity, so that the
// events of one are numbered in the order in which its changes came to be. A number
// that another server has given in the same microsecond is passed over.
func (s *Store) addEvents(ctx context.Context, q queryer, events []signet.Event) error {
	for _, e := range events {
		for n := int64(0); n == 0; {
			var err error
			if n, err = affected(ctx, q, `INSERT INTO event (hub, sequence, device_id, module_id, source, operation, schema, time, body)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING`, e.Hub, s.events.next(), e.DeviceID, e.ModuleID,
				e.Source, e.Operation, e.Schema, micros(e.Time), string(e.Body)); err != nil {
				return err
			}
		}
	}
	return nil
}

// numberEvents has events numbered after those that wait.
func (s *Store) numberEvents(ctx context.Context) error {
	last, err := one(ctx, s.engine.reader(), func(rows *sql.Rows, last *int64) error { return rows.Scan(last) },
		`SELECT COALESCE(max(sequence), 0) FROM event`)
	s.events.last.Store(last)
	return err
}

func writableEvents(events []signet.Event) error {
	for _, e := range events {
		if err := writable(e.Hub, e.DeviceID, e.ModuleID, e.Source, e.Operation, e.Schema, string(e.Body)); err != nil {
			return err
		}
	}
	return nil
}

// Events lists up to limit events of a hub that wait, in their order.
func (s *Store) Events(ctx context.Context, hub string, limit int) ([]signet.Event, error) {
	if !findable(hub) {
		return nil, nil
	}
	return list(ctx, s.engine.reader(), func(rows *sql.Rows, e *signet.Event) error {
		var at int64
		err := rows.Scan(&e.Hub, &e.Sequence, &e.DeviceID, &e.ModuleID, &e.Source, &e.Operation, &e.Schema, &at, (*[]byte)(&e.Body))
		e.Time = moment(at)
		return err
	}, `SELECT hub, sequence, device_id, module_id, source, operation, schema, time, body FROM event WHERE hub = $1
		ORDER BY sequence LIMIT $2`, hub, int64(max(limit, 0)))
}

// CountEvents counts the events of a hub that wait.
func (s *Store) CountEvents(ctx context.Context, hub string) (n int, err error) {
	if !findable(hub) {
		return 0, nil
	}
	return one(ctx, s.engine.reader(), func(rows *sql.Rows, n *int) error { return rows.Scan(n) },
		`SELECT count(*) FROM event WHERE hub = $1`, hub)
}

// RemoveEvents removes events of a hub; those that are gone already do not matter.
func (s *Store) RemoveEvents(ctx context.Context, hub string, sequences []int64) error {
	if !findable(hub) {
		return nil
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		for _, sequence := range sequences {
			if _, err := q.ExecContext(ctx, `DELETE FROM event WHERE hub = $1 AND sequence = $2`, hub, sequence); err != nil {
				return err
			}
		}
		return nil
	})
}
