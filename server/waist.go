package server

import (
	"context"

	"github.com/signet-iot/signet/gateway"
	"github.com/signet-iot/signet/hub"
)

// A waist is the hub as the doors see it: its sessions are theirs.
type waist struct{ *hub.Hub }

var _ gateway.Waist = waist{}

func (w waist) Connect(ctx context.Context, c hub.Credentials, wake func()) (gateway.Session, error) {
	s, err := w.Hub.Connect(ctx, c, wake)
	if err != nil {
		return nil, err
	}
	return s, nil
}
