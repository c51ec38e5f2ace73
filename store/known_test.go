package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/store"
)

// A device that is remembered is the one that is stored, whatever became of it.
func TestKnownDevice(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		s := db.mustOpen(t, dsn)
		ok(t, s.CreateHub(t.Context(), hub("east")))
		stored := func(want signet.Identity) {
			t.Helper()
			for range 3 { // read, remembered, remembered
				got, err := s.Identity(t.Context(), want.Hub, want.DeviceID, want.ModuleID)
				ok(t, err)
				same(t, got, want)
			}
		}
		gone := func(id, module string) {
			t.Helper()
			for range 2 {
				_, err := s.Identity(t.Context(), "east", id, module)
				fails(t, err, signet.ErrNotFound)
			}
		}
		d, m := device("east", "d"), module("east", "d", "m")
		gone("d", "")
		ok(t, s.CreateIdentity(t.Context(), d))
		ok(t, s.CreateIdentity(t.Context(), m))
		stored(d)
		stored(m)

		d.ETag, d.Status, d.StatusReason = "e2", signet.Disabled, "stolen"
		ok(t, s.ReplaceIdentity(t.Context(), d, "e1"))
		stored(d)
		other := d
		other.Status = signet.Enabled
		fails(t, s.ReplaceIdentity(t.Context(), other, "e1"), signet.ErrStale)
		stored(d)
		m.ETag = "e2"
		ok(t, s.ReplaceIdentity(t.Context(), m, "*"))
		stored(d)
		stored(m)

		fails(t, s.DeleteIdentity(t.Context(), "east", "d", "", "e1"), signet.ErrStale)
		stored(d)
		ok(t, s.DeleteIdentity(t.Context(), "east", "d", "", "*"))
		gone("d", "")
		gone("d", "m")
		anew := device("east", "d")
		anew.GenerationID = "2"
		ok(t, s.CreateIdentity(t.Context(), anew))
		stored(anew)

		ok(t, s.DeleteHub(t.Context(), "east"))
		gone("d", "")
		ok(t, s.CreateHub(t.Context(), hub("east")))
		gone("d", "")
	})
}

// What is read beside a change is from before it or after it; what is read after it has
// returned is from after it.
func TestKnownDeviceBesideItsChanges(t *testing.T) {
	s := kinds[0].mustOpen(t, kinds[0].dsn(t))
	ok(t, s.CreateHub(t.Context(), hub("east")))
	const changes = 300
	for n := range 2 {
		d := device("east", fmt.Sprint(n))
		d.ETag = "0"
		ok(t, s.CreateIdentity(t.Context(), d))
	}
	var returned [2]atomic.Int64
	var over atomic.Int32
	for _, err := range together(6, func(who int) error {
		n := who % 2
		d := device("east", fmt.Sprint(n))
		if who < 2 {
			defer over.Add(1)
			for v := int64(1); v <= changes; v++ {
				d.ETag = fmt.Sprint(v)
				if err := s.ReplaceIdentity(t.Context(), d, "*"); err != nil {
					return err
				}
				returned[n].Store(v)
			}
			return nil
		}
		for over.Load() < 2 {
			before := returned[n].Load()
			got, err := s.Identity(t.Context(), "east", d.DeviceID, "")
			if err != nil {
				return err
			}
			if v, _ := strconv.ParseInt(got.ETag, 10, 64); v < before {
				return fmt.Errorf("after change %d was made, the device is as change %d left it", before, v)
			}
		}
		return nil
	}) {
		ok(t, err)
	}
}

// Nothing is remembered that was read before a change or while one was under way, nor
// more than there is room for.
func TestKnown(t *testing.T) {
	var k store.Known
	read := func(id string) bool {
		i, changes := k.Recall("east", id)
		if i == nil {
			d := device("east", id)
			k.Learn(&d, changes)
		}
		return i != nil
	}
	old := device("east", "d")
	for _, changed := range []string{"d", ""} { // it, or its hub
		for _, order := range []string{"look read begin end", "look begin read end", "look begin end read", "begin look read end", "begin look end read", "begin end look read"} {
			var changes uint64
			var end func()
			for _, step := range strings.Fields(order) {
				switch step {
				case "begin":
					end = k.Change("east", changed)
				case "end":
					end()
				case "look":
					_, changes = k.Recall("east", "d")
				case "read":
					k.Learn(&old, changes)
				}
			}
			if i, _ := k.Recall("east", "d"); (i != nil) != (order == "begin end look read") {
				t.Errorf("change of %q: %s: remembered %v", changed, order, i != nil)
			}
		}
	}
	end := k.Change("east", "d")
	if read("e") || !read("e") {
		t.Error("a change of one keeps another from being remembered")
	}
	end()

	for n := range 3 * store.MaxKnown {
		read(deviceID(n))
		if !read("d") && n > 0 { // who keeps coming is not forgotten
			t.Fatalf("after %d others it is forgotten", n)
		}
		if k.Len() > store.MaxKnown {
			t.Fatalf("%d devices are remembered", k.Len())
		}
	}
	if read(deviceID(0)) {
		t.Error("the first of so many is still remembered")
	}
}

// What changes an identity, or removes one with its hub, has it forgotten. This is all
// that does.
func TestKnownByAllThatChanges(t *testing.T) {
	files, err := filepath.Glob("*.go")
	ok(t, err)
	changes := map[string]int{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		ok(t, err)
		for _, m := range regexp.MustCompile(`(?i)(UPDATE|DELETE\s+FROM|INTO)\s+identity\b|DELETE\s+FROM\s+hub\b`).FindAllString(string(text), -1) {
			changes[file+": "+m]++
		}
	}
	same(t, changes, map[string]int{
		"identities.go: INTO identity":        1, // CreateIdentity: of none that is there
		"identities.go: UPDATE identity":      2, // ReplaceIdentity, SetSubscriptions
		"identities.go: DELETE FROM identity": 1, // DeleteIdentity
		"identities.go: DELETE FROM hub":      1, // DeleteHub
	})
}
