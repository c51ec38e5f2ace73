package hub

import (
	"context"

	"github.com/signet-iot/signet"
)

// A DesiredChange tells a device of new desired properties of its twin.
type DesiredChange struct {
	Version int64
	Patch   []byte // the JSON merge patch, with its nulls, that led to the version
}

func (DesiredChange) Kind() Kinds { return DesiredChanges }

// Twin reads the twin of the session's identity.
func (s *Session) Twin(ctx context.Context) (signet.Twin, error) {
	if err := s.may(); err != nil {
		return signet.Twin{}, err
	}
	p := s.principal
	t, err := s.hub.registry.Twin(ctx, p.Hub, p.DeviceID, p.ModuleID)
	if err == nil && t.GenerationID != p.GenerationID {
		return signet.Twin{}, madeAnew(p) // and the session is about to end
	}
	return t, err
}

func madeAnew(p *signet.Principal) error {
	return signet.Refuse(signet.IdentityUnknown, "The identity %q has been deleted and made anew.", signet.IdentityName(p.DeviceID, p.ModuleID))
}

// Report merges a JSON patch into the reported properties of the session's twin,
// if their version is ifVersion; 0 fits any. It gives the new version once that is
// on disk. It refuses with [signet.TwinMalformed], [signet.LimitTwinSize] and
// [signet.ETagStale].
func (s *Session) Report(ctx context.Context, patch []byte, ifVersion int64) (version int64, err error) {
	if err := s.may(); err != nil {
		return 0, err
	}
	p := s.principal
	return s.hub.registry.Report(ctx, p.Hub, p.DeviceID, p.ModuleID, p.GenerationID, patch, ifVersion)
}

// DesiredChanged tells the device of a twin, if it is connected and listens, of
// the patch that led to the desired properties as they are in t. With a patch of
// nil it is not known whether they are so. What cannot be told, the device has to
// read: its session ends, and SDKs read the twin when they are back. It does not
// block.
func (h *Hub) DesiredChanged(t signet.Twin, patch []byte) {
	s := h.session(t.Hub, t.DeviceID, t.ModuleID)
	if s == nil || s.principal.GenerationID != t.GenerationID || !s.listensTo(DesiredChanges) {
		return
	}
	if patch == nil || !s.post(DesiredChange{t.Desired.Version, patch}) {
		s.end(signet.Refuse(signet.SessionClosed, "The device could not be told of its desired properties of version %d, and has to read its twin anew.", t.Desired.Version))
	}
}
