package main

// One pool's life: set up, used by many, and ended one way or another, after which nothing of it may be left.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/scaffold"
)

func (s *lane) onePool(ctx context.Context, n int, length time.Duration) {
	drawn := s.drawSetup(n)
	p := &drawn
	p.length = length
	if s.Verbose {
		s.Println(p)
	}
	s.present.Store(p)
	for _, flag := range []*atomic.Bool{&s.mercy, &s.stop, &s.idle, &s.hard} {
		flag.Store(false)
	}
	s.release = make(chan struct{})
	s.letClose = sync.OnceFunc(func() { close(s.release) })
	s.endless.Store(0)
	if m := s.open(ctx, p); m != nil {
		s.sums.pools.Add(1)
		s.use(ctx, m, p)
	}
	s.letClose()
	s.clean(p)
}

// use has a pool be used, and ends it.
func (s *lane) use(ctx context.Context, m *pool, p *setup) {
	var consumers sync.WaitGroup
	for i := range p.readers {
		consumers.Go(s.newConsumer(m.Multiplexer, p, i).readers)
	}
	for i := range p.writers {
		consumers.Go(s.newConsumer(m.Multiplexer, p, 1<<20+i).writers)
	}
	for i := range p.wholes {
		consumers.Go(s.newConsumer(m.Multiplexer, p, 2<<20+i).wholes)
	}
	beside, endBeside := context.WithCancel(context.Background())
	defer endBeside()
	var besides sync.WaitGroup
	besides.Go(func() { s.Watch(beside, m.Multiplexer, &s.stats) })
	if p.Scaling > 0 {
		besides.Go(func() { s.adds(beside, m.Multiplexer, p) })
	}
	if p.operated {
		besides.Go(func() { s.operate(beside, m.Multiplexer, p) })
	}
	if p.Scaling > 0 || p.life == mildLife {
		besides.Go(func() { s.ebb(beside) })
	}

	s.load(ctx, p.length)
	s.hard.Store(p.end == endClose || p.end == endContext)
	switch p.end {
	case endClose:
		s.sums.consumer[closeUnderLoad].Add(1)
		s.Patient("Close under load", func() { s.none(m.Close()) })
	case endShutdown:
		s.sums.consumer[shutdownUnderLoad].Add(1)
		s.Patient("Shutdown under load", func() { s.shutdown(m, p) })
	case endContext:
		s.sums.consumer[contextUnderLoad].Add(1)
		m.end()
	case endCalm:
		s.calm(m, p, &consumers)
	}
	s.letClose() // what has kept slots, and nothing else
	s.stop.Store(true)
	s.Patient("consumers of a closed pool", consumers.Wait)
	endBeside()
	besides.Wait()
	s.hard.Store(true)
	s.Patient("Close", func() { s.none(m.Close()) })
	s.Patient("transports that are to close", func() {
		for p.noClose && m.Stats().Open > 0 {
			time.Sleep(time.Millisecond)
		}
	})
	if err := scaffold.Closed(m.Multiplexer, m.Close()); err != nil {
		s.fail(nil, fmt.Errorf("%v: %w", p, err))
	}
	m.end()
	last := m.Stats()
	s.sums.expired.Add(last.Expired)
	s.sums.scaledDown.Add(last.ScaledDown)
}

// shutdown ends a pool in good order. A transport whose Close never returns has only the ctx for a bound.
func (s *lane) shutdown(m *pool, p *setup) {
	ctx := context.Background()
	if p.noClose {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		context.AfterFunc(ctx, func() { s.hard.Store(true) })
	}
	err := m.Shutdown(ctx)
	if !p.noClose || !errors.Is(err, context.DeadlineExceeded) {
		s.none(err)
	}
}

// ebb has the consumers rest now and then, so that connections become surplus.
func (s *lane) ebb(ctx context.Context) {
	for rest := true; ; rest = !rest {
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			s.idle.Store(false)
			return
		}
		s.idle.Store(rest)
	}
}

// pool is one with the end of the ctx that New has been given.
type pool struct {
	*plex.Multiplexer
	end context.CancelFunc
}

// open makes the pool; nil if ctx ends first.
func (s *lane) open(ctx context.Context, p *setup) *pool {
	poolCtx, end := context.WithCancel(context.Background())
	more := []plex.Option{plex.WithLinger(scaffold.Starving / 2), plex.WithBackoff(s.backoff(p))}
	if p.logs {
		more = append(more, plex.WithLogger(slog.New(&logHandler{s: s})))
	}
	if p.leaks > 0 {
		more = append(more, plex.WithLeakDetection(p.leaks))
	}
	if p.operated {
		more = append(more, plex.WithRetireGrace(retireGrace))
	}
	if p.probed {
		more = append(more, plex.WithProbe(probeIdle, probeTimeout, s.probe(p)))
	}
	service := &cluster{s: s, p: p}
	if p.addresses > 0 {
		more = append(more, plex.WithResolver(service.resolve, askedEvery))
	}
	m := p.Open(ctx, poolCtx, s.connect(p, service), more...)
	if m == nil {
		end()
		return nil
	}
	return &pool{m, end}
}

// load lets the pool be used for a while, and looks whether it is.
func (s *lane) load(ctx context.Context, length time.Duration) {
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
func (s *lane) calm(m *pool, p *setup, consumers *sync.WaitGroup) {
	s.mercy.Store(true)
	s.stop.Store(true)
	s.Patient("consumers that are to stop", consumers.Wait)
	s.beside.Wait() // the listener is back
	s.letClose()
	if p.Minimum == 0 {
		return // it may have been left with nothing, as nobody asks
	}
	live := check.Live
	if p.ready {
		live = check.LiveReady
	}
	n := p.Minimum
	if (p.Lifetime > 0 || p.addresses > 0 || p.operated) && n > 1 {
		n-- // one at a time is retired, and what is left in it may be leased, too
	}
	if err := live(context.Background(), m.Multiplexer, n, scaffold.Starving); err != nil {
		s.fail(nil, err)
	}
}

func (s *lane) none(err error) {
	if err != nil {
		s.fail(nil, fmt.Errorf("the end of a pool: %w", err))
	}
}

// clean checks that nothing is left of a pool that has been closed.
func (s *lane) clean(p *setup) {
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
	s.Patient("the callbacks", func() {
		for s.callbacks.Load() > 0 {
			time.Sleep(time.Millisecond)
		}
	})
}

// adds offers connections to the pool from outside.
func (s *lane) adds(ctx context.Context, m *plex.Multiplexer, p *setup) {
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
		l := s.book.enter(tcp, p, 0, true)
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
