package signet

// A Code names one kind of refusal or failure. Codes are lower-case, dotted and
// stable: scripts and dashboards rely on them, so one is never renamed and
// never reused with another meaning.
type Code string

// A Step is the point on the way of a request at which it was refused.
type Step string

// The steps in the order in which a device meets them, then those of a back end.
const (
	StepLimit      Step = "limit"      // a bound on size, count or rate, before anything is judged
	StepRequest    Step = "request"    // the shape of what was sent
	StepHub        Step = "hub"        // which hub is meant
	StepChain      Step = "chain"      // what the device presented, as a whole
	StepPath       Step = "path"       // one certificate on the certification path
	StepIdentity   Step = "identity"   // what the registry says of the device
	StepEnrollment Step = "enrollment" // what a provisioning service has been told of the device, and where it goes
	StepToken      Step = "token"      // a SAS token or bearer token
	StepUpload     Step = "upload"     // a CA certificate offered for registration
	StepProof      Step = "proof"      // a proof of possession
	StepIssue      Step = "issue"      // a certificate being made
	StepRevocation Step = "revocation" // what a CA says of certificates that it has revoked
	StepRecord     Step = "record"     // create, replace or delete of a stored record
	StepMethod     Step = "method"     // a direct method on its way to a device and back
	StepSession    Step = "session"    // a session that was established, and ended
	StepProcessing Step = "processing" // the hub itself
)

