package client

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/signet-iot/signet"
)

// A Certificate is a registered CA certificate as the management API shows it.
type Certificate struct {
	Name       string                `json:"name"`
	ETag       string                `json:"etag"`
	Properties CertificateProperties `json:"properties"`
}

// CertificateProperties are the hub's view of a CA certificate. Dates are RFC 1123.
type CertificateProperties struct {
	Subject          string `json:"subject"`
	Expiry           string `json:"expiry"`
	Thumbprint       string `json:"thumbprint"` // SHA-1, upper-case hex
	IsVerified       bool   `json:"isVerified"`
	Created          string `json:"created"`
	Updated          string `json:"updated"`
	VerificationCode string `json:"verificationCode,omitempty"` // only when one was just generated
	Certificate      []byte `json:"certificate"`                // DER
}

// HubName gives the name of the hub, or of the provisioning service, that the
// connection string is of. Management knows hubs by name and connection strings by
// host name, so it is looked up, once.
func (c *Client) HubName(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.name != "" {
		return c.name, nil
	}
	var list struct {
		Value []struct {
			Name       string `json:"name"`
			Properties struct {
				HostName        string `json:"hostName"`
				ServiceHostName string `json:"serviceOperationsHostName"`
			} `json:"properties"`
		} `json:"value"`
	}
	if err := c.do(ctx, request{method: http.MethodGet, path: "/subscriptions/signet/providers/Microsoft.Devices/" + c.kind(),
		query: url.Values{"api-version": {managementVersion}}, as: asAdmin, out: &list}); err != nil {
		return "", err
	}
	for _, h := range list.Value {
		// Without a connection string, a server of one hub leaves no choice; nor does
		// one of one provisioning service, which is called by any of its names.
		if h.Properties.HostName+h.Properties.ServiceHostName == c.host || (c.host == "" || c.service) && len(list.Value) == 1 {
			c.name = h.Name
			return c.name, nil
		}
	}
	if c.service {
		return "", signet.Refuse(signet.HubUnknown, "The server has %d provisioning services, and nothing says which is meant.", len(list.Value)).
			FixBy("Set SIGNET_PROVISIONING_CONNECTION_STRING or --service to the service's connection string.")
	}
	if c.host == "" {
		return "", signet.Refuse(signet.HubUnknown, "The server has %d hubs, and nothing says which is meant.", len(list.Value)).
			FixBy("Set SIGNET_CONNECTION_STRING or --hub to the hub's connection string.")
	}
	return "", signet.Refuse(signet.HubUnknown, "The server has no hub with the host name %q.", c.host)
}

// kind is the resource type of what is asked.
func (c *Client) kind() string {
	if c.service {
		return "provisioningServices"
	}
	return "IotHubs"
}

// resource is the path of the hub, or the provisioning service, in the management
// API.
func (c *Client) resource(ctx context.Context) (string, error) {
	name, err := c.HubName(ctx)
	return "/subscriptions/signet/resourceGroups/signet/providers/Microsoft.Devices/" + c.kind() + "/" + segment(name), err
}

func (c *Client) certificate(ctx context.Context, r request, path ...string) (Certificate, error) {
	var answer Certificate
	if r.method != http.MethodDelete {
		r.out = &answer
	}
	err := c.manage(ctx, r, path...)
	return answer, err
}

// manage asks for something below the certificates.
func (c *Client) manage(ctx context.Context, r request, path ...string) error {
	of, err := c.resource(ctx)
	if err != nil {
		return err
	}
	r.path = of + "/certificates" + steps(path)
	r.query, r.as = url.Values{"api-version": {managementVersion}}, asAdmin
	return c.do(ctx, r)
}

// Certificates lists the CA certificates of the hub by name.
func (c *Client) Certificates(ctx context.Context) ([]Certificate, error) {
	var list struct {
		Value []Certificate `json:"value"`
	}
	err := c.manage(ctx, request{method: http.MethodGet, out: &list})
	return list.Value, err
}

// Certificate reads one CA certificate.
func (c *Client) Certificate(ctx context.Context, name string) (Certificate, error) {
	return c.certificate(ctx, request{method: http.MethodGet}, name)
}

