package faulttest_test

// What consumers do with their leases: leave, forget, close twice, close in the middle.

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Row "ctx cancelled in a stream": unread bytes stay for the next lease.
// Catches: the reply to one request read by the next (CVE-2023-28858, CVE-2025-47907), bytes dropped with the channel.
func TestFaultContextCancelledInAStream(t *testing.T) {
	w := oracled(t, 1, proxy.Config{}, func(p *check.Peer) { p.Chunk = 700 })
	m := w.mux()
	rng := random(t)
	const rounds = 400
	for i := range rounds {
		rd := w.book.Reader(reader(t, m))
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(300))*time.Microsecond)
		take := rng.IntN(200)
		switch rng.IntN(3) {
		case 0:
			if ch, err := rd.Recv(ctx, rng.IntN(1000)); err == nil {
				for b := range ch {
					rd.Took([]byte{b})
					if take--; take < 0 {
						break // the rest stays in the channel
					}
				}
			}
		case 1:
			if ch, err := rd.RecvChunks(ctx, 1+rng.IntN(2000)); err == nil {
				for chunk := range ch {
					rd.Took(chunk)
					if take -= 50; take < 0 {
						break
					}
				}
			}
		case 2: // both, and a Read after them in the same lease
			if ch, err := rd.RecvChunks(ctx, 100); err == nil {
				<-ctx.Done()
				for chunk := range ch { // what the channel holds can still be taken
					rd.Took(chunk)
					if take -= 50; take < 0 {
						break
					}
				}
				for { // until the stream has taken notice of its ctx
					if _, err := rd.Read(make([]byte, 1+rng.IntN(300))); !errors.Is(err, plex.ErrStreaming) {
						require.NoError(t, err)
						break
					}
				}
			}
		}
		if rng.IntN(2) == 0 {
			cancel()
		}
		require.NoError(t, rd.Close())
		cancel()
		require.NoError(t, w.book.Err(), "round %d", i)
	}
	require.Zero(t, m.Stats().Lost, "a ctx says nothing about the connection")
	require.Equal(t, 1, w.book.Entered())
}

// Row "a deadline left behind": cleared on the way back and on the way out.
// Catches: the deadline of one consumer that ends the read of the next (fasthttp, go-redis), also when it is plex's own,
// set to interrupt.
func TestFaultADeadlineLeftBehind(t *testing.T) {
	w := newWorld(t, 1, proxy.Config{Handler: func(c *proxy.Conn) {
		buf := make([]byte, 100)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			time.Sleep(100 * time.Microsecond) // so that the reader blocks
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}})
	m := w.mux()
	rng := random(t)
	for i := range 300 {
		rd, wr := reader(t, m), writer(t, m)
		switch i % 4 {
		case 0: // long past
			require.NoError(t, rd.SetReadDeadline(time.Unix(1, 0)))
			require.NoError(t, wr.SetWriteDeadline(time.Unix(1, 0)))
			_, err := rd.Read(make([]byte, 1))
			require.True(t, isTimeout(err), "%v", err)
			_, err = wr.Write([]byte("x"))
			require.True(t, isTimeout(err), "%v", err)
		case 1: // about to pass, and passing while the next has the half
			d := time.Now().Add(time.Duration(rng.IntN(500)) * time.Microsecond)
			require.NoError(t, rd.SetReadDeadline(d))
			require.NoError(t, wr.SetWriteDeadline(d))
		case 2: // plex's own: Close interrupts a blocked Read
			done := make(chan error, 1)
			go func() {
				_, err := rd.Read(make([]byte, 1))
				done <- err
			}()
			time.Sleep(time.Duration(rng.IntN(100)) * time.Microsecond)
			require.NoError(t, rd.Close())
			require.ErrorIs(t, <-done, plex.ErrLeaseClosed)
			rd = reader(t, m)
		case 3: // set at the moment of Close
			var wg sync.WaitGroup
			wg.Go(func() { _ = rd.SetReadDeadline(time.Unix(1, 0)) })
			wg.Go(func() { _ = wr.SetWriteDeadline(time.Unix(1, 0)) })
			require.NoError(t, rd.Close())
			require.NoError(t, wr.Close())
			wg.Wait()
			rd, wr = reader(t, m), writer(t, m)
		}
		require.NoError(t, rd.Close())
		require.NoError(t, wr.Close())

		rd, wr = reader(t, m), writer(t, m)
		write(t, wr, "ping")
		require.Equal(t, "ping", read(t, rd, 4))
		require.NoError(t, rd.Close())
		require.NoError(t, wr.Close())
	}
	require.Zero(t, m.Stats().Lost)
}

