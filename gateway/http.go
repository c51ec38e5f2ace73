package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/trace"
)

// The bounds of a request; those of its headers and of its time are the server's
// (http.Server).
const (
	// maxBatchBody bounds the JSON of a batch in bytes: messages of 256 KiB in
	// all, a third longer in base64, and as much again for names and quotes.
	maxBatchBody = 2 * signet.MaxMessageSize

	// maxBatch bounds the messages in a batch, so that empty ones do not count for
	// nothing: Azure's own bound.
	maxBatch = 500

	// maxRequests bounds the requests of one identity that are past its judgement
	// at a time: a batch costs some 2 MiB while it is read. More wait.
	maxRequests = 4
)

// HTTPS is the door for the device API over HTTPS, where every request is judged
// for itself, and for MQTT and AMQP over WebSocket, which begin as a request. It is an
// http.Handler for the paths that [HTTPS.Takes] names.
//
// The server around it takes its connections from [HTTPS.Listen], and bounds
// headers and time of a request.
type HTTPS struct {
	mqtt       *MQTT // whose waist, gate and clock are ours too
	lobby      *lobby
	handshakes *prometheus.CounterVec // outcome: as those of MQTT
	requests   *prometheus.CounterVec
	seconds    prometheus.Histogram

	mu   sync.Mutex
	busy map[string]*turns // by hub and identity: those with a request under way
}

// NewHTTPS makes the door beside m: WebSockets become connections of m, and
// strangers count together.
func NewHTTPS(m *MQTT, r prometheus.Registerer) *HTTPS {
	f := promauto.With(r)
	h := &HTTPS{
		mqtt: m, lobby: newLobby(maxGuests), busy: map[string]*turns{},
		handshakes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_https_handshakes_total", Help: "TLS handshakes of the HTTPS door by outcome."}, []string{"outcome"}),
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_https_requests_total", Help: "Requests of devices over HTTPS, by HTTP status; 101 began a WebSocket."}, []string{"status"}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "signet_https_request_seconds", Help: "From a request's headers to its answer, of devices over HTTPS.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10}}),
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "signet_https_connections", Help: "HTTPS connections, without WebSockets of devices that are let in.",
	}, func() float64 { return float64(h.lobby.count()) })
	return h
}

// Takes says whether a path is a device's own. What is below /devices/{id} and
// not among these is the back end's:
//
//	/$iothub/…                                 /$servicebus/websocket
//	/devices/{id}/messages/…                   and the same below
//	/devices/{id}/files…                       /devices/{id}/modules/{module}
//	/{ID scope}/registrations/{id}…
func (h *HTTPS) Takes(u *url.URL) bool {
	path, err := segments(u)
	if err != nil {
		return false
	}
	if strings.EqualFold(path[0], "$iothub") || isWebSocket(path) || registers(path) && h.mqtt.registrar != nil {
		return true
	}
	_, _, rest := cutIdentity(path)
	return len(rest) > 0 && (strings.EqualFold(rest[0], "messages") || strings.EqualFold(rest[0], "files"))
}

// isWebSocket says whether a path is where WebSockets begin; the second is that of
// Event Hubs' SDKs.
func isWebSocket(path []string) bool {
	p := strings.Join(path, "/")
	return strings.EqualFold(p, "$iothub/websocket") || strings.EqualFold(p, "$servicebus/websocket")
}

// segments splits the path before it decodes, so that an encoded slash is part
// of a name. There is always one, if only "".
func segments(u *url.URL) ([]string, error) {
	parts := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	for i, part := range parts {
		var err error
		if parts[i], err = url.PathUnescape(part); err != nil {
			return nil, signet.Refuse(signet.RequestMalformed, "The path is badly encoded.")
		}
	}
	return parts, nil
}

// cutIdentity gives the identity that a path begins with, and what follows.
func cutIdentity(path []string) (deviceID, moduleID string, rest []string) {
	if len(path) < 2 || !strings.EqualFold(path[0], "devices") {
		return "", "", nil
	}
	deviceID, rest = path[1], path[2:]
	if len(rest) >= 2 && strings.EqualFold(rest[0], "modules") {
		moduleID, rest = rest[1], rest[2:]
	}
	return deviceID, moduleID, rest
}

