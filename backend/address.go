package backend

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/signet-iot/signet"
)

// A kind of node that a link can be attached to.
type kind int

const (
	management kind = iota + 1 // of the Event Hubs-compatible endpoint
	redirect                   // to that endpoint
	partition                  // one of a consumer group
	events                     // the endpoint itself, to which nobody can send
	devices                    // messages to them
	feedback                   // of those
	files                      // notifications of uploads
)

// A node is what an address names.
type node struct {
	kind  kind
	group string // of a partition: the consumer group, in lower case
	path  string // the resource that a token has to cover, in lower case, without slashes at its ends
}

// eventsPath is the endpoint as a hub has it; by the hub's own name it is the event
// hub of Event Hubs.
const eventsPath = "messages/events"

// endpointAddress is how the endpoint of a hub is told: with the port, and the name
// in one segment, as Microsoft's samples and its command line take it apart.
func endpointAddress(host string, port int, hub string) string {
	return "amqps://" + host + ":" + strconv.Itoa(port) + "/" + hub
}

// maxAddress bounds an address, in bytes: scheme, host and the longest path.
const maxAddress = 512

// parseAddress finds the node of an address: a path, or an URL with any host, since
// that is what the connection was opened for. Literals are compared without case.
func parseAddress(address string, tenant signet.Hub) (node, error) {
	nothing := func() (node, error) {
		return node{}, signet.Refuse(signet.RequestNotFound, "There is nothing at %q for a back end.", signet.Clip(address)).
			At("address", tenant.Name+"/ConsumerGroups/{group}/Partitions/0, $management, /messages/devicebound or /messages/serviceBound/feedback", address).
			FixBy("The event hub is called %q; docs/compatibility.md lists what is served.", tenant.Name)
	}
	if len(address) > maxAddress {
		return nothing()
	}
	address, err := url.PathUnescape(address)
	path, ok := resourcePath(address, tenant)
	if err != nil || !ok {
		return nothing()
	}
	switch path {
	case "$management":
		return node{kind: management, path: eventsPath + "/$management"}, nil
	case eventsPath:
		return node{kind: events, path: path}, nil
	case eventsPath + "/$management":
		if eventHub(address, tenant) {
			return node{kind: management, path: path}, nil
		}
		return node{kind: redirect, path: path}, nil
	case "messages/devicebound":
		return node{kind: devices, path: path}, nil
	case "messages/servicebound/feedback":
		return node{kind: feedback, path: path}, nil
	case "messages/servicebound/filenotifications":
		return node{kind: files, path: path}, nil
	}
	rest, ok := strings.CutPrefix(path, eventsPath+"/")
	if !ok {
		return nothing()
	}
	parts := strings.Split(rest, "/")
	switch {
	case len(parts) == 4 && parts[0] == "consumergroups" && parts[2] == "partitions":
		if !validGroup(parts[1]) {
			return node{}, signet.Refuse(signet.RequestNotFound, "%q cannot name a consumer group.", signet.Clip(parts[1])).
				At("consumer group", "$Default, or 1 to 50 letters, digits and . _ -", parts[1])
		}
		if parts[3] != partitionID {
			return node{}, signet.Refuse(signet.ReaderPartition, "There is no partition %q.", signet.Clip(parts[3])).
				At("partition", partitionID, parts[3])
		}
		return node{kind: partition, group: parts[1], path: path}, nil
	case len(parts) == 2 && parts[0] == "partitions", len(parts) == 2 && parts[0] == "publishers":
		return node{kind: events, path: path}, nil
	}
	return nothing()
}

// resourcePath gives the path of an address or of a token's resource, which has been
// decoded: in lower case, and with the name of the event hub written as the hub's
// endpoint.
func resourcePath(resource string, tenant signet.Hub) (path string, ok bool) {
	path = resource
	if _, rest, isURL := strings.Cut(resource, "://"); isURL {
		_, path, _ = strings.Cut(rest, "/")
	}
	path = strings.ToLower(strings.Trim(path, "/"))
	if strings.Contains(path, "//") {
		return "", false
	}
	if first, rest, more := strings.Cut(path, "/"); first == strings.ToLower(tenant.Name) {
		if path = eventsPath; more {
			path += "/" + rest
		}
	}
	return path, true
}

// eventHub says whether an address names the event hub by its name.
func eventHub(address string, tenant signet.Hub) bool {
	if _, rest, isURL := strings.Cut(address, "://"); isURL {
		_, address, _ = strings.Cut(rest, "/")
	}
	first, _, _ := strings.Cut(strings.Trim(address, "/"), "/")
	return strings.EqualFold(first, tenant.Name)
}

// validGroup judges the name of a consumer group. Any is there: nothing is kept of
// one but who reads now.
func validGroup(name string) bool {
	return name == "$default" || len(name) > 0 && len(name) <= 50 &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}
