package plex_test

// How transports are closed: slow ones, failing ones, and when their slot is free.

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

func TestEveryCloseWaitsForASlowTransportAndNothingElseDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(3)
		m := l.mux(plex.WithConnections(conns...), plex.WithMaxCapacity(5))

		blocked := make(chan struct{})
		release := sync.OnceFunc(func() { close(blocked) })
		conns[1].(*fakenet.Conn).Hooks.Close = func() { <-blocked }
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

		c, _ := l.Pair()
		l.HandedBack(c)
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

func TestASlowCloseOfAKilledConnectionHoldsUpNobodyElse(t *testing.T) {
	for _, killer := range sides {
		t.Run(killer.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				conns, peers := l.Pairs(2)
				m := l.mux(plex.WithConnections(conns...), plex.WithMaxCapacity(3))

				blocked := make(chan struct{})
				release := sync.OnceFunc(func() { close(blocked) })
				x := killer.must(t, m)

				defer release()

				for _, c := range conns {
					if c.RemoteAddr() == x.RemoteAddr() {
						c.(*fakenet.Conn).Hooks.Close = func() { <-blocked }
					}
				}

				killed := make(chan error, 1)

				go func() { killed <- x.Kill() }()

				synctest.Wait()

				for _, s := range sides {
					s.all(t, m, 1)
				}

				c, _ := l.Pair()
				_, err := m.Add(context.Background(), c)
				require.NoError(t, err)

				for _, p := range peers {
					p.Send("x")
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
		conns, _ := l.Pairs(3)
		conns[1].(*fakenet.Conn).FailClose(errDialRefused)
		m := l.mux(plex.WithConnections(conns...))

		// Whether the error of one transport is told is not laid down; that all are closed is.
		_ = m.Close()

		require.Empty(t, l.Unbalanced())
		require.NoError(t, m.Close())
	})
}

// A connection that was lost has its place in the capacity until it is closed, so that its peer never sees more.
func TestReplacementIsConnectedOnlyWhenWhatItReplacesIsClosed(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, m *plex.Multiplexer, p *peer){
		"reset":  func(_ *testing.T, _ *plex.Multiplexer, p *peer) { p.reset() },
		"killed": func(t *testing.T, m *plex.Multiplexer, _ *peer) { require.NoError(t, leaseReader(t, m).Kill()) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			s := newHost(t, "tcp")
			var open, peak int // guarded by the host's mu, which dial holds
			s.wrap = func(nc net.Conn) net.Conn {
				open++
				peak = max(peak, open)
				return &slowToClose{revealing: revealing{counted{Conn: nc}}, closed: func() {
					s.mu.Lock()
					defer s.mu.Unlock()
					open--
				}}
			}
			m, p := s.mux(l, retryAtOnce)
			for i := range 5 {
				end(t, m, p)
				requireHealed(t, m, 1, i+1)
				p = s.next()
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			require.Equal(t, 1, peak)
		})
	}
}

// slowToClose is a connection that takes its time to close.
type slowToClose struct {
	revealing
	closed func()
}

func (c *slowToClose) Close() error {
	time.Sleep(20 * time.Millisecond)
	defer c.closed()
	return c.revealing.Close()
}

// A lost connection has its slot until its transport is closed. It must not hold up a caller for whom there is another.
func TestALostTransportThatTakesLongToCloseIsReplacedInAnotherSlot(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conn, free := l.slowToClose()
		defer free()

		m := l.mux(plex.WithConnections(conn), plex.WithConnector(s.connect), plex.WithMaxCapacity(2))
		killed := later(readerOf(t, m).Kill) // which may wait for the close
		waiting := wantReader(t.Context(), m, time.Minute)

		time.Sleep(time.Second)
		closeAll(t, waiting)
		require.Equal(t, 2, m.Stats().Open)
		require.LessOrEqual(t, s.Total(), 1)
		killAll(t, m, 1)
		time.Sleep(time.Second)
		requireReaderIdle(t, m)
		free()
		require.NoError(t, <-killed)
		time.Sleep(time.Minute)
		require.Equal(t, []int{1, 0}, []int{m.Stats().Open, m.Stats().Connecting})
		require.Equal(t, 2, s.Total())
	})
}

func TestTheSlotOfAConnectThatHasFailedIsFreeWhenItsTransportIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		conns, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect))

		killAll(t, m, 1)

		call := c.unanswered(1)[0]
		slow, _ := l.Pair()
		closing, closed := make(chan struct{}), make(chan struct{})
		slow.Hooks.Close = func() {
			close(closing)
			<-closed
		}

		call.Do(func() (*fakenet.Conn, error) {
			_ = plex.Attach(call.Handle, slow)

			go func() { _ = call.Handle.Close() }() // which hangs in the transport's Close

			<-closing

			return nil, errRefused
		})
		time.Sleep(time.Minute)
		require.Empty(t, c.unanswered(0), "the peer has a connection in it")
		require.Equal(t, 1, m.Stats().Connecting)
		close(closed)

		fresh, _ := l.Pair()
		c.next().Succeed(fresh)
		require.Equal(t, []int{1, 0}, []int{settled(m).Open, m.Stats().Connecting})
	})
}
