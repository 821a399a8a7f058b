package plex_test

// The healer: what is lost is replaced, once, at the right address and the right time, whatever the user's connector
// does; and a dead service is probed and not stormed.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// ---------------------------------------------------------------------------------------------------------------
// Every loss

func TestEveryKindOfLossLeadsToOneReplacementAndToldTheLostAddress(t *testing.T) {
	refusedBy := func(t *testing.T, r plex.Reader, w plex.Writer, cause error) {
		t.Helper()

		for range 2 {
			_, err := r.Read(make([]byte, 1))
			require.ErrorIs(t, err, cause)
			_, err = w.Write([]byte("x"))
			require.ErrorIs(t, err, cause)
		}

		require.ErrorIs(t, r.Err(), cause)
		require.ErrorIs(t, w.Err(), cause)
	}

	for _, loss := range []struct {
		name string
		lose func(t *testing.T, r plex.Reader, w plex.Writer, p *fakenet.Peer)
	}{
		{"a read error", func(t *testing.T, r plex.Reader, w plex.Writer, p *fakenet.Peer) {
			p.Reset(syscall.ECONNRESET, false)

			_, err := r.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			refusedBy(t, r, w, syscall.ECONNRESET)
		}},
		{"a write error", func(t *testing.T, r plex.Reader, w plex.Writer, p *fakenet.Peer) {
			p.Reset(syscall.ECONNRESET, false)

			_, err := w.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			refusedBy(t, r, w, syscall.ECONNRESET)
		}},
		{"the kernel's timeout", func(t *testing.T, r plex.Reader, w plex.Writer, p *fakenet.Peer) {
			p.Reset(syscall.ETIMEDOUT, false)

			_, err := r.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ETIMEDOUT)
			refusedBy(t, r, w, syscall.ETIMEDOUT)
		}},
		{"an error of a stream", func(t *testing.T, r plex.Reader, w plex.Writer, p *fakenet.Peer) {
			chunks, err := r.RecvChunks(t.Context(), 0)
			require.NoError(t, err)
			p.Reset(syscall.ECONNRESET, false)

			_, open := <-chunks
			require.False(t, open)
			refusedBy(t, r, w, syscall.ECONNRESET)
		}},
		{"Kill of the reader", func(t *testing.T, r plex.Reader, w plex.Writer, _ *fakenet.Peer) {
			require.NoError(t, r.Kill())

			_, err := w.Write([]byte("x"))
			require.ErrorIs(t, err, plex.ErrKilled)
		}},
		{"Kill of the writer", func(t *testing.T, r plex.Reader, w plex.Writer, _ *fakenet.Peer) {
			require.NoError(t, w.Kill())

			_, err := r.Read(make([]byte, 1))
			require.ErrorIs(t, err, plex.ErrKilled)
		}},
		{"Kill of both at once", func(t *testing.T, r plex.Reader, w plex.Writer, _ *fakenet.Peer) {
			other := later(r.Kill)
			require.NoError(t, w.Kill())
			require.NoError(t, <-other)
		}},
		{"a partial write", func(t *testing.T, r plex.Reader, w plex.Writer, p *fakenet.Peer) {
			p.Allow(3)
			require.NoError(t, w.SetWriteDeadline(time.Now().Add(time.Second)))

			n, err := w.Write([]byte("abcdef"))
			require.Error(t, err)
			require.Equal(t, 3, n)
			require.NoError(t, w.Close())

			_, err = r.Read(make([]byte, 1))
			require.ErrorIs(t, err, plex.ErrPartialWrite)
		}},
		{"the peer's close", func(t *testing.T, r plex.Reader, w plex.Writer, p *fakenet.Peer) {
			p.Send("rest")
			p.CloseWrite()
			require.Equal(t, "rest", readN(t, r, 4))
			requireClosed(t, w)

			_, err := r.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
		}},
	} {
		t.Run(loss.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c := newConnector(l)
				conns, peers := l.Pairs(3)
				m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))
				first, r, w := readerOf(t, m), readerOf(t, m), writerOf(t, m)
				requireClosed(t, w)

				w = writerOf(t, m)
				require.Equal(t, conns[1].RemoteAddr(), r.RemoteAddr(), "not the one whose address Addr tells")
				require.Equal(t, conns[1].RemoteAddr(), w.RemoteAddr())

				loss.lose(t, r, w, peers[1])

				call := c.unanswered(1)[0]
				require.Equal(t, conns[1].RemoteAddr(), call.Handle.RemoteAddr(), "the lost connection's address")
				require.True(t, isClosed(peers[1].ConnClosed()), "its transport is closed")

				s := m.Stats()
				require.Equal(t, []int{2, 1}, []int{s.Open, s.Connecting})
				require.Equal(t, []uint64{1, 0}, []uint64{s.Lost, s.Healed})

				_, _ = r.Close(), w.Close()

				fresh, peer := l.Pair()
				call.Succeed(fresh)

				s = settled(m)
				require.Equal(t, []int{3, 0, 2, 3}, []int{s.Open, s.Connecting, s.IdleReaders, s.IdleWriters})
				require.Equal(t, []uint64{1, 1, 1, 0}, []uint64{s.Lost, s.Healed, s.Connected, s.ScaledUp})

				requireClosed(t, readerOf(t, m), writerOf(t, m), writerOf(t, m))

				r, w = readerOf(t, m), writerOf(t, m)
				require.Equal(t, fresh.RemoteAddr(), r.RemoteAddr())
				require.Equal(t, fresh.RemoteAddr(), w.RemoteAddr())
				requireWorks(t, r, w, peer)
				requireClosed(t, r, w, first)

				time.Sleep(time.Hour)
				require.Equal(t, 1, c.Total(), "exactly one")
			})
		})
	}
}

func TestAPeersCloseIsHealedWhenTheLiveWriteLeaseHasEnded(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conn, peer := l.Pair()
		m := l.mux(plex.WithConnections(conn), plex.WithConnector(c.connect))
		r, w := readerOf(t, m), writerOf(t, m)

		peer.CloseWrite()

		_, err := r.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		requireClosed(t, r)
		require.EqualValues(t, 1, m.Stats().Lost)

		time.Sleep(time.Minute)
		require.Zero(t, c.Total(), "its place is taken as long as the writer has it")

		_, err = w.Write([]byte("last words"))
		require.NoError(t, err)
		requireClosed(t, w)
		require.Equal(t, "last words", peer.ReadAll())

		fresh, _ := l.Pair()
		c.unanswered(1)[0].Succeed(fresh)
		require.EqualValues(t, 1, settled(m).Healed)
	})
}

func TestALossIsCountedAndHealedOnceThoughBothHalvesComeToTheirEnd(t *testing.T) {
	for name, then := range map[string]func(w plex.Writer) error{
		"Kill":    plex.Writer.Kill,
		"a reset": func(w plex.Writer) error { _, _ = w.Write([]byte("x")); _, _ = w.Write([]byte("x")); return w.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				s := newService(l)
				conn, peer := l.Pair()
				m := l.mux(plex.WithConnections(conn), plex.WithConnector(s.connect))
				r, w := readerOf(t, m), writerOf(t, m)

				_ = peer.Close()

				_, err := r.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)
				requireClosed(t, r)
				require.NoError(t, then(w))

				st := settled(m)
				require.Equal(t, []uint64{1, 1}, []uint64{st.Lost, st.Healed})
				require.Equal(t, []int{1, 1}, []int{st.Open, s.Total()})
			})
		})
	}
}

