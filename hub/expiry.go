package hub

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
)

// firstExpiry is when the first certificate of a path counts no longer. The last
// second of its validity still does (RFC 5280 §4.1.2.5).
func firstExpiry(path []*signet.PathCertificate) time.Time {
	first := path[0].NotAfter
	for _, c := range path[1:] {
		if c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first.Add(time.Second)
}

// reviewExpiry asks whether the certificates of a session have expired, if that
// ends it at its hub, and sees to it that it ends when they do. Once that is set
// it stays for the session, also when the hub's policy is loosened.
func (h *Hub) reviewExpiry(s *Session) error {
	p := s.principal
	tenant, err := h.registry.HubByName(p.Hub)
	if err != nil {
		return err
	}
	if tenant.AtExpiry != signet.EndAtExpiry || p.RenewOnly {
		return nil
	}
	end := firstExpiry(p.Path)
	if !h.now().Before(end) {
		return signet.Refuse(signet.SessionCertificateExpired, "A certificate of the session expired at %s.", end.Add(-time.Second).UTC().Format(time.RFC3339))
	}
	if s.expires.CompareAndSwap(nil, &end) {
		s.wake()
	}
	return nil
}

// maxExpiringDevices is how many devices of a cohort are named.
const maxExpiringDevices = 10

// Expiring lists what expires within a time at a hub, or has expired already,
// the soonest first: its registered CAs, and what its live sessions on this node
// rest on. A device that is away is not seen.
func (h *Hub) Expiring(ctx context.Context, hub string, within time.Duration) ([]signet.Expiring, error) {
	tenant, err := h.registry.HubByName(hub)
	if err != nil {
		return nil, err
	}
	cas, err := h.authority.List(ctx, tenant.Name)
	if err != nil {
		return nil, err
	}
	limit := h.now().Add(within)
	resting := map[[32]byte]*signet.Expiring{} // by thumbprint; nil does not expire
	type leaf struct {
		notAfter time.Time
		device   string
	}
	cohorts, leaves := map[[32]byte]*signet.Expiring{}, map[[32]byte][]leaf{}
	for _, s := range h.concerned(signet.Change{Hub: tenant.Name, Trust: true}) {
		p := s.principal
		for _, c := range p.Path[1:] {
			e, seen := resting[c.Thumbprint]
			if !seen && !c.NotAfter.After(limit) {
				e = &signet.Expiring{Kind: signet.ExpiringIntermediate, Subject: c.Subject, Thumbprint: hex.EncodeToString(c.Thumbprint[:]), NotAfter: c.NotAfter.UTC()}
			}
			resting[c.Thumbprint] = e
			if e != nil {
				e.Sessions++
			}
		}
		own := p.Path[0]
		if own.NotAfter.After(limit) {
			continue
		}
		var of [32]byte
		e := &signet.Expiring{Kind: signet.ExpiringDevices}
		if len(p.Path) > 1 {
			of, e.Subject, e.Thumbprint = p.Path[1].Thumbprint, p.Path[1].Subject, hex.EncodeToString(p.Path[1].Thumbprint[:])
		}
		if cohorts[of] == nil {
			cohorts[of] = e
		}
		leaves[of] = append(leaves[of], leaf{own.NotAfter.UTC(), signet.IdentityName(p.DeviceID, p.ModuleID)})
	}
	var all []signet.Expiring
	for _, ca := range cas {
		if ca.NotAfter.After(limit) {
			continue
		}
		sum := sha256.Sum256(ca.DER)
		e := signet.Expiring{Kind: signet.ExpiringCA, Name: ca.Name, Subject: ca.Subject, Thumbprint: hex.EncodeToString(sum[:]), NotAfter: ca.NotAfter.UTC()}
		if live := resting[sum]; live != nil {
			e.Sessions = live.Sessions
			delete(resting, sum)
		}
		all = append(all, e)
	}
	for _, e := range resting {
		if e != nil {
			all = append(all, *e)
		}
	}
	for of, e := range cohorts {
		slices.SortFunc(leaves[of], func(a, b leaf) int {
			return cmp.Or(a.notAfter.Compare(b.notAfter), cmp.Compare(a.device, b.device))
		})
		e.Sessions, e.NotAfter = len(leaves[of]), leaves[of][0].notAfter
		for _, l := range leaves[of][:min(len(leaves[of]), maxExpiringDevices)] {
			e.Devices = append(e.Devices, l.device)
		}
		all = append(all, *e)
	}
	slices.SortFunc(all, func(a, b signet.Expiring) int {
		return cmp.Or(a.NotAfter.Compare(b.NotAfter), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Thumbprint, b.Thumbprint))
	})
	return all, nil
}

// ExpiryWarnings say where it is warned of what expires.
type ExpiryWarnings struct {
	Logger     *slog.Logger          // a line a day for each thing and time; none when nil
	Events     bool                  // and a message in the hub's log
	Registerer prometheus.Registerer // how much expires when, as a gauge; none when nil
}

