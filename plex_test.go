package plex_test

// The multiplexer as a pool: Add, Addr, Stats, and the end of life.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// ---------------------------------------------------------------------------------------------------------------
// Add and Addr

func TestAddTakesInOrderWhatFitsAndGivesTheRestBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.pairs(6)
		m := l.mux(plex.WithConnections(conns[0]), plex.WithMaxCapacity(3))

		rest, err := m.Add(context.Background(), conns[1])
		require.NoError(t, err)
		require.Empty(t, rest)

		rest, err = m.Add(context.Background(), conns[2:]...)
		require.ErrorIs(t, err, plex.ErrTooManyConnections)
		require.Equal(t, conns[3:], rest)
		l.handedBack(rest...)

		rest, err = m.Add(context.Background(), conns[3])
		require.ErrorIs(t, err, plex.ErrTooManyConnections)
		require.Equal(t, conns[3:4], rest)

		rest, err = m.Add(context.Background())
		require.NoError(t, err, "nothing to add always fits")
		require.Empty(t, rest)

		s := m.Stats()
		require.Equal(t, [4]int{3, 3, 3, 3}, [4]int{s.Capacity, s.Open, s.IdleReaders, s.IdleWriters})

		for _, s := range sides {
			s.all(t, m, 3)
		}
	})
}

func TestAddRefusesNilAndKnownConnectionsAndTakesTheGoodOnesBesideThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.pairs(4)
		m := l.mux(plex.WithConnections(conns[0]), plex.WithMaxCapacity(9))

		var typedNil *fakeConn

		rest, err := m.Add(context.Background(), conns[1], nil, conns[2], typedNil, conns[0], conns[3], conns[1])
		require.ErrorIs(t, err, plex.ErrNilConnection)
		require.ErrorIs(t, err, plex.ErrKnownConnection)
		require.NotErrorIs(t, err, plex.ErrTooManyConnections)
		require.Equal(t, []net.Conn{nil, typedNil, conns[0], conns[1]}, rest)
		require.Equal(t, 4, m.Stats().Open)

		for range 20 { // none of them costs a place
			_, err = m.Add(context.Background(), conns[2], nil)
			require.ErrorIs(t, err, plex.ErrKnownConnection)
		}

		more, _ := l.pairs(5)
		_, err = m.Add(context.Background(), more...)
		require.NoError(t, err)

		for _, s := range sides {
			s.all(t, m, 9)
		}
	})
}

func TestAddKnowsALeasedConnectionToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithMaxCapacity(2))
		r, w := readerOf(t, m), writerOf(t, m)

		rest, err := m.Add(context.Background(), conns...)
		require.ErrorIs(t, err, plex.ErrKnownConnection)
		require.Equal(t, conns, rest)
		requireClosed(t, r, w)
	})
}

func TestAddAfterTheEndGivesEverythingBack(t *testing.T) {
	for name, end := range map[string]func(*plex.Multiplexer) error{
		"Close":    (*plex.Multiplexer).Close,
		"Shutdown": func(m *plex.Multiplexer) error { return m.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				conns, _ := l.pairs(2)
				m := l.mux(plex.WithMaxCapacity(2))
				l.handedBack(conns...)

				require.NoError(t, end(m))

				rest, err := m.Add(context.Background(), conns...)
				require.ErrorIs(t, err, plex.ErrClosed)
				require.ErrorIs(t, err, net.ErrClosed)
				require.Equal(t, conns, rest)
			})
		})
	}
}

func TestAddWithANilOrEndedContextTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.pairs(2)
		m := l.mux(plex.WithMaxCapacity(2))
		l.handedBack(conns...)

		rest, err := m.Add(nilContext, conns...)
		require.ErrorContains(t, err, "context")
		require.Equal(t, conns, rest)

		ctx, cancel := context.WithCancel(context.Background())
		cancel()

		rest, err = m.Add(ctx, conns...)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, conns, rest)
		require.Zero(t, m.Stats().Open)
	})
}

