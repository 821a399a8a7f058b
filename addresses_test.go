package plex_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// cluster is a service with several addresses: some are down, the others answer.
type cluster struct {
	*ledger

	mu      sync.Mutex
	listed  []string
	fails   error // of the resolver
	asked   int
	down    map[string]bool
	hangUp  map[string]bool // it accepts, and ends the connection at once
	dials   map[string][]time.Time
	peers   map[string][]*fakenet.Peer
	latency time.Duration
}

func newCluster(l *ledger, addresses ...string) *cluster {
	return &cluster{
		ledger: l, listed: addresses, down: map[string]bool{}, hangUp: map[string]bool{},
		dials: map[string][]time.Time{}, peers: map[string][]*fakenet.Peer{},
	}
}

func (c *cluster) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *cluster) resolve(context.Context) (all []plex.Address, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	for _, a := range c.listed {
		all = append(all, plex.Address{Address: a})
	}
	return all, c.fails
}

func (c *cluster) connect(_ context.Context, conn net.Conn) error {
	to, ok := plex.Target(conn)
	if !ok || conn.RemoteAddr().String() != to.Address {
		return errors.New("no address")
	}
	a := to.Address
	c.mu.Lock()
	c.dials[a] = append(c.dials[a], time.Now())
	latency := c.latency
	c.mu.Unlock()
	time.Sleep(latency)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down[a] {
		return errRefused
	}
	nc, peer := c.Pair()
	c.peers[a] = append(c.peers[a], peer)
	if c.hangUp[a] {
		_ = peer.Close()
	}
	return plex.Attach(conn, nc)
}

// pool is a multiplexer of n connections, which have lived for a minute.
func (c *cluster) pool(n int, opts ...plex.Option) *plex.Multiplexer {
	c.Helper()
	m := c.mux(append([]plex.Option{
		plex.WithConnector(c.connect), plex.WithMinConnections(n), plex.WithMaxCapacity(2 * n), plex.WithResolver(c.resolve, 30*time.Second),
	}, opts...)...)
	attend(c, m) // so that it sees the end of a connection without a socket
	time.Sleep(time.Minute)
	return m
}

// restart ends all connections of an address and keeps it down for a time.
func (c *cluster) restart(a string, d time.Duration) {
	c.set(func() { c.down[a] = true })
	c.mu.Lock()
	peers := c.peers[a]
	c.peers[a] = nil
	c.mu.Unlock()
	for _, p := range peers {
		_ = p.Close()
	}
	time.Sleep(d)
	c.set(func() { c.down[a] = false })
}

// shares returns how many connections each address has, in the order of their names.
func shares(m *plex.Multiplexer) (open []int) {
	all := m.Addresses()
	slices.SortFunc(all, func(a, b plex.AddressStats) int { return strings.Compare(a.Address.Address, b.Address.Address) })
	for _, a := range all {
		open = append(open, a.Open)
	}
	return open
}

func TestConnectionsAreSpreadOverTheAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newCluster(l, "a", "b", "c")
		m := c.pool(24)
		require.Equal(t, []int{8, 8, 8}, shares(m))
		require.Equal(t, plex.Address{Network: "tcp", Address: "a"}, m.Addresses()[0].Address)
		require.Equal(t, 24, m.Stats().Open)
	})
}

// The complaint about peers: after a rolling restart everything is on the server that came first.
func TestAfterARollingRestartAllIsEvenAgain(t *testing.T) {
	for name, capacity := range map[string]int{"with room": 48, "without room": 24} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				var d diary
				c := newCluster(l, "a", "b", "c")
				m := c.pool(24, plex.WithMaxCapacity(capacity), d.option())
				for _, a := range []string{"a", "b", "c"} {
					d.taken()
					c.restart(a, 5*time.Second)
					require.Equal(t, 24, settled(m).Open, "the others have taken it over")
					time.Sleep(45 * time.Second)
					require.Equal(t, []int{8, 8, 8}, shares(m))
					kinds := map[plex.EventKind]int{}
					for _, e := range d.taken() {
						kinds[e.Kind]++
					}
					require.Equal(t, 1, kinds[plex.EventAddressFailing])
					require.Equal(t, 1, kinds[plex.EventAddressRecovered])
					require.GreaterOrEqual(t, kinds[plex.EventMoved], 8)
					require.LessOrEqual(t, kinds[plex.EventMoved], 12)
				}
				s := m.Stats()
				require.EqualValues(t, s.Lost, s.Healed)
			})
		})
	}
}

