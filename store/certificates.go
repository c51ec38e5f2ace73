package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
)

const (
	caColumns = `hub, name_folded, name, der, subject, thumbprint, not_before, not_after, verified, verification_code,
		etag, created, updated`
	whereCA = ` WHERE hub = $1 AND name_folded = $2`
)

func caValues(c *signet.CACertificate) []any {
	return []any{c.Hub, strings.ToLower(c.Name), c.Name, append([]byte{}, c.DER...), c.Subject, c.Thumbprint, micros(c.NotBefore),
		micros(c.NotAfter), flag(c.Verified), c.VerificationCode, c.ETag, micros(c.Created), micros(c.Updated)}
}

func writableCA(c *signet.CACertificate) error {
	return writable(c.Hub, c.Name, c.Subject, c.Thumbprint, c.VerificationCode, c.ETag)
}

func scanCA(rows *sql.Rows, c *signet.CACertificate) error {
	var folded string
	var notBefore, notAfter, verified, created, updated int64
	err := rows.Scan(&c.Hub, &folded, &c.Name, &c.DER, &c.Subject, &c.Thumbprint, &notBefore, &notAfter, &verified,
		&c.VerificationCode, &c.ETag, &created, &updated)
	c.NotBefore, c.NotAfter, c.Verified = moment(notBefore), moment(notAfter), verified != 0
	c.Created, c.Updated = moment(created), moment(updated)
	return err
}

// CAs lists the certificates of a hub by name, without regard to case; of all
// hubs, by hub and name, for "".
func (s *Store) CAs(ctx context.Context, hub string) ([]signet.CACertificate, error) {
	if !findable(hub) {
		return nil, nil
	}
	where, args := ``, []any(nil)
	if hub != "" {
		where, args = ` WHERE hub = $1`, []any{hub}
	}
	return list(ctx, s.engine.reader(), scanCA,
		`SELECT `+caColumns+` FROM ca_certificate`+where+` ORDER BY hub, name_folded`, args...)
}

// CA reads one certificate.
func (s *Store) CA(ctx context.Context, hub, name string) (signet.CACertificate, error) {
	if !findable(hub, name) {
		return signet.CACertificate{}, signet.ErrNotFound
	}
	return one(ctx, s.engine.reader(), scanCA, `SELECT `+caColumns+` FROM ca_certificate`+whereCA, hub, strings.ToLower(name))
}

// CreateCA adds a certificate. Its hub must be there: otherwise it fails with
// [signet.ErrNotFound].
func (s *Store) CreateCA(ctx context.Context, c signet.CACertificate) error {
	if err := writableCA(&c); err != nil {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		return create(ctx, q, `INSERT INTO ca_certificate (`+caColumns+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING`, caValues(&c)...)
	})
}

// ReplaceCA replaces the record of the same hub and name if its ETag is etag. The
// name stays as first given.
func (s *Store) ReplaceCA(ctx context.Context, c signet.CACertificate, etag string) error {
	if !findable(etag) {
		etag = ""
	}
	if err := writableCA(&c); err != nil {
		return err
	}
	folded := strings.ToLower(c.Name)
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		return keyed(ctx, q, `UPDATE ca_certificate SET der = $3, subject = $4, thumbprint = $5, not_before = $6,
			not_after = $7, verified = $8, verification_code = $9, etag = $10, created = $11, updated = $12`+
			whereCA+` AND etag = $13`, append(slices.Delete(caValues(&c), 2, 3), etag),
			`SELECT 1 FROM ca_certificate`+whereCA, c.Hub, folded)
	})
}

// DeleteCA removes a certificate if its ETag is etag.
func (s *Store) DeleteCA(ctx context.Context, hub, name, etag string) error {
	if !findable(hub, name) {
		return signet.ErrNotFound
	}
	if !findable(etag) {
		etag = ""
	}
	folded := strings.ToLower(name)
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		return keyed(ctx, q, `DELETE FROM ca_certificate`+whereCA+` AND etag = $3`, []any{hub, folded, etag},
			`SELECT 1 FROM ca_certificate`+whereCA, hub, folded)
	})
}

const distrustColumns = `hub, id, kind, thumbprint, key_hash, issuer_key_hash, serial, subject, reason, by_whom, created`

func scanDistrust(rows *sql.Rows, d *signet.Distrust) error {
	var created int64
	err := rows.Scan(&d.Hub, &d.ID, &d.Kind, &d.Thumbprint, &d.Key, &d.IssuerKey, &d.Serial, &d.Subject, &d.Reason, &d.By, &created)
	d.Created = moment(created)
	return err
}

// Distrusts lists what a hub distrusts, the latest first; of all hubs for "".
func (s *Store) Distrusts(ctx context.Context, hub string) ([]signet.Distrust, error) {
	if !findable(hub) {
		return nil, nil
	}
	where, args := ``, []any(nil)
	if hub != "" {
		where, args = ` WHERE hub = $1`, []any{hub}
	}
	return list(ctx, s.engine.reader(), scanDistrust,
		`SELECT `+distrustColumns+` FROM distrust`+where+` ORDER BY created DESC, hub, id`, args...)
}

// CreateDistrust adds one. Its hub must be there: otherwise it fails with
// [signet.ErrNotFound].
func (s *Store) CreateDistrust(ctx context.Context, d signet.Distrust) error {
	if err := writable(d.Hub, d.ID, string(d.Kind), d.Thumbprint, d.Key, d.IssuerKey, d.Serial, d.Subject, d.Reason, d.By); err != nil {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		return create(ctx, q, `INSERT INTO distrust (`+distrustColumns+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`,
			d.Hub, d.ID, string(d.Kind), d.Thumbprint, d.Key, d.IssuerKey, d.Serial, d.Subject, d.Reason, d.By, micros(d.Created))
	})
}

