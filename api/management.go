package api

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/signet-iot/signet"
)

// What Azure's management API tells of a hub and Signet has no counterpart of:
// az looks a hub's resource group up in the list, and SDKs want a location.
const (
	location     = "local"
	defaultGroup = "signet"
)

// resourceJSON is a hub as IotHubDescription, as far as it means something here.
type resourceJSON struct {
	ID             string            `json:"id"`
	Name           string            `json:"name"`
	Type           string            `json:"type"`
	Location       string            `json:"location"`
	Tags           map[string]string `json:"tags"`
	ETag           string            `json:"etag"`
	SubscriptionID string            `json:"subscriptionid"`
	ResourceGroup  string            `json:"resourcegroup"`
	Properties     struct {
		State             string         `json:"state"`
		ProvisioningState string         `json:"provisioningState"`
		HostName          string         `json:"hostName"`
		Locations         []roleLocation `json:"locations"`
		// EventHubEndpoints say where messages are read by AMQP, as "events".
		EventHubEndpoints map[string]eventHubJSON `json:"eventHubEndpoints"`
	} `json:"properties"`
	SKU struct {
		Name     string `json:"name"`
		Tier     string `json:"tier"`
		Capacity int    `json:"capacity"`
	} `json:"sku"`
}

// eventHubJSON is EventHubProperties: with a policy's key, what an Event Hubs
// connection string is made of.
type eventHubJSON struct {
	PartitionCount int      `json:"partitionCount"`
	PartitionIDs   []string `json:"partitionIds"`
	Path           string   `json:"path"`
	Endpoint       string   `json:"endpoint"`
}

type roleLocation struct {
	Location string `json:"location"`
	Role     string `json:"role"`
}

func (c *call) resourceJSON(h signet.Hub) resourceJSON {
	sum := sha256.Sum256([]byte(h.Name + h.HostName + h.Created.String()))
	r := resourceJSON{
		ID: c.resourceID(h), Name: h.Name, Type: resourceType(h),
		Location: location, Tags: map[string]string{}, ETag: base64.StdEncoding.EncodeToString(sum[:9]),
		SubscriptionID: c.args["subscription"], ResourceGroup: c.group(),
	}
	r.Properties.State, r.Properties.ProvisioningState = "Active", "Succeeded"
	r.Properties.HostName = h.HostName
	r.Properties.Locations = []roleLocation{{location, "primary"}}
	r.Properties.EventHubEndpoints = map[string]eventHubJSON{"events": {1, []string{"0"}, h.Name, "sb://" + h.HostName + "/"}}
	r.SKU.Name, r.SKU.Tier, r.SKU.Capacity = "S1", "Standard", 1
	return r
}

// resourceID is the path of a hub, or a provisioning service, in the subscription and group that the caller
// names: any are taken, so that scripts need no change.
func (c *call) resourceID(h signet.Hub) string {
	return "/subscriptions/" + c.args["subscription"] + "/resourceGroups/" + c.group() + "/providers/" + resourceType(h) + "/" + h.Name
}

func resourceType(h signet.Hub) string {
	if h.Provisions() {
		return "Microsoft.Devices/provisioningServices"
	}
	return "Microsoft.Devices/IotHubs"
}

func (c *call) group() string {
	if g := c.args["group"]; g != "" {
		return g
	}
	return defaultGroup
}

// listResources lists all hubs to the admin, and its own to an owner.
func (c *call) listResources() error {
	hubs := c.Registry.Hubs()
	if c.hub.Name != "" {
		hubs = []signet.Hub{c.hub}
	}
	list := make([]resourceJSON, len(hubs))
	for n, h := range hubs {
		list[n] = c.resourceJSON(h)
	}
	return c.answer(http.StatusOK, map[string]any{"value": list})
}

func (c *call) getResource() error { return c.answer(http.StatusOK, c.resourceJSON(c.hub)) }

// keyJSON is a SharedAccessSignatureAuthorizationRule.
type keyJSON struct {
	KeyName      string `json:"keyName"`
	PrimaryKey   string `json:"primaryKey"`
	SecondaryKey string `json:"secondaryKey"`
	Rights       string `json:"rights"`
}

func newKeyJSON(p signet.Policy) keyJSON {
	return keyJSON{p.Name, p.PrimaryKey, p.SecondaryKey, p.Rights.String()}
}

func (c *call) listKeys() error {
	list := make([]keyJSON, len(c.hub.Policies))
	for n, p := range c.hub.Policies {
		list[n] = newKeyJSON(p)
	}
	return c.answer(http.StatusOK, map[string]any{"value": list})
}

func (c *call) getKey() error {
	for _, p := range c.hub.Policies {
		if strings.EqualFold(p.Name, c.args["policy"]) {
			return c.answer(http.StatusOK, newKeyJSON(p))
		}
	}
	return signet.Refuse(signet.RequestNotFound, "There is no policy %q.", signet.Clip(c.args["policy"]))
}

