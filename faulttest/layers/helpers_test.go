package layers_test

// The world of a test: the seed, a proxy with a server behind it, a pool, receivers or callers on it, and the balance
// at the end, which no test can leave out.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// patience bounds whatever has to happen at some time. It decides nothing on a machine that is merely busy.
const patience = time.Minute

var (
	seedFlag = flag.Uint64("seed", 0, "seed of everything random; 0 is a new one (environment: PLEX_SEED)")
	seed     uint64
)

func TestMain(m *testing.M) {
	flag.Parse()
	seed = *seedFlag
	if s := os.Getenv("PLEX_SEED"); seed == 0 && s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			fmt.Fprintln(os.Stderr, "PLEX_SEED:", err)
			os.Exit(2)
		}
	}
	if seed == 0 {
		seed = rand.Uint64()
	}
	code := m.Run()
	if code != 0 || testing.Verbose() {
		fmt.Fprintf(os.Stderr, "seed %d; to have the same again: go test ./layers -seed %d\n", seed, seed)
	}
	os.Exit(code)
}

// testSeed is the test's own, so that it does not depend on which tests have run before.
func testSeed(t testing.TB) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(t.Name())) // a hash never fails
	return seed ^ h.Sum64()
}

func random(t testing.TB) *rand.Rand { return rand.New(rand.NewPCG(testSeed(t), 1)) }

// balanced has the tests that have called balance.
var balanced sync.Map

// balance has the test fail unless the process has at its end what it has now. The first call of a test counts.
func balance(t testing.TB) {
	if _, again := balanced.LoadOrStore(t, nil); again {
		return
	}
	before := check.Before()
	t.Cleanup(func() {
		if err := before.Back(patience); err != nil {
			t.Error(err)
		}
	})
}

// serve starts a proxy with a server in its place, which ends with the test.
func serve(t testing.TB, cfg proxy.Config) *proxy.Proxy {
	t.Helper()
	balance(t)
	p, err := proxy.New(cfg)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// quick is a backoff for tests in which connections die faster than they can prove their worth.
func quick(int) time.Duration { return time.Millisecond }

// mux makes a pool of n connections to p, with opts on top, that is closed at the test's end, when nothing of it may be
// in use.
func mux(t testing.TB, p *proxy.Proxy, n int, opts ...plex.Option) *plex.Multiplexer {
	t.Helper()
	return muxOf(t, append([]plex.Option{
		plex.WithMaxCapacity(n), plex.WithMinConnections(n), plex.WithConnector(plex.Dial("tcp", p.Addr())),
		plex.WithBackoff(quick),
	}, opts...)...)
}

// lazy is mux without a connection at the start and with scaling.
func lazy(t testing.TB, p *proxy.Proxy, n int, opts ...plex.Option) *plex.Multiplexer {
	t.Helper()
	return muxOf(t, append([]plex.Option{
		plex.WithMaxCapacity(n), plex.WithConnector(plex.Dial("tcp", p.Addr())), plex.WithBackoff(quick),
		plex.WithAutoScaling(time.Millisecond), plex.WithIdleTimeout(30 * time.Millisecond),
	}, opts...)...)
}

func muxOf(t testing.TB, opts ...plex.Option) *plex.Multiplexer {
	t.Helper()
	balance(t)
	m, err := plex.New(context.Background(), opts...)
	require.NoError(t, err)
	t.Cleanup(func() {
		if s := m.Stats(); s.LeasedReaders+s.LeasedWriters+s.Waiting+s.WaitingReady != 0 {
			t.Errorf("in use at the test's end: %+v", s)
		}
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if s := m.Stats(); s.Open+s.IdleReaders+s.IdleWriters != 0 {
			t.Errorf("after Close: %+v", s)
		}
	})
	return m
}

// eventually waits until ok.
func eventually(t testing.TB, ok func() bool, what string, args ...any) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			require.FailNow(t, "did not happen in time", append([]any{what}, args...)...)
		}
	}
}

// enough reports whether a test that has random things happen since a moment may stop: not before so long, and then as
// soon as what it needs has happened, if that happens at all.
func enough(began time.Time, least time.Duration, has func() bool) bool {
	took := time.Since(began)
	return took >= least && (has() || took > patience/2)
}

// within fails the test if f takes longer than patience, and shows where it is.
func within(what string, f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		panic(what + " hangs") // which shows all goroutines, as nothing else does
	}
}

// hearing is a receiver on a pool and the loops that take its messages into the book.
type hearing struct {
	testing.TB
	*layers.Heard
	m        *plex.Multiplexer
	receiver *message.Receiver
	end      context.CancelFunc
	loops    sync.WaitGroup

	mu   sync.Mutex
	ends []error // of the loops
}

