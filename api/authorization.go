package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"strings"

	"github.com/signet-iot/signet"
)

// ownerRights are what the policy iothubowner has: everything.
const ownerRights = signet.RegistryRead | signet.RegistryWrite | signet.ServiceConnect | signet.DeviceConnect

// policy lets in who holds a key of a shared access policy with the right, at
// the hub whose host name was called.
func policy(right signet.Rights) func(*call) error {
	return func(c *call) (err error) {
		if c.hub, err = c.Registry.HubByHost(c.r.Host); err != nil {
			return err
		}
		return c.checkSAS(right)
	}
}

// enroller lets in who holds a key of a policy of a provisioning service with
// the right.
func enroller(right signet.Rights) func(*call) error {
	return func(c *call) (err error) {
		if c.hub, err = c.Registry.ServiceByHost(c.r.Host); err != nil {
			return err
		}
		return c.checkSAS(right)
	}
}

// admin lets in the holder of the admin token; the hub, or the provisioning
// service, is the one in the path.
func admin(c *call) error { return c.admit("") }

func (c *call) admit(besides string) (err error) {
	if err := c.checkBearer(besides); err != nil {
		return err
	}
	if c.dialect == management && c.args["hub"]+c.args["service"] != "" {
		c.hub, err = c.named()
	}
	return err
}

// named finds the hub, or the provisioning service, that the path names: neither
// goes by the other's path.
func (c *call) named() (signet.Hub, error) {
	name, provisions := c.args["hub"], false
	if name == "" {
		name, provisions = c.args["service"], true
	}
	h, err := c.Registry.HubByName(name)
	switch {
	case err != nil:
		return signet.Hub{}, err
	case provisions && !h.Provisions():
		return signet.Hub{}, signet.Refuse(signet.HubUnknown, "%q is a hub, and no provisioning service.", h.Name)
	case !provisions && h.Provisions():
		return signet.Hub{}, signet.Refuse(signet.HubUnknown, "%q is a provisioning service, and no hub.", h.Name)
	}
	return h, nil
}

// owner lets in the admin, and at a hub of its own who holds a key of a policy
// with every right. Azure's management API knows no shared access policies;
// here an owner's connection string is enough to run one hub.
func owner(c *call) error {
	if !c.showsSAS() {
		return c.admit(", or a SAS token of the hub's owner")
	}
	if c.args["hub"] != "" {
		// No hub, no policy, no signature that fits: a name that is not there is
		// refused as a wrong key is.
		c.hub, _ = c.named()
	} else {
		c.hub, _ = c.Registry.HubByHost(c.r.Host)
	}
	return c.checkSAS(ownerRights)
}

// serviceOwner is owner at a provisioning service, whose policy that is which may
// configure it.
func serviceOwner(c *call) error {
	if !c.showsSAS() {
		return c.admit(", or a SAS token of the provisioning service's owner")
	}
	if c.args["service"] != "" {
		c.hub, _ = c.named()
	} else {
		c.hub, _ = c.Registry.ServiceByHost(c.r.Host)
	}
	return c.checkSAS(signet.ServiceConfig)
}

// operator lets in the admin, at any hub (named by ?hub= or by the host), and
// who holds a key of a policy with the right, at the hub whose host name was
// called, or at the provisioning service that ?hub= names.
func operator(right signet.Rights) func(*call) error {
	return func(c *call) (err error) {
		if c.showsSAS() {
			if h, err := c.Registry.HubByName(c.r.URL.Query().Get("hub")); err == nil && h.Provisions() {
				c.hub = h
				return c.checkSAS(serviceRight(right))
			}
			if err := policy(right)(c); err != nil {
				return err
			}
			// What is meant for one hub is not done at another.
			if name := c.r.URL.Query().Get("hub"); name != "" && !strings.EqualFold(name, c.hub.Name) {
				c.w.Header().Set("WWW-Authenticate", "SharedAccessSignature")
				return signet.Refuse(signet.TokenAudience, "The SAS token is for the hub %q, and ?hub= names %q.", c.hub.Name, signet.Clip(name)).
					At("hub", c.hub.Name, name)
			}
			return nil
		}
		if err := c.checkBearer(", or a SAS token with the right " + right.String()); err != nil {
			return err
		}
		if name := c.r.URL.Query().Get("hub"); name != "" {
			c.hub, err = c.Registry.HubByName(name)
		} else {
			c.hub, err = c.Registry.HubByHost(c.r.Host)
		}
		return err
	}
}

