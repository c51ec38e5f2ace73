package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/bench"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/pki"
	"github.com/spf13/cobra"
)

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a hub, or any MQTT broker with TLS, under a load of devices",
		Long: `Measure a server under a load of devices that have certificates of a PKI made for it:

  signet bench prepare --hub data/owner.connection-string --token-file data/admin.token \
      --ca-file data/server-ca.pem --devices 5000
  signet bench connect --address localhost:8883 --ca-file data/server-ca.pem --server-pid $(pidof signet)

The load is a machine's work too: give server and load processors of their own (taskset). Another
broker is told to trust root.pem of the folder, and gets server.pem and server.key if it has none.
What it prints is a table, and one line of JSON; only the line with --output json.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(benchPrepareCommand(), benchConnectCommand(), benchHoldCommand(), benchPublishCommand(), benchStormCommand(),
		benchRegisterCommand())
	return cmd
}

func benchPrepareCommand() *cobra.Command {
	var dir, key, service string
	var devices int
	cmd := connected(&cobra.Command{
		Use:   "prepare",
		Short: "Make the PKI of a load and, with --hub, register its CA and its devices",
		Long: `Make the PKI of a load and, with --hub, register its CA and its devices. With --service, the CA and an
enrollment group are put at that provisioning service too, and no device at the hub: they register
themselves, by signet bench register.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fleet, err := bench.OpenFleet(dir, pki.KeyType(key), 0, 1)
			if err != nil {
				return err
			}
			if devices < 1 || devices > bench.MaxDevices {
				return usageError{fmt.Errorf("--devices is 1 to %d", bench.MaxDevices)}
			}
			if service != "" && cmd.Flags().Changed("devices") {
				return usageError{errors.New("--devices are registered by the operator, those of --service by themselves: give one")}
			}
			made := struct {
				Root    string `json:"root"`
				Hub     bool   `json:"registered"`
				Devices int    `json:"devices"`
				Service bool   `json:"enrolled"`
			}{Root: fleet.RootFile()}
			root, err := os.ReadFile(fleet.RootFile())
			if err != nil {
				return err
			}
			if made.Service = service != ""; made.Service {
				c, err := connectTo(cmd, service, true)
				if err != nil {
					return err
				}
				if err := enrollGroup(cmd, c, string(root)); err != nil {
					return err
				}
				devices = 0
			}
			if hub := setting(cmd, "hub", connectionStringVariable); hub != "" {
				c, err := connectTo(cmd, hub, false)
				if err != nil {
					return err
				}
				if made.Devices, err = enroll(cmd, c, string(root), devices); err != nil {
					return err
				}
				made.Hub = true
			}
			return show(cmd, made, func(w io.Writer) {
				fmt.Fprintf(w, "CA\t%s\n", made.Root)
				if made.Hub {
					fmt.Fprintf(w, "registered as\tbench, with %d new devices\n", made.Devices)
				}
				if made.Service {
					fmt.Fprintln(w, "enrolled as\tbench: its devices register themselves")
				}
				if !made.Hub && !made.Service {
					fmt.Fprintln(w, "registered\tnowhere: have the server trust it, or give --hub")
				}
			})
		},
	})
	cmd.Flags().StringVar(&dir, "pki", "bench-pki", "folder of the PKI")
	cmd.Flags().StringVar(&key, "key", string(pki.P256), "type of its keys, when it is made")
	cmd.Flags().IntVar(&devices, "devices", 5000, "devices to register")
	cmd.Flags().StringVar(&service, "service", "", "connection string of a provisioning service, or a file with it: its devices register themselves")
	return cmd
}

// enrollGroup registers the CA of a fleet at a provisioning service, and the group
// of what it signs, so far as they are not there. The devices' identities are those
// that enroll makes: the next load has new certificates for them.
func enrollGroup(cmd *cobra.Command, c *client.Client, root string) error {
	if _, err := c.RegisterCertificate(cmd.Context(), "bench", root, true, ""); err != nil {
		return err
	}
	byCA := signet.AuthCA
	_, err := c.PutEnrollment(cmd.Context(), client.Enrollment{EnrollmentGroupID: "bench", HubAuthentication: &byCA,
		Attestation: client.Attestation{Type: signet.AttestX509, X509: &client.X509Attestation{CAReferences: &client.CAReferences{Primary: "bench"}}}}, "")
	if signet.CodeOf(err) == signet.EnrollmentExists {
		return nil
	}
	return err
}

