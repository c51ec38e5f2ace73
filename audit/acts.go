package audit

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/issuance"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/routes"
)

// around records an act, then does it. One that fails is recorded to have failed.
func (l *Log) around(ctx context.Context, e Entry, detail any, do func() error) error {
	if detail != nil {
		var err error
		if e.Detail, err = json.Marshal(detail); err != nil {
			return err
		}
	}
	if err := l.Append(ctx, e); err != nil {
		return err
	}
	err := do()
	if err != nil {
		e.Detail, e.Failed = nil, err.Error()
		// Should this not be kept, the log is right all the same: it tells of an act
		// that may not have been.
		_ = l.Append(context.WithoutCancel(ctx), e)
	}
	return err
}

// Authority records what is done to the trust of hubs.
func Authority(l *Log, store authority.Store) authority.Store { return authorityStore{store, l} }

type authorityStore struct {
	authority.Store
	log *Log
}

func certificate(c *signet.CACertificate) any {
	return map[string]any{"subject": c.Subject, "sha1": c.Thumbprint, "notAfter": c.NotAfter, "verified": c.Verified}
}

func (s authorityStore) CreateCA(ctx context.Context, c signet.CACertificate) error {
	return s.log.around(ctx, Entry{Hub: c.Hub, Act: "certificate.register", Of: c.Name}, certificate(&c),
		func() error { return s.Store.CreateCA(ctx, c) })
}

func (s authorityStore) ReplaceCA(ctx context.Context, c signet.CACertificate, etag string) error {
	return s.log.around(ctx, Entry{Hub: c.Hub, Act: "certificate.change", Of: c.Name}, certificate(&c),
		func() error { return s.Store.ReplaceCA(ctx, c, etag) })
}

func (s authorityStore) DeleteCA(ctx context.Context, hub, name, etag string) error {
	return s.log.around(ctx, Entry{Hub: hub, Act: "certificate.delete", Of: name}, nil,
		func() error { return s.Store.DeleteCA(ctx, hub, name, etag) })
}

func (s authorityStore) CreateDistrust(ctx context.Context, d signet.Distrust) error {
	return s.log.around(ctx, Entry{Hub: d.Hub, Act: "distrust.add", Of: d.ID}, d,
		func() error { return s.Store.CreateDistrust(ctx, d) })
}

func (s authorityStore) DeleteDistrust(ctx context.Context, hub, id string) error {
	return s.log.around(ctx, Entry{Hub: hub, Act: "distrust.lift", Of: id}, nil,
		func() error { return s.Store.DeleteDistrust(ctx, hub, id) })
}

func (s authorityStore) SaveScope(ctx context.Context, c signet.Scope) error {
	return s.log.around(ctx, Entry{Hub: c.Hub, Act: "scope.set", Of: c.Key}, c,
		func() error { return s.Store.SaveScope(ctx, c) })
}

func (s authorityStore) DeleteScope(ctx context.Context, hub, key string) error {
	return s.log.around(ctx, Entry{Hub: hub, Act: "scope.remove", Of: key}, nil,
		func() error { return s.Store.DeleteScope(ctx, hub, key) })
}

func (s authorityStore) SaveRevocationPolicy(ctx context.Context, p signet.RevocationPolicy) error {
	shown := p
	shown.OCSP, shown.CRLs = bare(p.OCSP), nil
	for _, url := range p.CRLs {
		shown.CRLs = append(shown.CRLs, bare(url))
	}
	return s.log.around(ctx, Entry{Hub: p.Hub, Act: "revocation.set", Of: p.CA}, shown,
		func() error { return s.Store.SaveRevocationPolicy(ctx, p) })
}

// bare is a URL without its query, which may hold a secret.
func bare(url string) string {
	before, _, cut := strings.Cut(url, "?")
	if cut {
		return before + "?…"
	}
	return before
}

func (s authorityStore) SaveCRL(ctx context.Context, c signet.CRL) error {
	return s.log.around(ctx, Entry{Hub: c.Hub, Act: "crl.save", Of: c.ID},
		map[string]any{"issuer": c.Issuer, "number": c.Number, "entries": c.Entries, "sha256": c.SHA256, "source": bare(c.Source)},
		func() error { return s.Store.SaveCRL(ctx, c) })
}

