package hub

import (
	"context"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/signet-iot/signet"
)

// byToken: a SAS token, signed by the identity's own key or by a policy of the
// hub that may connect devices, for this identity, not expired.
func (j *judgement) byToken(i *signet.Identity, tenant signet.Hub, text string, at time.Time) error {
	p := &j.principal
	if i.Auth.Type != signet.AuthSAS {
		return wrongType(i, "a SAS token")
	}
	t, err := signet.ParseSASToken(text)
	if err != nil {
		return err
	}
	primary, secondary := i.Auth.PrimaryKey, i.Auth.SecondaryKey
	if t.Policy != "" {
		p.Scope = "hub"
		primary, secondary = "", ""
		for _, policy := range tenant.Policies {
			if strings.EqualFold(policy.Name, t.Policy) && policy.Rights.Has(signet.DeviceConnect) {
				primary, secondary = policy.PrimaryKey, policy.SecondaryKey
			}
		}
	}
	// The MAC first: what an unsigned token says is worth no answer.
	if !t.SignedBy(primary, secondary) {
		return signet.Refuse(signet.TokenSignature, "The SAS token for %q is not signed with a key that may connect it.", i.Name())
	}
	resource := "devices/" + p.DeviceID
	if p.ModuleID != "" {
		resource += "/modules/" + p.ModuleID
	}
	if !t.Covers(tenant.HostName, resource) {
		return signet.Refuse(signet.TokenAudience, "The SAS token is for %q.", signet.Clip(t.Resource)).
			At("sr", tenant.HostName+"/"+resource, t.Resource)
	}
	if p.Expires, err = t.Until(at); err != nil {
		return err
	}
	if p.Scope != "hub" {
		j.witness = fingerprint(i) // so that a change of keys is noticed later
	}
	return nil
}

// Prolong has another token of the identity judged, for protocols by which a device
// renews it while it is connected: the session ends with that one then, and rests on
// the keys that signed it. Refusals as for [Hub.Connect]; the session goes on as it
// was.
func (s *Session) Prolong(ctx context.Context, c Credentials) error {
	if err := s.may(); err != nil {
		return err
	}
	h, p := s.hub, s.principal
	changes := h.changes.Load()
	j, err := h.judge(ctx, c, h.now(), h.authority)
	if err == nil {
		switch n := &j.principal; {
		case n.Hub != p.Hub || n.DeviceID != p.DeviceID || n.ModuleID != p.ModuleID || n.Scope != p.Scope || n.Auth != p.Auth:
			err = signet.Refuse(signet.TokenAudience, "The token is not of the kind, or not for the identity, that %q is connected by.", signet.IdentityName(p.DeviceID, p.ModuleID))
		case n.GenerationID != p.GenerationID:
			err = madeAnew(p)
		}
	}
	if err != nil {
		return h.refused(c, err)
	}
	witness, expires := j.witness, j.principal.Expires // copies, as in newSession
	s.witness.Store(&witness)
	s.expires.Store(&expires)
	// As when it was begun: whatever has changed meanwhile is looked at again.
	if h.changes.Load() != changes {
		if err := h.review(ctx, s); err != nil {
			s.end(err)
		}
	}
	s.wake()
	return s.Ended()
}

// fingerprint tells one pair of keys from another without holding them.
func fingerprint(i *signet.Identity) string {
	sum := sha256.Sum256([]byte(i.Auth.PrimaryKey + "\n" + i.Auth.SecondaryKey))
	return string(sum[:])
}

// thumbprintMatches compares the two thumbprints of a presented certificate with
// the two registered ones, without regard to case.
func thumbprintMatches(i *signet.Identity, sha256Hex, sha1Hex string) bool {
	for _, registered := range [...]string{i.Auth.PrimaryThumbprint, i.Auth.SecondaryThumbprint} {
		if registered != "" && (strings.EqualFold(registered, sha256Hex) || strings.EqualFold(registered, sha1Hex)) {
			return true
		}
	}
	return false
}
