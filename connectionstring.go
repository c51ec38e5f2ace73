package signet

import "strings"

// A ConnectionString holds what a client needs to reach a hub, in the text form
// that every Azure SDK takes:
//
//	HostName={h};SharedAccessKeyName={policy};SharedAccessKey={base64}
//	HostName={h};DeviceId={d};SharedAccessKey={base64}
//	HostName={h};DeviceId={d};x509=true
type ConnectionString struct {
	HostName              string
	DeviceID, ModuleID    string
	SharedAccessKeyName   string
	SharedAccessKey       string
	SharedAccessSignature string
	X509                  bool
}

// ParseConnectionString reads a connection string; names of fields are compared
// without case and unknown ones are passed over. It refuses with
// [RequestMalformed], and never repeats what it read: the text holds a key.
func ParseConnectionString(text string) (ConnectionString, error) {
	var c ConnectionString
	for part := range strings.SplitSeq(strings.TrimSpace(text), ";") {
		if part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=") // the first =: keys end in one
		if !ok {
			return c, Refuse(RequestMalformed, "The connection string has a field without a value.").
				FixBy("Use HostName=…;SharedAccessKeyName=…;SharedAccessKey=….")
		}
		switch strings.ToLower(name) {
		case "hostname":
			c.HostName = value
		case "deviceid":
			c.DeviceID = value
		case "moduleid":
			c.ModuleID = value
		case "sharedaccesskeyname":
			c.SharedAccessKeyName = value
		case "sharedaccesskey":
			c.SharedAccessKey = value
		case "sharedaccesssignature":
			c.SharedAccessSignature = value
		case "x509":
			c.X509 = strings.EqualFold(value, "true")
		}
	}
	if c.HostName == "" {
		return c, Refuse(RequestMalformed, "The connection string names no host.").
			FixBy("Use HostName=…;SharedAccessKeyName=…;SharedAccessKey=….")
	}
	return c, nil
}

// String writes the connection string. It holds a key: never log it.
func (c ConnectionString) String() string {
	s := "HostName=" + c.HostName
	add := func(name, value string) {
		if value != "" {
			s += ";" + name + "=" + value
		}
	}
	add("DeviceId", c.DeviceID)
	add("ModuleId", c.ModuleID)
	add("SharedAccessKeyName", c.SharedAccessKeyName)
	add("SharedAccessKey", c.SharedAccessKey)
	add("SharedAccessSignature", c.SharedAccessSignature)
	if c.X509 {
		s += ";x509=true"
	}
	return s
}
