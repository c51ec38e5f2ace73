package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func enrollmentCommand() *cobra.Command {
	cmd := provisioned(&cobra.Command{
		Use:   "enrollment",
		Short: "Say which devices a provisioning service lets register themselves",
		Long: `An enrollment lets devices that no hub knows yet register themselves: one device, or with --group all
that a CA has signed, or whose keys derive from one.

  signet certificate upload acme root/ca.pem --service data/provisioning.connection-string …
  signet enrollment create acme --group --ca acme
  signet enrollment create line-4 --group --certificate line/ca.pem --disabled
  signet enrollment create press-17 --certificate press-17/device.pem
  signet enrollment create sensors --group --symmetric-key

The enrollment of the device itself decides, and of groups the one whose signer is nearest to it. So
a disabled group of an intermediate shuts out all that it has signed.`,
	})
	cmd.AddCommand(enrollmentCreateCommand(), enrollmentSetCommand(), enrollmentListCommand(), enrollmentShowCommand(),
		enrollmentStatusCommand("enable", signet.Enabled, "Let the devices of an enrollment register"),
		enrollmentStatusCommand("disable", signet.Disabled, "Let them register no longer; what they have, they keep"),
		enrollmentDeleteCommand(), enrollmentKeysCommand(), enrollmentKeyCommand(), linkedHubCommand())
	return cmd
}

const enrolledGroupHelp = "an enrollment group"

// oneOf gives the word that a flag was given, as what it stands for.
func oneOf[T any](flag, given string, words map[string]T) (T, error) {
	v, ok := words[given]
	if !ok && given != "" {
		names := make([]string, 0, len(words))
		for name := range words {
			names = append(names, name)
		}
		slices.Sort(names)
		return v, usageError{fmt.Errorf("--%s is one of %s, not %q", flag, strings.Join(names, ", "), given)}
	}
	return v, nil
}

var reprovisionings = map[string]*client.ReprovisionPolicy{
	"migrate": {UpdateHub: true, MigrateData: true}, "reset": {UpdateHub: true}, "never": {},
}

// enrollmentFlags are what create and set have in common.
type enrollmentFlags struct {
	group                                      bool
	file, secondFile, ca, secondCA, keyFile    string
	deviceID, allocation, webhook, reprovision string
	hubAuth, issuancePolicy, tags, desired     string
	hubs                                       []string
}

// nothing is given to a flag to take away what is there.
const nothing = "none"

func (g *enrollmentFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&g.group, "group", false, enrolledGroupHelp)
	f.StringVar(&g.file, "certificate", "", "file with the device's certificate, or with the CA of a group")
	f.StringVar(&g.secondFile, "secondary-certificate", "", "a second one, for rollover")
	f.StringVar(&g.ca, "ca", "", "name of a CA certificate of the provisioning service")
	f.StringVar(&g.secondCA, "secondary-ca", "", "a second one, for rollover")
	f.StringVar(&g.keyFile, "key-file", "", "file with a symmetric key in base64, and in a second line another; that is made where it is missing")
	f.StringVar(&g.deviceID, "device-id", "", "of the identity at the hub, if it is not the registration ID")
	f.StringSliceVar(&g.hubs, "iot-hub", nil, "host name of a linked hub that may be given; may be repeated; all unless given")
	f.StringVar(&g.allocation, "allocation", "", "hashed (evenly by weight, the default), nearest or static")
	f.StringVar(&g.webhook, "webhook", "", "URL of a webhook that chooses the hub")
	f.StringVar(&g.reprovision, "reprovision", "", "a device that comes again: migrate (the default), reset or never")
	f.StringVar(&g.hubAuth, "hub-auth", "", "identities at the hub: thumbprint (the default) or ca")
	f.StringVar(&g.issuancePolicy, "issuance-policy", "", "issue certificates to devices that ask for one, by this policy")
	f.StringVar(&g.tags, "tags", "", "of the twin that a device begins with, JSON")
	f.StringVar(&g.desired, "desired", "", "desired properties of that twin, JSON")
}

