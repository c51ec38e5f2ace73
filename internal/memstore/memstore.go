// Package memstore is the fake of the keepers' stores: in memory, and able to
// fail before or after a write has been kept.
package memstore

import (
	"cmp"
	"context"
	"errors"
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
// inventory.Store and issuance.Store.
type Store struct {
	// Before and After are asked at each operation, by the method's name; what
	// they return is what the caller gets. Before keeps the write from
	// happening; After lets it happen: the outcome that a caller cannot know.
	Before, After func(operation string) error

	mu         sync.Mutex
	hubs       map[string]signet.Hub
	identities map[[3]string]signet.Identity
	twins      map[[3]string]signet.Twin
	activity   map[[3]string]signet.Activity
	cas        map[[2]string]signet.CACertificate
	distrusts  map[[2]string]signet.Distrust
	policies   map[[2]string]signet.RevocationPolicy // by CA
	crls       map[[2]string]signet.CRL
	answers    map[[3]string]signet.OCSPAnswer
	scopes     map[[2]string]*scope // by key
	verdicts   map[string]signet.Verdict
	commands   []signet.Command // in order of their sequence in each queue
	feedback   []signet.Feedback
	events     []signet.Event
	sequence   int64 // of the last event
	routes     map[routeKey]*route

	enrollments map[enrollmentKey]enrollment
	links       map[[2]string]signet.LinkedHub

	branches      map[[2]string]signet.Branch
	sightings     map[[3]string]signet.Sighting
	clones        map[[2]string]signet.Clone
	clonePolicies map[string]signet.ClonePolicy // by hub
	acts          []audit.Record
	tiles         [][]audit.Tile  // by level and number
	issued        []signet.Issued // in order
	registrations map[[2]string]registration
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
	return &Store{hubs: map[string]signet.Hub{}, identities: map[[3]string]signet.Identity{}, twins: map[[3]string]signet.Twin{},
		activity: map[[3]string]signet.Activity{},
		cas:      map[[2]string]signet.CACertificate{}, distrusts: map[[2]string]signet.Distrust{},
		policies: map[[2]string]signet.RevocationPolicy{}, crls: map[[2]string]signet.CRL{}, answers: map[[3]string]signet.OCSPAnswer{}, scopes: map[[2]string]*scope{},
		verdicts:    map[string]signet.Verdict{},
		enrollments: map[enrollmentKey]enrollment{}, links: map[[2]string]signet.LinkedHub{},
		branches: map[[2]string]signet.Branch{}, sightings: map[[3]string]signet.Sighting{},
		clones: map[[2]string]signet.Clone{}, clonePolicies: map[string]signet.ClonePolicy{},
		registrations: map[[2]string]registration{}}
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

func sorted[K comparable, V any](m map[K]V, keep func(V) bool, by func(a, b V) int) []V {
	var vs []V
	for _, v := range m {
		if keep(v) {
			vs = append(vs, v)
		}
	}
	slices.SortFunc(vs, by)
	return vs
}

// Hubs lists the hubs by name.
func (s *Store) Hubs(context.Context) (hs []signet.Hub, err error) {
	err = s.do("Hubs", func() error {
		hs = sorted(s.hubs, func(signet.Hub) bool { return true }, func(a, b signet.Hub) int { return cmp.Compare(a.Name, b.Name) })
		return nil
	})
	return hs, err
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

// SetAtExpiry changes the policy of a hub.
func (s *Store) SetAtExpiry(_ context.Context, hub string, policy signet.ExpiryPolicy) error {
	return s.do("SetAtExpiry", func() error {
		h, ok := s.hubs[hub]
		if !ok {
			return signet.ErrNotFound
		}
		h.AtExpiry = policy
		s.hubs[hub] = h
		return nil
	})
}

// SetEvents changes what a hub tells.
func (s *Store) SetEvents(_ context.Context, hub string, events signet.EventSources) error {
	return s.do("SetEvents", func() error {
		h, ok := s.hubs[hub]
		if !ok {
			return signet.ErrNotFound
		}
		h.Events = events
		s.hubs[hub] = h
		return nil
	})
}

// SetLimits changes what a hub lets itself do.
func (s *Store) SetLimits(_ context.Context, hub string, l signet.Limits) error {
	return s.do("SetLimits", func() error {
		h, ok := s.hubs[hub]
		if !ok {
			return signet.ErrNotFound
		}
		h.Limits = l
		s.hubs[hub] = h
		return nil
	})
}

// DeleteHub removes a hub and all that is its own.
func (s *Store) DeleteHub(_ context.Context, name string) error {
	return s.do("DeleteHub", func() error {
		if _, ok := s.hubs[name]; !ok {
			return signet.ErrNotFound
		}
		delete(s.hubs, name)
		s.issued = slices.DeleteFunc(s.issued, func(i signet.Issued) bool { return i.Service == name })
		s.forgetCommands(func(q signet.CommandQueue) bool { return q.Hub == name })
		s.feedback = slices.DeleteFunc(s.feedback, func(f signet.Feedback) bool { return f.Hub == name })
		s.events = slices.DeleteFunc(s.events, func(e signet.Event) bool { return e.Hub == name })
		for k := range s.routes {
			if k[0] == name {
				delete(s.routes, k)
			}
		}
		for k := range s.identities {
			if k[0] == name {
				delete(s.identities, k)
				delete(s.twins, k)
				delete(s.activity, k)
			}
		}
		delete(s.clonePolicies, name)
		for k := range s.clones {
			if k[0] == name {
				delete(s.clones, k)
			}
		}
		for k := range s.branches {
			if k[0] == name {
				delete(s.branches, k)
			}
		}
		for k := range s.cas {
			if k[0] == name {
				delete(s.cas, k)
			}
		}
		for k := range s.distrusts {
			if k[0] == name {
				delete(s.distrusts, k)
			}
		}
		for k := range s.policies {
			if k[0] == name {
				delete(s.policies, k)
			}
		}
		for k := range s.answers {
			if k[0] == name {
				delete(s.answers, k)
			}
		}
		for k := range s.crls {
			if k[0] == name {
				delete(s.crls, k)
			}
		}
		for k := range s.enrollments {
			if k.service == name {
				delete(s.enrollments, k)
			}
		}
		for k := range s.links {
			if k[0] == name {
				delete(s.links, k)
			}
		}
		for k := range s.registrations {
			if k[0] == name {
				delete(s.registrations, k)
			}
		}
		for k := range s.scopes {
			if k[0] == name {
				delete(s.scopes, k)
			}
		}
		return nil
	})
}

// Identity reads one.
func (s *Store) Identity(_ context.Context, hub, device, module string) (i signet.Identity, err error) {
	err = s.do("Identity", func() error {
		var ok bool
		if i, ok = s.identities[[3]string{hub, device, module}]; !ok {
			return signet.ErrNotFound
		}
		return nil
	})
	return i, err
}

// Identities lists devices.
func (s *Store) Identities(_ context.Context, hub, after string, limit int) (is []signet.Identity, err error) {
	err = s.do("Identities", func() error {
		is = sorted(s.identities, func(i signet.Identity) bool { return i.Hub == hub && i.ModuleID == "" && i.DeviceID > after },
			func(a, b signet.Identity) int { return cmp.Compare(a.DeviceID, b.DeviceID) })
		is = is[:min(limit, len(is))]
		return nil
	})
	return is, err
}

// CreateIdentity adds one.
func (s *Store) CreateIdentity(_ context.Context, i signet.Identity, events ...signet.Event) error {
	return s.do("CreateIdentity", func() error {
		key := [3]string{i.Hub, i.DeviceID, i.ModuleID}
		if _, ok := s.identities[key]; ok {
			return signet.ErrExists
		}
		s.identities[key] = i
		s.addEvents(events)
		return nil
	})
}

// ReplaceIdentity replaces one.
func (s *Store) ReplaceIdentity(_ context.Context, i signet.Identity, etag string) error {
	return s.do("ReplaceIdentity", func() error {
		key := [3]string{i.Hub, i.DeviceID, i.ModuleID}
		old, ok := s.identities[key]
		if !ok {
			return signet.ErrNotFound
		}
		if etag != "*" && etag != old.ETag {
			return signet.ErrStale
		}
		s.identities[key] = i
		return nil
	})
}

// DeleteIdentity removes one, and a device's modules.
func (s *Store) DeleteIdentity(_ context.Context, hub, device, module, etag string, events ...signet.Event) error {
	return s.do("DeleteIdentity", func() error {
		old, ok := s.identities[[3]string{hub, device, module}]
		if !ok {
			return signet.ErrNotFound
		}
		if etag != "*" && etag != old.ETag {
			return signet.ErrStale
		}
		for k := range s.identities {
			if k[0] == hub && k[1] == device && (module == "" || k[2] == module) {
				delete(s.identities, k)
				delete(s.twins, k)
				delete(s.activity, k)
			}
		}
		s.forgetCommands(func(q signet.CommandQueue) bool {
			return q.Hub == hub && q.DeviceID == device && (module == "" || q.ModuleID == module)
		})
		s.addEvents(events)
		return nil
	})
}

// Modules lists the modules of a device.
func (s *Store) Modules(_ context.Context, hub, device string, limit int) (is []signet.Identity, err error) {
	err = s.do("Modules", func() error {
		is = sorted(s.identities, func(i signet.Identity) bool { return i.Hub == hub && i.DeviceID == device && i.ModuleID != "" },
			func(a, b signet.Identity) int { return cmp.Compare(a.ModuleID, b.ModuleID) })
		is = is[:min(limit, len(is))]
		return nil
	})
	return is, err
}

// Twin reads the twin of an identity.
func (s *Store) Twin(_ context.Context, hub, device, module string) (t signet.Twin, err error) {
	err = s.do("Twin", func() error {
		key := [3]string{hub, device, module}
		i, ok := s.identities[key]
		if !ok {
			return signet.ErrNotFound
		}
		if t, ok = s.twins[key]; !ok {
			t = signet.Twin{Hub: hub, DeviceID: device, ModuleID: module, GenerationID: i.GenerationID}
		}
		return nil
	})
	return t, err
}

// WriteTwin writes a twin.
func (s *Store) WriteTwin(_ context.Context, t signet.Twin, version int64, events ...signet.Event) error {
	return s.do("WriteTwin", func() error {
		key := [3]string{t.Hub, t.DeviceID, t.ModuleID}
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
func (s *Store) CAs(_ context.Context, hub string) (cs []signet.CACertificate, err error) {
	err = s.do("CAs", func() error {
		cs = sorted(s.cas, func(c signet.CACertificate) bool { return hub == "" || c.Hub == hub },
			func(a, b signet.CACertificate) int { return cmp.Compare(a.Name, b.Name) })
		return nil
	})
	return cs, err
}

// CA reads one certificate.
func (s *Store) CA(_ context.Context, hub, name string) (c signet.CACertificate, err error) {
	err = s.do("CA", func() error {
		var ok bool
		if c, ok = s.cas[caKey(hub, name)]; !ok {
			return signet.ErrNotFound
		}
		return nil
	})
	return c, err
}

func caKey(hub, name string) [2]string { return [2]string{hub, strings.ToLower(name)} }

// CreateCA adds a certificate.
func (s *Store) CreateCA(_ context.Context, c signet.CACertificate) error {
	return s.do("CreateCA", func() error {
		if _, ok := s.cas[caKey(c.Hub, c.Name)]; ok {
			return signet.ErrExists
		}
		s.cas[caKey(c.Hub, c.Name)] = c
		return nil
	})
}

// ReplaceCA replaces a certificate.
func (s *Store) ReplaceCA(_ context.Context, c signet.CACertificate, etag string) error {
	return s.do("ReplaceCA", func() error {
		old, ok := s.cas[caKey(c.Hub, c.Name)]
		if !ok {
			return signet.ErrNotFound
		}
		if etag != old.ETag {
			return signet.ErrStale
		}
		s.cas[caKey(c.Hub, c.Name)] = c
		return nil
	})
}

// DeleteCA removes a certificate.
func (s *Store) DeleteCA(_ context.Context, hub, name, etag string) error {
	return s.do("DeleteCA", func() error {
		old, ok := s.cas[caKey(hub, name)]
		if !ok {
			return signet.ErrNotFound
		}
		if etag != old.ETag {
			return signet.ErrStale
		}
		delete(s.cas, caKey(hub, name))
		delete(s.policies, caKey(hub, name))
		return nil
	})
}

// Distrusts lists what is distrusted.
func (s *Store) Distrusts(_ context.Context, hub string) (ds []signet.Distrust, err error) {
	err = s.do("Distrusts", func() error {
		ds = sorted(s.distrusts, func(d signet.Distrust) bool { return hub == "" || d.Hub == hub },
			func(a, b signet.Distrust) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID)) })
		return nil
	})
	return ds, err
}

// CreateDistrust adds one.
func (s *Store) CreateDistrust(_ context.Context, d signet.Distrust) error {
	return s.do("CreateDistrust", func() error {
		if _, ok := s.distrusts[[2]string{d.Hub, d.ID}]; ok {
			return signet.ErrExists
		}
		s.distrusts[[2]string{d.Hub, d.ID}] = d
		return nil
	})
}

// DeleteDistrust removes one.
func (s *Store) DeleteDistrust(_ context.Context, hub, id string) error {
	return s.do("DeleteDistrust", func() error {
		if _, ok := s.distrusts[[2]string{hub, id}]; !ok {
			return signet.ErrNotFound
		}
		delete(s.distrusts, [2]string{hub, id})
		return nil
	})
}

// RevocationPolicies lists policies.
func (s *Store) RevocationPolicies(_ context.Context, hub string) (ps []signet.RevocationPolicy, err error) {
	err = s.do("RevocationPolicies", func() error {
		ps = sorted(s.policies, func(p signet.RevocationPolicy) bool { return hub == "" || p.Hub == hub },
			func(a, b signet.RevocationPolicy) int { return cmp.Compare(a.CA, b.CA) })
		return nil
	})
	return ps, err
}

// SaveRevocationPolicy adds or replaces a policy.
func (s *Store) SaveRevocationPolicy(_ context.Context, p signet.RevocationPolicy) error {
	return s.do("SaveRevocationPolicy", func() error {
		if _, ok := s.cas[caKey(p.Hub, p.CA)]; !ok {
			return signet.ErrNotFound
		}
		s.policies[caKey(p.Hub, p.CA)] = p
		return nil
	})
}

// CRLs lists CRLs, without what they say.
func (s *Store) CRLs(_ context.Context, hub string) (cs []signet.CRL, err error) {
	err = s.do("CRLs", func() error {
		cs = sorted(s.crls, func(c signet.CRL) bool { return hub == "" || c.Hub == hub },
			func(a, b signet.CRL) int { return cmp.Compare(a.ID, b.ID) })
		for i := range cs {
			cs[i].DER, cs[i].IssuerDER = nil, nil
		}
		return nil
	})
	return cs, err
}

// CRL reads one.
func (s *Store) CRL(_ context.Context, hub, id string) (c signet.CRL, err error) {
	err = s.do("CRL", func() error {
		var ok bool
		if c, ok = s.crls[[2]string{hub, id}]; !ok {
			return signet.ErrNotFound
		}
		return nil
	})
	return c, err
}

// SaveCRL adds or replaces one.
func (s *Store) SaveCRL(_ context.Context, c signet.CRL) error {
	return s.do("SaveCRL", func() error {
		if old, ok := s.crls[[2]string{c.Hub, c.ID}]; ok && old.ThisUpdate.After(c.ThisUpdate) {
			return signet.ErrStale
		}
		c.State = ""
		s.crls[[2]string{c.Hub, c.ID}] = c
		return nil
	})
}

// DeleteCRL removes one.
func (s *Store) DeleteCRL(_ context.Context, hub, id string) error {
	return s.do("DeleteCRL", func() error {
		if _, ok := s.crls[[2]string{hub, id}]; !ok {
			return signet.ErrNotFound
		}
		delete(s.crls, [2]string{hub, id})
		return nil
	})
}

// OCSPAnswers lists what responders have said.
func (s *Store) OCSPAnswers(_ context.Context, hub string) (as []signet.OCSPAnswer, err error) {
	err = s.do("OCSPAnswers", func() error {
		as = sorted(s.answers, func(a signet.OCSPAnswer) bool { return hub == "" || a.Hub == hub },
			func(a, b signet.OCSPAnswer) int { return cmp.Compare(a.Serial, b.Serial) })
		return nil
	})
	return as, err
}

// SaveOCSPAnswers adds or replaces answers, and drops others.
func (s *Store) SaveOCSPAnswers(_ context.Context, said, dropped []signet.OCSPAnswer) error {
	return s.do("SaveOCSPAnswers", func() error {
		for _, a := range dropped {
			delete(s.answers, [3]string{a.Hub, a.IssuerKey, a.Serial})
		}
		for _, a := range said {
			s.answers[[3]string{a.Hub, a.IssuerKey, a.Serial}] = a
		}
		return nil
	})
}

// SaveVerdicts adds or replaces verdicts.
func (s *Store) SaveVerdicts(_ context.Context, vs []signet.Verdict, keep int) error {
	return s.do("SaveVerdicts", func() error {
		hubs := map[string]bool{}
		for _, v := range vs {
			s.verdicts[v.TrackingID] = v
			hubs[v.Hub] = true
		}
		for hub := range hubs {
			of := sorted(s.verdicts, func(v signet.Verdict) bool { return v.Hub == hub },
				func(a, b signet.Verdict) int { return b.Time.Compare(a.Time) })
			for _, v := range of[min(keep, len(of)):] {
				delete(s.verdicts, v.TrackingID)
			}
		}
		return nil
	})
}

// Verdicts lists verdicts, newest first.
func (s *Store) Verdicts(_ context.Context, q authority.VerdictQuery) (vs []signet.Verdict, err error) {
	err = s.do("Verdicts", func() error {
		vs = sorted(s.verdicts, func(v signet.Verdict) bool {
			return v.Hub == q.Hub && (q.DeviceID == "" || v.DeviceID == q.DeviceID) &&
				(q.TrackingID == "" || v.TrackingID == q.TrackingID) && !v.LastTime.Before(q.Since)
		}, func(a, b signet.Verdict) int { return b.LastTime.Compare(a.LastTime) })
		vs = vs[:min(q.Limit, len(vs))]
		return nil
	})
	return vs, err
}
