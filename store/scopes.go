package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/signet-iot/signet"
)

// Scopes lists those of a hub by key; of all hubs for "".
func (s *Store) Scopes(ctx context.Context, hub string) ([]signet.Scope, error) {
	if !findable(hub) {
		return nil, nil
	}
	where, args := ``, []any(nil)
	if hub != "" {
		where, args = ` WHERE hub = $1`, []any{hub}
	}
	return list(ctx, s.engine.reader(), func(rows *sql.Rows, c *signet.Scope) error {
		var of string
		var seen int64
		var document []byte
		if err := rows.Scan(&of, &seen, &document); err != nil {
			return err
		}
		err := json.Unmarshal(document, c)
		c.Hub, c.Seen = of, seen
		return err
	}, `SELECT hub, seen, document FROM scope`+where+` ORDER BY hub, key`, args...)
}

// SaveScope adds or replaces the scope of a key. Its hub must be there: otherwise
// it fails with [signet.ErrNotFound]. When it begins to count, the devices that the
// trust tree has under the key get their places. See [authority.Store].
func (s *Store) SaveScope(ctx context.Context, c signet.Scope) error {
	c.Seen = 0
	document, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("store: scope of %s: %w", c.Key, err)
	}
	if err := writable(c.Hub, c.Key, string(document)); err != nil {
		return err
	}
	counts := flag(c.MaxDevices > 0)
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		before, err := one(ctx, q, func(rows *sql.Rows, n *int64) error { return rows.Scan(n) },
			`SELECT counts FROM scope WHERE hub = $1 AND key = $2`+s.engine.exclusive(), c.Hub, c.Key)
		if err != nil && !errors.Is(err, signet.ErrNotFound) {
			return err
		}
		if _, err := q.ExecContext(ctx, `INSERT INTO scope (hub, key, counts, seen, document) VALUES ($1, $2, $3, 0, $4)
			ON CONFLICT (hub, key) DO UPDATE SET counts = excluded.counts, document = excluded.document`,
			c.Hub, c.Key, counts, string(document)); err != nil {
			return err
		}
		if counts == 0 || before > 0 {
			return nil
		}
		// It begins to count: what was counted before some time is counted anew.
		if _, err := q.ExecContext(ctx, `DELETE FROM scope_place WHERE hub = $1 AND key = $2`, c.Hub, c.Key); err != nil {
			return err
		}
		seen, args, err := seenUnder(ctx, q, c.Hub, c.Key)
		if err != nil {
			return err
		}
		if _, err := q.ExecContext(ctx, `INSERT INTO scope_place (hub, key, device_id, place)
			SELECT $1, $2, device_id, ROW_NUMBER() OVER (ORDER BY first, device_id) FROM (`+seen+`) AS seen`, args...); err != nil {
			return err
		}
		_, err = q.ExecContext(ctx, `UPDATE scope SET seen = (SELECT COUNT(*) FROM scope_place WHERE hub = $1 AND key = $2)
			WHERE hub = $1 AND key = $2`, c.Hub, c.Key)
		return err
	})
}

// seenUnder gives a query for the devices that the trust tree has under a key
// (device_id, first), with its arguments, of which $1 is the hub and $2 the key.
func seenUnder(ctx context.Context, q queryer, hub, key string) (query string, args []any, _ error) {
	var above [][2]string
	err := each(ctx, q, func(rows *sql.Rows) error {
		var id string
		var document []byte
		var b struct{ Key string }
		if err := rows.Scan(&id, &document); err != nil {
			return err
		}
		err := json.Unmarshal(document, &b)
		if b.Key == key {
			above = append(above, [2]string{hub, id})
		}
		return err
	}, `SELECT id, document FROM branch WHERE hub = $1 ORDER BY id`, hub)
	if err != nil {
		return "", nil, err
	}
	paths, err := branchPaths(ctx, q, above)
	args = []any{hub, key}
	for _, branch := range above {
		args = append(args, paths[branch])
	}
	if above == nil {
		args = append(args, key) // no branch stands there
	}
	return `SELECT device_id, MIN(first_seen) AS first FROM sighting WHERE hub = $1 AND branch IN
		(SELECT b.id FROM (VALUES ` + values(3, len(args)-2, "TEXT") + `) AS v CROSS JOIN branch_path b WHERE b.hub = $1 AND ` + beneath("v.column1") + `) GROUP BY device_id`, args, err
}