// Row "lease never closed": reported with its stack.
// Catches: a pool that runs dry with nobody to blame.
func TestFaultLeaseNeverClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		const threshold = time.Second
		client, server := net.Pipe()
		m := newMux(t, plex.WithConnections(client), plex.WithLeakDetection(threshold),
			plex.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		defer server.Close()
		for range 10 { // what is closed in time is not suspected
			wr := writer(t, m)
			time.Sleep(threshold / 2)
			require.NoError(t, wr.Close())
		}
		require.Zero(t, m.Stats().SuspectedLeaks)
		var forgotten plex.Reader
		forget(t, m, &forgotten)
		time.Sleep(3 * threshold)
		synctest.Wait()
		require.EqualValues(t, 1, m.Stats().SuspectedLeaks, "it is suspected")
		require.Contains(t, string(log.bytes()), "faulttest_test.forget", "who took it is in the log")
		time.Sleep(time.Hour)
		require.EqualValues(t, 1, m.Stats().SuspectedLeaks, "once")
		require.NoError(t, forgotten.Close(), "it was slow, not lost")
	})
}

func forget(t *testing.T, m *plex.Multiplexer, r *plex.Reader) {
	var err error
	*r, err = m.Reader(t.Context(), 0)
	require.NoError(t, err)
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}

// Row "Close twice, use after Close": inert, ErrLeaseClosed.
// Catches: a half put back twice (fatih/pool), which gives it to two consumers; a stale handle that reads, writes,
// closes, kills or sets a deadline for whoever has the half now.
func TestFaultCloseTwiceAndUseAfterClose(t *testing.T) {
	w := newWorld(t, 1, proxy.Config{})
	m := w.mux()
	staleR, staleW := reader(t, m), writer(t, m)
	require.NoError(t, staleR.Close())
	require.NoError(t, staleW.Close())
	stale := func() {
		for name, f := range map[string]func() error{
			"Close":            staleR.Close,
			"Close writer":     staleW.Close,
			"Kill":             staleR.Kill,
			"Kill writer":      staleW.Kill,
			"Read":             func() error { _, err := staleR.Read(make([]byte, 1)); return err },
			"Write":            func() error { _, err := staleW.Write([]byte("stale")); return err },
			"Recv":             func() error { _, err := staleR.Recv(t.Context(), 1); return err },
			"RecvChunks":       func() error { _, err := staleR.RecvChunks(t.Context(), 1); return err },
			"Send":             func() error { _, err := staleW.Send(t.Context(), 1); return err },
			"SendChunks":       func() error { _, err := staleW.SendChunks(t.Context(), 1); return err },
			"SetReadDeadline":  func() error { return staleR.SetReadDeadline(time.Unix(1, 0)) },
			"SetWriteDeadline": func() error { return staleW.SetWriteDeadline(time.Unix(1, 0)) },
		} {
			err := f()
			require.ErrorIs(t, err, plex.ErrLeaseClosed, name)
			require.ErrorIs(t, err, net.ErrClosed, name)
		}
		<-staleW.Done()
	}
	stale()
	s := m.Stats()
	require.Equal(t, [2]int{1, 1}, [2]int{s.IdleReaders, s.IdleWriters}, "each is idle once")

	rd, wr := reader(t, m), writer(t, m)
	stale()
	_, err := m.Reader(t.Context(), -1)
	require.ErrorIs(t, err, plex.ErrTimeout, "it was put back twice")
	_, err = m.Writer(t.Context(), -1)
	require.ErrorIs(t, err, plex.ErrTimeout, "it was put back twice")
	write(t, wr, "mine")
	require.Equal(t, "mine", read(t, w.server(0), 4))
	write(t, w.server(0), "yours")
	require.Equal(t, "yours", read(t, rd, 5))

	// Beside a consumer who is using the half all the time.
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = staleR.SetReadDeadline(time.Unix(1, 0))
					_ = staleR.Close()
					_ = staleW.Kill()
					_, _ = staleR.Read(make([]byte, 1))
				}
			}
		})
	}
	for range 500 {
		write(t, w.server(0), "x")
		require.Equal(t, "x", read(t, rd, 1))
		require.NoError(t, rd.Close())
		rd = reader(t, m)
	}
	close(stop)
	wg.Wait()
	require.NoError(t, rd.Close())
	require.NoError(t, wr.Close())
	require.Zero(t, m.Stats().Lost)
}

