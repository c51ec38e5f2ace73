package main

import (
	"context"
	"fmt"
	"io"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func hubCommand() *cobra.Command {
	cmd := connected(&cobra.Command{
		Use:   "hub",
		Short: "Manage the hubs of a server, and what each tells, allows and ends",
		Long: `Manage the hubs of a server. Each has its own host name, CA certificates, devices, keys and telemetry,
and nothing of one is worth anything at another. These commands take the admin token; events asks for the
rights of the hub's owner.`,
	})
	cmd.AddCommand(hubCreateCommand(), hubListCommand(), hubSetCommand(), hubEventsCommand(), hubLimitsCommand(), hubDeleteCommand())
	return cmd
}

func hubCreateCommand() *cobra.Command {
	var hostName string
	cmd := &cobra.Command{
		Use:     "create NAME --hostname HOST",
		Short:   "Create a hub and print its owner's connection string",
		Args:    arguments("NAME"),
		PreRunE: needs("hostname"),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (client.Hub, error) {
			return c.CreateHub(ctx, args[0], hostName)
		}, func(w io.Writer, h client.Hub) {
			fmt.Fprintf(w, "%s\t%s\n", h.Name, h.HostName)
			fmt.Fprintf(w, "  connection string\t%s\n", h.ConnectionString)
		}),
	}
	cmd.Flags().StringVar(&hostName, "hostname", "", "host name by which devices and back ends address the hub")
	return cmd
}

func hubListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the hubs of the server",
		Args:  noArguments,
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) ([]client.Hub, error) {
			return c.Hubs(ctx)
		}, func(w io.Writer, list []client.Hub) {
			fmt.Fprintln(w, "NAME\tHOST NAME\tAT EXPIRY")
			for _, h := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\n", h.Name, h.HostName, h.AtExpiry)
			}
		}),
	}
}

func hubSetCommand() *cobra.Command {
	var policy string
	cmd := &cobra.Command{
		Use:   "set NAME --at-expiry keep|end",
		Short: "Say what becomes of sessions whose certificates expire",
		Long: `Say what becomes of sessions whose certificates expire: keep them until the device goes, as Azure does, or
end them. With end, those that are past it already are over when the command returns.`,
		Args:    arguments("NAME"),
		PreRunE: needs("at-expiry"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			ctx, receipts := signet.WithReceipts(cmd.Context())
			h, err := c.SetAtExpiry(ctx, args[0], signet.ExpiryPolicy(policy))
			if err != nil {
				return err
			}
			return show(cmd, h, func(w io.Writer) {
				fmt.Fprintf(w, "%s\tat expiry: %s\n", h.Name, h.AtExpiry)
				if total, some := receipts.Total(); some {
					fmt.Fprintf(w, "  sessions ended\t%d\n", total.Sessions)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&policy, "at-expiry", "", "keep or end")
	return cmd
}

func hubEventsCommand() *cobra.Command {
	var lifeCycle, twin, connection string
	var e client.Events
	cmd := &cobra.Command{
		Use:   "events [--life-cycle on|off] [--twin on|off] [--connection on|off]",
		Short: "Show or set what the hub tells on its message log besides telemetry",
		Long: `Show or say what the hub tells on its message log besides telemetry, in Azure's form; nothing unless told.

  --life-cycle  devices and modules that are made and deleted
  --twin        changes of tags, desired and reported properties
  --connection  devices and modules that connect and disconnect

Life cycle and twin events are on disk with the change that they tell of, and come at least once; connection
events come as far as they can.`,
		Args: noArguments,
		PreRunE: func(*cobra.Command, []string) error {
			for _, f := range []struct {
				name, value string
				to          **bool
			}{{"life-cycle", lifeCycle, &e.LifeCycle}, {"twin", twin, &e.Twin}, {"connection", connection, &e.Connection}} {
				if f.value == "" {
					continue
				}
				if f.value != "on" && f.value != "off" {
					return usageError{fmt.Errorf("--%s is on or off, not %q", f.name, f.value)}
				}
				on := f.value == "on"
				*f.to = &on
			}
			return nil
		},
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) (client.Events, error) {
			if e == (client.Events{}) {
				return c.Events(ctx)
			}
			return c.SetEvents(ctx, e)
		}, func(w io.Writer, e client.Events) {
			word := map[bool]string{true: "on", false: "off"}
			fmt.Fprintf(w, "life cycle\t%s\ntwin\t%s\nconnection\t%s\n", word[*e.LifeCycle], word[*e.Twin], word[*e.Connection])
		}),
	}
	cmd.Flags().StringVar(&lifeCycle, "life-cycle", "", "on or off")
	cmd.Flags().StringVar(&twin, "twin", "", "on or off")
	cmd.Flags().StringVar(&connection, "connection", "", "on or off")
	return cmd
}

func hubDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a hub with its CA certificates, devices, keys and telemetry",
		Args:  arguments("NAME"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			ctx, receipts := signet.WithReceipts(cmd.Context())
			if err := c.DeleteHub(ctx, args[0]); err != nil {
				return err
			}
			return showDeleted(cmd, args[0], receipts)
		}),
	}
}
