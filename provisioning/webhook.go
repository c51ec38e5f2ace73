package provisioning

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/egress"
)

// What the webhook of a custom allocation is asked and answers, as Azure has it
// (how-to-use-custom-allocation-policies), and in what bounds.
const (
	webhookTime = 10 * time.Second
	// maxWebhookAnswer bounds the answer: an initial twin has 40 KiB, and what is for
	// the device has to fit its message.
	maxWebhookAnswer = 96 << 10
)

type allocationRequest struct {
	Individual *Document      `json:"individualEnrollment,omitempty"`
	Group      *Document      `json:"enrollmentGroup,omitempty"`
	Device     runtimeContext `json:"deviceRuntimeContext"`
	LinkedHubs []string       `json:"linkedHubs"`
}

type runtimeContext struct {
	RegistrationID string          `json:"registrationId"`
	CurrentHub     string          `json:"currentIotHubHostName,omitempty"`
	CurrentDevice  string          `json:"currentDeviceId,omitempty"`
	X509           *deviceX509     `json:"x509,omitempty"`
	SymmetricKey   *struct{}       `json:"symmetricKey,omitempty"`
	Payload        json.RawMessage `json:"payload,omitempty"`
}

type allocationResponse struct {
	HostName    string          `json:"iotHubHostName"`
	InitialTwin *initialTwin    `json:"initialTwin"`
	Payload     json.RawMessage `json:"payload"`
}

// ask has the webhook of an enrollment choose a hub.
func (p *Provisioning) ask(ctx context.Context, a *admission, r *signet.Registration, w *Work, candidates []signet.LinkedHub) (Placement, error) {
	e := &a.enrollment
	q := allocationRequest{Device: runtimeContext{RegistrationID: r.RegistrationID, CurrentHub: r.Hub, CurrentDevice: r.DeviceID, Payload: w.Payload}}
	if e.Group {
		q.Group = NewDocument(e)
	} else {
		q.Individual = NewDocument(e)
	}
	if len(a.chain) > 0 {
		q.Device.X509 = x509OfDevice(r)
	} else {
		q.Device.SymmetricKey = &struct{}{}
	}
	for _, l := range candidates {
		q.LinkedHubs = append(q.LinkedHubs, l.HostName)
	}
	body, err := json.Marshal(q)
	if err != nil {
		return Placement{}, err
	}
	place := e.Webhook.URL
	if u, err := url.Parse(place); err == nil {
		place = strings.ToLower(u.Host) // which may serve the webhooks of many enrollments
	}
	if !p.outside.enter(place) {
		return Placement{}, errBusy
	}
	defer p.outside.leave(place)
	answer, err := p.post(ctx, r.Service, r.OperationID, e.Webhook.URL, body)
	if err != nil {
		return Placement{}, err
	}
	var response allocationResponse
	if !utf8.Valid(answer) || json.Unmarshal(answer, &response) != nil {
		return Placement{}, signet.Refuse(signet.AllocationWebhook, "The webhook answers with what is no JSON of an allocation.")
	}
	return p.choice(e, &response, candidates)
}

// post sends a signed question, and gives the answer.
func (p *Provisioning) post(ctx context.Context, service, operation, address string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, webhookTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, signet.Refuse(signet.AllocationWebhook, "The address of the webhook is none.")
	}
	at := strconv.FormatInt(p.deps.Now().Unix(), 10)
	signature, err := p.signature(service, operation, at, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("User-Agent", "signet")
	r.Header.Set("Webhook-Id", operation)
	r.Header.Set("Webhook-Timestamp", at)
	r.Header.Set("Webhook-Signature", signature)
	// By the transport itself: there is no redirect, and no cookie.
	response, err := p.deps.Webhooks.RoundTrip(r)
	if err != nil {
		return nil, webhookUnreachable(ctx, err)
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, signet.Refuse(signet.AllocationWebhook, "Custom allocation failed with status code: %d", response.StatusCode)
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxWebhookAnswer+1))
	switch {
	case err != nil:
		return nil, webhookUnreachable(ctx, err)
	case len(answer) > maxWebhookAnswer:
		return nil, signet.Refuse(signet.AllocationWebhook, "The webhook answers with more than %d bytes.", maxWebhookAnswer)
	}
	return answer, nil
}

// webhookUnreachable says what went wrong, without an address.
func webhookUnreachable(ctx context.Context, err error) error {
	var e *signet.Error
	switch {
	case errors.Is(err, egress.ErrPrivate):
		e = signet.Refuse(signet.AllocationWebhook, "The webhook is at a private address.").
			FixBy("Put it at a public address, or have the server's admin set private_webhooks.")
	case ctx.Err() != nil:
		e = signet.Refuse(signet.AllocationWebhook, "The webhook does not answer within %v.", webhookTime)
	default:
		e = signet.Refuse(signet.AllocationWebhook, "The webhook cannot be reached: %s.", signet.Clip(egress.Reason(err)))
	}
	e.Cause = err
	return e
}

// signature lets the webhook know that we ask, and when: one of version 1 of
// Standard Webhooks, HMAC-SHA256 over ID, time and body, by a key that derives from
// the primary key of the service's owner. So the webhook can check, and do nothing
// else.
func (p *Provisioning) signature(service, id, at string, body []byte) (string, error) {
	tenant, err := p.deps.Tenants.HubByName(service)
	if err != nil {
		return "", err
	}
	for _, policy := range tenant.Policies {
		if !policy.Rights.Has(signet.ServiceConfig) {
			continue
		}
		derived, err := signet.DeriveKey(policy.PrimaryKey, "allocation-webhook")
		if err != nil {
			return "", err
		}
		key, err := base64.StdEncoding.DecodeString(derived)
		if err != nil {
			return "", err
		}
		m := hmac.New(sha256.New, key)
		m.Write([]byte(id + "." + at + "."))
		m.Write(body)
		return "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil)), nil
	}
	return "", signet.Refuse(signet.AllocationWebhook, "The provisioning service has no policy with the right ServiceConfig, whose key signs what a webhook is asked.")
}
