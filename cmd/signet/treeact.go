package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

const yesHelp = "do it; without, it is only said what would be done"

// treeActCommand is a command that does something to the devices of a branch, once
// it was said that it shall be.
func treeActCommand(use, short, would, done string, args cobra.PositionalArgs, flags func(*cobra.Command),
	act func(cmd *cobra.Command, c *client.Client, g client.Group, args []string) (client.Acted, error)) *cobra.Command {
	var g client.Group
	var yes bool
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Long:  short + ". Without --yes it says which devices those are, and does nothing." + groupHelp,
		Args:  args,
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			g.Branch = args[0]
			if !yes {
				return foretell(cmd, c, g, would)
			}
			acted, err := act(cmd, c, g, args[1:])
			if err != nil {
				if acted.Changed > 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s %s before it failed\n", devices(int64(acted.Changed)), done)
				}
				return err
			}
			if err := show(cmd, acted, func(w io.Writer) {
				fmt.Fprintf(w, "%s %s", devices(int64(acted.Changed)), done)
				if acted.Unchanged > 0 {
					fmt.Fprintf(w, ", %d were already", acted.Unchanged)
				}
				if acted.Receipt.Sessions > 0 {
					fmt.Fprintf(w, "; %s", told(acted.Receipt))
				}
				fmt.Fprintln(w)
				for _, f := range acted.Failed {
					fmt.Fprintf(w, "%s\t%s [%s]\n", f.DeviceID, f.Error.Message, f.Error.Code)
				}
			}); err != nil {
				return err
			}
			if len(acted.Failed) > 0 {
				return errRefused
			}
			return nil
		}),
	}
	groupFlags(cmd, &g)
	flags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, yesHelp)
	return cmd
}

func devices(n int64) string {
	if n == 1 {
		return "1 device"
	}
	return fmt.Sprintf("%d devices", n)
}

// maxForetold is how many devices are named before anything is done to them.
const maxForetold = 10

// foretell says which devices something would be done to.
func foretell(cmd *cobra.Command, c *client.Client, g client.Group, would string) error {
	count, err := c.CountGroup(cmd.Context(), g)
	if err != nil {
		return err
	}
	list, _, err := c.GroupDevices(cmd.Context(), g, "", maxForetold)
	if err != nil {
		return err
	}
	names := []string{}
	for _, s := range list {
		names = append(names, signet.IdentityName(s.DeviceID, s.ModuleID))
	}
	return show(cmd, map[string]any{"count": count, "devices": names, "done": false}, func(w io.Writer) {
		fmt.Fprintf(w, "%s would be %s", devices(count), would)
		if count > 0 {
			fmt.Fprintf(w, ": %s", strings.Join(names, " "))
		}
		if count > int64(len(names)) {
			fmt.Fprint(w, " …")
		}
		fmt.Fprintln(w, "\nnothing was done; --yes does it")
	})
}

func treeDisableCommand() *cobra.Command {
	var reason string
	return treeActCommand("disable BRANCH", "Keep the devices of a branch out; their sessions end at once", "disabled", "disabled", arguments("BRANCH"),
		func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&reason, "reason", "", "why, for people; at most 128 characters")
		},
		func(cmd *cobra.Command, c *client.Client, g client.Group, _ []string) (client.Acted, error) {
			return c.SetGroupStatus(cmd.Context(), g, signet.Disabled, reason, nil)
		})
}

func treeEnableCommand() *cobra.Command {
	return treeActCommand("enable BRANCH", "Let the devices of a branch connect again", "enabled", "enabled", arguments("BRANCH"),
		func(*cobra.Command) {},
		func(cmd *cobra.Command, c *client.Client, g client.Group, _ []string) (client.Acted, error) {
			return c.SetGroupStatus(cmd.Context(), g, signet.Enabled, "", nil)
		})
}

func treeTagCommand() *cobra.Command {
	return treeActCommand("tag BRANCH NAME=VALUE…", "Set tags of the twins of the devices of a branch; NAME= removes one", "tagged", "tagged", cobra.MinimumNArgs(2),
		func(*cobra.Command) {},
		func(cmd *cobra.Command, c *client.Client, g client.Group, args []string) (client.Acted, error) {
			tags := map[string]any{}
			for _, arg := range args {
				name, value, ok := strings.Cut(arg, "=")
				switch {
				case !ok || name == "":
					return client.Acted{}, usageError{fmt.Errorf("a tag is NAME=VALUE, not %q", arg)}
				case value == "":
					tags[name] = nil
				default:
					tags[name] = value
				}
			}
			return c.TagGroup(cmd.Context(), g, tags, nil)
		})
}

func treeDistrustCommand() *cobra.Command {
	var by, reason string
	var kind signet.DistrustKind
	var yes bool
	cmd := &cobra.Command{
		Use:   "distrust BRANCH",
		Short: "Distrust the CA of a branch, and so all that it has signed",
		Long: `Distrust the CA of a branch, by its key or by its certificate: whatever it has signed is refused from then
on, and the sessions that rest on it are over when the command returns. Without --yes it says what that
is, and does nothing. By its key, unless told: a new certificate of the same CA does not slip back.` + `

BRANCH is the common name or the subject of a CA, or its ID, thumbprint or key, or 8 digits of these.`,
		Args: arguments("BRANCH"),
		PreRunE: func(*cobra.Command, []string) error {
			if kind = signet.DistrustKind(by); kind != signet.DistrustKey && kind != signet.DistrustCertificate {
				return usageError{fmt.Errorf("--by is key or certificate, not %q", by)}
			}
			return nil
		},
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			branches, err := c.Branches(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var total, connected int64
			for _, b := range branches {
				total, connected = total+b.Total, connected+b.Connected
			}
			if !yes {
				return show(cmd, map[string]any{"branches": branches, "devices": total, "connected": connected, "done": false}, func(w io.Writer) {
					for _, b := range branches {
						fmt.Fprintf(w, "%s\tkey %s, certificate %s\n", tabless(b.Subject), b.Key[:16], b.Thumbprint[:16])
					}
					fmt.Fprintf(w, "%s came through it last, %d connected now\n", devices(total), connected)
					fmt.Fprintln(w, "nothing was done; --yes does it")
				})
			}
			var made []signet.Distrust
			var receipts []signet.Receipt
			done := map[string]bool{}
			for _, b := range branches { // of one key
				of := b.Key
				if kind == signet.DistrustCertificate {
					of = b.Thumbprint
				}
				if done[of] {
					continue
				}
				done[of] = true
				d, r, err := c.Distrust(cmd.Context(), client.DistrustRequest{Certificate: b.Certificate, Kind: kind, Reason: reason})
				if err != nil {
					return err
				}
				made, receipts = append(made, d), append(receipts, r...)
			}
			return show(cmd, map[string]any{"distrusts": made, "receipts": receipts}, func(w io.Writer) {
				for _, d := range made {
					fmt.Fprintf(w, "%s  distrusted by %s\n", distrusted(d), d.Kind)
				}
				printReceipts(w, receipts)
				for _, d := range made {
					fmt.Fprintf(w, "undo: signet distrust lift %s\n", d.ID)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&by, "by", string(signet.DistrustKey), "what of it: key or certificate")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people; at most 128 characters")
	cmd.Flags().BoolVar(&yes, "yes", false, yesHelp)
	return cmd
}
