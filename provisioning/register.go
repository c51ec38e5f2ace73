package provisioning

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/signet-iot/signet"
)

const (
	// maxUnfinished bounds the registrations that are being worked on: ten times
	// what Azure's service takes in a minute, half a minute's work of ours. More are
	// refused before anything of them is written.
	maxUnfinished = 10_000

	// leastPause lies between two registrations of one device: it comes back when
	// something has changed, and each costs four writes and maybe a call to a
	// webhook of the operator's.
	leastPause = time.Second
	// longestPause is how long a device that is early waits for that, before it is
	// told that it is: over HTTPS the SDK for Node takes 429 for the end.
	longestPause = 3 * time.Second

	// mostRetry is the longest that a device is told to wait.
	mostRetry = 30 * time.Second
	// aSecond is how many registrations are counted on in a second, when a device is
	// told how long to wait. It is what two cores do, with the handshakes
	// (BenchmarkRush); who comes back too early is told to wait again.
	aSecond = 400
)

// An Operation is one request of a device for its place.
type Operation struct {
	ID string
	// Registration is the record as it is now. The chain in it was issued in this
	// operation.
	Registration signet.Registration
	// RetryAfter is how long to wait before asking again, while it is being assigned.
	RetryAfter time.Duration
}

// Register begins an operation, and gives it when it is on disk: it will be worked
// on, whatever becomes of this process. A request that is under way already is
// not begun again.
//
// It refuses with [signet.RequestMalformed], [signet.AttestationUnsupported],
// [signet.EnrollmentNoPolicy], [signet.LimitRegistrations], also when the service
// holds as many as it may, and
// [signet.HubUnknown]; refusals are recorded.
func (a *Applicant) Register(ctx context.Context, q Request) (Operation, error) {
	o, err := a.register(ctx, q)
	if err != nil {
		return o, a.p.refused(a.credentials, err)
	}
	return o, nil
}

