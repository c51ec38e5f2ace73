package hub

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// Rollover says how far the devices of a hub have moved from one registered CA to
// another. then is what would be trusted without the old one. each is as for
// [Hub.Radius], of what would become of the devices then.
//
// It is safe to remove the old CA when the new one is verified and valid, no device
// that has been seen would lose access, and there is none of which that is not
// known: one that has never connected may hold a certificate of the old CA. What
// becomes of revocation is for who knows the policies to say.
func (h *Hub) Rollover(ctx context.Context, hub string, before, after signet.CACertificate, seen Sightings, now, then Trust, each func(fate *signet.DeviceFate, devices int64) error) (r signet.Rollover, _ error) {
	var err error
	if r.Old, err = rolloverCA(before); err != nil {
		return r, err
	}
	if r.New, err = rolloverCA(after); err != nil {
		return r, err
	}
	if r.Old.Thumbprint == r.New.Thumbprint {
		return r, signet.Refuse(signet.RequestMalformed, "The old CA and the new one are the same certificate.")
	}
	r.SameKey = r.Old.Key == r.New.Key
	radius, err := h.Radius(ctx, hub, seen, now, then, each)
	if err != nil {
		return r, err
	}
	r.Old.Devices, r.New.Devices = radius.Anchors[r.Old.Thumbprint], radius.Anchors[r.New.Thumbprint]
	r.Left, r.Unknown, r.Unseen = radius.Loses, radius.Unknown, radius.Unseen
	because := func(format string, args ...any) { r.Because = append(r.Because, fmt.Sprintf(format, args...)) }
	if !r.New.Verified {
		because("%s is not verified: no device gets in by it", r.New.Name)
	}
	if h.now().After(r.New.NotAfter) {
		because("%s has expired", r.New.Name)
	}
	if r.Left.Devices > 0 {
		because("refused without %s: %s", r.Old.Name, counted(r.Left.Devices))
	}
	if r.Unknown > 0 {
		because("too little is remembered to say: %s", counted(r.Unknown))
	}
	if r.Unseen > 0 {
		because("never connected, and may hold certificates of %s: %s", r.Old.Name, counted(r.Unseen))
	}
	r.Safe = r.Because == nil
	return r, nil
}

func counted(devices int64) string {
	if devices == 1 {
		return "1 device"
	}
	return fmt.Sprintf("%d devices", devices)
}

func rolloverCA(c signet.CACertificate) (r signet.RolloverCA, _ error) {
	cert, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return r, fmt.Errorf("stored CA certificate %s of hub %s: %w", c.Name, c.Hub, err)
	}
	p := pki.PathCertificate(cert)
	return signet.RolloverCA{Name: c.Name, Subject: p.Subject, Thumbprint: hex.EncodeToString(p.Thumbprint[:]), Key: hex.EncodeToString(p.Key[:]),
		NotAfter: c.NotAfter, Verified: c.Verified}, nil
}
