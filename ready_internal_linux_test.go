package plex

// What can come in between when a read half becomes idle, on real sockets.

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// theConn is the one that m has.
func theConn(m *Multiplexer) *conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		return c
	}
	return nil
}

// attending is a multiplexer of one connection that somebody has asked for ready readers, and the peer.
func attending(t *testing.T, kind string, opts ...Option) (*Multiplexer, *sweptPeer) {
	t.Helper()
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)
	t.Cleanup(func() {
		soon(t, func() bool { return runtime.NumGoroutine() <= goroutines && openDescriptors(t) <= descriptors },
			"the goroutines and descriptors of before")
	})
	s := &swept{T: t}
	m, err := New(t.Context(), append(opts, WithConnections(s.open(kind)))...)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, m.Close())
		for _, p := range s.peers {
			_ = p.raw.Close()
		}
	})
	_, err = m.ReadyReader(t.Context(), -1)
	require.ErrorIs(t, err, ErrTimeout)
	return m, s.peers[0]
}

// requireWord has the peer send a word, and a ready reader read it.
func requireWord(t *testing.T, m *Multiplexer, p *sweptPeer) {
	t.Helper()
	_, err := p.Write([]byte("word"))
	require.NoError(t, err)
	requireWordRead(t, m)
}

// requireWordRead has a ready reader read a word.
func requireWordRead(t *testing.T, m *Multiplexer) {
	t.Helper()
	r, err := m.ReadyReader(t.Context(), sweepPatience)
	require.NoError(t, err)
	b := make([]byte, 4)
	require.NoError(t, r.SetReadDeadline(time.Now().Add(sweepPatience)))
	_, err = r.Read(b)
	require.NoError(t, err)
	require.Equal(t, "word", string(b))
	require.NoError(t, r.Close())
}

// The end of a lease makes the half idle, and then arms the watcher. In between another lease can have begun and ended.
func TestTheEndOfALeaseThatIsOvertakenByALaterOneLeavesNothingUnnoticed(t *testing.T) {
	m, p := attending(t, "tcp")
	var first uint64
	for range 3 {
		r, err := m.Reader(t.Context(), 0)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		if first == 0 {
			first = r.id
		}
	}
	theConn(m).r.attend(first, true)
	requireWord(t, m, p)
}

// A caller that does not wait looks under the multiplexer's lock, which a plain reader may need before it can take what
// it was given.
func TestAReadyReaderThatDoesNotWaitDoesNotWaitForAPlainOneEither(t *testing.T) {
	m, p := attending(t, "tcp")
	_, err := p.Write([]byte("word"))
	require.NoError(t, err)
	soon(t, func() bool { return len(m.ready.idle) == 1 }, "something is ready")
	m.readers.waiting.Add(1)
	defer m.readers.waiting.Add(-1)
	taken := make(chan struct{})
	go func() {
		defer close(taken)
		m.mu.Lock()
		h, lease, _ := m.ready.take(true)
		m.mu.Unlock()
		_ = h.close(lease)
	}()
	select {
	case <-taken:
	case <-time.After(sweepPatience):
		m.readers.waiting.Add(-1) // has it end
		<-taken
		m.readers.waiting.Add(1)
		require.FailNow(t, "it waits under the lock")
	}
}

// fileBacked is a connection that shows a descriptor of which epoll wants to know nothing.
type fileBacked struct {
	net.Conn
	file *os.File
}

func (c *fileBacked) SyscallConn() (syscall.RawConn, error) { return c.file.SyscallConn() }

func TestWhatTheKernelDoesNotWatchIsLookedAt(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "regular"))
	require.NoError(t, err)
	defer file.Close() //nolint:errcheck // there is nothing in it
	s := &swept{T: t}
	client := s.open("tcp")
	defer s.peers[0].raw.Close() //nolint:errcheck // it is only the peer
	m, err := New(t.Context(), WithConnections(&fileBacked{client, file}))
	require.NoError(t, err)
	defer m.Close()
	for range 3 {
		_, err = m.ReadyReader(t.Context(), 30*time.Millisecond)
		require.ErrorIs(t, err, ErrTimeout, "there is nothing yet")
		requireWord(t, m, s.peers[0])
	}
}

// deaf is a connection that takes no notice of deadlines.
type deaf struct{ *net.TCPConn }

func (deaf) SetReadDeadline(time.Time) error { return nil }
func (deaf) SetDeadline(time.Time) error     { return nil }

