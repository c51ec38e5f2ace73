// Package inventory remembers by which certification path each device last
// authenticated, and shows the fleet as the tree that its certificates record.
//
// It is written behind: a connect leaves a note in memory and goes on; a second
// later, or ten in a rush, the notes are written together. What a crash loses is what
// was seen in that time; the next connect tells it again.
//
// # What it may grow to
//
// A row for each identity that is registered, whatever the number of leaves that
// are made for it: a new one replaces the one before. And [MaxBranches] CAs a
// hub, [MaxBelowAnchor] below an anchor, [MaxBelow] below any other CA, at any
// depth. So who holds one intermediate, or one anchor, cannot take the room of
// the others. A device of a CA beyond that is counted to the nearest CA above it
// that is kept, and it is told ([Event]). Branches that no device is under any
// more make room. A leaf that is replaced again and again, long before its time,
// is told of too.
package inventory

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
)

// The bounds of a trust tree and of what waits to be written.
const (
	// MaxBranches, MaxBelowAnchor and MaxBelow bound the CAs of a hub: some hundred
	// factories with some dozen lines each. A tree of that size is read in a tenth of
	// a second.
	MaxBranches    = 20_000
	MaxBelowAnchor = 10_000
	MaxBelow       = 2_000

	// maxPending bounds the identities that were seen since the last write: four
	// seconds of what two cores can let in. Of a storm that brings more, the next
	// connect tells. Each holds its chain, some 5 KiB.
	maxPending = 16_384
	// maxRecent bounds the identities of which it is known that nothing new is to be
	// written: some 17 MiB.
	maxRecent = 65_536
	// again is how old a LastSeen may grow while its device comes and goes.
	again = 10 * time.Minute
	// staying is how old it may grow while its session lasts.
	staying = time.Hour
	// every is how often it is written.
	every = time.Second
	// putOff is how often in a row, at most, that is put off in a rush, which strangers can
	// make, and for ever. Not put off is what one of them might want to hide by it: see
	// Inventory.pressing.
	putOff = 9
	// batch is how many sightings are written in one transaction: as many as one
	// statement takes, some 3 ms of work, or 10 when each is below CAs that nobody has
	// seen. Other changes wait for it, and when thousands come at once, a message goes
	// through half a dozen goroutines, each behind whatever computes.
	batch = 64
	// prunePause is between two searches for branches that may go.
	prunePause = time.Hour
	// maxEarly is how many certificates in a row may be replaced before half of their
	// time until it is told, and after how many more it is told again.
	maxEarly = 10
)

// Inventory is the keeper of the trust trees. Safe for concurrent use.
type Inventory struct {
	store Store
	now   func() time.Time
	log   *slog.Logger
	told  func(context.Context, Event)

	live    func() []*signet.Principal
	rush    func() bool
	tell    func(context.Context, signet.Clone)
	disable func(ctx context.Context, hub, name, reason string) (bool, error)

	writing  sync.Mutex // held by who writes
	mu       sync.Mutex // never held while the store is asked
	pending  map[identity]seen
	left     map[identity]time.Time
	changed  bool // a device has shown another certificate, or a write has failed
	recent   map[identity]mark
	refusals map[[2]string]int64 // by hub and branch
	turns    map[identity]*turns
	found    []signet.Clone   // since the last write
	trees    map[string]*tree // by hub; those in it are changed by who writes alone, under mu
	forgets  int              // counts the calls of Forget

	days map[string]*day // by hub; of who writes

	missed prometheus.Counter
}

type identity struct{ hub, device, module string }

// seen is a sighting as the connect leaves it.
type seen struct {
	principal *signet.Principal
	path      []*x509.Certificate
	tls       string
	remote    netip.Addr
	at        time.Time
}

// mark is what was last written of an identity.
type mark struct {
	generation           string
	sent                 uint16
	at                   time.Time
	leaf, issuer, anchor [32]byte // thumbprints
	between              [32]byte // those of the CAs between issuer and anchor, by exclusive or
}

