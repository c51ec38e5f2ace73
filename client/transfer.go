package client

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"

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
	file := &callersOut{Writer: w}
	if _, err := io.Copy(file, response.Body); file.err != nil {
		return file.err
	} else if err != nil {
		return c.unreachable(err)
	}
	return nil
}

// callersOut is what a caller has written to. It remembers that it failed: the hub did
// not.
type callersOut struct {
	io.Writer
	err error
}

func (f *callersOut) Write(b []byte) (n int, err error) {
	n, f.err = f.Writer.Write(b)
	return n, f.err
}

// callersIn is likewise what is read, by a goroutine of net/http that may outlive the
// request.
type callersIn struct {
	io.Reader
	err atomic.Pointer[error]
}

func (f *callersIn) Read(b []byte) (n int, err error) {
	if n, err = f.Reader.Read(b); err != nil && err != io.EOF {
		f.err.Store(&err)
	}
	return n, err
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
	file := &callersIn{Reader: r}
	err = c.do(ctx, request{method: http.MethodPost, path: "/signet/devices/import", query: query, stream: file, out: &result, patient: true})
	if failed := file.err.Load(); err != nil && failed != nil {
		err = *failed
	}
	return result, err
}
