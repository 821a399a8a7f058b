package plex_test

// Acquiring: order, timeouts, cancellation, exclusivity, cost, and what a failed acquire says.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// lease is what readers and writers have in common; most of what is tested here holds for both.
type lease interface {
	Close() error
	Kill() error
	RemoteAddr() net.Addr
	LocalAddr() net.Addr
	Err() error
}

// side is one of the two kinds of half.
type side struct {
	name    string
	acquire func(m *plex.Multiplexer, ctx context.Context, timeout time.Duration) (lease, error)
	idle    func(plex.Stats) int
	leased  func(plex.Stats) int
}

var sides = []side{
	{
		"reader",
		func(m *plex.Multiplexer, ctx context.Context, timeout time.Duration) (lease, error) {
			return m.Reader(ctx, timeout)
		},
		func(s plex.Stats) int { return s.IdleReaders },
		func(s plex.Stats) int { return s.LeasedReaders },
	},
	{
		"writer",
		func(m *plex.Multiplexer, ctx context.Context, timeout time.Duration) (lease, error) {
			return m.Writer(ctx, timeout)
		},
		func(s plex.Stats) int { return s.IdleWriters },
		func(s plex.Stats) int { return s.LeasedWriters },
	},
}

// other is the opposite side.
func (s side) other() side {
	if s.name == sides[0].name {
		return sides[1]
	}

	return sides[0]
}

// must acquires what must be idle.
func (s side) must(t testing.TB, m *plex.Multiplexer) lease {
	t.Helper()

	x, err := s.acquire(m, context.Background(), -1)
	require.NoError(t, err)

	return x
}

// all leases every one of n halves, shows that there is no further one, and puts them back.
func (s side) all(t testing.TB, m *plex.Multiplexer, n int) {
	t.Helper()

	leases := make([]lease, n)
	addrs := map[string]bool{}

	for i := range leases {
		x, err := s.acquire(m, context.Background(), -1)
		require.NoErrorf(t, err, "%s %d of %d", s.name, i+1, n)

		leases[i] = x
		addrs[x.RemoteAddr().String()] = true
	}

	require.Len(t, addrs, n, "each is on a connection of its own")

	_, err := s.acquire(m, context.Background(), -1)
	require.ErrorIs(t, err, plex.ErrTimeout)

	for _, x := range leases {
		require.NoError(t, x.Close())
	}
}

// eachSide runs f for readers and for writers, in a bubble of its own.
func eachSide(t *testing.T, f func(l *ledger, s side)) {
	for _, s := range sides {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(newLedger(t), s) })
		})
	}
}

// queue starts n waiters, one after the other. Each reports its number on the channel when it is served, with its
// lease or its error.
type served struct {
	n      int
	lease  lease
	err    error
	waited time.Duration
}

func (s side) queue(m *plex.Multiplexer, n int, acquire func(i int) (lease, error)) <-chan served {
	out := make(chan served, n)
	waiting := m.Stats().Waiting

	for i := range n {
		go func() {
			began := time.Now()
			x, err := acquire(i)
			out <- served{i, x, err, time.Since(began)}
		}()

		synctest.Wait()

		if w := m.Stats().Waiting; w != waiting+i+1 {
			panic(fmt.Sprintf("waiter %d does not wait: %d waiting", i, w))
		}
	}

	return out
}

// ---------------------------------------------------------------------------------------------------------------
// Order

func TestWaitersAreServedInTheOrderOfTheirArrival(t *testing.T) {
	for _, conns := range []int{1, 3} {
		eachSide(t, func(l *ledger, s side) {
			given, _ := l.Pairs(conns)
			m := l.mux(plex.WithConnections(given...))

			held := make([]lease, conns)
			for i := range held {
				held[i] = s.must(l, m)
			}

			const waiters = 100

			out := s.queue(m, waiters, func(i int) (lease, error) {
				switch i % 4 { // every way of waiting is in the same queue
				case 0:
					return s.acquire(m, context.Background(), 0)
				case 1:
					return s.acquire(m, context.Background(), time.Hour)
				case 2:
					return s.acquire(m, l.Context(), 0)
				default:
					return s.acquire(m, l.Context(), time.Hour)
				}
			})

			for i := range waiters {
				require.NoError(l, held[i%conns].Close())

				got := <-out
				require.NoError(l, got.err)
				require.Equal(l, i, got.n, "served out of order")
				require.Equal(l, waiters-i-1, m.Stats().Waiting)

				held[i%conns] = got.lease
			}

			for _, x := range held {
				require.NoError(l, x.Close())
			}

			require.EqualValues(l, waiters, m.Stats().Waited)
			s.all(l, m, conns)
		})
	}
}