func (s authorityStore) DeleteCRL(ctx context.Context, hub, id string) error {
	return s.log.around(ctx, Entry{Hub: hub, Act: "crl.delete", Of: id}, nil,
		func() error { return s.Store.DeleteCRL(ctx, hub, id) })
}

// Registry records what is done to hubs and identities. Twins are not in the
// record: they are what devices and back ends tell each other.
func Registry(l *Log, store registry.Store) registry.Store { return registryStore{store, l} }

type registryStore struct {
	registry.Store
	log *Log
}

func (s registryStore) CreateHub(ctx context.Context, h signet.Hub) error {
	return s.log.around(ctx, Entry{Hub: h.Name, Act: "hub.create", Of: h.Name}, map[string]any{"hostName": h.HostName, "idScope": h.IDScope},
		func() error { return s.Store.CreateHub(ctx, h) })
}

func (s registryStore) SetAtExpiry(ctx context.Context, hub string, policy signet.ExpiryPolicy) error {
	return s.log.around(ctx, Entry{Hub: hub, Act: "hub.expiry", Of: hub}, map[string]any{"atExpiry": policy},
		func() error { return s.Store.SetAtExpiry(ctx, hub, policy) })
}

func (s registryStore) SetEvents(ctx context.Context, hub string, events signet.EventSources) error {
	return s.log.around(ctx, Entry{Hub: hub, Act: "hub.events", Of: hub}, map[string]any{"lifeCycle": events.Has(signet.LifeCycleEvents),
		"twins": events.Has(signet.TwinEvents), "connections": events.Has(signet.ConnectionEvents)},
		func() error { return s.Store.SetEvents(ctx, hub, events) })
}

func (s registryStore) SetLimits(ctx context.Context, hub string, limits signet.Limits) error {
	return s.log.around(ctx, Entry{Hub: hub, Act: "hub.limits", Of: hub}, limits,
		func() error { return s.Store.SetLimits(ctx, hub, limits) })
}

func (s registryStore) DeleteHub(ctx context.Context, name string) error {
	return s.log.around(ctx, Entry{Hub: name, Act: "hub.delete", Of: name}, nil,
		func() error { return s.Store.DeleteHub(ctx, name) })
}

func identity(i *signet.Identity) any {
	return map[string]any{"generationId": i.GenerationID, "auth": i.Auth.Type, "primaryThumbprint": i.Auth.PrimaryThumbprint,
		"secondaryThumbprint": i.Auth.SecondaryThumbprint, "status": i.Status, "statusReason": i.StatusReason}
}

func (s registryStore) CreateIdentity(ctx context.Context, i signet.Identity, events ...signet.Event) error {
	return s.log.around(ctx, Entry{Hub: i.Hub, Act: "identity.create", Of: i.Name()}, identity(&i),
		func() error { return s.Store.CreateIdentity(ctx, i, events...) })
}

func (s registryStore) ReplaceIdentity(ctx context.Context, i signet.Identity, etag string) error {
	return s.log.around(ctx, Entry{Hub: i.Hub, Act: "identity.change", Of: i.Name()}, identity(&i),
		func() error { return s.Store.ReplaceIdentity(ctx, i, etag) })
}

func (s registryStore) DeleteIdentity(ctx context.Context, hub, device, module, etag string, events ...signet.Event) error {
	return s.log.around(ctx, Entry{Hub: hub, Act: "identity.delete", Of: signet.IdentityName(device, module)}, nil,
		func() error { return s.Store.DeleteIdentity(ctx, hub, device, module, etag, events...) })
}

// Enrollments records what is done to the enrollments of provisioning services and
// to the hubs that they give to devices.
func Enrollments(l *Log, store provisioning.EnrollmentStore) provisioning.EnrollmentStore {
	return enrollmentStore{store, l}
}

type enrollmentStore struct {
	provisioning.EnrollmentStore
	log *Log
}

func enrollment(e *signet.Enrollment) any {
	return map[string]any{"group": e.Group, "status": e.Status, "attestation": e.Attestation.Type, "primaryCA": e.Attestation.PrimaryCA,
		"secondaryCA": e.Attestation.SecondaryCA, "hubs": e.Hubs, "allocation": e.Allocation, "issuancePolicy": e.IssuancePolicy, "hubAuth": e.HubAuth}
}

