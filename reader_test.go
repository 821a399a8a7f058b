package plex_test

// What a Reader does by Read, and how its lease ends.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
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

func TestReadPassesThroughAndTheAddressesAreTheConnections(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		before := c.Calls()
		r := readerOf(t, m)

		require.Equal(t, c.LocalAddr(), r.LocalAddr())
		require.Equal(t, c.RemoteAddr(), r.RemoteAddr())

		p.Send("hello")

		buf := make([]byte, 16)
		n, err := r.Read(buf)
		require.NoError(t, err)
		require.Equal(t, "hello", string(buf[:n]))
		require.Equal(t, before.Reads+1, c.Calls().Reads, "one Read is one Read")

		read := reading(r, buf)

		synctest.Wait()
		requirePending(t, read, "the Read of nothing")
		p.Send("more")
		require.Equal(t, outcome{4, nil}, <-read)
		require.NoError(t, r.Err())
		requireClosed(t, r)
		requireKept(t, m, 1)
		require.Equal(t, before.ReadDeadlines, c.Calls().ReadDeadlines, "no deadline is cleared that was not set")
	})
}

func TestReadIntoNothingIsNoEnd(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		r := readerOf(t, m)
		p.Send("x")

		n, err := r.Read(nil)
		require.NoError(t, err)
		require.Zero(t, n)
		require.Equal(t, "x", readN(t, r, 1))
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestReadErrorHasTheConnectionsOwnErrorInItsChain(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		r := readerOf(t, m)
		read := reading(r, make([]byte, 4))

		synctest.Wait()
		p.Reset(syscall.ECONNRESET, false)

		got := <-read
		require.Zero(t, got.n)
		require.ErrorIs(t, got.err, syscall.ECONNRESET)

		var op *net.OpError

		require.ErrorAs(t, got.err, &op)
		require.Equal(t, c.RemoteAddr(), op.Addr)
		require.ErrorIs(t, r.Err(), syscall.ECONNRESET)
		synctest.Wait()
		requireClosedOnce(t, c, "a hard error closes the connection at once")
		requireClosed(t, r)
		requireLost(t, m, 1)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// The lease's end

func TestReaderCloseInterruptsABlockedReadAndTheNextLeaseReadsOn(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		r := readerOf(t, m)
		read := reading(r, make([]byte, 4))

		synctest.Wait()
		requirePending(t, read, "the Read")

		began := time.Now()
		require.NoError(t, r.Close())

		got := <-read
		require.Zero(t, got.n)
		require.ErrorIs(t, got.err, plex.ErrLeaseClosed)
		require.Zero(t, time.Since(began))

		left, _ := c.DeadlinesLeft()
		require.Zero(t, left, "deadline left behind")

		next := readerOf(t, m)
		read = reading(next, make([]byte, 4))

		synctest.Wait()
		requirePending(t, read, "the next lease's Read")
		p.Send("data")
		require.Equal(t, outcome{4, nil}, <-read)
		requireClosed(t, next)
		requireKept(t, m, 1)
	})
}

func TestReaderCloseWaitsUntilTheInterruptedReadIsOut(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		leave := make(chan struct{})
		c.OnRead(fakenet.Then(func(_ int, err error) {
			if err != nil {
				<-leave
			}
		}))
		r := readerOf(t, m)
		read := reading(r, make([]byte, 4))

		synctest.Wait()

		closed := later(r.Close)

		synctest.Wait()
		requirePending(t, read, "the Read")
		requirePending(t, closed, "Close")
		requireNoReader(t, m)

		close(leave)
		require.NoError(t, <-closed)
		require.ErrorIs(t, (<-read).err, plex.ErrLeaseClosed)

		next := readerOf(t, m)
		p.Send("data")
		require.Equal(t, "data", readN(t, next, 4))
		requireClosed(t, next)
		requireKept(t, m, 1)
	})
}

func TestDataThatARreadGotWhileItWasInterruptedIsDelivered(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		leave := make(chan struct{})
		c.OnRead(fakenet.Then(func(int, error) { <-leave }))
		r := readerOf(t, m)
		buf := make([]byte, 4)
		read := reading(r, buf)

		synctest.Wait()
		p.Send("data") // taken from the wire, the Read is not yet out
		synctest.Wait()

		closed := later(r.Close)

		synctest.Wait()
		close(leave)
		require.NoError(t, <-closed)

		got := <-read
		next := readerOf(t, m)
		all := string(buf[:got.n])

		if got.n == 0 { // then it must have gone back
			all = readN(t, next, 4)
		}

		require.Equal(t, "data", all)
		requireClosed(t, next)
		requireKept(t, m, 1)
	})
}

