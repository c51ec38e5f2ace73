package memstore

import (
	"cmp"
	"context"
	"slices"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/routes"
)

var _ routes.Store = (*Store)(nil)

type route struct {
	routes.Progress
	dead []signet.DeadLetter
}

// Routes lists routes.
func (s *Store) Routes(_ context.Context, hub string) (ps []routes.Progress, err error) {
	err = s.do("Routes", func() error {
		for _, r := range s.routes.of(hub, func(a, b *route) int { return cmp.Or(cmp.Compare(a.Hub, b.Hub), cmp.Compare(a.Name, b.Name)) }) {
			ps = append(ps, r.Progress)
		}
		return nil
	})
	return ps, err
}

// SaveRoute adds or replaces a route.
func (s *Store) SaveRoute(_ context.Context, r signet.Route, most int) error {
	return s.do("SaveRoute", func() error {
		if _, ok := s.hubs[r.Hub]; !ok {
			return signet.ErrNotFound
		}
		if s.routes.count(func(k rowKey) bool { return k[0] == r.Hub && k[1] != r.Name }) >= most {
			return signet.ErrFull
		}
		if old := s.routes[rowKey{r.Hub, r.Name}]; old != nil {
			old.Route = r
			return nil
		}
		s.routes[rowKey{r.Hub, r.Name}] = &route{Progress: routes.Progress{Route: r}}
		return nil
	})
}

// DeleteRoute removes a route.
func (s *Store) DeleteRoute(_ context.Context, hub, name string) error {
	return s.ofRoute("DeleteRoute", hub, name, func(*route) { delete(s.routes, rowKey{hub, name}) })
}

func (s *Store) ofRoute(operation, hub, name string, f func(*route)) error {
	return s.do(operation, func() error {
		r := s.routes[rowKey{hub, name}]
		if r == nil {
			return signet.ErrNotFound
		}
		f(r)
		return nil
	})
}

// Advance moves a cursor.
func (s *Store) Advance(_ context.Context, hub, name string, to signet.Position) error {
	return s.ofRoute("Advance", hub, name, func(r *route) { r.Cursor = to })
}

// Bury adds or replaces a dead letter.
func (s *Store) Bury(_ context.Context, hub, name string, to signet.Position, d signet.DeadLetter, most int) error {
	return s.ofRoute("Bury", hub, name, func(r *route) {
		r.Cursor = to
		if n := slices.IndexFunc(r.dead, func(o signet.DeadLetter) bool { return o.ID == d.ID }); n >= 0 {
			d.Replay = r.dead[n].Replay
			r.dead[n] = d
			return
		}
		r.dead = append(r.dead, d)
		r.dead = r.dead[max(0, len(r.dead)-most):]
	})
}

// DeadLetters lists dead letters.
func (s *Store) DeadLetters(_ context.Context, hub, name string) (ds []signet.DeadLetter, err error) {
	err = s.do("DeadLetters", func() error {
		if r := s.routes[rowKey{hub, name}]; r != nil {
			ds = slices.Clone(r.dead)
			slices.SortStableFunc(ds, func(a, b signet.DeadLetter) int {
				return cmp.Or(cmp.Compare(a.First.Sequence, b.First.Sequence), cmp.Compare(a.First.Index, b.First.Index))
			})
		}
		return nil
	})
	return ds, err
}

// MarkDeadLetters marks dead letters.
func (s *Store) MarkDeadLetters(_ context.Context, hub, name, id string) (n int, err error) {
	err = s.do("MarkDeadLetters", func() error {
		r := s.routes[rowKey{hub, name}]
		for i := range r.dead {
			if id == "" || r.dead[i].ID == id {
				r.dead[i].Replay = true
				n++
			}
		}
		return nil
	})
	return n, err
}

// SaveDeadLetter replaces one.
func (s *Store) SaveDeadLetter(_ context.Context, hub, name string, d signet.DeadLetter) error {
	return s.ofRoute("SaveDeadLetter", hub, name, func(r *route) {
		for i := range r.dead {
			if r.dead[i].ID == d.ID {
				r.dead[i] = d
			}
		}
	})
}

// RemoveDeadLetter removes one.
func (s *Store) RemoveDeadLetter(_ context.Context, hub, name, id string) error {
	return s.ofRoute("RemoveDeadLetter", hub, name, func(r *route) {
		r.dead = slices.DeleteFunc(r.dead, func(d signet.DeadLetter) bool { return d.ID == id })
	})
}
