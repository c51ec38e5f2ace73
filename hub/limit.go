package hub

import (
	"time"

	"github.com/signet-iot/signet"
)

// Limiter holds hubs and devices to the rates that their hubs have. Its server is
// package limits. Safe for concurrent use; it does not wait.
type Limiter interface {
	// Take takes n of a meter for a device, or for the hub alone for "", and says how
	// long to wait before they are used. When that would be longer than mayWait,
	// nothing is taken, and it refuses with [signet.LimitRate].
	Take(of signet.Hub, device string, m signet.Meter, n int, mayWait time.Duration) (wait time.Duration, err error)
}

// noLimits limits nothing.
type noLimits struct{}

func (noLimits) Take(signet.Hub, string, signet.Meter, int, time.Duration) (time.Duration, error) {
	return 0, nil
}

func (h *Hub) meter(hub, device string, m signet.Meter, n int, mayWait time.Duration) (wait time.Duration, err error) {
	tenant, err := h.registry.HubByName(hub)
	if err != nil {
		return 0, err
	}
	return h.limiter.Take(tenant, device, m, n, mayWait)
}

// Meter counts n of what the device does against the limits of its hub, and says
// how long to wait before it is done. When that would be longer than mayWait, it is
// not to be done: it refuses with [signet.LimitRate]. The door calls it before Send,
// Twin and Report, as only it knows whether a device can be held back.
func (s *Session) Meter(m signet.Meter, n int, mayWait time.Duration) (wait time.Duration, err error) {
	return s.hub.meter(s.principal.Hub, s.principal.DeviceID, m, n, mayWait)
}
