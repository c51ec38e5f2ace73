package store_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/inventory"
)

// hash is as spread as what it stands for.
func hash(n int) string {
	sum := sha256.Sum256([]byte(strconv.Itoa(n)))
	return hex.EncodeToString(sum[:])
}

// TestTreeOfMany measures a trust tree of as many devices as SIGNET_TREE_DEVICES
// says, with both databases: how long it takes to write them as they are seen, to
// read the tree, a page of a branch, and all that a technician has signed in a
// month; and that the tree is read in under a second.
//
//	SIGNET_TREE_DEVICES=1000000 go test ./store -run TreeOfMany -v -timeout 30m
func TestTreeOfMany(t *testing.T) {
	many, err := strconv.Atoi(os.Getenv("SIGNET_TREE_DEVICES"))
	if err != nil {
		t.Skip("SIGNET_TREE_DEVICES says how many devices; it takes minutes")
	}
	each(t, func(t *testing.T, db database, dsn string) {
		s := db.mustOpen(t, dsn)
		ok(t, s.CreateHub(t.Context(), hub("east")))
		const factories, lines = 20, 20 // each
		var news inventory.News
		news.Branches = append(news.Branches, branch("east", "root", ""))
		for f := range factories {
			factory := fmt.Sprintf("%032d", f)
			news.Branches = append(news.Branches, branch("east", factory, "root"))
			for l := range lines {
				news.Branches = append(news.Branches, branch("east", fmt.Sprintf("%028d%04d", f, l+1), factory))
			}
		}
		ok(t, s.Save(t.Context(), news))

		begin := time.Now()
		const writers = 64
		for _, err := range together(writers, func(n int) error {
			for d := n; d < many; d += writers {
				if err := s.CreateIdentity(t.Context(), device("east", fmt.Sprintf("press-%07d", d))); err != nil {
					return err
				}
			}
			return nil
		}) {
			ok(t, err)
		}
		t.Logf("%d identities made in %v", many, time.Since(begin).Round(time.Second))

		// The first as they are seen, in any order; the rest in a faster way.
		begin = time.Now()
		order := rand.New(rand.NewPCG(1, 2)).Perm(min(many, 20_000))
		for d := len(order); d < many; d++ {
			order = append(order, d)
		}
		size, measured := 500, false
		for len(order) > 0 {
			batch := order[:min(size, len(order))]
			order = order[len(batch):]
			if many-len(order) > 20_000 && !measured {
				took := time.Since(begin)
				t.Logf("20000 sightings compared and written in %v: %.0f a second", took.Round(time.Second), 20_000/took.Seconds())
				size, measured = 20_000, true
			}
			var sightings []signet.Sighting
			for _, d := range batch {
				f, l := d%factories, d/factories%lines
				w := sighting("east", fmt.Sprintf("press-%07d", d), fmt.Sprintf("%028d%04d", f, l+1))
				w.Thumbprint, w.Key = hash(d), hash(-d)
				w.Issued, w.Serial = hash(d + many)[:32], fmt.Sprintf("%040x", d)
				w.NotBefore = at(0).Add(time.Duration(d%365) * -24 * time.Hour)
				w.NotAfter = w.NotBefore.Add(365 * 24 * time.Hour)
				w.DER = make([]byte, 600)
				sightings = append(sightings, w)
			}
			if !measured {
				_, err := s.Alike(t.Context(), sightings)
				ok(t, err)
			}
			ok(t, s.Save(t.Context(), inventory.News{Sightings: sightings}))
		}

		i := inventory.New(s, inventory.Options{})
		measure := func(what string, f func() string) time.Duration {
			var times []time.Duration
			said := ""
			for range 5 {
				begin := time.Now()
				said = f()
				times = append(times, time.Since(begin))
			}
			slices.Sort(times)
			t.Logf("%s: median %v, slowest %v (%s)", what, times[2].Round(100*time.Microsecond), times[4].Round(100*time.Microsecond), said)
			return times[2]
		}
		median := measure("the tree", func() string {
			tree, err := i.Tree(t.Context(), "east", at(0).Add(30*24*time.Hour), nil)
			ok(t, err)
			same(t, tree[0].Total, int64(many))
			return fmt.Sprintf("%d branches, %d devices, %d expiring", len(tree), tree[0].Total, tree[0].Expiring)
		})
		if median > time.Second {
			t.Errorf("the tree takes %v", median)
		}
		list := func(what, reference string, f inventory.Filter, all bool) {
			measure(what, func() string {
				f.Status = true
				g, err := i.Group(t.Context(), "east", reference, f)
				ok(t, err)
				n := 0
				for from, first := "", true; first || all && from != ""; first = false {
					var page []signet.Sighting
					page, from, err = i.Devices(t.Context(), "east", g, from, 1000)
					ok(t, err)
					n += len(page)
				}
				return fmt.Sprint(n, " devices")
			})
		}
		factory := fmt.Sprintf("%032d", 7)
		list("a page of a factory", factory, inventory.Filter{}, false)
		list("a page of the root", "thumbprint of root", inventory.Filter{}, false)
		list("what a line has signed in a month, all", fmt.Sprintf("%028d%04d", 7, 3), inventory.Filter{IssuedAfter: at(0).Add(-30 * 24 * time.Hour)}, true)
		list("what a factory has signed in a month, all", factory, inventory.Filter{IssuedAfter: at(0).Add(-30 * 24 * time.Hour)}, true)
		measure("a count of the same", func() string {
			g, err := i.Group(t.Context(), "east", factory, inventory.Filter{IssuedAfter: at(0).Add(-30 * 24 * time.Hour)})
			ok(t, err)
			n, err := i.Count(t.Context(), "east", g)
			ok(t, err)
			return fmt.Sprint(n, " devices")
		})
		ok(t, s.Close())
		begin = time.Now()
		s = db.mustOpen(t, dsn)
		t.Logf("opened again in %v", time.Since(begin).Round(time.Millisecond))
	})
}
