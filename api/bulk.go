package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/query"
	"github.com/signet-iot/signet/registry"
)

// bulkItem is one ExportImportDevice.
type bulkItem struct {
	ID             string             `json:"id"`
	ModuleID       string             `json:"moduleId,omitempty"`
	ETag           string             `json:"eTag,omitempty"`
	ImportMode     string             `json:"importMode,omitempty"`
	Status         signet.Status      `json:"status,omitempty"`
	StatusReason   *string            `json:"statusReason,omitempty"`
	Authentication authenticationJSON `json:"authentication"`
	Capabilities   *capabilitiesJSON  `json:"capabilities,omitempty"`
	TwinETag       string             `json:"twinETag,omitempty"`
	Tags           json.RawMessage    `json:"tags,omitempty"`
	Properties     *bulkProperties    `json:"properties,omitempty"`
}

// bulkProperties are those of a back end; reported ones are the device's.
type bulkProperties struct {
	Desired json.RawMessage `json:"desired,omitempty"`
}

func (item *bulkItem) of() registry.BulkItem {
	i := registry.BulkItem{
		Mode: bulkMode(item.ImportMode), ETag: strings.Trim(item.ETag, `"`), TwinETag: strings.Trim(item.TwinETag, `"`), Tags: item.Tags,
		Identity: signet.Identity{
			DeviceID: item.ID, ModuleID: item.ModuleID, Status: item.Status, StatusReason: orEmpty(item.StatusReason),
			Auth: item.Authentication.authentication(),
		},
	}
	if item.Capabilities != nil {
		i.Identity.EdgeDevice = item.Capabilities.IotEdge
	}
	if item.Properties != nil {
		i.Desired = item.Properties.Desired
	}
	if item.ModuleID != "" {
		i.Identity.Status = "" // a module may connect when its device may
		if strings.EqualFold(string(i.Identity.Auth.Type), "none") {
			i.Identity.Auth.Type = signet.AuthSAS
		}
	}
	return i
}

// bulkMode finds the mode whatever its case; one that is none comes back as is,
// for the registry to refuse.
func bulkMode(text string) registry.BulkMode {
	for _, m := range [...]registry.BulkMode{
		registry.BulkCreate, registry.BulkUpdate, registry.BulkUpdateIfMatchETag, registry.BulkDelete, registry.BulkDeleteIfMatchETag,
		registry.BulkCreateOrUpdate, registry.BulkUpdateTwin, registry.BulkUpdateTwinIfMatchETag,
	} {
		if strings.EqualFold(text, string(m)) {
			return m
		}
	}
	return registry.BulkMode(text)
}

// bulkResult is Azure's BulkRegistryOperationResult.
type bulkResult struct {
	IsSuccessful bool          `json:"isSuccessful"`
	Errors       []bulkError   `json:"errors"`
	Warnings     []bulkWarning `json:"warnings"`
}

type bulkError struct {
	Line        int           `json:"line,omitempty"` // of an import
	DeviceID    string        `json:"deviceId"`
	ErrorCode   string        `json:"errorCode"`
	ErrorStatus string        `json:"errorStatus"`
	ModuleID    *string       `json:"moduleId"`
	Operation   string        `json:"operation"`
	Signet      *signet.Error `json:"signet"`
}

type bulkWarning struct {
	Line          int    `json:"line,omitempty"` // of an import
	DeviceID      string `json:"deviceId"`
	WarningCode   string `json:"warningCode"`
	WarningStatus string `json:"warningStatus"`
}

func (c *call) bulkError(item *bulkItem, name string, e *signet.Error) bulkError {
	if e.Code == signet.Internal {
		c.Logger.Error("bulk item failed", "hub", c.hub.Name, "device", signet.Clip(item.ID), "cause", e.Cause)
	}
	return bulkError{
		DeviceID: signet.Clip(item.ID), ErrorCode: name, ErrorStatus: e.Message,
		ModuleID: orNull(signet.Clip(item.ModuleID)), Operation: signet.Clip(item.ImportMode), Signet: e,
	}
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
	if err := c.count(signet.MeterRegistry, "", len(body)-1); err != nil { // one is counted already
		return err
	}
	result := bulkResult{Errors: []bulkError{}, Warnings: []bulkWarning{}}
	named := make(map[[2]string]bool, len(body))
	for n := range body {
		item := &body[n]
		key := [2]string{item.ID, item.ModuleID}
		if named[key] {
			result.Errors = append(result.Errors, c.bulkError(item, "DeviceDefinedMultipleTimes",
				signet.Refuse(signet.RequestMalformed, "The identity %q is named more than once.", signet.Clip(signet.IdentityName(item.ID, item.ModuleID)))))
		}
		named[key] = true
	}
	// What the request itself has wrong stops all of it; order among equals would
	// be anybody's guess.
	if len(result.Errors) == 0 {
		result = c.carryOut(body)
	}
	status := http.StatusOK
	if result.IsSuccessful = len(result.Errors) == 0; !result.IsSuccessful {
		status = http.StatusBadRequest
		c.w.Header()["iothub-errorcode"] = []string{azureErrorOf(signet.BulkFailed).name}
	}
	return c.answer(status, result)
}

