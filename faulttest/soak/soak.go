package main

// The run: one proxy, one pool after the other, and the sums.

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/oracle"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/faulttest/scaffold"
)

type soak struct {
	*scaffold.Run
	proxy *proxy.Proxy
	book  *book
	sums  sums

	serverTLS atomic.Pointer[tls.Config] // of the present pool's protocol; nil: TCP

	dials    atomic.Uint64
	mercy    atomic.Bool // no new faults
	stopping atomic.Bool // consumers end when their lease does
	beside   scaffold.Outages
	accounts sync.WaitGroup

	stats  atomic.Pointer[plex.Stats] // of the present pool, the latest
	before told                       // at the last line of progress
}

// sums are the figures while the soak runs.
type sums struct {
	connections, leases, verified                   atomic.Uint64
	lost, doubled, misplaced, misdelivered, corrupt atomic.Uint64
	slowest                                         atomic.Int64 // nanoseconds
	pools                                           atomic.Uint64
	connector                                       [connectorFaults]atomic.Uint64
	consumer                                        [consumerFaults]atomic.Uint64
}

// newSoak is a soak that has no proxy yet.
func newSoak(o scaffold.Options, out io.Writer) (*soak, error) {
	r, err := scaffold.New(o, out)
	if err != nil {
		return nil, err
	}
	s := &soak{Run: r, before: told{at: r.Start}}
	s.book = newBook(s)
	s.beside.Wrong = func(err error) { s.fail(nil, err) }
	s.stats.Store(new(plex.Stats))
	return s, nil
}

// run is a whole soak. The error is for what has nothing to do with the pool.
func run(ctx context.Context, o scaffold.Options, out io.Writer) (*scaffold.Figures, error) {
	s, err := newSoak(o, out)
	if err != nil {
		return nil, err
	}
	cfg := proxy.Config{Handler: s.serve, Script: s.script(), Counts: s.book.counts, Keep: 200}
	if err := scaffold.Serve(cfg, func(p *proxy.Proxy) { s.proxy = p }); err != nil {
		return nil, err
	}
	s.Tell = func() string {
		return fmt.Sprintf("the latest faults:\n%s%+v\n", s.proxy.Tell(20), *s.stats.Load())
	}
	if err := s.Rounds(ctx, s.progress, s.onePool); err != nil {
		return nil, err
	}
	f := s.figures()
	s.proxy.Close()
	s.beside.Wait()
	s.Left(f)
	s.damage(f)
	return s.Verdict(f), nil
}

// consuming reports whether consumers shall go on.
func (s *soak) consuming() bool { return !s.stopping.Load() }

// raise makes v at least n.
func raise(v *atomic.Int64, n int64) {
	for {
		old := v.Load()
		if n <= old || v.CompareAndSwap(old, n) {
			return
		}
	}
}

// damaged adds up what was wrong with a stream.
func (s *soak) damaged(r oracle.Result) {
	s.sums.lost.Add(r.Lost)
	s.sums.doubled.Add(r.Doubled)
	s.sums.misplaced.Add(r.Misplaced)
	s.sums.misdelivered.Add(r.Misdelivered)
	s.sums.corrupt.Add(r.Corrupt)
}

// fail notes a violation, of the link if there is one, and ends the run.
func (s *soak) fail(l *link, err error) {
	if l == nil {
		s.Fail(err, nil)
		return
	}
	s.Fail(fmt.Errorf("connection %d (%v): %w", l.number, l.addr.Addr, err), func() string {
		return "  what was done with it:\n" + l.log.String()
	})
}
