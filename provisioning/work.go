package provisioning

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

const (
	// workers is how many registrations are worked on at a time: enough that their
	// writes share the fsyncs, and that those which wait for others leave some.
	workers = 40
	// workTime bounds one go at a registration.
	workTime = 45 * time.Second
	// bequestTime bounds how long it is tried to put on record what a go has done.
	bequestTime = 10 * time.Second
	// patience is how long a registration is tried again, when what it needs does
	// not answer. A device hears of its end, and may begin anew.
	patience = 2 * time.Minute
	// firstRest and longestRest lie between two goes.
	firstRest   = 250 * time.Millisecond
	longestRest = 10 * time.Second
	// maxAtOnce bounds the work that waits for one hub elsewhere, or for webhooks of
	// one host; maxOutside that which waits for any, so that a few workers are left for
	// devices that need nobody outside.
	maxAtOnce  = 8
	maxOutside = workers - 8
	// maxRereads is how often, in one go, an identity is read again that has changed
	// while its device moved away from it.
	maxRereads = 3
	// maxTold bounds, in bytes, what is told of a refusal by a hub elsewhere, whose
	// words they are: it goes on record, and to the device.
	maxTold = 512
)

// errSuperseded: the registration is not any more what was read of it.
var errSuperseded = errors.New("superseded")

// errBusy: as many wait for the same place outside as may.
var errBusy = errors.New("busy")

// Run works on what devices have asked for, and first on what was left unfinished,
// until ctx ends.
func (p *Provisioning) Run(ctx context.Context) {
	defer context.AfterFunc(ctx, p.desk.stopped)()
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for {
				t, ok := p.desk.take(ctx)
				if !ok {
					return
				}
				p.desk.done(t, p.work(ctx, t))
			}
		})
	}
	p.resume(ctx)
	all.Wait()
}

// resume hands in what an earlier process has left.
func (p *Provisioning) resume(ctx context.Context) {
	for rest := firstRest; ; rest = min(2*rest, longestRest) {
		// As many as there are: of those that came at the same moment, more than
		// maxUnfinished may have been taken on.
		unfinished, err := p.deps.Registrations.Unfinished(ctx, MaxRegistrations)
		if err == nil {
			for _, r := range unfinished {
				p.desk.submit(task{r.Service, signet.FoldRegistrationID(r.RegistrationID)})
			}
			if len(unfinished) > 0 {
				p.log.Info("registrations that were under way are gone on with", "count", len(unfinished))
			}
			return
		}
		p.log.Error("unfinished registrations cannot be read", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
	}
}

// work goes at one registration, and says after which rest to go at it again; 0
// when it is done.
func (p *Provisioning) work(running context.Context, t task) (rest time.Duration) {
	ctx, cancel := context.WithTimeout(signet.WithActor(running, signet.Actor{Name: "provisioning"}), workTime)
	defer cancel()
	for {
		r, w, err := p.deps.Registrations.Registration(ctx, t.service, t.id)
		switch {
		case errors.Is(err, signet.ErrNotFound), err == nil && w == nil:
			return 0
		case err != nil:
			return longestRest
		}
		was := r
		err = p.placed(ctx, &r, w)
		waited := p.deps.Now().Sub(w.Begun)
		switch {
		case errors.Is(err, errSuperseded):
			continue
		case errors.Is(err, errBusy) && waited < patience:
			rest = min(max(waited/2, firstRest), longestRest) // each go judges the device anew
		case err != nil && running.Err() != nil:
			rest = longestRest // what a stop has broken off says nothing: the next start goes on
		case transient(err) && waited < patience:
			rest = min(max(waited, firstRest), longestRest)
		case err != nil:
			p.fail(&r, err)
		}
		if rest > 0 && samePlaces(&r, &was) {
			return rest
		}
		if rest == 0 {
			w = nil
		}
		switch err := p.save(context.WithoutCancel(ctx), &r, w); {
		case errors.Is(err, errSuperseded):
			if err := p.bequeath(ctx, &r, &was); err != nil {
				p.log.Error("where a device is cannot be stored", "service", r.Service, "registration", r.RegistrationID, "hub", r.Hub, "error", err)
			}
			rest = 0
			continue
		case err != nil:
			p.log.Error("the end of a registration cannot be stored", "service", r.Service, "registration", r.RegistrationID, "error", err)
			return longestRest // what was done is done again, to the same end
		}
		if rest == 0 {
			p.ended.WithLabelValues(string(r.Status)).Inc()
		}
		return rest
	}
}

// samePlaces says whether the device is where it was.
func samePlaces(r, was *signet.Registration) bool {
	return r.Hub == was.Hub && r.DeviceID == was.DeviceID && slices.Equal(r.Left, was.Left)
}

// bequeath puts on record where a device is by now, when another request has taken
// the place of the one that brought it there: that begins from here, and so neither
// leaves an identity behind nor forgets that it is disabled.
func (p *Provisioning) bequeath(ctx context.Context, r, was *signet.Registration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bequestTime)
	defer cancel()
	for !samePlaces(r, was) {
		next, w, err := p.deps.Registrations.Registration(ctx, r.Service, r.RegistrationID)
		if errors.Is(err, signet.ErrNotFound) {
			return nil // the record is deleted, and the identity stays
		}
		if err == nil {
			next.Hub, next.FirstHub, next.DeviceID, next.Substatus, next.Left = r.Hub, r.FirstHub, r.DeviceID, r.Substatus, r.Left
			err = p.save(ctx, &next, w)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return err
		case !errors.Is(err, errSuperseded):
			pause(ctx, firstRest) // a fault of the machine
		}
	}
	return nil
}

