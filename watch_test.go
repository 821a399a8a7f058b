package plex_test

// The watcher, and the healer behind it, on real sockets: what becomes of a connection whose peer ends it while nobody
// uses it. Nothing here asks for a lease before the outcome has been seen, unless the test is about that lease.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/internal/poll"
)

// retryAtOnce is for tests in which one young connection after the other is lost, which is no reason to hesitate there.
var retryAtOnce = plex.WithBackoff(func(int) time.Duration { return time.Millisecond })

// ---------------------------------------------------------------------------------------------------------------
// Nobody uses it

func TestIdleConnectionThatItsPeerEndsIsReplacedUnasked(t *testing.T) {
	eof := func(t *testing.T, cause error) { assert.ErrorIs(t, cause, io.EOF) }
	for _, end := range []struct {
		name  string
		end   func(*peer)
		cause func(t *testing.T, cause error)
		skip  string // the kind that cannot
	}{
		{name: "closed", end: (*peer).fin, cause: eof},
		{name: "half closed", end: (*peer).halfClose, cause: eof, skip: "tls"}, // says so within TLS, not to the socket
		{name: "closed beneath TLS", end: func(p *peer) { _ = p.raw.Close() }, cause: eof},
		{name: "reset", end: (*peer).reset, cause: func(t *testing.T, cause error) {
			assert.ErrorIs(t, cause, syscall.ECONNRESET)
		}},
	} {
		t.Run(end.name, func(t *testing.T) {
			forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
				if s.kind == end.skip {
					t.Skip("not seen by the watcher")
				}
				var log logbook
				m, p := s.mux(l, plex.WithLogger(log.logger()))
				if end.name == "reset" { // a Unix socket is reset by what it leaves unread
					w := leaseWriter(t, m)
					_, err := w.Write([]byte("unread"))
					require.NoError(t, err)
					requireClosed(t, w)
				}

				end.end(p)
				requireHealed(t, m, 1, 1)

				lost := log.named(t, "plex: connection lost", 1)[0]
				end.cause(t, lost.attrs["cause"].(error))
				assert.Equal(t, p.client.RemoteAddr().String(), lost.attrs["addr"])
				log.named(t, "plex: connection healed", 1)
				if end.name == "half closed" {
					assertEnd(t, p) // plex has closed its side too
				}
				eventually(t, func() bool {
					s := m.Stats()
					return [4]int{s.IdleReaders, s.IdleWriters, s.LeasedReaders, s.LeasedWriters} == [4]int{1, 1, 0, 0}
				}, "one of each half is idle")
				assert.Zero(t, m.Stats().Killed)
				requirePassing(t, m, s.next())
				assert.Equal(t, 2, s.dialed(), "one connection given, one replacement")
			})
		})
	}
}

// assertEnd checks that the peer comes to an end of what plex has sent.
func assertEnd(t *testing.T, p *peer) {
	t.Helper()
	assert.NoError(t, p.SetReadDeadline(time.Now().Add(patience)))
	n, err := p.Read(make([]byte, 1))
	assert.Zero(t, n)
	assert.ErrorIs(t, err, io.EOF)
}

func TestIdleConnectionThatItsPeerEndsIsDroppedWithoutAConnector(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		a, b := s.open(), s.open()
		m := l.mux(plex.WithConnections(a.client, b.client))

		a.fin()
		eventually(t, func() bool { return m.Stats().Open == 1 }, "the first connection is dropped")
		requirePassing(t, m, b)
		if poll.Parks && s.kind == "tls" { // whose goodbye, unread, would hide the end
			b.fin()
			eventually(t, func() bool { return m.Stats().Lost == 2 }, "the second is dropped, too")
			return
		}
		r := leaseReader(t, m)
		waiting := later(func() error {
			_, err := m.Reader(soon(t), 0)
			return err
		})
		eventually(t, func() bool { return m.Stats().Waiting == 1 }, "a caller waits")
		b.fin()
		require.ErrorIs(t, <-waiting, plex.ErrNoConnections, "the waiter is told")
		_, err := r.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		requireClosed(t, r)
		requireNoReader(t, m)
		requireLost(t, m, 2)
	})
}

