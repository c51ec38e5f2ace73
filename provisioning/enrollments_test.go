package provisioning_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/registry"
)

// office is two provisioning services beside two hubs, on a store in memory.
type office struct {
	*provisioning.Provisioning
	store     *memstore.Store
	authority *authority.Authority
	now       time.Time
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{store: memstore.New(), now: time.Now()}
	clock := func() time.Time { return o.now }
	r := registry.New(o.store, registry.Options{Now: clock})
	for _, hub := range []string{"east", "west"} {
		if _, err := r.CreateHub(t.Context(), hub, hub+".example.com"); err != nil {
			t.Fatal(err)
		}
	}
	for _, service := range []string{"dps", "other"} {
		if _, err := r.CreateService(t.Context(), service, service+".example.com"); err != nil {
			t.Fatal(err)
		}
	}
	o.authority = authority.New(o.store, authority.Options{Now: clock})
	o.Provisioning = provisioning.New(provisioning.Deps{Enrollments: o.store, Authority: o.authority, Tenants: r, Now: clock})
	return o
}

func (o *office) register(t *testing.T, service, name string, ca *hubtest.CA) {
	t.Helper()
	if _, _, err := o.authority.Register(t.Context(), service, name, hubtest.PEM(ca.Cert.Raw), true, ""); err != nil {
		t.Fatal(err)
	}
}

