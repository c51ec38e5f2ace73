package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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
		documents[n] = string(document)
	}
	if err := writable(documents...); err != nil {
		return err
	}
	for _, w := range news.Sightings {
		if err := writable(w.Subject, w.Remote, w.TLS); err != nil {
			return err
		}
	}
	write := s.engine.writeBehind
	if len(news.Clones) > 0 { // of which people are told
		write = s.engine.write
	}
	return write(ctx, func(ctx context.Context, q queryer) error {
		if err := s.saveBranches(ctx, q, news.Branches, documents); err != nil {
			return err
		}
		for _, some := range pieces(news.Sightings, maxPiece) {
			if err := saveSightings(ctx, q, some, s.engine.rows()); err != nil {
				return err
			}
		}
		for _, some := range pieces(news.Left, maxPiece) {
			if err := saveLeft(ctx, q, some); err != nil {
				return err
			}
		}
		if err := s.saveClones(ctx, q, news.Clones); err != nil {
			return err
		}
		for _, r := range news.Refusals {
			if _, err := q.ExecContext(ctx, `UPDATE branch SET refused = refused + $3 WHERE hub = $1 AND id = $2`, r.Hub, r.Branch, r.Count); err != nil {
				return err
			}
		}
		return nil
	})
}

// saveBranches adds those that are not there yet, parents first, to hubs that are.
func (s *Store) saveBranches(ctx context.Context, q queryer, branches []signet.Branch, documents []string) error {
	hubs := map[string]bool{}
	var keys [][2]string
	for _, b := range branches {
		if _, asked := hubs[b.Hub]; !asked {
			there, err := s.hubIs(ctx, q, b.Hub)
			if err != nil {
				return err
			}
			hubs[b.Hub] = there
		}
		if keys = append(keys, [2]string{b.Hub, b.ID}); b.Parent != "" {
			keys = append(keys, [2]string{b.Hub, b.Parent})
		}
	}
	paths, err := branchPaths(ctx, q, keys)
	if err != nil {
		return err
	}
	var fresh, stands [][]any
	for n, b := range branches {
		key, parent := [2]string{b.Hub, b.ID}, [2]string{b.Hub, b.Parent}
		if _, there := paths[key]; there || !hubs[b.Hub] {
			continue
		}
		if _, there := paths[parent]; !there && b.Parent != "" {
			return signet.ErrNotFound
		}
		paths[key] = paths[parent] + b.ID + "/"
		fresh = append(fresh, []any{b.Hub, b.ID, b.Parent, micros(b.FirstSeen), int64(0), documents[n], b.DER})
		stands = append(stands, []any{b.Hub, paths[key], b.ID})
	}
	err = insert(ctx, q, `branch (hub, id, parent, first_seen, refused, document, der)`, fresh, s.engine.rows(), `DO NOTHING`)
	if err == nil {
		err = insert(ctx, q, `branch_path (hub, path, id)`, stands, s.engine.rows(), `DO NOTHING`)
	}
	return err
}