// carryOut carries out items of which no two are of one identity.
func (c *call) carryOut(body []bulkItem) bulkResult {
	result := bulkResult{Errors: []bulkError{}, Warnings: []bulkWarning{}}
	items := make([]registry.BulkItem, len(body))
	for n := range body {
		items[n] = body[n].of()
	}
	for n, o := range c.Registry.Bulk(c.r.Context(), c.hub.Name, items) {
		item := &body[n]
		if o.Err != nil {
			e := *signet.AsError(o.Err)
			failed := c.bulkError(item, azureErrorOf(e.Code).name, &e)
			failed.Line = n
			result.Errors = append(result.Errors, failed)
		}
		if o.Twin != nil {
			e := signet.AsError(o.Twin)
			c.Logger.Error("a twin of a bulk item was not written", "hub", c.hub.Name, "device", signet.Clip(item.ID), "error", o.Twin)
			result.Warnings = append(result.Warnings, bulkWarning{n, signet.Clip(item.ID), "DeviceRegisteredWithoutTwin",
				"The identity is there, its tags and desired properties are not: " + e.Message})
		}
	}
	return result
}

const (
	// maxImportLine bounds one line: a twin of the largest, with escapes.
	maxImportLine = 512 << 10
	// importBytes bounds the lines of a batch that are in memory.
	importBytes = 4 << 20
	// importPatience is how long a batch may be on its way to us, or to the disk.
	importPatience = time.Minute
	// maxImportErrors is how many failures the answer names; the rest is counted.
	maxImportErrors = 1000
	// maxImports is how many imports run at a time, on all hubs: each keeps the disk
	// busy. A hub has one of them: one that comes slowly keeps no other hub waiting.
	maxImports = 2
)

// importResult is the answer to an import.
type importResult struct {
	Lines     int           `json:"lines"`
	Succeeded int           `json:"succeeded"`
	Failed    int           `json:"failed"`
	Errors    []bulkError   `json:"errors"` // the first thousand
	Warnings  []bulkWarning `json:"warnings"`
}

// POST /signet/devices/import carries out one operation a line, as POST /devices
// does for a hundred; without importMode, createOrUpdate. The body may have any
// length; it is read as fast as it is carried out. Lines that fail are told of,
// and stop no other.
func (c *call) importDevices() error {
	if _, busy := c.importing.LoadOrStore(c.hub.Name, nil); busy {
		return signet.Refuse(signet.Unavailable, "An import of the hub is under way.").FixBy("Try again when it has ended.")
	}
	defer c.importing.Delete(c.hub.Name)
	select {
	case c.imports <- struct{}{}:
		defer func() { <-c.imports }()
	default:
		return signet.Refuse(signet.Unavailable, "As many imports as may are under way.").FixBy("Try again when one of them has ended.")
	}
	result := importResult{Errors: []bulkError{}, Warnings: []bulkWarning{}}
	control := http.NewResponseController(c.w)
	var batch []bulkItem
	var at []int // the line of each
	size := 0
	named := map[[2]string]bool{}
	fail := func(line int, e bulkError) {
		result.Failed++
		if e.Line = line; len(result.Errors) < maxImportErrors {
			result.Errors = append(result.Errors, e)
		}
	}
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		// The server's time limits are for requests; this one has them for each batch.
		control.SetReadDeadline(time.Now().Add(2 * importPatience))
		control.SetWriteDeadline(time.Now().Add(2 * importPatience))
		if err := c.pace(signet.MeterRegistry, len(batch)); err != nil {
			return err
		}
		if err := c.importGoesOn(); err != nil {
			return err
		}
		done := c.carryOut(batch)
		for _, e := range done.Errors {
			fail(at[e.Line], e)
		}
		for _, w := range done.Warnings {
			if w.Line = at[w.Line]; len(result.Warnings) < maxImportErrors {
				result.Warnings = append(result.Warnings, w)
			}
		}
		result.Succeeded += len(batch) - len(done.Errors)
		batch, at, size = batch[:0], at[:0], 0
		clear(named)
		return nil
	}
	control.SetReadDeadline(time.Now().Add(importPatience))
	control.SetWriteDeadline(time.Now().Add(2 * importPatience))
	lines := bufio.NewScanner(c.r.Body)
	lines.Buffer(nil, maxImportLine)
	for lines.Scan() {
		result.Lines++
		text := lines.Bytes()
		if len(strings.TrimSpace(string(text))) == 0 {
			continue
		}
		var item bulkItem
		if err := importLine(text, &item); err != nil {
			fail(result.Lines, c.bulkError(&item, azureErrorOf(signet.RequestMalformed).name, signet.AsError(err)))
			continue
		}
		key := [2]string{item.ID, item.ModuleID}
		if named[key] || len(batch) == registry.MaxBulk || size+len(text) > importBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, at, size, named[key] = append(batch, item), append(at, result.Lines), size+len(text), true
	}
	if err := flush(); err != nil {
		return err
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return c.importEnded(&result, signet.Refuse(signet.LimitRequestSize, "Line %d is longer than %d bytes.", result.Lines+1, maxImportLine))
	case err != nil:
		return c.importEnded(&result, signet.Refuse(signet.RequestMalformed, "The body ends before it should, after line %d.", result.Lines))
	}
	return c.answer(http.StatusOK, result)
}

