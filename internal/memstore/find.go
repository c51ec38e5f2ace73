package memstore

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/query"
	"github.com/signet-iot/signet/registry"
)

// found gives the records that a query finds, by key, as [query.Eval] has it. The
// databases are held to it.
func (s *Store) found(hub string, q *query.Query) (records []registry.Record) {
	for key, i := range s.identities {
		if key[0] != hub || (key[2] != "") != q.Modules {
			continue
		}
		r := registry.Record{Identity: i, Twin: s.twins[key], Activity: s.activity[key]}
		r.Twin.Hub, r.Twin.DeviceID, r.Twin.ModuleID, r.Twin.GenerationID = i.Hub, i.DeviceID, i.ModuleID, i.GenerationID
		r.Activity.Hub, r.Activity.DeviceID, r.Activity.ModuleID, r.Activity.GenerationID = i.Hub, i.DeviceID, i.ModuleID, i.GenerationID
		if !q.Modules {
			for _, c := range s.commands {
				if c.Hub == hub && c.DeviceID == i.DeviceID && c.ModuleID == "" {
					r.Waiting++
				}
			}
		}
		if q.Where == nil || query.Eval(q.Where, func(p *query.Path) any { return valueOf(&r, p) }) == any(true) {
			records = append(records, r)
		}
	}
	slices.SortFunc(records, func(a, b registry.Record) int {
		return cmp.Or(cmp.Compare(a.Identity.DeviceID, b.Identity.DeviceID), cmp.Compare(a.Identity.ModuleID, b.Identity.ModuleID))
	})
	return records
}

// valueOf gives the value of a path in a record.
func valueOf(r *registry.Record, p *query.Path) any {
	i, t := &r.Identity, r.Twin
	if t.Version == 0 {
		t = signet.EmptyTwin(i.Hub, i.DeviceID, i.ModuleID, i.GenerationID)
	}
	orNull := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	switch p.Field.Name {
	case "deviceId":
		return i.DeviceID
	case "moduleId":
		if i.ModuleID != "" {
			return i.ModuleID
		}
	case "etag":
		return t.ETag
	case "deviceEtag":
		return i.ETag
	case "status":
		return string(i.Status)
	case "statusReason":
		return orNull(i.StatusReason)
	case "statusUpdateTime":
		return i.StatusUpdatedTime
	case "connectionState":
		return map[bool]string{true: "Connected", false: "Disconnected"}[r.Activity.Connected]
	case "connectionStateUpdatedTime":
		return r.Activity.ConnectionUpdated
	case "lastActivityTime":
		return r.Activity.LastActive
	case "cloudToDeviceMessageCount":
		return float64(r.Waiting)
	case "authenticationType":
		return string(i.Auth.Type)
	case "x509Thumbprint.primaryThumbprint":
		return orNull(i.Auth.PrimaryThumbprint)
	case "x509Thumbprint.secondaryThumbprint":
		return orNull(i.Auth.SecondaryThumbprint)
	case "modelId":
		return ""
	case "version":
		return float64(t.Version)
	case "capabilities.iotEdge":
		return i.EdgeDevice
	case "tags":
		return below(t.Tags, p.Keys)
	case "properties.desired":
		return property(&t.Desired, p.Keys)
	case "properties.reported":
		return property(&t.Reported, p.Keys)
	case "properties", "capabilities", "x509Thumbprint":
		return map[string]any{}
	}
	return query.Undefined
}

func property(p *signet.Properties, keys []string) any {
	if len(keys) > 0 && keys[0] == "$metadata" {
		return below(p.Metadata, keys[1:])
	}
	if len(keys) == 1 && keys[0] == "$version" {
		return float64(p.Version)
	}
	return below(p.Values, keys)
}

func below(document []byte, keys []string) any {
	var v any
	if err := json.Unmarshal(document, &v); err != nil {
		panic(err)
	}
	for _, key := range keys {
		o, _ := v.(map[string]any)
		var ok bool
		if v, ok = o[key]; !ok {
			return query.Undefined
		}
	}
	return v
}

// Find reads a page of what a query finds.
func (s *Store) Find(_ context.Context, hub string, q *query.Query, after registry.Key, limit int) (page registry.Page, err error) {
	err = s.do("Find", func() error {
		for _, r := range s.found(hub, q) {
			key := registry.Key{DeviceID: r.Identity.DeviceID, ModuleID: r.Identity.ModuleID}
			if cmp.Or(cmp.Compare(key.DeviceID, after.DeviceID), cmp.Compare(key.ModuleID, after.ModuleID)) <= 0 {
				continue
			}
			if len(page.Records) == limit {
				page.More = true
				return nil
			}
			page.Records, page.Next = append(page.Records, r), key
		}
		page.Next = registry.Key{}
		return nil
	})
	return page, err
}

