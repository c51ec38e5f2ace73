package registry

import (
	"context"
	"encoding/json"
	"time"

	"github.com/signet-iot/signet"
)

// A BulkMode is what to do with one item of a bulk operation.
type BulkMode string

// The modes, spelled as Azure spells them.
const (
	BulkCreate                BulkMode = "create"
	BulkUpdate                BulkMode = "update"
	BulkUpdateIfMatchETag     BulkMode = "updateIfMatchETag"
	BulkDelete                BulkMode = "delete"
	BulkDeleteIfMatchETag     BulkMode = "deleteIfMatchETag"
	BulkCreateOrUpdate        BulkMode = "createOrUpdate"
	BulkUpdateTwin            BulkMode = "updateTwin"
	BulkUpdateTwinIfMatchETag BulkMode = "updateTwinIfMatchETag"
)

// MaxBulk is how many items one bulk operation takes.
const MaxBulk = 100

// A BulkItem is one identity and what to do with it. The ETags count for the
// IfMatch modes only. Tags and desired properties that are given replace those
// that are there; with the modes of twins, which leave the identity alone, they are
// merged.
type BulkItem struct {
	Mode          BulkMode
	Identity      signet.Identity
	ETag          string
	Tags, Desired json.RawMessage
	TwinETag      string
}

// A BulkOutcome is what became of an item. Twin is why the identity was written
// without its twin; that a twin can be kept is seen before, so it is a failure of
// the machine, or a race.
type BulkOutcome struct{ Err, Twin error }

// Bulk carries out the items and gives the outcome of each. Items stand for
// themselves: one that fails undoes no other. They run side by side, so that they
// share the store's commits, but modules are deleted before devices and written
// after them; an identity must not be named twice.
func (r *Registry) Bulk(ctx context.Context, hub string, items []BulkItem) []BulkOutcome {
	outcomes := make([]BulkOutcome, len(items))
	for turn := range 3 {
		done := make(chan struct{}, len(items))
		running := 0
		for n, item := range items {
			if item.turn() != turn {
				continue
			}
			item.Identity.Hub = hub
			running++
			go func() {
				outcomes[n] = r.bulkOne(ctx, item)
				done <- struct{}{}
			}()
		}
		for range running {
			<-done
		}
	}
	return outcomes
}

func (i *BulkItem) turn() int {
	switch {
	case i.Identity.ModuleID == "":
		return 1
	case i.Mode == BulkDelete || i.Mode == BulkDeleteIfMatchETag:
		return 0
	}
	return 2
}

func (r *Registry) bulkOne(ctx context.Context, item BulkItem) (o BulkOutcome) {
	i := item.Identity
	etag, twin := "*", TwinChange{Tags: item.Tags, Desired: item.Desired, Replace: true, Given: true}
	switch item.Mode {
	case BulkUpdateIfMatchETag, BulkDeleteIfMatchETag:
		etag = item.ETag
	case BulkUpdateTwin, BulkUpdateTwinIfMatchETag:
		twin.Replace, etag = false, ""
		if item.Mode == BulkUpdateTwinIfMatchETag {
			if etag = item.TwinETag; etag == "" {
				return BulkOutcome{Err: signet.Refuse(signet.ETagMissing, "The mode %s needs the twin's etag.", item.Mode)}
			}
		}
		_, o.Err = r.ChangeTwin(ctx, i.Hub, i.DeviceID, i.ModuleID, twin, etag)
		return o
	case BulkDelete, BulkCreate, BulkUpdate, BulkCreateOrUpdate:
	default:
		o.Err = malformed("importMode", "create, update, updateIfMatchETag, delete, deleteIfMatchETag, createOrUpdate, updateTwin or updateTwinIfMatchETag", string(item.Mode))
		return o
	}
	wanted, err := twin.fits()
	if err != nil {
		return BulkOutcome{Err: err}
	}
	switch item.Mode {
	case BulkCreate:
		_, o.Err = r.Create(ctx, i)
	case BulkUpdate, BulkUpdateIfMatchETag:
		_, o.Err = r.Replace(ctx, i, etag)
	case BulkDelete, BulkDeleteIfMatchETag:
		o.Err, wanted = r.Delete(ctx, i.Hub, i.DeviceID, i.ModuleID, etag), false
	case BulkCreateOrUpdate:
		if _, o.Err = r.Create(ctx, i); signet.CodeOf(o.Err) == signet.IdentityExists {
			_, o.Err = r.Replace(ctx, i, "*")
		}
	}
	if o.Err == nil && wanted {
		_, o.Twin = r.ChangeTwin(ctx, i.Hub, i.DeviceID, i.ModuleID, twin, "")
	}
	return o
}

// fits says whether there is something to be written, and refuses what no twin
// can hold.
func (c *TwinChange) fits() (wanted bool, err error) {
	for _, part := range []struct {
		name string
		text json.RawMessage
		most int
	}{{"tags", c.Tags, maxTags}, {"properties.desired", c.Desired, maxProperties}} {
		o, err := section(part.name, part.text, false)
		if err != nil {
			return false, err
		}
		if o == nil {
			continue
		}
		wanted = true
		if err := apply(part.name, part.most, &signet.Properties{}, o, true, time.Time{}); err != nil {
			return false, err
		}
	}
	return wanted, nil
}