// branchPaths reads where branches stand, each named by its hub and ID: those that are
// there, with all that is above them.
func branchPaths(ctx context.Context, q queryer, keys [][2]string) (map[[2]string]string, error) {
	keys = slices.Compact(slices.SortedFunc(slices.Values(keys), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }))
	paths := map[[2]string]string{}
	for _, some := range pieces(keys, maxPiece) {
		var args []any
		for _, key := range some {
			args = append(args, key[0], key[1])
		}
		err := each(ctx, q, func(rows *sql.Rows) error {
			var key [2]string
			var path string
			err := rows.Scan(&key[0], &key[1], &path)
			paths[key] = path
			return err
		}, `WITH RECURSIVE up (hub, id, above, path) AS (
			SELECT b.hub, b.id, b.parent, b.id || '/' FROM (VALUES `+values(1, len(some), "", "")+`) AS v
			CROSS JOIN branch b WHERE b.hub = v.column1 AND b.id = v.column2
			UNION ALL SELECT up.hub, up.id, b.parent, b.id || '/' || up.path FROM up CROSS JOIN branch b WHERE b.hub = up.hub AND b.id = up.above)
			SELECT hub, id, path FROM up WHERE above = ''`, args...)
		if err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// beneath says that branch_path b is a path or below it.
func beneath(path string) string { return `b.path >= ` + path + ` AND b.path < ` + past(path) }

// past is what comes next after all that begins with a path: a '0' does after a '/'.
func past(path string) string { return `rtrim(` + path + `, '/') || '0'` }

// insert adds rows to a table with its columns, up to most by a statement.
func insert(ctx context.Context, q queryer, into string, rows [][]any, most int, conflict string) error {
	statement, size := "", 0
	for _, some := range pieces(rows, most) {
		if len(some) != size {
			size = len(some)
			statement = `INSERT INTO ` + into + ` VALUES ` + values(1, size, make([]string, len(some[0]))...) + ` ON CONFLICT ` + conflict
		}
		args := some[0]
		if size > 1 {
			args = slices.Concat(some...)
		}
		if _, err := q.ExecContext(ctx, statement, args...); err != nil {
			return err
		}
	}
	return nil
}

// hubIs says whether there is a hub, and keeps it there until the transaction ends.
func (s *Store) hubIs(ctx context.Context, q queryer, hub string) (bool, error) {
	_, err := one(ctx, q, func(rows *sql.Rows, n *int) error { return rows.Scan(n) }, `SELECT 1 FROM hub WHERE name = $1`+s.engine.shared(), hub)
	if errors.Is(err, signet.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// maxPiece is how many rows one statement takes: a server across a network is
// asked once for all of them.
const maxPiece = 64

// pieces cuts a list into pieces of a few sizes, so that there are few statements
// to keep prepared.
func pieces[T any](list []T, size int) (all [][]T) {
	for len(list) > 0 {
		for size > len(list) {
			size /= 2
		}
		all, list = append(all, list[:size]), list[size:]
	}
	return all
}

// values writes n rows of parameters, from $first on, with the given casts ("" is
// none) for their columns.
func values(first, n int, casts ...string) string {
	var text strings.Builder
	for row := range n {
		text.WriteString([]string{", (", "("}[flag(row == 0)])
		for column, cast := range casts {
			parameter := fmt.Sprintf("$%d", first+row*len(casts)+column)
			if cast != "" {
				parameter = "CAST(" + parameter + " AS " + cast + ")"
			}
			text.WriteString([]string{", ", ""}[flag(column == 0)] + parameter)
		}
		text.WriteString(")")
	}
	return text.String()
}

// saveSightings writes the sightings of identities that are there as they were.
// One that goes in this moment fails the foreign key.
func saveSightings(ctx context.Context, q queryer, some []signet.Sighting, rows int) error {
	args := []any{}
	for _, w := range some {
		args = append(args, w.Hub, w.DeviceID, w.ModuleID, w.GenerationID)
	}
	there := map[[3]string]bool{}
	err := each(ctx, q, func(rows *sql.Rows) error {
		var key [3]string
		err := rows.Scan(&key[0], &key[1], &key[2])
		there[key] = true
		return err
	}, `SELECT i.hub, i.device_id, i.module_id FROM (VALUES `+values(1, len(some), "", "", "", "")+`) AS v
		JOIN identity i ON i.hub = v.column1 AND i.device_id = v.column2 AND i.module_id = v.column3 AND i.generation_id = v.column4`, args...)
	if err != nil {
		return err
	}
	some = slices.DeleteFunc(slices.Clone(some), func(w signet.Sighting) bool { return !there[[3]string{w.Hub, w.DeviceID, w.ModuleID}] })
	list := make([][]any, len(some))
	for n, w := range some {
		list[n] = []any{w.Hub, w.DeviceID, w.ModuleID, nullable(w.Branch), w.Thumbprint, w.Key, w.Issued, w.Serial, w.KeyType,
			micros(w.NotBefore), micros(w.NotAfter), micros(w.FirstSeen), micros(w.LastSeen), micros(w.Since), w.Previous, w.Early,
			w.Subject, w.Signature, w.TLS, w.Remote, int64(w.Sent), w.DER}
	}
	return insert(ctx, q, `sighting (hub, device_id, module_id, branch, thumbprint, key, issued, serial, key_type,
		not_before, not_after, first_seen, last_seen, since, previous, early, subject, signature, tls, remote, sent, der)`, list, rows,
		`(hub, device_id, module_id) DO UPDATE SET branch = excluded.branch, thumbprint = excluded.thumbprint,
		key = excluded.key, issued = excluded.issued, serial = excluded.serial, key_type = excluded.key_type,
		not_before = excluded.not_before, not_after = excluded.not_after, last_seen = excluded.last_seen, since = excluded.since,
		previous = excluded.previous, early = excluded.early,
		subject = excluded.subject, signature = excluded.signature, tls = excluded.tls, remote = excluded.remote, sent = excluded.sent, der = excluded.der`)
}

func saveLeft(ctx context.Context, q queryer, some []inventory.Left) error {
	args := []any{}
	for _, l := range some {
		args = append(args, l.Hub, l.DeviceID, l.ModuleID, micros(l.At))
	}
	_, err := q.ExecContext(ctx, `UPDATE sighting SET last_seen = v.column4 FROM (VALUES `+values(1, len(some), "", "", "", "BIGINT")+`) AS v
		WHERE hub = v.column1 AND device_id = v.column2 AND module_id = v.column3 AND last_seen < v.column4`, args...)
	return err
}

func nullable(text string) sql.NullString { return sql.NullString{String: text, Valid: text != ""} }

// Alike reads what sightings are to be compared with. That another device has a
// key is seen by the first and the last that have it, so that it costs the same
// for a key of two and for one of a million; only then they are read. To ask whether there
// is another, PostgreSQL, while it has no statistics of a table that grows, would not take
// the index: 20 times as long.
func (s *Store) Alike(ctx context.Context, sightings []signet.Sighting) ([]inventory.Alike, error) {
	all := make([]inventory.Alike, len(sightings))
	at := 0
	for _, some := range pieces(sightings, maxPiece) {
		args := []any{}
		for n, w := range some {
			if err := writable(w.Hub, w.DeviceID, w.ModuleID); err != nil {
				return nil, err
			}
			args = append(args, int64(at+n), w.Hub, w.DeviceID, w.ModuleID, w.Key, w.Issued)
		}
		at += len(some)
		var sameKey, sameIssued []int // of those that have some
		err := each(ctx, s.engine.reader(), func(rows *sql.Rows) error {
			var n int64
			var keyFirst, keyLast, issuedFirst, issuedLast, thumbprint, key, issued, previous sql.NullString
			var notBefore, notAfter, since, early sql.NullInt64
			err := rows.Scan(&n, &keyFirst, &keyLast, &issuedFirst, &issuedLast, &thumbprint, &key, &issued, &notBefore, &notAfter, &since, &previous, &early)
			if err != nil {
				return err
			}
			w := sightings[n]
			other := func(device sql.NullString) bool { return device.Valid && device.String != w.DeviceID }
			if other(keyFirst) || other(keyLast) {
				sameKey = append(sameKey, int(n))
			}
			if w.Issued != "" && (other(issuedFirst) || other(issuedLast)) {
				sameIssued = append(sameIssued, int(n))
			}
			if thumbprint.Valid {
				all[n].Before = &signet.Sighting{Hub: w.Hub, DeviceID: w.DeviceID, ModuleID: w.ModuleID, Issued: issued.String,
					SeenCertificate: signet.SeenCertificate{Thumbprint: thumbprint.String, Key: key.String, NotBefore: moment(notBefore.Int64), NotAfter: moment(notAfter.Int64)},
					Since:           moment(since.Int64), Previous: previous.String, Early: early.Int64}
			}
			return nil
		}, `SELECT v.column1,
			(SELECT min(device_id) FROM sighting`+s.engine.by("sighting_key")+` WHERE hub = v.column2 AND key = v.column5),
			(SELECT max(device_id) FROM sighting`+s.engine.by("sighting_key")+` WHERE hub = v.column2 AND key = v.column5),
			(SELECT min(device_id) FROM sighting`+s.engine.by("sighting_issued")+` WHERE hub = v.column2 AND issued = v.column6),
			(SELECT max(device_id) FROM sighting`+s.engine.by("sighting_issued")+` WHERE hub = v.column2 AND issued = v.column6),
			s.thumbprint, s.key, s.issued, s.not_before, s.not_after, s.since, s.previous, s.early
			FROM (VALUES `+values(1, len(some), "BIGINT", "", "", "", "", "")+`) AS v
			LEFT JOIN sighting s ON s.hub = v.column2 AND s.device_id = v.column3 AND s.module_id = v.column4`, args...)
		for _, n := range sameKey {
			if err == nil {
				all[n].SameKey, err = s.alike(ctx, "key", sightings[n].Key, &sightings[n])
			}
		}
		for _, n := range sameIssued {
			if err == nil {
				all[n].SameIssued, err = s.alike(ctx, "issued", sightings[n].Issued, &sightings[n])
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// alike reads some of other devices that have the same in a column.
func (s *Store) alike(ctx context.Context, column, value string, w *signet.Sighting) ([]signet.Sighting, error) {
	return list(ctx, s.engine.reader(), func(rows *sql.Rows, o *signet.Sighting) error {
		o.Hub = w.Hub
		return rows.Scan(&o.DeviceID, &o.ModuleID, &o.Thumbprint, &o.Key, &o.Issued, &o.Serial, &o.Subject)
	}, `SELECT device_id, module_id, thumbprint, key, issued, serial, subject FROM sighting`+s.engine.by("sighting_"+column)+`
		WHERE hub = $1 AND `+column+` = $2 AND device_id <> $3 ORDER BY device_id LIMIT $4`,
		w.Hub, value, w.DeviceID, int64(inventory.MaxAlike))
}

// Prune removes branches that have nothing under them. Which have something is found from
// the sightings up: to look for something below each, PostgreSQL compares it with all others.
func (s *Store) Prune(ctx context.Context, hub string) (n int64, err error) {
	if !findable(hub) {
		return 0, nil
	}
	err = s.engine.write(ctx, func(ctx context.Context, q queryer) (err error) {
		n, err = affected(ctx, q, `WITH RECURSIVE alive (id) AS (SELECT b.id FROM branch b WHERE b.hub = $1 AND EXISTS (SELECT 1 FROM sighting`+s.engine.by("sighting_branch")+`
			WHERE hub = b.hub AND branch = b.id) UNION SELECT b.parent FROM alive a CROSS JOIN branch b WHERE b.hub = $1 AND b.id = a.id)
			DELETE FROM branch WHERE hub = $1 AND id IN (SELECT id FROM branch WHERE hub = $1 EXCEPT SELECT id FROM alive)`, hub)
		if err == nil {
			_, err = q.ExecContext(ctx, `DELETE FROM branch_path WHERE hub = $1 AND id IN (SELECT id FROM branch_path WHERE hub = $1 EXCEPT SELECT id FROM branch WHERE hub = $1)`, hub)
		}
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

// Populations counts what is directly under each branch of a hub, by an index that
// holds all that is asked for.
func (s *Store) Populations(ctx context.Context, hub string, endsBefore time.Time) (map[string]inventory.Population, error) {
	if !findable(hub) {
		return nil, nil
	}
	all := map[string]inventory.Population{}
	return all, each(ctx, s.engine.reader(), func(rows *sql.Rows) error {
		var branch sql.NullString
		var p inventory.Population
		err := rows.Scan(&branch, &p.Devices, &p.Expiring)
		all[branch.String] = p
		return err
	}, `SELECT branch, count(*), count(CASE WHEN not_after < $2 THEN 1 END) FROM sighting`+s.engine.by("sighting_branch")+`
		WHERE hub = $1 GROUP BY branch`, hub, micros(endsBefore))
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
	}, `WITH RECURSIVE above (id) AS (SELECT id FROM branch WHERE hub = $1 AND id = $2
		UNION SELECT b.parent FROM above a CROSS JOIN branch b WHERE b.hub = $1 AND b.id = a.id)
		SELECT b.id, b.parent, b.first_seen, b.refused, b.document, b.der FROM above a CROSS JOIN branch b WHERE b.hub = $1 AND b.id = a.id`, hub, branch)
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

const sightingColumns = `s.device_id, s.module_id, s.branch, s.thumbprint, s.key, s.issued, s.serial, s.key_type,
	s.not_before, s.not_after, s.first_seen, s.last_seen, s.since, s.previous, s.early, s.subject, s.signature, s.tls, s.remote, s.sent`

func scanSighting(rows *sql.Rows, hub string, w *signet.Sighting, more ...any) error {
	var notBefore, notAfter, first, last, since int64
	var branch sql.NullString
	w.Hub = hub
	err := rows.Scan(append([]any{&w.DeviceID, &w.ModuleID, &branch, &w.Thumbprint, &w.Key, &w.Issued, &w.Serial, &w.KeyType,
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
// the branches after it in the order of their paths.
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
	byBranch := s.engine.by("sighting_branch")
	const byIdentity = `s.device_id, s.module_id`
	switch f.Branch {
	case "":
		return read(` FROM sighting s`, rest(where(hub, &f)), byIdentity, limit)
	case inventory.Thumbprinted:
		c := rest(where(hub, &f))
		c.text += ` AND s.branch IS NULL`
		return read(` FROM sighting s`+byBranch, c, byIdentity, limit)
	}
	top, place := [2]string{hub, f.Branch}, [2]string{hub, after.Branch}
	paths, err := branchPaths(ctx, s.engine.reader(), [][2]string{top, place})
	if err != nil || paths[top] == "" {
		return nil, err
	}
	var page []signet.Sighting
	if after.Branch != "" {
		if !strings.HasPrefix(paths[place], paths[top]) {
			return nil, signet.ErrNotFound
		}
		c := rest(where(hub, &f))
		c.and(`s.branch = %s`, after.Branch)
		if page, err = read(` FROM sighting s`+byBranch, c, byIdentity, limit); err != nil {
			return nil, err
		}
	}
	if len(page) < limit {
		c := where(hub, &f)
		c.text += ` AND b.hub = $1 AND s.branch = b.id`
		if after.Branch == "" {
			c.and(beneath("%[1]s"), paths[top])
		} else {
			c.and(`b.path > %s`, paths[place])
			c.and(`b.path < `+past("%s"), paths[top])
		}
		more, err := read(` FROM branch_path b CROSS JOIN sighting s`+byBranch, c, `b.path, `+byIdentity, limit-len(page))
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
	c, from, byBranch := where(hub, &f), ` FROM sighting s`, s.engine.by("sighting_branch")
	switch f.Branch {
	case "":
	case inventory.Thumbprinted:
		from += byBranch
		c.text += ` AND s.branch IS NULL`
	default:
		top := [2]string{hub, f.Branch}
		paths, err := branchPaths(ctx, s.engine.reader(), [][2]string{top})
		if err != nil || paths[top] == "" {
			return 0, err
		}
		from = ` FROM branch_path b CROSS JOIN sighting s` + byBranch
		c.text += ` AND b.hub = $1 AND s.branch = b.id`
		c.and(beneath("%[1]s"), paths[top])
	}
	return one(ctx, s.engine.reader(), func(rows *sql.Rows, n *int64) error { return rows.Scan(n) }, `SELECT count(*)`+from+c.text, c.args...)
}

// CountUnseen counts the identities that authenticate by a CA and have no sighting.
func (s *Store) CountUnseen(ctx context.Context, hub string) (int64, error) {
	if !findable(hub) {
		return 0, nil
	}
	return one(ctx, s.engine.reader(), func(rows *sql.Rows, n *int64) error { return rows.Scan(n) }, `SELECT count(*) FROM identity i
		WHERE i.hub = $1 AND i.auth_type = $2 AND NOT EXISTS (SELECT 1 FROM sighting s
		WHERE s.hub = i.hub AND s.device_id = i.device_id AND s.module_id = i.module_id)`, hub, string(signet.AuthCA))
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
