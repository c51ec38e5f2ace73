package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

// Where the commands on a running hub look when a flag is not given.
const (
	connectionStringVariable = "SIGNET_CONNECTION_STRING"
	tokenVariable            = "SIGNET_TOKEN"
	caFileVariable           = "SIGNET_CA_FILE"
	addressVariable          = "SIGNET_ADDRESS"
	serviceVariable          = "SIGNET_PROVISIONING_CONNECTION_STRING"
)

const connectionHelp = `

The hub is the one of the connection string in --hub or SIGNET_CONNECTION_STRING, or of a file that
holds it, such as data/owner.connection-string. The server's certificate is checked against --ca-file
or SIGNET_CA_FILE. --address or SIGNET_ADDRESS says where to connect, as HOST:PORT, when the host name
does not lead there.`

const serviceHelp = `

The provisioning service is the one of the connection string in --service or
SIGNET_PROVISIONING_CONNECTION_STRING, or of a file that holds it, such as
data/provisioning.connection-string. The server's certificate is checked against --ca-file or
SIGNET_CA_FILE. --address or SIGNET_ADDRESS says where to connect, as HOST:PORT, when the host name
does not lead there.`

// provisioned makes a command one that asks a running provisioning service.
func provisioned(cmd *cobra.Command) *cobra.Command {
	cmd.PersistentFlags().String("service", "", "connection string of the provisioning service, or a file with it")
	cmd.PersistentFlags().String("token-file", "", "file with the server's admin token (or SIGNET_TOKEN)")
	cmd.PersistentFlags().String("address", "", "HOST:PORT of the server, if the host name does not lead there")
	if cmd.Long == "" {
		cmd.Long = cmd.Short + "."
	}
	cmd.Long += serviceHelp
	return cmd
}

// connected makes a command one that asks a running hub: it gets the flags that
// the root does not have, and the words about them.
func connected(cmd *cobra.Command) *cobra.Command {
	cmd.PersistentFlags().String("token-file", "", "file with the server's admin token (or SIGNET_TOKEN)")
	cmd.PersistentFlags().String("address", "", "HOST:PORT of the server, if the hub's host name does not lead there")
	if cmd.Long == "" {
		cmd.Long = cmd.Short + "."
	}
	cmd.Long += connectionHelp
	return cmd
}

// connectedEither makes a command one that asks a running hub, or a provisioning
// service, which has trust and verdicts of its own as a hub has.
func connectedEither(cmd *cobra.Command) *cobra.Command {
	cmd = connected(cmd)
	cmd.PersistentFlags().String("service", "", "connection string of a provisioning service, or a file with it: of that, instead of the hub")
	return cmd
}

// setting is what a flag, or a variable of the environment, says.
func setting(cmd *cobra.Command, flag, variable string) string {
	if f := cmd.Flags().Lookup(flag); f != nil && f.Value.String() != "" {
		return f.Value.String()
	}
	return strings.TrimSpace(os.Getenv(variable))
}

// connect makes the client that the flags and the environment describe: of a hub,
// or, of a command that has the flag --service and is given it, of a provisioning
// service.
func connect(cmd *cobra.Command) (*client.Client, error) {
	if f := cmd.Flags().Lookup("service"); f != nil && f.Value.String() != "" {
		return connectTo(cmd, f.Value.String(), true)
	}
	return connectTo(cmd, setting(cmd, "hub", connectionStringVariable), false)
}

// connectService makes the client of a command that is of a provisioning service
// always.
func connectService(cmd *cobra.Command) (*client.Client, error) {
	s := setting(cmd, "service", serviceVariable)
	if s == "" {
		return nil, signet.Refuse(signet.RequestMalformed, "Nothing says which provisioning service is meant.").
			FixBy("Set %s or --service to its connection string, or to the file provisioning.connection-string in the server's data folder.", serviceVariable)
	}
	return connectTo(cmd, s, true)
}

func connectTo(cmd *cobra.Command, connectionString string, service bool) (*client.Client, error) {
	o := client.Options{
		ConnectionString: connectionString,
		Service:          service,
		CAFile:           setting(cmd, "ca-file", caFileVariable),
		Address:          setting(cmd, "address", addressVariable),
		Token:            strings.TrimSpace(os.Getenv(tokenVariable)),
	}
	// A key on the command line is seen by every user of the machine; a file's
	// name may be.
	if s := o.ConnectionString; s != "" && !strings.Contains(strings.ToLower(s), "hostname=") {
		text, err := readFile(s)
		if err != nil {
			return nil, err
		}
		o.ConnectionString = string(text)
	}
	if name := setting(cmd, "token-file", ""); name != "" {
		text, err := readFile(name)
		if err != nil {
			return nil, err
		}
		o.Token = string(text)
	}
	return client.New(o)
}

// arguments checks that there is one argument for each name.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usageError{fmt.Errorf("%s takes %s, and got %d arguments", cmd.CommandPath(), strings.Join(names, " "), len(args))}
		}
		return nil
	}
}

// show prints v as JSON or, for people, what text writes; columns are separated
// by tabs.
func show(cmd *cobra.Command, v any, text func(w io.Writer)) error {
	if output, _ := cmd.Flags().GetString("output"); output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	text(w)
	return w.Flush()
}
