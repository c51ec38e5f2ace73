// Package api is the back end's front door, four APIs on one HTTPS address:
//
//   - the service API of Azure IoT Hub (device registry, statistics), for the
//     hub whose host name the request names, by SAS token of a shared access
//     policy;
//   - the management API of Azure for hubs and their CA certificates, under
//     /subscriptions/ and any host name, by the admin token;
//   - the service API of Azure's provisioning service (enrollments, registrations),
//     for the service whose host name the request names, or the only one, and its
//     management API beside that of hubs;
//   - Signet's own under /signet/: telemetry, verdicts, explanations, distrust, hubs.
//
// The table operations lists all that is served. A refusal has the form that the
// clients of each API understand, and in all of them a member "signet" that holds
// the whole [signet.Error]: code, sentence, fix and tracking ID.
//
// Bodies are JSON in UTF-8, as encoding/json reads it: names are matched without
// case, unknown members are passed over, and of a name given twice the last
// counts. The size is bounded before a byte is read, then the depth.
package api

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/audit"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/commands"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/issuance"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/routes"
	"github.com/signet-iot/signet/trace"
)

// Hub is what the back end asks of the waist. Its server is package hub.
type Hub interface {
	// Expiring is [hub.Hub.Expiring].
	Expiring(ctx context.Context, hub string, within time.Duration) ([]signet.Expiring, error)
	Connected(hub, device, module string) bool
	// Invoke is [hub.Hub.Invoke].
	Invoke(ctx context.Context, hub, device, module string, i hub.Invocation) (hub.MethodResult, error)
	Sessions(hub string) int
	// Paths is [hub.Hub.Paths].
	Paths(hub string) []signet.PathCount
	// Read is [hub.Hub.Read].
	Read(ctx context.Context, hub string, from hub.Start, follow bool, each func(signet.Position, *signet.Message) bool) error
	// Radius is [hub.Hub.Radius].
	Radius(ctx context.Context, hub string, seen hub.Sightings, now, then hub.Trust, each func(fate *signet.DeviceFate, devices int64) error) (signet.Radius, error)
	// Rollover is [hub.Hub.Rollover].
	Rollover(ctx context.Context, hub string, before, after signet.CACertificate, seen hub.Sightings, now, then hub.Trust, each func(fate *signet.DeviceFate, devices int64) error) (signet.Rollover, error)
	// Explain is [hub.Hub.Explain].
	Explain(ctx context.Context, c hub.Credentials, at time.Time, under hub.Trust) ([]*x509.Certificate, error)
}

// Deps are what an API stands on. Authority, Registry, Provisioning, Commands, Routes,
// Hub, Verdicts, Inventory, Audit and AdminToken are required.
type Deps struct {
	Authority    *authority.Authority
	Registry     *registry.Registry
	Provisioning *provisioning.Provisioning
	Issuance     *issuance.Issuance
	Commands     *commands.Commands
	Limiter      hub.Limiter // nothing is limited when nil
	Routes       *routes.Routes
	Hub          Hub
	Verdicts     *authority.VerdictLog
	Inventory    *inventory.Inventory
	Audit        *audit.Log
	// AdminToken gives the token of the management API; it is asked at every
	// request that shows one, so that a new token counts at once. "" fits nobody.
	AdminToken func() string
	// Known is told the context of a request whose caller is known and may do what is
	// asked, before that is done; nobody is when it is nil.
	Known func(context.Context)
	// Draining ends streams, which would never end by themselves, when the server
	// shuts down; nothing does when it is nil.
	Draining   context.Context
	Now        func() time.Time      // the clock; time.Now when nil
	Logger     *slog.Logger          // slog.Default() when nil
	Traces     *trace.Traces         // none are kept when nil
	Registerer prometheus.Registerer // no metrics when nil
}

type api struct {
	Deps
	uploads   chan struct{} // taken by who uploads a CRL
	imports   chan struct{} // taken by who imports identities
	importing sync.Map      // the names of the hubs that do
	pages     sync.Map      // by hub: a chan, taken by who has a page of twins in memory
	readers   sync.Map      // likewise, by who reads the message log
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
}

