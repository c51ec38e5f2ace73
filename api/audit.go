package api

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/audit"
)

// auditJSON is an entry with its place in the log.
type auditJSON struct {
	Index int64 `json:"index"`
	audit.Entry
}

// maxAuditEntries bounds one answer: at 64 KiB an entry, 6 MiB.
const maxAuditEntries = 100

// GET /signet/audit?before=INDEX&limit=N gives what was done to the hub, the
// latest first, and GET /signet/audit/log/entries what was done to any.
func (c *call) listAudit() error { return c.auditEntries(c.hub.Name, false) }

func (c *call) listAllAudit() error { return c.auditEntries("", true) }

func (c *call) auditEntries(hub string, all bool) error {
	limit, err := c.number("limit", maxAuditEntries, maxAuditEntries)
	if err != nil {
		return err
	}
	before := int64(math.MaxInt64)
	if text := c.r.URL.Query().Get("before"); text != "" {
		if before, err = strconv.ParseInt(text, 10, 64); err != nil {
			return signet.Refuse(signet.RequestMalformed, "before should be the index of an entry, not %q.", signet.Clip(text)).At("before", "a whole number", text)
		}
	}
	entries, err := c.Audit.List(c.r.Context(), hub, all, before, limit)
	if err != nil {
		return err
	}
	list := make([]auditJSON, 0, len(entries))
	for _, e := range entries {
		// What was done to an earlier hub of the name is not this one's, whose creation
		// was dated before it was recorded.
		if !all && e.Time.Before(c.hub.Created) {
			break
		}
		list = append(list, auditJSON{e.Index, e})
	}
	return c.answer(http.StatusOK, map[string]any{"entries": list})
}

// GET /signet/audit/log/checkpoint and …/tile/… give the log as C2SP's tlog-tiles
// has it read.
func (c *call) getAuditCheckpoint() error {
	text, err := c.Audit.Checkpoint()
	if err != nil {
		return err
	}
	return c.raw("text/plain; charset=utf-8", text)
}

func (c *call) getAuditTile() error {
	path := strings.Join(c.path[3:], "/")
	level, number, width, ok := audit.ParseTilePath(path)
	err := signet.ErrNotFound
	var data []byte
	if ok && level < 0 {
		data, err = c.Audit.Bundle(c.r.Context(), number, width)
	} else if ok {
		data, err = c.Audit.Tile(c.r.Context(), level, number, width)
	}
	if errors.Is(err, signet.ErrNotFound) {
		return signet.Refuse(signet.RequestNotFound, "The audit log has no %s.", signet.Clip(path))
	}
	if err != nil {
		return err
	}
	return c.raw("application/octet-stream", data)
}

func (c *call) raw(kind string, body []byte) error {
	c.w.Header().Set("Content-Type", kind)
	c.w.WriteHeader(http.StatusOK)
	c.w.Write(body) // a caller that has gone is no error of ours
	return nil
}
