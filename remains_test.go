package plex_test

// What is left to be read of connections that have ended: what takes it away and what does not, and what it, and those who
// hold it, may keep from going on.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// hangUps is a service that sends one byte over each connection and closes it.
func hangUps(t *testing.T) plex.Connect {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{'x'})
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return plex.Dial("tcp", ln.Addr().String())
}

// requireClosedSoon is for leases that the multiplexer's Close may have ended, or not.
func requireClosedSoon(t *testing.T, r plex.Reader) {
	finish(t, "a lease's Close", func() { _ = r.Close() })
}

// What plex has read of a connection that has ended is delivered, whatever becomes of the connection meanwhile.
func TestWhatIsKeptOfAnEndedConnectionSurvivesItsFailures(t *testing.T) {
	for name, test := range map[string]struct {
		reset bool
		then  func(t *testing.T, w plex.Writer)
	}{
		"a write after a reset": {true, func(t *testing.T, w plex.Writer) {
			_, err := w.Write([]byte("x"))
			require.Error(t, err)
		}},
		"writes after a close": {false, func(t *testing.T, w plex.Writer) {
			eventually(t, func() bool {
				_, err := w.Write([]byte("x"))
				return err != nil
			}, "the peer's kernel refuses what is sent")
		}},
		"time, after a lease that has read nothing": {true, func(*testing.T, plex.Writer) {
			time.Sleep(1200 * time.Millisecond) // longer than such a lease may keep the slot
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			s := newHost(t, "tcp")
			p := s.open()
			m := l.mux(plex.WithConnections(p.client))
			w, r := leaseWriter(t, m), leaseReader(t, m)
			_, err := p.Write([]byte("hello"))
			require.NoError(t, err)
			time.Sleep(20 * time.Millisecond) // it arrives before the end
			if test.reset {
				p.reset()
			} else {
				p.fin()
			}
			time.Sleep(seenBy) // plex has seen it
			requireClosed(t, r)
			time.Sleep(seenBy) // and what is left
			test.then(t, w)
			_ = w.Close()

			r = leaseReader(t, m)
			require.Equal(t, "hello", readN(t, r, 5))
			_, err = r.Read(make([]byte, 1))
			require.Error(t, err)
			_ = r.Close()
		})
	}
}

// Who kills a connection says that it is of no use, and so is what it has brought.
func TestWhatIsKeptOfAnEndedConnectionIsGivenUpWithAKill(t *testing.T) {
	for _, kill := range []bool{true, false} {
		t.Run(fmt.Sprint("kill: ", kill), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				conn, p := l.Pair()
				m := l.mux(plex.WithConnections(conn))
				w, r := writerOf(t, m), readerOf(t, m)
				p.Send("hello")
				require.NoError(t, p.Close())
				_, err := r.RecvChunks(t.Context(), 0) // which reads to the end, and nobody takes it
				require.NoError(t, err)
				synctest.Wait()
				requireClosed(t, r)
				if kill {
					w.Conn().Kill()
					requireNoReader(t, m)
				} else {
					r = readerOf(t, m)
					require.Equal(t, "hello", readN(t, r, 5))
					requireClosed(t, r)
				}
				_ = w.Close()
			})
		})
	}
}

// A ready reader that keeps its lease on a connection which is over delays nobody who waits for another.
// If it did, every fourth or so would wait for a second, until the oldest of these is given up.
func TestHeldRemainsDoNotDelayConnecting(t *testing.T) {
	var took []time.Duration
	for range 3 { // the machine may be busy for a while
		l := newLedger(t)
		m := l.mux(plex.WithConnector(hangUps(t)), plex.WithMinConnections(1), plex.WithBackoff(func(int) time.Duration { return 0 }))
		took = nil
		for range 20 {
			time.Sleep(20 * time.Millisecond) // the next one has come and ended
			began := time.Now()
			r := readyReader(t, m)
			took = append(took, time.Since(began))
			require.Equal(t, "x", readN(t, r, 1))
			defer requireClosedSoon(t, r)
		}
		if slices.Sort(took); took[len(took)-3] < time.Second/2 {
			return
		}
	}
	require.Fail(t, "callers wait while there is room to connect", "they waited for %v", took)
}

// Err tells why the connection has failed as long as the lease does, and after it. A writer that stops because of Done
// learns of it though all that it has sent was written.
func TestErrTellsOfTheFailureAlsoAfterTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conns, peers := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...))
		w, r := writerOf(t, m), readerOf(t, m)
		ch, err := w.SendChunks(t.Context(), 0)
		require.NoError(t, err)
		ch <- []byte("all of it")
		require.Equal(t, "all of it", peers[0].ReadN(9))
		peers[0].Reset(syscall.ECONNRESET, false)
		_, err = r.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		<-w.Done()
		for range 2 {
			require.ErrorIs(t, w.Err(), syscall.ECONNRESET)
			require.ErrorIs(t, r.Err(), syscall.ECONNRESET)
			_, _ = w.Close(), r.Close()
		}

		other := writerOf(t, m)
		require.NoError(t, other.Err())
		requireClosed(t, other)
		require.NoError(t, other.Err())
		peers[1].Reset(syscall.ECONNRESET, false)
		time.Sleep(time.Minute)
		require.NoError(t, other.Err(), "what comes after a lease is not its")
	})
}

