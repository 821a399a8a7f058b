package cases

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
	"go.atomizer.io/plex/bench/pools"
)

// BytesPerConn and GoroutinesPerConn are what a pool adds to each connection.
const (
	BytesPerConn      = "B/conn"
	GoroutinesPerConn = "goroutines/conn"
)

func idleCases(p *peer.Process) []*harness.Case {
	return []*harness.Case{Idle(p, 1_000), Idle(p, 10_000), idleKinds(p, 5_000)}
}

// Idle compares what pools add to connections that idle.
func Idle(p *peer.Process, conns int) *harness.Case {
	c := &harness.Case{
		Group: GroupIdle,
		Name:  fmt.Sprintf("idle/%d", conns),
		Title: plural(conns, "connection"),
		Compares: fmt.Sprintf("memory and goroutines of a pool of %s TCP connections that idle, beyond the connections themselves; for net.Conn, what those take",
			harness.Thousands(conns)),
		Metrics: []harness.Metric{
			{Key: BytesPerConn, Title: "memory for each", Unit: harness.Size},
			{Key: GoroutinesPerConn, Title: "goroutines for each", Unit: harness.Count},
		},
		Targets: []harness.Target{
			harness.Below(IdleBytes, BytesPerConn),
			harness.Below(0.01, GoroutinesPerConn), // one or two for the whole pool
		},
		Ops:    1,
		Rounds: 5,
	}
	if conns > 1_000 {
		c.Rounds = 3 // each takes seconds, and so many are steady enough
	}
	for _, kind := range pools.Growing {
		c.Subjects = append(c.Subjects, idleSubject(kind.Name, func() (harness.Sample, error) {
			return idlePool(p, kind, conns)
		}))
	}
	c.Subjects = append(c.Subjects,
		idleSubject("net/http", func() (harness.Sample, error) { return idleHTTP(p, conns) }),
		idleSubject(bare, func() (harness.Sample, error) { return idleConns(p, conns) }))
	return c
}

func idleSubject(name string, measure func() (harness.Sample, error)) harness.Subject {
	return harness.Subject{Name: name, Open: func() (harness.Work, error) {
		return harness.Work{
			Run:   func(int) (harness.Sample, error) { return measure() },
			Close: func() {},
		}, nil
	}}
}

// idlePool measures what a pool adds. Its connections are there before.
func idlePool(p *peer.Process, kind pools.Kind, conns int) (harness.Sample, error) {
	given, err := dialMany(p.Dialer(peer.Sink, peer.TCP), conns)
	if err != nil {
		return harness.Sample{}, err
	}
	before := settle(conns)
	pool, err := kind.Open(pools.Config{Max: conns, Open: conns, Dial: handOut(given)})
	if err != nil {
		return harness.Sample{}, err
	}
	sample := added(before, conns)
	pool.Close()
	runtime.KeepAlive(given)
	return sample, nil
}

func idleHTTP(p *peer.Process, conns int) (harness.Sample, error) {
	given, err := dialMany(p.Dialer(peer.HTTP, peer.TCP), conns)
	if err != nil {
		return harness.Sample{}, err
	}
	before := settle(conns)
	t := pools.NewHTTP(pools.Config{Max: conns, Dial: handOut(given)})
	if err := peer.Together(context.Background(), t, p.Address(peer.HTTP, peer.TCP), conns); err != nil {
		return harness.Sample{}, err
	}
	sample := added(before, conns)
	t.CloseIdleConnections()
	runtime.KeepAlive(given)
	return sample, nil
}

// idleConns measures what connections take without a pool.
func idleConns(p *peer.Process, conns int) (harness.Sample, error) {
	before := settle(conns)
	given, err := dialMany(p.Dialer(peer.Sink, peer.TCP), conns)
	if err != nil {
		return harness.Sample{}, err
	}
	sample := added(before, conns)
	for _, nc := range given {
		_ = nc.Close()
	}
	return sample, nil
}

// dialMany opens n connections.
func dialMany(dial dialer, n int) ([]net.Conn, error) {
	conns := make([]net.Conn, n)
	err := parallel(64, 64, func(i, _ int) error {
		for ; i < n; i += 64 {
			nc, err := dial(context.Background())
			if err != nil {
				return fmt.Errorf("connection %d of %d: %w", i+1, n, err)
			}
			conns[i] = nc
		}
		return nil
	})
	if err != nil {
		for _, nc := range conns {
			if nc != nil {
				_ = nc.Close()
			}
		}
		return nil, err
	}
	return conns, nil
}

// handOut dials by handing out connections that there are.
func handOut(conns []net.Conn) dialer {
	var (
		mu   sync.Mutex
		next int
	)
	return func(context.Context) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if next == len(conns) {
			return nil, http.ErrServerClosed // nobody asks for more than there are
		}
		next++
		return conns[next-1], nil
	}
}

// footprint is what the process takes.
type footprint struct {
	bytes      uint64
	goroutines int
}

// settle measures it when all is quiet. The runtime never gives back the
// records of goroutines that have ended, and they are not the pool's: so as
// many as a pool may have at a time have been there before.
func settle(conns int) footprint {
	var wg sync.WaitGroup
	end := make(chan struct{})
	for range 4 * conns {
		wg.Go(func() { <-end })
	}
	close(end)
	wg.Wait()
	return measure()
}

// settled is how little, in bytes, a cycle of the garbage collector has to free
// for all to be quiet.
const settled = 4 << 10

func measure() footprint {
	goroutines := runtime.NumGoroutine()
	for range 50 { // those that are ending
		time.Sleep(2 * time.Millisecond)
		if now := runtime.NumGoroutine(); now != goroutines {
			goroutines = now
			continue
		}
		break
	}
	// More than once, since finalizers and what a sync.Pool holds take some
	// cycles to be gone.
	var m runtime.MemStats
	for last := uint64(0); ; last = m.HeapAlloc {
		runtime.GC()
		time.Sleep(time.Millisecond)
		runtime.ReadMemStats(&m)
		if last != 0 && m.HeapAlloc+settled >= last {
			break
		}
	}
	return footprint{bytes: m.HeapAlloc + m.StackInuse, goroutines: goroutines}
}

// added returns what has been added since, for each connection.
func added(before footprint, conns int) harness.Sample {
	now := measure()
	return harness.Sample{Figures: map[string]float64{
		BytesPerConn:      max(0, float64(now.bytes)-float64(before.bytes)) / float64(conns),
		GoroutinesPerConn: max(0, float64(now.goroutines-before.goroutines)) / float64(conns),
	}}
}
