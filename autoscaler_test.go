package plex_test

// The auto-scaler: who gets a connection because he waited, and which go when nobody needs them.

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

const scaleAfter = 50 * time.Millisecond

// scaling makes a multiplexer of n given connections with auto-scaling up to the capacity.
func (l *ledger) scaling(n, capacity int, connect plex.Connect, opts ...plex.Option) (*plex.Multiplexer, []net.Conn, []*fakenet.Peer) {
	l.Helper()
	conns, peers := l.Pairs(n)

	return l.mux(append([]plex.Option{
		plex.WithConnections(conns...), plex.WithMaxCapacity(capacity),
		plex.WithConnector(connect), plex.WithAutoScaling(scaleAfter),
	}, opts...)...), conns, peers
}

// leaseAll leases both halves of n connections, which must be idle, and returns what puts them back.
func leaseAll(t testing.TB, m *plex.Multiplexer, n int) (release func()) {
	t.Helper()

	var leases []io.Closer
	for range n {
		leases = append(leases, readerOf(t, m), writerOf(t, m))
	}

	return func() {
		t.Helper()
		requireClosed(t, leases...)
	}
}

// closeAll puts back what the waiters have got.
func closeAll(t testing.TB, waiters ...<-chan waiter) {
	t.Helper()

	for _, ch := range waiters {
		requireClosed(t, got(t, ch).lease())
	}
}

// ---------------------------------------------------------------------------------------------------------------
// Up

func TestAWaitThatIsLongerThanTheTimeoutAddsAConnection(t *testing.T) {
	for name, want := range map[string]func(context.Context, *plex.Multiplexer, time.Duration) <-chan waiter{
		"reader": wantReader, "writer": wantWriter,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c := newConnector(l)
				m, conns, _ := l.scaling(1, 3, c.connect)
				release := leaseAll(t, m, 1)
				began := time.Now()
				waiting := want(t.Context(), m, 0)

				time.Sleep(scaleAfter - 1)
				_ = c.unanswered(0)
				time.Sleep(time.Nanosecond)

				call := c.unanswered(1)[0]
				require.Equal(t, conns[0].RemoteAddr(), call.Handle.RemoteAddr())
				require.Equal(t, []int{1, 1, 1}, []int{m.Stats().Open, m.Stats().Connecting, m.Stats().Waiting})

				time.Sleep(210 * time.Millisecond)

				fresh, _ := l.Pair()
				call.Succeed(fresh)

				a := got(t, waiting)
				require.Equal(t, scaleAfter+210*time.Millisecond, a.at.Sub(began))
				require.Equal(t, fresh.RemoteAddr(), a.lease().RemoteAddr())

				s := m.Stats()
				require.Equal(t, []int{2, 0, 0}, []int{s.Open, s.Connecting, s.Waiting})
				require.Equal(t, []uint64{1, 1, 0, 0}, []uint64{s.ScaledUp, s.Connected, s.Healed, s.ScaledDown})
				require.Equal(t, scaleAfter+210*time.Millisecond, s.WaitDuration)
				requireClosed(t, a.lease())
				release()
				time.Sleep(time.Minute)
				require.Equal(t, 1, c.Total())
			})
		})
	}
}

func TestWaitsShorterThanTheTimeoutNeverScale(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m, _, _ := l.scaling(1, 4, s.connect)

		for range 500 {
			release := leaseAll(t, m, 1)
			served := wantReader(t.Context(), m, 0)
			ctx, cancel := context.WithTimeout(t.Context(), scaleAfter-1)
			byTimeout, byCtx := wantWriter(t.Context(), m, scaleAfter-1), wantReader(ctx, m, 0)

			require.ErrorIs(t, (<-byTimeout).err, plex.ErrTimeout)
			require.ErrorIs(t, (<-byCtx).err, context.DeadlineExceeded)
			requirePending(t, served, "a wait")
			release()
			closeAll(t, served)
			cancel()
		}

		time.Sleep(time.Minute)
		require.Zero(t, s.Total())
	})
}

func TestAWaiterTakesWhateverComesFirst(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		m, conns, _ := l.scaling(1, 3, c.connect)
		release := leaseAll(t, m, 1)

		waiting := wantReader(t.Context(), m, 0)
		time.Sleep(scaleAfter)

		call := c.unanswered(1)[0]

		release()

		first := got(t, waiting).lease()
		require.Equal(t, conns[0].RemoteAddr(), first.RemoteAddr(), "the half that was freed")

		waiting = wantReader(t.Context(), m, 0)
		fresh, _ := l.Pair()
		call.Succeed(fresh)

		second := got(t, waiting).lease()
		require.Equal(t, fresh.RemoteAddr(), second.RemoteAddr(), "what was on its way serves the next")

		s := m.Stats()
		require.Equal(t, []int{2, 2}, []int{s.Open, s.LeasedReaders})
		require.EqualValues(t, 1, s.ScaledUp)
		requireClosed(t, first, second)
	})
}

