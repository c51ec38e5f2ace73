package main

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/pki"
	"github.com/spf13/cobra"
)

func revocationCommand() *cobra.Command {
	cmd := connectedEither(&cobra.Command{
		Use:   "revocation",
		Short: "Say how the hub asks whether the certificates below a CA have been revoked",
		Long: `Say how the hub asks whether the certificates below a registered CA have been revoked by their
issuers. The whole path counts: the device's certificate and every intermediate.

  off   nothing is asked; as Azure, and the default
  soft  what is known to be revoked is refused; when the answer is missing or out of date, the device
        is let in
  hard  then it is refused too (cert.revocation-unknown); sessions that are established go on

A registered CA for which no policy is set has that of a registered CA above it (from, in what show
tells); set to off, it has none.

No device waits for a source: CRLs are fetched ahead, and a responder is asked behind. So with a
responder and hard, the first connect of a certificate is refused, and one that follows is let in.`,
	})
	cmd.AddCommand(revocationSetCommand(), revocationShowCommand())
	return cmd
}

func revocationSetCommand() *cobra.Command {
	var p signet.RevocationPolicy
	var mode string
	var dry *bool
	cmd := &cobra.Command{
		Use:     "set NAME --policy soft|hard|off",
		Short:   "Set the policy of the CA registered under a name; it replaces the one before, whole",
		Args:    arguments("NAME"),
		PreRunE: needs("policy"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			p.CA, p.Mode = args[0], signet.RevocationMode(mode)
			if *dry {
				return dryRun(cmd, c, client.Hypothesis{Policies: []signet.RevocationPolicy{p}})
			}
			set, receipts, err := c.SetRevocationPolicy(cmd.Context(), p)
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"policy": set, "receipts": receipts}, func(w io.Writer) {
				printPolicy(w, set)
				printReceipts(w, receipts)
			})
		}),
	}
	cmd.Flags().StringVar(&mode, "policy", "", "off, soft or hard")
	cmd.Flags().StringSliceVar(&p.CRLs, "url", nil, "URL that a CRL is fetched from; may be given again, 8 times at most")
	cmd.Flags().StringVar(&p.OCSP, "ocsp", "", "URL of an OCSP responder")
	cmd.Flags().BoolVar(&p.RequireNonce, "require-nonce", false, "take no OCSP response that was not made for the question")
	cmd.Flags().BoolVar(&p.Follow, "follow", false, "also go to the addresses that accepted certificates name")
	cmd.Flags().BoolVar(&p.AllowPrivate, "allow-private", false, "let these addresses be private ones (takes the admin token)")
	dry = dryRunFlag(cmd)
	return cmd
}

func revocationShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show the policy of the CA registered under a name",
		Args:  arguments("NAME"),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (signet.RevocationPolicy, error) {
			return c.RevocationPolicy(ctx, args[0])
		}, printPolicy),
	}
}

func printPolicy(w io.Writer, p signet.RevocationPolicy) {
	fmt.Fprintf(w, "%s\t%s\n", p.CA, p.Mode)
	printLine(w, "from", p.From)
	for _, address := range p.CRLs {
		fmt.Fprintf(w, "  CRL\t%s\n", address)
	}
	printLine(w, "OCSP", p.OCSP)
	for _, option := range []struct {
		set  bool
		text string
	}{{p.RequireNonce, "nonce\trequired"}, {p.Follow, "certificates' own addresses\tfollowed"}, {p.AllowPrivate, "private addresses\tallowed"}} {
		if option.set {
			fmt.Fprintf(w, "  %s\n", option.text)
		}
	}
}

func crlCommand() *cobra.Command {
	cmd := connectedEither(&cobra.Command{
		Use:   "crl",
		Short: "Give the hub CRLs, and see which are in force",
		Long: `Give the hub certificate revocation lists, and see which are in force. They count for CAs whose
policy is not off: see signet revocation.`,
	})
	cmd.AddCommand(crlUploadCommand(), crlListCommand(), crlFetchCommand(), crlDeleteCommand())
	return cmd
}