// The end of a lease looks at what is inside the transport. Where that does not come to an end, the connection's end is
// the only way.
func TestALeaseEndsAlsoIfTheTransportTakesNoNotice(t *testing.T) {
	s := &swept{T: t}
	client := s.open("tcp")
	defer s.peers[0].raw.Close() //nolint:errcheck // it is only the peer
	m, err := New(t.Context(), WithConnections(deaf{client.(*net.TCPConn)}))
	require.NoError(t, err)
	defer m.Close()
	_, err = s.peers[0].Write([]byte("word"))
	require.NoError(t, err)
	r, err := m.ReadyReader(t.Context(), sweepPatience)
	require.NoError(t, err)
	b := make([]byte, 4)
	_, err = r.Read(b)
	require.NoError(t, err)
	require.Equal(t, "word", string(b))
	closed := make(chan error, 1)
	go func() { closed <- r.Close() }()
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(sweepPatience):
		_ = s.peers[0].raw.Close()
		require.FailNow(t, "the lease does not end")
	}
	require.EqualValues(t, 1, m.Stats().Lost)
}

// A lease has left something inside crypto/tls before anyone asked for ready readers, and plex holds the half, for
// another reason, when that is to be looked for.
func TestWhatIsInsideIsNoticedWhenAHoldEndsThatHasNotLooked(t *testing.T) {
	s := &swept{T: t}
	client := s.open("tls")
	defer s.peers[0].raw.Close() //nolint:errcheck // it is only the peer
	m, err := New(t.Context(), WithConnections(client))
	require.NoError(t, err)
	defer m.Close()
	c := theConn(m)
	_, err = s.peers[0].Write([]byte("a word"))
	require.NoError(t, err)
	r, err := m.Reader(t.Context(), 0)
	require.NoError(t, err)
	_, err = r.Read(make([]byte, 2))
	require.NoError(t, err)
	require.NoError(t, r.Close())

	require.True(t, c.r.hold())
	_, err = m.ReadyReader(t.Context(), -1)
	require.ErrorIs(t, err, ErrTimeout)
	c.r.letGo(false)
	requireWordRead(t, m)
}

// withoutDescriptors runs f while no descriptor can be had.
func withoutDescriptors(t *testing.T, f func()) {
	t.Helper()
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	none := limit
	none.Cur = 3
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
	defer func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)) }()
	f()
}

func TestWithoutADescriptorForTheWatcherReadyReaderSaysSo(t *testing.T) {
	s := &swept{T: t}
	client := s.open("tcp")
	defer s.peers[0].raw.Close() //nolint:errcheck // it is only the peer
	m, err := New(t.Context(), WithConnections(client))
	require.NoError(t, err)
	defer m.Close()
	withoutDescriptors(t, func() {
		_, err := m.ReadyReader(t.Context(), 0)
		require.ErrorIs(t, err, syscall.EMFILE)
		var failed *AcquireError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, "ready reader", failed.Half)
		require.Equal(t, 1, failed.Open)
	})
	requireWord(t, m, s.peers[0])
}

// The pool has had no socket to watch when attention began.
func TestAConnectionForWhichThereIsNoWatcherIsLookedAt(t *testing.T) {
	s := &swept{T: t}
	client := s.open("tcp")
	defer s.peers[0].raw.Close() //nolint:errcheck // it is only the peer
	pipe, other := net.Pipe()
	defer other.Close() //nolint:errcheck // likewise
	m, err := New(t.Context(), WithConnections(pipe), WithMaxCapacity(2))
	require.NoError(t, err)
	defer m.Close()
	_, err = m.ReadyReader(t.Context(), -1)
	require.ErrorIs(t, err, ErrTimeout)
	descriptors := openDescriptors(t)
	withoutDescriptors(t, func() {
		_, err := m.Add(t.Context(), client)
		require.NoError(t, err)
	})
	requireWord(t, m, s.peers[0])
	require.LessOrEqual(t, openDescriptors(t), descriptors)
}

// Whatever plex does with idle halves, and plain readers that take them and read nothing: each word is delivered, and
// the next is sent when it has been. So one that is overlooked ends it.
func TestNothingIsOverlookedAmongHoldsGlancesAndPlainReaders(t *testing.T) {
	for _, kind := range []string{"tcp", "tls", "unix"} {
		t.Run(kind, func(t *testing.T) {
			m, p := attending(t, kind)
			c := theConn(m)
			ctx, cancel := context.WithCancel(t.Context())
			var last atomic.Uint64
			last.Store(firstLease)
			seed := rand.Uint64()
			t.Log("seed", seed)
			var wg sync.WaitGroup
			defer wg.Wait()
			defer cancel()
			for i, disturb := range []func(){
				func() {
					if c.r.hold() {
						c.r.letGo(false)
					}
				},
				func() { c.glance() },
				func() { c.r.attend(last.Load(), true) },
				func() {
					if r, err := m.Reader(ctx, -1); err == nil {
						last.Store(r.id)
						_ = r.Close()
					}
				},
				func() {
					if r, err := m.ReadyReader(ctx, -1); err == nil {
						_ = r.Close()
					}
				},
				func() {
					if r, err := m.Reader(ctx, time.Millisecond); err == nil {
						_ = r.Close()
					}
				},
			} {
				rnd := rand.New(rand.NewPCG(seed, uint64(i)))
				wg.Go(func() {
					for ctx.Err() == nil {
						disturb()
						time.Sleep(time.Duration(rnd.Int64N(int64(100 * time.Microsecond))))
					}
				})
			}
			for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
				requireWord(t, m, p)
			}
		})
	}
}