func TestAdmissionClearsDeadlinesAndRefusalDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, peers := l.pairs(3)
		past := time.Now().Add(-time.Hour)

		for _, c := range conns {
			require.NoError(t, c.SetDeadline(past))
		}

		m := l.mux(plex.WithConnections(conns[0]), plex.WithMaxCapacity(2))
		rest, err := m.Add(context.Background(), conns[1:]...)
		require.ErrorIs(t, err, plex.ErrTooManyConnections)
		require.Equal(t, conns[2:], rest)
		l.handedBack(rest...)

		for i, want := range []time.Time{{}, {}, past} {
			read, write := conns[i].(*fakeConn).deadlinesLeft()
			require.Equal(t, []time.Time{want, want}, []time.Time{read, write}, "connection %d", i)
		}

		for _, p := range peers[:2] {
			p.send("x")
		}

		for range 2 {
			r, w := readerOf(t, m), writerOf(t, m)
			_, err := r.Read(make([]byte, 1))
			require.NoError(t, err)
			_, err = w.Write([]byte("y"))
			require.NoError(t, err)
			requireClosed(t, r, w)
		}
	})
}

func TestAClosedConnectionIsNotAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		good, _ := l.pair()
		closed, _ := l.pair()
		require.NoError(t, closed.Close())

		_, err := plex.New(context.Background(), plex.WithConnections(good, closed))
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorContains(t, err, "WithConnections")
		require.ErrorContains(t, err, "2 of 2")
		require.Zero(t, good.closeCount())

		m := l.mux(plex.WithMaxCapacity(2))
		rest, err := m.Add(context.Background(), closed, closed, good)
		require.ErrorIs(t, err, net.ErrClosed)
		require.NotErrorIs(t, err, plex.ErrKnownConnection, "what was refused is not known")
		require.Equal(t, []net.Conn{closed, closed}, rest)

		// One that plex has closed because it was lost is closed, and no longer known.
		require.NoError(t, readerOf(t, m).Kill())
		synctest.Wait()
		rest, err = m.Add(context.Background(), good)
		require.ErrorIs(t, err, net.ErrClosed)
		require.NotErrorIs(t, err, plex.ErrKnownConnection)
		require.Equal(t, []net.Conn{good}, rest)

		// None of them has cost a place.
		conns, _ := l.pairs(2)
		_, err = m.Add(context.Background(), conns...)
		require.NoError(t, err)
	})
}

func TestAConnectionThatRefusesDeadlinesIsAdmitted(t *testing.T) {
	for name, mode := range map[string]deadlineMode{"refused": deadlinesRefused, "ignored": deadlinesIgnored} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				a, p := l.pair()
				b, q := l.pair()
				a.setMode(mode)
				b.setMode(mode)

				m := l.mux(plex.WithConnections(a), plex.WithMaxCapacity(2))
				_, err := m.Add(context.Background(), b)
				require.NoError(t, err)
				p.send("x")
				q.send("y")

				for range 2 {
					r := readerOf(t, m)
					_, err := r.Read(make([]byte, 1))
					require.NoError(t, err)
					requireClosed(t, r)
				}

				for _, s := range sides {
					s.all(t, m, 2)
				}
			})
		})
	}
}

func TestAConnectionWhoseTypeCannotBeComparedIsNoReasonToPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)

		var conns []net.Conn
		for range 4 {
			c, _ := l.pair()
			conns = append(conns, uncomparableConn{fakeConn: c})
		}

		dials := 0
		dial := plex.DialFunc(func(context.Context) (net.Conn, error) {
			dials++

			c, _ := l.pair()

			return uncomparableConn{fakeConn: c}, nil
		})

		m := l.mux(plex.WithConnections(conns[:2]...), plex.WithMaxCapacity(4), plex.WithMinConnections(3), plex.WithConnector(dial))
		rest, err := m.Add(context.Background(), conns[2:]...)
		require.ErrorIs(t, err, plex.ErrTooManyConnections)
		require.Len(t, rest, 1)
		require.NoError(t, rest[0].Close()) // it is the caller's
		require.Equal(t, 1, dials)

		for _, s := range sides {
			s.all(t, m, 4)
		}
	})
}

