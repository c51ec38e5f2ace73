// Package registry keeps the hubs of a server, the identities of their devices
// (who may connect, and how each proves itself) and the twins of these.
//
// Hubs are few and held in memory; identities are many and read from the
// [Store] each time, so that what the registry says is what is on disk.
package registry

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/maphash"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet"
)

// Registry is the keeper of hubs and identities. Safe for concurrent use.
type Registry struct {
	store   Store
	now     func() time.Time
	changed func(context.Context, signet.Change)

	hubs   atomic.Pointer[tenants] // replaced whole; readers take no lock
	hubsMu sync.Mutex              // held while the set is read from the store and swapped

	// Who changes a twin takes its turn, so that the device hears of versions in
	// their order; twins share turns by the hash of their names.
	twinTurns [256]chan struct{}
	twinSeed  maphash.Seed
	desired   func(t signet.Twin, patch []byte)

	event      func(hub string)
	eventsHeld func(hub string) bool

	activity activity
}

// Options of a Registry. The zero value works.
type Options struct {
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// Changed is told of every change that a live session may rest on, and of
	// new hubs, after it is durable and before the caller is answered.
	Changed func(context.Context, signet.Change)
	// Desired is told of new desired properties after they are durable and before
	// the caller is answered, in the order of their versions for each twin: of the
	// merge patch, with its nulls, that led to those of t. A patch of nil says that
	// it is not known whether they came to be so. It must not block.
	Desired func(t signet.Twin, patch []byte)
	// Event is told that events of a hub wait in the store; EventsHeld is asked
	// whether so many wait that no change may add to them. Neither may block.
	Event      func(hub string)
	EventsHeld func(hub string) bool
	// Connected says whether an identity is connected, for [Registry.WriteActivity];
	// nobody is when it is nil. It must not block.
	Connected func(hub, device, module string) bool
	// Rush says whether now is no time for [Registry.RunActivity] to write; it always
	// is when it is nil.
	Rush func() bool
}

// tenants is an immutable set of hubs, findable both ways.
type tenants struct {
	hubs, services []signet.Hub          // by name
	byName, byHost map[string]signet.Hub // by the name of either; by the host of a hub
}

// New makes a Registry; call Load before using it.
func New(store Store, o Options) *Registry {
	r := &Registry{store: store, now: o.Now, changed: o.Changed, desired: o.Desired, twinSeed: maphash.MakeSeed(),
		event: o.Event, eventsHeld: o.EventsHeld}
	if r.now == nil {
		r.now = time.Now
	}
	if r.changed == nil {
		r.changed = func(context.Context, signet.Change) {}
	}
	if r.desired == nil {
		r.desired = func(signet.Twin, []byte) {}
	}
	if r.event == nil {
		r.event = func(string) {}
	}
	if r.eventsHeld == nil {
		r.eventsHeld = func(string) bool { return false }
	}
	r.activity = activity{connected: o.Connected, rush: o.Rush, pending: map[[2]string][]signet.Activity{}}
	if o.Rush == nil {
		r.activity.rush = func() bool { return false }
	}
	if o.Connected == nil {
		r.activity.connected = func(string, string, string) bool { return false }
	}
	r.hubs.Store(&tenants{})
	for n := range r.twinTurns {
		r.twinTurns[n] = make(chan struct{}, 1)
	}
	return r
}

// Load reads the hubs from the store.
func (r *Registry) Load(ctx context.Context) error {
	r.hubsMu.Lock()
	defer r.hubsMu.Unlock()
	list, err := r.store.Hubs(ctx)
	if err != nil {
		return fmt.Errorf("read hubs: %w", err)
	}
	t := &tenants{byName: map[string]signet.Hub{}, byHost: map[string]signet.Hub{}}
	for _, h := range list {
		t.byName[h.Name] = h
		if h.Provisions() {
			t.services = append(t.services, h)
			continue // no device connects to it
		}
		t.hubs, t.byHost[h.HostName] = append(t.hubs, h), h
	}
	r.hubs.Store(t)
	return nil
}

// Hubs lists the hubs by name.
func (r *Registry) Hubs() []signet.Hub { return r.hubs.Load().hubs }

// HubByHost finds a hub by the host name that a client wrote, in any case, with
// or without a port. It refuses with [signet.HubUnknown].
func (r *Registry) HubByHost(host string) (signet.Hub, error) {
	if h, ok := r.hubs.Load().byHost[signet.HostOnly(host)]; ok {
		return h, nil
	}
	return signet.Hub{}, signet.Refuse(signet.HubUnknown, "No hub here has the host name %q.", signet.Clip(host)).
		At("host name", "one of a hub of this server", host)
}

