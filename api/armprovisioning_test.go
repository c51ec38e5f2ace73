package api_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/deviceprovisioningservices/armdeviceprovisioningservices"
)

// TestArmDeviceProvisioningServices takes a provisioning service, its linked hubs
// and a CA of it through Azure's own client for Go.
func TestArmDeviceProvisioningServices(t *testing.T) {
	s := newServer(t)
	server := httptest.NewTLSServer(s.handler)
	defer server.Close()
	ctx := t.Context()
	options := &arm.ClientOptions{
		ClientOptions: policy.ClientOptions{
			Cloud: cloud.Configuration{Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
				cloud.ResourceManager: {Endpoint: server.URL, Audience: "https://signet"},
			}},
			Transport: server.Client(),
			Retry:     policy.RetryOptions{MaxRetries: -1},
		},
		DisableRPRegistration: true,
	}
	factory, err := armdeviceprovisioningservices.NewClientFactory("sub", staticToken(adminToken), options)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error, status int, code string) {
		t.Helper()
		if e, ok := errors.AsType[*azcore.ResponseError](err); !ok || e.StatusCode != status || e.ErrorCode != code {
			t.Errorf("%s: %v", what, err)
		}
	}

	// The service.
	resources := factory.NewIotDpsResourceClient()
	list, err := resources.NewListBySubscriptionPager(nil).NextPage(ctx)
	if err != nil || len(list.Value) != 2 || *list.Value[0].Name != "dps" {
		t.Fatalf("services: %+v %v", list, err)
	}
	group, err := resources.NewListByResourceGroupPager("rg", nil).NextPage(ctx)
	if err != nil || len(group.Value) != 2 {
		t.Fatalf("services of a group: %+v %v", group, err)
	}
	got, err := resources.Get(ctx, "dps", "rg", nil)
	if err != nil || *got.Properties.IDScope != s.names["dps scope"] || *got.Properties.ServiceOperationsHostName != "dps.example.test" ||
		*got.Properties.State != armdeviceprovisioningservices.StateActive || len(got.Properties.IotHubs) != 2 {
		t.Fatalf("service: %+v %v", got, err)
	}
	_, err = resources.Get(ctx, "hub", "rg", nil)
	refused("a hub", err, http.StatusNotFound, "404000")
	keys, err := resources.NewListKeysPager("dps", "rg", nil).NextPage(ctx)
	if err != nil || len(keys.Value) != 1 || *keys.Value[0].KeyName != "provisioningserviceowner" || len(*keys.Value[0].PrimaryKey) != 44 {
		t.Fatalf("keys: %+v %v", keys, err)
	}
	key, err := resources.ListKeysForKeyName(ctx, "dps", "provisioningserviceowner", "rg", nil)
	if err != nil || *key.PrimaryKey != *keys.Value[0].PrimaryKey {
		t.Fatalf("key: %+v %v", key, err)
	}
	_, err = resources.ListKeysForKeyName(ctx, "dps", "nobody", "rg", nil)
	refused("the key of nobody", err, http.StatusNotFound, "404000")

	// Its linked hubs: what was read goes back, with one more.
	far, where := "HostName=far.example.com;SharedAccessKeyName=registryReadWrite;SharedAccessKey=c2VjcmV0", "far"
	description := got.ProvisioningServiceDescription
	description.Properties.IotHubs = append(description.Properties.IotHubs,
		&armdeviceprovisioningservices.IotHubDefinitionDescription{ConnectionString: &far, Location: &where})
	poller, err := resources.BeginCreateOrUpdate(ctx, "rg", "dps", description, nil)
	if err != nil {
		t.Fatal(err)
	}
	put, err := poller.PollUntilDone(ctx, nil)
	if err != nil || len(put.Properties.IotHubs) != 3 || *put.Properties.IotHubs[0].Name != "far.example.com" ||
		*put.Properties.IotHubs[0].ConnectionString == far || *put.Properties.IotHubs[0].AllocationWeight != 1 {
		t.Fatalf("linked: %+v %v", put, err)
	}
	static := armdeviceprovisioningservices.AllocationPolicyStatic
	description.Properties.AllocationPolicy = &static
	_, err = resources.BeginCreateOrUpdate(ctx, "rg", "dps", description, nil)
	refused("a policy of the service", err, http.StatusBadRequest, "400004")

	// A CA, which the client sends as base64 of PEM; 200 though it is new.
	c := factory.NewDpsCertificateClient()
	verified := false
	created, err := c.CreateOrUpdate(ctx, "rg", "dps", "acme", armdeviceprovisioningservices.CertificateResponse{
		Properties: &armdeviceprovisioningservices.CertificateProperties{Certificate: []byte(s.cas["root"].pem()), IsVerified: &verified},
	}, nil)
	if err != nil || *created.Properties.IsVerified || *created.Properties.Subject != "CN=Acme Root" ||
		*created.Type != "Microsoft.Devices/provisioningServices/Certificates" || !created.Properties.Expiry.Equal(s.cas["root"].cert.NotAfter) {
		t.Fatalf("created: %+v %v", created, err)
	}
	_, err = c.CreateOrUpdate(ctx, "rg", "dps", "leaf", armdeviceprovisioningservices.CertificateResponse{
		Properties: &armdeviceprovisioningservices.CertificateProperties{Certificate: s.cas["leaf"].cert.Raw},
	}, nil)
	refused("a leaf", err, http.StatusBadRequest, "400123")
	code, err := c.GenerateVerificationCode(ctx, "acme", *created.Etag, "rg", "dps", nil)
	if err != nil || len(*code.Properties.VerificationCode) != 48 {
		t.Fatalf("code: %+v %v", code, err)
	}
	_, err = c.GenerateVerificationCode(ctx, "acme", *created.Etag, "rg", "dps", nil)
	refused("a code by an old etag", err, http.StatusPreconditionFailed, "412001")
	request := func(by string) armdeviceprovisioningservices.VerificationCodeRequest {
		proof := newCA(t, *code.Properties.VerificationCode, s.cas[by], nil).pem()
		return armdeviceprovisioningservices.VerificationCodeRequest{Certificate: &proof}
	}
	_, err = c.VerifyCertificate(ctx, "acme", *code.Etag, "rg", "dps", request("stranger"), nil)
	refused("another's proof", err, http.StatusBadRequest, "400053")
	nonce := "x"
	done, err := c.VerifyCertificate(ctx, "acme", *code.Etag, "rg", "dps", request("root"),
		&armdeviceprovisioningservices.DpsCertificateClientVerifyCertificateOptions{CertificateName1: &nonce, CertificateNonce: &nonce})
	if err != nil || !*done.Properties.IsVerified {
		t.Fatalf("verify: %+v %v", done, err)
	}
	certificates, err := c.List(ctx, "rg", "dps", nil)
	if err != nil || len(certificates.Value) != 1 || *certificates.Value[0].Etag != *done.Etag {
		t.Fatalf("list: %+v %v", certificates, err)
	}
	if other, err := c.List(ctx, "rg", "dps2", nil); err != nil || len(other.Value) != 0 {
		t.Errorf("list of another service: %+v %v", other, err)
	}
	_, err = c.Delete(ctx, "rg", *code.Etag, "dps", "acme", nil)
	refused("delete by an old etag", err, http.StatusPreconditionFailed, "412001")
	if _, err := c.Delete(ctx, "rg", *done.Etag, "dps", "acme", nil); err != nil {
		t.Fatal(err)
	}
	_, err = c.Get(ctx, "acme", "rg", "dps", nil)
	refused("a deleted one", err, http.StatusNotFound, "404008")
}
