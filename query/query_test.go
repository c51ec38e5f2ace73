package query_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/query"
)

// device is the twin that conditions are tried on.
const device = `{"deviceId":"d1","status":"enabled","statusReason":null,"connectionState":"Connected","version":7,
	"cloudToDeviceMessageCount":2,"authenticationType":"certificateAuthority","capabilities":{"iotEdge":false},
	"tags":{"site":"Zürich","floor":4,"a-b":1,"from":"x","deep":{"list":[1,null],"none":{}},"yes":true,"emoji":"\ud83d\ude00"},
	"properties":{"desired":{"rate":0.5,"$version":3},"reported":{"fw":"1.10","$metadata":{"$lastUpdated":"2026-11-01"}}}}`

var lastSeen = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// valueOf looks into the twin above.
func valueOf(p *query.Path) any {
	if p.Field.Kind == query.Time {
		return lastSeen
	}
	var v any
	if err := json.Unmarshal([]byte(device), &v); err != nil {
		panic(err)
	}
	for _, name := range p.Names() {
		o, _ := v.(map[string]any)
		var ok bool
		if v, ok = o[name]; !ok {
			return query.Undefined
		}
	}
	return v
}

// TestConditions: what is found by each condition, by its reverse, or by neither.
func TestConditions(t *testing.T) {
	for condition, want := range map[string]any{
		`deviceId = 'd1'`:                                           true,
		`DEVICEID='D1'`:                                             false,
		`devices.deviceId = "d1"`:                                   true,
		`devices.modules.deviceId <> 'd1'`:                          false,
		`startswith(id, 'd')`:                                       true,
		`ENDS_WITH(deviceId, '')`:                                   true,
		`CONTAINS(tags.site, 'ü')`:                                  true,
		`STARTSWITH(tags.floor, '4')`:                               query.Undefined,
		`tags.site = 'Z\u00fcrich'`:                                 true,
		`tags.emoji = '\uD83D\uDE00'`:                               true,
		`tags.floor = 4 AND tags.floor < 4.5 and tags.floor >= 0x4`: true,
		`tags.floor = '4'`:                                          query.Undefined,
		`tags.floor != '4'`:                                         query.Undefined,
		`NOT tags.floor = '4'`:                                      query.Undefined,
		`tags.none = 1 OR tags.floor = 4`:                           true,
		`tags.none = 1 AND tags.floor = 5`:                          false,
		`tags.none = 1 AND tags.floor = 4`:                          query.Undefined,
		`tags.[[a-b]] = 1`:                                          true,
		`tags.from = 'x'`:                                           true,
		`tags.a - 1 = 0`:                                            query.Undefined,
		`tags.deep.list = tags.deep.list`:                           query.Undefined,
		`tags.deep = null`:                                          query.Undefined,
		`statusReason = null`:                                       true,
		`statusReason != null`:                                      false,
		`status != null`:                                            query.Undefined,
		`null <= null`:                                              query.Undefined,
		`tags.yes`:                                                  true,
		`NOT (tags.yes)`:                                            false,
		`(tags.floor = 4) = true`:                                   true,
		`true > false`:                                              true,
		`capabilities.iotEdge = false`:                              true,
		`tags.floor IN [1, 4]`:                                      true,
		`tags.floor NIN [1, 'x']`:                                   true,
		`tags.floor NOT IN [4]`:                                     false,
		`tags.floor IN ['4', null]`:                                 query.Undefined,
		`statusReason IN ['4', null]`:                               true,
		`tags.floor IN []`:                                          query.Undefined,
		`tags.floor IN [-1,4.0]`:                                    true,
		`is_defined(tags.deep.none) AND NOT IS_DEFINED(tags.x.y.z)`: true,
		`IS_OBJECT(tags.deep) AND IS_ARRAY(tags.deep.list)`:         true,
		`IS_NULL(statusReason) AND IS_BOOL(tags.yes)`:               true,
		`IS_NUMBER(tags.floor) AND IS_STRING(lastActivityTime)`:     true,
		`IS_PRIMITIVE(tags.deep)`:                                   false,
		`IS_DEFINED(deviceScope)`:                                   false,
		`tags.floor + 1 = 5 AND tags.floor - 1 * 2 = 2`:             true,
		`(tags.floor + 1) % 3 = 2`:                                  true,
		`-7 % 3 = -1`:                                               true,
		`tags.floor / 8 = 0.5`:                                      true,
		`tags.floor / 0 = 1`:                                        query.Undefined,
		`1e200 * 1 = 1e200`:                                         query.Undefined,
		`-tags.floor = -4`:                                          true,
		`properties.desired.$version = 3`:                           true,
		`properties.desired.rate * 2 = 1`:                           true,
		`properties.reported.fw > '1.1' AND version = 7`:            true,
		`lastActivityTime > '2026-11-25'`:                           true,
		`'2026-11-25T13:00:00+01:00' = LastActivityTime`:            true,
		`lastActivityTime < '2026-11-25T12:00:00'`:                  false,
		`lastActivityTime = statusUpdateTime`:                       true,
		`lastActivityTime IN ['2026-11-25T12:00:00.000Z', null]`:    true,
		`lastActivityTime = null`:                                   query.Undefined,
		`'a\'b' = "a'b" AND '\\' = "\\"`:                            true,
		`undefined = undefined`:                                     query.Undefined,
	} {
		q, err := query.Parse("SELECT * FROM devices WHERE " + condition)
		if err != nil {
			t.Errorf("%s: %v", condition, err)
			continue
		}
		if got := query.Eval(q.Where, valueOf); got != want {
			t.Errorf("%s: %v, want %v", condition, got, want)
		}
	}
}