// enroll registers the CA of a fleet and its devices, so far as they are not
// there, and gives how many are new.
func enroll(cmd *cobra.Command, c *client.Client, root string, devices int) (created int, err error) {
	// Vouched for: whoever may do this may verify it as well.
	if _, err := c.RegisterCertificate(cmd.Context(), "bench", root, true, ""); err != nil {
		return 0, err
	}
	const atOnce = 100                                    // as many as the bulk operation of the registry takes
	after := bench.DeviceID(0)[:len(bench.DeviceID(0))-1] // before all of them
	for n := 0; n < devices; n += atOnce {
		there, err := c.Devices(cmd.Context(), after, atOnce)
		if err != nil {
			return created, err
		}
		var missing []client.Device
		for i := n; i < min(n+atOnce, devices); i++ {
			after = bench.DeviceID(i)
			if !slices.ContainsFunc(there, func(d client.Device) bool { return d.DeviceID == after }) {
				missing = append(missing, client.Device{DeviceID: after, Authentication: client.Authentication{Type: signet.AuthCA}})
			}
		}
		if len(missing) > 0 {
			if err := c.CreateDevices(cmd.Context(), missing); err != nil {
				return created, err
			}
		}
		created += len(missing)
	}
	return created, nil
}

// benchLoad is what all loads are told.
type benchLoad struct {
	dir, address, names, host, exchange string
	first, devices                      int
	target                              bench.Target
}

// flags gives a command the flags of a load of so many devices.
func (l *benchLoad) flags(cmd *cobra.Command, devices int) *cobra.Command {
	f := cmd.Flags()
	f.StringVar(&l.dir, "pki", "bench-pki", "folder of the PKI that signet bench prepare has made")
	f.StringVar(&l.address, "address", "localhost:8883", "HOST:PORT of MQTT over TLS")
	if l.names == "" { // else they have but one way
		f.StringVar(&l.names, "names", string(bench.Azure), "how devices call themselves: azure or plain (the device ID)")
	}
	f.StringVar(&l.host, "hostname", "localhost", "host name of the hub, in user names and in the server's certificate")
	f.StringVar(&l.exchange, "key-exchange", "x25519", "of TLS: x25519, p256, or hybrid with ML-KEM")
	f.IntVar(&l.devices, "devices", devices, "devices of the load")
	f.IntVar(&l.first, "first", 0, "the first of them: so that two loads at a time are of different devices")
	f.IntVar(&l.target.PID, "server-pid", 0, "the server's process on this machine, to say what the load costs it")
	f.BoolVar(&l.target.Resume, "resume", false, "resume TLS sessions")
	f.IntVar(&l.target.Sources, "sources", 0, "come from so many loopback addresses, of a server on this machine")
	return cmd
}

// prepare opens the fleet and makes the target.
func (l *benchLoad) prepare(cmd *cobra.Command) (*bench.Fleet, *bench.Target, error) {
	if l.names != string(bench.Azure) && l.names != string(bench.Plain) {
		return nil, nil, usageError{fmt.Errorf("--names is azure or plain, not %q", l.names)}
	}
	exchanges := map[string][]tls.CurveID{"x25519": {tls.X25519}, "p256": {tls.CurveP256}, "hybrid": {tls.X25519MLKEM768, tls.X25519}}
	if exchanges[l.exchange] == nil {
		return nil, nil, usageError{fmt.Errorf("--key-exchange is x25519, p256 or hybrid, not %q", l.exchange)}
	}
	if l.target.Sources < 0 || l.target.Sources > 10_000 {
		return nil, nil, usageError{errors.New("--sources is at most 10000")}
	}
	if _, err := os.Stat(filepath.Join(l.dir, "root.pem")); err != nil {
		return nil, nil, fmt.Errorf("no PKI in %s: signet bench prepare makes it", l.dir)
	}
	f, err := bench.OpenFleet(l.dir, pki.P256, l.first, l.devices)
	if err != nil {
		return nil, nil, err
	}
	roots := f.Roots
	caFile, _ := cmd.Flags().GetString("ca-file")
	if caFile == "" {
		caFile = os.Getenv(caFileVariable)
	}
	if caFile != "" {
		text, err := readFile(caFile)
		if err != nil {
			return nil, nil, err
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(text) {
			return nil, nil, fmt.Errorf("%s holds no certificate", caFile)
		}
	}
	t := &l.target
	t.Address, t.Names, t.Host = l.address, bench.Names(l.names), l.host
	t.TLS = &tls.Config{RootCAs: roots, ServerName: signet.HostOnly(l.host), CurvePreferences: exchanges[l.exchange]}
	bench.AllowFiles()
	return f, t, nil
}

func benchConnectCommand() *cobra.Command {
	var l benchLoad
	var o bench.ConnectOptions
	cmd := &cobra.Command{
		Use:   "connect",
		Short: "Have devices connect and disconnect",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, t, err := l.prepare(cmd)
			if err != nil {
				return err
			}
			r, err := bench.Connect(cmd.Context(), t, f, o)
			return printBench(cmd, r, err)
		},
	}
	cmd.Flags().IntVar(&o.Count, "count", 2000, "connects to measure")
	cmd.Flags().IntVar(&o.Parallel, "parallel", 4, "connects at a time")
	cmd.Flags().BoolVar(&o.Unseen, "unseen", false, "each device connects once, below CAs of its own that the server has not seen; --count is --devices")
	return l.flags(cmd, 1000)
}

