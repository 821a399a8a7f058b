package main

// One pool's life: set up, used by many, and ended one way or another, after which nothing of it may be left.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
)

func (s *soak) onePool(ctx context.Context, p setup) {
	if s.o.verbose {
		fmt.Fprintln(s.out, p)
	}
	goroutines, files := runtime.NumGoroutine(), openFiles()
	s.mercy.Store(false)
	s.stopping.Store(false)
	poolCtx, endPool := context.WithCancel(context.Background())
	defer endPool()
	m := s.open(ctx, poolCtx, p)
	if m == nil {
		s.clean(p, goroutines, files)
		return
	}
	s.pool.Store(m)
	s.sums.pools.Add(1)

	var consumers sync.WaitGroup
	for i := range p.readers {
		consumers.Go(s.newConsumer(m, p, i).readers)
	}
	for i := range p.writers {
		consumers.Go(s.newConsumer(m, p, 1<<20+i).writers)
	}
	beside, endBeside := context.WithCancel(context.Background())
	defer endBeside()
	var besides sync.WaitGroup
	besides.Go(func() { s.watchStats(beside, m) })
	if p.scaling > 0 {
		besides.Go(func() { s.adds(beside, m, p) })
	}

	s.load(ctx, p.length)
	switch p.end {
	case endClose:
		s.sums.consumer[closeUnderLoad].Add(1)
		s.patient("Close under load", func() { s.none(m.Close()) })
	case endShutdown:
		s.sums.consumer[shutdownUnderLoad].Add(1)
		s.patient("Shutdown under load", func() { s.none(m.Shutdown(context.Background())) })
	case endContext:
		s.sums.consumer[contextUnderLoad].Add(1)
		endPool()
	case endCalm:
		s.calm(m, p, &consumers)
	}
	s.stopping.Store(true)
	s.patient("consumers of a closed pool", consumers.Wait)
	endBeside()
	besides.Wait()
	s.pool.Store(nil)
	s.patient("Close", func() { s.none(m.Close()) })
	if st := m.Stats(); st.Open+st.Connecting+st.IdleReaders+st.IdleWriters+st.LeasedReaders+st.LeasedWriters+st.Waiting > 0 {
		s.fail(nil, fmt.Errorf("%v: something is left in the closed pool: %+v", p, st))
	}
	s.clean(p, goroutines, files)
}

// open makes the pool. While there are faults New may fail, and then has nothing left.
func (s *soak) open(ctx, poolCtx context.Context, p setup) *plex.Multiplexer {
	for ctx.Err() == nil {
		m, err := plex.New(poolCtx, s.options(p)...)
		if err == nil {
			return m
		}
	}
	return nil
}

// load lets the pool be used for a while, and looks whether it is.
func (s *soak) load(ctx context.Context, length time.Duration) {
	end := time.NewTimer(length)
	defer end.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	leases, since := s.sums.leases.Load(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-tick.C:
			if now := s.sums.leases.Load(); now != leases {
				leases, since = now, time.Now()
			} else if time.Since(since) > 2*starving {
				s.stuck("no lease was acquired by anyone")
			}
		}
	}
}

// calm lets the faults stop: then the pool has to become whole, and serve as many as it has connections for.
func (s *soak) calm(m *plex.Multiplexer, p setup, consumers *sync.WaitGroup) {
	s.mercy.Store(true)
	s.stopping.Store(true)
	s.patient("consumers that are to stop", consumers.Wait)
	s.bg.Wait() // the listener is back
	if p.minimum == 0 {
		return // it may have been left with nothing, as nobody asks
	}
	if err := check.Live(context.Background(), m, p.minimum, starving); err != nil {
		s.fail(nil, err)
	}
}

func (s *soak) none(err error) {
	if err != nil {
		s.fail(nil, fmt.Errorf("the end of a pool: %w", err))
	}
}

// clean checks that nothing is left of a pool that has been closed.
func (s *soak) clean(p setup, goroutines, files int) {
	s.bg.Wait()
	s.patient("the server's ends of connections", func() {
		for s.proxy.Open() > 0 {
			time.Sleep(time.Millisecond)
		}
	})
	s.patient("the accounts of connections", s.accounts.Wait)
	if err := s.book.settle(); err != nil {
		s.fail(nil, fmt.Errorf("%v: %w", p, err))
	}
	end := time.Now().Add(starving)
	for runtime.NumGoroutine() > goroutines || openFiles() > files {
		if time.Now().After(end) {
			s.fail(nil, fmt.Errorf("%v: %d goroutines and %d descriptors, and before it %d and %d",
				p, runtime.NumGoroutine(), openFiles(), goroutines, files))
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// openFiles counts the process's descriptors, where the system tells.
func openFiles() int {
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(dir)
}

// adds offers connections to the pool from outside.
func (s *soak) adds(ctx context.Context, m *plex.Multiplexer, p setup) {
	for n := uint64(1); ctx.Err() == nil; n++ {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return
		}
		tcp, err := s.dial(ctx, n, true)
		if err != nil {
			continue
		}
		l := s.book.enter(tcp, 0, true)
		nc := transport(l, p)
		rest, err := m.Add(ctx, nc)
		if len(rest) == 0 {
			s.book.known(l)
			continue
		}
		if err == nil || rest[0] != nc {
			s.fail(l, errors.New("the pool gave it back without an error, or gave another"))
		}
		if l.closes.Load() != 0 {
			s.fail(l, fmt.Errorf("the pool gave it back closed: %w", err))
		}
		_ = net.Conn(l).Close()
	}
}
