package api

import (
	"context"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
)

// POST /signet/radius (hypothesisBody) says what changes of trust would do, and
// makes none: fateLines, the last with the counts.
func (c *call) radius() error {
	var body hypothesisBody
	if err := c.seesDevices(); err != nil {
		return err
	}
	if err := c.readSupposed(&body); err != nil {
		return err
	}
	if body.empty() {
		return signet.Refuse(signet.RequestMalformed, "No change of trust is named.").At("body", "without, verified, distrust, lift, crls, scopes or unscoped", "none")
	}
	now, then, err := c.suppositions(&body)
	if err != nil {
		return err
	}
	var r signet.Radius
	return c.tellFates(func(ctx context.Context, each eachFate) (err error) {
		r, err = c.Hub.Radius(ctx, c.hub.Name, c.Inventory, now, then, each)
		return err
	}, func(_ context.Context, tell func(fateLine)) error {
		tell(fateLine{Radius: &r})
		return nil
	})
}

// suppositions gives what judges by what is trusted, and by what would be.
func (c *call) suppositions(b *hypothesisBody) (now, then *authority.Supposition, err error) {
	if now, err = c.Authority.Suppose(c.r.Context(), c.hub.Name, authority.Hypothesis{}); err != nil {
		return nil, nil, err
	}
	then, err = c.suppose(b)
	return now, then, err
}
