package main

import (
	"encoding/base64"
	"fmt"
	"io"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/pki"
	"github.com/spf13/cobra"
)

func deviceCommand() *cobra.Command {
	cmd := connected(&cobra.Command{Use: "device", Short: "Manage the device identities of a hub"})
	cmd.AddCommand(deviceCreateCommand(), deviceListCommand(), deviceShowCommand(),
		deviceStatusCommand("enable", signet.Enabled, "Let a device connect again"),
		deviceStatusCommand("disable", signet.Disabled, "Keep a device out; its session ends at once"),
		deviceQueryCommand(), deviceExportCommand(), deviceImportCommand(),
		deviceSendCommand(), devicePurgeCommand(),
		deviceDeleteCommand(), deviceTwinCommand(), deviceInvokeCommand())
	return cmd
}

// authTypes are the ways of --auth, each with what Azure calls it.
var authTypes = map[string]signet.AuthType{
	"ca": signet.AuthCA, "thumbprint": signet.AuthSelfSigned, "sas": signet.AuthSAS,
}

func deviceCreateCommand() *cobra.Command {
	var auth, thumbprint, secondary, file string
	cmd := &cobra.Command{
		Use:   "create ID",
		Short: "Create a device identity",
		Long: `Create a device identity. It authenticates

  --auth ca          with a certificate that chains to a verified CA and has CN = ID (the default)
  --auth thumbprint  with one certificate, known by its thumbprint or given as a file
  --auth sas         with tokens signed by a key, which the hub makes`,
		Args: arguments("ID"),
		PreRunE: func(*cobra.Command, []string) error {
			kind, ok := authTypes[auth]
			if !ok {
				return usageError{fmt.Errorf("--auth is ca, thumbprint or sas, not %q", auth)}
			}
			if kind != signet.AuthSelfSigned && thumbprint+secondary+file != "" {
				return usageError{fmt.Errorf("--thumbprint, --secondary-thumbprint and --certificate go with --auth thumbprint")}
			}
			if file != "" {
				if thumbprint != "" {
					return usageError{fmt.Errorf("--certificate and --thumbprint say the same thing: give one")}
				}
				text, err := readFile(file)
				if err != nil {
					return err
				}
				cert, err := pki.ParseUpload(base64.StdEncoding.EncodeToString(text))
				if err != nil {
					return err
				}
				thumbprint = pki.ThumbprintSHA256(cert.Raw)
			}
			if kind == signet.AuthSelfSigned && thumbprint == "" {
				return usageError{fmt.Errorf("--auth thumbprint needs --thumbprint or --certificate")}
			}
			return nil
		},
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			d, err := c.CreateDevice(cmd.Context(), client.Device{DeviceID: args[0], Authentication: client.Authentication{
				Type: authTypes[auth], X509Thumbprint: client.X509Thumbprint{PrimaryThumbprint: thumbprint, SecondaryThumbprint: secondary},
			}})
			if err != nil {
				return err
			}
			return showDevice(cmd, c, d)
		}),
	}
	cmd.Flags().StringVar(&auth, "auth", "ca", "ca, thumbprint or sas")
	cmd.Flags().StringVar(&thumbprint, "thumbprint", "", "SHA-256 or SHA-1 of the device's certificate, in hex")
	cmd.Flags().StringVar(&secondary, "secondary-thumbprint", "", "the same of a second certificate, for rollover")
	cmd.Flags().StringVar(&file, "certificate", "", "file with the device's certificate, to take the thumbprint of")
	return cmd
}

func deviceListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all device identities by ID",
		Args:  noArguments,
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			const page = 1000
			list := []client.Device{}
			for after := ""; ; after = list[len(list)-1].DeviceID {
				more, err := c.Devices(cmd.Context(), after, page)
				if err != nil {
					return err
				}
				if list = append(list, more...); len(more) < page {
					break
				}
			}
			return show(cmd, list, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tSTATUS\tAUTHENTICATION\tCONNECTION\tREASON")
				for _, d := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d.DeviceID, d.Status, d.Authentication.Type, d.ConnectionState, printable(d.StatusReason))
				}
			})
		}),
	}
}

func deviceShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show one device identity, with its keys if it has some",
		Args:  arguments("ID"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			d, err := c.Device(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showDevice(cmd, c, d)
		}),
	}
}

func deviceStatusCommand(verb string, status signet.Status, short string) *cobra.Command {
	var reason, etag string
	cmd := &cobra.Command{
		Use:   verb + " ID",
		Short: short,
		Args:  arguments("ID"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			d, err := c.Device(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if etag == "" {
				etag = d.ETag
			}
			d.Status, d.StatusReason = status, reason
			ctx, receipts := signet.WithReceipts(cmd.Context())
			if d, err = c.ReplaceDevice(ctx, d, etag); err != nil {
				return err
			}
			return showDevice(cmd, c, d, receipts.List()...)
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people; at most 128 characters")
	cmd.Flags().StringVar(&etag, "etag", "", etagHelp)
	return cmd
}

func deviceDeleteCommand() *cobra.Command {
	var etag string
	cmd := &cobra.Command{
		Use:   "delete ID",
		Short: "Delete a device identity; its session ends at once",
		Args:  arguments("ID"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			ctx, receipts := signet.WithReceipts(cmd.Context())
			if err := c.DeleteDevice(ctx, args[0], etag); err != nil {
				return err
			}
			return showDeleted(cmd, args[0], receipts)
		}),
	}
	cmd.Flags().StringVar(&etag, "etag", "*", etagHelp)
	return cmd
}

// showDevice shows a device, and what a change of it did to its session.
func showDevice(cmd *cobra.Command, c *client.Client, d client.Device, receipts ...signet.Receipt) error {
	return show(cmd, struct {
		client.Device
		Receipts []signet.Receipt `json:"receipts,omitempty"`
	}{d, receipts}, func(w io.Writer) {
		status := string(d.Status)
		if d.StatusReason != "" {
			status += ": " + printable(d.StatusReason)
		}
		fmt.Fprintf(w, "%s\t%s\n", d.DeviceID, status)
		fmt.Fprintf(w, "  authentication\t%s\n", d.Authentication.Type)
		switch d.Authentication.Type {
		case signet.AuthSelfSigned:
			t := d.Authentication.X509Thumbprint
			fmt.Fprintf(w, "  thumbprint\t%s\n", t.PrimaryThumbprint)
			if t.SecondaryThumbprint != "" {
				fmt.Fprintf(w, "  secondary thumbprint\t%s\n", t.SecondaryThumbprint)
			}
		case signet.AuthSAS:
			fmt.Fprintf(w, "  connection string\t%s\n", signet.ConnectionString{
				HostName: c.HostName(), DeviceID: d.DeviceID, SharedAccessKey: d.Authentication.SymmetricKey.PrimaryKey,
			})
		}
		fmt.Fprintf(w, "  connection\t%s\n", d.ConnectionState)
		fmt.Fprintf(w, "  last active\t%s\n", lastActive(d.LastActivityTime))
		if d.MessageCount > 0 {
			fmt.Fprintf(w, "  messages waiting\t%d\n", d.MessageCount)
		}
		fmt.Fprintf(w, "  etag\t%s\n", d.ETag)
		for _, r := range receipts {
			if r.Sessions > 0 {
				fmt.Fprintln(w, told(r))
			}
		}
	})
}

// showDeleted says that a record is gone, and what that did to live sessions.
func showDeleted(cmd *cobra.Command, name string, receipts *signet.Receipts) error {
	return show(cmd, map[string]any{"deleted": name, "receipts": receipts.List()}, func(w io.Writer) {
		fmt.Fprintf(w, "%s deleted\n", name)
		for _, r := range receipts.List() {
			if r.Sessions > 0 {
				fmt.Fprintln(w, told(r))
			}
		}
	})
}
