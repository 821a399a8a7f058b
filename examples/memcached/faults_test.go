package main

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/faulttest/proxy"
)

// pause is the time between two faults: long enough for requests to get through.
const pause = 20 * time.Millisecond

// endure has callers at work while damage is done, and then until all is well again, and checks the book.
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
	capacity := l.client.mux.Stats().Capacity
	comes(t, "all connections", func() bool { return l.client.mux.Stats().Open == capacity })
	l.answers(t)
	cancel()
	<-done

	pool, requests := l.client.mux.Stats(), l.client.requests.Stats()
	t.Logf("%d requests, %d answered, %d failed: %d maybe sent, %d not; %d gave up, %d late; %d connections lost",
		l.begun.Load(), l.answered(), l.failed(), l.maybeSent.Load(), l.notSent.Load(), l.gaveUp.Load(),
		requests.Late, pool.Lost)
	if l.lastFail != nil {
		t.Logf("the last failure: %v", l.lastFail)
	}
	require.NoError(t, l.audit())
	require.Positive(t, pool.Lost)
	require.Positive(t, pool.Healed)
	require.Zero(t, requests.InFlight, "requests that are in flight")
	require.Zero(t, requests.Unknown, "replies that nobody ever waited for")
}

// answers waits for some.
func (l *load) answers(t *testing.T) {
	t.Helper()
	before := l.answered()
	comes(t, "answers", func() bool { return l.answered() >= before+100 })
}

// Between the client and the server is a proxy that breaks connections after a while: with a reset, with an end, in the
// middle of a message; that lets others stall, and cuts what it passes into pieces.
func TestRequestsWhileConnectionsBreak(t *testing.T) {
	servers(t, func(t *testing.T, server backend) {
		const connections = 4
		seed := rand.Uint64()
		random := proxy.Random(seed, proxy.Rates{
			Reset: 0.5, FIN: 0.3, HalfClose: 0.1, Stall: 0.2, Delay: 0.1, Slice: 0.2,
			Bytes: 200_000, Life: 200 * time.Millisecond, Timed: 0.5, Longer: 10 * time.Millisecond,
		})
		way, err := proxy.New(proxy.Config{Backend: server.addr(), Script: func(k int) proxy.Script {
			if k < connections {
				return proxy.Script{} // or there may be no client to begin with
			}

			return random(k)
		}})
		require.NoError(t, err)
		t.Cleanup(way.Close)
		t.Logf("seed %d", seed)

		l := &load{client: dial(t, way.Addr(), connections), patience: long, pace: time.Millisecond}
		l.endure(t, func() {
			comes(t, "damage", func() bool {
				for _, conn := range way.Conns() { // not all have an end of their own
					if conn.Passed(proxy.Down) > 5000 { // it was used, for more than a handshake
						conn.Reset()
						break
					}
				}
				time.Sleep(pause)

				return l.client.mux.Stats().Lost >= 50
			})
		})
		require.Zero(t, l.forgotten.Load(), "keys that nobody had the server forget")
	})
}

// The server ends by itself, or has no time for it, and comes back on the same port with nothing of what it knew.
func TestRequestsWhileTheServerRestarts(t *testing.T) {
	servers(t, func(t *testing.T, server backend) {
		l := &load{client: dial(t, server.addr(), 4), patience: long, pace: time.Millisecond}
		l.endure(t, func() {
			for _, kill := range []bool{false, true} {
				if s, ok := server.(*installed); ok {
					s.kill = kill
				}
				l.restarts.Add(1)
				require.NoError(t, server.down())
				l.restarts.Add(1)
				time.Sleep(5 * pause)
				require.NoError(t, server.up())
				l.answers(t)
			}
		})
		require.Positive(t, l.forgotten.Load(), "keys that the restarted server does not know")
	})
}

// Callers that give up leave replies behind which nobody waits for. They are counted, and answer nobody else's request.
func TestCallersThatGiveUp(t *testing.T) {
	servers(t, func(t *testing.T, server backend) {
		const delay = 10 * time.Millisecond
		way, err := proxy.New(proxy.Config{Backend: server.addr(), Script: func(k int) proxy.Script {
			if k%2 == 0 {
				return proxy.Script{}
			}

			return proxy.Script{Steps: []proxy.Step{{Do: proxy.Delay, Dir: proxy.Down, After: 1000, For: delay}}}
		}})
		require.NoError(t, err)
		t.Cleanup(way.Close)

		l := &load{client: dial(t, way.Addr(), 4), patience: delay / 2}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run(ctx, 16)
		}()
		comes(t, "late replies", func() bool { return l.client.requests.Stats().Late > 200 })
		cancel()
		<-done

		require.NoError(t, l.audit())
		require.Positive(t, l.hits.Load())
		require.Positive(t, l.gaveUp.Load())
		require.Zero(t, l.client.requests.Stats().InFlight, "requests that are in flight")
		require.Zero(t, l.client.requests.Stats().Unknown, "replies that nobody ever waited for")
		require.Zero(t, l.client.mux.Stats().Lost)
	})
}
