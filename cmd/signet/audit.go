package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/audit"
	"github.com/signet-iot/signet/client"
	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
)

func auditCommand() *cobra.Command {
	cmd := connectedEither(&cobra.Command{Use: "audit", Short: "Say who did what, from a log that cannot be changed unseen"})
	cmd.AddCommand(auditListCommand(), auditCheckpointCommand(), auditExportCommand(), auditVerifyCommand())
	return cmd
}

func auditListCommand() *cobra.Command {
	var all bool
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List acts on trust and of administration, the latest last",
		Args:  noArguments,
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			var entries []client.AuditEntry
			for before := int64(-1); len(entries) < limit; {
				some, err := c.Audit(cmd.Context(), all, before, limit-len(entries))
				if err != nil {
					return err
				}
				if len(some) == 0 {
					break
				}
				entries = append(entries, some...)
				before = some[len(some)-1].Index
			}
			slices.Reverse(entries)
			if inJSON(cmd) {
				for _, e := range entries {
					if err := json.NewEncoder(cmd.OutOrStdout()).Encode(e); err != nil {
						return err
					}
				}
				return nil
			}
			return show(cmd, nil, func(w io.Writer) {
				fmt.Fprintln(w, "INDEX\tTIME\tHUB\tACT\tOF\tBY\tFROM\t")
				for _, e := range entries {
					fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Index, e.Time.Format("2006-01-02 15:04:05Z"), e.Hub, e.Act,
						printable(e.Of), e.By, e.Remote, failed(e.Failed))
				}
			})
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "of all hubs (takes the admin token)")
	cmd.Flags().IntVar(&limit, "limit", 100, "the latest so many")
	return cmd
}

func failed(why string) string {
	if why == "" {
		return ""
	}
	return "failed: " + printable(why)
}

func auditCheckpointCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "checkpoint",
		Short: "Print the signed head of the log, to be kept where the server cannot reach it",
		Args:  noArguments,
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			text, err := c.AuditFile(cmd.Context(), "checkpoint")
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		}),
	}
}

func auditExportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export DIR",
		Short: "Write the log as files, or bring those that are there up to date",
		Long: `Write the log into a folder in the form of C2SP's tlog-tiles: checkpoint, tile/LEVEL/N and
tile/entries/N. What is there already is not read again, so that an export now and then is cheap.`,
		Args: arguments("DIR"),
		RunE: withClient(func(cmd *cobra.Command, c *client.Client, args []string) error {
			size, fetched, err := exportAudit(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"folder": args[0], "entries": size, "files": fetched}, func(w io.Writer) {
				fmt.Fprintf(w, "%d entries in %s, %d files written\n", size, args[0], fetched)
				fmt.Fprintf(w, "next: signet audit verify %s --key FILE, with audit.verifier of the server's data folder\n", args[0])
			})
		}),
	}
}

func exportAudit(ctx context.Context, c *client.Client, dir string) (size int64, fetched int, err error) {
	checkpoint, err := c.AuditFile(ctx, "checkpoint")
	if err != nil {
		return 0, 0, err
	}
	lines := strings.SplitN(string(checkpoint), "\n", 3)
	if len(lines) < 3 {
		return 0, 0, errors.New("the server's checkpoint is not one")
	}
	if size, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return 0, 0, errors.New("the server's checkpoint is not one")
	}
	fetch := func(level int, hashes int64) error {
		for first := int64(0); first < hashes; first += audit.TileWidth {
			name := audit.TilePath(level, first/audit.TileWidth, int(min(hashes-first, audit.TileWidth)))
			file := filepath.Join(dir, filepath.FromSlash(name))
			if _, err := os.Stat(file); err == nil {
				continue
			}
			data, err := c.AuditFile(ctx, name)
			if err != nil {
				return err
			}
			if err := writeWhole(file, data); err != nil {
				return err
			}
			fetched++
		}
		return nil
	}
	err = fetch(-1, size)
	for level, n := 0, size; n > 0 && err == nil; level, n = level+1, n/audit.TileWidth {
		err = fetch(level, n)
	}
	if err == nil { // last: what it is of is there
		err = writeWhole(filepath.Join(dir, "checkpoint"), checkpoint)
	}
	return size, fetched, err
}

// writeWhole writes a file so that it is there wholly or not at all.
func writeWhole(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func auditVerifyCommand() *cobra.Command {
	var key string
	var checkpoints []string
	var entries bool
	cmd := &cobra.Command{
		Use:   "verify DIR --key FILE",
		Short: "Check an exported log, offline, against checkpoints",
		Long: `Check that an exported log holds exactly what its checkpoint was signed of, and, with --checkpoint,
what earlier checkpoints were: nothing altered, removed or slipped in since. Every entry is hashed
anew; nothing is asked of the server and nothing but the key is trusted. An old checkpoint that was
kept elsewhere, by somebody else, is what makes this worth doing.

The key is the file audit.verifier of the server's data folder, or its text.`,
		Args: arguments("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if key == "" {
				return usageError{errors.New("--key says by whose key checkpoints are good: audit.verifier of the server's data folder")}
			}
			if text, err := os.ReadFile(key); err == nil {
				key = strings.TrimSpace(string(text))
			}
			verifier, err := note.NewVerifier(key)
			if err != nil {
				return usageError{fmt.Errorf("--key is neither a file nor a verifier key: %w", err)}
			}
			type outcome struct {
				Checkpoint string `json:"checkpoint"`
				Entries    int64  `json:"entries"`
			}
			var good []outcome
			for n, file := range append([]string{filepath.Join(args[0], "checkpoint")}, checkpoints...) {
				text, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				var each func(audit.Entry) error
				if entries && n == 0 {
					each = func(e audit.Entry) error {
						return json.NewEncoder(cmd.OutOrStdout()).Encode(client.AuditEntry{Index: e.Index, Time: e.Time, Hub: e.Hub, Act: e.Act,
							Of: e.Of, By: e.By, Remote: e.Remote, Detail: e.Detail, Failed: e.Failed})
					}
				}
				size, err := audit.Verify(os.DirFS(args[0]), text, verifier, each)
				if err != nil {
					return auditRefused(file, err)
				}
				good = append(good, outcome{file, size})
			}
			if entries {
				return nil
			}
			return show(cmd, map[string]any{"key": verifier.Name(), "verified": good}, func(w io.Writer) {
				for _, o := range good {
					fmt.Fprintf(w, "%s\tgood: %d entries, as signed by %s\n", o.Checkpoint, o.Entries, verifier.Name())
				}
			})
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "file with the log's verifier key, or the key")
	cmd.Flags().StringArrayVar(&checkpoints, "checkpoint", nil, "file with an earlier checkpoint; may be repeated")
	cmd.Flags().BoolVar(&entries, "entries", false, "print the entries as lines of JSON; they count once the command has exited with 0")
	return cmd
}

func auditRefused(checkpoint string, err error) error {
	e := signet.Refuse(signet.AuditChanged, "%s does not hold: %v.", checkpoint, err)
	if !errors.Is(err, audit.ErrChanged) {
		e = e.FixBy("Check that the checkpoint, the key and the folder belong together.")
	}
	return e
}
