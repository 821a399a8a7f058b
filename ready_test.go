package plex_test

// Ready readers: which connection they get, what they find there, and when they get none.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

func TestReadyReaderGetsTheConnectionThatHasSomething(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		var peers []*peer
		var conns []net.Conn
		for range 5 {
			p := s.open()
			peers, conns = append(peers, p), append(conns, p.client)
		}
		m := l.mux(plex.WithConnections(conns...))
		requireNothingReady(t, m)
		for _, i := range []int{3, 3, 0, 4, 2, 3, 1} {
			p := peers[i]
			_, err := p.Write([]byte("some words"))
			require.NoError(t, err)
			requireReady(t, m, p.client.LocalAddr(), "some")
			requireReady(t, m, p.client.LocalAddr(), " words")
			requireNothingReady(t, m)
		}
		require.Equal(t, 5, m.Stats().IdleReaders)
	})
}

// What is there already when somebody asks for the first time is as good as what comes later.
func TestReadyReaderGetsWhatWasThereBeforeAnyoneAsked(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l)
		_, err := p.Write([]byte("early"))
		require.NoError(t, err)
		requireReady(t, m, p.client.LocalAddr(), "ea")
		requireReady(t, m, p.client.LocalAddr(), "rly")
		requireNothingReady(t, m)
	})
}

// What comes during a lease is for that lease alone, and what it leaves is ready when it ends.
func TestReadyReaderGetsWhatCameDuringALeaseOnlyWhenThatHasEnded(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l)
		requireNothingReady(t, m)
		_, err := p.Write([]byte("w"))
		require.NoError(t, err)
		r := readyReader(t, m)
		requireNothingReady(t, m)
		_, err = p.Write([]byte("ords"))
		require.NoError(t, err)
		requireNothingReady(t, m)
		require.Equal(t, "wo", readN(t, r, 2))
		requireClosed(t, r)
		requireReady(t, m, p.client.LocalAddr(), "rds")
		requireNothingReady(t, m)
	})
}

// What a lease has read into memory and not delivered is ready without a look at the connection.
func TestWhatALeaseLeavesOverIsReadyAtOnce(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		requireNothingReady(t, m)
		for i := range 8 {
			p.Send("some words")
			r := readyReader(t, m)
			f := receiving(t, t.Context(), r, k, 100)
			synctest.Wait() // all is in the channel
			if i&2 != 0 {
				require.NotEmpty(t, f.take(1))
			}
			requireClosed(t, r)
			if k == inChunks && i&2 != 0 {
				requireNothingReady(t, m) // the chunk was all
				continue
			}
			r, err := m.ReadyReader(t.Context(), -1)
			require.NoError(t, err, "without waiting")
			want := "some words"[i&2/2:]
			require.Equal(t, want, readN(t, r, len(want)))
			requireClosed(t, r)
			requireNothingReady(t, m)
		}
		requireIdleReaders(t, m, 1)
	})
}

// Streams leave over in memory what they have taken from the system; on TLS, what is inside crypto/tls is no different.
func TestWhatAStreamLeavesOverIsReadyOnSockets(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l)
		for _, k := range []streamKind{perByte, inChunks} {
			_, err := p.Write([]byte("a few words"))
			require.NoError(t, err)
			r := readyReader(t, m)
			f := receiving(t, t.Context(), r, k, 1)
			require.Equal(t, "a", f.take(1))
			requireClosed(t, r)
			requireReady(t, m, p.client.LocalAddr(), " few words")
			requireNothingReady(t, m)
		}
	})
}

func TestTwoMessagesInOneTLSRecordAreTwoLeases(t *testing.T) {
	l := newLedger(t)
	s := newHost(t, "tls")
	m, p := s.mux(l)
	for range 3 {
		_, err := p.Write([]byte("onetwothree"))
		require.NoError(t, err)
		for _, want := range []string{"one", "two", "three"} {
			requireReady(t, m, p.client.LocalAddr(), want)
		}
		requireNothingReady(t, m)
	}
}

// corkedTLS is a multiplexer of a TLS connection whose records come as the test says.
func corkedTLS(t *testing.T, l *ledger) (*plex.Multiplexer, net.Conn, *cork) {
	client, raw := tcpPair(t)
	server, config := tlsConfigs(t)
	c := &cork{Conn: raw}
	s, conn := tls.Server(c, server), tls.Client(client, config)
	shaken := later(s.Handshake)
	require.NoError(t, conn.Handshake())
	require.NoError(t, <-shaken)
	t.Cleanup(func() { _ = raw.Close() })
	c.put()
	return l.mux(plex.WithConnections(conn)), s, c
}

