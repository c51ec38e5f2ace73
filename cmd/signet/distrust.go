package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/pki"
	"github.com/spf13/cobra"
)

func distrustCommand() *cobra.Command {
	cmd := connectedEither(&cobra.Command{Use: "distrust", Short: "Cut off a certificate, a key, or all that a CA has signed"})
	cmd.AddCommand(distrustAddCommand(), distrustListCommand(), distrustLiftCommand())
	return cmd
}

func distrustAddCommand() *cobra.Command {
	var certificate, issuer, by string
	var dry *bool
	var d client.DistrustRequest
	cmd := &cobra.Command{
		Use:   "add --certificate FILE",
		Short: "Refuse a certificate or key from now on, and end the sessions that rest on it",
		Long: `Refuse a certificate, or a key, from now on, wherever on a device's path it stands, and end the
sessions that rest on it. When the command returns, they are over; it says how many there were.

  --by certificate  the one certificate; its key under a new certificate still counts
  --by key          the key, under every certificate that it has or will have
  --by serial       the serial number under the key of the issuer

Of a CA's certificate the key is distrusted unless told, so that a CA made anew with the same key does
not slip back; of a device's, the certificate, so that the device can get another.

Without the certificate at hand: --thumbprint (SHA-256 of the DER), --key (SHA-256 of the
SubjectPublicKeyInfo), or --serial with the issuer's certificate in --issuer.`,
		Args: noArguments,
		PreRunE: func(*cobra.Command, []string) error {
			given := 0
			for _, way := range []string{certificate, d.Thumbprint, d.Key, d.Serial} {
				if way != "" {
					given++
				}
			}
			switch d.Kind = signet.DistrustKind(by); {
			case given != 1:
				return usageError{errors.New("give one of --certificate, --thumbprint, --key and --serial")}
			case by != "" && certificate == "":
				return usageError{errors.New("--by says what of a --certificate is distrusted")}
			case by != "" && d.Kind != signet.DistrustCertificate && d.Kind != signet.DistrustKey && d.Kind != signet.DistrustSerial:
				return usageError{fmt.Errorf("--by is certificate, key or serial, not %q", by)}
			case issuer != "" && d.Serial == "" && d.Kind != signet.DistrustSerial:
				return usageError{errors.New("--issuer goes with serial numbers")}
			case issuer == "" && d.Serial != "":
				return usageError{errors.New("--serial needs --issuer: a serial number means nothing without who gave it out")}
			}
			var err error
			if certificate != "" {
				if d.Certificate, err = readUpload(certificate); err != nil {
					return err
				}
			}
			if issuer != "" {
				text, err := readUpload(issuer)
				if err != nil {
					return err
				}
				if d.Serial == "" {
					d.Certificate += text
				} else {
					ca, err := pki.ParseUpload(text)
					if err != nil {
						return err
					}
					key := pki.PathCertificate(ca).Key
					d.IssuerKey = hex.EncodeToString(key[:])
				}
			}
			return nil
		},
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			if *dry {
				return dryRun(cmd, c, client.Hypothesis{Distrust: []client.DistrustRequest{d}})
			}
			made, receipts, err := c.Distrust(cmd.Context(), d)
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"distrust": made, "receipts": receipts}, func(w io.Writer) {
				fmt.Fprintf(w, "%s  distrusted by %s\n", distrusted(made), made.Kind)
				fmt.Fprintf(w, "  id\t%s\n", made.ID)
				printReceipts(w, receipts)
				fmt.Fprintf(w, "undo: signet distrust lift %s\n", made.ID)
			})
		}),
	}
	cmd.Flags().StringVar(&certificate, "certificate", "", "file with the certificate, PEM or DER")
	cmd.Flags().StringVar(&by, "by", "", "what of it: certificate, key or serial")
	cmd.Flags().StringVar(&issuer, "issuer", "", "file with its issuer's certificate, for serial numbers; needed if it is not registered")
	cmd.Flags().StringVar(&d.Thumbprint, "thumbprint", "", "SHA-256 of a certificate, in hex")
	cmd.Flags().StringVar(&d.Key, "key", "", "SHA-256 of a SubjectPublicKeyInfo, in hex")
	cmd.Flags().StringVar(&d.Serial, "serial", "", "serial number of a certificate of --issuer, in hex")
	cmd.Flags().StringVar(&d.Reason, "reason", "", "why, for people; at most 128 characters")
	dry = dryRunFlag(cmd)
	return cmd
}

func distrustListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List what the hub distrusts: since when, on whose word, and why",
		Args:  noArguments,
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) ([]signet.Distrust, error) {
			return c.Distrusts(ctx)
		}, func(w io.Writer, list []signet.Distrust) {
			fmt.Fprintln(w, "ID\tBY\tWHAT\tSINCE\tON THE WORD OF\tREASON")
			for _, d := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", d.ID, d.Kind, distrusted(d), d.Created.UTC().Format("2006-01-02 15:04 MST"), d.By, printable(d.Reason))
			}
		}),
	}
}

func distrustLiftCommand() *cobra.Command {
	var dry *bool
	cmd := &cobra.Command{
		Use:   "lift ID",
		Short: "Let what was distrusted count again",
		Args:  arguments("ID"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if *dry {
				return dryRun(cmd, c, client.Hypothesis{Lift: args})
			}
			if err := c.LiftDistrust(cmd.Context(), args[0]); err != nil {
				return err
			}
			return showDone(cmd, args[0], "lifted")
		}),
	}
	dry = dryRunFlag(cmd)
	return cmd
}

// distrusted names what is distrusted: the subject where it is known.
func distrusted(d signet.Distrust) string {
	switch {
	case d.Subject != "":
		return printable(d.Subject)
	case d.Kind == signet.DistrustSerial:
		return "serial " + d.Serial + " of " + d.IssuerKey
	case d.Kind == signet.DistrustKey:
		return d.Key
	}
	return d.Thumbprint
}

// told says what a change did to live sessions.
func told(r signet.Receipt) string {
	sessions := fmt.Sprintf("%d sessions", r.Sessions)
	if r.Sessions == 1 {
		sessions = "1 session"
	}
	switch {
	case r.Sessions == 0:
		return "no session rested on it"
	case r.Closed < r.Sessions:
		return fmt.Sprintf("cut %s; %d of the connections were closed within a second, the rest are closing", sessions, r.Closed)
	case r.Sessions == 1:
		return fmt.Sprintf("cut 1 session, after %s", brief(r.Last))
	}
	return fmt.Sprintf("cut %s, the last after %s", sessions, brief(r.Last))
}

func brief(d time.Duration) time.Duration {
	if d >= 10*time.Millisecond {
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
