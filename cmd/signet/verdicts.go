package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func verdictsCommand() *cobra.Command {
	var q client.VerdictQuery
	var follow bool
	var since string
	cmd := connectedEither(&cobra.Command{
		Use:   "verdicts",
		Short: "Say why devices, uploads and proofs were refused",
		Long: `Say why devices, uploads and proofs were refused, oldest first: what was looked at, what was expected,
what came, and how to mend it. With --output json each verdict is a line of JSON.`,
		Args: noArguments,
		PreRunE: func(*cobra.Command, []string) (err error) {
			if since != "" {
				q.Since, err = moment("--since", since)
			}
			return err
		},
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			return verdicts(cmd, c, q, follow)
		}),
	})
	cmd.Flags().StringVar(&q.DeviceID, "device", "", "only of this device")
	cmd.Flags().StringVar(&q.TrackingID, "tracking-id", "", "only the one with this tracking ID")
	cmd.Flags().StringVar(&since, "since", "", "only from this time on (2026-01-31T12:00:00Z)")
	cmd.Flags().IntVar(&q.Limit, "limit", 100, "the newest so many, at most 1000")
	cmd.Flags().BoolVar(&q.Unattributed, "unattributed", false, "those that could be put to no hub (takes the admin token)")
	cmd.Flags().BoolVar(&follow, "follow", false, "go on as refusals come")
	return cmd
}

// verdicts prints refusals; to follow, it asks every second for what is new.
func verdicts(cmd *cobra.Command, c *client.Client, q client.VerdictQuery, follow bool) error {
	w := cmd.OutOrStdout()
	printed := map[string]bool{}
	for {
		list, err := c.Verdicts(cmd.Context(), q)
		if cmd.Context().Err() != nil {
			return nil // interrupted
		}
		if err != nil {
			return err
		}
		slices.Reverse(list)
		for _, v := range list {
			if printed[v.TrackingID] {
				continue
			}
			printed[v.TrackingID] = true
			if inJSON(cmd) {
				err = json.NewEncoder(w).Encode(v)
			} else {
				err = printVerdict(w, v)
			}
			if err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		// Asked again from a second before the newest: clocks are read before
		// verdicts are put in order. Those known are passed over.
		if n := len(list); n > 0 {
			q.Since, q.Limit = list[n-1].Time.Add(-time.Second), 1000
			clear(printed)
			for _, v := range list {
				printed[v.TrackingID] = true
			}
		}
		if pause(cmd.Context(), time.Second) != nil {
			return nil
		}
	}
}

func printVerdict(w io.Writer, v signet.Verdict) error {
	var b strings.Builder
	who := ""
	if v.DeviceID != "" {
		who = "  " + signet.IdentityName(v.DeviceID, v.ModuleID)
	}
	fmt.Fprintf(&b, "%s  %s%s  at %s from %s", v.Time.Format("2006-01-02 15:04:05Z"), v.Code, who, v.Door, v.Remote)
	if v.Count > 1 {
		fmt.Fprintf(&b, ", %d times until %s", v.Count, v.LastTime.Format("15:04:05Z"))
	}
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "\n  %-11s  %s", name, printable(value))
		}
	}
	line("refused", v.Message)
	if c := v.Certificate; c != nil {
		place := "of the hub"
		if c.Index >= 0 {
			place = fmt.Sprintf("%d of the chain", c.Index)
		}
		line("certificate", fmt.Sprintf("%s: %s, serial %s, valid %s to %s", place, c.Subject, c.Serial,
			c.NotBefore.Format("2006-01-02 15:04Z"), c.NotAfter.Format("2006-01-02 15:04Z")))
	}
	if v.Expected != "" || v.Actual != "" {
		line("looked at", v.Field)
		line("expected", v.Expected)
		line("came", v.Actual)
	}
	line("fix", v.Fix)
	line("tracking ID", v.TrackingID)
	_, err := fmt.Fprintf(w, "%s\n", b.String())
	return err
}