func TestReadyReaderWaitsUntilATLSRecordIsWhole(t *testing.T) {
	l := newLedger(t)
	m, server, c := corkedTLS(t, l)
	requireNothingReady(t, m)
	for range 3 {
		_, err := server.Write([]byte("a word"))
		require.NoError(t, err)
		c.pass(t, 3) // not even its header
		requireNothingReady(t, m)
		c.pass(t, 10)
		requireNothingReady(t, m)
		require.Equal(t, 1, m.Stats().IdleReaders)
		c.pass(t, c.kept())
		r := readyReader(t, m)
		require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
		require.Equal(t, "a word", readN(t, r, 6))
		requireClosed(t, r)
		requireNothingReady(t, m)
	}
}

// crypto/tls reads more than it is asked for, and so has whole records inside it of which the kernel knows nothing.
func TestManyTLSRecordsThatComeTogetherAreDeliveredOneByOne(t *testing.T) {
	l := newLedger(t)
	m, server, c := corkedTLS(t, l)
	requireNothingReady(t, m)
	for i := range 20 {
		_, err := fmt.Fprintf(server, "%02d", i)
		require.NoError(t, err)
	}
	_, err := server.Write([]byte("rest"))
	require.NoError(t, err)
	c.pass(t, c.kept()-1)
	for i := range 20 {
		r := readyReader(t, m)
		require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
		require.Equal(t, fmt.Sprintf("%02d", i), readN(t, r, 2))
		requireClosed(t, r)
	}
	requireNothingReady(t, m)
	c.pass(t, 1)
	r := readyReader(t, m)
	require.Equal(t, "rest", readN(t, r, 4))
	requireClosed(t, r)
}

// An end is something to deliver: whoever gets the lease is told by its first Read.
func TestTheEndOfAnIdleConnectionIsReady(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l)
		requireNothingReady(t, m)
		for i, end := range []func(*peer){(*peer).fin, (*peer).halfClose} {
			name := p.client.LocalAddr()
			end(p)
			r := readyReader(t, m)
			require.Equal(t, name, r.LocalAddr())
			n, err := r.Read(make([]byte, 1))
			require.Zero(t, n)
			require.Equal(t, io.EOF, err)
			requireClosed(t, r)
			requireHealed(t, m, 1, i+1)
			p = s.next()
			requireNothingReady(t, m)
			_, err = p.Write([]byte("the next"))
			require.NoError(t, err)
			requireReady(t, m, p.client.LocalAddr(), "the next")
		}
	})
}

func TestTheResetOfAnIdleConnectionIsReady(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l)
		requireNothingReady(t, m)
		_, err := p.client.Write([]byte("unread")) // which is how a Unix socket is reset
		require.NoError(t, err)
		p.reset()
		r := readyReader(t, m)
		require.Equal(t, p.client.LocalAddr(), r.LocalAddr())
		_, err = r.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		requireClosed(t, r)
		requireHealed(t, m, 1, 1)
		requireNothingReady(t, m)
	})
}

func TestWhatCameBeforeTheEndIsReadyAndThenTheEnd(t *testing.T) {
	for name, rest := range map[string]int{"the lease leaves something": 3, "the lease reads all": 0} {
		t.Run(name, func(t *testing.T) {
			forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
				m, p := s.mux(l)
				requireNothingReady(t, m)
				_, err := p.Write([]byte("last words"))
				require.NoError(t, err)
				p.fin()
				requireReady(t, m, p.client.LocalAddr(), "last words"[:10-rest])
				if rest > 0 {
					requireReady(t, m, p.client.LocalAddr(), "last words"[10-rest:])
				}
				r := readyReader(t, m)
				require.Equal(t, p.client.LocalAddr(), r.LocalAddr())
				n, err := r.Read(make([]byte, 1))
				require.Zero(t, n)
				require.Equal(t, io.EOF, err)
				requireClosed(t, r)
				requireHealed(t, m, 1, 1)
				requireNothingReady(t, m)
			})
		})
	}
}

