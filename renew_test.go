package plex_test

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

func TestRenewReplacesAllConnectionsAndNobodyFails(t *testing.T) {
	for _, test := range []struct {
		name     string
		capacity int
	}{{"with room", 8}, {"without room", 4}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				option := dialsFakes(t)
				m, err := plex.New(t.Context(), option, plex.WithMinConnections(4), plex.WithMaxCapacity(test.capacity))
				require.NoError(t, err)
				t.Cleanup(func() { assert.NoError(t, m.Close()) })
				time.Sleep(time.Minute)
				old := slices.Collect(m.Conns())
				require.Len(t, old, 4)

				users, stop := context.WithCancel(t.Context())
				var all sync.WaitGroup
				for range 3 { // callers go on, one connection is always free
					all.Go(func() {
						for users.Err() == nil {
							w, err := m.Writer(t.Context(), time.Second)
							if assert.NoError(t, err) {
								time.Sleep(time.Millisecond)
								assert.NoError(t, w.Close())
							}
							time.Sleep(time.Millisecond)
						}
					})
				}
				fewest := 4
				all.Go(func() {
					for users.Err() == nil {
						fewest = min(fewest, m.Stats().Open)
						time.Sleep(time.Millisecond)
					}
				})
				err = m.Renew(t.Context())
				stop()
				all.Wait()
				require.NoError(t, err)
				for c := range m.Conns() {
					assert.False(t, slices.Contains(old, c), "it is another")
				}
				s := m.Stats()
				assert.Equal(t, 4, s.Open)
				assert.EqualValues(t, 4, s.Retired)
				assert.Zero(t, s.Lost+s.Expired)
				assert.GreaterOrEqual(t, fewest, 3, "one after the other")
				for _, c := range old {
					assert.Equal(t, "asked for", c.Info().Leaving)
				}
			})
		})
	}
}

func TestRenewWaitsForLeasesAndEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, conns, _ := fakePool(t, 1, dialsFakes(t))
		r, err := m.Reader(t.Context(), -1)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, m.Renew(ctx), context.DeadlineExceeded)
		require.Zero(t, conns[0].Closes(), "a lease is not cut short")
		require.NoError(t, r.Close())
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, conns[0].Closes(), "it is retired all the same")
	})
}

func TestRenewSaysWhatIsWrong(t *testing.T) {
	m, _, _ := fakePool(t, 1)
	require.ErrorContains(t, m.Renew(t.Context()), "WithConnector")
	var none context.Context
	require.ErrorContains(t, m.Renew(none), "nil context")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, m.Renew(ctx), context.Canceled)
}

func TestRenewEndsWhenTheMultiplexerCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, _ := fakePool(t, 1, dialsFakes(t))
		r, err := m.Reader(t.Context(), -1)
		require.NoError(t, err)
		time.AfterFunc(time.Second, func() { _ = m.Close() })
		require.ErrorIs(t, m.Renew(t.Context()), plex.ErrClosed)
		_ = r.Close()
	})
}

// A pool that cannot connect loses the connection, and nothing else.
func TestRetireWithoutAConnector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, conns, _ := fakePool(t, 3)
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		told := make(chan error, 1)
		w.Conn().AfterEnd(func(cause error) { told <- cause })
		w.Conn().Retire()
		w.Conn().Retire()
		time.Sleep(time.Minute)
		require.Zero(t, conns[0].Closes(), "it is leased")
		require.NoError(t, w.Close())
		require.Equal(t, plex.ErrRetired, <-told)
		time.Sleep(time.Minute)
		assert.Equal(t, 1, conns[0].Calls().CloseWrites, "gracefully")
		assert.Equal(t, 2, m.Stats().Open)
		assert.EqualValues(t, 1, m.Stats().Retired)
		plex.Conn{}.Retire()
	})
}

func TestInfoTellsTheStateOfAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, conns, _ := fakePool(t, 1, plex.WithLeakDetection(time.Hour))
		opened := time.Now()
		time.Sleep(time.Minute)
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		leased := time.Now()
		unpin := w.Conn().Pin()
		time.Sleep(time.Minute)
		info := w.Conn().Info()
		assert.Equal(t, plex.ConnInfo{
			Local: conns[0].LocalAddr(), Remote: conns[0].RemoteAddr(), Opened: opened, Pins: 1,
			Reader: plex.HalfInfo{State: plex.HalfIdle},
			Writer: plex.HalfInfo{State: plex.HalfLeased, Leases: 1, Since: leased},
		}, info)
		unpin()
		require.NoError(t, w.Kill())
		info = w.Conn().Info()
		assert.Equal(t, "killed", info.Leaving)
		assert.Equal(t, plex.ErrKilled, info.Err)
		assert.Equal(t, plex.HalfRetired, info.Writer.State)
		assert.Zero(t, plex.Conn{}.Info())
	})
}

func TestDetachTakesAConnectionOutAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, conns, peers := fakePool(t, 1, dialsFakes(t))
		r, err := m.Reader(t.Context(), -1)
		require.NoError(t, err)
		_, err = peers[0].Write([]byte("0123456789"))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ch, err := r.Recv(ctx, 4) // reads ahead
		require.NoError(t, err)
		require.Equal(t, byte('0'), <-ch)
		synctest.Wait()
		cancel()
		require.NoError(t, r.Close())

		d := duplexOf(t, m, -1)
		require.NoError(t, d.SetDeadline(time.Now().Add(time.Hour)))
		nc, err := d.Detach()
		require.NoError(t, err)
		_, err = d.Detach()
		require.ErrorIs(t, err, plex.ErrLeaseClosed)
		require.ErrorIs(t, d.Close(), plex.ErrLeaseClosed)
		time.Sleep(2 * time.Hour)
		assert.Equal(t, 1, m.Stats().Open, "another is in its place")
		assert.Zero(t, m.Stats().Lost)
		assert.Zero(t, conns[0].Closes())

		b := make([]byte, 9)
		_, err = io.ReadFull(nc, b)
		require.NoError(t, err, "no deadline is left")
		assert.Equal(t, "123456789", string(b), "what was read ahead comes first")
		_, err = nc.Write([]byte("on its own"))
		require.NoError(t, err)
		require.NoError(t, nc.Close())
	})
}

// Whoever watches an idle connection for the pool leaves it alone when it is detached, with no deadline left behind.
func TestADetachedConnectionIsWatchedByNobody(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l)
		nc, err := duplexOf(t, m, -1).Detach()
		require.NoError(t, err)
		l.HandedBack(nc)
		_, err = p.Write([]byte("word"))
		require.NoError(t, err)
		word := make([]byte, 4)
		_, err = io.ReadFull(nc, word)
		require.NoError(t, err)
		require.Equal(t, "word", string(word))
		require.NoError(t, nc.Close())
	})
}

func TestDetachOfAConnectionThatHasFailedTellsTheCause(t *testing.T) {
	m, _, _ := fakePool(t, 1)
	d := duplexOf(t, m, -1)
	d.Conn().Kill()
	nc, err := d.Detach()
	require.ErrorIs(t, err, plex.ErrKilled)
	require.Equal(t, net.Conn(nil), nc)
}

// Many pools that are renewed at the same moment do not go through their connections in step.
func TestRenewIsJittered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pools, conns = 20, 4
		var all sync.WaitGroup
		var mu sync.Mutex
		first, took := make(map[int]int), make(map[time.Duration]bool)
		for range pools {
			m, err := plex.New(t.Context(), dialsFakes(t), plex.WithMinConnections(conns))
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, m.Close()) })
			time.Sleep(time.Minute)
			all.Go(func() {
				old := slices.Collect(m.Conns())
				for i, c := range old {
					c.AfterEnd(func(error) {
						mu.Lock()
						defer mu.Unlock()
						if m.Stats().Retired == 1 {
							first[i]++
						}
					})
				}
				began := time.Now()
				assert.NoError(t, m.Renew(t.Context()))
				mu.Lock()
				defer mu.Unlock()
				took[time.Since(began)] = true
			})
		}
		all.Wait()
		assert.Greater(t, len(first), 1, "not always the same goes first")
		assert.Greater(t, len(took), pools/2, "how long it takes differs")
		for d := range took {
			assert.Less(t, d, 10*time.Second)
		}
	})
}

// The last of several connections to be retired was in use when all others had been replaced: nobody looked again when
// its lease ended.
func TestAConnectionThatWasInUseIsReplacedWhenItsLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := plex.New(t.Context(), dialsFakes(t), plex.WithMinConnections(2), plex.WithMaxCapacity(3))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, m.Close()) })
		time.Sleep(time.Minute)
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		w.Conn().Retire()
		for c := range m.Conns() {
			if c != w.Conn() {
				c.Retire()
			}
		}
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, m.Stats().Retired)
		require.NoError(t, w.Close())
		time.Sleep(50 * time.Millisecond)
		s := m.Stats()
		require.EqualValues(t, 2, s.Retired)
		require.Equal(t, 2, s.Open)
	})
}

// Many are due at once, and each is let go again and again until it has been replaced. None is overlooked because it was
// just being let go when it was its turn.
func TestOfManyThatAreDueNoneIsOverlooked(t *testing.T) {
	for range 40 {
		synctest.Test(t, func(t *testing.T) {
			m, err := plex.New(t.Context(), dialsFakes(t), plex.WithMinConnections(24), plex.WithMaxCapacity(25))
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, m.Close()) })
			attend(t, m)
			time.Sleep(time.Minute)
			for c := range m.Conns() {
				c.Retire()
			}
			time.Sleep(time.Second)
			require.EqualValues(t, 24, m.Stats().Retired)
		})
	}
}
