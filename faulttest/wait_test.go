package faulttest_test

// Waiting for a lease: cancelled, in crowds, and while dials are slow.

import (
	"context"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Row "ctx cancelled while waiting": nothing taken, or given back.
// Catches: a half that stays with a caller who has gone, a canceled wait counted as a loss.
func TestFaultContextCancelledWhileWaiting(t *testing.T) {
	w := newWorld(t, 1, proxy.Config{})
	m := w.mux()
	held := reader(t, m)
	for range 500 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		_, err := m.Reader(ctx, 0)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var ne net.Error
		require.ErrorAs(t, err, &ne)
		require.True(t, ne.Timeout())
	}
	require.Equal(t, 1, m.Stats().LeasedReaders)
	require.NoError(t, held.Close())

	// With a half idle, a dead ctx takes nothing either.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 500 {
		_, err := m.Reader(ctx, 0)
		require.ErrorIs(t, err, context.Canceled)
	}
	s := m.Stats()
	require.Equal(t, [3]int{1, 0, 0}, [3]int{s.IdleReaders, s.LeasedReaders, s.Waiting})
	require.EqualValues(t, 1000, s.Canceled)
	require.Zero(t, s.Lost)
}

// Row "cancel races the hand-over": one owner, one release.
// Catches: a half lost between the waiter who left and the one who comes next; two owners; a slow dial's connection
// thrown away because the waiter whom it was for has gone.
func TestFaultCancelRacesTheHandOver(t *testing.T) {
	t.Run("release", func(t *testing.T) {
		w := newWorld(t, 1, proxy.Config{})
		m := w.mux()
		rng := random(t)
		won := 0
		procs := runtime.GOMAXPROCS(0)
		defer runtime.GOMAXPROCS(procs)
		for i := range 2000 {
			if i%500 == 0 { // with one, both happen before the waiter can look at either
				runtime.GOMAXPROCS(1 + i/500%2*(procs-1))
			}
			held := reader(t, m)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			got := false
			wg.Go(func() {
				r, err := m.Reader(ctx, 0)
				if err != nil {
					return
				}
				got = true
				if err := r.Close(); err != nil {
					t.Errorf("the lease that was handed over: %v", err)
				}
			})
			for m.Stats().Waiting == 0 {
				runtime.Gosched()
			}
			first, second := cancel, func() { _ = held.Close() }
			if rng.IntN(2) == 0 {
				first, second = second, first
			}
			if i%2 == 0 {
				first()
			} else {
				wg.Go(first)
			}
			second()
			wg.Wait()
			cancel()
			if got {
				won++
			}
			s := m.Stats()
			require.Equal(t, [3]int{1, 0, 0}, [3]int{s.IdleReaders, s.LeasedReaders, s.Waiting})
		}
		require.NotZero(t, won)
		require.NotEqual(t, 2000, won)
	})
	t.Run("slow dial", func(t *testing.T) {
		for range 50 {
			w := newWorld(t, 1, proxy.Config{})
			inner := w.book.Dial(w.Addr())
			ctx, cancel := context.WithCancel(t.Context())
			m := w.bare(plex.WithConnector(func(c context.Context, conn net.Conn) error {
				err := inner(c, conn)
				go cancel() // while the connection is on its way to the waiter
				return err
			}))
			if r, err := m.Reader(ctx, 0); err == nil {
				require.NoError(t, r.Close())
			}
			eventually(t, func() bool { s := m.Stats(); return s.IdleReaders == 1 && s.IdleWriters == 1 }, "it is kept")
			require.Zero(t, m.Stats().Lost)
			require.EqualValues(t, 1, m.Stats().Connected, "what is there is counted")
			require.NoError(t, m.Close())
			w.Proxy.Close()
		}
	})
}

// Row "10,000 waiters, many cancelling": FIFO, cheap.
// Catches: waiters served out of order or not at all.
func TestFaultTenThousandWaitersManyCancelling(t *testing.T) {
	rng := random(t)
	synctest.Test(t, func(t *testing.T) { // where it can be known that all of a group are in the queue
		const groups, size = 50, 200
		client, server := net.Pipe()
		m := newMux(t, plex.WithConnections(client))
		defer server.Close()
		held := writer(t, m)
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		cancels := make([]context.CancelFunc, 0, groups*size/2)
		stay := 0
		for g := range groups {
			for range size {
				ctx, cancel := context.WithCancel(t.Context())
				leaves := rng.IntN(2) == 0
				if leaves {
					cancels = append(cancels, cancel)
				} else {
					defer cancel()
					stay++
				}
				wg.Go(func() {
					wr, err := m.Writer(ctx, 0)
					switch {
					case err != nil && leaves:
					case err != nil:
						t.Errorf("a waiter who stayed: %v", err)
					default:
						if !leaves {
							mu.Lock()
							order = append(order, g)
							mu.Unlock()
						}
						if err := wr.Close(); err != nil {
							t.Error(err)
						}
					}
				})
			}
			synctest.Wait()
			require.Equal(t, (g+1)*size, m.Stats().Waiting)
		}

		rng.Shuffle(len(cancels), func(i, j int) { cancels[i], cancels[j] = cancels[j], cancels[i] })
		half := len(cancels) / 2
		for _, cancel := range cancels[:half] {
			cancel()
		}
		wg.Go(func() { // the others leave while they are being served
			for _, cancel := range cancels[half:] {
				cancel()
			}
		})
		require.NoError(t, held.Close())
		wg.Wait()
		require.Len(t, order, stay)
		require.True(t, slices.IsSorted(order), "first come, first served")
		s := m.Stats()
		require.Equal(t, [3]int{1, 0, 0}, [3]int{s.IdleWriters, s.LeasedWriters, s.Waiting})
		require.EqualValues(t, groups*size, s.Waited)
	})
}

// Row "burst of waiters while dials are slow": capacity held.
// Catches: a dial for every waiter (fatih/pool), counted after it has been made.
func TestFaultBurstOfWaitersWhileDialsAreSlow(t *testing.T) {
	w := newWorld(t, 4, proxy.Config{})
	inner := w.book.Dial(w.Addr())
	var inside, most atomic.Int32
	m := w.bare(plex.WithMaxCapacity(4), plex.WithAutoScaling(time.Millisecond),
		plex.WithConnector(func(ctx context.Context, conn net.Conn) error {
			n := inside.Add(1)
			defer inside.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			time.Sleep(50 * time.Millisecond)
			return inner(ctx, conn)
		}))
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			wr, err := m.Writer(t.Context(), patience)
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Millisecond)
			if s := m.Stats(); s.Open+s.Connecting > 4 {
				t.Errorf("%+v", s)
			}
			if err := wr.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	within(t, "the burst", wg.Wait)
	eventually(t, func() bool { return m.Stats().Connecting == 0 }, "no connect is under way")
	require.LessOrEqual(t, most.Load(), int32(4))
	require.LessOrEqual(t, w.Accepted(), 4)
	require.Positive(t, m.Stats().ScaledUp)
}
