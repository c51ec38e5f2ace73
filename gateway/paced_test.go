package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet/wire/mqtt"
)

// One computes at a time; who waits for his peer keeps nobody waiting, and who is
// done neither.
func TestPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &pacer{free: 1}
		var peers, ours [3]net.Conn
		read := make(chan int, 9)
		goOn := [3]chan bool{}
		for n := range ours {
			peers[n], ours[n] = net.Pipe()
			goOn[n] = make(chan bool)
			go func() {
				p := &pacedConn{Conn: ours[n], turns: turns}
				for range 2 {
					p.Read(make([]byte, 1))
					read <- n
					<-goOn[n] // computes
				}
				p.over()
				p.Read(make([]byte, 1))
				read <- n
			}()
		}
		next := func(want int) {
			t.Helper()
			synctest.Wait()
			select {
			case n := <-read:
				if n != want {
					t.Errorf("%d has its turn, want %d", n, want)
				}
			default:
				if want >= 0 {
					t.Errorf("nobody has a turn, want %d", want)
				}
			}
		}
		peers[0].Write([]byte("a"))
		next(0)
		peers[1].Write([]byte("a"))
		next(-1) // 0 is at it
		goOn[0] <- true
		next(1) // 0 waits for its peer, and 2 for its own
		peers[0].Write([]byte("b"))
		next(-1)
		goOn[1] <- true
		next(0)
		goOn[0] <- true
		synctest.Wait()
		peers[2].Write([]byte("a"))
		next(2)
		peers[0].Write([]byte("c"))
		next(0) // it is over with it
		goOn[2] <- true
		for n := range peers {
			peers[n].Close()
			close(goOn[n])
		}
		synctest.Wait()
		if turns.free != 1 {
			t.Error("a turn is held for ever")
		}
	})
}

// A peer that reads nothing keeps nobody waiting either.
func TestPacedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &pacer{free: 1}
		for range 2 {
			peer, ours := net.Pipe()
			over := make(chan bool)
			go func() {
				p := &pacedConn{Conn: ours, turns: turns}
				p.Read(make([]byte, 1))
				p.Write([]byte("a flight"))
				p.over()
				close(over)
			}()
			peer.Write([]byte("a"))
			synctest.Wait()
			if turns.free != 1 || len(turns.line) > 0 {
				t.Error("the turn is held while the peer reads nothing")
			}
			defer func() {
				peer.Close()
				<-over
			}()
		}
	})
}

// What crypto/tls answers of its own, when a client has renewed its keys, has a time also
// when that of the last write is long over; a peer that reads nothing gets no more than
// before, nor one that shall go.
func TestWriteInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, ours := net.Pipe()
		defer client.Close()
		c := newConn(plainDoor(t, &fakeWaist{}), ours)
		p := &pacedConn{Conn: ours, peer: &c.peer}
		write := func() (time.Duration, error) {
			began := time.Now()
			_, err := p.Write([]byte("x"))
			return time.Since(began), err
		}
		ours.SetWriteDeadline(time.Now().Add(writeTime))
		time.Sleep(time.Hour)
		go client.Read(make([]byte, 1))
		if _, err := write(); err != nil {
			t.Errorf("to a peer that reads: %v", err)
		}
		time.Sleep(time.Hour)
		for range 2 {
			if took, err := write(); took != writeTime || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("to a peer that reads nothing: %v after %v", err, took)
			}
		}
		ours.SetWriteDeadline(time.Now().Add(writeTime))
		if took, err := write(); took != writeTime || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("in the time of that write: %v after %v", err, took)
		}
		c.end(errShutdown())
		if took, err := write(); took != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("to a peer that shall go: %v after %v", err, took)
		}
	})
}

// It is a rush while a crowd waits to leave; not while a few come and go as ever.
func TestRushToLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMQTT(&fakeWaist{}, Config{Logger: discard})
		m.pacer.free = 1
		m.pacer.take()
		for range maxLeaving {
			go m.pacer.breathe()
		}
		if synctest.Wait(); m.Rush() {
			t.Error("it is a rush when as many wait as may come")
		}
		go m.pacer.breathe()
		if synctest.Wait(); !m.Rush() {
			t.Error("it is no rush when a crowd waits")
		}
		m.pacer.give()
		if synctest.Wait(); m.Rush() {
			t.Error("it is a rush when all have left")
		}
	})
}

