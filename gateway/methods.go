package gateway

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/signet-iot/signet/wire/mqtt"
)

// methodTopic is where a method is called. $rid comes right after the slash, as
// some SDKs count characters.
func methodTopic(name, requestID string) string {
	// A plus is no wildcard in a path, and one in a topic.
	return methodCalls + strings.ReplaceAll(url.PathEscape(name), "+", "%2B") + "/?$rid=" + requestID
}

// methodResult takes the answer to a method call, on the topic
// $iothub/methods/res/{status}/?$rid={rid}; rest is what follows res/.
func (c *conn) methodResult(rest string, p *mqtt.Publish) error {
	status, query, _ := strings.Cut(rest, "/?")
	n, err := strconv.ParseInt(status, 10, 32)
	id, ok := queryValue(query, "$rid")
	if err != nil || !ok {
		return c.refuse(violation("", "a method's answer without a status or a $rid"))
	}
	c.session.AnswerMethod(id, int(n), p.Payload)
	c.acknowledge(p)
	return nil
}
