package api

import (
	"net/http"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/provisioning"
)

// POST /signet/enrollments/foresee says what a change of an enrollment would do,
// and makes none. It takes the rights to read enrollments and registrations.
func (c *call) foresee() error {
	var body struct {
		Enrollment string `json:"enrollment"`
		Group      bool   `json:"group"`
		Change     string `json:"change"`
	}
	if !c.hub.Provisions() {
		return signet.Refuse(signet.RequestNotFound, "%q is a hub; enrollments are of a provisioning service.", c.hub.Name)
	}
	if c.showsSAS() { // devices are named
		if err := c.checkSAS(signet.EnrollmentRead | signet.RegistrationStatusRead); err != nil {
			return err
		}
	}
	if err := c.read(maxBody, &body); err != nil {
		return err
	}
	change := provisioning.Change{Group: body.Group, ID: body.Enrollment}
	switch body.Change {
	case "enable":
		change.Status = signet.Enabled
	case "disable":
		change.Status = signet.Disabled
	case "delete":
	default:
		return signet.Refuse(signet.RequestMalformed, "%q is no change of an enrollment.", signet.Clip(body.Change)).
			At("change", "enable, disable or delete", body.Change)
	}
	foreseen, err := c.Provisioning.Foresee(c.r.Context(), c.hub.Name, change)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, foreseen)
}