func TestEachOfManyLossesIsReplacedOnceAtItsOwnAddress(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const n = 40

		c := newConnector(l)
		conns, _ := l.Pairs(n)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

		killAll(t, m, n)

		told := map[string]int{}

		for range n {
			call := c.next()
			told[call.Handle.RemoteAddr().String()]++
			fresh, _ := l.Pair()
			call.Succeed(fresh)
		}

		for _, conn := range conns {
			require.Equal(t, 1, told[conn.RemoteAddr().String()], conn.RemoteAddr())
		}

		time.Sleep(time.Hour)

		s := m.Stats()
		require.Equal(t, []int{n, 0}, []int{s.Open, s.Connecting})
		require.Equal(t, []uint64{n, n, n}, []uint64{s.Lost, s.Healed, s.Connected})
		require.Equal(t, n, c.Total())
	})
}

func TestAConnectionThatPlexConnectedIsHealedAsOneThatWasGiven(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m := s.pool(3)
		require.Equal(t, 3, s.Total())

		r := readerOf(t, m)
		s.Auto = nil // the calls are the test's to answer from now on

		require.NoError(t, r.Kill())

		call := s.unanswered(1)[0]
		require.Equal(t, r.RemoteAddr(), call.Handle.RemoteAddr())

		fresh, _ := l.Pair()
		call.Succeed(fresh)
		require.EqualValues(t, 1, settled(m).Healed)
	})
}

func TestAHealedConnectionServesThoseWhoWait(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

		killAll(t, m, 2)

		began := time.Now()
		first, second := wantReader(t.Context(), m, 0), wantReader(t.Context(), m, 0)
		writer := wantWriter(t.Context(), m, 0)
		calls := c.unanswered(2)
		a, peer := l.Pair()
		b, _ := l.Pair()

		time.Sleep(300 * time.Millisecond)
		calls[1].Succeed(a)

		r, w := got(t, first), got(t, writer)
		require.Equal(t, 300*time.Millisecond, r.at.Sub(began))
		require.Equal(t, a.RemoteAddr(), r.lease().RemoteAddr())
		requireWorks(t, r.r, w.w, peer)
		requirePending(t, second, "the second wait")

		time.Sleep(300 * time.Millisecond)
		calls[0].Succeed(b)

		r2 := got(t, second)
		require.Equal(t, b.RemoteAddr(), r2.lease().RemoteAddr())
		requireClosed(t, r.lease(), w.lease(), r2.lease())
	})
}

func TestWithoutAConnectorWhatIsLostIsDroppedAndTheLastLossIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conns, _ := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...), plex.WithIdleTimeout(time.Hour))

		killAll(t, m, 1)
		requireReaderIdle(t, m)

		last := readerOf(t, m)
		waiting := wantReader(t.Context(), m, 0)
		require.NoError(t, last.Kill())

		a := <-waiting
		require.ErrorIs(t, a.err, plex.ErrNoConnections)

		_, err := m.Writer(t.Context(), 0)
		require.ErrorIs(t, err, plex.ErrNoConnections)

		s := m.Stats()
		require.Equal(t, []uint64{2, 0, 0}, []uint64{s.Lost, s.Healed, s.ConnectFailed})
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Every way in which a connect can end

func TestAConnectThatEndsBadlyFreesItsSlotAndIsRepeated(t *testing.T) {
	boom := errors.New("boom")

	for _, bad := range []struct {
		name string
		want string // in LastConnectError
		is   error
		do   func(l *ledger, k *fakenet.Dial, pooled net.Conn) error
	}{
		{"an error", "boom", boom, func(*ledger, *fakenet.Dial, net.Conn) error { return boom }},
		{"a panic", "panicked: boom", nil, func(*ledger, *fakenet.Dial, net.Conn) error { panic("boom") }},
		{"a panic with an error", "panicked: boom", boom, func(*ledger, *fakenet.Dial, net.Conn) error { panic(boom) }},
		{"the end of its goroutine", "Goexit", nil, func(*ledger, *fakenet.Dial, net.Conn) error {
			runtime.Goexit()

			return nil
		}},
		{"nil without a transport", "without calling Attach", plex.ErrNotAttached, func(*ledger, *fakenet.Dial, net.Conn) error {
			return nil
		}},
		{"attaching nil", "nil connection", plex.ErrNilConnection, func(_ *ledger, k *fakenet.Dial, _ net.Conn) error {
			_ = plex.Attach(k.Handle, nil)

			return nil
		}},
		{"attaching a typed nil", "nil connection", plex.ErrNilConnection, func(_ *ledger, k *fakenet.Dial, _ net.Conn) error {
			return plex.Attach(k.Handle, (*fakenet.Conn)(nil))
		}},
		{"attaching twice", "twice", plex.ErrAttached, func(l *ledger, k *fakenet.Dial, _ net.Conn) error {
			for range 2 {
				conn, _ := l.Pair()
				_ = plex.Attach(k.Handle, conn)
			}

			return nil
		}},
		{"an error after attaching", "boom", boom, func(l *ledger, k *fakenet.Dial, _ net.Conn) error {
			conn, _ := l.Pair()
			_ = plex.Attach(k.Handle, conn)

			return boom
		}},
		{"a panic after attaching", "panicked: boom", nil, func(l *ledger, k *fakenet.Dial, _ net.Conn) error {
			conn, _ := l.Pair()
			_ = plex.Attach(k.Handle, conn)

			panic("boom")
		}},
		{"closing the handle after attaching", "closed the connection", nil, func(l *ledger, k *fakenet.Dial, _ net.Conn) error {
			conn, _ := l.Pair()
			_ = plex.Attach(k.Handle, conn)

			return k.Handle.Close()
		}},
		{"attaching what is in the pool", "in the pool already", plex.ErrKnownConnection, func(_ *ledger, k *fakenet.Dial, pooled net.Conn) error {
			return plex.Attach(k.Handle, pooled)
		}},
		{"attaching what is closed", "closed already", net.ErrClosed, func(l *ledger, k *fakenet.Dial, _ net.Conn) error {
			conn, _ := fakenet.Pair() // not in the books, since it is closed twice
			_ = conn.Close()

			return plex.Attach(k.Handle, conn)
		}},
		{"a transport that ends in the handshake", "", io.EOF, func(l *ledger, k *fakenet.Dial, _ net.Conn) error {
			conn, peer := l.Pair()
			_ = plex.Attach(k.Handle, conn)
			_ = peer.Close()
			_, err := k.Handle.Read(make([]byte, 1))

			return err
		}},
	} {
		t.Run(bad.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c := newConnector(l)
				conns, peers := l.Pairs(2)
				m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect),
					plex.WithBackoff(func(int) time.Duration { return 3 * time.Second }))

				r, w := readerOf(t, m), writerOf(t, m)
				killAll(t, m, 1)

				call := c.unanswered(1)[0]
				call.Do(func() (*fakenet.Conn, error) { return nil, bad.do(l, call, conns[0]) })

				s := settled(m)
				require.Equal(t, []int{1, 0}, []int{s.Open, s.Connecting})
				require.Equal(t, []uint64{1, 1, 0, 0}, []uint64{s.Lost, s.ConnectFailed, s.Connected, s.Healed})
				require.ErrorContains(t, s.LastConnectError, bad.want)

				if bad.is != nil {
					require.ErrorIs(t, s.LastConnectError, bad.is)
				}

				requireWorks(t, r, w, peers[0])

				failed := time.Now()
				again := c.next()
				require.Equal(t, 3*time.Second, time.Since(failed))
				require.Equal(t, conns[1].RemoteAddr(), again.Handle.RemoteAddr())

				fresh, peer := l.Pair()
				again.Succeed(fresh)

				s = settled(m)
				require.Equal(t, []int{2, 0}, []int{s.Open, s.Connecting})
				require.EqualValues(t, 1, s.Healed)
				require.NoError(t, s.LastConnectError, "the latest went well")

				r2, w2 := readerOf(t, m), writerOf(t, m)
				requireWorks(t, r2, w2, peer)
				requireClosed(t, r, w, r2, w2)
			})
		})
	}
}

