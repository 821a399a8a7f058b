package plex_test

// The maximal lifetime: what is too old is replaced between leases, one at a time.

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

func TestConnectionsAreReplacedAtTheirMaximalLifetimeLessAJitter(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const n, life = 20, time.Hour

		var (
			mu   sync.Mutex
			ages []time.Duration
		)

		s := newService(l)
		s.set(func(s *service) {
			s.greet = func(p *fakenet.Peer) {
				born := time.Now()

				p.Conn().AfterClose(func() {
					mu.Lock()
					defer mu.Unlock()

					ages = append(ages, time.Since(born))
				})
			}
		})

		m := s.pool(n, plex.WithMaxLifetime(life))

		for range 10 * 60 {
			time.Sleep(time.Minute)
			require.Equal(t, []int{n, 0}, []int{settled(m).Open, m.Stats().Connecting})
		}

		mu.Lock()
		defer mu.Unlock()

		require.Greater(t, len(ages), 9*n)
		require.Less(t, len(ages), 12*n)

		quarters := map[int]int{}

		for _, age := range ages {
			require.True(t, age >= life*9/10 && age <= life, age)
			quarters[int((life-age)*4/(life/10+1))]++
		}

		for q := range 4 {
			require.Greater(t, quarters[q], len(ages)/10, "the jitter spreads them over all of its tenth: %v", quarters)
		}

		st := m.Stats()
		require.Equal(t, []uint64{uint64(len(ages)), 0, 0, 0, 0}, []uint64{st.Expired, st.Lost, st.Healed, st.ScaledDown, st.ScaledUp})
		require.Equal(t, st.Expired+n, st.Connected)
	})
}

func TestOneConnectionAtATimeIsMissingForItsAge(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const n = 5

		c := newConnector(l)
		conns, _ := l.Pairs(n)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect), plex.WithMaxLifetime(time.Hour),
			plex.WithBackoff(func(int) time.Duration { return time.Minute }), plex.WithConnectTimeout(24*time.Hour))
		expected := map[string]bool{}

		for _, conn := range conns {
			expected[conn.RemoteAddr().String()] = true
		}

		time.Sleep(54*time.Minute - 1)
		_ = c.unanswered(0)
		time.Sleep(6*time.Minute + 1) // all of them are too old by now

		for i := range uint64(n) {
			call := c.unanswered(1)[0]
			addr := call.Handle.RemoteAddr().String()
			require.True(t, expected[addr], "the address of the connection that was too old")
			delete(expected, addr)

			for _, conn := range conns {
				if conn.RemoteAddr().String() == addr {
					require.Equal(t, 1, conn.(*fakenet.Conn).Closes())
				}
			}

			for range 3 { // the service is down
				s := settled(m)
				require.Equal(t, []int{n - 1, 1, n - 1, n - 1}, []int{s.Open, s.Connecting, s.IdleReaders, s.IdleWriters})
				require.Equal(t, i+1, s.Expired)
				time.Sleep(100 * time.Millisecond)
				call.Fail(errRefused)
				time.Sleep(30 * time.Second)
				require.Equal(t, n-1, m.Stats().Open, "the others stay, old as they are")

				call = c.next()
				require.Equal(t, addr, call.Handle.RemoteAddr().String())
			}

			fresh, peer := l.Pair()
			call.Succeed(fresh)
			synctest.Wait()
			peer.Send("x")

			r := readerOf(t, m)
			for r.RemoteAddr() != fresh.RemoteAddr() {
				requireClosed(t, r)

				r = readerOf(t, m)
			}

			require.Equal(t, "x", readN(t, r, 1)) // the service is well again, which ends its backing off
			requireClosed(t, r)
		}

		s := settled(m)
		require.Equal(t, []int{n, 0}, []int{s.Open, s.Connecting})
		require.Equal(t, []uint64{n, 0, 0}, []uint64{s.Expired, s.Lost, s.Healed})
		require.Empty(t, expected)
	})
}

