package plex_test

// The names of connections: which are equal, what their ends are told with, and what a pin is good for.

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// atEnd has the causes with which the end of c is told.
func atEnd(c plex.Conn) <-chan error {
	causes := make(chan error, 2)
	c.AfterEnd(func(cause error) { causes <- cause })
	return causes
}

// requireTold checks that an end has been told once, by now in a bubble and soon otherwise, and returns the cause.
func requireTold(t testing.TB, causes <-chan error) error {
	t.Helper()
	if fakenet.InBubble() {
		synctest.Wait()
	} else {
		eventually(t, func() bool { return len(causes) > 0 }, "the end is told")
	}
	require.Len(t, causes, 1, "told")
	return <-causes
}

// requireUntold checks that an end has not been told by now.
func requireUntold(t testing.TB, causes <-chan error) {
	t.Helper()
	if fakenet.InBubble() {
		synctest.Wait()
	}
	require.Empty(t, causes, "told")
}

func TestConnIsTheSameForAllLeasesOnAConnectionAndForNoOther(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conns, peers := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(s.connect))
		for _, p := range peers {
			p.Send("x") // which nobody reads, so that both are ready each time
		}
		byAddr := map[net.Addr]plex.Conn{}
		for range 3 {
			r1, r2, w1, w2 := readyReader(t, m), readyReader(t, m), writerOf(t, m), writerOf(t, m)
			require.NotEqual(t, r1.Conn(), r2.Conn())
			require.NotEqual(t, w1.Conn(), w2.Conn())
			for _, lease := range []interface {
				Conn() plex.Conn
				LocalAddr() net.Addr
				RemoteAddr() net.Addr
				io.Closer
			}{r1, w1, w2, r2} {
				name := lease.Conn()
				if known, ok := byAddr[lease.LocalAddr()]; ok {
					require.True(t, known == name)
				}
				byAddr[lease.LocalAddr()] = name
				requireClosed(t, lease)
				require.Equal(t, name, lease.Conn(), "also after the lease")
				require.Equal(t, lease.LocalAddr(), name.LocalAddr())
				require.Equal(t, lease.RemoteAddr(), name.RemoteAddr())
			}
		}
		require.Len(t, byAddr, 2)
		r := readyReader(t, m)
		addr, lost := r.LocalAddr(), r.Conn()
		require.Equal(t, byAddr[addr], lost)
		require.NoError(t, r.Kill())
		time.Sleep(time.Minute)
		require.Equal(t, 2, m.Stats().Open)
		require.Equal(t, addr, lost.LocalAddr(), "also after the connection")
		s.connected(0)[0].Send("x")
		for range 2 {
			r := readyReader(t, m)
			defer requireClosed(t, r)
			require.NotEqual(t, lost, r.Conn())
		}
	})
}

func TestTheZeroConn(t *testing.T) {
	bubble(t, func(t *testing.T, _ *ledger) {
		var c plex.Conn
		require.Equal(t, c, plex.Reader{}.Conn())
		require.Equal(t, c, plex.Writer{}.Conn())
		require.Nil(t, c.LocalAddr())
		require.Nil(t, c.RemoteAddr())
		unpin := c.Pin()
		unpin()
		unpin()
		told := make(chan error, 1)
		stop := c.AfterEnd(func(cause error) { told <- cause })
		require.ErrorIs(t, requireTold(t, told), plex.ErrLeaseClosed)
		require.False(t, stop())
	})
}