// New makes the handler. The server around it bounds the time and the headers of
// a request (http.Server); bodies are bounded here.
func New(d Deps) http.Handler {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	if d.Draining == nil {
		d.Draining = context.Background()
	}
	a := &api{
		Deps:    d,
		uploads: make(chan struct{}, maxCRLUploads),
		imports: make(chan struct{}, maxImports),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_api_requests_total", Help: "Requests answered, by API and HTTP status.",
		}, []string{"api", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "signet_api_request_seconds", Help: "Time from a request's headers to the beginning of its answer.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10},
		}, []string{"api"}),
	}
	if d.Registerer != nil {
		d.Registerer.MustRegister(a.requests, a.seconds)
	}
	return a
}

// A dialect is one of the APIs: how its refusals are written.
type dialect string

const (
	service    dialect = "service"
	enrolling  dialect = "provisioning"
	management dialect = "management"
	own        dialect = "signet"
)

// A route is one operation. Literal segments of the path are compared without
// case, as Azure does; {name} takes any one segment but an empty one, decoded.
type route struct {
	method, path string
	allow        func(*call) error // says who may, and sets the call's hub
	serve        func(*call) error
}

const (
	subscription = "/subscriptions/{subscription}/providers/Microsoft.Devices/IotHubs"
	group        = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Devices/IotHubs"
	oneHub       = group + "/{hub}"
	certificate  = oneHub + "/certificates/{certificate}"

	serviceSubscription = "/subscriptions/{subscription}/providers/Microsoft.Devices/provisioningServices"
	serviceGroup        = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Devices/provisioningServices"
	oneService          = serviceGroup + "/{service}"
	serviceCertificate  = oneService + "/certificates/{certificate}"
)