func newMark(p *signet.Principal, at time.Time) mark {
	last := len(p.Path) - 1
	m := mark{p.GenerationID, p.Sent, at, p.Path[0].Thumbprint, p.Path[min(1, last)].Thumbprint, p.Path[last].Thumbprint, [32]byte{}}
	for _, c := range p.Path[min(2, last):last] {
		subtle.XORBytes(m.between[:], m.between[:], c.Thumbprint[:])
	}
	return m
}

// An Event tells of what a trust tree should not have to bear.
type Event struct {
	Hub  string `json:"-"`
	Kind string `json:"-"` // "overgrown" or "churning"
	// Branch is the CA: below which no more CAs are kept, or "" when it is the hub;
	// or who has signed certificates that replace each other before their time.
	Branch  string `json:"branch,omitempty"`
	Subject string `json:"subject,omitempty"` // of that CA; for "churning", of the certificate
	// DeviceID (and ModuleID) is the identity whose certificates they are.
	DeviceID string `json:"deviceId,omitempty"`
	ModuleID string `json:"moduleId,omitempty"`
	// Count is the bound that was reached, or how many certificates have been replaced.
	Count int64 `json:"count"`
}

// Options of an Inventory. The zero value works.
type Options struct {
	Now    func() time.Time
	Logger *slog.Logger
	// Live gives whose sessions live on this node; nobody's when it is nil.
	Live func() []*signet.Principal
	// Rush says whether now is no time for Run to write; it always is when it is nil.
	Rush func() bool
	// Told is called by who writes, with what a tree should not have to bear, and
	// Found with what looks like a clone.
	Told  func(context.Context, Event)
	Found func(context.Context, signet.Clone)
	// Disable disables a device, named as device or device/module, and says whether
	// it was enabled. Nobody is quarantined when it is nil.
	Disable func(ctx context.Context, hub, name, reason string) (done bool, err error)
}

// New makes an Inventory; Run writes what it is told.
func New(store Store, o Options) *Inventory {
	i := &Inventory{store: store, now: o.Now, log: o.Logger, told: o.Told, live: o.Live, rush: o.Rush, tell: o.Found, disable: o.Disable, turns: map[identity]*turns{}, days: map[string]*day{}, pending: map[identity]seen{}, left: map[identity]time.Time{},
		recent: map[identity]mark{}, trees: map[string]*tree{}, refusals: map[[2]string]int64{},
		missed: prometheus.NewCounter(prometheus.CounterOpts{Name: "signet_inventory_missed_total",
			Help: "Sightings of devices that were passed over because too many came at once."})}
	if i.now == nil {
		i.now = time.Now
	}
	if i.log == nil {
		i.log = slog.Default()
	}
	if i.told == nil {
		i.told = func(context.Context, Event) {}
	}
	if i.live == nil {
		i.live = func() []*signet.Principal { return nil }
	}
	if i.rush == nil {
		i.rush = func() bool { return false }
	}
	if i.tell == nil {
		i.tell = func(context.Context, signet.Clone) {}
	}
	if i.disable == nil {
		i.disable = func(context.Context, string, string, string) (bool, error) { return false, nil }
	}
	return i
}

// Describe and Collect make it a prometheus.Collector.
func (i *Inventory) Describe(ch chan<- *prometheus.Desc) { i.missed.Describe(ch) }

// Collect gives the metrics of now.
func (i *Inventory) Collect(ch chan<- prometheus.Metric) { i.missed.Collect(ch) }

