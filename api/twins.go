package api

import (
	"encoding/json"
	"net/http"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/registry"
)

// maxTwin bounds the body of a change of a twin, in bytes: some SDKs send the
// whole of it back, with the metadata of each property.
const maxTwin = 1 << 20

// twinJSON is a twin as Azure's service API writes it.
type twinJSON struct {
	DeviceID                   string             `json:"deviceId"`
	ModuleID                   string             `json:"moduleId,omitempty"`
	ETag                       string             `json:"etag"`
	DeviceETag                 string             `json:"deviceEtag"`
	Status                     signet.Status      `json:"status"`
	StatusReason               *string            `json:"statusReason"`
	StatusUpdateTime           string             `json:"statusUpdateTime"`
	ConnectionState            string             `json:"connectionState"`
	ConnectionStateUpdatedTime string             `json:"connectionStateUpdatedTime,omitempty"` // Azure writes it of the identity only; a query may select it
	LastActivityTime           string             `json:"lastActivityTime"`
	CloudToDeviceMessageCount  int                `json:"cloudToDeviceMessageCount"`
	AuthenticationType         signet.AuthType    `json:"authenticationType"`
	X509Thumbprint             x509ThumbprintJSON `json:"x509Thumbprint"`
	ModelID                    string             `json:"modelId"`
	Version                    int64              `json:"version"`
	Tags                       json.RawMessage    `json:"tags"`
	Properties                 twinPropertiesJSON `json:"properties"`
	Capabilities               capabilitiesJSON   `json:"capabilities"`
}

type twinPropertiesJSON struct {
	Desired  json.RawMessage `json:"desired"`
	Reported json.RawMessage `json:"reported,omitempty"`
}

// answerTwin answers with a twin and what is known of its identity.
func (c *call) answerTwin(t *signet.Twin) error {
	i, err := c.Registry.Get(c.r.Context(), t.Hub, t.DeviceID, t.ModuleID)
	if err != nil {
		return err
	}
	r, err := c.known(i)
	if err != nil {
		return err
	}
	r.Twin = *t
	c.w.Header()["ETag"] = []string{`"` + t.ETag + `"`}
	return c.answer(http.StatusOK, newTwinJSON(&r, c.connectionState(&r.Identity)))
}

// newTwinJSON writes the twin of a record. Its fixed members are those of
// [query.Fields].
func newTwinJSON(r *registry.Record, connectionState string) twinJSON {
	i, t := &r.Identity, &r.Twin
	return twinJSON{
		DeviceID: t.DeviceID, ModuleID: t.ModuleID, ETag: t.ETag, DeviceETag: i.ETag,
		Status: i.Status, StatusReason: orNull(i.StatusReason), StatusUpdateTime: azureTime(i.StatusUpdatedTime),
		ConnectionState:           connectionState,
		LastActivityTime:          azureTime(r.Activity.LastActive),
		CloudToDeviceMessageCount: r.Waiting,
		AuthenticationType:        i.Auth.Type,
		X509Thumbprint:            x509ThumbprintJSON{orNull(i.Auth.PrimaryThumbprint), orNull(i.Auth.SecondaryThumbprint)},
		Version:                   t.Version, Tags: t.Tags,
		Properties:   twinPropertiesJSON{t.Desired.Document(), t.Reported.Document()},
		Capabilities: capabilitiesJSON{IotEdge: i.EdgeDevice},
	}
}

// GET /twins/{id}[/modules/{module}]
func (c *call) getTwin() error {
	t, err := c.Registry.Twin(c.r.Context(), c.hub.Name, c.args["device"], c.args["module"])
	if err != nil {
		return err
	}
	return c.answerTwin(&t)
}

// PATCH merges tags and desired properties, null removing; PUT replaces them, by
// nothing where they are left out. If-Match may be left out. Whatever else of a
// twin is sent is passed over, reported properties too.
func (c *call) patchTwin() error { return c.changeTwin(false) }
func (c *call) putTwin() error   { return c.changeTwin(true) }

func (c *call) changeTwin(replace bool) error {
	var body struct {
		Tags       json.RawMessage    `json:"tags"`
		Properties twinPropertiesJSON `json:"properties"`
	}
	if err := c.read(maxTwin, &body); err != nil {
		return err
	}
	t, err := c.Registry.ChangeTwin(c.r.Context(), c.hub.Name, c.args["device"], c.args["module"],
		registry.TwinChange{Tags: body.Tags, Desired: body.Properties.Desired, Replace: replace}, c.ifMatch())
	if err != nil {
		return err
	}
	return c.answerTwin(&t)
}