func TestAddsThatRaceForTheLastPlacesTakeNoMoreThanThereAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		m := l.mux(plex.WithMaxCapacity(5))

		var took, refused atomic.Int64

		hammer(8, 1, func(int, int) {
			conns, _ := l.pairs(3)
			rest, err := m.Add(context.Background(), conns...)
			l.handedBack(rest...)
			took.Add(int64(3 - len(rest)))
			refused.Add(int64(len(rest)))
			assert.Equal(t, len(rest) > 0, err != nil)
		})

		require.EqualValues(t, 5, took.Load())
		require.EqualValues(t, 8*3-5, refused.Load())
		require.Equal(t, 5, m.Stats().Open)
	})
}

func TestAddMayGoOnForEverWhileConnectionsAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		m := l.mux(plex.WithMaxCapacity(3))

		for i := range 200 { // far more than the capacity, while both halves of the lost ones were idle or not
			c, p := l.pair()
			rest, err := m.Add(context.Background(), c)
			require.NoError(t, err)
			require.Empty(t, rest)

			switch i % 3 {
			case 0:
				require.NoError(t, readerOf(t, m).Kill())
			case 1:
				require.NoError(t, writerOf(t, m).Kill())
			default:
				p.reset(syscall.ECONNRESET, false)

				r, w := readerOf(t, m), writerOf(t, m)
				_, err := r.Read(make([]byte, 1))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				require.NoError(t, r.Close())

				_ = w.Close()
			}

			synctest.Wait()
			require.Zero(t, m.Stats().Open)
			require.Equal(t, 1, c.closeCount())
		}

		require.EqualValues(t, 200, m.Stats().Lost)
	})
}

func TestTheHalvesOfLostConnectionsThatNobodyAsksForDoNotPileUp(t *testing.T) {
	for _, s := range sides {
		t.Run("only "+s.name+"s are used", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				m := l.mux(plex.WithMaxCapacity(2))

				for range 200 {
					c, _ := l.pair()
					_, err := m.Add(context.Background(), c)
					require.NoError(t, err)
					require.NoError(t, s.must(t, m).Kill())
					synctest.Wait() // the slot is free once the transport is closed
				}

				conns, _ := l.pairs(2)
				_, err := m.Add(context.Background(), conns...)
				require.NoError(t, err)
				s.other().all(t, m, 2)
			})
		})
	}
}

func TestWhatLostConnectionsHaveLeftToReadIsKeptForAsManyAsTheCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const capacity = 3

		l := newLedger(t)
		m := l.mux(plex.WithMaxCapacity(capacity))

		for range 50 { // nobody comes to read
			c, p := l.pair()
			_, err := m.Add(context.Background(), c)
			require.NoError(t, err)
			p.send("left over")
			require.NoError(t, p.Close())

			for { // find the new connection's reader among the remains
				r := readerOf(t, m)
				if r.RemoteAddr() == c.RemoteAddr() {
					_, err = r.RecvChunks(context.Background(), 0)
					require.NoError(t, err)
					synctest.Wait() // read to the end, and nobody takes it

					require.NoError(t, r.Close())

					break
				}

				require.NoError(t, r.Close())
			}

			require.Equal(t, 1, c.closeCount())
		}

		require.LessOrEqual(t, m.Stats().IdleReaders, capacity)

		left := 0

		for {
			r, err := m.Reader(context.Background(), -1)
			if err != nil {
				require.ErrorIs(t, err, plex.ErrNoConnections)
				break
			}

			b, err := io.ReadAll(r)
			require.NoError(t, err)
			require.Equal(t, "left over", string(b))
			require.NoError(t, r.Close())

			left++
		}

		require.LessOrEqual(t, left, capacity)
		require.NotZero(t, left)
	})
}

func TestAConnectionThatIsBeingAddedHasItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		m := l.mux(plex.WithMaxCapacity(1))
		a, _ := l.pair()
		b, _ := l.pair()
		l.handedBack(b)

		admit, added := make(chan struct{}), make(chan error)
		a.hooks.setReadDeadline = func(time.Time) { <-admit }

		go func() {
			_, err := m.Add(context.Background(), a)
			added <- err
		}()

		synctest.Wait()

		_, err := m.Add(context.Background(), b)
		require.ErrorIs(t, err, plex.ErrTooManyConnections)
		require.Equal(t, 1, m.Stats().Connecting)
		close(admit)
		require.NoError(t, <-added)
		require.Equal(t, [2]int{1, 0}, [2]int{m.Stats().Open, m.Stats().Connecting})
	})
}

