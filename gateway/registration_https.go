package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
)

// registers says whether a path is of the provisioning service's device API:
//
//	/{ID scope}/registrations/{registration ID}[/…]
func registers(path []string) bool {
	return len(path) >= 3 && isScope(path[0]) && strings.EqualFold(path[1], "registrations")
}

// An application is a request of a device that registers.
type application struct {
	*request
	credentials provisioning.Credentials
	applicant   Applicant
	rest        []string // of the path, behind the registration ID
}

// applications are all that is served, below /{ID scope}/registrations/{ID}; {} is
// any one segment.
var applications = []struct {
	method, path string
	serve        func(*application) error
}{
	{"PUT", "register", (*application).register},
	{"GET", "operations/{}", (*application).operation},
	{"POST", "", (*application).lookup},
}

func (q *request) apply(path []string) error {
	m := q.door.mqtt
	q.application = &application{request: q, rest: path[3:], credentials: provisioning.Credentials{
		Door: signet.DoorHTTPS, Remote: q.remote, IDScope: path[0], RegistrationID: path[2],
		Chain: q.chain(), Token: q.r.Header.Get("Authorization")}}
	a := q.application
	rest := strings.Join(a.rest, "/")
	var serve func(*application) error
	var allowed []string
	for _, o := range applications {
		if slices.EqualFunc(strings.Split(o.path, "/"), strings.Split(rest, "/"), func(wanted, got string) bool {
			return wanted == "{}" || strings.EqualFold(wanted, got)
		}) {
			allowed = append(allowed, o.method)
			if o.method == q.r.Method {
				serve = o.serve
			}
		}
	}
	switch {
	case allowed == nil:
		return signet.Refuse(signet.RequestNotFound, "There is nothing at %s.", strconv.QuoteToASCII(signet.Clip(q.r.URL.Path)))
	case serve == nil:
		q.w.Header().Set("Allow", strings.Join(allowed, ", "))
		return signet.Refuse(signet.RequestMethod, "%s is not a method of this path; %s is.", signet.Clip(q.r.Method), strings.Join(allowed, ", "))
	case q.r.URL.Query().Get("api-version") == "":
		return signet.Refuse(signet.RequestAPIVersion, "The request names no api-version.")
	}

	visitor, err := q.enter()
	if err != nil {
		return m.registrar.Refuse(a.credentials, err)
	}
	defer m.gate.leave(visitor)
	ctx, cancel := context.WithTimeout(q.r.Context(), handshakeTime)
	defer cancel()
	if a.applicant, err = m.registrar.Admit(ctx, a.credentials); err != nil {
		return err
	}
	m.gate.leave(visitor)
	q.door.Known(q.r.Context())
	leave, err := q.door.turn(q.r.Context(), strings.ToLower(path[0]+"\n"+path[2]))
	if err != nil {
		return err
	}
	defer leave()
	return serve(a)
}

// body reads what is asked; there need not be any.
func (a *application) body() (provisioning.Request, error) {
	text, err := a.readBody(provisioning.MaxRequest)
	if err != nil {
		return provisioning.Request{}, a.record(err)
	}
	q, err := provisioning.ParseRequest(text)
	if err != nil {
		return q, a.record(err)
	}
	return q, nil
}

func (a *application) record(err error) error {
	return a.door.mqtt.registrar.Refuse(a.credentials, err)
}

func (a *application) register() error {
	q, err := a.body()
	if err != nil {
		return err
	}
	o, err := a.applicant.Register(a.r.Context(), q)
	if err != nil {
		return err
	}
	return a.answer(&o)
}

func (a *application) operation() error {
	o, err := a.applicant.Operation(a.r.Context(), a.rest[1]) // operations/{}
	if err != nil {
		return err
	}
	return a.answer(&o)
}

// lookup tells what is known of the device; the body is that of a registration,
// without a certificate signing request.
func (a *application) lookup() error {
	q, err := a.body()
	if err == nil && len(q.CSR) > 0 {
		err = a.record(signet.Refuse(signet.RequestMalformed, "A lookup issues no certificate.").FixBy("Register with the csr: PUT …/register."))
	}
	if err != nil {
		return err
	}
	r, err := a.applicant.Lookup(a.r.Context())
	if err != nil {
		return err
	}
	a.say(http.StatusOK, 0, provisioning.LookupAnswer(&r))
	return nil
}

func (a *application) answer(o *provisioning.Operation) error {
	status, body, wait := answerOf(o, a.credentials.RegistrationID, nil, a.door.mqtt.now())
	if status == http.StatusAccepted {
		a.w.Header().Set("Location", "https://"+a.r.Host+a.r.URL.RequestURI())
	}
	a.say(status, wait, body)
	return nil
}

// refuse answers an error as the SDKs read it.
func (a *application) refuse(e *signet.Error) {
	if e.TrackingID == "" {
		named := *e // the original may be shared
		named.TrackingID = signet.NewTrackingID()
		e = &named
	}
	status, body, wait := answerOf(nil, a.credentials.RegistrationID, e, a.door.mqtt.now())
	if status >= 500 && a.r.Context().Err() == nil {
		a.door.mqtt.log.Error("request failed", "door", signet.DoorHTTPS, "remote", a.remote, "trackingId", e.TrackingID, "code", e.Code, "cause", e.Cause)
	}
	a.trace.Event("refused", slog.String("code", string(e.Code)), slog.String("message", e.Message), slog.String("trackingId", e.TrackingID))
	a.w.Header()["x-ms-request-id"] = []string{e.TrackingID}
	if status >= 400 {
		a.w.Header()["x-ms-error-code"] = []string{string(e.Code)}
	}
	a.say(status, wait, body)
}

func (a *application) say(status, wait int, body []byte) {
	a.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if wait > 0 {
		a.w.Header().Set("Retry-After", strconv.Itoa(wait))
	}
	a.status = status
	a.w.WriteHeader(status)
	a.w.Write(body) // a device that has gone is no error of ours
}