func TestAConnectEndsWithItsTimeoutAndIsRepeated(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect),
			plex.WithConnectTimeout(700*time.Millisecond), plex.WithBackoff(func(int) time.Duration { return time.Second }))

		killAll(t, m, 1)

		for n := range uint64(3) {
			began := time.Now()
			call := c.unanswered(1)[0]
			deadline, ok := call.Ctx.Deadline()
			require.True(t, ok)
			require.Equal(t, began.Add(700*time.Millisecond), deadline)

			<-call.Ctx.Done()
			require.Equal(t, 700*time.Millisecond, time.Since(began))
			require.ErrorIs(t, call.Ctx.Err(), context.DeadlineExceeded)

			s := settled(m)
			require.Equal(t, n+1, s.ConnectFailed)
			require.Zero(t, s.Connecting)
			require.ErrorIs(t, s.LastConnectError, context.DeadlineExceeded)

			time.Sleep(time.Second)
		}
	})
}

func TestTheConnectTimeoutIsTenSecondsUnlessSaidOtherwise(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

		killAll(t, m, 1)

		deadline, ok := c.unanswered(1)[0].Ctx.Deadline()
		require.True(t, ok)
		require.Equal(t, 10*time.Second, time.Until(deadline))
	})
}

func TestAConnectThatHangsForEverHoldsOnlyItsOwnSlot(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		c.IgnoreCtx = true
		conns, _ := l.Pairs(8)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect), plex.WithMaxCapacity(8))

		killAll(t, m, 8)

		hung := c.next()
		served := later(func() (n int) { // all others are answered as they come
			for call := c.NextWithin(5 * time.Second); call != nil; call = c.NextWithin(5 * time.Second) {
				fresh, _ := l.Pair()
				call.Succeed(fresh)
				n++
			}

			return n
		})

		time.Sleep(2 * time.Second)
		require.Equal(t, 7, m.Stats().Open, "all others are healed meanwhile")
		require.Equal(t, 7, <-served)

		for range 20 { // and go on being healed
			time.Sleep(10 * time.Second)
			killAll(t, m, 1)
			fresh, _ := l.Pair()
			c.unanswered(1)[0].Succeed(fresh)

			s := settled(m)
			require.Equal(t, []int{7, 1}, []int{s.Open, s.Connecting}, "the slot stays counted")
		}

		killAll(t, m, 1)

		for range 3 {
			c.next().Fail(errRefused)
		}

		call := c.next()
		time.Sleep(time.Minute)
		require.ErrorContains(t, m.Stats().LastConnectError, "Connect has not returned", "the other one hangs, too")

		fresh, _ := l.Pair()
		call.Succeed(fresh)
		require.Equal(t, 7, settled(m).Open)

		late, _ := l.Pair()
		hung.Succeed(late)

		s := settled(m)
		require.Equal(t, []int{8, 0}, []int{s.Open, s.Connecting}, "what comes late is used")
		require.Equal(t, s.Lost, s.Healed)

		peak := c.Counts().PeakInUse
		require.LessOrEqual(t, peak, 8)
	})
}

func TestAProbeThatHangsDoesNotStopTheHealingOfTheOthers(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		c.IgnoreCtx = true
		conns, _ := l.Pairs(3)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

		killAll(t, m, 3)

		for _, call := range c.unanswered(3) {
			call.Fail(errRefused)
		}

		hung := c.next()
		began := time.Now()
		second := c.next()
		require.LessOrEqual(t, time.Since(began), 2*time.Second, "nobody waits for the probe any longer")

		fresh, _ := l.Pair()
		second.Succeed(fresh)
		synctest.Wait()

		fresh, _ = l.Pair()
		c.unanswered(1)[0].Succeed(fresh)

		s := settled(m)
		require.Equal(t, []int{2, 1}, []int{s.Open, s.Connecting})

		time.Sleep(time.Minute)

		fresh, _ = l.Pair()
		hung.Succeed(fresh)
		require.Equal(t, 3, settled(m).Open)
	})
}

func TestWaitersReturnOnTimeThoughEveryConnectHangsAndSaySo(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		c.IgnoreCtx = true
		conns, _ := l.Pairs(3)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect), plex.WithConnectTimeout(2*time.Second))

		killAll(t, m, 3)

		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()

		byTimeout, byCtx := wantReader(t.Context(), m, 4*time.Second), wantWriter(ctx, m, time.Minute)

		a := <-byTimeout
		require.Equal(t, 4*time.Second, a.at.Sub(began))
		require.ErrorIs(t, a.err, plex.ErrTimeout)

		var diagnosis *plex.AcquireError
		require.ErrorAs(t, a.err, &diagnosis)
		require.Equal(t, 3, diagnosis.Connecting)
		require.ErrorContains(t, diagnosis.Connect, "Connect has not returned")
		require.ErrorContains(t, a.err, "Connect has not returned")

		a = <-byCtx
		require.Equal(t, 5*time.Second, a.at.Sub(began))
		require.ErrorIs(t, a.err, context.DeadlineExceeded)
		require.ErrorContains(t, m.Stats().LastConnectError, "Connect has not returned")
		require.Equal(t, 3, c.Total(), "there is no slot for another")

		for _, call := range c.unanswered(3) {
			fresh, _ := l.Pair()
			call.Succeed(fresh)
		}

		s := settled(m)
		require.Equal(t, []int{3, 0}, []int{s.Open, s.Connecting})
		require.NoError(t, s.LastConnectError)
	})
}

// A connect that hangs holds its own slot. It must not hold up a caller for whom there is another slot.
func TestAConnectThatHangsDoesNotKeepAnEmptyPoolFromConnecting(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		c.IgnoreCtx = true
		m := l.mux(plex.WithConnector(c.connect), plex.WithMaxCapacity(2))

		first := wantReader(t.Context(), m, time.Minute)
		_ = c.unanswered(1) // hangs for ever
		second := wantReader(t.Context(), m, time.Minute)

		time.Sleep(30 * time.Second)

		if c.Pending() > 0 {
			fresh, _ := l.Pair()
			c.Next().Succeed(fresh)
			closeAll(t, first)
			closeAll(t, second)
		} else {
			t.Error("30 s after a Connect was called that hangs, nothing is open, two callers wait, a slot is free, and nobody has used it")
			require.Error(t, (<-first).err)
			require.Error(t, (<-second).err)
		}
	})
}

func TestAConnectThatComesAfterCloseIsClosedAndNotWaitedFor(t *testing.T) {
	for name, end := range map[string]func(*plex.Multiplexer) error{
		"Close":    (*plex.Multiplexer).Close,
		"Shutdown": func(m *plex.Multiplexer) error { return m.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c := newConnector(l)
				c.IgnoreCtx = true
				conns, _ := l.Pairs(2)
				m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

				killAll(t, m, 2)

				calls := c.unanswered(2)
				waiting := wantReader(t.Context(), m, 0)
				began := time.Now()
				require.NoError(t, end(m))
				require.LessOrEqual(t, time.Since(began), time.Second)
				require.ErrorIs(t, (<-waiting).err, plex.ErrClosed)
				require.ErrorIs(t, calls[0].Ctx.Err(), context.Canceled)

				time.Sleep(time.Minute)

				late, peer := l.Pair()
				calls[0].Succeed(late) // the books demand that it is closed

				calls[1].Fail(errRefused)
				synctest.Wait()
				require.True(t, isClosed(peer.ConnClosed()))

				s := m.Stats()
				require.Equal(t, []int{0, 0}, []int{s.Open, s.Connecting})

				time.Sleep(time.Hour)
				require.Equal(t, 2, c.Total())
			})
		})
	}
}