// transient says whether a failure is one of a machine, which may recover.
func transient(err error) bool {
	if err == nil {
		return false
	}
	code := signet.CodeOf(err)
	return code == signet.Unavailable || code == signet.Internal
}

// placed is place, surviving its panics.
func (p *Provisioning) placed(ctx context.Context, r *signet.Registration, w *Work) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			p.log.Error("a registration has failed", "service", r.Service, "registration", r.RegistrationID, "panic", fault, "stack", string(debug.Stack()))
			err = signet.Fail(fmt.Errorf("panic: %v", fault))
		}
	}()
	return p.place(ctx, r, w)
}

// place gives a device its place: the enrollment is asked once more, a hub is
// chosen, a certificate issued if one was asked for, the identity written there,
// and then removed where it was before. Whatever of it was done already may be
// done again.
func (p *Provisioning) place(ctx context.Context, r *signet.Registration, w *Work) error {
	a, links, device, err := p.choose(ctx, r, w)
	if err != nil {
		return err
	}
	e, hub := &a.enrollment, linked(links, w.Placement.Hub)
	i := signet.Identity{DeviceID: device, EdgeDevice: e.EdgeDevice}
	if i.Auth, err = a.authentication(r.RegistrationID); err != nil {
		return err
	}
	var issued [][]byte
	if len(w.CSR) > 0 {
		if issued, err = p.issue(ctx, r, w, e, hub, device); err != nil {
			return err
		}
		i.Auth = signet.Authentication{Type: signet.AuthCA}
	} else if i.Auth.Type == signet.AuthCA {
		// The hub holds the CN to the device ID, byte for byte.
		if err := pki.CheckCommonName(a.chain[0], device); err != nil {
			return err
		}
	}
	if err := p.move(ctx, r, links, hub, i, &w.Placement.InitialTwin, e.Reprovision.MigrateData); err != nil {
		return err
	}
	r.Status, r.Issued = signet.Assigned, issued
	if w.Placement.Payload != nil {
		r.Payload = w.Placement.Payload
	}
	return nil
}

