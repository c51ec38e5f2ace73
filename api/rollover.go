package api

import (
	"context"
	"fmt"
	"strings"

	"github.com/signet-iot/signet"
)

// POST /signet/rollover {"old":NAME,"new":NAME} says how far the devices have moved
// from one registered CA to another: fateLines. With "finish" the old CA is
// removed if that is safe, with "abort" the new one, if that is; then "old" is
// what is removed in the answer too. The CA is removed as it was before the look.
func (c *call) rollover() error {
	var body struct {
		Old    string `json:"old"`
		New    string `json:"new"`
		Finish bool   `json:"finish"`
		Abort  bool   `json:"abort"`
		// AcceptUnseen removes a CA although there are identities that never connected.
		AcceptUnseen bool `json:"acceptUnseen"`
	}
	if err := c.seesDevices(); err != nil {
		return err
	}
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	if body.Finish && body.Abort {
		return signet.Refuse(signet.RequestMalformed, "A rollover is finished or aborted, not both.")
	}
	before, after := body.Old, body.New
	if body.Abort {
		before, after = body.New, body.Old // it is rolled back
	}
	old, err := c.Authority.Get(c.r.Context(), c.hub.Name, before)
	if err != nil {
		return err
	}
	next, err := c.Authority.Get(c.r.Context(), c.hub.Name, after)
	if err != nil {
		return err
	}
	now, then, err := c.suppositions(&hypothesisBody{Without: []string{before}})
	if err != nil {
		return err
	}
	var r signet.Rollover
	return c.tellFates(func(ctx context.Context, each eachFate) (err error) {
		r, err = c.Hub.Rollover(ctx, c.hub.Name, old, next, c.Inventory, now, then, each)
		return err
	}, func(ctx context.Context, tell func(fateLine)) error {
		if err := c.noteRollover(ctx, &r); err != nil {
			return err
		}
		if err := c.compareRevocation(ctx, old, next, &r, body.Abort); err != nil {
			return err
		}
		tell(fateLine{Rollover: &r})
		if !body.Finish && !body.Abort {
			return nil
		}
		if err := c.removeRolled(old, &r, body.AcceptUnseen); err != nil {
			return err
		}
		tell(fateLine{Removed: old.Name, Receipts: c.w.receipts.List()})
		return nil
	})
}

// removeRolled removes the CA that the devices have moved from, if that is safe, or
// if nothing is in the way but identities that never connected, which are accepted.
func (c *call) removeRolled(old signet.CACertificate, r *signet.Rollover, acceptUnseen bool) error {
	if !r.Safe && !(acceptUnseen && r.Unseen > 0 && len(r.Because) == 1) {
		e := signet.Refuse(signet.RolloverUnsafe, "%q is not removed: %s.", old.Name, strings.Join(r.Because, "; ")).At("safe", "true", "false")
		if r.Policy != "" {
			e.FixBy("Set the policy of the new CA first, with its sources: %s. To do without, first turn that of the old one off", setPolicy(r.New.Name, r.Policy))
		}
		return e
	}
	return c.Authority.Delete(c.r.Context(), c.hub.Name, old.Name, old.ETag)
}

// noteRollover adds what the trust tree has refused, and what may have been
// forgotten.
func (c *call) noteRollover(ctx context.Context, r *signet.Rollover) error {
	tree, err := c.Inventory.Tree(ctx, c.hub.Name, c.Now(), nil)
	if err != nil {
		return err
	}
	for _, b := range tree {
		if b.Parent != "" {
			continue
		}
		for _, ca := range []*signet.RolloverCA{&r.Old, &r.New} {
			if b.Thumbprint == ca.Thumbprint {
				ca.Refused += b.Refused
			}
		}
	}
	if r.SameKey {
		r.Notes = append(r.Notes, "both are of one key: devices get in by either, and only who holds that key makes the difference")
	} else if r.Old.Subject == r.New.Subject {
		r.Notes = append(r.Notes, "both bear one name; they are told apart by their keys")
	}
	scopes, err := c.Authority.Scopes(ctx, c.hub.Name)
	if err != nil {
		return err
	}
	of := map[string]bool{}
	for _, s := range scopes {
		of[s.Key] = true
	}
	if of[r.Old.Key] && !of[r.New.Key] {
		r.Notes = append(r.Notes, fmt.Sprintf("%s has a scope, and %s has none", r.Old.Name, r.New.Name))
	}
	return nil
}

// compareRevocation puts it in the way of the old CA's end that revocation would be
// asked after less: its policy goes with it. Not so when a rollover is taken back: what
// was trusted before, under its policy, is what is wanted. It is of what is trusted
// when the look is over.
func (c *call) compareRevocation(ctx context.Context, old, next signet.CACertificate, r *signet.Rollover, abort bool) error {
	// One that is not verified is in the way for that already.
	now, then, err := c.suppositions(&hypothesisBody{Without: []string{old.Name}, Verified: []string{next.Name}})
	if err != nil {
		return err
	}
	before, err := now.Revocation(old)
	if err != nil {
		return err
	}
	after, err := then.Revocation(next)
	if err != nil {
		return err
	}
	switch {
	case after.Mode.Laxer(before.Mode) && !abort:
		r.Policy, r.Safe = before.Mode, false
		r.Because = append(r.Because, fmt.Sprintf("the revocation policy is %s below %s, and would be %s below %s: %s",
			before.Mode, r.Old.Name, after.Mode, r.New.Name, setPolicy(r.New.Name, before.Mode)))
	case before.Mode != after.Mode:
		r.Notes = append(r.Notes, fmt.Sprintf("the revocation policy of %s is %s, that of %s is %s", r.Old.Name, before.Mode, r.New.Name, after.Mode))
	case before.Mode != signet.RevocationOff && before.CA != after.CA && named(&before) && !named(&after):
		r.Notes = append(r.Notes, fmt.Sprintf("the revocation policy of %s names sources, that of %s none", r.Old.Name, r.New.Name))
	}
	return nil
}

// named says whether a policy names a source, or lets certificates do so.
func named(p *signet.RevocationPolicy) bool { return len(p.CRLs) > 0 || p.OCSP != "" || p.Follow }

func setPolicy(ca string, mode signet.RevocationMode) string {
	return fmt.Sprintf("signet revocation set %s --policy %s", ca, mode)
}
