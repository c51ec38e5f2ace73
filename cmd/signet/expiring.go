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

func expiringCommand() *cobra.Command {
	var within string
	cmd := connectedEither(&cobra.Command{
		Use:   "expiring [--within 30d]",
		Short: "Say which certificates expire soon, or have expired",
		Long: `Say which certificates expire soon, or have: registered CAs, intermediates, and those of devices by their
issuer. Of intermediates and devices the hub knows those that are connected.`,
		Args: noArguments,
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) ([]signet.Expiring, error) {
			return c.Expiring(ctx, within)
		}, func(w io.Writer, list []signet.Expiring) {
			fmt.Fprintln(w, "EXPIRES\tIN\tWHAT\tSUBJECT\tSESSIONS\tOF THEM")
			for _, e := range list {
				what, subject := string(e.Kind), e.Subject
				if e.Name != "" {
					what += " " + e.Name
				}
				if e.Kind == signet.ExpiringDevices {
					subject = "issued by " + subject
					if e.Thumbprint == "" {
						subject = "known by thumbprint"
					}
				}
				of := strings.Join(e.Devices, " ")
				if len(e.Devices) > 0 && len(e.Devices) < e.Sessions {
					of += " …"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", e.NotAfter.Format("2006-01-02 15:04 MST"), left(time.Until(e.NotAfter)), what, printable(subject), e.Sessions, of)
			}
		}),
	})
	cmd.Flags().StringVar(&within, "within", "90d", "days or hours from now (30d, 12h)")
	return cmd
}

// left says how long something is still good.
func left(d time.Duration) string {
	switch {
	case d < 0:
		return "expired"
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