// Without a connector there will be nothing more when the last end has been delivered, but it is delivered.
func TestTheEndOfTheLastConnectionIsReadyBeforeNothingIs(t *testing.T) {
	for _, kind := range sockets {
		t.Run(kind, func(t *testing.T) {
			for range 50 { // the waiter is told of it at the same time
				func() {
					l := newLedger(t)
					s := newHost(t, kind)
					p := s.open()
					m := l.mux(plex.WithConnections(p.client))
					attend(t, m)
					waits := later(func() waiter {
						r, err := m.ReadyReader(t.Context(), patience)
						return waiter{r: r, err: err}
					})
					eventually(t, func() bool { return m.Stats().WaitingReady == 1 }, "somebody waits")
					p.fin()
					w := <-waits
					require.NoError(t, w.err)
					_, err := w.r.Read(make([]byte, 1))
					require.Equal(t, io.EOF, err)
					requireClosed(t, w.r)
					_, err = m.ReadyReader(t.Context(), patience)
					require.ErrorIs(t, err, plex.ErrNoConnections)
				}()
			}
		})
	}
}

func TestReadyReadersAreServedInTheOrderInWhichTheyCame(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conns, peers := l.Pairs(3)
		m := l.mux(plex.WithConnections(conns...))
		var waiters []<-chan waiter
		for range 10 {
			waiters = append(waiters, wantReady(t, m, 0))
		}
		require.Equal(t, 10, m.Stats().WaitingReady)
		require.Zero(t, m.Stats().Waiting, "which counts Reader and Writer")
		for i, ch := range waiters {
			for _, later := range waiters[i:] {
				requirePending(t, later, "a wait")
			}
			p := peers[i%3]
			p.Send(fmt.Sprint(i))
			time.Sleep(time.Second)
			w := got(t, ch)
			require.Equal(t, p.Conn().LocalAddr(), w.r.LocalAddr())
			require.Equal(t, fmt.Sprint(i), readN(t, w.r, 1))
			requireClosed(t, w.r)
		}
		require.Zero(t, m.Stats().WaitingReady)
	})
}

// One connection always has something, the others have a little now and then: each of these gets its turn at the latest
// when every other has had one.
func TestAConnectionThatAlwaysHasSomethingKeepsNoOtherFromItsTurn(t *testing.T) {
	const quiet = 9
	for name, piece := range map[string]int{"in the system": 1 << 20, "left over": 3} {
		t.Run(name, func(t *testing.T) {
			forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
				chatty := s.open()
				conns := []net.Conn{chatty.client}
				peers := map[string]*peer{}
				for range quiet {
					p := s.open()
					conns = append(conns, p.client)
					peers[p.client.LocalAddr().String()] = p
				}
				m := l.mux(plex.WithConnections(conns...))
				stop := make(chan struct{})
				flooded := later(func() error {
					for {
						if _, err := chatty.Write(make([]byte, 1000)); err != nil {
							return err
						}
						select {
						case <-stop:
							return nil
						default:
						}
					}
				})
				b := make([]byte, min(piece, 2000))
				var turns []int
				for range 20 {
					for _, p := range peers {
						_, err := p.Write([]byte("x"))
						require.NoError(t, err)
					}
					time.Sleep(5 * time.Millisecond) // the kernel tells of all of them
					served := map[string]bool{}
					leases := 0
					for ; len(served) < quiet; leases++ {
						r := readyReader(t, m)
						require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
						if name := r.LocalAddr().String(); peers[name] == nil && piece < 1000 {
							f := receiving(t, t.Context(), r, inChunks, piece) // takes more than it delivers
							require.NotEmpty(t, f.take(1))
						} else {
							n, err := r.Read(b)
							require.NoError(t, err)
							require.NotZero(t, n)
							if peers[name] != nil {
								require.False(t, served[name], "it has had its turn, and all")
								served[name] = true
							}
						}
						requireClosed(t, r)
					}
					turns = append(turns, leases)
				}
				t.Log("leases until each has had its turn:", turns)
				slices.Sort(turns)
				// What is still on its way from the kernel can be overtaken, but hardly ever is.
				require.LessOrEqual(t, turns[len(turns)/2], 2*quiet+1)
				close(stop)
				for drained := false; !drained; {
					select {
					case err := <-flooded:
						require.NoError(t, err)
						drained = true
					default:
						r, err := m.ReadyReader(t.Context(), time.Millisecond)
						if err == nil {
							_ = r.SetReadDeadline(time.Now().Add(time.Millisecond))
							_, _ = io.Copy(io.Discard, r)
							requireClosed(t, r)
						}
					}
				}
			})
		})
	}
}

