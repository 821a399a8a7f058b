package main

// The run: one proxy, one pool after the other, a line each second, and an end when the time is up or something was
// violated.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/oracle"
	"go.atomizer.io/plex/faulttest/proxy"
)

type soak struct {
	o     options
	start time.Time
	out   io.Writer
	proxy *proxy.Proxy
	book  *book
	sums  sums

	clientTLS *tls.Config
	serverTLS atomic.Pointer[tls.Config] // of the present pool's protocol; nil: TCP

	dials    atomic.Uint64
	mercy    atomic.Bool // no new faults
	stopping atomic.Bool // consumers end when their lease does
	bg       sync.WaitGroup
	accounts sync.WaitGroup

	pool   atomic.Pointer[plex.Multiplexer]
	cancel context.CancelFunc // ends the run

	mu        sync.Mutex
	stories   []string // the first violations, with their history
	lastStats plex.Stats
}

// sums are the figures while the soak runs.
type sums struct {
	connections, leases, verified                   atomic.Uint64
	lost, doubled, misplaced, misdelivered, corrupt atomic.Uint64
	violations                                      atomic.Uint64
	slowest                                         atomic.Int64 // nanoseconds
	pools                                           atomic.Uint64
	connector                                       [connectorFaults]atomic.Uint64
	consumer                                        [consumerFaults]atomic.Uint64
}

// run is a whole soak. The error is for what has nothing to do with the pool.
func run(parent context.Context, o options, out io.Writer) (*figures, error) {
	before := check.Before()
	s := &soak{o: o, start: time.Now(), out: &lockedWriter{w: out}}
	s.book = newBook(s)
	var err error
	var server *tls.Config
	if s.clientTLS, server, err = certificates(); err != nil {
		return nil, err
	}
	if s.proxy, err = proxy.New(proxy.Config{Handler: s.serve, Script: s.script(), Counts: s.book.counts, Keep: 200}); err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "seed %d; capacity %d, %v, %s, %d cores, GOGC %s\n",
		o.seed, o.capacity, o.length, runtime.Version(), runtime.GOMAXPROCS(0), gogc())

	var ctx context.Context
	ctx, s.cancel = context.WithTimeout(parent, o.length)
	defer s.cancel()
	progressed := make(chan struct{})
	go func() {
		defer close(progressed)
		s.progress(ctx)
	}()
	for n := 0; ctx.Err() == nil; n++ {
		p := s.drawSetup(n)
		if p.tls != nil {
			s.serverTLS.Store(server)
		} else {
			s.serverTLS.Store(nil)
		}
		s.onePool(ctx, p)
	}
	s.cancel()
	<-progressed
	f := s.figures(before)
	s.proxy.Close()
	s.bg.Wait()
	if err := before.Back(10 * time.Second); err != nil {
		s.fail(nil, err)
	}
	f.after(s)
	return f, nil
}

// lockedWriter lets several goroutines print whole lines.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

func gogc() string {
	if v := os.Getenv("GOGC"); v != "" {
		return v
	}
	return "100"
}

// consuming reports whether consumers shall go on.
func (s *soak) consuming() bool { return !s.stopping.Load() }

// background runs f; the present pool's end waits for it.
func (s *soak) background(f func()) { s.bg.Go(f) }

// check is for errors of the soak's own machinery.
func (s *soak) check(err error) {
	if err != nil {
		s.fail(nil, fmt.Errorf("the proxy: %w", err))
	}
}

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

// storiesKept is how many violations are told with their history.
const storiesKept = 3

// fail notes a violation, of the link if there is one, and ends the run.
func (s *soak) fail(l *link, err error) {
	s.sums.violations.Add(1)
	if s.cancel != nil {
		s.cancel()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.stories) >= storiesKept {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "after %v: ", time.Since(s.start).Round(time.Millisecond))
	if l == nil {
		fmt.Fprintf(&b, "%v\n", err)
	} else {
		fmt.Fprintf(&b, "connection %d (%v): %v\n  what was done with it:\n%s", l.number, l.addr.Addr, err, l.log.String())
	}
	s.stories = append(s.stories, b.String())
}

// stuck ends the process, for nothing else can be done about goroutines that hang.
func (s *soak) stuck(what string) {
	buf := make([]byte, 1<<20)
	fmt.Fprintf(os.Stderr, "\nFAILED after %v: %s\nseed %d\n%s\nthe latest faults:\n%s\n%+v\n\n%s\n",
		time.Since(s.start).Round(time.Millisecond), what, s.o.seed, strings.Join(s.stories, "\n"), s.proxy.Tell(20),
		s.lastStats, buf[:runtime.Stack(buf, true)])
	os.Exit(1)
}

// patient waits for something that has to happen, whatever the load.
func (s *soak) patient(what string, wait func()) {
	t := time.AfterFunc(3*starving, func() { s.stuck(what) })
	defer t.Stop()
	wait()
}

// watchStats looks at the pool's figures as long as it lives.
func (s *soak) watchStats(ctx context.Context, m *plex.Multiplexer) {
	var last plex.Stats
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := m.Stats()
		if err := sane(last, now); err != nil {
			s.fail(nil, fmt.Errorf("%w: %+v, and before %+v", err, now, last))
		}
		last = now
		s.mu.Lock()
		s.lastStats = now
		s.mu.Unlock()
	}
}

// sane compares a snapshot with the one before.
func sane(last, now plex.Stats) error {
	if now.Open+now.Connecting > now.Capacity {
		return errors.New("stats: more than the capacity")
	}
	least := math.MaxInt
	for _, n := range []int{
		now.Open, now.Connecting, now.IdleReaders, now.IdleWriters, now.LeasedReaders, now.LeasedWriters, now.Waiting,
	} {
		least = min(least, n)
	}
	if least < 0 {
		return errors.New("stats: a figure below zero")
	}
	for _, c := range [][2]uint64{
		{last.Acquired, now.Acquired},
		{last.Waited, now.Waited},
		{last.TimedOut, now.TimedOut},
		{last.Canceled, now.Canceled},
		{last.Connected, now.Connected},
		{last.ConnectFailed, now.ConnectFailed},
		{last.Lost, now.Lost},
		{last.Healed, now.Healed},
		{last.ScaledUp, now.ScaledUp},
		{last.ScaledDown, now.ScaledDown},
		{last.Expired, now.Expired},
		{last.Killed, now.Killed},
	} {
		if c[1] < c[0] {
			return errors.New("stats: a counter went back")
		}
	}
	return nil
}