func TestAConnectionThatIsReadyAfterShutdownHasBegunIsClosedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))
		r := readerOf(t, m)

		killAll(t, m, 1)

		call := c.unanswered(1)[0]
		fresh, peer := l.Pair()
		attached, answer := make(chan struct{}), make(chan struct{})

		call.Do(func() (*fakenet.Conn, error) {
			err := plex.Attach(call.Handle, fresh)
			close(attached)
			<-answer // the handshake takes long, and heeds no ctx

			return nil, err
		})
		<-attached

		ended := later(func() error { return m.Shutdown(context.Background()) })
		synctest.Wait()
		close(answer)
		synctest.Wait()
		require.True(t, isClosed(peer.ConnClosed()))
		require.Equal(t, []uint64{0, 0}, []uint64{m.Stats().Connected, m.Stats().Healed})
		requirePending(t, ended, "Shutdown, which waits for the reader,")
		requireClosed(t, r)
		require.NoError(t, <-ended)
	})
}

func TestAConnectMayCallTheMultiplexer(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

		killAll(t, m, 1)

		call := c.unanswered(1)[0]
		fresh, _ := l.Pair()
		extra, _ := l.Pair()
		l.HandedBack(extra)

		call.Do(func() (*fakenet.Conn, error) {
			s := m.Stats()
			r, err := m.Reader(call.Ctx, -1)
			_, none := m.Reader(call.Ctx, time.Nanosecond)
			rest, full := m.Add(call.Ctx, extra)

			if s.Connecting != 1 || s.Open != 1 || err != nil || r.Close() != nil ||
				!errors.Is(none, plex.ErrTimeout) || len(rest) != 1 || !errors.Is(full, plex.ErrTooManyConnections) {
				return nil, fmt.Errorf("%+v, %v, %v, %v, %v", s, err, none, rest, full)
			}

			return fresh, nil
		})

		time.Sleep(time.Millisecond)

		s := settled(m)
		require.NoError(t, s.LastConnectError)
		require.EqualValues(t, 1, s.Healed)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// A dead service

func TestFailedConnectsAreFollowedByExactlyThePausesOfWithBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var (
			mu    sync.Mutex
			asked []int
		)

		c := newConnector(l)
		conns, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect),
			plex.WithBackoff(func(failures int) time.Duration {
				mu.Lock()
				defer mu.Unlock()

				asked = append(asked, failures)

				return time.Duration(failures*failures) * time.Second
			}))

		killAll(t, m, 1)

		call := c.unanswered(1)[0]

		for n := 1; n <= 12; n++ {
			waiting := wantReader(t.Context(), m, 10*time.Millisecond) // does not matter to the user's own backoff
			time.Sleep(time.Duration(n) * 50 * time.Millisecond)       // what the connect takes does not count
			require.Error(t, (<-waiting).err)
			call.Fail(errRefused)
			synctest.Wait()

			failed := time.Now()
			call = c.next()
			require.Equal(t, time.Duration(n*n)*time.Second, time.Since(failed))
			require.Equal(t, conns[0].RemoteAddr(), call.Handle.RemoteAddr())
			require.EqualValues(t, n, m.Stats().ConnectFailed)
		}

		mu.Lock()
		defer mu.Unlock()

		require.Equal(t, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, asked)
	})
}

func TestTheDefaultBackoffBeginsBelow100MillisecondsAndGrowsTo30Seconds(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m := s.pool(1)

		s.goDown()
		killAll(t, m, 1)
		time.Sleep(20 * time.Minute)

		all := pauses(s.dialled(1))
		require.GreaterOrEqual(t, len(all), 40)
		require.True(t, all[0] >= 50*time.Millisecond && all[0] <= 100*time.Millisecond, all[0])

		nominal := 250 * time.Millisecond
		longest := map[time.Duration]bool{}

		for i, pause := range all[1:] {
			least, most := nominal*8/10-time.Microsecond, nominal*12/10+time.Microsecond
			require.True(t, pause >= least && pause <= min(most, 30*time.Second), "pause %d is %v, not from %v to %v", i+2, pause, least, most)

			if nominal = min(nominal*16/10, 25*time.Second); nominal == 25*time.Second {
				longest[pause] = true
			}
		}

		require.Greater(t, len(longest), 5, "the longest are spread, too")
	})
}

func TestADeadServiceIsProbedByOneConnectAtATime(t *testing.T) {
	for _, waiters := range []int{0, 50} {
		t.Run(fmt.Sprint(waiters, " waiters"), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				const n = 32

				s := newService(l)
				m := s.pool(n)
				s.goDown()
				s.set(func(s *service) { s.latency = 5 * time.Millisecond })

				killAll(t, m, n)

				var done sync.WaitGroup

				for range waiters {
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

				time.Sleep(5 * time.Millisecond)
				synctest.Wait() // the first have failed
				require.LessOrEqual(t, s.peakSinceSet(), 4)
				s.set(func(*service) {})

				time.Sleep(5 * time.Second)
				require.LessOrEqual(t, s.peakSinceSet(), 1, "connects at a time after the first failure")
				require.LessOrEqual(t, s.Total()-n, 24, "connects in the first five seconds")

				was := s.Total()
				time.Sleep(10 * time.Minute)
				require.Equal(t, waiters, m.Stats().Waiting)
				require.LessOrEqual(t, s.peakSinceSet(), 1)
				require.LessOrEqual(t, s.Total()-was, 2*60*10+10, "a waiter has its floor")

				if waiters == 0 {
					require.LessOrEqual(t, s.Total()-was, 60, "nobody waits")
				}

				s.comeUp()

				back := time.Now()
				done.Wait()
				require.LessOrEqual(t, time.Since(back), time.Second, "all waiters are served")

				time.Sleep(31*time.Second - time.Since(back))
				require.Equal(t, n, m.Stats().Open)

				stats := m.Stats()
				require.Equal(t, []uint64{n, n}, []uint64{stats.Lost, stats.Healed})

				peak := s.Counts().PeakInUse
				require.LessOrEqual(t, peak, n)
			})
		})
	}
}

func TestRecoveryRampsUpOneTwoFourUntilWhole(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const n = 40

		c := newConnector(l)
		conns, _ := l.Pairs(n)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

		killAll(t, m, n)

		for _, call := range c.unanswered(4) {
			call.Fail(errRefused)
		}

		for range 5 {
			call := c.next()
			require.Empty(t, c.unanswered(0), "one at a time")
			call.Fail(errRefused)
		}

		calls := []*fakenet.Dial{c.next()}

		for _, step := range []int{1, 2, 4, 8, 16, 9} {
			calls = append(calls, c.unanswered(step-len(calls))...)
			time.Sleep(10 * time.Millisecond)
			require.Empty(t, c.unanswered(0))

			for _, call := range calls {
				fresh, _ := l.Pair()
				call.Succeed(fresh)
			}

			synctest.Wait()

			calls = nil
		}

		s := m.Stats()
		require.Equal(t, []int{n, 0}, []int{s.Open, s.Connecting})
		require.Equal(t, []uint64{n, n, 9}, []uint64{s.Lost, s.Healed, s.ConnectFailed})
	})
}

func TestAFailureOnTheRampBeginsAgainWithOneAfterAPause(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const n = 20

		c := newConnector(l)
		conns, _ := l.Pairs(n)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect),
			plex.WithBackoff(func(failures int) time.Duration { return time.Duration(failures) * time.Minute }))

		succeed := func(calls ...*fakenet.Dial) {
			for _, call := range calls {
				fresh, _ := l.Pair()
				call.Succeed(fresh)
			}
		}

		killAll(t, m, n)

		first := c.unanswered(4)

		time.Sleep(10 * time.Millisecond)

		for _, call := range first {
			call.Fail(errRefused)
		}

		time.Sleep(time.Minute)
		succeed(c.unanswered(1)...)
		succeed(c.unanswered(2)...)

		calls := c.unanswered(4)

		time.Sleep(10 * time.Millisecond)
		calls[0].Fail(errRefused)
		synctest.Wait()

		failed := time.Now()

		for _, call := range calls[1:] { // they say the same as the first
			time.Sleep(10 * time.Millisecond)
			require.Empty(t, c.unanswered(0))
			call.Fail(errRefused)
		}

		call := c.next()
		require.Equal(t, 2*time.Minute, time.Since(failed), "the second failure in a row: connects that succeed are no proof")
		require.Empty(t, c.unanswered(0), "one")
		require.Equal(t, 3, m.Stats().Open)
		succeed(call)
		_ = c.unanswered(2)
	})
}

