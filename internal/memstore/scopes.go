package memstore

import (
	"cmp"
	"context"
	"time"

	"github.com/signet-iot/signet"
)

// scope is one with the places under it.
type scope struct {
	signet.Scope
	places map[string]int64
}

// Scopes lists scopes by key.
func (s *Store) Scopes(_ context.Context, hub string) (ss []signet.Scope, err error) {
	err = s.do("Scopes", func() error {
		for _, c := range s.scopes.of(hub, func(a, b *scope) int { return cmp.Compare(a.Key, b.Key) }) {
			one := c.Scope
			one.Seen = int64(len(c.places))
			ss = append(ss, one)
		}
		return nil
	})
	return ss, err
}

// SaveScope adds or replaces a scope. There is no trust tree here.
func (s *Store) SaveScope(_ context.Context, c signet.Scope) error {
	return s.do("SaveScope", func() error {
		if _, ok := s.hubs[c.Hub]; !ok {
			return signet.ErrNotFound
		}
		old := s.scopes[rowKey{c.Hub, c.Key}]
		if old == nil || old.MaxDevices == 0 {
			old = &scope{places: map[string]int64{}}
			s.scopes[rowKey{c.Hub, c.Key}] = old
		}
		old.Scope = c
		return nil
	})
}

// DeleteScope removes one.
func (s *Store) DeleteScope(_ context.Context, hub, key string) error {
	return s.do("DeleteScope", func() error { return s.scopes.remove(rowKey{hub, key}, nil) })
}

// Place gives the place of a device.
func (s *Store) Place(_ context.Context, hub, key, device string) (place int64, err error) {
	err = s.do("Place", func() error {
		if c := s.scopes[rowKey{hub, key}]; c != nil {
			place = c.places[device]
		}
		return nil
	})
	return place, err
}

// TakePlace gives the place of a device, or a new one.
func (s *Store) TakePlace(_ context.Context, hub, key, device string) (place int64, err error) {
	err = s.do("TakePlace", func() error {
		c := s.scopes[rowKey{hub, key}]
		if c == nil {
			return signet.ErrNotFound
		}
		if c.places[device] == 0 {
			c.places[device] = int64(len(c.places)) + 1
		}
		place = c.places[device]
		return nil
	})
	return place, err
}

// SeenUnder finds nobody: there is no trust tree here.
func (s *Store) SeenUnder(context.Context, string, string, int64) (string, time.Time, error) {
	return "", time.Time{}, signet.ErrNotFound
}

// FirstSeenUnder finds nobody.
func (s *Store) FirstSeenUnder(context.Context, string, string, string) (time.Time, error) {
	return time.Time{}, signet.ErrNotFound
}
