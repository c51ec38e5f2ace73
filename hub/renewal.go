package hub

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/signet-iot/signet"
)

// Issuer renews certificates that it has issued. Its server is package issuance.
// Safe for concurrent use.
type Issuer interface {
	// Renew issues another certificate by the policy of the one that the session
	// rests on: on disk, as issued, when it returns. accepted is called once, before,
	// if nothing but the CSR itself can still be refused.
	Renew(ctx context.Context, r signet.Renewal, accepted func(signet.RenewalReceipt)) (signet.Renewed, error)
	// Renewed gives the outcome of a renewal to a device that has come back with an
	// older certificate than that; false when there is none.
	Renewed(ctx context.Context, hub, device string, certificate [32]byte) (signet.Renewed, bool, error)
	// Lane says until when a certificate that has expired may still be renewed by
	// its device, and refuses where it may not.
	Lane(ctx context.Context, hub, device string, certificate [32]byte) (until time.Time, err error)
}

const (
	// renewTime bounds a renewal: the SDKs wait two minutes for the certificate.
	renewTime = 30 * time.Second
	// laneTime is how long a session may last that is for renewal only: it is no
	// place to stay.
	laneTime = 10 * time.Minute
)

// Renew issues the device another certificate; of r, the request is filled in, and
// the rest here. It is for devices whose session rests on a certificate by a CA.
// accepted as for [Issuer.Renew].
//
// What comes out of it is not handed out when the session has ended meanwhile: the
// device may have lost its right to connect.
func (s *Session) Renew(ctx context.Context, r signet.Renewal, accepted func(signet.RenewalReceipt)) (signet.Renewed, error) {
	if err := s.renews(); err != nil {
		return signet.Renewed{}, err
	}
	p := s.principal
	r.Hub, r.DeviceID, r.Certificate = p.Hub, p.DeviceID, p.Path[0].Thumbprint
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	renewed, err := s.hub.issuer.Renew(ctx, r, accepted)
	if err == nil {
		err = s.Ended()
	}
	if err != nil {
		return signet.Renewed{}, err
	}
	return renewed, nil
}

// Renewed gives the outcome of a renewal that the device seems to have missed, as
// it has come back with the certificate of before; false when there is none.
func (s *Session) Renewed(ctx context.Context) (signet.Renewed, bool, error) {
	if s.renews() != nil {
		return signet.Renewed{}, false, nil
	}
	p := s.principal
	renewed, some, err := s.hub.issuer.Renewed(ctx, p.Hub, p.DeviceID, p.Path[0].Thumbprint)
	if err == nil {
		err = s.Ended()
	}
	if err != nil {
		return signet.Renewed{}, false, err
	}
	return renewed, some, nil
}

// renews says whether the session is one that can renew a certificate.
func (s *Session) renews() error {
	if err := s.Ended(); err != nil {
		return err
	}
	if p := s.principal; p.Auth != signet.AuthCA || p.ModuleID != "" || s.hub.issuer == nil {
		return signet.Refuse(signet.IssuanceNotHere, "The session of %q does not rest on a certificate that was issued here.", signet.IdentityName(p.DeviceID, p.ModuleID)).
			At("authentication.type", "certificateAuthority, of a device", string(p.Auth))
	}
	return nil
}

// may says whether the session may do what has nothing to do with a renewal.
func (s *Session) may() error {
	if err := s.Ended(); err != nil {
		return err
	}
	if p := s.principal; p.RenewOnly {
		return signet.Refuse(signet.SessionRenewOnly, "The certificate of %q expired at %s; the session is for its renewal only.", p.DeviceID, p.Path[0].NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// lane judges a device once more that was refused because its own certificate has
// expired: whether it may at least renew that. All else has to be as at any
// connect: the certificates above are valid now, nothing is revoked or distrusted,
// the identity is enabled. Otherwise the refusal stands.
func (h *Hub) lane(ctx context.Context, c Credentials, refused error) (*judgement, error) {
	now := h.now()
	if h.issuer == nil || signet.CodeOf(refused) != signet.CertExpired || c.Token != "" || c.ModuleID != "" || len(c.Chain) == 0 || !now.After(c.Chain[0].NotAfter) {
		return nil, refused
	}
	tenant, err := h.registry.HubByHost(c.Host)
	if err != nil {
		return nil, err
	}
	until, err := h.issuer.Lane(ctx, tenant.Name, c.DeviceID, sha256.Sum256(c.Chain[0].Raw))
	if err != nil {
		return nil, refused
	}
	j, err := h.judge(ctx, c, c.Chain[0].NotAfter, h.authority)
	if err != nil {
		return nil, err
	}
	for _, above := range j.path[1:] {
		if now.After(above.NotAfter) {
			return nil, refused
		}
	}
	p := &j.principal
	if p.Auth != signet.AuthCA {
		return nil, refused
	}
	p.RenewOnly, p.Expires = true, now.Add(laneTime)
	if until.Before(p.Expires) {
		p.Expires = until
	}
	return j, nil
}