func TestALeasedConnectionIsReplacedWhenItsLeasesHaveEnded(t *testing.T) {
	for _, held := range []string{"reader", "writer", "both"} {
		t.Run(held, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c := newConnector(l)
				conn, peer := l.Pair()
				m := l.mux(plex.WithConnections(conn), plex.WithConnector(c.connect), plex.WithMaxLifetime(time.Hour))
				r, w := readerOf(t, m), writerOf(t, m)

				if held == "reader" {
					requireClosed(t, w)
				}

				if held == "writer" {
					requireClosed(t, r)
				}

				time.Sleep(10 * time.Hour)
				require.Zero(t, c.Total())
				require.Equal(t, 1, m.Stats().Open)

				if held != "writer" {
					peer.Send("x")
					require.Equal(t, "x", readN(t, r, 1), "it works as long as it is leased")
					requireClosed(t, r)
				}

				if held == "both" {
					time.Sleep(time.Hour)
					require.Zero(t, c.Total(), "the writer is still out")
					requireReaderIdle(t, m) // and so it goes on being leased
					requireReaderIdle(t, m)
				}

				if held != "reader" {
					_, err := w.Write([]byte("y"))
					require.NoError(t, err)
					requireClosed(t, w)
				}

				call := c.unanswered(1)[0]
				require.Equal(t, conn.RemoteAddr(), call.Handle.RemoteAddr())
				require.True(t, isClosed(peer.ConnClosed()))

				fresh, _ := l.Pair()
				call.Succeed(fresh)

				s := settled(m)
				require.Equal(t, []int{1, 1, 1}, []int{s.Open, s.IdleReaders, s.IdleWriters})
				require.Equal(t, []uint64{1, 0, 0}, []uint64{s.Expired, s.Lost, s.Healed})
			})
		})
	}
}

// Each of the two finds the other half on its way back, and neither may leave the renewal to the other. The race is a
// narrow one, hence the many rounds: without what mends it, most runs of this test fail.
func TestATooOldConnectionIsReplacedThoughBothItsLeasesEndAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m := newService(l).pool(1, plex.WithMaxLifetime(time.Minute))
		before := m.Stats().Expired

		for round := range uint64(10_000) {
			r, w := readerOf(t, m), writerOf(t, m)
			time.Sleep(2 * time.Minute)
			require.Equal(t, before+round, m.Stats().Expired, "a leased connection is left alone")

			var ready atomic.Int32

			for i, end := range []func() error{r.Close, w.Close} {
				go func() {
					for ready.Add(1); ready.Load() < 2; {
						runtime.Gosched()
					}

					for range round % 32 * uint64(i) { // one a little later than the other
						_ = ready.Load()
					}

					_ = end()
				}()
			}

			time.Sleep(10 * time.Millisecond) // if each half was held for the other, both are tried again
			require.Equal(t, before+round+1, m.Stats().Expired, "round %d", round)
		}
	})
}

func TestAConnectionThatIsAlwaysWaitedForIsReplacedBetweenItsLeases(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const n = 3 // so that there is always one who waits

		s := newService(l)
		m := s.pool(1, plex.WithMaxLifetime(2*time.Minute))

		served := takeTurns(m.Reader, n, 20*time.Minute)
		require.GreaterOrEqual(t, m.Stats().Expired, uint64(9), "in twenty minutes, with a maximal lifetime of two")

		for i, who := range served {
			require.Equal(t, i%n, who, "lease %d: it cost nobody his place in the queue", i)
		}
	})
}

func TestATooOldConnectionThatCannotBeReplacedCostsNobodyHisPlace(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const n = 3

		s := newService(l)
		s.goDown()

		conns, _ := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(s.connect), plex.WithMaxLifetime(time.Minute),
			plex.WithBackoff(func(int) time.Duration { return 10 * time.Millisecond })) // so that it is looked at as each lease ends

		time.Sleep(50 * time.Second)
		killAll(t, m, 1)

		for i, who := range takeTurns(m.Reader, n, 2*time.Minute) {
			require.Equal(t, i%n, who, "lease %d", i)
		}

		require.Zero(t, m.Stats().Expired)
	})
}

// takeTurns has n consumers lease the only reader there is again and again for d, so that there is always one who waits.
// It returns who was served, in order.
func takeTurns(
	acquire func(context.Context, time.Duration) (plex.Reader, error), n int, d time.Duration,
) (served []int) {
	var (
		consumers sync.WaitGroup
		mu        sync.Mutex
	)

	ctx, cancel := context.WithCancel(context.Background())

	for i := range n {
		consumers.Go(func() {
			for ctx.Err() == nil {
				if r, err := acquire(ctx, 0); err == nil {
					mu.Lock()
					served = append(served, i)
					mu.Unlock()
					time.Sleep(10 * time.Millisecond)

					_ = r.Close()
				}
			}
		})
		synctest.Wait()
	}

	time.Sleep(d)
	cancel()
	consumers.Wait()

	return served[:len(served)-n] // at the end all give up at once
}