// apply puts into an enrollment what the flags say, and leaves the rest as it is.
func (g *enrollmentFlags) apply(cmd *cobra.Command, e *client.Enrollment) (err error) {
	given := cmd.Flags().Changed
	if err := g.prove(&e.Attestation); err != nil {
		return err
	}
	if given("device-id") {
		e.DeviceID = g.deviceID
	}
	if given("iot-hub") {
		e.IoTHubs = slices.DeleteFunc(g.hubs, func(host string) bool { return host == nothing })
	}
	if given("allocation") {
		e.Webhook = nil
		if e.Allocation, err = oneOf("allocation", g.allocation, map[string]signet.Allocation{"hashed": signet.AllocateHashed,
			"nearest": signet.AllocateGeoLatency, "static": signet.AllocateStatic}); err != nil {
			return err
		}
	}
	if given("webhook") {
		if given("allocation") {
			return usageError{fmt.Errorf("--allocation and --webhook say the same thing: give one")}
		}
		e.Allocation, e.Webhook = signet.AllocateCustom, &client.Webhook{URL: g.webhook, APIVersion: "2021-10-01"}
	}
	if given("reprovision") {
		if e.Reprovision, err = oneOf("reprovision", g.reprovision, reprovisionings); err != nil {
			return err
		}
	}
	if given("hub-auth") {
		auth, err := oneOf("hub-auth", g.hubAuth, map[string]signet.AuthType{"ca": signet.AuthCA, "thumbprint": signet.AuthSelfSigned})
		if err != nil {
			return err
		}
		e.HubAuthentication = &auth
	}
	if given("issuance-policy") {
		if g.issuancePolicy == nothing {
			g.issuancePolicy = ""
		}
		e.CredentialPolicyName = &g.issuancePolicy
	}
	for _, part := range []struct{ flag, text string }{{"tags", g.tags}, {"desired", g.desired}} {
		if !given(part.flag) {
			continue
		}
		if !json.Valid([]byte(part.text)) {
			return usageError{fmt.Errorf("--%s is not JSON", part.flag)}
		}
		if e.InitialTwin == nil {
			e.InitialTwin = &client.InitialTwin{}
		}
		if part.flag == "tags" {
			e.InitialTwin.Tags = json.RawMessage(part.text)
		} else {
			e.InitialTwin.Properties.Desired = json.RawMessage(part.text)
		}
	}
	return nil
}

// prove puts certificates, names of CA certificates or keys into an attestation.
func (g *enrollmentFlags) prove(a *client.Attestation) error {
	byFile, byName := g.file+g.secondFile != "", g.ca+g.secondCA != ""
	switch {
	case byFile && byName || (byFile || byName) && g.keyFile != "":
		return usageError{fmt.Errorf("give one of --certificate, --ca and --key-file")}
	case byName && !g.group:
		return usageError{fmt.Errorf("--ca goes with --group")}
	case g.keyFile != "":
		return g.proveByKey(a)
	case !byFile && !byName:
		return nil
	case a.X509 == nil:
		*a = client.Attestation{Type: signet.AttestX509, X509: &client.X509Attestation{}}
	}
	x := a.X509
	if byName {
		if x.CAReferences == nil {
			*x = client.X509Attestation{CAReferences: &client.CAReferences{}}
		}
		for _, one := range []struct {
			name string
			into *string
		}{{g.ca, &x.CAReferences.Primary}, {g.secondCA, &x.CAReferences.Secondary}} {
			switch one.name {
			case "":
			case nothing:
				*one.into = ""
			default:
				*one.into = one.name
			}
		}
		return nil
	}
	pair := &x.ClientCertificates
	if g.group {
		pair = &x.SigningCertificates
	}
	if *pair == nil {
		*x = client.X509Attestation{}
		*pair = &client.CertificatePair{}
	}
	for _, one := range []struct {
		file string
		into **client.EnrolledCertificate
	}{{g.file, &(*pair).Primary}, {g.secondFile, &(*pair).Secondary}} {
		switch one.file {
		case "":
		case nothing:
			*one.into = nil
		default:
			certificate, err := readUpload(one.file)
			if err != nil {
				return err
			}
			*one.into = &client.EnrolledCertificate{Certificate: certificate}
		}
	}
	return nil
}

func (g *enrollmentFlags) proveByKey(a *client.Attestation) error {
	text, err := readFile(g.keyFile)
	if err != nil {
		return err
	}
	keys := strings.Fields(string(text))
	if len(keys) == 1 {
		var second [64]byte // as long as the service makes them
		rand.Read(second[:])
		keys = append(keys, base64.StdEncoding.EncodeToString(second[:]))
	}
	if len(keys) != 2 {
		return signet.Refuse(signet.KeyMalformed, "%s holds %d keys.", g.keyFile, len(keys)).FixBy("Give a file with one key in base64, or two, each in a line.")
	}
	*a = client.Attestation{Type: signet.AttestSymmetricKey, SymmetricKey: &client.AttestationKeys{PrimaryKey: keys[0], SecondaryKey: keys[1]}}
	return nil
}