func TestWhatLostConnectionsHaveLeftToReadIsKeptForAsManyAsTheCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const capacity = 3

		l := newLedger(t)
		m := l.mux(plex.WithMaxCapacity(capacity))

		for range 50 { // nobody comes to read
			c, p := l.Pair()
			_, err := m.Add(context.Background(), c)
			require.NoError(t, err)
			p.Send("left over")
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

			requireClosedOnce(t, c)
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

func TestAReadHalfThatHasComeToItsEndIsNotLeasedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		given, peers := l.Pairs(2)
		m := l.mux(plex.WithConnections(given...))
		out := make(chan served, 1)

		for i, p := range peers {
			p.Send("rest")
			require.NoError(t, p.Close())

			r := readerOf(t, m)
			n, err := r.Read(make([]byte, 9))
			require.NoError(t, err)
			require.Equal(t, 4, n)
			_, err = r.Read(make([]byte, 9))
			require.Equal(t, io.EOF, err)

			if i == 1 { // who waits by now waits in vain
				go func() {
					_, err := m.Reader(context.Background(), 0)
					out <- served{err: err}
				}()

				synctest.Wait()
			}

			require.NoError(t, r.Close())
		}

		require.ErrorIs(t, (<-out).err, plex.ErrNoConnections)

		for _, s := range sides {
			_, err := s.acquire(m, context.Background(), -1)
			require.ErrorIs(t, err, plex.ErrNoConnections)
		}

		require.EqualValues(t, 2, m.Stats().Lost)
	})
}

func TestWhatALostConnectionHasLeftComesBeforeErrNoConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		given, peers := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...))

		peers[0].Send("left over")
		require.NoError(t, peers[0].Close())

		r := readerOf(t, m)
		chunks, err := r.RecvChunks(context.Background(), 0)
		require.NoError(t, err)
		synctest.Wait() // the stream has read all, and the end, and nobody has taken anything
		require.NoError(t, r.Close())

		_, ok := <-chunks
		require.False(t, ok)

		_, err = m.Writer(context.Background(), -1)
		require.ErrorIs(t, err, plex.ErrNoConnections)

		for _, want := range []string{"left", " ove", "r"} {
			r, err := m.Reader(context.Background(), time.Second)
			require.NoError(t, err, "there is something left to read")

			p := make([]byte, 4)
			n, err := r.Read(p)
			require.NoError(t, err)
			require.Equal(t, want, string(p[:n]))

			if want == "r" {
				_, err = r.Read(p)
				require.Equal(t, io.EOF, err)
			}

			require.NoError(t, r.Close())
		}

		_, err = m.Reader(context.Background(), 0)
		require.ErrorIs(t, err, plex.ErrNoConnections)
	})
}

func TestWhatTheClosedConnectionHasLeftIsReadAndThenItsEnd(t *testing.T) {
	for _, size := range []int64{1, 4 << 10, 64<<10 - 1, 64 << 10, 64<<10 + 1, 100_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
				m, p := s.mux(l)
				p.send(t, 0, size)
				p.fin()
				if size >= unseen { // somebody has to read first
					r := leaseReader(t, m)
					n, err := readOracle(r, p.number, -1)
					require.Equal(t, io.EOF, err)
					require.Equal(t, size, n)
					requireClosed(t, r)
					requireHealed(t, m, 1, 1)
					return
				}
				requireHealed(t, m, 1, 1) // before anybody has read
				replacement := s.next()
				requireNoMoreThan(t, m, 1)
				if size < 64<<10 { // what is in memory needs no descriptor
					eventually(t, func() bool {
						return errors.Is(p.client.SetReadDeadline(time.Time{}), net.ErrClosed)
					}, "the transport is closed")
				}

				// The writer is the replacement's.
				w := leaseWriter(t, m)
				require.Equal(t, replacement.client.LocalAddr(), w.LocalAddr())
				r := readerOn(t, m, p)
				require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
				n, err := readOracle(r, p.number, -1)
				require.Equal(t, io.EOF, err)
				require.Equal(t, size, n)
				_, err = r.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err, "once more")
				requireClosed(t, r, w)

				requirePassing(t, m, replacement)
				requireNoMoreThan(t, m, 1)
				stats := m.Stats()
				assert.Equal(t, [3]int{1, 1, 1}, [3]int{stats.Open, stats.IdleReaders, stats.IdleWriters})
				assert.EqualValues(t, 1, stats.Lost)
				assert.Equal(t, 2, s.dialed())
			})
		})
	}
}

