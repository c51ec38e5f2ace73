package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

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
		was, err := one(ctx, q, func(rows *sql.Rows, tags *sql.NullString) error { return rows.Scan(tags) },
			`SELECT (SELECT tags FROM twin`+whereIdentity+`) FROM identity`+whereIdentity+` AND generation_id = $4`+s.engine.shared(),
			t.Hub, t.DeviceID, t.ModuleID, t.GenerationID)
		if err != nil {
			return err
		}
		n := int64(0)
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
		// A device that reports leaves the tags as they are.
		if was.String != string(t.Tags) && (was.Valid || string(t.Tags) != "{}") {
			if err := indexTags(ctx, q, t); err != nil {
				return err
			}
		}
		return s.addEvents(ctx, q, events)
	})
}

// maxTagKey bounds the names and the value of a tag that is found by its value, in
// bytes: an entry of PostgreSQL's index may have some 2,700. A query for a longer
// one looks at all twins.
const maxTagKey = 512

// tagKey is how a tag is found by value; "" is not at all. Texts, numbers and
// booleans are.
func tagKey(names []string, v any) (path, value string) {
	path = strings.Join(names, ".")
	switch v := v.(type) {
	case string:
		value = "s" + v
	case float64:
		value = "n" + strconv.FormatFloat(v+0, 'g', -1, 64)
	case bool:
		value = "b" + strconv.FormatBool(v)
	}
	if value == "" || len(path) > maxTagKey || len(value) > maxTagKey {
		return "", ""
	}
	return path, value
}

// indexTags makes the tags of a twin findable by value.
func indexTags(ctx context.Context, q queryer, t signet.Twin) error {
	var tags map[string]any
	if err := json.Unmarshal(t.Tags, &tags); err != nil {
		return fmt.Errorf("store: tags of %s: %w", signet.IdentityName(t.DeviceID, t.ModuleID), err)
	}
	if _, err := q.ExecContext(ctx, `DELETE FROM twin_tag`+whereIdentity, t.Hub, t.DeviceID, t.ModuleID); err != nil {
		return err
	}
	var add func(names []string, v any) error
	add = func(names []string, v any) error {
		if o, ok := v.(map[string]any); ok {
			for name, value := range o {
				if err := add(append(names, name), value); err != nil {
					return err
				}
			}
			return nil
		}
		path, value := tagKey(names, v)
		if path == "" {
			return nil
		}
		_, err := q.ExecContext(ctx, `INSERT INTO twin_tag (hub, path, value, device_id, module_id) VALUES ($1, $2, $3, $4, $5)`,
			t.Hub, path, value, t.DeviceID, t.ModuleID)
		return err
	}
	return add(nil, tags)
}

// indexAllTags makes the tags findable that were written before there was an
// index; it is part of the migration that makes it.
func indexAllTags(ctx context.Context, q queryer) error {
	for last := (signet.Twin{}); ; {
		page, err := list(ctx, q, func(rows *sql.Rows, t *signet.Twin) error {
			return rows.Scan(&t.Hub, &t.DeviceID, &t.ModuleID, (*[]byte)(&t.Tags))
		}, `SELECT hub, device_id, module_id, tags FROM twin WHERE (hub, device_id, module_id) > ($1, $2, $3)
			ORDER BY hub, device_id, module_id LIMIT 1000`, last.Hub, last.DeviceID, last.ModuleID)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, t := range page {
			if err := indexTags(ctx, q, t); err != nil {
				return err
			}
		}
		last = page[len(page)-1]
	}
}
