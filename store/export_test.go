package store

import "context"

// Change makes a change of a test's own.
func Change(ctx context.Context, s *Store, c func(exec func(query string, args ...any) error) error) error {
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		return c(func(query string, args ...any) error {
			_, err := q.ExecContext(ctx, query, args...)
			return err
		})
	})
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