func TestAnAddThatCloseOvertakesGivesItsConnectionBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		m := l.mux()
		c, _ := l.pair()
		l.handedBack(c)

		admit, added := make(chan struct{}), make(chan error)
		c.hooks.setReadDeadline = func(time.Time) { <-admit }

		go func() {
			rest, err := m.Add(context.Background(), c)
			assert.Equal(t, []net.Conn{c}, rest)
			added <- err
		}()

		synctest.Wait()
		require.NoError(t, m.Close())
		close(admit)
		require.ErrorIs(t, <-added, plex.ErrClosed)
	})
}

func TestAddrIsThatOfTheFirstConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.pairs(3)
		m := l.mux(plex.WithMaxCapacity(3))
		require.Nil(t, m.Addr())

		for _, c := range conns {
			_, err := m.Add(context.Background(), c)
			require.NoError(t, err)
			require.Equal(t, conns[0].RemoteAddr(), m.Addr())
		}

		require.NoError(t, m.Close())
		require.Equal(t, conns[0].RemoteAddr(), m.Addr())
	})
}

func TestLeasesTellTheAddressesOfTheirConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		c, _ := l.pair()
		m := l.mux(plex.WithConnections(c))

		for _, s := range sides {
			x := s.must(t, m)
			require.Equal(t, c.RemoteAddr(), x.RemoteAddr())
			require.Equal(t, c.LocalAddr(), x.LocalAddr())
			require.NoError(t, x.Close())
			require.Equal(t, c.RemoteAddr(), x.RemoteAddr(), "addresses outlive the lease")
			require.Equal(t, c.LocalAddr(), x.LocalAddr())
		}
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Stats

func TestStatsCountWhatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, peers := l.pairs(4)
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
				peers[i].reset(syscall.ECONNRESET, false)
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
				peers[i].closeWrite()
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
			conns, _ := l.pairs(4)
			m := l.mux(plex.WithConnections(conns...), plex.WithMaxCapacity(6))

			var wg sync.WaitGroup

			var added atomic.Int64

			stop := make(chan struct{})

			wg.Go(func() {
				for last := m.Stats(); ; {
					s := m.Stats()

					ok := assert.LessOrEqual(t, s.Open+s.Connecting, s.Capacity) &&
						assert.LessOrEqual(t, s.IdleReaders, s.Open) && assert.LessOrEqual(t, s.IdleWriters, s.Open) &&
						assert.GreaterOrEqual(t, min(s.Waiting, s.IdleReaders, s.LeasedReaders, s.IdleWriters, s.LeasedWriters), 0)
					if !kill { // otherwise one that is being closed is open and has no halves to lease
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

				x, err := s.acquire(m, context.Background(), time.Duration(round%3-1)*10*time.Microsecond)
				if err != nil {
					return
				}

				if kill && round%20 == 0 {
					_ = x.Kill()

					c, _ := l.pair()
					rest, _ := m.Add(context.Background(), c)
					l.handedBack(rest...)
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

// ---------------------------------------------------------------------------------------------------------------
// Close

func TestCloseClosesEveryConnectionLeasedOrNotExactlyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, peers := l.pairs(8)
		m := l.mux(plex.WithConnections(conns[:6]...), plex.WithMaxCapacity(8))
		_, err := m.Add(context.Background(), conns[6:]...)
		require.NoError(t, err)

		var (
			leases []lease
			done   sync.WaitGroup
		)

		for _, p := range peers { // so that each writer blocks
			p.allow(0)
		}

		for i := range 6 { // two busy, two in streams, two in streams that are stuck; two connections are idle
			r, w := readerOf(t, m), writerOf(t, m)
			leases = append(leases, r, w)

			if i%3 == 2 {
				for k, c := range conns {
					if c.RemoteAddr() == r.RemoteAddr() {
						peers[k].send("more than the channel holds")
					}
				}
			}

			switch i % 3 {
			case 0:
				done.Go(func() {
					_, err := r.Read(make([]byte, 1))
					assert.ErrorIs(t, err, plex.ErrClosed)
					assert.ErrorIs(t, err, net.ErrClosed)
				})
				done.Go(func() {
					_, err := w.Write([]byte("x"))
					assert.ErrorIs(t, err, plex.ErrClosed)
				})
			case 1:
				bytes, err := r.Recv(context.Background(), 0)
				require.NoError(t, err)

				chunks, err := w.SendChunks(context.Background(), 0)
				require.NoError(t, err)
				done.Go(func() {
					_, ok := <-bytes
					assert.False(t, ok)
					assert.ErrorIs(t, r.Err(), plex.ErrClosed)
				})
				done.Go(func() {
					chunks <- []byte("x")
					<-w.Done()
					close(chunks)
				})
			default: // streams that nobody takes from or sends to
				_, err := r.RecvChunks(context.Background(), 1)
				require.NoError(t, err)
				_, err = w.Send(context.Background(), 0)
				require.NoError(t, err)
			}
		}

		synctest.Wait()

		began := time.Now()
		require.NoError(t, m.Close())
		require.LessOrEqual(t, time.Since(began), time.Second, "senders get a moment to notice")
		require.Empty(t, l.unbalanced())
		done.Wait()

		for _, x := range leases {
			_ = x.Close()
			require.ErrorIs(t, x.Close(), plex.ErrLeaseClosed)
		}

		require.Empty(t, l.unbalanced())
	})
}

func TestCloseMayBeCalledTwiceAndFromManyGoroutinesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			l := newLedger(t)
			conns, _ := l.pairs(4)
			m := l.mux(plex.WithConnections(conns...))
			x, y := readerOf(t, m), writerOf(t, m)

			hammer(6, 2, func(int, int) {
				assert.NoError(t, m.Close())
				assert.Empty(t, l.unbalanced(), "each of the calls returns when all is closed")
			})

			_, _ = x.Close(), y.Close()
		}
	})
}

