package api

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/hub"
)

// maxReaders is how many may read the log of a hub at a time by REST, as many as by
// AMQP: each has up to 4 MiB of it ahead, whether it reads on or not.
const maxReaders = 40

// GET /signet/messages?device=ID&source=telemetry,twin&from=POSITION|TIME|now&follow=true
// streams telemetry and events, one [signet.Message.JSON] a line, oldest first: all that is
// kept, or what comes after a position, or at a time (RFC 3339) and later; of the
// sources that are named, if any is. With follow it goes on until the
// caller leaves, the caller's token ends, the hub is deleted or the server drains.
func (c *call) readMessages() error {
	q := c.r.URL.Query()
	device := q.Get("device")
	from, err := c.start(q.Get("from"))
	if err != nil {
		return err
	}
	sources, err := signet.ParseSources(q.Get("source"))
	if err != nil {
		return err
	}
	follow := q.Get("follow") == "true"

	leave, ok := c.place(&c.readers, maxReaders)
	if !ok {
		return signet.Refuse(signet.LimitReaders, "%d others read the log of the hub by REST.", maxReaders)
	}
	defer leave()
	ctx, cancel := c.streaming()
	defer cancel()
	out := c.lines()
	defer out.close()
	// The answer has begun: an error from here can only cut it short.
	var line []byte
	err = c.Hub.Read(ctx, c.hub.Name, from, follow, func(at signet.Position, m *signet.Message) bool {
		if device != "" && m.DeviceID != device || !sources.Has(signet.SourceOf(m)) {
			return c.sameHub()
		}
		line = m.JSON(line[:0], at)
		return c.sameHub() && out.write(line) == nil
	})
	if err != nil && ctx.Err() == nil {
		c.Logger.Error("reading messages failed", "hub", c.hub.Name, "error", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

// sameHub says whether the caller's hub is still the one it was let in to, and
// not a new one of that name.
func (c *call) sameHub() bool {
	now, err := c.Registry.HubByName(c.hub.Name)
	return err == nil && now.Created.Equal(c.hub.Created)
}

func (c *call) start(text string) (hub.Start, error) {
	switch text {
	case "":
		return hub.Start{}, nil
	case "now": // by the hub's clock, which stamps the messages
		return hub.Start{Time: c.Now()}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return hub.Start{Time: t}, nil
	}
	p, err := signet.ParsePosition(text)
	if err != nil {
		return hub.Start{}, signet.Refuse(signet.RequestMalformed, "%q is neither a position nor a time.", signet.Clip(text)).
			At("from", "sequence.index, a time as in 2026-01-31T12:00:00Z, or now", text)
	}
	return hub.Start{After: p}, nil
}

// GET /signet/verdicts?device=ID&trackingId=ID&since=TIME&limit=N gives refusals,
// the newest first: 100 unless told, 1000 at most. With unattributed=true it
// gives the admin those that could be put to no hub.
func (c *call) listVerdicts() error {
	q := c.r.URL.Query()
	limit, err := c.number("limit", 100, 1000)
	if err != nil {
		return err
	}
	query := authority.VerdictQuery{Hub: c.hub.Name, DeviceID: q.Get("device"), TrackingID: q.Get("trackingId"), Limit: limit}
	if text := q.Get("since"); text != "" {
		if query.Since, err = time.Parse(time.RFC3339, text); err != nil {
			return signet.Refuse(signet.RequestMalformed, "%q is not a time.", signet.Clip(text)).At("since", "a time as in 2026-01-31T12:00:00Z", text)
		}
	}
	if q.Get("unattributed") == "true" {
		if c.showsSAS() {
			return signet.Refuse(signet.TokenRights, "Refusals that belong to no hub are the admin's to read.")
		}
		query.Hub = ""
	}
	vs, err := c.Verdicts.List(c.r.Context(), query)
	if err != nil {
		return err
	}
	if vs == nil {
		vs = []signet.Verdict{}
	}
	return c.answer(http.StatusOK, map[string]any{"verdicts": vs})
}

// explanationJSON is the answer of POST /signet/explain: the certification path,
// leaf first and anchor last, or why there is none.
type explanationJSON struct {
	Accepted bool                     `json:"accepted"`
	Path     []*signet.CertificateRef `json:"path,omitempty"`
	Error    *signet.Error            `json:"error,omitempty"`
}

// POST /signet/explain {"chain":PEM,"deviceId":…,"moduleId":…,"at":TIME,
// "suppose":hypothesisBody} says whether a device with that chain would be let in:
// by what the hub trusts, or would if the hypothesis were true, and, if a device is
// named, by its identity. Nothing is recorded.
func (c *call) explain() error {
	var body struct {
		Chain    string         `json:"chain"`
		DeviceID string         `json:"deviceId"`
		ModuleID string         `json:"moduleId"`
		At       time.Time      `json:"at"`
		Suppose  hypothesisBody `json:"suppose"`
	}
	if err := c.readSupposed(&body); err != nil {
		return err
	}
	if body.At.IsZero() {
		body.At = c.Now()
	}
	chain, err := parseChain([]byte(body.Chain))
	var path []*x509.Certificate
	if err == nil {
		var under hub.Trust = c.Authority
		if !body.Suppose.empty() {
			if under, err = c.suppose(&body.Suppose); err != nil {
				return err // of the hypothesis, not of the chain
			}
		}
		path, err = c.judge(chain, body.DeviceID, body.ModuleID, body.At, under)
	}
	if e := signet.AsError(err); e != nil {
		if e.Code == signet.Internal {
			return err
		}
		return c.answer(http.StatusOK, explanationJSON{Error: e})
	}
	return c.answer(http.StatusOK, explanationJSON{Accepted: true, Path: references(path, chain)})
}

func (c *call) judge(chain []*x509.Certificate, device, module string, at time.Time, under hub.Trust) ([]*x509.Certificate, error) {
	if device == "" {
		return under.Judge(c.hub.Name, chain, at)
	}
	return c.Hub.Explain(c.r.Context(), hub.Credentials{Host: c.hub.HostName, DeviceID: device, ModuleID: module, Chain: chain}, at, under)
}

// parseChain reads the certificates of a PEM file, leaf first. Judging bounds
// their number; the body's size bounds the work here.
func parseChain(text []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		switch {
		case block == nil && len(chain) > 0 && !bytes.Contains(text, []byte("-----BEGIN")):
			return chain, nil
		case block == nil:
			return nil, signet.Refuse(signet.ChainMalformed, "The chain is not a PEM file of certificates.")
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, signet.Refuse(signet.UploadPrivateKey, "The chain holds a private key.")
		case block.Type != "CERTIFICATE":
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, signet.Refuse(signet.ChainMalformed, "Certificate %d of the chain cannot be read.", len(chain))
		}
		chain = append(chain, cert)
	}
}

// hubJSON is a hub as its server's admin sees it.
type hubJSON struct {
	Name     string `json:"name"`
	HostName string `json:"hostName"`
	// AtExpiry is "keep" or "end": what becomes of sessions whose certificates
	// expire.
	AtExpiry signet.ExpiryPolicy `json:"atExpiry"`
	Created  time.Time           `json:"created"`
	// ConnectionString is the owner's; only of one hub asked for by name.
	ConnectionString string `json:"connectionString,omitempty"`
}

func newHubJSON(h signet.Hub) hubJSON {
	return hubJSON{Name: h.Name, HostName: h.HostName, AtExpiry: cmp.Or(h.AtExpiry, signet.KeepAtExpiry), Created: h.Created.UTC()}
}

func (c *call) answerHub(status int, h signet.Hub) error {
	j := newHubJSON(h)
	for _, p := range h.Policies {
		if p.Rights.Has(ownerRights) {
			j.ConnectionString = signet.ConnectionString{HostName: h.HostName, SharedAccessKeyName: p.Name, SharedAccessKey: p.PrimaryKey}.String()
			break
		}
	}
	return c.answer(status, j)
}

func (c *call) listHubs() error {
	list := []hubJSON{}
	for _, h := range c.Registry.Hubs() {
		list = append(list, newHubJSON(h))
	}
	return c.answer(http.StatusOK, map[string]any{"hubs": list})
}

func (c *call) getHub() error {
	h, err := c.Registry.HubByName(c.args["hub"])
	if err != nil {
		return err
	}
	return c.answerHub(http.StatusOK, h)
}

// PUT /signet/hubs/{name} {"hostName":…,"atExpiry":…} makes a hub: 201, or 200 if
// there is that very hub already, which then gets the policy, if one is named.
func (c *call) putHub() error {
	var body struct {
		HostName string              `json:"hostName"`
		AtExpiry signet.ExpiryPolicy `json:"atExpiry"`
	}
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	if body.AtExpiry != "" {
		if err := body.AtExpiry.Check(); err != nil {
			return err
		}
	}
	status := http.StatusOK
	h, err := c.Registry.HubByName(c.args["hub"])
	if err != nil || h.HostName != signet.HostOnly(body.HostName) {
		status = http.StatusCreated
		if h, err = c.Registry.CreateHub(c.r.Context(), c.args["hub"], body.HostName); err != nil {
			return err
		}
	}
	if body.AtExpiry != "" {
		if h, err = c.Registry.SetAtExpiry(c.r.Context(), h.Name, body.AtExpiry); err != nil {
			return err
		}
	}
	return c.answerHub(status, h)
}

// PATCH /signet/hubs/{name} {"atExpiry":"keep"|"end"} changes a hub. When it is
// answered, the sessions that it ends are over.
func (c *call) patchHub() error {
	var body struct {
		AtExpiry signet.ExpiryPolicy `json:"atExpiry"`
	}
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	h, err := c.Registry.SetAtExpiry(c.r.Context(), c.args["hub"], body.AtExpiry)
	if err != nil {
		return err
	}
	return c.answerHub(http.StatusOK, h)
}

func (c *call) deleteHub() error {
	if err := c.Registry.DeleteHub(c.r.Context(), c.args["hub"]); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}