func TestConnectionsThatComeLaterAreAttendedToo(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conn, first := l.Pair()
		m := l.mux(plex.WithConnections(conn), plex.WithConnector(s.connect), plex.WithMaxCapacity(4), plex.WithAutoScaling(time.Second))
		waits := wantReady(t, m, 0)
		time.Sleep(time.Minute)
		require.Equal(t, 1, m.Stats().Open, "to wait for something ready is no reason to add a connection")

		// Healed.
		require.NoError(t, first.Close())
		time.Sleep(time.Second)
		w := got(t, waits)
		_, err := w.r.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		requireClosed(t, w.r)
		time.Sleep(time.Minute)
		healed := s.connected(0)
		require.Len(t, healed, 1)
		waits = wantReady(t, m, 0)
		healed[0].Send("healed")
		time.Sleep(time.Second)
		w = got(t, waits)
		require.Equal(t, "healed", readN(t, w.r, 6))

		// Added, as somebody waits for a writer.
		writer := writerOf(t, m)
		another := wantWriter(t.Context(), m, 0)
		time.Sleep(time.Minute)
		requireClosed(t, writer, got(t, another).w, w.r)
		scaled := s.connected(1)
		require.Len(t, scaled, 1)
		scaled[0].Send("scaled")
		r := readyReader(t, m)
		require.Equal(t, "scaled", readN(t, r, 6))
		requireClosed(t, r)

		// Given.
		given, peer := l.Pair()
		peer.Send("given")
		_, err = m.Add(t.Context(), given)
		require.NoError(t, err)
		r = readyReader(t, m)
		require.Equal(t, "given", readN(t, r, 5))
		requireClosed(t, r)
		requireNothingReady(t, m)
	})
}

func TestReplacementsOfSocketsAreAttendedToo(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l, plex.WithBackoff(func(int) time.Duration { return time.Millisecond }))
		attend(t, m)
		for i := range 10 {
			p.fin()
			r := readyReader(t, m)
			_, err := r.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			requireClosed(t, r)
			requireHealed(t, m, 1, i+1)
			p = s.next()
			_, err = p.Write([]byte("hello"))
			require.NoError(t, err)
			requireReady(t, m, p.client.LocalAddr(), "hello")
		}
	})
}

// Attention begins while connections are admitted, leased and given back.
func TestNoConnectionIsOverlookedWhenAttentionBegins(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		const conns = 8
		for range 10 {
			var peers []*peer
			for range conns {
				peers = append(peers, s.open())
			}
			m, err := plex.New(t.Context(), plex.WithConnections(peers[0].client, peers[1].client), plex.WithMaxCapacity(conns))
			require.NoError(t, err)
			var wg sync.WaitGroup
			stop := make(chan struct{})
			for range 2 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						if r, err := m.ReadyReader(t.Context(), -1); err == nil {
							_ = r.Close()
						}
					}
				})
			}
			wg.Go(func() {
				for _, p := range peers[2:] {
					if _, err := m.Add(t.Context(), p.client); err != nil {
						t.Error(err)
					}
				}
			})
			for range 2 {
				wg.Go(func() { attend(t, m) })
			}
			for _, p := range peers {
				_, err := p.Write([]byte("word"))
				require.NoError(t, err)
			}
			time.Sleep(time.Millisecond)
			close(stop)
			wg.Wait()
			seen := map[string]bool{}
			for range conns {
				r := readyReader(t, m)
				require.Equal(t, "word", readN(t, r, 4))
				seen[r.LocalAddr().String()] = true
				requireClosed(t, r)
			}
			require.Len(t, seen, conns)
			requireNothingReady(t, m)
			require.NoError(t, m.Close())
		}
	})
}

// flow is a connection whose peer sends the byte oracle, and what has been read of it.
type flow struct {
	p *peer

	// The peer sends with mu held, and a ready reader has it during its first Read: what is not there when that begins
	// does not come before it has returned.
	mu       sync.Mutex
	received atomic.Int64 // written by whoever has the lease
}

// took checks what a lease has read.
func (f *flow) took(p []byte) error {
	if err := checkOracle(p, f.p.number, f.received.Load()); err != nil {
		return err
	}
	f.received.Add(int64(len(p)))
	return nil
}