// Aggregate reads the groups of a query.
func (s *Store) Aggregate(_ context.Context, hub string, q *query.Query) (groups []registry.Group, err error) {
	err = s.do("Aggregate", func() error {
		of := map[any][]registry.Record{}
		if q.GroupBy == nil {
			of[query.Undefined] = nil
		}
		for _, r := range s.found(hub, q) {
			value := query.Undefined
			if q.GroupBy != nil {
				switch v := valueOf(&r, q.GroupBy).(type) {
				case map[string]any, []any:
				case float64:
					value = v + 0 // not -0
				default:
					value = v
				}
			}
			of[value] = append(of[value], r)
		}
		for _, value := range slices.SortedFunc(maps.Keys(of), compareValues) {
			g := registry.Group{Value: value}
			for _, c := range q.Columns {
				if c.Aggregate != "" {
					g.Values = append(g.Values, aggregate(c, of[value]))
				}
			}
			groups = append(groups, g)
		}
		if len(groups) > registry.MaxGroups {
			return signet.Refuse(signet.LimitQuery, "The query has more than %d groups.", registry.MaxGroups)
		}
		return nil
	})
	return groups, err
}

// compareValues orders by type, then by value.
func compareValues(a, b any) int {
	rank := func(v any) (int, float64, string) {
		switch v := v.(type) {
		case nil:
			return 1, 0, ""
		case bool:
			return 2, map[bool]float64{true: 1}[v], ""
		case float64:
			return 3, v, ""
		case string:
			return 4, 0, v
		}
		return 0, 0, ""
	}
	aKind, aNumber, aText := rank(a)
	bKind, bNumber, bText := rank(b)
	return cmp.Or(cmp.Compare(aKind, bKind), cmp.Compare(aNumber, bNumber), strings.Compare(aText, bText))
}

func aggregate(c query.Column, of []registry.Record) any {
	if c.Aggregate == query.Count {
		return float64(len(of))
	}
	var numbers []float64
	total := 0.0
	for _, r := range of {
		if n, ok := valueOf(&r, c.Path).(float64); ok && math.Abs(n) <= 1e150 {
			numbers, total = append(numbers, n), total+n
		}
	}
	switch {
	case len(numbers) == 0:
		return query.Undefined
	case c.Aggregate == query.Sum:
		return total
	case c.Aggregate == query.Avg:
		return total / float64(len(numbers))
	case c.Aggregate == query.Min:
		return slices.Min(numbers)
	}
	return slices.Max(numbers)
}

// Activity lists what is known of identities.
func (s *Store) Activity(_ context.Context, hub, first, last string) ([]signet.Activity, error) {
	return read(s, "Activity", func() ([]signet.Activity, error) {
		return s.activity.those(func(k rowKey, _ signet.Activity) bool { return k[0] == hub && k[1] >= first && k[1] <= last },
			func(a, b signet.Activity) int {
				return cmp.Or(cmp.Compare(a.DeviceID, b.DeviceID), cmp.Compare(a.ModuleID, b.ModuleID))
			}), nil
	})
}

// SaveActivity writes what is known of identities.
func (s *Store) SaveActivity(_ context.Context, as []signet.Activity) error {
	return s.do("SaveActivity", func() error {
		for _, a := range as {
			key := rowKey{a.Hub, a.DeviceID, a.ModuleID}
			if i, ok := s.identities[key]; !ok || i.GenerationID != a.GenerationID {
				continue
			}
			was := s.activity[key]
			if was.ConnectionUpdated.After(a.ConnectionUpdated) {
				a.ConnectionUpdated = was.ConnectionUpdated
			}
			if was.LastActive.After(a.LastActive) {
				a.LastActive = was.LastActive
			}
			s.activity[key] = a
		}
		return nil
	})
}

// NobodyConnected says so of all.
func (s *Store) NobodyConnected(_ context.Context, since time.Time) error {
	return s.do("NobodyConnected", func() error {
		for key, a := range s.activity {
			if a.Connected {
				a.Connected, a.ConnectionUpdated = false, since
				s.activity[key] = a
			}
		}
		return nil
	})
}