// Those who wait are told so when the last connection is reset, too.
func TestWaitersAreToldThatTheLastConnectionHasBeenReset(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		p := s.open()
		m := l.mux(plex.WithConnections(p.client))
		w := leaseWriter(t, m)
		_, err := w.Write([]byte("unread"))
		require.NoError(t, err)
		waiting := later(func() error {
			_, err := m.Writer(soon(t), 0)
			return err
		})
		eventually(t, func() bool { return m.Stats().Waiting == 1 }, "a caller waits")
		p.reset()
		require.ErrorIs(t, <-waiting, plex.ErrNoConnections)
		require.ErrorIs(t, w.Err(), syscall.ECONNRESET)
		requireClosed(t, w)
		requireLost(t, m, 1)
	})
}

// A replacement is watched like what it replaces, again and again.
func TestReplacementsAreWatchedToo(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		const rounds = 20
		m, p := s.mux(l, retryAtOnce)
		for i := range rounds {
			if i%2 == 0 {
				p.fin()
			} else {
				p.reset()
			}
			requireHealed(t, m, 1, i+1)
			p = s.next()
		}
		requirePassing(t, m, p)
		assert.Equal(t, rounds+1, s.dialed())
	})
}

// What the healer connects for one connection does not depend on another.
func TestConnectionThatDiesDoesNotDisturbTheOthers(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m := l.mustOpen(4, s.connect())
		peers := []*peer{s.next(), s.next(), s.next(), s.next()}
		peers[1].fin()
		peers[2].reset()
		requireHealed(t, m, 4, 2)
		peers[1], peers[2] = s.next(), s.next()
		for _, p := range peers {
			r := readerOn(t, m, p)
			p.send(t, 0, 64)
			_, err := readOracle(r, p.number, 64)
			require.NoError(t, err)
			requireClosed(t, r)
		}
		assert.Equal(t, 6, s.dialed())
	})
}

// requireNoMoreThan checks that so many writers can be had at once.
func requireNoMoreThan(t *testing.T, m *plex.Multiplexer, n int) {
	t.Helper()
	var had []io.Closer
	defer func() { requireClosed(t, had...) }()
	for range n {
		had = append(had, leaseWriter(t, m))
	}
	requireNoWriter(t, m)
}

// ---------------------------------------------------------------------------------------------------------------
// Somebody uses it

func TestPeerHalfClosesAndALiveWriteLeaseFinishes(t *testing.T) {
	const total = 1 << 20
	for _, capacity := range []int{1, 2} {
		for _, left := range []int64{0, 10, plenty} { // what the peer leaves unread before its end
			t.Run(fmt.Sprintf("capacity %d, %d left", capacity, left), func(t *testing.T) {
				forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
					m, p := s.mux(l, plex.WithMaxCapacity(capacity))
					w := leaseWriter(t, m)
					require.NoError(t, writeOracle(w, 99, 0, 1000, 100))
					p.send(t, 0, left)
					p.halfClose()
					if s.kind == "tls" && !poll.Parks {
						// The end is told within TLS, so it takes a reader to notice.
						r := leaseReader(t, m)
						n, err := readOracle(r, p.number, -1)
						require.Equal(t, io.EOF, err)
						require.Equal(t, left, n)
						requireClosed(t, r)
					}
					eventually(t, func() bool { return m.Stats().Lost == 1 }, "the loss is seen")
					require.NoError(t, w.Err())
					require.False(t, isClosed(w.Done()))

					received := later(func() error {
						n, err := readOracle(p, 99, -1)
						if !errors.Is(err, io.EOF) || n != total {
							return fmt.Errorf("%d bytes of %d: %w", n, total, err)
						}
						return nil
					})
					require.NoError(t, writeOracle(w, 99, 1000, total-2000, 10_000))
					var next *peer
					if capacity == 1 {
						requireNoWriter(t, m)
						time.Sleep(20 * time.Millisecond) // for what must not happen
						require.Equal(t, 1, s.dialed(), "no replacement as long as the writer has the only slot")
						require.Equal(t, 1, m.Stats().Open)
					} else {
						next = s.next() // there is room for the replacement
						requireHealed(t, m, 2, 1)
						other := leaseWriter(t, m)
						require.Equal(t, next.client.LocalAddr(), other.LocalAddr(), "nobody else gets the old one's writer")
						requireNoWriter(t, m)
						requireClosed(t, other)
					}
					requirePending(t, received, "the peer's reading")
					require.NoError(t, writeOracle(w, 99, total-1000, 1000, 1000))
					requireClosed(t, w)

					require.NoError(t, <-received, "the peer has it all, and then our end")
					requireHealed(t, m, 1, 1)
					if left > 0 && (s.kind != "tls" || poll.Parks) {
						r := readerOn(t, m, p)
						n, err := readOracle(r, p.number, -1)
						require.Equal(t, io.EOF, err)
						require.Equal(t, left, n)
						requireClosed(t, r)
					}
					if next == nil {
						next = s.next()
					}
					requirePassing(t, m, next)
					assert.Equal(t, 2, s.dialed())
				})
			})
		}
	}
}

