package api

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/registry"
)

// branchJSON is one branch of GET /signet/tree/{branch}.
type branchJSON struct {
	signet.Branch
	Certificate string `json:"certificate"` // PEM
	// Path holds the certificates of the CAs above it, PEM, the anchor last.
	Path []string `json:"path"`
}

// sightingJSON is one of GET /signet/tree/{branch}/devices.
type sightingJSON struct {
	signet.Sighting
	Connected   bool   `json:"connected"`
	Certificate string `json:"certificate,omitempty"` // PEM, where it was asked for
}

func asPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// GET /signet/tree?branch=REFERENCE&within=30d gives the hub's trust tree, or what
// is at a branch and below it: each CA after the one above it. Expiring counts what
// ends within a time, 30 days unless told.
func (c *call) getTree() error {
	tree, err := c.tree()
	if err != nil {
		return err
	}
	reference := c.r.URL.Query().Get("branch")
	if reference == "" {
		return c.answer(http.StatusOK, map[string]any{"branches": tree})
	}
	top, err := c.Inventory.Find(c.r.Context(), c.hub.Name, reference)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, b := range top {
		wanted[b.ID] = true
	}
	some := []signet.Branch{}
	for _, b := range tree { // each comes after the one above it
		if wanted[b.ID] || b.Parent != "" && wanted[b.Parent] {
			wanted[b.ID] = true
			some = append(some, b)
		}
	}
	return c.answer(http.StatusOK, map[string]any{"branches": some})
}

func (c *call) tree() ([]signet.Branch, error) {
	within := 30 * day
	if text := c.r.URL.Query().Get("within"); text != "" {
		var ok bool
		if within, ok = parseWithin(text); !ok {
			return nil, notWithin(text)
		}
	}
	return c.Inventory.Tree(c.r.Context(), c.hub.Name, c.Now().Add(within), c.Hub.Paths(c.hub.Name))
}

// GET /signet/tree/{branch} gives the branches that a reference means, with their
// certificates and counts.
func (c *call) getBranch() error {
	top, err := c.Inventory.Find(c.r.Context(), c.hub.Name, c.args["branch"])
	if err != nil {
		return err
	}
	tree, err := c.tree()
	if err != nil {
		return err
	}
	list := []branchJSON{}
	for _, b := range top {
		path, err := c.Inventory.Path(c.r.Context(), c.hub.Name, b.ID)
		if err != nil {
			return err
		}
		j := branchJSON{Branch: b, Certificate: asPEM(path[0].DER), Path: []string{}}
		for _, above := range path[1:] {
			j.Path = append(j.Path, asPEM(above.DER))
		}
		for _, counted := range tree {
			if counted.ID == b.ID {
				j.Branch = counted
			}
		}
		list = append(list, j)
	}
	return c.answer(http.StatusOK, map[string]any{"branches": list})
}

// chosen reads the branch of the path and the filter of the query: keyType
// (p256, rsa2048, ed25519 …), and issuedAfter, issuedBefore, expiresAfter,
// expiresBefore, firstSeenAfter, firstSeenBefore, lastSeenAfter, lastSeenBefore:
// a date, a time, or days or hours (30d, 12h): from now for what expires, ago for
// the others. After is that moment or later, before is earlier.
func (c *call) chosen() (inventory.Group, error) {
	q := c.r.URL.Query()
	f := inventory.Filter{KeyType: keyTypeName(q.Get("keyType")), DER: q.Get("certificates") == "true", Status: true}
	for _, bound := range []struct {
		name string
		to   *time.Time
		from time.Duration
	}{
		{"issuedAfter", &f.IssuedAfter, -1}, {"issuedBefore", &f.IssuedBefore, -1},
		{"expiresAfter", &f.ExpiresAfter, 1}, {"expiresBefore", &f.ExpiresBefore, 1},
		{"firstSeenAfter", &f.FirstSeenAfter, -1}, {"firstSeenBefore", &f.FirstSeenBefore, -1},
		{"lastSeenAfter", &f.LastSeenAfter, -1}, {"lastSeenBefore", &f.LastSeenBefore, -1},
	} {
		text := q.Get(bound.name)
		if text == "" {
			continue
		}
		var ok bool
		if *bound.to, ok = parseMoment(text, c.Now(), bound.from); !ok {
			return inventory.Group{}, signet.Refuse(signet.RequestMalformed, "%q is no moment.", signet.Clip(text)).
				At(bound.name, "a date, a time as in 2026-01-31T12:00:00Z, or days or hours as in 30d", text)
		}
	}
	return c.Inventory.Group(c.r.Context(), c.hub.Name, c.args["branch"], f)
}