func TestNothingExpiresWhileAnotherConnectionIsMissing(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(3)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect), plex.WithMaxLifetime(time.Hour),
			plex.WithConnectTimeout(24*time.Hour))

		time.Sleep(50 * time.Minute)
		killAll(t, m, 1)

		call := c.unanswered(1)[0]

		time.Sleep(5 * time.Hour)
		require.Equal(t, 2, m.Stats().Open)
		require.Zero(t, m.Stats().Expired)

		for range 5 { // they go on being leased
			leaseAll(t, m, 2)()
		}

		for range 3 {
			fresh, _ := l.Pair()
			call.Succeed(fresh)
			synctest.Wait()

			if m.Stats().Open == 3 {
				break
			}

			require.Equal(t, 2, m.Stats().Open)

			call = c.unanswered(1)[0]
		}

		s := m.Stats()
		require.Equal(t, 3, s.Open)
		require.Equal(t, []uint64{2, 1, 1}, []uint64{s.Expired, s.Lost, s.Healed})
	})
}

func TestALossOfAnOldConnectionIsALoss(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect), plex.WithMaxLifetime(time.Hour))
		r := readerOf(t, m)

		time.Sleep(2 * time.Hour)
		require.NoError(t, r.Kill())

		fresh, _ := l.Pair()
		c.unanswered(1)[0].Succeed(fresh)

		s := settled(m)
		require.Equal(t, []uint64{0, 1, 1}, []uint64{s.Expired, s.Lost, s.Healed})

		time.Sleep(53 * time.Minute)
		require.Equal(t, 1, c.Total())
	})
}

func TestSurplusExpiresAsWell(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m, _, _ := l.scaling(1, 4, s.connect, plex.WithIdleTimeout(100*time.Hour), plex.WithMaxLifetime(time.Hour))

		s.grow(t, m, 3)
		time.Sleep(2 * time.Hour)

		st := m.Stats()
		require.Equal(t, 4, st.Open)
		require.GreaterOrEqual(t, st.Expired, uint64(4))
		require.Equal(t, []uint64{3, 0}, []uint64{st.ScaledUp, st.ScaledDown})

		time.Sleep(110 * time.Hour)
		require.Equal(t, 1, m.Stats().Open)
	})
}

func TestATransportThatTakesLongToCloseHoldsUpNoOther(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conns, _ := l.Pairs(3)
		conn, free := l.slowToClose()
		defer free()

		m := l.mux(plex.WithConnections(append(conns, conn)...), plex.WithConnector(s.connect), plex.WithMaxLifetime(time.Hour))

		for settled(m).IdleReaders == 4 {
			time.Sleep(time.Second) // until it is the turn of the one that does not close
		}

		stuck := m.Stats()
		require.Equal(t, 3, stuck.IdleReaders)

		killAll(t, m, 3)
		time.Sleep(time.Minute)
		require.Equal(t, 3, s.Total()-int(stuck.Connected), "healed, but its slot is not free")
		require.Equal(t, []int{4, 3}, []int{m.Stats().Open, m.Stats().IdleWriters})

		time.Sleep(3 * time.Hour)
		require.Equal(t, 3, m.Stats().IdleReaders, "no other is missing for its age meanwhile")
		free()
		synctest.Wait()
		require.Equal(t, []int{4, 4}, []int{m.Stats().Open, m.Stats().IdleWriters})
	})
}

func TestWithoutAMaximalLifetimeNothingExpires(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m := s.pool(3)

		time.Sleep(10_000 * time.Hour)
		require.Equal(t, 3, s.Total())
		require.Zero(t, m.Stats().Expired)
	})
}

