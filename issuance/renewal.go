package issuance

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/signet-iot/signet"
)

// A renewal is one that a device waits for.
type renewal struct {
	requestID, csr string // csr is its hash
	users          int    // the same request, sent again, is the same renewal
}

// renewals marks the operation of a renewal, before the device's request ID.
const renewals = "renew:"

// held finds the record of the certificate that a session rests on, with the policy
// that it was issued under.
func (k *Issuance) held(ctx context.Context, hub, device string, certificate [32]byte) (signet.Issued, Policy, error) {
	i, err := k.store.IssuedAt(ctx, hub, hex.EncodeToString(certificate[:]))
	notHere := errors.Is(err, signet.ErrNotFound)
	if err != nil && !notHere {
		return i, Policy{}, err
	}
	tenant, err := k.hubs.HubByName(hub)
	if err != nil {
		return i, Policy{}, err
	}
	// What was issued for an earlier hub of the name is nothing of this one's.
	if notHere || i.DeviceID != device || i.Time.Before(tenant.Created) {
		return i, Policy{}, signet.Refuse(signet.IssuanceNotHere, "The session of %q does not rest on a certificate that was issued here for it.", signet.Clip(device))
	}
	p, err := k.policy(i.Service, i.Policy)
	if err != nil {
		return i, p, signet.Refuse(signet.IssuanceNotHere, "The policy %q, by which the certificate of %q was issued, is not there any more.", i.Policy, signet.Clip(device))
	}
	return i, p, nil
}

// Lane says until when a certificate that has expired may still be renewed by its
// device. It refuses with [signet.IssuanceNotHere], and with [signet.CertExpired]
// where that is never, or over.
func (k *Issuance) Lane(ctx context.Context, hub, device string, certificate [32]byte) (until time.Time, err error) {
	i, p, err := k.held(ctx, hub, device, certificate)
	if err != nil {
		return until, err
	}
	return i.NotAfter.Add(p.RenewExpired), k.inTime(i, p)
}

// inTime refuses to renew what has expired, unless the policy says otherwise.
func (k *Issuance) inTime(i signet.Issued, p Policy) error {
	now := k.now()
	if !now.After(i.NotAfter.Add(p.RenewExpired)) {
		return nil
	}
	grace := "and is not renewed then"
	if p.RenewExpired > 0 {
		grace = fmt.Sprintf("and is renewed for %v after that, which are over", p.RenewExpired)
	}
	return signet.Refuse(signet.CertExpired, "The certificate of %q expired at %s, %s.", signet.Clip(i.DeviceID), i.NotAfter.Format(time.RFC3339), grace).
		At("notAfter", "not before "+now.UTC().Format(time.RFC3339), i.NotAfter.Format(time.RFC3339)).
		FixBy("Register with the provisioning service again, by the device's onboarding credential.")
}

