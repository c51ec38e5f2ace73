package api

import (
	"net/http"

	"github.com/signet-iot/signet"
)

// GET /signet/clones?limit=N gives what looks as if a key or a certificate were in
// two hands, the latest first (100 unless told, 1000 at most), and what the hub
// does about it.
func (c *call) listClones() error {
	limit, err := c.number("limit", 100, 1000)
	if err != nil {
		return err
	}
	policy, list, err := c.Inventory.Clones(c.r.Context(), c.hub.Name, limit)
	if err != nil {
		return err
	}
	if list == nil {
		list = []signet.Clone{}
	}
	return c.answer(http.StatusOK, map[string]any{"policy": policy, "clones": list})
}

// PATCH /signet/clones {"policy":"off"|"flag"|"quarantine"} says what the hub does
// about clones from now on.
func (c *call) patchClones() error {
	var body struct {
		Policy signet.ClonePolicy `json:"policy"`
	}
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	if err := c.Inventory.SetClonePolicy(c.r.Context(), c.hub.Name, body.Policy); err != nil {
		return err
	}
	return c.answer(http.StatusOK, map[string]any{"policy": body.Policy})
}

// POST /signet/clones/{id}/dismiss {"reason":…} has a finding be found no more.
func (c *call) dismissClone() error {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	clone, err := c.Inventory.DismissClone(c.r.Context(), c.hub.Name, c.args["clone"], body.Reason)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, clone)
}
