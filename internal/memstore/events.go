package memstore

import (
	"context"
	"slices"

	"github.com/signet-iot/signet"
)

// addEvents is called within a write.
func (s *Store) addEvents(events []signet.Event) {
	for _, e := range events {
		s.sequence++
		e.Sequence = s.sequence
		s.events = append(s.events, e)
	}
}

// Events lists what waits.
func (s *Store) Events(_ context.Context, hub string, limit int) (es []signet.Event, err error) {
	err = s.do("Events", func() error {
		for _, e := range s.events {
			if e.Hub == hub && len(es) < limit {
				es = append(es, e)
			}
		}
		return nil
	})
	return es, err
}

// CountEvents counts what waits.
func (s *Store) CountEvents(_ context.Context, hub string) (n int, err error) {
	err = s.do("CountEvents", func() error {
		for _, e := range s.events {
			if e.Hub == hub {
				n++
			}
		}
		return nil
	})
	return n, err
}

// RemoveEvents removes events.
func (s *Store) RemoveEvents(_ context.Context, hub string, sequences []int64) error {
	return s.do("RemoveEvents", func() error {
		s.events = slices.DeleteFunc(s.events, func(e signet.Event) bool { return e.Hub == hub && slices.Contains(sequences, e.Sequence) })
		return nil
	})
}