// operations is everything that is served; the first that fits is taken.
var operations = []route{
	// The service API: svc.json 2021-04-12.
	{"GET", "/devices", policy(signet.RegistryRead), (*call).listDevices},
	{"POST", "/devices", policy(signet.RegistryWrite), (*call).bulkDevices},
	{"POST", "/devices/query", policy(signet.ServiceConnect), (*call).queryDevices},
	{"GET", "/devices/{device}", policy(signet.RegistryRead), (*call).getIdentity},
	{"PUT", "/devices/{device}", policy(signet.RegistryWrite), (*call).putDevice},
	{"DELETE", "/devices/{device}", policy(signet.RegistryWrite), (*call).deleteIdentity},
	{"GET", "/devices/{device}/modules", policy(signet.RegistryRead), (*call).listModules},
	{"GET", "/devices/{device}/modules/{module}", policy(signet.RegistryRead), (*call).getIdentity},
	{"PUT", "/devices/{device}/modules/{module}", policy(signet.RegistryWrite), (*call).putModule},
	{"DELETE", "/devices/{device}/modules/{module}", policy(signet.RegistryWrite), (*call).deleteIdentity},
	{"GET", "/twins/{device}", policy(signet.ServiceConnect), (*call).getTwin},
	{"PATCH", "/twins/{device}", policy(signet.ServiceConnect), (*call).patchTwin},
	{"PUT", "/twins/{device}", policy(signet.ServiceConnect), (*call).putTwin},
	{"POST", "/twins/{device}/methods", policy(signet.ServiceConnect), (*call).invokeMethod},
	{"GET", "/twins/{device}/modules/{module}", policy(signet.ServiceConnect), (*call).getTwin},
	{"PATCH", "/twins/{device}/modules/{module}", policy(signet.ServiceConnect), (*call).patchTwin},
	{"PUT", "/twins/{device}/modules/{module}", policy(signet.ServiceConnect), (*call).putTwin},
	{"POST", "/twins/{device}/modules/{module}/methods", policy(signet.ServiceConnect), (*call).invokeMethod},
	{"DELETE", "/devices/{device}/commands", policy(signet.ServiceConnect), (*call).purgeCommands},
	{"GET", "/messages/serviceBound/feedback", policy(signet.ServiceConnect), (*call).receiveFeedback},
	{"DELETE", "/messages/serviceBound/feedback/{token}", policy(signet.ServiceConnect), (*call).completeFeedback},
	{"POST", "/messages/serviceBound/feedback/{token}/abandon", policy(signet.ServiceConnect), (*call).abandonFeedback},
	{"GET", "/statistics/devices", policy(signet.RegistryRead), (*call).deviceStatistics},
	{"GET", "/statistics/service", policy(signet.RegistryRead), (*call).serviceStatistics},

	// The management API: Microsoft.Devices/IotHubs, iothub.json.
	{"GET", subscription, owner, (*call).listResources},
	{"GET", group, owner, (*call).listResources},
	{"GET", oneHub, owner, (*call).getResource},
	{"POST", oneHub + "/listkeys", admin, (*call).listKeys},
	{"POST", oneHub + "/IotHubKeys/{policy}/listkeys", admin, (*call).getKey},
	{"GET", oneHub + "/certificates", owner, (*call).listCertificates},
	{"GET", certificate, owner, (*call).getCertificate},
	{"PUT", certificate, owner, (*call).putCertificate},
	{"DELETE", certificate, owner, (*call).deleteCertificate},
	{"POST", certificate + "/generateVerificationCode", owner, (*call).generateVerificationCode},
	{"POST", certificate + "/verify", owner, (*call).verifyCertificate},

	// The service API of provisioning: 2021-10-01.
	{"POST", "/enrollments", enroller(signet.EnrollmentWrite), (*call).bulkEnrollments},
	{"POST", "/enrollments/query", enroller(signet.EnrollmentRead), (*call).queryEnrollments},
	{"GET", "/enrollments/{enrollment}", enroller(signet.EnrollmentRead), (*call).getEnrollment},
	{"PUT", "/enrollments/{enrollment}", enroller(signet.EnrollmentWrite), (*call).putEnrollment},
	{"DELETE", "/enrollments/{enrollment}", enroller(signet.EnrollmentWrite), (*call).deleteEnrollment},
	{"POST", "/enrollments/{enrollment}/attestationmechanism", enroller(signet.EnrollmentWrite), (*call).getAttestation},
	{"POST", "/enrollmentGroups", enroller(signet.EnrollmentWrite), (*call).bulkEnrollments},
	{"POST", "/enrollmentGroups/query", enroller(signet.EnrollmentRead), (*call).queryEnrollments},
	{"GET", "/enrollmentGroups/{enrollment}", enroller(signet.EnrollmentRead), (*call).getEnrollment},
	{"PUT", "/enrollmentGroups/{enrollment}", enroller(signet.EnrollmentWrite), (*call).putEnrollment},
	{"DELETE", "/enrollmentGroups/{enrollment}", enroller(signet.EnrollmentWrite), (*call).deleteEnrollment},
	{"POST", "/enrollmentGroups/{enrollment}/attestationmechanism", enroller(signet.EnrollmentWrite), (*call).getAttestation},
	{"GET", "/registrations/{registration}", enroller(signet.RegistrationStatusRead), (*call).getRegistration},
	{"DELETE", "/registrations/{registration}", enroller(signet.RegistrationStatusWrite), (*call).deleteRegistration},
	{"POST", "/registrations/{group}/query", enroller(signet.RegistrationStatusRead), (*call).queryRegistrations},

	// Its management API: Microsoft.Devices/provisioningServices, iotdps.json.
	{"GET", serviceSubscription, serviceOwner, (*call).listServices},
	{"GET", serviceGroup, serviceOwner, (*call).listServices},
	{"GET", oneService, serviceOwner, (*call).getService},
	{"PUT", oneService, serviceOwner, (*call).putService},
	{"POST", oneService + "/listkeys", admin, (*call).listKeys},
	{"POST", oneService + "/keys/{policy}/listkeys", admin, (*call).getKey},
	{"GET", oneService + "/certificates", serviceOwner, (*call).listCertificates},
	{"GET", serviceCertificate, serviceOwner, (*call).getCertificate},
	{"PUT", serviceCertificate, serviceOwner, (*call).putCertificate},
	{"DELETE", serviceCertificate, serviceOwner, (*call).deleteCertificate},
	{"POST", serviceCertificate + "/generateVerificationCode", serviceOwner, (*call).generateVerificationCode},
	{"POST", serviceCertificate + "/verify", serviceOwner, (*call).verifyCertificate},

	// Signet's own.
	{"GET", "/signet/messages", ofDevices(signet.ServiceConnect), (*call).readMessages},
	{"POST", "/signet/commands", ofDevices(signet.ServiceConnect), (*call).sendCommand},
	{"GET", "/signet/devices/export", ofDevices(signet.RegistryRead | signet.ServiceConnect), (*call).exportDevices},
	{"POST", "/signet/devices/import", ofDevices(signet.RegistryWrite | signet.ServiceConnect), (*call).importDevices},
	{"GET", "/signet/verdicts", operator(signet.ServiceConnect), (*call).listVerdicts},
	{"POST", "/signet/explain", operator(signet.ServiceConnect), (*call).explain},
	{"GET", "/signet/distrust", operator(signet.RegistryRead), (*call).listDistrusts},
	{"POST", "/signet/distrust", operator(signet.RegistryWrite), (*call).postDistrust},
	{"DELETE", "/signet/distrust/{distrust}", operator(signet.RegistryWrite), (*call).deleteDistrust},
	{"POST", "/signet/rollover", operator(ownerRights), (*call).rollover},
	{"POST", "/signet/radius", operator(signet.RegistryRead), (*call).radius},
	{"POST", "/signet/enrollments/foresee", operator(signet.RegistryRead), (*call).foresee},
	{"GET", "/signet/scopes", operator(signet.RegistryRead), (*call).listScopes},
	{"PUT", "/signet/scopes", operator(ownerRights), (*call).putScope},
	{"DELETE", "/signet/scopes/{key}", operator(ownerRights), (*call).deleteScope},
	{"GET", "/signet/revocation/{ca}", operator(signet.RegistryRead), (*call).getRevocation},
	{"PUT", "/signet/revocation/{ca}", operator(ownerRights), (*call).putRevocation},
	{"GET", "/signet/crls", operator(signet.RegistryRead), (*call).listCRLs},
	{"POST", "/signet/crls", operator(signet.RegistryWrite), (*call).postCRL},
	{"POST", "/signet/crls/fetch", operator(signet.RegistryWrite), (*call).fetchCRLs},
	{"DELETE", "/signet/crls/{crl}", operator(signet.RegistryWrite), (*call).deleteCRL},
	{"GET", "/signet/expiring", operator(signet.RegistryRead), (*call).listExpiring},
	{"GET", "/signet/events", operator(signet.RegistryRead), (*call).getEvents},
	{"PATCH", "/signet/events", operator(ownerRights), (*call).patchEvents},
	{"GET", "/signet/tree", operator(signet.RegistryRead), (*call).getTree},
	{"GET", "/signet/tree/{branch}", operator(signet.RegistryRead), (*call).getBranch},
	{"GET", "/signet/tree/{branch}/devices", operator(signet.RegistryRead), (*call).listBranchDevices},
	{"POST", "/signet/tree/{branch}/status", operator(signet.RegistryWrite), (*call).postGroupStatus},
	{"POST", "/signet/tree/{branch}/tags", operator(signet.ServiceConnect), (*call).postGroupTags},
	{"GET", "/signet/clones", operator(signet.RegistryRead), (*call).listClones},
	{"PATCH", "/signet/clones", operator(ownerRights), (*call).patchClones},
	{"POST", "/signet/clones/{clone}/dismiss", operator(signet.RegistryWrite), (*call).dismissClone},
	{"GET", "/signet/sightings/{device}", operator(signet.RegistryRead), (*call).getSighting},
	{"GET", "/signet/audit", operator(signet.RegistryRead), (*call).listAudit},
	{"GET", "/signet/audit/log/entries", admin, (*call).listAllAudit},
	{"GET", "/signet/audit/log/checkpoint", admin, (*call).getAuditCheckpoint},
	{"GET", "/signet/audit/log/tile/{level}/{n}", admin, (*call).getAuditTile},
	{"GET", "/signet/audit/log/tile/{level}/{n}/{n}", admin, (*call).getAuditTile},
	{"GET", "/signet/audit/log/tile/{level}/{n}/{n}/{n}", admin, (*call).getAuditTile}, // to 16 million entries in parts, 256 million whole
	{"GET", "/signet/issuance/policies", issuer, (*call).listIssuancePolicies},
	{"GET", "/signet/issued", issuedTo, (*call).listIssued},
	{"GET", "/signet/routes", ofDevices(ownerRights), (*call).listRoutes},
	{"GET", "/signet/routes/{route}", ofDevices(ownerRights), (*call).getRoute},
	{"PUT", "/signet/routes/{route}", ofDevices(ownerRights), (*call).putRoute},
	{"DELETE", "/signet/routes/{route}", ofDevices(ownerRights), (*call).deleteRoute},
	{"POST", "/signet/routes/{route}/replay", ofDevices(ownerRights), (*call).replayRoute},
	{"GET", "/signet/hubs", admin, (*call).listHubs},
	{"GET", "/signet/hubs/{hub}", admin, (*call).getHub},
	{"PUT", "/signet/hubs/{hub}", admin, (*call).putHub},
	{"PATCH", "/signet/hubs/{hub}", admin, (*call).patchHub},
	{"GET", "/signet/hubs/{hub}/limits", admin, (*call).getLimits},
	{"PUT", "/signet/hubs/{hub}/limits", admin, (*call).putLimits},
	{"DELETE", "/signet/hubs/{hub}", admin, (*call).deleteHub},
}

