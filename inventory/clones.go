package inventory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
)

// What is a finding, and what is not.
//
// A key in the certificates of two devices is one, whoever issued them and
// whenever: each device's latest certificate is compared. A device's own next
// certificate with the same key is none: renewal does that. Nor is a module that
// has the key of its device.
//
// One certificate from two addresses is none by itself: devices move, and
// carriers' gateways give another address with each connection. It is one when two
// networks take a live session from each other, in turn: a device that has moved
// leaves nobody behind who comes back for the session within moments.
const (
	// turnTime is within what a session must be taken back to count as a turn, and
	// turnWindow within what there must be maxTurns: an SDK that loses its session
	// comes back within seconds, again and again; a link that flaps does so for a
	// minute.
	turnTime   = 2 * time.Minute
	turnWindow = 10 * time.Minute
	maxTurns   = 6
	// backWindow is within what a device must have gone back to the certificate
	// before maxBacks times: a renewal that was rolled back does so once.
	backWindow = 24 * time.Hour
	maxBacks   = 3
	// maxTurning bounds the devices whose turns are counted, a few hundred bytes each.
	maxTurning = 4096

	// MaxClones bounds the findings that are kept of a hub: the latest.
	MaxClones = 10_000
	// toldAgain is how soon the same is told again; who is new in it is told at once.
	toldAgain = 24 * time.Hour
	// maxTold and maxQuarantined bound what a hub is told, and how many devices are
	// disabled, in a day: more than that is no theft but a fault in production, and
	// not for a machine to judge.
	maxTold        = 100
	maxQuarantined = 100
	// maxReason is how many characters a reason has, as that of a device's status.
	maxReason = 128
)

// turns counts how often an identity has changed hands lately.
type turns struct {
	from, to netip.Prefix // the last move
	moved    time.Time
	times    []time.Time // of turns between the two, at most maxTurns
	backs    []time.Time // of returns to an earlier certificate, at most maxBacks
}

// add adds a moment to those within a window and says whether there are as many
// as it takes; then it begins anew.
func add(times *[]time.Time, now time.Time, window time.Duration, most int) bool {
	*times = append(slices.DeleteFunc(*times, func(t time.Time) bool { return now.Sub(t) > window }), now)
	if len(*times) < most {
		return false
	}
	*times = nil
	return true
}

// day counts what was done at a hub in a day.
type day struct {
	began             time.Time
	told, quarantined int
}

// network is what addresses of one place have in common: carriers give out
// addresses of a /24, and a /48 is one site's (RFC 6177).
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // the zero Prefix for no address
	return p
}

// Moved notes that an identity has connected while a session of it lived, with the
// same certificate, from another address. It never waits.
func (i *Inventory) Moved(p *signet.Principal, from, to netip.Addr) {
	a, b := network(from), network(to)
	if a == b || !a.IsValid() || !b.IsValid() || len(p.Path) == 0 {
		return
	}
	now := i.now()
	i.mu.Lock()
	defer i.mu.Unlock()
	t := i.turning(identity{p.Hub, p.DeviceID, p.ModuleID}, now)
	if t == nil {
		return
	}
	back := t.from == b && t.to == a && now.Sub(t.moved) <= turnTime
	if !back {
		t.times = nil
	}
	t.from, t.to, t.moved = a, b, now
	if back && add(&t.times, now, turnWindow, maxTurns) && len(i.found) < maxTurning {
		i.found = append(i.found, signet.Clone{Hub: p.Hub, Kind: signet.CloneTwoPlaces, Devices: []string{signet.IdentityName(p.DeviceID, p.ModuleID)},
			Thumbprint: hex.EncodeToString(p.Path[0].Thumbprint[:]), Places: []string{a.String(), b.String()}})
	}
}

// turning gives the turns of an identity; nil when too many are counted.
func (i *Inventory) turning(who identity, now time.Time) *turns {
	if t := i.turns[who]; t != nil {
		return t
	}
	if len(i.turns) >= maxTurning {
		for who, t := range i.turns {
			if now.Sub(t.moved) > turnWindow && (len(t.backs) == 0 || now.Sub(t.backs[len(t.backs)-1]) > backWindow) {
				delete(i.turns, who)
			}
		}
	}
	if len(i.turns) >= maxTurning {
		return nil
	}
	t := &turns{}
	i.turns[who] = t
	return t
}

