package gateway

import (
	"net"
	"testing"
	"testing/synctest"
)

// One computes at a time; who waits for his peer keeps nobody waiting, and who is
// done neither.
func TestPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := make(pacer, 1)
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
		if len(turns) != 0 {
			t.Error("a turn is held for ever")
		}
	})
}
