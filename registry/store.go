package registry

import (
	"context"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/query"
)

// Store keeps hubs, identities and their twins. Its server is package store.
//
// Safe for concurrent use. A write is durable (fsync) when it returns nil, and
// either wholly there or not at all. Reads see every write that has returned.
// Outcomes are [signet.ErrNotFound], [signet.ErrExists] and [signet.ErrStale];
// any other error means that the outcome is unknown. Events that come with a write
// are put into the hub's outbox in its transaction: both are there, or neither is.
type Store interface {
	Hubs(ctx context.Context) ([]signet.Hub, error)
	// CreateHub fails with ErrExists when the name or the host name is taken.
	CreateHub(ctx context.Context, h signet.Hub) error
	// SetAtExpiry changes the ExpiryPolicy of a hub; ErrNotFound when there is none.
	SetAtExpiry(ctx context.Context, hub string, policy signet.ExpiryPolicy) error
	// SetEvents changes what a hub tells; ErrNotFound when there is none.
	SetEvents(ctx context.Context, hub string, events signet.EventSources) error
	// SetLimits changes what a hub lets itself and its devices do; ErrNotFound when
	// there is none.
	SetLimits(ctx context.Context, hub string, l signet.Limits) error
	// DeleteHub removes the hub with everything that bears its name: identities,
	// CA certificates, verdicts.
	DeleteHub(ctx context.Context, name string) error

	// Identity reads one identity; module is empty for a device.
	Identity(ctx context.Context, hub, device, module string) (signet.Identity, error)
	// Identities lists up to limit devices (no modules) of a hub with an ID
	// greater than after, in byte order of their IDs.
	Identities(ctx context.Context, hub, after string, limit int) ([]signet.Identity, error)
	// CreateIdentity fails with ErrNotFound when the hub, or a module's device, is
	// not there.
	CreateIdentity(ctx context.Context, i signet.Identity, events ...signet.Event) error
	// ReplaceIdentity replaces the record of the same key if its ETag is etag, or
	// whatever it is when etag is "*". Subscriptions stay.
	ReplaceIdentity(ctx context.Context, i signet.Identity, etag string) error
	// DeleteIdentity removes the record, and with a device its modules; etag as
	// for ReplaceIdentity.
	DeleteIdentity(ctx context.Context, hub, device, module, etag string, events ...signet.Event) error
	// SetSubscriptions replaces the Subscriptions of an identity, and nothing else. It
	// fails with ErrNotFound when there is none of that generation.
	SetSubscriptions(ctx context.Context, hub, device, module, generation string, subscriptions uint32) error
	// Modules lists up to limit modules of a device, in byte order of their IDs.
	Modules(ctx context.Context, hub, device string, limit int) ([]signet.Identity, error)
	// CountDevices counts the devices of a hub, and the enabled ones among them.
	CountDevices(ctx context.Context, hub string) (total, enabled int64, err error)

	// Twin reads the twin of an identity; one that was never written has Version
	// 0, and nothing but its key and generation. It fails with ErrNotFound when
	// there is no such identity.
	Twin(ctx context.Context, hub, device, module string) (signet.Twin, error)
	// WriteTwin writes a twin, all of it in one transaction, if the one that is
	// there has the version given, 0 for one never written; otherwise it fails with
	// ErrStale. It fails with ErrNotFound when the identity is not there, or is not
	// of the twin's generation. The twin goes with its identity.
	WriteTwin(ctx context.Context, t signet.Twin, version int64, events ...signet.Event) error

	// Find reads up to limit of the records that a query finds, in the order of
	// their keys, behind one. Each twin is read as Twin does. A page that takes
	// seconds, or has more than some megabytes, ends where it is. Readers and
	// writers wait for no query, and one query does not keep another waiting: each
	// reads a small part at a time, and few do so at once.
	Find(ctx context.Context, hub string, q *query.Query, after Key, limit int) (Page, error)
	// Aggregate reads the groups of a query with aggregates, ordered by type and
	// value. It fails with [signet.LimitQuery] when that takes too long, or has
	// more than [MaxGroups] groups.
	Aggregate(ctx context.Context, hub string, q *query.Query) ([]Group, error)

	// Activity reads what is known of the identities of the devices from one ID to
	// another, in the order of their keys; what was never active is left out.
	Activity(ctx context.Context, hub, first, last string) ([]signet.Activity, error)
	// SaveActivity writes what is known, in one transaction. Times are never set
	// back. An identity that is not there, or is not of that generation, is passed
	// over.
	SaveActivity(ctx context.Context, as []signet.Activity) error
	// NobodyConnected says of every identity that is Connected that it is not,
	// since the time given.
	NobodyConnected(ctx context.Context, since time.Time) error
}

// MaxGroups bounds the groups of an aggregate, and so the memory of its answer.
const MaxGroups = 1000
