// Package memstore is the fake of the keepers' stores: in memory, and able to
// fail before or after a write has been kept.
package memstore

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/audit"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/registry"
)

// Store serves registry.Store, authority.Store, authority.VerdictStore,
// commands.Store, provisioning.EnrollmentStore, provisioning.RegistrationStore,
// inventory.Store, issuance.Store, routes.Store and audit.Store.
type Store struct {
	// Before and After are asked at each operation, by the method's name; what
	// they return is what the caller gets. Before keeps the write from
	// happening; After lets it happen: the outcome that a caller cannot know.
	Before, After func(operation string) error

	mu            sync.Mutex
	hubs          map[string]signet.Hub
	identities    table[signet.Identity]
	twins         table[signet.Twin]
	activity      table[signet.Activity]
	cas           table[signet.CACertificate]
	distrusts     table[signet.Distrust]
	policies      table[signet.RevocationPolicy] // by CA
	crls          table[signet.CRL]
	answers       table[signet.OCSPAnswer]
	scopes        table[*scope] // by key
	routes        table[*route]
	enrollments   table[enrollment]
	links         table[signet.LinkedHub]
	registrations table[registration]
	branches      table[signet.Branch]
	sightings     table[signet.Sighting] // what belongs to an identity that has gone is passed over
	clones        table[signet.Clone]
	verdicts      table[signet.Verdict]         // they outlive their hub
	clonePolicies map[string]signet.ClonePolicy // by hub

	commands []signet.Command // in order of their sequence in each queue
	feedback []signet.Feedback
	events   []signet.Event
	sequence int64 // of the last event
	acts     []audit.Record
	tiles    [][]audit.Tile  // by level and number
	issued   []signet.Issued // in order
}

var (
	_ registry.Store         = (*Store)(nil)
	_ authority.Store        = (*Store)(nil)
	_ authority.VerdictStore = (*Store)(nil)
)

// ErrFault is a failure of the machine, for Before and After.
var ErrFault = errors.New("the disk is on fire")

// New makes an empty Store.
func New() *Store {
	return &Store{
		hubs: map[string]signet.Hub{}, clonePolicies: map[string]signet.ClonePolicy{}, verdicts: table[signet.Verdict]{},
		identities: table[signet.Identity]{}, twins: table[signet.Twin]{}, activity: table[signet.Activity]{},
		cas: table[signet.CACertificate]{}, distrusts: table[signet.Distrust]{}, policies: table[signet.RevocationPolicy]{},
		crls: table[signet.CRL]{}, answers: table[signet.OCSPAnswer]{}, scopes: table[*scope]{}, routes: table[*route]{},
		enrollments: table[enrollment]{}, links: table[signet.LinkedHub]{}, registrations: table[registration]{},
		branches: table[signet.Branch]{}, sightings: table[signet.Sighting]{}, clones: table[signet.Clone]{},
	}
}

// do runs one operation between its faults.
func (s *Store) do(operation string, f func() error) error {
	if s.Before != nil {
		if err := s.Before(operation); err != nil {
			return err
		}
	}
	s.mu.Lock()
	err := f()
	s.mu.Unlock()
	if err == nil && s.After != nil {
		return s.After(operation)
	}
	return err
}

// read runs one that gives something.
func read[V any](s *Store, operation string, f func() (V, error)) (v V, err error) {
	err = s.do(operation, func() (err error) {
		v, err = f()
		return err
	})
	return v, err
}

// A rowKey is a hub or service, and what it is that a row is of there.
type rowKey [3]string

// A table has the rows of all hubs.
type table[V any] map[rowKey]V

// of gives the rows of a hub, of all for "", in order.
func (t table[V]) of(hub string, by func(a, b V) int) []V {
	return t.those(func(k rowKey, _ V) bool { return hub == "" || k[0] == hub }, by)
}

// those gives the rows that are wanted, in order.
func (t table[V]) those(wanted func(rowKey, V) bool, by func(a, b V) int) (vs []V) {
	for k, v := range t {
		if wanted(k, v) {
			vs = append(vs, v)
		}
	}
	slices.SortFunc(vs, by)
	return vs
}

