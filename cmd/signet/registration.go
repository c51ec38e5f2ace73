package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func registrationCommand() *cobra.Command {
	cmd := provisioned(&cobra.Command{Use: "registration", Short: "See which devices have registered themselves"})
	cmd.AddCommand(registrationListCommand(), registrationShowCommand(), registrationDeleteCommand())
	return cmd
}

func registrationListCommand() *cobra.Command {
	var group string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the devices that a group has let in",
		Args:  noArguments,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if group == "" {
				return usageError{fmt.Errorf("%s needs --group; of a device with an enrollment of its own, signet registration show tells", cmd.CommandPath())}
			}
			return nil
		},
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) ([]client.Registration, error) {
			return c.Registrations(ctx, group)
		}, func(w io.Writer, list []client.Registration) {
			fmt.Fprintln(w, "ID\tSTATUS\tHUB\tDEVICE\tLAST")
			for _, r := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.RegistrationID, r.Status, r.AssignedHub, r.DeviceID, r.LastUpdated)
			}
		}),
	}
	cmd.Flags().StringVar(&group, "group", "", "name of the enrollment group")
	return cmd
}

func registrationShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show the registration of one device",
		Args:  arguments("ID"),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (client.Registration, error) {
			return c.Registration(ctx, args[0])
		}, func(w io.Writer, r client.Registration) {
			fmt.Fprintf(w, "%s\t%s\n", r.RegistrationID, strings.TrimSpace(string(r.Status)+" "+r.Substatus))
			for _, line := range [][2]string{{"hub", r.AssignedHub}, {"device", r.DeviceID}, {"error", r.ErrorMessage},
				{"first", r.Created}, {"last", r.LastUpdated}, {"etag", r.ETag}} {
				printLine(w, line[0], line[1])
			}
		}),
	}
}

func registrationDeleteCommand() *cobra.Command {
	var etag string
	cmd := &cobra.Command{
		Use:   "delete ID",
		Short: "Forget a registration: the device may register as a new one; its identity at the hub stays",
		Args:  arguments("ID"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if err := c.DeleteRegistration(cmd.Context(), args[0], etag); err != nil {
				return err
			}
			return showDone(cmd, args[0], "deleted")
		}),
	}
	cmd.Flags().StringVar(&etag, "etag", "", etagHelp)
	return cmd
}