// Saw notes that an identity has authenticated by a path, leaf first. It never
// waits, and keeps the path until it is written.
func (i *Inventory) Saw(p *signet.Principal, path []*x509.Certificate, tls string, remote netip.Addr) {
	if len(path) == 0 || len(p.Path) != len(path) {
		return
	}
	now := i.now()
	who := identity{p.Hub, p.DeviceID, p.ModuleID}
	i.mu.Lock()
	defer i.mu.Unlock()
	m, known := i.recent[who]
	if known && now.Sub(m.at) < again && m == newMark(p, m.at) {
		return
	}
	waiting, waits := i.pending[who]
	if !waits && len(i.pending) >= maxPending {
		i.missed.Inc()
		return
	}
	leaf := p.Path[0].Thumbprint
	if known && m.leaf != leaf || waits && waiting.principal.Path[0].Thumbprint != leaf {
		i.changed = true // and may change back
	}
	i.pending[who] = seen{p, path, tls, remote, now}
}

// Left notes that the session of an identity has ended. It never waits.
func (i *Inventory) Left(p *signet.Principal) {
	if len(p.Path) == 0 {
		return
	}
	now := i.now()
	who := identity{p.Hub, p.DeviceID, p.ModuleID}
	i.mu.Lock()
	defer i.mu.Unlock()
	if m, ok := i.recent[who]; ok && now.Sub(m.at) < again {
		return
	}
	if _, waits := i.left[who]; waits || len(i.left) < maxPending {
		i.left[who] = now
	}
}

// Refused notes that a chain was refused: it is counted to the nearest CA of it
// that the tree of the hub knows. It never waits.
func (i *Inventory) Refused(v *signet.Verdict) {
	if v.Hub == "" || len(v.Chain) < 2 {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	t := i.trees[v.Hub]
	if t == nil {
		i.trees[v.Hub] = nil // it is read with the next write
		return
	}
	for _, thumbprint := range v.Chain[1:] {
		if branch, known := t.byThumbprint[thumbprint]; known {
			i.refusals[[2]string{v.Hub, branch}]++
			return
		}
	}
}

// Run writes what it was told, every second, until ctx ends; then once more. In a rush it
// does every ten seconds, but for what is pressing.
func (i *Inventory) Run(ctx context.Context) {
	t, hour := time.NewTicker(every), time.NewTicker(staying)
	defer t.Stop()
	defer hour.Stop()
	for put := 0; ; {
		select {
		case <-t.C:
			if put < putOff && i.rush() && !i.pressing() {
				put++
				continue
			}
			put = 0
			i.Write(ctx)
		case <-hour.C:
			i.Stay(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			i.Write(last)
			return
		}
	}
}

// pressing says whether something waits that cannot wait for the end of a rush: because
// there would be no room for more, or because it may be a clone. Of a device that shows
// two certificates by turns, only the last is there to be written.
func (i *Inventory) pressing() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return max(len(i.pending), len(i.left)) >= maxPending/2 || i.changed || len(i.found) > 0
}

// Write writes what it was told since the last time; what cannot be written is
// tried again at the next.
func (i *Inventory) Write(ctx context.Context) {
	i.writing.Lock()
	defer i.writing.Unlock()
	i.mu.Lock()
	all := make([]seen, 0, len(i.pending))
	for _, s := range i.pending {
		all = append(all, s)
	}
	var last News
	for who, at := range i.left {
		last.Left = append(last.Left, Left{who.hub, who.device, who.module, at})
	}
	for of, n := range i.refusals {
		last.Refusals = append(last.Refusals, Refusals{of[0], of[1], n})
	}
	var unread, full []string
	for hub, t := range i.trees {
		switch {
		case t == nil:
			unread = append(unread, hub)
		case len(t.full) > 0 && i.now().Sub(t.pruned) >= prunePause:
			full = append(full, hub)
		}
	}
	found := i.found
	i.found, i.changed = nil, false
	clear(i.pending)
	clear(i.left)
	clear(i.refusals)
	i.mu.Unlock()
	// What stands together in the store is written together.
	slices.SortFunc(all, func(a, b seen) int {
		return cmp.Or(cmp.Compare(a.principal.Hub, b.principal.Hub), cmp.Compare(a.principal.DeviceID, b.principal.DeviceID), cmp.Compare(a.principal.ModuleID, b.principal.ModuleID))
	})

	for _, hub := range full {
		if err := i.prune(ctx, hub); err != nil {
			i.log.Warn("branches of a trust tree that are empty could not be removed", "hub", hub, "error", err)
		}
	}
	for _, hub := range unread {
		if _, err := i.tree(ctx, hub); err != nil {
			i.log.Warn("the trust tree of a hub could not be read", "hub", hub, "error", err)
		}
	}
	for len(all)+len(found) > 0 {
		n := min(len(all), batch)
		if err := i.write(ctx, all[:n], found); err != nil {
			i.log.Warn("how devices have authenticated could not be written; it is tried again", "devices", len(all), "error", err)
			i.putBack(all, found)
			break
		}
		all, found = all[n:], nil
	}
	if len(last.Left)+len(last.Refusals) > 0 {
		// These are let go when they fail: a time of leaving and a count.
		if err := i.store.Save(ctx, last); err != nil {
			i.log.Warn("when devices have left could not be written", "devices", len(last.Left), "error", err)
		}
	}
}

// Stay writes that whoever is connected was last seen now: a session may last for
// months.
func (i *Inventory) Stay(ctx context.Context) {
	i.writing.Lock()
	defer i.writing.Unlock()
	now := i.now()
	var here []Left
	for _, p := range i.live() {
		if len(p.Path) > 0 {
			here = append(here, Left{p.Hub, p.DeviceID, p.ModuleID, now})
		}
	}
	for some := range slices.Chunk(here, batch) {
		if err := i.store.Save(ctx, News{Left: some}); err != nil {
			i.log.Warn("who is connected could not be written", "error", err)
			return
		}
	}
}

// putBack has what could not be written wait again, behind what has come since.
func (i *Inventory) putBack(all []seen, found []signet.Clone) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.changed = true
	i.found = append(found, i.found...)[:min(len(found)+len(i.found), maxTurning)]
	for _, s := range all {
		who := identity{s.principal.Hub, s.principal.DeviceID, s.principal.ModuleID}
		if _, newer := i.pending[who]; newer {
			continue
		}
		if len(i.pending) >= maxPending {
			i.missed.Inc()
			continue
		}
		i.pending[who] = s
	}
}