// Many ready readers on a few connections, which leave over what they do not read, get every byte once and in order.
func TestReadyReadersInACrowdNeverBlockAndMissNothing(t *testing.T) {
	const (
		conns       = 6
		total       = 150_000 // bytes for each connection
		outstanding = 16 << 10
	)
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		var given []*flow
		flows := map[string]*flow{}
		opts := []plex.Option{plex.WithMaxCapacity(conns)}
		for range conns {
			f := &flow{p: s.open()}
			given = append(given, f)
			flows[f.p.client.LocalAddr().String()] = f
			opts = append(opts, plex.WithConnections(f.p.client))
		}
		m := l.mux(opts...)
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		late := time.AfterFunc(patience, func() {
			cancel(errors.New("not done in time"))
			s.drop((*peer).reset)
		})
		defer late.Stop()
		fail := func(err error) {
			cancel(err)
			s.drop((*peer).reset)
		}
		var all atomic.Int64
		seed := rand.Uint64()
		t.Log("seed", seed)
		var wg sync.WaitGroup
		for i, f := range given {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			wg.Go(func() {
				for sent := int64(0); sent < total && ctx.Err() == nil; {
					if f.received.Load() < sent-outstanding {
						time.Sleep(100 * time.Microsecond)
						continue
					}
					n := min(total-sent, 1+rnd.Int64N(3000))
					f.mu.Lock()
					err := writeOracle(f.p, f.p.number, sent, n, 16<<10)
					f.mu.Unlock()
					if err != nil {
						fail(fmt.Errorf("sending: %w", err))
						return
					}
					sent += n
					if rnd.IntN(3) == 0 {
						time.Sleep(time.Duration(rnd.Int64N(int64(time.Millisecond))))
					}
				}
			})
		}
		book := func(f *flow, p []byte) error {
			err := f.took(p)
			if all.Add(int64(len(p))) == conns*total {
				cancel(io.EOF)
			}
			return err
		}
		for i := range 6 {
			rnd := rand.New(rand.NewPCG(seed, uint64(100+i)))
			wg.Go(func() {
				b := make([]byte, 4000)
				for {
					r, err := m.ReadyReader(ctx, 0)
					if err != nil {
						return
					}
					f := flows[r.LocalAddr().String()]
					f.mu.Lock()
					if rnd.IntN(2) == 0 {
						_ = r.SetReadDeadline(time.Now().Add(patience / 2))
					}
					n, err := r.Read(b[:1+rnd.IntN(len(b))])
					f.mu.Unlock()
					if err != nil || n == 0 {
						fail(fmt.Errorf("the first Read: %d, %w", n, err))
						_ = r.Close()
						return
					}
					err = book(f, b[:n])
					if err == nil && rnd.IntN(4) == 0 { // some more, whatever there is, and some left over
						var ch <-chan []byte
						if ch, err = r.RecvChunks(t.Context(), 1+rnd.IntN(500)); err == nil {
							select {
							case p := <-ch:
								err = book(f, p)
							case <-time.After(100 * time.Microsecond):
							}
						}
					}
					if err := errors.Join(err, r.Close()); err != nil {
						fail(err)
						return
					}
				}
			})
		}
		wg.Wait()
		for _, f := range given {
			t.Log(f.p.number, f.received.Load())
		}
		require.Equal(t, io.EOF, context.Cause(ctx))
		requireNothingReady(t, m)
		requireKept(t, m, conns)
	})
}

func TestReadyReaderEndsItsWaitWithItsContextAndItsTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		began := time.Now()
		_, err := m.ReadyReader(t.Context(), 7*time.Second)
		require.ErrorIs(t, err, plex.ErrTimeout)
		require.Equal(t, 7*time.Second, time.Since(began))
		var failed *plex.AcquireError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, "ready reader", failed.Half)
		require.Equal(t, 7*time.Second, failed.Waited)
		require.Contains(t, err.Error(), "plex: no ready reader after 7s: timed out (capacity 1, open 1, leased 0")

		_, err = m.ReadyReader(t.Context(), -1)
		require.ErrorIs(t, err, plex.ErrTimeout)
		require.Equal(t, 7*time.Second, time.Since(began))

		cause := errors.New("changed my mind")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		_, err = m.ReadyReader(ctx, 0)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 8*time.Second, time.Since(began))
		p.Send("x")
		time.Sleep(time.Second)
		_, err = m.ReadyReader(ctx, 0)
		require.ErrorIs(t, err, context.Canceled, "although there is something")
		_, err = m.ReadyReader(nilContext, 0)
		require.ErrorContains(t, err, "plex: ReadyReader: nil context")

		requireReady(t, m, p.Conn().LocalAddr(), "x")
		st := m.Stats()
		require.Equal(t, []uint64{0, 0, 0}, []uint64{st.Waited, st.TimedOut, st.Canceled}, "which count plain acquires")
		require.Zero(t, st.WaitDuration)
	})
}

