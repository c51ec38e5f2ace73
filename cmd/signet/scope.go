package main

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/pki"
	"github.com/spf13/cobra"
)

func certificateScopeCommand() *cobra.Command {
	var of scopeFlags
	var remove bool
	var dry *bool
	cmd := &cobra.Command{
		Use:   "scope [NAME]",
		Short: "Bound what a CA may vouch for: device IDs, time of issue, key types, how many",
		Long: `Bound what a CA may vouch for at the hub, whatever its certificate says: a registered one by its NAME,
any other, as an intermediate that devices send, by --certificate or --key. The scope is of the CA's
key: it holds wherever on a device's path that key stands. What is set replaces the scope before,
whole, and sessions outside of it are cut. Without a flag it is shown; without NAME, all are.

  --device   a device ID, in which * stands for any characters; given again, one of them has to fit
  --issued-from, --issued-until
             the notBefore of a device's certificate. Who holds the CA's key can write any date: it
             holds an honest factory to its order, and stops no thief
  --key-type p256, p384, p521, ed25519, or rsa and the least number of bits, as rsa3072
  --number   how many devices may authenticate. When it is set, those seen so far are counted first,
             in the order in which they came. Seen beside allowed shows who makes too many`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{errors.New("at most one NAME is taken")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				of.r.CA = args[0]
			}
			set, err := of.read()
			if err != nil {
				return err
			}
			c, err := connect(cmd)
			if err != nil {
				return err
			}
			switch {
			case remove && set:
				return usageError{errors.New("--remove goes with no bounds")}
			case set && *dry:
				return dryRun(cmd, c, client.Hypothesis{Scopes: []client.ScopeRequest{of.r}})
			case set:
				return of.set(cmd, c)
			}
			scopes, err := c.Scopes(cmd.Context())
			if err != nil {
				return err
			}
			if of.whose() == 0 {
				if remove {
					return usageError{errors.New("--remove needs NAME, --certificate or --key")}
				}
				return showScopes(cmd, scopes)
			}
			key, err := of.keyOf(cmd, c)
			if err != nil {
				return err
			}
			if remove && *dry {
				return dryRun(cmd, c, client.Hypothesis{Unscoped: []string{key}})
			}
			if remove {
				if err := c.RemoveScope(cmd.Context(), key); err != nil {
					return err
				}
				return show(cmd, map[string]string{"removed": key}, func(w io.Writer) { fmt.Fprintf(w, "scope of %s removed\n", key) })
			}
			for _, s := range scopes {
				if s.Key == key {
					return show(cmd, s, func(w io.Writer) { printScope(w, s) })
				}
			}
			return show(cmd, map[string]any{}, func(w io.Writer) { fmt.Fprintln(w, "no scope: it may vouch for all that its certificate lets it") })
		},
	}
	of.add(cmd, "")
	dry = dryRunFlag(cmd)
	cmd.Flags().BoolVar(&remove, "remove", false, "remove the scope, and the count with it")
	return cmd
}

// scopeFlags are those that say whose scope is meant and what it bounds.
type scopeFlags struct {
	r                        client.ScopeRequest
	certificate, from, until string
}

// add adds them, by names that begin so.
func (f *scopeFlags) add(cmd *cobra.Command, prefix string) {
	flags := cmd.Flags()
	flags.StringVar(&f.certificate, prefix+"certificate", "", "file with the certificate of the CA that is meant, instead of NAME")
	flags.StringVar(&f.r.Key, prefix+"key", "", "SHA-256 of the SubjectPublicKeyInfo of the CA that is meant, instead of NAME")
	flags.StringArrayVar(&f.r.Devices, prefix+"device", nil, "pattern of device IDs")
	flags.StringVar(&f.from, prefix+"issued-from", "", "earliest notBefore of a device's certificate (2026-01-31T12:00:00Z)")
	flags.StringVar(&f.until, prefix+"issued-until", "", "latest notBefore")
	flags.StringSliceVar(&f.r.KeyTypes, prefix+"key-type", nil, "types of keys that devices may have")
	flags.Int64Var(&f.r.MaxDevices, prefix+"number", 0, "how many devices may authenticate")
}