// A call is one request on its way.
type call struct {
	*api
	w       *response
	r       *http.Request
	dialect dialect
	path    []string          // decoded segments
	args    map[string]string // the {names} of the route
	hub     signet.Hub        // the one that is meant, or the provisioning service; set by allow
	expires time.Time         // when the caller's token ends; zero is never
	by      string            // the policy whose token the caller showed, or "admin"
	trace   *trace.Trace
}

// response remembers what was answered, and when. Every answer begins with
// WriteHeader.
type response struct {
	http.ResponseWriter
	status   int
	begun    time.Time
	receipts *signet.Receipts // of the changes made by the request
}

func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.status, w.begun = status, time.Now()
		tellReceipt(w.Header(), w.receipts)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// ServeHTTP answers one request; whatever goes wrong in it stays in it.
//
// Headers of Azure's are written as Azure spells them, not as [http.Header.Set] would:
// its SDKs for C compare their names byte for byte.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	ctx, receipts := signet.WithReceipts(r.Context())
	r = r.WithContext(ctx)
	c := &call{api: a, w: &response{ResponseWriter: w, receipts: receipts}, r: r}
	var err error
	c.path, err = segments(r.URL)
	c.dialect = dialectOf(c.path)
	c.trace = a.Traces.Start("api "+string(c.dialect), r.Method+" "+r.URL.Path) // no query: it may hold anything
	c.trace.Event("request", slog.String("host", r.Host), slog.String("remote", r.RemoteAddr), slog.String("agent", r.UserAgent()))

	h := w.Header()
	h["x-ms-request-id"] = []string{requestID(r)}
	h.Set("Cache-Control", "no-store") // answers hold keys
	h.Set("X-Content-Type-Options", "nosniff")

	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				c.trace.Finish(http.ErrAbortHandler)
				panic(p)
			}
			a.Logger.Error("panic in a request", "method", r.Method, "path", signet.Clip(r.URL.Path), "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
			if c.w.status != 0 {
				c.trace.Finish(err)
				panic(http.ErrAbortHandler) // half an answer must not look like a whole one
			}
			c.refuse(err)
		}
		c.trace.Event("answered", slog.Int("status", c.w.status), slog.String("hub", c.hub.Name))
		c.trace.Finish(err)
		a.requests.WithLabelValues(string(c.dialect), strconv.Itoa(c.w.status)).Inc()
		a.seconds.WithLabelValues(string(c.dialect)).Observe(c.w.begun.Sub(start).Seconds())
	}()
	if err == nil {
		err = c.dispatch()
	}
	if err != nil {
		c.refuse(err)
	}
}

