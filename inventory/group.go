package inventory

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"

	"github.com/signet-iot/signet"
)

// Everything stands in place of a branch for the whole hub.
const Everything = "all"

// A Group is what is at some branches, or below them, and passes a filter.
type Group struct {
	branches []string // by ID; "" is the whole hub; none is below another
	filter   Filter
}

// Group gives the group that a reference means: one of [Inventory.Find],
// [Everything] or [Thumbprinted]. The filter's own branch does not count.
func (i *Inventory) Group(ctx context.Context, hub, reference string, f Filter) (Group, error) {
	switch reference {
	case Everything:
		return Group{[]string{""}, f}, nil
	case Thumbprinted:
		return Group{[]string{Thumbprinted}, f}, nil
	}
	top, err := i.Find(ctx, hub, reference)
	g := Group{filter: f}
	for _, b := range top {
		g.branches = append(g.branches, b.ID)
	}
	return g, err
}

// page is where a page of a group ended.
type page struct {
	Top string // which of the group's branches it had come to
	Place
}

// Devices lists up to limit of a group, from the beginning or from where a page
// before ended, and says where this one did: "" when there is no more. Each page
// is of one moment; what is seen under another branch meanwhile may come twice, or
// not at all.
func (i *Inventory) Devices(ctx context.Context, hub string, g Group, from string, limit int) (list []signet.Sighting, next string, err error) {
	var at page
	if from != "" {
		text, err := base64.RawURLEncoding.DecodeString(from)
		if err != nil || json.Unmarshal(text, &at) != nil {
			return nil, "", signet.Refuse(signet.RequestMalformed, "This is not where a page ended.").At("continuation", "as it was given", from)
		}
	}
	for _, branch := range g.branches {
		if at.Top != "" && branch != at.Top {
			continue // listed already
		}
		f := g.filter
		f.Branch = branch
		more, err := i.store.Sightings(ctx, hub, f, at.Place, limit-len(list))
		if errors.Is(err, signet.ErrNotFound) {
			err = signet.Refuse(signet.RequestMalformed, "The CA at which the page before ended has gone from the tree.").FixBy("Begin with the first page.")
		}
		if err != nil {
			return nil, "", err
		}
		list = append(list, more...)
		if len(list) >= limit {
			last := list[len(list)-1]
			text, err := json.Marshal(page{branch, Place{last.Branch, last.DeviceID, last.ModuleID}})
			return list, base64.RawURLEncoding.EncodeToString(text), err
		}
		at = page{}
	}
	return list, "", nil
}

// Count counts a group.
func (i *Inventory) Count(ctx context.Context, hub string, g Group) (total int64, err error) {
	for _, branch := range g.branches {
		f := g.filter
		f.Branch = branch
		n, err := i.store.CountSightings(ctx, hub, f)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// everyonePage is how many are read at a time for [Inventory.Everyone]: some 2 MiB
// of certificates.
const everyonePage = 500

// Everyone gives all identities of a hub that have been seen, with their
// certificates, page by page, those of one branch one after the other, until each
// fails. What is seen under another branch meanwhile may come twice, or not at all.
func (i *Inventory) Everyone(ctx context.Context, hub string, each func(page []signet.Sighting) error) error {
	all, err := i.store.Branches(ctx, hub)
	if err != nil {
		return err
	}
	g := Group{branches: []string{Thumbprinted}, filter: Filter{DER: true}}
	for _, b := range all {
		if b.Parent == "" {
			g.branches = append(g.branches, b.ID)
		}
	}
	for from, more := "", true; more; more = from != "" {
		var page []signet.Sighting
		if page, from, err = i.Devices(ctx, hub, g, from, everyonePage); err != nil {
			return err
		}
		if err := each(page); err != nil {
			return err
		}
	}
	return nil
}

// Unseen counts the identities of a hub that authenticate by a CA and never have.
func (i *Inventory) Unseen(ctx context.Context, hub string) (int64, error) {
	return i.store.CountUnseen(ctx, hub)
}
