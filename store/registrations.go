package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
)

const whereRegistration = ` WHERE hub = $1 AND id_folded = $2`

func scanRegistration(rows *sql.Rows, r *signet.Registration) error {
	var document []byte
	if err := rows.Scan(&document); err != nil {
		return err
	}
	return readRegistration(document, r)
}

func readRegistration(document []byte, r *signet.Registration) error {
	err := json.Unmarshal(document, r)
	r.Payload = there(r.Payload)
	return err
}

// there gives raw JSON as it was before it was written: what is not there is
// written as null.
func there(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// Registration reads one, with what is still to be done for it.
func (s *Store) Registration(ctx context.Context, service, id string) (signet.Registration, *provisioning.Work, error) {
	if !findable(service, id) {
		return signet.Registration{}, nil, signet.ErrNotFound
	}
	var w *provisioning.Work
	r, err := one(ctx, s.engine.reader(), func(rows *sql.Rows, r *signet.Registration) error {
		var document, work []byte
		if err := rows.Scan(&document, &work); err != nil {
			return err
		}
		if len(work) > 0 {
			w = &provisioning.Work{}
			if err := json.Unmarshal(work, w); err != nil {
				return err
			}
			w.Payload = there(w.Payload)
			if p := w.Placement; p != nil {
				p.Payload, p.InitialTwin.Tags, p.InitialTwin.Desired = there(p.Payload), there(p.InitialTwin.Tags), there(p.InitialTwin.Desired)
			}
		}
		return readRegistration(document, r)
	}, `SELECT document, work FROM registration`+whereRegistration, service, signet.FoldRegistrationID(id))
	return r, w, err
}

// Registrations lists up to limit that a group has let in.
func (s *Store) Registrations(ctx context.Context, service, group, after string, limit int) ([]signet.Registration, error) {
	if !findable(service, group, after) {
		return nil, nil
	}
	return list(ctx, s.engine.reader(), scanRegistration, `SELECT document FROM registration
		WHERE hub = $1 AND grouped = $2 AND id_folded > $3 ORDER BY id_folded LIMIT $4`,
		service, signet.FoldRegistrationID(group), signet.FoldRegistrationID(after), int64(max(limit, 0)))
}

func registrationValues(r *signet.Registration, w *provisioning.Work) ([]any, error) {
	document, err := json.Marshal(r)
	begun, work := int64(0), []byte(nil)
	if err == nil && w != nil {
		begun = micros(w.Begun)
		work, err = json.Marshal(w)
	}
	if err != nil {
		return nil, fmt.Errorf("store: registration %s: %w", r.RegistrationID, err)
	}
	values := []any{r.Service, signet.FoldRegistrationID(r.RegistrationID), signet.FoldRegistrationID(r.Group), r.ETag,
		begun, string(document), string(work)}
	return values, writable(r.Service, r.RegistrationID, r.Group, r.ETag, string(document), string(work))
}

// CreateRegistration adds one. Its service must be there: otherwise it fails with
// [signet.ErrNotFound].
func (s *Store) CreateRegistration(ctx context.Context, r signet.Registration, w *provisioning.Work) error {
	values, err := registrationValues(&r, w)
	if err != nil {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		return create(ctx, q, `INSERT INTO registration (hub, id_folded, grouped, etag, begun, document, work)
			VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`, values...)
	})
}

// ReplaceRegistration replaces the one of the same key if its ETag is etag.
func (s *Store) ReplaceRegistration(ctx context.Context, r signet.Registration, w *provisioning.Work, etag string) error {
	values, err := registrationValues(&r, w)
	if err != nil {
		return err
	}
	if !findable(etag) {
		etag = ""
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		return keyed(ctx, q, `UPDATE registration SET grouped = $3, etag = $4, begun = $5, document = $6, work = $7`+
			whereRegistration+` AND etag = $8`, append(values[:7:7], etag),
			`SELECT 1 FROM registration`+whereRegistration, values[:2]...)
	})
}

// DeleteRegistration removes one if its ETag is etag, or whatever it is when etag
// is "*".
func (s *Store) DeleteRegistration(ctx context.Context, service, id, etag string) error {
	if !findable(service, id) {
		return signet.ErrNotFound
	}
	if !findable(etag) {
		etag = ""
	}
	key := []any{service, signet.FoldRegistrationID(id)}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		return keyed(ctx, q, `DELETE FROM registration`+whereRegistration+` AND ($3 = '*' OR etag = $3)`, append(key[:2:2], etag),
			`SELECT 1 FROM registration`+whereRegistration, key...)
	})
}

// CountRegistrations counts those of a service.
func (s *Store) CountRegistrations(ctx context.Context, service string) (int, error) {
	if !findable(service) {
		return 0, nil
	}
	return one(ctx, s.engine.reader(), func(rows *sql.Rows, n *int) error { return rows.Scan(n) },
		`SELECT count(*) FROM registration WHERE hub = $1`, service)
}

// Unfinished lists up to limit registrations of all services whose operation is
// under way, the earliest first.
func (s *Store) Unfinished(ctx context.Context, limit int) ([]signet.Registration, error) {
	return list(ctx, s.engine.reader(), scanRegistration,
		`SELECT document FROM registration WHERE begun > 0 ORDER BY begun LIMIT $1`, int64(max(limit, 0)))
}