func (o *office) put(t *testing.T, e signet.Enrollment, ifMatch string) signet.Enrollment {
	t.Helper()
	kept, _, err := o.PutEnrollment(t.Context(), e, ifMatch)
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

func code(t *testing.T, err error, want signet.Code) {
	t.Helper()
	if got := signet.CodeOf(err); got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

func leaf(c tls.Certificate) []byte { return c.Certificate[0] }

// TestEnrollmentLife is the life of an enrollment, ETag by ETag.
func TestEnrollmentLife(t *testing.T) {
	o := newOffice(t)
	e := signet.Enrollment{Service: "dps", ID: "Press-17", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}}
	_, _, err := o.PutEnrollment(t.Context(), e, "*")
	code(t, err, signet.EnrollmentUnknown)
	first := o.put(t, e, "")
	if first.Status != signet.Enabled || first.Allocation != signet.AllocateHashed || len(first.Attestation.PrimaryKey) != 88 ||
		first.Attestation.PrimaryKey == first.Attestation.SecondaryKey || first.ETag == "" || first.Created.IsZero() || first.Updated != first.Created {
		t.Errorf("%+v", first)
	}
	_, _, err = o.PutEnrollment(t.Context(), e, "")
	code(t, err, signet.EnrollmentExists)

	o.now = o.now.Add(time.Minute)
	e = first
	e.ID, e.Status = "PRESS-17", signet.Disabled
	second := o.put(t, e, first.ETag)
	if second.ID != "Press-17" || second.Status != signet.Disabled || second.Created != first.Created || !second.Updated.After(first.Updated) ||
		second.Attestation.PrimaryKey != first.Attestation.PrimaryKey {
		t.Errorf("%+v", second)
	}
	_, _, err = o.PutEnrollment(t.Context(), e, first.ETag)
	code(t, err, signet.ETagStale)
	o.put(t, e, "*")
	code(t, o.DeleteEnrollment(t.Context(), "dps", false, "press-17", second.ETag), signet.ETagStale)

	// Neither a group of that ID nor the other service has anything to do with it.
	for _, elsewhere := range []struct {
		service string
		group   bool
	}{{"dps", true}, {"other", false}} {
		_, err := o.Enrollment(t.Context(), elsewhere.service, elsewhere.group, "press-17")
		code(t, err, signet.EnrollmentUnknown)
		code(t, o.DeleteEnrollment(t.Context(), elsewhere.service, elsewhere.group, "press-17", ""), signet.EnrollmentUnknown)
		list, err := o.Enrollments(t.Context(), elsewhere.service, elsewhere.group, "", 9)
		if err != nil || len(list) > 0 {
			t.Errorf("%v %v", list, err)
		}
	}
	if err := o.DeleteEnrollment(t.Context(), "dps", false, "press-17", ""); err != nil {
		t.Error(err)
	}
	_, err = o.Enrollment(t.Context(), "dps", false, "Press-17")
	code(t, err, signet.EnrollmentUnknown)
}

// TestEnrollmentRefused: what cannot be kept, and how it is said.
func TestEnrollmentRefused(t *testing.T) {
	o := newOffice(t)
	root := hubtest.NewCA(t, "Acme Root")
	o.register(t, "dps", "acme", root)
	device := root.Device(t, "press-17")
	key := strings.Repeat("QUJD", 8)
	for name, c := range map[string]struct {
		change func(*signet.Enrollment)
		want   signet.Code
		field  string
	}{
		"no ID":                    {func(e *signet.Enrollment) { e.ID = "" }, signet.EnrollmentMalformed, "registrationId"},
		"an ID that ends in a dot": {func(e *signet.Enrollment) { e.ID = "press-17." }, signet.EnrollmentMalformed, "registrationId"},
		"an ID longer than a CN":   {func(e *signet.Enrollment) { e.ID = strings.Repeat("a", 65) }, signet.EnrollmentMalformed, "registrationId"},
		"another status":           {func(e *signet.Enrollment) { e.Status = "on" }, signet.EnrollmentMalformed, "provisioningStatus"},
		"a device ID with a blank": {func(e *signet.Enrollment) { e.DeviceID = "a b" }, signet.EnrollmentMalformed, "deviceId"},
		"a group's device ID":      {func(e *signet.Enrollment) { e.Group, e.DeviceID = true, "a" }, signet.EnrollmentMalformed, "deviceId"},
		"no attestation":           {func(e *signet.Enrollment) { e.Attestation.Type = "" }, signet.EnrollmentMalformed, "attestation.type"},
		"TPM":                      {func(e *signet.Enrollment) { e.Attestation.Type = signet.AttestTPM }, signet.EnrollmentMalformed, "attestation.type"},
		"no certificate":           {func(e *signet.Enrollment) { e.Attestation.Primary = nil }, signet.EnrollmentMalformed, "attestation.x509.clientCertificates"},
		"a device's CA reference":  {func(e *signet.Enrollment) { e.Attestation.PrimaryCA = "acme" }, signet.EnrollmentMalformed, "attestation.x509.caReferences"},
		"rubbish":                  {func(e *signet.Enrollment) { e.Attestation.Secondary = []byte("rubbish") }, signet.UploadMalformed, ""},
		"another's certificate":    {func(e *signet.Enrollment) { e.ID = "press-18" }, signet.EnrollmentMalformed, "subject CN"},
		"a leaf as signer":         {func(e *signet.Enrollment) { e.Group = true }, signet.UploadNotACA, "basicConstraints"},
		"no signer":                {func(e *signet.Enrollment) { e.Group, e.Attestation.Primary = true, nil }, signet.EnrollmentMalformed, "attestation.x509"},
		"both kinds of signer":     {func(e *signet.Enrollment) { e.Group, e.Attestation.PrimaryCA = true, "acme" }, signet.EnrollmentMalformed, "attestation.x509"},
		"a CA that is not there": {func(e *signet.Enrollment) {
			e.Group, e.Attestation = true, signet.Attestation{Type: signet.AttestX509, PrimaryCA: "acmee"}
		}, signet.CertificateUnknown, "attestation.x509.caReferences"},
		"the CA of another service": {func(e *signet.Enrollment) {
			e.Service, e.Group, e.Attestation = "other", true, signet.Attestation{Type: signet.AttestX509, PrimaryCA: "acme"}
		}, signet.CertificateUnknown, "attestation.x509.caReferences"},
		"one key": {func(e *signet.Enrollment) {
			e.Attestation = signet.Attestation{Type: signet.AttestSymmetricKey, PrimaryKey: key}
		}, signet.EnrollmentMalformed, "attestation.symmetricKey.secondaryKey"},
		"a short key": {func(e *signet.Enrollment) {
			e.Attestation = signet.Attestation{Type: signet.AttestSymmetricKey, PrimaryKey: "QUJD", SecondaryKey: key}
		}, signet.EnrollmentMalformed, "attestation.symmetricKey.primaryKey"},
		"a CA identity by key":        {func(e *signet.Enrollment) { e.Attestation.Type, e.HubAuth = signet.AttestSymmetricKey, signet.AuthCA }, signet.EnrollmentMalformed, "attestation.type"},
		"another hub authentication":  {func(e *signet.Enrollment) { e.HubAuth = signet.AuthSAS }, signet.EnrollmentMalformed, "hubAuthentication"},
		"an impossible policy":        {func(e *signet.Enrollment) { e.IssuancePolicy = "a/b" }, signet.EnrollmentMalformed, "credentialPolicyName"},
		"another allocation":          {func(e *signet.Enrollment) { e.Allocation = "random" }, signet.EnrollmentMalformed, "allocationPolicy"},
		"static without a hub":        {func(e *signet.Enrollment) { e.Allocation = signet.AllocateStatic }, signet.EnrollmentMalformed, "iotHubs"},
		"a hub that is not linked":    {func(e *signet.Enrollment) { e.Hubs = []string{"north.example.com"} }, signet.EnrollmentMalformed, "iotHubs"},
		"too many hubs":               {func(e *signet.Enrollment) { e.Hubs = make([]string, provisioning.MaxLinks+1) }, signet.EnrollmentMalformed, "iotHubs"},
		"no webhook":                  {func(e *signet.Enrollment) { e.Allocation = signet.AllocateCustom }, signet.EnrollmentMalformed, "customAllocationDefinition.webhookUrl"},
		"a webhook of another scheme": {func(e *signet.Enrollment) { e.Allocation, e.Webhook.URL = signet.AllocateCustom, "file:///etc/passwd" }, signet.EnrollmentMalformed, "customAllocationDefinition.webhookUrl"},
		"tags that are no object":     {func(e *signet.Enrollment) { e.InitialTwin.Tags = []byte(`[1]`) }, signet.TwinMalformed, "tags"},
		"a property with a dot":       {func(e *signet.Enrollment) { e.InitialTwin.Desired = []byte(`{"a.b":1}`) }, signet.TwinMalformed, "properties.desired"},
		"a twin that is too large": {func(e *signet.Enrollment) {
			e.InitialTwin.Tags = []byte(`{"a":["` + strings.Repeat("x", 4096) + `","` + strings.Repeat("x", 4096) + `"]}`)
		}, signet.LimitTwinSize, "tags"},
		"information that is text":   {func(e *signet.Enrollment) { e.Information = []byte(`"x"`) }, signet.EnrollmentMalformed, "optionalDeviceInformation"},
		"information without end":    {func(e *signet.Enrollment) { e.Information = []byte(`{"x":`) }, signet.EnrollmentMalformed, "optionalDeviceInformation"},
		"information of 9 kilobytes": {func(e *signet.Enrollment) { e.Information = []byte(`{"x":"` + strings.Repeat("x", 9<<10) + `"}`) }, signet.EnrollmentMalformed, "optionalDeviceInformation"},
	} {
		e := signet.Enrollment{Service: "dps", ID: "press-17", Attestation: signet.Attestation{Type: signet.AttestX509, Primary: leaf(device)}}
		c.change(&e)
		_, _, err := o.PutEnrollment(t.Context(), e, "")
		if got := signet.AsError(err); got == nil || got.Code != c.want || got.Field != c.field || strings.Contains(got.Error()+got.Actual, key) {
			t.Errorf("%s: got %v (%q), want %s (%q)", name, err, signet.AsError(err).Field, c.want, c.field)
		}
	}
	if list, err := o.Enrollments(t.Context(), "dps", false, "", 9); err != nil || len(list) > 0 {
		t.Errorf("%v %v", list, err)
	}
}

// TestLeaves: the two certificates of a device, and that one which has expired
// since does not keep it from being shut out.
func TestLeaves(t *testing.T) {
	o := newOffice(t)
	root := hubtest.NewCA(t, "Acme Root")
	e := signet.Enrollment{Service: "dps", ID: "PRESS-17", HubAuth: signet.AuthCA, IssuancePolicy: "line-3", Attestation: signet.Attestation{
		Type: signet.AttestX509, Primary: leaf(root.Device(t, "press-17")), Secondary: leaf(root.Device(t, "Press-17"))}}
	kept := o.put(t, e, "")
	second := kept.Attestation.Secondary
	kept.Attestation.Primary = nil // rolled over
	if kept = o.put(t, kept, kept.ETag); !bytes.Equal(kept.Attestation.Primary, second) || kept.Attestation.Secondary != nil {
		t.Error("what was second is not first now")
	}

	o.now = o.now.AddDate(200, 0, 0)
	kept.Status = signet.Disabled
	o.put(t, kept, kept.ETag)
	e.ID = "press-18"
	e.Attestation = signet.Attestation{Type: signet.AttestX509, Primary: leaf(root.Device(t, "press-18"))}
	_, _, err := o.PutEnrollment(t.Context(), e, "")
	code(t, err, signet.CertExpired)
	o.now = o.now.AddDate(-400, 0, 0)
	o.put(t, e, "") // ahead of its time
}

// reissued gives the certificate of a CA signed anew for the same key.
func reissued(t *testing.T, issuer, ca *hubtest.CA) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, ca.Cert, issuer.Cert, ca.Key.Public(), issuer.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestSigners: a signer is one group's, by its key.
func TestSigners(t *testing.T) {
	o := newOffice(t)
	root := hubtest.NewCA(t, "Acme Root")
	line := root.Intermediate(t, "Line 3")
	o.register(t, "dps", "acme", root)
	o.register(t, "other", "acme", root)
	group := func(service, id string, a signet.Attestation) signet.Enrollment {
		a.Type = signet.AttestX509
		return signet.Enrollment{Service: service, Group: true, ID: id, Attestation: a}
	}
	byName := o.put(t, group("dps", "acme", signet.Attestation{PrimaryCA: "ACME"}), "")
	lines := o.put(t, group("dps", "line-3", signet.Attestation{Primary: line.Cert.Raw, Secondary: line.Cert.Raw}), "")
	for name, e := range map[string]signet.Enrollment{
		"an intermediate of another group":        group("dps", "x", signet.Attestation{Secondary: line.Cert.Raw}),
		"the CA of another group, itself":         group("dps", "x", signet.Attestation{Primary: root.Cert.Raw}),
		"the CA of another group, by name":        group("dps", "x", signet.Attestation{SecondaryCA: "acme"}),
		"the key of another group's intermediate": group("dps", "x", signet.Attestation{Primary: reissued(t, root, line)}),
	} {
		if _, _, err := o.PutEnrollment(t.Context(), e, ""); signet.CodeOf(err) != signet.EnrollmentSigner {
			t.Errorf("%s: %v", name, err)
		}
	}
	lines.Attestation.Secondary = root.Cert.Raw
	_, _, err := o.PutEnrollment(t.Context(), lines, "*")
	code(t, err, signet.EnrollmentSigner)
	o.put(t, group("other", "acme", signet.Attestation{PrimaryCA: "acme"}), "") // each service for itself

	// A CA that has been replaced, by one with the key of another group, does not keep
	// its group from being disabled.
	other := hubtest.NewCA(t, "Other Root")
	o.register(t, "dps", "other", other)
	byOther := o.put(t, group("dps", "other", signet.Attestation{PrimaryCA: "other"}), "")
	ca, err := o.authority.Get(t.Context(), "dps", "other")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := o.authority.Register(t.Context(), "dps", "other", hubtest.PEM(reissued(t, root, line)), true, ca.ETag); err != nil {
		t.Fatal(err)
	}
	byOther.Status = signet.Disabled
	o.put(t, byOther, byOther.ETag)

	// Nor does one that is gone.
	if ca, err = o.authority.Get(t.Context(), "dps", "acme"); err != nil {
		t.Fatal(err)
	}
	if err := o.authority.Delete(t.Context(), "dps", "acme", ca.ETag); err != nil {
		t.Fatal(err)
	}
	byName.Status = signet.Disabled
	o.put(t, byName, byName.ETag)
}

// TestLinks: which hubs may be given.
func TestLinks(t *testing.T) {
	o := newOffice(t)
	names := func(service string) string {
		links, err := o.Links(t.Context(), service)
		if err != nil {
			t.Fatal(err)
		}
		s := ""
		for _, l := range links {
			s += fmt.Sprint(l.HostName, " ", l.Weight, " ", l.ConnectionString != "", "; ")
		}
		return s
	}
	all := "east.example.com 1 false; west.example.com 1 false; "
	if got := names("dps"); got != all {
		t.Error(got)
	}
	const far = "HostName=Far.example.com:8443;SharedAccessKeyName=registryReadWrite;SharedAccessKey=c2VjcmV0"
	links := []signet.LinkedHub{{ConnectionString: far, Weight: 5}, {HostName: "EAST.example.com"}}
	if err := o.SetLinks(t.Context(), "dps", links); err != nil {
		t.Fatal(err)
	}
	if got := names("dps"); got != "east.example.com 1 false; far.example.com 5 true; " {
		t.Error(got)
	}
	if got := names("other"); got != all {
		t.Error(got)
	}
	e := signet.Enrollment{Service: "dps", ID: "d", Hubs: []string{"far.example.com", "FAR.example.com."}, Allocation: signet.AllocateStatic,
		Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}}
	e = o.put(t, e, "")
	if !slices.Equal(e.Hubs, []string{"far.example.com"}) {
		t.Error(e.Hubs)
	}
	for name, l := range map[string]signet.LinkedHub{
		"not ours, and no key":   {HostName: "north.example.com"},
		"another host":           {HostName: "north.example.com", ConnectionString: far},
		"a device's string":      {ConnectionString: "HostName=far.example.com;DeviceId=d;SharedAccessKey=c2VjcmV0"},
		"rubbish":                {ConnectionString: "c2VjcmV0"},
		"no host":                {},
		"a path":                 {ConnectionString: "HostName=far.example.com/a;SharedAccessKeyName=a;SharedAccessKey=c2VjcmV0"},
		"a path behind a port":   {ConnectionString: "HostName=far.example.com:443/a;SharedAccessKeyName=a;SharedAccessKey=c2VjcmV0"},
		"a host behind a name":   {ConnectionString: "HostName=far.example.com:x@10.0.0.1;SharedAccessKeyName=a;SharedAccessKey=c2VjcmV0"},
		"too heavy":              {HostName: "east.example.com", Weight: 1001},
		"a provisioning service": {HostName: "dps.example.com"},
	} {
		if err := o.SetLinks(t.Context(), "dps", append(links[:1:1], l)); signet.CodeOf(err) != signet.LinkMalformed || strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("%s: %v", name, err)
		}
	}
	var many []signet.LinkedHub
	for n := range provisioning.MaxLinks {
		many = append(many, signet.LinkedHub{ConnectionString: strings.Replace(far, "Far", fmt.Sprint("far", n), 1)})
	}
	code(t, o.SetLinks(t.Context(), "dps", append(many, links[1])), signet.LimitLinks)
	code(t, o.SetLinks(t.Context(), "dps", append(many[:1:1], many[0])), signet.LinkMalformed)
	if err := o.SetLinks(t.Context(), "dps", links[1:]); err != nil || names("dps") != "east.example.com 1 false; " {
		t.Error(err, names("dps"))
	}
	e.Status = signet.Disabled
	o.put(t, e, e.ETag) // its hub is gone, and it can still be shut
	if err := o.SetLinks(t.Context(), "dps", nil); err != nil || names("dps") != all {
		t.Error(err, names("dps"))
	}
}

