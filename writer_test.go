package plex_test

// What a Writer does by Write, how its lease ends, and that no torn message is spliced.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
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

func TestWritePassesThroughAndTheAddressesAreTheConnections(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		before := c.Calls()
		w := writerOf(t, m)

		require.Equal(t, c.LocalAddr(), w.LocalAddr())
		require.Equal(t, c.RemoteAddr(), w.RemoteAddr())

		n, err := w.Write([]byte("hello"))
		require.NoError(t, err)
		require.Equal(t, 5, n)
		require.Equal(t, "hello", p.ReadN(5))
		require.Equal(t, before.Writes+1, c.Calls().Writes, "one Write is one Write")

		n, err = w.Write(nil)
		require.NoError(t, err)
		require.Zero(t, n)
		require.NoError(t, w.Err())
		require.False(t, isClosed(w.Done()))
		requireClosed(t, w)
		requireKept(t, m, 1)
		require.Equal(t, before.WriteDeadlines, c.Calls().WriteDeadlines, "no deadline is cleared that was not set")
	})
}

func TestWriteErrorHasTheConnectionsOwnErrorInItsChain(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		w := writerOf(t, m)

		p.Allow(3)

		write := writing(w, "hello")

		synctest.Wait()
		p.Reset(syscall.ECONNRESET, false)

		got := <-write
		require.Equal(t, 3, got.n, "what was written is told")
		require.ErrorIs(t, got.err, syscall.ECONNRESET)

		var op *net.OpError

		require.ErrorAs(t, got.err, &op)
		require.Equal(t, c.RemoteAddr(), op.Addr)
		require.ErrorIs(t, w.Err(), syscall.ECONNRESET)
		require.True(t, isClosed(w.Done()))
		synctest.Wait()
		requireClosedOnce(t, c)
		requireClosed(t, w)
		requireLost(t, m, 1)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// The lease's end

func TestWriterCloseInterruptsABlockedWriteAndTheNextLeaseWritesOn(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		w := writerOf(t, m)

		p.Allow(0)

		write := writing(w, "lost")

		synctest.Wait()
		requirePending(t, write, "the Write")
		require.NoError(t, w.Close())

		got := <-write
		require.Zero(t, got.n)
		require.ErrorIs(t, got.err, plex.ErrLeaseClosed)

		_, left := c.DeadlinesLeft()
		require.Zero(t, left, "deadline left behind")
		requireKept(t, m, 1)

		next := writerOf(t, m)
		write = writing(next, "data")

		synctest.Wait()
		requirePending(t, write, "the next lease's Write")
		p.Allow(-1)
		require.Equal(t, outcome{4, nil}, <-write)
		require.Equal(t, "data", p.Unread())
		requireClosed(t, next)
		requireKept(t, m, 1)
	})
}

func TestWriterCloseWaitsUntilTheInterruptedWriteIsOut(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		leave := make(chan struct{})
		c.OnWrite(fakenet.Then(func(_ int, err error) {
			if err != nil {
				<-leave
			}
		}))
		w := writerOf(t, m)

		p.Allow(0)

		write := writing(w, "lost")

		synctest.Wait()

		closed := later(w.Close)

		synctest.Wait()
		requirePending(t, write, "the Write")
		requirePending(t, closed, "Close")
		requireNoWriter(t, m)
		require.True(t, isClosed(w.Done()), "the lease can send no more")

		close(leave)
		require.NoError(t, <-closed)
		require.ErrorIs(t, (<-write).err, plex.ErrLeaseClosed)
		p.Allow(-1)

		next := writerOf(t, m)
		_, err := next.Write([]byte("data"))
		require.NoError(t, err)
		require.Equal(t, "data", p.Unread())
		requireClosed(t, next)
		requireKept(t, m, 1)
	})
}

