package server

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/registry"
)

// Config is the whole configuration of a server; the file is TOML with these
// names. Every field has a default that works; an unknown name in the file is
// refused, so that a misspelling is not silently nothing.
type Config struct {
	// Data is the folder that holds everything: the database, the message log,
	// the server's certificate and the first keys. One server at a time uses it.
	// Default "./data".
	Data string `toml:"data"`

	// Hub is the name of the hub that the first start makes. Default "hub".
	// Further hubs are made with "signet hub create".
	Hub string `toml:"hub"`

	// HostName is how devices and back ends address that hub: in user names, in
	// tokens, and in the server's certificate. SDKs need a name with a dot, and
	// ports 8883 and 443. Default "localhost".
	HostName string `toml:"hostname"`

	// Provisioning is the name of the provisioning service that the first start
	// makes: in management paths, and for signet --hub. Its own host name is the
	// name, a dot and HostName; any other name of the server will do as well.
	// Default "dps"; "off" for none.
	Provisioning string `toml:"provisioning"`

	// Issuance is the file that describes by which CA certificates are issued to
	// devices, and how: see docs/operating.md. It is read again when it, or a file
	// that it names, changes; a bad new one is reported and what was in force kept.
	// Default: issuance.toml in the data folder, if it is there.
	Issuance string `toml:"issuance"`

	// LinkedHubCA is a PEM file with the CAs of the servers of hubs that are linked
	// to the provisioning service from elsewhere. Default "": the system's.
	LinkedHubCA string `toml:"linked_hub_ca"`

	// PrivateWebhooks lets the webhooks of custom allocation be at private
	// addresses: loopback, RFC 1918, link-local. Whoever may write enrollments then
	// chooses where in that network the server posts to. Default false.
	PrivateWebhooks bool `toml:"private_webhooks"`

	// MQTT is the address for MQTT over TLS. Default ":8883".
	MQTT string `toml:"mqtt"`

	// AMQP is the address for AMQP 1.0 over TLS; "off" for none. Default: port 5671
	// beside MQTT, where SDKs look for it; when that is taken, none, and the log says
	// so.
	AMQP string `toml:"amqp"`

	// HTTPS is the address for the service and management APIs, and for devices
	// by HTTPS, and by MQTT and AMQP over WebSocket. Default ":443".
	HTTPS string `toml:"https"`

	// Admin is the address for /metrics, /healthz, /readyz, /debug/traces and
	// /debug/pprof, in plain HTTP and without authentication: keep it on
	// loopback. Default "127.0.0.1:9090"; "off" for none.
	Admin string `toml:"admin"`

	// TLSCert and TLSKey are PEM files with the server's certificate and its
	// key. They are read again when they change; a bad new one is reported and
	// the old one kept. Without them the server makes a certificate with a CA of
	// its own, DIR/server-ca.pem, for all host names of its hubs.
	TLSCert string `toml:"tls_cert"`
	TLSKey  string `toml:"tls_key"`

	// Database is a PostgreSQL URL. Default "": SQLite in the data folder.
	Database string `toml:"database"`

	// NATS is the URL of a NATS server with JetStream. Default "": one inside
	// this process, with its log in the data folder.
	NATS string `toml:"nats"`

	// RetentionAge and RetentionBytes bound the message log, of all hubs together; the oldest
	// messages go first. Without a bound the disk would fill. Defaults 168h
	// (7 days) and 8 GiB.
	RetentionAge   time.Duration `toml:"retention_age"`
	RetentionBytes int64         `toml:"retention_bytes"`

	// ExpiryLog, ExpiryEvents and ExpiryMetrics say where it is warned of CAs,
	// intermediates and certificates of connected devices that end within 90, 30
	// and 7 days: a line in the log, a message in the hub's message log (source
	// certificateExpiry), each once a day, and the gauge signet_expiring. With
	// ExpiryEvents, a CRL that grows old is told of too (source revocationStale).
	// Default true, all three.
	ExpiryLog     bool `toml:"expiry_log"`
	ExpiryEvents  bool `toml:"expiry_events"`
	ExpiryMetrics bool `toml:"expiry_metrics"`

	// LogLevel is debug, info, warn or error; LogFormat is text or json. Logs go
	// to standard error. Defaults "info" and "text".
	LogLevel  slog.Level `toml:"log_level"`
	LogFormat string     `toml:"log_format"`

	// Now is the clock; tests set it. time.Now when nil.
	Now func() time.Time `toml:"-"`
	// Logger overrides LogLevel and LogFormat; tests set it.
	Logger *slog.Logger `toml:"-"`
}

// DefaultConfig gives the defaults.
func DefaultConfig() Config {
	return Config{
		Data: "./data", Hub: "hub", HostName: "localhost", Provisioning: "dps",
		MQTT: ":8883", HTTPS: ":443", Admin: "127.0.0.1:9090",
		RetentionAge: 7 * 24 * time.Hour, RetentionBytes: 8 << 30,
		ExpiryLog: true, ExpiryEvents: true, ExpiryMetrics: true,
		LogFormat: "text",
	}
}

// ReadConfig reads a configuration file over the defaults; "" gives the defaults.
func ReadConfig(file string) (Config, error) {
	c := DefaultConfig()
	if file == "" {
		return c, nil
	}
	meta, err := toml.DecodeFile(file, &c)
	if err != nil {
		return c, fmt.Errorf("configuration %s: %w", file, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return c, fmt.Errorf("configuration %s: no such setting: %s", file, unknown[0])
	}
	return c, nil
}

// check refuses a configuration that cannot work, before anything is touched.
func (c *Config) check() error {
	for name, value := range map[string]string{"data": c.Data, "hub": c.Hub, "hostname": c.HostName, "provisioning": c.Provisioning, "mqtt": c.MQTT, "https": c.HTTPS, "admin": c.Admin} {
		if value == "" {
			return fmt.Errorf("configuration: %s must not be empty", name)
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return fmt.Errorf("configuration: tls_cert and tls_key are given together")
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		return fmt.Errorf("configuration: log_format is text or json, not %q", c.LogFormat)
	}
	if c.RetentionAge <= 0 || c.RetentionBytes <= 0 {
		return fmt.Errorf("configuration: the retention must be bounded: retention_age and retention_bytes are above 0")
	}
	c.HostName = signet.HostOnly(c.HostName)
	// Before there is anything in the data folder that bears these names.
	if err := registry.CheckHub(c.Hub, c.HostName); err != nil || c.Provisioning == "off" {
		return err
	}
	return registry.CheckHub(c.Provisioning, c.Provisioning+"."+c.HostName)
}

func (c *Config) logger() *slog.Logger {
	if c.Logger != nil {
		return c.Logger
	}
	o := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}