func TestThereAreAsManyConnectsAsWaitersWithoutOne(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		m, _, _ := l.scaling(1, 20, c.connect, plex.WithConnectTimeout(time.Hour))
		release := leaseAll(t, m, 1)

		var waiting []<-chan waiter
		for range 2 {
			waiting = append(waiting, wantReader(t.Context(), m, 0))
		}

		for range 5 {
			waiting = append(waiting, wantWriter(t.Context(), m, 0))
		}

		time.Sleep(scaleAfter)
		calls := c.unanswered(5)

		time.Sleep(time.Minute)
		_ = c.unanswered(0)
		require.Equal(t, 7, m.Stats().Waiting)

		waiting = append(waiting, wantReader(t.Context(), m, 0)) // there is a connect for it
		time.Sleep(time.Second)
		_ = c.unanswered(0)

		for _, call := range calls {
			fresh, _ := l.Pair()
			call.Succeed(fresh)
		}

		closeAll(t, waiting...)
		release()
		require.Equal(t, []uint64{5, 5}, []uint64{m.Stats().ScaledUp, m.Stats().Connected})
	})
}

func TestTheConnectThatWasStartedAtOnceIsTheOneForItsWaiter(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		m := l.mux(plex.WithConnector(c.connect), plex.WithMaxCapacity(4), plex.WithAutoScaling(scaleAfter))
		waiting := wantReader(t.Context(), m, 0)
		calls := c.unanswered(1)

		time.Sleep(20 * scaleAfter)
		calls = append(calls, c.unanswered(0)...) // one waiter, one connect

		for _, call := range calls {
			fresh, _ := l.Pair()
			call.Succeed(fresh)
		}

		closeAll(t, waiting)
	})
}

func TestAConnectWhoseWaiterWasServedOtherwiseIsTheNextWaiters(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		m, _, _ := l.scaling(1, 4, c.connect)
		release := leaseAll(t, m, 1)
		first := wantReader(t.Context(), m, 0)

		time.Sleep(scaleAfter)
		call := c.unanswered(1)[0]

		release()

		a := got(t, first)
		second := wantReader(t.Context(), m, 0)

		time.Sleep(2 * scaleAfter)
		_ = c.unanswered(0) // one waiter, and one connect that is under way

		fresh, _ := l.Pair()
		call.Succeed(fresh)
		closeAll(t, second)
		requireClosed(t, a.lease())
	})
}

func TestAReplacementThatIsUnderWayIsForWaitersToo(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		m, _, _ := l.scaling(2, 4, c.connect)

		killAll(t, m, 1)

		heal := c.unanswered(1)[0]
		release := leaseAll(t, m, 1)
		waiting := wantReader(t.Context(), m, 0)

		time.Sleep(2 * scaleAfter)
		_ = c.unanswered(0) // one waiter, and one connect that is under way

		fresh, _ := l.Pair()
		heal.Succeed(fresh)
		closeAll(t, waiting)
		release()
	})
}

func TestABurstOfWaitersWithSlowDialsEndsWithExactlyTheCapacityInUse(t *testing.T) {
	for _, given := range []int{0, 1, 5} {
		t.Run(fmt.Sprint(given, " given"), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				const capacity = 12

				s := newService(l)
				m, conns, _ := l.scaling(given, capacity, s.connect)

				var open atomic.Int64 // given connections that the service does not know of
				open.Store(int64(given))
				for _, conn := range conns {
					conn.(*fakenet.Conn).AfterClose(func() { open.Add(-1) })
				}

				s.set(func(s *service) { s.latency = 400 * time.Millisecond })

				var done sync.WaitGroup

				for i := range 500 {
					done.Go(func() {
						var (
							x   io.Closer
							err error
						)

						if i%2 == 0 {
							x, err = m.Reader(context.Background(), 0)
						} else {
							x, err = m.Writer(context.Background(), 0)
						}

						if err != nil {
							t.Error(err)

							return
						}

						time.Sleep(100 * time.Millisecond)

						if err := x.Close(); err != nil {
							t.Error(err)
						}
					})
				}

				time.Sleep(time.Second)

				stats := settled(m)
				require.Equal(t, []int{capacity, 0, capacity, capacity},
					[]int{stats.Open, stats.Connecting, stats.LeasedReaders, stats.LeasedWriters})
				done.Wait()

				counts := s.Counts()
				require.Equal(t, capacity-given, counts.Total)
				require.LessOrEqual(t, counts.PeakInUse+int(open.Load()), capacity)
				require.EqualValues(t, capacity-given, m.Stats().ScaledUp)
				require.EqualValues(t, 500, m.Stats().Acquired)
			})
		})
	}
}