func TestNothingNewStartsOnAReaderThatIsClosing(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, _ := l.single()
		leave := make(chan struct{})
		c.OnRead(fakenet.Then(func(_ int, err error) {
			if err != nil {
				<-leave
			}
		}))
		r := readerOf(t, m)
		read := reading(r, make([]byte, 4))

		synctest.Wait()

		closed := later(r.Close)

		synctest.Wait()

		calls := c.Calls()
		stale := staleReaderCalls(r)
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
		close(leave)
		require.NoError(t, <-closed)
		<-read
		requireKept(t, m, 1)
	})
}

// Close closes a connection that does not let go within a while; that must not strike one that did.
func TestInterruptedConnectionIsLeftAloneAfterwards(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()

		p.Allow(0)

		r, w := readerOf(t, m), writerOf(t, m)
		read, write := reading(r, make([]byte, 4)), writing(w, "x")

		synctest.Wait()
		requireClosed(t, r, w)
		<-read
		<-write

		next := readerOf(t, m)
		read = reading(next, make([]byte, 4))

		time.Sleep(time.Hour)
		requirePending(t, read, "the next lease's Read")
		require.Zero(t, c.Closes())
		requireClosed(t, next)
		<-read
		time.Sleep(time.Hour)
		requireKept(t, m, 1)
	})
}

func TestReaderClosedByManyAtOnceClosesOnce(t *testing.T) {
	l := newLedger(t)
	m, _, _ := l.single()

	for i := range 300 {
		r, err := m.Reader(t.Context(), 0)
		require.NoError(t, err)

		var read <-chan outcome
		if i%2 == 0 {
			read = reading(r, make([]byte, 1))
		}

		var (
			wg     sync.WaitGroup
			closed atomic.Int64
		)

		for range 4 {
			wg.Go(func() {
				switch err := r.Close(); {
				case err == nil:
					closed.Add(1)
				case !errors.Is(err, plex.ErrLeaseClosed) || !errors.Is(err, net.ErrClosed):
					t.Errorf("Close: %v", err)
				}
			})
		}

		wg.Wait()
		require.EqualValues(t, 1, closed.Load(), "Closes that returned nil")

		if read != nil {
			require.ErrorIs(t, (<-read).err, plex.ErrLeaseClosed)
		}

		s := m.Stats()
		require.Equal(t, [2]int{1, 0}, [2]int{s.IdleReaders, s.LeasedReaders}, "idle and leased readers")
	}

	requireKept(t, m, 1)
}

func TestMultiplexerCloseEndsABlockedRead(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, _ := l.single()
		r := readerOf(t, m)
		read := reading(r, make([]byte, 4))

		synctest.Wait()
		require.NoError(t, m.Close())
		requireClosedOnce(t, c)

		got := <-read
		require.ErrorIs(t, got.err, plex.ErrClosed)
		require.ErrorIs(t, got.err, net.ErrClosed)

		_, err := r.Read(make([]byte, 4))
		require.ErrorIs(t, err, plex.ErrClosed)
		require.ErrorIs(t, r.Err(), plex.ErrClosed)
		require.NoError(t, r.Close(), "the lease ends")
		require.ErrorIs(t, r.Close(), plex.ErrLeaseClosed)
		require.Zero(t, m.Stats().Lost, "closed by plex is not lost")
	})
}

