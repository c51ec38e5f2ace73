package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/signet-iot/signet"
)

// Activity reads what is known of the identities of the devices from one ID to
// another.
func (s *Store) Activity(ctx context.Context, hub, first, last string) ([]signet.Activity, error) {
	if !findable(hub, first, last) {
		return nil, nil
	}
	return list(ctx, s.engine.reader(), func(rows *sql.Rows, a *signet.Activity) error {
		var connected, updated, active int64
		err := rows.Scan(&a.Hub, &a.DeviceID, &a.ModuleID, &a.GenerationID, &connected, &updated, &active)
		a.Connected, a.ConnectionUpdated, a.LastActive = connected == 1, moment(updated), moment(active)
		return err
	}, `SELECT hub, device_id, module_id, generation_id, connected, connection_updated, last_active
		FROM activity JOIN identity USING (hub, device_id, module_id)
		WHERE hub = $1 AND device_id >= $2 AND device_id <= $3 ORDER BY device_id, module_id`, hub, first, last)
}

// SaveActivity writes what is known of identities.
func (s *Store) SaveActivity(ctx context.Context, as []signet.Activity) error {
	return s.engine.writeBehind(ctx, func(ctx context.Context, q queryer) error {
		for _, a := range as {
			if !findable(a.Hub, a.DeviceID, a.ModuleID, a.GenerationID) {
				continue
			}
			if _, err := q.ExecContext(ctx, `INSERT INTO activity (hub, device_id, module_id, connected, connection_updated, last_active)
				SELECT hub, device_id, module_id, CAST($5 AS BIGINT), CAST($6 AS BIGINT), CAST($7 AS BIGINT) FROM identity`+whereIdentity+` AND generation_id = $4
				ON CONFLICT (hub, device_id, module_id) DO UPDATE SET connected = excluded.connected,
					connection_updated = CASE WHEN excluded.connection_updated > activity.connection_updated THEN excluded.connection_updated ELSE activity.connection_updated END,
					last_active = CASE WHEN excluded.last_active > activity.last_active THEN excluded.last_active ELSE activity.last_active END`,
				a.Hub, a.DeviceID, a.ModuleID, a.GenerationID, flag(a.Connected), micros(a.ConnectionUpdated), micros(a.LastActive)); err != nil {
				return err
			}
		}
		return nil
	})
}

// NobodyConnected says of every identity that is connected that it is not.
func (s *Store) NobodyConnected(ctx context.Context, since time.Time) error {
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		_, err := q.ExecContext(ctx, `UPDATE activity SET connected = 0, connection_updated = $1 WHERE connected = 1`, micros(since))
		return err
	})
}
