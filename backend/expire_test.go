package backend

import (
	"testing"
	"testing/synctest"
	"time"

	goamqp "github.com/Azure/go-amqp"
	"github.com/signet-iot/signet"
)

// slowVerdicts is told of a refusal while a connection ends.
type slowVerdicts struct {
	verdicts
	meanwhile func()
}

func (v *slowVerdicts) Record(one signet.Verdict) string {
	v.mu.Lock()
	meanwhile := v.meanwhile
	v.meanwhile = nil
	v.mu.Unlock()
	if meanwhile != nil {
		meanwhile()
	}
	return v.verdicts.Record(one)
}

// TestExpiresOnce: a link whose token ends is refused once, also when its connection
// ends at the very same time, as it does when there is no other token.
func TestExpiresOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		began := time.Now()
		h.door.Now = func() time.Time { return start.Add(time.Since(began)) }
		v := &slowVerdicts{}
		h.door.Verdicts = v
		s := h.connect("plant.example.test")
		if status, text := h.put(s, h.token("service", "plant.example.test", time.Minute)); status != 200 {
			t.Fatal(text)
		}
		if _, err := s.NewReceiver(t.Context(), defaultGroup, &goamqp.ReceiverOptions{Credit: -1}); err != nil {
			t.Fatal(err)
		}
		v.mu.Lock()
		v.meanwhile = func() { s.Close(t.Context()) } // the link is detached
		v.mu.Unlock()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(v.kept); n != 1 {
			t.Errorf("%d refusals are on record", n)
		}
	})
}