func (s enrollmentStore) CreateEnrollment(ctx context.Context, e signet.Enrollment, signers []string, most int) error {
	return s.log.around(ctx, Entry{Hub: e.Service, Act: "enrollment.create", Of: e.ID}, enrollment(&e),
		func() error { return s.EnrollmentStore.CreateEnrollment(ctx, e, signers, most) })
}

func (s enrollmentStore) ReplaceEnrollment(ctx context.Context, e signet.Enrollment, signers []string, etag string) error {
	return s.log.around(ctx, Entry{Hub: e.Service, Act: "enrollment.change", Of: e.ID}, enrollment(&e),
		func() error { return s.EnrollmentStore.ReplaceEnrollment(ctx, e, signers, etag) })
}

func (s enrollmentStore) DeleteEnrollment(ctx context.Context, service string, group bool, id, etag string) error {
	return s.log.around(ctx, Entry{Hub: service, Act: "enrollment.delete", Of: id}, map[string]any{"group": group},
		func() error { return s.EnrollmentStore.DeleteEnrollment(ctx, service, group, id, etag) })
}

func (s enrollmentStore) ChangeLinkedHubs(ctx context.Context, service string, remove []string, put []signet.LinkedHub) error {
	type link struct {
		HostName  string `json:"hostName"`
		Weight    int    `json:"weight"`
		Allocates bool   `json:"allocates"`
	}
	var links []link
	for _, h := range put {
		links = append(links, link{h.HostName, h.Weight, h.Allocates})
	}
	return s.log.around(ctx, Entry{Hub: service, Act: "links.change", Of: service}, map[string]any{"removed": remove, "put": links},
		func() error { return s.EnrollmentStore.ChangeLinkedHubs(ctx, service, remove, put) })
}

// Inventory records what is said about clones. What is seen of devices is no act.
func Inventory(l *Log, store inventory.Store) inventory.Store { return inventoryStore{store, l} }

type inventoryStore struct {
	inventory.Store
	log *Log
}

func (s inventoryStore) SetClonePolicy(ctx context.Context, hub string, policy signet.ClonePolicy) error {
	return s.log.around(ctx, Entry{Hub: hub, Act: "clones.policy", Of: hub}, map[string]any{"policy": policy},
		func() error { return s.Store.SetClonePolicy(ctx, hub, policy) })
}

func (s inventoryStore) DismissClone(ctx context.Context, c signet.Clone) error {
	return s.log.around(ctx, Entry{Hub: c.Hub, Act: "clones.dismiss", Of: c.ID}, map[string]any{"kind": c.Kind, "devices": c.Devices, "reason": c.Dismissed.Reason},
		func() error { return s.Store.DismissClone(ctx, c) })
}

// Issuance records every certificate that is issued.
func Issuance(l *Log, store issuance.Store) issuance.Store { return issuanceStore{store, l} }

type issuanceStore struct {
	issuance.Store
	log *Log
}

func (s issuanceStore) AddIssued(ctx context.Context, i signet.Issued, most int, since time.Time, keep int) error {
	return s.log.around(ctx, Entry{Hub: i.Service, Act: "certificate.issue", Of: i.DeviceID}, map[string]any{"policy": i.Policy, "hub": i.HostName,
		"serial": i.Serial, "sha256": i.Thumbprint, "issuer": i.Issuer, "notAfter": i.NotAfter},
		func() error { return s.Store.AddIssued(ctx, i, most, since, keep) })
}

// Routes records where the messages of hubs are sent on to. How far a route has
// come, and its dead letters, are no acts.
func Routes(l *Log, store routes.Store) routes.Store { return routeStore{store, l} }

type routeStore struct {
	routes.Store
	log *Log
}

func (s routeStore) SaveRoute(ctx context.Context, r signet.Route, most int) error {
	return s.log.around(ctx, Entry{Hub: r.Hub, Act: "route.save", Of: r.Name}, map[string]any{"url": bare(r.URL), "sources": r.Sources,
		"deviceId": r.DeviceID, "properties": r.Properties, "allowPrivate": r.AllowPrivate, "retrySeconds": r.RetrySeconds},
		func() error { return s.Store.SaveRoute(ctx, r, most) })
}

func (s routeStore) DeleteRoute(ctx context.Context, hub, name string) error {
	return s.log.around(ctx, Entry{Hub: hub, Act: "route.delete", Of: name}, nil,
		func() error { return s.Store.DeleteRoute(ctx, hub, name) })
}
