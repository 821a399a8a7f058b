package plex_test

// Leases as seen from outside: exclusive, returned once, and over even if the transport never returns.

import (
	"context"
	"errors"
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

// The worst transport: its Read and Write return neither at a deadline nor after Close. It costs its own
// lease a few seconds, and its connection.
func TestALeaseEndsThoughTheTransportNeverReturns(t *testing.T) {
	read := func(t *testing.T, m *plex.Multiplexer) (use func(), end, kill func() error) {
		r, err := m.Reader(t.Context(), -1)
		require.NoError(t, err)
		return func() { _, _ = r.Read(make([]byte, 1)) }, r.Close, r.Kill
	}
	write := func(t *testing.T, m *plex.Multiplexer) (use func(), end, kill func() error) {
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		return func() { _, _ = w.Write([]byte("x")) }, w.Close, w.Kill
	}
	recv := func(t *testing.T, m *plex.Multiplexer) (use func(), end, kill func() error) {
		r, err := m.Reader(t.Context(), -1)
		require.NoError(t, err)
		return func() { _, err := r.RecvChunks(t.Context(), 0); assert.NoError(t, err) }, r.Close, r.Kill
	}
	send := func(t *testing.T, m *plex.Multiplexer) (use func(), end, kill func() error) {
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		return func() {
			ch, err := w.SendChunks(t.Context(), 0)
			assert.NoError(t, err)
			ch <- []byte("x")
		}, w.Close, w.Kill
	}
	for _, test := range []struct {
		name  string
		lease func(*testing.T, *plex.Multiplexer) (use func(), end, kill func() error)
		kills bool
	}{
		{"Close beside Read", read, false},
		{"Close beside Write", write, false},
		{"Close of a read stream", recv, false},
		{"Kill beside Read", read, true},
		{"Kill beside Write", write, true},
		{"Kill of a read stream", recv, true},
		{"Kill of a write stream", send, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				hang := func([]byte, func([]byte) (int, error)) (int, error) {
					<-release
					return 0, context.Canceled
				}
				c, _ := fakenet.Pair()
				c.OnRead(hang)
				c.OnWrite(hang)
				c.TreatDeadlines(fakenet.DeadlinesIgnored)
				m, err := plex.New(t.Context(), plex.WithConnections(c))
				require.NoError(t, err)
				use, end, kill := test.lease(t, m)
				go use()
				synctest.Wait()

				start, over := time.Now(), end
				if test.kills {
					over = kill
				}
				_ = over()
				assert.Less(t, time.Since(start), 10*time.Second)
				assert.ErrorIs(t, end(), plex.ErrLeaseClosed, "the lease is over")
				assert.Equal(t, 1, c.Closes(), "the connection is closed")

				close(release)
				synctest.Wait()
				s := m.Stats()
				assert.Zero(t, s.Open)
				assert.Zero(t, s.LeasedReaders+s.LeasedWriters)
				assert.NoError(t, m.Close())
			})
		})
	}
}

func TestAHalfHasAtMostOneLiveLease(t *testing.T) {
	l := newLedger(t)

	const conns, goroutines, rounds = 4, 16, 1_500

	given, _ := l.Pairs(conns)
	m := l.mux(plex.WithConnections(given...))

	var owner [2]sync.Map // by address: whose lease it is
	for _, c := range given {
		owner[0].Store(c.RemoteAddr(), new(atomic.Int64))
		owner[1].Store(c.RemoteAddr(), new(atomic.Int64))
	}

	var wrong atomic.Int64

	hammer(goroutines, rounds, func(g, round int) {
		k := (g + round) % 2

		x, err := sides[k].acquire(m, context.Background(), time.Duration(round%3)*time.Minute)
		if !assert.NoError(t, err) {
			return
		}

		v, _ := owner[k].Load(x.RemoteAddr())
		o := v.(*atomic.Int64)

		if !o.CompareAndSwap(0, int64(g+1)) {
			wrong.Add(1)
		}

		if round%4 == 0 {
			runtime.Gosched()
		}

		if round%64 == 0 {
			s := m.Stats()
			if s.LeasedReaders > conns || s.LeasedWriters > conns || s.LeasedReaders+s.LeasedWriters < 1 {
				wrong.Add(1)
			}
		}

		if !o.CompareAndSwap(int64(g+1), 0) {
			wrong.Add(1)
		}

		if x.Close() != nil || round%16 == 0 && !errors.Is(x.Close(), plex.ErrLeaseClosed) {
			wrong.Add(1)
		}
	})

	require.Zero(t, wrong.Load())
	require.EqualValues(t, goroutines*rounds, m.Stats().Acquired)

	for _, s := range sides {
		s.all(t, m, conns)
	}
}

func TestClosingALeaseManyTimesAtOncePutsItsHalfBackOnce(t *testing.T) {
	l := newLedger(t)
	given, _ := l.Pairs(2)
	m := l.mux(plex.WithConnections(given...))

	for _, s := range sides {
		for range 500 {
			x := s.must(t, m)

			var ok, again atomic.Int64

			hammer(4, 1, func(int, int) {
				switch err := x.Close(); {
				case err == nil:
					ok.Add(1)
				case errors.Is(err, plex.ErrLeaseClosed):
					again.Add(1)
				}
			})

			require.EqualValues(t, 1, ok.Load())
			require.EqualValues(t, 3, again.Load())
			require.Equal(t, 2, s.idle(m.Stats()))
		}

		s.all(t, m, 2)
	}
}

func TestReadersAndWritersAreLeasedIndependently(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(3)
		m := l.mux(plex.WithConnections(given...))

		held := []lease{s.must(l, m), s.must(l, m), s.must(l, m)}

		_, err := s.acquire(m, context.Background(), -1)
		require.ErrorIs(l, err, plex.ErrTimeout)
		s.other().all(l, m, 3)

		st := m.Stats()
		require.Equal(l, [4]int{0, 3, 3, 0}, [4]int{s.idle(st), s.leased(st), s.other().idle(st), s.other().leased(st)})

		for _, x := range held {
			require.NoError(l, x.Close())
		}
	})
}