// DeleteDistrust removes one.
func (s *Store) DeleteDistrust(ctx context.Context, hub, id string) error {
	if !findable(hub, id) {
		return signet.ErrNotFound
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		n, err := affected(ctx, q, `DELETE FROM distrust WHERE hub = $1 AND id = $2`, hub, id)
		if err == nil && n == 0 {
			err = signet.ErrNotFound
		}
		return err
	})
}

// SaveVerdicts adds verdicts, or replaces those that have the same tracking ID,
// and drops the oldest beyond keep of each hub concerned. Those of a hub that is
// no longer there are left out: they would be shown to the next hub of that name.
func (s *Store) SaveVerdicts(ctx context.Context, vs []signet.Verdict, keep int) error {
	type row struct {
		hub, trackingID, deviceID, document string
		time                                int64
	}
	rows := make([]row, len(vs))
	for i, v := range vs {
		document, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("store: verdict %s: %w", v.TrackingID, err)
		}
		rows[i] = row{stored(v.Hub), stored(v.TrackingID), stored(v.DeviceID), string(document), micros(v.Time)}
	}
	// By hub; and in one order, so that two servers that save do not deadlock.
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(strings.Compare(a.hub, b.hub), strings.Compare(a.trackingID, b.trackingID))
	})

	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		for rest := rows; len(rest) > 0; {
			hub, n := rest[0].hub, 1
			for n < len(rest) && rest[n].hub == hub {
				n++
			}
			ofHub := rest[:n]
			rest = rest[n:]
			there := hub == ""
			if err := each(ctx, q, func(*sql.Rows) error { there = true; return nil },
				`SELECT 1 FROM hub WHERE name = $1`+s.engine.shared(), hub); err != nil {
				return err
			}
			if !there {
				continue
			}
			for _, r := range ofHub {
				_, err := q.ExecContext(ctx, `INSERT INTO verdict (hub, tracking_id, device_id, time, document)
					VALUES ($1, $2, $3, $4, $5)
					ON CONFLICT (hub, tracking_id) DO UPDATE SET device_id = excluded.device_id, time = excluded.time,
					document = excluded.document`, r.hub, r.trackingID, r.deviceID, r.time, r.document)
				if err != nil {
					return err
				}
			}
			_, err := q.ExecContext(ctx, `DELETE FROM verdict WHERE hub = $1 AND (time, tracking_id) <=
				(SELECT time, tracking_id FROM verdict WHERE hub = $1 ORDER BY time DESC, tracking_id DESC LIMIT 1 OFFSET $2)`,
				hub, int64(max(keep, 0)))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Verdicts lists the newest first.
func (s *Store) Verdicts(ctx context.Context, q authority.VerdictQuery) ([]signet.Verdict, error) {
	query, args := `SELECT document FROM verdict WHERE hub = $1 AND time >= $2`, []any{stored(q.Hub), micros(q.Since)}
	for _, c := range []struct{ column, value string }{{"device_id", q.DeviceID}, {"tracking_id", q.TrackingID}} {
		if c.value != "" {
			args = append(args, stored(c.value))
			query += fmt.Sprintf(` AND %s = $%d`, c.column, len(args))
		}
	}
	args = append(args, int64(max(q.Limit, 0)))
	query += fmt.Sprintf(` ORDER BY time DESC, tracking_id DESC LIMIT $%d`, len(args))
	return list(ctx, s.engine.reader(), func(rows *sql.Rows, v *signet.Verdict) error {
		var document []byte
		if err := rows.Scan(&document); err != nil {
			return err
		}
		return json.Unmarshal(document, v)
	}, query, args...)
}

// stored makes text that a stranger chose fit for every database. A verdict is
// found by what is left of it.
func stored(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}
