package plex_test

// The ends of a connection: killed, reset or ended by its peer. Both halves tell the first cause.

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

func TestReaderKillEndsBothHalves(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)

		p.Allow(0)

		read, write := reading(r, make([]byte, 4)), writing(w, "xy")

		synctest.Wait()
		require.False(t, isClosed(w.Done()))
		require.NoError(t, r.Kill())
		requireClosedOrKilled(t, (<-read).err)
		require.ErrorIs(t, (<-write).err, plex.ErrKilled)
		requireClosedOnce(t, c)
		require.ErrorIs(t, w.Err(), plex.ErrKilled)
		require.True(t, isClosed(w.Done()))

		_, err := w.Write([]byte("z"))
		require.ErrorIs(t, err, plex.ErrKilled)

		require.ErrorIs(t, r.Kill(), plex.ErrLeaseClosed)
		require.ErrorIs(t, r.Close(), plex.ErrLeaseClosed)
		requireClosed(t, w)
		requireLost(t, m, 1)
		require.EqualValues(t, 1, m.Stats().Killed)
		requireNoReader(t, m)
		requireNoWriter(t, m)
	})
}

func TestKillMayJoinACloseButNotAKill(t *testing.T) {
	for _, first := range []string{"Close", "Kill"} {
		t.Run(first, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				m, c, _ := l.single()
				leave := make(chan struct{})
				c.OnRead(fakenet.Then(func(int, error) { <-leave }))
				r := readerOf(t, m)
				read := reading(r, make([]byte, 4))

				synctest.Wait()

				ended := later(map[string]func() error{"Close": r.Close, "Kill": r.Kill}[first])

				synctest.Wait()
				requirePending(t, ended, first)

				if first == "Close" {
					require.NoError(t, r.Kill())
				}

				require.ErrorIs(t, r.Kill(), plex.ErrLeaseClosed)
				require.ErrorIs(t, r.Close(), plex.ErrLeaseClosed)
				close(leave)
				require.NoError(t, <-ended)
				<-read
				synctest.Wait()
				requireClosedOnce(t, c)
				requireLost(t, m, 1)
				require.EqualValues(t, 1, m.Stats().Killed)
			})
		})
	}
}

func TestKillOfOneConnectionLeavesTheOthersAlone(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conns, peers := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...))
		a, b := readerOf(t, m), readerOf(t, m)
		read := reading(b, make([]byte, 4))

		synctest.Wait()
		require.NoError(t, a.Kill())

		for i, c := range conns {
			if c.RemoteAddr() == b.RemoteAddr() {
				peers[i].Send("data")
			}
		}

		require.Equal(t, outcome{4, nil}, <-read)
		requireClosed(t, b)

		synctest.Wait()
		s := m.Stats()
		require.Equal(t, [3]int{1, 1, 1}, [3]int{s.Open, s.IdleReaders, s.IdleWriters})
		require.EqualValues(t, 1, s.Lost)
		require.EqualValues(t, 1, s.Killed)
	})
}

func TestResetReadFirstIsTheCauseForTheWriterToo(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)

		p.Send("rest")
		p.Reset(syscall.ECONNRESET, true)
		require.Equal(t, "rest", readN(t, r, 4), "what had arrived")

		_, err := r.Read(make([]byte, 4))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		synctest.Wait()
		requireClosedOnce(t, c)

		for range 2 {
			_, err = w.Write([]byte("x")) // the connection would say EPIPE, or that it is closed
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.NotErrorIs(t, err, syscall.EPIPE)
			require.ErrorIs(t, w.Err(), syscall.ECONNRESET)

			_, err = r.Read(make([]byte, 4))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.ErrorIs(t, r.Err(), syscall.ECONNRESET)
		}

		require.True(t, isClosed(w.Done()))
		requireClosed(t, r, w)
		requireLost(t, m, 1)
	})
}

func TestResetThatAWriteMetIsTheCauseForTheReaderToo(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)

		p.Reset(syscall.ECONNRESET, false)

		_, err := w.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		synctest.Wait()
		requireClosedOnce(t, c)
		require.True(t, isClosed(w.Done()))

		for range 2 {
			_, err = r.Read(make([]byte, 4)) // the connection would say EOF
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.ErrorIs(t, r.Err(), syscall.ECONNRESET)
		}

		requireClosed(t, w)
		require.NoError(t, r.Close())
		requireLost(t, m, 1)
	})
}

