package faulttest_test

// Transports that end the goroutine, as runtime.Goexit does, where plex has something to account for.

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
)

// quitter is a TCP connection that ends the goroutine in the call of a method for which its function is true.
type quitter struct {
	*net.TCPConn
	read, write, closeWrite func() bool
	closed                  *atomic.Bool
	written                 atomic.Int64
}

func quits(f func() bool) {
	if f != nil && f() {
		runtime.Goexit()
	}
}

func (q *quitter) Read(p []byte) (int, error) {
	quits(q.read)
	return q.TCPConn.Read(p)
}

func (q *quitter) Write(p []byte) (int, error) {
	quits(q.write)
	n, err := q.TCPConn.Write(p)
	q.written.Add(int64(n))
	return n, err
}

func (q *quitter) CloseWrite() error {
	quits(q.closeWrite)
	return q.TCPConn.CloseWrite()
}

func (q *quitter) Close() error {
	if q.closed != nil {
		q.closed.Store(true)
	}
	return q.TCPConn.Close()
}

// quitting makes a pool of one connection to addr, which does as told.
func quitting(t *testing.T, addr string, q *quitter, wrap func(net.Conn) net.Conn) *plex.Multiplexer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	q.TCPConn = c.(*net.TCPConn)
	return newMux(t, plex.WithConnections(wrap(q)))
}

func asItIs(c net.Conn) net.Conn { return c }

// Of the row "any foreign function panics, exits its goroutine or hangs": what a stream accepted is counted, the
// transport is closed, and the lease ends.
// Catches: a piece that was in hand and is counted neither as written nor as unsent; a transport that stays open; a lease
// that never comes back.
func TestFaultATransportEndsTheGoroutine(t *testing.T) {
	t.Run("while a stream is written", func(t *testing.T) {
		for at := range 4 { // whichever Write it is
			w := newWorld(t, 1, proxy.Config{Handler: func(c *proxy.Conn) { _, _ = io.Copy(io.Discard, c) }})
			var writes atomic.Int64
			q := &quitter{write: func() bool { return writes.Add(1) == int64(at+1) }}
			m := quitting(t, w.Addr(), q, asItIs)
			wr := writer(t, m)
			ch, err := wr.SendChunks(t.Context(), 1000)
			require.NoError(t, err)
			accepted := int64(0)
			for i := range 12 {
				piece := make([]byte, 300+i%2*1000) // some go through the buffer, and some do not
				select {
				case ch <- piece:
					accepted += int64(len(piece))
				case <-wr.Done():
				}
			}
			close(ch)
			var unsent *plex.UnsentError
			if !errors.As(wr.Close(), &unsent) {
				require.Less(t, writes.Load(), int64(at+1), "it has written all, in fewer calls")
				unsent = &plex.UnsentError{}
			}
			require.NoError(t, m.Close())
			require.Equal(t, accepted, q.written.Load()+unsent.Unsent, "Write %d", at+1)
		}
	})
	t.Run("in CloseWrite", func(t *testing.T) {
		w := newWorld(t, 1, proxy.Config{})
		var closed atomic.Bool
		m := quitting(t, w.Addr(), &quitter{closeWrite: func() bool { return true }, closed: &closed}, asItIs)
		within(t, "Shutdown", func() { require.NoError(t, m.Shutdown(context.Background())) })
		require.True(t, closed.Load(), "the transport has been closed")
	})
	t.Run("at the end of a lease", func(t *testing.T) {
		server := &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
		w := newWorld(t, 1, proxy.Config{Handler: func(c *proxy.Conn) {
			_, _ = io.WriteString(tls.Server(c, server), "line")
			<-c.Done()
		}})
		var armed atomic.Bool
		m := quitting(t, w.Addr(), &quitter{read: armed.Load}, func(c net.Conn) net.Conn {
			return tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		})
		r, err := m.ReadyReader(t.Context(), patience)
		require.NoError(t, err)
		require.Equal(t, "line", read(t, r, 4))
		armed.Store(true)
		ended := make(chan struct{})
		go func() { // which the transport may end
			defer close(ended)
			_ = r.Close()
		}()
		within(t, "Close", func() { <-ended })
		eventually(t, func() bool { return m.Stats().LeasedReaders == 0 }, "the lease has ended")
	})
}
