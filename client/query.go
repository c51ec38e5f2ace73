package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// A QueryPage is a part of the answer to a query.
type QueryPage struct {
	Items []json.RawMessage // twins, or JSON objects of what was selected
	Twins bool              // they are whole twins: SELECT *
	Next  string            // where the next page begins; "" when this is the last
}

// Query asks for twins in the query language of IoT Hub. It gives up to limit, at
// most 1000, of the answer from a place that an earlier page has named, or from
// the beginning with "". A page can be empty and not be the last.
func (c *Client) Query(ctx context.Context, query, from string, limit int) (QueryPage, error) {
	header := http.Header{"X-Ms-Max-Item-Count": {strconv.Itoa(limit)}, "X-Ms-Continuation": {from}}
	var page QueryPage
	response, err := c.open(ctx, request{method: http.MethodPost, path: "/devices/query", query: version(), header: header,
		in: map[string]string{"query": query}})
	if err != nil {
		return page, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return page, c.unreachable(err)
	}
	if err := json.Unmarshal(body, &page.Items); err != nil {
		return page, fmt.Errorf("the answer to a query is not what a hub answers: %w", err)
	}
	page.Twins, page.Next = response.Header.Get("X-Ms-Item-Type") == "Twin", response.Header.Get("X-Ms-Continuation")
	return page, nil
}
