package registry

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/signet-iot/signet"
)

// CreateService makes a provisioning service, with the policy that Azure makes
// and a random ID scope. It is a tenant as a hub is one: name and host name are
// no hub's. It refuses as [Registry.CreateHub] does.
func (r *Registry) CreateService(ctx context.Context, name, host string) (signet.Hub, error) {
	h, err := r.newHub(name, host)
	if err != nil {
		return h, err
	}
	h.IDScope = newIDScope()
	h.Policies = []signet.Policy{{Name: "provisioningserviceowner", PrimaryKey: newKey(), SecondaryKey: newKey(),
		Rights: signet.ServiceConfig | signet.EnrollmentRead | signet.EnrollmentWrite | signet.RegistrationStatusRead |
			signet.RegistrationStatusWrite | signet.DeviceConnect}}
	return r.create(ctx, h)
}

// newIDScope looks as Azure's do. It is a name, not a secret.
func newIDScope() string {
	var b [4]byte
	rand.Read(b[:])
	return fmt.Sprintf("0ne%08X", binary.BigEndian.Uint32(b[:]))
}

// Services lists the provisioning services by name.
func (r *Registry) Services() []signet.Hub { return r.hubs.Load().services }

// ServiceByScope finds a provisioning service by its ID scope, in any case. It
// refuses with [signet.HubUnknown].
func (r *Registry) ServiceByScope(scope string) (signet.Hub, error) {
	for _, h := range r.Services() { // one, or a few
		if strings.EqualFold(h.IDScope, scope) {
			return h, nil
		}
	}
	return signet.Hub{}, signet.Refuse(signet.HubUnknown, "No provisioning service here has the ID scope %q.", signet.Clip(scope)).
		At("idScope", "that of a provisioning service of this server", scope)
}

// ServiceByHost finds the provisioning service that a back end calls: the one of
// that host name, or the only one, whatever name of the server it was called by.
// It refuses with [signet.HubUnknown].
func (r *Registry) ServiceByHost(host string) (signet.Hub, error) {
	services := r.Services()
	for _, h := range services {
		if h.HostName == signet.HostOnly(host) {
			return h, nil
		}
	}
	if len(services) == 1 {
		return services[0], nil
	}
	return signet.Hub{}, signet.Refuse(signet.HubUnknown, "No provisioning service here has the host name %q.", signet.Clip(host)).
		At("host name", "one of a provisioning service of this server", host)
}