func TestTheCapacityHoldsThroughBurstsLossesAndRefusals(t *testing.T) {
	for _, seed := range seedsFor(t, 4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				const capacity = 10

				rnd := rand.New(rand.NewPCG(seed, 0))
				s := newService(l)
				m := l.mux(plex.WithConnector(s.connect), plex.WithMaxCapacity(capacity), plex.WithMinConnections(2),
					plex.WithAutoScaling(scaleAfter), plex.WithIdleTimeout(3*time.Second), plex.WithMaxLifetime(20*time.Second))

				var (
					mu       sync.Mutex
					clients  sync.WaitGroup
					tooMany  int
					observed = func() {
						if st := m.Stats(); st.Open+st.Connecting > capacity || st.Open < 0 || st.Connecting < 0 {
							mu.Lock()
							tooMany++
							mu.Unlock()
						}
					}
				)

				for range 60 {
					clients.Go(func() {
						mu.Lock()
						r := rand.New(rand.NewPCG(rnd.Uint64(), 0))
						mu.Unlock()

						for range 100 {
							if r.IntN(20) == 0 {
								time.Sleep(time.Duration(r.Int64N(int64(10 * time.Second))))
							}

							lease, err := m.Reader(context.Background(), time.Duration(r.Int64N(int64(10*scaleAfter))))
							observed()

							if err != nil {
								continue
							}

							time.Sleep(time.Duration(r.Int64N(int64(2 * scaleAfter))))

							if r.IntN(20) == 0 {
								_ = lease.Kill()
							} else {
								_ = lease.Close()
							}
						}
					})
				}

				stop := make(chan struct{})
				mu.Lock()
				chance := rand.New(rand.NewPCG(rnd.Uint64(), 0))
				mu.Unlock()
				weather := later(func() error {
					for {
						s.set(func(s *service) {
							s.latency = time.Duration(chance.Int64N(int64(20 * scaleAfter)))
							if s.refusal = nil; chance.IntN(3) == 0 {
								s.refusal = errRefused
							}
						})

						select {
						case <-time.After(time.Duration(chance.Int64N(int64(3 * time.Second)))):
						case <-stop:
							return nil
						}
					}
				})

				clients.Wait()
				close(stop)
				<-weather

				peak := s.Counts().PeakInUse
				require.LessOrEqual(t, peak, capacity, "counted inside Connect and by what is open")
				require.Zero(t, tooMany, "snapshots beyond the capacity")

				s.set(func(s *service) { s.latency, s.refusal = 0, nil })
				time.Sleep(time.Minute)

				stats := settled(m)
				require.Equal(t, []int{2, 0, 0}, []int{stats.Open, stats.Connecting, stats.Waiting}, "all is well in the end")
			})
		})
	}
}

// seedsFor returns n seeds, of which the first are always the same.
func seedsFor(t testing.TB, n int) []uint64 {
	all := make([]uint64, n)
	for i := range all {
		if all[i] = uint64(i); i >= n/2 {
			all[i] = rand.Uint64()
			t.Log("seed", all[i])
		}
	}

	return all
}

func TestTheFirstCallerOfAnEmptyPoolIsConnectedForAtOnce(t *testing.T) {
	for name, opts := range map[string][]plex.Option{
		"with auto-scaling":    {plex.WithAutoScaling(scaleAfter)},
		"without auto-scaling": nil,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c := newConnector(l)
				m := l.mux(append(opts, plex.WithConnector(c.connect), plex.WithMaxCapacity(2))...)

				time.Sleep(time.Minute)
				require.Zero(t, c.Total(), "nobody has asked yet")

				_, err := m.Reader(t.Context(), -1)
				require.ErrorIs(t, err, plex.ErrTimeout)

				first := wantReader(t.Context(), m, 0)
				call := c.unanswered(1)[0]
				require.Nil(t, call.Handle.RemoteAddr(), "there has been none before")

				others := []<-chan waiter{wantReader(t.Context(), m, 0), wantWriter(t.Context(), m, 0)}
				_ = c.unanswered(0) // one is on its way

				fresh, _ := l.Pair()
				call.Succeed(fresh)
				closeAll(t, first)
				closeAll(t, others...)

				s := m.Stats()
				require.Equal(t, []int{1, 0}, []int{s.Open, s.Connecting})
				require.Equal(t, fresh.RemoteAddr(), m.Addr())
			})
		})
	}
}