// Each way in which a connection ends, without a lease at the time.
func TestAfterEndTellsWhatAConnectionHasEndedOf(t *testing.T) {
	for name, c := range map[string]struct {
		opts  []plex.Option
		end   func(t *testing.T, m *plex.Multiplexer, p *fakenet.Peer, name plex.Conn)
		cause error
	}{
		"the peer's close": {nil, func(t *testing.T, m *plex.Multiplexer, p *fakenet.Peer, _ plex.Conn) {
			require.NoError(t, p.Close())
			time.Sleep(time.Second)
			r := readyReader(t, m)
			_, err := r.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			requireClosed(t, r)
		}, io.EOF},
		"a reset": {nil, func(t *testing.T, m *plex.Multiplexer, p *fakenet.Peer, _ plex.Conn) {
			p.Reset(syscall.ECONNRESET, false)
			time.Sleep(time.Second)
			r := readyReader(t, m)
			_, err := r.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			requireClosed(t, r)
		}, syscall.ECONNRESET},
		"a failed write": {nil, func(t *testing.T, m *plex.Multiplexer, p *fakenet.Peer, _ plex.Conn) {
			w := writerOf(t, m)
			p.Reset(syscall.ETIMEDOUT, false)
			_, err := w.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.ETIMEDOUT)
			requireClosed(t, w)
			time.Sleep(time.Second)                                   // an EOF beside the Write is not believed at once
			if r, err := m.ReadyReader(t.Context(), -1); err == nil { // a Read of plex's own was faster than the Write
				_, err = r.Read(make([]byte, 1))
				require.ErrorIs(t, err, syscall.ETIMEDOUT)
				requireClosed(t, r)
			}
		}, syscall.ETIMEDOUT},
		"the Kill of a lease": {nil, func(t *testing.T, m *plex.Multiplexer, _ *fakenet.Peer, _ plex.Conn) {
			require.NoError(t, writerOf(t, m).Kill())
		}, plex.ErrKilled},
		"the Kill of a name": {nil, func(_ *testing.T, _ *plex.Multiplexer, _ *fakenet.Peer, name plex.Conn) {
			name.Kill()
		}, plex.ErrKilled},
		"Close": {nil, func(t *testing.T, m *plex.Multiplexer, _ *fakenet.Peer, _ plex.Conn) {
			require.NoError(t, m.Close())
		}, plex.ErrClosed},
		"Shutdown": {nil, func(t *testing.T, m *plex.Multiplexer, _ *fakenet.Peer, _ plex.Conn) {
			require.NoError(t, m.Shutdown(t.Context()))
		}, plex.ErrClosed},
		"its age": {[]plex.Option{plex.WithMaxLifetime(time.Minute)}, func(*testing.T, *plex.Multiplexer, *fakenet.Peer, plex.Conn) {
			time.Sleep(2 * time.Minute)
		}, plex.ErrRetired},
		"no need": {
			[]plex.Option{plex.WithMinConnections(0), plex.WithIdleTimeout(10 * time.Second)},
			func(*testing.T, *plex.Multiplexer, *fakenet.Peer, plex.Conn) {
				time.Sleep(time.Minute)
			}, plex.ErrRetired,
		},
	} {
		for _, attended := range []bool{true, false} {
			if !attended && (name == "the peer's close" || name == "a reset") {
				continue // nobody would notice
			}
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T, l *ledger) {
					conn, p := l.Pair()
					s := newService(l)
					m := l.mux(append(c.opts, plex.WithConnections(conn), plex.WithConnector(s.connect))...)
					if attended {
						attend(t, m)
					}
					w := leaseWriter(t, m)
					requireClosed(t, w)
					if !attended {
						r := leaseReader(t, m) // by whose name it is known, too
						requireClosed(t, r)
						require.Equal(t, w.Conn(), r.Conn())
					}
					first, second := atEnd(w.Conn()), atEnd(w.Conn())
					kept := make(chan error, 1)
					stop := w.Conn().AfterEnd(func(cause error) { kept <- cause })
					require.True(t, stop())
					require.False(t, stop())
					requireUntold(t, first)

					c.end(t, m, p, w.Conn())
					require.ErrorIs(t, requireTold(t, first), c.cause)
					require.ErrorIs(t, requireTold(t, second), c.cause)
					requireUntold(t, kept)

					// Later, too.
					late := make(chan error, 1)
					stop = w.Conn().AfterEnd(func(cause error) { late <- cause })
					require.ErrorIs(t, requireTold(t, late), c.cause)
					require.False(t, stop())
					time.Sleep(time.Minute)
					requireUntold(t, first)
				})
			})
		}
	}
}

