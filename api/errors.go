package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/signet-iot/signet"
)

// azureError is how a code is told on Azure's wire: the HTTP status, and the
// number and symbolic name of IoT Hub (ErrorCode.cs of the C# SDK; the page
// "troubleshoot error codes").
type azureError struct {
	status, number int
	name           string
}

// azureErrors translates codes. One that is not here is told as its family, the
// part before the dot, is.
var azureErrors = map[signet.Code]azureError{
	"request":                {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	signet.RequestAPIVersion: {http.StatusBadRequest, 400001, "InvalidProtocolVersion"},
	signet.RequestNotFound:   {http.StatusNotFound, 404000, "GenericNotFound"},
	signet.RequestMethod:     {http.StatusMethodNotAllowed, 405000, "GenericMethodNotAllowed"},

	"limit":                   {http.StatusTooManyRequests, 429001, "ThrottlingException"},
	signet.LimitRequestSize:   {http.StatusRequestEntityTooLarge, 413001, "MessageTooLarge"},
	signet.LimitMessageSize:   {http.StatusRequestEntityTooLarge, 413001, "MessageTooLarge"},
	signet.LimitDistrusts:     {http.StatusForbidden, 403002, "IotHubQuotaExceeded"},
	signet.LimitScopes:        {http.StatusForbidden, 403002, "IotHubQuotaExceeded"},
	signet.LimitQuery:         {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	signet.LimitQueue:         {http.StatusForbidden, 403004, "DeviceMaximumQueueDepthExceeded"},
	signet.LimitCertificates:  {http.StatusForbidden, 403002, "IotHubQuotaExceeded"},
	signet.LimitMethods:       {http.StatusForbidden, 403800, "DeviceMaximumInflightMethodExceeded"},
	signet.LimitModules:       {http.StatusRequestEntityTooLarge, 413003, "TooManyModulesOnDevice"},
	signet.LimitTwinSize:      {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	signet.LimitChainBytes:    {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	signet.LimitPathWork:      {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	signet.LimitSubscriptions: {http.StatusBadRequest, 400004, "ArgumentInvalid"},

	// No difference between an unknown policy, a wrong key and a missing right.
	"token":             {http.StatusUnauthorized, 401002, "IotHubUnauthorizedAccess"},
	signet.TokenExpired: {http.StatusUnauthorized, 401003, "IotHubUnauthorized"},

	"query":          {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	"hub":            {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	signet.HubExists: {http.StatusConflict, 409004, "GenericConflict"},
	// The C# SDK numbers the name 401001; Node looks for it under 404.
	signet.HubUnknown: {http.StatusNotFound, 404000, "IotHubNotFound"},

	"identity":               {http.StatusUnauthorized, 401003, "IotHubUnauthorized"},
	signet.IdentityUnknown:   {http.StatusNotFound, 404001, "DeviceNotFound"},
	signet.IdentityExists:    {http.StatusConflict, 409001, "DeviceAlreadyExists"},
	signet.IdentityMalformed: {http.StatusBadRequest, 400004, "ArgumentInvalid"},

	"upload":                  {http.StatusBadRequest, 400123, "GenericBadRequest"},
	"cert":                    {http.StatusBadRequest, 400123, "GenericBadRequest"},
	"chain":                   {http.StatusBadRequest, 400123, "GenericBadRequest"},
	"anchor":                  {http.StatusBadRequest, 400123, "GenericBadRequest"},
	"proof":                   {http.StatusBadRequest, 400053, "GenericBadRequest"},
	signet.UploadDuplicate:    {http.StatusConflict, 409000, "GenericConflict"},
	signet.CertificateUnknown: {http.StatusNotFound, 404008, "CertificateNotFound"},

	"distrust":             {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	"audit":                {http.StatusConflict, 409000, "GenericConflict"},
	signet.DistrustUnknown: {http.StatusNotFound, 404000, "GenericNotFound"},
	signet.BranchUnknown:   {http.StatusNotFound, 404000, "GenericNotFound"},
	"branch":               {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	"clone":                {http.StatusNotFound, 404000, "GenericNotFound"},
	"sighting":             {http.StatusNotFound, 404000, "GenericNotFound"},

	"scope":             {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	"rollover":          {http.StatusConflict, 409000, "GenericConflict"},
	signet.ScopeUnknown: {http.StatusNotFound, 404000, "GenericNotFound"},

	"crl":             {http.StatusBadRequest, 400123, "GenericBadRequest"},
	signet.CRLOlder:   {http.StatusConflict, 409000, "GenericConflict"},
	signet.CRLUnknown: {http.StatusNotFound, 404000, "GenericNotFound"},
	"source":          {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	"ocsp":            {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	signet.LimitCRLs:  {http.StatusForbidden, 403002, "IotHubQuotaExceeded"},

	// The provisioning service's own; its numbers where they have been seen.
	"enrollment":                  {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	signet.EnrollmentUnknown:      {http.StatusNotFound, 404201, "EnrollmentNotFound"},
	signet.EnrollmentExists:       {http.StatusConflict, 409201, "EnrollmentConflict"},
	signet.EnrollmentSigner:       {http.StatusConflict, 409202, "EnrollmentConflict"},
	signet.LimitEnrollments:       {http.StatusForbidden, 403002, "IotHubQuotaExceeded"},
	"link":                        {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	signet.LinkUnknown:            {http.StatusNotFound, 404000, "GenericNotFound"},
	signet.LimitLinks:             {http.StatusForbidden, 403002, "IotHubQuotaExceeded"},
	"csr":                         {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	"issuance":                    {http.StatusForbidden, 403010, "OperationNotAllowed"},
	signet.IssuancePolicyUnknown:  {http.StatusNotFound, 404000, "GenericNotFound"},
	signet.IssuancePending:        {http.StatusConflict, 409004, "GenericConflict"},
	signet.IssuanceNothingPending: {http.StatusPreconditionFailed, 412001, "PreconditionFailed"},
	"registration":                {http.StatusNotFound, 404202, "RegistrationNotFound"},
	"allocation":                  {http.StatusBadRequest, 400004, "ArgumentInvalid"}, // told to devices alone
	"attestation":                 {http.StatusBadRequest, 400004, "ArgumentInvalid"},

	"etag":            {http.StatusPreconditionFailed, 412001, "PreconditionFailed"},
	signet.BulkFailed: {http.StatusBadRequest, 400013, "BulkRegistryOperationFailure"},

	"message":              {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	signet.MessageExpiry:   {http.StatusForbidden, 403009, "InvalidMessageExpiryTime"},
	signet.MessageLockLost: {http.StatusPreconditionFailed, 412002, "DeviceMessageLockLost"},
	signet.FilesNoStorage:  {http.StatusBadRequest, 400014, "DefaultStorageEndpointNotConfigured"},

	"reader": {http.StatusBadRequest, 400004, "ArgumentInvalid"}, // told by AMQP alone

	"route":             {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	signet.RouteUnknown: {http.StatusNotFound, 404000, "GenericNotFound"},
	signet.LimitRoutes:  {http.StatusForbidden, 403002, "IotHubQuotaExceeded"},

	"twin":                 {http.StatusBadRequest, 400004, "ArgumentInvalid"},
	signet.MethodOffline:   {http.StatusNotFound, 404103, "DeviceNotOnline"},
	signet.MethodTimeout:   {http.StatusGatewayTimeout, 504101, "GatewayTimeout"},
	signet.MethodBadAnswer: {http.StatusBadGateway, 502000, "GenericBadGateway"},

	"session":          {http.StatusUnauthorized, 401003, "IotHubUnauthorized"},
	"internal":         {http.StatusInternalServerError, 500001, "ServerError"},
	signet.Unavailable: {http.StatusServiceUnavailable, 503001, "ServiceUnavailable"},
}

func azureErrorOf(code signet.Code) azureError {
	if e, ok := azureErrors[code]; ok {
		return e
	}
	family, _, _ := strings.Cut(string(code), ".")
	if e, ok := azureErrors[signet.Code(family)]; ok {
		return e
	}
	return azureErrors["internal"]
}

// enrollingErrorOf is azureErrorOf at a provisioning service, which has a number of
// its own for what is stale.
func enrollingErrorOf(code signet.Code) azureError {
	e := azureErrorOf(code)
	if code == signet.ETagStale {
		e.number = 409203
	}
	return e
}

// serviceError is the error of the service API. Clients split Message at ";" and
// ":"; the symbolic name must be there and in the header iothub-errorcode.
type serviceError struct {
	Message          string        `json:"Message"`
	ExceptionMessage string        `json:"ExceptionMessage"`
	Signet           *signet.Error `json:"signet"`
}

// managementError is Azure's ErrorDetails. Its code is a number, though the
// models of the SDKs call it text.
type managementError struct {
	Code           int           `json:"code"`
	HTTPStatusCode string        `json:"httpStatusCode"`
	Message        string        `json:"message"`
	Details        string        `json:"details"`
	Signet         *signet.Error `json:"signet"`
}

// enrollingError is ProvisioningServiceErrorDetails.
type enrollingError struct {
	ErrorCode    int           `json:"errorCode"`
	TrackingID   string        `json:"trackingId"`
	Message      string        `json:"message"`
	TimestampUTC string        `json:"timestampUtc"`
	Signet       *signet.Error `json:"signet"`
}

type ownError struct {
	Signet *signet.Error `json:"signet"`
}

// refuse answers an error, in the form of the API that was asked. A refusal of a
// token, an upload or a proof is a verdict, and recorded; our own failure is
// logged with its cause, and told without it.
func (c *call) refuse(err error) {
	e := *signet.AsError(err) // a copy: the original may be shared
	if e.Code == signet.Internal && errors.Is(e.Cause, context.DeadlineExceeded) {
		e.Code, e.Message, e.Fix = signet.Unavailable, signet.Unavailable.Info().Meaning, signet.Unavailable.Info().Fix
	}
	if e.TrackingID == "" {
		e.TrackingID = signet.NewTrackingID()
	}
	azure := azureErrorOf(e.Code)
	switch {
	case e.Code == signet.IdentityUnknown && e.Field == "moduleId":
		azure = azureError{http.StatusNotFound, 404010, "ModuleNotFound"}
	case e.Code == signet.IdentityExists && c.args["module"] != "":
		azure = azureError{http.StatusConflict, 409301, "ModuleAlreadyExistsOnDevice"}
	}
	switch {
	case isVerdict(e.Code):
		e.TrackingID = c.Verdicts.Record(c.verdict(e))
	case e.Code.Info().Step == signet.StepProcessing && c.r.Context().Err() == nil:
		c.Logger.Error("request failed", "method", c.r.Method, "path", signet.Clip(c.r.URL.Path), "hub", c.hub.Name,
			"trackingId", e.TrackingID, "code", e.Code, "cause", e.Cause)
	default:
		c.Logger.Debug("request refused", "method", c.r.Method, "path", signet.Clip(c.r.URL.Path), "hub", c.hub.Name,
			"trackingId", e.TrackingID, "code", e.Code, "message", e.Message)
	}
	e.Cause = nil

	if e.RetryAfter > 0 {
		c.w.Header().Set("Retry-After", strconv.FormatFloat(math.Ceil(e.RetryAfter.Seconds()), 'f', 0, 64))
	}
	// These tell of what is not answered: it may be of a hub that is another by now.
	delete(c.w.Header(), "ETag")
	delete(c.w.Header(), "x-ms-continuation")
	now := c.Now().UTC()
	var body any
	switch c.dialect {
	case management:
		c.w.Header()["x-ms-error-code"] = []string{fmt.Sprint(azure.number)}
		body = managementError{
			Code:           azure.number,
			HTTPStatusCode: strings.ReplaceAll(http.StatusText(azure.status), " ", ""),
			Message: fmt.Sprintf("%s Correlation identifier: %s, timestamp: %s, errorcode: IH%d.",
				e.Message, e.TrackingID, now.Format("2006-01-02 15:04:05Z"), azure.number),
			Details: e.Fix,
			Signet:  &e,
		}
	case own:
		body = ownError{&e}
	case enrolling:
		azure = enrollingErrorOf(e.Code)
		c.w.Header()["x-ms-error-code"] = []string{fmt.Sprint(azure.number)}
		body = enrollingError{azure.number, e.TrackingID, e.Message, azureTime(now), &e}
	default:
		c.w.Header()["iothub-errorcode"] = []string{azure.name}
		if e.Code.Info().Step == signet.StepMethod {
			body = methodError(azure, &e, now)
			break
		}
		body = serviceError{
			// A ";" in the sentence would cut it short at the client.
			Message:          "ErrorCode:" + azure.name + ";" + strings.ReplaceAll(e.Message, ";", ","),
			ExceptionMessage: fmt.Sprintf("Tracking ID:%s-G:0-TimeStamp:%s", e.TrackingID, now.Format("01/02/2006 15:04:05")),
			Signet:           &e,
		}
	}
	// A body that was not read to its end would be taken for the next request;
	// net/http closes such a connection by itself.
	if err := c.answer(azure.status, body); err != nil {
		c.Logger.Error("an error could not be written", "error", err)
	}
}

// methodError is told as JSON in the text of an error, as Azure does for direct
// methods.
func methodError(azure azureError, e *signet.Error, now time.Time) serviceError {
	text, _ := json.Marshal(struct {
		ErrorCode    int     `json:"errorCode"`
		TrackingID   string  `json:"trackingId"`
		Message      string  `json:"message"`
		TimestampUTC string  `json:"timestampUtc"`
		Info         *string `json:"info"`
	}{azure.number, e.TrackingID, e.Message, azureTime(now), nil})
	return serviceError{Message: string(text), Signet: e}
}

// isVerdict says whether a refusal is one that people will ask about.
func isVerdict(code signet.Code) bool {
	if code == signet.LimitCertificates {
		return true
	}
	switch code.Info().Step {
	case signet.StepToken, signet.StepUpload, signet.StepProof, signet.StepPath:
		return true
	}
	return false
}

// verdict puts a refusal in its circumstances.
func (c *call) verdict(e signet.Error) signet.Verdict {
	v := signet.Verdict{Error: e, Door: signet.DoorService, Remote: c.remote(), Hub: c.hub.Name, Time: c.Now().UTC().Truncate(time.Millisecond)}
	if c.dialect == management {
		v.Door = signet.DoorManagement
	}
	if id := c.args["device"]; signet.ValidID(id) {
		v.DeviceID = id
	}
	if e.Certificate != nil { // what was uploaded tells one refusal from the next
		v.Chain = []string{e.Certificate.Thumbprint}
	}
	return v
}

// remote is the address of the peer, without the port.
func (c *call) remote() string {
	if peer, err := netip.ParseAddrPort(c.r.RemoteAddr); err == nil {
		return peer.Addr().Unmap().String()
	}
	return ""
}
