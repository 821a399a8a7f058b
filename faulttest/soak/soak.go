package main

// The run: several lanes, each with a proxy and a server of its own and one pool after the other, and the sums. A round
// is one pool in each lane.

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/oracle"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/faulttest/scaffold"
)

// soak is what all lanes have in common.
type soak struct {
	*scaffold.Run
	options options
	lanes   []*lane
	sums    sums
	before  told // at the last line of progress
}

// lane is one proxy with one pool after the other.
type lane struct {
	*soak
	number int
	proxy  *proxy.Proxy
	book   *book

	present atomic.Pointer[setup] // of the present pool
	dials   atomic.Uint64
	mercy   atomic.Bool // no new faults
	hard    atomic.Bool // the pool closes, and not in good order
	idle    atomic.Bool // consumers rest, so that there is surplus
	stop    atomic.Bool // consumers end when their lease does

	beside    scaffold.Outages
	accounts  sync.WaitGroup
	callbacks atomic.Int64  // of AfterEnd, yet to be called
	endless   atomic.Int64  // transports whose Close has not returned and will not by itself
	release   chan struct{} // closed, by letClose, when the pool has ended
	letClose  func()

	stats atomic.Pointer[plex.Stats] // of the present pool, the latest
}

// sums are the figures while the soak runs.
type sums struct {
	connections, leases, verified                   atomic.Uint64
	lost, doubled, misplaced, misdelivered, corrupt atomic.Uint64
	slowest                                         atomic.Int64 // nanoseconds
	pools                                           atomic.Uint64
	expired, scaledDown                             atomic.Uint64
	wholes, detached, answers                       atomic.Uint64
	asked, renewals, probes                         atomic.Uint64
	graceful                                        atomic.Uint64 // ends that must not lose anything, and have not
	connector                                       [connectorFaults]atomic.Uint64
	consumer                                        [consumerFaults]atomic.Uint64
	foreign                                         [foreignFaults]atomic.Uint64
}

// newSoak is a soak that has no proxies yet.
func newSoak(o options, out io.Writer) (*soak, error) {
	r, err := scaffold.New(o.Options, out)
	if err != nil {
		return nil, err
	}
	s := &soak{Run: r, options: o, before: told{at: r.Start}}
	for i := range o.lanes {
		l := &lane{soak: s, number: i, release: make(chan struct{})}
		l.book = newBook(l)
		l.beside.Wrong = func(err error) { s.fail(nil, err) }
		l.stats.Store(new(plex.Stats))
		l.present.Store(new(setup))
		s.lanes = append(s.lanes, l)
	}
	return s, nil
}

// run is a whole soak. The error is for what has nothing to do with the pool.
func run(ctx context.Context, o options, out io.Writer) (*scaffold.Figures, error) {
	s, err := newSoak(o, out)
	if err != nil {
		return nil, err
	}
	for _, l := range s.lanes {
		cfg := proxy.Config{Handler: l.serve, Script: l.script(), Counts: l.book.counts, Keep: 200}
		if err := scaffold.Serve(cfg, func(p *proxy.Proxy) { l.proxy = p }); err != nil {
			return nil, err
		}
	}
	s.Tell = s.tell
	if err := s.Rounds(ctx, s.progress, s.round); err != nil {
		return nil, err
	}
	f := s.figures()
	for _, l := range s.lanes {
		l.proxy.Close()
		l.beside.Wait()
	}
	s.Left(f)
	s.damage(f)
	return s.Verdict(f), nil
}

// round is one pool in each lane, after which nothing of them may be left.
func (s *soak) round(ctx context.Context, n int) error {
	rng := s.Rand(0x66, uint64(n))
	length := []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second}[rng.IntN(4)]
	if s.Each > 0 {
		length = s.Each
	}
	before := scaffold.Present()
	stopping, endStops := context.WithCancel(ctx)
	var stops, lanes sync.WaitGroup
	if s.options.stops {
		stops.Go(func() { s.stops(stopping, rng) })
	}
	for _, l := range s.lanes {
		lanes.Go(func() { l.onePool(ctx, n, length) })
	}
	lanes.Wait()
	endStops()
	stops.Wait()
	if err := before.Back(); err != nil {
		s.fail(nil, fmt.Errorf("round %d: %w", n, err))
	}
	return nil
}

// Rand is the source of whatever salt stands for, for pool, connection or call n of the lane.
func (l *lane) Rand(salt, n uint64) *rand.Rand {
	return l.Run.Rand(salt^uint64(l.number)<<32, n)
}

// consuming reports whether consumers shall go on.
func (l *lane) consuming() bool { return !l.stop.Load() }

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

// tell tells how it stands.
func (s *soak) tell() string {
	var text strings.Builder
	for _, l := range s.lanes {
		fmt.Fprintf(&text, "lane %d: %v\nthe latest faults:\n%s%+v\n", l.number, *l.present.Load(), l.proxy.Tell(20), *l.stats.Load())
	}
	return text.String()
}
