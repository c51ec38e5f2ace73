package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/signet-iot/signet"
)

// The schema is what the files make that are run one after the other. One that
// has been released is never changed: a change is a new file.
//
//go:embed schema/*.sql
var schemaFiles embed.FS

func migrations() []string {
	var all []string
	for {
		text, err := schemaFiles.ReadFile(fmt.Sprintf("schema/%d.sql", len(all)+1))
		if err != nil {
			return all
		}
		all = append(all, string(text))
	}
}

// migrate brings the schema to the version of this binary, in the transaction
// that q runs in. One that is newer is refused, and nothing is changed.
func migrate(ctx context.Context, q queryer, words *strings.Replacer, log *slog.Logger) error {
	all := migrations()
	if _, err := q.ExecContext(ctx, words.Replace(`CREATE TABLE IF NOT EXISTS schema_version (version {integer} NOT NULL)`)); err != nil {
		return fmt.Errorf("schema version: %w", err)
	}
	version, err := one(ctx, q, func(rows *sql.Rows, v *int) error { return rows.Scan(v) }, `SELECT version FROM schema_version`)
	if err != nil && !errors.Is(err, signet.ErrNotFound) {
		return fmt.Errorf("schema version: %w", err)
	}
	if version > len(all) {
		return signet.Refuse(signet.Unavailable, "The database has schema version %d; this binary knows up to version %d.", version, len(all)).
			FixBy("Run the newer signet that has written this database, or restore a backup made before it.")
	}
	if version == len(all) {
		return nil
	}
	for n, text := range all[version:] {
		if _, err := q.ExecContext(ctx, words.Replace(text)); err != nil {
			return fmt.Errorf("schema version %d: %w", version+n+1, err)
		}
		if version+n+1 == 7 {
			if err := indexAllTags(ctx, q); err != nil {
				return fmt.Errorf("schema version 7: %w", err)
			}
		}
	}
	if _, err := q.ExecContext(ctx, `DELETE FROM schema_version`); err != nil {
		return err
	}
	if _, err := q.ExecContext(ctx, `INSERT INTO schema_version (version) VALUES ($1)`, int64(len(all))); err != nil {
		return err
	}
	log.Info("database schema brought up to date", "from", version, "to", len(all))
	return nil
}