func crlUploadCommand() *cobra.Command {
	var issuer string
	var upload []byte
	var dry *bool
	cmd := &cobra.Command{
		Use:   "upload FILE",
		Short: "Upload a CRL, PEM or DER; sessions of what it newly lists end at once",
		Long: `Upload a CRL, PEM or DER. It has to be a complete one, signed by the key that signs the issuer's
certificates; an older one than that in force is refused. When the command returns, the sessions of
what it lists are over; it says how many there were.

The issuer's certificate is known if it is registered, or if a device below it has connected under a
policy; otherwise give it with --issuer.`,
		Args: arguments("FILE"),
		PreRunE: func(_ *cobra.Command, args []string) (err error) {
			if upload, err = readCRL(args[0]); err != nil {
				return err
			}
			if issuer != "" {
				certificates, err := readCertificates(issuer)
				if err != nil {
					return err
				}
				der, beside, err := pki.ParseCRLUpload(upload)
				if err != nil {
					return err
				}
				upload = append(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), certificatesPEM(append(beside, certificates...)...)...)
			}
			return nil
		},
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			if *dry {
				return dryRun(cmd, c, client.Hypothesis{CRLs: [][]byte{upload}})
			}
			l, receipts, err := c.AddCRL(cmd.Context(), upload)
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"crl": l, "receipts": receipts}, func(w io.Writer) {
				fmt.Fprintf(w, "%s\tCRL %s, %d entries, in force until %s\n", printable(l.Issuer), l.Number, l.Entries, minute(l.NextUpdate))
				fmt.Fprintf(w, "  id\t%s\n", l.ID)
				printReceipts(w, receipts)
			})
		}),
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "PEM file with the certificate of the CRL's issuer")
	dry = dryRunFlag(cmd)
	return cmd
}

// readCRL reads a file that holds a CRL and no private key.
func readCRL(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fileError(err)
	}
	defer f.Close()
	upload, err := io.ReadAll(io.LimitReader(f, pki.MaxCRLUpload+1))
	if err != nil {
		return nil, fileError(err)
	}
	if len(upload) > pki.MaxCRLUpload {
		return nil, signet.Refuse(signet.CRLMalformed, "%s is larger than a CRL may be, %d MiB.", name, pki.MaxCRLBytes>>20)
	}
	_, _, err = pki.ParseCRLUpload(upload)
	if e := signet.AsError(err); e != nil {
		if e.Code == signet.UploadPrivateKey {
			e.Message = fmt.Sprintf("%s holds a private key. It was not sent.", name)
			e.Fix = "Upload a file with the CRL alone."
		}
		return nil, e
	}
	return upload, nil
}

func crlListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the CRLs in force, and how the sources and responders fare",
		Args:  noArguments,
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) (client.RevocationState, error) {
			return c.CRLs(ctx)
		}, printRevocation),
	}
}

func crlFetchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "fetch",
		Short: "Fetch the CRLs from their sources now, before their turn",
		Args:  noArguments,
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) (client.RevocationState, error) {
			return c.FetchCRLs(ctx)
		}, printRevocation),
	}
}

func printRevocation(w io.Writer, s client.RevocationState) {
	fmt.Fprintln(w, "ISSUER\tNUMBER\tTHIS UPDATE\tNEXT UPDATE\tENTRIES\tSTATE\tSOURCE\tID")
	for _, l := range s.CRLs {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", printable(l.Issuer), l.Number, minute(l.ThisUpdate), minute(l.NextUpdate), l.Entries, l.State, printable(l.Source), l.ID)
	}
	if len(s.Sources) == 0 {
		return
	}
	fmt.Fprintln(w, "\nCA\tKIND\tSOURCE\tANSWERED\tSTATE")
	for _, from := range s.Sources {
		state := "good"
		switch {
		case from.Fault != nil:
			state = fmt.Sprintf("%s [%s]", from.Fault.Message, from.Fault.Code)
		case from.Answered.IsZero():
			state = "not asked yet"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", from.CA, strings.ToUpper(from.Kind), printable(from.URL), minute(from.Answered), printable(state))
	}
}

func minute(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04Z")
}

func crlDeleteCommand() *cobra.Command {
	var dry *bool
	cmd := &cobra.Command{
		Use:   "delete ID",
		Short: "Have a CRL count no longer; one that a policy names is fetched again",
		Args:  arguments("ID"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if *dry {
				return dryRun(cmd, c, client.Hypothesis{DropCRLs: args})
			}
			if err := c.DeleteCRL(cmd.Context(), args[0]); err != nil {
				return err
			}
			return showDone(cmd, args[0], "deleted")
		}),
	}
	dry = dryRunFlag(cmd)
	return cmd
}