func TestNothingNewStartsOnAWriterThatIsClosing(t *testing.T) {
	for _, flushes := range []bool{false, true} {
		bubble(t, func(t *testing.T, l *ledger) {
			m, c, p := l.single()
			leave := make(chan struct{})
			c.Hooks.Write = func([]byte) { <-leave }
			w := writerOf(t, m)

			p.Allow(0)

			var out outflow

			write := (<-chan outcome)(nil)

			if flushes {
				out = sending(t, t.Context(), w, perByte, 4)
				out.send("x")
			} else {
				write = writing(w, "x")
			}

			synctest.Wait()

			closed := later(w.Close)

			synctest.Wait()

			calls := c.Calls()
			stale := staleWriterCalls(w)
			delete(stale, "Kill") // it may still make the end a harder one

			for name, call := range stale {
				got := later(call)

				synctest.Wait()

				select {
				case err := <-got:
					require.ErrorIs(t, err, plex.ErrLeaseClosed, name)
				default:
					require.Fail(t, name+" waits for the end of the lease")
				}
			}

			require.Equal(t, calls, c.Calls(), "calls that reached the connection")
			requirePending(t, closed, "Close")
			close(leave)

			if flushes {
				p.Allow(-1)
				out.end()
			} else {
				require.ErrorIs(t, (<-write).err, plex.ErrLeaseClosed)
			}

			require.NoError(t, <-closed)
			requireKept(t, m, 1)
		})
	}
}

func TestWriterClosedByManyAtOnceClosesOnce(t *testing.T) {
	l := newLedger(t)
	m, _, p := l.single()

	p.Allow(0)

	for i := range 300 {
		w, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)

		var write <-chan outcome
		if i%2 == 0 {
			write = writing(w, "x")
		}

		var (
			wg     sync.WaitGroup
			closed atomic.Int64
		)

		for range 4 {
			wg.Go(func() {
				switch err := w.Close(); {
				case err == nil:
					closed.Add(1)
				case !errors.Is(err, plex.ErrLeaseClosed):
					t.Errorf("Close: %v", err)
				}
			})
		}

		wg.Wait()
		require.EqualValues(t, 1, closed.Load(), "Closes that returned nil")
		require.True(t, isClosed(w.Done()))

		if write != nil {
			require.ErrorIs(t, (<-write).err, plex.ErrLeaseClosed)
		}
	}

	requireKept(t, m, 1)
}

func TestMultiplexerCloseEndsABlockedWrite(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		w := writerOf(t, m)

		p.Allow(2)

		write := writing(w, "data")

		synctest.Wait()
		require.NoError(t, m.Close())
		requireClosedOnce(t, c)

		got := <-write
		require.Equal(t, 2, got.n)
		require.ErrorIs(t, got.err, plex.ErrClosed)

		_, err := w.Write([]byte("x"))
		require.ErrorIs(t, err, plex.ErrClosed)
		require.ErrorIs(t, w.Err(), plex.ErrClosed)
		require.True(t, isClosed(w.Done()))
		require.NoError(t, w.Close(), "the lease ends")
		require.ErrorIs(t, w.Close(), plex.ErrLeaseClosed)
		require.Zero(t, m.Stats().Lost, "closed by plex is not lost")
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Stale handles

// staleWriterCalls is every call of a Writer that could do something.
func staleWriterCalls(w plex.Writer) map[string]func() error {
	return map[string]func() error{
		"Write":                  func() error { _, err := w.Write([]byte("stale")); return err },
		"Write of nothing":       func() error { _, err := w.Write(nil); return err },
		"Send":                   func() error { _, err := w.Send(context.Background(), 4); return err },
		"SendChunks":             func() error { _, err := w.SendChunks(context.Background(), 4); return err },
		"SetWriteDeadline past":  func() error { return w.SetWriteDeadline(past) },
		"SetWriteDeadline later": func() error { return w.SetWriteDeadline(time.Now().Add(time.Hour)) },
		"SetWriteDeadline none":  func() error { return w.SetWriteDeadline(time.Time{}) },
		"Close":                  w.Close,
		"Kill":                   w.Kill,
	}
}

func TestStaleWriterNeverReachesTheConnection(t *testing.T) {
	for _, busy := range []string{"idle", "nothing", "Write", "Send"} {
		t.Run("next owner: "+busy, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				m, c, p := l.single()
				stale := writerOf(t, m)

				requireClosed(t, stale)
				p.Allow(0)

				var (
					owner plex.Writer
					write <-chan outcome
					out   outflow
				)

				limit := time.Now().Add(time.Minute)

				if busy != "idle" {
					owner = writerOf(t, m)
					require.NoError(t, owner.SetWriteDeadline(limit))
				}

				switch busy {
				case "Write":
					write = writing(owner, "data")
				case "Send":
					out = sending(t, t.Context(), owner, perByte, 4)
					out.send("data")
				}

				synctest.Wait()

				calls, stats := c.Calls(), m.Stats()

				for name, call := range staleWriterCalls(stale) {
					require.ErrorIs(t, call(), plex.ErrLeaseClosed, name)
					require.ErrorIs(t, call(), net.ErrClosed, name)
				}

				require.NoError(t, stale.Err())
				require.True(t, isClosed(stale.Done()))
				require.Equal(t, c.LocalAddr(), stale.LocalAddr())
				require.Equal(t, c.RemoteAddr(), stale.RemoteAddr())
				synctest.Wait()
				require.Equal(t, calls, c.Calls(), "calls that reached the connection")
				require.Equal(t, stats, m.Stats())

				if busy == "idle" {
					return
				}

				_, left := c.DeadlinesLeft()
				require.True(t, limit.Equal(left), "the owner's deadline is %v, not %v", left, limit)
				require.False(t, isClosed(owner.Done()))
				p.Allow(-1)

				switch busy {
				case "Write":
					require.Equal(t, outcome{4, nil}, <-write)
				case "Send":
					out.end()
				default:
					_, err := owner.Write([]byte("data"))
					require.NoError(t, err)
				}

				requireClosed(t, owner)
				require.Equal(t, "data", p.Unread())
				requireKept(t, m, 1)
			})
		})
	}
}