func TestReaderCloseRacesMultiplexerClose(t *testing.T) {
	l := newLedger(t)

	for range 200 {
		c, p := l.Pair()

		m, err := plex.New(t.Context(), plex.WithConnections(c))
		require.NoError(t, err)

		r := readerOf(t, m)
		w := writerOf(t, m)

		p.Allow(0)

		var wg sync.WaitGroup

		wg.Go(func() { _, err := r.Read(make([]byte, 1)); requireClosedError(t, err) })
		wg.Go(func() { _, err := w.Write([]byte("x")); requireClosedError(t, err) })

		for range rand.IntN(100) {
			runtime.Gosched()
		}

		wg.Go(func() {
			if err := r.Close(); err != nil {
				t.Errorf("Reader.Close: %v", err)
			}
		})
		wg.Go(func() {
			if err := m.Close(); err != nil {
				t.Errorf("Multiplexer.Close: %v", err)
			}
		})
		wg.Go(func() {
			if err := w.Close(); err != nil {
				t.Errorf("Writer.Close: %v", err)
			}
		})
		wg.Wait()

		s := m.Stats()
		require.Zero(t, s.LeasedReaders+s.LeasedWriters+s.IdleReaders+s.IdleWriters+s.Open)
	}
}

// requireClosedError is for goroutines: the error of an operation cut off by one Close or another.
func requireClosedError(t testing.TB, err error) {
	t.Helper()

	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("the interrupted operation's error is %v", err)
	}
}

// ---------------------------------------------------------------------------------------------------------------
// Stale handles

// staleReaderCalls is every call of a Reader that could do something.
func staleReaderCalls(r plex.Reader) map[string]func() error {
	return map[string]func() error{
		"Read":                  func() error { _, err := r.Read(make([]byte, 4)); return err },
		"Read into nothing":     func() error { _, err := r.Read(nil); return err },
		"Recv":                  func() error { _, err := r.Recv(context.Background(), 4); return err },
		"RecvChunks":            func() error { _, err := r.RecvChunks(context.Background(), 4); return err },
		"SetReadDeadline past":  func() error { return r.SetReadDeadline(past) },
		"SetReadDeadline later": func() error { return r.SetReadDeadline(time.Now().Add(time.Hour)) },
		"SetReadDeadline none":  func() error { return r.SetReadDeadline(time.Time{}) },
		"Close":                 r.Close,
		"Kill":                  r.Kill,
	}
}

func TestStaleReaderNeverReachesTheConnection(t *testing.T) {
	// What the next owner is doing meanwhile.
	for _, busy := range []string{"idle", "nothing", "Read", "Recv"} {
		t.Run("next owner: "+busy, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				m, c, p := l.single()
				stale := readerOf(t, m)

				requireClosed(t, stale)

				var (
					owner plex.Reader
					read  <-chan outcome
					in    inflow
				)

				limit := time.Now().Add(time.Minute)

				if busy != "idle" {
					owner = readerOf(t, m)
					require.NoError(t, owner.SetReadDeadline(limit))
				}

				switch busy {
				case "Read":
					read = reading(owner, make([]byte, 4))
				case "Recv":
					in = receiving(t, t.Context(), owner, perByte, 1)
				}

				synctest.Wait()

				calls, stats := c.Calls(), m.Stats()

				for name, call := range staleReaderCalls(stale) {
					require.ErrorIs(t, call(), plex.ErrLeaseClosed, name)
					require.ErrorIs(t, call(), net.ErrClosed, name)
				}

				require.NoError(t, stale.Err())
				require.Equal(t, c.LocalAddr(), stale.LocalAddr())
				require.Equal(t, c.RemoteAddr(), stale.RemoteAddr())
				synctest.Wait()
				require.Equal(t, calls, c.Calls(), "calls that reached the connection")
				require.Equal(t, stats, m.Stats())

				if busy == "idle" {
					return
				}

				left, _ := c.DeadlinesLeft()
				require.True(t, limit.Equal(left), "the owner's deadline is %v, not %v", left, limit)
				p.Send("data")

				switch busy {
				case "Read":
					require.Equal(t, outcome{4, nil}, <-read)
				case "Recv":
					require.Equal(t, "data", in.take(4))
				default:
					require.Equal(t, "data", readN(t, owner, 4))
				}

				requireClosed(t, owner)
				requireKept(t, m, 1)
			})
		})
	}
}

func TestZeroReaderIsAClosedLease(t *testing.T) {
	var r plex.Reader

	for name, call := range staleReaderCalls(r) {
		require.ErrorIs(t, call(), plex.ErrLeaseClosed, name)
	}

	require.Nil(t, r.LocalAddr())
	require.Nil(t, r.RemoteAddr())
}