// Who leaves waits for a turn, one, and so does who is lost. A stranger does not: at the full
// gate he would be one of any number that keep a connection, and those who come from their turns.
func TestLeave(t *testing.T) {
	for name, leave := range map[string]func(net.Conn){
		"DISCONNECT": func(c net.Conn) { c.Write(mqtt.AppendDisconnect(nil)) },
		"lost":       func(c net.Conn) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMQTT(&fakeWaist{}, Config{Logger: discard, MaxStrangers: 1})
				connections := func() int {
					synctest.Wait()
					m.mu.Lock()
					defer m.mu.Unlock()
					return len(m.conns)
				}
				here := pipe(m)
				here.Write(connectPacket("d"))
				if _, err := mqtt.NewClientReader(here, maxPacket).Next(); err != nil {
					t.Fatal(err)
				}
				all := m.pacer.free
				for range all {
					m.pacer.take()
				}
				within := pipe(m)
				connections()
				for range 3 {
					pipe(m)
					if n := connections(); n != 2 {
						t.Errorf("%d connections: a stranger for whom there is no room stays until it is his turn", n)
					}
				}
				go leave(here)
				if n := connections(); n != 2 {
					t.Error("a device leaves before its turn")
				}
				go m.pacer.take() // who comes next, and keeps the turn
				synctest.Wait()
				m.pacer.give()
				if n := connections(); n != 1 {
					t.Error("a device does not leave in its turn")
				}
				for range all {
					m.pacer.give()
				}
				within.Close()
				here.Close()
				shutDown(t, m)
			})
		})
	}
}

// Whoever has something to say is heard between two turns, though some who compute are
// always ready to. Without lulls the one processor looks at the network every 10 ms, after
// some thirty turns.
func TestLulls(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	p := newPacer()
	if err := p.waitForLulls(); err != nil {
		t.Fatal(err)
	}
	defer p.hurry()
	p.mu.Lock()
	p.late.Stop()
	p.late = time.AfterFunc(time.Hour, func() {}) // gives none
	p.mu.Unlock()
	var turns atomic.Int64
	stop := make(chan struct{})
	defer close(stop)
	for range 50 {
		go func() {
			for {
				p.take()
				turns.Add(1)
				for began := time.Now(); time.Since(began) < 300*time.Microsecond; {
				}
				p.give()
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	var passed []int64 // turns, from what is said to where it is heard
	var said atomic.Int64
	heard := make(chan int64)
	go func() {
		for b := make([]byte, 1); ; heard <- turns.Load() - said.Load() {
			if _, err := there.Read(b); err != nil {
				return
			}
		}
	}()
	for range 50 {
		said.Store(turns.Load())
		here.Write([]byte("."))
		passed = append(passed, <-heard)
	}
	slices.Sort(passed)
	if median := passed[len(passed)/2]; median > 2*maxRow {
		t.Errorf("%d turns go before (%v)", median, passed)
	}
	eventually(t, "a turn in every lull", func() bool { return turns.Load() > 100*maxRow })
}

// Where there is no lull, the turns of many processors are not late one after the other,
// and what asks for lulls does not fill the pipe: who writes would wait for who reads, and
// he for the pacer.
func TestManyLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const all = 16
		out, in, err := os.Pipe() // which nobody reads
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		p := &pacer{free: all, lulls: &lulls{in}}
		p.late = time.AfterFunc(lullTime, p.overdue)
		var taken atomic.Int64
		for range all {
			p.take()
		}
		for range 3 {
			taken.Store(0)
			for range all {
				go func() { p.take(); taken.Add(1) }()
			}
			synctest.Wait()
			for range all {
				p.row = maxRow
				p.give()
			}
			synctest.Wait()
			if n := taken.Load(); n > 0 {
				t.Errorf("%d turns without a lull", n)
			}
			time.Sleep(5 * lullTime)
			synctest.Wait()
			if n := taken.Load(); n != all {
				t.Errorf("%d of %d turns are later than five lulls", all-n, all)
			}
		}
		p.hurry()
		if asked, err := io.ReadAll(out); err != nil || len(asked) != all {
			t.Errorf("%d lulls are asked for (%v)", len(asked), err)
		}
	})
}

// Turns go on where there is no lull: when others keep the processor busy, and when lulls
// are no more waited for.
func TestNoLull(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	p := newPacer()
	if err := p.waitForLulls(); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	defer close(stop)
	for range 4 {
		go func() {
			for {
				select {
				case <-stop:
					return
				default:
					runtime.Gosched()
				}
			}
		}()
	}
	done := make(chan bool)
	for range 20 {
		go func() {
			p.take()
			runtime.Gosched() // the others come to wait
			p.give()
			done <- true
		}()
	}
	for n := range 20 {
		if n == 10 {
			p.hurry()
		}
		<-done
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free != 1 || p.owed != 0 {
		t.Errorf("%d turns are free and %d owed", p.free, p.owed)
	}
}

// A turn that is handed on, four in a row and then one in a lull, when nobody is connected
// and when 20,000 are: each has two timers, of its socket.
func BenchmarkTurns(b *testing.B) {
	for _, connected := range []int{0, 20_000} {
		b.Run(fmt.Sprint(connected), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			for range 2 * connected {
				defer time.AfterFunc(time.Hour, func() {}).Stop()
			}
			p := newPacer()
			if err := p.waitForLulls(); err != nil {
				b.Fatal(err)
			}
			defer p.hurry()
			var left atomic.Int64
			var over sync.WaitGroup
			left.Store(int64(b.N))
			b.ResetTimer()
			for range 16 {
				over.Go(func() {
					for left.Add(-1) >= 0 {
						p.take()
						for began := time.Now(); time.Since(began) < 100*time.Microsecond; { // as a part of a handshake
						}
						p.give()
					}
				})
			}
			over.Wait()
		})
	}
}
