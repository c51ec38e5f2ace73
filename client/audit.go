package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// An AuditEntry is one act of the audit log.
type AuditEntry struct {
	Index  int64           `json:"index"`
	Time   time.Time       `json:"time"`
	Hub    string          `json:"hub,omitempty"`
	Act    string          `json:"act"`
	Of     string          `json:"of,omitempty"`
	By     string          `json:"by"`
	Remote string          `json:"remote,omitempty"`
	Detail json.RawMessage `json:"detail,omitempty"`
	Failed string          `json:"failed,omitempty"`
}

// Audit lists up to limit acts on the hub, or with all on every hub, which takes
// the admin token; those before an index, or the latest when that is negative. The
// latest comes first.
func (c *Client) Audit(ctx context.Context, all bool, before int64, limit int) ([]AuditEntry, error) {
	var answer struct {
		Entries []AuditEntry `json:"entries"`
	}
	r := request{method: http.MethodGet, path: "/signet/audit", out: &answer}
	if all {
		r.path, r.as, r.query = "/signet/audit/log/entries", asAdmin, url.Values{}
	} else {
		var err error
		if r.query, err = c.ofHub(ctx); err != nil {
			return nil, err
		}
	}
	r.query.Set("limit", strconv.Itoa(limit))
	if before >= 0 {
		r.query.Set("before", strconv.FormatInt(before, 10))
	}
	return answer.Entries, c.do(ctx, r)
}

// AuditFile reads a file of the log (checkpoint, tile/…), which takes the admin
// token.
func (c *Client) AuditFile(ctx context.Context, name string) ([]byte, error) {
	response, err := c.open(ctx, request{method: http.MethodGet, path: "/signet/audit/log/" + name, as: asAdmin})
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(io.LimitReader(response.Body, maxAnswer))
}
