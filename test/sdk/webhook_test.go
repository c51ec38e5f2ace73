package sdk_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/server"
)

// TestCustomAllocationSDK: what the device sends along reaches the webhook that
// chooses its hub, and what that answers reaches the device, by each door.
func TestCustomAllocationSDK(t *testing.T) {
	h := startHub(t, withAMQP, func(c *server.Config) { c.PrivateWebhooks = true })
	if _, err := h.Registry().CreateHub(context.Background(), "second", "second.signet.test"); err != nil {
		t.Fatal(err)
	}
	webhook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked struct {
			LinkedHubs           []string
			DeviceRuntimeContext struct {
				RegistrationID string
				Payload        struct{ Zone int }
			}
			EnrollmentGroup struct{ EnrollmentGroupID string }
		}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || len(asked.LinkedHubs) != 2 || asked.EnrollmentGroup.EnrollmentGroupID != "meters" {
			http.Error(w, "what is this", http.StatusBadRequest)
			return
		}
		if asked.DeviceRuntimeContext.Payload.Zone == 9 {
			http.Error(w, "no such zone", http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, `{"iotHubHostName":"second.signet.test","payload":{"zone":%d,"of":%q}}`,
			asked.DeviceRuntimeContext.Payload.Zone, asked.DeviceRuntimeContext.RegistrationID)
	}))
	defer webhook.Close()
	group := enroll(t, h, signet.Enrollment{Group: true, ID: "meters", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey},
		Allocation: signet.AllocateCustom, Webhook: signet.Webhook{URL: webhook.URL + "?code=secret", APIVersion: "2021-10-01"}})
	for _, door := range doors {
		id := "meter-" + door
		key, err := signet.DeriveKey(group.Attestation.PrimaryKey, id)
		if err != nil {
			t.Fatal(err)
		}
		got, out := provision(t, h, door, id, "key", key, `{"zone":7}`)
		if got["assignedHub"] != "second.signet.test" || fmt.Sprint(got["payload"]) != "map[of:"+id+" zone:7]" {
			t.Errorf("%s: %s", door, out)
		}
	}
	id := "meter-lost"
	key, _ := signet.DeriveKey(group.Attestation.PrimaryKey, id)
	got, out := provision(t, h, "mqtt", id, "key", key, `{"zone":9}`)
	if v := verdict(t, h, id); got != nil || v.Code != signet.AllocationWebhook {
		t.Errorf("%s %s", v.Code, out)
	}
}
