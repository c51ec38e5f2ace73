package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/pki"
	"github.com/spf13/cobra"
)

func certificateCommand() *cobra.Command {
	cmd := connectedEither(&cobra.Command{
		Use:   "certificate",
		Short: "Register CA certificates at a hub and prove possession of their keys",
		Long: `Register the CA that signs your devices, root or intermediate, and prove that you hold its key.
The key itself stays where it is:

  signet certificate upload acme root/ca.pem
  signet certificate code acme
  signet ca prove --ca root --code CODE --out proof.pem
  signet certificate verify acme proof.pem

A provisioning service has CA certificates of its own: --service is for those.

Each change is made to the record as it was just read; --etag makes it to that version and no other.`,
	})
	cmd.AddCommand(certificateUploadCommand(), certificateListCommand(), certificateShowCommand(),
		certificateCodeCommand(), certificateVerifyCommand(), certificateDeleteCommand(), certificateScopeCommand(), certificateRolloverCommand())
	return cmd
}

const etagHelp = "act only on this version of the record"

func certificateUploadCommand() *cobra.Command {
	var verified bool
	var dry *bool
	var etag string
	cmd := &cobra.Command{
		Use:   "upload NAME FILE",
		Short: "Register a CA certificate, PEM or DER, under a name",
		Args:  arguments("NAME", "FILE"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			certificate, err := readUpload(args[1])
			if err != nil {
				return err
			}
			if *dry {
				return dryRun(cmd, c, client.Hypothesis{Register: []client.CARequest{{Name: args[0], Certificate: certificate, Verified: verified}}})
			}
			registered, err := c.RegisterCertificate(cmd.Context(), args[0], certificate, verified, etag)
			if err != nil {
				return err
			}
			return show(cmd, registered, func(w io.Writer) { printCertificate(w, registered) })
		}),
	}
	cmd.Flags().BoolVar(&verified, "verified", false, "vouch for the certificate: trust it without a proof of possession")
	cmd.Flags().StringVar(&etag, "etag", "", "replace the certificate of that name, if this is its version")
	dry = dryRunFlag(cmd)
	return cmd
}

// readUpload reads a certificate file and gives the certificate alone: whatever
// else is in the file, a private key before all, does not leave this machine.
func readUpload(file string) (string, error) {
	text, err := readFile(file)
	if err != nil {
		return "", err
	}
	cert, err := pki.ParseUpload(base64.StdEncoding.EncodeToString(text))
	if e := signet.AsError(err); e != nil {
		if e.Code == signet.UploadPrivateKey {
			e.Message = fmt.Sprintf("%s holds a private key. It was not sent.", file)
			e.Fix = "Upload a file with the certificate alone."
		}
		return "", e
	}
	return string(certificatesPEM(cert)), nil
}

func certificateListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the registered CA certificates",
		Args:  noArguments,
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) ([]client.Certificate, error) {
			return c.Certificates(ctx)
		}, func(w io.Writer, list []client.Certificate) {
			fmt.Fprintln(w, "NAME\tSTATUS\tSUBJECT\tEXPIRES\tTHUMBPRINT (SHA-1)")
			for _, r := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Name, standing(r), printable(r.Properties.Subject), day(r.Properties.Expiry), r.Properties.Thumbprint)
			}
		}),
	}
}

func certificateShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show one registered CA certificate",
		Args:  arguments("NAME"),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (client.Certificate, error) {
			return c.Certificate(ctx, args[0])
		}, printCertificate),
	}
}

func certificateCodeCommand() *cobra.Command {
	var etag string
	cmd := &cobra.Command{
		Use:   "code NAME",
		Short: "Get a new verification code; an earlier one counts no longer",
		Args:  arguments("NAME"),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (r client.Certificate, err error) {
			if etag, err = currentETag(ctx, c, args[0], etag); err != nil {
				return r, err
			}
			return c.GenerateVerificationCode(ctx, args[0], etag)
		}, func(w io.Writer, r client.Certificate) {
			fmt.Fprintf(w, "%s\n\n", r.Properties.VerificationCode)
			fmt.Fprintf(w, "Where the key of %s is:\n", printable(r.Properties.Subject))
			fmt.Fprintf(w, "  signet ca prove --ca DIR --code %s --out proof.pem\n", r.Properties.VerificationCode)
			fmt.Fprintf(w, "then:\n  signet certificate verify %s proof.pem\n", r.Name)
		}),
	}
	cmd.Flags().StringVar(&etag, "etag", "", etagHelp)
	return cmd
}

