package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/signet-iot/signet"
)

// A Branch of the trust tree with its certificate.
type Branch struct {
	signet.Branch
	Certificate string   `json:"certificate"` // PEM
	Path        []string `json:"path"`        // of the CAs above it, PEM, the anchor last
}

// A Sighting is how a device last authenticated by a certificate.
type Sighting struct {
	signet.Sighting
	Connected   bool       `json:"connected"`
	Certificate string     `json:"certificate,omitempty"` // PEM, where it was asked for
	Path        []PathStep `json:"path,omitempty"`        // only of one asked for by name
}

// A PathStep is a CA above a device's certificate.
type PathStep struct {
	ID string `json:"id"` // of its branch
	signet.SeenCertificate
	Certificate string `json:"certificate"` // PEM
}

// A Group chooses devices in the trust tree. Branch is the ID of a branch, the
// thumbprint, key, subject or common name of a CA, "all", or "thumbprint" for
// those whose certificates are known by thumbprint; the rest may be empty. Moments
// are dates, times (RFC 3339), or days and hours (30d, 12h): from now for what
// expires, ago for the others. After is that moment or later, before is earlier.
type Group struct {
	Branch                          string
	KeyType                         string // p256, rsa2048, ed25519 …
	IssuedAfter, IssuedBefore       string
	ExpiresAfter, ExpiresBefore     string
	FirstSeenAfter, FirstSeenBefore string
	LastSeenAfter, LastSeenBefore   string
}

func (g *Group) path() string { return "/signet/tree/" + segment(g.Branch) }

func (g *Group) addTo(query url.Values) {
	for name, value := range map[string]string{
		"keyType": g.KeyType, "issuedAfter": g.IssuedAfter, "issuedBefore": g.IssuedBefore,
		"expiresAfter": g.ExpiresAfter, "expiresBefore": g.ExpiresBefore, "firstSeenAfter": g.FirstSeenAfter,
		"firstSeenBefore": g.FirstSeenBefore, "lastSeenAfter": g.LastSeenAfter, "lastSeenBefore": g.LastSeenBefore,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
}

// Tree gives the hub's trust tree, or, of a branch, what is at it and below: each
// CA after the one above it. within says for Branch.Expiring how soon: "30d".
func (c *Client) Tree(ctx context.Context, branch, within string) ([]signet.Branch, error) {
	var answer struct {
		Branches []signet.Branch `json:"branches"`
	}
	query, err := c.ofHub(ctx)
	if err != nil {
		return nil, err
	}
	if branch != "" {
		query.Set("branch", branch)
	}
	if within != "" {
		query.Set("within", within)
	}
	err = c.do(ctx, request{method: http.MethodGet, path: "/signet/tree", query: query, out: &answer})
	return answer.Branches, err
}

// Branches gives the branches that a reference means, with their certificates:
// several where one CA is known under several paths.
func (c *Client) Branches(ctx context.Context, reference string) ([]Branch, error) {
	var answer struct {
		Branches []Branch `json:"branches"`
	}
	query, err := c.ofHub(ctx)
	if err == nil {
		err = c.do(ctx, request{method: http.MethodGet, path: "/signet/tree/" + segment(reference), query: query, out: &answer})
	}
	return answer.Branches, err
}

// GroupDevices lists up to limit devices of a group, at most 1000, from the
// beginning or from where a page before ended; next is "" when there is no more.
func (c *Client) GroupDevices(ctx context.Context, g Group, from string, limit int) (list []Sighting, next string, err error) {
	var answer struct {
		Devices      []Sighting `json:"devices"`
		Continuation string     `json:"continuation"`
	}
	query, err := c.ofHub(ctx)
	if err != nil {
		return nil, "", err
	}
	g.addTo(query)
	query.Set("limit", strconv.Itoa(limit))
	if from != "" {
		query.Set("continuation", from)
	}
	err = c.do(ctx, request{method: http.MethodGet, path: g.path() + "/devices", query: query, out: &answer})
	return answer.Devices, answer.Continuation, err
}

// CountGroup counts the devices of a group.
func (c *Client) CountGroup(ctx context.Context, g Group) (int64, error) {
	var answer struct {
		Count int64 `json:"count"`
	}
	query, err := c.ofHub(ctx)
	if err != nil {
		return 0, err
	}
	g.addTo(query)
	query.Set("limit", "1")
	query.Set("count", "true")
	err = c.do(ctx, request{method: http.MethodGet, path: g.path() + "/devices", query: query, out: &answer})
	return answer.Count, err
}

// Sighting says how a device, or a module of it, last authenticated.
func (c *Client) Sighting(ctx context.Context, device, module string) (Sighting, error) {
	var s Sighting
	query, err := c.ofHub(ctx)
	if err != nil {
		return s, err
	}
	if module != "" {
		query.Set("module", module)
	}
	err = c.do(ctx, request{method: http.MethodGet, path: "/signet/sightings/" + segment(device), query: query, out: &s})
	return s, err
}

// Acted is what was done to a group so far.
type Acted struct {
	Changed   int            `json:"changed"`
	Unchanged int            `json:"unchanged"` // they were so already
	Failed    []Failed       `json:"failed,omitempty"`
	Receipt   signet.Receipt `json:"receipt"` // what it did to live sessions
}

// Failed is a device that something could not be done to.
type Failed struct {
	DeviceID string        `json:"deviceId"`
	Error    *signet.Error `json:"error"`
}

// maxFailed is how many failures are named.
const maxFailed = 100

// SetGroupStatus enables or disables the devices of a group. progress, where there
// is one, is told now and then how far it is. What was done before an error stays;
// to do it again does no harm.
func (c *Client) SetGroupStatus(ctx context.Context, g Group, status signet.Status, reason string, progress func(Acted)) (Acted, error) {
	return c.act(ctx, g, "status", map[string]any{"status": status, "statusReason": reason}, progress)
}

// TagGroup merges tags into the twins of the devices of a group; progress and
// errors as for SetGroupStatus.
func (c *Client) TagGroup(ctx context.Context, g Group, tags map[string]any, progress func(Acted)) (Acted, error) {
	return c.act(ctx, g, "tags", map[string]any{"tags": tags}, progress)
}

func (c *Client) act(ctx context.Context, g Group, what string, body map[string]any, progress func(Acted)) (all Acted, err error) {
	for {
		query, err := c.ofHub(ctx)
		if err != nil {
			return all, err
		}
		g.addTo(query)
		var answer struct {
			Acted
			Receipt      *signet.Receipt `json:"receipt"`
			Continuation string          `json:"continuation"`
		}
		if err := c.do(ctx, request{method: http.MethodPost, path: g.path() + "/" + what, query: query, in: body, out: &answer}); err != nil {
			return all, err
		}
		all.Changed += answer.Changed
		all.Unchanged += answer.Unchanged
		all.Failed = append(all.Failed, answer.Failed[:min(len(answer.Failed), maxFailed-len(all.Failed))]...)
		if r := answer.Receipt; r != nil {
			all.Receipt.Node = r.Node
			all.Receipt.Sessions += r.Sessions
			all.Receipt.Closed += r.Closed
			all.Receipt.P50, all.Receipt.P99 = max(all.Receipt.P50, r.P50), max(all.Receipt.P99, r.P99)
			all.Receipt.Last = max(all.Receipt.Last, r.Last)
		}
		if progress != nil {
			progress(all)
		}
		if answer.Continuation == "" {
			return all, nil
		}
		body["continuation"] = answer.Continuation
	}
}