// DeleteScope removes a scope with its places.
func (s *Store) DeleteScope(ctx context.Context, hub, key string) error {
	if !findable(hub, key) {
		return signet.ErrNotFound
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		n, err := affected(ctx, q, `DELETE FROM scope WHERE hub = $1 AND key = $2`, hub, key)
		if err == nil && n == 0 {
			err = signet.ErrNotFound
		}
		return err
	})
}

const selectPlace = `SELECT place FROM scope_place WHERE hub = $1 AND key = $2 AND device_id = $3`

// Place gives the place of a device under a scope, 0 when it has none.
func (s *Store) Place(ctx context.Context, hub, key, device string) (int64, error) {
	if !findable(hub, key, device) {
		return 0, nil
	}
	return placeOf(ctx, s.engine.reader(), hub, key, device)
}

func placeOf(ctx context.Context, q queryer, hub, key, device string) (int64, error) {
	n, err := one(ctx, q, func(rows *sql.Rows, n *int64) error { return rows.Scan(n) }, selectPlace, hub, key, device)
	if errors.Is(err, signet.ErrNotFound) {
		return 0, nil
	}
	return n, err
}

// TakePlace gives the place of a device under a scope, the next one if it has none.
func (s *Store) TakePlace(ctx context.Context, hub, key, device string) (place int64, err error) {
	if err := writable(hub, key, device); err != nil {
		return 0, err
	}
	err = s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		// Whoever else takes one waits here, so that the next place is one.
		seen, err := one(ctx, q, func(rows *sql.Rows, n *int64) error { return rows.Scan(n) },
			`SELECT seen FROM scope WHERE hub = $1 AND key = $2`+s.engine.exclusive(), hub, key)
		if err != nil {
			return err
		}
		if place, err = placeOf(ctx, q, hub, key, device); err != nil || place > 0 {
			return err
		}
		place = seen + 1
		if _, err := q.ExecContext(ctx, `INSERT INTO scope_place (hub, key, device_id, place) VALUES ($1, $2, $3, $4)`, hub, key, device, place); err != nil {
			return err
		}
		_, err = q.ExecContext(ctx, `UPDATE scope SET seen = $3 WHERE hub = $1 AND key = $2`, hub, key, place)
		return err
	})
	return place, err
}

// SeenUnder gives the nth of the devices that the trust tree has under a key.
func (s *Store) SeenUnder(ctx context.Context, hub, key string, n int64) (device string, first time.Time, err error) {
	if !findable(hub, key) || n < 1 {
		return "", first, signet.ErrNotFound
	}
	err = s.engine.view(ctx, func(ctx context.Context, q queryer) error {
		seen, args, err := seenUnder(ctx, q, hub, key)
		if err != nil {
			return err
		}
		args = append(args, n-1)
		_, err = one(ctx, q, func(rows *sql.Rows, _ *struct{}) error {
			var at int64
			err := rows.Scan(&device, &at)
			first = moment(at)
			return err
		}, `SELECT device_id, first FROM (`+seen+`) AS seen WHERE $2 <> '' ORDER BY first, device_id LIMIT 1 OFFSET `+fmt.Sprintf("$%d", len(args)), args...)
		return err
	})
	return device, first, err
}

// FirstSeenUnder gives when the trust tree first saw a device that it has under a
// key. It reads the path of the device alone.
func (s *Store) FirstSeenUnder(ctx context.Context, hub, key, device string) (first time.Time, err error) {
	if !findable(hub, key, device) {
		return first, signet.ErrNotFound
	}
	under := false
	err = each(ctx, s.engine.reader(), func(rows *sql.Rows) error {
		var at int64
		var document []byte
		var b struct{ Key string }
		if err := rows.Scan(&at, &document); err != nil {
			return err
		}
		err := json.Unmarshal(document, &b)
		if b.Key == key && (!under || moment(at).Before(first)) {
			under, first = true, moment(at)
		}
		return err
	}, `WITH RECURSIVE above (id, first_seen) AS (SELECT branch, first_seen FROM sighting WHERE hub = $1 AND device_id = $2
		UNION SELECT b.parent, a.first_seen FROM above a CROSS JOIN branch b WHERE b.hub = $1 AND b.id = a.id)
		SELECT a.first_seen, b.document FROM above a CROSS JOIN branch b WHERE b.hub = $1 AND b.id = a.id`, hub, device)
	if err == nil && !under {
		err = signet.ErrNotFound
	}
	return first, err
}
