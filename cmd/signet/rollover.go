package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
)

// rolloverPause is between two looks of --watch.
const rolloverPause = 30 * time.Second

func certificateRolloverCommand() *cobra.Command {
	var watch, finish, abort, acceptUnseen bool
	var keep string
	var stopAt int64
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "rollover OLD NEW",
		Short: "Move devices from one registered CA to another, and say when the old one may go",
		Long: `Move devices from one registered CA to another. Both are trusted meanwhile: register and verify NEW,
give devices certificates under it, and look here how far they have come. It says which devices would
lose access without OLD, by judging what each presented last, and that OLD is safe to remove only when
it is: a device that has never connected may hold a certificate of OLD, so it is in the way too. So is a
revocation policy of OLD that is stricter than that of NEW, because it goes with OLD.

  --watch   looks again and again, until OLD is safe to remove (exit status 0), or until it is better
            to stop (1): devices are refused under NEW, or NEW counts no longer
  --finish  removes OLD if it is safe, and keeps its certificate in a file: the way back
  --abort   removes NEW if no device would lose access; OLD stays

Until --finish nothing is removed, and devices get in by either. The two are told apart by their
certificates and keys, also when they bear one name.`,
		Args: arguments("OLD", "NEW"),
		PreRunE: func(*cobra.Command, []string) error {
			chosen := 0
			for _, flag := range []bool{watch, finish, abort} {
				if flag {
					chosen++
				}
			}
			if chosen > 1 {
				return usageError{errors.New("give one of --watch, --finish and --abort")}
			}
			if every < time.Second {
				return usageError{errors.New("--every is a second or more")}
			}
			return nil
		},
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			r := client.RolloverRequest{Old: args[0], New: args[1], Finish: finish, Abort: abort, AcceptUnseen: acceptUnseen}
			if watch {
				return watchRollover(cmd, c, r, every, stopAt)
			}
			goes := args[0]
			if abort {
				goes = args[1]
			}
			if !finish && !abort {
				return rollOver(cmd, c, r, "")
			}
			if keep == "" {
				keep = goes + ".pem"
			}
			if err := keepCertificate(cmd, c, goes, keep); err != nil {
				return err
			}
			err := rollOver(cmd, c, r, keep)
			if signet.CodeOf(err) == signet.RolloverUnsafe { // of another error it is not known whether it is gone
				os.Remove(keep)
			}
			return err
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&watch, "watch", false, "look again until OLD is safe to remove, or it is better to stop")
	f.DurationVar(&every, "every", rolloverPause, "how often --watch looks")
	f.Int64Var(&stopAt, "stop-at", 1, "how many new refusals under NEW stop --watch")
	f.BoolVar(&finish, "finish", false, "remove OLD if it is safe")
	f.BoolVar(&abort, "abort", false, "remove NEW if it is safe")
	f.BoolVar(&acceptUnseen, "accept-unseen", false, "remove although there are devices that never connected")
	f.StringVar(&keep, "keep", "", "file that the removed certificate is kept in; NAME.pem if not given")
	return cmd
}

// keepCertificate writes the certificate of a CA into a file, which must not be
// there.
func keepCertificate(cmd *cobra.Command, c *client.Client, name, file string) error {
	ca, err := c.Certificate(cmd.Context(), name)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(ca.Properties.Certificate)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return signet.Refuse(signet.FileExists, "%s is there already.", file).FixBy("Name another file: --keep FILE")
	}
	if err == nil {
		_, err = f.Write(certificatesPEM(cert))
		err = errors.Join(err, f.Sync(), f.Close())
	}
	return err
}

