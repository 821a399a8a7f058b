package main

// One round: two servers behind their proxies, a pool and a layer on each, and everything that is done to them.

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/proxy"
)

// ending is how a round ends.
type ending int

const (
	endCalm     ending = iota // the faults stop, and all that is still to come has to come
	endPools                  // the pools are closed under load
	endShutdown               // they are shut down under load
	endClient                 // the client is closed under load, and then the pools
	endings
)

func (e ending) String() string {
	return [...]string{"calm", "pools closed under load", "pools shut down under load", "client closed under load"}[e]
}

// setup is a round's.
type setup struct {
	number   int
	length   time.Duration
	minimum  int
	scaling  bool
	lifetime time.Duration
	kills    time.Duration // between two; 0: none
	tls      bool          // for requests
	ids      uint64        // the largest; 0: 64 bits
	inFlight int           // 0: no bound
	loops    int
	channel  bool // instead of the loops: what is in its buffer would be overtaken by theirs
	leaves   bool // loops are left and begun anew
	end      ending
}

func (p setup) String() string {
	return fmt.Sprintf("round %d, %v: minimum %d, scaling %v, lifetime %v, kills every %v, TLS %v, identifiers to %d, "+
		"in flight %d, %d loops, left %v, a channel instead %v; %v",
		p.number, p.length, p.minimum, p.scaling, p.lifetime, p.kills, p.tls, p.ids, p.inFlight, p.loops, p.leaves,
		p.channel, p.end)
}

// draw draws how round n is set up.
func (s *soak) draw(n int) setup {
	rng := s.rng(n, 0x44)
	p := setup{number: n, end: ending(rng.IntN(int(endings))), loops: 1 + rng.IntN(8), minimum: s.o.capacity}
	p.length = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second}[rng.IntN(4)]
	if s.o.each > 0 {
		p.length = s.o.each
	}
	if n%3 == 1 {
		p.scaling, p.minimum = true, rng.IntN(s.o.capacity)
	}
	if rng.IntN(3) == 0 {
		p.lifetime = 100 * time.Millisecond
	}
	if rng.IntN(2) == 0 {
		p.kills = time.Duration(1+rng.IntN(10)) * time.Millisecond
	}
	p.tls = n%5 == 3
	p.ids = []uint64{0, 0, 1<<16 - 1, 255, 15}[rng.IntN(5)]
	if rng.IntN(3) == 0 {
		p.inFlight = 1 + rng.IntN(2*s.o.callers)
	}
	p.leaves = rng.IntN(2) == 0
	p.channel = rng.IntN(4) == 0
	return p
}

// rng is a source of the round's own.
func (s *soak) rng(n int, salt uint64) *rand.Rand {
	return rand.New(rand.NewPCG(s.o.seed^salt, uint64(n)))
}

// round is one that runs.
type round struct {
	*soak
	setup
	mercy    atomic.Bool // no new faults
	stopping atomic.Bool // no new requests and messages
	bg       sync.WaitGroup
	talking  talking
	asking   asking
}

// side is what both halves of a round have: a proxy and a pool.
type side struct {
	r     *round
	proxy *proxy.Proxy
	mux   *plex.Multiplexer
}

