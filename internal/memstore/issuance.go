package memstore

import (
	"context"
	"slices"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/issuance"
)

var _ issuance.Store = (*Store)(nil)

// AddIssued adds a record.
func (s *Store) AddIssued(_ context.Context, i signet.Issued, most int, since time.Time, keep int) error {
	return s.do("AddIssued", func() error {
		if _, ok := s.hubs[i.Service]; !ok {
			return signet.ErrNotFound
		}
		if err := s.checkIssued(i.Service, i.DeviceID, i.Key, most, since); err != nil {
			return err
		}
		s.issued = append(s.issued, i)
		kept := 0
		for n := len(s.issued) - 1; n >= 0; n-- {
			if of := s.issued[n]; of.Service == i.Service && of.DeviceID == i.DeviceID {
				if kept++; kept > max(keep, 1) {
					s.issued = slices.Delete(s.issued, n, n+1)
				}
			}
		}
		return nil
	})
}

// CheckIssued says what AddIssued would now.
func (s *Store) CheckIssued(_ context.Context, service, device, key string, most int, since time.Time) error {
	return s.do("CheckIssued", func() error { return s.checkIssued(service, device, key, most, since) })
}

func (s *Store) checkIssued(service, device, key string, most int, since time.Time) error {
	lately := 0
	for _, other := range s.issued {
		switch {
		case other.Service != service:
		case other.DeviceID != device && other.Key == key:
			return signet.ErrExists
		case other.DeviceID == device && !other.Time.Before(since):
			lately++
		}
	}
	if lately >= most {
		return signet.ErrFull
	}
	return nil
}

func (s *Store) lastIssued(operation string, fits func(signet.Issued) bool) (i signet.Issued, err error) {
	err = s.do(operation, func() error {
		for _, of := range slices.Backward(s.issued) {
			if fits(of) {
				i = of
				return nil
			}
		}
		return signet.ErrNotFound
	})
	return i, err
}

// IssuedFor reads the latest record of an operation.
func (s *Store) IssuedFor(_ context.Context, service, device, operation string) (signet.Issued, error) {
	return s.lastIssued("IssuedFor", func(i signet.Issued) bool {
		return i.Service == service && i.DeviceID == device && i.Operation == operation
	})
}

// IssuedAt reads the record of a certificate.
func (s *Store) IssuedAt(_ context.Context, hub, thumbprint string) (signet.Issued, error) {
	return s.lastIssued("IssuedAt", func(i signet.Issued) bool { return i.Hub == hub && hub != "" && i.Thumbprint == thumbprint })
}

// LatestIssued reads the latest record of a device.
func (s *Store) LatestIssued(_ context.Context, hub, device string) (signet.Issued, error) {
	return s.lastIssued("LatestIssued", func(i signet.Issued) bool { return i.Hub == hub && hub != "" && i.DeviceID == device })
}

// ListIssued lists records.
func (s *Store) ListIssued(_ context.Context, q issuance.Query) (is []signet.Issued, err error) {
	err = s.do("ListIssued", func() error {
		for _, i := range slices.Backward(s.issued) {
			if (q.Service != "" && i.Service == q.Service || q.Service == "" && i.Hub == q.Hub && q.Hub != "") &&
				(q.DeviceID == "" || q.DeviceID == i.DeviceID) && !i.Time.Before(q.Since) && len(is) < q.Limit {
				i.Chain = nil
				is = append(is, i)
			}
		}
		return nil
	})
	return is, err
}

// TrimIssued removes records.
func (s *Store) TrimIssued(_ context.Context, before time.Time, most int) (removed int, err error) {
	err = s.do("TrimIssued", func() error {
		s.issued = slices.DeleteFunc(s.issued, func(i signet.Issued) bool {
			over := i.NotAfter.Before(before) && removed < most
			if over {
				removed++
			}
			return over
		})
		return nil
	})
	return removed, err
}
