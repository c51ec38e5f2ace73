package api

import (
	"encoding/base64"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
)

const (
	// maxPage is how many enrollments, or registrations, one answer holds: each has
	// an initial twin of up to 40 KiB.
	maxPage = 100
	// maxBulkEnrollments is Azure's limit.
	maxBulkEnrollments = 10
)

// ofGroups says whether the path is that of enrollment groups.
func (c *call) ofGroups() bool { return strings.EqualFold(c.path[0], "enrollmentGroups") }

// enrollment reads the one that the path names, nil when there is none.
func (c *call) enrollment(id string) (*signet.Enrollment, error) {
	e, err := c.Provisioning.Enrollment(c.r.Context(), c.hub.Name, c.ofGroups(), id)
	if signet.CodeOf(err) == signet.EnrollmentUnknown {
		return nil, nil
	}
	return &e, err
}

// answerEnrollment answers an enrollment.
func (c *call) answerEnrollment(d *provisioning.Document) error {
	c.w.Header()["ETag"] = []string{d.ETag}
	return c.answer(http.StatusOK, d)
}

func (c *call) getEnrollment() error {
	e, err := c.Provisioning.Enrollment(c.r.Context(), c.hub.Name, c.ofGroups(), c.args["enrollment"])
	if err != nil {
		return err
	}
	d := provisioning.NewDocument(&e)
	if e.Group {
		return c.answerEnrollment(d)
	}
	r, err := c.Provisioning.Registration(c.r.Context(), c.hub.Name, e.ID)
	switch {
	case signet.CodeOf(err) == signet.RegistrationUnknown || err == nil && r.Group != "": // an earlier one, of a group
		return c.answerEnrollment(d)
	case err != nil:
		return err
	}
	d.RegistrationState = provisioning.NewRegistrationDocument(&r)
	return c.answerEnrollment(d)
}

// PUT creates when there is no If-Match, and only then; with it, it replaces.
func (c *call) putEnrollment() error {
	var d provisioning.Document
	if err := c.read(maxBody, &d); err != nil {
		return err
	}
	e, err := c.writeEnrollment(&d, c.args["enrollment"], c.ifMatch())
	if err != nil {
		return err
	}
	answer := provisioning.NewDocument(&e)
	if e.Attestation.Type == signet.AttestSymmetricKey {
		// With the keys, as at Azure: clients look here for those that the service has made. Who may write an
		// enrollment may have them in any case.
		answer.Attestation = provisioning.NewAttestationDocument(&e, true)
	}
	return c.answerEnrollment(answer)
}

// writeEnrollment keeps a document under an ID. What the document leaves out
// because it is secret is taken from the enrollment that it replaces, and from no
// other: so "*" means the one that was looked at, as often as that changes.
func (c *call) writeEnrollment(d *provisioning.Document, id, ifMatch string) (e signet.Enrollment, err error) {
	for {
		old, err := c.enrollment(id)
		if err != nil {
			return e, err
		}
		match := ifMatch
		if match == "*" && old != nil {
			match = old.ETag
		}
		if e, err = d.Enrollment(c.hub.Name, c.ofGroups(), id, old); err != nil {
			return e, err
		}
		e, _, err = c.Provisioning.PutEnrollment(c.r.Context(), e, match)
		if ifMatch == "*" && signet.CodeOf(err) == signet.ETagStale {
			continue // someone was faster, and the caller does not mind
		}
		return e, err
	}
}

func (c *call) deleteEnrollment() error {
	if err := c.Provisioning.DeleteEnrollment(c.r.Context(), c.hub.Name, c.ofGroups(), c.args["enrollment"], c.ifMatch()); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

// POST …/attestationmechanism tells what other answers leave out.
func (c *call) getAttestation() error {
	e, err := c.Provisioning.Enrollment(c.r.Context(), c.hub.Name, c.ofGroups(), c.args["enrollment"])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, provisioning.NewAttestationDocument(&e, true))
}

// anyQuery is the one query that there is; clients write it in these ways. The one in braces is the text of an object of
// Python's: az sends it in the place of the query.
var anyQuery = regexp.MustCompile(`(?i)^(\{'additional_properties': \{\}, 'query': ')?\s*(select\s+)?\*(\s+from\s+\w+)?\s*;?\s*('\})?$`)

// readQuery reads a query, and gives where to go on and how many there may be.
func (c *call) readQuery() (after string, limit int, err error) {
	var q struct {
		Query string `json:"query"`
	}
	if c.r.ContentLength == 0 { // az asks for registrations without a body
		q.Query = "*"
	} else if err := c.read(maxBody, &q); err != nil {
		return "", 0, err
	}
	if !anyQuery.MatchString(q.Query) {
		return "", 0, signet.Refuse(signet.RequestMalformed, "The query is not one that there is.").
			At("query", "SELECT * FROM enrollments, without conditions", q.Query).
			FixBy("Send SELECT *, and choose among what comes.")
	}
	limit = maxPage
	if text := c.r.Header.Get("X-Ms-Max-Item-Count"); text != "" && text != "-1" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return "", 0, signet.Refuse(signet.RequestMalformed, "x-ms-max-item-count should be a whole number from 1, not %q.", signet.Clip(text)).
				At("x-ms-max-item-count", "1 or more", text)
		}
		limit = min(n, maxPage)
	}
	if token := c.r.Header.Get("X-Ms-Continuation"); token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if after = string(raw); err != nil || !signet.ValidRegistrationID(after) {
			return "", 0, signet.Refuse(signet.RequestMalformed, "x-ms-continuation is none that was given out.")
		}
	}
	return after, limit, nil
}

