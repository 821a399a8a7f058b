package plex_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// pings asks as a client of a line protocol does.
func pings(_ context.Context, conn net.Conn) error {
	if _, err := io.WriteString(conn, "ping\n"); err != nil {
		return err
	}
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err == nil && line != "pong\n" {
		err = errors.New("no pong")
	}
	return err
}

// answers has a peer answer each ping, and counts them.
func answers(peer *fakenet.Peer, asked *atomic.Int64) {
	go func() {
		for in := bufio.NewScanner(peer); in.Scan(); {
			asked.Add(1)
			peer.Send("pong\n")
		}
	}()
}

func TestIdleConnectionsAreProbedAndBusyOnesAreNot(t *testing.T) {
	for name, ready := range map[string]bool{"any readers": false, "ready readers": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				var asked [3]atomic.Int64
				conns, peers := l.Pairs(3)
				m := l.mux(plex.WithConnections(conns...), plex.WithProbe(8*time.Second, time.Second, pings))
				if ready {
					_, err := m.ReadyReader(t.Context(), -1)
					require.ErrorIs(t, err, plex.ErrTimeout)
				}
				for i := range peers {
					answers(peers[i], &asked[i])
				}
				busy := writerOf(t, m)
				at := busy.Conn()
				time.Sleep(9*time.Second + 500*time.Millisecond)
				for i, c := range conns {
					want := int64(1)
					if c.RemoteAddr().String() == at.RemoteAddr().String() {
						want = 0
					}
					require.Equal(t, want, asked[i].Load(), "connection %d", i)
				}
				requireClosed(t, busy)
				time.Sleep(80 * time.Second)
				for i := range peers {
					require.InDelta(t, 11, asked[i].Load(), 2, "about once in the idle time")
				}
				s := m.Stats()
				require.EqualValues(t, asked[0].Load()+asked[1].Load()+asked[2].Load(), s.Probed)
				require.Zero(t, s.Lost)
				if !ready { // and nothing of it is left
					for range 3 {
						r := readerOf(t, m)
						require.NoError(t, r.SetReadDeadline(time.Now().Add(time.Millisecond)))
						_, err := r.Read(make([]byte, 10))
						require.ErrorContains(t, err, "timeout")
						defer func() { _ = r.Close() }()
					}
				}
			})
		})
	}
}

func TestAProbeThatFailsLosesItsConnection(t *testing.T) {
	for name, test := range map[string]struct {
		ask  func(ctx context.Context, conn net.Conn) error
		says string
	}{
		"no answer":           {pings, "no answer in 1s"},
		"an error":            {func(context.Context, net.Conn) error { return errors.New("not leader any more") }, "not leader any more"},
		"a panic":             {func(context.Context, net.Conn) error { panic("at the disco") }, "at the disco"},
		"the goroutine's end": {func(context.Context, net.Conn) error { runtime.Goexit(); return nil }, "Goexit"},
		"heeding nothing":     {func(context.Context, net.Conn) error { time.Sleep(time.Hour); return nil }, "no answer in 1s"},
		"waiting for the ctx": {func(ctx context.Context, _ net.Conn) error { <-ctx.Done(); return ctx.Err() }, "no answer in 1s"},
		"a deadline of others": {func(_ context.Context, c net.Conn) error {
			_ = c.SetDeadline(time.Time{})
			_, err := c.Read(make([]byte, 1))
			return err
		}, "no answer in 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				var d diary
				var again atomic.Bool
				s := newService(l)
				began := time.Now()
				m := l.mux(d.option(), plex.WithConnector(s.connect), plex.WithMinConnections(1), plex.WithProbe(8*time.Second, time.Second,
					func(ctx context.Context, conn net.Conn) error {
						if again.Swap(true) {
							return nil
						}
						return test.ask(ctx, conn)
					}))
				time.Sleep(8*time.Second + 1500*time.Millisecond)
				stats := m.Stats()
				require.EqualValues(t, 1, stats.Lost)
				require.EqualValues(t, 1, stats.Healed)
				require.Zero(t, stats.Killed)
				var lost plex.Event
				for _, e := range d.taken() {
					if e.Kind == plex.EventLost {
						lost = e
					}
				}
				require.ErrorIs(t, lost.Err, plex.ErrProbe)
				require.ErrorContains(t, lost.Err, test.says)
				require.LessOrEqual(t, lost.Time.Sub(began), 9*time.Second+300*time.Millisecond, "within the idle time and the timeout")
				requireClosed(t, writerOf(t, m)) // of the one that has replaced it
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

func TestProbesAreSpreadInTime(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const n = 100
		var mu sync.Mutex
		var at []time.Time
		conns, _ := l.Pairs(n)
		l.mux(plex.WithConnections(conns...), plex.WithProbe(time.Minute, time.Second, func(context.Context, net.Conn) error {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Now())
			return nil
		}))
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, at, n)
		require.Greater(t, at[n-1].Sub(at[0]), 5*time.Second)
		for i := 10; i < n; i++ {
			require.NotEqual(t, at[i], at[i-10], "ten at the same time")
		}
	})
}