// write writes some sightings in one transaction, with what was found besides.
func (i *Inventory) write(ctx context.Context, some []seen, found []signet.Clone) error {
	news := News{Sightings: make([]signet.Sighting, 0, len(some))}
	var events []Event
	touched := map[string]bool{}
	for _, s := range some {
		hub := s.principal.Hub
		t, err := i.tree(ctx, hub)
		if err != nil {
			return err
		}
		touched[hub] = true
		i.mu.Lock()
		branch, fresh, overgrown := t.place(&s)
		i.mu.Unlock()
		news.Branches = append(news.Branches, fresh...)
		if overgrown != nil {
			events = append(events, *overgrown)
		}
		news.Sightings = append(news.Sightings, newSighting(&s, branch))
	}
	var told []signet.Clone
	alike, err := i.store.Alike(ctx, news.Sightings)
	if err == nil {
		found = append(slices.Clip(found), i.compare(news.Sightings, alike)...)
		news.Clones, told, err = i.judge(ctx, found)
	}
	if err == nil {
		for n := range news.Sightings {
			if e := succeed(&news.Sightings[n], alike[n].Before); e != nil {
				events = append(events, *e)
			}
		}
		err = i.store.Save(ctx, news)
	}
	i.mu.Lock()
	if err != nil {
		for hub := range touched {
			delete(i.trees, hub) // it may hold what was not kept
		}
		i.mu.Unlock()
		return err
	}
	if len(i.recent)+len(some) > maxRecent {
		clear(i.recent) // what is written once more harms nobody
	}
	for _, s := range some {
		p := s.principal
		i.recent[identity{p.Hub, p.DeviceID, p.ModuleID}] = newMark(p, s.at)
	}
	i.mu.Unlock()
	for _, e := range events {
		i.told(ctx, e)
	}
	for _, c := range told {
		i.tell(ctx, c)
	}
	return nil
}