func TestASuccessAfterAFailureIsTheBetterNews(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(12)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect),
			plex.WithBackoff(func(int) time.Duration { return time.Minute }))

		killAll(t, m, 12)

		calls := c.unanswered(4)

		time.Sleep(10 * time.Millisecond)
		calls[0].Fail(errRefused)
		calls[1].Fail(errRefused)
		require.Empty(t, c.unanswered(0), "the pause")

		for _, call := range calls[2:] {
			fresh, _ := l.Pair()
			call.Succeed(fresh)
		}

		require.Len(t, c.unanswered(3), 3, "the ramp goes on at once")
	})
}

func TestAConnectionThatProvesUsefulEndsTheCareAfterItsTrial(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(10)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

		killAll(t, m, 10)

		for _, call := range c.unanswered(4) {
			call.Fail(errRefused)
		}

		fresh, peer := l.Pair()
		c.next().Succeed(fresh)
		calls := c.unanswered(2)

		use(t, m, peer)
		time.Sleep(trial)

		another, _ := l.Pair()
		calls[0].Succeed(another)
		_ = c.unanswered(5) // six in all: the four of a service that is well, and one more for each success
	})
}

func TestWhatAConnectionHasDeliveredProvesNothingBeforeItsTrialIsOver(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(10)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

		killAll(t, m, 10)

		for _, call := range c.unanswered(4) {
			call.Fail(errRefused)
		}

		fresh, peer := l.Pair()
		c.next().Succeed(fresh)
		calls := c.unanswered(2)

		use(t, m, peer)
		time.Sleep(trial - time.Millisecond)

		another, _ := l.Pair()
		calls[0].Succeed(another)
		_ = c.unanswered(2) // three in all: the ramp goes on
	})
}

func TestTheCareEndsWithTheTrialThoughNoConnectIsAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(10)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

		killAll(t, m, 10)

		for _, call := range c.unanswered(4) {
			call.Fail(errRefused)
		}

		fresh, peer := l.Pair()
		c.next().Succeed(fresh)
		_ = c.unanswered(2)

		use(t, m, peer)
		time.Sleep(trial)
		_ = c.unanswered(3) // five in all: the four of a service that is well, and one more for the success
	})
}

func TestABlackHoleIsProbedByOneConnectAtATimeUnderTheBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(32)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect), plex.WithConnectTimeout(time.Hour),
			plex.WithBackoff(func(failures int) time.Duration { return time.Duration(failures) * 5 * time.Second }))

		killAll(t, m, 32)
		_ = c.unanswered(4)

		var began []time.Time
		for range 6 {
			_ = c.next() // and gets no answer
			began = append(began, time.Now())
			_ = c.unanswered(0)
		}

		var want []time.Duration
		for n := range 5 { // nobody waits for an answer longer than a second
			want = append(want, time.Second+time.Duration(n+2)*5*time.Second)
		}

		require.Equal(t, want, pauses(began))
		require.Equal(t, []int{0, 10}, []int{m.Stats().Open, m.Stats().Connecting})
	})
}

func TestManyConnectsThatFailTogetherAreOneFailure(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(10)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect),
			plex.WithBackoff(func(failures int) time.Duration { return time.Duration(failures) * time.Minute }))

		killAll(t, m, 10)

		for _, call := range c.unanswered(4) {
			time.Sleep(10 * time.Millisecond)
			call.Fail(errRefused)
		}

		time.Sleep(time.Minute)
		_ = c.unanswered(1)
	})
}

func TestTheHealthyHealerConnectsAFewAtATime(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const n = 100

		c := newConnector(l)
		conns, _ := l.Pairs(n)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

		for range 2 { // the second time it begins carefully again
			killAll(t, m, n)

			calls := c.unanswered(4)

			for healed := 0; healed < n; {
				for _, call := range calls {
					fresh, peer := l.Pair()
					peer.Send("x")
					call.Succeed(fresh)
				}

				healed += len(calls)
				calls = c.unanswered(min(2*len(calls), 32, n-healed))
			}

			require.Equal(t, n, m.Stats().Open)

			for range n {
				r := readerOf(t, m)
				require.Equal(t, "x", readN(t, r, 1))
				requireClosed(t, r)
			}
		}
	})
}

func TestAConnectThatTakesLongLetsOthersGoFirst(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(6)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

		killAll(t, m, 6)

		began := time.Now()
		slow := c.unanswered(4)
		fifth := c.next()
		require.Less(t, time.Since(began), 1200*time.Millisecond)

		fresh, _ := l.Pair()
		fifth.Succeed(fresh)
		require.Equal(t, 1, settled(m).Open)

		for _, call := range append(slow, c.unanswered(1)...) { // a service that is slow, but well
			fresh, _ := l.Pair()
			call.Succeed(fresh)
		}

		s := settled(m)
		require.Equal(t, []int{6, 0}, []int{s.Open, s.Connecting})
		require.Equal(t, []uint64{6, 0}, []uint64{s.Healed, s.ConnectFailed})
	})
}

func TestAWaitersArrivalCutsALongPauseShortWithinItsFloor(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const floor = 500 * time.Millisecond

		s := newService(l)
		m := s.pool(1)
		s.goDown()
		killAll(t, m, 1)
		time.Sleep(10 * time.Minute)

		// nextDial returns when the service is dialled next.
		nextDial := func() time.Time {
			n := s.Total()
			for s.Total() == n {
				time.Sleep(time.Millisecond)
			}

			return s.dialled(n)[0]
		}

		failed := nextDial() // a dial takes no time here

		// Arriving 200 ms after the failure has the next connect come at the floor, and so on while it waits.
		time.Sleep(time.Until(failed.Add(200 * time.Millisecond)))

		ctx, cancel := context.WithCancel(t.Context())
		waiting := wantReader(ctx, m, 0)

		for n := range 3 {
			dial := nextDial()
			require.Equal(t, floor, dial.Sub(failed), n)
			failed = dial
		}

		cancel()

		a := <-waiting
		require.ErrorIs(t, a.err, context.Canceled)
		require.ErrorIs(t, a.err, errRefused, "it says why")

		dial := nextDial()
		require.Greater(t, dial.Sub(failed), 20*time.Second, "nobody waits any more")

		// Arriving when the floor has passed has it come at once.
		time.Sleep(5 * time.Second)

		n, now := s.Total(), time.Now()
		waiting = wantReader(t.Context(), m, time.Millisecond)
		require.Equal(t, []time.Time{now}, s.dialled(n))
		require.ErrorIs(t, (<-waiting).err, errRefused)

		// As it does for a service that is back.
		time.Sleep(5 * time.Second)
		s.comeUp()
		requireClosed(t, got(t, wantWriter(t.Context(), m, 0)).lease())
	})
}

func TestCallersThatComeAndGoStormNoDeadService(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m := s.pool(4)
		s.goDown()
		killAll(t, m, 4)
		time.Sleep(time.Minute)

		was := s.Total()

		for range 10_000 { // a hundred seconds
			_, err := m.Reader(t.Context(), 10*time.Millisecond)
			require.ErrorIs(t, err, errRefused)
		}

		require.LessOrEqual(t, s.Total()-was, 201)
		require.GreaterOrEqual(t, s.Total()-was, 190)

		for _, pause := range pauses(s.dialled(was)) {
			require.GreaterOrEqual(t, pause, 500*time.Millisecond)
		}
	})
}

