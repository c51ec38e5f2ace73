package registry

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/signet-iot/signet"
)

// SetEvents changes what a hub tells on its message log: it counts for every
// change that begins after it returns. It refuses with [signet.HubUnknown].
func (r *Registry) SetEvents(ctx context.Context, name string, events signet.EventSources) (signet.Hub, error) {
	return r.setOfHub(ctx, name, func(hub string) error { return r.store.SetEvents(ctx, hub, events) })
}

// SetLimits changes what a hub lets itself and its devices do: it counts from then
// on for whatever is limited. It refuses with [signet.HubMalformed] and
// [signet.HubUnknown].
func (r *Registry) SetLimits(ctx context.Context, name string, l signet.Limits) (signet.Hub, error) {
	if err := l.Check(); err != nil {
		return signet.Hub{}, err
	}
	return r.setOfHub(ctx, name, func(hub string) error { return r.store.SetLimits(ctx, hub, l) })
}

// setOfHub writes a setting of a hub and brings what is stored into force.
func (r *Registry) setOfHub(ctx context.Context, name string, write func(hub string) error) (signet.Hub, error) {
	h, err := r.HubByName(name)
	if err != nil {
		return h, err
	}
	if h.Provisions() {
		return h, signet.Refuse(signet.HubMalformed, "%q is the provisioning service of this server, and no hub.", h.Name)
	}
	written := write(h.Name)
	if errors.Is(written, signet.ErrNotFound) {
		return h, signet.Refuse(signet.HubUnknown, "There is no hub %q any more.", h.Name)
	}
	err = errors.Join(written, r.reload(ctx))
	h, _ = r.HubByName(h.Name)
	return h, err
}

// tells says whether a hub tells of such events. It refuses what it would have to
// tell of when too much waits to be told already: a change that is acknowledged
// is told of.
func (r *Registry) tells(hub string, events signet.EventSources) (bool, error) {
	h, ok := r.hubs.Load().byName[strings.ToLower(hub)]
	if !ok || !h.Events.Has(events) {
		return false, nil
	}
	if r.eventsHeld(h.Name) {
		return false, signet.Refuse(signet.Unavailable, "The hub has too many events that the message log has not taken yet.")
	}
	return true, nil
}

// told is called when events may have been written.
func (r *Registry) told(hub string, events []signet.Event) {
	if len(events) > 0 {
		r.event(hub)
	}
}

// creation gives the events of an identity that is made.
func (r *Registry) creation(i *signet.Identity) ([]signet.Event, error) {
	if tells, err := r.tells(i.Hub, signet.LifeCycleEvents); !tells {
		return nil, err
	}
	t := signet.EmptyTwin(i.Hub, i.DeviceID, i.ModuleID, i.GenerationID)
	return []signet.Event{signet.NewLifeCycleEvent(&t, false, i.CreatedTime)}, nil
}

// deletion gives the events of an identity that goes, and of a device's modules
// before it. The caller holds the turn of the twin, so that what is told of the
// device is what it was last; of modules it is what they were a moment ago.
func (r *Registry) deletion(ctx context.Context, hub, device, module string, at time.Time) ([]signet.Event, error) {
	of := []string{module}
	if module == "" {
		modules, err := r.store.Modules(ctx, hub, device, 2*MaxModules)
		if err != nil {
			return nil, err
		}
		of = of[:0]
		for _, m := range modules {
			of = append(of, m.ModuleID)
		}
		of = append(of, "")
	}
	var events []signet.Event
	for _, m := range of {
		t, err := r.Twin(ctx, hub, device, m)
		if signet.CodeOf(err) == signet.IdentityUnknown {
			continue // the deletion will tell
		}
		if err != nil {
			return nil, err
		}
		events = append(events, signet.NewLifeCycleEvent(&t, true, at))
	}
	return events, nil
}

// twinChange gives the events of a change that led to t.
func (r *Registry) twinChange(t *signet.Twin, replaced bool, at time.Time, fill func(*signet.TwinPatch)) ([]signet.Event, error) {
	if tells, err := r.tells(t.Hub, signet.TwinEvents); !tells {
		return nil, err
	}
	var p signet.TwinPatch
	fill(&p)
	return []signet.Event{signet.NewTwinEvent(t, p, replaced, at)}, nil
}

// patched gives the part of a twin change event that is about one section of t as
// it has become: what came, with its nulls, and the metadata of that alone.
func patched(patch object, p *signet.Properties, at time.Time) signet.Properties {
	about := object{}
	merge(object{}, about, patch, newStamp(at, p.Version))
	return signet.Properties{Version: p.Version, Values: encode(patch), Metadata: encode(about)}
}