// An ExpiryWatch warns of what expires, as far as it is told to. What it has told
// it knows until the process ends. Look is not safe for concurrent use.
type ExpiryWatch struct {
	hub      *Hub
	warnings ExpiryWarnings
	gauge    *prometheus.GaugeVec
	told     map[warning]time.Time
	seen     map[string]bool // hubs with a gauge
}

// A warning is told once a day.
type warning struct {
	hub        string
	kind       signet.ExpiringKind
	thumbprint string
	within     time.Duration
}

const (
	// expiryPause is between two looks, and before the first: sessions come back
	// after a start.
	expiryPause = 10 * time.Minute
	// expiryRepeat is how often the same is told.
	expiryRepeat = 24 * time.Hour
	// maxExpiryWarnings bounds what a hub is warned of in a day, for each of the
	// times: a fleet of a thousand lines would fill its own log. Those that end
	// first are told.
	maxExpiryWarnings = 100
)

// NewExpiryWatch makes a watch over all hubs.
func NewExpiryWatch(h *Hub, w ExpiryWarnings) *ExpiryWatch {
	watch := &ExpiryWatch{hub: h, warnings: w, told: map[warning]time.Time{}, seen: map[string]bool{}}
	if w.Registerer != nil {
		watch.gauge = prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "signet_expiring", Help: "Registered CAs, intermediates and certificates of live devices that expire within a time, or have.",
		}, []string{"hub", "kind", "within"})
		w.Registerer.MustRegister(watch.gauge)
	}
	return watch
}

// Run looks now and then until ctx ends.
func (w *ExpiryWatch) Run(ctx context.Context) {
	tick := time.NewTicker(expiryPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.Look(ctx)
		}
	}
}

// Look looks once at every hub, and at every provisioning service, whose CAs end
// too, and warns.
func (w *ExpiryWatch) Look(ctx context.Context) {
	now := w.hub.now()
	maps.DeleteFunc(w.told, func(_ warning, at time.Time) bool { return now.Sub(at) >= expiryRepeat })
	there := map[string]bool{}
	for _, tenant := range slices.Concat(w.hub.registry.Hubs(), w.hub.registry.Services()) {
		there[tenant.Name] = true
		if err := w.look(ctx, tenant.Name, now); err != nil && ctx.Err() == nil && w.warnings.Logger != nil {
			w.warnings.Logger.Error("what expires cannot be told", "hub", tenant.Name, "error", err)
		}
	}
	for name := range w.seen {
		if !there[name] {
			w.gauge.DeletePartialMatch(prometheus.Labels{"hub": name})
			delete(w.seen, name)
		}
	}
}

func (w *ExpiryWatch) look(ctx context.Context, hub string, now time.Time) error {
	closer := map[warning]bool{} // told of a shorter time
	lately := map[time.Duration]int{}
	for about := range w.told {
		if about.hub == hub {
			lately[about.within]++
		}
	}
	for _, within := range signet.ExpiryWarnings {
		expiring, err := w.hub.Expiring(ctx, hub, within)
		if err != nil {
			return err
		}
		count := map[signet.ExpiringKind]int{}
		for _, e := range expiring {
			if e.Kind == signet.ExpiringDevices {
				count[e.Kind] += e.Sessions
			} else {
				count[e.Kind]++
			}
			about := warning{hub: hub, kind: e.Kind, thumbprint: e.Thumbprint}
			if closer[about] {
				continue
			}
			closer[about] = true
			about.within = within
			if _, known := w.told[about]; !known && lately[within] < maxExpiryWarnings {
				lately[within]++
				w.told[about] = now
				w.warn(ctx, hub, e, within)
			}
		}
		if w.gauge != nil {
			w.seen[hub] = true
			for _, kind := range [...]signet.ExpiringKind{signet.ExpiringCA, signet.ExpiringIntermediate, signet.ExpiringDevices} {
				w.gauge.WithLabelValues(hub, string(kind), days(within)).Set(float64(count[kind]))
			}
		}
	}
	return nil
}

func days(d time.Duration) string { return fmt.Sprintf("%dd", d/(24*time.Hour)) }

// warn tells of one thing.
func (w *ExpiryWatch) warn(ctx context.Context, hub string, e signet.Expiring, within time.Duration) {
	if log := w.warnings.Logger; log != nil {
		log.Warn("certificates expire", "hub", hub, "kind", e.Kind, "name", e.Name, "subject", e.Subject, "thumbprint", e.Thumbprint,
			"notAfter", e.NotAfter, "within", days(within), "sessions", e.Sessions)
	}
	if !w.warnings.Events {
		return
	}
	w.hub.Event(ctx, hub, Event{Source: signet.SourceExpiry, Operation: "expiring", Schema: "certificateExpiryNotification", Body: e,
		Properties: []signet.Property{{Name: "within", Value: days(within)}}}, func(err error) {
		if err != nil && ctx.Err() == nil && w.warnings.Logger != nil {
			w.warnings.Logger.Error("an event of what expires is not stored", "hub", hub, "error", err)
		}
	})
}
