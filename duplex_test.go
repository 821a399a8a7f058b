package plex_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// fakes are n scripted connections and their peers, and the same as options take them.
func fakes(n int) (conns []*fakenet.Conn, peers []*fakenet.Peer, given []net.Conn) {
	for range n {
		c, p := fakenet.Pair()
		conns, peers, given = append(conns, c), append(peers, p), append(given, c)
	}
	return conns, peers, given
}

// fakePool is a multiplexer of n scripted connections.
func fakePool(t *testing.T, n int, options ...plex.Option) (*plex.Multiplexer, []*fakenet.Conn, []*fakenet.Peer) {
	t.Helper()
	conns, peers, given := fakes(n)
	m, err := plex.New(t.Context(), append(options, plex.WithConnections(given...))...)
	require.NoError(t, err)
	t.Cleanup(func() {
		s := m.Stats()
		assert.Zero(t, s.LeasedReaders+s.LeasedWriters+s.Waiting, "leases and waiters at the end")
		assert.NoError(t, m.Close())
		for _, c := range conns {
			assert.Equal(t, 1, c.Closes(), "closes")
		}
	})
	return m, conns, peers
}

func duplexOf(t *testing.T, m *plex.Multiplexer, timeout time.Duration) plex.Duplex {
	t.Helper()
	d, err := m.Duplex(t.Context(), timeout)
	require.NoError(t, err)
	return d
}

func TestDuplexIsBothHalvesOfOneConnection(t *testing.T) {
	m, conns, peers := fakePool(t, 2)
	for i := range 4 { // they take turns
		d := duplexOf(t, m, -1)
		c, p := conns[i%2], peers[i%2]
		require.Equal(t, c.LocalAddr(), d.LocalAddr())
		require.Equal(t, c.RemoteAddr(), d.RemoteAddr())
		_, err := d.Write([]byte("question"))
		require.NoError(t, err)
		b := make([]byte, 8)
		_, err = io.ReadFull(p, b)
		require.NoError(t, err)
		require.Equal(t, "question", string(b))
		_, err = p.Write([]byte("answer"))
		require.NoError(t, err)
		_, err = io.ReadFull(d, b[:6])
		require.NoError(t, err)
		require.Equal(t, "answer", string(b[:6]))
		s := m.Stats()
		require.Equal(t, 1, s.LeasedReaders)
		require.Equal(t, 1, s.LeasedWriters)
		require.NoError(t, d.Err())
		require.NoError(t, d.Close())
	}
}

func TestAnEndedDuplexIsInert(t *testing.T) {
	for name, end := range map[string]func(plex.Duplex) error{"Close": plex.Duplex.Close, "Kill": plex.Duplex.Kill} {
		t.Run(name, func(t *testing.T) {
			m, conns, _ := fakePool(t, 2)
			d := duplexOf(t, m, -1)
			require.NoError(t, end(d))
			before := conns[0].Calls().All()
			_, err := d.Read(make([]byte, 1))
			assert.ErrorIs(t, err, plex.ErrLeaseClosed)
			_, err = d.Write([]byte("x"))
			assert.ErrorIs(t, err, plex.ErrLeaseClosed)
			assert.ErrorIs(t, d.SetDeadline(time.Now()), plex.ErrLeaseClosed)
			assert.ErrorIs(t, d.Close(), plex.ErrLeaseClosed)
			assert.ErrorIs(t, d.Kill(), plex.ErrLeaseClosed)
			assert.ErrorIs(t, d.Close(), net.ErrClosed, "as code expects that closes twice")
			assert.LessOrEqual(t, conns[0].Calls().All(), before+1, "nothing but a Close")
		})
	}
	var zero plex.Duplex
	assert.ErrorIs(t, zero.Close(), plex.ErrLeaseClosed)
	assert.ErrorIs(t, zero.Kill(), plex.ErrLeaseClosed)
	assert.ErrorIs(t, zero.Err(), plex.ErrLeaseClosed)
	assert.Nil(t, zero.LocalAddr())
	_, err := zero.Read(nil)
	assert.ErrorIs(t, err, plex.ErrLeaseClosed)
}

// A connection whose reader is away for long is passed over for one whose read half is idle.
func TestDuplexPrefersAConnectionWhoseReadHalfIsIdle(t *testing.T) {
	m, conns, _ := fakePool(t, 3)
	r, err := m.Reader(t.Context(), -1)
	require.NoError(t, err)
	require.Equal(t, conns[0].LocalAddr(), r.LocalAddr())
	for range 5 {
		d := duplexOf(t, m, -1)
		assert.NotEqual(t, conns[0].LocalAddr(), d.LocalAddr())
		require.NoError(t, d.Close())
	}
	require.NoError(t, r.Close())
}

func TestDuplexWaitsForTheReadHalfOfItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, _ := fakePool(t, 1)
		r, err := m.Reader(t.Context(), -1)
		require.NoError(t, err)
		_, err = m.Duplex(t.Context(), -1)
		require.ErrorIs(t, err, plex.ErrTimeout)
		start := time.Now()
		_, err = m.Duplex(t.Context(), time.Second)
		require.ErrorIs(t, err, plex.ErrTimeout)
		require.ErrorContains(t, err, "no whole connection after 1s")
		require.Equal(t, time.Second, time.Since(start))
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("the caller has gone")
		time.AfterFunc(time.Second, func() { cancel(cause) })
		_, err = m.Duplex(ctx, 0)
		require.ErrorIs(t, err, context.Canceled)

		got := make(chan plex.Duplex)
		go func() { got <- duplexOf(t, m, 0) }()
		synctest.Wait()
		w := make(chan plex.Writer)
		go func() {
			lease, err := m.Writer(t.Context(), 0)
			assert.NoError(t, err)
			w <- lease
		}()
		synctest.Wait()
		require.NoError(t, r.Close())
		d := <-got
		synctest.Wait()
		select {
		case <-w:
			t.Error("a writer overtook")
		default:
		}
		require.NoError(t, d.Close())
		require.NoError(t, (<-w).Close())
	})
}

// Nobody gets a connection of which somebody else still expects something.
func TestDuplexWaitsUntilNothingIsExpectedOfTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, _ := fakePool(t, 1)
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		unpin := w.Conn().Pin()
		require.NoError(t, w.Close())
		_, err = m.Duplex(t.Context(), time.Minute)
		require.ErrorIs(t, err, plex.ErrTimeout)
		time.AfterFunc(time.Second, unpin)
		start := time.Now()
		require.NoError(t, duplexOf(t, m, time.Minute).Close())
		assert.Equal(t, time.Second, time.Since(start))
	})
}

func TestDuplexCallersDoNotBlockEachOther(t *testing.T) {
	m, _, peers := fakePool(t, 4)
	for _, p := range peers {
		go func() { _, _ = io.Copy(p, p) }() // an echo
	}
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			for k := range 200 {
				d, err := m.Duplex(t.Context(), 0)
				if !assert.NoError(t, err) {
					return
				}
				word := fmt.Sprintf("%02d %03d", i, k)
				_, err = d.Write([]byte(word))
				assert.NoError(t, err)
				b := make([]byte, len(word))
				_, err = io.ReadFull(d, b)
				assert.NoError(t, err)
				assert.Equal(t, word, string(b), "nobody else's reply")
				assert.NoError(t, d.Close())
				if k%8 == 0 { // writers and readers are served beside them
					w, err := m.Writer(t.Context(), 0)
					assert.NoError(t, err)
					assert.NoError(t, w.Close())
					r, err := m.Reader(t.Context(), 0)
					assert.NoError(t, err)
					assert.NoError(t, r.Close())
				}
			}
		})
	}
	all.Wait()
}

// What made a connection ready has been read by the Duplex, so nobody else comes for it.
func TestDuplexInAPoolWithReadyReaders(t *testing.T) {
	for _, kind := range []string{"fake", "tcp"} {
		t.Run(kind, func(t *testing.T) {
			var m *plex.Multiplexer
			var peer net.Conn
			if kind == "fake" {
				pool, _, peers := fakePool(t, 1)
				m, peer = pool, peers[0]
			} else {
				client, server := loopback(t)
				pool, err := plex.New(t.Context(), plex.WithConnections(client))
				require.NoError(t, err)
				t.Cleanup(func() { assert.NoError(t, pool.Close()) })
				m, peer = pool, server
			}
			_, err := m.ReadyReader(t.Context(), -1)
			require.ErrorIs(t, err, plex.ErrTimeout)
			for range 20 {
				_, err := peer.Write([]byte("pushed"))
				require.NoError(t, err)
				time.Sleep(time.Millisecond) // it may be listed by now
				d := duplexOf(t, m, 0)
				b := make([]byte, 6)
				_, err = io.ReadFull(d, b)
				require.NoError(t, err)
				require.NoError(t, d.Close())
				_, err = m.ReadyReader(t.Context(), time.Millisecond)
				require.ErrorIs(t, err, plex.ErrTimeout, "nothing is left")
			}
			_, err = peer.Write([]byte("pushed"))
			require.NoError(t, err)
			r, err := m.ReadyReader(t.Context(), 10*time.Second)
			require.NoError(t, err)
			b := make([]byte, 6)
			_, err = io.ReadFull(r, b)
			require.NoError(t, err)
			require.NoError(t, r.Close())
		})
	}
}

// loopback is a TCP connection and its peer.
func loopback(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	server, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	return client, server
}

