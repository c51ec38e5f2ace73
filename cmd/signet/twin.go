package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func deviceTwinCommand() *cobra.Command {
	var module, tags, desired, etag string
	var patch client.TwinPatch
	cmd := &cobra.Command{
		Use:   "twin ID",
		Short: "Show the twin of a device, or change its tags and desired properties",
		Long: `Show the twin of a device: tags, which are the back end's alone, desired properties, which it sets for
the device, and reported properties, which the device sets. --tags and --desired merge a JSON object:
null removes what it stands for. A connected device is told of new desired properties at once.`,
		Example: `  signet device twin press-17
  signet device twin press-17 --desired '{"interval":30,"mode":null}'`,
		Args: arguments("ID"),
		PreRunE: func(*cobra.Command, []string) error {
			for name, of := range map[string]struct {
				text string
				into *json.RawMessage
			}{"--tags": {tags, &patch.Tags}, "--desired": {desired, &patch.Desired}} {
				if of.text == "" {
					continue
				}
				if !json.Valid([]byte(of.text)) {
					return usageError{fmt.Errorf("%s takes a JSON object, such as '{\"interval\":30}'", name)}
				}
				*of.into = json.RawMessage(of.text)
			}
			return nil
		},
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (client.Twin, error) {
			if patch.Tags == nil && patch.Desired == nil {
				return c.Twin(ctx, args[0], module)
			}
			return c.PatchTwin(ctx, args[0], module, patch, etag)
		}, func(w io.Writer, t client.Twin) {
			fmt.Fprintf(w, "%s\t%s\n", t.DeviceID, t.ConnectionState)
			fmt.Fprintf(w, "  etag\t%s\n", t.ETag)
			fmt.Fprintf(w, "  version\t%d\n", t.Version)
			for _, part := range []struct {
				name string
				text json.RawMessage
			}{{"tags", t.Tags}, {"desired", t.Properties.Desired}, {"reported", t.Properties.Reported}} {
				fmt.Fprintf(w, "  %s\t%s\n", part.name, withoutMetadata(part.text))
			}
		}),
	}
	cmd.Flags().StringVar(&module, "module", "", "the module of the device that is meant")
	cmd.Flags().StringVar(&tags, "tags", "", "JSON object to merge into the tags")
	cmd.Flags().StringVar(&desired, "desired", "", "JSON object to merge into the desired properties")
	cmd.Flags().StringVar(&etag, "etag", "", etagHelp)
	return cmd
}

// withoutMetadata leaves out of a side of a twin what people seldom look for: who
// does has --output json.
func withoutMetadata(text json.RawMessage) string {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var o map[string]any
	if d.Decode(&o) != nil {
		return string(text)
	}
	delete(o, "$metadata")
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	if e.Encode(o) != nil {
		return string(text)
	}
	return string(bytes.TrimSpace(line.Bytes()))
}

func deviceInvokeCommand() *cobra.Command {
	var module, payload string
	var call client.MethodCall
	cmd := &cobra.Command{
		Use:   "invoke ID METHOD",
		Short: "Call a direct method of a connected device, and show its answer",
		Example: `  signet device invoke press-17 reboot --payload '{"in":5}'
  signet device invoke press-17 reboot --connect-timeout 2m`,
		Args: arguments("ID", "METHOD"),
		PreRunE: func(_ *cobra.Command, args []string) error {
			call.Method = args[1]
			if payload == "" {
				return nil
			}
			if !json.Valid([]byte(payload)) {
				return usageError{fmt.Errorf(`--payload takes JSON: '{"in":5}', 5, '"text"' or null`)}
			}
			call.Payload = json.RawMessage(payload)
			return nil
		},
		RunE: ask(func(ctx context.Context, c *client.Client, args []string) (client.MethodResult, error) {
			return c.InvokeMethod(ctx, args[0], module, call)
		}, func(w io.Writer, r client.MethodResult) {
			fmt.Fprintf(w, "status\t%d\n", r.Status)
			fmt.Fprintf(w, "payload\t%s\n", r.Payload)
		}),
	}
	cmd.Flags().StringVar(&module, "module", "", "the module of the device that is meant")
	cmd.Flags().StringVar(&payload, "payload", "", "JSON to call it with; null when left out")
	cmd.Flags().DurationVar(&call.ResponseTimeout, "timeout", 30*time.Second, "how long to wait for the answer: 5s to 5m")
	cmd.Flags().DurationVar(&call.ConnectTimeout, "connect-timeout", 0, "how long to wait for the device to connect and listen: up to 5m")
	return cmd
}
