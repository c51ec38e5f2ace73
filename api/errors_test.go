package api

import (
	"strings"
	"testing"

	"github.com/signet-iot/signet"
)

// TestErrorTable: every code of the house is told by a status that its step
// allows, and by a number that begins with the status.
func TestErrorTable(t *testing.T) {
	for _, c := range signet.Codes {
		if family, _, _ := strings.Cut(string(c.Code), "."); family == "key" || family == "file" {
			continue // of what is made offline, and told by no server
		}
		e := azureErrorOf(c.Code)
		if e.name == "" || e.number/1000 != e.status {
			t.Errorf("%s: %+v", c.Code, e)
		}
		ours := c.Step == signet.StepProcessing || c.Code == signet.MethodTimeout || c.Code == signet.MethodBadAnswer // or the device's
		if ours != (e.status >= 500) {
			t.Errorf("%s is answered by %d", c.Code, e.status)
		}
	}
	if e := azureErrorOf("nobody.knows"); e.status != 500 {
		t.Errorf("a code of no table: %+v", e)
	}
}