// A request is one request on its way.
type request struct {
	door     *HTTPS
	w        http.ResponseWriter
	r        *http.Request
	remote   netip.AddrPort
	deviceID string
	moduleID string
	rest     []string // of the path, behind the identity
	session  Session  // nil until the device is let in
	trace    *trace.Trace
	status   int // that was answered

	application *application // of a device that registers; otherwise nil
}

// ServeHTTP answers one request; whatever goes wrong in it stays in it.
//
// Headers of Azure's are written as Azure spells them, not as [http.Header.Set] would:
// its SDK for C compares their names byte for byte.
func (h *HTTPS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begun := time.Now()
	q := &request{door: h, w: w, r: r}
	q.remote, _ = netip.ParseAddrPort(r.RemoteAddr)
	q.trace = h.mqtt.traces.Start("https", r.Method+" "+r.URL.Path) // no query: it may hold anything
	q.trace.Event("request", slog.String("remote", r.RemoteAddr), slog.String("host", r.Host), slog.String("agent", r.UserAgent()))
	w.Header()["x-ms-request-id"] = []string{signet.NewTrackingID()}
	w.Header().Set("Cache-Control", "no-store")
	err := q.serve()
	switch {
	case err != nil && q.application != nil:
		q.application.refuse(signet.AsError(err))
	case err != nil:
		q.refuse(signet.AsError(err))
	}
	if q.status != http.StatusSwitchingProtocols {
		guestOf(r.Context()).leaveGate() // also of who was refused without being judged, and still sends
	}
	q.trace.Event("answered", slog.Int("status", q.status))
	q.trace.Finish(err)
	h.requests.WithLabelValues(strconv.Itoa(q.status)).Inc()
	h.seconds.Observe(time.Since(begun).Seconds())
}

// serve finds the operation, has the device judged, and does it.
func (q *request) serve() (err error) {
	defer func() {
		if p := recover(); p != nil {
			q.door.mqtt.log.Error("a request has failed", "door", signet.DoorHTTPS, "remote", q.remote, "panic", p, "stack", string(debug.Stack()))
			err = signet.Fail(fmt.Errorf("panic: %v", p))
		}
	}()
	path, err := segments(q.r.URL)
	if err != nil {
		return err
	}
	if isWebSocket(path) {
		q.status = http.StatusSwitchingProtocols
		return q.door.mqtt.upgrade(q.w, q.r)
	}
	if registers(path) && q.door.mqtt.registrar != nil {
		return q.apply(path)
	}
	q.deviceID, q.moduleID, q.rest = cutIdentity(path)
	operation, err := q.operation()
	if err != nil {
		return err
	}
	if q.r.URL.Query().Get("api-version") == "" { // every SDK writes another
		return signet.Refuse(signet.RequestAPIVersion, "The request names no api-version.")
	}
	leave, err := q.authenticate()
	if err != nil {
		return err
	}
	defer leave()
	return operation(q)
}

// operations are all that is served, below /devices/{id}; {} is any one segment.
var operations = []struct {
	method, path string
	serve        func(*request) error
}{
	{"POST", "messages/events", (*request).send},
	{"GET", "messages/devicebound", (*request).receive},
	{"DELETE", "messages/devicebound/{}", (*request).settle},       // complete; reject
	{"POST", "messages/devicebound/{}/abandon", (*request).settle}, // abandon
	{"POST", "files", (*request).upload},
	{"POST", "files/notifications", (*request).upload},
	{"POST", "files/notifications/{}", (*request).upload},
}

func (q *request) operation() (func(*request) error, error) {
	var allowed []string
	for _, o := range operations {
		fits := slices.EqualFunc(strings.Split(o.path, "/"), q.rest, func(wanted, got string) bool {
			return wanted == "{}" || strings.EqualFold(wanted, got)
		})
		if fits && o.method == q.r.Method {
			return o.serve, nil
		}
		if fits {
			allowed = append(allowed, o.method)
		}
	}
	if allowed != nil {
		q.w.Header().Set("Allow", strings.Join(allowed, ", "))
		return nil, signet.Refuse(signet.RequestMethod, "%s is not a method of this path; %s is.", signet.Clip(q.r.Method), strings.Join(allowed, ", "))
	}
	return nil, signet.Refuse(signet.RequestNotFound, "There is nothing at %s.", strconv.QuoteToASCII(signet.Clip(q.r.URL.Path)))
}