// ofDevices is operator at a hub: a provisioning service has no devices.
func ofDevices(right signet.Rights) func(*call) error {
	return func(c *call) error {
		if err := operator(right)(c); err != nil {
			return err
		}
		return c.seesDevices()
	}
}

// serviceRight gives the right at a provisioning service that stands for one at a
// hub.
func serviceRight(right signet.Rights) signet.Rights {
	switch right {
	case signet.ServiceConnect:
		return signet.RegistrationStatusRead
	case signet.RegistryRead:
		return signet.EnrollmentRead
	}
	return signet.ServiceConfig
}

func (c *call) showsSAS() bool {
	return strings.HasPrefix(c.r.Header.Get("Authorization"), "SharedAccessSignature ")
}

// checkBearer compares the bearer token with the admin token in constant time.
// besides says what else would have done.
func (c *call) checkBearer(besides string) error {
	scheme, token, _ := strings.Cut(c.r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		c.w.Header().Set("WWW-Authenticate", `Bearer realm="signet"`)
		return signet.Refuse(signet.TokenNone, "This takes the admin token of the server%s.", besides).
			FixBy("Send Authorization: Bearer, and the token from the file admin.token in the server's data folder (signet: SIGNET_TOKEN or --token-file).")
	}
	secret := c.AdminToken()
	want, have := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(token)) // of one length, whatever came
	if secret == "" || subtle.ConstantTimeCompare(want[:], have[:]) != 1 {
		c.w.Header().Set("WWW-Authenticate", `Bearer realm="signet", error="invalid_token"`)
		return signet.Refuse(signet.TokenSignature, "The bearer token is not the admin token of the server.").
			FixBy("Use the token from the file admin.token in the server's data folder.")
	}
	c.by = "admin"
	return nil
}

// checkSAS checks a SAS token of a policy of the call's hub. What the signature
// does not cover is believed of no token, so it is checked first; a policy that
// is not there and a wrong key are one answer.
func (c *call) checkSAS(right signet.Rights) error {
	c.w.Header().Set("WWW-Authenticate", "SharedAccessSignature")
	text := c.r.Header.Get("Authorization")
	if text == "" {
		return signet.Refuse(signet.TokenNone, "The request has no Authorization header.").
			FixBy("Send a SAS token of a shared access policy.")
	}
	token, err := signet.ParseSASToken(text)
	if err != nil {
		return err
	}
	of := c.hub.Policy(token.Policy)
	if !token.SignedBy(of.PrimaryKey, of.SecondaryKey) {
		return signet.Refuse(signet.TokenSignature, "The SAS token is not signed with a key of a shared access policy of this hub.")
	}
	resource := ""
	if c.dialect == service || c.dialect == enrolling {
		resource = strings.Join(c.path, "/")
	}
	// A provisioning service is called by any name of the server, and its key is good
	// for itself alone.
	if !token.Covers(c.hub.HostName, resource) && !(c.hub.Provisions() && token.Covers(signet.HostOnly(c.r.Host), resource)) {
		return signet.Refuse(signet.TokenAudience, "The SAS token is for %q.", signet.Clip(token.Resource)).
			At("sr", c.hub.HostName, token.Resource)
	}
	if c.expires, err = token.Until(c.Now()); err != nil {
		return err
	}
	if err := of.Gives(right); err != nil {
		return err
	}
	c.by = of.Name
	c.w.Header().Del("WWW-Authenticate")
	return nil
}
