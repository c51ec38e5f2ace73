// Command signet is the whole product in one binary: the server, and the
// command line that makes certificates, registers them, creates devices and
// explains refusals.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/signet-iot/signet"
	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := rootCommand()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return
	}
	stop()
	os.Exit(report(root, err))
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "signet",
		Short: "A self-hosted IoT hub with X.509 CA device authentication, compatible with the Azure IoT SDKs",
		Long: `Signet is a self-hosted IoT hub: devices authenticate with certificates that chain to a CA
which you registered once; firmware built for Azure IoT Hub works unchanged, and back ends over REST.

To begin with:

  signet ca …           make certificates, offline
  signet serve          run the hub
  signet certificate …  register a CA and prove possession of its key
  signet device …       manage device identities, and speak to devices
  signet monitor        read telemetry and events

Devices that register themselves:

  signet enrollment …   say which devices a provisioning service lets register themselves
  signet registration … see which devices have
  signet issuance …     see by which policies they get certificates, and which were issued

The fleet, and who is put out:

  signet tree …         show the fleet by who signed it
  signet clones …       say whose key or certificate may be in two hands
  signet expiring       say which certificates expire soon
  signet distrust …     cut off a certificate, a key, or all that a CA has signed
  signet revocation …   say how to ask whether certificates are revoked
  signet crl …          give the hub CRLs, and see which are in force

Why, and who:

  signet explain        say why a chain would be accepted or refused
  signet verdicts       say why devices were refused
  signet audit …        say who did what

The server:

  signet hub …          manage hubs, and what each tells, allows and ends
  signet route …        send messages on to webhooks
  signet bench …        measure a hub under a load of devices
  signet version        print the version`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	flags := root.PersistentFlags()
	flags.String("output", "text", "form of the output: text or json")
	flags.String("hub", "", "connection string of the hub (or SIGNET_CONNECTION_STRING)")
	flags.String("ca-file", "", "PEM file with the CA of the server's certificate")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if output, _ := cmd.Flags().GetString("output"); output != "text" && output != "json" {
			return usageError{fmt.Errorf("--output is text or json, not %q", output)}
		}
		return nil
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		serveCommand(),
		caCommand(),
		certificateCommand(),
		deviceCommand(),
		enrollmentCommand(),
		registrationCommand(),
		distrustCommand(),
		treeCommand(),
		clonesCommand(),
		expiringCommand(),
		revocationCommand(),
		crlCommand(),
		hubCommand(),
		issuanceCommand(),
		routeCommand(),
		monitorCommand(),
		explainCommand(),
		verdictsCommand(),
		auditCommand(),
		benchCommand(),
		versionCommand(),
	)
	strict(root)
	return root
}

// strict has a command that is misspelt, or given too much or too little, answer
// as a mistake of usage.
func strict(c *cobra.Command) {
	if args := c.Args; args != nil {
		c.Args = func(cmd *cobra.Command, given []string) error {
			if err := args(cmd, given); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	if !c.Runnable() {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(cmd *cobra.Command, given []string) error {
			if len(given) > 0 {
				return usageError{fmt.Errorf("%s has no command %q", cmd.CommandPath(), given[0])}
			}
			return cmd.Help()
		}
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// usageError is a mistake in the command itself: exit status 2.
type usageError struct{ error }

// report tells the user what went wrong, in one line and a hint, and gives the
// exit status: 1 for a refusal or failure, 2 for usage.
func report(root *cobra.Command, err error) int {
	if errors.Is(err, errRefused) {
		return 1 // the verdict has been printed
	}
	output, _ := root.PersistentFlags().GetString("output")
	stderr := harmless{os.Stderr}
	if e, ok := errors.AsType[*signet.Error](err); ok {
		if output == "json" {
			json.NewEncoder(os.Stderr).Encode(e)
			return 1
		}
		fmt.Fprintf(stderr, "signet: %s [%s]\n", printable(e.Message), e.Code)
		if e.Fix != "" {
			fmt.Fprintf(stderr, "hint: %s\n", printable(e.Fix))
		}
		return 1
	}
	fmt.Fprintf(stderr, "signet: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintln(os.Stderr, "hint: signet help tells how each command is used")
		return 2
	}
	return 1
}
