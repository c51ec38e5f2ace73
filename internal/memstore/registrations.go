package memstore

import (
	"cmp"
	"context"
	"slices"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
)

var _ provisioning.RegistrationStore = (*Store)(nil)

// A registration with what is to be done for it.
type registration struct {
	signet.Registration
	work *provisioning.Work
}

// copied keeps what is written from being changed by who has it still.
func copied(w *provisioning.Work) *provisioning.Work {
	if w == nil {
		return nil
	}
	c := *w
	return &c
}

func registrationKey(service, id string) [2]string {
	return [2]string{service, signet.FoldRegistrationID(id)}
}

// Registration reads one, with what is still to be done for it.
func (s *Store) Registration(_ context.Context, service, id string) (r signet.Registration, w *provisioning.Work, err error) {
	err = s.do("Registration", func() error {
		it, ok := s.registrations[registrationKey(service, id)]
		if !ok {
			return signet.ErrNotFound
		}
		r, w = it.Registration, copied(it.work)
		return nil
	})
	return r, w, err
}

// Registrations lists those that a group has let in.
func (s *Store) Registrations(_ context.Context, service, group, after string, limit int) (rs []signet.Registration, err error) {
	err = s.do("Registrations", func() error {
		fold := signet.FoldRegistrationID
		for k, r := range s.registrations {
			if k[0] == service && fold(r.Group) == fold(group) && k[1] > fold(after) {
				rs = append(rs, r.Registration)
			}
		}
		slices.SortFunc(rs, func(a, b signet.Registration) int { return cmp.Compare(fold(a.RegistrationID), fold(b.RegistrationID)) })
		rs = rs[:min(len(rs), limit)]
		return nil
	})
	return rs, err
}

// CreateRegistration adds one.
func (s *Store) CreateRegistration(_ context.Context, r signet.Registration, w *provisioning.Work) error {
	return s.do("CreateRegistration", func() error {
		key := registrationKey(r.Service, r.RegistrationID)
		if _, ok := s.registrations[key]; ok {
			return signet.ErrExists
		}
		if _, ok := s.hubs[r.Service]; !ok {
			return signet.ErrNotFound
		}
		s.registrations[key] = registration{r, copied(w)}
		return nil
	})
}

// ReplaceRegistration replaces the one of the same key.
func (s *Store) ReplaceRegistration(_ context.Context, r signet.Registration, w *provisioning.Work, etag string) error {
	return s.do("ReplaceRegistration", func() error {
		key := registrationKey(r.Service, r.RegistrationID)
		switch old, ok := s.registrations[key]; {
		case !ok:
			return signet.ErrNotFound
		case old.ETag != etag:
			return signet.ErrStale
		}
		s.registrations[key] = registration{r, copied(w)}
		return nil
	})
}

// DeleteRegistration removes one.
func (s *Store) DeleteRegistration(_ context.Context, service, id, etag string) error {
	return s.do("DeleteRegistration", func() error {
		key := registrationKey(service, id)
		switch old, ok := s.registrations[key]; {
		case !ok:
			return signet.ErrNotFound
		case etag != "*" && old.ETag != etag:
			return signet.ErrStale
		}
		delete(s.registrations, key)
		return nil
	})
}

// CountRegistrations counts those of a service.
func (s *Store) CountRegistrations(_ context.Context, service string) (n int, err error) {
	err = s.do("CountRegistrations", func() error {
		for k := range s.registrations {
			if k[0] == service {
				n++
			}
		}
		return nil
	})
	return n, err
}

// Unfinished lists those whose operation is under way.
func (s *Store) Unfinished(_ context.Context, limit int) (rs []signet.Registration, err error) {
	err = s.do("Unfinished", func() error {
		all := sorted(s.registrations, func(r registration) bool { return r.work != nil },
			func(a, b registration) int { return a.work.Begun.Compare(b.work.Begun) })
		for _, r := range all[:min(len(all), limit)] {
			rs = append(rs, r.Registration)
		}
		return nil
	})
	return rs, err
}
