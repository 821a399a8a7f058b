package services

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/request"
)

// load is many callers that ask a service all the time, and the book of what became of each request.
type load struct {
	// newCaller makes the function by which one caller asks once and checks the answer. An error of it that is no
	// *request.Error says what is wrong with the answer.
	newCaller func(number int) (ask func(context.Context) error)
	stats     func() (plex.Stats, request.Stats)
	pace      time.Duration // from a caller's answer to its next request

	begun, right, wrong, notSent, maybeSent atomic.Int64

	mu         sync.Mutex
	firstWrong error
	lastFailed error
}

// run has so many callers at work until ctx ends, and returns when the last request has ended.
func (l *load) run(ctx context.Context, callers int) {
	var calling sync.WaitGroup
	for i := range callers {
		calling.Go(func() {
			for ask := l.newCaller(i); ctx.Err() == nil; time.Sleep(l.pace) {
				l.enter(ask)
			}
		})
	}
	calling.Wait()
}

// enter asks once, with a context of its own, so that the end of the run breaks no request off.
func (l *load) enter(ask func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l.begun.Add(1)
	err := ask(ctx)
	failed := new(request.Error)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.right.Add(1)
		return
	case !errors.As(err, &failed):
		l.wrong.Add(1)
		if l.firstWrong == nil {
			l.firstWrong = err
		}
		return
	case failed.MaybeSent:
		l.maybeSent.Add(1)
	default:
		l.notSent.Add(1)
	}
	l.lastFailed = err
}

// answers waits for some.
func (l *load) answers(t *testing.T) {
	t.Helper()
	before := l.right.Load()
	eventually(t, "answers", func() bool { return l.right.Load() >= before+100 })
}

// endure has callers at work while damage is done, and then until all is well again, and audits the book.
func (l *load) endure(t *testing.T, damage func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, 32)
	}()
	defer func() { // also if something has failed
		cancel()
		<-done
	}()

	l.answers(t)
	damage()
	eventually(t, "all connections", func() bool {
		pool, _ := l.stats()
		return pool.Open == pool.Capacity
	})
	l.answers(t)
	cancel()
	<-done
	l.audit(t)
}

// audit says what is not as it has to be when all is over.
func (l *load) audit(t *testing.T) {
	t.Helper()
	pool, requests := l.stats()
	t.Logf("%d requests, %d answered, %d failed that may have been sent and %d that were not; %d late replies; "+
		"%d connections lost, %d healed; the last failure: %v", l.begun.Load(), l.right.Load(), l.maybeSent.Load(),
		l.notSent.Load(), requests.Late, pool.Lost, pool.Healed, l.lastFailed)
	require.Equal(t, l.begun.Load(), l.right.Load()+l.wrong.Load()+l.notSent.Load()+l.maybeSent.Load(), "all have ended")
	require.NoError(t, l.firstWrong, "%d wrong answers", l.wrong.Load())
	require.Zero(t, requests.InFlight, "requests that are in flight")
	require.Zero(t, requests.Unknown, "replies that nobody ever waited for")
}

// breaking is a proxy that breaks connections after a while: with a reset, with an end, in the middle of a message; that
// lets others stall, and cuts what it passes into pieces. The first ones it leaves alone, or there might be no client to
// begin with. stop ends the damage, and the connections that would have been broken.
func breaking(t *testing.T, backend string, first int) (way *proxy.Proxy, stop func()) {
	t.Helper()
	var stopped atomic.Bool
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := proxy.Random(seed, proxy.Rates{
		Reset: 0.5, FIN: 0.3, HalfClose: 0.1, Stall: 0.2, Delay: 0.1, Slice: 0.2,
		Bytes: 100_000, Life: 200 * time.Millisecond, Timed: 0.5, Longer: 10 * time.Millisecond,
	})
	way = passing(t, proxy.Config{Backend: backend, Script: func(k int) proxy.Script {
		if k < first || stopped.Load() {
			return proxy.Script{}
		}
		return random(k)
	}})
	return way, func() {
		stopped.Store(true)
		way.ResetAll()
	}
}

// passing is a proxy that is closed when the test ends.
func passing(t *testing.T, config proxy.Config) *proxy.Proxy {
	t.Helper()
	way, err := proxy.New(config)
	require.NoError(t, err)
	t.Cleanup(way.Close)
	return way
}

// wearOut resets connections, beside those that end by themselves, until so many have been lost.
func wearOut(t *testing.T, way *proxy.Proxy, lost func() uint64, want uint64) {
	t.Helper()
	eventually(t, "damage", func() bool {
		for _, conn := range way.Conns() {
			if conn.Passed(proxy.Down) > 5000 { // it was used, for more than a handshake
				conn.Reset()
				break
			}
		}
		time.Sleep(pause)
		return lost() >= want
	})
}

// giveUp has callers give up again and again, when all their requests are on the way and the proxy holds the replies
// back. The late replies must be counted, and answer nobody else's request.
func (l *load) giveUp(t *testing.T, way *proxy.Proxy, ask func(context.Context) error) {
	t.Helper()
	const callers, rounds = 16, 25
	var given uint64 // up, after they were sent
	patient := l.newCaller(0)
	pool, _ := l.stats()
	eventually(t, "all connections at the proxy", func() bool { return way.Open() == pool.Open })
	for range rounds {
		for _, conn := range way.Conns() {
			conn.Stall(proxy.Down)
		}
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, callers)
		for range callers {
			go func() { errs <- ask(ctx) }()
		}
		eventually(t, "requests on their way", func() bool {
			pool, requests := l.stats()
			return requests.InFlight == callers && pool.LeasedWriters == 0 && requests.Sent == requests.Requests
		})
		cancel()
		for range callers {
			err := receive(t, "the end of a request", errs)
			require.ErrorIs(t, err, context.Canceled)
			failed := new(request.Error)
			require.ErrorAs(t, err, &failed)
			if failed.MaybeSent {
				given++
			}
		}
		for _, conn := range way.Conns() {
			conn.Resume(proxy.Down)
		}
		l.enter(patient) // among the late replies comes one that somebody waits for
		eventually(t, "late replies", func() bool {
			_, requests := l.stats()
			return requests.Late == given
		})
	}
	require.Positive(t, given)
	require.EqualValues(t, rounds, l.right.Load())
	l.audit(t)
	pool, _ = l.stats()
	require.Zero(t, pool.Lost, "connections of callers who gave up")
}