// What has arrived is somebody's first.
func TestAfterEndWaitsForTheLastReadLease(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conns, peers := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...))
		attend(t, m)

		// A lease that goes on when its connection is lost.
		p := peers[0]
		p.Send("a few and ")
		r := readyReader(t, m)
		require.Equal(t, p.Conn().LocalAddr(), r.LocalAddr())
		told := atEnd(r.Conn())
		p.Send("some words")
		r.Conn().Kill()
		requireUntold(t, told)
		require.Equal(t, plex.ErrKilled, r.Err())
		requireUntold(t, told)
		requireClosed(t, r)
		require.Equal(t, plex.ErrKilled, requireTold(t, told))

		// What is left when it ends is read in several leases, and the last is told of the end.
		w := writerOf(t, m)
		told = atEnd(w.Conn())
		p = peers[1]
		require.Equal(t, p.Conn().LocalAddr(), w.LocalAddr(), "the one that is left")
		requireClosed(t, w)
		p.Send("some words")
		p.CloseWrite()
		time.Sleep(time.Minute)
		for _, want := range []string{"some", " wor", "ds"} {
			requireUntold(t, told)
			requireReady(t, m, p.Conn().LocalAddr(), want)
		}
		requireUntold(t, told)
		r = readyReader(t, m)
		_, err := r.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		requireUntold(t, told)
		requireClosed(t, r)
		require.Equal(t, io.EOF, requireTold(t, told))
	})
}

func TestAfterEndOnSockets(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l)
		attend(t, m)
		for i, c := range []struct {
			end   func(*peer)
			cause error
		}{
			{(*peer).fin, io.EOF}, {(*peer).reset, syscall.ECONNRESET}, {(*peer).halfClose, io.EOF},
		} {
			_, err := p.Write([]byte("words"))
			require.NoError(t, err)
			r := readyReader(t, m)
			require.Equal(t, "words", readN(t, r, 5))
			requireClosed(t, r)
			told := atEnd(r.Conn())
			_, err = p.client.Write([]byte("unread")) // which is how a Unix socket is reset
			require.NoError(t, err)
			if i != 1 {
				_, err = io.ReadFull(p, make([]byte, 6))
				require.NoError(t, err)
			}
			c.end(p)
			r = readyReader(t, m)
			require.NotZero(t, r.Conn())
			_, err = r.Read(make([]byte, 1))
			require.ErrorIs(t, err, c.cause)
			requireUntold(t, told)
			requireClosed(t, r)
			require.ErrorIs(t, requireTold(t, told), c.cause)
			requireHealed(t, m, 1, i+1)
			p = s.next()
		}
	})
}

func TestManyAreToldOfOneEnd(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const n = 1000
		m, _, _ := l.single()
		w := writerOf(t, m)
		var told, stopped atomic.Int64
		var stops []func() bool
		for range n {
			stops = append(stops, w.Conn().AfterEnd(func(cause error) {
				if cause == plex.ErrKilled {
					told.Add(1)
				}
			}))
		}
		for i := 0; i < n; i += 3 {
			if stops[i]() {
				stopped.Add(1)
			}
		}
		require.NoError(t, w.Kill())
		synctest.Wait()
		require.EqualValues(t, n, told.Load()+stopped.Load())
		require.EqualValues(t, (n+2)/3, stopped.Load())
		for _, stop := range stops {
			require.False(t, stop())
		}
	})
}

// Whoever is told of an end may close everything.
func TestAfterEndMayCloseTheMultiplexer(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conns, _ := l.Pairs(3)
		m := l.mux(plex.WithConnections(conns...))
		w := writerOf(t, m)
		closed := make(chan error, 1)
		w.Conn().AfterEnd(func(error) { closed <- m.Close() })
		require.NoError(t, w.Kill())
		require.NoError(t, <-closed)
		_, err := m.Reader(t.Context(), 0)
		require.ErrorIs(t, err, plex.ErrClosed)
	})
}

// Close does not wait for ever for a function that does not return.
func TestCloseDoesNotWaitForWhoeverIsToldOfAnEnd(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, _ := l.single()
		r := readerOf(t, m)
		requireClosed(t, r)
		leave := make(chan struct{})
		r.Conn().AfterEnd(func(error) { <-leave })
		began := time.Now()
		require.NoError(t, m.Close())
		require.LessOrEqual(t, time.Since(began), time.Second)
		close(leave)
	})
}

