package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func issuanceCommand() *cobra.Command {
	cmd := connectedEither(&cobra.Command{
		Use:   "issuance",
		Short: "See by which policies certificates are issued to devices, and which were",
		Long: `Say by which policies certificates are issued to devices, and which were. Policies are written into the file
issuance.toml in the server's data folder, beside the keys that they name: nothing of them can be changed
from here.`,
	})
	cmd.AddCommand(issuanceListCommand(), issuancePoliciesCommand())
	return cmd
}

func issuanceListCommand() *cobra.Command {
	var q client.IssuedQuery
	var since string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the certificates that were issued to devices of the hub, the latest first",
		Long: `List the certificates that were issued to devices of the hub, the latest first; with --service, those that the
provisioning service has issued.`,
		Args: noArguments,
		PreRunE: func(*cobra.Command, []string) (err error) {
			if since != "" {
				q.Since, err = moment("--since", since)
			}
			return err
		},
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) ([]signet.Issued, error) {
			return c.Issued(ctx, q)
		}, func(w io.Writer, list []signet.Issued) {
			fmt.Fprintln(w, "ISSUED\tDEVICE\tHUB\tPOLICY\tEXPIRES\tSERIAL")
			for _, i := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", i.Time.Format("2006-01-02 15:04 MST"), printable(i.DeviceID), printable(i.HostName), i.Policy,
					i.NotAfter.Format("2006-01-02 15:04 MST"), i.Serial)
			}
		}),
	}
	cmd.Flags().StringVar(&q.DeviceID, "device", "", "only to this device")
	cmd.Flags().StringVar(&since, "since", "", "only from this time on (2026-01-31T12:00:00Z)")
	cmd.Flags().IntVar(&q.Limit, "limit", 100, "the latest so many, at most 1000")
	return cmd
}

func issuancePoliciesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "policies",
		Short: "List the issuance policies in force (takes the admin token, or a provisioning service's connection string)",
		Args:  noArguments,
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) ([]client.IssuancePolicy, error) {
			return c.IssuancePolicies(ctx)
		}, func(w io.Writer, list []client.IssuancePolicy) {
			fmt.Fprintln(w, "SERVICE\tPOLICY\tCA\tCA EXPIRES\tVALIDITY\tKEYS\tRENEWED AFTER ITS END")
			for _, p := range list {
				after := "never"
				if p.RenewExpiredSeconds > 0 {
					after = "for " + span(p.RenewExpiredSeconds)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Service, p.Name, printable(p.Subject), p.NotAfter.Format("2006-01-02 15:04 MST"),
					span(p.ValiditySeconds), strings.Join(p.Keys, " "), after)
			}
		}),
	}
}

// span writes seconds as people count them.
func span(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	if d >= 48*time.Hour && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	if d%time.Hour == 0 {
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return d.String()
}
