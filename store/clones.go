package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/inventory"
)

// saveClones adds or replaces findings, and keeps the latest of each hub.
func (s *Store) saveClones(ctx context.Context, q queryer, clones []signet.Clone) error {
	var hubs []string
	for _, c := range clones {
		if there, err := s.hubIs(ctx, q, c.Hub); err != nil {
			return err
		} else if !there {
			continue
		}
		if err := saveClone(ctx, q, c); err != nil {
			return err
		}
		if !slices.Contains(hubs, c.Hub) {
			hubs = append(hubs, c.Hub)
		}
	}
	for _, hub := range hubs {
		if _, err := q.ExecContext(ctx, `DELETE FROM clone WHERE hub = $1 AND id IN (SELECT id FROM clone`+s.engine.by("clone_last")+`
			WHERE hub = $1 ORDER BY last DESC, id DESC LIMIT 1000 OFFSET $2)`, hub, int64(inventory.MaxClones)); err != nil {
			return err
		}
	}
	return nil
}

func saveClone(ctx context.Context, q queryer, c signet.Clone) error {
	document, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("store: clone %s: %w", c.ID, err)
	}
	if err := writable(string(document)); err != nil {
		return err
	}
	_, err = q.ExecContext(ctx, `INSERT INTO clone (hub, id, last, told, document) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (hub, id) DO UPDATE SET last = excluded.last, told = excluded.told, document = excluded.document`,
		c.Hub, c.ID, micros(c.Last), micros(c.Told), string(document))
	return err
}

func scanClone(hub string) func(*sql.Rows, *signet.Clone) error {
	return func(rows *sql.Rows, c *signet.Clone) error {
		var told int64
		var document []byte
		if err := rows.Scan(&told, &document); err != nil {
			return err
		}
		err := json.Unmarshal(document, c)
		c.Hub, c.Told = hub, moment(told)
		return err
	}
}

// Clones lists findings, the latest first.
func (s *Store) Clones(ctx context.Context, hub string, limit int) ([]signet.Clone, error) {
	if !findable(hub) {
		return nil, nil
	}
	return list(ctx, s.engine.reader(), scanClone(hub), `SELECT told, document FROM clone`+s.engine.by("clone_last")+`
		WHERE hub = $1 ORDER BY last DESC, id DESC LIMIT $2`, hub, int64(max(limit, 0)))
}

// Clone reads one finding.
func (s *Store) Clone(ctx context.Context, hub, id string) (signet.Clone, error) {
	if !findable(hub, id) {
		return signet.Clone{}, signet.ErrNotFound
	}
	return one(ctx, s.engine.reader(), scanClone(hub), `SELECT told, document FROM clone WHERE hub = $1 AND id = $2`, hub, id)
}

// DismissClone replaces a finding.
func (s *Store) DismissClone(ctx context.Context, c signet.Clone) error {
	if !findable(c.Hub, c.ID) {
		return signet.ErrNotFound
	}
	document, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := writable(string(document)); err != nil {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		n, err := affected(ctx, q, `UPDATE clone SET document = $3 WHERE hub = $1 AND id = $2`, c.Hub, c.ID, string(document))
		if err == nil && n == 0 {
			err = signet.ErrNotFound
		}
		return err
	})
}

// ClonePolicy reads what a hub does about clones.
func (s *Store) ClonePolicy(ctx context.Context, hub string) (policy signet.ClonePolicy, err error) {
	if !findable(hub) {
		return signet.ClonesFlag, nil
	}
	policy, err = one(ctx, s.engine.reader(), func(rows *sql.Rows, p *signet.ClonePolicy) error { return rows.Scan((*string)(p)) },
		`SELECT policy FROM clone_policy WHERE hub = $1`, hub)
	if errors.Is(err, signet.ErrNotFound) {
		return signet.ClonesFlag, nil
	}
	return policy, err
}

// SetClonePolicy says what a hub does about clones.
func (s *Store) SetClonePolicy(ctx context.Context, hub string, policy signet.ClonePolicy) error {
	if !findable(hub, string(policy)) {
		return signet.ErrNotFound
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		_, err := q.ExecContext(ctx, `INSERT INTO clone_policy (hub, policy) VALUES ($1, $2) ON CONFLICT (hub) DO UPDATE SET policy = excluded.policy`, hub, string(policy))
		return err
	})
}