func TestANewcomerDoesNotOvertakeAWaiter(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...))

		for range 100 {
			held := s.must(l, m)
			out := s.queue(m, 1, func(int) (lease, error) { return s.acquire(m, context.Background(), 0) })

			require.NoError(l, held.Close())

			_, err := s.acquire(m, context.Background(), -1)
			require.ErrorIs(l, err, plex.ErrTimeout, "the half was promised to the one who waited")
			require.NoError(l, (<-out).lease.Close())
		}
	})
}

func TestWaitersThatGiveUpAreSkippedAndTheOthersKeepTheirOrder(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...))
		held := s.must(l, m)

		ctx, cancel := context.WithCancel(context.Background())
		out := s.queue(m, 30, func(i int) (lease, error) {
			switch i % 3 {
			case 0:
				return s.acquire(m, ctx, 0)
			case 1:
				return s.acquire(m, context.Background(), time.Second)
			default:
				return s.acquire(m, context.Background(), 0)
			}
		})

		cancel()

		for range 10 {
			got := <-out
			require.ErrorIs(l, got.err, context.Canceled)
			require.Zero(l, got.n%3)
		}

		for range 10 {
			got := <-out
			require.ErrorIs(l, got.err, plex.ErrTimeout)
			require.Equal(l, 1, got.n%3)
			require.Equal(l, time.Second, got.waited)
		}

		require.Equal(l, 10, m.Stats().Waiting)

		for i := range 10 {
			require.NoError(l, held.Close())

			got := <-out
			require.NoError(l, got.err)
			require.Equal(l, 3*i+2, got.n)
			held = got.lease
		}

		require.NoError(l, held.Close())
		s.all(l, m, 1)

		st := m.Stats()
		require.EqualValues(l, 10, st.Canceled)
		require.EqualValues(l, 10, st.TimedOut, "and not the one of all, which does not wait")
		require.EqualValues(l, 30, st.Waited)
	})
}

func TestTenThousandWaitersOfWhomManyCancelAreServedInOrder(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		const waiters = 10_000

		given, _ := l.Pairs(4)
		m := l.mux(plex.WithConnections(given...))

		var held []lease
		for range given {
			held = append(held, s.must(l, m))
		}

		rnd := rand.New(rand.NewPCG(1, 2))
		cancels := make([]context.CancelFunc, waiters)
		results := make(chan served, waiters)

		for i := range waiters {
			ctx, cancel := context.WithCancel(context.Background())
			cancels[i] = cancel

			go func() {
				x, err := s.acquire(m, ctx, 0)
				results <- served{n: i, lease: x, err: err}
			}()

			if i%100 == 0 { // all that arrived so far are ahead of all still to come
				synctest.Wait()
			}
		}

		synctest.Wait()
		require.Equal(l, waiters, m.Stats().Waiting)

		gaveUp := 0

		for _, i := range rnd.Perm(waiters) {
			if rnd.IntN(5) < 3 {
				cancels[i]()
				gaveUp++
			}
		}

		for range gaveUp {
			require.ErrorIs(l, (<-results).err, context.Canceled)
		}

		require.Equal(l, waiters-gaveUp, m.Stats().Waiting)

		batch := 0 // waiters between two calls of synctest.Wait arrived at the same time

		for range waiters - gaveUp {
			require.NoError(l, held[0].Close())

			got := <-results
			require.NoError(l, got.err)
			require.GreaterOrEqual(l, (got.n+99)/100, batch, "served out of order")

			batch = (got.n + 99) / 100
			held = append(held[1:], got.lease)
		}

		for _, x := range held {
			require.NoError(l, x.Close())
		}

		for _, cancel := range cancels {
			cancel()
		}

		require.Zero(l, m.Stats().Waiting)
		require.EqualValues(l, gaveUp, m.Stats().Canceled)
		s.all(l, m, 4)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Timeouts and cancellation

func TestANegativeTimeoutTakesWhatIsIdleAndDoesNotWait(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...))

		for _, timeout := range []time.Duration{-1, -time.Hour} {
			x, err := s.acquire(m, context.Background(), timeout)
			require.NoError(l, err)

			began := time.Now()
			_, err = s.acquire(m, context.Background(), timeout)
			require.ErrorIs(l, err, plex.ErrTimeout)
			require.Zero(l, time.Since(began))
			require.NoError(l, x.Close())
		}

		st := m.Stats()
		require.Zero(l, st.TimedOut, "likewise")
		require.EqualValues(l, 0, st.Waited, "who does not wait has not waited")
		require.Zero(l, st.WaitDuration)
	})
}

