package amqp

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestDetachedEarly: who is asked to take a link may be told to give it up before it
// has answered: the attach is answered, and the detach follows.
func TestDetachedEarly(t *testing.T) {
	detached := make(chan *Error, 1)
	p := meet(t, &handler{attach: func(l *Link) {
		l.Detached = func(e *Error) { detached <- e }
		l.Detach(&Error{Condition: LinkStolen})
	}})
	p.say(appendProtocol(nil, headerAMQP))
	p.r.protocol()
	p.frame(0, sayOpen)
	p.expect(codeOpen)
	p.frame(0, sayBegin)
	p.expect(codeBegin)
	for handle, receiver := range []bool{true, false} {
		p.frame(0, sayAttach("link", uint32(handle), receiver))
		p.expect(codeAttach)
		_, e := p.expect(codeDetach).detach()
		if e == nil || e.Condition != LinkStolen {
			t.Errorf("detached with %v", e)
		}
		p.frame(0, composite(codeDetach, uint32(handle), true))
		if e := <-detached; e != nil {
			t.Error(e)
		}
	}
	p.nc.Close()
	<-p.over
}

// TestNothingToDrain: a client that drains a link without credit hears so, and is not
// remembered as one that drains.
func TestNothingToDrain(t *testing.T) {
	h := &handler{}
	p := meet(t, h)
	p.settle(true)
	for range 3 {
		p.frame(0, composite(codeFlow, uint32(0), uint32(100), uint32(0), uint32(1), uint32(0), uint32(0), uint32(0), nil, true))
		if f := p.expect(codeFlow).flow(); !f.hasHandle || !f.drain || f.credit != 0 {
			t.Errorf("%+v", f)
		}
	}
	h.conn.mu.Lock()
	draining := h.conn.draining
	h.conn.mu.Unlock()
	if draining != 0 {
		t.Errorf("%d drain", draining)
	}
	p.nc.Close()
	<-p.over
}

// TestDrainedAndDetached: of a link that we have detached nothing more is said, also
// when it was being drained: clients know its handle no more, and would end the
// session.
func TestDrainedAndDetached(t *testing.T) {
	h := &handler{}
	sent := false
	h.fetch = func() {
		if !sent && h.sender.Ready() {
			sent = h.sender.Send(Outgoing{Payload: bytes.Repeat([]byte("x"), 2000), Settled: true})
		}
	}
	p := meet(t, h)
	p.say(appendProtocol(nil, headerAMQP))
	p.r.protocol()
	p.frame(0, composite(codeOpen, "peer", nil, uint32(512)))
	p.expect(codeOpen)
	p.frame(0, composite(codeBegin, nil, uint32(0), uint32(0), uint32(100)))
	p.expect(codeBegin)
	p.frame(0, sayAttach("link", 0, true))
	p.expect(codeAttach)
	// Room for one frame of several, and then the rest of the credit shall be used up.
	p.frame(0, composite(codeFlow, uint32(0), uint32(1), uint32(0), uint32(1), uint32(0), uint32(0), uint32(5)))
	p.expect(codeTransfer)
	p.frame(0, composite(codeFlow, uint32(1), uint32(0), uint32(0), uint32(1), uint32(0), uint32(0), uint32(5), nil, true, true))
	p.expect(codeFlow) // how it stands: it was asked for
	h.sender.Detach(&Error{Condition: LinkStolen})
	p.expect(codeDetach)
	p.frame(0, composite(codeDetach, uint32(0), true))
	p.frame(0, composite(codeEnd))
	p.expect(codeEnd)
	h.conn.mu.Lock()
	draining := h.conn.draining
	h.conn.mu.Unlock()
	if draining != 0 {
		t.Errorf("%d drain", draining)
	}
	p.nc.Close()
	<-p.over
}

// TestManyValues: the bound of values is that of the whole frame or message, wherever
// an empty list is in it.
func TestManyValues(t *testing.T) {
	nulls := func(code byte) []byte { // a map of so many
		list := make(List, maxValues-100)
		return appendValue([]byte{0, 0x53, code}, Map{{"k", list}})
	}
	var b []byte
	b = append(b, nulls(codeAnnotations)...)
	b = append(b, 0, 0x53, codeProperties, 0x45)
	b = append(b, nulls(codeApplication)...)
	if m, err := ParseMessage(b); err == nil {
		t.Errorf("%d and %d values are read", len(m.Annotations), len(m.Application))
	}
}

// TestEndedUnread: who is sent away from outside is gone within a second, also when it
// reads nothing.
func TestEndedUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{}
		p := meet(t, h)
		p.settle(false)
		began := time.Now()
		h.conn.End(&Error{Condition: UnauthorizedAccess}, 0)
		err := <-p.over
		if e, ok := errors.AsType[*Error](err); !ok || e.Condition != UnauthorizedAccess {
			t.Error(err)
		}
		if lasted := time.Since(began); lasted >= time.Second {
			t.Errorf("it was there for %v more", lasted)
		}
		p.nc.Close()
	})
}

// TestAlive: a client that asks for signs of life gets them while its handler is busy
// with what it has sent.
func TestAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{}
		h.take = func(d *Delivery) {
			time.Sleep(20 * time.Second) // as long as a door holds back who sends too fast
			d.Settle(Accepted{})
		}
		p := meet(t, h)
		p.say(appendProtocol(nil, headerAMQP))
		p.r.protocol()
		p.frame(0, composite(codeOpen, "peer", nil, nil, nil, uint32(10_000)))
		p.expect(codeOpen)
		p.frame(0, sayBegin)
		p.expect(codeBegin)
		p.frame(0, sayAttach("link", 0, false))
		p.expect(codeAttach)
		p.expect(codeFlow)
		p.frame(0, sayTransfer(0, 0, false, "x"))
		heard := time.Now()
		for {
			f, err := p.r.next()
			if err != nil {
				t.Fatal(err)
			}
			if quiet := time.Since(heard); quiet > 10*time.Second {
				t.Errorf("nothing was said for %v", quiet)
			}
			heard = time.Now()
			if len(f.body) > 0 {
				break
			}
		}
		p.nc.Close()
		<-p.over
	})
}

// TestStrangersMemory: whatever a stranger attaches and leaves unfinished, it costs a
// bounded number of bytes.
func TestStrangersMemory(t *testing.T) {
	var before, after runtime.MemStats
	h := &handler{stranger: true}
	p := meet(t, h)
	p.settle(false)
	runtime.GC()
	runtime.ReadMemStats(&before)
	for n := range uint32(strangerLinks - 1) {
		p.frame(0, sayAttach(strings.Repeat("n", maxName), n+1, false))
		p.expect(codeAttach)
		p.expect(codeFlow)
		p.frame(0, sayTransfer(n+1, n, true, strings.Repeat("x", 90)))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 128<<10 {
		t.Errorf("%d bytes", grown)
	}
	p.nc.Close()
	<-p.over
}