func TestAFailedFirstConnectIsRetriedForThoseWhoWaitAndForNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m := l.mux(plex.WithConnector(s.connect), plex.WithMaxCapacity(2))
		s.goDown()

		_, err := m.Reader(t.Context(), 20*time.Second)
		require.ErrorIs(t, err, plex.ErrTimeout)
		require.ErrorIs(t, err, errRefused)

		for _, pause := range pauses(s.dialled(2)) {
			require.True(t, pause >= 200*time.Millisecond && pause <= 500*time.Millisecond, pause)
		}

		was := s.Total()
		require.GreaterOrEqual(t, was, 40)
		time.Sleep(time.Hour)
		require.Equal(t, was, s.Total(), "nobody waits")
		s.comeUp()

		r, err := m.Reader(t.Context(), time.Second)
		require.NoError(t, err)
		requireClosed(t, r)
		synctest.Wait()
	})
}

func TestAFailedScaleUpIsRetriedUnderTheBackoffAsLongAsSomebodyWaits(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		m, _, _ := l.scaling(1, 3, c.connect,
			plex.WithBackoff(func(failures int) time.Duration { return time.Duration(failures) * time.Second }))
		release := leaseAll(t, m, 1)

		ctx, cancel := context.WithCancel(t.Context())
		first, second := wantReader(ctx, m, 0), wantReader(t.Context(), m, 0)

		time.Sleep(scaleAfter)

		calls := c.unanswered(2)

		time.Sleep(10 * time.Millisecond)

		for _, call := range calls {
			call.Fail(errRefused)
		}

		for n := range 3 {
			synctest.Wait()

			failed := time.Now()
			call := c.next()
			require.Equal(t, time.Duration(n+1)*time.Second, time.Since(failed))
			require.Empty(t, c.unanswered(0), "a dead service is probed by one at a time")
			call.Fail(errRefused)
		}

		cancel()
		require.Error(t, (<-first).err)

		call := c.next() // there is one more who waits
		call.Fail(errRefused)
		synctest.Wait()
		release()
		closeAll(t, second)

		time.Sleep(time.Hour)
		require.Empty(t, c.unanswered(0), "nobody waits any more")

		s := m.Stats()
		require.Equal(t, []int{1, 0}, []int{s.Open, s.Connecting})
		require.Equal(t, []uint64{0, 6, 0, 0}, []uint64{s.ScaledUp, s.ConnectFailed, s.Lost, s.Healed})
	})
}

func TestAFailedScaleUpIsNeverRetriedForNobody(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m, _, _ := l.scaling(1, 8, s.connect, plex.WithBackoff(func(int) time.Duration { return 3 * time.Second }))

		s.set(func(s *service) { s.latency, s.refusal = 10*time.Millisecond, errRefused })

		for range 300 {
			release := leaseAll(t, m, 1)
			was := s.Total()
			_, err := m.Reader(t.Context(), scaleAfter+5*time.Millisecond) // it is gone as the dial fails
			require.ErrorIs(t, err, plex.ErrTimeout)

			time.Sleep(time.Second)
			require.Equal(t, was+1, s.Total())
			release()

			s.comeUp() // the service has to prove useful, for the next failure to be the first
			time.Sleep(3 * time.Second)
			require.Equal(t, was+1, s.Total())
			killAll(t, m, 1)
			time.Sleep(time.Second)

			peers := s.connected(0)
			use(t, m, peers[len(peers)-1])
			s.goDown()
		}
	})
}

func TestADeadServiceIsNotStormedForManyWhoWait(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m, _, _ := l.scaling(1, 500, s.connect)
		s.set(func(s *service) { s.latency, s.refusal = 5*time.Millisecond, errRefused })

		release := leaseAll(t, m, 1)

		var done sync.WaitGroup
		for range 100 {
			done.Go(func() {
				r, err := m.Reader(context.Background(), 0)
				if err == nil {
					err = r.Close()
				}

				if err != nil {
					t.Error(err)
				}
			})
		}

		time.Sleep(time.Second)

		was := s.Total()
		require.LessOrEqual(t, was, 105, "one for each waiter before the first has failed, and a few probes")
		s.set(func(*service) {})
		time.Sleep(10 * time.Second)
		require.LessOrEqual(t, s.Total()-was, 21)
		require.LessOrEqual(t, s.peakSinceSet(), 1)
		release()
		done.Wait()
	})
}