// rollOver asks the hub once, and shows what it says.
func rollOver(cmd *cobra.Command, c *client.Client, request client.RolloverRequest, kept string) error {
	fates := []signet.DeviceFate{}
	r, removed, receipts, err := c.Rollover(cmd.Context(), request, func(f signet.DeviceFate) {
		if f.Fate == signet.FateLoses && (inJSON(cmd) || len(fates) < maxFatesShown) {
			fates = append(fates, f)
		}
	}, func(devices int64) { fmt.Fprintf(cmd.ErrOrStderr(), "signet: %d devices looked at\n", devices) })
	if err != nil {
		return err
	}
	return show(cmd, map[string]any{"rollover": r, "left": fates, "removed": removed, "receipts": receipts}, func(w io.Writer) {
		printRollover(w, r, fates)
		switch {
		case removed != "":
			fmt.Fprintf(w, "%s removed\n", removed)
			printReceipts(w, receipts)
			fmt.Fprintf(w, "way back: signet certificate upload %s %s --verified\n", removed, kept)
		case r.Safe:
			fmt.Fprintf(w, "next: signet certificate rollover %s %s --finish\n", r.Old.Name, r.New.Name)
		default:
			fmt.Fprintf(w, "way back: nothing is removed; devices get in by either. signet certificate rollover %s %s --abort\n", r.Old.Name, r.New.Name)
		}
	})
}

func printRollover(w io.Writer, r signet.Rollover, left []signet.DeviceFate) {
	for _, ca := range []signet.RolloverCA{r.Old, r.New} {
		standing := "verified"
		if !ca.Verified {
			standing = "not verified"
		}
		fmt.Fprintf(w, "%s\t%s, until %s, %s\n", ca.Name, printable(ca.Subject), ca.NotAfter.UTC().Format(time.DateOnly), standing)
		fmt.Fprintf(w, "  key\t%s\n", ca.Key)
		fmt.Fprintf(w, "  last let in by it\t%s\n", devices(ca.Devices))
		if ca.Refused > 0 {
			fmt.Fprintf(w, "  refused under it\t%d times\n", ca.Refused)
		}
	}
	fmt.Fprintf(w, "would be refused without %s\t%s, %d of them connected now\n", r.Old.Name, devices(r.Left.Devices), r.Left.Connected)
	for _, f := range left {
		fmt.Fprintf(w, "  %s\n", printable(fate(f)))
	}
	if more := r.Left.Devices - int64(len(left)); more > 0 {
		fmt.Fprintf(w, "  and %d more; --output json names all\n", more)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", printable(note))
	}
	if r.Safe {
		fmt.Fprintf(w, "%s is safe to remove\n", r.Old.Name)
		return
	}
	fmt.Fprintf(w, "%s is not safe to remove:\n", r.Old.Name)
	for _, why := range r.Because {
		fmt.Fprintf(w, "  %s\n", printable(why))
	}
}

// watchRollover looks again and again, until the old CA is safe to remove or it is
// better to stop.
func watchRollover(cmd *cobra.Command, c *client.Client, request client.RolloverRequest, every time.Duration, stopAt int64) error {
	w := cmd.OutOrStdout()
	first, refused := true, int64(0)
	for {
		r, _, _, err := c.Rollover(cmd.Context(), request, nil, nil)
		if err != nil {
			return err
		}
		if first {
			first, refused = false, r.New.Refused
			if r.Policy != "" {
				fmt.Fprintf(w, "in the way: signet revocation set %s --policy %s, as below %s\n", r.New.Name, r.Policy, r.Old.Name)
			}
		}
		fmt.Fprintf(w, "%s  %s: %d, %s: %d, left: %d, never connected: %d, refused under %s: %d\n", time.Now().UTC().Format("2006-01-02 15:04:05Z"),
			r.Old.Name, r.Old.Devices, r.New.Name, r.New.Devices, r.Left.Devices, r.Unseen, r.New.Name, r.New.Refused-refused)
		stop := ""
		switch {
		case r.Safe:
			fmt.Fprintf(w, "%s is safe to remove\nnext: signet certificate rollover %s %s --finish\n", r.Old.Name, r.Old.Name, r.New.Name)
			return nil
		case !r.New.Verified || time.Now().After(r.New.NotAfter):
			stop = r.New.Name + " lets nobody in: it is not verified, or has expired"
		case stopAt > 0 && r.New.Refused-refused >= stopAt:
			stop = fmt.Sprintf("%d connections were refused under %s since this began; signet verdicts says why", r.New.Refused-refused, r.New.Name)
		}
		if stop != "" {
			fmt.Fprintf(w, "stop: %s\nway back: nothing is removed; devices with certificates under %s get in as before\n", stop, r.Old.Name)
			return errRefused // all has been told
		}
		if pause(cmd.Context(), every) != nil {
			return nil
		}
	}
}
