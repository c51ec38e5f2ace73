package api

import (
	"net/http"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/routes"
)

// routeBody is what PUT /signet/routes/{name} takes.
type routeBody struct {
	// Sources are telemetry, lifecycle, twin, connection and other, joined by
	// commas; telemetry when left out.
	Sources    *signet.MessageSources `json:"sources"`
	DeviceID   string                 `json:"deviceId"`
	Properties map[string]string      `json:"properties"`
	URL        string                 `json:"url"`
	Secret     string                 `json:"secret"`
	// AllowPrivate takes the admin token.
	AllowPrivate bool `json:"allowPrivate"`
	RetrySeconds int  `json:"retrySeconds"`
	// From is now when left out, a time in RFC 3339, or beginning. Of a route that is
	// changed it does not count.
	From string `json:"from"`
}

// routeAnswer is a route with what is told of it on demand.
type routeAnswer struct {
	routes.State
	// Secret is told to who made the route, then.
	Secret string `json:"secret,omitempty"`
	// Dead are its dead letters.
	Dead []signet.DeadLetter `json:"dead,omitempty"`
}

// GET /signet/routes gives the routes of the hub, by name.
func (c *call) listRoutes() error {
	list, err := c.Routes.List(c.r.Context(), c.hub.Name)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, map[string]any{"routes": list})
}

// GET /signet/routes/{name} gives a route with its dead letters.
func (c *call) getRoute() error {
	state, dead, err := c.Routes.Show(c.r.Context(), c.hub.Name, c.args["route"])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, routeAnswer{State: state, Dead: dead})
}

// PUT /signet/routes/{name} (routeBody) makes a route: 201, with its secret; or
// changes one: 200, and it goes on where it was.
//
// To send the server to private addresses takes its admin: a hub's owner need not
// be one who may reach them.
func (c *call) putRoute() error {
	var body routeBody
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	if body.AllowPrivate && c.showsSAS() {
		return signet.Refuse(signet.TokenRights, "Only the admin may have the server go to private addresses.").
			FixBy("Make the route with the admin token, or with a public address of https.")
	}
	r := signet.Route{Hub: c.hub.Name, Name: c.args["route"], DeviceID: body.DeviceID, Properties: body.Properties,
		URL: body.URL, Secret: body.Secret, AllowPrivate: body.AllowPrivate, RetrySeconds: body.RetrySeconds}
	if body.Sources != nil {
		r.Sources = *body.Sources
	}
	switch body.From {
	case "", "now":
		r.From = c.Now().UTC()
	case "beginning":
	default:
		var err error
		if r.From, err = time.Parse(time.RFC3339, body.From); err != nil {
			return signet.Refuse(signet.RequestMalformed, "%q is not where a route can begin.", signet.Clip(body.From)).
				At("from", "now, beginning, or a time as in 2026-01-31T12:00:00Z", body.From)
		}
	}
	r, made, err := c.Routes.Put(c.r.Context(), r)
	if err != nil {
		return err
	}
	state, dead, err := c.Routes.Show(c.r.Context(), c.hub.Name, r.Name)
	if err != nil {
		return err
	}
	answer, status := routeAnswer{State: state, Dead: dead}, http.StatusOK
	if made {
		answer.Secret, status = r.Secret, http.StatusCreated
	}
	return c.answer(status, answer)
}

// DELETE /signet/routes/{name} removes a route with its dead letters.
func (c *call) deleteRoute() error {
	if err := c.Routes.Delete(c.r.Context(), c.hub.Name, c.args["route"]); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

// POST /signet/routes/{name}/replay {"id":…} has a dead letter be sent again, or
// all of them: 202, with their number.
func (c *call) replayRoute() error {
	var body struct {
		ID string `json:"id"`
	}
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	n, err := c.Routes.Replay(c.r.Context(), c.hub.Name, c.args["route"], body.ID)
	if err != nil {
		return err
	}
	return c.answer(http.StatusAccepted, map[string]int{"deadLetters": n})
}