// round is a whole one.
func (s *soak) round(ctx context.Context, n int) error {
	r := &round{soak: s, setup: s.draw(n)}
	if s.o.verbose {
		fmt.Fprintln(s.out, r.setup)
	}
	goroutines, files := runtime.NumGoroutine(), openFiles()
	s.mu.Lock()
	s.present = r
	s.mu.Unlock()
	if err := r.open(ctx); err != nil {
		return err
	}
	if r.talking.mux != nil && r.asking.mux != nil {
		r.load(ctx)
	}
	r.patient(r, "Close", func() { r.close() })
	r.account()
	s.mu.Lock()
	s.present = nil
	s.mu.Unlock()
	end := time.Now().Add(starving)
	for runtime.NumGoroutine() > goroutines || openFiles() > files {
		if time.Now().After(end) {
			s.fail(r, fmt.Errorf("%d goroutines and %d descriptors, and before the round %d and %d",
				runtime.NumGoroutine(), openFiles(), goroutines, files))
			break
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// open starts the servers and the pools.
func (r *round) open(ctx context.Context) error {
	var server *tls.Config
	connect := func(p *proxy.Proxy) plex.Connect { return plex.Dial("tcp", p.Addr()) }
	if r.tls {
		server = r.serverTLS
	}
	r.talking.ready = make(chan struct{})
	r.talking.talker = &layers.Talker{Size: layers.Mixed, Batch: 8 << 10, Begin: r.talking.ready}
	r.asking.executor = &layers.Executor{TLS: server}
	var err error
	r.talking.side = side{r: r}
	if r.talking.proxy, err = proxy.New(proxy.Config{
		Handler: func(c *proxy.Conn) { r.talking.talker.Serve(c) }, Script: r.script(&r.talking.side, 0x1), Keep: 100,
	}); err != nil {
		return err
	}
	r.asking.side = side{r: r}
	if r.asking.proxy, err = proxy.New(proxy.Config{
		Handler: func(c *proxy.Conn) { r.asking.executor.Serve(c) }, Script: r.script(&r.asking.side, 0x2), Keep: 100,
	}); err != nil {
		return err
	}
	r.talking.mux = r.pool(ctx, connect(r.talking.proxy))
	if r.tls {
		connect = func(p *proxy.Proxy) plex.Connect {
			return plex.DialContext(&tls.Dialer{Config: r.clientTLS}, "tcp", p.Addr())
		}
	}
	r.asking.mux = r.pool(ctx, connect(r.asking.proxy))
	return nil
}

// pool makes a pool. While there are faults New may fail, and then has nothing left.
func (r *round) pool(ctx context.Context, connect plex.Connect) *plex.Multiplexer {
	opts := []plex.Option{
		plex.WithMaxCapacity(r.o.capacity), plex.WithConnector(connect), plex.WithConnectTimeout(time.Second),
		// Many connections die before they have proved their worth, and what is wanted here is many connections.
		plex.WithBackoff(func(failures int) time.Duration { return time.Millisecond * min(time.Duration(failures), 5) }),
	}
	if r.minimum > 0 {
		opts = append(opts, plex.WithMinConnections(r.minimum))
	}
	if r.scaling {
		opts = append(opts, plex.WithAutoScaling(time.Millisecond), plex.WithIdleTimeout(100*time.Millisecond))
	}
	if r.lifetime > 0 {
		opts = append(opts, plex.WithMaxLifetime(r.lifetime))
	}
	for ctx.Err() == nil {
		if m, err := plex.New(context.Background(), opts...); err == nil {
			return m
		}
	}
	return nil
}

// script is what a proxy does to connection k.
func (r *round) script(on *side, salt uint64) func(k int) proxy.Script {
	seed := r.rng(r.number, salt).Uint64()
	random := proxy.Random(seed, proxy.Rates{
		AcceptClose: 0.02, AcceptReset: 0.02, Reset: 0.45, FIN: 0.3, HalfClose: 0.15, Stall: 0.1, Slice: 0.03,
		Bytes: uint64(max(1, 1<<20/r.o.faults)), Longer: 5 * time.Millisecond,
	})
	return func(k int) proxy.Script {
		if r.mercy.Load() {
			return proxy.Script{}
		}
		r.listenerFault(on, seed, k)
		script := random(k)
		for i := range script.Steps {
			switch step := &script.Steps[i]; {
			case step.Do == proxy.Slice:
				step.Size = 64 + 64*step.Size // a byte at a time is for the tests; here it would only be slow
			case salt == 0x1 && step.Dir == proxy.Up && step.Do != proxy.Stall:
				step.Dir = proxy.Down // nothing is sent to the one that talks
			}
		}
		return script
	}
}

// listenerFault has something happen to the listener at every so many connections.
func (r *round) listenerFault(on *side, seed uint64, k int) {
	rng := rand.New(rand.NewPCG(seed, uint64(k)^0x11))
	down := time.Duration(rng.IntN(20)) * time.Millisecond
	note := func(err error) {
		if err != nil {
			r.fail(r, fmt.Errorf("the proxy: %w", err))
		}
	}
	switch n := rng.IntN(1500); {
	case k < r.o.capacity: // the pool is not open yet
	case n == 0:
		r.bg.Go(func() {
			on.proxy.Refuse()
			time.Sleep(down)
			note(on.proxy.Listen())
		})
	case n == 1:
		r.bg.Go(func() {
			note(on.proxy.PauseAccept(-1))
			time.Sleep(down)
			note(on.proxy.ResumeAccept())
		})
	case n <= 3:
		r.bg.Go(func() { note(on.proxy.Restart(down, n == 2)) })
	}
}

// load uses the pools for a while, and ends the use as the setup says.
func (r *round) load(ctx context.Context) {
	end := make(chan struct{})
	r.talking.begin()
	r.asking.begin(end)
	if r.kills > 0 {
		r.bg.Go(func() { r.killer(end) })
	}
	timer := time.NewTimer(r.length)
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	timer.Stop()
	close(end)
	switch r.end {
	case endCalm:
		r.mercy.Store(true)
		r.stopping.Store(true)
		r.patient(r, "a caller that is to stop", r.asking.callers.Wait)
		r.patient(r, "the proxy's restart", r.bg.Wait)
		r.talking.calm()
		r.asking.calm()
	case endPools:
		r.patient(r, "Close under load", func() { r.none(r.talking.mux.Close()); r.none(r.asking.mux.Close()) })
	case endShutdown:
		r.patient(r, "Shutdown under load", func() {
			r.none(r.talking.mux.Shutdown(context.Background()))
			r.none(r.asking.mux.Shutdown(context.Background()))
		})
	case endClient:
		r.patient(r, "Close of the client under load", func() { r.none(r.asking.book.Client.Close()) })
	}
	r.stopping.Store(true)
	r.patient(r, "a caller after the end", r.asking.callers.Wait)
	// A loop that ends by its ctx leaves beginnings for the next one, so these end by the pool's Close.
	r.patient(r, "Close", func() { r.none(r.talking.mux.Close()) })
	r.patient(r, "a loop over messages after the end", r.talking.loops.Wait)
	r.talking.stop()
}

// killer kills connections, as a consumer does that has found one to be of no use.
func (r *round) killer(end <-chan struct{}) {
	tick := time.NewTicker(r.kills)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-end:
			return
		case <-tick.C:
		}
		m := r.talking.mux
		if n%2 == 0 {
			m = r.asking.mux
		}
		if w, err := m.Writer(context.Background(), time.Millisecond); err == nil {
			_ = w.Kill()
		}
	}
}

func (r *round) none(err error) {
	if err != nil {
		r.fail(r, fmt.Errorf("the end of a pool: %w", err))
	}
}

// close closes all there is.
func (r *round) close() {
	r.mercy.Store(true)
	if b := r.asking.book; b != nil {
		r.none(b.Client.Close())
	}
	for _, m := range []*plex.Multiplexer{r.asking.mux, r.talking.mux} {
		if m != nil {
			r.none(m.Close())
		}
	}
	r.bg.Wait()
	r.talking.proxy.Close()
	r.asking.proxy.Close()
	r.bg.Wait()
}

// history is what is known of a round, for the story of a violation.
func (r *round) history() string {
	var text strings.Builder
	text.WriteString(r.setup.String() + "\n")
	if p := r.talking.proxy; p != nil {
		text.WriteString("the latest faults of the one that talks:\n" + p.Tell(15))
	}
	if p := r.asking.proxy; p != nil {
		text.WriteString("the latest faults of the one that is asked:\n" + p.Tell(15))
	}
	for _, m := range []*plex.Multiplexer{r.talking.mux, r.asking.mux} {
		if m != nil {
			text.WriteString(fmt.Sprintf("%+v\n", m.Stats()))
		}
	}
	if b := r.asking.book; b != nil {
		text.WriteString(fmt.Sprintf("%+v\n", b.Client.Stats()))
	}
	return text.String()
}

// openFiles counts the process's descriptors, where the system tells.
func openFiles() int {
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(dir)
}
