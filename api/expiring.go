package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/signet-iot/signet"
)

const (
	day = 24 * time.Hour
	// maxWithin is longer than any CA should live.
	maxWithin = 100 * 365 * day
)

// GET /signet/expiring?within=30d gives what expires within a time (90 days
// unless told), or has: registered CAs, and what live sessions rest on.
func (c *call) listExpiring() error {
	within := 90 * day
	if text := c.r.URL.Query().Get("within"); text != "" {
		var ok bool
		if within, ok = parseWithin(text); !ok {
			return notWithin(text)
		}
	}
	list, err := c.Hub.Expiring(c.r.Context(), c.hub.Name, within)
	if err != nil {
		return err
	}
	if list == nil {
		list = []signet.Expiring{}
	}
	return c.answer(http.StatusOK, map[string]any{"expiring": list})
}

func notWithin(text string) error {
	return signet.Refuse(signet.RequestMalformed, "%q is not a time within which something expires.", signet.Clip(text)).
		At("within", "days or hours, as in 30d or 12h", text).FixBy("Write days or hours, as in 30d or 12h.")
}

// parseWithin reads days, or what time.ParseDuration takes.
func parseWithin(text string) (within time.Duration, ok bool) {
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		n, err := strconv.ParseUint(days, 10, 16)
		within = time.Duration(n) * day
		return within, err == nil && within <= maxWithin
	}
	within, err := time.ParseDuration(text)
	return within, err == nil && within >= 0 && within <= maxWithin
}
