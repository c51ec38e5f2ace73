package client

import (
	"context"

	"github.com/signet-iot/signet"
)

// RolloverRequest says between which registered CAs devices move, and what is to
// be done.
type RolloverRequest struct {
	Old string `json:"old"`
	New string `json:"new"`
	// Finish removes Old, Abort removes New, if that is safe; otherwise it is refused
	// as [signet.RolloverUnsafe].
	Finish bool `json:"finish,omitempty"`
	Abort  bool `json:"abort,omitempty"`
	// AcceptUnseen removes although there are identities that never connected.
	AcceptUnseen bool `json:"acceptUnseen,omitempty"`
}

// Rollover says how far devices have moved from one CA to another, and what was
// removed. each, unless it is nil, is told of every device that would lose access
// without the old one (or, to abort, the new one), and beat, unless it is nil, of
// how many have been looked at.
func (c *Client) Rollover(ctx context.Context, r RolloverRequest, each func(signet.DeviceFate), beat func(devices int64)) (rollover signet.Rollover, removed string, receipts []signet.Receipt, err error) {
	err = c.fates(ctx, "/signet/rollover", r, each, beat, func(l *fateLine) bool {
		if l.Rollover != nil {
			rollover = *l.Rollover
			return !r.Finish && !r.Abort
		}
		removed, receipts = l.Removed, l.Receipts
		return removed != ""
	})
	return rollover, removed, receipts, err
}
