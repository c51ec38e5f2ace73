// Package client speaks to a running hub from the back end's side: CA
// certificates, device identities, enrollments, telemetry, verdicts and hubs. The command line
// and the end-to-end tests are made of it.
//
// It knows the wire and not the server behind it. Every error that a hub answers
// is a [signet.Error] with the code, the sentence, the fix and the tracking ID
// that the hub gave.
//
// What a change did to live sessions is added to the receipts of its context, if
// that gathers any; see [signet.WithReceipts].
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/signet-iot/signet"
)

// The versions of Azure's APIs that the client speaks.
const (
	serviceVersion    = "2021-04-12"
	managementVersion = "2023-06-30"
)

// maxAnswer bounds what is read of an answer: a list of 1000 identities has a
// megabyte.
const maxAnswer = 16 << 20

// Options say where the hub is and who asks.
type Options struct {
	// ConnectionString is one of a shared access policy. Its HostName may carry a
	// port, as in HostName=localhost:8443;…; the port is no part of the name that
	// tokens are made for.
	ConnectionString string
	// Token is the server's admin token. Where both are given, it is used for what
	// Azure calls management (certificates, hubs), and the connection string for
	// the rest.
	Token string
	// Address is where the server is reached, "host:port", if that is not what the
	// host name and port of the connection string say.
	Address string
	// CAFile is a PEM file with the CA of the server's certificate; the system's
	// CAs count when it is empty.
	CAFile string
	// Service says that the connection string, or what the admin token is for, is
	// that of a provisioning service and of no hub.
	Service bool
	// HTTPClient is used as is, and CAFile and Address are not, when it is set.
	HTTPClient *http.Client
}

// Client is a connection to one server, on behalf of one hub if the options name
// one. Safe for concurrent use.
type Client struct {
	http       *http.Client
	patient    *http.Client // waits for answers as long as the context lets it
	host       string       // the hub's host name, without port; "" without a connection string
	base       string       // https://host:port
	credential signet.ConnectionString
	token      string
	service    bool // it is a provisioning service that is asked

	mu   sync.Mutex
	name string // of the hub, once looked up
}

// New makes a client. It does not connect yet.
func New(o Options) (*Client, error) {
	c := &Client{token: strings.TrimSpace(o.Token), http: o.HTTPClient, service: o.Service}
	if o.ConnectionString != "" {
		credential, err := signet.ParseConnectionString(o.ConnectionString)
		if err != nil {
			return nil, err
		}
		if credential.DeviceID != "" {
			return nil, signet.Refuse(signet.RequestMalformed, "This is the connection string of a device, not of a shared access policy.").
				FixBy("Use the owner's: the file owner.connection-string in the server's data folder.")
		}
		c.credential, c.host = credential, signet.HostOnly(credential.HostName)
	}
	place := c.credential.HostName
	if place == "" {
		place = o.Address
	}
	if place == "" {
		return nil, signet.Refuse(signet.RequestMalformed, "Nothing says which server is meant.").
			FixBy("Set SIGNET_CONNECTION_STRING or --hub to the hub's connection string, or --address to HOST:PORT.")
	}
	c.base = "https://" + place
	if c.http != nil {
		c.patient = c.http
		return c, nil
	}

	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		text, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, err
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", o.CAFile)
		}
	}
	transport := &http.Transport{
		TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: time.Minute,
		MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
	}
	if o.Address != "" {
		dialer := &net.Dialer{Timeout: 10 * time.Second}
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, o.Address)
		}
	} else {
		transport.Proxy = http.ProxyFromEnvironment
	}
	c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a hub redirects nowhere, and keys go nowhere else
	}}
	slow := transport.Clone()
	slow.ResponseHeaderTimeout = 0
	c.patient = &http.Client{Transport: slow, CheckRedirect: c.http.CheckRedirect}
	return c, nil
}

// kind says with what a request is authorized.
type kind int

const (
	asPolicy kind = iota // the connection string; the admin token where there is none
	asAdmin              // the admin token; the connection string where there is none
)

// request is one exchange. in is sent as JSON and the answer read into out, where
// they are not nil.
type request struct {
	method, path string // the path is encoded
	query        url.Values
	etag         string // If-Match, as the hub gave it
	as           kind
	in, out      any
	body         []byte    // sent as it is, in the place of in
	stream       io.Reader // likewise, of any length
	header       http.Header
	patient      bool // the answer may take minutes
}