// A SetReadDeadline that was let in before Close may reach the connection late: Close has to see to it.
func TestReaderDeadlineCallCaughtByCloseDoesNotOutliveTheLease(t *testing.T) {
	l := newLedger(t)
	c, p := l.Pair()
	g := fakenet.NewGate()
	c.Hooks.SetReadDeadline = g.PassDeadline

	m := l.mux(plex.WithConnections(c))
	r := readerOf(t, m)

	g.Arm()

	set := later(func() error { return r.SetReadDeadline(past) })

	<-g.Entered

	closed := later(r.Close)
	// Were Close not to wait for the call inside, it would be done well before this.
	within(20*time.Millisecond, func() bool { return len(closed) > 0 })
	close(g.Leave)
	require.NoError(t, <-closed)
	<-set

	next := readerOf(t, m)
	p.Send("data")
	require.Equal(t, "data", readN(t, next, 4))
	requireClosed(t, next)
	requireKept(t, m, 1)
}

func TestDeadlinesRacingReaderCloseNeverPoisonTheNextLease(t *testing.T) {
	const rounds = 3000

	l := newLedger(t)
	m, c, p := l.single()

	for i := range rounds {
		r, err := m.Reader(t.Context(), 0)
		require.NoError(t, err)

		var (
			wg   sync.WaitGroup
			read <-chan outcome
		)

		if i%3 == 0 {
			read = reading(r, make([]byte, 1))
		}

		for k := range 2 {
			wg.Go(func() {
				for range rand.IntN(3) {
					_ = r.SetReadDeadline([]time.Time{past, time.Now().Add(time.Microsecond)}[k])
				}
			})
		}

		if i%2 == 0 {
			_ = r.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(3)) * time.Microsecond))
		}

		require.NoError(t, r.Close())

		next := readerOf(t, m)
		left, _ := c.DeadlinesLeft()
		require.Zero(t, left, "round %d", i)
		p.Send("x")
		require.Equal(t, "x", readN(t, next, 1), "round %d", i)
		wg.Wait() // the stale calls have all been made by now
		p.Send("y")
		require.Equal(t, "y", readN(t, next, 1), "round %d", i)
		requireClosed(t, next)

		if read != nil {
			require.Zero(t, (<-read).n)
		}
	}

	requireKept(t, m, 1)
}

// Close interrupts by a deadline in the past; a consumer that sets another at that moment must not undo it.
func TestReaderCloseIsNotUndoneByADeadlineOfItsOwnLease(t *testing.T) {
	l := newLedger(t)
	m, _, _ := l.single()

	for i := range 1000 {
		r, err := m.Reader(t.Context(), 0)
		require.NoError(t, err)

		read := reading(r, make([]byte, 1))

		var wg sync.WaitGroup

		for range 2 {
			wg.Go(func() {
				for range 20 {
					_ = r.SetReadDeadline(time.Time{})
					_ = r.SetReadDeadline(time.Now().Add(time.Hour))
				}
			})
		}

		finish(t, fmt.Sprintf("Close in round %d", i), func() { _ = r.Close() })
		require.ErrorIs(t, (<-read).err, plex.ErrLeaseClosed)
		wg.Wait()
	}

	requireKept(t, m, 1)
}

// ---------------------------------------------------------------------------------------------------------------
// Deadlines

func TestReadDeadlineEndsWithTheLease(t *testing.T) {
	for name, deadline := range map[string]time.Time{"past": past, "future": time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				m, c, p := l.single()
				r := readerOf(t, m)

				require.NoError(t, r.SetReadDeadline(deadline))
				left, _ := c.DeadlinesLeft()
				require.True(t, deadline.Equal(left))
				requireClosed(t, r)

				left, _ = c.DeadlinesLeft()
				require.Zero(t, left)

				next := readerOf(t, m)

				time.Sleep(2 * time.Hour)
				p.Send("x")
				require.Equal(t, "x", readN(t, next, 1))
				requireClosed(t, next)
				requireKept(t, m, 1)
			})
		})
	}
}