// parseMoment reads a date, a time, or a duration before (-1) or after (1) now.
func parseMoment(text string, now time.Time, from time.Duration) (time.Time, bool) {
	for _, layout := range [...]string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	d, ok := parseWithin(text)
	return now.Add(from * d), ok
}

// keyTypeName gives a type of key as the tree writes it: the command line's names
// are taken too.
func keyTypeName(text string) string {
	lower := strings.ToLower(text)
	if bits, ok := strings.CutPrefix(lower, "rsa"); ok {
		return "RSA " + strings.TrimSpace(bits)
	}
	if bits, ok := strings.CutPrefix(lower, "p"); ok {
		return "ECDSA P-" + strings.TrimPrefix(bits, "-")
	}
	if lower == "ed25519" {
		return "Ed25519"
	}
	return text
}

// GET /signet/tree/{branch}/devices?…&limit=100&continuation=…&count=true&certificates=true
// lists a group (see chosen): a page, 1000 at most, and where it ended. With count
// it says how many there are in all, with certificates it gives them too.
func (c *call) listBranchDevices() error {
	g, err := c.chosen()
	if err != nil {
		return err
	}
	limit, err := c.number("limit", 100, 1000)
	if err != nil {
		return err
	}
	q := c.r.URL.Query()
	list, next, err := c.Inventory.Devices(c.r.Context(), c.hub.Name, g, q.Get("continuation"), limit)
	if err != nil {
		return err
	}
	answer := struct {
		Devices      []sightingJSON `json:"devices"`
		Continuation string         `json:"continuation,omitempty"`
		Count        *int64         `json:"count,omitempty"`
	}{Devices: []sightingJSON{}, Continuation: next}
	for _, s := range list {
		answer.Devices = append(answer.Devices, c.sightingJSON(s))
	}
	if q.Get("count") == "true" {
		n, err := c.Inventory.Count(c.r.Context(), c.hub.Name, g)
		if err != nil {
			return err
		}
		answer.Count = &n
	}
	return c.answer(http.StatusOK, answer)
}

func (c *call) sightingJSON(s signet.Sighting) sightingJSON {
	j := sightingJSON{Sighting: s, Connected: c.Hub.Connected(s.Hub, s.DeviceID, s.ModuleID)}
	if len(s.DER) > 0 {
		j.Certificate = asPEM(s.DER)
	}
	return j
}

// GET /signet/sightings/{device}?module=ID says how a device last authenticated:
// its certificate, and those of the CAs above it, the anchor last.
func (c *call) getSighting() error {
	s, err := c.Inventory.Device(c.r.Context(), c.hub.Name, c.args["device"], c.r.URL.Query().Get("module"))
	if err != nil {
		return err
	}
	type above struct {
		ID string `json:"id"` // of the branch
		signet.SeenCertificate
		Certificate string `json:"certificate"` // PEM
	}
	answer := struct {
		sightingJSON
		Path []above `json:"path"`
	}{c.sightingJSON(s), []above{}}
	if s.Branch != "" {
		path, err := c.Inventory.Path(c.r.Context(), c.hub.Name, s.Branch)
		if err != nil {
			return err
		}
		for _, b := range path {
			answer.Path = append(answer.Path, above{b.ID, b.SeenCertificate, asPEM(b.DER)})
		}
	}
	return c.answer(http.StatusOK, answer)
}