// The writer is the first to be told of the reset, but the reader, told of an EOF, comes to plex only after it.
func TestEOFOfAConnectionThatWasResetIsTheReset(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		ask := fakenet.NewGate()
		c.Hooks.Read = ask.PassIO
		readerTold, writerTold := make(chan struct{}), make(chan struct{})
		c.OnRead(fakenet.Then(func(int, error) { <-readerTold }))
		c.OnWrite(fakenet.Then(func(int, error) { <-writerTold }))
		r, w := readerOf(t, m), writerOf(t, m)

		ask.Arm()

		read := reading(r, make([]byte, 4))

		<-ask.Entered
		p.Reset(syscall.ECONNRESET, false)

		write := writing(w, "x")

		synctest.Wait() // the Write has its ECONNRESET in hand
		close(ask.Leave)
		synctest.Wait() // the Read has its EOF
		close(writerTold)
		require.ErrorIs(t, (<-write).err, syscall.ECONNRESET)
		close(readerTold)
		require.ErrorIs(t, (<-read).err, syscall.ECONNRESET)
		require.ErrorIs(t, r.Err(), syscall.ECONNRESET)
		requireClosed(t, r, w)
		requireLost(t, m, 1)
	})
}

func TestDeadlineOfAConnectionThatWasKilledIsTheKill(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, _ := l.single()
		leave := make(chan struct{})
		c.OnRead(fakenet.Then(func(int, error) { <-leave }))
		r, w := readerOf(t, m), writerOf(t, m)

		require.NoError(t, r.SetReadDeadline(past))

		read := reading(r, make([]byte, 4))

		synctest.Wait()
		require.NoError(t, w.Kill())
		close(leave)
		require.ErrorIs(t, (<-read).err, plex.ErrKilled)
		requireClosed(t, r)
		requireLost(t, m, 1)
	})
}

func TestConnectionAtItsEndThatFailsTooIsLostOnce(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)

		require.NoError(t, p.Close())

		_, err := r.Read(make([]byte, 4))
		require.Equal(t, io.EOF, err)
		_, err = w.Write([]byte("x"))
		require.NoError(t, err)
		_, err = w.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.NoError(t, w.Kill())

		_, err = r.Read(make([]byte, 4))
		require.ErrorIs(t, err, syscall.ECONNRESET, "both halves report it from now on")
		require.ErrorIs(t, r.Err(), syscall.ECONNRESET)
		requireClosed(t, r)
		synctest.Wait()
		requireClosedOnce(t, c)
		requireLost(t, m, 1)
	})
}

func TestKillAfterAResetKeepsTheFirstCause(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)

		p.Reset(syscall.ECONNRESET, false)

		_, err := w.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.NoError(t, w.Kill())

		_, err = r.Read(make([]byte, 4))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.NotErrorIs(t, err, plex.ErrKilled)
		requireClosed(t, r)
		requireLost(t, m, 1)
	})
}

func TestResetOfABlockedReadAndWriteHasOneCause(t *testing.T) {
	l := newLedger(t)

	for i := range 300 {
		c, p := l.Pair()

		m, err := plex.New(t.Context(), plex.WithConnections(c))
		require.NoError(t, err)

		r, w := readerOf(t, m), writerOf(t, m)

		p.Allow(0)

		write := writing(w, "x")

		if i%2 == 0 {
			read := reading(r, make([]byte, 1))
			p.Reset(syscall.ECONNRESET, false)
			<-read
		} else {
			p.Reset(syscall.ECONNRESET, false)
		}

		<-write

		// One of them was told of the reset, the other of an EOF or EPIPE, and either may have been the first.
		first := w.Err()
		require.Error(t, first)

		_, err = w.Write([]byte("y"))
		require.Equal(t, first.Error(), err.Error())
		require.Equal(t, first, w.Err())
		eventually(t, func() bool { return c.Closes() == 1 }, "the transport is closed")
		requireClosed(t, w, r, m)
		requireClosedOnce(t, c)
		require.EqualValues(t, 1, m.Stats().Lost)
	}
}

func TestFINIsDataThenEOFAndALiveWriteLeaseMayFinish(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)

		p.Send("last words")
		p.CloseWrite()
		require.Equal(t, "last words", readN(t, r, 10))

		for range 2 {
			_, err := r.Read(make([]byte, 4))
			require.Equal(t, io.EOF, err)
		}

		_, err := w.Write([]byte("still "))
		require.NoError(t, err)
		requireClosed(t, r)

		_, err = w.Write([]byte("here"))
		require.NoError(t, err)
		require.Zero(t, c.Closes(), "the write lease is not done")
		require.False(t, isClosed(w.Done()))
		require.EqualValues(t, 1, m.Stats().Lost)
		requireNoReader(t, m)

		requireClosed(t, w)
		synctest.Wait()
		requireClosedOnce(t, c)
		require.Equal(t, "still here", p.ReadAll())
		requireNoWriter(t, m)
		requireLost(t, m, 1)
	})
}

func TestFINWithoutAWriteLeaseClosesTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		r := readerOf(t, m)

		p.CloseWrite()

		_, err := r.Read(make([]byte, 4))
		require.Equal(t, io.EOF, err)
		requireNoWriter(t, m)
		requireClosed(t, r)
		requireClosedOnce(t, c)
		requireNoReader(t, m)
		requireLost(t, m, 1)
	})
}

func TestWriteLeaseThatEndsAfterTheFINDoesNotGoBackThoughTheReaderStays(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)

		p.CloseWrite()

		_, err := r.Read(make([]byte, 4))
		require.Equal(t, io.EOF, err)
		requireClosed(t, w)
		requireNoWriter(t, m)

		_, err = r.Read(make([]byte, 4))
		require.Equal(t, io.EOF, err)
		requireClosed(t, r)
		requireClosedOnce(t, c)
		requireLost(t, m, 1)
	})
}

func TestConnectionAtItsEndMakesRoomForAnotherWhenItsWriterIsDone(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)

		p.CloseWrite()

		_, err := r.Read(make([]byte, 4))
		require.Equal(t, io.EOF, err)
		require.Equal(t, 1, m.Stats().Open, "the peer may still be reading")

		_, err = w.Write([]byte("old"))
		require.NoError(t, err)
		requireClosed(t, w)
		require.Equal(t, "old", p.ReadAll())
		requireLost(t, m, 1)

		c2, p2 := l.Pair()
		rest, err := m.Add(t.Context(), c2)
		require.NoError(t, err)
		require.Empty(t, rest)

		r2 := readerOf(t, m)
		p2.Send("new")
		require.Equal(t, "new", readN(t, r2, 3))

		_, err = r.Read(make([]byte, 4))
		require.Equal(t, io.EOF, err)
		requireClosed(t, r, r2)

		s := m.Stats()
		require.Equal(t, [2]int{1, 1}, [2]int{s.Open, s.IdleReaders})
		require.EqualValues(t, 1, s.Lost)
	})
}

func TestWriterKillEndsBothHalves(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)

		p.Allow(0)

		read, write := reading(r, make([]byte, 4)), writing(w, "xy")

		synctest.Wait()
		require.NoError(t, w.Kill())
		requireClosedOrKilled(t, (<-write).err)
		require.ErrorIs(t, (<-read).err, plex.ErrKilled)
		requireClosedOnce(t, c)
		require.ErrorIs(t, r.Err(), plex.ErrKilled)
		require.True(t, isClosed(w.Done()))

		_, err := r.Read(make([]byte, 4))
		require.ErrorIs(t, err, plex.ErrKilled)

		_, err = r.Recv(t.Context(), 1)
		require.ErrorIs(t, err, plex.ErrKilled)

		require.ErrorIs(t, w.Kill(), plex.ErrLeaseClosed)
		require.ErrorIs(t, w.Close(), plex.ErrLeaseClosed)
		requireClosed(t, r)
		requireLost(t, m, 1)
		require.EqualValues(t, 1, m.Stats().Killed)
	})
}

func TestConnectionKilledByBothHalvesAtOnceIsLostOnce(t *testing.T) {
	l := newLedger(t)

	for range 200 {
		c, _ := l.Pair()

		m, err := plex.New(t.Context(), plex.WithConnections(c))
		require.NoError(t, err)

		r, w := readerOf(t, m), writerOf(t, m)

		var (
			wg     sync.WaitGroup
			killed atomic.Int64
		)

		for range 2 {
			for _, kill := range []func() error{r.Kill, w.Kill} {
				wg.Go(func() {
					if err := kill(); err == nil {
						killed.Add(1)
					} else if !errors.Is(err, plex.ErrLeaseClosed) {
						t.Errorf("Kill: %v", err)
					}
				})
			}
		}

		wg.Wait()
		require.EqualValues(t, 2, killed.Load(), "one Kill per lease")
		requireLost(t, m, 1)
		requireClosedOnce(t, c)

		s := m.Stats()
		require.EqualValues(t, 1, s.Lost)
		require.Zero(t, s.Open+s.LeasedReaders+s.LeasedWriters)
		requireClosed(t, m)
		requireClosedOnce(t, c)
	}
}

func requireClosedOrKilled(t testing.TB, err error) {
	t.Helper()
	require.True(t, errors.Is(err, plex.ErrKilled) || errors.Is(err, plex.ErrLeaseClosed), "%v", err)
}
