package client

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/signet-iot/signet"
)

// A Twin is the document that a back end and a device share, as the service API
// writes it.
type Twin struct {
	DeviceID        string        `json:"deviceId"`
	ModuleID        string        `json:"moduleId,omitempty"`
	ETag            string        `json:"etag"`
	Version         int64         `json:"version"`
	Status          signet.Status `json:"status"`
	ConnectionState string        `json:"connectionState"` // Connected or Disconnected
	// LastActivityTime is in RFC 3339; the year 1 is never.
	LastActivityTime string          `json:"lastActivityTime"`
	Tags             json.RawMessage `json:"tags"`
	Properties       TwinProperties  `json:"properties"`
}

// TwinProperties are the two sides of a twin: JSON objects with the members
// $metadata and $version of the hub's.
type TwinProperties struct {
	Desired  json.RawMessage `json:"desired"`
	Reported json.RawMessage `json:"reported,omitempty"`
}

// A TwinPatch is what is to be merged into a twin (RFC 7396): JSON objects, nil
// where nothing is to change.
type TwinPatch struct {
	Tags    json.RawMessage
	Desired json.RawMessage
}

// Twin reads the twin of a device, or of a module where it is not "".
func (c *Client) Twin(ctx context.Context, device, module string) (Twin, error) {
	var t Twin
	err := c.do(ctx, request{method: http.MethodGet, path: twinPath(device, module), query: version(), out: &t})
	return t, err
}

// PatchTwin merges a patch into a twin whose etag is the one given; "" and "*" fit
// any. A connected device is told of new desired properties.
func (c *Client) PatchTwin(ctx context.Context, device, module string, p TwinPatch, etag string) (Twin, error) {
	return c.changeTwin(ctx, http.MethodPatch, device, module, p, etag)
}

// ReplaceTwin makes tags and desired properties what p says, empty where it says
// nothing; etag as for PatchTwin.
func (c *Client) ReplaceTwin(ctx context.Context, device, module string, p TwinPatch, etag string) (Twin, error) {
	return c.changeTwin(ctx, http.MethodPut, device, module, p, etag)
}

func (c *Client) changeTwin(ctx context.Context, method, device, module string, p TwinPatch, etag string) (Twin, error) {
	in := map[string]any{}
	if p.Tags != nil {
		in["tags"] = p.Tags
	}
	if p.Desired != nil {
		in["properties"] = TwinProperties{Desired: p.Desired}
	}
	var t Twin
	err := c.do(ctx, request{method: method, path: twinPath(device, module), query: version(), etag: quote(etag), in: in, out: &t})
	return t, err
}

// A MethodCall is a direct method to be called.
type MethodCall struct {
	Method  string
	Payload json.RawMessage // JSON; nil is null
	// ConnectTimeout is how long to wait for the device to connect, ResponseTimeout
	// for its answer: whole seconds, up to 300; at least 5 for the answer, and 30
	// when it is 0.
	ConnectTimeout, ResponseTimeout time.Duration
}

// A MethodResult is what the device answered.
type MethodResult struct {
	Status  int             `json:"status"`
	Payload json.RawMessage `json:"payload"`
}

// InvokeMethod calls a direct method of a device, or of a module where it is not
// "", and waits for the answer.
func (c *Client) InvokeMethod(ctx context.Context, device, module string, m MethodCall) (MethodResult, error) {
	in := map[string]any{"methodName": m.Method, "payload": m.Payload, "connectTimeoutInSeconds": int(m.ConnectTimeout / time.Second)}
	if m.ResponseTimeout != 0 {
		in["responseTimeoutInSeconds"] = int(m.ResponseTimeout / time.Second)
	}
	var r MethodResult
	ctx, cancel := context.WithTimeout(ctx, m.ConnectTimeout+m.ResponseTimeout+time.Minute)
	defer cancel()
	err := c.do(ctx, request{method: http.MethodPost, path: twinPath(device, module) + "/methods", query: version(), in: in, out: &r, patient: true})
	return r, err
}

func twinPath(device, module string) string {
	path := "/twins/" + segment(device)
	if module != "" {
		path += "/modules/" + segment(module)
	}
	return path
}
