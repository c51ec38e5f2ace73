package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/inventory"
)

// Save writes what was seen of devices: see [inventory.Store].
func (s *Store) Save(ctx context.Context, news inventory.News) error {
	documents := make([]string, len(news.Branches))
	for n, b := range news.Branches {
		document, err := json.Marshal(b.SeenCertificate)
		if err != nil {
			return fmt.Errorf("store: branch %s: %w", b.ID, err)
		}
		if err := writable(string(document)); err != nil {
			return err
		}
		documents[n] = string(document)
	}
	for _, w := range news.Sightings {
		if err := writable(w.Subject, w.Remote, w.TLS); err != nil {
			return err
		}
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		for n, b := range news.Branches {
			if err := s.saveBranch(ctx, q, b, documents[n]); err != nil {
				return err
			}
		}
		for _, w := range news.Sightings {
			if err := saveSighting(ctx, q, w); err != nil {
				return err
			}
		}
		for _, l := range news.Left {
			if _, err := q.ExecContext(ctx, `UPDATE sighting SET last_seen = $4`+whereIdentity+` AND last_seen < $4`,
				l.Hub, l.DeviceID, l.ModuleID, micros(l.At)); err != nil {
				return err
			}
		}
		for _, r := range news.Refusals {
			if _, err := q.ExecContext(ctx, `UPDATE branch SET refused = refused + $3 WHERE hub = $1 AND id = $2`, r.Hub, r.Branch, r.Count); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) saveBranch(ctx context.Context, q queryer, b signet.Branch, document string) error {
	// The hub is kept there until the transaction ends.
	_, err := one(ctx, q, func(rows *sql.Rows, n *int) error { return rows.Scan(n) }, `SELECT 1 FROM hub WHERE name = $1`+s.engine.shared(), b.Hub)
	if errors.Is(err, signet.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := affected(ctx, q, `INSERT INTO branch (hub, id, parent, thumbprint, first_seen, refused, document, der)
		VALUES ($1, $2, $3, $4, $5, 0, $6, $7) ON CONFLICT DO NOTHING`,
		b.Hub, b.ID, b.Parent, b.Thumbprint, micros(b.FirstSeen), document, b.DER)
	if err != nil || n == 0 {
		return err
	}
	_, err = q.ExecContext(ctx, `INSERT INTO branch_above (hub, above, id)
		SELECT hub, above, $3 FROM branch_above WHERE hub = $1 AND id = $2`, b.Hub, b.Parent, b.ID)
	if err == nil {
		_, err = q.ExecContext(ctx, `INSERT INTO branch_above (hub, above, id) VALUES ($1, $2, $2)`, b.Hub, b.ID)
	}
	return err
}

func saveSighting(ctx context.Context, q queryer, w signet.Sighting) error {
	_, err := q.ExecContext(ctx, `INSERT INTO sighting (hub, device_id, module_id, branch, thumbprint, key, issuer_key, serial, key_type,
		not_before, not_after, first_seen, last_seen, since, previous, early, subject, signature, tls, remote, sent, der)
		SELECT hub, device_id, module_id, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23
		FROM identity`+whereIdentity+` AND generation_id = $4
		ON CONFLICT (hub, device_id, module_id) DO UPDATE SET branch = excluded.branch, thumbprint = excluded.thumbprint,
		key = excluded.key, issuer_key = excluded.issuer_key, serial = excluded.serial, key_type = excluded.key_type,
		not_before = excluded.not_before, not_after = excluded.not_after, last_seen = excluded.last_seen, since = excluded.since,
		previous = excluded.previous, early = excluded.early,
		subject = excluded.subject, signature = excluded.signature, tls = excluded.tls, remote = excluded.remote, sent = excluded.sent, der = excluded.der`,
		w.Hub, w.DeviceID, w.ModuleID, w.GenerationID, nullable(w.Branch), w.Thumbprint, w.Key, w.IssuerKey, w.Serial, w.KeyType,
		micros(w.NotBefore), micros(w.NotAfter), micros(w.FirstSeen), micros(w.LastSeen), micros(w.Since), w.Previous, w.Early,
		w.Subject, w.Signature, w.TLS, w.Remote, int64(w.Sent), w.DER)
	return err
}

func nullable(text string) sql.NullString { return sql.NullString{String: text, Valid: text != ""} }

// Alike reads what sightings are to be compared with: each with one statement.
func (s *Store) Alike(ctx context.Context, sightings []signet.Sighting) ([]inventory.Alike, error) {
	all := make([]inventory.Alike, len(sightings))
	for n, w := range sightings {
		if !findable(w.Hub, w.DeviceID, w.ModuleID) {
			continue
		}
		err := each(ctx, s.engine.reader(), func(rows *sql.Rows) error {
			var kind, notBefore, notAfter, since int64
			o := signet.Sighting{Hub: w.Hub}
			if err := rows.Scan(&kind, &o.DeviceID, &o.ModuleID, &o.Thumbprint, &o.Key, &o.Serial, &o.Subject, &notBefore, &notAfter, &since, &o.Previous, &o.Early); err != nil {
				return err
			}
			o.NotBefore, o.NotAfter, o.Since = moment(notBefore), moment(notAfter), moment(since)
			switch kind {
			case 0:
				all[n].Before = &o
			case 1:
				all[n].SameKey = append(all[n].SameKey, o)
			default:
				all[n].SameSerial = append(all[n].SameSerial, o)
			}
			return nil
		}, `SELECT 0, `+alikeColumns+` FROM sighting`+whereIdentity+`
			UNION ALL SELECT * FROM (SELECT 1, `+alikeColumns+` FROM sighting WHERE hub = $1 AND key = $4 AND device_id <> $2 LIMIT $8) AS k
			UNION ALL SELECT * FROM (SELECT 2, `+alikeColumns+` FROM sighting WHERE hub = $1 AND issuer_key = $5 AND $5 <> '' AND serial = $6
				AND thumbprint <> $7 AND NOT (device_id = $2 AND module_id = $3) LIMIT $8) AS s`,
			w.Hub, w.DeviceID, w.ModuleID, w.Key, w.IssuerKey, w.Serial, w.Thumbprint, int64(inventory.MaxAlike))
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

const alikeColumns = `device_id, module_id, thumbprint, key, serial, subject, not_before, not_after, since, previous, early`

// Prune removes branches that have nothing under them.
func (s *Store) Prune(ctx context.Context, hub string) (n int64, err error) {
	if !findable(hub) {
		return 0, nil
	}
	err = s.engine.write(ctx, func(ctx context.Context, q queryer) (err error) {
		n, err = affected(ctx, q, `DELETE FROM branch WHERE hub = $1 AND NOT EXISTS (SELECT 1 FROM branch_above a
			JOIN sighting s ON s.hub = a.hub AND s.branch = a.id WHERE a.hub = branch.hub AND a.above = branch.id)`, hub)
		return err
	})
	return n, err
}

// Branches lists the branches of a hub.
func (s *Store) Branches(ctx context.Context, hub string) ([]signet.Branch, error) {
	if !findable(hub) {
		return nil, nil
	}
	return list(ctx, s.engine.reader(), func(rows *sql.Rows, b *signet.Branch) (err error) {
		*b, err = scanBranch(rows, hub)
		return err
	}, `SELECT id, parent, first_seen, refused, document FROM branch WHERE hub = $1 ORDER BY id`, hub)
}

// Populations counts what is directly under each branch of a hub. What ends soon
// is few of many, and has an index of its own.
func (s *Store) Populations(ctx context.Context, hub string, endsBefore time.Time) (map[string]inventory.Population, error) {
	if !findable(hub) {
		return nil, nil
	}
	all := map[string]inventory.Population{}
	count := func(add func(*inventory.Population, int64), query string, args ...any) error {
		return each(ctx, s.engine.reader(), func(rows *sql.Rows) error {
			var branch sql.NullString
			var n int64
			err := rows.Scan(&branch, &n)
			p := all[branch.String]
			add(&p, n)
			all[branch.String] = p
			return err
		}, query, args...)
	}
	err := count(func(p *inventory.Population, n int64) { p.Devices = n },
		`SELECT branch, count(*) FROM sighting WHERE hub = $1 GROUP BY branch`, hub)
	if err == nil {
		err = count(func(p *inventory.Population, n int64) { p.Expiring = n },
			`SELECT branch, count(*) FROM sighting WHERE hub = $1 AND not_after < $2 GROUP BY branch`, hub, micros(endsBefore))
	}
	return all, err
}

func scanBranch(rows *sql.Rows, hub string, more ...any) (signet.Branch, error) {
	b := signet.Branch{Hub: hub}
	var first int64
	var document []byte
	if err := rows.Scan(append([]any{&b.ID, &b.Parent, &first, &b.Refused, &document}, more...)...); err != nil {
		return b, err
	}
	b.FirstSeen = moment(first)
	return b, json.Unmarshal(document, &b.SeenCertificate)
}

// Path gives a branch and those above it, the anchor last.
func (s *Store) Path(ctx context.Context, hub, branch string) ([]signet.Branch, error) {
	if !findable(hub, branch) {
		return nil, signet.ErrNotFound
	}
	above := map[string]signet.Branch{}
	err := each(ctx, s.engine.reader(), func(rows *sql.Rows) error {
		var der []byte
		b, err := scanBranch(rows, hub, &der)
		b.DER = der
		above[b.ID] = b
		return err
	}, `SELECT b.id, b.parent, b.first_seen, b.refused, b.document, b.der FROM branch_above a
		JOIN branch b ON b.hub = a.hub AND b.id = a.above WHERE a.hub = $1 AND a.id = $2`, hub, branch)
	if err != nil {
		return nil, err
	}
	var path []signet.Branch
	for b, ok := above[branch]; ok; b, ok = above[b.Parent] {
		path = append(path, b)
	}
	if path == nil {
		err = signet.ErrNotFound
	}
	return path, err
}

const sightingColumns = `s.device_id, s.module_id, s.branch, s.thumbprint, s.key, s.issuer_key, s.serial, s.key_type,
	s.not_before, s.not_after, s.first_seen, s.last_seen, s.since, s.previous, s.early, s.subject, s.signature, s.tls, s.remote, s.sent`

func scanSighting(rows *sql.Rows, hub string, w *signet.Sighting, more ...any) error {
	var notBefore, notAfter, first, last, since int64
	var branch sql.NullString
	w.Hub = hub
	err := rows.Scan(append([]any{&w.DeviceID, &w.ModuleID, &branch, &w.Thumbprint, &w.Key, &w.IssuerKey, &w.Serial, &w.KeyType,
		&notBefore, &notAfter, &first, &last, &since, &w.Previous, &w.Early, &w.Subject, &w.Signature, &w.TLS, &w.Remote, &w.Sent}, more...)...)
	w.Branch = branch.String
	w.NotBefore, w.NotAfter, w.FirstSeen, w.LastSeen, w.Since = moment(notBefore), moment(notAfter), moment(first), moment(last), moment(since)
	return err
}

// conditions are those of a statement, with their arguments.
type conditions struct {
	text string
	args []any
}

// and adds a condition, in which %s stands for the value.
func (c *conditions) and(condition string, value any) {
	c.args = append(c.args, value)
	c.text += ` AND ` + fmt.Sprintf(condition, fmt.Sprintf("$%d", len(c.args)))
}

// where gives the conditions of a filter on sightings s of a hub, but for its
// branch.
func where(hub string, f *inventory.Filter) *conditions {
	c := &conditions{` WHERE s.hub = $1`, []any{hub}}
	if f.KeyType != "" {
		c.and(`s.key_type = %s`, f.KeyType)
	}
	for _, bound := range []struct {
		condition string
		at        time.Time
	}{
		{`s.not_before >= %s`, f.IssuedAfter}, {`s.not_before < %s`, f.IssuedBefore},
		{`s.not_after >= %s`, f.ExpiresAfter}, {`s.not_after < %s`, f.ExpiresBefore},
		{`s.first_seen >= %s`, f.FirstSeenAfter}, {`s.first_seen < %s`, f.FirstSeenBefore},
		{`s.last_seen >= %s`, f.LastSeenAfter}, {`s.last_seen < %s`, f.LastSeenBefore},
	} {
		if !bound.at.IsZero() {
			c.and(bound.condition, micros(bound.at))
		}
	}
	return c
}

// Sightings lists how identities last authenticated.
//
// Each page costs what it holds and what the filter passes over, and no more: of
// a branch, what is left of the one that the page before ended in is read, then
// the branches after it in the order of the index.
func (s *Store) Sightings(ctx context.Context, hub string, f inventory.Filter, after inventory.Place, limit int) ([]signet.Sighting, error) {
	if !findable(hub, f.Branch, f.KeyType, after.Branch, after.DeviceID, after.ModuleID) {
		return nil, nil
	}
	columns := `SELECT ` + sightingColumns
	if f.DER {
		columns += `, s.der`
	}
	if f.Status {
		columns += `, (SELECT i.status FROM identity i WHERE i.hub = s.hub AND i.device_id = s.device_id AND i.module_id = s.module_id)`
	}
	read := func(from string, c *conditions, order string, limit int) ([]signet.Sighting, error) {
		c.args = append(c.args, int64(max(limit, 0)))
		return list(ctx, s.engine.reader(), func(rows *sql.Rows, w *signet.Sighting) error {
			var more []any
			if f.DER {
				more = append(more, &w.DER)
			}
			if f.Status {
				more = append(more, (*string)(&w.Status))
			}
			return scanSighting(rows, hub, w, more...)
		}, columns+from+c.text+` ORDER BY `+order+fmt.Sprintf(` LIMIT $%d`, len(c.args)), c.args...)
	}
	rest := func(c *conditions) *conditions {
		c.args = append(c.args, after.DeviceID, after.ModuleID)
		c.text += fmt.Sprintf(` AND (s.device_id, s.module_id) > ($%d, $%d)`, len(c.args)-1, len(c.args))
		return c
	}
	const byIdentity = `s.device_id, s.module_id`
	switch f.Branch {
	case "":
		return read(` FROM sighting s`, rest(where(hub, &f)), byIdentity, limit)
	case inventory.Thumbprinted:
		c := rest(where(hub, &f))
		c.text += ` AND s.branch IS NULL`
		return read(` FROM sighting s`, c, byIdentity, limit)
	}
	var page []signet.Sighting
	if after.Branch != "" {
		c := rest(where(hub, &f))
		c.and(`s.branch = %s`, after.Branch)
		var err error
		if page, err = read(` FROM sighting s`, c, byIdentity, limit); err != nil {
			return nil, err
		}
	}
	if len(page) < limit {
		c := where(hub, &f)
		c.text += ` AND b.hub = $1 AND s.branch = b.id`
		c.and(`b.above = %s`, f.Branch)
		c.and(`b.id > %s`, after.Branch)
		more, err := read(` FROM branch_above b CROSS JOIN sighting s`, c, `b.id, `+byIdentity, limit-len(page))
		if err != nil {
			return nil, err
		}
		page = append(page, more...)
	}
	return page, nil
}

// CountSightings counts what a filter chooses.
func (s *Store) CountSightings(ctx context.Context, hub string, f inventory.Filter) (int64, error) {
	if !findable(hub, f.Branch, f.KeyType) {
		return 0, nil
	}
	c, from := where(hub, &f), ` FROM sighting s`
	switch f.Branch {
	case "":
	case inventory.Thumbprinted:
		c.text += ` AND s.branch IS NULL`
	default:
		from = ` FROM branch_above b CROSS JOIN sighting s`
		c.text += ` AND b.hub = $1 AND s.branch = b.id`
		c.and(`b.above = %s`, f.Branch)
	}
	return one(ctx, s.engine.reader(), func(rows *sql.Rows, n *int64) error { return rows.Scan(n) }, `SELECT count(*)`+from+c.text, c.args...)
}

// Sighting reads how one identity last authenticated.
func (s *Store) Sighting(ctx context.Context, hub, device, module string) (signet.Sighting, error) {
	if !findable(hub, device, module) {
		return signet.Sighting{}, signet.ErrNotFound
	}
	return one(ctx, s.engine.reader(), func(rows *sql.Rows, w *signet.Sighting) error {
		return scanSighting(rows, hub, w, &w.DER)
	}, `SELECT `+sightingColumns+`, s.der FROM sighting s`+whereIdentity, hub, device, module)
}
