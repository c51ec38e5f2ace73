package store

import (
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/issuance"
)

// AddIssued adds the record of a certificate; see [issuance.Store].
func (s *Store) AddIssued(ctx context.Context, i signet.Issued, most int, since time.Time, keep int) error {
	document, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("store: certificate %s: %w", i.Serial, err)
	}
	if err := writable(string(document), i.Service, i.Serial, i.Hub, i.DeviceID, i.Operation, i.Key, i.Thumbprint); err != nil {
		return err
	}
	chain := append([]byte{}, slices.Concat(i.Chain...)...) // NULL is not the same as none
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		// Who brings the same key waits here for the first.
		if _, err := q.ExecContext(ctx, `INSERT INTO issued_key (service, key_hash, device_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
			i.Service, i.Key, i.DeviceID); err != nil {
			return err
		}
		if err := checkIssued(ctx, q, i.Service, i.DeviceID, i.Key, s.engine.exclusive(), most, since); err != nil {
			return err
		}
		if _, err := q.ExecContext(ctx, `INSERT INTO issued (service, serial, hub, device_id, operation, key_hash, thumbprint, not_after, time, document, chain)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`, i.Service, i.Serial, i.Hub, i.DeviceID, i.Operation, i.Key, i.Thumbprint,
			micros(i.NotAfter), micros(i.Time), string(document), chain); err != nil {
			return err
		}
		n, err := affected(ctx, q, `DELETE FROM issued WHERE service = $1 AND device_id = $2 AND (time, serial) <=
			(SELECT time, serial FROM issued WHERE service = $1 AND device_id = $2 ORDER BY time DESC, serial DESC LIMIT 1 OFFSET $3)`,
			i.Service, i.DeviceID, int64(max(keep, 1)))
		if err != nil || n == 0 {
			return err
		}
		return forgetKeys(ctx, q, i.Service, i.DeviceID)
	})
}

// CheckIssued says what AddIssued would now.
func (s *Store) CheckIssued(ctx context.Context, service, device, key string, most int, since time.Time) error {
	if !findable(service, device, key) {
		return nil
	}
	return checkIssued(ctx, s.engine.reader(), service, device, key, "", most, since)
}

func checkIssued(ctx context.Context, q queryer, service, device, key, lock string, most int, since time.Time) error {
	holder, err := one(ctx, q, func(rows *sql.Rows, device *string) error { return rows.Scan(device) },
		`SELECT device_id FROM issued_key WHERE service = $1 AND key_hash = $2`+lock, service, key)
	switch {
	case errors.Is(err, signet.ErrNotFound):
	case err != nil:
		return err
	case holder != device:
		return signet.ErrExists
	}
	lately, err := one(ctx, q, func(rows *sql.Rows, n *int) error { return rows.Scan(n) },
		`SELECT count(*) FROM issued WHERE service = $1 AND device_id = $2 AND time >= $3`, service, device, micros(since))
	if err == nil && lately >= most {
		err = signet.ErrFull
	}
	return err
}

// forgetKeys removes the keys of a device that no record has any more.
func forgetKeys(ctx context.Context, q queryer, service, device string) error {
	_, err := q.ExecContext(ctx, `DELETE FROM issued_key WHERE service = $1 AND device_id = $2 AND NOT EXISTS
		(SELECT 1 FROM issued WHERE issued.service = $1 AND issued.device_id = $2 AND issued.key_hash = issued_key.key_hash)`, service, device)
	return err
}

func scanIssued(rows *sql.Rows, i *signet.Issued) error { return scanIssuedWith(rows, i) }

func scanIssuedWith(rows *sql.Rows, i *signet.Issued, more ...any) error {
	var document []byte
	if err := rows.Scan(append([]any{&document}, more...)...); err != nil {
		return err
	}
	return json.Unmarshal(document, i)
}

// scanIssuedChain reads a record with its chain.
func scanIssuedChain(rows *sql.Rows, i *signet.Issued) error {
	var der []byte
	if err := scanIssuedWith(rows, i, &der); err != nil {
		return err
	}
	chain, err := x509.ParseCertificates(der)
	for _, c := range chain {
		i.Chain = append(i.Chain, c.Raw)
	}
	return err
}

// IssuedFor reads the latest record of a device that is of an operation.
func (s *Store) IssuedFor(ctx context.Context, service, device, operation string) (signet.Issued, error) {
	if !findable(service, device, operation) {
		return signet.Issued{}, signet.ErrNotFound
	}
	return one(ctx, s.engine.reader(), scanIssuedChain, `SELECT document, chain FROM issued WHERE service = $1 AND device_id = $2 AND operation = $3
		ORDER BY time DESC, serial DESC LIMIT 1`, service, device, operation)
}

// IssuedAt reads the record of a certificate for a hub, by its thumbprint.
func (s *Store) IssuedAt(ctx context.Context, hub, thumbprint string) (signet.Issued, error) {
	if hub == "" || !findable(hub, thumbprint) {
		return signet.Issued{}, signet.ErrNotFound
	}
	return one(ctx, s.engine.reader(), scanIssuedChain, `SELECT document, chain FROM issued WHERE hub = $1 AND thumbprint = $2
		ORDER BY time DESC LIMIT 1`, hub, thumbprint)
}

// LatestIssued reads the latest record of a device of a hub.
func (s *Store) LatestIssued(ctx context.Context, hub, device string) (signet.Issued, error) {
	if hub == "" || !findable(hub, device) {
		return signet.Issued{}, signet.ErrNotFound
	}
	return one(ctx, s.engine.reader(), scanIssuedChain, `SELECT document, chain FROM issued WHERE hub = $1 AND device_id = $2
		ORDER BY time DESC, serial DESC LIMIT 1`, hub, device)
}

// ListIssued lists records, the latest first, without their chains.
func (s *Store) ListIssued(ctx context.Context, q issuance.Query) ([]signet.Issued, error) {
	tenant, name := "service", q.Service
	if name == "" {
		tenant, name = "hub", q.Hub
	}
	if name == "" || !findable(name, q.DeviceID) {
		return nil, nil
	}
	query, args := `SELECT document FROM issued WHERE `+tenant+` = $1 AND time >= $2`, []any{name, micros(q.Since)}
	if q.DeviceID != "" {
		args = append(args, q.DeviceID)
		query += fmt.Sprintf(` AND device_id = $%d`, len(args))
	}
	args = append(args, int64(max(q.Limit, 0)))
	return list(ctx, s.engine.reader(), scanIssued, query+fmt.Sprintf(` ORDER BY time DESC, serial DESC LIMIT $%d`, len(args)), args...)
}

// TrimIssued removes records of certificates that ended before a time.
func (s *Store) TrimIssued(ctx context.Context, before time.Time, most int) (removed int, err error) {
	// Mostly there is nothing to do, and nothing is written.
	over, err := list(ctx, s.engine.reader(), func(rows *sql.Rows, i *signet.Issued) error {
		return rows.Scan(&i.Service, &i.Serial, &i.DeviceID)
	}, `SELECT service, serial, device_id FROM issued WHERE not_after < $1 ORDER BY not_after LIMIT $2`, micros(before), int64(max(most, 0)))
	if err != nil || len(over) == 0 {
		return 0, err
	}
	err = s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		removed = 0
		for _, i := range over {
			n, err := affected(ctx, q, `DELETE FROM issued WHERE service = $1 AND serial = $2`, i.Service, i.Serial)
			if err != nil {
				return err
			}
			removed += int(n)
			if err := forgetKeys(ctx, q, i.Service, i.DeviceID); err != nil {
				return err
			}
		}
		return nil
	})
	return removed, err
}
