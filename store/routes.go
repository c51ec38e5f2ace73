package store

import (
	"context"
	"database/sql"
	"encoding/json"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/routes"
)

const whereRoute = ` WHERE hub = $1 AND name = $2`

// Routes lists routes by hub and name, of all hubs for "".
func (s *Store) Routes(ctx context.Context, hub string) ([]routes.Progress, error) {
	if !findable(hub) {
		return nil, nil
	}
	return list(ctx, s.engine.reader(), func(rows *sql.Rows, p *routes.Progress) error {
		var document []byte
		var sequence, record int64
		if err := rows.Scan(&p.Hub, &document, &sequence, &record); err != nil {
			return err
		}
		p.Cursor = signet.Position{Sequence: uint64(sequence), Index: uint32(record)}
		return json.Unmarshal(document, &p.Route)
	}, `SELECT hub, document, after_sequence, after_record FROM route WHERE $1 = '' OR hub = $1 ORDER BY hub, name`, hub)
}

// SaveRoute adds a route, or replaces its document. It fails with [signet.ErrFull]
// and [signet.ErrNotFound].
func (s *Store) SaveRoute(ctx context.Context, r signet.Route, most int) error {
	document, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := writable(r.Hub, r.Name, string(document)); err != nil {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		// The row of the hub is what those who add to it queue up at.
		if _, err := one(ctx, q, func(rows *sql.Rows, n *int) error { return rows.Scan(n) },
			`SELECT 1 FROM hub WHERE name = $1`+s.engine.exclusive(), r.Hub); err != nil {
			return err
		}
		others, err := one(ctx, q, func(rows *sql.Rows, n *int) error { return rows.Scan(n) },
			`SELECT count(*) FROM route WHERE hub = $1 AND name <> $2`, r.Hub, r.Name)
		if err != nil {
			return err
		}
		if others >= most {
			return signet.ErrFull
		}
		_, err = q.ExecContext(ctx, `INSERT INTO route (hub, name, document, after_sequence, after_record) VALUES ($1, $2, $3, 0, 0)
			ON CONFLICT (hub, name) DO UPDATE SET document = excluded.document`, r.Hub, r.Name, string(document))
		return err
	})
}

// DeleteRoute removes a route with its dead letters.
func (s *Store) DeleteRoute(ctx context.Context, hub, name string) error {
	if !findable(hub, name) {
		return signet.ErrNotFound
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		n, err := affected(ctx, q, `DELETE FROM route`+whereRoute, hub, name)
		if err == nil && n == 0 {
			err = signet.ErrNotFound
		}
		return err
	})
}

// Advance moves the cursor of a route.
func (s *Store) Advance(ctx context.Context, hub, name string, to signet.Position) error {
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error { return advance(ctx, q, hub, name, to) })
}

func advance(ctx context.Context, q queryer, hub, name string, to signet.Position) error {
	if !findable(hub, name) {
		return signet.ErrNotFound
	}
	n, err := affected(ctx, q, `UPDATE route SET after_sequence = $3, after_record = $4`+whereRoute, hub, name, int64(to.Sequence), int64(to.Index))
	if err == nil && n == 0 {
		err = signet.ErrNotFound
	}
	return err
}

// Bury moves the cursor of a route and adds a dead letter, or replaces that of the
// same ID; of more than most the first go.
func (s *Store) Bury(ctx context.Context, hub, name string, to signet.Position, d signet.DeadLetter, most int) error {
	document, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if err := writable(d.ID, string(document)); err != nil {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		if err := advance(ctx, q, hub, name, to); err != nil {
			return err
		}
		if _, err := q.ExecContext(ctx, `INSERT INTO dead_letter (hub, route, id, first_sequence, first_record, replay, document)
			VALUES ($1, $2, $3, $4, $5, 0, $6) ON CONFLICT (hub, route, id) DO UPDATE SET document = excluded.document`,
			hub, name, d.ID, int64(d.First.Sequence), int64(d.First.Index), string(document)); err != nil {
			return err
		}
		_, err := q.ExecContext(ctx, `DELETE FROM dead_letter WHERE hub = $1 AND route = $2 AND (first_sequence, first_record, id) <=
			(SELECT first_sequence, first_record, id FROM dead_letter WHERE hub = $1 AND route = $2
				ORDER BY first_sequence DESC, first_record DESC, id DESC LIMIT 1 OFFSET $3)`, hub, name, int64(max(most, 0)))
		return err
	})
}

// DeadLetters lists the dead letters of a route, by their places.
func (s *Store) DeadLetters(ctx context.Context, hub, name string) ([]signet.DeadLetter, error) {
	if !findable(hub, name) {
		return nil, nil
	}
	return list(ctx, s.engine.reader(), func(rows *sql.Rows, d *signet.DeadLetter) error {
		var document []byte
		var replay int64
		if err := rows.Scan(&document, &replay); err != nil {
			return err
		}
		err := json.Unmarshal(document, d)
		d.Replay = replay != 0
		return err
	}, `SELECT document, replay FROM dead_letter WHERE hub = $1 AND route = $2 ORDER BY first_sequence, first_record, id`, hub, name)
}

// MarkDeadLetters has a dead letter be sent again, or all for "", and gives their
// number.
func (s *Store) MarkDeadLetters(ctx context.Context, hub, name, id string) (n int, err error) {
	if !findable(hub, name, id) {
		return 0, nil
	}
	err = s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		marked, err := affected(ctx, q, `UPDATE dead_letter SET replay = 1 WHERE hub = $1 AND route = $2 AND ($3 = '' OR id = $3)`, hub, name, id)
		n = int(marked)
		return err
	})
	return n, err
}

// SaveDeadLetter replaces a dead letter, if it is there.
func (s *Store) SaveDeadLetter(ctx context.Context, hub, name string, d signet.DeadLetter) error {
	document, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if err := writable(hub, name, d.ID, string(document)); err != nil {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		_, err := q.ExecContext(ctx, `UPDATE dead_letter SET first_sequence = $4, first_record = $5, replay = $6, document = $7
			WHERE hub = $1 AND route = $2 AND id = $3`, hub, name, d.ID, int64(d.First.Sequence), int64(d.First.Index), flag(d.Replay), string(document))
		return err
	})
}

// RemoveDeadLetter removes a dead letter, if it is there.
func (s *Store) RemoveDeadLetter(ctx context.Context, hub, name, id string) error {
	if !findable(hub, name, id) {
		return nil
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		_, err := q.ExecContext(ctx, `DELETE FROM dead_letter WHERE hub = $1 AND route = $2 AND id = $3`, hub, name, id)
		return err
	})
}