func TestATooOldPinnedConnectionDrainsAndGoesWhenItIsUnpinned(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conns, peers := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(s.connect), plex.WithMaxCapacity(2), plex.WithMaxLifetime(time.Hour),
			plex.WithRetireGrace(24*time.Hour))
		w := writerOf(t, m)
		old := w.Conn()
		unpin, again := old.Pin(), old.Pin()
		requireClosed(t, w)

		time.Sleep(90 * time.Minute)
		st := m.Stats()
		require.Equal(t, []uint64{1, 0}, []uint64{st.Expired, st.Lost})
		require.Equal(t, []int{2, 1}, []int{st.Open, st.IdleWriters}, "its replacement is there, and nobody writes to it")
		w = writerOf(t, m)
		require.NotEqual(t, old, w.Conn())
		requireClosed(t, w)
		require.Zero(t, peers[0].Conn().Closes())

		peers[0].Send("the reply")
		r, err := m.ReadyReader(t.Context(), time.Minute)
		require.NoError(t, err)
		require.Equal(t, old, r.Conn())
		require.Equal(t, "the reply", readN(t, r, 9))
		requireClosed(t, r)

		unpin()
		unpin()
		synctest.Wait()
		require.Zero(t, peers[0].Conn().Closes(), "it has been pinned twice")

		ended := make(chan error, 1)
		old.AfterEnd(func(cause error) { ended <- cause })
		again()
		time.Sleep(time.Second) // it may be being looked at
		requireClosedOnce(t, peers[0].Conn())
		require.ErrorIs(t, <-ended, plex.ErrRetired)
		require.Equal(t, 1, m.Stats().Open)
	})
}

func TestAPinnedConnectionThatIsTooOldDrainsWhenItsLeaseEndsToo(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conns, peers := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(s.connect), plex.WithMaxCapacity(2), plex.WithMaxLifetime(time.Hour),
			plex.WithRetireGrace(24*time.Hour))
		w, r := writerOf(t, m), readerOf(t, m)
		old := r.Conn()
		unpin := old.Pin()

		time.Sleep(90 * time.Minute)
		_, err := w.Write([]byte("a lease goes on"))
		require.NoError(t, err)
		requireClosed(t, w, r)
		w = writerOf(t, m)
		require.NotEqual(t, old, w.Conn())
		requireNoWriter(t, m)
		requireClosed(t, w)
		require.EqualValues(t, 1, m.Stats().Expired)
		require.Zero(t, peers[0].Conn().Closes(), "it is pinned")
		unpin()
		time.Sleep(time.Second)
		requireClosedOnce(t, peers[0].Conn())
		require.Equal(t, []int{1, 1}, []int{m.Stats().Open, m.Stats().IdleWriters})
	})
}

// In a full pool nothing can replace a connection first. One that is pinned goes on in service, for the grace.
func TestAPinnedConnectionOfAFullPoolIsInServiceUntilItsGraceEnds(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conns, peers := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(s.connect), plex.WithMaxLifetime(time.Hour),
			plex.WithRetireGrace(time.Minute))
		w := writerOf(t, m)
		old := w.Conn()
		defer old.Pin()()
		ended := make(chan error, 1)
		old.AfterEnd(func(cause error) { ended <- cause })
		requireClosed(t, w)

		began := time.Now()
		for m.Stats().Expired == 0 {
			w := writerOf(t, m)
			require.Equal(t, old, w.Conn())
			requireClosed(t, w)
			time.Sleep(time.Second / 2)
		}
		require.Greater(t, time.Since(began), 54*time.Minute+58*time.Second)
		requireNoWriter(t, m) // it is not asked for anything any more, but what was asked may still come
		require.Empty(t, ended)
		require.Zero(t, peers[0].Conn().Closes())
		time.Sleep(2 * time.Second)
		require.ErrorIs(t, <-ended, plex.ErrRetired)
		requireClosedOnce(t, peers[0].Conn())
		w = writerOf(t, m)
		require.NotEqual(t, old, w.Conn())
		requireClosed(t, w)
		require.EqualValues(t, 1, m.Stats().Expired)
		require.Zero(t, m.Stats().Lost)
	})
}

// The service fails, and there is no room for a replacement: the last connection that works is not given up for its age.
func TestTheLastConnectionIsNotGivenUpForItsAgeWhileConnectsFail(t *testing.T) {
	for _, capacity := range []int{2, 3} {
		t.Run(fmt.Sprint("capacity ", capacity), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				fails := plex.DialFunc(func(context.Context) (net.Conn, error) { return nil, errRefused })
				conns, peers := l.Pairs(2)
				m := l.mux(plex.WithConnections(conns...), plex.WithConnector(fails), plex.WithMaxCapacity(capacity), plex.WithMaxLifetime(time.Hour))
				peers[0].Reset(syscall.ECONNRESET, false)
				r := readerOf(t, m)
				_, err := r.Read(make([]byte, 1))
				require.Error(t, err)
				_ = r.Close()
				time.Sleep(24 * time.Hour)
				require.Zero(t, peers[1].Conn().Closes())
				require.Equal(t, 1, m.Stats().Open)
				require.Zero(t, m.Stats().Expired)
			})
		})
	}
}

