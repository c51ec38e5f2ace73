package inventory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/signet-iot/signet"
)

// tree is what is known of the branches of a hub.
type tree struct {
	hub          string
	parents      map[string]string // by branch
	below        map[string]int    // branches below one, at any depth
	byThumbprint map[string]string // one branch of each CA
	full         map[string]bool   // what has reached its bound, and that was told
	pruned       time.Time
	policy       signet.ClonePolicy
}

func newTree(hub string) *tree {
	return &tree{hub: hub, parents: map[string]string{}, below: map[string]int{}, byThumbprint: map[string]string{}, full: map[string]bool{}}
}

// tree gives the tree of a hub, read when it is not known.
func (i *Inventory) tree(ctx context.Context, hub string) (*tree, error) {
	i.mu.Lock()
	t, forgets := i.trees[hub], i.forgets
	i.mu.Unlock()
	if t != nil {
		return t, nil
	}
	branches, err := i.store.Branches(ctx, hub)
	if err != nil {
		return nil, err
	}
	policy, err := i.store.ClonePolicy(ctx, hub)
	if err != nil {
		return nil, err
	}
	t = newTree(hub)
	t.policy = policy
	for _, b := range branches {
		t.parents[b.ID] = b.Parent
		t.byThumbprint[b.Thumbprint] = b.ID
	}
	// What another server has put below a branch while that was pruned comes anew, with
	// what is above it.
	for lost := true; lost; {
		lost = false
		for id, parent := range t.parents {
			if _, there := t.parents[parent]; !there && parent != "" {
				delete(t.parents, id)
				lost = true
			}
		}
	}
	for id := range t.parents {
		t.grow(id)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.forgets == forgets {
		i.trees[hub] = t
	}
	return t, nil
}

// prune makes room in the tree of a hub.
func (i *Inventory) prune(ctx context.Context, hub string) error {
	n, err := i.store.Prune(ctx, hub)
	if err != nil {
		return err
	}
	i.mu.Lock()
	t := i.trees[hub]
	if n > 0 {
		delete(i.trees, hub)
	}
	i.mu.Unlock()
	if t == nil {
		return nil // the hub has gone meanwhile
	}
	full := t.full
	t, err = i.tree(ctx, hub)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	t.pruned = i.now()
	for id := range full {
		if t.fullness(id) > 0 {
			t.full[id] = true // it is told once
		} else {
			delete(t.full, id)
		}
	}
	return nil
}

// grow counts a branch to all that are above it. A path has at most ten CAs.
func (t *tree) grow(id string) {
	for above := t.parents[id]; above != ""; above = t.parents[above] {
		t.below[above]++
	}
}

// place gives the branch that a path leads to, and the branches that are new by
// it, parents first. Where the tree is full it is the nearest that is kept.
func (t *tree) place(s *seen) (branch string, fresh []signet.Branch, overgrown *Event) {
	cas := s.principal.Path[1:]
	for n := len(cas) - 1; n >= 0; n-- {
		id := signet.BranchID(cas[n:])
		if _, known := t.parents[id]; !known {
			if full, bound := t.limit(branch); bound > 0 {
				if !t.full[full] {
					t.full[full] = true
					overgrown = &Event{Hub: t.hub, Kind: "overgrown", Branch: full, Count: int64(bound)}
					for m := n + 1; m < len(cas); m++ {
						if signet.BranchID(cas[m:]) == full {
							overgrown.Subject = storable(cas[m].Subject)
						}
					}
				}
				return branch, fresh, overgrown
			}
			c := s.path[n+1]
			b := signet.Branch{Hub: t.hub, ID: id, Parent: branch, SeenCertificate: certificate(c, cas[n]), DER: c.Raw, FirstSeen: s.at.UTC()}
			t.parents[id] = branch
			t.byThumbprint[b.Thumbprint] = id
			t.grow(id)
			fresh = append(fresh, b)
		}
		branch = id
	}
	return branch, fresh, nil
}

// limit gives the first branch, from one upwards, below which no more may be, and
// its bound; "" is the whole hub. A bound of 0 says that there is none.
func (t *tree) limit(branch string) (full string, bound int) {
	for ; branch != ""; branch = t.parents[branch] {
		if bound := t.fullness(branch); bound > 0 {
			return branch, bound
		}
	}
	return "", t.fullness("")
}

// fullness gives the bound that a branch has reached, or 0.
func (t *tree) fullness(branch string) int {
	parent, known := t.parents[branch]
	switch {
	case branch == "" && len(t.parents) >= MaxBranches:
		return MaxBranches
	case known && parent == "" && t.below[branch] >= MaxBelowAnchor:
		return MaxBelowAnchor
	case parent != "" && t.below[branch] >= MaxBelow:
		return MaxBelow
	}
	return 0
}

// Tree lists the branches of a hub, each after the one above it, the most
// populous of those under one first, with the counts of what is below each;
// endsBefore is for Expiring. A last branch, [Thumbprinted], stands for certificates
// that are known by thumbprint, if there are any.
func (i *Inventory) Tree(ctx context.Context, hub string, endsBefore time.Time, connected []signet.PathCount) ([]signet.Branch, error) {
	branches, err := i.store.Branches(ctx, hub)
	if err != nil {
		return nil, err
	}
	populations, err := i.store.Populations(ctx, hub, endsBefore)
	if err != nil {
		return nil, err
	}
	sessions := sessionsAt(branches, connected)
	under := map[string][]*signet.Branch{}
	for n := range branches {
		b := &branches[n]
		p := populations[b.ID]
		b.Devices, b.Total, b.Expiring, b.Connected = p.Devices, p.Devices, p.Expiring, sessions[b.ID]
		under[b.Parent] = append(under[b.Parent], b)
	}
	for _, anchor := range under[""] {
		sum(anchor, under) // a path has at most ten CAs, so this is not deep
	}
	ordered := make([]signet.Branch, 0, len(branches)+1)
	var list func(parent string)
	list = func(parent string) {
		slices.SortFunc(under[parent], func(a, b *signet.Branch) int {
			return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.ID, b.ID))
		})
		for _, b := range under[parent] {
			ordered = append(ordered, *b)
			list(b.ID)
		}
	}
	list("")
	if p, ok := populations[""]; ok || sessions[""] > 0 {
		ordered = append(ordered, signet.Branch{Hub: hub, ID: Thumbprinted, Devices: p.Devices, Total: p.Devices, Expiring: p.Expiring, Connected: sessions[""]})
	}
	return ordered, nil
}

