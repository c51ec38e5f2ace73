package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func treeCommand() *cobra.Command {
	var within string
	var all bool
	cmd := connected(&cobra.Command{
		Use:   "tree [BRANCH]",
		Short: "Show the fleet as the tree that its certificates record",
		Long: `Show the fleet as the tree that its certificates record: each CA by which devices have authenticated,
under the CA that signed it, with the devices that came through it last, and how many of them are
connected, expire soon, or were refused.

BRANCH is the common name or the subject of a CA, or its ID, thumbprint or key, or 8 digits of these.`,
		Args: cobra.MaximumNArgs(1),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) ([]signet.Branch, error) {
			branch := ""
			if len(args) > 0 {
				branch = args[0]
			}
			return c.Tree(ctx, branch, within)
		}, func(w io.Writer, list []signet.Branch) { drawTree(w, list, all) }),
	})
	cmd.Flags().StringVar(&within, "within", "30d", "count as expiring what ends within days or hours (30d, 12h)")
	cmd.Flags().BoolVar(&all, "all", false, "show every CA, also where there are many")
	cmd.AddCommand(treeDevicesCommand(), treeDeviceCommand(), treeDisableCommand(), treeEnableCommand(), treeTagCommand(), treeDistrustCommand())
	return cmd
}

// maxDrawn is how many CAs under one are drawn unless all are asked for: the most
// populous come first.
const maxDrawn = 20

// drawTree draws branches that come each after the one above it.
func drawTree(w io.Writer, list []signet.Branch, all bool) {
	if len(list) == 0 {
		fmt.Fprintln(w, "No device has authenticated by a certificate yet.")
		return
	}
	under := map[string][]*signet.Branch{}
	there := map[string]bool{}
	for n := range list {
		b := &list[n]
		there[b.ID] = true
		above := b.Parent
		if !there[above] {
			above = "" // the top of what was asked for
		}
		under[above] = append(under[above], b)
	}
	rows := [][]string{{"", "DEVICES", "CONNECTED", "EXPIRING", "REFUSED", "ENDS", "ID"}}
	var draw func(above, indent string)
	draw = func(above, indent string) {
		siblings := under[above]
		for n, b := range siblings {
			here, below := "├─ ", "│  "
			if n == len(siblings)-1 {
				here, below = "└─ ", "   "
			}
			if above == "" {
				here, below = "", ""
			}
			if n == maxDrawn && !all && len(siblings) > maxDrawn+1 {
				rest := signet.Branch{}
				for _, b := range siblings[n:] {
					rest.Total, rest.Connected, rest.Expiring, rest.Refused = rest.Total+b.Total, rest.Connected+b.Connected, rest.Expiring+b.Expiring, rest.Refused+b.Refused
				}
				here = strings.Replace(here, "├", "└", 1)
				rows = append(rows, append([]string{indent + here + fmt.Sprintf("… %d more CAs", len(siblings)-n)}, append(counts(&rest), "", "--all shows them")...))
				return
			}
			name, ends, id := tabless(b.Subject), b.NotAfter.UTC().Format(time.DateOnly), b.ID[:min(8, len(b.ID))]
			if b.Thumbprint == "" {
				name, ends, id = "known by thumbprint", "", b.ID
			}
			rows = append(rows, append([]string{indent + here + name}, append(counts(b), ends, id)...))
			draw(b.ID, indent+below)
		}
	}
	draw("", "")
	write(w, rows, 1, 5)
}

func counts(b *signet.Branch) []string {
	var texts []string
	for _, n := range []int64{b.Total, b.Connected, b.Expiring, b.Refused} {
		text := fmt.Sprint(n)
		if n == 0 {
			text = "-" // so that the eye finds the others
		}
		texts = append(texts, text)
	}
	return texts
}