func TestZeroWriterIsAClosedLease(t *testing.T) {
	var w plex.Writer

	for name, call := range staleWriterCalls(w) {
		require.ErrorIs(t, call(), plex.ErrLeaseClosed, name)
	}

	require.True(t, isClosed(w.Done()))
	require.Nil(t, w.LocalAddr())
	require.Nil(t, w.RemoteAddr())
}

// A SetWriteDeadline that was let in before Close may reach the connection late: Close has to see to it.
func TestWriterDeadlineCallCaughtByCloseDoesNotOutliveTheLease(t *testing.T) {
	l := newLedger(t)
	c, _ := l.Pair()
	g := fakenet.NewGate()
	c.Hooks.SetWriteDeadline = g.PassDeadline

	m := l.mux(plex.WithConnections(c))
	w := writerOf(t, m)

	g.Arm()

	set := later(func() error { return w.SetWriteDeadline(past) })

	<-g.Entered

	closed := later(w.Close)
	// Were Close not to wait for the call inside, it would be done well before this.
	within(20*time.Millisecond, func() bool { return len(closed) > 0 })
	close(g.Leave)
	require.NoError(t, <-closed)
	<-set

	next := writerOf(t, m)
	_, err := next.Write([]byte("data"))
	require.NoError(t, err)
	requireClosed(t, next)
	requireKept(t, m, 1)
}

func TestDeadlinesRacingWriterCloseNeverPoisonTheNextLease(t *testing.T) {
	const rounds = 3000

	l := newLedger(t)
	m, c, p := l.single()

	for i := range rounds {
		w, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)

		var (
			wg    sync.WaitGroup
			write <-chan outcome
		)

		if i%3 == 0 {
			p.Allow(0)
			write = writing(w, "x")
		}

		for k := range 2 {
			wg.Go(func() {
				for range rand.IntN(3) {
					_ = w.SetWriteDeadline([]time.Time{past, time.Now().Add(time.Microsecond)}[k])
				}
			})
		}

		if i%2 == 0 {
			_ = w.SetWriteDeadline(time.Now().Add(time.Duration(rand.IntN(3)) * time.Microsecond))
		}

		require.NoError(t, w.Close())
		p.Allow(-1)

		next := writerOf(t, m)
		_, left := c.DeadlinesLeft()
		require.Zero(t, left, "round %d", i)
		_, err = next.Write([]byte("a"))
		require.NoError(t, err, "round %d", i)
		wg.Wait() // the stale calls have all been made by now
		_, err = next.Write([]byte("b"))
		require.NoError(t, err, "round %d", i)
		requireClosed(t, next)

		if write != nil {
			require.Zero(t, (<-write).n)
		}

		require.Equal(t, "ab", p.ReadN(2))
	}

	requireKept(t, m, 1)
}

func TestWriterCloseIsNotUndoneByADeadlineOfItsOwnLease(t *testing.T) {
	l := newLedger(t)
	m, _, p := l.single()

	p.Allow(0)

	for i := range 1000 {
		w, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)

		write := writing(w, "x")

		var wg sync.WaitGroup

		for range 2 {
			wg.Go(func() {
				for range 20 {
					_ = w.SetWriteDeadline(time.Time{})
					_ = w.SetWriteDeadline(time.Now().Add(time.Hour))
				}
			})
		}

		finish(t, fmt.Sprintf("Close in round %d", i), func() { _ = w.Close() })
		require.ErrorIs(t, (<-write).err, plex.ErrLeaseClosed)
		wg.Wait()
	}

	requireKept(t, m, 1)
}