func TestAPositiveTimeoutBoundsTheWait(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...))
		x := s.must(l, m)

		for _, timeout := range []time.Duration{1, time.Millisecond, time.Hour} {
			began := time.Now()
			_, err := s.acquire(m, context.Background(), timeout)
			require.ErrorIs(l, err, plex.ErrTimeout)
			require.NotErrorIs(l, err, context.DeadlineExceeded)
			require.Equal(l, timeout, time.Since(began))
		}

		require.Equal(l, 1+time.Millisecond+time.Hour, m.Stats().WaitDuration)
		require.NoError(l, x.Close())
		s.all(l, m, 1)
	})
}

func TestAZeroTimeoutLeavesTheWaitToTheContext(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...))
		x := s.must(l, m)

		ctx, cancel := context.WithTimeout(context.Background(), 1000*time.Hour)
		defer cancel()

		began := time.Now()
		_, err := s.acquire(m, ctx, 0)
		require.ErrorIs(l, err, context.DeadlineExceeded)
		require.NotErrorIs(l, err, plex.ErrTimeout)
		require.Equal(l, 1000*time.Hour, time.Since(began))
		require.NoError(l, x.Close())
	})
}

func TestOfTimeoutAndContextTheEarlierEndsTheWait(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...))
		x := s.must(l, m)

		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()

		_, err := s.acquire(m, ctx, time.Second)
		require.ErrorIs(l, err, plex.ErrTimeout)
		_, err = s.acquire(m, ctx, time.Hour)
		require.ErrorIs(l, err, context.DeadlineExceeded)
		require.NoError(l, x.Close())
	})
}

func TestAnEndedContextTakesNothingThoughAHalfIsIdle(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...))

		canceled, cancel := context.WithCancelCause(context.Background())
		cancel(errDialRefused)

		late, cancelLate := context.WithDeadline(context.Background(), time.Now().Add(-1))
		defer cancelLate()

		for _, timeout := range []time.Duration{-1, 0, time.Second} {
			_, err := s.acquire(m, canceled, timeout)
			require.ErrorIs(l, err, context.Canceled)
			require.ErrorIs(l, err, errDialRefused, "the cause is told too")

			_, err = s.acquire(m, late, timeout)
			require.ErrorIs(l, err, context.DeadlineExceeded)
		}

		st := m.Stats()
		require.EqualValues(l, 6, st.Canceled)
		require.Zero(l, st.Acquired)
		require.Equal(l, 1, s.idle(st))
		s.all(l, m, 1)
	})
}

func TestACancelledWaiterTakesNothing(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...))
		x := s.must(l, m)

		ctx, cancel := context.WithCancel(context.Background())
		out := s.queue(m, 1, func(int) (lease, error) { return s.acquire(m, ctx, time.Hour) })

		time.Sleep(time.Second)
		cancel()

		got := <-out
		require.ErrorIs(l, got.err, context.Canceled)
		require.Equal(l, time.Second, got.waited)
		require.Zero(l, m.Stats().Waiting)
		require.NoError(l, x.Close())
		require.Equal(l, 1, s.idle(m.Stats()))
		s.all(l, m, 1)
	})
}