func TestEveryCloseWaitsForASlowTransportAndNothingElseDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.pairs(3)
		m := l.mux(plex.WithConnections(conns...), plex.WithMaxCapacity(5))

		blocked := make(chan struct{})
		release := sync.OnceFunc(func() { close(blocked) })
		conns[1].(*fakeConn).hooks.close = func() { <-blocked }
		x := readerOf(t, m)

		defer release()

		var returned atomic.Int64

		for range 3 {
			go func() {
				assert.NoError(t, m.Close())
				returned.Add(1)
			}()
		}

		synctest.Wait()
		require.Zero(t, returned.Load(), "a connection is still being closed")

		// No lock is held meanwhile.
		m.Stats()

		_, err := m.Reader(context.Background(), 0)
		require.ErrorIs(t, err, plex.ErrClosed)

		c, _ := l.pair()
		l.handedBack(c)
		_, err = m.Add(context.Background(), c)
		require.ErrorIs(t, err, plex.ErrClosed)
		_, err = x.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)

		_ = x.Close()

		release()
		synctest.Wait()
		require.EqualValues(t, 3, returned.Load())
	})
}

// A transport's Read in which not even its Close helps keeps a goroutine of plex's. Close waits for it, but not for
// long, and what ends later does no harm.
func TestCloseWaitsForStreamsThatAreStuckInTheirTransport(t *testing.T) {
	const grace = 3 * time.Second

	for name, stuckFor := range map[string]time.Duration{"briefly": grace / 3, "for an hour": time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c, p := l.pair()
				m := l.mux(plex.WithConnections(c))

				stuck := make(chan struct{})
				unstick := sync.OnceFunc(func() { close(stuck) })
				c.hooks.read = func([]byte) { <-stuck }

				defer unstick()

				r := readerOf(t, m)
				in, err := r.RecvChunks(context.Background(), 0)
				require.NoError(t, err)
				synctest.Wait()

				start := time.Now()
				closed := later(m.Close)

				synctest.Wait()
				requirePending(t, closed, "Close, while a goroutine of plex's is still running,")
				require.Equal(t, 1, c.closeCount(), "the transport is closed meanwhile")
				time.AfterFunc(stuckFor, unstick)
				require.NoError(t, <-closed)
				require.Equal(t, min(stuckFor, grace), time.Since(start), "how long Close takes")

				_, err = m.Reader(context.Background(), -1)
				require.ErrorIs(t, err, plex.ErrClosed)
				p.send("late")
				time.Sleep(time.Until(start.Add(stuckFor)))
				synctest.Wait()

				for chunk := range in {
					require.Empty(t, chunk, "nothing is delivered after Close")
				}

				require.ErrorIs(t, r.Err(), plex.ErrClosed)

				_ = r.Close()

				require.NoError(t, m.Close())
				require.Equal(t, 1, c.closeCount())
				require.Zero(t, m.Stats().Open)
			})
		})
	}
}

