package registry

import (
	"context"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/query"
)

// A Key is where an identity stands in the order of a hub's identities: by device
// ID, then module ID, in bytes, a device before its modules. The zero Key is
// before all.
type Key struct{ DeviceID, ModuleID string }

// A Record is all that is kept of an identity.
type Record struct {
	Identity signet.Identity
	Twin     signet.Twin
	Activity signet.Activity
	Waiting  int // messages in the queue of a device
}

// A Page is a part of what a query finds.
type Page struct {
	Records []Record
	// More says that there may be more behind Next. A page that took long ends
	// before it is full, and can be empty.
	More bool
	Next Key
}

// A Group is one line of the answer to a query with aggregates.
type Group struct {
	// Value is what the group has in common: nil, a bool, float64 or string, or
	// [query.Undefined]; it is that, too, without GROUP BY.
	Value any
	// Values are those of the query's columns that are aggregates, in their order;
	// [query.Undefined] where there was no number.
	Values []any
}

// MaxPage is how many records a page has at most: Azure pages by a hundred, and
// what its SDKs ask for has no bound.
const MaxPage = 1000

// Find gives up to limit of the identities that a query without aggregates finds,
// behind a key and in the order of keys.
func (r *Registry) Find(ctx context.Context, hub string, q *query.Query, after Key, limit int) (Page, error) {
	page, err := r.store.Find(ctx, hub, q, after, min(limit, MaxPage))
	for n := range page.Records {
		if t := &page.Records[n].Twin; t.Version == 0 {
			*t = signet.EmptyTwin(t.Hub, t.DeviceID, t.ModuleID, t.GenerationID)
		}
	}
	return page, err
}

// Aggregate gives the groups of a query with aggregates. It refuses with
// [signet.LimitQuery].
func (r *Registry) Aggregate(ctx context.Context, hub string, q *query.Query) ([]Group, error) {
	return r.store.Aggregate(ctx, hub, q)
}