// The same with the reader in somebody's hands, too, who reads on while the replacement is there.
func TestPeerClosesWhileItsReaderIsLeased(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		skipUnseen(t, true)
		const size = 100_000
		m, p := s.mux(l)
		r := leaseReader(t, m)
		p.send(t, 0, size)
		got := make([]byte, 1000)
		_, err := io.ReadFull(r, got)
		require.NoError(t, err)
		require.NoError(t, checkOracle(got, p.number, 0))
		p.fin()
		requireHealed(t, m, 1, 1)
		requirePassing(t, m, s.next())

		rest := make([]byte, size-1000)
		_, err = io.ReadFull(r, rest)
		require.NoError(t, err)
		require.NoError(t, checkOracle(rest, p.number, 1000))
		_, err = r.Read(got)
		require.Equal(t, io.EOF, err)
		requireClosed(t, r)
		requireNoMoreThan(t, m, 1)
		assert.Equal(t, 1, m.Stats().IdleReaders)
	})
}

// What nobody has come to look at as it happened, because somebody had the reader, is looked at when the lease ends.
func TestLeaseThatEndsAfterThePeerLeavesNoReaderBehind(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		skipUnseen(t, s.kind == "tls")
		m, p := s.mux(l)
		r := leaseReader(t, m)
		p.fin()
		requireHealed(t, m, 1, 1)
		replacement := s.next()
		requireClosed(t, r) // it has not read, and so knows of no end
		eventually(t, func() bool {
			stats := m.Stats()
			return stats.IdleReaders == 1 && stats.LeasedReaders == 0
		}, "only the replacement's reader is left")
		r = leaseReader(t, m)
		require.Equal(t, replacement.client.LocalAddr(), r.LocalAddr())
		requireClosed(t, r)
	})
}

func TestReaderThatIsLeasedAtTheResetGetsWhatHadArrivedAndThenTheError(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l)
		r, w := leaseReader(t, m), leaseWriter(t, m)
		_, err := w.Write([]byte("unread"))
		require.NoError(t, err)
		p.send(t, 0, 50_000)
		p.reset()

		n, err := readOracle(r, p.number, -1)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.EqualValues(t, 50_000, n)
		require.ErrorIs(t, w.Err(), syscall.ECONNRESET, "the other half is told the same")
		_, err = w.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = r.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.True(t, isClosed(w.Done()))

		requireHealed(t, m, 1, 1) // though both halves are still leased
		requirePassing(t, m, s.next())
		requireClosed(t, r, w)
		requireNoMoreThan(t, m, 1)
	})
}

func TestLeasesThatDoNothingDoNotHoldUpTheReplacementOfWhatWasReset(t *testing.T) {
	l := newLedger(t)
	s := newHost(t, "tcp")
	m, p := s.mux(l)
	r, w := leaseReader(t, m), leaseWriter(t, m)
	p.reset()
	requireHealed(t, m, 1, 1)
	requirePassing(t, m, s.next())
	require.ErrorIs(t, r.Err(), syscall.ECONNRESET)
	require.ErrorIs(t, w.Err(), syscall.ECONNRESET)
	requireClosed(t, r, w)
}

// ---------------------------------------------------------------------------------------------------------------
// Wrapped by the user

// revealing is a wrapper that tells what it wraps, as tls.Conn does.
type revealing struct{ counted }

func (r *revealing) NetConn() net.Conn { return r.Conn }

// circular says that it wraps itself.
type circular struct{ counted }

func (c *circular) NetConn() net.Conn { return c }

