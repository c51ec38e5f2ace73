package memstore

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/inventory"
)

var _ inventory.Store = (*Store)(nil)

// Save writes what was seen.
func (s *Store) Save(_ context.Context, news inventory.News) error {
	return s.do("Save", func() error {
		branches, sightings := maps.Clone(s.branches), maps.Clone(s.sightings)
		for _, b := range news.Branches {
			if _, there := s.hubs[b.Hub]; !there || branches[rowKey{b.Hub, b.ID}].ID != "" {
				continue
			}
			if b.Parent != "" && branches[rowKey{b.Hub, b.Parent}].ID == "" {
				return signet.ErrNotFound
			}
			branches[rowKey{b.Hub, b.ID}] = b
		}
		for _, w := range news.Sightings {
			key := rowKey{w.Hub, w.DeviceID, w.ModuleID}
			if i, there := s.identities[key]; !there || i.GenerationID != w.GenerationID {
				continue
			}
			if _, there := branches[rowKey{w.Hub, w.Branch}]; !there && w.Branch != "" {
				return signet.ErrNotFound
			}
			if before, there := sightings[key]; there {
				w.FirstSeen = before.FirstSeen
			}
			sightings[key] = w
		}
		for _, l := range news.Left {
			key := rowKey{l.Hub, l.DeviceID, l.ModuleID}
			if w, there := sightings[key]; there && w.LastSeen.Before(l.At) {
				w.LastSeen = l.At
				sightings[key] = w
			}
		}
		for _, c := range news.Clones {
			if _, there := s.hubs[c.Hub]; there {
				s.clones[rowKey{c.Hub, c.ID}] = c
			}
		}
		for _, r := range news.Refusals {
			key := rowKey{r.Hub, r.Branch}
			if b, there := branches[key]; there {
				b.Refused += r.Count
				branches[key] = b
			}
		}
		s.branches, s.sightings = branches, sightings
		return nil
	})
}

// Alike reads what sightings are compared with.
func (s *Store) Alike(_ context.Context, sightings []signet.Sighting) (all []inventory.Alike, err error) {
	err = s.do("Alike", func() error {
		of := map[string][]signet.Sighting{}
		for _, w := range sightings {
			var a inventory.Alike
			if of[w.Hub] == nil {
				of[w.Hub] = s.sorted(w.Hub)
			}
			for _, o := range of[w.Hub] {
				switch {
				case o.DeviceID == w.DeviceID && o.ModuleID == w.ModuleID:
					a.Before = &o
				case o.DeviceID == w.DeviceID:
				default:
					if o.Key == w.Key && len(a.SameKey) < inventory.MaxAlike {
						a.SameKey = append(a.SameKey, o)
					}
					if w.Issued != "" && o.Issued == w.Issued && len(a.SameIssued) < inventory.MaxAlike {
						a.SameIssued = append(a.SameIssued, o)
					}
				}
			}
			all = append(all, a)
		}
		return nil
	})
	return all, err
}

// sorted gives the sightings of a hub that there still is reason for.
func (s *Store) sorted(hub string) []signet.Sighting {
	for key := range s.sightings {
		if _, there := s.identities[key]; !there {
			delete(s.sightings, key)
		}
	}
	return s.sightings.of(hub, func(a, b signet.Sighting) int {
		return cmp.Or(cmp.Compare(a.DeviceID, b.DeviceID), cmp.Compare(a.ModuleID, b.ModuleID))
	})
}

// beneath says whether a branch is another or below it.
func (s *Store) beneath(hub, id, above string) bool {
	for ; id != ""; id = s.branches[rowKey{hub, id}].Parent {
		if id == above {
			return true
		}
	}
	return false
}

// Prune removes empty branches.
func (s *Store) Prune(_ context.Context, hub string) (n int64, err error) {
	err = s.do("Prune", func() error {
		for key := range s.branches {
			empty := !slices.ContainsFunc(s.sorted(hub), func(w signet.Sighting) bool { return s.beneath(hub, w.Branch, key[1]) })
			if key[0] == hub && empty {
				delete(s.branches, key)
				n++
			}
		}
		return nil
	})
	return n, err
}

// Branches lists the branches of a hub.
func (s *Store) Branches(_ context.Context, hub string) ([]signet.Branch, error) {
	return read(s, "Branches", func() ([]signet.Branch, error) {
		bs := s.branches.of(hub, func(a, b signet.Branch) int { return cmp.Compare(a.ID, b.ID) })
		for n := range bs {
			bs[n].DER = nil
		}
		return bs, nil
	})
}

// Populations counts what is at branches.
func (s *Store) Populations(_ context.Context, hub string, endsBefore time.Time) (all map[string]inventory.Population, err error) {
	all = map[string]inventory.Population{}
	err = s.do("Populations", func() error {
		for _, w := range s.sorted(hub) {
			p := all[w.Branch]
			p.Devices++
			if w.NotAfter.Before(endsBefore) {
				p.Expiring++
			}
			all[w.Branch] = p
		}
		return nil
	})
	return all, err
}

