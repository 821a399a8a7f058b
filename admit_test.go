package plex_test

// The one way in: what Add takes and what it gives back, and how a connection is prepared.

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

func TestAddTakesInOrderWhatFitsAndGivesTheRestBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(6)
		m := l.mux(plex.WithConnections(conns[0]), plex.WithMaxCapacity(3))

		rest, err := m.Add(context.Background(), conns[1])
		require.NoError(t, err)
		require.Empty(t, rest)

		rest, err = m.Add(context.Background(), conns[2:]...)
		require.ErrorIs(t, err, plex.ErrTooManyConnections)
		require.Equal(t, conns[3:], rest)
		l.HandedBack(rest...)

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
		conns, _ := l.Pairs(4)
		m := l.mux(plex.WithConnections(conns[0]), plex.WithMaxCapacity(9))

		var typedNil *fakenet.Conn

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

		more, _ := l.Pairs(5)
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
		conns, _ := l.Pairs(1)
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
				conns, _ := l.Pairs(2)
				m := l.mux(plex.WithMaxCapacity(2))
				l.HandedBack(conns...)

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
		conns, _ := l.Pairs(2)
		m := l.mux(plex.WithMaxCapacity(2))
		l.HandedBack(conns...)

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
		conns, peers := l.Pairs(3)
		past := time.Now().Add(-time.Hour)

		for _, c := range conns {
			require.NoError(t, c.SetDeadline(past))
		}

		m := l.mux(plex.WithConnections(conns[0]), plex.WithMaxCapacity(2))
		rest, err := m.Add(context.Background(), conns[1:]...)
		require.ErrorIs(t, err, plex.ErrTooManyConnections)
		require.Equal(t, conns[2:], rest)
		l.HandedBack(rest...)

		for i, want := range []time.Time{{}, {}, past} {
			read, write := conns[i].(*fakenet.Conn).DeadlinesLeft()
			require.Equal(t, []time.Time{want, want}, []time.Time{read, write}, "connection %d", i)
		}

		for _, p := range peers[:2] {
			p.Send("x")
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
		good, _ := l.Pair()
		closed, _ := l.Pair()
		require.NoError(t, closed.Close())

		_, err := plex.New(context.Background(), plex.WithConnections(good, closed))
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorContains(t, err, "WithConnections")
		require.ErrorContains(t, err, "2 of 2")
		require.Zero(t, good.Closes())

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
		conns, _ := l.Pairs(2)
		_, err = m.Add(context.Background(), conns...)
		require.NoError(t, err)
	})
}

func TestAConnectionThatRefusesDeadlinesIsAdmitted(t *testing.T) {
	for name, mode := range map[string]fakenet.Deadlines{"refused": fakenet.DeadlinesRefused, "ignored": fakenet.DeadlinesIgnored} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				a, p := l.Pair()
				b, q := l.Pair()
				a.TreatDeadlines(mode)
				b.TreatDeadlines(mode)

				m := l.mux(plex.WithConnections(a), plex.WithMaxCapacity(2))
				_, err := m.Add(context.Background(), b)
				require.NoError(t, err)
				p.Send("x")
				q.Send("y")

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
			c, _ := l.Pair()
			conns = append(conns, uncomparableConn{Conn: c})
		}

		dials := 0
		dial := plex.DialFunc(func(context.Context) (net.Conn, error) {
			dials++

			c, _ := l.Pair()

			return uncomparableConn{Conn: c}, nil
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
			conns, _ := l.Pairs(3)
			rest, err := m.Add(context.Background(), conns...)
			l.HandedBack(rest...)
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
			c, p := l.Pair()
			rest, err := m.Add(context.Background(), c)
			require.NoError(t, err)
			require.Empty(t, rest)

			switch i % 3 {
			case 0:
				require.NoError(t, readerOf(t, m).Kill())
			case 1:
				require.NoError(t, writerOf(t, m).Kill())
			default:
				p.Reset(syscall.ECONNRESET, false)

				r, w := readerOf(t, m), writerOf(t, m)
				_, err := r.Read(make([]byte, 1))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				require.NoError(t, r.Close())

				_ = w.Close()
			}

			synctest.Wait()
			require.Zero(t, m.Stats().Open)
			requireClosedOnce(t, c)
		}

		require.EqualValues(t, 200, m.Stats().Lost)
	})
}

func TestAConnectionThatIsBeingAddedHasItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		m := l.mux(plex.WithMaxCapacity(1))
		a, _ := l.Pair()
		b, _ := l.Pair()
		l.HandedBack(b)

		admit, added := make(chan struct{}), make(chan error)
		a.Hooks.SetReadDeadline = func(time.Time) { <-admit }

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
		c, _ := l.Pair()
		l.HandedBack(c)

		admit, added := make(chan struct{}), make(chan error)
		c.Hooks.SetReadDeadline = func(time.Time) { <-admit }

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
