package plex_test

// What is left to be read of connections that have ended: what takes it away and what does not, and what it, and those who
// hold it, may keep from going on.

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

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

// Consumers that keep leases on connections which are over and have been replaced: there is no bound to these, and their
// places in the queues must not keep others out, nor Close from its end.
func TestLeasesOnConnectionsThatAreOverLeaveRoomInTheQueues(t *testing.T) {
	const leases = 60 // there is room for 14 in either queue
	for name, lease := range map[string]func(*plex.Multiplexer, context.Context, time.Duration) (plex.Reader, error){
		"ready readers": (*plex.Multiplexer).ReadyReader,
		"readers":       (*plex.Multiplexer).Reader,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			m := l.mux(plex.WithConnector(hangUps(t)), plex.WithMinConnections(1),
				plex.WithBackoff(func(int) time.Duration { return 0 }))
			for i := range leases {
				r, err := lease(m, t.Context(), patience)
				require.NoError(t, err, "lease %d", i)
				require.Equal(t, "x", readN(t, r, 1))
				defer requireClosedSoon(t, r)
			}
			finish(t, "Stats", func() { require.NotZero(t, m.Stats().LeasedReaders) })
			finish(t, "Close", func() { require.NoError(t, m.Close()) })
		})
	}
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
			time.Sleep(50 * time.Millisecond) // plex has seen it
			requireClosed(t, r)
			time.Sleep(50 * time.Millisecond) // and what is left
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
				conn, p := l.pair()
				m := l.mux(plex.WithConnections(conn))
				w, r := writerOf(t, m), readerOf(t, m)
				p.send("hello")
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

// A consumer that keeps its lease on a connection which is over delays nobody who waits for another.
func TestHeldRemainsDoNotDelayConnecting(t *testing.T) {
	var slowest time.Duration
	for range 3 { // the machine may be busy for a while
		l := newLedger(t)
		m := l.mux(plex.WithConnector(hangUps(t)), plex.WithMinConnections(1), plex.WithBackoff(func(int) time.Duration { return 0 }))
		slowest = 0
		for range 10 {
			time.Sleep(20 * time.Millisecond) // the next one has come and ended
			began := time.Now()
			r := leaseReader(t, m)
			slowest = max(slowest, time.Since(began))
			require.Equal(t, "x", readN(t, r, 1))
			defer requireClosedSoon(t, r)
		}
		if slowest < 500*time.Millisecond {
			return
		}
	}
	require.Fail(t, "a caller waits while there is room to connect", "for %v", slowest)
}

// Err tells why the connection has failed as long as the lease does, and after it. A writer that stops because of Done
// learns of it though all that it has sent was written.
func TestErrTellsOfTheFailureAlsoAfterTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conns, peers := l.pairs(2)
		m := l.mux(plex.WithConnections(conns...))
		w, r := writerOf(t, m), readerOf(t, m)
		ch, err := w.SendChunks(t.Context(), 0)
		require.NoError(t, err)
		ch <- []byte("all of it")
		require.Equal(t, "all of it", peers[0].read(9))
		peers[0].reset(syscall.ECONNRESET, false)
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
		peers[1].reset(syscall.ECONNRESET, false)
		time.Sleep(time.Minute)
		require.NoError(t, other.Err(), "what comes after a lease is not its")
	})
}
