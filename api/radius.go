package api

import (
	"context"
	"fmt"
	"strings"

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
	}, func(ctx context.Context, tell func(fateLine)) (err error) {
		if r.Notes, err = c.policiesGone(ctx, now, body.Without); err != nil {
			return err
		}
		tell(fateLine{Radius: &r})
		return nil
	})
}

// policiesGone notes the revocation policies that go with CAs that are removed.
func (c *call) policiesGone(ctx context.Context, now *authority.Supposition, without []string) (notes []string, _ error) {
	for _, name := range without {
		ca, err := c.Authority.Get(ctx, c.hub.Name, name)
		if err != nil {
			return nil, err
		}
		p, err := now.Revocation(ca)
		if err != nil {
			return nil, err
		}
		if p.Mode != signet.RevocationOff && strings.EqualFold(p.CA, ca.Name) {
			notes = append(notes, fmt.Sprintf("the revocation policy of %s, %s, goes with it: set that of its successor first", ca.Name, p.Mode))
		}
	}
	return notes, nil
}

// suppositions gives what judges by what is trusted, and by what would be.
func (c *call) suppositions(b *hypothesisBody) (now, then *authority.Supposition, err error) {
	if now, err = c.Authority.Suppose(c.r.Context(), c.hub.Name, authority.Hypothesis{}); err != nil {
		return nil, nil, err
	}
	then, err = c.suppose(b)
	return now, then, err
}