func TestABackoffFunctionThatPanicsGetsTheDefaultAndOneBelowZeroIsNone(t *testing.T) {
	for _, bad := range []struct {
		name        string
		backoff     func(int) time.Duration
		least, most time.Duration
		logged      int
	}{
		{"panics", func(int) time.Duration { panic("find me") }, 50 * time.Millisecond, 100 * time.Millisecond, 1},
		{"below zero", func(int) time.Duration { return -time.Hour }, 0, 0, 0},
		{"none", func(int) time.Duration { return 0 }, 0, 0, 0},
	} {
		t.Run(bad.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c, book := newConnector(l), &logbook{}
				conns, _ := l.Pairs(1)
				m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect), book.option(), plex.WithBackoff(bad.backoff))

				killAll(t, m, 1)
				c.unanswered(1)[0].Fail(errRefused)
				synctest.Wait()

				failed := time.Now()
				call := c.next()
				pause := time.Since(failed)
				require.True(t, pause >= bad.least && pause <= bad.most, pause)

				found := book.with("plex: the default backoff applies")
				require.Len(t, found, bad.logged)

				for _, r := range found {
					require.Equal(t, []string{"cause"}, r.keys)
					require.ErrorContains(t, r.attrs["cause"].(error), "the function given to WithBackoff panicked: find me")
					require.ErrorContains(t, r.attrs["cause"].(error), "TestABackoffFunctionThatPanics")
				}

				fresh, _ := l.Pair()
				call.Succeed(fresh)
				require.Equal(t, 1, settled(m).Open)
			})
		})
	}
}

// The default applies as a whole: its long pauses are cut short where callers wait, unlike those that the user has
// chosen. Without that, callers waited for 20 s and more (a soak found it after 50 minutes).
func TestTheDefaultInPlaceOfABackoffThatPanicsIsCutShortForCallersWhoWait(t *testing.T) {
	for _, c := range []struct {
		name     string
		backoff  func(failures int) time.Duration
		atLeast  time.Duration
		atMost   time.Duration
		connects int
	}{
		{"panics", func(int) time.Duration { panic("find me") }, 0, time.Second, 20},
		{"panics in the end", func(failures int) time.Duration {
			if failures > 10 {
				panic("find me")
			}
			return time.Millisecond
		}, 0, time.Second, 20},
		{"chosen", func(int) time.Duration { return time.Minute }, time.Minute, time.Minute + time.Second, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				s := newService(l)
				m := s.pool(1, plex.WithBackoff(c.backoff))
				s.goDown()
				killAll(t, m, 1)
				from := len(s.dialled(0))
				ctx, cancel := context.WithCancel(t.Context())
				waits := wantWriter(ctx, m, 0)
				time.Sleep(time.Hour)
				times := s.dialled(from)
				require.Greater(t, len(times), c.connects)
				for _, pause := range pauses(times[len(times)-c.connects:]) {
					require.True(t, c.atLeast <= pause && pause <= c.atMost, pause)
				}
				cancel()
				<-waits
			})
		})
	}
}

func TestABackoffFunctionMayCallTheMultiplexer(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)

		var m *plex.Multiplexer

		m = s.pool(2, plex.WithBackoff(func(int) time.Duration {
			if r, err := m.Reader(context.Background(), -1); err == nil {
				_ = r.Close()
			}

			return time.Duration(1+m.Stats().Open) * time.Second
		}))
		s.goDown()
		killAll(t, m, 1)
		time.Sleep(59 * time.Second)
		require.Equal(t, 30, s.Total()-2, "every two seconds")
	})
}

// ---------------------------------------------------------------------------------------------------------------
// What proves that a service is well

// trial is how long a connection must live after a failure to prove anything, where the service has hung up at once.
const trial = 75 * time.Millisecond

// hangUp has the peer of the only connection reset it, and a reader notice.
func hangUp(t testing.TB, m *plex.Multiplexer, p *fakenet.Peer) {
	t.Helper()

	r := readerOf(t, m)
	p.Reset(syscall.ECONNRESET, false)

	_, err := r.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	requireClosed(t, r)
}

// readAll has n consumers each read from whatever connection they get, for as long as that goes, until stop.
func readAll(m *plex.Multiplexer, n int) (stop func()) {
	var consumers sync.WaitGroup

	ctx, cancel := context.WithCancel(context.Background())

	for range n {
		consumers.Go(func() {
			for {
				r, err := m.Reader(ctx, 0)
				if err != nil {
					return
				}

				stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(past) })
				for err == nil && ctx.Err() == nil {
					_, err = r.Read(make([]byte, 10))
				}

				stop()

				_ = r.Close()
			}
		})
	}

	return func() { cancel(); consumers.Wait() }
}

// flapping is a pool of one connection whose service accepts, and hangs up after life; a consumer always reads. Pauses
// are as many seconds as there were failures. A dial takes 10 ms.
type flapping struct {
	*service
	m    *plex.Multiplexer
	stop func()
}

func newFlapping(l *ledger, life time.Duration, opts ...plex.Option) *flapping {
	f := &flapping{service: newService(l)}
	f.m = f.pool(1, append(opts, plex.WithBackoff(func(failures int) time.Duration {
		return time.Duration(failures) * time.Second
	}))...)
	f.live(life)
	f.set(func(s *service) { s.latency = 10 * time.Millisecond })

	f.stop = readAll(f.m, 1)

	return f
}

// live says how long connections live from now on; 0 is not at all.
func (f *flapping) live(life time.Duration) {
	f.set(func(s *service) {
		s.greet = func(p *fakenet.Peer) {
			if life == 0 {
				_ = p.Close()
			} else {
				time.AfterFunc(life, func() { _ = p.Close() })
			}
		}
	})
}

// begin loses the connection that there is.
func (f *flapping) begin() {
	_ = f.connected(0)[0].Close()
}

// awaitDials returns when the service has been dialled n times more, and the last of these dials is over.
func (f *flapping) awaitDials(n int) {
	for was := f.Total(); f.Total() < was+n; {
		time.Sleep(time.Millisecond)
	}

	time.Sleep(20 * time.Millisecond)
}

func TestAServiceThatAcceptsAndHangsUpKeepsBackingOff(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		f := newFlapping(l, 0)
		defer f.stop()

		f.begin()
		time.Sleep(time.Hour)

		all := pauses(f.dialled(1))
		require.Greater(t, len(all), 50)

		for i, pause := range all {
			want := time.Duration(i+1) * time.Second
			if i == 0 {
				want = 0 // once may be chance
			}

			require.Equal(t, want+10*time.Millisecond, pause, "pause %d", i+1)
		}

		s := f.m.Stats()
		require.Zero(t, s.ConnectFailed)
		require.InDelta(t, s.Lost, s.Healed, 1)
	})
}