func TestReadyReadersAreToldOfTheEnd(t *testing.T) {
	for name, end := range map[string]func(*plex.Multiplexer) error{
		"Close":    (*plex.Multiplexer).Close,
		"Shutdown": func(m *plex.Multiplexer) error { return m.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				m, _, p := l.single()
				var waits []<-chan waiter
				for range 5 {
					waits = append(waits, wantReady(t, m, time.Hour))
				}
				p.Send("too late")
				require.NoError(t, end(m))
				synctest.Wait()
				ended := 0
				for _, ch := range waits {
					w := <-ch
					if w.err == nil { // it was told of what came before
						_ = w.r.Close()
						continue
					}
					require.ErrorIs(t, w.err, plex.ErrClosed)
					ended++
				}
				require.GreaterOrEqual(t, ended, 4)
				_, err := m.ReadyReader(t.Context(), 0)
				require.ErrorIs(t, err, plex.ErrClosed)
			})
		})
	}
	t.Run("before anyone has asked", func(t *testing.T) {
		forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
			m, _ := s.mux(l)
			require.NoError(t, m.Close())
			_, err := m.ReadyReader(t.Context(), 0)
			require.ErrorIs(t, err, plex.ErrClosed)
		})
	})
}

func TestShutdownWaitsForALeaseOfAReadyReader(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l)
		_, err := p.Write([]byte("word"))
		require.NoError(t, err)
		r := readyReader(t, m)
		require.Equal(t, 1, m.Stats().LeasedReaders)
		ended := later(func() error { return m.Shutdown(t.Context()) })
		eventually(t, func() bool {
			_, err := m.ReadyReader(t.Context(), -1)
			return errors.Is(err, plex.ErrClosed)
		}, "nobody gets another")
		require.Equal(t, "word", readN(t, r, 4))
		requirePending(t, ended, "Shutdown")
		requireClosed(t, r)
		require.NoError(t, <-ended)
	})
}

func TestALeaseOfAReadyReaderIsKilledAndReplaced(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l)
		for i := range 3 {
			_, err := p.Write([]byte("word"))
			require.NoError(t, err)
			r := readyReader(t, m)
			require.NoError(t, r.Kill())
			require.ErrorIs(t, r.Close(), plex.ErrLeaseClosed)
			requireHealed(t, m, 1, i+1)
			p = s.next()
			eventually(t, func() bool { // plex may be looking at it for a moment
				st := m.Stats()
				return st.IdleReaders == 1 && st.LeasedReaders == 0 && st.Open == 1
			}, "the new one is idle")
			_, err = p.Write([]byte("new"))
			require.NoError(t, err)
			requireReady(t, m, p.client.LocalAddr(), "new")
		}
	})
}

func TestWithoutAConnectorTheLastLossEndsTheWaitOfReadyReaders(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conns, peers := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...))
		var waits []<-chan waiter
		for range 4 {
			waits = append(waits, wantReady(t, m, 0))
		}
		peers[0].Send("some")
		require.NoError(t, peers[0].Close())
		time.Sleep(time.Second)
		first := got(t, waits[0])
		require.Equal(t, "some", readN(t, first.r, 4))
		_, err := first.r.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		requireClosed(t, first.r)
		requirePending(t, waits[1], "one connection is open, so the second wait")

		// What the last one has left goes first.
		peers[1].Send("last")
		peers[1].CloseWrite()
		time.Sleep(time.Second)
		second := got(t, waits[1])
		require.Equal(t, "last", readN(t, second.r, 2)+readN(t, second.r, 2))
		requireClosed(t, second.r)
		time.Sleep(time.Second)
		third := got(t, waits[2])
		_, err = third.r.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		requireClosed(t, third.r)
		require.ErrorIs(t, (<-waits[3]).err, plex.ErrNoConnections)
		_, err = m.ReadyReader(t.Context(), 0)
		require.ErrorIs(t, err, plex.ErrNoConnections)
		requireLost(t, m, 2)

		// One that is added later ends that.
		conn, peer := l.Pair()
		_, err = m.Add(t.Context(), conn)
		require.NoError(t, err)
		peer.Send("more")
		r := readyReader(t, m)
		require.Equal(t, "more", readN(t, r, 4))
		requireClosed(t, r)
	})
}

func TestWithAConnectorReadyReadersWaitOnWhileNothingIsOpen(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		s.goDown()
		conn, peer := l.Pair()
		m := l.mux(plex.WithConnections(conn), plex.WithConnector(s.connect))
		attend(t, m)
		peer.Reset(syscall.ECONNRESET, false)
		r := readyReader(t, m)
		_, err := r.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		requireClosed(t, r)
		waits := wantReady(t, m, 0)
		time.Sleep(time.Hour)
		requirePending(t, waits, "the wait")
		s.set(func(s *service) {
			s.refusal = nil
			s.greet = func(p *fakenet.Peer) { p.Send("hello") }
		})
		time.Sleep(time.Minute)
		w := got(t, waits)
		require.Equal(t, "hello", readN(t, w.r, 5))
		requireClosed(t, w.r)
	})
}