// authenticate has the device judged, in its turn at the gate, and takes one of the
// turns of its identity.
func (q *request) authenticate() (leave func(), err error) {
	m := q.door.mqtt
	visitor, err := q.enter()
	if err != nil {
		if signet.CodeOf(err) == signet.LimitConnections {
			err = q.record(signet.AsError(err))
		}
		return nil, err
	}
	defer m.gate.leave(visitor)
	ctx, cancel := context.WithTimeout(q.r.Context(), handshakeTime)
	defer cancel()
	q.session, err = m.waist.Authenticate(ctx, hub.Credentials{
		Door: signet.DoorHTTPS, Remote: q.remote, Host: q.r.Host, DeviceID: q.deviceID, ModuleID: q.moduleID,
		Chain: q.chain(), TLS: q.version(), Token: q.r.Header.Get("Authorization"),
		APIVersion: signet.Clip(q.r.URL.Query().Get("api-version")), Client: signet.Clip(q.r.UserAgent()),
	})
	if err != nil {
		return nil, err
	}
	p := q.session.Principal()
	q.trace.Event("let in", slog.String("hub", p.Hub), slog.String("auth", string(p.Auth)))
	m.gate.leave(visitor)
	q.door.Known(q.r.Context())
	return q.door.turn(q.r.Context(), p.Hub+"\n"+signet.IdentityName(p.DeviceID, p.ModuleID))
}

// enter waits for the turn of the request at the gate, as any stranger does. The
// first on a connection has that of its handshake. Nothing of a body is read before
// it is judged.
func (q *request) enter() (*visitor, error) {
	if v := guestOf(q.r.Context()).give(nil); v != nil {
		return v, nil
	}
	m := q.door.mqtt
	return m.gate.enter(q.remote.Addr(), nil, m.shutdown)
}

func (q *request) chain() []*x509.Certificate {
	if q.r.TLS == nil {
		return nil
	}
	return q.r.TLS.PeerCertificates
}

func (q *request) version() string {
	if q.r.TLS == nil {
		return ""
	}
	return tls.VersionName(q.r.TLS.Version)
}

// turns are those of an identity with a request under way.
type turns struct {
	taken   chan struct{} // one for each under way
	holders int           // those under way and those that wait
}

// turn waits for one of the turns of an identity.
func (h *HTTPS) turn(ctx context.Context, name string) (leave func(), err error) {
	h.mu.Lock()
	t := h.busy[name]
	if t == nil {
		t = &turns{taken: make(chan struct{}, maxRequests)}
		h.busy[name] = t
	}
	t.holders++
	h.mu.Unlock()
	gone := func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if t.holders--; t.holders == 0 {
			delete(h.busy, name)
		}
	}
	select {
	case t.taken <- struct{}{}:
		return func() { <-t.taken; gone() }, nil
	case <-ctx.Done():
		gone()
		return nil, errGone()
	}
}

func errGone() *signet.Error {
	return signet.Refuse(signet.SessionClosed, "The device closed the connection before it was answered.")
}

// batchType is the content type of a batch.
const batchType = "application/vnd.microsoft.iothub.json"

// send takes one message or a batch. It is answered when all are on disk.
func (q *request) send() error {
	contentType, _, _ := strings.Cut(q.r.Header.Get("Content-Type"), ";")
	var messages []*signet.Message
	if strings.EqualFold(strings.TrimSpace(contentType), batchType) {
		body, err := q.body(maxBatchBody)
		if err != nil {
			return err
		}
		if messages, err = parseBatch(body); err != nil {
			return q.record(signet.AsError(err))
		}
	} else {
		body, err := q.body(signet.MaxMessageSize)
		if err != nil {
			return err
		}
		m := &signet.Message{Body: body}
		for _, name := range slices.Sorted(maps.Keys(q.r.Header)) {
			for _, value := range q.r.Header[name] {
				if err := addProperty(m, strings.ToLower(name), value); err != nil {
					return q.record(signet.AsError(err))
				}
			}
		}
		messages = []*signet.Message{m}
	}
	size := 0
	for _, m := range messages {
		size += m.Size()
	}
	if size > signet.MaxMessageSize {
		return q.record(signet.Refuse(signet.LimitMessageSize, "The device sent %d bytes, and may send %d.", size, signet.MaxMessageSize))
	}
	q.trace.Event("messages", slog.Int("count", len(messages)), slog.Int("bytes", size))
	if _, err := q.session.Meter(signet.MeterMessages, len(messages), 0); err != nil {
		return q.record(signet.AsError(err))
	}
	if err := q.store(messages); err != nil {
		return q.failed(err)
	}
	return q.done(http.StatusNoContent)
}