func TestAnAddressThatIsGoneIsDrainedAndANewOneGetsItsShare(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var d diary
		c := newCluster(l, "a", "b", "c")
		m := c.pool(24, d.option())
		d.taken()
		before := m.Stats().Retired // at the start, when they come side by side, one address may get a few more
		c.set(func() { c.listed = []string{"a", "b"} })
		w := writerOf(t, m)
		time.Sleep(31 * time.Second)
		requireClosed(t, w)
		time.Sleep(time.Second)
		require.Equal(t, []int{12, 12}, shares(m))
		s := m.Stats()
		require.Zero(t, s.Lost)
		events := d.taken()
		require.EqualValues(t, 8, s.Retired-before, brief(events))
		require.True(t, slices.ContainsFunc(events, func(e plex.Event) bool {
			return e.Kind == plex.EventAddressDrained && e.At.Address == "c"
		}))
		require.True(t, slices.ContainsFunc(events, func(e plex.Event) bool {
			return e.Kind == plex.EventRetired && e.Why == "address gone" && e.At.Address == "c"
		}))

		c.set(func() { c.listed = []string{"a", "b", "d"} })
		time.Sleep(75 * time.Second)
		require.Equal(t, []int{8, 8, 8}, shares(m))
		require.Zero(t, m.Stats().Lost)
	})
}

// One dead address slows down nothing but itself, and is probed under a backoff of its own.
func TestADeadAddressSlowsDownNothingButItself(t *testing.T) {
	for name, dies := range map[string]func(*cluster){
		"refuses":  func(c *cluster) { c.down["a"] = true },
		"hangs up": func(c *cluster) { c.hangUp["a"] = true },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c := newCluster(l, "a", "b", "c")
				m := c.pool(24)
				c.set(func() { dies(c) })
				c.mu.Lock()
				peers := c.peers["a"]
				c.mu.Unlock()
				began, before := time.Now(), len(c.dials["a"])
				for _, p := range peers {
					_ = p.Close()
				}
				require.Equal(t, 24, settled(m).Open)
				require.Less(t, time.Since(began), 100*time.Millisecond)
				time.Sleep(10 * time.Minute)
				require.Equal(t, 24, m.Stats().Open)
				require.Less(t, len(c.dials["a"])-before, 80, "as the backoff allows")
				all := m.Addresses()
				require.NotZero(t, all[0].Failures)
				require.Zero(t, all[1].Failures+all[2].Failures)
				require.Equal(t, 24, all[1].Open+all[2].Open)
				require.Zero(t, m.Stats().Backoff, "connects to the others are not held back")
			})
		})
	}
}

// A connect that hangs is not waited for while another address answers: neither by New nor by what
// replaces a lost connection.
func TestAnAddressThatSwallowsConnectsIsNotWaitedFor(t *testing.T) {
	for name, capacity := range map[string]int{"with room": 24, "hardly any room": 14} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c := newCluster(l, "a", "b", "c")
				dark := make(chan struct{})
				connect := func(ctx context.Context, conn net.Conn) error {
					if to, _ := plex.Target(conn); to.Address == "c" {
						select {
						case <-dark:
						case <-ctx.Done():
							return ctx.Err()
						}
					}
					return c.connect(ctx, conn)
				}
				began := time.Now()
				m := c.mux(plex.WithConnector(connect), plex.WithMinConnections(12), plex.WithMaxCapacity(capacity),
					plex.WithResolver(c.resolve, 30*time.Second), plex.WithConnectTimeout(10*time.Second))
				attend(c, m)
				if capacity == 24 {
					require.Less(t, time.Since(began), 1500*time.Millisecond)
					require.Equal(t, []int{6, 6, 0}, shares(m))
				}
				time.Sleep(time.Minute)
				require.Equal(t, 12, m.Stats().Open)
				s := m.Stats()
				c.restart("a", time.Minute)
				require.Equal(t, []int{0, 12, 0}, shares(m))
				require.EqualValues(t, 6, m.Stats().Healed-s.Healed)

				close(dark)
				time.Sleep(2 * time.Minute)
				require.Equal(t, []int{4, 4, 4}, shares(m))
				require.Equal(t, 12, m.Stats().Open)
			})
		})
	}
}

// When no address answers, they are probed in turn, as one dead service is.
func TestWhenNoAddressAnswersTheyAreProbedInTurn(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newCluster(l, "a", "b", "c")
		m := c.pool(6)
		var began time.Time
		c.set(func() {
			began = time.Now()
			for _, a := range c.listed {
				c.down[a] = true
			}
		})
		for _, a := range []string{"a", "b", "c"} {
			c.mu.Lock()
			peers := c.peers[a]
			c.mu.Unlock()
			for _, p := range peers {
				_ = p.Close()
			}
		}
		time.Sleep(10 * time.Minute)
		require.NotZero(t, m.Stats().Backoff)
		var all []time.Time
		c.set(func() {
			for _, a := range c.listed {
				n := 0
				for _, at := range c.dials[a] {
					if at.After(began) || at.Equal(began) {
						all, n = append(all, at), n+1
					}
				}
				require.Greater(t, n, 6, "each in its turn")
			}
		})
		require.Less(t, len(all), 45, "as many as one dead service sees, and one burst")
		slices.SortFunc(all, time.Time.Compare)
		for _, pause := range pauses(all[len(all)-5:]) {
			require.Greater(t, pause, 15*time.Second)
		}

		c.set(func() { clear(c.down) })
		time.Sleep(2 * time.Minute)
		require.Equal(t, []int{2, 2, 2}, shares(m))
		require.Zero(t, m.Stats().Backoff)
	})
}

func TestAResolverThatFailsChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		book := &logbook{}
		c := newCluster(l, "a", "b")
		m := c.pool(4, book.option())
		errDNS := errors.New("the name servers are on fire")
		c.set(func() { c.fails = errDNS })
		time.Sleep(10 * time.Minute)
		require.Equal(t, []int{2, 2}, shares(m))
		found := book.with("plex: the service's addresses could not be found; those that are known stay")
		require.Len(t, found, 1, "once")
		require.ErrorIs(t, found[0].attrs["cause"].(error), errDNS)
		c.set(func() { c.fails, c.listed = nil, nil })
		time.Sleep(10 * time.Minute)
		require.Equal(t, []int{2, 2}, shares(m), "and one that gives nothing, too")
		c.set(func() { c.listed = []string{"a", ""} })
		time.Sleep(10 * time.Minute)
		require.Equal(t, []int{2, 2}, shares(m), "nor an empty address")
	})
}

func TestTheAddressesAreAskedForSoonAfterALoss(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newCluster(l, "a", "b")
		m := c.pool(4, plex.WithResolver(c.resolve, time.Hour))
		before := c.asked
		c.set(func() { c.listed = []string{"b"} }) // a has gone, and so its connections fail
		c.restart("a", time.Second)
		time.Sleep(time.Second)
		require.Equal(t, []int{4}, shares(m))
		c.restart("b", time.Minute)
		require.LessOrEqual(t, c.asked-before, 64, "once in a second at most")
		require.Greater(t, c.asked-before, 2)
	})
}

// After a fail-over nothing has been lost, and so nobody has asked where the service is now.
func TestRenewAsksForTheAddressesFirst(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newCluster(l, "old")
		m := c.pool(4, plex.WithResolver(c.resolve, time.Hour))
		c.set(func() { c.listed = []string{"new"} })
		began, asked, dialled := time.Now(), c.asked, len(c.dials["old"])
		require.NoError(t, m.Renew(t.Context()))
		require.Less(t, time.Since(began), 5*time.Second)
		require.Equal(t, []int{4}, shares(m))
		require.Equal(t, "new", m.Addresses()[0].Address.Address)
		require.Equal(t, dialled, len(c.dials["old"]), "nothing is connected to the old one any more")

		c.set(func() { c.fails = errors.New("the name servers are on fire") })
		require.NoError(t, m.Renew(t.Context()), "at the address that is known")
		require.NoError(t, m.Renew(t.Context()))
		require.Equal(t, 3, c.asked-asked, "each asks once")
		require.Equal(t, []int{4}, shares(m))
		require.Len(t, c.dials["new"], 12)
	})
}

func TestAResolverThatMisbehaves(t *testing.T) {
	for _, bad := range []struct {
		name string
		ask  plex.Resolver
		want string
	}{
		{"panics", func(context.Context) ([]plex.Address, error) { panic("find me") }, "the function given to WithResolver panicked: find me"},
		{"hangs", func(context.Context) ([]plex.Address, error) { time.Sleep(time.Hour); return nil, nil }, "the resolver has not returned 10s after it was called"},
		{"fails", func(context.Context) ([]plex.Address, error) { return nil, errors.New("no such host") }, "no such host"},
		{"gives nothing", func(context.Context) ([]plex.Address, error) { return nil, nil }, "the resolver gave no address"},
		{"gives an empty address", plex.Addresses("tcp", "a", ""), "the resolver's address 2 of 2 is empty"},
	} {
		t.Run(bad.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c := newCluster(l)
				_, err := plex.New(t.Context(), plex.WithConnector(c.connect), plex.WithMinConnections(1), plex.WithResolver(bad.ask, 0))
				require.ErrorContains(t, err, "plex: WithResolver: ")
				require.ErrorContains(t, err, bad.want)

				// A pool that keeps nothing open says so to those who ask.
				m := l.mux(plex.WithConnector(c.connect), plex.WithMaxCapacity(2), plex.WithResolver(bad.ask, 0))
				_, err = m.Writer(t.Context(), time.Minute)
				require.ErrorIs(t, err, plex.ErrTimeout)
				require.ErrorContains(t, err, bad.want)
				require.NoError(t, m.Close())
				time.Sleep(2 * time.Hour) // for the one that hangs
			})
		})
	}
}