// choose asks the enrollment once more, and sees to it that there is a placement: a
// hub that is linked and that the enrollment may give, as both are now. Hence one
// that was chosen before they changed is chosen anew.
func (p *Provisioning) choose(ctx context.Context, r *signet.Registration, w *Work) (a admission, links []signet.LinkedHub, device string, err error) {
	for {
		if a, err = p.readmit(ctx, r, w); err != nil {
			return a, nil, "", err
		}
		a.apply(r)
		e := &a.enrollment
		if links, err = p.Links(ctx, r.Service); err != nil {
			return a, nil, "", err
		}
		if device = e.DeviceID; device == "" {
			device = a.name(r)
		}
		candidates := eligible(links, e)
		if old := linked(links, r.Hub); old != nil && !e.Reprovision.UpdateHub {
			candidates, device = []signet.LinkedHub{*old}, r.DeviceID // it stays
		}
		if w.Placement != nil && linked(candidates, w.Placement.Hub) != nil {
			return a, links, device, nil
		}
		placement, err := p.allocate(ctx, &a, r, w, candidates)
		if err != nil {
			return a, nil, "", err
		}
		w.Placement = &placement
		if len(candidates) > 1 || e.Allocation == signet.AllocateCustom {
			// On disk before anything is written there: to go on with it is not to
			// choose again, and leave an identity behind where it was chosen first.
			if err := p.save(ctx, r, w); err != nil {
				return a, nil, "", err
			}
		}
		if e.Allocation != signet.AllocateCustom && e.Allocation != signet.AllocateGeoLatency {
			return a, links, device, nil
		}
		// Who was asked has taken its time: what was shut out meanwhile stays out.
	}
}

// move writes the identity at its hub, and removes it where the device was. Of a
// registration it says at each step where the device is.
//
// A device that was disabled where it was is no other one elsewhere, also when it is
// disabled while it moves: hence it is removed as it was read, or read again.
func (p *Provisioning) move(ctx context.Context, r *signet.Registration, links []signet.LinkedHub, hub *signet.LinkedHub, i signet.Identity, initial *signet.InitialTwin, migrates bool) error {
	from, to := signet.Place{Hub: r.Hub, DeviceID: r.DeviceID}, signet.Place{Hub: hub.HostName, DeviceID: i.DeviceID}
	first, old := r.Hub == "", linked(links, r.Hub)
	moved := !first && from != to
	migrates = migrates && moved && old != nil
	before := slices.Clone(r.Left)
	if !first {
		before = append(before, from)
	}
	for reread := 0; ; reread++ {
		var there *signet.Twin // where it was; nil when it is gone, or was carried along before
		etags := map[signet.Place]string{}
		for _, at := range before {
			was, twin, err := p.identity(ctx, linked(links, at.Hub), at.DeviceID)
			if err != nil {
				return err
			}
			if was == nil {
				continue
			}
			if at == from {
				there = twin
			}
			if at == from && i.Status != signet.Disabled || was.Status == signet.Disabled {
				i.Status, i.StatusReason = was.Status, was.StatusReason
			}
			if at != to {
				etags[at] = was.ETag
			}
		}
		var twin *signet.Twin
		switch anew := first || !moved && there == nil; { // also when its identity was deleted
		case migrates:
			twin = there
		case moved, anew && len(initial.Tags)+len(initial.Desired) > 0:
			twin = &signet.Twin{Tags: initial.Tags, Desired: signet.Properties{Values: initial.Desired}}
		}
		if err := p.at(hub, func() error { return p.deps.Hubs.Put(ctx, *hub, i, twin) }); err != nil {
			return err
		}
		switch {
		case first:
			r.FirstHub, r.Substatus = hub.HostName, "initialAssignment"
		case moved && hub.HostName == r.FirstHub:
			r.Substatus = "reprovisionedToInitialAssignment"
		case migrates:
			r.Substatus = "deviceDataMigrated"
		case moved:
			r.Substatus = "deviceDataReset"
		}
		r.Hub, r.DeviceID, r.Left = to.Hub, to.DeviceID, nil
		for _, at := range before {
			if _, is := etags[at]; is {
				r.Left = append(r.Left, at)
			}
		}
		changed := false
		for _, at := range slices.Clone(r.Left) {
			stale, err := p.remove(ctx, linked(links, at.Hub), at.DeviceID, etags[at])
			if err != nil {
				return err
			}
			if changed = changed || stale; !stale {
				r.Left = slices.DeleteFunc(r.Left, func(left signet.Place) bool { return left == at })
			}
		}
		switch {
		case !changed:
			return nil
		case reread == maxRereads:
			return signet.Refuse(signet.Unavailable, "The identity of %q changes all the time where the device was.", r.DeviceID)
		}
	}
}