func TestDeadlinesWorkAfterALeaseThatWasInterrupted(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()

		p.Allow(0)

		r, w := readerOf(t, m), writerOf(t, m)
		read, write := reading(r, make([]byte, 1)), writing(w, "x")

		synctest.Wait()
		requireClosed(t, r, w)
		<-read
		<-write

		r, w = readerOf(t, m), writerOf(t, m)
		began := time.Now()

		require.NoError(t, r.SetReadDeadline(began.Add(time.Second)))
		require.NoError(t, w.SetWriteDeadline(began.Add(2*time.Second)))

		_, err := r.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))

		_, err = w.Write([]byte("x"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 2*time.Second, time.Since(began))
		requireClosed(t, r, w)
		requireKept(t, m, 1)
	})
}

func TestReadDeadlineIsNoFaultOfTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		r := readerOf(t, m)
		began := time.Now()

		require.NoError(t, r.SetReadDeadline(began.Add(time.Second)))

		_, err := r.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))

		var timeout net.Error

		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		require.NoError(t, r.Err())

		_, err = r.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "a deadline stays, as on any net.Conn")

		require.NoError(t, r.SetReadDeadline(time.Time{}))
		p.Send("ab")
		require.Equal(t, "a", readN(t, r, 1))

		read := reading(r, make([]byte, 4)) // takes the b
		require.Equal(t, outcome{1, nil}, <-read)

		read = reading(r, make([]byte, 4))

		synctest.Wait()
		require.NoError(t, r.SetReadDeadline(past), "it interrupts a Read that is under way")
		require.ErrorIs(t, (<-read).err, os.ErrDeadlineExceeded)
		requireClosed(t, r)
		requireKept(t, m, 1)
		requireReaderIdle(t, m)
	})
}

// An expired deadline that nobody set is how, for example, a dead TLS connection speaks.
func TestReadDeadlineThatNobodySetIsAFault(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, _ := l.single()
		r := readerOf(t, m)

		require.NoError(t, r.SetReadDeadline(time.Now().Add(time.Hour)), "another lease's")
		requireClosed(t, r)

		r = readerOf(t, m)

		require.NoError(t, c.SetReadDeadline(past)) // behind plex's back

		_, err := r.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		requireClosed(t, r)
		requireLost(t, m, 1)
		requireClosedOnce(t, c)
	})
}

// A kernel's timeout says Timeout, but is no deadline.
func TestKernelTimeoutIsAFaultThoughItSaysTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		r := readerOf(t, m)

		require.NoError(t, r.SetReadDeadline(time.Now().Add(time.Hour)))
		p.Reset(syscall.ETIMEDOUT, false)

		_, err := r.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		synctest.Wait()
		requireClosedOnce(t, c)
		requireClosed(t, r)
		requireLost(t, m, 1)
	})
}

func TestConnectionThatCannotBeInterruptedIsClosedToInterruptARead(t *testing.T) {
	for name, mode := range map[string]fakenet.Deadlines{"refuses deadlines": fakenet.DeadlinesRefused, "ignores deadlines": fakenet.DeadlinesIgnored} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				m, c, _ := l.single()

				c.TreatDeadlines(mode)

				r, w := readerOf(t, m), writerOf(t, m)
				read := reading(r, make([]byte, 4))

				synctest.Wait()

				began := time.Now()
				require.NoError(t, r.Close())
				require.ErrorIs(t, (<-read).err, plex.ErrLeaseClosed)
				require.LessOrEqual(t, time.Since(began), time.Second)
				requireClosedOnce(t, c)
				requireLost(t, m, 1)

				_, err := w.Write([]byte("x"))
				require.Error(t, err)
				require.True(t, isClosed(w.Done()))
				requireClosed(t, w)
				requireNoReader(t, m)
				requireNoWriter(t, m)
			})
		})
	}
}

func TestConnectionWithoutDeadlinesIsKeptWhenNothingHasToBeInterrupted(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()

		c.TreatDeadlines(fakenet.DeadlinesRefused)

		for range 3 {
			r := readerOf(t, m)

			require.ErrorIs(t, r.SetReadDeadline(time.Now().Add(time.Second)), os.ErrNoDeadline, "the connection's own answer")
			p.Send("x")
			require.Equal(t, "x", readN(t, r, 1))
			requireClosed(t, r)
			requireKept(t, m, 1)
		}
	})
}

