package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/audit"
)

func scanTile(rows *sql.Rows, t *audit.Tile) error { return rows.Scan(&t.Level, &t.Number, &t.Hashes) }

// AuditTiles reads the last tile of each level.
func (s *Store) AuditTiles(ctx context.Context) (edge []audit.Tile, err error) {
	err = s.engine.view(ctx, func(ctx context.Context, q queryer) error {
		edge = nil
		for level := 0; ; level++ {
			t, err := one(ctx, q, scanTile, `SELECT level, number, hashes FROM audit_tile WHERE level = $1 ORDER BY number DESC LIMIT 1`, level)
			if errors.Is(err, signet.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			edge = append(edge, t)
		}
	})
	return edge, err
}

// AuditTile reads one tile.
func (s *Store) AuditTile(ctx context.Context, level int, number int64) (audit.Tile, error) {
	return one(ctx, s.engine.reader(), scanTile, `SELECT level, number, hashes FROM audit_tile WHERE level = $1 AND number = $2`, level, number)
}

// AppendAudit adds entries from an index on, which must be free: otherwise it
// fails with [signet.ErrExists]. Tiles replace their narrower forms.
func (s *Store) AppendAudit(ctx context.Context, first int64, entries []audit.Record, tiles []audit.Tile) error {
	for _, e := range entries {
		if err := writable(e.Hub); err != nil {
			return err
		}
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		for n, e := range entries {
			if err := create(ctx, q, `INSERT INTO audit_entry (number, hub, entry) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
				first+int64(n), e.Hub, e.Text); err != nil {
				return err
			}
		}
		for _, t := range tiles {
			if _, err := q.ExecContext(ctx, `INSERT INTO audit_tile (level, number, hashes) VALUES ($1, $2, $3)
				ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes`, t.Level, t.Number, t.Hashes); err != nil {
				return err
			}
		}
		return nil
	})
}

func scanRecord(rows *sql.Rows, r *audit.Record) error { return rows.Scan(&r.Index, &r.Hub, &r.Text) }

// AuditRecords lists entries from an index on.
func (s *Store) AuditRecords(ctx context.Context, from int64, limit int) ([]audit.Record, error) {
	return list(ctx, s.engine.reader(), scanRecord, `SELECT number, hub, entry FROM audit_entry WHERE number >= $1 ORDER BY number LIMIT $2`, from, limit)
}

// HubAuditRecords lists the entries of a hub, or all, before an index, the latest
// first.
func (s *Store) HubAuditRecords(ctx context.Context, hub string, all bool, before int64, limit int) ([]audit.Record, error) {
	if all {
		return list(ctx, s.engine.reader(), scanRecord, `SELECT number, hub, entry FROM audit_entry WHERE number < $1 ORDER BY number DESC LIMIT $2`, before, limit)
	}
	if !findable(hub) {
		return nil, nil
	}
	return list(ctx, s.engine.reader(), scanRecord,
		`SELECT number, hub, entry FROM audit_entry WHERE hub = $1 AND number < $2 ORDER BY number DESC LIMIT $3`, hub, before, limit)
}