func enrollmentCreateCommand() *cobra.Command {
	var flags enrollmentFlags
	var keys, disabled, edge bool
	var e client.Enrollment
	cmd := &cobra.Command{
		Use:   "create ID",
		Short: "Enrol a device, or a group of devices",
		Long: `Enrol a device by its registration ID, or with --group a group by a name. Devices prove themselves

  --certificate FILE  with this certificate, CN = registration ID; of a group, with one that this CA
                      has signed, at any depth
  --ca NAME           of a group, with one below a CA certificate of the provisioning service
  --symmetric-key     with a key, which the service makes: signet enrollment keys
  --key-file FILE     with a key that there is already

What they get at the hub is an identity that knows their certificate by its thumbprint, as at Azure,
or with --hub-auth ca one that takes any certificate of theirs below a CA of the hub, so that a renewed
one goes on working.`,
		Args: arguments("ID"),
		PreRunE: func(cmd *cobra.Command, args []string) error {
			e.RegistrationID = args[0]
			if flags.group {
				e = client.Enrollment{EnrollmentGroupID: args[0]}
			}
			if err := flags.apply(cmd, &e); err != nil {
				return err
			}
			if keys == (e.Attestation.Type != "") {
				return usageError{fmt.Errorf("give one of --certificate, --ca, --symmetric-key and --key-file")}
			}
			if keys {
				e.Attestation.Type = signet.AttestSymmetricKey
			}
			if disabled {
				e.Status = signet.Disabled
			}
			if edge {
				e.Capabilities = json.RawMessage(`{"iotEdge":true}`)
			}
			return nil
		},
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) (client.Enrollment, error) {
			return c.PutEnrollment(ctx, e, "")
		}, printEnrollment),
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&keys, "symmetric-key", false, "by keys, which the service makes")
	cmd.Flags().BoolVar(&disabled, "disabled", false, "shut these devices out")
	cmd.Flags().BoolVar(&edge, "edge", false, "an IoT Edge device")
	return cmd
}

func enrollmentSetCommand() *cobra.Command {
	var flags enrollmentFlags
	var etag string
	cmd := &cobra.Command{
		Use:   "set ID",
		Short: "Change an enrollment; what is not given stays",
		Long: `Change an enrollment: what is not given stays, and "none" takes away what is there. So a device, or
a group, rolls over to a new certificate without a gap:

  signet enrollment set press-17 --secondary-certificate new.pem
  …                                                               the device changes its certificate
  signet enrollment set press-17 --certificate new.pem --secondary-certificate none`,
		Args: arguments("ID"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			e, err := c.Enrollment(cmd.Context(), flags.group, args[0])
			if err != nil {
				return err
			}
			if err := flags.apply(cmd, &e); err != nil {
				return err
			}
			if etag == "" {
				etag = e.ETag
			}
			if e, err = c.PutEnrollment(cmd.Context(), e, etag); err != nil {
				return err
			}
			return show(cmd, e, func(w io.Writer) { printEnrollment(w, e) })
		}),
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&etag, "etag", "", etagHelp)
	return cmd
}

func enrollmentListCommand() *cobra.Command {
	var group bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the enrollments of devices, or the groups, by ID",
		Args:  noArguments,
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) ([]client.Enrollment, error) {
			return c.Enrollments(ctx, group)
		}, func(w io.Writer, list []client.Enrollment) {
			fmt.Fprintln(w, "ID\tSTATUS\tATTESTATION\tHUB")
			for i := range list {
				e := &list[i]
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", e.ID(), e.Status, proofs(e)[0], allocationText(e))
			}
		}),
	}
	cmd.Flags().BoolVar(&group, "group", false, "the enrollment groups")
	return cmd
}

// proofs tells what devices have to prove, one a line, at least one.
func proofs(e *client.Enrollment) (lines []string) {
	x := e.Attestation.X509
	if x == nil {
		return []string{"symmetric key"}
	}
	if r := x.CAReferences; r != nil {
		for _, name := range []string{r.Primary, r.Secondary} {
			if name != "" {
				lines = append(lines, "CA "+name)
			}
		}
	}
	for _, pair := range []*client.CertificatePair{x.ClientCertificates, x.SigningCertificates} {
		if pair == nil {
			continue
		}
		for _, c := range []*client.EnrolledCertificate{pair.Primary, pair.Secondary} {
			if c != nil && c.Info != nil {
				lines = append(lines, fmt.Sprintf("%s, SHA-256 %s", c.Info.SubjectName, strings.ToLower(c.Info.SHA256Thumbprint)))
			}
		}
	}
	return append(lines, "none")[:max(len(lines), 1)]
}