// count counts the rows that are wanted.
func (t table[V]) count(wanted func(rowKey) bool) (n int) {
	for k := range t {
		if wanted(k) {
			n++
		}
	}
	return n
}

func (t table[V]) get(k rowKey) (V, error) {
	v, ok := t[k]
	if !ok {
		return v, signet.ErrNotFound
	}
	return v, nil
}

func (t table[V]) add(k rowKey, v V) error {
	if _, ok := t[k]; ok {
		return signet.ErrExists
	}
	t[k] = v
	return nil
}

// replace replaces a row that fits what the caller knows of it.
func (t table[V]) replace(k rowKey, v V, fits func(old V) bool) error {
	old, err := t.get(k)
	switch {
	case err != nil:
		return err
	case !fits(old):
		return signet.ErrStale
	}
	t[k] = v
	return nil
}

// remove removes a row that fits; any does when fits is nil.
func (t table[V]) remove(k rowKey, fits func(old V) bool) error {
	old, err := t.get(k)
	switch {
	case err != nil:
		return err
	case fits != nil && !fits(old):
		return signet.ErrStale
	}
	delete(t, k)
	return nil
}

// forget removes the rows of a hub.
func (t table[V]) forget(hub string) {
	for k := range t {
		if k[0] == hub {
			delete(t, k)
		}
	}
}

// Hubs lists the hubs by name.
func (s *Store) Hubs(context.Context) ([]signet.Hub, error) {
	return read(s, "Hubs", func() ([]signet.Hub, error) {
		return slices.SortedFunc(maps.Values(s.hubs), func(a, b signet.Hub) int { return cmp.Compare(a.Name, b.Name) }), nil
	})
}

// CreateHub adds a hub.
func (s *Store) CreateHub(_ context.Context, h signet.Hub) error {
	return s.do("CreateHub", func() error {
		for _, other := range s.hubs {
			if other.Name == h.Name || other.HostName == h.HostName {
				return signet.ErrExists
			}
		}
		s.hubs[h.Name] = h
		return nil
	})
}

func (s *Store) changeHub(operation, name string, change func(*signet.Hub)) error {
	return s.do(operation, func() error {
		h, ok := s.hubs[name]
		if !ok {
			return signet.ErrNotFound
		}
		change(&h)
		s.hubs[name] = h
		return nil
	})
}

// SetAtExpiry changes the policy of a hub.
func (s *Store) SetAtExpiry(_ context.Context, hub string, policy signet.ExpiryPolicy) error {
	return s.changeHub("SetAtExpiry", hub, func(h *signet.Hub) { h.AtExpiry = policy })
}

// SetEvents changes what a hub tells.
func (s *Store) SetEvents(_ context.Context, hub string, events signet.EventSources) error {
	return s.changeHub("SetEvents", hub, func(h *signet.Hub) { h.Events = events })
}

// SetLimits changes what a hub lets itself do.
func (s *Store) SetLimits(_ context.Context, hub string, l signet.Limits) error {
	return s.changeHub("SetLimits", hub, func(h *signet.Hub) { h.Limits = l })
}

// DeleteHub removes a hub and all that is its own.
func (s *Store) DeleteHub(_ context.Context, name string) error {
	return s.do("DeleteHub", func() error {
		if _, ok := s.hubs[name]; !ok {
			return signet.ErrNotFound
		}
		delete(s.hubs, name)
		delete(s.clonePolicies, name)
		for _, t := range []interface{ forget(hub string) }{s.identities, s.twins, s.activity, s.cas, s.distrusts, s.policies, s.crls, s.answers,
			s.scopes, s.routes, s.enrollments, s.links, s.registrations, s.branches, s.clones} {
			t.forget(name)
		}
		s.forgetCommands(func(q signet.CommandQueue) bool { return q.Hub == name })
		s.feedback = slices.DeleteFunc(s.feedback, func(f signet.Feedback) bool { return f.Hub == name })
		s.events = slices.DeleteFunc(s.events, func(e signet.Event) bool { return e.Hub == name })
		s.issued = slices.DeleteFunc(s.issued, func(i signet.Issued) bool { return i.Service == name })
		return nil
	})
}

