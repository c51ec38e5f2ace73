package memstore

import (
	"bytes"
	"context"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/audit"
)

var _ audit.Store = (*Store)(nil)

// AuditTiles reads the last tile of each level.
func (s *Store) AuditTiles(context.Context) (edge []audit.Tile, err error) {
	err = s.do("AuditTiles", func() error {
		for _, level := range s.tiles {
			edge = append(edge, level[len(level)-1])
		}
		return nil
	})
	return edge, err
}

// AuditTile reads one tile.
func (s *Store) AuditTile(_ context.Context, level int, number int64) (t audit.Tile, err error) {
	err = s.do("AuditTile", func() error {
		if level >= len(s.tiles) || number >= int64(len(s.tiles[level])) {
			return signet.ErrNotFound
		}
		t = s.tiles[level][number]
		return nil
	})
	return t, err
}

// AppendAudit adds entries and tiles.
func (s *Store) AppendAudit(_ context.Context, first int64, entries []audit.Record, tiles []audit.Tile) error {
	return s.do("AppendAudit", func() error {
		if first != int64(len(s.acts)) {
			return signet.ErrExists
		}
		for n, e := range entries {
			s.acts = append(s.acts, audit.Record{Index: first + int64(n), Hub: e.Hub, Text: bytes.Clone(e.Text)})
		}
		for _, t := range tiles {
			for len(s.tiles) <= t.Level {
				s.tiles = append(s.tiles, nil)
			}
			for int64(len(s.tiles[t.Level])) <= t.Number {
				s.tiles[t.Level] = append(s.tiles[t.Level], audit.Tile{})
			}
			s.tiles[t.Level][t.Number] = t
		}
		return nil
	})
}

// AuditRecords lists entries from an index on.
func (s *Store) AuditRecords(_ context.Context, from int64, limit int) (rs []audit.Record, err error) {
	err = s.do("AuditRecords", func() error {
		n := int64(len(s.acts))
		rs = append(rs, s.acts[min(from, n):min(from+int64(limit), n)]...)
		return nil
	})
	return rs, err
}

// HubAuditRecords lists entries before an index, the latest first.
func (s *Store) HubAuditRecords(_ context.Context, hub string, all bool, before int64, limit int) (rs []audit.Record, err error) {
	err = s.do("HubAuditRecords", func() error {
		for n := min(before, int64(len(s.acts))) - 1; n >= 0 && len(rs) < limit; n-- {
			if all || s.acts[n].Hub == hub {
				rs = append(rs, s.acts[n])
			}
		}
		return nil
	})
	return rs, err
}