// TestSelect: what is selected, from where, and how it is called.
func TestSelect(t *testing.T) {
	for text, want := range map[string]string{
		`select * from devices`:                                                          `{}`,
		"SELECT TOP 5 *\n\tFROM devices.modules":                                         `modules top 5 {}`,
		`SELECT deviceId, tags.site AS s, [[tags]].[[a b]] FROM devices`:                 `{deviceId=deviceId s=tags.site a b=tags.a b}`,
		`SELECT LastActivityTime FROM devices`:                                           `{LastActivityTime=lastActivityTime}`,
		`SELECT COUNT(), count( * ) AS n, AVG(tags.x) FROM devices`:                      `{$1=COUNT n=COUNT $3=AVG tags.x}`,
		`SELECT status AS s, COUNT() AS n FROM devices GROUP BY STATUS`:                  `{s=status n=COUNT} by status`,
		`SELECT MIN(version) AS a, MAX(version) AS b, SUM(tags.n) AS [[c]] FROM devices`: `{a=MIN version b=MAX version c=SUM tags.n}`,
		`SELECT properties.reported.$metadata.$lastUpdated FROM devices`:                 `{$lastUpdated=properties.reported.$metadata.$lastUpdated}`,
		`SELECT tags.count, tags.top FROM devices`:                                       `{count=tags.count top=tags.top}`,
	} {
		q, err := query.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var b strings.Builder
		if q.Modules {
			b.WriteString("modules ")
		}
		if q.Top > 0 {
			fmt.Fprintf(&b, "top %d ", q.Top)
		}
		var columns []string
		for _, c := range q.Columns {
			value := strings.TrimSpace(string(c.Aggregate) + " " + path(c.Path))
			columns = append(columns, c.Name+"="+value)
		}
		b.WriteString("{" + strings.Join(columns, " ") + "}")
		if q.GroupBy != nil {
			b.WriteString(" by " + path(q.GroupBy))
		}
		if b.String() != want {
			t.Errorf("%s: %s, want %s", text, b.String(), want)
		}
	}
}

func path(p *query.Path) string {
	if p == nil {
		return ""
	}
	return strings.Join(p.Names(), ".")
}

