package plex_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// parkedPool is a multiplexer with ready readers, of connections that no kernel watches.
func parkedPool(t *testing.T, n int, options ...plex.Option) (*plex.Multiplexer, []*fakenet.Conn, []*fakenet.Peer) {
	t.Helper()
	conns, peers, given := fakes(n)
	m, err := plex.New(t.Context(), append(options, plex.WithConnections(given...))...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, m.Close()) })
	_, err = m.ReadyReader(t.Context(), -1)
	require.ErrorIs(t, err, plex.ErrTimeout, "nothing has arrived")
	synctest.Wait()
	return m, conns, peers
}

// dialsFakes is a connector that never fails. The peers of its connections do nothing.
func dialsFakes(t *testing.T) plex.Option {
	var books fakenet.Books
	t.Cleanup(func() { assert.Empty(t, books.Unbalanced()) })
	return plex.WithConnector(plex.DialFunc(func(context.Context) (net.Conn, error) {
		c, _ := fakenet.Pair()
		books.Watch(c)
		return c, nil
	}))
}

func TestAParkedConnectionCostsNothingWhileNothingArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, conns, peers := parkedPool(t, 3)
		before := conns[0].Calls()
		time.Sleep(24 * time.Hour)
		assert.Equal(t, before, conns[0].Calls(), "nobody has called the transport")

		waits := make(chan string, 1)
		go func() {
			r, err := m.ReadyReader(t.Context(), 0)
			if assert.NoError(t, err) {
				waits <- readWhole(t, r, 600)
				assert.NoError(t, r.Close())
			}
		}()
		synctest.Wait()
		start := time.Now()
		long := strings.Repeat("0123456789", 60) // more than is read ahead
		_, err := peers[1].Write([]byte(long))
		require.NoError(t, err)
		assert.Equal(t, long, <-waits)
		assert.Zero(t, time.Since(start), "it is noticed at once")
	})
}

// readAll reads n bytes.
func readWhole(t *testing.T, r plex.Reader, n int) string {
	p := make([]byte, n)
	_, err := io.ReadFull(r, p)
	assert.NoError(t, err)
	return string(p)
}

func TestAParkedConnectionThatSomebodyElseClosesIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, conns, _ := parkedPool(t, 2, dialsFakes(t))
		require.NoError(t, conns[0].Close())
		time.Sleep(time.Second)
		s := m.Stats()
		assert.EqualValues(t, 1, s.Lost)
		assert.EqualValues(t, 1, s.Healed)
		assert.Equal(t, 2, s.Open)
	})
}

// Whoever needs a connection gets it, though its goroutine sits in a Read.
func TestAParkedConnectionIsRetired(t *testing.T) {
	for _, test := range []struct {
		name   string
		option plex.Option
		count  func(plex.Stats) uint64
	}{
		{"expiry", plex.WithMaxLifetime(time.Minute), func(s plex.Stats) uint64 { return s.Expired }},
		{"surplus", plex.WithIdleTimeout(time.Minute), func(s plex.Stats) uint64 { return s.ScaledDown }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, conns, _ := parkedPool(t, 2, dialsFakes(t), plex.WithMinConnections(1), test.option)
				time.Sleep(5 * time.Minute)
				s := m.Stats()
				assert.NotZero(t, test.count(s))
				assert.Zero(t, s.Lost)
				gone := 0
				for _, c := range conns {
					gone += c.Closes()
					assert.Equal(t, c.Closes(), c.Calls().CloseWrites, "gracefully")
				}
				assert.NotZero(t, gone)
			})
		})
	}
}

// The end of a write lease retires a connection that is due, too.
func TestAParkedConnectionIsRetiredAtTheEndOfAWriteLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, conns, _ := parkedPool(t, 1, dialsFakes(t), plex.WithMaxLifetime(time.Minute))
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		time.Sleep(5 * time.Minute)
		require.Zero(t, conns[0].Closes(), "it is leased")
		require.NoError(t, w.Close())
		time.Sleep(2 * time.Second)
		assert.Equal(t, 1, conns[0].Closes())
		assert.EqualValues(t, 1, m.Stats().Expired)
	})
}

