package server

import (
	"context"
	"net/netip"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/backend"
	"github.com/signet-iot/signet/gateway"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/wire/amqp"
)

// waist is the hub as the doors state it: a refusal gives no session at all,
// where a nil *hub.Session in the interface would look like one.
type waist struct{ hub *hub.Hub }

func (w waist) Connect(ctx context.Context, c hub.Credentials, wake func()) (gateway.Session, error) {
	s, err := w.hub.Connect(ctx, c, wake)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (w waist) Authenticate(ctx context.Context, c hub.Credentials) (gateway.Session, error) {
	s, err := w.hub.Authenticate(ctx, c)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (w waist) Refuse(host string, v signet.Verdict) string { return w.hub.Refuse(host, v) }

// registrar is the provisioning service as the doors state it; as for waist, a
// refusal gives no applicant at all.
type registrar struct{ provisioning *provisioning.Provisioning }

func (r registrar) Admit(ctx context.Context, c provisioning.Credentials) (gateway.Applicant, error) {
	a, err := r.provisioning.Admit(ctx, c)
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (r registrar) Refuse(c provisioning.Credentials, err error) *signet.Error {
	return r.provisioning.Refuse(c, err)
}

// backEnds is the door of back ends as the one before it states it.
type backEnds struct{ *backend.Backend }

func (b backEnds) Connect(_ *amqp.Conn, door signet.Door, remote netip.AddrPort, host string) gateway.BackEndConn {
	return b.Backend.Connect(door, remote, host)
}