func TestAnOverdueWaiterIsServedThoughTheConnectForItHangsForEver(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		c.IgnoreCtx = true
		m, _, _ := l.scaling(1, 4, c.connect)
		release := leaseAll(t, m, 1)
		waiting := wantReader(t.Context(), m, 5*time.Minute)

		time.Sleep(scaleAfter)
		_ = c.unanswered(1) // hangs for ever

		time.Sleep(time.Minute)

		if c.Pending() > 0 {
			fresh, _ := l.Pair()
			c.Next().Succeed(fresh)
			closeAll(t, waiting)
		} else {
			t.Error("a minute after the Connect that hangs was called, two slots are free, and nobody has tried again for its waiter")
			require.Error(t, (<-waiting).err)
		}

		release()
	})
}

func TestConnectsForThoseWhoWaitDoNotHoldUpTheHealing(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		m, _, _ := l.scaling(3, 20, c.connect)
		reader := readerOf(t, m)
		release := leaseReaders(t, m)

		var waiting []<-chan waiter
		for range 8 {
			waiting = append(waiting, wantReader(t.Context(), m, time.Second))
		}

		time.Sleep(scaleAfter)
		_ = c.unanswered(8)
		require.NoError(t, reader.Kill())
		require.Equal(t, reader.RemoteAddr(), c.unanswered(1)[0].Handle.RemoteAddr())

		for _, ch := range waiting {
			require.Error(t, (<-ch).err)
		}

		release()
	})
}

// leaseReaders leases all readers that are idle, and returns what puts them back.
func leaseReaders(t testing.TB, m *plex.Multiplexer) (release func()) {
	t.Helper()

	var leases []io.Closer
	for m.Stats().IdleReaders > 0 {
		leases = append(leases, readerOf(t, m))
	}

	return func() {
		t.Helper()
		requireClosed(t, leases...)
	}
}

func TestALongLifeSinceTheLastFailureMakesTheNextOfAnyKindTheFirst(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		m, _, _ := l.scaling(1, 2, c.connect,
			plex.WithBackoff(func(failures int) time.Duration { return time.Duration(failures) * time.Second }))

		killAll(t, m, 1)

		for range 4 {
			c.next().Fail(errRefused)
		}

		fresh, _ := l.Pair()
		c.next().Succeed(fresh)
		time.Sleep(time.Minute) // it lives on

		release := leaseAll(t, m, 1)
		waiting := wantReader(t.Context(), m, 10*time.Second)
		c.next().Fail(errRefused)
		synctest.Wait()

		failed := time.Now()

		c.next()
		require.Equal(t, time.Second, time.Since(failed))
		require.Error(t, (<-waiting).err)
		release()
	})
}

func TestNoAutoScalingIsNoScaling(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conns, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithMaxCapacity(4), plex.WithConnector(s.connect))
		release := leaseAll(t, m, 1)
		_, err := m.Reader(t.Context(), time.Hour)
		require.ErrorIs(t, err, plex.ErrTimeout)
		require.Zero(t, s.Total())
		release()
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Down

// grow has n connections be added by as many waiters, who leave at once.
func (s *service) grow(t testing.TB, m *plex.Multiplexer, n int) {
	t.Helper()
	s.set(func(s *service) { s.latency = 10 * time.Millisecond })

	open := m.Stats().Open
	release := leaseAll(t, m, open)

	var waiters []<-chan waiter
	for range n {
		waiters = append(waiters, wantReader(t.Context(), m, 0))
	}

	time.Sleep(scaleAfter + 10*time.Millisecond)
	closeAll(t, waiters...)
	release()
	require.Equal(t, open+n, m.Stats().Open)
}