// importEnded refuses the rest of an import; what came before is done.
func (c *call) importEnded(r *importResult, e *signet.Error) error {
	e.Message += fmt.Sprintf(" Of the lines before it %d are done, and %d failed.", r.Succeeded, r.Failed)
	return e
}

// importGoesOn says why an import does not: the server stops, or the hub is
// another.
func (c *call) importGoesOn() error {
	if c.Draining.Err() != nil {
		return signet.Refuse(signet.Unavailable, "The server is about to stop. What has come of the import is done in part.")
	}
	if err := c.still(); err != nil {
		return err
	}
	return c.r.Context().Err()
}

func importLine(text []byte, item *bulkItem) error {
	if deepest, _ := shape(text); !utf8.Valid(text) || deepest > maxDepth {
		return signet.Refuse(signet.RequestMalformed, "The line is not JSON in UTF-8, or nests too deep.")
	}
	if err := json.Unmarshal(text, item); err != nil {
		return signet.Refuse(signet.RequestMalformed, "The line is not the JSON of an identity: %v.", err)
	}
	if item.ImportMode == "" {
		item.ImportMode = string(registry.BulkCreateOrUpdate)
	}
	return nil
}

// GET /signet/devices/export?keys=false streams the identities of the hub, one a
// line, as POST /signet/devices/import takes them: devices by ID, then modules.
// Reported properties are the devices' own, and not part of it.
func (c *call) exportDevices() error {
	leave, err := c.page()
	if err != nil {
		return err
	}
	defer leave()
	keys := c.r.URL.Query().Get("keys") != "false"
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	defer context.AfterFunc(c.Draining, cancel)()
	out := c.lines()
	defer out.close()
	for _, text := range []string{"SELECT * FROM devices", "SELECT * FROM devices.modules"} {
		q, err := query.Parse(text)
		for page := (registry.Page{More: true}); page.More && err == nil; {
			if page, err = c.Registry.Find(ctx, c.hub.Name, q, page.Next, registry.MaxPage); err == nil && !c.sameHub() {
				err = io.ErrUnexpectedEOF
			}
			for n := 0; n < len(page.Records) && err == nil; n++ {
				var line []byte
				if line, err = encode(exported(&page.Records[n], keys)); err == nil {
					err = out.write(line)
				}
			}
		}
		if err != nil { // the answer has begun: it can only be cut short
			if ctx.Err() == nil {
				c.Logger.Error("an export was cut short", "hub", c.hub.Name, "error", err)
			}
			panic(http.ErrAbortHandler)
		}
	}
	return nil
}

func exported(r *registry.Record, keys bool) bulkItem {
	i, t := &r.Identity, &r.Twin
	item := bulkItem{
		ID: i.DeviceID, ModuleID: i.ModuleID, ETag: i.ETag, StatusReason: orNull(i.StatusReason),
		Authentication: newAuthenticationJSON(i.Auth), TwinETag: t.ETag, Tags: t.Tags, Properties: &bulkProperties{t.Desired.Values},
	}
	if i.ModuleID == "" {
		item.Status, item.Capabilities = i.Status, &capabilitiesJSON{IotEdge: i.EdgeDevice}
	}
	if !keys {
		item.Authentication.SymmetricKey = symmetricKeyJSON{}
	}
	return item
}