// failed gives why what the device was let in for is not done. That it has lost its
// right since it was judged is recorded.
func (q *request) failed(err error) *signet.Error {
	switch e := signet.AsError(err); e.Code {
	case signet.Unavailable, signet.Internal, signet.SessionClosed, signet.MessageLockLost:
		return e
	default:
		return q.record(e)
	}
}

// storeTime is how long a request waits for the disk: as long as SDKs wait for it.
const storeTime = 30 * time.Second

// store waits until all messages are on disk, and gives the first failure.
func (q *request) store(messages []*signet.Message) error {
	ctx, cancel := context.WithTimeout(q.r.Context(), storeTime)
	defer cancel()
	results := make(chan error, len(messages))
	for _, m := range messages {
		q.session.Send(ctx, m, func(err error) { results <- err })
	}
	for range messages {
		select {
		case err := <-results:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return signet.Refuse(signet.Unavailable, "The message was not stored in time.")
		}
	}
	return nil
}

// body reads a body of at most limit bytes.
func (q *request) body(limit int64) ([]byte, error) {
	body, err := q.readBody(limit)
	if signet.CodeOf(err) == signet.LimitRequestSize {
		return nil, q.record(signet.Refuse(signet.LimitMessageSize, "%s", signet.AsError(err).Message))
	}
	return body, err
}

func (q *request) readBody(limit int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(q.w, q.r.Body, limit))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, signet.Refuse(signet.LimitRequestSize, "The body is larger than %d bytes.", tooLarge.Limit)
	}
	if err != nil {
		return nil, signet.Refuse(signet.RequestMalformed, "The body ends before it should.")
	}
	return body, nil
}

