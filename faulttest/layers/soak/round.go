package main

// One round: two servers behind their proxies, a pool and a layer on each, and everything that is done to them. In every
// other round, one is asked by identifiers, and the other talks; in those between, one is asked in order, and the other is
// sent messages.

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/faulttest/scaffold"
	"go.atomizer.io/plex/message"
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
	scaffold.Pool
	number   int
	length   time.Duration
	kills    time.Duration // between two; 0: none
	tls      bool          // for requests
	ids      uint64        // the largest; 0: 64 bits
	inFlight int           // 0: no bound
	buffer   int           // for one Write of requests
	tight    bool          // the kernel takes little at a time, so Writes of requests are cut short anywhere
	timeout  time.Duration // of a Write of requests; 0: the default
	loops    int
	channel  bool // instead of the loops: what is in its buffer would be overtaken by theirs
	leaves   bool // loops are left and begun anew
	ordered  bool // replies come in order, and a Sender sends
	depth    int  // most unanswered on one connection, in order
	single   bool // the Sender has one connection
	tap      bool // its writes are looked at
	short    bool // it has no large messages
	queue    int  // most bytes that it keeps
	drop     message.Drop
	end      ending
}

func (p setup) String() string {
	return fmt.Sprintf("round %d, %v: minimum %d, scaling %v, lifetime %v, kills every %v, TLS %v, identifiers to %d, "+
		"in flight %d, write buffer %d, tight %v, write timeout %v, %d loops, left %v, a channel instead %v, "+
		"ordered %v, depth %d, a single connection to send %v, looked at %v, short %v, queue %d, oldest dropped %v; %v",
		p.number, p.length, p.Minimum, p.Scaling > 0, p.Lifetime, p.kills, p.tls, p.ids, p.inFlight, p.buffer, p.tight, p.timeout,
		p.loops, p.leaves,
		p.channel, p.ordered, p.depth, p.single, p.tap, p.short, p.queue, p.drop == message.DropOldest, p.end)
}

// draw draws how round n is set up.
func (s *soak) draw(n int) setup {
	rng := s.Rand(0x44, uint64(n))
	p := setup{number: n, end: ending(rng.IntN(int(endings))), loops: 1 + rng.IntN(8)}
	p.Capacity, p.Minimum = s.Capacity, s.Capacity
	p.ConnectTimeout, p.Pause, p.Pauses = time.Second, time.Millisecond, 5
	p.length = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second}[rng.IntN(4)]
	if s.Each > 0 {
		p.length = s.Each
	}
	if n%3 == 1 {
		p.Minimum = rng.IntN(s.Capacity)
		p.Scaling, p.Idle = time.Millisecond, 100*time.Millisecond
	}
	if rng.IntN(3) == 0 {
		p.Lifetime = 100 * time.Millisecond
	}
	if rng.IntN(2) == 0 {
		p.kills = time.Duration(1+rng.IntN(10)) * time.Millisecond
	}
	p.tls = n%5 == 3
	p.ids = []uint64{0, 0, 1<<16 - 1, 255, 15}[rng.IntN(5)]
	if rng.IntN(3) == 0 {
		p.inFlight = 1 + rng.IntN(2*s.callers)
	}
	p.buffer = []int{0, 300, 64 << 10, 64 << 10}[rng.IntN(4)]
	p.tight = rng.IntN(2) == 0
	if rng.IntN(3) == 0 {
		p.timeout = time.Duration(2+rng.IntN(20)) * time.Millisecond
	}
	p.leaves = rng.IntN(2) == 0
	p.channel = rng.IntN(4) == 0
	p.ordered = n%2 == 1
	p.depth = []int{1, 3, 100, 1024, 1024}[rng.IntN(5)]
	p.queue = []int{2000, 100_000, 1 << 20}[rng.IntN(3)]
	k := n / 2 // so that even a short run has each
	p.single = k%3 == 1
	p.tap = k%2 == 0 && !p.tls
	p.short = k%3 != 2
	if k%4 == 0 {
		p.queue = 20_000 // less than those who send together would like
	}
	if limit := time.Duration(2+rng.IntN(20)) * time.Millisecond; p.ordered && k%2 == 0 {
		p.timeout, p.tight = limit, true
	}
	p.drop = message.Drop(rng.IntN(2))
	return p
}

// round is one that runs.
type round struct {
	*soak
	setup
	mercy    atomic.Bool // no new faults
	stopping atomic.Bool // no new requests and messages
	beside   scaffold.Outages
	talking  talking  // if not ordered
	shipping shipping // if ordered
	asking   asking
}

// sides are those that the round has.
func (r *round) sides() []*side {
	if r.ordered {
		return []*side{&r.shipping.side, &r.asking.side}
	}
	return []*side{&r.talking.side, &r.asking.side}
}