// Identity reads one.
func (s *Store) Identity(_ context.Context, hub, device, module string) (signet.Identity, error) {
	return read(s, "Identity", func() (signet.Identity, error) { return s.identities.get(rowKey{hub, device, module}) })
}

func byIdentity(a, b signet.Identity) int {
	return cmp.Or(cmp.Compare(a.DeviceID, b.DeviceID), cmp.Compare(a.ModuleID, b.ModuleID))
}

// Identities lists devices.
func (s *Store) Identities(_ context.Context, hub, after string, limit int) ([]signet.Identity, error) {
	return read(s, "Identities", func() ([]signet.Identity, error) {
		is := s.identities.those(func(k rowKey, _ signet.Identity) bool { return k[0] == hub && k[2] == "" && k[1] > after }, byIdentity)
		return is[:min(limit, len(is))], nil
	})
}

// Modules lists the modules of a device.
func (s *Store) Modules(_ context.Context, hub, device string, limit int) ([]signet.Identity, error) {
	return read(s, "Modules", func() ([]signet.Identity, error) {
		is := s.identities.those(func(k rowKey, _ signet.Identity) bool { return k[0] == hub && k[1] == device && k[2] != "" }, byIdentity)
		return is[:min(limit, len(is))], nil
	})
}

// CreateIdentity adds one.
func (s *Store) CreateIdentity(_ context.Context, i signet.Identity, events ...signet.Event) error {
	return s.do("CreateIdentity", func() error {
		if err := s.identities.add(rowKey{i.Hub, i.DeviceID, i.ModuleID}, i); err != nil {
			return err
		}
		s.addEvents(events)
		return nil
	})
}

// ReplaceIdentity replaces one.
func (s *Store) ReplaceIdentity(_ context.Context, i signet.Identity, etag string) error {
	return s.do("ReplaceIdentity", func() error {
		key := rowKey{i.Hub, i.DeviceID, i.ModuleID}
		i.Subscriptions = s.identities[key].Subscriptions
		return s.identities.replace(key, i, func(old signet.Identity) bool { return etag == "*" || etag == old.ETag })
	})
}

// SetSubscriptions replaces them.
func (s *Store) SetSubscriptions(_ context.Context, hub, device, module, generation string, subscriptions uint32) error {
	return s.do("SetSubscriptions", func() error {
		key := rowKey{hub, device, module}
		i, ok := s.identities[key]
		if !ok || i.GenerationID != generation {
			return signet.ErrNotFound
		}
		i.Subscriptions = subscriptions
		s.identities[key] = i
		return nil
	})
}

// DeleteIdentity removes one, and a device's modules.
func (s *Store) DeleteIdentity(_ context.Context, hub, device, module, etag string, events ...signet.Event) error {
	return s.do("DeleteIdentity", func() error {
		if err := s.identities.remove(rowKey{hub, device, module}, func(old signet.Identity) bool { return etag == "*" || etag == old.ETag }); err != nil {
			return err
		}
		gone := func(k rowKey) bool { return k[0] == hub && k[1] == device && (module == "" || k[2] == module) }
		maps.DeleteFunc(s.identities, func(k rowKey, _ signet.Identity) bool { return gone(k) })
		maps.DeleteFunc(s.twins, func(k rowKey, _ signet.Twin) bool { return gone(k) })
		maps.DeleteFunc(s.activity, func(k rowKey, _ signet.Activity) bool { return gone(k) })
		s.forgetCommands(func(q signet.CommandQueue) bool { return gone(rowKey{q.Hub, q.DeviceID, q.ModuleID}) })
		s.addEvents(events)
		return nil
	})
}

// Twin reads the twin of an identity.
func (s *Store) Twin(_ context.Context, hub, device, module string) (signet.Twin, error) {
	return read(s, "Twin", func() (signet.Twin, error) {
		key := rowKey{hub, device, module}
		i, err := s.identities.get(key)
		if err != nil {
			return signet.Twin{}, err
		}
		if t, ok := s.twins[key]; ok {
			return t, nil
		}
		return signet.Twin{Hub: hub, DeviceID: device, ModuleID: module, GenerationID: i.GenerationID}, nil
	})
}

