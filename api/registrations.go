package api

import (
	"net/http"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
)

func (c *call) getRegistration() error {
	r, err := c.Provisioning.Registration(c.r.Context(), c.hub.Name, c.args["registration"])
	if err != nil {
		return err
	}
	c.w.Header()["ETag"] = []string{`"` + r.ETag + `"`}
	return c.answer(http.StatusOK, provisioning.NewRegistrationDocument(&r))
}

// DELETE forgets that a device has registered; it may do so anew.
func (c *call) deleteRegistration() error {
	if err := c.Provisioning.DeleteRegistration(c.r.Context(), c.hub.Name, c.args["registration"], c.ifMatch()); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

// POST /registrations/{group}/query gives the devices that a group has let in,
// also after the group is gone.
func (c *call) queryRegistrations() error {
	after, limit, err := c.readQuery()
	if err != nil {
		return err
	}
	if !signet.ValidRegistrationID(c.args["group"]) {
		return signet.Refuse(signet.EnrollmentUnknown, "There is no enrollment group %q.", signet.Clip(c.args["group"]))
	}
	list, err := c.Provisioning.ListRegistrations(c.r.Context(), c.hub.Name, c.args["group"], after, limit+1)
	if err != nil {
		return err
	}
	next := ""
	if len(list) > limit {
		list = list[:limit]
		next = list[limit-1].RegistrationID
	}
	items := make([]*provisioning.RegistrationDocument, len(list))
	for i := range list {
		items[i] = provisioning.NewRegistrationDocument(&list[i])
	}
	return c.answerPage(items, "DeviceRegistration", limit, next)
}