// write writes a table whose columns from one to another have numbers.
func write(w io.Writer, rows [][]string, from, to int) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for n, text := range row {
			widths[n] = max(widths[n], utf8.RuneCountInString(text))
		}
	}
	for _, row := range rows {
		line := ""
		for n, text := range row {
			gap := strings.Repeat(" ", widths[n]-utf8.RuneCountInString(text))
			if n >= from && n < to {
				line += gap + text + "  "
			} else {
				line += text + gap + "  "
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
}

// tabless keeps a name from steering the terminal or our columns.
func tabless(name string) string { return strings.ReplaceAll(printable(name), "\t", "·") }

// groupFlags lets a command choose devices of a branch.
func groupFlags(cmd *cobra.Command, g *client.Group) {
	for _, f := range []struct {
		name, help string
		value      *string
	}{
		{"issued-after", "certificates that begin then or later", &g.IssuedAfter},
		{"issued-before", "certificates that begin earlier", &g.IssuedBefore},
		{"expires-after", "certificates that end then or later", &g.ExpiresAfter},
		{"expires-before", "certificates that end earlier", &g.ExpiresBefore},
		{"first-seen-after", "devices that came first then or later", &g.FirstSeenAfter},
		{"first-seen-before", "devices that came first earlier", &g.FirstSeenBefore},
		{"last-seen-after", "devices that came or left last then or later", &g.LastSeenAfter},
		{"last-seen-before", "devices not seen since", &g.LastSeenBefore},
		{"key-type", "p256, p384, p521, ed25519, rsa2048 …", &g.KeyType},
	} {
		cmd.Flags().StringVar(f.value, f.name, "", f.help)
	}
}

const groupHelp = `

BRANCH is the common name or the subject of a CA, or its ID, thumbprint or key, or 8 digits of these;
"all" is the whole hub, "thumbprint" what is known by thumbprint. A device belongs to the CA that its
latest certificate came from. Moments are a date (2026-07-01), a time (2026-07-01T12:00:00Z), or days
or hours: from now for what expires, ago for the others (30d, 12h).`

func treeDevicesCommand() *cobra.Command {
	var g client.Group
	cmd := &cobra.Command{
		Use:   "devices BRANCH",
		Short: "List the devices of a branch: who signed them, when, and when they were seen",
		Long: `List the devices of a branch and of all below it. With --output json it gives one JSON object a line, for
the next tool.` + groupHelp,
		Args: arguments("BRANCH"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			g.Branch = args[0]
			const page = 1000
			out := cmd.OutOrStdout()
			for from, first := "", true; first || from != ""; first = false {
				list, next, err := c.GroupDevices(cmd.Context(), g, from, page)
				if err != nil {
					return err
				}
				from = next
				if inJSON(cmd) {
					for _, s := range list {
						if err := json.NewEncoder(out).Encode(s); err != nil {
							return err
						}
					}
					continue
				}
				w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
				if first {
					fmt.Fprintln(w, "ID\tSTATUS\tISSUED\tEXPIRES\tKEY\tFIRST SEEN\tLAST SEEN\tFROM")
				}
				for _, s := range list {
					last := minute(s.LastSeen)
					if s.Connected {
						last = "connected"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", signet.IdentityName(s.DeviceID, s.ModuleID), s.Status,
						s.NotBefore.Format(time.DateOnly), s.NotAfter.Format(time.DateOnly), s.KeyType, minute(s.FirstSeen), last, s.Remote)
				}
				if err := w.Flush(); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	groupFlags(cmd, &g)
	return cmd
}

func treeDeviceCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "device ID[/MODULE]",
		Short: "Show by which certificates a device last authenticated",
		Args:  arguments("ID"),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (client.Sighting, error) {
			device, module, _ := strings.Cut(args[0], "/")
			return c.Sighting(ctx, device, module)
		}, func(w io.Writer, s client.Sighting) {
			last := minute(s.LastSeen)
			if s.Connected {
				last = "connected"
			}
			fmt.Fprintf(w, "%s\tlast seen: %s\n", signet.IdentityName(s.DeviceID, s.ModuleID), last)
			fmt.Fprintf(w, "  first seen\t%s\n", minute(s.FirstSeen))
			fmt.Fprintf(w, "  from\t%s, by %s\n", s.Remote, s.TLS)
			describe := func(title string, c *signet.SeenCertificate) {
				fmt.Fprintf(w, "  %s\t%s\n", title, tabless(c.Subject))
				fmt.Fprintf(w, "    \t%s to %s, %s, signed with %s\n", c.NotBefore.Format(time.DateOnly), c.NotAfter.Format(time.DateOnly), c.KeyType, c.Signature)
				fmt.Fprintf(w, "    \tserial %s, thumbprint %s\n", c.Serial, c.Thumbprint)
			}
			describe("certificate", &s.SeenCertificate)
			for _, b := range s.Path {
				describe("signed by", &b.SeenCertificate)
			}
		}),
	}
}
