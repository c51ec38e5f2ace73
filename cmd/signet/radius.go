package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

// maxFatesShown is how many devices of each fate are named in text.
const maxFatesShown = 20

// dryRunFlag adds --dry-run to a command that changes what is trusted.
func dryRunFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("dry-run", false, "change nothing; say which devices would lose access, or gain it")
}

// dryRun says what a change of trust would do to the devices that have been seen.
func dryRun(cmd *cobra.Command, c *client.Client, h client.Hypothesis) error {
	fates, of := []signet.DeviceFate{}, map[signet.Fate]int{}
	r, err := c.Radius(cmd.Context(), h, func(f signet.DeviceFate) {
		if of[f.Fate]++; inJSON(cmd) || of[f.Fate] <= maxFatesShown {
			fates = append(fates, f)
		}
	}, func(devices int64) {
		fmt.Fprintf(cmd.ErrOrStderr(), "signet: %d devices looked at\n", devices)
	})
	if err != nil {
		return err
	}
	return show(cmd, map[string]any{"dryRun": true, "radius": r, "devices": fates}, func(w io.Writer) {
		fmt.Fprintln(w, "dry run: nothing is changed")
		printRadius(w, r, fates)
	})
}

func printRadius(w io.Writer, r signet.Radius, fates []signet.DeviceFate) {
	fmt.Fprintf(w, "  seen so far\t%s\n", devices(r.Devices))
	for _, of := range []struct {
		name  string
		fate  signet.Fate
		count signet.FateCount
	}{
		{"lose access", signet.FateLoses, r.Loses}, {"get in by another path", signet.FateOtherPath, r.OtherPath}, {"gain access", signet.FateGains, r.Gains},
	} {
		if of.count.Devices == 0 {
			fmt.Fprintf(w, "  %s\tnone\n", of.name)
			continue
		}
		fmt.Fprintf(w, "  %s\t%s, %d of them connected now\n", of.name, devices(of.count.Devices), of.count.Connected)
		for _, f := range fates {
			if f.Fate == of.fate {
				fmt.Fprintf(w, "    %s\n", printable(fate(f)))
			}
		}
		if more := of.count.Devices - maxFatesShown; more > 0 {
			fmt.Fprintf(w, "    and %d more; --output json names all\n", more)
		}
	}
	if r.Refused > 0 {
		fmt.Fprintf(w, "  refused now, and still\t%s\n", devices(r.Refused))
	}
	if r.Unknown > 0 {
		fmt.Fprintf(w, "  not known\t%s, of whose path too little is remembered\n", devices(r.Unknown))
	}
	if r.Unseen > 0 {
		fmt.Fprintf(w, "  not known\t%s that never connected by a CA\n", devices(r.Unseen))
	}
	for _, code := range slices.Sorted(maps.Keys(r.Codes)) {
		fmt.Fprintf(w, "  refused as\t%s: %d\n", code, r.Codes[code])
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", printable(note))
	}
}

// fate tells of one device: by what it would be refused, or get in.
func fate(f signet.DeviceFate) string {
	parts := []string{signet.IdentityName(f.DeviceID, f.ModuleID)}
	if f.Connected {
		parts = append(parts, "connected")
	}
	switch f.Fate {
	case signet.FateLoses:
		parts = append(parts, string(f.Code))
	case signet.FateGains:
		parts = append(parts, "now "+string(f.Code))
	}
	if f.Anchor != "" {
		parts = append(parts, "by "+f.Anchor)
	}
	return strings.Join(parts, ", ")
}