func TestWrappedConnectionThatTellsWhatItWrapsIsWatched(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		s.wrap = func(nc net.Conn) net.Conn {
			c := &revealing{}
			c.Conn = nc
			l.Watch(c)
			return c
		}
		m, p := s.mux(l, retryAtOnce)
		p.fin()
		requireHealed(t, m, 1, 1)
		s.next().reset()
		requireHealed(t, m, 1, 2)
		requirePassing(t, m, s.next())
	})
}

func TestWrappedConnectionThatHidesItsSocketIsHealedOnUse(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) fakenet.CloseCounter{
		"hidden":   func(nc net.Conn) fakenet.CloseCounter { return &counted{Conn: nc} },
		"circular": func(nc net.Conn) fakenet.CloseCounter { c := &circular{}; c.Conn = nc; return c },
	} {
		t.Run(name, func(t *testing.T) {
			forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
				s.wrap = func(nc net.Conn) net.Conn {
					c := wrap(nc)
					l.Watch(c)
					return c
				}
				m, p := s.mux(l, retryAtOnce)
				requirePassing(t, m, p)

				p.send(t, 0, 10) // read by nobody before the end
				p.fin()
				r := leaseReader(t, m)
				n, err := readOracle(r, p.number, -1)
				require.Equal(t, io.EOF, err)
				require.EqualValues(t, 10, n)
				requireClosed(t, r)
				requireHealed(t, m, 1, 1)
				p = s.next()
				requirePassing(t, m, p)

				p.reset()
				w := leaseWriter(t, m)
				_, err = w.Write([]byte("x"))
				if err == nil { // a TLS connection may take one more
					_, err = w.Write([]byte("x"))
				}
				require.Error(t, err)
				requireClosed(t, w)
				requireHealed(t, m, 1, 2)
				requirePassing(t, m, s.next())
			})
		})
	}
}

// ---------------------------------------------------------------------------------------------------------------
// Many

func TestFourThousandIdleConnectionsAreReplacedTogether(t *testing.T) {
	const n = 4000
	l := newLedger(t)
	s := newHost(t, "tcp")
	before := runtime.NumGoroutine()
	m := l.mustOpen(n, s.connect())
	eventually(t, func() bool { return runtime.NumGoroutine() <= before+3+byPoller(0, n) },
		"of %d goroutines more than there were, all but a few end", runtime.NumGoroutine()-before)

	started := time.Now()
	for i := range n {
		if i%2 == 0 {
			s.at(i).fin()
		} else {
			s.at(i).reset()
		}
	}
	requireHealedWithin(t, 5*time.Minute, m, n, n) // seconds, but a minute under the race detector on a busy machine
	t.Logf("%d connections replaced in %v", n, time.Since(started))
	assert.Equal(t, 2*n, s.dialed())
	eventually(t, func() bool { return runtime.NumGoroutine() <= before+3+byPoller(0, n) }, "no goroutine is left of it")

	for _, p := range []*peer{s.at(n), s.at(n + n/2), s.at(2*n - 1)} {
		r := readerOn(t, m, p)
		p.send(t, 0, 8)
		_, err := readOracle(r, p.number, 8)
		require.NoError(t, err)
		requireClosed(t, r)
	}
	require.NoError(t, m.Close())
	eventually(t, func() bool { return runtime.NumGoroutine() <= before }, "no goroutine is left at all")
}

// A dead service is probed, by one connect at a time, and is whole again soon after it is back. Default settings.
func TestDeadServiceIsProbedAndItsReturnIsNoticedSoon(t *testing.T) {
	const n, dead = 32, 3 * time.Second
	l := newLedger(t)
	s := newHost(t, "tcp")
	m := l.mustOpen(n, s.connect())
	s.stop()
	started := time.Now()
	s.drop((*peer).fin)
	eventually(t, func() bool {
		s := m.Stats()
		return s.Lost == n && s.IdleWriters == 0 // which follows a moment later
	}, "all are lost")

	// Each waiter keeps what it gets until all have been served, so the last one gets the last connection.
	var served, waiters sync.WaitGroup
	served.Add(n)
	for range n {
		waiters.Go(func() {
			w, err := m.Writer(soon(t), 0)
			served.Done()
			if assert.NoError(t, err) {
				served.Wait()
				assert.NoError(t, w.Close())
			}
		})
	}
	eventually(t, func() bool { return m.Stats().Waiting == n }, "all wait")
	time.Sleep(dead - time.Since(started))
	eventually(t, func() bool { return s.dialed()-n >= 4 }, "it goes on trying")
	connects := s.dialed() - n
	t.Logf("%d connects in %v", connects, dead)
	assert.LessOrEqual(t, connects, 36, "a few dozen connects")
	stats := m.Stats()
	assert.LessOrEqual(t, stats.Connecting, 1)
	assert.Zero(t, stats.Open)
	assert.ErrorIs(t, stats.LastConnectError, syscall.ECONNREFUSED)

	s.start()
	back := time.Now()
	finish(t, "serving the waiters", waiters.Wait)
	t.Logf("all %d waiters were served %v after the restart", n, time.Since(back))
	requireHealed(t, m, n, n)
	assert.LessOrEqual(t, s.dialed()-n-connects, n+1, "no connect too many")
}

