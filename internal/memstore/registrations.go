package memstore

import (
	"cmp"
	"context"

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

func registrationKey(service, id string) rowKey {
	return rowKey{service, signet.FoldRegistrationID(id)}
}

// Registration reads one, with what is still to be done for it.
func (s *Store) Registration(_ context.Context, service, id string) (r signet.Registration, w *provisioning.Work, err error) {
	err = s.do("Registration", func() error {
		it, err := s.registrations.get(registrationKey(service, id))
		r, w = it.Registration, copied(it.work)
		return err
	})
	return r, w, err
}

// Registrations lists those that a group has let in.
func (s *Store) Registrations(_ context.Context, service, group, after string, limit int) ([]signet.Registration, error) {
	return read(s, "Registrations", func() ([]signet.Registration, error) {
		fold := signet.FoldRegistrationID
		return first(limit, s.registrations.those(func(k rowKey, r registration) bool {
			return k[0] == service && fold(r.Group) == fold(group) && k[1] > fold(after)
		}, func(a, b registration) int { return cmp.Compare(fold(a.RegistrationID), fold(b.RegistrationID)) })), nil
	})
}

// first gives the first of some registrations, without what is to be done for them.
func first(limit int, all []registration) (rs []signet.Registration) {
	for _, r := range all[:min(len(all), limit)] {
		rs = append(rs, r.Registration)
	}
	return rs
}

// CreateRegistration adds one.
func (s *Store) CreateRegistration(_ context.Context, r signet.Registration, w *provisioning.Work) error {
	return s.do("CreateRegistration", func() error {
		if _, ok := s.hubs[r.Service]; !ok {
			return signet.ErrNotFound
		}
		return s.registrations.add(registrationKey(r.Service, r.RegistrationID), registration{r, copied(w)})
	})
}

// ReplaceRegistration replaces the one of the same key.
func (s *Store) ReplaceRegistration(_ context.Context, r signet.Registration, w *provisioning.Work, etag string) error {
	return s.do("ReplaceRegistration", func() error {
		return s.registrations.replace(registrationKey(r.Service, r.RegistrationID), registration{r, copied(w)},
			func(old registration) bool { return old.ETag == etag })
	})
}

// DeleteRegistration removes one.
func (s *Store) DeleteRegistration(_ context.Context, service, id, etag string) error {
	return s.do("DeleteRegistration", func() error {
		return s.registrations.remove(registrationKey(service, id), func(old registration) bool { return etag == "*" || old.ETag == etag })
	})
}

// CountRegistrations counts those of a service.
func (s *Store) CountRegistrations(_ context.Context, service string) (int, error) {
	return read(s, "CountRegistrations", func() (int, error) {
		return s.registrations.count(func(k rowKey) bool { return k[0] == service }), nil
	})
}

// Unfinished lists those whose operation is under way.
func (s *Store) Unfinished(_ context.Context, limit int) ([]signet.Registration, error) {
	return read(s, "Unfinished", func() ([]signet.Registration, error) {
		return first(limit, s.registrations.those(func(_ rowKey, r registration) bool { return r.work != nil },
			func(a, b registration) int { return a.work.Begun.Compare(b.work.Begun) })), nil
	})
}
