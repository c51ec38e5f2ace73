package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/signet-iot/signet"
)

// Hubs lists the hubs by name, each with its policies in the order given.
func (s *Store) Hubs(ctx context.Context) ([]signet.Hub, error) {
	var hubs []signet.Hub
	err := s.engine.view(ctx, func(ctx context.Context, q queryer) (err error) {
		if hubs, err = list(ctx, q, scanHub, `SELECT name, host_name, created, at_expiry, id_scope, events, limits FROM hub ORDER BY name`); err != nil {
			return err
		}
		i := 0
		return each(ctx, q, func(rows *sql.Rows) error {
			var hub string
			var p signet.Policy
			if err := rows.Scan(&hub, &p.Name, &p.PrimaryKey, &p.SecondaryKey, &p.Rights); err != nil {
				return err
			}
			for hubs[i].Name != hub { // both are in the order of names
				i++
			}
			hubs[i].Policies = append(hubs[i].Policies, p)
			return nil
		}, `SELECT hub, name, primary_key, secondary_key, rights FROM policy ORDER BY hub, position`)
	})
	return hubs, err
}

func scanHub(rows *sql.Rows, h *signet.Hub) error {
	var created int64
	var limits []byte
	if err := rows.Scan(&h.Name, &h.HostName, &created, &h.AtExpiry, &h.IDScope, &h.Events, &limits); err != nil {
		return err
	}
	h.Created = moment(created)
	return json.Unmarshal(limits, &h.Limits)
}

// CreateHub adds a hub with its policies.
func (s *Store) CreateHub(ctx context.Context, h signet.Hub) error {
	limits, err := json.Marshal(h.Limits)
	if err != nil {
		return err
	}
	texts := []string{h.Name, h.HostName, h.IDScope}
	for _, p := range h.Policies {
		texts = append(texts, p.Name, p.PrimaryKey, p.SecondaryKey)
	}
	if err := writable(texts...); err != nil {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		err := create(ctx, q, `INSERT INTO hub (name, host_name, created, at_expiry, id_scope, events, limits)
			VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`,
			h.Name, h.HostName, micros(h.Created), string(h.AtExpiry), h.IDScope, int64(h.Events), string(limits))
		if err != nil {
			return err
		}
		for i, p := range h.Policies {
			_, err := q.ExecContext(ctx, `INSERT INTO policy (hub, position, name, primary_key, secondary_key, rights)
				VALUES ($1, $2, $3, $4, $5, $6)`, h.Name, int64(i), p.Name, p.PrimaryKey, p.SecondaryKey, int64(p.Rights))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// SetAtExpiry changes what becomes of a hub's sessions at expiry.
func (s *Store) SetAtExpiry(ctx context.Context, hub string, policy signet.ExpiryPolicy) error {
	return s.setOfHub(ctx, hub, `UPDATE hub SET at_expiry = $2 WHERE name = $1`, string(policy))
}

// SetEvents changes what a hub tells on its message log.
func (s *Store) SetEvents(ctx context.Context, hub string, events signet.EventSources) error {
	return s.setOfHub(ctx, hub, `UPDATE hub SET events = $2 WHERE name = $1`, int64(events))
}

// SetLimits changes what a hub lets itself and its devices do.
func (s *Store) SetLimits(ctx context.Context, hub string, l signet.Limits) error {
	limits, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return s.setOfHub(ctx, hub, `UPDATE hub SET limits = $2 WHERE name = $1`, string(limits))
}

func (s *Store) setOfHub(ctx context.Context, hub, query string, value any) error {
	if !findable(hub) {
		return signet.ErrNotFound
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		n, err := affected(ctx, q, query, hub, value)
		if err == nil && n == 0 {
			err = signet.ErrNotFound
		}
		return err
	})
}

// DeleteHub removes a hub with everything that bears its name.
func (s *Store) DeleteHub(ctx context.Context, name string) error {
	if !findable(name) {
		return signet.ErrNotFound
	}
	defer s.known.change(name, "")()
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		// The hub first: that waits for verdicts that are being saved, see SaveVerdicts.
		n, err := affected(ctx, q, `DELETE FROM hub WHERE name = $1`, name)
		if err != nil {
			return err
		}
		if n == 0 {
			return signet.ErrNotFound
		}
		_, err = q.ExecContext(ctx, `DELETE FROM verdict WHERE hub = $1`, name)
		return err
	})
}