// opened reports whether all pools are open.
func (r *round) opened() bool {
	for _, on := range r.sides() {
		if on.mux == nil {
			return false
		}
	}
	return true
}

// side is what both halves of a round have: a proxy and a pool.
type side struct {
	r     *round
	proxy *proxy.Proxy
	mux   *plex.Multiplexer
	stats atomic.Pointer[plex.Stats] // of mux, the latest
}

// newRound is round n before anything of it runs.
func (s *soak) newRound(n int) *round {
	r := &round{soak: s, setup: s.draw(n)}
	r.beside.Wrong = r.fail
	r.talking.r, r.shipping.r, r.asking.r = r, r, r
	return r
}

// round is a whole one.
func (s *soak) round(ctx context.Context, n int) error {
	r := s.newRound(n)
	if s.Verbose {
		s.Println(r.setup)
	}
	before := scaffold.Present()
	s.setNow(r)
	defer s.setNow(nil)
	if err := r.open(ctx); err != nil {
		return err
	}
	if r.opened() {
		r.load(ctx)
	}
	r.Patient("Close", r.close)
	r.account()
	r.check("the round is over", before.Back())
	return nil
}

// open starts the servers and the pools.
func (r *round) open(ctx context.Context) error {
	var server *tls.Config
	if r.tls {
		server = r.ServerTLS
	}
	r.asking.executor = &layers.Executor{TLS: server, Ordered: r.ordered, Tight: r.ordered && r.tight}
	if err := r.asking.serve(r.asking.executor.Serve, 0x2); err != nil {
		return err
	}
	over := func(p *proxy.Proxy, tap *layers.Tap) plex.Connect {
		return plex.DialContext(dialer{r, tap}, "tcp", p.Addr())
	}
	if r.ordered {
		seed := r.Rand(0x5, uint64(r.number)).Uint64()
		r.shipping.taker = &layers.Taker{
			TLS: server, Tight: r.tight, InOrder: r.single,
			Half: func(k int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(k))) },
		}
		if err := r.shipping.serve(r.shipping.taker.Serve, 0x3); err != nil {
			return err
		}
		if r.tap {
			r.shipping.tap = new(layers.Tap)
		}
		pool := r.Pool
		if r.single {
			pool.Capacity, pool.Minimum, pool.Scaling = 1, 1, 0
		}
		r.shipping.mux = pool.Open(ctx, context.Background(), over(r.shipping.proxy, r.shipping.tap))
	} else {
		r.talking.ready = make(chan struct{})
		r.talking.talker = &layers.Talker{Size: layers.Mixed, Batch: 8 << 10, Begin: r.talking.ready}
		if err := r.talking.serve(r.talking.talker.Serve, 0x1); err != nil {
			return err
		}
		r.talking.mux = r.Open(ctx, context.Background(), plex.Dial("tcp", r.talking.proxy.Addr()))
	}
	r.asking.mux = r.Open(ctx, context.Background(), over(r.asking.proxy, nil))
	return nil
}

// dialer dials for requests, and for messages that are sent.
type dialer struct {
	r   *round
	tap *layers.Tap // may be nil
}

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if d.r.tight {
		err = conn.(*net.TCPConn).SetWriteBuffer(1) // as small as there is
	}
	if d.r.tls && err == nil {
		over := tls.Client(conn, d.r.ClientTLS)
		if err = over.HandshakeContext(ctx); err == nil {
			return over, nil
		}
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	if d.tap != nil {
		return d.tap.Wrap(conn.(*net.TCPConn)), nil
	}
	return conn, nil
}

// serve starts the proxy with the server behind it.
func (on *side) serve(handler func(*proxy.Conn), salt uint64) error {
	cfg := proxy.Config{Handler: handler, Script: on.r.script(on, salt), Keep: 100}
	return scaffold.Serve(cfg, func(p *proxy.Proxy) { on.proxy = p })
}

// script is what a proxy does to connection k.
func (r *round) script(on *side, salt uint64) func(k int) proxy.Script {
	seed := r.Rand(salt, uint64(r.number)).Uint64()
	random := proxy.Random(seed, proxy.Rates{
		AcceptClose: 0.02, AcceptReset: 0.02, Reset: 0.45, FIN: 0.3, HalfClose: 0.15, Stall: 0.1, Slice: 0.03,
		Bytes: uint64(max(1, 1<<20/r.Options.Faults)), Longer: 5 * time.Millisecond,
	})
	return func(k int) proxy.Script {
		if r.mercy.Load() {
			return proxy.Script{}
		}
		r.listenerFault(on, seed, k)
		script := scaffold.Coarse(random(k))
		for i := range script.Steps {
			step := &script.Steps[i]
			if salt == 0x1 && step.Dir == proxy.Up && step.Do != proxy.Stall && step.Do != proxy.Slice {
				step.Dir = proxy.Down // nothing is sent to the one that talks
			}
			if salt == 0x3 {
				step.Dir = proxy.Up // and the one that takes messages says nothing
			}
		}
		return script
	}
}

