package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/signet-iot/signet/bench"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/wire/mqtt"
)

var (
	desired = flag.Int("desired", 0, "instead: connected devices that are each told of a desired change of their own, at most 18000")
	tells   = flag.Bool("events", false, "with -desired: the hub tells of twins and connections on its message log, too")
)

// writers is how many changes a back end has under way.
const writers = 64

// desiredChanges holds a fleet that listens to its desired properties, changes the
// twin of each device by REST, and sees when each is told. It does so twice: the
// first change makes the twin, the second finds it.
func desiredChanges(dir string) error {
	if *desired > 18_000 {
		return errors.New("the load is beyond its bounds; see -help")
	}
	exec.Command("taskset", "-apc", "1", strconv.Itoa(os.Getpid())).Run() // the load is this process
	folder := filepath.Join(dir, "pki")
	fleet, err := bench.OpenFleet(folder, pki.P256, 0, *desired)
	if err != nil {
		return err
	}
	pairs := make([]tls.Certificate, *desired)
	for n := range pairs {
		pairs[n] = fleet.Pair(n)
	}
	r, err := startSignet(nil, dir, folder)
	if err != nil {
		return err
	}
	defer r.stop()
	p, err := newSite(r)
	if err != nil {
		return err
	}
	if on := true; *tells {
		if _, err := p.back.SetEvents(context.Background(), client.Events{Twin: &on, Connection: &on}); err != nil {
			return err
		}
	}

	// Each device notes when it is told of each change.
	told := [2][]time.Time{make([]time.Time, *desired), make([]time.Time, *desired)}
	var rounds [2]sync.WaitGroup
	for n := range rounds {
		rounds[n].Add(*desired)
	}
	conns := make([]net.Conn, *desired)
	err = side(8, *desired, func(n int) error {
		c, _, err := p.dialFrom(pairs, n, source(n))
		if err != nil {
			return err
		}
		conns[n] = c
		_, err = c.Write(mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "$iothub/twin/PATCH/properties/desired/#"}}}))
		if err != nil {
			return err
		}
		in := mqtt.NewClientReader(c, 1<<10)
		if answer, err := in.Next(); err != nil {
			return fmt.Errorf("%T where a SUBACK was due: %w", answer, err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Minute))
		go func() {
			for n2 := range told {
				packet, err := in.Next()
				notice, ok := packet.(*mqtt.Publish)
				if err != nil || !ok || !strings.Contains(string(notice.Payload), fmt.Sprintf(`"n":%d`, n2+1)) {
					fmt.Fprintf(os.Stderr, "device %d is told %T %v\n", n, packet, err)
					return // and is waited for in vain
				}
				told[n2][n] = time.Now()
				rounds[n2].Done()
			}
		}()
		return nil
	})
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()

	fmt.Printf("%d devices connected; each is told of a desired change of its own, %d changes under way by REST, each on disk\n", *desired, writers)
	for n2 := range told {
		asked := make([]time.Time, *desired)
		began, before := time.Now(), cpu(r.pid())
		err := side(writers, *desired, func(n int) error {
			asked[n] = time.Now()
			_, err := p.back.PatchTwin(context.Background(), bench.DeviceID(n), "", client.TwinPatch{Desired: fmt.Appendf(nil, `{"n":%d,"of":%d}`, n2+1, n)}, "")
			return err
		})
		if err != nil {
			return err
		}
		over := make(chan bool)
		go func() { rounds[n2].Wait(); close(over) }()
		select {
		case <-over:
		case <-time.After(time.Minute):
			return errors.New("some were not told within a minute")
		}
		took := make([]time.Duration, *desired)
		last := time.Duration(0)
		for n := range took {
			took[n] = told[n2][n].Sub(asked[n])
			last = max(last, told[n2][n].Sub(began))
		}
		slices.Sort(took)
		spent := time.Duration(cpu(r.pid())-before) * time.Microsecond
		fmt.Printf("  change %d: the last device is told after %v; from its request p50 %v, p99 %v; server CPU %v, %v a change\n",
			n2+1, last.Round(10*time.Millisecond), ms(took[len(took)/2]), ms(took[len(took)*99/100]), spent.Round(10*time.Millisecond), (spent / time.Duration(*desired)).Round(time.Microsecond))
	}
	return nil
}

// side does something for each of n, so many at a time, until one fails.
func side(at, n int, do func(int) error) error {
	next, errs := make(chan int), make(chan error, at)
	for range at {
		go func() {
			var failed error
			for i := range next {
				if failed == nil {
					failed = do(i)
				}
			}
			errs <- failed
		}()
	}
	for i := range n {
		next <- i
	}
	close(next)
	var all error
	for range at {
		all = errors.Join(all, <-errs)
	}
	return all
}
