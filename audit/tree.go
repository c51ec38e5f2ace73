package audit

import (
	"context"
	"errors"
	"fmt"

	"github.com/signet-iot/signet"
	"golang.org/x/mod/sumdb/tlog"
)

// TileWidth is how many hashes a whole tile has, and how many entries a whole
// bundle (tlog-tiles).
const TileWidth = 1 << tileHeight

const tileHeight = 8

// A Tile is up to [TileWidth] hashes of one level of the tree, one after the
// other: those of level 0 are of entries, those of level 1 of whole tiles of
// level 0, and so on.
type Tile struct {
	Level  int
	Number int64 // along its level, from 0
	Hashes []byte
}

func (t *Tile) width() int { return len(t.Hashes) / tlog.HashSize }

// tree is the tree by its right edge: all that is needed to grow. It never
// changes; with gives another.
type tree struct {
	size int64
	edge []Tile // by level: the last tile of each
}

func readTree(ctx context.Context, store Store) (tree, error) {
	edge, err := store.AuditTiles(ctx)
	if err != nil {
		return tree{}, err
	}
	t := tree{edge: edge}
	for level, tile := range edge {
		if tile.Level != level || len(tile.Hashes)%tlog.HashSize != 0 || tile.width() > TileWidth {
			return tree{}, fmt.Errorf("tile %d of level %d is damaged", tile.Number, tile.Level)
		}
	}
	if len(edge) > 0 {
		t.size = edge[0].Number*TileWidth + int64(edge[0].width())
	}
	return t, nil
}

// hashes reads hashes of the tree's edge, and those in fresh, by their stored
// index; anything else through read.
type hashes struct {
	tree  tree
	fresh map[int64]tlog.Hash
	read  func(level int, number int64) (Tile, error)
}

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for n, index := range indexes {
		hash, err := h.at(index)
		if err != nil {
			return nil, err
		}
		found[n] = hash
	}
	return found, nil
}

func (h hashes) at(index int64) (tlog.Hash, error) {
	if hash, ok := h.fresh[index]; ok {
		return hash, nil
	}
	place := tlog.TileForIndex(tileHeight, index)
	var tile Tile
	if place.L < len(h.tree.edge) && h.tree.edge[place.L].Number == place.N {
		tile = h.tree.edge[place.L]
	} else {
		if h.read == nil {
			return tlog.Hash{}, errors.New("a hash beside the tree's edge is wanted")
		}
		var err error
		if tile, err = h.read(place.L, place.N); err != nil {
			return tlog.Hash{}, fmt.Errorf("tile %d of level %d: %w", place.N, place.L, err)
		}
	}
	place.W = tile.width()
	return tlog.HashFromTile(place, tile.Hashes, index)
}

// stored reads any hash of the tree.
func (t tree) stored(ctx context.Context, store Store) hashes {
	return hashes{tree: t, read: func(level int, number int64) (Tile, error) { return store.AuditTile(ctx, level, number) }}
}

func (t tree) root() (tlog.Hash, error) {
	if t.size == 0 {
		return tlog.TreeHash(0, nil) // RFC 6962 §2.1: the hash of nothing
	}
	return tlog.TreeHash(t.size, hashes{tree: t})
}

// with gives the tree with entries added, and the tiles that are new or wider.
func (t tree) with(entries []Record) (tree, []Tile, error) {
	h := hashes{tree: t, fresh: map[int64]tlog.Hash{}}
	grown := tree{size: t.size}
	for _, e := range entries {
		more, err := tlog.StoredHashesForRecordHash(grown.size, tlog.RecordHash(e.Text), h)
		if err != nil {
			return tree{}, nil, err
		}
		first := tlog.StoredHashIndex(0, grown.size)
		for n, hash := range more {
			h.fresh[first+int64(n)] = hash
		}
		grown.size++
	}
	var tiles []Tile
	grown.edge = append(grown.edge, t.edge...)
	for _, place := range tlog.NewTiles(tileHeight, t.size, grown.size) {
		data, err := tlog.ReadTileData(place, h)
		if err != nil {
			return tree{}, nil, err
		}
		tile := Tile{place.L, place.N, data}
		tiles = append(tiles, tile)
		for len(grown.edge) <= place.L {
			grown.edge = append(grown.edge, Tile{Level: len(grown.edge)})
		}
		if tile.Number >= grown.edge[place.L].Number {
			grown.edge[place.L] = tile
		}
	}
	return grown, tiles, nil
}

// Tile gives the first width hashes of a tile, for a reader of the log. It fails
// with [signet.ErrNotFound] when the log has not grown so far.
func (l *Log) Tile(ctx context.Context, level int, number int64, width int) ([]byte, error) {
	if level < 0 || number < 0 || width < 1 || width > TileWidth {
		return nil, signet.ErrNotFound
	}
	tile, err := l.store.AuditTile(ctx, level, number)
	if err != nil {
		return nil, err
	}
	if tile.width() < width {
		return nil, signet.ErrNotFound
	}
	return tile.Hashes[:width*tlog.HashSize], nil
}

// Bundle gives the first width entries of a bundle of [TileWidth], each after its
// length in two octets (tlog-tiles). It fails as Tile does.
func (l *Log) Bundle(ctx context.Context, number int64, width int) ([]byte, error) {
	if number < 0 || number > 1<<50 || width < 1 || width > TileWidth {
		return nil, signet.ErrNotFound
	}
	records, err := l.store.AuditRecords(ctx, number*TileWidth, width)
	if err != nil {
		return nil, err
	}
	if len(records) < width {
		return nil, signet.ErrNotFound
	}
	var bundle []byte
	for _, r := range records {
		bundle = append(bundle, byte(len(r.Text)>>8), byte(len(r.Text)))
		bundle = append(bundle, r.Text...)
	}
	return bundle, nil
}