// ---------------------------------------------------------------------------------------------------------------
// Deadlines and torn writes

func TestWriteDeadlineEndsWithTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()

		for _, deadline := range []time.Time{past, time.Now().Add(time.Hour)} {
			w := writerOf(t, m)

			require.NoError(t, w.SetWriteDeadline(deadline))
			_, left := c.DeadlinesLeft()
			require.True(t, deadline.Equal(left))
			requireClosed(t, w)

			_, left = c.DeadlinesLeft()
			require.Zero(t, left)
		}

		next := writerOf(t, m)

		time.Sleep(2 * time.Hour)

		_, err := next.Write([]byte("x"))
		require.NoError(t, err)
		require.Equal(t, "x", p.Unread())
		requireClosed(t, next)
		requireKept(t, m, 1)
	})
}

func TestWriteDeadlineBeforeTheFirstByteIsNoFaultOfTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		w := writerOf(t, m)
		began := time.Now()

		p.Allow(0)
		require.NoError(t, w.SetWriteDeadline(began.Add(time.Second)))

		n, err := w.Write([]byte("abc"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Zero(t, n)
		require.Equal(t, time.Second, time.Since(began))
		require.NoError(t, w.Err())
		require.False(t, isClosed(w.Done()))
		requireClosed(t, w)
		requireKept(t, m, 1)
		p.Allow(-1)

		w = writerOf(t, m)
		_, err = w.Write([]byte("abc"))
		require.NoError(t, err)
		requireClosed(t, w)
		require.Equal(t, "abc", p.Unread())
	})
}

func TestWriteDeadlineInterruptsAWriteThatIsUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		w := writerOf(t, m)

		p.Allow(0)

		write := writing(w, "abc")

		synctest.Wait()
		require.NoError(t, w.SetWriteDeadline(past))

		got := <-write
		require.Zero(t, got.n)
		require.ErrorIs(t, got.err, os.ErrDeadlineExceeded)
		requireClosed(t, w)
		requireKept(t, m, 1)
	})
}

// An expired deadline that nobody set is how a dead TLS write side speaks.
func TestWriteDeadlineThatNobodySetIsAFault(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, _ := l.single()
		w := writerOf(t, m)

		require.NoError(t, c.SetWriteDeadline(past)) // behind plex's back

		_, err := w.Write([]byte("x"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		requireClosed(t, w)
		requireLost(t, m, 1)
		requireClosedOnce(t, c)
	})
}

// tlsLike is a connection that says it is TLS, whose write side does not survive a deadline.
type tlsLike struct{ *fakenet.Conn }

func (tlsLike) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{HandshakeComplete: true}
}

func TestTLSWriteThatWasCutByADeadlineIsTheConnectionsEnd(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, p := l.Pair()
		m := l.mux(plex.WithConnections(&tlsLike{c}))
		r, w := readerOf(t, m), writerOf(t, m)

		p.Allow(0)
		require.NoError(t, r.SetReadDeadline(time.Now().Add(time.Second)))

		_, err := r.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, r.SetReadDeadline(time.Time{}))
		require.Zero(t, m.Stats().Lost, "a Read survives it")

		require.NoError(t, w.SetWriteDeadline(time.Now().Add(time.Second)))

		n, err := w.Write([]byte("x"))
		require.Zero(t, n)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		requireClosed(t, w, r)
		synctest.Wait()
		requireClosedOnce(t, c)
		requireLost(t, m, 1)
	})
}

// tornBy are the ways of cutting a Write of "abcdef" short after 3 bytes.
var tornBy = map[string]func(t *testing.T, w plex.Writer, p *fakenet.Peer){
	"a deadline": func(t *testing.T, w plex.Writer, _ *fakenet.Peer) {
		require.NoError(t, w.SetWriteDeadline(time.Now().Add(time.Second)))

		n, err := w.Write([]byte("abcdef"))
		require.Equal(t, 3, n)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, w.SetWriteDeadline(time.Time{}))
	},
	"Close": func(t *testing.T, w plex.Writer, _ *fakenet.Peer) {
		write := writing(w, "abcdef")

		synctest.Wait()
		require.NoError(t, w.Close())

		got := <-write
		require.Equal(t, 3, got.n)
		require.ErrorIs(t, got.err, plex.ErrLeaseClosed)
	},
}