func TestASlowCloseOfAKilledConnectionHoldsUpNobodyElse(t *testing.T) {
	for _, killer := range sides {
		t.Run(killer.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				conns, peers := l.pairs(2)
				m := l.mux(plex.WithConnections(conns...), plex.WithMaxCapacity(3))

				blocked := make(chan struct{})
				release := sync.OnceFunc(func() { close(blocked) })
				x := killer.must(t, m)

				defer release()

				for _, c := range conns {
					if c.RemoteAddr() == x.RemoteAddr() {
						c.(*fakeConn).hooks.close = func() { <-blocked }
					}
				}

				killed := make(chan error, 1)

				go func() { killed <- x.Kill() }()

				synctest.Wait()

				for _, s := range sides {
					s.all(t, m, 1)
				}

				c, _ := l.pair()
				_, err := m.Add(context.Background(), c)
				require.NoError(t, err)

				for _, p := range peers {
					p.send("x")
				}

				require.NoError(t, <-killed, "Kill does not wait for it either")
				require.Equal(t, 3, m.Stats().Open, "its slot is free when it is closed")
				release()
				synctest.Wait()
				require.Equal(t, 2, m.Stats().Open)
			})
		})
	}
}

func TestCloseReturnsNilThoughTransportsFailToClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.pairs(3)
		conns[1].(*fakeConn).closeErr = errDialRefused
		m := l.mux(plex.WithConnections(conns...))

		// Whether the error of one transport is told is not laid down; that all are closed is.
		_ = m.Close()

		require.Empty(t, l.unbalanced())
		require.NoError(t, m.Close())
	})
}

func TestCloseWhileEverythingIsInUseLeavesNothingBehind(t *testing.T) {
	for range 20 {
		t.Run("", func(t *testing.T) {
			l := newLedger(t)
			conns, peers := l.pairs(4)
			m := l.mux(plex.WithConnections(conns...), plex.WithMaxCapacity(6))

			for _, p := range peers {
				p.send("some bytes to read")
			}

			var wg sync.WaitGroup

			wg.Go(func() {
				hammer(8, 200, func(g, round int) {
					x, err := sides[g%2].acquire(m, context.Background(), 0)
					if err != nil {
						assert.ErrorIs(t, err, plex.ErrClosed)
						return
					}

					switch x := x.(type) {
					case plex.Reader:
						_ = x.SetReadDeadline(time.Now().Add(time.Microsecond))
						_, _ = x.Read(make([]byte, 1))
					case plex.Writer:
						_, _ = x.Write([]byte("y"))
					}

					_ = x.Close()
				})
			})

			wg.Go(func() {
				c, _ := l.pair()
				rest, _ := m.Add(context.Background(), c)
				l.handedBack(rest...)
			})

			time.Sleep(50 * time.Microsecond)

			for range 2 {
				wg.Go(func() { assert.NoError(t, m.Close()) })
			}

			wg.Wait()
		})
	}
}

func TestAClosedMultiplexerIsGarbageThoughNewsContextLivesOn(t *testing.T) {
	l := newLedger(t)

	ctx := t.Context()

	used := func() weak.Pointer[plex.Multiplexer] {
		conns, _ := l.pairs(1)
		m, err := plex.New(ctx, plex.WithConnections(conns...))
		require.NoError(t, err)
		requireClosed(t, readerOf(t, m), writerOf(t, m))
		require.NoError(t, m.Close())

		return weak.Make(m)
	}()

	eventually(t, func() bool { runtime.GC(); return used.Value() == nil }, "the multiplexer is collected")
}

// ---------------------------------------------------------------------------------------------------------------
// Shutdown