// Row "Close during a blocked Read or Write": unblocked, waited for, then put back.
// Catches: a Read that goes on into the next lease and takes its bytes; a half put back while it is in use; a Close that
// hangs.
func TestFaultCloseDuringABlockedReadOrWrite(t *testing.T) {
	t.Run("Read", func(t *testing.T) {
		w := oracled(t, 1, proxy.Config{Script: func(int) proxy.Script { // bytes come in drops
			return proxy.Script{Steps: []proxy.Step{
				{Do: proxy.Slice, Size: 3}, {Do: proxy.Delay, For: 50 * time.Microsecond},
			}}
		}}, nil)
		m := w.mux()
		rng := random(t)
		for range 300 {
			rd := w.book.Reader(reader(t, m))
			var out atomic.Bool
			got := make(chan []byte, 1000)
			go func() {
				defer close(got)
				defer out.Store(true)
				for {
					buf := make([]byte, 100)
					n, err := rd.Reader.Read(buf)
					got <- buf[:n]
					if err != nil {
						if !errors.Is(err, plex.ErrLeaseClosed) {
							t.Errorf("read: %v", err)
						}
						return
					}
				}
			}()
			time.Sleep(time.Duration(rng.IntN(200)) * time.Microsecond)
			within(t, "Close", func() { require.NoError(t, rd.Reader.Close()) })
			// The bytes of reads that ended before the Close are this lease's, and no others come.
			for p := range got {
				rd.Took(p)
			}
			rd.Conn.Released(false)
		}
		require.Zero(t, m.Stats().Lost)
	})
	t.Run("Write", func(t *testing.T) {
		w := newWorld(t, 1, proxy.Config{}) // whose server does not read
		m := w.mux()
		torn := 0
		for range 2 {
			wr := writer(t, m)
			done := make(chan error, 1)
			var n int
			go func() {
				var err error
				n, err = wr.Write(make([]byte, 16<<20))
				done <- err
			}()
			time.Sleep(10 * time.Millisecond)
			within(t, "Close", func() { require.NoError(t, wr.Close()) })
			require.ErrorIs(t, <-done, plex.ErrLeaseClosed)
			if n > 0 { // else Close came before the Write had begun
				torn++
				w.healed(m, torn) // a torn write, so the connection goes
			}
		}
	})
	t.Run("streams", func(t *testing.T) {
		w := oracled(t, 1, proxy.Config{}, nil)
		m := w.mux()
		for range 100 {
			rd, wr := w.book.Reader(reader(t, m)), w.book.Writer(writer(t, m))
			in, err := rd.RecvChunks(t.Context(), 0)
			require.NoError(t, err)
			out, err := wr.SendChunks(t.Context(), 0)
			require.NoError(t, err)
			rd.Took(<-in)
			buf := make([]byte, 1000)
			wr.Conn.Out.Fill(buf)
			wr.Conn.Out.Wrote(len(buf))
			out <- buf
			within(t, "Close", func() {
				require.NoError(t, rd.Close())
				require.NoError(t, wr.Close(), "what was sent before is flushed")
			})
			close(out)
		}
		require.Zero(t, m.Stats().Lost)
		eventually(t, func() bool { return w.peer.Total() == 100*1000 }, "the peer has what was sent")
	})
}
