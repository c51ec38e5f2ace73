package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

func deviceQueryCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "query QUERY",
		Short: "Find twins by the query language of IoT Hub",
		Long: `Find twins by the query language of IoT Hub, in order of their device IDs. Whole twins are shown as
a table, what else is selected as a JSON object a line; --output json gives all as they came.`,
		Example: `  signet device query "SELECT * FROM devices WHERE tags.site = 'Augsburg'"
  signet device query "SELECT deviceId, properties.reported.fw AS fw FROM devices WHERE connectionState = 'Connected'"
  signet device query "SELECT properties.reported.fw AS fw, COUNT() AS n FROM devices GROUP BY properties.reported.fw"`,
		Args: arguments("QUERY"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) (err error) {
			all := []json.RawMessage{}
			var page client.QueryPage
			for more := true; more; more = page.Next != "" {
				if page, err = c.Query(cmd.Context(), args[0], page.Next, 1000); err != nil {
					return err
				}
				all = append(all, page.Items...)
			}
			twins := make([]client.Twin, len(all))
			for n := range all {
				if page.Twins {
					if err := json.Unmarshal(all[n], &twins[n]); err != nil {
						return err
					}
				}
			}
			return show(cmd, all, func(w io.Writer) {
				if !page.Twins {
					for _, item := range all {
						fmt.Fprintf(w, "%s\n", item)
					}
					return
				}
				fmt.Fprintln(w, "ID\tSTATUS\tCONNECTION\tLAST ACTIVE\tTAGS")
				for _, t := range twins {
					id := t.DeviceID
					if t.ModuleID != "" {
						id += "/" + t.ModuleID
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", id, t.Status, t.ConnectionState, lastActive(t.LastActivityTime), t.Tags)
				}
			})
		}),
	}
}

// lastActive shows a time of Azure's, without the fractions that are always 0.
func lastActive(text string) string {
	if t, err := time.Parse(time.RFC3339, text); err == nil && t.Year() > 1 {
		return t.UTC().Format(time.RFC3339)
	}
	return "never"
}