// compare gives what is found of sightings that are about to be written: each
// against what is stored, and against those before it that are written with it.
func (i *Inventory) compare(sightings []signet.Sighting, alike []Alike) (found []signet.Clone) {
	type of struct{ hub, value string }
	keys, issued := map[of]*signet.Sighting{}, map[of]*signet.Sighting{}
	now := i.now()
	for n := range sightings {
		w := &sightings[n]
		sameKey, sameIssued := alike[n].SameKey, alike[n].SameIssued
		if o := keys[of{w.Hub, w.Key}]; o != nil && o.DeviceID != w.DeviceID {
			sameKey = append(sameKey, *o)
		}
		if o := issued[of{w.Hub, w.Issued}]; o != nil && w.Issued != "" && o.DeviceID != w.DeviceID && o.Thumbprint != w.Thumbprint {
			sameIssued = append(sameIssued, *o)
		}
		keys[of{w.Hub, w.Key}], issued[of{w.Hub, w.Issued}] = w, w
		if len(sameKey) > 0 {
			found = append(found, signet.Clone{Hub: w.Hub, Kind: signet.CloneSameKey, Devices: names(w, sameKey), Key: w.Key})
		}
		if len(sameIssued) > 0 {
			found = append(found, signet.Clone{Hub: w.Hub, Kind: signet.CloneSameSerial, Devices: names(w, sameIssued), Serial: w.Serial, Key: w.Issued})
		}
		if b := alike[n].Before; b != nil && b.Thumbprint != w.Thumbprint && b.Previous == w.Thumbprint {
			i.mu.Lock()
			t := i.turning(identity{w.Hub, w.DeviceID, w.ModuleID}, now)
			often := t != nil && add(&t.backs, now, backWindow, maxBacks)
			i.mu.Unlock()
			if often {
				found = append(found, signet.Clone{Hub: w.Hub, Kind: signet.CloneTwoCertificates, Devices: names(w, nil), Thumbprint: w.Thumbprint})
			}
		}
	}
	return found
}

func names(w *signet.Sighting, others []signet.Sighting) []string {
	all := []string{signet.IdentityName(w.DeviceID, w.ModuleID)}
	for _, o := range others {
		all = append(all, signet.IdentityName(o.DeviceID, o.ModuleID))
	}
	return all
}

// cloneID names a finding: by what is common to its devices, or by its device.
func cloneID(c *signet.Clone) string {
	of := c.Key
	if of == "" {
		of = c.Devices[0]
	}
	sum := sha256.Sum256([]byte(string(c.Kind) + " " + of))
	return hex.EncodeToString(sum[:8])
}

// judge puts findings together with what is known of each, has devices
// quarantined where that is the hub's policy, and gives what is to be stored and
// what is to be told.
func (i *Inventory) judge(ctx context.Context, found []signet.Clone) (stored, told []signet.Clone, err error) {
	now := i.now().UTC().Truncate(time.Millisecond)
	at := map[[2]string]int{}
	for _, c := range found {
		t, err := i.tree(ctx, c.Hub)
		if err != nil {
			return nil, nil, err
		}
		if t.policy == signet.ClonesOff {
			continue
		}
		c.ID = cloneID(&c)
		if c.Kind == signet.CloneSameSerial {
			c.Key = ""
		}
		n, met := at[[2]string{c.Hub, c.ID}]
		if !met {
			known, err := i.store.Clone(ctx, c.Hub, c.ID)
			if errors.Is(err, signet.ErrNotFound) {
				known = c
				known.Devices, known.First = nil, now
			} else if err != nil {
				return nil, nil, err
			}
			known.Places, known.Thumbprint = c.Places, c.Thumbprint
			n, at[[2]string{c.Hub, c.ID}] = len(stored), len(stored)
			stored = append(stored, known)
		}
		k := &stored[n]
		if k.Dismissed != nil {
			continue
		}
		k.Last, k.Count = now, k.Count+1
		fresh := false
		for _, name := range c.Devices {
			switch {
			case slices.Contains(k.Devices, name):
			case len(k.Devices) < signet.MaxCloneDevices:
				k.Devices, fresh = append(k.Devices, name), true
			default:
				k.More = true
			}
		}
		if t.policy == signet.ClonesQuarantine {
			i.quarantine(ctx, k, c.Devices)
		}
		if today := i.today(c.Hub, now); (fresh || now.Sub(k.Told) >= toldAgain) && !k.Told.Equal(now) && today.told < maxTold {
			today.told++
			k.Told = now
		}
	}
	stored = slices.DeleteFunc(stored, func(c signet.Clone) bool { return c.Dismissed != nil })
	for _, c := range stored {
		if c.Told.Equal(now) {
			told = append(told, c)
		}
	}
	return stored, told, nil
}

