package faulttest_test

// What the soak has found. A test of what plex does not do yet is skipped with what happens instead.

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
)

// A connection whose halves are both leased nearly all the time becomes too old as well. Its peer never
// ends what it sends, so the linger decides how soon the next may follow.
func TestFaultBusyConnectionsBecomeTooOld(t *testing.T) {
	w := newWorld(t, 4, proxy.Config{Handler: func(c *proxy.Conn) {
		go func() { _, _ = io.Copy(io.Discard, c) }()
		for buf := make([]byte, 4<<10); ; {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}})
	m := w.mux(plex.WithMaxLifetime(20*time.Millisecond), plex.WithLinger(10*time.Millisecond))
	var stop atomic.Bool
	var users sync.WaitGroup
	for range 6 {
		users.Go(func() {
			for buf := make([]byte, 4<<10); !stop.Load(); {
				r := reader(t, m)
				_, _ = r.Read(buf)
				_ = r.Close()
			}
		})
		users.Go(func() {
			for !stop.Load() {
				wr := writer(t, m)
				_, _ = wr.Write([]byte("x"))
				_ = wr.Close()
			}
		})
	}
	defer users.Wait()
	defer stop.Store(true)
	began := time.Now()
	eventually(t, func() bool { return m.Stats().Expired >= 20 || time.Since(began) > 5*time.Second }, "an end")
	require.GreaterOrEqual(t, m.Stats().Expired, uint64(20), "four connections that live for 20 ms, in %v", time.Since(began))
}

// hidden is a connection inside a type that hides what it is, but for the end of its writing.
type hidden struct{ net.Conn }

func (h hidden) CloseWrite() error { return h.Conn.(*net.TCPConn).CloseWrite() }

// A connection in a type of the user's own, of which plex sees no socket, ends in good order too: what it has written
// arrives, though the server has greeted and nobody has read that.
func TestFaultAWrappedConnectionEndsInGoodOrder(t *testing.T) {
	t.Skip("where there is no socket to be seen, plex reads nothing of what has arrived and closes at once, which the kernel makes a reset of")
	const size = 128 << 10
	type end struct {
		n   int64
		err error
	}
	ended, greeted, read := make(chan end, 1), make(chan struct{}), make(chan struct{})
	w := newWorld(t, 1, proxy.Config{Handler: func(c *proxy.Conn) {
		_, _ = io.WriteString(c, "220 what can I do for you\r\n")
		close(greeted)
		<-read
		n, err := io.Copy(io.Discard, c)
		ended <- end{n, err}
	}})
	m := w.bare(plex.WithMinConnections(1), plex.WithLinger(patience), plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", w.Addr())
		if err != nil {
			return nil, err
		}
		_ = c.(*net.TCPConn).SetWriteBuffer(2 * size)
		return hidden{c}, nil
	})))
	wr := writer(t, m)
	within(t, "the greeting", func() { <-greeted })
	_, err := wr.Write(make([]byte, size))
	require.NoError(t, err)
	require.NoError(t, wr.Close())
	done := make(chan error, 1)
	go func() { done <- m.Shutdown(context.Background()) }()
	eventually(t, func() bool { return m.Stats().IdleWriters == 0 }, "Shutdown has begun")
	time.AfterFunc(50*time.Millisecond, func() { close(read) })
	within(t, "Shutdown", func() { require.NoError(t, <-done) })
	within(t, "the server's end", func() {
		e := <-ended
		require.NoError(t, e.err, "an end and no reset")
		require.EqualValues(t, size, e.n)
	})
}

// Whoever reads what is left of a connection that was retired while its peer went on sending is not told that this was
// all.
func TestFaultARetiredConnectionTellsOfNoEnd(t *testing.T) {
	w := newWorld(t, 1, proxy.Config{Handler: func(c *proxy.Conn) {
		go func() { _, _ = io.Copy(io.Discard, c) }()
		for buf := make([]byte, 100); ; time.Sleep(time.Millisecond) {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}})
	for range 5 {
		m, err := plex.New(t.Context(), plex.WithConnector(plex.Dial("tcp", w.Addr())), plex.WithMinConnections(1),
			plex.WithMaxLifetime(50*time.Millisecond))
		require.NoError(t, err)
		eventually(t, func() bool { return m.Stats().Expired > 0 }, "it is too old")
		r, err := m.ReadyReader(t.Context(), patience)
		require.NoError(t, err)
		for buf, began := make([]byte, 10), time.Now(); err == nil && time.Since(began) < time.Second; {
			require.NoError(t, r.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
			_, err = r.Read(buf)
		}
		require.NotEqual(t, io.EOF, err, "the peer has ended nothing")
		require.NoError(t, r.Close())
		require.NoError(t, m.Close())
	}
}
