package memstore

import (
	"cmp"
	"context"
	"slices"
	"strconv"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
)

var _ provisioning.EnrollmentStore = (*Store)(nil)

// An enrollment with what it has claimed.
type enrollment struct {
	signet.Enrollment
	signers []string
}

// enrollmentKey tells groups from devices before the ID, folded.
func enrollmentKey(service string, group bool, id string) rowKey {
	return rowKey{service, strconv.FormatBool(group), signet.FoldRegistrationID(id)}
}

// claimed says whether another enrollment of the service has one of the signers.
func (s *Store) claimed(key rowKey, signers []string) bool {
	for k, e := range s.enrollments {
		if k[0] == key[0] && k != key && slices.ContainsFunc(signers, func(signer string) bool { return slices.Contains(e.signers, signer) }) {
			return true
		}
	}
	return false
}

// Enrollment reads one.
func (s *Store) Enrollment(_ context.Context, service string, group bool, id string) (signet.Enrollment, error) {
	return read(s, "Enrollment", func() (signet.Enrollment, error) {
		e, err := s.enrollments.get(enrollmentKey(service, group, id))
		return e.Enrollment, err
	})
}

// Enrollments lists those of a kind.
func (s *Store) Enrollments(_ context.Context, service string, group bool, after string, limit int) (es []signet.Enrollment, err error) {
	err = s.do("Enrollments", func() error {
		kind := enrollmentKey(service, group, "")
		all := s.enrollments.those(func(k rowKey, _ enrollment) bool { return k[0] == kind[0] && k[1] == kind[1] && k[2] > after },
			func(a, b enrollment) int {
				return cmp.Compare(signet.FoldRegistrationID(a.ID), signet.FoldRegistrationID(b.ID))
			})
		for _, e := range all[:min(limit, len(all))] {
			es = append(es, e.Enrollment)
		}
		return nil
	})
	return es, err
}

// CreateEnrollment adds one.
func (s *Store) CreateEnrollment(_ context.Context, e signet.Enrollment, signers []string, most int) error {
	return s.do("CreateEnrollment", func() error {
		key := enrollmentKey(e.Service, e.Group, e.ID)
		if _, ok := s.enrollments[key]; ok {
			return signet.ErrExists
		}
		if s.claimed(key, signers) {
			return provisioning.ErrSigner
		}
		if s.enrollments.count(func(k rowKey) bool { return k[0] == key[0] && k[1] == key[1] }) >= most {
			return signet.ErrFull
		}
		s.enrollments[key] = enrollment{e, signers}
		return nil
	})
}

// ReplaceEnrollment replaces one.
func (s *Store) ReplaceEnrollment(_ context.Context, e signet.Enrollment, signers []string, etag string) error {
	return s.do("ReplaceEnrollment", func() error {
		key := enrollmentKey(e.Service, e.Group, e.ID)
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
		return s.enrollments.remove(enrollmentKey(service, group, id), func(old enrollment) bool { return etag == "*" || etag == old.ETag })
	})
}

// LinkedHubs lists those of a service.
func (s *Store) LinkedHubs(_ context.Context, service string) ([]signet.LinkedHub, error) {
	return read(s, "LinkedHubs", func() ([]signet.LinkedHub, error) {
		return s.links.of(service, func(a, b signet.LinkedHub) int { return cmp.Compare(a.HostName, b.HostName) }), nil
	})
}

// ChangeLinkedHubs removes some, and adds or replaces others.
func (s *Store) ChangeLinkedHubs(_ context.Context, service string, remove []string, put []signet.LinkedHub) error {
	return s.do("ChangeLinkedHubs", func() error {
		for _, host := range remove {
			delete(s.links, rowKey{service, host})
		}
		for _, l := range put {
			l.Service = service
			s.links[rowKey{service, l.HostName}] = l
		}
		return nil
	})
}