// succeed takes over from what was stored of an identity, and tells if its
// certificates follow each other too fast.
func succeed(w, before *signet.Sighting) *Event {
	w.Since = w.LastSeen
	switch {
	case before == nil:
		return nil
	case before.Thumbprint == w.Thumbprint:
		w.Since, w.Previous, w.Early = before.Since, before.Previous, before.Early
		return nil
	}
	w.Previous = before.Thumbprint
	if w.LastSeen.Sub(before.Since) >= before.NotAfter.Sub(before.NotBefore)/2 {
		return nil
	}
	if w.Early = before.Early + 1; w.Early%maxEarly != 0 {
		return nil
	}
	return &Event{Hub: w.Hub, Kind: "churning", Branch: w.Branch, Subject: w.Subject, DeviceID: w.DeviceID, ModuleID: w.ModuleID, Count: w.Early}
}

// Forget drops what is remembered of a hub that has gone, or was made anew.
func (i *Inventory) Forget(hub string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.forgets++
	delete(i.trees, hub)
	for who := range i.turns {
		if who.hub == hub {
			delete(i.turns, who)
		}
	}
	for who := range i.recent {
		if who.hub == hub {
			delete(i.recent, who)
		}
	}
}

func newSighting(s *seen, branch string) signet.Sighting {
	p, leaf := s.principal, s.path[0]
	w := signet.Sighting{Hub: p.Hub, DeviceID: p.DeviceID, ModuleID: p.ModuleID, GenerationID: p.GenerationID, Branch: branch,
		SeenCertificate: certificate(leaf, p.Path[0]), DER: leaf.Raw, Sent: p.Sent, TLS: s.tls, FirstSeen: s.at.UTC(), LastSeen: s.at.UTC()}
	if len(p.Path) > 1 {
		w.Issued = signet.IssuedID(p.Path[1].Key, p.Path[0].Serial)
	}
	if s.remote.IsValid() {
		w.Remote = s.remote.Unmap().String()
	}
	return w
}

// storable has a name of a stranger's certificate be what every store can hold:
// one that is refused would keep all that is written with it from being written.
func storable(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

func certificate(c *x509.Certificate, p *signet.PathCertificate) signet.SeenCertificate {
	return signet.SeenCertificate{
		Thumbprint: hex.EncodeToString(p.Thumbprint[:]), Key: hex.EncodeToString(p.Key[:]), Serial: p.Serial, Subject: storable(p.Subject),
		KeyType: keyType(c), Signature: c.SignatureAlgorithm.String(), NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(),
	}
}

func keyType(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}

// Device gives how an identity last authenticated. It refuses with
// [signet.SightingUnknown].
func (i *Inventory) Device(ctx context.Context, hub, device, module string) (signet.Sighting, error) {
	s, err := i.store.Sighting(ctx, hub, device, module)
	if errors.Is(err, signet.ErrNotFound) {
		return s, signet.Refuse(signet.SightingUnknown, "%q has not authenticated by a certificate since it was made.", signet.Clip(signet.IdentityName(device, module)))
	}
	return s, err
}

// Path gives a branch and those above it, the anchor last, with their
// certificates. It refuses with [signet.BranchUnknown].
func (i *Inventory) Path(ctx context.Context, hub, branch string) ([]signet.Branch, error) {
	path, err := i.store.Path(ctx, hub, branch)
	if errors.Is(err, signet.ErrNotFound) {
		return nil, unknown(hub, branch)
	}
	return path, err
}

func unknown(hub, reference string) error {
	return signet.Refuse(signet.BranchUnknown, "The trust tree of %q has no branch %q.", hub, signet.Clip(reference))
}