const (
	// maxActed is how many devices one request acts on: some seconds of work, and a
	// thousand such requests for a hub of two hundred thousand.
	maxActed = 200
	// actedTogether is how many are acted on side by side, so that they share the
	// store's commits.
	actedTogether = 32
)

// actedJSON is what a request did to a page of a group.
type actedJSON struct {
	Changed   int `json:"changed"`
	Unchanged int `json:"unchanged"` // they were so already
	// Failed are those that could not be changed, and why.
	Failed []failedJSON `json:"failed,omitempty"`
	// Receipt says what it did to live sessions.
	Receipt *signet.Receipt `json:"receipt,omitempty"`
	// Continuation is to be sent with the next request; without one, all is done.
	Continuation string `json:"continuation,omitempty"`
}

type failedJSON struct {
	DeviceID string        `json:"deviceId"`
	Error    *signet.Error `json:"error"`
}

// act does something to a page of the group that the request chooses, device by
// device; a module stands for its device. do says whether it changed anything.
func (c *call) act(from string, do func(ctx context.Context, device string) (bool, error)) error {
	g, err := c.chosen()
	if err != nil {
		return err
	}
	list, next, err := c.Inventory.Devices(c.r.Context(), c.hub.Name, g, from, maxActed)
	if err != nil {
		return err
	}
	var devices []string
	for _, s := range list {
		if !slices.Contains(devices, s.DeviceID) {
			devices = append(devices, s.DeviceID)
		}
	}
	answer := actedJSON{Continuation: next}
	var mu sync.Mutex
	var wait sync.WaitGroup
	turns := make(chan struct{}, actedTogether)
	for _, device := range devices {
		turns <- struct{}{}
		wait.Go(func() {
			changed, err := do(c.r.Context(), device)
			mu.Lock()
			switch {
			case err == nil && changed:
				answer.Changed++
			case err == nil:
				answer.Unchanged++
			case signet.CodeOf(err) != signet.IdentityUnknown: // it has gone meanwhile
				answer.Failed = append(answer.Failed, failedJSON{device, signet.AsError(err)})
			}
			mu.Unlock()
			<-turns
		})
	}
	wait.Wait()
	slices.SortFunc(answer.Failed, func(a, b failedJSON) int { return strings.Compare(a.DeviceID, b.DeviceID) })
	if total, some := c.w.receipts.Total(); some {
		answer.Receipt = &total
	}
	return c.answer(http.StatusOK, answer)
}

// POST /signet/tree/{branch}/status?… {"status":"disabled","statusReason":…,"continuation":…}
// enables or disables the devices of a group (see chosen), 200 at a time.
func (c *call) postGroupStatus() error {
	var body struct {
		Status       signet.Status `json:"status"`
		Reason       string        `json:"statusReason"`
		Continuation string        `json:"continuation"`
	}
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	if body.Status != signet.Enabled && body.Status != signet.Disabled {
		return signet.Refuse(signet.RequestMalformed, "A device is enabled or disabled, not %q.", signet.Clip(string(body.Status))).
			At("status", "enabled or disabled", string(body.Status))
	}
	return c.act(body.Continuation, func(ctx context.Context, device string) (bool, error) {
		_, done, err := c.Registry.SetStatus(ctx, c.hub.Name, device, body.Status, body.Reason)
		return done, err
	})
}

// POST /signet/tree/{branch}/tags?… {"tags":{…},"continuation":…} merges tags into
// the twins of the devices of a group (see chosen), 200 at a time.
func (c *call) postGroupTags() error {
	var body struct {
		Tags         json.RawMessage `json:"tags"`
		Continuation string          `json:"continuation"`
	}
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	if len(body.Tags) == 0 {
		return signet.Refuse(signet.TwinMalformed, "There are no tags to set.").At("tags", "a JSON object", "nothing")
	}
	return c.act(body.Continuation, func(ctx context.Context, device string) (bool, error) {
		_, err := c.Registry.ChangeTwin(ctx, c.hub.Name, device, "", registry.TwinChange{Tags: body.Tags}, "")
		return true, err
	})
}