// A service that has been seen to hang up gets one connect, and no other before that has outlived its trial.
func TestARampBeginsWhenTheFirstConnectionHasOutlivedItsTrial(t *testing.T) {
	for _, c := range []struct{ life, trial time.Duration }{
		{time.Millisecond, trial}, {30 * time.Millisecond, trial}, {50 * time.Millisecond, 100 * time.Millisecond}, {400 * time.Millisecond, 800 * time.Millisecond},
	} {
		t.Run(c.life.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				const n, latency = 12, 10 * time.Millisecond

				s := newService(l)
				m := s.pool(n, plex.WithBackoff(func(int) time.Duration { return time.Second }))
				stop := readAll(m, n)
				defer stop()

				hangUp := func(p *fakenet.Peer) { p.Reset(syscall.ECONNRESET, false) }
				s.set(func(s *service) {
					s.latency = latency
					s.greet = func(p *fakenet.Peer) { time.AfterFunc(c.life, func() { hangUp(p) }) }
				})

				for _, p := range s.connected(0) {
					hangUp(p)
				}

				time.Sleep(5 * time.Second)
				require.LessOrEqual(t, s.Total()-n, n+1+5, "at most one for each that is missing, one by chance, and the probes")

				was := s.Total()

				s.set(func(*service) {})
				time.Sleep(time.Minute)
				require.Equal(t, 1, s.peakSinceSet())
				require.LessOrEqual(t, s.Total()-was, 60)
				s.set(func(s *service) { s.greet = nil })

				was = s.Total()

				time.Sleep(10 * time.Second)
				require.Equal(t, n, m.Stats().Open)

				var at []time.Time // each moment at which anything is dialled
				var dials []int    // and how often

				for _, dial := range s.dialled(was) {
					if len(at) == 0 || !dial.Equal(at[len(at)-1]) {
						at, dials = append(at, dial), append(dials, 0)
					}

					dials[len(dials)-1]++
				}

				require.Equal(t, []int{1, 2, 4, 5}, dials)
				require.Equal(t, []time.Duration{latency + c.trial, latency, latency}, pauses(at))
			})
		})
	}
}

func TestWhatAHandshakeHasReadProvesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		f := newFlapping(l, 0)
		defer f.stop()

		f.handshake = func(handle net.Conn) error { // as of a service that says that it is overloaded, and hangs up
			_, err := handle.Read(make([]byte, 1))

			return err
		}
		f.set(func(s *service) {
			s.greet = func(p *fakenet.Peer) {
				p.Send("x")

				_ = p.Close()
			}
		})
		f.begin()
		f.awaitDials(10)

		for i, pause := range pauses(f.dialled(1)) {
			want := time.Duration(i+1) * time.Second
			if i == 0 {
				want = 0
			}

			require.Equal(t, want+10*time.Millisecond, pause, "pause %d", i+1)
		}
	})
}

func TestTheDefaultBackoffGrowsForAServiceThatAcceptsAndHangsUp(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m := s.pool(4)
		s.set(func(s *service) { s.greet = func(p *fakenet.Peer) { p.Reset(syscall.ECONNRESET, false) } })

		var consumers sync.WaitGroup

		ctx, cancel := context.WithCancel(t.Context())
		for range 4 {
			consumers.Go(func() {
				for ctx.Err() == nil {
					if w, err := m.Writer(ctx, 0); err == nil {
						if _, err = w.Write([]byte("x")); err == nil {
							time.Sleep(10 * time.Millisecond)
						}

						_ = w.Close()
					}
				}
			})
		}

		killAll(t, m, 4)
		time.Sleep(5 * time.Second)
		require.LessOrEqual(t, s.Total()-4, 4+1+10, "connects in five seconds: the window, once by chance, and the probes at the floor for waiters")

		time.Sleep(time.Minute)

		was := s.Total()
		time.Sleep(time.Minute)
		require.LessOrEqual(t, s.Total()-was, 2*60+1, "the floor for waiters: an acceptance begins no ramp before its trial is over")

		s.set(func(s *service) { s.greet = nil })
		time.Sleep(2 * time.Second)
		require.Equal(t, 4, m.Stats().Open)
		cancel()
		consumers.Wait()
	})
}

func TestAByteThatANewConnectionDeliversEndsTheBackingOff(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		f := newFlapping(l, 0)
		defer f.stop()

		f.begin()
		f.awaitDials(10)

		f.set(func(s *service) { s.greet = func(p *fakenet.Peer) { p.Send("x") } }) // and lives on
		f.awaitDials(1)
		time.Sleep(2 * time.Second) // less than the nine of the pause before it, as long as which a silent one must live
		require.Equal(t, 1, f.m.Stats().Open)

		f.live(0)

		peers := f.connected(0)
		was := f.Total()
		_ = peers[len(peers)-1].Close()

		time.Sleep(time.Minute)

		all := pauses(f.dialled(was))
		require.Equal(t, 10*time.Millisecond, all[0])
		require.Equal(t, 2010*time.Millisecond, all[1], "counted from the beginning")
		require.Equal(t, 3010*time.Millisecond, all[2])
	})
}

// As a service does that says that it is full, and hangs up.
func TestAByteFromAConnectionThatDiesYoungProvesNothing(t *testing.T) {
	for _, life := range []time.Duration{10 * time.Millisecond, trial - time.Millisecond, 900 * time.Millisecond} {
		t.Run(life.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				f := newFlapping(l, 0)
				defer f.stop()

				f.set(func(s *service) {
					s.greet = func(p *fakenet.Peer) {
						p.Send("x")
						time.AfterFunc(life, func() { _ = p.Close() })
					}
				})
				f.begin()
				f.awaitDials(10)

				for i, pause := range pauses(f.dialled(1)) {
					want := time.Duration(i+1) * time.Second
					if i == 0 {
						want = 0 // once may be chance
					}

					require.Equal(t, want+life+10*time.Millisecond, pause, "pause %d", i+1)
				}
			})
		})
	}
}

func TestALifeThatIsShorterThanThePauseBeforeItProvesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		f := newFlapping(l, 0)
		defer f.stop()

		f.begin()
		f.awaitDials(10) // the pause before it was nine seconds
		f.live(7 * time.Second)
		time.Sleep(2 * time.Minute)

		all := pauses(f.dialled(1))
		for i, pause := range all[10:] {
			require.Equal(t, time.Duration(i+11+7)*time.Second+10*time.Millisecond, pause)
		}
	})
}

func TestALifeThatIsLongerThanThePauseBeforeItEndsTheBackingOff(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		f := newFlapping(l, 0)
		defer f.stop()

		f.begin()
		f.awaitDials(10)
		f.live(time.Minute)
		f.awaitDials(1)
		time.Sleep(5 * time.Second)

		was := f.Total()

		time.Sleep(time.Hour)

		for _, pause := range pauses(f.dialled(was)) {
			require.Equal(t, time.Minute+10*time.Millisecond, pause, "it is connected again at once")
		}

		f.live(0)

		was = f.Total()

		f.awaitDials(4)

		all := pauses(f.dialled(was))
		require.Equal(t, []time.Duration{10 * time.Millisecond, 2010 * time.Millisecond, 3010 * time.Millisecond}, all,
			"the pauses begin anew, for the connections before have proved useful by living for a minute")
	})
}

func TestAcceptanceAloneDoesNotResetTheFailures(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect),
			plex.WithBackoff(func(failures int) time.Duration { return time.Duration(failures) * time.Second }))

		killAll(t, m, 1)

		for range 4 {
			c.next().Fail(errRefused)
		}

		call := c.next() // after four seconds
		fresh, peer := l.Pair()
		call.Succeed(fresh)
		require.Equal(t, 1, settled(m).Open)

		time.Sleep(3 * time.Second)
		hangUp(t, m, peer)

		lost := time.Now()
		call = c.next()
		require.Equal(t, 5*time.Second, time.Since(lost))

		fresh, peer = l.Pair()
		call.Succeed(fresh)
		synctest.Wait()
		use(t, m, peer)
		time.Sleep(2 * time.Second) // less than the five of the pause before it
		hangUp(t, m, peer)
		c.unanswered(1)[0].Fail(errRefused)
		synctest.Wait()

		failed := time.Now()

		c.next()
		require.Equal(t, time.Second, time.Since(failed), "it has delivered something in between")
	})
}

