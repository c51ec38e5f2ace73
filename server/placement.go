package server

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/registry"
)

// placement is where the provisioning service writes identities: the hubs of this
// server, through the registry, and linked ones elsewhere, through their service
// API. It serves [provisioning.Hubs].
type placement struct {
	registry *registry.Registry
	caFile   string // with the CAs of servers elsewhere; "" for the system's

	mu        sync.Mutex
	clients   map[string]*client.Client // by connection string
	distances map[string]distance       // by host name and port
}

// A distance is one that was measured.
type distance struct {
	took time.Duration
	err  error
	at   time.Time
}

const (
	// elsewhereTime bounds what a hub of another server is asked.
	elsewhereTime = 10 * time.Second
	// distanceAge is how long a distance counts.
	distanceAge = time.Minute
	// maxClients bounds those that are kept: as many as hubs can be linked, twice,
	// for those whose keys have changed.
	maxClients = 100
)

func newPlacement(r *registry.Registry, caFile string) *placement {
	return &placement{registry: r, caFile: caFile, clients: map[string]*client.Client{}, distances: map[string]distance{}}
}

// here gives the hub of this server; false for one elsewhere.
func (p *placement) here(l signet.LinkedHub) (signet.Hub, bool, error) {
	if l.ConnectionString != "" {
		return signet.Hub{}, false, nil
	}
	h, err := p.registry.HubByHost(l.HostName)
	return h, true, err
}

// elsewhere gives the client of a linked hub.
func (p *placement) elsewhere(l signet.LinkedHub) (*client.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.clients[l.ConnectionString]; c != nil {
		return c, nil
	}
	c, err := client.New(client.Options{ConnectionString: l.ConnectionString, CAFile: p.caFile})
	if err != nil {
		return nil, err
	}
	if len(p.clients) >= maxClients {
		clear(p.clients)
	}
	p.clients[l.ConnectionString] = c
	return c, nil
}

