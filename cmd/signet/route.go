package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func routeCommand() *cobra.Command {
	cmd := connected(&cobra.Command{
		Use:   "route",
		Short: "Send messages of a hub on to webhooks",
		Long: `Send messages of a hub on to webhooks: telemetry, and what the hub tells (see signet hub events). Each route
delivers at least once, in the order of the message log, in batches signed as Standard Webhooks have it;
what cannot be delivered is kept as a dead letter. docs/consuming.md tells what a webhook gets.`,
	})
	cmd.AddCommand(routeAddCommand(), routeListCommand(), routeShowCommand(), routeDeleteCommand(), routeReplayCommand())
	return cmd
}

func routeAddCommand() *cobra.Command {
	var q client.RouteRequest
	var properties []string
	var retry time.Duration
	cmd := &cobra.Command{
		Use:   "add NAME --url URL",
		Short: "Make a route, or change one",
		Long: `Make a route to a webhook, or change one, which then goes on where it was. The secret by which the webhook
knows what comes from this hub is printed once.

Unless --allow-private, which takes the admin token, the URL is of https, and leads to a public address.`,
		Args: arguments("NAME"),
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := need(cmd, "url"); err != nil {
				return err
			}
			for _, p := range properties {
				name, value, ok := strings.Cut(p, "=")
				if !ok {
					return usageError{fmt.Errorf("--property is NAME=VALUE, not %q", p)}
				}
				if q.Properties == nil {
					q.Properties = map[string]string{}
				}
				q.Properties[name] = value
			}
			if retry%time.Second != 0 {
				return usageError{fmt.Errorf("--retry is of whole seconds")}
			}
			q.RetrySeconds = int(retry / time.Second)
			return nil
		},
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			r, err := c.PutRoute(cmd.Context(), args[0], q)
			if err != nil {
				return err
			}
			hintRoute(cmd, c, r.Sources)
			return show(cmd, r, func(w io.Writer) {
				printRoute(w, r)
				printLine(w, "secret", r.Secret)
			})
		}),
	}
	cmd.Flags().StringVar(&q.URL, "url", "", "where to post to")
	cmd.Flags().StringVar(&q.Sources, "source", "", "telemetry, lifecycle, twin, connection, other, joined by commas; telemetry unless told")
	cmd.Flags().StringVar(&q.DeviceID, "device", "", "only of these devices: an ID, in which * is any run of characters")
	cmd.Flags().StringArrayVar(&properties, "property", nil, "only with this application property, NAME=VALUE; may be repeated")
	cmd.Flags().StringVar(&q.Secret, "secret", "", "whsec_ and base64 of 24 to 64 bytes; one is made unless told")
	cmd.Flags().StringVar(&q.From, "from", "", "where to begin: now (unless told), beginning, or a time (2026-01-31T12:00:00Z)")
	cmd.Flags().DurationVar(&retry, "retry", 0, "how long a message is tried, 1m to 72h (default 24h)")
	cmd.Flags().BoolVar(&q.AllowPrivate, "allow-private", false, "let it be of http, and lead to a private address")
	return cmd
}

// hintRoute says of what a route takes that the hub does not tell of it.
func hintRoute(cmd *cobra.Command, c *client.Client, sources string) {
	e, err := c.Events(cmd.Context())
	if err != nil {
		return
	}
	var missing []string
	for source, flag := range map[string]struct {
		name string
		on   *bool
	}{"lifecycle": {"--life-cycle on", e.LifeCycle}, "twin": {"--twin on", e.Twin}, "connection": {"--connection on", e.Connection}} {
		if slices.Contains(strings.Split(sources, ","), source) && !*flag.on {
			missing = append(missing, flag.name)
		}
	}
	if slices.Sort(missing); missing != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "hint: this hub does not tell all of that: signet hub events %s\n", strings.Join(missing, " "))
	}
}

func printRoute(w io.Writer, r client.Route) {
	fmt.Fprintf(w, "%s\t%s\n", r.Name, printable(r.URL))
	fmt.Fprintf(w, "  takes\t%s\n", r.Sources)
	printLine(w, "devices", printable(r.DeviceID))
	var properties []string
	for name, value := range r.Properties {
		properties = append(properties, name+"="+value)
	}
	slices.Sort(properties)
	printLine(w, "properties", printable(strings.Join(properties, " ")))
	fmt.Fprintf(w, "  tried for\t%s\n", time.Duration(r.RetrySeconds)*time.Second)
	fmt.Fprintf(w, "  state\t%s\n", fares(r))
}

// fares says how a route fares.
func fares(r client.Route) string {
	text := "delivered up to " + r.Cursor
	if r.Cursor == (signet.Position{}).String() {
		text = "nothing delivered yet"
	}
	if r.Fault != "" {
		text = fmt.Sprintf("failed %d times, last: %s", r.Failures, r.Fault)
	}
	if r.DeadLetters > 0 {
		text += fmt.Sprintf("; %d dead letters", r.DeadLetters)
	}
	return printable(text)
}

func routeListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the routes of the hub and how they fare",
		Args:  noArguments,
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) ([]client.Route, error) {
			return c.Routes(ctx)
		}, func(w io.Writer, list []client.Route) {
			fmt.Fprintln(w, "NAME\tTAKES\tURL\tSTATE")
			for _, r := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Name, r.Sources, printable(r.URL), fares(r))
			}
		}),
	}
}

func routeShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a route and its dead letters",
		Args:  arguments("NAME"),
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (client.Route, error) {
			return c.Route(ctx, args[0])
		}, func(w io.Writer, r client.Route) {
			printRoute(w, r)
			if len(r.Dead) > 0 {
				fmt.Fprintln(w, "\nDEAD LETTER\tMESSAGES\tENQUEUED\tGIVEN UP\tREASON")
			}
			for _, d := range r.Dead {
				const layout = "2006-01-02 15:04:05Z"
				reason := d.Reason
				if d.Replay {
					reason = "is being sent again"
				}
				fmt.Fprintf(w, "%s\t%d\t%s to %s\t%s\t%s\n", d.ID, d.Messages, d.FirstTime.UTC().Format(layout), d.LastTime.UTC().Format(layout),
					d.Failed.UTC().Format(layout), printable(reason))
			}
		}),
	}
}

func routeDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a route with its dead letters",
		Args:  arguments("NAME"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if err := c.DeleteRoute(cmd.Context(), args[0]); err != nil {
				return err
			}
			return showDone(cmd, args[0], "deleted")
		}),
	}
}

func routeReplayCommand() *cobra.Command {
	var id string
	var all bool
	cmd := &cobra.Command{
		Use:   "replay NAME --id ID | --all",
		Short: "Send dead letters again",
		Long: `Send dead letters again, once, as far as the message log still keeps what they are of. It does not wait:
signet route show NAME says what is left.`,
		Args: arguments("NAME"),
		PreRunE: func(*cobra.Command, []string) error {
			if (id == "") != all {
				return usageError{fmt.Errorf("give --id or --all")}
			}
			return nil
		},
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			n, err := c.ReplayRoute(cmd.Context(), args[0], id)
			if err != nil {
				return err
			}
			return show(cmd, map[string]int{"deadLetters": n}, func(w io.Writer) { fmt.Fprintf(w, "%d dead letters are sent again\n", n) })
		}),
	}
	cmd.Flags().StringVar(&id, "id", "", "the dead letter, by its ID")
	cmd.Flags().BoolVar(&all, "all", false, "all of them")
	return cmd
}
