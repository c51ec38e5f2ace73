package client

import (
	"context"
	"io"
	"net/http"

	"github.com/signet-iot/signet"
)

// ExportDevices writes the identities of the hub to w, one a line of JSON, as
// [Client.ImportDevices] reads them: with their tags and desired properties and,
// if keys is true, their symmetric keys. When it fails, w has a part.
func (c *Client) ExportDevices(ctx context.Context, w io.Writer, keys bool) error {
	query, err := c.ofHub(ctx)
	if err != nil {
		return err
	}
	if !keys {
		query.Set("keys", "false")
	}
	response, err := c.open(ctx, request{method: http.MethodGet, path: "/signet/devices/export", query: query})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(w, response.Body); err != nil {
		return c.unreachable(err)
	}
	return nil
}

// Imported says what became of an import.
type Imported struct {
	Lines     int             `json:"lines"`
	Succeeded int             `json:"succeeded"`
	Failed    int             `json:"failed"`
	Errors    []ImportProblem `json:"errors"` // the first thousand
	Warnings  []ImportProblem `json:"warnings"`
}

// An ImportProblem is a line that failed, or was done in part.
type ImportProblem struct {
	Line     int           `json:"line"`
	DeviceID string        `json:"deviceId"`
	ModuleID string        `json:"moduleId,omitempty"`
	Warning  string        `json:"warningStatus,omitempty"`
	Signet   *signet.Error `json:"signet,omitempty"` // nil for a warning
}

// ImportDevices carries out an operation for each line of JSON that r gives: by its
// importMode, or createOrUpdate. Lines that fail stop no other.
func (c *Client) ImportDevices(ctx context.Context, r io.Reader) (Imported, error) {
	var result Imported
	query, err := c.ofHub(ctx)
	if err != nil {
		return result, err
	}
	err = c.do(ctx, request{method: http.MethodPost, path: "/signet/devices/import", query: query, stream: r, out: &result, patient: true})
	return result, err
}