func TestTornWriteIsTheConnectionsEndWhenTheLeaseCloses(t *testing.T) {
	for name, tear := range tornBy {
		t.Run("by "+name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				m, c, p := l.single()
				r, w := readerOf(t, m), writerOf(t, m)
				read := reading(r, make([]byte, 4))

				p.Allow(3)
				tear(t, w, p)

				if name != "Close" {
					requirePending(t, read, "the Read while the write lease could still mend it")
					require.Zero(t, c.Closes())
					require.NoError(t, w.Close())
				}

				require.ErrorIs(t, (<-read).err, plex.ErrPartialWrite)
				require.ErrorIs(t, r.Err(), plex.ErrPartialWrite)
				requireClosedOnce(t, c)
				requireClosed(t, r)
				requireNoWriter(t, m)
				requireNoReader(t, m)
				requireLost(t, m, 1)
				require.Equal(t, "abc", p.ReadAll())
			})
		})
	}
}

func TestTornWriteThatTheSameLeaseCompletesIsFine(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		w := writerOf(t, m)

		p.Allow(3)
		tornBy["a deadline"](t, w, p)
		p.Allow(-1)

		n, err := w.Write([]byte("def"))
		require.NoError(t, err)
		require.Equal(t, 3, n)
		requireClosed(t, w)
		requireKept(t, m, 1)

		w = writerOf(t, m)
		_, err = w.Write([]byte("ghi"))
		require.NoError(t, err)
		requireClosed(t, w)
		require.Equal(t, "abcdefghi", p.Unread())
	})
}

func TestTornWriteIsNotMendedByAWriteThatWroteNothing(t *testing.T) {
	for name, nothing := range map[string]func(t *testing.T, w plex.Writer){
		"a deadline before the first byte": func(t *testing.T, w plex.Writer) {
			require.NoError(t, w.SetWriteDeadline(time.Now().Add(time.Second)))

			n, err := w.Write([]byte("def"))
			require.Zero(t, n)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		},
		"an empty Write": func(t *testing.T, w plex.Writer) {
			_, err := w.Write(nil)
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				m, c, p := l.single()
				w := writerOf(t, m)

				p.Allow(3)
				tornBy["a deadline"](t, w, p)
				nothing(t, w)
				require.NoError(t, w.Close())
				synctest.Wait()
				requireClosedOnce(t, c)
				requireLost(t, m, 1)
				requireNoWriter(t, m)
			})
		})
	}
}

func TestTearOfOneLeaseDoesNotHangOnToTheNextConnection(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conns, peers := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...))

		peers[0].Allow(3)
		peers[1].Allow(3)

		w := writerOf(t, m)
		tornBy["a deadline"](t, w, nil)
		require.NoError(t, w.Close())
		peers[0].Allow(-1)
		peers[1].Allow(-1)

		for range 2 {
			next := writerOf(t, m)
			require.NotEqual(t, w.RemoteAddr(), next.RemoteAddr())
			_, err := next.Write([]byte("whole"))
			require.NoError(t, err)
			requireClosed(t, next)
		}

		synctest.Wait()
		s := m.Stats()
		require.Equal(t, 1, s.Open)
		require.EqualValues(t, 1, s.Lost)
	})
}

func TestConnectionThatCannotBeInterruptedIsClosedToInterruptAWrite(t *testing.T) {
	for name, mode := range map[string]fakenet.Deadlines{"refuses deadlines": fakenet.DeadlinesRefused, "ignores deadlines": fakenet.DeadlinesIgnored} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				m, c, p := l.single()

				c.TreatDeadlines(mode)
				p.Allow(0)

				r, w := readerOf(t, m), writerOf(t, m)
				write := writing(w, "data")

				synctest.Wait()

				began := time.Now()
				require.NoError(t, w.Close())
				require.ErrorIs(t, (<-write).err, plex.ErrLeaseClosed)
				require.LessOrEqual(t, time.Since(began), time.Second)
				requireClosedOnce(t, c)
				requireLost(t, m, 1)

				_, err := r.Read(make([]byte, 4))
				require.Error(t, err)
				requireClosed(t, r)
				requireNoReader(t, m)
				requireNoWriter(t, m)
			})
		})
	}
}

