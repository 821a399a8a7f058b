package plex_test

// The two ways of asking for read halves: the first call decides, and finds what there was before.

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// way is one of the two ways of asking for read halves.
type way struct {
	call    string
	acquire func(*plex.Multiplexer, context.Context, time.Duration) (plex.Reader, error)
}

var (
	plainWay = way{"Reader", (*plex.Multiplexer).Reader}
	readyWay = way{"ReadyReader", (*plex.Multiplexer).ReadyReader}
)

// lease leases a read half that must be there soon.
func (w way) lease(t testing.TB, m *plex.Multiplexer) plex.Reader {
	t.Helper()
	r, err := w.acquire(m, t.Context(), patience)
	require.NoError(t, err)
	return r
}

// leaseOn leases the read half of the connection with this local address. Beside it there is its replacement at most.
func (w way) leaseOn(t testing.TB, m *plex.Multiplexer, local net.Addr) plex.Reader {
	t.Helper()
	r := w.lease(t, m)
	if r.LocalAddr().String() != local.String() {
		defer requireClosed(t, r)
		r = w.lease(t, m)
	}
	require.Equal(t, local.String(), r.LocalAddr().String())
	return r
}

// requireRefused checks that read halves cannot be asked for in this way, as they have been in the other.
func (w way) requireRefused(t *testing.T, m *plex.Multiplexer, first way) {
	t.Helper()
	before := m.Stats()
	for _, timeout := range []time.Duration{-1, 0, time.Hour} {
		began := time.Now()
		r, err := w.acquire(m, t.Context(), timeout)
		require.ErrorIs(t, err, plex.ErrReaderMode)
		require.Equal(t, plex.Reader{}, r)
		if fakenet.InBubble() {
			require.Zero(t, time.Since(began), "nobody waits for what cannot be")
		}
		var failed *plex.AcquireError
		require.False(t, errors.As(err, &failed), "the pool's figures have nothing to do with it, and another try will not help")
		for _, other := range []error{plex.ErrTimeout, plex.ErrClosed, plex.ErrNoConnections} {
			require.NotErrorIs(t, err, other)
		}
		require.Contains(t, err.Error(), first.call+" was called first")
		require.Contains(t, err.Error(), "so "+w.call+" cannot")
		require.Contains(t, err.Error(), "use one multiplexer for each way")
	}
	after := m.Stats()
	require.Equal(t, []uint64{before.Waited, before.TimedOut, before.Canceled}, []uint64{after.Waited, after.TimedOut, after.Canceled})
}

// forEachWay runs test with each of the two ways as the first, the other being the second.
func forEachWay(t *testing.T, test func(t *testing.T, first, second way)) {
	t.Run("Reader first", func(t *testing.T) { test(t, plainWay, readyWay) })
	t.Run("ReadyReader first", func(t *testing.T) { test(t, readyWay, plainWay) })
}

func TestTheFirstCallDecidesHowReadHalvesAreAskedFor(t *testing.T) {
	forEachWay(t, func(t *testing.T, first, second way) {
		for name, served := range map[string]bool{"it gets a lease": true, "it gets none": false} {
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T, l *ledger) {
					conns, peers := l.Pairs(2)
					m := l.mux(plex.WithConnections(conns...))
					requireClosed(t, writerOf(t, m)) // decides nothing
					_, err := second.acquire(m, nilContext, 0)
					require.ErrorContains(t, err, "nil context", "which decides nothing either")
					require.Equal(t, 2, m.Stats().IdleReaders)

					if served {
						for _, p := range peers {
							p.Send("a word")
						}
						requireClosed(t, first.lease(t, m))
					} else {
						for range conns {
							requireClosed(t, writerOf(t, m))
						}
						ctx, cancel := context.WithCancel(t.Context())
						cancel()
						_, err = first.acquire(m, ctx, 0)
						require.ErrorIs(t, err, context.Canceled)
						for _, p := range peers {
							p.Send("a word")
						}
					}
					for range 3 { // for good
						second.requireRefused(t, m, first)
						r := first.lease(t, m)
						second.requireRefused(t, m, first)
						other := first.lease(t, m)
						require.NotEqual(t, r.Conn(), other.Conn())
						requireClosed(t, r, other, writerOf(t, m))
					}
					for range conns {
						r := first.lease(t, m)
						require.Equal(t, "a word", readN(t, r, 6))
						w := writerOf(t, m)
						_, err = w.Write([]byte("x"))
						require.NoError(t, err)
						requireClosed(t, r, w)
					}
				})
			})
		}
	})
}