const (
	// identityGiven are the columns that a caller gives, identityColumns all.
	identityGiven = `hub, device_id, module_id, generation_id, etag, status, status_reason, status_updated, created,
		auth_type, primary_key, secondary_key, primary_thumbprint, secondary_thumbprint, edge_device`
	identityColumns = identityGiven + `, subscriptions`
	whereIdentity   = ` WHERE hub = $1 AND device_id = $2 AND module_id = $3`
)

func identityValues(i *signet.Identity) []any {
	return []any{i.Hub, i.DeviceID, i.ModuleID, i.GenerationID, i.ETag, string(i.Status), i.StatusReason,
		micros(i.StatusUpdatedTime), micros(i.CreatedTime), string(i.Auth.Type), i.Auth.PrimaryKey, i.Auth.SecondaryKey,
		i.Auth.PrimaryThumbprint, i.Auth.SecondaryThumbprint, flag(i.EdgeDevice)}
}

func writableIdentity(i *signet.Identity) error {
	return writable(i.Hub, i.DeviceID, i.ModuleID, i.GenerationID, i.ETag, string(i.Status), i.StatusReason,
		string(i.Auth.Type), i.Auth.PrimaryKey, i.Auth.SecondaryKey, i.Auth.PrimaryThumbprint, i.Auth.SecondaryThumbprint)
}

func scanIdentity(rows *sql.Rows, i *signet.Identity) error {
	var statusUpdated, created, edge int64
	err := rows.Scan(&i.Hub, &i.DeviceID, &i.ModuleID, &i.GenerationID, &i.ETag, (*string)(&i.Status), &i.StatusReason,
		&statusUpdated, &created, (*string)(&i.Auth.Type), &i.Auth.PrimaryKey, &i.Auth.SecondaryKey,
		&i.Auth.PrimaryThumbprint, &i.Auth.SecondaryThumbprint, &edge, &i.Subscriptions)
	i.StatusUpdatedTime, i.CreatedTime, i.EdgeDevice = moment(statusUpdated), moment(created), edge != 0
	return err
}

// Identity reads one identity; module is empty for a device.
func (s *Store) Identity(ctx context.Context, hub, device, module string) (signet.Identity, error) {
	if !findable(hub, device, module) {
		return signet.Identity{}, signet.ErrNotFound
	}
	var changes uint64
	if module == "" {
		var i *signet.Identity
		if i, changes = s.known.recall(hub, device); i != nil {
			return *i, nil
		}
	}
	i, err := one(ctx, s.engine.reader(), scanIdentity,
		`SELECT `+identityColumns+` FROM identity`+whereIdentity, hub, device, module)
	if err == nil && module == "" {
		s.known.learn(&i, changes)
	}
	return i, err
}

// Identities lists up to limit devices with an ID greater than after, in byte
// order.
func (s *Store) Identities(ctx context.Context, hub, after string, limit int) ([]signet.Identity, error) {
	if err := writable(hub, after); err != nil {
		return nil, err
	}
	return list(ctx, s.engine.reader(), scanIdentity,
		`SELECT `+identityColumns+` FROM identity WHERE hub = $1 AND device_id > $2 AND module_id = ''
		ORDER BY device_id LIMIT $3`, hub, after, int64(max(limit, 0)))
}