func (a *Applicant) register(ctx context.Context, q Request) (Operation, error) {
	p := a.p
	switch {
	case q.RegistrationID != "" && signet.FoldRegistrationID(q.RegistrationID) != signet.FoldRegistrationID(a.id):
		return Operation{}, signet.Refuse(signet.RequestMalformed, "The body registers %q.", signet.Clip(q.RegistrationID)).
			At("registrationId", a.id, q.RegistrationID).FixBy("Use the same registration ID in the body, or leave it out.")
	case q.TPM:
		return Operation{}, signet.Refuse(signet.AttestationUnsupported, "The device %q asks for attestation by a TPM.", a.id)
	case len(q.CSR) > 0 && (a.enrollment.IssuancePolicy == "" || p.deps.Issuer == nil):
		return Operation{}, signet.Refuse(signet.EnrollmentNoPolicy, "The device %q sent a certificate signing request, and the %s %q names no issuance policy.",
			a.id, kind(a.enrollment.Group), a.enrollment.ID)
	}
	for waited := time.Duration(0); ; {
		was, doing, err := p.deps.Registrations.Registration(ctx, a.service.Name, a.id)
		known := err == nil
		if err != nil && !errors.Is(err, signet.ErrNotFound) {
			return Operation{}, err
		}
		if doing != nil && a.same(&was, doing, &q) {
			p.desk.submit(task{was.Service, signet.FoldRegistrationID(was.RegistrationID)}) // unless it is known there
			return p.operation(was, was.OperationID), nil
		}
		now := p.stamp()
		if early := leastPause - now.Sub(was.Updated); known && early > 0 && early <= leastPause {
			if waited += early; waited > longestPause || !pause(ctx, early) {
				return Operation{}, signet.Refuse(signet.LimitRegistrations, "The device %q registered less than %v ago.", a.id, leastPause)
			}
			continue
		}
		if p.desk.load() >= maxUnfinished {
			return Operation{}, signet.Refuse(signet.LimitRegistrations, "%d registrations are being worked on.", maxUnfinished)
		}
		r := was
		if !known {
			if full, err := p.full(ctx, a.service.Name); err != nil {
				return Operation{}, err
			} else if full {
				return Operation{}, signet.Refuse(signet.LimitRegistrations, "The provisioning service has %d registrations, as many as it may.", p.deps.MaxRegistrations).
					FixBy("Delete the records of devices that are no more: signet registration delete ID")
			}
			r = signet.Registration{Service: a.service.Name, RegistrationID: a.id, Created: now}
		}
		r.OperationID, r.Status, r.ETag, r.Updated = newOperationID(), signet.Assigning, signet.NewETag(), now
		r.ErrorCode, r.ErrorMessage, r.TrackingID, r.Issued = "", "", "", nil
		a.apply(&r)
		w := &Work{Begun: now, Payload: q.Payload, CSR: q.CSR}
		for _, c := range a.chain {
			w.Chain = append(w.Chain, c.Raw)
		}
		if known {
			err = p.deps.Registrations.ReplaceRegistration(ctx, r, w, was.ETag)
		} else {
			if err = p.deps.Registrations.CreateRegistration(ctx, r, w); err == nil {
				p.tally.add(r.Service, 1)
			}
		}
		switch {
		case errors.Is(err, signet.ErrExists), errors.Is(err, signet.ErrStale), errors.Is(err, signet.ErrNotFound) && known:
			if ctx.Err() != nil {
				return Operation{}, ctx.Err()
			}
			continue // someone was faster
		case errors.Is(err, signet.ErrNotFound):
			return Operation{}, signet.Refuse(signet.HubUnknown, "There is no provisioning service %q any more.", a.service.Name)
		}
		// A write that failed for a reason of the machine may have been kept all the
		// same: then too, it is looked after.
		p.desk.submit(task{r.Service, signet.FoldRegistrationID(r.RegistrationID)})
		return p.operation(r, r.OperationID), err
	}
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// apply says in a record by what the device is let in.
func (a *admission) apply(r *signet.Registration) {
	r.Group, r.Attestation, r.Leaf, r.Signer = a.group(), a.enrollment.Attestation.Type, a.leaf(), nil
	if a.signer != nil {
		r.Signer = a.signer.Raw
	}
}

// same says whether a request is the one that is under way.
func (a *Applicant) same(r *signet.Registration, w *Work, q *Request) bool {
	return signet.FoldRegistrationID(r.Group) == signet.FoldRegistrationID(a.group()) && bytes.Equal(r.Leaf, a.leaf()) &&
		bytes.Equal(w.Payload, q.Payload) && bytes.Equal(w.CSR, q.CSR)
}

// Operation tells how far an operation has come. One that a later request has
// taken the place of is told of as that, to who has the same certificate. It
// refuses with [signet.RegistrationUnknown] and [signet.OperationUnknown].
func (a *Applicant) Operation(ctx context.Context, id string) (Operation, error) {
	r, _, err := a.p.registration(ctx, a.service.Name, a.id)
	if err == nil && r.OperationID != id && !bytes.Equal(r.Leaf, a.leaf()) {
		err = signet.Refuse(signet.OperationUnknown, "The device %q has registered anew since the operation %q, with another certificate.", a.id, signet.Clip(id))
	}
	if err != nil {
		return Operation{}, a.p.refused(a.credentials, err)
	}
	return a.p.operation(r, id), nil
}

// Lookup gives the record of the device, without a chain that was issued. It
// refuses with [signet.RegistrationUnknown].
func (a *Applicant) Lookup(ctx context.Context) (signet.Registration, error) {
	r, err := a.p.Registration(ctx, a.service.Name, a.id)
	if err != nil {
		return r, a.p.refused(a.credentials, err)
	}
	r.Issued = nil
	return r, nil
}

func (p *Provisioning) operation(r signet.Registration, id string) Operation {
	if r.OperationID != id {
		r.Issued = nil
	}
	o := Operation{ID: id, Registration: r}
	if r.Status == signet.Assigning {
		o.RetryAfter = min(time.Second*time.Duration(1+p.desk.load()/aSecond), mostRetry)
	}
	return o
}

// newOperationID looks as Azure's do.
func newOperationID() string {
	var b [24]byte
	rand.Read(b[:])
	return fmt.Sprintf("5.%x.%x-%x-%x-%x-%x", b[:8], b[8:12], b[12:14], b[14:16], b[16:18], b[18:])
}
