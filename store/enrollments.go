package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
)

const whereEnrollment = ` WHERE hub = $1 AND grouped = $2 AND id_folded = $3`

func scanEnrollment(rows *sql.Rows, e *signet.Enrollment) error {
	var document []byte
	if err := rows.Scan(&document); err != nil {
		return err
	}
	err := json.Unmarshal(document, e)
	// Raw JSON that is not there is written as null.
	for _, raw := range []*json.RawMessage{&e.InitialTwin.Tags, &e.InitialTwin.Desired, &e.Information} {
		if string(*raw) == "null" {
			*raw = nil
		}
	}
	return err
}

// Enrollment reads one.
func (s *Store) Enrollment(ctx context.Context, service string, group bool, id string) (signet.Enrollment, error) {
	if !findable(service, id) {
		return signet.Enrollment{}, signet.ErrNotFound
	}
	return one(ctx, s.engine.reader(), scanEnrollment, `SELECT document FROM enrollment`+whereEnrollment,
		service, flag(group), signet.FoldRegistrationID(id))
}

// Enrollments lists up to limit individual enrollments, or groups, with a folded
// ID greater than after.
func (s *Store) Enrollments(ctx context.Context, service string, group bool, after string, limit int) ([]signet.Enrollment, error) {
	if err := writable(service, after); err != nil {
		return nil, err
	}
	return list(ctx, s.engine.reader(), scanEnrollment, `SELECT document FROM enrollment
		WHERE hub = $1 AND grouped = $2 AND id_folded > $3 ORDER BY id_folded LIMIT $4`,
		service, flag(group), after, int64(max(limit, 0)))
}

func writableEnrollment(e *signet.Enrollment, signers []string) (document string, err error) {
	text, err := json.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("store: enrollment %s: %w", e.ID, err)
	}
	return string(text), writable(append([]string{e.Service, e.ID, e.ETag, string(text)}, signers...)...)
}

// claim makes signers an enrollment's own, in one order for all, so that two that
// want the same do not wait for each other.
func claim(ctx context.Context, q queryer, e *signet.Enrollment, signers []string) error {
	for _, signer := range slices.Sorted(slices.Values(signers)) {
		n, err := affected(ctx, q, `INSERT INTO enrollment_signer (hub, signer, grouped, id_folded) VALUES ($1, $2, $3, $4)
			ON CONFLICT DO NOTHING`, e.Service, signer, flag(e.Group), signet.FoldRegistrationID(e.ID))
		if err != nil {
			return err
		}
		if n == 0 {
			return provisioning.ErrSigner
		}
	}
	return nil
}

// CreateEnrollment adds one. Its service must be there: otherwise it fails with
// [signet.ErrNotFound].
func (s *Store) CreateEnrollment(ctx context.Context, e signet.Enrollment, signers []string, most int) error {
	document, err := writableEnrollment(&e, signers)
	if err != nil {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		if err := create(ctx, q, `INSERT INTO enrollment (hub, grouped, id_folded, etag, document) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT DO NOTHING`, e.Service, flag(e.Group), signet.FoldRegistrationID(e.ID), e.ETag, document); err != nil {
			return err
		}
		if err := claim(ctx, q, &e, signers); err != nil {
			return err
		}
		if most < 1 {
			return signet.ErrFull
		}
		n, err := affected(ctx, q, `INSERT INTO enrollment_count (hub, grouped, number) VALUES ($1, $2, 1)
			ON CONFLICT (hub, grouped) DO UPDATE SET number = enrollment_count.number + 1 WHERE enrollment_count.number < $3`,
			e.Service, flag(e.Group), int64(most))
		if err == nil && n == 0 {
			err = signet.ErrFull
		}
		return err
	})
}

// ReplaceEnrollment replaces the one of the same key, and its signers, if its ETag
// is etag; with nil, the signers that it has stay.
func (s *Store) ReplaceEnrollment(ctx context.Context, e signet.Enrollment, signers []string, etag string) error {
	document, err := writableEnrollment(&e, signers)
	if err != nil {
		return err
	}
	if !findable(etag) {
		etag = ""
	}
	key := []any{e.Service, flag(e.Group), signet.FoldRegistrationID(e.ID)}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		if err := keyed(ctx, q, `UPDATE enrollment SET etag = $4, document = $5`+whereEnrollment+` AND etag = $6`,
			append(key[:3:3], e.ETag, document, etag), `SELECT 1 FROM enrollment`+whereEnrollment, key...); err != nil {
			return err
		}
		if signers == nil {
			return nil
		}
		if _, err := q.ExecContext(ctx, `DELETE FROM enrollment_signer`+whereEnrollment, key...); err != nil {
			return err
		}
		return claim(ctx, q, &e, signers)
	})
}

// DeleteEnrollment removes one if its ETag is etag, or whatever it is when etag is
// "*".
func (s *Store) DeleteEnrollment(ctx context.Context, service string, group bool, id, etag string) error {
	if !findable(service, id) {
		return signet.ErrNotFound
	}
	if !findable(etag) {
		etag = ""
	}
	key := []any{service, flag(group), signet.FoldRegistrationID(id)}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		if err := keyed(ctx, q, `DELETE FROM enrollment`+whereEnrollment+` AND ($4 = '*' OR etag = $4)`, append(key[:3:3], etag),
			`SELECT 1 FROM enrollment`+whereEnrollment, key...); err != nil {
			return err
		}
		_, err := q.ExecContext(ctx, `UPDATE enrollment_count SET number = number - 1 WHERE hub = $1 AND grouped = $2`, key[:2]...)
		return err
	})
}

// LinkedHubs lists those of a service by host name.
func (s *Store) LinkedHubs(ctx context.Context, service string) ([]signet.LinkedHub, error) {
	if !findable(service) {
		return nil, nil
	}
	return list(ctx, s.engine.reader(), func(rows *sql.Rows, l *signet.LinkedHub) error {
		var weight, allocates int64
		err := rows.Scan(&l.Service, &l.HostName, &l.ConnectionString, &l.Location, &weight, &allocates)
		l.Weight, l.Allocates = int(weight), allocates != 0
		return err
	}, `SELECT hub, host_name, connection_string, location, weight, allocates FROM linked_hub WHERE hub = $1 ORDER BY host_name`, service)
}

// ChangeLinkedHubs removes hubs by their host names, and then adds or replaces
// others.
func (s *Store) ChangeLinkedHubs(ctx context.Context, service string, remove []string, put []signet.LinkedHub) error {
	if !findable(service) {
		return signet.ErrNotFound
	}
	for _, l := range put {
		if err := writable(l.HostName, l.ConnectionString, l.Location); err != nil {
			return err
		}
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		if _, err := one(ctx, q, func(rows *sql.Rows, n *int) error { return rows.Scan(n) },
			`SELECT 1 FROM hub WHERE name = $1`+s.engine.shared(), service); err != nil {
			return err
		}
		for _, host := range remove {
			if _, err := q.ExecContext(ctx, `DELETE FROM linked_hub WHERE hub = $1 AND host_name = $2`, service, stored(host)); err != nil {
				return err
			}
		}
		for _, l := range put {
			if _, err := q.ExecContext(ctx, `INSERT INTO linked_hub (hub, host_name, connection_string, location, weight, allocates)
				VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (hub, host_name) DO UPDATE SET connection_string = excluded.connection_string,
				location = excluded.location, weight = excluded.weight, allocates = excluded.allocates`,
				service, l.HostName, l.ConnectionString, l.Location, int64(l.Weight), flag(l.Allocates)); err != nil {
				return err
			}
		}
		return nil
	})
}