// certificateJSON is a CertificateDescription, and with a verification code a
// CertificateWithNonceDescription. Dates are RFC 1123, and the etag has no
// quotes.
type certificateJSON struct {
	ID         string                    `json:"id"`
	Name       string                    `json:"name"`
	Type       string                    `json:"type"`
	ETag       string                    `json:"etag"`
	Properties certificatePropertiesJSON `json:"properties"`
}

type certificatePropertiesJSON struct {
	Subject          string `json:"subject"`
	Expiry           string `json:"expiry"`
	Thumbprint       string `json:"thumbprint"`
	IsVerified       bool   `json:"isVerified"`
	Created          string `json:"created"`
	Updated          string `json:"updated"`
	VerificationCode string `json:"verificationCode,omitempty"`
	Certificate      string `json:"certificate"` // base64 of DER
}

func (c *call) certificateJSON(ca signet.CACertificate) certificateJSON {
	return certificateJSON{
		ID: c.resourceID(c.hub) + "/certificates/" + ca.Name, Name: ca.Name, Type: resourceType(c.hub) + "/Certificates", ETag: ca.ETag,
		Properties: certificatePropertiesJSON{
			Subject: ca.Subject, Expiry: ca.NotAfter.UTC().Format(http.TimeFormat), Thumbprint: ca.Thumbprint, IsVerified: ca.Verified,
			Created: ca.Created.UTC().Format(http.TimeFormat), Updated: ca.Updated.UTC().Format(http.TimeFormat),
			Certificate: base64.StdEncoding.EncodeToString(ca.DER),
		},
	}
}

func (c *call) answerCertificate(status int, ca signet.CACertificate) error {
	c.w.Header()["ETag"] = []string{`"` + ca.ETag + `"`}
	return c.answer(status, c.certificateJSON(ca))
}

func (c *call) listCertificates() error {
	cas, err := c.Authority.List(c.r.Context(), c.hub.Name)
	if err != nil {
		return err
	}
	list := make([]certificateJSON, len(cas))
	for n, ca := range cas {
		list[n] = c.certificateJSON(ca)
	}
	return c.answer(http.StatusOK, map[string]any{"value": list})
}

func (c *call) getCertificate() error {
	ca, err := c.Authority.Get(c.r.Context(), c.hub.Name, c.args["certificate"])
	if err != nil {
		return err
	}
	return c.answerCertificate(http.StatusOK, ca)
}

// uploadJSON takes both bodies that clients send: {"properties":{…}}, and flat as
// up to 2021. What a read-modify-write sends back besides is passed over.
type uploadJSON struct {
	Certificate string `json:"certificate"`
	IsVerified  bool   `json:"isVerified"`
	Properties  *struct {
		Certificate string `json:"certificate"`
		IsVerified  bool   `json:"isVerified"`
	} `json:"properties"`
}

func (c *call) readUpload() (certificate string, verified bool, err error) {
	var body uploadJSON
	if err := c.read(maxBody, &body); err != nil {
		return "", false, err
	}
	certificate, verified = body.Certificate, body.IsVerified
	if body.Properties != nil {
		certificate, verified = body.Properties.Certificate, body.Properties.IsVerified
	}
	if certificate == "" {
		return "", false, signet.Refuse(signet.RequestMalformed, "The body holds no certificate.").
			FixBy(`Send {"properties":{"certificate":"…"}} with PEM, base64 of PEM or base64 of DER.`)
	}
	return certificate, verified, nil
}

// PUT registers: 201 when the name is new, 200 when it was there, and always at a
// provisioning service.
func (c *call) putCertificate() error {
	upload, verified, err := c.readUpload()
	if err != nil {
		return err
	}
	ca, created, err := c.Authority.Register(c.r.Context(), c.hub.Name, c.args["certificate"], upload, verified, c.ifMatch())
	if err != nil {
		return err
	}
	if created && !c.hub.Provisions() {
		return c.answerCertificate(http.StatusCreated, ca)
	}
	return c.answerCertificate(http.StatusOK, ca)
}

// DELETE of what is not there is done already: 204, as Azure's resource manager
// has it.
func (c *call) deleteCertificate() error {
	err := c.Authority.Delete(c.r.Context(), c.hub.Name, c.args["certificate"], c.ifMatch())
	if signet.CodeOf(err) == signet.CertificateUnknown {
		return c.done(http.StatusNoContent)
	}
	if err != nil {
		return err
	}
	return c.done(http.StatusOK)
}

func (c *call) generateVerificationCode() error {
	ca, err := c.Authority.GenerateCode(c.r.Context(), c.hub.Name, c.args["certificate"], c.ifMatch())
	if err != nil {
		return err
	}
	body := c.certificateJSON(ca)
	body.Properties.VerificationCode = ca.VerificationCode
	return c.answer(http.StatusOK, body)
}

func (c *call) verifyCertificate() error {
	proof, _, err := c.readUpload()
	if err != nil {
		return err
	}
	ca, err := c.Authority.Verify(c.r.Context(), c.hub.Name, c.args["certificate"], proof, c.ifMatch())
	if err != nil {
		return err
	}
	return c.answerCertificate(http.StatusOK, ca)
}