// dispatch finds the route, asks whether the caller may, and serves. Nothing is
// read of the body before the caller is known.
func (c *call) dispatch() error {
	rt, allowed := c.find()
	if rt == nil && len(allowed) > 0 {
		c.w.Header().Set("Allow", strings.Join(allowed, ", "))
		return signet.Refuse(signet.RequestMethod, "%s is not a method of this path; %s is.", signet.Clip(c.r.Method), strings.Join(allowed, ", "))
	}
	if rt == nil {
		return c.notServed()
	}
	if err := rt.allow(c); err != nil {
		return err
	}
	if c.Known != nil {
		c.Known(c.r.Context())
	}
	if c.dialect != own {
		if err := checkAPIVersion(c.r.URL.Query().Get("api-version")); err != nil {
			return err
		}
	}
	if err := c.metered(rt); err != nil {
		return err
	}
	remote, _, _ := net.SplitHostPort(c.r.RemoteAddr)
	c.r = c.r.WithContext(signet.WithActor(c.r.Context(), signet.Actor{Name: c.by, Remote: remote}))
	return rt.serve(c)
}

// find gives the route of the request, or the methods that its path takes.
func (c *call) find() (found *route, allowed []string) {
	for i := range operations {
		rt := &operations[i]
		args, ok := match(rt.path, c.path)
		switch {
		case !ok:
		case rt.method == c.r.Method:
			c.args = args
			return rt, nil
		case !slices.Contains(allowed, rt.method):
			allowed = append(allowed, rt.method)
		}
	}
	return nil, allowed
}