// Connections come, with something to deliver, while the first calls of both kinds are made.
func TestOfFirstCallsOfBothKindsAtOnceExactlyOneWayWins(t *testing.T) {
	const conns, callers = 6, 4
	won := map[string]int{}
	for range 100 {
		bubble(t, func(t *testing.T, l *ledger) {
			given, peers := l.Pairs(conns)
			for _, p := range peers {
				p.Send("word")
			}
			m := l.mux(plex.WithConnections(given[:2]...), plex.WithMaxCapacity(conns))
			var wg sync.WaitGroup
			begin := make(chan struct{})
			var mu sync.Mutex
			outcomes := map[string][]error{}
			for i := range 2 * callers {
				w := []way{plainWay, readyWay}[i%2]
				wg.Go(func() {
					<-begin
					r, err := w.acquire(m, t.Context(), -1)
					if err == nil {
						err = r.Close()
					}
					mu.Lock()
					defer mu.Unlock()
					outcomes[w.call] = append(outcomes[w.call], err)
				})
			}
			wg.Go(func() {
				<-begin
				for _, conn := range given[2:] {
					_, err := m.Add(t.Context(), conn)
					if err != nil {
						t.Error(err)
					}
				}
			})
			close(begin)
			wg.Wait()

			refused := func(w way) (n int) {
				for _, err := range outcomes[w.call] {
					switch {
					case errors.Is(err, plex.ErrReaderMode):
						n++
					case err != nil:
						require.ErrorIs(t, err, plex.ErrTimeout)
					}
				}
				return n
			}
			winner, loser := plainWay, readyWay
			if refused(plainWay) > 0 {
				winner, loser = loser, winner
			}
			require.Equal(t, []int{0, callers}, []int{refused(winner), refused(loser)})
			won[winner.call]++

			loser.requireRefused(t, m, winner)
			var leases []plex.Reader
			for range conns { // none is overlooked
				r := winner.lease(t, m)
				require.Equal(t, "word", readN(t, r, 4))
				leases = append(leases, r)
			}
			for _, r := range leases {
				requireClosed(t, r)
			}
		})
	}
	t.Log("won:", won)
}

// The same as close together as can be, which takes many tries.
func TestTwoFirstCallsOfDifferentKindsAreNeverBothServed(t *testing.T) {
	l := newLedger(t)
	won := map[string]int{}
	for range 3000 {
		conn, peer := l.Pair()
		peer.Send("word")
		m, err := plex.New(t.Context(), plex.WithConnections(conn))
		require.NoError(t, err)
		var ready atomic.Int32
		first := func(w way) <-chan error {
			return later(func() error {
				for ready.Add(1); ready.Load() < 2; { // a channel would let one go first
				}
				r, err := w.acquire(m, t.Context(), -1)
				if err == nil {
					err = r.Close()
				}
				return err
			})
		}
		a, b := first(plainWay), first(readyWay)
		refused := map[string]bool{plainWay.call: errors.Is(<-a, plex.ErrReaderMode), readyWay.call: errors.Is(<-b, plex.ErrReaderMode)}
		require.NotEqual(t, refused[plainWay.call], refused[readyWay.call], "exactly one is refused")
		for call, lost := range refused {
			if !lost {
				won[call]++
			}
		}
		require.NoError(t, m.Close())
	}
	t.Log("won:", won)
}

// What came before anyone had asked is for the first who does, in whichever way.
func TestTheFirstCallerFindsWhatCameBefore(t *testing.T) {
	for name, before := range map[string]struct {
		words string
		end   func(*peer)
	}{
		"bytes":                  {words: "early words"},
		"bytes and a close":      {"last words", (*peer).fin},
		"bytes and a half close": {"last words", (*peer).halfClose},
	} {
		t.Run(name, func(t *testing.T) {
			forEachWay(t, func(t *testing.T, first, _ way) {
				forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
					m, p := s.mux(l, plex.WithMaxCapacity(2))
					_, err := p.Write([]byte(before.words))
					require.NoError(t, err)
					if before.end != nil {
						before.end(p)
						// Plex sees the end and reads what was before it, except where that is in a TLS record.
						within(100*time.Millisecond, func() bool { return m.Stats().Healed == 1 })
					}
					r := first.leaseOn(t, m, p.client.LocalAddr())
					require.Equal(t, before.words[:4], readN(t, r, 4))
					requireClosed(t, r)
					r = first.leaseOn(t, m, p.client.LocalAddr())
					require.Equal(t, before.words[4:], readN(t, r, len(before.words)-4))
					if before.end != nil {
						_, err = r.Read(make([]byte, 1))
						require.Equal(t, io.EOF, err)
					}
					requireClosed(t, r)
				})
			})
		})
	}
}

// end is a way in which a peer's connection ends with nothing left to be read, and what a Read then says.
type end struct {
	do    func(*peer)
	cause error
}

var ends = map[string]end{
	"a close":      {(*peer).fin, io.EOF},
	"a half close": {(*peer).halfClose, io.EOF},
	"a reset":      {(*peer).reset, syscall.ECONNRESET},
}

