package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/signet-iot/signet/server"
	"github.com/spf13/cobra"
)

func serveCommand() *cobra.Command {
	var (
		file  string
		flags server.Config
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the hub",
		Long: `Run the hub. The first start makes what is missing in the data folder: a server certificate
with a CA of its own (server-ca.pem, for devices to trust), a hub with random keys
(owner.connection-string) and a token for the management API (admin.token).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := server.ReadConfig(file)
			if err != nil {
				return err
			}
			// A flag that was given wins over the file.
			for name, set := range map[string]func(){
				"data":     func() { cfg.Data = flags.Data },
				"hostname": func() { cfg.HostName = flags.HostName },
				"mqtt":     func() { cfg.MQTT = flags.MQTT },
				"amqp":     func() { cfg.AMQP = flags.AMQP },
				"https":    func() { cfg.HTTPS = flags.HTTPS },
				"admin":    func() { cfg.Admin = flags.Admin },
				"tls-cert": func() { cfg.TLSCert = flags.TLSCert },
				"tls-key":  func() { cfg.TLSKey = flags.TLSKey },
			} {
				if cmd.Flags().Changed(name) {
					set()
				}
			}
			if name, _ := cmd.Flags().GetString("hub"); cmd.Flags().Changed("hub") {
				cfg.Hub = name
			}

			s, err := server.Start(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "signet: ready mqtt=%s https=%s admin=%s hub=%s amqp=%s data=%s\n",
				s.MQTTAddr(), s.HTTPSAddr(), s.AdminAddr(), cfg.HostName, s.AMQPAddr(), cfg.Data)
			var failure error
			select {
			case <-cmd.Context().Done():
			case failure = <-s.Failed():
			}

			// Ten seconds to drain: then an orchestrator would kill us anyway.
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return errors.Join(failure, s.Close(ctx))
		},
	}
	d := server.DefaultConfig()
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "configuration file (TOML)")
	f.StringVar(&flags.Data, "data", d.Data, "data folder")
	f.StringVar(&flags.HostName, "hostname", d.HostName, "host name of the hub, as in user names, tokens and its certificate")
	f.StringVar(&flags.MQTT, "mqtt", d.MQTT, "address for MQTT over TLS")
	f.StringVar(&flags.AMQP, "amqp", d.AMQP, "address for AMQP over TLS, or off (default port 5671 beside MQTT, if it is free)")
	f.StringVar(&flags.HTTPS, "https", d.HTTPS, "address for HTTPS")
	f.StringVar(&flags.Admin, "admin", d.Admin, "address for metrics, health and traces; keep it on loopback")
	f.StringVar(&flags.TLSCert, "tls-cert", "", "server certificate with its chain (PEM); made when left out")
	f.StringVar(&flags.TLSKey, "tls-key", "", "key of the server certificate (PEM)")
	// Everywhere else --hub is a connection string.
	f.String("hub", d.Hub, "name of the hub")
	return cmd
}
