package plex_test

// The multiplexer as a pool: Add, Addr, Stats, and the end of life.

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// ---------------------------------------------------------------------------------------------------------------
// Addresses

func TestAddrIsThatOfTheFirstConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(3)
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
		c, _ := l.Pair()
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
// Close

func TestCloseClosesEveryConnectionLeasedOrNotExactlyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, peers := l.Pairs(8)
		m := l.mux(plex.WithConnections(conns[:6]...), plex.WithMaxCapacity(8))
		_, err := m.Add(context.Background(), conns[6:]...)
		require.NoError(t, err)

		var (
			leases []lease
			done   sync.WaitGroup
		)

		for _, p := range peers { // so that each writer blocks
			p.Allow(0)
		}

		for i := range 6 { // two busy, two in streams, two in streams that are stuck; two connections are idle
			r, w := readerOf(t, m), writerOf(t, m)
			leases = append(leases, r, w)

			if i%3 == 2 {
				for k, c := range conns {
					if c.RemoteAddr() == r.RemoteAddr() {
						peers[k].Send("more than the channel holds")
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
		require.Empty(t, l.Unbalanced())
		done.Wait()

		for _, x := range leases {
			_ = x.Close()
			require.ErrorIs(t, x.Close(), plex.ErrLeaseClosed)
		}

		require.Empty(t, l.Unbalanced())
	})
}

func TestCloseMayBeCalledTwiceAndFromManyGoroutinesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			l := newLedger(t)
			conns, _ := l.Pairs(4)
			m := l.mux(plex.WithConnections(conns...))
			x, y := readerOf(t, m), writerOf(t, m)

			hammer(6, 2, func(int, int) {
				assert.NoError(t, m.Close())
				assert.Empty(t, l.Unbalanced(), "each of the calls returns when all is closed")
			})

			_, _ = x.Close(), y.Close()
		}
	})
}

// A transport's Read in which not even its Close helps keeps a goroutine of plex's. Close waits for it, but not for
// long, and what ends later does no harm.
func TestCloseWaitsForStreamsThatAreStuckInTheirTransport(t *testing.T) {
	const grace = 3 * time.Second

	for name, stuckFor := range map[string]time.Duration{"briefly": grace / 3, "for an hour": time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c, p := l.Pair()
				m := l.mux(plex.WithConnections(c))

				stuck := make(chan struct{})
				unstick := sync.OnceFunc(func() { close(stuck) })
				c.Hooks.Read = func([]byte) { <-stuck }

				defer unstick()

				r := readerOf(t, m)
				in, err := r.RecvChunks(context.Background(), 0)
				require.NoError(t, err)
				synctest.Wait()

				start := time.Now()
				closed := later(m.Close)

				synctest.Wait()
				requirePending(t, closed, "Close, while a goroutine of plex's is still running,")
				requireClosedOnce(t, c, "the transport is closed meanwhile")
				time.AfterFunc(stuckFor, unstick)
				require.NoError(t, <-closed)
				require.Equal(t, min(stuckFor, grace), time.Since(start), "how long Close takes")

				_, err = m.Reader(context.Background(), -1)
				require.ErrorIs(t, err, plex.ErrClosed)
				p.Send("late")
				time.Sleep(time.Until(start.Add(stuckFor)))
				synctest.Wait()

				for chunk := range in {
					require.Empty(t, chunk, "nothing is delivered after Close")
				}

				require.ErrorIs(t, r.Err(), plex.ErrClosed)

				_ = r.Close()

				require.NoError(t, m.Close())
				requireClosedOnce(t, c)
				require.Zero(t, m.Stats().Open)
			})
		})
	}
}

func TestCloseWhileEverythingIsInUseLeavesNothingBehind(t *testing.T) {
	for range 20 {
		t.Run("", func(t *testing.T) {
			l := newLedger(t)
			conns, peers := l.Pairs(4)
			m := l.mux(plex.WithConnections(conns...), plex.WithMaxCapacity(6))

			for _, p := range peers {
				p.Send("some bytes to read")
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
				c, _ := l.Pair()
				rest, _ := m.Add(context.Background(), c)
				l.HandedBack(rest...)
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
		conns, _ := l.Pairs(1)
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
		conns, peers := l.Pairs(3)
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

		c, _ := l.Pair()
		l.HandedBack(c)
		rest, err := m.Add(context.Background(), c)
		require.ErrorIs(t, err, plex.ErrClosed)
		require.Equal(t, []net.Conn{c}, rest)

		// The leases go on as if nothing were.
		for i, c := range conns {
			if c.RemoteAddr() == r.RemoteAddr() {
				peers[i].Send("more")
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
		require.Empty(t, l.Unbalanced())
		require.ErrorIs(t, w.Close(), plex.ErrLeaseClosed)
	})
}

func TestShutdownOfAMultiplexerThatNobodyUsesReturnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(3)
		m := l.mux(plex.WithConnections(conns...))
		began := time.Now()

		require.NoError(t, m.Shutdown(context.Background()))
		require.Zero(t, time.Since(began))
		require.Empty(t, l.Unbalanced())
		require.NoError(t, m.Shutdown(context.Background()))
		require.NoError(t, m.Close())
		require.NoError(t, l.mux().Shutdown(context.Background()), "of one that has no connection")
	})
}

func TestShutdownClosesHardAndReturnsTheContextsErrorWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(2)
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
		require.Empty(t, l.Unbalanced())
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
		conns, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...))

		require.ErrorContains(t, m.Shutdown(nilContext), "context")
		requireClosed(t, readerOf(t, m))
	})
}

func TestCloseCutsAShutdownShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(2)
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

		require.Empty(t, l.Unbalanced())

		_ = r.Close()
	})
}

func TestTwoShutdownsBothWaitAndEachKeepsToItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(1)
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
		conns, peers := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...))
		w := writerOf(t, m)
		peers[0].Allow(0)

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

		peers[0].Allow(-1)
		require.NoError(t, <-closed)
		require.NoError(t, <-down)
		require.Equal(t, "accepted before the shutdown, accepted during it", peers[0].ReadAll())

		close(chunks)
	})
}

func TestShutdownClosesIdleConnectionsWithoutWaitingForTheLeasedOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, peers := l.Pairs(3)
		m := l.mux(plex.WithConnections(conns...))
		r := readerOf(t, m)

		down := make(chan error, 1)

		go func() { down <- m.Shutdown(context.Background()) }()

		synctest.Wait()

		for i, c := range conns {
			select {
			case <-peers[i].ConnClosed():
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
				conns, _ := l.Pairs(8)
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
