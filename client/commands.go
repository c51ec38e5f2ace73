package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/signet-iot/signet"
)

// A Command is a cloud-to-device message to send. What is empty is left to the hub.
type Command struct {
	DeviceID        string            `json:"deviceId"`
	ModuleID        string            `json:"moduleId,omitempty"`
	Body            []byte            `json:"body"`
	Properties      map[string]string `json:"properties,omitempty"`
	MessageID       string            `json:"messageId,omitempty"`
	CorrelationID   string            `json:"correlationId,omitempty"`
	UserID          string            `json:"userId,omitempty"`
	ContentType     string            `json:"contentType,omitempty"`
	ContentEncoding string            `json:"contentEncoding,omitempty"`
	Ack             signet.Ack        `json:"ack,omitempty"`
	Expiry          time.Time         `json:"expiryTimeUtc,omitzero"` // within two days; in an hour when zero
}

// A SentCommand is a command in the queue of its device, on disk.
type SentCommand struct {
	MessageID    string    `json:"messageId"`
	Sequence     int64     `json:"sequenceNumber"`
	EnqueuedTime time.Time `json:"enqueuedTimeUtc"`
	Expiry       time.Time `json:"expiryTimeUtc"`
}

// SendCommand sends a message to a device, connected or not.
func (c *Client) SendCommand(ctx context.Context, command Command) (SentCommand, error) {
	var answer SentCommand
	query, err := c.ofHub(ctx)
	if err != nil {
		return answer, err
	}
	err = c.do(ctx, request{method: http.MethodPost, path: "/signet/commands", query: query, in: command, out: &answer})
	return answer, err
}

// PurgeCommands empties the queue of a device, and says how many messages it held.
func (c *Client) PurgeCommands(ctx context.Context, id string) (int, error) {
	var answer struct {
		Purged int `json:"totalMessagesPurged"`
	}
	err := c.do(ctx, request{method: http.MethodDelete, path: "/devices/" + segment(id) + "/commands", query: version(), out: &answer})
	return answer.Purged, err
}

// Feedback tells how a command ended.
type Feedback struct {
	MessageID    string         `json:"originalMessageId"`
	DeviceID     string         `json:"deviceId"`
	ModuleID     string         `json:"moduleId,omitempty"`
	GenerationID string         `json:"deviceGenerationId"`
	Outcome      signet.Outcome `json:"statusCode"`
	Time         time.Time      `json:"enqueuedTimeUtc"`
}

// Feedback takes the oldest feedback of the hub, at most 100 records: none when
// there is none. They are locked for a minute, and given again unless
// [Client.CompleteFeedback] is told the lock token.
func (c *Client) Feedback(ctx context.Context) (records []Feedback, lockToken string, err error) {
	response, err := c.open(ctx, request{method: http.MethodGet, path: "/messages/serviceBound/feedback", query: version()})
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNoContent {
		return nil, "", nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, "", c.unreachable(err)
	}
	if err := json.Unmarshal(body, &records); err != nil {
		return nil, "", fmt.Errorf("the answer is not feedback: %w", err)
	}
	return records, strings.Trim(response.Header.Get("ETag"), `"`), nil
}

// CompleteFeedback tells that the records of a lock token are read for good.
func (c *Client) CompleteFeedback(ctx context.Context, lockToken string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: "/messages/serviceBound/feedback/" + segment(lockToken), query: version()})
}
