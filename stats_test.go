package plex_test

// The figures: what they count, and that they agree with each other.

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

func TestStatsCountWhatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, peers := l.Pairs(4)
		m := l.mux(plex.WithConnections(conns...), plex.WithMaxCapacity(6))

		want := plex.Stats{Capacity: 6, Open: 4, IdleReaders: 4, IdleWriters: 4}
		require.Equal(t, want, m.Stats())

		r1, r2, w1 := readerOf(t, m), readerOf(t, m), writerOf(t, m)
		want.IdleReaders, want.LeasedReaders, want.IdleWriters, want.LeasedWriters, want.Acquired = 2, 2, 3, 1, 3
		require.Equal(t, want, m.Stats())

		requireClosed(t, r1, r2, w1)

		want.IdleReaders, want.LeasedReaders, want.IdleWriters, want.LeasedWriters = 4, 0, 4, 0
		require.Equal(t, want, m.Stats())

		// One killed, one that the peer resets, one that the peer closes.
		require.NoError(t, writerOf(t, m).Kill())

		want.Acquired++
		want.Lost, want.Killed = 1, 1
		want.Open, want.IdleReaders, want.IdleWriters = 3, 3, 3
		synctest.Wait()
		require.Equal(t, want, m.Stats())

		r := readerOf(t, m)

		for i, c := range conns {
			if c.RemoteAddr() == r.RemoteAddr() {
				peers[i].Reset(syscall.ECONNRESET, false)
			}
		}

		_, err := r.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)

		_ = r.Close()
		want.Acquired++
		want.Lost, want.Open, want.IdleReaders, want.IdleWriters = 2, 2, 2, 2
		synctest.Wait()
		require.Equal(t, want, m.Stats())

		r = readerOf(t, m)

		for i, c := range conns {
			if c.RemoteAddr() == r.RemoteAddr() {
				peers[i].CloseWrite()
			}
		}

		_, err = r.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)

		_ = r.Close()
		want.Acquired++
		want.Lost, want.Open, want.IdleReaders, want.IdleWriters = 3, 1, 1, 1
		synctest.Wait()
		require.Equal(t, want, m.Stats())

		require.NoError(t, m.Close())

		s := m.Stats()
		require.Equal(t, [5]int{0, 0, 0, 0, 0}, [5]int{s.Open, s.IdleReaders, s.IdleWriters, s.LeasedReaders, s.LeasedWriters})
		require.EqualValues(t, 3, s.Lost, "what plex closes itself is not lost")
		require.EqualValues(t, 1, s.Killed)
	})
}

func TestStatsAreOneConsistentSnapshotAndCountersOnlyGrow(t *testing.T) {
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("connections are killed: %v", kill), func(t *testing.T) {
			l := newLedger(t)
			conns, _ := l.Pairs(4)
			m := l.mux(plex.WithConnections(conns...), plex.WithMaxCapacity(6))

			var wg sync.WaitGroup

			var added atomic.Int64
			var begun atomic.Uint64 // acquires

			stop := make(chan struct{})

			wg.Go(func() {
				for last := m.Stats(); ; {
					s := m.Stats()

					ok := assert.LessOrEqual(t, s.Open+s.Connecting, s.Capacity) &&
						assert.LessOrEqual(t, s.Acquired, begun.Load(), "a lease counts once") &&
						assert.GreaterOrEqual(t, min(s.Waiting, s.IdleReaders, s.LeasedReaders, s.IdleWriters, s.LeasedWriters), 0)
					if !kill { // otherwise one may be lost after its halves were counted, or is open while it is being closed
						ok = ok && assert.Equal(t, 4, s.IdleReaders+s.LeasedReaders, "readers") &&
							assert.Equal(t, 4, s.IdleWriters+s.LeasedWriters, "writers")
					}

					before, after := counters(last), counters(s)
					for i := range before {
						ok = ok && assert.LessOrEqual(t, before[i], after[i], "counter %d", i)
					}

					select {
					case <-stop:
						return
					default:
					}

					if last = s; !ok {
						return
					}
				}
			})

			hammer(8, 1_000, func(g, round int) {
				s := sides[(g+round)%2]

				begun.Add(1)
				x, err := s.acquire(m, context.Background(), time.Duration(round%3-1)*10*time.Microsecond)
				if err != nil {
					return
				}

				if kill && round%20 == 0 {
					_ = x.Kill()

					c, _ := l.Pair()
					rest, _ := m.Add(context.Background(), c)
					l.HandedBack(rest...)
					added.Add(int64(1 - len(rest)))
				}

				_ = x.Close()
			})

			close(stop)
			wg.Wait()

			s := m.Stats()
			n := 4 + int(added.Load()) - int(s.Lost)
			require.Equal(t, [5]int{n, n, n, 0, 0},
				[5]int{s.Open, s.IdleReaders, s.IdleWriters, s.LeasedReaders, s.LeasedWriters})
			require.Equal(t, s.Lost, s.Killed)
			require.Equal(t, kill, s.Killed > 0)
		})
	}
}

// counters are those of the stats that only ever grow.
func counters(s plex.Stats) []uint64 {
	return []uint64{
		s.Acquired, s.Waited, s.TimedOut, s.Canceled, s.Connected, s.ConnectFailed,
		s.Lost, s.Healed, s.ScaledUp, s.ScaledDown, s.Expired, s.Killed, uint64(s.WaitDuration),
	}
}