// Peers that send, hang up and break off, consumers of both kinds that close and kill, pins: when all of it is over, each
// connection that there is delivers, and the accounts of the queues are even.
func TestTheAccountsAreEvenAfterAStorm(t *testing.T) {
	for _, kind := range []string{"tcp", "tls", "unix"} {
		t.Run(kind, func(t *testing.T) {
			const conns = 6
			goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)
			t.Cleanup(func() {
				soon(t, func() bool { return runtime.NumGoroutine() <= goroutines && openDescriptors(t) <= descriptors },
					"the goroutines and descriptors of before")
			})
			s := &swept{T: t}
			var given []net.Conn
			for range conns {
				given = append(given, s.open(kind))
			}
			m, err := New(t.Context(), WithConnections(given...), WithMaxLifetime(300*time.Millisecond),
				WithConnector(DialFunc(func(context.Context) (net.Conn, error) { return s.open(kind), nil })),
				WithBackoff(func(int) time.Duration { return time.Millisecond }))
			require.NoError(t, err)
			t.Cleanup(func() {
				require.NoError(t, m.Close())
				for _, p := range s.peers {
					_ = p.raw.Close()
				}
			})
			seed := rand.Uint64()
			t.Log("seed", seed)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var wg sync.WaitGroup
			var ended, named atomic.Int64
			consume := func(i int, acquire func(context.Context, time.Duration) (Reader, error)) {
				rnd := rand.New(rand.NewPCG(seed, uint64(i)))
				wg.Go(func() {
					for b := make([]byte, 100); ; {
						r, err := acquire(ctx, 0)
						if err != nil {
							return
						}
						unpin := r.Conn().Pin()
						named.Add(1)
						r.Conn().AfterEnd(func(error) { ended.Add(1) })
						_ = r.SetReadDeadline(time.Now().Add(time.Duration(rnd.Int64N(int64(time.Millisecond)))))
						_, _ = r.Read(b[:1+rnd.IntN(len(b))]) // whatever comes of it
						if rnd.IntN(50) == 0 {
							_ = r.Kill()
						} else {
							_ = r.Close()
						}
						if rnd.IntN(3) == 0 {
							time.Sleep(time.Duration(rnd.Int64N(int64(time.Millisecond))))
						}
						unpin()
					}
				})
			}
			for i := range 3 {
				consume(i, m.ReadyReader)
				consume(10+i, m.Reader)
			}
			rnd := rand.New(rand.NewPCG(seed, 100))
			for ctx.Err() == nil {
				s.mu.Lock()
				p := s.peers[max(0, len(s.peers)-1-rnd.IntN(2*conns))]
				s.mu.Unlock()
				_ = p.SetWriteDeadline(time.Now().Add(time.Millisecond))
				switch rnd.IntN(30) {
				case 0:
					_ = p.Close()
				case 1:
					p.reset()
				default:
					_, _ = p.Write(make([]byte, 1+rnd.IntN(300)))
				}
				if rnd.IntN(3) == 0 {
					time.Sleep(time.Duration(rnd.Int64N(int64(300 * time.Microsecond))))
				}
			}
			wg.Wait()
			t.Log("lost", m.Stats().Lost, "expired", m.Stats().Expired, "leases", m.Stats().Acquired)

			// What is left of it is read, until there is nothing more, neither bytes nor an end.
			for b := make([]byte, 64<<10); ; {
				r, err := m.ReadyReader(t.Context(), 100*time.Millisecond)
				if err != nil {
					require.ErrorIs(t, err, ErrTimeout)
					break
				}
				_ = r.SetReadDeadline(time.Now().Add(sweepPatience))
				_, err = r.Read(b)
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it was ready")
				require.NoError(t, r.Close())
			}
			soon(t, func() bool { // at a moment when none is being replaced
				m.readers.sweep(1)
				s := m.Stats()
				return s.Open == conns && s.IdleReaders == conns && s.IdleWriters == conns && s.LeasedReaders+s.Waiting == 0 &&
					m.readers.stale.Load() == 0 && len(m.readers.idle) == conns
			}, "the pool is whole, and no entry of no use: %+v", m.Stats())
			require.Positive(t, ended.Load())
			require.LessOrEqual(t, ended.Load(), named.Load())
		})
	}
}
