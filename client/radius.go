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

// A Hypothesis is changes of what a hub trusts that are not made.
type Hypothesis struct {
	Register []CARequest               `json:"register,omitempty"` // as RegisterCertificate would
	Without  []string                  `json:"without,omitempty"`  // registered CA certificates that would be removed, by name
	Verified []string                  `json:"verified,omitempty"` // registered CA certificates that would be verified
	Distrust []DistrustRequest         `json:"distrust,omitempty"`
	Lift     []string                  `json:"lift,omitempty"`     // IDs of distrusts
	Policies []signet.RevocationPolicy `json:"policies,omitempty"` // as SetRevocationPolicy would
	CRLs     [][]byte                  `json:"crls,omitempty"`     // uploads as for AddCRL, of 12 MiB together at most
	DropCRLs []string                  `json:"dropCrls,omitempty"` // IDs of CRLs that would be deleted
	Scopes   []ScopeRequest            `json:"scopes,omitempty"`
	Unscoped []string                  `json:"unscoped,omitempty"` // keys whose scope would be removed
}

// A CARequest is a CA certificate under a name.
type CARequest struct {
	Name        string `json:"name"`
	Certificate string `json:"certificate"` // in the encodings of RegisterCertificate
	Verified    bool   `json:"verified,omitempty"`
}

// Radius says what changes of trust would do to the devices that have been seen,
// and makes none. each is told of every device to which they make a difference,
// unless it is nil, and beat, unless it is nil, of how many have been looked at: a
// large fleet takes minutes.
func (c *Client) Radius(ctx context.Context, h Hypothesis, each func(signet.DeviceFate), beat func(devices int64)) (signet.Radius, error) {
	var r signet.Radius
	err := c.fates(ctx, "/signet/radius", h, each, beat, func(l *fateLine) bool {
		if l.Radius != nil {
			r = *l.Radius
		}
		return l.Radius != nil
	})
	return r, err
}

// A fateLine is a line of an answer that tells what becomes of devices; see
// api/stream.go.
type fateLine struct {
	Device   *signet.DeviceFate
	Devices  *int64
	Radius   *signet.Radius
	Rollover *signet.Rollover
	Removed  string
	Receipts []signet.Receipt
	Error    *signet.Error
}

// fates asks what becomes of devices. each is told of the devices, beat of how many
// have been looked at, each unless it is nil, and outcome of what comes then,
// until it has all that it waits for.
func (c *Client) fates(ctx context.Context, path string, in any, each func(signet.DeviceFate), beat func(devices int64), outcome func(*fateLine) (all bool)) error {
	query, err := c.ofHub(ctx)
	if err != nil {
		return err
	}
	if each == nil {
		query.Set("list", "false")
	}
	response, err := c.open(ctx, request{method: http.MethodPost, path: path, query: query, in: in})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var l fateLine
		switch err := json.Unmarshal(lines.Bytes(), &l); {
		case err != nil:
			return fmt.Errorf("a line of the answer does not tell what becomes of devices: %w", err)
		case l.Error != nil:
			return l.Error
		case l.Device != nil:
			if each != nil {
				each(*l.Device)
			}
		case l.Devices != nil:
			if beat != nil {
				beat(*l.Devices)
			}
		case outcome(&l):
			return nil
		}
	}
	if err = lines.Err(); err == nil {
		err = io.ErrUnexpectedEOF
	}
	return c.unreachable(err)
}
