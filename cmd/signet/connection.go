package main

import (
	"os"
	"strings"

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
	reaching(cmd, "the host name", serviceHelp)
	cmd.PersistentFlags().String("service", "", "connection string of the provisioning service, or a file with it")
	cmd.PersistentFlags().SetAnnotation("service", noHub, nil)
	return cmd
}

// connected makes a command one that asks a running hub.
func connected(cmd *cobra.Command) *cobra.Command {
	reaching(cmd, "the hub's host name", connectionHelp)
	return cmd
}

// connectedEither makes a command one that asks a running hub, or a provisioning
// service, which has trust and verdicts of its own as a hub has.
func connectedEither(cmd *cobra.Command) *cobra.Command {
	reaching(cmd, "the hub's host name", connectionHelp)
	cmd.PersistentFlags().String("service", "", "connection string of a provisioning service, or a file with it: of that, instead of the hub")
	return cmd
}

// noHub marks the flag --service of commands that ask a provisioning service always.
const noHub = "no-hub"

// reaching gives a command the flags by which a server is reached, beside those of
// the root, and the words about them.
func reaching(cmd *cobra.Command, host, help string) {
	cmd.PersistentFlags().String("token-file", "", "file with the server's admin token (or SIGNET_TOKEN)")
	cmd.PersistentFlags().String("address", "", "HOST:PORT of the server, if "+host+" does not lead there")
	if cmd.Long == "" {
		cmd.Long = cmd.Short + "."
	}
	cmd.Long += help
}

// setting is what a flag, or a variable of the environment, says.
func setting(cmd *cobra.Command, flag, variable string) string {
	if f := cmd.Flags().Lookup(flag); f != nil && f.Value.String() != "" {
		return f.Value.String()
	}
	return strings.TrimSpace(os.Getenv(variable))
}

// connect makes the client that the flags and the environment describe: of a hub,
// or, of a command that has the flag --service and is given it or asks nothing
// else, of a provisioning service.
func connect(cmd *cobra.Command) (*client.Client, error) {
	service, always := "", false
	if f := cmd.Flags().Lookup("service"); f != nil {
		service = f.Value.String()
		_, always = f.Annotations[noHub]
	}
	if always {
		service = setting(cmd, "service", serviceVariable)
	}
	switch {
	case service != "":
		return connectTo(cmd, service, true)
	case always:
		return nil, signet.Refuse(signet.RequestMalformed, "Nothing says which provisioning service is meant.").
			FixBy("Set %s or --service to its connection string, or to the file provisioning.connection-string in the server's data folder.", serviceVariable)
	}
	return connectTo(cmd, setting(cmd, "hub", connectionStringVariable), false)
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
