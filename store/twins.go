package store

import (
	"context"
	"database/sql"

	"github.com/signet-iot/signet"
)

// Twin reads the twin of an identity; one that was never written has Version 0.
func (s *Store) Twin(ctx context.Context, hub, device, module string) (signet.Twin, error) {
	if !findable(hub, device, module) {
		return signet.Twin{}, signet.ErrNotFound
	}
	return one(ctx, s.engine.reader(), scanTwin, `SELECT hub, device_id, module_id, generation_id, COALESCE(version, 0),
		COALESCE(twin.etag, ''), tags, desired_version, desired, desired_metadata, reported_version, reported, reported_metadata
		FROM identity LEFT JOIN twin USING (hub, device_id, module_id)`+whereIdentity, hub, device, module)
}

func scanTwin(rows *sql.Rows, t *signet.Twin) error {
	var desired, reported sql.NullInt64
	err := rows.Scan(&t.Hub, &t.DeviceID, &t.ModuleID, &t.GenerationID, &t.Version, &t.ETag, (*[]byte)(&t.Tags),
		&desired, (*[]byte)(&t.Desired.Values), (*[]byte)(&t.Desired.Metadata),
		&reported, (*[]byte)(&t.Reported.Values), (*[]byte)(&t.Reported.Metadata))
	t.Desired.Version, t.Reported.Version = desired.Int64, reported.Int64
	return err
}

// WriteTwin writes a twin if the one that is there has the version given, 0 for
// none. Its identity must be there, of the twin's generation: otherwise it fails
// with [signet.ErrNotFound].
func (s *Store) WriteTwin(ctx context.Context, t signet.Twin, version int64, events ...signet.Event) error {
	if !findable(t.Hub, t.DeviceID, t.ModuleID, t.GenerationID) {
		return signet.ErrNotFound
	}
	if err := writable(t.ETag, string(t.Tags), string(t.Desired.Values), string(t.Desired.Metadata),
		string(t.Reported.Values), string(t.Reported.Metadata)); err != nil {
		return err
	}
	if err := writableEvents(events); err != nil {
		return err
	}
	values := []any{t.Hub, t.DeviceID, t.ModuleID, t.Version, t.ETag, string(t.Tags),
		t.Desired.Version, string(t.Desired.Values), string(t.Desired.Metadata),
		t.Reported.Version, string(t.Reported.Values), string(t.Reported.Metadata)}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		if _, err := one(ctx, q, func(rows *sql.Rows, n *int) error { return rows.Scan(n) },
			`SELECT 1 FROM identity`+whereIdentity+` AND generation_id = $4`+s.engine.shared(),
			t.Hub, t.DeviceID, t.ModuleID, t.GenerationID); err != nil {
			return err
		}
		n, err := int64(0), error(nil)
		if version == 0 {
			n, err = affected(ctx, q, `INSERT INTO twin (hub, device_id, module_id, version, etag, tags, desired_version, desired,
				desired_metadata, reported_version, reported, reported_metadata)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING`, values...)
		} else {
			n, err = affected(ctx, q, `UPDATE twin SET version = $4, etag = $5, tags = $6, desired_version = $7, desired = $8,
				desired_metadata = $9, reported_version = $10, reported = $11, reported_metadata = $12`+
				whereIdentity+` AND version = $13`, append(values, version)...)
		}
		if err == nil && n == 0 {
			err = signet.ErrStale
		}
		if err != nil {
			return err
		}
		return s.addEvents(ctx, q, events)
	})
}