// TestEnrollmentRace: of many who write one enrollment at once, one creates it; by
// its ETag one replaces it, and by "*" all do, one after the other.
func TestEnrollmentRace(t *testing.T) {
	o := newOffice(t)
	write := func(ifMatch string) (done int, codes map[signet.Code]bool) {
		codes = map[signet.Code]bool{}
		errs := make(chan error, 8)
		for range cap(errs) {
			go func() {
				_, _, err := o.PutEnrollment(t.Context(), signet.Enrollment{Service: "dps", ID: "d", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}}, ifMatch)
				errs <- err
			}()
		}
		for range cap(errs) {
			if err := <-errs; err == nil {
				done++
			} else {
				codes[signet.CodeOf(err)] = true
			}
		}
		return done, codes
	}
	if done, codes := write(""); done != 1 || len(codes) != 1 || !codes[signet.EnrollmentExists] {
		t.Errorf("%d create it; the others: %v", done, codes)
	}
	e, err := o.Enrollment(t.Context(), "dps", false, "d")
	if err != nil {
		t.Fatal(err)
	}
	if done, codes := write(e.ETag); done != 1 || len(codes) != 1 || !codes[signet.ETagStale] {
		t.Errorf("%d replace it by its ETag; the others: %v", done, codes)
	}
	if done, codes := write("*"); done != 8 {
		t.Errorf("%d replace it whatever it is; the others: %v", done, codes)
	}
}

