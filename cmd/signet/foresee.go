package main

import (
	"fmt"
	"io"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

// foreseeFlag adds --dry-run to a command that changes an enrollment.
func foreseeFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("dry-run", false, "change nothing; say who would be shut out, or let in")
}

// foresee says what a change of an enrollment would do.
func foresee(cmd *cobra.Command, c *client.Client, group bool, id, change string) error {
	f, err := c.Foresee(cmd.Context(), group, id, change)
	if err != nil {
		return err
	}
	return show(cmd, map[string]any{"dryRun": true, "foreseen": f}, func(w io.Writer) {
		fmt.Fprintln(w, "dry run: nothing is changed")
		printForeseen(w, &f)
	})
}

func printForeseen(w io.Writer, f *signet.Foreseen) {
	whose := "by "
	if f.Group {
		whose = "below "
	}
	for _, p := range f.Proofs {
		fmt.Fprintf(w, "  %s%s\t%s\n", whose, printable(p.Proof), printable(ruling("now ", p.Now)))
		fmt.Fprintf(w, "\t%s\n", printable(ruling("then ", p.Then)))
	}
	more := ""
	if f.More {
		more = "; there are more"
	}
	fmt.Fprintf(w, "  registered so far\t%s looked at%s\n", devices(f.Registrations), more)
	for _, of := range []struct {
		name  string
		fate  signet.Fate
		count int64
	}{
		{"would be shut out", signet.FateLoses, f.Loses}, {"would be let in by another", signet.FateOtherEnrollment, f.OtherEnrollment},
		{"would newly be let in", signet.FateGains, f.Gains}, {"cannot be told", signet.FateUnknown, f.Unknown},
	} {
		if of.count == 0 {
			if of.fate != signet.FateUnknown {
				fmt.Fprintf(w, "  %s\tnone\n", of.name)
			}
			continue
		}
		fmt.Fprintf(w, "  %s\t%s\n", of.name, devices(of.count))
		named := int64(0)
		for _, d := range f.Devices {
			if d.Fate == of.fate && named < maxFatesShown {
				named++
				text := ruling("", d.Then)
				if d.Now.Ruling == signet.RulingUnknown {
					text = ruling("", d.Now)
				}
				fmt.Fprintf(w, "    %s\t%s\n", printable(d.RegistrationID), printable(text))
			}
		}
		if of.count > named {
			fmt.Fprintf(w, "    and %d more\n", of.count-named)
		}
	}
}

// ruling tells what would be said to a device, and by which enrollment.
func ruling(when string, d signet.Decision) string {
	by := ""
	if d.Enrollment != "" {
		by = fmt.Sprintf(" by the enrollment of %s", d.Enrollment)
		if d.Group {
			by = fmt.Sprintf(" by the group %s", d.Enrollment)
		}
	}
	switch d.Ruling {
	case signet.RulingAdmitted:
		return when + "let in" + by
	case signet.RulingDenied:
		return when + "shut out" + by + ": " + d.Why
	case signet.RulingNobody:
		return when + "let in by nobody: " + d.Why
	}
	return when + "cannot be told: " + d.Why
}