// Path gives a branch and those above it.
func (s *Store) Path(_ context.Context, hub, branch string) (path []signet.Branch, err error) {
	err = s.do("Path", func() error {
		for b, there := s.branches[rowKey{hub, branch}]; there; b, there = s.branches[rowKey{hub, b.Parent}] {
			path = append(path, b)
		}
		if path == nil {
			return signet.ErrNotFound
		}
		return nil
	})
	return path, err
}

// Sightings lists some.
func (s *Store) Sightings(_ context.Context, hub string, f inventory.Filter, after inventory.Place, limit int) (list []signet.Sighting, err error) {
	err = s.do("Sightings", func() error {
		all := s.sorted(hub)
		_, there := s.branches[rowKey{hub, f.Branch}]
		if there && after.Branch != "" && !s.beneath(hub, after.Branch, f.Branch) {
			return signet.ErrNotFound
		}
		if f.Branch != "" {
			slices.SortStableFunc(all, func(a, b signet.Sighting) int { return cmp.Compare(a.Branch, b.Branch) })
		} else {
			after.Branch = ""
		}
		for _, w := range all {
			branch := w.Branch
			if f.Branch == "" {
				branch = ""
			}
			later := cmp.Or(cmp.Compare(branch, after.Branch), cmp.Compare(w.DeviceID, after.DeviceID), cmp.Compare(w.ModuleID, after.ModuleID)) > 0
			if later && s.passes(&w, &f) && len(list) < limit {
				if !f.DER {
					w.DER = nil
				}
				if f.Status {
					w.Status = s.identities[rowKey{w.Hub, w.DeviceID, w.ModuleID}].Status
				}
				list = append(list, w)
			}
		}
		return nil
	})
	return list, err
}

func (s *Store) passes(w *signet.Sighting, f *inventory.Filter) bool {
	if f.Branch == inventory.Thumbprinted && w.Branch != "" || f.Branch != "" && f.Branch != inventory.Thumbprinted && !s.beneath(w.Hub, w.Branch, f.Branch) {
		return false
	}
	for _, b := range []struct{ is, from, to time.Time }{
		{w.NotBefore, f.IssuedAfter, f.IssuedBefore}, {w.NotAfter, f.ExpiresAfter, f.ExpiresBefore},
		{w.FirstSeen, f.FirstSeenAfter, f.FirstSeenBefore}, {w.LastSeen, f.LastSeenAfter, f.LastSeenBefore},
	} {
		if b.is.Before(b.from) || !b.to.IsZero() && !b.is.Before(b.to) {
			return false
		}
	}
	return f.KeyType == "" || f.KeyType == w.KeyType
}

// CountSightings counts some.
func (s *Store) CountSightings(_ context.Context, hub string, f inventory.Filter) (n int64, err error) {
	err = s.do("CountSightings", func() error {
		for _, w := range s.sorted(hub) {
			if s.passes(&w, &f) {
				n++
			}
		}
		return nil
	})
	return n, err
}

// CountUnseen counts identities.
func (s *Store) CountUnseen(_ context.Context, hub string) (n int64, err error) {
	err = s.do("CountUnseen", func() error {
		for k, i := range s.identities {
			if _, seen := s.sightings[k]; k[0] == hub && i.Auth.Type == signet.AuthCA && !seen {
				n++
			}
		}
		return nil
	})
	return n, err
}

// Sighting reads one.
func (s *Store) Sighting(_ context.Context, hub, device, module string) (signet.Sighting, error) {
	return read(s, "Sighting", func() (signet.Sighting, error) {
		s.sorted(hub)
		return s.sightings.get(rowKey{hub, device, module})
	})
}

// Clones lists findings.
func (s *Store) Clones(_ context.Context, hub string, limit int) ([]signet.Clone, error) {
	return read(s, "Clones", func() ([]signet.Clone, error) {
		cs := s.clones.of(hub, func(a, b signet.Clone) int { return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(b.ID, a.ID)) })
		return cs[:min(limit, len(cs))], nil
	})
}

// Clone reads a finding.
func (s *Store) Clone(_ context.Context, hub, id string) (signet.Clone, error) {
	return read(s, "Clone", func() (signet.Clone, error) { return s.clones.get(rowKey{hub, id}) })
}

// DismissClone replaces a finding.
func (s *Store) DismissClone(_ context.Context, c signet.Clone) error {
	return s.do("DismissClone", func() error { return s.clones.replace(rowKey{c.Hub, c.ID}, c, func(signet.Clone) bool { return true }) })
}

// ClonePolicy reads the policy of a hub.
func (s *Store) ClonePolicy(_ context.Context, hub string) (signet.ClonePolicy, error) {
	return read(s, "ClonePolicy", func() (signet.ClonePolicy, error) { return cmp.Or(s.clonePolicies[hub], signet.ClonesFlag), nil })
}

// SetClonePolicy sets it.
func (s *Store) SetClonePolicy(_ context.Context, hub string, p signet.ClonePolicy) error {
	return s.do("SetClonePolicy", func() error {
		if _, there := s.hubs[hub]; !there {
			return signet.ErrNotFound
		}
		s.clonePolicies[hub] = p
		return nil
	})
}
