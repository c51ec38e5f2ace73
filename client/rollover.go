package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

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

// Rollover says how far devices have moved from one CA to another, of each that
// would lose access without the old one (or, to abort, the new one), and what was
// removed. beat, unless it is nil, is told how many have been looked at.
func (c *Client) Rollover(ctx context.Context, r RolloverRequest, each func(signet.DeviceFate), beat func(devices int64)) (rollover signet.Rollover, removed string, receipts []signet.Receipt, err error) {
	query, err := c.ofHub(ctx)
	if err != nil {
		return rollover, "", nil, err
	}
	response, err := c.open(ctx, request{method: http.MethodPost, path: "/signet/rollover", query: query, in: r})
	if err != nil {
		return rollover, "", nil, err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxLine)
	known := false
	for lines.Scan() {
		var l struct {
			Device   *signet.DeviceFate
			Devices  *int64
			Rollover *signet.Rollover
			Error    *signet.Error
			Removed  string
			Receipts []signet.Receipt
		}
		switch err := json.Unmarshal(lines.Bytes(), &l); {
		case err != nil:
			return rollover, "", nil, fmt.Errorf("a line of the answer is not of a rollover: %w", err)
		case l.Error != nil:
			return rollover, "", nil, l.Error
		case l.Rollover != nil:
			rollover, known = *l.Rollover, true
		case l.Removed != "":
			removed, receipts = l.Removed, l.Receipts
		case l.Device != nil && each != nil:
			each(*l.Device)
		case l.Devices != nil && beat != nil:
			beat(*l.Devices)
		}
	}
	if err = lines.Err(); err == nil && (!known || (r.Finish || r.Abort) && removed == "") {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		err = c.unreachable(err)
	}
	return rollover, removed, receipts, err
}
