package main

// One pool's life: set up, used by many, and ended one way or another, after which nothing of it may be left.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/scaffold"
)

func (s *soak) onePool(ctx context.Context, n int) error {
	p := s.drawSetup(n)
	if s.Verbose {
		s.Println(p)
	}
	s.serverTLS.Store(nil)
	if p.tls {
		s.serverTLS.Store(s.ServerTLS)
	}
	before := scaffold.Present()
	s.mercy.Store(false)
	s.stopping.Store(false)
	if m := s.open(ctx, p); m != nil {
		s.sums.pools.Add(1)
		s.use(ctx, m, p)
	}
	s.clean(p, before)
	return nil
}

// use has a pool be used, and ends it.
func (s *soak) use(ctx context.Context, m *pool, p setup) {
	var consumers sync.WaitGroup
	for i := range p.readers {
		consumers.Go(s.newConsumer(m.Multiplexer, p, i).readers)
	}
	for i := range p.writers {
		consumers.Go(s.newConsumer(m.Multiplexer, p, 1<<20+i).writers)
	}
	beside, endBeside := context.WithCancel(context.Background())
	defer endBeside()
	var besides sync.WaitGroup
	besides.Go(func() { s.Watch(beside, m.Multiplexer, &s.stats) })
	if p.Scaling > 0 {
		besides.Go(func() { s.adds(beside, m.Multiplexer, p) })
	}

	s.load(ctx, p.length)
	switch p.end {
	case endClose:
		s.sums.consumer[closeUnderLoad].Add(1)
		s.Patient("Close under load", func() { s.none(m.Close()) })
	case endShutdown:
		s.sums.consumer[shutdownUnderLoad].Add(1)
		s.Patient("Shutdown under load", func() { s.none(m.Shutdown(context.Background())) })
	case endContext:
		s.sums.consumer[contextUnderLoad].Add(1)
		m.end()
	case endCalm:
		s.calm(m, p, &consumers)
	}
	s.stopping.Store(true)
	s.Patient("consumers of a closed pool", consumers.Wait)
	endBeside()
	besides.Wait()
	s.Patient("Close", func() {
		if err := scaffold.Closed(m.Multiplexer, m.Close()); err != nil {
			s.fail(nil, fmt.Errorf("%v: %w", p, err))
		}
	})
	m.end()
}

// pool is one with the end of the ctx that New has been given.
type pool struct {
	*plex.Multiplexer
	end context.CancelFunc
}

// open makes the pool; nil if ctx ends first.
func (s *soak) open(ctx context.Context, p setup) *pool {
	poolCtx, end := context.WithCancel(context.Background())
	var more []plex.Option
	if p.leaks > 0 {
		more = append(more, plex.WithLeakDetection(p.leaks))
	}
	m := p.Open(ctx, poolCtx, s.connect(p), more...)
	if m == nil {
		end()
		return nil
	}
	return &pool{m, end}
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
			} else if time.Since(since) > 2*scaffold.Starving {
				s.Stuck("no lease was acquired by anyone")
			}
		}
	}
}

// calm lets the faults stop: then the pool has to become whole, and serve as many as it has connections for.
func (s *soak) calm(m *pool, p setup, consumers *sync.WaitGroup) {
	s.mercy.Store(true)
	s.stopping.Store(true)
	s.Patient("consumers that are to stop", consumers.Wait)
	s.beside.Wait() // the listener is back
	if p.Minimum == 0 {
		return // it may have been left with nothing, as nobody asks
	}
	live := check.Live
	if p.ready {
		live = check.LiveReady
	}
	if err := live(context.Background(), m.Multiplexer, p.Minimum, scaffold.Starving); err != nil {
		s.fail(nil, err)
	}
}

func (s *soak) none(err error) {
	if err != nil {
		s.fail(nil, fmt.Errorf("the end of a pool: %w", err))
	}
}

// clean checks that nothing is left of a pool that has been closed.
func (s *soak) clean(p setup, before scaffold.Footprint) {
	s.beside.Wait()
	s.Patient("the server's ends of connections", func() {
		for s.proxy.Open() > 0 {
			time.Sleep(time.Millisecond)
		}
	})
	s.Patient("the accounts of connections", s.accounts.Wait)
	if err := s.book.settle(); err != nil {
		s.fail(nil, fmt.Errorf("%v: %w", p, err))
	}
	if err := before.Back(); err != nil {
		s.fail(nil, fmt.Errorf("%v: %w", p, err))
	}
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
		nc := s.transport(l, p)
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
