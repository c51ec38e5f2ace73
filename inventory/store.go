package inventory

import (
	"context"
	"time"

	"github.com/signet-iot/signet"
)

// Store keeps the trust trees. Its server is package store.
//
// Safe for concurrent use. What Save has returned nil for is either wholly there or
// not at all, and stays when the process ends. The loss of power may take it back
// until a later change is durable (fsync), unless there are clones in it.
type Store interface {
	// Save writes what has been seen. What belongs to a hub, an identity or a
	// generation of it that is gone is passed over. It fails with signet.ErrNotFound
	// when the branch of a sighting or above a branch is not there, or an identity goes
	// meanwhile.
	Save(ctx context.Context, n News) error
	// Alike reads, for each sighting that is about to be written, what is stored that
	// it must be compared with, in their order.
	Alike(ctx context.Context, sightings []signet.Sighting) ([]Alike, error)
	// Prune removes the branches of a hub under which no identity was seen last, and
	// says how many there were.
	Prune(ctx context.Context, hub string) (int64, error)

	// Branches lists those of a hub by ID, without counts and without DER; Refused is
	// its own alone.
	Branches(ctx context.Context, hub string) ([]signet.Branch, error)
	// Populations counts the identities directly under each branch of a hub, where
	// there are any; under "" those of certificates known by thumbprint.
	Populations(ctx context.Context, hub string, endsBefore time.Time) (map[string]Population, error)
	// Path gives a branch and those above it, the anchor last, whole and without
	// counts. It fails with signet.ErrNotFound.
	Path(ctx context.Context, hub, branch string) ([]signet.Branch, error)

	// Sightings lists up to limit of a hub that pass the filter, after a place: branch
	// after branch, in an order of the store's, of each in byte order of device and
	// module ID; the whole hub in that alone. It fails with signet.ErrNotFound when the
	// place is not, or no longer, below the branch of the filter.
	Sightings(ctx context.Context, hub string, f Filter, after Place, limit int) ([]signet.Sighting, error)
	// CountSightings counts those that pass the filter.
	CountSightings(ctx context.Context, hub string, f Filter) (int64, error)
	// CountUnseen counts the identities of a hub that authenticate by a CA and have no
	// sighting.
	CountUnseen(ctx context.Context, hub string) (int64, error)
	// Sighting reads one. It fails with signet.ErrNotFound.
	Sighting(ctx context.Context, hub, device, module string) (signet.Sighting, error)

	// Clones lists up to limit findings of a hub, the latest first.
	Clones(ctx context.Context, hub string, limit int) ([]signet.Clone, error)
	// Clone reads one. It fails with signet.ErrNotFound.
	Clone(ctx context.Context, hub, id string) (signet.Clone, error)
	// DismissClone replaces one by its ID. It fails with signet.ErrNotFound.
	DismissClone(ctx context.Context, c signet.Clone) error
	// ClonePolicy is what a hub does about them: signet.ClonesFlag unless set.
	ClonePolicy(ctx context.Context, hub string) (signet.ClonePolicy, error)
	// SetClonePolicy sets it. It fails with signet.ErrNotFound when there is no such hub.
	SetClonePolicy(ctx context.Context, hub string, policy signet.ClonePolicy) error
}

// News is what is written at a time.
type News struct {
	Branches  []signet.Branch   // to be added unless they are there, parents first
	Sightings []signet.Sighting // over earlier ones of the same identity, whose FirstSeen stays; none twice
	Left      []Left            // after the sightings
	Clones    []signet.Clone    // over earlier ones of the same ID; of a hub the latest [MaxClones] stay
	Refusals  []Refusals
}

// Left tells that an identity was connected then.
type Left struct {
	Hub, DeviceID, ModuleID string
	At                      time.Time
}

// Refusals are how many chains from a branch were refused since the last time.
type Refusals struct {
	Hub, Branch string
	Count       int64
}

// A Population is how many identities are directly under a branch, and how many
// of their certificates end before a time.
type Population struct{ Devices, Expiring int64 }

// MaxAlike bounds what is compared of each kind.
const MaxAlike = 10

// Alike is what a sighting is compared with. The lists hold up to [MaxAlike],
// with what names the identity and the certificate; Before has what follows from
// one certificate to the next.
type Alike struct {
	Before     *signet.Sighting  // the same identity; nil when it was not seen yet
	SameKey    []signet.Sighting // other devices with the same key
	SameIssued []signet.Sighting // other devices with the same issuer's key and serial number
}

// A Filter chooses sightings; what is zero does not count.
type Filter struct {
	// Branch takes what is at a branch or below it, [Thumbprinted] what is at none.
	Branch string

	KeyType                     string    // as [signet.SeenCertificate] writes it
	IssuedAfter, IssuedBefore   time.Time // by the certificate's notBefore
	ExpiresAfter, ExpiresBefore time.Time // by its notAfter
	FirstSeenAfter              time.Time
	FirstSeenBefore             time.Time
	LastSeenAfter               time.Time
	LastSeenBefore              time.Time

	DER    bool // the certificate is wanted too
	Status bool // and the identity's status
}

// Thumbprinted stands in place of a branch for certificates known by thumbprint.
const Thumbprinted = "thumbprint"

// A Place is where a page of a list ended; the zero Place is before everything.
type Place struct{ Branch, DeviceID, ModuleID string }
