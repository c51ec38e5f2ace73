package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxCheckpoint bounds a checkpoint that is read: a head and some signatures.
const maxCheckpoint = 64 << 10

// OpenCheckpoint checks the signature of a checkpoint and gives what it is of.
func OpenCheckpoint(text []byte, verifier note.Verifier) (size int64, root tlog.Hash, err error) {
	if len(text) > maxCheckpoint {
		return 0, root, errors.New("the checkpoint is too large to be one")
	}
	n, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		return 0, root, fmt.Errorf("the checkpoint is not signed by %s: %w", verifier.Name(), err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return 0, root, fmt.Errorf("the checkpoint is not of the log %s", verifier.Name())
	}
	size, err = strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || lines[1] != strconv.FormatInt(size, 10) {
		return 0, root, fmt.Errorf("the checkpoint is of no size: %q", lines[1])
	}
	hash, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(hash) != tlog.HashSize {
		return 0, root, errors.New("the checkpoint has no root hash")
	}
	copy(root[:], hash)
	return size, root, nil
}

// TilePath is where a tile lies below the log's address or folder; of level -1,
// the bundle of entries (tlog-tiles).
func TilePath(level int, number int64, width int) string {
	dir := "entries"
	if level >= 0 {
		dir = strconv.Itoa(level)
	}
	n := fmt.Sprintf("%03d", number%1000)
	for number >= 1000 {
		number /= 1000
		n = fmt.Sprintf("x%03d/%s", number%1000, n)
	}
	if width < TileWidth {
		return fmt.Sprintf("tile/%s/%s.p/%d", dir, n, width)
	}
	return fmt.Sprintf("tile/%s/%s", dir, n)
}

// ParseTilePath reads what [TilePath] writes, and nothing else.
func ParseTilePath(path string) (level int, number int64, width int, ok bool) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || len(path) > 64 {
		return 0, 0, 0, false
	}
	dir, rest, _ := strings.Cut(rest, "/")
	level, width = -1, TileWidth
	if dir != "entries" {
		var err error
		if level, err = strconv.Atoi(dir); err != nil || level < 0 || level > 63 {
			return 0, 0, 0, false
		}
	}
	if n, w, partial := strings.Cut(rest, ".p/"); partial {
		var err error
		if width, err = strconv.Atoi(w); err != nil || width < 1 || width >= TileWidth {
			return 0, 0, 0, false
		}
		rest = n
	}
	for part := range strings.SplitSeq(rest, "/") {
		digits, err := strconv.ParseUint(strings.TrimPrefix(part, "x"), 10, 10)
		if err != nil || digits > 999 || number > 1<<40 {
			return 0, 0, 0, false
		}
		number = number*1000 + int64(digits)
	}
	return level, number, width, TilePath(level, number, width) == path
}

// Verify reads a log from its files (tile/entries/…) and checks that its first
// entries are exactly those that the checkpoint was signed of. It trusts nothing
// but the checkpoint: every entry is hashed anew. each, if not nil, is called for
// every entry, oldest first, before the outcome is known.
//
// It fails with [ErrChanged] when they are not.
func Verify(files fs.FS, checkpoint []byte, verifier note.Verifier, each func(Entry) error) (size int64, err error) {
	size, root, err := OpenCheckpoint(checkpoint, verifier)
	if err != nil {
		return 0, err
	}
	var t tree
	for t.size < size {
		number, width := t.size/TileWidth, int(min(size-t.size, TileWidth))
		bundle, err := readBundle(files, number, width)
		if err != nil {
			return size, err
		}
		records, err := splitBundle(bundle, number, width)
		if err != nil {
			return size, err
		}
		for n := range records {
			if each == nil {
				break
			}
			e, err := records[n].Entry()
			if err != nil {
				return size, fmt.Errorf("%w: entry %d cannot be read", ErrChanged, records[n].Index)
			}
			if err := each(e); err != nil {
				return size, err
			}
		}
		if t, _, err = t.with(records); err != nil {
			return size, err
		}
	}
	computed, err := t.root()
	if err == nil && computed != root {
		err = fmt.Errorf("%w: the root hash of its first %d entries is another", ErrChanged, size)
	}
	return size, err
}

// readBundle reads at least the first width entries of a bundle: a folder that
// was exported again and again has it in several widths.
func readBundle(files fs.FS, number int64, width int) ([]byte, error) {
	var first error
	for w := width; w <= TileWidth; w++ {
		bundle, err := fs.ReadFile(files, TilePath(-1, number, w))
		if err == nil {
			return bundle, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: entries are missing: %w", ErrChanged, first)
}

// splitBundle gives the first width entries of a bundle.
func splitBundle(bundle []byte, number int64, width int) ([]Record, error) {
	var records []Record
	for len(records) < width {
		if len(bundle) < 2 || len(bundle) < 2+int(bundle[0])<<8+int(bundle[1]) {
			return nil, fmt.Errorf("%w: bundle %d is cut short", ErrChanged, number)
		}
		n := int(bundle[0])<<8 + int(bundle[1])
		records = append(records, Record{Index: number*TileWidth + int64(len(records)), Text: bytes.Clone(bundle[2 : 2+n])})
		bundle = bundle[2+n:]
	}
	return records, nil
}
