package registry

import (
	"context"

	"github.com/signet-iot/signet"
)

// A BulkMode is what to do with one item of a bulk operation.
type BulkMode string

// The modes, spelled as Azure spells them.
const (
	BulkCreate            BulkMode = "create"
	BulkUpdate            BulkMode = "update"
	BulkUpdateIfMatchETag BulkMode = "updateIfMatchETag"
	BulkDelete            BulkMode = "delete"
	BulkDeleteIfMatchETag BulkMode = "deleteIfMatchETag"
	BulkCreateOrUpdate    BulkMode = "createOrUpdate"
)

// MaxBulk is how many items one bulk operation takes.
const MaxBulk = 100

// A BulkItem is one identity and what to do with it. ETag counts for the
// IfMatch modes only.
type BulkItem struct {
	Mode     BulkMode
	Identity signet.Identity
	ETag     string
}

// Bulk carries out the items and gives the error of each, nil where it was
// done. Items stand for themselves: one that fails undoes no other. They run
// side by side, so that they share the store's commits; an identity must not be
// named twice.
func (r *Registry) Bulk(ctx context.Context, hub string, items []BulkItem) []error {
	errs := make([]error, len(items))
	done := make(chan struct{}, len(items))
	for n, item := range items {
		item.Identity.Hub = hub
		go func() {
			errs[n] = r.bulkOne(ctx, item)
			done <- struct{}{}
		}()
	}
	for range items {
		<-done
	}
	return errs
}

func (r *Registry) bulkOne(ctx context.Context, item BulkItem) (err error) {
	i := item.Identity
	etag := "*"
	if item.Mode == BulkUpdateIfMatchETag || item.Mode == BulkDeleteIfMatchETag {
		etag = item.ETag
	}
	switch item.Mode {
	case BulkCreate:
		_, err = r.Create(ctx, i)
	case BulkUpdate, BulkUpdateIfMatchETag:
		_, err = r.Replace(ctx, i, etag)
	case BulkDelete, BulkDeleteIfMatchETag:
		err = r.Delete(ctx, i.Hub, i.DeviceID, i.ModuleID, etag)
	case BulkCreateOrUpdate:
		if _, err = r.Create(ctx, i); signet.CodeOf(err) == signet.IdentityExists {
			_, err = r.Replace(ctx, i, "*")
		}
	default:
		err = malformed("importMode", "create, update, updateIfMatchETag, delete, deleteIfMatchETag or createOrUpdate", string(item.Mode))
	}
	return err
}