// hear starts loops that end with the test, or by stop. observe, if it is not nil, is called with each pair first.
func hear(t testing.TB, m *plex.Multiplexer, loops int, size func(k, seq uint32) int,
	observe func(message.Message, error), opts ...message.Option,
) *hearing {
	t.Helper()
	split := layers.Framing.Split
	return hearBy(t, m, split, loops, size, observe, append([]message.Option{message.WithMaxSize(layers.MaxSize)},
		opts...)...)
}

func hearBy(t testing.TB, m *plex.Multiplexer, split func([]byte, bool) (int, []byte, error), loops int,
	size func(k, seq uint32) int, observe func(message.Message, error), opts ...message.Option,
) *hearing {
	t.Helper()
	h := &hearing{TB: t, Heard: &layers.Heard{Size: size}, m: m}
	var err error
	h.receiver, err = message.New(m, split, opts...)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	h.end = cancel
	for range loops {
		h.loops.Go(func() {
			ear := h.Ear()
			var last error
			for msg, err := range h.receiver.All(ctx) {
				if observe != nil {
					observe(msg, err)
				}
				last = err
				ear.Take(msg, err)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			h.ends = append(h.ends, last)
		})
	}
	t.Cleanup(func() { h.stop() })
	return h
}

// listening waits until a loop waits for messages. Before anyone has done that, plex does not keep all that connections
// leave which have ended.
func (h *hearing) listening() {
	h.Helper()
	eventually(h, func() bool { return h.m.Stats().WaitingReady > 0 }, "a loop listens")
}

// stop ends the loops, and returns the last error of each.
func (h *hearing) stop() []error {
	h.end()
	within("a loop over messages", h.loops.Wait)
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ends
}

// all has the talker begin no more messages, waits until everything that has to come has come, and returns the number
// of connections that this is true of.
func (h *hearing) all(talker *layers.Talker, p *proxy.Proxy, closed bool) (n int) {
	h.Helper()
	talker.Quiet()
	var err error
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		n, err = h.Compare(talker, layers.Strict{Finished: true, Closed: closed, Live: true})
		if err == nil || time.Now().After(end) {
			break
		}
	}
	require.NoError(h, errors.Join(err, h.Err()), p.Tell(30))
	return n
}

// over closes the pool and the server, and checks that what has come is right, and that nothing is left in the
// receiver.
func (h *hearing) over(talker *layers.Talker, p *proxy.Proxy) {
	h.Helper()
	within("Close", func() { require.NoError(h, h.m.Close()) })
	within("a loop over messages", h.loops.Wait) // by ErrClosed: one that its ctx ends leaves beginnings for the next
	h.stop()
	within("the server", p.Close)
	_, err := h.Compare(talker, layers.Strict{})
	require.NoError(h, errors.Join(err, h.Err()), p.Tell(30))
	nothingLeft(h, h.receiver)
}

// nothingLeft checks that a receiver or a client has forgotten all connections. Plex tells of their ends in goroutines
// of its own.
func nothingLeft(t testing.TB, layer any) {
	t.Helper()
	left, what := 0, ""
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if left, what = layers.Left(layer); left == 0 || time.Now().After(end) {
			break
		}
	}
	require.Zero(t, left, "left in %T:%s", layer, what)
}

// asking is a client on a pool, with its book.
type asking struct {
	testing.TB
	*layers.Asked
	m *plex.Multiplexer
	e *layers.Executor
	p *proxy.Proxy
}

// ask makes a client that ends with the test. The server is e.
func ask(t testing.TB, m *plex.Multiplexer, e *layers.Executor, p *proxy.Proxy, opts ...request.Option) *asking {
	t.Helper()
	a, err := layers.NewAsked(m, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { within("Close", func() { require.NoError(t, a.Client.Close()) }) })
	return &asking{TB: t, Asked: a, m: m, e: e, p: p}
}

// over closes all, and checks that what the callers were told is what has happened and that nothing is left.
func (a *asking) over() {
	a.Helper()
	within("the client's Close", func() { require.NoError(a, a.Client.Close()) })
	within("Close", func() { require.NoError(a, a.m.Close()) })
	within("the server", a.p.Close)
	require.NoError(a, a.Compare(a.e), a.p.Tell(30))
	require.NoError(a, a.Odd(), "an error that says neither what went wrong nor where")
	s := a.Client.Stats()
	require.Zero(a, [3]int{s.Waiting, s.InFlight, s.Abandoned}, "left in the client")
	nothingLeft(a, a.Client)
}

// must asks and gets the reply.
func (a *asking) must(ctx context.Context, q layers.Ask) {
	a.Helper()
	o, err := a.Do(ctx, q)
	require.NoError(a, err, a.p.Tell(30))
	require.Equal(a, layers.Replied, o)
}

// together has n callers ask at the same time, once for each step, and waits for them.
func (a *asking) together(n int, caller func(i int, rng *rand.Rand)) {
	a.Helper()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { caller(i, rand.New(rand.NewPCG(testSeed(a.TB), uint64(i)))) })
	}
	within("a call of Do", all.Wait)
}