// Renew issues a connected device another certificate, by the policy of the one
// that its session rests on. accepted is called once, when nothing but the CSR
// itself can still be refused. It refuses with [signet.IssuanceNotHere],
// [signet.CertExpired], [signet.IssuancePending] and
// [signet.IssuanceNothingPending] before, and as [Issuance.Issue] does after.
//
// The same request ID with the same CSR gives the same certificate for
// [signet.RenewalTime], until that has ended or is the one that the session rests
// on. Another request ID while one is under way is refused,
// unless it names that to take its place: it then comes after it.
func (k *Issuance) Renew(ctx context.Context, r signet.Renewal, accepted func(signet.RenewalReceipt)) (signet.Renewed, error) {
	i, p, err := k.held(ctx, r.Hub, r.DeviceID, r.Certificate)
	if err == nil {
		err = k.inTime(i, p)
	}
	if err != nil {
		return signet.Renewed{}, err
	}
	d := k.enter(i.Service, r.DeviceID)
	defer k.leave(i.Service, r.DeviceID, d)
	mine, err := k.begin(d, r)
	if err != nil {
		return signet.Renewed{}, err
	}
	defer k.end(d, mine)

	now := k.now().UTC()
	renewed := signet.Renewed{RequestID: r.RequestID, RenewalReceipt: signet.RenewalReceipt{
		CorrelationID: correlation(r.Hub, r.DeviceID, r.RequestID, mine.csr), Expires: now.Add(signet.RenewalTime)}}
	accepted(renewed.RenewalReceipt)
	if err := d.take(ctx); err != nil {
		return signet.Renewed{}, err
	}
	defer d.give()
	before, err := k.store.IssuedFor(ctx, i.Service, r.DeviceID, renewals+r.RequestID)
	switch {
	case err == nil && before.CSR == mine.csr && before.Hub == r.Hub && now.Before(before.Time.Add(signet.RenewalTime)) &&
		now.Before(before.NotAfter) && before.Thumbprint != hex.EncodeToString(r.Certificate[:]): // else it has that, and means another
		renewed.Chain, err = k.again(ctx, before)
		return renewed, err
	case err != nil && !errors.Is(err, signet.ErrNotFound):
		return signet.Renewed{}, err
	}
	renewed.Chain, err = k.sign(ctx, p, signet.Issued{Hub: i.Hub, HostName: i.HostName, DeviceID: i.DeviceID, Operation: renewals + r.RequestID},
		r.CSR, []string{r.DeviceID})
	return renewed, err
}

// begin makes a renewal the one of its device that is under way.
func (k *Issuance) begin(d *device, r signet.Renewal) (*renewal, error) {
	csr := sum(r.CSR)
	k.mu.Lock()
	defer k.mu.Unlock()
	other := d.renewal
	switch {
	case other != nil && other.requestID == r.RequestID && other.csr == csr:
		other.users++
		return other, nil
	case other != nil && r.Replace != "*" && r.Replace != other.requestID:
		return nil, signet.Refuse(signet.IssuancePending, "The request %q of the device for a certificate is under way.", signet.Clip(other.requestID)).
			At("replace", other.requestID, r.Replace)
	case other == nil && r.Replace != "":
		return nil, signet.Refuse(signet.IssuanceNothingPending, "No request of the device for a certificate is under way, so that none can be replaced.").
			At("replace", "none", r.Replace)
	}
	d.renewal = &renewal{requestID: r.RequestID, csr: csr, users: 1}
	return d.renewal, nil
}

func (k *Issuance) end(d *device, mine *renewal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if mine.users--; mine.users == 0 && d.renewal == mine {
		d.renewal = nil
	}
}

// Renewed gives the outcome of the latest renewal of a device that has come back
// with an older certificate than that, as if it had never heard of it; false when
// there is none that is still kept.
func (k *Issuance) Renewed(ctx context.Context, hub, device string, certificate [32]byte) (signet.Renewed, bool, error) {
	i, err := k.store.LatestIssued(ctx, hub, device)
	if errors.Is(err, signet.ErrNotFound) {
		return signet.Renewed{}, false, nil
	}
	id, renewal := strings.CutPrefix(i.Operation, renewals)
	expires := i.Time.Add(signet.RenewalTime)
	if err != nil || !renewal || i.Thumbprint == hex.EncodeToString(certificate[:]) || !k.now().Before(expires) || !k.now().Before(i.NotAfter) {
		return signet.Renewed{}, false, err
	}
	if _, _, err := k.held(ctx, hub, device, certificate); err != nil {
		return signet.Renewed{}, false, nil
	}
	chain, err := k.again(ctx, i)
	return signet.Renewed{RequestID: id, Chain: chain, RenewalReceipt: signet.RenewalReceipt{
		CorrelationID: correlation(hub, device, id, i.CSR), Expires: expires}}, err == nil, err
}

// correlation makes a UUID (RFC 9562 §5.8) of a request, so that the same request
// has the same.
func correlation(parts ...string) string {
	text := sum([]byte(strings.Join(parts, "\n")))
	return fmt.Sprintf("%s-%s-8%s-8%s-%s", text[:8], text[8:12], text[13:16], text[17:20], text[20:32])
}
