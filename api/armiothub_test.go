package api_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/iothub/armiothub"
)

// staticToken is the admin token as a credential of the Azure SDK.
type staticToken string

func (s staticToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: string(s), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// TestArmIotHub takes a CA through its life with Azure's own client for Go,
// pointed here by a cloud of its own.
func TestArmIotHub(t *testing.T) {
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
	factory, err := armiothub.NewClientFactory("sub", staticToken(adminToken), options)
	if err != nil {
		t.Fatal(err)
	}

	hubs, err := factory.NewResourceClient().NewListBySubscriptionPager(nil).NextPage(ctx)
	if err != nil || len(hubs.Value) != 2 || *hubs.Value[0].Properties.HostName != "hub.example.test" {
		t.Fatalf("hubs: %+v %v", hubs, err)
	}
	events := hubs.Value[0].Properties.EventHubEndpoints["events"]
	if events == nil || *events.Endpoint != "sb://hub.example.test/" || *events.Path != "hub" || *events.PartitionCount != 1 {
		t.Errorf("its events are read at %+v", events)
	}
	key, err := factory.NewResourceClient().GetKeysForKeyName(ctx, "rg", "hub", "iothubowner", nil)
	if err != nil || *key.Rights != armiothub.AccessRightsRegistryReadRegistryWriteServiceConnectDeviceConnect {
		t.Fatalf("key: %+v %v", key, err)
	}

	c := factory.NewCertificatesClient()
	pem, verified := s.cas["root"].pem(), false
	created, err := c.CreateOrUpdate(ctx, "rg", "hub", "acme", armiothub.CertificateDescription{
		Properties: &armiothub.CertificateProperties{Certificate: &pem, IsVerified: &verified},
	}, nil)
	if err != nil || *created.Properties.IsVerified || *created.Properties.Subject != "CN=Acme Root" ||
		!created.Properties.Expiry.Equal(s.cas["root"].cert.NotAfter) {
		t.Fatalf("created: %+v %v", created, err)
	}
	code, err := c.GenerateVerificationCode(ctx, "rg", "hub", "acme", *created.Etag, nil)
	if err != nil || len(*code.Properties.VerificationCode) != 48 {
		t.Fatalf("code: %+v %v", code, err)
	}

	// The etag of before the code.
	_, err = c.GenerateVerificationCode(ctx, "rg", "hub", "acme", *created.Etag, nil)
	if refused, ok := errors.AsType[*azcore.ResponseError](err); !ok || refused.StatusCode != http.StatusPreconditionFailed || refused.ErrorCode != "412001" {
		t.Fatalf("stale etag: %v", err)
	}

	s.names["code"] = *code.Properties.VerificationCode
	proof := newCA(t, s.names["code"], s.cas["root"], nil).pem()
	done, err := c.Verify(ctx, "rg", "hub", "acme", *code.Etag, armiothub.CertificateVerificationDescription{Certificate: &proof}, nil)
	if err != nil || !*done.Properties.IsVerified {
		t.Fatalf("verify: %+v %v", done, err)
	}
	list, err := c.ListByIotHub(ctx, "rg", "hub", nil)
	if err != nil || len(list.Value) != 1 || *list.Value[0].Etag != *done.Etag {
		t.Fatalf("list: %+v %v", list, err)
	}
	if _, err := c.Delete(ctx, "rg", "hub", "acme", *done.Etag, nil); err != nil {
		t.Fatal(err)
	}
	_, err = c.Get(ctx, "rg", "hub", "acme", nil)
	if refused, ok := errors.AsType[*azcore.ResponseError](err); !ok || refused.StatusCode != http.StatusNotFound {
		t.Fatalf("deleted: %v", err)
	}
}