func TestErrOfAClosedLeaseIsNotThatOfTheNext(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)

		requireClosed(t, r, w)

		next := readerOf(t, m)
		p.Reset(syscall.ECONNRESET, false)

		_, err := next.Read(make([]byte, 4))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.ErrorIs(t, next.Err(), syscall.ECONNRESET)
		require.NoError(t, r.Err())
		require.NoError(t, w.Err())
		requireClosed(t, next)
		requireLost(t, m, 1)
	})
}

func TestEOFOfALeaseThatWasClosedMeanwhileIsNotDeliveredTwice(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		r := readerOf(t, m)
		read := reading(r, make([]byte, 4))

		synctest.Wait()
		p.Send("x")
		require.Equal(t, outcome{1, nil}, <-read)
		requireClosed(t, r)
		p.CloseWrite()

		next := readerOf(t, m)
		_, err := next.Read(make([]byte, 4))
		require.Equal(t, io.EOF, err)
		requireClosed(t, next)
		synctest.Wait()
		requireClosedOnce(t, c)
		requireLost(t, m, 1)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Several goroutines on one lease

func TestReadsOnOneLeaseTakeTurns(t *testing.T) {
	const total = 4000

	l := newLedger(t)
	m, c, p := l.single()
	r := readerOf(t, m)

	var (
		wg   sync.WaitGroup
		got  atomic.Int64
		seen [256]atomic.Int64
	)

	for range 8 {
		wg.Go(func() {
			buf := make([]byte, 7)

			for {
				n, err := r.Read(buf)
				for _, b := range buf[:n] {
					seen[b].Add(1)
				}

				if got.Add(int64(n)); err != nil {
					if !errors.Is(err, plex.ErrLeaseClosed) {
						t.Errorf("Read: %v", err)
					}

					return
				}
			}
		})
	}

	for i := range total {
		p.Send(string([]byte{byte(i)}))
	}

	eventually(t, func() bool { return got.Load() == total }, "all bytes read")
	finish(t, "Close with several Reads waiting for their turn", func() { requireClosed(t, r) })
	wg.Wait()
	require.Equal(t, 1, c.Calls().PeakReads, "Reads at once")

	for b := range seen {
		want := total / 256
		if b < total%256 {
			want++
		}

		require.EqualValues(t, want, seen[b].Load(), "byte %d", b)
	}

	requireReaderIdle(t, m)
	requireKept(t, m, 1)
}

// The halves are strangers to each other: what one waits for never holds the other up.
func TestHalvesOfOneConnectionDoNotWaitForEachOther(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)

		read := reading(r, make([]byte, 4))

		synctest.Wait()

		_, err := w.Write([]byte("abc"))
		require.NoError(t, err)
		require.NoError(t, w.SetWriteDeadline(time.Now().Add(time.Second)))
		requireClosed(t, w)
		requireWriterIdle(t, m)
		requirePending(t, read, "the Read")
		p.Send("data")
		require.Equal(t, outcome{4, nil}, <-read)

		p.Allow(0)

		w = writerOf(t, m)
		write := writing(w, "def")

		synctest.Wait()
		requireClosed(t, r)
		requireReaderIdle(t, m)
		requirePending(t, write, "the Write")
		p.Allow(-1)
		require.Equal(t, outcome{3, nil}, <-write)
		requireClosed(t, w)
		requireKept(t, m, 1)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Datagrams

func TestReadOfADatagramIsOneDatagramAndAnEmptyOneIsNoEnd(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := l.Datagrams()
		m := l.mux(plex.WithConnections(c))
		r := readerOf(t, m)

		c.Deliver("first", "", "third one")

		buf := make([]byte, 5)
		for _, want := range []string{"first", "", "third"} {
			n, err := r.Read(buf)
			require.NoError(t, err)
			require.Equal(t, want, string(buf[:n]))
		}

		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestRefusedDatagramIsPassing(t *testing.T) {
	for _, passing := range []error{syscall.ECONNREFUSED, syscall.EMSGSIZE} {
		t.Run(passing.Error(), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c := l.Datagrams()
				m := l.mux(plex.WithConnections(c))
				r := readerOf(t, m)

				c.FailRead(passing)

				_, err := r.Read(make([]byte, 4))
				require.ErrorIs(t, err, passing)
				require.NoError(t, r.Err())
				c.Deliver("back")
				require.Equal(t, "back", readN(t, r, 4))
				requireClosed(t, r)
				requireKept(t, m, 1)
			})
		})
	}
}