// Identity reads an identity with its twin.
func (p *placement) Identity(ctx context.Context, l signet.LinkedHub, device string) (signet.Identity, signet.Twin, error) {
	h, here, err := p.here(l)
	if err != nil {
		return signet.Identity{}, signet.Twin{}, err
	}
	if here {
		i, err := p.registry.Get(ctx, h.Name, device, "")
		if err != nil {
			return i, signet.Twin{}, err
		}
		t, err := p.registry.Twin(ctx, h.Name, device, "")
		return i, t, err
	}
	c, err := p.elsewhere(l)
	if err != nil {
		return signet.Identity{}, signet.Twin{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, elsewhereTime)
	defer cancel()
	d, err := c.Device(ctx, device)
	if err != nil {
		return signet.Identity{}, signet.Twin{}, err
	}
	t, err := c.Twin(ctx, device, "")
	return signet.Identity{DeviceID: d.DeviceID, ETag: d.ETag, Status: d.Status, StatusReason: d.StatusReason},
		signet.Twin{DeviceID: device, Tags: t.Tags, Desired: signet.Properties{Values: t.Properties.Desired},
			Reported: signet.Properties{Values: t.Properties.Reported}}, err
}

// Put creates an identity, or changes how the one that is there proves itself. A
// device that was disabled at its hub is not let in by registering, nor by being
// moved.
func (p *placement) Put(ctx context.Context, l signet.LinkedHub, i signet.Identity, twin *signet.Twin) error {
	h, here, err := p.here(l)
	if err != nil {
		return err
	}
	if !here {
		return p.putElsewhere(ctx, l, i, twin)
	}
	i.Hub = h.Name
	if i, err = p.put(ctx, i); err != nil || twin == nil {
		return err
	}
	_, err = p.registry.ChangeTwin(ctx, h.Name, i.DeviceID, "",
		registry.TwinChange{Tags: twin.Tags, Desired: twin.Desired.Values, Replace: true}, "*")
	if err != nil || isEmpty(twin.Reported.Values) {
		return err
	}
	_, err = p.registry.Report(ctx, h.Name, i.DeviceID, "", i.GenerationID, twin.Reported.Values, 0)
	return err
}

func isEmpty(object json.RawMessage) bool {
	return len(object) == 0 || string(object) == "{}"
}

func (p *placement) put(ctx context.Context, i signet.Identity) (signet.Identity, error) {
	for {
		was, err := p.registry.Get(ctx, i.Hub, i.DeviceID, "")
		if signet.CodeOf(err) == signet.IdentityUnknown {
			created, err := p.registry.Create(ctx, i)
			if signet.CodeOf(err) == signet.IdentityExists && ctx.Err() == nil {
				continue // someone was faster
			}
			return created, err
		}
		if err != nil {
			return was, err
		}
		next := was
		next.Auth, next.EdgeDevice = i.Auth, i.EdgeDevice
		if i.Status == signet.Disabled {
			next.Status, next.StatusReason = i.Status, i.StatusReason
		}
		if next == was {
			return was, nil
		}
		next, err = p.registry.Replace(ctx, next, was.ETag)
		if code := signet.CodeOf(err); (code == signet.ETagStale || code == signet.IdentityUnknown) && ctx.Err() == nil {
			continue
		}
		return next, err
	}
}

func (p *placement) putElsewhere(ctx context.Context, l signet.LinkedHub, i signet.Identity, twin *signet.Twin) error {
	c, err := p.elsewhere(l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, elsewhereTime)
	defer cancel()
	d := client.Device{DeviceID: i.DeviceID, Status: i.Status, StatusReason: i.StatusReason, Capabilities: client.Capabilities{IotEdge: i.EdgeDevice},
		Authentication: client.Authentication{Type: i.Auth.Type,
			SymmetricKey:   client.SymmetricKey{PrimaryKey: i.Auth.PrimaryKey, SecondaryKey: i.Auth.SecondaryKey},
			X509Thumbprint: client.X509Thumbprint{PrimaryThumbprint: i.Auth.PrimaryThumbprint, SecondaryThumbprint: i.Auth.SecondaryThumbprint}}}
	for {
		was, err := c.Device(ctx, i.DeviceID)
		switch code := signet.CodeOf(err); {
		case err == nil:
			if i.Status != signet.Disabled {
				d.Status, d.StatusReason = was.Status, was.StatusReason
			}
			_, err = c.ReplaceDevice(ctx, d, was.ETag)
		case code == signet.IdentityUnknown:
			_, err = c.CreateDevice(ctx, d)
		}
		code := signet.CodeOf(err)
		if (code == signet.ETagStale || code == signet.IdentityExists || code == signet.IdentityUnknown) && ctx.Err() == nil {
			continue // someone was faster
		}
		if err != nil || twin == nil {
			return err
		}
		// Reported properties are the device's to write: it reports them anew.
		_, err = c.ReplaceTwin(ctx, i.DeviceID, "", client.TwinPatch{Tags: twin.Tags, Desired: twin.Desired.Values}, "")
		return err
	}
}

// Delete removes an identity if its ETag is etag; one that is not there is no error.
func (p *placement) Delete(ctx context.Context, l signet.LinkedHub, device, etag string) error {
	h, here, err := p.here(l)
	if err != nil {
		return err
	}
	if here {
		err = p.registry.Delete(ctx, h.Name, device, "", etag)
	} else if c, e := p.elsewhere(l); e != nil {
		err = e
	} else {
		ctx, cancel := context.WithTimeout(ctx, elsewhereTime)
		defer cancel()
		err = c.DeleteDevice(ctx, device, etag)
	}
	if signet.CodeOf(err) == signet.IdentityUnknown {
		return nil
	}
	return err
}

// Distance is how long a connection to a hub takes; 0 for one of this server.
func (p *placement) Distance(ctx context.Context, l signet.LinkedHub) (time.Duration, error) {
	if _, here, err := p.here(l); here {
		return 0, err
	}
	c, err := signet.ParseConnectionString(l.ConnectionString)
	if err != nil {
		return 0, err
	}
	address := c.HostName
	if !strings.Contains(address, ":") {
		address += ":443"
	}
	p.mu.Lock()
	d, known := p.distances[address]
	p.mu.Unlock()
	if known && time.Since(d.at) < distanceAge {
		return d.took, d.err
	}
	begun := time.Now()
	var dialer net.Dialer
	nc, err := dialer.DialContext(ctx, "tcp", address)
	d = distance{time.Since(begun), err, time.Now()}
	if err == nil {
		nc.Close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.distances) >= maxClients {
		clear(p.distances)
	}
	p.distances[address] = d
	return d.took, d.err
}
