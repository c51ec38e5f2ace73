package api

import (
	"net/http"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/registry"
)

// maxList is how many identities one list gives: Azure's limit.
const maxList = 1000

// deviceJSON is an identity as Azure's registry writes it; all members are
// there, with null where there is nothing.
type deviceJSON struct {
	DeviceID                   string             `json:"deviceId"`
	GenerationID               string             `json:"generationId"`
	ETag                       string             `json:"etag"`
	ConnectionState            string             `json:"connectionState"`
	Status                     signet.Status      `json:"status"`
	StatusReason               *string            `json:"statusReason"`
	ConnectionStateUpdatedTime string             `json:"connectionStateUpdatedTime"`
	StatusUpdatedTime          string             `json:"statusUpdatedTime"`
	LastActivityTime           string             `json:"lastActivityTime"`
	CloudToDeviceMessageCount  int                `json:"cloudToDeviceMessageCount"`
	Authentication             authenticationJSON `json:"authentication"`
	Capabilities               capabilitiesJSON   `json:"capabilities"`
}

type authenticationJSON struct {
	SymmetricKey   symmetricKeyJSON   `json:"symmetricKey"`
	X509Thumbprint x509ThumbprintJSON `json:"x509Thumbprint"`
	Type           signet.AuthType    `json:"type"`
}

type symmetricKeyJSON struct {
	PrimaryKey   *string `json:"primaryKey"`
	SecondaryKey *string `json:"secondaryKey"`
}

type x509ThumbprintJSON struct {
	PrimaryThumbprint   *string `json:"primaryThumbprint"`
	SecondaryThumbprint *string `json:"secondaryThumbprint"`
}

type capabilitiesJSON struct {
	IotEdge bool `json:"iotEdge"`
}

// deviceJSON writes a device and what is known of its activity; waiting counts the
// messages in its queue.
func (c *call) deviceJSON(i *signet.Identity, a signet.Activity, waiting int) deviceJSON {
	return deviceJSON{
		DeviceID: i.DeviceID, GenerationID: i.GenerationID, ETag: i.ETag,
		ConnectionState: c.connectionState(i),
		Status:          i.Status, StatusReason: orNull(i.StatusReason),
		ConnectionStateUpdatedTime: azureTime(a.ConnectionUpdated),
		StatusUpdatedTime:          azureTime(i.StatusUpdatedTime),
		LastActivityTime:           azureTime(a.LastActive),
		CloudToDeviceMessageCount:  waiting,
		Authentication:             newAuthenticationJSON(i.Auth),
		Capabilities:               capabilitiesJSON{IotEdge: i.EdgeDevice},
	}
}