// Modules lists up to limit modules of a device, in byte order.
func (s *Store) Modules(ctx context.Context, hub, device string, limit int) ([]signet.Identity, error) {
	if !findable(hub, device) {
		return nil, nil
	}
	return list(ctx, s.engine.reader(), scanIdentity,
		`SELECT `+identityColumns+` FROM identity WHERE hub = $1 AND device_id = $2 AND module_id <> ''
		ORDER BY module_id LIMIT $3`, hub, device, int64(max(limit, 0)))
}

// CreateIdentity adds an identity. Its hub, and for a module its device, must be
// there: otherwise it fails with [signet.ErrNotFound].
func (s *Store) CreateIdentity(ctx context.Context, i signet.Identity, events ...signet.Event) error {
	if err := errors.Join(writableIdentity(&i), writableEvents(events)); err != nil {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		err := create(ctx, q, `INSERT INTO identity (`+identityGiven+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) ON CONFLICT DO NOTHING`,
			identityValues(&i)...)
		if err != nil {
			return err
		}
		return s.addEvents(ctx, q, events)
	})
}

// ReplaceIdentity replaces the record of the same key if its ETag is etag, or
// whatever it is when etag is "*". Subscriptions stay.
func (s *Store) ReplaceIdentity(ctx context.Context, i signet.Identity, etag string) error {
	if !findable(etag) {
		etag = ""
	}
	if err := writableIdentity(&i); err != nil {
		return err
	}
	defer s.known.change(i.Hub, i.DeviceID)()
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		return keyed(ctx, q, `UPDATE identity SET generation_id = $4, etag = $5, status = $6, status_reason = $7,
			status_updated = $8, created = $9, auth_type = $10, primary_key = $11, secondary_key = $12,
			primary_thumbprint = $13, secondary_thumbprint = $14, edge_device = $15`+
			whereIdentity+` AND ($16 = '*' OR etag = $16)`, append(identityValues(&i), etag),
			`SELECT 1 FROM identity`+whereIdentity, i.Hub, i.DeviceID, i.ModuleID)
	})
}

// SetSubscriptions replaces what the stored session of an identity of that generation
// listens to.
func (s *Store) SetSubscriptions(ctx context.Context, hub, device, module, generation string, subscriptions uint32) error {
	if !findable(hub, device, module, generation) {
		return signet.ErrNotFound
	}
	defer s.known.change(hub, device)()
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		n, err := affected(ctx, q, `UPDATE identity SET subscriptions = $5`+whereIdentity+` AND generation_id = $4`,
			hub, device, module, generation, int64(subscriptions))
		if err == nil && n == 0 {
			err = signet.ErrNotFound
		}
		return err
	})
}

// DeleteIdentity removes an identity, and with a device its modules; etag as for
// ReplaceIdentity.
func (s *Store) DeleteIdentity(ctx context.Context, hub, device, module, etag string, events ...signet.Event) error {
	if !findable(hub, device, module) {
		return signet.ErrNotFound
	}
	if !findable(etag) {
		etag = ""
	}
	if err := writableEvents(events); err != nil {
		return err
	}
	defer s.known.change(hub, device)()
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		err := keyed(ctx, q, `DELETE FROM identity`+whereIdentity+` AND ($4 = '*' OR etag = $4)`, []any{hub, device, module, etag},
			`SELECT 1 FROM identity`+whereIdentity, hub, device, module)
		if err != nil {
			return err
		}
		return s.addEvents(ctx, q, events)
	})
}

// CountDevices counts the devices of a hub, and the enabled ones among them.
func (s *Store) CountDevices(ctx context.Context, hub string) (total, enabled int64, err error) {
	if !findable(hub) {
		return 0, 0, nil
	}
	err = each(ctx, s.engine.reader(), func(rows *sql.Rows) error { return rows.Scan(&total, &enabled) },
		`SELECT count(*), count(*) FILTER (WHERE status = 'enabled') FROM identity WHERE hub = $1 AND module_id = ''`, hub)
	return total, enabled, err
}
