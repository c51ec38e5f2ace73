package provisioning

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/signet-iot/signet"
)

// eligible gives the hubs that an enrollment may give: those that it names, or
// all that take part in allocation.
func eligible(links []signet.LinkedHub, e *signet.Enrollment) []signet.LinkedHub {
	var hubs []signet.LinkedHub
	if len(e.Hubs) == 0 {
		for _, l := range links {
			if l.Allocates {
				hubs = append(hubs, l)
			}
		}
		return hubs
	}
	for _, host := range e.Hubs { // in the order of the enrollment: the first is the static one
		if l := linked(links, host); l != nil {
			hubs = append(hubs, *l)
		}
	}
	return hubs
}

// allocate decides which of the candidates the device gets.
func (p *Provisioning) allocate(ctx context.Context, a *admission, r *signet.Registration, w *Work, candidates []signet.LinkedHub) (Placement, error) {
	e := &a.enrollment
	if len(candidates) == 0 {
		return Placement{}, signet.Refuse(signet.AllocationNoHub, "No hub is linked that the %s %q may give to a device.", kind(e.Group), e.ID)
	}
	chosen := Placement{InitialTwin: e.InitialTwin}
	switch {
	case e.Allocation == signet.AllocateCustom:
		return p.ask(ctx, a, r, w, candidates)
	case e.Allocation == signet.AllocateGeoLatency && len(candidates) > 1:
		nearest, err := p.nearestHubs(ctx, candidates)
		if err != nil {
			return Placement{}, err
		}
		chosen.Hub = hashed(r, nearest)
	case e.Allocation == signet.AllocateStatic:
		chosen.Hub = candidates[0].HostName
	default:
		chosen.Hub = hashed(r, candidates)
	}
	return chosen, nil
}

// hashed chooses by the hash of device and hub, weighted: each hub gets its share,
// and when one comes or goes, only those devices move that have to (rendezvous
// hashing; score -w/ln(u) for a u in (0, 1) that the hash gives).
func hashed(r *signet.Registration, hubs []signet.LinkedHub) string {
	best, highest := "", math.Inf(-1)
	for _, h := range hubs {
		sum := sha256.Sum256([]byte(r.Service + "\n" + signet.FoldRegistrationID(r.RegistrationID) + "\n" + h.HostName))
		u := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 0.5) / (1 << 53)
		if score := -float64(max(h.Weight, 1)) / math.Log(u); score > highest {
			best, highest = h.HostName, score
		}
	}
	return best
}

const (
	// distanceTime is how long a hub may take to be measured.
	distanceTime = 5 * time.Second
	// nearlySame is within what a measured time varies by itself.
	nearlySame = 10 * time.Millisecond
)

// nearestHubs gives those hubs that are as near as any. Nearness is that to this
// server, which the device has reached: its own hubs come first, of others it is
// the time that a connection takes. One that does not answer is not near.
func (p *Provisioning) nearestHubs(ctx context.Context, hubs []signet.LinkedHub) ([]signet.LinkedHub, error) {
	ctx, cancel := context.WithTimeout(ctx, distanceTime)
	defer cancel()
	distances, errs := make([]time.Duration, len(hubs)), make([]error, len(hubs))
	var all sync.WaitGroup
	for n, h := range hubs {
		all.Go(func() { distances[n], errs[n] = p.deps.Hubs.Distance(ctx, h) })
	}
	all.Wait()
	least := time.Duration(-1)
	for n, d := range distances {
		if errs[n] == nil && (least < 0 || d < least) {
			least = d
		}
	}
	if least < 0 {
		e := signet.Refuse(signet.Unavailable, "None of the linked hubs answers.")
		e.Cause = errs[0]
		return nil, e
	}
	var near []signet.LinkedHub
	for n, h := range hubs {
		if errs[n] == nil && distances[n] <= least+nearlySame {
			near = append(near, h)
		}
	}
	return near, nil
}

// choice checks what a webhook has chosen.
func (p *Provisioning) choice(e *signet.Enrollment, answer *allocationResponse, candidates []signet.LinkedHub) (Placement, error) {
	host := signet.HostOnly(answer.HostName)
	if !slices.ContainsFunc(candidates, func(l signet.LinkedHub) bool { return l.HostName == host }) {
		return Placement{}, signet.Refuse(signet.AllocationNoHub, "The webhook chose the hub %q, which is none of those that it was offered.", signet.Clip(host)).
			At("iotHubHostName", "one of linkedHubs", host)
	}
	chosen := Placement{Hub: host, InitialTwin: e.InitialTwin}
	if t := answer.InitialTwin; t != nil {
		if err := p.deps.Tenants.CheckTwin(t.Tags, t.Properties.Desired); err != nil {
			return Placement{}, signet.Refuse(signet.AllocationWebhook, "The initial twin of the webhook is not taken: %s", signet.AsError(err).Message)
		}
		chosen.InitialTwin = signet.InitialTwin{Tags: t.Tags, Desired: t.Properties.Desired}
	}
	if payload := bytes.TrimSpace(answer.Payload); len(payload) > 0 && string(payload) != "null" {
		chosen.Payload = payload
	}
	return chosen, nil
}