// It takes more than a greeting to be a service that works: one that is over its limit says so and hangs up.
func TestServiceThatGreetsAndHangsUpIsBackedOffFrom(t *testing.T) {
	for name, connect := range map[string]func(s *host) plex.Connect{
		"greeting read by the connector": func(s *host) plex.Connect {
			return func(ctx context.Context, handle net.Conn) error {
				nc, err := s.dial(ctx)
				if err == nil {
					err = plex.Attach(handle, nc)
				}
				if err == nil {
					_, err = io.ReadFull(handle, make([]byte, 8))
				}
				return err
			}
		},
		"greeting read by nobody": (*host).connect,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			s := newHost(t, "tcp")
			s.prep = func(p *peer) {
				p.send(t, 0, 8)
				p.fin()
			}
			l.mustOpen(1, connect(s))
			time.Sleep(600 * time.Millisecond)
			t.Logf("%d connects", s.dialed())
			assert.LessOrEqual(t, s.dialed(), 20)
			assert.GreaterOrEqual(t, s.dialed(), 3)
		})
	}
}

// Restart after restart, with readers that wait for data and a writer that is at work.
func TestServerThatRestartsUnderLeasesIsConnectedAgain(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		const n, rounds = 6, 4
		m := l.mustOpen(n, s.connect(), plex.WithBackoff(func(int) time.Duration { return 5 * time.Millisecond }))
		for round := range rounds {
			first := s.made() - n
			var consumers sync.WaitGroup
			for range n / 2 {
				r, w := leaseReader(t, m), leaseWriter(t, m)
				consumers.Go(func() {
					_, err := r.Read(make([]byte, 1))
					assert.Error(t, err)
					assert.NoError(t, r.Close())
				})
				consumers.Go(func() {
					var err error
					for err == nil {
						_, err = w.Write(make([]byte, 1000))
					}
					assert.NotErrorIs(t, err, plex.ErrLeaseClosed)
					assert.NoError(t, w.Close())
				})
			}
			s.stop()
			for i := range n {
				if p := s.at(first + i); i%2 == 0 {
					p.fin()
				} else {
					p.reset()
				}
			}
			finish(t, "the leases' end", consumers.Wait)
			eventually(t, func() bool { return m.Stats().Open == 0 }, "all connections are lost")
			s.start()
			requireHealed(t, m, n, (round+1)*n)

			// All are new, and all work.
			var leases []io.Closer
			for range n {
				r := leaseReader(t, m)
				leases = append(leases, r)
				p := s.peerOf(r.LocalAddr())
				require.GreaterOrEqual(t, p.number, first+n)
				p.send(t, 0, 100)
				_, err := readOracle(r, p.number, 100)
				require.NoError(t, err)
			}
			requireClosed(t, leases...)
		}
	})
}

// peerOf returns the latest peer of a local address.
func (s *host) peerOf(local net.Addr) *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.peers) - 1; ; i-- {
		if s.peers[i].client.LocalAddr().String() == local.String() {
			return s.peers[i]
		}
	}
}

// ---------------------------------------------------------------------------------------------------------------
// All at once

// known is a connection with a name of its own, since the system soon gives a port to another.
type known struct {
	revealing
	addr fakenet.Addr
}

func (k *known) LocalAddr() net.Addr { return k.addr }