// WriteTwin writes a twin.
func (s *Store) WriteTwin(_ context.Context, t signet.Twin, version int64, events ...signet.Event) error {
	return s.do("WriteTwin", func() error {
		key := rowKey{t.Hub, t.DeviceID, t.ModuleID}
		if i, ok := s.identities[key]; !ok || i.GenerationID != t.GenerationID {
			return signet.ErrNotFound
		}
		if s.twins[key].Version != version {
			return signet.ErrStale
		}
		s.twins[key] = t
		s.addEvents(events)
		return nil
	})
}

// CountDevices counts.
func (s *Store) CountDevices(_ context.Context, hub string) (total, enabled int64, err error) {
	err = s.do("CountDevices", func() error {
		for k, i := range s.identities {
			if k[0] == hub && k[2] == "" {
				total++
				if i.Status == signet.Enabled {
					enabled++
				}
			}
		}
		return nil
	})
	return total, enabled, err
}

// CAs lists certificates.
func (s *Store) CAs(_ context.Context, hub string) ([]signet.CACertificate, error) {
	return read(s, "CAs", func() ([]signet.CACertificate, error) {
		return s.cas.of(hub, func(a, b signet.CACertificate) int { return cmp.Compare(a.Name, b.Name) }), nil
	})
}

// CA reads one certificate.
func (s *Store) CA(_ context.Context, hub, name string) (signet.CACertificate, error) {
	return read(s, "CA", func() (signet.CACertificate, error) { return s.cas.get(caKey(hub, name)) })
}

func caKey(hub, name string) rowKey { return rowKey{hub, strings.ToLower(name)} }

// CreateCA adds a certificate.
func (s *Store) CreateCA(_ context.Context, c signet.CACertificate) error {
	return s.do("CreateCA", func() error { return s.cas.add(caKey(c.Hub, c.Name), c) })
}

// ReplaceCA replaces a certificate.
func (s *Store) ReplaceCA(_ context.Context, c signet.CACertificate, etag string) error {
	return s.do("ReplaceCA", func() error {
		return s.cas.replace(caKey(c.Hub, c.Name), c, func(old signet.CACertificate) bool { return etag == old.ETag })
	})
}

// DeleteCA removes a certificate.
func (s *Store) DeleteCA(_ context.Context, hub, name, etag string) error {
	return s.do("DeleteCA", func() error {
		if err := s.cas.remove(caKey(hub, name), func(old signet.CACertificate) bool { return etag == old.ETag }); err != nil {
			return err
		}
		delete(s.policies, caKey(hub, name))
		return nil
	})
}

// Distrusts lists what is distrusted.
func (s *Store) Distrusts(_ context.Context, hub string) ([]signet.Distrust, error) {
	return read(s, "Distrusts", func() ([]signet.Distrust, error) {
		return s.distrusts.of(hub, func(a, b signet.Distrust) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID)) }), nil
	})
}

// CreateDistrust adds one.
func (s *Store) CreateDistrust(_ context.Context, d signet.Distrust) error {
	return s.do("CreateDistrust", func() error { return s.distrusts.add(rowKey{d.Hub, d.ID}, d) })
}

// DeleteDistrust removes one.
func (s *Store) DeleteDistrust(_ context.Context, hub, id string) error {
	return s.do("DeleteDistrust", func() error { return s.distrusts.remove(rowKey{hub, id}, nil) })
}

// RevocationPolicies lists policies.
func (s *Store) RevocationPolicies(_ context.Context, hub string) ([]signet.RevocationPolicy, error) {
	return read(s, "RevocationPolicies", func() ([]signet.RevocationPolicy, error) {
		return s.policies.of(hub, func(a, b signet.RevocationPolicy) int { return cmp.Compare(a.CA, b.CA) }), nil
	})
}

