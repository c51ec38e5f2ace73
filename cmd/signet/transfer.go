package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func deviceExportCommand() *cobra.Command {
	var bare bool
	cmd := &cobra.Command{
		Use:   "export [FILE]",
		Short: "Write all identities of the hub, with tags and desired properties, to a file",
		Long: `Write all identities of the hub to FILE, or to the standard output: a JSON object a line, in the form of
Azure's devices.txt, as signet device import takes it. It holds the devices' symmetric keys, unless
--without-keys is given; what devices report is not part of it.`,
		Args: cobra.MaximumNArgs(1),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) (err error) {
			if len(args) == 0 {
				return c.ExportDevices(cmd.Context(), cmd.OutOrStdout(), !bare)
			}
			// Keys are in it: for its owner alone, and never in the place of another.
			f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if errors.Is(err, fs.ErrExist) {
				return existsError(args[0])
			} else if err != nil {
				return fileError(err)
			}
			if err = c.ExportDevices(cmd.Context(), f, !bare); err == nil {
				err = f.Sync()
			}
			if err = errors.Join(err, f.Close()); err != nil {
				os.Remove(args[0]) // half of a registry is none
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&bare, "without-keys", false, "leave out symmetric keys; the hub makes new ones at an import")
	return cmd
}

func deviceImportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Create, update or delete identities by a file, one a line",
		Long: `Carry out an operation for each line of FILE, or of the standard input where it is -: a JSON object in the
form of Azure's devices.txt. importMode says what to do: create, update, delete, updateTwin and their
kind; createOrUpdate when it is left out. Lines that fail are told of, and stop no other.`,
		Example: `  {"id":"press-17","authentication":{"type":"certificateAuthority"},"tags":{"site":"Augsburg"}}`,
		Args:    arguments("FILE"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fileError(err)
				}
				defer f.Close()
				in = f
			}
			result, err := c.ImportDevices(cmd.Context(), in)
			if err != nil {
				return err
			}
			err = show(cmd, result, func(w io.Writer) {
				for _, e := range result.Errors {
					fmt.Fprintf(w, "line %d: %s [%s]\n", e.Line, e.Signet.Message, e.Signet.Code)
				}
				for _, e := range result.Warnings {
					fmt.Fprintf(w, "line %d: %s\n", e.Line, e.Warning)
				}
				fmt.Fprintf(w, "%d done, %d failed\n", result.Succeeded, result.Failed)
			})
			if err == nil && result.Failed > 0 {
				err = errRefused // all has been told
			}
			return err
		}),
	}
}