// read reads the flags, and says whether anything is bounded by them.
func (f *scopeFlags) read() (set bool, err error) {
	for _, t := range []struct {
		text string
		at   *time.Time
	}{{f.from, &f.r.IssuedFrom}, {f.until, &f.r.IssuedUntil}} {
		if t.text == "" {
			continue
		}
		if *t.at, err = moment("the time of issue", t.text); err != nil {
			return false, err
		}
	}
	if f.certificate != "" {
		if f.r.Certificate, err = readUpload(f.certificate); err != nil {
			return false, err
		}
	}
	set = len(f.r.Devices)+len(f.r.KeyTypes) > 0 || f.from+f.until != "" || f.r.MaxDevices != 0
	if whose := f.whose(); whose > 1 || set && whose == 0 {
		return false, usageError{errors.New("give one of NAME, --certificate and --key")}
	}
	return set, nil
}

func (f *scopeFlags) whose() (n int) {
	for _, way := range []string{f.r.CA, f.r.Certificate, f.r.Key} {
		if way != "" {
			n++
		}
	}
	return n
}

// keyOf gives the hash of the key that is meant.
func (f *scopeFlags) keyOf(cmd *cobra.Command, c *client.Client) (string, error) {
	var ca *x509.Certificate
	var err error
	switch {
	case f.r.Key != "":
		return strings.ToLower(f.r.Key), nil
	case f.r.CA != "":
		var r client.Certificate
		if r, err = c.Certificate(cmd.Context(), f.r.CA); err == nil {
			ca, err = x509.ParseCertificate(r.Properties.Certificate)
		}
	default:
		ca, err = pki.ParseUpload(f.r.Certificate)
	}
	if err != nil {
		return "", err
	}
	key := pki.PathCertificate(ca).Key
	return hex.EncodeToString(key[:]), nil
}

func (f *scopeFlags) set(cmd *cobra.Command, c *client.Client) error {
	s, receipts, err := c.SetScope(cmd.Context(), f.r)
	if err != nil {
		return err
	}
	return show(cmd, map[string]any{"scope": s, "receipts": receipts}, func(w io.Writer) {
		printScope(w, s)
		printReceipts(w, receipts)
	})
}

func showScopes(cmd *cobra.Command, scopes []signet.Scope) error {
	return show(cmd, scopes, func(w io.Writer) {
		fmt.Fprintln(w, "CA\tDEVICES\tISSUED\tKEY TYPES\tSEEN\tALLOWED")
		for _, s := range scopes {
			seen, allowed := "", ""
			if s.MaxDevices > 0 {
				seen, allowed = fmt.Sprint(s.Seen), fmt.Sprint(s.MaxDevices)
				if s.Seen > s.MaxDevices {
					allowed += fmt.Sprintf("  %d too many", s.Seen-s.MaxDevices)
				}
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", scoped(s), strings.Join(s.Devices, ", "), whenIssued(s), strings.Join(s.KeyTypes, ", "), seen, allowed)
		}
	})
}

func printScope(w io.Writer, s signet.Scope) {
	fmt.Fprintf(w, "%s\n", scoped(s))
	printLine(w, "devices", strings.Join(s.Devices, " or "))
	printLine(w, "issued", whenIssued(s))
	printLine(w, "key types", strings.Join(s.KeyTypes, " or "))
	if s.MaxDevices > 0 {
		beyond := ""
		if s.Seen > s.MaxDevices {
			beyond = fmt.Sprintf(", %d too many", s.Seen-s.MaxDevices)
		}
		printLine(w, "number", fmt.Sprintf("%d seen of %d allowed%s", s.Seen, s.MaxDevices, beyond))
	}
	printLine(w, "key", s.Key)
}

func scoped(s signet.Scope) string {
	if s.Subject == "" {
		return "key " + s.Key
	}
	return printable(s.Subject)
}

func whenIssued(s signet.Scope) string {
	text := ""
	if !s.IssuedFrom.IsZero() {
		text = "from " + s.IssuedFrom.UTC().Format(time.RFC3339)
	}
	if !s.IssuedUntil.IsZero() {
		text += " until " + s.IssuedUntil.UTC().Format(time.RFC3339)
	}
	return strings.TrimSpace(text)
}