func certificateVerifyCommand() *cobra.Command {
	var etag string
	var dry *bool
	cmd := &cobra.Command{
		Use:   "verify NAME FILE",
		Short: "Upload the proof of possession; the CA is trusted from then on",
		Args: func(cmd *cobra.Command, args []string) error {
			if *dry && len(args) == 1 {
				return nil // there need be no proof yet
			}
			return arguments("NAME", "FILE")(cmd, args)
		},
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if *dry {
				return dryRun(cmd, c, client.Hypothesis{Verified: args[:1]})
			}
			proof, err := readUpload(args[1])
			if err != nil {
				return err
			}
			if etag, err = currentETag(cmd.Context(), c, args[0], etag); err != nil {
				return err
			}
			r, err := c.VerifyCertificate(cmd.Context(), args[0], proof, etag)
			if err != nil {
				return err
			}
			return show(cmd, r, func(w io.Writer) { printCertificate(w, r) })
		}),
	}
	cmd.Flags().StringVar(&etag, "etag", "", etagHelp)
	dry = dryRunFlag(cmd)
	return cmd
}

func certificateDeleteCommand() *cobra.Command {
	var etag string
	var dry *bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Remove a CA certificate; devices connected by it are cut off at once",
		Args:  arguments("NAME"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) (err error) {
			if etag, err = currentETag(cmd.Context(), c, args[0], etag); err != nil {
				return err
			}
			if *dry {
				return dryRun(cmd, c, client.Hypothesis{Without: args})
			}
			// A failure to read it says nothing of what is to be deleted.
			policy, unread := c.RevocationPolicy(cmd.Context(), args[0])
			ctx, receipts := signet.WithReceipts(cmd.Context())
			if err := c.DeleteCertificate(ctx, args[0], etag); err != nil {
				return err
			}
			if unread == nil && policy.From == "" && policy.Mode != signet.RevocationOff {
				fmt.Fprintf(cmd.ErrOrStderr(), "signet: its revocation policy, %s, has gone with it; what its successor's is: signet revocation show NAME\n", policy.Mode)
			}
			return showDeleted(cmd, args[0], receipts)
		}),
	}
	cmd.Flags().StringVar(&etag, "etag", "", etagHelp)
	dry = dryRunFlag(cmd)
	return cmd
}

// currentETag reads the etag of a certificate, unless one is pinned. It also
// tells of a name that is not there, which a delete would pass over.
func currentETag(ctx context.Context, c *client.Client, name, pinned string) (string, error) {
	if pinned != "" {
		return pinned, nil
	}
	r, err := c.Certificate(ctx, name)
	return r.ETag, err
}

func printCertificate(w io.Writer, r client.Certificate) {
	p := r.Properties
	fmt.Fprintf(w, "%s\t%s\n", r.Name, standing(r))
	for _, line := range [][2]string{
		{"subject", printable(p.Subject)}, {"expires", p.Expiry}, {"SHA-1", p.Thumbprint},
		{"SHA-256", pki.ThumbprintSHA256(p.Certificate)}, {"updated", p.Updated}, {"etag", r.ETag},
	} {
		fmt.Fprintf(w, "  %s\t%s\n", line[0], line[1])
	}
	if !p.IsVerified {
		fmt.Fprintf(w, "next: signet certificate code %s\n", r.Name)
	}
}

func standing(r client.Certificate) string {
	if expiry, err := time.Parse(http.TimeFormat, r.Properties.Expiry); err == nil && time.Now().After(expiry) {
		return "expired"
	}
	if r.Properties.IsVerified {
		return "verified"
	}
	return "unverified"
}

// day shortens an RFC 1123 time to the date.
func day(rfc1123 string) string {
	if t, err := time.Parse(http.TimeFormat, rfc1123); err == nil {
		return t.Format(time.DateOnly)
	}
	return strings.TrimSpace(rfc1123)
}
