package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func monitorCommand() *cobra.Command {
	q := client.MessageQuery{Follow: true}
	var feedback, events bool
	cmd := connected(&cobra.Command{
		Use:   "monitor",
		Short: "Read the telemetry and events of a hub, as they come or from any point in time",
		Long: `Read the message log of a hub: all that is kept, oldest first, and then what comes, until it is
interrupted. With --output json each message is a line of JSON as the hub gives it.

With --events it reads what the hub tells, and no telemetry: devices that are made and deleted, changes of
twins, connections, as far as signet hub events has them on, and what is said of certificates that expire.
--source names one or more of telemetry, lifecycle, twin, connection, other.

With --feedback it reads instead how the messages sent to devices have ended. What was read is gone.`,
		Args: noArguments,
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			if feedback && (q.DeviceID != "" || q.From != "" || q.Sources != "" || events) {
				return usageError{fmt.Errorf("--device, --from, --source and --events do not go with --feedback")}
			}
			if events && q.Sources != "" {
				return usageError{fmt.Errorf("--events is --source without telemetry: give one of them")}
			}
			if events {
				q.Sources = (signet.FromAll &^ signet.FromTelemetry).String()
				hintEvents(cmd, c)
			}
			if feedback {
				return monitorFeedback(cmd, c, q.Follow)
			}
			return monitor(cmd, c, q)
		}),
	})
	cmd.Flags().StringVar(&q.DeviceID, "device", "", "only of this device")
	cmd.Flags().StringVar(&q.From, "from", "", "begin after a position, at a time (2026-01-31T12:00:00Z), or now")
	cmd.Flags().StringVar(&q.Sources, "source", "", "only of these sources, as in twin,lifecycle")
	cmd.Flags().BoolVar(&events, "events", false, "what the hub tells, without telemetry")
	cmd.Flags().BoolVar(&feedback, "feedback", false, "read the feedback on messages sent to devices")
	cmd.Flags().BoolVar(&q.Follow, "follow", true, "go on as messages come")
	return cmd
}

// hintEvents says that there is nothing to come, to who waits for it.
func hintEvents(cmd *cobra.Command, c *client.Client) {
	e, err := c.Events(cmd.Context())
	if err == nil && !*e.LifeCycle && !*e.Twin && !*e.Connection {
		fmt.Fprintln(cmd.ErrOrStderr(), "hint: this hub tells of no devices, twins and connections: signet hub events --life-cycle on --twin on --connection on")
	}
}

// monitor prints messages. When a stream that follows breaks, it goes on behind
// the last message that was printed: a server may be restarted meanwhile.
func monitor(cmd *cobra.Command, c *client.Client, q client.MessageQuery) error {
	w := cmd.OutOrStdout()
	served, said := false, false // since the stream last broke
	for patience := time.Now(); ; {
		var printing error
		err := c.Messages(cmd.Context(), q, func(m *client.Message, line []byte) bool {
			if inJSON(cmd) {
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
			patience, served, said = time.Now(), false, false
		case time.Since(patience) > monitorPatience:
			return err
		}
		if err != nil && !said {
			said = true
			sayTrying(cmd, err)
		}
		if err := pause(cmd.Context(), time.Second); err != nil {
			return nil
		}
	}
}

// monitorPatience is how long monitor waits for a hub that has gone.
const monitorPatience = time.Minute

// sayTrying says why nothing comes: who gave a wrong address would else wait for
// nothing.
func sayTrying(cmd *cobra.Command, err error) {
	fmt.Fprintf(cmd.ErrOrStderr(), "signet: %s Trying again for %v.\n", printable(signet.AsError(err).Message), monitorPatience)
}

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
	who := signet.IdentityName(m.DeviceID, m.ModuleID)
	if operation := m.Properties["opType"]; operation != nil && m.Source() != signet.SourceTelemetry {
		who, properties = strings.TrimSpace(who+"  "+*operation), nil // the rest says who, when and where again
	}
	line := fmt.Sprintf("%s  %s  %s", m.EnqueuedTime.Format("2006-01-02 15:04:05.000Z"), who, text)
	if len(properties) > 0 {
		line += "  [" + strings.Join(properties, " ") + "]"
	}
	_, err = fmt.Fprintln(w, printable(line))
	return err
}

// printable keeps what devices and strangers wrote from steering the terminal, and
// from being read in another order than it is written in.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			return '·'
		}
		return r
	}, s)
}