type uploadBody struct {
	Properties struct {
		Certificate string `json:"certificate"`
		IsVerified  bool   `json:"isVerified"`
	} `json:"properties"`
}

// RegisterCertificate uploads a CA certificate: PEM, base64 of PEM, or base64 of
// DER. With verified, the caller vouches for it and no proof is asked for. etag
// is needed to replace another certificate of that name.
func (c *Client) RegisterCertificate(ctx context.Context, name, certificate string, verified bool, etag string) (Certificate, error) {
	var body uploadBody
	body.Properties.Certificate, body.Properties.IsVerified = certificate, verified
	return c.certificate(ctx, request{method: http.MethodPut, in: body, etag: etag}, name)
}

// GenerateVerificationCode gives out a new code for the proof of possession.
func (c *Client) GenerateVerificationCode(ctx context.Context, name, etag string) (Certificate, error) {
	return c.certificate(ctx, request{method: http.MethodPost, etag: etag}, name, "generateVerificationCode")
}

// VerifyCertificate uploads the proof of possession, in the encodings of
// RegisterCertificate.
func (c *Client) VerifyCertificate(ctx context.Context, name, proof, etag string) (Certificate, error) {
	return c.certificate(ctx, request{method: http.MethodPost, in: map[string]string{"certificate": proof}, etag: etag}, name, "verify")
}

// DeleteCertificate removes a CA certificate. Sessions that rest on it end.
func (c *Client) DeleteCertificate(ctx context.Context, name, etag string) error {
	_, err := c.certificate(ctx, request{method: http.MethodDelete, etag: etag}, name)
	return err
}

// A Hub is one tenant of the server.
type Hub struct {
	Name     string `json:"name"`
	HostName string `json:"hostName"`
	// AtExpiry is what becomes of sessions whose certificates expire.
	AtExpiry signet.ExpiryPolicy `json:"atExpiry"`
	// ConnectionString is the owner's; given by CreateHub alone.
	ConnectionString string `json:"connectionString,omitempty"`
}

// Hubs lists the hubs of the server by name. It takes the admin token, as
// CreateHub and DeleteHub do.
func (c *Client) Hubs(ctx context.Context) ([]Hub, error) {
	var list struct {
		Hubs []Hub `json:"hubs"`
	}
	err := c.do(ctx, request{method: http.MethodGet, path: "/signet/hubs", as: asAdmin, out: &list})
	return list.Hubs, err
}

// CreateHub makes a hub, or gives the one that is there by that very name and
// host name.
func (c *Client) CreateHub(ctx context.Context, name, hostName string) (Hub, error) {
	var h Hub
	err := c.do(ctx, request{method: http.MethodPut, path: "/signet/hubs/" + segment(name), as: asAdmin,
		in: map[string]string{"hostName": strings.TrimSpace(hostName)}, out: &h})
	return h, err
}

// SetAtExpiry changes what becomes of a hub's sessions at expiry.
func (c *Client) SetAtExpiry(ctx context.Context, name string, policy signet.ExpiryPolicy) (Hub, error) {
	var h Hub
	err := c.do(ctx, request{method: http.MethodPatch, path: "/signet/hubs/" + segment(name), as: asAdmin,
		in: map[string]signet.ExpiryPolicy{"atExpiry": policy}, out: &h})
	h.ConnectionString = ""
	return h, err
}

// Expiring lists what expires within a time, written as 30d or 12h; "" is 90
// days.
func (c *Client) Expiring(ctx context.Context, within string) ([]signet.Expiring, error) {
	query, err := c.ofHub(ctx)
	if err != nil {
		return nil, err
	}
	if within != "" {
		query.Set("within", within)
	}
	var answer struct {
		Expiring []signet.Expiring `json:"expiring"`
	}
	err = c.do(ctx, request{method: http.MethodGet, path: "/signet/expiring", query: query, as: asPolicy, out: &answer})
	return answer.Expiring, err
}

// DeleteHub removes a hub with everything that is in it.
func (c *Client) DeleteHub(ctx context.Context, name string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: "/signet/hubs/" + segment(name), as: asAdmin})
}