func allocationText(e *client.Enrollment) string {
	s := string(e.Allocation)
	if e.Webhook != nil {
		s += " by " + e.Webhook.URL
	}
	if len(e.IoTHubs) > 0 {
		s += ": " + strings.Join(e.IoTHubs, ", ")
	}
	return s
}

func printEnrollment(w io.Writer, e client.Enrollment) {
	group := ""
	if e.Group() {
		group = " (group)"
	}
	fmt.Fprintf(w, "%s%s\t%s\n", e.ID(), group, e.Status)
	for _, proof := range proofs(&e) {
		fmt.Fprintf(w, "  attestation\t%s\n", proof)
	}
	printLine(w, "device ID", e.DeviceID)
	printLine(w, "hub", allocationText(&e))
	for name, policy := range reprovisionings {
		if e.Reprovision != nil && *e.Reprovision == *policy || e.Reprovision != nil && !e.Reprovision.UpdateHub && name == "never" {
			printLine(w, "when it comes again", name)
			break
		}
	}
	if e.HubAuthentication != nil {
		printLine(w, "identity at the hub", string(*e.HubAuthentication))
	}
	if e.CredentialPolicyName != nil {
		printLine(w, "issuance policy", *e.CredentialPolicyName)
	}
	if e.InitialTwin != nil {
		printLine(w, "tags", string(e.InitialTwin.Tags))
		printLine(w, "desired", string(e.InitialTwin.Properties.Desired))
	}
	if r := e.State; r != nil {
		printLine(w, "registered", strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Status, r.AssignedHub, r.DeviceID)))
	}
	printLine(w, "etag", e.ETag)
}

func enrollmentShowCommand() *cobra.Command {
	var group bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one enrollment",
		Args:  arguments("ID"),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (client.Enrollment, error) {
			return c.Enrollment(ctx, group, args[0])
		}, printEnrollment),
	}
	cmd.Flags().BoolVar(&group, "group", false, enrolledGroupHelp)
	return cmd
}

func enrollmentStatusCommand(verb string, status signet.Status, short string) *cobra.Command {
	var group bool
	var etag string
	var dry *bool
	cmd := &cobra.Command{
		Use:   verb + " ID",
		Short: short,
		Args:  arguments("ID"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if *dry {
				return foresee(cmd, c, group, args[0], verb)
			}
			e, err := c.Enrollment(cmd.Context(), group, args[0])
			if err != nil {
				return err
			}
			if etag == "" {
				etag = e.ETag
			}
			e.Status = status
			if e, err = c.PutEnrollment(cmd.Context(), e, etag); err != nil {
				return err
			}
			return show(cmd, e, func(w io.Writer) { printEnrollment(w, e) })
		}),
	}
	cmd.Flags().BoolVar(&group, "group", false, enrolledGroupHelp)
	cmd.Flags().StringVar(&etag, "etag", "", etagHelp)
	dry = foreseeFlag(cmd)
	return cmd
}

func enrollmentDeleteCommand() *cobra.Command {
	var group bool
	var etag string
	var dry *bool
	cmd := &cobra.Command{
		Use:   "delete ID",
		Short: "Delete an enrollment; what devices have got by it, they keep",
		Long: `Delete an enrollment. Devices keep their identities at their hubs. A group may then let in a device
that this enrollment shut out: to shut it out for good, leave it there, disabled. --dry-run says whom.`,
		Args: arguments("ID"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if *dry {
				return foresee(cmd, c, group, args[0], "delete")
			}
			if err := c.DeleteEnrollment(cmd.Context(), group, args[0], etag); err != nil {
				return err
			}
			return showDone(cmd, args[0], "deleted")
		}),
	}
	cmd.Flags().BoolVar(&group, "group", false, enrolledGroupHelp)
	cmd.Flags().StringVar(&etag, "etag", "", etagHelp)
	dry = foreseeFlag(cmd)
	return cmd
}

func enrollmentKeysCommand() *cobra.Command {
	var group bool
	cmd := &cobra.Command{
		Use:   "keys ID",
		Short: "Show the symmetric keys of an enrollment",
		Args:  arguments("ID"),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (*client.AttestationKeys, error) {
			a, err := c.Attestation(ctx, group, args[0])
			if err == nil && a.SymmetricKey == nil {
				err = signet.Refuse(signet.EnrollmentMalformed, "The enrollment %q is not by symmetric keys.", args[0]).
					FixBy("signet enrollment show tells what its devices have to prove.")
			}
			return a.SymmetricKey, err
		}, func(w io.Writer, keys *client.AttestationKeys) {
			fmt.Fprintf(w, "primary\t%s\nsecondary\t%s\n", keys.PrimaryKey, keys.SecondaryKey)
		}),
	}
	cmd.Flags().BoolVar(&group, "group", false, enrolledGroupHelp)
	return cmd
}

func enrollmentKeyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Derive keys of devices, offline"}
	var file string
	derive := &cobra.Command{
		Use:   "derive ID",
		Short: "Derive the key of a device from the key of its group, offline",
		Long: `Derive the symmetric key of the device with that registration ID from the key of its group. Nothing is
asked of a server: the factory that has the group's key can do it. A device gets its own key alone, and
never that of the group.`,
		Args: arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !signet.ValidRegistrationID(args[0]) {
				return usageError{fmt.Errorf("%q is no registration ID: 1 to 128 letters, digits and - . _ : that end in a letter, a digit or a dash", args[0])}
			}
			if file == "" {
				return usageError{fmt.Errorf("%s needs --group-key-file", cmd.CommandPath())}
			}
			var text []byte
			var err error
			if file == "-" {
				text, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), 1<<10))
			} else {
				text, err = readFile(file)
			}
			if err != nil {
				return err
			}
			key, err := signet.DeriveKey(strings.TrimSpace(string(text)), args[0])
			if err != nil {
				return err
			}
			return show(cmd, map[string]string{"registrationId": args[0], "key": key}, func(w io.Writer) { fmt.Fprintln(w, key) })
		},
	}
	derive.Flags().StringVar(&file, "group-key-file", "", "file with the group's key in base64; - for standard input")
	cmd.AddCommand(derive)
	return cmd
}

func linkedHubCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hub",
		Short: "Say which hubs the service may give to devices",
		Long: `Say which hubs the provisioning service may give to devices. While none is linked, all hubs of its
server are; so the last one is not unlinked before another is linked. A hub of another server is linked
by a connection string that may write its registry.`,
	}
	cmd.AddCommand(linkListCommand(), linkAddCommand(), linkRemoveCommand())
	return cmd
}

func printLinks(w io.Writer, links []client.LinkedHub) {
	fmt.Fprintln(w, "HUB\tWEIGHT\tLOCATION\tGIVEN")
	for _, l := range links {
		given := "to all"
		if !l.Allocates {
			given = "to whom an enrollment names it"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", l.HostName, l.Weight, l.Location, given)
	}
}

func linkListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the hubs that may be given to devices",
		Args:  noArguments,
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) ([]client.LinkedHub, error) {
			return c.LinkedHubs(ctx)
		}, printLinks),
	}
}

func linkAddCommand() *cobra.Command {
	var l client.LinkedHub
	var named bool
	cmd := &cobra.Command{
		Use:   "link HUB",
		Short: "Link a hub: the host name of one of this server, or a file with a connection string",
		Args:  arguments("HUB"),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) ([]client.LinkedHub, error) {
			l.HostName, l.Allocates = signet.HostOnly(args[0]), !named
			text, err := args[0], error(nil)
			if !strings.Contains(strings.ToLower(text), "hostname=") {
				var file []byte
				file, err = readFile(text)
				text = string(file)
			}
			if err == nil {
				hub, err := signet.ParseConnectionString(text)
				if err != nil {
					return nil, err
				}
				l.ConnectionString, l.HostName = strings.TrimSpace(text), signet.HostOnly(hub.HostName)
			}
			links, err := c.LinkedHubs(ctx)
			if err != nil {
				return nil, err
			}
			links = slices.DeleteFunc(links, func(was client.LinkedHub) bool { return was.HostName == l.HostName })
			return c.SetLinkedHubs(ctx, append(links, l))
		}, printLinks),
	}
	cmd.Flags().IntVar(&l.Weight, "weight", 1, "how many devices it gets, beside others: 1 to 1000")
	cmd.Flags().StringVar(&l.Location, "location", "", "where it is, for people")
	cmd.Flags().BoolVar(&named, "only-if-named", false, "give it only where an enrollment names it")
	return cmd
}

func linkRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unlink HOST",
		Short: "Give a hub to devices no longer; those that have it keep it",
		Args:  arguments("HOST"),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) ([]client.LinkedHub, error) {
			links, err := c.LinkedHubs(ctx)
			if err != nil {
				return nil, err
			}
			host := signet.HostOnly(args[0])
			left := slices.DeleteFunc(slices.Clone(links), func(l client.LinkedHub) bool { return l.HostName == host })
			if len(left) == len(links) {
				return nil, signet.Refuse(signet.LinkUnknown, "%q is not a linked hub.", args[0])
			}
			return c.SetLinkedHubs(ctx, left)
		}, printLinks),
	}
}