// SaveRevocationPolicy adds or replaces a policy.
func (s *Store) SaveRevocationPolicy(_ context.Context, p signet.RevocationPolicy) error {
	return s.do("SaveRevocationPolicy", func() error {
		if _, err := s.cas.get(caKey(p.Hub, p.CA)); err != nil {
			return err
		}
		s.policies[caKey(p.Hub, p.CA)] = p
		return nil
	})
}

// CRLs lists CRLs, without what they say.
func (s *Store) CRLs(_ context.Context, hub string) ([]signet.CRL, error) {
	return read(s, "CRLs", func() ([]signet.CRL, error) {
		cs := s.crls.of(hub, func(a, b signet.CRL) int { return cmp.Compare(a.ID, b.ID) })
		for i := range cs {
			cs[i].DER, cs[i].IssuerDER = nil, nil
		}
		return cs, nil
	})
}

// CRL reads one.
func (s *Store) CRL(_ context.Context, hub, id string) (signet.CRL, error) {
	return read(s, "CRL", func() (signet.CRL, error) { return s.crls.get(rowKey{hub, id}) })
}

// SaveCRL adds or replaces one.
func (s *Store) SaveCRL(_ context.Context, c signet.CRL) error {
	return s.do("SaveCRL", func() error {
		if old, ok := s.crls[rowKey{c.Hub, c.ID}]; ok && old.ThisUpdate.After(c.ThisUpdate) {
			return signet.ErrStale
		}
		c.State = ""
		s.crls[rowKey{c.Hub, c.ID}] = c
		return nil
	})
}

// DeleteCRL removes one.
func (s *Store) DeleteCRL(_ context.Context, hub, id string) error {
	return s.do("DeleteCRL", func() error { return s.crls.remove(rowKey{hub, id}, nil) })
}

// OCSPAnswers lists what responders have said.
func (s *Store) OCSPAnswers(_ context.Context, hub string) ([]signet.OCSPAnswer, error) {
	return read(s, "OCSPAnswers", func() ([]signet.OCSPAnswer, error) {
		return s.answers.of(hub, func(a, b signet.OCSPAnswer) int { return cmp.Compare(a.Serial, b.Serial) }), nil
	})
}

// SaveOCSPAnswers adds or replaces answers, and drops others.
func (s *Store) SaveOCSPAnswers(_ context.Context, said, dropped []signet.OCSPAnswer) error {
	return s.do("SaveOCSPAnswers", func() error {
		for _, a := range dropped {
			delete(s.answers, rowKey{a.Hub, a.IssuerKey, a.Serial})
		}
		for _, a := range said {
			s.answers[rowKey{a.Hub, a.IssuerKey, a.Serial}] = a
		}
		return nil
	})
}

// SaveVerdicts adds or replaces verdicts.
func (s *Store) SaveVerdicts(_ context.Context, vs []signet.Verdict, keep int) error {
	return s.do("SaveVerdicts", func() error {
		hubs := map[string]bool{}
		for _, v := range vs {
			s.verdicts[rowKey{v.Hub, v.TrackingID}] = v
			hubs[v.Hub] = true
		}
		for hub := range hubs {
			of := s.verdicts.those(func(k rowKey, _ signet.Verdict) bool { return k[0] == hub },
				func(a, b signet.Verdict) int { return b.Time.Compare(a.Time) })
			for _, v := range of[min(keep, len(of)):] {
				delete(s.verdicts, rowKey{v.Hub, v.TrackingID})
			}
		}
		return nil
	})
}

// Verdicts lists verdicts, newest first.
func (s *Store) Verdicts(_ context.Context, q authority.VerdictQuery) ([]signet.Verdict, error) {
	return read(s, "Verdicts", func() ([]signet.Verdict, error) {
		vs := s.verdicts.those(func(_ rowKey, v signet.Verdict) bool {
			return v.Hub == q.Hub && (q.DeviceID == "" || v.DeviceID == q.DeviceID) &&
				(q.TrackingID == "" || v.TrackingID == q.TrackingID) && !v.LastTime.Before(q.Since)
		}, func(a, b signet.Verdict) int { return b.LastTime.Compare(a.LastTime) })
		return vs[:min(q.Limit, len(vs))], nil
	})
}