// TestEnrollmentFaults: what the disk does is what the caller hears, and what may
// have been kept is there to be read.
func TestEnrollmentFaults(t *testing.T) {
	o := newOffice(t)
	e := signet.Enrollment{Service: "dps", ID: "d", Attestation: signet.Attestation{Type: signet.AttestSymmetricKey}}
	for operation, do := range map[string]func() error{
		"CreateEnrollment": func() error { _, _, err := o.PutEnrollment(t.Context(), e, ""); return err },
		"DeleteEnrollment": func() error { return o.DeleteEnrollment(t.Context(), "dps", false, "d", "") },
		"LinkedHubs":       func() error { _, err := o.Links(t.Context(), "dps"); return err },
		"ChangeLinkedHubs": func() error { return o.SetLinks(t.Context(), "dps", nil) },
		"Enrollment":       func() error { _, err := o.Enrollment(t.Context(), "dps", false, "d"); return err },
	} {
		o.store.Before = func(op string) error {
			if op == operation {
				return memstore.ErrFault
			}
			return nil
		}
		if err := do(); !errors.Is(err, memstore.ErrFault) {
			t.Errorf("%s: %v", operation, err)
		}
	}
	o.store.Before = nil
	o.store.After = func(op string) error {
		if op == "CreateEnrollment" {
			return memstore.ErrFault
		}
		return nil
	}
	if _, _, err := o.PutEnrollment(t.Context(), e, ""); !errors.Is(err, memstore.ErrFault) {
		t.Error(err)
	}
	if _, err := o.Enrollment(context.Background(), "dps", false, "d"); err != nil {
		t.Error(err)
	}
}