// parseBatch reads a batch: an array of messages with a body in base64.
func parseBatch(text []byte) ([]*signet.Message, error) {
	malformed := func(format string, args ...any) error {
		return signet.Refuse(signet.RequestMalformed, "The batch is malformed: "+format+".", args...).
			FixBy(`Send [{"body":"<base64>","properties":{"iothub-app-name":"value"}}, …] of content type %s.`, batchType)
	}
	if !utf8.Valid(text) {
		return nil, malformed("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if start, err := d.Token(); err != nil || start != json.Delim('[') {
		return nil, malformed("it is not a JSON array")
	}
	var messages []*signet.Message
	for d.More() {
		var item struct {
			Body          *string           `json:"body"`
			Base64Encoded *bool             `json:"base64Encoded"`
			Properties    map[string]string `json:"properties"`
		}
		if len(messages) == maxBatch {
			return nil, malformed("it has more than %d messages", maxBatch)
		}
		if err := d.Decode(&item); err != nil {
			return nil, malformed("message %d is not of that form", len(messages))
		}
		m := &signet.Message{}
		switch {
		case item.Body == nil:
			return nil, malformed("message %d has no body", len(messages))
		case item.Base64Encoded != nil && !*item.Base64Encoded:
			m.Body = []byte(*item.Body)
		default:
			var err error
			if m.Body, err = base64.StdEncoding.DecodeString(*item.Body); err != nil {
				return nil, malformed("the body of message %d is not base64", len(messages))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(item.Properties)) {
			if err := addProperty(m, name, item.Properties[name]); err != nil {
				return nil, err
			}
		}
		messages = append(messages, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, malformed("the array does not end")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, malformed("something follows the array")
	}
	if len(messages) == 0 {
		return nil, malformed("it holds no message")
	}
	return messages, nil
}

// headerProperties maps the names of headers, in lower case, to those of system
// properties. What is not here and has not the prefix of the application's is no
// property: iothub-to and iothub-expiry mean nothing from device to cloud.
var headerProperties = map[string]string{
	"iothub-messageid":       "message-id",
	"iothub-correlationid":   "correlation-id",
	"iothub-userid":          "user-id",
	"iothub-ack":             "iothub-ack",
	"iothub-contenttype":     "content-type",
	"iothub-contentencoding": "content-encoding",
	"iothub-interface-id":    "iothub-interface-id",
	"iothub-operation":       "iothub-operation",
	"iothub-messageschema":   "iothub-message-schema",
	"iothub-creationtimeutc": "iothub-creation-time-utc",
	"dt-subject":             "dt-subject",
}

const applicationPrefix = "iothub-app-"

// addProperty adds what a header of a message, or a property of one in a batch,
// says. Names of headers have no case, so a single message has its properties in
// lower case; in a batch they are as written.
func addProperty(m *signet.Message, name, value string) error {
	lower := strings.ToLower(name)
	system, isSystem := headerProperties[lower]
	isApplication := strings.HasPrefix(lower, applicationPrefix) && len(lower) > len(applicationPrefix)
	if !isSystem && !isApplication {
		return nil
	}
	if !utf8.ValidString(value) {
		return signet.Refuse(signet.RequestMalformed, "The property %s is not UTF-8.", strconv.QuoteToASCII(signet.Clip(name))).
			FixBy("Send it in a batch, or encode it.")
	}
	if isSystem {
		m.System = append(m.System, signet.Property{Name: system, Value: value})
	} else if name = name[len(applicationPrefix):]; !reserved[strings.ToLower(name)] {
		m.Properties = append(m.Properties, signet.Property{Name: name, Value: value})
	}
	return nil
}

// receive gives the next cloud-to-device message, locked for a minute; what the
// device asks for as a lock time does not count, as at Azure.
func (q *request) receive() error {
	command, err := q.session.NextCommand(q.r.Context())
	if err != nil {
		return q.failed(err)
	}
	if command == nil {
		return q.done(http.StatusNoContent)
	}
	h := q.w.Header()
	for name, value := range map[string]string{
		"ETag":                  `"` + command.LockToken + `"`, // Node cuts off both ends
		"Content-Type":          "application/octet-stream",
		"iothub-messageid":      command.MessageID,
		"iothub-to":             "/" + identityTopics(q.deviceID, q.moduleID).prefix + "/messages/deviceBound",
		"iothub-sequencenumber": strconv.FormatInt(command.Sequence, 10),
		"iothub-enqueuedtime":   signet.AzureTime(command.EnqueuedTime),
		"iothub-deliverycount":  strconv.Itoa(command.DeliveryCount),
	} {
		h[name] = []string{value}
	}
	if command.Ack != signet.AckNone {
		h["iothub-ack"] = []string{string(command.Ack)}
	}
	for _, p := range command.System {
		for _, name := range commandHeaders[p.Name] {
			h[name] = []string{p.Value}
		}
	}
	for _, p := range command.Properties {
		name := applicationPrefix + p.Name // in the sender's case, for clients that look at it
		h[name] = append(h[name], p.Value)
	}
	q.trace.Event("command", slog.String("message", command.MessageID), slog.Int("bytes", len(command.Body)))
	q.status = http.StatusOK
	q.w.WriteHeader(q.status)
	q.w.Write(command.Body) // of a device that has gone, the lock lapses
	return nil
}

// commandHeaders maps the names of system properties to those of headers. ContentType and
// ContentEncoding are what Azure's SDK for C reads of a message that it receives.
var commandHeaders = map[string][]string{
	"correlation-id":       {"iothub-correlationid"},
	"user-id":              {"iothub-userid"},
	"content-type":         {"iothub-contenttype", "ContentType"},
	"content-encoding":     {"iothub-contentencoding", "ContentEncoding"},
	"absolute-expiry-time": {"iothub-expiry"},
}

// settle completes a message, or with the query ?reject rejects it; posted, it
// abandons it.
func (q *request) settle() error {
	disposition := signet.Complete
	if q.r.Method == http.MethodPost {
		disposition = signet.Abandon
	} else if q.r.URL.Query().Has("reject") {
		disposition = signet.Reject
	}
	token := q.rest[2] // messages/devicebound/{token}
	if err := q.session.SettleCommand(q.r.Context(), token, disposition); err != nil {
		return q.failed(err)
	}
	return q.done(http.StatusNoContent)
}

// upload begins or ends the upload of a file.
func (q *request) upload() error {
	return signet.Refuse(signet.FilesNoStorage, "%s", signet.FilesNoStorage.Info().Meaning)
}

func (q *request) done(status int) error {
	q.status = status
	q.w.WriteHeader(status)
	return nil
}

// record records a refusal that the hub has not recorded.
func (q *request) record(refusal *signet.Error) *signet.Error {
	e := *refusal // which may be shared
	v := signet.Verdict{Error: e, Door: signet.DoorHTTPS, DeviceID: q.deviceID, ModuleID: q.moduleID}
	if q.remote.IsValid() {
		v.Remote = q.remote.Addr().Unmap().String()
	}
	if q.session != nil {
		v.Hub = q.session.Principal().Hub
	}
	e.TrackingID = q.door.mqtt.waist.Refuse(q.r.Host, v)
	return &e
}

// An answer is how a code is told to a device: the status, and the name that
// Azure gives the error.
type answer struct {
	status int
	name   string
}

// answers translates codes. One that is not here is a device not let in, and
// told in one way whatever the reason: only the verdict knows it.
var answers = map[signet.Code]answer{
	signet.RequestMalformed:  {http.StatusBadRequest, "ArgumentInvalid"},
	signet.RequestAPIVersion: {http.StatusBadRequest, "InvalidProtocolVersion"},
	signet.RequestNotFound:   {http.StatusNotFound, "GenericNotFound"},
	signet.RequestMethod:     {http.StatusMethodNotAllowed, "GenericMethodNotAllowed"},
	signet.MessageLockLost:   {http.StatusPreconditionFailed, "DeviceMessageLockLost"},       // 412002
	signet.FilesNoStorage:    {http.StatusBadRequest, "DefaultStorageEndpointNotConfigured"}, // 400014
	signet.LimitMessageSize:  {http.StatusRequestEntityTooLarge, "MessageTooLarge"},          // 413001
	signet.LimitConnections:  {http.StatusTooManyRequests, "ThrottlingException"},            // 429001
	signet.LimitRate:         {http.StatusTooManyRequests, "ThrottlingException"},            // 429001
	signet.Unavailable:       {http.StatusServiceUnavailable, "ServiceUnavailable"},          // 503001
	signet.SessionClosed:     {http.StatusServiceUnavailable, "ServiceUnavailable"},          // the server shuts down
	signet.Internal:          {http.StatusInternalServerError, "ServerError"},                // 500001
}

var unauthorized = answer{http.StatusUnauthorized, "IotHubUnauthorizedAccess"} // 401002

// refuse answers an error in the form that the device SDKs read. The tracking ID
// leads to the verdict, where there is one.
func (q *request) refuse(e *signet.Error) {
	if e.Code == signet.Internal && errors.Is(e.Cause, context.DeadlineExceeded) {
		e = signet.Refuse(signet.Unavailable, "%s", signet.Unavailable.Info().Meaning)
	}
	a, ok := answers[e.Code]
	message := strings.ReplaceAll(e.Message, ";", ",") // clients split at it
	if !ok {
		a, message = unauthorized, "Unauthorized"
	}
	id := e.TrackingID
	if id == "" {
		id = signet.NewTrackingID()
	}
	if a.status >= 500 && q.r.Context().Err() == nil {
		q.door.mqtt.log.Error("request failed", "door", signet.DoorHTTPS, "remote", q.remote, "trackingId", id, "code", e.Code, "cause", e.Cause)
	}
	q.trace.Event("refused", slog.String("code", string(e.Code)), slog.String("message", e.Message), slog.String("trackingId", id))
	body, _ := json.Marshal(struct{ Message, ExceptionMessage string }{
		"ErrorCode:" + a.name + ";" + message,
		fmt.Sprintf("Tracking ID:%s-G:0-TimeStamp:%s", id, q.door.mqtt.now().UTC().Format("01/02/2006 15:04:05")),
	})
	h := q.w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h["iothub-errorcode"] = []string{a.name}
	h["x-ms-request-id"] = []string{id}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatFloat(math.Ceil(e.RetryAfter.Seconds()), 'f', 0, 64))
	}
	q.status = a.status
	q.w.WriteHeader(a.status)
	q.w.Write(body) // a device that has gone is no error of ours
}