func TestSurplusIsClosedAfterTheIdleTimeoutOldestFirstDownToTheMinimum(t *testing.T) {
	for _, idle := range []struct {
		name    string
		timeout time.Duration
		opts    []plex.Option
	}{
		{"by default", 5 * time.Minute, nil},
		{"as given", 10 * time.Second, []plex.Option{plex.WithIdleTimeout(10 * time.Second)}},
	} {
		t.Run(idle.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				s := newService(l)
				m, conns, _ := l.scaling(2, 6, s.connect, append(idle.opts, plex.WithMinConnections(2))...)

				time.Sleep(7 * time.Hour / 3)
				require.Equal(t, 2, m.Stats().Open)
				s.grow(t, m, 1)
				time.Sleep(time.Second) // so that one is older
				s.grow(t, m, 1)

				needed := time.Now()

				time.Sleep(idle.timeout - 1)
				require.Equal(t, 4, m.Stats().Open)
				time.Sleep(idle.timeout/10 + 1)

				st := settled(m)
				require.Equal(t, []int{2, 2, 2}, []int{st.Open, st.IdleReaders, st.IdleWriters})
				require.Equal(t, []uint64{2, 2, 0, 0, 0}, []uint64{st.ScaledUp, st.ScaledDown, st.Lost, st.Healed, st.Expired})
				require.LessOrEqual(t, time.Since(needed), idle.timeout*11/10)

				for _, conn := range conns {
					require.Equal(t, 1, conn.(*fakenet.Conn).Closes(), "the oldest")
				}

				time.Sleep(24 * time.Hour)
				require.Equal(t, 2, m.Stats().Open)
				require.Equal(t, 2, s.Total())
			})
		})
	}
}

func TestOnlyWhatWasNeverNeededAtOnceIsSurplus(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m, _, _ := l.scaling(1, 8, s.connect, plex.WithIdleTimeout(10*time.Second))
		s.grow(t, m, 5)

		// Four of the six are needed every few seconds, for a moment, in the middle of nowhere; readers or writers.
		for i := range 40 {
			time.Sleep(3700 * time.Millisecond)

			var leases []io.Closer
			for range 4 {
				if i%2 == 0 {
					leases = append(leases, readerOf(t, m))
				} else {
					leases = append(leases, writerOf(t, m))
				}
			}

			requireClosed(t, leases...)
		}

		require.Equal(t, 4, m.Stats().Open)
		require.EqualValues(t, 2, m.Stats().ScaledDown)

		time.Sleep(12 * time.Second)
		require.Equal(t, 1, m.Stats().Open, "the need is gone")
	})
}

func TestAMomentsNeedWithinTheIdleTimeoutKeepsTheSurplus(t *testing.T) {
	for _, when := range []time.Duration{time.Millisecond, 999 * time.Millisecond, 1234 * time.Millisecond, 5 * time.Second, 9999 * time.Millisecond} {
		bubble(t, func(t *testing.T, l *ledger) {
			s := newService(l)
			m, _, _ := l.scaling(1, 3, s.connect, plex.WithIdleTimeout(10*time.Second))
			s.grow(t, m, 2)

			for range 30 {
				if when < time.Second {
					time.Sleep(9 * time.Second)
				}

				time.Sleep(when)
				leaseAll(t, m, 3)()
			}

			require.Equal(t, 3, m.Stats().Open, when)

			needed := time.Now()

			time.Sleep(10*time.Second - 1)
			require.Equal(t, 3, m.Stats().Open, when)
			time.Sleep(time.Second + 1)
			require.Equal(t, 1, settled(m).Open, when)
			require.LessOrEqual(t, time.Since(needed), 11*time.Second)
		})
	}
}

func TestAWaitThatNeededWhatThereWasKeepsIt(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m, _, _ := l.scaling(1, 2, s.connect, plex.WithIdleTimeout(10*time.Second))
		s.grow(t, m, 1)

		for range 20 {
			time.Sleep(7 * time.Second)

			a, b := readerOf(t, m), readerOf(t, m)
			waiting := wantReader(t.Context(), m, 0)
			requireClosed(t, a, b)
			closeAll(t, waiting)
		}

		require.Equal(t, 2, m.Stats().Open)
		require.Zero(t, m.Stats().ScaledDown)
	})
}

func TestALeasedConnectionIsNeverSurplus(t *testing.T) {
	for _, side := range []string{"reader", "writer", "both"} {
		t.Run(side, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				s := newService(l)
				m, conns, _ := l.scaling(1, 4, s.connect, plex.WithIdleTimeout(10*time.Second), plex.WithMinConnections(0))
				s.grow(t, m, 3)

				var leases []io.Closer // on the oldest connection
				if side != "writer" {
					for {
						r := readerOf(t, m)
						if r.RemoteAddr() == conns[0].RemoteAddr() {
							leases = append(leases, r)

							break
						}

						requireClosed(t, r)
					}
				}

				if side != "reader" {
					for {
						w := writerOf(t, m)
						if w.RemoteAddr() == conns[0].RemoteAddr() {
							leases = append(leases, w)

							break
						}

						requireClosed(t, w)
					}
				}

				time.Sleep(time.Hour)
				require.Equal(t, 1, m.Stats().Open)
				require.Zero(t, conns[0].(*fakenet.Conn).Closes())
				requireClosed(t, leases...)
				time.Sleep(12 * time.Second)
				require.Zero(t, m.Stats().Open)
				require.EqualValues(t, 4, m.Stats().ScaledDown)
			})
		})
	}
}