// The codes. Their meaning and the usual fix stand in [Codes].
const (
	ChainNone          Code = "chain.none"
	ChainTooLong       Code = "chain.too-long"
	ChainMalformed     Code = "chain.malformed"
	ChainIssuerMissing Code = "chain.issuer-missing"
	ChainUntrusted     Code = "chain.untrusted"
	ChainPossession    Code = "chain.possession"

	AnchorUnverified Code = "anchor.unverified"
	AnchorExpired    Code = "anchor.expired"

	CertExpired           Code = "cert.expired"
	CertNotYetValid       Code = "cert.not-yet-valid"
	CertNotACA            Code = "cert.not-a-ca"
	CertPathLength        Code = "cert.path-length"
	CertKeyUsage          Code = "cert.key-usage"
	CertExtKeyUsage       Code = "cert.ext-key-usage"
	CertNameConstraints   Code = "cert.name-constraints"
	CertUnknownCritical   Code = "cert.unknown-critical"
	CertWeakKey           Code = "cert.weak-key"
	CertWeakSignature     Code = "cert.weak-signature"
	CertBadSignature      Code = "cert.bad-signature"
	CertRevoked           Code = "cert.revoked"
	CertRevocationUnknown Code = "cert.revocation-unknown"
	CertIsCAAnchor        Code = "cert.is-ca-anchor"
	CertOutOfScope        Code = "cert.out-of-scope"
	CertPolicy            Code = "cert.policy"

	IdentityCNMismatch Code = "identity.cn-mismatch"
	IdentityUnknown    Code = "identity.unknown"
	IdentityDisabled   Code = "identity.disabled"
	IdentityAuthType   Code = "identity.auth-type"
	IdentityThumbprint Code = "identity.thumbprint"
	IdentityExists     Code = "identity.exists"
	IdentityMalformed  Code = "identity.malformed"

	ProofCodeMismatch Code = "proof.code-mismatch"
	ProofWrongSigner  Code = "proof.wrong-signer"
	ProofExpired      Code = "proof.expired"
	ProofMalformed    Code = "proof.malformed"

	UploadPrivateKey Code = "upload.private-key"
	UploadNotACA     Code = "upload.not-a-ca"
	UploadMalformed  Code = "upload.malformed"
	UploadExpired    Code = "upload.expired"
	UploadDuplicate  Code = "upload.duplicate"

	CRLMalformed      Code = "crl.malformed"
	CRLUnsupported    Code = "crl.unsupported"
	CRLWrongSigner    Code = "crl.wrong-signer"
	CRLStale          Code = "crl.stale"
	CRLOlder          Code = "crl.older"
	CRLUnknown        Code = "crl.unknown"
	OCSPMalformed     Code = "ocsp.malformed"
	OCSPWrongSigner   Code = "ocsp.wrong-signer"
	OCSPStale         Code = "ocsp.stale"
	OCSPNonce         Code = "ocsp.nonce"
	SourceUnreachable Code = "source.unreachable"
	SourceForbidden   Code = "source.forbidden"

	CSRMalformed  Code = "csr.malformed"
	CSRName       Code = "csr.name"
	CSRForbidden  Code = "csr.forbidden"
	CSRKeyType    Code = "csr.key-type"
	CSRKeyUsed    Code = "csr.key-used"
	CSRReplayed   Code = "csr.replayed"
	KeyMalformed  Code = "key.malformed"
	KeyPassphrase Code = "key.passphrase"
	KeyToken      Code = "key.token"
	KeyMismatch   Code = "key.mismatch"
	FileExists    Code = "file.exists"
	FileAccess    Code = "file.access"

	IssuancePolicyUnknown  Code = "issuance.policy-unknown"
	IssuanceNotHere        Code = "issuance.not-here"
	IssuancePending        Code = "issuance.pending"
	IssuanceNothingPending Code = "issuance.nothing-pending"

	TokenNone      Code = "token.none"
	TokenMalformed Code = "token.malformed"
	TokenSignature Code = "token.signature"
	TokenExpired   Code = "token.expired"
	TokenAudience  Code = "token.audience"
	TokenRights    Code = "token.rights"

	RequestMalformed  Code = "request.malformed"
	RequestAPIVersion Code = "request.api-version"
	RequestNotFound   Code = "request.not-found"
	RequestMethod     Code = "request.method"

	AuditChanged Code = "audit.changed"

	CertificateUnknown  Code = "certificate.unknown"
	DistrustUnknown     Code = "distrust.unknown"
	DistrustMalformed   Code = "distrust.malformed"
	ScopeUnknown        Code = "scope.unknown"
	ScopeMalformed      Code = "scope.malformed"
	RolloverUnsafe      Code = "rollover.unsafe"
	HubUnknown          Code = "hub.unknown"
	HubExists           Code = "hub.exists"
	HubMalformed        Code = "hub.malformed"
	EnrollmentUnknown   Code = "enrollment.unknown"
	EnrollmentExists    Code = "enrollment.exists"
	EnrollmentMalformed Code = "enrollment.malformed"
	EnrollmentSigner    Code = "enrollment.signer"
	EnrollmentNone      Code = "enrollment.none"
	EnrollmentDisabled  Code = "enrollment.disabled"
	EnrollmentMismatch  Code = "enrollment.mismatch"
	EnrollmentNoPolicy  Code = "enrollment.no-policy"
	LinkUnknown         Code = "link.unknown"
	LinkMalformed       Code = "link.malformed"
	RegistrationUnknown Code = "registration.unknown"
	OperationUnknown    Code = "registration.operation-unknown"
	AllocationNoHub     Code = "allocation.no-hub"
	AllocationHub       Code = "allocation.hub"
	AllocationWebhook   Code = "allocation.webhook"
	ETagMissing         Code = "etag.missing"
	ETagStale           Code = "etag.stale"
	BulkFailed          Code = "bulk.failed"
	MessageLockLost     Code = "message.lock-lost"
	MessageMalformed    Code = "message.malformed"
	MessageExpiry       Code = "message.expiry"
	FilesNoStorage      Code = "files.no-storage"
	BranchUnknown       Code = "branch.unknown"
	BranchAmbiguous     Code = "branch.ambiguous"
	SightingUnknown     Code = "sighting.unknown"
	CloneUnknown        Code = "clone.unknown"
	RouteUnknown        Code = "route.unknown"
	RouteMalformed      Code = "route.malformed"
	RouteForbidden      Code = "route.forbidden"

	LimitChainBytes    Code = "limit.chain-bytes"
	LimitConnections   Code = "limit.connections"
	LimitHandshake     Code = "limit.handshake-time"
	LimitMessageSize   Code = "limit.message-size"
	LimitRequestSize   Code = "limit.request-size"
	LimitCertificates  Code = "limit.certificates"
	LimitDistrusts     Code = "limit.distrusts"
	LimitScopes        Code = "limit.scopes"
	LimitSubscriptions Code = "limit.subscriptions"
	LimitPathWork      Code = "limit.path-work"
	LimitCRLs          Code = "limit.crls"
	LimitTwinSize      Code = "limit.twin-size"
	LimitMethods       Code = "limit.methods"
	LimitModules       Code = "limit.modules"
	LimitQueue         Code = "limit.queue"
	LimitRoutes        Code = "limit.routes"
	LimitReaders       Code = "limit.readers"
	LimitRate          Code = "limit.rate"
	LimitEnrollments   Code = "limit.enrollments"
	LimitLinks         Code = "limit.linked-hubs"
	LimitIssuance      Code = "limit.issuance"
	LimitRegistrations Code = "limit.registrations"

	AttestationUnsupported Code = "attestation.unsupported"

	TwinMalformed  Code = "twin.malformed"
	QueryMalformed Code = "query.malformed"
	LimitQuery     Code = "limit.query"

	MethodOffline   Code = "method.offline"
	MethodTimeout   Code = "method.timeout"
	MethodBadAnswer Code = "method.bad-answer"

	ReaderFilter    Code = "reader.filter"
	ReaderPartition Code = "reader.partition"
	ReaderPosition  Code = "reader.position"
	ReaderTakenOver Code = "reader.taken-over"

	SessionTakenOver Code = "session.taken-over"
	SessionExpired   Code = "session.expired"
	SessionClosed    Code = "session.closed"

	SessionCertificateExpired Code = "session.certificate-expired"
	SessionRenewOnly          Code = "session.renew-only"

	Unavailable Code = "internal.unavailable"
	Internal    Code = "internal.error"
)

