package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// endure has callers query while damage is done, and then until all is well again, and checks the book.
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
	t.Logf("%d queries, %d answered, %d failed: %d maybe sent, %d not; %d gave up, %d late; %d connections lost",
		l.asked.Load(), l.answered.Load(), l.failed(), l.maybeSent.Load(), l.notSent.Load(), l.gaveUp.Load(),
		requests.Late, pool.Lost)
	if l.lastFail != nil {
		t.Logf("the last failure: %v", l.lastFail)
	}
	require.NoError(t, l.audit())
	require.Positive(t, pool.Lost)
	require.Positive(t, pool.Healed)
	require.Zero(t, requests.InFlight, "queries that are in flight")
	require.Zero(t, requests.Unknown, "replies that nobody ever waited for")
}

// answers waits for some.
func (l *load) answers(t *testing.T) {
	t.Helper()
	before := l.answered.Load()
	comes(t, "answers", func() bool { return l.answered.Load() >= before+100 })
}

// pause is the time between two faults: long enough for queries to get through.
const pause = 20 * time.Millisecond

func TestQueriesWhileConnectionsBreak(t *testing.T) {
	transports(t, func(t *testing.T, overTLS bool) {
		l := &load{patience: long, pace: time.Millisecond, lateOne: 8}
		s, connect := start(t, overTLS, func(s *server) { s.heard = l.hear })
		l.client = dial(t, connect, 4)

		l.endure(t, func() {
			for i := 0; i < 40; {
				if s.breakOne(i%2 == 0) {
					i++
				}
				time.Sleep(pause)
			}
		})
	})
}

func TestQueriesWhileTheServerRestarts(t *testing.T) {
	transports(t, func(t *testing.T, overTLS bool) {
		l := &load{patience: long, pace: time.Millisecond, lateOne: 8}
		s, connect := start(t, overTLS, func(s *server) { s.heard = l.hear })
		l.client = dial(t, connect, 4)

		l.endure(t, func() {
			for range 3 {
				require.NoError(t, s.down())
				time.Sleep(5 * pause)
				require.NoError(t, s.up())
				l.answers(t)
			}
		})
	})
}

// Callers that give up leave replies behind which nobody waits for: they are counted, and answer nobody else's query,
// though there are few identifiers and each is used again and again.
func TestCallersThatGiveUp(t *testing.T) {
	transports(t, func(t *testing.T, overTLS bool) {
		l := &load{patience: lateness / 2, lateOne: 4}
		_, connect := start(t, overTLS, func(s *server) { s.heard = l.hear })
		l.client = dial(t, connect, 4)

		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run(ctx, 32)
		}()
		comes(t, "late replies", func() bool { return l.client.requests.Stats().Late > 500 })
		cancel()
		<-done
		comes(t, "the last late reply", func() bool { return l.client.requests.Stats().Abandoned == 0 })

		requests := l.client.requests.Stats()
		require.NoError(t, l.audit())
		require.Positive(t, l.answered.Load())
		require.GreaterOrEqual(t, uint64(l.gaveUp.Load()), requests.Late)
		require.Zero(t, requests.InFlight, "queries that are in flight")
		require.Zero(t, requests.Unknown, "replies that nobody ever waited for")
		// A connection is lost only if its caller gave up in the middle of a write, on a very busy machine.
	})
}