// slowToClose makes a connection whose Close takes until free is called.
func (l *ledger) slowToClose() (conn *fakenet.Conn, free func()) {
	conn, _ = l.Pair()
	stuck := make(chan struct{})
	conn.Hooks.Close = func() { <-stuck }

	return conn, sync.OnceFunc(func() { close(stuck) })
}

func TestASurplusTransportThatTakesLongToCloseHoldsUpNoOther(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conn, free := l.slowToClose()
		defer free()

		m, _, _ := l.scaling(1, 4, s.connect, plex.WithConnections(conn), plex.WithIdleTimeout(10*time.Second), plex.WithMinConnections(1))

		s.grow(t, m, 2)
		time.Sleep(time.Minute)

		st := m.Stats()
		require.Equal(t, []int{2, 1, 1}, []int{st.Open, st.IdleReaders, st.IdleWriters}, "the others are closed; its slot is not free")
		require.EqualValues(t, 3, st.ScaledDown)

		killAll(t, m, 1)
		time.Sleep(time.Second)
		require.Equal(t, 1, m.Stats().IdleReaders, "losses are healed meanwhile")
		s.growFromOne(t, m)
		free()
		time.Sleep(time.Minute)
		require.Equal(t, 1, m.Stats().Open)
	})
}

// growFromOne has a connection be added to the one that can be leased.
func (s *service) growFromOne(t testing.TB, m *plex.Multiplexer) {
	t.Helper()

	release := leaseAll(t, m, 1)
	waiting := wantReader(t.Context(), m, 0)

	time.Sleep(scaleAfter + 10*time.Millisecond)
	closeAll(t, waiting)
	release()
}

func TestACallerIsConnectedForWhileTheLastConnectionTakesLongToClose(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conn, free := l.slowToClose()
		defer free()

		m, _, _ := l.scaling(0, 2, s.connect, plex.WithConnections(conn), plex.WithIdleTimeout(10*time.Second), plex.WithMinConnections(0))

		time.Sleep(time.Minute)
		require.Equal(t, []int{1, 0}, []int{m.Stats().Open, m.Stats().IdleReaders})

		began := time.Now()
		r, err := m.Reader(t.Context(), 0)
		require.NoError(t, err)
		require.Zero(t, time.Since(began))
		requireClosed(t, r)
		free()
		time.Sleep(time.Minute)
		require.Zero(t, m.Stats().Open)
	})
}

func TestAPoolThatHasShrunkToNothingConnectsForTheNextCallerAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m := l.mux(plex.WithConnector(s.connect), plex.WithMaxCapacity(2), plex.WithAutoScaling(scaleAfter), plex.WithIdleTimeout(10*time.Second))

		for n := range 5 {
			began := time.Now()
			r, err := m.Reader(t.Context(), 0)
			require.NoError(t, err)
			require.Zero(t, time.Since(began))
			requireClosed(t, r)
			require.Equal(t, n+1, s.Total())
			time.Sleep(12 * time.Second)
			require.Zero(t, m.Stats().Open)
			require.EqualValues(t, n+1, m.Stats().ScaledDown)
		}
	})
}

func TestACallerThatComesJustAsTheLastConnectionIsClosedIsServedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m := l.mux(plex.WithConnector(s.connect), plex.WithMaxCapacity(2), plex.WithAutoScaling(scaleAfter), plex.WithIdleTimeout(10*time.Second))
		requireClosed(t, got(t, wantReader(t.Context(), m, 0)).lease())

		used := time.Now()
		for settled(m).Open == 1 {
			time.Sleep(100 * time.Millisecond)
		}

		closes := time.Since(used) // which is the same each time

		for range 200 {
			r, err := m.Reader(t.Context(), time.Second)
			require.NoError(t, err)
			requireClosed(t, r)
			time.Sleep(closes)

			r, err = m.Reader(t.Context(), time.Second) // now
			require.NoError(t, err)
			requireClosed(t, r)

			for settled(m).Open > 0 {
				time.Sleep(100 * time.Millisecond)
			}
		}

		require.Greater(t, s.Total(), 200)
	})
}