// A pool that keeps nothing open connects when the addresses are known.
func TestACallerWaitsForTheAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newCluster(l, "a", "b")
		m := c.mux(plex.WithConnector(c.connect), plex.WithMaxCapacity(2), plex.WithResolver(func(ctx context.Context) ([]plex.Address, error) {
			time.Sleep(time.Second)
			return c.resolve(ctx)
		}, 0))
		_, err := m.Writer(t.Context(), -1) // it counts as demand
		require.Error(t, err)
		time.Sleep(time.Second + time.Millisecond)
		requireClosed(t, writerOf(t, m))
	})
}

func TestNewGetsByWithOneDeadAddress(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newCluster(l, "a", "b", "c")
		c.down["b"] = true
		m := c.pool(12)
		require.Equal(t, []int{6, 0, 6}, shares(m))
		before := m.Stats().Retired
		time.Sleep(10 * time.Minute)
		require.Equal(t, []int{6, 0, 6}, shares(m))
		require.Equal(t, before, m.Stats().Retired, "nothing is given up for an address that is dead")
		c.set(func() { c.down["b"] = false })
		time.Sleep(2 * time.Minute)
		require.Equal(t, []int{4, 4, 4}, shares(m))
	})
	bubble(t, func(t *testing.T, l *ledger) {
		c := newCluster(l, "a", "b", "c")
		c.down["a"], c.down["b"], c.down["c"] = true, true, true
		_, err := plex.New(t.Context(), plex.WithConnector(c.connect), plex.WithMinConnections(2), plex.WithResolver(c.resolve, 0))
		require.ErrorIs(t, err, errRefused)
	})
}

// With fewer connections than addresses a random subset is used, which is logged.
func TestFewerConnectionsThanAddresses(t *testing.T) {
	used := map[string]bool{}
	for range 20 {
		bubble(t, func(t *testing.T, l *ledger) {
			book := &logbook{}
			c := newCluster(l, "a", "b", "c", "d", "e")
			m := c.pool(2, book.option())
			for _, a := range m.Addresses() {
				require.LessOrEqual(t, a.Open, 1)
				if a.Open > 0 {
					used[a.Address.Address] = true
				}
			}
			found := book.with("plex: there are fewer connections than addresses, so only some of them are used, at random")
			require.Len(t, found, 1)
			require.EqualValues(t, 5, found[0].attrs["addresses"])
			time.Sleep(time.Hour)
			require.Zero(t, m.Stats().Retired, "nothing moves")
		})
	}
	assert.Len(t, used, 5)
}

func TestConnectionsThatWereGivenHaveNoAddressAndStay(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newCluster(l, "a", "b")
		given, _ := l.Pairs(2)
		m := c.pool(6, plex.WithConnections(given...))
		require.Equal(t, []int{2, 2}, shares(m))
		c.set(func() { c.listed = []string{"b"} })
		time.Sleep(time.Minute)
		require.Equal(t, []int{4}, shares(m))
		require.Equal(t, 6, m.Stats().Open)
		require.NoError(t, m.Renew(t.Context()))
		require.Equal(t, []int{6}, shares(m))
	})
}

func TestWithoutAResolverThereAreNoAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, _ := l.single()
		require.Nil(t, m.Addresses())
		_, ok := plex.Target(nil)
		require.False(t, ok)
		var dialled error
		refused := refused(t, l, func(ctx context.Context, conn net.Conn) error {
			_, ok := plex.Target(conn)
			require.False(t, ok)
			dialled = plex.DialResolved(&net.Dialer{})(ctx, conn)
			return dialled
		})
		require.ErrorIs(t, refused, dialled)
		require.ErrorContains(t, dialled, "give the service's with WithResolver")
		require.Nil(t, plex.DialResolved(nil))
	})
}

func TestResolverOptions(t *testing.T) {
	connect := plex.WithConnector(func(context.Context, net.Conn) error { return nil })
	for _, c := range []struct {
		want    string
		options []plex.Option
	}{
		{"WithResolver: there is no connector", []plex.Option{plex.WithResolver(plex.Addresses("tcp", "a"), 0)}},
		{"WithResolver: the resolver is nil", []plex.Option{connect, plex.WithResolver(nil, 0)}},
		{"WithResolver: the interval is -1s; it must be above zero, or zero for 30s", []plex.Option{connect, plex.WithResolver(plex.Addresses("tcp", "a"), -time.Second)}},
	} {
		_, err := plex.New(t.Context(), c.options...)
		require.ErrorContains(t, err, c.want)
	}
}
