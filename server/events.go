package server

import (
	"context"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/inventory"
)

// stale puts it on the hub's message log that a CRL grows old.
func (s *Server) stale(ctx context.Context, c signet.StaleCRL) {
	if !s.cfg.ExpiryEvents {
		return
	}
	s.hub.Event(ctx, c.Hub, hub.Event{Source: signet.SourceStale, Operation: "stale", Schema: "revocationStaleNotification", Body: c}, func(err error) {
		if err != nil && ctx.Err() == nil {
			s.log.Error("an event of a CRL that grows old is not stored", "hub", c.Hub, "error", err)
		}
	})
}

// treeEvent puts it on the hub's message log that its trust tree is made to grow.
func (s *Server) treeEvent(ctx context.Context, e inventory.Event) {
	s.log.Warn("the trust tree is made to grow", "hub", e.Hub, "kind", e.Kind, "branch", e.Branch, "subject", e.Subject,
		"device", signet.IdentityName(e.DeviceID, e.ModuleID), "count", e.Count)
	s.event(ctx, e.Hub, hub.Event{Source: signet.SourceTrustTree, Operation: e.Kind, Schema: "trustTreeNotification",
		DeviceID: e.DeviceID, ModuleID: e.ModuleID, Body: e})
}

// cloneEvent puts it on the hub's message log that a key or a certificate may be
// in two hands.
func (s *Server) cloneEvent(ctx context.Context, c signet.Clone) {
	s.log.Warn("a key or a certificate may be in two hands", "hub", c.Hub, "kind", c.Kind, "clone", c.ID, "devices", c.Devices, "quarantined", c.Quarantined)
	s.event(ctx, c.Hub, hub.Event{Source: signet.SourceClones, Operation: string(c.Kind), Schema: "cloneNotification", Body: c})
}

func (s *Server) event(ctx context.Context, of string, e hub.Event) {
	s.hub.Event(ctx, of, e, func(err error) {
		if err != nil && ctx.Err() == nil {
			s.log.Error("an event is not stored", "hub", of, "source", e.Source, "operation", e.Operation, "error", err)
		}
	})
}