// What a consumer does to a connection says nothing about the service.
func TestConnectionsThatConsumersKillAreReplacedAtOnceAndNoPauseGrows(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, m *plex.Multiplexer, p *fakenet.Peer){
		"Kill of a lease": func(t *testing.T, m *plex.Multiplexer, _ *fakenet.Peer) { killAll(t, m, 1) },
		"Kill of a connection": func(t *testing.T, m *plex.Multiplexer, _ *fakenet.Peer) {
			w := writerOf(t, m)
			w.Conn().Kill()
			requireClosed(t, w)
		},
		"a message left half written": func(t *testing.T, m *plex.Multiplexer, p *fakenet.Peer) {
			p.Allow(1)

			w := writerOf(t, m)
			require.NoError(t, w.SetWriteDeadline(time.Now().Add(time.Millisecond)))

			n, err := w.Write([]byte("ab"))
			require.Error(t, err)
			require.Equal(t, 1, n)
			require.NoError(t, w.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				var failures []int

				c := newConnector(l)
				conn, peer := l.Pair()
				m := l.mux(plex.WithConnections(conn), plex.WithConnector(c.connect), plex.WithBackoff(func(n int) time.Duration {
					failures = append(failures, n)

					return time.Duration(n) * time.Second
				}))

				// kill has a consumer end the only connection n times, soon after it was connected.
				kill := func(n int) {
					for range n {
						end(t, m, peer)

						call := c.unanswered(1)[0] // at once
						conn, peer = l.Pair()
						call.Succeed(conn)
						require.Equal(t, 1, settled(m).Open)
						time.Sleep(100 * time.Millisecond) // all together longer than any pause
					}
				}

				kill(50)
				require.Empty(t, failures)
				end(t, m, peer)

				for n := range 3 { // which are the first failures
					c.next().Fail(errRefused)
					synctest.Wait()
					require.Len(t, failures, n+1)
				}

				conn, peer = l.Pair()
				c.next().Succeed(conn)
				synctest.Wait()

				kill(50)
				require.Equal(t, []int{1, 2, 3}, failures)

				end(t, m, peer) // and it proves nothing either: the next failure is the fourth
				c.unanswered(1)[0].Fail(errRefused)
				synctest.Wait()

				failed := time.Now()
				conn, _ = l.Pair()
				c.next().Succeed(conn)
				require.Equal(t, 4*time.Second, time.Since(failed))
				require.Equal(t, []int{1, 2, 3, 4}, failures)
				require.Equal(t, 1, settled(m).Open)
			})
		})
	}
}

func TestAConnectionFromBeforeTheFailureProvesNothingAboutTheServiceNow(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, peers := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect),
			plex.WithBackoff(func(failures int) time.Duration { return time.Duration(failures) * time.Second }))

		r := readerOf(t, m)
		killAll(t, m, 1)

		for range 4 {
			c.next().Fail(errRefused)
		}

		synctest.Wait()

		failed := time.Now()

		peers[0].Send("x")
		require.Equal(t, "x", readN(t, r, 1))

		call := c.next()
		require.Equal(t, 4*time.Second, time.Since(failed))
		call.Fail(errRefused)
		synctest.Wait()

		failed = time.Now()

		c.next()
		require.Equal(t, 5*time.Second, time.Since(failed))
		requireClosed(t, r)
	})
}

func TestALongLifeSinceTheLastFailureMakesTheNextTheFirst(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect),
			plex.WithBackoff(func(failures int) time.Duration { return time.Duration(failures) * time.Second }))

		killAll(t, m, 1)

		for range 4 {
			c.next().Fail(errRefused)
		}

		fresh, _ := l.Pair()
		c.next().Succeed(fresh)
		time.Sleep(time.Minute)

		killAll(t, m, 1)
		c.unanswered(1)[0].Fail(errRefused)
		synctest.Wait()

		failed := time.Now()

		c.next()
		require.Equal(t, time.Second, time.Since(failed))
	})
}

// ---------------------------------------------------------------------------------------------------------------
// News of a failure, and who might overtake it

func TestTheFirstRefusalIsHeededBeforeAnyFurtherConnect(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const pause = 700 * time.Millisecond

		s := newService(l)
		m := s.pool(1, plex.WithBackoff(func(int) time.Duration { return pause }))
		s.set(func(s *service) { s.latency = 10 * time.Millisecond })

		for range 400 {
			s.goDown()

			was, peers := s.Total(), len(s.connected(0))
			killAll(t, m, 1)

			time.Sleep(20 * time.Millisecond)
			require.Equal(t, 1, s.Total()-was, "connects for one lost connection, before its pause is over")
			s.comeUp()
			time.Sleep(time.Second)
			require.Equal(t, 2, s.Total()-was)
			use(t, m, s.connected(peers)...)
			time.Sleep(trial) // it has proved useful, so that the next refusal is the first again
		}
	})
}

func TestNoPauseIsSkippedWhenAConnectionIsLostAsSoonAsItIsThere(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		f := &flapping{service: newService(l)}
		f.m = f.pool(1, plex.WithBackoff(func(int) time.Duration { return time.Second }))
		f.live(0)
		f.set(func(s *service) { s.latency = 10 * time.Millisecond })

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()

		var consumers sync.WaitGroup
		defer consumers.Wait()
		defer cancel()

		for range 2 { // who has it fail as soon as it is there
			consumers.Go(func() {
				for ctx.Err() == nil {
					if r, err := f.m.Reader(ctx, 0); err == nil {
						_, _ = r.Read(make([]byte, 1))
						_ = r.Close()
					}
				}
			})
		}

		f.begin()
		time.Sleep(1000 * time.Second)

		for i, pause := range pauses(f.dialled(2)) {
			require.GreaterOrEqual(t, pause, time.Second, "pause %d", i)
		}
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Beside Add

func TestAddMakesAPoolWholeAndItsHealerIdle(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s, book := newService(l), &logbook{}
		m := s.pool(2, book.option())
		s.goDown()
		killAll(t, m, 2)
		time.Sleep(time.Minute)

		conns, _ := l.Pairs(2)
		rest, err := m.Add(t.Context(), conns...)
		require.NoError(t, err)
		require.Empty(t, rest)

		was := s.Total()

		time.Sleep(time.Hour)
		require.Equal(t, was, s.Total(), "nothing is missing")
		s.comeUp()
		killAll(t, m, 1)
		require.Equal(t, was+1, func() int { synctest.Wait(); return s.Total() }(), "what was added is healed")

		healed := book.with("plex: connection healed")
		require.Len(t, healed, 1)
		require.EqualValues(t, 1, healed[0].attrs["attempts"], "earlier losses have nothing to do with it")
	})
}

func TestWhatWasAddedBeyondTheMinimumIsHealedToo(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(2)
		m := l.mux(plex.WithConnector(c.connect), plex.WithMaxCapacity(4))
		_, err := m.Add(t.Context(), conns...)
		require.NoError(t, err)

		killAll(t, m, 2)

		for _, call := range c.unanswered(2) {
			fresh, _ := l.Pair()
			call.Succeed(fresh)
		}

		require.Equal(t, 2, settled(m).Open)
		require.Equal(t, 2, c.Total())
	})
}

func TestAnAddThatFailsBesideAnotherAsksForNoConnection(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		m := l.mux(plex.WithConnector(c.connect), plex.WithMaxCapacity(4))
		good, _ := l.Pair()
		bad, _ := fakenet.Pair() // not in the books, since the test closes it

		g := fakenet.NewGate()
		g.Arm()
		bad.Hooks.SetReadDeadline = g.PassDeadline

		failed := later(func() error {
			_, err := m.Add(context.Background(), bad)

			return err
		})
		<-g.Entered

		_, err := m.Add(t.Context(), good)
		require.NoError(t, err)
		require.NoError(t, bad.Close())
		close(g.Leave)
		require.ErrorIs(t, <-failed, net.ErrClosed)

		time.Sleep(time.Minute)
		require.Zero(t, c.Total(), "there is one connection, which is all that anybody has asked for")
		require.Equal(t, 1, m.Stats().Open)
	})
}
