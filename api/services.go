package api

import (
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/signet-iot/signet"
)

// serviceJSON is a provisioning service as ProvisioningServiceDescription.
type serviceJSON struct {
	ID             string            `json:"id"`
	Name           string            `json:"name"`
	Type           string            `json:"type"`
	Location       string            `json:"location"`
	Tags           map[string]string `json:"tags"`
	ETag           string            `json:"etag"`
	SubscriptionID string            `json:"subscriptionid"`
	ResourceGroup  string            `json:"resourcegroup"`
	Properties     struct {
		State                      string         `json:"state"`
		ProvisioningState          string         `json:"provisioningState"`
		IoTHubs                    []linkedJSON   `json:"iotHubs"`
		AllocationPolicy           string         `json:"allocationPolicy"`
		ServiceOperationsHostName  string         `json:"serviceOperationsHostName"`
		DeviceProvisioningHostName string         `json:"deviceProvisioningHostName"`
		IDScope                    string         `json:"idScope"`
		AuthorizationPolicies      []ruleNameJSON `json:"authorizationPolicies"`
	} `json:"properties"`
	SKU struct {
		Name     string `json:"name"`
		Tier     string `json:"tier"`
		Capacity int    `json:"capacity"`
	} `json:"sku"`
}

// linkedJSON is an IotHubDefinitionDescription.
type linkedJSON struct {
	Name             string `json:"name,omitempty"`
	ConnectionString string `json:"connectionString"`
	Location         string `json:"location"`
	AllocationWeight *int   `json:"allocationWeight,omitempty"`
	ApplyAllocation  *bool  `json:"applyAllocationPolicy,omitempty"`
}

// ruleNameJSON is a shared access policy without its keys.
type ruleNameJSON struct {
	KeyName string `json:"keyName"`
	Rights  string `json:"rights"`
}

// maskedKey stands for the key of a linked hub, which is told to nobody.
const maskedKey = "****"

func newLinkedJSON(l signet.LinkedHub) linkedJSON {
	shown := signet.ConnectionString{HostName: l.HostName, SharedAccessKeyName: "iothubowner", SharedAccessKey: maskedKey}
	if c, err := signet.ParseConnectionString(l.ConnectionString); err == nil {
		shown.HostName, shown.SharedAccessKeyName = c.HostName, c.SharedAccessKeyName
	}
	where := l.Location
	if where == "" {
		where = location
	}
	return linkedJSON{l.HostName, shown.String(), where, &l.Weight, &l.Allocates}
}

func (c *call) serviceJSON(h signet.Hub) (serviceJSON, error) {
	r := c.resourceJSON(h)
	s := serviceJSON{ID: r.ID, Name: r.Name, Type: r.Type, Location: r.Location, Tags: r.Tags, ETag: r.ETag,
		SubscriptionID: r.SubscriptionID, ResourceGroup: r.ResourceGroup}
	s.SKU = r.SKU
	p := &s.Properties
	p.State, p.ProvisioningState, p.AllocationPolicy, p.IDScope = "Active", "Succeeded", "Hashed", h.IDScope
	p.ServiceOperationsHostName, p.DeviceProvisioningHostName = h.HostName, h.HostName
	for _, policy := range h.Policies {
		p.AuthorizationPolicies = append(p.AuthorizationPolicies, ruleNameJSON{policy.Name, policy.Rights.String()})
	}
	links, err := c.Provisioning.Links(c.r.Context(), h.Name)
	p.IoTHubs = []linkedJSON{}
	for _, l := range links {
		p.IoTHubs = append(p.IoTHubs, newLinkedJSON(l))
	}
	return s, err
}

// listServices lists all provisioning services to the admin, and its own to an
// owner.
func (c *call) listServices() error {
	services := c.Registry.Services()
	if c.hub.Name != "" {
		services = []signet.Hub{c.hub}
	}
	list := make([]serviceJSON, len(services))
	for n, h := range services {
		var err error
		if list[n], err = c.serviceJSON(h); err != nil {
			return err
		}
	}
	return c.answer(http.StatusOK, map[string]any{"value": list})
}

func (c *call) getService() error {
	s, err := c.serviceJSON(c.hub)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, s)
}

// PUT changes which hubs are linked, of a service that is there: nothing else of
// it can be changed, and what would be is refused.
func (c *call) putService() error {
	var body struct {
		Properties struct {
			IoTHubs               *[]linkedJSON `json:"iotHubs"`
			AllocationPolicy      string        `json:"allocationPolicy"`
			AuthorizationPolicies []keyJSON     `json:"authorizationPolicies"`
		} `json:"properties"`
	}
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	p := body.Properties
	if p.AllocationPolicy != "" && !strings.EqualFold(p.AllocationPolicy, "Hashed") {
		return signet.Refuse(signet.RequestMalformed, "The allocation policy is said by each enrollment, and is Hashed otherwise.").
			At("properties.allocationPolicy", "Hashed, or nothing", p.AllocationPolicy)
	}
	for _, rule := range p.AuthorizationPolicies {
		if !c.isPolicy(rule) {
			return signet.Refuse(signet.RequestMalformed, "Shared access policies of a provisioning service cannot be changed.").
				At("properties.authorizationPolicies", "those that there are, or nothing", rule.KeyName)
		}
	}
	if p.IoTHubs != nil {
		linked, err := c.Provisioning.Linked(c.r.Context(), c.hub.Name)
		if err != nil {
			return err
		}
		links := make([]signet.LinkedHub, len(*p.IoTHubs))
		for n, l := range *p.IoTHubs {
			links[n] = l.linkedHub(linked)
		}
		if err := c.Provisioning.SetLinks(c.r.Context(), c.hub.Name, links); err != nil {
			return err
		}
	}
	return c.getService()
}

func (c *call) isPolicy(rule keyJSON) bool {
	same := func(said, is string) bool {
		return said == "" || said == maskedKey || subtle.ConstantTimeCompare([]byte(said), []byte(is)) == 1
	}
	for _, p := range c.hub.Policies {
		if p.Name == rule.KeyName {
			return same(rule.Rights, p.Rights.String()) && same(rule.PrimaryKey, p.PrimaryKey) && same(rule.SecondaryKey, p.SecondaryKey)
		}
	}
	return false
}

// linkedHub reads what a client sent. A masked key means the connection string
// that is there.
func (l *linkedJSON) linkedHub(linked []signet.LinkedHub) signet.LinkedHub {
	hub := signet.LinkedHub{HostName: l.Name, ConnectionString: l.ConnectionString, Location: l.Location, Weight: 1, Allocates: true}
	if l.AllocationWeight != nil {
		hub.Weight = *l.AllocationWeight
	}
	if l.ApplyAllocation != nil {
		hub.Allocates = *l.ApplyAllocation
	}
	if c, err := signet.ParseConnectionString(l.ConnectionString); err == nil && c.SharedAccessKey == maskedKey {
		hub.HostName, hub.ConnectionString = signet.HostOnly(c.HostName), ""
		for _, was := range linked {
			if was.HostName == hub.HostName {
				hub.ConnectionString = was.ConnectionString
			}
		}
	}
	return hub
}