// If it turns out that a connection cannot be spared, its Read begins again, without a deadline.
func TestAParkedConnectionThatIsNotRetiredGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := fakenet.Pair()
		other, _ := fakenet.Pair()
		var pin func()
		c.OnRead(func(b []byte, do func([]byte) (int, error)) (int, error) {
			n, err := do(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				pin() // in the moment in which the connection is about to be closed
			}
			return n, err
		})
		m, err := plex.New(t.Context(), plex.WithConnections(c, other), dialsFakes(t), plex.WithMinConnections(1),
			plex.WithMaxCapacity(3), plex.WithAutoScaling(time.Hour), plex.WithIdleTimeout(time.Minute))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, m.Close()) })
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		require.Equal(t, c.LocalAddr(), w.LocalAddr())
		pins := make(chan struct{}, 100)
		pin = func() { w.Conn().Pin(); pins <- struct{}{} }
		require.NoError(t, w.Close())
		_, err = m.ReadyReader(t.Context(), -1)
		require.ErrorIs(t, err, plex.ErrTimeout)
		<-pins
		time.Sleep(time.Hour)
		assert.Equal(t, 1, other.Closes(), "it can be spared")
		assert.Zero(t, m.Stats().Lost)

		_, err = p.Write([]byte("alive"))
		require.NoError(t, err)
		r, err := m.ReadyReader(t.Context(), time.Second)
		require.NoError(t, err)
		assert.Equal(t, "alive", readWhole(t, r, 5))
		assert.NoError(t, r.Close())
	})
}

func TestShutdownEndsAParkedConnectionAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, conns, peers := parkedPool(t, 2)
		start := time.Now()
		for _, p := range peers {
			go func() {
				_, _ = io.Copy(io.Discard, p)
				_ = p.Close()
			}()
		}
		require.NoError(t, m.Shutdown(t.Context()))
		assert.Zero(t, time.Since(start))
		assert.Equal(t, 1, conns[0].Calls().CloseWrites, "gracefully")
		assert.Zero(t, m.Stats().Lost)
	})
}

// What arrives in the very moment in which the Read is interrupted is delivered.
func TestWhatArrivesWhileAParkedConnectionIsRetiredIsDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := fakenet.Pair()
		c.OnRead(func(p []byte, do func([]byte) (int, error)) (int, error) {
			n, err := do(p)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.OnRead(nil)
				return copy(p, "last words"), nil
			}
			return n, err
		})
		m, err := plex.New(t.Context(), plex.WithConnections(c), dialsFakes(t), plex.WithMaxLifetime(time.Minute))
		require.NoError(t, err)
		defer m.Close()
		_, err = m.ReadyReader(t.Context(), -1)
		require.ErrorIs(t, err, plex.ErrTimeout)
		r, err := m.ReadyReader(t.Context(), 2*time.Minute)
		require.NoError(t, err)
		assert.Equal(t, "last words", readWhole(t, r, 10))
		assert.NoError(t, r.Close())
	})
}

// A transport with one mutex for everything lets nobody set a deadline while a Read is blocked. (In real
// time, because whoever waits for a mutex stops that of a bubble.)
func TestAParkedConnectionThatCannotBeInterruptedHoldsUpNobody(t *testing.T) {
	bad, _ := fakenet.Pair()
	fine, _ := fakenet.Pair()
	m, err := plex.New(t.Context(), plex.WithConnections(&fakenet.OneMutex{Conn: bad}, fine), dialsFakes(t),
		plex.WithMaxLifetime(20*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, m.Close()) })
	_, err = m.ReadyReader(t.Context(), -1)
	require.ErrorIs(t, err, plex.ErrTimeout)
	require.Eventually(t, func() bool { return m.Stats().Expired >= 5 }, 20*time.Second, time.Millisecond, "others are retired")
	require.Eventually(t, func() bool { return bad.Closes() == 1 }, 20*time.Second, time.Millisecond, "it is closed")
}

// A pool keeps what so many connections have left, and no more. One that is killed has nothing to
// keep, although the Read that it was parked in fails, too.
func TestAKilledConnectionTakesNoPlaceOfWhatOthersHaveLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const kept = 4 // for a capacity of one
		m, _, peers := parkedPool(t, 1)
		for i := range kept {
			require.NoError(t, peers[i].Close())
			synctest.Wait()
			c, peer := fakenet.Pair()
			_, err := m.Add(t.Context(), c)
			require.NoError(t, err)
			peers = append(peers, peer)
			synctest.Wait()
		}
		w, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)
		require.NoError(t, w.Kill())
		synctest.Wait()
		for range kept {
			r, err := m.ReadyReader(t.Context(), -1)
			require.NoError(t, err, "each end is told")
			_, err = r.Read(make([]byte, 1))
			assert.Equal(t, io.EOF, err)
			assert.NoError(t, r.Close())
		}
		_, err = m.ReadyReader(t.Context(), -1)
		require.ErrorIs(t, err, plex.ErrNoConnections)
	})
}