// HubByName finds a hub, or a provisioning service, by its name. It refuses with
// [signet.HubUnknown].
func (r *Registry) HubByName(name string) (signet.Hub, error) {
	if h, ok := r.hubs.Load().byName[strings.ToLower(name)]; ok {
		return h, nil
	}
	return signet.Hub{}, signet.Refuse(signet.HubUnknown, "No hub here is called %q.", signet.Clip(name))
}

var (
	hubName  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,48}[a-z0-9]$`)
	hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
)

// CreateHub makes a hub with the five policies that Azure makes, each with two
// random keys. It refuses with [signet.HubMalformed] or [signet.HubExists].
func (r *Registry) CreateHub(ctx context.Context, name, host string) (signet.Hub, error) {
	h, err := r.newHub(name, host)
	if err != nil {
		return h, err
	}
	for _, p := range []signet.Policy{
		{Name: "iothubowner", Rights: signet.RegistryRead | signet.RegistryWrite | signet.ServiceConnect | signet.DeviceConnect},
		{Name: "service", Rights: signet.ServiceConnect},
		{Name: "device", Rights: signet.DeviceConnect},
		{Name: "registryRead", Rights: signet.RegistryRead},
		{Name: "registryReadWrite", Rights: signet.RegistryRead | signet.RegistryWrite},
	} {
		p.PrimaryKey, p.SecondaryKey = newKey(), newKey()
		h.Policies = append(h.Policies, p)
	}
	return r.create(ctx, h)
}

func (r *Registry) newHub(name, host string) (signet.Hub, error) {
	h := signet.Hub{Name: strings.ToLower(name), HostName: signet.HostOnly(host), Created: r.stamp(), AtExpiry: signet.KeepAtExpiry}
	return h, CheckHub(name, host)
}

// CheckHub refuses, with [signet.HubMalformed], a name and a host name that no hub can
// have.
func CheckHub(name, host string) error {
	if !hubName.MatchString(strings.ToLower(name)) {
		return signet.Refuse(signet.HubMalformed, "%q cannot name a hub.", signet.Clip(name)).
			At("name", "3 to 50 letters, digits and hyphens", name)
	}
	// As event hubs, these would have the addresses of other nodes: devices/{id}/…, messages/events.
	if strings.EqualFold(name, "devices") || strings.EqualFold(name, "messages") {
		return signet.Refuse(signet.HubMalformed, "A hub cannot be called %q: addresses by AMQP begin so.", strings.ToLower(name)).
			At("name", "another", name)
	}
	if h := signet.HostOnly(host); len(h) > 253 || !hostName.MatchString(h) {
		return signet.Refuse(signet.HubMalformed, "%q is not a DNS host name.", signet.Clip(host)).
			At("hostName", "a DNS host name", host)
	}
	return nil
}

func (r *Registry) create(ctx context.Context, h signet.Hub) (signet.Hub, error) {
	err := r.store.CreateHub(ctx, h)
	if errors.Is(err, signet.ErrExists) {
		return h, signet.Refuse(signet.HubExists, "There is a hub called %q, or one with the host name %q, already.", h.Name, h.HostName)
	}
	err = errors.Join(err, r.reload(ctx))
	if now, e := r.HubByName(h.Name); e == nil && now.Created.Equal(h.Created) {
		r.changed(ctx, signet.Change{Hub: h.Name, HubCreated: true})
	}
	return h, err
}

// SetAtExpiry changes what becomes of a hub's sessions whose certificates
// expire. With [signet.EndAtExpiry] those that are past it are over before it
// returns, and those that live will be in time; a session that began under it
// keeps its end. It refuses with [signet.HubUnknown] and [signet.HubMalformed].
func (r *Registry) SetAtExpiry(ctx context.Context, name string, policy signet.ExpiryPolicy) (signet.Hub, error) {
	h, err := r.HubByName(name)
	if err != nil {
		return h, err
	}
	if err := policy.Check(); err != nil {
		return h, err
	}
	written := r.store.SetAtExpiry(ctx, h.Name, policy)
	if errors.Is(written, signet.ErrNotFound) {
		return h, signet.Refuse(signet.HubUnknown, "There is no hub %q any more.", h.Name)
	}
	// A write that failed for a reason of the machine may have been kept: then too,
	// what is in force is what is stored.
	err = errors.Join(written, r.Load(context.WithoutCancel(ctx)))
	if h, _ = r.HubByName(h.Name); h.AtExpiry == signet.EndAtExpiry {
		r.changed(ctx, signet.Change{Hub: h.Name, Trust: true})
	}
	return h, err
}

// DeleteHub removes a hub and everything that bears its name, and ends its
// sessions.
func (r *Registry) DeleteHub(ctx context.Context, name string) error {
	h, err := r.HubByName(name)
	if err != nil {
		return err
	}
	if h.Provisions() {
		return signet.Refuse(signet.HubMalformed, "%q is the provisioning service of this server, and stays.", h.Name)
	}
	gone := r.store.DeleteHub(ctx, h.Name)
	// The set is swapped before the sessions are ended: none can begin anew.
	err = errors.Join(gone, r.reload(ctx))
	if now, e := r.HubByName(h.Name); gone == nil || e != nil || !now.Created.Equal(h.Created) {
		r.changed(ctx, signet.Change{Hub: h.Name, HubDeleted: true})
	}
	return err
}

// reload brings the hubs that are stored into force after a write. One that
// failed for a reason of the machine may have been kept all the same, and a caller
// that has gone leaves it kept: then too, what is served is what is stored.
func (r *Registry) reload(ctx context.Context) error { return r.Load(context.WithoutCancel(ctx)) }

// Get reads one identity; module is empty for a device. It refuses with
// [signet.IdentityUnknown].
func (r *Registry) Get(ctx context.Context, hub, device, module string) (signet.Identity, error) {
	i, err := r.store.Identity(ctx, hub, device, module)
	if errors.Is(err, signet.ErrNotFound) {
		return i, unknown(device, module)
	}
	return i, err
}

// Subscribe replaces what the stored session of an identity of that generation listens
// to. It refuses with [signet.IdentityUnknown].
func (r *Registry) Subscribe(ctx context.Context, hub, device, module, generation string, subscriptions uint32) error {
	err := r.store.SetSubscriptions(ctx, hub, device, module, generation, subscriptions)
	if errors.Is(err, signet.ErrNotFound) {
		return unknown(device, module)
	}
	return err
}

// List reads up to limit devices with IDs greater than after, in byte order.
func (r *Registry) List(ctx context.Context, hub, after string, limit int) ([]signet.Identity, error) {
	return r.store.Identities(ctx, hub, after, limit)
}

// MaxModules is how many modules a device may have: Azure's limit. Modules that
// are created side by side may go beyond it by their number.
const MaxModules = 50

// Modules lists the modules of a device, in byte order of their IDs. It refuses
// with [signet.IdentityUnknown] when there is no such device.
func (r *Registry) Modules(ctx context.Context, hub, device string) ([]signet.Identity, error) {
	if _, err := r.Get(ctx, hub, device, ""); err != nil {
		return nil, err
	}
	return r.store.Modules(ctx, hub, device, 2*MaxModules)
}

// Count counts the devices of a hub, and the enabled ones among them.
func (r *Registry) Count(ctx context.Context, hub string) (total, enabled int64, err error) {
	return r.store.CountDevices(ctx, hub)
}

// Create adds an identity. What it leaves open is filled in: status enabled,
// authentication by symmetric keys, and random keys. It refuses with
// [signet.IdentityMalformed], [signet.IdentityExists] and, for a module,
// [signet.LimitModules].
func (r *Registry) Create(ctx context.Context, i signet.Identity) (signet.Identity, error) {
	if err := settle(&i); err != nil {
		return i, err
	}
	if i.ModuleID != "" {
		if modules, err := r.store.Modules(ctx, i.Hub, i.DeviceID, MaxModules); err != nil {
			return i, err
		} else if len(modules) == MaxModules {
			return i, signet.Refuse(signet.LimitModules, "The device %q has %d modules.", i.DeviceID, MaxModules)
		}
	}
	i.CreatedTime = r.stamp()
	i.StatusUpdatedTime = time.Time{}
	i.GenerationID = generation(r.now())
	i.ETag = signet.NewETag()
	events, err := r.creation(&i)
	if err != nil {
		return i, err
	}
	err = r.store.CreateIdentity(ctx, i, events...)
	r.told(i.Hub, events)
	switch {
	case errors.Is(err, signet.ErrExists):
		return i, signet.Refuse(signet.IdentityExists, "The identity %q exists already.", i.Name())
	case errors.Is(err, signet.ErrNotFound) && i.ModuleID != "":
		return i, unknown(i.DeviceID, "")
	case errors.Is(err, signet.ErrNotFound):
		return i, signet.Refuse(signet.HubUnknown, "There is no hub %q any more.", i.Hub)
	}
	return i, err
}

// Replace replaces an identity whose ETag is ifMatch, or whatever it is when
// ifMatch is "*". Generation and creation time stay. It refuses with
// [signet.IdentityMalformed], [signet.IdentityUnknown], [signet.ETagMissing] and
// [signet.ETagStale]. Sessions that the new record does not allow are ended
// before it returns.
func (r *Registry) Replace(ctx context.Context, i signet.Identity, ifMatch string) (signet.Identity, error) {
	if ifMatch == "" {
		return i, signet.Refuse(signet.ETagMissing, "Replacing an identity needs If-Match.")
	}
	if err := settle(&i); err != nil {
		return i, err
	}
	for {
		old, err := r.Get(ctx, i.Hub, i.DeviceID, i.ModuleID)
		if err != nil {
			return i, err
		}
		if ifMatch != "*" && ifMatch != old.ETag {
			return i, stale(i.Name())
		}
		i.GenerationID, i.CreatedTime, i.StatusUpdatedTime, i.Subscriptions = old.GenerationID, old.CreatedTime, old.StatusUpdatedTime, old.Subscriptions
		if i.Status != old.Status {
			i.StatusUpdatedTime = r.stamp()
		}
		i.ETag = signet.NewETag()
		err = r.store.ReplaceIdentity(ctx, i, old.ETag)
		if errors.Is(err, signet.ErrStale) && ifMatch == "*" {
			continue // someone was faster, and the caller does not mind
		}
		if errors.Is(err, signet.ErrStale) {
			return i, stale(i.Name())
		}
		if errors.Is(err, signet.ErrNotFound) {
			return i, unknown(i.DeviceID, i.ModuleID)
		}
		// A write that failed for a reason of the machine may have been kept: then
		// too, the sessions are looked at again.
		r.changed(ctx, signet.Change{Hub: i.Hub, DeviceID: i.DeviceID, ModuleID: i.ModuleID})
		return i, err
	}
}

// SetStatus enables or disables a device, and says whether it was otherwise
// before; one that was not stays as it is, with its reason. It refuses as Replace
// does, and ends sessions as that.
func (r *Registry) SetStatus(ctx context.Context, hub, device string, status signet.Status, reason string) (i signet.Identity, done bool, err error) {
	for {
		if i, err = r.Get(ctx, hub, device, ""); err != nil || i.Status == status {
			return i, false, err
		}
		etag := i.ETag
		i.Status, i.StatusReason = status, reason
		if i, err = r.Replace(ctx, i, etag); signet.CodeOf(err) != signet.ETagStale { // someone was faster
			return i, err == nil, err
		}
	}
}

// Delete removes an identity, and with a device its modules, and ends their
// sessions. ifMatch as for Replace.
func (r *Registry) Delete(ctx context.Context, hub, device, module, ifMatch string) error {
	if ifMatch == "" {
		return signet.Refuse(signet.ETagMissing, "Deleting an identity needs If-Match.")
	}
	err := r.delete(ctx, hub, device, module, ifMatch)
	if errors.Is(err, signet.ErrNotFound) {
		return unknown(device, module)
	}
	if errors.Is(err, signet.ErrStale) {
		return stale(signet.IdentityName(device, module))
	}
	r.changed(ctx, signet.Change{Hub: hub, DeviceID: device, ModuleID: module})
	return err
}

// delete removes an identity, with the events of it.
func (r *Registry) delete(ctx context.Context, hub, device, module, etag string) error {
	tells, err := r.tells(hub, signet.LifeCycleEvents)
	if err != nil {
		return err
	}
	if !tells {
		return r.store.DeleteIdentity(ctx, hub, device, module, etag)
	}
	leave, err := r.twinTurn(ctx, hub, device, module)
	if err != nil {
		return err
	}
	defer leave()
	events, err := r.deletion(ctx, hub, device, module, r.stamp())
	if err != nil {
		return err
	}
	err = r.store.DeleteIdentity(ctx, hub, device, module, etag, events...)
	r.told(hub, events)
	return err
}

// stamp is now as the store keeps it: UTC, to the millisecond.
func (r *Registry) stamp() time.Time { return r.now().UTC().Truncate(time.Millisecond) }

// generation tells a device from an earlier one of the same ID. It looks as
// Azure's does: a count of 100 ns since the year 1.
func generation(t time.Time) string {
	const unixEpoch = 621_355_968_000_000_000
	return fmt.Sprint(unixEpoch + t.UnixNano()/100)
}

func newKey() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

func unknown(device, module string) error {
	field := "deviceId"
	if module != "" {
		field = "moduleId"
	}
	return signet.Refuse(signet.IdentityUnknown, "There is no identity %q.", signet.Clip(signet.IdentityName(device, module))).
		At(field, "one in the registry", signet.IdentityName(device, module))
}

func stale(name string) error {
	return signet.Refuse(signet.ETagStale, "The identity %q has changed since its etag was read.", name)
}