func TestTheContextGovernsTheWaitAndNotTheLease(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, peers := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...))

		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		x, err := s.acquire(m, ctx, time.Second)
		require.NoError(l, err)

		time.Sleep(2 * time.Second)
		cancel()
		synctest.Wait()
		peers[0].Send("still")

		switch x := x.(type) {
		case plex.Reader:
			n, err := x.Read(make([]byte, 9))
			require.NoError(l, err)
			require.Equal(l, 5, n)
		case plex.Writer:
			_, err := x.Write([]byte("here"))
			require.NoError(l, err)
			require.Equal(l, "here", peers[0].ReadN(4))
		}

		require.NoError(l, x.Err())
		require.NoError(l, x.Close())
	})
}

func TestANilContextIsAnErrorAndNotAPanic(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...))

		for _, timeout := range []time.Duration{-1, 0, 1} {
			_, err := s.acquire(m, nilContext, timeout)
			require.ErrorContains(l, err, "context")
		}

		require.Equal(l, 1, s.idle(m.Stats()))
	})
}

// hammer runs f in several goroutines, rounds times each.
func hammer(goroutines, rounds int, f func(g, round int)) {
	var wg sync.WaitGroup

	for g := range goroutines {
		wg.Go(func() {
			for round := range rounds {
				f(g, round)
			}
		})
	}

	wg.Wait()
}

func TestContextsOfANanosecondLoseNoHalf(t *testing.T) {
	l := newLedger(t)
	given, _ := l.Pairs(2)
	m := l.mux(plex.WithConnections(given...))

	for _, s := range sides {
		var got, not atomic.Int64

		hammer(8, 2_000, func(g, round int) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+round%2*rand.IntN(30_000)))
			defer cancel()

			timeout := time.Duration(0)
			if g%2 == 0 {
				timeout = time.Duration(1 + rand.IntN(30_000))
			}

			x, err := s.acquire(m, ctx, timeout)
			if err != nil {
				not.Add(1)
				return
			}

			got.Add(1)

			if round%8 == 0 {
				time.Sleep(time.Microsecond) // so that others have to wait
			}

			_ = x.Close()
		})

		t.Logf("%s: %d acquired, %d not", s.name, got.Load(), not.Load())
		s.all(t, m, 2)
	}
}

func TestAGrantThatRacesItsCancellationIsNeverLost(t *testing.T) {
	l := newLedger(t)
	given, _ := l.Pairs(1)
	m := l.mux(plex.WithConnections(given...))

	for _, s := range sides {
		var granted, canceled int

		for round := range 5_000 {
			held := s.must(t, m)
			ctx, cancel := context.WithCancel(context.Background())
			waiting := make(chan struct{})
			out := make(chan served)

			go func() {
				close(waiting)

				x, err := s.acquire(m, ctx, 0)
				out <- served{lease: x, err: err}
			}()

			<-waiting

			for range round % 40 {
				runtime.Gosched() // let it get into the queue, more or less
			}

			var wg sync.WaitGroup

			wg.Go(func() { _ = held.Close() })
			cancel()

			got := <-out
			wg.Wait()

			if got.err == nil {
				granted++

				require.NoError(t, got.lease.Close())
			} else {
				canceled++

				require.ErrorIs(t, got.err, context.Canceled)
			}

			x, err := s.acquire(m, context.Background(), -1)
			require.NoErrorf(t, err, "round %d lost the half", round)
			require.NoError(t, x.Close())
		}

		t.Logf("%s: %d granted, %d cancelled", s.name, granted, canceled)
		require.NotZero(t, granted*canceled, "both outcomes happen")
		s.all(t, m, 1)
	}
}

// ---------------------------------------------------------------------------------------------------------------
// What wakes a waiter

func TestCloseWakesEveryWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const waiters = 500

		l := newLedger(t)
		given, _ := l.Pairs(2)
		m := l.mux(plex.WithConnections(given...))

		var held []lease
		for _, s := range sides {
			held = append(held, s.must(t, m), s.must(t, m))
		}

		var outs []<-chan served
		for _, s := range sides {
			outs = append(outs, s.queue(m, waiters, func(i int) (lease, error) {
				return s.acquire(m, context.Background(), time.Duration(i%2)*time.Hour)
			}))
		}

		began := time.Now()
		require.NoError(t, m.Close())

		for _, out := range outs {
			for range waiters {
				got := <-out
				require.ErrorIs(t, got.err, plex.ErrClosed)
				require.ErrorIs(t, got.err, net.ErrClosed)
			}
		}

		require.Zero(t, time.Since(began))
		require.Zero(t, m.Stats().Waiting)

		for _, x := range held {
			require.NoError(t, x.Close(), "the first Close of a lease only ends it")
			require.ErrorIs(t, x.Close(), plex.ErrLeaseClosed)
		}
	})
}