func match(pattern string, path []string) (args map[string]string, ok bool) {
	parts := strings.Split(pattern[1:], "/")
	if len(parts) != len(path) {
		return nil, false
	}
	for i, part := range parts {
		if name, ok := strings.CutPrefix(part, "{"); ok && path[i] != "" {
			if args == nil {
				args = map[string]string{}
			}
			args[strings.TrimSuffix(name, "}")] = path[i]
		} else if !strings.EqualFold(part, path[i]) {
			return nil, false
		}
	}
	return args, true
}

// notServed tells what is Azure's and not built yet from what is nothing at all.
func (c *call) notServed() error {
	if len(c.path) > 0 {
		switch first := strings.ToLower(c.path[0]); first {
		case "devices", "twins", "digitaltwins", "jobs", "configurations", "messages", "enrollments", "enrollmentgroups", "registrations", "subscriptions":
			e := signet.Refuse(signet.RequestNotFound, "%s %s is not served yet.", signet.Clip(c.r.Method), signet.Clip(c.r.URL.Path))
			if first == "jobs" {
				e = e.FixBy("No jobs run here: identities go out and in as a file by signet device export and import (/signet/devices/export, /import); find the twins to change by a query.")
			}
			return e
		}
	}
	return signet.Refuse(signet.RequestNotFound, "There is nothing at %s.", signet.Clip(c.r.URL.Path))
}

// segments splits the path before it decodes, so that an encoded slash is part
// of a name. The path is not cleaned: ".." can be a device.
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

func dialectOf(path []string) dialect {
	if len(path) > 0 {
		switch strings.ToLower(path[0]) {
		case "subscriptions":
			return management
		case "signet":
			return own
		case "enrollments", "enrollmentgroups", "registrations":
			return enrolling
		}
	}
	return service
}

// requestID gives back the caller's own, by which it finds the request again, or
// a new one.
func requestID(r *http.Request) string {
	for _, name := range [...]string{"X-Ms-Client-Request-Id", "X-Ms-Request-Id", "Request-Id"} {
		id := r.Header.Get(name)
		if len(id) > 0 && len(id) <= 128 && !strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return id
		}
	}
	return signet.NewTrackingID()
}

// checkAPIVersion takes any date, as behaviour is the same for all; the SDKs of
// ten years name some thirty.
func checkAPIVersion(v string) error {
	date, rest, _ := strings.Cut(v, "-preview")
	if _, err := time.Parse(time.DateOnly, date); err == nil && rest == "" {
		return nil
	}
	return signet.Refuse(signet.RequestAPIVersion, "The api-version %q is not a date, as in 2021-04-12.", signet.Clip(v)).
		At("api-version", "YYYY-MM-DD or YYYY-MM-DD-preview: 2018-06-30, 2020-09-30, 2021-04-12 (service), 2021-03-31, 2023-06-30 (management) …", v)
}

// The bounds of request bodies, in bytes.
const (
	// maxBody is for one record; the largest is a file of certificates of 64 KiB,
	// as base64 or with its line ends escaped.
	maxBody = 128 << 10
	maxBulk = 4 << 20 // 100 identities with twins of the largest
	// maxDepth bounds how deep JSON nests: a twin nests ten deep, in a bulk item,
	// in an array.
	maxDepth = 32
	// maxElements bounds each array and object: as many as fit into the payload of a
	// method. An element of two bytes can take a hundred times that once it is read.
	maxElements = 64 << 10
)