func (c *Client) do(ctx context.Context, r request) error {
	response, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if r.out == nil {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return c.unreachable(err)
	}
	if err := json.Unmarshal(body, r.out); err != nil {
		return fmt.Errorf("the answer to %s %s is not what a hub answers: %w", r.method, r.path, err)
	}
	return nil
}

// open sends a request and gives the answer with its body open, or the hub's
// refusal.
func (c *Client) open(ctx context.Context, r request) (*http.Response, error) {
	var body io.Reader
	if r.in != nil {
		text, err := json.Marshal(r.in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	} else if r.body != nil {
		body = bytes.NewReader(r.body)
	} else if r.stream != nil {
		body = io.NopCloser(r.stream) // whose it is, closes it
	}
	address := c.base + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	q, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return nil, err
	}
	if r.in != nil {
		q.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if r.etag != "" {
		q.Header.Set("If-Match", r.etag)
	}
	for name, values := range r.header {
		if values[0] != "" {
			q.Header[name] = values
		}
	}
	q.Header.Set("User-Agent", "signet")
	authorization, err := c.authorization(r.as)
	if err != nil {
		return nil, err
	}
	q.Header.Set("Authorization", authorization)
	asker := c.http
	if r.patient {
		asker = c.patient
	}
	response, err := asker.Do(q)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if response.StatusCode >= 300 {
		defer response.Body.Close()
		return nil, refusal(response)
	}
	var receipt signet.Receipt
	if text := response.Header.Get("Signet-Receipt"); text != "" && json.Unmarshal([]byte(text), &receipt) == nil {
		signet.AddReceipt(ctx, receipt)
	}
	return response, nil
}

// tokenLife is how long a token made here is good: time for one long answer.
const tokenLife = time.Hour

func (c *Client) authorization(as kind) (string, error) {
	switch {
	case c.token != "" && (as == asAdmin || !c.shared()):
		return "Bearer " + c.token, nil
	case c.credential.SharedAccessSignature != "":
		return c.credential.SharedAccessSignature, nil
	case c.credential.SharedAccessKey != "":
		return signet.SignSAS(c.host, c.credential.SharedAccessKeyName, c.credential.SharedAccessKey, time.Now().Add(tokenLife))
	}
	return "", signet.Refuse(signet.TokenNone, "There is neither a key nor a token to ask with.").
		FixBy("Set SIGNET_CONNECTION_STRING to the hub's connection string, or SIGNET_TOKEN to the server's admin token.")
}

// shared says whether the connection string lets us sign or shows a token.
func (c *Client) shared() bool {
	return c.credential.SharedAccessKey != "" || c.credential.SharedAccessSignature != ""
}

// refusal reads what a hub answers when it refuses.
func refusal(r *http.Response) error {
	var answer struct {
		Signet *signet.Error `json:"signet"`
	}
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if json.Unmarshal(body, &answer) == nil && answer.Signet != nil && answer.Signet.Code != "" {
		return answer.Signet
	}
	return signet.Refuse(signet.Unavailable, "The server answered %s, which is not the answer of a Signet hub.", r.Status).
		FixBy("Check the host name and the port.")
}

// unreachable says what stood between us and the hub, and what to do about it.
func (c *Client) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the method and the address
	}
	e := signet.Refuse(signet.Unavailable, "The hub at %s cannot be reached: %v.", strings.TrimPrefix(c.base, "https://"), err).
		FixBy("Check that the server runs there; --address HOST:PORT reaches it elsewhere.")
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, wrongName := errors.AsType[x509.HostnameError](err)
	switch {
	case unknown:
		e = e.FixBy("Give the CA of the server's certificate: --ca-file, usually server-ca.pem in the server's data folder.")
	case wrongName:
		e = e.FixBy("Use a host name that is in the server's certificate; --address HOST:PORT says where to connect.")
	}
	return e
}

// segment encodes an ID for a path.
func segment(id string) string {
	switch id {
	case ".", "..": // what lies between would take them for steps
		return strings.ReplaceAll(id, ".", "%2E")
	}
	return strings.ReplaceAll(url.PathEscape(id), "+", "%2B")
}

// ofHub names the hub to Signet's own API. A connection string says it by its
// host name, unless it is that of a provisioning service, which is called by any;
// the admin token is good for any hub.
func (c *Client) ofHub(ctx context.Context) (url.Values, error) {
	q := url.Values{}
	if c.host == "" || !c.shared() || c.service {
		name, err := c.HubName(ctx)
		if err != nil {
			return nil, err
		}
		q.Set("hub", name)
	}
	return q, nil
}

// HostName is the hub's host name without a port, or "" if the options name none.
func (c *Client) HostName() string { return c.host }