// CodeInfo tells of one code: where on the way it falls, what it means, and
// what usually mends it. The reference page docs/verdicts.md is made of these.
type CodeInfo struct {
	Code    Code   `json:"code"`
	Step    Step   `json:"step"`
	Meaning string `json:"meaning"`
	Fix     string `json:"fix"`
}

// Codes lists every code once, in the order of the way.
var Codes = []CodeInfo{
	{LimitConnections, StepLimit, "Too many connections that have not yet proven who they are, from this address or in all.", "Let devices back off with jitter before they reconnect; raise the limit if the fleet behind one address is honest."},
	{LimitHandshake, StepLimit, "The TLS handshake or the first packet did not arrive in time.", "Check the network path and that the client speaks TLS on this port."},
	{LimitChainBytes, StepLimit, "The presented chain is larger than a chain of real certificates needs to be.", "Send the leaf and its intermediates only."},
	{LimitPathWork, StepLimit, "Judging the chain would cost more than the hub spends on a stranger.", "Send one chain, leaf first, without alternatives, and keep names and constraints few."},
	{LimitMessageSize, StepLimit, "A message is larger than 256 KiB.", "Split the message, or move bulk data by file upload."},
	{LimitRequestSize, StepLimit, "A request body is larger than this operation takes.", "Send fewer items in each request."},
	{LimitSubscriptions, StepLimit, "More topic filters than a device may hold.", "Subscribe only to the documented topics."},
	{LimitTwinSize, StepLimit, "A twin would be larger, deeper or of more parts than it may be.", "Keep desired and reported properties within 32 KB each and tags within 8 KB, ten levels deep; send bulk data as telemetry."},
	{LimitQuery, StepLimit, "The query looks at more, or answers with more groups, than one query may.", "Narrow it by a device ID or a tag, or group by what has fewer values."},
	{LimitMethods, StepLimit, "Too many method calls are under way to one device.", "Wait for the answers before calling again."},
	{LimitModules, StepLimit, "The device already has as many modules as it may.", "Delete a module that is no longer needed."},
	{LimitQueue, StepLimit, "As many cloud-to-device messages wait for the device as may.", "Send again when the device has fetched some; let messages expire sooner, or purge the queue."},
	{LimitRoutes, StepLimit, "A hub can have no more routes.", "Delete one that is not needed, or have a sink take more sources."},
	{LimitReaders, StepLimit, "As many readers as there may be have the log, or the consumer group, open.", "Close one; give readers that share their work an owner level; use a route for what many want."},
	{LimitRate, StepLimit, "The device, or the hub, does this more often than its operator lets it.", "Try again with back-off; the operator finds the limits by: signet hub limits"},
	{LimitEnrollments, StepLimit, "The provisioning service already holds as many enrollments of the kind as it may.", "Delete enrollments that are no longer needed, or enrol devices by a group."},
	{LimitLinks, StepLimit, "As many hubs are linked to the provisioning service as may be.", "Unlink a hub that is no longer given to devices."},
	{LimitRegistrations, StepLimit, "The device registers again too soon, too many registrations are being worked on, or the service holds as many as it may.", "Wait as long as the answer says, with jitter, and register again."},
	{LimitCRLs, StepLimit, "The hub already holds as many CRLs, or as many bytes of them, as it may.", "Delete a CRL that is no longer needed."},
	{LimitIssuance, StepLimit, "The device has been issued as many certificates as it may in an hour.", "Let the device keep its certificate, and renew it when most of its time is over."},
	{LimitCertificates, StepLimit, "The hub already holds as many CA certificates as it may.", "Delete a certificate that is no longer needed."},
	{LimitDistrusts, StepLimit, "The hub already distrusts as many certificates and keys as it may.", "Distrust the CA above them, or lift what has expired."},
	{LimitScopes, StepLimit, "The hub already has as many scopes as it may.", "Remove those of CAs that are gone, or scope the CA above them."},

	{RequestMalformed, StepRequest, "The request is not of the form that the protocol asks for.", "Compare the request with the documented form."},
	{RequestAPIVersion, StepRequest, "The api-version is missing or is not a date.", "Add ?api-version=2021-04-12."},
	{RequestNotFound, StepRequest, "There is nothing at this path.", "Check the path; docs/compatibility.md lists what is served."},
	{RequestMethod, StepRequest, "This path does not take this method.", "Check the method; docs/compatibility.md lists what is served."},
	{QueryMalformed, StepRequest, "The query is not of the query language of IoT Hub, as far as it is served.", "Mend it at the character named in the message; docs/compatibility.md has the language."},
	{MessageMalformed, StepRecord, "The cloud-to-device message is not well formed.", "Mend the field named in the message."},
	{MessageExpiry, StepRecord, "The expiry of a cloud-to-device message is past, or more than two days ahead.", "Set an expiry within two days, or none: then it is an hour."},
	{RouteMalformed, StepRequest, "The route is not well formed.", "Mend the field that is named: signet help route add"},
	{RouteForbidden, StepRequest, "Messages are not sent to that address: it is private, or of http.", "Name an address of https in public, or have the server's admin make the route with private addresses allowed."},
	{ReaderFilter, StepRequest, "A reader of the log says in no known way where it begins.", "Begin at an offset, a sequence number or an enqueued time, as the SDKs of Event Hubs do."},
	{ReaderPartition, StepRequest, "The log has no such partition: it has one, 0.", "Ask for the partitions, or let the SDK do so."},
	{ReaderPosition, StepRequest, "A reader remembers a place that is behind the end of the log.", "The log is not the one that it has read: remove its checkpoint, or begin at a time."},
	{ReaderTakenOver, StepSession, "A reader with a higher or the same owner level has the consumer group.", "Nothing, if readers share their work; else give each a consumer group of its own."},
	{FilesNoStorage, StepRequest, "No storage for file upload is configured; this hub has none.", "Send data as messages, or upload to a storage of your own."},

	{HubUnknown, StepHub, "No hub of this server has that name.", "Use the host name that the hub was created with."},
	{HubExists, StepHub, "A hub of that name or host name is there already.", "Choose another name."},
	{HubMalformed, StepHub, "The name of the hub or its host name is not allowed.", "Use 3 to 50 letters, digits and hyphens, and a DNS host name."},

	{ChainNone, StepChain, "The identity asks for a certificate and the device presented none.", "Configure the device's certificate and key; check that the TLS stack sends them."},
	{ChainTooLong, StepChain, "The device presented more certificates than a path may have.", "Send the leaf and the intermediates below the registered CA, at most 10 certificates."},
	{ChainMalformed, StepChain, "What was presented is not a chain of X.509 certificates.", "Re-create the chain file: PEM, leaf first, nothing else in it."},
	{ChainPossession, StepChain, "The device did not prove that it holds the key of the certificate that it presented.", "Give the device the certificate and the key that belong together."},
	{ChainIssuerMissing, StepChain, "The certificate of an issuer is missing between the device and any registered CA.", "Send the leaf together with every intermediate up to the registered CA."},
	{ChainUntrusted, StepChain, "The chain is complete and ends in a CA that this hub does not know.", "Register and verify the root, or one of the intermediates, at this hub."},
	{AnchorUnverified, StepChain, "The chain ends in a CA that is registered and not yet verified.", "Finish the proof of possession: generate a code, sign it with the CA, verify."},
	{AnchorExpired, StepPath, "The registered CA itself is past its notAfter.", "Register the CA's renewed certificate."},

	{CertExpired, StepPath, "A certificate on the path is past its notAfter.", "Renew that certificate."},
	{CertNotYetValid, StepPath, "A certificate on the path is not valid yet.", "Check the clock of the machine that issued it, and of this one."},
	{CertNotACA, StepPath, "A certificate that signed another is not a CA.", "Issue the signer with basicConstraints CA:TRUE."},
	{CertPathLength, StepPath, "More intermediates than a CA on the path allows below itself.", "Issue the CA with a larger path length, or shorten the path."},
	{CertKeyUsage, StepPath, "The key usage of a certificate does not allow what it was used for.", "Issue CAs with keyCertSign, and leaves with digitalSignature."},
	{CertExtKeyUsage, StepPath, "The extended key usage of a certificate leaves out client authentication.", "Issue it with clientAuth, or without an extended key usage."},
	{CertNameConstraints, StepPath, "A name in a certificate is outside what a CA above it may name.", "Issue the certificate with names that the CA permits."},
	{CertUnknownCritical, StepPath, "A certificate has a critical extension that the hub does not understand.", "Issue it without the extension, or not critical."},
	{CertWeakKey, StepPath, "A key on the path is too weak, too large or of a kind that is not taken.", "Use EC P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 8192 bits."},
	{CertWeakSignature, StepPath, "A certificate is signed with SHA-1, MD5 or another broken algorithm.", "Re-issue it with SHA-256 or better."},
	{CertBadSignature, StepPath, "The signature of a certificate does not fit the key of its issuer.", "Check that the intermediate sent is the one that signed; a re-keyed CA of the same name does not fit."},
	{CertRevoked, StepPath, "A certificate on the path is revoked.", "Issue a new certificate with a new key."},
	{CertRevocationUnknown, StepPath, "Nothing valid says whether a certificate on the path is revoked.", "Provide a current CRL of its issuer."},
	{CertIsCAAnchor, StepPath, "The device presented a registered CA as its own certificate.", "Give the device a certificate of its own, signed by the CA."},
	{CertOutOfScope, StepPath, "The certificate is outside the scope given to its issuer.", "Issue it within the scope, or widen the scope."},
	{CertPolicy, StepPath, "A CA on the path requires a certificate policy that the path does not have.", "Issue the certificates with the policy that the CA requires, or the CA without policy constraints."},

	{IdentityCNMismatch, StepIdentity, "The subject CN of the leaf is not the device ID.", "Issue the certificate with CN = device ID, byte for byte (a module: deviceId/moduleId)."},
	{IdentityUnknown, StepIdentity, "The hub has no identity of that name.", "Create the device identity, or check the spelling of the device ID: it is case-sensitive."},
	{IdentityDisabled, StepIdentity, "The identity is disabled.", "Enable the device identity if the device may come back."},
	{IdentityAuthType, StepIdentity, "The identity expects another kind of authentication than the one used.", "Change the authentication type of the identity, or what the device presents."},
	{IdentityThumbprint, StepIdentity, "The leaf is neither of the two certificates registered for the identity.", "Register the thumbprint of the certificate that the device holds."},
	{IdentityExists, StepRecord, "An identity of that name is there already.", "Replace it with If-Match, or choose another device ID."},
	{IdentityMalformed, StepRecord, "The identity is not well formed.", "Mend the field named in the message."},

	{EnrollmentNone, StepEnrollment, "No enrollment lets the device in: it has none of its own, and no group knows it by its CAs.", "Enrol the device, or a group with one of the CAs above its certificate."},
	{EnrollmentDisabled, StepEnrollment, "The enrollment that decides about the device is disabled: its own, or the group whose signer is nearest to it.", "Enable the enrollment if the device may have a place."},
	{EnrollmentMismatch, StepEnrollment, "The device proves itself otherwise than its enrollment asks for, or with another certificate.", "Enrol what the device holds, or give the device what is enrolled."},
	{EnrollmentNoPolicy, StepEnrollment, "The device asks for a certificate, and its enrollment names no issuance policy.", "Name a policy in the enrollment, or have the device register without a certificate signing request."},
	{AttestationUnsupported, StepEnrollment, "Attestation by a TPM is not supported.", "Enrol the device with a certificate, whose key the TPM may hold, or with a symmetric key."},
	{OperationUnknown, StepEnrollment, "The operation is not one of the device, or a later one with another certificate has taken its place.", "Register again."},
	{AllocationNoHub, StepEnrollment, "No hub can be given to the device: none is linked that its enrollment allows, or the webhook chose none of those offered.", "Link a hub to the provisioning service, and name it in the enrollment if that names any."},
	{AllocationHub, StepEnrollment, "The hub that was chosen refuses the identity.", "Check the connection string of the linked hub, and what the message says."},
	{AllocationWebhook, StepEnrollment, "The webhook that chooses the hub cannot be reached, or answers with what is no allocation.", "Check the webhook's address and log; it has ten seconds, and answers 200 with iotHubHostName."},

	{EnrollmentUnknown, StepRecord, "The provisioning service has no enrollment of that ID.", "Check the spelling, and whether it is an individual enrollment or a group; IDs are compared without case."},
	{EnrollmentExists, StepRecord, "An enrollment of that ID is there already.", "Replace it with If-Match, or choose another ID."},
	{EnrollmentMalformed, StepRecord, "The enrollment is not well formed.", "Mend the field named in the message."},
	{EnrollmentSigner, StepRecord, "A signer, or its key, is that of another enrollment group of the service already.", "Change the group that has it, or take the signer out of there first: which group decides must not be open."},
	{RegistrationUnknown, StepRecord, "No device has registered under that ID.", "Check the spelling; IDs are compared without case."},
	{LinkUnknown, StepRecord, "No hub of that host name is linked to the provisioning service.", "List the linked hubs: signet enrollment hub list"},
	{LinkMalformed, StepRecord, "The linked hub is not well formed.", "Mend the field named in the message."},

	{TokenNone, StepToken, "There is no token, and nothing else that proves who asks.", "Send an Authorization header."},
	{TokenMalformed, StepToken, "The token is not of the form that it should be.", "Make it from the connection string: SharedAccessSignature sr=…&sig=…&se=…[&skn=…]."},
	{TokenSignature, StepToken, "The token is not signed with a key that the hub knows.", "Check the policy name or device ID and the key in the connection string."},
	{TokenExpired, StepToken, "The token is past its expiry.", "Make a new token; check the clock."},
	{TokenAudience, StepToken, "The token is for another resource.", "Make the token for this hub and this resource."},
	{TokenRights, StepToken, "The policy does not give the right that this takes.", "Use a policy with that right."},

	{UploadPrivateKey, StepUpload, "The upload holds a private key.", "Upload the certificate alone, and consider the key exposed: it has left its owner's hands."},
	{UploadNotACA, StepUpload, "The certificate is not one of a CA.", "Upload the CA's certificate, not a device's."},
	{UploadMalformed, StepUpload, "The upload is not an X.509 certificate in PEM, base64 of PEM, or base64 of DER.", "Export the certificate as PEM (.pem, .cer)."},
	{UploadExpired, StepUpload, "The CA certificate is past its notAfter.", "Upload the renewed certificate."},
	{UploadDuplicate, StepUpload, "The same certificate is registered under another name.", "Use the registration that is there, or delete it first."},

	{ProofCodeMismatch, StepProof, "The CN of the proof is not the last verification code.", "Generate a code, and sign a certificate whose CN is exactly that code."},
	{ProofWrongSigner, StepProof, "The proof is not signed by the key of the registered CA.", "Sign the proof directly with the key of the CA being verified, not with its root or an intermediate."},
	{ProofExpired, StepProof, "The proof certificate is not valid now.", "Sign a new proof; check the clock."},
	{ProofMalformed, StepProof, "The proof is not one X.509 certificate.", "Upload the proof certificate as PEM."},

	{CRLMalformed, StepRevocation, "The file is not a certificate revocation list in PEM or DER, or it is damaged or too large.", "Make it anew: openssl ca -gencrl"},
	{CRLUnsupported, StepRevocation, "The CRL is of a kind that would be misread: a delta, indirect, a part, without a number, or with an extension that must be understood.", "Have the CA write a complete CRL of version 2 with a number and a next update, signed with SHA-256 or better."},
	{CRLWrongSigner, StepRevocation, "No issuer that is known here has signed the CRL, by the key that signs its certificates.", "Upload the issuer's certificate with the CRL, in one PEM file, or register the CA first."},
	{CRLStale, StepRevocation, "The CRL is past its nextUpdate, or not yet at its thisUpdate.", "Get the CA's latest CRL; check the clock."},
	{CRLOlder, StepRevocation, "A newer CRL of that issuer is in force, and an older one never replaces it.", "Get the CA's latest CRL; to go back on purpose, delete the one in force first."},
	{CRLUnknown, StepRevocation, "No CRL of that ID is kept here.", "List the CRLs of the hub: signet crl list"},
	{OCSPMalformed, StepRevocation, "The OCSP responder answered with an error, or with what is no answer to the question.", "Ask the responder by hand: openssl ocsp -url …"},
	{OCSPWrongSigner, StepRevocation, "The OCSP response is signed neither by the issuer nor by a responder that the issuer has appointed.", "Sign it with the issuer's key, or by a certificate that the issuer itself has signed for OCSPSigning."},
	{OCSPStale, StepRevocation, "The OCSP response is outside its time, or older than one that is known.", "Check the responder and the clocks."},
	{OCSPNonce, StepRevocation, "The OCSP response is to another question: its nonce is not the one that was sent, or is missing and required.", "Have the responder answer nonces, or do not require them."},
	{SourceUnreachable, StepRevocation, "A source of CRLs or an OCSP responder cannot be reached, answers too slowly, or answers with too much.", "Check the address and the network; the hub tries again by itself."},
	{SourceForbidden, StepRevocation, "The hub does not go to that address: it is private, or of another scheme than http and https.", "Have the server's admin set the policy with private addresses allowed, or upload the CRL."},

	{CSRMalformed, StepIssue, "The file is not a certificate signing request, or its signature does not fit.", "Make it anew on the device: openssl req -new -key device.key -subj /CN=ID"},
	{CSRName, StepIssue, "The common name of the certificate signing request is not the ID of the device.", "Make the request with CN = device ID, byte for byte."},
	{CSRForbidden, StepIssue, "The certificate signing request asks for the powers of a CA.", "Make it without basicConstraints CA:TRUE and without the key usages keyCertSign and cRLSign; other wishes are passed over."},
	{CSRKeyType, StepIssue, "The issuance policy issues no certificates for keys of that kind.", "Make a key of a kind that the policy takes: signet issuance policies"},
	{CSRKeyUsed, StepIssue, "The key of the certificate signing request belongs to another device, or to a CA.", "Make a new key on the device: no two devices share one."},
	{CSRReplayed, StepIssue, "The request was answered already, for another certificate signing request.", "Begin a new request for a new certificate signing request."},
	{IssuancePolicyUnknown, StepIssue, "The provisioning service has no issuance policy of that name.", "Write the policy into the server's issuance.toml, or name one that is there: signet issuance policies"},
	{IssuanceNotHere, StepIssue, "The session does not rest on a certificate that was issued here under a policy that is there.", "Register with the provisioning service; it issues the first certificate, which can then be renewed."},
	{IssuancePending, StepIssue, "Another request of the device for a certificate is under way.", "Wait for its answer, or name it in replace."},
	{IssuanceNothingPending, StepIssue, "There is no request under way that could be replaced.", "Send the request without replace."},
	{KeyMalformed, StepIssue, "The file holds no private key that can be read.", "Give the key as PEM: PKCS#8, SEC 1 or PKCS#1."},
	{KeyPassphrase, StepIssue, "The private key is encrypted and its passphrase is missing or does not fit.", "Name a file with the passphrase: --passphrase-file FILE"},
	{KeyToken, StepIssue, "A key in a PKCS#11 token cannot be named, reached, made or used.", "Check the URI, the library and the PIN; pkcs11-tool --module PATH --list-objects shows what a token holds."},
	{KeyMismatch, StepIssue, "The private key is not the one of the certificate beside it.", "Restore the key that belongs to the certificate."},
	{FileExists, StepIssue, "A file is there already; keys and certificates are never overwritten.", "Choose another folder, or move the old files away."},
	{FileAccess, StepIssue, "A file or folder cannot be read or written.", "Check the path and the permissions."},

	{AuditChanged, StepRecord, "The audit log is not what its checkpoint was signed of.", "Compare with an earlier export; find out who can write to the database."},

	{CertificateUnknown, StepRecord, "No CA certificate is registered under that name.", "List the certificates of the hub."},
	{BranchUnknown, StepRecord, "The trust tree has no such branch.", "Look at signet tree: name a branch by its ID, or by the thumbprint or subject of its CA."},
	{BranchAmbiguous, StepRecord, "CAs with different keys of the trust tree bear that name.", "Name one by its ID."},
	{CloneUnknown, StepRecord, "No clone was found under that ID.", "List what was found: signet clones."},
	{SightingUnknown, StepRecord, "The device has not authenticated by a certificate yet.", "Let it connect, then look again."},
	{DistrustUnknown, StepRecord, "Nothing is distrusted under that ID.", "List what the hub distrusts."},
	{DistrustMalformed, StepRecord, "What is to be distrusted is not said, or is not clear.", "Send the certificate in PEM and what of it to distrust, or a thumbprint, a key hash, or an issuer's key hash and a serial number."},
	{ScopeUnknown, StepRecord, "No scope is set for that key.", "List the scopes of the hub: signet certificate scope"},
	{RolloverUnsafe, StepRecord, "Removing the CA would cut devices off, or might, or revocation would be asked after less.", "Give those devices certificates of the other CA first: signet certificate rollover names them. To remove it all the same: signet certificate delete"},
	{ScopeMalformed, StepRecord, "What is to be bounded is not said, or is not clear.", "Mend the field named in the message."},
	{ETagMissing, StepRecord, "This operation needs If-Match.", "Read the record and send its etag in If-Match."},
	{ETagStale, StepRecord, "The record has changed since it was read.", "Read it again and repeat with the new etag."},
	{MessageLockLost, StepRecord, "The message is not locked by that token, or not any more.", "Receive it again, and settle it within its lock time."},
	{RouteUnknown, StepRecord, "The hub has no route of that name, or the route no such dead letter.", "List the routes of the hub: signet route list"},
	{BulkFailed, StepRecord, "Some items of a bulk operation failed.", "Look at the error of each item."},

	{TwinMalformed, StepRecord, "The change of a twin is not well formed.", "Mend the field named in the message: JSON objects, keys without dots, dollar signs and spaces."},

	{MethodOffline, StepMethod, "The device is not connected, or does not listen to direct methods.", "Call again when the device is connected, or give a connectTimeoutInSeconds to wait for it."},
	{MethodTimeout, StepMethod, "The device did not answer the method call in time; whether it carried it out is not known.", "Check that the device has a handler for the method; give it more time with responseTimeoutInSeconds."},
	{MethodBadAnswer, StepMethod, "The device's answer to the method call cannot be passed on.", "Let the device answer with JSON of at most 128 KiB."},

	{SessionTakenOver, StepSession, "The same identity has connected again; the older connection gives way.", "If this repeats, two devices use one identity: find the second."},
	{SessionExpired, StepSession, "The token that the session rests on is past its expiry.", "Renew the token and connect again."},
	{SessionCertificateExpired, StepSession, "A certificate that the session rests on is past its notAfter, and the hub ends sessions then.", "Renew the certificate and connect again; signet expiring tells beforehand."},
	{SessionRenewOnly, StepSession, "The device's certificate has expired; its session is for the renewal of the certificate and nothing else.", "Renew the certificate, and connect again with the new one."},
	{SessionClosed, StepSession, "The session is over: the device or the server closed it.", "Connect again."},

	{Unavailable, StepProcessing, "The hub cannot store or reach what it needs just now.", "Try again with back-off; the operator finds the cause in the log."},
	{Internal, StepProcessing, "The hub failed; this is not the caller's fault.", "Report the tracking ID to the operator: the log has the cause."},
}

var codeInfo = func() map[Code]CodeInfo {
	m := make(map[Code]CodeInfo, len(Codes))
	for _, c := range Codes {
		m[c.Code] = c
	}
	return m
}()

// Info tells of the code; of one that is not in [Codes], what [Internal] says.
func (c Code) Info() CodeInfo {
	if i, ok := codeInfo[c]; ok {
		return i
	}
	return codeInfo[Internal]
}
