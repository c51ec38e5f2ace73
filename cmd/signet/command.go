package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func deviceSendCommand() *cobra.Command {
	var command client.Command
	var properties []string
	var file, ack string
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "send ID [TEXT]",
		Short: "Send a message to a device; it waits until the device is connected",
		Long: `Send a cloud-to-device message: TEXT, or a file. It waits in the device's queue, among at most 50, until the
device has acknowledged it or it expires. With --ack, signet monitor --feedback tells how it ended.`,
		Args: cobra.RangeArgs(1, 2),
		PreRunE: func(_ *cobra.Command, args []string) (err error) {
			switch {
			case len(args) == 2 && file == "":
				command.Body = []byte(args[1])
			case len(args) == 1 && file != "":
				if command.Body, err = readFile(file); err != nil {
					return err
				}
			default:
				return usageError{fmt.Errorf("give a text or --file, one of them")}
			}
			command.DeviceID, command.Ack, command.Properties = args[0], signet.Ack(ack), map[string]string{}
			for _, p := range properties {
				name, value, ok := strings.Cut(p, "=")
				if !ok {
					return usageError{fmt.Errorf("--property is name=value, not %q", p)}
				}
				command.Properties[name] = value
			}
			if life != 0 {
				command.Expiry = time.Now().Add(life)
			}
			return nil
		},
		RunE: ask(func(ctx context.Context, c *client.Client, _ []string) (client.SentCommand, error) {
			return c.SendCommand(ctx, command)
		}, func(w io.Writer, sent client.SentCommand) {
			fmt.Fprintf(w, "%s waits for %s until %s\n", sent.MessageID, signet.IdentityName(command.DeviceID, command.ModuleID), sent.Expiry.Format("2006-01-02 15:04:05Z"))
		}),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&properties, "property", nil, "name=value; may be repeated")
	flags.StringVar(&ack, "ack", string(signet.AckNone), "of what to be told: none, positive, negative or full")
	flags.DurationVar(&life, "expires", 0, "how long it may wait, at most 48h; an hour when not given")
	flags.StringVar(&file, "file", "", "send what a file holds")
	flags.StringVar(&command.ModuleID, "module", "", "send to this module of the device")
	flags.StringVar(&command.MessageID, "message-id", "", "its ID, for feedback; one is made when not given")
	flags.StringVar(&command.CorrelationID, "correlation-id", "", "what it belongs to")
	flags.StringVar(&command.ContentType, "content-type", "", "such as application/json")
	return cmd
}

func devicePurgeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "purge ID",
		Short: "Remove the messages that wait for a device",
		Args:  arguments("ID"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			n, err := c.PurgeCommands(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"deviceId": args[0], "purged": n}, func(w io.Writer) {
				fmt.Fprintf(w, "%d messages for %s removed\n", n, args[0])
			})
		}),
	}
}

// monitorFeedback prints feedback, and completes what it has printed.
func monitorFeedback(cmd *cobra.Command, c *client.Client, follow bool) error {
	w := cmd.OutOrStdout()
	said := false // since it last answered
	for patience := time.Now(); ; {
		records, token, err := c.Feedback(cmd.Context())
		if len(records) > 0 {
			for _, f := range records {
				if err := printFeedback(w, inJSON(cmd), &f); err != nil {
					return err
				}
			}
			err = c.CompleteFeedback(cmd.Context(), token)
		}
		switch {
		case cmd.Context().Err() != nil:
			return nil // interrupted
		case err == nil && len(records) > 0:
			continue // there may be more
		case err == nil && !follow:
			return nil
		case err == nil:
			patience, said = time.Now(), false
		case !follow || signet.CodeOf(err) != signet.Unavailable || time.Since(patience) > monitorPatience:
			return err
		case !said:
			said = true
			sayTrying(cmd, err)
		}
		if pause(cmd.Context(), time.Second) != nil {
			return nil
		}
	}
}

func printFeedback(w io.Writer, asJSON bool, f *client.Feedback) error {
	if asJSON {
		return json.NewEncoder(w).Encode(f)
	}
	_, err := fmt.Fprintln(w, printable(fmt.Sprintf("%s  %s  %s  %s", f.Time.Format("2006-01-02 15:04:05.000Z"),
		signet.IdentityName(f.DeviceID, f.ModuleID), f.MessageID, f.Outcome)))
	return err
}
