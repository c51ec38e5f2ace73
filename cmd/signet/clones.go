package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func clonesCommand() *cobra.Command {
	cmd := connected(&cobra.Command{
		Use:   "clones",
		Short: "List what looks as if a key or a certificate were in two hands",
		Long: `List what looks as if a key or a certificate were in two hands, the latest first:

  same-key          the certificates of different devices have one key
  same-serial       they have one serial number, under one key of an issuer
  two-places        two networks take the session of one certificate from each other, by turns
  two-certificates  a device shows two certificates by turns

Each is told on the hub's message log too (signet monitor). Whether the devices are disabled besides is
the hub's policy: signet clones policy quarantine.`,
		Args: noArguments,
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			policy, list, err := c.Clones(cmd.Context(), 1000)
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"policy": policy, "clones": list}, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tWHAT\tLAST\tTIMES\tDEVICES\tSTATE")
				for _, f := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", f.ID, f.Kind, minute(f.Last), f.Count, cloneDevices(&f), printable(cloneState(&f)))
				}
				fmt.Fprintf(w, "policy: %s\n", policy)
			})
		}),
	})
	cmd.AddCommand(clonesPolicyCommand(), clonesDismissCommand())
	return cmd
}

func cloneDevices(f *signet.Clone) string {
	text := strings.Join(f.Devices, " ")
	if f.More {
		text += " …"
	}
	if len(f.Places) > 0 {
		text += " at " + strings.Join(f.Places, " and ")
	}
	return text
}

func cloneState(f *signet.Clone) string {
	switch {
	case f.Dismissed != nil && f.Dismissed.Reason != "":
		return "dismissed by " + f.Dismissed.By + ": " + f.Dismissed.Reason
	case f.Dismissed != nil:
		return "dismissed by " + f.Dismissed.By
	case len(f.Quarantined) > 0:
		return "quarantined: " + strings.Join(f.Quarantined, " ")
	}
	return "flagged"
}

func clonesPolicyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "policy off|flag|quarantine",
		Short: "Say what the hub does about clones from now on",
		Long: `Say what the hub does about clones from now on: look for none (off), keep and tell what is found (flag,
the default), or disable the devices besides (quarantine): their status says why. No more than 100 a day
are disabled: that many are a fault in production, and for people to judge.`,
		Args: arguments("POLICY"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			policy := signet.ClonePolicy(args[0])
			if err := c.SetClonePolicy(cmd.Context(), policy); err != nil {
				return err
			}
			return show(cmd, map[string]any{"policy": policy}, func(w io.Writer) { fmt.Fprintf(w, "policy: %s\n", policy) })
		}),
	}
}

func clonesDismissCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "dismiss ID",
		Short: "Say that a finding is no clone: it is found no more",
		Long: `Say that a finding is no clone: it is found no more. Devices that were quarantined for it stay disabled
until they are enabled: signet device enable.`,
		Args: arguments("ID"),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (signet.Clone, error) {
			return c.DismissClone(ctx, args[0], reason)
		}, func(w io.Writer, f signet.Clone) {
			fmt.Fprintf(w, "%s dismissed\n", f.ID)
			for _, name := range f.Quarantined {
				device, _, _ := strings.Cut(name, "/") // a module is let in when its device is
				fmt.Fprintf(w, "to let it in again: signet device enable %s\n", device)
			}
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people; at most 128 characters")
	return cmd
}
