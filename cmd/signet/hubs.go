package main

import (
	"fmt"
	"io"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func hubCommand() *cobra.Command {
	cmd := connected(&cobra.Command{
		Use:   "hub",
		Short: "Manage the hubs of a server",
		Long: `Manage the hubs of a server. Each has its own host name, CA certificates, devices, keys and telemetry,
and nothing of one is worth anything at another. These commands take the admin token.`,
	})
	cmd.AddCommand(hubCreateCommand(), hubListCommand(), hubSetCommand(), hubDeleteCommand())
	return cmd
}

func hubCreateCommand() *cobra.Command {
	var hostName string
	cmd := &cobra.Command{
		Use:   "create NAME --hostname HOST",
		Short: "Create a hub and print its owner's connection string",
		Args:  arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "hostname"); err != nil {
				return err
			}
			c, err := connect(cmd)
			if err != nil {
				return err
			}
			h, err := c.CreateHub(cmd.Context(), args[0], hostName)
			if err != nil {
				return err
			}
			return show(cmd, h, func(w io.Writer) {
				fmt.Fprintf(w, "%s\t%s\n", h.Name, h.HostName)
				fmt.Fprintf(w, "  connection string\t%s\n", h.ConnectionString)
			})
		},
	}
	cmd.Flags().StringVar(&hostName, "hostname", "", "host name by which devices and back ends address the hub")
	return cmd
}

func hubListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the hubs of the server",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := connect(cmd)
			if err != nil {
				return err
			}
			list, err := c.Hubs(cmd.Context())
			if err != nil {
				return err
			}
			if list == nil {
				list = []client.Hub{}
			}
			return show(cmd, list, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tHOST NAME\tAT EXPIRY")
				for _, h := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\n", h.Name, h.HostName, h.AtExpiry)
				}
			})
		},
	}
}

func hubSetCommand() *cobra.Command {
	var policy string
	cmd := &cobra.Command{
		Use:   "set NAME --at-expiry keep|end",
		Short: "Say what becomes of sessions whose certificates expire",
		Long: `Say what becomes of sessions whose certificates expire: keep them until the device goes, as Azure does, or
end them. With end, those that are past it already are over when the command returns.`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "at-expiry"); err != nil {
				return err
			}
			c, err := connect(cmd)
			if err != nil {
				return err
			}
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
		},
	}
	cmd.Flags().StringVar(&policy, "at-expiry", "", "keep or end")
	return cmd
}

func hubDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a hub with its CA certificates, devices, keys and telemetry",
		Args:  arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect(cmd)
			if err != nil {
				return err
			}
			ctx, receipts := signet.WithReceipts(cmd.Context())
			if err := c.DeleteHub(ctx, args[0]); err != nil {
				return err
			}
			return showDeleted(cmd, args[0], receipts)
		},
	}
}