func TestShutdownWakesEveryWaiter(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...))
		x := s.must(l, m)
		out := s.queue(m, 50, func(int) (lease, error) { return s.acquire(m, context.Background(), 0) })

		down := make(chan error)

		go func() { down <- m.Shutdown(context.Background()) }()

		for range 50 {
			require.ErrorIs(l, (<-out).err, plex.ErrClosed)
		}

		require.NoError(l, x.Close())
		require.NoError(l, <-down)
	})
}

func TestAddServesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		m := l.mux(plex.WithMaxCapacity(3)) // has never had a connection, so its callers wait for one

		var outs []<-chan served
		for _, s := range sides {
			outs = append(outs, s.queue(m, 2, func(int) (lease, error) { return s.acquire(m, context.Background(), 0) }))
		}

		for i := range 2 {
			c, _ := l.Pair()
			rest, err := m.Add(context.Background(), c)
			require.NoError(t, err)
			require.Empty(t, rest)

			for _, out := range outs {
				got := <-out
				require.NoError(t, got.err)
				require.Equal(t, i, got.n)
				require.Equal(t, c.RemoteAddr(), got.lease.RemoteAddr())

				defer requireClosed(t, got.lease)
			}
		}
	})
}

func TestLosingTheLastConnectionWakesEveryWaiterWhenNobodyCanReplaceIt(t *testing.T) {
	for _, killer := range sides {
		t.Run("killed by its "+killer.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				given, _ := l.Pairs(2)
				m := l.mux(plex.WithConnections(given...), plex.WithMaxCapacity(3))

				var held, others []lease
				for range 2 {
					held = append(held, killer.must(t, m))
					others = append(others, killer.other().must(t, m))
				}

				var outs []<-chan served
				for _, s := range sides {
					outs = append(outs, s.queue(m, 20, func(int) (lease, error) { return s.acquire(m, context.Background(), 0) }))
				}

				require.NoError(t, held[0].Kill())
				synctest.Wait()
				require.Equal(t, 40, m.Stats().Waiting, "there is one connection left to wait for")

				require.NoError(t, held[1].Kill())

				for _, out := range outs {
					for range 20 {
						require.ErrorIs(t, (<-out).err, plex.ErrNoConnections)
					}
				}

				for _, x := range others {
					_ = x.Close()
				}

				for _, s := range sides {
					for _, timeout := range []time.Duration{-1, 0, time.Hour} {
						_, err := s.acquire(m, context.Background(), timeout)
						require.ErrorIs(t, err, plex.ErrNoConnections, "to wait would be in vain")
						require.NotErrorIs(t, err, plex.ErrClosed)
					}
				}

				// Add mends it, and another loss breaks it again.
				for range 3 {
					c, _ := l.Pair()
					rest, err := m.Add(context.Background(), c)
					require.NoError(t, err)
					require.Empty(t, rest)

					for _, s := range sides {
						s.all(t, m, 1)
					}

					require.NoError(t, killer.must(t, m).Kill())
					_, err = killer.other().acquire(m, context.Background(), 0)
					require.ErrorIs(t, err, plex.ErrNoConnections)
				}

				require.EqualValues(t, 5, m.Stats().Lost)
				require.EqualValues(t, 5, m.Stats().Killed)
			})
		})
	}
}

func TestWaiterOfAnEmptyMultiplexerWaitsOnWhenAnAddFails(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		m := l.mux()
		out := s.queue(m, 1, func(int) (lease, error) { return s.acquire(m, context.Background(), 0) })

		c, _ := l.Pair()
		require.NoError(l, c.Close())

		_, err := m.Add(context.Background(), c, nil)
		require.ErrorIs(l, err, net.ErrClosed)
		synctest.Wait()
		require.Equal(l, 1, m.Stats().Waiting)

		c, _ = l.Pair()
		_, err = m.Add(context.Background(), c)
		require.NoError(l, err)

		got := <-out
		require.NoError(l, got.err)
		require.NoError(l, got.lease.Close())
	})
}