func TestWhatTheClosedConnectionHasLeftMayBeReadInManyLeases(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		size := plenty
		m, p := s.mux(l)
		p.send(t, 0, size)
		p.fin()
		requireHealed(t, m, 1, 1)
		replacement := s.next()

		var offset int64
		buf := make([]byte, 3001)
		deadline := time.Now().Add(patience)
		for offset < size {
			require.True(t, time.Now().Before(deadline), "after %d bytes no more turn up: %+v", offset, m.Stats())
			r := leaseReader(t, m)
			if r.LocalAddr().String() == replacement.client.LocalAddr().String() {
				requireClosed(t, r) // their turns alternate
				continue
			}
			require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
			n, err := r.Read(buf)
			require.NoError(t, err)
			require.NoError(t, checkOracle(buf[:n], p.number, offset))
			offset += int64(n)
			requireClosed(t, r)
		}
		// Of the end there is nobody to be told, unless it comes as a surprise.
		eventually(t, func() bool {
			r := leaseReader(t, m)
			defer func() { requireClosed(t, r) }()
			if r.LocalAddr().String() == p.client.LocalAddr().String() {
				_, err := r.Read(buf)
				require.Equal(t, io.EOF, err)
				return false
			}
			return m.Stats().IdleReaders == 0
		}, "the old reader is gone")
		requirePassing(t, m, replacement)
	})
}

// The look at it must not set a term to the reading.
func TestWhatTheClosedConnectionHasLeftCanBeReadMuchLater(t *testing.T) {
	l := newLedger(t)
	s := newHost(t, "tcp")
	m, p := s.mux(l)
	p.send(t, 0, plenty)
	p.fin()
	requireHealed(t, m, 1, 1)
	time.Sleep(1200 * time.Millisecond)
	r := readerOn(t, m, p)
	n, err := readOracle(r, p.number, -1)
	require.Equal(t, io.EOF, err)
	require.EqualValues(t, plenty, n)
	requireClosed(t, r)
}

// A stream gets it just as well as Read.
func TestWhatTheClosedConnectionHasLeftIsStreamed(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		size := plenty
		m, p := s.mux(l)
		p.send(t, 0, size)
		p.fin()
		requireHealed(t, m, 1, 1)

		r := leaseReader(t, m)
		for r.LocalAddr().String() != p.client.LocalAddr().String() { // the replacement may come before it
			requireClosed(t, r)
			r = leaseReader(t, m)
		}
		chunks, err := r.RecvChunks(soon(t), 777)
		require.NoError(t, err)
		var offset int64
		for chunk := range chunks {
			require.NoError(t, checkOracle(chunk, p.number, offset))
			offset += int64(len(chunk))
		}
		require.EqualValues(t, size, offset)
		require.NoError(t, r.Err())
		requireClosed(t, r)
		requirePassing(t, m, s.next())
	})
}

func TestRemainsAreKeptForAsManyConnectionsAsTheCapacity(t *testing.T) {
	const capacity, dead = 3, 11
	for _, size := range []int64{10, plenty} { // held in memory, and by the system
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
				m := l.mustOpen(capacity, s.connect(), retryAtOnce)
				for i := range dead {
					p := s.next()
					p.send(t, 0, size)
					p.fin()
					requireHealed(t, m, capacity, i+1)
				}

				// What can be leased is every open connection, with nothing to read, and the latest of the remains.
				eventually(t, func() bool { return m.Stats().IdleReaders == 2*capacity }, "the oldest remains are given up")
				for p := dead - capacity; p < dead+capacity; p++ {
					r := readerOn(t, m, s.at(p))
					if p < dead {
						n, err := readOracle(r, p, -1)
						assert.Equal(t, io.EOF, err)
						assert.Equal(t, size, n)
					}
					defer func() { requireClosed(t, r) }()
				}
				requireNoReader(t, m)
				assert.Equal(t, capacity, m.Stats().IdleWriters)
			})
		})
	}
}

// A connection that leaves nothing takes no place among the remains.
func TestConnectionThatLeavesNothingDoesNotCostTheRemainsOfAnother(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l, retryAtOnce)
		p.send(t, 0, 10)
		p.fin()
		requireHealed(t, m, 1, 1)
		for i := range 3 {
			s.next().fin()
			requireHealed(t, m, 1, 2+i)
		}

		r := readerOn(t, m, p)
		n, err := readOracle(r, p.number, -1)
		require.Equal(t, io.EOF, err)
		require.EqualValues(t, 10, n)
		requireClosed(t, r)
	})
}

// A server that dies sends a FIN, and no good-bye of TLS. What it had sent has arrived all the same.
func TestWhatATLSConnectionWithoutAGoodbyeHasLeftIsReadAndThenItsEnd(t *testing.T) {
	l := newLedger(t)
	s := newHost(t, "tls")
	m, p := s.mux(l)
	p.send(t, 0, 1000)
	_ = p.raw.Close()
	requireHealed(t, m, 1, 1)

	r := readerOn(t, m, p)
	n, err := readOracle(r, p.number, -1)
	require.Equal(t, io.EOF, err) // which is what crypto/tls makes of it at the end of a record
	require.EqualValues(t, 1000, n)
	requireClosed(t, r)
}