// TestMistakes: each is told at its place.
func TestMistakes(t *testing.T) {
	nested := strings.Repeat("(", 33) + "1=1" + strings.Repeat(")", 33)
	for text, want := range map[string]string{
		``:                                                           `At character 1 of the query, the end: a query begins with SELECT.`,
		`SELEKT * FROM devices`:                                      `At character 1 of the query, "SELEKT * FROM device": a query begins with SELECT.`,
		`SELECT * FRM devices`:                                       `At character 10 of the query, "FRM devices": FROM is wanted, or a comma and another name.`,
		`SELECT FROM devices`:                                        `At character 8 of the query, "FROM devices": a name or a value is wanted.`,
		`SELECT * FROM device`:                                       `At character 15 of the query, "device": twins are those of devices or of devices.modules.`,
		`SELECT * FROM devices.jobs`:                                 `At character 23 of the query, "jobs": jobs are not served here.`,
		`SELECT * FROM devices d`:                                    `At character 23 of the query, "d": the end of the query is wanted, or an operator.`,
		`SELECT * FROM devices;DROP TABLE x`:                         `At character 22 of the query, ";DROP TABLE x": this sign means nothing here.`,
		`SELECT * FROM devices WHERE`:                                `At character 28 of the query, the end: a name or a value is wanted.`,
		`SELECT * FROM devices WHERE 'ü' = "x`:                       `At character 35 of the query, "\"x": this text has no end.`,
		`SELECT * FROM devices WHERE tags.a = 'b\n'`:                 `At character 40 of the query, "\\n'": in a text, \ is followed by ', ", \ or by u and four hex digits of a character.`,
		`SELECT * FROM devices WHERE tags.a = '\ud800'`:              `At character 39 of the query, "\\ud800'": in a text, \ is followed by ', ", \ or by u and four hex digits of a character.`,
		`SELECT * FROM devices WHERE deviceld = 'a'`:                 `At character 29 of the query, "deviceld = 'a'": a twin has no member of that name; what is free to choose is below tags, properties.desired and properties.reported.`,
		`SELECT * FROM devices WHERE status.x = 'a'`:                 `At character 29 of the query, "status.x = 'a'": status has no such part.`,
		`SELECT * FROM devices WHERE tags. = 'a'`:                    `At character 35 of the query, "= 'a'": a name is wanted after the dot; one that is no plain word is written [[so]].`,
		`SELECT * FROM devices WHERE tags.a == 'a'`:                  `At character 37 of the query, "= 'a'": a name or a value is wanted.`,
		`SELECT * FROM devices WHERE tags.a = 1e999`:                 `At character 38 of the query, "1e999": this is not a number that can be compared with.`,
		`SELECT * FROM devices WHERE LOWER(status) = 'a'`:            `At character 29 of the query, "LOWER(status) = 'a'": there is no function of that name; there are IS_DEFINED, IS_NULL, IS_BOOL, IS_NUMBER, IS_STRING, IS_OBJECT, IS_ARRAY, IS_PRIMITIVE, STARTSWITH, ENDSWITH, CONTAINS.`,
		`SELECT * FROM devices WHERE STARTSWITH(status)`:             `At character 46 of the query, ")": STARTSWITH takes two things: a comma is wanted.`,
		`SELECT * FROM devices WHERE (status = 'a'`:                  `At character 42 of the query, the end: a closing bracket is wanted.`,
		`SELECT * FROM devices WHERE status IN 'a'`:                  `At character 39 of the query, "'a'": a list is wanted, in square brackets.`,
		`SELECT * FROM devices WHERE status IN [tags.a]`:             `At character 40 of the query, "tags.a]": a list holds texts, numbers, true, false and null.`,
		`SELECT * FROM devices WHERE tags.a + 1`:                     `At character 29 of the query, "tags.a + 1": a condition is wanted, and this is a number.`,
		`SELECT * FROM devices WHERE 'a' AND true`:                   `At character 29 of the query, "'a' AND true": a condition is wanted, and this is a value.`,
		`SELECT * FROM devices WHERE lastActivityTime > 'yesterday'`: `At character 48 of the query, "'yesterday'": a time is written as '2026-01-31T12:00:00Z' or '2026-01-31'.`,
		`SELECT * FROM devices WHERE lastActivityTime > tags.a`:      `At character 48 of the query, "tags.a": a time is compared with a time, or with a text such as '2026-01-31T12:00:00Z'.`,
		`SELECT * FROM devices WHERE lastActivityTime + 1 = 2`:       `At character 29 of the query, "lastActivityTime + 1": times are not reckoned with.`,
		`SELECT * FROM devices WHERE 1+1+1+1+1+1=6`:                  `At character 38 of the query, "+1=6": more than 4 signs of arithmetic.`,
		`SELECT * FROM devices WHERE ` + nested:                      `At character 61 of the query, "(1=1))))))))))))))))": the condition nests more than 32 deep.`,
		`SELECT * FROM devices ORDER BY deviceId`:                    `At character 23 of the query, "ORDER BY deviceId": ORDER BY is not part of the language; twins come in order of their IDs.`,
		`SELECT TOP 0 * FROM devices`:                                `At character 12 of the query, "0 * FROM devices": TOP is followed by a whole number from 1 to 1000000.`,
		`SELECT status, COUNT() FROM devices`:                        `At character 8 of the query, "status, COUNT() FROM": beside an aggregate, only what is grouped by can be selected.`,
		`SELECT status FROM devices GROUP BY status`:                 `At character 43 of the query, the end: GROUP BY goes with an aggregate in SELECT, such as COUNT().`,
		`SELECT AVG(status) FROM devices`:                            `At character 12 of the query, "status) FROM devices": AVG is of numbers.`,
		`SELECT tags.a.x, tags.b.x FROM devices`:                     `At character 18 of the query, "tags.b.x FROM device": two members of the answer would be called "x"; name one with AS.`,
		"SELECT * FROM devices WHERE tags.a = '\xff'":                `The query is not text in UTF-8.`,
		`SELECT * FROM devices WHERE ` + strings.Repeat("x", 64<<10): `The query has 65564 bytes; 65536 are the most.`,
	} {
		_, err := query.Parse(text)
		if err == nil {
			t.Errorf("%s was taken", text)
			continue
		}
		if got := signet.AsError(err).Message; got != want || signet.CodeOf(err) != signet.QueryMalformed {
			t.Errorf("%.80s: %s\n want %s", text, got, want)
		}
	}
	list := "SELECT * FROM devices WHERE deviceId IN [" + strings.Repeat("'d',", 999) + "'d']"
	if _, err := query.Parse(list); err != nil {
		t.Error(err)
	}
	for _, text := range []string{strings.Replace(list, "[", "['d',", 1), "SELECT * FROM devices WHERE 1=1" + strings.Repeat(" OR 1=1", 90)} {
		if _, err := query.Parse(text); err == nil {
			t.Errorf("%.60s was taken", text)
		}
	}
}

// FuzzParse: whatever is read can be told the meaning of, the same each time.
func FuzzParse(f *testing.F) {
	f.Add(`SELECT TOP 3 deviceId, tags.[[a b]] AS x FROM devices.modules WHERE NOT (tags.a IN [1,'\u0041',null] OR -tags.b % 2 <> 0x1F)`)
	f.Add(`SELECT status, COUNT() AS n FROM devices WHERE STARTSWITH(id, "x") AND lastActivityTime < '2026-01-01' GROUP BY status`)
	f.Fuzz(func(t *testing.T, text string) {
		q, err := query.Parse(text)
		if err != nil {
			if signet.CodeOf(err) != signet.QueryMalformed {
				t.Fatal(err)
			}
			return
		}
		again, err := query.Parse(text)
		if err != nil || !reflect.DeepEqual(q, again) {
			t.Fatal("read otherwise the second time")
		}
		if q.Where != nil {
			first, second := query.Eval(q.Where, valueOf), query.Eval(q.Where, valueOf)
			if !reflect.DeepEqual(first, second) {
				t.Fatal("undecided")
			}
		}
	})
}
