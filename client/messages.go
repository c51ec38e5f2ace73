package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/signet-iot/signet"
)

// A Message is telemetry as the hub tells it, one JSON object a line.
type Message struct {
	Position         string             `json:"position"`
	EnqueuedTime     time.Time          `json:"enqueuedTime"`
	DeviceID         string             `json:"deviceId"`
	ModuleID         string             `json:"moduleId,omitempty"`
	SystemProperties map[string]*string `json:"systemProperties"`
	Properties       map[string]*string `json:"properties"` // nil: came without a value
	// Body is as BodyEncoding says: "json", the value itself; "utf-8", a JSON
	// string of the text; "base64", a JSON string.
	Body         json.RawMessage `json:"body"`
	BodyEncoding string          `json:"bodyEncoding"`
}

// Source is the iothub-message-source.
func (m *Message) Source() string {
	if source := m.SystemProperties["iothub-message-source"]; source != nil {
		return *source
	}
	return ""
}

// Bytes gives the body as the device sent it; of JSON, the same value in the
// fewest characters.
func (m *Message) Bytes() ([]byte, error) {
	switch m.BodyEncoding {
	case "json":
		return m.Body, nil
	case "utf-8":
		var s string
		err := json.Unmarshal(m.Body, &s)
		return []byte(s), err
	case "base64":
		var b []byte
		err := json.Unmarshal(m.Body, &b)
		return b, err
	}
	return nil, fmt.Errorf("unknown body encoding %q", m.BodyEncoding)
}

// MessageQuery says which messages to read.
type MessageQuery struct {
	DeviceID string // of any device when empty
	// Sources are telemetry, lifecycle, twin, connection and other, joined by
	// commas; all of them when empty.
	Sources string
	// From is a position, to read what comes after it; a time in RFC 3339 or "now",
	// to read from there; all that is kept when empty.
	From   string
	Follow bool // go on as messages come
}

// maxLine bounds a line: a message of 256 KiB, of which a byte takes at most six
// characters, twice.
const maxLine = 4 << 20

// lineRoom is how much is read at a time: HTTP/2 tells the server of every few KiB
// that were, and a backlog would be a stream of such notices.
const lineRoom = 256 << 10

// Messages calls each for the messages asked for, oldest first, with the line of
// JSON that the hub sent, until each returns false or the end is reached; that is
// the end of ctx when following.
func (c *Client) Messages(ctx context.Context, q MessageQuery, each func(m *Message, line []byte) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	query, err := c.ofHub(ctx)
	if err != nil {
		return err
	}
	for name, value := range map[string]string{"device": q.DeviceID, "source": q.Sources, "from": q.From} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if q.Follow {
		query.Set("follow", "true")
	}
	response, err := c.open(ctx, request{method: http.MethodGet, path: "/signet/messages", query: query})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(make([]byte, 0, lineRoom), maxLine)
	for lines.Scan() {
		var m Message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return fmt.Errorf("a line of the answer is not a message: %w", err)
		}
		if !each(&m, lines.Bytes()) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return c.unreachable(err)
	}
	return nil
}

// VerdictQuery says which verdicts to list.
type VerdictQuery struct {
	DeviceID   string
	TrackingID string
	Since      time.Time
	Limit      int // 100 when 0, at most 1000
	// Unattributed asks for those that could be put to no hub; it takes the admin
	// token.
	Unattributed bool
}

// Verdicts lists refusals, the newest first.
func (c *Client) Verdicts(ctx context.Context, q VerdictQuery) ([]signet.Verdict, error) {
	query, err := c.ofHub(ctx)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"device": q.DeviceID, "trackingId": q.TrackingID} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if !q.Since.IsZero() {
		query.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if q.Limit > 0 {
		query.Set("limit", strconv.Itoa(q.Limit))
	}
	as := asPolicy
	if q.Unattributed {
		query.Set("unattributed", "true")
		as = asAdmin
	}
	var answer struct {
		Verdicts []signet.Verdict `json:"verdicts"`
	}
	err = c.do(ctx, request{method: http.MethodGet, path: "/signet/verdicts", query: query, as: as, out: &answer})
	return answer.Verdicts, err
}

// An Explanation says whether a chain would be let in: by which path, leaf first
// and anchor last, or why not.
type Explanation struct {
	Accepted bool                     `json:"accepted"`
	Path     []*signet.CertificateRef `json:"path,omitempty"`
	Error    *signet.Error            `json:"error,omitempty"`
}

// Explain asks the hub what it would make of a chain (PEM, leaf first) by its
// anchors as they are, or as they would be if a hypothesis were true, presented by
// a device if one is named, at a time; now when that is zero. Only the certificates
// in the file are sent.
func (c *Client) Explain(ctx context.Context, chainPEM []byte, deviceID string, at time.Time, suppose Hypothesis) (Explanation, error) {
	var certificates bytes.Buffer
	for block, rest := pem.Decode(chainPEM); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			pem.Encode(&certificates, &pem.Block{Type: block.Type, Bytes: block.Bytes})
		}
	}
	body := map[string]any{"chain": certificates.String(), "suppose": suppose}
	if deviceID != "" {
		body["deviceId"] = deviceID
	}
	if !at.IsZero() {
		body["at"] = at.UTC()
	}
	query, err := c.ofHub(ctx)
	if err != nil {
		return Explanation{}, err
	}
	var answer Explanation
	err = c.do(ctx, request{method: http.MethodPost, path: "/signet/explain", query: query, in: body, out: &answer})
	return answer, err
}
