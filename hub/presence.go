package hub

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet"
)

const (
	// presencePause is how long comings and goings are gathered. What a device does
	// within it is told as where it ends: a device that flaps, or a storm of all,
	// makes one event of each device a second at most.
	presencePause = time.Second
	// maxNoticed bounds the identities that are looked at after it. Beyond, they are
	// not told of, and counted.
	maxNoticed = 200_000
	// presenceFarewell is how long the last of them may take at a shutdown.
	presenceFarewell = 2 * time.Second
)

// presence is what connection events are made of. They are told as a device's
// state was seen, at best: a crash loses what was not yet told, and no message of
// a device waits for them.
type presence struct {
	epoch string // begins the sequence numbers of this process
	count uint64 // of those given out; Flush's own

	lost atomic.Uint64

	mu      sync.Mutex // held with no other lock
	noticed map[[3]string]bool
	told    map[[3]string]bool // told as connected; the flusher's own
	on      map[string]bool    // hubs that told at the last look; the flusher's own
}

func (p *presence) init(now time.Time) {
	p.noticed, p.told, p.on = map[[3]string]bool{}, map[[3]string]bool{}, map[string]bool{}
	const fileTimeEpoch = 116_444_736_000_000_000 // 1601 to 1970 in 100 ns, as in Azure's numbers
	p.epoch = fmt.Sprintf("%032X%08X", fileTimeEpoch+now.UnixNano()/100, 0)
}

// noticed says that an identity has come or gone. It does not wait.
func (h *Hub) noticed(of *signet.Principal) {
	if tenant, err := h.registry.HubByName(of.Hub); err == nil && tenant.Events.Has(signet.ConnectionEvents) {
		h.presence.notice([3]string{of.Hub, of.DeviceID, of.ModuleID})
	}
}

func (p *presence) notice(identity [3]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.noticed) >= maxNoticed && !p.noticed[identity] {
		p.lost.Add(1)
		return
	}
	p.noticed[identity] = true
}

// TellConnections tells of devices that come and go, at the hubs that do, until
// ctx ends.
func (h *Hub) TellConnections(ctx context.Context) {
	tick := time.NewTicker(presencePause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), presenceFarewell)
			defer cancel()
			h.FlushConnections(ctx)
			return
		case <-tick.C:
			h.FlushConnections(ctx)
		}
	}
}

// ConnectionEventsLost counts the connection events that were not told.
func (h *Hub) ConnectionEventsLost() uint64 { return h.presence.lost.Load() }

// FlushConnections tells of those that have come or gone since the last time, and
// waits until that is on the log, or lost. It is not safe for concurrent use.
func (h *Hub) FlushConnections(ctx context.Context) {
	p := &h.presence
	h.lookAround()
	var noticed map[[3]string]bool
	p.mu.Lock()
	if len(p.noticed) > 0 { // an empty one stays theirs who notice
		noticed, p.noticed = p.noticed, map[[3]string]bool{}
	}
	p.mu.Unlock()
	var told sync.WaitGroup
	for identity := range noticed {
		connected := h.Connected(identity[0], identity[1], identity[2])
		if connected == p.told[identity] || !p.on[identity[0]] {
			continue
		}
		if connected {
			p.told[identity] = true
		} else {
			delete(p.told, identity)
		}
		kind, operation := "device", "Disconnected"
		if identity[2] != "" {
			kind = "module"
		}
		if connected {
			operation = "Connected"
		}
		p.count++
		told.Add(1)
		h.Event(ctx, identity[0], Event{Source: signet.SourceConnection, Operation: kind + operation, Schema: "deviceConnectionStateNotification",
			DeviceID: identity[1], ModuleID: identity[2],
			Body: map[string]string{"sequenceNumber": fmt.Sprintf("%s%024X", p.epoch, p.count)}}, func(err error) {
			if err != nil {
				p.lost.Add(1)
			}
			told.Done()
		})
	}
	told.Wait()
}

// lookAround sees which hubs tell: at one that has begun to, all that are connected
// are told of; of one that has ceased to, what was told is forgotten.
func (h *Hub) lookAround() {
	p := &h.presence
	on := map[string]bool{}
	for _, tenant := range h.registry.Hubs() {
		if !tenant.Events.Has(signet.ConnectionEvents) {
			continue
		}
		on[tenant.Name] = true
		if p.on[tenant.Name] {
			continue
		}
		h.mu.RLock()
		var there [][3]string
		for _, of := range h.sessions[tenant.Name] {
			for _, s := range of {
				there = append(there, [3]string{tenant.Name, s.principal.DeviceID, s.principal.ModuleID})
			}
		}
		h.mu.RUnlock()
		for _, identity := range there {
			p.notice(identity)
		}
	}
	for hub := range p.on {
		if !on[hub] {
			maps.DeleteFunc(p.told, func(identity [3]string, _ bool) bool { return identity[0] == hub })
		}
	}
	p.on = on
}
