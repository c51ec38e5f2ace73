package api

import (
	"net/http"
	"strings"

	"github.com/signet-iot/signet"
)

// moduleJSON is a module as Azure's registry writes it. A module has no status of
// its own: it may connect when its device may.
type moduleJSON struct {
	DeviceID                   string             `json:"deviceId"`
	ModuleID                   string             `json:"moduleId"`
	ManagedBy                  *string            `json:"managedBy"`
	GenerationID               string             `json:"generationId"`
	ETag                       string             `json:"etag"`
	ConnectionState            string             `json:"connectionState"`
	ConnectionStateUpdatedTime string             `json:"connectionStateUpdatedTime"`
	LastActivityTime           string             `json:"lastActivityTime"`
	CloudToDeviceMessageCount  int                `json:"cloudToDeviceMessageCount"`
	Authentication             authenticationJSON `json:"authentication"`
}

func (c *call) moduleJSON(i *signet.Identity, a signet.Activity) moduleJSON {
	return moduleJSON{
		DeviceID: i.DeviceID, ModuleID: i.ModuleID, GenerationID: i.GenerationID, ETag: i.ETag,
		ConnectionState:            c.connectionState(i),
		ConnectionStateUpdatedTime: azureTime(a.ConnectionUpdated), LastActivityTime: azureTime(a.LastActive),
		Authentication: newAuthenticationJSON(i.Auth),
	}
}

// GET /devices/{id}/modules
func (c *call) listModules() error {
	modules, err := c.Registry.Modules(c.r.Context(), c.hub.Name, c.args["device"])
	if err != nil {
		return err
	}
	activity, err := c.Registry.Activity(c.r.Context(), c.hub.Name, c.args["device"])
	if err != nil {
		return err
	}
	list := make([]moduleJSON, len(modules))
	for n := range modules {
		list[n] = c.moduleJSON(&modules[n], activity[modules[n].Name()])
	}
	return c.answer(http.StatusOK, list)
}

// PUT /devices/{id}/modules/{module}; see putIdentity.
func (c *call) putModule() error {
	var body moduleJSON
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	i := signet.Identity{Hub: c.hub.Name, DeviceID: c.args["device"], ModuleID: c.args["module"]}
	if body.DeviceID != "" && body.DeviceID != i.DeviceID || body.ModuleID != "" && body.ModuleID != i.ModuleID {
		return signet.Refuse(signet.RequestMalformed, "The IDs of the body are not those of the path.").
			At("moduleId", signet.Clip(i.Name()), signet.IdentityName(body.DeviceID, body.ModuleID))
	}
	i.Auth = body.Authentication.authentication()
	if strings.EqualFold(string(i.Auth.Type), "none") {
		i.Auth.Type = signet.AuthSAS // as Azure takes it, for modules
	}
	return c.putIdentity(i)
}