func TestASteadyLoadDoesNotMakeThePoolPumpUpAndDown(t *testing.T) {
	for name, load := range map[string]struct {
		every time.Duration // a burst
		jobs  int           // in a burst
		each  time.Duration // a job takes
	}{
		"bursts":         {7 * time.Second, 40, 120 * time.Millisecond},
		"rare bursts":    {9900 * time.Millisecond, 12, 300 * time.Millisecond},
		"a steady drip":  {20 * time.Millisecond, 1, 90 * time.Millisecond},
		"just enough":    {100 * time.Millisecond, 10, 95 * time.Millisecond},
		"long and short": {time.Second, 5, 1900 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				s := newService(l)
				m, _, _ := l.scaling(1, 10, s.connect, plex.WithIdleTimeout(10*time.Second))
				s.set(func(s *service) { s.latency = 20 * time.Millisecond })

				var jobs sync.WaitGroup

				work := func(d time.Duration) {
					for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(load.every) {
						for range load.jobs {
							jobs.Go(func() {
								w, err := m.Writer(context.Background(), 0)
								if err != nil {
									t.Error(err)

									return
								}

								time.Sleep(load.each)

								_ = w.Close()
							})
						}
					}
				}

				work(time.Minute) // to swing in

				was := m.Stats()

				work(5 * time.Minute)

				now := m.Stats()
				require.LessOrEqual(t, now.ScaledUp-was.ScaledUp, uint64(1))
				require.LessOrEqual(t, now.ScaledDown-was.ScaledDown, uint64(1))
				jobs.Wait()
				time.Sleep(12 * time.Second)
				require.Equal(t, 1, m.Stats().Open)
			})
		})
	}
}

func TestSurplusIsClosedWithoutAConnectorToo(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conns, _ := l.Pairs(3)
		m := l.mux(plex.WithConnections(conns[0]), plex.WithMaxCapacity(3), plex.WithIdleTimeout(time.Minute))
		_, err := m.Add(t.Context(), conns[1:]...)
		require.NoError(t, err)
		time.Sleep(time.Minute - 1)
		require.Equal(t, 3, settled(m).Open)
		time.Sleep(6*time.Second + 1)
		require.Equal(t, 1, settled(m).Open)
		require.EqualValues(t, 2, m.Stats().ScaledDown)
		requireReaderIdle(t, m)
	})
}

func TestWithoutAnIdleTimeoutNothingIsSurplus(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conns, _ := l.Pairs(3)
		m := l.mux(plex.WithConnector(s.connect), plex.WithMaxCapacity(3))
		_, err := m.Add(t.Context(), conns...)
		require.NoError(t, err)
		time.Sleep(100 * time.Hour)
		require.Equal(t, 3, m.Stats().Open)
	})
}

func TestWhatWasScaledDownIsNotHealedAndWhatIsLostIsKeptAtItsNumber(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m, _, _ := l.scaling(2, 8, s.connect, plex.WithIdleTimeout(10*time.Second))
		s.grow(t, m, 4)
		time.Sleep(time.Second)

		killAll(t, m, 2)
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, 6, m.Stats().Open, "surplus that is lost is replaced as long as it may be needed")
		time.Sleep(12 * time.Second)
		require.Equal(t, 2, m.Stats().Open)

		was := s.Total()

		for range 10 {
			killAll(t, m, 2)
			time.Sleep(2 * time.Second)
			require.Equal(t, 2, m.Stats().Open)
		}

		require.Equal(t, 20, s.Total()-was)
	})
}

func TestTheMinimumIsKeptThoughAScaleUpFailsAfterTheScaleDown(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		c.IgnoreCtx = true
		m, _, _ := l.scaling(3, 8, c.connect, plex.WithIdleTimeout(10*time.Second))

		release := leaseAll(t, m, 3)
		one := wantReader(t.Context(), m, 0)
		time.Sleep(scaleAfter)

		fresh, _ := l.Pair()
		c.unanswered(1)[0].Succeed(fresh)
		a := got(t, one)

		two := wantReader(t.Context(), m, 2*scaleAfter)
		time.Sleep(scaleAfter)
		hangs := c.unanswered(1)[0]
		require.Error(t, (<-two).err) // and nobody needs what hangs any more
		requireClosed(t, a.lease())
		release()

		time.Sleep(time.Minute)
		require.Equal(t, 3, m.Stats().Open, "one was surplus")
		hangs.Fail(errRefused)
		synctest.Wait()
		time.Sleep(time.Minute)

		for range 3 {
			killAll(t, m, 1)
			fresh, _ := l.Pair()
			c.next().Succeed(fresh)
			time.Sleep(time.Minute)
			require.Equal(t, 3, m.Stats().Open)
		}
	})
}