func (i *Inventory) today(hub string, now time.Time) *day {
	d := i.days[hub]
	if d == nil || now.Sub(d.began) >= 24*time.Hour {
		d = &day{began: now}
		i.days[hub] = d
	}
	return d
}

// quarantine disables the devices of a finding that are enabled.
func (i *Inventory) quarantine(ctx context.Context, c *signet.Clone, devices []string) {
	today := i.today(c.Hub, i.now())
	for _, name := range devices {
		if today.quarantined >= maxQuarantined {
			return
		}
		done, err := i.disable(ctx, c.Hub, name, "quarantined: "+why(c, name))
		if err != nil {
			i.log.Error("a device could not be quarantined", "hub", c.Hub, "device", name, "clone", c.ID, "error", err)
		}
		if !done {
			continue
		}
		if today.quarantined++; today.quarantined == maxQuarantined {
			i.log.Error("no more devices are quarantined today: this many are a fault in production, or in us", "hub", c.Hub, "devices", maxQuarantined)
		}
		if !slices.Contains(c.Quarantined, name) && len(c.Quarantined) < signet.MaxCloneDevices {
			c.Quarantined = append(c.Quarantined, name)
		}
	}
}

// why says in a status reason what was found of a device.
func why(c *signet.Clone, name string) string {
	what := ""
	switch c.Kind {
	case signet.CloneSameKey, signet.CloneSameSerial:
		what = "its key is another device's too"
		if c.Kind == signet.CloneSameSerial {
			what = "its serial number was given out twice"
		}
		for _, other := range c.Devices {
			if other != name && len(other) <= 40 {
				what += " (" + other + ")"
				break
			}
		}
	case signet.CloneTwoPlaces:
		what = "its certificate is used from two places"
	case signet.CloneTwoCertificates:
		what = "it shows two certificates by turns"
	}
	return fmt.Sprintf("%s; clone %s", what, c.ID)
}

// Clones gives the findings of a hub, the latest first, up to a limit, and what
// the hub does about them.
func (i *Inventory) Clones(ctx context.Context, hub string, limit int) (signet.ClonePolicy, []signet.Clone, error) {
	list, err := i.store.Clones(ctx, hub, limit)
	if err != nil {
		return "", nil, err
	}
	t, err := i.tree(ctx, hub)
	if err != nil {
		return "", nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return t.policy, list, nil
}

// SetClonePolicy says what a hub does about clones from now on. It refuses with
// [signet.RequestMalformed] and [signet.HubUnknown].
func (i *Inventory) SetClonePolicy(ctx context.Context, hub string, policy signet.ClonePolicy) error {
	if err := policy.Check(); err != nil {
		return err
	}
	i.writing.Lock()
	defer i.writing.Unlock()
	err := i.store.SetClonePolicy(ctx, hub, policy)
	if errors.Is(err, signet.ErrNotFound) {
		return signet.Refuse(signet.HubUnknown, "There is no hub %q any more.", signet.Clip(hub))
	}
	i.mu.Lock()
	delete(i.trees, hub) // also when it failed: what counts is what is stored
	i.mu.Unlock()
	return err
}

// DismissClone has a finding be found no more. Who was quarantined for it stays
// disabled until enabled by hand. It refuses with [signet.CloneUnknown].
func (i *Inventory) DismissClone(ctx context.Context, hub, id, reason string) (signet.Clone, error) {
	if utf8.RuneCountInString(reason) > maxReason {
		return signet.Clone{}, signet.Refuse(signet.RequestMalformed, "The reason has more than %d characters.", maxReason).
			At("reason", "at most 128 characters", reason)
	}
	i.writing.Lock()
	defer i.writing.Unlock()
	c, err := i.store.Clone(ctx, hub, id)
	if err == nil {
		c.Dismissed = &signet.CloneDismissal{By: signet.ActorOf(ctx).Name, Reason: reason, Time: i.now().UTC().Truncate(time.Millisecond)}
		err = i.store.DismissClone(ctx, c)
	}
	if errors.Is(err, signet.ErrNotFound) {
		return c, signet.Refuse(signet.CloneUnknown, "Nothing was found at the hub under the ID %q.", signet.Clip(id))
	}
	return c, err
}