// ---------------------------------------------------------------------------------------------------------------
// Done

func TestDoneIsClosedWhenTheLeaseCanSendNoMore(t *testing.T) {
	for name, end := range map[string]func(m *plex.Multiplexer, r plex.Reader, w plex.Writer, p *fakenet.Peer){
		"by Close":                   func(_ *plex.Multiplexer, _ plex.Reader, w plex.Writer, _ *fakenet.Peer) { _ = w.Close() },
		"by Kill":                    func(_ *plex.Multiplexer, _ plex.Reader, w plex.Writer, _ *fakenet.Peer) { _ = w.Kill() },
		"by the other half's Kill":   func(_ *plex.Multiplexer, r plex.Reader, _ plex.Writer, _ *fakenet.Peer) { _ = r.Kill() },
		"by the multiplexer's Close": func(m *plex.Multiplexer, _ plex.Reader, _ plex.Writer, _ *fakenet.Peer) { _ = m.Close() },
		"by a reset that the other half met": func(_ *plex.Multiplexer, r plex.Reader, _ plex.Writer, p *fakenet.Peer) {
			p.Reset(syscall.ECONNRESET, false)
			_, _ = r.Read(make([]byte, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				m, _, p := l.single()
				r, w := readerOf(t, m), writerOf(t, m)
				done := later(func() struct{} { <-w.Done(); return struct{}{} }) // asked for before the end

				synctest.Wait()
				require.False(t, isClosed(w.Done()))
				requirePending(t, done, "the wait for Done")
				end(m, r, w, p)
				<-done
				require.True(t, isClosed(w.Done()), "asked for after the end")

				_ = w.Close()
				_ = r.Close()

				require.True(t, isClosed(w.Done()))
			})
		})
	}
}

func TestDoneBelongsToItsLease(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, _ := l.single()

		for range 3 {
			w := writerOf(t, m)
			require.False(t, isClosed(w.Done()))

			done := w.Done()
			require.Equal(t, done, w.Done())
			requireClosed(t, w)
			require.True(t, isClosed(done))
		}

		requireKept(t, m, 1)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Several goroutines on one lease

func TestWritesOnOneLeaseTakeTurns(t *testing.T) {
	l := newLedger(t)
	m, c, p := l.single()
	w := writerOf(t, m)

	const (
		writers, messages = 8, 100
		size              = 64
	)

	p.Allow(0) // so that each Write blocks on its way

	var wg sync.WaitGroup

	for i := range writers {
		wg.Go(func() {
			for range messages {
				if n, err := w.Write([]byte(strings.Repeat(string(rune('a'+i)), size))); n != size || err != nil {
					t.Errorf("Write: %d, %v", n, err)
				}
			}
		})
	}

	for range writers * messages {
		p.Allow(rand.IntN(size))
		p.Allow(-1)

		message := p.ReadN(size)
		require.Equal(t, strings.Repeat(message[:1], size), message)
		p.Allow(0)
	}

	p.Allow(-1)
	wg.Wait()
	require.Equal(t, 1, c.Calls().PeakWrites, "Writes at once")
	requireClosed(t, w)
	requireKept(t, m, 1)
}

func TestWriterCloseEndsAllTheWritesThatWaitForTheirTurn(t *testing.T) {
	l := newLedger(t)
	m, _, p := l.single()

	p.Allow(0)

	for range 200 {
		w, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)

		var wg sync.WaitGroup

		for range 5 {
			wg.Go(func() {
				if n, err := w.Write([]byte("x")); n != 0 || !errors.Is(err, plex.ErrLeaseClosed) {
					t.Errorf("Write: %d, %v", n, err)
				}
			})
		}

		finish(t, "Close", func() { requireClosed(t, w) })
		wg.Wait()
	}

	require.Empty(t, p.Unread())
	requireKept(t, m, 1)
}

// ---------------------------------------------------------------------------------------------------------------
// Datagrams

func TestWriteOfADatagramIsOneDatagram(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := l.Datagrams()
		m := l.mux(plex.WithConnections(c))
		w := writerOf(t, m)

		for _, packet := range []string{"first", "", "third"} {
			n, err := w.Write([]byte(packet))
			require.NoError(t, err)
			require.Equal(t, len(packet), n)
		}

		requireClosed(t, w)
		require.Equal(t, []string{"first", "", "third"}, c.Packets(), "an empty datagram is sent too")
		requireKept(t, m, 1)
	})
}
