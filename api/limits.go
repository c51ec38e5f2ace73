package api

import (
	"net/http"
	"strings"
	"time"

	"github.com/signet-iot/signet"
)

// metered counts a call of the service API against the limits of its hub. Direct
// methods are counted where they are called.
func (c *call) metered(rt *route) error {
	switch {
	case c.dialect != service:
		return nil
	case strings.HasPrefix(rt.path, "/twins/") && !strings.HasSuffix(rt.path, "/methods"):
		return c.count(signet.MeterTwins, c.args["device"], 1)
	case strings.HasPrefix(rt.path, "/devices") || strings.HasPrefix(rt.path, "/statistics/"):
		return c.count(signet.MeterRegistry, c.args["device"], 1)
	}
	return nil
}

// count takes n of a meter, for a device or for the hub alone.
func (c *call) count(m signet.Meter, device string, n int) error {
	if c.Limiter == nil {
		return nil
	}
	_, err := c.Limiter.Take(c.hub, device, m, n, 0)
	return err
}

// pace takes n of a meter for the hub, and waits for its turn, as an import can.
func (c *call) pace(m signet.Meter, n int) error {
	if c.Limiter == nil {
		return nil
	}
	wait, err := c.Limiter.Take(c.hub, "", m, n, importPatience/2)
	if err != nil || wait == 0 {
		return err
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.r.Context().Done():
		return c.r.Context().Err()
	}
}

// GET /signet/hubs/{name}/limits gives what a hub lets itself and its devices do in
// a second: [signet.Limits].
func (c *call) getLimits() error {
	h, err := c.Registry.HubByName(c.args["hub"])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, h.Limits)
}

// PUT /signet/hubs/{name}/limits {"messages":{"perHub":5000,"perDevice":10},…} sets
// all limits of a hub; what is left out has none. They count from the answer on.
func (c *call) putLimits() error {
	var body signet.Limits
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	h, err := c.Registry.SetLimits(c.r.Context(), c.args["hub"], body)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, h.Limits)
}
