package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

// Every command says first what is wrong with it as it was written (Args, PreRunE):
// then it asks.

// arguments checks that there is one argument for each name.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usageError{fmt.Errorf("%s takes %s, and got %d arguments", cmd.CommandPath(), strings.Join(names, " "), len(args))}
		}
		return nil
	}
}

// noArguments refuses what is no flag, as a mistake in the command.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s does not take %q", cmd.CommandPath(), args[0])}
	}
	return nil
}

// need checks that flags were given.
func need(cmd *cobra.Command, flags ...string) error {
	var missing []string
	for _, name := range flags {
		if f := cmd.Flags().Lookup(name); f.Value.String() == "" {
			missing = append(missing, "--"+name)
		}
	}
	if len(missing) > 0 {
		return usageError{fmt.Errorf("%s needs %s", cmd.CommandPath(), strings.Join(missing, ", "))}
	}
	return nil
}

// needs has a command checked so before it is run.
func needs(flags ...string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error { return need(cmd, flags...) }
}

// moment reads a time; what says of what, for who has written another thing.
func moment(what, text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usageError{fmt.Errorf("%s is a time as in 2026-01-31T12:00:00Z, not %q", what, text)}
	}
	return t, nil
}

// withClient runs a command with the client that its flags describe.
func withClient(run func(cmd *cobra.Command, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := connect(cmd)
		if err != nil {
			return err
		}
		return run(cmd, c, args)
	}
}

// ask runs a command that asks one thing and shows the answer, as text writes it for
// people.
func ask[T any](question func(ctx context.Context, c *client.Client, args []string) (T, error), text func(w io.Writer, answer T)) func(*cobra.Command, []string) error {
	return withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
		answer, err := question(cmd.Context(), c, args)
		if err != nil {
			return err
		}
		return show(cmd, answer, func(w io.Writer) { text(w, answer) })
	})
}

// inJSON says that the output is for machines.
func inJSON(cmd *cobra.Command) bool {
	output, _ := cmd.Flags().GetString("output")
	return output == "json"
}

// show prints v as JSON or, for people, what text writes; columns are separated
// by tabs.
func show(cmd *cobra.Command, v any, text func(w io.Writer)) error {
	if inJSON(cmd) {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	text(harmless{w})
	return w.Flush()
}

// harmless is printable for whole texts of lines: what a hub tells, others have written.
type harmless struct{ io.Writer }

func (h harmless) Write(text []byte) (int, error) {
	lines := strings.Split(string(text), "\n")
	for n := range lines {
		lines[n] = printable(lines[n])
	}
	_, err := io.WriteString(h.Writer, strings.Join(lines, "\n"))
	return len(text), err
}

// showDone says that something is gone, or has been dealt with otherwise.
func showDone(cmd *cobra.Command, what, done string) error {
	return show(cmd, map[string]string{done: what}, func(w io.Writer) { fmt.Fprintf(w, "%s %s\n", what, done) })
}

// printLine writes what is known of something, unless it is nothing.
func printLine(w io.Writer, name, value string) {
	if value != "" {
		fmt.Fprintf(w, "  %s\t%s\n", name, value)
	}
}

// printReceipts says what a change did to live sessions.
func printReceipts(w io.Writer, receipts []signet.Receipt) {
	for _, r := range receipts {
		fmt.Fprintf(w, "  %s\n", told(r))
	}
}