func TestShutdownWaitsForTheLeasesAndRefusesNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, peers := l.pairs(3)
		m := l.mux(plex.WithConnections(conns...), plex.WithMaxCapacity(4))
		r, w := readerOf(t, m), writerOf(t, m)

		down := make(chan error, 1)

		go func() { down <- m.Shutdown(context.Background()) }()

		time.Sleep(time.Hour)

		select {
		case err := <-down:
			require.Fail(t, "Shutdown did not wait for the leases", err)
		default:
		}

		for _, s := range sides {
			for _, timeout := range []time.Duration{-1, 0, time.Hour} {
				_, err := s.acquire(m, context.Background(), timeout)
				require.ErrorIs(t, err, plex.ErrClosed)
			}
		}

		c, _ := l.pair()
		l.handedBack(c)
		rest, err := m.Add(context.Background(), c)
		require.ErrorIs(t, err, plex.ErrClosed)
		require.Equal(t, []net.Conn{c}, rest)

		// The leases go on as if nothing were.
		for i, c := range conns {
			if c.RemoteAddr() == r.RemoteAddr() {
				peers[i].send("more")
			}
		}

		n, err := r.Read(make([]byte, 9))
		require.NoError(t, err)
		require.Equal(t, 4, n)
		_, err = w.Write([]byte("last words"))
		require.NoError(t, err)

		require.NoError(t, r.Close())
		synctest.Wait()
		require.Empty(t, down)

		time.Sleep(time.Second)
		require.NoError(t, w.Close())
		require.NoError(t, <-down)
		require.Empty(t, l.unbalanced())
		require.ErrorIs(t, w.Close(), plex.ErrLeaseClosed)
	})
}

func TestShutdownOfAMultiplexerThatNobodyUsesReturnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.pairs(3)
		m := l.mux(plex.WithConnections(conns...))
		began := time.Now()

		require.NoError(t, m.Shutdown(context.Background()))
		require.Zero(t, time.Since(began))
		require.Empty(t, l.unbalanced())
		require.NoError(t, m.Shutdown(context.Background()))
		require.NoError(t, m.Close())
		require.NoError(t, l.mux().Shutdown(context.Background()), "of one that has no connection")
	})
}

func TestShutdownClosesHardAndReturnsTheContextsErrorWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.pairs(2)
		m := l.mux(plex.WithConnections(conns...))
		r, w := readerOf(t, m), writerOf(t, m)

		read := make(chan error)

		go func() {
			_, err := r.Read(make([]byte, 1))
			read <- err
		}()

		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()

		began := time.Now()
		require.ErrorIs(t, m.Shutdown(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))
		require.Empty(t, l.unbalanced())
		require.ErrorIs(t, <-read, plex.ErrClosed)

		_, err := w.Write([]byte("x"))
		require.ErrorIs(t, err, plex.ErrClosed)

		_, _ = r.Close(), w.Close()

		require.NoError(t, m.Shutdown(context.Background()))
	})
}

func TestShutdownRefusesANilContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.pairs(1)
		m := l.mux(plex.WithConnections(conns...))

		require.ErrorContains(t, m.Shutdown(nilContext), "context")
		requireClosed(t, readerOf(t, m))
	})
}

func TestCloseCutsAShutdownShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.pairs(2)
		m := l.mux(plex.WithConnections(conns...))
		r := readerOf(t, m)

		down := make(chan error)

		for range 3 {
			go func() { down <- m.Shutdown(context.Background()) }()
		}

		synctest.Wait()
		require.NoError(t, m.Close())

		for range 3 {
			if err := <-down; err != nil {
				require.ErrorIs(t, err, plex.ErrClosed)
			}
		}

		require.Empty(t, l.unbalanced())

		_ = r.Close()
	})
}

func TestTwoShutdownsBothWaitAndEachKeepsToItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.pairs(1)
		m := l.mux(plex.WithConnections(conns...))
		w := writerOf(t, m)

		patient, impatient := make(chan error, 1), make(chan error, 1)

		go func() { patient <- m.Shutdown(context.Background()) }()
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()

			impatient <- m.Shutdown(ctx)
		}()

		require.ErrorIs(t, <-impatient, context.DeadlineExceeded)

		if err := <-patient; err != nil {
			require.ErrorIs(t, err, plex.ErrClosed)
		}

		_ = w.Close()
	})
}

func TestShutdownWaitsUntilAStreamIsFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, peers := l.pairs(1)
		m := l.mux(plex.WithConnections(conns...))
		w := writerOf(t, m)
		peers[0].allow(0)

		chunks, err := w.SendChunks(context.Background(), 0)
		require.NoError(t, err)

		chunks <- []byte("accepted before the shutdown, ")

		down := make(chan error, 1)

		go func() { down <- m.Shutdown(context.Background()) }()

		synctest.Wait()

		chunks <- []byte("accepted during it")

		closed := make(chan error, 1)

		go func() { closed <- w.Close() }()

		time.Sleep(time.Hour)
		require.Empty(t, down, "the stream has not been flushed")
		require.Empty(t, closed)

		peers[0].allow(-1)
		require.NoError(t, <-closed)
		require.NoError(t, <-down)
		require.Equal(t, "accepted before the shutdown, accepted during it", peers[0].readAll())

		close(chunks)
	})
}

func TestShutdownClosesIdleConnectionsWithoutWaitingForTheLeasedOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, peers := l.pairs(3)
		m := l.mux(plex.WithConnections(conns...))
		r := readerOf(t, m)

		down := make(chan error, 1)

		go func() { down <- m.Shutdown(context.Background()) }()

		synctest.Wait()

		for i, c := range conns {
			select {
			case <-peers[i].clientClosed():
				assert.NotEqual(t, r.RemoteAddr(), c.RemoteAddr())
			default:
				assert.Equal(t, r.RemoteAddr(), c.RemoteAddr(), "an idle connection is still open")
			}
		}

		require.NoError(t, r.Close())
		require.NoError(t, <-down)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// On real sockets

func TestTheProcessIsAsItWasAfterManyMultiplexersOfRealConnections(t *testing.T) {
	newLedger(t) // whose balance at the end is goroutines and descriptors

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)

	var accepted sync.WaitGroup

	accepted.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}

			accepted.Go(func() {
				_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) // not by splice, which keeps pipes
				_ = c.Close()
			})
		}
	})

	for i := range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		m, err := plex.New(ctx, plex.WithMinConnections(4), plex.WithMaxCapacity(4),
			plex.WithConnector(plex.Dial("tcp", ln.Addr().String())))
		require.NoError(t, err)
		require.Equal(t, ln.Addr(), m.Addr())

		r, w := readerOf(t, m), writerOf(t, m)
		stream, err := r.RecvChunks(context.Background(), 0)
		require.NoError(t, err)
		_, err = w.Write([]byte("hello"))
		require.NoError(t, err)

		switch i % 4 {
		case 0:
			require.NoError(t, m.Close())
		case 1:
			cancel()
			require.NoError(t, m.Close())
		case 2:
			requireClosed(t, r, w)
			require.NoError(t, m.Shutdown(context.Background()))
		default:
			late, cancelLate := context.WithTimeout(context.Background(), time.Millisecond)
			require.ErrorIs(t, m.Shutdown(late), context.DeadlineExceeded)
			cancelLate()
		}

		for range stream {
		}

		_, _ = r.Close(), w.Close()

		cancel()
	}

	require.NoError(t, ln.Close())
	accepted.Wait()
}

// Who has been told of the end is given no lease later.
func TestNobodyIsGivenALeaseAfterTheEndWasTold(t *testing.T) {
	for name, end := range map[string]func(*plex.Multiplexer) error{
		"Close":    (*plex.Multiplexer).Close,
		"Shutdown": func(m *plex.Multiplexer) error { return m.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			for range 100 {
				conns, _ := l.pairs(8)
				m := l.mux(plex.WithConnections(conns...))
				var told, begun atomic.Bool
				var wg sync.WaitGroup
				for range 4 {
					wg.Go(func() {
						for {
							was := told.Load()
							r, err := m.Reader(context.Background(), -1)
							if err == nil {
								if was {
									t.Error("a lease after ErrClosed")
								}
								_ = r.Close()
							}
							if errors.Is(err, plex.ErrClosed) {
								if told.Swap(true) && begun.Load() {
									return
								}
							}
						}
					})
				}
				time.Sleep(100 * time.Microsecond)
				require.NoError(t, end(m))
				begun.Store(true)
				wg.Wait()
			}
		})
	}
}