// read reads a JSON body of at most limit bytes into v.
func (c *call) read(limit int64, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, limit))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return signet.Refuse(signet.LimitRequestSize, "The body is larger than %d bytes, the most that this operation takes.", tooLarge.Limit)
	}
	if err != nil { // a body that is cut short
		return signet.Refuse(signet.RequestMalformed, "The body ends before it should.")
	}
	if !utf8.Valid(body) {
		return signet.Refuse(signet.RequestMalformed, "The body is not UTF-8.")
	}
	if err := c.still(); err != nil { // it may have taken a minute to come
		return err
	}
	deepest, most := shape(body)
	if deepest > maxDepth {
		return signet.Refuse(signet.RequestMalformed, "The JSON of the body nests more than %d deep.", maxDepth)
	}
	if most > maxElements {
		return signet.Refuse(signet.LimitRequestSize, "An array or object of the body has more than %d elements.", maxElements)
	}
	if err := json.Unmarshal(body, v); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
			return signet.Refuse(signet.RequestMalformed, "The member %q of the body has the wrong type.", signet.Clip(wrong.Field)).
				At(wrong.Field, wrong.Type.String(), wrong.Value)
		}
		// The error of encoding/json quotes at most one character of the body.
		return signet.Refuse(signet.RequestMalformed, "The body is not the JSON that this operation takes: %v.", err)
	}
	return nil
}

// shape is how deep arrays and objects nest in JSON text, valid or not, and how many
// elements the largest of them has. It looks no further than where one bound is broken.
func shape(text []byte) (deepest, most int) {
	var elements [maxDepth + 1]int // so far, by depth
	now, quoted := 0, false
	for i := 0; i < len(text) && deepest <= maxDepth; i++ {
		switch b := text[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '{' || b == '[':
			now++
			if deepest = max(deepest, now); now > 0 && now <= maxDepth {
				elements[now] = 1
			}
		case b == '}' || b == ']':
			now--
		case b == ',' && now > 0:
			elements[now]++
			most = max(most, elements[now])
		}
	}
	return deepest, most
}

// still refuses with [signet.HubUnknown] when the hub that the caller was let in to is
// gone, one of its name or not: what waits for a caller asks again before it acts.
func (c *call) still() error {
	if c.hub.Name == "" || c.sameHub() {
		return nil
	}
	return signet.Refuse(signet.HubUnknown, "The hub has been deleted.")
}

// answer writes v as JSON. Without application/json in the content type the Node
// SDK hands its caller an empty string. What was found at a hub that is gone
// meanwhile may be another's, and is not answered.
func (c *call) answer(status int, v any) error {
	if status < http.StatusMultipleChoices {
		if err := c.still(); err != nil {
			return err
		}
	}
	body, err := encode(v)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	c.w.WriteHeader(status)
	c.w.Write(body) // a caller that has gone is no error of ours
	return nil
}

// encode writes v as one line of JSON. It is for programs and terminals, not for
// web pages: < and & stay readable.
func encode(v any) ([]byte, error) {
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return line.Bytes(), err
}

// done answers without a body.
func (c *call) done(status int) error {
	c.w.WriteHeader(status)
	return nil
}

// ifMatch gives the etag of If-Match without quotes, "*" for any, "" when there
// is none. Azure's SDKs send abc, "abc", * and "*".
func (c *call) ifMatch() string {
	values := c.r.Header.Values("If-Match")
	if len(values) == 0 {
		return ""
	}
	return etag(values[0])
}

// etag gives an etag without quotes, as [call.ifMatch] does.
func etag(text string) string {
	tag := strings.TrimSpace(text)
	if n := len(tag); n >= 2 && tag[0] == '"' && tag[n-1] == '"' {
		tag = tag[1 : n-1]
	}
	if tag == "" {
		return `""` // sent and empty: matches no record, and is not the same as none
	}
	return tag
}

// number reads a whole number from the query, in [1, most]; more is cut to most.
func (c *call) number(name string, otherwise, most int) (int, error) {
	text := c.r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, signet.Refuse(signet.RequestMalformed, "%s should be a whole number from 1, not %q.", name, signet.Clip(text)).At(name, "1 or more", text)
	}
	return min(n, most), nil
}