// CloseWrite passes through the wrapper, as an embedded interface does not.
func (k *known) CloseWrite() error { return k.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// Peers close, reset, and half close, consumers read, write and kill, and in the midst of it the multiplexer is closed.
// What the leases of a connection got is the beginning of what its peer has sent, and the balance is even.
func TestEndsOfAllKindsAtOnceLoseNothingAndLeaveNothing(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		const rounds, n, consumers, peers = 4, 6, 4, 2
		const round = 150 * time.Millisecond
		var (
			links sync.Map // of *link, by the name of the client's end
			dying = make(chan *peer, 1<<16)
		)
		s.wrap = func(nc net.Conn) net.Conn {
			number := len(s.peers)
			c := &known{addr: fakenet.Addr(fmt.Sprint("known-", number))}
			c.Conn = nc
			l.Watch(c)
			links.Store(c.addr, &link{client: c, down: number})
			dying <- s.peers[number-1] // dial holds mu
			return c
		}
		var lost atomic.Uint64
		for range rounds {
			m := l.mustOpen(n, s.connect(), retryAtOnce)
			// The peers' goroutines end by stop, the consumers' by the multiplexer's end.
			stop := make(chan struct{})
			var ending, consuming sync.WaitGroup
			for range peers {
				ending.Go(func() {
					for {
						select {
						case <-stop:
							return
						case p := <-dying:
							torment(p)
						}
					}
				})
			}
			for range consumers {
				consuming.Go(func() {
					for consumeSome(t, m, &links) {
					}
				})
				consuming.Go(func() {
					for produceSome(t, m) {
					}
				})
			}
			time.Sleep(round)
			finish(t, "Close", func() { assert.NoError(t, m.Close()) })
			finish(t, "the consumers' end", consuming.Wait)
			close(stop)
			ending.Wait()
			lost.Add(m.Stats().Lost)
			stats := m.Stats()
			assert.Zero(t, stats.Open+stats.LeasedReaders+stats.LeasedWriters+stats.IdleReaders+stats.IdleWriters, "%+v", stats)
		}
		var received int64
		links.Range(func(_, v any) bool {
			got, err := v.(*link).checkReceived()
			assert.NoError(t, err)
			received += got
			return true
		})
		t.Logf("%d connections lost, %d bytes received over %d", lost.Load(), received, s.made())
		assert.Greater(t, lost.Load(), uint64(rounds*n), "there was something to survive")
		assert.Positive(t, received)
	})
}

// torment ends p somehow, after it has sent something. It never blocks for long.
func torment(p *peer) {
	_ = p.SetDeadline(time.Now().Add(20 * time.Millisecond))
	_ = writeOracle(p, p.number+1, 0, rand.Int64N(20_000), 4000)
	switch rand.IntN(4) {
	case 0:
		p.fin()
	case 1:
		p.reset()
	case 2:
		p.halfClose()
		_, _ = io.CopyN(io.Discard, p, rand.Int64N(2000))
		p.fin()
	case 3:
		_ = p.raw.Close()
	}
}

// consumeSome reads in one lease; false when the multiplexer is closed.
func consumeSome(t *testing.T, m *plex.Multiplexer, links *sync.Map) bool {
	r, err := m.Reader(context.Background(), 0)
	if err != nil {
		return !assert.ErrorIs(t, err, plex.ErrClosed)
	}
	v, _ := links.Load(r.LocalAddr())
	l := v.(*link)
	lease := l.begin()
	_ = r.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(2000)) * time.Microsecond)) // fails if it is dead
	buf := make([]byte, 1+rand.IntN(8000))
	for range rand.IntN(4) {
		n, err := r.Read(buf)
		l.deliver(lease, buf[:n])
		if err != nil {
			break
		}
	}
	if rand.IntN(10) == 0 {
		_ = r.Kill()
	} else {
		_ = r.Close()
	}
	return true
}

// produceSome writes in one lease; false when the multiplexer is closed.
func produceSome(t *testing.T, m *plex.Multiplexer) bool {
	w, err := m.Writer(context.Background(), 0)
	if err != nil {
		return !assert.ErrorIs(t, err, plex.ErrClosed)
	}
	_ = w.SetWriteDeadline(time.Now().Add(time.Duration(rand.IntN(2000)) * time.Microsecond)) // fails if it is dead
	_, err = w.Write(make([]byte, rand.IntN(3000)))
	if err != nil && rand.IntN(2) == 0 || rand.IntN(10) == 0 {
		_ = w.Kill()
	} else {
		_ = w.Close()
	}
	return true
}
