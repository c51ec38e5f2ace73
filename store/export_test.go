package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/signet-iot/signet"
)

// Change makes a change of a test's own.
func Change(ctx context.Context, s *Store, c func(exec func(query string, args ...any) error) error) error {
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		return c(func(query string, args ...any) error {
			_, err := q.ExecContext(ctx, query, args...)
			return err
		})
	})
}

// SchemaOf gives what makes the schema of a version, with a driver.
func SchemaOf(driver string, version int) []string {
	words := map[string]*strings.Replacer{"sqlite": sqliteWords, "pgx": postgresWords}[driver]
	all := []string{words.Replace(`CREATE TABLE schema_version (version {integer} NOT NULL)`), fmt.Sprintf(`INSERT INTO schema_version VALUES (%d)`, version)}
	for _, text := range migrations()[:version] {
		all = append(all, words.Replace(text))
	}
	return all
}

// SchemaVersion is the one that this binary makes.
func SchemaVersion() int { return len(migrations()) }

// Impatient has a query end as soon as it may; Patient undoes that.
func Impatient(s *Store) { s.pagePatience, s.aggregatePatience = -1, -1 }

// Patient is the opposite of Impatient.
func Patient(s *Store) { s.pagePatience, s.aggregatePatience = pagePatience, aggregatePatience }

// PageBytes sets how large the twins of a page may be.
func PageBytes(s *Store, n int) { s.pageBytes = n }

var Nameless = nameless

// Known is what is remembered of devices; Forgetful has a store remember none.
type Known = known

const MaxKnown = maxKnown

func Forgetful(s *Store) { s.known = nil }

func (k *known) Recall(hub, device string) (*signet.Identity, uint64) { return k.recall(hub, device) }
func (k *known) Learn(i *signet.Identity, changes uint64)             { k.learn(i, changes) }
func (k *known) Change(hub, device string) func()                     { return k.change(hub, device) }
func (k *known) Len() int                                             { return len(k.young) + len(k.old) }

// SetEventClock has the next event numbered after last, unless the time is later.
func SetEventClock(s *Store, last int64) { s.events.last.Store(last) }

// SetReadPatience sets how long a read of PostgreSQL may take.
func SetReadPatience(s *Store, d time.Duration) { s.engine.(*postgresEngine).patience = d }