func benchHoldCommand() *cobra.Command {
	var l benchLoad
	var o bench.HoldOptions
	cmd := &cobra.Command{
		Use:   "hold",
		Short: "Have devices connect and stay, silent or with a message now and then",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, t, err := l.prepare(cmd)
			if err != nil {
				return err
			}
			r, err := bench.Hold(cmd.Context(), t, f, o)
			return printBench(cmd, r, err)
		},
	}
	cmd.Flags().DurationVar(&o.Time, "for", 2*time.Second, "how long, once all have connected")
	cmd.Flags().DurationVar(&o.Every, "every", 0, "each device sends a message so often; 0 for never")
	cmd.Flags().IntVar(&o.Size, "size", 256, "bytes of a message")
	return l.flags(cmd, 5000)
}

func benchPublishCommand() *cobra.Command {
	var l benchLoad
	var o bench.PublishOptions
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "Have devices send messages that are acknowledged",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, t, err := l.prepare(cmd)
			if err != nil {
				return err
			}
			r, err := bench.Publish(cmd.Context(), t, f, o)
			return printBench(cmd, r, err)
		},
	}
	cmd.Flags().DurationVar(&o.Time, "for", 5*time.Second, "how long")
	cmd.Flags().IntVar(&o.Size, "size", 256, "bytes of a message")
	cmd.Flags().IntVar(&o.Window, "window", 1, "messages of a device that may wait for their PUBACK")
	return l.flags(cmd, 100)
}

func benchStormCommand() *cobra.Command {
	var l benchLoad
	var o bench.StormOptions
	cmd := &cobra.Command{
		Use:   "storm",
		Short: "Have all devices come at once, until the last is in",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, t, err := l.prepare(cmd)
			if err != nil {
				return err
			}
			r, err := bench.Storm(cmd.Context(), t, f, o)
			return printBench(cmd, r, err)
		},
	}
	cmd.Flags().DurationVar(&o.Limit, "limit", 2*time.Minute, "give up after so long")
	return l.flags(cmd, 5000)
}

func benchRegisterCommand() *cobra.Command {
	l := benchLoad{names: string(bench.Azure)}
	var o bench.RegisterOptions
	cmd := &cobra.Command{
		Use:   "register",
		Short: "Register with a provisioning service, all at once, until the last has its place",
		Long: `Register with a provisioning service, all at once, until the last device has its place: by MQTT, as the
SDKs do, each asking again when it is told to.

  signet bench prepare --service data/provisioning.connection-string --hub data/owner.connection-string \
      --token-file data/admin.token --ca-file data/server-ca.pem
  signet bench register --id-scope $(cat data/id-scope) --ca-file data/server-ca.pem --server-pid $(pidof signet)

Devices that have registered before have their identities and their records already: for those that
nobody has seen, take a hub that is new.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, t, err := l.prepare(cmd)
			if err != nil {
				return err
			}
			r, err := bench.Register(cmd.Context(), t, f, o)
			if err := printBench(cmd, r, err); err != nil {
				return err
			}
			if r.Operations < l.devices {
				return fmt.Errorf("%d of %d devices have no place", l.devices-r.Operations, l.devices)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.IDScope, "id-scope", "", "of the provisioning service, as data/id-scope has it")
	cmd.Flags().DurationVar(&o.Limit, "limit", 2*time.Minute, "give up after so long")
	return l.flags(cmd, 1000)
}

// printBench prints what a load has measured.
func printBench(cmd *cobra.Command, r bench.Result, err error) error {
	if err != nil {
		return err
	}
	err = show(cmd, r, func(w io.Writer) {
		for _, row := range []struct {
			name, format string
			value        float64
		}{
			{"operations", "%.0f", float64(r.Operations)},
			{"in seconds", "%.2f", r.Seconds},
			{"a second", "%.0f", r.PerSecond},
			{"TLS sessions resumed", "%.0f", float64(r.Resumed)},
			{"tried again", "%.0f", float64(r.Retries)},
			{"waited, ms: p50", "%.2f", r.P50},
			{"p99", "%.2f", r.P99},
			{"slowest", "%.2f", r.Max},
			{"server CPU, µs an operation", "%.1f", r.CPU},
			{"server RSS, KiB a connection", "%.1f", r.RSS},
			{"server RSS, MiB: at first", "%.1f", r.RSSBegin},
			{"at the end", "%.1f", r.RSSEnd},
		} {
			if row.value != 0 {
				fmt.Fprintf(w, "%s\t"+row.format+"\n", row.name, row.value)
			}
		}
		for _, status := range slices.Sorted(maps.Keys(r.Failures)) {
			fmt.Fprintf(w, "no place: %s\t%d\n", status, r.Failures[status])
		}
		if r.TLS != "" {
			fmt.Fprintf(w, "TLS\t%s\n", r.TLS)
		}
	})
	if err == nil && !inJSON(cmd) {
		err = json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
	return err
}
