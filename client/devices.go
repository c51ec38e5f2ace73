package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/signet-iot/signet"
)

// A Device is an identity in the registry as the service API writes it.
type Device struct {
	DeviceID          string        `json:"deviceId"`
	GenerationID      string        `json:"generationId,omitempty"`
	ETag              string        `json:"etag,omitempty"`
	ConnectionState   string        `json:"connectionState,omitempty"` // Connected or Disconnected
	Status            signet.Status `json:"status,omitempty"`
	StatusReason      string        `json:"statusReason,omitempty"`
	StatusUpdatedTime string        `json:"statusUpdatedTime,omitempty"`
	// These two are in RFC 3339; the year 1 is never.
	ConnectionStateUpdatedTime string `json:"connectionStateUpdatedTime,omitempty"`
	LastActivityTime           string `json:"lastActivityTime,omitempty"`
	// MessageCount counts what waits for the device in its queue.
	MessageCount   int            `json:"cloudToDeviceMessageCount,omitempty"`
	Authentication Authentication `json:"authentication"`
	Capabilities   Capabilities   `json:"capabilities"`
}

// Capabilities are what a device can do besides.
type Capabilities struct {
	IotEdge bool `json:"iotEdge"`
}

// Authentication is how a device proves itself. What its type does not use is
// empty; keys left empty are generated.
type Authentication struct {
	Type           signet.AuthType `json:"type,omitempty"`
	SymmetricKey   SymmetricKey    `json:"symmetricKey"`
	X509Thumbprint X509Thumbprint  `json:"x509Thumbprint"`
}

// SymmetricKey holds the keys of a sas device: base64.
type SymmetricKey struct {
	PrimaryKey   string `json:"primaryKey,omitempty"`
	SecondaryKey string `json:"secondaryKey,omitempty"`
}

// X509Thumbprint holds the thumbprints of a selfSigned device: SHA-1 or SHA-256
// in hex.
type X509Thumbprint struct {
	PrimaryThumbprint   string `json:"primaryThumbprint,omitempty"`
	SecondaryThumbprint string `json:"secondaryThumbprint,omitempty"`
}

func version() url.Values { return url.Values{"api-version": {serviceVersion}} }

// CreateDevice adds a device; that it is there already is an error.
func (c *Client) CreateDevice(ctx context.Context, d Device) (Device, error) {
	return c.putDevice(ctx, d, "")
}

// ReplaceDevice replaces a device whose etag is the one given, or whatever it is
// with "*".
func (c *Client) ReplaceDevice(ctx context.Context, d Device, etag string) (Device, error) {
	return c.putDevice(ctx, d, quote(etag))
}

func (c *Client) putDevice(ctx context.Context, d Device, etag string) (Device, error) {
	var answer Device
	err := c.do(ctx, request{method: http.MethodPut, path: "/devices/" + segment(d.DeviceID), query: version(), etag: etag, in: d, out: &answer})
	return answer, err
}

// Device reads a device.
func (c *Client) Device(ctx context.Context, id string) (Device, error) {
	var d Device
	err := c.do(ctx, request{method: http.MethodGet, path: "/devices/" + segment(id), query: version(), out: &d})
	return d, err
}

// DeleteDevice removes a device whose etag is the one given, or "*". Its session
// ends.
func (c *Client) DeleteDevice(ctx context.Context, id, etag string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: "/devices/" + segment(id), query: version(), etag: quote(etag)})
}

// Devices lists up to limit devices, at most 1000, with IDs after the one given,
// in byte order.
func (c *Client) Devices(ctx context.Context, after string, limit int) ([]Device, error) {
	q := version()
	q.Set("top", strconv.Itoa(limit))
	if after != "" {
		q.Set("after", after)
	}
	var list []Device
	err := c.do(ctx, request{method: http.MethodGet, path: "/devices", query: q, out: &list})
	return list, err
}

// CreateDevices adds up to 100 devices in one request. When some fail, it gives
// the error of the first, and the others are there.
func (c *Client) CreateDevices(ctx context.Context, devices []Device) error {
	type item struct {
		Device
		ID         string `json:"id"`
		ImportMode string `json:"importMode"`
	}
	items := make([]item, len(devices))
	for n, d := range devices {
		items[n] = item{d, d.DeviceID, "create"}
	}
	return c.do(ctx, request{method: http.MethodPost, path: "/devices", query: version(), in: items})
}

// quote writes an etag as If-Match has it (RFC 9110 §13.1.1).
func quote(etag string) string {
	if etag == "" || etag == "*" {
		return etag
	}
	return `"` + etag + `"`
}