// What a probe is given reaches nothing once the probe is over.
func TestAProbesConnectionIsInertAfterwards(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var kept net.Conn
		m, c, _ := l.single(plex.WithProbe(8*time.Second, time.Second, func(_ context.Context, conn net.Conn) error {
			kept = conn
			return nil
		}))
		time.Sleep(8 * time.Second)
		w := writerOf(t, m)
		_, err := kept.Write([]byte("x"))
		require.ErrorIs(t, err, plex.ErrLeaseClosed)
		require.ErrorIs(t, kept.Close(), plex.ErrLeaseClosed)
		require.ErrorIs(t, kept.SetDeadline(past), plex.ErrLeaseClosed)
		read, write := c.DeadlinesLeft()
		require.True(t, read.IsZero() && write.IsZero())
		require.Zero(t, c.Written().Bytes)
		requireClosed(t, w)
	})
}

// What is there to be read is somebody's, and what is expected is to come.
func TestWhatHasSomethingToDeliverIsNotProbed(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conns, peers := l.Pairs(2)
		var asked atomic.Int64
		m := l.mux(plex.WithConnections(conns...), plex.WithProbe(8*time.Second, time.Second, func(context.Context, net.Conn) error {
			asked.Add(1)
			return nil
		}))
		_, err := m.ReadyReader(t.Context(), -1)
		require.ErrorIs(t, err, plex.ErrTimeout)
		peers[0].Send("news")
		w := writerOf(t, m)
		if w.RemoteAddr().String() == conns[0].RemoteAddr().String() {
			other := writerOf(t, m)
			requireClosed(t, w)
			w = other
		}
		defer w.Conn().Pin()()
		requireClosed(t, w)
		time.Sleep(time.Minute)
		require.Zero(t, asked.Load())
		r, err := m.ReadyReader(t.Context(), -1)
		require.NoError(t, err)
		assert.Equal(t, "news", readN(t, r, 4))
		requireClosed(t, r)
	})
}

func TestProbesEndWithThePool(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, _ := l.single(plex.WithProbe(8*time.Second, time.Minute, pings)) // which gets no answer
		time.Sleep(10 * time.Second)
		began := time.Now()
		require.NoError(t, m.Close())
		require.Less(t, time.Since(began), time.Second)
		synctest.Wait()
	})
}

// The probe of the guide asks a Redis server, and believes nothing but its answer.
func TestTheProbeOfTheGuide(t *testing.T) {
	address, stop := exampleService(func(conn net.Conn) {
		for in := bufio.NewScanner(conn); in.Scan() && in.Text() == "PING"; {
			_, _ = io.WriteString(conn, "+PONG\r\n")
		}
	})
	t.Cleanup(stop)
	l := newLedger(t)
	m, err := probed(t.Context(), address)
	require.NoError(t, err)
	l.closeAtEnd(m)
	d, err := m.Duplex(t.Context(), time.Minute)
	require.NoError(t, err)
	require.NoError(t, ping(t.Context(), d))
	require.NoError(t, d.Close())

	bubble(t, func(t *testing.T, l *ledger) {
		c, peer := l.Pair()
		defer func() { _ = c.Close() }()
		peer.Send("-ERR 42")
		require.ErrorContains(t, ping(t.Context(), c), `the answer to PING is "-ERR 42"`)
	})
}