// What has been read within a lease may be the beginning of something. So it is when the lease ends that a connection
// which nothing was expected of any more goes, unless it has been pinned again.
func TestAConnectionThatDrainsIsKeptByAPinOfTheLeaseThatHasIt(t *testing.T) {
	for _, again := range []bool{true, false} {
		t.Run(fmt.Sprint("pinned again: ", again), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				s := newService(l)
				conns, peers := l.Pairs(1)
				m := l.mux(plex.WithConnections(conns...), plex.WithConnector(s.connect), plex.WithMaxCapacity(2), plex.WithMaxLifetime(time.Hour),
					plex.WithRetireGrace(24*time.Hour))
				attend(t, m)
				w := writerOf(t, m)
				old := w.Conn()
				unpin := old.Pin()
				requireClosed(t, w)
				time.Sleep(90 * time.Minute)
				require.EqualValues(t, 1, m.Stats().Expired, "it drains")

				peers[0].Send("the beginning")
				r := readyReader(t, m)
				require.Equal(t, old, r.Conn())
				require.Equal(t, "the beginning", readN(t, r, 13))
				unpin()
				time.Sleep(time.Minute)
				require.Zero(t, peers[0].Conn().Closes(), "somebody has it")
				keep := func() {}
				if again {
					keep = old.Pin()
				}
				requireClosed(t, r)
				time.Sleep(time.Minute)
				if again {
					require.Zero(t, peers[0].Conn().Closes(), "it is pinned")
					peers[0].Send(" and the end")
					r := readyReader(t, m)
					require.Equal(t, old, r.Conn())
					require.Equal(t, " and the end", readN(t, r, 12))
					requireClosed(t, r)
				}
				keep()
				time.Sleep(time.Minute)
				requireClosedOnce(t, peers[0].Conn())
				require.Equal(t, 1, m.Stats().Open)
			})
		})
	}
}

// What a stream has read and nobody has taken goes to the next lease, so its connection is not too old before that.
func TestWhatAStreamHasLeftIsReadBeforeItsConnectionIsReplacedForItsAge(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conns, peers := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(s.connect), plex.WithMaxLifetime(time.Hour))
		r := readerOf(t, m)
		peers[0].Send("0123456789")
		ch, err := r.Recv(t.Context(), 4)
		require.NoError(t, err)
		require.Equal(t, byte('0'), <-ch)
		time.Sleep(2 * time.Hour)
		old := r.Conn()
		requireClosed(t, r)
		time.Sleep(30 * time.Minute)

		r = readerOf(t, m)
		if r.Conn() != old {
			fresh := r
			r = readerOf(t, m)
			requireClosed(t, fresh)
		}
		require.Equal(t, old, r.Conn())
		require.Equal(t, "123456789", readN(t, r, 9))
		requireClosed(t, r)
		time.Sleep(time.Minute)
		requireClosedOnce(t, peers[0].Conn())
		require.EqualValues(t, 1, m.Stats().Expired)
	})
}

// A Connect that never returns holds its own slot, and keeps no other connection from being replaced for its age.
func TestAConnectThatHangsDoesNotKeepOthersBeyondTheirAge(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		c.IgnoreCtx = true
		conns, peers := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect), plex.WithMaxCapacity(3),
			plex.WithAutoScaling(time.Second), plex.WithMaxLifetime(time.Hour))
		w := writerOf(t, m)
		_, err := m.Writer(t.Context(), 2*time.Second) // which has the pool grow
		require.ErrorIs(t, err, plex.ErrTimeout)
		hung := c.next()
		requireClosed(t, w)
		time.Sleep(2 * time.Hour)
		require.EqualValues(t, 1, m.Stats().Expired)
		requireClosedOnce(t, peers[0].Conn())
		conn, _ := l.Pair()
		c.next().Succeed(conn)
		synctest.Wait()
		require.Equal(t, 1, m.Stats().Open)
		hung.Fail(errDialRefused)
	})
}
