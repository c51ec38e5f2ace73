package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func hubLimitsCommand() *cobra.Command {
	rates := map[signet.Meter]*string{}
	change := map[signet.Meter]signet.Rate{}
	cmd := &cobra.Command{
		Use:   "limits NAME [--messages HUB/DEVICE …]",
		Short: "Show or set what a hub and its devices may do in a second",
		Long: `Show or set what a hub, and each of its devices, may do in a second: two rates, as in 5000/10, where 0 is
without limit, as everything is unless told. What is not named stays. It counts at once.

A device that sends too much by MQTT is held back, and let go when that would be for longer than 20 seconds;
nothing that was acknowledged is lost. Everything else is refused with 429 and the time to wait.`,
		Args: arguments("NAME"),
		PreRunE: func(*cobra.Command, []string) error {
			for m, text := range rates {
				if *text == "" {
					continue
				}
				rate, err := parseRate(*text)
				if err != nil {
					return usageError{fmt.Errorf("--%s %v", m, err)}
				}
				change[m] = rate
			}
			return nil
		},
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (signet.Limits, error) {
			l, err := c.Limits(ctx, args[0])
			if err != nil || len(change) == 0 {
				return l, err
			}
			for m, rate := range change {
				*l.Rate(m) = rate
			}
			return c.SetLimits(ctx, args[0], l)
		}, func(w io.Writer, l signet.Limits) {
			fmt.Fprintln(w, "A SECOND\tHUB\tEACH DEVICE")
			for _, m := range signet.Meters {
				fmt.Fprintf(w, "%s\t%s\t%s\n", m, rateText(l.Rate(m).PerHub), rateText(l.Rate(m).PerDevice))
			}
		}),
	}
	for _, m := range signet.Meters {
		rates[m] = cmd.Flags().String(m.String(), "", map[signet.Meter]string{
			signet.MeterConnections: "sessions that begin, requests of devices over HTTPS", signet.MeterMessages: "telemetry messages", signet.MeterTwins: "reads and changes of twins",
			signet.MeterMethods: "direct method calls", signet.MeterRegistry: "operations on identities",
		}[m])
	}
	return cmd
}

func parseRate(text string) (r signet.Rate, err error) {
	hub, device, ok := strings.Cut(text, "/")
	if r.PerHub, err = strconv.ParseFloat(hub, 64); err == nil && ok {
		r.PerDevice, err = strconv.ParseFloat(device, 64)
	}
	if err != nil || !ok {
		return r, fmt.Errorf("is of two rates, HUB/DEVICE, as in 5000/10, not %q", text)
	}
	return r, nil
}

func rateText(rate float64) string {
	if rate == 0 {
		return "no limit"
	}
	return strconv.FormatFloat(rate, 'f', -1, 64)
}