func newAuthenticationJSON(a signet.Authentication) authenticationJSON {
	return authenticationJSON{
		Type:           a.Type,
		SymmetricKey:   symmetricKeyJSON{orNull(a.PrimaryKey), orNull(a.SecondaryKey)},
		X509Thumbprint: x509ThumbprintJSON{orNull(a.PrimaryThumbprint), orNull(a.SecondaryThumbprint)},
	}
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// azureTime writes a time as IoT Hub does; the zero time is its "never".
func azureTime(t time.Time) string { return signet.AzureTime(t) }

// authentication reads what a client wrote, and leaves open what it left open.
func (a authenticationJSON) authentication() signet.Authentication {
	auth := signet.Authentication{
		Type:       a.Type,
		PrimaryKey: orEmpty(a.SymmetricKey.PrimaryKey), SecondaryKey: orEmpty(a.SymmetricKey.SecondaryKey),
		PrimaryThumbprint: orEmpty(a.X509Thumbprint.PrimaryThumbprint), SecondaryThumbprint: orEmpty(a.X509Thumbprint.SecondaryThumbprint),
	}
	for _, t := range [...]signet.AuthType{signet.AuthSAS, signet.AuthSelfSigned, signet.AuthCA} {
		if strings.EqualFold(string(auth.Type), string(t)) {
			auth.Type = t
		}
	}
	if auth.Type == "" && (auth.PrimaryThumbprint != "" || auth.SecondaryThumbprint != "") {
		auth.Type = signet.AuthSelfSigned // as the SDKs conclude
	}
	return auth
}

// GET /devices?top=N: up to N devices by ID; 1000 unless told, and at most.
// Azure's list ends there; ?after=ID goes on behind a device.
func (c *call) listDevices() error {
	top, err := c.number("top", maxList, maxList)
	if err != nil {
		return err
	}
	identities, err := c.Registry.List(c.r.Context(), c.hub.Name, c.r.URL.Query().Get("after"), top)
	if err != nil {
		return err
	}
	list := make([]deviceJSON, len(identities))
	var waiting map[string]int
	var activity map[string]signet.Activity
	if last := len(identities) - 1; last >= 0 {
		first, last := identities[0].DeviceID, identities[last].DeviceID
		if waiting, err = c.Commands.Count(c.r.Context(), c.hub.Name, first, last); err != nil {
			return err
		}
		ids := make([]string, len(identities))
		for n := range identities {
			ids[n] = identities[n].DeviceID
		}
		if activity, err = c.Registry.Activity(c.r.Context(), c.hub.Name, ids...); err != nil {
			return err
		}
	}
	for n := range identities {
		id := identities[n].DeviceID
		list[n] = c.deviceJSON(&identities[n], activity[id], waiting[id])
	}
	return c.answer(http.StatusOK, list)
}

// GET /devices/{id}[/modules/{module}]
func (c *call) getIdentity() error {
	i, err := c.Registry.Get(c.r.Context(), c.hub.Name, c.args["device"], c.args["module"])
	if err != nil {
		return err
	}
	return c.answerIdentity(i)
}

// PUT /devices/{id}; see putIdentity.
func (c *call) putDevice() error {
	var body deviceJSON
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	id := c.args["device"]
	if body.DeviceID != "" && body.DeviceID != id {
		return signet.Refuse(signet.RequestMalformed, "The device ID of the body is not the one of the path.").At("deviceId", signet.Clip(id), body.DeviceID)
	}
	return c.putIdentity(signet.Identity{
		Hub: c.hub.Name, DeviceID: id,
		Status: body.Status, StatusReason: orEmpty(body.StatusReason),
		Auth:       body.Authentication.authentication(),
		EdgeDevice: body.Capabilities.IotEdge,
	})
}

// putIdentity creates when there is no If-Match, and only then; with it, it
// replaces, and only that.
func (c *call) putIdentity(i signet.Identity) (err error) {
	if etag := c.ifMatch(); etag == "" {
		i, err = c.Registry.Create(c.r.Context(), i)
	} else {
		i, err = c.Registry.Replace(c.r.Context(), i, etag)
	}
	if err != nil {
		return err
	}
	return c.answerIdentity(i)
}

// DELETE /devices/{id}[/modules/{module}]
func (c *call) deleteIdentity() error {
	if err := c.Registry.Delete(c.r.Context(), c.hub.Name, c.args["device"], c.args["module"], c.ifMatch()); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (c *call) answerIdentity(i signet.Identity) error {
	r, err := c.known(i)
	if err != nil {
		return err
	}
	c.w.Header()["ETag"] = []string{`"` + i.ETag + `"`}
	if i.ModuleID != "" {
		return c.answer(http.StatusOK, c.moduleJSON(&i, r.Activity))
	}
	return c.answer(http.StatusOK, c.deviceJSON(&i, r.Activity, r.Waiting))
}

// known gives what is known of an identity besides: its activity and, of a device,
// how many messages wait for it.
func (c *call) known(i signet.Identity) (r registry.Record, err error) {
	r.Identity = i
	activity, err := c.Registry.Activity(c.r.Context(), i.Hub, i.DeviceID)
	if err != nil {
		return r, err
	}
	r.Activity = activity[i.Name()]
	if i.ModuleID == "" {
		var waiting map[string]int
		waiting, err = c.Commands.Count(c.r.Context(), i.Hub, i.DeviceID, i.DeviceID)
		r.Waiting = waiting[i.DeviceID]
	}
	return r, err
}

func (c *call) deviceStatistics() error {
	total, enabled, err := c.Registry.Count(c.r.Context(), c.hub.Name)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, map[string]int64{
		"totalDeviceCount": total, "enabledDeviceCount": enabled, "disabledDeviceCount": total - enabled,
	})
}

func (c *call) serviceStatistics() error {
	return c.answer(http.StatusOK, map[string]int{"connectedDeviceCount": c.Hub.Sessions(c.hub.Name)})
}