func TestDuplexOfAConnectionThatEndsWhileItsReaderIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, conns, _ := fakePool(t, 2)
		r0, err := m.Reader(t.Context(), -1)
		require.NoError(t, err)
		r1, err := m.Reader(t.Context(), -1)
		require.NoError(t, err)
		got := make(chan plex.Duplex)
		go func() { got <- duplexOf(t, m, time.Minute) }()
		synctest.Wait()
		r0.Conn().Kill()
		require.NoError(t, r1.Close())
		d := <-got
		assert.Equal(t, conns[1].LocalAddr(), d.LocalAddr(), "the one that lives")
		require.NoError(t, d.Close())
		_ = r0.Close()
	})
}

func TestConnWriterGoesAheadOfTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, _ := fakePool(t, 1)
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		order := make(chan string, 3)
		take := func(name string, acquire func(context.Context, time.Duration) (plex.Writer, error)) {
			w, err := acquire(t.Context(), 0)
			assert.NoError(t, err)
			order <- name
			assert.NoError(t, w.Close())
		}
		go take("line", m.Writer)
		synctest.Wait()
		go take("first by name", w.Conn().Writer)
		synctest.Wait()
		go take("second by name", w.Conn().Writer)
		synctest.Wait()
		_, err = w.Conn().Writer(t.Context(), -1)
		require.ErrorIs(t, err, plex.ErrTimeout)
		_, err = w.Conn().Writer(t.Context(), time.Second)
		require.ErrorIs(t, err, plex.ErrTimeout)
		require.NoError(t, w.Close())
		assert.Equal(t, "first by name", <-order)
		assert.Equal(t, "second by name", <-order)
		assert.Equal(t, "line", <-order)

		named, err := w.Conn().Writer(t.Context(), -1)
		require.NoError(t, err)
		_, err = named.Write([]byte("pong"))
		require.NoError(t, err)
		require.NoError(t, named.Close())
	})
}

func TestConnWriterOfAnEndedConnectionGivesTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, peers := fakePool(t, 2)
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		waits := make(chan error)
		go func() {
			_, err := w.Conn().Writer(t.Context(), time.Minute)
			waits <- err
		}()
		synctest.Wait()
		require.NoError(t, w.Kill())
		require.ErrorIs(t, <-waits, plex.ErrKilled)
		_, err = w.Conn().Writer(t.Context(), time.Minute)
		require.ErrorIs(t, err, plex.ErrKilled)
		require.ErrorContains(t, err, "no writer of this connection")

		ended, err := m.Reader(t.Context(), -1)
		require.NoError(t, err)
		require.NoError(t, peers[1].Close())
		_, err = ended.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.NoError(t, ended.Close())
		_, err = ended.Conn().Writer(t.Context(), time.Minute)
		require.ErrorIs(t, err, io.EOF)
		_, err = plex.Conn{}.Writer(t.Context(), 0)
		require.ErrorIs(t, err, plex.ErrLeaseClosed)
	})
}

// A library that wants a net.Conn of its own, and closes it as it likes.
func TestWhoWouldNotWaitForAConnectionIsNotCountedAsTimedOut(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, _ := l.single()
		r, w := readerOf(t, m), writerOf(t, m)
		_, err := w.Conn().Writer(t.Context(), -1)
		require.ErrorIs(t, err, plex.ErrTimeout)
		_, err = m.Duplex(t.Context(), -1)
		require.ErrorIs(t, err, plex.ErrTimeout)
		conn := w.Conn()
		requireClosed(t, w)
		_, err = m.Duplex(t.Context(), -1) // whose read half is not to be had
		require.ErrorIs(t, err, plex.ErrTimeout)
		require.Zero(t, m.Stats().TimedOut)
		w = writerOf(t, m)
		_, err = conn.Writer(t.Context(), time.Second)
		require.ErrorIs(t, err, plex.ErrTimeout)
		require.EqualValues(t, 1, m.Stats().TimedOut)
		requireClosed(t, w)
		requireClosed(t, r)
	})
}

func TestTextprotoOverADuplex(t *testing.T) {
	m, _, peers := fakePool(t, 1)
	go func() {
		in := bufio.NewScanner(peers[0])
		for in.Scan() {
			_, _ = fmt.Fprintf(peers[0], "250 you said %s\r\n", in.Text())
		}
	}()
	require.NoError(t, noop(t.Context(), m), "as the guide says")
	for i := range 10 {
		c := textproto.NewConn(duplexOf(t, m, time.Second))
		id, err := c.Cmd("NOOP %d", i)
		require.NoError(t, err)
		c.StartResponse(id)
		_, line, err := c.ReadResponse(250)
		c.EndResponse(id)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("you said NOOP %d", i), line)
		require.NoError(t, c.Close())
		require.Error(t, c.Close(), "the second is inert")
	}
}