func TestAPinKeepsAConnectionThatNobodyNeeds(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conns, _ := l.Pairs(3)
		m := l.mux(plex.WithConnections(conns[0]), plex.WithConnector(s.connect), plex.WithMaxCapacity(3),
			plex.WithMinConnections(1), plex.WithIdleTimeout(time.Minute))
		for _, conn := range conns[1:] {
			time.Sleep(time.Second)
			_, err := m.Add(t.Context(), conn)
			require.NoError(t, err)
		}
		leases := []plex.Reader{readerOf(t, m), readerOf(t, m), readerOf(t, m)}
		var unpins []func()
		for _, r := range leases {
			unpins = append(unpins, r.Conn().Pin(), r.Conn().Pin()) // they count
			requireClosed(t, r)
		}
		time.Sleep(time.Hour)
		require.Equal(t, 3, m.Stats().Open)
		unpins[4]()
		unpins[4]() // which does nothing
		time.Sleep(time.Hour)
		require.Equal(t, 3, m.Stats().Open)

		// The youngest of them goes, as the others are pinned.
		require.Equal(t, conns[2].LocalAddr(), leases[2].LocalAddr())
		told := atEnd(leases[2].Conn())
		unpins[5]()
		time.Sleep(time.Hour)
		require.Equal(t, plex.ErrRetired, requireTold(t, told))
		require.Equal(t, 2, m.Stats().Open)
		for _, unpin := range unpins {
			unpin()
		}
		time.Sleep(time.Hour)
		require.Equal(t, 1, m.Stats().Open)
		require.EqualValues(t, 2, m.Stats().ScaledDown)
	})
}

func TestAPinKeepsNothingFromFailing(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conn, p := l.Pair()
		m := l.mux(plex.WithConnections(conn), plex.WithConnector(s.connect), plex.WithMaxLifetime(2*time.Minute))
		attend(t, m)
		w := writerOf(t, m)
		unpin := w.Conn().Pin()
		requireClosed(t, w)
		told := atEnd(w.Conn())
		require.NoError(t, p.Close())
		time.Sleep(time.Second)
		r := readyReader(t, m)
		_, err := r.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		requireClosed(t, r)
		require.Equal(t, io.EOF, requireTold(t, told))
		again := r.Conn().Pin() // of one that is lost
		time.Sleep(time.Minute)
		st := m.Stats()
		require.Equal(t, []int{1, 1, 1}, []int{st.Open, int(st.Lost), int(st.Healed)})
		again()
		unpin()
		unpin()
		time.Sleep(6 * time.Minute)
		st = m.Stats()
		require.Equal(t, 1, st.Open)
		require.GreaterOrEqual(t, st.Expired, uint64(2), "its replacements have their age")
	})
}

// A pin that comes and goes does not keep a connection beyond the pin.
func TestAnUnpinnedConnectionIsReplacedForItsAge(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conns, _ := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(s.connect), plex.WithMaxLifetime(time.Minute))
		attend(t, m)
		w := writerOf(t, m)
		told := atEnd(w.Conn())
		unpin := w.Conn().Pin()
		requireClosed(t, w)
		time.Sleep(time.Minute / 2)
		unpin()
		time.Sleep(2 * time.Minute)
		require.Equal(t, plex.ErrRetired, requireTold(t, told))
		require.Equal(t, 2, m.Stats().Open)
		require.Zero(t, m.Stats().Lost)
	})
}

func TestAConnectionIsKilledByItsName(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conn, peer := l.Pair()
		m := l.mux(plex.WithConnections(conn), plex.WithConnector(s.connect))
		w := writerOf(t, m)
		requireClosed(t, w)
		name := w.Conn()

		r := readerOf(t, m)
		read := reading(r, make([]byte, 1))
		synctest.Wait()
		name.Kill()
		require.ErrorIs(t, (<-read).err, plex.ErrKilled)
		requireClosed(t, r)
		synctest.Wait()
		requireClosedOnce(t, peer.Conn())

		st := settled(m)
		require.Equal(t, []uint64{1, 1, 1}, []uint64{st.Killed, st.Lost, st.Healed})
		name.Kill()
		st = settled(m)
		require.Equal(t, []uint64{1, 1, 1}, []uint64{st.Killed, st.Lost, st.Healed}, "its replacement is another")
		plex.Conn{}.Kill()
	})
}