// answerPage answers a page of what a query has found; next is the ID to go on
// behind, "" at the end.
func (c *call) answerPage(items any, kind string, limit int, next string) error {
	h := c.w.Header()
	h["x-ms-item-type"] = []string{kind}
	h["x-ms-max-item-count"] = []string{strconv.Itoa(limit)}
	if next != "" {
		h["x-ms-continuation"] = []string{base64.RawURLEncoding.EncodeToString([]byte(signet.FoldRegistrationID(next)))}
	}
	return c.answer(http.StatusOK, items)
}

func (c *call) queryEnrollments() error {
	after, limit, err := c.readQuery()
	if err != nil {
		return err
	}
	list, err := c.Provisioning.Enrollments(c.r.Context(), c.hub.Name, c.ofGroups(), after, limit+1)
	if err != nil {
		return err
	}
	next := ""
	if len(list) > limit {
		list = list[:limit]
		next = list[limit-1].ID
	}
	items := make([]*provisioning.Document, len(list))
	for i := range list {
		items[i] = provisioning.NewDocument(&list[i])
	}
	kind := "Enrollment"
	if c.ofGroups() {
		kind = "EnrollmentGroup"
	}
	return c.answerPage(items, kind, limit, next)
}

// bulkErrorJSON tells of one enrollment that a bulk operation failed at.
type bulkErrorJSON struct {
	RegistrationID    string        `json:"registrationId,omitempty"`
	EnrollmentGroupID string        `json:"enrollmentGroupId,omitempty"`
	ErrorCode         int           `json:"errorCode"`
	ErrorStatus       string        `json:"errorStatus"`
	Signet            *signet.Error `json:"signet"`
}

// POST /enrollments does one thing with up to ten, each for itself: one that fails
// undoes no other.
func (c *call) bulkEnrollments() error {
	var bulk struct {
		Mode        string                  `json:"mode"`
		Enrollments []provisioning.Document `json:"enrollments"`
		Groups      []provisioning.Document `json:"enrollmentGroups"`
	}
	if err := c.read(maxBulk, &bulk); err != nil {
		return err
	}
	items, field := bulk.Enrollments, "enrollments"
	if c.ofGroups() {
		items, field = bulk.Groups, "enrollmentGroups"
	}
	if len(items) == 0 || len(items) > maxBulkEnrollments {
		return signet.Refuse(signet.RequestMalformed, "A bulk operation takes 1 to %d %s, not %d.", maxBulkEnrollments, field, len(items)).
			At(field, "1 to 10", strconv.Itoa(len(items)))
	}
	var one func(d *provisioning.Document, id string) error
	write := func(match func(*provisioning.Document) string) func(*provisioning.Document, string) error {
		return func(d *provisioning.Document, id string) error {
			_, err := c.writeEnrollment(d, id, match(d))
			return err
		}
	}
	switch strings.ToLower(bulk.Mode) {
	case "create":
		one = write(func(*provisioning.Document) string { return "" })
	case "update":
		one = write(func(*provisioning.Document) string { return "*" })
	case "updateifmatchetag":
		one = write(func(d *provisioning.Document) string { return etag(d.ETag) })
	case "delete":
		one = func(d *provisioning.Document, id string) error {
			match := ""
			if d.ETag != "" {
				match = etag(d.ETag)
			}
			return c.Provisioning.DeleteEnrollment(c.r.Context(), c.hub.Name, c.ofGroups(), id, match)
		}
	default:
		return signet.Refuse(signet.RequestMalformed, "%q is no mode of a bulk operation.", signet.Clip(bulk.Mode)).
			At("mode", "create, update, updateIfMatchETag or delete", bulk.Mode)
	}
	failed := []bulkErrorJSON{}
	for i := range items {
		id := items[i].RegistrationID
		if c.ofGroups() {
			id = items[i].EnrollmentGroupID
		}
		if err := one(&items[i], id); err != nil {
			e := *signet.AsError(err)
			if e.Cause != nil {
				c.Logger.Error("bulk item failed", "hub", c.hub.Name, "enrollment", signet.Clip(id), "cause", e.Cause)
			}
			told := bulkErrorJSON{RegistrationID: signet.Clip(id), ErrorCode: enrollingErrorOf(e.Code).number, ErrorStatus: e.Message, Signet: &e}
			if c.ofGroups() {
				told.RegistrationID, told.EnrollmentGroupID = "", told.RegistrationID
			}
			failed = append(failed, told)
		}
	}
	return c.answer(http.StatusOK, map[string]any{"isSuccessful": len(failed) == 0, "errors": failed})
}
