package memstore

import (
	"cmp"
	"context"
	"slices"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
)

var _ provisioning.EnrollmentStore = (*Store)(nil)

type enrollmentKey struct {
	service string
	group   bool
	id      string // folded
}

// An enrollment with what it has claimed.
type enrollment struct {
	signet.Enrollment
	signers []string
}

func keyOf(service string, group bool, id string) enrollmentKey {
	return enrollmentKey{service, group, signet.FoldRegistrationID(id)}
}

// claimed says whether another enrollment of the service has one of the signers.
func (s *Store) claimed(key enrollmentKey, signers []string) bool {
	for k, e := range s.enrollments {
		if k.service == key.service && k != key && slices.ContainsFunc(signers, func(signer string) bool { return slices.Contains(e.signers, signer) }) {
			return true
		}
	}
	return false
}

// Enrollment reads one.
func (s *Store) Enrollment(_ context.Context, service string, group bool, id string) (e signet.Enrollment, err error) {
	err = s.do("Enrollment", func() error {
		it, ok := s.enrollments[keyOf(service, group, id)]
		if !ok {
			return signet.ErrNotFound
		}
		e = it.Enrollment
		return nil
	})
	return e, err
}

// Enrollments lists those of a kind.
func (s *Store) Enrollments(_ context.Context, service string, group bool, after string, limit int) (es []signet.Enrollment, err error) {
	err = s.do("Enrollments", func() error {
		for k, e := range s.enrollments {
			if k.service == service && k.group == group && k.id > after {
				es = append(es, e.Enrollment)
			}
		}
		slices.SortFunc(es, func(a, b signet.Enrollment) int {
			return cmp.Compare(signet.FoldRegistrationID(a.ID), signet.FoldRegistrationID(b.ID))
		})
		es = es[:min(limit, len(es))]
		return nil
	})
	return es, err
}

// CreateEnrollment adds one.
func (s *Store) CreateEnrollment(_ context.Context, e signet.Enrollment, signers []string, most int) error {
	return s.do("CreateEnrollment", func() error {
		key := keyOf(e.Service, e.Group, e.ID)
		if _, ok := s.enrollments[key]; ok {
			return signet.ErrExists
		}
		if s.claimed(key, signers) {
			return provisioning.ErrSigner
		}
		number := 0
		for k := range s.enrollments {
			if k.service == key.service && k.group == key.group {
				number++
			}
		}
		if number >= most {
			return signet.ErrFull
		}
		s.enrollments[key] = enrollment{e, signers}
		return nil
	})
}

// ReplaceEnrollment replaces one.
func (s *Store) ReplaceEnrollment(_ context.Context, e signet.Enrollment, signers []string, etag string) error {
	return s.do("ReplaceEnrollment", func() error {
		key := keyOf(e.Service, e.Group, e.ID)
		old, ok := s.enrollments[key]
		if !ok {
			return signet.ErrNotFound
		}
		if etag != old.ETag {
			return signet.ErrStale
		}
		if signers == nil {
			signers = old.signers
		}
		if s.claimed(key, signers) {
			return provisioning.ErrSigner
		}
		s.enrollments[key] = enrollment{e, signers}
		return nil
	})
}

// DeleteEnrollment removes one.
func (s *Store) DeleteEnrollment(_ context.Context, service string, group bool, id, etag string) error {
	return s.do("DeleteEnrollment", func() error {
		old, ok := s.enrollments[keyOf(service, group, id)]
		if !ok {
			return signet.ErrNotFound
		}
		if etag != "*" && etag != old.ETag {
			return signet.ErrStale
		}
		delete(s.enrollments, keyOf(service, group, id))
		return nil
	})
}

// LinkedHubs lists those of a service.
func (s *Store) LinkedHubs(_ context.Context, service string) (ls []signet.LinkedHub, err error) {
	err = s.do("LinkedHubs", func() error {
		ls = sorted(s.links, func(l signet.LinkedHub) bool { return l.Service == service },
			func(a, b signet.LinkedHub) int { return cmp.Compare(a.HostName, b.HostName) })
		return nil
	})
	return ls, err
}

// ChangeLinkedHubs removes some, and adds or replaces others.
func (s *Store) ChangeLinkedHubs(_ context.Context, service string, remove []string, put []signet.LinkedHub) error {
	return s.do("ChangeLinkedHubs", func() error {
		for _, host := range remove {
			delete(s.links, [2]string{service, host})
		}
		for _, l := range put {
			l.Service = service
			s.links[[2]string{service, l.HostName}] = l
		}
		return nil
	})
}
