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

// identity reads what a client wrote, and leaves open what it left open.
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
		if activity, err = c.Registry.Activity(c.r.Context(), c.hub.Name, first, last); err != nil {
			return err
		}
	}
	for n := range identities {
		id := identities[n].DeviceID
		list[n] = c.deviceJSON(&identities[n], activity[id], waiting[id])
	}
	return c.answer(http.StatusOK, list)
}

func (c *call) getDevice() error {
	i, err := c.Registry.Get(c.r.Context(), c.hub.Name, c.args["device"], "")
	if err != nil {
		return err
	}
	return c.answerDevice(&i)
}

// PUT /devices/{id} creates when there is no If-Match, and only then; with it,
// it replaces, and only that.
func (c *call) putDevice() error {
	var body deviceJSON
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	id := c.args["device"]
	if body.DeviceID != "" && body.DeviceID != id {
		return signet.Refuse(signet.RequestMalformed, "The device ID of the body is not the one of the path.").At("deviceId", signet.Clip(id), body.DeviceID)
	}
	i := signet.Identity{
		Hub: c.hub.Name, DeviceID: id,
		Status: body.Status, StatusReason: orEmpty(body.StatusReason),
		Auth:       body.Authentication.authentication(),
		EdgeDevice: body.Capabilities.IotEdge,
	}
	var err error
	if etag := c.ifMatch(); etag == "" {
		i, err = c.Registry.Create(c.r.Context(), i)
	} else {
		i, err = c.Registry.Replace(c.r.Context(), i, etag)
	}
	if err != nil {
		return err
	}
	return c.answerDevice(&i)
}

func (c *call) answerDevice(i *signet.Identity) error {
	waiting, err := c.Commands.Count(c.r.Context(), i.Hub, i.DeviceID, i.DeviceID)
	if err != nil {
		return err
	}
	activity, err := c.activityOf(i)
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", `"`+i.ETag+`"`)
	return c.answer(http.StatusOK, c.deviceJSON(i, activity, waiting[i.DeviceID]))
}

func (c *call) deleteDevice() error {
	if err := c.Registry.Delete(c.r.Context(), c.hub.Name, c.args["device"], "", c.ifMatch()); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

// bulkItem is one ExportImportDevice.
type bulkItem struct {
	ID             string             `json:"id"`
	ModuleID       string             `json:"moduleId"`
	ETag           string             `json:"eTag"`
	ImportMode     string             `json:"importMode"`
	Status         signet.Status      `json:"status"`
	StatusReason   *string            `json:"statusReason"`
	Authentication authenticationJSON `json:"authentication"`
	Capabilities   capabilitiesJSON   `json:"capabilities"`
	Tags           map[string]any     `json:"tags"`
	Properties     map[string]any     `json:"properties"`
}

// bulkResult is Azure's BulkRegistryOperationResult.
type bulkResult struct {
	IsSuccessful bool          `json:"isSuccessful"`
	Errors       []bulkError   `json:"errors"`
	Warnings     []bulkWarning `json:"warnings"`
}

type bulkError struct {
	DeviceID    string        `json:"deviceId"`
	ErrorCode   string        `json:"errorCode"`
	ErrorStatus string        `json:"errorStatus"`
	ModuleID    *string       `json:"moduleId"`
	Operation   string        `json:"operation"`
	Signet      *signet.Error `json:"signet"`
}

type bulkWarning struct {
	DeviceID      string `json:"deviceId"`
	WarningCode   string `json:"warningCode"`
	WarningStatus string `json:"warningStatus"`
}

// POST /devices carries out up to 100 operations; each stands for itself. Any
// error makes the answer a 400 that names those that failed.
func (c *call) bulkDevices() error {
	var body []bulkItem
	if err := c.read(maxBulk, &body); err != nil {
		return err
	}
	if len(body) > registry.MaxBulk {
		return signet.Refuse(signet.LimitRequestSize, "%d items are more than the %d that one bulk operation takes.", len(body), registry.MaxBulk)
	}
	result := bulkResult{Errors: []bulkError{}, Warnings: []bulkWarning{}}
	fail := func(item *bulkItem, name string, e *signet.Error) {
		if e.Code == signet.Internal {
			c.Logger.Error("bulk item failed", "hub", c.hub.Name, "device", signet.Clip(item.ID), "cause", e.Cause)
		}
		result.Errors = append(result.Errors, bulkError{
			DeviceID: signet.Clip(item.ID), ErrorCode: name, ErrorStatus: e.Message,
			ModuleID: orNull(signet.Clip(item.ModuleID)), Operation: signet.Clip(item.ImportMode), Signet: e,
		})
	}
	items := make([]registry.BulkItem, len(body))
	named := make(map[string]bool, len(body))
	for n := range body {
		item := &body[n]
		items[n] = registry.BulkItem{
			Mode: bulkMode(item.ImportMode), ETag: strings.Trim(item.ETag, `"`),
			Identity: signet.Identity{
				DeviceID: item.ID, Status: item.Status, StatusReason: orEmpty(item.StatusReason),
				Auth: item.Authentication.authentication(), EdgeDevice: item.Capabilities.IotEdge,
			},
		}
		if item.ModuleID != "" {
			fail(item, "ArgumentInvalid", signet.Refuse(signet.RequestNotFound, "Modules are not taken in bulk yet."))
		} else if named[item.ID] {
			fail(item, "DeviceDefinedMultipleTimes", signet.Refuse(signet.RequestMalformed, "The device %q is named more than once.", signet.Clip(item.ID)))
		}
		named[item.ID] = true
	}
	// What the request itself has wrong stops all of it; order among equals would
	// be anybody's guess.
	if len(result.Errors) == 0 {
		for n, err := range c.Registry.Bulk(c.r.Context(), c.hub.Name, items) {
			item := &body[n]
			if err != nil {
				e := *signet.AsError(err)
				fail(item, azureErrorOf(e.Code).name, &e)
			} else if len(item.Tags)+len(item.Properties) > 0 {
				result.Warnings = append(result.Warnings, bulkWarning{item.ID, "DeviceRegisteredWithoutTwin", "Tags and properties are not taken in bulk yet, and were left out; set them at /twins."})
			}
		}
	}
	status := http.StatusOK
	if result.IsSuccessful = len(result.Errors) == 0; !result.IsSuccessful {
		status = http.StatusBadRequest
		c.w.Header().Set("Iothub-Errorcode", azureErrorOf(signet.BulkFailed).name)
	}
	return c.answer(status, result)
}

// bulkMode finds the mode whatever its case; one that is none comes back as is,
// for the registry to refuse.
func bulkMode(text string) registry.BulkMode {
	for _, m := range [...]registry.BulkMode{
		registry.BulkCreate, registry.BulkUpdate, registry.BulkUpdateIfMatchETag,
		registry.BulkDelete, registry.BulkDeleteIfMatchETag, registry.BulkCreateOrUpdate,
	} {
		if strings.EqualFold(text, string(m)) {
			return m
		}
	}
	return registry.BulkMode(text)
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