// listenerFault has something happen to the listener at every so many connections.
func (r *round) listenerFault(on *side, seed uint64, k int) {
	rng := rand.New(rand.NewPCG(seed, uint64(k)^0x11))
	down := time.Duration(rng.IntN(20)) * time.Millisecond
	switch n := rng.IntN(1500); {
	case k < r.Capacity: // the pool is not open yet
	case n == 0:
		r.beside.Refuse(on.proxy, down)
	case n == 1:
		r.beside.Pause(on.proxy, -1, down)
	case n <= 3:
		r.beside.Restart(on.proxy, down, n == 2)
	}
}

// load uses the pools for a while, and ends the use as the setup says.
func (r *round) load(ctx context.Context) {
	end := make(chan struct{})
	ctxBeside, endBeside := context.WithCancel(context.Background())
	defer endBeside()
	for _, on := range r.sides() {
		r.beside.Go(func() { r.Watch(ctxBeside, on.mux, &on.stats) })
	}
	if r.ordered {
		r.shipping.begin(end)
	} else {
		r.talking.begin()
	}
	r.asking.begin(end)
	if r.kills > 0 {
		r.beside.Go(func() { r.killer(end) })
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
		endBeside()
		r.mercy.Store(true)
		r.stopping.Store(true)
		r.Patient("a caller that is to stop", r.asking.callers.Wait)
		r.Patient("the proxy's restart", r.beside.Wait)
		if r.ordered {
			r.shipping.taker.Mercy()
			r.Patient("a sender that is to stop", r.shipping.senders.Wait)
			r.shipping.calm()
		} else {
			r.talking.calm()
		}
		r.asking.calm()
	case endPools:
		r.Patient("Close under load", func() { r.each(func(m *plex.Multiplexer) error { return m.Close() }) })
	case endShutdown:
		r.Patient("Shutdown under load", func() {
			r.each(func(m *plex.Multiplexer) error { return m.Shutdown(context.Background()) })
		})
	case endClient:
		r.Patient("Close of the client under load", func() { r.none(r.asking.book.Client.Close()) })
		if r.ordered {
			r.Patient("Close of the sender under load", r.shipping.hurry)
		}
	}
	r.stopping.Store(true)
	r.Patient("a caller after the end", r.asking.callers.Wait)
	if r.ordered {
		r.Patient("a sender after the end", r.shipping.senders.Wait)
		return
	}
	// A loop that ends by its ctx leaves beginnings for the next one, so these end by the pool's Close.
	r.Patient("Close", func() { r.none(r.talking.mux.Close()) })
	r.Patient("a loop over messages after the end", r.talking.loops.Wait)
	r.talking.stop()
}

// each ends the pools, one after the other.
func (r *round) each(end func(*plex.Multiplexer) error) {
	for _, on := range r.sides() {
		r.none(end(on.mux))
	}
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
		m := r.sides()[n%2].mux
		if w, err := m.Writer(context.Background(), time.Millisecond); err == nil {
			_ = w.Kill()
		}
	}
}

func (r *round) none(err error) { r.check("the end of a pool", err) }

// close closes all there is.
func (r *round) close() {
	r.mercy.Store(true)
	if b := r.asking.book; b != nil {
		r.none(b.Client.Close())
	}
	for _, on := range r.sides() {
		if on.mux != nil {
			r.none(on.mux.Close())
		}
	}
	r.shipping.finish()
	r.beside.Wait()
	for _, on := range r.sides() {
		on.proxy.Close()
	}
	r.beside.Wait()
}

// history is what is known of a round, for the story of a violation.
func (r *round) history() string {
	var text strings.Builder
	text.WriteString(r.setup.String() + "\n")
	for i, on := range r.sides() {
		if on.proxy != nil {
			what := [...]string{"the one that talks or is sent messages", "the one that is asked"}[i]
			text.WriteString("the latest faults of " + what + ":\n" + on.proxy.Tell(15))
		}
		if on.mux != nil {
			fmt.Fprintf(&text, "%+v\n", on.mux.Stats())
		}
	}
	if b := r.shipping.shipped(); b != nil {
		fmt.Fprintf(&text, "%+v\n", b.Sender.Stats())
	}
	if b := r.asking.asked(); b != nil {
		fmt.Fprintf(&text, "%+v\n", b.Client.Stats())
	}
	return text.String()
}
