package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// endure has callers at work while damage is done, and then until all is well again, and checks the book.
func endure(t *testing.T, c *client, damage func(l *load)) *load {
	t.Helper()
	l := &load{client: c, patience: long, pace: time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, 16)
	}()
	defer func() { // also if something has failed
		cancel()
		<-done
	}()

	l.answers(t)
	damage(l)
	capacity := c.mux.Stats().Capacity
	comes(t, "all streams", func() bool { return c.mux.Stats().Open == capacity })
	l.answers(t)
	cancel()
	<-done

	stats := c.mux.Stats()
	t.Logf("%d requests: %d answered, %d not sent, %d maybe sent; %d streams lost, %d healed; %d dials",
		l.begun.Load(), l.answered.Load(), l.notSent.Load(), l.maybeSent.Load(), stats.Lost, stats.Healed, c.dialer.Dials())
	if l.lastFail != nil {
		t.Logf("the last failure: %v", l.lastFail)
	}
	require.NoError(t, l.audit())
	require.Positive(t, stats.Lost)

	return l
}

// answers waits for some.
func (l *load) answers(t *testing.T) {
	t.Helper()
	before := l.answered.Load()
	comes(t, "answers", func() bool { return l.answered.Load() >= before+100 })
}

// While nothing is broken, nothing fails.
func TestRequestsWithoutFaults(t *testing.T) {
	balance(t)
	_, c := start(t, 4)
	l := &load{client: c, patience: long}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, 16)
	}()
	comes(t, "answers", func() bool { return l.answered.Load() >= 5000 })
	cancel()
	<-done
	require.NoError(t, l.audit())
	require.Zero(t, l.failed(), "%v", l.lastFail)
	require.Zero(t, c.mux.Stats().Lost)
	require.Equal(t, 1, c.dialer.Dials())
}

func TestRequestsWhileTheServerClosesTheConnection(t *testing.T) {
	balance(t)
	s, c := start(t, 4)
	const closes = 10
	l := endure(t, c, func(l *load) {
		for range closes {
			require.True(t, s.closeOne())
			l.answers(t)
		}
	})
	require.Positive(t, l.maybeSent.Load())
	require.GreaterOrEqual(t, c.mux.Stats().Lost, uint64(closes))
	require.Equal(t, 1+closes, c.dialer.Dials())
}

// The server goes without a word. That it is gone is found when it says nothing any more, or, when it is back, that it
// knows nothing of the connection.
func TestRequestsWhileTheServerRestarts(t *testing.T) {
	for name, outage := range map[string]time.Duration{
		"for a moment": 20 * time.Millisecond, "for longer than it takes to find out": idleTimeout + idleTimeout/2,
	} {
		t.Run(name, func(t *testing.T) {
			balance(t)
			s, c := start(t, 4)
			endure(t, c, func(*load) {
				require.NoError(t, s.down())
				time.Sleep(outage)
				require.NoError(t, s.up())
				comes(t, "the end of the old streams", func() bool { return c.mux.Stats().Lost >= 4 })
			})
		})
	}
}