func TestWithAConnectorTheLossOfTheLastConnectionEndsNoWait(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		dials := newConnector(l) // whose calls, if there are any, take longer than the wait
		m := l.mux(plex.WithConnections(given...), plex.WithConnector(dials.connect))
		x := s.must(l, m)
		out := s.queue(m, 1, func(int) (lease, error) { return s.acquire(m, context.Background(), 5*time.Second) })

		require.NoError(l, x.Kill())

		got := <-out
		require.ErrorIs(l, got.err, plex.ErrTimeout)
		require.Equal(l, 5*time.Second, got.waited)
	})
}

func TestTheLossOfTheLastConnectionEndsNoWaitWhileAnotherIsBeingAdded(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...), plex.WithMaxCapacity(2))
		x := s.must(l, m)
		out := s.queue(m, 1, func(int) (lease, error) { return s.acquire(m, context.Background(), 0) })

		c, _ := l.Pair()
		admit := make(chan struct{})
		c.Hooks.SetReadDeadline = func(time.Time) { <-admit }

		added := make(chan error)

		go func() {
			_, err := m.Add(context.Background(), c)
			added <- err
		}()

		synctest.Wait()
		require.NoError(l, x.Kill())
		synctest.Wait()
		require.Equal(l, 1, m.Stats().Waiting)
		close(admit)
		require.NoError(l, <-added)

		got := <-out
		require.NoError(l, got.err)
		require.NoError(l, got.lease.Close())
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Cost

func TestAcquireAndCloseDoNotAllocate(t *testing.T) {
	l := newLedger(t)
	given, _ := l.Pairs(2)
	m := l.mux(plex.WithConnections(given...))

	cancellable := t.Context()

	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancellable": cancellable} {
		for _, timeout := range []time.Duration{-1, 0, time.Minute} {
			assert.Zero(t, testing.AllocsPerRun(1000, func() {
				r, err := m.Reader(ctx, timeout)
				if err != nil || r.Close() != nil {
					panic("no reader")
				}
			}), "reader, ctx %s, timeout %v", name, timeout)

			assert.Zero(t, testing.AllocsPerRun(1000, func() {
				w, err := m.Writer(ctx, timeout)
				if err != nil || w.Close() != nil {
					panic("no writer")
				}
			}), "writer, ctx %s, timeout %v", name, timeout)
		}
	}

	assert.Zero(t, testing.AllocsPerRun(1000, func() {
		r, _ := m.Reader(cancellable, 0)
		w, _ := m.Writer(cancellable, 0)

		if r.Close() != nil || w.Close() != nil {
			panic("not closed")
		}
	}), "both halves")
}

// raceEnabled says whether the test binary was built with -race, where sync.Pool drops what it likes.
func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}

	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}

	return false
}

func TestAWaitedAcquireDoesNotAllocate(t *testing.T) {
	if raceEnabled() {
		t.Skip("sync.Pool drops items at random under the race detector")
	}

	l := newLedger(t)
	given, _ := l.Pairs(1)
	m := l.mux(plex.WithConnections(given...))

	cancellable := t.Context()

	for _, timeout := range []time.Duration{0, time.Minute} {
		give := make(chan plex.Reader)
		done := make(chan struct{})

		go func() {
			defer close(done)

			for r := range give {
				for m.Stats().Waiting == 0 {
					runtime.Gosched()
				}

				_ = r.Close()
			}
		}()

		waited := m.Stats().Waited
		allocs := testing.AllocsPerRun(200, func() {
			r, err := m.Reader(cancellable, -1)
			if err != nil {
				panic(err)
			}

			give <- r // closed once the next line waits

			if r, err = m.Reader(cancellable, timeout); err != nil || r.Close() != nil {
				panic("no reader")
			}
		})

		close(give)
		<-done

		assert.Zero(t, allocs, "timeout %v", timeout)
		require.GreaterOrEqual(t, m.Stats().Waited-waited, uint64(200))
	}
}