// identity reads one at a hub, nil when there is none, or no such hub any more.
func (p *Provisioning) identity(ctx context.Context, hub *signet.LinkedHub, device string) (i *signet.Identity, twin *signet.Twin, err error) {
	if hub == nil {
		return nil, nil, nil
	}
	err = p.at(hub, func() error {
		is, t, err := p.deps.Hubs.Identity(ctx, *hub, device)
		if signet.CodeOf(err) == signet.IdentityUnknown {
			return nil
		}
		i, twin = &is, &t
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return i, twin, nil
}

// remove removes an identity at a hub, unless it has changed since it was read.
func (p *Provisioning) remove(ctx context.Context, hub *signet.LinkedHub, device, etag string) (stale bool, err error) {
	err = p.at(hub, func() error {
		err := p.deps.Hubs.Delete(ctx, *hub, device, etag)
		if stale = signet.CodeOf(err) == signet.ETagStale; stale {
			return nil
		}
		return err
	})
	return stale, err
}

// readmit asks the enrollment once more: what has been disabled, distrusted or
// removed since the device asked gives it no place.
func (p *Provisioning) readmit(ctx context.Context, r *signet.Registration, w *Work) (admission, error) {
	if len(w.Chain) > 0 {
		chain := make([]*x509.Certificate, len(w.Chain))
		for n, der := range w.Chain {
			var err error
			if chain[n], err = x509.ParseCertificate(der); err != nil {
				return admission{}, err
			}
		}
		return p.admitByChain(ctx, r.Service, r.RegistrationID, chain)
	}
	// The token was good; what it was signed with may have gone.
	e, err := p.deps.Enrollments.Enrollment(ctx, r.Service, false, r.RegistrationID)
	if errors.Is(err, signet.ErrNotFound) && r.Group != "" {
		e, err = p.deps.Enrollments.Enrollment(ctx, r.Service, true, r.Group)
	}
	switch {
	case errors.Is(err, signet.ErrNotFound):
		return admission{}, signet.Refuse(signet.EnrollmentNone, "The enrollment by which %q was let in is there no more.", r.RegistrationID)
	case err != nil:
		return admission{}, err
	case e.Status != signet.Enabled:
		return admission{}, disabled(&e)
	case e.Attestation.Type != signet.AttestSymmetricKey, e.Group != (r.Group != ""):
		return admission{}, mismatch(&e, "a SAS token")
	}
	return admission{enrollment: e}, nil
}

// name is what a device is called at its hub when its enrollment does not say so: as
// it was called before, else as whoever vouches for it writes the name. Hubs tell
// IDs by their case, so a device that had the choice could take another's identity.
// The key of a group vouches for no case.
func (a *admission) name(r *signet.Registration) string {
	name := r.RegistrationID
	switch {
	case !a.enrollment.Group:
		name = a.enrollment.ID
	case len(a.chain) > 0:
		name, _ = pki.CommonName(a.chain[0]) // there is one, or it were not let in
	}
	if signet.FoldRegistrationID(r.DeviceID) == signet.FoldRegistrationID(name) {
		return r.DeviceID
	}
	return name
}

// authentication is how the identity of the device will prove itself at its hub.
func (a *admission) authentication(id string) (signet.Authentication, error) {
	e := &a.enrollment
	switch {
	case len(a.chain) == 0 && e.Group:
		primary, secondary := derived(&e.Attestation, id)
		return signet.Authentication{Type: signet.AuthSAS, PrimaryKey: primary, SecondaryKey: secondary}, nil
	case len(a.chain) == 0:
		return signet.Authentication{Type: signet.AuthSAS, PrimaryKey: e.Attestation.PrimaryKey, SecondaryKey: e.Attestation.SecondaryKey}, nil
	case e.HubAuth == signet.AuthCA:
		return signet.Authentication{Type: signet.AuthCA}, nil
	}
	// The presented certificate twice, as Azure does, unless there is another that
	// the device may come with.
	presented := strings.ToUpper(pki.ThumbprintSHA256(a.chain[0].Raw))
	auth := signet.Authentication{Type: signet.AuthSelfSigned, PrimaryThumbprint: presented, SecondaryThumbprint: presented}
	if !e.Group {
		for _, der := range certificates(&e.Attestation) {
			if other := strings.ToUpper(pki.ThumbprintSHA256(der)); other != presented {
				auth.SecondaryThumbprint = other
			}
		}
	}
	return auth, nil
}

// issue has a certificate issued. It is on record before it is here.
func (p *Provisioning) issue(ctx context.Context, r *signet.Registration, w *Work, e *signet.Enrollment, hub *signet.LinkedHub, device string) ([][]byte, error) {
	if p.deps.Issuer == nil || e.IssuancePolicy == "" {
		return nil, signet.Refuse(signet.EnrollmentNoPolicy, "The %s %q names no issuance policy any more.", kind(e.Group), e.ID)
	}
	chain, err := p.deps.Issuer.Issue(ctx, signet.CertificateOrder{Service: r.Service, Policy: e.IssuancePolicy, HostName: hub.HostName,
		DeviceID: device, RegistrationID: r.RegistrationID, CSR: w.CSR, Operation: r.OperationID})
	if err != nil {
		return nil, err
	}
	issued := make([][]byte, len(chain))
	for n, c := range chain {
		issued[n] = c.Raw
	}
	return issued, nil
}

// at does something at a hub. Of those elsewhere, each is asked a few things at a
// time; what it refuses is told as the hub's refusal, in few words, and why it does
// not answer is for the log alone: that may tell of our network.
func (p *Provisioning) at(hub *signet.LinkedHub, f func() error) error {
	if hub.ConnectionString != "" {
		if !p.outside.enter(hub.HostName) {
			return errBusy
		}
		defer p.outside.leave(hub.HostName)
	}
	err := f()
	switch {
	case err == nil, transient(err) && hub.ConnectionString == "":
		return err
	case transient(err):
		e := signet.Refuse(signet.Unavailable, "The hub %q does not answer as it should.", hub.HostName)
		e.Cause = err
		return e
	}
	refusal := signet.AsError(err)
	return signet.Refuse(signet.AllocationHub, "The hub %q refuses the identity: %s", hub.HostName, told(refusal.Message)).FixBy("%s", told(refusal.Fix))
}

// told is as much of a text as may be told of.
func told(text string) string {
	if len(text) <= maxTold {
		return text
	}
	return strings.ToValidUTF8(text[:maxTold], "") + "…"
}

// save writes a registration as it is now, and what is still to be done for it.
func (p *Provisioning) save(ctx context.Context, r *signet.Registration, w *Work) error {
	next := *r
	next.ETag, next.Updated = signet.NewETag(), p.stamp()
	err := p.deps.Registrations.ReplaceRegistration(ctx, next, w, r.ETag)
	if errors.Is(err, signet.ErrStale) || errors.Is(err, signet.ErrNotFound) {
		return errSuperseded
	}
	if err == nil {
		*r = next
	}
	return err
}

// fail ends a registration with a refusal, which is recorded.
func (p *Provisioning) fail(r *signet.Registration, why error) {
	e := signet.AsError(why)
	if errors.Is(why, errBusy) {
		e = signet.Refuse(signet.Unavailable, "Too many registrations wait for the same hub or webhook.")
	}
	if e.Code == signet.Internal || e.Code == signet.Unavailable && e.Cause != nil {
		p.log.Error("a registration has failed", "service", r.Service, "registration", r.RegistrationID, "error", why, "cause", e.Cause)
	}
	r.Status = signet.RegFailed
	if e.Code == signet.EnrollmentDisabled {
		r.Status = signet.RegDisabled
	}
	r.ErrorCode, r.ErrorMessage = e.Code, e.Message
	v := signet.Verdict{Error: *e, Door: signet.DoorProvisioning, Hub: r.Service, DeviceID: r.RegistrationID}
	if len(r.Leaf) > 0 {
		v.Chain = []string{pki.ThumbprintSHA256(r.Leaf)}
	}
	r.TrackingID = p.deps.Verdicts.Record(v)
}

// linked finds a hub by its host name.
func linked(links []signet.LinkedHub, host string) *signet.LinkedHub {
	n := slices.IndexFunc(links, func(l signet.LinkedHub) bool { return host != "" && l.HostName == host })
	if n < 0 {
		return nil
	}
	return &links[n]
}

// turnstile counts who is at each place outside.
type turnstile struct {
	mu   sync.Mutex
	here map[string]int
	all  int
}

func (t *turnstile) enter(place string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.here[place] >= maxAtOnce || t.all >= maxOutside {
		return false
	}
	t.here[place]++
	t.all++
	return true
}

func (t *turnstile) leave(place string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.here[place]--; t.here[place] == 0 {
		delete(t.here, place)
	}
}
