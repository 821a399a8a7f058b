package main

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/faulttest/proxy"
)

// between is the time between two faults: long enough for messages to get through.
const between = 15 * time.Millisecond

// endure publishes and receives while damage is done, and checks the book.
func (l *load) endure(t *testing.T, server *broker, damage func()) counts {
	t.Helper()
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

	require.NoError(t, l.quiet(server, long))
	l.arrivals(t, 200)
	require.NoError(t, l.damage(long))
	damage()
	require.NoError(t, l.quiet(server, long))
	l.arrivals(t, 200)
	cancel()
	<-done
	comes(t, "the messages of the quiet times", func() bool { return l.arrived(true) })
	l.settle(100 * time.Millisecond)

	c, stats := l.totals(), l.client.mux.Stats()
	t.Logf("%d messages: %d published, %d not sent, %d maybe sent; %d received, %d lost; %d connections lost, %d healed",
		c.begun, c.published, c.notSent, c.maybeSent, c.received, c.lost, stats.Lost, stats.Healed)
	if c.last != nil {
		t.Logf("the last failure: %v", c.last)
	}
	require.NoError(t, c.audit())
	require.Positive(t, stats.Lost)
	require.Positive(t, stats.Healed)
	// What arrived was published or may have been, and what was published arrived or was lost.
	require.Equal(t, c.published-c.lost+c.unclear, c.received)

	return c
}

// arrivals waits for so many more.
func (l *load) arrivals(t *testing.T, n int) {
	t.Helper()
	before := l.totals().received
	comes(t, "messages", func() bool { return l.totals().received >= before+n })
}

func startLoad(t *testing.T, address string) *load {
	t.Helper()
	l, err := newLoad(address, 4)
	require.NoError(t, err)
	t.Cleanup(func() { finish(t, l.client) })
	l.pace = time.Millisecond

	return l
}

// The server breaks connections, and consumers kill theirs.
func TestMessagesWhileConnectionsAreKilled(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	l := startLoad(t, s.addr())
	c := l.endure(t, s, func() {
		for i := range 60 {
			require.NoError(t, l.breakOne(s, i))
			time.Sleep(between)
		}
	})
	require.GreaterOrEqual(t, l.client.mux.Stats().Lost, uint64(30))
	require.Less(t, c.lost, c.published/10, "messages lost by 60 broken connections")
}

// Between the client and the server is a proxy that breaks connections: with a reset, with an end, in the middle of a
// message; that lets others stall, and cuts what it passes into pieces.
func TestMessagesWhileTheNetworkBreaks(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	damaging := make(chan struct{}) // closed when no connection shall have an end of its own any more
	random := proxy.Random(seed, proxy.Rates{
		Reset: 0.5, FIN: 0.3, HalfClose: 0.1, Stall: 0.2, Delay: 0.1, Slice: 0.3,
		Bytes: 100_000, Life: 200 * time.Millisecond, Timed: 0.5, Longer: 10 * time.Millisecond,
	})
	way, err := proxy.New(proxy.Config{Backend: s.addr(), Script: func(k int) proxy.Script {
		select {
		case <-damaging:
			return proxy.Script{}
		default:
			if k < 4 {
				return proxy.Script{} // the first are for the quiet time
			}

			return random(k)
		}
	}})
	require.NoError(t, err)
	t.Cleanup(way.Close)

	l := startLoad(t, way.Addr())
	l.endure(t, s, func() {
		way.ResetAll()
		comes(t, "damage", func() bool {
			for _, conn := range way.Conns() { // not all have an end of their own
				if conn.Passed(proxy.Down) > 5000 { // it was used, for more than a handshake
					conn.Reset()
					break
				}
			}
			time.Sleep(between)

			return l.client.mux.Stats().Lost >= 50
		})
		close(damaging)
		way.ResetAll()
	})
}

// The server ends and comes back on the same port, twice.
func TestMessagesWhileTheServerRestarts(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	l := startLoad(t, s.addr())
	l.patience = 50 * time.Millisecond
	c := l.endure(t, s, func() {
		for range 2 {
			s.down()
			comes(t, "a message that could not be published", func() bool { return l.totals().notSent > 0 })
			time.Sleep(5 * between)
			require.NoError(t, s.up())
			require.NoError(t, l.quiet(s, long))
			l.arrivals(t, 100)
			require.NoError(t, l.damage(long))
		}
	})
	require.Positive(t, c.notSent)
	require.GreaterOrEqual(t, l.client.mux.Stats().Lost, uint64(8))
}

// The example's own comparison, in little.
func TestMeasure(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	all := contenders(s.addr(), 2, 4)
	rates, err := measure(all, 1, 50*time.Millisecond)
	require.NoError(t, err)
	require.Len(t, rates, len(all))
	for i, c := range all {
		require.Positive(t, rates[i], c.name)
	}
}
