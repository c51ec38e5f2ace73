package client

import (
	"context"
	"net/http"
	"strconv"

	"github.com/signet-iot/signet"
)

// Clones gives up to limit findings, at most 1000, the latest first, and what the
// hub does about them.
func (c *Client) Clones(ctx context.Context, limit int) (policy signet.ClonePolicy, list []signet.Clone, err error) {
	var answer struct {
		Policy signet.ClonePolicy `json:"policy"`
		Clones []signet.Clone     `json:"clones"`
	}
	query, err := c.ofHub(ctx)
	if err != nil {
		return "", nil, err
	}
	query.Set("limit", strconv.Itoa(limit))
	err = c.do(ctx, request{method: http.MethodGet, path: "/signet/clones", query: query, out: &answer})
	return answer.Policy, answer.Clones, err
}

// SetClonePolicy says what the hub does about clones from now on.
func (c *Client) SetClonePolicy(ctx context.Context, policy signet.ClonePolicy) error {
	query, err := c.ofHub(ctx)
	if err != nil {
		return err
	}
	return c.do(ctx, request{method: http.MethodPatch, path: "/signet/clones", query: query, in: map[string]any{"policy": policy}})
}

// DismissClone has a finding be found no more.
func (c *Client) DismissClone(ctx context.Context, id, reason string) (signet.Clone, error) {
	var clone signet.Clone
	query, err := c.ofHub(ctx)
	if err == nil {
		err = c.do(ctx, request{method: http.MethodPost, path: "/signet/clones/" + segment(id) + "/dismiss", query: query,
			in: map[string]string{"reason": reason}, out: &clone})
	}
	return clone, err
}
