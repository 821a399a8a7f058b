package faulttest_test

// A cable that is pulled: packets vanish, and nobody says so.

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
)

// Row "black hole, idle or with unacked data": the kernel's verdict (keep-alive, user timeout); other leases untouched.
// Catches: an ETIMEDOUT, whose Timeout() is true, taken for a deadline of the consumer's, so that the dead connection
// goes back to the pool; a pool that stands still until the kernel has made up its mind.
func TestFaultBlackHole(t *testing.T) {
	balance(t)
	client, server := cable(t)
	// Hidden from each other, for splice(2) leaves pipes behind until the next garbage collection.
	echo := func(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }
	far := server.listen(t, "10.77.0.2:0", echo)
	near := client.listen(t, "127.0.0.1:0", echo)

	var dials atomic.Int32
	book := check.NewBook(4, true)
	m := newMux(t, plex.WithMaxCapacity(4), plex.WithMinConnections(4), plex.WithBackoff(quick), plex.WithConnector(
		book.Connect(func(ctx context.Context) (*net.TCPConn, error) {
			addr := near
			if dials.Add(1) <= 3 {
				addr = far // the first three go through the cable, what replaces them does not
			}
			c, err := client.dial(ctx, addr)
			if err != nil {
				return nil, err
			}
			return c.(*net.TCPConn), nil
		}, nil)))
	t.Cleanup(func() {
		require.NoError(t, m.Close())
		require.NoError(t, book.End(nil))
	})

	// Of the three, one has a blocked reader, one has data on its way, one is idle.
	var rds []plex.Reader
	var wrs []plex.Writer
	for range 4 {
		rds, wrs = append(rds, reader(t, m)), append(wrs, writer(t, m))
	}
	isFar := func(l interface{ RemoteAddr() net.Addr }) bool { return l.RemoteAddr().String() == far }
	var waiting plex.Reader
	var writing plex.Writer
	for _, rd := range rds {
		if isFar(rd) && waiting.RemoteAddr() == nil {
			waiting = rd
			continue
		}
		require.NoError(t, rd.Close())
	}
	for _, wr := range wrs {
		if isFar(wr) && writing.RemoteAddr() == nil && wr.LocalAddr() != waiting.LocalAddr() {
			writing = wr
			continue
		}
		require.NoError(t, wr.Close())
	}
	// Deadlines that are far away, so that a timeout could be taken for theirs.
	require.NoError(t, waiting.SetReadDeadline(time.Now().Add(time.Hour)))
	require.NoError(t, writing.SetWriteDeadline(time.Now().Add(time.Hour)))
	server.ip(t, "link", "set", "plex1", "down")
	pulled := time.Now()

	verdicts := make(chan error, 2)
	go func() {
		_, err := waiting.Read(make([]byte, 1))
		if again := waiting.Err(); again != err {
			t.Errorf("the connection is not lost by %v: %v", err, again)
		}
		verdicts <- err
	}()
	go func() {
		for {
			if _, err := writing.Write(make([]byte, 1000)); err != nil {
				if again := writing.Err(); again != err {
					t.Errorf("the connection is not lost by %v: %v", err, again)
				}
				verdicts <- err
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	// Meanwhile the healthy connection goes on as if nothing had happened.
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var turns, before atomic.Int32 // all, and those before the first verdict
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			rd, err := m.Reader(t.Context(), patience)
			if err != nil {
				t.Errorf("a reader beside the black hole: %v", err)
				return
			}
			wr, err := m.Writer(t.Context(), patience)
			if err != nil {
				t.Errorf("a writer beside the black hole: %v", err)
			} else {
				if !isFar(rd) && rd.LocalAddr() == wr.LocalAddr() {
					buf := make([]byte, 4)
					if _, err := wr.Write([]byte("echo")); err != nil {
						t.Errorf("write: %v", err)
					}
					if _, err := io.ReadFull(rd, buf); err != nil {
						t.Errorf("read: %v", err)
					}
					turns.Add(1)
				}
				_ = wr.Close()
			}
			_ = rd.Close()
			time.Sleep(time.Millisecond)
		}
	})

	for range 2 {
		err := <-verdicts
		before.CompareAndSwap(0, turns.Load())
		require.True(t, errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH), "the kernel's verdict, not %v", err)
	}
	require.Greater(t, time.Since(pulled), time.Second)
	eventually(t, func() bool { s := m.Stats(); return s.Lost == 3 && s.Healed == 3 && s.Open == 4 }, "the idle one, too, is replaced")
	close(stop)
	wg.Wait()
	require.Positive(t, before.Load(), "the pool stood still until the kernel had made up its mind")
	require.NoError(t, waiting.Close())
	require.NoError(t, writing.Close())
	require.NoError(t, check.Live(t.Context(), m, 4, patience))
	for range 4 {
		rd := reader(t, m)
		require.False(t, isFar(rd), "a dead connection was leased")
		require.NoError(t, rd.Close())
	}
}

// The same with DialTCP: a user timeout alone is enough for both, data on its way and none.
// Catches: a user timeout without keep-alive, or with one that asks after minutes, so that an idle connection stays.
func TestFaultBlackHoleWithDialTCP(t *testing.T) {
	balance(t)
	client, server := cable(t)
	far := server.listen(t, "10.77.0.2:0", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	near := client.listen(t, "127.0.0.1:0", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })

	const timeout = 2 * time.Second
	dialFar := plex.DialTCP(far, plex.UserTimeout(timeout))
	dialNear := plex.DialTCP(near, plex.UserTimeout(timeout))
	var dials atomic.Int32
	m := newMux(t, plex.WithMaxCapacity(2), plex.WithMinConnections(2), plex.WithBackoff(quick),
		plex.WithConnector(func(ctx context.Context, conn net.Conn) (err error) {
			connect := dialNear
			if dials.Add(1) <= 2 {
				connect = dialFar
			}
			client.do(func() { err = connect(ctx, conn) })
			return err
		}))
	sending, idle := writer(t, m), writer(t, m)
	require.Equal(t, far, sending.RemoteAddr().String())
	require.Equal(t, far, idle.RemoteAddr().String())
	name := idle.Conn()
	require.NoError(t, idle.Close())

	server.ip(t, "link", "set", "plex1", "down")
	pulled := time.Now()
	_, err := sending.Write(make([]byte, 1000))
	require.NoError(t, err, "the kernel takes it")
	<-sending.Done()
	require.NoError(t, sending.Close())
	eventually(t, func() bool { s := m.Stats(); return s.Lost == 2 && s.Healed == 2 && s.Open == 2 }, "both are replaced")
	require.GreaterOrEqual(t, time.Since(pulled), timeout)
	for _, err := range []error{sending.Err(), name.Info().Err} {
		require.True(t, errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH), "the kernel's verdict, not %v", err)
	}
}
