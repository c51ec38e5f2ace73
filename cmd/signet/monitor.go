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

func monitorCommand() *cobra.Command {
	q := client.MessageQuery{Follow: true}
	var feedback bool
	cmd := connected(&cobra.Command{
		Use:   "monitor",
		Short: "Read the telemetry of a hub, as it comes or from any point in time",
		Long: `Read the telemetry of a hub: all that is kept, oldest first, and then what comes, until it is
interrupted. With --output json each message is a line of JSON as the hub gives it.

With --feedback it reads instead how the messages sent to devices have ended. What was read is gone.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := connect(cmd)
			if err != nil {
				return err
			}
			if feedback && (q.DeviceID != "" || q.From != "") {
				return usageError{fmt.Errorf("--device and --from do not go with --feedback")}
			}
			if feedback {
				return monitorFeedback(cmd, c, q.Follow)
			}
			return monitor(cmd, c, q)
		},
	})
	cmd.Flags().StringVar(&q.DeviceID, "device", "", "only of this device")
	cmd.Flags().StringVar(&q.From, "from", "", "begin after a position, at a time (2026-01-31T12:00:00Z), or now")
	cmd.Flags().BoolVar(&feedback, "feedback", false, "read the feedback on messages sent to devices")
	cmd.Flags().BoolVar(&q.Follow, "follow", true, "go on as messages come")
	return cmd
}

// monitor prints messages. When a stream that follows breaks, it goes on behind
// the last message that was printed: a server may be restarted meanwhile.
func monitor(cmd *cobra.Command, c *client.Client, q client.MessageQuery) error {
	output, _ := cmd.Flags().GetString("output")
	w := cmd.OutOrStdout()
	served := false // since the stream last broke
	for patience := time.Now(); ; {
		var printing error
		err := c.Messages(cmd.Context(), q, func(m *client.Message, line []byte) bool {
			if output == "json" {
				_, printing = fmt.Fprintf(w, "%s\n", line)
			} else {
				printing = printMessage(w, m)
			}
			q.From, served = m.Position, true
			return printing == nil
		})
		switch {
		case printing != nil:
			return printing
		case cmd.Context().Err() != nil:
			return nil // interrupted
		case !q.Follow:
			return err
		case err != nil && signet.CodeOf(err) != signet.Unavailable:
			return err
		case err == nil || served:
			patience, served = time.Now(), false
		case time.Since(patience) > monitorPatience:
			return err
		}
		if err := pause(cmd.Context(), time.Second); err != nil {
			return nil
		}
	}
}

// monitorPatience is how long monitor waits for a hub that has gone.
const monitorPatience = time.Minute

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func printMessage(w io.Writer, m *client.Message) error {
	body, err := m.Bytes()
	if err != nil {
		return err
	}
	text := string(body)
	if m.BodyEncoding == "base64" {
		text = fmt.Sprintf("%d bytes %x", len(body), body[:min(len(body), 64)])
		if len(body) > 64 {
			text += "…"
		}
	}
	var properties []string
	for name, value := range m.Properties {
		if value != nil {
			name += "=" + *value
		}
		properties = append(properties, name)
	}
	slices.Sort(properties)
	line := fmt.Sprintf("%s  %s  %s", m.EnqueuedTime.Format("2006-01-02 15:04:05.000Z"), signet.IdentityName(m.DeviceID, m.ModuleID), text)
	if len(properties) > 0 {
		line += "  [" + strings.Join(properties, " ") + "]"
	}
	_, err = fmt.Fprintln(w, printable(line))
	return err
}

// printable keeps what devices and strangers wrote from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '·'
		}
		return r
	}, s)
}