// endBefore is a multiplexer whose only connection has ended before anyone has asked for it, as plex has seen if it can.
func endBefore(t *testing.T, l *ledger, s *host, end end) *plex.Multiplexer {
	t.Helper()
	p := s.open()
	m := l.mux(plex.WithConnections(p.client))
	_, err := p.client.Write([]byte("unread")) // which is how a Unix socket is reset
	require.NoError(t, err)
	if end.cause == io.EOF {
		_, err = io.ReadFull(p, make([]byte, 6))
		require.NoError(t, err)
	}
	end.do(p)
	within(100*time.Millisecond, func() bool { return m.Stats().Lost == 1 }) // but for a TLS record
	return m
}

// A plain reader is spared what can only disappoint, as far as plex knows.
func TestAnEndThatCameBeforeAnyoneAskedIsNoReader(t *testing.T) {
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
				m := endBefore(t, l, s, end)
				if m.Stats().Lost == 0 {
					r := leaseReader(t, m)
					_, err := r.Read(make([]byte, 1))
					require.ErrorIs(t, err, end.cause)
					requireClosed(t, r)
				}
				_, err := m.Reader(t.Context(), patience)
				require.ErrorIs(t, err, plex.ErrNoConnections)
			})
		})
	}
}

// The same for connections that nobody watches: their end is found by whoever reads.
func TestTheFirstCallerFindsTheEndOfAConnectionThatIsNotWatched(t *testing.T) {
	forEachWay(t, func(t *testing.T, first, _ way) {
		for _, words := range []string{"", "last words"} {
			bubble(t, func(t *testing.T, l *ledger) {
				m, _, p := l.single()
				if words != "" {
					p.Send(words)
				}
				require.NoError(t, p.Close())
				time.Sleep(time.Minute)
				r := first.lease(t, m)
				require.Equal(t, words, readN(t, r, len(words)))
				_, err := r.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)
				requireClosed(t, r)
				_, err = first.acquire(m, t.Context(), patience)
				require.ErrorIs(t, err, plex.ErrNoConnections)
			})
		}
	})
}

// What a handshake has not read is inside the transport, of which the kernel says nothing.
func TestTheFirstCallerFindsWhatTheHandshakeHasLeftOver(t *testing.T) {
	forEachWay(t, func(t *testing.T, first, _ way) {
		forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
			m := l.mux(plex.WithMinConnections(1), plex.WithConnector(func(ctx context.Context, conn net.Conn) error {
				if err := s.connect()(ctx, conn); err != nil {
					return err
				}
				if _, err := s.next().Write([]byte("welcome")); err != nil {
					return err
				}
				_, err := io.ReadFull(conn, make([]byte, 3))
				return err
			}))
			r := first.lease(t, m)
			require.Equal(t, "co", readN(t, r, 2))
			requireClosed(t, r)
			r = first.lease(t, m)
			require.Equal(t, "me", readN(t, r, 2))
			requireClosed(t, r)
		})
	})
}

// Connections whose read halves nobody has ever asked for are retired like all others.
func TestAPoolThatNobodyReadsFromIsScaledDownAndRenewed(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conns, _ := l.Pairs(3)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(s.connect), plex.WithMinConnections(1),
			plex.WithIdleTimeout(10*time.Second), plex.WithMaxLifetime(10*time.Minute))
		for range 100 {
			requireClosed(t, writerOf(t, m))
			time.Sleep(time.Second)
		}
		st := settled(m)
		require.Equal(t, []int{1, 2, 0}, []int{st.Open, int(st.ScaledDown), int(st.Expired)})
		time.Sleep(time.Hour)
		st = settled(m)
		require.Equal(t, []int{1, 2, 0}, []int{st.Open, int(st.ScaledDown), int(st.Lost)})
		require.GreaterOrEqual(t, st.Expired, uint64(5))

		// Whoever asks now gets the one that is left.
		peers := s.connected(0)
		peers[len(peers)-1].Send("x")
		synctest.Wait()
		requireReady(t, m, peers[len(peers)-1].Conn().LocalAddr(), "x")
	})
}

// While the first call decides how read halves are asked for, the others wait until all idle ones are listed.
func TestFirstCallersThatDoNotWaitFindAllThatIsIdle(t *testing.T) {
	const callers = 16
	for range 300 {
		l := newLedger(t)
		conns, _ := l.Pairs(callers)
		m := l.mux(plex.WithConnections(conns...))
		begin := make(chan struct{})
		readers := make([]plex.Reader, callers)
		var wg sync.WaitGroup
		for i := range readers {
			wg.Go(func() {
				<-begin
				r, err := m.Reader(t.Context(), -1)
				assert.NoError(t, err)
				readers[i] = r
			})
		}
		close(begin)
		wg.Wait()
		for _, r := range readers {
			_ = r.Close()
		}
	}
}