func TestReadyReaderWithConnectionsWithoutADescriptor(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		client, server := pipePair(t)
		l.Watch(client.(fakenet.CloseCounter))
		m := l.mux(plex.WithConnections(client))
		for range 3 {
			waits := wantReady(t, m, 0)
			time.Sleep(time.Minute)
			requirePending(t, waits, "there is nothing yet")
			began := time.Now()
			wrote := later(func() error { _, err := server.Write([]byte("words")); return err })
			w := <-waits
			require.NoError(t, w.err)
			require.LessOrEqual(t, time.Since(began), 25*time.Millisecond)
			require.Equal(t, "wo", readN(t, w.r, 2))
			requireClosed(t, w.r)
			r, err := m.ReadyReader(t.Context(), -1)
			require.NoError(t, err)
			require.Equal(t, "rds", readN(t, r, 3))
			require.NoError(t, <-wrote)
			requireClosed(t, r)
		}
		waits := wantReady(t, m, 0)
		require.NoError(t, server.Close())
		w := <-waits
		require.NoError(t, w.err)
		_, err := w.r.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		requireClosed(t, w.r)
	})
}

// What a look does to a connection harms nobody who reads next, and leaves no deadline behind.
func TestAConnectionThatIsLookedAtAllTheTimeIsReadAsEver(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		attend(t, m)
		for range 200 {
			time.Sleep(300 * time.Microsecond)
			p.Send("x")
			requireReady(t, m, p.Conn().LocalAddr(), "x")
		}
		requireNothingReady(t, m)
		p.Send("y")
		requireReady(t, m, p.Conn().LocalAddr(), "y")
		time.Sleep(time.Second)
		read, write := p.Conn().DeadlinesLeft()
		require.True(t, write.IsZero())
		require.Condition(t, func() bool { return read.IsZero() || read.After(time.Now().Add(-time.Millisecond)) })
	})
}

// Ready readers are served in the order in which they came, whatever plex does between leases to learn what is ready.
func TestReadyReadersKeepTheirOrderThoughPlexLooksAtTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const n = 3 // so that there is always one who waits

		m, _, p := l.single()
		p.Send("always ready, as nobody reads it")
		attend(t, m)
		for i, who := range takeTurns(m.ReadyReader, n, 10*time.Second) {
			require.Equal(t, i%n, who, "lease %d: it cost nobody his place in the queue", i)
		}
	})
}

// A connection that refuses deadlines is ready when something has arrived, as any other, and starves nobody.
func TestReadyReaderWithConnectionsThatRefuseDeadlines(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conn, p := l.Pair()
		conn.TreatDeadlines(fakenet.DeadlinesRefused)
		m := l.mux(plex.WithConnections(conn))
		for range 3 {
			_, err := m.ReadyReader(t.Context(), time.Second)
			require.ErrorIs(t, err, plex.ErrTimeout, "nothing has arrived")
			p.Send("word")
			r, err := m.ReadyReader(t.Context(), time.Second)
			require.NoError(t, err)
			require.Equal(t, "word", readN(t, r, 4))
			requireClosed(t, r)
			requireIdleReaders(t, m, 1)
		}
		requireKept(t, m, 1)
	})
}

// One that takes no notice of deadlines is looked at for as long as nothing comes. That holds up nobody but those who
// would read, and it can be closed all the same.
func TestReadyReaderWithConnectionsThatIgnoreDeadlines(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conn, p := l.Pair()
		conn.TreatDeadlines(fakenet.DeadlinesIgnored)
		m := l.mux(plex.WithConnections(conn))
		waits := wantReady(t, m, 0)
		time.Sleep(time.Minute)
		requirePending(t, waits, "there is nothing yet")
		requireWriterIdle(t, m)
		p.Send("word")
		w := got(t, waits)
		require.Equal(t, "word", readN(t, w.r, 4))
		requireClosed(t, w.r)
		time.Sleep(time.Minute)
		requireKept(t, m, 1)
		began := time.Now()
		require.NoError(t, m.Shutdown(t.Context()))
		require.LessOrEqual(t, time.Since(began), 2*time.Second)
		require.Zero(t, m.Stats().Lost)
	})
}