// sum adds to a branch what is below it.
func sum(b *signet.Branch, under map[string][]*signet.Branch) {
	for _, lower := range under[b.ID] {
		sum(lower, under)
		b.Total += lower.Total
		b.Expiring += lower.Expiring
		b.Connected += lower.Connected
		b.Refused += lower.Refused
	}
}

// sessionsAt counts sessions to the nearest of their CAs that is a branch.
func sessionsAt(branches []signet.Branch, connected []signet.PathCount) map[string]int64 {
	known := make(map[string]bool, len(branches))
	for _, b := range branches {
		known[b.ID] = true
	}
	at := map[string]int64{}
	for _, c := range connected {
		for n := range len(c.CAs) + 1 {
			id := ""
			if n < len(c.CAs) {
				id = signet.BranchID(c.CAs[n:])
			}
			if known[id] || len(c.CAs) == 0 {
				at[id] += int64(c.Sessions)
				break
			}
		}
	}
	return at
}

// Find gives the branches of a hub that a reference means, by ID; none is below
// another of them. A reference is an ID or the beginning of one, the beginning of
// a thumbprint or a key (8 hex digits or more each), a subject or its common name.
// Several branches are of one key: a CA that is known under two roots or by two
// certificates. It refuses with [signet.BranchUnknown], and, when CAs of different
// keys are meant, with [signet.BranchAmbiguous].
func (i *Inventory) Find(ctx context.Context, hub, reference string) ([]signet.Branch, error) {
	branches, err := i.store.Branches(ctx, hub)
	if err != nil {
		return nil, err
	}
	parents := make(map[string]string, len(branches))
	found := map[string]signet.Branch{}
	for _, b := range branches {
		parents[b.ID] = b.Parent
		if begins(b.ID, reference) || begins(b.Thumbprint, reference) || begins(b.Key, reference) ||
			b.Subject == reference || commonName(b.Subject) == reference {
			found[b.ID] = b
		}
	}
	var top []signet.Branch
	for _, b := range branches {
		if _, ok := found[b.ID]; ok && !beneath(b.ID, found, parents) {
			top = append(top, b)
		}
	}
	if len(top) == 0 {
		return nil, unknown(hub, reference)
	}
	const most = 5
	var candidates []string
	for _, b := range top {
		if b.Key != top[0].Key {
			for _, b := range top[:min(len(top), most)] {
				candidates = append(candidates, fmt.Sprintf("%s (%s, key %.8s)", b.ID, b.Subject, b.Key))
			}
			return nil, signet.Refuse(signet.BranchAmbiguous, "%q means CAs with different keys: %s.", signet.Clip(reference), strings.Join(candidates, "; "))
		}
	}
	return top, nil
}

// beneath says whether one of the others is above a branch.
func beneath(id string, others map[string]signet.Branch, parents map[string]string) bool {
	for above := parents[id]; above != ""; above = parents[above] {
		if _, ok := others[above]; ok {
			return true
		}
	}
	return false
}

// begins says whether a text of hex digits begins with a reference.
func begins(text, reference string) bool {
	const least = 8
	return len(reference) >= least && strings.HasPrefix(text, strings.ToLower(reference))
}

// commonName takes the CN out of a subject as it is written here (RFC 2253 §2.4):
// attributes are parted by commas or plus signs, and such a sign within one has a
// backslash before it.
func commonName(subject string) string {
	var attribute strings.Builder
	for n := 0; n <= len(subject); n++ {
		switch {
		case n == len(subject) || subject[n] == ',' || subject[n] == '+':
			if name, ok := strings.CutPrefix(attribute.String(), "CN="); ok {
				return name
			}
			attribute.Reset()
		case subject[n] == '\\' && n+1 < len(subject):
			n++
			attribute.WriteByte(subject[n])
		default:
			attribute.WriteByte(subject[n])
		}
	}
	return ""
}