func TestDatagramsAreReadyOneByOne(t *testing.T) {
	for name, open := range map[string]func(*testing.T) (net.Conn, net.PacketConn){"udp": udpPacketPair, "unixgram": unixgramPair} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			client, server := open(t)
			t.Cleanup(func() { _ = server.Close() })
			m := l.mux(plex.WithConnections(client))
			requireNothingReady(t, m)
			for _, s := range []string{"one", "two", "", "three"} {
				_, err := server.WriteTo([]byte(s), client.LocalAddr())
				require.NoError(t, err)
			}
			for _, want := range []string{"one", "two", "", "three"} {
				r := readyReader(t, m)
				require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
				b := make([]byte, 10)
				n, err := r.Read(b)
				require.NoError(t, err)
				require.Equal(t, want, string(b[:n]))
				requireClosed(t, r)
			}
			requireNothingReady(t, m)
			requireKept(t, m, 1)
		})
	}
}

// What nobody can be told of a datagram but by an error of the next Read is something to deliver.
func TestARefusedDatagramIsReady(t *testing.T) {
	l := newLedger(t)
	client, server := udpPair(t)
	m := l.mux(plex.WithConnections(client))
	requireNothingReady(t, m)
	require.NoError(t, server.Close())
	w := writerOf(t, m)
	_, err := w.Write([]byte("anyone?"))
	require.NoError(t, err)
	requireClosed(t, w)
	r := readyReader(t, m)
	require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
	_, err = r.Read(make([]byte, 10))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	requireClosed(t, r)
	requireNothingReady(t, m)
	requireKept(t, m, 1)
}

func TestAConnectionThatNobodyNeedsGoesAlsoWhenReadyReadersWait(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conns, peers := l.Pairs(3)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(s.connect), plex.WithMinConnections(1),
			plex.WithIdleTimeout(10*time.Second))
		waits := wantReady(t, m, 0)
		time.Sleep(5 * time.Minute)
		st := m.Stats()
		require.Equal(t, []int{1, 2}, []int{st.Open, int(st.ScaledDown)})
		requirePending(t, waits, "the wait")
		open := slices.IndexFunc(peers, func(p *fakenet.Peer) bool { return p.Conn().Closes() == 0 })
		peers[open].Send("x")
		w := <-waits
		require.NoError(t, w.err)
		require.Equal(t, "x", readN(t, w.r, 1))
		requireClosed(t, w.r)
	})
}

// A connection that is looked at from time to time is idle in between; its age is seen to nevertheless.
func TestAConnectionThatIsLookedAtIsReplacedForItsAge(t *testing.T) {
	for lifetime := 100 * time.Millisecond; lifetime < 124*time.Millisecond; lifetime += time.Millisecond {
		bubble(t, func(t *testing.T, l *ledger) {
			s := newService(l)
			m := l.mux(plex.WithConnector(s.connect), plex.WithMinConnections(1), plex.WithMaxLifetime(lifetime))
			attend(t, m)
			for _, p := range s.connected(0) { // so that the pace of the looks is a steady one
				p.Send("x")
			}
			requireReady(t, m, s.connected(0)[0].Conn().LocalAddr(), "x")
			time.Sleep(10 * time.Second)
			st := settled(m)
			require.GreaterOrEqual(t, st.Expired, uint64(50), "with a lifetime of %v", lifetime)
			require.Equal(t, []int{1, 1}, []int{st.Open, st.IdleReaders})
		})
	}
}

func TestLeakDetectionRemembersLeasesOfReadyReaders(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		book := &logbook{}
		conn, p := l.Pair()
		m := l.mux(plex.WithConnections(conn), plex.WithLeakDetection(time.Minute), book.option())
		p.Send("x")
		r := forgetsItsReadyReader(t, m)
		time.Sleep(time.Hour)
		leaks := book.with(leakMessage)
		require.Len(t, leaks, 1)
		require.Equal(t, "reader", leaks[0].attrs["half"])
		stack := leaks[0].attrs["stack"].(string)
		require.True(t, strings.HasPrefix(stack, "go.atomizer.io/plex_test.forgetsItsReadyReader\n\t"), stack)
		require.EqualValues(t, 1, m.Stats().SuspectedLeaks)
		requireClosed(t, r)
	})
}

//go:noinline
func forgetsItsReadyReader(t *testing.T, m *plex.Multiplexer) plex.Reader {
	r, err := m.ReadyReader(t.Context(), time.Second)
	require.NoError(t, err)
	return r
}
